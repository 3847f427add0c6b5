//! A million messages between two engines, each delivered exactly once by the application's own book.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

mod kit;

use bytes::Bytes;
use kit::{Audit, LONG_GUARD, Outcomes, SinkActor, SourceActor, driver_works, engine, payload};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::{Builder, DriverChoice, Engine, Outgoing, Stats, Wire};

const MILLION: u64 = 1_000_000;

/// One load at a time: trains are judged at the speed of an engine that has the machine, not of three.
static MACHINE: Mutex<()> = Mutex::new(());

/// What is sent through what.
struct Load {
    driver: DriverChoice,
    wire: Wire,
    /// The source's, and the sink's.
    shards: (u16, u16),
    total: u64,
    bad_network: Option<RelayOptions>,
}

impl Load {
    const fn a_million(driver: DriverChoice) -> Self {
        Self { driver, wire: Wire::Csv, shards: (1, 1), total: MILLION, bad_network: None }
    }

    const fn on(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    fn source(&self) -> Builder {
        let builder = engine(self.driver).wire(self.wire).shards(self.shards.0);
        match self.bad_network {
            Some(_) => builder,
            // Toward a peer known to be an engine: as much as the receiver's socket buffer holds.
            None => builder.v1_window_bytes(2 << 20),
        }
    }

    fn sink(&self) -> Builder {
        engine(self.driver).wire(self.wire).shards(self.shards.1)
    }

    /// The network in front of the sink, if it is a bad one, and where to send to.
    fn network(&self, sink: &Engine) -> (Option<Relay>, SocketAddr) {
        let options = self.bad_network.clone();
        let relay =
            options.map(|options| Relay::start(RelayOptions { to: sink.local_addr(), ..options }).unwrap());
        let to = relay.as_ref().map_or(sink.local_addr(), Relay::address);
        (relay, to)
    }
}

/// In the shard on both sides: actors put, actors take.
fn actors(load: &Load) -> (Stats, Option<Relay>) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let total = load.total;
    let (audit, outcomes) = (Audit::new(total), Outcomes::new(total));
    let sink = load.sink().actor(|_| SinkActor(Arc::clone(&audit))).start().unwrap();
    let (relay, to) = load.network(&sink);
    let step = u64::from(load.shards.0);
    let source = |shard| SourceActor { to, next: shard as u64, step, total, outcomes: Arc::clone(&outcomes) };
    let source = load.source().actor(source).start().unwrap();
    outcomes.wait(LONG_GUARD);
    let stats = finish(&source, &sink);
    audit.assert_exactly_once();
    outcomes.assert_all_delivered();
    (stats, relay)
}

/// Through the buckets on both sides, in batches, from one application thread.
fn buckets(load: &Load) -> (Stats, Option<Relay>) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (audit, outcomes) = (Audit::new(load.total), Outcomes::new(load.total));
    let sink = load.sink().start().unwrap();
    let (relay, to) = load.network(&sink);
    let source = load.source().start().unwrap();
    run_buckets(&source, &sink, to, load.total, &audit, &outcomes);
    let stats = finish(&source, &sink);
    let mut late = Vec::new();
    sink.recv_bucket().get_batch(&mut late);
    late.iter().for_each(|message| audit.note(message.payload()));
    audit.assert_exactly_once();
    outcomes.assert_all_delivered();
    (stats, relay)
}

fn run_buckets(
    source: &Engine,
    sink: &Engine,
    to: SocketAddr,
    total: u64,
    audit: &Audit,
    outcomes: &Outcomes,
) {
    let (send, recv) = (source.send_bucket(), sink.recv_bucket());
    let (mut batch, mut ended, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 0;
    let mut fruitless = 0;
    while outcomes.count() < total || audit.distinct() < total {
        while batch.len() < 512 && next < total {
            batch.push(Outgoing::to(to, Bytes::copy_from_slice(&payload(next))).tag(next));
            next += 1;
        }
        let mut done = send.put_batch(&mut batch);
        done += recv.get_batch(&mut messages);
        done += send.outcome_batch(&mut ended);
        if done == 0 {
            // Outcomes may be ahead of messages: a confirm leaves before the bucket has the message.
            done = if outcomes.count() < total {
                send.blocking_outcome_batch(&mut ended, Duration::from_millis(10))
            } else {
                recv.blocking_get_batch(&mut messages, Duration::from_millis(10))
            };
            fruitless += 1;
        }
        messages.drain(..).for_each(|message| audit.note(message.payload()));
        ended.drain(..).for_each(|(tag, outcome)| outcomes.note(tag, &outcome));
        fruitless = if done > 0 { 0 } else { fruitless };
        assert!(fruitless < 1_000, "hang: {} outcomes, {} messages", outcomes.count(), audit.distinct());
    }
}

/// Lets everything under way arrive, stops both, and returns the source's counters.
fn finish(source: &Engine, sink: &Engine) -> Stats {
    let sunk = sink.stats();
    let drops: Vec<_> = sunk.total.iter().filter(|row| row.0.starts_with("dropped") && row.1 > 0).collect();
    eprintln!("sink: kernel drops {:?}, {drops:?}", sunk.kernel_drops);
    source.shutdown_blocking(kit::GUARD);
    sink.shutdown_blocking(kit::GUARD);
    assert_eq!((source.failure(), sink.failure()), (None, None));
    let (sent, sunk) = (source.stats(), sink.stats());
    assert_eq!((sent.total.misrouted, sunk.total.misrouted), (0, 0));
    // One flow of the binary wire has one route.
    if sent.shards.len() == 1 && sent.total.rows_sent >= sent.total.messages_delivered {
        assert!(
            sunk.shards.iter().all(|shard| shard.messages_received > 0),
            "a shard of the sink took nothing"
        );
    }
    sent
}

fn assert_long_trains(stats: &Stats) {
    let (rows, trains) = (stats.total.datagrams_sent, stats.total.trains_sent);
    eprintln!(
        "{rows} rows in {trains} trains: {} a train; {} rows repeated",
        rows / trains.max(1),
        stats.total.rows_retransmitted
    );
    assert!(rows >= 32 * trains, "only {} rows a train ({rows} / {trains})", rows as f64 / trains as f64);
}

fn bad_network(seed: u64) -> RelayOptions {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    RelayOptions { seed, loss: 0.03, duplicate: 0.03, reorder: 0.03, ..RelayOptions::clean(nowhere) }
}

fn assert_bad(relay: Option<Relay>, stats: &Stats) {
    let log = relay.unwrap().stop();
    eprintln!("to server {:?}, to client {:?}", log.to_server, log.to_client);
    for counts in [log.to_server, log.to_client] {
        assert!(counts.dropped > 0 && counts.duplicated > 0 && counts.reordered > 0, "{counts:?}");
    }
    assert!(stats.total.rows_retransmitted > 0);
}

#[test]
fn a_million_in_the_shard_uring() {
    if driver_works(DriverChoice::Uring) {
        assert_long_trains(&actors(&Load::a_million(DriverChoice::Uring)).0);
    }
}

#[test]
fn a_million_in_the_shard_mmsg() {
    assert_long_trains(&actors(&Load::a_million(DriverChoice::Mmsg)).0);
}

#[test]
fn a_million_through_the_buckets_uring() {
    if driver_works(DriverChoice::Uring) {
        assert_long_trains(&buckets(&Load::a_million(DriverChoice::Uring)).0);
    }
}

#[test]
fn a_million_through_the_buckets_mmsg() {
    assert_long_trains(&buckets(&Load::a_million(DriverChoice::Mmsg)).0);
}

/// Many messages share a datagram on the binary wire.
fn assert_packed(stats: &Stats) {
    let (datagrams, messages) = (stats.total.datagrams_sent, stats.total.messages_delivered);
    eprintln!("{messages} messages in {datagrams} datagrams, {} again", stats.total.rows_retransmitted);
    assert!(messages >= 8 * datagrams, "{messages} messages in {datagrams} datagrams");
}

#[test]
fn a_million_in_the_shard_binary_uring() {
    if driver_works(DriverChoice::Uring) {
        assert_packed(&actors(&Load::a_million(DriverChoice::Uring).on(Wire::Binary)).0);
    }
}

#[test]
fn a_million_in_the_shard_binary_mmsg() {
    assert_packed(&actors(&Load::a_million(DriverChoice::Mmsg).on(Wire::Binary)).0);
}

#[test]
fn a_million_through_the_buckets_auto() {
    assert_packed(&buckets(&Load::a_million(DriverChoice::Auto).on(Wire::Auto)).0);
}

/// Every way in and out. One address has one home shard, which takes routes of its own alone: so the rows of two shards
/// reach one of the sink's two, the rows of one reach both.
fn bad_networks(driver: DriverChoice, wire: Wire) {
    for (seed, shards) in [(1, 1), (1, 2), (2, 2)].into_iter().enumerate() {
        // A datagram of the binary wire carries as much as twenty rows: enough of them for every fault to happen.
        let total = if wire == Wire::Csv { MILLION / 40 } else { MILLION / 10 };
        let load = Load { driver, wire, shards, total, bad_network: Some(bad_network(1 + seed as u64)) };
        for (name, (stats, relay)) in [("actors", actors(&load)), ("buckets", buckets(&load))] {
            eprintln!("{driver:?}, {wire:?}, {name}, (source, sink) shards {shards:?}");
            assert_bad(relay, &stats);
        }
    }
}

#[test]
fn bad_networks_uring() {
    if driver_works(DriverChoice::Uring) {
        bad_networks(DriverChoice::Uring, Wire::Csv);
    }
}

#[test]
fn bad_networks_mmsg() {
    bad_networks(DriverChoice::Mmsg, Wire::Csv);
}

#[test]
fn bad_networks_binary_uring() {
    if driver_works(DriverChoice::Uring) {
        bad_networks(DriverChoice::Uring, Wire::Binary);
    }
}

#[test]
fn bad_networks_binary_mmsg() {
    bad_networks(DriverChoice::Mmsg, Wire::Binary);
}
