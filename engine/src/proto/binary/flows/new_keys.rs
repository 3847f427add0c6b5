//! The keys of the protection have changed while flows are there (R-PROT-14).

use super::Flows;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::Phase;
use crate::proto::binary::inflow::Inflows;
use crate::units::Instant;

impl<C> Flows<C> {
    /// Ends flows whose key is gone; of those that would have another one now, new messages take a new flow.
    #[inline]
    pub(super) fn look_at_keys(&mut self, now: Instant, inflows: &mut Inflows, counters: &mut Counters) {
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
            let awake = self.slots[index as usize].as_deref().map(|pair| &pair.out);
            let asleep = self.sleeper(index).map(|asleep| (asleep.identity.to, asleep.key_id()));
            let sleeps = asleep.is_some();
            let key = match awake {
                // Its next HELLO asks anew.
                Some(out) if out.phase != Phase::Open => None,
                Some(out) => Some((out.identity.to, out.guard.as_ref().and_then(|guard| guard.key_id()))),
                None => asleep,
            };
            let Some((to, Some(key_id))) = key else { continue };
            if !protection.has_key(key_id) {
                if sleeps {
                    self.remove(index, inflows);
                } else {
                    self.replace(now, index, FailureCause::TimedOut, inflows, counters);
                }
            } else if self.addresses.is_used(to, index)
                && protection.key_id(to, None).is_some_and(|first| first != key_id)
            {
                self.addresses.clear_used(to, index);
                if !self.addresses.is_beside(to, index) {
                    self.addresses.add_beside(to, index);
                }
                self.last = None;
            }
        }
    }
}
