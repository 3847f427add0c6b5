//! Instructions per message without a kernel: `valgrind --tool=callgrind target/release/examples/exchange MESSAGES BYTES`.

fn main() {
    let arg =
        |n: usize, default: u64| std::env::args().nth(n).and_then(|s| s.parse().ok()).unwrap_or(default);
    let (messages, bytes) = (arg(1, 200_000), arg(2, 64));
    let turns = udp_plus::sim::Exchange::new(messages, bytes as usize, 4_096).run();
    println!("{messages} messages of {bytes} bytes in {turns} turns");
}
