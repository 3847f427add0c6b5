//! The ledger: on real sockets its sums hold at any time, and once both sides are quiet what one sent is what the other got, in
//! datagrams, in kernel packets, and by the kernel's own books.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use nix::sys::socket::{setsockopt, sockopt};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::hosts::Host;
use support::{Setup, each_driver, each_driver_and_wire, small, until, wait_within};
use udp_plus::{
    Actor, Context, DriverChoice, Engine, Ledger, MessageRef, Outgoing, SocketLedger, Verdict, Wire,
};

each_driver_and_wire! {
    loopback_adds_up,
    veth_adds_up,
}

each_driver! {
    a_dropped_train_is_one_packet,
    what_the_kernel_refuses_is_named,
    what_no_shard_took_any_more_is_in_the_books,
}

/// Messages of one datagram, and some of many.
const SIZES: [usize; 6] = [1, 64, 300, 1_000, 5_000, 60_000];

/// Sends messages of every size to and fro; everything arrives.
fn converse(engines: [&Engine; 2]) {
    let places = engines.map(Engine::local_addr);
    let mut deliveries = Vec::new();
    for round in 0..40 {
        for (from, to) in [(0, 1), (1, 0)] {
            let text = "x".repeat(SIZES[round % SIZES.len()]);
            deliveries.push(engines[from].send_bucket().try_put(Outgoing::to(places[to], text)).unwrap());
        }
    }
    let mut received = 0;
    until("all arrive", || {
        for engine in engines {
            while engine.recv_bucket().try_get().is_some() {
                received += 1;
            }
            assert_eq!(engine.ledger().residual(), 0, "busy: {}", engine.ledger());
        }
        received == deliveries.len()
    });
    for delivery in deliveries {
        wait_within(delivery, support::HANG).unwrap();
    }
}

fn packets(ledgers: &[Ledger; 2], of: impl Fn(&SocketLedger) -> u64) -> u64 {
    ledgers.iter().map(|ledger| of(&ledger.socket().unwrap())).sum()
}

/// Once nothing is under way, what was handed to the kernel at both ends has come out of it at both ends.
fn assert_quiet_books(engines: [&Engine; 2]) -> [Ledger; 2] {
    let row = |ledgers: &[Ledger; 2], sum: &str, part: &str| -> u64 {
        ledgers.iter().map(|ledger| ledger.row(sum, part)).sum()
    };
    let taken = |ledgers: &[Ledger; 2]| -> u64 {
        let of =
            |ledger: &Ledger| ledger.sums().iter().find(|sum| sum.name == "datagrams_taken").unwrap().total;
        // Those that came from another shard were taken out of a socket there.
        ledgers.iter().map(of).sum::<u64>() - row(ledgers, "datagrams_taken", "handed_to_other_shards")
    };
    let ledgers = || engines.map(Engine::ledger);
    until("both sides are quiet", || {
        let now = ledgers();
        row(&now, "datagrams_built", "handed_to_the_kernel") == taken(&now)
            && packets(&now, |socket| socket.receive_queue_bytes) == 0
            && row(&now, "messages_put", "delivered") == 80
    });
    let now = ledgers();
    assert_eq!(packets(&now, |socket| socket.packets_dropped), 0, "{now:?}");
    for ledger in &now {
        assert_eq!((ledger.residual(), ledger.row("messages_put", "open")), (0, 0), "{ledger}");
        let text = ledger.to_string();
        assert!(text.contains("residual") && text.contains("SO_MEMINFO"), "{text}");
    }
    now
}

fn loopback_adds_up(setup: Setup) {
    for shards in [1, 2] {
        let engines = [(); 2].map(|()| small(setup).shards(shards).start().unwrap());
        converse([&engines[0], &engines[1]]);
        assert_quiet_books([&engines[0], &engines[1]]);
        // The sockets are gone; what was known of them is not.
        let [one, _] = engines;
        one.shutdown_blocking(support::HANG);
        assert!(one.ledger().socket().unwrap().packets_received > 0);
    }
}

/// In namespaces of their own nobody else sends: the kernel's counters are the engines'.
fn veth_adds_up(setup: Setup) {
    let (Some(left), Some(right)) = (Host::new(), Host::new()) else { return };
    left.join(&right, ("veth0", "veth0"), ("10.78.0.1/24", "10.78.0.2/24"));
    let start = |host: &Host, address: &'static str| {
        host.run(move || small(setup).bind(format!("{address}:0")).start().unwrap())
    };
    let engines = [start(&left, "10.78.0.1"), start(&right, "10.78.0.2")];
    converse([&engines[0], &engines[1]]);
    let ledgers = assert_quiet_books([&engines[0], &engines[1]]);
    for ledger in &ledgers {
        let (socket, host) = (ledger.socket().unwrap(), ledger.host.unwrap());
        assert_eq!((host.in_errors, host.no_ports, host.sndbuf_errors), (0, 0, 0), "{ledger}");
        assert_eq!(host.in_datagrams, socket.packets_received, "{ledger}");
        assert_eq!(host.out_datagrams, socket.packets_sent, "{ledger}");
    }
    let datagrams: u64 = ledgers.iter().map(|l| l.row("datagrams_built", "handed_to_the_kernel")).sum();
    assert!(packets(&ledgers, |socket| socket.packets_sent) < datagrams, "no trains");
}

/// Does not return while it is told so.
struct Deaf(Arc<AtomicBool>);

impl Actor for Deaf {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }

    fn on_turn(&mut self, _: &mut Context<'_>) {
        while self.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }
}

/// Trains of ten datagrams to a socket that nobody reads: the kernel counts what it drops by trains, and so does the ledger.
fn a_dropped_train_is_one_packet(driver: DriverChoice) {
    let deaf = Arc::new(AtomicBool::new(true));
    let engine = small(driver)
        .rcvbuf_bytes(64 << 10)
        .actor({
            let deaf = Arc::clone(&deaf);
            move |_| Deaf(Arc::clone(&deaf))
        })
        .start()
        .unwrap();
    let sender = support::plain_socket();
    setsockopt(&sender, sockopt::UdpGsoSegment, &100).unwrap();
    let (trains, datagrams) = (200, 10);
    let send = |count: u64| {
        for _ in 0..count {
            assert_eq!(sender.send_to(&[b'x'; 1_000], engine.local_addr()).unwrap(), 1_000);
        }
    };
    send(trains);
    let socket = engine.ledger().socket().unwrap();
    let dropped = socket.packets_dropped;
    assert!((1..trains).contains(&dropped), "{socket:?}");
    assert!(socket.receive_queue_bytes > 0, "{socket:?}");
    deaf.store(false, Ordering::SeqCst);
    until("what is left is read", || engine.ledger().socket().unwrap().receive_queue_bytes == 0);
    // The next one tells of what was dropped before it.
    send(1);
    until("it is told", || engine.ledger().socket().unwrap().packets_dropped_told == dropped);
    until("all is counted", || {
        let ledger = engine.ledger();
        let socket = ledger.socket().unwrap();
        let taken = ledger.sums().iter().find(|sum| sum.name == "datagrams_taken").unwrap().total;
        socket.packets_received + socket.packets_dropped == trains + 1
            && taken == (trains + 1 - dropped) * datagrams
            && ledger.row("datagrams_taken", "dropped_bad_command") == taken
    });
}

fn what_the_kernel_refuses_is_named(driver: DriverChoice) {
    let Some(host) = Host::new() else { return };
    host.nft(
        "table inet test {
           counter refused { }
           chain out {
             type filter hook output priority 0; policy accept;
             udp dport 9 counter name refused drop
           }
         }",
    );
    let engine = host.run(move || small(driver).tries_max(2).start().unwrap());
    let deny: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let nowhere: SocketAddr = "203.0.113.9:9".parse().unwrap();
    for to in [deny, nowhere] {
        let delivery = engine.send_bucket().try_put(Outgoing::to(to, "x")).unwrap();
        wait_within(delivery, support::LONG_HANG).unwrap_err();
    }
    // An outcome may be known before its shard has published.
    until("it is in the books", || engine.ledger().row("messages_put", "failed_timed_out") == 2);
    let ledger = engine.ledger();
    assert_eq!(ledger.row("datagrams_built", "refused_eperm"), host.nft_counter("refused"), "{ledger}");
    assert!(ledger.row("datagrams_built", "refused_eperm") > 0, "{ledger}");
    assert!(ledger.row("datagrams_built", "refused_enetunreach") > 0, "{ledger}");
}

/// A shard that does not look into its mailbox any more; what was accepted for it is in the books nevertheless.
fn what_no_shard_took_any_more_is_in_the_books(driver: DriverChoice) {
    let deaf = Arc::new(AtomicBool::new(true));
    let engine = small(Setup { driver, wire: Wire::Binary })
        .actor({
            let deaf = Arc::clone(&deaf);
            move |_| Deaf(Arc::clone(&deaf))
        })
        .start()
        .unwrap();
    let silent = support::plain_socket();
    let put = |_| engine.send_bucket().try_put(Outgoing::to(silent.local_addr().unwrap(), "x")).unwrap();
    let deliveries: Vec<_> = (0..50).map(put).collect();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| engine.shutdown_blocking(std::time::Duration::ZERO));
        until("it stops", || {
            engine.send_bucket().try_put(Outgoing::to(silent.local_addr().unwrap(), "x")).is_err()
        });
        deaf.store(false, Ordering::SeqCst);
        stopping.join().unwrap();
    });
    for delivery in deliveries {
        wait_within(delivery, support::HANG).unwrap_err();
    }
    let ledger = engine.ledger();
    let put = ledger.sums().swap_remove(0);
    assert!(put.total >= 50 && put.part("failed_engine_stopped") == put.total, "{ledger}");
    assert_eq!(ledger.residual(), 0);
}
