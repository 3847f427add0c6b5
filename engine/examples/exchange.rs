//! Instructions per message without a kernel: `valgrind --tool=callgrind target/release/examples/exchange MESSAGES BYTES WIRE`,
//! with the wire `csv` (the default) or `binary`.

use udp_plus::Wire;

fn main() {
    let arg =
        |n: usize, default: u64| std::env::args().nth(n).and_then(|s| s.parse().ok()).unwrap_or(default);
    let (messages, bytes) = (arg(1, 200_000), arg(2, 64));
    let wire = if std::env::args().nth(3).as_deref() == Some("binary") { Wire::Binary } else { Wire::Csv };
    let turns = udp_plus::sim::Exchange::new(wire, messages, bytes as usize, 4_096).run();
    println!("{messages} messages of {bytes} bytes in {turns} turns");
}
