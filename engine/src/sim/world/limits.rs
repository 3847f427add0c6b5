//! Whether engines keep to their limits, whatever is done to them.

use super::World;
use super::engines::{SimEngine, each};
use crate::runtime::internals::lock;
use crate::sim::checkers::Violation;
use crate::sim::kept::{self, Kept};

impl World {
    /// Looks at what every engine keeps.
    pub(super) fn check_limits(&self) {
        for (index, engine) in self.engines.iter().enumerate() {
            for (what, kept, limit) in engine.kept().into_iter().filter(|(_, kept, limit)| kept > limit) {
                let text = format!("engine {index}: {what}: {kept} of {limit}");
                lock(&self.log).violations.push(Violation::OverLimit(text));
            }
        }
    }
}

impl SimEngine {
    fn kept(&self) -> Vec<Kept> {
        let of_shards = self
            .shards
            .iter()
            .flat_map(|shard| kept::by_shard(each!(shard, shard => shard.endpoint()), &self.config));
        of_shards.chain(kept::by_all(&self.shared, &self.config)).collect()
    }
}
