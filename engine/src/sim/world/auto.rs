//! Mixed worlds: engines of `auto`, engines of `binary` and v1 peers on one network, so that everybody has to find out what
//! the others speak while datagrams are lost and engines restart.

use super::World;
use crate::config::{Config, Wire};
use crate::hash::Seed;
use crate::message::Outgoing;
use crate::proto::binary::extras::needs_binary;
use crate::proto::wires::Wires;
use crate::sim::checkers::{Fate, Kind, Log};
use crate::sim::scenes::SceneCounts;
use crate::units::Instant;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// From here on nobody who failed to answer before the network healed counts as a v1 peer: for 60 s (R-DISC-6) from when the
/// wait of the last probe that was lost is over, which is as long as all waits before.
pub(super) const FORGIVEN: Duration = Duration::from_secs(76);

/// The last messages are put within so long after that.
const FORGIVEN_SPAN_MS: u32 = 6_000;

/// Which wire a seed's world is about; [`Wire::Auto`]: it is mixed. Drawn of its own, so that other seeds stay what they
/// were.
pub(super) fn wire_of(seed: u64) -> Wire {
    let root = Seed::from_number(seed);
    match (root.rng(17).below(4), root.rng(12).below(2)) {
        (0, _) => Wire::Auto,
        (_, 0) => Wire::Binary,
        _ => Wire::Csv,
    }
}

impl World {
    pub(super) fn is_mixed(&self) -> bool {
        self.wire == Wire::Auto
    }

    /// One at least of each. An engine of `binary` is told of the v1 peers: either what they are, or to find out.
    pub(super) fn mix(&self, index: usize, config: &mut Config) {
        let mut rng = self.root.rng(300 + index as u64);
        let is_auto = [true, false].get(index).copied().unwrap_or_else(|| rng.below(2) == 0);
        if is_auto {
            return;
        }
        let to_v1 = [Wire::Csv, Wire::Auto][rng.below(2) as usize];
        config.wire = Wire::Binary;
        config.peer_wires = (1..3).map(|host| (IpAddr::from([10, 0, 1, host]).into(), to_v1)).collect();
    }

    /// When a message is put after the network healed: half of them at once, half when old silence counts no more.
    pub(super) fn draw_healed_at(&mut self) -> Instant {
        let after = Duration::from_millis(self.rng.below(FORGIVEN_SPAN_MS).into());
        self.heal_at + after + if self.rng.below(2) == 0 { FORGIVEN } else { Duration::ZERO }
    }

    /// What an engine of the world takes the address for.
    pub(super) fn wire_between(&self, sender: usize, to: SocketAddr) -> Wire {
        self.engines.get(sender).map_or(Wire::Csv, |engine| Wires::new(&engine.config).of(to))
    }
}

/// No row can carry it.
pub(super) fn is_binary_only(outgoing: &Outgoing) -> bool {
    std::str::from_utf8(&outgoing.payload).is_err()
        || outgoing.options.as_deref().is_some_and(|options| needs_binary(options).is_some())
}

/// What became of the messages of a mixed world.
pub(super) fn count_mixed(world: &World, log: &Log, scenes: &mut SceneCounts) {
    scenes.mixed_worlds += 1;
    let wire = |host: usize| world.engines.get(host).map(|engine| engine.config.wire);
    for Fate { kind, sender, receiver, by_rows, outcomes, received, .. } in log.fates.values() {
        let is_delivered = outcomes.first().is_some_and(Result::is_ok);
        let to_v1 = *kind == Kind::ToV1;
        scenes.not_for_v1 += u64::from(to_v1 && !by_rows && !outcomes.is_empty());
        scenes.v1_to_mixed += u64::from(*kind == Kind::FromV1 && *received > 0);
        if !is_delivered {
            continue;
        }
        match (wire(*sender), wire(*receiver)) {
            (Some(Wire::Auto), Some(Wire::Auto)) => {
                scenes.auto_to_auto += 1;
                scenes.auto_to_auto_in_flows += u64::from(!by_rows);
            }
            (Some(Wire::Auto), Some(Wire::Binary)) => scenes.auto_to_binary += 1,
            (Some(Wire::Binary), Some(Wire::Auto)) => scenes.binary_to_auto += 1,
            (Some(Wire::Auto), None) if to_v1 => scenes.auto_to_v1 += 1,
            _ => {}
        }
    }
}
