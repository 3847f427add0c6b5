//! A seed's world: engines, v1 peers, messages, virtual time. Faults first, then a healed network in which everything must finish.

<<<<<<< Updated upstream
mod auto;
mod drain;
mod engines;
mod faults;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod v1;

pub use report::Report;

use self::auto::wire_of;
use self::engines::{SimEngine, each};
use self::faults::Incident;
use self::v1::SimV1;
use super::checkers::{Log, Violation};
use super::network::{Faults, Network, SharedNetwork};
use super::scenes::SceneCounts;
use crate::config::Wire;
use crate::hash::{Rng, Seed};
use crate::message::{Message, Outgoing};
use crate::observe::Counters;
use crate::proto::plugins::Plugins;
use crate::runtime::internals::{Turn, lock};
use crate::units::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
=======
use super::checkers::{Fate, Kind, Log, Violation};
use super::driver::SimDriver;
use super::lane_order::LaneCounts;
use super::network::{FaultCounts, Faults, NarrowPath, Network, SharedNetwork};
use super::scenes::SceneCounts;
use super::v1_watch::{Brought, V1Counts};
use super::world_auto::{FORGIVEN, count_mixed, is_binary_only, wire_of};
use super::world_drain::{Drain, Draining};
use super::world_v1::SimV1;
use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, Reached, SubmitReason};
use crate::hash::{Rng, Seed};
use crate::message::{Level, Message, MessageRef, Outcome, Outgoing, Verdict};
use crate::observe::Counters;
use crate::options::Priority;
use crate::proto::congestion::Algorithm;
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::runtime::driver::DriverCounters;
use crate::runtime::internals::{
    Actor, ActorApp, BucketApp, Context, SendBucket, Setup, Shard, Shared, Turn, lock,
};
use crate::sys::wake::Wake;
use crate::units::Instant;
use crate::wire::DropReason;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
>>>>>>> Stashed changes
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

<<<<<<< Updated upstream
=======
/// Messages put while the network misbehaves.
const MESSAGES_FAULTY: u64 = 300;
/// The same, where they come in bursts.
const MESSAGES_IN_BURSTS: u64 = 4_000;
/// How long after healing the last messages are put, where they come late.
const LATE: Duration = Duration::from_secs(80);
/// From one burst to the next.
const BURST_EVERY_NS: u64 = 500_000_000;
/// Messages put after it healed.
const MESSAGES_HEALED: u64 = 60;
>>>>>>> Stashed changes
/// How long the network misbehaves, in virtual time.
const FAULTY: Duration = Duration::from_secs(4);
/// The same with v1 peers: their tries take 6 s, a row to them may take 8.
const FAULTY_V1: Duration = Duration::from_secs(12);
/// Everything must be over by then: after the last of the late messages, the longest default deadline of these sizes, and
/// partials' idle time.
const LIMIT: Duration = Duration::from_secs(160);
<<<<<<< Updated upstream
=======
/// A v1 peer sends all rows of a message at once, whatever the receiver's socket holds.
const V1_PAYLOAD_MAX: u32 = 15_000;
/// What a v1 peer sends in one row.
const V1_ROW_PAYLOAD_MAX: usize = 384;
>>>>>>> Stashed changes
/// Turns a shard may take at one instant; more means that it spins.
const TURNS_MAX: usize = 20_000;

/// After the last outcome: idle partials expire, and what is said of them to peers that are gone is given up.
const SETTLE: Duration = Duration::from_secs(12);
const SETTLE_BINARY: Duration = Duration::from_secs(25);
/// Then engines sleep: for so long, nothing is to happen but a few turns of timer wheels.
const REST: Duration = Duration::from_secs(5);
<<<<<<< Updated upstream
=======
const STEPS_AT_REST: u64 = 200;
>>>>>>> Stashed changes
/// Moments at which something happens. A world has a few thousand datagrams and timers; one in which bursts of thousands of
/// messages meet buckets of four has many more.
const STEPS_MAX: u64 = 300_000;

<<<<<<< Updated upstream
struct World {
    rng: Rng,
    /// What it is about; [`Wire::Auto`]: it is mixed.
    wire: Wire,
    plugins: Plugins,
    root: Seed,
    network: SharedNetwork,
    engines: Vec<SimEngine>,
    v1_peers: Vec<SimV1>,
    log: Arc<Mutex<Log>>,
    refuse_per_mille: Arc<Mutex<u32>>,
    /// (when, engine or, behind them, v1 peer, message)
    schedule: VecDeque<(Instant, usize, Outgoing)>,
    heal_at: Instant,
    /// Crashes, ends and changes of address to come: when, which engine, what.
    incidents: VecDeque<(Instant, usize, Incident)>,
    /// What engines counted before they crashed, or were shut down.
    crashed: Counters,
=======
/// Why a message of a binary datagram had no effect, though the datagram had.
const DROPPED_MESSAGES: [DropReason; 8] = [
    DropReason::Duplicate,
    DropReason::Refused,
    DropReason::BucketFull,
    DropReason::DedupFull,
    DropReason::Stale,
    DropReason::PartialsFull,
    DropReason::MessageTooLarge,
    DropReason::LengthChanged,
];

/// What a seed did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The wire its engines speak; [`Wire::Auto`]: some find out what others speak, and some speak one alone.
    pub wire: Wire,
    /// Engines, with their shards.
    pub engines: Vec<usize>,
    /// The faults drawn.
    pub faults: Faults,
    /// The faults that happened.
    pub counts: FaultCounts,
    /// Messages put.
    pub messages: usize,
    /// Of these, delivered.
    pub delivered: usize,
    /// Moments at which something happened.
    pub steps: u64,
    /// Model v1 peers among the engines.
    pub v1_peers: usize,
    /// What happened to their messages.
    pub v1: V1Counts,
    /// What happened to messages in lanes.
    pub lanes: LaneCounts,
    /// What the world went through besides faults.
    pub scenes: SceneCounts,
    /// All engines' counters.
    pub counters: Counters,
    /// Promises broken: none, if all is well.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, wire, engines, faults, .. } = self;
        writeln!(f, "seed {seed}: {wire:?}, engines with shards {engines:?}, {faults:?}")?;
        writeln!(f, "  happened: {:?}", self.counts)?;
        writeln!(f, "  messages {}, delivered {}, steps {}", self.messages, self.delivered, self.steps)?;
        writeln!(f, "  v1 peers {}: {:?}", self.v1_peers, self.v1)?;
        writeln!(f, "  {:?}", self.lanes)?;
        writeln!(f, "  {:?}", self.scenes)?;
        for (label, value) in self.counters.iter().filter(|row| row.1 > 0) {
            writeln!(f, "  {label} {value}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION {violation:?}")?;
        }
        write!(f, "  replay: scripts/check sim {}", self.seed)
    }
}

/// The application of an engine that uses actors.
pub(super) struct SimActor {
    engine: usize,
    log: Arc<Mutex<Log>>,
    plan: Arc<Mutex<VecDeque<Outgoing>>>,
    refuse_per_mille: Arc<Mutex<u32>>,
    rng: Rng,
}

impl Actor for SimActor {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if self.rng.below(1_000) < *lock(&self.refuse_per_mille) {
            return Verdict::Refuse;
        }
        lock(&self.log).received(self.engine, message.payload, (message.correlation(), message.level()));
        if let Some(commit) = message.take_commit() {
            commit.commit();
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        lock(&self.log).outcome(tag, outcome);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let mut plan = lock(&self.plan);
        while let Some(outgoing) = plan.pop_front() {
            let number = outgoing.tag;
            if let Err(back) = context.put(outgoing) {
                if !matches!(back.reason, SubmitReason::Full) {
                    let error = DeliveryError { cause: back.reason.cause(), reached: Reached::Never };
                    lock(&self.log).outcome(back.outgoing.tag, Err(error));
                    continue;
                }
                plan.push_front(*back.outgoing);
                context.wake_at(context.now() + Duration::from_millis(5));
                break;
            }
            lock(&self.log).accepted(number, Some(context.shard()));
        }
    }
}

/// A shard of either kind of application.
pub(super) enum AnyShard {
    Actor(Box<Shard<SimDriver, ActorApp<SimActor>>>),
    Bucket(Box<Shard<SimDriver, BucketApp>>),
}

macro_rules! each {
    ($shard:expr, $inner:ident => $body:expr) => {
        match $shard {
            $crate::sim::world::AnyShard::Actor($inner) => $body,
            $crate::sim::world::AnyShard::Bucket($inner) => $body,
        }
    };
}
pub(super) use each;

pub(super) struct SimEngine {
    pub(super) addr: SocketAddr,
    pub(super) config: Config,
    pub(super) rcvbuf_bytes: u64,
    pub(super) shared: Arc<Shared>,
    /// None once it was shut down, until the next one starts.
    pub(super) shards: Vec<AnyShard>,
    /// By shard: it has stopped.
    pub(super) finished: Vec<bool>,
    pub(super) draining: Option<Draining>,
    /// Messages due, for the actors or the bucket.
    pub(super) plan: Arc<Mutex<VecDeque<Outgoing>>>,
    pub(super) bucket: Option<SendBucket>,
    slow_until: Instant,
}

pub(super) struct World {
    pub(super) rng: Rng,
    /// What it is about; [`Wire::Auto`]: it is mixed.
    pub(super) wire: Wire,
    plugins: Plugins,
    pub(super) root: Seed,
    pub(super) network: SharedNetwork,
    pub(super) engines: Vec<SimEngine>,
    v1_peers: Vec<SimV1>,
    pub(super) log: Arc<Mutex<Log>>,
    refuse_per_mille: Arc<Mutex<u32>>,
    /// (when, engine or, behind them, v1 peer, message)
    schedule: VecDeque<(Instant, usize, Outgoing)>,
    pub(super) heal_at: Instant,
    /// Crashes, ends and changes of address to come: when, which engine, what.
    incidents: VecDeque<(Instant, usize, Incident)>,
    /// What engines counted before they crashed, or were shut down.
    pub(super) crashed: Counters,
>>>>>>> Stashed changes
    /// Operations that ended with their engine.
    abandoned: u64,
    /// Times at which something happened.
    steps: u64,
    steps_at_rest: u64,
    /// By engine: rows without a place among the partial messages until the network healed.
    refused_places: Vec<u64>,
<<<<<<< Updated upstream
    scenes: SceneCounts,
=======
    pub(super) scenes: SceneCounts,
}

#[derive(Clone, Copy, Debug)]
enum Incident {
    Restart,
    Rebind,
    Drain(Drain),
>>>>>>> Stashed changes
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64) -> Report {
    run_with(seed, Plugins::default())
}

/// As [`run`], with these in all engines.
pub(crate) fn run_with(seed: u64, plugins: Plugins) -> Report {
    let mut world = World::new(seed, plugins);
    let faults = world.draw_faults();
    let start = world.network.borrow().now();
    world.plan_messages(start);
    world.run(start);
    world.report(seed, faults)
}

impl World {
    fn new(seed: u64, plugins: Plugins) -> Self {
        let root = Seed::from_number(seed);
        let wire = wire_of(seed);
        let network = Rc::new(RefCell::new(Network::new(root.rng(10), Faults::default())));
        let log = Arc::new(Mutex::new(Log::default()));
        let heal_at = network.borrow().now();
        let mut world = Self {
            rng: root.rng(11),
            wire,
            plugins,
            root,
            heal_at,
            network,
            engines: Vec::new(),
            v1_peers: Vec::new(),
            log,
            refuse_per_mille: Arc::default(),
            schedule: VecDeque::new(),
            incidents: VecDeque::new(),
            crashed: Counters::default(),
            abandoned: 0,
            steps: 0,
            steps_at_rest: 0,
            refused_places: Vec::new(),
            scenes: SceneCounts::default(),
        };
        let engines = 2 + world.rng.below(3) as usize + usize::from(world.is_mixed());
        for engine in 0..engines {
            let engine = world.draw_engine(engine);
            world.engines.push(engine);
        }
        // In half of the seeds.
        let v1_peers = world.rng.below(4).saturating_sub(1) as usize;
        let v1_peers = match wire {
            Wire::Csv => v1_peers,
            Wire::Binary => 0,
            Wire::Auto => v1_peers.max(1),
        };
        for number in 0..v1_peers {
            let addr = SocketAddr::from(([10, 0, 1, number as u8 + 1], 25_252));
            let seed = world.rng.next_u64();
            world.v1_peers.push(SimV1::new(addr, engines + number, seed, &mut world.network.borrow_mut()));
        }
        world.heal_at += if v1_peers > 0 { FAULTY_V1 } else { FAULTY };
        world.stop_some_v1_peers();
        world
    }

    /// One in three stands still from some moment on until the network heals.
    fn stop_some_v1_peers(&mut self) {
        let start = self.network.borrow().now();
        for peer in &mut self.v1_peers {
            if self.rng.below(3) == 0 {
                let after = self.rng.below(FAULTY_V1.as_millis() as u32);
                peer.stop(start + Duration::from_millis(after.into()), self.heal_at);
            }
        }
    }

<<<<<<< Updated upstream
=======
    fn draw_engine(&mut self, index: usize) -> SimEngine {
        let shards = 1 + self.rng.below(3) as u16;
        let addr = SocketAddr::from(([10, 0, 0, index as u8 + 1], 25_252));
        let seed = Seed::from_number(self.root.rng(100 + index as u64).next_u64());
        let mut config = Config { shards, wire: self.wire, ..Config::preset(Preset::Small) };
        // Tight limits are met only if they are tight.
        config.ops_in_flight_max = [8, 64, 4_096][self.rng.below(3) as usize];
        config.recv_bucket_messages = [4, 64, 4_096][self.rng.below(3) as usize];
        config.partials_max = [8, 256][self.rng.below(2) as usize];
        config.partials_per_peer_max = config.partials_max.min(64);
        let mut rcvbuf_bytes = 2 * u64::from(config.rcvbuf_bytes);
        if self.wire != Wire::Csv {
            let mut pick = |count: u32| self.rng.below(count) as usize;
            config.congestion = [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed][pick(3)];
            config.datagram_bytes_max = [None, None, Some(512), Some(9_000)][pick(4)];
            config.message_bytes_max = [4 << 20, 4 << 20, 150_000][pick(3)];
            config.partial_bytes_max = [16 << 20, 500_000.max(config.message_bytes_max.into())][pick(2)];
            // Room for a few messages in parts: those whose turn it is not make way.
            if self.root.rng(200 + index as u64).below(2) == 0 {
                (config.message_bytes_max, config.partial_bytes_max) = (30_000, 34_000);
            }
            config.partial_bytes_per_peer_max = config.partial_bytes_max;
            rcvbuf_bytes = [rcvbuf_bytes, 50_000, 200_000][pick(3)];
            if self.is_mixed() {
                self.mix(index, &mut config);
            } else if self.root.rng(16).below(2) == 0 {
                // By rules instead: nothing else is to be different. Peers behind a NAT keep their IP address.
                config.wire = Wire::Csv;
                config.peer_wires =
                    (0..4).map(|peer| (IpAddr::from([10, 0, 0, peer + 1]).into(), self.wire)).collect();
            }
        }
        self.network.borrow_mut().add_host(addr, shards as usize);
        let with_actor = self.rng.below(2) == 0;
        self.start_engine(index, addr, &seed, (config, rcvbuf_bytes), with_actor)
    }

    pub(super) fn start_engine(
        &mut self,
        index: usize,
        addr: SocketAddr,
        seed: &Seed,
        (config, rcvbuf_bytes): (Config, u64),
        with_actor: bool,
    ) -> SimEngine {
        let shards = config.shards;
        let wakes = (0..shards).map(|_| Arc::new(Wake::new().expect("an eventfd"))).collect();
        let families = Families { v4: true, v6: false };
        let shared = Shared::new(&config, families, seed, wakes);
        let plan: Arc<Mutex<VecDeque<Outgoing>>> = Arc::default();
        let now = self.network.borrow().now();
        let mut shards: Vec<AnyShard> = (0..shards)
            .map(|shard| {
                let place = Place { shard, shards, families };
                let driver = SimDriver {
                    network: Rc::clone(&self.network),
                    addr,
                    shard: shard as usize,
                    counters: DriverCounters::default(),
                };
                let setup = Setup {
                    rcvbuf_bytes,
                    config: &config,
                    plugins: &self.plugins,
                    place,
                    seed,
                    shared: &shared,
                    segments_max: 64,
                    clock: || Instant::from_ns(0),
                };
                if with_actor {
                    let actor = SimActor {
                        engine: index,
                        log: Arc::clone(&self.log),
                        plan: Arc::clone(&plan),
                        refuse_per_mille: Arc::clone(&self.refuse_per_mille),
                        rng: seed.rng(50 + u64::from(shard)),
                    };
                    AnyShard::Actor(Box::new(Shard::new(&setup, driver, ActorApp(actor))))
                } else {
                    let app = BucketApp::new(Arc::clone(&shared));
                    AnyShard::Bucket(Box::new(Shard::new(&setup, driver, app)))
                }
            })
            .collect();
        // Numbers on the wire are cut to 32 bits: some seeds begin shortly before that. And memory for few datagrams.
        let mut rng = seed.rng(60);
        let (wraps, few_blocks) = (rng.below(3) == 0, rng.below(4) == 0);
        // In two of three engines flows sleep as soon as nobody owes anybody anything: among the faults, too.
        let quiet_ms = [None, Some(5), Some(200)][seed.rng(61).below(3) as usize];
        for shard in &mut shards {
            let flows = each!(shard, shard => &mut shard.endpoint_mut().outbound.flows);
            if let Some(quiet_ms) = quiet_ms {
                flows.set_sleeps_after(Duration::from_millis(quiet_ms));
            }
            if wraps {
                flows.start_at([0; 3].map(|_: u64| (1 << 32) - 1 - u64::from(rng.below(60))));
            }
            if few_blocks {
                flows.set_pool_blocks(1 + rng.below(3) as usize);
            }
        }
        let bucket = (!with_actor).then(|| SendBucket::new(Arc::clone(&shared)));
        let finished = vec![false; shards.len()];
        let (draining, slow_until) = (None, now);
        SimEngine { addr, config, rcvbuf_bytes, shared, shards, finished, draining, plan, bucket, slow_until }
    }

    /// Crashes, ends and changes of address while the network misbehaves.
    fn draw_incidents(&mut self, faults: &Faults) {
        let start = self.network.borrow().now();
        let span_ms = self.heal_at.since(start).as_millis() as u32;
        let mut incidents = Vec::new();
        let restarts = std::iter::repeat_n(Incident::Restart, faults.restarts as usize);
        for what in restarts.chain(std::iter::repeat_n(Incident::Rebind, faults.rebinds as usize)) {
            let at = start + Duration::from_millis(u64::from(1 + self.rng.below(span_ms - 2)));
            incidents.push((at, self.rng.below(self.engines.len() as u32) as usize, what));
        }
        // In one seed of three. Of their own, so that all other seeds stay what they were.
        let mut rng = self.root.rng(18);
        let drains = if rng.below(3) == 0 { 1 + rng.below(2) } else { 0 };
        for _ in 0..drains {
            let drain = Drain::draw(&mut rng, self.heal_at.since(start));
            let at = start + Duration::from_millis(u64::from(1 + rng.below(span_ms / 2 - 2)));
            incidents.push((at, rng.below(self.engines.len() as u32) as usize, Incident::Drain(drain)));
        }
        incidents.sort_by_key(|(at, index, _)| (*at, *index));
        self.incidents = incidents.into();
        if faults.one_way_loss > 0 {
            let mut host = || self.engines[self.rng.below(self.engines.len() as u32) as usize].addr;
            let (from, to) = (host(), host());
            self.network.borrow_mut().set_one_way(from, to);
        }
    }

    fn handle_incidents(&mut self, now: Instant) {
        while let Some(&(at, index, what)) = self.incidents.front()
            && at <= now
        {
            self.incidents.pop_front();
            if !self.engines[index].is_up() {
                continue;
            }
            match what {
                Incident::Drain(drain) => self.start_drain(now, index, drain),
                Incident::Rebind => {
                    lock(&self.log).moved.insert(index);
                    self.network.borrow_mut().rebind(self.engines[index].addr);
                }
                Incident::Restart => self.restart(now, index),
            }
        }
    }

    /// An engine is gone from one moment to the next, and another one is at its address, which knows nothing. What its
    /// applications were told and given until then counts. Half of them crash; the others say CLOSE.
    fn restart(&mut self, now: Instant, index: usize) {
        self.engines[index].slow_until = now;
        self.scenes.mixed_restarts += u64::from(self.is_mixed());
        if self.steps.is_multiple_of(2) {
            let shards = &mut self.engines[index].shards;
            shards.iter_mut().for_each(|shard| each!(shard, shard => shard.stop(false)));
            shards.iter_mut().for_each(|shard| each!(shard, shard => shard.stop_inbox(false)));
        }
        self.take_application_side(index);
        let old = &self.engines[index];
        let mut open = 0;
        for shard in &old.shards {
            let counters = each!(shard, shard => shard.counters());
            open += counters.messages_accepted - counters.messages_delivered - counters.failed_total();
            self.crashed.add(counters);
        }
        self.abandoned += open;
        lock(&self.log).crashed(index);
        let (addr, with_actor) = (old.addr, old.bucket.is_none());
        let start = (old.config.clone(), old.rcvbuf_bytes);
        let seed = Seed::from_number(self.rng.next_u64());
        self.network.borrow_mut().reopen(addr);
        let engine = self.start_engine(index, addr, &seed, start, with_actor);
        self.engines[index] = engine;
    }

    /// Whole kinds of faults are off in some seeds: what hides behind one is then seen.
    fn draw_faults(&mut self) -> Faults {
        let mut rate = |max: u32| if self.rng.below(2) == 0 { 0 } else { self.rng.below(max + 1) };
        let faults = Faults {
            loss: rate(300),
            duplicate: rate(200),
            reorder: rate(200),
            split: rate(1_000),
            delay_us: 20 + rate(20_000),
            jitter_us: rate(20_000),
            blocked: rate(200),
            gso_refused: rate(300),
            socket_trains_max: [64, 1_000_000][rate(1) as usize],
            pause_ms: rate(100),
            ..Faults::default()
        };
        *lock(&self.refuse_per_mille) = rate(200);
        let faults = match self.wire {
            Wire::Csv => faults,
            // Where an address changes, rows are delivered twice, as those of the original are.
            Wire::Auto => {
                Faults { one_way_loss: rate(1_000), corrupt: rate(100), restarts: rate(3), ..faults }
            }
            Wire::Binary => Faults {
                one_way_loss: rate(1_000),
                corrupt: rate(100),
                restarts: rate(3),
                rebinds: rate(6),
                ..faults
            },
        };
        let faults = self.draw_narrow_path(faults);
        self.network.borrow_mut().set_faults(faults);
        self.draw_incidents(&faults);
        faults
    }

    /// In half of the binary seeds the MTU falls between two engines, sometimes below what every path should carry. Drawn
    /// apart, so that all else in a seed stays what it was.
    fn draw_narrow_path(&self, faults: Faults) -> Faults {
        let mut rng = self.root.rng(13);
        if self.wire != Wire::Binary || rng.below(2) == 0 {
            return faults;
        }
        let bytes = if rng.below(4) == 0 { 512 + rng.below(700) } else { 1_200 + rng.below(260) };
        let refused = rng.below(4) == 0;
        let engines = self.engines.len() as u32;
        let first = rng.below(engines);
        let second = (first + 1 + rng.below(engines - 1)) % engines;
        let span_ms = self.heal_at.since(self.network.borrow().now()).as_millis() as u32;
        let after = Duration::from_millis(rng.below(span_ms).into());
        let mut network = self.network.borrow_mut();
        let from = network.now() + after;
        let between = [first, second].map(|engine| self.engines[engine as usize].addr.ip());
        network.set_narrow(NarrowPath { between, from, bytes: bytes as usize, refused });
        Faults { mtu: bytes, mtu_refused: refused, ..faults }
    }

    fn plan_messages(&mut self, start: Instant) {
        let spread_us =
            |rng: &mut Rng, span: Duration| Duration::from_micros(rng.below(span.as_micros() as u32).into());
        let mut schedule = Vec::new();
        // Of their own, so that seeds stay what they were but for options.
        let mut options_rng = self.root.rng(13);
        let mut lanes_rng = self.root.rng(14);
        // Many small messages at a time fill datagrams; few, over all the time, do not.
        let bursts = self.wire == Wire::Binary && self.rng.below(4) == 0;
        let faulty = if bursts { MESSAGES_IN_BURSTS } else { MESSAGES_FAULTY };
        // And some after long pauses: flows are forgotten then.
        let late =
            if self.wire == Wire::Binary && self.rng.below(8) == 0 { LATE } else { Duration::from_secs(1) };
        for number in 0..faulty + MESSAGES_HEALED {
            let healed = number >= faulty;
            let at = if healed {
                match self.wire {
                    Wire::Auto => self.draw_healed_at(),
                    Wire::Csv | Wire::Binary => self.heal_at + spread_us(&mut self.rng, late),
                }
            } else {
                start + spread_us(&mut self.rng, self.heal_at.since(start))
            };
            let at = if bursts && !healed { burst(at) } else { at };
            let engines = self.engines.len();
            let hosts = (engines + self.v1_peers.len()) as u32;
            let sender = self.rng.below(hosts) as usize;
            let from_v1 = sender >= engines;
            // One in fifty to an address where nobody is; now and then to oneself. A v1 peer sends to engines.
            let nobody = !healed && !from_v1 && self.rng.below(50) == 0;
            let receiver = self.rng.below(if from_v1 { engines as u32 } else { hosts }) as usize;
            // Nobody talks to himself under a shared key (R-PROT-7).
            let to_oneself = receiver == sender && self.plugins.protection.is_some();
            let receiver = if to_oneself { (receiver + 1) % engines } else { receiver };
            let to = if nobody { SocketAddr::from(([10, 0, 9, 9], 9)) } else { self.addr(receiver) };
            let payload = match self.wire {
                Wire::Auto if !from_v1 && self.rng.below(2) == 0 => payload_of_bytes(&mut self.rng, number),
                Wire::Csv | Wire::Auto => {
                    payload(&mut self.rng, number, if from_v1 { V1_PAYLOAD_MAX } else { u32::MAX })
                }
                Wire::Binary if bursts && self.rng.below(50) > 0 => format!("{number:016x}").into_bytes(),
                Wire::Binary => payload_of_bytes(&mut self.rng, number),
            };
            // Larger than either side takes: it ends refused.
            let refuses = |host: usize| {
                let limit = self.engines.get(host).map(|engine| engine.config.message_bytes_max);
                limit.is_some_and(|limit| payload.len() > limit as usize)
            };
            let too_large = self.wire != Wire::Csv && (refuses(sender) || refuses(receiver));
            let kind = match () {
                () if from_v1 => Kind::FromV1,
                () if receiver >= engines && !nobody => Kind::ToV1,
                () => Kind::BetweenEngines,
            };
            let outgoing = Outgoing::to(to, payload.clone()).tag(number);
            let (mut outgoing, options, lane) = if from_v1 {
                (outgoing, (None, Level::Accepted), None)
            } else {
                let (outgoing, options) = self.draw_options(&mut options_rng, outgoing);
                let (outgoing, lane) = self.draw_lane(&mut lanes_rng, outgoing);
                (outgoing, options, lane)
            };
            let wire = self.wire_between(sender, to);
            let by_rows = match wire {
                Wire::Csv => true,
                Wire::Binary => false,
                Wire::Auto => !is_binary_only(&outgoing),
            };
            // To who did not answer while the network misbehaved, some things do not go for a while.
            let fits = match kind {
                Kind::FromV1 => payload.len() <= V1_ROW_PAYLOAD_MAX,
                Kind::ToV1 => !is_binary_only(&outgoing),
                Kind::BetweenEngines => wire != Wire::Auto || by_rows || at >= self.heal_at + FORGIVEN,
            };
            let fate = Fate {
                wire,
                by_rows,
                options,
                lane,
                kind,
                sender,
                sent: false,
                abandoned: false,
                receiver: if nobody { usize::MAX } else { receiver },
                payload: payload.clone(),
                too_large,
                // Three tries are few when an engine has no room for another message in parts.
                must_arrive: healed && !too_large && fits,
                in_parts: self.wire != Wire::Binary && payload.len() > V1_ROW_PAYLOAD_MAX,
                outcomes: Vec::new(),
                v1_sent: None,
                brought: None,
                received: 0,
                received_by: 0,
            };
            lock(&self.log).fates.insert(number, fate);
            if self.wire != Wire::Csv && !healed && self.rng.below(16) == 0 {
                // Some end before they arrive, large ones half way.
                outgoing.deadline = Some(Duration::from_millis(u64::from(1 + self.rng.below(300))));
            }
            schedule.push((at, sender, outgoing));
        }
        schedule.sort_by_key(|(at, _, outgoing)| (*at, outgoing.tag));
        self.schedule = schedule.into();
    }

    /// Options for a message of the binary wire, sometimes; and what the receiver is to see of them.
    fn draw_options(&self, rng: &mut Rng, mut outgoing: Outgoing) -> (Outgoing, (Option<u64>, Level)) {
        let (mut correlation, mut level) = (None, Level::Accepted);
        if self.wire == Wire::Csv {
            return (outgoing, (correlation, level));
        }
        if rng.below(4) == 0 {
            correlation = Some(rng.next_u64());
            outgoing = outgoing.correlation(correlation.unwrap_or_default());
            outgoing = outgoing.meta(vec![0; rng.below(240) as usize]);
        }
        if rng.below(8) == 0 {
            level = Level::Committed;
        }
        let priorities = [Priority::Control, Priority::High, Priority::Low, Priority::Normal];
        let priority = priorities[rng.below(12).min(3) as usize];
        (outgoing.level(level).priority(priority), (correlation, level))
    }

    /// One message in four is in one of three lanes. Not where what was refused is never sent again: each would hold up its
    /// lane until its deadline, and all would take hours.
    fn draw_lane(&self, rng: &mut Rng, outgoing: Outgoing) -> (Outgoing, Option<u16>) {
        let life = Duration::from_secs(30);
        let tries_again = self.plugins.retries.refused_wait(outgoing.to, 1, life) < life;
        match rng.below(12) as u16 {
            lane @ 0..3 if self.wire != Wire::Csv && tries_again => (outgoing.lane(lane), Some(lane)),
            _ => (outgoing, None),
        }
    }

>>>>>>> Stashed changes
    fn addr(&self, host: usize) -> SocketAddr {
        match self.engines.get(host) {
            Some(engine) => engine.addr,
            None => self.v1_peers[host - self.engines.len()].addr,
        }
    }

    fn run(&mut self, start: Instant) {
        let mut healed = false;
        let mut complete_at = None;
        loop {
            let now = self.network.borrow().now();
            if !healed && now >= self.heal_at {
                healed = true;
                self.refused_places = self.engines.iter().map(SimEngine::refused_places).collect();
                self.network.borrow_mut().heal();
                self.incidents.clear();
                *lock(&self.refuse_per_mille) = 0;
            }
            self.steps += 1;
            self.handle_incidents(now);
            self.hand_out(now);
            self.turns();
            self.handle_drains(now);
            for peer in &mut self.v1_peers {
                peer.turn(&mut self.network.borrow_mut(), &mut lock(&self.log));
            }
            self.applications(now, healed);
            if self.schedule.is_empty() && lock(&self.log).is_complete() {
                // Wait for that once.
                let settle = if self.wire == Wire::Csv { SETTLE } else { SETTLE_BINARY };
                let until = *complete_at.get_or_insert(now + settle);
                if now + REST < until {
                    self.steps_at_rest = self.steps;
                }
                if now >= until {
                    break;
                }
            }
            if now.since(start) > LIMIT || self.steps > 4 * STEPS_MAX {
                lock(&self.log).violations.push(Violation::NeverFinished);
                break;
            }
            let next = self.next_event(now, complete_at);
            self.network.borrow_mut().advance(next);
        }
    }

    /// The earliest thing to happen after `now`.
    fn next_event(&self, now: Instant, complete_at: Option<Instant>) -> Instant {
        let busy = self
            .engines
            .iter()
            .any(|engine| engine.is_up() && engine.bucket.is_some() && !lock(&engine.plan).is_empty());
        let poll = busy.then(|| now + Duration::from_millis(1));
        let slow = self.engines.iter().map(|engine| engine.slow_until).filter(|&at| at > now);
        let shards = self.engines.iter().flat_map(|engine| engine.shards.iter().zip(&engine.finished));
        let running = shards.filter(|(_, finished)| !**finished);
        let deadlines = running.filter_map(|(shard, _)| each!(shard, shard => shard.next_deadline()));
        let starts = self.engines.iter().filter_map(SimEngine::next_start);
        let heal = (now < self.heal_at).then_some(self.heal_at);
        let v1_peers = self.v1_peers.iter().filter_map(|peer| peer.next_event(now));
        let scheduled = self.schedule.front().map(|(at, _, _)| *at);
        let incident = self.incidents.front().map(|(at, _, _)| *at);
        self.network
            .borrow()
            .next_event()
            .into_iter()
            .chain(poll)
            .chain(slow)
            .chain(deadlines)
            .chain(starts)
            .chain(heal)
            .chain(v1_peers)
            .chain(scheduled)
            .chain(incident)
            .chain(complete_at)
            .min()
            .unwrap_or(now + Duration::from_millis(100))
            .max(now + Duration::from_nanos(1_000))
    }

    fn hand_out(&mut self, now: Instant) {
        while self.schedule.front().is_some_and(|(at, _, _)| *at <= now) {
            let Some((_, sender, outgoing)) = self.schedule.pop_front() else { break };
            let Some(engine) = self.engines.get(sender) else {
                self.v1_peers[sender - self.engines.len()].put(outgoing);
                continue;
            };
            if let Some(fate) = lock(&self.log).fates.get_mut(&outgoing.tag) {
                fate.sent = true;
            }
            lock(&engine.plan).push_back(outgoing);
            engine.shared.wake_all();
        }
    }

    /// Lets every shard with something to do work until it has nothing more, in random order.
    fn turns(&mut self) {
        let engines = self.engines.len();
        let first = self.rng.below(engines as u32) as usize;
        for round in 0..TURNS_MAX {
            let mut busy = false;
            for offset in 0..engines {
                let engine = &mut self.engines[(first + offset) % engines];
                for (shard, finished) in engine.shards.iter_mut().zip(&mut engine.finished) {
                    if *finished {
                        continue;
                    }
                    match each!(shard, shard => shard.turn()) {
                        Turn::Idle => busy |= each!(shard, shard => shard.has_mail()),
                        Turn::Busy => busy = true,
                        Turn::Finished => {
                            each!(shard, shard => shard.stop(false));
                            (*finished, busy) = (true, true);
                        }
                    }
                }
            }
            if !busy {
                return;
            }
            if round + 1 == TURNS_MAX {
                lock(&self.log).violations.push(Violation::NeverFinished);
            }
        }
    }

    /// What runs outside the shards: buckets are filled and emptied, sometimes slowly.
    fn applications(&mut self, now: Instant, healed: bool) {
        for index in 0..self.engines.len() {
            let engine = &mut self.engines[index];
            if engine.bucket.is_none() || (now < engine.slow_until && !healed) {
                continue;
            }
            if !healed && self.rng.below(100) == 0 {
                engine.slow_until = now + Duration::from_millis(self.rng.below(500).into());
            }
            self.take_application_side(index);
            let engine = &self.engines[index];
            let Some(bucket) = &engine.bucket else { continue };
            let mut plan = lock(&engine.plan);
            let mut batch: Vec<Outgoing> = plan.drain(..).collect();
            let numbers: Vec<u64> = batch.iter().map(|outgoing| outgoing.tag).collect();
            let count = bucket.put_batch(&mut batch);
            numbers[..count].iter().for_each(|&number| lock(&self.log).accepted(number, None));
            plan.extend(batch);
        }
    }

    /// What an engine's buckets hold for its application.
<<<<<<< Updated upstream
    fn take_application_side(&mut self, index: usize) {
=======
    pub(super) fn take_application_side(&mut self, index: usize) {
>>>>>>> Stashed changes
        let engine = &self.engines[index];
        let Some(bucket) = &engine.bucket else { return };
        let mut messages: Vec<Message> = Vec::new();
        engine.shared.recv.drain_into(&mut messages);
        let mut log = lock(&self.log);
        for message in messages {
            log.received(index, message.payload(), (message.correlation(), message.level()));
            message.commit();
        }
        let mut outcomes = Vec::new();
        bucket.outcome_batch(&mut outcomes);
        for (tag, outcome) in outcomes {
            log.outcome(tag, outcome);
        }
    }
<<<<<<< Updated upstream
=======

    fn report(mut self, seed: u64, faults: Faults) -> Report {
        // A message in a receive bucket that was never emptied was delivered all the same.
        let now = self.network.borrow().now();
        self.applications(now, true);
        let mut log = std::mem::take(&mut *lock(&self.log));
        let v1 = self.judge_v1(&mut log);
        for (index, (engine, before)) in self.engines.iter().zip(&self.refused_places).enumerate() {
            if engine.refused_places() > *before {
                log.had_no_place.insert(index);
            }
        }
        log.finish();
        let scenes = self.count_scenes(&log);
        let mut total = std::mem::take(&mut self.crashed);
        for (index, engine) in self.engines.iter().enumerate() {
            for shard in &engine.shards {
                let (counters, inbound) = each!(shard, shard => (shard.counters(), shard.inbound()));
                if inbound.partials() > 0 || inbound.partial_bytes() > 0 {
                    let left = (inbound.partials(), inbound.partial_bytes());
                    log.violations.push(Violation::Leak(format!("engine {index}: partials {left:?}")));
                }
                total.add(counters);
                let endpoint = each!(shard, shard => shard.endpoint());
                for held in endpoint.outbound.flows.held().into_iter().chain(endpoint.inflows.held()) {
                    log.violations.push(Violation::Leak(format!("engine {index}: {held}")));
                }
            }
        }
        if self.wire == Wire::Binary && self.steps - self.steps_at_rest > STEPS_AT_REST {
            let text = format!("{} steps at rest", self.steps - self.steps_at_rest);
            log.violations.push(Violation::Restless(text));
        }
        if self.steps > STEPS_MAX {
            log.violations.push(Violation::Restless(format!("{} steps", self.steps)));
        }
        let mut handled = total.data_rows_handled + total.confirms_handled + total.dropped_total();
        // Messages of datagrams that were handled.
        let messages = DROPPED_MESSAGES.iter().map(|&reason| total.dropped(reason)).sum::<u64>();
        if self.wire == Wire::Binary {
            handled -= messages;
        }
        // In a mixed world some of these were rows.
        let uncertain = if self.is_mixed() { messages } else { 0 };
        if !(handled - uncertain..=handled).contains(&total.datagrams_received) {
            let text = format!("datagrams {} != handled and dropped {handled}", total.datagrams_received);
            log.violations.push(Violation::Ledger(text));
        }
        let ended = total.messages_delivered + total.failed_total() + self.abandoned;
        if total.messages_accepted != ended {
            let text = format!("accepted {} != ended {ended}", total.messages_accepted);
            log.violations.push(Violation::Ledger(text));
        }
        let delivered = log.fates.values().filter(|fate| fate.is_confirmed()).count();
        let lanes = log.lane_counts();
        Report {
            seed,
            wire: self.wire,
            steps: self.steps,
            engines: self.engines.iter().map(|engine| engine.shards.len()).collect(),
            faults,
            counts: self.network.borrow().counts,
            messages: log.fates.len(),
            delivered,
            v1_peers: self.v1_peers.len(),
            v1,
            lanes,
            scenes,
            counters: total,
            violations: log.violations,
        }
    }

    fn count_scenes(&self, log: &Log) -> SceneCounts {
        let mut scenes = self.scenes;
        scenes.add(&log.scenes);
        if self.is_mixed() {
            scenes.add(&self.network.borrow().v1.scenes);
            count_mixed(self, log, &mut scenes);
        }
        scenes
    }

    /// Compares what the v1 peers' tries brought with what the network saw.
    fn judge_v1(&self, log: &mut Log) -> V1Counts {
        let network = self.network.borrow();
        log.violations.extend(network.v1.violations.iter().cloned());
        let mut counts = network.v1.counts;
        for (number, to, brought) in self.v1_peers.iter().flat_map(|peer| peer.judge(&network)) {
            match brought {
                Brought::Whole => counts.from_delivered += 1,
                Brought::InPart => counts.from_incomplete += 1,
                Brought::Withheld => {
                    counts.from_withheld += 1;
                    let to = self.engines.iter().position(|engine| engine.addr == to);
                    let is_explained = |index: usize| {
                        log.restarted.contains(&index) || self.engines[index].has_refused_rows()
                    };
                    if !to.is_some_and(is_explained) {
                        log.violations.push(Violation::WithheldForNothing(number));
                    }
                }
            }
            if let Some(fate) = log.fates.get_mut(&number) {
                fate.brought = Some(brought);
            }
        }
        for fate in log.fates.values().filter(|fate| fate.kind == Kind::ToV1) {
            counts.to_delivered += u64::from(fate.is_confirmed());
            counts.to_failed += u64::from(!fate.is_confirmed());
        }
        counts
    }
}

impl SimEngine {
    fn refused_places(&self) -> u64 {
        let refused =
            |shard: &AnyShard| each!(shard, shard => shard.counters()).dropped(DropReason::PartialsFull);
        self.shards.iter().map(refused).sum()
    }

    /// A limit made it leave rows unconfirmed.
    fn has_refused_rows(&self) -> bool {
        const LIMITS: [DropReason; 6] = [
            DropReason::BucketFull,
            DropReason::Refused,
            DropReason::PartialsFull,
            DropReason::DedupFull,
            DropReason::Stale,
            DropReason::ForwardFull,
        ];
        self.shards.iter().any(|shard| {
            let counters = each!(shard, shard => shard.counters());
            LIMITS.iter().any(|&reason| counters.dropped(reason) > 0) || counters.confirms_withheld > 0
        })
    }
}

/// Text that begins with its number; mostly one row, sometimes many, with characters of every length.
fn payload(rng: &mut Rng, number: u64, bytes_max: u32) -> Vec<u8> {
    let bytes = match rng.below(20) {
        0..=12 => rng.below(200),
        13..=16 => rng.below(2_000),
        17..=18 => rng.below(20_000),
        _ => rng.below(200_000),
    };
    let mut text = format!("{number:016x}");
    while text.len() < bytes.min(bytes_max) as usize {
        text.push(['a', 'Z', '"', ',', 'é', '漢', '🦀', '\n'][rng.below(8) as usize]);
    }
    text.into_bytes()
}

/// The start of the burst `at` is in.
const fn burst(at: Instant) -> Instant {
    Instant::from_ns(at.as_ns() - at.as_ns() % BURST_EVERY_NS + 1)
}

/// Any bytes behind the number; mostly small.
fn payload_of_bytes(rng: &mut Rng, number: u64) -> Vec<u8> {
    let bytes = match rng.below(20) {
        0..=12 => rng.below(200),
        13..=16 => rng.below(2_000),
        17..=18 => rng.below(20_000),
        _ => rng.below(200_000),
    };
    let mut payload = format!("{number:016x}").into_bytes();
    payload.extend((16..bytes).map(|_| rng.next_u8()));
    payload
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::protection::{
        Direction, FlowProtection, HelloHead, PacketHead, Protection, Unauthentic,
    };
    use crate::proto::retry::{Retries, RetryPolicy, RowTry, StandardRetry};
    use siphasher::sip::SipHasher24;
    use std::hash::{Hash, Hasher};

    #[test]
    fn seeds_keep_every_promise() {
        let (mut sum, mut v1) = (FaultCounts::default(), V1Counts::default());
        let (mut binary, mut closes, mut given_up, mut falls, mut woken) = (0, 0, 0, 0, 0);
        let (mut lanes, mut held, mut displaced, mut skipped) = (LaneCounts::default(), 0, 0, 0);
        for seed in 0..64 {
            let report = run(seed);
            assert!(report.violations.is_empty(), "{report}");
            // A few of the healed ones are larger than their receiver takes.
            assert!(report.delivered >= MESSAGES_HEALED as usize / 2, "{report}");
            binary += u32::from(report.wire == Wire::Binary);
            closes += report.counters.closes_received;
            if report.wire == Wire::Binary {
                given_up += report.counters.partials_cancelled + report.counters.partials_expired;
            }
            sum.add(&report.counts);
            falls += report.counters.path_mtu_falls;
            woken += report.counters.flows_woken;
            lanes.add(&report.lanes);
            held += report.counters.lane_messages_held;
            displaced += report.counters.lane_messages_displaced;
            skipped += report.counters.lane_messages_skipped;
            v1.add(&report.v1);
        }
        assert!((16..48).contains(&binary), "{binary} of 64 seeds on the binary wire");
        assert!(closes > 0, "no engine was told that another one stops");
        assert!(woken > 1_000, "flows slept and woke {woken} times");
        assert!(given_up > 0, "no message was given up half way");
        assert!(lanes.judged > 1_000 && lanes.stepped > 0, "{lanes:?}");
        assert!(
            held > 0 && displaced > 0 && skipped > 0,
            "{held} waited, {displaced} made way, {skipped} skipped"
        );
        assert!(
            [sum.lost, sum.duplicated, sum.reordered, sum.blocked, sum.gso_refused, sum.nowhere, sum.paused]
                .iter()
                .chain(&[sum.overflowed, sum.lost_one_way, sum.corrupted, sum.restarted, sum.rebound])
                .chain(&[sum.too_long, sum.too_long_refused, falls])
                .all(|&n| n > 0),
            "a fault that never happened proves nothing: {sum:?}"
        );
        assert!(
            [v1.stopped, v1.again_lost, v1.again_slow, v1.to_delivered, v1.to_failed].iter().all(|&n| n > 0)
                && [v1.from_delivered, v1.from_incomplete, v1.from_withheld].iter().all(|&n| n > 0),
            "{v1:?}"
        );
    }

    /// The same answer, whatever is asked.
    #[derive(Debug)]
    struct Constant(Duration);

    impl RetryPolicy for Constant {
        fn row_wait(&self, _: &RowTry, _: u32) -> Duration {
            self.0
        }
        fn hello_wait(&self, _: SocketAddr, _: u32) -> Duration {
            self.0
        }
        fn refused_wait(&self, _: SocketAddr, _: u32) -> Duration {
            self.0
        }
    }

    fn retried(policy: impl RetryPolicy + 'static) -> Plugins {
        Plugins { retries: Retries(Some(Arc::new(policy))), ..Plugins::default() }
    }

    #[test]
    fn no_retry_policy_breaks_a_promise() {
        let (mut again, mut early) = (0, 0);
        for seed in 0..16 {
            for wait in [Duration::ZERO, Duration::from_millis(300), Duration::MAX] {
                let mut report = run_with(seed, retried(Constant(wait)));
                // Who does not try again does not deliver; all else holds.
                let late = |violation: &Violation| matches!(violation, Violation::NotDeliveredWhenHealed(_));
                report.violations.retain(|violation| wait < Duration::MAX || !late(violation));
                assert!(report.violations.is_empty(), "waits of {wait:?}: {report}");
                again += report.counters.rows_retransmitted;
                early += u64::from(wait == Duration::ZERO) * report.v1.again_slow;
            }
        }
        assert!(again > 0 && early > 0, "sent again {again}, to v1 peers that were slow {early}");
    }

    #[test]
    fn the_standard_retry_policy_is_what_engines_do_without_one() {
        for seed in 0..6 {
            assert_eq!(
                format!("{}", run(seed)),
                format!("{}", run_with(seed, retried(StandardRetry))),
                "{seed}"
            );
        }
    }

    /// No cipher: a keyed hash as the tag, and bytes that are not the plain ones.
    #[derive(Clone, Copy, Debug)]
    struct Toy(u64);

    impl Toy {
        const TAG_BYTES: usize = 8;

        fn tag(self, associated: &[u8], number: u64, sealed: &[u8]) -> [u8; Self::TAG_BYTES] {
            let mut hasher = SipHasher24::new_with_keys(self.0, number);
            (associated, sealed).hash(&mut hasher);
            hasher.finish().to_le_bytes()
        }

        fn seal(self, associated: &[u8], number: u64, body: &mut [u8]) {
            let (plain, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
            plain.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
            tag.copy_from_slice(&self.tag(associated, number, plain));
        }

        fn open(self, associated: &[u8], number: u64, body: &mut [u8]) -> Result<(), Unauthentic> {
            let (sealed, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
            if *tag != self.tag(associated, number, sealed) {
                return Err(Unauthentic);
            }
            sealed.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
            Ok(())
        }
    }

    impl Protection for Toy {
        fn tag_bytes(&self) -> usize {
            Self::TAG_BYTES
        }
        fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
            (*self).seal(head.associated, 0, body);
        }
        fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
            (*self).open(head.associated, 0, body)
        }
        fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
            let mut hasher = SipHasher24::new_with_keys(self.0, 1);
            format!("{:?}", (direction.sender, direction.receiver, direction.route, direction.from_opener))
                .hash(&mut hasher);
            Box::new(Self(hasher.finish()))
        }
    }

    impl FlowProtection for Toy {
        fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
            (*self).seal(head.associated, head.packet_number, body);
        }
        fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
            (*self).open(head.associated, head.packet_number, body)
        }
    }

    #[test]
    fn sealed_flows_keep_every_promise() {
        let (mut sum, mut delivered, mut unauthentic) = (FaultCounts::default(), 0, 0);
        for seed in (0..40).filter(|&seed| wire_of(seed) == Wire::Binary) {
            let plugins = Plugins { protection: Some(Arc::new(Toy(77))), ..Plugins::default() };
            let report = run_with(seed, plugins);
            assert!(report.violations.is_empty(), "{report}");
            delivered += report.delivered;
            unauthentic += report.counters.dropped(DropReason::BinaryUnauthentic);
            assert_eq!(report.counters.dropped(DropReason::BinaryChecksum), 0);
            sum.add(&report.counts);
        }
        assert!(delivered > 1_000 && unauthentic > 0, "{delivered} {unauthentic}");
        assert!([sum.lost, sum.corrupted, sum.restarted, sum.rebound].iter().all(|&n| n > 0), "{sum:?}");
    }

    #[test]
    fn a_seed_is_repeated_exactly() {
        let kinds =
            [(11, Wire::Csv, false), (6, Wire::Csv, true), (7, Wire::Binary, false), (8, Wire::Auto, true)];
        for (seed, wire, v1_peers) in kinds {
            let (a, b) = (run(seed), run(seed));
            assert_eq!((a.wire, a.v1_peers > 0), (wire, v1_peers));
            assert_eq!(format!("{a}"), format!("{b}"));
        }
    }
>>>>>>> Stashed changes
}
