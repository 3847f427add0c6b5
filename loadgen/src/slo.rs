//! What a run is asked to keep: `p99.9<1ms,loss<1e-6`.

use crate::distribution::{Distribution, Value};
use crate::record::LATENCY_NS_MAX;
use crate::show::time;
use std::fmt;
use std::str::FromStr;

/// Terms, all of which have to hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    terms: Vec<Term>,
    /// As given.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Term {
    /// The latency of so many per cent of all messages is below so many nanoseconds; 100: of all.
    Percentile(f64, u64),
    /// The share of messages that never arrived is below this.
    Loss(f64),
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let terms = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { terms, text: text.to_owned() })
    }
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("{text:?} {why}; write p99.9<1ms, max<20ms or loss<1e-6");
        let (what, bound) = text.split_once('<').ok_or_else(|| bad("has no \"<\""))?;
        let (what, bound) = (what.trim(), bound.trim().trim_start_matches('=').trim());
        if what == "loss" {
            let (number, scale) = bound.strip_suffix('%').map_or((bound, 1.0), |number| (number, 0.01));
            return match number.trim().parse::<f64>().map(|share| share * scale) {
                Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Loss(share)),
                _ => Err(bad("has no share above 0 and up to 1, as 1e-6 or 0.1%")),
            };
        }
        let percent = match what.strip_prefix('p').map(str::parse::<f64>) {
            _ if what == "max" => 100.0,
            Some(Ok(percent)) if percent > 0.0 && percent <= 100.0 => percent,
            _ => return Err(bad("is about no percentile")),
        };
        let digits = bound.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(bound.len());
        let (number, unit) = bound.split_at(digits);
        let scale = match unit {
            "ns" => 1.0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => return Err(bad("has no time in ns, us, ms or s")),
        };
        match number.trim().parse::<f64>().map(|number| number * scale) {
            // Longer latencies are not told apart: whatever took longer would keep a bound above that.
            Ok(ns) if (1.0..=LATENCY_NS_MAX as f64).contains(&ns) => {
                Ok(Self::Percentile(percent, ns.round() as u64))
            }
            _ => Err(bad("has no time from 1 ns to 200 s")),
        }
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Slo {
    /// What `latency` does not keep, in words; empty: it keeps all of it. Without any message nothing is kept.
    pub fn broken(&self, latency: &Distribution<'_>) -> Vec<String> {
        self.terms.iter().filter_map(|term| term.broken(latency)).collect()
    }

    /// Messages a run needs so that it can show what is asked for: with none of them lost, or none slower, the share of those that
    /// may be is kept with 95 % confidence (the rule of three: Hanley and Lippman-Hand, JAMA 249, 1983). `max` is about the
    /// messages of the run alone.
    pub fn messages_needed(&self) -> Option<u64> {
        let shares = self.terms.iter().filter_map(|term| match term {
            Term::Loss(share) => Some(*share),
            Term::Percentile(percent, _) => Some(1.0 - percent / 100.0).filter(|&share| share > 0.0),
        });
        // 3 / (1 - 0.9) is a little more than 30.
        shares.reduce(f64::min).map(|share| (3.0 / share - 1e-6).ceil() as u64)
    }
}

impl Term {
    fn broken(self, latency: &Distribution<'_>) -> Option<String> {
        match self {
            Self::Percentile(percent, bound) => {
                let name = if percent == 100.0 { "max".to_owned() } else { format!("p{percent}") };
                let words = match latency.at(percent / 100.0) {
                    Some(Value::Exact(ns)) if ns < bound => return None,
                    Some(Value::Exact(ns)) => format!("is {}", time(ns as f64)),
                    Some(Value::AtLeast(ns)) => format!("is at least {}", time(ns as f64)),
                    None => "is not known".to_owned(),
                };
                Some(format!("{name} {words}, not below {}", time(bound as f64)))
            }
            Self::Loss(bound) => {
                let words = match latency.loss() {
                    Some(share) if share < bound => return None,
                    Some(share) => format!("is {share:.2e}"),
                    None => "is not known".to_owned(),
                };
                Some(format!("loss {words}, not below {bound:.2e}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::latency_histogram;

    fn slo(text: &str) -> Slo {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn what_is_kept_and_what_is_not() {
        let mut latency = latency_histogram();
        (1..=1_000).for_each(|us| latency.saturating_record(us * 1_000));
        let all = Distribution::new(&latency, 0, 1_000_000_000);
        for (text, kept) in [
            ("p50<501us", true),
            ("p50<499us", false),
            ("p99.9<1ms", true),
            ("max<1ms", false),
            ("max < 1.1 ms, loss<1e-9", true),
            ("p100<=2ms", true),
        ] {
            assert_eq!(slo(text).broken(&all).is_empty(), kept, "{text}");
        }
        // One of 1,001 lost: 1e-3.
        let lossy = Distribution::new(&latency, 1, 1_000_000_000);
        assert!(slo("p99.9<2ms,loss<0.1%").broken(&lossy).is_empty());
        let broken = slo("p99.99<2ms,loss<1e-4").broken(&lossy);
        assert_eq!(broken, ["p99.99 is at least 1 s, not below 2 ms", "loss is 9.99e-4, not below 1.00e-4"]);
        let nothing = latency_histogram();
        let nothing = Distribution::new(&nothing, 0, 1);
        assert_eq!(slo("p50<1s,loss<1e-6,loss<1").broken(&nothing).len(), 3, "no message, no proof");
    }

    #[test]
    fn what_it_takes_to_show_it() {
        for (text, needed) in [
            ("p50<1s,loss<1e-6", Some(3_000_000)),
            ("p50<1s", Some(6)),
            ("p90<1s", Some(30)),
            ("p99<1s,loss<10%", Some(300)),
            ("p99.99<1s,max<2s", Some(30_000)),
            ("max<1s", None),
            ("p100<1s", None),
        ] {
            assert_eq!(slo(text).messages_needed(), needed, "{text}");
        }
    }

    /// Where the histogram ends, no bound is kept.
    #[test]
    fn the_longest_latency_keeps_no_bound() {
        let mut latency = latency_histogram();
        latency.saturating_record(4 * LATENCY_NS_MAX);
        let latency = Distribution::new(&latency, 0, LATENCY_NS_MAX);
        assert_eq!(slo("max<200s,p50<200s").broken(&latency).len(), 2);
    }

    #[test]
    fn what_is_no_slo() {
        for text in [
            "", "p99", "p99<", "p99<1", "p0<1ms", "p101<1ms", "q99<1ms", "loss<0", "loss<1e", "p99<2h",
            "max<201s", "p9<1ms,",
        ] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
        let text = "p99.9<1ms,max< 5ns,loss<1e-6";
        assert_eq!(slo(text).to_string(), text);
    }
}
