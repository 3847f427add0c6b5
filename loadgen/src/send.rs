//! `udp-plus send`: one message and its outcome.

use crate::cli::SendArgs;
use crate::error::usage;
use crate::setup::{self, Reach, Traffic};
use crate::show;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;
use udp_plus::{Builder, Config, Outgoing};

/// Runs the command.
pub fn run(args: &SendArgs) -> Result<ExitCode> {
    let payload = payload(args.text.as_deref().unwrap_or(OsStr::new("-")))?;
    let bytes = payload.len();
    let target = setup::resolve(&setup::host_port(&args.host, args.port))?;
    let traffic = Traffic::of(bytes as u64, 1);
    if args.lane.is_some() && !args.engine.has_binary() {
        return Err(usage("--lane is an option of the binary wire, and --wire is csv"));
    }
    let reach = Reach::to_unknown(&args.engine)?;
    let mut builder = setup::builder(&args.engine, setup::any_port_toward(target), reach, traffic)?;
    let mut outgoing = Outgoing::to(target, payload);
    if let Some(timeout) = args.timeout {
        builder = patient(builder, timeout.0);
        outgoing = outgoing.deadline(timeout.0);
    }
    if let Some(lane) = args.lane {
        outgoing = outgoing.lane(lane);
    }
    let engine = builder.start()?;
    let outcome = engine.send_bucket().try_put(outgoing).map_err(|error| error.reason)?.wait();
    let failure = engine.failure();
    engine.shutdown_blocking(Duration::ZERO);
    match (outcome, failure) {
        (Ok(delivered), _) => {
            let rtt = show::time(crate::clock::ns(delivered.rtt()) as f64);
            eprintln!("delivered {bytes} bytes to {target} in {rtt}, tries {}", delivered.tries);
            Ok(ExitCode::SUCCESS)
        }
        (Err(error), None) => bail!("{bytes} bytes to {target}: {error}"),
        (Err(error), Some(failure)) => bail!("{bytes} bytes to {target}: {error}; {failure}"),
    }
}

/// Tries often enough to fill `timeout`: the deadline decides, not the number of tries. Whoever asks for a minute wants a
/// minute.
fn patient(builder: Builder, timeout: Duration) -> Builder {
    let usual = Config::default();
    let span = timeout.max(Duration::from_millis(1));
    builder
        .tries_max(255)
        .try_span_max(span)
        // R-PARTIAL-1 and 2: the engine wants a receiver with its own limits to remember for as long as a sender tries.
        .partial_idle_max(span.max(usual.partial_idle_max))
        .dedup_horizon((span + Duration::from_secs(1)).max(usual.dedup_horizon))
        // 200 of the 255 tries reach to the end, the rest are for those that come quicker at first.
        .rto_max((span / 200).max(usual.rto_max))
}

/// The message itself, unchanged.
fn payload(text: &OsStr) -> Result<Vec<u8>> {
    if text == "-" {
        let mut payload = Vec::new();
        std::io::stdin().lock().read_to_end(&mut payload).context("cannot read standard input")?;
        return Ok(payload);
    }
    match text.as_bytes().strip_prefix(b"@") {
        Some(path) => {
            let path = OsStr::from_bytes(path);
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        }
        None => Ok(text.as_bytes().to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use udp_plus::Engine;

    #[test]
    fn the_engine_takes_any_timeout_the_command_line_takes() {
        for seconds in [1e-9, 0.3, 8.0, 10.0, 11.0, 60.0, 600.0, crate::cli::TIMEOUT_S_MAX] {
            let builder = patient(Engine::builder(), Duration::from_secs_f64(seconds));
            assert_eq!(builder.options().validate(), Ok(()), "--timeout {seconds}");
            let options = builder.options();
            let tried = options.rto_max * options.tries_max;
            assert!(tried >= options.try_span_max, "--timeout {seconds} ends after {tried:?}");
        }
    }
}
