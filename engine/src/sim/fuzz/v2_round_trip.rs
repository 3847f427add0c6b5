//! Frames made up from an input, written and read again. The generator is what `endpoint` sends, too.

use super::bytes::Bytes;
use crate::units::UnixMicros;
use crate::wire::binary::model::{Extra, Owned, agree};
use crate::wire::binary::{
    BASE_MAX, Bases, CHUNK_UNIT, CloseFrame, Ecn, Frame, GrantFrame, Header, Hello, Limits, LowFrame,
    MetaBuffer, PingFrame, ResultCode, SEQ_MAX, Space, Writer, check, decode, frames, seal, write,
};

/// Frames in a datagram at most.
const FRAMES_MAX: usize = 24;
/// Bytes of a payload, of versions, and so on, at most.
const PAYLOAD_BYTES_MAX: u16 = 2_048;

pub(super) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let header = header(&mut bytes);
    let mut datagram = vec![0xaa; header.bytes() + usize::from(bytes.u16() % 8_192)];
    let at = write(&mut datagram, &header);
    let mut to = Writer::new(&mut datagram[at..]);
    let mut written = Vec::new();
    while !bytes.is_empty() && written.len() < FRAMES_MAX {
        let frame = frame(&mut bytes);
        let (before, fits) = (to.at(), frame.bytes() <= to.room());
        if frame.write(&mut to) && fits {
            assert_eq!(to.at() - before, frame.bytes(), "{frame:?}");
            written.push(frame);
            continue;
        }
        // An acknowledgement takes the room there is, and then says less.
        assert!(!fits && (matches!(frame, Owned::Ack { .. }) || to.at() == before), "{frame:?}");
        break;
    }
    let end = at + to.at();
    datagram.truncate(end);
    seal(&mut datagram);
    let (read, body) = decode(&datagram).expect("a datagram of ours");
    assert_eq!(read, header);
    assert_eq!(agree(body), !body.is_empty(), "what we write is sound");
    let read: Vec<Owned> = frames(body).flatten().filter_map(|frame: Frame<'_>| Owned::of(&frame)).collect();
    assert_eq!(read[..written.len()], written);
    assert!(read.len() <= written.len() + 1);
    if let Ok(summary) = check(body) {
        assert_eq!(summary.is_plain_messages(), read.iter().all(Owned::is_plain));
    }
}

fn header(bytes: &mut Bytes<'_>) -> Header {
    Header {
        route: bytes.u8(),
        epoch: bytes.u32(),
        packet_number: bytes.number(),
        tag: bytes.number(),
        sent_at: bytes.option(|bytes| UnixMicros(bytes.number())),
    }
}

/// Any frame there is a method to write of, sound in itself.
pub(super) fn frame(bytes: &mut Bytes<'_>) -> Owned {
    match bytes.below(16) {
        0..3 => Owned::Message { seq: bytes.number() as u32, payload: payload(bytes), extra: extra(bytes) },
        3 | 4 => chunk(bytes),
        5 | 6 => Owned::Ack { delay_us: bytes.u32(), ranges: ranges(bytes), ecn: bytes.option(ecn) },
        7 => Owned::Grant(GrantFrame {
            packets: bytes.number(),
            messages: bytes.number(),
            chunked: bytes.number(),
            lease_us: bytes.u32(),
        }),
        8 => Owned::Result(list(bytes, |bytes| {
            let (space, seq) = op(bytes);
            (space, seq, ResultCode::ALL[usize::from(bytes.below(ResultCode::ALL.len() as u8))])
        })),
        9 => Owned::Cancel(list(bytes, op)),
        10 => Owned::Skip(list(bytes, |bytes| {
            let (space, seq) = op(bytes);
            (space, seq, bytes.number() as u32)
        })),
        11 => hello(bytes),
        12 => Owned::Ping(PingFrame { data: bytes.u64(), demand: bytes.u32() }),
        13 => Owned::Pong(bytes.u64()),
        14 => match bytes.below(2) {
            0 => Owned::Close(CloseFrame {
                reason: bytes.u8(),
                messages: bytes.number(),
                chunked: bytes.number(),
            }),
            _ => Owned::Reset(bytes.u64()),
        },
        _ => Owned::Low(LowFrame { messages: bytes.number(), chunked: bytes.number() }),
    }
}

fn payload(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let count = usize::from(bytes.u16() % PAYLOAD_BYTES_MAX);
    // Long ones cost two bytes of the input, not all of theirs.
    let mut payload = bytes.take(count.min(16)).to_vec();
    payload.resize(count, 0x5a);
    payload
}

fn space(bytes: &mut Bytes<'_>) -> Space {
    if bytes.flag() { Space::Chunked } else { Space::Message }
}

fn op(bytes: &mut Bytes<'_>) -> (Space, u64) {
    (space(bytes), bytes.number() & SEQ_MAX)
}

fn list<T>(bytes: &mut Bytes<'_>, mut entry: impl FnMut(&mut Bytes<'_>) -> T) -> Vec<T> {
    (0..=bytes.below(12)).map(|_| entry(bytes)).collect()
}

fn ecn(bytes: &mut Bytes<'_>) -> Ecn {
    Ecn { ect0: bytes.number(), ect1: bytes.number(), ce: bytes.number() }
}

fn chunk(bytes: &mut Bytes<'_>) -> Owned {
    let (space, seq) = op(bytes);
    let mut content = payload(bytes);
    if content.is_empty() {
        content.push(0);
    }
    let unit = u64::from(CHUNK_UNIT);
    let offset = bytes.number() % (u64::from(u32::MAX) - 2 * u64::from(PAYLOAD_BYTES_MAX)) / unit * unit;
    let end = offset + content.len() as u64;
    // A run that is not of whole units ends its message.
    let more = if end.is_multiple_of(unit) { bytes.number() } else { 0 };
    let total = end.saturating_add(more).min(u32::MAX.into());
    let extra = extra(bytes);
    Owned::Chunk { space, seq: seq as u32, offset: offset as u32, total: total as u32, bytes: content, extra }
}

fn ranges(bytes: &mut Bytes<'_>) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut top = Some(bytes.number());
    for _ in 0..=bytes.below(40) {
        let Some(largest) = top else { break };
        let length = bytes.number() % u64::from(u32::MAX);
        let smallest = largest.saturating_sub(length);
        ranges.push((smallest, largest));
        top = smallest.checked_sub(2 + bytes.number() % (u64::from(u32::MAX) - 1));
    }
    ranges
}

fn extra(bytes: &mut Bytes<'_>) -> Extra {
    let parts = bytes.u8();
    if parts < 128 {
        return Extra::default();
    }
    let mut meta = MetaBuffer::new();
    if parts & 1 != 0 {
        meta.tag(bytes.u32());
    }
    if parts & 2 != 0 {
        meta.correlation(bytes.u64());
    }
    if parts & 4 != 0 {
        let count = usize::from(bytes.u8());
        meta.trace(bytes.take(count));
    }
    if parts & 8 != 0 {
        let count = usize::from(bytes.u8());
        meta.user(bytes.take(count));
    }
    Extra {
        lane: (parts & 16 != 0).then(|| (bytes.u8().into(), bytes.number() as u32)),
        lifetime_ms: (parts & 32 != 0).then(|| bytes.number() as u32),
        committed: parts & 64 != 0,
        meta: meta.meta().as_bytes().to_vec(),
    }
}

/// A HELLO that can be read: its numbers are as large as they may be.
pub(super) fn hello(bytes: &mut Bytes<'_>) -> Owned {
    let count = usize::from(bytes.below(4));
    let versions = bytes.take(count).to_vec();
    let mut base = || bytes.number() % (BASE_MAX + 1);
    let bases = Bases { packet_number: base(), messages: base(), chunked: base() };
    let rest = Hello {
        versions: &[],
        tag: bytes.number().max(1),
        nonce: bytes.u64(),
        echo: bytes.option(Bytes::u64),
        bases,
        limits: bytes.option(|bytes| Limits {
            message_bytes_max: bytes.number() as u32,
            datagram_bytes_max: bytes.number() as u16,
        }),
        dedup_ms: bytes.option(Bytes::u32),
        shards: bytes.option(Bytes::u8),
        cookie: bytes.option(Bytes::u64),
        random: bytes.option(Bytes::array),
    };
    Owned::Hello { versions, rest }
}
