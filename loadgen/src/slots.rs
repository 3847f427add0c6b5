//! Messages under way: when each was put (or due), and its number. All generators' slots are one table, because an echo
//! may come back to another shard than the one that sent: the table is shared, each slot has one owner.
//!
//! Where nothing but the outcomes of messages is waited for, those that are put at one look at the clock share a slot: it has
//! their time, and how many of them are left. So nothing is kept for each, and what is kept stays in the first cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The table. Slots of generator g are `g * slots_each ..`.
#[derive(Debug)]
pub struct SlotTable {
    slots_each: usize,
    /// By owner.
    slots: Box<[Arc<[Slot]>]>,
    /// The numbers of the messages, for whoever gets their echoes; outcomes bring them along. Empty without echoes.
    numbers: Box<[Arc<[AtomicU64]>]>,
    /// Echoes that came to another generator, by owner. Used only if there are several.
    returns: Box<[Mutex<Vec<Returned>>]>,
}

/// The echo of message `number`, which was in `slot`.
#[derive(Clone, Copy, Debug)]
struct Returned {
    slot: u32,
    number: u64,
}

/// The number of no message: nobody waits for the echo of the one that was in the slot.
const NOBODY: u64 = u64::MAX;

/// Relaxed throughout: the message that carries a slot's index around orders its accesses. Only the owner writes.
#[derive(Debug, Default)]
struct Slot {
    /// When its message was put, or due, and in the two highest bits what it still waits for.
    start_ns: AtomicU64,
}

impl Slot {
    /// When its message was put, or due.
    #[inline]
    fn start_ns(&self) -> u64 {
        self.start_ns.load(Ordering::Relaxed) & !AWAITS
    }
}

/// Its message's outcome.
const OUTCOME: u64 = 1 << 62;
/// Its message's echo.
const ECHO: u64 = 1 << 63;
const AWAITS: u64 = OUTCOME | ECHO;

impl SlotTable {
    /// A table for `generators` with `slots_each`, for messages that come back or not.
    pub fn new(generators: usize, slots_each: usize, echo: bool) -> Arc<Self> {
        let numbered = if echo { slots_each } else { 0 };
        Arc::new(Self {
            slots_each,
            slots: (0..generators).map(|_| (0..slots_each).map(|_| Slot::default()).collect()).collect(),
            numbers: (0..generators).map(|_| (0..numbered).map(|_| AtomicU64::new(0)).collect()).collect(),
            returns: (0..generators).map(|_| Mutex::default()).collect(),
        })
    }

    /// (number, start) of the message in `slot`, if messages come back.
    #[inline]
    pub fn get(&self, slot: u32) -> Option<(u64, u64)> {
        let (owner, place) = (slot as usize / self.slots_each, slot as usize % self.slots_each);
        let number = self.numbers.get(owner)?.get(place)?.load(Ordering::Relaxed);
        Some((number, self.slots.get(owner)?.get(place)?.start_ns()))
    }

    /// The echo of message `number` in another generator's slot came.
    pub fn give_back(&self, slot: u32, number: u64) {
        if let Some(returns) = self.returns.get(slot as usize / self.slots_each) {
            returns.lock().unwrap_or_else(PoisonError::into_inner).push(Returned { slot, number });
        }
    }

    fn take_returns(&self, owner: usize, into: &mut Vec<Returned>) {
        into.append(&mut self.returns[owner].lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// One generator's slots.
#[derive(Debug)]
pub struct OwnSlots {
    table: Arc<SlotTable>,
    owner: usize,
    own: Arc<[Slot]>,
    numbers: Arc<[AtomicU64]>,
    first: u32,
    /// Last in, first out: the warm ones are used again.
    free: Box<[u32]>,
    /// So many of `free` are in use, from the front.
    free_count: usize,
    /// Without echoes, by place: the messages in the slot whose outcomes are awaited.
    left: Box<[u32]>,
    /// Messages under way, in all slots.
    messages: usize,
    returned: Vec<Returned>,
}

impl OwnSlots {
    /// The slots of `owner`.
    pub fn new(table: Arc<SlotTable>, owner: usize) -> Self {
        let count = table.slots_each as u32;
        let first = owner as u32 * count;
        let free: Box<[u32]> = (first..first + count).rev().collect();
        let (free_count, own) = (free.len(), Arc::clone(&table.slots[owner]));
        let numbers = Arc::clone(&table.numbers[owner]);
        let left = vec![0; if numbers.is_empty() { table.slots_each } else { 0 }].into();
        Self { free, free_count, left, messages: 0, returned: Vec::new(), own, numbers, table, owner, first }
    }

    /// The shared table.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    #[inline]
    fn own(&self, slot: u32) -> Option<&Slot> {
        self.own.get(slot.wrapping_sub(self.first) as usize)
    }

    /// The first of them.
    pub const fn first(&self) -> u32 {
        self.first
    }

    /// The place of `slot` among them, if it is one.
    #[inline]
    pub fn place(&self, slot: u32) -> usize {
        slot.wrapping_sub(self.first) as usize
    }

    /// Whether `slot` is one of them.
    pub fn owns(&self, slot: u32) -> bool {
        self.own(slot).is_some()
    }

    /// The slot the next message would take.
    #[inline]
    pub fn next(&self) -> Option<u32> {
        self.free.get(self.free_count.checked_sub(1)?).copied()
    }

    /// Takes the slot that `next` names for one message, before it can possibly end.
    #[inline]
    pub fn take_next(&mut self, number: u64, start_ns: u64) -> Option<u32> {
        let slot = self.open(start_ns)?;
        let place = self.place(slot);
        match self.numbers.get(place) {
            None => self.left[place] = 1,
            Some(held) => {
                self.own(slot)?.start_ns.store(start_ns | AWAITS, Ordering::Relaxed);
                held.store(number, Ordering::Relaxed);
            }
        }
        self.messages += 1;
        Some(slot)
    }

    /// Takes the slot that `next` names for messages that are put at `start_ns`; [`close`](Self::close) must follow before one
    /// of them can end. Without echoes.
    #[inline]
    pub fn open(&mut self, start_ns: u64) -> Option<u32> {
        let slot = self.next()?;
        self.free_count -= 1;
        self.own(slot)?.start_ns.store(start_ns, Ordering::Relaxed);
        Some(slot)
    }

    /// So many messages were put into the slot that was opened.
    #[inline]
    pub fn close(&mut self, slot: u32, messages: u32) {
        self.messages += messages as usize;
        let place = self.place(slot);
        self.left[place] = messages;
        if messages == 0 {
            self.give_free(slot);
        }
    }

    /// Undoes `take_next`: the message was not accepted.
    pub fn untake(&mut self, slot: u32) {
        self.outcome(slot, false);
    }

    /// The outcome for `slot` came; without success no echo is to be expected, and one that comes all the same changes nothing.
    /// Returns when its message was put, or due.
    #[inline]
    pub fn outcome(&mut self, slot: u32, delivered: bool) -> Option<u64> {
        if self.numbers.is_empty() {
            return self.outcomes(slot, 1);
        }
        if delivered {
            return self.clear(slot, OUTCOME);
        }
        if let Some(number) = self.numbers.get(self.place(slot)) {
            number.store(NOBODY, Ordering::Relaxed);
        }
        self.clear(slot, AWAITS)
    }

    /// So many outcomes for `slot` came. Without echoes. Returns when its messages were put, or due.
    #[inline]
    pub fn outcomes(&mut self, slot: u32, count: u32) -> Option<u64> {
        let place = self.place(slot);
        let left = self.left.get_mut(place)?;
        let ended = count.min(*left);
        *left -= ended;
        let is_free = ended > 0 && *left == 0;
        self.messages -= ended as usize;
        if is_free {
            self.give_free(slot);
        }
        Some(self.own(slot)?.start_ns())
    }

    #[inline]
    fn give_free(&mut self, slot: u32) {
        if let Some(free) = self.free.get_mut(self.free_count) {
            *free = slot;
            self.free_count += 1;
        }
    }

    /// The echo for `slot` came.
    #[inline]
    pub fn echo(&mut self, slot: u32) {
        self.clear(slot, ECHO);
    }

    /// Handles the echoes that came to other generators.
    pub fn handle_returns(&mut self) {
        let mut returned = std::mem::take(&mut self.returned);
        self.table.take_returns(self.owner, &mut returned);
        for Returned { slot, number } in returned.drain(..) {
            // The message may have failed meanwhile: its slot has another, or none.
            let held = self.numbers.get(self.place(slot)).map(|held| held.load(Ordering::Relaxed));
            if held == Some(number) {
                self.clear(slot, ECHO);
            }
        }
        self.returned = returned;
    }

    #[inline]
    fn clear(&mut self, slot: u32, bits: u64) -> Option<u64> {
        let place = self.own(slot)?;
        let before = place.start_ns.load(Ordering::Relaxed);
        let after = before & !bits;
        place.start_ns.store(after, Ordering::Relaxed);
        if before & AWAITS != 0 && after & AWAITS == 0 {
            self.messages -= 1;
            self.give_free(slot);
        }
        Some(before & !AWAITS)
    }

    /// Messages under way.
    pub const fn outstanding(&self) -> usize {
        self.messages
    }

    /// How many more may be.
    pub fn room(&self) -> usize {
        self.own.len().saturating_sub(self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_when_outcome_and_echo_have_come() {
        let table = SlotTable::new(2, 3, true);
        let mut own = OwnSlots::new(Arc::clone(&table), 1);
        assert_eq!(own.next(), Some(3));
        assert_eq!(own.take_next(77, 5), Some(3));
        assert_eq!((own.outstanding(), table.get(3), own.owns(3)), (1, Some((77, 5)), true));
        assert_eq!(own.outcome(3, true), Some(5));
        assert_eq!(own.outstanding(), 1);
        table.give_back(3, 77);
        table.give_back(6, 77);
        own.handle_returns();
        assert_eq!(own.outstanding(), 0);
        // A late word about a free slot changes nothing.
        own.echo(3);
        assert_eq!(own.free_count, 3);
        own.take_next(78, 6);
        own.outcome(3, false);
        assert_eq!(own.outstanding(), 0);
        // Nor does a late echo of one that has failed, to whomever it comes, while the slot is free or has the next message.
        assert_ne!(table.get(3).map(|(number, _)| number), Some(78));
        own.take_next(79, 7);
        table.give_back(3, 78);
        own.handle_returns();
        own.outcome(3, true);
        assert_eq!(own.outstanding(), 1, "79 still waits for its echo");
        table.give_back(3, 79);
        own.handle_returns();
        assert_eq!(own.outstanding(), 0);
        assert_eq!((own.owns(2), own.owns(6), table.get(6)), (false, false, None));
        assert_eq!((own.outcome(2, true), own.outcome(6, true)), (None, None));
    }

    #[test]
    fn messages_put_at_one_look_share_a_slot() {
        let table = SlotTable::new(1, 4, false);
        let mut own = OwnSlots::new(table, 0);
        let shared = own.open(5).expect("free");
        own.close(shared, 3);
        let alone = own.take_next(9, 7).expect("free");
        assert_eq!((own.outstanding(), own.room(), own.free_count), (4, 0, 2));
        for left in [3, 2] {
            assert_eq!(own.outcome(shared, left == 3), Some(5));
            assert_eq!((own.outstanding(), own.free_count), (left, 2));
        }
        assert_eq!((own.outcome(shared, true), own.outcome(alone, true)), (Some(5), Some(7)));
        assert_eq!((own.outstanding(), own.room(), own.free_count), (0, 4, 4));
        // One more than were put: nothing is freed twice. That it was one too many, the sums tell.
        assert_eq!(own.outcome(shared, true), Some(5));
        let several = own.open(6).expect("free");
        own.close(several, 9);
        assert_eq!((own.outcomes(several, 4), own.outstanding(), own.free_count), (Some(6), 5, 3));
        assert_eq!((own.outcomes(several, 6), own.outstanding(), own.free_count), (Some(6), 0, 4));
        assert_eq!((own.outstanding(), own.free_count), (0, 4));
        // None of them was accepted.
        let refused = own.open(8).expect("free");
        own.close(refused, 0);
        assert_eq!((own.outstanding(), own.free_count), (0, 4));
    }
}
