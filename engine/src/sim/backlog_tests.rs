//! A shard that has more to read than one turn takes, in virtual time.

use super::exchange::shard;
use super::faults::Faults;
use super::network::{Network, SharedNetwork};
use crate::config::{Config, Preset, Wire};
use crate::error::{FailureCause, Refusal};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Verdict};
use crate::proto::congestion::Algorithm;
use crate::runtime::internals::{Actor, Context, lock};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Puts messages of so many bytes when it is told to.
struct Client(Arc<Mutex<Vec<(SocketAddr, usize)>>>);

impl Actor for Client {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        assert!(!matches!(outcome, Err(error) if error.cause != FailureCause::Refused(Refusal::Closing)));
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for (to, bytes) in lock(&self.0).drain(..) {
            context.put_copy(to, &vec![7; bytes], 1).unwrap();
        }
    }
}

fn network(faults: Faults) -> SharedNetwork {
    Rc::new(RefCell::new(Network::new(Seed::from_number(1).rng(10), faults)))
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 25_252))
}

/// What came alone is a quarter of a train.
#[test]
fn a_turn_reads_eight_trains_or_four_times_as_many_single_datagrams() {
    for (bytes, segment_bytes, count) in [(40, 40, 32), (80, 40, 8)] {
        let config = Config { shards: 1, wire: Wire::Binary, ..Config::preset(Preset::Small) };
        let faults = Faults { socket_trains_max: usize::MAX, ..Faults::default() };
        let network = network(faults);
        let (mut server, _) = shard(&config, &network, addr(1), Client(Arc::default()));
        (0..100).for_each(|_| network.borrow_mut().fly(addr(9), addr(1), &vec![0; bytes], segment_bytes));
        let now = network.borrow().now();
        network.borrow_mut().advance(now);
        server.turn();
        assert_eq!(server.counters().trains_received, count);
    }
}

/// Where some are missing, acknowledgements are not to be few: from the first gap on each datagram counts as a train.
#[test]
fn a_turn_ends_sooner_where_datagrams_are_missing() {
    for loss in [0, 200] {
        let config = Config { shards: 1, wire: Wire::Binary, ..Config::preset(Preset::Small) };
        let faults =
            Faults { delay_us: 50, split: 1_000, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = network(faults);
        let to_put = Arc::new(Mutex::new(vec![(addr(1), 1)]));
        let (mut client, shared) = shard(&config, &network, addr(2), Client(Arc::clone(&to_put)));
        let (mut server, _) = shard(&config, &network, addr(1), Client(Arc::default()));
        let advance = |us| {
            let now = network.borrow().now() + Duration::from_micros(us);
            network.borrow_mut().advance(now);
        };
        for _ in 0..200 {
            client.turn();
            server.turn();
            advance(50);
        }
        network.borrow_mut().set_faults(Faults { loss, ..faults });
        lock(&to_put).push((addr(1), 60_000));
        shared.wake_all();
        client.turn();
        advance(50);
        let (before, lost) = (server.counters().trains_received, network.borrow().counts.lost);
        server.turn();
        let read = server.counters().trains_received - before;
        assert!(
            if loss == 0 { read >= 20 && lost == 0 } else { (8..16).contains(&read) && lost >= 3 },
            "{read} {lost}"
        );
    }
}

/// Acknowledgements are handled before timers, also where they wait in the socket behind others: what is there is not probed
/// for. What is not is, though the socket never becomes empty.
#[test]
fn an_acknowledgement_that_waits_in_the_socket_is_heard_before_a_probe_leaves() {
    for (behind, comes) in [(9, true), (1_000, false)] {
        let config = Config { shards: 1, wire: Wire::Binary, ..Config::preset(Preset::Small) };
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = network(faults);
        let to_put = Arc::new(Mutex::new(vec![(addr(1), 1)]));
        let (mut client, _) = shard(&config, &network, addr(2), Client(Arc::clone(&to_put)));
        let (mut server, _) = shard(&config, &network, addr(1), Client(Arc::default()));
        let advance = |time| {
            let now = network.borrow().now() + time;
            network.borrow_mut().advance(now);
        };
        for _ in 0..200 {
            client.turn();
            server.turn();
            advance(Duration::from_micros(50));
        }
        assert_eq!(client.counters().messages_delivered, 1);
        lock(&to_put).push((addr(1), 1));
        // A turn's worth of what has nothing to do with it, for each turn.
        (0..32 * behind).for_each(|_| network.borrow_mut().fly(addr(9), addr(2), &[0; 40], 40));
        advance(Duration::from_micros(60));
        client.turn();
        if comes {
            advance(Duration::from_micros(60));
            server.turn();
        }
        for _ in 0..15 {
            client.turn();
            advance(Duration::from_millis(1));
        }
        let counters = client.counters();
        assert_eq!(
            (counters.messages_delivered, counters.rows_retransmitted == 0),
            (1 + u64::from(comes), comes)
        );
    }
}

/// ENOBUFS: tried again after a pause. Where nothing is left to be tried then, the shard sleeps.
#[test]
fn a_shard_sleeps_when_what_found_no_buffers_has_ended() {
    let config = Config { shards: 1, wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
    let network: SharedNetwork = Rc::new(RefCell::new(Network::new(Seed::from_number(1).rng(10), faults)));
    let to_put = Arc::new(Mutex::new(vec![(addr(1), 1)]));
    let (mut client, shared) = shard(&config, &network, addr(2), Client(Arc::clone(&to_put)));
    let (mut server, _) = shard(&config, &network, addr(1), Client(Arc::default()));
    let advance = |us| {
        let now = network.borrow().now() + Duration::from_micros(us);
        network.borrow_mut().advance(now);
    };
    for _ in 0..200 {
        client.turn();
        server.turn();
        advance(50);
    }
    network.borrow_mut().set_faults(Faults { no_buffers: 1_000, ..faults });
    lock(&to_put).push((addr(1), 1));
    shared.wake_all();
    client.turn();
    assert!(network.borrow().counts.no_buffers > 0);
    network.borrow_mut().set_faults(faults);
    // Its peer is gone before it is tried again.
    server.stop(false);
    advance(60);
    client.turn();
    assert_eq!(client.counters().closes_received, 1);
    advance(10_000);
    client.turn();
    let now = network.borrow().now();
    assert!(client.next_deadline().is_none_or(|at| at > now), "it never sleeps");
}

/// Answers two bytes with many messages, more than may leave; then it is its turn to put more.
struct Flood {
    puts: usize,
    /// How many it could put in bulk in the turn of those.
    in_bulk: Arc<Mutex<Option<usize>>>,
    to: Option<SocketAddr>,
}

impl Actor for Flood {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if message.payload.len() == 2 {
            (0..self.puts).for_each(|_| context.put_copy(message.sender, &[7; 64], 1).unwrap());
            self.to = Some(message.sender);
        }
        Verdict::Accept
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        if let Some(to) = self.to.take() {
            let puts = (0..500).take_while(|_| context.put_copy(to, &[8; 64], 2).is_ok()).count();
            *lock(&self.in_bulk) = Some(puts);
        }
    }
}

/// What answers have filled counts, though there is room behind the last of them.
#[test]
fn a_turn_that_answers_have_filled_is_full() {
    // No whole number of datagrams: the last one has room.
    for (puts, full) in [(2_010, true), (10, false)] {
        let config = Config {
            shards: 1,
            wire: Wire::Binary,
            congestion: Algorithm::Fixed,
            ..Config::preset(Preset::Small)
        };
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = network(faults);
        let to_put = Arc::new(Mutex::new(vec![(addr(1), 1)]));
        let (mut asks, shared) = shard(&config, &network, addr(2), Client(Arc::clone(&to_put)));
        let in_bulk = Arc::default();
        let flood = Flood { puts, in_bulk: Arc::clone(&in_bulk), to: None };
        let (mut answers, _) = shard(&config, &network, addr(1), flood);
        // What may leave at once grows with what has been asked for.
        for round in 0..1_000 {
            if round >= 200 && round % 200 == 0 {
                lock(&to_put).push((addr(1), 2));
                shared.wake_all();
            }
            asks.turn();
            answers.turn();
            let now = network.borrow().now() + Duration::from_micros(50);
            network.borrow_mut().advance(now);
        }
        let put = lock(&in_bulk).expect("it was asked");
        assert!(if full { put == 0 } else { put > 100 }, "{put} of {puts}");
    }
}
