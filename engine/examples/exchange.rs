//! Instructions per message without a kernel, under callgrind: what `scripts/check instructions` runs.
//!
//! `exchange MESSAGES BYTES WIRE IN_FLIGHT ACTIVE_PEERS IDLE_PEERS`, with the wire `csv` (the default) or `binary`. Collect
//! in `Exchange::run` alone (`--toggle-collect`): the rest is set-up.

use udp_plus::Wire;
use udp_plus::sim::{Exchange, Load};

fn main() {
    let arg =
        |n: usize, default: u64| std::env::args().nth(n).and_then(|s| s.parse().ok()).unwrap_or(default);
    let (messages, bytes) = (arg(1, 200_000), arg(2, 64));
    let wire = if std::env::args().nth(3).as_deref() == Some("binary") { Wire::Binary } else { Wire::Csv };
    let load = Load {
        active_peers: arg(5, 1) as u32,
        idle_peers: arg(6, 0) as u32,
        ..Load::new(wire, messages, bytes as usize, arg(4, 4_096) as u32)
    };
    let mut exchange = Exchange::new(load);
    exchange.warm_up();
    let before = exchange.datagrams();
    let turns = exchange.run();
    println!("messages {messages} datagrams {} turns {turns}", exchange.datagrams() - before);
}
