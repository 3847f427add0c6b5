//! `engine/tests/data/v2_golden.txt`: datagrams made by another encoder, what they mean, and the same bytes from ours.

use super::model::rewrite;
use super::tests::reason;
use super::*;
use std::fmt::Write as _;

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) datagram: Vec<u8>,
    /// The lines from `header:` on, or the one with `drop:`.
    expected: Vec<&'static str>,
    canonical: bool,
}

impl Case {
    pub(super) fn is_good(&self) -> bool {
        self.expected[0].starts_with("header:")
    }
}

pub(super) fn cases() -> Vec<Case> {
    let text = include_str!("../../../tests/data/v2_golden.txt");
    text.split("\n\n").filter(|part| part.starts_with("case: ")).map(read_case).collect()
}

fn read_case(paragraph: &'static str) -> Case {
    let mut lines = paragraph.lines();
    let name = lines.next().and_then(|line| line.strip_prefix("case: ")).unwrap();
    let mut hex = String::new();
    let mut case = Case { name, datagram: Vec::new(), expected: Vec::new(), canonical: true };
    for line in lines {
        match line.strip_prefix("hex:").or(line.strip_prefix(' ')) {
            Some(digits) => hex.push_str(digits.trim()),
            None if line == "canonical: no" => case.canonical = false,
            None => case.expected.push(line),
        }
    }
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    case.datagram = (0..hex.len()).step_by(2).map(byte).collect();
    case
}

/// A datagram in the words of the file.
fn describe(datagram: &[u8]) -> Vec<String> {
    let read = || {
        let (header, bytes) = decode(datagram)?;
        check(bytes)?;
        frames(bytes).map(|frame| frame.map(|frame| format!("frame: {}", describe_frame(&frame)))).try_fold(
            vec![describe_header(&header)],
            |mut lines, line| {
                lines.push(line?);
                Ok(lines)
            },
        )
    };
    read().unwrap_or_else(|reason: crate::DropReason| vec![format!("drop: {}", reason.label())])
}

fn describe_header(header: &Header) -> String {
    let Header { route, epoch, packet_number, tag, sent_at } = *header;
    let time = sent_at.map_or("-".to_owned(), |time| time.0.to_string());
    format!("header: route={route} epoch={epoch:08x} packet={packet_number} tag={tag:016x} sent_at={time}")
}

fn describe_frame(frame: &Frame<'_>) -> String {
    match *frame {
        Frame::Padding { bytes } => format!("PADDING bytes={bytes}"),
        Frame::Message(MessageFrame { seq, extensions, payload }) => {
            format!("MESSAGE seq={seq}{} payload={}", describe_extensions(&extensions), hex(payload))
        }
        Frame::Chunk(ChunkFrame { space, seq, offset, total, extensions, bytes }) => {
            let extensions = describe_extensions(&extensions);
            let piece = if space == Space::Message { " piece" } else { "" };
            format!("CHUNK seq={seq} offset={offset} total={total}{piece}{extensions} bytes={}", hex(bytes))
        }
        Frame::Ack(ack) => {
            let ranges = list(ack.ranges().map(|(smallest, largest)| format!("{smallest}-{largest}")), ",");
            let ecn =
                ack.ecn().map_or(String::new(), |Ecn { ect0, ect1, ce }| format!(" ecn={ect0}/{ect1}/{ce}"));
            format!("ACK largest={} delay_us={} ranges={ranges}{ecn}", ack.largest(), ack.delay_us())
        }
        Frame::Grant(GrantFrame { packets, messages, chunked, lease_us }) => {
            format!("GRANT packets={packets} messages={messages} chunked={chunked} lease_us={lease_us}")
        }
        Frame::Result(result) => {
            let entry = |(space, seq, code)| format!("{}:{seq}={code:?}", describe_space(space));
            format!("RESULT {}", list(result.entries().map(entry), " "))
        }
        Frame::Cancel(cancel) => {
            let entry = |(space, seq)| format!("{}:{seq}", describe_space(space));
            format!("CANCEL {}", list(cancel.entries().map(entry), " "))
        }
        Frame::Skip(skip) => {
            let entry = |(space, seq, before)| format!("{}:{seq}/{before}", describe_space(space));
            format!("SKIP {}", list(skip.entries().map(entry), " "))
        }
        Frame::Hello(hello) => describe_hello(&hello),
        Frame::Ping(PingFrame { data, demand }) => format!("PING data={data} demand={demand}"),
        Frame::Pong { data } => format!("PONG data={data}"),
        Frame::Close(CloseFrame { reason, messages, chunked }) => {
            format!("CLOSE reason={reason} messages={messages} chunked={chunked}")
        }
        Frame::Reset { tag } => format!("RESET tag={tag:016x}"),
        Frame::Low(LowFrame { messages, chunked }) => format!("LOW messages={messages} chunked={chunked}"),
        Frame::Unknown { kind, bytes } => format!("UNKNOWN kind=0x{kind:02x} bytes={bytes}"),
    }
}

fn describe_extensions(extensions: &Extensions<'_>) -> String {
    let mut text = String::new();
    if let Some((lane, seq)) = extensions.lane {
        write!(text, " lane={lane}/{seq}").unwrap();
    }
    if let Some(lifetime_ms) = extensions.lifetime_ms {
        write!(text, " lifetime_ms={lifetime_ms}").unwrap();
    }
    if extensions.committed {
        text.push_str(" committed");
    }
    let meta = extensions.meta;
    for (name, number) in [("tag", meta.tag().map(u64::from)), ("correlation", meta.correlation())] {
        if let Some(number) = number {
            write!(text, " {name}={number}").unwrap();
        }
    }
    for (name, bytes) in [("trace", meta.trace()), ("user", meta.user())] {
        if let Some(bytes) = bytes {
            write!(text, " {name}={}", hex(bytes)).unwrap();
        }
    }
    text
}

fn describe_hello(hello: &Hello<'_>) -> String {
    let mut words = vec!["HELLO".to_owned()];
    if !hello.versions.is_empty() {
        words.push(format!("versions={}", list(hello.versions.iter().map(u8::to_string), ",")));
    }
    words.push(format!("tag={:016x} nonce={:016x}", hello.tag, hello.nonce));
    words.extend(hello.echo.map(|echo| format!("echo={echo:016x}")));
    let Bases { packet_number, messages, chunked } = hello.bases;
    words.push(format!("bases={packet_number}/{messages}/{chunked}"));
    words.extend(
        hello
            .limits
            .map(|limits| format!("limits={}/{}", limits.message_bytes_max, limits.datagram_bytes_max)),
    );
    words.extend(hello.dedup_ms.map(|dedup_ms| format!("dedup_ms={dedup_ms}")));
    words.extend(hello.shards.map(|shards| format!("shards={shards}")));
    words.extend(hello.cookie.map(|cookie| format!("cookie={cookie:016x}")));
    words.extend(hello.random.map(|random| format!("random={}", hex(&random))));
    words.join(" ")
}

fn describe_space(space: Space) -> &'static str {
    match space {
        Space::Message => "message",
        Space::Chunked => "chunked",
    }
}

fn list(parts: impl Iterator<Item = String>, between: &str) -> String {
    parts.collect::<Vec<_>>().join(between)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_datagram_means_what_the_file_says() {
    let cases = cases();
    assert_eq!(cases.len(), 211);
    for case in &cases {
        assert_eq!(describe(&case.datagram), case.expected, "{}", case.name);
    }
}

#[test]
fn our_encoder_writes_the_same_bytes() {
    for case in cases().iter().filter(|case| case.is_good()) {
        let ours = rewrite(&case.datagram);
        assert_eq!(ours == case.datagram, case.canonical, "{}", case.name);
        let mut known = describe(&case.datagram);
        known.retain(|line| !line.contains("UNKNOWN"));
        if known.len() == 1 {
            known = vec!["drop: binary_malformed".to_owned()]; // A frame that is skipped is one; without it there is none.
        }
        assert_eq!(describe(&ours), known, "{}", case.name);
    }
}

#[test]
fn every_frame_and_every_reason_occurs() {
    let cases = cases();
    let seen: Vec<Summary> = cases
        .iter()
        .filter(|case| case.is_good())
        .map(|case| check(decode(&case.datagram).unwrap().1).unwrap())
        .collect();
    for kind in Kind::ALL {
        assert!(seen.iter().any(|summary| summary.has(*kind)), "{kind:?}");
    }
    for label in ["truncated", "version", "flags", "protected", "checksum", "malformed"] {
        let label = format!("binary_{label}");
        assert!(
            cases.iter().any(|case| reason(&case.datagram).is_some_and(|it| it.label() == label)),
            "{label}"
        );
    }
}

/// All CRCs find a single wrong bit; and no length but the right one has the right CRC.
#[test]
fn a_flipped_bit_and_a_cut_are_refused() {
    for case in cases().iter().filter(|case| case.is_good()) {
        let mut datagram = case.datagram.clone();
        for bit in 0..8 * datagram.len() {
            datagram[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&datagram).is_err(), "{}: bit {bit}", case.name);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        for bytes in 0..datagram.len() {
            assert!(decode(&datagram[..bytes]).is_err(), "{}: {bytes} bytes", case.name);
        }
    }
}

/// With a CRC that is right for it, a cut datagram is one that ends between two frames, or malformed.
#[test]
fn a_cut_between_frames_is_a_shorter_datagram() {
    for case in cases().iter().filter(|case| case.is_good()) {
        let (header, bytes) = decode(&case.datagram).unwrap();
        for end in 0..bytes.len() {
            let mut cut = case.datagram[..header.bytes() + end].to_vec();
            seal(&mut cut);
            let (again, rest) = decode(&cut).unwrap();
            assert_eq!(again, header);
            let whole = frames(bytes).map(Result::unwrap);
            match check(rest) {
                Ok(_) => assert!(
                    frames(rest).map(Result::unwrap).zip(whole).all(|pair| pair.0 == pair.1
                        || matches!(pair, (Frame::Padding { .. }, Frame::Padding { .. }))),
                    "{}: {end} bytes of frames",
                    case.name
                ),
                Err(reason) => assert_eq!(reason, crate::DropReason::BinaryMalformed),
            }
        }
    }
}
