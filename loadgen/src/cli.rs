//! The command line, as typed. Its documentation is the table in [`crate::flags`], which a test holds against this.

use crate::doctor::DoctorArgs;
use crate::flags;
use crate::impair::ImpairArgs;
use crate::schedule::{Arrivals, Rates};
use crate::size::Size;
use crate::slo::Slo;
use crate::suite::RunArgs;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use udp_plus::protection::Cipher;
use udp_plus::{DriverChoice, PeerMatch};

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

/// What the far end does with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Takes them.
    Sink,
    /// Sends them back.
    Echo,
}

/// How the application uses its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Api {
    /// In the shard.
    Actor,
    /// From a thread of its own, in batches.
    Buckets,
}

/// How urgent messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Priority {
    /// Below others to the same peer.
    Low,
    /// As others.
    Normal,
    /// Above others.
    High,
    /// Before others.
    Control,
}

/// When a message counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// The far end has it.
    Accepted,
    /// The far end's application has committed it.
    Committed,
}

/// The wire format if the user does not say: here for the parser, and in the table of flags.
pub const WIRE_DEFAULT: &str = "csv";

/// Wire formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Binary with peers that speak it, CSV with others.
    Auto,
    /// UDP-Plus v1.
    Csv,
    /// UDP-Plus v2 alone.
    Binary,
}

impl From<Wire> for udp_plus::Wire {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Auto => Self::Auto,
            Wire::Csv => Self::Csv,
            Wire::Binary => Self::Binary,
        }
    }
}

/// The wire of some peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerWire {
    /// Which ones.
    pub peer: PeerMatch,
    /// What they are spoken to in.
    pub wire: Wire,
}

impl FromStr for PeerWire {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (peer, wire) =
            text.split_once('=').ok_or_else(|| format!("{text:?} is not PEER=WIRE, as 10.0.0.0/8=csv"))?;
        let peer = peer.parse().map_err(|error: udp_plus::ParsePeerMatchError| error.to_string())?;
        let wire =
            Wire::from_str(wire, false).map_err(|_| format!("{wire:?} is none of auto, csv and binary"))?;
        Ok(Self { peer, wire })
    }
}

impl fmt::Display for PeerWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.peer, self.wire)
    }
}

/// Congestion controls of the binary wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cc {
    /// By delivery rate and delay.
    Model,
    /// RFC 9438.
    Cubic,
    /// A fixed window.
    Fixed,
}

/// Largest datagram of the binary wire, in bytes of UDP payload; `None`: as the path allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu(pub Option<u32>);

/// What every path carries.
const MTU_MIN: u64 = 1_200;
/// What a datagram over IPv4 carries.
const MTU_MAX: u64 = 65_472;

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        match text.parse::<Size>() {
            Ok(Size(bytes)) if (MTU_MIN..=MTU_MAX).contains(&bytes) => Ok(Self(u32::try_from(bytes).ok())),
            _ => Err(format!("{text:?} is neither \"auto\" nor between {MTU_MIN} and {MTU_MAX} bytes")),
        }
    }
}

/// Kernel interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// io_uring where it works.
    Auto,
    /// io_uring or failure.
    Uring,
    /// epoll, recvmmsg, sendmmsg.
    Mmsg,
}

impl From<Driver> for DriverChoice {
    fn from(driver: Driver) -> Self {
        match driver {
            Driver::Auto => Self::Auto,
            Driver::Uring => Self::Uring,
            Driver::Mmsg => Self::Mmsg,
        }
    }
}

macro_rules! display_as_value {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
            }
        }
    )+};
}
display_as_value!(Mode, Api, Priority, Level, Wire, Cc, Driver);

/// A positive number of seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
        if seconds > 0.0 && seconds <= 1e6 {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!("{text:?} is not above 0 and up to 1,000,000 seconds"))
        }
    }
}

/// The engine tries a row for half an hour at most.
pub const TIMEOUT_S_MAX: f64 = 1_800.0;

fn timeout(text: &str) -> Result<Seconds, String> {
    match text.parse::<Seconds>()? {
        Seconds(timeout) if timeout.as_secs_f64() <= TIMEOUT_S_MAX => Ok(Seconds(timeout)),
        _ => Err(format!("{text:?} is not above 0 and up to {TIMEOUT_S_MAX} seconds")),
    }
}

/// The drain waits for two minutes.
const DEADLINE_MS_MAX: i64 = 100_000;

/// Flags of every command that has an engine.
#[derive(Clone, Debug, Args)]
pub struct EngineFlags {
    /// Wire format.
    #[arg(long, default_value = WIRE_DEFAULT, value_name = "auto|csv|binary")]
    pub wire: Wire,
    /// Wire format of single peers.
    #[arg(long, value_name = "PEER=WIRE")]
    pub peer_wire: Vec<PeerWire>,
    /// Largest datagram of the binary wire.
    #[arg(long, default_value = "auto", value_name = "BYTES|auto")]
    pub mtu: Mtu,
    /// Congestion control of the binary wire.
    #[arg(long, default_value = "model", value_name = "model|cubic|fixed")]
    pub cc: Cc,
    /// Keys that datagrams are sealed with.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// What they are sealed with.
    #[arg(long, default_value = "aes-256-gcm", value_name = "aes-256-gcm|chacha20-poly1305")]
    pub cipher: Cipher,
    /// Shards per side.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub shards: u16,
    /// Kernel interface.
    #[arg(long, default_value = "auto", value_name = "auto|uring|mmsg")]
    pub driver: Driver,
    /// Polling before a shard sleeps.
    #[arg(long, default_value_t = 0, value_name = "MICROSECONDS")]
    pub spin_us: u32,
    /// Longest row sent.
    #[arg(long, value_name = "SIZE")]
    pub row_bytes: Option<Size>,
    /// Rows in flight to one peer, in memory at the peer.
    #[arg(long, value_name = "SIZE")]
    pub window: Option<Size>,
    /// What each socket asks the kernel for; the kernel doubles it.
    #[arg(long, default_value = "4MiB", value_name = "SIZE")]
    pub rcvbuf: Size,
    /// One core per shard.
    #[arg(long)]
    pub pin: bool,
    /// No trains out.
    #[arg(long)]
    pub no_gso: bool,
    /// No trains in.
    #[arg(long)]
    pub no_gro: bool,
}

impl EngineFlags {
    /// Whether some peer may be spoken to in the binary wire.
    pub fn has_binary(&self) -> bool {
        self.wire != Wire::Csv || self.peer_wire.iter().any(|rule| rule.wire != Wire::Csv)
    }
}

/// Flags of the commands that generate load.
#[derive(Clone, Debug, Args)]
pub struct LoadFlags {
    /// What the far end does.
    #[arg(long, default_value = "sink", value_name = "sink|echo")]
    pub mode: Mode,
    /// How the near end uses its engine.
    #[arg(long, default_value = "actor", value_name = "actor|buckets")]
    pub api: Api,
    /// Payload of every message.
    #[arg(long, default_value = "64", value_name = "SIZE")]
    pub size: Size,
    /// Messages per second.
    #[arg(long, default_value = "max", value_name = "RATE|max")]
    pub rate: Rates,
    /// How they follow each other.
    #[arg(long, default_value = "even", value_name = "even|poisson|burst:COUNT")]
    pub arrivals: Arrivals,
    /// Polling before a message is due.
    #[arg(long, default_value_t = 100, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub wake_early_us: u32,
    /// Largest scheduling error of a valid run.
    #[arg(long, default_value_t = 1_000, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub late_max_us: u32,
    /// Messages under way at once.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight: Option<u32>,
    /// How long a message is worth delivering.
    #[arg(long, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(1..=DEADLINE_MS_MAX))]
    pub deadline_ms: Option<u32>,
    /// How urgent messages are.
    #[arg(long, default_value = "normal", value_name = "low|normal|high|control")]
    pub priority: Priority,
    /// When a message counts as delivered.
    #[arg(long, default_value = "accepted", value_name = "accepted|committed")]
    pub level: Level,
    /// In order with others.
    #[arg(long, value_name = "NUMBER")]
    pub lane: Option<u16>,
    /// What to hold the run to.
    #[arg(long, value_name = "TERM,...")]
    pub slo: Option<Slo>,
    /// Where the slowest spent their time.
    #[arg(long)]
    pub explain: bool,
    /// Measured time.
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    pub duration: Seconds,
    /// Runs; medians are reported.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeat: u32,
    /// Where everything went, for people; the report has it anyway.
    #[arg(long)]
    pub ledger: bool,
    /// Where the histograms of each second go.
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Where the figures of each second go.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Where the report goes as JSON.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// `bench`
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// See there.
    #[command(flatten)]
    pub load: LoadFlags,
    /// Time for each of the six baselines, half of it before and half after each run; 0: none.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = baseline_seconds)]
    pub baseline: f64,
}

fn baseline_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("{text:?} is not between 0 and 3,600 seconds")),
    }
}

/// `serve`
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// Where to receive.
    #[arg(long, default_value = "0.0.0.0:25252", value_name = "ADDR:PORT")]
    pub bind: String,
    /// What to do with messages.
    #[arg(long, default_value = "sink", value_name = "sink|echo")]
    pub mode: Mode,
    /// How to use the engine.
    #[arg(long, default_value = "actor", value_name = "actor|buckets")]
    pub api: Api,
    /// Where everything went, at the end.
    #[arg(long)]
    pub ledger: bool,
}

/// `load`
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Where `serve` listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: String,
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// See there.
    #[command(flatten)]
    pub load: LoadFlags,
}

/// A share, given in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim_end_matches('%').trim().parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => Err(format!("{text:?} is not from 0 to below 100 per cent")),
        }
    }
}

fn above_zero(text: &str) -> Result<Percent, String> {
    match text.parse::<Percent>()? {
        Percent(share) if share >= 0.001 => Ok(Percent(share)),
        _ => Err(format!("{text:?} is less than 0.1 per cent")),
    }
}

/// `search`
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Where `serve` listens; without it, both ends are here.
    #[arg(long, value_name = "HOST:PORT")]
    pub target: Option<String>,
    /// Trials that may be bad.
    #[arg(long, default_value = "50", value_name = "PERCENT", value_parser = above_zero)]
    pub exceed: Percent,
    /// How close the bounds are to be.
    #[arg(long, default_value = "5", value_name = "PERCENT", value_parser = above_zero)]
    pub width: Percent,
    /// Full trials that decide.
    #[arg(long, default_value_t = 7, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub trials: u32,
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// See there.
    #[command(flatten)]
    pub load: LoadFlags,
}

/// `compare`
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// What there was.
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// What there is.
    #[arg(value_name = "B.json")]
    pub b: PathBuf,
    /// What b may be worse by.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub threshold: Percent,
    /// Where the comparison goes as JSON.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// `ab`
#[derive(Clone, Debug, Args)]
pub struct AbArgs {
    /// Pairs of runs.
    #[arg(long, default_value_t = 15, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeat: u32,
    /// What b may be worse by.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub threshold: Percent,
    /// Where the comparison, and every run, goes as JSON.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Two command lines.
    #[arg(last = true, required = true, value_name = "A... -- B...")]
    pub arms: Vec<OsString>,
}

/// `send`
#[derive(Clone, Debug, Args)]
pub struct SendArgs {
    /// Name or address.
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Port.
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The message: this text, standard input (`-`, the default), or a file's content (`@FILE`).
    #[arg(value_name = "TEXT|-|@FILE", allow_hyphen_values = true)]
    pub text: Option<OsString>,
    /// When to give up.
    #[arg(long, value_name = "SECONDS", value_parser = timeout)]
    pub timeout: Option<Seconds>,
    /// In order with others.
    #[arg(long, value_name = "NUMBER")]
    pub lane: Option<u16>,
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// `recv`
#[derive(Clone, Debug, Args)]
pub struct RecvArgs {
    /// Where to receive.
    #[arg(long, default_value = "0.0.0.0:25252", value_name = "ADDR:PORT")]
    pub bind: String,
    /// One JSON object a line.
    #[arg(long)]
    pub json: bool,
    /// Stop after so many.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
}

/// `baseline`
#[derive(Clone, Debug, Args)]
pub struct BaselineArgs {
    /// Time for each of the six.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = baseline_seconds)]
    pub seconds: f64,
    /// Messages over TCP.
    #[arg(long, default_value = "64", value_name = "SIZE")]
    pub size: Size,
    /// TCP alone, to a listener of its own at this address.
    #[arg(long, value_name = "ADDR")]
    pub tcp_to: Option<IpAddr>,
    /// The network namespace of that listener.
    #[arg(long, value_name = "FILE", requires = "tcp_to")]
    pub netns: Option<PathBuf>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn try_parse(line: &str) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from(line.split_whitespace())?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn alone_it_benches() {
        let cli = try_parse("udp-plus --size 1KiB --rate 1e5 --pin").expect("valid");
        assert!(cli.command.is_none());
        assert_eq!((cli.bench.load.size, cli.bench.load.rate.clone()), (Size(1_024), Rates::Constant(1e5)));
        assert!(cli.bench.engine.pin);
        let cli = try_parse("udp-plus bench --duration 0.5 --in-flight 7 --deadline-ms 300").expect("valid");
        let Some(Command::Bench(bench)) = cli.command else { panic!("bench") };
        assert_eq!(
            (bench.load.duration, bench.load.in_flight, bench.load.deadline_ms),
            (Seconds(Duration::from_millis(500)), Some(7), Some(300))
        );
    }

    #[test]
    fn bad_usage_is_refused() {
        for line in [
            "udp-plus --size many",
            "udp-plus --duration 0",
            "udp-plus --duration -1",
            "udp-plus --duration nan",
            "udp-plus --rate 0",
            "udp-plus --rate inf",
            "udp-plus --rate ramp:1",
            "udp-plus --rate ramp:0..5",
            "udp-plus --rate step:",
            "udp-plus --rate spike:1..1e10",
            "udp-plus --rate trace:",
            "udp-plus --rate wave:1..2",
            "udp-plus --arrivals burst",
            "udp-plus --arrivals burst:0",
            "udp-plus --arrivals pareto",
            "udp-plus --shards 0",
            "udp-plus --wire json",
            "udp-plus --wire binary --mtu 1199",
            "udp-plus --wire binary --mtu 65508",
            "udp-plus --wire binary --mtu any",
            "udp-plus --wire binary --cc reno",
            "udp-plus --driver dpdk",
            "udp-plus nonsense",
            "udp-plus --size 64 bench",
            "udp-plus load",
            "udp-plus send host",
            "udp-plus send host 0 hello",
            "udp-plus send host 70000 hello",
            "udp-plus send host 1 --timeout 3601 hello",
            "udp-plus --deadline-ms 0",
            "udp-plus --deadline-ms 100001",
            "udp-plus --priority urgent",
            "udp-plus --level stored",
            "udp-plus --lane 65536",
            "udp-plus send host 1 --lane first hello",
            "udp-plus --peer-wire csv",
            "udp-plus --peer-wire 10.0.0.0/8=",
            "udp-plus --peer-wire 10.0.0.0/33=csv",
            "udp-plus --peer-wire localhost=csv",
            "udp-plus --peer-wire 10.0.0.0/8=csv=auto",
            "udp-plus recv --count 0",
            "udp-plus --slo p99",
            "udp-plus search --width 0",
            "udp-plus search --exceed 100",
            "udp-plus compare a.json",
            "udp-plus ab",
            "udp-plus bench --repeat 0",
        ] {
            let error = try_parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn the_binary_wire_and_its_options() {
        let cli = try_parse("udp-plus --wire binary --mtu 1472 --cc cubic").expect("valid");
        let engine = cli.bench.engine;
        assert_eq!((engine.wire, engine.mtu, engine.cc), (Wire::Binary, Mtu(Some(1_472)), Cc::Cubic));
        let engine = try_parse("udp-plus").expect("valid").bench.engine;
        assert_eq!((engine.mtu, engine.cc), (Mtu(None), Cc::Model));
        assert_eq!(engine.wire.to_string(), WIRE_DEFAULT);
    }

    #[test]
    fn the_wire_of_peers_is_given_as_often_as_needed() {
        let line = "udp-plus serve --peer-wire 10.0.0.0/8=csv --wire auto --peer-wire [::1]:7=binary";
        let Some(Command::Serve(serve)) = try_parse(line).expect("valid").command else { panic!("serve") };
        let rules: Vec<String> = serve.engine.peer_wire.iter().map(PeerWire::to_string).collect();
        assert_eq!(rules, ["10.0.0.0/8=csv", "[::1]:7=binary"]);
        let has_binary = |line| try_parse(line).expect("valid").bench.engine.has_binary();
        assert!(has_binary("udp-plus --wire csv --peer-wire 10.0.0.1=auto"));
        assert!(!has_binary("udp-plus --wire csv --peer-wire 10.0.0.1=csv"));
        assert!(has_binary("udp-plus --wire binary --peer-wire 10.0.0.1=csv"));
    }

    #[test]
    fn two_command_lines_for_ab() {
        let line = "udp-plus ab --repeat 3 -- bench --cc cubic -- ./old bench";
        let Some(Command::Ab(ab)) = try_parse(line).expect("valid").command else { panic!("ab") };
        assert_eq!((ab.repeat, ab.arms.len()), (3, 6));
        assert_eq!(ab.arms[3], "--");
    }

    #[test]
    fn a_text_may_begin_with_a_hyphen() {
        for (line, text) in [("udp-plus send h 1 -", "-"), ("udp-plus send h 1 --timeout 2 -hi", "-hi")] {
            let Some(Command::Send(send)) = try_parse(line).expect("valid").command else { panic!("send") };
            assert_eq!(send.text, Some(text.into()));
        }
    }
}
