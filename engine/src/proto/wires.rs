//! Which wire an address is spoken to in: the engine's, unless a rule for the address says otherwise. Rules never change
//! while the engine runs, so what an address speaks does not, either.
//!
//! Without rules [`Wires::of`] is one branch, with rules a search ([`PeerRules`]): what an actor puts to the engine it put to
//! last does not ask.

use crate::config::{Config, Wire};
use crate::peer_rules::PeerRules;
use std::net::SocketAddr;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub struct Wires {
    default: Wire,
    rules: Option<Arc<PeerRules<Wire>>>,
    /// Which of the wires some address may be spoken to in: CSV, binary, auto.
    used: [bool; 3],
}

impl Wires {
    /// What the options say.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let rules = PeerRules::new(config.peer_wires.clone());
        let is_used = |wire| config.wire == wire || rules.values().any(|&other| other == wire);
        Self {
            default: config.wire,
            used: [Wire::Csv, Wire::Binary, Wire::Auto].map(is_used),
            rules: (!rules.is_empty()).then(|| Arc::new(rules)),
        }
    }

    /// What an address is spoken to in.
    #[inline]
    #[must_use]
    pub fn of(&self, addr: SocketAddr) -> Wire {
        match &self.rules {
            None => self.default,
            Some(rules) => rules.look_up(addr).copied().unwrap_or(self.default),
        }
    }

    /// Whether some address has to be asked what it speaks.
    #[must_use]
    pub const fn has_auto(&self) -> bool {
        self.used[2]
    }

    /// Whether messages may leave as rows.
    #[must_use]
    pub const fn has_rows(&self) -> bool {
        self.used[0] || self.used[2]
    }

    /// Whether messages may leave over flows.
    #[inline]
    #[must_use]
    pub const fn has_flows(&self) -> bool {
        self.used[1] || self.used[2]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wires(wire: Wire, rules: &[(&str, Wire)]) -> Wires {
        let peer_wires = rules.iter().map(|(peer, wire)| (peer.parse().unwrap(), *wire)).collect();
        let config = Config { wire, peer_wires, ..Config::default() };
        config.validate().unwrap();
        Wires::new(&config)
    }

    #[test]
    fn the_most_specific_rule_counts_in_whatever_order_they_are_given() {
        let mut rules = [
            ("10.0.0.0/8", Wire::Csv),
            ("10.1.0.0/16", Wire::Binary),
            ("10.1.2.3", Wire::Auto),
            ("10.1.2.3:7", Wire::Csv),
            ("2001:db8::/32", Wire::Binary),
            ("[2001:db8::1]:7", Wire::Csv),
        ];
        for _ in 0..rules.len() {
            rules.rotate_left(1);
            let wires = wires(Wire::Auto, &rules);
            for (addr, wire) in [
                ("9.9.9.9:7", Wire::Auto),
                ("10.9.9.9:7", Wire::Csv),
                ("[::ffff:10.9.9.9]:7", Wire::Csv),
                ("10.1.9.9:7", Wire::Binary),
                ("10.1.2.3:8", Wire::Auto),
                ("10.1.2.3:7", Wire::Csv),
                ("[2001:db8::1]:8", Wire::Binary),
                ("[2001:db8::1]:7", Wire::Csv),
                ("[2001:db9::1]:7", Wire::Auto),
            ] {
                assert_eq!(wires.of(addr.parse().unwrap()), wire, "{addr}");
            }
        }
    }

    /// Against every rule, one after the other.
    #[test]
    fn the_search_finds_what_a_look_at_every_rule_finds() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut addr = move || {
            let [a, b] = [random.u8(..) & 0b1000_0001, random.u8(..) & 3];
            SocketAddr::from(([10, a, 0, b], u16::from(random.bool()) + 1))
        };
        let bits = |addr: SocketAddr| match addr {
            SocketAddr::V4(v4) => u64::from(v4.ip().to_bits()),
            SocketAddr::V6(_) => unreachable!(),
        };
        for round in 0..200_u64 {
            let mut rules: Vec<(SocketAddr, u32, Wire)> = Vec::new();
            for number in 0..round % 20 {
                let wire = [Wire::Csv, Wire::Binary, Wire::Auto][(number % 3) as usize];
                // 33: address and port.
                rules.push((addr(), [8, 9, 16, 31, 32, 33][(number % 6) as usize], wire));
            }
            let text = |addr: SocketAddr, len: u32| match len {
                33 => addr.to_string(),
                _ => format!("{}/{len}", addr.ip()),
            };
            let shares = |a: SocketAddr, b: SocketAddr, len: u32| match len {
                33 => a == b,
                _ => (bits(a) ^ bits(b)) >> (32 - len) == 0,
            };
            // The first of equal ones stays.
            let mut distinct: Vec<(SocketAddr, u32, Wire)> = Vec::new();
            for rule in rules {
                if !distinct.iter().any(|other| other.1 == rule.1 && shares(other.0, rule.0, rule.1)) {
                    distinct.push(rule);
                }
            }
            let given: Vec<(String, Wire)> =
                distinct.iter().map(|&(addr, len, wire)| (text(addr, len), wire)).collect();
            let given: Vec<(&str, Wire)> = given.iter().map(|(text, wire)| (&**text, *wire)).collect();
            let wires = wires(Wire::Auto, &given);
            for _ in 0..50 {
                let addr = addr();
                let best =
                    distinct.iter().filter(|rule| shares(rule.0, addr, rule.1)).max_by_key(|rule| rule.1);
                assert_eq!(wires.of(addr), best.map_or(Wire::Auto, |rule| rule.2), "{addr} {given:?}");
            }
        }
    }

    #[test]
    fn what_is_used_is_what_the_engine_or_a_rule_says() {
        let plain = wires(Wire::Csv, &[]);
        assert!(plain.has_rows() && !plain.has_flows() && !plain.has_auto());
        let mixed = wires(Wire::Csv, &[("10.0.0.1", Wire::Binary)]);
        assert!(mixed.has_rows() && mixed.has_flows() && !mixed.has_auto());
        let asked = wires(Wire::Binary, &[("10.0.0.1", Wire::Auto)]);
        assert!(asked.has_rows() && asked.has_flows() && asked.has_auto());
    }
}
