//! Operations of one number space that were transmitted and have no outcome yet, found by their sequence number.
//!
//! ```text
//!    low                      next          entries[seq & mask]; the ring grows, by doubling, to what is in flight
//!     |done|live|live|done|...|
//! ```
//!
//! Numbers are given out in order and ended in any order; `low` moves over what has ended. An entry is all a small message
//! costs beside its payload.

use crate::options::Priority;
use crate::units::Instant;
use std::time::Duration;

/// One operation. Small: with a million messages a second in flight, what it takes is what the cache holds less of.
#[derive(Clone, Debug)]
pub struct Entry<C> {
    /// What the caller gave; `None` once the operation has ended.
    pub completion: Option<C>,
    /// The caller's number.
    pub tag: u64,
    /// When it was accepted.
    pub accepted_at: Instant,
    times: Times,
    /// An acknowledgement of a datagram before this one (low 32 bits of its number) says nothing about the outcome: the
    /// receiver refused the operation for now (R-OUTCOME-6).
    valid_from: u32,
    /// Size of the payload; of a large message, known elsewhere.
    pub payload_bytes: u16,
    /// Datagrams it left in so far.
    pub tries: u8,
    marks: Marks,
}

/// What an entry has no byte each for: whether it waits, and its class, the normal one if no bit is set.
#[derive(Clone, Copy, Debug)]
struct Marks(u8);

impl Marks {
    const NONE: Self = Self(0);
    const WAITS: u8 = 1;
    const HIGH: u8 = 2;
    const LOW: u8 = 4;
    const CONTROL: u8 = Self::HIGH | Self::LOW;
}

impl<C> Entry<C> {
    /// An operation that leaves at `now` in datagram `packet` for the first time.
    #[inline]
    #[must_use]
    pub fn new(now: Instant, meta: Meta<C>, payload_bytes: usize, packet: u64) -> Self {
        let times = Times::of(now, &meta);
        Self::with_times(meta, times, payload_bytes, packet)
    }

    fn with_times(meta: Meta<C>, times: Times, payload_bytes: usize, packet: u64) -> Self {
        let Meta { completion, tag, accepted_at, .. } = meta;
        Self {
            completion: Some(completion),
            tag,
            accepted_at,
            times,
            valid_from: packet as u32,
            payload_bytes: payload_bytes.min(usize::from(u16::MAX)) as u16,
            tries: 1,
            marks: Marks::NONE,
        }
    }

    /// Refused for now, and not sent again yet: no acknowledgement counts.
    #[inline]
    #[must_use]
    pub const fn waits(&self) -> bool {
        self.marks.0 & Marks::WAITS != 0
    }

    /// It is refused for now; or there was no memory to send it again.
    pub const fn wait(&mut self) {
        self.marks.0 |= Marks::WAITS;
    }

    /// The class of a small message, of which nothing is on the wire; normal at first.
    pub const fn set_priority(&mut self, priority: Priority) {
        let class = match priority {
            Priority::Normal => 0,
            Priority::High => Marks::HIGH,
            Priority::Low => Marks::LOW,
            Priority::Control => Marks::CONTROL,
        };
        self.marks.0 = self.marks.0 & Marks::WAITS | class;
    }

    /// See [`set_priority`](Self::set_priority).
    #[must_use]
    pub const fn priority(&self) -> Priority {
        match self.marks.0 & Marks::CONTROL {
            0 => Priority::Normal,
            Marks::HIGH => Priority::High,
            Marks::LOW => Priority::Low,
            _ => Priority::Control,
        }
    }

    /// Whether an acknowledgement of datagram `packet`, which carried it, is one of the operation.
    #[inline]
    #[must_use]
    pub const fn counts(&self, packet: u64) -> bool {
        !self.waits() && (packet as u32).wrapping_sub(self.valid_from) as i32 >= 0
    }

    /// The datagram it left in first, or first since it was refused: the low 32 bits of its number.
    pub const fn left_in(&self) -> u32 {
        self.valid_from
    }

    /// It leaves in datagram `packet` after it was refused.
    pub const fn leaves_again(&mut self, packet: u64) {
        self.valid_from = packet as u32;
        self.marks.0 &= !Marks::WAITS;
        self.tries = self.tries.saturating_add(1);
    }

    /// When it expires.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.accepted_at + Duration::from_millis(self.times.lifetime_ms.into())
    }

    /// When it left for the first time, to the microsecond.
    #[must_use]
    pub fn first_sent_at(&self) -> Instant {
        self.accepted_at + Duration::from_nanos(self.queued_ns())
    }

    /// What it was made of, with its completion.
    #[must_use]
    pub fn meta<T>(&self, completion: T) -> Meta<T> {
        Meta { completion, tag: self.tag, accepted_at: self.accepted_at, deadline: self.deadline() }
    }

    /// From its acceptance to its first transmission.
    #[inline]
    #[must_use]
    pub const fn queued_ns(&self) -> u64 {
        self.times.queued_us as u64 * 1_000
    }

    /// The same in microseconds, as it is kept.
    #[inline]
    #[must_use]
    pub const fn queued_us(&self) -> u32 {
        self.times.queued_us
    }
}

/// How long an operation lives and has waited, as it is kept from its first transmission on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From its acceptance on, milliseconds.
    lifetime_ms: u32,
    /// From its acceptance to its first transmission, microseconds.
    queued_us: u32,
}

impl Times {
    /// Of one that leaves at `now`.
    #[inline(always)]
    #[must_use]
    pub fn of<C>(now: Instant, meta: &Meta<C>) -> Self {
        let lifetime_ms = meta.deadline.ns_since(meta.accepted_at).div_ceil(1_000_000);
        let queued_us = now.ns_since(meta.accepted_at) / 1_000;
        let clamp = |number: u64| number.min(u32::MAX.into()) as u32;
        Self { lifetime_ms: clamp(lifetime_ms), queued_us: clamp(queued_us) }
    }
}

/// What comes back with an outcome.
#[derive(Debug)]
pub struct Meta<C> {
    /// The runtime's.
    pub completion: C,
    /// The caller's.
    pub tag: u64,
    /// When it was accepted.
    pub accepted_at: Instant,
    /// When it expires.
    pub deadline: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct OpRing<C> {
    entries: Vec<Entry<C>>,
    low: u64,
    next: u64,
}

impl<C> OpRing<C> {
    /// An empty ring whose first number is `base`.
    #[must_use]
    pub const fn new(base: u64) -> Self {
        Self { entries: Vec::new(), low: base, next: base }
    }

    /// The lowest number that may still be sent.
    #[must_use]
    pub const fn low(&self) -> u64 {
        self.low
    }

    /// The number the next operation gets.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Whether nothing is in flight.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.low == self.next
    }

    /// Adds an operation; its number.
    pub fn push(&mut self, entry: Entry<C>) -> u64 {
        let seq = self.next;
        if (seq - self.low) as usize >= self.entries.len() {
            self.push_growing(entry);
        } else {
            let index = self.index(seq);
            self.entries[index] = entry;
        }
        self.next += 1;
        seq
    }

    /// Adds a message that leaves in datagram `packet` for the first time; its number. `times` are [its own](Times::of). Written in
    /// place: a copy of what was stored a moment ago would wait for the stores.
    #[inline(always)]
    pub fn push_small(&mut self, meta: Meta<C>, times: Times, payload_bytes: usize, packet: u64) -> u64 {
        let seq = self.next;
        if (seq - self.low) as usize >= self.entries.len() {
            self.push_growing(Entry::with_times(meta, times, payload_bytes, packet));
        } else {
            let index = self.index(seq);
            let entry = &mut self.entries[index];
            let Meta { completion, tag, accepted_at, .. } = meta;
            #[expect(
                clippy::mem_forget,
                reason = "what ended is gone: there is nothing to look for and drop"
            )]
            std::mem::forget(entry.completion.replace(completion));
            entry.tag = tag;
            entry.accepted_at = accepted_at;
            entry.times = times;
            entry.valid_from = packet as u32;
            entry.payload_bytes = payload_bytes.min(usize::from(u16::MAX)) as u16;
            entry.tries = 1;
            entry.marks = Marks::NONE;
        }
        self.next += 1;
        seq
    }

    /// The ring is full, or was never full and has not been filled up to here.
    #[cold]
    fn push_growing(&mut self, entry: Entry<C>) {
        let old = self.entries.len();
        let new = (old * 2).max(64);
        let mut grown = Vec::with_capacity(new);
        let filler = || Entry {
            completion: None,
            tag: 0,
            accepted_at: Instant::default(),
            times: Times::default(),
            valid_from: 0,
            payload_bytes: 0,
            tries: 0,
            marks: Marks::NONE,
        };
        grown.resize_with(new, filler);
        for seq in self.low..self.next {
            let from = seq as usize & (old - 1);
            std::mem::swap(&mut grown[seq as usize & (new - 1)], &mut self.entries[from]);
        }
        self.entries = grown;
        let index = self.index(self.next);
        self.entries[index] = entry;
    }

    fn index(&self, seq: u64) -> usize {
        seq as usize & (self.entries.len() - 1)
    }

    /// The operation `seq`, unless it has ended or never was.
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut Entry<C>> {
        if seq < self.low || seq >= self.next {
            return None;
        }
        let index = self.index(seq);
        let entry = &mut self.entries[index];
        entry.completion.is_some().then_some(entry)
    }

    /// Ends the operation `seq` and returns it; `None` if it has ended or never was. [`settle`](Self::settle) must follow.
    #[inline]
    pub fn take(&mut self, seq: u64) -> Option<(C, &Entry<C>)> {
        if seq < self.low || seq >= self.next {
            return None;
        }
        let index = self.index(seq);
        let entry = &mut self.entries[index];
        let completion = entry.completion.take()?;
        Some((completion, entry))
    }

    /// Ends those of `count` operations from `first` on that live and are wanted, in their order.
    /// [`settle`](Self::settle) must follow.
    #[inline(always)]
    pub fn take_run(
        &mut self,
        first: u64,
        count: u32,
        wanted: impl Fn(u64, &Entry<C>) -> bool,
        mut taken: impl FnMut(C, &Entry<C>),
    ) {
        for seq in first.max(self.low)..(first + u64::from(count)).min(self.next) {
            let index = self.index(seq);
            let entry = &mut self.entries[index];
            if wanted(seq, entry)
                && let Some(completion) = entry.completion.take()
            {
                taken(completion, entry);
            }
        }
    }

    /// Moves `low` over what has ended.
    pub fn settle(&mut self) {
        while self.low < self.next && self.entries[self.index(self.low)].completion.is_none() {
            self.low += 1;
        }
    }

    /// Numbers of the operations that live.
    pub fn live(&self) -> impl Iterator<Item = (u64, &Entry<C>)> {
        (self.low..self.next)
            .map(|seq| (seq, &self.entries[self.index(seq)]))
            .filter(|(_, entry)| entry.completion.is_some())
    }

    /// Bytes of its memory.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry<C>>()
    }

    /// Gives the memory back if nothing is in flight.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            self.entries = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn entry(tag: u64) -> Entry<u64> {
        let now = Instant::default();
        Entry::new(now, Meta { completion: tag, tag, accepted_at: now, deadline: now }, 1, 0)
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(base in any::<u32>(), ops in prop::collection::vec((0u8..5, any::<u16>()), 1..600)) {
            let base = u64::from(base);
            let mut ring = OpRing::new(base);
            let mut model = BTreeMap::new();
            for (n, (op, pick)) in ops.into_iter().enumerate() {
                match op {
                    0..=2 => {
                        let seq = ring.push(entry(n as u64));
                        prop_assert!(model.insert(seq, n as u64).is_none());
                    }
                    _ => {
                        let seq = base + u64::from(pick) % (ring.next() - base + 2);
                        let taken = ring.take(seq).map(|(completion, entry)| (completion, entry.tag));
                        prop_assert_eq!(taken, model.remove(&seq).map(|tag| (tag, tag)));
                        ring.settle();
                    }
                }
                prop_assert_eq!(ring.low(), model.keys().next().copied().unwrap_or(ring.next()));
                let live: Vec<_> = ring.live().map(|(seq, entry)| (seq, entry.tag)).collect();
                prop_assert_eq!(live, model.iter().map(|(&seq, &tag)| (seq, tag)).collect::<Vec<_>>());
            }
            let bound = (ring.next() - ring.low()) as usize;
            prop_assert!(ring.entries.len() <= 1_024 && ring.entries.len() >= bound);
        }
    }

    #[test]
    fn an_operation_costs_what_the_budget_allows() {
        // Issue 3: an in-flight small message costs at most 160 B beside its payload.
        assert!(size_of::<Entry<[usize; 2]>>() <= 56, "{}", size_of::<Entry<[usize; 2]>>());
    }

    #[test]
    fn a_class_outlives_refusals() {
        for priority in [Priority::Control, Priority::High, Priority::Normal, Priority::Low] {
            let mut entry = entry(1);
            assert_eq!((entry.priority(), entry.waits()), (Priority::Normal, false));
            entry.set_priority(priority);
            for packet in 1..3 {
                assert!(entry.counts(packet));
                entry.wait();
                assert_eq!((entry.priority(), entry.waits(), entry.counts(packet)), (priority, true, false));
                entry.leaves_again(packet + 1);
                assert_eq!((entry.priority(), entry.waits(), entry.counts(packet)), (priority, false, false));
            }
        }
    }
}
