//! What a plan has to say.

use super::held::{self, Held};
use super::process::Ended;
use super::step::Step;
use crate::compare::Comparison;
use crate::environment::Environment;
use crate::show::{count, time};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// A plan that has run.
#[derive(Debug, Serialize)]
pub struct SuiteReport {
    /// 1.
    schema: u64,
    /// The file.
    plan: String,
    /// What it is to find out.
    question: Option<String>,
    /// By step, in the order in which they ended.
    steps: Vec<Ran>,
    /// Somebody pressed Ctrl-C.
    #[serde(rename = "interrupted")]
    pub is_interrupted: bool,
    /// Every step ran, and every one was well.
    pub ok: bool,
    /// The figures of every step mean something.
    valid: bool,
    /// Why a step did not run.
    pub causes: Vec<String>,
    /// The machine.
    environment: Environment,
}

/// A step that has run.
#[derive(Debug, Serialize)]
pub struct Ran {
    name: String,
    verb: &'static str,
    /// As typed.
    command: String,
    seconds: f64,
    /// Null: a signal ended it.
    status: Option<i32>,
    ok: bool,
    /// Why not.
    causes: Vec<String>,
    /// Null: it makes no figures.
    valid: Option<bool>,
    /// Beside the report it is held against.
    comparison: Option<Comparison>,
    /// What its command wrote with `--json`; null: it wrote none.
    report: Option<Value>,
    /// What it said, where it wrote no report.
    said: Option<String>,
}

impl Ran {
    /// From what a step left.
    pub fn new(step: &Step, line: &[String], ended: Ended, held: Held) -> Self {
        let Ended { status, report, said, seconds } = ended;
        let mut causes = held.causes;
        if status != Some(0) {
            let of_report = report.as_ref().and_then(|report| report["causes"].as_array());
            let of_report: Vec<String> = of_report
                .into_iter()
                .flatten()
                .filter_map(|cause| Some(cause.as_str()?.to_owned()))
                .collect();
            let failed =
                said.lines().filter_map(|line| line.trim().strip_prefix("FAILED: ")).map(str::to_owned);
            let failed: Vec<String> = if of_report.is_empty() { failed.collect() } else { of_report };
            let ending =
                status.map_or_else(|| "a signal ended it".to_owned(), |status| format!("status {status}"));
            if failed.is_empty() {
                let last =
                    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
                causes.push(format!("{ending}: {}", last.trim_start_matches("udp-plus: ")));
            }
            causes.splice(0..0, failed);
        } else if report.is_none() && !step.verb.is_background() {
            // Nobody knows what it did.
            causes.insert(0, "it wrote no report".to_owned());
        }
        Self {
            name: step.name.clone(),
            verb: step.verb.name(),
            command: format!("udp-plus {}", line.join(" ")),
            seconds,
            status,
            ok: causes.is_empty(),
            causes,
            valid: report.as_ref().and_then(|report| report["valid"].as_bool()),
            comparison: held.comparison,
            said: report.is_none().then_some(said),
            report,
        }
    }

    /// Its line of the table, and what there is to say beside it.
    pub fn row(&self) -> String {
        let verdict = match (self.ok, self.valid) {
            (false, _) => "FAILED",
            (true, Some(false)) => "not valid",
            (true, _) => "ok",
        };
        let figure = |path: &str| self.report.as_ref().and_then(|report| report.pointer(path)?.as_f64());
        let cell = |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "-".to_owned(), show);
        let rate = if self.verb == "search" { figure("/rate") } else { figure("/msgs_per_s") };
        let lost = figure("/offered").map(|offered| {
            let put = offered + figure("/not_offered").unwrap_or(0.0);
            1.0 - figure("/delivered").unwrap_or(0.0) / put.max(1.0)
        });
        let mut text = format!(
            "{:<20} {:<7} {verdict:<10} {:>7.1} {:>12} {:>10} {:>10} {:>9}\n",
            self.name,
            self.verb,
            self.seconds,
            cell(rate, count),
            cell(figure("/latency_ns/p50"), time),
            cell(figure("/latency_ns/p99"), time),
            cell(lost, |share| if share == 0.0 { "0".to_owned() } else { format!("{share:.1e}") }),
        );
        for cause in &self.causes {
            let _ = writeln!(text, "  FAILED: {cause}");
        }
        if self.ok
            && self.valid == Some(false)
            && let Some(report) = &self.report
        {
            let _ = writeln!(text, "  not valid: {}", held::why_invalid(report));
        }
        text
    }
}

impl SuiteReport {
    /// Before anything has run.
    pub fn new(plan: &Path, question: Option<String>, environment: Environment) -> Self {
        Self {
            schema: 1,
            plan: plan.display().to_string(),
            question,
            steps: Vec::new(),
            is_interrupted: false,
            ok: false,
            valid: false,
            causes: Vec::new(),
            environment,
        }
    }

    /// What stands above the table.
    pub fn head(&self) -> String {
        let question =
            self.question.as_ref().map_or_else(String::new, |question| format!("{}\n", question.trim()));
        format!(
            "{question}{:<20} {:<7} {:<10} {:>7} {:>12} {:>10} {:>10} {:>9}",
            "step", "verb", "verdict", "s", "messages/s", "p50", "p99", "loss"
        )
    }

    /// Another step.
    pub fn add(&mut self, ran: Ran) {
        self.steps.push(ran);
    }

    /// The verdict, of so many steps that there were to be.
    pub fn conclude(&mut self, steps: usize) {
        if self.is_interrupted {
            self.causes.push("interrupted".to_owned());
        }
        if self.steps.len() < steps {
            self.causes.push(format!("{} of {steps} steps did not run", steps - self.steps.len()));
        }
        self.ok = self.causes.is_empty() && self.steps.iter().all(|step| step.ok);
        self.valid = self.steps.iter().all(|step| step.valid != Some(false));
    }

    /// What stands below the table.
    pub fn foot(&self) -> String {
        let mut text: String = self.causes.iter().map(|cause| format!("  FAILED: {cause}\n")).collect();
        let failed = self.steps.iter().filter(|step| !step.ok).count();
        text += &match failed {
            0 if self.ok && self.valid => format!("{} steps, all well", self.steps.len()),
            0 if self.ok => format!("{} steps, all well, not all valid", self.steps.len()),
            _ => format!("{failed} of {} steps failed", self.steps.len()),
        };
        text
    }
}
