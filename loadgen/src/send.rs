//! `udp-plus send`: one message and its outcome.

use crate::cli::SendArgs;
use crate::setup::{self, Reach, Traffic};
use crate::show;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;
use udp_plus::Outgoing;

/// Runs the command.
pub fn run(args: &SendArgs) -> Result<ExitCode> {
    let payload = payload(args.text.as_deref().unwrap_or(OsStr::new("-")))?;
    let bytes = payload.len();
    let target = setup::resolve(&setup::host_port(&args.host, args.port))?;
    let traffic = Traffic::of(bytes as u64, 1);
    let reach = Reach::to_unknown(&args.engine)?;
    let mut builder = setup::builder(&args.engine, setup::any_port_toward(target), reach, traffic)?;
    let mut outgoing = Outgoing::to(target, payload);
    if let Some(timeout) = args.timeout {
        // The deadline decides, not the number of tries: whoever asks for a minute wants a minute.
        builder = builder.tries_max(255).try_span_max(timeout.0.max(Duration::from_millis(1)));
        outgoing = outgoing.deadline(timeout.0);
    }
    let engine = builder.start()?;
    let outcome = engine.send_bucket().try_put(outgoing).map_err(|error| error.reason)?.wait();
    let failure = engine.failure();
    engine.shutdown_blocking(Duration::ZERO);
    match (outcome, failure) {
        (Ok(delivered), _) => {
            let rtt = show::time(crate::clock::ns(delivered.rtt) as f64);
            eprintln!("delivered {bytes} bytes to {target} in {rtt}, tries {}", delivered.tries);
            Ok(ExitCode::SUCCESS)
        }
        (Err(error), None) => bail!("{bytes} bytes to {target}: {error}"),
        (Err(error), Some(failure)) => bail!("{bytes} bytes to {target}: {error}; {failure}"),
    }
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
