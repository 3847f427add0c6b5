//! Which flows belong to which address: the one our messages take, and beside it those that somebody there opened, or that
//! moved there.
//!
//! ```text
//!   map:  address -> { used, beside }        next:  by flow
//!                       |       '---> 7 ------------> 3 ------> none
//!                       '---> 3
//! ```
//!
//! One entry an address and four bytes a flow: with many idle flows, tables are a third of what there is (issue 3). A flow
//! that we opened is used alone, or in the list where it moved to an address of which another one is used (R-MOVE-1); one that
//! a peer opened is in its address's list, and used once the address is proven. The lists are short (R-FLOW-13), and those of
//! one host together have three quarters of all places at most (R-SHARE-1). Those are counted by the host's hash: an entry for each
//! of many hosts would cost more than all else there is about an address here.

use crate::hash::{Hasher, Map, Seed};
use crate::proto::shares::{Host, each_max};
use std::net::SocketAddr;

const NONE: u32 = u32::MAX;
/// So many counters of hosts' flows, a power of two. Two hosts have one together by chance alone: the hash is keyed.
const HOSTS: usize = 1 << 14;

#[derive(Clone, Copy, Debug)]
struct Entry {
    used: u32,
    /// The last one of the others.
    beside: u32,
}

/// See the module. Flows are named by their index.
#[derive(Debug)]
pub struct Addresses {
    map: Map<SocketAddr, Entry>,
    /// By flow: the one that came before it to the same list.
    next: Vec<u32>,
    /// Flows in the lists, by their host's hash; how many one may have.
    of_hosts: Vec<u32>,
    of_host_max: u64,
    hasher: Hasher,
}

impl Addresses {
    /// None, of so many flows that there may be.
    #[must_use]
    pub fn new(seed: &Seed, places: usize) -> Self {
        let hasher = seed.hasher();
        let of_host_max = each_max(places as u64);
        Self { map: hasher.map(), next: Vec::new(), of_hosts: vec![0; HOSTS], of_host_max, hasher }
    }

    /// Whether the host has less than its share.
    #[must_use]
    pub fn has_room(&self, host: Host) -> bool {
        self.of_hosts.get(self.place_of(host)).is_none_or(|&count| u64::from(count) < self.of_host_max)
    }

    fn place_of(&self, host: Host) -> usize {
        self.hasher.hash(host) as usize & (HOSTS - 1)
    }

    fn count_of(&mut self, addr: SocketAddr) -> &mut u32 {
        let place = self.place_of(Host::from(addr.ip()));
        &mut self.of_hosts[place]
    }

    /// The flow that messages to this address take.
    #[inline]
    #[must_use]
    pub fn used(&self, addr: SocketAddr) -> Option<u32> {
        self.map.get(&addr).map(|entry| entry.used).filter(|&index| index != NONE)
    }

    /// Whether messages to this address take that flow.
    #[must_use]
    pub fn is_used(&self, addr: SocketAddr, index: u32) -> bool {
        self.used(addr) == Some(index)
    }

    /// Messages to this address take that flow from now on.
    pub fn set_used(&mut self, addr: SocketAddr, index: u32) {
        self.map.entry(addr).or_insert(Entry { used: NONE, beside: NONE }).used = index;
    }

    /// Messages to this address do not take that flow any more, if they did.
    pub fn clear_used(&mut self, addr: SocketAddr, index: u32) {
        if let Some(entry) = self.map.get_mut(&addr)
            && entry.used == index
        {
            entry.used = NONE;
            self.forget_empty(addr);
        }
    }

    /// The flows that somebody there opened, or that moved there: what messages take may be among them.
    pub fn beside(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        let first = self.map.get(&addr).map(|entry| entry.beside).filter(|&index| index != NONE);
        std::iter::successors(first, |&index| {
            self.next.get(index as usize).copied().filter(|&index| index != NONE)
        })
    }

    /// Whether it is one of those.
    #[must_use]
    pub fn is_beside(&self, addr: SocketAddr, index: u32) -> bool {
        self.beside(addr).any(|other| other == index)
    }

    /// Somebody at this address opened that flow, or it moved there. It is in no list.
    pub fn add_beside(&mut self, addr: SocketAddr, index: u32) {
        let entry = self.map.entry(addr).or_insert(Entry { used: NONE, beside: NONE });
        let before = std::mem::replace(&mut entry.beside, index);
        if self.next.len() <= index as usize {
            self.next.resize(index as usize + 1, NONE);
        }
        self.next[index as usize] = before;
        *self.count_of(addr) += 1;
    }

    /// A flow is not there any more. False: it was not in the list.
    pub fn remove_beside(&mut self, addr: SocketAddr, index: u32) -> bool {
        if !self.is_beside(addr, index) {
            return false;
        }
        let after = self.next[index as usize];
        let before = self.beside(addr).find(|&other| self.next[other as usize] == index);
        match before {
            Some(before) => self.next[before as usize] = after,
            None => {
                if let Some(entry) = self.map.get_mut(&addr) {
                    entry.beside = after;
                }
                self.forget_empty(addr);
            }
        }
        self.next[index as usize] = NONE;
        *self.count_of(addr) -= 1;
        true
    }

    fn forget_empty(&mut self, addr: SocketAddr) {
        if self.map.get(&addr).is_some_and(|entry| (entry.used, entry.beside) == (NONE, NONE)) {
            self.map.remove(&addr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn agrees_with_two_maps(ops in prop::collection::vec((0u8..4, 0u16..4, 0u32..12), 1..300)) {
            let mut addresses = Addresses::new(&Seed::from_number(1), 12);
            let mut used: BTreeMap<SocketAddr, u32> = BTreeMap::new();
            let mut opened: BTreeSet<(SocketAddr, u32)> = BTreeSet::new();
            for (op, port, index) in ops {
                let addr = SocketAddr::from(([10, 0, 0, 1], port));
                match op {
                    0 => {
                        addresses.set_used(addr, index);
                        used.insert(addr, index);
                    }
                    1 => {
                        addresses.clear_used(addr, index);
                        if used.get(&addr) == Some(&index) {
                            used.remove(&addr);
                        }
                    }
                    2 if opened.iter().all(|known| known.1 != index) => {
                        addresses.add_beside(addr, index);
                        opened.insert((addr, index));
                    }
                    _ => prop_assert_eq!(addresses.remove_beside(addr, index), opened.remove(&(addr, index))),
                }
                for port in 0..4 {
                    let addr = SocketAddr::from(([10, 0, 0, 1], port));
                    prop_assert_eq!(addresses.used(addr), used.get(&addr).copied());
                    let of_addr: BTreeSet<_> = addresses.beside(addr).map(|index| (addr, index)).collect();
                    let expected: BTreeSet<_> = opened.iter().filter(|known| known.0 == addr).copied().collect();
                    prop_assert_eq!(of_addr, expected);
                }
                let known: BTreeSet<_> = used.keys().copied().chain(opened.iter().map(|known| known.0)).collect();
                prop_assert_eq!(addresses.map.len(), known.len());
                let host = Host::from(SocketAddr::from(([10, 0, 0, 1], 0)).ip());
                prop_assert_eq!(addresses.has_room(host), opened.len() < 9);
                prop_assert_eq!(addresses.of_hosts.iter().sum::<u32>() as usize, opened.len());
            }
        }
    }
}
