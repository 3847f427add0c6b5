//! [`PeerRules`]: what holds for an address, where peers differ.
//!
//! Of several rules for an address the most specific one counts. Without rules a look-up is one branch; with rules it costs a
//! binary search for each precision there is among them (ports, single addresses, each length of prefix).

use crate::peer_match::{PeerMatch, Precision};
use std::net::SocketAddr;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct PeerRules<T> {
    /// Of the rules, each once, the most precise one first.
    precisions: Vec<Precision>,
    /// In order, each match once.
    sorted: Vec<(PeerMatch, T)>,
}

impl<T> PeerRules<T> {
    /// Of these rules; of two with one match the first one stays.
    pub(crate) fn new(mut rules: Vec<(PeerMatch, T)>) -> Self {
        rules.sort_by_key(|rule| rule.0);
        rules.dedup_by_key(|rule| rule.0);
        let mut precisions: Vec<_> = rules.iter().map(|rule| rule.0.precision()).collect();
        precisions.sort_unstable_by(|a, b| b.cmp(a));
        precisions.dedup();
        Self { precisions, sorted: rules }
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// What they say, each.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.sorted.iter().map(|rule| &rule.1)
    }

    /// Whom they are for.
    pub(crate) fn matches(&self) -> impl Iterator<Item = &PeerMatch> {
        self.sorted.iter().map(|rule| &rule.0)
    }

    /// The rules.
    pub(crate) fn into_rules(self) -> Vec<(PeerMatch, T)> {
        self.sorted
    }

    /// What the rule for just these peers says.
    pub(crate) fn get(&self, peers: &PeerMatch) -> Option<&T> {
        let at = self.sorted.binary_search_by_key(peers, |rule| rule.0).ok()?;
        self.sorted.get(at).map(|rule| &rule.1)
    }

    /// What the most specific rule says that all of these peers fall under.
    pub(crate) fn look_up_all(&self, peers: &PeerMatch) -> Option<&T> {
        self.look_up_of(peers.first(), |precision| precision <= peers.precision())
    }

    /// What the most specific rule for an address says.
    #[cold]
    pub(crate) fn look_up(&self, addr: SocketAddr) -> Option<&T> {
        self.look_up_of(addr, |_| true)
    }

    /// What the most specific rule of those precisions for an address says.
    fn look_up_of(&self, addr: SocketAddr, counts: impl Fn(Precision) -> bool) -> Option<&T> {
        self.precisions.iter().filter(|&&precision| counts(precision)).find_map(|&precision| {
            let wanted = PeerMatch::of(addr, precision)?;
            let at = self.sorted.binary_search_by_key(&wanted, |rule| rule.0).ok()?;
            self.sorted.get(at).map(|rule| &rule.1)
        })
    }
}
