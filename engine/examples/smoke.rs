//! Scratch: max rate, in-shard.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use udp_plus::*;

struct Sink;
impl Actor for Sink {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }
}
struct Client {
    to: SocketAddr,
    in_flight: usize,
    max: usize,
    payload: Vec<u8>,
    ok: Arc<AtomicU64>,
    bad: Arc<AtomicU64>,
}
impl Actor for Client {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }
    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        self.in_flight -= 1;
        match outcome {
            Ok(_) => self.ok.fetch_add(1, Relaxed),
            Err(_) => self.bad.fetch_add(1, Relaxed),
        };
    }
    fn on_turn(&mut self, context: &mut Context<'_>) {
        while self.in_flight < self.max {
            if context.put_copy(self.to, &self.payload, 0).is_err() {
                break;
            }
            self.in_flight += 1;
        }
    }
}

fn main() {
    let arg = |n: usize, d: usize| std::env::args().nth(n).map_or(d, |s| s.parse().unwrap());
    let (size, max, window) = (arg(1, 64), arg(2, 4096), arg(3, 4096 * 832));
    let driver = if arg(4, 0) == 1 { DriverChoice::Mmsg } else { DriverChoice::Auto };
    let rows = arg(5, 1024) as u32;
    let mk = || {
        Engine::builder()
            .bind("127.0.0.1:0")
            .shards(1)
            .driver(driver)
            .v1_window_bytes(window as u32)
            .v1_row_bytes_max(rows)
            .v1_chunk_bytes_max(rows - 100)
            .pin(true)
    };
    let server = mk().pin_first_core(1).actor(|_| Sink).start().unwrap();
    let to = server.local_addr();
    let (ok, bad) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let client = mk()
        .pin_first_core(0)
        .actor(|_| Client {
            to,
            in_flight: 0,
            max,
            payload: vec![b'x'; size],
            ok: ok.clone(),
            bad: bad.clone(),
        })
        .start()
        .unwrap();
    println!("{:?} rcvbuf {}", client.driver(), client.rcvbuf_bytes());
    std::thread::sleep(Duration::from_millis(500));
    let a = ok.load(Relaxed);
    std::thread::sleep(Duration::from_secs(3));
    let n = ok.load(Relaxed) - a;
    println!(
        "{:.2} M/s {:.1} Gbit/s bad {}",
        n as f64 / 3e6,
        n as f64 * size as f64 * 8.0 / 3e9,
        bad.load(Relaxed)
    );
    for (name, engine) in [("client", &client), ("server", &server)] {
        print!("{name}:");
        for (label, value) in engine.stats().total.iter().filter(|r| r.1 > 0) {
            print!(" {label}={value}");
        }
        println!(" kernel_drops={:?}", engine.stats().kernel_drops);
    }
    client.shutdown_blocking(Duration::from_secs(1));
    server.shutdown_blocking(Duration::from_secs(1));
}
