//! The command line, and plans, with whatever is typed: it becomes options that the engine takes, or an error that says what is
//! wrong. Run by `cargo fuzz run cli_config` (`engine/fuzz`), and here with the inputs it found.

use crate::cli::{self, Cli};
use crate::configure;
use crate::flags::FLAGS;
use crate::suite;
use clap::FromArgMatches;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const COMMANDS: [&str; 11] =
    ["bench", "serve", "load", "send", "recv", "baseline", "search", "compare", "ab", "doctor", "impair"];
/// So many arguments are enough.
const ARGUMENTS_MAX: usize = 24;

/// First bytes from here on: the rest is a plan (`run PLAN.toml`).
const PLAN: u8 = 0xf0;

/// A command line from the input: its first byte chooses the command, or a plan, lines are arguments. One that begins with a control
/// character names a flag of the table, so that inputs need not guess names; what follows is its value.
///
/// # Panics
/// If the tool would, or if an error says nothing.
pub fn run(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
    if first >= PLAN {
        return plan(rest);
    }
    let mut arguments = vec![OsString::from("udp-plus")];
    arguments.extend(COMMANDS.get(usize::from(first) % (COMMANDS.len() + 1)).map(OsString::from));
    arguments.extend(rest.split(|&byte| byte == b'\n').take(ARGUMENTS_MAX).map(argument));
    let parsed = cli::command().try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            assert!(!error.to_string().trim().is_empty() && [0, 2].contains(&error.exit_code()));
            return;
        }
    };
    // A recorded trace is a file, and would be read.
    let reads = rest.windows(5).any(|part| part == b"trace");
    if !reads && let Err(error) = configure::check(&cli) {
        assert!(!format!("{error:#}").trim().is_empty());
    }
}

/// # Panics
/// As [`run`].
fn plan(text: &[u8]) {
    // Reports and traces are files, and would be read.
    let reads = text.contains(&b'/') || text.windows(5).any(|part| part == b"trace");
    if let Ok(text) = std::str::from_utf8(text)
        && !reads
        && let Err(error) = suite::check(text)
    {
        assert!(!error.trim().is_empty());
    }
}

fn argument(line: &[u8]) -> OsString {
    match line.split_first() {
        Some((&byte, value)) if byte < b' ' => {
            let mut argument = OsString::from(FLAGS[usize::from(byte) % FLAGS.len()].name);
            if !value.is_empty() {
                argument.push("=");
                argument.push(OsString::from_vec(value.to_vec()));
            }
            argument
        }
        _ => OsString::from_vec(line.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn inputs_that_the_fuzzer_found() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/fuzz/corpus/cli_config");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display()); // Shown if it fails.
            super::run(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count >= 10, "{count} inputs prove little");
    }
}
