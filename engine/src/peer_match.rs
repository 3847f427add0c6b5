//! [`PeerMatch`]: which peers a rule is for.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Peers by address: one address and port, all ports of an IP address, or all of an IP network. Parses from
/// `192.0.2.1:25252`, `[2001:db8::1]:25252`, `192.0.2.1`, `2001:db8::1`, `10.0.0.0/8`, `2001:db8::/32`.
///
/// IPv4 addresses within IPv6 (`::ffff:192.0.2.1`) are the IPv4 addresses they stand for, and bits of a network's address
/// behind its prefix do not count. Scope and flow label of an IPv6 address are not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerMatch {
    /// No bits behind the prefix; IPv4 as such.
    network: IpNet,
    /// Only of a single address.
    port: Option<u16>,
}

/// How much of an address a [`PeerMatch`] names. The larger the more: a port counts more than any prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Precision {
    has_port: bool,
    prefix_bits: u8,
}

impl PeerMatch {
    pub(crate) fn precision(&self) -> Precision {
        Precision { has_port: self.port.is_some(), prefix_bits: self.network.prefix_len() }
    }

    /// The first address of those.
    pub(crate) fn first(&self) -> SocketAddr {
        SocketAddr::new(self.network.addr(), self.port.unwrap_or(0))
    }

    /// The one match of that precision that `addr` falls under, if its family has prefixes so long.
    pub(crate) fn of(addr: SocketAddr, precision: Precision) -> Option<Self> {
        let network = IpNet::new(addr.ip().to_canonical(), precision.prefix_bits).ok()?.trunc();
        Some(Self { network, port: precision.has_port.then_some(addr.port()) })
    }

    /// No peer has this address.
    pub(crate) fn is_of_nobody(&self) -> bool {
        self.port == Some(0)
    }
}

impl From<IpNet> for PeerMatch {
    fn from(network: IpNet) -> Self {
        /// What all of IPv4 within IPv6 begins with.
        const MAPPED_BITS: u8 = 96;
        let (ip, bits) = (network.addr(), network.prefix_len());
        let mapped = match ip.to_canonical() {
            v4 @ IpAddr::V4(_) if ip.is_ipv6() && bits >= MAPPED_BITS => {
                IpNet::new(v4, bits - MAPPED_BITS).ok()
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        };
        Self { network: mapped.unwrap_or(network).trunc(), port: None }
    }
}

impl From<IpAddr> for PeerMatch {
    fn from(ip: IpAddr) -> Self {
        Self { network: ip.to_canonical().into(), port: None }
    }
}

impl From<Ipv4Addr> for PeerMatch {
    fn from(ip: Ipv4Addr) -> Self {
        IpAddr::V4(ip).into()
    }
}

impl From<Ipv6Addr> for PeerMatch {
    fn from(ip: Ipv6Addr) -> Self {
        IpAddr::V6(ip).into()
    }
}

impl From<SocketAddr> for PeerMatch {
    fn from(addr: SocketAddr) -> Self {
        Self { port: Some(addr.port()), ..addr.ip().into() }
    }
}

/// A text that is no [`PeerMatch`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither ADDRESS:PORT nor an IP address nor NETWORK/PREFIX")]
pub struct ParsePeerMatchError(String);

impl FromStr for PeerMatch {
    type Err = ParsePeerMatchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || text.parse::<SocketAddr>().map(Self::from).ok();
        let ip = || text.parse::<IpAddr>().map(Self::from).ok();
        let network = || text.parse::<IpNet>().map(Self::from).ok();
        address().or_else(ip).or_else(network).ok_or_else(|| ParsePeerMatchError(text.to_owned()))
    }
}

impl fmt::Display for PeerMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = self.network.addr();
        match self.port {
            Some(port) => SocketAddr::new(ip, port).fmt(f),
            None if self.network.prefix_len() == self.network.max_prefix_len() => ip.fmt(f),
            None => self.network.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> PeerMatch {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_parses_and_prints() {
        for (text, printed) in [
            ("192.0.2.1:25252", "192.0.2.1:25252"),
            ("[2001:db8::1]:25252", "[2001:db8::1]:25252"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            // More than all of IPv4.
            ("::ffff:10.1.2.3/80", "::/80"),
        ] {
            assert_eq!(parsed(text).to_string(), printed, "{text}");
            assert_eq!(parsed(printed), parsed(text), "{text}");
        }
        for text in
            ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "10.0.0", "host", "10.0.0.0/8:7"]
        {
            assert_eq!(text.parse::<PeerMatch>(), Err(ParsePeerMatchError(text.to_owned())));
        }
    }

    #[test]
    fn an_address_falls_under_one_match_of_a_precision() {
        let addr: SocketAddr = "[::ffff:10.1.2.3]:7".parse().unwrap();
        for own in ["10.1.2.3:7", "10.1.2.3", "10.1.2.0/24", "10.0.0.0/8", "0.0.0.0/0"] {
            assert_eq!(PeerMatch::of(addr, parsed(own).precision()), Some(parsed(own)));
        }
        for other in ["10.1.2.3:8", "10.1.2.4", "10.1.3.0/24", "11.0.0.0/8", "::/0", "2001:db8::/32", "::1"] {
            assert_ne!(PeerMatch::of(addr, parsed(other).precision()), Some(parsed(other)), "{other}");
        }
        let scoped: SocketAddr = "[fe80::1%3]:7".parse().unwrap();
        assert_eq!(PeerMatch::of(scoped, parsed("fe80::/10").precision()), Some(parsed("fe80::/10")));
    }
}
