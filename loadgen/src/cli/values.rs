//! Values as typed on the command line.

use crate::size::Size;
use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use udp_plus::{DriverChoice, PeerMatch};

/// What the far end does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Takes them.
    Sink,
    /// Sends them back.
    Echo,
}

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// UDP-Plus, as `--wire` says.
    UdpPlus,
    /// A datagram each, and its echo.
    Udp,
    /// One connection a shard, each message behind its length.
    Tcp,
}

/// How the application uses its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// In the shard.
    Actor,
    /// From a thread of its own, in batches.
    Buckets,
}

/// How urgent messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    /// Below others to the same peer.
    Low,
    /// As others.
    Normal,
    /// Above others.
    High,
    /// Before others.
    Control,
}

/// When a message counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// The far end has it.
    Accepted,
    /// The far end's application has committed it.
    Committed,
}

/// The wire format if the user does not say: here for the parser, and in the table of flags.
pub const WIRE_DEFAULT: &str = "csv";

/// Wire formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Binary with peers that speak it, CSV with others.
    Auto,
    /// UDP-Plus v1.
    Csv,
    /// UDP-Plus v2 alone.
    Binary,
}

impl From<Wire> for udp_plus::Wire {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Auto => Self::Auto,
            Wire::Csv => Self::Csv,
            Wire::Binary => Self::Binary,
        }
    }
}

/// The wire of some peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerWire {
    /// Which ones.
    pub peer: PeerMatch,
    /// What they are spoken to in.
    pub wire: Wire,
}

impl FromStr for PeerWire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (peer, wire) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is not PEER=WIRE, as 10.0.0.0/8=csv"))?;
        let peer = peer.parse().map_err(|error: udp_plus::ParsePeerMatchError| error.to_string())?;
        let wire =
            Wire::from_str(wire, false).map_err(|_| format!("{wire:?} is none of auto, csv and binary"))?;
        Ok(Self { peer, wire })
    }
}

impl fmt::Display for PeerWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.peer, self.wire)
    }
}

/// Congestion controls of the binary wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cc {
    /// By delivery rate and delay.
    Model,
    /// RFC 9438.
    Cubic,
    /// A fixed window.
    Fixed,
}

/// Largest datagram of the binary wire, in bytes of UDP payload; `None`: as the path allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu(pub Option<u32>);

/// What every path carries.
const MTU_MIN: u64 = 1_200;
/// What a datagram over IPv4 carries.
const MTU_MAX: u64 = 65_472;

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        match text.parse::<Size>() {
            Ok(Size(bytes)) if (MTU_MIN..=MTU_MAX).contains(&bytes) => Ok(Self(u32::try_from(bytes).ok())),
            _ => Err(format!("{text:?} is neither \"auto\" nor between {MTU_MIN} and {MTU_MAX} bytes")),
        }
    }
}

/// Kernel interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring where it works.
    Auto,
    /// io_uring or failure.
    Uring,
    /// epoll, recvmmsg, sendmmsg.
    Mmsg,
}

impl From<Driver> for DriverChoice {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Auto => Self::Auto,
            Driver::Uring => Self::Uring,
            Driver::Mmsg => Self::Mmsg,
        }
    }
}

macro_rules! display_as_value {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
            }
        }
    )+};
}
display_as_value!(Mode, Protocol, Api, Priority, Level, Wire, Cc, Driver);

/// Shorter is no run: in less, a thread may not even be woken up.
const SECONDS_MIN: f64 = 1e-3;

/// A number of seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
        if (SECONDS_MIN..=1e6).contains(&seconds) {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!("{text:?} is not between {SECONDS_MIN} and 1,000,000 seconds"))
        }
    }
}

/// The engine tries a row for half an hour at most.
pub const TIMEOUT_S_MAX: f64 = 1_800.0;

/// A time after which to give up.
pub fn timeout(text: &str) -> Result<Seconds, String> {
    match text.parse::<Seconds>()? {
        Seconds(timeout) if timeout.as_secs_f64() <= TIMEOUT_S_MAX => Ok(Seconds(timeout)),
        _ => Err(format!("{text:?} is not between {SECONDS_MIN} and {TIMEOUT_S_MAX} seconds")),
    }
}

/// A share, given in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim_end_matches('%').trim().parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => Err(format!("{text:?} is not from 0 to below 100 per cent")),
        }
    }
}

/// A share that is not none.
pub fn above_zero(text: &str) -> Result<Percent, String> {
    match text.parse::<Percent>()? {
        Percent(share) if share >= 0.001 => Ok(Percent(share)),
        _ => Err(format!("{text:?} is less than 0.1 per cent")),
    }
}

/// Time for the baselines.
pub fn baseline_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not between 0 and 3,600 seconds")),
    }
}

/// How unequal peers are.
pub fn skew(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(skew) if (0.0..=10.0).contains(&skew) => Ok(skew),
        _ => Err(format!("{text:?} is no exponent from 0 to 10")),
    }
}
