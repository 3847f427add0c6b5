//! RESULT, CANCEL and SKIP: lists of operations, named by space and sequence number.

use super::read::Reader;
use crate::wire::DropReason;

/// Bytes of an operation's name and its outcome.
pub const RESULT_ENTRY_BYTES: usize = CANCEL_ENTRY_BYTES + 1;
/// Bytes of an operation's name.
pub const CANCEL_ENTRY_BYTES: usize = 8;
/// Bytes of an operation's name and of how far below it the one before it in its lane is.
pub const SKIP_ENTRY_BYTES: usize = CANCEL_ENTRY_BYTES + 4;
/// Bit 63 says which space a sequence number belongs to, so they end here.
pub const SEQ_MAX: u64 = CHUNKED_BIT - 1;

const CHUNKED_BIT: u64 = 1 << 63;

/// A number space of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Messages of one frame.
    Message,
    /// Messages in chunks, of lanes, or that want a commit.
    Chunked,
}

/// How an operation ended at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ResultCode {
    /// In a reserved place of the receive bucket.
    Accepted = 0x00,
    /// The application committed it.
    Committed = 0x01,
    /// Beyond the receiver's limits.
    TooLarge = 0x10,
    /// The receiver is closing.
    Closed = 0x11,
    /// Its frames contradict each other.
    Malformed = 0x12,
    /// No room now; the sender may try again.
    Busy = 0x13,
    /// Older than the receiver's memory.
    Stale = 0x14,
    /// The application dropped it without a commit.
    NotCommitted = 0x15,
    /// Its lifetime ended at the receiver.
    Expired = 0x16,
    /// The application refused it; the sender may try again.
    Refused = 0x17,
}

impl ResultCode {
    /// Every code, in the order of the wire values.
    pub const ALL: [Self; 10] = [
        Self::Accepted,
        Self::Committed,
        Self::TooLarge,
        Self::Closed,
        Self::Malformed,
        Self::Busy,
        Self::Stale,
        Self::NotCommitted,
        Self::Expired,
        Self::Refused,
    ];

    /// The code of a wire value.
    #[must_use]
    #[inline]
    pub fn from_wire(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u8 == value)
    }

    /// Whether it is no level that was reached.
    #[must_use]
    #[inline]
    pub const fn is_refusal(self) -> bool {
        self as u8 >= Self::TooLarge as u8
    }

    /// Whether the same operation may be sent again.
    #[must_use]
    #[inline]
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Refused)
    }
}

/// An operation's name on the wire.
#[inline]
pub(super) fn pack(space: Space, seq: u64) -> u64 {
    assert!(seq <= SEQ_MAX, "a sequence number of 63 bits");
    match space {
        Space::Message => seq,
        Space::Chunked => seq | CHUNKED_BIT,
    }
}

#[inline]
const fn unpack(word: u64) -> (Space, u64) {
    let space = if word & CHUNKED_BIT == 0 { Space::Message } else { Space::Chunked };
    (space, word & SEQ_MAX)
}

/// How operations of ours ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultFrame<'a> {
    entries: &'a [[u8; RESULT_ENTRY_BYTES]],
}

impl<'a> ResultFrame<'a> {
    /// At least one entry, no part of one, no unknown code (R-BIN-13).
    pub(super) fn read(body: Reader<'a>) -> Result<Self, DropReason> {
        let (entries, []) = body.rest().as_chunks() else { return Err(DropReason::BinaryMalformed) };
        let frame = Self { entries };
        if entries.is_empty() || frame.entries().count() != entries.len() {
            return Err(DropReason::BinaryMalformed);
        }
        Ok(frame)
    }

    /// The operations and how they ended, in the order of the wire.
    #[inline]
    pub fn entries(&self) -> impl Iterator<Item = (Space, u64, ResultCode)> + Clone + use<'a> {
        self.entries.iter().map_while(|entry| {
            let (name, &[code]) = entry.split_first_chunk::<CANCEL_ENTRY_BYTES>()? else { return None };
            let (space, seq) = unpack(u64::from_le_bytes(*name));
            Some((space, seq, ResultCode::from_wire(code)?))
        })
    }
}

/// Operations the sender gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelFrame<'a> {
    entries: &'a [[u8; CANCEL_ENTRY_BYTES]],
}

impl<'a> CancelFrame<'a> {
    /// At least one entry, no part of one (R-BIN-13).
    pub(super) const fn read(body: Reader<'a>) -> Result<Self, DropReason> {
        match body.rest().as_chunks() {
            (entries @ [_, ..], []) => Ok(Self { entries }),
            _ => Err(DropReason::BinaryMalformed),
        }
    }

    /// The operations, in the order of the wire.
    #[inline]
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Space, u64)> + Clone + use<'a> {
        self.entries.iter().map(|entry| unpack(u64::from_le_bytes(*entry)))
    }
}

/// Operations of lanes the sender gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkipFrame<'a> {
    entries: &'a [[u8; SKIP_ENTRY_BYTES]],
}

impl<'a> SkipFrame<'a> {
    /// At least one entry, no part of one (R-BIN-13).
    pub(super) const fn read(body: Reader<'a>) -> Result<Self, DropReason> {
        match body.rest().as_chunks() {
            (entries @ [_, ..], []) => Ok(Self { entries }),
            _ => Err(DropReason::BinaryMalformed),
        }
    }

    /// The operations, each with how far below it the one before it in its lane is (0: there is none), in the order of the
    /// wire.
    #[inline]
    pub fn entries(&self) -> impl Iterator<Item = (Space, u64, u32)> + Clone + use<'a> {
        self.entries.iter().map_while(|entry| {
            let (name, before) = entry.split_first_chunk::<CANCEL_ENTRY_BYTES>()?;
            let (space, seq) = unpack(u64::from_le_bytes(*name));
            Some((space, seq, u32::from_le_bytes(before.try_into().ok()?)))
        })
    }
}
