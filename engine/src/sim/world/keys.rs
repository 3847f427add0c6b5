//! Sealed worlds whose keys change.

use super::World;
use crate::proto::plugins::Plugins;
use crate::runtime::internals::lock;
use crate::sim::key_files::{STEPS, TURNED};
use crate::sim::scenes::SceneCounts;

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

    /// The keys of one of those that are behind change.
    pub(super) fn take_step(&mut self) {
        let Some((engine, step)) = self.keys.as_mut().and_then(|keys| keys.step()) else { return };
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
