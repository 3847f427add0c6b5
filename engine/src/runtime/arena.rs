//! Payload memory without an allocation per message: `Bytes` cut from large blocks that are used again once every
//! message cut from them is gone.
//!
//! The price, and its bound: a message the application keeps holds on to its whole block. Blocks in rotation are at most
//! [`BLOCKS_MAX`]; a block still held when its turn comes is left to its holders and replaced.

use crate::constants::PAYLOAD_ARENA_BYTES;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::VecDeque;

const BLOCKS_MAX: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PayloadArena {
    current: BytesMut,
    resting: VecDeque<BytesMut>,
}

impl PayloadArena {
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
        for _ in 0..self.resting.len().min(2) {
            let Some(mut oldest) = self.resting.pop_front() else { break };
            if oldest.try_reclaim(PAYLOAD_ARENA_BYTES) {
                self.current = oldest;
                return;
            }
            self.resting.push_back(oldest);
        }
        if self.resting.len() >= BLOCKS_MAX {
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
        let mut arena = PayloadArena::default();
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
        let mut arena = PayloadArena::default();
        let held: Vec<_> = (0..50_000_u32).map(|n| arena.copy(&n.to_le_bytes().repeat(200))).collect();
        assert!(arena.resting.len() <= BLOCKS_MAX);
        for (n, bytes) in (0_u32..).zip(&held) {
            assert_eq!(&bytes[796..], n.to_le_bytes());
        }
    }
}
