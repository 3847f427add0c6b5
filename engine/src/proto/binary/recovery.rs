//! Datagrams sent on one flow: what was acknowledged, what is lost, when to look again. After RFC 9002 sections 5 and 6.
//!
//! ```text
//!     base                              next           ring[number & mask]
//!      |acked|lost|in flight|acked|in flight|           lost: waits to be sent again, under a new number
//!                              '-- largest acked          again: was sent again; an ACK of it now was spurious loss
//! ```
//!
//! What was sent again is remembered in a list of its own, so that the ring is no longer than what is in flight: each ACK of
//! a lossy path is laid against all of it. The list is no longer than the ring: of all that was in flight at once nothing is
//! forgotten, and what a flow remembers is bounded by the memory of datagrams, as the ring is.
//!
//! Calling order in a turn: [`handle_ack`](Recovery::handle_ack) for what arrived, then
//! [`handle_timeout`](Recovery::handle_timeout), then [`sent`](Recovery::sent): acknowledgements before timers. Every
//! operation is O(1) amortised per datagram, but for the scan of an ACK that finds losses.

use super::packet_pool::Slot;
use super::path_mtu::LostPacket;
use crate::proto::congestion::delivery_rate::{DeliveryRate, PacketRate, RateSample};
use crate::units::Instant;
use crate::wire::DropReason;
use std::collections::VecDeque;
use std::time::Duration;

/// RFC 9002 section 6.1.1: reordering by fewer packets is no loss. The start; spurious losses raise it (R-LOSS-2).
const PACKET_THRESHOLD: u32 = 3;
/// As far as it is raised.
const PACKET_THRESHOLD_MAX: u32 = 256;
/// RFC 9002 section 6.1.2: a packet is late after 9/8 of a round trip; spurious losses raise it, up to 16/8.
const TIME_THRESHOLD_EIGHTHS: u8 = 9;
const TIME_THRESHOLD_EIGHTHS_MAX: u8 = 16;
/// RFC 9002 section 6.1.2 kGranularity; here the timer wheel's tick, and what a scheduler may add.
const GRANULARITY: Duration = Duration::from_millis(1);
/// Least probe timeout (R-LOSS-3). Below it a receiver that was not scheduled for some milliseconds would be probed in
/// vain.
const PTO_MIN: Duration = Duration::from_millis(5);
/// Longest probe timeout, back-off included.
const PTO_MAX: Duration = Duration::from_secs(1);
/// See [`Recovery::silence_max`].
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// Before the first round trip was measured.
const PTO_INITIAL: Duration = Duration::from_millis(250);
/// RFC 9002 section 7.6.1, kPersistentCongestionThreshold.
const PERSISTENT_PTOS: u32 = 3;
/// Datagrams with results that are watched at a time (R-OUTCOME-4). With one, results that come meanwhile wait for a whole round
/// trip more; with as many as there are results, who repeats what he sent and acknowledges nothing fills all memory.
const WATCHED_MAX: u32 = 4;
/// Numbers from the oldest that is waited for on, beyond which what only acknowledges does not leave: each of them has a place in
/// the ring until that one is heard of. More than all memory of datagrams has room for, so that data is not concerned.
const SPAN_MAX: u64 = 16_384;
/// A longer ring that is nearly empty is given back when a timeout finds it so.
const RING_KEPT: usize = 1_024;

/// Round trip of one flow, RFC 9002 section 5 (R-LOSS-1).
#[derive(Clone, Copy, Debug, Default)]
pub struct RttEstimate {
    latest: Duration,
    smoothed: Duration,
    variation: Duration,
    min: Duration,
    known: bool,
}

impl RttEstimate {
    fn sample(&mut self, rtt: Duration, ack_delay: Duration) {
        self.latest = rtt;
        if !self.known {
            *self = Self { latest: rtt, smoothed: rtt, variation: rtt / 2, min: rtt, known: true };
            return;
        }
        self.min = self.min.min(rtt);
        // Section 5.3: the peer's word about its delay must not bring the sample below the minimum.
        let adjusted = if rtt >= self.min + ack_delay { rtt - ack_delay } else { rtt };
        self.variation = self.variation * 3 / 4 + self.smoothed.abs_diff(adjusted) / 4;
        self.smoothed = self.smoothed * 7 / 8 + adjusted / 8;
    }

    /// Smoothed, or the initial guess.
    #[must_use]
    pub fn smoothed(&self) -> Duration {
        if self.known { self.smoothed } else { PTO_INITIAL / 2 }
    }

    /// The least ever seen, or the initial guess.
    #[must_use]
    pub fn min(&self) -> Duration {
        if self.known { self.min } else { PTO_INITIAL / 2 }
    }

    /// Section 6.2.1, without back-off.
    #[must_use]
    pub fn probe_timeout(&self) -> Duration {
        if !self.known {
            return PTO_INITIAL;
        }
        (self.smoothed + (self.variation * 4).max(GRANULARITY)).max(PTO_MIN)
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// Nothing depends on it: an acknowledgement, a probe that was answered, or one that was acknowledged.
    #[default]
    Done,
    /// Its number is taken; it is being filled.
    Open,
    /// Not acknowledged yet.
    InFlight,
    /// Declared lost; its frames wait to be sent again.
    Lost,
    /// Its frames left again in another datagram: it is in the list of those.
    Again,
}

/// One datagram as it is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When it left.
    pub sent_at: Instant,
    /// For the delivery rate.
    pub rate: PacketRate,
    /// Where its bytes are, if they are kept.
    pub slot: Slot,
    /// Its length.
    pub bytes: u32,
    /// Its messages are among `messages` sequence numbers from here on.
    pub first_message: u64,
    /// See `first_message`.
    pub messages: u32,
    /// Results up to this ticket were in it.
    pub results_until: u32,
    /// See [`Fate`].
    pub fate: Fate,
    /// It does not carry all live messages of its range: an ACK of it counts for those that its bytes name.
    pub sparse: bool,
    /// Its loss tells something about its length, not about congestion, and nothing of it is sent again (R-MTU-3).
    pub path_probe: bool,
    /// A probe repeated it: nobody has said that it is lost.
    pub probed: bool,
}

impl Sent {
    /// Whether its bytes are kept and its messages are around `seq`.
    fn may_carry(&self, seq: u64) -> bool {
        self.slot != Slot::NONE
            && matches!(self.fate, Fate::InFlight | Fate::Lost)
            && (self.first_message..self.first_message + u64::from(self.messages)).contains(&seq)
    }
}

/// What an ACK brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acked {
    /// Bytes newly acknowledged.
    pub bytes: u64,
    /// Datagrams newly acknowledged.
    pub packets: u32,
    /// The newest of them left then.
    pub newest_sent_at: Instant,
    /// The round trip it measured, if it did.
    pub rtt: Option<Duration>,
    /// Delivery rate, if it could be measured.
    pub rate: Option<RateSample>,
    /// Datagrams that were declared lost and arrived all the same.
    pub spurious: u32,
}

/// What was lost at one detection, path probes not counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    /// Datagrams.
    pub packets: u32,
    /// Bytes.
    pub bytes: u64,
    /// The latest of them left then.
    pub largest_sent_at: Instant,
    /// Its number.
    pub largest: u64,
    /// RFC 9002 section 7.6: nothing got through for that long (R-LOSS-12).
    pub persistent: bool,
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Nothing: it was early.
    None,
    /// Late datagrams are lost: [`Recovery::detect`].
    Late,
    /// Send a probe.
    Probe,
}

/// What a flow keeps over a pause (R-FLOW-14). Round trips of more than 4.2 s become that.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    next: u64,
    delivered_bytes: u64,
    smoothed_ns: u32,
    variation_ns: u32,
    min_ns: u32,
    packet_threshold: u16,
    time_threshold_eighths: u8,
    known: bool,
}

impl Folded {
    /// The number of the next datagram.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next
    }
}

/// What a datagram in flight takes here at most: the ring doubles, and the list of what was sent again may be as long.
pub const BYTES_IN_FLIGHT: usize = 2 * (size_of::<Sent>() + size_of::<(u64, Sent)>());

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    ring: Vec<Sent>,
    base: u64,
    next: u64,
    /// Sent again, ascending, each for as long as [`trim`](Self::trim) says; as many as the ring has places at most, the
    /// latest. They hold no slot.
    again: VecDeque<(u64, Sent)>,
    largest_acked: Option<u64>,
    /// Bytes in flight.
    in_flight: u64,
    /// Datagrams in flight that the peer will acknowledge.
    in_flight_packets: u32,
    /// Of these, with results.
    watched: u32,
    /// When the earliest of those that may be late is.
    loss_at: Option<Instant>,
    /// The latest that wants an acknowledgement left then.
    eliciting_sent_at: Instant,
    probes: u32,
    /// One is due, and has to wait for those of other flows.
    probe_waits: bool,
    /// So many numbers before `base` are one run of which none was acknowledged.
    run: u32,
    packet_threshold: u32,
    time_threshold_eighths: u8,
    rtt: RttEstimate,
    rate: DeliveryRate,
}

impl Recovery {
    /// Nothing sent yet; the first number will be `base`.
    #[must_use]
    pub fn new(base: u64) -> Self {
        Self {
            ring: Vec::new(),
            base,
            next: base,
            again: VecDeque::new(),
            largest_acked: None,
            in_flight: 0,
            in_flight_packets: 0,
            watched: 0,
            loss_at: None,
            eliciting_sent_at: Instant::default(),
            probes: 0,
            probe_waits: false,
            run: 0,
            packet_threshold: PACKET_THRESHOLD,
            time_threshold_eighths: TIME_THRESHOLD_EIGHTHS,
            rtt: RttEstimate::default(),
            rate: DeliveryRate::default(),
        }
    }

    /// The number of the next datagram.
    #[must_use]
    pub const fn next_number(&self) -> u64 {
        self.next
    }

    /// Bytes in flight.
    #[must_use]
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Datagrams in flight.
    #[must_use]
    pub const fn in_flight_packets(&self) -> u32 {
        self.in_flight_packets
    }

    /// Whether another datagram with results may be watched.
    #[must_use]
    pub const fn may_watch(&self) -> bool {
        self.watched < WATCHED_MAX
    }

    /// Whether there is a place for a number that nobody waits for.
    #[must_use]
    pub fn has_room(&mut self) -> bool {
        if self.next - self.base >= SPAN_MAX {
            self.trim_ring(); // Who only acknowledges is not acknowledged himself.
        }
        self.next - self.base < SPAN_MAX
    }

    /// The round trip.
    #[must_use]
    pub const fn rtt(&self) -> &RttEstimate {
        &self.rtt
    }

    /// Datagram `number`, a HELLO, is answered: the first round trip, unless one was measured before (R-LOSS-1). Longer than
    /// any PTO, it says more about the peer than about the path.
    pub fn answered(&mut self, now: Instant, number: u64) {
        let sent_at = self.get(number).map(|sent| sent.sent_at);
        let trip = sent_at.map(|sent_at| now.since(sent_at)).filter(|&trip| trip <= PTO_MAX);
        if let Some(trip) = trip.filter(|_| !self.rtt.known) {
            self.rtt.sample(trip, Duration::ZERO);
        }
    }

    /// Bytes ever acknowledged.
    #[must_use]
    pub fn delivered_bytes(&self) -> u64 {
        self.rate.delivered_bytes()
    }

    /// There is room in the window and nothing to fill it.
    pub fn app_limited(&mut self) {
        self.rate.on_app_limited(self.in_flight);
    }

    /// Takes the next number (R-PN-1): for a datagram that nothing depends on, or one that [`sent`](Self::sent)
    /// follows for.
    pub fn take_number(&mut self, now: Instant, fate: Fate) -> u64 {
        let number = self.next;
        self.push(Sent {
            sent_at: now,
            rate: PacketRate::default(),
            slot: Slot::NONE,
            bytes: 0,
            first_message: 0,
            messages: 0,
            results_until: 0,
            fate,
            sparse: false,
            path_probe: false,
            probed: false,
        });
        number
    }

    /// The datagram `number`, whose number was taken, leaves. Its `rate` and `fate` are filled in here.
    pub fn sent(&mut self, number: u64, mut sent: Sent) {
        let index = self.index(number);
        assert!(self.ring[index].fate == Fate::Open);
        sent.rate = self.rate.on_sent(sent.sent_at, self.in_flight);
        sent.fate = Fate::InFlight;
        self.in_flight += u64::from(sent.bytes);
        self.in_flight_packets += 1;
        self.watched += u32::from(sent.results_until != 0);
        self.eliciting_sent_at = sent.sent_at;
        self.ring[index] = sent;
    }

    /// Nothing was written into the datagram `number` after all.
    pub fn close_unused(&mut self, number: u64) {
        let index = self.index(number);
        assert!(self.ring[index].fate == Fate::Open);
        self.ring[index].fate = Fate::Done;
    }

    fn push(&mut self, sent: Sent) {
        if (self.next - self.base) as usize == self.ring.len() {
            // Who only acknowledges is not acknowledged himself: nothing else would ever trim.
            self.trim(sent.sent_at);
        }
        let count = (self.next - self.base) as usize;
        if count == self.ring.len() {
            let new = (count * 2).max(16);
            let mut grown = vec![sent; new];
            for number in self.base..self.next {
                grown[number as usize & (new - 1)] = self.ring[number as usize & (count - 1)];
            }
            self.ring = grown;
        }
        let index = self.index(self.next);
        self.ring[index] = sent;
        self.next += 1;
    }

    #[inline]
    fn index(&self, number: u64) -> usize {
        number as usize & (self.ring.len() - 1)
    }

    /// A datagram that is remembered.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Sent> {
        (number >= self.base && number < self.next).then(|| &self.ring[self.index(number)])
    }

    /// Datagrams whose bytes are kept and whose messages are around `seq`, the latest first.
    pub fn carriers(&self, seq: u64) -> impl Iterator<Item = &Sent> {
        (self.base..self.next)
            .rev()
            .map(|number| &self.ring[self.index(number)])
            .filter(move |sent| sent.may_carry(seq))
    }

    /// The one of them whose number ends in these 32 bits, without a look at the others.
    pub fn carrier(&self, low: u32, seq: u64) -> Option<&Sent> {
        let number = self.base + u64::from(low.wrapping_sub(self.base as u32));
        self.get(number).filter(|sent| sent.may_carry(seq))
    }

    /// The frames of a lost datagram left again, or are not needed any more; its slot, for release.
    pub fn resolved(&mut self, number: u64) -> Slot {
        if number < self.base || number >= self.next {
            return Slot::NONE;
        }
        let index = self.index(number);
        let sent = &mut self.ring[index];
        let slot = std::mem::replace(&mut sent.slot, Slot::NONE);
        if sent.fate == Fate::Lost {
            sent.fate = Fate::Again;
            let sent = *sent;
            self.remember(number, sent);
        }
        slot
    }

    fn remember(&mut self, number: u64, sent: Sent) {
        // Nearly always behind all others: what is lost goes again in its order.
        let behind = self.again.iter().rposition(|&(before, _)| before < number);
        let mut place = behind.map_or(0, |place| place + 1);
        if self.again.len() >= self.ring.len() {
            if place == 0 {
                return;
            }
            self.again.pop_front();
            place -= 1;
        }
        self.again.insert(place, (number, sent));
    }

    /// Takes an ACK: `ranges` descending, inclusive. `acked` is called for each datagram that is newly acknowledged, its
    /// slot still taken; also for one declared lost before.
    ///
    /// # Errors
    /// [`DropReason::BinaryMalformed`] if it acknowledges what was never sent: the whole ACK counts for nothing.
    pub fn handle_ack(
        &mut self,
        now: Instant,
        largest: u64,
        delay: Duration,
        ranges: impl Iterator<Item = (u64, u64)>,
        mut acked: impl FnMut(u64, &mut Sent),
    ) -> Result<Acked, DropReason> {
        if largest >= self.next {
            return Err(DropReason::BinaryMalformed);
        }
        let mut result = Acked::default();
        let mut heard = false;
        // When the largest left, if it is acknowledged for the first time.
        let mut largest_sent_at = None;
        // Those of the list from here on are above the range.
        let mut above = self.again.len();
        for (smallest, end) in ranges {
            if end < self.base && above == 0 {
                break;
            }
            while above > 0 && self.again[above - 1].0 >= smallest {
                above -= 1;
                if self.again[above].0 <= end
                    && let Some((number, mut sent)) = self.again.remove(above)
                {
                    result.spurious += u32::from(self.came_late(number, sent.probed));
                    heard = true;
                    if number == largest {
                        largest_sent_at = Some(sent.sent_at);
                    }
                    acked(number, &mut sent);
                }
            }
            for number in (smallest.max(self.base)..=end).rev() {
                let index = self.index(number);
                let sent = &mut self.ring[index];
                match sent.fate {
                    Fate::Done | Fate::Open => continue,
                    Fate::Again => {
                        // Too late to say anything of the path; but here no run of losses goes on.
                        sent.fate = Fate::Done;
                        continue;
                    }
                    Fate::InFlight => {
                        self.in_flight -= u64::from(sent.bytes);
                        self.in_flight_packets -= 1;
                        self.watched -= u32::from(sent.results_until != 0);
                        self.rate.on_acked(&sent.rate, sent.sent_at, sent.bytes, now);
                        result.bytes += u64::from(sent.bytes);
                        result.packets += 1;
                        result.newest_sent_at = result.newest_sent_at.max(sent.sent_at);
                    }
                    Fate::Lost => {
                        let probed = sent.probed;
                        result.spurious += u32::from(self.came_late(number, probed));
                    }
                }
                let sent = &mut self.ring[index];
                heard = true;
                if number == largest {
                    largest_sent_at = Some(sent.sent_at);
                }
                acked(number, sent);
                sent.fate = Fate::Done;
            }
        }
        if heard {
            self.probes = 0;
        }
        self.largest_acked = Some(self.largest_acked.unwrap_or(0).max(largest));
        if let Some(sent_at) = largest_sent_at {
            let rtt = now.since(sent_at);
            self.rtt.sample(rtt, delay);
            result.rtt = Some(rtt);
        }
        if result.packets > 0 {
            result.rate = self.rate.sample(now, self.rtt.min());
        }
        self.trim(now);
        Ok(result)
    }

    /// What was sent again has arrived. True if it had been declared lost: wrongly, as is plain now (R-LOSS-2).
    fn came_late(&mut self, number: u64, probed: bool) -> bool {
        if !probed {
            let spares = self.largest_acked.unwrap_or(number).saturating_sub(number).saturating_add(2);
            let spares = u32::try_from(spares).unwrap_or(u32::MAX).min(PACKET_THRESHOLD_MAX);
            self.packet_threshold = self.packet_threshold.max(spares);
            self.time_threshold_eighths = (self.time_threshold_eighths + 1).min(TIME_THRESHOLD_EIGHTHS_MAX);
        }
        if number >= self.base {
            let index = self.index(number);
            self.ring[index].fate = Fate::Done;
        } else {
            let behind = u32::try_from(self.base - number - 1).unwrap_or(u32::MAX);
            self.run = self.run.min(behind);
        }
        !probed
    }

    /// Section 6.1: declares lost what the largest acknowledged one has left behind. `lost` hears of each, ascending.
    pub fn detect(&mut self, now: Instant, mut lost: impl FnMut(LostPacket)) -> Losses {
        self.loss_at = None;
        let mut losses = Losses::default();
        let Some(largest) = self.largest_acked else { return losses };
        let delay = (self.rtt.smoothed().max(self.rtt.latest) * self.time_threshold_eighths.into() / 8)
            .max(GRANULARITY);
        // When the first one left that is lost now and between which and here none was acknowledged, and the longest such time.
        let (mut first_lost_at, mut span) = (None, Duration::ZERO);
        // Where the run of datagrams began none of which was acknowledged.
        let mut run = (self.run > 0).then(|| self.base - u64::from(self.run));
        for number in self.base..largest.min(self.next) {
            let index = self.index(number);
            let sent = &mut self.ring[index];
            match sent.fate {
                Fate::InFlight => {}
                Fate::Lost | Fate::Again => {
                    run.get_or_insert(number);
                    continue;
                }
                // What nobody acknowledges has no length.
                Fate::Done | Fate::Open => {
                    if sent.bytes > 0 {
                        (run, first_lost_at) = (None, None);
                    }
                    continue;
                }
            }
            let late_at = sent.sent_at + delay;
            if largest - number < self.packet_threshold.into() && late_at > now {
                // Later ones left later: none of them can be late before this one.
                self.loss_at = Some(late_at);
                break;
            }
            sent.fate = Fate::Lost;
            self.in_flight -= u64::from(sent.bytes);
            self.in_flight_packets -= 1;
            self.watched -= u32::from(sent.results_until != 0);
            if !sent.path_probe {
                span = span.max(sent.sent_at.since(*first_lost_at.get_or_insert(sent.sent_at)));
                losses.packets += 1;
                losses.bytes += u64::from(sent.bytes);
                losses.largest = number;
                losses.largest_sent_at = sent.sent_at;
            }
            lost(LostPacket { number, bytes: sent.bytes, run: *run.get_or_insert(number) });
        }
        losses.persistent = losses.packets > 1 && span > self.rtt.probe_timeout() * PERSISTENT_PTOS;
        losses
    }

    /// The kernel took a datagram for sent that never left: it is to be sent again, and that says nothing about the path.
    pub fn unsent(&mut self, number: u64) -> bool {
        if number < self.base || number >= self.next {
            return false;
        }
        let index = self.index(number);
        let sent = &mut self.ring[index];
        let was = sent.fate == Fate::InFlight;
        if was {
            self.in_flight -= u64::from(sent.bytes);
            self.in_flight_packets -= 1;
            self.watched -= u32::from(sent.results_until != 0);
            sent.fate = Fate::Lost;
        }
        was
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn timeout_at(&self) -> Option<Instant> {
        if self.loss_at.is_some() {
            return self.loss_at;
        }
        (self.in_flight_packets > 0 && !self.probe_waits).then(|| self.eliciting_sent_at + self.backed_off())
    }

    /// The probe timeout with back-off, section 6.2.1.
    #[must_use]
    pub fn backed_off(&self) -> Duration {
        let once = self.rtt.probe_timeout();
        if self.probes == 0 {
            return once.min(PTO_MAX); // Nearly always; the product of a Duration is slow.
        }
        once.saturating_mul(1 << self.probes.min(16)).min(PTO_MAX)
    }

    /// How long a peer may be silent while something is unacknowledged, until it has to prove again what it is (R-DISC-5).
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        (self.rtt.probe_timeout() * 2).max(SILENCE_MIN)
    }

    /// Probes in a row without an answer.
    #[must_use]
    pub const fn probes(&self) -> u32 {
        self.probes
    }

    /// What was probed for is not needed any more.
    pub const fn forget_probes(&mut self) {
        self.probes = 0;
    }

    /// Looks whether time is up. What had come by `heard_until` has been handled: an acknowledgement that came later may be
    /// there, and is waited for, at most as long again (R-LOSS-3).
    pub fn handle_timeout(&mut self, now: Instant, heard_until: Instant) -> Timeout {
        match (self.loss_at, self.timeout_at()) {
            (Some(at), _) if at <= now => Timeout::Late,
            (None, Some(at)) if at <= now && (at <= heard_until || at + self.backed_off() <= now) => {
                self.probes += 1;
                Timeout::Probe
            }
            _ => Timeout::None,
        }
    }

    /// The probe that [`handle_timeout`](Self::handle_timeout) asked for waits for [`resume_probe`](Self::resume_probe).
    pub const fn put_off_probe(&mut self) {
        self.probes -= 1;
        self.probe_waits = true;
    }

    /// Whether it does.
    #[must_use]
    pub const fn probe_waits(&self) -> bool {
        self.probe_waits
    }

    /// A probe may leave now, if one is still due.
    pub const fn resume_probe(&mut self) {
        self.probe_waits = false;
    }

    /// The oldest datagram in flight whose bytes are kept: what a probe repeats (R-LOSS-4). It counts as lost without
    /// being one.
    pub fn oldest_to_probe(&mut self) -> Option<(u64, Sent)> {
        let number = (self.base..self.next).find(|&number| {
            let sent = &self.ring[self.index(number)];
            sent.fate == Fate::InFlight
        })?;
        self.unsent(number);
        let index = self.index(number);
        self.ring[index].probed = true;
        Some((number, self.ring[index]))
    }

    /// The end of the flow: nothing is in flight any more, and the slots that are still taken go back.
    pub fn take_slots(&mut self, mut release: impl FnMut(Slot)) {
        for number in self.base..self.next {
            let index = self.index(number);
            let sent = &mut self.ring[index];
            sent.fate = Fate::Done;
            if sent.slot != Slot::NONE {
                release(std::mem::replace(&mut sent.slot, Slot::NONE));
            }
        }
        self.base = self.next;
        self.again.clear();
        (self.in_flight, self.in_flight_packets, self.watched) = (0, 0, 0);
        (self.loss_at, self.run) = (None, 0);
    }

    /// Forgets from the front what nothing depends on. What was sent again stays in its list for three probe timeouts: until
    /// then an acknowledgement of it may show that it was not lost (R-LOSS-6).
    fn trim(&mut self, now: Instant) {
        self.trim_ring();
        if !self.again.is_empty() {
            let patience = self.rtt.probe_timeout() * 3;
            while self.again.front().is_some_and(|(_, sent)| now.since(sent.sent_at) >= patience) {
                self.again.pop_front();
            }
        }
    }

    fn trim_ring(&mut self) {
        while self.base < self.next {
            let sent = &self.ring[self.index(self.base)];
            match sent.fate {
                Fate::Done if sent.bytes > 0 => self.run = 0,
                Fate::Done if self.run == 0 => {}
                Fate::Done | Fate::Again => self.run = self.run.saturating_add(1),
                Fate::Open | Fate::InFlight | Fate::Lost => break,
            }
            self.base += 1;
        }
    }

    /// Gives back what of the ring is not needed any more: nothing is heard of what was in it.
    pub fn compact(&mut self) {
        self.trim_ring();
        let (count, places) = ((self.next - self.base) as usize, self.ring.len());
        if places <= RING_KEPT || count * 4 > places {
            return;
        }
        let new = (count * 2).next_power_of_two().max(16);
        let mut smaller = vec![self.ring[0]; new];
        for number in self.base..self.next {
            smaller[number as usize & (new - 1)] = self.ring[self.index(number)];
        }
        self.ring = smaller;
    }

    /// Nothing sent is remembered, or waited for.
    pub fn may_fold(&mut self, now: Instant) -> bool {
        self.trim(now);
        self.base == self.next && self.probes == 0
    }

    /// What outlives a pause. Of what is acknowledged nothing does: it is all below the next number.
    #[must_use]
    pub fn fold(&self) -> Folded {
        let ns = |time: Duration| u32::try_from(time.as_nanos()).unwrap_or(u32::MAX);
        let RttEstimate { smoothed, variation, min, known, .. } = self.rtt;
        Folded {
            next: self.next,
            delivered_bytes: self.rate.delivered_bytes(),
            smoothed_ns: ns(smoothed),
            variation_ns: ns(variation),
            min_ns: ns(min),
            packet_threshold: self.packet_threshold.min(PACKET_THRESHOLD_MAX) as u16,
            time_threshold_eighths: self.time_threshold_eighths,
            known,
        }
    }

    /// After the pause.
    #[must_use]
    pub fn unfold(folded: &Folded) -> Self {
        let &Folded { next, delivered_bytes, smoothed_ns, variation_ns, min_ns, known, .. } = folded;
        let [smoothed, variation, min] =
            [smoothed_ns, variation_ns, min_ns].map(|ns| Duration::from_nanos(ns.into()));
        Self {
            rtt: RttEstimate { latest: smoothed, smoothed, variation, min, known },
            rate: DeliveryRate::resumed(delivered_bytes),
            packet_threshold: folded.packet_threshold.into(),
            time_threshold_eighths: folded.time_threshold_eighths,
            ..Self::new(next)
        }
    }

    /// Bytes of its memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.ring.capacity() * size_of::<Sent>() + self.again.capacity() * size_of::<(u64, Sent)>()
    }

    /// Gives memory back if nothing is in flight; what was sent again is forgotten then.
    pub fn shrink(&mut self, now: Instant) {
        self.trim(now);
        if self.base == self.next {
            self.ring = Vec::new();
            self.again = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow that only acknowledges is never acknowledged.
    #[test]
    fn numbers_nobody_waits_for_take_no_memory() {
        let mut recovery = Recovery::new(7);
        for n in 0..10_000 {
            recovery.take_number(Instant::from_ns(n), Fate::Done);
        }
        assert!(recovery.ring.len() <= 16, "{}", recovery.ring.len());
        assert_eq!(recovery.next_number(), 10_007);
    }

    /// Nor does it take more than a bounded piece where one is waited for that nobody acknowledges.
    #[test]
    fn numbers_behind_one_that_is_waited_for_are_bounded() {
        let mut flow = Lossy::new();
        flow.send(1);
        let now = Instant::from_ns(flow.now);
        let mut taken = 0;
        while flow.recovery.has_room() {
            flow.recovery.take_number(now, Fate::Done);
            taken += 1;
        }
        let recovery = &mut flow.recovery;
        assert_eq!(taken, SPAN_MAX - 1);
        assert!(recovery.memory_bytes() <= 2 << 20);
        recovery.compact();
        assert!(!recovery.has_room(), "it is still waited for");
        recovery.unsent(0);
        recovery.resolved(0);
        recovery.compact();
        assert!(recovery.has_room() && recovery.memory_bytes() < 4 << 10, "{}", recovery.memory_bytes());
        flow.send(100);
        flow.ack(|_| false);
        assert_eq!(flow.acked.len(), 100);
    }

    const TRIP: u64 = 50_000;
    /// One in 20 of 3,200.
    const LOST: usize = 160;

    /// A flow whose datagrams leave 1 us apart, in turns of 32. Time passes with them.
    struct Lossy {
        recovery: Recovery,
        now: u64,
        lost: Vec<LostPacket>,
        /// What `handle_ack` told of.
        acked: Vec<u64>,
    }

    impl Lossy {
        fn new() -> Self {
            Self { recovery: Recovery::new(0), now: 1, lost: Vec::new(), acked: Vec::new() }
        }

        fn send(&mut self, count: u64) {
            for _ in 0..count {
                self.now += 1_000;
                let now = Instant::from_ns(self.now);
                let number = self.recovery.take_number(now, Fate::Open);
                let sent = Sent { sent_at: now, bytes: 1_000, ..*self.recovery.get(number).unwrap() };
                self.recovery.sent(number, sent);
            }
        }

        /// All but `missing` of the last 2,000 are acknowledged; what is lost by that is sent again.
        fn ack(&mut self, missing: impl Fn(u64) -> bool) {
            self.now += TRIP;
            let now = Instant::from_ns(self.now);
            let next = self.recovery.next_number();
            let arrived: Vec<u64> =
                (next.saturating_sub(2_000)..next).rev().filter(|&n| !missing(n)).collect();
            let ranges = arrived.chunk_by(|a, b| a - 1 == *b).map(|run| (run[run.len() - 1], run[0]));
            let acked = |number, _: &mut Sent| self.acked.push(number);
            self.recovery.handle_ack(now, arrived[0], Duration::ZERO, ranges, acked).unwrap();
            let mut lost = Vec::new();
            self.recovery.detect(now, |packet| lost.push(packet));
            for packet in &lost {
                self.recovery.resolved(packet.number);
            }
            self.lost.extend(lost);
        }
    }

    /// What was sent again is remembered for 15 ms, which is thousands of datagrams; each ACK is laid against the ring, and
    /// against the latest of those.
    #[test]
    fn the_ring_is_no_longer_than_what_is_in_flight_whatever_was_lost() {
        let mut flow = Lossy::new();
        for _ in 0..100 {
            flow.send(32);
            flow.ack(|number| number % 20 == 7);
        }
        let recovery = &mut flow.recovery;
        assert_eq!((flow.lost.len(), recovery.ring.len()), (LOST, 64));
        assert!(recovery.memory_bytes() <= 32 * BYTES_IN_FLIGHT, "{}", recovery.memory_bytes());
        let latest: Vec<u64> = flow.lost[LOST - 64..].iter().map(|packet| packet.number).collect();
        let again = |recovery: &Recovery| recovery.again.iter().map(|it| it.0).collect::<Vec<_>>();
        assert_eq!(again(recovery), latest, "all within three probe timeouts");
        let now = Instant::from_ns(flow.now);
        let forgotten = flow.lost[LOST - 65].number;
        let ranges = [(latest[0], latest[0]), (forgotten, forgotten)].into_iter();
        let acked = recovery.handle_ack(now, latest[0], Duration::ZERO, ranges, |_, _| {}).unwrap();
        assert_eq!((acked.spurious, recovery.again.len()), (1, 63));
        recovery.trim(now + Duration::from_secs(1));
        assert!(recovery.again.is_empty(), "time is up");
    }

    /// The oldest makes way, in whatever order they are sent again: it is the oldest whose acknowledgement is the least likely.
    #[test]
    fn the_list_of_what_was_sent_again_is_no_longer_than_the_ring() {
        for backwards in [false, true] {
            let mut flow = Lossy::new();
            flow.send(8);
            flow.ack(|_| false);
            for round in 0..10 {
                flow.send(8);
                let recovery = &mut flow.recovery;
                let next = recovery.next_number();
                (next - 8..next).for_each(|number| assert!(recovery.unsent(number)));
                let mut numbers: Vec<u64> = (next - 8..next).collect();
                if backwards {
                    numbers.reverse();
                }
                for number in numbers {
                    recovery.resolved(number);
                }
                let expected: Vec<u64> = (next - (8 * (round + 1)).min(16)..next).collect();
                assert_eq!(recovery.ring.len(), 16);
                assert_eq!(recovery.again.iter().map(|it| it.0).collect::<Vec<_>>(), expected);
            }
            flow.recovery.shrink(Instant::from_ns(flow.now));
            assert_eq!(flow.recovery.memory_bytes(), 0);
        }
    }

    /// However far the ring has gone on: once, and whether it is still in it or not.
    #[test]
    fn what_was_sent_again_and_arrived_is_a_spurious_loss() {
        let mut flow = Lossy::new();
        for _ in 0..5 {
            flow.send(32);
            flow.ack(|number| [5, 40, 41, 100, 126].contains(&number));
        }
        assert_eq!(flow.lost.iter().map(|packet| packet.number).collect::<Vec<_>>(), [5, 40, 41, 100, 126]);
        let recovery = &mut flow.recovery;
        assert_eq!(recovery.base, 126);
        let threshold = recovery.packet_threshold;
        let now = Instant::from_ns(flow.now);
        let mut told = Vec::new();
        let ranges = [(100, 159), (39, 40), (5, 5), (0, 3)];
        for spurious in [4, 0] {
            let acked = recovery
                .handle_ack(now, 159, Duration::ZERO, ranges.into_iter(), |number, sent| {
                    assert_eq!((sent.bytes, sent.slot), (1_000, Slot::NONE));
                    told.push(number);
                })
                .unwrap();
            assert_eq!((acked.spurious, acked.packets), (spurious, 0));
        }
        told.sort_unstable();
        assert_eq!(told, [5, 40, 100, 126]);
        assert!(recovery.packet_threshold > threshold);
        assert_eq!(recovery.again.iter().map(|&(number, _)| number).collect::<Vec<_>>(), [41]);
    }

    /// What was probed for has come all the same: how long that took is a round trip like any other, or what is sent next would be
    /// probed for as early.
    #[test]
    fn a_round_trip_longer_than_the_probe_timeout_is_measured() {
        let mut flow = Lossy::new();
        flow.send(1);
        flow.ack(|_| false);
        assert_eq!(flow.recovery.rtt().probe_timeout(), PTO_MIN);
        flow.send(1);
        for _ in 0..2 {
            flow.now += 12_000_000;
            let now = Instant::from_ns(flow.now);
            assert_eq!(flow.recovery.handle_timeout(now, now), Timeout::Probe);
            let (number, _) = flow.recovery.oldest_to_probe().unwrap();
            flow.recovery.resolved(number);
            flow.send(1);
        }
        flow.now += 12_000_000;
        let now = Instant::from_ns(flow.now);
        let acked =
            flow.recovery.handle_ack(now, 1, Duration::ZERO, [(0, 1)].into_iter(), |_, _| {}).unwrap();
        assert_eq!((acked.spurious, acked.packets), (0, 0), "nobody had declared it lost");
        assert_eq!(flow.recovery.time_threshold_eighths, TIME_THRESHOLD_EIGHTHS);
        assert_eq!(acked.rtt, Some(Duration::from_nanos(36_002_000)));
        assert_eq!(flow.recovery.probes(), 0, "it is there");
        assert!(flow.recovery.rtt().probe_timeout() > Duration::from_millis(36));
    }

    /// RFC 9002 section 7.6.2: none between them was acknowledged. Two losses of a slow flow, with others between, are chance.
    #[test]
    fn congestion_is_persistent_where_nothing_came_through() {
        for between in [true, false] {
            let mut flow = Lossy::new();
            flow.send(1);
            flow.ack(|_| false);
            for _ in 0..3 {
                flow.send(1);
                flow.now += 8_250_000;
            }
            flow.send(1);
            flow.now += 2_000_000;
            let now = Instant::from_ns(flow.now);
            let ranges = [(4, 4), (2, 2), (0, 0)].into_iter().filter(|range| between || range.0 != 2);
            flow.recovery.handle_ack(now, 4, Duration::ZERO, ranges, |_, _| {}).unwrap();
            let losses = flow.recovery.detect(now, |_| {});
            assert_eq!(losses.packets, 3 - u32::from(between));
            assert!(flow.recovery.rtt().probe_timeout() * 3 < Duration::from_micros(16_500));
            assert_eq!(losses.persistent, !between);
        }
    }

    /// Acknowledgements before timers (R-LOSS-3): one that came in time may wait behind others.
    #[test]
    fn what_came_in_time_is_heard_before_a_probe_leaves() {
        let mut flow = Lossy::new();
        flow.send(1);
        flow.ack(|_| false);
        flow.send(1);
        let sent = flow.now;
        let mut looks = |after: u64, heard: u64| {
            let at = |us| Instant::from_ns(sent + us * 1_000);
            flow.recovery.handle_timeout(at(after), at(heard))
        };
        assert_eq!(looks(4_999, 4_999), Timeout::None, "early");
        assert_eq!(looks(9_999, 4_999), Timeout::None, "all that came until then is not heard");
        assert_eq!(looks(10_000, 4_999), Timeout::Probe, "as long again");
    }

    /// R-MTU-6 counts runs, not datagrams: one that the ring has left behind goes on.
    #[test]
    fn a_run_of_losses_is_one_however_far_the_ring_went_on() {
        let mut flow = Lossy::new();
        flow.send(8);
        flow.ack(|number| number > 0);
        // What an ACK of nothing new says: all are late.
        flow.now += 20_000_000;
        flow.recovery.detect(Instant::from_ns(flow.now), |_| {});
        for number in 1..8 {
            flow.recovery.unsent(number);
            flow.recovery.resolved(number);
        }
        flow.send(4);
        flow.ack(|number| (1..11).contains(&number));
        assert_eq!(flow.lost.last().map(|packet| (packet.number, packet.run)), Some((8, 1)));
    }
}
