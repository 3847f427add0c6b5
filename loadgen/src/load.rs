//! `udp-plus load`: the client half of `bench`, against a `serve` somewhere else.

use crate::cli::LoadArgs;
use crate::conduct;
use crate::environment::Environment;
use crate::judge::judge;
use crate::measured;
use crate::near_end::{NearEnd, traffic_each};
use crate::plan::Plan;
use crate::runs::{self, Measured};
use crate::setup::{self, Reach};
use crate::show;
use crate::stop::Stop;
use crate::targets::Targets;
use crate::words::Words;
use anyhow::Result;
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &LoadArgs) -> Result<ExitCode> {
    let load = Prepared::new(args.clone())?;
    runs::repeat(&args.engine, &args.load, |plan, stop, words| load.once(plan, stop, words))
}

/// Flags that were found to make sense.
pub struct Prepared {
    args: LoadArgs,
    reach: Reach,
    targets: Targets,
}

impl Prepared {
    /// What is wrong with the flags is said before anything is waited for.
    pub fn new(args: LoadArgs) -> Result<Self> {
        let reach = Reach::to_unknown(&args.engine)?;
        let plan = Plan::new(&args.engine, &args.load)?;
        let targets = Targets::resolve(&args.target)?;
        let bind = setup::any_port_toward(targets.of(0));
        setup::check(&setup::builder(&args.engine, bind, reach, traffic_each(&plan))?)?;
        Ok(Self { args, reach, targets })
    }

    /// One run.
    pub fn once(&self, plan: &Plan, stop: &Stop, words: Words) -> Result<Measured> {
        once(plan, self, stop, words)
    }
}

fn once(plan: &Plan, prepared: &Prepared, stop: &Stop, words: Words) -> Result<Measured> {
    let Prepared { args, reach, targets } = prepared;
    let environment = Environment::capture();
    let bind = setup::any_port_toward(targets.of(0));
    let client = NearEnd::start(plan, &args.engine, *reach, &bind, targets, None)?;
    let mut report = measured::settings(plan, &args.engine, *reach, &client.machinery()?, &environment);
    report.targets = args.target.iter().map(ToString::to_string).collect();
    let to: Vec<String> = targets.addresses().iter().map(ToString::to_string).collect();
    words.say(&format!("to {}\n{}", to.join(", "), show::settings(&report)));
    let mut conducted = conduct::conduct(plan, &client.run.progress, &client.parties(), stop);
    let failures: Vec<String> = client.parties().iter().filter_map(|party| party.failure()).collect();
    let (mut near, books) = client.finish()?;
    conducted.complete(&mut near, books.kernel_drops);
    let mut verdict = judge(plan.mode, plan.run, &mut near, None);
    verdict.causes.extend(failures);
    measured::add(&mut report, plan, &near, &[&books], &conducted, verdict);
    measured::add_ledgers(&mut report, &[&books], args.load.ledger.then_some(words));
    Ok(Measured { report, latency: near.latency, intervals: conducted.intervals })
}
