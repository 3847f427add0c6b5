//! What a seed did, and the verdict at its end.

use super::auto::count_mixed;
use super::engines::each;
use super::{STEPS_MAX, World};
use crate::config::Wire;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::runtime::internals::lock;
use crate::sim::checkers::{Kind, Log, Violation};
use crate::sim::faults::{FaultCounts, Faults};
use crate::sim::lane_order::LaneCounts;
use crate::sim::scenes::SceneCounts;
use crate::sim::v1_watch::{Brought, V1Counts};
use crate::wire::DropReason;
use std::fmt;

const STEPS_AT_REST: u64 = 200;

/// Less proves nothing.
const MESSAGES_MIN: usize = 2_000;
const ENGINES_MIN: usize = 2;
const KINDS_MIN: usize = 3;

/// What a seed did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Run by [`run_with_keys`](super::run_with_keys).
    pub keyed: bool,
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
    /// By cause, in the order of [`FailureCause::ALL`]: outcomes that applications were told.
    pub outcomes: [u64; FailureCause::ALL.len()],
    /// Of everything that happened, in its order.
    pub hash: u64,
    /// Promises broken: none, if all is well.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, wire, engines, faults, .. } = self;
        writeln!(f, "seed {seed}: {wire:?}, engines with shards {engines:?}, {faults:?}")?;
        writeln!(f, "  happened: {:?}", self.counts)?;
        writeln!(f, "  hash of all events {:016x}", self.hash)?;
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
        write!(f, "  replay: scripts/check sim {}{}", self.seed, if self.keyed { " --keys" } else { "" })
    }
}

impl World {
    pub(super) fn report(mut self, seed: u64, faults: Faults) -> Report {
        // A message in a receive bucket that was never emptied was delivered all the same.
        let now = self.network.borrow().now();
        self.applications(now, true);
        let mut log = std::mem::take(&mut *lock(&self.log));
        let v1 = self.judge_v1(&mut log);
        for (index, (engine, before)) in self.engines.iter().zip(&self.refused_places).enumerate() {
            let [no_place, full_dedup] = engine.refused_places();
            if no_place > before[0] {
                log.had_no_place.insert(index);
            }
            if full_dedup > before[1] {
                log.had_full_dedup.insert(index);
            }
        }
        let network = self.network.borrow();
        log.judge_last_sent(|sender, number| {
            network.last_sent.as_ref()?.at(self.engines.get(sender)?.addr, number)
        });
        drop(network);
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
                log.sums(index, &each!(shard, shard => shard.sums()));
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
        let ended = total.messages_delivered + total.failed_total() + self.abandoned;
        if total.messages_accepted != ended {
            let text = format!("accepted {} != ended {ended}", total.messages_accepted);
            log.violations.push(Violation::Ledger(text));
        }
        let mut counts = self.network.borrow().counts;
        counts.app_refused = log.refused;
        counts.bucket_full = total.dropped(DropReason::BucketFull);
        let messages = log.fates.values().filter(|fate| fate.is_put()).count();
        if messages < MESSAGES_MIN || self.engines.len() < ENGINES_MIN || counts.kinds() < KINDS_MIN {
            let size = (messages, self.engines.len(), counts.kinds());
            log.violations.push(Violation::TooLittle(format!("messages, engines, kinds of faults {size:?}")));
        }
        let mut outcomes = [0; FailureCause::ALL.len()];
        for error in
            log.fates.values().flat_map(|fate| fate.outcomes.iter().filter_map(|outcome| outcome.err()))
        {
            let index = FailureCause::ALL.iter().position(|cause| *cause == error.cause);
            index.into_iter().for_each(|index| outcomes[index] += 1);
        }
        let delivered = log.fates.values().filter(|fate| fate.is_confirmed()).count();
        let lanes = log.lane_counts();
        Report {
            seed,
            keyed: false,
            wire: self.wire,
            steps: self.steps,
            engines: self.engines.iter().map(|engine| engine.shards.len()).collect(),
            faults,
            counts,
            outcomes,
            hash: self.network.borrow().trace.finish().0,
            messages,
            delivered,
            v1_peers: self.v1_peers.len(),
            v1,
            lanes,
            scenes,
            counters: total,
            violations: log.violations,
        }
    }

    pub(super) fn count_scenes(&self, log: &Log) -> SceneCounts {
        let mut scenes = self.scenes;
        scenes.add(&log.scenes);
        scenes.second_phase += self.network.borrow().second_phase;
        if self.is_mixed() {
            scenes.add(&self.network.borrow().v1.scenes);
            count_mixed(self, log, &mut scenes);
        }
        scenes
    }

    /// Compares what the v1 peers' tries brought with what the network saw.
    pub(super) fn judge_v1(&self, log: &mut Log) -> V1Counts {
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
