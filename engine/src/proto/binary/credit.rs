//! How many datagrams the peers of one socket may have under way: granted traffic never overflows its buffer.
//!
//! ```text
//!   socket buffer, as read back  |<------- 60 % ------->|<-- 40 %: first datagrams, acknowledgements, strays -->|
//!                                |reserved: granted and not received yet|  free  |
//! ```
//!
//! A grant (R-CREDIT-2) is the highest packet number a flow may use. What it allows beyond what has arrived is *reserved*,
//! until it arrives or its lease is over. A flow that sends gets an equal share of the buffer; with many of them a share
//! is a few datagrams, and each has its turn. Nothing is taken back before its lease is over: a grant is only not renewed.

use std::time::Duration;

/// How long the sender may use a grant it does not renew by sending (R-CREDIT-2).
pub const LEASE: Duration = Duration::from_millis(20);
/// How much longer it stays reserved here: what was sent at the lease's last moment is still under way then.
pub const LEASE_GRACE: Duration = Duration::from_millis(100);
/// Kernel memory of a full datagram in a socket buffer, at least (`LIMITS.md`): the skb is charged, not its payload.
const DATAGRAM_TRUESIZE: u64 = 2_304;
/// Of the buffer, for grants (R-CREDIT-1).
const GRANTED_SHARE: (u64, u64) = (6, 10);
/// Least grant: an acknowledgement clock needs two datagrams to tick, and probes that count.
const GRANT_MIN: u64 = 4;

/// The account of one socket.
#[derive(Debug)]
pub struct Credit {
    budget: u64,
    reserved: u64,
    /// Flows with something reserved.
    holders: u64,
}

/// What one flow holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant {
    /// Highest packet number granted.
    pub highest: u64,
    /// Granted and not received.
    reserved: u64,
}

impl Credit {
    /// For a socket buffer of `buffer_bytes`, as read back, and datagrams of up to `datagram_bytes`.
    #[must_use]
    pub fn new(buffer_bytes: u64, datagram_bytes: usize) -> Self {
        let truesize = DATAGRAM_TRUESIZE.max(crate::config::truesize_bytes(datagram_bytes).into());
        let budget = (buffer_bytes * GRANTED_SHARE.0 / GRANTED_SHARE.1 / truesize).max(GRANT_MIN);
        Self { budget, reserved: 0, holders: 0 }
    }

    /// Datagrams granted and not received, over all flows.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Datagrams that can be granted at once.
    #[cfg(test)]
    #[must_use]
    pub const fn budget(&self) -> u64 {
        self.budget
    }

    fn set(&mut self, grant: &mut Grant, reserved: u64) {
        self.holders += u64::from(reserved > 0);
        self.holders -= u64::from(grant.reserved > 0);
        self.reserved = self.reserved + reserved - grant.reserved;
        grant.reserved = reserved;
    }

    /// The flow's datagrams up to `largest` have arrived, or will not.
    #[inline]
    pub fn arrived(&mut self, grant: &mut Grant, largest: u64) {
        let left = grant.highest.saturating_sub(largest).min(grant.reserved);
        if left != grant.reserved {
            self.set(grant, left);
        }
    }

    /// Renews the flow's grant after datagrams up to `largest` have arrived: its share, as far as it is free
    /// (R-CREDIT-3).
    pub fn renew(&mut self, grant: &mut Grant, largest: u64) {
        self.arrived(grant, largest);
        let sharers = (self.holders + u64::from(grant.reserved == 0)).max(1);
        let share = (self.budget / sharers).max(GRANT_MIN);
        let free = self.budget.saturating_sub(self.reserved);
        let reserved = share.min(grant.reserved + free);
        if reserved > grant.reserved {
            grant.highest = grant.highest.max(largest.saturating_add(reserved));
            self.set(grant, reserved);
        }
    }

    /// The lease is over, or the flow: what it did not use is free again, and not granted any more. Else the next grant
    /// would bring it back without a place for it.
    pub fn lapse(&mut self, grant: &mut Grant) {
        self.set(grant, 0);
        grant.highest = 0;
    }
}

impl Grant {
    /// Whether anything is reserved.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.reserved > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_flow_gets_all_and_many_share() {
        let mut credit = Credit::new(212_992, 1_472);
        assert_eq!(credit.budget(), 55);
        let mut first = Grant::default();
        credit.renew(&mut first, 10);
        assert_eq!(first.highest, 65);
        let mut second = Grant::default();
        credit.renew(&mut second, 0);
        assert!(!second.is_held(), "nothing is free");
        // The first one's datagrams arrive; it keeps half.
        credit.renew(&mut first, 65);
        assert_eq!(first.highest, 65 + 55, "alone until the other holds something");
        credit.arrived(&mut first, 100);
        credit.renew(&mut second, 0);
        assert_eq!(second.highest, 27);
        credit.renew(&mut first, 120);
        assert_eq!(first.highest, 120 + 27);
        credit.lapse(&mut first);
        credit.lapse(&mut second);
        assert_eq!(credit.reserved(), 0);
    }

    #[test]
    fn a_lapsed_grant_does_not_come_back_beyond_what_is_reserved() {
        let mut credit = Credit::new(212_992, 1_472);
        let mut flows = [Grant::default(); 20];
        for flow in &mut flows {
            credit.renew(flow, 10); // Alone: all of the budget.
            assert_eq!(flow.highest, 65);
            credit.lapse(flow);
        }
        for flow in &mut flows {
            credit.renew(flow, 10);
        }
        let granted: u64 = flows.iter().map(|flow| flow.highest.saturating_sub(10)).sum();
        assert_eq!(granted, credit.reserved());
        assert!(granted <= credit.budget());
        // Whatever number a peer has come to.
        credit.lapse(&mut flows[0]);
        credit.renew(&mut flows[0], u64::MAX);
    }

    proptest! {
        #[test]
        fn reserved_is_the_sum_and_within_the_budget(ops in prop::collection::vec((0usize..8, 0u8..3, 0u64..200), 1..300)) {
            let mut credit = Credit::new(1 << 20, 1_472);
            let mut flows = [Grant::default(); 8];
            let mut largest = [0u64; 8];
            for (flow, op, step) in ops {
                match op {
                    0 => {
                        largest[flow] = (largest[flow] + step).min(flows[flow].highest.max(largest[flow]));
                        let before = flows[flow].highest;
                        credit.renew(&mut flows[flow], largest[flow]);
                        prop_assert!(flows[flow].highest >= before);
                        let allowed = flows[flow].highest.saturating_sub(largest[flow]);
                        prop_assert!(allowed <= flows[flow].reserved);
                    }
                    1 => {
                        largest[flow] = (largest[flow] + step).min(flows[flow].highest.max(largest[flow]));
                        credit.arrived(&mut flows[flow], largest[flow]);
                    }
                    _ => credit.lapse(&mut flows[flow]),
                }
                let sum: u64 = flows.iter().map(|grant| grant.reserved).sum();
                prop_assert_eq!(credit.reserved(), sum);
                prop_assert!(sum <= credit.budget());
                prop_assert_eq!(credit.holders, flows.iter().filter(|grant| grant.is_held()).count() as u64);
            }
        }
    }
}
