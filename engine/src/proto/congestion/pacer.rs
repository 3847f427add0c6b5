//! Pacing of one flow: a token bucket in bytes. No timer inside; the caller asks what may leave now and, if that is too
//! little, when to ask again.
//!
//! The bucket holds two trains or one millisecond's worth, whichever is more. A *train* is as long as a millisecond of
//! the rate, between two datagrams and the kernel's limit (the send quantum of draft-ietf-ccwg-bbr section 4.6.3): a
//! fast flow leaves in full trains, because trains and not bytes are the cost, and a slow one does not hit a thin link
//! with 64 KiB at once. Timers tick at 131 us, so a bucket of one millisecond rides over eight ticks.
//!
//! What must leave (a probe, a close) may overdraw; the debt is at most one bucket, and it is paid before anything
//! else leaves. Cost: one multiplication and two divisions of 128 bits per call that refills.

use crate::units::Instant;
use std::time::Duration;

const NS_PER_S: u128 = 1_000_000_000;
/// One train, and half of the smallest bucket, in time.
const TRAIN_PER_S: u64 = 1_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    /// `None`: nothing is held back.
    bytes_per_s: Option<u64>,
    /// May be negative: debt.
    tokens: i64,
    /// All that was earned until here is in `tokens`.
    updated_at: Instant,
    datagram_bytes: u32,
    train_bytes_max: u32,
}

impl Pacer {
    /// A full bucket, and no rate yet.
    #[must_use]
    pub fn new(now: Instant, datagram_bytes: u32, train_bytes_max: u32) -> Self {
        let datagram_bytes = datagram_bytes.max(1);
        Self {
            bytes_per_s: None,
            tokens: i64::MAX,
            updated_at: now,
            datagram_bytes,
            train_bytes_max: train_bytes_max.max(datagram_bytes),
        }
    }

    /// Sets the rate from now on ([`super::CongestionControl::pacing_bytes_per_s`]); what was earned at the old one
    /// stays, as far as the new bucket holds it.
    pub fn set_rate(&mut self, now: Instant, bytes_per_s: Option<u64>) {
        if bytes_per_s == self.bytes_per_s {
            return;
        }
        self.refill(now);
        self.bytes_per_s = bytes_per_s.map(|rate| rate.max(1));
        self.updated_at = self.updated_at.max(now);
        self.tokens = self.tokens.clamp(-self.burst_tokens(), self.burst_tokens());
    }

    /// Bytes a train should have at this rate.
    #[must_use]
    pub fn train_bytes(&self) -> u32 {
        let least = self.datagram_bytes.saturating_mul(2).min(self.train_bytes_max);
        self.bytes_per_s.map_or(self.train_bytes_max, |rate| {
            u32::try_from(rate / TRAIN_PER_S).unwrap_or(u32::MAX).clamp(least, self.train_bytes_max)
        })
    }

    /// The bucket's size in bytes.
    #[must_use]
    pub fn burst_bytes(&self) -> u64 {
        let trains = 2 * u64::from(self.train_bytes());
        trains.max(self.bytes_per_s.unwrap_or(0) / TRAIN_PER_S)
    }

    /// Bytes that may leave now.
    pub fn allowance(&mut self, now: Instant) -> u64 {
        self.refill(now);
        if self.bytes_per_s.is_none() { u64::MAX } else { u64::try_from(self.tokens).unwrap_or(0) }
    }

    /// `bytes` left, allowed or not.
    pub fn on_sent(&mut self, bytes: u64) {
        if self.bytes_per_s.is_some() {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.tokens = self.tokens.saturating_sub(bytes).max(-self.burst_tokens());
        }
    }

    /// When [`Self::allowance`] will be `bytes` (or a full bucket, if that is less): at once, if it is already. Ask for
    /// [`Self::train_bytes`], or for what is left to send if that is less: waking up for single datagrams would
    /// undo trains.
    #[must_use]
    pub fn next_at(&self, bytes: u64) -> Instant {
        let Some(rate) = self.bytes_per_s else { return self.updated_at };
        let wanted = i64::try_from(bytes.min(self.burst_bytes())).unwrap_or(i64::MAX);
        let missing = u128::try_from(wanted.saturating_sub(self.tokens)).unwrap_or(0);
        let wait_ns = (missing * NS_PER_S).div_ceil(u128::from(rate));
        self.updated_at + Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(u64::MAX))
    }

    fn burst_tokens(&self) -> i64 {
        i64::try_from(self.burst_bytes()).unwrap_or(i64::MAX)
    }

    fn refill(&mut self, now: Instant) {
        let Some(rate) = self.bytes_per_s else {
            self.updated_at = self.updated_at.max(now);
            return;
        };
        let elapsed_ns = now.since(self.updated_at).as_nanos();
        let earned = elapsed_ns * u128::from(rate) / NS_PER_S;
        let tokens = self.tokens.saturating_add(i64::try_from(earned).unwrap_or(i64::MAX));
        if tokens >= self.burst_tokens() {
            self.tokens = self.burst_tokens();
            self.updated_at = self.updated_at.max(now);
        } else if earned > 0 {
            // Only the time that whole bytes took is used up: frequent calls at a low rate lose nothing.
            self.tokens = tokens;
            let used_ns = (earned * NS_PER_S).div_ceil(u128::from(rate));
            self.updated_at += Duration::from_nanos(u64::try_from(used_ns).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_ns(1_000_000_000 + us * 1_000)
    }

    #[test]
    fn without_a_rate_nothing_is_held_back() {
        let mut pacer = Pacer::new(at(0), 1_200, 60_000);
        pacer.on_sent(u64::MAX);
        assert_eq!(pacer.allowance(at(0)), u64::MAX);
        assert_eq!(pacer.next_at(1 << 40), at(0));
        assert_eq!(pacer.train_bytes(), 60_000);
    }

    #[test]
    fn the_bucket_is_two_trains_or_a_millisecond() {
        let mut pacer = Pacer::new(at(0), 1_200, 60_000);
        for (rate, train, burst) in [
            (1, 2_400, 4_800),
            (10_000_000, 10_000, 20_000),
            (60_000_000, 60_000, 120_000),
            (1_000_000_000, 60_000, 1_000_000),
        ] {
            pacer.set_rate(at(0), Some(rate));
            assert_eq!((pacer.train_bytes(), pacer.burst_bytes()), (train, burst), "at {rate}");
        }
    }

    #[test]
    fn the_rate_is_kept_however_often_it_is_asked() {
        for step_us in [1, 7, 131, 5_000] {
            for rate in [999, 12_345, 1_000_000, 125_000_000] {
                let mut pacer = Pacer::new(at(0), 100, 1_000);
                pacer.set_rate(at(0), Some(rate));
                let burst = pacer.burst_bytes();
                pacer.on_sent(burst);
                let (mut sent, mut now) = (0, 0);
                while now < 1_000_000 {
                    now += step_us;
                    let allowed = pacer.allowance(at(now));
                    pacer.on_sent(allowed);
                    sent += allowed;
                }
                let due = rate * now / 1_000_000;
                assert!(sent <= due + 1, "{sent} of {due}");
                let full = step_us * rate / 1_000_000 > burst; // Then the bucket overflows between two calls.
                assert!(full || sent + sent / 500 + 2 >= due, "{sent} of {due}, {step_us} us, {rate} B/s");
            }
        }
    }

    #[test]
    fn next_at_is_when_the_allowance_is_there() {
        let mut pacer = Pacer::new(at(0), 1_000, 10_000);
        pacer.set_rate(at(0), Some(1_000_000));
        assert_eq!(pacer.next_at(2_000), at(0));
        pacer.on_sent(4_000);
        assert_eq!(pacer.next_at(2_000), at(2_000));
        assert_eq!(pacer.next_at(u64::MAX), at(4_000));
        assert_eq!((pacer.allowance(at(1_999)), pacer.allowance(at(2_000))), (1_999, 2_000));
        // Overdrawn by at most one bucket.
        pacer.on_sent(u64::MAX);
        assert_eq!(pacer.allowance(at(2_500)), 0);
        assert_eq!(pacer.next_at(1_000), at(7_000));
        assert_eq!(pacer.allowance(at(7_000)), 1_000);
    }

    #[test]
    fn time_that_stands_still_or_jumps_does_no_harm() {
        let mut pacer = Pacer::new(at(10), 1_000, 10_000);
        pacer.set_rate(at(10), Some(u64::MAX));
        assert_eq!(pacer.allowance(at(0)), pacer.burst_bytes());
        pacer.on_sent(u64::MAX);
        assert!(pacer.allowance(Instant::FAR_FUTURE) > 0);
        pacer.set_rate(at(0), Some(0));
        assert!(pacer.next_at(1) >= at(0));
    }
}
