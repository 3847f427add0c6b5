//! A constant window: no reaction to anything. The peer's credit and the loss recovery's back-off are what is left.

use super::{AckSample, CcConfig, CongestionControl, LossSample};
use crate::units::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Fixed {
    window_bytes: u64,
}

impl Fixed {
    pub(super) fn new(config: &CcConfig) -> Self {
        Self { window_bytes: config.consistent().fixed_window_bytes }
    }
}

impl CongestionControl for Fixed {
    fn on_ack(&mut self, _: Instant, _: &AckSample) {}

    fn on_loss(&mut self, _: Instant, _: &LossSample) {}

    fn on_spurious_loss(&mut self, _: Instant) {}

    fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    fn pacing_bytes_per_s(&self) -> Option<u64> {
        None
    }
}
