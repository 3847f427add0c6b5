//! The one clock. Reading it costs a vDSO call (about 20 ns), no system call; the loop does so once a turn.

use crate::units::{Instant, UnixMicros};

/// Reads the monotonic and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock;

impl Clock {
    /// `CLOCK_MONOTONIC`: also the clock io_uring measures absolute deadlines with.
    pub(crate) fn now(self) -> Instant {
        let time = read(libc::CLOCK_MONOTONIC);
        Instant::from_ns(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
    }

    /// `CLOCK_REALTIME` since the Unix epoch; 0 on a machine set to before 1970.
    pub(crate) fn unix_time(self) -> UnixMicros {
        let time = read(libc::CLOCK_REALTIME);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        UnixMicros(seconds * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000)
    }
}

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live timespec for the length of the call; both clock ids are constants every Linux
    // has, so the call cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn monotonic_never_goes_back_and_wall_clock_is_this_century() {
        let mut last = Clock.now();
        for _ in 0..1000 {
            let now = Clock.now();
            assert!(now >= last);
            last = now;
        }
        assert!(Clock.unix_time().0 > 1_700_000_000_000_000);
    }
}
