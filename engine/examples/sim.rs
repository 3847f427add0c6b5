//! Replays simulator seeds: `scripts/check sim SEED [COUNT]`. Prints the last seed's report, and every broken promise.

use std::process::ExitCode;
use udp_plus::sim;

/// In so many seeds every scene occurs.
const SEEDS_FOR_ALL_SCENES: u64 = 500;

fn main() -> ExitCode {
    let number = |n: usize, default: u64| {
        std::env::args().nth(n).map_or(Ok(default), |text| text.parse()).map_err(|error| format!("{error}"))
    };
    let (Ok(first), Ok(count)) = (number(1, 0), number(2, 1)) else {
        eprintln!("usage: sim SEED [COUNT]   both are numbers");
        return ExitCode::from(2);
    };
    let mut broken = 0;
    let mut counters = udp_plus::Counters::default();
    let mut happened = sim::FaultCounts::default();
    let mut v1 = sim::V1Counts::default();
    let mut lanes = sim::LaneCounts::default();
    let mut scenes = sim::SceneCounts::default();
    for seed in first..first + count {
        let Ok(report) = std::panic::catch_unwind(|| sim::run(seed)) else {
            broken += 1;
            println!("seed {seed}: panicked\n  replay: scripts/check sim {seed}");
            continue;
        };
        counters.add(&report.counters);
        happened.add(&report.counts);
        v1.add(&report.v1);
        lanes.add(&report.lanes);
        scenes.add(&report.scenes);
        if !report.violations.is_empty() {
            broken += 1;
            println!("{report}");
        } else if count == 1 {
            println!("{report}");
        }
    }
    if count > 1 {
        println!("{count} seeds from {first}: {happened:?}, {v1:?}, {lanes:?}, {scenes:?}");
        for (label, value) in counters.iter().filter(|row| row.1 > 0) {
            println!("  {label} {value}");
        }
    }
    println!("{broken} of {count} seeds broke a promise");
    let missing = scenes.missing();
    if count >= SEEDS_FOR_ALL_SCENES && !missing.is_empty() {
        println!("no seed had: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
