//! The default controller: a model of the path, from measured delivery rate and delay, that tells random loss from
//! congestion. The shape is BBR's (draft-ietf-ccwg-bbr: BBRv3, with BBRv2's bounds); simplified, and changed where
//! noted.
//!
//! ```text
//! Startup --full pipe--> Drain --> Cruise --2..4 rounds--> Up --> Down --> Cruise ...      every 10 s: ProbeRtt
//! rate * 2.77            0.36      1                       1.25   0.75    1                window BDP / 2, 1 round
//! ```
//!
//! **Model.** `rate`: the highest delivery rate of ten rounds. `min_rtt`: the smallest round trip of ten seconds. Their
//! product is the bandwidth-delay product; the window is twice that, and what the window allows leaves at `rate`.
//!
//! **Loss.** A radio link loses 5 % at any speed, a full queue loses what is too much. Loss alone therefore does not
//! touch the model. A round is *congested* if the network says so (ECN), or at least three packets were lost and
//! - a fifth or more of the round was lost: the rate probed with is 1.25, beyond 20 % no gain is left; or
//! - more than 2 % (`BBRLossThresh`) and the delay rose: even the round's fastest packet waited in a queue; or
//! - probing lost clearly more than cruising does: delivery did not follow what was sent (shallow queues).
//!
//! A congested round bounds the volume in flight to 0.7 of what it was (BBRv2's `inflight_hi`) and the rate to what
//! was delivered (`bw_lo`). Probing raises and lifts the bounds again. What this gives up: a share of up to 20 % loss
//! in a queue that others always fill is taken for random.
//!
//! **A slower path** (the rate fell by a fifth while the delay rose): the old maximum is forgotten at once instead of
//! after ten rounds, because rounds get long when the queue does, and what is queued is drained. If the queue is still
//! there afterwards, it is of others, and yielding once more would only leave them the path. BBR waits.
//!
//! **Fast paths.** With a round trip of 20 to 200 us, delay is scheduling: a wake-up costs 50 us to 5 ms. Twice
//! `rate * min_rtt` would be a window the flow cannot keep its rate with, the lower rate would make the next window
//! smaller still, and so on down. So below 1 ms the smoothed round trip, up to 2 ms, stands for the smallest one: loss
//! and ECN bound such a flow (and always credit does), delay does not. The price is a queue of up to 4 ms where a link
//! and not a receiver is the limit. It is not paced either (see
//! [`PACING_MIN_RTT`]), unless a congested round bounded its rate, and needs no ProbeRtt.

use super::{AckSample, CcConfig, CongestionControl, LossSample, PACING_MIN_RTT};
use crate::units::Instant;
use std::time::Duration;

/// Rounds a rate is remembered: more than a cycle of Cruise, Up and Down.
const RATE_ROUNDS: usize = 10;
/// `BBRMinRTTFilterLen`.
const MIN_RTT_LIFE: Duration = Duration::from_secs(10);
/// A longer round trip is none; keeps the arithmetic of durations far from its limits.
const RTT_MAX: Duration = Duration::from_secs(3_600);
/// Below [`PACING_MIN_RTT`] a smoothed round trip up to here is scheduling, not queueing.
const SCHEDULING_RTT_MAX: Duration = Duration::from_millis(2);

/// 4 * ln 2: the smallest gain that doubles the rate each round while the queue starts to build.
const STARTUP_GAIN: f64 = 2.77;
/// Growth per round that counts as growth in Startup, and rounds without it until the pipe counts as full.
const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_FLAT_ROUNDS: u32 = 3;
const DRAIN_GAIN: f64 = 1.0 / STARTUP_GAIN;
const DRAIN_ROUNDS_MAX: u32 = 8;
const UP_GAIN: f64 = 1.25;
const UP_WINDOW_GAIN: f64 = 2.25;
/// Up goes on while a round's rate grows by half of what [`UP_GAIN`] gives after random loss, at least by this.
const UP_GROWTH_MIN: f64 = 1.03;
/// Rounds Up lasts without growth where the volume in flight cannot reach 1.25 (the application is slow).
const UP_FLAT_ROUNDS: u32 = 2;
const DOWN_GAIN: f64 = 0.75;
const DOWN_ROUNDS_MAX: u32 = 3;
const CRUISE_ROUNDS_MIN: u32 = 2;
const CRUISE_ROUNDS_SPREAD: u64 = 3;
const WINDOW_GAIN: f64 = 2.0;
/// Without pacing only the window can drain: one product and a half leaves room for a late wake-up.
const UNPACED_DRAIN_WINDOW_GAIN: f64 = 1.5;
const PROBE_RTT_GAIN: f64 = 0.5;
/// `BBRPacingMarginPercent`: a rate measured a little too high must not build a queue for ever.
const PACING_MARGIN: f64 = 0.99;

/// `BBRBeta`.
const BETA: f64 = 0.7;
const LOSS_PACKETS_MIN: u32 = 3;
const LOSS_ALWAYS: f64 = 0.2;
const LOSS_WITH_DELAY: f64 = 0.02;
const LOSS_PROBING_EXCESS: f64 = 0.05;
/// The delay rose: the round's smallest round trip is above `min_rtt * 1.25` and a slack, which on fast paths is that of
/// a wake-up.
const DELAY_RATIO: f64 = 1.25;
const DELAY_SLACK: Duration = Duration::from_micros(250);
const DELAY_SLACK_FAST: Duration = Duration::from_millis(1);
/// A round this much below the model, with risen delay: the path is slower now.
const SLOWER: f64 = 0.8;
/// The model follows by at most a half per round: a newcomer in Startup pushes others aside for a few rounds only.
const SLOWER_STEP_MIN: f64 = 0.5;

/// A window without loss is never below so many datagrams: what a late wake-up has to bridge.
const FLOOR_DATAGRAMS: u64 = 10;
/// A train is a millisecond's worth, at most this (as the pacer's).
const TRAIN_BYTES_MAX: u64 = 64 << 10;
const TRAIN_PER_S: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Startup,
    Drain,
    Down,
    Cruise {
        rounds: u32,
    },
    Up,
    /// `until`: the packet whose acknowledgement ends the round at the small window, once that was reached.
    ProbeRtt {
        until: Option<u64>,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Model {
    config: CcConfig,
    phase: Phase,
    /// Rounds the phase has lasted.
    phase_rounds: u32,
    window: u64,
    rate: RoundsMax,
    /// Bytes acknowledged beyond `rate * time`, in bursts: the window has to hold them too (`BBR.extra_acked`).
    burst: RoundsMax,
    burst_since: Instant,
    burst_acked: u64,
    min_rtt: Option<Duration>,
    min_rtt_at: Instant,
    smoothed_rtt: Duration,
    round: Round,
    /// A packet from here on was sent after the round began.
    round_end: u64,
    bounds: Bounds,
    undo: Option<Undo>,
    /// The rate when Startup or Up last grew, and rounds since.
    grown_rate: u64,
    flat_rounds: u32,
    /// There was a queue in the last round although this flow had drained its own: others stand in it.
    foreign_queue: bool,
    /// The share that is lost when not probing.
    base_loss: f64,
    /// The last round lost something.
    lossy: bool,
    /// For the length of Cruise, so that flows do not probe in step: a linear congruential generator.
    dice: u64,
}

/// What happened since the round began.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    began_at: Instant,
    delivered_bytes: u64,
    lost_bytes: u64,
    lost_packets: u32,
    marked_packets: u64,
    in_flight_max: u64,
    rate_max: u64,
    /// There was a rate sample that the path limited.
    path_limited: bool,
    rtt_min: Option<Duration>,
}

/// What congestion left behind.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Bytes in flight at most; `u64::MAX`: no bound. Raised by Up.
    in_flight: u64,
    /// Bytes per second at most, until the next Up.
    rate: Option<u64>,
}

const NO_BOUNDS: Bounds = Bounds { in_flight: u64::MAX, rate: None };

#[derive(Clone, Copy, Debug)]
struct Undo {
    bounds: Bounds,
    window: u64,
    startup: bool,
    /// Packets that are still thought to be lost.
    packets: u32,
}

/// The maximum over the current and the last `RATE_ROUNDS - 1` rounds.
#[derive(Clone, Copy, Debug, Default)]
struct RoundsMax {
    rounds: [u64; RATE_ROUNDS],
    max: u64,
}

impl RoundsMax {
    fn update(&mut self, value: u64) {
        let [current, ..] = &mut self.rounds;
        *current = (*current).max(value);
        self.max = self.max.max(value);
    }

    fn next_round(&mut self) {
        self.rounds.rotate_right(1);
        let [current, ..] = &mut self.rounds;
        *current = 0;
        self.max = self.rounds.iter().copied().max().unwrap_or(0);
    }

    fn restart(&mut self, value: u64) {
        *self = Self::default();
        self.update(value);
    }
}

impl Model {
    pub(super) fn new(config: &CcConfig) -> Self {
        let config = config.consistent();
        Self {
            config,
            phase: Phase::Startup,
            phase_rounds: 0,
            window: config.initial_window_bytes,
            rate: RoundsMax::default(),
            burst: RoundsMax::default(),
            burst_since: Instant::default(),
            burst_acked: 0,
            min_rtt: None,
            min_rtt_at: Instant::default(),
            smoothed_rtt: Duration::ZERO,
            round: Round::default(),
            round_end: 0,
            bounds: NO_BOUNDS,
            undo: None,
            grown_rate: 0,
            flat_rounds: 0,
            foreign_queue: false,
            base_loss: 0.0,
            lossy: false,
            dice: 0,
        }
    }

    // What the model says.

    /// Bytes per second the path carries; zero if unknown.
    fn rate(&self) -> u64 {
        self.bounds.rate.unwrap_or(u64::MAX).min(self.rate.max)
    }

    fn min_rtt(&self) -> Duration {
        self.min_rtt.unwrap_or(self.smoothed_rtt)
    }

    /// Too fast for delay to mean anything, see the module.
    fn is_fast_path(&self) -> bool {
        self.min_rtt() < PACING_MIN_RTT
    }

    fn is_paced(&self) -> bool {
        !self.is_fast_path() || self.bounds.rate.is_some()
    }

    /// `gain` times the bandwidth-delay product.
    fn in_flight_for(&self, gain: f64) -> u64 {
        let rtt = if self.is_fast_path() {
            self.smoothed_rtt.min(SCHEDULING_RTT_MAX).max(self.min_rtt())
        } else {
            self.min_rtt()
        };
        (gain * self.rate() as f64 * rtt.as_secs_f64()) as u64
    }

    fn train_bytes(&self) -> u64 {
        let least = 2 * u64::from(self.config.datagram_bytes);
        (self.rate() / TRAIN_PER_S).clamp(least, TRAIN_BYTES_MAX.max(least))
    }

    fn floor(&self) -> u64 {
        let datagrams = FLOOR_DATAGRAMS * u64::from(self.config.datagram_bytes);
        self.config.min_window_bytes.max(datagrams).min(self.config.max_window_bytes)
    }

    fn pacing_gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain => DRAIN_GAIN,
            Phase::Down => DOWN_GAIN,
            Phase::Cruise { .. } | Phase::ProbeRtt { .. } => 1.0,
            Phase::Up => UP_GAIN,
        }
    }

    fn window_gain(&self) -> f64 {
        match self.phase {
            Phase::Startup => STARTUP_GAIN,
            Phase::Drain | Phase::Down if !self.is_paced() => UNPACED_DRAIN_WINDOW_GAIN,
            Phase::Drain | Phase::Down | Phase::Cruise { .. } => WINDOW_GAIN,
            Phase::Up => UP_WINDOW_GAIN,
            Phase::ProbeRtt { .. } => PROBE_RTT_GAIN,
        }
    }

    // What an acknowledgement changes.

    fn sample_rtt(&mut self, now: Instant, ack: &AckSample) {
        self.smoothed_rtt = ack.smoothed_rtt.min(RTT_MAX);
        let Some(rtt) = ack.rtt else { return };
        let rtt = rtt.clamp(Duration::from_nanos(1), RTT_MAX);
        self.round.rtt_min = Some(self.round.rtt_min.map_or(rtt, |min| min.min(rtt)));
        if self.min_rtt.is_none_or(|min| rtt <= min) {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = now;
        }
    }

    fn sample_rate(&mut self, now: Instant, ack: &AckSample) {
        if let Some(rate) = ack.delivery_rate {
            self.round.rate_max = self.round.rate_max.max(rate);
            self.round.path_limited |= !ack.app_limited;
            if !ack.app_limited || rate > self.rate.max {
                self.rate.update(rate);
            }
        }
        let due = self.rate.max as f64 * now.since(self.burst_since).as_secs_f64();
        if self.burst_acked as f64 <= due {
            self.burst_since = now;
            self.burst_acked = 0;
            self.burst.update(ack.acked_bytes.min(self.train_bytes()));
        } else {
            self.burst.update(((self.burst_acked as f64 - due) as u64).min(self.window));
        }
        self.burst_acked = self.burst_acked.saturating_add(ack.acked_bytes);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_rounds = 0;
        self.flat_rounds = 0;
        self.grown_rate = self.rate.max;
        if phase == Phase::Up {
            self.bounds.rate = None;
        }
    }

    fn enter_cruise(&mut self, now: Instant) {
        // Until a round without delay is seen. A model that is still wrong has not drained yet what it should have.
        let settled = self.round.rate_max as f64 >= SLOWER * self.rate.max as f64;
        self.foreign_queue |= self.phase == Phase::Drain && settled;
        self.dice = (self.dice ^ now.as_ns()).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let spread = (self.dice >> 33) % CRUISE_ROUNDS_SPREAD;
        self.enter(Phase::Cruise { rounds: CRUISE_ROUNDS_MIN.saturating_add(spread as u32) });
    }

    fn end_round(&mut self, now: Instant, ack: &AckSample) {
        self.round_end = ack.next_packet.max(ack.largest_packet.saturating_add(1));
        let round = std::mem::take(&mut self.round);
        self.round.began_at = now;
        self.round.in_flight_max = ack.in_flight;
        self.phase_rounds = self.phase_rounds.saturating_add(1);

        let loss = round.loss();
        self.lossy = round.lost_packets > 0;
        if matches!(self.phase, Phase::Down | Phase::Cruise { .. }) {
            self.base_loss += (loss - self.base_loss) / 8.0;
        }
        let delayed = self.is_delayed(&round);
        let congested = self.is_congested(&round, loss, delayed);
        if congested {
            self.bound(&round, round.mean_rate(now));
        } else if self.phase == Phase::Up {
            self.raise_bound();
        }
        self.foreign_queue &= delayed;
        if delayed && !self.foreign_queue && self.is_slower(&round) {
            self.rate.restart(round.rate_max.max((SLOWER_STEP_MIN * self.rate.max as f64) as u64));
            self.burst.restart(0);
            self.enter(Phase::Drain);
        } else {
            self.step(now, &round, congested);
        }
        self.refresh_min_rtt(now, &round);
        if round.path_limited {
            self.rate.next_round();
        }
        self.burst.next_round();
    }

    /// Even the round's fastest packet waited.
    fn is_delayed(&self, round: &Round) -> bool {
        let fastest = round.rtt_min.unwrap_or(self.smoothed_rtt);
        let slack = if self.is_fast_path() { DELAY_SLACK_FAST } else { DELAY_SLACK };
        fastest > self.min_rtt().mul_f64(DELAY_RATIO).saturating_add(slack)
    }

    fn is_congested(&self, round: &Round, loss: f64, delayed: bool) -> bool {
        // Two standard deviations above a threshold: three of twelve packets are not yet more than a fifth.
        let datagram = f64::from(self.config.datagram_bytes);
        let packets = f64::from(round.lost_packets) + round.delivered_bytes as f64 / datagram;
        let noise = |share: f64| 2.0 * (share * (1.0 - share) / packets.max(1.0)).sqrt();
        let expected = 2.0 * self.base_loss.min(LOSS_ALWAYS) + LOSS_PROBING_EXCESS;
        let probing_excess = self.phase == Phase::Up && loss > expected + noise(self.base_loss);
        let lost =
            loss >= LOSS_ALWAYS + noise(LOSS_ALWAYS) || (loss > LOSS_WITH_DELAY && delayed) || probing_excess;
        round.marked_packets > 0 || (round.lost_packets >= LOSS_PACKETS_MIN && lost)
    }

    /// The path carries clearly less than the model says, for a round that was [delayed](Self::is_delayed): there was a
    /// queue all the time, so what was delivered is what the path carries, however little was sent. In ProbeRtt delay
    /// is measured anew, and in Startup the model is not one yet.
    fn is_slower(&self, round: &Round) -> bool {
        let steady = !matches!(self.phase, Phase::Startup | Phase::ProbeRtt { .. });
        steady && round.path_limited && (round.rate_max as f64) < SLOWER * self.rate.max as f64
    }

    fn bound(&mut self, round: &Round, mean_rate: u64) {
        self.undo = (round.lost_packets > 0 && round.marked_packets == 0).then_some(Undo {
            bounds: self.bounds,
            window: self.window,
            startup: self.phase == Phase::Startup,
            packets: round.lost_packets,
        });
        let in_flight = (BETA * round.in_flight_max.min(self.window) as f64) as u64;
        let least = self.in_flight_for(BETA).max(self.config.min_window_bytes);
        self.bounds.in_flight = in_flight.max(least);
        if !round.path_limited || mean_rate >= self.rate() {
            return;
        }
        let least = (BETA * self.rate() as f64) as u64;
        self.bounds.rate = Some(mean_rate.max(least).max(1));
        if self.base_loss >= LOSS_ALWAYS {
            // Too much for too long: the maximum is luck of single samples, and the mean is the share of a full queue.
            let least = (BETA * self.rate.max as f64) as u64;
            self.rate.restart(mean_rate.max(least));
        }
    }

    /// Up went well: a quarter more in flight may be tried, and a bound that bounds nothing is none.
    fn raise_bound(&mut self) {
        if self.bounds.in_flight == u64::MAX {
            return;
        }
        let quarter = (self.bounds.in_flight / 4).max(2 * u64::from(self.config.datagram_bytes));
        self.bounds.in_flight = self.bounds.in_flight.saturating_add(quarter);
        if self.bounds.in_flight > self.in_flight_for(STARTUP_GAIN).saturating_add(2 * self.train_bytes()) {
            self.bounds.in_flight = u64::MAX;
        }
    }

    /// The next phase, by what the round was like.
    fn step(&mut self, now: Instant, round: &Round, congested: bool) {
        match self.phase {
            Phase::Startup => {
                if round.path_limited {
                    self.note_growth(STARTUP_GROWTH);
                }
                if congested || self.flat_rounds >= STARTUP_FLAT_ROUNDS {
                    self.enter(Phase::Drain);
                }
            }
            Phase::Drain if self.phase_rounds >= DRAIN_ROUNDS_MAX => self.enter_cruise(now),
            Phase::Down if self.phase_rounds >= DOWN_ROUNDS_MAX => self.enter_cruise(now),
            Phase::Cruise { rounds } if self.phase_rounds >= rounds => self.enter(Phase::Up),
            Phase::Up => {
                let gain = UP_GAIN * (1.0 - self.base_loss);
                self.note_growth((1.0 + (gain - 1.0) / 2.0).max(UP_GROWTH_MIN));
                let filled = round.in_flight_max >= self.in_flight_for(UP_GAIN) && self.flat_rounds > 0;
                if congested || filled || self.flat_rounds >= UP_FLAT_ROUNDS {
                    self.enter(Phase::Down);
                }
            }
            Phase::Drain | Phase::Down | Phase::Cruise { .. } | Phase::ProbeRtt { .. } => {}
        }
    }

    fn note_growth(&mut self, growth: f64) {
        if self.rate.max as f64 >= growth * self.grown_rate as f64 {
            self.grown_rate = self.rate.max;
            self.flat_rounds = 0;
        } else {
            self.flat_rounds += 1;
        }
    }

    fn refresh_min_rtt(&mut self, now: Instant, round: &Round) {
        if now.since(self.min_rtt_at) < MIN_RTT_LIFE || self.phase == Phase::Startup {
            return;
        }
        if self.is_fast_path() {
            self.min_rtt = round.rtt_min.or(self.min_rtt);
            self.min_rtt_at = now;
        } else if !matches!(self.phase, Phase::ProbeRtt { .. }) {
            self.enter(Phase::ProbeRtt { until: None });
        }
    }

    /// Phases that end with a volume in flight need not wait for a round's end.
    fn step_by_in_flight(&mut self, now: Instant, ack: &AckSample) {
        match self.phase {
            Phase::Drain | Phase::Down if ack.in_flight <= self.in_flight_for(1.0) => self.enter_cruise(now),
            Phase::ProbeRtt { until: None } => {
                if ack.in_flight <= self.in_flight_for(PROBE_RTT_GAIN).max(self.floor()) {
                    self.phase = Phase::ProbeRtt { until: Some(ack.next_packet) };
                    self.min_rtt = None;
                }
            }
            Phase::ProbeRtt { until: Some(until) } if ack.largest_packet >= until => {
                self.min_rtt_at = now;
                self.enter_cruise(now);
            }
            Phase::Startup
            | Phase::Drain
            | Phase::Down
            | Phase::Cruise { .. }
            | Phase::Up
            | Phase::ProbeRtt { .. } => {}
        }
    }

    fn move_window(&mut self, ack: &AckSample) {
        let grown = self.window.saturating_add(ack.acked_bytes);
        let product = self.in_flight_for(self.window_gain());
        let target = match self.phase {
            Phase::ProbeRtt { .. } => product,
            Phase::Startup | Phase::Drain => product.saturating_add(2 * self.train_bytes()),
            Phase::Down | Phase::Cruise { .. } | Phase::Up => {
                // On a fast path the product is of a round trip that has the wake-ups in it already.
                let burst = if self.is_fast_path() { 0 } else { self.burst.max };
                product.saturating_add(2 * self.train_bytes()).saturating_add(burst)
            }
        };
        let used = ack.in_flight.saturating_add(ack.acked_bytes) >= self.window / 2;
        let window = match self.phase {
            Phase::Startup if !used => self.window,
            // No rate yet: as slow start. And what was allowed before the rate was known stays allowed.
            Phase::Startup if self.rate.max == 0 => grown,
            Phase::Startup => grown.min(target.max(self.window)),
            _ => grown.min(target),
        };
        let bounded = window.min(self.bounds.in_flight);
        // Startup only grows, be it from the smallest window after persistent congestion.
        let calm = !self.lossy && self.bounds.in_flight == u64::MAX && self.phase != Phase::Startup;
        let least = if calm { self.floor() } else { self.config.min_window_bytes };
        self.window = bounded.clamp(least, self.config.max_window_bytes);
    }
}

impl Round {
    /// Unlike a maximum of samples, the means of flows that share a link add up to no more than the link's rate.
    fn mean_rate(&self, now: Instant) -> u64 {
        let elapsed_s = now.since(self.began_at).as_secs_f64().max(1e-9);
        (self.delivered_bytes as f64 / elapsed_s) as u64
    }

    fn loss(&self) -> f64 {
        let all = self.lost_bytes.saturating_add(self.delivered_bytes).max(1);
        self.lost_bytes as f64 / all as f64
    }
}

impl CongestionControl for Model {
    fn on_sent(&mut self, _: Instant, _: u32, in_flight: u64) {
        self.round.in_flight_max = self.round.in_flight_max.max(in_flight);
    }

    fn on_ack(&mut self, now: Instant, ack: &AckSample) {
        self.round.delivered_bytes = self.round.delivered_bytes.saturating_add(ack.acked_bytes);
        self.round.marked_packets = self.round.marked_packets.saturating_add(ack.ecn_ce);
        self.sample_rtt(now, ack);
        self.sample_rate(now, ack);
        if ack.largest_packet >= self.round_end {
            self.end_round(now, ack);
        }
        self.step_by_in_flight(now, ack);
        self.move_window(ack);
    }

    fn on_loss(&mut self, _: Instant, loss: &LossSample) {
        if loss.persistent {
            // The path is gone or another one: nothing known about it holds.
            let dice = self.dice;
            *self = Self { round_end: loss.next_packet, dice, ..Self::new(&self.config) };
            self.window = self.config.min_window_bytes;
            return;
        }
        self.round.lost_bytes = self.round.lost_bytes.saturating_add(loss.lost_bytes);
        self.round.lost_packets = self.round.lost_packets.saturating_add(loss.lost_packets);
    }

    fn on_spurious_loss(&mut self, _: Instant) {
        if self.round.lost_packets > 0 {
            // Not judged yet: one packet of this round's losses was none.
            self.round.lost_bytes -= self.round.lost_bytes / u64::from(self.round.lost_packets);
            self.round.lost_packets -= 1;
            return;
        }
        let Some(undo) = &mut self.undo else { return };
        undo.packets = undo.packets.saturating_sub(1);
        if undo.packets > 0 {
            return;
        }
        let undo = *undo;
        self.undo = None;
        self.bounds.in_flight = self.bounds.in_flight.max(undo.bounds.in_flight);
        self.bounds.rate = undo.bounds.rate;
        self.window = self.window.max(undo.window);
        if undo.startup && matches!(self.phase, Phase::Drain | Phase::Cruise { .. }) {
            self.enter(Phase::Startup);
        }
    }

    fn window_bytes(&self) -> u64 {
        self.window
    }

    fn pacing_bytes_per_s(&self) -> Option<u64> {
        if self.smoothed_rtt.is_zero() || !self.is_paced() {
            return None;
        }
        let rtt_s = self.smoothed_rtt.as_secs_f64();
        // Before there is a rate, the initial window per round trip; later never less than the smallest window.
        let least = match self.phase {
            Phase::Startup => self.config.initial_window_bytes.min(self.window),
            _ => self.config.min_window_bytes,
        };
        let rate = (self.rate() as f64 * PACING_MARGIN).max(least as f64 / rtt_s);
        Some(((self.pacing_gain() * rate) as u64).max(1))
    }
}
