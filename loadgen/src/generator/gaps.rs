//! When a generator did not look at its schedule: without this a backlog would be blamed on the engine that puts it off, whoever
//! let it come about.

use std::collections::VecDeque;

/// Gaps that are told apart. More of them at once, with everything due in them still to be put, are a run that is not valid.
const GAPS_MAX: usize = 1_024;

/// From one look to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    from_ns: u64,
    to_ns: u64,
}

impl Gap {
    const fn ns(self) -> u64 {
        self.to_ns - self.from_ns
    }
}

/// Gaps longer than a limit in which something was due that is still to be put, in order.
#[derive(Debug)]
pub struct Gaps {
    limit_ns: u64,
    gaps: VecDeque<Gap>,
}

impl Gaps {
    /// None yet. Takes all of its memory.
    pub fn new(limit_ns: u64) -> Self {
        Self { limit_ns, gaps: VecDeque::with_capacity(if limit_ns == u64::MAX { 0 } else { GAPS_MAX }) }
    }

    /// After a look at `from_ns` the next one was at `to_ns`; by now everything due before `due_ns` is put.
    #[inline]
    pub fn note(&mut self, from_ns: u64, to_ns: u64, due_ns: u64) {
        if due_ns > to_ns {
            self.gaps.clear();
        } else if to_ns - from_ns.min(to_ns) > self.limit_ns {
            self.add(Gap { from_ns, to_ns }, due_ns);
        }
    }

    #[cold]
    fn add(&mut self, gap: Gap, due_ns: u64) {
        self.forget_before(due_ns);
        if self.gaps.len() == GAPS_MAX {
            // The shortest one counts as none.
            let shortest = (0..GAPS_MAX).min_by_key(|&at| self.gaps[at].ns()).unwrap_or(0);
            if self.gaps[shortest].ns() >= gap.ns() {
                return;
            }
            self.gaps.remove(shortest);
        }
        self.gaps.push_back(gap);
    }

    fn forget_before(&mut self, due_ns: u64) {
        while self.gaps.front().is_some_and(|gap| gap.to_ns < due_ns) {
            self.gaps.pop_front();
        }
    }

    /// How late the first look at what was due at `due_ns` was; 0: not later than the limit. Times do not go backwards.
    #[inline]
    pub fn error_ns(&mut self, due_ns: u64) -> u64 {
        self.forget_before(due_ns);
        self.gaps.front().filter(|gap| gap.from_ns < due_ns).map_or(0, |gap| gap.to_ns - due_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_in_a_gap_was_looked_at_when_it_ended() {
        let mut gaps = Gaps::new(10);
        gaps.note(100, 110, 90);
        gaps.note(110, 150, 90);
        gaps.note(150, 160, 90);
        gaps.note(160, 175, 90);
        let errors = [105, 110, 111, 150, 151, 160, 165, 175, 176].map(|due| gaps.error_ns(due));
        assert_eq!(errors, [0, 0, 39, 0, 0, 0, 10, 0, 0]);
        assert!(gaps.gaps.is_empty());
        // Everything that was due is put.
        gaps.note(200, 300, 301);
        assert!(gaps.gaps.is_empty());
    }

    #[test]
    fn of_too_many_the_longest_are_kept() {
        let mut gaps = Gaps::new(0);
        let mut at = 0;
        for length in (1..=2 * GAPS_MAX as u64).rev() {
            gaps.note(at, at + length, 1);
            at += length;
        }
        gaps.note(at, at + 5_000, 1);
        assert_eq!(gaps.gaps.len(), GAPS_MAX);
        assert_eq!(gaps.gaps.capacity(), Gaps::new(0).gaps.capacity());
        assert_eq!(gaps.error_ns(2), 2 * GAPS_MAX as u64 - 2);
        assert_eq!(gaps.error_ns(at + 1), 4_999);
    }
}
