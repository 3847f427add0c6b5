//! `udp-plus load`: the client half of `bench`, against a `serve` somewhere else.

use crate::bench;
use crate::cli::LoadArgs;
use crate::conduct;
use crate::environment::Environment;
use crate::judge::judge;
use crate::lock::MeasureLock;
use crate::measured;
use crate::near_end::{NearEnd, traffic};
use crate::plan::Plan;
use crate::report::{JsonTarget, Report};
use crate::setup::{self, Reach};
use crate::show;
use crate::stop::Stop;
use crate::words::Words;
use anyhow::Result;
use hdrhistogram::Histogram;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let plan = Plan::new(&args.engine, &args.load)?;
    let reach = Reach::to_unknown(&args.engine)?;
    setup::builder(&args.engine, String::new(), reach, traffic(&plan))?
        .options()
        .validate()
        .map_err(udp_plus::StartError::from)?;
    let target = setup::resolve(&args.target)?;
    let json = JsonTarget::open(args.load.json.as_deref())?;
    let words = Words::new(json.takes_stdout());
    let stop = Stop::on_signals()?;
    let _lock = MeasureLock::acquire()?;
    let mut runs = Vec::new();
    for number in 1..=args.load.repeat {
        if args.load.repeat > 1 {
            words.say(&format!("run {number} of {}", args.load.repeat));
        }
        let plan = Plan::new(&args.engine, &args.load)?;
        let (report, latency) = once(&plan, args, reach, target, &stop, &words)?;
        words.say(&show::run(&report, &latency));
        runs.push(report);
        if stop.is_requested() {
            break;
        }
    }
    bench::finish(&runs, json, &words)
}

fn once(
    plan: &Plan,
    args: &LoadArgs,
    reach: Reach,
    target: SocketAddr,
    stop: &Stop,
    words: &Words,
) -> Result<(Report, Histogram<u64>)> {
    let environment = Environment::capture();
    let client = NearEnd::start(plan, &args.engine, reach, setup::any_port_toward(target), target)?;
    let mut report = measured::settings(plan, &args.engine, reach, &client.engine, &environment);
    words.say(&format!("to {target}\n{}", show::settings(&report)));
    let conducted = conduct::conduct(plan, &client.run.progress, &[&client.engine], stop);
    let failure = client.engine.failure();
    let (mut near, stats) = client.finish()?;
    let mut verdict = judge(plan.mode, plan.run, &mut near, None);
    verdict.causes.extend(failure);
    measured::add(&mut report, plan, &near, &[stats], false, &conducted, verdict);
    Ok((report, near.latency))
}
