//! Notices shards whose application does not return: while it happens, which the shard itself cannot.
//!
//! A thread that looks at each shard's beginning of its turn twice in `stall_after`. Where all shards sleep it sleeps too, and the
//! first one to wake up wakes it: an idle engine costs nothing.

use super::shared::Shared;
use crate::sys::clock::Clock;
use crate::units::Instant;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// It calls nothing but the user's log subscriber.
const STACK_BYTES: usize = 256 << 10;

/// When a shard's turn began; 0 while it sleeps.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// A turn begins.
    #[inline]
    pub(crate) fn beat(&self, now: Instant) {
        self.0.store(now.as_ns(), Ordering::Relaxed);
    }

    /// The shard sleeps, or is gone.
    pub(crate) fn rest(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long its turn has lasted so far.
    pub(crate) fn lasts(&self, now: Instant) -> Option<Duration> {
        let began = self.0.load(Ordering::Relaxed);
        (began > 0).then(|| now.since(Instant::from_ns(began)))
    }
}

/// What shards and the thread have in common.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    thread: OnceLock<Thread>,
    asleep: AtomicBool,
}

impl Watch {
    /// A shard has woken up; its pulse beats.
    pub(crate) fn wake(&self) {
        // With the thread's own: one of both sees what the other wrote.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wake_always();
        }
    }

    /// The last shard is gone.
    pub(crate) fn wake_always(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Starts the thread; it ends with the last shard.
pub(crate) fn start(shared: &Arc<Shared>, stall_after: Duration) -> std::io::Result<JoinHandle<()>> {
    let watched = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("udp-plus-watch".to_owned()).stack_size(STACK_BYTES);
    let thread = thread.spawn(move || run(&watched, stall_after))?;
    let _ = shared.watch.thread.set(thread.thread().clone());
    shared.watch.wake_always();
    Ok(thread)
}

fn run(shared: &Shared, stall_after: Duration) {
    let mut reported = vec![false; shared.links.len()];
    while shared.shards_running() > 0 {
        let now = Clock.now();
        let mut awake = false;
        for ((shard, link), reported) in shared.links.iter().enumerate().zip(&mut reported) {
            let lasts = link.pulse.lasts(now);
            awake |= lasts.is_some();
            let stalled = lasts.filter(|&lasts| lasts >= stall_after);
            if let Some(stalled) = stalled.filter(|_| !*reported) {
                let stalled_ms = stalled.as_millis() as u64;
                tracing::warn!(
                    shard,
                    stalled_ms,
                    "a shard is stalled: the application's code in it does not return"
                );
            }
            *reported = stalled.is_some();
        }
        if awake {
            std::thread::park_timeout(stall_after / 2);
            continue;
        }
        shared.watch.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let rests = shared.links.iter().all(|link| link.pulse.lasts(now).is_none());
        if rests && shared.shards_running() > 0 {
            std::thread::park();
        }
        shared.watch.asleep.store(false, Ordering::Relaxed);
    }
}
