//! Engines that are shut down while messages come and go: they drain until a deadline, are gone for a while, and start
//! again at the same address.

use super::World;
use super::engines::{SimEngine, each};
use crate::hash::{Rng, Seed};
use crate::runtime::internals::{Phase, lock};
use crate::units::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// How an engine is shut down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// What `shutdown` is given.
    deadline: Duration,
    /// From its end until the next start.
    gone: Duration,
}

impl Drain {
    /// All of it is over within half of `span`.
    pub(super) fn draw(rng: &mut Rng, span: Duration) -> Self {
        let quarter_ms = span.as_millis() as u32 / 4;
        let deadline_ms = [0, rng.below(50), rng.below(quarter_ms)][rng.below(3) as usize];
        let gone_ms = rng.below(quarter_ms);
        Self {
            deadline: Duration::from_millis(deadline_ms.into()),
            gone: Duration::from_millis(gone_ms.into()),
        }
    }
}

/// An engine that is being shut down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draining {
    drain: Drain,
    until: Instant,
    /// When the next engine starts, once this one is gone.
    next_at: Option<Instant>,
}

impl SimEngine {
    /// It takes messages: nobody shuts it down.
    pub(super) const fn is_up(&self) -> bool {
        self.draining.is_none()
    }

    /// What its applications want to put, and it has not accepted.
    pub(super) fn not_accepted(&self) -> BTreeSet<u64> {
        let one_by_one = self.one_by_one.iter().map(|(outgoing, _)| outgoing.tag);
        lock(&self.plan).iter().map(|outgoing| outgoing.tag).chain(one_by_one).collect()
    }

    /// When the next one starts in its place.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.draining.and_then(|draining| draining.next_at)
    }
}

impl World {
    pub(super) fn start_drain(&mut self, now: Instant, index: usize, drain: Drain) {
        let engine = &mut self.engines[index];
        let until = now + drain.deadline;
        engine.draining = Some(Draining { drain, until, next_at: None });
        engine.shared.advance(Phase::Draining(until));
        self.scenes.drains += 1;
        self.scenes.mixed_drains += u64::from(self.is_mixed());
        lock(&self.log).draining(index);
    }

    /// What follows once all shards have stopped, and once the time without an engine is over.
    pub(super) fn handle_drains(&mut self, now: Instant) {
        for index in 0..self.engines.len() {
            let engine = &self.engines[index];
            let Some(Draining { drain, until, next_at }) = engine.draining else { continue };
            match next_at {
                None if engine.finished.iter().all(|&finished| finished) => {
                    self.scenes.drained_in_time += u64::from(now < until);
                    self.end_drain(index);
                    self.engines[index].draining =
                        Some(Draining { drain, until, next_at: Some(now + drain.gone) });
                }
                Some(at) if at <= now => self.start_again(index),
                _ => {}
            }
        }
    }

    /// The last words of all shards are said; the application takes what is left for it. Every message the engine accepted
    /// has ended now; those it did not are put again at the next start.
    fn end_drain(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        for _ in 0..2 {
            engine.shards.iter_mut().for_each(|shard| each!(shard, shard => shard.stop_inbox(false)));
        }
        engine.shards.iter().for_each(|_| engine.shared.shard_gone());
        self.take_application_side(index);
        let engine = &mut self.engines[index];
        for shard in engine.shards.drain(..) {
            lock(&self.log).sums(index, &each!(&shard, shard => shard.sums()));
            self.crashed.add(each!(&shard, shard => shard.counters()));
        }
        engine.finished.clear();
        self.network.borrow_mut().close(engine.addr);
        lock(&self.log).drained(index, &engine.not_accepted());
    }

    fn start_again(&mut self, index: usize) {
        let SimEngine { addr, config, .. } = &self.engines[index];
        self.network.borrow_mut().add_host(*addr, config.shards.into());
        self.start_in_its_place(index);
    }

    /// Another engine at the address of one that is gone. What that one had not accepted is put to this one.
    pub(super) fn start_in_its_place(&mut self, index: usize) {
        let one_by_one = std::mem::take(&mut self.engines[index].one_by_one);
        let old = &self.engines[index];
        let (addr, with_actor) = (old.addr, old.bucket.is_none());
        let start = (old.config.clone(), old.rcvbuf_bytes);
        let left = std::mem::take(&mut *lock(&old.plan));
        let seed = Seed::from_number(self.rng.next_u64());
        if let Some(keys) = &mut self.keys {
            keys.start_again(index);
        }
        let mut engine = self.start_engine(index, addr, &seed, start, with_actor);
        engine.one_by_one = one_by_one;
        *lock(&engine.plan) = left;
        engine.shared.wake_all();
        self.engines[index] = engine;
    }
}
