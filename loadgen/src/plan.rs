//! What one run does, decided from the flags before anything starts, and shared by everyone who takes part.

use crate::audit::Expected;
use crate::cli::{Api, EngineFlags, Level, LoadFlags, Mode, Priority, Protocol};
use crate::clock;
use crate::error::usage;
use crate::payload::{PAYLOAD_BYTES_MIN, RUN_MAX, SLOT_MAX};
use crate::plain;
use crate::progress::Progress;
use crate::schedule::{OpenLoop, Rates};
use crate::sizes::Lengths;
use crate::targets::{Peers, Targets};
use anyhow::Result;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::{Config, Outgoing};

/// Before the measurement.
pub const WARM_UP: Duration = Duration::from_secs(1);
/// After it: how long messages may take to end. The engine ends each of them earlier, at its deadline (30 s, more for
/// large messages).
pub const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Small messages under way at once, if the user does not say: 16 trains of 128 rows, so that one end works on 8 while the
/// other is busy with 8 (`docs/ARCHITECTURE.md` section 10). More adds latency, and operations to the cache.
const IN_FLIGHT_DEFAULT: u64 = 2_048;
/// The same on the binary wire, where a train has 880 of 64 bytes.
const IN_FLIGHT_BINARY: u64 = 4_096;
/// Of larger ones a train has so few that more under way only wait longer.
const IN_FLIGHT_BINARY_BYTES_MAX: u64 = 256;
/// Through the buckets, where they wait for two more threads a side.
const IN_FLIGHT_BUCKETS: u64 = 8_192;
/// Bytes under way at once, if the user does not say: more does not stay in the caches, and is slower (`docs/BENCHMARKS.md`).
const IN_FLIGHT_BYTES_DEFAULT: u64 = 4 << 20;
const IN_FLIGHT_MIN: u64 = 4;
/// With a fixed rate nothing is held back but by this.
const IN_FLIGHT_OPEN_LOOP: u64 = 65_536;
/// Payload bytes under way with a fixed rate.
const IN_FLIGHT_OPEN_LOOP_BYTES: u64 = 128 << 20;
/// What a stock of blocks is laid in for, messages per second and shard. Faster runs allocate a block now and then.
const MESSAGES_PER_S_EXPECTED: f64 = 20e6;

/// Engines of the generating end.
const ENGINES_MAX: usize = 256;

/// What the engine adds to its default deadline for large messages.
const DEADLINE_BYTES_PER_S: u64 = 256 << 10;

/// Larger payloads are not copied.
const COPY_BYTES_MAX: usize = 16 << 10;

/// What is asked of the engine for each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a message is worth delivering; `None`: as the engine has it.
    pub deadline: Option<Duration>,
    /// How urgent it is.
    pub priority: Priority,
    /// When it counts as delivered.
    pub level: Level,
    /// In order with others.
    pub lane: Option<u16>,
}

impl Terms {
    /// What the engine does unless told otherwise.
    pub const DEFAULT: Self =
        Self { deadline: None, priority: Priority::Normal, level: Level::Accepted, lane: None };

    /// Whether messages of `size` bytes are written where the engine wants them. Larger ones are shared with it instead, and
    /// so are those it has to be told more of.
    pub fn are_copied(&self, size: usize) -> bool {
        size <= COPY_BYTES_MAX && *self == Self::DEFAULT
    }

    /// Puts them on a message.
    pub fn apply(&self, outgoing: Outgoing) -> Outgoing {
        let outgoing = match self.deadline {
            Some(deadline) => outgoing.deadline(deadline),
            None => outgoing,
        };
        let priority = match self.priority {
            Priority::Low => udp_plus::Priority::Low,
            Priority::Normal => udp_plus::Priority::Normal,
            Priority::High => udp_plus::Priority::High,
            Priority::Control => udp_plus::Priority::Control,
        };
        let level = match self.level {
            Level::Accepted => udp_plus::Level::Accepted,
            Level::Committed => udp_plus::Level::Committed,
        };
        let outgoing = outgoing.priority(priority).level(level);
        match self.lane {
            Some(lane) => outgoing.lane(lane),
            None => outgoing,
        }
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its number, random.
    pub run: u32,
    /// What carries the messages.
    pub protocol: Protocol,
    /// What the far end does.
    pub mode: Mode,
    /// How the near end (and in `bench` the far end) uses its engine.
    pub api: Api,
    /// Payload bytes of each message.
    pub lengths: Lengths,
    /// Of the longest.
    pub size: usize,
    /// `--size` as given.
    pub size_words: String,
    /// What is drawn at random is drawn from this.
    pub seed: u64,
    /// What is due when, all shards together; `None`: a closed loop, as fast as `in_flight` allows.
    pub open_loop: Option<OpenLoop>,
    /// The same in words, for the report.
    pub rate_words: String,
    /// With an open loop: how long before a message is due its generator wakes up and polls.
    pub wake_early: Duration,
    /// With an open loop: the largest scheduling error of a valid run.
    pub late_max: Duration,
    /// Most messages under way, all shards together.
    pub in_flight: usize,
    /// Whether the stages of messages are told apart.
    pub stages: bool,
    /// What is asked of the engine for each message. Echoes have the engine's own.
    pub terms: Terms,
    /// Those who send.
    pub peers: Peers,
    /// Those who generate: each engine's client shards, or one thread with the buckets; threads with plain sockets.
    pub generators: usize,
    /// What part of the messages each generator sends; `None`: all the same.
    pub shares: Option<Arc<[f64]>>,
    /// Before the measurement.
    pub warm_up: Duration,
    /// The measurement.
    pub duration: Duration,
}

impl Plan {
    /// The plan that the flags ask for.
    pub fn new(engine: &EngineFlags, load: &LoadFlags) -> Result<Self> {
        Self::with_warm_up(engine, load, WARM_UP)
    }

    /// The same with another warm-up.
    pub fn with_warm_up(engine: &EngineFlags, load: &LoadFlags, warm_up: Duration) -> Result<Self> {
        let run = random_run();
        let seed = load.seed.unwrap_or_else(|| run.into());
        let lengths = Lengths::new(&load.size, seed).map_err(usage)?;
        let size = lengths.max();
        if lengths.min() < PAYLOAD_BYTES_MIN {
            return Err(usage(format!(
                "--size {} is too small: a payload carries its run, slot and number in {PAYLOAD_BYTES_MIN} bytes",
                load.size
            )));
        }
        plain::check_flags(load.protocol, load.mode, load.api, engine)?;
        plain::check_size(load.protocol, size)?;
        let terms = Terms {
            deadline: load.deadline_ms.map(|ms| Duration::from_millis(ms.into())),
            priority: load.priority,
            level: load.level,
            lane: load.lane,
        };
        if !engine.has_binary() && (Terms { deadline: None, ..terms }) != Terms::DEFAULT {
            let options = "--priority, --level and --lane are options of the binary wire";
            let why = if load.protocol == Protocol::UdpPlus {
                "--wire is csv".to_owned()
            } else {
                format!("--protocol is {}", load.protocol)
            };
            return Err(usage(format!("{options}, and {why}")));
        }
        let mut peers = Peers { count: load.peers.into(), skew: load.peer_skew };
        let each = if load.api == Api::Actor { usize::from(engine.shards) } else { 1 };
        let generators = if load.protocol == Protocol::UdpPlus {
            peers.count * each
        } else {
            // A thread's socket is a peer: none is without.
            peers.count = peers.count.max(each);
            each
        };
        let small = match (load.api, engine.has_binary()) {
            (Api::Buckets, _) => IN_FLIGHT_BUCKETS,
            (Api::Actor, true) if size as u64 <= IN_FLIGHT_BINARY_BYTES_MAX => IN_FLIGHT_BINARY,
            (Api::Actor, _) => IN_FLIGHT_DEFAULT,
        };
        let open_loop = OpenLoop::new(&load.rate, load.arrivals, warm_up, load.duration.0).map_err(usage)?;
        check_peers(load, &peers, open_loop.is_some())?;
        let default = || in_flight_default(open_loop.is_some(), size as u64, small);
        let in_flight = load.in_flight.map_or_else(default, u64::from);
        // Every generator has as many places: with several it may be a few more.
        let generators_u64 = u64::try_from(generators)?;
        if in_flight.div_ceil(generators_u64).max(1) * generators_u64 > u64::from(SLOT_MAX) {
            return Err(usage(format!(
                "--in-flight: at most {}",
                u64::from(SLOT_MAX) / generators_u64 * generators_u64
            )));
        }
        Ok(Self {
            run,
            protocol: load.protocol,
            mode: load.mode,
            api: load.api,
            lengths,
            size,
            size_words: load.size.to_string(),
            seed,
            in_flight: usize::try_from(in_flight)?.max(generators),
            stages: load.explain || open_loop.is_some(),
            open_loop,
            rate_words: load.rate.to_string(),
            wake_early: Duration::from_micros(load.wake_early_us.into()),
            late_max: Duration::from_micros(load.late_max_us.into()),
            terms,
            shares: shares(load.protocol, &peers, generators),
            peers,
            generators,
            warm_up,
            duration: load.duration.0,
        })
    }

    /// Engines of the generating end.
    pub fn engines(&self) -> usize {
        if self.protocol == Protocol::UdpPlus { self.peers.count } else { 0 }
    }

    /// Places for messages under way, per generator.
    pub const fn slots_each(&self) -> usize {
        self.in_flight.div_ceil(self.generators)
    }

    /// What the receiver is to expect.
    pub fn expected(&self) -> Expected {
        Expected { run: self.run, lengths: self.lengths.clone() }
    }

    /// How long the engine tries to deliver a message.
    pub fn deadline(&self) -> Duration {
        if let Some(deadline) = self.terms.deadline.or_else(|| plain::deadline_default(self.protocol)) {
            return deadline;
        }
        let by_size = Duration::from_secs(self.size as u64 / DEADLINE_BYTES_PER_S);
        Config::default().deadline_default + by_size
    }

    /// Whether echoes may come to another generator than the one that sent: to another shard of its engine.
    pub fn echoes_stray(&self) -> bool {
        self.mode == Mode::Echo && self.generators > self.engines() && self.engines() > 0
    }

    /// Message numbers to lay in stock for.
    pub fn numbers_expected(&self) -> u64 {
        let seconds = (self.warm_up + self.duration).as_secs_f64();
        let by_bytes = 16e9 / self.lengths.mean();
        let rate = self.open_loop.as_ref().map_or(MESSAGES_PER_S_EXPECTED, |open_loop| open_loop.peak_rate);
        let rate = rate.min(MESSAGES_PER_S_EXPECTED).min(by_bytes);
        // Half a minute's worth at most; beyond that a page fault every 50 ms is no news.
        (rate * seconds.min(30.0)) as u64
    }
}

/// Whether there can be so many, and so unequal.
fn check_peers(load: &LoadFlags, peers: &Peers, is_open: bool) -> Result<()> {
    if load.protocol == Protocol::UdpPlus && peers.count > ENGINES_MAX {
        return Err(usage(format!(
            "--peers {}: at most {ENGINES_MAX}, since each is an engine with a thread for every shard",
            peers.count
        )));
    }
    if peers.skew > 0.0 && (!is_open || matches!(load.rate, Rates::Trace(_))) {
        let why = if is_open { "a trace says who is next" } else { "in a closed loop each sends as it can" };
        return Err(usage(format!("--peer-skew needs a --rate that is divided among the peers: {why}")));
    }
    Ok(())
}

/// What part of the messages each of the generators sends, if they are unequal.
fn shares(protocol: Protocol, peers: &Peers, generators: usize) -> Option<Arc<[f64]>> {
    let is_engine = protocol == Protocol::UdpPlus;
    if generators == 1 || peers.skew == 0.0 && (is_engine || peers.count.is_multiple_of(generators)) {
        return None;
    }
    let share = |index: usize| {
        if is_engine {
            let each = generators / peers.count;
            peers.share(std::iter::once(index / each)) / each as f64
        } else {
            peers.share((index..peers.count).step_by(generators))
        }
    };
    Some((0..generators).map(share).collect())
}

fn in_flight_default(is_open: bool, size: u64, small: u64) -> u64 {
    let (count, bytes) = if is_open {
        (IN_FLIGHT_OPEN_LOOP, IN_FLIGHT_OPEN_LOOP_BYTES)
    } else {
        (small, IN_FLIGHT_BYTES_DEFAULT)
    };
    count.min(bytes / size.max(1)).max(IN_FLIGHT_MIN)
}

/// Different from run to run, and from process to process; nothing secret hangs on it.
fn random_run() -> u32 {
    let mix = clock::unix_s().to_bits() ^ u64::from(std::process::id()) << 40 ^ clock::now_ns();
    (mix.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 & RUN_MAX
}

/// A run as its generators see it.
#[derive(Debug)]
pub struct Run {
    /// What to do.
    pub plan: Plan,
    /// Where to.
    pub targets: Targets,
    /// How it goes.
    pub progress: Progress,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan> {
        use clap::FromArgMatches;
        let line = format!("udp-plus {line}");
        let matches = crate::cli::command().try_get_matches_from(line.split_whitespace()).expect("valid");
        let bench = crate::cli::Cli::from_arg_matches(&matches).expect("valid").bench;
        Plan::new(&bench.engine, &bench.load)
    }

    /// The places of all generators together are what a payload can name.
    #[test]
    fn no_slot_is_beyond_what_a_payload_names() {
        for (in_flight, shards, fits) in
            [(SLOT_MAX, 1, true), (SLOT_MAX + 1, 1, false), (SLOT_MAX, 4, false), (SLOT_MAX / 4 * 4, 4, true)]
        {
            let plan = plan(&format!("--in-flight {in_flight} --shards {shards}"));
            assert_eq!(plan.is_ok(), fits, "{in_flight} {shards}");
            let most = SLOT_MAX / shards * shards;
            match plan {
                Ok(plan) => assert!(plan.slots_each() * plan.generators <= SLOT_MAX as usize),
                Err(why) => assert!(why.to_string().contains(&format!("at most {most}")), "{why}"),
            }
        }
    }

    /// Whoever generates for which peers: nobody has nothing to do, and the shares are those of the peers.
    #[test]
    fn every_generator_has_the_share_of_its_peers() {
        for (line, generators, count, expected) in [
            ("--protocol tcp --shards 2", 2, 2, None),
            ("--protocol tcp --shards 2 --peers 6", 2, 6, None),
            ("--protocol tcp --shards 2 --peers 3", 2, 3, Some(&[2.0 / 3.0, 1.0 / 3.0][..])),
            ("--protocol tcp --shards 2 --peers 3 --peer-skew 1", 2, 3, Some(&[8.0 / 11.0, 3.0 / 11.0])),
            ("--peers 3 --shards 2", 6, 3, None),
            ("--peers 2 --shards 2 --peer-skew 1", 4, 2, Some(&[1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0])),
            ("--peers 2 --api buckets --shards 2", 2, 2, None),
        ] {
            let plan = plan(&format!("--rate 1000 {line}")).expect("valid");
            assert_eq!((plan.generators, plan.peers.count), (generators, count), "{line}");
            assert_eq!(plan.shares.is_some(), expected.is_some(), "{line}");
            for (share, expected) in
                plan.shares.iter().flat_map(|shares| shares.iter()).zip(expected.unwrap_or(&[]))
            {
                assert!((share - expected).abs() < 1e-9, "{line}: {share} is not {expected}");
            }
        }
    }

    #[test]
    fn in_flight_defaults_are_bounded_in_count_and_bytes() {
        assert_eq!(in_flight_default(false, 64, IN_FLIGHT_DEFAULT), 2_048);
        assert_eq!(in_flight_default(false, 1 << 20, IN_FLIGHT_BUCKETS), 4);
        assert_eq!(in_flight_default(false, 1 << 28, IN_FLIGHT_BINARY), 4);
        assert_eq!(in_flight_default(true, 64, IN_FLIGHT_DEFAULT), 65_536);
        assert_eq!(in_flight_default(true, 1 << 20, IN_FLIGHT_DEFAULT), 128);
    }
}
