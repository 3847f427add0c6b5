//! The receiving side's own books: every payload checked in full, every number ticked off once.

use crate::bitmap::{Bitmap, NUMBER_MAX};
use crate::payload::{self, Stamp};
use crate::sizes::Lengths;

/// Runs a standing server remembers. The one that was quiet for longest makes room for a new one.
const RUNS_MAX: usize = 64;
/// Blocks of 64 KiB a standing server takes for them: 256 MiB, two billion messages. Anyone can write numbers that take a
/// block each. With the tables of the blocks (1 MiB a run at most) a receiver stays within 320 MiB.
const BLOCKS_MAX: usize = 4_096;

/// What is expected, where both ends are known.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The run's number.
    pub run: u32,
    /// Bytes of each payload.
    pub lengths: Lengths,
}

/// The books of one receiver. Owned by one thread; merged at the end.
#[derive(Debug, Default)]
pub struct Audit {
    expected: Option<Expected>,
    /// The run of the last message; its books are at hand.
    current: Option<RunBooks>,
    /// All other runs.
    others: Vec<RunBooks>,
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
        let current = Some(RunBooks::new(expected.run, Bitmap::with_stock(numbers)));
        Self { expected: Some(expected), current, ..Self::default() }
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
        let Some(stamp) = payload::check(payload) else { return self.enter_bad() };
        if self.expected.as_ref().is_some_and(|expected| payload.len() != expected.lengths.of(stamp.number)) {
            return self.enter_bad();
        }
        let at_hand = match &mut self.current {
            Some(books) if books.run == stamp.run => books.seen.insert_at_hand(stamp.number),
            _ => None,
        };
        match at_hand {
            Some(true) => Seen::New(stamp),
            Some(false) => self.enter_again(),
            None => self.enter_elsewhere(stamp),
        }
    }

    #[cold]
    fn enter_bad(&mut self) -> Seen {
        *(if self.expected.is_some() { &mut self.corrupted } else { &mut self.foreign }) += 1;
        Seen::Bad
    }

    #[cold]
    fn enter_again(&mut self) -> Seen {
        self.duplicates += 1;
        Seen::Again
    }

    /// Enters an intact message for which the books are not at hand.
    #[cold]
    fn enter_elsewhere(&mut self, stamp: Stamp) -> Seen {
        if self.expected.as_ref().is_some_and(|expected| stamp.run != expected.run) {
            return self.enter_bad();
        }
        if stamp.number > NUMBER_MAX {
            self.foreign += 1;
            return Seen::Bad;
        }
        self.turn_to(stamp.run);
        let mut inserted = self.current.as_mut().and_then(|books| books.seen.insert_within(stamp.number));
        if inserted.is_none() && self.has_room() {
            inserted = self.current.as_mut().map(|books| books.seen.insert(stamp.number));
        }
        match inserted {
            Some(true) => Seen::New(stamp),
            Some(false) => self.enter_again(),
            None => {
                self.unaudited += 1;
                Seen::Bad
            }
        }
    }

    /// Makes `run` the current one.
    fn turn_to(&mut self, run: u32) {
        if self.current.as_ref().is_some_and(|books| books.run == run) {
            return;
        }
        if let Some(mut left) = self.current.take() {
            left.left_at = self.received;
            self.others.push(left);
        }
        let known = self.others.iter().position(|books| books.run == run);
        self.current = Some(match known {
            Some(index) => self.others.swap_remove(index),
            None => {
                if self.others.len() >= RUNS_MAX {
                    self.forget_one();
                }
                RunBooks::new(run, Bitmap::default())
            }
        });
    }

    /// Whether the current run may take a block more, which other runs may have to make room for.
    fn has_room(&mut self) -> bool {
        if self.expected.is_some() {
            return true;
        }
        loop {
            let taken: usize = self.runs().map(|books| books.seen.block_count()).sum();
            if taken < BLOCKS_MAX {
                return true;
            }
            if !self.forget_one() {
                return false;
            }
        }
    }

    /// Drops the books of the run that was quiet for longest, but for the current one; false if there is no other.
    fn forget_one(&mut self) -> bool {
        let oldest = self.others.iter().enumerate().min_by_key(|(_, books)| books.left_at);
        let Some((oldest, _)) = oldest else { return false };
        self.others.swap_remove(oldest);
        self.runs_forgotten += 1;
        true
    }

    fn runs(&self) -> impl Iterator<Item = &RunBooks> {
        self.current.iter().chain(&self.others)
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
        for theirs in other.runs() {
            let mut ours = self.current.iter_mut().chain(&mut self.others);
            match ours.find(|ours| ours.run == theirs.run) {
                Some(ours) => self.duplicates += ours.seen.merge(&theirs.seen),
                None => {
                    let mut ours = RunBooks::new(theirs.run, Bitmap::default());
                    ours.seen.merge(&theirs.seen);
                    self.others.push(ours);
                }
            }
        }
    }

    /// The numbers seen of `run`.
    pub fn seen(&self, run: u32) -> Option<&Bitmap> {
        self.runs().find(|books| books.run == run).map(|books| &books.seen)
    }

    /// How many runs left a trace; one that was forgotten and came again counts twice.
    pub fn run_count(&self) -> usize {
        self.runs().count() + self.runs_forgotten
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
        let mut audit = Audit::of_run(Expected { run: 5, lengths: Lengths::fixed(64) }, 1_000);
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

    /// Whole and of the run, but not as long as this message is.
    #[test]
    fn a_message_of_a_mix_has_a_length_of_its_own() {
        let lengths = Lengths::new(&"uniform:16..1000".parse().expect("valid"), 3).expect("valid");
        let mut audit = Audit::of_run(Expected { run: 5, lengths: lengths.clone() }, 0);
        for number in 0..500 {
            assert!(matches!(audit.enter(&message(5, number, lengths.of(number))), Seen::New(_)));
            assert_eq!(audit.enter(&message(5, number, lengths.of(number) + 1)), Seen::Bad);
        }
        assert_eq!((audit.corrupted, audit.duplicates), (500, 0));
    }

    #[test]
    fn two_receivers_of_the_same_message_make_a_duplicate() {
        let expected = Expected { run: 5, lengths: Lengths::fixed(64) };
        let (mut a, mut b) = (Audit::of_run(expected.clone(), 0), Audit::of_run(expected, 0));
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
        assert_eq!((audit.run_count(), audit.runs().count()), (70, RUNS_MAX));
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
        let taken: usize = audit.runs().map(|books| books.seen.block_count()).sum();
        assert!(taken <= BLOCKS_MAX, "{taken} blocks");
        let mut audit = Audit::of_all();
        for n in 0..2 * BLOCKS_MAX as u64 {
            audit.enter(&message(1, n << 20, 16));
        }
        let taken: usize = audit.runs().map(|books| books.seen.block_count()).sum();
        assert_eq!((taken, audit.unaudited), (BLOCKS_MAX, BLOCKS_MAX as u64));
        assert_eq!((audit.foreign, audit.duplicates), (0, 0));
        // Whoever knows the run has no strangers to fear, and no bound.
        let mut audit = Audit::of_run(Expected { run: 1, lengths: Lengths::fixed(16) }, 0);
        for n in 0..BLOCKS_MAX as u64 + 10 {
            assert!(matches!(audit.enter(&message(1, n << 20, 16)), Seen::New(_)));
        }
    }
}
