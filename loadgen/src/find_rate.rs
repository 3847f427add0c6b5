//! `udp-plus search`: the highest rate that keeps an SLO, by trials of `bench`, or of `load` with a target.

use crate::cli::{BenchArgs, LoadArgs, LoadFlags, SearchArgs, Seconds};
use crate::error::usage;
use crate::load_watch::OTHER_LOAD_MAX;
use crate::lock::MeasureLock;
use crate::plan::Plan;
use crate::report::{JsonTarget, Report};
use crate::runs::Measured;
use crate::schedule::{Arrivals, Rates};
use crate::search::{self, End, Found, Goal, Trial};
use crate::show::count;
use crate::slo::Slo;
use crate::stop::Stop;
use crate::words::Words;
use crate::{bench, load};
use anyhow::{Result, bail};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

/// Before each trial: shorter than of a run of its own, since many follow.
const WARM_UP: Duration = Duration::from_millis(300);
/// Trials of a search that does not come to an end.
const TRIALS_MAX: usize = 300;
/// The lowest rate tried.
const RATE_MIN: f64 = 10.0;
/// The highest rate tried, as a multiple of what a closed loop reaches, if the user does not say.
const BEYOND_CLOSED: f64 = 2.0;

/// What a search says.
#[derive(Debug, Serialize)]
struct SearchReport {
    schema: u64,
    /// What was to be kept.
    slo: String,
    /// The highest rate that keeps it; null: none does.
    rate: Option<f64>,
    /// The lowest rate above it that does not; null: the highest rate tried keeps it.
    rate_above: Option<f64>,
    /// That both are what they are called.
    confidence: Option<f64>,
    /// `found`, `at_max`, `below_min` or `stopped`.
    end: &'static str,
    goal: GoalReport,
    valid: bool,
    notes: Vec<String>,
    trials: Vec<TrialReport>,
    environment: crate::environment::Environment,
}

#[derive(Debug, Serialize)]
struct GoalReport {
    exceed: f64,
    width: f64,
    trials: u32,
    seconds_initial: f64,
    seconds_full: f64,
    rate_min: f64,
    rate_max: f64,
}

/// One trial.
#[derive(Clone, Debug, Serialize)]
struct TrialReport {
    rate: f64,
    seconds: f64,
    good: bool,
    /// What was not kept.
    broken: Vec<String>,
    messages: u64,
    msgs_per_s: Option<f64>,
    loss: Option<f64>,
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    p99_9_ns: Option<u64>,
    /// Why the trial says nothing about the machine alone.
    invalid_reason: Option<String>,
    /// Something else than a rate that the machine did not take has had a part in it.
    #[serde(skip)]
    is_disturbed: bool,
}

/// Runs the command.
pub fn run(args: &SearchArgs) -> Result<ExitCode> {
    check(args)?;
    let json = JsonTarget::open(args.load.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    let measure = Measure::new(args)?;
    let stop = Stop::on_signals()?;
    let Some(_lock) = MeasureLock::acquire(&stop)? else { bail!("interrupted before anything was measured") };
    let (start, rate_max) = range(args, &measure, &stop, words)?;
    let full = args.load.duration.0.as_secs_f64();
    let goal = Goal {
        exceed: args.exceed.0,
        width: args.width.0,
        seconds_initial: seconds_initial(full),
        seconds_full: full,
        trials: args.trials,
        rate_min: RATE_MIN.min(rate_max),
        rate_max,
        trials_max: TRIALS_MAX,
    };
    words.say(&format!(
        "search for the highest rate up to {} messages/s with {}: trials of {:.2} to {full} s, {} decide\n\
         {:>5} {:>14} {:>7}  verdict",
        count(rate_max),
        slo(args)?,
        goal.seconds_initial,
        goal.trials,
        "trial",
        "messages/s",
        "s"
    ));
    let mut trials: Vec<TrialReport> = Vec::new();
    let found = search::search(&goal, start, |rate, seconds| {
        if stop.is_requested() {
            return Ok(None);
        }
        let report = trial(args, &measure, rate, seconds, &stop)?;
        if stop.is_requested() {
            return Ok(None);
        }
        let verdict = if report.good { "kept".to_owned() } else { report.broken.join("; ") };
        let number = trials.len() + 1;
        words.say(&format!("{number:>5} {:>14} {seconds:>7.2}  {verdict}", count(rate)));
        // The plan's length, not the clock's: what was cut short has ended above.
        let trial = Trial { rate, seconds, good: report.good };
        trials.push(report);
        anyhow::Ok(Some(trial))
    })?;
    let report = conclude(args, &goal, &found, trials);
    words.say(&show(&report));
    json.write(&serde_json::to_value(&report)?)?;
    Ok(if found.lower.is_some() && found.end != End::Stopped { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What bounds are looked for with, where they are verified with trials of `full` seconds.
fn seconds_initial(full: f64) -> f64 {
    (full / 10.0).max(0.1).min(full)
}

/// Whether these flags make a search.
///
/// # Errors
/// Why not.
pub fn check(args: &SearchArgs) -> Result<()> {
    if args.load.repeat != 1 {
        return Err(usage(
            "--repeat has no meaning for a search, which repeats trials by itself: see --trials",
        ));
    }
    if args.load.hdr.is_some() || args.load.csv.is_some() {
        return Err(usage("--hdr and --csv are for one run: a search has many, and lists them in --json"));
    }
    if !matches!(args.load.rate, Rates::Max | Rates::Constant(_)) {
        return Err(usage("--rate is the highest rate that a search tries: a number, or max"));
    }
    slo(args).map(|_| ())
}

fn slo(args: &SearchArgs) -> Result<&Slo> {
    args.load
        .slo
        .as_ref()
        .ok_or_else(|| usage("a search needs --slo: what is to be kept, as p99.9<1ms,loss<1e-6"))
}

/// How a trial is made.
enum Measure {
    Bench(Box<bench::Prepared>),
    Load(Box<load::Prepared>),
}

impl Measure {
    fn new(args: &SearchArgs) -> Result<Self> {
        let (engine, load) = (args.engine.clone(), first(args));
        Ok(match args.target.is_empty() {
            true => Self::Bench(Box::new(bench::Prepared::new(BenchArgs { engine, load, baseline: 0.0 })?)),
            false => {
                let target = args.target.clone();
                Self::Load(Box::new(load::Prepared::new(LoadArgs { target, engine, load })?))
            }
        })
    }

    fn once(&self, plan: &Plan, stop: &Stop) -> Result<Measured> {
        match self {
            Self::Bench(bench) => bench.engines(plan, stop, Words::nowhere()),
            Self::Load(load) => load.once(plan, stop, Words::nowhere()),
        }
    }
}

/// The flags of one trial.
fn flags(args: &SearchArgs, rates: &Rates, seconds: f64) -> LoadFlags {
    let duration = Seconds(Duration::from_secs_f64(seconds));
    // The closed loop that says where to begin has no schedule.
    let arrivals = if *rates == Rates::Max { Arrivals::Even } else { args.load.arrivals };
    LoadFlags { rate: rates.clone(), arrivals, duration, ..args.load.clone() }
}

/// Those of the first one.
pub fn first(args: &SearchArgs) -> LoadFlags {
    flags(args, &Rates::Constant(RATE_MIN), 1.0)
}

fn trial(args: &SearchArgs, measure: &Measure, rate: f64, seconds: f64, stop: &Stop) -> Result<TrialReport> {
    let load = flags(args, &Rates::Constant(rate), seconds);
    let plan = Plan::with_warm_up(&args.engine, &load, WARM_UP)?;
    let measured = measure.once(&plan, stop)?;
    let report = &measured.report;
    let wrong = [report.duplicates, report.corrupted, report.missing].into_iter().flatten().sum::<u64>();
    let unbalanced = report.conservation.as_ref().map_or(Vec::new(), |books| books.causes());
    if wrong > 0 || !unbalanced.is_empty() {
        bail!("a trial at {rate:.0} messages/s is no measurement: {}", report.causes.join("; "));
    }
    let latency = measured.distribution(&plan);
    let mut broken = slo(args)?.broken(&latency);
    if is_too_much(report) {
        broken.push(report.invalid_reason.clone().unwrap_or_default());
    }
    Ok(TrialReport {
        rate,
        seconds,
        good: broken.is_empty(),
        broken,
        messages: latency.messages(),
        msgs_per_s: report.msgs_per_s,
        loss: latency.loss(),
        p50_ns: report.latency_ns.p50,
        p99_ns: report.latency_ns.p99,
        p99_9_ns: report.latency_ns.p99_9,
        invalid_reason: report.invalid_reason.clone(),
        is_disturbed: is_disturbed(report),
    })
}

fn is_too_much(report: &Report) -> bool {
    report.not_offered.is_some_and(|count| count > 0)
}

/// Whether a trial says nothing about the rate. The reason that a report gives is one of several: a rate may have been too much only
/// because others had the core.
fn is_disturbed(report: &Report) -> bool {
    let by_others = report.other_load_cores.is_none_or(|cores| cores > OTHER_LOAD_MAX)
        || report.steal_cores.is_some_and(|cores| cores > OTHER_LOAD_MAX);
    by_others || (report.invalid_reason.is_some() && !is_too_much(report))
}

/// Where to begin, and where to end: by what a closed loop reaches, unless the user says.
fn range(args: &SearchArgs, measure: &Measure, stop: &Stop, words: Words) -> Result<(f64, f64)> {
    let plan = Plan::with_warm_up(&args.engine, &flags(args, &Rates::Max, 0.5), WARM_UP)?;
    let reached = measure.once(&plan, stop)?.report.msgs_per_s.unwrap_or(0.0).max(RATE_MIN);
    words.say(&format!("a closed loop reaches {} messages/s", count(reached)));
    Ok(match args.load.rate {
        Rates::Constant(most) => (reached.min(most), most),
        _ => (reached, reached * BEYOND_CLOSED),
    })
}

/// Why what was found may be less than it seems, and whether it is valid all the same.
fn doubts(slo: Option<&Slo>, goal: &Goal, found: &Found, trials: &[TrialReport]) -> (Vec<String>, bool) {
    let mut notes = Vec::new();
    let at = |bound: Option<f64>| trials.iter().filter(move |trial| Some(trial.rate) == bound);
    let of_bounds = || at(found.lower).chain(at(found.upper));
    // A bad trial decides as much as a good one.
    let disturbed = of_bounds().filter(|trial| trial.is_disturbed).count();
    if disturbed > 0 {
        notes.push(format!("{disturbed} of {} trials that decided are not valid", of_bounds().count()));
    }
    // Of the rate found the full trials are the proof. Where none was, it is said as well: another --duration may find one.
    let proofs: Vec<&TrialReport> = match found.lower {
        Some(_) => at(found.lower).filter(|trial| goal.is_full(trial.seconds)).collect(),
        None => at(found.upper).collect(),
    };
    if let Some(needed) = slo.and_then(Slo::messages_needed)
        && let Some(fewest) = proofs.into_iter().min_by_key(|trial| trial.messages)
        && fewest.messages < needed
    {
        notes.push(format!(
            "an SLO like that takes {} messages a trial to show, and one at {} messages/s had {}: --duration",
            count(needed as f64),
            count(fewest.rate),
            count(fewest.messages as f64)
        ));
    }
    (notes, disturbed == 0)
}

fn conclude(args: &SearchArgs, goal: &Goal, found: &Found, trials: Vec<TrialReport>) -> SearchReport {
    let (notes, valid) = doubts(args.load.slo.as_ref(), goal, found, &trials);
    SearchReport {
        schema: 1,
        slo: args.load.slo.as_ref().map_or_else(String::new, ToString::to_string),
        rate: found.lower,
        rate_above: found.upper,
        confidence: found.confidence.is_finite().then_some(found.confidence),
        end: match found.end {
            End::Found => "found",
            End::AtMax => "at_max",
            End::BelowMin => "below_min",
            End::Stopped => "stopped",
        },
        goal: GoalReport {
            exceed: goal.exceed,
            width: goal.width,
            trials: goal.trials,
            seconds_initial: goal.seconds_initial,
            seconds_full: goal.seconds_full,
            rate_min: goal.rate_min,
            rate_max: goal.rate_max,
        },
        valid,
        notes,
        trials,
        environment: crate::environment::Environment::capture(),
    }
}

fn show(report: &SearchReport) -> String {
    let rate = |rate: f64| format!("{} messages/s", count(rate));
    let mut text = match (report.rate, report.rate_above) {
        (Some(lower), Some(upper)) => format!("{} keep {}; {} do not", rate(lower), report.slo, rate(upper)),
        (Some(lower), None) => format!("{} keep {}: as high as was tried", rate(lower), report.slo),
        (None, Some(upper)) => format!("no rate keeps {}: {} do not", report.slo, rate(upper)),
        (None, None) => format!("nothing was found out about {}", report.slo),
    };
    if let Some(confidence) = report.confidence {
        text += &format!("; confidence {:.1} %", confidence * 100.0);
    }
    text += &format!("; {} trials\n", report.trials.len());
    if report.end == "stopped" {
        text += "  it did not come to its end\n";
    }
    for note in &report.notes {
        text += &format!("  note: {note}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOAL: Goal = Goal {
        exceed: 0.5,
        width: 0.05,
        seconds_initial: 0.5,
        seconds_full: 5.0,
        trials: 7,
        rate_min: 10.0,
        rate_max: 1e6,
        trials_max: 300,
    };

    fn trial(rate: f64, seconds: f64, good: bool) -> TrialReport {
        TrialReport {
            rate,
            seconds,
            good,
            broken: Vec::new(),
            messages: (rate * seconds) as u64,
            msgs_per_s: None,
            loss: None,
            p50_ns: None,
            p99_ns: None,
            p99_9_ns: None,
            invalid_reason: None,
            is_disturbed: false,
        }
    }

    fn found() -> Found {
        let (lower, upper) = (Some(100.0), Some(105.0));
        Found { lower, upper, confidence: 0.9, end: End::Found, trials: Vec::new() }
    }

    /// Bounds that a disturbed trial has decided are not valid, on either side.
    #[test]
    fn disturbed_trials_of_both_bounds_count() {
        for (rate, good, decides) in [
            (100.0, true, true),
            (105.0, false, true),
            (105.0, true, true),
            (90.0, true, false),
            (200.0, false, false),
        ] {
            let mut trials = vec![trial(100.0, 5.0, true), trial(105.0, 5.0, false), trial(rate, 5.0, good)];
            assert_eq!(doubts(None, &GOAL, &found(), &trials), (vec![], true));
            trials[2].is_disturbed = true;
            let (notes, valid) = doubts(None, &GOAL, &found(), &trials);
            assert_eq!((valid, notes.len()), (!decides, usize::from(decides)), "{rate} {notes:?}");
        }
    }

    /// That others had the core is the reason why a rate was too much, and not that it was.
    #[test]
    fn a_rate_that_was_too_much_beside_others_is_not_known_to_be() {
        let report = |not_offered, other, steal, reason: Option<&str>| Report {
            not_offered: Some(not_offered),
            other_load_cores: other,
            steal_cores: steal,
            invalid_reason: reason.map(str::to_owned),
            ..Report::default()
        };
        let kept = "the rate was not kept";
        for (disturbed, report) in [
            (false, report(0, Some(0.05), Some(0.0), None)),
            (false, report(9, Some(0.05), Some(0.0), Some(kept))),
            (true, report(9, Some(0.9), Some(0.0), Some(kept))),
            (true, report(9, Some(0.0), Some(0.9), Some(kept))),
            (true, report(9, None, None, Some(kept))),
            (true, report(0, Some(0.05), Some(0.0), Some("the generator fell behind its schedule"))),
        ] {
            assert_eq!(is_disturbed(&report), disturbed, "{report:?}");
        }
    }

    /// The rate above has more messages, and short trials prove nothing anyway.
    #[test]
    fn every_full_trial_at_the_rate_found_needs_its_messages() {
        let slo: Slo = "p99<1ms".parse().expect("an SLO");
        let mut trials = vec![trial(100.0, 0.5, true), trial(100.0, 5.0, true), trial(105.0, 5.0, false)];
        assert_eq!(doubts(Some(&slo), &GOAL, &found(), &trials).0, [""; 0]);
        trials[1].messages = 299;
        let (notes, valid) = doubts(Some(&slo), &GOAL, &found(), &trials);
        assert!(valid && notes.len() == 1 && notes[0].contains("takes 300 messages"), "{notes:?}");
        let none = Found { lower: None, end: End::BelowMin, ..found() };
        assert_eq!(doubts(Some(&slo), &GOAL, &none, &trials).0, [""; 0]);
        trials[2].messages = 299;
        assert_eq!(doubts(Some(&slo), &GOAL, &none, &trials).0.len(), 1);
    }

    #[test]
    fn trials_are_short_before_they_are_full() {
        let seconds = [0.001, 0.05, 0.5, 5.0].map(seconds_initial);
        assert_eq!(seconds, [0.001, 0.05, 0.1, 0.5]);
    }
}
