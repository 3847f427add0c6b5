//! What was delivered already: exact and small for senders that are engines, by row hash for original v1 peers.
//!
//! **Engines** (marked rows). A sender has one operation at a time in a slot, and a slot's generations only go up
//! (`ack_tracker`). So one u32 per slot of the sender is all there is to remember: the generation last closed there.
//!
//! ```text
//!   (address, epoch) -> window -> page of 1,024 slots -> last closed generation      id's generation  > last: new
//!                                                                                                    == last: duplicate
//!                                                                                                     < last: stale
//! ```
//!
//! **Original v1 peers** reuse 32-bit ids at random. A duplicate is the same *row* from the same source: a tombstone is
//! a keyed 64-bit hash. Of a multi-chunk operation, a tombstone under the id keeps length and newest timestamp.
//!
//! Nothing younger than the horizon is ever forgotten: where there is no room, the new row is not taken, and the sender
//! tries again (R-DEDUP-4). No host gets more than three quarters of a table (R-SHARE-1).

use super::shares::{Host, Shares};
use crate::hash::{Hasher, Map};
use crate::units::{Instant, UnixMicros};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

const PAGE_SLOTS: usize = 1_024;
/// Direct-mapped cache in front of the page map: slots in use are few and neighbours.
const RECENT: usize = 16;
/// Places looked at for something to forget, per attempt: bounds the work per row.
const EVICTION_STEPS: usize = 64;
/// No window.
const NO_WINDOW: u64 = u64::MAX;

/// What is known of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not closed here.
    New,
    /// The operation last closed in its slot.
    Duplicate,
    /// An operation before that one, or one that expired incomplete.
    Stale,
}

/// The window of one (address, epoch). An id is never given twice: kept longer than the window, it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowId {
    id: u64,
    host: Host,
}

/// A page, for as long as nothing is reserved.
#[derive(Clone, Copy, Debug)]
pub struct PageRef(u32);

struct Page {
    window: WindowId,
    number: u32,
    used_at: Instant,
    generations: Box<[u32; PAGE_SLOTS]>,
    /// One bit a slot: the operation last closed there expired.
    expired: SlotBits,
    /// One bit a slot: something was closed there since `young_since`, and in the horizon before.
    young: SlotBits,
    old: SlotBits,
    young_since: Instant,
}

/// Memory of one page.
pub(super) const PAGE_BYTES: usize = size_of::<Page>() + size_of::<[u32; PAGE_SLOTS]>();

type SlotBits = [u64; PAGE_SLOTS / 64];
const NO_SLOTS: SlotBits = [0; PAGE_SLOTS / 64];

impl Page {
    /// A slot is forgotten a horizon after it was last used here, at the latest after two. It must be: elsewhere the
    /// sender may use the slot so often that its generations wrap around what is remembered.
    fn age(&mut self, now: Instant, horizon: Duration) {
        let age = now.since(self.young_since);
        if age > horizon {
            self.old = if age > horizon * 2 { NO_SLOTS } else { self.young };
            self.young = NO_SLOTS;
            self.young_since = now;
            for (word, generations) in self.generations.chunks_mut(64).enumerate() {
                let kept = self.old[word];
                for (bit, generation) in generations.iter_mut().enumerate() {
                    if kept >> bit & 1 == 0 {
                        *generation = 0;
                    }
                }
            }
        }
    }

    fn seen(&self, slot: u32, generation: u32) -> Seen {
        let last = self.generations[slot as usize % PAGE_SLOTS];
        if last == 0 {
            return Seen::New;
        }
        match generation.wrapping_sub(last).cast_signed() {
            0 if self.is_expired(slot) => Seen::Stale,
            0 => Seen::Duplicate,
            1.. => Seen::New,
            _ => Seen::Stale,
        }
    }

    fn close(&mut self, slot: u32, generation: u32, expired: bool) {
        let slot = slot as usize % PAGE_SLOTS;
        self.generations[slot] = generation;
        let bit = 1 << (slot % 64);
        self.young[slot / 64] |= bit;
        if expired {
            self.expired[slot / 64] |= bit;
        } else {
            self.expired[slot / 64] &= !bit;
        }
    }

    fn use_again(&mut self, slot: u32) {
        let slot = slot as usize % PAGE_SLOTS;
        self.young[slot / 64] |= 1 << (slot % 64);
    }

    fn is_expired(&self, slot: u32) -> bool {
        let slot = slot as usize % PAGE_SLOTS;
        self.expired[slot / 64] & 1 << (slot % 64) != 0
    }
}

struct Window {
    id: WindowId,
    used_at: Instant,
}

/// Closed operations of senders that are engines.
pub struct SlotWindows {
    windows: Map<(SocketAddr, u32), Window>,
    window_ring: VecDeque<(SocketAddr, u32)>,
    window_shares: Shares,
    windows_max: usize,
    next_window: u64,
    last: Option<(SocketAddr, u32, WindowId)>,
    pages: Vec<Page>,
    page_shares: Shares,
    page_index: Map<(u64, u32), u32>,
    pages_max: usize,
    page_hand: usize,
    recent: [(u64, u32, u32); RECENT],
    horizon: Duration,
    window_idle: Duration,
}

impl SlotWindows {
    /// Empty, with room for `pages_max` pages of 4 KiB, allocated as they come into use, and `windows_max` windows.
    ///
    /// A slot is remembered for `horizon` after it was closed. That may be `partial_idle` after the sender's last row (a
    /// message that expires), and a window must not be forgotten before its slots: the sender would be somebody new.
    #[must_use]
    pub fn new(
        windows_max: usize,
        pages_max: usize,
        horizon: Duration,
        partial_idle: Duration,
        hasher: &Hasher,
    ) -> Self {
        Self {
            windows: hasher.map(),
            window_ring: VecDeque::new(),
            window_shares: Shares::new(windows_max as u64, hasher),
            windows_max,
            next_window: 0,
            last: None,
            pages: Vec::new(),
            page_shares: Shares::new(pages_max as u64, hasher),
            page_index: hasher.map(),
            pages_max,
            page_hand: 0,
            recent: [(NO_WINDOW, 0, 0); RECENT],
            horizon,
            window_idle: horizon + partial_idle,
        }
    }

    /// The window of (`from`, `epoch`), new if need be. `None`: all windows are too young to be forgotten, or its host has
    /// its share.
    pub fn window(&mut self, from: SocketAddr, epoch: u32, now: Instant) -> Option<WindowId> {
        if let Some((addr, last_epoch, id)) = self.last
            && addr == from
            && last_epoch == epoch
        {
            return Some(id);
        }
        let id = match self.windows.get_mut(&(from, epoch)) {
            Some(window) => {
                window.used_at = now;
                window.id
            }
            None => {
                let host = Host::from(from.ip());
                let full = |it: &Self| it.windows.len() >= it.windows_max || !it.window_shares.has_room(host);
                if full(self) && (!self.forget_window(now) || full(self)) {
                    return None;
                }
                let id = WindowId { id: self.next_window, host };
                self.next_window += 1;
                self.window_shares.add(host, 1);
                self.windows.insert((from, epoch), Window { id, used_at: now });
                self.window_ring.push_back((from, epoch));
                id
            }
        };
        self.last = Some((from, epoch, id));
        Some(id)
    }

    /// Windows and pages there are.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn kept(&self) -> [usize; 2] {
        [self.windows.len(), self.pages.len()]
    }

    /// Must be called when a train ends: a window is only as fresh as its last lookup.
    pub fn end_train(&mut self) {
        self.last = None;
    }

    /// Whether the operation was closed here.
    pub fn seen(&mut self, window: WindowId, slot: u32, generation: u32) -> Seen {
        self.find_page(window, slot).map_or(Seen::New, |page| self.pages[page].seen(slot, generation))
    }

    /// As [`reserve`](Self::reserve), then [`seen`](Self::seen), with one lookup: what a row of a new operation needs.
    #[inline]
    pub fn reserve_and_see(
        &mut self,
        window: WindowId,
        slot: u32,
        generation: u32,
        now: Instant,
    ) -> Option<(Seen, PageRef)> {
        if !self.reserve(window, slot, now) {
            return None;
        }
        let index = self.recent[(slot as usize / PAGE_SLOTS) % RECENT].2;
        let page = &mut self.pages[index as usize];
        let seen = page.seen(slot, generation);
        if seen != Seen::New {
            page.use_again(slot);
        }
        Some((seen, PageRef(index)))
    }

    /// As [`close`](Self::close), in the page found before; nothing may have been reserved in between.
    pub fn close_in(&mut self, page: PageRef, slot: u32, generation: u32) {
        self.pages[page.0 as usize].close(slot, generation, false);
    }

    /// Makes sure that [`close`](Self::close) will have a place. False: all pages are younger than the horizon, or the host
    /// has its share.
    #[inline(always)]
    pub fn reserve(&mut self, window: WindowId, slot: u32, now: Instant) -> bool {
        let Some(page) = self.find_page(window, slot) else { return self.add_page(window, slot, now) };
        let page = &mut self.pages[page];
        // Within a turn there is nothing new to say about its age.
        if page.used_at != now {
            page.used_at = now;
            page.age(now, self.horizon);
        }
        true
    }

    fn add_page(&mut self, window: WindowId, slot: u32, now: Instant) -> bool {
        let number = slot / PAGE_SLOTS as u32;
        let page = Page {
            window,
            number,
            used_at: now,
            generations: Box::new([0; PAGE_SLOTS]),
            expired: NO_SLOTS,
            young: NO_SLOTS,
            old: NO_SLOTS,
            young_since: now,
        };
        let has_room = self.page_shares.has_room(window.host);
        let index = if has_room && self.pages.len() < self.pages_max {
            self.pages.push(page);
            self.pages.len() - 1
        } else {
            let only = (!has_room).then_some(window.host);
            let Some(index) = self.forget_page(now, only) else { return false };
            let old = &mut self.pages[index];
            (old.window, old.number, old.used_at) = (window, number, now);
            old.generations.fill(0);
            (old.expired, old.young, old.old, old.young_since) = (NO_SLOTS, NO_SLOTS, NO_SLOTS, now);
            index
        };
        self.page_shares.add(window.host, 1);
        self.page_index.insert((window.id, number), index as u32);
        self.recent[number as usize % RECENT] = (window.id, number, index as u32);
        true
    }

    /// Remembers the operation as delivered. Without a reserved place there is nothing to remember it in: our bug.
    pub fn close(&mut self, window: WindowId, slot: u32, generation: u32) {
        match self.find_page(window, slot) {
            Some(page) => self.pages[page].close(slot, generation, false),
            None => debug_assert!(false, "close without reserve"),
        }
    }

    /// Remembers the operation as expired: none of its rows is confirmed again. False if there is no place for that.
    pub fn expire(&mut self, window: WindowId, slot: u32, generation: u32, now: Instant) -> bool {
        if !self.reserve(window, slot, now) {
            return false;
        }
        if self.seen(window, slot, generation) == Seen::New
            && let Some(page) = self.find_page(window, slot)
        {
            self.pages[page].close(slot, generation, true);
        }
        true
    }

    #[inline(always)]
    fn find_page(&mut self, window: WindowId, slot: u32) -> Option<usize> {
        let number = slot / PAGE_SLOTS as u32;
        let recent = &mut self.recent[number as usize % RECENT];
        if recent.0 == window.id && recent.1 == number {
            return Some(recent.2 as usize);
        }
        let index = *self.page_index.get(&(window.id, number))?;
        *recent = (window.id, number, index);
        Some(index as usize)
    }

    /// A page that is old enough, of this host if one is named.
    fn forget_page(&mut self, now: Instant, only: Option<Host>) -> Option<usize> {
        for _ in 0..EVICTION_STEPS.min(self.pages.len()) {
            let index = self.page_hand % self.pages.len();
            self.page_hand = index + 1;
            let page = &self.pages[index];
            if now.since(page.used_at) > self.horizon && only.is_none_or(|host| host == page.window.host) {
                self.page_shares.remove(page.window.host, 1);
                self.page_index.remove(&(page.window.id, page.number));
                let recent = &mut self.recent[page.number as usize % RECENT];
                if recent.2 == index as u32 {
                    *recent = (NO_WINDOW, 0, 0);
                }
                return Some(index);
            }
        }
        None
    }

    fn forget_window(&mut self, now: Instant) -> bool {
        for _ in 0..EVICTION_STEPS.min(self.window_ring.len()) {
            let Some(key) = self.window_ring.pop_front() else { return false };
            let idle =
                self.windows.get(&key).is_none_or(|window| now.since(window.used_at) > self.window_idle);
            if idle {
                // Its pages stay behind under an id that is never given again, and age out.
                self.windows.remove(&key);
                self.window_shares.remove(Host::from(key.0.ip()), 1);
                return true;
            }
            self.window_ring.push_back(key);
        }
        false
    }
}

/// How an operation of an original v1 peer, or a partial message, was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// A single row, delivered.
    Row,
    /// A multi-chunk message, delivered.
    Delivered {
        /// Its number of chunks.
        chunk_count: u32,
        /// The newest timestamp among its rows.
        newest: Option<UnixMicros>,
    },
    /// A partial message that expired: none of its chunks is confirmed again.
    Expired {
        /// Its number of chunks.
        chunk_count: u32,
        /// The newest timestamp among its rows.
        newest: Option<UnixMicros>,
    },
}

/// Tombstones by keyed hash: an age ring and a map.
pub struct Tombstones {
    map: Map<u64, (Tombstone, Instant)>,
    ring: VecDeque<(u64, Instant, Host)>,
    shares: Shares,
    tombstones_max: usize,
    horizon: Duration,
}

impl Tombstones {
    /// Empty, with room for `tombstones_max`.
    #[must_use]
    pub fn new(tombstones_max: usize, horizon: Duration, hasher: &Hasher) -> Self {
        let shares = Shares::new(tombstones_max as u64, hasher);
        Self { map: hasher.map(), ring: VecDeque::new(), shares, tombstones_max, horizon }
    }

    /// Tombstones there are, those that were replaced counted again.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn kept(&self) -> usize {
        self.ring.len()
    }

    /// The tombstone under `hash`, if it is within the horizon.
    pub fn find(&mut self, hash: u64, now: Instant) -> Option<Tombstone> {
        self.forget_old(now);
        self.map.get(&hash).map(|entry| entry.0)
    }

    /// Whether another tombstone of the host has a place.
    pub fn has_room(&mut self, host: Host, now: Instant) -> bool {
        self.forget_old(now);
        self.ring.len() < self.tombstones_max && self.shares.has_room(host)
    }

    /// Adds a tombstone; the caller made sure there is room. One already under the hash is replaced.
    pub fn insert(&mut self, hash: u64, tombstone: Tombstone, host: Host, now: Instant) {
        self.shares.add(host, 1);
        self.ring.push_back((hash, now, host));
        self.map.insert(hash, (tombstone, now));
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some(&(hash, at, host)) = self.ring.front() {
            if now.since(at) <= self.horizon {
                break;
            }
            self.ring.pop_front();
            self.shares.remove(host, 1);
            // A tombstone that was replaced is in the ring twice and goes with its latest entry.
            if self.map.get(&hash).is_some_and(|entry| entry.1 == at) {
                self.map.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const HORIZON: Duration = Duration::from_secs(10);
    const PARTIAL_IDLE: Duration = Duration::from_secs(5);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    proptest! {
        #[test]
        fn slot_windows_agree_with_a_map(ops in prop::collection::vec((0u16..3, 0u32..2, 0u32..4_000, 1u32..6), 1..300)) {
            let mut windows = SlotWindows::new(16, 64, HORIZON, PARTIAL_IDLE, &Seed::from_number(7).hasher());
            let mut model: BTreeMap<(u16, u32, u32), u32> = BTreeMap::new();
            let now = Instant::from_ns(1);
            for (port, epoch, slot, generation) in ops {
                // Close to the wrap-around, where a plain comparison would fail.
                let generation = (u32::MAX - 2).wrapping_add(generation).max(1);
                let window = windows.window(addr(port), epoch, now).unwrap();
                windows.end_train();
                let last = model.get(&(port, epoch, slot)).copied();
                let expected = match last {
                    None => Seen::New,
                    Some(last) if last == generation => Seen::Duplicate,
                    Some(last) if generation.wrapping_sub(last) < 1 << 31 => Seen::New,
                    Some(_) => Seen::Stale,
                };
                prop_assert_eq!(windows.seen(window, slot, generation), expected);
                if expected == Seen::New {
                    prop_assert!(windows.reserve(window, slot, now));
                    windows.close(window, slot, generation);
                    model.insert((port, epoch, slot), generation);
                }
            }
        }
    }

    /// Generations wrap around: half of them are later than the last one, half are earlier.
    #[test]
    fn every_generation_near_an_edge_is_before_or_after_the_last() {
        let mut windows = SlotWindows::new(1, 1, HORIZON, PARTIAL_IDLE, &Seed::from_number(7).hasher());
        let now = Instant::from_ns(1);
        let window = windows.window(addr(1), 0, now).unwrap();
        assert!(windows.reserve(window, 0, now));
        let edges = [0, 1 << 31, u32::MAX - 8];
        for last in edges.iter().flat_map(|edge: &u32| (1..9).map(move |n| edge.wrapping_add(n))) {
            windows.close(window, 0, last);
            for ahead in (0..20_u32).chain((1 << 31) - 10..(1 << 31) + 10).chain(u32::MAX - 20..=u32::MAX) {
                // Without wrapping: how far it is on a circle of 2^32.
                let expected = match u64::from(ahead) {
                    0 => Seen::Duplicate,
                    1..0x8000_0000 => Seen::New,
                    _ => Seen::Stale,
                };
                let generation = ((u64::from(last) + u64::from(ahead)) % (1 << 32)) as u32;
                assert_eq!(windows.seen(window, 0, generation), expected, "{last} + {ahead}");
            }
        }
    }

    #[test]
    fn young_pages_are_never_forgotten_and_old_ones_make_room() {
        let mut windows = SlotWindows::new(16, 2, HORIZON, PARTIAL_IDLE, &Seed::from_number(7).hasher());
        let mut now = Instant::from_ns(1);
        let window = windows.window(addr(1), 0, now).unwrap();
        for slot in [0, 1_024] {
            assert!(windows.reserve(window, slot, now));
            windows.close(window, slot, 5);
        }
        assert!(!windows.reserve(window, 2_048, now));
        now += HORIZON;
        assert!(!windows.reserve(window, 2_048, now), "exactly at the horizon is still young");
        now += Duration::from_millis(1);
        assert!(windows.reserve(window, 2_048, now));
        assert_eq!(windows.seen(window, 2_048, 1), Seen::New);
        let kept = [0, 1_024].map(|slot| windows.seen(window, slot, 5));
        assert!(kept.contains(&Seen::Duplicate) && kept.contains(&Seen::New), "{kept:?}");
    }

    #[test]
    fn an_expired_operation_stays_stale_until_its_slot_is_used_again() {
        let mut windows = SlotWindows::new(16, 2, HORIZON, PARTIAL_IDLE, &Seed::from_number(7).hasher());
        let now = Instant::from_ns(1);
        let window = windows.window(addr(1), 0, now).unwrap();
        assert!(windows.expire(window, 70, 5, now));
        assert_eq!(windows.seen(window, 70, 5), Seen::Stale);
        assert_eq!(windows.seen(window, 71, 5), Seen::New);
        assert_eq!(windows.seen(window, 70, 6), Seen::New);
        windows.close(window, 70, 6);
        assert_eq!(windows.seen(window, 70, 6), Seen::Duplicate);
    }

    /// A page stays while any of its slots is used; a slot must not, or the generations it missed wrap around.
    #[test]
    fn a_slot_is_remembered_for_a_horizon_of_its_own() {
        let mut now = Instant::from_ns(1 << 40);
        let mut windows = SlotWindows::new(4, 4, HORIZON, PARTIAL_IDLE, &Seed::from_number(1).hasher());
        let window = windows.window(addr(1), 1, now).unwrap();
        for slot in [0, 1] {
            assert!(windows.reserve(window, slot, now));
            windows.close(window, slot, 100);
        }
        let wrapped = 100u32.wrapping_add(1 << 31) + 7;
        for second in 1..=30u32 {
            now += Duration::from_secs(1);
            assert!(windows.reserve(window, 1, now));
            windows.close(window, 1, 100 + second);
            if second <= 10 {
                assert_eq!(windows.seen(window, 0, 100), Seen::Duplicate);
                assert_eq!(windows.seen(window, 0, wrapped), Seen::Stale);
            }
            assert_eq!(windows.seen(window, 1, 100 + second), Seen::Duplicate);
        }
        assert_eq!(windows.seen(window, 0, wrapped), Seen::New);
    }

    #[test]
    fn windows_are_bounded_and_never_share_an_id() {
        let mut windows = SlotWindows::new(2, 8, HORIZON, PARTIAL_IDLE, &Seed::from_number(7).hasher());
        let mut now = Instant::from_ns(1);
        let first = windows.window(addr(1), 0, now).unwrap();
        assert!(windows.window(addr(2), 0, now).is_some());
        assert!(windows.window(addr(3), 0, now).is_none());
        windows.end_train();
        now += HORIZON + PARTIAL_IDLE;
        assert!(
            windows.window(addr(3), 0, now).is_none(),
            "what it sent in part may still be remembered as expired"
        );
        now += Duration::from_millis(1);
        let third = windows.window(addr(3), 0, now).unwrap();
        assert_ne!(first, third);
        windows.end_train();
        assert_ne!(
            windows.window(addr(1), 0, now),
            Some(first),
            "forgotten and known again: a window of its own"
        );
    }

    #[test]
    fn tombstones_last_the_horizon_and_fill_up() {
        let mut tombstones = Tombstones::new(2, HORIZON, &Seed::from_number(7).hasher());
        let mut now = Instant::from_ns(1);
        let host = Host::from(addr(1).ip());
        tombstones.insert(1, Tombstone::Row, host, now);
        now += Duration::from_secs(5);
        assert!(tombstones.has_room(host, now));
        tombstones.insert(2, Tombstone::Row, host, now);
        assert!(!tombstones.has_room(host, now));
        now += Duration::from_secs(5);
        assert_eq!(tombstones.find(1, now), Some(Tombstone::Row));
        now += Duration::from_millis(1);
        assert_eq!(tombstones.find(1, now), None);
        assert_eq!(tombstones.find(2, now), Some(Tombstone::Row));
        assert!(tombstones.has_room(host, now));
    }

    /// A host that names ever new epochs, or sends ever new rows, leaves room for others; what it had and is old it gets again.
    #[test]
    fn one_host_does_not_fill_a_table() {
        let hasher = Seed::from_number(7).hasher();
        let (mut windows, mut now) =
            (SlotWindows::new(8, 8, HORIZON, PARTIAL_IDLE, &hasher), Instant::from_ns(1));
        let mut tombstones = Tombstones::new(8, HORIZON, &hasher);
        let other = SocketAddr::from(([127, 0, 0, 2], 1));
        for _ in 0..3 {
            let mut taken = [0; 3];
            for epoch in 0..20_u16 {
                let epoch_now = u32::from(epoch) + (now.as_ns() >> 30) as u32;
                let window = windows.window(addr(epoch), epoch_now, now);
                windows.end_train();
                taken[0] += usize::from(window.is_some());
                taken[1] += usize::from(window.is_some_and(|window| windows.reserve(window, 0, now)));
                let host = Host::from(addr(epoch).ip());
                if tombstones.has_room(host, now) {
                    tombstones.insert(u64::from(epoch), Tombstone::Row, host, now);
                    taken[2] += 1;
                }
            }
            assert_eq!(taken, [6; 3]);
            let window = windows.window(other, 1, now).unwrap();
            assert!(windows.reserve(window, 0, now) && tombstones.has_room(Host::from(other.ip()), now));
            windows.end_train();
            now += HORIZON + PARTIAL_IDLE + Duration::from_secs(1);
        }
    }
}
