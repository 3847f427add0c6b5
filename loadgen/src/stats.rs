//! Are two samples of runs different? Every call takes a seed, and the same numbers give the same answer.
//!
//! A difference is shown if two things agree: the bootstrap interval of the difference of medians leaves out zero (Efron and
//! Tibshirani, *An Introduction to the Bootstrap*, 1993, 13), and a permutation test (of the signs in pairs: Fisher, 1935; of
//! the ranks of two samples: Mann and Whitney, 1947) finds what is there rare among its permutations. The bootstrap of few
//! runs is too sure of itself; the permutation test is exact for any number of them, whatever their distribution.

/// Resamples of the bootstrap, and of a permutation test with too many permutations to try all.
const RESAMPLES: usize = 4_000;
/// Pairs up to which all signs are tried.
const EXACT_PAIRS_MAX: usize = 12;

/// How two samples, a and b, differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Median of a.
    pub median_a: f64,
    /// Median of b.
    pub median_b: f64,
    /// The median of b by that of a, less 1; in pairs, the median of what b is by its a.
    pub change: f64,
    /// Its confidence interval.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// The share of permutations that differ as much.
    pub p: f64,
    /// Whether a difference is shown.
    pub shown: bool,
}

/// The middle, or the mean of the two in the middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// Of runs that took turns: `a[i]` and `b[i]` saw the same machine. `alpha`: how often equal ones may be called different.
pub fn paired(a: &[f64], b: &[f64], alpha: f64, seed: u64) -> Difference {
    let mut random = fastrand::Rng::with_seed(seed);
    let (a, b) = (logs(a), logs(b));
    let pairs = a.len().min(b.len());
    let (a, b) = (&a[..pairs], &b[..pairs]);
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    // Within a pair the machine's drift is none.
    let resampled = |random: &mut fastrand::Rng| {
        median(&(0..pairs).map(|_| differences[random.usize(0..pairs)]).collect::<Vec<_>>())
    };
    let interval = interval(pairs, alpha, &mut random, resampled);
    let p = signs(&differences, &mut random);
    difference(a, b, median(&differences), interval, p, alpha)
}

/// Of runs that have nothing to do with each other.
pub fn unpaired(a: &[f64], b: &[f64], alpha: f64, seed: u64) -> Difference {
    let mut random = fastrand::Rng::with_seed(seed);
    let (a, b) = (logs(a), logs(b));
    let of = |values: &[f64], random: &mut fastrand::Rng| {
        median(&(0..values.len()).map(|_| values[random.usize(0..values.len())]).collect::<Vec<_>>())
    };
    let resampled = |random: &mut fastrand::Rng| of(&b, random) - of(&a, random);
    let interval = interval(a.len().min(b.len()), alpha, &mut random, resampled);
    let p = rank_sum(&a, &b, &mut random);
    difference(&a, &b, median(&b) - median(&a), interval, p, alpha)
}

/// What is measured varies by factors, not by amounts.
fn logs(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value.max(1e-9).ln()).collect()
}

fn difference(a: &[f64], b: &[f64], change: f64, (low, high): (f64, f64), p: f64, alpha: f64) -> Difference {
    let (median_a, median_b) = (median(a), median(b));
    let [change, low, high] = [change, low, high].map(f64::exp_m1);
    let shown = p <= alpha && (low > 0.0 || high < 0.0);
    Difference { median_a: median_a.exp(), median_b: median_b.exp(), change, low, high, p, shown }
}

fn interval(
    count: usize,
    alpha: f64,
    random: &mut fastrand::Rng,
    mut resampled: impl FnMut(&mut fastrand::Rng) -> f64,
) -> (f64, f64) {
    if count == 0 {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let mut values: Vec<f64> = (0..RESAMPLES).map(|_| resampled(random)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let cut = ((alpha / 2.0 * RESAMPLES as f64) as usize).min(RESAMPLES / 2 - 1);
    (values[cut], values[RESAMPLES - 1 - cut])
}

/// Ranks from 1 on; equal values share theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = order[first..].iter().take_while(|&&at| values[at] == values[order[first]]).count();
        let rank = first as f64 + (same + 1) as f64 / 2.0;
        for &at in &order[first..first + same] {
            ranks[at] = rank;
        }
        first += same;
    }
    ranks
}

/// The share of all ways to give the differences their signs in which their sum is as far from 0. A run that something
/// disturbed counts as much as the median difference, whatever it came to: the sizes stay the same in all of them, so that
/// the test is as exact as without.
fn signs(differences: &[f64], random: &mut fastrand::Rng) -> f64 {
    let sizes: Vec<f64> = differences.iter().map(|difference| difference.abs()).collect();
    let most = median(&sizes);
    let capped: Vec<f64> = differences.iter().map(|difference| difference.clamp(-most, most)).collect();
    let seen = capped.iter().sum::<f64>().abs() - 1e-12;
    if capped.len() <= EXACT_PAIRS_MAX {
        let all = 1_u64 << capped.len();
        let signed = |signs: u64| {
            let terms =
                capped.iter().enumerate().map(|(at, size)| if signs >> at & 1 == 1 { *size } else { -size });
            terms.sum::<f64>().abs()
        };
        return (0..all).filter(|&signs| signed(signs) >= seen).count() as f64 / all as f64;
    }
    let signed = |random: &mut fastrand::Rng| {
        capped.iter().map(|size| if random.bool() { *size } else { -size }).sum::<f64>().abs()
    };
    let as_far = (0..RESAMPLES).filter(|_| signed(random) >= seen).count();
    // The one that was seen is a permutation, too.
    (as_far + 1) as f64 / (RESAMPLES + 1) as f64
}

/// The share of random ways to divide all values into two samples in which the sum of ranks is as far from its mean.
fn rank_sum(a: &[f64], b: &[f64], random: &mut fastrand::Rng) -> f64 {
    let mut ranks = ranks(&[a, b].concat());
    let mean = (ranks.len() + 1) as f64 / 2.0 * a.len() as f64;
    let off = |ranks: &[f64]| (ranks[..a.len()].iter().sum::<f64>() - mean).abs();
    let seen = off(&ranks);
    let as_far = (0..RESAMPLES)
        .filter(|_| {
            random.shuffle(&mut ranks);
            off(&ranks) >= seen - 1e-9
        })
        .count();
    (as_far + 1) as f64 / (RESAMPLES + 1) as f64
}

/// The chance that something happens in at most `most` of trials, given that it happened in `bad` of `bad + good` of them and
/// nothing was known before: the beta distribution function at `most` with parameters bad + 1 and good + 1, which is a
/// binomial tail.
pub fn chance_at_most(most: f64, bad: u64, good: u64) -> f64 {
    let trials = bad + good + 1;
    // P(X > bad) for X of binomial distribution, term by term.
    let mut term = (1.0 - most).powi(i32::try_from(trials).unwrap_or(i32::MAX));
    let mut below = 0.0;
    for k in 0..=bad {
        below += term;
        term *= (trials - k) as f64 / (k + 1) as f64 * most / (1.0 - most);
    }
    (1.0 - below).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run's figure: noise of `sigma`, now and then a run that something disturbed, and a drift of the machine that
    /// both arms of a pair see.
    struct Machine {
        random: fastrand::Rng,
        drift: f64,
        sigma: f64,
    }

    impl Machine {
        fn new(seed: u64, sigma: f64) -> Self {
            Self { random: fastrand::Rng::with_seed(seed), drift: 0.0, sigma }
        }

        fn normal(&mut self) -> f64 {
            let (u, v) = (1.0 - self.random.f64(), self.random.f64());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        }

        fn run(&mut self, true_value: f64) -> f64 {
            let disturbed = if self.random.f64() < 0.05 { 0.5 * self.random.f64() } else { 0.0 };
            true_value * (self.drift + self.sigma * self.normal() + disturbed).exp()
        }

        fn pairs(&mut self, count: usize, a: f64, b: f64) -> (Vec<f64>, Vec<f64>) {
            (0..count)
                .map(|_| {
                    self.drift += 0.02 * self.normal();
                    (self.run(a), self.run(b))
                })
                .unzip()
        }

        fn samples(&mut self, count: usize, a: f64, b: f64) -> (Vec<f64>, Vec<f64>) {
            let mut sample = |value| (0..count).map(|_| self.run(value)).collect();
            (sample(a), sample(b))
        }
    }

    /// How many of 200 comparisons say that there is a difference.
    fn shown(count: usize, sigma: f64, b: f64, alpha: f64, is_paired: bool) -> usize {
        (0..200)
            .filter(|&seed| {
                let mut machine = Machine::new(seed * 77 + count as u64, sigma);
                if is_paired {
                    let (a, b) = machine.pairs(count, 100.0, 100.0 * b);
                    paired(&a, &b, alpha, seed).shown
                } else {
                    let (a, b) = machine.samples(count, 100.0, 100.0 * b);
                    unpaired(&a, &b, alpha, seed).shown
                }
            })
            .count()
    }

    /// As the level says, whatever the noise: 6 of 200 at 3 %, and 5 % are 10.
    #[test]
    fn equal_arms_are_called_different_in_at_most_one_of_twenty_comparisons() {
        for is_paired in [true, false] {
            for (count, sigma) in [(5, 0.04), (8, 0.04), (10, 0.04), (10, 0.2), (20, 0.04)] {
                let wrong = shown(count, sigma, 1.0, 0.03, is_paired);
                assert!(wrong <= 10, "{wrong} of 200 with {count} runs of {sigma}, paired {is_paired}");
            }
        }
    }

    /// 4 % from run to run, one in twenty disturbed, drifting: what this machine does on a quiet day.
    #[test]
    fn a_shift_of_ten_per_cent_is_found() {
        for is_paired in [true, false] {
            // Also with the level of three figures that are looked at together.
            for alpha in [0.03, 0.01] {
                let found = shown(15, 0.04, 1.1, alpha, is_paired);
                assert!(found >= 180, "{found} of 200, alpha {alpha}, paired {is_paired}");
            }
        }
        assert_eq!(shown(4, 0.0001, 1.1, 0.05, true), 0, "four pairs cannot show anything at this level");
    }

    #[test]
    fn the_interval_holds_the_true_change() {
        let held = (0..200)
            .filter(|&seed| {
                let (a, b) = Machine::new(seed, 0.04).pairs(20, 100.0, 110.0);
                let found = paired(&a, &b, 0.05, seed);
                found.low <= 0.1 && 0.1 <= found.high
            })
            .count();
        assert!(held >= 180, "{held} of 200");
        let (a, b) = ([100.0, 101.0, 99.0], [200.0, 202.0, 198.0]);
        let found = unpaired(&a, &b, 0.05, 1);
        assert!((found.change - 1.0).abs() < 1e-9 && (found.median_b - 200.0).abs() < 1e-9, "{found:?}");
        assert!(!found.shown, "of three runs each nothing is known, whatever they are");
        assert!(!paired(&[], &[], 0.05, 1).shown);
        assert!(!paired(&[1.0; 10], &[1.0; 10], 0.05, 1).shown, "no difference at all");
    }

    #[test]
    fn medians_and_ranks() {
        assert_eq!([median(&[]), median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0])], [0.0, 2.0, 2.5]);
        assert_eq!(ranks(&[10.0, 30.0, 10.0, 20.0]), [1.5, 4.0, 1.5, 3.0]);
    }

    /// The table of the beta distribution.
    #[test]
    fn chances() {
        for (most, bad, good, chance) in [
            (0.5, 0, 0, 0.5),
            (0.5, 0, 3, 0.937_5),
            (0.5, 3, 0, 0.062_5),
            (0.5, 2, 2, 0.5),
            (0.1, 0, 9, 0.651_321_559_9),
        ] {
            assert!((chance_at_most(most, bad, good) - chance).abs() < 1e-9, "{most} {bad} {good}");
        }
    }
}
