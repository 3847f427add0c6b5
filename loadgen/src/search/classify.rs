//! What the trials of one rate say about it (draft-ietf-bmwg-mlrsearch, "Load Classification").

use super::Trial;

/// What a rate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The goal is met.
    Lower,
    /// It is not.
    Upper,
    /// More trials have to tell.
    Undecided,
}

/// Seconds of trials at one rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    full_good: f64,
    full_bad: f64,
    short_good: f64,
    short_bad: f64,
}

impl Sums {
    /// Trials of `full` seconds and more are full ones.
    pub fn of<'a>(trials: impl Iterator<Item = &'a Trial>, full: f64) -> Self {
        let mut sums = Self::default();
        for trial in trials {
            *match (trial.seconds >= full, trial.good) {
                (true, true) => &mut sums.full_good,
                (true, false) => &mut sums.full_bad,
                (false, true) => &mut sums.short_good,
                (false, false) => &mut sums.short_bad,
            } += trial.seconds;
        }
        sums
    }

    /// Seconds of full trials.
    pub fn full(&self) -> f64 {
        self.full_good + self.full_bad
    }

    /// What the rate is, if at most the share `exceed` of the time may be bad, and `sum` seconds decide.
    pub fn classify(&self, exceed: f64, sum: f64) -> Bound {
        // Short trials that were good prove little; but short bad ones beyond what they excuse count as if full.
        let excused = self.short_good * exceed / (1.0 - exceed);
        let bad = self.full_bad + (self.short_bad - excused).max(0.0);
        let whole = (bad + self.full_good).max(sum);
        let most = whole * exceed;
        // Whatever is still to come is bad, or good.
        let if_bad = whole - self.full_good <= most;
        let if_good = bad <= most;
        match (if_bad, if_good) {
            (true, _) => Bound::Lower,
            (false, false) => Bound::Upper,
            (false, true) => Bound::Undecided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(trials: &[(f64, bool)]) -> Bound {
        let trials: Vec<Trial> =
            trials.iter().map(|&(seconds, good)| Trial { rate: 1.0, seconds, good }).collect();
        Sums::of(trials.iter(), 1.0).classify(0.5, 5.0)
    }

    #[test]
    fn full_trials_decide_when_the_rest_cannot_change_it() {
        assert_eq!(classify(&[]), Bound::Undecided);
        assert_eq!(classify(&[(1.0, true); 2]), Bound::Undecided);
        assert_eq!(classify(&[(1.0, true); 3]), Bound::Lower);
        assert_eq!(classify(&[(1.0, false); 2]), Bound::Undecided);
        assert_eq!(classify(&[(1.0, false); 3]), Bound::Upper);
        let mixed = [(1.0, false), (1.0, true), (1.0, false), (1.0, true)];
        assert_eq!(classify(&mixed), Bound::Undecided);
        assert_eq!(classify(&[&mixed[..], &[(1.0, true)]].concat()), Bound::Lower);
        assert_eq!(classify(&[&mixed[..], &[(1.0, false)]].concat()), Bound::Upper);
        // A long one is worth as much as it is long.
        assert_eq!(classify(&[(3.0, true)]), Bound::Lower);
    }

    #[test]
    fn short_trials_condemn_and_do_not_prove() {
        assert_eq!(classify(&[(0.1, true); 100]), Bound::Undecided);
        assert_eq!(classify(&[(0.1, false); 26]), Bound::Upper);
        // As many good ones excuse them.
        let both = [[(0.1, false); 26], [(0.1, true); 26]].concat();
        assert_eq!(classify(&both), Bound::Undecided);
    }
}
