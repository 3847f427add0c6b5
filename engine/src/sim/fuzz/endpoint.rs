//! One engine, and around it peers that say what the input says: anything at all, or what the engine takes for an answer,
//! because they have learned its tags, numbers and nonces from what it sent.
//!
//! One of them is a *stranger*: it learns nothing. To its address never goes more than came from there.
//!
//! In some scenes everything is sealed: peers have the engine's keys, which change, and the stranger may have others.

use super::bytes::Bytes;
use super::end::{Book, End, Train};
use super::seals::Seals;
use super::v2_round_trip;
use crate::config::Wire;
use crate::hash::Seed;
use crate::message::Level;
use crate::proto::binary::flow::Identity;
use crate::proto::plugins::Plugins;
use crate::proto::protection::RANDOM_BYTES;
use crate::runtime::internals::lock;
use crate::sim::key_files::KeyFiles;
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::binary::model::Owned;
use crate::wire::binary::{self, BASE_MAX, Bases, Frame, Header, Hello, PingFrame, Writer};
use crate::wire::csv::{
    ChunkPlace, Confirm, DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind, Epoch, Row, Scratch, Stamp,
    confirm_row_bytes, data_row_bytes, decode, decode_discovery, encode_confirm, encode_data,
    encode_discovery,
};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PEERS: usize = 3;
/// See the module.
const STRANGER: usize = 2;
const FRAMES_MAX: u8 = 8;
const MESSAGES_MAX: usize = 32;
/// Of six choices of a wire: binary, and sealed.
const SEALED: u8 = 4;
/// A key for so few datagrams is followed by the next one soon; or it never is.
const REKEY_AFTER: [u64; 2] = [4, 4_000];
/// A first HELLO has so many bytes, or it gets no answer.
const HELLO_BYTES: usize = 148;
/// A confirm is at most so much longer than its row (R-CONFIRM-6).
const CONFIRM_MORE_BYTES: u64 = 2;
/// The longest default deadline of these sizes.
const LIMIT: Duration = Duration::from_secs(200);
const SETTLE: Duration = Duration::from_secs(120);
const STEPS_MAX: u32 = 50_000;

pub(super) fn run(input: &[u8]) {
    play(input).finish();
}

/// What the input says.
fn play(input: &[u8]) -> Scene {
    let mut script = Bytes::new(input);
    let mut scene = Scene::start(&mut script);
    while !script.is_empty() {
        scene.step(&mut script);
    }
    scene
}

/// What a peer knows.
#[derive(Debug)]
struct Peer {
    addr: SocketAddr,
    epoch: u32,
    route: u8,
    /// What the engine is to write into its datagrams, and what it wants in ours; 0 while unknown.
    tag: u64,
    peer_tag: u64,
    nonce: u64,
    /// The engine's.
    peer_nonce: u64,
    peer_random: Option<[u8; RANDOM_BYTES]>,
    peer_bases: Bases,
    cookie: Option<u64>,
    /// The numbers of what comes next.
    packet: u64,
    message: u64,
    chunked: u64,
    /// The engine's highest number.
    largest: u64,
    peer_epoch: u32,
    ping: u64,
    probe: Option<Discovery>,
    /// The last row: what confirms it.
    row: Option<(u64, u32)>,
    /// What it seals with, where everything is sealed.
    seals: Option<Seals>,
    /// The engine's last datagram, and our own one.
    heard: Vec<u8>,
    said: Vec<u8>,
    bytes_in: u64,
    bytes_out: u64,
    rows_in: u64,
}

struct Scene {
    now: Instant,
    end: End,
    book: Arc<Mutex<Book>>,
    peers: [Peer; PEERS],
    /// What the engine seals with, if it does.
    keys: Option<KeyFiles>,
    /// The stranger has none of its keys: it is told nothing.
    keyless: bool,
    steps: u32,
    datagrams: u64,
    messages: usize,
}

impl Scene {
    fn start(script: &mut Bytes<'_>) -> Self {
        let choice = script.below(6);
        let wire = [Wire::Auto, Wire::Binary, Wire::Csv][usize::from(choice % 3)];
        let book = Arc::<Mutex<Book>>::default();
        let addr = SocketAddr::from(([10, 0, 0, 1], 25_252));
        let mut peers = std::array::from_fn(|index| Peer::new(index as u8, script));
        let (mut plugins, mut keys, mut keyless) = (Plugins::default(), None, false);
        if choice == SEALED {
            let rekey_after = REKEY_AFTER[usize::from(script.below(2))];
            let draw =
                |number| KeyFiles::draw(&mut Seed::from_number(number).rng(0)).rekey_after(rekey_after);
            let mut files = draw(1);
            plugins = files.protect(0, plugins);
            for peer in &mut peers {
                peer.seals = Some(Seals::new(files.open_both(), addr));
            }
            keyless = script.flag();
            if keyless {
                peers[STRANGER].seals = Some(Seals::new(draw(2).open_both(), addr));
            }
            keys = Some(files);
        }
        let end = End::start(script, wire, addr, &book, true, &plugins);
        let now = end.socket.borrow().now;
        Self { now, end, book, peers, keys, keyless, steps: 0, datagrams: 0, messages: 0 }
    }

    fn step(&mut self, script: &mut Bytes<'_>) {
        let what = script.u8();
        let index = usize::from(what >> 5) % PEERS;
        let peer = &mut self.peers[index];
        match what % 16 {
            0 => {
                let count = usize::from(script.u8());
                peer.say(script.take(count).to_vec());
            }
            1 => peer.open(script),
            2..5 => peer.say_frames(script),
            5 => peer.answer_ping(),
            6 => peer.repeat(script),
            7 => peer.say_row(script),
            8 => peer.say_confirm(script),
            9 => peer.discover(script),
            10 | 11 if index != STRANGER && self.messages < MESSAGES_MAX => self.put(index, script),
            12 => {
                let errno = [libc::EAGAIN, libc::ENOBUFS, libc::EIO, libc::EMSGSIZE, libc::EPERM]
                    [usize::from(script.below(5))];
                self.end.socket.borrow_mut().refusals.push_back(errno);
                return;
            }
            13 if self.keys.is_some() && script.flag() => {
                self.keys.iter_mut().for_each(|keys| {
                    keys.step(0);
                });
                self.end.wake();
                return self.work();
            }
            13 => {
                let mut player = lock(&self.end.player);
                (player.refuses, player.uncommitted) = (script.below(8), script.below(8));
                return;
            }
            _ => {
                let time = Duration::from_nanos(1 << (script.u8() % 38));
                return self.pass(time);
            }
        }
        self.hear(index, script);
    }

    fn put(&mut self, index: usize, script: &mut Bytes<'_>) {
        self.messages += 1;
        let kind = script.u8();
        let bytes = usize::from(script.u16()) % [100, 2_000, 20_000][usize::from(kind % 3)];
        let mut outgoing = lock(&self.book).write(self.peers[index].addr, bytes, false);
        if kind & 8 != 0 {
            outgoing = outgoing.lane(script.below(2).into());
        }
        if kind & 16 != 0 {
            outgoing = outgoing.level(Level::Committed);
        }
        if kind & 32 != 0 {
            outgoing = outgoing.deadline(Duration::from_micros(1 << script.below(24)));
        }
        self.end.put(outgoing);
    }

    /// What a peer said arrives, as one train if it says one thing several times; the engine works.
    fn hear(&mut self, index: usize, script: &mut Bytes<'_>) {
        let peer = &mut self.peers[index];
        let bytes = std::mem::take(&mut peer.said);
        if !bytes.is_empty() || script.below(64) == 1 {
            let count = if script.below(16) == 15 { 1 + usize::from(script.below(8)) } else { 1 };
            let count = if bytes.is_empty() { 1 } else { count };
            let is_row = bytes.first().is_some_and(|&first| first < 0x80);
            peer.bytes_in += (bytes.len() * count) as u64;
            peer.rows_in += count as u64 * u64::from(is_row);
            self.datagrams += count as u64;
            let segment_bytes = bytes.len().max(1);
            let train = Train { peer: peer.addr, bytes: bytes.repeat(count), segment_bytes };
            self.end.socket.borrow_mut().arriving.push_back(train);
            peer.said = bytes;
        }
        self.work();
    }

    fn work(&mut self) {
        self.end.work(self.now);
        let sent = std::mem::take(&mut self.end.socket.borrow_mut().sent);
        for train in sent {
            let Some(index) = self.peers.iter().position(|peer| peer.addr == train.peer) else {
                unreachable!("nobody is at {}", train.peer);
            };
            let peer = &mut self.peers[index];
            for datagram in train.datagrams() {
                peer.bytes_out += datagram.len() as u64;
                if index != STRANGER {
                    peer.learn(datagram);
                }
            }
        }
        let Peer { bytes_in, bytes_out, rows_in, .. } = self.peers[STRANGER];
        let most = bytes_in + CONFIRM_MORE_BYTES * rows_in;
        let most = if self.keyless { 0 } else { most };
        assert!(bytes_out <= most, "{bytes_out} bytes to a stranger for {bytes_in}");
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.work();
            let next = self.end.next_deadline().unwrap_or(Instant::FAR_FUTURE);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next.max(self.now + Duration::from_micros(1));
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "an engine that never rests");
        }
    }

    /// Nobody says anything any more: everything ends, and everything is given back.
    fn finish(mut self) {
        self.end.socket.borrow_mut().refusals.clear();
        let until = self.now + LIMIT;
        while !lock(&self.book).is_complete() && self.now < until {
            self.pass(Duration::from_millis(500));
        }
        assert!(lock(&self.book).is_complete(), "every message has its outcome");
        self.pass(SETTLE);
        let counters = self.end.counters();
        assert_eq!(counters.datagrams_taken, self.datagrams, "every datagram is counted");
        assert_eq!(counters.messages_accepted, counters.messages_delivered + counters.failed_total());
        assert_eq!(self.end.held(), Vec::<String>::new());
    }
}

impl Peer {
    fn new(index: u8, script: &mut Bytes<'_>) -> Self {
        let mut base = || if script.flag() { (1 << 32) - 8 } else { u64::from(script.u8()) };
        let (packet, message, chunked) = (base(), base(), base());
        Self {
            addr: SocketAddr::from(([10, 0, 1, index + 1], 25_252)),
            epoch: u32::from(index) + 7,
            route: 0,
            tag: u64::from(index) + 0x0101_0101_0101_0101,
            peer_tag: 0,
            nonce: u64::from(index) + 77,
            peer_nonce: 0,
            peer_random: None,
            peer_bases: Bases::default(),
            cookie: None,
            packet,
            message,
            chunked,
            largest: 0,
            peer_epoch: 0,
            ping: 0,
            probe: None,
            row: None,
            seals: None,
            heard: Vec::new(),
            said: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
            rows_in: 0,
        }
    }

    fn say(&mut self, bytes: Vec<u8>) {
        self.said = bytes;
    }

    /// A datagram with these frames; some of its header may be wrong.
    fn datagram(&mut self, script: &mut Bytes<'_>, tag: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        self.datagram_of(script, (tag, false), fill)
    }

    /// As [`datagram`](Self::datagram), perhaps of a handshake, which is sealed in another way.
    fn datagram_of(
        &mut self,
        script: &mut Bytes<'_>,
        (tag, is_hello): (u64, bool),
        fill: impl FnOnce(&mut Writer<'_>),
    ) -> Vec<u8> {
        let odd = script.u8();
        let mut header =
            Header { route: self.route, epoch: self.epoch, packet_number: self.packet, tag, sent_at: None };
        self.packet += 1;
        match odd {
            240 => header.epoch = script.u32(),
            241 => header.tag = script.number(),
            242 => header.route = script.u8(),
            243 => header.packet_number = script.number(),
            244 => header.packet_number = header.packet_number.saturating_sub(script.u8().into()),
            245 => header.packet_number = header.packet_number.saturating_add(script.u16().into()),
            246 => header.sent_at = Some(UnixMicros(script.number())),
            247 => self.packet = self.packet.saturating_add(script.u8().into()),
            _ => {}
        }
        let mut datagram = vec![0; 9_000];
        let at = binary::write(&mut datagram, &header);
        let mut to = Writer::new(&mut datagram[at..]);
        fill(&mut to);
        let end = at + to.at();
        datagram.truncate(end);
        if tag == 0 {
            datagram.resize(datagram.len().max(HELLO_BYTES), 0);
        }
        if odd == 248 {
            datagram.resize(datagram.len() + usize::from(script.u8()), script.u8());
        }
        match &mut self.seals {
            Some(seals) => seals.seal(&datagram, header.packet_number, is_hello),
            None => {
                binary::seal(&mut datagram);
                datagram
            }
        }
    }

    /// HELLO: the first one of a flow, or the answer to the engine's; sometimes another one than before.
    fn open(&mut self, script: &mut Bytes<'_>) {
        let kind = script.u8();
        if kind & 1 != 0 && kind & 2 != 0 {
            self.tag = self.tag.wrapping_add(0x100).max(1);
            self.nonce += 1;
        }
        if kind & 4 != 0 && kind & 8 != 0 && kind & 16 != 0 {
            self.epoch = self.epoch.wrapping_add(1);
        }
        let bases = Bases { packet_number: self.packet, messages: self.message, chunked: self.chunked };
        let answers = kind & 32 != 0 && self.peer_nonce != 0;
        if let Some(seals) = &mut self.seals
            && !answers
        {
            seals.set_key_id(1 + u32::from(script.below(2)));
        }
        let limits = script.option(|script| binary::Limits {
            message_bytes_max: script.number() as u32,
            datagram_bytes_max: script.number() as u16,
        });
        let hello = Hello {
            versions: if kind & 64 == 0 { &[2] } else { &[] },
            tag: self.tag,
            nonce: self.nonce,
            echo: answers.then_some(self.peer_nonce),
            bases,
            limits,
            dedup_ms: script.option(|script| script.number() as u32),
            shards: script.option(Bytes::u8),
            cookie: self.cookie.filter(|_| kind & 128 == 0),
            random: self.seals.as_ref().map(Seals::random),
        };
        let tag = if answers { self.peer_tag } else { 0 };
        let datagram = self.datagram_of(script, (tag, true), |to| {
            to.hello(&hello);
        });
        if answers {
            self.establish(false);
        }
        self.say(datagram);
    }

    /// It knows both HELLOs of a flow: its keys begin.
    fn establish(&mut self, opener: bool) {
        let (Some(seals), Some(random)) = (&mut self.seals, self.peer_random) else { return };
        let identity = Identity {
            to: self.addr,
            local: None,
            own_tag: self.tag,
            peer_tag: self.peer_tag,
            peer_epoch: self.peer_epoch,
            route: self.route,
        };
        seals.establish(&identity, (self.nonce, self.epoch), (self.peer_nonce, random), opener);
    }

    /// Any frames, with numbers that are mostly near those in use.
    fn say_frames(&mut self, script: &mut Bytes<'_>) {
        let count = 1 + script.below(FRAMES_MAX);
        let mut frames = Vec::new();
        for _ in 0..count {
            let mut frame = v2_round_trip::frame(script);
            if script.below(8) > 0 {
                self.fit(&mut frame, script);
            }
            frames.push(frame);
        }
        let tag = self.peer_tag;
        let datagram = self.datagram(script, tag, |to| {
            for frame in &frames {
                frame.write(to);
            }
        });
        self.say(datagram);
    }

    /// Numbers as they would be in a flow that goes on.
    fn fit(&mut self, frame: &mut Owned, script: &mut Bytes<'_>) {
        let near = |base: u64, script: &mut Bytes<'_>| {
            base.saturating_add_signed(script.u8().cast_signed().into()) % BASE_MAX
        };
        match frame {
            Owned::Message { seq, .. } => {
                *seq = self.message as u32;
                match script.below(8) {
                    0 => *seq = near(self.message, script) as u32,
                    _ => self.message += 1,
                }
            }
            Owned::Chunk { space, seq, offset, total, bytes, .. } => {
                let base = if *space == binary::Space::Chunked { self.chunked } else { self.message };
                *seq = near(base, script) as u32;
                (*offset, *total) = (u32::from(script.u8()) * binary::CHUNK_UNIT, u32::from(script.u16()));
                // As far as it may be: whole units, or the end of the message.
                let end = *offset + bytes.len() as u32;
                if !end.is_multiple_of(binary::CHUNK_UNIT) || end > *total {
                    *total = end;
                }
                self.chunked += u64::from(script.below(4) == 3);
            }
            Owned::Ack { ranges, .. } => {
                let first = self.peer_bases.packet_number;
                let smallest =
                    if script.flag() { first } else { self.largest.saturating_sub(script.u8().into()) };
                let largest = if script.below(16) == 15 { near(self.largest, script) } else { self.largest };
                *ranges = vec![(smallest.min(largest), largest)];
            }
            Owned::Result(entries) => {
                for (space, seq, _) in entries {
                    let base = match space {
                        binary::Space::Message => self.peer_bases.messages,
                        binary::Space::Chunked => self.peer_bases.chunked,
                    };
                    *seq = base.saturating_add(script.below(40).into());
                }
            }
            Owned::Cancel(entries) => {
                for (space, seq) in entries {
                    *seq = near(
                        if *space == binary::Space::Chunked { self.chunked } else { self.message },
                        script,
                    );
                }
            }
            Owned::Skip(entries) => {
                for (space, seq, _) in entries {
                    *seq = near(
                        if *space == binary::Space::Chunked { self.chunked } else { self.message },
                        script,
                    );
                }
            }
            Owned::Grant(grant) => {
                let more = u64::from(script.u16());
                grant.packets = self.largest.saturating_add(more);
                grant.messages = self.peer_bases.messages.saturating_add(more);
                grant.chunked = self.peer_bases.chunked.saturating_add(more);
            }
            Owned::Low(low) => {
                (low.messages, low.chunked) = (near(self.message, script), near(self.chunked, script));
            }
            Owned::Pong(data) => *data = self.ping,
            Owned::Reset(tag) => *tag = self.tag,
            Owned::Hello { .. } | Owned::Ping(PingFrame { .. }) | Owned::Close(_) => {}
        }
    }

    /// What proves that this address is reached.
    fn answer_ping(&mut self) {
        let (tag, data) = (self.peer_tag, self.ping);
        let datagram = self.datagram(&mut Bytes::new(&[]), tag, |to| {
            to.pong(data);
        });
        self.say(datagram);
    }

    /// What it said last, or what it heard, again; with a byte changed and the checksum made right, or not.
    fn repeat(&mut self, script: &mut Bytes<'_>) {
        let kind = script.u8();
        let mut datagram = if kind & 1 == 0 { self.said.clone() } else { self.heard.clone() };
        if kind & 2 != 0 && !datagram.is_empty() {
            let at = usize::from(script.u16()) % datagram.len();
            datagram[at] = script.u8();
        }
        if kind & 4 != 0 {
            datagram.truncate(script.u16().into());
        }
        if kind & 8 != 0 && datagram.len() >= binary::HEADER_BYTES && datagram[0] == binary::MAGIC {
            binary::seal(&mut datagram);
        }
        self.say(datagram);
    }

    /// A row of ours, or of somebody else.
    fn say_row(&mut self, script: &mut Bytes<'_>) {
        let kind = script.u8();
        let id = u64::from(script.u8()) << 32 | u64::from(script.u8());
        let chunk = (kind & 1 != 0).then(|| {
            let count = 2 + script.number() as u32 % 40_000;
            ChunkPlace { index: u32::from(script.u8()) % count, count }
        });
        let count = usize::from(script.u8());
        let payload = script.take(count);
        if kind & 2 == 0 {
            let time = UnixMicros(1_764_000_000_000_000 + script.number() % 100_000_000);
            let mut row = vec![0; data_row_bytes(payload.len(), chunk)];
            encode_data(&mut row, id, chunk, payload, &Stamp::new(time, Epoch(self.epoch)));
            return self.say(row);
        }
        // As the original writes it: any id, a time that counts or none.
        let place = chunk.map_or_else(|| ",".to_owned(), |chunk| format!("{},{}", chunk.count, chunk.index));
        let text: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        let time = if kind & 4 == 0 {
            String::new()
        } else {
            format!(",{}.5", 1_764_000_000 + u64::from(script.u16()))
        };
        self.say(format!(",id{id},{place},{}{time}", &text[..text.len() / 4 * 4]).into_bytes());
    }

    /// The confirm of the engine's last row, or of one that it never sent.
    fn say_confirm(&mut self, script: &mut Bytes<'_>) {
        let (mut id, mut chunk_index) = self.row.unwrap_or((script.number(), 0));
        match script.below(8) {
            0 => id = id.wrapping_add(script.number()),
            1 => chunk_index = script.number() as u32,
            _ => {}
        }
        let epoch = Epoch(self.epoch.wrapping_add(u32::from(script.below(8) == 7)));
        let id_text = format!("{id:016x}");
        let confirm = if script.flag() {
            Confirm::Plain { id: id_text.as_bytes(), chunk_text: b"" }
        } else {
            Confirm::Marked { id, chunk_index, epoch }
        };
        let mut row = vec![0; confirm_row_bytes(&confirm)];
        encode_confirm(&mut row, &confirm);
        self.say(row);
    }

    /// Asks whether the engine speaks the binary wire, or answers when it asked.
    fn discover(&mut self, script: &mut Bytes<'_>) {
        let row = match self.probe {
            Some(probe) if script.below(4) > 0 => {
                Discovery { kind: DiscoveryKind::Answer { cookie: script.u64() }, ..probe }
            }
            _ => Discovery { id: script.u64(), nonce: self.nonce, kind: DiscoveryKind::Probe },
        };
        let mut bytes = vec![0; DISCOVERY_ROW_BYTES];
        encode_discovery(&mut bytes, &row);
        self.say(bytes);
    }

    /// What the engine's datagrams tell.
    fn learn(&mut self, datagram: &[u8]) {
        self.heard = datagram.to_vec();
        if let Some(seals) = &mut self.seals {
            let Some((header, frames)) = seals.open(datagram) else { return };
            let frames = frames.to_vec();
            return self.learn_frames(&header, &frames);
        }
        if let Some(row) = decode_discovery(datagram) {
            match row.kind {
                DiscoveryKind::Probe => self.probe = Some(row),
                DiscoveryKind::Answer { cookie } => self.cookie = Some(cookie),
            }
            return;
        }
        let Ok((header, frames)) = binary::decode(datagram) else {
            let mut scratch = Scratch::new();
            match decode(datagram, &mut scratch) {
                Ok(Row::Data(data)) => self.row = data.id.native.map(|id| (id, data.chunk_index)),
                Ok(Row::Confirm(_)) => {}
                // The chunk id of a row of one chunk is any text, and its confirm has it as it came.
                Err(reason) => assert!(
                    reason == DropReason::BadChunkId && datagram.starts_with(b"1,"),
                    "the engine's rows are rows: {reason:?}"
                ),
            }
            return;
        };
        self.learn_frames(&header, frames);
    }

    fn learn_frames(&mut self, header: &Header, frames: &[u8]) {
        assert!(binary::check(frames).is_ok(), "the engine's datagrams are sound");
        self.largest = self.largest.max(header.packet_number);
        self.route = header.route;
        for frame in binary::frames(frames).flatten() {
            match frame {
                Frame::Hello(hello) => {
                    self.peer_tag = hello.tag;
                    self.peer_nonce = hello.nonce;
                    self.peer_random = hello.random;
                    self.peer_epoch = header.epoch;
                    self.peer_bases = hello.bases;
                    self.largest = header.packet_number;
                    self.cookie = hello.cookie.or(self.cookie);
                    if let Some(seals) = &mut self.seals {
                        seals.answer_with(&self.heard);
                    }
                    if hello.echo == Some(self.nonce) {
                        self.establish(true);
                    }
                }
                Frame::Ping(ping) => self.ping = ping.data,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::key_files::STEPS;

    /// As chance would hardly have it: a handshake, messages and frames that open, and all steps to another key.
    #[test]
    fn a_sealed_peer_is_understood() {
        let scene = play(include_bytes!("../../../fuzz/corpus/endpoint/sealed"));
        let counters = scene.end.counters();
        assert_eq!(scene.keys.as_ref().map(KeyFiles::next_step), Some(STEPS));
        assert_eq!(counters.dropped(DropReason::BinaryUnauthentic), 0);
        assert!(counters.datagrams_taken >= 4 && counters.rows_sent > 0 && counters.messages_accepted > 0);
        let peer = &scene.peers[0];
        assert!(peer.seals.as_ref().is_some_and(Seals::is_open), "{peer:?}");
        assert!(peer.largest > peer.peer_bases.packet_number, "what came behind the HELLO opened: {peer:?}");
        scene.finish();
    }
}
