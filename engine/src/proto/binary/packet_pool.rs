//! Memory of datagrams that may have to be sent again: written once when a message is put, read by the kernel when it is
//! sent, by the sender when it is lost, and released by its acknowledgement.
//!
//! ```text
//!   block (64 KiB)  |slot|slot|slot|slot| ...  |rest|     slots of one block are `stride` bytes, one after the other:
//!                   '------ one train ------'             consecutive slots of one flow leave as one GSO train
//! ```
//!
//! Flows on different paths send datagrams of different lengths in turn, so several blocks are filled at a time, one for
//! each of the lengths that were asked for last: a block for each change of length would be memory for one datagram.
//!
//! Owned by one shard. Taking and releasing a slot are O(1); the number of blocks is fixed at start. The bytes are lent
//! to the train batch while the kernel reads them ([`lend`](PacketPool::lend)), which costs a pointer swap.

use std::ops::Range;

/// Bytes of one block: the longest train fits into it.
pub const BLOCK_BYTES: usize = 1 << 16;
/// Slots of a block at most: what its bitmap holds.
pub const SLOTS_MAX: usize = 64;
/// Blocks being filled at a time: for the longest datagrams of IPv4 and IPv6, for those of 1,200 bytes, for path probes, and
/// for some paths between. Where there are more lengths than that, the one asked for longest ago leaves its block half empty.
const FILLING_MAX: usize = 8;

/// A slot. `block << 6 | index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    /// No slot: the datagram was not kept.
    pub const NONE: Self = Self(u32::MAX);

    const fn block(self) -> usize {
        (self.0 >> 6) as usize
    }

    const fn index(self) -> usize {
        (self.0 & 63) as usize
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Bit i: slot i is taken.
    taken: u64,
    stride: u32,
    /// Slots handed out since the block was last empty; only a block being filled has slots ahead.
    filled: u8,
}

/// See the module.
#[derive(Debug)]
pub struct PacketPool {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// The blocks being filled, the one of the length that was asked for last first. No other one of them is empty.
    filling: [Option<u32>; FILLING_MAX],
    taken: usize,
    /// Slots of all blocks that are not free, taken or not.
    cut: usize,
    /// Where the search for a slot that came back goes on.
    scattered_at: usize,
}

/// Slots of a block of this stride.
const fn slots(stride: usize) -> usize {
    let fit = BLOCK_BYTES / stride;
    if fit < SLOTS_MAX { fit } else { SLOTS_MAX }
}

impl PacketPool {
    /// A pool of `blocks` blocks. Their memory is touched as it comes into use.
    #[must_use]
    pub fn new(blocks: usize) -> Self {
        Self {
            bytes: vec![0; blocks * BLOCK_BYTES],
            blocks: vec![Block::default(); blocks],
            // The lowest first: what was used last is still in the cache.
            free: (0..blocks as u32).rev().collect(),
            filling: [None; FILLING_MAX],
            taken: 0,
            cut: 0,
            scattered_at: 0,
        }
    }

    /// Slots taken.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// A slot of `stride` bytes, directly behind the one of that stride taken before if its block has room.
    pub fn acquire(&mut self, stride: usize) -> Option<Slot> {
        debug_assert!(stride > 0 && stride <= BLOCK_BYTES);
        let current = match self.filling[0] {
            Some(block) if self.has_next(block, stride) => block,
            _ => match self.turn_to(stride) {
                Some(block) => block,
                None => return self.acquire_scattered(stride),
            },
        };
        let block = &mut self.blocks[current as usize];
        let index = u32::from(block.filled);
        block.filled += 1;
        block.taken |= 1 << index;
        self.taken += 1;
        Some(Slot(current << 6 | index))
    }

    /// The first block has nothing of this length: another one becomes the first that has, if there is memory.
    fn turn_to(&mut self, stride: usize) -> Option<u32> {
        let has_next = |block: &Option<u32>| block.is_some_and(|block| self.has_next(block, stride));
        let known = self.filling.iter().position(has_next);
        let empty = self.filling[0].filter(|&block| self.blocks[block as usize].taken == 0);
        let at = match (known, empty) {
            (Some(at), _) => {
                if let Some(block) = empty {
                    self.free(block);
                    self.filling[0] = None;
                }
                at
            }
            // Cut for another length.
            (None, Some(block)) => {
                self.cut -= slots(self.blocks[block as usize].stride as usize);
                self.cut(block, stride);
                0
            }
            (None, None) => {
                let block = self.free.pop()?;
                self.cut(block, stride);
                // In place of a full one of this length, if there is one.
                let is_full = |it: &Option<u32>| {
                    it.is_none_or(|block| self.blocks[block as usize].stride as usize == stride)
                };
                let at = self.filling.iter().position(is_full).unwrap_or(FILLING_MAX - 1);
                self.filling[at] = Some(block);
                at
            }
        };
        self.filling[..=at].rotate_right(1);
        self.filling[0]
    }

    fn cut(&mut self, block: u32, stride: usize) {
        self.blocks[block as usize] = Block { taken: 0, stride: stride as u32, filled: 0 };
        self.cut += slots(stride);
    }

    fn free(&mut self, block: u32) {
        self.cut -= slots(self.blocks[block as usize].stride as usize);
        self.free.push(block);
    }

    /// No block is empty: a slot that came back in one that is not, of the same length or longer. A datagram whose peer is
    /// gone would otherwise keep a whole block from everybody else. Looked for from where the last one was found: thousands of
    /// flows may ask while all is taken.
    fn acquire_scattered(&mut self, stride: usize) -> Option<Slot> {
        if self.taken == self.cut {
            return None;
        }
        let has_room = |&number: &usize| {
            let block = &self.blocks[number];
            let of_block = block.stride as usize;
            of_block >= stride && (block.taken.count_ones() as usize) < slots(of_block)
        };
        let number = (self.scattered_at..self.blocks.len()).chain(0..self.scattered_at).find(has_room)?;
        self.scattered_at = number;
        let block = &mut self.blocks[number];
        let index = block.taken.trailing_ones();
        block.taken |= 1 << index;
        block.filled = block.filled.max(index as u8 + 1);
        self.taken += 1;
        Some(Slot((number as u32) << 6 | index))
    }

    /// Whether somebody who holds `count` slots of `stride` bytes may take another one: as long as no more than that is in
    /// blocks that nobody uses (R-LOSS-11). So one holds half of all, n that nobody answers n/(n + 1), and there is always
    /// some for the next. After Choudhury and Hahne, "Dynamic Queue Length Thresholds", IEEE/ACM ToN 6(2), 1998.
    #[inline]
    #[must_use]
    pub const fn is_fair(&self, count: usize, stride: usize) -> bool {
        count * stride / BLOCK_BYTES <= self.free.len()
    }

    fn has_next(&self, block: u32, stride: usize) -> bool {
        let block = self.blocks[block as usize];
        block.stride as usize == stride
            && (block.filled as usize) < slots(stride)
            && block.taken >> block.filled == 0
    }

    /// The next slot of the same length would not follow the one taken before: a train ends here.
    #[must_use]
    pub fn ends_train(&self) -> bool {
        self.filling[0].is_none_or(|block| !self.has_next(block, self.blocks[block as usize].stride as usize))
    }

    /// Slots that can be taken without another one being released, at least.
    #[cfg(test)]
    #[must_use]
    pub fn room(&self, stride: usize) -> usize {
        let slots = slots(stride.max(1));
        let filling = self.filling.iter().flatten().filter(|&&block| self.has_next(block, stride));
        let rest: usize = filling.map(|&block| slots - self.blocks[block as usize].filled as usize).sum();
        rest + self.free.len() * slots
    }

    /// Gives a slot back.
    ///
    /// # Panics
    /// If it is not taken: our bug.
    pub fn release(&mut self, slot: Slot) {
        let block = &mut self.blocks[slot.block()];
        let bit = 1 << slot.index();
        assert!(block.taken & bit != 0, "released twice");
        block.taken &= !bit;
        self.taken -= 1;
        if block.taken == 0 {
            let number = slot.block() as u32;
            if self.filling[0] == Some(number) {
                block.filled = 0; // Empty again, still the first one being filled.
                return;
            }
            if let Some(other) = self.filling.iter_mut().find(|it| **it == Some(number)) {
                *other = None;
            }
            self.free(number);
        }
    }

    /// Where a slot's bytes are.
    #[must_use]
    pub fn range(&self, slot: Slot) -> Range<usize> {
        let stride = self.blocks[slot.block()].stride as usize;
        let start = slot.block() * BLOCK_BYTES + slot.index() * stride;
        start..start + stride
    }

    /// A slot's bytes.
    #[must_use]
    pub fn bytes(&self, slot: Slot) -> &[u8] {
        &self.bytes[self.range(slot)]
    }

    /// So many bytes from here on.
    #[must_use]
    pub fn piece(&self, start: usize, len: usize) -> &[u8] {
        &self.bytes[start..start + len]
    }

    /// So many bytes from here on.
    #[inline]
    pub fn piece_mut(&mut self, start: usize, len: usize) -> &mut [u8] {
        &mut self.bytes[start..start + len]
    }

    /// A slot's bytes.
    pub fn bytes_mut(&mut self, slot: Slot) -> &mut [u8] {
        let range = self.range(slot);
        &mut self.bytes[range]
    }

    /// The first `len` bytes of one slot, and those of another, to be written.
    pub fn copy_pair(&mut self, from: Slot, to: Slot) -> (&[u8], &mut [u8]) {
        let (from, to) = (self.range(from), self.range(to));
        assert!(from.end <= to.start || to.end <= from.start);
        if from.start < to.start {
            let (low, high) = self.bytes.split_at_mut(to.start);
            (&low[from], &mut high[..to.end - to.start])
        } else {
            let (low, high) = self.bytes.split_at_mut(from.start);
            (&high[..from.end - from.start], &mut low[to])
        }
    }

    /// The memory itself, to be swapped into the batch that is sent from it, and back.
    pub fn lend(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn consecutive_slots_of_one_stride_touch() {
        let mut pool = PacketPool::new(2);
        let slots: Vec<Slot> = (0..44).map(|_| pool.acquire(1_472).unwrap()).collect();
        for pair in slots.windows(2) {
            assert_eq!(pool.range(pair[0]).end, pool.range(pair[1]).start);
        }
        assert_eq!(pool.room(1_472), 44);
        let other = pool.acquire(65_507).unwrap();
        assert_eq!(pool.bytes(other).len(), 65_507);
        assert!(pool.acquire(1_472).is_none());
        for slot in slots {
            pool.release(slot);
        }
        assert!(pool.acquire(100).is_some());
    }

    /// Flows on different paths in turn, one of them probing its own: what they take is what their datagrams need.
    #[test]
    fn lengths_in_turn_do_not_take_a_block_each_time() {
        let strides = [1_472, 1_200, 2_048, 1_452, 1_404, 512];
        let mut pool = PacketPool::new(64);
        let mut slots: Vec<Vec<Slot>> = vec![Vec::new(); strides.len()];
        for _ in 0..100 {
            for (taken, &stride) in slots.iter_mut().zip(&strides) {
                taken.push(pool.acquire(stride).unwrap());
            }
        }
        let needed = |stride: usize| 100_usize.div_ceil((BLOCK_BYTES / stride).min(SLOTS_MAX));
        assert_eq!(64 - pool.free.len(), strides.into_iter().map(needed).sum::<usize>());
        // Those of one length still make trains.
        for taken in &slots {
            let apart = |pair: &&[Slot]| pool.range(pair[0]).end != pool.range(pair[1]).start;
            assert!(taken.windows(2).filter(apart).count() < 4);
        }
        slots.into_iter().flatten().for_each(|slot| pool.release(slot));
        assert_eq!((pool.taken(), pool.free.len()), (0, 63), "one is still being filled");
    }

    /// More lengths than blocks are filled at a time, and more than there are blocks: what is shorter than some goes with it.
    #[test]
    fn with_any_number_of_lengths_memory_is_bounded_and_comes_back() {
        let mut pool = PacketPool::new(4);
        for round in 0..50 {
            let mut held = Vec::new();
            for datagram in 0_usize..400 {
                let stride = 1_200 + (datagram * 7 + round) % 20 * 16;
                let Some(slot) = pool.acquire(stride) else { continue };
                assert!(pool.range(slot).len() >= stride && pool.range(slot).end <= 4 * BLOCK_BYTES);
                held.push(slot);
            }
            // Four blocks have 172 slots of the longest of these lengths; some are longer than the slots of every block.
            assert!(held.len() >= 100, "{}", held.len());
            held.into_iter().for_each(|slot| pool.release(slot));
            assert_eq!((pool.taken(), pool.free.len()), (0, 3));
        }
    }

    #[test]
    fn an_empty_block_is_cut_anew_and_a_longer_slot_will_do() {
        let mut pool = PacketPool::new(1);
        for stride in [1_200, 1_472, 66, 1_472, 65_507] {
            let slot = pool.acquire(stride).unwrap();
            assert_eq!(pool.bytes(slot).len(), stride);
            pool.release(slot);
        }
        let slots: Vec<Slot> = (0..44).map(|_| pool.acquire(1_472).unwrap()).collect();
        assert!(pool.acquire(1_472).is_none());
        pool.release(slots[7]);
        let short = pool.acquire(1_200).unwrap();
        assert!(short == slots[7] && pool.bytes(short).len() == 1_472);
        assert!(pool.acquire(66).is_none());
    }

    proptest! {
        #[test]
        fn slots_never_overlap_and_all_come_back(ops in prop::collection::vec((any::<bool>(), 0usize..64, 0usize..4), 1..300)) {
            let strides = [100, 1_452, 1_472, 65_507];
            let mut pool = PacketPool::new(4);
            let mut held: Vec<Slot> = Vec::new();
            for (take, pick, stride) in ops {
                if take {
                    let room = pool.room(strides[stride]);
                    match pool.acquire(strides[stride]) {
                        Some(slot) => {
                            let range = pool.range(slot);
                            prop_assert!(range.end <= 4 * BLOCK_BYTES);
                            for &other in &held {
                                let other = pool.range(other);
                                prop_assert!(range.end <= other.start || other.end <= range.start);
                            }
                            held.push(slot);
                        }
                        None => prop_assert_eq!(room, 0),
                    }
                } else if !held.is_empty() {
                    pool.release(held.swap_remove(pick % held.len()));
                }
                prop_assert_eq!(pool.taken(), held.len());
                let in_use = (0..4).filter(|block| !pool.free.contains(block));
                let cut = in_use.map(|block| pool.blocks[block as usize].stride as usize).filter(|&it| it > 0);
                prop_assert_eq!(pool.cut, cut.map(slots).sum::<usize>());
            }
            for slot in held.drain(..) {
                pool.release(slot);
            }
            let whole = pool.room(1_472);
            prop_assert!(whole >= 3 * 44, "{}", whole);
        }
    }
}
