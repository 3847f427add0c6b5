//! What an engine at rest costs: nothing that ticks, and few pages.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests on real sockets live in real time")]

mod kit;

use kit::{GUARD, engine, in_child, is_child, wait_for};
use std::time::Duration;
use udp_plus::{DriverChoice, Engine, Outgoing, Preset};

/// User and system ticks of each of this process's shard threads.
fn shard_ticks() -> Vec<(String, u64)> {
    let mut ticks: Vec<(String, u64)> = std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok())
        .filter(|stat| stat.contains("(udp-plus-"))
        .map(|stat| {
            let (name, fields) = stat.split_once(") ").unwrap();
            let field = |index: usize| fields.split(' ').nth(index).unwrap().parse::<u64>().unwrap();
            (name.to_owned(), field(11) + field(12))
        })
        .collect();
    ticks.sort();
    ticks
}

#[test]
fn an_idle_engine_neither_wakes_nor_works() {
    if !is_child() {
        return in_child("an_idle_engine_neither_wakes_nor_works");
    }
    let mut drivers = vec![DriverChoice::Mmsg];
    if kit::driver_works(DriverChoice::Uring) {
        drivers.push(DriverChoice::Uring);
    }
    let engines: Vec<Engine> =
        drivers.iter().map(|&driver| engine(driver).shards(2).start().unwrap()).collect();
    for engine in &engines {
        // It has worked: a message to itself, and every timer of that is over.
        let delivery = engine.send_bucket().try_put(Outgoing::to(engine.local_addr(), "hello")).unwrap();
        futures_lite::future::block_on(delivery).unwrap();
        assert_eq!(engine.recv_bucket().blocking_get().unwrap().text(), Some("hello"));
    }
    // Leftovers of the exchange may still be due (timers, the horizon of dedup): rest begins when two looks agree.
    let looks = || engines.iter().map(|engine| engine.stats().total).map(|c| (c.turns, c.parks)).collect();
    let mut earlier: Vec<(u64, u64)> = Vec::new();
    wait_for("rest", GUARD, || {
        let now: Vec<(u64, u64)> = looks();
        let rests = now == earlier && now.iter().all(|look| look.1 > 0);
        earlier = now;
        std::thread::sleep(Duration::from_millis(200));
        rests
    });
    assert_eq!(shard_ticks().len(), 3 * engines.len(), "all shard threads and watchdogs are seen");
    // A busy machine may have left something that is late: one span of three is all rest. What ticks does so in each.
    let mut spans = Vec::new();
    while spans.len() < 3 {
        let before = (looks(), shard_ticks());
        std::thread::sleep(Duration::from_secs(2));
        let after = (looks(), shard_ticks());
        if after == before {
            return;
        }
        spans.push((before, after));
    }
    panic!("(turns, parks) and CPU ticks of idle engines: {spans:?}");
}

#[test]
fn a_small_idle_engine_stays_within_8_mib() {
    if !is_child() {
        return in_child("a_small_idle_engine_stays_within_8_mib");
    }
    for driver in [DriverChoice::Mmsg, DriverChoice::Auto] {
        let before = kit::resident_bytes();
        let engine =
            Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").driver(driver).start().unwrap();
        wait_for("the first turn", GUARD, || engine.stats().total.turns > 0);
        let grown = kit::resident_bytes().saturating_sub(before);
        eprintln!("{driver:?}: an idle small engine takes {} KiB resident", grown >> 10);
        assert!(grown <= 8 << 20, "{grown} bytes");
        assert!(grown > 0, "it was measured");
    }
}
