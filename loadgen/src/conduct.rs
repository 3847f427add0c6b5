//! The main thread's part of a run: phases, samples, the live line, Ctrl-C, and waiting for the end.

use crate::clock;
use crate::intervals::{Counts, Ended, Intervals};
use crate::live::Live;
use crate::load_watch::{Sample, Usage};
use crate::plan::{DRAIN_MAX, Plan};
use crate::progress::{Progress, Snapshot};
use crate::record::{ClientRecord, latency_histogram};
use crate::stop::Stop;
use hdrhistogram::Histogram;
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

/// An interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// What takes part in a run, as whoever conducts it sees it.
pub trait Party {
    /// Why it does not work any more.
    fn failure(&self) -> Option<String>;
    /// Packets that the kernel dropped at its sockets; `None`: unknown.
    fn kernel_drops(&self) -> Option<u64>;
    /// Has its generators look how things stand, even if nothing comes.
    fn wake(&self);
}

impl Party for Engine {
    fn failure(&self) -> Option<String> {
        self.failure()
    }

    fn kernel_drops(&self) -> Option<u64> {
        self.stats().kernel_drops
    }

    fn wake(&self) {
        self.wake();
    }
}

/// How a run went, as seen from outside.
#[derive(Debug)]
pub struct Conducted {
    /// Of the window.
    pub usage: Usage,
    /// Someone asked for an early end.
    pub interrupted: bool,
    /// The run second by second.
    pub intervals: Intervals,
    cuts: Cuts,
}

impl Conducted {
    /// Brings the latencies that were fetched while the run went on to the generators' books, and what these had left to the
    /// intervals, as the last one.
    pub fn complete(&mut self, record: &mut ClientRecord, kernel_drops: Option<u64>) {
        let ended = Ended { delivered: record.delivered, failed: record.failed_total() };
        // Same bounds: cannot fail.
        let _ = self.cuts.pending.add(&record.latency);
        self.cuts.emit(clock::now(), ended, 0, kernel_drops, &mut self.intervals);
        std::mem::swap(&mut self.cuts.total, &mut record.latency);
    }
}

/// The cutting of a run into intervals.
#[derive(Debug)]
struct Cuts {
    begin: Instant,
    /// When the interval under way began, and what had been counted then.
    from: Instant,
    before: Ended,
    drops_before: u64,
    /// When its end was asked for; not everyone has answered yet.
    asked: Option<Instant>,
    /// Latencies of it that were fetched.
    pending: Histogram<u64>,
    /// Those of all intervals before.
    total: Histogram<u64>,
}

impl Cuts {
    fn new(now: Instant) -> Self {
        Self {
            begin: now,
            from: now,
            before: Ended::default(),
            drops_before: 0,
            asked: None,
            pending: latency_histogram(),
            total: latency_histogram(),
        }
    }

    /// Ends the interval under way at `to`, by when so many messages have `ended`; returns its p50 and p99.
    fn emit(
        &mut self,
        to: Instant,
        ended: Ended,
        in_flight: u64,
        kernel_drops: Option<u64>,
        into: &mut Intervals,
    ) -> Option<[u64; 2]> {
        let counts = Counts {
            delivered: ended.delivered.saturating_sub(self.before.delivered),
            failed: ended.failed.saturating_sub(self.before.failed),
            in_flight,
            kernel_drops: kernel_drops.map(|drops| drops.saturating_sub(self.drops_before)),
        };
        let [from, end] = [self.from, to].map(|at| at.saturating_duration_since(self.begin));
        into.add(from, end, &self.pending, counts);
        let latency = (!self.pending.is_empty())
            .then(|| [0.5, 0.99].map(|quantile| self.pending.value_at_quantile(quantile)));
        let _ = self.total.add(&self.pending);
        self.pending.reset();
        (self.from, self.before, self.asked) = (to, ended, None);
        self.drops_before = kernel_drops.unwrap_or(0);
        latency
    }
}

/// Sees a run through: returns when nothing is under way any more, or never will be.
pub fn conduct(plan: &Plan, progress: &Progress, parties: &[&dyn Party], stop: &Stop) -> Conducted {
    let mut watch = Watch {
        progress,
        parties,
        stop,
        live: Live::new(plan.warm_up + plan.duration),
        cuts: Cuts::new(clock::now()),
        intervals: Intervals::default(),
        interrupted: false,
    };
    let patience = clock::now() + START_MAX;
    while !progress.has_started() && clock::now() < patience && !watch.is_over() {
        clock::sleep(Duration::from_millis(1));
    }
    let begin = clock::now();
    watch.cuts = Cuts::new(begin);
    watch.until("warm-up", begin + plan.warm_up);
    let before = Sample::now();
    watch.until("measuring", begin + plan.warm_up + plan.duration);
    let usage = Sample::now().since(&before);
    watch.until_done(clock::now() + DRAIN_MAX);
    watch.live.finish();
    let Watch { cuts, intervals, interrupted, .. } = watch;
    Conducted { usage, interrupted, intervals, cuts }
}

struct Watch<'a> {
    progress: &'a Progress,
    parties: &'a [&'a dyn Party],
    stop: &'a Stop,
    live: Live,
    cuts: Cuts,
    intervals: Intervals,
    interrupted: bool,
}

impl Watch<'_> {
    /// A party failed: there is nothing to wait for.
    fn is_over(&self) -> bool {
        self.parties.iter().any(|party| party.failure().is_some())
    }

    /// Packets dropped at all our sockets.
    fn kernel_drops(&self) -> Option<u64> {
        self.parties.iter().map(|party| party.kernel_drops()).sum()
    }

    /// Fetches what generators have handed over, ends an interval that is complete, asks for the end of one that is due.
    fn cut(&mut self) {
        let ended = self.progress.exchange.collect(&mut self.cuts.pending);
        if let (Some(asked), Some(ended)) = (self.cuts.asked, ended) {
            let drops = self.kernel_drops();
            let in_flight = self.progress.snapshot().outstanding;
            let latency = self.cuts.emit(asked, ended, in_flight, drops, &mut self.intervals);
            self.live.tell(latency, drops);
        }
        let now = clock::now();
        if self.cuts.asked.is_none() && now.duration_since(self.cuts.from) >= INTERVAL {
            self.progress.exchange.cut();
            self.cuts.asked = Some(now);
            // One in which nothing happens would not look.
            self.parties.iter().for_each(|party| party.wake());
        }
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
                self.parties.iter().for_each(|party| party.wake());
                return;
            }
            self.cut();
            self.live.update(phase, self.progress.snapshot());
        }
    }

    fn until_done(&mut self, patience: Instant) {
        // A shard in which nothing happens any more has not noticed yet that it is over.
        self.parties.iter().for_each(|party| party.wake());
        let mut drain = Drain::new(self.progress.snapshot(), clock::now());
        loop {
            let snapshot = self.progress.snapshot();
            let now = clock::now();
            let given_up = now >= patience || drain.is_hopeless(snapshot, now, self.stop.is_requested());
            if snapshot.done || self.is_over() || given_up {
                return;
            }
            self.cut();
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
