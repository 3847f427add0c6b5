//! UDP-Plus.
mod runtime;
pub mod train;
pub mod units;
pub mod wire;
