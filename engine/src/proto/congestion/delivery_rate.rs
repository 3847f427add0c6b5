//! Delivery rate of one flow, after draft-cheng-iccrg-delivery-rate-estimation (now section 4.1.2 of
//! draft-ietf-ccwg-bbr).
//!
//! A sample is what was delivered between two moments, divided by the time it took: from the acknowledgement that was
//! the latest when packet P left, to the acknowledgement of P. Acknowledgements may be squeezed together on the way
//! back, so the time P's flight took to *leave* is a second clock, and the longer of the two counts: a sample is never
//! above the rate the flow was sent at.
//!
//! ```text
//! sent     |-- first_sent_at ........ P.sent_at --|                    send elapsed
//! acked            |-- P.delivered_at ................ now --|         ack elapsed
//! ```
//!
//! Cost: [`PacketRate`], 24 bytes with each packet in flight (the packet's own time of sending is the caller's), and
//! a few additions per packet. Nothing fails: numbers that contradict each other give no sample.

use crate::units::Instant;
use std::time::Duration;

/// What is kept with a packet in flight.
#[derive(Clone, Copy, Debug, Default)]
pub struct PacketRate {
    /// `delivered_bytes << 1 | app_limited`: 2^63 bytes are 29 years at 10 GB/s.
    delivered_and_limited: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
}

const _: () = assert!(size_of::<PacketRate>() == 24);

impl PacketRate {
    fn delivered_bytes(self) -> u64 {
        self.delivered_and_limited >> 1
    }

    /// The flow was app-limited when the packet left.
    #[must_use]
    pub fn app_limited(self) -> bool {
        self.delivered_and_limited & 1 == 1
    }
}

/// A measured rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateSample {
    /// Bytes per second, at least 1.
    pub bytes_per_s: u64,
    /// Measured while the application or credit was the limit: the path may carry more.
    pub app_limited: bool,
}

/// The newest packet of the acknowledgement that is being handled.
#[derive(Clone, Copy, Debug)]
struct Newest {
    packet: PacketRate,
    sent_at: Instant,
}

/// The sampler of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryRate {
    delivered_bytes: u64,
    delivered_at: Instant,
    first_sent_at: Instant,
    /// While `delivered_bytes` is below this, packets count as app-limited.
    limited_until: u64,
    newest: Option<Newest>,
}

impl DeliveryRate {
    /// After a pause, with so much acknowledged before it. What comes first says nothing about the path's limit.
    #[must_use]
    pub fn resumed(delivered_bytes: u64) -> Self {
        let mut rate = Self { delivered_bytes, ..Self::default() };
        rate.on_app_limited(0);
        rate
    }

    /// A datagram leaves, with `in_flight` bytes before it. Keep what is returned with the packet; a packet sent again
    /// is a new packet.
    pub fn on_sent(&mut self, now: Instant, in_flight: u64) -> PacketRate {
        if in_flight == 0 {
            // A flow that starts again after a pause: the pause is not part of any sample.
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        let app_limited = self.limited_until > self.delivered_bytes;
        PacketRate {
            delivered_and_limited: self.delivered_bytes << 1 | u64::from(app_limited),
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
        }
    }

    /// There is room in the window, but nothing to send, or no credit for it: what is measured until all of
    /// `in_flight` is delivered says nothing about the path's limit.
    pub fn on_app_limited(&mut self, in_flight: u64) {
        // One more byte: what leaves next, be it into an empty pipe, is still a sample of the application.
        self.limited_until = self.delivered_bytes.saturating_add(in_flight).saturating_add(1);
    }

    /// A packet is newly acknowledged. In any order; the newest sent of one batch makes the sample.
    pub fn on_acked(&mut self, packet: &PacketRate, sent_at: Instant, bytes: u32, now: Instant) {
        self.delivered_bytes = self.delivered_bytes.saturating_add(u64::from(bytes)).min(u64::MAX >> 1);
        self.delivered_at = now;
        let is_newest = self.newest.is_none_or(|newest| {
            (packet.delivered_bytes(), sent_at) >= (newest.packet.delivered_bytes(), newest.sent_at)
        });
        if is_newest {
            self.newest = Some(Newest { packet: *packet, sent_at });
            self.first_sent_at = sent_at;
        }
    }

    /// The rate of the batch whose last packet was just acknowledged at `now`. `None` if there was no packet, or the
    /// interval is shorter than `min_rtt`: then acknowledgements came in a burst and the sample would be too high.
    pub fn sample(&mut self, now: Instant, min_rtt: Duration) -> Option<RateSample> {
        let Newest { packet, sent_at } = self.newest.take()?;
        let send_elapsed = sent_at.since(packet.first_sent_at);
        let ack_elapsed = now.since(packet.delivered_at);
        let elapsed = send_elapsed.max(ack_elapsed);
        if elapsed.is_zero() || elapsed < min_rtt {
            return None;
        }
        let bytes = u128::from(self.delivered_bytes.saturating_sub(packet.delivered_bytes()));
        let bytes_per_s = u64::try_from(bytes * 1_000_000_000 / elapsed.as_nanos()).unwrap_or(u64::MAX);
        Some(RateSample { bytes_per_s: bytes_per_s.max(1), app_limited: packet.app_limited() })
    }

    /// Bytes ever acknowledged on this flow.
    #[must_use]
    pub fn delivered_bytes(&self) -> u64 {
        self.delivered_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_ns(1_000_000_000 + us * 1_000)
    }

    #[test]
    fn ten_packets_a_millisecond_apart_are_a_megabyte_per_second() {
        let mut rate = DeliveryRate::default();
        let mut packets = Vec::new();
        for index in 0..30_u64 {
            packets.push((rate.on_sent(at(index * 1_000), index * 1_000), at(index * 1_000)));
        }
        for (index, (packet, sent_at)) in packets.iter().enumerate() {
            let now = at(30_000 + index as u64 * 1_000);
            rate.on_acked(packet, *sent_at, 1_000, now);
            let sample = rate.sample(now, Duration::from_millis(30)).unwrap();
            assert!(sample.bytes_per_s <= 1_000_000 && !sample.app_limited);
        }
        let late = (rate.on_sent(at(59_000), 0), at(59_000));
        rate.on_acked(&late.0, late.1, 1_000, at(89_000));
        assert_eq!(rate.sample(at(89_000), Duration::ZERO).unwrap().bytes_per_s, 33_333);
    }

    #[test]
    fn squeezed_acknowledgements_do_not_raise_the_rate() {
        let mut rate = DeliveryRate::default();
        let mut in_flight = 0;
        let mut send = |rate: &mut DeliveryRate, us: u64| {
            let packet = rate.on_sent(at(us), in_flight);
            in_flight += 1_000;
            (packet, at(us))
        };
        let first: Vec<_> = (0..10).map(|index| send(&mut rate, index * 1_000)).collect();
        // Everything is acknowledged at once.
        for (packet, sent_at) in &first {
            rate.on_acked(packet, *sent_at, 1_000, at(20_000));
        }
        assert_eq!(rate.sample(at(20_000), Duration::ZERO).unwrap().bytes_per_s, 500_000);
        assert_eq!(rate.sample(at(20_000), Duration::ZERO), None);
        // 100 us after it, ten packets that took 10 ms to leave: ack elapsed is 0.1 ms, send elapsed 10.
        let second: Vec<_> = (0..10).map(|index| send(&mut rate, 20_000 + index * 1_000)).collect();
        for (packet, sent_at) in &second {
            rate.on_acked(packet, *sent_at, 1_000, at(29_100));
        }
        let sample = rate.sample(at(29_100), Duration::ZERO).unwrap().bytes_per_s;
        assert!((500_000..=1_000_000).contains(&sample), "{sample}");
    }

    #[test]
    fn too_short_an_interval_is_no_sample() {
        let mut rate = DeliveryRate::default();
        let packet = rate.on_sent(at(0), 0);
        rate.on_acked(&packet, at(0), 1_000, at(50));
        assert_eq!(rate.sample(at(50), Duration::from_micros(51)), None);
        rate.on_acked(&packet, at(0), 1_000, at(0));
        assert_eq!(rate.sample(at(0), Duration::ZERO), None);
    }

    #[test]
    fn app_limited_until_what_was_in_flight_is_delivered() {
        let mut rate = DeliveryRate::default();
        let first = rate.on_sent(at(0), 0);
        rate.on_app_limited(1_000);
        let second = rate.on_sent(at(10), 1_000);
        assert!(!first.app_limited() && second.app_limited());
        rate.on_acked(&first, at(0), 1_000, at(100));
        assert!(!rate.sample(at(100), Duration::ZERO).unwrap().app_limited);
        let third = rate.on_sent(at(100), 1_000);
        rate.on_acked(&second, at(10), 1_000, at(110));
        assert!(rate.sample(at(110), Duration::ZERO).unwrap().app_limited);
        assert!(third.app_limited() && !rate.on_sent(at(110), 1_000).app_limited());
        assert_eq!(rate.delivered_bytes(), 2_000);
    }
}
