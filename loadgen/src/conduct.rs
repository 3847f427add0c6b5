//! The main thread's part of a run: phases, samples, the live line, Ctrl-C, and waiting for the end.

use crate::clock;
use crate::live::Live;
use crate::load_watch::{Sample, Usage};
use crate::plan::{DRAIN_MAX, Plan};
use crate::progress::{Progress, Snapshot};
use crate::stop::Stop;
use std::time::{Duration, Instant};
use udp_plus::Engine;

/// How often it looks whether all is done.
const DRAIN_TICK: Duration = Duration::from_millis(2);
/// How often it looks.
const TICK: Duration = Duration::from_millis(50);
/// Echoes that have not come for so long do not come: the far end does not send any, or failed to.
const ECHO_PATIENCE: Duration = Duration::from_secs(10);
/// After Ctrl-C: what has not moved for so long is given up.
const STOPPED_PATIENCE: Duration = Duration::from_secs(1);
/// Generators begin with their shard's first turn.
const START_MAX: Duration = Duration::from_secs(5);

/// How a run went, as seen from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conducted {
    /// Of the window.
    pub usage: Usage,
    /// Someone asked for an early end.
    pub interrupted: bool,
}

/// Sees a run through: returns when nothing is under way any more, or never will be.
pub fn conduct(plan: &Plan, progress: &Progress, engines: &[&Engine], stop: &Stop) -> Conducted {
    let mut live = Live::new();
    let mut watch = Watch { progress, engines, stop, live: &mut live, interrupted: false };
    let patience = clock::now() + START_MAX;
    while !progress.has_started() && clock::now() < patience && !watch.is_over() {
        clock::sleep(Duration::from_millis(1));
    }
    let begin = clock::now();
    watch.until("warm-up", begin + plan.warm_up);
    let before = Sample::now();
    watch.until("measuring", begin + plan.warm_up + plan.duration);
    let usage = Sample::now().since(&before);
    watch.until_done(clock::now() + DRAIN_MAX);
    let interrupted = watch.interrupted;
    live.finish();
    Conducted { usage, interrupted }
}

struct Watch<'a> {
    progress: &'a Progress,
    engines: &'a [&'a Engine],
    stop: &'a Stop,
    live: &'a mut Live,
    interrupted: bool,
}

impl Watch<'_> {
    /// An engine failed: there is nothing to wait for.
    fn is_over(&self) -> bool {
        self.engines.iter().any(|engine| engine.failure().is_some())
    }

    /// Lets a phase pass, or cuts it short.
    fn until(&mut self, phase: &str, end: Instant) {
        while !self.interrupted && !self.is_over() {
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return;
            }
            if self.stop.wait_for(left.min(TICK)) {
                self.interrupted = true;
                self.progress.stop();
                // Generators that wait for a message or a due time must hear of it.
                self.engines.iter().for_each(|engine| engine.wake());
                return;
            }
            self.live.update(phase, self.progress.snapshot());
        }
    }

    fn until_done(&mut self, patience: Instant) {
        // A shard in which nothing happens any more has not noticed yet that it is over.
        self.engines.iter().for_each(|engine| engine.wake());
        let mut drain = Drain::new(self.progress.snapshot(), clock::now());
        loop {
            let snapshot = self.progress.snapshot();
            let now = clock::now();
            let given_up = now >= patience || drain.is_hopeless(snapshot, now, self.stop.is_requested());
            if snapshot.done || self.is_over() || given_up {
                return;
            }
            self.live.update("draining", snapshot);
            if self.stop.is_requested() {
                // It would return at once.
                clock::sleep(DRAIN_TICK);
            } else {
                self.stop.wait_for(DRAIN_TICK);
            }
        }
    }
}

/// Whether what is under way still moves.
struct Drain {
    last: Snapshot,
    moved_at: Instant,
    stopped_at: Option<Instant>,
}

impl Drain {
    const fn new(snapshot: Snapshot, now: Instant) -> Self {
        Self { last: snapshot, moved_at: now, stopped_at: None }
    }

    /// Nothing more is to be expected. Without Ctrl-C every message is waited for: the engine ends each at its deadline.
    /// Echoes have none.
    fn is_hopeless(&mut self, snapshot: Snapshot, now: Instant, stopped: bool) -> bool {
        if snapshot != self.last {
            (self.last, self.moved_at) = (snapshot, now);
        }
        if stopped && self.stopped_at.is_none() {
            self.stopped_at = Some(now);
        }
        let still = now.duration_since(self.moved_at.max(self.stopped_at.unwrap_or(self.moved_at)));
        let patience = match self.stopped_at {
            Some(_) => STOPPED_PATIENCE,
            None if snapshot.unended == 0 => ECHO_PATIENCE,
            None => return false,
        };
        still >= patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_waits_for_outcomes_longer_than_for_echoes_and_hardly_after_ctrl_c() {
        let begin = clock::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let look = |outstanding, unended| Snapshot { outstanding, unended, ..Snapshot::default() };
        let mut drain = Drain::new(look(9, 1), begin);
        assert!(!drain.is_hopeless(look(9, 1), at(100.0), false), "the engine ends it");
        assert!(!drain.is_hopeless(look(9, 0), at(100.1), false));
        assert!(!drain.is_hopeless(look(8, 0), at(110.0), false), "an echo came");
        assert!(!drain.is_hopeless(look(8, 0), at(119.9), false));
        assert!(drain.is_hopeless(look(8, 0), at(120.0), false));
        let mut drain = Drain::new(look(9, 9), begin);
        assert!(!drain.is_hopeless(look(9, 9), at(5.0), true), "a moment after Ctrl-C");
        assert!(!drain.is_hopeless(look(8, 8), at(5.9), true), "it moves");
        assert!(!drain.is_hopeless(look(8, 8), at(6.8), true));
        assert!(drain.is_hopeless(look(8, 8), at(6.9), true));
    }
}
