//! Peers as a sender sees them: round trip, window, pacing, and what waits for them.

use super::ack_tracker::{List, NONE};
use super::rtt::Rtt;
use crate::hash::{Hasher, Map};
use crate::units::Instant;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A peer nothing was sent to for so long may be forgotten to make room.
const IDLE: Duration = Duration::from_secs(10);
/// Places looked at for a peer to forget, per attempt: bounds the work of one put.
const EVICTION_STEPS: usize = 64;

/// One peer. Waiting operations are kept in two queues, so that a large message does not hold up the small ones.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// The local address its datagrams come to, on wildcard sockets: what we send from.
    pub local: Option<IpAddr>,
    /// It confirmed a row with a mark: it is an engine, not an original v1 peer.
    pub ours: bool,
    /// Round trip.
    pub rtt: Rtt,
    /// The last turn in which `rtt` took a sample: one per turn is enough.
    pub rtt_sampled_at: Instant,
    /// Operations that name this peer.
    pub ops: u32,
    /// Kernel memory at the peer taken by rows in flight.
    pub window_used: u32,
    /// Single-row operations with their row unsent.
    pub pending_small: List,
    /// Multi-chunk operations with chunks unsent. Only the first of them is being sent.
    pub pending_large: List,
    /// Which of the two is served first next time.
    pub large_first: bool,
    /// Operations with rows to be sent again.
    pub resend: List,
    /// In the ready queue.
    pub ready: bool,
    /// When a confirm last arrived (R-RETRY-3).
    pub progress_at: Instant,
    /// The latest transmission time among confirmed rows: rows sent before it have been passed by (R-RETRY-3).
    pub passed_at: Instant,
    /// See [`Pacer`].
    pub pacer: Pacer,
    last_used_at: Instant,
}

/// What the confirms of a train, or one of them, say about their peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerNews {
    /// Rows confirmed.
    pub confirms: u32,
    /// Window they give back.
    pub window_bytes: u32,
    /// The latest transmission among those that were sent once.
    pub passed_at: Instant,
    /// The transmission of one that was sent once: a sample of the round trip (Karn's rule).
    pub sample_from: Option<Instant>,
}

impl Peer {
    /// Takes in what confirms that came at `now` say.
    pub fn hear(&mut self, now: Instant, news: &PeerNews) {
        self.window_used -= news.window_bytes.min(self.window_used);
        self.progress_at = now;
        self.passed_at = self.passed_at.max(news.passed_at);
        if let Some(sent_at) = news.sample_from.filter(|_| self.rtt_sampled_at != now) {
            self.rtt_sampled_at = now;
            self.rtt.sample(now.since(sent_at));
        }
    }

    /// Anything to send that was never sent.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.pending_small.front().is_some() || self.pending_large.front().is_some()
    }
}

/// A token bucket over the window: half a window may leave at once, the rest spread over the round trip at twice the
/// rate the window allows in the long run (R-PACE-1).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    tokens: u32,
    updated_at: Instant,
}

impl Pacer {
    /// Adds what `now` has earned, with a window of `window` bytes. Without a round trip yet, as if it were a second.
    pub fn refill(&mut self, now: Instant, window: u32, smoothed: Option<Duration>) {
        let smoothed_ns = smoothed.map_or(1_000_000_000, |rtt| rtt.as_nanos().max(1));
        let elapsed_ns = now.since(self.updated_at).as_nanos();
        let earned = elapsed_ns * u128::from(window) * 2 / smoothed_ns;
        if earned > 0 {
            self.updated_at = now;
            let tokens = u128::from(self.tokens) + earned;
            self.tokens = u32::try_from(tokens).unwrap_or(u32::MAX).min(Self::burst(window));
        }
    }

    /// Takes `bytes` if they are there; a row larger than the whole burst may leave when the bucket is full.
    pub fn take(&mut self, bytes: u32, window: u32) -> bool {
        let wanted = bytes.min(Self::burst(window));
        // A new peer's bucket is full, whatever the window.
        self.tokens = self.tokens.min(Self::burst(window));
        let paid = self.tokens >= wanted;
        if paid {
            self.tokens -= wanted;
        }
        paid
    }

    /// How many rows of `bytes` each may leave now.
    #[must_use]
    pub fn rows(&self, bytes: u32, window: u32) -> usize {
        (self.tokens.min(Self::burst(window)) / bytes) as usize
    }

    /// Takes the `bytes` of rows that [`rows`](Self::rows) let leave.
    pub fn pay(&mut self, bytes: u32, window: u32) {
        self.tokens = self.tokens.min(Self::burst(window)) - bytes;
    }

    /// How long until a quarter of the window can leave: the pause between two bursts.
    #[must_use]
    pub fn pause(smoothed: Option<Duration>) -> Duration {
        smoothed.map_or(Duration::from_millis(250), |rtt| rtt / 8)
    }

    fn burst(window: u32) -> u32 {
        (window / 2).max(1)
    }
}

/// The table of peers, by address and by index.
#[derive(Debug)]
pub struct Peers {
    peers: Vec<Peer>,
    by_addr: Map<SocketAddr, u32>,
    peers_max: usize,
    clock_hand: usize,
    last: u32,
}

impl Peers {
    /// The peer at an address, if there is one.
    #[must_use]
    pub fn peek(&self, addr: SocketAddr) -> Option<&Peer> {
        self.by_addr.get(&addr).map(|&index| &self.peers[index as usize])
    }

    /// Peers there are.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn count(&self) -> usize {
        self.peers.len()
    }

    /// An empty table for up to `peers_max` peers.
    #[must_use]
    pub fn new(peers_max: usize, hasher: &Hasher) -> Self {
        Self {
            peers: Vec::with_capacity(peers_max),
            by_addr: hasher.map_with_capacity(peers_max),
            peers_max,
            clock_hand: 0,
            last: NONE,
        }
    }

    /// The peer at `addr`, if it is known.
    #[inline]
    #[must_use]
    pub fn find(&self, addr: SocketAddr) -> Option<u32> {
        if self.peers.get(self.last as usize).is_some_and(|peer| peer.addr == addr) {
            return Some(self.last);
        }
        self.by_addr.get(&addr).copied()
    }

    /// The peer at `addr`, new if need be; `None` if the table is full of peers in use.
    #[inline]
    pub fn find_or_insert(&mut self, addr: SocketAddr, now: Instant) -> Option<u32> {
        let Some(index) = self.find(addr) else { return self.insert(addr, now) };
        self.last = index;
        self.peers[index as usize].last_used_at = now;
        Some(index)
    }

    fn insert(&mut self, addr: SocketAddr, now: Instant) -> Option<u32> {
        let fresh = Peer {
            addr,
            local: None,
            ours: false,
            rtt: Rtt::default(),
            rtt_sampled_at: Instant::default(),
            ops: 0,
            window_used: 0,
            pending_small: List::default(),
            pending_large: List::default(),
            large_first: false,
            resend: List::default(),
            ready: false,
            progress_at: Instant::default(),
            passed_at: Instant::default(),
            pacer: Pacer { tokens: u32::MAX, updated_at: now },
            last_used_at: now,
        };
        let index = if self.peers.len() < self.peers_max {
            self.peers.push(fresh);
            (self.peers.len() - 1) as u32
        } else {
            let index = self.evict(now)?;
            self.peers[index as usize] = fresh;
            index
        };
        self.by_addr.insert(addr, index);
        self.last = index;
        Some(index)
    }

    /// The peer with this index.
    #[must_use]
    pub fn get(&self, index: u32) -> &Peer {
        &self.peers[index as usize]
    }

    /// The peer with this index.
    pub fn get_mut(&mut self, index: u32) -> &mut Peer {
        &mut self.peers[index as usize]
    }

    fn evict(&mut self, now: Instant) -> Option<u32> {
        for _ in 0..EVICTION_STEPS.min(self.peers.len()) {
            let index = self.clock_hand % self.peers.len();
            self.clock_hand = index + 1;
            let peer = &self.peers[index];
            if peer.ops == 0 && !peer.ready && now.since(peer.last_used_at) >= IDLE {
                self.by_addr.remove(&peer.addr);
                return Some(index as u32);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;

    #[test]
    fn a_full_table_forgets_the_idle_and_keeps_the_busy() {
        let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut peers = Peers::new(2, &Seed::from_number(1).hasher());
        let mut now = Instant::from_ns(1);
        let first = peers.find_or_insert(addr(1), now).unwrap();
        peers.get_mut(first).ops = 1;
        peers.find_or_insert(addr(2), now).unwrap();
        assert_eq!(peers.find_or_insert(addr(3), now), None);
        now += IDLE;
        let third = peers.find_or_insert(addr(3), now).unwrap();
        assert_eq!(peers.find(addr(2)), None);
        assert_eq!((peers.find(addr(1)), peers.find(addr(3))), (Some(first), Some(third)));
        assert_eq!(peers.find_or_insert(addr(4), now), None);
    }

    #[test]
    fn the_pacer_lets_half_a_window_go_and_then_twice_the_window_per_round_trip() {
        let mut now = Instant::from_ns(1_000_000_000);
        let rtt = Some(Duration::from_millis(100));
        let mut pacer = Pacer { tokens: u32::MAX, updated_at: now };
        now += Duration::from_millis(100);
        pacer.refill(now, 1_000, rtt);
        assert_eq!((0..100).filter(|_| pacer.take(10, 1_000)).count(), 50);
        now += Duration::from_millis(10);
        pacer.refill(now, 1_000, rtt);
        assert_eq!((0..100).filter(|_| pacer.take(10, 1_000)).count(), 20);
        now += Duration::from_secs(10);
        pacer.refill(now, 1_000, rtt);
        assert!(pacer.take(5_000, 1_000)); // A row larger than the burst leaves when the bucket is full.
        assert!(!pacer.take(1, 1_000));
    }
}
