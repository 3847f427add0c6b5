//! The highest rate at which a goal is met, after MLRsearch (draft-ietf-bmwg-mlrsearch, "Multiple Loss Ratio Search"), with
//! "the SLO is kept" in place of "the loss ratio is low". Pure: a trial is a function.
//!
//! Software is noisy: at one rate a trial fails now and then, and a bisection that believes every trial ends far too low, or,
//! where short trials are kinder than long ones, too high. So
//!
//! - a rate is judged by all of its trials ([`classify`]): it is a *lower bound* if even the time that is not measured yet cannot
//!   bring the share of bad trials above the exceed ratio, an *upper bound* if it cannot bring it down any more;
//! - coarse bounds are found with short trials, and verified and narrowed with longer and longer ones ([`Target`]);
//!   short trials count less than long ones: only their excess of bad ones counts.

mod classify;
#[cfg(test)]
mod tests;

pub use classify::{Bound, Sums};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// The share of trials that may be bad at a rate that meets the goal.
    pub exceed: f64,
    /// Bounds are close enough if they differ by this factor less 1.
    pub width: f64,
    /// Seconds of the shortest trials.
    pub seconds_initial: f64,
    /// Seconds of a full trial.
    pub seconds_full: f64,
    /// Full trials that decide on a rate if they do not agree.
    pub trials: u32,
    /// The lowest rate that is of interest.
    pub rate_min: f64,
    /// The highest.
    pub rate_max: f64,
    /// Trials in all: an end to everything.
    pub trials_max: usize,
}

/// Steps from the shortest trials to full ones, the last one included.
const TARGETS: u32 = 3;
/// A trial may end early by so much and still be as long as it was to be.
const SHORT_BY: f64 = 0.02;

/// What bounds have to be at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    seconds: f64,
    /// Seconds of trials that decide.
    sum: f64,
    /// As a logarithm.
    width: f64,
}

impl Goal {
    /// Whether a trial of so many seconds is one that verifies a bound.
    pub fn is_full(&self, seconds: f64) -> bool {
        seconds >= self.seconds_full * (1.0 - SHORT_BY)
    }

    fn targets(&self) -> impl Iterator<Item = Target> {
        let goal = *self;
        (1..=TARGETS).map(move |step| {
            let share = f64::from(step - 1) / f64::from(TARGETS - 1);
            let seconds = goal.seconds_initial * (goal.seconds_full / goal.seconds_initial).powf(share);
            let trials = (1.0 + f64::from(goal.trials - 1) * share).round();
            let width = goal.width.ln_1p() * f64::from(1 << (TARGETS - step));
            Target { seconds, sum: seconds * trials, width }
        })
    }
}

/// What a trial said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    /// Messages a second.
    pub rate: f64,
    /// As long as it was.
    pub seconds: f64,
    /// The goal was met.
    pub good: bool,
}

/// What a search came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The highest rate that meets the goal.
    pub lower: Option<f64>,
    /// The lowest rate above it that does not.
    pub upper: Option<f64>,
    /// The chance that both bounds are what they are called, given their full trials: that of the weaker one.
    pub confidence: f64,
    /// Why it ended.
    pub end: End,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The bounds are close enough.
    Found,
    /// The highest rate of interest meets the goal.
    AtMax,
    /// The lowest one does not.
    BelowMin,
    /// Trials, or the user's patience, ran out.
    Stopped,
}

/// Looks for the highest rate, beginning at `start`. `trial` offers a rate for so many seconds; `None`: it is to end.
pub fn search<E>(
    goal: &Goal,
    start: f64,
    mut trial: impl FnMut(f64, f64) -> Result<Option<Trial>, E>,
) -> Result<Found, E> {
    let mut search = Search { goal: *goal, trials: Vec::new() };
    let mut hint = (None, None);
    let mut end = End::Found;
    for target in goal.targets() {
        end = loop {
            let bounds = search.bounds(&target);
            let next = match search.next(&target, bounds, hint, start) {
                Next::Done(end) => break end,
                Next::Rate(rate) => rate,
            };
            if search.trials.len() >= goal.trials_max {
                break End::Stopped;
            }
            match trial(next, target.seconds)? {
                Some(trial) => search.trials.push(trial),
                None => break End::Stopped,
            }
        };
        let bounds = search.bounds(&target);
        if end == End::Stopped {
            break;
        }
        hint = bounds;
    }
    // What was found with shorter trials is not what was asked for.
    let last = goal.targets().last();
    let (lower, upper) = last.map_or((None, None), |target| search.bounds(&target));
    let confidence = search.confidence(lower, upper);
    Ok(Found { lower, upper, confidence, end, trials: search.trials })
}

enum Next {
    Rate(f64),
    Done(End),
}

struct Search {
    goal: Goal,
    trials: Vec<Trial>,
}

impl Search {
    /// Rates that were tried, in order.
    fn rates(&self) -> Vec<f64> {
        let mut rates: Vec<f64> = self.trials.iter().map(|trial| trial.rate).collect();
        rates.sort_unstable_by(f64::total_cmp);
        rates.dedup();
        rates
    }

    fn sums(&self, rate: f64, target: &Target) -> Sums {
        let full = target.seconds * (1.0 - SHORT_BY);
        Sums::of(self.trials.iter().filter(|trial| trial.rate == rate), full)
    }

    fn bound(&self, rate: f64, target: &Target) -> Bound {
        self.sums(rate, target).classify(self.goal.exceed, target.sum * (1.0 - SHORT_BY))
    }

    /// The lowest upper bound, and the highest lower bound below it.
    fn bounds(&self, target: &Target) -> (Option<f64>, Option<f64>) {
        let mut lower = None;
        for rate in self.rates() {
            match self.bound(rate, target) {
                Bound::Upper => return (lower, Some(rate)),
                Bound::Lower => lower = Some(rate),
                Bound::Undecided => {}
            }
        }
        (lower, None)
    }

    /// Where to try next.
    fn next(
        &self,
        target: &Target,
        (lower, upper): (Option<f64>, Option<f64>),
        hint: (Option<f64>, Option<f64>),
        start: f64,
    ) -> Next {
        // What was begun is brought to its end, unless it does not matter any more.
        if let Some(last) = self.trials.last()
            && self.bound(last.rate, target) == Bound::Undecided
            && self.sums(last.rate, target).full() > 0.0
            && lower.is_none_or(|lower| last.rate > lower)
            && upper.is_none_or(|upper| last.rate < upper)
        {
            return Next::Rate(last.rate);
        }
        let goal = &self.goal;
        let clamp = |rate: f64| Next::Rate(rate.clamp(goal.rate_min, goal.rate_max));
        match (lower, upper) {
            (Some(lower), Some(upper)) if (upper / lower).ln() <= target.width * 1.000_001 => {
                Next::Done(End::Found)
            }
            (Some(lower), Some(upper)) => {
                // Halves of the widths that are still to come: whole ones, so that the last is not narrower than needed.
                let halvings = ((upper / lower).ln() / target.width).log2().ceil().max(1.0);
                let step = target.width * (halvings - 1.0).exp2();
                let by_width = lower * step.exp();
                let rate = if by_width < upper * 0.999_999 { by_width } else { (lower * upper).sqrt() };
                Next::Rate(rate)
            }
            (Some(lower), None) if lower >= goal.rate_max => Next::Done(End::AtMax),
            (None, Some(upper)) if upper <= goal.rate_min => Next::Done(End::BelowMin),
            (None, None) => clamp(hint.0.or(hint.1).unwrap_or(start)),
            (Some(lower), None) => {
                let known = hint.1.filter(|&rate| rate > lower);
                clamp(known.unwrap_or_else(|| lower * self.stride(target, lower).exp()))
            }
            (None, Some(upper)) => {
                let known = hint.0.filter(|&rate| rate < upper);
                clamp(known.unwrap_or_else(|| upper / self.stride(target, upper).exp()))
            }
        }
    }

    /// How far to go beyond `rate`, which bounds one side alone: twice as far each time.
    fn stride(&self, target: &Target, rate: f64) -> f64 {
        let bounded = self.rates().iter().filter(|&&tried| self.sums(tried, target).full() > 0.0).count();
        let begun = if self.trials.iter().all(|trial| trial.rate == rate) { 1 } else { bounded };
        target.width * f64::from(1_u32 << begun.min(12))
    }

    fn confidence(&self, lower: Option<f64>, upper: Option<f64>) -> f64 {
        let chance = |rate: f64| {
            let is_full = |trial: &&Trial| trial.rate == rate && self.goal.is_full(trial.seconds);
            let of_rate = || self.trials.iter().filter(is_full);
            let bad = of_rate().filter(|trial| !trial.good).count() as u64;
            crate::stats::chance_at_most(self.goal.exceed, bad, of_rate().count() as u64 - bad)
        };
        let lower = lower.map(chance);
        let upper = upper.map(|rate| 1.0 - chance(rate));
        lower.into_iter().chain(upper).fold(f64::NAN, f64::min)
    }
}
