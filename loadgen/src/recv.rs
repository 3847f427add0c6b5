//! `udp-plus recv`: prints what comes. A message is accepted, and so confirmed to its sender, only if it will be printed:
//! with `--count N` no message beyond the N-th is taken, and no more wait for the printer than memory is set aside for.

use crate::cli::RecvArgs;
use crate::setup::{self, Reach, Traffic};
use crate::stop::Stop;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;
use udp_plus::{Actor, Context as ShardContext, MessageRef, Verdict};

/// Bytes that may wait to be printed, with this much added per message for its keeping.
const WAITING_BYTES_MAX: u64 = 256 << 20;
const KEEPING_BYTES: u64 = 128;

/// Runs the command.
pub fn run(args: &RecvArgs) -> Result<ExitCode> {
    let stop = Stop::on_signals()?;
    let (print, printer) = mpsc::channel();
    let gate = Arc::new(Gate {
        left: AtomicU64::new(args.count.unwrap_or(u64::MAX)),
        waiting_bytes: AtomicU64::new(0),
    });
    let builder = setup::builder(
        &args.engine,
        args.bind.clone(),
        Reach::to_unknown(&args.engine)?,
        Traffic::of_strangers(),
    )?;
    let engine = builder.actor(|_| Doorkeeper { gate: Arc::clone(&gate), print: print.clone() }).start()?;
    // With the shards' ends gone the printer knows that nothing more comes.
    drop(print);
    eprintln!("listening {}", engine.local_addr());
    let engine = Arc::new(engine);
    let ender = Arc::clone(&engine);
    std::thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait();
        ender.shutdown_blocking(Duration::ZERO);
    })?;
    let printed = print_all(&printer, &gate, args);
    let failure = engine.failure();
    engine.shutdown_blocking(Duration::ZERO);
    printed?;
    if let Some(failure) = failure {
        bail!("{failure}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints until `--count` is reached or the engine has stopped.
fn print_all(printer: &Receiver<Arrived>, gate: &Gate, args: &RecvArgs) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let Ok(arrived) = printer.recv() else { break };
        let line = if args.json { json_line(&arrived)? } else { text_line(&arrived) };
        out.write_all(&line).and_then(|()| out.flush()).context("cannot write to standard output")?;
        gate.printed(arrived.payload.len());
        left -= 1;
    }
    Ok(())
}

/// A message on its way to the printer.
struct Arrived {
    sender: SocketAddr,
    payload: Vec<u8>,
    sent_at: Option<f64>,
    lane: Option<u16>,
}

/// What may still be accepted; shared by all shards.
struct Gate {
    left: AtomicU64,
    waiting_bytes: AtomicU64,
}

impl Gate {
    /// A place for a message of `bytes`, if there is one.
    fn admit(&self, bytes: usize) -> bool {
        let cost = bytes as u64 + KEEPING_BYTES;
        if self.waiting_bytes.fetch_add(cost, Ordering::Relaxed) + cost > WAITING_BYTES_MAX + cost {
            self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
            return false;
        }
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if took.is_err() {
            self.waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
        }
        took.is_ok()
    }

    fn printed(&self, bytes: usize) {
        self.waiting_bytes.fetch_sub(bytes as u64 + KEEPING_BYTES, Ordering::Relaxed);
    }
}

struct Doorkeeper {
    gate: Arc<Gate>,
    print: Sender<Arrived>,
}

impl Actor for Doorkeeper {
    fn on_message(&mut self, _: &mut ShardContext<'_>, message: MessageRef<'_>) -> Verdict {
        if !self.gate.admit(message.payload.len()) {
            return Verdict::Refuse;
        }
        let sent_at = message.sent_at.map(udp_plus::units::UnixMicros::as_secs_f64);
        let (sender, payload) = (message.sender, message.payload.to_vec());
        let arrived = Arrived { sender, payload, sent_at, lane: message.lane() };
        match self.print.send(arrived) {
            Ok(()) => Verdict::Accept,
            Err(_) => Verdict::Refuse,
        }
    }
}

fn text_line(arrived: &Arrived) -> Vec<u8> {
    let mut line = arrived.payload.clone();
    line.push(b'\n');
    line
}

#[derive(Serialize)]
struct JsonLine<'a> {
    sender: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    sent_at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<u16>,
}

fn json_line(arrived: &Arrived) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(&arrived.payload).ok();
    let base64 = text.is_none().then(|| base64_simd::STANDARD.encode_to_string(&arrived.payload));
    let line = JsonLine {
        sender: arrived.sender.to_string(),
        payload: text,
        payload_base64: base64,
        sent_at: arrived.sent_at,
        lane: arrived.lane,
    };
    let mut line = serde_json::to_vec(&line)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(payload: &[u8], sent_at: Option<f64>) -> Arrived {
        Arrived { sender: ([10, 0, 0, 7], 9).into(), payload: payload.to_vec(), sent_at, lane: None }
    }

    #[test]
    fn json_lines() {
        let text =
            json_line(&arrived("a\n\"ü\"".as_bytes(), Some(1_764_123_456.123456))).expect("serializes");
        let expected =
            "{\"sender\":\"10.0.0.7:9\",\"payload\":\"a\\n\\\"ü\\\"\",\"sent_at\":1764123456.123456}\n";
        assert_eq!(String::from_utf8(text).as_deref(), Ok(expected));
        let bytes = json_line(&arrived(&[0xFF, 0], None)).expect("serializes");
        let expected = "{\"sender\":\"10.0.0.7:9\",\"payload_base64\":\"/wA=\",\"sent_at\":null}\n";
        assert_eq!(String::from_utf8(bytes).as_deref(), Ok(expected));
    }

    #[test]
    fn the_gate_admits_so_many_and_no_more() {
        let gate = Gate { left: AtomicU64::new(2), waiting_bytes: AtomicU64::new(0) };
        assert!(gate.admit(10) && gate.admit(10) && !gate.admit(10));
        gate.printed(10);
        gate.printed(10);
        assert_eq!(gate.waiting_bytes.load(Ordering::Relaxed), 0);
        // One message of any size passes an empty gate; the next has to wait.
        let gate = Gate { left: AtomicU64::new(9), waiting_bytes: AtomicU64::new(0) };
        assert!(gate.admit(WAITING_BYTES_MAX as usize) && !gate.admit(1));
    }
}
