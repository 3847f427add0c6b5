//! A program that does nothing but look at the clock, on each core at once: whatever it misses, every program misses. Latencies
//! above the share that is lost say something about the machine, not about what is measured on it. (The idea is jHiccup's.)

use crate::baseline::pin;
use crate::clock;
use serde::Serialize;
use std::time::Duration;

/// Shorter ones are interrupts.
const GAP_MIN: Duration = Duration::from_micros(100);

/// What one core missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Hiccups {
    /// Which.
    pub core: usize,
    /// How long it was watched.
    pub watched_s: f64,
    /// Times at which the clock was not looked at for 100 us or more.
    pub gaps: u64,
    /// Their sum.
    pub lost_s: f64,
    /// The longest.
    pub longest_s: f64,
}

/// Watches these cores for so long, all at once.
pub fn watch(cores: &[usize], time: Duration) -> Vec<Hiccups> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores.iter().map(|&core| scope.spawn(move || watch_one(core, time))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

fn watch_one(core: usize, time: Duration) -> Hiccups {
    pin(core);
    let began = clock::now();
    let mut hiccups = Hiccups { core, ..Hiccups::default() };
    let mut last = began;
    while last.duration_since(began) < time {
        let now = clock::now();
        hiccups.note(now.duration_since(last));
        last = now;
    }
    hiccups.watched_s = last.duration_since(began).as_secs_f64();
    hiccups
}

impl Hiccups {
    fn note(&mut self, gap: Duration) {
        if gap >= GAP_MIN {
            self.gaps += 1;
            self.lost_s += gap.as_secs_f64();
            self.longest_s = self.longest_s.max(gap.as_secs_f64());
        }
    }

    /// The share of the time that was lost.
    pub fn share(&self) -> f64 {
        if self.watched_s > 0.0 { self.lost_s / self.watched_s } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_noted_and_ordinary_looks_are_not() {
        let mut hiccups = Hiccups { watched_s: 0.1, ..Hiccups::default() };
        [1, 99, 100, 4_900, 30].iter().for_each(|&us| hiccups.note(Duration::from_micros(us)));
        assert_eq!((hiccups.gaps, hiccups.longest_s), (2, 0.0049));
        assert!((hiccups.share() - 0.05).abs() < 1e-9);
    }

    #[test]
    fn each_core_is_watched_for_as_long_as_asked() {
        let all = watch(&[0], Duration::from_millis(20));
        assert!(all.len() == 1 && all[0].watched_s >= 0.02 && all[0].core == 0);
    }
}
