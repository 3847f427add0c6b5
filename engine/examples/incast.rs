//! Many engines send one message each to one receiver, all at once: `incast [SENDERS [BYTES [RCVBUF_BYTES]]]`, by default 200
//! times 64 KiB, to a socket with the buffer it has by default. Prints what became of them; exit status 1 if one failed.
#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

use std::collections::HashSet;
use std::error::Error;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};
use udp_plus::{Engine, Outgoing, Preset, Wire};

/// Half of the size of a socket buffer by default: the kernel doubles what is asked for.
const RCVBUF_BYTES: u32 = 212_992 / 2;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (senders, bytes, rcvbuf_bytes) = (next(200)?, next(64 << 10)?.max(4), next(RCVBUF_BYTES)?);

    let receiver = Engine::builder()
        .wire(Wire::Binary)
        .rcvbuf_bytes(rcvbuf_bytes)
        .peers_max(2 * senders.max(512))
        .bind("127.0.0.1:0")
        .shards(1)
        .start()?;
    let to = receiver.local_addr();
    let engines = (0..senders)
        .map(|_| Engine::builder().preset(Preset::Small).wire(Wire::Binary).bind("127.0.0.1:0").start())
        .collect::<Result<Vec<_>, _>>()?;

    let barrier = Arc::new(Barrier::new(engines.len()));
    let threads: Vec<_> = engines
        .into_iter()
        .zip(0u32..)
        .map(|(engine, number)| {
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let mut payload = vec![number as u8; bytes as usize];
                payload[..4].copy_from_slice(&number.to_le_bytes());
                barrier.wait();
                let began = Instant::now();
                let outcome =
                    engine.send_bucket().blocking_put(Outgoing::to(to, payload)).map(|put| put.wait());
                let ended = Instant::now();
                let stats = engine.stats().total;
                ((began, ended), outcome, stats.rows_sent, stats.rows_retransmitted)
            })
        })
        .collect();
    // From the first put to the last outcome: nobody else can say when that was, least of all one thread beside so many.
    let mut spans = Vec::new();
    let (mut delivered, mut failures, mut sent, mut again) = (0, Vec::new(), 0, 0);
    for thread in threads {
        let (span, outcome, rows, repeats) = thread.join().map_err(|_| "a sender panicked")?;
        match outcome {
            Ok(Ok(_)) => delivered += 1,
            Ok(Err(error)) => failures.push(error.to_string()),
            Err(error) => failures.push(error.to_string()),
        }
        spans.push(span);
        sent += rows;
        again += repeats;
    }
    let first = spans.iter().map(|&(began, _)| began).min();
    let last = spans.iter().map(|&(_, ended)| ended).max();
    let took = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);

    // The receiver's own account: each message once, every byte of it right.
    let mut received = HashSet::new();
    let (mut twice, mut corrupted) = (0, 0);
    let mut messages = Vec::new();
    while receiver.recv_bucket().blocking_get_batch(&mut messages, Duration::from_millis(200)) > 0 {
        for message in messages.drain(..) {
            let payload = message.payload();
            let number = payload.first_chunk().map_or(u32::MAX, |number| u32::from_le_bytes(*number));
            let right =
                payload.len() == bytes as usize && payload[4..].iter().all(|&byte| byte == number as u8);
            corrupted += u32::from(!right);
            twice += u32::from(!received.insert(number));
        }
    }
    println!(
        "{senders} senders, {bytes} bytes each, receive buffer {} bytes: delivered {delivered}, failed {}, received {}, \
         twice {twice}, corrupted {corrupted}",
        receiver.rcvbuf_bytes(),
        failures.len(),
        received.len(),
    );
    println!(
        "  {took:.1?}, datagrams {sent}, again {again}, kernel drops {}",
        receiver.stats().kernel_drops.map_or_else(|| "unknown".to_owned(), |drops| drops.to_string())
    );
    failures.sort_unstable();
    failures.dedup();
    for failure in &failures {
        println!("  {failure}");
    }
    let well = failures.is_empty() && received.len() == senders as usize && twice + corrupted == 0;
    if well { Ok(()) } else { Err("not every message was delivered once".into()) }
}
