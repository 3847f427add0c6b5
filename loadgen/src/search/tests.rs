use super::*;
use std::convert::Infallible;

const GOAL: Goal = Goal {
    exceed: 0.5,
    width: 0.02,
    seconds_initial: 0.5,
    seconds_full: 5.0,
    trials: 7,
    rate_min: 1.0,
    rate_max: 1e9,
    trials_max: 500,
};

/// A system whose trials are bad by this chance at a rate, for so many seconds.
fn found(goal: &Goal, start: f64, seed: u64, bad: impl Fn(f64, f64) -> f64) -> Found {
    let mut random = fastrand::Rng::with_seed(seed);
    let trial = |rate: f64, seconds: f64| -> Result<Option<Trial>, Infallible> {
        assert!((goal.rate_min..=goal.rate_max).contains(&rate), "{rate}");
        Ok(Some(Trial { rate, seconds, good: random.f64() >= bad(rate, seconds) }))
    };
    match search(goal, start, trial) {
        Ok(found) => found,
    }
}

/// A bisection that believes every trial, for comparison.
fn bisection(seed: u64, bad: impl Fn(f64) -> f64) -> f64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut lower, mut upper) = (1.0_f64, 1e7_f64);
    while upper / lower > 1.0 + GOAL.width {
        let rate = (lower * upper).sqrt();
        *(if random.f64() >= bad(rate) { &mut lower } else { &mut upper }) = rate;
    }
    lower
}

#[test]
fn a_sharp_limit_is_bracketed_within_the_width() {
    for start in [1.0, 777.0, 123_456.0, 9e8] {
        let found = found(&GOAL, start, 1, |rate, _| f64::from(rate > 123_456.0));
        let (lower, upper) = (found.lower.expect("met"), found.upper.expect("not met"));
        assert!(lower <= 123_456.0 && upper > 123_456.0, "{lower} {upper}");
        assert!(upper / lower <= 1.0 + GOAL.width + 1e-6, "{lower} {upper}");
        assert_eq!(found.end, End::Found);
        assert!(found.confidence >= 0.93, "{}", found.confidence);
        let full =
            |rate| found.trials.iter().filter(|trial| trial.rate == rate && trial.seconds >= 4.9).count();
        // Short ones that were bad count against a rate, too.
        assert!(full(lower) >= 4 && full(upper) >= 3, "most of seven agree on each");
        let seconds: f64 = found.trials.iter().map(|trial| trial.seconds).sum();
        assert!(seconds < 150.0, "{seconds} s of trials from {start}: {:?}", found.trials);
    }
}

/// Below the limit each trial is bad in 1 of 8 cases, for reasons of its own. A bisection believes it; this does not.
#[test]
fn noise_does_not_pull_it_down() {
    let noisy = |rate: f64| if rate > 100_000.0 { 1.0 } else { 0.125 };
    let near = |rate: f64| (97_000.0..=100_000.0).contains(&rate);
    let held = (0..100)
        .filter(|&seed| found(&GOAL, 50_000.0, seed, |rate, _| noisy(rate)).lower.is_some_and(near))
        .count();
    let fooled = (0..100).filter(|&seed| !near(bisection(seed, noisy))).count();
    assert!(held >= 93, "{held} of 100");
    assert!(fooled >= 50, "a bisection was fooled in {fooled} of 100");
}

/// A gradual limit: the rate at which half of the trials are bad is what is asked for.
#[test]
fn a_soft_limit_is_where_the_exceed_ratio_is() {
    let chance = |rate: f64| 1.0 / (1.0 + (-(rate / 1e5 - 1.0) / 0.02).exp());
    let results: Vec<f64> =
        (0..100).filter_map(|seed| found(&GOAL, 30_000.0, seed, |rate, _| chance(rate)).lower).collect();
    let near = results.iter().filter(|&&rate| (94_000.0..=104_000.0).contains(&rate)).count();
    assert!(near >= 95, "{near} of {}: {results:?}", results.len());
}

/// Buffers fill in 2 s: short trials see nothing of it.
#[test]
fn short_trials_are_not_believed() {
    let bad = |rate: f64, seconds: f64| f64::from(rate > if seconds < 2.0 { 50_000.0 } else { 20_000.0 });
    let found = found(&GOAL, 10_000.0, 3, bad);
    assert!(found.lower.is_some_and(|rate| (19_600.0..=20_000.0).contains(&rate)), "{:?}", found.lower);
}

#[test]
fn the_ends_of_what_is_of_interest() {
    let goal = Goal { rate_min: 100.0, rate_max: 5_000.0, ..GOAL };
    let always = found(&goal, 1_000.0, 1, |_, _| 0.0);
    assert_eq!((always.lower, always.upper, always.end), (Some(5_000.0), None, End::AtMax));
    let never = found(&goal, 1_000.0, 1, |_, _| 1.0);
    assert_eq!((never.lower, never.upper, never.end), (None, Some(100.0), End::BelowMin));
    let confidence = always.confidence.min(never.confidence);
    assert!(confidence > 0.9, "{confidence}");
}

#[test]
fn it_ends_whatever_happens() {
    let goal = Goal { trials_max: 40, ..GOAL };
    for seed in 0..50 {
        // Nothing but noise.
        let found = found(&goal, 1_000.0, seed, |_, _| 0.5);
        assert!(found.trials.len() <= 40);
        if let (Some(lower), Some(upper)) = (found.lower, found.upper) {
            assert!(lower < upper);
        }
    }
    let mut left = 5;
    let stopped = search(&GOAL, 1_000.0, |rate, seconds| -> Result<_, Infallible> {
        left -= 1;
        Ok((left >= 0).then_some(Trial { rate, seconds, good: rate < 1e6 }))
    });
    let Ok(stopped) = stopped;
    assert_eq!((stopped.end, stopped.trials.len()), (End::Stopped, 5));
    let Err(failed) = search(&GOAL, 1_000.0, |_, _| Err::<Option<Trial>, _>("broken")) else {
        panic!("it fails")
    };
    assert_eq!(failed, "broken");
}
