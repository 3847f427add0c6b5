//! What came of a message too far beyond the rest of it to be put in its place at once: segments of 4 KiB, of which those exist
//! that hold something, each as long as its farthest unit needs.
//!
//! Beside their bytes they cost about 2 %: their places in a tree.

use std::collections::BTreeMap;

/// A page; what one chunk makes somebody zero, at most.
pub(super) const SEGMENT_BYTES: usize = 4 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Far(BTreeMap<usize, Vec<u8>>);

impl Far {
    /// Nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes at `at` of the message; returns how many bytes before it were zeroed.
    pub(super) fn write(&mut self, mut at: usize, mut bytes: &[u8]) -> usize {
        let mut zeroed = 0;
        while !bytes.is_empty() {
            let (index, place) = (at / SEGMENT_BYTES, at % SEGMENT_BYTES);
            let here;
            (here, bytes) = bytes.split_at(bytes.len().min(SEGMENT_BYTES - place));
            let segment = self.0.entry(index).or_insert_with(|| Vec::with_capacity(SEGMENT_BYTES));
            zeroed += place.saturating_sub(segment.len());
            super::write(segment, place, here);
            at += here.len();
        }
        zeroed
    }

    /// Moves segments that begin before `end` to their place in `bytes`, which reaches up to some unit that is in none of them
    /// or in the first; returns how many bytes were zeroed between them.
    pub(super) fn move_into(&mut self, bytes: &mut Vec<u8>, end: usize) -> usize {
        let mut zeroed = 0;
        while let Some(entry) = self.0.first_entry()
            && entry.key() * SEGMENT_BYTES < end
        {
            let (index, segment) = entry.remove_entry();
            let start = index * SEGMENT_BYTES;
            let known = bytes.len().saturating_sub(start).min(segment.len());
            if known < segment.len() {
                zeroed += start.saturating_sub(bytes.len());
                super::write(bytes, start + known, &segment[known..]);
            }
        }
        zeroed
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.0.values().map(Vec::capacity).sum()
    }
}
