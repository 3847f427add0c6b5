//! The example `telemetry`: its processes have sessions of their own, where no Ctrl-C comes, and end with it all the same.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test of processes lives in real time"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use support::until;

/// 8 peers in 2 processes, for ten minutes.
const FOR_LONG: [&str; 5] = ["8", "80000", "600", "64", "2"];

/// `cargo test` builds the examples, too; with `--test` alone it does not.
fn program() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let program = own.parent().unwrap().parent().unwrap().join("examples/telemetry");
    if !program.exists() {
        support::skip("the example is not built: cargo build --example telemetry");
        return None;
    }
    Some(program)
}

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of the line of /proc/PID/stat: state and parent.
fn state(pid: u32) -> Option<(char, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn children(of: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| state(pid).is_some_and(|(_, parent)| parent == of)).collect()
}

/// Those who nobody else would end, should the test fail.
struct Orphans(Vec<u32>);

impl Orphans {
    fn have_ended(&self) -> bool {
        // Nobody may be there who takes their status.
        self.0.iter().all(|&pid| state(pid).is_none_or(|(state, _)| state == 'Z'))
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        if !self.have_ended() {
            let pids = self.0.iter().map(u32::to_string);
            let _ = Command::new("kill").arg("-KILL").args(pids).status();
        }
    }
}

#[test]
fn who_is_killed_leaves_no_process_behind() {
    let Some(program) = program() else { return };
    let command = Command::new(program).args(FOR_LONG).stdout(Stdio::piped()).spawn();
    let mut parent = Process(command.unwrap());
    let mut said = BufReader::new(parent.0.stdout.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(line.starts_with("8 engines started"), "{line}");
    let children = Orphans(children(parent.0.id()));
    assert_eq!(children.0.len(), 2);
    parent.0.kill().unwrap();
    parent.0.wait().unwrap();
    until("they have ended", || children.have_ended());
}

/// The end of what the parent says is no word that it is time.
#[test]
fn a_process_whose_parent_is_gone_does_not_begin() {
    let Some(program) = program() else { return };
    let mut command = Command::new(program);
    command.args(FOR_LONG).args(["0", "4", "127.0.0.1:9"]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = Process(command.spawn().unwrap());
    until("it has ended", || child.0.try_wait().unwrap().is_some());
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
}
