//! From flags to an engine.

use crate::cli::{Cc, EngineFlags, Mtu, Wire};
use crate::error::usage;
use anyhow::{Context, Result};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;
use udp_plus::congestion::Algorithm;
use udp_plus::{Builder, Config, Engine, StartError, V1_CHUNK_BYTES_MAX, V1_ROW_BYTES_MAX};

/// Rows of `bench`: what fits an Ethernet frame.
pub const BENCH_ROW_BYTES: u32 = 1_400;
/// Window of `bench`: some forty trains of 128 rows.
pub const BENCH_WINDOW_BYTES: u32 = 4 << 20;

/// How rows are sent to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Longest row.
    pub row_bytes: u32,
    /// Longest payload of a row; the engine takes less where less fits.
    pub chunk_bytes: u32,
    /// Rows in flight, in memory at the peer.
    pub window_bytes: u32,
}

impl Reach {
    /// Toward peers of which nothing is known: as the protocol has it, unless the user knows more.
    pub fn to_unknown(flags: &EngineFlags) -> Result<Self> {
        Self::new(flags, V1_ROW_BYTES_MAX, V1_CHUNK_BYTES_MAX, Config::default().v1_window_bytes)
    }

    /// Toward an engine of ours in the same process.
    pub fn to_ourselves(flags: &EngineFlags) -> Result<Self> {
        Self::new(flags, BENCH_ROW_BYTES, BENCH_ROW_BYTES, BENCH_WINDOW_BYTES)
    }

    fn new(flags: &EngineFlags, row_bytes: u32, chunk_bytes: u32, window_bytes: u32) -> Result<Self> {
        let given = |name: &str, size: Option<crate::size::Size>| -> Result<Option<u32>> {
            size.map(|size| u32::try_from(size.0).map_err(|_| usage(format!("{name} {size} is too large"))))
                .transpose()
        };
        let row = given("--row-bytes", flags.row_bytes)?;
        let window = given("--window", flags.window)?;
        Ok(Self {
            row_bytes: row.unwrap_or(row_bytes),
            // Who asks for longer rows wants them used.
            chunk_bytes: row.unwrap_or(chunk_bytes),
            window_bytes: window.unwrap_or(window_bytes),
        })
    }

    /// With a window that half of the receiver's socket buffer can hold, unless the user insists.
    pub fn within(mut self, flags: &EngineFlags, rcvbuf_bytes: u32) -> Self {
        if flags.window.is_none() {
            self.window_bytes = self.window_bytes.min(rcvbuf_bytes / 2);
        }
        self
    }
}

/// What passes through an engine.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The largest message.
    pub message_bytes: u64,
    /// Messages under way at once.
    pub in_flight: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
}

impl Traffic {
    /// Up to `in_flight` messages of `message_bytes`.
    pub const fn of(message_bytes: u64, in_flight: u64) -> Self {
        Self { message_bytes, in_flight, in_flight_bytes: message_bytes.saturating_mul(in_flight) }
    }

    /// Whatever comes from strangers: any number of messages of any size, as far as the engine's own limits on bytes go.
    pub const fn of_strangers() -> Self {
        Self { message_bytes: 0, in_flight: 65_536, in_flight_bytes: 0 }
    }
}

/// An engine with the options in `flags`, and limits that let `traffic` pass.
pub fn builder(flags: &EngineFlags, bind: String, reach: Reach, traffic: Traffic) -> Result<Builder> {
    let mut config = Config::default();
    set_wire(&mut config, flags)?;
    config.shards = flags.shards;
    config.driver = flags.driver.into();
    config.pin = flags.pin;
    config.rcvbuf_bytes = u32::try_from(flags.rcvbuf.0).map_err(|_| usage("--rcvbuf is too large"))?;
    config.gso = !flags.no_gso;
    config.gro = !flags.no_gro;
    config.spin = Duration::from_micros(flags.spin_us.into());
    config.v1_row_bytes_max = reach.row_bytes;
    config.v1_chunk_bytes_max = reach.chunk_bytes;
    config.v1_window_bytes = reach.window_bytes;
    fit(&mut config, traffic)?;
    Ok(Engine::builder().config(config).bind(bind))
}

/// The wire and its options: the one place that tells the engine of them.
fn set_wire(config: &mut Config, flags: &EngineFlags) -> Result<()> {
    if !flags.has_binary() && (flags.mtu != Mtu(None) || flags.cc != Cc::Model) {
        return Err(usage("--mtu and --cc are options of the binary wire, and --wire is csv"));
    }
    if flags.key_file.is_some() && flags.wire != Wire::Binary {
        return Err(usage("--key-file needs --wire binary: rows cannot be sealed"));
    }
    config.wire = flags.wire.into();
    config.key_file.clone_from(&flags.key_file);
    config.cipher = flags.cipher;
    config.peer_wires = flags.peer_wire.iter().map(|rule| (rule.peer, rule.wire.into())).collect();
    config.datagram_bytes_max = match flags.mtu.0.map(u16::try_from).transpose() {
        Ok(bytes) => bytes,
        Err(_) => return Err(usage("--mtu is at most 65472")),
    };
    config.congestion = match flags.cc {
        Cc::Model => Algorithm::Model,
        Cc::Cubic => Algorithm::Cubic,
        Cc::Fixed => Algorithm::Fixed,
    };
    Ok(())
}

/// Whether the engine would take these options, without starting it.
pub fn check(builder: &Builder) -> Result<()> {
    builder.options().validate().map_err(StartError::from).map_err(anyhow::Error::from)
}

/// Raises limits to what the traffic takes.
fn fit(config: &mut Config, traffic: Traffic) -> Result<()> {
    let message = u32::try_from(traffic.message_bytes).map_err(|_| usage("messages are at most 1GiB"))?;
    let count = u32::try_from(traffic.in_flight).map_err(|_| usage("too many messages in flight"))?;
    config.message_bytes_max = config.message_bytes_max.max(message);
    config.ops_in_flight_max = config.ops_in_flight_max.max(count);
    // A part of every message under way may have arrived.
    // All of them from one host, which gets three quarters of the places.
    config.partials_max = config.partials_max.max(count.saturating_add(count / 2));
    config.partials_per_peer_max = config.partials_max;
    let bytes = traffic.in_flight_bytes.max(u64::from(config.message_bytes_max)).saturating_mul(2);
    for limit in [
        &mut config.send_bytes_max,
        &mut config.recv_bucket_bytes,
        &mut config.partial_bytes_max,
        &mut config.partial_bytes_per_peer_max,
    ] {
        *limit = (*limit).max(bytes);
    }
    config.partial_bytes_max = config.partial_bytes_max.max(config.partial_bytes_per_peer_max);
    // Up to three bytes of a chunk may go unused, at the border of a character.
    let chunk = config.chunk_bytes_max().saturating_sub(3).max(1);
    config.chunk_count_max = config.chunk_count_max.max(config.message_bytes_max.div_ceil(chunk));
    // A larger count has more digits, which leaves less for the payload.
    let chunk = config.chunk_bytes_max().saturating_sub(3).max(1);
    config.chunk_count_max = config.chunk_count_max.max(config.message_bytes_max.div_ceil(chunk));
    Ok(())
}

/// The address behind `HOST:PORT`.
pub fn resolve(target: &str) -> Result<SocketAddr> {
    let addresses = target.to_socket_addrs().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => usage(format!("{target:?} is not HOST:PORT: {error}")),
        _ => anyhow::Error::new(error).context(format!("cannot resolve {target:?}")),
    })?;
    best(&addresses.collect::<Vec<_>>()).with_context(|| format!("{target:?} has no address"))
}

/// A name with several addresses prefers IPv4: the default bind of a receiver is `0.0.0.0`, and UDP does not tell that nobody
/// listens on the other one.
fn best(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}

/// `HOST` and `PORT` as one, for [`resolve`].
pub fn host_port(host: &str, port: u16) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") }
}

/// Files a process has beside sockets and rings.
const FILES_BESIDE: usize = 64;

/// As many open files as the system lets this process have, for so many sockets.
pub fn raise_file_limit(sockets: usize) -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit")?;
    }
    let wanted = sockets + FILES_BESIDE;
    if (wanted as u64) <= hard {
        return Ok(());
    }
    Err(usage(format!(
        "{sockets} sockets are more than the {hard} open files that this process may have: raise the hard limit \
         (ulimit -Hn, LimitNOFILE=) to {wanted}, or ask for fewer --peers"
    )))
}

/// Where to send from toward `target`.
pub fn any_port_toward(target: SocketAddr) -> String {
    if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_traffic_makes_a_valid_configuration() {
        for (message_bytes, in_flight) in
            [(16, 1), (64, 65_536), (1 << 20, 16), (1 << 30, 4), (64 << 20, 128)]
        {
            for row in [None, Some(200), Some(1_400), Some(60_000)] {
                let flags = flags();
                let mut reach = Reach::to_ourselves(&flags).expect("in range");
                if let Some(row) = row {
                    reach = Reach { row_bytes: row, chunk_bytes: row, window_bytes: 1 << 20 };
                }
                let builder =
                    builder(&flags, "127.0.0.1:0".into(), reach, Traffic::of(message_bytes, in_flight));
                let builder = builder.expect("in range");
                assert_eq!(builder.options().validate(), Ok(()), "{message_bytes} x {in_flight}, {reach:?}");
            }
        }
    }

    fn flags() -> EngineFlags {
        use clap::FromArgMatches;
        let matches = crate::cli::command().try_get_matches_from(["udp-plus"]).expect("valid");
        crate::cli::Cli::from_arg_matches(&matches).expect("valid").bench.engine
    }

    #[test]
    fn what_the_engine_does_not_have_is_bad_usage() {
        let refused = |flags: &EngineFlags| {
            let reach = Reach::to_ourselves(flags).expect("in range");
            let error = builder(flags, "127.0.0.1:0".into(), reach, Traffic::of(64, 1)).map(|_| ());
            let error = error.expect_err("refused");
            assert!(error.is::<crate::error::Usage>());
            error.to_string()
        };
        assert!(refused(&EngineFlags { mtu: Mtu(Some(1_472)), ..flags() }).contains("--mtu"));
        assert!(refused(&EngineFlags { cc: Cc::Fixed, ..flags() }).contains("--cc"));
        // With one peer of the binary wire they have a meaning.
        let peer_wire = vec!["10.0.0.1=binary".parse().expect("valid")];
        let flags = EngineFlags { cc: Cc::Fixed, peer_wire, ..flags() };
        let reach = Reach::to_ourselves(&flags).expect("in range");
        let builder = builder(&flags, "127.0.0.1:0".into(), reach, Traffic::of(64, 1)).expect("valid");
        let rule = ("10.0.0.1".parse().expect("valid"), udp_plus::Wire::Binary);
        assert_eq!(builder.options().peer_wires, [rule]);
    }

    #[test]
    fn hosts_of_every_kind() {
        assert_eq!(host_port("::1", 5), "[::1]:5");
        assert_eq!(host_port("[::1]", 5), "[::1]:5");
        assert_eq!(host_port("localhost", 5), "localhost:5");
        assert_eq!(resolve("127.0.0.1:5").expect("an address"), SocketAddr::from(([127, 0, 0, 1], 5)));
        assert!(resolve("[::1]:5").expect("an address").is_ipv6());
        assert!(resolve("localhost:5").expect("a name").is_ipv4());
        assert!(resolve("localhost").expect_err("no port").is::<crate::error::Usage>());
    }

    #[test]
    fn a_name_with_several_addresses_is_that_of_ipv4() {
        let [v4, v6, other] =
            ["192.0.2.1:5", "[2001:db8::1]:5", "192.0.2.2:5"].map(|text| text.parse().expect("an address"));
        for (addresses, chosen) in [
            (&[v6, v4][..], Some(v4)),
            (&[v4, v6], Some(v4)),
            (&[v6, v4, other], Some(v4)),
            (&[v6], Some(v6)),
            (&[], None),
        ] {
            assert_eq!(best(addresses), chosen);
        }
    }

    #[test]
    fn the_window_fits_the_receiver_unless_the_user_insists() {
        let mut flags = flags();
        let reach = Reach::to_ourselves(&flags).expect("in range");
        assert_eq!(reach.within(&flags, 212_992).window_bytes, 106_496);
        flags.window = Some(crate::size::Size(4 << 20));
        let reach = Reach::to_ourselves(&flags).expect("in range");
        assert_eq!(reach.within(&flags, 212_992).window_bytes, 4 << 20);
    }
}
