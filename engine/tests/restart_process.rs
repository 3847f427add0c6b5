//! Processes that are killed (SIGKILL) under load and started again on the same port. The judge is what the receiving application
//! wrote to its log before it said that it had: no message that was reported Committed is missing there, none is in one start's
//! log twice, and every message has an outcome. What was only Accepted may be lost in the killed process's memory: that is counted.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{LONG_HANG, Setup, each_driver, nobody, small, until_within};
use udp_plus::{DriverChoice, Engine, FailureCause, Level, Outcome, Outgoing, Refusal, Wire};

each_driver! {
    a_receiver_that_is_killed_loses_nothing_committed,
    a_sender_that_is_killed_sends_nothing_twice,
}

/// Messages in a start's log before it is killed.
const ENOUGH: usize = 2_000;
const KILLS: usize = 3;
const IN_FLIGHT: usize = 256;

fn setup(driver: DriverChoice) -> Setup {
    Setup { driver, wire: Wire::Binary }
}

fn name(driver: DriverChoice) -> &'static str {
    if driver == DriverChoice::Uring { "uring" } else { "mmsg" }
}

/// A directory of this test's own, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("udp-plus-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of this binary that plays `role`; killed when dropped.
struct Process(Child);

impl Process {
    fn start(role: &str, driver: DriverChoice, address: SocketAddr, log: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--test-threads=1"])
            .envs([("ROLE", role), ("DRIVER", name(driver)), ("ADDRESS", &address.to_string())])
            .env("LOG", log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the processes do. Without a role this is no test.
#[test]
fn child() {
    let Ok(role) = std::env::var("ROLE") else { return };
    let driver =
        if std::env::var("DRIVER").unwrap() == "uring" { DriverChoice::Uring } else { DriverChoice::Mmsg };
    let address: SocketAddr = std::env::var("ADDRESS").unwrap().parse().unwrap();
    let log = OpenOptions::new().create(true).append(true).open(std::env::var("LOG").unwrap()).unwrap();
    match role.as_str() {
        "receiver" => receive_for_ever(driver, address, log),
        "sender" => send_for_ever(driver, address, log),
        role => panic!("{role}"),
    }
}

/// Writes a line for each message, and only then says that it has it.
fn receive_for_ever(driver: DriverChoice, bind: SocketAddr, mut log: File) {
    // The kernel takes a killed process's ring down in the background, and the port is taken until it has.
    let mut engine = None;
    let mut refused = 0;
    until_within("the port is free", LONG_HANG, || {
        engine = small(setup(driver)).bind(bind.to_string()).start().ok();
        refused += u32::from(engine.is_none());
        engine.is_some()
    });
    let engine = engine.unwrap();
    std::fs::write(format!("{}.refused", std::env::var("LOG").unwrap()), refused.to_string()).unwrap();
    let mut messages = Vec::new();
    loop {
        engine.recv_bucket().blocking_get_batch(&mut messages, Duration::from_secs(1));
        for message in messages.drain(..) {
            log.write_all(format!("{}\n", message.text().unwrap()).as_bytes()).unwrap();
            message.commit();
        }
    }
}

/// Sends messages nobody sent before: what the log says was put, was.
fn send_for_ever(driver: DriverChoice, to: SocketAddr, mut log: File) {
    let engine = small(setup(driver)).start().unwrap();
    let (send, start) = (engine.send_bucket(), std::process::id());
    let (mut outcomes, mut open) = (Vec::new(), 0);
    for number in 0.. {
        while open >= IN_FLIGHT {
            open -= send.blocking_outcome_batch(&mut outcomes, Duration::from_secs(1));
        }
        let text = format!("{start}-{number}");
        log.write_all(format!("{text}\n").as_bytes()).unwrap();
        assert_eq!(send.put_batch(&mut vec![Outgoing::to(to, text)]), 1);
        open += 1;
    }
}

/// The lines of a log that were written whole.
fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(str::to_owned).collect()
}

fn a_receiver_that_is_killed_loses_nothing_committed(driver: DriverChoice) {
    let scratch = Scratch::new(&format!("receiver-{}", name(driver)));
    let address = nobody();
    let sender = small(setup(driver)).start().unwrap();
    let send = sender.send_bucket();
    let (mut next, mut open) = (0_u64, 0);
    let mut outcomes: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut ended = Vec::new();
    // Every fourth message is only Accepted.
    let level = |number: u64| if number.is_multiple_of(4) { Level::Accepted } else { Level::Committed };
    let mut work = |more: bool| {
        while more && open < IN_FLIGHT {
            let outgoing = Outgoing::to(address, next.to_string()).tag(next).level(level(next));
            if send.put_batch(&mut vec![outgoing]) == 0 {
                break;
            }
            (next, open) = (next + 1, open + 1);
        }
        send.outcome_batch(&mut ended);
        open -= ended.len();
        for (number, outcome) in ended.drain(..) {
            assert!(outcomes.insert(number, outcome).is_none(), "two outcomes for {number}");
        }
        open
    };
    let (mut logs, mut refused) = (Vec::new(), Vec::new());
    for start in 0..=KILLS {
        let log = scratch.0.join(start.to_string());
        let process = Process::start("receiver", driver, address, &log);
        until_within("messages are logged", LONG_HANG, || {
            work(true);
            lines(&log).len() >= ENOUGH
        });
        if start < KILLS {
            process.kill();
        } else {
            until_within("everything has ended", LONG_HANG, || work(false) == 0);
        }
        logs.push(lines(&log));
        refused.push(std::fs::read_to_string(log.with_extension("refused")).unwrap());
    }
    assert_eq!(outcomes.len() as u64, next, "every message has an outcome");
    let mut came: BTreeMap<u64, u32> = BTreeMap::new();
    for log in &logs {
        let mut numbers: Vec<u64> = log.iter().map(|line| line.parse().unwrap()).collect();
        numbers.iter().for_each(|&number| *came.entry(number).or_default() += 1);
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "twice in one start");
    }
    assert!(came.values().all(|&count| count == 1), "one start had what another one has");
    let (mut failed, mut lost) = (0, 0);
    for (number, outcome) in &outcomes {
        match outcome {
            Ok(delivered) if delivered.level == Level::Committed => {
                assert!(came.contains_key(number), "{number} is said to be committed, and in no log")
            }
            Ok(_) => lost += u32::from(!came.contains_key(number)),
            Err(error) => {
                failed += 1;
                let known = [
                    FailureCause::PeerRestarted,
                    FailureCause::TimedOut,
                    FailureCause::Refused(Refusal::Closing),
                ];
                assert!(known.contains(&error.cause), "{number}: {error}");
            }
        }
    }
    assert!(failed > 0, "nothing was on its way when they were killed");
    let ledger = sender.ledger();
    assert_eq!((ledger.residual(), ledger.row("messages_put", "open")), (0, 0), "{ledger}");
    eprintln!(
        "{driver:?}: {next} messages, {KILLS} kills, {failed} failed, {lost} Accepted lost in memory, 0 Committed lost; \
         binds refused at first: {refused:?}"
    );
}

fn a_sender_that_is_killed_sends_nothing_twice(driver: DriverChoice) {
    let scratch = Scratch::new(&format!("sender-{}", name(driver)));
    let receiver: Engine = small(setup(driver)).start().unwrap();
    let mut came: BTreeMap<String, u32> = BTreeMap::new();
    let log = scratch.0.join("put");
    for start in 0..=KILLS {
        let before = came.len();
        let process = Process::start("sender", driver, receiver.local_addr(), &log);
        until_within("messages come", LONG_HANG, || {
            while let Some(message) = receiver.recv_bucket().try_get() {
                *came.entry(message.text().unwrap().to_owned()).or_default() += 1;
            }
            came.len() >= before + ENOUGH
        });
        process.kill();
        assert!(came.values().all(|&count| count == 1), "start {start}: twice");
    }
    while let Some(message) = receiver.recv_bucket().try_get() {
        *came.entry(message.text().unwrap().to_owned()).or_default() += 1;
    }
    assert!(came.values().all(|&count| count == 1), "twice");
    let put: std::collections::BTreeSet<String> = lines(&log).into_iter().collect();
    assert!(came.keys().all(|text| put.contains(text)), "what nobody put");
    eprintln!("{driver:?}: {} put, {} came, {KILLS} kills and the end", put.len(), came.len());
}
