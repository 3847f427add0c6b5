//! The engine, one shard a side.

use crate::{Finish, Meter, net};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use udp_plus::{
    Actor, Builder, Context, DriverReport, Engine, MessageRef, Outcome, Outgoing, Verdict, truesize_bytes,
};

/// As many rows as the least has in flight.
const WINDOW_ROWS: u32 = 4_096;
const SHUTDOWN: Duration = Duration::from_millis(200);

fn engine(core: u16) -> Builder {
    Engine::builder()
        .bind("127.0.0.1:0")
        .shards(1)
        .ops_in_flight_max(WINDOW_ROWS)
        .v1_window_bytes(WINDOW_ROWS * truesize_bytes(137))
        .pin(true)
        .pin_first_core(core)
}

struct Sink;

impl Actor for Sink {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        std::hint::black_box(message.payload);
        Verdict::Accept
    }
}

struct Source {
    to: SocketAddr,
    payload: Vec<u8>,
    in_flight: usize,
    in_flight_max: usize,
    meter: Meter,
}

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        self.in_flight -= 1;
        self.meter.add(u64::from(outcome.is_ok()));
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        while self.in_flight < self.in_flight_max && !self.meter.stopped() {
            if context.put_copy(self.to, &self.payload, 0).is_err() {
                break;
            }
            self.in_flight += 1;
        }
    }
}

/// Actors on both sides.
pub fn in_shard(meter: &Meter, bytes: usize, in_flight_max: usize) -> Result<Finish, String> {
    let server = engine(1).actor(|_| Sink).start().map_err(|error| error.to_string())?;
    let to = server.local_addr();
    let meter = meter.clone();
    let source =
        move |_| Source { to, payload: vec![b'x'; bytes], in_flight: 0, in_flight_max, meter: meter.clone() };
    let client = engine(0).actor(source).start().map_err(|error| error.to_string())?;
    Ok(Box::new(move || shut_down(&client, &server)))
}

/// Application threads on both sides, each on its shard's core.
pub fn buckets(meter: &Meter, bytes: usize) -> Result<Finish, String> {
    let start = |core| engine(core).start().map_err(|error| error.to_string());
    let (client, server) = (Arc::new(start(0)?), Arc::new(start(1)?));
    let done = Arc::new(AtomicBool::new(false));
    let receive = {
        let (bucket, done) = (server.recv_bucket(), Arc::clone(&done));
        move || {
            net::pin(1);
            let mut messages = Vec::new();
            while !done.load(Ordering::Relaxed) {
                bucket.blocking_get_batch(&mut messages, Duration::from_millis(20));
                std::hint::black_box(&mut messages).clear();
            }
        }
    };
    let send = {
        let (bucket, to, meter) = (client.send_bucket(), server.local_addr(), meter.clone());
        let payload = Bytes::from(vec![b'x'; bytes]);
        move || {
            net::pin(0);
            let (mut batch, mut outcomes) = (Vec::new(), Vec::new());
            while !meter.stopped() {
                batch.resize_with(WINDOW_ROWS as usize / 4, || Outgoing::to(to, payload.clone()));
                bucket.put_batch(&mut batch);
                bucket.blocking_outcome_batch(&mut outcomes, Duration::from_millis(20));
                meter.add(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count() as u64);
                outcomes.clear();
            }
        }
    };
    let (receive, send) = (std::thread::spawn(receive), std::thread::spawn(send));
    Ok(Box::new(move || {
        send.join().expect("a workload's thread");
        shut_down(&client, &server);
        done.store(true, Ordering::Relaxed);
        receive.join().expect("a workload's thread");
    }))
}

fn shut_down(client: &Engine, server: &Engine) {
    let DriverReport { kind, reason } = client.driver();
    assert!(
        client.failure().is_none() && server.failure().is_none(),
        "a shard of {kind} ({reason}) panicked"
    );
    client.shutdown_blocking(SHUTDOWN);
    server.shutdown_blocking(SHUTDOWN);
}
