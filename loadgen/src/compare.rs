//! `udp-plus compare` and what it shares with `ab`: two arms of runs, the figures that count, and whether they differ.

use crate::cli::CompareArgs;
use crate::report::JsonTarget;
use crate::show::{count, time};
use crate::stats::{self, Difference};
use crate::words::Words;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// Equal arms are called different in so many of all comparisons, at most, all figures together: below the 5 % that is usual,
/// so that it stays there.
const ALPHA: f64 = 0.03;
/// The same numbers get the same answer.
const SEED: u64 = 20_261_126;

/// A figure that is compared.
struct Figure {
    name: &'static str,
    path: &'static str,
    /// In the report, among the percentiles that are lower bounds.
    percentile: Option<&'static str>,
    more_is_better: bool,
    show: fn(f64) -> String,
}

const FIGURES: [Figure; 3] = [
    Figure {
        name: "latency p50",
        path: "/latency_ns/p50",
        percentile: Some("p50"),
        more_is_better: false,
        show: time,
    },
    Figure {
        name: "latency p99",
        path: "/latency_ns/p99",
        percentile: Some("p99"),
        more_is_better: false,
        show: time,
    },
    Figure { name: "messages/s", path: "/msgs_per_s", percentile: None, more_is_better: true, show: count },
];

/// Two arms side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// 1.
    pub schema: u64,
    /// Runs of a.
    pub runs_a: u64,
    /// Runs of b.
    pub runs_b: u64,
    /// Whether they took turns.
    pub interleaved: bool,
    /// The confidence of all intervals together.
    pub confidence: f64,
    /// By figure.
    pub figures: Vec<Compared>,
    /// What speaks against taking it at its word.
    pub notes: Vec<String>,
    /// A figure of b is worse, by more than the threshold, or runs of b failed and none of a did.
    pub regression: bool,
    /// Every run of both is valid, and there are figures.
    pub valid: bool,
}

impl Comparison {
    /// Why it is no success, whatever it is worth.
    pub fn failure(&self) -> Option<&'static str> {
        match (self.regression, self.figures.is_empty()) {
            (true, _) => Some("a regression"),
            (false, true) => Some("there is nothing that could be compared"),
            (false, false) => None,
        }
    }

    /// The exit status of it.
    pub fn status(&self) -> ExitCode {
        if self.failure().is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Which.
    pub name: &'static str,
    /// Median of a, in the report's unit.
    pub a: f64,
    /// Median of b.
    pub b: f64,
    /// What b is more than a, as a share of a.
    pub change: f64,
    /// Its confidence interval.
    pub low: f64,
    /// See there.
    pub high: f64,
    /// Of the permutation test.
    pub p: f64,
    /// `no difference shown`, `better` or `worse`.
    pub verdict: &'static str,
}

impl Compared {
    /// Whether b is worse, and by more than that share of a.
    pub fn is_regression(&self, threshold: f64) -> bool {
        self.verdict == "worse" && self.change.abs() > threshold
    }
}

/// The runs in a report.
pub fn runs(report: &Value) -> Vec<&Value> {
    match report["runs"].as_array() {
        Some(runs) => runs.iter().collect(),
        None => vec![report],
    }
}

/// Of one figure.
fn alpha() -> f64 {
    ALPHA / FIGURES.len() as f64
}

/// Whether so many runs of each arm can show any difference at all.
pub fn can_show(runs: usize, interleaved: bool) -> bool {
    // Of n pairs there are 2^n signs; of two samples of n, far more than 4^n / 2n ways to divide them.
    let ways =
        if interleaved { 2_f64.powi(runs as i32) } else { 4_f64.powi(runs as i32) / (2.0 * runs as f64) };
    2.0 / ways <= alpha()
}

/// Holds b against a; worse by more than `threshold` is a regression.
pub fn compare(a: &[&Value], b: &[&Value], interleaved: bool, threshold: f64) -> Comparison {
    let alpha = alpha();
    let (mut figures, mut notes, mut regression) = (Vec::new(), Vec::new(), false);
    for figure in &FIGURES {
        let of = |runs: &[&Value]| -> Option<Vec<f64>> {
            runs.iter().map(|run| run.pointer(figure.path)?.as_f64()).collect()
        };
        let (Some(of_a), Some(of_b)) = (of(a), of(b)) else {
            notes.push(format!("{}: some runs have none", figure.name));
            continue;
        };
        let Difference { median_a, median_b, change, low, high, p, shown } = if interleaved {
            stats::paired(&of_a, &of_b, alpha, SEED)
        } else {
            stats::unpaired(&of_a, &of_b, alpha, SEED)
        };
        let is_better = (change > 0.0) == figure.more_is_better;
        let verdict = match (shown, is_better) {
            (false, _) => "no difference shown",
            (true, true) => "better",
            (true, false) => "worse",
        };
        if a.iter().chain(b).any(|run| figure.percentile.is_some_and(|name| is_bound(run, name))) {
            notes.push(format!("{}: a lower bound in some runs, because of loss", figure.name));
        }
        let compared =
            Compared { name: figure.name, a: median_a, b: median_b, change, low, high, p, verdict };
        regression |= compared.is_regression(threshold);
        figures.push(compared);
    }
    let failed = |runs: &[&Value]| runs.iter().filter(|run| run["ok"] == false).count();
    for (arm, runs) in [("a", a), ("b", b)] {
        if failed(runs) > 0 {
            notes.push(format!("{} of {} runs of {arm} failed", failed(runs), runs.len()));
        }
    }
    regression |= failed(b) > 0 && failed(a) == 0;
    notes.extend(doubts(a, b, interleaved));
    Comparison {
        schema: 1,
        runs_a: a.len() as u64,
        runs_b: b.len() as u64,
        interleaved,
        confidence: 1.0 - ALPHA,
        valid: !figures.is_empty() && invalid(a) + invalid(b) == 0,
        figures,
        notes,
        regression,
    }
}

fn invalid(runs: &[&Value]) -> usize {
    runs.iter().filter(|run| run["valid"] != true).count()
}

/// What should be the same in all runs: a difference there may be the one that the figures show.
const SETTINGS: [&str; 17] = [
    "protocol",
    "wire",
    "mode",
    "api",
    "shards",
    "peers",
    "peer_skew",
    "load_model",
    "rate",
    "rate_course",
    "arrivals",
    "size",
    "sizes",
    "in_flight",
    "deadline_ms",
    "warm_up_s",
    "duration_s",
];

fn is_bound(run: &Value, percentile: &str) -> bool {
    run["censored"]["percentiles"].as_array().is_some_and(|names| names.iter().any(|name| name == percentile))
}

/// Why the comparison may mean less than it says.
fn doubts(a: &[&Value], b: &[&Value], interleaved: bool) -> Vec<String> {
    let mut doubts = Vec::new();
    for (arm, runs) in [("a", a), ("b", b)] {
        if invalid(runs) > 0 {
            doubts.push(format!("{} of {} runs of {arm} are not valid", invalid(runs), runs.len()));
        }
    }
    if !interleaved {
        doubts.push("the runs did not take turns: what changed may be the machine (use ab)".to_owned());
    }
    let fewest = a.len().min(b.len());
    if !can_show(fewest, interleaved) {
        doubts.push(format!("{fewest} runs are too few to show any difference at this confidence"));
    }
    for field in SETTINGS {
        if let [first, .., last] = distinct(a.iter().chain(b).map(|run| &run[field]))[..] {
            doubts.push(format!("{field} differs: {first} and {last}"));
        }
    }
    for (field, what) in [("cpu", "processors"), ("kernel", "kernels")] {
        if distinct(a.iter().chain(b).map(|run| &run["environment"][field])).len() > 1 {
            doubts.push(format!("the {what} differ"));
        }
    }
    doubts
}

fn distinct<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<&'a Value> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}

/// For people.
pub fn show(comparison: &Comparison) -> String {
    let mut text = format!(
        "b against a, {} and {} runs{}, {:.0} % confidence for all figures together\n",
        comparison.runs_b,
        comparison.runs_a,
        if comparison.interleaved { " in turns" } else { "" },
        comparison.confidence * 100.0
    );
    for compared in &comparison.figures {
        let show = FIGURES
            .iter()
            .find(|figure| figure.name == compared.name)
            .map_or(time as fn(f64) -> String, |figure| figure.show);
        let _ = writeln!(
            text,
            "  {:<12} {:>12} -> {:<12} {:+6.1} % ({:+.1} to {:+.1} %)  {}",
            compared.name,
            show(compared.a),
            show(compared.b),
            compared.change * 100.0,
            compared.low * 100.0,
            compared.high * 100.0,
            compared.verdict
        );
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    if !comparison.valid {
        let _ = writeln!(text, "  NOT VALID: see the notes");
    }
    if let Some(why) = comparison.failure() {
        let _ = writeln!(text, "  FAILED: {why}");
    }
    text
}

/// Says it, writes it, and what the exit status is.
pub fn conclude(comparison: &Comparison, json: JsonTarget, words: Words) -> Result<ExitCode> {
    words.say(&show(comparison));
    json.write(&serde_json::to_value(comparison)?)?;
    Ok(comparison.status())
}

/// Runs the command.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let [a, b] = [read(&args.a)?, read(&args.b)?];
    let json = JsonTarget::open(args.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    conclude(&compare(&runs(&a), &runs(&b), false, args.threshold.0), json, words)
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    if value["schema"] != 1 || value["latency_ns"].is_null() {
        bail!("{} is no report of this tool: make one with --json FILE", path.display());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Runs of one arm; `scale` is what they are slower by.
    fn arm(seed: u64, count: usize, scale: f64) -> Vec<Value> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut noisy = |value: f64| value * (0.95 + 0.1 * random.f64());
        (0..count)
            .map(|_| {
                let (p50, p99) = (noisy(100_000.0 * scale) as u64, noisy(900_000.0 * scale) as u64);
                let rate = noisy(1e6 / scale);
                json!({"schema": 1, "valid": true, "latency_ns": {"p50": p50, "p99": p99}, "msgs_per_s": rate})
            })
            .collect()
    }

    fn compared(a: &[Value], b: &[Value], interleaved: bool) -> Comparison {
        compare(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>(), interleaved, 0.0)
    }

    /// The whole of it, three figures and all: 5 % of 200 are 10.
    #[test]
    fn equal_arms_are_no_regression_and_a_tenth_is_one() {
        for interleaved in [true, false] {
            let differ = |scale: f64| {
                let shown = |seed: &u64| {
                    let (a, b) = (arm(*seed, 10, 1.0), arm(seed + 1_000, 10, scale));
                    compared(&a, &b, interleaved).figures.iter().any(|of| of.verdict != "no difference shown")
                };
                (0..200_u64).filter(shown).count()
            };
            let (wrong, found) = (differ(1.0), differ(1.1));
            assert!(wrong <= 10, "{wrong} of 200, interleaved {interleaved}");
            assert!(found >= 195, "{found} of 200, interleaved {interleaved}");
        }
        let slower = compared(&arm(1, 10, 1.0), &arm(2, 10, 1.1), true);
        assert!(slower.regression && slower.figures.iter().all(|of| of.verdict == "worse"), "{slower:?}");
        let faster = compared(&arm(1, 10, 1.1), &arm(2, 10, 1.0), true);
        assert!(!faster.regression && faster.figures.iter().all(|of| of.verdict == "better"), "{faster:?}");
        // Below the threshold it is shown all the same.
        let [a, b] = [arm(1, 10, 1.0), arm(2, 10, 1.1)];
        let tolerated = compare(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>(), true, 0.5);
        assert!(!tolerated.regression && tolerated.figures[0].verdict == "worse");
        assert!(show(&slower).contains("FAILED: a regression") && show(&slower).contains("worse"));
    }

    #[test]
    fn what_the_comparison_is_worth_is_said() {
        let mut few = arm(1, 3, 1.0);
        few[0]["valid"] = false.into();
        few[1]["censored"] = json!({"percentiles": ["p99"]});
        few[2]["load_model"] = "open".into();
        few[0]["rate"] = 5.0.into();
        let found = compared(&few, &arm(9, 3, 2.0), false);
        assert!(found.figures.iter().all(|of| of.verdict == "no difference shown"));
        let notes = found.notes.join("\n");
        for note in ["lower bound", "1 of 3 runs of a", "take turns", "too few", "rate differs"] {
            assert!(notes.contains(note), "{note}: {notes}");
        }
    }

    /// Runs that failed, and runs without figures, are no proof that nothing got worse.
    #[test]
    fn what_proves_nothing_is_no_success() {
        let nothing = [json!({"schema": 1, "valid": true})];
        let empty = compared(&nothing, &nothing, true);
        assert_eq!((empty.figures.len(), empty.valid, empty.regression), (0, false, false));
        assert_eq!(empty.status(), ExitCode::FAILURE);
        assert!(show(&empty).contains("FAILED: there is nothing that could be compared"));

        let (good, mut bad) = (arm(1, 10, 1.0), arm(2, 10, 1.0));
        bad[7]["ok"] = false.into();
        let failed = compared(&good, &bad, true);
        assert!(failed.regression && failed.status() == ExitCode::FAILURE, "{failed:?}");
        assert!(failed.notes.contains(&"1 of 10 runs of b failed".to_owned()), "{failed:?}");
        // What failed before is not worse for failing now.
        assert!(!compared(&bad, &bad, true).regression && !compared(&bad, &good, true).regression);

        assert!(compared(&good, &good, true).valid);
        let mut busy = good.clone();
        busy[9]["valid"] = false.into();
        let unsure = compared(&good, &busy, true);
        assert_eq!((unsure.valid, unsure.status()), (false, ExitCode::SUCCESS));
        assert!(show(&unsure).contains("NOT VALID"));
    }

    /// In whichever run it is.
    #[test]
    fn settings_that_differ_are_named() {
        let good = arm(1, 10, 1.0);
        for field in SETTINGS {
            let with = |value: u64, at: usize| {
                let mut arm = good.clone();
                arm.iter_mut().for_each(|run| run[field] = 1.into());
                arm[at][field] = value.into();
                arm
            };
            assert_eq!(compared(&with(1, 0), &with(1, 0), true).notes, [""; 0]);
            let notes = compared(&with(1, 0), &with(2, 9), true).notes;
            assert_eq!(notes, [format!("{field} differs: 1 and 2")]);
        }
    }
}
