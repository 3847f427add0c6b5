//! The flows there are: found by address or tag, opened, put to sleep and woken, replaced and forgotten.

use super::{
    Flows, INDEX_BITS, INITIAL_WINDOW, KEPT_FOR_MIN, MAKES_ROOM_EVERY, Pair, ROOM_DRAWS, ROOM_PART,
    UNPROVEN_PART, random_bytes,
};
use crate::config::Wire;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::asleep::Asleep;
use crate::proto::binary::flow::{Flow, Identity, Opening, Phase};
use crate::proto::binary::guard::Guard;
use crate::proto::binary::inflow::{FIRST_CHUNKED, FIRST_MESSAGES, Inflows};
use crate::proto::congestion::{CcConfig, CongestionControl, WINDOW_BYTES_MAX};
use crate::proto::protection::RANDOM_BYTES;
use crate::proto::shares::Host;
use crate::units::Instant;
use crate::wire::DropReason;
use std::net::{IpAddr, SocketAddr};

impl<C> Flows<C> {
    pub(super) fn find_or_open(&mut self, now: Instant, to: SocketAddr) -> Option<u32> {
        let index = match self.addresses.used(to) {
            Some(index) => {
                self.awake(now, index)?;
                index
            }
            None if self.is_closing(now, to) => return None,
            None => {
                let route = self.draw_route();
                let index = self.open(now, to, None, 0, route)?;
                self.addresses.set_used(to, index);
                index
            }
        };
        self.last = Some((to, index));
        Some(index)
    }

    /// A route whose answers come to this shard (R-FLOW-7).
    pub(super) fn draw_route(&mut self) -> u8 {
        let shards = u32::from(self.place.shards);
        let routes = 256 / shards + u32::from(256 % shards > u32::from(self.place.shard));
        (self.rng.below(routes) * shards + u32::from(self.place.shard)) as u8
    }

    pub(super) fn open(
        &mut self,
        now: Instant,
        to: SocketAddr,
        local: Option<IpAddr>,
        peer_tag: u64,
        route: u8,
    ) -> Option<u32> {
        let room = self.free.len() + self.places() - self.slots.len();
        if room <= self.places().div_ceil(ROOM_PART) && self.makes_room_at.is_none() {
            self.makes_room_at = Some(now);
        }
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.places() => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let datagram_bytes = self.limits.datagram_bytes_to(to);
        let congestion = self.controller(datagram_bytes, u64::MAX);
        let chance = self.rng.next_u64() >> INDEX_BITS;
        // Never 0: that is what a first flight carries.
        let own_tag = (chance.max(1) << INDEX_BITS) | u64::from(index);
        let identity = Identity { to, local, own_tag, peer_tag, peer_epoch: 0, route };
        let [packet_base, message_base, chunked_base] = self.high_water;
        let nonce = self.rng.next_u64();
        let opening =
            Opening { identity, packet_base, message_base, chunked_base, datagram_bytes, congestion, nonce };
        let mut out = Flow::new(now, opening);
        if self.protection.is_some() {
            let random = random_bytes::<RANDOM_BYTES>(&mut self.rng);
            out.guard = Some(Box::new(Guard::new(random, self.limits.tag_bytes)));
        }
        out.lapses = self.wires.of(to) == Wire::Auto;
        if out.lapses && peer_tag == 0 {
            out.phase = Phase::Probing;
        }
        out.credit.messages = message_base + FIRST_MESSAGES - 1;
        out.credit.chunked = chunked_base + FIRST_CHUNKED - 1;
        self.slots[index as usize] = Some(Box::new(Pair { out, challenge: None }));
        self.timers.arm(index, now);
        Some(index)
    }

    /// There is no place for another flow.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.places()
    }

    fn places(&self) -> usize {
        super::places(self.limits.flows_max)
    }

    /// So many unproven flows may cost those that sleep their place; at least two, for two may be on their way at once.
    pub(super) fn unproven_part(&self) -> usize {
        (self.places() / UNPROVEN_PART).max(2)
    }

    /// Makes room for others, until there is enough (R-FLOW-15): flows that have slept for long are forgotten, and before them unproven
    /// ones, if those are more than a part of all: whoever says HELLO in however many names does not displace who is proven.
    #[cold]
    pub(super) fn make_room(&mut self, now: Instant, inflows: &mut Inflows, counters: &mut Counters) {
        self.makes_room_at = Some(now + MAKES_ROOM_EVERY);
        let (places, taken) = (self.places(), self.slots.len());
        while self.free.len() + places - taken < places.div_ceil(ROOM_PART) {
            let oldest = self.unproven.first().filter(|_| self.unproven.len() > self.unproven_part());
            let Some(index) = oldest.copied().or_else(|| self.draw_sleeper(now, None)) else { return };
            counters.flows_evicted += 1;
            self.remove(index, inflows);
        }
        self.makes_room_at = None;
    }

    /// Of some flows drawn at random the one not heard for longest that sleeps; of a host, if it counts for that. However early
    /// flows sleep, it was not heard for a while: what a RESET says of a flow rests on that (R-RESTART-5).
    pub(super) fn draw_sleeper(&mut self, now: Instant, host: Option<Host>) -> Option<u32> {
        // Slots are counted in 32 bits.
        let of = self.slots.len() as u32;
        let drawn: [u32; ROOM_DRAWS] = std::array::from_fn(|_| self.rng.below(of));
        let heard = |&index: &u32| {
            let Asleep { heard_at, identity, .. } = self.sleeper(index)?;
            let counts =
                |host| Host::from(identity.to.ip()) == host && self.addresses.is_beside(identity.to, index);
            (now.since(*heard_at) >= KEPT_FOR_MIN && host.is_none_or(counts)).then_some((*heard_at, index))
        };
        drawn.iter().filter_map(heard).min().map(|(_, index)| index)
    }

    /// A controller that starts with no more than `window_bytes_max`.
    pub(super) fn controller(
        &self,
        datagram_bytes: usize,
        window_bytes_max: u64,
    ) -> Box<dyn CongestionControl> {
        // R-LOSS-8.
        let one = datagram_bytes as u64;
        let min_window_bytes = 4 * one;
        self.congestion.build(&CcConfig {
            initial_window_bytes: (INITIAL_WINDOW * one).min(window_bytes_max).max(min_window_bytes),
            min_window_bytes,
            max_window_bytes: WINDOW_BYTES_MAX,
            datagram_bytes: datagram_bytes as u32,
            fixed_window_bytes: 1_024 * one,
        })
    }

    /// The flow, awake.
    #[inline]
    pub(super) fn awake(&mut self, now: Instant, index: u32) -> Option<&mut Pair<C>> {
        if self.slots.get(index as usize)?.is_none() {
            self.wake(now, index);
        }
        self.pair(index)
    }

    /// Wakes a flow that sleeps; its receiving half wakes when it is looked at. False: it does not sleep.
    #[cold]
    #[inline(never)]
    pub(super) fn wake(&mut self, now: Instant, index: u32) -> bool {
        let Some(asleep) = self.asleep.get_mut(index as usize).and_then(Option::take) else { return false };
        let datagram_bytes = self.limits.datagram_bytes_to(asleep.identity.to);
        // RFC 5681 section 4.1: after a pause no more than at the start, nor than was allowed before it.
        let congestion = self.controller(datagram_bytes, asleep.window_bytes());
        let mut out = asleep.wake(now, datagram_bytes, congestion);
        out.lapses = self.wires.of(out.identity.to) == Wire::Auto;
        self.slots[index as usize] = Some(Box::new(Pair { out, challenge: None }));
        self.timers.arm_earlier(index, now + self.limits.sleeps_after);
        self.woken += 1;
        true
    }

    /// Keeps of a flow what has to outlive a pause, if nothing else is there (R-FLOW-14). False: something is.
    pub(super) fn sleep(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> bool {
        let Some(slot) = self.slots.get_mut(index as usize) else { return false };
        let Some(mut pair) = slot.take_if(|pair| pair.out.may_sleep(now)) else { return false };
        pair.out.leave_rest(&mut self.shop);
        inflows.sleep(index);
        if self.asleep.len() <= index as usize {
            self.asleep.resize_with(index as usize + 1, || None);
        }
        self.asleep[index as usize] = Some(Box::new(pair.out.sleep()));
        if self.last.is_some_and(|(_, last)| last == index) {
            self.last = None;
        }
        counters.flows_slept += 1;
        true
    }

    pub(super) fn sleeper(&self, index: u32) -> Option<&Asleep> {
        self.asleep.get(index as usize)?.as_deref()
    }

    pub(super) fn pair(&mut self, index: u32) -> Option<&mut Pair<C>> {
        self.slots.get_mut(index as usize).and_then(Option::as_deref_mut)
    }

    #[inline]
    pub(super) fn find_or_wake(&mut self, now: Instant, tag: u64) -> Result<u32, DropReason> {
        match self.find_tag(tag) {
            Some(index) => Ok(index),
            None => self.wake_tag(now, tag).ok_or(DropReason::BinaryUnknownTag),
        }
    }

    #[inline]
    pub(super) fn find_tag(&self, tag: u64) -> Option<u32> {
        let index = (tag & ((1 << INDEX_BITS) - 1)) as u32;
        let pair = self.slots.get(index as usize)?.as_deref()?;
        (pair.out.identity.own_tag == tag).then_some(index)
    }

    /// As [`find_tag`](Self::find_tag), where the flow may sleep: it wakes.
    #[cold]
    #[inline(never)]
    pub(super) fn wake_tag(&mut self, now: Instant, tag: u64) -> Option<u32> {
        let (index, _) = self.find_asleep(tag)?;
        self.wake(now, index).then_some(index)
    }

    /// As [`find_tag`](Self::find_tag), of those that sleep.
    pub(super) fn find_asleep(&mut self, tag: u64) -> Option<(u32, &mut Asleep)> {
        let index = (tag & ((1 << INDEX_BITS) - 1)) as u32;
        let asleep = self.asleep.get_mut(index as usize)?.as_deref_mut()?;
        (asleep.identity.own_tag == tag).then_some((index, asleep))
    }

    pub(super) fn make_ready(&mut self, index: u32) {
        if let Some(pair) = self.pair(index)
            && !pair.out.ready
        {
            pair.out.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Forgets a flow whose operations have ended or gone elsewhere.
    pub(super) fn remove(&mut self, index: u32, inflows: &mut Inflows) {
        let asleep = self.asleep.get_mut(index as usize).and_then(Option::take);
        let (to, next_numbers) = match (self.slots[index as usize].take(), asleep) {
            (Some(mut pair), _) => {
                // Operations have ended; datagrams that were lost may still have their memory.
                pair.out.end_transmitted(
                    &mut self.shop,
                    FailureCause::EngineStopped,
                    &mut Counters::default(),
                );
                (pair.out.identity.to, pair.out.next_numbers())
            }
            (None, Some(asleep)) => (asleep.identity.to, asleep.next_numbers()),
            (None, None) => return,
        };
        self.forget(index, to, next_numbers, inflows);
    }

    /// Nothing is in the place of a flow any more: nor is it anywhere else.
    fn forget(&mut self, index: u32, to: SocketAddr, next_numbers: [u64; 3], inflows: &mut Inflows) {
        // R-ONCE-6.
        for (mark, next) in self.high_water.iter_mut().zip(next_numbers) {
            *mark = (*mark).max(next);
        }
        inflows.close(index);
        self.addresses.clear_used(to, index);
        self.last = None;
        self.unproven.retain(|&other| other != index);
        self.addresses.remove_beside(to, index);
        self.timers.disarm(index);
        self.free.push(index);
    }

    /// Ends a flow: what was transmitted ends with `cause`; what waits goes over to the one that messages to its address take,
    /// and if it is that one itself, to a new flow (R-RESTART-1, R-LOSS-9, R-MOVE-1).
    pub(super) fn replace(
        &mut self,
        now: Instant,
        index: u32,
        cause: FailureCause,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(pair) = self.slots[index as usize].take() else { return };
        let mut out = pair.out;
        out.end_transmitted(&mut self.shop, cause, counters);
        let identity = out.identity;
        let beside = self.used_beside(identity.to, index);
        // Its place may be the only one there is for its heir.
        self.forget(index, identity.to, out.next_numbers(), inflows);
        let heir = match beside {
            _ if !out.has_waiting() => None,
            Some(heir) => Some(heir),
            None => {
                let route = self.draw_route();
                let heir = self.open(now, identity.to, identity.local, 0, route);
                if let Some(heir) = heir {
                    self.addresses.set_used(identity.to, heir);
                }
                heir
            }
        };
        match heir.and_then(|heir| self.awake(now, heir)) {
            Some(heir) => out.hand_over(&mut heir.out),
            None => out.end(&mut self.shop, cause, cause, counters),
        }
        if let Some(heir) = heir {
            self.make_ready(heir);
        }
    }
}
