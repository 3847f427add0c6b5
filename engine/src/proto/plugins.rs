//! What users may put in the place of the engine's own: one value, made by the builder, shared by all shards.

use super::congestion::CongestionFactory;
use super::protection::{Protection, TAG_BYTES_MAX};
use super::retry::Retries;
use crate::config::{Config, Wire};
use crate::error::ConfigError;
use std::sync::Arc;

/// See the module. The default is the engine's own in everything.
#[derive(Clone, Debug, Default)]
pub struct Plugins {
    /// Instead of the option `congestion`.
    pub congestion: Option<Arc<dyn CongestionFactory>>,
    /// When what was not answered goes again.
    pub(crate) retries: Retries,
    /// Without one, nothing is sealed.
    pub protection: Option<Arc<dyn Protection>>,
}

/// Shortest datagram limit: what feedback and handshake are laid out for, tag not counted.
const DATAGRAM_BYTES_LEAST: usize = 512;

impl Plugins {
    /// Bytes a sealed datagram is longer than a plain one.
    #[must_use]
    pub fn tag_bytes(&self) -> usize {
        self.protection.as_ref().map_or(0, |protection| protection.tag_bytes())
    }

    /// Checks what they ask of the options.
    ///
    /// # Errors
    /// The first option that does not go with them.
    pub fn validate(&self, config: &Config) -> Result<(), ConfigError> {
        let fail = |problem: String| Err(ConfigError { option: "protection", problem });
        let tag_bytes = self.tag_bytes();
        if self.protection.is_some() && config.wire != Wire::Binary {
            return fail(format!(
                "rows cannot be sealed: it, or a key_file, needs wire = Binary, not {:?}",
                config.wire
            ));
        }
        let other = config.peer_wires.iter().find(|rule| rule.1 != Wire::Binary);
        if let (Some(_), Some((peer, wire))) = (&self.protection, other) {
            return fail(format!(
                "rows cannot be sealed: it, or a key_file, needs Binary for all peers, and peer_wires has {peer} as {wire:?}"
            ));
        }
        if tag_bytes > TAG_BYTES_MAX {
            return fail(format!("tags of {tag_bytes} bytes are longer than {TAG_BYTES_MAX}"));
        }
        let least = DATAGRAM_BYTES_LEAST + tag_bytes;
        match config.datagram_bytes_max {
            Some(bytes) if usize::from(bytes) < least => fail(format!(
                "datagram_bytes_max = {bytes} leaves too little beside tags of {tag_bytes} bytes: at least {least}"
            )),
            _ => Ok(()),
        }
    }
}
