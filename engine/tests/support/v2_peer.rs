//! A small peer of the binary wire on a plain socket: it says exactly what a test makes it say.
//!
//! ```text
//!   connect   probe row -> cookie, HELLO -> HELLO, PING -> PONG        it opens a flow to an engine
//!   accept    answers probe rows, HELLO -> HELLO                       an engine opens a flow to it
//! ```

use super::{HANG, plain_socket_on, receive};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Instant;
use udp_plus::internals::binary::{
    self, Bases, Frame, GrantFrame, HEADER_BYTES, Header, Hello, PingFrame, Writer,
};
use udp_plus::internals::csv::{
    DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind, decode_discovery, encode_discovery,
};

/// A first HELLO has so many bytes, or it gets no answer.
pub const HELLO_BYTES: usize = 148;

/// One datagram that came.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What it says first.
    pub header: Header,
    /// The frames.
    pub frames: Vec<u8>,
    /// The whole datagram.
    pub bytes: Vec<u8>,
}

impl Packet {
    /// Takes a datagram apart.
    pub fn decode(bytes: &[u8]) -> Self {
        let (header, frames) = binary::decode(bytes).unwrap();
        binary::check(frames).unwrap();
        Self { header, frames: frames.to_vec(), bytes: bytes.to_vec() }
    }

    /// What it says.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        binary::frames(&self.frames).map(|frame| frame.unwrap())
    }

    /// The messages in it: number and payload.
    pub fn messages(&self) -> Vec<(u32, Vec<u8>)> {
        self.frames()
            .filter_map(|frame| match frame {
                Frame::Message(message) => Some((message.seq, message.payload.to_vec())),
                _ => None,
            })
            .collect()
    }
}

/// See the module.
#[derive(Debug)]
pub struct V2Peer {
    /// Its socket.
    pub socket: UdpSocket,
    /// The other side.
    pub engine: SocketAddr,
    /// What the engine writes into datagrams for us.
    pub tag: u64,
    /// What we write into datagrams for the engine; 0 while unknown.
    pub peer_tag: u64,
    /// Our number of the handshake.
    pub nonce: u64,
    /// Our start.
    pub epoch: u32,
    /// The flow's route.
    pub route: u8,
    /// What the engine gave us to prove our address.
    pub cookie: Option<u64>,
    /// Number of the next datagram.
    pub packet: u64,
    /// Number of the next message.
    pub message: u64,
    /// The engine's datagrams that came.
    pub arrived: BTreeSet<u64>,
    /// Where the engine's numbers begin.
    pub engine_bases: Bases,
}

impl V2Peer {
    /// Nothing has been said yet.
    pub fn new(engine: SocketAddr) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), engine)
    }

    /// As [`new`](Self::new), on a free port of `host`.
    pub fn on(host: IpAddr, engine: SocketAddr) -> Self {
        let mut random = fastrand::Rng::new();
        Self {
            socket: plain_socket_on(host),
            engine,
            tag: random.u64(1..),
            peer_tag: 0,
            nonce: random.u64(..),
            epoch: random.u32(..),
            route: 0,
            cookie: None,
            packet: 1_000,
            message: 5_000,
            arrived: BTreeSet::new(),
            engine_bases: Bases::default(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Opens a flow to the engine, whichever of the two wires it prefers, and proves its address.
    pub fn connect(engine: SocketAddr) -> Self {
        let mut peer = Self::new(engine);
        peer.cookie = Some(peer.ask_cookie());
        peer.say_hello();
        peer.learn_answer();
        let data = peer.nonce;
        peer.send(|writer| writer.ping(&PingFrame { data, demand: 0 }));
        peer.wait_for("a PONG", |packet| {
            packet.frames().any(|frame| frame == Frame::Pong { data }).then_some(())
        });
        peer
    }

    /// Asks with a row, and returns the cookie of the answer.
    pub fn ask_cookie(&self) -> u64 {
        let (nonce, mut buffer) = (fastrand::u64(..), [0; 2_048]);
        self.socket.send_to(&probe(nonce), self.engine).unwrap();
        loop {
            let (bytes, _) = receive(&self.socket, &mut buffer);
            match decode_discovery(&buffer[..bytes]) {
                Some(Discovery { nonce: echo, kind: DiscoveryKind::Answer { cookie }, .. })
                    if echo == nonce =>
                {
                    return cookie;
                }
                _ => {}
            }
        }
    }

    /// Whatever the engine has to say to this socket has been said: what came. It is asked twice with a row that changes
    /// nothing, and answers in the order things came.
    pub fn settle(&self) -> Vec<Vec<u8>> {
        settle(&self.socket, self.engine)
    }

    /// Sends HELLO.
    pub fn say_hello(&mut self) {
        let datagram = self.hello(None);
        self.socket.send_to(&datagram, self.engine).unwrap();
    }

    /// A HELLO.
    pub fn hello(&mut self, echo: Option<u64>) -> Vec<u8> {
        let bases = Bases { packet_number: self.packet, messages: self.message, chunked: 7 };
        let (tag, nonce, cookie) = (self.tag, self.nonce, self.cookie);
        let hello = Hello { versions: &[2], tag, nonce, echo, bases, cookie, ..Hello::default() };
        let mut datagram = self.datagram(|writer| writer.hello(&hello));
        datagram.resize(HELLO_BYTES, 0);
        binary::seal(&mut datagram);
        datagram
    }

    fn learn_answer(&mut self) {
        let nonce = self.nonce;
        let (epoch_tag, bases) = self.wait_for("the answer to HELLO", |packet| {
            packet.frames().find_map(|frame| match frame {
                Frame::Hello(hello) if hello.echo == Some(nonce) => Some((hello.tag, hello.bases)),
                _ => None,
            })
        });
        (self.peer_tag, self.engine_bases) = (epoch_tag, bases);
    }

    /// Waits for the engine's first HELLO, answers it, and whatever is asked in rows before.
    pub fn accept(&mut self) {
        let mut buffer = [0; 2_048];
        loop {
            let (bytes, from) = receive(&self.socket, &mut buffer);
            assert_eq!(from, self.engine);
            if let Some(row) = decode_discovery(&buffer[..bytes]) {
                if row.kind == DiscoveryKind::Probe {
                    self.socket.send_to(&answer(&row, 77), self.engine).unwrap();
                }
                continue;
            }
            if buffer[0] < 0x80 {
                continue;
            }
            let packet = Packet::decode(&buffer[..bytes]);
            let Some(Frame::Hello(hello)) = packet.frames().next() else { panic!("{packet:?}") };
            assert_eq!(packet.header.tag, 0, "a first flight");
            self.route = packet.header.route;
            (self.peer_tag, self.engine_bases) = (hello.tag, hello.bases);
            self.arrived.insert(packet.header.packet_number);
            let datagram = self.hello(Some(hello.nonce));
            self.socket.send_to(&datagram, self.engine).unwrap();
            return;
        }
    }

    /// A datagram under the engine's tag, or a first one.
    pub fn datagram(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<u8> {
        let number = self.packet;
        self.packet += 1;
        crafted(self.route, self.epoch, number, self.peer_tag, write)
    }

    /// Sends a datagram; returns it.
    pub fn send(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<u8> {
        let datagram = self.datagram(write);
        self.socket.send_to(&datagram, self.engine).unwrap();
        datagram
    }

    /// Sends a message in a datagram of its own; returns the datagram.
    pub fn send_message(&mut self, payload: &[u8]) -> Vec<u8> {
        let seq = self.message as u32;
        self.message += 1;
        self.send(|writer| writer.plain_message(seq, payload))
    }

    /// Acknowledges everything that came, and allows a hundred datagrams more.
    pub fn acknowledge(&mut self) {
        let (ranges, grant) = (self.ranges(), self.grant());
        self.send(|writer| writer.grant(&grant) && (ranges.is_empty() || writer.ack(0, ranges, None)));
    }

    /// Allows a hundred datagrams more.
    pub fn grant(&self) -> GrantFrame {
        let Bases { packet_number, messages, chunked } = self.engine_bases;
        let largest = self.arrived.last().copied().unwrap_or(packet_number);
        GrantFrame {
            packets: largest + 100,
            messages: messages + 60_000,
            chunked: chunked + 1_000,
            lease_us: 10_000_000,
        }
    }

    /// What came, from the largest down.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &number in self.arrived.iter().rev() {
            match ranges.last_mut() {
                Some(range) if range.0 == number + 1 => range.0 = number,
                _ => ranges.push((number, number)),
            }
        }
        ranges
    }

    /// The next datagram of the binary wire for us.
    pub fn next(&mut self) -> Packet {
        let mut buffer = vec![0; 65_536];
        loop {
            let (bytes, from) = receive(&self.socket, &mut buffer);
            if from == self.engine && buffer[0] >= 0x80 {
                let packet = Packet::decode(&buffer[..bytes]);
                self.arrived.insert(packet.header.packet_number);
                return packet;
            }
        }
    }

    /// The first datagram in which `look` finds something.
    pub fn wait_for<T>(&mut self, what: &str, mut look: impl FnMut(&Packet) -> Option<T>) -> T {
        let end = Instant::now() + HANG;
        loop {
            let packet = self.next();
            if let Some(found) = look(&packet) {
                return found;
            }
            assert!(Instant::now() < end, "not within {HANG:?}: {what}");
        }
    }
}

/// A sound datagram that says what `write` writes.
pub fn crafted(
    route: u8,
    epoch: u32,
    packet_number: u64,
    tag: u64,
    write: impl FnOnce(&mut Writer<'_>) -> bool,
) -> Vec<u8> {
    let mut datagram = vec![0; 1_472];
    let header = Header { route, epoch, packet_number, tag, sent_at: None };
    binary::write(&mut datagram, &header);
    let mut writer = Writer::new(&mut datagram[HEADER_BYTES..]);
    assert!(write(&mut writer), "room for it");
    let bytes = HEADER_BYTES + writer.at();
    datagram.truncate(bytes);
    binary::seal(&mut datagram);
    datagram
}

/// A row that asks for the binary wire.
pub fn probe(nonce: u64) -> Vec<u8> {
    let mut row = vec![0; DISCOVERY_ROW_BYTES];
    encode_discovery(&mut row, &Discovery { id: nonce ^ 0x5555, nonce, kind: DiscoveryKind::Probe });
    row
}

/// A row that says yes to `row`.
pub fn answer(row: &Discovery, cookie: u64) -> Vec<u8> {
    let mut bytes = vec![0; DISCOVERY_ROW_BYTES];
    encode_discovery(&mut bytes, &Discovery { kind: DiscoveryKind::Answer { cookie }, ..*row });
    bytes
}

/// See [`V2Peer::settle`].
pub fn settle(socket: &UdpSocket, engine: SocketAddr) -> Vec<Vec<u8>> {
    let mut came = Vec::new();
    let mut buffer = vec![0; 65_536];
    for _ in 0..2 {
        let nonce = fastrand::u64(..);
        socket.send_to(&probe(nonce), engine).unwrap();
        loop {
            let (bytes, _) = receive(socket, &mut buffer);
            let bytes = &buffer[..bytes];
            let asked = |row: &Discovery| row.nonce == nonce && row.kind != DiscoveryKind::Probe;
            if decode_discovery(bytes).as_ref().is_some_and(asked) {
                break;
            }
            came.push(bytes.to_vec());
        }
    }
    came
}
