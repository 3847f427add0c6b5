//! Where a shard publishes its counters, and other threads read them.
//!
//! A sequence lock: the shard makes the version odd, writes, and makes it even again; who read while it wrote reads once more.
//! So what is read is of one moment of the shard's, and sums over it hold at any time. The shard never waits, and pays two
//! stores each time.

use super::counters::Counters;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Writing takes some 100 ns, every 32 turns. Who finds it at it more often than that waits for a writer that does not run.
const TRIES: usize = 64;

/// What is in use now, no counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Longest datagram of the binary wire in use; 0: no flow yet.
    pub(crate) datagram_bytes: u64,
    /// Operations accepted and not ended.
    pub(crate) operations_open: u64,
    /// Datagrams in trains that wait for the socket.
    pub(crate) datagrams_waiting: u64,
    /// Packets the kernel had dropped when it handed over the last one (SO_RXQ_OVFL).
    pub(crate) kernel_drops_told: u64,
}

impl Gauges {
    const COUNT: usize = 4;

    const fn values(&self) -> [u64; Self::COUNT] {
        [self.datagram_bytes, self.operations_open, self.datagrams_waiting, self.kernel_drops_told]
    }

    const fn from_values(values: [u64; Self::COUNT]) -> Self {
        let [datagram_bytes, operations_open, datagrams_waiting, kernel_drops_told] = values;
        Self { datagram_bytes, operations_open, datagrams_waiting, kernel_drops_told }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Published {
    version: AtomicU64,
    counters: [AtomicU64; Counters::COUNT],
    gauges: [AtomicU64; Gauges::COUNT],
}

impl Published {
    pub(crate) fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Called by the shard alone.
    pub(crate) fn publish(&self, counters: &Counters, gauges: &Gauges) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, value) in self.counters.iter().zip(counters.values()) {
            place.store(value, Ordering::Relaxed);
        }
        for (place, value) in self.gauges.iter().zip(gauges.values()) {
            place.store(value, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    /// What the shard published last. Waits while the shard is kept from running in the middle of it, however long that takes:
    /// half of it would be sums that do not hold.
    pub(crate) fn read(&self) -> (Counters, Gauges) {
        let mut tries = 0_usize;
        loop {
            let version = self.version.load(Ordering::Acquire);
            let mut counters = [0; Counters::COUNT];
            for (value, place) in counters.iter_mut().zip(&self.counters) {
                *value = place.load(Ordering::Relaxed);
            }
            let gauges = std::array::from_fn(|index| self.gauges[index].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            tries += 1;
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return (Counters::from_values(&counters), Gauges::from_values(gauges));
            }
            if tries.is_multiple_of(TRIES) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_read_back() {
        let counters = Counters { rows_sent: 3, parks: 1, ..Counters::default() };
        let gauges =
            Gauges { datagram_bytes: 1_472, operations_open: 5, datagrams_waiting: 7, kernel_drops_told: 9 };
        let published = Published::new();
        assert_eq!(published.read(), (Counters::default(), Gauges::default()));
        published.publish(&counters, &gauges);
        assert_eq!(published.read(), (counters, gauges));
    }

    /// The sum holds in whatever is read, while the writer pauses no longer than a reader takes for a few tries.
    #[test]
    fn what_is_read_is_of_one_moment() {
        let published = Published::new();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for count in 0..5_000 {
                    let counters = Counters {
                        messages_accepted: 2 * count,
                        messages_delivered: count,
                        ..Counters::default()
                    };
                    published.publish(&counters, &Gauges { operations_open: count, ..Gauges::default() });
                    // A shard does 32 turns. Without a pause no read would ever find it between two of them.
                    (0..2_000).for_each(|_| std::hint::spin_loop());
                }
                done.store(true, Ordering::Release);
            });
            let mut reads = 0;
            while !done.load(Ordering::Acquire) || reads < 100 {
                let (counters, gauges) = published.read();
                assert_eq!(counters.messages_accepted, counters.messages_delivered + gauges.operations_open);
                reads += 1;
            }
        });
    }
}
