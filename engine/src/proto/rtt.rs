//! Round-trip estimation and the retransmission timeout, after RFC 6298 sections 2 and 3, per peer.

use std::time::Duration;

/// Smoothed round trip of one peer. Samples come only from rows sent once (Karn's rule, RFC 6298 section 3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt {
    smoothed_ns: u64,
    variation_ns: u64,
}

/// Bounds of the timeout, for one kind of peer.
#[derive(Clone, Copy, Debug)]
pub struct RtoBounds {
    /// Before the first sample, ns.
    pub initial_ns: u64,
    /// Lower bound, ns.
    pub min_ns: u64,
    /// Upper bound, back-off included, ns.
    pub max_ns: u64,
    /// An original v1 peer works on one row at a time and pauses at will: R-RETRY-2 wants four round trips.
    pub patient: bool,
}

impl Rtt {
    /// Takes a sample (RFC 6298 section 2.2 and 2.3, alpha = 1/8, beta = 1/4).
    pub fn sample(&mut self, rtt: Duration) {
        let rtt_ns = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX >> 8).max(1);
        if self.smoothed_ns == 0 {
            self.smoothed_ns = rtt_ns;
            self.variation_ns = rtt_ns / 2;
            return;
        }
        let error_ns = self.smoothed_ns.abs_diff(rtt_ns);
        self.variation_ns = (3 * self.variation_ns + error_ns) / 4;
        self.smoothed_ns = (7 * self.smoothed_ns + rtt_ns) / 8;
    }

    /// The smoothed round trip, once there was a sample.
    #[must_use]
    pub fn smoothed(&self) -> Option<Duration> {
        (self.smoothed_ns > 0).then(|| Duration::from_nanos(self.smoothed_ns))
    }

    /// How long to wait for the confirm of a row sent for the first time (R-RETRY-2).
    #[must_use]
    pub fn timeout(&self, bounds: &RtoBounds) -> Duration {
        let base_ns = if self.smoothed_ns == 0 {
            bounds.initial_ns
        } else {
            let patience_ns = if bounds.patient { 4 * self.smoothed_ns } else { 0 };
            patience_ns.max(self.smoothed_ns + 4 * self.variation_ns).max(bounds.min_ns)
        };
        Duration::from_nanos(base_ns.min(bounds.max_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: RtoBounds =
        RtoBounds { initial_ns: 1_000_000_000, min_ns: 10_000_000, max_ns: 1_000_000_000, patient: false };

    #[test]
    fn follows_rfc_6298() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(&OURS), Duration::from_secs(1));
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.timeout(&OURS), Duration::from_millis(300));
        rtt.sample(Duration::from_millis(100));
        assert_eq!(rtt.timeout(&OURS), Duration::from_millis(250)); // 100 + 4 * 37.5
        let bounds = RtoBounds { max_ns: 200_000_000, ..OURS };
        assert_eq!(rtt.timeout(&bounds), Duration::from_millis(200));
    }

    #[test]
    fn bounds_hold() {
        let mut rtt = Rtt::default();
        for _ in 0..100 {
            rtt.sample(Duration::from_micros(50));
        }
        assert_eq!(rtt.timeout(&OURS), Duration::from_millis(10));
        let v1 = RtoBounds { min_ns: 200_000_000, patient: true, ..OURS };
        assert_eq!(rtt.timeout(&v1), Duration::from_millis(200));
        for _ in 0..100 {
            rtt.sample(Duration::from_millis(90));
        }
        let patient = rtt.timeout(&v1);
        assert!(
            patient >= Duration::from_millis(355) && patient <= Duration::from_millis(365),
            "{patient:?}"
        );
    }
}
