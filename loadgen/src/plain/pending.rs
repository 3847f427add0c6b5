//! Messages under way over plain sockets, which nobody else keeps for them: each one's number, and its deadline. A list by
//! deadline runs through a table by slot, so that every step is a few stores, whatever order answers come in.

/// No place.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    put_ns: u64,
    before: u32,
    behind: u32,
    is_pending: bool,
}

/// The messages of one generator.
#[derive(Debug)]
pub struct Pending {
    entries: Box<[Entry]>,
    first: u32,
    last: u32,
    deadline_ns: u64,
}

impl Pending {
    /// For so many places, and messages that are given up so long after they were put.
    pub fn new(places: usize, deadline_ns: u64) -> Self {
        let free = Entry { number: 0, put_ns: 0, before: NONE, behind: NONE, is_pending: false };
        Self { entries: vec![free; places].into(), first: NONE, last: NONE, deadline_ns }
    }

    /// Message `number` was put; times do not go backwards.
    #[inline]
    pub fn enter(&mut self, place: usize, number: u64, put_ns: u64) {
        let last = self.last;
        let Some(entry) = self.entries.get_mut(place) else { return };
        *entry = Entry { number, put_ns, before: last, behind: NONE, is_pending: true };
        self.last = place as u32;
        match self.entries.get_mut(last as usize) {
            Some(before) => before.behind = place as u32,
            None => self.first = place as u32,
        }
    }

    /// Message `number` has ended: when it was put, if it had not ended before.
    #[inline]
    pub fn take(&mut self, place: usize, number: u64) -> Option<u64> {
        let entry = self.entries.get_mut(place).filter(|entry| entry.is_pending && entry.number == number)?;
        entry.is_pending = false;
        let Entry { put_ns, before, behind, .. } = *entry;
        match self.entries.get_mut(before as usize) {
            Some(entry) => entry.behind = behind,
            None => self.first = behind,
        }
        match self.entries.get_mut(behind as usize) {
            Some(entry) => entry.before = before,
            None => self.last = before,
        }
        Some(put_ns)
    }

    /// So long after they were put messages are given up.
    pub const fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// When the next one is given up.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        Some(self.entries.get(self.first as usize)?.put_ns.saturating_add(self.deadline_ns))
    }

    /// Takes the oldest one; its place.
    pub fn take_first(&mut self) -> Option<usize> {
        let (place, number) = (self.first as usize, self.entries.get(self.first as usize)?.number);
        self.take(place, number)?;
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Against a map by number.
    #[test]
    fn whatever_ends_first() {
        let (mut pending, mut model) = (Pending::new(8, 100), BTreeMap::new());
        let (mut state, mut number) = (9_u64, 0);
        for now in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = (state >> 60) as usize % 8;
            let held = model.iter().find(|(_, entry): &(&u64, &(usize, u64))| entry.0 == place);
            match held.map(|(&number, &entry)| (number, entry)) {
                None => {
                    pending.enter(place, number, now);
                    model.insert(number, (place, now));
                    number += 1;
                }
                Some((held, (_, put_ns))) if state >> 40 & 1 == 0 => {
                    assert_eq!(pending.take(place, held + 1), None, "another message");
                    assert_eq!(pending.take(place, held), Some(put_ns));
                    assert_eq!(pending.take(place, held), None, "once");
                    model.remove(&held);
                }
                Some(_) => {}
            }
            let first = model.first_key_value().map(|(&number, &(place, put_ns))| (number, place, put_ns));
            assert_eq!(pending.next_deadline_ns(), first.map(|(_, _, put_ns)| put_ns + 100));
            if state >> 50 & 7 == 0 {
                assert_eq!(pending.take_first(), first.map(|(_, place, _)| place));
                model.pop_first();
            }
        }
    }
}
