//! Messages under way: when each was put (or due), and its number. All generators' slots are one table, because an echo
//! may come back to another shard than the one that sent: the table is shared, each slot has one owner.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The table. Slots of generator g are `g * slots_each ..`.
#[derive(Debug)]
pub struct SlotTable {
    slots_each: usize,
    slots: Box<[Slot]>,
    /// Slots whose echo came to another generator, by owner. Used only if there are several.
    returns: Box<[Mutex<Vec<u32>>]>,
}

/// Relaxed throughout: the message that carries a slot's index around orders its accesses.
#[derive(Debug, Default)]
struct Slot {
    start_ns: AtomicU64,
    number: AtomicU64,
}

impl SlotTable {
    /// A table for `generators` with `slots_each`.
    pub fn new(generators: usize, slots_each: usize) -> Arc<Self> {
        Arc::new(Self {
            slots_each,
            slots: (0..generators * slots_each).map(|_| Slot::default()).collect(),
            returns: (0..generators).map(|_| Mutex::default()).collect(),
        })
    }

    /// Whose slot it is; `None`: nobody's.
    pub fn owner(&self, slot: u32) -> Option<usize> {
        ((slot as usize) < self.slots.len()).then(|| slot as usize / self.slots_each)
    }

    /// (number, start) of the message in `slot`.
    pub fn get(&self, slot: u32) -> Option<(u64, u64)> {
        let slot = self.slots.get(slot as usize)?;
        Some((slot.number.load(Ordering::Relaxed), slot.start_ns.load(Ordering::Relaxed)))
    }

    fn set(&self, slot: u32, number: u64, start_ns: u64) {
        let slot = &self.slots[slot as usize];
        slot.number.store(number, Ordering::Relaxed);
        slot.start_ns.store(start_ns, Ordering::Relaxed);
    }

    /// The echo for another generator's slot came.
    pub fn give_back(&self, owner: usize, slot: u32) {
        self.returns[owner].lock().unwrap_or_else(PoisonError::into_inner).push(slot);
    }

    fn take_returns(&self, owner: usize, into: &mut Vec<u32>) {
        into.append(&mut self.returns[owner].lock().unwrap_or_else(PoisonError::into_inner));
    }
}

const OUTCOME: u8 = 1;
const ECHO: u8 = 2;

/// One generator's slots.
#[derive(Debug)]
pub struct OwnSlots {
    table: Arc<SlotTable>,
    owner: usize,
    /// What each slot still waits for, by index within the generator.
    awaits: Box<[u8]>,
    /// Last in, first out: the warm ones are used again.
    free: Vec<u32>,
    returned: Vec<u32>,
}

impl OwnSlots {
    /// The slots of `owner`.
    pub fn new(table: Arc<SlotTable>, owner: usize) -> Self {
        let each = table.slots_each;
        let first = owner * each;
        Self {
            awaits: vec![0; each].into_boxed_slice(),
            free: (first..first + each).rev().map(|slot| slot as u32).collect(),
            returned: Vec::new(),
            table,
            owner,
        }
    }

    /// The shared table.
    pub fn table(&self) -> &SlotTable {
        &self.table
    }

    /// The slot the next message would take.
    pub fn next(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Takes the slot that `next` named, before its message can possibly end.
    pub fn take_next(&mut self, number: u64, start_ns: u64, echo: bool) {
        let Some(slot) = self.free.pop() else { return };
        self.table.set(slot, number, start_ns);
        self.awaits[slot as usize % self.awaits.len()] = if echo { OUTCOME | ECHO } else { OUTCOME };
    }

    /// Undoes `take_next`: the message was not accepted.
    pub fn untake(&mut self, slot: u32) {
        self.awaits[slot as usize % self.awaits.len()] = 0;
        self.free.push(slot);
    }

    /// The outcome for `slot` came; without success no echo is to be expected.
    pub fn outcome(&mut self, slot: u32, delivered: bool) {
        self.clear(slot, if delivered { OUTCOME } else { OUTCOME | ECHO });
    }

    /// The echo for `slot` came.
    pub fn echo(&mut self, slot: u32) {
        self.clear(slot, ECHO);
    }

    /// Handles the echoes that came to other generators.
    pub fn handle_returns(&mut self) {
        let mut returned = std::mem::take(&mut self.returned);
        self.table.take_returns(self.owner, &mut returned);
        for slot in returned.drain(..) {
            self.clear(slot, ECHO);
        }
        self.returned = returned;
    }

    fn clear(&mut self, slot: u32, bits: u8) {
        let awaits = &mut self.awaits[slot as usize % self.table.slots_each];
        let before = *awaits;
        *awaits &= !bits;
        if before != 0 && *awaits == 0 {
            self.free.push(slot);
        }
    }

    /// Messages under way.
    pub fn outstanding(&self) -> usize {
        self.awaits.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_when_outcome_and_echo_have_come() {
        let table = SlotTable::new(2, 3);
        let mut own = OwnSlots::new(Arc::clone(&table), 1);
        assert_eq!(own.next(), Some(3));
        own.take_next(77, 5, true);
        assert_eq!((own.outstanding(), table.get(3), table.owner(3)), (1, Some((77, 5)), Some(1)));
        own.outcome(3, true);
        assert_eq!(own.outstanding(), 1);
        table.give_back(1, 3);
        own.handle_returns();
        assert_eq!(own.outstanding(), 0);
        // A late word about a free slot changes nothing.
        own.echo(3);
        assert_eq!(own.free.len(), 3);
        own.take_next(78, 6, true);
        own.outcome(3, false);
        assert_eq!(own.outstanding(), 0);
        assert_eq!((table.owner(6), table.get(6)), (None, None));
    }
}
