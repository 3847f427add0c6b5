//! Until when all that had come has been read: what was not answered by then was not answered in time.
//!
//! A turn reads a part of what lies in the socket, and its timers come behind that part. After a pause of the process, or while
//! more comes than is read, an answer that came in time may be in the rest.

use crate::units::Instant;
use std::time::Duration;

/// What lies in the socket has been read once turns were made for so long, however much it was: a full socket buffer takes less.
const READ_WITHIN: Duration = Duration::from_millis(50);
/// Of the time between two turns no more counts.
const COUNTED_MAX: Duration = Duration::from_micros(READ_WITHIN.as_micros() as u64 / 4);
/// So far back is what was heard, at most, unless turns are far apart.
pub const LAG_MAX: Duration = Duration::from_millis(2 * READ_WITHIN.as_millis() as u64);
/// What is given up only once all that came in time has been read is looked at again after so long.
pub const LOOKS_AGAIN: Duration = Duration::from_millis(2);

/// See the module.
#[derive(Debug)]
pub struct Unread {
    /// The socket may have more than was read.
    more: bool,
    /// All that had come by then has been read.
    heard_until: Instant,
    /// All that has come by then is read once turns were made for [`READ_WITHIN`].
    since: Instant,
    /// So long they were made.
    read_for: Duration,
    turned_at: Instant,
}

impl Unread {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { more: false, heard_until: now, since: now, read_for: Duration::ZERO, turned_at: now }
    }

    /// Whether the socket may have more than this turn read.
    pub const fn set(&mut self, more: bool) {
        self.more = more;
    }

    /// A turn's timers are due: all that had come by the returned instant has been read.
    pub fn turn(&mut self, now: Instant) -> Instant {
        // Nobody reads in a pause.
        self.read_for += now.since(self.turned_at).min(COUNTED_MAX);
        self.turned_at = now;
        if !self.more {
            (self.heard_until, self.since, self.read_for) = (now, now, Duration::ZERO);
        } else if self.read_for >= READ_WITHIN {
            (self.heard_until, self.since, self.read_for) = (self.since, now, Duration::ZERO);
        }
        self.heard_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn what_is_read_in_every_turn_is_heard_until_now() {
        let mut unread = Unread::new(ms(0));
        for at in [1, 2, 900, 9_000] {
            assert_eq!(unread.turn(ms(at)), ms(at));
        }
    }

    #[test]
    fn a_pause_is_no_time_in_which_anything_was_read() {
        let mut unread = Unread::new(ms(0));
        assert_eq!(unread.turn(ms(10)), ms(10));
        unread.set(true);
        for at in [9_000, 9_001, 9_049] {
            assert_eq!(unread.turn(ms(at)), ms(10), "{at}");
        }
        assert_eq!(unread.turn(ms(30_000)), ms(10), "another pause");
        unread.set(false);
        assert_eq!(unread.turn(ms(30_001)), ms(30_001));
    }

    /// A process that hardly ever runs, and finds more than it reads whenever it does: its timers wait for some turns, and no longer.
    #[test]
    fn turns_far_apart_count() {
        let mut unread = Unread::new(ms(0));
        unread.set(true);
        for at in (1..100).map(|turn| 500 * turn) {
            let heard_until = unread.turn(ms(at));
            assert!(ms(at).since(heard_until) <= ms(4_000).since(ms(0)), "{at}: {heard_until:?}");
        }
    }

    /// More comes than is read, for ever: timers are at most so late.
    #[test]
    fn a_socket_that_is_never_empty_stops_no_timer() {
        let mut unread = Unread::new(ms(0));
        unread.set(true);
        for at in 1..1_000 {
            let heard_until = unread.turn(ms(at));
            assert!(ms(at).since(heard_until) <= LAG_MAX, "{at}");
        }
    }
}
