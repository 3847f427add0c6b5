//! What a generator and a server have to show for themselves at the end. Filled without locks or allocation, merged by
//! the main thread.

use crate::audit::Audit;
use crate::bitmap::Bitmap;
use crate::stages::Stages;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Longest latency told apart; longer ones count as this.
pub const LATENCY_NS_MAX: u64 = 200_000_000_000;

/// An empty latency histogram, in nanoseconds, three digits, all of its memory taken.
pub fn latency_histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are constants that hdrhistogram accepts")]
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds")
}

/// Messages that ended one after another and have their two times in common: they are booked at once. They come so,
/// because messages share a look at the clock when they are put, and when they end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRun {
    /// When they were put, or due.
    pub start_ns: u64,
    /// When they ended.
    pub end_ns: u64,
    /// How many there are.
    pub count: u64,
}

impl TimeRun {
    /// Adds so many messages if they belong to the run; whether they do.
    #[inline]
    pub const fn extend(&mut self, start_ns: u64, end_ns: u64, count: u64) -> bool {
        let same = self.start_ns == start_ns && self.end_ns == end_ns;
        self.count += if same { count } else { 0 };
        same
    }

    /// Enters their latency.
    pub fn record(&self, into: &mut Histogram<u64>) {
        if self.count > 0 {
            into.saturating_record_n(self.end_ns.saturating_sub(self.start_ns).max(1), self.count);
        }
    }
}

/// The sending side's books.
#[derive(Debug)]
pub struct ClientRecord {
    /// Messages the engine accepted, or refused for good.
    pub offered: u64,
    /// With a fixed rate: messages that were due within the window, or before, and never put.
    pub not_offered: u64,
    /// Of those offered: put, or due, inside the window.
    pub offered_in_window: u64,
    /// Of those not offered: due inside the window.
    pub not_offered_in_window: u64,
    /// Those that ended Delivered.
    pub delivered: u64,
    /// Those that did not, by cause.
    pub failed: BTreeMap<&'static str, u64>,
    /// Answers that came to messages that had been given up, which stay failed.
    pub answered_late: u64,
    /// Outcomes that became Delivered inside the window.
    pub delivered_in_window: u64,
    /// Their payload bytes.
    pub delivered_bytes_in_window: u64,
    /// Of messages put (or due) inside the window that were delivered, or whose echo came.
    pub latency: Histogram<u64>,
    /// With a schedule: how late messages were put.
    pub lateness: Histogram<u64>,
    /// With a schedule: for each message put, how late it was first looked whether it is due. What the engine did not take then
    /// adds to `lateness` alone.
    pub schedule_error: Histogram<u64>,
    /// Of the same messages, if they are told apart.
    pub stages: Option<Box<Stages>>,
    /// Numbers of delivered messages.
    pub delivered_numbers: Bitmap,
    /// Echoes that came back.
    pub echoes: Audit,
    /// The measured window, as it was, on the generators' clock.
    pub window_ns: (u64, u64),
}

impl Default for ClientRecord {
    fn default() -> Self {
        Self::new(Audit::default(), 0)
    }
}

impl ClientRecord {
    /// Empty books with room for `numbers` messages taken in advance.
    pub fn new(echoes: Audit, numbers: u64) -> Self {
        Self {
            offered: 0,
            not_offered: 0,
            offered_in_window: 0,
            not_offered_in_window: 0,
            delivered: 0,
            failed: BTreeMap::new(),
            answered_late: 0,
            delivered_in_window: 0,
            delivered_bytes_in_window: 0,
            latency: latency_histogram(),
            lateness: latency_histogram(),
            schedule_error: latency_histogram(),
            stages: None,
            delivered_numbers: Bitmap::with_stock(numbers),
            echoes,
            window_ns: (0, 0),
        }
    }

    /// All failures together.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Messages put, or due, inside the window that never arrived: slower than any that did.
    pub fn undelivered(&self) -> u64 {
        (self.offered_in_window + self.not_offered_in_window).saturating_sub(self.latency.len())
    }

    /// Takes over another generator's books.
    pub fn merge(&mut self, other: &Self) {
        self.offered += other.offered;
        self.not_offered += other.not_offered;
        self.offered_in_window += other.offered_in_window;
        self.not_offered_in_window += other.not_offered_in_window;
        if let Some(theirs) = &other.stages {
            self.stages.get_or_insert_default().merge(theirs);
        }
        self.delivered += other.delivered;
        self.answered_late += other.answered_late;
        self.delivered_in_window += other.delivered_in_window;
        self.delivered_bytes_in_window += other.delivered_bytes_in_window;
        for (cause, count) in &other.failed {
            *self.failed.entry(cause).or_default() += count;
        }
        // Same bounds: cannot fail.
        let _ = self.latency.add(&other.latency);
        let _ = self.lateness.add(&other.lateness);
        let _ = self.schedule_error.add(&other.schedule_error);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every percentile is that of the latencies recorded one by one.
    #[test]
    fn runs_of_equal_times_are_all_in_the_histogram() {
        let (mut run, mut by_runs, mut one_by_one) =
            (TimeRun::default(), latency_histogram(), latency_histogram());
        let mut state: u64 = 7;
        for _ in 0..5_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // From nothing to beyond the longest one told apart, in runs of 1 to 16, some of them of equal latency.
            let (start, ns) = (state % 3, (state >> 8).checked_shr((state >> 58) as u32).unwrap_or(0));
            for _ in 0..=(state >> 32) % 16 {
                if !run.extend(start, start + ns, 1) {
                    run.record(&mut by_runs);
                    run = TimeRun { start_ns: start, end_ns: start + ns, count: 1 };
                }
                one_by_one.saturating_record(ns.max(1));
            }
        }
        run.record(&mut by_runs);
        assert_eq!(by_runs, one_by_one);
        assert_eq!((by_runs.min(), by_runs.max()), (one_by_one.min(), one_by_one.max()));
    }
}
