//! What users may put in the place of the engine's own: one value, made by the builder, shared by all shards.

use super::congestion::CongestionFactory;
use super::retry::Retries;
use std::sync::Arc;

/// See the module. The default is the engine's own in everything.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    /// Instead of the option `congestion`.
    pub congestion: Option<Arc<dyn CongestionFactory>>,
    /// When what was not answered goes again.
    pub(crate) retries: Retries,
}
