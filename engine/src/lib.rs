//! UDP-Plus.
mod runtime;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod train;
pub mod units;
pub mod wire;
