//! The tool's one clock, and its one way to wait. Everything else takes times as arguments, as nanoseconds since
//! [`now_ns`]'s origin (or, inside a shard, since the engine's: one run never mixes the two).

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since the first call.
pub fn now_ns() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    ns(ORIGIN.get_or_init(now).elapsed())
}

/// Wall-clock seconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Blocks the calling thread; for the main thread only, which has nothing to do while the shards work.
#[expect(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// A duration in whole nanoseconds; 584 years are enough.
pub fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
