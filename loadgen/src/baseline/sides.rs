//! What all floods have in common: one pinned thread sends as fast as it can, another receives, and what counts is what
//! was received between two looks, after a warm-up.

use super::pin;
use crate::clock;
use anyhow::{Result, anyhow};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often a thread that waits for its socket looks up whether to stop.
pub const LOOK_UP: Duration = Duration::from_millis(50);

/// What came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    items: u64,
    bytes: u64,
    seconds: f64,
}

impl Received {
    /// Datagrams, or messages, a second.
    pub fn per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.items as f64 / self.seconds)
    }

    /// Payload bits a second.
    pub fn bits_per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.bytes as f64 * 8.0 / self.seconds)
    }
}

impl AddAssign for Received {
    fn add_assign(&mut self, other: Self) {
        self.items += other.items;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

/// Written by the receiver, read by the main thread, which also says when to stop.
#[derive(Debug, Default)]
pub struct Tally {
    items: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Tally {
    /// What the receiver has so far: datagrams, or messages, and payload bytes.
    pub fn publish(&self, items: u64, bytes: u64) {
        self.items.store(items, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn read(&self) -> (u64, u64) {
        (self.items.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Runs `send` on `cores.0` and `receive` on `cores.1` and tells what was received within `time`, after `warm_up`.
pub fn run(
    cores: (usize, usize),
    warm_up: Duration,
    time: Duration,
    send: impl FnOnce(&Tally) -> Result<()> + Send,
    receive: impl FnOnce(&Tally) -> Result<()> + Send,
) -> Result<Received> {
    let tally = Tally::default();
    std::thread::scope(|scope| {
        let tally = &tally;
        let receiving = scope.spawn(move || {
            pin(cores.1);
            receive(tally)
        });
        let sending = scope.spawn(move || {
            pin(cores.0);
            send(tally)
        });
        clock::sleep(warm_up);
        let (before, start) = (tally.read(), clock::now());
        clock::sleep(time);
        let (after, seconds) = (tally.read(), start.elapsed().as_secs_f64());
        tally.stop.store(true, Ordering::Relaxed);
        for thread in [receiving, sending] {
            thread.join().map_err(|_| anyhow!("a baseline thread panicked"))??;
        }
        Ok(Received { items: after.0 - before.0, bytes: after.1 - before.1, seconds })
    })
}
