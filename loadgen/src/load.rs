//! `udp-plus load`: the client half of `bench`, against a `serve` somewhere else.

use crate::cli::LoadArgs;
use crate::conduct;
use crate::environment::Environment;
use crate::judge::judge;
use crate::measured;
use crate::near_end::{NearEnd, traffic};
use crate::plan::Plan;
use crate::runs::{self, Measured};
use crate::setup::{self, Reach};
use crate::show;
use crate::stop::Stop;
use crate::words::Words;
use anyhow::Result;
use std::net::SocketAddr;
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
    target: SocketAddr,
}

impl Prepared {
    /// What is wrong with the flags is said before anything is waited for.
    pub fn new(args: LoadArgs) -> Result<Self> {
        let reach = Reach::to_unknown(&args.engine)?;
        let plan = Plan::new(&args.engine, &args.load)?;
        let target = setup::resolve(&args.target)?;
        setup::check(&setup::builder(&args.engine, setup::any_port_toward(target), reach, traffic(&plan))?)?;
        Ok(Self { args, reach, target })
    }

    /// One run.
    pub fn once(&self, plan: &Plan, stop: &Stop, words: Words) -> Result<Measured> {
        once(plan, &self.args, self.reach, self.target, stop, words)
    }
}

fn once(
    plan: &Plan,
    args: &LoadArgs,
    reach: Reach,
    target: SocketAddr,
    stop: &Stop,
    words: Words,
) -> Result<Measured> {
    let environment = Environment::capture();
    let client = NearEnd::start(plan, &args.engine, reach, setup::any_port_toward(target), target, None)?;
    let mut report = measured::settings(plan, &args.engine, reach, &client.machinery(), &environment);
    words.say(&format!("to {target}\n{}", show::settings(&report)));
    let mut conducted = conduct::conduct(plan, &client.run.progress, &[client.party()], stop);
    let failure = client.party().failure();
    let (mut near, books) = client.finish()?;
    conducted.complete(&mut near, books.kernel_drops);
    let mut verdict = judge(plan.mode, plan.run, &mut near, None);
    verdict.causes.extend(failure);
    measured::add(&mut report, plan, &near, &[&books], &conducted, verdict);
    measured::add_ledgers(&mut report, &[&books], args.load.ledger.then_some(words));
    Ok(Measured { report, latency: near.latency, intervals: conducted.intervals })
}
