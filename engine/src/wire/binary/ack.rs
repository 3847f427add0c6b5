//! ACK: which packet numbers arrived, as ranges from the largest down.
//!
//! ```text
//!      ..  | range 2: len |  gap 2  | range 1: len |  gap 1  | range 0: first + 1 |
//!                                                                               largest
//! ```

use super::read::Reader;
use crate::wire::DropReason;

/// Flag: three ECN counts follow the ranges.
pub(super) const ECN: u8 = 0x01;
/// largest, delay, flags, count, first.
pub(super) const FIXED_BYTES: usize = 8 + 4 + 1 + 1 + 4;
/// gap, len.
pub(super) const GAP_BYTES: usize = 4 + 4;
pub(super) const ECN_BYTES: usize = 3 * 8;

/// How many datagrams arrived with each mark, since the flow began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ecn {
    /// With ECT(0).
    pub ect0: u64,
    /// With ECT(1).
    pub ect1: u64,
    /// With congestion experienced.
    pub ce: u64,
}

/// Which of our datagrams arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckFrame<'a> {
    largest: u64,
    delay_us: u32,
    first: u32,
    gaps: &'a [[u8; GAP_BYTES]],
    ecn: Option<&'a [u8; ECN_BYTES]>,
}

impl<'a> AckFrame<'a> {
    /// Reads a body and walks all ranges once: none goes below 0, no gap or range is empty (R-BIN-12).
    #[inline]
    pub(super) fn read(mut body: Reader<'a>) -> Result<Self, DropReason> {
        let (largest, delay_us) = (body.u64()?, body.u32()?);
        let [flags, count] = *body.array()?;
        let first = body.u32()?;
        if flags & !ECN != 0 {
            return Err(DropReason::BinaryMalformed);
        }
        let (gaps, _) = body.bytes(usize::from(count) * GAP_BYTES)?.as_chunks();
        let ecn = if flags & ECN == 0 { None } else { Some(body.array()?) };
        body.end()?;
        let frame = Self { largest, delay_us, first, gaps, ecn };
        if frame.ranges().count() == 1 + gaps.len() { Ok(frame) } else { Err(DropReason::BinaryMalformed) }
    }

    /// The largest packet number that arrived.
    #[must_use]
    #[inline]
    pub const fn largest(&self) -> u64 {
        self.largest
    }

    /// How long the acknowledgement of `largest` was held back, in microseconds.
    #[must_use]
    #[inline]
    pub const fn delay_us(&self) -> u32 {
        self.delay_us
    }

    /// `(smallest, largest)` of each range, both included, from the largest down. Never empty, never overlapping or
    /// touching.
    #[must_use]
    #[inline]
    pub fn ranges(&self) -> AckRanges<'a> {
        let smallest = self.largest.checked_sub(self.first.into());
        AckRanges { next: smallest.map(|smallest| (smallest, self.largest)), gaps: self.gaps.iter() }
    }

    /// The marks seen, if the frame tells.
    #[must_use]
    pub fn ecn(&self) -> Option<Ecn> {
        let mut counts = Reader::new(self.ecn?);
        Some(Ecn { ect0: counts.u64().ok()?, ect1: counts.u64().ok()?, ce: counts.u64().ok()? })
    }
}

/// The ranges of an [`AckFrame`]. Ends early, and `AckFrame::read` notices, at a range that is none.
#[derive(Clone, Debug)]
pub struct AckRanges<'a> {
    next: Option<(u64, u64)>,
    gaps: std::slice::Iter<'a, [u8; GAP_BYTES]>,
}

impl Iterator for AckRanges<'_> {
    type Item = (u64, u64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let range = self.next?;
        self.next = self.gaps.next().and_then(|gap| below(range.0, gap));
        Some(range)
    }
}

/// The range below one that begins at `smallest`.
#[inline]
fn below(smallest: u64, gap: &[u8; GAP_BYTES]) -> Option<(u64, u64)> {
    let word = u64::from_le_bytes(*gap);
    let (gap, length) = (word & u64::from(u32::MAX), word >> 32);
    if gap == 0 {
        return None;
    }
    let largest = smallest.checked_sub(gap + 1)?;
    Some((largest.checked_sub(length.checked_sub(1)?)?, largest))
}
