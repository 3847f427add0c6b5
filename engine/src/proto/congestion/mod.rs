//! Congestion control of the binary wire: how many bytes may be in flight, and how fast they leave.
//!
//! | module | owns |
//! |---|---|
//! | this one | the seam: trait, samples, choice of algorithm |
//! | `delivery_rate` | delivery-rate samples: 24 bytes a packet in flight, a few words a flow |
//! | `pacer` | the token bucket that spreads what the window allows |
//! | `model` | the default: delivery-rate and delay model that tolerates random loss (BBRv2/v3) |
//! | `cubic` | RFC 9438 with HyStart++ (RFC 9406) |
//! | `fixed` | a constant window |
//!
//! Pure: no clock, no I/O, no allocation after [`CongestionFactory::build`]. A flow owns one boxed controller, one
//! [`delivery_rate::DeliveryRate`] and one [`pacer::Pacer`] and calls, in this order:
//!
//! - for a datagram that leaves: `DeliveryRate::on_sent` (keep the [`delivery_rate::PacketRate`] with the packet), then
//!   [`CongestionControl::on_sent`], then `Pacer::on_sent`;
//! - for an ACK frame: `DeliveryRate::on_acked` for each newly acknowledged packet, then `DeliveryRate::sample`, then
//!   [`CongestionControl::on_spurious_loss`] for each packet that had been declared lost, then
//!   [`CongestionControl::on_ack`], and only then loss detection and [`CongestionControl::on_loss`];
//! - where the application or the peer's credit, not the window, ends a burst: `DeliveryRate::on_app_limited`.
//!
//! Credit bounds a flow independently: a datagram leaves when window, pacer *and* credit allow it. A controller that
//! is wrong can therefore not overflow the receiver, only the path.
//!
//! "Bytes" is what the caller counts in flight, the same at every call: UDP payload bytes of ack-eliciting datagrams.

use crate::units::Instant;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod cubic;
pub mod delivery_rate;
mod fixed;
mod model;
pub mod pacer;
#[cfg(test)]
mod tests;

/// What decides how much a flow may have in flight. One per flow; its owner is one thread.
///
/// Implementations do not panic on any sequence of calls, however odd the numbers: they come from a peer.
pub trait CongestionControl: fmt::Debug + Send {
    /// A datagram of `bytes` left. `in_flight` includes it.
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

    /// Bytes that may be in flight. Never zero.
    fn window_bytes(&self) -> u64;

    /// Bytes per second to pace at; `None`: not paced. Never zero.
    fn pacing_bytes_per_s(&self) -> Option<u64>;

    /// For logs and counters.
    fn name(&self) -> &'static str;
}

/// What one ACK frame said.
#[derive(Clone, Copy, Debug)]
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
    /// Bytes per second after draft-cheng-iccrg-delivery-rate-estimation, from `DeliveryRate::sample`.
    pub delivery_rate: Option<u64>,
    /// Bytes in flight after this acknowledgement.
    pub in_flight: u64,
    /// The packet the rate was measured on left while the application or credit, not the window, was the limit:
    /// `RateSample::app_limited`.
    pub app_limited: bool,
    /// Packets the peer newly reports as marked by the network (ECN-CE).
    pub ecn_ce: u64,
}

/// What one run of loss detection found.
#[derive(Clone, Copy, Debug)]
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

/// Limits of one flow's window, and where it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CcConfig {
    /// Window before anything is known.
    pub initial_window_bytes: u64,
    /// Lower bound of the window in congestion.
    pub min_window_bytes: u64,
    /// Upper bound of the window; at most what the peer's credit can ever allow.
    pub max_window_bytes: u64,
    /// The largest datagram sent to this peer: the unit of increase.
    pub datagram_bytes: u32,
    /// The window of [`Algorithm::Fixed`].
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

/// Makes a controller for each new flow: the seam for controllers of the user's own.
pub trait CongestionFactory: Send + Sync + fmt::Debug {
    /// A controller for one flow.
    fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl>;
}

impl CongestionFactory for Algorithm {
    fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl> {
        build(*self, config)
    }
}

/// A controller for one flow.
#[must_use]
pub fn build(algorithm: Algorithm, config: &CcConfig) -> Box<dyn CongestionControl> {
    match algorithm {
        Algorithm::Model => Box::new(model::Model::new(config)),
        Algorithm::Cubic => Box::new(cubic::Cubic::new(config)),
        Algorithm::Fixed => Box::new(fixed::Fixed::new(config)),
    }
}

/// Below this smallest round trip nothing is paced: timers tick at 131 us, so a pacer could only turn a round trip of
/// 50 us into one of 180. Acknowledgements come back faster than a timer could fire, and they clock the window out.
const PACING_MIN_RTT: Duration = Duration::from_millis(1);
