//! One engine sends to many: `fan_out [RECEIVERS [MESSAGES_EACH [BYTES]]]`, by default 1,000 messages of 64 bytes to each of 1,000
//! engines, in turns, as fast as it goes. Prints what became of them, and how fairly: when the first and the last receiver had all of
//! theirs. Exit status 1 if a message did not arrive, once and unchanged.
#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

#[path = "peers/books.rs"]
mod books;

use books::{Books, Latencies};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use udp_plus::{Actor, Context, DriverChoice, Engine, MessageRef, Outgoing, Preset, Verdict, Wire};

/// How long nothing may happen.
const STALLED: Duration = Duration::from_secs(60);

struct Receiver {
    number: u32,
    left: u32,
    books: Arc<Mutex<(Books, Vec<Instant>)>>,
}

impl Actor for Receiver {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if books.0.note(message.payload) != Some(self.number) {
            // Not what was sent to this one.
            books.0.corrupted += 1;
        }
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            books.1.push(Instant::now());
        }
        Verdict::Accept
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u32>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (receivers, each, bytes) = (next(1_000)?, next(1_000)?, next(64)?);
    let bytes = (bytes as usize).max(books::BYTES_MIN);

    let books = Arc::new(Mutex::new((Books::new(receivers, each, bytes), Vec::new())));
    let engines = (0..receivers)
        .map(|number| {
            let builder = Engine::builder().preset(Preset::Small).wire(Wire::Binary).bind("127.0.0.1:0");
            let receiver = |_| Receiver { number, left: each, books: Arc::clone(&books) };
            builder.driver(DriverChoice::Mmsg).actor(receiver).start()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let addresses: Vec<_> = engines.iter().map(Engine::local_addr).collect();
    let builder = Engine::builder().wire(Wire::Binary).bind("127.0.0.1:0").shards(1);
    let sender = builder.peers_max(2 * receivers.max(1_024)).start()?;
    let bucket = sender.send_bucket();

    let messages = u64::from(receivers) * u64::from(each);
    let (mut put, mut ended, mut delivered) = (0_u64, 0, 0);
    let (mut batch, mut outcomes) = (Vec::new(), Vec::new());
    let mut failures: BTreeMap<String, u64> = BTreeMap::new();
    let mut latencies = Latencies::default();

    let began = Instant::now();
    let mut last = began;
    while ended < messages {
        while batch.len() < 1_024 && put + (batch.len() as u64) < messages {
            let place = put + batch.len() as u64;
            let (to, number) = ((place % u64::from(receivers)) as u32, (place / u64::from(receivers)) as u32);
            let mut payload = vec![0; bytes];
            books::write(&mut payload, to, number);
            batch.push(Outgoing::to(addresses[to as usize], payload));
        }
        put += bucket.put_batch(&mut batch) as u64;
        bucket.blocking_outcome_batch(&mut outcomes, Duration::from_millis(1));
        if outcomes.is_empty() && last.elapsed() > STALLED {
            return Err(format!("nothing ended for a minute: {ended} of {messages} had").into());
        }
        for (_, outcome) in outcomes.drain(..) {
            ended += 1;
            last = Instant::now();
            match outcome {
                Ok(how) => {
                    delivered += 1;
                    latencies.note((how.rtt() + how.queued()).as_micros() as u64);
                }
                Err(error) => *failures.entry(error.to_string()).or_default() += 1,
            }
        }
    }
    let took = last.duration_since(began).as_secs_f64();

    let books = books.lock().unwrap_or_else(PoisonError::into_inner);
    let (received, complete) = &*books;
    let stats = sender.stats();
    println!(
        "{receivers} receivers, {each} messages of {bytes} bytes each: delivered {delivered}, failed {}, received {}, twice {}, \
         corrupted {}",
        failures.values().sum::<u64>(),
        received.received,
        received.twice,
        received.corrupted
    );
    let at = |when: Option<&Instant>| when.map_or(f64::NAN, |when| when.duration_since(began).as_secs_f64());
    println!(
        "  {:.0} messages/s, {}; all of its messages had the first receiver after {:.2} s, the last after {:.2} s",
        delivered as f64 / took,
        latencies.words(),
        at(complete.iter().min()),
        at(complete.iter().max())
    );
    println!(
        "  datagrams {}, again {}; resident {:.0} MiB",
        stats.total.get("datagrams_sent"),
        stats.total.get("rows_retransmitted"),
        books::resident_mib()
    );
    failures.iter().for_each(|(cause, count)| println!("  {count} {cause}"));
    let residual = sender.ledger().residual();
    let well = received.are_well() && delivered == messages && residual == 0;
    if well {
        Ok(())
    } else {
        Err(format!("not every message was delivered once (residual {residual})").into())
    }
}
