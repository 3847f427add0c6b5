//! Frames to bytes.

use super::DATAGRAM_BYTES_MAX;
use super::ack::{self, Ecn};
use super::extensions::Extensions;
use super::frame::{ChunkFrame, CloseFrame, GrantFrame, Kind, LowFrame, PIECE, PingFrame};
use super::hello::Hello;
use super::results::{CANCEL_ENTRY_BYTES, RESULT_ENTRY_BYTES, ResultCode, SKIP_ENTRY_BYTES, Space, pack};

/// Type and length, before every body.
pub const FRAME_BYTES: usize = 1 + 2;
/// A MESSAGE without extensions and payload.
pub const MESSAGE_FRAME_BYTES: usize = FRAME_BYTES + 1 + 4;
/// A CHUNK without extensions and bytes.
pub const CHUNK_FRAME_BYTES: usize = FRAME_BYTES + 1 + 3 * 4;
/// Ranges of an ACK below the first one: their count is one byte.
const GAPS_MAX: usize = 255;

/// Size of a MESSAGE without extensions; [`Extensions::bytes`] come on top.
#[must_use]
#[inline]
pub const fn message_frame_bytes(payload_bytes: usize) -> usize {
    MESSAGE_FRAME_BYTES + payload_bytes
}

/// Size of a CHUNK without extensions; [`Extensions::bytes`] come on top.
#[must_use]
#[inline]
pub const fn chunk_frame_bytes(chunk_bytes: usize) -> usize {
    CHUNK_FRAME_BYTES + chunk_bytes
}

/// Size of an ACK of `range_count` ranges, at least 1.
#[must_use]
#[inline]
pub const fn ack_frame_bytes(range_count: usize, ecn: bool) -> usize {
    let gaps = range_count.saturating_sub(1);
    FRAME_BYTES + ack::FIXED_BYTES + gaps * ack::GAP_BYTES + if ecn { ack::ECN_BYTES } else { 0 }
}

/// Writes the head of a message without extensions, whose frame takes all of `frame`; its payload is to be written into the
/// space returned.
///
/// # Panics
/// If the frame is shorter than [`MESSAGE_FRAME_BYTES`].
#[inline(always)]
pub fn plain_message_space(frame: &mut [u8], seq: u32) -> &mut [u8] {
    // Type, length, flags and sequence number in one word.
    let word = Kind::Message as u64 | ((frame.len() - FRAME_BYTES) as u64) << 8 | u64::from(seq) << 32;
    let (head, payload) = frame.split_at_mut(MESSAGE_FRAME_BYTES);
    head.copy_from_slice(&word.to_le_bytes());
    payload
}

/// Gives the MESSAGE without extensions that `frames` begin with, as [`plain_message_space`] began it, its number.
///
/// # Panics
/// If they end before that.
#[inline(always)]
pub fn number_plain_message(frames: &mut [u8], seq: u32) {
    let (_, from_number) = frames.split_at_mut(MESSAGE_FRAME_BYTES - size_of::<u32>());
    if let Some((number, _)) = from_number.split_first_chunk_mut() {
        *number = seq.to_le_bytes();
    }
}

/// Writes frames one after the other into the part of a datagram behind its header.
///
/// Each method writes one frame whole and answers `true`, or finds no room, writes nothing and answers `false`.
#[derive(Debug)]
pub struct Writer<'a> {
    area: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Writes into `area`, which is no longer than a datagram.
    #[must_use]
    #[inline]
    pub const fn new(area: &'a mut [u8]) -> Self {
        assert!(area.len() <= DATAGRAM_BYTES_MAX, "every body's length fits its two bytes");
        Self { area, at: 0 }
    }

    /// Bytes written.
    #[must_use]
    #[inline]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Bytes free.
    #[must_use]
    #[inline]
    pub const fn room(&self) -> usize {
        self.area.len() - self.at
    }

    /// A whole message, without extensions.
    #[inline]
    pub fn plain_message(&mut self, seq: u32, payload: &[u8]) -> bool {
        let Some(to) = self.claim(message_frame_bytes(payload.len())) else { return false };
        plain_message_space(to.rest, seq).copy_from_slice(payload);
        true
    }

    /// A whole message.
    #[inline]
    pub fn message(&mut self, seq: u32, payload: &[u8], extensions: &Extensions<'_>) -> bool {
        if extensions.is_none() {
            return self.plain_message(seq, payload);
        }
        let body_bytes = message_frame_bytes(payload.len()) - FRAME_BYTES + extensions.bytes();
        let Some(mut to) = self.frame(Kind::Message, body_bytes) else { return false };
        to.u8(extensions.flags());
        to.u32(seq);
        extensions.write(&mut to);
        to.bytes(payload);
        true
    }

    /// A run of bytes of a message. Offset, total and length must agree (R-BIN-11).
    #[inline]
    pub fn chunk(&mut self, chunk: &ChunkFrame<'_>) -> bool {
        assert!(chunk.is_sound(), "a run of whole units inside its message");
        let body_bytes = chunk_frame_bytes(chunk.bytes.len()) - FRAME_BYTES + chunk.extensions.bytes();
        let Some(mut to) = self.frame(Kind::Chunk, body_bytes) else { return false };
        let piece = if chunk.space == Space::Message { PIECE } else { 0 };
        to.u8(chunk.extensions.flags() | piece);
        to.u32(chunk.seq);
        to.u32(chunk.offset);
        to.u32(chunk.total);
        chunk.extensions.write(&mut to);
        to.bytes(chunk.bytes);
        true
    }

    /// Which datagrams arrived: `(smallest, largest)` of each range, both included, from the largest down, with at least
    /// one number missing between two. Writes as many as fit, at most 256; without room for the first one, or without
    /// any, nothing. What is left out can only be the oldest, and is acknowledged less, never more.
    #[inline]
    pub fn ack(
        &mut self,
        delay_us: u32,
        ranges: impl IntoIterator<Item = (u64, u64)>,
        ecn: Option<Ecn>,
    ) -> bool {
        let mut ranges = ranges.into_iter();
        let Some((smallest, largest)) = ranges.next() else { return false };
        assert!(smallest <= largest, "a range");
        let Some(spare) = self.room().checked_sub(ack_frame_bytes(1, ecn.is_some())) else { return false };
        let first = u32::try_from(largest - smallest).unwrap_or(u32::MAX);
        // Below a range that had to be cut, the numbers are not missing: nothing can follow.
        let cut = u64::from(first) < largest - smallest;
        let gaps_max = if cut { 0 } else { (spare / ack::GAP_BYTES).min(GAPS_MAX) };
        // Count and length are not known before the ranges are: they are written last.
        let gaps_at = self.at + FRAME_BYTES + ack::FIXED_BYTES;
        let mut to = Cursor::new(self.area.get_mut(gaps_at..).unwrap_or_default());
        let mut gap_count = 0;
        let mut below = smallest;
        for (smallest, largest) in ranges.take(gaps_max) {
            assert!(smallest <= largest && largest < below && below - largest > 1, "ranges that go down");
            let gap = u32::try_from(below - largest - 1);
            let (Ok(gap), Ok(length)) = (gap, u32::try_from(largest - smallest + 1)) else { break };
            to.u32(gap);
            to.u32(length);
            below = smallest;
            gap_count += 1;
        }
        let body_bytes = ack_frame_bytes(1 + gap_count, ecn.is_some()) - FRAME_BYTES;
        let Some(mut to) = self.frame(Kind::Ack, body_bytes) else { return false };
        to.u64(largest);
        to.u32(delay_us);
        to.u8(if ecn.is_some() { ack::ECN } else { 0 });
        to.u8(gap_count as u8); // At most GAPS_MAX.
        to.u32(first);
        to.skip(gap_count * ack::GAP_BYTES);
        if let Some(ecn) = ecn {
            to.u64(ecn.ect0);
            to.u64(ecn.ect1);
            to.u64(ecn.ce);
        }
        true
    }

    /// How much the other side may send.
    #[inline]
    pub fn grant(&mut self, grant: &GrantFrame) -> bool {
        let Some(mut to) = self.frame(Kind::Grant, 3 * 8 + 4) else { return false };
        to.u64(grant.packets);
        to.u64(grant.messages);
        to.u64(grant.chunked);
        to.u32(grant.lease_us);
        true
    }

    /// How operations ended: all of them in one frame, which takes [`FRAME_BYTES`] and [`RESULT_ENTRY_BYTES`] for each.
    /// No entries: nothing to write.
    #[inline]
    pub fn results(&mut self, entries: &[(Space, u64, ResultCode)]) -> bool {
        if entries.is_empty() {
            return true;
        }
        let Some(mut to) = self.frame(Kind::Result, entries.len() * RESULT_ENTRY_BYTES) else { return false };
        for &(space, seq, code) in entries {
            to.u64(pack(space, seq));
            to.u8(code as u8);
        }
        true
    }

    /// Operations given up: all of them in one frame, which takes [`FRAME_BYTES`] and [`CANCEL_ENTRY_BYTES`] for each.
    /// No entries: nothing to write.
    #[inline]
    pub fn cancels(&mut self, entries: &[(Space, u64)]) -> bool {
        if entries.is_empty() {
            return true;
        }
        let Some(mut to) = self.frame(Kind::Cancel, entries.len() * CANCEL_ENTRY_BYTES) else { return false };
        for &(space, seq) in entries {
            to.u64(pack(space, seq));
        }
        true
    }

    /// Operations of lanes given up: all of them in one frame, which takes [`FRAME_BYTES`] and [`SKIP_ENTRY_BYTES`] for
    /// each. No entries: nothing to write.
    pub fn skips(&mut self, entries: &[(Space, u64, u32)]) -> bool {
        if entries.is_empty() {
            return true;
        }
        let Some(mut to) = self.frame(Kind::Skip, entries.len() * SKIP_ENTRY_BYTES) else { return false };
        for &(space, seq, before) in entries {
            to.u64(pack(space, seq));
            to.u32(before);
        }
        true
    }

    /// The first words of a flow.
    pub fn hello(&mut self, hello: &Hello<'_>) -> bool {
        let Some(mut to) = self.frame(Kind::Hello, hello.bytes()) else { return false };
        hello.write(&mut to);
        true
    }

    /// Asks for a PONG.
    #[inline]
    pub fn ping(&mut self, ping: &PingFrame) -> bool {
        let Some(mut to) = self.frame(Kind::Ping, 8 + 4) else { return false };
        to.u64(ping.data);
        to.u32(ping.demand);
        true
    }

    /// Answers a PING.
    #[inline]
    pub fn pong(&mut self, data: u64) -> bool {
        self.number(Kind::Pong, data)
    }

    /// Ends a flow.
    #[inline]
    pub fn close(&mut self, close: &CloseFrame) -> bool {
        let Some(mut to) = self.frame(Kind::Close, 1 + 2 * 8) else { return false };
        to.u8(close.reason);
        to.u64(close.messages);
        to.u64(close.chunked);
        true
    }

    /// Tells that nobody knows a tag.
    #[inline]
    pub fn reset(&mut self, tag: u64) -> bool {
        self.number(Kind::Reset, tag)
    }

    /// The lowest operations that may still come.
    #[inline]
    pub fn low(&mut self, low: &LowFrame) -> bool {
        let Some(mut to) = self.frame(Kind::Low, 2 * 8) else { return false };
        to.u64(low.messages);
        to.u64(low.chunked);
        true
    }

    /// Fills what is left with padding. No frame can follow.
    #[inline]
    pub fn pad(&mut self) {
        if let Some(rest) = self.area.get_mut(self.at..) {
            rest.fill(0); // PADDING is type 0, without a length.
        }
        self.at = self.area.len();
    }

    #[inline]
    fn number(&mut self, kind: Kind, value: u64) -> bool {
        let Some(mut to) = self.frame(kind, 8) else { return false };
        to.u64(value);
        true
    }

    /// Claims a frame and writes its type and length.
    #[inline]
    fn frame(&mut self, kind: Kind, body_bytes: usize) -> Option<Cursor<'_>> {
        let mut to = self.claim(FRAME_BYTES + body_bytes)?;
        to.u8(kind as u8);
        to.u16(body_bytes as u16); // It fits the area, which is no longer than a datagram.
        Some(to)
    }

    #[inline]
    fn claim(&mut self, bytes: usize) -> Option<Cursor<'_>> {
        let (frame, _) = self.area.get_mut(self.at..)?.split_at_mut_checked(bytes)?;
        self.at += bytes;
        Some(Cursor::new(frame))
    }
}

/// Writes from the front; running out of room is our bug, because the size was computed.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a mut [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) const fn new(rest: &'a mut [u8]) -> Self {
        Self { rest }
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> &'a mut [u8] {
        let (taken, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes);
        self.rest = rest;
        taken
    }

    /// Leaves bytes as they are.
    #[inline]
    fn skip(&mut self, bytes: usize) {
        self.take(bytes);
    }

    #[inline]
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.take(bytes.len()).copy_from_slice(bytes);
    }

    #[inline]
    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    #[inline]
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}
