//! Runs the tool as users do.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The tool with these arguments.
pub fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_udp-plus"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    tool(args).output().expect("the tool starts")
}

/// As [`run`] of a command with a rate. A busy machine may keep the generator from putting what was due: then once more, five
/// times at most.
pub fn run_at_rate(args: &[&str]) -> Output {
    let is_kept =
        |output: &Output| !String::from_utf8_lossy(&output.stdout).contains("the rate was not kept");
    (0..4).map(|_| run(args)).find(is_kept).unwrap_or_else(|| run(args))
}

/// Runs it to its end with `input` on its standard input.
pub fn run_with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = tool(args).stdin(Stdio::piped()).spawn().expect("the tool starts");
    child.stdin.take().expect("piped").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// The exit status and standard error, for assertions.
pub fn status(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `serve` or `recv` in the background; killed when dropped.
pub struct Listener {
    child: Child,
    pub address: String,
}

impl Listener {
    /// Starts it at a free port of loopback and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        Self::start_at("--bind", args)
    }

    /// As [`start`](Self::start), of a command that has another flag for where it listens.
    pub fn start_at(flag: &str, args: &[&str]) -> Self {
        let mut command = tool(args);
        command.args([flag, "127.0.0.1:0"]);
        Self::of(command)
    }

    /// As [`start`](Self::start), of a command that is complete.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the tool starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(stderr.read_line(&mut line).expect("readable") > 0, "it ended before it listened");
            if let Some(address) = line.trim_end().strip_prefix("listening ") {
                break address.to_owned();
            }
        };
        // Whatever it says later must not find a closed pipe.
        std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        Self { child, address }
    }

    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().expect("a port")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its own end.
    pub fn finish(mut self) -> (Option<i32>, Vec<u8>) {
        let mut stdout = Vec::new();
        self.child.stdout.take().expect("piped").read_to_end(&mut stdout).expect("readable");
        (self.child.wait().expect("it ends").code(), stdout)
    }

    pub fn interrupt(&self) {
        interrupt(&self.child);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Voluntary context switches of all threads of a process, and its CPU ticks.
pub fn wake_ups(pid: u32) -> (u64, u64) {
    let mut switches = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("alive").flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        switches += line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("alive");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    (switches, fields[11].parse::<u64>().unwrap_or(0) + fields[12].parse::<u64>().unwrap_or(0))
}

/// One second of three is one of rest: at most so many wake-ups and CPU ticks. What does not rest does so in none.
pub fn assert_rests(pid: u32, what: &str, wake_ups_max: u64, ticks_max: u64) {
    let mut spans = Vec::new();
    while spans.len() < 3 {
        let before = wake_ups(pid);
        sleep(Duration::from_secs(1));
        let after = wake_ups(pid);
        if after.0.saturating_sub(before.0) <= wake_ups_max && after.1 - before.1 <= ticks_max {
            return;
        }
        spans.push((before, after));
    }
    panic!("{what} does not rest: {spans:?}");
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

#[expect(clippy::disallowed_methods, reason = "a test measures how long another process takes")]
pub fn unix_s() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

/// What the run says.
pub fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let stdout = String::from_utf8_lossy(&output.stdout);
        panic!("standard output is not JSON alone: {error}\n{stdout}\n{}", status(output).1)
    })
}

/// Messages that were due: those that a busy machine did not come to put in time are told, and counted.
pub fn due(report: &Value) -> f64 {
    number(report, "/offered") + number(report, "/not_offered")
}

/// A number of it.
pub fn number(report: &Value, path: &str) -> f64 {
    report
        .pointer(path)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("{path} is not a number in {report:#}"))
}

/// What is published about reports.
pub fn assert_schema(report: &Value) {
    let schema = serde_json::from_str(include_str!("../../../docs/report-schema.json")).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<String> =
        validator.iter_errors(report).map(|error| format!("{error} at {}", error.instance_path)).collect();
    assert!(errors.is_empty(), "{errors:?}");
}
