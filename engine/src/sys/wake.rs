//! How other threads wake a sleeping shard: one word and one eventfd (`IO_URING.md` 4.3).
//!
//! A producer pushes to the shard's inbox and calls [`Wake::notify`]: a fence and a load while the shard is
//! awake, one `write` when it sleeps. The shard's side, in this order and on its own thread only:
//!
//! ```text
//!   wake.prepare_park();
//!   if inbox.is_empty() && nothing_else_to_do { driver.park(deadline) }
//!   wake.unpark();
//! ```

use super::error::OsError;
use super::wake_state::WakeState;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// Wakes one shard. Shared by its producers and its driver, which sleeps on [`fd`](Self::fd).
#[derive(Debug)]
pub(crate) struct Wake {
    state: WakeState,
    eventfd: File,
}

impl Wake {
    /// A wake-up whose shard is awake.
    pub(crate) fn new() -> Result<Self, OsError> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(OsError::last("eventfd", "raise the limit of open files (ulimit -n)"));
        }
        // SAFETY: `fd` was just returned by the kernel, nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { state: WakeState::new(), eventfd: File::from(fd) })
    }

    /// Any thread, after it pushed something the shard must see. Once per batch is enough.
    pub(crate) fn notify(&self) {
        if self.state.notify() {
            // Fails only with EAGAIN when the counter is full: then it is readable, which is all that is
            // wanted.
            let _ = (&self.eventfd).write(&1u64.to_ne_bytes());
        }
    }

    /// The shard, before its last look at the inbox.
    pub(crate) fn prepare_park(&self) {
        self.state.prepare_park();
    }

    /// The shard, after it woke up or decided not to sleep.
    pub(crate) fn unpark(&self) {
        self.state.unpark();
    }

    /// The eventfd, for the driver.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }

    /// Resets the eventfd; true if it had been written since the last time. For the driver.
    pub(super) fn drain(&self) -> bool {
        (&self.eventfd).read(&mut [0; 8]).is_ok()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::test_support::Guard;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    fn wait_readable(wake: &Wake, timeout_ms: i32) -> bool {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd { fd: wake.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one live pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout_ms) };
        ready > 0
    }

    #[test]
    fn only_a_parked_shard_costs_a_write_and_only_one() {
        let wake = Wake::new().unwrap();
        wake.notify();
        assert!(!wake.drain()); // Awake: no system call, nothing written.
        wake.prepare_park();
        wake.notify();
        wake.notify();
        let mut count = [0; 8];
        (&wake.eventfd).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        wake.unpark();
        wake.notify();
        assert!(!wake.drain());
    }

    /// Trap 9: eight producers, a shard that parks whenever its inbox is empty. A lost wake-up shows as a
    /// poll that runs into the hang guard.
    #[test]
    fn wake_stress_eight_producers_no_message_waits() {
        const PRODUCERS: u64 = 8;
        const EACH: u64 = 20_000;
        let wake = Arc::new(Wake::new().unwrap());
        let inbox = Arc::new(AtomicU64::new(0));
        let start = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..PRODUCERS)
            .map(|seed| {
                let (wake, inbox, start) = (wake.clone(), inbox.clone(), start.clone());
                std::thread::spawn(move || {
                    while !start.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    let mut random = seed + 1;
                    for _ in 0..EACH {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        for _ in 0..(random >> 56) {
                            std::hint::spin_loop();
                        }
                        if random >> 32 & 0xff == 0 {
                            std::thread::yield_now(); // Lets the shard fall asleep.
                        }
                        inbox.fetch_add(1, Ordering::Release);
                        wake.notify();
                    }
                })
            })
            .collect();
        start.store(true, Ordering::Release);
        let guard = Guard::new("wake stress");
        let (mut taken, mut parks) = (0, 0u32);
        while taken < PRODUCERS * EACH {
            guard.check();
            taken += inbox.swap(0, Ordering::Acquire);
            if taken == PRODUCERS * EACH {
                break;
            }
            wake.prepare_park();
            if inbox.load(Ordering::Relaxed) == 0 {
                parks += 1;
                assert!(wait_readable(&wake, 10_000), "a message waits, the shard sleeps");
                wake.drain();
            }
            wake.unpark();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(taken, PRODUCERS * EACH);
        assert!(parks > 0, "the shard never parked: nothing was tested");
    }
}
