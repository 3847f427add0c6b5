//! What generators tell while they run, and how they are told to stop. Plain stores to lines of their own; nobody waits.

use crate::intervals::Exchange;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The state of one run, shared by its generators and the main thread.
#[derive(Debug)]
pub struct Progress {
    started_at_ns: OnceLock<u64>,
    /// All generators are there, so the first may begin.
    open: AtomicBool,
    stop: AtomicBool,
    generators: Box<[GeneratorProgress]>,
    /// Latencies, second by second.
    pub exchange: Exchange,
}

/// One generator's part, on its own cache lines (two: the prefetcher fetches pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct GeneratorProgress {
    delivered: AtomicU64,
    failed: AtomicU64,
    outstanding: AtomicU64,
    unended: AtomicU64,
    done: AtomicBool,
}

/// A look at one generator, or at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Messages delivered so far.
    pub delivered: u64,
    /// Messages that failed so far.
    pub failed: u64,
    /// Messages under way.
    pub outstanding: u64,
    /// Those of them without an outcome; the others wait for their echo.
    pub unended: u64,
    /// All have stopped offering and nothing is under way.
    pub done: bool,
}

impl Progress {
    /// For `generators` generators.
    pub fn new(generators: usize) -> Self {
        Self {
            started_at_ns: OnceLock::new(),
            open: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            generators: (0..generators).map(|_| GeneratorProgress::default()).collect(),
            exchange: Exchange::new(generators),
        }
    }

    /// The same; nobody begins before [`open`](Self::open).
    pub fn closed(generators: usize) -> Self {
        Self { open: AtomicBool::new(false), ..Self::new(generators) }
    }

    /// Lets the generators begin, at their next turn.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Whether they may.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// The start of the warm-up, on the generators' clock: the first one to ask decides.
    pub fn start_ns(&self, now_ns: u64) -> u64 {
        *self.started_at_ns.get_or_init(|| now_ns)
    }

    /// The first generator has begun.
    pub fn has_started(&self) -> bool {
        self.started_at_ns.get().is_some()
    }

    /// Asks the generators to offer nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Called by generator `index` alone.
    pub fn publish(&self, index: usize, own: Snapshot) {
        let place = &self.generators[index];
        place.delivered.store(own.delivered, Ordering::Relaxed);
        place.failed.store(own.failed, Ordering::Relaxed);
        place.outstanding.store(own.outstanding, Ordering::Relaxed);
        place.unended.store(own.unended, Ordering::Relaxed);
        place.done.store(own.done, Ordering::Release);
    }

    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        let nothing = Snapshot { done: true, ..Snapshot::default() };
        self.generators.iter().fold(nothing, |sum, place| Snapshot {
            done: sum.done && place.done.load(Ordering::Acquire),
            delivered: sum.delivered + place.delivered.load(Ordering::Relaxed),
            failed: sum.failed + place.failed.load(Ordering::Relaxed),
            outstanding: sum.outstanding + place.outstanding.load(Ordering::Relaxed),
            unended: sum.unended + place.unended.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn done_when_all_are() {
        let progress = Progress::new(2);
        assert_eq!((progress.start_ns(5), progress.start_ns(9)), (5, 5));
        let done = Snapshot { delivered: 10, failed: 1, done: true, ..Snapshot::default() };
        progress.publish(0, done);
        assert!(!progress.snapshot().done);
        progress.publish(1, done);
        assert_eq!(progress.snapshot(), Snapshot { delivered: 20, failed: 2, ..done });
    }
}
