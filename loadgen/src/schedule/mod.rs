//! When messages are due. An open loop has absolute times, fixed in advance: a stall delays messages, and each of them
//! counts its delay; the schedule never slides.
//!
//! Rate and process are apart. The rate's course ([`Profile`]) says how many messages are due by when; the process
//! ([`Arrivals`]) says which counts these are: whole numbers, multiples of a burst, or the sums of exponential gaps, which
//! makes a Poisson process of any course (time change: Cinlar, *Introduction to Stochastic Processes*, 1975, 4.7).

mod rates;
#[cfg(test)]
mod tests;
mod trace;

use crate::sizes::scatter;
pub use rates::{Profile, Rates};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
pub use trace::Trace;

/// Longest burst: what an engine of a default size has under way.
const BURST_MAX: u32 = 65_536;

/// Of random arrivals the way back is known from every so many messages on: so many is all that counting goes through again.
const MARK_EVERY: u64 = 1 << 18;

/// How messages follow each other at a given rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// At equal distances.
    Even,
    /// Each at a time of its own, whenever the others are.
    Poisson,
    /// So many at once, then none for as long as these take.
    Burst(u32),
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "even" => Ok(Self::Even),
            None if text == "poisson" => Ok(Self::Poisson),
            Some(("burst", count)) => match count.parse() {
                Ok(count) if (1..=BURST_MAX).contains(&count) => Ok(Self::Burst(count)),
                _ => Err(format!("{count:?} is no number of messages from 1 to {BURST_MAX}")),
            },
            _ => Err(format!("{text:?} is none of even, poisson and burst:COUNT")),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Even => f.write_str("even"),
            Self::Poisson => f.write_str("poisson"),
            Self::Burst(count) => write!(f, "burst:{count}"),
        }
    }
}

/// What an open loop offers, all generators together.
#[derive(Clone, Debug)]
pub struct OpenLoop {
    course: Course,
    arrivals: Arrivals,
    /// Messages per second of the window.
    pub mean_rate: f64,
    /// The most messages that are due within any second or so.
    pub peak_rate: f64,
}

#[derive(Clone, Debug)]
enum Course {
    Rates(Arc<Profile>),
    /// So many messages in a warm-up of so many nanoseconds, and then these.
    Trace {
        warm_up_ns: u64,
        warm_up_count: u64,
        trace: Arc<Trace>,
    },
}

impl OpenLoop {
    /// As the flags say; `None`: a closed loop.
    pub fn new(
        rates: &Rates,
        arrivals: Arrivals,
        warm_up: Duration,
        duration: Duration,
    ) -> Result<Option<Self>, String> {
        if let Rates::Trace(path) = rates {
            if arrivals != Arrivals::Even {
                return Err(format!("--arrivals {arrivals} has no meaning with a trace, which has its own"));
            }
            let trace = Trace::read(path)?;
            return Ok(Some(Self::of_trace(trace, warm_up, duration)));
        }
        let Some(profile) = Profile::new(rates, warm_up, duration) else {
            return if arrivals == Arrivals::Even {
                Ok(None)
            } else {
                Err(format!("--arrivals {arrivals} needs a --rate: without one there is no schedule"))
            };
        };
        let [begin, end] = [warm_up, warm_up + duration].map(|time| time.as_nanos() as f64);
        let count = profile.count_by(end) - profile.count_by(begin);
        let peak_rate = match rates {
            &Rates::Ramp(a, b) | &Rates::Spike(a, b) => a.max(b),
            Rates::Steps(rates) => rates.iter().copied().fold(0.0, f64::max),
            _ => count / duration.as_secs_f64(),
        };
        let mean_rate = match rates {
            &Rates::Constant(rate) => rate,
            _ => count / duration.as_secs_f64(),
        };
        Ok(Some(Self { course: Course::Rates(Arc::new(profile)), arrivals, mean_rate, peak_rate }))
    }

    fn of_trace(trace: Trace, warm_up: Duration, duration: Duration) -> Self {
        let within = trace.times_ns().partition_point(|&ns| u128::from(ns) < duration.as_nanos());
        let rate = trace.mean_rate();
        let course = Course::Trace {
            warm_up_ns: u64::try_from(warm_up.as_nanos()).unwrap_or(u64::MAX),
            warm_up_count: (rate * warm_up.as_secs_f64()) as u64,
            trace: Arc::new(trace),
        };
        let mean_rate = within as f64 / duration.as_secs_f64();
        Self { course, arrivals: Arrivals::Even, mean_rate, peak_rate: mean_rate.max(rate) }
    }

    /// How messages follow each other; those of a trace as they do there.
    pub const fn arrivals(&self) -> Arrivals {
        self.arrivals
    }

    /// The part of generator `index` of `generators`, which take turns (or send what their `shares` are); `seed` makes random
    /// arrivals those of one run.
    pub fn schedule(
        &self,
        start_ns: u64,
        (generators, shares): (usize, Option<&[f64]>),
        index: usize,
        seed: u64,
    ) -> Schedule {
        let mut schedule = Schedule {
            start_ns,
            open_loop: self.clone(),
            generators: generators as u64,
            index: index as u64,
            // A share of nothing has no next message.
            share: shares.and_then(|shares| shares.get(index)).map(|share| share.max(1e-12)),
            at: Place {
                random: fastrand::Rng::with_seed(scatter(seed, index as u64)),
                offered: 0,
                position: 0.0,
                piece: 0,
                due_ns: 0,
            },
            marks: Vec::new(),
        };
        schedule.find_due();
        schedule.marks.push(schedule.at.clone());
        schedule
    }
}

/// The times at which one of several generators is to offer its messages.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    open_loop: OpenLoop,
    generators: u64,
    index: u64,
    /// `None`: as much as the others.
    share: Option<f64>,
    /// Where it stands.
    at: Place,
    /// Where it stood at the first message, and of random arrivals at every [`MARK_EVERY`]th one.
    marks: Vec<Place>,
}

/// A place in a schedule: before its next message.
#[derive(Clone, Debug)]
struct Place {
    random: fastrand::Rng,
    offered: u64,
    /// Of random arrivals: how many messages are due by the next one's time.
    position: f64,
    /// The piece of the profile that the next one is in.
    piece: usize,
    /// When the next one is due.
    due_ns: u64,
}

impl Schedule {
    /// When the next message is due; `u64::MAX`: there is none.
    pub const fn due_ns(&self) -> u64 {
        self.at.due_ns
    }

    /// The next message was offered.
    #[inline]
    pub fn advance(&mut self) {
        self.at.offered += 1;
        self.find_due();
        if self.at.offered.is_multiple_of(MARK_EVERY) && self.open_loop.arrivals == Arrivals::Poisson {
            self.marks.push(self.at.clone());
        }
    }

    /// How many messages are due before `end_ns`.
    pub fn due_before(&self, end_ns: u64) -> u64 {
        let mut again = self.back_to(end_ns);
        if self.open_loop.arrivals != Arrivals::Poisson {
            again.leap(end_ns);
        }
        while again.at.due_ns < end_ns {
            again.advance();
        }
        again.at.offered
    }

    /// The same at the last place it has been at, and knows, whose message is due before `end_ns`; or else at the first one.
    fn back_to(&self, end_ns: u64) -> Self {
        let before = self.marks.partition_point(|mark| mark.due_ns < end_ns);
        let mark = self.marks.get(before.saturating_sub(1)).unwrap_or(&self.at);
        let at = if self.at.due_ns < end_ns { &self.at } else { mark };
        Self { at: at.clone(), marks: Vec::new(), ..self.clone() }
    }

    /// To a message that is due before `end_ns`, but not by much: where times can be computed there is no need to go
    /// through all of them.
    fn leap(&mut self, end_ns: u64) {
        let ns = end_ns.saturating_sub(self.start_ns);
        let count = match &self.open_loop.course {
            Course::Rates(profile) => profile.count_by(ns as f64) as u64,
            Course::Trace { warm_up_ns, warm_up_count, trace } => match ns.checked_sub(*warm_up_ns) {
                Some(ns) => warm_up_count + trace.times_ns().partition_point(|&at| at < ns) as u64,
                None => (*warm_up_count as f64 * (ns as f64 / *warm_up_ns as f64)) as u64,
            },
        };
        let bursts = if let Arrivals::Burst(count) = self.open_loop.arrivals { u64::from(count) } else { 0 };
        let count = count.saturating_sub(bursts);
        let own = self.share.map_or(count / self.generators, |share| (count as f64 * share) as u64);
        self.at.offered = own.saturating_sub(2);
        self.at.piece = 0;
        self.find_due();
    }

    /// An `f64` holds a constant rate's times to the nanosecond for 100 days.
    #[inline]
    fn find_due(&mut self) {
        let number = self.index + self.at.offered * self.generators;
        let share = self.share.unwrap_or(1.0 / self.generators as f64);
        // Of all generators' messages together: where this one's next is. Unequal ones begin apart from each other, too.
        let count = self.share.map_or(number as f64, |share| {
            (self.at.offered as f64 + (self.index as f64 + 0.5) / self.generators as f64) / share
        });
        match &self.open_loop.course {
            Course::Rates(profile) => {
                let count = match self.open_loop.arrivals {
                    Arrivals::Even => count,
                    Arrivals::Burst(length) => count - count % f64::from(length),
                    Arrivals::Poisson => {
                        // Several generators are several processes of a part of the rate each.
                        self.at.position -= (1.0 - self.at.random.f64()).ln() / share;
                        self.at.position
                    }
                };
                self.at.due_ns = self.start_ns + profile.time_of(count, &mut self.at.piece).round() as u64;
            }
            Course::Trace { warm_up_ns, warm_up_count, trace } => {
                self.at.due_ns = match number.checked_sub(*warm_up_count) {
                    None => {
                        let share = number as f64 / *warm_up_count as f64;
                        self.start_ns + (share * *warm_up_ns as f64) as u64
                    }
                    Some(number) => match trace.times_ns().get(number as usize) {
                        Some(ns) => self.start_ns + warm_up_ns + ns,
                        None => u64::MAX,
                    },
                };
            }
        }
    }
}
