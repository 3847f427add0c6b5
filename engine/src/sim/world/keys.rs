//! Sealed worlds whose engines have pre-shared keys, each in a file of its own, and change them as operators do
//! ([`PreSharedKeys`], "New keys"): nobody takes a step before all have taken the one before.

use super::World;
use crate::hash::{Rng, Seed};
use crate::proto::keys::{Cipher, PreSharedKeys};
use crate::proto::plugins::Plugins;
use crate::runtime::internals::lock;
use crate::sim::scenes::SceneCounts;
use std::sync::Arc;

/// Datagrams that are sealed under one key of a flow's direction, at least and at most: more than can be under way, or all of
/// those under one key might be lost, and the phase tells this key from the next one alone.
const REKEY_AFTER: [u32; 2] = [2_000, 4_000];

/// The old key; both; the new one first; the new one alone.
const STEPS: usize = 4;
/// The step at which it seals with the new one.
const TURNED: usize = 2;

/// The keys of a world.
pub(super) struct Keys {
    texts: [String; STEPS],
    cipher: Cipher,
    rekey_after: u64,
    nobody: [u8; 32],
    /// By engine: its keys, and the step they are at.
    files: Vec<(PreSharedKeys, usize)>,
}

impl Keys {
    /// Of two keys and a cipher drawn.
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let mut key = || (0..4).fold(String::new(), |text, _| text + &format!("{:016x}", rng.next_u64()));
        let [old, new] = [1, 2].map(|id| format!("{id} {}\n", key()));
        let texts = [old.clone(), format!("{old}{new}"), format!("{new}{old}"), new];
        let [least, most] = REKEY_AFTER;
        Self {
            texts,
            cipher: Cipher::ALL[rng.below(Cipher::ALL.len() as u32) as usize],
            rekey_after: u64::from(least + rng.below(most - least)),
            nobody: std::array::from_fn(|_| rng.next_u8()),
            files: Vec::new(),
        }
    }

    fn open(&self) -> PreSharedKeys {
        let keys = PreSharedKeys::parse(self.texts[0].as_bytes(), self.cipher).expect("keys as text");
        keys.of_simulator(self.rekey_after, &self.nobody)
    }

    /// The protection of an engine that has none of its own yet.
    pub(super) fn plugins(&self) -> Plugins {
        Plugins { protection: Some(Arc::new(self.open())), ..Plugins::default() }
    }

    /// Who is to take the next step: one of those that are behind.
    fn next(&self) -> Option<usize> {
        let files = self.files.iter().enumerate();
        files
            .min_by_key(|(_, (_, step))| *step)
            .filter(|(_, (_, step))| step + 1 < STEPS)
            .map(|(engine, _)| engine)
    }
}

impl World {
    /// What an engine is started with. Its keys stay what they are when it starts again.
    pub(super) fn plugins_of(&mut self, engine: usize) -> Plugins {
        let Some(keys) = &mut self.keys else { return self.plugins.clone() };
        while keys.files.len() <= engine {
            let file = keys.open();
            keys.files.push((file, 0));
        }
        let own = keys.files[engine].0.clone();
        Plugins { protection: Some(Arc::new(own)), ..self.plugins.clone() }
    }

    /// How often an engine takes a step while the network misbehaves: so many that in some worlds all take all of them.
    pub(super) fn draw_steps(&self) -> u32 {
        let all = (self.engines.len() * (STEPS - 1)) as u32;
        if self.keys.is_some() { self.root.rng(22).below(all + all / 2).min(all) } else { 0 }
    }

    /// One of those that are behind reads its keys anew.
    pub(super) fn take_step(&mut self) {
        let Some((keys, engine)) = self.keys.as_mut().and_then(|keys| keys.next().map(|next| (keys, next)))
        else {
            return;
        };
        let (file, step) = &mut keys.files[engine];
        *step += 1;
        file.replace(keys.texts[*step].as_bytes()).expect("keys as text");
        let mut log = lock(&self.log);
        log.trace.event(format_args!("engine {engine}: step {step} of its keys"));
        if *step == TURNED {
            log.seals_anew(engine);
        }
        let SceneCounts { keys_added, keys_turned, keys_taken_away, .. } = &mut self.scenes;
        *[keys_added, keys_turned, keys_taken_away][*step - 1] += 1;
        self.engines[engine].shared.wake_all();
    }
}

/// The keys of a sealed world, in half of them.
pub(super) fn keys_of(root: &Seed) -> Option<Keys> {
    let mut rng = root.rng(21);
    (rng.below(2) == 0).then(|| Keys::draw(&mut rng))
}
