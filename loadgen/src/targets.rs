//! Where messages go, and whom they come from: several targets and many peers, each with its share.

use crate::error::usage;
use crate::setup;
use crate::sizes::scatter;
use anyhow::Result;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// The greatest weight.
const WEIGHT_MAX: u32 = 1_000_000;
/// So that draws for targets and for peers have nothing to do with those for lengths.
const TARGET_SALT: u64 = 0x7A26_E7F1_0C5B_3D49;
const PEER_SALT: u64 = 0x1B87_3593_CC9E_2D51;

/// `--target`, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `HOST:PORT`.
    pub place: String,
    /// Its share of the messages, beside the others'.
    pub weight: u32,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((place, weight)) = text.rsplit_once('=') else {
            check_place(text)?;
            return Ok(Self { place: text.to_owned(), weight: 1 });
        };
        check_place(place)?;
        match weight.parse() {
            Ok(weight) if (1..=WEIGHT_MAX).contains(&weight) => Ok(Self { place: place.to_owned(), weight }),
            _ => Err(format!("{weight:?} is no weight from 1 to {WEIGHT_MAX}")),
        }
    }
}

/// As far as it can be told without asking anybody.
fn check_place(place: &str) -> Result<(), String> {
    let is_host = |host: &str| match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && !host.contains(':'),
    };
    match place.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        _ => Err(format!("{place:?} is not HOST:PORT, as 10.0.0.7:25252 or [::1]:25252")),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            1 => f.write_str(&self.place),
            weight => write!(f, "{}={weight}", self.place),
        }
    }
}

/// Which of several is drawn how often.
#[derive(Clone, Debug)]
struct Draw {
    /// Of 2^64, where each one's part ends; the last one has the rest.
    ends: Arc<[u64]>,
    seed: u64,
}

impl Draw {
    /// By these weights, which are not all 0.
    fn new(weights: impl Iterator<Item = f64> + Clone, seed: u64) -> Self {
        let whole: f64 = weights.clone().sum();
        let mut sum = 0.0;
        let mut ends: Vec<u64> = weights
            .map(|weight| {
                sum += weight;
                (sum / whole * 2_f64.powi(64)) as u64
            })
            .collect();
        if let Some(last) = ends.last_mut() {
            *last = u64::MAX;
        }
        Self { ends: ends.into(), seed }
    }

    /// The one that message `number` goes to.
    #[inline]
    fn of(&self, number: u64) -> usize {
        if self.ends.len() < 2 {
            return 0;
        }
        let bits = scatter(self.seed, number);
        self.ends.partition_point(|&end| end < bits)
    }
}

/// Where the messages of a run go.
#[derive(Clone, Debug)]
pub struct Targets {
    addresses: Arc<[SocketAddr]>,
    draw: Draw,
}

impl Targets {
    /// All to one.
    pub fn one(address: SocketAddr) -> Self {
        Self { addresses: Arc::from([address]), draw: Draw::new(std::iter::once(1.0), 0) }
    }

    /// As the flags say; `seed` is that of the run.
    pub fn resolve(targets: &[Target]) -> Result<Self> {
        let addresses = targets
            .iter()
            .map(|target| setup::resolve(&target.place))
            .collect::<Result<Vec<SocketAddr>>>()?;
        if addresses.windows(2).any(|pair| pair[0].is_ipv4() != pair[1].is_ipv4()) {
            return Err(usage("--target: all over IPv4, or all over IPv6: peers send from one address"));
        }
        let weights = targets.iter().map(|target| f64::from(target.weight));
        Ok(Self { addresses: addresses.into(), draw: Draw::new(weights, 0) })
    }

    /// The same, drawn from another seed.
    pub fn with_seed(&self, seed: u64) -> Self {
        let draw = Draw { ends: Arc::clone(&self.draw.ends), seed: seed ^ TARGET_SALT };
        Self { addresses: Arc::clone(&self.addresses), draw }
    }

    /// All of them.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// If there is one alone.
    #[inline]
    pub fn if_one(&self) -> Option<SocketAddr> {
        match &*self.addresses {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// Which one message `number` goes to.
    #[inline]
    pub fn index_of(&self, number: u64) -> usize {
        self.draw.of(number)
    }

    /// Where message `number` goes.
    #[inline]
    pub fn of(&self, number: u64) -> SocketAddr {
        self.addresses[self.index_of(number)]
    }
}

/// Those who send: how many, and how much each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peers {
    /// How many.
    pub count: usize,
    /// The n-th one sends n^skew times less than the first; 0: all the same.
    pub skew: f64,
}

impl Peers {
    /// How much peer `index` sends, beside the others.
    pub fn weight(&self, index: usize) -> f64 {
        ((index + 1) as f64).powf(-self.skew)
    }

    /// What part of all messages the peers `of` send.
    pub fn share(&self, of: impl Iterator<Item = usize>) -> f64 {
        let whole: f64 = (0..self.count).map(|index| self.weight(index)).sum();
        of.map(|index| self.weight(index)).sum::<f64>() / whole
    }
}

/// Which of some peers sends which message.
#[derive(Clone, Debug)]
pub struct PeerDraw(Draw);

impl PeerDraw {
    /// Among the peers `of`.
    pub fn new(peers: &Peers, of: impl Iterator<Item = usize> + Clone, seed: u64) -> Self {
        Self(Draw::new(of.map(|index| peers.weight(index)), seed ^ PEER_SALT))
    }

    /// The place of the one that sends message `number` among them.
    #[inline]
    pub fn of(&self, number: u64) -> usize {
        self.0.of(number)
    }
}

/// Where peer `index` sends from: a port of its own and, toward loopback, an address of its own, as the peers of a real server
/// have them. Peer 0 does what a single one does.
pub fn from_address(index: usize, toward: SocketAddr) -> SocketAddr {
    let any: IpAddr = match toward {
        SocketAddr::V4(to) if to.ip().is_loopback() => match u16::try_from(index) {
            Ok(index) if index > 0 => {
                let [high, low] = index.to_be_bytes();
                Ipv4Addr::new(127, 1, high, low).into()
            }
            _ => Ipv4Addr::LOCALHOST.into(),
        },
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    (any, 0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn targets_people_write() {
        for text in ["h:1", "[::1]:7=3", "127.0.0.1:25252=1000000"] {
            assert_eq!(text.parse::<Target>().expect(text).to_string(), text);
        }
        for text in [
            "h:1=",
            "h:1=0",
            "h:1=1000001",
            "h:1=many",
            "nowhere",
            "nowhere=2",
            "h:",
            "h:0",
            ":1",
            "h:65536",
            "::1",
            "[::1]",
            "[h]:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let both = ["127.0.0.1:1", "[::1]:1"].map(|text| text.parse().expect("valid"));
        assert!(Targets::resolve(&both).is_err());
    }

    #[test]
    fn each_as_often_as_its_weight() {
        let targets =
            ["127.0.0.1:1=7", "127.0.0.1:2", "127.0.0.1:3=2"].map(|text| text.parse().expect("valid"));
        let targets = Targets::resolve(&targets).expect("addresses").with_seed(5);
        let mut counts = [0; 3];
        (0..100_000).for_each(|number| counts[targets.index_of(number)] += 1);
        for (count, expected) in counts.into_iter().zip([70_000_i32, 10_000, 20_000]) {
            assert!((count - expected).abs() < 600, "{counts:?}");
        }
        assert_eq!(targets.of(9).port() as usize, targets.index_of(9) + 1);
        assert_eq!((targets.if_one(), Targets::one(targets.of(0)).if_one()), (None, Some(targets.of(0))));
    }

    #[test]
    fn heavy_and_light_peers() {
        let peers = Peers { count: 10, skew: 1.0 };
        // Two of three threads have the peers 0, 3, 6, 9 and 1, 4, 7.
        let [first, second] = [0, 1].map(|thread| peers.share((thread..10).step_by(3)));
        assert!((first - 0.5097).abs() < 1e-3 && (second - 0.2817).abs() < 1e-3, "{first} {second}");
        let draw = PeerDraw::new(&peers, (0..10).step_by(3), 1);
        let of_first = (0..100_000).filter(|&number| draw.of(number) == 0).count() as f64 / 1e5;
        assert!((of_first - 1.0 / (1.0 + 0.25 + 1.0 / 7.0 + 0.1)).abs() < 0.01, "{of_first}");
        assert!((Peers { count: 4, skew: 0.0 }.share(1..2) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn every_peer_has_an_address_of_its_own_on_loopback() {
        let to = "127.0.0.1:9".parse().expect("valid");
        let all: BTreeSet<SocketAddr> = (0..60_000).map(|index| from_address(index, to)).collect();
        assert!(all.len() == 60_000 && all.iter().all(|from| from.ip().is_loopback() && from.port() == 0));
        assert!(from_address(5, "192.0.2.1:9".parse().expect("valid")).ip().is_unspecified());
    }
}
