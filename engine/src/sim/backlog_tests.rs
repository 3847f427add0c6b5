//! A shard that has more to read than one turn takes, in virtual time.

use super::exchange::shard;
use super::network::{Faults, Network, SharedNetwork};
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Verdict};
use crate::runtime::internals::{Actor, Context, lock};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Puts a message when it is told to.
struct Client(Arc<Mutex<Vec<SocketAddr>>>);

impl Actor for Client {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        assert!(outcome.is_ok());
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for to in lock(&self.0).drain(..) {
            context.put_copy(to, b"x", 1).unwrap();
        }
    }
}

/// Acknowledgements are handled before timers, also where they wait in the socket behind others: what is there is not probed
/// for. What is not is, though the socket never becomes empty.
#[test]
fn an_acknowledgement_that_waits_in_the_socket_is_heard_before_a_probe_leaves() {
    for (behind, comes) in [(9, true), (1_000, false)] {
        let config = Config { shards: 1, wire: Wire::Binary, ..Config::preset(Preset::Small) };
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network: SharedNetwork =
            Rc::new(RefCell::new(Network::new(Seed::from_number(1).rng(10), faults)));
        let addr = |host| SocketAddr::from(([10, 0, 0, host], 25_252));
        let to_put = Arc::new(Mutex::new(vec![addr(1)]));
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
        lock(&to_put).push(addr(1));
        // A turn's worth of what has nothing to do with it, for each turn.
        (0..8 * behind).for_each(|_| network.borrow_mut().fly(addr(9), addr(2), &[0; 40], 40));
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
