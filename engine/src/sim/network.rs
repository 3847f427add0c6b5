//! Datagrams under way between simulated sockets: loss, duplication, reordering, delay, and sockets that overflow.

use super::v1_watch::{Leg, V1Watch};
use crate::config::{DEFAULT_SOCKET_BUFFER_BYTES, truesize_bytes};
use crate::hash::Rng;
use crate::train::{Train, TrainBatch};
use crate::units::Instant;
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

/// What the network does to datagrams, in parts per thousand, and how often it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Datagrams lost.
    pub loss: u32,
    /// Datagrams delivered twice.
    pub duplicate: u32,
    /// Datagrams held back so that later ones overtake them.
    pub reorder: u32,
    /// Trains delivered as single datagrams.
    pub split: u32,
    /// Least delay, microseconds.
    pub delay_us: u32,
    /// Random delay on top, microseconds.
    pub jitter_us: u32,
    /// Sends refused with EAGAIN.
    pub blocked: u32,
    /// Trains refused with EIO.
    pub gso_refused: u32,
    /// Trains a socket holds; more are dropped.
    pub socket_trains_max: usize,
    /// Longest pause of a v1 peer, milliseconds.
    pub pause_ms: u32,
    /// Datagrams lost in one direction between two hosts only.
    pub one_way_loss: u32,
    /// Datagrams of the binary wire with one byte changed: a checksum tells, which rows do not have.
    pub corrupt: u32,
    /// Crashes and restarts of engines.
    pub restarts: u32,
    /// Times a sender's address changes.
    pub rebinds: u32,
    /// Bytes of the longest datagram between two of the hosts, from some moment on and for good; 0: any.
    pub mtu: u32,
    /// The kernel refuses longer ones (EMSGSIZE), else they vanish on the way.
    pub mtu_refused: bool,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultCounts {
    /// Datagrams lost.
    pub lost: u64,
    /// Datagrams delivered twice.
    pub duplicated: u64,
    /// Datagrams held back.
    pub reordered: u64,
    /// Sends refused with EAGAIN.
    pub blocked: u64,
    /// Trains refused with EIO.
    pub gso_refused: u64,
    /// Datagrams dropped at a full socket.
    pub overflowed: u64,
    /// Datagrams to an address nobody has.
    pub nowhere: u64,
    /// Pauses of v1 peers.
    pub paused: u64,
    /// Datagrams lost in one direction.
    pub lost_one_way: u64,
    /// Datagrams with a byte changed.
    pub corrupted: u64,
    /// Engines that crashed and came back.
    pub restarted: u64,
    /// Addresses changed on the way.
    pub rebound: u64,
    /// Datagrams too long for their path.
    pub too_long: u64,
    /// Sends refused with EMSGSIZE.
    pub too_long_refused: u64,
}

impl FaultCounts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.blocked += other.blocked;
        self.gso_refused += other.gso_refused;
        self.overflowed += other.overflowed;
        self.nowhere += other.nowhere;
        self.paused += other.paused;
        self.lost_one_way += other.lost_one_way;
        self.corrupted += other.corrupted;
        self.restarted += other.restarted;
        self.rebound += other.rebound;
        self.too_long += other.too_long;
        self.too_long_refused += other.too_long_refused;
    }
}

/// A datagram or train in a socket.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segment_bytes: usize,
}

impl Packet {
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
    /// The direction that loses more.
    one_way: Option<(SocketAddr, SocketAddr)>,
    nat: Nat,
    narrow: Option<NarrowPath>,
    /// Two hosts who see each other under every address from `MIRRORED` on.
    mirror: Option<(SocketAddr, SocketAddr)>,
    /// When a socket that was full takes more.
    writable_at: Option<Instant>,
    pub(crate) v1: V1Watch,
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
            one_way: None,
            nat: Nat::default(),
            narrow: None,
            mirror: None,
            writable_at: None,
            v1: V1Watch::default(),
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
    }

    /// From now on datagrams from `from` to `to` suffer from `one_way_loss`.
    pub(crate) fn set_one_way(&mut self, from: SocketAddr, to: SocketAddr) {
        self.one_way = Some((from, to));
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

    /// Chance of `per_mille` in a thousand.
    fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.rng.below(1_000) < per_mille
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
    pub(crate) fn send(&mut self, from: SocketAddr, train: &Train, batch: &TrainBatch) -> Option<i32> {
        if self.chance(self.faults.blocked) {
            self.counts.blocked += 1;
            return Some(libc::EAGAIN);
        }
        if train.segments > 1 && self.chance(self.faults.gso_refused) {
            self.counts.gso_refused += 1;
            return Some(libc::EIO);
        }
        let bytes = &*batch.bytes(train);
        let narrow = self.narrow_path(from, train.to);
        if narrow.is_some_and(|path| path.refused && train.segment_bytes > path.bytes) {
            self.counts.too_long_refused += 1;
            return Some(libc::EMSGSIZE);
        }
        let whole = narrow.is_none()
            && self.faults.loss + self.faults.reorder + self.faults.one_way_loss + self.faults.corrupt == 0
            && !self.chance(self.faults.split);
        if whole {
            self.fly(from, train.to, bytes, train.segment_bytes);
        } else {
            for datagram in bytes.chunks(train.segment_bytes) {
                self.fly(from, train.to, datagram, datagram.len().max(1));
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
        if self.narrow_path(from, to).is_some_and(|path| bytes.len() > path.bytes) {
            self.counts.too_long += 1;
            return;
        }
        if self.chance(self.faults.loss) {
            self.counts.lost += 1;
            self.v1.lost(leg);
            return;
        }
        if self.one_way == Some((from, to)) && self.chance(self.faults.one_way_loss) {
            self.counts.lost_one_way += 1;
            return;
        }
        let seen_as = self.nat.seen_as.get(&from).copied().filter(|_| from != to);
        self.counts.rebound += u64::from(seen_as.is_some());
        let from = seen_as.unwrap_or(from);
        let mut bytes = Cow::Borrowed(bytes);
        if self.chance(self.faults.corrupt) && bytes.first().is_some_and(|&first| first >= 0x80) {
            self.counts.corrupted += 1;
            let at = self.rng.below(bytes.len() as u32) as usize;
            bytes.to_mut()[at] ^= 1 << self.rng.below(8);
        }
        let copies = if self.chance(self.faults.duplicate) {
            self.counts.duplicated += 1;
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut delay_us = self.faults.delay_us + self.rng.below(self.faults.jitter_us + 1);
            if self.chance(self.faults.reorder) {
                self.counts.reordered += 1;
                delay_us += 1_000 + self.rng.below(50_000);
            }
            self.sequence += 1;
            let at = self.now + Duration::from_micros(delay_us.into());
            self.flying.push(Reverse((at, self.sequence)));
            let packet = Packet { from, bytes: bytes.to_vec(), segment_bytes };
            self.packets.insert(self.sequence, Flying { to, packet });
        }
    }

    /// A socket refused a train: soon it takes more.
    pub(crate) fn want_writable(&mut self) {
        let at = self.now + Duration::from_micros((1 + self.rng.below(WRITABLE_US_MAX)).into());
        self.writable_at = Some(self.writable_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// When the next datagram arrives, or a socket becomes writable.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        let arrival = self.flying.peek().map(|Reverse((at, _))| *at);
        arrival.into_iter().chain(self.writable_at).min()
    }

    /// Moves time to `now` and puts what has arrived into the sockets.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.writable_at = self.writable_at.filter(|at| *at > self.now);
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
        let shard = match route::route(&packet.bytes) {
            Some(route) => route as usize % shards,
            None => packet.from.port() as usize % shards,
        };
        let queue = &mut host.queues[shard];
        if queue.len() >= self.faults.socket_trains_max {
            self.counts.overflowed += 1;
            self.v1.lost(packet.leg(to));
        } else {
            queue.push_back(packet);
        }
    }

    /// The next packet in a shard's socket.
    pub(crate) fn receive(&mut self, addr: SocketAddr, shard: usize) -> Option<Packet> {
        let host = self.hosts.get_mut(&addr)?;
        let packet = host.queues[shard].pop_front()?;
        if let Some(used) = &mut host.truesize_bytes {
            *used -= truesize_bytes(packet.bytes.len());
        }
        self.v1.received(self.now, packet.leg(addr));
        Some(packet)
    }
}
