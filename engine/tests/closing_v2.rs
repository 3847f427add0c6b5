//! An engine of the binary wire that stops says so: its peers know at once what it took, and its port is free.
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
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::v1_watcher::V1Watcher;
use support::v2_peer::{Packet, V2Peer};
use support::{
    HANG, LONG_HANG, Setup, alone, each_driver, each_driver_and_wire, guarded, next, nobody, small, start_at,
    turned, until, wait, wait_within,
};
use udp_plus::internals::binary::{ChunkFrame, Extensions, Frame, ResultCode, Space};
use udp_plus::{
    Actor, Context, DeliveryError, DriverChoice, Engine, FailureCause, MessageRef, Outgoing, Reached,
    Refusal, Verdict, Wire,
};

/// What no text is.
const NOT_TEXT: &[u8] = b"\xff\xfe\x00\xd2";
const CLOSING: FailureCause = FailureCause::Refused(Refusal::Closing);
/// How long an engine remembers that a peer said CLOSE.
const CLOSING_FOR: Duration = Duration::from_millis(500);

each_driver! {
    a_dropped_engine_tells_its_peers_what_it_took,
    a_v1_peer_that_takes_the_port_of_an_engine_that_said_so_gets_no_binary_byte,
    an_engine_dropped_by_its_own_actor_waits_for_nobody,
    what_an_actor_panics_at_is_not_acknowledged,
    an_actor_that_does_not_return_does_not_hold_a_drop_for_ever,
}

each_driver_and_wire! {
    the_port_is_free_when_a_drop_or_a_shutdown_returns,
}

/// The receiver has room for a few; the others go again and again, until it is dropped, or shut down.
fn a_dropped_engine_tells_its_peers_what_it_took(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        for drains in [false, true] {
            let setup = Setup { driver, wire };
            let a = small(setup).start().unwrap();
            let b = alone(setup).recv_bucket_messages(8).start().unwrap();
            let (place, received) = (b.local_addr(), b.recv_bucket());
            let number = |n: u32| [NOT_TEXT, &n.to_le_bytes()].concat();
            let large = |n: u32| [NOT_TEXT, &n.to_le_bytes(), &vec![7; 30_000][..]].concat();
            // Few of the large ones: more would not be sent before there is room.
            let payloads = (0..60).map(|n| if n % 20 == 7 { large(n) } else { number(n) });
            let deliveries: Vec<_> = payloads
                .map(|payload| a.send_bucket().try_put(Outgoing::to(place, payload)).unwrap())
                .collect();
            until("the bucket is full", || received.len() == 8);
            until("it has refused some", || b.stats().total.dropped(udp_plus::DropReason::BucketFull) > 0);
            let closed = Instant::now();
            match drains {
                true => b.shutdown_blocking(HANG),
                false => drop(b),
            }
            // The port is free: whatever ends them now was told before.
            drop(UdpSocket::bind(place).unwrap());
            let mut taken = BTreeSet::new();
            while let Some(message) = received.try_get() {
                taken.insert(u32::from_le_bytes(message.payload()[4..8].try_into().unwrap()));
            }
            assert_eq!(taken.len(), 8);
            let mut never = 0;
            for (n, delivery) in (0..).zip(deliveries) {
                match wait(delivery) {
                    Ok(_) => assert!(taken.contains(&n), "{n} is said to be delivered"),
                    Err(DeliveryError { cause, reached }) => {
                        assert_eq!(cause, CLOSING, "{n}");
                        assert!(reached == Reached::Unknown || !taken.contains(&n), "{n} reached it");
                        never += u32::from(reached == Reached::Never);
                    }
                }
            }
            // With the last words came acknowledgements and results: nothing that was taken is in doubt.
            until("it is counted", || a.stats().total.closes_received == 1);
            assert_eq!(a.stats().total.messages_delivered, 8);
            assert!(never <= 52);
            let later = a.send_bucket().try_put(Outgoing::to(place, NOT_TEXT)).unwrap();
            // It is read by now: that was while it closed, unless this machine was slow.
            turned(&a);
            let closes = closed.elapsed() < CLOSING_FOR;
            let (outcome, never) = (wait_within(later, LONG_HANG), Reached::Never);
            assert!(
                outcome == Err(DeliveryError { cause: CLOSING, reached: never })
                    || !closes && outcome.is_err(),
                "{outcome:?}"
            );
            // Whoever comes to that address is met as a stranger.
            let reborn = start_at(place, || small(setup));
            until("it is talked to", || {
                wait(a.send_bucket().try_put(Outgoing::to(place, NOT_TEXT)).unwrap()).is_ok()
            });
            assert_eq!(next(&reborn.recv_bucket()).payload(), NOT_TEXT);
        }
    }
}

/// The permission to send it the binary wire is over with the CLOSE (R-DISC-3): not even what is put at once is sent so.
fn a_v1_peer_that_takes_the_port_of_an_engine_that_said_so_gets_no_binary_byte(driver: DriverChoice) {
    let setup = Setup { driver, wire: Wire::Auto };
    let (a, b) = (small(setup).start().unwrap(), alone(setup).start().unwrap());
    let place = b.local_addr();
    // Both ways: flows that either side opened.
    for (from, to) in [(&a, &b), (&b, &a)] {
        wait(from.send_bucket().try_put(Outgoing::to(to.local_addr(), NOT_TEXT)).unwrap()).unwrap();
        assert_eq!(next(&to.recv_bucket()).payload(), NOT_TEXT);
    }
    drop(b);
    let peer = V1Watcher::bind(place);
    until("it is told", || a.stats().total.closes_received > 0);
    let texts: Vec<_> = (0..20).map(|number| format!("row {number}")).collect();
    for text in &texts {
        until("it is taken for a v1 peer", || {
            wait(a.send_bucket().try_put(Outgoing::to(place, text.clone())).unwrap()).is_ok()
        });
    }
    let watched = peer.watched();
    assert!(texts.iter().all(|text| watched.texts.contains(text)));
    assert_eq!(watched.binary(), 0);
}

fn the_port_is_free_when_a_drop_or_a_shutdown_returns(setup: Setup) {
    let peer = small(setup).start().unwrap();
    let bind = |place| drop(UdpSocket::bind(place).unwrap());
    let mut place = nobody();
    for round in 0..12 {
        let engine = small(setup).shards(1 + round % 2).bind(place.to_string()).start().unwrap();
        let to = Outgoing::to(peer.local_addr(), format!("round {round}"));
        wait(engine.send_bucket().try_put(to).unwrap()).unwrap();
        match round % 3 {
            0 => drop(engine),
            1 => {
                engine.shutdown_blocking(HANG);
                bind(place);
                let stats = engine.stats();
                assert_eq!((stats.kernel_drops, stats.total.messages_delivered), (Some(0), 1));
                assert!(engine.rcvbuf_bytes() > 0);
            }
            _ => {
                wait(engine.shutdown(HANG));
                bind(place);
            }
        }
        bind(place);
        if round == 6 {
            place = nobody();
        }
    }
}

/// Owns the engine it runs in, and lets go of it when it gets a message.
struct Owner(Arc<Mutex<Option<Engine>>>);

impl Actor for Owner {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        let engine = self.0.lock().unwrap().take();
        if let Some(engine) = &engine {
            // It would wait for itself.
            engine.shutdown_blocking(Duration::from_secs(60));
        }
        drop(engine);
        Verdict::Accept
    }
}

fn an_engine_dropped_by_its_own_actor_waits_for_nobody(driver: DriverChoice) {
    for shards in [1, 2] {
        let setup = Setup { driver, wire: Wire::Binary };
        let owner = Arc::new(Mutex::new(None));
        let engine = {
            let owner = Arc::clone(&owner);
            alone(setup).shards(shards).actor(move |_| Owner(Arc::clone(&owner))).start().unwrap()
        };
        let place = engine.local_addr();
        *owner.lock().unwrap() = Some(engine);
        let sender = small(setup).start().unwrap();
        let delivery = sender.send_bucket().try_put(Outgoing::to(place, "the last one")).unwrap();
        // Its last words acknowledge what its actor took.
        wait(delivery).unwrap();
        until("the port is free", || UdpSocket::bind(place).is_ok());
        assert!(owner.lock().unwrap().is_none());
        until("it is counted", || sender.stats().total.closes_received == 1);
    }
}

/// Panics at its third message.
struct Panics(u32);

impl Actor for Panics {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        self.0 += 1;
        assert!(self.0 < 3, "the test's own panic");
        Verdict::Accept
    }
}

/// The last words of a shard that failed say how far messages came, and nothing about whether they were taken.
fn what_an_actor_panics_at_is_not_acknowledged(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        let setup = Setup { driver, wire };
        let (a, b) = (small(setup).start().unwrap(), alone(setup).actor(|_| Panics(0)).start().unwrap());
        let put = |n: u8| a.send_bucket().try_put(Outgoing::to(b.local_addr(), vec![0xff, n])).unwrap();
        (0..2).for_each(|n| _ = wait(put(n)).unwrap());
        let error = wait(put(2)).unwrap_err();
        assert_eq!(error, DeliveryError { cause: CLOSING, reached: Reached::Unknown });
        until("its thread has ended", || b.failure().is_some());
        let place = b.local_addr();
        drop(b);
        drop(UdpSocket::bind(place).unwrap());
    }
}

/// Waits inside its callback for as long as the test wants.
struct Blocks(Arc<std::sync::Barrier>);

impl Actor for Blocks {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        self.0.wait();
        self.0.wait();
        Verdict::Accept
    }
}

fn an_actor_that_does_not_return_does_not_hold_a_drop_for_ever(driver: DriverChoice) {
    let setup = Setup { driver, wire: Wire::Binary };
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let engine = {
        let barrier = Arc::clone(&barrier);
        alone(setup).actor(move |_| Blocks(Arc::clone(&barrier))).start().unwrap()
    };
    let place = engine.local_addr();
    let sender = small(setup).start().unwrap();
    let delivery = sender.send_bucket().try_put(Outgoing::to(place, NOT_TEXT)).unwrap();
    barrier.wait();
    drop(engine);
    assert!(UdpSocket::bind(place).is_err(), "it is still in its callback");
    barrier.wait();
    wait(delivery).unwrap();
    until("the port is free", || UdpSocket::bind(place).is_ok());
}

/// Both ways of a large message that is given up half way: the sender says so until it is heard.
#[test]
fn a_cancelled_message_is_cancelled_at_its_receiver() {
    guarded("a_cancelled_message_is_cancelled_at_its_receiver", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let engine = small(wire).start().unwrap();
            let mut peer = V2Peer::new(engine.local_addr());
            let outgoing = Outgoing::to(peer.address(), vec![0xAB; 60_000]);
            let delivery = engine.send_bucket().try_put(outgoing).unwrap();
            peer.accept();
            peer.wait_for("PING", |packet| {
                packet.frames().any(|f| matches!(f, Frame::Ping(_))).then_some(())
            });
            peer.acknowledge();
            let chunk = |packet: &Packet| {
                packet.frames().find_map(|frame| match frame {
                    Frame::Chunk(chunk) => Some(chunk.seq),
                    _ => None,
                })
            };
            let seq = peer.wait_for("a chunk", chunk);
            delivery.cancel();
            let cancelled = DeliveryError { cause: FailureCause::Cancelled, reached: Reached::Unknown };
            assert_eq!(wait(delivery), Err(cancelled));
            // Nobody acknowledges it: it comes again.
            for _ in 0..2 {
                let told = peer.wait_for("CANCEL", |packet| {
                    packet.frames().find_map(|frame| match frame {
                        Frame::Cancel(cancel) => Some(cancel.entries().collect::<Vec<_>>()),
                        _ => None,
                    })
                });
                assert!(matches!(told[..], [(Space::Chunked, told)] if told as u32 == seq), "{told:?}");
            }
            // The word that it was taken comes too late.
            let crossing = [(Space::Chunked, peer.engine_bases.chunked, ResultCode::Accepted)];
            peer.send(|writer| writer.results(&crossing));
            peer.acknowledge();
            let next = engine.send_bucket().try_put(Outgoing::to(peer.address(), NOT_TEXT)).unwrap();
            peer.wait_for("the next", |packet| (!packet.messages().is_empty()).then_some(()));
            peer.acknowledge();
            wait(next).unwrap();
            // Counters are published now and then.
            let counts = || {
                let total = engine.stats().total;
                (total.messages_accepted, total.messages_delivered)
            };
            until("both are counted", || counts() == (2, 1));
        }
    });
}

#[test]
fn a_cancel_frees_what_came_of_a_message_at_once() {
    const TOTAL: u32 = 1 << 20;
    guarded("a_cancel_frees_what_came_of_a_message_at_once", || {
        for wire in [Wire::Binary, Wire::Auto] {
            // Room for one of them.
            let engine = small(wire)
                .message_bytes_max(TOTAL)
                .partial_bytes_max(u64::from(TOTAL) * 3 / 2)
                .partial_bytes_per_peer_max(u64::from(TOTAL) * 3 / 2)
                .start()
                .unwrap();
            let mut peer = V2Peer::connect(engine.local_addr());
            let say = |peer: &mut V2Peer, seq: u32| {
                let bytes = [0xAB; 128];
                let extensions = Extensions::NONE;
                peer.send(|writer| {
                    writer.chunk(&ChunkFrame {
                        space: Space::Chunked,
                        seq,
                        offset: 0,
                        total: TOTAL,
                        extensions,
                        bytes: &bytes,
                    })
                });
            };
            let result = |peer: &mut V2Peer, seq: u64| {
                peer.wait_for("a result", |packet| {
                    packet.frames().find_map(|frame| match frame {
                        Frame::Result(result) => {
                            result.entries().find(|entry| entry.1 == seq).map(|entry| entry.2)
                        }
                        _ => None,
                    })
                })
            };
            say(&mut peer, 7);
            say(&mut peer, 8);
            assert_eq!(result(&mut peer, 8), ResultCode::Busy);
            // Of a message that is half there, and of one nothing of which has come.
            peer.send(|writer| {
                writer.cancels(&[(Space::Chunked, 7), (Space::Chunked, 9), (Space::Message, 5_000)])
            });
            until("it is forgotten", || engine.stats().total.partials_cancelled == 1);
            let full = engine.stats().total.dropped(udp_plus::DropReason::PartialsFull);
            say(&mut peer, 8);
            for late in [7, 9] {
                say(&mut peer, late);
                assert_eq!(result(&mut peer, u64::from(late)), ResultCode::Expired);
            }
            assert_eq!(engine.stats().total.dropped(udp_plus::DropReason::PartialsFull), full);
            peer.message = 5_000;
            peer.send_message(NOT_TEXT);
            assert_eq!(next(&engine.recv_bucket()).payload(), NOT_TEXT);
        }
    });
}

/// The deadline comes with the chunks; the time a partial message may rest does not matter then.
#[test]
fn a_partial_message_does_not_outlive_its_senders_deadline() {
    guarded("a_partial_message_does_not_outlive_its_senders_deadline", || {
        for wire in [Wire::Binary, Wire::Auto] {
            let patient = small(wire).partial_idle_max(Duration::from_secs(600));
            let engine = patient.dedup_horizon(Duration::from_secs(600)).start().unwrap();
            let mut peer = V2Peer::connect(engine.local_addr());
            let chunk = |seq, lifetime_ms| ChunkFrame {
                space: Space::Chunked,
                seq,
                offset: 0,
                total: 3_000,
                extensions: Extensions { lifetime_ms, ..Extensions::NONE },
                bytes: &[0xAB; 128],
            };
            peer.send(|writer| writer.chunk(&chunk(7, Some(100))));
            peer.send(|writer| writer.chunk(&chunk(8, None)));
            until("it has expired", || engine.stats().total.partials_expired == 1);
            let said = peer.wait_for("a result", |packet| {
                packet.frames().find_map(|frame| match frame {
                    Frame::Result(result) => Some(result.entries().collect::<Vec<_>>()),
                    _ => None,
                })
            });
            assert_eq!(said, [(Space::Chunked, 7, ResultCode::Expired)]);
            assert_eq!(engine.stats().total.partials_expired, 1);
        }
    });
}
