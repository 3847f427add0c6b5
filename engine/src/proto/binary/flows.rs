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
//! Calls in one turn: `handle_datagram` for what came, `handle_timers`, `put`s, and at last `poll`.

use super::addresses::Addresses;
use super::budget::Budget;
use super::extras::needs_binary;
use super::flow::asleep::Asleep;
use super::flow::{
    Blocked, DATAGRAM_BYTES_MIN, Flow, Identity, Opening, PROBE_EVERY, PROBES_AT_ONCE, PROVEN_FOR, Phase,
    Queued, Shop,
};
use super::frame_copies::FrameCopies;
use super::guard::{self, Guard};
use super::inflow::{FIRST_CHUNKED, FIRST_MESSAGES, Inflows};
use super::op_ring::Meta;
use super::packet_pool::PacketPool;
use super::recovery::Fate;
use super::source::Source;
use crate::commit::CommitKey;
use crate::config::{Config, Wire};
use crate::error::FailureCause;
use crate::hash::{Map, Rng, Seed, Set};
use crate::observe::Counters;
use crate::options::{Options, Priority};
use crate::proto::congestion::{CcConfig, CongestionControl, CongestionFactory, WINDOW_BYTES_MAX};
use crate::proto::outbound::{DEADLINE_BYTES_PER_SECOND, Finished, Place, Submission};
use crate::proto::plugins::Plugins;
use crate::proto::protection::{Protection, RANDOM_BYTES, SALT_BYTES};
use crate::proto::timer_wheel::TimerWheel;
use crate::proto::wires::Wires;
use crate::train::{Origin, TrainBatch};
use crate::units::Instant;
use crate::wire::DropReason;
use crate::wire::binary::{
    self, Bases, CloseFrame, Frame, HEADER_BYTES, Header, Hello, Kind, Limits, Writer,
};
use crate::wire::csv::{self, DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind};
use bytes::Bytes;
use siphasher::sip::SipHasher24;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
const PLACES_BYTES: usize = 208;
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

/// See the module.
#[derive(Debug)]
pub struct Flows<C> {
    slots: Vec<Option<Box<Pair<C>>>>,
    /// Flows that have no slot, because nothing happens on them.
    asleep: Vec<Option<Box<Asleep>>>,
    /// How many woke since that was counted.
    woken: u64,
    free: Vec<u32>,
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
    spilled: Vec<Spilled<C>>,
    /// What has come was not all handled before the timers.
    unread: bool,
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
        let mut rng = seed.rng(0x20_000 + u64::from(place.shard));
        let datagram_bytes_max = datagram_bytes_max(config);
        let epoch = seed.rng(2).next_u32() << EPOCH_SHARD_BITS | u32::from(place.shard);
        Self {
            slots: Vec::new(),
            asleep: Vec::new(),
            woken: 0,
            free: Vec::new(),
            addresses: Addresses::new(seed),
            last: None,
            unproven: Vec::new(),
            spent: Spent { step: 0, now: Set::default(), before: Set::default() },
            shop: Shop {
                pool: PacketPool::new(POOL_BLOCKS),
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
            unread: false,
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
        self.shop.ops_in_use + self.spilled.len()
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

    /// Outcomes recorded so far; the caller drains them.
    pub fn finished(&mut self) -> &mut Vec<Finished<C>> {
        &mut self.shop.finished
    }

    /// Memory of kept datagrams, to be lent to the batch while it is sent.
    pub fn lend(&mut self) -> &mut Vec<u8> {
        self.shop.pool.lend()
    }

    /// Takes a message.
    ///
    /// # Errors
    /// Completion and payload back: no room for another operation, or for another flow.
    pub fn put<S: Source>(
        &mut self,
        now: Instant,
        to: SocketAddr,
        payload: S,
        (completion, tag, lifetime): (C, u64, Duration),
        counters: &mut Counters,
    ) -> Result<(), (C, S)> {
        if let Some(index) = self.takes_direct(&to, payload.len()) {
            let write = (payload.len(), |space: &mut [u8]| payload.write(space));
            self.put_direct(index, now, write, (completion, tag, Some(lifetime)), counters);
            return Ok(());
        }
        let index = match self.last {
            Some((last, index)) if last == to => index,
            _ => match self.find_or_open(now, to) {
                Some(index) => index,
                None => return Err((completion, payload)),
            },
        };
        self.put_to(index, now, payload, (completion, tag, Some(lifetime)), counters)
    }

    /// The flow of the address put to last, if it is that one and speaks the binary wire.
    #[inline]
    #[must_use]
    pub fn engine_at(&self, now: Instant, to: SocketAddr) -> Option<u32> {
        let (last, index) = self.last?;
        let out = &self.slots.get(index as usize)?.as_ref()?.out;
        let proven = !out.lapses
            || (out.phase == Phase::Open && !out.suspended && now.since(out.vouched_at()) < PROVEN_FOR);
        (last == to && proven).then_some(index)
    }

    /// A message of that length to that address goes into the datagram the one before it went into:
    /// [`put_direct`](Self::put_direct) takes it.
    #[inline(always)]
    #[must_use]
    pub fn takes_direct(&self, to: &SocketAddr, payload_bytes: usize) -> Option<u32> {
        let (last, index) = self.last.as_ref()?;
        if !is_same(last, to)
            || payload_bytes > self.message_bytes_max()
            || self.shop.ops_in_use >= self.limits.ops_max
        {
            return None;
        }
        let out = &self.slots.get(*index as usize)?.as_ref()?.out;
        out.takes_direct(payload_bytes).then_some(*index)
    }

    /// Takes a message where [`takes_direct`](Self::takes_direct) said so. Without a lifetime: the default one.
    #[inline(always)]
    pub fn put_direct(
        &mut self,
        index: u32,
        now: Instant,
        (bytes, write): (usize, impl FnOnce(&mut [u8])),
        (completion, tag, lifetime): (C, u64, Option<Duration>),
        counters: &mut Counters,
    ) {
        let deadline = self.deadline(now, lifetime, bytes);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        let meta = Meta { completion, tag, accepted_at: now, deadline };
        pair.out.put_direct(now, shop, (bytes, write), meta);
        counters.messages_accepted += 1;
    }

    /// As [`put_direct`](Self::put_direct), of messages of one length, with the default lifetime, for as long as the same is
    /// true of them. Returns how many, and whether there may be more.
    #[inline(always)]
    pub fn put_each_direct<F: FnOnce(&mut [u8])>(
        &mut self,
        index: u32,
        now: Instant,
        bytes: usize,
        messages: &mut impl Iterator<Item = (u64, F)>,
        (completion, counters): (impl Fn() -> C, &mut Counters),
    ) -> (usize, bool) {
        let deadline = self.deadline(now, None, bytes);
        let room = self.limits.ops_max.saturating_sub(self.shop.ops_in_use);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else { return (0, true) };
        let meta = |tag| Meta { completion: completion(), tag, accepted_at: now, deadline };
        let (put, more) = pair.out.put_each_direct(now, shop, bytes, room, messages, meta);
        counters.messages_accepted += put as u64;
        (put, more)
    }

    /// Bytes of the largest message.
    #[inline]
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        self.limits.message_bytes_max as usize
    }

    #[inline(always)]
    fn deadline(&self, now: Instant, lifetime: Option<Duration>, bytes: usize) -> Instant {
        match lifetime {
            Some(lifetime) => now + lifetime,
            None => Instant::from_ns(now.as_ns() + self.limits.lifetime_ns(bytes)),
        }
    }

    /// As [`put`](Self::put), on a flow that is known. Without a lifetime: the default one.
    ///
    /// # Errors
    /// Completion and payload back: no room for another operation.
    #[inline(always)]
    pub fn put_to<S: Source>(
        &mut self,
        index: u32,
        now: Instant,
        payload: S,
        (completion, tag, lifetime): (C, u64, Option<Duration>),
        counters: &mut Counters,
    ) -> Result<(), (C, S)> {
        if self.shop.ops_in_use >= self.limits.ops_max {
            return Err((completion, payload));
        }
        let deadline = self.deadline(now, lifetime, payload.len());
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Err((completion, payload));
        };
        let meta = Meta { completion, tag, accepted_at: now, deadline };
        pair.out.put(now, shop, payload, meta);
        counters.messages_accepted += 1;
        if !pair.out.ready {
            pair.out.ready = true;
            self.ready.push_back(index);
        }
        Ok(())
    }

    /// As [`put`](Self::put), for a message with options.
    ///
    /// # Errors
    /// The submission back, as `put`.
    pub fn put_with_options(
        &mut self,
        now: Instant,
        submission: Submission<C>,
        lifetime: Duration,
        counters: &mut Counters,
    ) -> Result<(), Submission<C>> {
        if self.room() == 0 {
            return Err(submission);
        }
        let Some(index) = self.find_or_open(now, submission.to) else { return Err(submission) };
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Err(submission);
        };
        let Submission { payload, tag, options, completion, .. } = submission;
        let meta = Meta { completion, tag, accepted_at: now, deadline: now + lifetime };
        let is_control = options.as_ref().is_some_and(|options| options.priority == Priority::Control);
        pair.out.put_with_options(now, shop, Queued { meta, payload, options });
        counters.messages_accepted += 1;
        if is_control && !pair.out.ready {
            // Its flow does not wait for others' turns (R-PRIORITY-2).
            pair.out.ready = true;
            self.ready.push_front(index);
        }
        self.make_ready(index);
        Ok(())
    }

    /// Flows there are.
    #[cfg(test)]
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
    #[cfg(test)]
    #[must_use]
    pub fn asleep(&self) -> usize {
        self.asleep.iter().flatten().count()
    }

    /// The flow that messages to an address take, awake.
    #[cfg(test)]
    pub fn flow_to(&mut self, now: Instant, to: SocketAddr) -> Option<&mut Flow<C>> {
        let index = self.find_or_open(now, to)?;
        self.pair(index).map(|pair| &mut pair.out)
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

    fn find_or_open(&mut self, now: Instant, to: SocketAddr) -> Option<u32> {
        let index = match self.addresses.used(to) {
            Some(index) => {
                self.awake(now, index)?;
                index
            }
            None if self.is_closing(now, to) => return None,
            None => {
                let route = self.draw_route();
                let index = self.open(now, to, None, 0, route)?;
                self.addresses.set_used(to, index);
                index
            }
        };
        self.last = Some((to, index));
        Some(index)
    }

    /// A route whose answers come to this shard (R-FLOW-7).
    fn draw_route(&mut self) -> u8 {
        let shards = u32::from(self.place.shards);
        let routes = 256 / shards + u32::from(256 % shards > u32::from(self.place.shard));
        (self.rng.below(routes) * shards + u32::from(self.place.shard)) as u8
    }

    fn open(
        &mut self,
        now: Instant,
        to: SocketAddr,
        local: Option<IpAddr>,
        peer_tag: u64,
        route: u8,
    ) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.limits.flows_max.min(1 << INDEX_BITS) => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        let datagram_bytes = self.limits.datagram_bytes_to(to);
        let congestion = self.controller(datagram_bytes, u64::MAX);
        let chance = self.rng.next_u64() >> INDEX_BITS;
        // Never 0: that is what a first flight carries.
        let own_tag = (chance.max(1) << INDEX_BITS) | u64::from(index);
        let identity = Identity { to, local, own_tag, peer_tag, peer_epoch: 0, route };
        let [packet_base, message_base, chunked_base] = self.high_water;
        let nonce = self.rng.next_u64();
        let opening =
            Opening { identity, packet_base, message_base, chunked_base, datagram_bytes, congestion, nonce };
        let mut out = Flow::new(now, opening);
        if self.protection.is_some() {
            let random = random_bytes::<RANDOM_BYTES>(&mut self.rng);
            out.guard = Some(Box::new(Guard::new(random, self.limits.tag_bytes)));
        }
        out.lapses = self.wires.of(to) == Wire::Auto;
        if out.lapses && peer_tag == 0 {
            out.phase = Phase::Probing;
        }
        out.credit.messages = message_base + FIRST_MESSAGES - 1;
        out.credit.chunked = chunked_base + FIRST_CHUNKED - 1;
        self.slots[index as usize] = Some(Box::new(Pair { out, challenge: None }));
        self.timers.arm(index, now);
        Some(index)
    }

    /// A controller that starts with no more than `window_bytes_max`.
    fn controller(&self, datagram_bytes: usize, window_bytes_max: u64) -> Box<dyn CongestionControl> {
        // R-LOSS-8.
        let one = datagram_bytes as u64;
        let min_window_bytes = 4 * one;
        self.congestion.build(&CcConfig {
            initial_window_bytes: (INITIAL_WINDOW * one).min(window_bytes_max).max(min_window_bytes),
            min_window_bytes,
            max_window_bytes: WINDOW_BYTES_MAX,
            datagram_bytes: datagram_bytes as u32,
            fixed_window_bytes: 1_024 * one,
        })
    }

    /// The flow, awake.
    #[inline]
    fn awake(&mut self, now: Instant, index: u32) -> Option<&mut Pair<C>> {
        if self.slots.get(index as usize)?.is_none() {
            self.wake(now, index);
        }
        self.pair(index)
    }

    /// Wakes a flow that sleeps; its receiving half wakes when it is looked at. False: it does not sleep.
    #[cold]
    #[inline(never)]
    fn wake(&mut self, now: Instant, index: u32) -> bool {
        let Some(asleep) = self.asleep.get_mut(index as usize).and_then(Option::take) else { return false };
        let datagram_bytes = self.limits.datagram_bytes_to(asleep.identity.to);
        // RFC 5681 section 4.1: after a pause no more than at the start, nor than was allowed before it.
        let congestion = self.controller(datagram_bytes, asleep.window_bytes());
        let mut out = asleep.wake(now, datagram_bytes, congestion);
        out.lapses = self.wires.of(out.identity.to) == Wire::Auto;
        self.slots[index as usize] = Some(Box::new(Pair { out, challenge: None }));
        self.timers.arm_earlier(index, now + self.limits.sleeps_after);
        self.woken += 1;
        true
    }

    /// Keeps of a flow what has to outlive a pause, if nothing else is there (R-FLOW-14). False: something is.
    fn sleep(&mut self, now: Instant, index: u32, inflows: &mut Inflows, counters: &mut Counters) -> bool {
        let Some(slot) = self.slots.get_mut(index as usize) else { return false };
        let Some(mut pair) = slot.take_if(|pair| pair.out.may_sleep(now)) else { return false };
        pair.out.leave_rest(&mut self.shop);
        inflows.sleep(index);
        if self.asleep.len() <= index as usize {
            self.asleep.resize_with(index as usize + 1, || None);
        }
        self.asleep[index as usize] = Some(Box::new(pair.out.sleep()));
        if self.last.is_some_and(|(_, last)| last == index) {
            self.last = None;
        }
        counters.flows_slept += 1;
        true
    }

    fn sleeper(&self, index: u32) -> Option<&Asleep> {
        self.asleep.get(index as usize)?.as_deref()
    }

    fn pair(&mut self, index: u32) -> Option<&mut Pair<C>> {
        self.slots.get_mut(index as usize).and_then(Option::as_deref_mut)
    }

    #[inline]
    fn find_or_wake(&mut self, now: Instant, tag: u64) -> Result<u32, DropReason> {
        match self.find_tag(tag) {
            Some(index) => Ok(index),
            None => self.wake_tag(now, tag).ok_or(DropReason::BinaryUnknownTag),
        }
    }

    #[inline]
    fn find_tag(&self, tag: u64) -> Option<u32> {
        let index = (tag & ((1 << INDEX_BITS) - 1)) as u32;
        let pair = self.slots.get(index as usize)?.as_deref()?;
        (pair.out.identity.own_tag == tag).then_some(index)
    }

    /// As [`find_tag`](Self::find_tag), where the flow may sleep: it wakes.
    #[cold]
    #[inline(never)]
    fn wake_tag(&mut self, now: Instant, tag: u64) -> Option<u32> {
        let index = (tag & ((1 << INDEX_BITS) - 1)) as u32;
        (self.sleeper(index)?.identity.own_tag == tag && self.wake(now, index)).then_some(index)
    }

    fn make_ready(&mut self, index: u32) {
        if let Some(pair) = self.pair(index)
            && !pair.out.ready
        {
            pair.out.ready = true;
            self.ready.push_back(index);
        }
    }

    /// Forgets a flow whose operations have ended or gone elsewhere.
    fn remove(&mut self, index: u32, inflows: &mut Inflows) {
        let asleep = self.asleep.get_mut(index as usize).and_then(Option::take);
        let (to, next_numbers) = match (self.slots[index as usize].take(), asleep) {
            (Some(mut pair), _) => {
                // Operations have ended; datagrams that were lost may still have their memory.
                pair.out.end_transmitted(
                    &mut self.shop,
                    FailureCause::EngineStopped,
                    &mut Counters::default(),
                );
                (pair.out.identity.to, pair.out.next_numbers())
            }
            (None, Some(asleep)) => (asleep.identity.to, asleep.next_numbers()),
            (None, None) => return,
        };
        // R-ONCE-6.
        for (mark, next) in self.high_water.iter_mut().zip(next_numbers) {
            *mark = (*mark).max(next);
        }
        inflows.close(index);
        self.addresses.clear_used(to, index);
        self.last = None;
        self.unproven.retain(|&other| other != index);
        self.addresses.remove_beside(to, index);
        self.timers.disarm(index);
        self.free.push(index);
    }

    /// Ends a flow: what was transmitted ends with `cause`; what waits goes over to the one that messages to its address take,
    /// and if it is that one itself, to a new flow (R-RESTART-1, R-LOSS-9, R-MOVE-1).
    fn replace(
        &mut self,
        now: Instant,
        index: u32,
        cause: FailureCause,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(mut pair) = self.slots[index as usize].take() else { return };
        pair.out.end_transmitted(&mut self.shop, cause, counters);
        let identity = pair.out.identity;
        let waits = pair.out.has_waiting();
        let mut out = pair.out;
        // Back in its place, so that everything it holds is given back.
        let heir = match self.used_beside(identity.to, index) {
            _ if !waits => None,
            Some(heir) => Some(heir),
            None => {
                let route = self.draw_route();
                let heir = self.open(now, identity.to, identity.local, 0, route);
                if let Some(heir) = heir {
                    self.addresses.set_used(identity.to, heir);
                }
                heir
            }
        };
        match heir.and_then(|heir| self.awake(now, heir)) {
            Some(heir) => out.hand_over(&mut heir.out),
            None => out.end(&mut self.shop, cause, cause, counters),
        }
        self.slots[index as usize] = Some(Box::new(Pair { out, challenge: None }));
        self.remove(index, inflows);
        if let Some(heir) = heir {
            self.make_ready(heir);
        }
    }

    /// The flow that messages to an address take, if that is another one (R-MOVE-1).
    fn used_beside(&self, to: SocketAddr, index: u32) -> Option<u32> {
        self.addresses.used(to).filter(|&used| used != index)
    }

    /// All flows to an address of which it can say something: the one that messages take, and those beside it.
    fn flows_to(&self, addr: SocketAddr) -> impl Iterator<Item = u32> {
        self.addresses.used(addr).into_iter().chain(self.addresses.beside(addr))
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
        let Some(index) = self.addresses.used(to) else { return };
        if let Some(pair) = self.pair(index) {
            pair.out.identity.local = None;
        } else if let Some(Some(asleep)) = self.asleep.get_mut(index as usize) {
            asleep.identity.local = None;
        }
    }

    /// Ends every operation: the engine stops.
    pub fn stop(&mut self, counters: &mut Counters) {
        let Self { slots, shop, .. } = self;
        for pair in slots.iter_mut().flatten() {
            pair.out.end(shop, FailureCause::EngineStopped, FailureCause::EngineStopped, counters);
        }
    }

    /// Takes one datagram of the binary wire: whose it is, and whether it counts. What it brings then goes to
    /// [`Inflows::take`] and [`handle_feedback`](Self::handle_feedback), in this order; `None` if it brings nothing more.
    ///
    /// # Errors
    /// Why it had no effect.
    pub fn handle_datagram<'a>(
        &mut self,
        arriving: &Arriving<'a>,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let (header, frames) = binary::decode(arriving.datagram)?;
        self.handle_frames(arriving, &header, frames, inflows, batch, counters)
    }

    /// As [`handle_datagram`](Self::handle_datagram), where every datagram has to be sealed: it is opened in `opened`.
    ///
    /// # Errors
    /// Why it had no effect.
    pub fn handle_sealed<'a>(
        &mut self,
        arriving: &Arriving<'_>,
        opened: &'a mut Vec<u8>,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let sealed = binary::decode_sealed(arriving.datagram)?;
        let tag = sealed.header.tag;
        let index = if tag == 0 { None } else { Some(self.find_or_wake(arriving.now, tag)?) };
        opened.clear();
        opened.extend_from_slice(arriving.datagram);
        let Self { slots, protection, .. } = self;
        let out = index.and_then(|index| Some(&mut slots.get_mut(index as usize)?.as_deref_mut()?.out));
        let (header, frames) = match (out, protection) {
            // Under its keys nothing is old but what came in this flow before (R-PROT-4).
            (Some(Flow { phase: Phase::Open, guard: Some(guard), .. }), _) => guard.open(&sealed, opened)?,
            (_, Some(protection)) => guard::open_hello(&**protection, arriving.from, &sealed, opened)?,
            (_, None) => return Err(DropReason::BinaryUnauthentic),
        };
        self.handle_frames(arriving, &header, frames, inflows, batch, counters)
    }

    /// Whether every datagram has to be sealed (R-PROT-1).
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.protection.is_some()
    }

    /// Takes the frames of a datagram whose header is known.
    #[inline]
    fn handle_frames<'a>(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &'a [u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let summary = binary::check(frames)?;
        if header.tag == 0 {
            self.handle_first_flight(arriving, header, frames, inflows, batch, counters)?;
            return Ok(None);
        }
        let Ok(index) = self.find_or_wake(arriving.now, header.tag) else {
            self.answer_unknown(arriving, header, &summary, batch);
            return Err(DropReason::BinaryUnknownTag);
        };
        let now = arriving.now;
        let Some(pair) = self.pair(index) else { return Err(DropReason::BinaryUnknownTag) };
        if pair.out.phase != Phase::Open {
            self.handle_answer(index, arriving, header, frames, inflows)?;
            return Ok(None);
        }
        let Identity { to, peer_epoch, peer_tag, .. } = pair.out.identity;
        if header.epoch != peer_epoch {
            return Err(DropReason::LateEpoch);
        }
        if summary.has(Kind::Hello)
            && !binary::frames(frames)
                .any(|frame| matches!(frame, Ok(Frame::Hello(hello)) if hello.tag == peer_tag))
        {
            // Our HELLO came twice, late, and was taken for another flow's: the number is of that one (R-FLOW-3).
            return Err(DropReason::BinaryUnproven);
        }
        let eliciting = is_eliciting(&summary);
        let Some((inflow, in_shop)) = inflows.get(index) else { return Err(DropReason::BinaryUnknownTag) };
        let arrived = inflow.arrive(now, header.packet_number, &summary, eliciting, in_shop);
        let proven = pair.out.proven;
        if arrived.is_ok() && arriving.from == to {
            pair.out.heard_at = now;
            pair.out.suspended = false;
        }
        if eliciting {
            self.make_ready(index);
        }
        arrived?;
        if arriving.from != to {
            self.handle_moved(index, arriving, frames, inflows, batch, counters);
        } else if !proven {
            if let Some((proof, hello)) = self.pair(index).map(|pair| pair.out.proof)
                && proof == header.packet_number
            {
                self.pair(index).into_iter().for_each(|pair| pair.out.recovery.answered(now, hello));
            }
            self.prove(now, index, inflows, counters);
        }
        Ok(Some(Arrived { index, number: header.packet_number, from: to, frames, summary }))
    }

    /// A tag from another address: a peer behind a NAT that was given another port, or somebody who repeats what he saw.
    /// The flow moves when what we ask there comes back from there (R-MOVE-1).
    fn handle_moved(
        &mut self,
        index: u32,
        arriving: &Arriving<'_>,
        frames: &[u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) {
        let &Arriving { now, from, local, datagram } = arriving;
        if self.is_stranger(now, from) {
            // Whoever holds back a datagram of the peer's can send it on from the address of an original v1 peer.
            return self.probe_stranger(now, from, local, datagram.len(), batch);
        }
        let fresh = self.rng.next_u64();
        let lapses = self.wires.of(from) == Wire::Auto;
        let Some(pair) = self.pair(index) else { return };
        let before = pair.challenge.as_deref().filter(|challenge| challenge.to == from).copied();
        let asked = before.map(|challenge| challenge.data);
        let answered = binary::frames(frames)
            .any(|frame| matches!(frame, Ok(Frame::Pong { data }) if asked == Some(data)));
        if answered {
            let old = pair.out.identity.to;
            pair.out.identity.to = from;
            pair.out.identity.local = local;
            let asked_at = pair.challenge.take().map_or(now, |challenge| challenge.since);
            pair.out.lapses = lapses;
            pair.out.suspended &= lapses;
            if old.ip() != from.ip() {
                pair.out.path_changed();
            }
            if self.addresses.remove_beside(old, index) {
                self.addresses.add_beside(from, index);
            }
            if self.addresses.is_used(old, index) {
                self.addresses.clear_used(old, index);
                self.use_at_new_address(index, asked_at, inflows, counters);
            }
            self.last = None;
        } else if datagram.len() >= CHALLENGE_BYTES_MAX + pair.out.tag_bytes() {
            let pong = binary::frames(frames).flatten().find_map(|frame| match frame {
                Frame::Ping(ping) => Some(ping.data),
                _ => None,
            });
            let (data, since) = before.map_or((fresh, now), |challenge| (challenge.data, challenge.since));
            let challenge = Challenge { to: from, data, since, pong, due: true };
            pair.challenge = Some(Box::new(challenge));
            self.make_ready(index);
        }
    }

    /// A flow that messages took has moved: those to its new address take it, unless there is one that they take already. What
    /// is under way on that would be overtaken (R-MOVE-1). Who answered was `asked_at`.
    fn use_at_new_address(
        &mut self,
        index: u32,
        asked_at: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(pair) = self.pair(index) else { return };
        let to = pair.out.identity.to;
        if let Some(other) = self.addresses.used(to) {
            match self.pair(other).map(|pair| (pair.out.phase, pair.out.heard_at)) {
                // What waits there for an answer would be found by no row any more (R-FLOW-12).
                Some((Phase::Probing | Phase::Opening, _)) => self.merge(other, index, inflows),
                // Which of the two starts is the later one an answer tells that was not held back until that was heard.
                Some((Phase::Open, heard_at)) if heard_at < asked_at => {
                    self.end_if_restarted(other, index, inflows, counters);
                }
                Some((Phase::Open, _)) => {}
                // It sleeps: nothing is under way.
                None => {
                    self.addresses.set_used(to, index);
                    self.keep_beside(to, other);
                }
            }
        }
        match self.addresses.used(to) {
            Some(_) => self.keep_beside(to, index),
            None => self.addresses.set_used(to, index),
        }
        self.end_restarted_beside(index, asked_at, inflows, counters);
    }

    /// Messages to an address take another flow than that one: what is said to it from there finds it all the same.
    fn keep_beside(&mut self, to: SocketAddr, index: u32) {
        if !self.addresses.is_used(to, index) && !self.addresses.beside(to).any(|other| other == index) {
            self.addresses.add_beside(to, index);
        }
    }

    /// If a flow is to another start of its peer than `index` is, which has just shown that it is there, it ends
    /// (R-RESTART-1).
    fn end_if_restarted(&mut self, old: u32, index: u32, inflows: &mut Inflows, counters: &mut Counters) {
        let Some(peer_epoch) = self.pair(index).map(|pair| pair.out.identity.peer_epoch) else { return };
        let Self { slots, shop, .. } = self;
        if let Some(pair) = slots[old as usize].as_deref_mut()
            && pair.out.phase == Phase::Open
            && is_other_start(pair.out.identity.peer_epoch, peer_epoch)
        {
            let to = pair.out.identity.to;
            pair.out.end_transmitted(shop, FailureCause::PeerRestarted, counters);
            self.merge(old, self.used_beside(to, old).unwrap_or(index), inflows);
        }
    }

    /// As [`end_if_restarted`](Self::end_if_restarted), for what moved to that address and is not taken by messages any more, but
    /// has something under way yet (R-MOVE-1); unless it was heard since.
    fn end_restarted_beside(
        &mut self,
        index: u32,
        since: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(to) = self.pair(index).map(|pair| pair.out.identity.to) else { return };
        let beside: Vec<u32> = self.addresses.beside(to).filter(|&other| other != index).collect();
        for other in beside {
            if self.pair(other).is_some_and(|Pair { out, .. }| {
                out.proven && out.heard_at < since && !out.has_no_operations()
            }) {
                self.end_if_restarted(other, index, inflows, counters);
            }
        }
    }

    /// The peer proved its address (R-FLOW-5): answers to it use this flow (R-FLOW-6). If it is another incarnation than the
    /// one we talk to, that one is gone (R-RESTART-1).
    fn prove(&mut self, now: Instant, index: u32, inflows: &mut Inflows, counters: &mut Counters) {
        let Some(pair) = self.pair(index) else { return };
        pair.out.proven = true;
        let to = pair.out.identity.to;
        let peer_nonce = pair.out.peer_nonce;
        self.unproven.retain(|&other| other != index);
        let used = self.addresses.used(to);
        if let Some(old) = used {
            self.awake(now, old);
        }
        match used {
            // Both opened at once: of two HELLOs, the one with the larger nonce is kept by both sides (R-FLOW-4).
            Some(old) if old != index && self.gives_way(old, peer_nonce) => self.merge(old, index, inflows),
            Some(old) if old != index => self.end_if_restarted(old, index, inflows, counters),
            Some(_) => {}
            None => {
                self.addresses.set_used(to, index);
            }
        }
        self.end_restarted_beside(index, Instant::FAR_FUTURE, inflows, counters);
    }

    /// Whether a flow of ours that is not open yet makes way for one the peer opened with `peer_nonce`.
    fn gives_way(&mut self, index: u32, peer_nonce: u64) -> bool {
        self.pair(index).is_some_and(|pair| match pair.out.phase {
            Phase::Probing => true,
            Phase::Opening => pair.out.nonce < peer_nonce,
            Phase::Open => false,
        })
    }

    /// What waits for a flow goes over to another one of the same peer, and messages if they took it.
    fn merge(&mut self, from: u32, to: u32, inflows: &mut Inflows) {
        let Some(mut old) = self.slots[from as usize].take() else { return };
        if let Some(pair) = self.pair(to) {
            old.out.hand_over(&mut pair.out);
        }
        let addr = old.out.identity.to;
        let was_used = self.addresses.is_used(addr, from);
        self.slots[from as usize] = Some(old);
        self.remove(from, inflows);
        if was_used {
            self.addresses.set_used(addr, to);
        }
        self.make_ready(to);
    }

    /// What a datagram says about ours: `frames` are those that [`Inflows::take`] left.
    pub fn handle_feedback(
        &mut self,
        now: Instant,
        arrived: &Arrived<'_>,
        frames: &[u8],
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let &Arrived { index, number, ref summary, .. } = arrived;
        if !FEEDBACK.iter().any(|&kind| summary.has(kind)) {
            return;
        }
        let Self { slots, shop, timers, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return };
        let Some((inflow, in_shop)) = inflows.get(index) else { return };
        let out = &mut pair.out;
        let (mut closed, datagram_bytes) = (None, out.datagram_bytes());
        // R-OUTCOME-2: results before the acknowledgements of the same datagram.
        let results = summary.has(Kind::Result).then(|| binary::frames(frames)).into_iter().flatten();
        for frame in results.flatten() {
            if let Frame::Result(results) = frame {
                for entry in results.entries() {
                    out.handle_result(now, shop, entry, counters);
                }
            }
        }
        for frame in binary::frames(frames).flatten() {
            match frame {
                Frame::Ack(ack) => match out.handle_ack(now, shop, &ack, counters) {
                    Ok(()) => {
                        if inflow.results_heard(out.results_acked, in_shop)
                            && let Some(at) = inflow.timer_at(in_shop)
                        {
                            timers.arm_earlier(index, at);
                        }
                    }
                    Err(reason) => counters.drop_row(reason),
                },
                Frame::Grant(grant) => out.handle_grant(now, number, &grant),
                Frame::Low(low) => inflow.set_low(&low, in_shop),
                Frame::Cancel(cancel) => inflow.cancel(&cancel, in_shop, counters),
                Frame::Skip(skip) => inflow.skip(&skip, in_shop, counters),
                Frame::Ping(ping) => inflow.pong_due = Some(ping.data),
                Frame::Close(close) => closed = Some(close),
                _ => {}
            }
        }
        if out.datagram_bytes() != datagram_bytes {
            self.datagram_bytes = out.datagram_bytes();
        }
        self.make_ready(index);
        if let Some(close) = closed {
            self.handle_close(now, index, &close, inflows, counters);
        }
    }

    /// The peer takes nothing more on this flow. What it acknowledged and refused in the same datagram has ended before
    /// (R-CLOSE-3). It is not answered.
    fn handle_close(
        &mut self,
        now: Instant,
        index: u32,
        close: &CloseFrame,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return };
        pair.out.end_closed(shop, close, counters);
        let (to, proven) = (pair.out.identity.to, pair.out.proven);
        counters.closes_received += 1;
        self.remove(index, inflows);
        // Another flow may go there, of this start or already of the next one: it is told by itself.
        if proven && self.addresses.used(to).is_none() {
            // R-CLOSE-4, and with `auto` what the address proved is over (R-DISC-3).
            self.answered.remove(&to);
            if self.closing.len() >= REMEMBERED_MAX {
                self.closing.clear();
            }
            self.closing.insert(to, now + CLOSING_FOR);
        }
    }

    /// The engine stops: tells the peers of open, proven flows, with what is to be said about their messages if `feedback`
    /// (R-CLOSE-1), as many as the batch takes. False: all have been told.
    pub fn poll_closes(
        &mut self,
        now: Instant,
        feedback: bool,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> bool {
        let tag_bytes = self.limits.tag_bytes;
        while self.closed < self.slots.len() {
            if !takes_feedback(batch, 2, tag_bytes) {
                return true;
            }
            let index = self.closed as u32;
            self.closed += 1;
            let slept = self.sleeper(index).map(|asleep| (asleep.identity.to, asleep.vouched_at()));
            if slept.is_some_and(|(to, vouched_at)| {
                self.wires.of(to) != Wire::Auto || now.since(vouched_at) < PROVEN_FOR
            }) {
                self.wake(now, index);
            }
            let Self { slots, shop, .. } = self;
            let Some(out) = slots[index as usize].as_deref_mut().map(|pair| &mut pair.out) else { continue };
            // As for any other datagram of v2 (R-DISC-3, R-DISC-5).
            let permitted = !out.lapses || (!out.suspended && now.since(out.vouched_at()) < PROVEN_FOR);
            let Some((inflow, in_shop)) = inflows.get(index) else { continue };
            if out.phase != Phase::Open || !out.proven || !permitted {
                continue;
            }
            let bytes_max = FEEDBACK_BYTES_MAX.min(out.datagram_bytes() - HEADER_BYTES);
            let close = inflow.close_frame(STOPPED);
            let Identity { to, local, route, .. } = out.identity;
            batch.begin(to, local);
            let mut told = !feedback || slept.is_some();
            loop {
                let mut scratch = [0; FEEDBACK_BYTES_MAX];
                let mut writer = Writer::new(&mut scratch[..bytes_max]);
                let written = writer.close(&close);
                debug_assert!(written);
                let closes = told || inflow.write_feedback(now, &mut writer, in_shop, bytes_max).is_some();
                if !closes {
                    // No room beside it: it leaves before, as far as it fits a datagram.
                    writer = Writer::new(&mut scratch[..bytes_max]);
                    told = inflow.write_feedback(now, &mut writer, in_shop, bytes_max).is_some();
                    debug_assert!(told);
                }
                let bytes = writer.at();
                let frames = &scratch[..bytes];
                let packet_number = out.recovery.take_number(now, Fate::Done);
                let bytes = HEADER_BYTES + bytes + out.tag_bytes();
                let Some(space) = batch.push(route, bytes) else { return true };
                out.write_lone((shop.epoch, packet_number), space, |area| area.copy_from_slice(frames));
                if closes {
                    break;
                }
                counters.confirms_sent += 1;
            }
            counters.closes_sent += 1;
            if slept.is_some() {
                // There may be many: they are not all awake at once.
                self.sleep(now, index, inflows, counters);
            }
        }
        false
    }

    /// A HELLO of somebody new. Whatever he says, he gets back no more than he sent, and nothing of ours changes
    /// (R-FLOW-3).
    fn handle_first_flight(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &[u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let Arriving { now, from, local, datagram } = *arriving;
        let hello = match binary::frames(frames).next() {
            Some(Ok(Frame::Hello(hello))) => hello,
            // Whoever has the key can be made to send one that fits (R-PROT-6).
            Some(Ok(Frame::Reset { tag })) if !self.is_protected() => {
                return self.handle_reset(now, from, (tag, header.epoch), inflows, counters);
            }
            _ => return Err(DropReason::BinaryUnproven),
        };
        if !hello.versions.is_empty() && !hello.versions.contains(&VERSION) {
            return Err(DropReason::BinaryVersion);
        }
        let known = self.addresses.beside(from).find(|&index| {
            self.slots[index as usize]
                .as_deref()
                .is_some_and(|pair| !pair.out.proven && pair.out.identity.peer_tag == hello.tag)
        });
        // A cookie proves the address once: whoever heard a HELLO can say it again (R-DISC-2).
        let said = self.keyed(2, from, hello.nonce ^ hello.tag.rotate_left(32));
        let step = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        let has_cookie = hello.cookie.is_some_and(|cookie| self.is_cookie(now, from, cookie))
            && (known.is_some() || !self.spent.has(step, said));
        // A stranger may be an original v1 peer whose address somebody forged: one byte of ours would be its end
        // (R-DISC-3). A cookie is no proof while the address does not answer: it can be repeated.
        let stranger = self.is_stranger(now, from);
        if stranger && (!has_cookie || self.is_suspended(from)) {
            self.probe_stranger(now, from, local, datagram.len(), batch);
            return Err(DropReason::BinaryUnproven);
        }
        if self.is_protected() && self.is_own_hello(&hello) {
            return Err(DropReason::BinaryUnproven);
        }
        let index = match known {
            Some(index) => index,
            None => {
                // With `auto` who is no stranger has answered a probe. Who is sealed has the key, and a row would be plain.
                let shown = has_cookie || self.wires.of(from) == Wire::Auto || self.is_protected();
                if !shown && !self.takes_unshown(from) {
                    // No state, and less than came: the shortest HELLO has 77 bytes. He says it again, with the cookie
                    // (R-FLOW-12).
                    self.answer_discovery(now, (from, local), (header.route, hello.nonce), batch);
                    return Err(DropReason::BinaryUnproven);
                }
                if self.is_protected() && hello.random.is_none() {
                    return Err(DropReason::BinaryUnproven);
                }
                self.make_way(now, from, inflows, counters)?;
                let index =
                    self.open(now, from, local, hello.tag, header.route).ok_or(DropReason::BinaryUnproven)?;
                self.unproven.push(index);
                self.addresses.add_beside(from, index);
                if has_cookie {
                    self.spent.insert(said);
                }
                if let Some(pair) = self.pair(index) {
                    pair.out.phase = Phase::Open;
                    pair.out.identity.peer_epoch = header.epoch;
                    pair.out.peer_nonce = hello.nonce;
                    pair.out.set_peer_limits(hello.limits);
                }
                self.establish(index, &hello, false);
                inflows.open(index, now, &hello.bases);
                self.timers.arm(index, now + UNPROVEN_FOR);
                // Nothing of ours changes, nor is this flow used, until a datagram brings its tag back: a HELLO
                // can be an old one, and whoever sent it may have given it up.
                index
            }
        };
        let before = self.pair(index).map(|pair| (pair.out.hellos, pair.out.recovery.next_number()));
        self.send_hello(now, index, Some(header.packet_number), batch, datagram.len());
        if let Some(pair) = self.pair(index)
            && let Some((hellos, number)) = before.filter(|before| before.0 != pair.out.hellos)
        {
            // Said again, it measures nothing: which of the two was answered nobody knows.
            let proof = header.packet_number.wrapping_add(1);
            pair.out.proof = if hellos == 0 { (proof, number) } else { (u64::MAX, 0) };
        }
        Ok(())
    }

    /// Both HELLOs of a flow are known, `hello` is the peer's: its keys begin, if datagrams are sealed (R-PROT-3).
    fn establish(&mut self, index: u32, hello: &Hello<'_>, opener: bool) {
        let Self { slots, protection, shop, .. } = self;
        if let (Some(protection), Some(random)) = (protection, hello.random)
            && let Some(pair) = slots[index as usize].as_deref_mut()
            && let Flow { identity, nonce, guard: Some(guard), .. } = &mut pair.out
        {
            let (own, peer) = ((*nonce, shop.epoch), (hello.nonce, random));
            guard.establish(&**protection, identity, own, peer, opener);
        }
    }

    /// A HELLO of our own that somebody sent back to us: who answered it would talk to himself, and take his own messages
    /// for the peer's.
    fn is_own_hello(&self, hello: &Hello<'_>) -> bool {
        let index = (hello.tag & ((1 << INDEX_BITS) - 1)) as usize;
        let pair = self.slots.get(index).and_then(Option::as_deref);
        let awake = pair.map(|pair| (pair.out.identity.own_tag, pair.out.nonce));
        let asleep = self.sleeper(index as u32).map(|asleep| (asleep.identity.own_tag, asleep.nonce));
        awake.or(asleep) == Some((hello.tag, hello.nonce))
    }

    /// Whether a HELLO that shows no cookie is taken up all the same: while they are few, a handshake costs one round trip.
    fn takes_unshown(&self, from: SocketAddr) -> bool {
        let of_address = self.addresses.beside(from);
        let is_unproven =
            |index: &u32| self.slots[*index as usize].as_deref().is_some_and(|pair| !pair.out.proven);
        self.unproven.len() < UNSHOWN_MAX && of_address.filter(is_unproven).count() < UNSHOWN_OF_ADDRESS_MAX
    }

    /// Room for another flow that `from` opens (R-FLOW-5, R-FLOW-13): the oldest unproven one goes, or of the address the
    /// one that has rested longest.
    fn make_way(
        &mut self,
        now: Instant,
        from: SocketAddr,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let gives_way = if self.addresses.beside(from).count() >= FLOWS_OF_ADDRESS_MAX {
            let used = self.addresses.used(from);
            let rested = |&index: &u32| match self.slots[index as usize].as_deref() {
                Some(Pair { out, .. }) => (out.proven, out.is_idle() || !out.proven, out.heard_at),
                None => (true, true, self.sleeper(index).map_or(now, |asleep| asleep.heard_at)),
            };
            let rests = |index: &u32| {
                let (proven, idle, heard_at) = rested(index);
                used != Some(*index) && idle && (!proven || now.since(heard_at) >= KEPT_FOR_MIN)
            };
            let own = self.addresses.beside(from);
            Some(own.filter(rests).min_by_key(rested).ok_or(DropReason::BinaryUnproven)?)
        } else if self.unproven.len() >= UNPROVEN_MAX {
            self.unproven.first().copied()
        } else {
            None
        };
        if let Some(index) = gives_way {
            counters.flows_evicted += 1;
            if let Some(pair) = self.slots[index as usize].as_deref_mut() {
                pair.out.end(&mut self.shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
            }
            self.remove(index, inflows);
        }
        Ok(())
    }

    /// Says HELLO, and twice what was not answered: the next wait is twice as long (RFC 9002 section 6.2.4). False if the batch
    /// is full.
    fn send_first_hello(&mut self, now: Instant, index: u32, batch: &mut TrainBatch) -> bool {
        let again = self.pair(index).is_some_and(|pair| pair.out.hellos > 0);
        if !self.send_hello(now, index, None, batch, usize::MAX) {
            return false;
        }
        if again && let Some(pair) = self.pair(index) {
            pair.out.hellos -= 1; // The second one is no more than the first: it counts once.
            if !self.send_hello(now, index, None, batch, usize::MAX)
                && let Some(pair) = self.pair(index)
            {
                pair.out.hellos += 1;
            }
        }
        true
    }

    /// Writes our HELLO into the batch: at most `bytes_max` bytes; one that answers acknowledges what it answers. False if the
    /// batch is full.
    fn send_hello(
        &mut self,
        now: Instant,
        index: u32,
        answers: Option<u64>,
        batch: &mut TrainBatch,
        bytes_max: usize,
    ) -> bool {
        let (epoch, shards) = (self.shop.epoch, self.place.shards as u8);
        let limits = self.limits;
        let Some(pair) = self.slots[index as usize].as_deref_mut() else { return true };
        let out = &mut pair.out;
        let [packet_number, messages, chunked] = out.next_numbers();
        let number = out.recovery.take_number(now, Fate::Done);
        let hello = Hello {
            // An answer is of the version it has in its header: what it acknowledges takes this place, too.
            versions: if answers.is_some() { &[] } else { &[VERSION] },
            tag: out.identity.own_tag,
            nonce: out.nonce,
            echo: answers.map(|_| out.peer_nonce),
            bases: Bases { packet_number, messages, chunked },
            limits: Some(Limits {
                message_bytes_max: limits.message_bytes_max,
                datagram_bytes_max: (limits.datagram_bytes_max - limits.tag_bytes) as u16,
            }),
            dedup_ms: None,
            shards: Some(shards),
            cookie: Some(out.cookie),
            random: out.guard.as_ref().map(|guard| guard.random()),
        };
        // A first HELLO is as long as its answer: nobody is made to send more than he got (R-FLOW-3).
        let bytes = HEADER_BYTES + FIRST_FLIGHT_BYTES + guard::hello_bytes(self.protection.as_deref());
        if bytes > bytes_max {
            return true;
        }
        batch.begin(out.identity.to, out.identity.local);
        let Some(space) = batch.push(out.identity.route, bytes) else { return false };
        let header = Header {
            route: out.identity.route,
            epoch,
            packet_number: number,
            tag: out.identity.peer_tag,
            sent_at: None,
        };
        binary::write(space, &header);
        let write = |area: &mut [u8]| {
            let mut writer = Writer::new(area);
            let written =
                writer.hello(&hello) && answers.is_none_or(|number| writer.ack(0, [(number, number)], None));
            debug_assert!(written);
            writer.pad();
        };
        match &self.protection {
            None => {
                write(&mut space[HEADER_BYTES..]);
                binary::seal(space);
            }
            Some(protection) => {
                let salt = random_bytes::<SALT_BYTES>(&mut self.rng);
                guard::seal_hello(&**protection, out.identity.to, &salt, space, write);
            }
        }
        out.hellos += 1;
        let wait = self.shop.retries.hello_wait(out.identity.to, out.hellos);
        out.hello_at = now + wait;
        self.timers.arm_earlier(index, now + wait);
        true
    }

    /// The answer to our HELLO (R-FLOW-3).
    fn handle_answer(
        &mut self,
        index: u32,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &[u8],
        inflows: &mut Inflows,
    ) -> Result<(), DropReason> {
        let now = arriving.now;
        let Some(pair) = self.pair(index) else { return Err(DropReason::BinaryUnknownTag) };
        let mut frames = binary::frames(frames);
        let Some(Ok(Frame::Hello(hello))) = frames.next() else {
            return Err(DropReason::BinaryUnproven);
        };
        if pair.out.phase != Phase::Opening
            || hello.echo != Some(pair.out.nonce)
            || arriving.from != pair.out.identity.to
            || pair.out.guard.is_some() != hello.random.is_some()
        {
            return Err(DropReason::BinaryUnproven);
        }
        pair.out.identity.peer_tag = hello.tag;
        pair.out.identity.peer_epoch = header.epoch;
        pair.out.identity.local = arriving.local;
        pair.out.set_peer_limits(hello.limits);
        pair.out.phase = Phase::Open;
        pair.out.proven = true;
        pair.out.heard_at = now;
        // Which of our HELLOs was answered: without that, one that was said again measures nothing (RFC 6298 section 3).
        if let Some(Ok(Frame::Ack(ack))) = frames.next() {
            pair.out.recovery.answered(now, ack.largest());
        }
        // The first datagram under the new tag proves us, and brings the first grant.
        pair.out.want_ping();
        self.datagram_bytes = pair.out.datagram_bytes();
        self.establish(index, &hello, true);
        inflows.open(index, now, &hello.bases);
        if let Some((inflow, in_shop)) = inflows.get(index) {
            // Its number counts as received; it asks for nothing.
            let nothing = binary::Summary::default();
            let _ = inflow.arrive(now, header.packet_number, &nothing, false, in_shop);
        }
        self.make_ready(index);
        Ok(())
    }

    /// A peer says that it does not know our flow any more. Believed only with the tag that nobody else can know
    /// (R-RESTART-3).
    fn handle_reset(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (tag, epoch): (u64, u32),
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let named = self.flows_to(from).find(|&index| match self.slots[index as usize].as_deref() {
            Some(Pair { out, .. }) => out.phase == Phase::Open && out.proven && out.identity.peer_tag == tag,
            None => self.sleeper(index).is_some_and(|asleep| asleep.identity.peer_tag == tag),
        });
        let Some(index) = named else { return Err(DropReason::BinaryUnknownTag) };
        let Some(pair) = self.awake(now, index) else { return Err(DropReason::BinaryUnknownTag) };
        let restarted = is_other_start(pair.out.identity.peer_epoch, epoch);
        let cause = if restarted { FailureCause::PeerRestarted } else { FailureCause::TimedOut };
        if !restarted {
            // It heard nothing on this flow for longer than that before it forgot it.
            let since = Instant::from_ns(now.as_ns().saturating_sub(KEPT_FOR_MIN.as_nanos() as u64));
            let Self { slots, shop, .. } = self;
            if let Some(pair) = slots[index as usize].as_deref_mut() {
                pair.out.take_back(now, shop, since);
            }
        }
        self.replace(now, index, cause, inflows, counters);
        Ok(())
    }

    /// A tag nobody knows: the sender may talk to an earlier start of ours. He is told, if it costs no more than he sent
    /// (R-RESTART-2).
    fn answer_unknown(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        summary: &binary::Summary,
        batch: &mut TrainBatch,
    ) {
        const BYTES: usize = HEADER_BYTES + binary::FRAME_BYTES + 8;
        if summary.has(Kind::Close) {
            return; // It knows that the flow is over (R-CLOSE-2).
        }
        if self.is_stranger(arriving.now, arriving.from) {
            // Not a byte of the binary wire to a stranger; he may be asked with a row.
            let Arriving { now, from, local, datagram } = *arriving;
            if is_eliciting(summary) {
                self.probe_stranger(now, from, local, datagram.len(), batch);
            }
            return;
        }
        // A RESULT, too, is the answer to something.
        let asks = is_eliciting(summary) && !summary.has(Kind::Result);
        if arriving.datagram.len() <= BYTES || !asks || !self.resets.has(arriving.now) {
            return;
        }
        batch.begin(arriving.from, arriving.local);
        let Some(space) = batch.push(header.route, BYTES) else { return };
        self.resets.spend();
        let own =
            Header { route: header.route, epoch: self.shop.epoch, packet_number: 0, tag: 0, sent_at: None };
        binary::write(space, &own);
        Writer::new(&mut space[HEADER_BYTES..]).reset(header.tag);
        binary::seal(space);
    }

    /// A keyed number that nobody else can make: 64 bits of `purpose`, address and time.
    fn keyed(&self, purpose: u8, addr: SocketAddr, bucket: u64) -> u64 {
        let mut hasher = self.secret;
        (purpose, addr, bucket).hash(&mut hasher);
        hasher.finish()
    }

    /// What an address has to show in a first datagram, to prove that it receives there.
    fn cookie(&self, now: Instant, addr: SocketAddr) -> u64 {
        self.keyed(0, addr, now.as_ns() >> COOKIE_BUCKET_SHIFT)
    }

    fn is_cookie(&self, now: Instant, addr: SocketAddr, cookie: u64) -> bool {
        let bucket = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        [bucket, bucket.wrapping_sub(1)].iter().any(|&bucket| cookie == self.keyed(0, addr, bucket))
    }

    /// Whether an address without a flow must not be sent a byte of the binary wire: it may be an original v1 peer's.
    fn is_stranger(&self, now: Instant, addr: SocketAddr) -> bool {
        let answered = self.answered.get(&addr).is_some_and(|&until| until > now);
        self.wires.of(addr) == Wire::Auto && (!answered || self.is_suspended(addr))
    }

    /// Whether the flow to an address rests until somebody there answers a row.
    fn is_suspended(&self, addr: SocketAddr) -> bool {
        let index = self.addresses.used(addr);
        let pair = index.and_then(|index| self.slots.get(index as usize)?.as_deref());
        pair.is_some_and(|pair| pair.out.suspended)
    }

    /// What is known of an address of `auto`, without asking.
    pub fn standing(&mut self, now: Instant, to: SocketAddr) -> Standing {
        let index = match self.last {
            Some((last, index)) if last == to => Some(index),
            _ => self.addresses.used(to),
        };
        let Some(pair) = index.and_then(|index| self.awake(now, index)) else {
            let plain = self.plain.get(&to).is_some_and(|&until| until > now);
            return match self.is_closing(now, to) {
                true => Standing::Closing,
                false if plain => Standing::Plain,
                false => Standing::Unknown,
            };
        };
        let out = &mut pair.out;
        if out.phase == Phase::Open && now.since(out.vouched_at()) >= PROVEN_FOR {
            out.suspend(now);
        }
        if out.suspended || out.phase == Phase::Probing { Standing::Unknown } else { Standing::Engine }
    }

    /// Whether an address without a flow said a moment ago that it takes nothing more (R-CLOSE-4).
    #[must_use]
    pub fn is_closing(&self, now: Instant, to: SocketAddr) -> bool {
        !self.closing.is_empty() && self.closing.get(&to).is_some_and(|&until| until > now)
    }

    /// Asks an address what it is, unless that is under way.
    pub fn ask(&mut self, now: Instant, to: SocketAddr) {
        if let Some(index) = self.find_or_open(now, to) {
            self.make_ready(index);
        }
    }

    /// Takes a discovery row (R-DISC-2).
    pub fn handle_discovery(
        &mut self,
        now: Instant,
        (from, local): (SocketAddr, Option<IpAddr>),
        row: &Discovery,
        batch: &mut TrainBatch,
    ) {
        let DiscoveryKind::Answer { cookie } = row.kind else {
            batch.begin(from, local);
            let kind = DiscoveryKind::Answer { cookie: self.cookie(now, from) };
            if let Some(space) = batch.push(row.id as u8, DISCOVERY_ROW_BYTES) {
                csv::encode_discovery(space, &Discovery { kind, ..*row });
            }
            return;
        };
        let bucket = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        if row.nonce == self.keyed(1, from, bucket)
            || row.nonce == self.keyed(1, from, bucket.wrapping_sub(1))
        {
            if self.answered.len() >= REMEMBERED_MAX {
                self.answered.clear();
            }
            self.answered.insert(from, now + PROVEN_FOR);
            return;
        }
        let asked = |&index: &u32| {
            self.slots[index as usize].as_deref().is_some_and(|pair| pair.out.nonce == row.nonce)
        };
        let Some(index) = self.flows_to(from).find(asked) else { return };
        let Some(pair) = self.pair(index) else { return };
        let out = &mut pair.out;
        if out.phase == Phase::Opening && out.cookie != cookie {
            // Our HELLO is to be said again, with that (R-FLOW-12).
            out.cookie = cookie;
            out.hellos = 0;
            out.hello_at = now;
            return self.make_ready(index);
        }
        if !(out.phase == Phase::Probing || out.suspended) {
            return;
        }
        out.cookie = cookie;
        out.permitted_at = now;
        out.hellos = 0;
        out.hello_at = now;
        if out.phase == Phase::Probing {
            out.phase = Phase::Opening;
            out.opened_at = now;
        } else {
            // It speaks the binary wire; whether it still knows this flow, its answer under the tag will tell.
            out.want_ping();
        }
        out.suspended = false;
        self.make_ready(index);
    }

    /// A row that answers a HELLO with nothing but the cookie for its address.
    fn answer_discovery(
        &mut self,
        now: Instant,
        (from, local): (SocketAddr, Option<IpAddr>),
        (route, nonce): (u8, u64),
        batch: &mut TrainBatch,
    ) {
        let id = (self.rng.next_u64() & !0xff) | u64::from(route);
        let asked = Discovery { id, nonce, kind: DiscoveryKind::Probe };
        self.handle_discovery(now, (from, local), &asked, batch);
    }

    /// Asks a stranger who sent a datagram of the binary wire: with a row, no longer than what he sent, and not often
    /// (R-DISC-4).
    fn probe_stranger(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: Option<IpAddr>,
        bytes_max: usize,
        batch: &mut TrainBatch,
    ) {
        if bytes_max < DISCOVERY_ROW_BYTES || !self.resets.has(now) {
            return;
        }
        batch.begin(from, local);
        let nonce = self.keyed(1, from, now.as_ns() >> COOKIE_BUCKET_SHIFT);
        let route = self.draw_route();
        let id = (self.rng.next_u64() & !0xff) | u64::from(route);
        if let Some(space) = batch.push(route, DISCOVERY_ROW_BYTES) {
            self.resets.spend();
            csv::encode_discovery(space, &Discovery { id, nonce, kind: DiscoveryKind::Probe });
        }
    }

    /// Messages that are not to wait for a flow any longer.
    pub const fn spilled(&mut self) -> &mut Vec<Spilled<C>> {
        &mut self.spilled
    }

    /// Writes a probe of a flow's peer. False if the batch is full.
    fn send_probe(&mut self, now: Instant, index: u32, batch: &mut TrainBatch) -> bool {
        let Some(pair) = self.pair(index) else { return true };
        let out = &mut pair.out;
        let Identity { to, local, route, .. } = out.identity;
        let id = (out.nonce.rotate_left(29) & !0xff) | u64::from(route);
        batch.begin(to, local);
        let Some(space) = batch.push(route, DISCOVERY_ROW_BYTES) else { return false };
        csv::encode_discovery(space, &Discovery { id, nonce: out.nonce, kind: DiscoveryKind::Probe });
        out.hellos += 1;
        out.hello_at = now + PROBE_WAIT.saturating_mul(1 << (out.hellos - 1).min(8));
        let at = out.hello_at;
        self.timers.arm_earlier(index, at);
        true
    }

    /// A probe has not been answered in time: text goes as rows, and after the last one everything is decided (R-DISC-6).
    /// False if the flow is gone.
    fn handle_silence(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) -> bool {
        let Some(pair) = self.pair(index) else { return false };
        let to = pair.out.identity.to;
        if let Some(heir) = self.used_beside(to, index) {
            return self.handle_silence_beside(now, index, heir, inflows, counters);
        }
        let Self { slots, shop, spilled, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_deref_mut) else { return false };
        let out = &mut pair.out;
        let last = out.hellos >= PROBES_MAX;
        let since = out.opened_at;
        out.take_waiting(
            |Queued { meta, payload, options }| {
                shop.ops_in_use -= 1;
                spilled.push(Spilled { to, payload, options, meta, since });
            },
            |Queued { payload, options, .. }| {
                let binary_only = options.as_deref().is_some_and(|options| needs_binary(options).is_some());
                last || (!binary_only && simdutf8::basic::from_utf8(payload).is_ok())
            },
        );
        if !last {
            return true;
        }
        let plain = has_confirmed(to, out.probed_at);
        if out.phase == Phase::Open && !plain && now.since(out.heard_at) < self.limits.give_up_after {
            return true; // Silent, but nobody else has answered in its place: it is asked on.
        }
        let cause = if plain { FailureCause::PeerRestarted } else { FailureCause::TimedOut };
        out.end_transmitted(shop, cause, counters);
        if self.plain.len() >= REMEMBERED_MAX {
            self.plain.clear();
        }
        self.plain.insert(to, now + PLAIN_FOR);
        self.remove(index, inflows);
        false
    }

    /// As [`handle_silence`](Self::handle_silence), of a flow beside the one that messages to its address take: who is there, and
    /// what becomes of what waits, that one finds out (R-MOVE-1).
    fn handle_silence_beside(
        &mut self,
        now: Instant,
        index: u32,
        heir: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> bool {
        let Some(pair) = self.pair(index) else { return false };
        if pair.out.hellos < PROBES_MAX || now.since(pair.out.heard_at) < self.limits.give_up_after {
            return true;
        }
        let _ = self.awake(now, heir);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return false };
        pair.out.end_transmitted(shop, FailureCause::TimedOut, counters);
        self.merge(index, heir, inflows);
        false
    }

    /// Datagrams of a train did not leave: the socket was full.
    pub fn handle_unsent(&mut self, origin: Origin, segments: usize) {
        if let Some(pair) = self.pair(origin.flow) {
            pair.out.handle_unsent(origin.number, segments);
        }
        self.make_ready(origin.flow);
    }

    /// Datagrams of a train did not leave: they are longer than the interface takes (R-MTU-5). False if that cannot be helped.
    /// Sealed ones may have waited for the socket until nobody waited for them any more.
    pub fn handle_too_long(
        &mut self,
        now: Instant,
        origin: Origin,
        (segments, bytes): (usize, usize),
        counters: &mut Counters,
    ) -> bool {
        let Some(pair) = self.pair(origin.flow) else { return true };
        // Numbers never come again in this place (R-ONCE-6).
        if pair.out.recovery.get(origin.number).is_none() {
            return true;
        }
        let bytes = bytes - pair.out.tag_bytes();
        if !pair.out.handle_too_long(now, origin.number, segments, bytes, counters) {
            return false;
        }
        self.datagram_bytes = pair.out.datagram_bytes();
        self.make_ready(origin.flow);
        true
    }

    /// Bytes of the longest datagram that goes to the peer for whom that was found out, or changed, last; 0: there was none.
    #[must_use]
    pub const fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// The socket may have more: the [`timers`](Self::handle_timers) of this turn come before what it is.
    pub const fn set_unread(&mut self, unread: bool) {
        self.unread = unread;
    }

    /// Retransmissions, deadlines, handshakes, flows nobody uses.
    pub fn handle_timers(
        &mut self,
        now: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) {
        counters.flows_woken += std::mem::take(&mut self.woken);
        if !self.unread {
            self.shop.heard_until = now;
        }
        self.timers.advance(now);
        while let Some(index) = self.timers.pop_due() {
            self.handle_timer(now, index, inflows, counters, has_confirmed);
        }
        while !self.probing.is_empty() && self.shop.probes.has(now) {
            let Some(index) = self.probing.pop_front() else { break };
            if let Some(pair) = self.pair(index) {
                pair.out.recovery.resume_probe();
                self.handle_timer(now, index, inflows, counters, has_confirmed);
            }
        }
        if std::mem::take(&mut self.shop.released) {
            let mut starved = std::mem::take(&mut self.starved);
            for index in starved.drain(..) {
                if let Some(pair) = self.pair(index) {
                    pair.out.starved = false;
                }
                self.make_ready(index);
            }
            self.starved = starved; // Its memory.
        }
    }

    fn handle_timer(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) {
        if let Some(pair) = self.pair(index)
            && (pair.out.phase == Phase::Probing || pair.out.suspended)
            && pair.out.hellos > 0
            && pair.out.hello_at <= now
            && !self.handle_silence(now, index, inflows, counters, has_confirmed)
        {
            return;
        }
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_deref_mut) else {
            return self.handle_timer_asleep(now, index, inflows);
        };
        let out = &mut pair.out;
        let datagram_bytes = out.datagram_bytes();
        let waited = out.recovery.probe_waits();
        let mut ready = out.handle_timers(now, shop, counters);
        if out.recovery.probe_waits() && !waited {
            self.probing.push_back(index);
        }
        if out.datagram_bytes() != datagram_bytes {
            self.datagram_bytes = out.datagram_bytes();
        }
        let mut watched = None;
        if let Some((inflow, in_shop)) = inflows.get(index) {
            counters.partials_expired += inflow.handle_timer(now, in_shop);
            ready |= inflow.ack_due;
            watched = inflow.timer_at(in_shop);
        }
        if out.phase == Phase::Probing {
            if out.is_idle() && out.hellos >= PROBES_MAX {
                return self.remove(index, inflows);
            }
            ready |= out.hello_at <= now;
        } else if out.suspended {
            ready |= out.hello_at <= now;
        } else if out.phase == Phase::Opening {
            if now.since(out.opened_at) >= self.limits.give_up_after {
                out.end(shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
                return self.remove(index, inflows);
            }
            // Nothing waits for it any more; but what was asked may be answered yet.
            if out.is_idle() && out.hellos > 0 && out.hello_at <= now {
                return self.remove(index, inflows);
            }
            ready |= out.hello_at <= now;
        } else if !out.proven && now.since(out.opened_at) >= UNPROVEN_FOR {
            out.end(shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
            return self.remove(index, inflows);
        } else if out.recovery.probes() > 0
            && now.since(out.heard_at.max(out.asked_at)) >= self.limits.give_up_after
        {
            if out.has_no_operations() {
                // Only results of ours were not heard of. The peer may be there all the same, and take it for a restart if
                // we forgot what came from it.
                out.end_transmitted(shop, FailureCause::TimedOut, counters);
                // What was given up may be unknown to the receiver: nothing comes behind it in a lane (R-LANE-3).
                out.forget_lanes();
                out.recovery.forget_probes();
                if let Some((inflow, _)) = inflows.get(index) {
                    inflow.ack_due = false; // Whoever asks again is answered.
                }
                return self.arm(now, index, watched);
            }
            // Nobody there any more. What was never sent may find somebody through another handshake (R-LOSS-9).
            return self.replace(now, index, FailureCause::TimedOut, inflows, counters);
        } else if out.is_idle() && now.since(out.heard_at) >= IDLE {
            return self.remove(index, inflows);
        } else if out.is_idle() {
            out.rest(now, shop);
            if now.since(out.heard_at) >= IDLE / 2 && self.addresses.is_used(out.identity.to, index) {
                // Nothing more is sent on it: the peer may forget it before we do.
                self.addresses.clear_used(out.identity.to, index);
                self.last = None;
            }
            let quiet = self.limits.sleeps_after;
            if !ready
                && now.since(out.heard_at) >= quiet
                && inflows.may_sleep(index, now, quiet)
                && self.sleep(now, index, inflows, counters)
            {
                return self.handle_timer_asleep(now, index, inflows);
            }
        }
        if ready {
            self.make_ready(index);
        }
        self.arm(now, index, watched);
    }

    /// Forgets a flow that has slept for long enough (R-FLOW-10).
    fn handle_timer_asleep(&mut self, now: Instant, index: u32, inflows: &mut Inflows) {
        let Some(asleep) = self.sleeper(index) else { return };
        let (to, heard_at) = (asleep.identity.to, asleep.heard_at);
        let quiet = now.since(heard_at);
        if quiet >= IDLE {
            return self.remove(index, inflows);
        }
        if quiet >= IDLE / 2 {
            // As for one that is awake.
            self.addresses.clear_used(to, index);
        }
        self.timers.arm(index, self.forgets_at(now, index, to, heard_at));
    }

    /// When a flow without anything under way is to be looked at: it is not used, or not known, any more.
    fn forgets_at(&self, now: Instant, index: u32, to: SocketAddr, heard_at: Instant) -> Instant {
        let idle = if self.addresses.is_used(to, index) { IDLE / 2 } else { IDLE };
        (heard_at + idle).max(now + LOOKS_EVERY)
    }

    /// Sets the timer of a flow to whatever is due first.
    fn arm(&mut self, now: Instant, index: u32, watched: Option<Instant>) {
        let Some(pair) = self.slots[index as usize].as_deref() else { return };
        let out = &pair.out;
        let mut at = if out.phase != Phase::Open || out.suspended {
            out.hello_at
        } else if !out.proven {
            out.opened_at + UNPROVEN_FOR
        } else {
            // If something keeps it awake then, it is not looked at for that: nobody is woken for nothing.
            let sleeps_at = Some(out.heard_at + self.limits.sleeps_after).filter(|&at| at > now);
            let forgets_at = self.forgets_at(now, index, out.identity.to, out.heard_at);
            sleeps_at.map_or(forgets_at, |at| at.min(forgets_at))
        };
        if let Some(due) = out.timer_at(now) {
            at = at.min(due);
        }
        if let Some(due) = watched {
            at = at.min(due);
        }
        self.timers.arm(index, at);
    }

    /// When [`handle_timers`](Self::handle_timers) has something to do without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let probes = (!self.probing.is_empty()).then(|| self.shop.probes.next_at());
        self.timers.next_deadline().into_iter().chain(probes).min()
    }

    /// Some flow has something to send now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Hands over what may be sent now, each flow in turn, until nothing is left or the batch is full.
    pub fn poll(
        &mut self,
        now: Instant,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) {
        self.shop.turn_bytes = 0;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { return };
            if let Some(pair) = self.pair(index) {
                pair.out.ready = false;
                if !self.visit(now, index, inflows, batch, counters) {
                    self.make_ready(index);
                    return;
                }
            }
        }
    }

    /// One flow's datagrams of this turn. False if the batch is full: what did not leave is as due as before.
    fn visit(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> bool {
        let Self { slots, shop, timers, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return true };
        if pair.out.phase != Phase::Open || pair.out.suspended {
            let left = match pair.out.phase {
                _ if pair.out.hello_at > now => true,
                Phase::Opening => self.send_first_hello(now, index, batch),
                Phase::Probing | Phase::Open => self.send_probe(now, index, batch),
            };
            if !left {
                return false;
            }
            // Deadlines of what waits.
            if let Some(at) = self.slots[index as usize].as_deref().and_then(|pair| pair.out.timer_at(now)) {
                self.timers.arm_earlier(index, at);
            }
            return true;
        }
        let Pair { out, challenge } = pair;
        let blocked = if out.proven { out.fill(now, shop, counters) } else { Blocked::Empty };
        let waiting = if matches!(blocked, Blocked::Credit) { out.demand() } else { 0 };
        if matches!(blocked, Blocked::Credit) && out.recovery.in_flight_packets() == 0 && !out.has_open() {
            // Nobody will tell us of more credit unless we ask (R-CREDIT-5).
            out.ask_for_credit(now);
        }
        out.write_control(shop, now, waiting);
        let mut lone = None;
        let mut watched = None;
        let whole = out.datagram_bytes() - HEADER_BYTES;
        if let Some((inflow, in_shop)) = inflows.get(index)
            && let again = out.take_results_again()
            && (inflow.has_feedback(in_shop) || again)
        {
            // As many as fit are under way, and the rest waits for them to be heard of (R-MTU-9): said once more at every
            // turn, they would put off the timeout that ends it if nobody hears.
            let waits =
                !again && inflow.cut_results(in_shop, whole).is_some_and(|ticket| out.has_tracked(ticket));
            // One datagram that is watched will do; the results ride with all others, too (R-OUTCOME-4).
            let must_track =
                !waits && inflow.last_result(in_shop).is_some_and(|ticket| again || !out.has_tracked(ticket));
            let mut rides = waits
                || (out.has_open() || (must_track && out.open_for_control(now, shop)))
                    && out.ride_along(shop, |writer| inflow.write_feedback(now, writer, in_shop, whole));
            if !rides && must_track && out.has_open() {
                // No room in that one.
                out.finish_turn(now, shop);
                rides = out.open_for_control(now, shop)
                    && out.ride_along(shop, |writer| inflow.write_feedback(now, writer, in_shop, whole));
            }
            if rides {
                watched = inflow.timer_at(in_shop);
            } else {
                lone = Some((inflow, in_shop, must_track, again));
            }
        }
        out.finish_turn(now, shop);
        if let Some(at) = watched {
            timers.arm_earlier(index, at);
        }
        if out.proven {
            out.probe_path(now, shop, counters);
        }
        let Identity { to, local, route, .. } = out.identity;
        batch.begin(to, local);
        while let Some((number, start, bytes)) = out.next_unsent(&shop.pool) {
            let origin = Origin { flow: index, number };
            let pushed = match &mut out.guard {
                None => batch.push_kept(origin, start, bytes),
                // What is kept stays plain; a copy is sealed. What a full socket does not take of those stays in the batch.
                Some(guard) => match batch.push_sealed(origin, route, bytes + guard.tag_bytes()) {
                    Some(space) => {
                        space[..bytes].copy_from_slice(shop.pool.piece(start, bytes));
                        guard.seal(number, space);
                        true
                    }
                    None => false,
                },
            };
            if !pushed {
                if let Some((inflow, _, _, again)) = lone {
                    inflow.ack_due = true;
                    out.want_results_again(again);
                }
                return false;
            }
            counters.rows_sent += 1;
            out.first_unsent = number + 1;
        }
        if let Some((inflow, in_shop, must_track, again)) = lone {
            // Looked at first: what is written counts as said.
            if !takes_feedback(batch, 1, out.tag_bytes()) {
                inflow.ack_due = true;
                out.want_results_again(again);
                return false;
            }
            let mut scratch = [0; FEEDBACK_BYTES_MAX];
            let bytes_max = FEEDBACK_BYTES_MAX.min(whole);
            let mut writer = Writer::new(&mut scratch[..bytes_max]);
            if let Some(results_until) = inflow.write_feedback(now, &mut writer, in_shop, bytes_max) {
                let bytes = writer.at();
                let Some(space) = batch.push(route, HEADER_BYTES + bytes + out.tag_bytes()) else {
                    return false;
                };
                // No memory to keep it: what has to arrive in it can be written again.
                let packet_number = if must_track {
                    out.track_results(now, HEADER_BYTES + bytes, results_until)
                } else {
                    out.recovery.take_number(now, Fate::Done)
                };
                let frames = &scratch[..bytes];
                out.write_lone((shop.epoch, packet_number), space, |area| area.copy_from_slice(frames));
                counters.confirms_sent += 1;
            }
            if let Some(at) = inflow.timer_at(in_shop) {
                timers.arm_earlier(index, at);
            }
        }
        if out.ping_is_due() {
            batch.begin(to, local);
            let Some(space) = batch.push(route, DATAGRAM_BYTES_MIN + out.tag_bytes()) else { return false };
            let mut writer = Writer::new(&mut space[HEADER_BYTES..DATAGRAM_BYTES_MIN]);
            let packet_number = out.write_lone_ping(now, DATAGRAM_BYTES_MIN, waiting, &mut writer);
            out.write_lone((shop.epoch, packet_number), space, |_| {}); // Its frames are written.
            counters.rows_sent += 1;
        }
        let mut starves = out.control_is_due();
        if let Some(challenge) = challenge.as_deref_mut()
            && challenge.due
        {
            let Challenge { to, data, pong, .. } = *challenge;
            let pong_bytes = pong.map_or(0, |_| binary::FRAME_BYTES + 8);
            let bytes = HEADER_BYTES + binary::FRAME_BYTES + 12 + pong_bytes + out.tag_bytes();
            batch.begin(to, local);
            let Some(space) = batch.push(route, bytes) else { return false };
            (challenge.due, challenge.pong) = (false, None);
            let number = out.recovery.take_number(now, Fate::Done);
            out.write_lone((shop.epoch, number), space, |area| {
                let mut writer = Writer::new(area);
                let _ = writer.ping(&binary::PingFrame { data, demand: 0 })
                    && pong.is_none_or(|data| writer.pong(data));
            });
            counters.challenges_sent += 1;
        }
        starves |= matches!(blocked, Blocked::Pool);
        if starves && !std::mem::replace(&mut out.starved, true) {
            self.starved.push(index);
        }
        if let Some(at) = self.slots[index as usize].as_deref().and_then(|pair| pair.out.timer_at(now)) {
            self.timers.arm_earlier(index, at);
        }
        true
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

/// Two epochs of one address: whether the engine there was started anew between them.
const fn is_other_start(a: u32, b: u32) -> bool {
    (a ^ b) >> EPOCH_SHARD_BITS != 0
}

/// A challenge to another address, with the answer to a PING from there: no longer than what it answers.
const CHALLENGE_BYTES_MAX: usize = HEADER_BYTES + (binary::FRAME_BYTES + 12) + (binary::FRAME_BYTES + 8);

/// Frames of a first HELLO and of its answer, padding included.
const FIRST_FLIGHT_BYTES: usize = 120;
/// Frames of a datagram that carries nothing but feedback.
const FEEDBACK_BYTES_MAX: usize = 1_400 - HEADER_BYTES;

/// Whether the batch has room for so many of those, whatever is in them.
fn takes_feedback(batch: &TrainBatch, count: usize, tag_bytes: usize) -> bool {
    let bytes = HEADER_BYTES + FEEDBACK_BYTES_MAX + tag_bytes;
    batch.room_trains() >= count && batch.room_bytes() >= count * bytes
}

/// Frames that say something about what we sent, or about what the peer sends.
const FEEDBACK: [Kind; 8] =
    [Kind::Ack, Kind::Grant, Kind::Result, Kind::Low, Kind::Ping, Kind::Close, Kind::Cancel, Kind::Skip];

/// Whether a datagram with these frames is to be acknowledged (R-PN-3).
fn is_eliciting(summary: &binary::Summary) -> bool {
    [Kind::Message, Kind::Chunk, Kind::Result, Kind::Cancel, Kind::Skip, Kind::Ping]
        .iter()
        .any(|&kind| summary.has(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::congestion::Algorithm;

    /// Beside its controller, which is boxed; 32 of it are the list of what was sent again. One that sleeps: `tests/no_alloc.rs`.
    #[test]
    fn a_flow_costs_what_is_known_of_it() {
        let bytes = size_of::<Pair<[usize; 2]>>() + size_of::<super::super::inflow::Inflow>();
        assert!(bytes <= 1_440, "{bytes}");
        let config = CcConfig {
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
        assert!(asleep <= 304, "{asleep}");
    }
}
