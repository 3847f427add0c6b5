//! Whether an engine is at a target: one message of text goes there, over the binary wire, and, if nobody speaks that, as a row. Its
//! application gets it; `serve` counts it as not from `load`.

use crate::clock;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;
use udp_plus::{Engine, Outgoing, Preset, Wire};

/// What goes there.
const TEXT: &str = "udp-plus doctor";
/// How long it may take, on each wire.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// What is published is looked at so often.
const LOOKS_EVERY: Duration = Duration::from_millis(1);

/// What came back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// `binary` or `csv`.
    pub wire: &'static str,
    /// From the message's transmission to its confirm.
    pub rtt_us: Option<f64>,
    /// Payload of the longest datagram that is known to get there; null over CSV.
    pub datagram_bytes: Option<u64>,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// Asks, and waits.
pub fn ask(to: SocketAddr) -> Answer {
    let answer = over(to, Wire::Binary, "binary");
    if answer.error.is_none() {
        return answer;
    }
    let rows = over(to, Wire::Csv, "csv");
    if rows.error.is_none() { rows } else { answer }
}

fn over(to: SocketAddr, wire: Wire, name: &'static str) -> Answer {
    let mut answer = Answer { wire: name, rtt_us: None, datagram_bytes: None, error: None };
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let engine = match Engine::builder().preset(Preset::Small).wire(wire).bind(any).start() {
        Ok(engine) => engine,
        Err(error) => return Answer { error: Some(error.to_string()), ..answer },
    };
    let outcome = engine.send_bucket().blocking_put(Outgoing::to(to, TEXT).deadline(ANSWERS_WITHIN));
    match outcome.map(|delivery| delivery.wait()) {
        Ok(Ok(delivered)) => answer.rtt_us = Some(delivered.rtt().as_secs_f64() * 1e6),
        Ok(Err(error)) => answer.error = Some(error.to_string()),
        Err(error) => answer.error = Some(error.reason.to_string()),
    }
    answer.datagram_bytes = match wire {
        Wire::Csv => None,
        Wire::Auto | Wire::Binary => published_datagram_bytes(&engine, answer.rtt_us.is_some()),
    };
    answer
}

/// What the shard knows of the path. It publishes that when it sleeps, somewhat after the message's outcome.
fn published_datagram_bytes(engine: &Engine, is_due: bool) -> Option<u64> {
    let until = clock::now() + ANSWERS_WITHIN;
    loop {
        match engine.stats().datagram_bytes {
            None if is_due && clock::now() < until => clock::sleep(LOOKS_EVERY),
            known => return known.map(u64::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_of_either_wire_answers() {
        for (wire, name) in [(Wire::Binary, "binary"), (Wire::Auto, "binary"), (Wire::Csv, "csv")] {
            let there = Engine::builder()
                .preset(Preset::Small)
                .wire(wire)
                .bind("127.0.0.1:0")
                .start()
                .expect("sockets");
            let answer = ask(there.local_addr());
            assert_eq!((answer.wire, &answer.error), (name, &None), "{wire:?}");
            assert!(
                answer.rtt_us.is_some() && answer.datagram_bytes.is_some() == (name == "binary"),
                "{answer:?}"
            );
            let message = there.recv_bucket().blocking_get().expect("it came");
            assert_eq!(message.payload(), TEXT.as_bytes());
        }
    }
}
