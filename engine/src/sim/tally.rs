//! What many seeds did. A kind of fault, drop, outcome or scene that none of them had proves nothing.

use super::{FaultCounts, LaneCounts, Report, SceneCounts, V1Counts};
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::wire::DropReason;
use std::collections::BTreeMap;
use std::fmt;

/// Drops that no world can bring about, and why.
const DROPS_NOT_SEEN: [(DropReason, &str); 1] =
    [(DropReason::ForwardFull, "4,096 datagrams would have to wait between two shards that take turns")];

/// Outcomes that no world can bring about, and why.
const OUTCOMES_NOT_SEEN: [(FailureCause, &str); 1] = [(
    FailureCause::Refused(crate::error::Refusal::ByPeer),
    "what a peer of a later version may say: ours refuses for no reason that has no name of its own",
)];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Seeds that were run.
    pub seeds: u64,
    /// Of these, those that broke a promise.
    pub broken: u64,
    /// Messages put.
    pub messages: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Seeds by the number of kinds of faults that happened in them.
    pub kinds: BTreeMap<usize, u64>,
    /// Faults that happened.
    pub faults: FaultCounts,
    /// Rows from and to v1 peers.
    pub v1: V1Counts,
    /// Messages in lanes.
    pub lanes: LaneCounts,
    /// Scenes.
    pub scenes: SceneCounts,
    /// What engines counted.
    pub counters: Counters,
    /// By cause, in the order of [`FailureCause::ALL`]: how often an application was told of it.
    pub outcomes: [u64; FailureCause::ALL.len()],
}

impl Tally {
    /// Adds a seed's report.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.broken += u64::from(!report.violations.is_empty());
        self.messages += report.messages as u64;
        self.delivered += report.delivered as u64;
        *self.kinds.entry(report.counts.kinds()).or_default() += 1;
        self.faults.add(&report.counts);
        self.v1.add(&report.v1);
        self.lanes.add(&report.lanes);
        self.scenes.add(&report.scenes);
        self.counters.add(&report.counters);
        self.outcomes.iter_mut().zip(report.outcomes).for_each(|(sum, count)| *sum += count);
    }

    /// A seed whose run ended in a panic.
    pub fn add_panicked(&mut self) {
        self.seeds += 1;
        self.broken += 1;
    }

    /// Adds what another thread ran.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.broken += other.broken;
        self.messages += other.messages;
        self.delivered += other.delivered;
        other.kinds.iter().for_each(|(kinds, seeds)| *self.kinds.entry(*kinds).or_default() += seeds);
        self.faults.add(&other.faults);
        self.v1.add(&other.v1);
        self.lanes.add(&other.lanes);
        self.scenes.add(&other.scenes);
        self.counters.add(&other.counters);
        self.outcomes.iter_mut().zip(other.outcomes).for_each(|(sum, count)| *sum += count);
    }

    /// What should have occurred, and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let faults = self.faults.missing().into_iter().map(|name| format!("fault {name}"));
        let scenes = self.scenes.missing().into_iter().map(|name| format!("scene {name}"));
        let seen = |reason: &DropReason| {
            self.counters.dropped(*reason) > 0 || DROPS_NOT_SEEN.iter().any(|row| row.0 == *reason)
        };
        let drops = DropReason::ALL.iter().filter(|reason| !seen(reason));
        let drops = drops.map(|reason| format!("drop {}", reason.label()));
        let outcomes = FailureCause::ALL
            .iter()
            .zip(self.outcomes)
            .filter(|(cause, count)| *count == 0 && !OUTCOMES_NOT_SEEN.iter().any(|row| row.0 == **cause));
        let outcomes = outcomes.map(|(cause, _)| format!("outcome {}", cause.label()));
        faults.chain(scenes).chain(drops).chain(outcomes).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.kinds.first_key_value().map_or(0, |row| *row.0);
        let most = self.kinds.last_key_value().map_or(0, |row| *row.0);
        writeln!(
            f,
            "{} seeds: {} messages, {} delivered; {least} to {most} kinds of faults in each",
            self.seeds, self.messages, self.delivered
        )?;
        for (name, count) in self.faults.iter() {
            writeln!(f, "  fault    {name:<32} {count:>12}")?;
        }
        for (name, count) in self.scenes.iter() {
            writeln!(f, "  scene    {name:<32} {count:>12}")?;
        }
        for &reason in DropReason::ALL {
            writeln!(f, "  drop     {:<32} {:>12}", reason.label(), self.counters.dropped(reason))?;
        }
        writeln!(f, "  outcome  {:<32} {:>12}", "delivered", self.delivered)?;
        for (cause, count) in FailureCause::ALL.iter().zip(self.outcomes) {
            writeln!(f, "  outcome  {:<32} {count:>12}", cause.label())?;
        }
        let counted = |label: &str| label.starts_with("dropped_") || label.starts_with("failed_");
        for (label, value) in self.counters.iter().filter(|row| row.1 > 0 && !counted(&row.0)) {
            writeln!(f, "  counter  {label:<32} {value:>12}")?;
        }
        writeln!(f, "  {:?}\n  {:?}", self.v1, self.lanes)?;
        for (reason, why) in DROPS_NOT_SEEN {
            writeln!(f, "  never    drop {}: {why}", reason.label())?;
        }
        for (cause, why) in OUTCOMES_NOT_SEEN {
            writeln!(f, "  never    outcome {}: {why}", cause.label())?;
        }
        Ok(())
    }
}
