//! The live line on standard error: a bar that is rewritten in place on a terminal, plain lines otherwise.

use crate::clock;
use crate::progress::Snapshot;
use crate::show::{count, time};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The line, and what it said last.
#[derive(Debug)]
pub struct Live {
    /// On a terminal.
    bar: Option<ProgressBar>,
    every: Duration,
    begin: Instant,
    last_at: Instant,
    last_delivered: u64,
    /// Of the last interval.
    latency: Option<[u64; 2]>,
    kernel_drops: Option<u64>,
}

impl Live {
    /// Begins now, for a run that takes about `expected`.
    pub fn new(expected: Duration) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = clock::now();
        let every = Duration::from_millis(if terminal { 250 } else { 1_000 });
        let bar = terminal.then(|| {
            let bar = ProgressBar::with_draw_target(Some(clock::ns(expected)), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:20} {percent:>3} %  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, every, begin: now, last_at: now, last_delivered: 0, latency: None, kernel_drops: None }
    }

    /// What the last interval was like: p50 and p99, if anything ended in it, and drops at our sockets so far.
    pub const fn tell(&mut self, latency: Option<[u64; 2]>, kernel_drops: Option<u64>) {
        (self.latency, self.kernel_drops) = (latency, kernel_drops);
    }

    /// Says how it goes, if it is time to.
    pub fn update(&mut self, phase: &str, snapshot: Snapshot) {
        let now = clock::now();
        let elapsed = now.duration_since(self.last_at);
        if elapsed < self.every {
            return;
        }
        let rate = (snapshot.delivered - self.last_delivered) as f64 / elapsed.as_secs_f64();
        let since = now.duration_since(self.begin);
        let text = self.line(phase, since, rate, snapshot);
        match &self.bar {
            Some(bar) => {
                bar.set_position(clock::ns(since));
                bar.set_message(text);
            }
            // Nobody to read it: no reason to stop measuring.
            None => _ = writeln!(std::io::stderr().lock(), "{text}"),
        }
        (self.last_at, self.last_delivered) = (now, snapshot.delivered);
    }

    fn line(&self, phase: &str, since: Duration, rate: f64, snapshot: Snapshot) -> String {
        let mut text = format!(
            "{:5.1} s  {phase:<9} {:>12} messages/s  {:>6} in flight  {} failed",
            since.as_secs_f64(),
            count(rate),
            count(snapshot.outstanding as f64),
            count(snapshot.failed as f64),
        );
        if let Some([p50, p99]) = self.latency {
            text += &format!("  p50 {}  p99 {}", time(p50 as f64), time(p99 as f64));
        }
        if let Some(drops) = self.kernel_drops {
            text += &format!("  {} dropped", count(drops as f64));
        }
        text
    }

    /// Leaves the screen as it was.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        let mut live = Live::new(Duration::from_secs(5));
        let snapshot = Snapshot { outstanding: 1_234, failed: 5, ..Snapshot::default() };
        let line = |live: &Live| live.line("measuring", Duration::from_secs(2), 1e6, snapshot);
        let text = line(&live);
        assert!(text.contains("2.0 s  measuring") && text.contains("1,000,000 messages/s"), "{text}");
        assert!(text.contains("1,234 in flight  5 failed") && !text.contains("p50"), "{text}");
        live.tell(Some([90_000, 1_500_000]), Some(3));
        assert!(line(&live).ends_with("p50 90 us  p99 1.5 ms  3 dropped"), "{}", line(&live));
    }
}
