//! `udp-plus serve`: the server half of `bench`, for `load` somewhere else. Runs until Ctrl-C.

use crate::audit::Audit;
use crate::cli::ServeArgs;
use crate::far_end::FarEnd;
use crate::ledger::{self, EndLedger};
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

/// Until somebody asks to stop. At every SIGHUP keys are read again, if there are any.
fn wait(stop: &Stop, engine: &Engine, has_keys: bool) -> Result<()> {
    if !has_keys {
        stop.wait();
        return Ok(());
    }
    let mut signals = Signals::new([SIGHUP]).context("cannot listen to SIGHUP")?;
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
    Ok(())
}

/// Runs the command.
pub fn run(args: &ServeArgs) -> Result<ExitCode> {
    let reach = Reach::to_unknown(&args.engine)?;
    let stop = Stop::on_signals()?;
    let builder = setup::builder(&args.engine, args.bind.clone(), reach, Traffic::of_strangers())?;
    // The last cores, so that a `load --pin` on the same machine, which takes the first ones, is not in the way.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let builder = builder.pin_first_core(u16::try_from(cores)?.saturating_sub(args.engine.shards));
    let server = FarEnd::start(builder, args.mode, args.api, stop.clone(), None, Audit::of_all)?;
    eprintln!("listening {}", server.engine.local_addr());
    let driver = server.engine.driver();
    eprintln!("{}, api {}, driver {} ({})", args.mode, args.api, driver.kind, driver.reason);
    wait(&stop, &server.engine, args.engine.key_file.is_some())?;
    let failure = server.engine.failure();
    let (record, stats, ledger) = server.finish(DRAIN_MAX)?;
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
        stats.kernel_drops.map_or_else(|| "unknown".into(), |drops| count(drops as f64))
    );
    println!("trains received {}", count(stats.total.get("trains_received") as f64));
    for (cause, lost) in &record.echo_failed {
        println!("FAILED: {lost} echoes: {cause}");
    }
    if let Some(failure) = &failure {
        println!("FAILED: {failure}");
    }
    if args.ledger {
        print!("{}", ledger::show(&[("far", &ledger)]));
    }
    let wrong = EndLedger::new("far", &ledger).cause();
    if let Some(wrong) = &wrong {
        println!("FAILED: {wrong}");
    }
    let well = audit.duplicates == 0 && record.echo_failed.is_empty() && failure.is_none() && wrong.is_none();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
