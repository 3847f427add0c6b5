//! What a step is held to, beside what its command holds itself to (every message once and unchanged, `--slo`): that its run is
//! valid, and that a saved report is not better by more than a tolerance.

use super::plan::{StepTable, Verb};
use super::process::Ended;
use crate::cli::Percent;
use crate::compare::{self, Comparison};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Value;

/// What may be worse, unless the plan says.
const TOLERANCE: &str = "10%";

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// A run that is not valid is a failure.
    pub valid: bool,
    /// What there was.
    against: Option<Saved>,
}

/// A saved report.
#[derive(Clone, Debug)]
struct Saved {
    path: PathBuf,
    report: Json,
    tolerance: Percent,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Held {
    /// What was not kept.
    pub causes: Vec<String>,
    /// Beside the saved report.
    pub comparison: Option<Comparison>,
}

/// The terms of a step, and the keys that are flags.
///
/// # Errors
/// Which key cannot be meant, and why.
pub fn terms(table: &StepTable) -> Result<(Terms, BTreeMap<&String, &Value>), String> {
    let mut flags: BTreeMap<&String, &Value> = table.keys.iter().collect();
    if table.verb.is_background() {
        return Ok((Terms::default(), flags));
    }
    let valid = match flags.remove(&"valid".to_owned()) {
        None => false,
        Some(Value::Boolean(valid)) => *valid,
        Some(other) => return Err(format!("valid is {other}, and should be true or false")),
    };
    let tolerance = match flags.remove(&"tolerance".to_owned()) {
        None => TOLERANCE.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Integer(number)) => number.to_string(),
        Some(Value::Float(number)) => number.to_string(),
        Some(other) => return Err(format!("tolerance is {other}, and should be a share, as \"10%\"")),
    };
    let tolerance = tolerance.parse().map_err(|why| format!("tolerance: {why}"))?;
    let against = match flags.remove(&"against".to_owned()) {
        None => None,
        Some(Value::String(path)) => {
            let repeat = flags.get(&"repeat".to_owned()).map(|repeat| repeat.to_string());
            let repeat = repeat.and_then(|text| text.trim_matches('"').parse().ok()).unwrap_or(1);
            Some(saved(table, Path::new(path), tolerance, repeat).map_err(|why| format!("against: {why}"))?)
        }
        Some(other) => return Err(format!("against is {other}, and should be the path of a report")),
    };
    Ok((Terms { valid, against }, flags))
}

/// The report at `path`, or, if that is one of a plan, of the step there with the same name.
fn saved(table: &StepTable, path: &Path, tolerance: Percent, repeat: usize) -> Result<Saved, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        format!("cannot read {shown}: {error}; make it with `udp-plus run PLAN --json {shown}`")
    })?;
    let all: Json = serde_json::from_str(&text).map_err(|error| format!("{shown} is no JSON: {error}"))?;
    let report = match all["steps"].as_array() {
        None => all,
        Some(steps) => {
            let step = steps.iter().find(|step| step["name"] == *table.name);
            step.map(|step| step["report"].clone())
                .ok_or_else(|| format!("{shown} has no step {:?}", table.name))?
        }
    };
    let is_search = !report["goal"].is_null();
    if report["schema"] != 1 || (report["latency_ns"].is_null() && !is_search) {
        return Err(format!(
            "{shown} has no report of this step: make it with `udp-plus run PLAN --json {shown}`"
        ));
    }
    if is_search != (table.verb == Verb::Search) {
        return Err(format!("{shown} is a report of another command than {}", table.verb));
    }
    let there = compare::runs(&report).len();
    if !is_search && !compare::can_show(there.min(repeat), false) {
        let enough = (1..).find(|&runs| compare::can_show(runs, false)).unwrap_or(1);
        return Err(format!(
            "{there} runs there and {repeat} here can show no difference: set repeat = {enough} or more in both"
        ));
    }
    Ok(Saved { path: path.to_owned(), report, tolerance })
}

/// Why the figures of a report say nothing. A search has notes instead of a reason.
pub fn why_invalid(report: &Json) -> String {
    let notes = report["notes"].as_array().into_iter().flatten().filter_map(Json::as_str);
    report["invalid_reason"].as_str().map_or_else(|| notes.collect::<Vec<_>>().join("; "), str::to_owned)
}

/// What the step did not keep.
pub fn hold(step: &super::step::Step, ended: &Ended) -> Held {
    let mut held = Held::default();
    let Some(report) = &ended.report else { return held };
    if step.terms.valid && report["valid"] == false {
        held.causes.push(format!("not valid: {}", why_invalid(report)));
    }
    if let Some(Saved { path, report: base, tolerance }) = &step.terms.against {
        let path = path.display();
        if step.verb == Verb::Search {
            let [before, now] = [base, report].map(|report| report["rate"].as_f64().unwrap_or(0.0));
            if now < before * (1.0 - tolerance.0) {
                let [before, now] = [before, now].map(crate::show::count);
                held.causes.push(format!("{now} messages/s keep the SLO, and {before} did in {path}"));
            }
            return held;
        }
        let comparison = compare::compare(&compare::runs(base), &compare::runs(report), false, tolerance.0);
        for worse in comparison.figures.iter().filter(|figure| figure.is_regression(tolerance.0)) {
            held.causes.push(format!(
                "{} is worse than in {path}: {:+.1} % ({:+.1} to {:+.1} %)",
                worse.name,
                worse.change * 100.0,
                worse.low * 100.0,
                worse.high * 100.0
            ));
        }
        if comparison.figures.is_empty() {
            held.causes.push(format!("there is nothing that could be held against {path}"));
        }
        held.comparison = Some(comparison);
    }
    held
}
