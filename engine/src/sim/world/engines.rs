//! The engines of a world: how they are drawn and started, and what their actors do.

use super::World;
use super::drain::Draining;
use crate::config::{Config, Preset, Wire};
use crate::error::SubmitReason;
use crate::error::{DeliveryError, Reached};
use crate::hash::{Rng, Seed};
use crate::message::{MessageRef, Outcome, Outgoing, Verdict};
use crate::proto::congestion::Algorithm;
use crate::proto::outbound::{Families, Place};
use crate::runtime::internals::{
    Actor, ActorApp, BucketApp, Context, Delivery, SendBucket, Setup, Shard, Shared, lock,
};
use crate::sim::checkers::Log;
use crate::sim::driver::SimDriver;
use crate::sys::ring::RingOptions;
use crate::sys::wake::Wake;
use crate::units::Instant;
use crate::wire::DropReason;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The application of an engine that uses actors.
pub(super) struct SimActor {
    engine: usize,
    log: Arc<Mutex<Log>>,
    plan: Arc<Mutex<VecDeque<Outgoing>>>,
    refuse_per_mille: Arc<Mutex<u32>>,
    rng: Rng,
}

impl Actor for SimActor {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        // Some put in answer to a message; most when it is their turn.
        if self.rng.below(4) == 0 {
            self.put_planned(context, 1);
        }
        if self.rng.below(1_000) < *lock(&self.refuse_per_mille) {
            lock(&self.log).refused += 1;
            return Verdict::Refuse;
        }
        let options = (message.correlation(), message.level());
        let commits = lock(&self.log).received(self.engine, message.payload, options, message.meta());
        if let Some(commit) = message.take_commit().filter(|_| commits) {
            commit.commit();
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        lock(&self.log).outcome(tag, outcome);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        self.put_planned(context, usize::MAX);
    }
}

impl SimActor {
    /// Puts what is due, so many messages at most.
    fn put_planned(&self, context: &mut Context<'_>, count: usize) {
        let mut plan = lock(&self.plan);
        for _ in 0..count {
            let Some(outgoing) = plan.pop_front() else { break };
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
            $crate::sim::world::engines::AnyShard::Actor($inner) => $body,
            $crate::sim::world::engines::AnyShard::Bucket($inner) => $body,
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
    /// Its application does not look at its buckets until then.
    pub(super) slow_until: Instant,
    /// It stands still until then.
    pub(super) still_until: Instant,
    /// Messages due that are put one by one, and how long after that each is cancelled.
    pub(super) one_by_one: VecDeque<(Outgoing, Duration)>,
    /// Those that were, and when they are cancelled.
    pub(super) deliveries: Vec<(u64, Delivery, Option<Instant>)>,
}

impl World {
    pub(super) fn draw_engine(&mut self, index: usize) -> SimEngine {
        let shards = 1 + self.rng.below(3) as u16;
        let addr = SocketAddr::from(([10, 0, 0, index as u8 + 1], 25_252));
        let seed = Seed::from_number(self.root.rng(100 + index as u64).next_u64());
        let mut config =
            Config { shards, wire: self.wire, stall_after: Duration::ZERO, ..Config::preset(Preset::Small) };
        // Tight limits are met only if they are tight.
        config.ops_in_flight_max = [8, 64, 4_096][self.rng.below(3) as usize];
        config.recv_bucket_messages = [4, 64, 4_096][self.rng.below(3) as usize];
        config.partials_max = [8, 256][self.rng.below(2) as usize];
        config.partials_per_peer_max = config.partials_max.min(64);
        if self.wire == Wire::Csv && self.root.rng(201 + index as u64).below(4) == 0 {
            (config.tombstones_max, config.dedup_pages_max) = (64, 4);
        }
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
            // One host, and there are not many, gets three quarters of it (R-SHARE-1).
            config.partial_bytes_max = config.partial_bytes_max / 3 * 4;
            config.partial_bytes_per_peer_max = config.partial_bytes_max;
            rcvbuf_bytes = [rcvbuf_bytes, 50_000, 200_000][pick(3)];
            // Hardly more than there are shards of others: flows that sleep make way. Sealed, no RESET tells whose did, and the next
            // message on it is lost (R-PROT-6).
            if self.wire == Wire::Binary && self.plugins.protection.is_none() {
                let drawn = self.root.rng(220 + index as u64).below(3) as usize;
                config.peers_max = [config.peers_max, 16, 12][drawn];
            }
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
        let plugins = self.plugins_of(index);
        let ring = self.draw_ring(index);
        let mut shards: Vec<AnyShard> = (0..shards)
            .map(|shard| {
                let place = Place { shard, shards, families };
                let driver = match &ring {
                    Some(ring) => SimDriver::over_ring(&self.network, addr, shard.into(), ring),
                    None => SimDriver::new(&self.network, addr, shard.into()),
                };
                let setup = Setup {
                    rcvbuf_bytes,
                    config: &config,
                    plugins: &plugins,
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
        if with_actor {
            lock(&self.log).get_at_once.insert(index);
        }
        let bucket = (!with_actor).then(|| SendBucket::new(Arc::clone(&shared)));
        let finished = vec![false; shards.len()];
        SimEngine {
            addr,
            config,
            rcvbuf_bytes,
            shared,
            shards,
            finished,
            draining: None,
            plan,
            bucket,
            slow_until: now,
            still_until: now,
            one_by_one: VecDeque::new(),
            deliveries: Vec::new(),
        }
    }
}

impl World {
    /// In half of the engines the driver is that of production, over a simulated kernel; with queues and buffers for few, where
    /// they may run out.
    fn draw_ring(&self, engine: usize) -> Option<RingOptions> {
        let mut rng = self.root.rng(240 + engine as u64);
        let mut pick = |count: u32| rng.below(count) as usize;
        let (of_production, cq_entries, recv_buffers) =
            (pick(2) == 0, [8, 16, 4_096][pick(3)], [2, 8, 128][pick(3)]);
        of_production.then_some(RingOptions { cq_entries, recv_buffers, recv_buffer_bytes: 64 << 10 })
    }
}

impl SimEngine {
    /// A shard that runs has something to do.
    pub(super) fn has_mail(&self) -> bool {
        let running = self.shards.iter().zip(&self.finished).filter(|(_, finished)| !**finished);
        running.map(|(shard, _)| shard).any(|shard| each!(shard, shard => shard.has_mail()))
    }

    /// Nothing waits for room in its bucket.
    pub(super) fn has_put_all(&self) -> bool {
        lock(&self.plan).is_empty() && self.one_by_one.is_empty()
    }

    /// Rows without a place among the partial messages, and in the memory of what was delivered.
    pub(super) fn refused_places(&self) -> [u64; 2] {
        [DropReason::PartialsFull, DropReason::DedupFull].map(|reason| {
            self.shards.iter().map(|shard| each!(shard, shard => shard.counters()).dropped(reason)).sum()
        })
    }

    /// A limit made it leave rows unconfirmed.
    pub(super) fn has_refused_rows(&self) -> bool {
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
