//! `doctor`: what of this machine, and of the way to a target, speaks for or against figures made here; and what to do about it.
//!
//! | module | owns |
//! |---|---|
//! | `facts` | what is so: read from the kernel, or tried |
//! | `advice` | what that means, and the commands that change it; pure |
//! | `hiccups` | how often a core is taken away from a program that does nothing but look at the clock |
//! | `route` | interface, MTU and GSO on the way to a target |
//! | `answer` | whether an engine is there |

mod advice;
mod answer;
mod facts;
mod hiccups;
mod route;

use crate::report::JsonTarget;
use advice::{Finding, Verdict};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// `doctor`
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The way there is looked at, too.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<String>,
    /// How long each core is watched.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = watched_seconds)]
    pub watch: f64,
    /// Where the findings go.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

fn watched_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not between 0.1 and 600 seconds")),
    }
}

/// Looks, and says what it found. Status 0, whatever that is: a machine is not wrong.
///
/// # Errors
/// A target that does not resolve; a report that cannot be written.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let json = JsonTarget::open(args.json.as_deref())?;
    let route = args.target.as_deref().map(route::look).transpose()?;
    let facts = facts::Facts::gather(args.watch);
    let mut findings = advice::of_machine(&facts);
    findings.extend(route.iter().flat_map(advice::of_route));
    if !json.takes_stdout() {
        show(&findings);
    }
    json.write(&serde_json::json!({
        "schema": 1,
        "environment": facts.environment,
        "facts": facts,
        "route": route,
        "findings": findings,
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn show(findings: &[Finding]) {
    for Finding { name, value, verdict, means, command } in findings {
        let mark = match verdict {
            Verdict::Good => "ok  ",
            Verdict::Note => "note",
            Verdict::Bad => "BAD ",
        };
        println!("{mark}  {name:<22}{value}");
        if !means.is_empty() {
            println!("      {:<22}{means}", "");
        }
        if let Some(command) = command {
            println!("      {:<22}  {command}", "");
        }
    }
    let bad = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    match bad {
        0 => println!("nothing here spoils figures"),
        _ => println!("{bad} of {} findings spoil figures", findings.len()),
    }
}
