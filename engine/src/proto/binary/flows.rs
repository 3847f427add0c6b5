//! All flows of a shard: who is who, the handshake, whose turn it is to send, what is due when.
//!
//! ```text
//!   first put to an address -> HELLO (tag 0) ------------------> flow, unproven
//!   flow, open, proven      <- HELLO (our tag, nonce echoed) <---'
//!                           -> anything under its tag ---------> proven: answers to that address use this flow
//! ```
//!
//! A flow belongs to its tag: 24 bits of index and 40 of chance, chosen by whoever receives under it (R-FLOW-1). Nothing
//! but a first HELLO, or a RESET, is looked at without a valid one (R-FLOW-2).
//!
//! Calls in one turn: `handle_datagram` for what came, `handle_timers`, `put`s (and before both what may put `look_at_keys`), and at
//! last `poll`.

use super::addresses::Addresses;
use super::budget::Budget;
use super::flow::asleep::Asleep;
use super::flow::{Flow, PROBE_EVERY, PROBES_AT_ONCE, PROVEN_FOR, Shop};
use super::frame_copies::FrameCopies;
use super::inflow::Inflows;
use super::op_ring::Meta;
use super::packet_pool::PacketPool;
use crate::commit::CommitKey;
use crate::config::Config;
use crate::error::FailureCause;
use crate::hash::{Map, Rng, Seed, Set};
use crate::observe::Counters;
use crate::options::Options;
use crate::proto::congestion::CongestionFactory;
use crate::proto::outbound::{DEADLINE_BYTES_PER_SECOND, Finished, Place};
use crate::proto::plugins::Plugins;
use crate::proto::protection::Protection;
use crate::proto::timer_wheel::TimerWheel;
use crate::proto::unread::Unread;
use crate::proto::wires::Wires;
use crate::train::TrainBatch;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{HEADER_BYTES, Kind};
use bytes::Bytes;
use siphasher::sip::SipHasher24;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

mod beside;
mod discovery;
mod handshake;
mod new_keys;
mod put;
mod receive;
mod table;
mod timers;
mod transmit;

/// A tag's low bits are the flow's index.
const INDEX_BITS: u32 = 24;
/// An epoch's low bits are the shard, the others the engine's start: the shards of one engine are not taken for restarts
/// (R-FLOW-8).
const EPOCH_SHARD_BITS: u32 = 8;
const _: () = assert!(crate::config::SHARDS_LIMIT <= 1 << EPOCH_SHARD_BITS);
/// The version in HELLO.
const VERSION: u8 = 2;
/// Longest datagram over an Ethernet of 1,500 bytes.
const DATAGRAM_BYTES_V4: usize = 1_472;
const DATAGRAM_BYTES_V6: usize = 1_452;
/// Most blocks of datagram memory a shard uses: 64 KiB each, touched as they come into use.
const POOL_BLOCKS: usize = 256;
/// Bytes of datagrams a turn sends, more or less: the peer then receives while the next ones are filled.
const TURN_BYTES_MAX: usize = 2 * TURN_BYTES_MIN;
/// From here on a turn ends where a train does: what is left over of a block costs a train of its own.
const TURN_BYTES_MIN: usize = 32_000;
/// Flows a shard keeps that have not proven their address (R-FLOW-5); then the oldest makes way.
const UNPROVEN_MAX: usize = 1_024;
/// Where one in so many places is one of those, or more are, they make way before any that is proven.
const UNPROVEN_PART: usize = 4;
/// So many, in all and from one address, are taken up on a HELLO that shows no cookie (R-FLOW-12).
const UNSHOWN_MAX: usize = 256;
const UNSHOWN_OF_ADDRESS_MAX: usize = 2;
/// Flows that one address may have (R-FLOW-13).
const FLOWS_OF_ADDRESS_MAX: usize = 8;
/// HELLOs remembered whose cookie has been used, for each step of cookies (R-DISC-2).
const SPENT_MAX: usize = 32_768;
/// How long unproven flows are kept. Longer than `try_span_max` of the peer, who gives up then: else he would take it for a
/// restart.
const UNPROVEN_FOR: Duration = Duration::from_secs(10);
/// A proven flow is not forgotten sooner after its last datagram, whatever the reason (R-RESTART-5).
const KEPT_FOR_MIN: Duration = Duration::from_secs(1);
/// A flow without anything under way is forgotten after that long (R-FLOW-10).
const IDLE: Duration = Duration::from_secs(60);
/// A flow on which nothing happens for that long sleeps (R-FLOW-14): what the controllers know of the path has lapsed by then
/// (`MIN_RTT_LIFE`), with `auto` what the address proved as well (`PROVEN_FOR`), and to wake a flow every 10 s costs nothing.
const SLEEPS_AFTER: Duration = Duration::from_secs(10);
/// How often a timer looks at a flow that would be forgotten but for something.
const LOOKS_EVERY: Duration = Duration::from_secs(1);
/// One of so many places for flows is kept free, and at least one; how often it is looked who could make way, and how many of
/// the places are looked at for each that does (R-FLOW-15).
const ROOM_PART: usize = 64;
const MAKES_ROOM_EVERY: Duration = Duration::from_millis(10);
const ROOM_DRAWS: usize = 16;
/// R-LOSS-8, in datagrams.
const INITIAL_WINDOW: u64 = 32;
/// Probes to an address that has not said what it is, and how long each waits for its answer; doubled each time
/// (R-DISC-6).
const PROBES_MAX: u32 = 3;
const PROBE_WAIT: Duration = Duration::from_millis(200);
/// An address that did not answer is asked again after that long (R-DISC-6).
const PLAIN_FOR: Duration = Duration::from_secs(60);
/// Addresses remembered as having answered a probe, or as not having.
const REMEMBERED_MAX: usize = 65_536;
/// After CLOSE nothing goes to its address for so long, unless somebody there opens a flow (R-CLOSE-4): longer than a process
/// takes to end, shorter than a person takes to start it anew.
const CLOSING_FOR: Duration = Duration::from_millis(500);
/// The reason in CLOSE: the engine stops.
const STOPPED: u8 = 0;
/// Cookies are good for one to two of these, 8.6 s each (R-DISC-2).
const COOKIE_BUCKET_SHIFT: u32 = 33;
/// RESETs, and probes to strangers, a shard may send in a burst, and how fast they come back (R-DISC-4).
const RESETS_MAX: u32 = 64;
const RESET_EVERY: Duration = Duration::from_millis(1);

/// A controller that comes with the engine, and a flow's places in the tables: at most (`tests/no_alloc.rs`).
const CONTROLLER_BYTES: usize = 512;
const PLACES_BYTES: usize = 216;
/// A flow that is awake, beside what is under way on it.
pub const FLOW_BYTES: u64 =
    (size_of::<Pair<[usize; 2]>>() + size_of::<super::inflow::Inflow>() + CONTROLLER_BYTES + PLACES_BYTES)
        as u64;
/// Datagrams that are kept until they are acknowledged, and what is known of each and of what was sent again. And what is kept
/// where nothing is under way.
pub const DATAGRAMS_BYTES: u64 = {
    let each =
        super::packet_pool::BLOCK_BYTES + super::packet_pool::SLOTS_MAX * super::recovery::BYTES_IN_FLIGHT;
    (POOL_BLOCKS * each + super::flow::RESTING_BYTES_MAX + super::frame_copies::KEPT_BYTES_MAX) as u64
};
/// What is remembered of addresses and HELLOs, flow or not: full tables (a hash table has up to 16 places, each
/// with a tag, for 7 entries).
pub const REMEMBERED_BYTES: u64 = {
    let address = size_of::<(SocketAddr, Instant)>() + 1;
    let hello = size_of::<u64>() + 1;
    (REMEMBERED_MAX * 16 / 7 * 3 * address + SPENT_MAX * 16 / 7 * 2 * hello) as u64
};

/// See the module.
#[derive(Debug)]
pub struct Flows<C> {
    slots: Vec<Option<Box<Pair<C>>>>,
    /// Flows that have no slot, because nothing happens on them.
    asleep: Vec<Option<Box<Asleep>>>,
    /// How many woke since that was counted.
    woken: u64,
    free: Vec<u32>,
    /// There is little room for other flows: when to look next who makes way.
    makes_room_at: Option<Instant>,
    addresses: Addresses,
    /// The address put to last, and its flow.
    last: Option<(SocketAddr, u32)>,
    /// In the order they came.
    unproven: Vec<u32>,
    spent: Spent,
    shop: Shop<C>,
    timers: TimerWheel,
    ready: VecDeque<u32>,
    /// Flows that found no memory for a datagram.
    starved: Vec<u32>,
    congestion: Arc<dyn CongestionFactory>,
    protection: Option<Arc<dyn Protection>>,
    /// Its number when the flows' keys were looked at last.
    key_generation: u64,
    high_water: [u64; 3],
    place: Place,
    rng: Rng,
    limits: FlowLimits,
    resets: Budget,
    wires: Wires,
    /// Makes cookies and the nonces of probes to strangers.
    secret: SipHasher24,
    /// Strangers that answered a probe, until when.
    answered: Map<SocketAddr, Instant>,
    /// Addresses that did not, until when they are not asked again.
    plain: Map<SocketAddr, Instant>,
    /// Addresses that said CLOSE, until when nothing is sent to them.
    closing: Map<SocketAddr, Instant>,
    /// The flows before this index have been closed: the engine stops.
    closed: usize,
    /// They keep their places among the operations.
    spilled: Vec<Spilled<C>>,
    unread: Unread,
    /// Flows whose probe is due, in the order it was (R-LOSS-13).
    probing: VecDeque<u32>,
    /// See [`datagram_bytes`](Self::datagram_bytes).
    datagram_bytes: usize,
}

/// A message that is not to wait for a flow any longer.
#[derive(Debug)]
pub struct Spilled<C> {
    /// Where it goes.
    pub to: SocketAddr,
    /// What it carries.
    pub payload: Bytes,
    /// Its options.
    pub options: Option<Box<Options>>,
    /// What comes back with its outcome.
    pub meta: Meta<C>,
    /// When the address was first asked.
    pub since: Instant,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It speaks the binary wire.
    Engine,
    /// It has not been asked, or has not answered yet.
    Unknown,
    /// It was asked and did not answer.
    Plain,
    /// It said that it takes nothing more.
    Closing,
}

#[derive(Clone, Copy, Debug)]
struct FlowLimits {
    ops_max: usize,
    flows_max: usize,
    message_bytes_max: u32,
    give_up_after: Duration,
    /// Tags included.
    datagram_bytes_max: usize,
    /// Bytes of a sealed datagram's tag; 0 where nothing is sealed.
    tag_bytes: usize,
    datagram_bytes_max_v6: usize,
    deadline_default_ns: u64,
    sleeps_after: Duration,
}

impl FlowLimits {
    #[inline]
    const fn lifetime_ns(&self, payload_bytes: usize) -> u64 {
        self.deadline_default_ns + (payload_bytes as u64 / DEADLINE_BYTES_PER_SECOND as u64) * 1_000_000_000
    }

    /// Longest datagram to an address of its family, its tag not counted.
    fn datagram_bytes_to(&self, to: SocketAddr) -> usize {
        let v6 = matches!(to, SocketAddr::V6(to) if to.ip().to_ipv4_mapped().is_none());
        let bytes = if v6 { self.datagram_bytes_max_v6 } else { self.datagram_bytes_max };
        bytes - self.tag_bytes
    }
}

/// First HELLOs whose cookie opened a flow, by a keyed hash: said again after that flow is gone, they prove nothing
/// (R-DISC-2). A cookie is good in two steps of time, and so is remembered for two.
#[derive(Debug)]
struct Spent {
    step: u64,
    now: Set<u64>,
    before: Set<u64>,
}

impl Spent {
    fn advance(&mut self, step: u64) {
        if step != self.step {
            std::mem::swap(&mut self.now, &mut self.before);
            self.now.clear();
            if step != self.step + 1 {
                self.before.clear();
            }
            self.step = step;
        }
    }

    /// Whether it was used before; true as well if there is no room to remember that it is used now.
    fn has(&mut self, step: u64, hello: u64) -> bool {
        self.advance(step);
        self.now.len() >= SPENT_MAX || self.now.contains(&hello) || self.before.contains(&hello)
    }

    fn insert(&mut self, hello: u64) {
        self.now.insert(hello);
    }
}

/// A flow as it stands in the table.
#[derive(Debug)]
struct Pair<C> {
    out: Flow<C>,
    /// Where a datagram under this tag came from that is not its address.
    challenge: Option<Box<Challenge>>,
}

/// A question to another address than a flow's. One datagram for one that came from there.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    to: SocketAddr,
    /// What is asked there.
    data: u64,
    /// Since when.
    since: Instant,
    /// What was asked from there: our address may have changed as well.
    pong: Option<u64>,
    due: bool,
}

/// A datagram's way through.
pub struct Arriving<'a> {
    /// The time.
    pub now: Instant,
    /// Where it came from.
    pub from: SocketAddr,
    /// Our address it came to, on a wildcard socket.
    pub local: Option<IpAddr>,
    /// Its bytes.
    pub datagram: &'a [u8],
    /// Of a sealed HELLO, its key.
    pub key_id: u32,
}

/// A datagram that counts.
pub struct Arrived<'a> {
    /// Whose it is.
    pub index: u32,
    /// Its number.
    pub number: u64,
    /// The address of its flow.
    pub from: SocketAddr,
    /// What it carries.
    pub frames: &'a [u8],
    /// What is in it.
    pub summary: binary::Summary,
}

impl<C> Flows<C> {
    /// No flows.
    #[must_use]
    pub fn new(
        config: &Config,
        plugins: &Plugins,
        wires: Wires,
        place: Place,
        seed: &Seed,
        now: Instant,
    ) -> Self {
        Self::with_pool(PacketPool::new(POOL_BLOCKS), config, plugins, wires, place, (seed, now))
    }

    /// As [`new`](Self::new), with this memory for datagrams.
    pub(crate) fn with_pool(
        pool: PacketPool,
        config: &Config,
        plugins: &Plugins,
        wires: Wires,
        place: Place,
        (seed, now): (&Seed, Instant),
    ) -> Self {
        let mut rng = seed.rng(0x20_000 + u64::from(place.shard));
        let datagram_bytes_max = datagram_bytes_max(config);
        let epoch = seed.rng(2).next_u32() << EPOCH_SHARD_BITS | u32::from(place.shard);
        Self {
            slots: Vec::new(),
            asleep: Vec::new(),
            woken: 0,
            free: Vec::new(),
            makes_room_at: None,
            addresses: Addresses::new(seed, places(config.peers_max as usize)),
            last: None,
            unproven: Vec::new(),
            spent: Spent { step: 0, now: Set::default(), before: Set::default() },
            shop: Shop {
                pool,
                copies: FrameCopies::default(),
                finished: Vec::new(),
                epoch,
                ops_in_use: 0,
                turn_bytes: 0,
                released: false,
                resting_bytes: 0,
                heard_until: now,
                probes: Budget::new(now, PROBES_AT_ONCE, PROBE_EVERY),
                retries: plugins.retries.clone(),
            },
            timers: TimerWheel::new(now),
            ready: VecDeque::new(),
            starved: Vec::new(),
            protection: plugins.protection.clone(),
            key_generation: plugins.protection.as_ref().map_or(0, |protection| protection.generation()),
            congestion: plugins.congestion.clone().unwrap_or_else(|| Arc::new(config.congestion)),
            // Not zero: an acknowledgement of number 0 would be the first guess of a forger.
            high_water: [0; 3].map(|_: u64| u64::from(rng.next_u32() >> 1)),
            place,
            limits: FlowLimits {
                ops_max: config.ops_in_flight_max as usize,
                flows_max: config.peers_max as usize,
                message_bytes_max: config.message_bytes_max,
                give_up_after: config.try_span_max.max(KEPT_FOR_MIN),
                datagram_bytes_max,
                tag_bytes: plugins.tag_bytes(),
                datagram_bytes_max_v6: config.datagram_bytes_max.map_or(DATAGRAM_BYTES_V6, usize::from),
                deadline_default_ns: config.deadline_default.as_nanos() as u64,
                sleeps_after: SLEEPS_AFTER,
            },
            resets: Budget::new(now, RESETS_MAX, RESET_EVERY),
            wires,
            secret: SipHasher24::new_with_keys(rng.next_u64(), rng.next_u64()),
            answered: seed.hasher().map(),
            plain: seed.hasher().map(),
            closing: seed.hasher().map(),
            closed: 0,
            spilled: Vec::new(),
            unread: Unread::new(now),
            probing: VecDeque::new(),
            datagram_bytes: 0,
            rng,
        }
    }

    /// Operations that can still be accepted.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limits.ops_max - self.shop.ops_in_use
    }

    /// Operations accepted and not ended.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.shop.ops_in_use
    }

    /// Enough datagrams are filled for one turn.
    #[must_use]
    #[inline]
    pub fn has_turn_full(&self) -> bool {
        let Shop { turn_bytes, pool, .. } = &self.shop;
        // With the one being filled: where it is full, the next message would begin another one.
        let last = self.last.and_then(|(_, index)| self.slots.get(index as usize)?.as_deref());
        let bytes = turn_bytes + last.map_or(0, |pair| pair.out.open_bytes());
        bytes >= TURN_BYTES_MAX || (bytes >= TURN_BYTES_MIN && pool.ends_train())
    }

    /// Whoever is put to next is looked at first, as if it had not been a moment ago.
    pub fn look_again(&mut self) {
        let last = self.last.and_then(|(_, index)| self.slots.get_mut(index as usize)?.as_deref_mut());
        if let Some(pair) = last {
            pair.out.look_again();
        }
    }

    /// Outcomes recorded so far; the caller drains them.
    pub fn finished(&mut self) -> &mut Vec<Finished<C>> {
        &mut self.shop.finished
    }

    /// Memory of kept datagrams, to be lent to the batch while it is sent.
    pub fn lend(&mut self) -> &mut Vec<u8> {
        self.shop.pool.lend()
    }

    /// Bytes of the largest message.
    #[inline]
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        self.limits.message_bytes_max as usize
    }

    /// Flows there are.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn count(&self) -> usize {
        self.slots.iter().flatten().count() + self.asleep()
    }

    /// What flows with nothing under way keep.
    #[cfg(test)]
    #[must_use]
    pub const fn resting_bytes(&self) -> usize {
        self.shop.resting_bytes
    }

    /// Of these, flows that sleep.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn asleep(&self) -> usize {
        self.asleep.iter().flatten().count()
    }

    /// Another time until flows sleep.
    #[cfg(any(test, feature = "sim"))]
    pub const fn set_sleeps_after(&mut self, quiet: Duration) {
        self.limits.sleeps_after = quiet;
    }

    /// The tag we gave out for the first of them.
    #[cfg(test)]
    #[must_use]
    pub fn first_tag(&self) -> Option<u64> {
        self.slots.iter().flatten().next().map(|pair| pair.out.identity.own_tag)
    }

    /// The first flows begin with these numbers: datagrams, messages, chunked messages.
    #[cfg(any(test, feature = "sim"))]
    pub const fn start_at(&mut self, numbers: [u64; 3]) {
        self.high_water = numbers;
    }

    /// Another epoch; before the first flow.
    #[cfg(test)]
    pub const fn set_epoch(&mut self, epoch: u32) {
        self.shop.epoch = epoch;
    }

    /// Another number of blocks; before the first flow.
    #[cfg(any(test, feature = "sim"))]
    pub fn set_pool_blocks(&mut self, blocks: usize) {
        self.shop.pool = PacketPool::new(blocks);
    }

    /// What should have been given back when nothing is under way.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let mut held = Vec::new();
        let mut note = |what: &str, count: usize| {
            if count > 0 {
                held.push(format!("{what} {count}"));
            }
        };
        note("datagrams in the pool", self.shop.pool.taken());
        note("operations", self.shop.ops_in_use);
        note("unproven flows", self.unproven.len());
        note("starved flows", self.starved.len());
        note("ready flows", self.ready.len());
        let resting = self.slots.iter().flatten().map(|pair| pair.out.resting_bytes());
        note("memory of flows that are gone", self.shop.resting_bytes - resting.sum::<usize>());
        held
    }

    /// The application's word on a message that came: its sender is told (R-COMMIT-3).
    pub fn handle_commit(&mut self, now: Instant, key: CommitKey, committed: bool, inflows: &mut Inflows) {
        if !inflows.decide(key, committed) {
            return;
        }
        if let Some(pair) = self.pair(key.flow)
            && pair.out.lapses
            && now.since(pair.out.vouched_at()) >= PROVEN_FOR
        {
            // It took its time: the address has to say once more who is there (R-DISC-5).
            pair.out.suspend(now);
        }
        self.make_ready(key.flow);
    }

    /// Ends an operation at its owner's wish.
    pub fn cancel(&mut self, counters: &mut Counters, is_it: impl Fn(&C) -> bool) {
        let Self { slots, shop, ready, .. } = self;
        for (index, pair) in (0..).zip(slots) {
            let Some(out) = pair.as_deref_mut().map(|pair| &mut pair.out) else { continue };
            out.cancel(shop, counters, &is_it);
            if out.control_is_due() && !std::mem::replace(&mut out.ready, true) {
                ready.push_back(index);
            }
        }
    }

    /// The kernel refuses to send to this peer from where it reached us: that address is no longer ours.
    pub fn forget_local(&mut self, to: SocketAddr) {
        for index in self.flows_to(to).collect::<Vec<_>>() {
            if let Some(pair) = self.pair(index) {
                pair.out.identity.local = None;
            } else if let Some(Some(asleep)) = self.asleep.get_mut(index as usize) {
                asleep.identity.local = None;
            }
        }
    }

    /// Ends every operation: the engine stops.
    pub fn stop(&mut self, counters: &mut Counters) {
        let Self { slots, shop, .. } = self;
        for pair in slots.iter_mut().flatten() {
            pair.out.end(shop, FailureCause::EngineStopped, FailureCause::EngineStopped, counters);
        }
    }

    /// Whether every datagram has to be sealed (R-PROT-1).
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.protection.is_some()
    }

    /// Bytes of the longest datagram that goes to the peer for whom that was found out, or changed, last; 0: there was none.
    #[must_use]
    pub const fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// The socket may have more: the [`timers`](Self::handle_timers) of this turn come before what it is.
    pub const fn set_unread(&mut self, unread: bool) {
        self.unread.set(unread);
    }
}

/// As `a == b`, which copies both first, in pieces that are read before they are written.
#[inline(always)]
fn is_same(a: &SocketAddr, b: &SocketAddr) -> bool {
    match (a, b) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            (a.ip().to_bits(), a.port()) == (b.ip().to_bits(), b.port())
        }
        _ => a == b,
    }
}

fn random_bytes<const N: usize>(rng: &mut Rng) -> [u8; N] {
    std::array::from_fn(|_| rng.next_u8())
}

/// The longest datagram the engine sends on the binary wire.
#[must_use]
pub fn datagram_bytes_max(config: &Config) -> usize {
    config.datagram_bytes_max.map_or(DATAGRAM_BYTES_V4, |bytes| bytes as usize)
}

/// Flows that a shard may have: a tag names no more.
fn places(flows_max: usize) -> usize {
    flows_max.min(1 << INDEX_BITS)
}

/// Two epochs of one address: whether the engine there was started anew between them.
const fn is_other_start(a: u32, b: u32) -> bool {
    (a ^ b) >> EPOCH_SHARD_BITS != 0
}

/// Whether the batch has room for so many of those, whatever is in them.
fn takes_feedback(batch: &TrainBatch, count: usize, tag_bytes: usize) -> bool {
    let bytes = HEADER_BYTES + FEEDBACK_BYTES_MAX + tag_bytes;
    batch.room_trains() >= count && batch.room_bytes() >= count * bytes
}

/// Whether a datagram with these frames is to be acknowledged (R-PN-3).
fn is_eliciting(summary: &binary::Summary) -> bool {
    [Kind::Message, Kind::Chunk, Kind::Result, Kind::Cancel, Kind::Skip, Kind::Ping]
        .iter()
        .any(|&kind| summary.has(kind))
}

/// A challenge to another address, with the answer to a PING from there: no longer than what it answers.
const CHALLENGE_BYTES_MAX: usize = HEADER_BYTES + (binary::FRAME_BYTES + 12) + (binary::FRAME_BYTES + 8);

/// Frames of a first HELLO and of its answer, padding included.
const FIRST_FLIGHT_BYTES: usize = 120;
/// Frames of a datagram that carries nothing but feedback.
const FEEDBACK_BYTES_MAX: usize = 1_400 - HEADER_BYTES;

/// Frames that say something about what we sent, or about what the peer sends.
const FEEDBACK: [Kind; 8] =
    [Kind::Ack, Kind::Grant, Kind::Result, Kind::Low, Kind::Ping, Kind::Close, Kind::Cancel, Kind::Skip];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::congestion::Algorithm;

    /// Beside its controller, which is boxed; 32 of it are the list of what was sent again. One that sleeps: `tests/no_alloc.rs`.
    #[test]
    fn a_flow_costs_what_is_known_of_it() {
        let bytes = size_of::<Pair<[usize; 2]>>() + size_of::<super::super::inflow::Inflow>();
        assert!(bytes <= 1_600, "{bytes}");
        let config = crate::proto::congestion::CcConfig {
            initial_window_bytes: 1,
            min_window_bytes: 1,
            max_window_bytes: 1,
            datagram_bytes: 1,
            fixed_window_bytes: 1,
        };
        for algorithm in [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed] {
            assert!(size_of_val(&*algorithm.build(&config)) <= CONTROLLER_BYTES, "{algorithm}");
        }
        let asleep = size_of::<Asleep>() + super::super::inflow::ASLEEP_BYTES;
        assert!(asleep <= 312, "{asleep}");
    }
}
