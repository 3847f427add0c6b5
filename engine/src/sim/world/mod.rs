//! A seed's world: engines, v1 peers, messages, virtual time. Faults first, then a healed network in which everything must finish.

mod auto;
mod drain;
mod engines;
mod faults;
mod keys;
mod limits;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod v1;

pub use report::Report;

use self::auto::wire_of;
use self::engines::{AnyShard, SimEngine, each};
use self::faults::Incident;
use self::v1::SimV1;
use super::checkers::{Log, Violation};
use super::faults::Faults;
use super::key_files::KeyFiles;
use super::last_sent::LastSent;
use super::network::{Network, SharedNetwork};
use super::scenes::SceneCounts;
use super::toy_cipher::Toy;
use super::trace::Record;
use crate::config::Wire;
use crate::error::{DeliveryError, Reached, SubmitReason};
use crate::hash::{Rng, Seed};
use crate::message::{Message, Outgoing};
use crate::observe::Counters;
use crate::proto::plugins::Plugins;
use crate::runtime::internals::{Turn, lock};
use crate::units::Instant;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long the network misbehaves, in virtual time.
const FAULTY: Duration = Duration::from_secs(4);
/// The same with v1 peers: their tries take 6 s, a row to them may take 8.
const FAULTY_V1: Duration = Duration::from_secs(12);
/// Everything must be over by then: after the last of the late messages, the longest default deadline of these sizes, and
/// partials' idle time.
const LIMIT: Duration = Duration::from_secs(160);
/// Turns a shard may take at one instant; more means that it spins.
const TURNS_MAX: usize = 20_000;

/// Messages an application puts at once.
const BATCH_MAX: usize = 256;
/// Moments between two looks at what engines keep.
const LIMITS_EVERY: u64 = 64;

/// After the last outcome: idle partials expire, and what is said of them to peers that are gone is given up.
const SETTLE: Duration = Duration::from_secs(25);
/// Then engines sleep: for so long, nothing is to happen but a few turns of timer wheels.
const REST: Duration = Duration::from_secs(5);
/// Moments at which something happens. A world has a few thousand datagrams and timers; one in which bursts of thousands of
/// messages meet buckets of four has many more.
const STEPS_MAX: u64 = 400_000;

struct World {
    rng: Rng,
    /// What it is about; [`Wire::Auto`]: it is mixed.
    wire: Wire,
    plugins: Plugins,
    /// What engines seal with, where they have keys of their own.
    keys: Option<KeyFiles>,
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
    /// Operations that ended with their engine.
    abandoned: u64,
    /// Times at which something happened.
    steps: u64,
    steps_at_rest: u64,
    /// By engine: rows without a place among the partial messages, and in the memory of what was delivered, until the network
    /// healed.
    refused_places: Vec<[u64; 2]>,
    scenes: SceneCounts,
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64) -> Report {
    World::of_seed(seed).run_to_its_end(seed)
}

/// As [`run`], and if its world is a binary one, everything is sealed with pre-shared keys that change.
#[must_use]
pub fn run_with_keys(seed: u64) -> Report {
    Report { keyed: true, ..World::with_keys(seed).run_to_its_end(seed) }
}

/// As [`run`], or [`run_with_keys`], and writes down what happens.
///
/// # Errors
/// It could not be written.
pub fn run_recorded(seed: u64, keyed: bool, record: Record) -> io::Result<Report> {
    let world = if keyed { World::with_keys(seed) } else { World::of_seed(seed) };
    let trace = world.network.borrow().trace.clone();
    trace.record(trace.now(), record)?;
    let report = world.run_to_its_end(seed);
    trace.finish().1?;
    Ok(Report { keyed, ..report })
}

/// As [`run`], with these in all engines.
#[cfg(test)]
pub(crate) fn run_with(seed: u64, plugins: Plugins) -> Report {
    World::new(seed, plugins, None).run_to_its_end(seed)
}

impl World {
    /// In one binary seed of three everything is sealed, in two of three of these with keys that change.
    fn of_seed(seed: u64) -> Self {
        let root = Seed::from_number(seed);
        if wire_of(seed) != Wire::Binary || root.rng(19).below(3) > 0 {
            return Self::new(seed, Plugins::default(), None);
        }
        let mut rng = root.rng(21);
        if rng.below(3) > 0 {
            return Self::with_keys_of(seed, &mut rng);
        }
        let toy = Toy(root.rng(20).next_u64());
        Self::new(seed, Plugins { protection: Some(Arc::new(toy)), ..Plugins::default() }, None)
    }

    fn with_keys(seed: u64) -> Self {
        if wire_of(seed) != Wire::Binary {
            return Self::of_seed(seed);
        }
        Self::with_keys_of(seed, &mut Seed::from_number(seed).rng(21))
    }

    fn with_keys_of(seed: u64, rng: &mut Rng) -> Self {
        let keys = KeyFiles::draw(rng);
        let plugins = Plugins { protection: Some(Arc::new(keys.open())), ..Plugins::default() };
        Self::new(seed, plugins, Some(keys))
    }

    fn run_to_its_end(mut self, seed: u64) -> Report {
        let faults = self.draw_faults();
        let start = self.network.borrow().now();
        self.plan_messages(start);
        self.run(start);
        self.report(seed, faults)
    }

    fn new(seed: u64, plugins: Plugins, keys: Option<KeyFiles>) -> Self {
        let root = Seed::from_number(seed);
        let wire = wire_of(seed);
        let network = Rc::new(RefCell::new(Network::new(root.rng(10), Faults::default())));
        network.borrow_mut().last_sent = Some(LastSent::default());
        let heal_at = network.borrow().now();
        let trace = network.borrow().trace.clone();
        trace.at(heal_at);
        let mut log = Log::new(trace);
        log.sealed = plugins.protection.is_some();
        let log = Arc::new(Mutex::new(log));
        let mut world = Self {
            rng: root.rng(11),
            wire,
            plugins,
            keys,
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
            lock(&world.log).get_at_once.insert(engines + number);
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
                self.check_limits();
                let mut log = lock(&self.log);
                log.healed_at = Some(now);
                log.trace.event(format_args!("the network heals"));
                drop(log);
                self.incidents.clear();
                let steps = self.steps_when_healed();
                self.incidents.extend(steps.into_iter().map(|at| (at, 0, Incident::NextKeys)));
                *lock(&self.refuse_per_mille) = 0;
            }
            self.steps += 1;
            if self.steps.is_multiple_of(LIMITS_EVERY) {
                self.check_limits();
            }
            self.handle_incidents(now);
            self.hand_out(now);
            self.turns(now);
            self.handle_drains(now);
            for peer in &mut self.v1_peers {
                peer.turn(&mut self.network.borrow_mut(), &mut lock(&self.log));
            }
            self.applications(now, healed);
            if self.schedule.is_empty() && self.incidents.is_empty() && lock(&self.log).is_complete() {
                // Wait for that once.
                let until = *complete_at.get_or_insert(now + SETTLE);
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
            .any(|engine| engine.is_up() && engine.bucket.is_some() && !engine.has_put_all());
        let poll = busy.then(|| now + Duration::from_millis(1));
        let waits = self.engines.iter().flat_map(|engine| [engine.slow_until, engine.still_until]);
        let cancels = self.engines.iter().flat_map(|engine| engine.deliveries.iter().filter_map(|row| row.2));
        let slow = waits.chain(cancels).filter(|&at| at > now);
        let awake = self.engines.iter().filter(|engine| engine.still_until <= now);
        let shards = awake.flat_map(|engine| engine.shards.iter().zip(&engine.finished));
        let running = shards.filter(|(_, finished)| !**finished);
        let deadlines = running.filter_map(|(shard, _)| each!(shard, shard => shard.next_deadline()));
        // What applications put behind the shards' turns wakes them.
        let mail = self.engines.iter().any(|engine| engine.still_until <= now && engine.has_mail());
        let mail = mail.then_some(now);
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
            .chain(mail)
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
            let Some(engine) = self.engines.get_mut(sender) else {
                self.v1_peers[sender - self.engines.len()].put(outgoing);
                continue;
            };
            let cancel_after = lock(&self.log).fates.get_mut(&outgoing.tag).and_then(|fate| {
                fate.sent = true;
                fate.cancel_after
            });
            match cancel_after {
                Some(after) if engine.bucket.is_some() => engine.one_by_one.push_back((outgoing, after)),
                _ => lock(&engine.plan).push_back(outgoing),
            }
            engine.shared.wake_all();
        }
    }

    /// Lets every shard with something to do work until it has nothing more, in random order. As on a machine, the others
    /// sleep: what nobody wakes them for is not done.
    fn turns(&mut self, now: Instant) {
        let all = self.network.borrow_mut().take_writable();
        let engines = self.engines.len();
        let first = self.rng.below(engines as u32) as usize;
        for round in 0..TURNS_MAX {
            let mut busy = false;
            for offset in 0..engines {
                let engine = &mut self.engines[(first + offset) % engines];
                if now < engine.still_until {
                    continue;
                }
                let phase_changed = engine.draining.is_some();
                let SimEngine { addr, shards, finished, shared, .. } = engine;
                for (index, (shard, finished)) in shards.iter_mut().zip(finished).enumerate() {
                    let is_due = |shard: &AnyShard| {
                        all && round == 0
                            || phase_changed
                            || self.network.borrow().has_packets(*addr, index)
                            || shared.links[index].is_kicked()
                            || each!(shard, shard => shard.has_mail())
                            || each!(shard, shard => shard.next_deadline()).is_some_and(|at| at <= now)
                    };
                    if *finished || !is_due(shard) {
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
            let waits = now < engine.slow_until || now < engine.still_until;
            if engine.bucket.is_none() || (waits && !healed) {
                continue;
            }
            if !healed && self.rng.below(1_000) == 0 {
                let until = now + Duration::from_millis(self.rng.below(500).into());
                self.stop_application(now, index, until.min(self.heal_at));
            }
            self.take_application_side(index);
            let engine = &self.engines[index];
            let Some(bucket) = &engine.bucket else { continue };
            let mut plan = lock(&engine.plan);
            let count = plan.len().min(BATCH_MAX);
            let mut batch: Vec<Outgoing> = plan.drain(..count).collect();
            let numbers: Vec<u64> = batch.iter().map(|outgoing| outgoing.tag).collect();
            let count = bucket.put_batch(&mut batch);
            numbers[..count].iter().for_each(|&number| lock(&self.log).accepted(number, None));
            batch.into_iter().rev().for_each(|outgoing| plan.push_front(outgoing));
            drop(plan);
            self.put_one_by_one(now, index);
        }
    }

    /// Puts the messages that will be cancelled, as far as there is room.
    fn put_one_by_one(&mut self, now: Instant, index: usize) {
        let engine = &mut self.engines[index];
        let Some(bucket) = &engine.bucket else { return };
        let mut log = lock(&self.log);
        while let Some((outgoing, cancel_after)) = engine.one_by_one.pop_front() {
            let number = outgoing.tag;
            match bucket.try_put(outgoing) {
                Ok(delivery) => {
                    log.accepted(number, None);
                    engine.deliveries.push((number, delivery, Some(now + cancel_after)));
                }
                Err(back) if matches!(back.reason, SubmitReason::Full) => {
                    return engine.one_by_one.push_front((*back.outgoing, cancel_after));
                }
                Err(back) => {
                    let error = DeliveryError { cause: back.reason.cause(), reached: Reached::Never };
                    log.outcome(number, Err(error));
                }
            }
        }
    }

    /// Cancels what is due for that, and takes the outcomes of what was put one by one.
    fn look_at_deliveries(&mut self, index: usize) {
        let now = self.network.borrow().now();
        self.engines[index].deliveries.retain_mut(|(number, delivery, cancel_at)| {
            if cancel_at.take_if(|at| *at <= now).is_some() {
                delivery.cancel();
            }
            match Pin::new(delivery).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => true,
                Poll::Ready(outcome) => {
                    lock(&self.log).outcome(*number, outcome);
                    false
                }
            }
        });
    }

    /// What an engine has received is gone before its application looks for it.
    fn lose_received(&mut self, index: usize) {
        let mut messages: Vec<Message> = Vec::new();
        self.engines[index].shared.recv.drain_into(&mut messages);
        let mut log = lock(&self.log);
        messages.iter().for_each(|message| log.lost_in_memory(index, message.payload()));
    }

    /// What an engine's buckets hold for its application.
    fn take_application_side(&mut self, index: usize) {
        self.look_at_deliveries(index);
        let engine = &self.engines[index];
        let Some(bucket) = &engine.bucket else { return };
        let mut messages: Vec<Message> = Vec::new();
        engine.shared.recv.drain_into(&mut messages);
        let mut log = lock(&self.log);
        for message in messages {
            let options = (message.correlation(), message.level());
            if log.received(index, message.payload(), options, message.meta().map(|meta| &meta[..])) {
                message.commit();
            }
        }
        let mut outcomes = Vec::new();
        bucket.outcome_batch(&mut outcomes);
        for (tag, outcome) in outcomes {
            log.outcome(tag, outcome);
        }
    }
}
