//! CUBIC (RFC 9438) with HyStart++ (RFC 9406).
//!
//! ```text
//! slow start --> CSS (growth / 4, up to 5 rounds) --> congestion avoidance
//!     ^  delay rose, and fell again  |                     |    ^
//!     '------------------------------'                loss '----' window * 0.7, once per round trip
//! ```
//!
//! Differences from the letter of the RFCs: the window is in bytes and f64; bursts in slow start are bounded by the
//! pacer instead of by L (RFC 9406 section 4.2 allows that). An ECN mark counts as a loss (RFC 9438 section 4.6).
//! Persistent congestion (RFC 9002 section 7.6) restarts slow start from the smallest window.

use super::{AckSample, CcConfig, CongestionControl, LossSample, PACING_MIN_RTT};
use crate::units::Instant;
use std::time::Duration;

/// RFC 9438 section 4.6: what is left of the window after a congestion event.
const BETA: f64 = 0.7;
/// RFC 9438 section 5: datagrams per second cubed.
const C: f64 = 0.4;
/// RFC 9438 section 4.3: additive increase with which a Reno that multiplies by [`BETA`] is as fast as a real one.
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

// RFC 9406 section 4.3.
const MIN_RTT_THRESHOLD: Duration = Duration::from_millis(4);
const MAX_RTT_THRESHOLD: Duration = Duration::from_millis(16);
const MIN_RTT_DIVISOR: u32 = 8;
const RTT_SAMPLES: u32 = 8;
const CSS_GROWTH_DIVISOR: f64 = 4.0;
const CSS_ROUNDS: u32 = 5;

/// Pacing gains of Linux (`tcp_pacing_ss_ratio`, `tcp_pacing_ca_ratio`): above the window's own rate, so that the
/// window and not the pacer is what limits.
const PACING_GAIN_SLOW_START: f64 = 2.0;
const PACING_GAIN_AVOIDANCE: f64 = 1.2;

/// See the module.
#[derive(Debug)]
pub(super) struct Cubic {
    config: CcConfig,
    curve: Curve,
    slow_start: HyStart,
    /// Packets below this left before the last reduction: their loss is the same congestion event.
    recovery_until: u64,
    undo: Option<Undo>,
    smoothed_rtt: Duration,
    min_rtt: Duration,
    acked_at: Instant,
}

/// What a congestion event changes.
#[derive(Clone, Copy, Debug)]
struct Curve {
    window: f64,
    slow_start_threshold: f64,
    /// The window at which the curve is flat.
    window_max: f64,
    /// Seconds from the epoch's start to `window_max`.
    k: f64,
    /// `None`: no congestion avoidance yet, or not since the last event.
    epoch_start: Option<Instant>,
    /// The window at the epoch's start.
    window_epoch: f64,
    /// The window of a Reno flow since the epoch's start.
    window_reno: f64,
    /// The window before the last event: up to here Reno is slowed down by [`ALPHA`].
    window_prior: f64,
}

#[derive(Clone, Copy, Debug)]
struct Undo {
    curve: Curve,
    /// Packets of the event that are still thought to be lost.
    packets: u32,
}

impl Cubic {
    pub(super) fn new(config: &CcConfig) -> Self {
        let config = config.consistent();
        let window = config.initial_window_bytes as f64;
        Self {
            config,
            curve: Curve {
                window,
                slow_start_threshold: f64::INFINITY,
                window_max: 0.0,
                k: 0.0,
                epoch_start: None,
                window_epoch: window,
                window_reno: window,
                window_prior: window,
            },
            slow_start: HyStart::default(),
            recovery_until: 0,
            undo: None,
            smoothed_rtt: Duration::ZERO,
            min_rtt: Duration::ZERO,
            acked_at: Instant::default(),
        }
    }

    fn datagram(&self) -> f64 {
        f64::from(self.config.datagram_bytes)
    }

    fn in_slow_start(&self) -> bool {
        self.curve.window < self.curve.slow_start_threshold
    }

    /// `window`, within the configured limits.
    fn bounded(&self, window: f64) -> f64 {
        window.clamp(self.config.min_window_bytes as f64, self.config.max_window_bytes as f64)
    }

    fn grow_in_slow_start(&mut self, ack: &AckSample) {
        if self.slow_start.on_ack(ack) {
            self.curve.slow_start_threshold = self.curve.window;
            return;
        }
        let divisor = if self.slow_start.in_css() { CSS_GROWTH_DIVISOR } else { 1.0 };
        let window = self.curve.window + ack.acked_bytes as f64 / divisor;
        // What is left over above the threshold grows at the slower pace, with the next acknowledgement.
        self.curve.window = self.bounded(window.min(self.curve.slow_start_threshold.max(self.curve.window)));
    }

    /// RFC 9438 sections 4.2 to 4.5.
    fn grow_in_avoidance(&mut self, now: Instant, ack: &AckSample) {
        let datagram = self.datagram();
        let window = self.curve.window;
        let epoch_start = match self.curve.epoch_start {
            Some(start) => start,
            None => {
                self.start_epoch(now);
                now
            }
        };
        let elapsed_s = now.since(epoch_start).as_secs_f64();
        let target = self.curve.at(elapsed_s + ack.smoothed_rtt.as_secs_f64(), datagram);
        let target = target.clamp(window, 1.5 * window);
        let acked = ack.acked_bytes as f64;
        // One ACK may cover a whole window here; adding up per datagram would compound a little more.
        let cubic = window + (target - window) / window * acked.min(window);

        let alpha = if self.curve.window_reno >= self.curve.window_prior { 1.0 } else { ALPHA };
        self.curve.window_reno = self.bounded(self.curve.window_reno + alpha * datagram * acked / window);
        let reno_is_faster = self.curve.at(elapsed_s, datagram) < self.curve.window_reno;
        let grown = if reno_is_faster { self.curve.window_reno.max(window) } else { cubic };
        self.curve.window = self.bounded(grown);
    }

    fn start_epoch(&mut self, now: Instant) {
        let curve = &mut self.curve;
        curve.epoch_start = Some(now);
        curve.window_epoch = curve.window;
        curve.window_reno = curve.window;
        if curve.window_max <= curve.window {
            // Out of slow start without a loss, or above the old plateau: a new convex part starts here.
            curve.window_max = curve.window;
            curve.k = 0.0;
        } else {
            curve.k = k_s(curve.window_max, curve.window, f64::from(self.config.datagram_bytes));
        }
    }

    /// A congestion event, unless it is part of the last one. RFC 9438 sections 4.6 and 4.7.
    fn reduce(&mut self, largest: u64, next_packet: u64, lost_packets: u32) {
        if largest < self.recovery_until {
            if let Some(undo) = &mut self.undo {
                undo.packets = undo.packets.saturating_add(lost_packets);
            }
            return;
        }
        self.recovery_until = next_packet;
        self.undo = (lost_packets > 0).then_some(Undo { curve: self.curve, packets: lost_packets });
        let window = self.curve.window;
        let fast_convergence = window < self.curve.window_max;
        self.curve.window_max = if fast_convergence { window * (1.0 + BETA) / 2.0 } else { window };
        self.curve.window_prior = window;
        self.curve.window = self.bounded(window * BETA);
        self.curve.slow_start_threshold = self.curve.window;
        self.curve.epoch_start = None;
        self.slow_start = HyStart::default();
    }

    /// Time in which the window was not used does not count (RFC 9438 section 5.8).
    fn shift_epoch(&mut self, now: Instant) {
        if let Some(start) = self.curve.epoch_start {
            let shifted = start + now.since(self.acked_at.max(start));
            self.curve.epoch_start = Some(shifted.min(now));
        }
    }
}

impl CongestionControl for Cubic {
    fn on_ack(&mut self, now: Instant, ack: &AckSample) {
        self.smoothed_rtt = ack.smoothed_rtt;
        self.min_rtt = ack.min_rtt;
        if ack.ecn_ce > 0 {
            self.reduce(ack.largest_packet, ack.next_packet, 0);
        }
        // RFC 9002 section 7.8: a window that is not used says nothing about a larger one. Half of it in slow start,
        // because there it doubles while the acknowledgements of the smaller one arrive. One datagram more, because
        // what does not fit into a small window leaves much of it unused.
        let in_flight = ack.in_flight.saturating_add(ack.acked_bytes) as f64 + self.datagram();
        let needed = if self.in_slow_start() { 0.5 } else { 0.8 };
        let used = !ack.app_limited && in_flight >= needed * self.curve.window;
        if ack.largest_packet < self.recovery_until {
            // Still what was sent before the reduction: no growth in recovery.
        } else if !used {
            self.shift_epoch(now);
        } else if self.in_slow_start() {
            self.grow_in_slow_start(ack);
        } else {
            self.grow_in_avoidance(now, ack);
        }
        self.acked_at = now;
    }

    fn on_loss(&mut self, _: Instant, loss: &LossSample) {
        if loss.persistent {
            self.curve.window = self.config.min_window_bytes as f64;
            self.curve.window_max = 0.0;
            self.curve.epoch_start = None;
            self.slow_start = HyStart::default();
            self.recovery_until = loss.next_packet;
            self.undo = None;
            return;
        }
        self.reduce(loss.largest_lost, loss.next_packet, loss.lost_packets);
    }

    fn on_spurious_loss(&mut self, _: Instant) {
        let Some(undo) = &mut self.undo else { return };
        undo.packets = undo.packets.saturating_sub(1);
        if undo.packets > 0 {
            return;
        }
        // RFC 9438 section 4.9. A window that has grown past the old one in the meantime stays.
        if undo.curve.window > self.curve.window {
            self.curve = undo.curve;
            self.recovery_until = 0;
        }
        self.undo = None;
    }

    fn window_bytes(&self) -> u64 {
        self.curve.window as u64
    }

    fn pacing_bytes_per_s(&self) -> Option<u64> {
        if self.min_rtt < PACING_MIN_RTT || self.smoothed_rtt.is_zero() {
            return None;
        }
        let gain = if self.in_slow_start() { PACING_GAIN_SLOW_START } else { PACING_GAIN_AVOIDANCE };
        Some(((gain * self.curve.window / self.smoothed_rtt.as_secs_f64()) as u64).max(1))
    }
}

impl Curve {
    /// `W_cubic(t)` in bytes (RFC 9438 figure 1).
    fn at(&self, elapsed_s: f64, datagram: f64) -> f64 {
        C * (elapsed_s - self.k).powi(3) * datagram + self.window_max
    }
}

/// `K`: seconds from `window` to `window_max` (RFC 9438 figure 2).
fn k_s(window_max: f64, window: f64, datagram: f64) -> f64 {
    ((window_max - window).max(0.0) / datagram / C).cbrt()
}

/// HyStart++ (RFC 9406): leaves slow start when the smallest round trip of a round rises, before the queue overflows.
#[derive(Clone, Copy, Debug, Default)]
struct HyStart {
    round_end: u64,
    last_round_min: Option<Duration>,
    round_min: Option<Duration>,
    samples: u32,
    css: Option<ConservativeSlowStart>,
}

#[derive(Clone, Copy, Debug)]
struct ConservativeSlowStart {
    baseline_min: Duration,
    rounds: u32,
}

impl HyStart {
    fn in_css(&self) -> bool {
        self.css.is_some()
    }

    /// Takes an acknowledgement; true if slow start is over.
    fn on_ack(&mut self, ack: &AckSample) -> bool {
        if ack.largest_packet >= self.round_end {
            self.round_end = ack.next_packet.max(ack.largest_packet.saturating_add(1));
            self.last_round_min = self.round_min.take();
            self.samples = 0;
            if let Some(css) = &mut self.css {
                css.rounds += 1;
                if css.rounds >= CSS_ROUNDS {
                    return true;
                }
            }
        }
        if let Some(rtt) = ack.rtt {
            self.round_min = Some(self.round_min.map_or(rtt, |min| min.min(rtt)));
            self.samples = self.samples.saturating_add(1);
        }
        let (Some(round_min), Some(last_min)) = (self.round_min, self.last_round_min) else { return false };
        if self.samples < RTT_SAMPLES {
            return false;
        }
        match self.css {
            // The rise was a jitter: back to slow start.
            Some(css) if round_min < css.baseline_min => self.css = None,
            Some(_) => {}
            None => {
                let threshold = (last_min / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESHOLD, MAX_RTT_THRESHOLD);
                if round_min >= last_min.saturating_add(threshold) {
                    self.css = Some(ConservativeSlowStart { baseline_min: round_min, rounds: 0 });
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAGRAM: u64 = 1_000;
    const RTT: Duration = Duration::from_millis(100);

    fn cubic(datagrams: u64) -> Cubic {
        Cubic::new(&CcConfig {
            initial_window_bytes: datagrams * DATAGRAM,
            min_window_bytes: 2 * DATAGRAM,
            max_window_bytes: 100_000 * DATAGRAM,
            datagram_bytes: DATAGRAM as u32,
            fixed_window_bytes: DATAGRAM,
        })
    }

    fn ack(acked_bytes: u64, packet: u64, rtt: Duration) -> AckSample {
        AckSample {
            acked_bytes,
            newest_sent_at: Instant::default(),
            largest_packet: packet,
            next_packet: packet + 1_000,
            rtt: Some(rtt),
            min_rtt: rtt,
            smoothed_rtt: rtt,
            delivered_bytes: 0,
            delivery_rate: None,
            in_flight: u64::MAX / 2,
            app_limited: false,
            ecn_ce: 0,
        }
    }

    fn lose(cubic: &mut Cubic, packet: u64) {
        let loss = LossSample {
            lost_bytes: DATAGRAM,
            lost_packets: 1,
            largest_lost_sent_at: Instant::default(),
            largest_lost: packet,
            next_packet: packet + 1,
            in_flight: 0,
            persistent: false,
        };
        cubic.on_loss(Instant::default(), &loss);
    }

    fn datagrams(cubic: &Cubic) -> f64 {
        cubic.curve.window / DATAGRAM as f64
    }

    /// A window acknowledged per round trip, a datagram at a time.
    fn run(cubic: &mut Cubic, now: &mut Instant, packet: &mut u64, rtt: Duration, time: Duration) {
        let end = *now + time;
        while *now < end {
            let count = cubic.window_bytes() / DATAGRAM;
            for _ in 0..count {
                *now += rtt / count as u32;
                *packet += 1;
                cubic.on_ack(*now, &ack(DATAGRAM, *packet, rtt));
            }
        }
    }

    #[test]
    fn k_and_the_curve_are_those_of_the_rfc() {
        // K = cbrt((W_max - cwnd_epoch) / C) = cbrt(30 / 0.4).
        assert!((k_s(100_000.0, 70_000.0, 1_000.0) - 4.217_163).abs() < 1e-6);
        assert!((ALPHA - 9.0 / 17.0).abs() < 1e-12); // 3 * (1 - 0.7) / (1 + 0.7), about 0.53.
        let mut cubic = cubic(100);
        lose(&mut cubic, 10);
        assert!((datagrams(&cubic) - 70.0).abs() < 1e-9);
        cubic.start_epoch(Instant::default());
        for (second, expected) in
            [(0.0, 70.0), (2.0, 95.640_2), (4.217_163, 100.0), (6.0, 102.267_1), (10.0, 177.361_4)]
        {
            let at = cubic.curve.at(second, DATAGRAM as f64) / DATAGRAM as f64;
            assert!((at - expected).abs() < 0.01, "{second} s: {at}");
        }
    }

    #[test]
    fn the_window_follows_the_curve() {
        let mut cubic = cubic(1_000);
        lose(&mut cubic, 1);
        let (mut now, mut packet) = (Instant::from_ns(1), 1_000);
        cubic.on_ack(now, &ack(0, packet, RTT)); // The epoch starts.
        let k = Duration::from_secs_f64((300.0_f64 / 0.4).cbrt());
        run(&mut cubic, &mut now, &mut packet, RTT, k);
        assert!((datagrams(&cubic) - 1_000.0).abs() < 2.0, "{} at K", datagrams(&cubic));
        run(&mut cubic, &mut now, &mut packet, RTT, k);
        assert!((datagrams(&cubic) - 1_300.0).abs() < 20.0, "{} at 2 K", datagrams(&cubic));
    }

    #[test]
    fn on_short_round_trips_it_is_no_slower_than_reno() {
        let mut cubic = cubic(100);
        lose(&mut cubic, 1);
        let (mut now, mut packet) = (Instant::from_ns(1), 1_000);
        let rtt = Duration::from_millis(5);
        run(&mut cubic, &mut now, &mut packet, rtt, rtt * 57);
        // 30 datagrams at 9/17 a round trip.
        assert!((datagrams(&cubic) - 100.0).abs() < 2.0, "{}", datagrams(&cubic));
        run(&mut cubic, &mut now, &mut packet, rtt, rtt * 20);
        assert!((datagrams(&cubic) - 120.0).abs() < 3.0, "{}", datagrams(&cubic));
    }

    #[test]
    fn a_loss_below_the_old_maximum_gives_way() {
        let mut cubic = cubic(100);
        lose(&mut cubic, 10);
        assert!((cubic.curve.window_max / 1_000.0 - 100.0).abs() < 1e-9);
        lose(&mut cubic, 10); // The same round trip.
        assert!((datagrams(&cubic) - 70.0).abs() < 1e-9);
        lose(&mut cubic, 11);
        assert!((datagrams(&cubic) - 49.0).abs() < 1e-9);
        assert!((cubic.curve.window_max / 1_000.0 - 70.0 * 0.85).abs() < 1e-9);
    }

    #[test]
    fn an_unused_window_does_not_grow_and_its_time_does_not_count() {
        let mut cubic = cubic(100);
        lose(&mut cubic, 1);
        let mut now = Instant::from_ns(1);
        cubic.on_ack(now, &ack(0, 1_000, RTT));
        let before = datagrams(&cubic);
        for packet in 0..100 {
            now += RTT;
            let sample = ack(DATAGRAM, 1_001 + packet, RTT);
            let unused = AckSample { in_flight: 5_000, ..sample };
            let limited = AckSample { app_limited: true, ..sample };
            cubic.on_ack(now, if packet % 2 == 0 { &unused } else { &limited });
        }
        assert!((datagrams(&cubic) - before).abs() < 1e-9);
        assert!(now.since(cubic.curve.epoch_start.unwrap()) < RTT);
    }

    #[test]
    fn slow_start_doubles_slows_down_with_rising_delay_and_ends() {
        let mut cubic = cubic(16);
        let (mut now, mut packet) = (Instant::from_ns(1), 0);
        let mut round = |cubic: &mut Cubic, rtt_ms| {
            let before = datagrams(cubic);
            let (first, count) = (packet, cubic.window_bytes() / DATAGRAM);
            for _ in 0..count {
                now += Duration::from_millis(1);
                let sample = ack(DATAGRAM, packet, Duration::from_millis(rtt_ms));
                cubic.on_ack(now, &AckSample { next_packet: first + count, ..sample });
                packet += 1;
            }
            datagrams(cubic) / before
        };
        assert!((round(&mut cubic, 100) - 2.0).abs() < 1e-9);
        assert!((round(&mut cubic, 105) - 2.0).abs() < 1e-9); // Below 100 / 8.
        let rising = round(&mut cubic, 125); // Seen with the eighth sample.
        assert!(cubic.slow_start.in_css() && rising > 1.25 && rising < 1.4, "{rising}");
        assert!((round(&mut cubic, 125) - 1.25).abs() < 0.02);
        // It was a jitter.
        let back = round(&mut cubic, 100);
        assert!(!cubic.slow_start.in_css() && back > 1.8, "{back}");
        round(&mut cubic, 120);
        assert!(cubic.slow_start.in_css());
        for _ in 0..5 {
            assert!(cubic.in_slow_start());
            round(&mut cubic, 120);
        }
        assert!(!cubic.in_slow_start());
    }

    #[test]
    fn a_mark_reduces_once_per_round_trip() {
        let mut cubic = cubic(100);
        for packet in [5, 6, 900] {
            cubic.on_ack(Instant::default(), &AckSample { ecn_ce: 1, ..ack(0, packet, RTT) });
        }
        assert!((datagrams(&cubic) - 70.0).abs() < 1e-9);
        cubic.on_ack(Instant::default(), &AckSample { ecn_ce: 1, ..ack(0, 1_005, RTT) });
        assert!((datagrams(&cubic) - 49.0).abs() < 1e-9);
    }
}
