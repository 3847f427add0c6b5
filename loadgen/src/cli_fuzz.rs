//! The command line with whatever is typed: it becomes options that the engine takes, or an error that says what is wrong. Run
//! by `cargo fuzz run cli_config` (`engine/fuzz`), and here with the inputs it found.

use crate::cli::{self, BenchArgs, Cli, Command, EngineFlags, LoadFlags};
use crate::flags::FLAGS;
use crate::impair;
use crate::plan::Plan;
use crate::setup::{self, Reach, Traffic};
use anyhow::Result;
use clap::FromArgMatches;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const COMMANDS: [&str; 11] =
    ["bench", "serve", "load", "send", "recv", "baseline", "search", "compare", "ab", "doctor", "impair"];
/// So many arguments are enough.
const ARGUMENTS_MAX: usize = 24;

/// A command line from the input: its first byte chooses the command, lines are arguments. One that begins with a control
/// character names a flag of the table, so that inputs need not guess names; what follows is its value.
///
/// # Panics
/// If the tool would, or if an error says nothing.
pub fn run(input: &[u8]) {
    let Some((&first, rest)) = input.split_first() else { return };
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
    if !reads && let Err(error) = configure(&cli) {
        assert!(!format!("{error:#}").trim().is_empty());
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

/// Everything up to where sockets and threads would come.
fn configure(cli: &Cli) -> Result<()> {
    match &cli.command {
        None => bench(&cli.bench),
        Some(Command::Bench(args)) => bench(args),
        Some(Command::Load(args)) => load(&args.engine, &args.load),
        Some(Command::Serve(args)) => engine(&args.engine, &args.bind, Traffic::of_strangers()),
        Some(Command::Recv(args)) => engine(&args.engine, &args.bind, Traffic::of_strangers()),
        Some(Command::Send(args)) => engine(&args.engine, "0.0.0.0:0", Traffic::of(1 << 20, 1)),
        Some(Command::Search(args)) => load(&args.engine, &args.load),
        Some(Command::Impair(args)) => impair::check(args),
        Some(
            Command::Baseline(_) | Command::Flags | Command::Compare(_) | Command::Ab(_) | Command::Doctor(_),
        ) => Ok(()),
    }
}

fn bench(args: &BenchArgs) -> Result<()> {
    load(&args.engine, &args.load)
}

fn load(flags: &EngineFlags, load: &LoadFlags) -> Result<()> {
    let plan = Plan::new(flags, load)?;
    assert!(plan.size > 0 && plan.in_flight > 0 && plan.slots_each() > 0);
    engine(flags, "127.0.0.1:0", Traffic::of(plan.size as u64, plan.in_flight as u64))
}

fn engine(flags: &EngineFlags, bind: &str, traffic: Traffic) -> Result<()> {
    for reach in [Reach::to_unknown(flags)?, Reach::to_ourselves(flags)?] {
        let builder = setup::builder(flags, bind.to_owned(), reach, traffic)?;
        setup::check(&builder)?;
        // What an engine takes, it can say the size of.
        let bytes = builder.options().footprint().total_bytes();
        assert!(bytes > 0);
    }
    Ok(())
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
