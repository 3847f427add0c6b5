//! The live line on standard error: rewritten in place on a terminal, plain lines otherwise.

use crate::clock;
use crate::progress::Snapshot;
use crate::show::count;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line, and what it said last.
#[derive(Debug)]
pub struct Live {
    terminal: bool,
    every: Duration,
    begin: Instant,
    last_at: Instant,
    last_delivered: u64,
}

impl Live {
    /// Begins now.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = clock::now();
        let every = Duration::from_millis(if terminal { 250 } else { 1_000 });
        Self { terminal, every, begin: now, last_at: now, last_delivered: 0 }
    }

    /// Says how it goes, if it is time to.
    pub fn update(&mut self, phase: &str, snapshot: Snapshot) {
        let now = clock::now();
        let elapsed = now.duration_since(self.last_at);
        if elapsed < self.every {
            return;
        }
        let rate = (snapshot.delivered - self.last_delivered) as f64 / elapsed.as_secs_f64();
        let text = format!(
            "{:5.1} s  {phase:<9} {:>12} messages/s  {:>6} in flight  {} failed",
            now.duration_since(self.begin).as_secs_f64(),
            count(rate),
            count(snapshot.outstanding as f64),
            count(snapshot.failed as f64),
        );
        let mut out = std::io::stderr().lock();
        // Nobody to read it: no reason to stop measuring.
        let _ = if self.terminal { write!(out, "\r\x1b[K{text}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
        (self.last_at, self.last_delivered) = (now, snapshot.delivered);
    }

    /// Leaves the screen as it was.
    pub fn finish(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
