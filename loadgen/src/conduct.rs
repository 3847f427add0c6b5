//! The main thread's part of a run: phases, samples, the live line, Ctrl-C, and waiting for the end.

use crate::clock;
use crate::live::Live;
use crate::load_watch::{Sample, Usage};
use crate::plan::{DRAIN_MAX, Plan};
use crate::progress::Progress;
use crate::stop::Stop;
use std::time::{Duration, Instant};
use udp_plus::Engine;

/// How often it looks.
const TICK: Duration = Duration::from_millis(50);
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
        while !self.progress.snapshot().done && !self.is_over() && clock::now() < patience {
            self.live.update("draining", self.progress.snapshot());
            clock::sleep(Duration::from_millis(2));
        }
    }
}
