//! What goes wrong in a world: faults of the network, crashes, ends and changes of address, drawn from its seed.

use super::World;
use super::drain::Drain;
use super::engines::each;
use crate::config::Wire;
use crate::hash::Seed;
use crate::runtime::internals::lock;
use crate::sim::network::{Faults, NarrowPath};
use crate::units::Instant;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(super) enum Incident {
    Restart,
    Rebind,
    Drain(Drain),
}

impl World {
    /// Whole kinds of faults are off in some seeds: what hides behind one is then seen.
    pub(super) fn draw_faults(&mut self) -> Faults {
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
    pub(super) fn draw_narrow_path(&self, faults: Faults) -> Faults {
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

    /// Crashes, ends and changes of address while the network misbehaves.
    pub(super) fn draw_incidents(&mut self, faults: &Faults) {
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

    pub(super) fn handle_incidents(&mut self, now: Instant) {
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
    pub(super) fn restart(&mut self, now: Instant, index: usize) {
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
            lock(&self.log).sums(index, &each!(shard, shard => shard.sums()));
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
}
