//! Partial messages: chunks in any order, each once, in bounded memory.
//!
//! Chunk sizes are the sender's affair (an engine cuts on character boundaries), so a chunk's place in the message is
//! known only when all before it are there. Chunks are therefore decoded to the end of a log:
//!
//! ```text
//!   in order:      log | 0 | 1 | 2 |             the log is the message: nothing is copied again
//!   out of order:  log | 0 | 1 | 4 | 2 | 3 |     `spans` says where 2.. lie; one gather at the end
//! ```

use crate::units::UnixMicros;
use crate::wire::DropReason;

/// The log grows by doubling, from here: what is announced is not believed further.
const RESERVE_BYTES_MAX: usize = 256 << 10;
/// Messages up to here are copied out; the buffer of a larger one may be taken, and must not be much larger than it.
const COPIED_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    bytes: u32,
}

const MISSING: Span = Span { start: u32::MAX, bytes: 0 };

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was new; others are missing.
    Incomplete,
    /// It was the last one missing.
    Complete,
    /// It was there already.
    Duplicate,
}

/// One partial message. Buffers are reused: `open` keeps the log's capacity.
#[derive(Debug, Default)]
pub struct Partial {
    bytes_limit: usize,
    chunk_count: u32,
    received: u32,
    /// Chunks before it lie in order at the start of the log.
    in_order: u32,
    in_order_bytes: usize,
    log: Vec<u8>,
    /// Places of chunks that came out of order; empty while all came in order.
    spans: Vec<Span>,
    newest: Option<UnixMicros>,
    /// Size of the chunk stored last, and whether it extended the prefix.
    last: (usize, bool),
}

impl Partial {
    /// Starts a message of `chunk_count` chunks and at most `bytes_limit` bytes.
    pub fn open(&mut self, chunk_count: u32, bytes_limit: usize) {
        (self.chunk_count, self.bytes_limit) = (chunk_count, bytes_limit);
        (self.received, self.in_order, self.in_order_bytes, self.last) = (0, 0, 0, (0, false));
        self.log.clear();
        self.spans.clear();
        self.newest = None;
    }

    /// Number of chunks.
    #[must_use]
    pub const fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// The newest timestamp among the rows so far.
    #[must_use]
    pub const fn newest(&self) -> Option<UnixMicros> {
        self.newest
    }

    /// Bytes received so far.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.log.len()
    }

    /// No chunk is there.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// The most a message within these limits holds.
    #[must_use]
    pub const fn held_bytes_max(chunk_count_max: u32, bytes_limit: usize) -> usize {
        bytes_limit.saturating_add((chunk_count_max as usize).saturating_mul(size_of::<Span>()))
    }

    /// Memory held.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.log.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// Memory that storing a chunk of up to `bytes_max` bytes adds, exactly. Nothing while it fits in what is held already.
    #[must_use]
    pub fn cost_bytes(&self, index: u32, bytes_max: usize) -> usize {
        let spans = if self.spans.is_empty() && index != self.in_order {
            (self.chunk_count as usize).saturating_sub(self.spans.capacity()) * size_of::<Span>()
        } else {
            0
        };
        let needed = self.log.len() + bytes_max;
        let log = if needed <= self.log.capacity() { 0 } else { self.grown(bytes_max) - self.log.capacity() };
        log + spans
    }

    /// The log's next capacity: doubled, but no more than the chunks that are missing can fill.
    fn grown(&self, bytes_max: usize) -> usize {
        let missing = (self.chunk_count - self.received) as usize;
        let expected = self.log.len().saturating_add(missing.saturating_mul(bytes_max)).min(self.bytes_limit);
        let doubled = (self.log.capacity() * 2).max(RESERVE_BYTES_MAX);
        expected.min(doubled).max(self.log.len() + bytes_max)
    }

    /// Whether the chunk is there.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        index < self.in_order
            || self.spans.get(index as usize).is_some_and(|span| span.start != MISSING.start)
    }

    /// Stores chunk `index` (< `chunk_count`), decoded by `decode` into the space it is given, at most `bytes_max`.
    ///
    /// # Errors
    /// Those of `decode`; nothing was stored then.
    pub fn store(
        &mut self,
        index: u32,
        bytes_max: usize,
        sent_at: Option<UnixMicros>,
        decode: impl FnOnce(&mut [u8]) -> Result<usize, DropReason>,
    ) -> Result<Stored, DropReason> {
        if self.has(index) {
            return Ok(Stored::Duplicate);
        }
        let start = self.log.len();
        if start + bytes_max > self.log.capacity() {
            self.log.reserve_exact(self.grown(bytes_max) - start);
        }
        self.log.resize(start + bytes_max, 0);
        let bytes = match decode(&mut self.log[start..]) {
            Ok(bytes) => bytes,
            Err(reason) => {
                self.log.truncate(start);
                return Err(reason);
            }
        };
        self.log.truncate(start + bytes);
        let extends = index == self.in_order && start == self.in_order_bytes;
        self.last = (bytes, extends);
        self.newest = self.newest.max(sent_at);
        self.received += 1;
        if extends {
            self.in_order += 1;
            self.in_order_bytes += bytes;
        } else {
            if self.spans.is_empty() {
                self.spans.reserve_exact(self.chunk_count as usize);
                self.spans.resize(self.chunk_count as usize, MISSING);
            }
            self.spans[index as usize] = Span { start: start as u32, bytes: bytes as u32 };
        }
        Ok(if self.received == self.chunk_count { Stored::Complete } else { Stored::Incomplete })
    }

    /// Takes the chunk stored last out again: the whole message has no place yet.
    pub fn unstore_last(&mut self, index: u32) {
        self.received -= 1;
        let (bytes, extended) = self.last;
        self.log.truncate(self.log.len() - bytes);
        if extended {
            self.in_order -= 1;
            self.in_order_bytes = self.log.len();
        } else {
            self.spans[index as usize] = MISSING;
        }
    }

    /// The whole message in order: the log itself, or gathered into `gathered`. It may be taken out once it is sure that
    /// the last chunk will not be [unstored](Self::unstore_last).
    pub fn whole<'a>(&'a mut self, gathered: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        debug_assert_eq!(self.received, self.chunk_count);
        if self.in_order == self.chunk_count {
            if self.log.len() > COPIED_BYTES_MAX && self.log.capacity() / 5 > self.log.len() / 4 {
                self.log.shrink_to_fit();
            }
            return &mut self.log;
        }
        gathered.clear();
        if gathered.capacity() < self.log.len()
            || self.log.len() > COPIED_BYTES_MAX && gathered.capacity() / 5 > self.log.len() / 4
        {
            *gathered = Vec::with_capacity(self.log.len());
        }
        gathered.extend_from_slice(&self.log[..self.in_order_bytes]);
        for span in &self.spans[self.in_order as usize..] {
            let start = span.start as usize;
            gathered.extend_from_slice(&self.log[start..start + span.bytes as usize]);
        }
        gathered
    }

    /// Gives back memory beyond what small messages need, so that idle partials cost little.
    pub fn close(&mut self, kept_bytes_max: usize) {
        self.log.clear();
        self.log.shrink_to(kept_bytes_max);
        self.spans.clear();
        self.spans.shrink_to(kept_bytes_max / size_of::<Span>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn put(partial: &mut Partial, index: u32, bytes: &[u8]) -> Result<Stored, DropReason> {
        // One byte more than needed, as base64 estimates do.
        partial.store(index, bytes.len() + 1, None, |space| {
            space[..bytes.len()].copy_from_slice(bytes);
            Ok(bytes.len())
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_of_chunks(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..20),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<bool>()), 0..80),
        ) {
            let mut partial = Partial::default();
            let mut model: BTreeMap<u32, &[u8]> = BTreeMap::new();
            partial.open(chunks.len() as u32, 1 << 20);
            let every = (0..chunks.len()).map(|index| (index, false, false));
            let picks = order.into_iter().map(|(index, bad, undo)| (index.index(chunks.len()), bad, undo));
            for (index, bad, undo) in picks.chain(every) {
                let (at, bytes) = (index as u32, chunks[index].as_slice());
                prop_assert_eq!(partial.has(at), model.contains_key(&at));
                if bad && !model.contains_key(&at) {
                    let result = partial.store(at, 5, None, |_| Err(DropReason::BadBase64));
                    prop_assert_eq!(result, Err(DropReason::BadBase64));
                    continue;
                }
                let (held, cost) = (partial.held_bytes(), partial.cost_bytes(at, bytes.len() + 1));
                let stored = put(&mut partial, at, bytes);
                if !model.contains_key(&at) {
                    prop_assert_eq!(partial.held_bytes(), held + cost);
                }
                if model.contains_key(&at) {
                    prop_assert_eq!(stored, Ok(Stored::Duplicate));
                    continue;
                }
                let complete = model.len() + 1 == chunks.len();
                prop_assert_eq!(stored, Ok(if complete { Stored::Complete } else { Stored::Incomplete }));
                if undo {
                    partial.unstore_last(at);
                } else {
                    model.insert(at, bytes);
                    if complete {
                        break;
                    }
                }
            }
            let mut gathered = Vec::new();
            prop_assert_eq!(partial.whole(&mut gathered).as_slice(), chunks.concat());
        }
    }

    #[test]
    fn in_order_arrival_allocates_no_index() {
        let mut partial = Partial::default();
        partial.open(1_000, 1 << 30);
        for index in 0..999 {
            put(&mut partial, index, b"x").unwrap();
        }
        assert!(partial.spans.capacity() == 0);
        let held = partial.held_bytes();
        assert_eq!(held, 2_000, "chunks of two bytes at most");
        assert_eq!(partial.cost_bytes(999, 1 << 20), 999 + (1 << 20) - held);
        partial.open(1_000, 1 << 30);
        assert_eq!(partial.cost_bytes(5, 1 << 20), (1 << 20) - held + 8_000);
        assert_eq!(partial.cost_bytes(0, 10), 0, "the buffer of the message before is still there");
    }

    #[test]
    fn a_buffer_that_may_be_taken_is_hardly_larger_than_its_message() {
        // (chunks, bytes of each but the first, bytes of the first); the first announces much.
        for (count, bytes, first) in
            [(171, 384, 384), (300, 384, 384), (2_000, 384, 48_000), (1_000, 40, 48_000)]
        {
            for reversed in [false, true] {
                let mut partial = Partial::default();
                partial.open(count, 16 << 20);
                let mut order: Vec<u32> = (1..count).collect();
                if reversed {
                    order.reverse();
                }
                order.insert(0, 0);
                for index in order {
                    put(&mut partial, index, &vec![b'x'; if index == 0 { first } else { bytes }]).unwrap();
                }
                let mut gathered = Vec::with_capacity(96 << 10);
                let whole = partial.whole(&mut gathered);
                assert_eq!(whole.len(), first + (count as usize - 1) * bytes);
                assert!(
                    whole.capacity() <= whole.len() / 4 * 5 + 8,
                    "{} of {}",
                    whole.capacity(),
                    whole.len()
                );
            }
        }
    }
}
