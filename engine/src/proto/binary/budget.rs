//! How often something may be done: so many times at once, and again as time passes. What nobody waits for, but what anybody
//! could cause by the thousand.

use crate::units::Instant;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    max: u32,
    every: Duration,
    earned_at: Instant,
}

impl Budget {
    /// `max` times at once, and once more `every` so long.
    #[must_use]
    pub const fn new(now: Instant, max: u32, every: Duration) -> Self {
        Self { left: max, max, every, earned_at: now }
    }

    /// Whether it may be done now.
    pub fn has(&mut self, now: Instant) -> bool {
        let earned = now.since(self.earned_at).as_nanos() / self.every.as_nanos();
        if earned > 0 {
            self.left = self.left.saturating_add(earned.min(1 << 20) as u32).min(self.max);
            self.earned_at = now;
        }
        self.left > 0
    }

    /// When it may be done once more.
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.earned_at + self.every
    }

    /// It is done.
    pub const fn spend(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}
