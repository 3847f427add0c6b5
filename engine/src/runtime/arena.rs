//! Payload memory without an allocation per message: `Bytes` cut from large blocks that are used again once every
//! message cut from them is gone.
//!
//! The price, and its bound: a message the application keeps holds on to its whole block. Blocks in rotation are as many as
//! the receive bucket may hold bytes, at most [`BLOCKS_MAX`]; with more of them held, one is left to its holders and replaced.

use crate::constants::PAYLOAD_ARENA_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

const BLOCKS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(crate) struct PayloadArena {
    current: BytesMut,
    resting: VecDeque<BytesMut>,
    blocks_max: usize,
}

impl PayloadArena {
    /// Without a block yet.
    pub(crate) fn new(recv_bucket_bytes: u64) -> Self {
        let blocks = usize::try_from(recv_bucket_bytes).unwrap_or(usize::MAX) / PAYLOAD_ARENA_BYTES;
        Self { current: BytesMut::new(), resting: VecDeque::new(), blocks_max: blocks.clamp(4, BLOCKS_MAX) }
    }

    /// A copy of `bytes`. Longer ones than a quarter block get memory of their own.
    pub(crate) fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        if bytes.len() > PAYLOAD_ARENA_BYTES / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.current.capacity() < bytes.len() {
            self.rotate();
        }
        self.current.put_slice(bytes);
        self.current.split().freeze()
    }

    #[cold]
    fn rotate(&mut self) {
        let full = std::mem::take(&mut self.current);
        // Also one that was used up to its last byte; only the empty start is none.
        if full.as_ptr() != BytesMut::new().as_ptr() {
            self.resting.push_back(full);
        }
        // Oldest first: its messages have had the longest time to be dropped.
        for _ in 0..self.resting.len() {
            let Some(mut oldest) = self.resting.pop_front() else { break };
            if oldest.try_reclaim(PAYLOAD_ARENA_BYTES) {
                self.current = oldest;
                return;
            }
            self.resting.push_back(oldest);
        }
        if self.resting.len() >= self.blocks_max {
            self.resting.pop_front();
        }
        self.current = BytesMut::with_capacity(PAYLOAD_ARENA_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_and_blocks_come_back() {
        let mut arena = PayloadArena::new(16 << 20);
        let mut blocks = std::collections::BTreeSet::new();
        for round in 0..10_000_u32 {
            let bytes = [round as u8; 1_000];
            let copy = arena.copy(&bytes);
            assert_eq!(copy, bytes.as_slice());
            blocks.insert(copy.as_ptr() as usize / PAYLOAD_ARENA_BYTES);
        }
        assert!(blocks.len() <= 6, "10 MB of dropped messages used {} blocks", blocks.len());
    }

    #[test]
    fn held_messages_stay_intact_and_blocks_are_bounded() {
        let mut arena = PayloadArena::new(16 << 20);
        let held: Vec<_> = (0..50_000_u32).map(|n| arena.copy(&n.to_le_bytes().repeat(200))).collect();
        assert!(arena.resting.len() <= 16);
        for (n, bytes) in (0_u32..).zip(&held) {
            assert_eq!(&bytes[796..], n.to_le_bytes());
        }
    }
}
