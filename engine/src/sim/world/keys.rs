//! Sealed worlds whose keys change.

use super::World;
use crate::proto::plugins::Plugins;
use crate::runtime::internals::lock;
use crate::sim::key_files::{STEPS, TURNED};
use crate::sim::scenes::SceneCounts;
use crate::units::Instant;
use std::time::Duration;

/// Once the network has healed, all have added and turned to the new key within this time,
const TURNS: Duration = Duration::from_secs(10);
/// and lose the old one so long after that: the longest default deadline of these sizes.
const LONGEST: Duration = Duration::from_secs(31);
/// And so long messages are put meanwhile, in these worlds.
pub(super) const LATE: Duration = Duration::from_secs(55);

impl World {
    /// What an engine is started with.
    pub(super) fn plugins_of(&mut self, engine: usize) -> Plugins {
        let plugins = self.plugins.clone();
        match &mut self.keys {
            Some(keys) => keys.protect(engine, plugins),
            None => plugins,
        }
    }

    /// How often an engine takes a step while the network misbehaves: so many that in some worlds all take all of them.
    pub(super) fn draw_steps(&self) -> u32 {
        let all = (self.engines.len() * (STEPS - 1)) as u32;
        if self.keys.is_some() { self.root.rng(22).below(all + all / 2).min(all) } else { 0 }
    }

    /// The steps that are left, by the book: the last one when all that was put before the one before it has ended.
    pub(super) fn steps_when_healed(&self) -> Vec<Instant> {
        let Some(keys) = &self.keys else { return Vec::new() };
        let mut rng = self.root.rng(23);
        let turns = keys.left().saturating_sub(self.engines.len().min(keys.left()));
        let mut within = |from: Duration, span: Duration| {
            self.heal_at + from + Duration::from_millis(rng.below(span.as_millis() as u32).into())
        };
        let mut steps: Vec<Instant> = (0..turns).map(|_| within(Duration::ZERO, TURNS)).collect();
        steps.extend((turns..keys.left()).map(|_| within(TURNS + LONGEST, TURNS)));
        steps.sort_unstable();
        steps
    }

    /// The keys of one of those that are behind change.
    pub(super) fn take_step(&mut self) {
        let turn = self.rng.next_u32();
        let Some((engine, step)) = self.keys.as_mut().and_then(|keys| keys.step(turn)) else { return };
        let mut log = lock(&self.log);
        log.trace.event(format_args!("engine {engine}: step {step} of its keys"));
        if step == TURNED {
            log.seals_anew(engine);
        }
        let SceneCounts { keys_added, keys_turned, keys_taken_away, .. } = &mut self.scenes;
        *[keys_added, keys_turned, keys_taken_away][step - 1] += 1;
        self.engines[engine].shared.wake_all();
    }
}
