//! Two production shards on a perfect network: what a message costs without a kernel. For instruction counts and
//! micro-benchmarks.

use super::driver::SimDriver;
use super::network::{Faults, Network, SharedNetwork};
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Verdict};
use crate::proto::outbound::{Families, Place};
use crate::runtime::driver::DriverCounters;
use crate::runtime::internals::{Actor, ActorApp, Context, Setup, Shard, Shared};
use crate::sys::wake::Wake;
use crate::units::Instant;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Sink;

impl Actor for Sink {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        std::hint::black_box(message.payload);
        Verdict::Accept
    }
}

struct Source {
    to: SocketAddr,
    payload: Vec<u8>,
    left: u64,
    in_flight: usize,
    in_flight_max: usize,
    delivered: Arc<AtomicU64>,
}

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        self.in_flight -= 1;
        self.delivered.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let source = self;
        while source.left > 0 && source.in_flight < source.in_flight_max {
            if context.put_copy(source.to, &source.payload, source.left).is_err() {
                break;
            }
            source.left -= 1;
            source.in_flight += 1;
        }
    }
}

/// A pair of engines of one shard each.
pub struct Exchange {
    network: SharedNetwork,
    client: Shard<SimDriver, ActorApp<Source>>,
    server: Shard<SimDriver, ActorApp<Sink>>,
    delivered: Arc<AtomicU64>,
    messages: u64,
}

impl Exchange {
    /// A client with `messages` messages of `payload_bytes` to send, at most `in_flight` at a time.
    #[must_use]
    pub fn new(wire: Wire, messages: u64, payload_bytes: usize, in_flight: u32) -> Self {
        let config = Config {
            shards: 1,
            wire,
            ops_in_flight_max: in_flight,
            v1_window_bytes: in_flight.saturating_mul(2_304).min(1 << 30),
            ..Config::preset(Preset::Default)
        };
        let seed = Seed::from_number(1);
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = Rc::new(RefCell::new(Network::new(seed.rng(10), faults)));
        let addr = |host| SocketAddr::from(([10, 0, 0, host], 25_252));
        let delivered = Arc::new(AtomicU64::new(0));
        let source = Source {
            to: addr(1),
            payload: vec![b'x'; payload_bytes],
            left: messages,
            in_flight: 0,
            in_flight_max: in_flight as usize,
            delivered: Arc::clone(&delivered),
        };
        let client = shard(&config, &network, addr(2), source);
        let server = shard(&config, &network, addr(1), Sink);
        Self { network, client, server, delivered, messages }
    }

    /// Runs until everything is delivered; returns the number of turns.
    ///
    /// # Panics
    /// If it does not come to an end.
    pub fn run(&mut self) -> u64 {
        let mut turns = 0;
        while self.delivered.load(Ordering::Relaxed) < self.messages {
            self.client.turn();
            self.server.turn();
            let now = self.network.borrow().now();
            self.network.borrow_mut().advance(now + Duration::from_micros(50));
            turns += 1;
            assert!(turns < 10 * self.messages + 1_000, "the exchange stalls");
        }
        turns
    }
}

/// An engine of one shard.
pub(super) fn shard<A: Actor>(
    config: &Config,
    network: &SharedNetwork,
    addr: SocketAddr,
    actor: A,
) -> Shard<SimDriver, ActorApp<A>> {
    let families = Families { v4: true, v6: false };
    let seed = Seed::from_number(u64::from(addr.port()));
    network.borrow_mut().add_host(addr, 1);
    let wake = Arc::new(Wake::new().expect("an eventfd"));
    let shared = Shared::new(config, families, &seed, vec![wake]);
    let driver =
        SimDriver { network: Rc::clone(network), addr, shard: 0, counters: DriverCounters::default() };
    let setup = Setup {
        rcvbuf_bytes: 8 << 20,
        config,
        place: Place { shard: 0, shards: 1, families },
        seed: &seed,
        shared: &shared,
        segments_max: 128,
        clock: || Instant::from_ns(0),
    };
    Shard::new(&setup, driver, ActorApp(actor))
}
