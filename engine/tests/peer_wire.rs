//! The wire of single peers: one engine, one port, each peer in the wire that is ruled for it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::Sender;
use std::time::Duration;
use support::tap::{Passed, Tap};
use support::v2_peer::{V2Peer, answer, crafted, probe};
use support::{
    LONG_HANG, Setup, each_driver, guarded, mixed_text, next, receive, small, turned, until, wait_within,
};
use udp_plus::internals::binary::{CloseFrame, PingFrame};
use udp_plus::internals::csv::decode_discovery;
use udp_plus::{
    Actor, Builder, Context, DriverChoice, DropReason, Engine, MessageRef, Outcome, Outgoing, PeerMatch,
    Refusal, SubmitReason, Verdict, Wire,
};

/// What no text is.
const NOT_TEXT: &[u8] = b"\xff\xfe\x00\xd2";
const WIRES: [Wire; 3] = [Wire::Csv, Wire::Binary, Wire::Auto];

each_driver! {
    one_port_speaks_to_each_peer_as_ruled,
    an_actor_reaches_each_of_them,
    an_address_of_csv_gets_no_binary_byte_whatever_it_sends,
}

/// Engines that speak one wire each, in the order of [`WIRES`], each behind a tap.
struct Peers {
    engines: [Engine; 3],
    taps: [Tap; 3],
}

impl Peers {
    fn start(driver: DriverChoice) -> Self {
        let engines = WIRES.map(|wire| small(Setup { driver, wire }).start().unwrap());
        let taps = [0, 1, 2].map(|peer: usize| Tap::start(engines[peer].local_addr()));
        Self { engines, taps }
    }

    /// An engine of that wire, with a rule for each peer that needs one.
    fn rules(&self, driver: DriverChoice, default: Wire) -> Builder {
        // Nothing is lost on a tap, and what goes twice because it was late is confirmed twice.
        let mut builder = small(Setup { driver, wire: default }).rto_min(Duration::from_secs(1));
        for (peer, wire) in WIRES.into_iter().enumerate().filter(|(_, wire)| *wire != default) {
            for address in [self.engines[peer].local_addr(), self.taps[peer].address()] {
                builder = builder.peer_wire(address, wire);
            }
        }
        builder
    }

    /// What passed was in the peer's wire.
    fn judge(&self, what: &str) {
        for (tap, wire) in self.taps.iter().zip(WIRES) {
            let passed = tap.passed();
            let binary = passed.iter().filter(|datagram| datagram.is_binary()).count();
            let rows = passed.iter().filter(|datagram| datagram.is_data_row()).count();
            let asked = passed.iter().filter(|datagram| datagram.is_probe()).count();
            match wire {
                Wire::Csv => assert!(binary == 0 && asked == 0 && rows > 0, "{what}: {passed:?}"),
                Wire::Binary => assert_eq!((binary, rows, asked), (passed.len(), 0, 0), "{what}"),
                Wire::Auto => {
                    let first_binary = passed.iter().position(Passed::is_binary).unwrap();
                    let first_asked = passed.iter().position(Passed::is_probe).unwrap();
                    assert!(first_asked < first_binary, "{what}: {passed:?}");
                }
            }
        }
    }
}

fn put(engine: &Engine, to: SocketAddr, payload: &[u8]) -> Outcome {
    let outgoing = Outgoing::to(to, payload.to_vec());
    wait_within(engine.send_bucket().try_put(outgoing).unwrap(), LONG_HANG)
}

fn one_port_speaks_to_each_peer_as_ruled(driver: DriverChoice) {
    for default in WIRES {
        let peers = Peers::start(driver);
        let engine = peers.rules(driver, default).start().unwrap();
        for round in 0..3 {
            for ((tap, peer), wire) in peers.taps.iter().zip(&peers.engines).zip(WIRES) {
                for text in [format!("{default:?} {wire:?} {round}"), mixed_text(5_000, round)] {
                    put(&engine, tap.address(), text.as_bytes()).unwrap();
                    assert_eq!(next(&peer.recv_bucket()).text(), Some(&*text));
                }
                // The caller is told at once what that wire does not carry.
                let refused =
                    |outgoing: Outgoing| engine.send_bucket().try_put(outgoing).err().map(|it| it.reason);
                let meta = Outgoing::to(tap.address(), "text").meta(&b"meta"[..]);
                if wire == Wire::Csv {
                    assert_eq!(refused(Outgoing::to(tap.address(), NOT_TEXT)), Some(SubmitReason::NotText));
                    let needs_binary = SubmitReason::Refused(Refusal::MetadataNeedsBinary);
                    assert_eq!(refused(meta), Some(needs_binary));
                    continue;
                }
                put(&engine, tap.address(), NOT_TEXT).unwrap();
                assert_eq!(next(&peer.recv_bucket()).payload(), NOT_TEXT);
                wait_within(engine.send_bucket().try_put(meta).unwrap(), LONG_HANG).unwrap();
                assert_eq!(next(&peer.recv_bucket()).meta().map(|meta| &**meta), Some(&b"meta"[..]));
            }
        }
        peers.judge(&format!("{default:?}"));
        // And back, past the taps.
        for (peer, wire) in peers.engines.iter().zip(WIRES) {
            let payload = if wire == Wire::Csv { b"text" } else { NOT_TEXT };
            put(peer, engine.local_addr(), payload).unwrap();
            let message = next(&engine.recv_bucket());
            assert_eq!(
                (&**message.payload(), message.sender()),
                (payload, peer.local_addr()),
                "{default:?} {wire:?}"
            );
        }
        turned(&engine);
        let stats = engine.stats().total;
        let drops: Vec<_> = stats
            .iter()
            .filter(|row| row.0.starts_with("dropped") && !row.0.ends_with("duplicate") && row.1 > 0)
            .collect();
        assert_eq!(drops, [], "{default:?}");
    }
}

/// Puts by every way there is, to each peer in turn; says how each message ended.
struct Turns {
    to: Vec<SocketAddr>,
    next: u64,
    total: u64,
    outcomes: Sender<(u64, Outcome)>,
}

impl Actor for Turns {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        self.outcomes.send((tag, outcome)).unwrap();
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        while self.next < self.total {
            let to = self.to[(self.next / 6) as usize % self.to.len()];
            let text = text_of(self.next);
            // Two of each, so that the second finds the peer that was put to last.
            let put = match self.next % 6 / 2 {
                0 => context.put_copy(to, text.as_bytes(), self.next),
                1 => context
                    .put_with(to, text.len(), self.next, |space| space.copy_from_slice(text.as_bytes())),
                _ => context.put(Outgoing::to(to, text).tag(self.next)).map_err(|error| error.reason),
            };
            match put {
                Ok(()) => self.next += 1,
                Err(SubmitReason::Full) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn text_of(number: u64) -> String {
    format!("message {number:010}")
}

fn an_actor_reaches_each_of_them(driver: DriverChoice) {
    const TOTAL: u64 = 18 * 100;
    for (default, shards) in WIRES.into_iter().zip([1, 2, 1]) {
        let peers = Peers::start(driver);
        let (outcomes, ended) = std::sync::mpsc::channel();
        let to: Vec<SocketAddr> = peers.taps.iter().map(Tap::address).collect();
        let make = {
            let to = to.clone();
            move |shard| {
                let total = if shard == 0 { TOTAL } else { 0 };
                Turns { to: to.clone(), next: 0, total, outcomes: outcomes.clone() }
            }
        };
        let engine = peers.rules(driver, default).shards(shards).actor(make).start().unwrap();
        let mut tags: Vec<u64> = (0..TOTAL)
            .map(|_| {
                let (tag, outcome) = ended.recv_timeout(LONG_HANG).unwrap();
                assert!(outcome.is_ok(), "{default:?} {tag}: {outcome:?}");
                tag
            })
            .collect();
        tags.sort_unstable();
        assert!(tags.into_iter().eq(0..TOTAL), "each has one outcome");
        for (number, peer) in (0..).zip(&peers.engines) {
            let mut came = Vec::new();
            until("all have come", || {
                peer.recv_bucket().get_batch(&mut came);
                came.len() as u64 >= TOTAL / 3
            });
            let mut came: Vec<String> =
                came.iter().map(|message| message.text().unwrap().to_owned()).collect();
            came.sort_unstable();
            let sent = (0..TOTAL).filter(|message| message / 6 % 3 == number).map(text_of);
            assert!(came.into_iter().eq(sent), "others came than were sent");
        }
        peers.judge(&format!("{default:?}"));
        drop(engine);
    }
}

/// All that `engine` has to say to `socket` so far, behind a row that it confirms: it answers in the order things came.
fn said_to(socket: &UdpSocket, engine: &Engine, number: u64) -> Vec<Vec<u8>> {
    let id = format!("{number:032x}");
    socket.send_to(format!(",{id},1,0,YQ==,").as_bytes(), engine.local_addr()).unwrap();
    let (mut said, mut buffer) = (Vec::new(), [0; 2_048]);
    loop {
        let (bytes, _) = receive(socket, &mut buffer);
        let bytes = &buffer[..bytes];
        if bytes.starts_with(format!("1,{id}").as_bytes()) {
            assert_eq!(next(&engine.recv_bucket()).text(), Some("a"));
            return said;
        }
        said.push(bytes.to_vec());
    }
}

fn an_address_of_csv_gets_no_binary_byte_whatever_it_sends(driver: DriverChoice) {
    for default in [Wire::Auto, Wire::Binary] {
        // It knows the wire and has all of it: addresses, tags, and what an engine said to others.
        let mut ruled = V2Peer::new("127.0.0.1:1".parse().unwrap());
        // The most specific rule is what counts.
        let engine = small(Setup { driver, wire: default })
            .peer_wire("127.0.0.0/8".parse::<PeerMatch>().unwrap(), default)
            .peer_wire(ruled.address(), Wire::Csv)
            .start()
            .unwrap();
        ruled.engine = engine.local_addr();
        let dropped = |reason| {
            turned(&engine);
            engine.stats().total.dropped(reason)
        };
        let mut honest = V2Peer::connect(engine.local_addr());
        honest.send_message(NOT_TEXT);
        assert_eq!(next(&engine.recv_bucket()).payload(), NOT_TEXT);

        let stolen = honest.ask_cookie();
        let hellos = [None, Some(0), Some(stolen)].map(|cookie| {
            ruled.cookie = cookie;
            ruled.hello(None)
        });
        let ping = PingFrame { data: 7, demand: 0 };
        let (tag, epoch) = (honest.peer_tag, honest.epoch);
        let mut attacks = vec![
            crafted(0, 1, 1, 99, |writer| writer.ping(&ping)),
            crafted(0, 1, 1, 0, |writer| writer.reset(tag)),
            crafted(0, 1, 1, 0, |writer| writer.plain_message(1, b"no handshake")),
            // Under the tag of somebody else's flow, and sound: as the peer's own if he had moved.
            crafted(0, epoch, 90_000, tag, |writer| {
                writer.ping(&ping) && writer.plain_message(5_001, b"stolen")
            }),
            crafted(0, epoch, 90_001, tag, |writer| {
                writer.close(&CloseFrame { reason: 0, messages: 0, chunked: 0 })
            }),
            vec![0x80],
            vec![0xff; 1_400],
        ];
        attacks.extend(hellos);
        for (number, attack) in (1..).zip(&attacks) {
            ruled.socket.send_to(attack, engine.local_addr()).unwrap();
            assert_eq!(said_to(&ruled.socket, &engine, number), Vec::<Vec<u8>>::new(), "{attack:?}");
            assert_eq!(dropped(DropReason::BinaryWire), number, "{attack:?}");
        }
        // Rows of discovery are to it as to an engine of `csv`: confirms of something it never sent.
        let asked = probe(5);
        let answered = answer(&decode_discovery(&asked).unwrap(), 6);
        for (number, row) in (1..).zip([asked, answered]) {
            ruled.socket.send_to(&row, engine.local_addr()).unwrap();
            assert_eq!(said_to(&ruled.socket, &engine, 1_000 + number), Vec::<Vec<u8>>::new());
            assert_eq!(dropped(DropReason::UnknownConfirm), number);
        }
        // What we send to it is a row, and nothing was asked before it.
        let delivery = engine.send_bucket().try_put(Outgoing::to(ruled.address(), "a row")).unwrap();
        let mut buffer = [0; 2_048];
        let (bytes, _) = receive(&ruled.socket, &mut buffer);
        let row = std::str::from_utf8(&buffer[..bytes]).unwrap();
        let id = row.split(',').nth(1).unwrap();
        ruled.socket.send_to(format!("1,{id},,0,,").as_bytes(), engine.local_addr()).unwrap();
        wait_within(delivery, LONG_HANG).unwrap();
        assert_eq!(said_to(&ruled.socket, &engine, 2_000), Vec::<Vec<u8>>::new());
        let not_text = engine.send_bucket().try_put(Outgoing::to(ruled.address(), NOT_TEXT));
        assert_eq!(not_text.unwrap_err().reason, SubmitReason::NotText);
        // The flow whose tag was used is where it was.
        honest.send_message(b"still here");
        assert_eq!(next(&engine.recv_bucket()).text(), Some("still here"));
        let delivery = engine.send_bucket().try_put(Outgoing::to(honest.address(), NOT_TEXT)).unwrap();
        honest.wait_for("a message for the honest one", |packet| {
            packet.messages().iter().any(|(_, payload)| payload == NOT_TEXT).then_some(())
        });
        honest.acknowledge();
        wait_within(delivery, LONG_HANG).unwrap();
    }
}

/// IPv4 peers of a socket for both families go by the rules for IPv4, and those of IPv6 by theirs.
#[test]
fn rules_hold_on_a_socket_for_both_families() {
    guarded("rules_hold_on_a_socket_for_both_families", || {
        let Ok(engine) = small(Wire::Csv)
            .bind("[::]:0")
            .peer_wire("127.0.0.0/8".parse::<PeerMatch>().unwrap(), Wire::Binary)
            .start()
        else {
            return support::skip("no IPv6");
        };
        let port = engine.local_addr().port();
        let binary = |bind: &str| small(Wire::Binary).bind(bind).start().unwrap();
        let v4 = binary("127.0.0.1:0");
        put(&engine, v4.local_addr(), NOT_TEXT).unwrap();
        assert_eq!(next(&v4.recv_bucket()).payload(), NOT_TEXT);
        put(&v4, SocketAddr::from(([127, 0, 0, 1], port)), NOT_TEXT).unwrap();
        assert_eq!(next(&engine.recv_bucket()).payload(), NOT_TEXT);
        // No rule: rows, and HELLOs are not heard.
        let v6 = binary("[::1]:0");
        put(&engine, v6.local_addr(), b"text").unwrap();
        assert_eq!(next(&v6.recv_bucket()).text(), Some("text"));
        let engine_v6 = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
        let unheard = v6.send_bucket().try_put(Outgoing::to(engine_v6, NOT_TEXT)).unwrap();
        until("it was dropped", || engine.stats().total.dropped(DropReason::BinaryWire) > 0);
        drop(unheard);
    });
}
