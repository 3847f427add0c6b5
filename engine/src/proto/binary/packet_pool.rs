//! Memory of datagrams that may have to be sent again: written once when a message is put, read by the kernel when it is
//! sent, by the sender when it is lost, and released by its acknowledgement.
//!
//! ```text
//!   block (64 KiB)  |slot|slot|slot|slot| ...  |rest|     slots of one block are `stride` bytes, one after the other:
//!                   '------ one train ------'             consecutive slots of one flow leave as one GSO train
//! ```
//!
//! Owned by one shard. Taking and releasing a slot are O(1); the number of blocks is fixed at start. The bytes are lent
//! to the train batch while the kernel reads them ([`lend`](PacketPool::lend)), which costs a pointer swap.

use std::ops::Range;

/// Bytes of one block: the longest train fits into it.
pub const BLOCK_BYTES: usize = 1 << 16;
/// Slots of a block at most: what its bitmap holds.
const SLOTS_MAX: usize = 64;

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
    /// Slots handed out since the block was last empty; only the block being filled has slots ahead.
    filled: u8,
}

/// See the module.
#[derive(Debug)]
pub struct PacketPool {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// The block being filled.
    current: Option<u32>,
    taken: usize,
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
            current: None,
            taken: 0,
        }
    }

    /// Slots taken.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// A slot of `stride` bytes, directly behind the one taken before if that had the same stride and its block has room.
    pub fn acquire(&mut self, stride: usize) -> Option<Slot> {
        debug_assert!(stride > 0 && stride <= BLOCK_BYTES);
        let current = match self.current {
            Some(block) if self.has_next(block, stride) => block,
            Some(block) if self.blocks[block as usize].taken == 0 => {
                // Empty, and cut for another length.
                self.blocks[block as usize] = Block { taken: 0, stride: stride as u32, filled: 0 };
                block
            }
            _ => {
                let Some(block) = self.free.pop() else { return self.acquire_scattered(stride) };
                self.current = Some(block);
                self.blocks[block as usize] = Block { taken: 0, stride: stride as u32, filled: 0 };
                block
            }
        };
        let block = &mut self.blocks[current as usize];
        let index = u32::from(block.filled);
        block.filled += 1;
        block.taken |= 1 << index;
        self.taken += 1;
        Some(Slot(current << 6 | index))
    }

    /// No block is empty: a slot that came back in one that is not, of the same length or longer. A datagram whose peer is
    /// gone would otherwise keep a whole block from everybody else.
    fn acquire_scattered(&mut self, stride: usize) -> Option<Slot> {
        let has_room = |block: &Block| {
            block.stride as usize >= stride
                && (block.taken.count_ones() as usize) < (BLOCK_BYTES / block.stride as usize).min(SLOTS_MAX)
        };
        let number = self.blocks.iter().position(has_room)? as u32;
        let block = &mut self.blocks[number as usize];
        let index = block.taken.trailing_ones();
        block.taken |= 1 << index;
        block.filled = block.filled.max(index as u8 + 1);
        self.taken += 1;
        Some(Slot(number << 6 | index))
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
        let slots = (BLOCK_BYTES / stride).min(SLOTS_MAX);
        block.stride as usize == stride && (block.filled as usize) < slots && block.taken >> block.filled == 0
    }

    /// The next slot of the same length would not follow the one taken before: a train ends here.
    #[must_use]
    pub fn ends_train(&self) -> bool {
        self.current.is_none_or(|block| !self.has_next(block, self.blocks[block as usize].stride as usize))
    }

    /// Slots that can be taken without another one being released, at least.
    #[cfg(test)]
    #[must_use]
    pub fn room(&self, stride: usize) -> usize {
        let slots = (BLOCK_BYTES / stride.max(1)).min(SLOTS_MAX);
        let rest = match self.current {
            Some(block) if self.blocks[block as usize].stride as usize == stride => {
                slots.saturating_sub(self.blocks[block as usize].filled as usize)
            }
            _ => 0,
        };
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
            if self.current == Some(number) {
                block.filled = 0; // Empty again, still the one being filled.
            } else {
                self.free.push(number);
            }
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
            }
            for slot in held.drain(..) {
                pool.release(slot);
            }
            let whole = pool.room(1_472);
            prop_assert!(whole >= 3 * 44, "{}", whole);
        }
    }
}
