//! Copies of small payloads, one place for each slot of the ACK tracker: no allocation and no reference count per
//! message, and slots are reused last in, first out, so the places in use stay in the cache.

/// Longest payload that is kept here.
pub const SMALL_PAYLOAD_BYTES_MAX: usize = 128;
/// Places that are allocated at once, when the first of them is used.
const BLOCK_PLACES: usize = 64;

type Block = Box<[[u8; SMALL_PAYLOAD_BYTES_MAX]; BLOCK_PLACES]>;

/// See the module.
#[derive(Debug, Default)]
pub struct SmallPayloads {
    blocks: Vec<Option<Block>>,
}

impl SmallPayloads {
    /// Keeps a copy of `payload`, of at most [`SMALL_PAYLOAD_BYTES_MAX`] bytes, for `slot`.
    #[inline]
    pub fn set(&mut self, slot: u32, payload: &[u8]) {
        let (block, place) = (slot as usize / BLOCK_PLACES, slot as usize % BLOCK_PLACES);
        let block = match self.blocks.get_mut(block) {
            Some(Some(block)) => block,
            _ => self.add(block),
        };
        block[place][..payload.len()].copy_from_slice(payload);
    }

    /// The first `bytes` bytes kept for `slot`; none if it has no place.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32, bytes: usize) -> &[u8] {
        match self.blocks.get(slot as usize / BLOCK_PLACES) {
            Some(Some(block)) => &block[slot as usize % BLOCK_PLACES][..bytes],
            _ => &[],
        }
    }

    #[cold]
    fn add(&mut self, block: usize) -> &mut Block {
        if self.blocks.len() <= block {
            self.blocks.resize_with(block + 1, || None);
        }
        self.blocks[block].insert(Box::new([[0; SMALL_PAYLOAD_BYTES_MAX]; BLOCK_PLACES]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_keeps_its_own() {
        let mut payloads = SmallPayloads::default();
        for slot in [0_u32, 63, 64, 1_000] {
            payloads.set(slot, &slot.to_le_bytes());
        }
        payloads.set(63, b"longer than before");
        assert_eq!(payloads.get(63, 18), b"longer than before");
        for slot in [0_u32, 64, 1_000] {
            assert_eq!(payloads.get(slot, 4), slot.to_le_bytes());
        }
        assert_eq!(payloads.get(70_000, 4), b"");
    }
}
