//! Messages that come in chunks: any run of 128-byte units of the message, in any order, each unit stored once
//! (R-LARGE-1).
//!
//! ```text
//!   in order:     |##########|                    no bitmap is touched: the chunk is appended
//!                            ^ in_order == extent
//!   a gap:        |##########|. . .|####|         the gap is zeroed, and beyond `in_order` a bit is kept per unit
//!                            ^ in_order ^ extent
//!   a far gap:    |##########|.|      |##| |##|   segments, which move to their place when the gap before them is near
//!                            ^ ^ extent           (`far`)
//!                            in_order
//! ```
//!
//! When all gaps are closed, `in_order` moves up to `extent`, and the bitmap is not used again until the next gap: its
//! bits from there on were never set. Chunks may overlap what is there in whole units, because what the sender believed
//! lost may have been cut again; the first copy of a unit counts.
//!
//! An [`AssemblyPool`] bounds the memory: a message is charged whole when it begins (R-LARGE-2), and until its bytes are
//! taken out.
//! Buffers of messages up to [`KEPT_BYTES_MAX`] are used again, others belong to whoever takes the message. In order,
//! nothing is zeroed. With gaps no more than twice what came of the message, 64 KiB, and a segment a chunk: a far gap is a
//! number in a header, and costs its sender nothing (R-LARGE-8).

mod far;
mod pool;

use far::Far;
pub use pool::{AssemblyPool, BESIDE_BYTES, Buffers, KEPT_BYTES_MAX};

/// Chunks start at multiples of it, and all but the last are multiples of it.
pub const UNIT_BYTES: u32 = 128;
/// The longest message.
pub const MESSAGE_BYTES_MAX: u32 = 1 << 30;
/// What may be zeroed of a message of which nothing came: nothing of those in kept buffers is ever far.
const FREE_BYTES: usize = KEPT_BYTES_MAX as usize;

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Some of it was new; other units are missing.
    Progress,
    /// All of it was there already.
    Duplicate,
    /// The message is complete.
    Complete,
}

/// Why a chunk was not stored, or a message not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssemblyError {
    /// No sender of this protocol sends that chunk.
    Malformed,
    /// The message is longer than [`MESSAGE_BYTES_MAX`].
    TooLarge,
    /// The pool is full.
    NoRoom,
}

/// One message. It must be [taken](Self::into_buffers) or [released](Self::release): its memory is the pool's.
#[derive(Debug)]
pub struct Assembly {
    /// `buffers.bytes` reaches to the end of the farthest chunk that is not far.
    buffers: Buffers,
    /// As long as there is anything in it, `in_order` is before the extent: nothing is appended without a look at the bitmap.
    far: Option<Box<Far>>,
    total: u32,
    /// All before it is there.
    in_order: u32,
    received: u32,
    #[cfg(test)]
    zeroed: usize,
}

impl Assembly {
    /// A message of `total` bytes, nothing of it there.
    ///
    /// # Errors
    /// `Malformed` if it has no bytes, `TooLarge`, or `NoRoom` in the pool.
    pub fn new(total: u32, pool: &mut AssemblyPool) -> Result<Self, AssemblyError> {
        if total == 0 {
            return Err(AssemblyError::Malformed);
        }
        if total > MESSAGE_BYTES_MAX {
            return Err(AssemblyError::TooLarge);
        }
        let buffers = pool.acquire(total).ok_or(AssemblyError::NoRoom)?;
        Ok(Self {
            buffers,
            far: None,
            total,
            in_order: 0,
            received: 0,
            #[cfg(test)]
            zeroed: 0,
        })
    }

    /// Stores a chunk: its place, the length of the whole message it states, its bytes.
    ///
    /// # Errors
    /// `Malformed` if the chunk is empty, reaches beyond the message, is not cut at units, or states another length than
    /// the first did. Nothing was stored then.
    #[inline]
    pub fn store(&mut self, offset: u32, total: u32, bytes: &[u8]) -> Result<Stored, AssemblyError> {
        let end = u64::from(offset) + bytes.len() as u64;
        let ends_message = end == u64::from(total);
        let cut_at_units =
            offset.is_multiple_of(UNIT_BYTES) && (ends_message || end.is_multiple_of(u64::from(UNIT_BYTES)));
        if total != self.total || bytes.is_empty() || end > u64::from(total) || !cut_at_units {
            return Err(AssemblyError::Malformed);
        }
        let end = end as u32;
        if offset == self.in_order && offset as usize == self.buffers.bytes.len() {
            self.buffers.bytes.extend_from_slice(bytes);
            self.in_order = end;
            self.received = end;
            return Ok(if end == total { Stored::Complete } else { Stored::Progress });
        }
        Ok(self.store_out_of_order(offset, end, bytes))
    }

    #[cold]
    fn store_out_of_order(&mut self, offset: u32, end: u32, bytes: &[u8]) -> Stored {
        if end <= self.in_order {
            return Stored::Duplicate;
        }
        let start = offset.max(self.in_order);
        let bytes = &bytes[(start - offset) as usize..];
        let (first, last) = (start / UNIT_BYTES, end.div_ceil(UNIT_BYTES));
        self.cover_units(last);
        let missing =
            words_of(first, last).map(|(word, mask)| (mask & !self.buffers.units[word]).count_ones());
        let missing: u32 = missing.sum();
        if missing == 0 {
            return Stored::Duplicate;
        }
        // What is appended to the extent leaves no gap, wherever that is.
        let near = (FREE_BYTES + 2 * self.received as usize).max(self.buffers.bytes.len());
        // All units have 128 bytes, except that the last of the message may be short.
        let short = if self.has_unit(last - 1) { 0 } else { last * UNIT_BYTES - end };
        self.received += missing * UNIT_BYTES - short;
        if start as usize <= near {
            self.extend_to(start as usize, end as usize);
        } else {
            self.begin_far();
        }
        if missing == last - first {
            self.write(start as usize, bytes);
        } else {
            for (unit, bytes) in (first..last).zip(bytes.chunks(UNIT_BYTES as usize)) {
                if !self.has_unit(unit) {
                    self.write((unit * UNIT_BYTES) as usize, bytes);
                }
            }
        }
        for (word, mask) in words_of(first, last) {
            self.buffers.units[word] |= mask;
        }
        if self.received == self.total {
            self.extend_to(self.total as usize, self.total as usize);
        }
        if self.far.is_none() && self.received as usize == self.buffers.bytes.len() {
            self.in_order = self.received;
        }
        if self.received == self.total { Stored::Complete } else { Stored::Progress }
    }

    /// Makes the bitmap reach up to unit `last`. Its memory is taken once; it was charged with the message.
    fn cover_units(&mut self, last: u32) {
        let (units, words) = (&mut self.buffers.units, last.div_ceil(64) as usize);
        if units.len() < words {
            units.reserve_exact(AssemblyPool::words(self.total) - units.len());
            units.resize(words, 0);
        }
    }

    fn has_unit(&self, unit: u32) -> bool {
        self.buffers.units[unit as usize / 64] >> (unit % 64) & 1 != 0
    }

    /// Makes the extent reach up to `start`, for what ends at `end` to be written there.
    fn extend_to(&mut self, start: usize, end: usize) {
        let bytes = &mut self.buffers.bytes;
        let mut zeroed = 0;
        if let Some(far) = &mut self.far
            && end > bytes.len()
        {
            bytes.reserve_exact(self.total as usize - bytes.len());
            zeroed += far.move_into(bytes, end);
            if far.is_empty() {
                self.far = None;
            }
        }
        if start > bytes.len() {
            zeroed += start - bytes.len();
            bytes.resize(start, 0);
        }
        self.count_zeroed(zeroed);
    }

    /// What comes now is far.
    fn begin_far(&mut self) {
        if self.far.is_some() {
            return;
        }
        self.far = Some(Box::default());
        let bytes = &mut self.buffers.bytes;
        if bytes.len() == self.in_order as usize {
            // A unit of the gap, which is longer: see `far`.
            bytes.resize(bytes.len() + UNIT_BYTES as usize, 0);
            self.count_zeroed(UNIT_BYTES as usize);
        }
        // Segments come beside it. It may be a buffer that was used before, all of it in memory.
        self.buffers.bytes.shrink_to_fit();
    }

    /// Writes at `at`: not beyond the extent, or far.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        match &mut self.far {
            Some(far) if at > self.buffers.bytes.len() => {
                let zeroed = far.write(at, bytes);
                self.count_zeroed(zeroed);
            }
            _ => write(&mut self.buffers.bytes, at, bytes),
        }
    }

    #[allow(clippy::unused_self, reason = "tests count")]
    #[inline(always)]
    const fn count_zeroed(&mut self, bytes: usize) {
        #[cfg(test)]
        {
            self.zeroed += bytes;
        }
        #[cfg(not(test))]
        let _ = bytes;
    }

    /// Bytes of the whole message.
    #[must_use]
    pub const fn total(&self) -> u32 {
        self.total
    }

    /// Bytes that are there.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn received_bytes(&self) -> u32 {
        self.received
    }

    /// Bytes that are missing.
    #[must_use]
    pub const fn bytes_left(&self) -> u32 {
        self.total - self.received
    }

    /// Nothing is missing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.received == self.total
    }

    /// The message, if it is complete: to copy it, and then [release](Self::release) the buffer.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.is_complete().then_some(&self.buffers.bytes)
    }

    /// Gives the whole message away, and its memory with it. What the application leaves of that is to be
    /// [given back](AssemblyPool::give_back).
    ///
    /// # Errors
    /// The assembly itself, if it is not complete.
    pub fn into_buffers(self, pool: &mut AssemblyPool) -> Result<Buffers, Self> {
        if !self.is_complete() {
            return Err(self);
        }
        pool.forget(self.total);
        Ok(self.buffers)
    }

    /// Ends the message: its buffer is for another one.
    pub fn release(self, pool: &mut AssemblyPool) {
        pool.release(self.total, self.buffers);
    }
}

/// Writes at `at`; what is between there and the end of `to` is zeroed.
fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if at > to.len() {
        to.resize(at, 0);
    }
    let (before, beyond) = bytes.split_at(bytes.len().min(to.len() - at));
    to[at..at + before.len()].copy_from_slice(before);
    to.extend_from_slice(beyond);
}

/// The words of a bitmap that bits `first..last` are in, with a mask of them.
fn words_of(first: u32, last: u32) -> impl Iterator<Item = (usize, u64)> {
    (first / 64..last.div_ceil(64)).map(move |word| {
        let low = if word == first / 64 { u64::MAX << (first % 64) } else { u64::MAX };
        let high = if word == last / 64 { !(u64::MAX << (last % 64)) } else { u64::MAX };
        (word as usize, low & high)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool() -> AssemblyPool {
        AssemblyPool::new(1 << 40)
    }

    fn byte(at: u32) -> u8 {
        (at.wrapping_mul(2_654_435_761) >> 24) as u8
    }

    fn message(total: u32) -> Vec<u8> {
        (0..total).map(byte).collect()
    }

    /// (start, end) in bytes of `count` units from `unit` on, within the message.
    fn chunk(total: u32, unit: u32, count: u32) -> (u32, u32) {
        let start = unit * UNIT_BYTES;
        (start, (start + count * UNIT_BYTES).min(total))
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Unit and count, both taken modulo what there is.
        Store(u32, u32),
        /// From the end of the farthest chunk on.
        Next(u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            1 => (any::<u32>(), 1u32..40).prop_map(|(unit, count)| Op::Store(unit, count)),
            2 => (1u32..40).prop_map(Op::Next),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn agrees_with_a_flag_per_byte(
            totals in prop::collection::vec(prop_oneof![1u32..1_000, 1u32..40_000, 60_000u32..80_000], 1..4),
            ops in prop::collection::vec(op(), 0..150),
            order in any::<u64>(),
        ) {
            // Several messages one after the other: buffers are used again.
            let mut pool = pool();
            for total in totals {
                let whole = message(total);
                let mut present = vec![false; total as usize];
                let mut assembly = Assembly::new(total, &mut pool).unwrap();
                let units = total.div_ceil(UNIT_BYTES);
                let step = (order as u32 % units) | 1;
                // At the end all units, in an order of a kind.
                let rest = (0..units).map(|unit| Op::Store(unit.wrapping_mul(step), 1));
                let all = (0..units).map(|unit| Op::Store(unit, 1));
                let mut farthest = 0;
                for op in ops.iter().cloned().chain(rest).chain(all) {
                    let (start, end) = match op {
                        Op::Store(unit, count) => chunk(total, unit % units, count),
                        Op::Next(count) => chunk(total, (farthest / UNIT_BYTES).min(units - 1), count),
                    };
                    farthest = farthest.max(end);
                    let flags = &mut present[start as usize..end as usize];
                    let duplicate = flags.iter().all(|flag| *flag);
                    flags.fill(true);
                    let received = present.iter().filter(|flag| **flag).count();
                    let expected = match (duplicate, received == total as usize) {
                        (true, _) => Stored::Duplicate,
                        (false, true) => Stored::Complete,
                        (false, false) => Stored::Progress,
                    };
                    let stored = assembly.store(start, total, &whole[start as usize..end as usize]);
                    prop_assert_eq!(stored, Ok(expected));
                    prop_assert_eq!(assembly.received_bytes() as usize, received);
                    let extent = assembly.buffers.bytes.len();
                    prop_assert!(extent == farthest as usize || assembly.far.is_some() && extent < farthest as usize);
                }
                prop_assert_eq!(assembly.bytes(), Some(whole.as_slice()));
                assembly.release(&mut pool);
            }
            prop_assert_eq!(pool.bytes_used(), 0);
        }

        /// Long enough that some of it is far; chunks as long as a datagram has room for.
        #[test]
        fn far_gaps_agree_with_a_flag_per_unit(
            total in 60_000u32..1_000_000,
            first in prop::collection::vec((any::<u32>(), 1u32..12), 0..60),
            seed in any::<u64>(),
        ) {
            let (mut pool, whole) = (pool(), message(total));
            let mut assembly = Assembly::new(total, &mut pool).unwrap();
            let units = total.div_ceil(UNIT_BYTES);
            let mut present = vec![false; units as usize];
            let mut rest: Vec<(u32, u32)> = (0..units).step_by(11).map(|unit| (unit, 11)).collect();
            // Some in order, some from the end, some in any order.
            let mut random = fastrand::Rng::with_seed(seed);
            match seed % 3 {
                0 => {}
                1 => rest.reverse(),
                _ => random.shuffle(&mut rest),
            }
            let (mut chunks, mut there) = (0, 0);
            for (unit, count) in first.into_iter().map(|(unit, count)| (unit % units, count)).chain(rest) {
                let (start, end) = chunk(total, unit, count);
                let flags = &mut present[unit as usize..end.div_ceil(UNIT_BYTES) as usize];
                let new = flags.iter().filter(|flag| !**flag).count() as u32;
                flags.fill(true);
                there += new * UNIT_BYTES;
                let expected = match (new, there == units * UNIT_BYTES) {
                    (0, _) => Stored::Duplicate,
                    (_, true) => Stored::Complete,
                    (_, false) => Stored::Progress,
                };
                let stored = assembly.store(start, total, &whole[start as usize..end as usize]);
                prop_assert_eq!(stored, Ok(expected));
                let short = if present[units as usize - 1] { units * UNIT_BYTES - total } else { 0 };
                prop_assert_eq!(assembly.received_bytes(), there - short);
                chunks += 1;
                let zeroed_max = FREE_BYTES + 2 * assembly.received as usize + chunks * far::SEGMENT_BYTES;
                prop_assert!(assembly.zeroed <= zeroed_max, "{} of {zeroed_max}", assembly.zeroed);
                let far_bytes = assembly.far.as_ref().map_or(0, |far| far.held_bytes());
                let beyond = total as usize - assembly.buffers.bytes.len();
                prop_assert!(far_bytes <= beyond + 2 * far::SEGMENT_BYTES);
            }
            prop_assert!(assembly.far.is_none() && assembly.bytes() == Some(whole.as_slice()));
            prop_assert_eq!(assembly.buffers.bytes.capacity() as u64, u64::from(AssemblyPool::buffer_bytes(total)));
            assembly.release(&mut pool);
            prop_assert_eq!(pool.bytes_used(), 0);
        }

        #[test]
        fn no_input_panics(
            total in prop_oneof![any::<u32>(), 0u32..2_000],
            chunks in prop::collection::vec(
                (prop_oneof![any::<u32>(), 0u32..2_000], any::<bool>(), any::<u32>(), 0usize..600), 0..40),
        ) {
            let mut pool = AssemblyPool::new(1 << 20);
            let Ok(mut assembly) = Assembly::new(total, &mut pool) else { return Ok(()) };
            for (offset, same, other, bytes) in chunks {
                let stated = if same { total } else { other };
                let end = u64::from(offset) + bytes as u64;
                let well_formed = stated == total && bytes > 0 && offset % 128 == 0
                    && end <= u64::from(total) && (end.is_multiple_of(128) || end == u64::from(total));
                let stored = assembly.store(offset, stated, &vec![7; bytes]);
                prop_assert_eq!(stored.is_ok(), well_formed);
            }
        }
    }

    /// Every sequence of four chunks of a message of three units and a bit.
    #[test]
    fn every_sequence_of_four_chunks_agrees_with_a_flag_per_unit() {
        const TOTAL: u32 = 3 * UNIT_BYTES + 5;
        let whole = message(TOTAL);
        let mut pool = pool();
        let chunks: Vec<(u32, u32)> =
            (0..4).flat_map(|unit| (1..=4 - unit).map(move |count| (unit, count))).collect();
        for sequence in 0..chunks.len().pow(4) {
            let mut assembly = Assembly::new(TOTAL, &mut pool).unwrap();
            let mut present = [false; 4];
            let mut rest = sequence;
            for _ in 0..4 {
                let (unit, count) = chunks[rest % chunks.len()];
                rest /= chunks.len();
                let (start, end) = chunk(TOTAL, unit, count);
                let flags = &mut present[unit as usize..(unit + count) as usize];
                let duplicate = flags.iter().all(|flag| *flag);
                flags.fill(true);
                let complete = present == [true; 4];
                let stored = assembly.store(start, TOTAL, &whole[start as usize..end as usize]).unwrap();
                assert_eq!(stored == Stored::Duplicate, duplicate, "{sequence}");
                assert_eq!(stored == Stored::Complete, complete && !duplicate, "{sequence}");
                assert_eq!(assembly.is_complete(), complete);
            }
            if assembly.is_complete() {
                assert_eq!(assembly.bytes(), Some(whole.as_slice()), "{sequence}");
            }
            assembly.release(&mut pool);
        }
    }

    #[test]
    fn in_order_arrival_touches_no_bitmap_and_the_buffer_fits() {
        let mut pool = pool();
        let whole = message(1_000_001);
        let mut assembly = Assembly::new(1_000_001, &mut pool).unwrap();
        for (index, bytes) in whole.chunks(1_408).enumerate() {
            assert_ne!(assembly.store(index as u32 * 1_408, 1_000_001, bytes), Ok(Stored::Duplicate));
        }
        assert_eq!(assembly.buffers.units.capacity(), 0);
        let bytes = assembly.into_buffers(&mut pool).unwrap().bytes;
        assert_eq!(bytes.capacity(), 1_000_001);
        assert!(bytes == whole);
        assert_eq!(pool.bytes_used(), 0);
    }

    #[test]
    fn the_longest_message_may_begin_at_its_end() {
        let mut pool = pool();
        let mut assembly = Assembly::new(MESSAGE_BYTES_MAX, &mut pool).unwrap();
        let last = MESSAGE_BYTES_MAX - UNIT_BYTES;
        assert_eq!(assembly.store(0, MESSAGE_BYTES_MAX, &[1; 256]), Ok(Stored::Progress));
        assert_eq!(assembly.store(last, MESSAGE_BYTES_MAX, &[3; 128]), Ok(Stored::Progress));
        assert_eq!(assembly.store(last, MESSAGE_BYTES_MAX, &[3; 128]), Ok(Stored::Duplicate));
        assert_eq!(assembly.store(256, MESSAGE_BYTES_MAX, &[2; 128]), Ok(Stored::Progress));
        assert_eq!(assembly.received_bytes(), 512);
        assert_eq!(assembly.buffers.bytes[255..257], [1, 2]);
        // What it takes is what came, and its bitmap.
        let held = assembly.buffers.bytes.capacity() + assembly.far.as_ref().unwrap().held_bytes();
        assert!(held <= 2 * far::SEGMENT_BYTES, "{held}");
        assert!(assembly.zeroed <= far::SEGMENT_BYTES, "{}", assembly.zeroed);
        assert!(assembly.into_buffers(&mut pool).is_err());
        assert_eq!(Assembly::new(MESSAGE_BYTES_MAX + 1, &mut pool).unwrap_err(), AssemblyError::TooLarge);
        assert_eq!(Assembly::new(0, &mut pool).unwrap_err(), AssemblyError::Malformed);
    }

    #[test]
    fn a_far_gap_keeps_what_came_before() {
        let total = 4 << 20;
        let whole = message(total);
        let mut pool = pool();
        for before in [0, 128, 1 << 20, 3 << 20] {
            let mut assembly = Assembly::new(total, &mut pool).unwrap();
            if before > 0 {
                assembly.store(0, total, &whole[..before]).unwrap();
            }
            let far = total as usize - 256;
            assembly.store(far as u32, total, &whole[far..]).unwrap();
            assert_eq!(assembly.far.is_some(), before < 2 << 20);
            // The rest in order; it is appended as if nothing was far, but for a look at the bitmap.
            for offset in (before..far).step_by(1_408) {
                let bytes = &whole[offset..(offset + 1_408).min(far)];
                let is_last = offset + 1_408 >= far;
                let expected = if is_last { Stored::Complete } else { Stored::Progress };
                assert_eq!(assembly.store(offset as u32, total, bytes), Ok(expected));
            }
            let bytes = assembly.into_buffers(&mut pool).unwrap().bytes;
            assert!(bytes == whole && bytes.capacity() == total as usize);
        }
    }

    /// Whoever states a gap pays for it with what it sends.
    #[test]
    fn a_gap_makes_nobody_zero_more_than_what_came() {
        let (total, unit) = (16_u32 << 20, UNIT_BYTES as usize);
        let mut pool = pool();
        // Each gap as long as all before it; gaps just within what is zeroed in place; nothing but the end.
        let doubled = vec![4 << 20, (8 << 20) + UNIT_BYTES, total - UNIT_BYTES];
        let within = (1..=10).map(|n| n * 3 * UNIT_BYTES + FREE_BYTES as u32 - 4 * UNIT_BYTES).collect();
        for offsets in [doubled, within, vec![total - UNIT_BYTES]] {
            let mut assembly = Assembly::new(total, &mut pool).unwrap();
            let chunks = offsets.len();
            for offset in offsets {
                assert_eq!(assembly.store(offset, total, &[7; UNIT_BYTES as usize]), Ok(Stored::Progress));
            }
            assert_eq!(assembly.received_bytes() as usize, chunks * unit);
            let zeroed_max = FREE_BYTES + 2 * chunks * unit + chunks * far::SEGMENT_BYTES;
            assert!(assembly.zeroed <= zeroed_max, "{} bytes zeroed", assembly.zeroed);
            assembly.release(&mut pool);
        }
        assert_eq!(pool.bytes_used(), 0);
    }

    /// The bitmap comes back with the bytes: a gap costs no allocation where there was one before.
    #[test]
    fn a_message_with_a_gap_uses_the_memory_of_the_one_before_it() {
        for total in [1_200, 16 << 10, 70_000] {
            let whole = message(total);
            let mut pool = pool();
            let mut places = Vec::new();
            for _ in 0..3 {
                let mut assembly = Assembly::new(total, &mut pool).unwrap();
                assert_eq!(assembly.store(256, total, &whole[256..512]), Ok(Stored::Progress));
                assert_eq!(assembly.store(0, total, &whole), Ok(Stored::Complete));
                places.push((assembly.buffers.bytes.as_ptr(), assembly.buffers.units.as_ptr()));
                let buffers = assembly.into_buffers(&mut pool).unwrap();
                assert!(buffers.bytes == whole);
                pool.give_back(buffers);
            }
            assert!(places.iter().all(|place| place == &places[0]), "{total} bytes: {places:?}");
            assert_eq!(pool.bytes_used(), 0);
            let kept = pool.bytes_kept;
            pool.drop_largest_kept();
            assert_eq!((kept, pool.bytes_kept), (AssemblyPool::held_bytes(total), 0));
        }
    }

    /// Buffers that were others' are held to what is charged, and what is a little too long is used all the same.
    #[test]
    fn what_is_held_is_charged() {
        let mut pool = pool();
        for (of_before, is_used) in [(2 << 20, false), ((1 << 20) + (100 << 10), true)] {
            let hold = |total: u32, pool: &mut AssemblyPool| -> Vec<Assembly> {
                let whole = message(total);
                let held = (0..16).map(|_| {
                    let mut assembly = Assembly::new(total, pool).unwrap();
                    // Out of order, for a bitmap.
                    assembly.store(128, total, &whole[128..256]).unwrap();
                    assembly
                });
                held.collect()
            };
            let before = hold(of_before, &mut pool);
            before.into_iter().for_each(|assembly| assembly.release(&mut pool));
            assert_eq!(pool.large.len(), 16);
            let now = hold(1 << 20, &mut pool);
            assert_eq!(pool.large.is_empty(), is_used);
            let held: u64 = now.iter().map(|it| it.buffers.capacity_bytes()).sum();
            assert!(held <= pool.bytes_used(), "{held} of {}", pool.bytes_used());
            now.into_iter().for_each(|assembly| assembly.release(&mut pool));
            while pool.bytes_kept > 0 {
                pool.drop_largest_kept();
            }
        }
        assert_eq!((pool.bytes_used(), pool.bytes_kept), (0, 0));
    }

    #[test]
    fn the_pool_has_a_limit_and_keeps_small_buffers_within_it() {
        let charge = AssemblyPool::charge_bytes(2_048);
        assert_eq!(charge, 2_048 + 8 + 512);
        assert_eq!(AssemblyPool::charge_bytes(1), 1_024 + 8 + 512);
        assert_eq!(AssemblyPool::charge_bytes(KEPT_BYTES_MAX), 65_536 + 64 + 512);
        assert_eq!(AssemblyPool::charge_bytes(KEPT_BYTES_MAX + 1), 65_537 + 72 + 512);
        let mut pool = AssemblyPool::new(2 * charge);
        let first = Assembly::new(1_500, &mut pool).unwrap();
        let second = Assembly::new(2_048, &mut pool).unwrap();
        assert_eq!(Assembly::new(1, &mut pool).unwrap_err(), AssemblyError::NoRoom);
        let place = first.buffers.bytes.as_ptr();
        first.release(&mut pool);
        let again = Assembly::new(1_025, &mut pool).unwrap();
        assert_eq!(again.buffers.bytes.as_ptr(), place, "the same buffer");
        again.release(&mut pool);
        second.release(&mut pool);
        assert_eq!((pool.bytes_used(), pool.bytes_kept), (0, 2 * (2_048 + 8)));
        assert_eq!(Assembly::new(5_121, &mut pool).unwrap_err(), AssemblyError::NoRoom);
        let other = Assembly::new(1_000, &mut pool).unwrap();
        assert_eq!(pool.bytes_kept, 2_048 + 8, "kept buffers make room");
        other.release(&mut pool);
    }
}
