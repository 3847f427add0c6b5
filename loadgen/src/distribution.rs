//! Latencies of all messages, those that never arrived included. A message without delivery is not a message without
//! latency: it took longer than its deadline, and nobody knows how much longer. So it stands behind all that were delivered
//! (it is *censored* at the deadline), and a percentile that falls on it is a lower bound.

use crate::report::Percentiles;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The percentiles of a report.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("p99_99", 0.9999), ("max", 1.0)];

/// What never arrived.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Censored {
    /// Messages put (or due) in the window that were not delivered, or never put.
    pub messages: u64,
    /// Their latency is at least this: the deadline, or the slowest delivery if that was slower.
    pub at_least_ns: u64,
    /// The percentiles that fall on them: `>= at_least_ns`.
    pub percentiles: Vec<String>,
}

/// The share of all messages that was delivered by each percentile's latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fractions {
    /// By the median.
    pub p50: f64,
    /// And so on.
    pub p90: f64,
    /// See there.
    pub p99: f64,
    /// See there.
    pub p99_9: f64,
    /// See there.
    pub p99_99: f64,
    /// At all.
    pub max: f64,
}

/// What a percentile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// So many nanoseconds, within the precision of the histogram.
    Exact(u64),
    /// At least so many.
    AtLeast(u64),
}

/// Latencies, and what has none.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'a> {
    delivered: &'a Histogram<u64>,
    undelivered: u64,
    deadline_ns: u64,
}

impl<'a> Distribution<'a> {
    /// Of these that were `delivered`, and so many that were not.
    pub const fn new(delivered: &'a Histogram<u64>, undelivered: u64, deadline_ns: u64) -> Self {
        Self { delivered, undelivered, deadline_ns }
    }

    /// All messages.
    pub fn messages(&self) -> u64 {
        self.delivered.len() + self.undelivered
    }

    fn at_least_ns(&self) -> u64 {
        self.deadline_ns.max(self.delivered.max())
    }

    /// The latency that `quantile` of all messages do not exceed; `None`: there are no messages.
    pub fn at(&self, quantile: f64) -> Option<Value> {
        let all = self.messages();
        if all == 0 {
            return None;
        }
        // 99.9 / 100 x 1,000 is a little more than 999.
        let rank = ((quantile * all as f64 - 1e-6).ceil() as u64).clamp(1, all);
        let delivered = self.delivered.len();
        Some(if rank > delivered {
            Value::AtLeast(self.at_least_ns())
        } else if quantile >= 1.0 {
            Value::Exact(self.delivered.max())
        } else {
            // Half a rank below, so that rounding cannot lead to the next one.
            Value::Exact(self.delivered.value_at_quantile((rank as f64 - 0.5) / delivered as f64))
        })
    }

    /// The percentiles of the report; where `censored` says so they are lower bounds.
    pub fn percentiles(&self) -> Percentiles {
        Percentiles::of(QUANTILES.map(|(_, quantile)| {
            self.at(quantile).map(|value| match value {
                Value::Exact(ns) | Value::AtLeast(ns) => ns,
            })
        }))
    }

    /// What never arrived, if anything.
    pub fn censored(&self) -> Option<Censored> {
        (self.undelivered > 0).then(|| Censored {
            messages: self.undelivered,
            at_least_ns: self.at_least_ns(),
            percentiles: QUANTILES
                .iter()
                .filter(|(_, quantile)| matches!(self.at(*quantile), Some(Value::AtLeast(_))))
                .map(|(name, _)| (*name).to_owned())
                .collect(),
        })
    }

    /// The share of all messages that never arrived; `None`: there are no messages.
    pub fn loss(&self) -> Option<f64> {
        (self.messages() > 0).then(|| self.undelivered as f64 / self.messages() as f64)
    }

    /// The share of all messages that was delivered within `ns`.
    pub fn fraction_within(&self, ns: u64) -> f64 {
        self.delivered.count_between(0, ns) as f64 / self.messages().max(1) as f64
    }

    /// The same for each percentile.
    pub fn delivered_within(&self) -> Option<Fractions> {
        let fraction = |quantile| match self.at(quantile)? {
            Value::Exact(ns) => Some(self.fraction_within(ns)),
            Value::AtLeast(_) => Some(self.delivered.len() as f64 / self.messages() as f64),
        };
        let [p50, p90, p99, p99_9, p99_99, max] = QUANTILES.map(|(_, quantile)| fraction(quantile));
        Some(Fractions { p50: p50?, p90: p90?, p99: p99?, p99_9: p99_9?, p99_99: p99_99?, max: max? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::latency_histogram;

    const DEADLINE: u64 = 2_000_000_000;

    /// Latencies of 1 to `count` microseconds.
    fn delivered(count: u64) -> Histogram<u64> {
        let mut histogram = latency_histogram();
        (1..=count).for_each(|us| histogram.saturating_record(us * 1_000));
        histogram
    }

    #[test]
    fn without_loss_it_is_the_histogram() {
        let latency = delivered(10_000);
        let distribution = Distribution::new(&latency, 0, DEADLINE);
        assert_eq!(distribution.percentiles(), Percentiles::from(&latency));
        assert_eq!(distribution.censored(), None);
        let within = distribution.delivered_within().expect("some");
        assert!((within.p99 - 0.99).abs() < 1e-3 && within.max == 1.0, "{within:?}");
        let nothing = latency_histogram();
        let nothing = Distribution::new(&nothing, 0, DEADLINE);
        assert_eq!((nothing.percentiles(), nothing.delivered_within()), (Percentiles::default(), None));
    }

    /// 2 % lost: the median moves by a hundredth, the 99th percentile is no latency of anything that arrived.
    #[test]
    fn what_never_arrived_is_the_slowest() {
        let latency = delivered(9_800);
        let distribution = Distribution::new(&latency, 200, DEADLINE);
        let Some(Value::Exact(median)) = distribution.at(0.5) else { panic!("a median") };
        assert!(median.abs_diff(5_000_000) <= 5_000, "{median}");
        assert_eq!(distribution.at(0.98), Some(Value::Exact(latency.max())));
        assert_eq!(distribution.at(0.9801), Some(Value::AtLeast(DEADLINE)));
        let censored = distribution.censored().expect("some");
        assert_eq!((censored.messages, censored.at_least_ns), (200, DEADLINE));
        assert_eq!(censored.percentiles, ["p99", "p99_9", "p99_99", "max"]);
        let within = distribution.delivered_within().expect("some");
        assert_eq!((within.p99, within.max), (0.98, 0.98));
        assert_eq!(distribution.percentiles().p99, Some(DEADLINE));
        // All lost.
        let nothing = latency_histogram();
        let nothing = Distribution::new(&nothing, 5, DEADLINE);
        assert_eq!(nothing.censored().map(|censored| censored.percentiles.len()), Some(6));
    }

    /// Put late, and delivered within its deadline all the same: the bound is never below what was seen.
    #[test]
    fn percentiles_are_in_order() {
        let mut latency = delivered(10);
        latency.saturating_record(3 * DEADLINE);
        let distribution = Distribution::new(&latency, 1, DEADLINE);
        assert_eq!(distribution.at(1.0), Some(Value::AtLeast(latency.max())));
    }
}
