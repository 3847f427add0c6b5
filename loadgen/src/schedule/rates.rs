//! How much is offered when: the value of `--rate`, and its course over a run.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// More is no rate of messages.
const RATE_MAX: f64 = 1e9;
/// The part of the window that a spike takes, in its middle.
const SPIKE_SHARE: f64 = 0.2;

/// What `--rate` asks for. Numbers are messages per second.
#[derive(Clone, Debug, PartialEq)]
pub enum Rates {
    /// No rate: a closed loop, as fast as `--in-flight` allows.
    Max,
    /// The same all the time.
    Constant(f64),
    /// Straight from one to the other within the window.
    Ramp(f64, f64),
    /// One after the other, equal parts of the window each.
    Steps(Vec<f64>),
    /// The first, but for the second in the middle fifth of the window.
    Spike(f64, f64),
    /// At the times in a file.
    Trace(PathBuf),
}

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "max" => Ok(Self::Max),
            None => rate(text).map(Self::Constant),
            Some(("ramp", pair)) => two_rates(pair).map(|(from, to)| Self::Ramp(from, to)),
            Some(("spike", pair)) => two_rates(pair).map(|(base, peak)| Self::Spike(base, peak)),
            Some(("step", list)) => list.split(',').map(rate).collect::<Result<_, _>>().map(Self::Steps),
            Some(("trace", path)) if !path.is_empty() => Ok(Self::Trace(path.into())),
            _ => Err(format!(
                "{text:?} is none of max, a number, ramp:FROM..TO, step:A,B,..., spike:BASE..PEAK and trace:FILE"
            )),
        }
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Constant(rate) => write!(f, "{rate}"),
            Self::Ramp(from, to) => write!(f, "ramp:{from}..{to}"),
            Self::Steps(rates) => {
                let rates: Vec<String> = rates.iter().map(f64::to_string).collect();
                write!(f, "step:{}", rates.join(","))
            }
            Self::Spike(base, peak) => write!(f, "spike:{base}..{peak}"),
            Self::Trace(path) => write!(f, "trace:{}", path.display()),
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.trim().replace('_', "").parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err(format!("{text:?} is neither \"max\" nor a rate above 0 and up to 1e9")),
    }
}

fn two_rates(text: &str) -> Result<(f64, f64), String> {
    let (first, second) =
        text.split_once("..").ok_or_else(|| format!("{text:?} is not two rates, as 1000..50000"))?;
    Ok((rate(first)?, rate(second)?))
}

/// The rate over time, from the start of the warm-up on, in straight pieces: and so, how many messages are due by when.
#[derive(Clone, Debug)]
pub struct Profile(Vec<Piece>);

/// Units: nanoseconds, messages.
#[derive(Clone, Copy, Debug)]
struct Piece {
    begin_ns: f64,
    rate: f64,
    slope: f64,
    /// Messages due before it, and by its end.
    count_begin: f64,
    count_end: f64,
}

impl Piece {
    fn count_after(&self, ns: f64) -> f64 {
        self.count_begin + ns * (self.rate + 0.5 * self.slope * ns)
    }
}

impl Profile {
    /// The course of `rates` over a run; the warm-up has the rate that the window begins with. `None`: they have no rate.
    pub fn new(rates: &Rates, warm_up: Duration, duration: Duration) -> Option<Self> {
        let window = duration.as_nanos() as f64;
        // (share of the window, rate at its begin, rate at its end)
        let parts: Vec<(f64, f64, f64)> = match rates {
            Rates::Max | Rates::Trace(_) => return None,
            &Rates::Constant(rate) => vec![(1.0, rate, rate)],
            &Rates::Ramp(from, to) => vec![(1.0, from, to)],
            Rates::Steps(rates) => rates.iter().map(|&rate| (1.0 / rates.len() as f64, rate, rate)).collect(),
            &Rates::Spike(base, peak) => {
                let side = (1.0 - SPIKE_SHARE) / 2.0;
                vec![(side, base, base), (SPIKE_SHARE, peak, peak), (side, base, base)]
            }
        };
        let (first, last) = (parts.first()?.1, parts.last()?.2);
        let lead_in = (warm_up.as_nanos() as f64, first, first);
        let parts = parts.into_iter().map(|(share, from, to)| (share * window, from, to));
        let tail = (f64::INFINITY, last, last);
        let mut pieces: Vec<Piece> = Vec::new();
        let (mut begin_ns, mut count_begin) = (0.0, 0.0);
        for (ns, from, to) in std::iter::once(lead_in).chain(parts).chain([tail]).filter(|part| part.0 > 0.0)
        {
            let (rate, slope) = (from / 1e9, (to - from) / 1e9 / ns);
            if let Some(before) = pieces.last_mut()
                && before.slope == 0.0
                && slope == 0.0
                && before.rate == rate
            {
                // No border where nothing changes: times stay as exact as one division.
                before.count_end = before.count_after(begin_ns + ns - before.begin_ns);
            } else {
                let piece = Piece { begin_ns, rate, slope, count_begin, count_end: f64::INFINITY };
                pieces.push(Piece { count_end: piece.count_after(ns), ..piece });
            }
            begin_ns += ns;
            count_begin = pieces.last().map_or(0.0, |piece| piece.count_end);
        }
        Some(Self(pieces))
    }

    /// Nanoseconds after the start by which `count` messages are due. `piece` is where to begin to look: that of an earlier
    /// one.
    pub fn time_of(&self, count: f64, piece: &mut usize) -> f64 {
        while *piece + 1 < self.0.len() && count >= self.0[*piece].count_end {
            *piece += 1;
        }
        let Piece { begin_ns, rate, slope, count_begin, .. } = self.0[*piece];
        let count = (count - count_begin).max(0.0);
        // The root of rate t + slope t^2 / 2 = count, in the form that loses no digits.
        begin_ns
            + if slope == 0.0 {
                count / rate
            } else {
                2.0 * count / (rate + (rate * rate + 2.0 * slope * count).max(0.0).sqrt())
            }
    }

    /// Messages due within so many nanoseconds of the start.
    pub fn count_by(&self, ns: f64) -> f64 {
        let piece = self.0.iter().rev().find(|piece| piece.begin_ns <= ns).unwrap_or(&self.0[0]);
        piece.count_after((ns - piece.begin_ns).max(0.0))
    }
}
