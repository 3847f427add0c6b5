//! UDP-Plus.
mod runtime;
mod sys;
#[cfg(test)]
mod test_support;
pub mod train;
pub mod units;
pub mod wire;
