//! A congestion controller of one's own: TCP Reno (RFC 5681) in bytes, on a flow over loopback, beside the engine's default.
//!
//! What to know before writing one: the documentation of `udp_plus::congestion`.

#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use udp_plus::congestion::{AckSample, CcConfig, CongestionControl, CongestionFactory, LossSample};
use udp_plus::{Builder, Engine, Outgoing, Preset, Wire, units};

/// Slow start, then one datagram more each round trip, and half of everything after a loss.
#[derive(Debug)]
pub struct Reno {
    window: u64,
    slow_start_until: u64,
    /// Losses among packets up to this number have had their reaction: one per round trip (RFC 5681 section 3.2).
    recovering_until: u64,
    before_loss: u64,
    config: CcConfig,
    report: Arc<Report>,
}

/// What all controllers of a factory did.
#[derive(Debug, Default)]
pub struct Report {
    /// Datagrams that left.
    pub sent: AtomicU64,
    /// Acknowledgement frames.
    pub acks: AtomicU64,
    /// Times something was lost.
    pub losses: AtomicU64,
    /// The widest window.
    pub widest: AtomicU64,
    /// Most bytes in flight.
    pub in_flight_max: AtomicU64,
}

impl CongestionControl for Reno {
    fn on_sent(&mut self, _: units::Instant, _: u32, in_flight: u64) {
        self.report.sent.fetch_add(1, Ordering::Relaxed);
        self.report.in_flight_max.fetch_max(in_flight, Ordering::Relaxed);
    }

    fn on_ack(&mut self, _: units::Instant, ack: &AckSample) {
        self.report.acks.fetch_add(1, Ordering::Relaxed);
        if ack.app_limited {
            return; // It says nothing about a wider window (RFC 7661).
        }
        self.window += if self.window < self.slow_start_until {
            ack.acked_bytes
        } else {
            // Over a round trip, in which a window is acknowledged, this adds up to one datagram.
            u64::from(self.config.datagram_bytes) * ack.acked_bytes / self.window
        };
        self.window = self.window.min(self.config.max_window_bytes);
        self.report.widest.fetch_max(self.window, Ordering::Relaxed);
    }

    fn on_loss(&mut self, _: units::Instant, loss: &LossSample) {
        self.report.losses.fetch_add(1, Ordering::Relaxed);
        if loss.persistent {
            self.window = self.config.min_window_bytes;
        } else if loss.largest_lost >= self.recovering_until {
            self.before_loss = self.window;
            self.window = (self.window / 2).max(self.config.min_window_bytes);
            self.slow_start_until = self.window;
        } else {
            return;
        }
        self.recovering_until = loss.next_packet;
    }

    fn on_spurious_loss(&mut self, _: units::Instant) {
        self.window = self.window.max(self.before_loss);
    }

    fn window_bytes(&self) -> u64 {
        self.window
    }

    fn pacing_bytes_per_s(&self) -> Option<u64> {
        None
    }
}

/// Makes a [`Reno`] for each flow.
#[derive(Debug, Default)]
pub struct RenoFactory {
    /// See [`Report`].
    pub report: Arc<Report>,
    /// No window is wider; `None`: as wide as the engine allows.
    pub window_bytes_max: Option<u64>,
}

impl CongestionFactory for RenoFactory {
    fn build(&self, config: &CcConfig) -> Box<dyn CongestionControl> {
        let widest = self.window_bytes_max.unwrap_or(config.max_window_bytes);
        let config = CcConfig { max_window_bytes: widest, ..*config };
        Box::new(Reno {
            window: config.initial_window_bytes.min(widest),
            slow_start_until: u64::MAX,
            recovering_until: 0,
            before_loss: 0,
            config,
            report: Arc::clone(&self.report),
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let builder = || Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").wire(Wire::Binary);
    let factory = RenoFactory::default();
    let report = Arc::clone(&factory.report);
    println!("model (default): {:?} for 64 MiB", transfer(builder())?);
    println!("own (Reno):      {:?} for 64 MiB", transfer(builder().congestion_factory(factory))?);
    let [sent, acks, losses, widest, in_flight] =
        [&report.sent, &report.acks, &report.losses, &report.widest, &report.in_flight_max]
            .map(|number| number.load(Ordering::Relaxed));
    println!("Reno: {sent} datagrams, {acks} ACKs, {losses} losses");
    println!("Reno: window up to {widest} bytes, of which at most {in_flight} were in flight");
    Ok(())
}

/// 64 messages of 1 MiB to an engine with default options, one after the other, four at a time.
fn transfer(builder: Builder) -> Result<Duration, Box<dyn Error>> {
    let receiver = Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").wire(Wire::Binary).start()?;
    let sender = builder.start()?;
    let received = receiver.recv_bucket();
    let started = Instant::now();
    for _ in 0..16 {
        let payload = vec![7; 1 << 20];
        let outgoing = || Outgoing::to(receiver.local_addr(), payload.clone());
        let deliveries: Vec<_> =
            (0..4).map(|_| sender.send_bucket().blocking_put(outgoing())).collect::<Result<_, _>>()?;
        for delivery in deliveries {
            delivery.wait()?;
        }
        while received.try_get().is_some() {}
    }
    Ok(started.elapsed())
}
