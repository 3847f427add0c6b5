//! How much of a table, or of memory, each host has. What nothing young makes way in can be filled by whoever sends enough; a
//! host that does so leaves a quarter to others (R-SHARE-1).
//!
//! A host is an IPv4 address, or the first 64 bits of an IPv6 address: who has one address of a network has all of them. Ports
//! do not count: they cost nothing.

use crate::hash::{Hasher, Map};
use std::net::{IpAddr, Ipv6Addr};

/// What no single host gets: one of so many parts.
const LEFT_TO_OTHERS: u64 = 4;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Host(u64);

impl From<IpAddr> for Host {
    fn from(addr: IpAddr) -> Self {
        let network = |addr: Ipv6Addr| (u128::from(addr) >> 64) as u64;
        match addr.to_canonical() {
            // 0:0:1::/48 is nobody's.
            IpAddr::V4(addr) => Self(1 << 32 | u64::from(u32::from(addr))),
            IpAddr::V6(addr) => Self(network(addr)),
        }
    }
}

/// What one host may have of `all`.
#[must_use]
pub const fn each_max(all: u64) -> u64 {
    all - all / LEFT_TO_OTHERS
}

/// See the module.
#[derive(Debug)]
pub struct Shares {
    counts: Map<Host, u64>,
    each_max: u64,
}

impl Shares {
    /// Nobody has any of `all`: places, or bytes.
    #[must_use]
    pub fn new(all: u64, hasher: &Hasher) -> Self {
        Self { counts: hasher.map(), each_max: each_max(all) }
    }

    /// What the host would have to give back before it may have so many more. Nothing, if it has none yet.
    #[must_use]
    pub fn lacks(&self, host: Host, more: u64) -> u64 {
        self.counts.get(&host).map_or(0, |&count| (count + more).saturating_sub(self.each_max))
    }

    /// Whether the host may have another place.
    #[must_use]
    pub fn has_room(&self, host: Host) -> bool {
        self.lacks(host, 1) == 0
    }

    /// The host has so many more.
    pub fn add(&mut self, host: Host, more: u64) {
        *self.counts.entry(host).or_default() += more;
    }

    /// The host has so many less.
    pub fn remove(&mut self, host: Host, less: u64) {
        if let Some(count) = self.counts.get_mut(&host) {
            *count -= less;
            if *count == 0 {
                self.counts.remove(&host);
            }
        }
    }

    /// Hosts that have any.
    #[cfg(test)]
    pub fn hosts(&self) -> usize {
        self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;

    fn host(addr: &str) -> Host {
        Host::from(addr.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_host_is_an_address_or_a_network() {
        assert_eq!(host("10.0.0.7"), host("::ffff:10.0.0.7"));
        assert_ne!(host("10.0.0.7"), host("10.0.0.8"));
        assert_eq!(host("2001:db8:1:2::3"), host("2001:db8:1:2:ffff::4"));
        assert_ne!(host("2001:db8:1:2::3"), host("2001:db8:1:3::3"));
        assert_ne!(host("0.0.0.1"), host("::1"));
    }

    #[test]
    fn one_host_leaves_a_quarter_to_others_and_is_forgotten_with_its_last_place() {
        let mut shares = Shares::new(8, &Seed::from_number(1).hasher());
        let (one, other) = (host("10.0.0.1"), host("10.0.0.2"));
        for _ in 0..6 {
            assert!(shares.has_room(one));
            shares.add(one, 1);
        }
        assert!(!shares.has_room(one) && shares.has_room(other));
        shares.remove(one, 1);
        assert!(shares.has_room(one));
        (0..5).for_each(|_| shares.remove(one, 1));
        assert_eq!(shares.hosts(), 0);
        // What is larger than that goes alone.
        assert_eq!((shares.lacks(one, 100), shares.has_room(one)), (0, true));
        shares.add(one, 5);
        assert_eq!((shares.lacks(one, 100), shares.lacks(one, 1), shares.lacks(one, 3)), (99, 0, 2));
        // Where a quarter is less than one, one host may have everything.
        let mut shares = Shares::new(2, &Seed::from_number(1).hasher());
        shares.add(one, 1);
        assert!(shares.has_room(one));
    }
}
