//! The frames of a datagram: one after the other, each a type, a length and a body.

use super::CHUNK_UNIT;
use super::ack::AckFrame;
use super::encode::{CHUNK_FRAME_BYTES, FRAME_BYTES, MESSAGE_FRAME_BYTES};
use super::extensions::Extensions;
use super::hello::Hello;
use super::read::Reader;
use super::results::{CancelFrame, ResultFrame, SkipFrame, Space};
use crate::wire::DropReason;

/// Types from here on are skipped by who does not know them; below, they refuse the datagram (R-BIN-7).
const SKIPPABLE: u8 = 0x80;
/// Flag of a CHUNK alone, beside those of the extensions: its number is of the message space (R-MTU-8).
pub(super) const PIECE: u8 = 0x80;
/// Flags and sequence number, before the extensions of a MESSAGE.
const MESSAGE_FIXED_BYTES: usize = MESSAGE_FRAME_BYTES - FRAME_BYTES;
const _: () = assert!(MESSAGE_FIXED_BYTES == 1 + 4 && CHUNK_FRAME_BYTES == FRAME_BYTES + 1 + 3 * 4);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal,)+) => {
        /// The type of a frame, as on the wire.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[doc = $doc])+ $name = $value,)+ }

        impl Kind {
            /// Every type, in the order of the wire values.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The type of a wire value.
            #[must_use]
            #[inline]
            pub const fn from_wire(value: u8) -> Option<Self> {
                match value { $($value => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

kinds! {
    /// Nothing, to the end of the datagram.
    Padding = 0x00,
    /// A whole message.
    Message = 0x01,
    /// A run of bytes of a message.
    Chunk = 0x02,
    /// Which datagrams arrived.
    Ack = 0x03,
    /// How much may be sent.
    Grant = 0x04,
    /// How operations ended.
    Result = 0x05,
    /// Operations the sender gave up.
    Cancel = 0x06,
    /// The first words of a flow.
    Hello = 0x07,
    /// Asks for a PONG, and for credit.
    Ping = 0x08,
    /// Answers a PING.
    Pong = 0x09,
    /// The end of a flow.
    Close = 0x0A,
    /// Nobody knows the tag.
    Reset = 0x0B,
    /// The lowest operations that may still come.
    Low = 0x0C,
    /// Operations of lanes the sender gave up.
    Skip = 0x0D,
}

/// One frame, borrowed from its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Everything to the end of the datagram means nothing.
    Padding {
        /// How many bytes, the type included.
        bytes: usize,
    },
    /// A whole message.
    Message(MessageFrame<'a>),
    /// A run of bytes of a message.
    Chunk(ChunkFrame<'a>),
    /// Which of our datagrams arrived.
    Ack(AckFrame<'a>),
    /// How much we may send.
    Grant(GrantFrame),
    /// How operations of ours ended.
    Result(ResultFrame<'a>),
    /// Operations the sender gave up.
    Cancel(CancelFrame<'a>),
    /// The first words of a flow.
    Hello(Hello<'a>),
    /// To be answered with a PONG.
    Ping(PingFrame),
    /// The answer to a PING.
    Pong {
        /// What the PING carried.
        data: u64,
    },
    /// The end of the flow.
    Close(CloseFrame),
    /// Nobody knows the tag we use.
    Reset {
        /// The tag, echoed.
        tag: u64,
    },
    /// The lowest operations that may still come.
    Low(LowFrame),
    /// Operations of lanes the sender gave up.
    Skip(SkipFrame<'a>),
    /// A frame of a later version that may be skipped.
    Unknown {
        /// Its type, 0x80 or above.
        kind: u8,
        /// Bytes of its body.
        bytes: usize,
    },
}

/// A whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageFrame<'a> {
    /// The low 32 bits of the operation's number in the message space.
    pub seq: u32,
    /// What else is said about the message.
    pub extensions: Extensions<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// A run of bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkFrame<'a> {
    /// The space its operation is of: mostly the chunked one. A message that does not fit a datagram any more comes in
    /// chunks as well.
    pub space: Space,
    /// The low 32 bits of the operation's number in that space.
    pub seq: u32,
    /// Where the run begins in the message: a multiple of [`CHUNK_UNIT`].
    pub offset: u32,
    /// Bytes of the message.
    pub total: u32,
    /// What else is said about the message.
    pub extensions: Extensions<'a>,
    /// The run: at least one byte, whole units unless it ends the message.
    pub bytes: &'a [u8],
}

impl ChunkFrame<'_> {
    /// Whether offset, total and length agree (R-BIN-11).
    #[must_use]
    #[inline]
    pub(super) const fn is_sound(&self) -> bool {
        let end = self.offset as u64 + self.bytes.len() as u64;
        let whole = end.is_multiple_of(CHUNK_UNIT as u64) || end == self.total as u64;
        !self.bytes.is_empty() && self.offset.is_multiple_of(CHUNK_UNIT) && end <= self.total as u64 && whole
    }
}

/// How much the receiver of this frame may send. Absolute; of packets it may be less than before (R-CREDIT-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantFrame {
    /// The highest packet number.
    pub packets: u64,
    /// The highest operation of the message space.
    pub messages: u64,
    /// The highest operation of the chunked space.
    pub chunked: u64,
    /// How long an unused grant holds, in microseconds.
    pub lease_us: u32,
}

/// Asks for a PONG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingFrame {
    /// To be echoed.
    pub data: u64,
    /// Datagrams waiting for credit.
    pub demand: u32,
}

/// The end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why.
    pub reason: u8,
    /// The last operation of the message space that was accepted.
    pub messages: u64,
    /// The last operation of the chunked space that was accepted.
    pub chunked: u64,
}

/// The lowest operations the sender may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowFrame {
    /// Of the message space.
    pub messages: u64,
    /// Of the chunked space.
    pub chunked: u64,
}

impl Frame<'_> {
    /// The type; `None` for one we do not know.
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Padding { .. } => Kind::Padding,
            Self::Message(_) => Kind::Message,
            Self::Chunk(_) => Kind::Chunk,
            Self::Ack(_) => Kind::Ack,
            Self::Grant(_) => Kind::Grant,
            Self::Result(_) => Kind::Result,
            Self::Cancel(_) => Kind::Cancel,
            Self::Hello(_) => Kind::Hello,
            Self::Ping(_) => Kind::Ping,
            Self::Pong { .. } => Kind::Pong,
            Self::Close(_) => Kind::Close,
            Self::Reset { .. } => Kind::Reset,
            Self::Low(_) => Kind::Low,
            Self::Skip(_) => Kind::Skip,
            Self::Unknown { .. } => return None,
        })
    }
}

/// What [`check`] saw: enough to reserve all places, or to drop the datagram whole, before the first frame counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// MESSAGE frames.
    pub messages: u32,
    /// Bytes in their payloads.
    pub message_bytes: u32,
    /// CHUNK frames.
    pub chunks: u32,
    kinds: u16,
    /// Something that [`messages`] does not yield was there.
    mixed: bool,
}

impl Summary {
    /// Whether a frame of this type was there.
    #[must_use]
    #[inline]
    pub const fn has(&self, kind: Kind) -> bool {
        self.kinds & 1 << kind as u8 != 0
    }

    /// Whether all frames are MESSAGEs without extensions: [`messages`] yields everything.
    #[must_use]
    #[inline]
    pub const fn is_plain_messages(&self) -> bool {
        !self.mixed
    }

    #[inline]
    const fn note(&mut self, kind: Kind) {
        self.kinds |= 1 << kind as u8;
    }
}

/// Looks at every frame once. A datagram counts whole or not at all (R-BIN-6): nothing of it may have an effect before this
/// said `Ok`, and after that [`frames`] and [`messages`] cannot fail.
#[inline]
pub fn check(bytes: &[u8]) -> Result<Summary, DropReason> {
    let mut summary = Summary::default();
    let mut plain = messages(bytes);
    loop {
        for (_, payload) in plain.by_ref() {
            summary.messages += 1;
            summary.message_bytes += payload.len() as u32; // The datagram has at most 65,507 bytes.
        }
        if plain.rest.is_empty() {
            break;
        }
        plain = messages(check_other(plain.rest, &mut summary)?);
    }
    if summary.messages > 0 {
        summary.note(Kind::Message);
    }
    if bytes.is_empty() { Err(DropReason::BinaryMalformed) } else { Ok(summary) }
}

/// One frame that is no plain MESSAGE; returns what follows it.
fn check_other<'a>(bytes: &'a [u8], summary: &mut Summary) -> Result<&'a [u8], DropReason> {
    let (frame, rest) = next_frame(bytes)?;
    summary.mixed = true;
    if let Some(kind) = frame.kind() {
        summary.note(kind);
    }
    if let Frame::Message(message) = frame {
        summary.messages += 1;
        summary.message_bytes += message.payload.len() as u32;
    }
    summary.chunks += u32::from(matches!(frame, Frame::Chunk(_)));
    Ok(rest)
}

/// The MESSAGEs without extensions that the frames begin with: `(seq, payload)`. All frames, if [`Summary`] says so.
#[must_use]
#[inline]
pub const fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages { rest: bytes }
}

/// See [`messages`].
#[derive(Clone, Copy, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// What was not yielded yet; once the iterator has ended: what follows the plain MESSAGEs.
    #[must_use]
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = (u32, &'a [u8]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        // Type, length, flags and sequence number in one word.
        let (head, rest) = self.rest.split_first_chunk::<MESSAGE_FRAME_BYTES>()?;
        let head = u64::from_le_bytes(*head);
        if head & 0xff00_00ff != Kind::Message as u64 {
            return None;
        }
        let body_bytes = (head >> 8) as u16;
        let payload_bytes = usize::from(body_bytes).checked_sub(MESSAGE_FIXED_BYTES)?;
        let (payload, rest) = rest.split_at_checked(payload_bytes)?;
        self.rest = rest;
        Some(((head >> 32) as u32, payload))
    }
}

/// All frames of a datagram.
#[must_use]
#[inline]
pub const fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { rest: bytes }
}

/// See [`frames`]. Ends after the first error.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DropReason>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match next_frame(self.rest) {
            Ok((frame, rest)) => {
                self.rest = rest;
                Some(Ok(frame))
            }
            Err(reason) => {
                self.rest = &[];
                Some(Err(reason))
            }
        }
    }
}

/// All frames of a datagram that was [checked](check), each with its bytes: to be copied into another datagram.
pub fn raw_frames(bytes: &[u8]) -> impl Iterator<Item = (Frame<'_>, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (frame, after) = next_frame(rest).ok()?;
        let (raw, _) = rest.split_at_checked(rest.len() - after.len())?;
        rest = after;
        Some((frame, raw))
    })
}

/// The first frame and what follows it.
#[inline]
fn next_frame(bytes: &[u8]) -> Result<(Frame<'_>, &[u8]), DropReason> {
    let mut datagram = Reader::new(bytes);
    let kind = datagram.u8()?;
    if kind == Kind::Padding as u8 {
        return Ok((Frame::Padding { bytes: bytes.len() }, &[]));
    }
    let body_bytes = datagram.u16()?;
    let body = datagram.bytes(body_bytes.into())?;
    let frame = match Kind::from_wire(kind) {
        Some(kind) => read(kind, Reader::new(body))?,
        None if kind >= SKIPPABLE => Frame::Unknown { kind, bytes: body.len() },
        None => return Err(DropReason::BinaryMalformed),
    };
    Ok((frame, datagram.rest()))
}

#[inline]
fn read(kind: Kind, mut body: Reader<'_>) -> Result<Frame<'_>, DropReason> {
    let frame = match kind {
        Kind::Padding => return Err(DropReason::BinaryMalformed), // It has no body and does not get here.
        Kind::Message => return message(body).map(Frame::Message),
        Kind::Chunk => return chunk(body).map(Frame::Chunk),
        Kind::Ack => return AckFrame::read(body).map(Frame::Ack),
        Kind::Result => return ResultFrame::read(body).map(Frame::Result),
        Kind::Cancel => return CancelFrame::read(body).map(Frame::Cancel),
        Kind::Skip => return SkipFrame::read(body).map(Frame::Skip),
        Kind::Hello => return Hello::read(body).map(Frame::Hello),
        Kind::Grant => Frame::Grant(GrantFrame {
            packets: body.u64()?,
            messages: body.u64()?,
            chunked: body.u64()?,
            lease_us: body.u32()?,
        }),
        Kind::Ping => Frame::Ping(PingFrame { data: body.u64()?, demand: body.u32()? }),
        Kind::Pong => Frame::Pong { data: body.u64()? },
        Kind::Close => {
            Frame::Close(CloseFrame { reason: body.u8()?, messages: body.u64()?, chunked: body.u64()? })
        }
        Kind::Reset => Frame::Reset { tag: body.u64()? },
        Kind::Low => Frame::Low(LowFrame { messages: body.u64()?, chunked: body.u64()? }),
    };
    body.end()?;
    Ok(frame)
}

#[inline]
fn message(mut body: Reader<'_>) -> Result<MessageFrame<'_>, DropReason> {
    let (flags, seq) = (body.u8()?, body.u32()?);
    let extensions = Extensions::read(flags, &mut body)?;
    Ok(MessageFrame { seq, extensions, payload: body.rest() })
}

#[inline]
fn chunk(mut body: Reader<'_>) -> Result<ChunkFrame<'_>, DropReason> {
    let (flags, seq, offset, total) = (body.u8()?, body.u32()?, body.u32()?, body.u32()?);
    let extensions = Extensions::read(flags & !PIECE, &mut body)?;
    let space = if flags & PIECE == 0 { Space::Chunked } else { Space::Message };
    let frame = ChunkFrame { space, seq, offset, total, extensions, bytes: body.rest() };
    if frame.is_sound() { Ok(frame) } else { Err(DropReason::BinaryMalformed) }
}
