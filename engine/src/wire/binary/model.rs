//! Frames, owned: what tests and fuzzers make up, write, and compare with what was read.

use super::*;
use crate::wire::DropReason;

/// One frame, owned: to be made up, written, and compared with what was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owned {
    Message { seq: u32, payload: Vec<u8>, extra: Extra },
    Chunk { space: Space, seq: u32, offset: u32, total: u32, bytes: Vec<u8>, extra: Extra },
    Ack { delay_us: u32, ranges: Vec<(u64, u64)>, ecn: Option<Ecn> },
    Grant(GrantFrame),
    Result(Vec<(Space, u64, ResultCode)>),
    Cancel(Vec<(Space, u64)>),
    Skip(Vec<(Space, u64, u32)>),
    Hello { versions: Vec<u8>, rest: Hello<'static> },
    Ping(PingFrame),
    Pong(u64),
    Close(CloseFrame),
    Reset(u64),
    Low(LowFrame),
}

/// Extensions, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extra {
    pub(crate) lane: Option<(u16, u32)>,
    pub(crate) lifetime_ms: Option<u32>,
    pub(crate) committed: bool,
    pub(crate) meta: Vec<u8>,
}

impl Extra {
    pub(crate) fn of(extensions: &Extensions<'_>) -> Self {
        let Extensions { lane, lifetime_ms, committed, meta } = *extensions;
        Self { lane, lifetime_ms, committed, meta: meta.as_bytes().to_vec() }
    }

    pub(crate) fn extensions(&self) -> Extensions<'_> {
        let Self { lane, lifetime_ms, committed, .. } = *self;
        Extensions {
            lane,
            lifetime_ms,
            committed,
            meta: Meta::read(&self.meta).expect("metadata that was sound"),
        }
    }
}

impl Owned {
    /// `None` for what a writer has no method for.
    pub(crate) fn of(frame: &Frame<'_>) -> Option<Self> {
        Some(match *frame {
            Frame::Padding { .. } | Frame::Unknown { .. } => return None,
            Frame::Message(MessageFrame { seq, extensions, payload }) => {
                Self::Message { seq, payload: payload.to_vec(), extra: Extra::of(&extensions) }
            }
            Frame::Chunk(ChunkFrame { space, seq, offset, total, extensions, bytes }) => Self::Chunk {
                space,
                seq,
                offset,
                total,
                bytes: bytes.to_vec(),
                extra: Extra::of(&extensions),
            },
            Frame::Ack(ack) => {
                Self::Ack { delay_us: ack.delay_us(), ranges: ack.ranges().collect(), ecn: ack.ecn() }
            }
            Frame::Grant(grant) => Self::Grant(grant),
            Frame::Result(result) => Self::Result(result.entries().collect()),
            Frame::Cancel(cancel) => Self::Cancel(cancel.entries().collect()),
            Frame::Skip(skip) => Self::Skip(skip.entries().collect()),
            Frame::Hello(hello) => {
                Self::Hello { versions: hello.versions.to_vec(), rest: Hello { versions: &[], ..hello } }
            }
            Frame::Ping(ping) => Self::Ping(ping),
            Frame::Pong { data } => Self::Pong(data),
            Frame::Close(close) => Self::Close(close),
            Frame::Reset { tag } => Self::Reset(tag),
            Frame::Low(low) => Self::Low(low),
        })
    }

    pub(crate) fn write(&self, to: &mut Writer<'_>) -> bool {
        match self {
            Self::Message { seq, payload, extra } => to.message(*seq, payload, &extra.extensions()),
            Self::Chunk { space, seq, offset, total, bytes, extra } => to.chunk(&ChunkFrame {
                space: *space,
                seq: *seq,
                offset: *offset,
                total: *total,
                extensions: extra.extensions(),
                bytes,
            }),
            Self::Ack { delay_us, ranges, ecn } => to.ack(*delay_us, ranges.iter().copied(), *ecn),
            Self::Grant(grant) => to.grant(grant),
            Self::Result(entries) => to.results(entries),
            Self::Cancel(entries) => to.cancels(entries),
            Self::Skip(entries) => to.skips(entries),
            Self::Hello { versions, rest } => to.hello(&Hello { versions, ..*rest }),
            Self::Ping(ping) => to.ping(ping),
            Self::Pong(data) => to.pong(*data),
            Self::Close(close) => to.close(close),
            Self::Reset(tag) => to.reset(*tag),
            Self::Low(low) => to.low(low),
        }
    }

    /// What the documented sizes say.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Message { payload, extra, .. } => {
                message_frame_bytes(payload.len()) + extra.extensions().bytes()
            }
            Self::Chunk { bytes, extra, .. } => chunk_frame_bytes(bytes.len()) + extra.extensions().bytes(),
            Self::Ack { ranges, ecn, .. } => ack_frame_bytes(ranges.len(), ecn.is_some()),
            Self::Grant(_) => 31,
            Self::Result(entries) => FRAME_BYTES + entries.len() * RESULT_ENTRY_BYTES,
            Self::Cancel(entries) => FRAME_BYTES + entries.len() * CANCEL_ENTRY_BYTES,
            Self::Skip(entries) => FRAME_BYTES + entries.len() * SKIP_ENTRY_BYTES,
            Self::Hello { versions, rest } => FRAME_BYTES + Hello { versions, ..*rest }.bytes(),
            Self::Ping(_) => 15,
            Self::Pong(_) | Self::Reset(_) => 11,
            Self::Close(_) => 20,
            Self::Low(_) => 19,
        }
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Message { extra, .. } if *extra == Extra::default())
    }
}

/// The datagram as our encoder writes it; what it cannot write is left out.
pub(crate) fn rewrite(datagram: &[u8]) -> Vec<u8> {
    let (header, bytes) = decode(datagram).expect("a datagram that was checked");
    let mut ours = vec![0xaa; datagram.len()];
    let at = write(&mut ours, &header);
    let mut to = Writer::new(ours.split_at_mut(at).1);
    for frame in raw_frames(bytes).map(|(frame, _)| frame) {
        match Owned::of(&frame) {
            Some(owned) => assert!(owned.write(&mut to), "{owned:?}"),
            None if matches!(frame, Frame::Padding { .. }) => to.pad(),
            None => {}
        }
    }
    let end = at + to.at();
    ours.truncate(end);
    seal(&mut ours);
    ours
}

/// `check`, `frames` and `messages` agree on any bytes. Returns whether they are sound.
pub(crate) fn agree(bytes: &[u8]) -> bool {
    let read: Result<Vec<Frame<'_>>, DropReason> = frames(bytes).collect();
    let plain: Vec<(u32, &[u8])> = messages(bytes).collect();
    match (check(bytes), read) {
        (Ok(summary), Ok(read)) => {
            let mut expected = Summary::default();
            for frame in &read {
                if let Frame::Message(message) = frame {
                    expected.messages += 1;
                    expected.message_bytes += message.payload.len() as u32;
                }
                expected.chunks += u32::from(matches!(frame, Frame::Chunk(_)));
            }
            let Summary { messages, message_bytes, chunks, .. } = summary;
            assert_eq!(
                (messages, message_bytes, chunks),
                (expected.messages, expected.message_bytes, expected.chunks)
            );
            for kind in Kind::ALL {
                assert_eq!(
                    summary.has(*kind),
                    read.iter().any(|frame| frame.kind() == Some(*kind)),
                    "{kind:?}"
                );
            }
            let as_plain = read.iter().map_while(|frame| match frame {
                Frame::Message(message) if message.extensions.is_none() => {
                    Some((message.seq, message.payload))
                }
                _ => None,
            });
            // A MESSAGE with empty metadata says nothing, and is left to the general way.
            assert!(as_plain.clone().take(plain.len()).eq(plain.iter().copied()));
            assert!(!summary.is_plain_messages() || as_plain.count() == read.len());
            assert_eq!(summary.is_plain_messages(), plain.len() == read.len());
            true
        }
        (Err(seen), Err(read)) => {
            assert_eq!((seen, read), (DropReason::BinaryMalformed, DropReason::BinaryMalformed));
            false
        }
        (Err(DropReason::BinaryMalformed), Ok(read)) => {
            assert!(read.is_empty() && bytes.is_empty());
            false
        }
        (seen, read) => unreachable!("check says {seen:?}, frames {read:?}"),
    }
}
