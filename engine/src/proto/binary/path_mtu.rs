//! How long a datagram the path of one flow carries: Datagram Packetization Layer Path MTU Discovery, RFC 8899 (R-MTU-1).
//!
//! ```text
//!   MIN 512        BASE 1,200        size          high            max
//!    |----------------|---------------|-------------|---------------|      size: in use, known or taken to pass
//!      Error: below BASE               probed next: in between             high: the least that is known not to pass
//!
//!   longer than the floor, lost: x   not longer, acknowledged: o    x x o x o x x x o ...   each run of x is one piece of
//!   (floor: BASE, or MIN)                                           evidence, until one longer than the floor gets through
//! ```
//!
//! A *search probe* is longer than what is in use; one is under way at a time, and nothing of it is sent again. What is in
//! use falls when longer datagrams are lost while shorter ones get through, [`EVIDENCE`] times in a row. Chance alone does
//! that at 30 % of loss once in 10^8 datagrams. So that it does not take that many round trips, suspicion asks for
//! *confirmation*: pairs of a full and a short datagram, twice as many each round.
//!
//! A path may fall below `BASE` while nothing longer than that is under way, on a flow that sends longer ones. The loss of
//! what is shorter than the floor is no evidence, as it may be chance and its length says nothing of the size; but it has a
//! full datagram sent, whose loss is. So the size falls to `BASE`, and from there, by evidence, to `MIN`.
//!
//! Pure: fed with what was sent, acknowledged and lost, and asked what to probe with. Costs a flow that is not suspicious
//! a few comparisons an acknowledgement, and two a datagram in [`Passed`].

use crate::units::Instant;
use std::time::Duration;

/// BASE_PLPMTU: passes nearly everywhere, RFC 8899 section 5.1.2; RFC 9000 section 14 takes it for granted.
pub const BASE: u16 = 1_200;
/// MIN_PLPMTU: the least that can be configured. For paths that do not carry even `BASE`.
pub const MIN: u16 = 512;
/// MAX_PROBES, RFC 8899 section 5.1.2: so many lost in a row, and the path does not carry that length.
const PROBES_MAX: u8 = 3;
/// The search ends when so much is left between what passes and what does not.
const STEP: u16 = 16;
/// Tried first where the longest is beyond Ethernet: IPv4 and IPv6 in a frame of 1,500.
const ETHERNET: [u16; 2] = [1_472, 1_452];
/// PMTU_RAISE_TIMER, RFC 8899 section 5.1.1: paths that grow are found that late.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Pieces of evidence that make the size fall.
const EVIDENCE: u8 = 16;
/// From so many on it is asked for.
const SUSPICION: u8 = 2;
/// Pairs in one round of confirmation at most.
const ROUND_MAX: u8 = 8;
/// In place of the number of a packet.
const NONE: u64 = u64::MAX;

/// Where the search stands: RFC 8899 section 5.2.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been probed yet.
    Base,
    /// There is a length between what passes and what does not that is worth a probe.
    Searching,
    /// There is none.
    Complete,
    /// The path does not carry `BASE`. It is searched all the same, below.
    Error,
}

/// A datagram to be sent for what its fate tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Longer than what is in use.
    Search(u16),
    /// As long as what is in use: does that still pass?
    Full(u16),
    /// A short one behind it: does anything?
    Short,
}

/// What the loss of a datagram led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// A search probe was lost.
    Probe,
    /// The size in use fell.
    Fall,
}

/// A datagram that is lost, as [`Recovery`](super::recovery::Recovery) tells of it.
#[derive(Clone, Copy, Debug)]
pub struct LostPacket {
    /// Its number.
    pub number: u64,
    /// Its length.
    pub bytes: u32,
    /// The first number of the run of datagrams it was lost with: none between them was acknowledged.
    pub run: u64,
}

/// What one ACK says of the path; given by [`PathMtu::passed`], fed with each datagram that is newly acknowledged. Of those
/// that left before the size fell, or on another path, not even the length counts: beside one that does, it would be taken
/// for a length that passes.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    floor: u32,
    since: u64,
    /// The largest number of those longer than the floor; 0: none.
    number: u64,
    /// Bytes of the longest of them.
    bytes: u32,
}

impl Passed {
    /// Datagram `number` of `bytes` bytes got through.
    #[inline]
    pub fn add(&mut self, number: u64, bytes: u32) {
        if bytes > self.floor && number >= self.since {
            self.number = self.number.max(number);
            self.bytes = self.bytes.max(bytes);
        }
    }
}

/// What a flow keeps over a pause (R-FLOW-14).
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    raise_at: Instant,
    size: u16,
    max: u16,
    high: u16,
    tries: u8,
    evidence: u8,
    fresh: bool,
    complete: bool,
}

/// See the module.
#[derive(Debug)]
pub struct PathMtu {
    size: u16,
    max: u16,
    high: u16,
    /// What the search probe under way has, or the last one had.
    candidate: u16,
    /// Search probes of that length lost in a row.
    tries: u8,
    /// Nothing is known not to pass.
    fresh: bool,
    complete: bool,
    /// Number of the search probe under way.
    probe: u64,
    /// [`poll`](Self::poll) has something.
    due: bool,
    /// When a search that has ended begins anew.
    raise_at: Instant,
    /// See the module.
    evidence: u8,
    /// The last run of losses, by the low bits of its first number, is in it; or must not be, as a short datagram was lost
    /// with it.
    counted: bool,
    spoiled: bool,
    run: u32,
    /// The first datagram that is evidence.
    suspect: u64,
    /// The last longer than the floor that was acknowledged, and counts against evidence.
    full_acked: u64,
    /// Numbers before this one left before the last fall, or on another path.
    since: u64,
    fulls_due: u8,
    shorts_due: u8,
    /// The last full datagram of the round of confirmation under way.
    round: u64,
}

impl PathMtu {
    /// A path nothing is known of, on which datagrams of up to `max` bytes are allowed.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let max = u16::try_from(max).unwrap_or(u16::MAX).clamp(MIN, u16::MAX - 1);
        let mut path = Self {
            size: BASE.min(max),
            max,
            high: max + 1,
            candidate: 0,
            tries: 0,
            fresh: true,
            complete: false,
            probe: NONE,
            due: true,
            raise_at: Instant::FAR_FUTURE,
            evidence: 0,
            counted: false,
            spoiled: false,
            run: 0,
            suspect: NONE,
            full_acked: 0,
            since: 0,
            fulls_due: 0,
            shorts_due: 0,
            round: NONE,
        };
        path.settle(Instant::FAR_FUTURE);
        path
    }

    /// The peer takes no longer ones. Before the first probe. What it says is bounded: nothing off the wire is believed.
    pub fn limit(&mut self, bytes: usize) {
        let max = usize::from(self.max).min(bytes);
        *self = Self { since: self.since, ..Self::new(max) };
    }

    /// The path is another one.
    pub fn restart(&mut self, next_number: u64) {
        *self = Self { since: next_number, ..Self::new(self.max.into()) };
    }

    /// What outlives a pause.
    #[must_use]
    pub const fn fold(&self) -> Folded {
        let &Self { size, max, high, tries, fresh, complete, raise_at, evidence, .. } = self;
        Folded { raise_at, size, max, high, tries, evidence, fresh, complete }
    }

    /// After the pause: no probe is under way, and all that is sent now has larger numbers than what was suspect.
    #[must_use]
    pub fn unfold(folded: &Folded) -> Self {
        let &Folded { raise_at, size, max, high, tries, evidence, fresh, complete } = folded;
        let suspect = if evidence > 0 { 0 } else { NONE };
        let new = Self::new(max.into());
        let mut path = Self { size, high, tries, fresh, complete, raise_at, evidence, suspect, ..new };
        path.rearm();
        path
    }

    /// Bytes of the longest datagram that is sent, probes aside.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size as usize
    }

    /// Bytes of the longest that may yet turn out to pass.
    #[must_use]
    pub const fn ceiling(&self) -> usize {
        self.high as usize - 1
    }

    /// The loss of longer ones says something about the size in use; of others, nothing.
    #[must_use]
    pub const fn floor(&self) -> u32 {
        match self.lower() {
            Some(lower) => lower as u32,
            None => self.size as u32,
        }
    }

    /// What it falls to.
    const fn lower(&self) -> Option<u16> {
        match self.size {
            size if size > BASE => Some(BASE),
            size if size > MIN => Some(MIN),
            _ => None,
        }
    }

    /// See [`Phase`].
    #[cfg(test)]
    fn phase(&self) -> Phase {
        match () {
            () if self.size < BASE.min(self.max) => Phase::Error,
            () if self.candidate == 0 => Phase::Base,
            () if self.complete => Phase::Complete,
            () => Phase::Searching,
        }
    }

    /// Whether [`poll`](Self::poll) has something, or had a moment ago.
    #[inline]
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.due || now >= self.raise_at
    }

    /// What to send now. [`sent`](Self::sent) must follow if it leaves.
    pub fn poll(&mut self, now: Instant) -> Option<Probe> {
        if self.fulls_due > 0 && self.fulls_due >= self.shorts_due {
            return Some(Probe::Full(self.size));
        }
        if self.shorts_due > 0 {
            return Some(Probe::Short);
        }
        if self.complete && now >= self.raise_at {
            self.search_up_to(self.max);
        }
        if self.complete || self.probe != NONE {
            return None;
        }
        self.candidate = self.next_candidate();
        Some(Probe::Search(self.candidate))
    }

    /// The probe that `poll` returned leaves as datagram `number`.
    pub fn sent(&mut self, probe: Probe, number: u64) {
        match probe {
            Probe::Search(_) => self.probe = number,
            Probe::Full(_) => {
                self.fulls_due -= 1;
                self.round = number;
            }
            Probe::Short => self.shorts_due -= 1,
        }
        self.rearm();
    }

    fn next_candidate(&self) -> u16 {
        if self.fresh {
            return self.high - 1;
        }
        let step =
            ETHERNET.into_iter().find(|&step| self.max > ETHERNET[0] && self.size < step && step < self.high);
        step.unwrap_or(self.size + (self.high - self.size) / 2)
    }

    /// Nothing is known not to pass, up to `max`.
    fn search_up_to(&mut self, max: u16) {
        (self.high, self.fresh, self.tries, self.complete) = (max + 1, true, 0, false);
        (self.probe, self.raise_at) = (NONE, Instant::FAR_FUTURE);
        self.rearm();
    }

    /// Ends the search if there is nothing left to find.
    fn settle(&mut self, now: Instant) {
        let gap = self.high - self.size;
        self.complete = gap <= 1 || (gap <= STEP && !self.fresh);
        let may_grow = self.complete && self.size < self.max;
        self.raise_at = if may_grow { now + RAISE_AFTER } else { Instant::FAR_FUTURE };
        self.rearm();
    }

    /// With a probe under way, what becomes of it says when the next one is due.
    /// Of nothing that was sent the fate will be known.
    pub const fn forget_sent(&mut self) {
        (self.probe, self.round) = (NONE, NONE);
        self.rearm();
    }

    const fn rearm(&mut self) {
        self.due = self.has_confirmation_due() || (!self.complete && self.probe == NONE);
    }

    const fn has_confirmation_due(&self) -> bool {
        self.fulls_due > 0 || self.shorts_due > 0
    }

    /// For the datagrams of one ACK, before [`on_acked`](Self::on_acked).
    #[inline]
    #[must_use]
    pub const fn passed(&self) -> Passed {
        Passed { floor: self.floor(), since: self.since, number: 0, bytes: 0 }
    }

    /// Datagrams were acknowledged. True if the size in use grew.
    #[inline]
    pub fn on_acked(&mut self, now: Instant, passed: Passed) -> bool {
        self.full_acked = self.full_acked.max(passed.number);
        (passed.bytes > self.size.into() || self.evidence > 0) && self.heed(now, passed)
    }

    #[cold]
    fn heed(&mut self, now: Instant, passed: Passed) -> bool {
        if passed.number > self.suspect {
            self.acquit();
        }
        if passed.bytes <= self.size.into() {
            self.rearm();
            return false;
        }
        self.size = u16::try_from(passed.bytes).unwrap_or(u16::MAX).min(self.max);
        self.high = self.high.max(self.size + 1);
        self.probe = NONE;
        self.tries = 0;
        self.acquit();
        self.settle(now);
        true
    }

    /// A datagram longer than the floor got through after all that speaks against it.
    fn acquit(&mut self) {
        (self.evidence, self.counted, self.suspect) = (0, false, NONE);
        (self.fulls_due, self.shorts_due, self.round) = (0, 0, NONE);
    }

    /// A datagram is lost; what was acknowledged meanwhile was told before. `next_number` is the one of the next datagram.
    pub fn on_lost(&mut self, now: Instant, lost: LostPacket, next_number: u64) -> Loss {
        if lost.number == self.probe {
            self.lose_probe(now);
            return Loss::Probe;
        }
        if lost.number >= self.round {
            self.round = NONE;
        }
        if lost.run as u32 != self.run {
            (self.run, self.counted, self.spoiled) = (lost.run as u32, false, false);
        }
        if lost.bytes <= self.floor() {
            // Lost for another reason, and so may be what was lost with it.
            self.spoiled = true;
            if std::mem::take(&mut self.counted) {
                self.evidence = self.evidence.saturating_sub(1);
            }
            if lost.number >= self.since && lost.number > self.full_acked {
                self.doubt(lost.bytes);
            }
            return Loss::Nothing;
        }
        // Search probes are longer than what is in use.
        let tells = lost.bytes <= self.size.into() && lost.number > self.full_acked;
        if tells && lost.number >= self.since && !self.spoiled && !std::mem::replace(&mut self.counted, true)
        {
            if self.evidence == 0 {
                self.suspect = lost.number;
            }
            self.evidence += 1;
        }
        if self.evidence >= EVIDENCE {
            self.fall(next_number);
            return Loss::Fall;
        }
        if self.evidence >= SUSPICION && self.round == NONE && !self.has_confirmation_due() {
            self.fulls_due = self.evidence.min(ROUND_MAX);
            self.shorts_due = self.fulls_due;
            self.rearm();
        }
        Loss::Nothing
    }

    /// A datagram not longer than the floor is lost, and nothing longer than that came through behind it: unless the path
    /// carries such by all we know of it, does it carry the size? The short one in front ends the run of what was lost.
    fn doubt(&mut self, bytes: u32) {
        if bytes > MIN.into() && self.round == NONE && !self.has_confirmation_due() {
            (self.fulls_due, self.shorts_due) = (1, 2);
            self.rearm();
        }
    }

    /// There is no memory for a confirmation that is due: it is asked for again when more is lost. True if short datagrams
    /// were due; a PING will do.
    pub fn give_up_confirmation(&mut self) -> bool {
        let shorts_due = self.shorts_due;
        (self.fulls_due, self.shorts_due) = (0, 0);
        self.rearm();
        shorts_due > 0
    }

    fn lose_probe(&mut self, now: Instant) {
        self.probe = NONE;
        self.tries += 1;
        if self.tries >= PROBES_MAX {
            self.refute(now, self.candidate);
        }
        self.rearm();
    }

    /// Nothing was heard for a probe timeout, and the oldest datagram in flight, number `number`, goes again as a probe: if
    /// it is longer than the floor, a short one behind it tells whether the path carries that; if it is longer than MIN,
    /// that and a full one.
    pub fn on_timeout(&mut self, now: Instant, number: u64, bytes: u32) -> Loss {
        self.round = NONE;
        if number == self.probe {
            self.lose_probe(now);
            return Loss::Probe;
        }
        if bytes > self.floor() {
            self.shorts_due = self.shorts_due.max(1);
        } else {
            self.doubt(bytes);
        }
        self.rearm();
        Loss::Nothing
    }

    /// Datagram `number` did not leave.
    pub fn on_unsent(&mut self, number: u64) {
        if number == self.probe {
            self.probe = NONE;
        }
        if number == self.round {
            self.round = NONE;
        }
        self.rearm();
    }

    /// The kernel does not let datagrams of `bytes` leave: they are longer than the interface takes. False if that says
    /// nothing we could obey; then it is one that is lost.
    pub fn on_too_long(&mut self, now: Instant, number: u64, bytes: u32, next_number: u64) -> bool {
        self.on_unsent(number);
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if bytes > self.size {
            if bytes < self.high {
                self.refute(now, bytes);
            }
            return true; // Or of a time before a fall.
        }
        if bytes <= MIN || self.lower().is_none() {
            return false;
        }
        self.fall(next_number);
        if self.size < bytes {
            self.refute(now, bytes);
        }
        true
    }

    /// Datagrams of `bytes`, which is more than the size in use, do not pass.
    fn refute(&mut self, now: Instant, bytes: u16) {
        (self.high, self.fresh, self.tries) = (bytes, false, 0);
        self.settle(now);
    }

    /// The size in use does not pass any more (RFC 8899 section 4.3). It is the first to be tried again: if chance, or a path
    /// that was bad for a moment, has deceived us, that costs a round trip.
    fn fall(&mut self, next_number: u64) {
        let Some(lower) = self.lower() else { return };
        let old = self.size;
        self.size = lower;
        self.since = next_number;
        self.full_acked = 0;
        self.acquit();
        self.search_up_to(old);
    }
}

#[cfg(test)]
mod tests;
