//! What is taken and what is not.

use super::values::PeerWire;
use super::*;
use crate::schedule::Rates;
use crate::size::Size;
use crate::sizes::Sizes;
use std::time::Duration;

fn try_parse(line: &str) -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches_from(line.split_whitespace())?;
    Cli::from_arg_matches(&matches)
}

#[test]
fn alone_it_benches() {
    let cli = try_parse("udp-plus --size 1KiB --rate 1e5 --pin").expect("valid");
    assert!(cli.command.is_none());
    assert_eq!(
        (cli.bench.load.size.clone(), cli.bench.load.rate.clone()),
        (Sizes::Fixed(Size(1_024)), Rates::Constant(1e5))
    );
    assert!(cli.bench.engine.pin);
    let cli = try_parse("udp-plus bench --duration 0.5 --in-flight 7 --deadline-ms 300").expect("valid");
    let Some(Command::Bench(bench)) = cli.command else { panic!("bench") };
    assert_eq!(
        (bench.load.duration, bench.load.in_flight, bench.load.deadline_ms),
        (Seconds(Duration::from_millis(500)), Some(7), Some(300))
    );
}

#[test]
fn bad_usage_is_refused() {
    for line in [
        "udp-plus --size many",
        "udp-plus --size uniform:64",
        "udp-plus --size zipf:64..16",
        "udp-plus --size trace:",
        "udp-plus --seed -1",
        "udp-plus --duration 0",
        "udp-plus --duration 1e-10",
        "udp-plus --duration -1",
        "udp-plus --duration nan",
        "udp-plus --rate 0",
        "udp-plus --rate inf",
        "udp-plus --rate ramp:1",
        "udp-plus --rate ramp:0..5",
        "udp-plus --rate step:",
        "udp-plus --rate spike:1..1e10",
        "udp-plus --rate trace:",
        "udp-plus --rate wave:1..2",
        "udp-plus --arrivals burst",
        "udp-plus --arrivals burst:0",
        "udp-plus --arrivals pareto",
        "udp-plus --shards 0",
        "udp-plus --wire json",
        "udp-plus --wire binary --mtu 1199",
        "udp-plus --wire binary --mtu 65508",
        "udp-plus --wire binary --mtu any",
        "udp-plus --wire binary --cc reno",
        "udp-plus --driver dpdk",
        "udp-plus nonsense",
        "udp-plus --size 64 bench",
        "udp-plus load",
        "udp-plus load --target h:1=0",
        "udp-plus --peers 0",
        "udp-plus --peers 65536",
        "udp-plus --peer-skew -1",
        "udp-plus --peer-skew nan",
        "udp-plus send host",
        "udp-plus send host 0 hello",
        "udp-plus send host 70000 hello",
        "udp-plus send host 1 --timeout 3601 hello",
        "udp-plus --deadline-ms 0",
        "udp-plus --deadline-ms 100001",
        "udp-plus --priority urgent",
        "udp-plus --level stored",
        "udp-plus --lane 65536",
        "udp-plus send host 1 --lane first hello",
        "udp-plus --peer-wire csv",
        "udp-plus --peer-wire 10.0.0.0/8=",
        "udp-plus --peer-wire 10.0.0.0/33=csv",
        "udp-plus --peer-wire localhost=csv",
        "udp-plus --peer-wire 10.0.0.0/8=csv=auto",
        "udp-plus recv --count 0",
        "udp-plus --slo p99",
        "udp-plus search --width 0",
        "udp-plus search --exceed 100",
        "udp-plus compare a.json",
        "udp-plus ab",
        "udp-plus bench --repeat 0",
    ] {
        let error = try_parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_binary_wire_and_its_options() {
    let cli = try_parse("udp-plus --wire binary --mtu 1472 --cc cubic").expect("valid");
    let engine = cli.bench.engine;
    assert_eq!((engine.wire, engine.mtu, engine.cc), (Wire::Binary, Mtu(Some(1_472)), Cc::Cubic));
    let engine = try_parse("udp-plus").expect("valid").bench.engine;
    assert_eq!((engine.mtu, engine.cc), (Mtu(None), Cc::Model));
    assert_eq!(engine.wire.to_string(), WIRE_DEFAULT);
}

#[test]
fn the_wire_of_peers_is_given_as_often_as_needed() {
    let line = "udp-plus serve --peer-wire 10.0.0.0/8=csv --wire auto --peer-wire [::1]:7=binary";
    let Some(Command::Serve(serve)) = try_parse(line).expect("valid").command else { panic!("serve") };
    let rules: Vec<String> = serve.engine.peer_wire.iter().map(PeerWire::to_string).collect();
    assert_eq!(rules, ["10.0.0.0/8=csv", "[::1]:7=binary"]);
    let has_binary = |line| try_parse(line).expect("valid").bench.engine.has_binary();
    assert!(has_binary("udp-plus --wire csv --peer-wire 10.0.0.1=auto"));
    assert!(!has_binary("udp-plus --wire csv --peer-wire 10.0.0.1=csv"));
    assert!(has_binary("udp-plus --wire binary --peer-wire 10.0.0.1=csv"));
}

#[test]
fn two_command_lines_for_ab() {
    let line = "udp-plus ab --repeat 3 -- bench --cc cubic -- ./old bench";
    let Some(Command::Ab(ab)) = try_parse(line).expect("valid").command else { panic!("ab") };
    assert_eq!((ab.repeat, ab.arms.len()), (3, 6));
    assert_eq!(ab.arms[3], "--");
}

#[test]
fn a_text_may_begin_with_a_hyphen() {
    for (line, text) in [("udp-plus send h 1 -", "-"), ("udp-plus send h 1 --timeout 2 -hi", "-hi")] {
        let Some(Command::Send(send)) = try_parse(line).expect("valid").command else { panic!("send") };
        assert_eq!(send.text, Some(text.into()));
    }
}
