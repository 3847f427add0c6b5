//! What `bench` and `load` have in common: the lock, one run after another, the reports, the exit status.

use crate::cli::{EngineFlags, LoadFlags};
use crate::clock;
use crate::distribution::Distribution;
use crate::intervals::{self, Intervals};
use crate::lock::MeasureLock;
use crate::plan::Plan;
use crate::report::{self, JsonTarget, Report};
use crate::show;
use crate::slo::Slo;
use crate::stop::Stop;
use crate::words::Words;
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// What a run gives.
#[derive(Debug)]
pub struct Measured {
    /// Its report.
    pub report: Report,
    /// The latencies of what was delivered.
    pub latency: Histogram<u64>,
    /// The run second by second.
    pub intervals: Intervals,
}

impl Measured {
    /// The latencies of all messages of a run by this plan.
    pub fn distribution(&self, plan: &Plan) -> Distribution<'_> {
        let undelivered = self.report.censored.as_ref().map_or(0, |censored| censored.messages);
        Distribution::new(&self.latency, undelivered, clock::ns(plan.deadline()))
    }

    /// What the run does not keep of `slo` is a cause of failure.
    fn hold_to(&mut self, slo: &Slo, plan: &Plan) {
        let broken = slo.broken(&self.distribution(plan));
        self.report.slo = Some(slo.to_string());
        self.report.ok &= broken.is_empty();
        self.report.causes.extend(broken.into_iter().map(|broken| format!("SLO: {broken}")));
    }
}

/// What is written beside the report.
struct Logs {
    hdr: Option<(File, PathBuf)>,
    csv: Option<(File, PathBuf)>,
}

impl Logs {
    /// Before anything is measured, so that a bad path costs no time.
    fn open(load: &LoadFlags) -> Result<Self> {
        let open = |path: &Option<PathBuf>| -> Result<Option<(File, PathBuf)>> {
            let Some(path) = path else { return Ok(None) };
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Some((file, path.clone())))
        };
        let mut logs = Self { hdr: open(&load.hdr)?, csv: open(&load.csv)? };
        logs.append(false, format!("{}\n", intervals::CSV_HEAD).as_bytes())?;
        Ok(logs)
    }

    fn append(&mut self, is_hdr: bool, bytes: &[u8]) -> Result<()> {
        let Some((file, path)) = (if is_hdr { &mut self.hdr } else { &mut self.csv }) else { return Ok(()) };
        file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn write(&mut self, run: u32, measured: &mut Measured) -> Result<()> {
        let report = &measured.report;
        if let Some(censored) = &report.censored {
            let whole = Duration::from_secs_f64(report.warm_up_s + report.duration_s);
            measured.intervals.add_undelivered(whole, censored.messages, censored.at_least_ns);
        }
        self.append(true, &intervals::hdr_head(run, report.environment.time))?;
        self.append(true, &measured.intervals.hdr)?;
        for line in &measured.intervals.csv {
            self.append(false, format!("{run},{line}\n").as_bytes())?;
        }
        Ok(())
    }
}

/// Does `once` as often as `--repeat` says and reports. Everything that can be wrong with the flags should have been found
/// before: this may wait for another measurement to end.
pub fn repeat(
    engine: &EngineFlags,
    load: &LoadFlags,
    mut once: impl FnMut(&Plan, &Stop, Words) -> Result<Measured>,
) -> Result<ExitCode> {
    let json = JsonTarget::open(load.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    let mut logs = Logs::open(load)?;
    let stop = Stop::on_signals()?;
    let Some(_lock) = MeasureLock::acquire(&stop)? else { bail!("interrupted before anything was measured") };
    let (mut runs, mut failure) = (Vec::new(), None);
    for number in 1..=load.repeat {
        if load.repeat > 1 {
            words.say(&format!("run {number} of {}", load.repeat));
        }
        // Every run has a number of its own in its payloads.
        let plan = Plan::new(engine, load)?;
        let mut measured = match once(&plan, &stop, words) {
            Ok(measured) => measured,
            Err(error) if runs.is_empty() => return Err(error),
            // What was measured before is not lost.
            Err(error) => {
                failure = Some(format!("run {number}: {error:#}"));
                break;
            }
        };
        if let Some(slo) = &load.slo {
            measured.hold_to(slo, &plan);
        }
        words.say(&show::run(&measured.report, &measured.latency));
        logs.write(number, &mut measured)?;
        if load.explain
            && let Some(slowest) = &measured.report.slowest
        {
            words.say(&show::slowest(slowest));
        }
        runs.push(measured.report);
        if stop.is_requested() {
            break;
        }
    }
    let value = report::to_json(&runs, load.repeat > 1, failure.as_deref())?;
    if load.repeat > 1 {
        words.say(&show::medians(&value));
    }
    json.write(&value)?;
    Ok(if failure.is_none() && runs.iter().all(|run| run.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
