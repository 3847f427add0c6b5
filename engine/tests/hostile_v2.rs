//! Datagrams of the binary wire, and rows about it, that nobody honest sends: they gain nothing, and honest traffic goes on.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use support::tap::Tap;
use support::v2_peer::{HELLO_BYTES, Packet, V2Peer, answer, crafted, settle};
use support::{
    LONG_HANG, alone, each_driver, guarded, is_probe, next, own_host, plain_socket, receive, small, turned,
    until, wait, wait_within,
};
use udp_plus::internals::binary::{
    self, CloseFrame, Frame, GrantFrame, LowFrame, PingFrame, ResultCode, Space,
};
use udp_plus::internals::csv::{Discovery, DiscoveryKind, decode_discovery};
use udp_plus::{
    Delivery, DeliveryError, DriverChoice, DropReason, Engine, FailureCause, Level, Outgoing, Reached,
    Refusal, Wire,
};

/// What no text is.
const NOT_TEXT: &[u8] = b"\xff\xfe\x00\xd2";
/// How long an engine remembers that a peer said CLOSE.
const CLOSING_FOR: Duration = Duration::from_millis(500);

fn start(wire: Wire) -> Engine {
    small(wire).start().unwrap()
}

fn dropped(engine: &Engine, reason: DropReason) -> u64 {
    engine.stats().total.dropped(reason)
}

fn expect_dropped(engine: &Engine, reason: DropReason, count: u64) {
    until(reason.label(), || dropped(engine, reason) >= count);
    assert_eq!(dropped(engine, reason), count, "{}", reason.label());
}

/// Something goes from one engine to another, and something comes back.
fn honest(a: &Engine, b: &Engine) {
    for (from, to) in [(a, b), (b, a)] {
        wait(from.send_bucket().try_put(Outgoing::to(to.local_addr(), NOT_TEXT)).unwrap()).unwrap();
        assert_eq!(next(&to.recv_bucket()).payload(), NOT_TEXT);
    }
}

/// Bytes that came, and whether a byte of the binary wire was among them.
fn sum(came: &[Vec<u8>]) -> (usize, bool) {
    (came.iter().map(Vec::len).sum(), came.iter().any(|bytes| bytes[0] >= 0x80))
}

#[test]
fn a_stranger_gets_no_binary_byte_and_no_more_than_he_sent() {
    guarded("a_stranger_gets_no_binary_byte", || {
        let (engine, peer) = (start(Wire::Auto), start(Wire::Auto));
        honest(&engine, &peer);
        let socket = plain_socket();
        for bytes in [0, 10, 21, 22, 23, 31, 100, 1_300] {
            let payload = vec![b'x'; bytes];
            // A tag nobody gave out, a first flight that is no HELLO, and a HELLO without a cookie or with a wrong one.
            let unknown = crafted(0, 1, 1, fastrand::u64(1..), |writer| writer.plain_message(1, &payload));
            let tagless = crafted(0, 1, 1, 0, |writer| writer.plain_message(1, &payload));
            let mut hellos = [None, Some(0), Some(fastrand::u64(..))].map(|cookie| {
                let mut stranger = V2Peer::new(engine.local_addr());
                stranger.cookie = cookie;
                stranger.hello(None)
            });
            hellos.iter_mut().for_each(|hello| {
                hello.resize(HELLO_BYTES + bytes, 0);
                binary::seal(hello);
            });
            for datagram in [unknown, tagless].iter().chain(&hellos) {
                socket.send_to(datagram, engine.local_addr()).unwrap();
                let came = settle(&socket, engine.local_addr());
                let (total, has_binary) = sum(&came);
                assert!(!has_binary, "{came:?}");
                assert!(total <= datagram.len(), "{total} bytes for {}", datagram.len());
                assert!(came.iter().all(|row| is_probe(row)) && came.len() <= 1, "{came:?}");
            }
        }
        expect_dropped(&engine, DropReason::BinaryUnknownTag, 8);
        expect_dropped(&engine, DropReason::BinaryUnproven, 8 * 4);
        honest(&engine, &peer);
    });
}

#[test]
fn toward_an_address_that_says_nothing_but_hello_no_more_leaves_than_came() {
    guarded("toward_an_address_that_says_nothing_but_hello", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let engine = start(wire);
            let mut stranger = V2Peer::new(engine.local_addr());
            let (mut out, mut back, mut answers) = (0, 0, 0);
            for bytes in [80, 100, 120, HELLO_BYTES - 1, HELLO_BYTES, HELLO_BYTES + 1, 300, 1_472] {
                for fresh in [true, false] {
                    let mut hello = stranger.hello(None);
                    if fresh {
                        stranger.tag += 1;
                    }
                    hello.resize(bytes, 0);
                    binary::seal(&mut hello);
                    out += hello.len();
                    stranger.socket.send_to(&hello, engine.local_addr()).unwrap();
                }
                let came = stranger.settle();
                answers += came.len();
                back += sum(&came).0;
                assert!(back <= out, "{wire:?}: {back} bytes for {out}");
            }
            assert!(answers > 0, "{wire:?}: nothing came back at all");
            // Nor later, of itself: past every timer of the handshake.
            std::thread::sleep(Duration::from_millis(700));
            back += sum(&stranger.settle()).0;
            assert!(back <= out, "{wire:?}: {back} bytes for {out}");
        }
    });
}

#[test]
fn a_tag_nobody_knows_is_answered_with_less_than_it_came_with() {
    guarded("a_tag_nobody_knows", || {
        let engine = start(Wire::Binary);
        let socket = plain_socket();
        let tag = fastrand::u64(1..);
        let ask = |datagram: Vec<u8>| {
            socket.send_to(&datagram, engine.local_addr()).unwrap();
            (datagram.len(), settle(&socket, engine.local_addr()))
        };
        let (sent, came) = ask(crafted(0, 1, 1, tag, |writer| writer.plain_message(1, b"somebody there?")));
        let [reset] = &came[..] else { panic!("{came:?}") };
        assert!(reset.len() < sent);
        let packet = Packet::decode(reset);
        assert_eq!(packet.header.tag, 0);
        assert!(packet.frames().eq([Frame::Reset { tag }]), "{packet:?}");
        // What asks for nothing gets nothing: two engines would talk about it for ever.
        type Say = fn(&mut binary::Writer<'_>) -> bool;
        let table: [Say; 6] = [
            |writer| writer.ack(0, [(1, 40)], None) && writer.low(&LowFrame { messages: 1, chunked: 1 }),
            |writer| writer.results(&[(Space::Message, 1, ResultCode::Accepted); 4]),
            |writer| writer.close(&CloseFrame { reason: 0, messages: 1, chunked: 1 }),
            |writer| writer.reset(77) && writer.reset(78),
            |writer| writer.pong(1) && writer.pong(2),
            // No longer than a RESET.
            |writer| writer.plain_message(1, b""),
        ];
        for (index, say) in table.into_iter().enumerate() {
            let (_, came) = ask(crafted(0, 1, 1, tag, say));
            assert!(came.is_empty(), "case {index}: {came:?}");
        }
        // RESETs for RESETs, whatever they name.
        for tag in [0, tag] {
            let (_, came) = ask(crafted(0, 1, 1, 0, |writer| writer.reset(tag) && writer.reset(tag)));
            assert!(came.is_empty(), "{came:?}");
        }
    });
}

/// An engine that asks, with a row, what this socket speaks.
fn asked(engine: &Engine, socket: &UdpSocket) -> (Delivery, Discovery) {
    let outgoing = Outgoing::to(socket.local_addr().unwrap(), NOT_TEXT);
    let delivery = engine.send_bucket().try_put(outgoing).unwrap();
    let mut buffer = [0; 2_048];
    let (bytes, _) = receive(socket, &mut buffer);
    let row = decode_discovery(&buffer[..bytes]).expect("a probe");
    assert_eq!(row.kind, DiscoveryKind::Probe);
    (delivery, row)
}

#[test]
fn a_forged_answer_changes_nothing() {
    guarded("a_forged_answer_changes_nothing", || {
        let engine = start(Wire::Auto);
        let socket = plain_socket();
        let (_delivery, row) = asked(&engine, &socket);
        let stranger = plain_socket();
        let before = engine.stats().total.confirms_handled;
        let mut forged = 0;
        for round in 0..20_u64 {
            let wrong = Discovery { nonce: row.nonce ^ (1 << (round % 64)), ..row };
            socket.send_to(&answer(&wrong, 5), engine.local_addr()).unwrap();
            // The right nonce, which was sent to another address.
            stranger.send_to(&answer(&row, 5), engine.local_addr()).unwrap();
            forged += 2;
        }
        until("they are read", || engine.stats().total.confirms_handled >= before + forged);
        for socket in [&socket, &stranger] {
            let came = settle(socket, engine.local_addr());
            assert!(came.iter().all(|row| is_probe(row)), "{came:?}");
        }
        // The right one counts, and the cookie it brings comes back.
        socket.send_to(&answer(&row, 0x1234), engine.local_addr()).unwrap();
        let mut buffer = [0; 2_048];
        let hello = loop {
            let (bytes, _) = receive(&socket, &mut buffer);
            if !is_probe(&buffer[..bytes]) {
                break Packet::decode(&buffer[..bytes]);
            }
        };
        assert!(
            matches!(hello.frames().next(), Some(Frame::Hello(hello)) if hello.cookie == Some(0x1234)),
            "{hello:?}"
        );
    });
}

#[test]
fn an_answer_is_never_answered() {
    guarded("an_answer_is_never_answered", || {
        let (a, b) = (start(Wire::Auto), start(Wire::Binary));
        let csv = start(Wire::Csv);
        let socket = plain_socket();
        let (_delivery, row) = asked(&a, &socket);
        let sent = |engine: &Engine| engine.stats().total.datagrams_sent;
        for engine in [&a, &b, &csv] {
            until("rest", || {
                let before = sent(engine);
                std::thread::sleep(Duration::from_millis(5));
                sent(engine) == before
            });
            let (before, received) = (sent(engine), engine.stats().total.datagrams_received);
            let stranger = plain_socket();
            let nonces = [row.nonce ^ 1, 0, u64::MAX, fastrand::u64(..)];
            for nonce in nonces {
                stranger
                    .send_to(&answer(&Discovery { nonce, ..row }, fastrand::u64(..)), engine.local_addr())
                    .unwrap();
            }
            // Its own answer sent back to it, as another engine's would come if it were answered.
            until("they are read", || {
                engine.stats().total.datagrams_received >= received + nonces.len() as u64
            });
            stranger.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let mut buffer = [0; 100];
            assert!(stranger.recv(&mut buffer).is_err(), "{:?}", &buffer[..]);
            // The probes of `a` to the first socket go on; nothing else.
            assert!(sent(engine) <= before + 3);
        }
    });
}

/// An engine that has a flow to a peer of ours and a message on its way to it, not acknowledged yet.
fn under_way(wire: Wire) -> (Engine, V2Peer, Delivery, u32) {
    let engine = small(wire).try_span_max(Duration::from_secs(8)).start().unwrap();
    let mut peer = V2Peer::new(engine.local_addr());
    let delivery = engine.send_bucket().try_put(Outgoing::to(peer.address(), NOT_TEXT)).unwrap();
    peer.accept();
    let seq = peer.wait_for("the message", |packet| {
        packet.messages().into_iter().find(|(_, payload)| payload == NOT_TEXT).map(|(seq, _)| seq)
    });
    (engine, peer, delivery, seq)
}

fn assert_under_way(engine: &Engine) {
    let total = engine.stats().total;
    assert_eq!((total.messages_delivered, total.failed_total()), (0, 0), "still under way");
}

#[test]
fn what_is_forged_without_the_tag_harms_nobody() {
    guarded("what_is_forged_without_the_tag_harms_nobody", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let (engine, mut peer, delivery, seq) = under_way(wire);
            let stranger = plain_socket();
            let base = peer.engine_bases.packet_number;
            let (route, epoch) = (peer.route, peer.epoch);
            let say = |tag: u64, number: u64| {
                [
                    crafted(route, epoch, number, tag, |writer| {
                        writer.close(&CloseFrame { reason: 0, messages: 0, chunked: 0 })
                    }),
                    crafted(route, epoch, number, tag, |writer| writer.ack(0, [(base, base + 20)], None)),
                    crafted(route, epoch, number, tag, |writer| writer.reset(fastrand::u64(1..))),
                    crafted(route, epoch, number, tag, |writer| {
                        writer.results(&[(Space::Message, u64::from(seq), ResultCode::TooLarge)])
                    }),
                ]
            };
            // From anywhere, and from the right address: whoever can forge that does not see what comes back.
            let mut forged = 0;
            for tag in
                [0, 1, peer.peer_tag ^ 1, peer.peer_tag ^ (1 << 63), peer.peer_tag ^ (1 << 24), peer.tag]
            {
                for datagram in say(tag, 1_100) {
                    stranger.send_to(&datagram, engine.local_addr()).unwrap();
                    peer.socket.send_to(&datagram, engine.local_addr()).unwrap();
                    forged += 2;
                }
            }
            until("they are read", || {
                dropped(&engine, DropReason::BinaryUnknownTag) + dropped(&engine, DropReason::BinaryUnproven)
                    >= forged
            });
            settle(&stranger, engine.local_addr());
            assert_under_way(&engine);
            // The flow is the one it was.
            peer.acknowledge();
            wait(delivery).unwrap();
            let next = engine.send_bucket().try_put(Outgoing::to(peer.address(), "next")).unwrap();
            let tag = peer.tag;
            peer.wait_for("the next one", |packet| {
                assert_eq!(packet.header.tag, tag, "no new handshake");
                packet.messages().iter().any(|(_, payload)| payload == b"next").then_some(())
            });
            peer.acknowledge();
            wait(next).unwrap();
        }
    });
}

/// CLOSE counts under the tag alone; then it is obeyed once and never answered, whoever repeats it.
#[test]
fn a_close_counts_under_the_tag_alone() {
    guarded("a_close_counts_under_the_tag_alone", || {
        for wire in [Wire::Binary, Wire::Auto] {
            for taken in [true, false] {
                let (engine, mut peer, delivery, seq) = under_way(wire);
                let (from, to) = (peer.socket.try_clone().unwrap(), engine.local_addr());
                let stranger = plain_socket();
                let close =
                    CloseFrame { reason: 0, messages: u64::from(seq) - u64::from(!taken), chunked: 0 };
                let before = dropped(&engine, DropReason::BinaryUnknownTag);
                for bit in 0..64 {
                    let tag = peer.peer_tag ^ (1 << bit);
                    let number = peer.packet + bit;
                    let forged = crafted(peer.route, peer.epoch, number, tag, |writer| writer.close(&close));
                    stranger.send_to(&forged, to).unwrap();
                    from.send_to(&forged, to).unwrap();
                }
                // The right tag, and another start of the peer.
                let late = peer.packet;
                let forged = crafted(peer.route, peer.epoch ^ (1 << 20), late, peer.peer_tag, |writer| {
                    writer.close(&close)
                });
                from.send_to(&forged, to).unwrap();
                expect_dropped(&engine, DropReason::LateEpoch, 1);
                expect_dropped(&engine, DropReason::BinaryUnknownTag, before + 128);
                assert_under_way(&engine);
                assert_eq!(engine.stats().total.closes_received, 0);
                let closed = Instant::now();
                let said = peer.send(|writer| writer.close(&close));
                let error = wait(delivery).unwrap_err();
                assert_eq!(error.cause, FailureCause::Refused(Refusal::Closing));
                assert_eq!(error.reached, if taken { Reached::Unknown } else { Reached::Never });
                // Over and over: nothing more happens, and nobody says a word.
                let mut buffer = [0; 2_048];
                from.set_nonblocking(true).unwrap();
                while from.recv(&mut buffer).is_ok() {}
                from.set_nonblocking(false).unwrap();
                for _ in 0..10 {
                    from.send_to(&said, to).unwrap();
                    stranger.send_to(&said, to).unwrap();
                }
                expect_dropped(&engine, DropReason::BinaryUnknownTag, before + 128 + 20);
                assert_eq!(settle(&stranger, to), Vec::<Vec<u8>>::new());
                assert_eq!(peer.settle(), Vec::<Vec<u8>>::new());
                until("it is counted", || engine.stats().total.closes_received == 1);
                // Put while it closes: not a byte is sent.
                let put = engine.send_bucket().try_put(Outgoing::to(peer.address(), NOT_TEXT)).unwrap();
                // It is read by now: that was while it closed, unless this machine was slow.
                turned(&engine);
                let closes = closed.elapsed() < CLOSING_FOR;
                let never =
                    DeliveryError { cause: FailureCause::Refused(Refusal::Closing), reached: Reached::Never };
                match wait_within(put, LONG_HANG) {
                    Err(error) if error == never => assert_eq!(peer.settle(), Vec::<Vec<u8>>::new()),
                    other => assert!(!closes, "it closes for half a second: {other:?}"),
                }
            }
        }
    });
}

/// A receiver that says it has what it was never sent, to be sent more and faster.
#[test]
fn acknowledging_what_was_never_sent_delivers_nothing() {
    guarded("acknowledging_what_was_never_sent_delivers_nothing", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let (engine, mut peer, delivery, seq) = under_way(wire);
            let base = peer.engine_bases.packet_number;
            let largest = *peer.arrived.last().unwrap();
            // With and without what was sent among it; and results for operations that do not exist.
            for (low, high) in
                [(largest + 1_000, largest + 2_000), (base, largest + 50), (u64::MAX - 5, u64::MAX)]
            {
                peer.send(|writer| writer.ack(0, [(low.max(high - 60_000), high)], None));
            }
            let absent =
                [1, 2, 1_000].map(|more| (Space::Message, u64::from(seq) + more, ResultCode::TooLarge));
            peer.send(|writer| writer.results(&absent));
            let chunked = [(Space::Chunked, peer.engine_bases.chunked, ResultCode::Accepted)];
            peer.send(|writer| writer.results(&chunked));
            let data = 4_711;
            peer.send(|writer| writer.ping(&PingFrame { data, demand: 0 }));
            peer.wait_for("a PONG: the flow lives", |packet| {
                packet.frames().any(|frame| frame == Frame::Pong { data }).then_some(())
            });
            assert_under_way(&engine);
            peer.acknowledge();
            wait(delivery).unwrap();
            // A message of many datagrams, of which only those are acknowledged that came, ends when all of them have.
            let large = vec![0xAB; 60_000];
            let delivery = engine.send_bucket().try_put(Outgoing::to(peer.address(), large)).unwrap();
            let mut missing: BTreeSet<usize> = (0..60_000_usize.div_ceil(128)).collect();
            while !missing.is_empty() {
                let ahead = peer.next();
                for frame in ahead.frames() {
                    if let Frame::Chunk(chunk) = frame {
                        let units = chunk.bytes.len().div_ceil(128);
                        (0..units).for_each(|unit| _ = missing.remove(&(chunk.offset as usize / 128 + unit)));
                    }
                }
                let far = peer.arrived.last().unwrap() + 10_000;
                peer.send(|writer| writer.ack(0, [(far, far + 5)], None));
                assert!(engine.stats().total.messages_delivered <= 1, "not before all of it came");
                peer.acknowledge();
            }
            assert!(engine.stats().total.messages_delivered <= 1, "not before it is said");
            peer.send(|writer| writer.results(&chunked));
            wait(delivery).unwrap();
        }
    });
}

/// Whether it is of the chunked space, the operation's number, and which of its units of 128 bytes; of a MESSAGE there is one.
type Part = (bool, u32, u32);

/// Says that it has whatever was sent, discards half of it, and grants credit by steps.
#[derive(Debug)]
struct Optimist {
    peer: V2Peer,
    /// The highest number it has allowed.
    granted: u64,
    /// Of each part that came, whether it was read; one that was not never is.
    read: BTreeMap<Part, bool>,
    /// Datagrams that brought something new: small messages, and parts of large ones.
    fresh: [u64; 2],
    /// Datagrams that were not read, by their numbers; and the highest number that was acknowledged.
    unread: BTreeSet<u64>,
    acknowledged: u64,
    /// Steps whose credit was used up.
    used_up: u64,
    /// Datagrams without credit by R-CREDIT-4.
    unsolicited: u64,
    /// What the chunks of an operation consist of.
    large: BTreeMap<u32, u8>,
}

impl Optimist {
    /// Datagrams a step allows.
    const STEP: u64 = 16;
    /// As long as nothing came for this long, all is there that an engine sends by itself.
    const QUIET: Duration = Duration::from_millis(3);

    fn new(mut peer: V2Peer) -> Self {
        peer.accept();
        peer.socket.set_read_timeout(Some(Self::QUIET)).unwrap();
        Self {
            peer,
            granted: 0,
            read: BTreeMap::new(),
            fresh: [0; 2],
            unread: BTreeSet::new(),
            acknowledged: 0,
            used_up: 0,
            unsolicited: 0,
            large: BTreeMap::new(),
        }
    }

    fn largest(&self) -> u64 {
        *self.peer.arrived.last().unwrap()
    }

    /// Takes what came, says that it has everything, sees what that leads to, and then allows some more.
    fn step(&mut self) {
        self.take();
        self.acknowledge();
        // Now nothing is in flight, and all that is missing is credit.
        self.take();
        if self.granted == 0 || self.largest() >= self.granted {
            self.used_up += u64::from(self.granted > 0);
            self.granted = self.largest() + Self::STEP;
        }
        // Said again, it is another lease (R-CREDIT-2).
        let grant = GrantFrame { packets: self.granted, ..self.peer.grant() };
        self.peer.send(|writer| writer.grant(&grant));
    }

    /// All numbers from the first one to the highest seen.
    fn acknowledge(&mut self) {
        let all = (self.peer.engine_bases.packet_number, self.largest());
        self.acknowledged = all.1;
        self.peer.send(|writer| writer.ack(0, [all], None));
    }

    fn take(&mut self) {
        let (mut buffer, mut unsolicited) = ([0; 2_048], 0);
        loop {
            let bytes = match self.peer.socket.recv(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if buffer[0] >= 0x80 {
                let packet = Packet::decode(&buffer[..bytes]);
                self.peer.arrived.insert(packet.header.packet_number);
                unsolicited += u64::from(self.note(&packet));
            }
        }
        // It was in flight until it was acknowledged, which is after all this.
        assert!(unsolicited <= 1, "{unsolicited} datagrams without credit");
        self.unsolicited += unsolicited;
    }

    /// A datagram came; whether it left without credit, with something new.
    fn note(&mut self, packet: &Packet) -> bool {
        let parts = self.parts(packet);
        let is_fresh = parts.iter().any(|part| !self.read.contains_key(part));
        // Every second one, from the first on.
        let fresh = &mut self.fresh[usize::from(parts.iter().any(|part| part.0))];
        *fresh += u64::from(is_fresh);
        let discards =
            parts.iter().any(|part| self.read.get(part) == Some(&false)) || is_fresh && *fresh % 2 == 1;
        if discards {
            self.unread.insert(packet.header.packet_number);
        }
        parts.iter().for_each(|&part| _ = self.read.entry(part).or_insert(!discards));
        // A probe repeats what was sent (R-LOSS-4), and most frames need no credit (R-CREDIT-6).
        let without = is_fresh && packet.header.packet_number > self.granted;
        if without {
            assert!(packet.bytes.len() <= 190, "beyond {}: {packet:?}", self.granted);
            assert!(parts.iter().all(|part| !part.0), "a part of a message: {packet:?}");
        }
        without
    }

    fn parts(&mut self, packet: &Packet) -> Vec<Part> {
        let mut parts = Vec::new();
        for frame in packet.frames() {
            match frame {
                Frame::Message(message) => parts.push((false, message.seq, 0)),
                Frame::Chunk(chunk) => {
                    assert_eq!(chunk.space, Space::Chunked, "no message here is cut later");
                    let (first, count) = (chunk.offset / 128, chunk.bytes.len().div_ceil(128) as u32);
                    parts.extend((first..first + count).map(|unit| (true, chunk.seq, unit)));
                    self.large.insert(chunk.seq, chunk.bytes[0]);
                }
                _ => {}
            }
        }
        parts
    }

    /// Operations of a space of which something was discarded.
    fn lacking(&self, chunked: bool) -> BTreeSet<u32> {
        let lacking = self.read.iter().filter(|((space, ..), read)| *space == chunked && !**read);
        lacking.map(|((_, number, _), _)| *number).collect()
    }
}

/// Acknowledged is what was thrown away unread. Small messages are delivered, by their receiver's own word (R-OUTCOME-1); large
/// ones need another word (R-OUTCOME-3), and an acknowledgement is no credit.
#[test]
fn optimistic_acknowledgements_are_no_credit_and_deliver_nothing_large() {
    const SMALL: u64 = 160;
    const ALL: u64 = SMALL + 3;
    const ROOM: usize = 1 << 20;
    const NEVER: DeliveryError = DeliveryError { cause: FailureCause::Expired, reached: Reached::Never };
    guarded("optimistic_acknowledgements", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let sized = || small(wire).message_bytes_max(ROOM as u32).send_bytes_max(ROOM as u64);
            let (engine, honest) = (sized().start().unwrap(), sized().start().unwrap());
            let (send, peer) = (engine.send_bucket(), V2Peer::new(engine.local_addr()));
            let (place, received) = (peer.address(), honest.recv_bucket());
            let put_large = |deadline| {
                for tag in SMALL..ALL {
                    let payload = vec![tag as u8; 100_000];
                    let outgoing = Outgoing::to(place, payload).tag(tag).deadline(deadline);
                    assert_eq!(send.put_batch(&mut vec![outgoing]), 1);
                }
            };
            let mut deadline = Duration::from_secs(2);
            put_large(deadline);
            for tag in 0..SMALL {
                let payload = vec![0xff; if tag % 2 == 0 { 100 } else { 300 }];
                assert_eq!(send.put_batch(&mut vec![Outgoing::to(place, payload).tag(tag)]), 1);
            }
            let mut optimist = Optimist::new(peer);
            let (mut outcomes, mut ended) = (BTreeMap::new(), Vec::new());
            let (mut deliveries, mut came) = (Vec::new(), Vec::new());
            let end = Instant::now() + LONG_HANG;
            while outcomes.len() < ALL as usize {
                assert!(Instant::now() < end, "{} have ended", outcomes.len());
                optimist.step();
                let text = [NOT_TEXT, &deliveries.len().to_le_bytes()].concat();
                deliveries.push(send.try_put(Outgoing::to(honest.local_addr(), text)).unwrap());
                came.extend(std::iter::from_fn(|| received.try_get()));
                send.outcome_batch(&mut ended);
                for (tag, outcome) in ended.drain(..) {
                    assert!(outcomes.insert(tag, outcome).is_none(), "two outcomes for {tag}");
                }
                if (SMALL..ALL).all(|tag| outcomes.get(&tag) == Some(&Err(NEVER))) {
                    // This machine was so slow that they expired where they waited.
                    assert!(optimist.large.is_empty(), "some of it left");
                    (SMALL..ALL).for_each(|tag| _ = outcomes.remove(&tag));
                    deadline *= 4;
                    put_large(deadline);
                }
            }
            // What left last has come, too.
            optimist.step();
            // The cause: what was acknowledged was not read, and one grant was not enough.
            let [lacking, cut] = [false, true].map(|chunked| optimist.lacking(chunked));
            assert!(!lacking.is_empty() && !cut.is_empty(), "{optimist:?}");
            assert!(optimist.unread.range(..=optimist.acknowledged).next().is_some(), "{optimist:?}");
            assert!(optimist.used_up > 0 && optimist.fresh[0] > Optimist::STEP, "{optimist:?}");
            for (tag, outcome) in outcomes {
                let left = optimist.large.iter().find(|(_, byte)| u64::from(**byte) == tag);
                match outcome {
                    Ok(delivered) => assert!(tag < SMALL && delivered.level == Level::Accepted, "{tag}"),
                    Err(error) => {
                        assert!(tag >= SMALL && error.cause == FailureCause::Expired, "{tag}: {error}");
                        let reached = if left.is_some() { Reached::Unknown } else { Reached::Never };
                        assert_eq!(error.reached, reached, "{tag}");
                    }
                }
            }
            for delivery in deliveries.iter_mut() {
                wait(delivery).unwrap();
            }
            came.extend(std::iter::from_fn(|| received.try_get()));
            let texts = (0..deliveries.len()).map(|number| [NOT_TEXT, &number.to_le_bytes()].concat());
            assert!(came.iter().map(|message| message.payload().to_vec()).eq(texts), "{} came", came.len());
            // Nothing is held: all of the room is there again.
            let whole = Outgoing::to(honest.local_addr(), vec![0xff; ROOM]);
            wait(send.try_put(whole).unwrap()).unwrap();
            assert_eq!(next(&received).payload().len(), ROOM);
            for engine in [&engine, &honest] {
                turned(engine);
                let ledger = engine.ledger();
                assert_eq!((ledger.residual(), ledger.row("messages_put", "open")), (0, 0), "{ledger}");
                assert_eq!(engine.failure(), None);
            }
            let total = engine.stats().total;
            assert_eq!(
                total.dropped(DropReason::BinaryMalformed),
                0,
                "each acknowledgement counted: {total:?}"
            );
        }
    });
}

each_driver! {
    replayed_datagrams_are_delivered_no_second_time,
}

fn replayed_datagrams_are_delivered_no_second_time(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        let setup = support::Setup { driver, wire };
        let (a, b) = (small(setup).start().unwrap(), alone(setup).start().unwrap());
        let tap = Tap::start(b.local_addr());
        let put = |payload: Vec<u8>| {
            wait(a.send_bucket().try_put(Outgoing::to(tap.address(), payload)).unwrap()).unwrap();
        };
        let mut total = 0;
        for number in 0..40_u8 {
            put(vec![0xf0 | (number % 16), number]);
            total += 1;
        }
        put(vec![0xff; 50_000]);
        total += 1;
        let bucket = b.recv_bucket();
        let mut messages: Vec<_> = (0..total).map(|_| next(&bucket)).collect();
        let captured: Vec<Vec<u8>> = tap
            .passed()
            .into_iter()
            .filter(|one| one.to_server && one.is_binary())
            .map(|one| one.bytes)
            .collect();
        assert!(captured.len() > 40);
        // From the address they came from, and from another, in order and backward.
        let stranger = plain_socket();
        let again = captured.iter().chain(captured.iter().rev());
        let handled = b.stats().total.dropped_total();
        for datagram in again.clone() {
            tap.send_to_server(datagram);
            stranger.send_to(datagram, b.local_addr()).unwrap();
        }
        until("they are looked at", || {
            b.stats().total.dropped_total() >= handled + 2 * captured.len() as u64
        });
        assert!(dropped(&b, DropReason::BinaryDuplicate) > captured.len() as u64);
        put(b"\xff and on".to_vec());
        messages.push(next(&bucket));
        assert_eq!((bucket.len(), messages.last().unwrap().payload().as_ref()), (0, &b"\xff and on"[..]));
        // To the next start of the engine they mean nothing.
        let place = b.local_addr();
        drop(b);
        let reborn = support::start_at(place, || small(setup));
        for datagram in again {
            stranger.send_to(datagram, place).unwrap();
        }
        until("they are looked at", || reborn.stats().total.datagrams_received >= 2 * captured.len() as u64);
        settle(&stranger, place);
        assert_eq!(reborn.stats().total.messages_received, 0);
        assert!(dropped(&reborn, DropReason::BinaryUnknownTag) > captured.len() as u64);
        assert!(reborn.recv_bucket().is_empty());
    }
}

/// Everything that is wrong with a datagram has its counter, and no effect.
#[test]
fn garbage_is_counted_by_cause() {
    guarded("garbage_is_counted_by_cause", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let engine = start(wire);
            let mut peer = V2Peer::connect(engine.local_addr());
            let sound = peer.datagram(|writer| writer.plain_message(5_000, b"\xff sound"));
            let seal = |mut bytes: Vec<u8>| {
                binary::seal(&mut bytes);
                bytes
            };
            let with = |at: usize, value: u8| {
                let mut bytes = sound.clone();
                bytes[at] = value;
                seal(bytes)
            };
            let flipped = |at: usize| {
                let mut bytes = sound.clone();
                bytes[at] ^= 0x10;
                bytes
            };
            let frames = |frames: &[u8]| seal([&sound[..28], frames].concat());
            let table: Vec<(DropReason, Vec<Vec<u8>>)> = vec![
                (DropReason::BinaryTruncated, (1..28).map(|bytes| sound[..bytes].to_vec()).collect()),
                (
                    DropReason::BinaryVersion,
                    (0x80..=0xff).filter(|&b| b != 0xd2).map(|b| with(0, b)).collect(),
                ),
                (
                    DropReason::BinaryFlags,
                    vec![with(1, 0x08), with(1, 0x10), with(1, 0x80), with(3, 1), with(3, 0xff)],
                ),
                (DropReason::BinaryProtected, vec![with(1, 0x02), with(1, 0x04), with(1, 0x06)]),
                (DropReason::BinaryChecksum, (4..sound.len()).map(flipped).collect()),
                (
                    DropReason::BinaryMalformed,
                    vec![
                        frames(&[]),
                        frames(&[1]),
                        frames(&[1, 9]),
                        frames(&[1, 9, 0, 0]),
                        frames(&[0x0d, 0, 0]),
                        frames(&[0x7f, 0, 0]),
                        frames(&[3, 0, 0]),
                        frames(&[5, 0, 0]),
                        frames(&[7, 2, 0, 2, 8]),
                        // A sound message, and then nonsense: it counts whole or not at all.
                        frames(&[&sound[28..], &[0x7f, 0, 0]].concat()),
                    ],
                ),
            ];
            for (reason, datagrams) in table {
                for datagram in &datagrams {
                    peer.socket.send_to(datagram, engine.local_addr()).unwrap();
                }
                expect_dropped(&engine, reason, datagrams.len() as u64);
            }
            // Every beginning of a sound datagram, its checksum made right again.
            let before = dropped(&engine, DropReason::BinaryMalformed);
            for bytes in 28..sound.len() {
                peer.socket.send_to(&seal(sound[..bytes].to_vec()), engine.local_addr()).unwrap();
            }
            expect_dropped(&engine, DropReason::BinaryMalformed, before + (sound.len() - 28) as u64);
            assert!(peer.settle().is_empty(), "an answer to nonsense");
            assert_eq!(engine.stats().total.messages_received, 0);
            peer.socket.send_to(&sound, engine.local_addr()).unwrap();
            assert_eq!(next(&engine.recv_bucket()).payload().as_ref(), b"\xff sound");
            assert_eq!(engine.failure(), None);
        }
    });
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// Strangers who say HELLO and nothing more: what they cost is bounded, and who was there before does not notice.
#[test]
fn a_flood_of_hellos_stays_in_bounded_memory() {
    const NAME: &str = "a_flood_of_hellos_stays_in_bounded_memory";
    if std::env::var_os("KIT_CHILD").is_none() {
        // In a process of its own: its memory is measured.
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env("KIT_CHILD", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
        return;
    }
    guarded(NAME, || {
        for wire in [Wire::Binary, Wire::Auto] {
            let (engine, peer) = (start(wire), start(wire));
            honest(&engine, &peer);
            let before = resident_bytes();
            let mut stranger = V2Peer::new(engine.local_addr());
            let start = engine.stats().total.datagrams_received;
            let (mut out, mut back) = (0, 0);
            for number in 1..=5_000_u64 {
                stranger.tag += 1;
                let hello = stranger.hello(None);
                out += hello.len();
                stranger.socket.send_to(&hello, engine.local_addr()).unwrap();
                if number % 100 == 0 {
                    until("the flood is read", || engine.stats().total.datagrams_received >= start + number);
                    back += sum(&stranger.settle()).0;
                    honest(&engine, &peer);
                }
            }
            let refused = dropped(&engine, DropReason::BinaryUnproven);
            assert!(refused >= 2_000, "{refused} refused");
            assert!(back > 0 && back <= out, "{back} bytes for {out}");
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < 16 << 20, "{wire:?}: grown by {grown} bytes");
            assert_eq!((engine.failure(), peer.failure()), (None, None));
        }
    });
}

/// HELLOs from everywhere, and nobody there who says more: who is new gets in all the same.
#[test]
fn a_flood_of_hellos_from_many_addresses_keeps_nobody_out() {
    guarded("a_flood_of_hellos_from_many_addresses_keeps_nobody_out", || {
        for wire in [Wire::Binary, Wire::Auto] {
            // All on one host, which is nobody else's: they share what a host gets, and ports are given up here.
            let host = own_host();
            let start = |wire| small(wire).bind(format!("{host}:0")).start().unwrap();
            let engine = start(wire);
            let received = engine.stats().total.datagrams_received;
            for number in 1..=1_500 {
                // Each from a port of its own, which is free again at once.
                let mut stranger = V2Peer::on(host, engine.local_addr());
                stranger.say_hello();
                if number % 100 == 0 {
                    until("they are read", || engine.stats().total.datagrams_received >= received + number);
                }
            }
            assert!(dropped(&engine, DropReason::BinaryUnproven) > 1_000);
            let newcomer = start(wire);
            wait(newcomer.send_bucket().try_put(Outgoing::to(engine.local_addr(), NOT_TEXT)).unwrap())
                .unwrap();
            assert_eq!(next(&engine.recv_bucket()).payload(), NOT_TEXT);
            honest(&engine, &newcomer);
        }
    });
}

/// The flow of a peer moves only where the peer answers.
#[test]
fn a_datagram_repeated_from_elsewhere_does_not_move_the_flow() {
    guarded("a_datagram_repeated_from_elsewhere_does_not_move_the_flow", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let engine = start(wire);
            let mut peer = V2Peer::connect(engine.local_addr());
            let thief = plain_socket();
            // Held up on its way and sent on by another: it is new to the engine.
            let text = b"held up on its way and sent on by another";
            let held = peer.datagram(|writer| writer.plain_message(5_000, text));
            thief.send_to(&held, engine.local_addr()).unwrap();
            assert_eq!(next(&engine.recv_bucket()).payload().as_ref(), text);
            let came = settle(&thief, engine.local_addr());
            assert!(sum(&came).0 <= held.len(), "{came:?}");
            for bytes in &came {
                // Who may be an original v1 peer is asked with a row.
                if wire == Wire::Auto {
                    assert!(is_probe(bytes), "{bytes:?}");
                    continue;
                }
                let packet = Packet::decode(bytes);
                assert!(packet.messages().is_empty());
                assert!(
                    packet.frames().any(|frame| matches!(frame, Frame::Ping(_))),
                    "a question: {packet:?}"
                );
            }
            assert_eq!(came.len(), 1);
            let delivery = engine.send_bucket().try_put(Outgoing::to(peer.address(), NOT_TEXT)).unwrap();
            peer.wait_for("it still goes to the peer", |packet| {
                packet.messages().iter().any(|(_, payload)| payload == NOT_TEXT).then_some(())
            });
            peer.acknowledge();
            wait(delivery).unwrap();
            assert_eq!(settle(&thief, engine.local_addr()), Vec::<Vec<u8>>::new());
        }
    });
}
