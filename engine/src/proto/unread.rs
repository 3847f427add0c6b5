//! Until when all that had come has been read: what was not answered by then was not answered in time.
//!
//! A turn reads a part of what lies in the socket, and its timers come behind that part. After a pause of the process, or while
//! more comes than is read, an answer that came in time may be in the rest.

use crate::units::Instant;
use std::time::Duration;

/// What lies in the socket has been read once turns were made for so long, however much it was: a full socket buffer takes less.
const READ_WITHIN: Duration = Duration::from_millis(50);
/// So far back is what was heard, at most, unless there was a pause.
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
    /// All that has come by then is read [`READ_WITHIN`] later, if there is no pause.
    since: Instant,
    turned_at: Instant,
}

impl Unread {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self { more: false, heard_until: now, since: now, turned_at: now }
    }

    /// Whether the socket may have more than this turn read.
    pub const fn set(&mut self, more: bool) {
        self.more = more;
    }

    /// A turn's timers are due: all that had come by the returned instant has been read.
    pub fn turn(&mut self, now: Instant) -> Instant {
        let paused = now.since(self.turned_at) >= READ_WITHIN;
        self.turned_at = now;
        if !self.more {
            (self.heard_until, self.since) = (now, now);
        } else if paused {
            self.since = now; // Nobody has read meanwhile.
        } else if now.since(self.since) >= READ_WITHIN {
            self.heard_until = self.since;
            self.since = now;
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
