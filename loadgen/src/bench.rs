//! `udp-plus bench`: client and server on loopback in one process, between two halves of the raw-socket baseline.

use crate::audit::Audit;
use crate::baseline::Measure;
use crate::cli::{BenchArgs, Protocol};
use crate::conduct::{self, Conducted};
use crate::environment::Environment;
use crate::far_end::FarEnd;
use crate::judge::judge;
use crate::load_watch::Sample;
use crate::measured;
use crate::near_end::{NearEnd, traffic};
use crate::plan::Plan;
use crate::runs::{self, Measured};
use crate::setup::{self, Reach};
use crate::show;
use crate::stages::Received;
use crate::stop::Stop;
use crate::targets::Targets;
use crate::words::Words;
use anyhow::Result;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

const LOOPBACK: &str = "127.0.0.1:0";

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let bench = Prepared::new(args.clone())?;
    runs::repeat(&args.engine, &args.load, |plan, stop, words| bench.once(plan, stop, words))
}

/// Flags that were found to make sense.
pub struct Prepared {
    args: BenchArgs,
    reach: Reach,
}

impl Prepared {
    /// What is wrong with the flags is said before anything is waited for.
    pub fn new(args: BenchArgs) -> Result<Self> {
        let reach = Reach::to_ourselves(&args.engine)?;
        let plan = Plan::new(&args.engine, &args.load)?;
        setup::check(&setup::builder(&args.engine, LOOPBACK.to_owned(), reach, traffic(&plan))?)?;
        Ok(Self { args, reach })
    }

    fn once(&self, plan: &Plan, stop: &Stop, words: Words) -> Result<Measured> {
        once(plan, self, stop, words)
    }

    /// The run itself: both engines, from start to stop.
    pub fn engines(&self, plan: &Plan, stop: &Stop, words: Words) -> Result<Measured> {
        engines(plan, &self.args, self.reach, &Environment::capture(), stop, words)
    }
}

/// One run between two halves of the baseline.
fn once(plan: &Plan, bench: &Prepared, stop: &Stop, words: Words) -> Result<Measured> {
    let mut baseline = Measure::new((plan.lengths.mean() as usize).max(1));
    let half = bench.args.baseline / 2.0;
    let mut other_load = None;
    let mut measure_half = |baseline: &mut Measure| -> Result<()> {
        if half > 0.0 && !stop.is_requested() {
            let before = Sample::now();
            baseline.add(half)?;
            other_load = other_load.take().or_else(|| Sample::now().since(&before).invalid_reason());
        }
        Ok(())
    };
    if half > 0.0 {
        words.say("raw sockets ...");
    }
    measure_half(&mut baseline)?;
    let mut measured = bench.engines(plan, stop, words)?;
    measure_half(&mut baseline)?;
    measured::add_baseline(&mut measured.report, baseline.figures(), other_load);
    Ok(measured)
}

/// The run itself: both engines, from start to stop.
fn engines(
    plan: &Plan,
    args: &BenchArgs,
    reach: Reach,
    environment: &Environment,
    stop: &Stop,
    words: Words,
) -> Result<Measured> {
    let flags = &args.engine;
    let slots = plan.slots_each() * plan.generators;
    let received = plan.stages.then(|| Arc::new(Received::new(slots)));
    let audit = || Audit::of_run(plan.expected(), plan.numbers_expected());
    let start_server = |reach: Reach| -> Result<FarEnd> {
        if plan.protocol != Protocol::UdpPlus {
            let what = (plan.protocol, plan.mode);
            let place = (setup::resolve(LOOPBACK)?, usize::from(flags.shards));
            return FarEnd::start_plain(what, flags, place, &Stop::default(), received.clone(), audit);
        }
        // Behind the client's cores.
        let builder =
            setup::builder(flags, LOOPBACK.to_owned(), reach, traffic(plan))?.pin_first_core(flags.shards);
        FarEnd::start(builder, plan.mode, plan.api, Stop::default(), received.clone(), audit)
    };
    let mut server = start_server(reach)?;
    let granted = server.engine().map_or(reach, |engine| reach.within(flags, engine.rcvbuf_bytes()));
    if granted != reach {
        // The system grants less buffer than asked for: the window has to fit it, both ways.
        server.finish(Duration::ZERO)?;
        server = start_server(granted)?;
    }
    let target = server.local_addr()?;
    let client = NearEnd::start(plan, flags, granted, LOOPBACK, &Targets::one(target), received)?;
    let mut report = measured::settings(plan, flags, granted, &client.machinery()?, environment);
    report.rcvbuf_bytes = report.rcvbuf_bytes.min(server.machinery().rcvbuf_bytes);
    words.say(&show::settings(&report));
    let mut ends = client.parties();
    ends.push(server.party());
    let mut conducted: Conducted = conduct::conduct(plan, &client.run.progress, &ends, stop);
    let failures: Vec<String> = ends.iter().filter_map(|end| end.failure()).collect();
    // The server first: its last echoes want to be confirmed.
    let (far, far_books) = server.finish(Duration::from_secs(2))?;
    let (mut near, near_books) = client.finish()?;
    let ends = [&near_books, &far_books];
    conducted.complete(&mut near, ends.iter().map(|end| end.kernel_drops).sum());
    let mut verdict = judge(plan.mode, plan.run, &mut near, Some(&far));
    verdict.causes.extend(failures);
    measured::add(&mut report, plan, &near, &ends, &conducted, verdict);
    measured::add_ledgers(&mut report, &ends, args.load.ledger.then_some(words));
    Ok(Measured { report, latency: near.latency, intervals: conducted.intervals })
}
