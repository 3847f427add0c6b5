//! Whether engines keep to their limits, whatever is done to them.

use super::World;
use super::engines::{SimEngine, each};
use crate::config::Wire;
use crate::runtime::internals::lock;
use crate::sim::checkers::Violation;

impl World {
    /// Looks at what every shard keeps.
    pub(super) fn check_limits(&self) {
        for (index, engine) in self.engines.iter().enumerate() {
            for over in engine.over_limits() {
                lock(&self.log).violations.push(Violation::OverLimit(format!("engine {index}: {over}")));
            }
        }
    }
}

impl SimEngine {
    fn over_limits(&self) -> Vec<String> {
        let config = &self.config;
        let mut over = Vec::new();
        let mut check = |what: &str, kept: u64, limit: u64| {
            if kept > limit {
                over.push(format!("{what}: {kept} of {limit}"));
            }
        };
        // R-PARTIAL-3: one may exceed.
        let rows_max = config.partial_bytes_max + config.partial_held_max();
        for shard in &self.shards {
            let endpoint = each!(shard, shard => shard.endpoint());
            let (inbound, inflows) = (&endpoint.inbound, &endpoint.inflows);
            check("partials of rows", inbound.partials() as u64, config.partials_max.into());
            check("bytes of these", inbound.partial_bytes(), rows_max);
            check("bytes of partials in flows", inflows.partial_bytes(), config.partial_bytes_max);
            let (rows, flows) = (&endpoint.outbound.rows, &endpoint.outbound.flows);
            check("operations in rows", rows.in_flight() as u64, config.ops_in_flight_max.into());
            // Those that do not wait for a flow any longer may wait for room among the rows, while the flows have room again.
            let both = config.wire == Wire::Auto || !config.peer_wires.is_empty();
            let wires = if both { 2 } else { 1 };
            let operations = (rows.in_flight() + flows.in_flight()) as u64;
            check("operations", operations, wires * u64::from(config.ops_in_flight_max));
            check("flows", flows.count() as u64, config.peers_max.into());
        }
        let (messages, bytes) = self.shared.recv.used();
        check("messages in the receive bucket", messages as u64, config.recv_bucket_messages.into());
        check("bytes in the receive bucket", bytes, config.recv_bucket_bytes);
        over
    }
}
