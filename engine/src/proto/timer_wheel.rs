//! A hierarchical timer wheel over a slab's indices: arm, re-arm and disarm in O(1), no allocation, one timer per index.
//!
//! Six levels of 64 buckets; a tick is 2^17 ns (131 us), so the wheel spans about 104 days. A timer sits on the level of
//! the highest bit in which its tick differs from the current one and moves down as time passes (Varghese & Lauck 1987,
//! scheme 7). It never fires early; it fires late by at most one tick.
//!
//! ```text
//!   level 0: ticks   0..63 of the current 64      | | | |x| ...     x = list of timers, linked through `nodes`
//!   level 1: each bucket is 64 ticks              | |x| | | ...
//! ```

use crate::units::Instant;

const TICK_SHIFT: u32 = 17;
const LEVEL_BITS: u32 = 6;
const BUCKETS: usize = 1 << LEVEL_BITS;
const LEVELS: usize = 6;
const NONE: u32 = u32::MAX;
/// Bucket number of timers that are due and not yet popped.
const DUE: u16 = (LEVELS * BUCKETS) as u16;
/// Bucket number of timers that are not armed.
const IDLE: u16 = u16::MAX;
/// The farthest ahead a timer can be; later ones fire then, and whoever armed them looks at the clock and arms again.
/// One bucket less than the top level has: a full turn ahead would be the current bucket.
const SPAN_TICKS: u64 = (1 << (LEVEL_BITS * LEVELS as u32)) - (1 << (LEVEL_BITS * (LEVELS as u32 - 1))) - 1;

#[derive(Clone, Copy, Debug)]
struct Node {
    tick: u64,
    next: u32,
    prev: u32,
    bucket: u16,
}

const IDLE_NODE: Node = Node { tick: 0, next: NONE, prev: NONE, bucket: IDLE };

/// See the module.
#[derive(Debug)]
pub struct TimerWheel {
    nodes: Vec<Node>,
    heads: Vec<u32>,
    occupied: [u64; LEVELS],
    tick: u64,
    armed: usize,
}

impl TimerWheel {
    /// An empty wheel whose time is `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            nodes: Vec::new(),
            heads: vec![NONE; LEVELS * BUCKETS + 1],
            occupied: [0; LEVELS],
            tick: now.as_ns() >> TICK_SHIFT,
            armed: 0,
        }
    }

    /// Sets the timer of `index`, whether it was armed or not. `at` in the past fires at the next advance.
    pub fn arm(&mut self, index: u32, at: Instant) {
        match self.nodes.get(index as usize) {
            Some(node) if node.bucket == IDLE => {}
            Some(_) => self.disarm(index),
            None => self.nodes.resize(index as usize + 1, IDLE_NODE),
        }
        // Round up: a timer never fires early.
        let tick = at.as_ns().saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT;
        let tick = tick.clamp(self.tick + 1, self.tick + SPAN_TICKS);
        self.nodes[index as usize].tick = tick;
        self.armed += 1;
        self.link(index, self.bucket_of(tick));
    }

    /// Sets the timer of `index` unless it is armed for an earlier time.
    pub fn arm_earlier(&mut self, index: u32, at: Instant) {
        let armed = self.nodes.get(index as usize).is_some_and(|node| {
            node.bucket != IDLE && node.tick <= at.as_ns().saturating_add((1 << TICK_SHIFT) - 1) >> TICK_SHIFT
        });
        if !armed {
            self.arm(index, at);
        }
    }

    /// Clears the timer of `index`, if it is armed.
    pub fn disarm(&mut self, index: u32) {
        let Some(node) = self.nodes.get(index as usize).copied() else { return };
        if node.bucket == IDLE {
            return;
        }
        self.armed -= 1;
        match node.prev {
            NONE => {
                self.heads[node.bucket as usize] = node.next;
                if node.next == NONE && node.bucket != DUE {
                    self.occupied[node.bucket as usize / BUCKETS] &= !(1 << (node.bucket as usize % BUCKETS));
                }
            }
            prev => self.nodes[prev as usize].next = node.next,
        }
        if node.next != NONE {
            self.nodes[node.next as usize].prev = node.prev;
        }
        self.nodes[index as usize].bucket = IDLE;
    }

    /// Moves time forward: timers at or before `now` become due.
    pub fn advance(&mut self, now: Instant) {
        let target = now.as_ns() >> TICK_SHIFT;
        while let Some((level, bucket, start)) = self.next_bucket() {
            if start > target {
                break;
            }
            self.tick = start.max(self.tick);
            let bucket_index = level * BUCKETS + bucket;
            let mut index = std::mem::replace(&mut self.heads[bucket_index], NONE);
            self.occupied[level] &= !(1 << bucket);
            while index != NONE {
                let node = self.nodes[index as usize];
                let to = if node.tick <= self.tick { DUE } else { self.bucket_of(node.tick) };
                self.link(index, to);
                index = node.next;
            }
        }
        self.tick = self.tick.max(target);
    }

    /// One timer that is due; it is disarmed. Order among due timers is unspecified.
    pub fn pop_due(&mut self) -> Option<u32> {
        let index = self.heads[DUE as usize];
        if index == NONE {
            return None;
        }
        self.disarm(index);
        Some(index)
    }

    /// When to advance next, if any timer is armed: not later than the earliest timer, possibly earlier.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.heads[DUE as usize] != NONE {
            return Some(Instant::from_ns(self.tick << TICK_SHIFT));
        }
        self.next_bucket().map(|(_, _, start)| Instant::from_ns(start << TICK_SHIFT))
    }

    /// Number of armed timers, due ones included.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn armed(&self) -> usize {
        self.armed
    }

    /// The level is that of the highest six-bit digit in which `tick` differs from the current one.
    fn bucket_of(&self, tick: u64) -> u16 {
        let differing = (tick ^ self.tick) | (BUCKETS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / LEVEL_BITS).min(LEVELS as u32 - 1);
        let bucket = (tick >> (LEVEL_BITS * level)) as usize % BUCKETS;
        (level as usize * BUCKETS + bucket) as u16
    }

    fn link(&mut self, index: u32, bucket: u16) {
        let head = std::mem::replace(&mut self.heads[bucket as usize], index);
        if head != NONE {
            self.nodes[head as usize].prev = index;
        }
        let node = &mut self.nodes[index as usize];
        (node.next, node.prev, node.bucket) = (head, NONE, bucket);
        if bucket != DUE {
            self.occupied[bucket as usize / BUCKETS] |= 1 << (bucket as usize % BUCKETS);
        }
    }

    /// The occupied bucket whose time starts first: (level, bucket, first tick).
    ///
    /// The lowest occupied level has it, except that the top level wraps: there, buckets behind the current one belong
    /// to the next turn of the wheel.
    fn next_bucket(&self) -> Option<(usize, usize, u64)> {
        let mut best: Option<(usize, usize, u64)> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = LEVEL_BITS * level as u32;
            let here = (self.tick >> shift) as usize % BUCKETS;
            let ahead = self.occupied[level].rotate_right(here as u32).trailing_zeros() as usize;
            let bucket = (here + ahead) % BUCKETS;
            let start = ((self.tick >> shift) + ahead as u64) << shift;
            if best.is_none_or(|(_, _, earliest)| start < earliest) {
                best = Some((level, bucket, start));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[derive(Clone, Debug)]
    enum Op {
        Arm(u32, u64),
        Disarm(u32),
        Advance(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Delays from nanoseconds to months, so that every level and the clamp are met.
        let delay = (0u32..54, any::<u64>()).prop_map(|(bits, x)| x & ((1 << bits) - 1));
        prop_oneof![
            (0u32..50, delay.clone()).prop_map(|(i, d)| Op::Arm(i, d)),
            (0u32..50).prop_map(Op::Disarm),
            delay.prop_map(Op::Advance),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn agrees_with_a_sorted_map(start in any::<u32>(), ops in prop::collection::vec(op(), 1..200)) {
            let mut now = Instant::from_ns(u64::from(start) << 20);
            let mut wheel = TimerWheel::new(now);
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Arm(index, delay) => {
                        let at = now + Duration::from_nanos(delay);
                        wheel.arm(index, at);
                        model.insert(index, at);
                    }
                    Op::Disarm(index) => {
                        wheel.disarm(index);
                        model.remove(&index);
                    }
                    Op::Advance(delay) => {
                        now += Duration::from_nanos(delay);
                        wheel.advance(now);
                        while let Some(index) = wheel.pop_due() {
                            let at = model.remove(&index);
                            prop_assert!(at.is_some_and(|at| at <= now), "fired early or unarmed: {index}");
                        }
                        let tick = Duration::from_nanos(1 << TICK_SHIFT);
                        for (index, at) in &model {
                            prop_assert!(*at + tick > now, "late: {index}");
                        }
                    }
                }
                prop_assert_eq!(wheel.armed(), model.len());
                let earliest = model.values().min().copied();
                match (wheel.next_deadline(), earliest) {
                    (None, None) => {}
                    (Some(wake), Some(at)) => {
                        prop_assert!(wake <= at.max(now) + Duration::from_nanos(2 << TICK_SHIFT));
                    }
                    (wake, at) => prop_assert!(false, "{wake:?} but earliest {at:?}"),
                }
            }
        }
    }

    #[test]
    fn waking_at_the_next_deadline_fires_everything_in_bounded_steps() {
        let mut now = Instant::from_ns(12_345);
        let mut wheel = TimerWheel::new(now);
        for index in 0..1_000 {
            wheel.arm(index, now + Duration::from_micros(u64::from(index) * 7_919));
        }
        let (mut fired, mut wakes) = (0, 0);
        while let Some(at) = wheel.next_deadline() {
            now = now.max(at);
            wheel.advance(now);
            while wheel.pop_due().is_some() {
                fired += 1;
            }
            wakes += 1;
            assert!(wakes < 5_000, "the wheel wakes without making progress");
        }
        assert_eq!(fired, 1_000);
    }
}
