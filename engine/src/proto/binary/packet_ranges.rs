//! The packet numbers received in one flow, as ranges, for the acknowledgements we send.
//!
//! ```text
//!   floor          lower[0]      lower[1]         top
//!     |  too old <-  |#####|  .  |##|  .  .  |#########| next
//!                                                        ^ a packet in order moves only this
//! ```
//!
//! Ranges are half open. Without loss there is one, and nothing on the heap. At most [`RANGES_MAX`] are kept, so that an
//! ACK frame holds all of them: one more, and the oldest is forgotten. What it covered is never acknowledged again, nor
//! taken again: it is too old (RFC 9000, 13.2.3; R-PN-2). Cost: O(1) in order, else a search from the top of at most 31
//! ranges.

/// Ranges remembered.
pub const RANGES_MAX: usize = 32;
/// The end of the packet numbers: a datagram with number `u64::MAX` is never taken.
const PN_END: u64 = u64::MAX;

/// What a packet number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Not received before.
    New,
    /// Received before.
    Duplicate,
    /// Too far behind to know, or before the first number of the flow: drop the packet, do not acknowledge it.
    TooOld,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

/// See the module.
#[derive(Debug)]
pub struct PacketRanges {
    /// The highest range; empty only while there is none.
    top: Range,
    /// Numbers below it are too old.
    floor: u64,
    /// The ranges below `top`, ascending.
    lower: Vec<Range>,
    out_of_order: bool,
}

impl PacketRanges {
    /// Nothing received; `first` is the first number the peer uses (HELLO).
    #[must_use]
    pub const fn new(first: u64) -> Self {
        let top = Range { start: first, end: first };
        Self { top, floor: first, lower: Vec::new(), out_of_order: false }
    }

    /// What outlives a pause: the highest range. Numbers below it are too old then (R-FLOW-14).
    #[must_use]
    pub const fn fold(&self) -> (u64, u64) {
        (self.top.start, self.top.end)
    }

    /// After the pause.
    #[must_use]
    pub const fn unfold((start, end): (u64, u64)) -> Self {
        let mut ranges = Self::new(start);
        ranges.top.end = end;
        ranges
    }

    /// Notes the packet as received if it is new.
    #[inline]
    pub fn insert(&mut self, pn: u64) -> Arrival {
        if pn == self.top.end && pn < PN_END {
            self.top.end += 1;
            return Arrival::New;
        }
        self.insert_out_of_order(pn)
    }

    #[cold]
    fn insert_out_of_order(&mut self, pn: u64) -> Arrival {
        let arrival = self.check(pn);
        if arrival != Arrival::New {
            return arrival;
        }
        self.out_of_order = true;
        let alone = Range { start: pn, end: pn + 1 };
        if self.is_empty() {
            self.top = alone;
            return Arrival::New;
        }
        let above = self.lower_ranges_up_to(pn);
        if pn >= self.top.end {
            let below = std::mem::replace(&mut self.top, alone);
            self.insert_lower(above, below);
            return Arrival::New;
        }
        let joins_below = above > 0 && self.lower[above - 1].end == pn;
        let next_above = self.lower.get_mut(above).unwrap_or(&mut self.top);
        match (joins_below, next_above.start == alone.end) {
            (true, false) => self.lower[above - 1].end = alone.end,
            (false, true) => next_above.start = pn,
            (true, true) => {
                let below = self.lower.remove(above - 1);
                self.lower.get_mut(above - 1).unwrap_or(&mut self.top).start = below.start;
            }
            (false, false) => self.insert_lower(above, alone),
        }
        Arrival::New
    }

    /// What the number is, without noting it: for a datagram that may yet have to be dropped whole.
    #[must_use]
    pub fn check(&self, pn: u64) -> Arrival {
        if pn < self.floor || pn == PN_END {
            return Arrival::TooOld;
        }
        if pn >= self.top.end || self.is_empty() {
            return Arrival::New;
        }
        if pn >= self.top.start {
            return Arrival::Duplicate;
        }
        let above = self.lower_ranges_up_to(pn);
        if above > 0 {
            return if pn < self.lower[above - 1].end { Arrival::Duplicate } else { Arrival::New };
        }
        // It would be the oldest range, the one that has no place.
        let next_above = self.lower.first().unwrap_or(&self.top);
        if self.lower.len() + 1 == RANGES_MAX && next_above.start != pn + 1 {
            return Arrival::TooOld;
        }
        Arrival::New
    }

    /// How many lower ranges start at or below `pn`. From the top: what comes out of order is rarely late by much.
    fn lower_ranges_up_to(&self, pn: u64) -> usize {
        self.lower.iter().rposition(|range| range.start <= pn).map_or(0, |index| index + 1)
    }

    fn insert_lower(&mut self, mut index: usize, range: Range) {
        if self.lower.len() + 1 == RANGES_MAX {
            // `check` made sure that it is not the new range that would be forgotten.
            self.floor = self.lower.remove(0).end;
            index -= 1;
        }
        self.lower.insert(index, range);
    }

    /// Forgets the numbers below `pn`, but none not received yet at the top: the peer has seen an ACK that covered them.
    #[cfg(any(test, feature = "internals"))]
    pub fn forget_below(&mut self, pn: u64) {
        let floor = pn.min(self.top.end);
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let gone = self.lower.iter().take_while(|range| range.end <= floor).count();
        self.lower.drain(..gone);
        if self.lower.is_empty() {
            // An idle flow has nothing on the heap, also after a loss.
            self.lower = Vec::new();
        }
        let oldest = self.lower.first_mut().unwrap_or(&mut self.top);
        oldest.start = oldest.start.max(floor);
    }

    /// Nothing is there to acknowledge.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.top.start == self.top.end
    }

    /// The largest number received and not forgotten.
    #[must_use]
    pub const fn largest(&self) -> Option<u64> {
        if self.is_empty() { None } else { Some(self.top.end - 1) }
    }

    /// The ranges, the highest first, as (smallest, largest).
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let top = (!self.is_empty()).then_some(&self.top);
        top.into_iter().chain(self.lower.iter().rev()).map(|range| (range.start, range.end - 1))
    }

    /// How many ranges there are.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn range_count(&self) -> usize {
        if self.is_empty() { 0 } else { 1 + self.lower.len() }
    }

    /// A new packet since the last ACK was not the next in order: the sender should hear of it at once (RFC 9000,
    /// 13.2.1), provided that there is one that asks for it.
    #[must_use]
    pub const fn is_out_of_order(&self) -> bool {
        self.out_of_order
    }

    /// An ACK frame with these ranges was sent.
    pub const fn handle_ack_sent(&mut self) {
        self.out_of_order = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Every number by itself.
    #[derive(Default)]
    struct Model {
        received: BTreeSet<u64>,
        floor: u64,
        next: u64,
    }

    impl Model {
        fn ranges(&self) -> Vec<(u64, u64)> {
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            for &pn in self.received.iter().rev() {
                match ranges.last_mut() {
                    Some(last) if last.0 == pn + 1 => last.0 = pn,
                    _ => ranges.push((pn, pn)),
                }
            }
            ranges
        }

        fn insert(&mut self, pn: u64) -> Arrival {
            if pn < self.floor || pn == u64::MAX {
                return Arrival::TooOld;
            }
            if !self.received.insert(pn) {
                return Arrival::Duplicate;
            }
            if let Some(&oldest) = self.ranges().get(RANGES_MAX) {
                if oldest.0 == pn {
                    self.received.remove(&pn);
                    return Arrival::TooOld;
                }
                self.received.retain(|&other| other > oldest.1);
                self.floor = oldest.1 + 1;
            }
            self.next = self.next.max(pn + 1);
            Arrival::New
        }

        fn forget_below(&mut self, pn: u64) {
            self.floor = self.floor.max(pn.min(self.next));
            self.received.retain(|&other| other >= self.floor);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Relative to the largest.
        Insert(i64),
        Forget(i64),
        Acknowledge,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => Just(Op::Insert(1)),
            4 => (-100i64..6).prop_map(Op::Insert),
            1 => (-130i64..6).prop_map(Op::Forget),
            1 => Just(Op::Acknowledge),
        ]
    }

    fn first() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            Just(1),
            0u64..200,
            (0u64..200).prop_map(|n| u64::MAX - n),
            (0u64..200).prop_map(|n| (1 << 32) - n),
            (0u64..200).prop_map(|n| (1 << 62) - n),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn agrees_with_a_set(first in first(), ops in prop::collection::vec(op(), 1..300)) {
            let mut ranges = PacketRanges::new(first);
            let mut model = Model { floor: first, next: first, ..Model::default() };
            let mut out_of_order = false;
            for op in ops {
                match op {
                    Op::Insert(step) => {
                        let pn = model.next.saturating_add_signed(step - 1);
                        let in_order = pn == model.next;
                        let expected = model.insert(pn);
                        prop_assert_eq!(ranges.check(pn), expected);
                        prop_assert_eq!(ranges.insert(pn), expected);
                        if expected == Arrival::New {
                            out_of_order |= !in_order;
                            prop_assert_eq!(ranges.insert(pn), Arrival::Duplicate);
                        }
                    }
                    Op::Forget(step) => {
                        let pn = model.next.saturating_add_signed(step);
                        ranges.forget_below(pn);
                        model.forget_below(pn);
                    }
                    Op::Acknowledge => {
                        ranges.handle_ack_sent();
                        out_of_order = false;
                    }
                }
                prop_assert_eq!(ranges.ranges().collect::<Vec<_>>(), model.ranges());
                prop_assert_eq!(ranges.range_count(), model.ranges().len());
                prop_assert_eq!(ranges.largest(), model.received.last().copied());
                prop_assert_eq!(ranges.is_empty(), model.received.is_empty());
                prop_assert_eq!(ranges.is_out_of_order(), out_of_order);
            }
        }
    }

    /// All orders, with repetitions, in which seven packets can arrive.
    #[test]
    fn every_sequence_of_seven_arrivals_agrees_with_a_set() {
        for sequence in 0..7u32.pow(7) {
            let mut ranges = PacketRanges::new(0);
            let mut model = Model::default();
            let mut rest = sequence;
            for _ in 0..7 {
                let pn = u64::from(rest % 7);
                rest /= 7;
                assert_eq!(ranges.insert(pn), model.insert(pn), "{sequence}");
            }
            assert!(ranges.ranges().eq(model.ranges()), "{sequence}");
        }
    }

    #[test]
    fn without_loss_nothing_is_on_the_heap() {
        let mut ranges = PacketRanges::new(7);
        for pn in 7..10_000 {
            assert_eq!(ranges.insert(pn), Arrival::New);
        }
        assert!(!ranges.is_out_of_order());
        assert_eq!(ranges.lower.capacity(), 0);
        assert_eq!(ranges.ranges().collect::<Vec<_>>(), [(7, 9_999)]);
    }

    #[test]
    fn the_oldest_range_makes_room_and_what_it_covered_is_too_old() {
        let mut ranges = PacketRanges::new(0);
        for pn in 0..RANGES_MAX as u64 {
            assert_eq!(ranges.insert(pn * 3), Arrival::New);
        }
        assert_eq!(ranges.range_count(), RANGES_MAX);
        assert_eq!(ranges.insert(200), Arrival::New);
        assert_eq!(ranges.range_count(), RANGES_MAX);
        assert_eq!(ranges.insert(0), Arrival::TooOld);
        assert_eq!(ranges.insert(1), Arrival::TooOld, "it would be the oldest of 33 ranges");
        assert_eq!(ranges.insert(2), Arrival::New, "it joins the oldest range");
        assert_eq!(ranges.insert(1), Arrival::New, "now this one does, too");
        assert_eq!(ranges.insert(4), Arrival::New);
        assert_eq!(ranges.ranges().last(), Some((1, 4)));
        ranges.forget_below(200);
        assert_eq!(ranges.ranges().collect::<Vec<_>>(), [(200, 200)]);
        assert_eq!(ranges.lower.capacity(), 0);
    }

    #[test]
    fn what_was_forgotten_is_too_old_and_the_next_is_in_order() {
        let mut ranges = PacketRanges::new(0);
        assert_eq!(ranges.insert(0), Arrival::New);
        ranges.forget_below(u64::MAX);
        assert!(ranges.is_empty());
        assert_eq!(ranges.largest(), None);
        assert_eq!(ranges.insert(0), Arrival::TooOld);
        assert_eq!(ranges.insert(1), Arrival::New);
        assert!(!ranges.is_out_of_order());
        assert_eq!(ranges.insert(u64::MAX), Arrival::TooOld);
        assert_eq!(ranges.insert(u64::MAX - 1), Arrival::New);
        assert_eq!(ranges.insert(u64::MAX), Arrival::TooOld, "even in order");
    }
}
