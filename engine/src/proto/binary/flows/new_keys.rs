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
        // What is opened meanwhile has a new key.
        for index in 0..self.slots.len() as u32 {
            let Some((to, key_id, opens)) = self.key_of(index) else { continue };
            if opens {
                // Nobody has answered, and who does may have lost that key by then.
                if !self.has_first_key(index) {
                    self.replace(now, index, FailureCause::TimedOut, inflows, counters);
                }
            } else if !protection.has_key(key_id) {
                if self.sleeper(index).is_some() {
                    self.remove(index, inflows);
                } else {
                    self.replace(now, index, FailureCause::TimedOut, inflows, counters);
                }
            } else if !self.has_first_key(index) {
                self.put_beside(to, index);
            }
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

    /// Whether a flow has the key that a first HELLO to its address would have now; or none, and none is to be had.
    pub(super) fn has_first_key(&self, index: u32) -> bool {
        let (Some(protection), Some((to, key_id, _))) = (&self.protection, self.key_of(index)) else {
            return true;
        };
        protection.key_id(to, None).is_none_or(|first| first == key_id)
    }

    /// Messages to its address take another flow from now on, if they took this one.
    pub(super) fn put_beside(&mut self, to: SocketAddr, index: u32) {
        if self.addresses.is_used(to, index) {
            self.addresses.clear_used(to, index);
            self.keep_beside(to, index);
            self.last = None;
        }
    }
}
