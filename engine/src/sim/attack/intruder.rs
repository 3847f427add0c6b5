//! Somebody who went through the handshake, and then says under a valid tag what no engine would.

use super::{ASKS, HELLO_BYTES, Kind, crafted};
use crate::wire::binary::{
    self, Bases, CHUNK_UNIT, ChunkFrame, Extensions, Frame, GrantFrame, Header, Hello, PingFrame, Space,
};
use crate::wire::csv::{DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind, decode_discovery, encode_discovery};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// How long the engine's answers may take, and how often is asked.
const ANSWER_MAX: Duration = Duration::from_millis(500);
const TRIES: u32 = 20;
const FIRST_PACKET: u64 = 1_000;
const FIRST_MESSAGE: u64 = 5_000;
const FIRST_CHUNKED: u64 = 7;
/// Pieces of a message with a gap before each, four times as long as the one before it: from 256 bytes to 768 KiB.
const GAPS: u64 = 8;
/// Answers it always has room for, as it says.
const OPTIMISTIC_GRANT: u64 = 1_000;
const UNIT: [u8; CHUNK_UNIT as usize] = [b'x'; CHUNK_UNIT as usize];

/// A flow of the binary wire, as its opener sees it.
#[derive(Clone, Debug)]
pub struct Intruder {
    header: Header,
    messages: u64,
    chunked: u64,
    /// Where the engine's numbers begin.
    engine: Bases,
    random: fastrand::Rng,
    asked: u64,
}

impl Intruder {
    /// Says the same as one that went through a handshake, under a tag that nobody gave out: to a socket that only receives.
    #[must_use]
    pub fn unanswered(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (tag, epoch) = (random.u64(1..), random.u32(..));
        let header = Header { route: 0, epoch, packet_number: FIRST_PACKET + 1, tag, sent_at: None };
        let engine = Bases { packet_number: FIRST_PACKET, messages: FIRST_MESSAGE, chunked: FIRST_CHUNKED };
        Self { header, messages: FIRST_MESSAGE, chunked: FIRST_CHUNKED, engine, random, asked: 0 }
    }

    /// Opens a flow to an engine that takes the binary wire, and proves the address of `socket`.
    ///
    /// # Errors
    /// Those of the socket; `TimedOut` if the engine does not answer.
    pub fn open(socket: &UdpSocket, engine: SocketAddr, seed: u64) -> io::Result<Self> {
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        let mut intruder = Self::unanswered(seed);
        let own = intruder.engine;
        let (tag, nonce) = (intruder.header.tag, intruder.random.u64(..));
        let header = Header { tag: 0, packet_number: own.packet_number, ..intruder.header };
        let mut probe = vec![0; DISCOVERY_ROW_BYTES];
        encode_discovery(&mut probe, &Discovery { id: nonce, nonce, kind: DiscoveryKind::Probe });
        let mut asked = 0;
        let cookie = ask(&mut asked, socket, engine, &probe, |bytes| match decode_discovery(bytes)? {
            Discovery { nonce: echo, kind: DiscoveryKind::Answer { cookie }, .. } if echo == nonce => {
                Some(cookie)
            }
            _ => None,
        })?;
        let hello =
            Hello { versions: &[2], tag, nonce, bases: own, cookie: Some(cookie), ..Hello::default() };
        let mut datagram = Vec::new();
        crafted(&mut datagram, &header, |writer| writer.hello(&hello));
        datagram.resize(HELLO_BYTES, 0);
        binary::seal(&mut datagram);
        let (peer_tag, bases) = ask(&mut asked, socket, engine, &datagram, |bytes| {
            let (_, frames) = binary::decode(bytes).ok()?;
            binary::frames(frames).flatten().find_map(|frame| match frame {
                Frame::Hello(hello) if hello.echo == Some(nonce) => Some((hello.tag, hello.bases)),
                _ => None,
            })
        })?;
        (intruder.header.tag, intruder.engine, intruder.asked) = (peer_tag, bases, asked);
        crafted(&mut datagram, &intruder.header, |writer| writer.ping(&PingFrame { data: nonce, demand: 0 }));
        intruder.header.packet_number += 1;
        ask(&mut intruder.asked, socket, engine, &datagram, |bytes| {
            let (_, frames) = binary::decode(bytes).ok()?;
            binary::frames(frames).flatten().any(|frame| frame == Frame::Pong { data: nonce }).then_some(())
        })?;
        Ok(intruder)
    }

    /// Datagrams that opening took.
    #[must_use]
    pub const fn asked(&self) -> u64 {
        self.asked
    }

    /// The next datagram of a kind.
    pub(super) fn write(&mut self, kind: Kind, datagram: &mut Vec<u8>) {
        let Self { header, random, engine, messages, chunked, .. } = self;
        match kind {
            Kind::FlowHugeLengths => {
                let offset = random.u32(..u32::MAX / CHUNK_UNIT - 1) * CHUNK_UNIT;
                let chunk = chunk(*chunked, offset, u32::MAX);
                crafted(datagram, header, |writer| writer.chunk(&chunk));
            }
            Kind::FlowFirstChunks => {
                let chunk = chunk(*chunked, 0, 1 << 20);
                crafted(datagram, header, |writer| writer.chunk(&chunk));
            }
            Kind::FlowGaps => {
                let piece = ((*chunked - FIRST_CHUNKED) % GAPS) as u32;
                let offset = if piece == 0 { 0 } else { (2 * CHUNK_UNIT) << (2 * (piece - 1)) };
                let number = FIRST_CHUNKED + (*chunked - FIRST_CHUNKED) / GAPS;
                let chunk = chunk(number, offset, 2 << 20);
                crafted(datagram, header, |writer| writer.chunk(&chunk));
                header.packet_number += 1;
            }
            Kind::FlowAcks => {
                let largest = engine.packet_number + random.u64(1_000..1 << 40);
                let ranges = (0..32).map(|range| (largest - 30 * range - 5, largest - 30 * range));
                let grant = GrantFrame {
                    packets: u64::MAX,
                    messages: u64::MAX,
                    chunked: u64::MAX,
                    lease_us: u32::MAX,
                };
                crafted(datagram, header, |writer| writer.ack(0, ranges, None) && writer.grant(&grant));
            }
            Kind::FlowOptimistic => {
                // How many datagrams the answers leave in it does not look for: it tries one for each message, for two, .. 128.
                let asked = *messages - FIRST_MESSAGE;
                let sent = asked >> (asked % 8);
                let ahead = asked + OPTIMISTIC_GRANT;
                let grant = GrantFrame {
                    packets: engine.packet_number + ahead,
                    messages: engine.messages + ahead,
                    chunked: engine.chunked + ahead,
                    lease_us: u32::MAX,
                };
                let range = (engine.packet_number, engine.packet_number + sent);
                crafted(datagram, header, |writer| {
                    writer.ack(0, [range], None)
                        && writer.grant(&grant)
                        && writer.plain_message(*messages as u32, ASKS)
                });
                *messages += 1;
            }
            _ => {
                let seq = *messages as u32;
                crafted(datagram, header, |writer| writer.plain_message(seq, b"\xff again"));
                return;
            }
        }
        header.packet_number += 1;
        *chunked += 1;
    }
}

fn chunk(seq: u64, offset: u32, total: u32) -> ChunkFrame<'static> {
    let extensions = Extensions::default();
    ChunkFrame { space: Space::Chunked, seq: seq as u32, offset, total, extensions, bytes: &UNIT }
}

/// Says it until something comes back in which `look` finds what it wants; counts how often.
fn ask<T>(
    asked: &mut u64,
    socket: &UdpSocket,
    engine: SocketAddr,
    datagram: &[u8],
    mut look: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut buffer = [0; 2_048];
    for _ in 0..TRIES {
        socket.send_to(datagram, engine)?;
        *asked += 1;
        // What came before it was asked may be many datagrams; a silence ends the try.
        while let Ok((bytes, _)) = socket.recv_from(&mut buffer) {
            if let Some(found) = look(&buffer[..bytes]) {
                return Ok(found);
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the engine does not answer"))
}
