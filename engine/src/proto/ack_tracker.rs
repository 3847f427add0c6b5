//! The ACK tracker: a slab of operations in flight, found by the op id itself.
//!
//! ```text
//!   op id   | generation 32 | slot 24 | route 8 |        slot -> index into `slots`, no hashing
//!                 |              '--> slots[slot].generation must equal it, or the confirm is stale, forged or guessed
//!                 '--> starts random per slot, advances by 1..=256 at every reuse, is never 0
//! ```
//!
//! Free slots are reused last in, first out: with n operations in flight the tracker touches about n slots, which stay
//! in the cache, and the receiver's dedup pages for them do too.

use super::small_payloads::SmallPayloads;
use crate::hash::Rng;
use crate::units::{Instant, UnixMicros};
use crate::wire::csv;
use bytes::Bytes;
use std::num::NonZeroU32;

/// No slot, no table.
pub const NONE: u32 = u32::MAX;

/// A slot and the operation that is in it: for those who keep it longer than the operation may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpKey {
    /// Index of the slot.
    pub slot: u32,
    /// Tells this operation from others in the same slot.
    pub generation: NonZeroU32,
}

/// The op id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u64);

impl OpId {
    /// Assembles an id.
    #[must_use]
    pub const fn new(generation: NonZeroU32, slot: u32, route: u8) -> Self {
        Self((generation.get() as u64) << 32 | ((slot & 0xff_ffff) as u64) << 8 | route as u64)
    }

    /// Bits 32 to 63.
    #[must_use]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bits 8 to 31.
    #[must_use]
    pub const fn slot(self) -> u32 {
        (self.0 >> 8) as u32 & 0xff_ffff
    }

    /// Bits 0 to 7.
    #[must_use]
    pub const fn route(self) -> u8 {
        self.0 as u8
    }
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The slot is free.
    Free,
    /// Nothing was transmitted yet.
    Queued,
    /// Transmitted at least once.
    InFlight,
}

/// Links of an intrusive list through the slots.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    prev: u32,
    next: u32,
}

/// As `prev`: in no list. No slot has this number.
const NOWHERE: u32 = NONE - 1;
const UNLINKED: Links = Links { prev: NOWHERE, next: NONE };

impl Links {
    const fn is_linked(self) -> bool {
        self.prev != NOWHERE
    }
}

/// The lists an operation can be in, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Operations of a peer with rows never sent.
    Pending = 0,
    /// Operations of a peer with rows to be sent again.
    Resend = 1,
}

/// One operation. `C` is what the runtime wants back with the outcome.
#[derive(Debug)]
pub struct Op<C> {
    generation: u32,
    /// The id as rows carry it. Its route, the end, is chosen at the first transmission.
    id_text: [u8; 16],
    links: [Links; 2],
    /// See [`State`].
    pub state: State,
    /// Transmissions of the row; of a multi-chunk operation, the most of any chunk.
    pub tries: u32,
    /// Index of the peer.
    pub peer: u32,
    /// Index of the chunk table, [`NONE`] for a single row.
    pub chunks: u32,
    /// When it expires.
    pub deadline: Instant,
    /// When it was accepted.
    pub accepted_at: Instant,
    /// First transmission of any row.
    pub first_sent_at: Instant,
    /// Latest transmission of any row.
    pub last_sent_at: Instant,
    /// When the row's confirm is due, or the deadline (single row).
    pub due_at: Instant,
    /// It waits unsent, with a timer for its deadline.
    pub deadline_armed: bool,
    /// The timestamp in every row: repeated rows are byte-identical.
    pub stamp: UnixMicros,
    /// Size of what it carries.
    pub payload_bytes: u32,
    /// What it carries is a copy in `SmallPayloads`.
    pub is_copied: bool,
    /// What it carries otherwise; empty when the slot is free.
    pub payload: Bytes,
    /// The caller's.
    pub tag: u64,
    /// The runtime's; `None` when the slot is free.
    pub completion: Option<C>,
}

impl<C> Op<C> {
    /// Size of its row, if it is a single one.
    #[must_use]
    pub const fn single_row_bytes(&self) -> usize {
        csv::data_row_bytes(self.payload_bytes as usize, None)
    }

    /// What its outcome says when its last row is confirmed at `now`.
    #[inline]
    #[must_use]
    pub const fn times_ns(&self, now: Instant) -> (u64, u64) {
        (now.ns_since(self.first_sent_at), self.first_sent_at.ns_since(self.accepted_at))
    }

    /// Chosen at the first transmission.
    #[must_use]
    pub fn route(&self) -> u8 {
        let digit = |c: u8| (c & 15) + (c >> 6) * 9;
        let [.., high, low] = self.id_text;
        digit(high) << 4 | digit(low)
    }

    /// It is in a list.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        self.links[0].is_linked() || self.links[1].is_linked()
    }
}

/// A list through the slots, first in, first out.
#[derive(Clone, Copy, Debug)]
pub struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl List {
    /// The operation to be served next.
    #[must_use]
    pub fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// The operation that came last.
    #[must_use]
    pub fn back(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }
}

/// See the module.
#[derive(Debug)]
pub struct AckTracker<C> {
    slots: Vec<Op<C>>,
    free: Vec<u32>,
    copies: SmallPayloads,
    slots_max: usize,
    rng: Rng,
}

impl std::fmt::Debug for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rng")
    }
}

impl<C> AckTracker<C> {
    /// An empty tracker for up to `slots_max` operations. Memory is reserved now and touched as slots come into use.
    #[must_use]
    pub fn new(slots_max: usize, rng: Rng) -> Self {
        Self {
            slots: Vec::with_capacity(slots_max),
            free: Vec::with_capacity(slots_max),
            copies: SmallPayloads::default(),
            slots_max,
            rng,
        }
    }

    /// Operations in it.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Operations it can still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.slots_max - self.in_use()
    }

    /// Takes a slot for a new operation, or `None` if all are taken. The caller fills the fields in.
    #[inline]
    pub fn acquire(&mut self) -> Option<(u32, &mut Op<C>)> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.slots_max => {
                let generation = self.rng.next_u32();
                self.slots.push(Op {
                    generation,
                    id_text: csv::hex16(u64::from(self.slots.len() as u32) << 8),
                    links: [UNLINKED; 2],
                    state: State::Free,
                    tries: 0,
                    peer: NONE,
                    chunks: NONE,
                    deadline: Instant::FAR_FUTURE,
                    accepted_at: Instant::default(),
                    first_sent_at: Instant::default(),
                    last_sent_at: Instant::default(),
                    due_at: Instant::default(),
                    deadline_armed: false,
                    stamp: UnixMicros::default(),
                    payload_bytes: 0,
                    is_copied: false,
                    payload: Bytes::new(),
                    tag: 0,
                    completion: None,
                });
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let step = 1 + u32::from(self.rng.next_u8());
        let op = &mut self.slots[slot as usize];
        op.generation = op.generation.wrapping_add(step).max(1);
        // The slot's digits stay.
        if let Some(digits) = op.id_text.first_chunk_mut() {
            *digits = csv::hex8(op.generation);
        }
        op.state = State::Queued;
        op.tries = 0;
        op.deadline_armed = false;
        op.is_copied = false;
        op.chunks = NONE;
        Some((slot, op))
    }

    /// Keeps a copy of `payload`, of at most [`SMALL_PAYLOAD_BYTES_MAX`](super::small_payloads) bytes, for the operation
    /// in `slot`.
    #[inline]
    pub fn copy_payload(&mut self, slot: u32, payload: &[u8]) {
        let op = &mut self.slots[slot as usize];
        (op.is_copied, op.payload_bytes) = (true, payload.len() as u32);
        self.copies.set(slot, payload);
    }

    /// What the operation in `slot` carries.
    #[inline]
    #[must_use]
    pub fn payload(&self, slot: u32) -> &[u8] {
        let op = &self.slots[slot as usize];
        if op.is_copied { self.copies.get(slot, op.payload_bytes as usize) } else { &op.payload }
    }

    /// Frees the slot and gives back what comes with the outcome. What it carried is dropped.
    ///
    /// # Panics
    /// If the operation is still in a list, or the slot is free: our bug.
    #[inline]
    pub fn release(&mut self, slot: u32) -> Option<C> {
        let op = &mut self.slots[slot as usize];
        assert!(op.state != State::Free && !op.is_listed());
        op.state = State::Free;
        self.free.push(slot);
        if !op.is_copied {
            op.payload = Bytes::new();
        }
        op.completion.take()
    }

    /// The operation in `slot`.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32) -> &Op<C> {
        &self.slots[slot as usize]
    }

    /// The operation in `slot`.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> &mut Op<C> {
        &mut self.slots[slot as usize]
    }

    /// The key of the operation in `slot`.
    #[inline]
    #[must_use]
    pub fn key(&self, slot: u32) -> OpKey {
        OpKey { slot, generation: NonZeroU32::new(self.get(slot).generation).unwrap_or(NonZeroU32::MIN) }
    }

    /// The wire id of the operation in `slot`.
    #[inline]
    #[must_use]
    pub fn id(&self, slot: u32) -> OpId {
        let key = self.key(slot);
        OpId::new(key.generation, slot, self.get(slot).route())
    }

    /// The slot a wire id names, if the operation it names is in it and was transmitted.
    #[inline]
    #[must_use]
    pub fn find(&self, id: OpId) -> Option<u32> {
        let op = self.slots.get(id.slot() as usize)?;
        let found =
            op.generation == id.generation() && op.state == State::InFlight && op.route() == id.route();
        found.then(|| id.slot())
    }

    /// As [`find`](Self::find), by the id's text: there is no need to read more of it than which slot it names.
    #[inline]
    #[must_use]
    pub fn find_text(&self, text: &[u8; 16]) -> Option<u32> {
        let slot = csv::guess_hex6(*text.last_chunk()?);
        let op = self.slots.get(slot as usize)?;
        (op.id_text == *text && op.state == State::InFlight).then_some(slot)
    }

    /// Chooses the route of the operation in `slot`; its wire id as text.
    #[inline]
    pub fn set_route(&mut self, slot: u32, route: u8) -> [u8; 16] {
        let place = &mut self.slots[slot as usize].id_text;
        // Read, changed and written whole: two bytes written now would make whoever reads the text wait for them.
        let mut text = *place;
        let [.., high, low] = &mut text;
        [.., *high, *low] = csv::hex8(u32::from(route));
        *place = text;
        text
    }

    /// The slot of a kept key, if its operation is still there.
    #[must_use]
    pub fn find_key(&self, key: OpKey) -> Option<u32> {
        let op = self.slots.get(key.slot as usize)?;
        (op.generation == key.generation.get() && op.state != State::Free).then_some(key.slot)
    }

    /// All slots in use.
    pub fn used_slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.slots).filter(|(_, op)| op.state != State::Free).map(|(slot, _)| slot)
    }

    /// Appends to a list, unless it is in it.
    #[inline]
    pub fn push_back(&mut self, list: &mut List, kind: ListKind, slot: u32) {
        let links = &mut self.slots[slot as usize].links[kind as usize];
        if links.is_linked() {
            return;
        }
        *links = Links { prev: list.tail, next: NONE };
        match list.tail {
            NONE => list.head = slot,
            tail => self.slots[tail as usize].links[kind as usize].next = slot,
        }
        list.tail = slot;
    }

    /// The operation behind `slot` in its list.
    #[must_use]
    pub fn behind(&self, kind: ListKind, slot: u32) -> Option<u32> {
        let links = &self.slots[slot as usize].links[kind as usize];
        (links.next != NONE).then_some(links.next)
    }

    /// The operation before `slot` in its list.
    #[must_use]
    pub fn before(&self, kind: ListKind, slot: u32) -> Option<u32> {
        let links = &self.slots[slot as usize].links[kind as usize];
        (links.prev != NONE).then_some(links.prev)
    }

    /// Takes out of a list, if it is in it.
    #[inline]
    pub fn unlink(&mut self, list: &mut List, kind: ListKind, slot: u32) {
        let links = std::mem::replace(&mut self.slots[slot as usize].links[kind as usize], UNLINKED);
        if !links.is_linked() {
            return;
        }
        match links.prev {
            NONE => list.head = links.next,
            prev => self.slots[prev as usize].links[kind as usize].next = links.next,
        }
        match links.next {
            NONE => list.tail = links.prev,
            next => self.slots[next as usize].links[kind as usize].prev = links.prev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, VecDeque};

    fn tracker(slots: usize) -> AckTracker<u64> {
        AckTracker::new(slots, Seed::from_number(1).rng(0))
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(choices in prop::collection::vec((0u8..6, any::<u16>()), 1..400)) {
            let mut tracker = tracker(16);
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let mut retired: Vec<OpId> = Vec::new();
            let (mut list, mut model_list) = (List::default(), VecDeque::new());
            for (n, (choice, pick)) in choices.into_iter().enumerate() {
                let picked = model.keys().nth(pick as usize % model.len().max(1)).copied().map(OpId);
                match (choice, picked) {
                    (0 | 1, _) => match tracker.acquire() {
                        Some((slot, op)) => {
                            op.state = State::InFlight;
                            op.completion = Some(n as u64);
                            tracker.set_route(slot, pick as u8);
                            prop_assert!(model.insert(tracker.id(slot).0, n as u64).is_none());
                        }
                        None => prop_assert_eq!(model.len(), 16),
                    },
                    (2, Some(id)) => {
                        let slot = tracker.find(id).unwrap();
                        tracker.unlink(&mut list, ListKind::Resend, slot);
                        model_list.retain(|&other| other != slot);
                        prop_assert_eq!(tracker.release(slot), model.remove(&id.0));
                        retired.push(id);
                    }
                    (3, Some(id)) => {
                        tracker.push_back(&mut list, ListKind::Resend, id.slot());
                        if !model_list.contains(&id.slot()) {
                            model_list.push_back(id.slot());
                        }
                    }
                    (4, Some(id)) => {
                        tracker.unlink(&mut list, ListKind::Resend, id.slot());
                        model_list.retain(|&other| other != id.slot());
                    }
                    _ => {}
                }
                prop_assert_eq!(tracker.in_use(), model.len());
                prop_assert_eq!(list.front(), model_list.front().copied());
                for id in &retired {
                    prop_assert_eq!(tracker.find_text(&csv::hex16(id.0)), None);
                    prop_assert_eq!(tracker.find(*id), None);
                }
                for (id, completion) in &model {
                    let slot = tracker.find(OpId(*id)).unwrap();
                    prop_assert_eq!(tracker.get(slot).completion, Some(*completion));
                    let mut text = csv::hex16(*id);
                    prop_assert_eq!(tracker.find_text(&text), Some(slot));
                    prop_assert_eq!((tracker.id(slot).0, tracker.get(slot).id_text), (*id, text));
                    text[pick as usize % 16] ^= 1;
                    prop_assert_eq!(tracker.find_text(&text), None);
                    text[pick as usize % 16] = b'A';
                    prop_assert_eq!(tracker.find_text(&text), None);
                    prop_assert_eq!(tracker.find(OpId(id ^ 1)), None); // Another route.
                    prop_assert_eq!(tracker.find(OpId(id ^ (1 << 40))), None); // Another generation.
                }
            }
        }
    }

    #[test]
    fn an_operation_in_flight_costs_what_the_budget_allows() {
        // Issue 2, section 4: at most 256 B beside the payload, application-side state included; the timer node and
        // the free list are 24 + 4 bytes, an entry of the outcome queue at most 64. The runtime's own state is 16 bytes
        // that are never all zero.
        assert!(size_of::<Op<Box<[u8]>>>() <= 160, "{}", size_of::<Op<Box<[u8]>>>());
    }
}
