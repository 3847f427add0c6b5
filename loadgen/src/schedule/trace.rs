//! Recorded arrivals: a file with a time a line.

use std::path::Path;

/// A file with more is no trace that fits into memory.
const LINES_MAX: usize = 100_000_000;

/// Nanoseconds from the begin of the window, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace(Vec<u64>);

impl Trace {
    /// Reads the file: see [`Self::parse`].
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the trace {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("the trace {}: {error}", path.display()))
    }

    /// A line is a time in seconds, ascending; what follows behind a comma or blank is left to others. Empty lines and such
    /// with a `#` first are skipped. The first message is due at its time: a trace that was cut from a longer one keeps its
    /// clock if it is shifted to begin at 0.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut times = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let field = line.trim().split([',', ' ', '\t', ';']).next().unwrap_or_default();
            if field.is_empty() || field.starts_with('#') {
                continue;
            }
            let seconds: f64 =
                field.parse().map_err(|_| format!("line {number}: {field:?} is no time in seconds"))?;
            if !(0.0..=1e6).contains(&seconds) {
                return Err(format!("line {number}: {field} is not between 0 and 1,000,000 seconds"));
            }
            let ns = (seconds * 1e9).round() as u64;
            if times.last().is_some_and(|&last| last > ns) {
                return Err(format!("line {number}: {field} comes after a later time; sort it: sort -n"));
            }
            times.push(ns);
            if times.len() > LINES_MAX {
                return Err(format!("more than {LINES_MAX} messages"));
            }
        }
        if times.is_empty() { Err("no time in it".to_owned()) } else { Ok(Self(times)) }
    }

    /// All times.
    pub fn times_ns(&self) -> &[u64] {
        &self.0
    }

    /// Messages a second, from the begin of the window to the last of them.
    pub fn mean_rate(&self) -> f64 {
        let last_ns = self.0.last().copied().unwrap_or(0).max(1);
        (self.0.len() as f64 / last_ns as f64 * 1e9).min(1e9)
    }
}
