//! Processes that are killed (SIGKILL) under load and started again on the same port. The judge is what the receiving application
//! wrote to its log before it said that it had: no message that was reported Committed is missing there, none is in one start's
//! log twice, and every message has an outcome. What was only Accepted may be lost in the killed process's memory: that is counted.
//! And a process that is told to go (SIGTERM) and waits for nobody who never answers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::v2_peer::V2Peer;
use support::{LONG_HANG, Setup, each_driver, nobody, small, until, until_within};
use udp_plus::internals::binary::Frame;
use udp_plus::{DriverChoice, Engine, FailureCause, Level, Outcome, Outgoing, Reached, Refusal, Wire};

each_driver! {
    a_receiver_that_is_killed_loses_nothing_committed,
    a_receiver_of_rows_that_is_killed_loses_nothing_that_came_later,
    a_sender_that_is_killed_sends_nothing_twice,
    a_sender_of_rows_that_is_killed_sends_nothing_twice,
    a_process_that_is_told_to_go_goes_whoever_never_answers,
}

/// Messages in a start's log before it is killed.
const ENOUGH: usize = 2_000;
const KILLS: usize = 3;
const IN_FLIGHT: usize = 256;

/// What the process that is told to go has under way, when it ends by itself, and when it would otherwise.
const UNDER_WAY: u64 = 60;
const DRAIN: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(120);
/// Soon after [`DRAIN`]: the rest is for a machine on which every process waits for its turn. Until [`DEADLINE`] it would take if
/// the drain waited for the peer.
const GONE_BY_THEN: Duration = Duration::from_secs(8);

fn name(setup: Setup) -> String {
    let driver = if setup.driver == DriverChoice::Uring { "uring" } else { "mmsg" };
    let wire = if setup.wire == Wire::Csv { "csv" } else { "binary" };
    format!("{driver}-{wire}")
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
    fn start(role: &str, setup: Setup, address: SocketAddr, log: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--test-threads=1"])
            .envs([("ROLE", role), ("SETUP", &name(setup)), ("ADDRESS", &address.to_string())])
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

    /// SIGTERM: it ends by itself.
    fn tell_to_go(mut self) -> ExitStatus {
        assert_eq!(self.0.try_wait().unwrap(), None, "it runs");
        let told = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(told.unwrap().success());
        let mut ended = None;
        until_within("it goes", GONE_BY_THEN, || {
            ended = self.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
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
    let named = std::env::var("SETUP").unwrap();
    let setups = [DriverChoice::Uring, DriverChoice::Mmsg]
        .map(|driver| [Wire::Csv, Wire::Binary].map(|wire| Setup { driver, wire }));
    let setup = setups.into_iter().flatten().find(|&setup| name(setup) == named).unwrap();
    let address: SocketAddr = std::env::var("ADDRESS").unwrap().parse().unwrap();
    let log = OpenOptions::new().create(true).append(true).open(std::env::var("LOG").unwrap()).unwrap();
    match role.as_str() {
        "receiver" => receive_for_ever(setup, address, log),
        "sender" => send_for_ever(setup, address, log),
        "goes" => send_until_told_to_go(setup, address, log),
        role => panic!("{role}"),
    }
}

/// Writes a line for each message, and only then says that it has it.
fn receive_for_ever(setup: Setup, bind: SocketAddr, mut log: File) {
    // The kernel takes a killed process's ring down in the background, and the port is taken until it has.
    let mut engine = None;
    let mut refused = 0;
    until_within("the port is free", LONG_HANG, || {
        engine = small(setup).bind(bind.to_string()).start().ok();
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
fn send_for_ever(setup: Setup, to: SocketAddr, mut log: File) {
    let engine = small(setup).start().unwrap();
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

/// Has messages under way to somebody who never answers, and drains when it is told to go: not until they are given up, nor until
/// their own deadline.
fn send_until_told_to_go(setup: Setup, to: SocketAddr, mut log: File) {
    let told = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&told)).unwrap();
    let patient = small(setup).tries_max(255).try_span_max(DEADLINE);
    let engine = patient.partial_idle_max(2 * DEADLINE).dedup_horizon(DEADLINE).start().unwrap();
    let send = engine.send_bucket();
    let outgoing = |tag| {
        let text = "x".repeat(if tag % 20 == 7 { 20_000 } else { 100 });
        Outgoing::to(to, text).tag(tag).deadline(DEADLINE)
    };
    assert_eq!(send.put_batch(&mut (0..UNDER_WAY).map(outgoing).collect()), UNDER_WAY as usize);
    log.write_all(b"put\n").unwrap();
    until_within("it is told to go", LONG_HANG, || told.load(Ordering::SeqCst));
    let mut outcomes = Vec::new();
    assert_eq!(send.outcome_batch(&mut outcomes), 0, "all are under way");
    engine.shutdown_blocking(DRAIN);
    while send.outcome_batch(&mut outcomes) > 0 {}
    outcomes.sort_unstable_by_key(|outcome| outcome.0);
    assert!(outcomes.iter().map(|outcome| outcome.0).eq(0..UNDER_WAY), "{outcomes:?}");
    let mut unknown = 0;
    for (tag, outcome) in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.cause, FailureCause::EngineStopped, "{tag}");
        unknown += u64::from(error.reached == Reached::Unknown);
    }
    let ledger = engine.ledger();
    assert_eq!((ledger.residual(), ledger.row("messages_put", "open")), (0, 0), "{ledger}");
    assert_eq!(ledger.row("messages_put", "failed_engine_stopped"), UNDER_WAY, "{ledger}");
    log.write_all(format!("{unknown}\n").as_bytes()).unwrap();
}

/// The lines of a log that were written whole.
fn lines(log: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    text[..whole].lines().map(str::to_owned).collect()
}

fn a_receiver_that_is_killed_loses_nothing_committed(driver: DriverChoice) {
    kill_the_receiver(Setup { driver, wire: Wire::Binary });
}

/// Rows are Accepted at most, and what a killed receiver had not confirmed goes again, to its next start (R-DEDUP-6).
fn a_receiver_of_rows_that_is_killed_loses_nothing_that_came_later(driver: DriverChoice) {
    kill_the_receiver(Setup { driver, wire: Wire::Csv });
}

fn kill_the_receiver(setup: Setup) {
    let scratch = Scratch::new(&format!("receiver-{}", name(setup)));
    let (address, is_csv) = (nobody(), setup.wire == Wire::Csv);
    let sender = small(setup).start().unwrap();
    let send = sender.send_bucket();
    let (mut next, mut open) = (0_u64, 0);
    let mut outcomes: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut ended = Vec::new();
    // The newest message that was told Committed.
    let mut committed: Option<u64> = None;
    // Every fourth message is only Accepted, and every row.
    let is_accepted = |number: u64| is_csv || number.is_multiple_of(4);
    let level = |number| if is_accepted(number) { Level::Accepted } else { Level::Committed };
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
            let is_committed = outcome.is_ok_and(|delivered| delivered.level == Level::Committed);
            committed = committed.max(is_committed.then_some(number));
            assert!(outcomes.insert(number, outcome).is_none(), "two outcomes for {number}");
        }
        (next, open, committed)
    };
    let (mut logs, mut refused, mut later, mut last) = (Vec::new(), Vec::new(), 0, None);
    for start in 0..=KILLS {
        let log = scratch.0.join(start.to_string());
        let process = Process::start("receiver", setup, address, &log);
        let mut newest = None;
        until_within("messages are logged", LONG_HANG, || {
            newest = work(true).2;
            lines(&log).len() >= ENOUGH
        });
        // Of those that were put since the last kill, or nothing could be lost by this one.
        assert!(is_csv || newest >= Some(later), "start {start}: none was told Committed");
        if start < KILLS {
            process.kill();
            later = work(false).0;
        } else {
            until_within("everything has ended", LONG_HANG, || work(false).1 == 0);
            last = Some(process);
        }
        logs.push(lines(&log));
        refused.push(std::fs::read_to_string(log.with_extension("refused")).unwrap());
    }
    assert_eq!(outcomes.len() as u64, next, "every message has an outcome");
    // Nobody kills the last start: what came to it is logged, if not at once.
    let told: BTreeSet<u64> = (later..next).filter(|number| outcomes[number].is_ok()).collect();
    assert!(!told.is_empty());
    until_within("what is said to be delivered is logged", LONG_HANG, || {
        let log = lines(&scratch.0.join(KILLS.to_string()));
        told.is_subset(&log.iter().map(|line| line.parse().unwrap()).collect())
    });
    drop(last);
    *logs.last_mut().unwrap() = lines(&scratch.0.join(KILLS.to_string()));
    let mut came: BTreeMap<u64, u32> = BTreeMap::new();
    for log in &logs {
        let mut numbers: Vec<u64> = log.iter().map(|line| line.parse().unwrap()).collect();
        numbers.iter().for_each(|&number| *came.entry(number).or_default() += 1);
        numbers.sort_unstable();
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "twice in one start");
    }
    let again = came.values().filter(|&&count| count > 1).count();
    assert!(again == 0 || is_csv, "one start had what another one has");
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
    let repeated = sender.stats().total.rows_retransmitted;
    assert!(if is_csv { repeated > 0 } else { failed > 0 }, "nothing was on its way when they were killed");
    let ledger = sender.ledger();
    assert_eq!((ledger.residual(), ledger.row("messages_put", "open")), (0, 0), "{ledger}");
    eprintln!(
        "{setup:?}: {next} messages, {KILLS} kills, {failed} failed, {lost} Accepted lost in memory, 0 Committed lost, \
         {again} came to two starts; binds refused at first: {refused:?}"
    );
}

fn a_sender_that_is_killed_sends_nothing_twice(driver: DriverChoice) {
    kill_the_sender(Setup { driver, wire: Wire::Binary });
}

fn a_sender_of_rows_that_is_killed_sends_nothing_twice(driver: DriverChoice) {
    kill_the_sender(Setup { driver, wire: Wire::Csv });
}

fn kill_the_sender(setup: Setup) {
    let scratch = Scratch::new(&format!("sender-{}", name(setup)));
    let receiver: Engine = small(setup).start().unwrap();
    let mut came: BTreeMap<String, u32> = BTreeMap::new();
    let log = scratch.0.join("put");
    for start in 0..=KILLS {
        let before = came.len();
        let process = Process::start("sender", setup, receiver.local_addr(), &log);
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
    let put: BTreeSet<String> = lines(&log).into_iter().collect();
    assert!(came.keys().all(|text| put.contains(text)), "what nobody put");
    eprintln!("{setup:?}: {} put, {} came, {KILLS} kills and the end", put.len(), came.len());
}

/// Nobody is there, or somebody who opened a flow, gave credit, and then said no more.
fn a_process_that_is_told_to_go_goes_whoever_never_answers(driver: DriverChoice) {
    for (wire, answers_hello) in [(Wire::Csv, false), (Wire::Binary, false), (Wire::Binary, true)] {
        let setup = Setup { driver, wire };
        let scratch = Scratch::new(&format!("goes-{}", name(setup)));
        let log = scratch.0.join("log");
        let mut peer = V2Peer::new(nobody());
        let process = Process::start("goes", setup, peer.address(), &log);
        // Something is under way.
        peer.engine = peer.socket.peek_from(&mut [0; 2_048]).unwrap().1;
        until("all is put", || lines(&log) == ["put"]);
        let mut left = 0;
        if answers_hello {
            peer.accept();
            let grant = peer.grant();
            peer.send(|writer| writer.grant(&grant));
            left =
                peer.wait_for("a message", |packet| Some(packet.messages().len()).filter(|&count| count > 0));
        }
        let status = process.tell_to_go();
        assert!(status.success(), "{wire:?}: {status}");
        let log = lines(&log);
        let unknown: u64 = log[1].parse().unwrap();
        match (wire, answers_hello) {
            (Wire::Binary, false) => assert_eq!(unknown, 0, "no message goes with a HELLO"),
            (Wire::Binary, true) => {
                assert!(unknown >= left as u64 && left > 0);
                peer.wait_for("its last word", |packet| {
                    packet.frames().any(|frame| matches!(frame, Frame::Close(_))).then_some(())
                });
            }
            _ => assert!(unknown > 0, "rows have left"),
        }
        eprintln!("{setup:?}: {unknown} of {UNDER_WAY} may have reached somebody");
    }
}
