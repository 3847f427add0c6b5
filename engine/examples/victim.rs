//! An engine that takes every message, and answers those that [ask](ASKS), for `scripts/check hostile`:
//! `victim WIRE [CORE [KEY_FILE]]`. Small limits, so that they are reached. Prints its address and what of its limits others can
//! fill; at the end of its input the ledger and all counters as `name value`.

use std::error::Error;
use std::io::Read;
use udp_plus::sim::attack::{ASKS, fillable_bytes};
use udp_plus::{Actor, Context, Engine, MessageRef, Outcome, Outgoing, Preset, Verdict, Wire};

struct Sink;

impl Actor for Sink {
    /// An answer that finds no room is not given.
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if message.payload.starts_with(ASKS) {
            let _ = context.put(Outgoing::to(message.sender, message.payload.to_vec()));
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, _: Outcome) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let wire = match arguments.next().as_deref() {
        Some("csv") => Wire::Csv,
        Some("binary") => Wire::Binary,
        Some("auto") => Wire::Auto,
        _ => return Err("usage: victim csv|binary|auto [CORE [KEY_FILE]]".into()),
    };
    let mut builder =
        Engine::builder().preset(Preset::Small).rcvbuf_bytes(4 << 20).wire(wire).bind("127.0.0.1:0");
    if let Some(core) = arguments.next() {
        builder = builder.pin(true).pin_first_core(core.parse()?);
    }
    if let Some(path) = arguments.next() {
        builder = builder.key_file(path);
    }
    let builder = builder.actor(|_| Sink);
    let footprint = builder.options().footprint();
    let engine = builder.start()?;
    println!("listening {}", engine.local_addr());
    println!("driver {:?}", engine.driver().kind);
    println!("bound_bytes {}", fillable_bytes(&footprint));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let ledger = engine.ledger();
    println!("residual {}", ledger.residual());
    let socket = ledger.socket().unwrap_or_default();
    println!("packets_received {}", socket.packets_received);
    println!("receive_queue_bytes {}", socket.receive_queue_bytes);
    println!("kernel_dropped {}", socket.packets_dropped);
    for sum in ledger.sums() {
        println!("{} {}", sum.name, sum.total);
    }
    for (name, count) in engine.stats().total.iter().filter(|row| row.1 > 0) {
        println!("counter.{name} {count}");
    }
    if let Some(failure) = engine.failure() {
        return Err(failure.into());
    }
    Ok(())
}
