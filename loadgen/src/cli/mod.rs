//! The command line, as typed. Its documentation is the table in [`crate::flags`], which a test holds against this.

mod args;
#[cfg(test)]
mod tests;
mod values;

use crate::doctor::DoctorArgs;
use crate::flags;
use crate::impair::ImpairArgs;
use crate::suite::RunArgs;
pub use args::{
    AbArgs, BaselineArgs, BenchArgs, CompareArgs, EngineFlags, LoadArgs, LoadFlags, RecvArgs, SearchArgs,
    SendArgs, ServeArgs,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
#[cfg(test)]
pub use values::TIMEOUT_S_MAX;
pub use values::{
    Api, Cc, Driver, Level, Mode, Mtu, Percent, Priority, Protocol, Seconds, WIRE_DEFAULT, Wire,
};

/// `udp-plus`
#[derive(Debug, Parser)]
#[command(
    name = "udp-plus",
    version,
    about = "Reliable messages over UDP: measure this machine, serve, load, send and receive.\n\
             Without a command: bench.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Without a command.
    #[command(flatten)]
    pub bench: BenchArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure this machine: client and server on loopback, in one process (the default)
    Bench(Box<BenchArgs>),
    /// Receive the messages of `load`, until Ctrl-C
    Serve(ServeArgs),
    /// Put load on a `serve` somewhere else
    Load(LoadArgs),
    /// Find the highest rate that keeps an SLO, here or at a `serve` somewhere else
    Search(Box<SearchArgs>),
    /// Run the steps of a plan and say which of them did what they were held to
    Run(RunArgs),
    /// Hold one report against another
    Compare(CompareArgs),
    /// Run two command lines in turns and say what differs: ab -- bench ... -- bench ...
    Ab(AbArgs),
    /// Send one message and wait for its outcome
    Send(SendArgs),
    /// Print the messages that come
    Recv(RecvArgs),
    /// What of this machine spoils figures, and the commands that change it
    Doctor(DoctorArgs),
    /// Relay datagrams, and lose, delay, duplicate, reorder and corrupt some of them on purpose
    Impair(ImpairArgs),
    /// Measure the raw sockets alone and print JSON
    #[command(hide = true)]
    Baseline(BaselineArgs),
    /// Print the table of flags as Markdown
    #[command(hide = true)]
    Flags,
}

/// The parser, its help being the table of flags.
pub fn command() -> clap::Command {
    let mut command = Cli::command().disable_help_subcommand(true).help_template(
        "{about-with-newline}\n{usage-heading} {usage}\n\nCommands:\n{subcommands}\n\nFlags of bench:{after-help}",
    );
    command = command.after_help(flags::help("bench"));
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    for name in names {
        let help = flags::help(&name);
        command = command.mut_subcommand(name, |sub| {
            sub.after_help(help).help_template(
                "{about-with-newline}\n{usage-heading} {usage}\n\n{positionals}Flags:{after-help}",
            )
        });
    }
    command
}

/// The command line of this process. Bad usage and `--help` end it here, with status 2 and 0.
pub fn parse() -> Cli {
    let matches = command().get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}
