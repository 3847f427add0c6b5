//! `data/v1_golden.csv`, what the original does with 68 sequences of datagrams, against the engine on a real socket; and
//! what our sender sends against the model of the original.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use support::{
    HANG, assert_every_shard_received, each_driver_and_shards, mixed_text, next, plain_socket, receive,
    small, wait,
};
use udp_plus::sim::v1_peer::V1Peer;
use udp_plus::{DriverChoice, Engine, Outgoing};

each_driver_and_shards! {
    our_receiver_obeys_the_golden_file,
    our_sender_never_kills_the_original,
}

/// The id that nearly all rows of the file have.
const FILE_ID: &str = "3f2a9c1e";

struct Case {
    name: String,
    /// What stands where the file has [`FILE_ID`].
    id: String,
    datagrams: Vec<Vec<u8>>,
    delivered: Vec<String>,
    timestamps: Vec<String>,
    confirms: Vec<String>,
    dies: bool,
}

impl Case {
    /// The same case with an id of another route.
    fn with_id_to(self, shard: u16) -> Self {
        let id = format!("3f2a9c{:02x}", 0x1e + shard);
        let confirms = self.confirms.iter().map(|row| row.replace(FILE_ID, &id)).collect();
        let datagrams = self.datagrams.iter().map(|row| replace_bytes(row, &id)).collect();
        Self { confirms, datagrams, id, ..self }
    }
}

/// Not all rows of the file are text.
fn replace_bytes(row: &[u8], id: &str) -> Vec<u8> {
    let mut row = row.to_vec();
    let found = row.windows(FILE_ID.len()).position(|part| part == FILE_ID.as_bytes());
    if let Some(at) = found {
        row[at..at + FILE_ID.len()].copy_from_slice(id.as_bytes());
    }
    row
}

fn cases() -> Vec<Case> {
    let text = include_str!("data/v1_golden.csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let parts = |text: &str| -> Vec<String> {
        text.split(" | ").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let count: usize = record[3].parse().unwrap();
            let texts: Vec<String> = record[2].split(" | ").map(str::to_owned).collect();
            let times: Vec<String> = record[4].split(" | ").map(str::to_owned).collect();
            Case {
                name: record[0].to_owned(),
                id: FILE_ID.to_owned(),
                datagrams: record[1].split(" | ").map(unescape).collect(),
                delivered: if count == 0 { vec![] } else { texts },
                timestamps: if count == 0 { vec![] } else { times },
                confirms: parts(&record[5]),
                dies: record[6].starts_with("dies"),
            }
        })
        .collect()
}

/// `\r`, `\n` and `\xNN` stand for bytes.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let code = &rest[at + 1..];
        let (byte, used) = match &code[..1] {
            "x" => (u8::from_str_radix(&code[1..3], 16).unwrap(), 3),
            "r" => (b'\r', 1),
            _ => (b'\n', 1),
        };
        bytes.push(byte);
        rest = &code[used..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// How the file writes a delivered text.
fn shorthand(text: &str) -> String {
    match text.len() {
        0..100 => text.to_owned(),
        length => format!("{}...({length} characters)", &text[..3]),
    }
}

/// Where we differ from the original on purpose: case, texts delivered, confirms, the counter that says why.
/// Cases in which the original dies and that are not here deliver nothing and confirm nothing.
type Exception = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);
const EXCEPTIONS: &[Exception] = &[
    // A length or a chunk id that cannot be meant is refused and counted, not confirmed.
    ("length 0", &[], &[], "dropped_bad_length"),
    ("length -1", &[], &[], "dropped_bad_length"),
    ("length 10^9, one chunk", &[], &[], "dropped_message_too_large"),
    ("chunk id beyond length", &[], &[], "dropped_chunk_beyond_length"),
    ("chunk id beyond length completes the count", &[], &["1,3f2a9c1e,,0,"], "dropped_chunk_beyond_length"),
    ("chunk id 00 and 1", &[], &["1,3f2a9c1e,,1,"], "dropped_bad_chunk_id"),
    ("length changes between chunks (2 then 3)", &[], &["1,3f2a9c1e,,0,"], "dropped_length_changed"),
    // Duplicates are confirmed again and delivered once.
    ("same row twice", &["one"], &["1,3f2a9c1e,,0,", "1,3f2a9c1e,,0,"], "dropped_duplicate"),
    // We read whole datagrams, and bytes that are not text do not kill us.
    (
        "row of 1098 bytes (read is cut at 1024; delivered short)",
        &["xxx...(800 characters)"],
        &["1,3f2a9c1e,,0,"],
        "",
    ),
    ("payload not UTF-8", &["b\"\\xff\\xfe\""], &["1,3f2a9c1e,,0,"], ""),
];

fn our_receiver_obeys_the_golden_file(driver: DriverChoice, shards: u16) {
    let engine = small(driver).shards(shards).start().unwrap();
    let mut wrong = Vec::new();
    // The whole file once for every shard.
    for last in 0..shards {
        let cases: Vec<Case> = cases().into_iter().map(|case| case.with_id_to(last)).collect();
        assert_eq!(cases.len(), 68);
        // A peer of its own for every case, kept until the round ends: the kernel gives a closed socket's port to a later
        // one, and the same row from the same source is the same message. (Another round has other ids.)
        let sockets: Vec<UdpSocket> = cases.iter().map(|_| plain_socket()).collect();
        for (case, socket) in cases.iter().zip(&sockets) {
            let result = run_case(&engine, socket, case, shards);
            wrong.extend(result.err().map(|difference| format!("{}: {difference}", case.name)));
        }
        for (name, ..) in EXCEPTIONS {
            assert!(cases.iter().any(|case| case.name == *name), "no case {name}");
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    assert_every_shard_received(&engine);
    let unsteered = engine.stats().total.unsteered;
    assert_eq!(unsteered > 0, shards > 1, "{unsteered} rows without a route were forwarded");
}

/// Sends good rows to every shard and waits until all are confirmed; other confirms are added to `confirms`.
fn good_rows(engine: &Engine, socket: &UdpSocket, shards: u16, confirms: &mut Vec<String>) {
    // Another id every time: the same row from the same source is the same message.
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut due: Vec<String> = (0..shards).map(|shard| format!("{serial:06x}{shard:02x}")).collect();
    for id in &due {
        socket.send_to(format!(",{id},,,Z29vZA==,1764123999.5").as_bytes(), engine.local_addr()).unwrap();
    }
    let mut buffer = [0; 2_048];
    while !due.is_empty() {
        let (bytes, from) = receive(socket, &mut buffer);
        assert_eq!(from, engine.local_addr());
        let confirm = String::from_utf8(buffer[..bytes].to_vec()).unwrap();
        match due.iter().position(|id| confirm == format!("1,{id},,0,")) {
            Some(index) => drop(due.remove(index)),
            None => confirms.push(confirm),
        }
    }
}

/// Rounds of good rows that show that all is done, also where a row is forwarded: one until it is in its owner's
/// mailbox, one until it is handled, one until its confirm, which may be the last of its turn, is here.
const GOOD_ROUNDS: u16 = 3;

fn run_case(engine: &Engine, socket: &UdpSocket, case: &Case, shards: u16) -> Result<(), String> {
    // The good rows behind the case show that the receiver lives, and that all is done.
    let bucket = engine.recv_bucket();
    let before = engine.stats().total;
    for datagram in &case.datagrams {
        socket.send_to(datagram, engine.local_addr()).unwrap();
    }
    let mut confirms = Vec::new();
    for _ in 0..GOOD_ROUNDS {
        good_rows(engine, socket, shards, &mut confirms);
    }
    let (mut delivered, mut timestamps) = (Vec::new(), Vec::new());
    let mut good = 0;
    while good < GOOD_ROUNDS * shards {
        let message = next(&bucket);
        assert_eq!(message.sender(), socket.local_addr().unwrap());
        if message.payload() == "good".as_bytes() {
            good += 1;
            continue;
        }
        delivered.push(message.text().map_or_else(|| format!("{:?}", message.payload()), shorthand));
        timestamps.push(message.sent_at());
    }
    let exception = EXCEPTIONS.iter().find(|exception| exception.0 == case.name);
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let expected = match exception {
        Some((_, texts, confirms, _)) => {
            (strings(texts), confirms.iter().map(|row| row.replace(FILE_ID, &case.id)).collect())
        }
        None if case.dies => (vec![], vec![]),
        None => (case.delivered.clone(), case.confirms.clone()),
    };
    if (&delivered, &confirms) != (&expected.0, &expected.1) {
        let why: Vec<_> = {
            // Published before the shard sleeps.
            std::thread::sleep(Duration::from_millis(20));
            let now = engine.stats().total;
            now.iter()
                .filter(|(label, count)| label.starts_with("dropped") && before.get(label) != *count)
                .collect()
        };
        return Err(format!("got {:?}, expected {expected:?}; {why:?}", (delivered, confirms)));
    }
    if let Some((.., counter)) = exception.filter(|exception| !exception.3.is_empty()) {
        support::until(counter, || engine.stats().total.get(counter) > before.get(counter));
    }
    if exception.is_none() {
        for (text, ours) in case.timestamps.iter().zip(&timestamps) {
            // A seventh digit is cut off.
            let theirs = text.parse::<f64>().ok().map(|seconds| (seconds * 1e6).round() as u64);
            if ours.is_some() != theirs.is_some() || ours.map_or(0, |t| t.0).abs_diff(theirs.unwrap_or(0)) > 1
            {
                return Err(format!("timestamp {ours:?} for {text:?}"));
            }
        }
    }
    Ok(())
}

/// A model of the original behind a socket that sees whole datagrams.
struct Original {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<String>>,
    address: std::net::SocketAddr,
}

impl Original {
    fn start() -> Self {
        let socket = plain_socket();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let address = socket.local_addr().unwrap();
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || run_original(&socket, &stopping));
        Self { stop, thread, address }
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn run_original(socket: &UdpSocket, stop: &AtomicBool) -> Vec<String> {
    let mut peer = V1Peer::new();
    let mut delivered = Vec::new();
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
        let row = &buffer[..bytes];
        assert!(bytes <= 1_024, "a row of {bytes} bytes");
        assert!(!row.contains(&b'\n') && !row.contains(&b'\r'), "more than one row in a datagram");
        let event = peer.handle(row);
        assert_eq!(event.death, None, "killed by {:?}", String::from_utf8_lossy(row));
        if let Some(confirm) = event.confirm {
            socket.send_to(&confirm, from).unwrap();
        }
        delivered.extend(event.delivered.map(|message| message.text));
    }
    assert_eq!(peer.partial_count(), 0);
    delivered
}

fn our_sender_never_kills_the_original(driver: DriverChoice, shards: u16) {
    let mut texts = Vec::new();
    for size in
        [0, 1, 2, 3, 4, 5, 100, 380, 381, 382, 383, 384, 385, 386, 387, 512, 700, 1_024, 5_000, 20_000]
    {
        texts.push("x".repeat(size));
        texts.push(mixed_text(size, size as u64));
    }
    // Every character of every length starts at every offset modulo its length and around every cut.
    for character in ["é", "€", "😀", "\"", "\n", "\r\n", "\0", ",", "\u{feff}", "\u{10ffff}"] {
        for offset in 0..4 {
            let text = "a".repeat(offset) + &character.repeat(1_600 / character.len());
            texts.push(text);
        }
    }
    let mut senders = BTreeSet::new();
    for chunk_bytes in [384, 4, 5, 700] {
        // What goes to one address leaves from one shard: several peers for several shards.
        let originals: Vec<Original> =
            (0..if shards > 1 { 8 } else { 1 }).map(|_| Original::start()).collect();
        // As few bytes a chunk as possible need many chunks: short texts only.
        let texts: Vec<_> = texts.iter().filter(|text| chunk_bytes > 5 || text.len() < 2_000).collect();
        let engine = small(driver)
            .shards(shards)
            .v1_chunk_bytes_max(chunk_bytes)
            // What goes twice because a confirm was late is two messages to an original.
            .rto_min_v1(Duration::from_secs(1))
            .message_bytes_max(64 << 10)
            .chunk_count_max(1 << 17)
            .start()
            .unwrap();
        for (text, original) in texts.iter().zip(originals.iter().cycle()) {
            let outgoing = Outgoing::to(original.address, text.to_string()).deadline(HANG);
            let delivery = wait(engine.send_bucket().put(outgoing)).unwrap();
            wait(delivery).unwrap_or_else(|error| panic!("{error} for a text of {} bytes", text.len()));
        }
        let count = originals.len();
        for (index, original) in originals.into_iter().enumerate() {
            let sent: Vec<_> = texts.iter().skip(index).step_by(count).copied().collect();
            let delivered = original.stop();
            assert_eq!(delivered.len(), sent.len(), "chunks of {chunk_bytes}");
            assert!(delivered.iter().eq(sent), "chunks of {chunk_bytes}: other texts");
        }
        let stats = engine.stats();
        assert_eq!((stats.total.failed_total(), stats.total.misrouted), (0, 0));
        senders.extend((0..shards).filter(|&shard| stats.shards[usize::from(shard)].messages_delivered > 0));
    }
    assert_eq!(senders.len() > 1, shards > 1, "shards that sent: {senders:?}");
}
