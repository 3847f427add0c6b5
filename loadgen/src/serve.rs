//! `udp-plus serve`: the server half of `bench`, for `load` somewhere else. Runs until Ctrl-C.

use crate::audit::Audit;
use crate::cli::{Protocol, ServeArgs};
use crate::far_end::FarEnd;
use crate::ledger::EndLedger;
use crate::measured::Machinery;
use crate::plain;
use crate::setup::{self, Reach, Traffic};
use crate::show::count;
use crate::stop::Stop;
use anyhow::{Context, Result};
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use std::process::ExitCode;
use std::time::Duration;
use udp_plus::Engine;

/// Echoes under way may take this long to end after Ctrl-C.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Until somebody asks to stop. At every one of `hang_ups` an engine with keys reads them again.
fn wait(stop: &Stop, hang_ups: Option<Signals>, engine: Option<&Engine>) {
    let (Some(mut signals), Some(engine)) = (hang_ups, engine) else { return stop.wait() };
    let handle = signals.handle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in signals.forever() {
                match engine.reload_keys() {
                    Ok(()) => eprintln!("keys read again"),
                    Err(error) => eprintln!("keys as before: {error}"),
                }
            }
        });
        stop.wait();
        handle.close();
    });
}

fn start(args: &ServeArgs, stop: &Stop) -> Result<FarEnd> {
    // The last cores, so that a `load --pin` on the same machine, which takes the first ones, is not in the way.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = u16::try_from(cores)?.saturating_sub(args.engine.shards);
    if args.protocol != Protocol::UdpPlus {
        let place = (setup::resolve(&args.bind)?, usize::from(core));
        let what = (args.protocol, args.mode);
        return FarEnd::start_plain(what, &args.engine, place, stop, None, Audit::of_all);
    }
    let reach = Reach::to_unknown(&args.engine)?;
    let builder = setup::builder(&args.engine, args.bind.clone(), reach, Traffic::of_strangers())?;
    FarEnd::start(builder.pin_first_core(core), args.mode, args.api, stop.clone(), None, Audit::of_all)
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    plain::check_flags(args.protocol, args.mode, args.api, &args.engine)?;
    let stop = Stop::on_signals()?;
    let server = start(args, &stop)?;
    // Before anybody can know that there is a server: who sends one at once must not end it.
    let hang_ups = args.engine.key_file.is_some().then(|| Signals::new([SIGHUP]));
    let hang_ups = hang_ups.transpose().context("cannot listen to SIGHUP")?;
    eprintln!("listening {}", server.local_addr()?);
    let machinery = server.machinery();
    let Machinery { driver, reason, .. } = &machinery;
    match server.engine() {
        Some(_) => eprintln!("{}, api {}, driver {driver} ({reason})", args.mode, args.api),
        None => eprintln!("{}, {reason}", args.mode),
    }
    wait(&stop, hang_ups, server.engine());
    let failure = server.party().failure();
    let (record, books) = server.finish(DRAIN_MAX)?;
    let audit = &record.audit;
    println!("received        {}", count(audit.received as f64));
    println!("payload bytes   {}", count(audit.received_bytes as f64));
    println!("runs of load    {}", audit.run_count());
    println!("twice           {}", count(audit.duplicates as f64));
    println!("not from load   {}", count(audit.foreign as f64));
    if audit.unaudited > 0 {
        println!("twice or not?   {} (no memory left to tell)", count(audit.unaudited as f64));
    }
    println!(
        "kernel drops    {}",
        books.kernel_drops.map_or_else(|| "unknown".into(), |drops| count(drops as f64))
    );
    if let Some(trains) = books.trains_received {
        println!("trains received {}", count(trains as f64));
    }
    for (cause, lost) in &record.echo_failed {
        println!("FAILED: {lost} echoes: {cause}");
    }
    if let Some(failure) = &failure {
        println!("FAILED: {failure}");
    }
    if args.ledger {
        print!("{}", books.ledger_words);
    }
    let wrong = books.ledger.as_ref().and_then(EndLedger::cause);
    if let Some(wrong) = &wrong {
        println!("FAILED: {wrong}");
    }
    let well = audit.duplicates == 0 && record.echo_failed.is_empty() && failure.is_none() && wrong.is_none();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
