//! What a generator and a server have to show for themselves at the end. Filled without locks or allocation, merged by
//! the main thread.

use crate::audit::Audit;
use crate::bitmap::Bitmap;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Longest latency told apart; longer ones count as this.
const LATENCY_NS_MAX: u64 = 200_000_000_000;

/// An empty latency histogram, in nanoseconds, three digits, all of its memory taken.
pub fn latency_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that hdrhistogram accepts")]
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds")
}

/// The sending side's books.
#[derive(Debug)]
pub struct ClientRecord {
    /// Messages the engine accepted, or refused for good.
    pub offered: u64,
    /// With a fixed rate: messages that were due within the window, or before, and never put.
    pub not_offered: u64,
    /// Those that ended Delivered.
    pub delivered: u64,
    /// Those that did not, by cause.
    pub failed: BTreeMap<&'static str, u64>,
    /// Outcomes that became Delivered inside the window.
    pub delivered_in_window: u64,
    /// Of messages put (or due) inside the window.
    pub latency: Histogram<u64>,
    /// With a fixed rate: how late messages were put.
    pub lateness: Histogram<u64>,
    /// Numbers of delivered messages.
    pub delivered_numbers: Bitmap,
    /// Echoes that came back.
    pub echoes: Audit,
    /// The measured window, as it was, on the generators' clock.
    pub window_ns: (u64, u64),
}

impl ClientRecord {
    /// Empty books with room for `numbers` messages taken in advance.
    pub fn new(echoes: Audit, numbers: u64) -> Self {
        Self {
            offered: 0,
            not_offered: 0,
            delivered: 0,
            failed: BTreeMap::new(),
            delivered_in_window: 0,
            latency: latency_histogram(),
            lateness: latency_histogram(),
            delivered_numbers: Bitmap::with_stock(numbers),
            echoes,
            window_ns: (0, 0),
        }
    }

    /// All failures together.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Takes over another generator's books.
    pub fn merge(&mut self, other: &Self) {
        self.offered += other.offered;
        self.not_offered += other.not_offered;
        self.delivered += other.delivered;
        self.delivered_in_window += other.delivered_in_window;
        for (cause, count) in &other.failed {
            *self.failed.entry(cause).or_default() += count;
        }
        // Same bounds: cannot fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.lateness.add(&other.lateness);
        self.delivered_numbers.merge(&other.delivered_numbers);
        self.echoes.merge(&other.echoes);
        self.window_ns.0 = self.window_ns.0.max(other.window_ns.0);
        self.window_ns.1 = self.window_ns.1.max(other.window_ns.1);
    }
}

/// The receiving side's books.
#[derive(Debug, Default)]
pub struct ServerRecord {
    /// What came.
    pub audit: Audit,
    /// Echoes that were not delivered, by cause.
    pub echo_failed: BTreeMap<&'static str, u64>,
}

impl ServerRecord {
    /// Takes over another receiver's books.
    pub fn merge(&mut self, other: &Self) {
        self.audit.merge(&other.audit);
        for (cause, count) in &other.echo_failed {
            *self.echo_failed.entry(cause).or_default() += count;
        }
    }
}

/// Where actors leave their books when they are dropped.
#[derive(Debug)]
pub struct Desk<T>(Mutex<Vec<T>>);

impl<T> Default for Desk<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Desk<T> {
    /// Leaves one.
    pub fn leave(&self, record: T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// Takes all that were left.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
