//! Datagrams under way between simulated sockets, what is done to them there, and sockets that overflow, stall and refuse.

use super::faults::{FaultCounts, Faults};
use super::last_sent::LastSent;
use super::links::{Going, Links, chance};
use super::outsider::{Outsider, Thrown};
use super::trace::Trace;
use super::v1_watch::{Leg, V1Watch};
use crate::config::{DEFAULT_SOCKET_BUFFER_BYTES, truesize_bytes};
use crate::hash::Rng;
use crate::sys::ring::simulated::Mishap;
use crate::units::Instant;
use crate::wire::binary::{FLAG_KEY_PHASE, MAGIC};
use crate::wire::route;
use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Addresses from here on (10.128.0.0/9) are those of a mirror.
pub(crate) const MIRRORED: u32 = 10 << 24 | 1 << 23;

/// How long a full socket takes nothing, at most.
const WRITABLE_US_MAX: u32 = 2_000;
/// How long a socket brings nothing, at most.
const STALL_US_MAX: u32 = 20_000;
/// How far ahead a receive looks for another train.
const SHUFFLED_MAX: usize = 8;
/// A train that others are added to holds no more.
const COALESCED_BYTES_MAX: usize = 60_000;

/// A datagram or train in a socket.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment_bytes: usize,
}

impl Packet {
    /// As the kernel does it: datagrams of one sender, of the same length but for the last.
    fn takes(&self, next: &Self) -> bool {
        self.from == next.from
            && next.bytes.len() <= next.segment_bytes.min(self.segment_bytes)
            && !next.bytes.is_empty()
            && !self.bytes.is_empty()
            && self.bytes.len().is_multiple_of(self.segment_bytes)
            && self.bytes.len() + next.bytes.len() <= COALESCED_BYTES_MAX
    }

    fn leg(&self, to: SocketAddr) -> Leg<'_> {
        Leg { from: self.from, to, bytes: &self.bytes, segment_bytes: self.segment_bytes }
    }
}

/// A path that carries no long datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NarrowPath {
    pub(crate) between: [IpAddr; 2],
    pub(crate) from: Instant,
    pub(crate) bytes: usize,
    pub(crate) refused: bool,
}

#[derive(Debug)]
struct Flying {
    to: SocketAddr,
    packet: Packet,
}

/// A socket group: one queue per shard.
#[derive(Debug, Default)]
struct Host {
    queues: Vec<VecDeque<Packet>>,
    /// Kernel memory its packets take, if it is a v1 peer: it has a socket buffer of the default size, and no trains.
    truesize_bytes: Option<u32>,
}

/// Hosts that others see under another address.
#[derive(Debug, Default)]
struct Nat {
    seen_as: BTreeMap<SocketAddr, SocketAddr>,
    /// Hosts whose own address reaches nobody meanwhile.
    hidden: BTreeMap<SocketAddr, bool>,
    next_port: u16,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    now: Instant,
    rng: Rng,
    faults: Faults,
    pub(crate) counts: FaultCounts,
    flying: BinaryHeap<Reverse<(Instant, u64)>>,
    packets: BTreeMap<u64, Flying>,
    sequence: u64,
    hosts: BTreeMap<SocketAddr, Host>,
    pub(crate) links: Links,
    pub(crate) outsider: Outsider,
    nat: Nat,
    narrow: Option<NarrowPath>,
    /// Two hosts who see each other under every address from `MIRRORED` on.
    mirror: Option<(SocketAddr, SocketAddr)>,
    /// When a socket that was full takes more.
    writable_at: Option<Instant>,
    became_writable: bool,
    /// Sockets that take nothing, and shards' sockets that bring nothing, until when.
    full: BTreeMap<SocketAddr, Instant>,
    stalled: BTreeMap<(SocketAddr, usize), Instant>,
    /// When the simulated kernels of shards have something to bring that came before.
    ring_events: BTreeMap<(SocketAddr, usize), Instant>,
    /// By host: how far its wall clock is off, in microseconds.
    clock_offsets: BTreeMap<SocketAddr, i64>,
    pub(crate) v1: V1Watch,
    /// Where it is judged: to look for it costs as much as half of what an engine does.
    pub(crate) last_sent: Option<LastSent>,
    /// Datagrams sealed under every second key of a direction.
    pub(crate) second_phase: u64,
    pub(crate) trace: Trace,
}

/// The network as its users share it.
pub(crate) type SharedNetwork = Rc<RefCell<Network>>;

impl Network {
    pub(crate) fn new(rng: Rng, faults: Faults) -> Self {
        Self {
            // Not zero: time differences reach back.
            now: Instant::from_ns(1_000_000_000_000),
            rng,
            faults,
            counts: FaultCounts::default(),
            flying: BinaryHeap::new(),
            packets: BTreeMap::new(),
            sequence: 0,
            hosts: BTreeMap::new(),
            links: Links::default(),
            outsider: Outsider::default(),
            nat: Nat::default(),
            narrow: None,
            mirror: None,
            writable_at: None,
            became_writable: false,
            full: BTreeMap::new(),
            stalled: BTreeMap::new(),
            ring_events: BTreeMap::new(),
            clock_offsets: BTreeMap::new(),
            trace: Trace::default(),
            v1: V1Watch::default(),
            last_sent: None,
            second_phase: 0,
        }
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn add_host(&mut self, addr: SocketAddr, shards: usize) {
        self.hosts.insert(addr, Host { queues: vec![VecDeque::new(); shards], truesize_bytes: None });
    }

    pub(crate) fn add_v1_peer(&mut self, addr: SocketAddr) {
        self.v1.add_peer(addr);
        self.hosts.insert(addr, Host { queues: vec![VecDeque::new()], truesize_bytes: Some(0) });
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// From now on nothing goes wrong any more; what flies arrives.
    pub(crate) fn heal(&mut self) {
        let Faults { delay_us, socket_trains_max, .. } = self.faults;
        self.faults = Faults { delay_us, socket_trains_max, ..Faults::default() };
        self.nat = Nat::default();
        self.links.heal();
        self.stalled.clear();
        self.full.clear();
    }

    /// A host's wall clock jumps.
    pub(crate) fn jump_clock(&mut self, host: SocketAddr, by_us: i64) {
        self.counts.clock_jumped += 1;
        *self.clock_offsets.entry(host).or_default() += by_us;
    }

    /// How far a host's wall clock is off.
    pub(crate) fn clock_offset_us(&self, host: SocketAddr) -> i64 {
        self.clock_offsets.get(&host).copied().unwrap_or(0)
    }

    /// Not healed: no protocol can mend a path.
    pub(crate) fn set_narrow(&mut self, path: NarrowPath) {
        self.narrow = Some(path);
    }

    /// The path between these hosts, if it has become narrow. A host that changed its port is still the same.
    fn narrow_path(&self, from: SocketAddr, to: SocketAddr) -> Option<NarrowPath> {
        let ips = [from.ip(), to.ip()];
        self.narrow
            .filter(|path| self.now >= path.from && (path.between == ips || path.between == [ips[1], ips[0]]))
    }

    /// A host's datagrams come from another address from now on; whether its own one still reaches it is drawn.
    pub(crate) fn rebind(&mut self, host: SocketAddr) {
        self.nat.next_port += 1;
        let seen_as = SocketAddr::new(host.ip(), 40_000 + self.nat.next_port);
        self.nat.seen_as.insert(host, seen_as);
        let hidden = self.rng.below(2) == 0;
        self.nat.hidden.insert(host, hidden);
    }

    /// A host's socket is closed, and nobody has its address.
    pub(crate) fn close(&mut self, addr: SocketAddr) {
        self.hosts.remove(&addr);
    }

    /// A host's socket is closed and another one is bound to its address.
    pub(crate) fn reopen(&mut self, addr: SocketAddr) {
        self.counts.restarted += 1;
        if let Some(host) = self.hosts.get_mut(&addr) {
            host.queues.iter_mut().for_each(VecDeque::clear);
        }
    }

    fn chance(&mut self, per_mille: u32) -> bool {
        chance(&mut self.rng, per_mille)
    }

    /// Whether, and how long, a v1 peer is now busy with something else.
    pub(crate) fn pause(&mut self, once_in: u32) -> Option<Duration> {
        if self.faults.pause_ms == 0 || self.rng.below(once_in) > 0 {
            return None;
        }
        self.counts.paused += 1;
        Some(Duration::from_millis(u64::from(1 + self.rng.below(self.faults.pause_ms))))
    }

    /// A send: `Some(errno)` if the kernel refuses it.
    pub(crate) fn send(&mut self, leg: Leg<'_>) -> Option<i32> {
        let Leg { from, to, bytes, segment_bytes } = leg;
        let segments = bytes.len().div_ceil(segment_bytes);
        if self.full.get(&from).is_some_and(|until| self.now < *until) {
            self.counts.blocked += 1;
            return Some(libc::EAGAIN);
        }
        if self.chance(self.faults.blocked) {
            self.counts.blocked += 1;
            if self.rng.below(2) == 0 {
                let until = self.now + Duration::from_micros((1 + self.rng.below(WRITABLE_US_MAX)).into());
                self.full.insert(from, until);
            }
            return Some(libc::EAGAIN);
        }
        if self.chance(self.faults.no_buffers) {
            self.counts.no_buffers += 1;
            return Some(libc::ENOBUFS);
        }
        if segments > 1 && self.chance(self.faults.gso_refused) {
            self.counts.gso_refused += 1;
            return Some(libc::EIO);
        }
        let narrow = self.narrow_path(from, to);
        if narrow.is_some_and(|path| path.refused && segment_bytes > path.bytes) {
            self.counts.too_long_refused += 1;
            return Some(libc::EMSGSIZE);
        }
        if segments > 1 && self.chance(self.faults.short) {
            self.counts.short += 1;
            let leave = 1 + self.rng.below(segments as u32 - 1) as usize;
            for datagram in bytes.chunks(segment_bytes).take(leave) {
                self.fly(from, to, datagram, datagram.len().max(1));
                // As far as its sender knows.
                self.v1.lost(Leg { from, to, bytes: datagram, segment_bytes: datagram.len().max(1) });
            }
            return Some(libc::ENOBUFS);
        }
        let Faults { loss, burst, reorder, one_way_loss, corrupt, hostile, .. } = self.faults;
        let whole = narrow.is_none()
            && loss + burst + reorder + one_way_loss + corrupt + hostile == 0
            && !self.chance(self.faults.split);
        if whole {
            self.fly(from, to, bytes, segment_bytes);
        } else {
            for datagram in bytes.chunks(segment_bytes) {
                self.fly(from, to, datagram, datagram.len().max(1));
            }
        }
        None
    }

    /// What one of the two sends to an address from `MIRRORED` on comes to the other one, from that address.
    pub(crate) fn mirror(&mut self, one: SocketAddr, other: SocketAddr) {
        self.mirror = Some((one, other));
    }

    fn mirrored(&self, from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
        match (self.mirror, to.ip()) {
            (Some((one, other)), IpAddr::V4(ip)) if ip.to_bits() >> 23 == MIRRORED >> 23 => {
                (to, if from == one { other } else { one })
            }
            _ => (from, to),
        }
    }

    /// A single datagram of a host that is no engine.
    pub(crate) fn fly(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], segment_bytes: usize) {
        let (from, to) = self.mirrored(from, to);
        let leg = Leg { from, to, bytes, segment_bytes };
        self.v1.sent(self.now, leg);
        if !self.v1.is_peer(from) {
            for datagram in bytes.chunks(segment_bytes) {
                self.last_sent.iter_mut().for_each(|last| last.sent(self.now, from, datagram));
                let second = matches!(datagram, [MAGIC, flags, ..] if flags & FLAG_KEY_PHASE != 0);
                self.second_phase += u64::from(second);
            }
        }
        self.trace.sent(leg);
        if self.narrow_path(from, to).is_some_and(|path| bytes.len() > path.bytes) {
            self.counts.too_long += 1;
            self.trace.lost("too long for its path", leg);
            return;
        }
        let going = Going { now: self.now, from, to, bytes: bytes.len() };
        let Self { links, faults, rng, counts, .. } = self;
        let Some(longer) = links.pass(&going, faults, rng, counts) else {
            self.v1.lost(leg);
            self.trace.lost("lost", leg);
            return;
        };
        if self.chance(self.faults.hostile) && !self.v1.is_peer(to) && !self.v1.is_peer(from) {
            let thrown = self.outsider.sees(leg, &mut self.rng);
            thrown.into_iter().for_each(|thrown| self.throw(thrown));
        }
        let seen_as = self.nat.seen_as.get(&from).copied().filter(|_| from != to);
        self.counts.rebound += u64::from(seen_as.is_some());
        let from = seen_as.unwrap_or(from);
        let mut bytes = Cow::Borrowed(bytes);
        if self.chance(self.faults.corrupt) && !self.v1.is_peer(to) && !bytes.is_empty() {
            self.counts.corrupted += 1;
            if bytes[0] >= 0x80 {
                let at = self.rng.below(bytes.len() as u32) as usize;
                bytes.to_mut()[at] ^= 1 << self.rng.below(8);
            } else {
                bytes.to_mut()[0] |= 0x80;
                self.v1.lost(leg);
            }
            self.trace.lost("corrupted", leg);
        }
        let copies = if self.chance(self.faults.duplicate) {
            self.counts.duplicated += 1;
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut delay_us = self.faults.delay_us + self.rng.below(self.faults.jitter_us + 1);
            self.counts.delayed += u64::from(delay_us > self.faults.delay_us);
            if self.chance(self.faults.reorder) {
                self.counts.reordered += 1;
                delay_us += 1_000 + self.rng.below(50_000);
            }
            let packet = Packet { from, bytes: bytes.to_vec(), segment_bytes };
            self.launch(Duration::from_micros(delay_us.into()) + longer, to, packet);
        }
    }

    fn launch(&mut self, takes: Duration, to: SocketAddr, packet: Packet) {
        self.sequence += 1;
        self.flying.push(Reverse((self.now + takes, self.sequence)));
        self.packets.insert(self.sequence, Flying { to, packet });
    }

    /// What an outsider sends has the way to itself.
    fn throw(&mut self, thrown: Thrown) {
        let Thrown { replayed, from, to, bytes, after } = thrown;
        if self.v1.is_peer(to) {
            return;
        }
        *(if replayed { &mut self.counts.replayed } else { &mut self.counts.forged }) += 1;
        let segment_bytes = bytes.len().max(1);
        self.trace.thrown(replayed, Leg { from, to, bytes: &bytes, segment_bytes });
        self.launch(after, to, Packet { from, bytes, segment_bytes });
    }

    /// A socket refused a train: soon it takes more.
    pub(crate) fn want_writable(&mut self, host: SocketAddr) {
        let at = self.now + Duration::from_micros((1 + self.rng.below(WRITABLE_US_MAX)).into());
        let at = self.full.get(&host).map_or(at, |&full| full.max(at));
        self.writable_at = Some(self.writable_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// When a host's socket takes something again.
    pub(crate) fn writable_at(&self, host: SocketAddr) -> Instant {
        self.full.get(&host).map_or(self.now, |&until| until.max(self.now))
    }

    /// Whether a shard's socket, or its kernel, has something to bring.
    pub(crate) fn has_packets(&self, addr: SocketAddr, shard: usize) -> bool {
        self.brings(addr, shard) || self.ring_events.get(&(addr, shard)).is_some_and(|at| *at <= self.now)
    }

    /// When a shard's simulated kernel wakes it.
    pub(crate) fn set_ring_event(&mut self, shard: (SocketAddr, usize), at: Option<Instant>) {
        match at {
            Some(at) => self.ring_events.insert(shard, at),
            None => self.ring_events.remove(&shard),
        };
    }

    /// Whether this goes wrong in a shard's kernel.
    pub(crate) fn mishap(&mut self, mishap: Mishap) -> bool {
        let Faults { ring, receive_failed, .. } = self.faults;
        let counts = &mut self.counts;
        let (per_mille, count) = match mishap {
            Mishap::EnterRefused => (ring[0], &mut counts.enter_refused),
            Mishap::TakenInPart => (ring[1], &mut counts.entries_left),
            Mishap::ReceiveEnds => (ring[2], &mut counts.receive_ended),
            Mishap::ReceiveFails => (receive_failed, &mut counts.receive_failed),
            Mishap::Late => (ring[3], &mut counts.completion_late),
            Mishap::Overtakes => (ring[4], &mut counts.completion_overtook),
            Mishap::Repeated => (ring[5], &mut counts.completion_repeated),
            Mishap::Fires => (ring[6], &mut counts.poll_fired),
            Mishap::NoBuffer => (1_000, &mut counts.no_receive_buffer),
            Mishap::Overflows => (1_000, &mut counts.completions_overflowed),
        };
        let happens = chance(&mut self.rng, per_mille);
        *count += u64::from(happens);
        happens
    }

    /// A random number below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.rng.below(end)
    }

    /// Whether a shard's socket has something to bring.
    pub(crate) fn brings(&self, addr: SocketAddr, shard: usize) -> bool {
        self.hosts.get(&addr).is_some_and(|host| !host.queues[shard].is_empty())
            && !self.stalled.contains_key(&(addr, shard))
    }

    /// Whether a socket has become writable since this was asked last.
    pub(crate) const fn take_writable(&mut self) -> bool {
        std::mem::replace(&mut self.became_writable, false)
    }

    /// When the next datagram arrives, or a socket becomes writable.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        let arrival = self.flying.peek().map(|Reverse((at, _))| *at);
        let stalled = self.stalled.values().copied();
        // Who does not look though it could, stands still.
        let rings = self.ring_events.values().copied().filter(|at| *at > self.now);
        arrival.into_iter().chain(self.writable_at).chain(stalled).chain(rings).min()
    }

    /// Moves time to `now` and puts what has arrived into the sockets.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.trace.at(self.now);
        if self.writable_at.take_if(|at| *at <= self.now).is_some() {
            self.became_writable = true;
        }
        self.stalled.retain(|_, until| *until > now);
        while let Some(&Reverse((at, sequence))) = self.flying.peek() {
            if at > self.now {
                break;
            }
            self.flying.pop();
            let Some(Flying { to, packet }) = self.packets.remove(&sequence) else { continue };
            self.arrive(to, packet);
        }
    }

    fn arrive(&mut self, to: SocketAddr, packet: Packet) {
        if packet.from != to && self.nat.hidden.get(&to) == Some(&true) {
            self.counts.nowhere += 1;
            return;
        }
        let behind = self.nat.seen_as.iter().find(|(_, seen_as)| **seen_as == to).map(|(host, _)| *host);
        let to = behind.unwrap_or(to);
        let Some(host) = self.hosts.get_mut(&to) else {
            self.counts.nowhere += 1;
            return;
        };
        if let Some(used) = &mut host.truesize_bytes {
            for datagram in packet.bytes.chunks(packet.segment_bytes) {
                let packet =
                    Packet { bytes: datagram.to_vec(), segment_bytes: datagram.len(), from: packet.from };
                let more = truesize_bytes(datagram.len());
                if *used + more > DEFAULT_SOCKET_BUFFER_BYTES {
                    self.counts.overflowed += 1;
                    self.v1.lost(packet.leg(to));
                } else {
                    *used += more;
                    host.queues[0].push_back(packet);
                }
            }
            return;
        }
        // As the kernel does it: a train is steered by its first bytes, what has no route by its source.
        let shards = host.queues.len();
        let mut shard = match route::route(&packet.bytes) {
            Some(route) => route as usize % shards,
            None => packet.from.port() as usize % shards,
        };
        if shards > 1 && chance(&mut self.rng, self.faults.misdirected) {
            self.counts.misdirected += 1;
            shard = (shard + 1 + self.rng.below(shards as u32 - 1) as usize) % shards;
        }
        let queue = &mut host.queues[shard];
        if let Some(last) = queue.back_mut()
            && last.takes(&packet)
            && chance(&mut self.rng, self.faults.coalesced)
        {
            self.counts.coalesced += 1;
            last.bytes.extend_from_slice(&packet.bytes);
        } else if queue.len() >= self.faults.socket_trains_max {
            self.counts.overflowed += 1;
            self.v1.lost(packet.leg(to));
            self.trace.lost("its socket is full", packet.leg(to));
        } else {
            queue.push_back(packet);
        }
    }

    /// The next packet in the socket of a host that is no engine.
    pub(crate) fn receive(&mut self, addr: SocketAddr) -> Option<Packet> {
        let packet = self.take(addr, 0)?;
        self.handed_over(0, packet.leg(addr));
        Some(packet)
    }

    /// A packet reaches whom it is for.
    pub(crate) fn handed_over(&mut self, shard: usize, leg: Leg<'_>) {
        self.v1.received(self.now, leg);
        self.trace.received(shard, leg);
    }

    /// The next packet in a shard's socket.
    pub(crate) fn take(&mut self, addr: SocketAddr, shard: usize) -> Option<Packet> {
        let host = self.hosts.get_mut(&addr)?;
        let queue = &mut host.queues[shard];
        if queue.is_empty() || self.stalled.contains_key(&(addr, shard)) {
            return None;
        }
        let is_engine = host.truesize_bytes.is_none();
        if is_engine && chance(&mut self.rng, self.faults.stalled) {
            self.counts.stalled += 1;
            let until = self.now + Duration::from_micros((1 + self.rng.below(STALL_US_MAX)).into());
            self.stalled.insert((addr, shard), until);
            return None;
        }
        let mut first = 0;
        if is_engine && queue.len() > 1 && chance(&mut self.rng, self.faults.shuffled) {
            self.counts.shuffled += 1;
            first = 1 + self.rng.below((queue.len() - 1).min(SHUFFLED_MAX) as u32) as usize;
        }
        let packet = queue.remove(first)?;
        if let Some(used) = &mut host.truesize_bytes {
            *used -= truesize_bytes(packet.bytes.len());
        }
        Some(packet)
    }
}
