//! Helpers shared by the unit tests.

use crate::sys::clock::Clock;
use crate::units::Instant;
use std::time::Duration;

/// How long a test waits for something that must happen before it is declared hung. The only time tests assert.
pub(crate) const HANG_GUARD: Duration = Duration::from_secs(10);

/// Says that a test does not run because this machine lacks `feature`. On CI that is a failure: a suite that skips
/// silently proves nothing.
pub(crate) fn skip(feature: &str) {
    println!("SKIP {feature}");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "CI must not skip: {feature}");
}

/// Runs out after [`HANG_GUARD`].
pub(crate) struct Guard {
    end: Instant,
    what: &'static str,
}

impl Guard {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { end: Clock.now() + HANG_GUARD, what }
    }

    pub(crate) fn check(&self) {
        assert!(Clock.now() < self.end, "hung: {}", self.what);
    }
}
