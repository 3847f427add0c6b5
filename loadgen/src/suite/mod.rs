//! `run PLAN.toml`: named steps, each a command line of this tool in a process of its own; a table, and the report of every step.
//!
//! | module | owns |
//! |---|---|
//! | `plan` | the plan as written: TOML, and the table of each step; pure |
//! | `step` | from a table to a command line that the tool takes; pure |
//! | `held` | what a step is held to: its status, its validity, a saved report |
//! | `process` | steps as processes, the background ones until the end |
//! | `report` | what is said about it, for people and programs |
//!
//! A step is what someone would type. That makes every step start from the same state, and lets a step that dies be no more than
//! a step that failed.

mod held;
mod plan;
mod process;
mod report;
mod step;
#[cfg(test)]
mod tests;

use crate::environment::Environment;
use crate::error::usage;
use crate::report::JsonTarget;
use crate::stop::Stop;
use crate::words::Words;
use anyhow::{Context, Result};
use clap::Args;
use held::Held;
use plan::Plan;
pub use process::end_with_plan;
use process::{Background, Ended};
use report::{Ran, SuiteReport};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use step::Step;

/// `run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The plan.
    #[arg(value_name = "PLAN.toml")]
    pub plan: PathBuf,
    /// Nothing is sent.
    #[arg(long)]
    pub check: bool,
    /// Over what the plan says.
    #[arg(long, value_name = "KEY=VALUE", value_parser = plan::parse_set)]
    pub set: Vec<plan::Set>,
    /// What steps say.
    #[arg(long)]
    pub verbose: bool,
    /// Where the reports go.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// A plan that cannot be read or meant (status 2); a step that cannot be started.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let (plan, steps) = read(&args.plan, &args.set)?;
    if args.check {
        let words = Words::new(false);
        steps.iter().for_each(|step| words.say(&format!("{:<16} {}", step.name, step.line())));
        words.say(&format!("{}: {} steps, nothing wrong with them", args.plan.display(), steps.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let json = JsonTarget::open(args.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    let processes = process::Processes::default();
    let stop = {
        let processes = processes.clone();
        Stop::on_signals_with(move || processes.kill())?
    };
    let mut report = SuiteReport::new(&args.plan, plan.question, Environment::capture());
    words.say(&report.head());
    let mut background: Vec<(usize, Background)> = Vec::new();
    let say = |report: &mut SuiteReport, ran: Ran| {
        words.say(&ran.row());
        report.add(ran);
    };
    for (number, step) in steps.iter().enumerate() {
        if stop.is_requested() {
            report.is_interrupted = true;
            break;
        }
        let line = step.line_with(|name| {
            let address = |of: &&(usize, Background)| steps[of.0].name == name;
            background.iter().find(address).map(|of| of.1.address.clone())
        });
        if step.verb.is_background() {
            match Background::start(&line, args.verbose, &processes, &stop)? {
                Ok(started) => background.push((number, started)),
                // What follows would have nobody to talk to.
                Err(ended) => {
                    say(&mut report, Ran::new(step, &line, ended, Held::default()));
                    break;
                }
            }
            continue;
        }
        let ended = process::run(&line, args.verbose, &processes, &stop)?;
        let held = held::hold(step, &ended);
        say(&mut report, Ran::new(step, &line, ended, held));
        let gone = background.iter_mut().position(|(_, process)| process.has_ended());
        if let Some((number, _)) = gone.and_then(|gone| background.get(gone)) {
            report.causes.push(format!("{} ended before the plan did", steps[*number].name));
            break;
        }
    }
    report.is_interrupted |= stop.is_requested();
    // Those that others talked to last.
    for (number, background) in background.into_iter().rev() {
        let (step, line) = (&steps[number], background.line.clone());
        let ended: Ended = background.finish()?;
        let held = held::hold(step, &ended);
        say(&mut report, Ran::new(step, &line, ended, held));
    }
    report.conclude(steps.len());
    words.say(&report.foot());
    json.write(&serde_json::to_value(&report)?)?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether this is a plan, all of whose steps the tool would take.
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str) -> Result<(), String> {
    step::steps(&Plan::parse(text, &[])?).map(|_| ())
}

/// The plan in this file, and its steps, all of which the tool would take.
fn read(path: &Path, set: &[plan::Set]) -> Result<(Plan, Vec<Step>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let of_file = |why: String| usage(format!("{}: {why}", path.display()));
    let plan = Plan::parse(&text, set).map_err(of_file)?;
    let steps = step::steps(&plan).map_err(of_file)?;
    Ok((plan, steps))
}
