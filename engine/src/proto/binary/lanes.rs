//! Order within lanes (R-LANE-1 to 6): which operation of a lane comes before which, at its sender and at its receiver.
//!
//! A message says how far below its own number that of the one before it in its lane is. So a receiver keeps nothing of a
//! lane: whether the one before has ended is what its window of numbers remembers anyhow, and a new flow, or a lane that
//! rested for a year, begins with nothing to agree on.
//!
//! ```text
//!   numbers of the chunked space     41    42    43    44    45
//!   lane 7                            o<----------o<----------o      45 waits for 43, and 43 for 41
//!   lane 9                                  o<----------o
//! ```
//!
//! One that ends without being handed over is stepped over: what waits for it waits for the one before it from then on. Its
//! sender says both numbers (SKIP), for the receiver may never have seen it.
//!
//! What waits is found by what it waits for: whatever ends costs a look at those behind it, and each is looked at once.

use super::op_window::{OpWindow, Seen};
use crate::options::Priority;
use crate::wire::binary::{ResultCode, Space};
use std::collections::{BTreeMap, BTreeSet};

/// Lanes a sender remembers before it looks which of them it needs.
const PRUNED_FROM: usize = 2_048;

/// When a message may be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// At once: it is in no lane.
    Free,
    /// At once: nothing is before it in its lane.
    First,
    /// When this operation has ended, and all that was before that one.
    After(u64),
}

impl Turn {
    /// What the LANE of a chunk means. Of the message space it says nothing (R-LANE-2).
    #[must_use]
    pub fn of(space: Space, seq: u64, lane: Option<(u16, u32)>) -> Self {
        match lane {
            Some((_, before)) if space == Space::Chunked => Self::behind(seq, before),
            _ => Self::Free,
        }
    }

    /// The turn of `seq`, if the one before it is so far below.
    #[must_use]
    pub fn behind(seq: u64, before: u32) -> Self {
        match seq.checked_sub(before.into()) {
            Some(other) if other < seq => Self::After(other),
            _ => Self::First,
        }
    }
}

/// What a receiver knows of a flow's lanes beside its window; most flows have none of it.
#[derive(Debug, Default)]
pub struct InLanes {
    /// Operations that were refused for good, and have something before them that is not over. All are in the window.
    stepped: BTreeSet<u64>,
    /// What is not over, and who is behind it: messages that wait, and operations that were stepped over.
    behind: BTreeSet<(u64, u64)>,
    /// Messages that waited, and whose turn has come since.
    due: BTreeSet<u64>,
    /// Results that became due without a datagram that would have had places for them.
    words: BTreeMap<u64, ResultCode>,
    /// Messages that wait for their turn, in parts or complete, and those that are due; and what they are charged.
    waiting: BTreeSet<u64>,
    waiting_bytes: u64,
}

impl InLanes {
    /// Whether the operation has ended, and all that was before it in its lane.
    #[must_use]
    pub fn is_over(lanes: Option<&Self>, window: &OpWindow, seq: u64) -> bool {
        match window.check(seq) {
            // Handed over in its turn, or its sender says that it has ended, and all below it.
            Seen::Delivered | Seen::Below => true,
            Seen::Refused(_) => lanes.is_none_or(|lanes| !lanes.stepped.contains(&seq)),
            Seen::New | Seen::Beyond | Seen::NoRoom => false,
        }
    }

    /// Nothing that has to outlive a pause.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stepped.is_empty() && self.words.is_empty()
    }

    /// An operation was refused for good while `before` is not over.
    pub fn step(&mut self, seq: u64, before: u64) {
        self.stepped.insert(seq);
        self.behind.insert((before, seq));
    }

    /// An operation is over: the turn of those behind it has come, also behind what was stepped over meanwhile.
    pub fn end(&mut self, mut seq: u64) {
        let mut over = Vec::new(); // Of those that were stepped over, each once: no chain is walked twice.
        loop {
            while let Some(&(before, next)) = self.behind.range((seq, 0)..=(seq, u64::MAX)).next() {
                self.behind.remove(&(before, next));
                if self.stepped.remove(&next) {
                    over.push(next);
                } else {
                    self.due.insert(next);
                }
            }
            match over.pop() {
                Some(next) => seq = next,
                None => return,
            }
        }
    }

    /// A message began whose turn, after `before`, has not come.
    pub fn wait(&mut self, seq: u64, before: u64, charge_bytes: u64) {
        if self.waiting.insert(seq) {
            self.waiting_bytes += charge_bytes;
            self.behind.insert((before, seq));
        }
    }

    /// A message that waited for `before` is looked at now, or is not here any more.
    pub fn wait_no_more(&mut self, seq: u64, before: u64, charge_bytes: u64) {
        if self.waiting.remove(&seq) {
            self.waiting_bytes -= charge_bytes;
            self.behind.remove(&(before, seq));
            self.due.remove(&seq);
        }
    }

    /// The first of those whose turn has come.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().copied()
    }

    /// The one that would be the last.
    #[must_use]
    pub fn last_waiting(&self) -> Option<u64> {
        self.waiting.last().copied()
    }

    /// What they are charged, all together.
    #[must_use]
    pub const fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Its sender is to be told.
    pub fn say_later(&mut self, seq: u64, code: ResultCode) {
        self.words.insert(seq, code);
    }

    /// The next of those to be told.
    pub fn next_word(&mut self) -> Option<(u64, ResultCode)> {
        self.words.pop_first()
    }

    /// Nothing of it is here any more, and its sender does not know that yet.
    #[must_use]
    pub fn is_to_be_refused(&self, seq: u64) -> bool {
        self.words.get(&seq).is_some_and(|code| code.is_refusal())
    }

    /// Its sender has given it up.
    pub fn forget(&mut self, seq: u64) {
        self.words.remove(&seq);
    }

    /// Its sender has given up all below.
    pub fn set_low(&mut self, base: u64) {
        while self.words.first_key_value().is_some_and(|word| *word.0 < base) {
            self.words.pop_first();
        }
        while let Some(&(before, _)) = self.behind.first()
            && before < base
        {
            self.end(before); // And so everything that was stepped over below: what is before it is lower still.
        }
    }
}

/// A lane at its sender.
#[derive(Clone, Copy, Debug)]
struct OutLane {
    /// The number of the message put into it last, of those that have one.
    last: Option<u64>,
    /// The class it waits in: one for all, or one message would overtake another.
    priority: Priority,
}

/// The lanes of a flow at its sender.
#[derive(Debug)]
pub struct OutLanes {
    lanes: BTreeMap<u16, OutLane>,
    prune_at: usize,
}

impl Default for OutLanes {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), prune_at: PRUNED_FROM }
    }
}

impl OutLanes {
    /// A message is put into a lane: the class it waits in.
    pub fn join(&mut self, lane: u16, priority: Priority) -> Priority {
        self.lanes.entry(lane).or_insert(OutLane { last: None, priority }).priority
    }

    /// A message in a lane leaves for the first time, and has this number from now on: how far below it the one before it
    /// is. One beyond 32 bits is not in the receiver's window any more.
    pub fn number(&mut self, lane: u16, priority: Priority, seq: u64) -> u32 {
        let lane = self.lanes.entry(lane).or_insert(OutLane { last: None, priority });
        let before = lane.last.replace(seq);
        before.map_or(0, |before| u32::try_from(seq - before).unwrap_or(0))
    }

    /// There are so many that those nobody needs should be forgotten.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.lanes.len() >= self.prune_at
    }

    /// Keeps lanes in use, and those whose last number is `from` or higher: what was given up may not be known to the
    /// receiver.
    pub fn prune(&mut self, used: &BTreeSet<u16>, from: u64) {
        self.lanes.retain(|lane, state| used.contains(lane) || state.last.is_some_and(|last| last >= from));
        self.prune_at = PRUNED_FROM.max(2 * self.lanes.len());
    }

    /// Lanes remembered.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.lanes.len()
    }
}
