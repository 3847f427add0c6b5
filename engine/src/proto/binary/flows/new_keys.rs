//! The keys of the protection have changed while flows are there (R-PROT-14).

use super::Flows;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::Phase;
use crate::proto::binary::inflow::Inflows;
use crate::units::Instant;
use std::net::SocketAddr;

impl<C> Flows<C> {
    /// Ends flows whose key is gone; of those that would have another one now, new messages take a new flow. Before messages are
    /// put in a turn, or some that were put after the change would take the old one.
    #[inline]
    pub fn look_at_keys(&mut self, now: Instant, inflows: &mut Inflows, counters: &mut Counters) {
        if let Some(protection) = &self.protection {
            let generation = protection.generation();
            if generation != self.key_generation {
                self.key_generation = generation;
                self.keys_changed(now, inflows, counters);
            }
        }
    }

    #[cold]
    fn keys_changed(&mut self, now: Instant, inflows: &mut Inflows, counters: &mut Counters) {
        let Some(protection) = self.protection.clone() else { return };
        let flows = 0..self.slots.len() as u32;
        // What is opened meanwhile has a new key; so that what waits goes over to that, these are put aside before.
        for index in flows.clone() {
            if let Some((to, _, _)) = self.key_of(index)
                && !self.takes_messages(index)
            {
                self.put_aside(to, index);
            }
        }
        for index in flows {
            let Some((to, key_id, opens)) = self.key_of(index) else { continue };
            // Nobody has answered, and who does may have lost that key by then.
            let begins_anew = opens && protection.key_id(to, None).is_some_and(|first| first != key_id);
            if !begins_anew && (opens || protection.has_key(to, key_id)) {
                continue;
            }
            if self.sleeper(index).is_some() {
                self.remove(index, inflows);
            } else {
                self.replace(now, index, FailureCause::TimedOut, inflows, counters);
            }
        }
    }

    /// Messages to its address take another flow from now on, if they took this one.
    pub(super) fn put_aside(&mut self, to: SocketAddr, index: u32) {
        if self.addresses.is_used(to, index) {
            self.addresses.clear_used(to, index);
            self.keep_beside(to, index);
            self.last = None;
        }
    }

    /// Whom a flow is to, which key its HELLOs have, and whether they wait for an answer.
    fn key_of(&self, index: u32) -> Option<(SocketAddr, u32, bool)> {
        if let Some(asleep) = self.sleeper(index) {
            return Some((asleep.identity.to, asleep.key_id()?, false));
        }
        let out = &self.slots[index as usize].as_deref()?.out;
        Some((out.identity.to, out.guard.as_ref()?.key_id()?, out.phase != Phase::Open))
    }

    /// Whether messages may take a flow: not one with a key that is about to go.
    pub(super) fn takes_messages(&self, index: u32) -> bool {
        let (Some(protection), Some((to, key_id, _))) = (&self.protection, self.key_of(index)) else {
            return true;
        };
        !protection.is_retired(to, key_id)
    }

    /// Whether a flow has the key that a first HELLO of ours would have, and `other`, on which nothing is under way, has not.
    pub(super) fn has_newer_key(&self, index: u32, other: u32) -> bool {
        let Some(protection) = &self.protection else { return false };
        let is_first = |index| {
            self.key_of(index).is_some_and(|(to, key_id, _)| protection.key_id(to, None) == Some(key_id))
        };
        let rests = self.slots[other as usize].as_deref().is_none_or(|pair| pair.out.has_no_operations());
        rests && is_first(index) && !is_first(other)
    }

    /// Whether two flows have different keys.
    pub(super) fn have_other_keys(&self, index: u32, other: u32) -> bool {
        let key = |index| self.key_of(index).map(|(_, key_id, _)| key_id);
        self.protection.is_some() && key(index) != key(other)
    }
}
