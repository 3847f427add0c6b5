//! Limits and options, their defaults, the two presets, their validation and the memory they amount to.
//!
//! Every limit is given by the user or defaulted here, nothing grows beyond it, and [`Footprint`] says what it costs.

use crate::error::ConfigError;
use crate::peer_match::PeerMatch;
use crate::proto::congestion::Algorithm;
use crate::proto::keys::Cipher;
use crate::train::{TRAIN_BYTES_MAX_V4, TRAIN_BYTES_MAX_V6};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Shorter, a shard's ordinary turns would be stalls, and the watchdog would look for them all the time.
const STALL_AFTER_MIN: Duration = Duration::from_millis(1);

/// Which kernel interface the engine uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DriverChoice {
    /// io_uring where it works, else recvmmsg/sendmmsg; [`DriverReport`](crate::DriverReport) says which and why.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll with recvmmsg/sendmmsg. Never touches io_uring.
    Mmsg,
}

/// Whose confirms count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConfirmFrom {
    /// Only those from the address the operation was sent to.
    #[default]
    Strict,
    /// Any that names the operation's 64-bit id: for peers that answer from another address or port.
    Id,
}

/// What messages leave in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// CSV rows, UDP-Plus v1: understood by every peer. Payloads are text.
    #[default]
    Csv,
    /// The binary wire, v2: between engines. Peers that do not speak it are not reached.
    Binary,
    /// Each peer is asked, in a way that an original v1 peer ignores: the binary wire with engines that speak it, rows with
    /// all others.
    Auto,
}

/// A starting point for all limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// For servers: 65,536 operations in flight per shard, 4 MiB socket buffers.
    #[default]
    Default,
    /// For small machines and tools: one shard, an idle engine stays within 8 MiB resident.
    Small,
}

/// The default port of UDP-Plus.
pub const DEFAULT_PORT: u16 = 25_252;
/// A default socket buffer of Linux (`net.core.rmem_default`), what an original v1 peer has.
pub const DEFAULT_SOCKET_BUFFER_BYTES: u32 = 212_992;
/// The longest read of an original v1 receiver.
pub const V1_ROW_BYTES_MAX: u32 = 1_024;
/// The chunk size of an original v1 sender.
pub const V1_CHUNK_BYTES_MAX: u32 = 384;
/// How long an original v1 sender repeats a row: three times, two seconds apart.
const V1_REPEATS_FOR: Duration = Duration::from_secs(6);
/// An op id has 24 bits of slot.
pub const OPS_IN_FLIGHT_LIMIT: u32 = 1 << 24;
/// Steering has one byte of route; a shard owns at least two.
pub const SHARDS_LIMIT: u16 = 128;
/// The largest configurable message: 1 GiB.
pub const MESSAGE_BYTES_LIMIT: u32 = 1 << 30;
/// Most rules on the wire of peers: some MiB, and 17 steps of a search.
pub const PEER_WIRES_LIMIT: usize = 1 << 16;

/// All limits and options of an engine. Times are durations, sizes bytes, everything else counts; *per shard* where it
/// says so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Number of shards (threads, sockets, rings).
    pub shards: u16,
    /// Kernel interface.
    pub driver: DriverChoice,
    /// Pin shard i to core `pin_first_core + i` (modulo the cores there are).
    pub pin: bool,
    /// See `pin`.
    pub pin_first_core: u16,
    /// How long an idle shard polls before it sleeps; zero on machines where cores are scarce.
    pub spin: Duration,
    /// A shard whose turn lasts so long is reported as stalled: the application's code in it does not return. At least 1 ms; zero:
    /// none is.
    pub stall_after: Duration,
    /// SO_RCVBUF asked for, per shard socket.
    pub rcvbuf_bytes: u32,
    /// SO_SNDBUF asked for, per shard socket.
    pub sndbuf_bytes: u32,
    /// Send trains (UDP_SEGMENT).
    pub gso: bool,
    /// Receive trains (UDP_GRO).
    pub gro: bool,
    /// Steer datagrams to the shard that owns their route, in the kernel. Without it they are forwarded in user space.
    pub steering: bool,
    /// With a bind to `[::]`: IPv6 only, instead of both families.
    pub v6_only: bool,
    /// Receive buffers of 64 KiB, per shard. A power of two.
    pub recv_buffers: u16,

    /// What messages leave in. Whatever it is, CSV rows of others are understood.
    pub wire: Wire,
    /// What messages to some peers leave in, instead of `wire`. Of several rules for an address the most specific one
    /// counts: with a port before without, then the longer prefix; the order does not matter. At most 65,536.
    ///
    /// `Csv`: rows, never a byte of the binary wire, whatever comes from there; datagrams of the binary wire from there
    /// are dropped (`dropped_binary_wire`), and who asks there whether we speak it gets no answer. `Binary`: at once,
    /// without asking. `Auto`: asked first.
    pub peer_wires: Vec<(PeerMatch, Wire)>,
    /// Longest datagram of the binary wire that is tried, UDP payload bytes, 512 to 65,472; `None`: 1,472, over IPv6 1,452.
    /// What the path carries of that is found out by probing (RFC 8899), from 1,200 bytes on.
    pub datagram_bytes_max: Option<u16>,
    /// How much a flow of the binary wire may have in flight.
    pub congestion: Algorithm,
    /// A file of keys that all datagrams are sealed with, in the format of
    /// [`PreSharedKeys`](crate::protection::PreSharedKeys), at most 64 KiB; nobody but its owner may have permissions for it. It
    /// is read at start and by [`Engine::reload_keys`](crate::Engine::reload_keys). With it, nothing unsealed is sent or taken:
    /// it needs `wire` [`Binary`](Wire::Binary), for all peers. `None`: nothing is sealed, but by a `protection` of the builder.
    pub key_file: Option<PathBuf>,
    /// What datagrams are sealed with, if there is a `key_file`; all peers need the same.
    pub cipher: Cipher,

    /// Longest CSV row sent. 1,024 is what an original v1 peer reads; more only toward peers known to read more.
    pub v1_row_bytes_max: u32,
    /// Longest payload of one CSV row.
    pub v1_chunk_bytes_max: u32,
    /// Rows in flight to one peer, in kernel memory at the peer (truesize).
    pub v1_window_bytes: u32,
    /// Whose confirms count.
    pub confirm_from: ConfirmFrom,

    /// Longest message, either way.
    pub message_bytes_max: u32,
    /// Most chunks of a message, either way.
    pub chunk_count_max: u32,
    /// Operations accepted and not ended, per shard: the size of the send bucket. Actors of [`Wire::Auto`] may have so many by
    /// rows, and so many by flows.
    pub ops_in_flight_max: u32,
    /// Payload bytes of operations accepted and not ended, per shard.
    pub send_bytes_max: u64,
    /// Messages in the receive bucket, all shards together.
    pub recv_bucket_messages: u32,
    /// Payload bytes in the receive bucket, all shards together.
    pub recv_bucket_bytes: u64,
    /// Peers remembered, per shard.
    pub peers_max: u32,
    /// Partial messages, per shard.
    pub partials_max: u32,
    /// Partial messages of one peer, per shard.
    pub partials_per_peer_max: u32,
    /// Bytes held in partial messages, per shard; one message may exceed it, so that there is always one that can complete.
    pub partial_bytes_max: u64,
    /// Bytes held in partial messages of one peer, per shard; one of them may exceed it.
    pub partial_bytes_per_peer_max: u64,
    /// A partial message to which nothing was added for so long expires.
    pub partial_idle_max: Duration,
    /// Tombstones of rows from original v1 peers, per shard.
    pub tombstones_max: u32,
    /// Dedup pages for senders that are engines, per shard: 4 KiB each, for 1,024 operation slots of one sender.
    pub dedup_pages_max: u32,
    /// How long a finished operation is remembered. Not shorter than `try_span_max` and 6 s: that long engines and
    /// originals repeat a row. Together with `partial_idle_max` more than twice `try_span_max`.
    pub dedup_horizon: Duration,

    /// Deadline of a message that names none; larger messages get one second more per 256 KiB.
    pub deadline_default: Duration,
    /// Most transmissions of one row.
    pub tries_max: u32,
    /// Longest time from a row's first transmission to giving up. See `dedup_horizon`.
    pub try_span_max: Duration,
    /// Retransmission timeout before the first round trip was measured.
    pub rto_initial: Duration,
    /// Lower bound of the timeout toward peers that are engines.
    pub rto_min: Duration,
    /// Lower bound of the timeout toward original v1 peers.
    pub rto_min_v1: Duration,
    /// Upper bound of the backed-off timeout.
    pub rto_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: default_shards(),
            driver: DriverChoice::Auto,
            pin: false,
            pin_first_core: 0,
            spin: Duration::ZERO,
            stall_after: Duration::from_secs(1),
            rcvbuf_bytes: 4 << 20,
            sndbuf_bytes: 4 << 20,
            gso: true,
            gro: true,
            steering: true,
            v6_only: false,
            recv_buffers: 128,
            wire: Wire::default(),
            peer_wires: Vec::new(),
            datagram_bytes_max: None,
            congestion: Algorithm::default(),
            key_file: None,
            cipher: Cipher::default(),
            v1_row_bytes_max: V1_ROW_BYTES_MAX,
            v1_chunk_bytes_max: V1_CHUNK_BYTES_MAX,
            v1_window_bytes: DEFAULT_SOCKET_BUFFER_BYTES / 2,
            confirm_from: ConfirmFrom::Strict,
            message_bytes_max: 16 << 20,
            chunk_count_max: 65_536,
            ops_in_flight_max: 65_536,
            send_bytes_max: 256 << 20,
            recv_bucket_messages: 65_536,
            recv_bucket_bytes: 256 << 20,
            peers_max: 16_384,
            partials_max: 4_096,
            partials_per_peer_max: 256,
            partial_bytes_max: 256 << 20,
            partial_bytes_per_peer_max: 64 << 20,
            partial_idle_max: Duration::from_secs(10),
            tombstones_max: 262_144,
            dedup_pages_max: 4_096,
            dedup_horizon: Duration::from_secs(10),
            deadline_default: Duration::from_secs(30),
            tries_max: 12,
            try_span_max: Duration::from_secs(8),
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_millis(10),
            rto_min_v1: Duration::from_millis(200),
            rto_max: Duration::from_secs(1),
        }
    }
}

fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores).unwrap_or(SHARDS_LIMIT).min(SHARDS_LIMIT)
}

impl Config {
    /// The limits of a preset.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Default => Self::default(),
            Preset::Small => Self {
                shards: 1,
                rcvbuf_bytes: 1 << 20,
                sndbuf_bytes: 1 << 20,
                recv_buffers: 64,
                message_bytes_max: 4 << 20,
                chunk_count_max: 16_384,
                ops_in_flight_max: 4_096,
                send_bytes_max: 16 << 20,
                recv_bucket_messages: 4_096,
                recv_bucket_bytes: 16 << 20,
                peers_max: 1_024,
                partials_max: 256,
                partials_per_peer_max: 64,
                partial_bytes_max: 16 << 20,
                partial_bytes_per_peer_max: 8 << 20,
                tombstones_max: 32_768,
                dedup_pages_max: 256,
                ..Self::default()
            },
        }
    }

    /// Checks every limit and their relations.
    ///
    /// # Errors
    /// The first option that makes no sense, and what would.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |option: &'static str, problem: String| Err(ConfigError { option, problem });
        macro_rules! in_range {
            ($($option:ident in $low:expr, $high:expr;)+) => {$(
                if self.$option < $low || self.$option > $high {
                    return fail(
                        stringify!($option),
                        format!("{:?} is outside {:?} to {:?}", self.$option, $low, $high),
                    );
                }
            )+};
        }
        let train = u32::try_from(TRAIN_BYTES_MAX_V4.min(TRAIN_BYTES_MAX_V6)).unwrap_or(u32::MAX);
        in_range! {
            shards in 1, SHARDS_LIMIT;
            v1_row_bytes_max in 128, train;
            v1_chunk_bytes_max in 4, train;
            v1_window_bytes in truesize_bytes(self.v1_row_bytes_max as usize), 1 << 30;
            message_bytes_max in 1, MESSAGE_BYTES_LIMIT;
            chunk_count_max in 1, 1 << 28;
            ops_in_flight_max in 1, OPS_IN_FLIGHT_LIMIT;
            send_bytes_max in u64::from(self.message_bytes_max), 1u64 << 40;
            recv_bucket_messages in 1, 1 << 28;
            recv_bucket_bytes in u64::from(self.message_bytes_max), 1u64 << 40;
            peers_max in 1, 1 << 24;
            partials_max in 1, 1 << 24;
            partials_per_peer_max in 1, self.partials_max;
            partial_bytes_max in u64::from(self.message_bytes_max), 1u64 << 40;
            partial_bytes_per_peer_max in u64::from(self.message_bytes_max), self.partial_bytes_max;
            // Times of chunks are kept modulo 73 minutes.
            try_span_max in Duration::from_millis(1), Duration::from_secs(1_800);
            // R-PARTIAL-1: a sender gives up before a receiver with the same limits forgets.
            partial_idle_max in self.try_span_max, Duration::from_secs(3_600);
            tombstones_max in 64, 1 << 26;
            dedup_pages_max in 1, 1 << 22;
            // R-DEDUP-4: what was delivered is remembered while it is repeated.
            dedup_horizon in self.try_span_max.max(V1_REPEATS_FOR), Duration::from_secs(3_600);
            deadline_default in Duration::from_millis(1), Duration::from_secs(86_400);
            tries_max in 1, 255;
            rto_initial in Duration::from_millis(1), Duration::from_secs(60);
            rto_min in Duration::from_millis(1), Duration::from_secs(60);
            rto_min_v1 in Duration::from_millis(1), Duration::from_secs(60);
            rto_max in self.rto_min.max(self.rto_min_v1), Duration::from_secs(60);
            rcvbuf_bytes in 4_096, 1 << 30;
            sndbuf_bytes in 4_096, 1 << 30;
            recv_buffers in 2, 32_768;
        }
        if let Some(bytes) = self.datagram_bytes_max
            && !(512..=65_472).contains(&bytes)
        {
            return fail("datagram_bytes_max", format!("{bytes} is outside 512 to 65472"));
        }
        if !self.stall_after.is_zero() && self.stall_after < STALL_AFTER_MIN {
            return fail(
                "stall_after",
                format!("{:?} is less than {STALL_AFTER_MIN:?}; 0: nobody watches", self.stall_after),
            );
        }
        self.validate_peer_wires()?;
        if !self.recv_buffers.is_power_of_two() {
            return fail("recv_buffers", format!("{} is not a power of two", self.recv_buffers));
        }
        let (rest, memory) = (self.try_span_max * 2, self.partial_idle_max + self.dedup_horizon);
        if rest >= memory {
            // R-PARTIAL-2
            return fail(
                "try_span_max",
                format!(
                    "rows of one message may lie {rest:?} apart, and partial_idle_max + dedup_horizon = {memory:?} must be \
                     more than that: lower it or raise them"
                ),
            );
        }
        if self.chunk_bytes_max() == 0 {
            return fail(
                "v1_row_bytes_max",
                format!("{} leaves no room for a payload", self.v1_row_bytes_max),
            );
        }
        let chunks = u64::from(self.message_bytes_max)
            .div_ceil(u64::from(self.chunk_bytes_max().saturating_sub(3).max(1)));
        if chunks > u64::from(self.chunk_count_max) {
            return fail(
                "chunk_count_max",
                format!(
                    "a message of message_bytes_max = {} takes {chunks} chunks of v1_chunk_bytes_max = {}: raise it to \
                     {chunks} or lower message_bytes_max",
                    self.message_bytes_max, self.v1_chunk_bytes_max
                ),
            );
        }
        Ok(())
    }

    fn validate_peer_wires(&self) -> Result<(), ConfigError> {
        let fail = |problem: String| Err(ConfigError { option: "peer_wires", problem });
        if self.peer_wires.len() > PEER_WIRES_LIMIT {
            return fail(format!("{} rules are more than {PEER_WIRES_LIMIT}", self.peer_wires.len()));
        }
        if let Some((peer, _)) = self.peer_wires.iter().find(|rule| rule.0.is_of_nobody()) {
            return fail(format!("{peer} is no peer's address: ports begin at 1"));
        }
        let mut sorted: Vec<_> = self.peer_wires.iter().collect();
        sorted.sort_by_key(|rule| rule.0);
        match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
            Some(pair) => {
                fail(format!("{} is to be both {:?} and {:?}: name one", pair[0].0, pair[0].1, pair[1].1))
            }
            None => Ok(()),
        }
    }

    /// Payload bytes of one row of a multi-chunk message: what both `v1_chunk_bytes_max` and `v1_row_bytes_max` allow.
    #[must_use]
    pub fn chunk_bytes_max(&self) -> u32 {
        let fits = crate::wire::csv::payload_bytes_max(self.v1_row_bytes_max as usize, self.chunk_count_max);
        self.v1_chunk_bytes_max.min(u32::try_from(fits).unwrap_or(u32::MAX))
    }

    /// What one partial message holds at most.
    #[must_use]
    pub(crate) fn partial_held_max(&self) -> u64 {
        crate::proto::partial_held_max(self.chunk_count_max, self.message_bytes_max)
    }

    /// What the limits amount to.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        let shards = u64::from(self.shards);
        // Shards that may have flows.
        let rules = || self.peer_wires.iter().any(|(_, wire)| *wire != Wire::Csv);
        let with_flows = if self.wire == Wire::Csv && !rules() { 0 } else { shards };
        Footprint {
            receive_buffers_bytes: shards * u64::from(self.recv_buffers) * (64 << 10),
            train_arena_bytes: shards * crate::constants::TRAIN_BATCH_BYTES as u64,
            operations_bytes: shards
                * u64::from(self.ops_in_flight_max)
                * (crate::proto::OP_BYTES + crate::proto::OP_COPY_BYTES),
            send_payload_bytes: shards
                .saturating_mul(self.send_bytes_max)
                .saturating_add(crate::runtime::RUNS_KEPT_BYTES),
            recv_bucket_bytes: self.recv_bucket_bytes,
            // R-PARTIAL-3: one may exceed. And one whose chunks came out of order may be on its way to the application.
            partials_bytes: self
                .partial_bytes_max
                .saturating_add(self.partial_held_max() + u64::from(self.message_bytes_max))
                .saturating_mul(shards),
            dedup_bytes: shards
                * (u64::from(self.dedup_pages_max) * crate::proto::DEDUP_PAGE_BYTES
                    + u64::from(self.tombstones_max) * crate::proto::TOMBSTONE_BYTES),
            peers_bytes: shards * u64::from(self.peers_max) * crate::proto::PEER_BYTES,
            flows_bytes: with_flows
                * (u64::from(self.peers_max) * crate::proto::FLOW_BYTES
                    + u64::from(self.ops_in_flight_max) * crate::proto::FLOW_OP_BYTES),
            flow_datagrams_bytes: with_flows * crate::proto::FLOW_DATAGRAMS_BYTES,
            flow_dedup_bytes: with_flows * crate::proto::FLOW_DEDUP_BYTES,
            flow_addresses_bytes: with_flows * crate::proto::FLOW_ADDRESSES_BYTES,
            flow_partials_bytes: with_flows.saturating_mul(self.partial_bytes_max),
            socket_buffers_bytes: shards * (u64::from(self.rcvbuf_bytes) + u64::from(self.sndbuf_bytes)),
        }
    }
}

/// Kernel memory one received datagram of `row_bytes` takes in the receiver's socket buffer (measured, `LIMITS.md`).
#[must_use]
pub fn truesize_bytes(row_bytes: usize) -> u32 {
    match row_bytes {
        0..=190 => 832,
        191..=600 => 1_280,
        601..=1_500 => 2_304,
        // Beyond one page fragment the payload's pages dominate; rounded up to what the allocator hands out.
        larger => u32::try_from(larger + larger / 8 + 1_024).unwrap_or(u32::MAX),
    }
}

/// The memory an engine may come to use, by holder. Nothing is taken before it is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the field names say it; Display prints them")]
pub struct Footprint {
    pub receive_buffers_bytes: u64,
    pub train_arena_bytes: u64,
    pub operations_bytes: u64,
    pub send_payload_bytes: u64,
    pub recv_bucket_bytes: u64,
    pub partials_bytes: u64,
    pub dedup_bytes: u64,
    pub peers_bytes: u64,
    pub flows_bytes: u64,
    pub flow_datagrams_bytes: u64,
    pub flow_dedup_bytes: u64,
    pub flow_addresses_bytes: u64,
    pub flow_partials_bytes: u64,
    pub socket_buffers_bytes: u64,
}

impl Footprint {
    /// The holders by name.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 14] {
        [
            ("receive buffers", self.receive_buffers_bytes),
            ("train arenas", self.train_arena_bytes),
            ("operations in flight", self.operations_bytes),
            ("payloads in flight", self.send_payload_bytes),
            ("receive bucket", self.recv_bucket_bytes),
            ("partial messages", self.partials_bytes),
            ("dedup", self.dedup_bytes),
            ("peers", self.peers_bytes),
            ("flows", self.flows_bytes),
            ("flows: datagrams", self.flow_datagrams_bytes),
            ("flows: dedup", self.flow_dedup_bytes),
            ("flows: addresses", self.flow_addresses_bytes),
            ("flows: partial messages", self.flow_partials_bytes),
            ("socket buffers (kernel)", self.socket_buffers_bytes),
        ]
    }

    /// The sum.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.rows().iter().fold(0, |sum, row| sum.saturating_add(row.1))
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (holder, bytes) in self.rows() {
            writeln!(f, "{holder:<24} {:>10.1} MiB", bytes as f64 / f64::from(1 << 20))?;
        }
        write!(f, "{:<24} {:>10.1} MiB", "at most", self.total_bytes() as f64 / f64::from(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The option that is wrong, if any.
    fn fault(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        config.validate().err().map(|error| error.option)
    }

    /// The binary wire costs what it can come to hold, and nothing where it is not spoken.
    #[test]
    fn the_footprint_names_the_memory_of_flows() {
        let with_rules = |wire, peers_max, rules: &[(&str, Wire)]| {
            let peer_wires = rules.iter().map(|(peer, wire)| (peer.parse().unwrap(), *wire)).collect();
            let small = Config::preset(Preset::Small);
            let config = Config { wire, peers_max, peer_wires, shards: 2, ..small };
            let Footprint {
                flows_bytes,
                flow_datagrams_bytes,
                flow_dedup_bytes,
                flow_addresses_bytes,
                flow_partials_bytes,
                ..
            } = config.footprint();
            [flows_bytes, flow_datagrams_bytes, flow_dedup_bytes, flow_addresses_bytes, flow_partials_bytes]
        };
        let flows = |wire, peers_max| with_rules(wire, peers_max, &[]);
        assert_eq!(flows(Wire::Csv, 1_024), [0; 5]);
        let [few, datagrams, dedup, addresses, partials] = flows(Wire::Auto, 1_024);
        assert!(
            datagrams > 32 << 20 && dedup > 32 << 20 && addresses > 32 << 20 && partials == 2 * (16 << 20)
        );
        let each = (flows(Wire::Binary, 2_048)[0] - few) / (2 * 1_024);
        assert_eq!(each, crate::proto::FLOW_BYTES);
        assert!((1_900..2_400).contains(&each), "{each}");
        // A rule that gives one peer the binary wire costs all of it; one that does not costs nothing.
        for wire in [Wire::Binary, Wire::Auto] {
            let rules = [("10.0.0.0/8", Wire::Csv), ("10.0.0.7", wire)];
            assert_eq!(with_rules(Wire::Csv, 1_024, &rules), flows(wire, 1_024));
        }
        assert_eq!(with_rules(Wire::Csv, 1_024, &[("10.0.0.7", Wire::Csv)]), [0; 5]);
    }

    #[test]
    fn presets_are_valid_and_times_that_break_promises_are_not() {
        let seconds = Duration::from_secs;
        assert_eq!(Config::preset(Preset::Small).validate(), Ok(()));
        assert_eq!(fault(|_| ()), None);
        let times = |span: u64, idle: u64, horizon: u64| {
            fault(|config| {
                config.try_span_max = seconds(span);
                config.partial_idle_max = seconds(idle);
                config.dedup_horizon = seconds(horizon);
            })
        };
        assert_eq!(times(10, 11, 10), None);
        assert_eq!(times(10, 10, 10), Some("try_span_max"), "R-PARTIAL-2");
        assert_eq!(times(10, 20, 9), Some("dedup_horizon"), "engines repeat for try_span_max");
        assert_eq!(times(1, 10, 6), None);
        assert_eq!(times(1, 10, 5), Some("dedup_horizon"), "originals repeat for 6 s");
        assert_eq!(times(10, 9, 60), Some("partial_idle_max"));
        assert_eq!(times(1_800, 1_800, 3_600), None);
        assert_eq!(times(1_801, 1_801, 3_600), Some("try_span_max"), "chunk times are modulo 73 minutes");
    }

    #[test]
    fn rules_on_the_wire_of_peers_must_not_contradict_each_other() {
        let rules = |rules: &[(&str, Wire)]| {
            let peer_wires = rules.iter().map(|(peer, wire)| (peer.parse().unwrap(), *wire)).collect();
            let config = Config { peer_wires, ..Config::default() };
            config.validate().err().map(|error| error.to_string())
        };
        let one = ("10.0.0.0/8", Wire::Csv);
        assert_eq!(rules(&[one, ("10.0.0.0/9", Wire::Auto), one]), None, "another network, and said twice");
        let both = rules(&[one, ("::/0", Wire::Auto), ("10.1.1.1/8", Wire::Binary)]).unwrap();
        assert!(
            both.contains("peer_wires") && both.contains("10.0.0.0/8 is to be both Csv and Binary"),
            "{both}"
        );
        assert!(rules(&[("10.0.0.1:0", Wire::Csv)]).unwrap().contains("10.0.0.1:0 is no peer's address"));
        let many = vec![("10.0.0.1".parse().unwrap(), Wire::Csv); PEER_WIRES_LIMIT + 1];
        assert_eq!(fault(|config| config.peer_wires = many), Some("peer_wires"));
    }

    #[test]
    fn a_watchdog_that_never_rests_is_refused() {
        let stall_after = |time| fault(|config| config.stall_after = time);
        assert_eq!(stall_after(Duration::ZERO), None);
        assert_eq!(stall_after(Duration::from_nanos(1)), Some("stall_after"));
        assert_eq!(stall_after(STALL_AFTER_MIN), None);
        assert_eq!(stall_after(Duration::MAX), None);
    }

    /// It is asked for before the limits are checked.
    #[test]
    fn the_footprint_of_limits_without_sense_is_a_number() {
        let config = Config {
            send_bytes_max: u64::MAX,
            recv_bucket_bytes: u64::MAX,
            partial_bytes_max: u64::MAX,
            wire: Wire::Auto,
            ..Config::default()
        };
        assert_eq!(config.footprint().total_bytes(), u64::MAX);
        let numbers = Config {
            shards: u16::MAX,
            recv_buffers: u16::MAX,
            message_bytes_max: u32::MAX,
            chunk_count_max: u32::MAX,
            ops_in_flight_max: u32::MAX,
            peers_max: u32::MAX,
            tombstones_max: u32::MAX,
            dedup_pages_max: u32::MAX,
            rcvbuf_bytes: u32::MAX,
            sndbuf_bytes: u32::MAX,
            ..config
        };
        assert_eq!(numbers.footprint().total_bytes(), u64::MAX);
    }
}
