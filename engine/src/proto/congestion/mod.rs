//! Congestion control of the binary wire: how many bytes may be in flight on a flow, and how fast they leave.
//!
//! A *flow* is a conversation with one peer; each of its two directions is controlled by its sender. Three controllers come
//! with the engine ([`Algorithm`], builder option `congestion`): `model` (after BBRv2 and BBRv3, the default), `cubic`
//! (RFC 9438, RFC 9406) and `fixed`. A controller of one's own implements [`CongestionControl`]; a [`CongestionFactory`]
//! makes one for each new flow, and is given to the builder as `congestion_factory`.
//!
//! # Units
//! *Bytes* are UDP payload bytes of datagrams that ask for an acknowledgement (R-PN-3), the same at every call. Rates are bytes
//! per second. Packet numbers are those of the wire: they count the datagrams of one direction and never repeat. `now` is
//! the engine's monotonic clock; nothing else may be taken for a clock.
//!
//! # When each call comes
//! - [`on_sent`](CongestionControl::on_sent): once per datagram, when it is complete and leaves in this turn of the shard's
//!   loop, repeats of lost ones included (they have a new number). Hot: some 100,000 times a second on a busy flow.
//! - For one ACK frame that acknowledges something new, in this order: `on_spurious_loss` once per datagram in it that had been
//!   declared lost, `on_ack` once, and then `on_loss` if the same frame shows that others are lost.
//! - [`on_loss`](CongestionControl::on_loss) also when a datagram is found late by a timer. A timeout as such is no call: its
//!   probe is sent whatever the window, and what comes back says what was lost.
//! - After `on_ack` and after `on_loss` the engine reads [`window_bytes`](CongestionControl::window_bytes); after `on_ack` it
//!   reads [`pacing_bytes_per_s`](CongestionControl::pacing_bytes_per_s). What changes at other times counts from then on.
//!
//! # What the engine guarantees, whatever the answers are
//! - The peer's credit bounds the flow independently (R-CREDIT-1): a controller that is wrong overflows the path, never the
//!   receiver.
//! - With nothing in flight one datagram may leave, so no answer stops a flow for good; a window above 64 MiB is taken for
//!   64 MiB, a pacing rate of 0 for 1 (R-LOSS-8).
//! - Probes (R-LOSS-4), acknowledgements and other control datagrams do not ask for room in the window. Those that are
//!   acknowledged are counted in `in_flight` all the same.
//! - One thread owns a controller: the shard's. It lives as long as its flow, but for pauses: after 10 s in which nothing
//!   happens on a flow it is dropped, and with the next message or datagram another one is built, whose initial window is
//!   no wider than the last window before (R-FLOW-14). If it panics, the engine stops, as with an actor.
//!
//! Controllers must not block, and should not allocate once built.
//!
//! # One of your own
//! ```
//! use std::time::Duration;
//! use udp_plus::congestion::{AckSample, CcConfig, CongestionControl, CongestionFactory, LossSample};
//! use udp_plus::units::Instant;
//! use udp_plus::{Engine, Wire};
//!
//! /// Twice what arrives in 10 ms, as last measured.
//! #[derive(Debug)]
//! struct TwoTrips { window: u64, least: u64 }
//!
//! impl CongestionControl for TwoTrips {
//!     fn on_ack(&mut self, _: Instant, ack: &AckSample) {
//!         if let Some(bytes_per_s) = ack.delivery_rate {
//!             self.window = (2 * bytes_per_s / 100).max(self.least);
//!         }
//!     }
//!     fn on_loss(&mut self, _: Instant, loss: &LossSample) {
//!         if loss.persistent { self.window = self.least; }
//!     }
//!     fn on_spurious_loss(&mut self, _: Instant) {}
//!     fn window_bytes(&self) -> u64 { self.window }
//!     fn pacing_bytes_per_s(&self) -> Option<u64> { None }
//! }
//!
//! #[derive(Debug)]
//! struct Factory;
//!
//! impl CongestionFactory for Factory {
//!     fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl> {
//!         Box::new(TwoTrips { window: config.initial_window_bytes, least: config.min_window_bytes })
//!     }
//! }
//!
//! # fn main() -> Result<(), udp_plus::StartError> {
//! let engine = Engine::builder().bind("127.0.0.1:0").shards(1).wire(Wire::Binary).congestion_factory(Factory).start()?;
//! # drop(engine); Ok(()) }
//! ```
//! `examples/own_congestion.rs` has a whole one.

// | module | owns |
// |---|---|
// | this one | the seam: trait, samples, choice of algorithm |
// | `delivery_rate` | delivery-rate samples: 24 bytes a packet in flight, a few words a flow |
// | `pacer` | the token bucket that spreads what the window allows |
// | `model`, `cubic`, `fixed` | the controllers |
//
// Pure: no clock, no I/O. A flow owns one boxed controller, one `DeliveryRate` and one `Pacer`. For a datagram that leaves it
// calls `DeliveryRate::on_sent` (and keeps the `PacketRate` with the packet), the controller, `Pacer::on_sent`; for an ACK
// frame `DeliveryRate::on_acked` for each newly acknowledged packet, `DeliveryRate::sample`, then the controller, and only
// then loss detection; where the application or the peer's credit, not the window, ends a burst,
// `DeliveryRate::on_app_limited`.

use crate::units::Instant;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod cubic;
pub(crate) mod delivery_rate;
mod fixed;
mod model;
pub(crate) mod pacer;
#[cfg(test)]
mod tests;

/// Most bytes a flow has in flight, whatever its controller says (R-LOSS-8).
pub(crate) const WINDOW_BYTES_MAX: u64 = 1 << 26;

/// What decides how much a flow may have in flight. One per flow; its owner is one thread. See the
/// [module](self) for units, for when each call comes, and for what holds whatever it answers.
///
/// Implementations do not panic on any sequence of calls, however odd the numbers: they come from a peer.
pub trait CongestionControl: fmt::Debug + Send {
    /// A datagram of `bytes` leaves. `in_flight`, bytes, includes it.
    fn on_sent(&mut self, now: Instant, bytes: u32, in_flight: u64) {
        let _ = (now, bytes, in_flight);
    }

    /// One received acknowledgement batch (all ranges of one ACK), called once per ACK frame that acknowledges
    /// something new.
    fn on_ack(&mut self, now: Instant, ack: &AckSample);

    /// Datagrams declared lost, once per detection.
    fn on_loss(&mut self, now: Instant, loss: &LossSample);

    /// A datagram declared lost was acknowledged after all (Eifel, RFC 4015). Called once per such datagram; an
    /// implementation undoes its reaction when all datagrams that caused it turn out to have arrived.
    fn on_spurious_loss(&mut self, now: Instant);

    /// Bytes that may be in flight: another datagram leaves while what is in flight and the longest datagram together are
    /// no more. Cheap: it is read after every ACK.
    fn window_bytes(&self) -> u64;

    /// Bytes per second at which new datagrams are spread; `None`: they leave as the window allows. Repeats and probes are
    /// not held back by it.
    fn pacing_bytes_per_s(&self) -> Option<u64>;
}

/// What one ACK frame said.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct AckSample {
    /// Bytes newly acknowledged.
    pub acked_bytes: u64,
    /// When the newest of the newly acknowledged packets left.
    pub newest_sent_at: Instant,
    /// The largest newly acknowledged packet number.
    pub largest_packet: u64,
    /// The next packet number to be sent: a round ends when a packet sent after the round began is acknowledged.
    pub next_packet: u64,
    /// Round trip of the largest acknowledged packet, if newly acknowledged; without the peer's reported delay.
    pub rtt: Option<Duration>,
    /// The smallest round trip of the flow.
    pub min_rtt: Duration,
    /// The smoothed round trip (RFC 6298).
    pub smoothed_rtt: Duration,
    /// Bytes ever acknowledged on this flow.
    pub delivered_bytes: u64,
    /// Bytes per second that arrived, after draft-cheng-iccrg-delivery-rate-estimation; `None` if the frame allows no
    /// measurement.
    pub delivery_rate: Option<u64>,
    /// Bytes in flight after this acknowledgement.
    pub in_flight: u64,
    /// The packet the rate was measured on left while the application or credit, not the window, was the limit: the path
    /// may carry more than `delivery_rate`.
    pub app_limited: bool,
    /// Packets the peer newly reports as marked by the network (ECN-CE). Always 0 today: ECN is neither set nor read
    /// (R-LOSS-8).
    pub ecn_ce: u64,
}

/// What one run of loss detection found.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct LossSample {
    /// Bytes declared lost.
    pub lost_bytes: u64,
    /// Packets declared lost.
    pub lost_packets: u32,
    /// When the newest of them left.
    pub largest_lost_sent_at: Instant,
    /// The largest packet number among them.
    pub largest_lost: u64,
    /// The next packet number to be sent.
    pub next_packet: u64,
    /// Bytes in flight, the lost ones taken out.
    pub in_flight: u64,
    /// The losses span the persistent congestion duration (RFC 9002 section 7.6): the path is gone or new.
    pub persistent: bool,
}

/// Limits of one flow's window, and where it starts: what a factory is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CcConfig {
    /// Window before anything is known; after a pause of the flow no wider than before it (RFC 5681 section 4.1).
    pub initial_window_bytes: u64,
    /// Lower bound of the window in congestion.
    pub min_window_bytes: u64,
    /// Upper bound of the window: a wider one is not used.
    pub max_window_bytes: u64,
    /// The largest datagram sent to this peer: the unit of increase.
    pub datagram_bytes: u32,
    /// The constant window of [`Algorithm::Fixed`].
    pub fixed_window_bytes: u64,
}

impl CcConfig {
    /// A configuration whose limits do not contradict each other and hold at least one datagram: what controllers
    /// work with, so that they need no checks.
    #[must_use]
    pub fn consistent(&self) -> Self {
        let datagram_bytes = self.datagram_bytes.max(1);
        let one = u64::from(datagram_bytes);
        // f64 holds integers up to 2^53 exactly; a window beyond that is a mistake, not a network.
        let max_window_bytes = self.max_window_bytes.clamp(one, 1 << 50);
        let min_window_bytes = self.min_window_bytes.clamp(one, max_window_bytes);
        Self {
            initial_window_bytes: self.initial_window_bytes.clamp(min_window_bytes, max_window_bytes),
            min_window_bytes,
            max_window_bytes,
            datagram_bytes,
            fixed_window_bytes: self.fixed_window_bytes.clamp(one, max_window_bytes),
        }
    }
}

/// The controllers that come with the engine. [`FromStr`] and [`fmt::Display`] use the names of the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `model`: delivery rate and delay, tolerant of random loss; after BBRv2 and BBRv3 (draft-ietf-ccwg-bbr).
    #[default]
    Model,
    /// `cubic`: RFC 9438 with HyStart++ (RFC 9406). Shares a queue with TCP as TCP does, and suffers from random loss.
    Cubic,
    /// `fixed`: a constant window, not paced. For links whose owner knows better.
    Fixed,
}

/// An algorithm's name was none of `model`, `cubic`, `fixed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown congestion control: use model, cubic or fixed")]
pub struct UnknownAlgorithm;

impl Algorithm {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Cubic => "cubic",
            Self::Fixed => "fixed",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        [Self::Model, Self::Cubic, Self::Fixed]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or(UnknownAlgorithm)
    }
}

/// Makes a controller for each new flow, and for one that goes on after a pause. Shared by all shards of an engine.
pub trait CongestionFactory: Send + Sync + fmt::Debug {
    /// A controller for one flow; called on its shard's thread.
    fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl>;
}

impl CongestionFactory for Algorithm {
    fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl> {
        build(*self, config)
    }
}

/// A controller for one flow.
#[must_use]
pub(crate) fn build(algorithm: Algorithm, config: &CcConfig) -> Box<dyn CongestionControl> {
    match algorithm {
        Algorithm::Model => Box::new(model::Model::new(config)),
        Algorithm::Cubic => Box::new(cubic::Cubic::new(config)),
        Algorithm::Fixed => Box::new(fixed::Fixed::new(config)),
    }
}

/// Below this smallest round trip nothing is paced: timers tick at 131 us, so a pacer could only turn a round trip of
/// 50 us into one of 180. Acknowledgements come back faster than a timer could fire, and they clock the window out.
const PACING_MIN_RTT: Duration = Duration::from_millis(1);
