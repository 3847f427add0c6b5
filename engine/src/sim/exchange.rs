//! Two production shards on a perfect network: what a message costs without a kernel. For instruction counts and
//! micro-benchmarks.

use super::driver::SimDriver;
use super::faults::Faults;
use super::network::{MIRRORED, Network, SharedNetwork};
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Verdict};
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::runtime::driver::Driver;
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

/// Sends to the peers in turn.
struct Source {
    load: Load,
    payload: Vec<u8>,
    put: u64,
    in_flight: usize,
    progress: Arc<Progress>,
}

/// What the exchange and its source tell each other.
#[derive(Default)]
struct Progress {
    /// Messages to be put so far, and how many of them at a time.
    goal: AtomicU64,
    in_flight_max: AtomicU64,
    delivered: AtomicU64,
}

impl Source {
    /// Every peer gets one message, so that it is known; then the active ones get all others.
    fn target(&self, number: u64) -> SocketAddr {
        let Load { idle_peers, active_peers, .. } = self.load;
        let peers = u64::from(idle_peers + active_peers);
        let peer =
            if number < peers { number } else { u64::from(idle_peers) + number % u64::from(active_peers) };
        alias(peer as u32)
    }
}

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        self.in_flight -= 1;
        self.progress.delivered.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let goal = self.progress.goal.load(Ordering::Relaxed);
        let in_flight_max = self.progress.in_flight_max.load(Ordering::Relaxed) as usize;
        while self.put < goal && self.in_flight < in_flight_max {
            if context.put_copy(self.target(self.put), &self.payload, self.put).is_err() {
                break;
            }
            self.put += 1;
            self.in_flight += 1;
        }
    }
}

/// What is exchanged.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The wire.
    pub wire: Wire,
    /// Messages of one run.
    pub messages: u64,
    /// Their size.
    pub payload_bytes: usize,
    /// Messages accepted and not ended at a time: those beyond window and credit wait in queues.
    pub in_flight: u32,
    /// Peers the messages go to in turn, at least 1. All of them are one shard, under as many addresses.
    pub active_peers: u32,
    /// Peers that are known and get nothing.
    pub idle_peers: u32,
}

impl Load {
    /// With one peer and nobody else.
    #[must_use]
    pub const fn new(wire: Wire, messages: u64, payload_bytes: usize, in_flight: u32) -> Self {
        Self { wire, messages, payload_bytes, in_flight, active_peers: 1, idle_peers: 0 }
    }
}

/// Messages under way at a time while peers get to know each other: more would be refused as strangers (R-FLOW-5).
const HANDSHAKES_MAX: u64 = 512;

/// Longer than the lease of a grant and what it is kept longer (R-CREDIT-2).
const SETTLE: Duration = Duration::from_millis(500);

/// The same whatever the load is: the tables of the other wire are made for it at the start.
const PEERS_MAX: u32 = 1 << 17;

/// A turn every so often, while peers rest.
const REST_STEP: Duration = Duration::from_millis(20);

/// The address of the server at which the client knows its peer of this number, and the other way round.
fn alias(peer: u32) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from(MIRRORED | peer), 25_252))
}

/// A pair of engines of one shard each.
pub struct Exchange {
    network: SharedNetwork,
    client: Shard<SimDriver, ActorApp<Source>>,
    server: Shard<SimDriver, ActorApp<Sink>>,
    progress: Arc<Progress>,
    load: Load,
}

impl Exchange {
    /// A client and a server that know each other under all addresses, with the first messages accepted.
    #[must_use]
    pub fn new(load: Load) -> Self {
        let Load { wire, payload_bytes, in_flight, active_peers, idle_peers, .. } = load;
        let peers = active_peers + idle_peers;
        let config = Config {
            shards: 1,
            wire,
            ops_in_flight_max: in_flight,
            peers_max: PEERS_MAX.max(peers),
            v1_window_bytes: in_flight.saturating_mul(2_304).min(1 << 30),
            ..Config::preset(Preset::Default)
        };
        let seed = Seed::from_number(1);
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = Rc::new(RefCell::new(Network::new(seed.rng(10), faults)));
        let addr = |host| SocketAddr::from(([10, 0, 0, host], 25_252));
        network.borrow_mut().mirror(addr(1), addr(2));
        let progress = Arc::new(Progress::default());
        let source = Source {
            load,
            payload: vec![b'x'; payload_bytes],
            put: 0,
            in_flight: 0,
            progress: Arc::clone(&progress),
        };
        let (client, shared) = shard(&config, &network, addr(2), source);
        let (server, _) = shard(&config, &network, addr(1), Sink);
        let mut exchange = Self { network, client, server, progress, load };
        let peers = u64::from(peers);
        exchange.progress.goal.store(peers, Ordering::Relaxed);
        exchange.progress.in_flight_max.store(HANDSHAKES_MAX.min(in_flight.into()), Ordering::Relaxed);
        exchange.run_until(peers);
        exchange.settle();
        exchange.progress.goal.store(u64::MAX, Ordering::Relaxed);
        exchange.progress.in_flight_max.store(in_flight.into(), Ordering::Relaxed);
        shared.wake_all();
        exchange.turns();
        exchange
    }

    /// As [`run`](Self::run), a few times beforehand: the window is as large as it gets then, and so are all tables. Before that more
    /// leaves than arrives.
    pub fn warm_up(&mut self) {
        self.run_until(self.progress.delivered.load(Ordering::Relaxed) + 4 * self.load.messages);
    }

    /// Runs until `messages` more are delivered; others take their places. Returns the number of turns.
    ///
    /// # Panics
    /// If it does not come to an end.
    #[inline(never)]
    pub fn run(&mut self) -> u64 {
        self.run_until(self.progress.delivered.load(Ordering::Relaxed) + self.load.messages)
    }

    fn run_until(&mut self, delivered: u64) -> u64 {
        let mut turns = 0;
        while self.progress.delivered.load(Ordering::Relaxed) < delivered {
            self.turns();
            turns += 1;
            assert!(turns < 10 * delivered + 1_000, "the exchange stalls");
        }
        turns
    }

    /// What follows on the handshakes, until nobody holds credit any more.
    fn settle(&mut self) {
        let until = self.network.borrow().now() + SETTLE;
        while self.network.borrow().now() < until {
            self.turns();
        }
    }

    /// Time passes for all, and the idle peers rest.
    pub fn rest(&mut self, time: Duration) {
        let until = self.network.borrow().now() + time;
        while self.network.borrow().now() < until {
            self.turns();
            let now = self.network.borrow().now();
            self.network.borrow_mut().advance(now + REST_STEP);
        }
    }

    /// Counters of client and server, and both themselves: what each takes is seen when it is dropped.
    #[must_use]
    pub fn into_sides(self) -> [(crate::Counters, Box<dyn std::any::Any>); 2] {
        let (client, server) = (self.client.counters().clone(), self.server.counters().clone());
        [(client, Box::new(self.client)), (server, Box::new(self.server))]
    }

    fn turns(&mut self) {
        self.client.turn();
        self.server.turn();
        let now = self.network.borrow().now();
        self.network.borrow_mut().advance(now + Duration::from_micros(50));
    }

    /// Datagrams the client has sent so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.client.driver.counters().segments_sent
    }
}

/// An engine of one shard.
pub(super) fn shard<A: Actor>(
    config: &Config,
    network: &SharedNetwork,
    addr: SocketAddr,
    actor: A,
) -> (Shard<SimDriver, ActorApp<A>>, Arc<Shared>) {
    let families = Families { v4: true, v6: false };
    let seed = Seed::from_number(u64::from(addr.port()));
    network.borrow_mut().add_host(addr, 1);
    let wake = Arc::new(Wake::new().expect("an eventfd"));
    let shared = Shared::new(config, families, &seed, vec![wake]);
    let driver = SimDriver::new(network, addr, 0);
    let setup = Setup {
        rcvbuf_bytes: 8 << 20,
        config,
        plugins: &Plugins::default(),
        place: Place { shard: 0, shards: 1, families },
        seed: &seed,
        shared: &shared,
        segments_max: 128,
        clock: || Instant::from_ns(0),
    };
    (Shard::new(&setup, driver, ActorApp(actor)), shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round trip that was 100 us becomes 20 ms, because all their first messages lie in one socket: that is no loss. Each of
    /// them was repeated once or twice.
    #[test]
    fn thousands_of_peers_that_begin_at_once_repeat_next_to_nothing() {
        let load = Load { active_peers: 3_000, ..Load::new(Wire::Binary, 30_000, 64, 6_000) };
        let mut exchange = Exchange::new(load);
        let before = exchange.datagrams();
        exchange.run();
        let sent = exchange.datagrams() - before;
        let [(client, _), (server, _)] = exchange.into_sides();
        let again = client.rows_retransmitted;
        assert!(sent > 20_000 && again < sent / 50, "{again} of {sent}");
        assert!(server.messages_received >= 30_000);
    }
}
