//! A command line as far as it can be looked at without doing anything.

use crate::cli::{BenchArgs, Cli, Command, EngineFlags, LoadFlags, ServeArgs};
use crate::plain;
use crate::plan::Plan;
use crate::setup::{self, Reach, Traffic};
use crate::{find_rate, impair};
use anyhow::Result;

/// Whether the tool would begin with this: everything up to where sockets and threads would come.
///
/// # Errors
/// Why not.
pub fn check(cli: &Cli) -> Result<()> {
    match &cli.command {
        None => bench(&cli.bench),
        Some(Command::Bench(args)) => bench(args),
        Some(Command::Load(args)) => load(&args.engine, &args.load),
        Some(Command::Serve(args)) => serve(args),
        Some(Command::Recv(args)) => engine(&args.engine, &args.bind, Traffic::of_strangers()),
        Some(Command::Send(args)) => engine(&args.engine, "0.0.0.0:0", Traffic::of(1 << 20, 1)),
        Some(Command::Search(args)) => {
            find_rate::check(args)?;
            load(&args.engine, &find_rate::first(args))
        }
        Some(Command::Impair(args)) => impair::check(args),
        Some(
            Command::Baseline(_)
            | Command::Flags
            | Command::Compare(_)
            | Command::Ab(_)
            | Command::Run(_)
            | Command::Doctor(_),
        ) => Ok(()),
    }
}

fn serve(args: &ServeArgs) -> Result<()> {
    plain::check_flags(args.protocol, args.mode, args.api, &args.engine)?;
    engine(&args.engine, &args.bind, Traffic::of_strangers())
}

fn bench(args: &BenchArgs) -> Result<()> {
    load(&args.engine, &args.load)
}

fn load(flags: &EngineFlags, load: &LoadFlags) -> Result<()> {
    let plan = Plan::new(flags, load)?;
    assert!(plan.size > 0 && plan.in_flight > 0 && plan.slots_each() > 0);
    engine(flags, "127.0.0.1:0", Traffic::of(plan.size as u64, plan.in_flight as u64))
}

fn engine(flags: &EngineFlags, bind: &str, traffic: Traffic) -> Result<()> {
    for reach in [Reach::to_unknown(flags)?, Reach::to_ourselves(flags)?] {
        let builder = setup::builder(flags, bind.to_owned(), reach, traffic)?;
        setup::check(&builder)?;
        // What an engine takes, it can say the size of.
        let bytes = builder.options().footprint().total_bytes();
        assert!(bytes > 0);
    }
    Ok(())
}
