//! The messages of one flow that are not complete, or whose turn has not come: by number, and when the first is over.
//!
//! ```text
//!   order     m 17   c 40   c 43   c 44      by space and number: one of 1,024 is found in ten steps
//!               |      |      |      |
//!   place       2      0      3      1       where it is; the last one fills a gap
//! ```
//!
//! No frame of a sender makes anybody look at all of them, however many there are. When the first is over is known as a
//! bound, never too late: it is made exact by looking at all, and that is done when it has come; of more than a few at most
//! twenty times a second, or deadlines (LIFETIME) would make somebody look at all for each that is over.
//!
//! Most flows have none, and no memory for any.

use super::chunk_assembly::{Assembly, AssemblyPool, BESIDE_BYTES};
use super::inflow::CHUNKED_WINDOW;
use super::lanes::{InLanes, Turn};
use crate::units::Instant;
use crate::wire::binary::{META_BYTES_MAX, Space};
use std::collections::VecDeque;
use std::time::Duration;

/// Of both spaces: as many as the window of chunked operations has numbers.
pub const PARTIALS_MAX: usize = CHUNKED_WINDOW as usize;

/// Places of a flow that stay when nobody has them: more than a flow of 16 KiB messages needs where one datagram in twenty is
/// lost, or places would be given back and taken anew all the time (`tests/no_alloc.rs`).
const PLACES_KEPT: usize = 256;
/// While all flows of a shard have no more places than that (4 MiB), whether anybody has them or not.
const PLACES_KEPT_OF_ALL: usize = 16_384;

/// That many are looked at whenever one of them may be over.
const FEW: usize = 64;
/// More of them that often: what is over is given up that much later (R-LARGE-7).
pub const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// Places that all flows of a shard have memory for.
#[derive(Debug, Default)]
pub struct Places(usize);

/// A message in parts.
#[derive(Debug)]
pub struct Partial {
    /// With `seq`: which one.
    pub space: Space,
    /// Its number.
    pub seq: u64,
    /// What came of it.
    pub assembly: Assembly,
    /// The TLVs of the first chunk that came; none allocate nothing.
    pub meta: Box<[u8]>,
    /// Its sender waits for the application's commit; said by the first chunk, too.
    pub committed: bool,
    /// Its turn had not come when that was last looked at: it is among [`InLanes`](super::lanes::InLanes)' waiting ones.
    pub waits: bool,
    /// The lane it is in; said by the first chunk, too.
    pub lane: Option<u16>,
    /// When it may be handed over; said by the first chunk, too. Complete before that, it waits here.
    pub turn: Turn,
    /// When something of it came last.
    pub added_at: Instant,
    /// Its sender's deadline, or a little later (R-LARGE-7).
    pub expires_at: Instant,
}

/// What each is charged beside its buffers covers it.
const _: () = assert!(size_of::<Partial>() + size_of::<(u64, u32)>() + META_BYTES_MAX <= BESIDE_BYTES);

impl Partial {
    /// When it is over, if nothing more comes of it.
    #[must_use]
    pub fn over_at(&self, idle_max: Duration) -> Instant {
        (self.added_at + idle_max).min(self.expires_at)
    }

    /// It is none of those that wait in `lanes` any more.
    pub fn wait_no_more(&self, lanes: &mut InLanes) {
        if let Turn::After(before) = self.turn {
            lanes.wait_no_more(self.seq, before, AssemblyPool::charge_bytes(self.assembly.total()));
        }
    }
}

/// See the module. A place is good until one is removed.
#[derive(Debug, Default)]
pub struct Partials(Option<Box<Table>>);

#[derive(Debug)]
struct Table {
    places: Vec<Partial>,
    /// As many of them are counted in [`Places`].
    counted: usize,
    /// Sorted.
    order: VecDeque<(u64, u32)>,
    /// By space. None is over earlier.
    over_at: [Instant; 2],
    /// By space. Nobody looks for those that are over before.
    rests_until: [Instant; 2],
    /// How many were looked at.
    #[cfg(test)]
    looks: std::cell::Cell<u64>,
}

impl Partials {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |table| table.places.len())
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are missing, of all together; of more than `looked_at` that is not looked for.
    #[must_use]
    pub fn bytes_left(&self, looked_at: usize) -> Option<u64> {
        let places = self.0.as_ref().map_or(&[][..], |table| &table.places);
        (places.len() <= looked_at)
            .then(|| places.iter().map(|partial| u64::from(partial.assembly.bytes_left())).sum())
    }

    /// The place of one.
    #[must_use]
    pub fn find(&self, space: Space, seq: u64) -> Option<usize> {
        let table = self.0.as_deref()?;
        table.look();
        let at = table.search(key(space, seq)).ok()?;
        Some(table.order[at].1 as usize)
    }

    /// The one at a place.
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&Partial> {
        let table = self.0.as_deref()?;
        table.look();
        table.places.get(place)
    }

    /// The one at a place.
    #[must_use]
    pub fn at_mut(&mut self, place: usize) -> Option<&mut Partial> {
        let table = self.0.as_deref_mut()?;
        table.look();
        table.places.get_mut(place)
    }

    /// One more, which is not there yet; its place.
    pub fn add(&mut self, partial: Partial, idle_max: Duration, all: &mut Places) -> usize {
        let table = self.0.get_or_insert_with(|| Box::new(Table::new()));
        let (space, place) = (partial.space, table.places.len());
        table.limit(space, partial.over_at(idle_max));
        let key = key(space, partial.seq);
        if let Err(at) = table.search(key) {
            table.order.insert(at, (key, place as u32));
        }
        table.places.push(partial);
        table.count(all);
        place
    }

    /// The one at a place is over at `at`, if not before.
    pub fn limit(&mut self, place: usize, at: Instant) {
        if let Some(table) = self.0.as_deref_mut()
            && let Some(partial) = table.places.get_mut(place)
        {
            partial.expires_at = partial.expires_at.min(at);
            let (space, at) = (partial.space, partial.expires_at);
            table.limit(space, at);
        }
    }

    /// Takes the one at a place out. The last one fills the gap.
    pub fn remove(&mut self, place: usize, all: &mut Places) -> Option<Partial> {
        let table = self.0.as_deref_mut()?;
        table.look();
        if place >= table.places.len() {
            return None;
        }
        let removed = table.places.swap_remove(place);
        if let Ok(at) = table.search(key(removed.space, removed.seq)) {
            table.order.remove(at);
        }
        if let Some(moved) = table.places.get(place)
            && let Ok(at) = table.search(key(moved.space, moved.seq))
        {
            table.order[at].1 = place as u32;
        }
        if table.places.is_empty() {
            table.over_at = [Instant::FAR_FUTURE; 2];
        }
        table.give_back(all);
        Some(removed)
    }

    /// The place of the lowest one of a space, if its number is below `end`.
    #[must_use]
    pub fn lowest_below(&self, space: Space, end: u64) -> Option<usize> {
        let table = self.0.as_deref()?;
        table.look();
        let first = table.search(key(space, 0)).unwrap_or_else(|at| at);
        table.order.get(first).filter(|entry| entry.0 < key(space, end)).map(|entry| entry.1 as usize)
    }

    /// When to look for those of a space that are over: when the first one is, or earlier, but not too often.
    #[must_use]
    pub fn over_at(&self, space: Space) -> Instant {
        let at = |table: &Table| table.over_at[index(space)].max(table.rests_until[index(space)]);
        self.0.as_deref().map_or(Instant::FAR_FUTURE, at)
    }

    /// All of them were looked at `now`: of a space none is over before `at`.
    pub fn set_over_at(&mut self, space: Space, at: Instant, now: Instant) {
        if let Some(table) = &mut self.0 {
            table.over_at[index(space)] = at;
            // What is over, and waits to be said, waits for nothing else.
            if at > now && table.places.len() > FEW {
                table.rests_until[index(space)] = now + LOOKS_EVERY;
            }
        }
    }

    /// All of them, taken out.
    pub fn take(&mut self, all: &mut Places) -> impl Iterator<Item = Partial> {
        all.0 -= self.0.as_ref().map_or(0, |table| table.counted);
        self.0.take().into_iter().flat_map(|table| table.places)
    }

    /// How many were looked at so far.
    #[cfg(test)]
    pub fn looks(&self) -> u64 {
        self.0.as_ref().map_or(0, |table| table.looks.get())
    }
}

impl Table {
    fn new() -> Self {
        Self {
            places: Vec::new(),
            counted: 0,
            order: VecDeque::new(),
            over_at: [Instant::FAR_FUTURE; 2],
            rests_until: [Instant::default(); 2],
            #[cfg(test)]
            looks: Default::default(),
        }
    }

    /// Places that nobody has are not charged to anybody: a sender that had many has not many for ever. Halved at a quarter, so that it costs
    /// nothing where as many come as go. Of a flow that has few, a few more stay, unless there are many such flows.
    fn give_back(&mut self, all: &mut Places) {
        let kept = if all.0 <= PLACES_KEPT_OF_ALL { PLACES_KEPT } else { 0 };
        let places = self.places.capacity();
        if places > kept && self.places.len() <= places / 4 {
            self.places.shrink_to(kept.max(places / 2));
            self.order.shrink_to(kept.max(places / 2));
            self.count(all);
        }
    }

    fn count(&mut self, all: &mut Places) {
        let places = self.places.capacity();
        all.0 = all.0 - self.counted + places;
        self.counted = places;
    }

    fn search(&self, key: u64) -> Result<usize, usize> {
        self.order.binary_search_by_key(&key, |entry| entry.0)
    }

    fn limit(&mut self, space: Space, at: Instant) {
        let over_at = &mut self.over_at[index(space)];
        *over_at = (*over_at).min(at);
    }

    #[allow(clippy::unused_self, reason = "tests count")]
    #[inline(always)]
    fn look(&self) {
        #[cfg(test)]
        self.looks.set(self.looks.get() + 1);
    }
}

/// Spaces apart, numbers in order: they have 63 bits.
const fn key(space: Space, seq: u64) -> u64 {
    seq | (index(space) as u64) << 63
}

const fn index(space: Space) -> usize {
    match space {
        Space::Message => 0,
        Space::Chunked => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const IDLE: Duration = Duration::from_nanos(500);

    #[derive(Clone, Debug)]
    enum Op {
        Add(u8),
        Remove(u8),
        Limit(u8, u16),
        Progress(u8),
        Low(bool, u8),
        Look,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => any::<u8>().prop_map(Op::Add),
            2 => any::<u8>().prop_map(Op::Remove),
            2 => (any::<u8>(), 0u16..2_000).prop_map(|(id, at)| Op::Limit(id, at)),
            2 => any::<u8>().prop_map(Op::Progress),
            1 => (any::<bool>(), any::<u8>()).prop_map(|(chunked, low)| Op::Low(chunked, low)),
            1 => Just(Op::Look),
        ]
    }

    /// Which one: the numbers of the spaces overlap.
    fn name(id: u8) -> (Space, u64) {
        (if id & 1 == 0 { Space::Message } else { Space::Chunked }, u64::from(id >> 1))
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(ops in prop::collection::vec(op(), 1..400)) {
            let mut pool = AssemblyPool::new(1 << 30);
            let (mut partials, mut all) = (Partials::default(), Places::default());
            let mut model: BTreeMap<(Space, u64), Instant> = BTreeMap::new();
            let mut rest = Instant::default();
            for (now, op) in (0..).zip(ops) {
                let now = Instant::from_ns(now);
                match op {
                    Op::Add(id) if !model.contains_key(&name(id)) => {
                        let (space, seq) = name(id);
                        let assembly = Assembly::new(1, &mut pool).unwrap();
                        let expires_at = Instant::FAR_FUTURE;
                        let partial = Partial {
                            space, seq, assembly, meta: Box::default(), committed: false, waits: false,
                            lane: None,
                            turn: Turn::Free, added_at: now, expires_at,
                        };
                        partials.add(partial, IDLE, &mut all);
                        model.insert((space, seq), now + IDLE);
                    }
                    Op::Remove(id) => {
                        let (space, seq) = name(id);
                        let removed = partials.find(space, seq).and_then(|place| partials.remove(place, &mut all));
                        prop_assert_eq!(removed.is_some(), model.remove(&(space, seq)).is_some());
                        if let Some(removed) = removed {
                            prop_assert_eq!((removed.space, removed.seq), (space, seq));
                            removed.assembly.release(&mut pool);
                        }
                    }
                    Op::Limit(id, at) => {
                        let (space, seq) = name(id);
                        if let Some(place) = partials.find(space, seq) {
                            partials.limit(place, Instant::from_ns(at.into()));
                        }
                    }
                    Op::Progress(id) => {
                        let (space, seq) = name(id);
                        if let Some(place) = partials.find(space, seq) {
                            partials.at_mut(place).unwrap().added_at = now;
                        }
                    }
                    Op::Low(chunked, low) => {
                        let space = if chunked { Space::Chunked } else { Space::Message };
                        let below: Vec<_> =
                            model.keys().copied().filter(|key| key.0 == space && key.1 < low.into()).collect();
                        for key in below {
                            let place = partials.lowest_below(space, low.into()).unwrap();
                            let removed = partials.remove(place, &mut all).unwrap();
                            prop_assert_eq!((removed.space, removed.seq), key);
                            removed.assembly.release(&mut pool);
                            model.remove(&key);
                        }
                        prop_assert_eq!(partials.lowest_below(space, low.into()), None);
                    }
                    Op::Look => {
                        if partials.len() > FEW {
                            rest = now + LOOKS_EVERY;
                        }
                        for space in [Space::Message, Space::Chunked] {
                            let all = (0..partials.len()).filter_map(|place| partials.at(place));
                            let first = all.filter(|it| it.space == space).map(|it| it.over_at(IDLE)).min();
                            partials.set_over_at(space, first.unwrap_or(Instant::FAR_FUTURE), now);
                        }
                    }
                    Op::Add(_) => {}
                }
                prop_assert_eq!(partials.len(), model.len());
                for key in model.keys() {
                    let place = partials.find(key.0, key.1).unwrap();
                    let partial = partials.at(place).unwrap();
                    prop_assert_eq!((partial.space, partial.seq), *key);
                    prop_assert!(partials.over_at(key.0) <= partial.over_at(IDLE).max(rest), "too late");
                }
            }
            partials.take(&mut all).for_each(|partial| partial.assembly.release(&mut pool));
            prop_assert_eq!((pool.bytes_used(), partials.len()), (0, 0));
        }
    }

    /// What is removed was charged, a place that nobody has is not.
    #[test]
    fn places_are_given_back() {
        let mut pool = AssemblyPool::new(1 << 30);
        let (mut partials, mut all) = (Partials::default(), Places::default());
        for seq in 0..PARTIALS_MAX as u64 {
            let assembly = Assembly::new(1, &mut pool).unwrap();
            let (space, meta, turn) = (Space::Chunked, Box::default(), Turn::Free);
            let (added_at, expires_at) = (Instant::from_ns(0), Instant::FAR_FUTURE);
            let (committed, waits, lane) = (false, false, None);
            let partial =
                Partial { space, seq, assembly, meta, committed, waits, lane, turn, added_at, expires_at };
            partials.add(partial, IDLE, &mut all);
        }
        while let Some(removed) = partials.remove(0, &mut all) {
            removed.assembly.release(&mut pool);
            let table = partials.0.as_ref().unwrap();
            let most = (4 * table.places.len()).max(2 * PLACES_KEPT);
            assert!(table.places.capacity() <= most && table.order.capacity() <= 2 * most);
        }
        assert_eq!(partials.len(), 0);
    }

    #[test]
    fn a_flow_without_any_has_a_pointer() {
        assert_eq!(size_of::<Partials>(), size_of::<usize>());
    }

    /// Flows that had many partial messages, one after another, keep no more places between them than all may.
    #[test]
    fn places_that_nobody_has_are_bounded_for_all_flows() {
        let mut pool = AssemblyPool::new(1 << 30);
        let mut all = Places::default();
        let mut flows: Vec<Partials> = (0..1_000).map(|_| Partials::default()).collect();
        let mut most = 0;
        for partials in &mut flows {
            for seq in 0..PLACES_KEPT as u64 {
                let assembly = Assembly::new(1, &mut pool).unwrap();
                let (space, meta, turn) = (Space::Chunked, Box::default(), Turn::Free);
                let (added_at, expires_at) = (Instant::from_ns(0), Instant::FAR_FUTURE);
                let (committed, waits, lane) = (false, false, None);
                let partial = Partial {
                    space,
                    seq,
                    assembly,
                    meta,
                    committed,
                    waits,
                    lane,
                    turn,
                    added_at,
                    expires_at,
                };
                partials.add(partial, IDLE, &mut all);
            }
            while let Some(removed) = partials.remove(0, &mut all) {
                removed.assembly.release(&mut pool);
            }
            most = most.max(all.0);
        }
        let have = |flows: &[Partials]| -> usize {
            flows.iter().flat_map(|partials| &partials.0).map(|table| table.places.capacity()).sum()
        };
        assert_eq!(all.0, have(&flows));
        assert!(most > PLACES_KEPT_OF_ALL, "{most}");
        assert!(all.0 <= PLACES_KEPT_OF_ALL + 1_000 * 4, "{}", all.0);
        for partials in &mut flows {
            assert_eq!(partials.take(&mut all).count(), 0);
        }
        assert_eq!((all.0, have(&flows)), (0, 0));
        assert!(PLACES_KEPT_OF_ALL * (size_of::<Partial>() + size_of::<(u64, u32)>()) <= 4 << 20);
    }
}
