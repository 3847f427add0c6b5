//! The receiving side's own books: every payload checked in full, every number ticked off once.

use crate::bitmap::{Bitmap, NUMBER_MAX};
use crate::payload::{self, Stamp};

/// Runs a standing server audits. More at once than this are only counted.
const RUNS_MAX: usize = 64;

/// What is expected, where both ends are known.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The run's number.
    pub run: u32,
    /// Bytes of every payload.
    pub size: usize,
}

/// The books of one receiver. Owned by one thread; merged at the end.
#[derive(Debug, Default)]
pub struct Audit {
    expected: Option<Expected>,
    runs: Vec<(u32, Bitmap)>,
    /// Messages received, whatever they are.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// Messages received before.
    pub duplicates: u64,
    /// Messages that are not what was sent. Without `expected` nobody knows: they are `foreign`.
    pub corrupted: u64,
    /// Messages of no load generator, or of one too many.
    pub foreign: u64,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Intact and new.
    New(Stamp),
    /// Intact, and seen before.
    Again,
    /// Not what was sent, or not ours.
    Bad,
}

impl Audit {
    /// Books for one known run, with room for `numbers` messages taken in advance.
    pub fn of_run(expected: Expected, numbers: u64) -> Self {
        let runs = vec![(expected.run, Bitmap::with_stock(numbers))];
        Self { expected: Some(expected), runs, ..Self::default() }
    }

    /// Books for whoever comes.
    pub fn of_all() -> Self {
        Self::default()
    }

    /// Enters one message.
    #[inline]
    pub fn enter(&mut self, payload: &[u8]) -> Seen {
        self.received += 1;
        self.received_bytes += payload.len() as u64;
        let stamp = match (payload::check(payload), self.expected) {
            (Some(stamp), None) => stamp,
            (Some(stamp), Some(expected)) if stamp.run == expected.run && payload.len() == expected.size => {
                stamp
            }
            (_, expected) => {
                *(if expected.is_some() { &mut self.corrupted } else { &mut self.foreign }) += 1;
                return Seen::Bad;
            }
        };
        if stamp.number > NUMBER_MAX {
            self.foreign += 1;
            return Seen::Bad;
        }
        match self.bitmap(stamp.run) {
            None => {
                self.foreign += 1;
                Seen::Bad
            }
            Some(bitmap) => {
                if bitmap.insert(stamp.number) {
                    return Seen::New(stamp);
                }
                self.duplicates += 1;
                Seen::Again
            }
        }
    }

    fn bitmap(&mut self, run: u32) -> Option<&mut Bitmap> {
        let index = match self.runs.iter().position(|row| row.0 == run) {
            Some(index) => index,
            None if self.runs.len() < RUNS_MAX => {
                self.runs.push((run, Bitmap::default()));
                self.runs.len() - 1
            }
            None => return None,
        };
        Some(&mut self.runs[index].1)
    }

    /// Takes over another receiver's books; what both saw is a duplicate.
    pub fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.duplicates += other.duplicates;
        self.corrupted += other.corrupted;
        self.foreign += other.foreign;
        for (run, theirs) in &other.runs {
            let twice = self.bitmap(*run).map(|ours| ours.merge(theirs));
            self.duplicates += twice.unwrap_or(0);
        }
    }

    /// The numbers seen of `run`.
    pub fn seen(&self, run: u32) -> Option<&Bitmap> {
        self.runs.iter().find(|row| row.0 == run).map(|row| &row.1)
    }

    /// How many runs left a trace.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(run: u32, number: u64, size: usize) -> Vec<u8> {
        let mut payload = vec![0; size];
        payload::fill(&mut payload, Stamp { run, slot: 1, number });
        payload
    }

    #[test]
    fn once_twice_damaged_and_foreign() {
        let mut audit = Audit::of_run(Expected { run: 5, size: 64 }, 1_000);
        let good = message(5, 9, 64);
        assert_eq!(audit.enter(&good), Seen::New(Stamp { run: 5, slot: 1, number: 9 }));
        assert_eq!(audit.enter(&good), Seen::Again);
        let mut bad = message(5, 10, 64);
        bad[40] ^= 1;
        assert_eq!(audit.enter(&bad), Seen::Bad);
        assert_eq!(audit.enter(&message(5, 11, 65)), Seen::Bad);
        assert_eq!(audit.enter(&message(6, 11, 64)), Seen::Bad);
        assert_eq!((audit.received, audit.duplicates, audit.corrupted, audit.foreign), (5, 1, 3, 0));
        assert_eq!(audit.seen(5).map(Bitmap::count), Some(1));
    }

    #[test]
    fn two_receivers_of_the_same_message_make_a_duplicate() {
        let expected = Expected { run: 5, size: 64 };
        let (mut a, mut b) = (Audit::of_run(expected, 0), Audit::of_run(expected, 0));
        for number in 0..100 {
            a.enter(&message(5, number, 64));
            b.enter(&message(5, number + 99, 64));
        }
        a.merge(&b);
        assert_eq!((a.received, a.duplicates), (200, 1));
        assert_eq!(a.seen(5).map(Bitmap::count), Some(199));
    }

    #[test]
    fn a_standing_server_keeps_the_runs_apart_and_bounded() {
        let mut audit = Audit::of_all();
        for run in 0..70 {
            audit.enter(&message(run, 0, 100));
        }
        audit.enter(b"hello");
        assert_eq!((audit.received, audit.duplicates, audit.run_count()), (71, 0, RUNS_MAX));
        assert_eq!(audit.foreign, 70 - RUNS_MAX as u64 + 1);
    }
}
