//! Steps as processes of this tool.

use crate::clock;
use crate::stop::Stop;
use anyhow::{Context, Result};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it is looked whether a step has ended.
const TICK: Duration = Duration::from_millis(10);
/// How long a background step may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to end: `serve` drains for 5 s, a shard at its watchdog takes longer.
const ENDS_WITHIN: Duration = Duration::from_secs(60);
/// Of what a step says, so much is kept.
const SAID_BYTES_MAX: usize = 1 << 20;

/// Tells a step whose it is.
const PARENT: &str = "UDP_PLUS_RUN_PID";

/// A step is over when its plan is, however that came to its end: who is a step takes care of that itself.
pub fn end_with_plan() {
    let is_step = std::env::var(PARENT).is_ok_and(|pid| pid == getppid().to_string());
    if is_step {
        // Where that is not to be had, it runs to its own end.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    }
}

/// Those that run, so that a user who insists can end all of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Processes(Arc<Mutex<Vec<u32>>>);

impl Processes {
    fn change<T>(&self, change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends them at once.
    pub fn kill(&self) {
        self.change(|pids| pids.drain(..).for_each(|pid| signal(pid, Signal::SIGKILL)));
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// What came of a step.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None`: a signal ended it.
    pub status: Option<i32>,
    /// Its report, if it gave one.
    pub report: Option<Value>,
    /// What it said: standard output where that is no report, or else the end of standard error.
    pub said: String,
    /// How long it took.
    pub seconds: f64,
}

/// A process whose output is read all the time.
struct Running {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<String>,
    lines: Receiver<String>,
    started: Instant,
    processes: Processes,
}

impl Running {
    fn start(line: &[String], verbose: bool, processes: &Processes) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        // In a group of its own: Ctrl-C is for us, and we tell the steps, once.
        let mut command = Command::new(program);
        command
            .args(line)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env(PARENT, std::process::id().to_string())
            .process_group(0);
        let mut child =
            command.spawn().with_context(|| format!("cannot start udp-plus {}", line.join(" ")))?;
        processes.change(|pids| pids.push(child.id()));
        let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stdout.as_mut().map(|stdout| stdout.read_to_end(&mut bytes));
            bytes
        });
        let (told, lines) = channel();
        let stderr = std::thread::spawn(move || {
            let mut said = String::new();
            for line in
                stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok)
            {
                if verbose {
                    eprintln!("{line}");
                }
                if said.len() + line.len() < SAID_BYTES_MAX {
                    said.push_str(&line);
                    said.push('\n');
                }
                let _ = told.send(line);
            }
            said
        });
        Ok(Self { child, stdout, stderr, lines, started: clock::now(), processes: processes.clone() })
    }

    fn finish(mut self) -> Result<Ended> {
        while !self.has_ended() {
            clock::sleep(TICK);
        }
        let status = self.child.wait().context("cannot wait for a step")?;
        let seconds = clock::now().duration_since(self.started).as_secs_f64();
        let stdout = self.stdout.join().unwrap_or_default();
        let stderr = self.stderr.join().unwrap_or_default();
        let report = serde_json::from_slice(&stdout).ok().filter(Value::is_object);
        let said = if report.is_some() || stdout.is_empty() {
            stderr
        } else {
            String::from_utf8_lossy(&stdout).into()
        };
        Ok(Ended { status: status.code(), report, said, seconds })
    }

    /// Once it has, its number may be another process's: it is nobody's that we would end, from the same moment on.
    fn has_ended(&mut self) -> bool {
        let Self { child, processes, .. } = self;
        processes.change(|pids| {
            let has_ended = !matches!(child.try_wait(), Ok(None));
            if has_ended {
                pids.retain(|&of| of != child.id());
            }
            has_ended
        })
    }

    /// Asks it to end.
    fn tell(&mut self, what: Signal) {
        if !self.has_ended() {
            signal(self.child.id(), what);
        }
    }
}

/// A step from its start to its end, which comes soon if someone asks to stop.
///
/// # Errors
/// It cannot be started.
pub fn run(line: &[String], verbose: bool, processes: &Processes, stop: &Stop) -> Result<Ended> {
    let mut running = Running::start(line, verbose, processes)?;
    let mut is_told = false;
    while !running.has_ended() {
        if is_told {
            clock::sleep(TICK);
        } else if stop.wait_for(TICK) {
            running.tell(Signal::SIGTERM);
            is_told = true;
        }
    }
    running.finish()
}

/// A step that others talk to.
pub struct Background {
    /// Where it listens.
    pub address: String,
    /// As started.
    pub line: Vec<String>,
    running: Option<Running>,
}

impl Background {
    /// Starts it and waits until it listens; what came of it, if it ended instead.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        line: &[String],
        verbose: bool,
        processes: &Processes,
        stop: &Stop,
    ) -> Result<std::result::Result<Self, Ended>> {
        let mut running = Running::start(line, verbose, processes)?;
        let until = clock::now() + LISTENS_WITHIN;
        while clock::now() < until && !stop.is_requested() {
            match running.lines.recv_timeout(TICK) {
                Ok(said) => {
                    if let Some(address) = said.strip_prefix("listening ") {
                        let address = address.trim().to_owned();
                        return Ok(Ok(Self { address, line: line.to_vec(), running: Some(running) }));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        running.tell(Signal::SIGTERM);
        Ok(Err(running.finish()?))
    }

    /// Whether it is gone already.
    pub fn has_ended(&mut self) -> bool {
        self.running.as_mut().is_none_or(Running::has_ended)
    }

    /// Asks it to end, and waits for that. One that does not is killed, which its status tells.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn finish(mut self) -> Result<Ended> {
        let Some(mut running) = self.running.take() else { anyhow::bail!("a step that was ended already") };
        running.tell(Signal::SIGTERM);
        let until = clock::now() + ENDS_WITHIN;
        while !running.has_ended() && clock::now() < until {
            clock::sleep(TICK);
        }
        running.tell(Signal::SIGKILL);
        running.finish()
    }
}

impl Drop for Background {
    /// A plan that comes to an early end leaves nobody behind.
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}
