//! What goes wrong in a world: faults of the network, crashes, ends and changes of address, drawn from its seed.

use super::World;
use super::drain::Drain;
use super::engines::each;
use crate::config::Wire;
use crate::runtime::internals::lock;
use crate::sim::faults::Faults;
use crate::sim::network::NarrowPath;
use crate::units::Instant;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(super) enum Incident {
    Restart,
    Rebind,
    Drain(Drain),
    /// Some engines hear nothing of the others for so long.
    CutOff(Duration),
    /// The wall clock is off by so many microseconds more.
    JumpClock(i64),
    /// It stands still for so long.
    Suspend(Duration),
    /// Its application does not look at its buckets until the network heals.
    StopApplication,
    /// Keys change: one of those that are behind takes the next step.
    NextKeys,
}

impl World {
    /// Whole kinds of faults are off in some seeds: what hides behind one is then seen.
    pub(super) fn draw_faults(&mut self) -> Faults {
        let mut rate = |max: u32| if self.rng.below(2) == 0 { 0 } else { 1 + self.rng.below(max) };
        let faults = Faults {
            loss: rate(300),
            burst: rate(20),
            duplicate: rate(200),
            reorder: rate(200),
            split: rate(1_000),
            delay_us: 20 + rate(20_000),
            jitter_us: rate(20_000),
            one_way_delay_us: rate(100_000),
            one_way_loss: rate(1_000),
            rate: [0, 200 + rate(5_000)][rate(1) as usize],
            queue_bytes: 20_000 + rate(200_000),
            partitions: rate(2),
            corrupt: rate(100),
            mtu: 0,
            mtu_refused: false,
            blocked: rate(200),
            no_buffers: rate(100),
            short: rate(300),
            gso_refused: rate(300),
            socket_trains_max: [64, 1_000_000][rate(1) as usize],
            stalled: rate(100),
            shuffled: rate(200),
            coalesced: rate(1_000),
            misdirected: rate(300),
            ring: [0; 7],
            receive_failed: 0,
            hostile: rate(100),
            pause_ms: rate(100),
            restarts: rate(3),
            // Where an address changes, rows are delivered twice, as those of the original are.
            rebinds: if self.wire == Wire::Binary { rate(6) } else { 0 },
            clock_jumps: rate(4),
            suspensions: rate(4),
            stops: rate(2),
            refused: rate(200),
        };
        *lock(&self.refuse_per_mille) = faults.refused;
        self.network.borrow_mut().outsider.rows = self.wire != Wire::Binary;
        let faults = self.draw_ring_faults(faults);
        let faults = self.draw_narrow_path(faults);
        self.network.borrow_mut().set_faults(faults);
        self.draw_incidents(&faults);
        faults
    }

    /// Drawn apart, so that all else in a seed stays what it was.
    fn draw_ring_faults(&self, faults: Faults) -> Faults {
        let mut rng = self.root.rng(24);
        let mut rate = |max: u32| if rng.below(2) == 0 { 0 } else { 1 + rng.below(max) };
        let ring = [300, 300, 200, 200, 300, 200, 100].map(&mut rate);
        // Now and then so often that a ring pauses.
        let receive_failed = if rate(8) == 1 { 900 } else { rate(200) };
        Faults { ring, receive_failed, ..faults }
    }

    /// In half of the binary seeds the MTU falls between two engines, sometimes below what every path should carry. Drawn
    /// apart, so that all else in a seed stays what it was.
    pub(super) fn draw_narrow_path(&self, faults: Faults) -> Faults {
        let mut rng = self.root.rng(13);
        if self.wire != Wire::Binary || rng.below(2) == 0 {
            return faults;
        }
        // No datagram is cut shorter than 512 bytes, the tag of a sealed one not counted.
        let least = 512 + self.plugins.tag_bytes() as u32;
        let bytes = if rng.below(4) == 0 { least + rng.below(700) } else { 1_200 + rng.below(260) };
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
        for (what, count) in [
            (0, faults.restarts),
            (1, faults.rebinds),
            (2, faults.partitions),
            (3, faults.clock_jumps),
            (4, faults.suspensions),
            (5, faults.stops),
        ] {
            for _ in 0..count {
                let at = start + Duration::from_millis(u64::from(1 + self.rng.below(span_ms - 2)));
                let what = self.draw_incident(what);
                incidents.push((at, self.rng.below(self.engines.len() as u32) as usize, what));
            }
        }
        // In one seed of three. Of their own, so that all other seeds stay what they were.
        let mut rng = self.root.rng(18);
        let drains = if rng.below(3) == 0 { 1 + rng.below(2) } else { 0 };
        for _ in 0..drains {
            let drain = Drain::draw(&mut rng, self.heal_at.since(start));
            let at = start + Duration::from_millis(u64::from(1 + rng.below(span_ms / 2 - 2)));
            incidents.push((at, rng.below(self.engines.len() as u32) as usize, Incident::Drain(drain)));
        }
        for _ in 0..self.draw_steps() {
            let at = start + Duration::from_millis(u64::from(1 + rng.below(span_ms - 2)));
            incidents.push((at, 0, Incident::NextKeys));
        }
        incidents.sort_by_key(|(at, index, _)| (*at, *index));
        self.incidents = incidents.into();
        if faults.one_way_loss + faults.one_way_delay_us > 0 {
            let mut host = || self.engines[self.rng.below(self.engines.len() as u32) as usize].addr;
            let (from, to) = (host(), host());
            self.network.borrow_mut().links.set_one_way(from, to);
        }
    }

    fn draw_incident(&mut self, what: u32) -> Incident {
        let mut ms =
            |least: u32, most: u32| Duration::from_millis(u64::from(least + self.rng.below(most - least)));
        match what {
            0 => Incident::Restart,
            1 => Incident::Rebind,
            2 => Incident::CutOff(ms(50, 2_500)),
            3 => {
                let by = ms(1, 100_000_000).as_micros() as i64;
                Incident::JumpClock(if self.rng.below(2) == 0 { by } else { -by })
            }
            4 => Incident::Suspend(ms(1, 1_500)),
            _ => Incident::StopApplication,
        }
    }

    /// Engines and v1 peers, one by one, are on the one side or the other.
    fn cut_off(&mut self, until: Instant) {
        let engines = self.engines.iter().map(|engine| engine.addr.ip());
        let hosts: Vec<IpAddr> = engines.chain(self.v1_peers.iter().map(|peer| peer.addr.ip())).collect();
        let island = hosts.into_iter().filter(|_| self.rng.below(2) == 0).collect();
        self.network.borrow_mut().links.cut_off(island, until);
    }

    pub(super) fn handle_incidents(&mut self, now: Instant) {
        while let Some(&(at, index, what)) = self.incidents.front()
            && at <= now
        {
            self.incidents.pop_front();
            // A file changes whether anybody reads it or not.
            if !self.engines[index].is_up() && !matches!(what, Incident::NextKeys) {
                continue;
            }
            lock(&self.log).trace.event(format_args!("engine {index}: {what:?}"));
            let addr = self.engines[index].addr;
            match what {
                Incident::CutOff(time) => self.cut_off(self.heal_at.min(now + time)),
                Incident::JumpClock(by_us) => self.network.borrow_mut().jump_clock(addr, by_us),
                Incident::Suspend(time) => {
                    let until = self.heal_at.min(now + time);
                    self.engines[index].still_until = until;
                    self.network.borrow_mut().counts.suspended += 1;
                    lock(&self.log).suspended(index, now, until);
                }
                Incident::StopApplication => self.stop_application(now, index, self.heal_at),
                Incident::Drain(drain) => self.start_drain(now, index, drain),
                Incident::Rebind => {
                    lock(&self.log).moved.insert(index);
                    self.network.borrow_mut().rebind(self.engines[index].addr);
                }
                Incident::Restart => self.restart(now, index),
                Incident::NextKeys => self.take_step(),
            }
        }
    }

    /// Nobody looks at an engine's buckets for a while.
    pub(super) fn stop_application(&mut self, now: Instant, index: usize, until: Instant) {
        let engine = &mut self.engines[index];
        if engine.bucket.is_none() {
            return;
        }
        let counts = &mut self.network.borrow_mut().counts;
        *(if until < self.heal_at { &mut counts.app_slow } else { &mut counts.app_stopped }) += 1;
        engine.slow_until = engine.slow_until.max(until);
        lock(&self.log).stands_still(index, now, until);
    }

    /// An engine is gone from one moment to the next, and another one is at its address, which knows nothing. What its
    /// applications were told and given until then counts. Half of them crash, and half of these with what is in their receive
    /// buckets; the others say CLOSE.
    pub(super) fn restart(&mut self, now: Instant, index: usize) {
        (self.engines[index].slow_until, self.engines[index].still_until) = (now, now);
        self.scenes.mixed_restarts += u64::from(self.is_mixed());
        if self.steps.is_multiple_of(2) {
            let shards = &mut self.engines[index].shards;
            shards.iter_mut().for_each(|shard| each!(shard, shard => shard.stop(false)));
            for _ in 0..2 {
                shards.iter_mut().for_each(|shard| each!(shard, shard => shard.stop_inbox(false)));
            }
        }
        if self.steps % 4 == 1 {
            self.lose_received(index);
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
        lock(&self.log).crashed(index, &old.not_accepted());
        self.network.borrow_mut().reopen(old.addr);
        self.start_in_its_place(index);
    }
}
