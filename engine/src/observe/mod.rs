//! What watches the engine: counters, local to a shard and published by it.

mod counters;

pub use counters::Counters;
pub(crate) use counters::Published;
