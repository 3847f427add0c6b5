//! `udp-plus`: the tool people run. `udp-plus --help` shows what it does; each command has a module of its name. A library
//! only for the fuzzer (`cli_fuzz`): nobody else is to use it.
//!
//! | modules | what |
//! |---|---|
//! | `cli`, `flags`, `size`, `configure`, `error` | the command line and its one table of flags |
//! | `bench`, `load`, `serve`, `send`, `recv` | the commands |
//! | `find_rate` (command `search`), `compare`, `ab`, `suite` (command `run`) | the commands that run others, or read what they wrote |
//! | `search`, `slo`, `stats` | the statistics of these, pure |
//! | `plan`, `generator`, `schedule`, `sizes`, `slots`, `supply`, `payload`, `targets` | what is sent when, apart from any engine |
//! | `client_actor`, `client_buckets`, `server` | the same through an engine's two kinds of interface |
//! | `near_end`, `far_end`, `setup`, `conduct`, `progress`, `intervals`, `live`, `stop` | engines and threads from start to stop |
//! | `audit`, `bitmap`, `record`, `stages`, `judge`, `end_books`, `conserve` | both ends' books and the verdict |
//! | `runs`, `measured`, `ledger`, `distribution`, `explain`, `report`, `show`, `words` | what is said about it |
//! | `plain` | UDP and TCP without any engine, under the same load |
//! | `impair` | a bad network to measure through |
//! | `doctor` | what of the machine, and of the way to a target, spoils figures |
//! | `synthetic` (a test) | the generator against servers that are known |
//! | `cli_fuzz` | the command line with whatever is typed |
//! | `cost` (a test) | what all this costs per message |
//! | `baseline`, `environment`, `load_watch`, `lock`, `clock`, `udp_drops` | the machine |

mod ab;
mod audit;
mod baseline;
mod bench;
mod bitmap;
mod cli;
#[doc(hidden)]
pub mod cli_fuzz;
mod client_actor;
mod client_buckets;
mod clock;
mod compare;
mod conduct;
mod configure;
mod conserve;
#[cfg(test)]
mod cost;
mod distribution;
mod doctor;
mod end_books;
mod environment;
mod error;
mod explain;
mod far_end;
mod find_rate;
mod flags;
mod generator;
mod impair;
mod intervals;
mod judge;
mod ledger;
mod live;
mod load;
mod load_watch;
mod lock;
mod measured;
mod near_end;
mod payload;
mod plain;
mod plan;
mod progress;
mod record;
mod recv;
mod report;
mod runs;
mod schedule;
mod search;
mod send;
mod serve;
mod server;
mod setup;
mod show;
mod size;
mod sizes;
mod slo;
mod slots;
mod stages;
mod stats;
mod stop;
mod suite;
mod supply;
#[cfg(test)]
mod synthetic;
mod targets;
mod udp_drops;
mod words;

use anyhow::Result;
use cli::{BaselineArgs, Command};
use std::process::ExitCode;

/// The tool.
#[doc(hidden)]
#[must_use]
pub fn main() -> ExitCode {
    suite::end_with_plan();
    let cli = cli::parse();
    show_warnings();
    run(cli).unwrap_or_else(|error| {
        eprintln!("udp-plus: {error:#}");
        error::exit_code(&error)
    })
}

fn run(cli: cli::Cli) -> Result<ExitCode> {
    match cli.command {
        None => bench::run(&cli.bench),
        Some(Command::Bench(args)) => bench::run(&args),
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Load(args)) => load::run(&args),
        Some(Command::Send(args)) => send::run(&args),
        Some(Command::Recv(args)) => recv::run(&args),
        Some(Command::Doctor(args)) => doctor::run(&args),
        Some(Command::Impair(args)) => impair::run(&args),
        Some(Command::Search(args)) => find_rate::run(&args),
        Some(Command::Run(args)) => suite::run(&args),
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Ab(args)) => ab::run(&args),
        Some(Command::Baseline(args)) => measure_baseline(&args),
        Some(Command::Flags) => {
            print!("{}", flags::markdown());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn measure_baseline(args: &BaselineArgs) -> Result<ExitCode> {
    let _lock = lock::MeasureLock::acquire(&stop::Stop::default())?;
    let size = usize::try_from(args.size.0)?;
    if let Some(address) = args.tcp_to {
        let place = baseline::Place { address, netns: args.netns.clone() };
        let figures = baseline::tcp_to(&place, size, args.seconds)?;
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut measure = baseline::Measure::new(size);
    measure.add(args.seconds)?;
    println!("{}", serde_json::to_string_pretty(&measure.figures())?);
    Ok(ExitCode::SUCCESS)
}

/// The engine's warnings (a small socket buffer, say) reach the user as lines on standard error.
fn show_warnings() {
    let lines = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::WARN);
    lines.with_writer(std::io::stderr).without_time().with_target(false).with_ansi(false).init();
}
