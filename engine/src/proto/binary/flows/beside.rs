//! Several flows at one address: one is used, those beside it came there with a peer that moved (R-MOVE-1).

use super::{Flows, PROBES_MAX, Pair};
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::{PROVEN_FOR, Phase};
use crate::proto::binary::inflow::Inflows;
use crate::units::Instant;
use std::net::SocketAddr;

impl<C> Flows<C> {
    /// The flow that messages to an address take, awake.
    #[cfg(test)]
    pub fn flow_to(
        &mut self,
        now: Instant,
        to: SocketAddr,
    ) -> Option<&mut crate::proto::binary::flow::Flow<C>> {
        let index = self.find_or_open(now, to)?;
        self.pair(index).map(|pair| &mut pair.out)
    }

    /// The flow that messages to an address take, if that is another one (R-MOVE-1).
    pub(super) fn used_beside(&self, to: SocketAddr, index: u32) -> Option<u32> {
        self.addresses.used(to).filter(|&used| used != index)
    }

    /// Another flow to an address, on which the peer was heard a moment ago: whoever is there speaks the binary wire.
    pub(super) fn heard_beside(&self, now: Instant, to: SocketAddr, index: u32) -> Option<u32> {
        let is_heard = |&other: &u32| {
            other != index
                && self.slots[other as usize].as_deref().is_some_and(|Pair { out, .. }| {
                    out.phase == Phase::Open
                        && out.proven
                        && !out.suspended
                        && now.since(out.heard_at) < PROVEN_FOR
                })
        };
        self.addresses.beside(to).find(is_heard)
    }

    /// All flows to an address of which it can say something: the one that messages take, and those beside it.
    pub(super) fn flows_to(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.addresses.used(addr).into_iter().chain(self.addresses.beside(addr))
    }

    /// Messages to an address take another flow than that one: what is said to it from there finds it all the same.
    pub(super) fn keep_beside(&mut self, to: SocketAddr, index: u32) {
        if !self.addresses.is_used(to, index) && !self.addresses.is_beside(to, index) {
            self.addresses.add_beside(to, index);
        }
    }

    /// As [`end_if_restarted`](Self::end_if_restarted), for what moved to that address and is not taken by messages any more, but
    /// has something under way yet (R-MOVE-1); unless it was heard since.
    pub(super) fn end_restarted_beside(
        &mut self,
        now: Instant,
        index: u32,
        since: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(to) = self.pair(index).map(|pair| pair.out.identity.to) else { return };
        let beside: Vec<u32> = self.addresses.beside(to).filter(|&other| other != index).collect();
        for other in beside {
            if self.pair(other).is_some_and(|Pair { out, .. }| {
                out.proven && out.heard_at < since && !out.has_no_operations()
            }) {
                self.end_if_restarted(now, other, index, inflows, counters);
            }
        }
    }

    /// As [`handle_silence`](Self::handle_silence), of a flow beside the one that messages to its address take, or beside one on
    /// which somebody is heard: who is there, and what becomes of what waits, that one finds out (R-MOVE-1).
    pub(super) fn handle_silence_beside(
        &mut self,
        now: Instant,
        index: u32,
        heir: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> bool {
        let Some(pair) = self.pair(index) else { return false };
        let out = &pair.out;
        if out.phase == Phase::Open
            && (out.hellos < PROBES_MAX || now.since(out.heard_at) < self.limits.give_up_after)
        {
            return true;
        }
        let _ = self.awake(now, heir);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return false };
        pair.out.end_transmitted(shop, FailureCause::TimedOut, counters);
        self.merge(index, heir, inflows);
        false
    }
}
