//! Runs that come to nothing after others that did not: what was measured is not lost.

use super::support::{report, run, status};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// A program for this test. Another one writes it: a file that this process has open for writing may be so in a child that another
/// test is just starting, and then nobody can run it.
fn script(path: &Path, text: &str) {
    let write = ["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""];
    let status = Command::new("sh").args(write).arg(path).arg(text).status();
    assert!(status.expect("sh").success());
}

/// An arm that works once, and then no more.
#[test]
fn the_pairs_before_a_run_that_fails_are_compared() {
    let folder = std::env::temp_dir().join(format!("udp-plus-ab-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("writable");
    let arm = folder.join("arm");
    let tool = env!("CARGO_BIN_EXE_udp-plus");
    let text = format!(
        "#!/bin/sh\nmkdir {folder:?}/once 2>/dev/null || {{ echo no more >&2; exit 1; }}\nexec {tool:?} \"$@\"\n"
    );
    script(&arm, &text);
    let bench = ["bench", "--duration", "0.05", "--baseline", "0"];
    let arm = arm.to_str().expect("UTF-8");
    let start = ["ab", "--repeat", "3", "--json", "-", "--"];
    let output = run(&[&start[..], &bench, &["--", arm], &bench].concat());
    let (code, words) = status(&output);
    assert_eq!(code, Some(1), "{words}");
    let value = report(&output);
    assert_eq!((&value["runs_a"], &value["runs_b"]), (&json!(1), &json!(1)));
    // In the second pair b comes first.
    let cause = value["causes"][0].as_str().expect("a cause");
    assert!(cause.starts_with("pair 2, b: a run failed") && cause.contains("no more"), "{cause}");
    assert!(words.contains(cause), "{words}");
    // Without any pair there is nothing to say but why.
    let output = run(&[&start[..], &bench, &["--", arm], &bench].concat());
    let (code, words) = status(&output);
    assert!(code == Some(1) && output.stdout.is_empty() && words.contains("no more"), "{code:?} {words}");
    let _ = std::fs::remove_dir_all(&folder);
}

/// Ctrl-C, in the second pair.
#[test]
fn the_pairs_before_an_interruption_are_no_success() {
    let folder = std::env::temp_dir().join(format!("udp-plus-ab-stop-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("writable");
    let arm = folder.join("arm");
    let tool = env!("CARGO_BIN_EXE_udp-plus");
    let interrupt = format!("mkdir {folder:?}/twice 2>/dev/null && kill -INT $PPID");
    let text =
        format!("#!/bin/sh\nmkdir {folder:?}/once 2>/dev/null || {{ {interrupt}; }}\nexec {tool:?} \"$@\"\n");
    script(&arm, &text);
    let bench = ["bench", "--duration", "0.05", "--baseline", "0"];
    let start = ["ab", "--repeat", "1000", "--json", "-", "--"];
    let output = run(&[&start[..], &bench, &["--", arm.to_str().expect("UTF-8")], &bench].concat());
    let (code, words) = status(&output);
    assert_eq!(code, Some(1), "{words}");
    let value = report(&output);
    let pairs = value["runs_a"].as_u64().expect("a count");
    assert!((1..1_000).contains(&pairs), "{value:#}");
    let cause = value["causes"][0].as_str().expect("a cause");
    assert_eq!(cause, format!("interrupted after {pairs} of 1000 pairs"));
    assert!(words.contains(cause), "{words}");
    let _ = std::fs::remove_dir_all(&folder);
}

/// A far end that takes one connection in its life.
#[test]
fn the_runs_before_one_that_fails_are_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = listener.local_addr().expect("bound").to_string();
    let far = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("somebody comes");
        drop(listener);
        let mut buffer = [0; 4_096];
        while let Ok(count @ 1..) = connection.read(&mut buffer) {
            connection.write_all(&buffer[..count]).expect("it is read");
        }
    });
    let args = ["load", "--target", &target, "--protocol", "tcp", "--mode", "echo", "--rate", "100"];
    let output = run(&[&args[..], &["--duration", "0.1", "--repeat", "3", "--json", "-"]].concat());
    far.join().expect("no panic");
    let (code, words) = status(&output);
    assert_eq!(code, Some(1), "{words}");
    let value = report(&output);
    super::support::assert_schema(&value);
    assert_eq!((value["runs"].as_array().map(Vec::len), &value["ok"]), (Some(1), &json!(false)));
    let cause = value["causes"][0].as_str().expect("a cause");
    assert!(cause.starts_with("run 2: ") && cause.contains("cannot connect"), "{cause}");
}

/// A tool that says what the test wants it to: the gate fails where something got worse, and does not pass what nobody can judge.
#[test]
fn the_gate_passes_valid_comparisons_alone() {
    let folder = std::env::temp_dir().join(format!("udp-plus-gate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("writable");
    let tool = folder.join("tool");
    let gate = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/regression-gate");
    let say = "while [ $# -gt 0 ]; do [ \"$1\" = --json ] && out=$2; shift; done";
    script(
        &tool,
        &format!("#!/bin/sh\n{say}\nprintf '{{\\n  \"valid\": %s\\n}}\\n' $VALID >\"$out\"\nexit $STATUS\n"),
    );
    for (valid, status, expected) in
        [("true", "0", 0), ("false", "0", 2), ("true", "1", 1), ("false", "1", 1), ("false", "101", 101)]
    {
        let mut command = Command::new("bash");
        command.arg(gate).env("UDP_PLUS", &tool).env("BASE_UDP_PLUS", &tool).env_remove("GATE_JSON");
        command.env("VALID", valid).env("STATUS", status);
        let output = command.output().expect("bash");
        let (code, words) = super::support::status(&output);
        assert_eq!(code, Some(expected), "valid {valid}, status {status}: {words}");
    }
    // Pairs that can show nothing.
    let mut command = Command::new("bash");
    command.arg(gate).env("UDP_PLUS", &tool).env("BASE_UDP_PLUS", &tool).env("PAIRS", "7");
    let (code, words) = super::support::status(&command.output().expect("bash"));
    assert!(code == Some(2) && words.contains("from 8 on"), "{code:?} {words}");
    let _ = std::fs::remove_dir_all(&folder);
}
