//! Helpers shared by the unit tests.

use crate::sys::clock::Clock;
use crate::units::Instant;
use std::process::Command;
use std::time::Duration;

/// How long a test waits for something that must happen before it is declared hung. The only time tests
/// assert.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(10);

/// Says that a test does not run because this machine lacks `feature`. On CI that is a failure: a suite that
/// skips silently proves nothing.
pub(crate) fn skip(feature: &str) {
    println!("SKIP {feature}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must not skip: {feature}");
}

/// Runs out after [`HANG_GUARD`].
pub(crate) struct Guard {
    end: Instant,
    what: &'static str,
}

impl Guard {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { end: Clock.now() + HANG_GUARD, what }
    }

    pub(crate) fn check(&self) {
        assert!(Clock.now() < self.end, "hung: {}", self.what);
    }
}

/// Ends the process if it lives longer than [`HANG_GUARD`]: for what sleeps without a deadline.
pub(crate) struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    pub(crate) fn new(what: &'static str) -> Self {
        let (alive, gone) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            if gone.recv_timeout(HANG_GUARD) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("hung: {what}");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Runs one test of this binary alone, in a process of its own, with `variable` set, and returns what it
/// printed. For what cannot be undone, like a seccomp filter.
pub(crate) fn run_in_child(test: &str, variable: &str, value: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(variable, value);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// From now on this thread gets `errno` from `syscall`.
#[cfg(not(loom))]
pub(crate) fn deny_syscall(syscall: i64, errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let rules = [(syscall, vec![])].into_iter().collect();
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}
