//! What a MESSAGE or CHUNK may say about its message besides its bytes.

use super::encode::Cursor;
use super::read::{Reader, once};
use crate::wire::DropReason;

/// Longest metadata of a message: its length is one byte.
pub const META_BYTES_MAX: usize = 255;

const LANE: u8 = 0x01;
const LIFETIME: u8 = 0x02;
const COMMITTED: u8 = 0x04;
const META: u8 = 0x08;
const KNOWN: u8 = LANE | LIFETIME | COMMITTED | META;

const LANE_BYTES: usize = 2 + 4;
const LIFETIME_BYTES: usize = 4;
/// Type and length of a TLV.
const TLV_BYTES: usize = 2;

const TAG: u8 = 1;
const CORRELATION: u8 = 2;
const TRACE: u8 = 3;
const USER: u8 = 4;

/// The optional parts of a MESSAGE or CHUNK. Of the CHUNKs of a message, the first one received counts; of lifetimes the
/// least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// The lane, and how far below the message's number that of the message before it in the lane is; 0: there is none.
    pub lane: Option<(u16, u32)>,
    /// How much of the sender's deadline is left, in milliseconds.
    pub lifetime_ms: Option<u32>,
    /// The sender waits for the application's commit, not only for the receive bucket.
    pub committed: bool,
    /// Metadata for the application. Empty metadata is not written.
    pub meta: Meta<'a>,
}

impl<'a> Extensions<'a> {
    /// None of them.
    pub const NONE: Self = Self { lane: None, lifetime_ms: None, committed: false, meta: Meta::NONE };

    /// Whether none of them is there.
    #[must_use]
    #[inline]
    pub const fn is_none(&self) -> bool {
        self.flags() == 0
    }

    /// Bytes they add to a frame.
    #[must_use]
    #[inline]
    pub const fn bytes(&self) -> usize {
        let lane = if self.lane.is_some() { LANE_BYTES } else { 0 };
        let lifetime = if self.lifetime_ms.is_some() { LIFETIME_BYTES } else { 0 };
        let meta = if self.meta.is_empty() { 0 } else { 1 + self.meta.bytes.len() };
        lane + lifetime + meta
    }

    #[inline]
    pub(super) const fn flags(&self) -> u8 {
        (if self.lane.is_some() { LANE } else { 0 })
            | (if self.lifetime_ms.is_some() { LIFETIME } else { 0 })
            | (if self.committed { COMMITTED } else { 0 })
            | (if self.meta.is_empty() { 0 } else { META })
    }

    /// Reads what `flags` announce, in the order of the bits (R-BIN-9).
    #[inline]
    pub(super) fn read(flags: u8, body: &mut Reader<'a>) -> Result<Self, DropReason> {
        if flags == 0 {
            return Ok(Self::NONE);
        }
        if flags & !KNOWN != 0 {
            return Err(DropReason::BinaryMalformed);
        }
        let lane = if flags & LANE == 0 { None } else { Some((body.u16()?, body.u32()?)) };
        let lifetime_ms = if flags & LIFETIME == 0 { None } else { Some(body.u32()?) };
        let meta = if flags & META == 0 {
            Meta::NONE
        } else {
            let bytes = body.u8()?;
            Meta::read(body.bytes(bytes.into())?)?
        };
        Ok(Self { lane, lifetime_ms, committed: flags & COMMITTED != 0, meta })
    }

    #[inline]
    pub(super) fn write(&self, to: &mut Cursor<'_>) {
        if let Some((lane, seq)) = self.lane {
            to.u16(lane);
            to.u32(seq);
        }
        if let Some(lifetime_ms) = self.lifetime_ms {
            to.u32(lifetime_ms);
        }
        if !self.meta.is_empty() {
            to.u8(self.meta.bytes.len() as u8); // At most META_BYTES_MAX: `Meta::read`.
            to.bytes(self.meta.bytes);
        }
    }
}

/// Metadata as it stands on the wire: TLVs that were found sound. Looked through when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    bytes: &'a [u8],
}

impl<'a> Meta<'a> {
    /// No metadata.
    pub const NONE: Self = Self { bytes: &[] };

    /// Checks TLVs (R-BIN-10): a known type of wrong length or twice is malformed, and more than [`META_BYTES_MAX`]
    /// bytes are. Unknown types are not looked at.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DropReason> {
        if bytes.len() > META_BYTES_MAX {
            return Err(DropReason::BinaryMalformed);
        }
        let (mut tag, mut correlation) = (None, None);
        let (mut trace, mut user) = (false, false);
        let mut tlvs = Reader::new(bytes);
        while let Some((kind, value)) = tlvs.tlv()? {
            let twice = match kind {
                TAG => once::<4>(&mut tag, value).is_err(),
                CORRELATION => once::<8>(&mut correlation, value).is_err(),
                TRACE => std::mem::replace(&mut trace, true),
                USER => std::mem::replace(&mut user, true),
                _ => false,
            };
            if twice {
                return Err(DropReason::BinaryMalformed);
            }
        }
        Ok(Self { bytes })
    }

    /// The TLVs as they stand on the wire; [`Meta::read`] understands them again.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is no TLV at all.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The application's tag.
    #[must_use]
    pub fn tag(&self) -> Option<u32> {
        self.find(TAG)?.try_into().ok().map(u32::from_le_bytes)
    }

    /// The operation this message belongs to: the id its sender gave, which a reply repeats.
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.find(CORRELATION)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// The trace context, opaque.
    #[must_use]
    pub fn trace(&self) -> Option<&'a [u8]> {
        self.find(TRACE)
    }

    /// The application's own bytes.
    #[must_use]
    pub fn user(&self) -> Option<&'a [u8]> {
        self.find(USER)
    }

    fn find(&self, wanted: u8) -> Option<&'a [u8]> {
        let mut tlvs = Reader::new(self.bytes);
        while let Ok(Some((kind, value))) = tlvs.tlv() {
            if kind == wanted {
                return Some(value);
            }
        }
        None
    }
}

/// Metadata under construction. Each part once; a method answers `false` where it is there already or does not fit.
#[derive(Clone, Debug)]
pub struct MetaBuffer {
    bytes: [u8; META_BYTES_MAX],
    used: usize,
}

impl Default for MetaBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl MetaBuffer {
    /// Without any part.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; META_BYTES_MAX], used: 0 }
    }

    /// Adds the application's tag.
    pub fn tag(&mut self, tag: u32) -> bool {
        self.add(TAG, &tag.to_le_bytes())
    }

    /// Adds the operation this message belongs to.
    pub fn correlation(&mut self, op_id: u64) -> bool {
        self.add(CORRELATION, &op_id.to_le_bytes())
    }

    /// Adds a trace context.
    pub fn trace(&mut self, context: &[u8]) -> bool {
        self.add(TRACE, context)
    }

    /// Adds bytes of the application.
    pub fn user(&mut self, bytes: &[u8]) -> bool {
        self.add(USER, bytes)
    }

    /// What was added so far.
    #[must_use]
    pub fn meta(&self) -> Meta<'_> {
        Meta { bytes: self.bytes.get(..self.used).unwrap_or_default() }
    }

    fn add(&mut self, kind: u8, value: &[u8]) -> bool {
        if self.meta().find(kind).is_some() {
            return false;
        }
        let free = self.bytes.get_mut(self.used..).unwrap_or_default();
        let Some((place, _)) = free.split_at_mut_checked(TLV_BYTES + value.len()) else { return false };
        self.used += place.len();
        let mut to = Cursor::new(place);
        to.u8(kind);
        to.u8(value.len() as u8); // It fits the buffer, so it is below 256.
        to.bytes(value);
        true
    }
}
