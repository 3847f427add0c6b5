//! The codec against itself and against naive models. The datagrams of others are in `golden_tests`.

use super::model::{Extra, Owned, agree, rewrite};
use super::*;
use crate::units::UnixMicros;
use crate::wire::DropReason;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// Why a datagram is dropped, if it is.
pub(super) fn reason(datagram: &[u8]) -> Option<DropReason> {
    decode(datagram).and_then(|(_, bytes)| check(bytes)).err()
}

fn extra() -> impl Strategy<Value = Extra> {
    let meta =
        (option::of(any::<u32>()), option::of(any::<u64>()), vec(any::<u8>(), 0..9), vec(any::<u8>(), 0..9));
    let meta = meta.prop_map(|(tag, correlation, trace, user)| {
        let mut meta = MetaBuffer::new();
        assert!(tag.is_none_or(|tag| meta.tag(tag)));
        assert!(correlation.is_none_or(|op_id| meta.correlation(op_id)));
        assert!(trace.is_empty() || meta.trace(&trace));
        assert!(user.is_empty() || meta.user(&user));
        meta.meta().as_bytes().to_vec()
    });
    let extra = (option::of(any::<(u16, u32)>()), option::of(any::<u32>()), any::<bool>(), meta)
        .prop_map(|(lane, lifetime_ms, committed, meta)| Extra { lane, lifetime_ms, committed, meta });
    prop_oneof![2 => Just(Extra::default()), 1 => extra]
}

fn chunk() -> impl Strategy<Value = Owned> {
    let units = (0..=u32::MAX / CHUNK_UNIT - 3, 0..3usize, 0..CHUNK_UNIT as usize, any::<u32>());
    let op = (space(), any::<u32>());
    (op, units, any::<u8>(), extra()).prop_map(|((space, seq), (unit, units, odd, more), byte, extra)| {
        let offset = unit * CHUNK_UNIT;
        let whole = units * CHUNK_UNIT as usize;
        let length = if whole + odd == 0 { 1 } else { whole + odd };
        let end = offset + length as u32;
        // A run that is not of whole units ends its message.
        let total = if end.is_multiple_of(CHUNK_UNIT) { end.saturating_add(more) } else { end };
        Owned::Chunk { space, seq, offset, total, bytes: vec![byte; length], extra }
    })
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let small = (1..4u64, 0..4u64);
    let large = (1..1u64 << 32, 0..u64::from(u32::MAX));
    let steps = vec(prop_oneof![3 => small, 1 => large], 1..6);
    (prop_oneof![0..40u64, any::<u64>()], steps).prop_map(|(largest, steps)| {
        let mut ranges = vec![];
        let mut top = Some(largest);
        for (gap, length) in steps {
            let Some(largest) = top else { break };
            let smallest = largest.saturating_sub(length);
            ranges.push((smallest, largest));
            top = smallest.checked_sub(gap + 1);
        }
        ranges
    })
}

fn space() -> impl Strategy<Value = Space> {
    prop_oneof![Just(Space::Message), Just(Space::Chunked)]
}

fn op() -> impl Strategy<Value = (Space, u64)> {
    (space(), prop_oneof![Just(0), Just(SEQ_MAX), 0..=SEQ_MAX])
}

fn hello() -> impl Strategy<Value = Owned> {
    let numbers = (1..=u64::MAX, any::<u64>(), option::of(any::<u64>()), option::of(any::<u64>()));
    let sizes = (
        option::of(any::<(u32, u16)>()),
        option::of(any::<u32>()),
        option::of(any::<u8>()),
        option::of(any::<[u8; 16]>()),
    );
    (vec(any::<u8>(), 0..4), numbers, (0..=BASE_MAX, 0..=BASE_MAX, 0..=BASE_MAX), sizes).prop_map(
        |(versions, numbers, bases, sizes)| {
            let (tag, nonce, echo, cookie) = numbers;
            let (limits, dedup_ms, shards, random) = sizes;
            let limits = limits.map(|(message_bytes_max, datagram_bytes_max)| Limits {
                message_bytes_max,
                datagram_bytes_max,
            });
            let bases = Bases { packet_number: bases.0, messages: bases.1, chunked: bases.2 };
            Owned::Hello {
                versions,
                rest: Hello {
                    versions: &[],
                    tag,
                    nonce,
                    echo,
                    bases,
                    limits,
                    dedup_ms,
                    shards,
                    cookie,
                    random,
                },
            }
        },
    )
}

fn message() -> impl Strategy<Value = Owned> {
    (any::<u32>(), vec(any::<u8>(), 0..100), extra()).prop_map(|(seq, payload, extra)| Owned::Message {
        seq,
        payload,
        extra,
    })
}

fn owned() -> impl Strategy<Value = Owned> {
    let ecn = option::of(any::<(u64, u64, u64)>().prop_map(|(ect0, ect1, ce)| Ecn { ect0, ect1, ce }));
    let code = (0..ResultCode::ALL.len()).prop_map(|index| ResultCode::ALL[index]);
    let result = (op(), code).prop_map(|((space, seq), code)| (space, seq, code));
    let three = any::<(u64, u64, u64, u32)>();
    prop_oneof![
        6 => message(),
        2 => chunk(),
        2 => (any::<u32>(), ranges(), ecn)
            .prop_map(|(delay_us, ranges, ecn)| Owned::Ack { delay_us, ranges, ecn }),
        1 => three.prop_map(|(packets, messages, chunked, lease_us)| {
            Owned::Grant(GrantFrame { packets, messages, chunked, lease_us })
        }),
        1 => vec(result, 1..5).prop_map(Owned::Result),
        1 => vec(op(), 1..5).prop_map(Owned::Cancel),
        1 => vec((op(), any::<u32>()).prop_map(|((space, seq), before)| (space, seq, before)), 1..5)
            .prop_map(Owned::Skip),
        1 => hello(),
        1 => any::<(u64, u32)>().prop_map(|(data, demand)| Owned::Ping(PingFrame { data, demand })),
        1 => any::<u64>().prop_map(Owned::Pong),
        1 => any::<(u8, u64, u64)>().prop_map(|(reason, messages, chunked)| {
            Owned::Close(CloseFrame { reason, messages, chunked })
        }),
        1 => any::<u64>().prop_map(Owned::Reset),
        1 => any::<(u64, u64)>().prop_map(|(messages, chunked)| Owned::Low(LowFrame { messages, chunked })),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    let fields = (any::<u8>(), any::<u32>(), any::<u64>(), any::<u64>(), option::of(any::<u64>()));
    fields.prop_map(|(route, epoch, packet_number, tag, time)| Header {
        route,
        epoch,
        packet_number,
        tag,
        sent_at: time.map(UnixMicros),
    })
}

/// Frames that need not make sense: a type, and a body of about the right length.
fn doubtful() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![vec(any::<u8>(), 0..40), vec(0..4u8, 0..40)];
    (prop_oneof![0..0x0fu8, any::<u8>()], body, -1..2i32).prop_map(|(kind, body, wrong)| {
        let length = (body.len() as i32 + if wrong == 0 { 0 } else { wrong }).max(0) as u16;
        [&[kind][..], &length.to_le_bytes(), &body].concat()
    })
}

proptest! {
    #[test]
    fn frames_come_back_as_they_were_written(
        header in header(), list in vec(owned(), 1..12), padded in any::<bool>(), room in 0..3_000usize,
    ) {
        let mut datagram = vec![0xaa; header.bytes() + room];
        let at = write(&mut datagram, &header);
        prop_assert_eq!(at, header.bytes());
        let mut to = Writer::new(&mut datagram[at..]);
        let mut written = vec![];
        for owned in list {
            let (before, fits) = (to.at(), owned.bytes() <= to.room());
            // An acknowledgement takes the room there is.
            if matches!(owned, Owned::Ack { .. }) && !fits {
                continue;
            }
            prop_assert_eq!(owned.write(&mut to), fits);
            prop_assert_eq!(to.at() - before, if fits { owned.bytes() } else { 0 });
            if fits {
                written.push(owned);
            }
        }
        let room = to.room();
        if padded {
            to.pad();
            prop_assert!(to.room() == 0 && !to.pong(0));
        }
        let end = at + to.at();
        datagram.truncate(end);
        seal(&mut datagram);
        let (read, bytes) = decode(&datagram).unwrap();
        prop_assert_eq!(read, header);
        prop_assert_eq!(bytes.len(), end - at);
        prop_assert_eq!(agree(bytes), end > at);
        let mut read: Vec<Frame<'_>> = frames(bytes).map(Result::unwrap).collect();
        if padded && room > 0 {
            prop_assert_eq!(read.pop(), Some(Frame::Padding { bytes: room }));
        }
        let plain = !written.is_empty() && written.iter().all(Owned::is_plain) && !(padded && room > 0);
        prop_assert_eq!(check(bytes).is_ok_and(|summary| summary.is_plain_messages()), plain);
        prop_assert_eq!(read.iter().filter_map(Owned::of).collect::<Vec<_>>(), written);
        prop_assert_eq!(rewrite(&datagram), datagram);
    }

    #[test]
    fn a_frame_without_room_is_not_begun(owned in owned()) {
        let bytes = owned.bytes();
        let mut area = vec![0xaa; bytes];
        let mut to = Writer::new(&mut area);
        prop_assert!(owned.write(&mut to) && to.room() == 0);
        for room in 0..bytes {
            let mut area = vec![0xaa; room];
            let mut to = Writer::new(&mut area);
            if owned.write(&mut to) {
                // Fewer ranges, the same numbers.
                let (Owned::Ack { ranges, ecn, .. }, at) = (&owned, to.at()) else { panic!("{owned:?} in {room}") };
                let Some(Ok(Frame::Ack(ack))) = frames(&area[..at]).next() else { panic!("no ACK") };
                prop_assert!(ack.ranges().zip(ranges).all(|pair| pair.0 == *pair.1));
                prop_assert_eq!(at, ack_frame_bytes(ack.ranges().count(), ecn.is_some()));
                prop_assert!(room - at < 8, "{} bytes unused", room - at);
            } else {
                prop_assert_eq!(to.at(), 0);
                prop_assert!(area.iter().all(|byte| *byte == 0xaa));
            }
        }
    }

    #[test]
    fn any_bytes_are_understood_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        agree(&bytes);
        let mut sealed = bytes;
        if sealed.len() >= HEADER_BYTES {
            let timed = sealed[1] & FLAG_TIMED;
            sealed[..4].copy_from_slice(&[MAGIC, timed, 0, 0]);
            seal(&mut sealed);
            match decode(&sealed) {
                Ok((header, bytes)) => prop_assert_eq!(header.bytes() + bytes.len(), sealed.len()),
                Err(reason) => prop_assert_eq!(reason, DropReason::BinaryTruncated),
            }
        }
    }

    #[test]
    fn sealed_headers_are_understood_or_refused(bytes in vec(any::<u8>(), 0..80), flags in 0..8u8, key_phase: bool, key_id: u32) {
        let _ = decode_sealed(&bytes);
        let mut datagram = bytes;
        if datagram.len() < HEADER_BYTES {
            prop_assert_eq!(decode_sealed(&datagram), Err(DropReason::BinaryTruncated));
            return Ok(());
        }
        let route = datagram[2];
        datagram[..4].copy_from_slice(&[MAGIC, flags, route, 0]);
        prop_assert_eq!(decode_sealed(&datagram).is_ok(), flags & FLAG_PROTECTED != 0);
        datagram[1] = flags & FLAG_TIMED;
        prop_assert_eq!(decode_sealed(&datagram), Err(DropReason::Unprotected));
        mark_sealed(&mut datagram, key_phase, key_id);
        prop_assert_eq!(decode(&datagram), Err(DropReason::BinaryProtected));
        prop_assert_eq!(&datagram[24..28], &key_id.to_le_bytes());
        let sealed = decode_sealed(&datagram).unwrap();
        prop_assert_eq!((sealed.key_phase, sealed.key_id, sealed.header.route), (key_phase, key_id, route));
        let number = u64::from_le_bytes(*datagram[8..].first_chunk().unwrap());
        prop_assert_eq!(sealed.header.packet_number, number);
        match sealed.opened(&datagram[HEADER_BYTES..]) {
            Ok((header, frames)) => prop_assert_eq!(header.bytes() + frames.len(), datagram.len()),
            Err(reason) => prop_assert_eq!(reason, DropReason::BinaryTruncated),
        }
    }

    #[test]
    fn doubtful_frames_are_understood_or_refused(list in vec(doubtful(), 1..5)) {
        agree(&list.concat());
    }

    #[test]
    fn a_wrong_byte_in_a_frame_is_understood_or_refused(
        list in vec(owned(), 1..5), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = vec![0; list.iter().map(Owned::bytes).sum()];
        let mut to = Writer::new(&mut bytes);
        prop_assert!(list.iter().all(|owned| owned.write(&mut to)));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        agree(&bytes);
    }

    /// Against a model that counts.
    #[test]
    fn a_hello_has_each_part_once(parts in vec((0..11u8, prop_oneof![7 => Just(true), 1 => Just(false)]), 0..9)) {
        let right = |kind: u8| [3, 2, 8, 8, 8, 24, 6, 4, 1, 8, 5][usize::from(kind)];
        let mut body = vec![];
        for &(kind, good) in &parts {
            let bytes = if good { right(kind) } else { right(kind) - 1 };
            body.extend([kind, bytes]);
            body.extend(vec![7; bytes.into()]);
        }
        let count = |kind: u8| parts.iter().filter(|part| part.0 == kind).count();
        let known_twice = (1..=9).any(|kind| count(kind) > 1);
        // A list of versions has any length but 0.
        let wrong_length = parts.iter().any(|&(kind, good)| !good && (2..=9).contains(&kind));
        let missing = [2, 3, 5].into_iter().any(|kind| count(kind) == 0);
        let expected = !known_twice && !wrong_length && !missing;
        let length = (body.len() as u16).to_le_bytes();
        let bytes = [&[Kind::Hello as u8][..], &length, &body].concat();
        prop_assert_eq!(agree(&bytes), expected);
        if let Some(Ok(Frame::Hello(hello))) = frames(&bytes).next() {
            prop_assert_eq!(hello.tag, u64::from_le_bytes([7; 8]));
            prop_assert_eq!(
                (hello.echo.is_some(), hello.limits.is_some(), hello.dedup_ms.is_some()),
                (count(4) == 1, count(6) == 1, count(7) == 1)
            );
            prop_assert_eq!((hello.shards.is_some(), hello.cookie.is_some()), (count(8) == 1, count(9) == 1));
        }
    }
}

/// Every small ACK against arithmetic that may go below 0.
#[test]
fn small_acks() {
    let mut sound = 0;
    let small = |bound: u32| (0..bound).flat_map(move |gap| (0..bound).map(move |length| (gap, length)));
    for largest in 0..8u64 {
        for first in 0..9u32 {
            for one in small(6) {
                for two in small(6).map(Some).chain([None]) {
                    let gaps: Vec<(u32, u32)> = [one].into_iter().chain(two).collect();
                    let mut expected = vec![(largest as i64 - i64::from(first), largest as i64)];
                    for &(gap, length) in &gaps {
                        let top = expected[expected.len() - 1].0 - i64::from(gap) - 1;
                        expected.push((top - i64::from(length) + 1, top));
                    }
                    let good = expected.iter().all(|range| range.0 >= 0)
                        && gaps.iter().all(|(gap, length)| *gap > 0 && *length > 0);
                    let mut bytes = vec![Kind::Ack as u8, 18 + 8 * gaps.len() as u8, 0];
                    bytes.extend(largest.to_le_bytes());
                    bytes.extend([0, 0, 0, 0, 0, gaps.len() as u8]);
                    bytes.extend(first.to_le_bytes());
                    for (gap, length) in gaps {
                        bytes.extend(gap.to_le_bytes());
                        bytes.extend(length.to_le_bytes());
                    }
                    assert_eq!(agree(&bytes), good, "{expected:?}");
                    if let Some(Ok(Frame::Ack(ack))) = frames(&bytes).next() {
                        sound += 1;
                        let ranges =
                            ack.ranges().map(|(smallest, largest)| (smallest as i64, largest as i64));
                        assert!(ranges.eq(expected));
                    }
                }
            }
        }
    }
    assert!(sound > 100, "{sound}");
}

/// Every set of numbers below 12, written as ranges and read back as a set.
#[test]
fn acks_of_all_small_sets() {
    for set in 1..1u64 << 12 {
        let mut ranges: Vec<(u64, u64)> = vec![];
        for number in (0..12).rev().filter(|number| set & 1 << number != 0) {
            match ranges.last_mut() {
                Some(range) if range.0 == number + 1 => range.0 = number,
                _ => ranges.push((number, number)),
            }
        }
        let mut area = [0; 128];
        let mut to = Writer::new(&mut area);
        assert!(to.ack(1, ranges.iter().copied(), None));
        let end = to.at();
        let Some(Ok(Frame::Ack(ack))) = frames(&area[..end]).next() else { panic!("no ACK") };
        let read = ack.ranges().flat_map(|(smallest, largest)| smallest..=largest);
        assert_eq!(read.fold(0, |set, number| set | 1 << number), set);
    }
}

/// What an ACK cannot say it leaves out; it never says more.
#[test]
fn acks_beyond_32_bits() {
    let written = |ranges: &[(u64, u64)]| -> Vec<(u64, u64)> {
        let mut area = vec![0; 4_096];
        let mut to = Writer::new(&mut area);
        assert!(to.ack(1, ranges.iter().copied(), None));
        let end = to.at();
        assert!(agree(&area[..end]));
        let Some(Ok(Frame::Ack(ack))) = frames(&area[..end]).next() else { panic!("no ACK") };
        ack.ranges().collect()
    };
    let far = 1 << 40;
    assert_eq!(written(&[(0, u64::MAX)]), [(u64::MAX - u64::from(u32::MAX), u64::MAX)]);
    assert_eq!(written(&[(far, far << 1), (1, 1)]), [((far << 1) - u64::from(u32::MAX), far << 1)]);
    assert_eq!(written(&[(far, far), (1, 1)]), [(far, far)]);
    assert_eq!(written(&[(far, far), (0, far - 2)]), [(far, far)]);
    let many: Vec<(u64, u64)> = (0..400).map(|index| (far - 2 * index, far - 2 * index)).collect();
    assert_eq!(written(&many), many[..256]);
    assert!(!Writer::new(&mut [0; 128]).ack(1, [], None));
}

#[test]
fn metadata_is_built_once() {
    let mut meta = MetaBuffer::default();
    assert!(meta.meta().is_empty());
    assert!(meta.tag(7) && meta.user(&[1; 200]) && meta.correlation(9));
    assert!(!meta.tag(8) && !meta.correlation(8) && !meta.user(&[]));
    assert!(!meta.trace(&[0; 38]) && meta.trace(&[0; 35]) && !meta.trace(&[]));
    let read = Meta::read(meta.meta().as_bytes()).unwrap();
    assert_eq!((read.tag(), read.correlation()), (Some(7), Some(9)));
    assert_eq!((read.user(), read.trace()), (Some(&[1; 200][..]), Some(&[0; 35][..])));
    assert_eq!(read.as_bytes().len(), META_BYTES_MAX);
    assert_eq!(Meta::read(&[0; META_BYTES_MAX + 1]), Err(DropReason::BinaryMalformed));
}

#[test]
fn result_codes() {
    for value in 0..=255u8 {
        let code = ResultCode::from_wire(value);
        assert_eq!(code, ResultCode::ALL.into_iter().find(|code| *code as u8 == value));
        let Some(code) = code else { continue };
        assert_eq!(code.is_refusal(), !matches!(code, ResultCode::Accepted | ResultCode::Committed));
        assert!(code.is_refusal() || !code.is_retryable());
    }
    let retryable: Vec<_> = ResultCode::ALL.into_iter().filter(|code| code.is_retryable()).collect();
    assert_eq!(retryable, [ResultCode::Busy, ResultCode::Refused]);
}

#[test]
fn the_longest_datagram() {
    let header = Header { route: 1, epoch: 2, packet_number: 3, tag: 4, sent_at: None };
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let at = write(&mut datagram, &header);
    let mut to = Writer::new(&mut datagram[at..]);
    let payload = vec![1; to.room() - MESSAGE_FRAME_BYTES];
    assert!(to.message(9, &payload, &Extensions::NONE) && to.room() == 0);
    seal(&mut datagram);
    assert_eq!(decode(&datagram).map(|(header, _)| header), Ok(header));
    assert!(messages(&datagram[at..]).eq([(9, &payload[..])]));
    datagram.push(0);
    seal(&mut datagram);
    assert_eq!(decode(&datagram), Err(DropReason::BinaryMalformed));
    datagram[0] = MAGIC + 1;
    assert_eq!(
        decode(&datagram),
        Err(DropReason::BinaryMalformed),
        "length comes before the version (R-BIN-5)"
    );
}

/// The header's own route is where the steering program looks for it.
#[test]
fn the_route_is_where_steering_reads_it() {
    let mut datagram = [0; HEADER_BYTES];
    for route in 0..=255 {
        write(&mut datagram, &Header { route, epoch: 0, packet_number: 0, tag: 0, sent_at: None });
        assert_eq!(crate::wire::route::route(&datagram), Some(route));
    }
}

/// All of them: nothing this short is sound but padding and frames of later versions.
#[test]
fn every_input_of_up_to_three_bytes_is_understood_or_refused() {
    assert!(!agree(&[]));
    for word in 0..1_u32 << 24 {
        let [first, second, third, _] = word.to_le_bytes();
        let sound = first == 0 || (first >= 0x80 && (second, third) == (0, 0));
        assert_eq!(check(&[first, second, third]).is_ok(), sound, "{word:#x}");
        if third == 0 {
            assert_eq!(agree(&[first, second]), first == 0, "{word:#x}");
        }
    }
}

/// Every type with every length of its body, filled with one byte; behind it another frame.
#[test]
fn every_type_and_length_is_judged_as_the_tables_say() {
    for kind in 0..=255_u8 {
        for bytes in 0..=100_usize {
            for fill in [0, 1, 0xff] {
                let sound = match (Kind::from_wire(kind), fill) {
                    (None, _) => kind >= 0x80,
                    (Some(Kind::Padding), _) => true,
                    // No flag, or the lane's, or such that nobody knows.
                    (Some(Kind::Message), 0) => bytes >= 5,
                    (Some(Kind::Message), 1) => bytes >= 5 + 6,
                    // Without a byte of a message of no bytes; not at a whole unit.
                    (Some(Kind::Chunk | Kind::Hello), _) => false,
                    (Some(Kind::Ack), 0) => bytes == 18,
                    (Some(Kind::Ack), 1) => bytes == 18 + 8 + 24,
                    (Some(Kind::Result), 0 | 1) => bytes > 0 && bytes.is_multiple_of(9),
                    (Some(Kind::Message | Kind::Ack | Kind::Result), _) => false,
                    (Some(Kind::Cancel), _) => bytes > 0 && bytes.is_multiple_of(8),
                    (Some(Kind::Skip), _) => bytes > 0 && bytes.is_multiple_of(12),
                    (Some(Kind::Grant), _) => bytes == 28,
                    (Some(Kind::Ping), _) => bytes == 12,
                    (Some(Kind::Pong | Kind::Reset), _) => bytes == 8,
                    (Some(Kind::Close), _) => bytes == 17,
                    (Some(Kind::Low), _) => bytes == 16,
                };
                let mut frames = vec![kind, bytes as u8, 0];
                frames.resize(3 + bytes, fill);
                frames.extend([Kind::Pong as u8, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
                assert_eq!(agree(&frames), sound, "type {kind:#x}, {bytes} bytes of {fill:#x}");
                // One byte is missing at the end.
                assert_eq!(agree(&frames[..frames.len() - 1]), kind == 0);
            }
        }
    }
}

/// Magic, flags and the reserved byte: what a header may begin with.
#[test]
fn every_beginning_of_a_header_is_judged_as_the_rules_say() {
    let mut datagram = vec![0; HEADER_BYTES + TIME_BYTES + 1];
    for word in 0..1_u32 << 24 {
        let [magic, flags, reserved, _] = word.to_le_bytes();
        let expected = match () {
            () if magic != MAGIC => DropReason::BinaryVersion,
            () if flags & 0xf8 != 0 => DropReason::BinaryFlags,
            () if flags & (FLAG_PROTECTED | FLAG_KEY_PHASE) != 0 => DropReason::BinaryProtected,
            () if reserved != 0 => DropReason::BinaryFlags,
            () => DropReason::BinaryChecksum,
        };
        (datagram[0], datagram[1], datagram[3]) = (magic, flags, reserved);
        assert_eq!(decode(&datagram).err(), Some(expected), "{word:#x}");
    }
}
