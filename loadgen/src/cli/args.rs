//! What each command takes.

use super::values::{
    Api, Cc, Driver, Level, Mode, Mtu, PeerWire, Percent, Priority, Protocol, Seconds, WIRE_DEFAULT, Wire,
};
use super::values::{above_zero, baseline_seconds, skew, timeout};
use crate::schedule::{Arrivals, Rates};
use crate::size::Size;
use crate::sizes::Sizes;
use crate::slo::Slo;
use crate::targets::Target;
use clap::Args;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use udp_plus::protection::Cipher;

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
    /// What carries the messages.
    #[arg(long, default_value = "udp-plus", value_name = "udp-plus|udp|tcp")]
    pub protocol: Protocol,
    /// What the far end does.
    #[arg(long, default_value = "sink", value_name = "sink|echo")]
    pub mode: Mode,
    /// How the near end uses its engine.
    #[arg(long, default_value = "actor", value_name = "actor|buckets")]
    pub api: Api,
    /// Payloads.
    #[arg(long, default_value = "64", value_name = "SIZE|MIX")]
    pub size: Sizes,
    /// What is drawn at random is drawn from this.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
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
    /// Senders.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    pub peers: u16,
    /// How unequal they are.
    #[arg(long, default_value_t = 0.0, value_name = "EXPONENT", value_parser = skew)]
    pub peer_skew: f64,
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

/// `serve`
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// Where to receive.
    #[arg(long, default_value = "0.0.0.0:25252", value_name = "ADDR:PORT")]
    pub bind: String,
    /// What carries the messages.
    #[arg(long, default_value = "udp-plus", value_name = "udp-plus|udp|tcp")]
    pub protocol: Protocol,
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
    #[arg(long, required = true, value_name = "HOST:PORT[=WEIGHT]")]
    pub target: Vec<Target>,
    /// See there.
    #[command(flatten)]
    pub engine: EngineFlags,
    /// See there.
    #[command(flatten)]
    pub load: LoadFlags,
}

/// `search`
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Where `serve` listens; without it, both ends are here.
    #[arg(long, value_name = "HOST:PORT[=WEIGHT]")]
    pub target: Vec<Target>,
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
