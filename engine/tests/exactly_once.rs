//! A million messages between two engines, each delivered exactly once by the application's own book.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

mod kit;

use bytes::Bytes;
use kit::{Audit, LONG_GUARD, Outcomes, SinkActor, SourceActor, driver_works, engine, payload};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::{Builder, DriverChoice, Engine, Outgoing, Stats};

const MILLION: u64 = 1_000_000;

/// One load at a time: trains are judged at the speed of an engine that has the machine, not of three.
static MACHINE: Mutex<()> = Mutex::new(());

/// Toward a peer known to be an engine: as much as the receiver's socket buffer holds.
fn wide(builder: Builder) -> Builder {
    builder.v1_window_bytes(2 << 20)
}

/// In the shard on both sides: one actor puts, one takes.
fn actors(driver: DriverChoice, total: u64, relay: Option<RelayOptions>) -> (Stats, Option<Relay>) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (audit, outcomes) = (Audit::new(total), Outcomes::new(total));
    let sink = engine(driver).actor(|_| SinkActor(Arc::clone(&audit))).start().unwrap();
    let relay = relay.map(|options| Relay::start(RelayOptions { to: sink.local_addr(), ..options }).unwrap());
    let to = relay.as_ref().map_or(sink.local_addr(), Relay::address);
    let source = |_| SourceActor { to, next: 0, step: 1, total, outcomes: Arc::clone(&outcomes) };
    let builder = if relay.is_some() { engine(driver) } else { wide(engine(driver)) };
    let source = builder.actor(source).start().unwrap();
    outcomes.wait(LONG_GUARD);
    let stats = finish(&source, &sink);
    audit.assert_exactly_once();
    outcomes.assert_all_delivered();
    (stats, relay)
}

/// Through the buckets on both sides, in batches, from one application thread.
fn buckets(driver: DriverChoice, total: u64, relay: Option<RelayOptions>) -> (Stats, Option<Relay>) {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let (audit, outcomes) = (Audit::new(total), Outcomes::new(total));
    let sink = engine(driver).start().unwrap();
    let relay = relay.map(|options| Relay::start(RelayOptions { to: sink.local_addr(), ..options }).unwrap());
    let to = relay.as_ref().map_or(sink.local_addr(), Relay::address);
    let builder = if relay.is_some() { engine(driver) } else { wide(engine(driver)) };
    let source = builder.start().unwrap();
    run_buckets(&source, &sink, to, total, &audit, &outcomes);
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
    source.stats()
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
        assert_long_trains(&actors(DriverChoice::Uring, MILLION, None).0);
    }
}

#[test]
fn a_million_in_the_shard_mmsg() {
    assert_long_trains(&actors(DriverChoice::Mmsg, MILLION, None).0);
}

#[test]
fn a_million_through_the_buckets_uring() {
    if driver_works(DriverChoice::Uring) {
        assert_long_trains(&buckets(DriverChoice::Uring, MILLION, None).0);
    }
}

#[test]
fn a_million_through_the_buckets_mmsg() {
    assert_long_trains(&buckets(DriverChoice::Mmsg, MILLION, None).0);
}

#[test]
fn a_bad_network_and_actors_uring() {
    if driver_works(DriverChoice::Uring) {
        let (stats, relay) = actors(DriverChoice::Uring, MILLION / 10, Some(bad_network(1)));
        assert_bad(relay, &stats);
    }
}

#[test]
fn a_bad_network_and_buckets_mmsg() {
    let (stats, relay) = buckets(DriverChoice::Mmsg, MILLION / 10, Some(bad_network(2)));
    assert_bad(relay, &stats);
}
