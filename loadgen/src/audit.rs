//! The receiving side's own books: every payload checked in full, every number ticked off once.

use crate::bitmap::{Bitmap, NUMBER_MAX};
use crate::payload::{self, Stamp};

/// Runs a standing server remembers. The one that was quiet for longest makes room for a new one.
const RUNS_MAX: usize = 64;
/// Blocks of 64 KiB a standing server takes for them: 256 MiB, two billion messages. Anyone can write numbers that take a
/// block each. With the tables of the blocks (1 MiB a run at most) a receiver stays within 320 MiB.
const BLOCKS_MAX: usize = 4_096;

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
    runs: Vec<RunBooks>,
    /// The run of the last message.
    current: usize,
    runs_forgotten: usize,
    /// Messages received, whatever they are.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// Messages received before.
    pub duplicates: u64,
    /// Messages that are not what was sent. Without `expected` nobody knows: they are `foreign`.
    pub corrupted: u64,
    /// Messages of no load generator.
    pub foreign: u64,
    /// Intact messages for which there was no memory: nobody knows whether they came before.
    pub unaudited: u64,
}

/// The books of one run.
#[derive(Debug)]
struct RunBooks {
    run: u32,
    seen: Bitmap,
    /// How many messages had been received when another run's came.
    left_at: u64,
}

impl RunBooks {
    const fn new(run: u32, seen: Bitmap) -> Self {
        Self { run, seen, left_at: 0 }
    }
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Intact and new.
    New(Stamp),
    /// Intact, and seen before.
    Again,
    /// Not what was sent, not ours, or not audited.
    Bad,
}

impl Audit {
    /// Books for one known run, with room for `numbers` messages taken in advance.
    pub fn of_run(expected: Expected, numbers: u64) -> Self {
        let runs = vec![RunBooks::new(expected.run, Bitmap::with_stock(numbers))];
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
        if self.runs.get(self.current).is_none_or(|books| books.run != stamp.run) {
            self.turn_to(stamp.run);
        }
        let new = match self.runs[self.current].seen.insert_within(stamp.number) {
            Some(new) => new,
            None if self.has_room() => self.runs[self.current].seen.insert(stamp.number),
            None => {
                self.unaudited += 1;
                return Seen::Bad;
            }
        };
        if new {
            return Seen::New(stamp);
        }
        self.duplicates += 1;
        Seen::Again
    }

    /// Makes `run` the current one.
    #[cold]
    fn turn_to(&mut self, run: u32) {
        if let Some(left) = self.runs.get_mut(self.current) {
            left.left_at = self.received;
        }
        let known = self.runs.iter().position(|books| books.run == run);
        self.current = known.unwrap_or_else(|| {
            if self.runs.len() >= RUNS_MAX {
                self.forget_one(None);
            }
            self.runs.push(RunBooks::new(run, Bitmap::default()));
            self.runs.len() - 1
        });
    }

    /// Whether the current run may take a block more, which other runs may have to make room for.
    #[cold]
    fn has_room(&mut self) -> bool {
        if self.expected.is_some() {
            return true;
        }
        let current = self.runs[self.current].run;
        loop {
            let taken: usize = self.runs.iter().map(|books| books.seen.block_count()).sum();
            if taken < BLOCKS_MAX {
                break;
            }
            if !self.forget_one(Some(current)) {
                return false;
            }
        }
        // Its place may have changed.
        self.current = self.runs.iter().position(|books| books.run == current).unwrap_or_default();
        true
    }

    /// Drops the books of the run that was quiet for longest, but for `except`; false if there is no other.
    fn forget_one(&mut self, except: Option<u32>) -> bool {
        let others = self.runs.iter().enumerate().filter(|(_, books)| Some(books.run) != except);
        let Some((oldest, _)) = others.min_by_key(|(_, books)| books.left_at) else { return false };
        self.runs.swap_remove(oldest);
        self.runs_forgotten += 1;
        true
    }

    /// Takes over another receiver's books; what both saw is a duplicate.
    pub fn merge(&mut self, other: &Self) {
        self.received += other.received;
        self.received_bytes += other.received_bytes;
        self.duplicates += other.duplicates;
        self.corrupted += other.corrupted;
        self.foreign += other.foreign;
        self.unaudited += other.unaudited;
        // Receivers of one server see the same runs.
        self.runs_forgotten = self.runs_forgotten.max(other.runs_forgotten);
        for theirs in &other.runs {
            match self.runs.iter_mut().find(|ours| ours.run == theirs.run) {
                Some(ours) => self.duplicates += ours.seen.merge(&theirs.seen),
                None => {
                    let mut ours = RunBooks::new(theirs.run, Bitmap::default());
                    ours.seen.merge(&theirs.seen);
                    self.runs.push(ours);
                }
            }
        }
    }

    /// The numbers seen of `run`.
    pub fn seen(&self, run: u32) -> Option<&Bitmap> {
        self.runs.iter().find(|books| books.run == run).map(|books| &books.seen)
    }

    /// How many runs left a trace; one that was forgotten and came again counts twice.
    pub const fn run_count(&self) -> usize {
        self.runs.len() + self.runs_forgotten
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
            // The first one goes on meanwhile.
            audit.enter(&message(0, u64::from(run) + 1, 100));
        }
        audit.enter(b"hello");
        assert_eq!((audit.received, audit.duplicates, audit.foreign), (141, 0, 1));
        assert_eq!((audit.run_count(), audit.runs.len()), (70, RUNS_MAX));
        // However many there were: a duplicate of a run that is under way is seen.
        assert_eq!(audit.enter(&message(69, 0, 100)), Seen::Again);
        assert_eq!(audit.enter(&message(0, 70, 100)), Seen::Again);
        assert_eq!(
            audit.enter(&message(1, 0, 100)),
            Seen::New(Stamp { run: 1, slot: 1, number: 0 }),
            "forgotten"
        );
    }

    #[test]
    fn hostile_numbers_take_bounded_memory() {
        let mut audit = Audit::of_all();
        audit.enter(&message(1, 0, 16));
        for n in 0..3 * BLOCKS_MAX as u64 {
            audit.enter(&message(2 + (n % 3) as u32, (n << 20) % NUMBER_MAX, 16));
        }
        let taken: usize = audit.runs.iter().map(|books| books.seen.block_count()).sum();
        assert!(taken <= BLOCKS_MAX, "{taken} blocks");
        let mut audit = Audit::of_all();
        for n in 0..2 * BLOCKS_MAX as u64 {
            audit.enter(&message(1, n << 20, 16));
        }
        assert_eq!((audit.runs[0].seen.block_count(), audit.unaudited), (BLOCKS_MAX, BLOCKS_MAX as u64));
        assert_eq!((audit.foreign, audit.duplicates), (0, 0));
        // Whoever knows the run has no strangers to fear, and no bound.
        let mut audit = Audit::of_run(Expected { run: 1, size: 16 }, 0);
        for n in 0..BLOCKS_MAX as u64 + 10 {
            assert!(matches!(audit.enter(&message(1, n << 20, 16)), Seen::New(_)));
        }
    }
}
