//! Pre-shared keys that change as operators change them ([`PreSharedKeys`], "New keys"): each engine has a file of its own, and
//! nobody takes a step before all have taken the one before.

use crate::hash::Rng;
use crate::proto::keys::{Cipher, PreSharedKeys};
use crate::proto::plugins::Plugins;
use std::sync::Arc;

/// Datagrams that are sealed under one key of a flow's direction, at least and at most: more than can be under way, or all of
/// those under one key might be lost, and the phase tells this key from the next one alone.
const REKEY_AFTER: [u32; 2] = [2_000, 4_000];

/// The old key; both; the new one first; the new one alone.
pub(crate) const STEPS: usize = 4;
/// The step at which an engine seals with the new one.
pub(crate) const TURNED: usize = 2;

/// See the module.
pub(crate) struct KeyFiles {
    texts: [String; STEPS],
    /// As those, where somebody who starts has to be told what others have seen: with the word behind the old one.
    texts_at_start: [String; STEPS],
    cipher: Cipher,
    rekey_after: u64,
    nobody: [u8; 32],
    /// By engine: its keys, and the step they are at.
    files: Vec<(PreSharedKeys, usize)>,
}

impl KeyFiles {
    /// Of two keys and a cipher drawn; nobody has them yet.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut key = || (0..4).fold(String::new(), |text, _| text + &format!("{:016x}", rng.next_u64()));
        let [old, new] = [1, 2].map(|id| format!("{id} {}", key()));
        let texts = [old.clone(), format!("{old}\n{new}"), format!("{new}\n{old}"), new.clone()];
        let mut texts_at_start = texts.clone();
        texts_at_start[TURNED] = format!("{new}\n{old} old");
        let [least, most] = REKEY_AFTER;
        Self {
            texts,
            texts_at_start,
            cipher: Cipher::ALL[rng.below(Cipher::ALL.len() as u32) as usize],
            rekey_after: u64::from(least + rng.below(most - least)),
            nobody: std::array::from_fn(|_| rng.next_u8()),
            files: Vec::new(),
        }
    }

    /// With another number of datagrams for one key of a flow's direction.
    pub(crate) const fn rekey_after(mut self, datagrams: u64) -> Self {
        self.rekey_after = datagrams;
        self
    }

    /// The same keys for somebody whose file is none of these.
    pub(crate) fn open(&self) -> PreSharedKeys {
        self.open_at(0)
    }

    /// Both keys, for somebody whose file is none of these.
    pub(crate) fn open_both(&self) -> PreSharedKeys {
        self.open_at(1)
    }

    fn open_at(&self, step: usize) -> PreSharedKeys {
        let keys =
            PreSharedKeys::parse(self.texts_at_start[step].as_bytes(), self.cipher).expect("keys as text");
        keys.of_simulator(self.rekey_after, &self.nobody)
    }

    /// `plugins` for an engine, with the keys of its file.
    pub(crate) fn protect(&mut self, engine: usize, plugins: Plugins) -> Plugins {
        while self.files.len() <= engine {
            let file = self.open();
            self.files.push((file, 0));
        }
        Plugins { protection: Some(Arc::new(self.files[engine].0.clone())), ..plugins }
    }

    /// An engine starts again: it knows its file, and nothing of what was in it before.
    pub(crate) fn start_again(&mut self, engine: usize) {
        let Some(&(_, step)) = self.files.get(engine) else { return };
        self.files[engine].0 = self.open_at(step);
    }

    /// Steps that are left for all.
    pub(crate) fn left(&self) -> usize {
        self.files.iter().map(|(_, step)| STEPS - 1 - step).sum()
    }

    /// The step that the next one to take one comes to.
    pub(crate) fn next_step(&self) -> usize {
        self.files.iter().map(|(_, step)| step + 1).min().unwrap_or(0)
    }

    /// One of those that are behind, drawn by `turn`, reads its keys anew: which engine, and the step it is at now.
    pub(crate) fn step(&mut self, turn: u32) -> Option<(usize, usize)> {
        let next = self.next_step();
        let text = self.texts.get(next)?;
        let behind: Vec<usize> =
            (0..self.files.len()).filter(|&engine| self.files[engine].1 < next).collect();
        let engine = behind[turn as usize % behind.len()];
        let (file, step) = &mut self.files[engine];
        *step = next;
        file.replace(text.as_bytes()).expect("keys as text");
        Some((engine, next))
    }
}
