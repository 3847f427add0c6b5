//! What an engine keeps, each beside its limit.

use crate::config::{Config, Wire};
use crate::proto::endpoint::Endpoint;
use crate::runtime::internals::Shared;

/// What is kept: its name, how much of it, and how much it may be.
pub(crate) type Kept = (&'static str, u64, u64);

/// Of a shard.
pub(crate) fn by_shard<C>(endpoint: &Endpoint<C>, config: &Config) -> [Kept; 10] {
    let Endpoint { inbound, inflows, .. } = endpoint;
    let (rows, flows) = (&endpoint.outbound.rows, &endpoint.outbound.flows);
    let [windows, pages, tombstones] = inbound.remembered();
    let ops_max = u64::from(config.ops_in_flight_max);
    // Those that do not wait for a flow any longer may wait for room among the rows, while the flows have room again; and of
    // actors so many go by rows, and so many by flows.
    let both = config.wire == Wire::Auto || !config.peer_wires.is_empty();
    [
        ("partials of rows", inbound.partials() as u64, config.partials_max.into()),
        // R-PARTIAL-3: one may exceed.
        ("bytes of these", inbound.partial_bytes(), config.partial_bytes_max + config.partial_held_max()),
        ("bytes of partials in flows", inflows.partial_bytes(), config.partial_bytes_max),
        ("dedup windows", windows as u64, config.peers_max.into()),
        ("dedup pages", pages as u64, config.dedup_pages_max.into()),
        ("tombstones", tombstones as u64, config.tombstones_max.into()),
        ("peers by rows", rows.peers() as u64, config.peers_max.into()),
        ("flows", flows.count() as u64, config.peers_max.into()),
        ("operations by rows", rows.in_flight() as u64, ops_max),
        ("operations", endpoint.outbound.in_flight() as u64, ops_max * if both { 2 } else { 1 }),
    ]
}

/// What its shards share, and what waits between them and its applications.
pub(crate) fn by_all(shared: &Shared, config: &Config) -> Vec<Kept> {
    let (messages, bytes) = shared.recv.used();
    let mut kept = vec![
        ("messages in the receive bucket", messages as u64, config.recv_bucket_messages.into()),
        ("bytes in the receive bucket", bytes, config.recv_bucket_bytes),
    ];
    let to_send = shared.bytes_to_send();
    kept.extend(to_send.map(|bytes| ("bytes of messages to send", bytes, config.send_bytes_max)));
    kept
}
