//! When rows left the engine that a full socket kept back.
//!
//! A row is stamped when it is written into its train. The socket may take that train later: then the peer's time to
//! answer begins later, too (R-RETRY-3). Rows do not know their trains, but while the socket takes nothing no row is
//! written: all that wait were written at the moment the wait began.
//!
//! ```text
//!   time      --|==========|-----|=====|--------------
//!   written     ^ from           ^                       rows of this moment ...
//!   left                   ^ left_at   ^                 ... left here, at the earliest
//! ```

use crate::units::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Holds that begin so close together are kept as one: what is remembered is bounded by time.
const MERGED_WITHIN: Duration = Duration::from_millis(10);
/// The times of chunks are kept in this unit, rounded down.
const CHUNK_TIME_UNIT: Duration = Duration::from_nanos(1_024);

/// Rows written from `from` to `until` left at `left_at`, or earlier.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: Instant,
    until: Instant,
    left_at: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Holds {
    /// Oldest first.
    past: VecDeque<Hold>,
    /// The socket takes nothing since then.
    since: Option<Instant>,
}

impl Holds {
    /// The socket does not take the rows written at `now`. Nothing new if it was full before.
    pub fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// It took them all. Holds that ended more than `memory` ago are forgotten.
    pub fn end(&mut self, now: Instant, memory: Duration) {
        let Some(from) = self.since.take() else { return };
        while self.past.front().is_some_and(|hold| hold.left_at + memory < now) {
            self.past.pop_front();
        }
        match self.past.back_mut() {
            Some(last) if from.since(last.from) < MERGED_WITHIN => (last.until, last.left_at) = (from, now),
            _ => self.past.push_back(Hold { from, until: from, left_at: now }),
        }
    }

    /// When a row left that was written at `written_at`: `now` if it is still here.
    #[must_use]
    pub fn left_at(&self, written_at: Instant, now: Instant) -> Instant {
        if self.since.is_some_and(|since| written_at + CHUNK_TIME_UNIT >= since) {
            return now;
        }
        // Those that ask are of the last few hundred milliseconds.
        let hold = self.past.iter().rev().find(|hold| hold.from <= written_at + CHUNK_TIME_UNIT);
        hold.filter(|hold| written_at <= hold.until).map_or(written_at, |hold| hold.left_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Instant {
        Instant::from_ns(1_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn rows_leave_when_the_socket_takes_them() {
        let mut holds = Holds::default();
        holds.end(at(0), MEMORY); // Nothing was held.
        assert_eq!(holds.left_at(at(0), at(5)), at(0));
        holds.begin(at(10));
        holds.begin(at(12)); // Still the same.
        assert_eq!(holds.left_at(at(9), at(20)), at(9));
        assert_eq!(holds.left_at(at(10), at(20)), at(20));
        holds.end(at(150), MEMORY);
        assert_eq!(holds.left_at(at(9), at(300)), at(9));
        assert_eq!(holds.left_at(at(10), at(300)), at(150));
        assert_eq!(holds.left_at(at(151), at(300)), at(151));
        // A chunk's time is rounded down.
        assert_eq!(holds.left_at(Instant::from_ns(at(10).as_ns() - 1_000), at(300)), at(150));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut holds = Holds::default();
        for us in (0..3_000_000).step_by(100) {
            let now = Instant::from_ns(at(0).as_ns() + us * 1_000);
            holds.begin(now);
            holds.end(now + Duration::from_micros(50), MEMORY);
            let left = holds.left_at(now, now + Duration::from_secs(1));
            assert_eq!(left, now + Duration::from_micros(50), "the newest is exact");
        }
        assert!((90..=102).contains(&holds.past.len()), "{}", holds.past.len());
        // Older ones are late by what was merged, never early.
        let row = at(2_500);
        let left = holds.left_at(row, at(3_000));
        assert!(left >= row && left.since(row) <= MERGED_WITHIN, "{left:?}");
    }
}
