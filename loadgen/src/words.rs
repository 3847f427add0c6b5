//! Where the words for people go: standard output, or standard error when JSON has the former for itself.

use std::io::Write;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    to_stderr: bool,
}

impl Words {
    /// To standard error if `stdout_is_taken`.
    pub const fn new(stdout_is_taken: bool) -> Self {
        Self { to_stderr: stdout_is_taken }
    }

    /// Prints a text and a line break. If nobody reads it, the measurement is no worse.
    pub fn say(self, text: &str) {
        let text = text.trim_end();
        let _ = if self.to_stderr {
            writeln!(std::io::stderr().lock(), "{text}")
        } else {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush())
        };
    }
}
