//! Reading little-endian numbers and TLVs from bytes nobody vouches for.

use crate::wire::DropReason;

/// What is left of a body. Every step that would pass its end is `BinaryMalformed`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) const fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], DropReason> {
        match self.rest.split_first_chunk::<N>() {
            Some((array, rest)) => {
                self.rest = rest;
                Ok(array)
            }
            None => Err(DropReason::BinaryMalformed),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DropReason> {
        self.array().copied().map(u8::from_le_bytes)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DropReason> {
        self.array().copied().map(u16::from_le_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DropReason> {
        self.array().copied().map(u32::from_le_bytes)
    }

    #[inline]
    pub(super) fn u64(&mut self) -> Result<u64, DropReason> {
        self.array().copied().map(u64::from_le_bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<&'a [u8], DropReason> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(DropReason::BinaryMalformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Everything that was not read.
    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The body had to end here (R-BIN-8).
    #[inline]
    pub(super) const fn end(self) -> Result<(), DropReason> {
        if self.rest.is_empty() { Ok(()) } else { Err(DropReason::BinaryMalformed) }
    }

    /// The next TLV: type u8, length u8, value. `None` at the end.
    pub(super) fn tlv(&mut self) -> Result<Option<(u8, &'a [u8])>, DropReason> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [kind, bytes] = *self.array()?;
        Ok(Some((kind, self.bytes(bytes.into())?)))
    }
}

/// A value of exactly `N` bytes into an empty place: a known TLV of another length, or a second one, is malformed.
pub(super) fn once<const N: usize>(place: &mut Option<[u8; N]>, value: &[u8]) -> Result<(), DropReason> {
    match (value.try_into(), place.is_some()) {
        (Ok(value), false) => *place = Some(value),
        _ => return Err(DropReason::BinaryMalformed),
    }
    Ok(())
}
