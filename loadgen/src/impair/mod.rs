//! `impair`: a bad network between two ends, one datagram at a time, that tells exactly what it did.
//!
//! | module | owns |
//! |---|---|
//! | `args` | its flags |
//! | `link` | what becomes of a datagram, from a seed; no sockets, no clock |
//! | `relay` | the sockets, and what waits |
//!
//! ```text
//!   client A --> [--listen] --> socket A --> --to      one socket a client, so that the far end sees each of them
//!   client B -->            --> socket B -->
//! ```
//! It receives without GRO: what is sent as a train comes as single datagrams, and each is judged by itself.

mod args;
mod link;
mod relay;

pub use args::ImpairArgs;

use crate::report::JsonTarget;
use crate::setup::resolve;
use crate::stop::Stop;
use anyhow::{Context, Result, ensure};
use args::Way;
use link::{Counts, Impairments};
use relay::Relay;
use serde::Serialize;
use std::net::SocketAddr;
use std::process::ExitCode;

/// What it did, as JSON. Datagrams, unless the name says otherwise.
#[derive(Debug, Serialize)]
struct ImpairReport {
    schema: u32,
    seed: u64,
    listen: SocketAddr,
    to: SocketAddr,
    impairments: Impairments,
    /// Whether they hold for what clients send, and for what comes back.
    up: bool,
    down: bool,
    clients: u64,
    /// Toward `to`, and back.
    sent_up: Counts,
    sent_down: Counts,
    /// At full receive buffers of this relay, in kernel packets: these were not impaired, but lost.
    kernel_drops: Option<u64>,
    /// What came, less what became of it. 0, or the relay is wrong.
    residual: i64,
    /// Whether nothing was lost that was not asked for.
    valid: bool,
    invalid_reason: Option<String>,
    seconds: f64,
}

/// Runs until Ctrl-C, or for `--duration`.
///
/// # Errors
/// Addresses that do not resolve, sockets that cannot be opened, a report that cannot be written.
pub fn run(args: &ImpairArgs) -> Result<ExitCode> {
    let listen = resolve(&args.listen).context("--listen")?;
    let to = resolve(&args.to).context("--to")?;
    ensure!(listen.is_ipv4() == to.is_ipv4(), "--listen and --to must be both IPv4 or both IPv6");
    let impairments = Impairments::from_args(args)?;
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let (up, down) = (args.only != Some(Way::Down), args.only != Some(Way::Up));
    let json = JsonTarget::open(args.json.as_deref())?;
    let none = Impairments::default();
    let ways = [if up { &impairments } else { &none }, if down { &impairments } else { &none }];
    let mut relay = Relay::open(listen, to, ways, seed)
        .with_context(|| format!("cannot relay from {listen} to {to}: is the address free, and ours?"))?;
    let listen = relay.address()?;
    eprintln!("listening {listen}");
    eprintln!("relaying to {to}, seed {seed}; Ctrl-C ends it");
    let stop = Stop::on_signals()?;
    relay.run(&stop, args.duration.map(|duration| duration.0))?;
    let (sent_up, sent_down) = relay.counts();
    let kernel_drops = relay.kernel_drops();
    let invalid_reason = invalid_reason(kernel_drops);
    let report = ImpairReport {
        schema: 1,
        seed,
        listen,
        to,
        impairments,
        up,
        down,
        clients: relay.clients(),
        sent_up,
        sent_down,
        kernel_drops,
        residual: sent_up.residual() + sent_down.residual(),
        valid: invalid_reason.is_none(),
        invalid_reason,
        seconds: relay.seconds(),
    };
    if !json.takes_stdout() {
        show(&report);
    }
    json.write(&serde_json::to_value(&report)?)?;
    ensure!(
        report.residual == 0,
        "the relay lost count of {} datagrams: please report this",
        report.residual
    );
    Ok(ExitCode::SUCCESS)
}

/// Why a run through it was not what its flags say, if so.
fn invalid_reason(kernel_drops: Option<u64>) -> Option<String> {
    match kernel_drops {
        Some(0) => None,
        Some(drops) => Some(format!("the relay's own sockets lost {drops} packets, which nobody asked for")),
        None => Some("nobody knows what the relay's own sockets lost: the kernel does not say".to_owned()),
    }
}

/// Whether these impairments make sense.
///
/// # Errors
/// Why not.
pub fn check(args: &ImpairArgs) -> Result<()> {
    Impairments::from_args(args).map(|_| ())
}

fn show(report: &ImpairReport) {
    println!("{:<24}{:>16}{:>16}", "datagrams", "up", "down");
    for ((name, up), (_, down)) in report.sent_up.rows().into_iter().zip(report.sent_down.rows()) {
        println!("{name:<24}{up:>16}{down:>16}");
    }
    println!("{:<24}{:>16}", "clients", report.clients);
    match report.kernel_drops {
        Some(drops) => println!("{:<24}{drops:>16}", "dropped by the kernel"),
        None => println!("{:<24}{:>16}", "dropped by the kernel", "unknown"),
    }
    if let Some(reason) = &report.invalid_reason {
        println!("NOT VALID: {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_relay_lost_by_itself_was_not_asked_for() {
        let says = |drops| invalid_reason(drops).unwrap_or_default();
        assert_eq!(says(Some(0)), "");
        assert!(says(Some(3)).contains("lost 3 packets"));
        assert!(says(None).contains("nobody knows"));
    }
}
