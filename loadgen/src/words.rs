//! Where the words for people go: standard output, or standard error when JSON has the former for itself.

use std::io::Write;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    to: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Stdout,
    Stderr,
    Nowhere,
}

impl Words {
    /// To standard error if `stdout_is_taken`.
    pub const fn new(stdout_is_taken: bool) -> Self {
        Self { to: if stdout_is_taken { Place::Stderr } else { Place::Stdout } }
    }

    /// To nobody: for one of many runs, about which something shorter is said.
    pub const fn nowhere() -> Self {
        Self { to: Place::Nowhere }
    }

    /// Prints a text and a line break. If nobody reads it, the measurement is no worse.
    pub fn say(self, text: &str) {
        let text = text.trim_end();
        let _ = match self.to {
            Place::Nowhere => Ok(()),
            Place::Stderr => writeln!(std::io::stderr().lock(), "{text}"),
            Place::Stdout => {
                let mut out = std::io::stdout().lock();
                writeln!(out, "{text}").and_then(|()| out.flush())
            }
        };
    }
}
