//! The protocol: state machines fed with datagrams and time. No I/O, no clock, no threads.
//!
//! | module | owns |
//! |---|---|
//! | `endpoint` | one shard's state; what the loop calls |
//! | `outbound` | operations of our own: window, pacing, retries, outcomes |
//! | `ack_tracker`, `small_payloads`, `chunks`, `peers`, `rtt`, `holds` | the tables `outbound` works on |
//! | `inbound` | operations of others: dedup, reassembly, hand-over |
//! | `dedup`, `reassembly`, `shares` | the tables `inbound` works on, and how much of them one host gets |
//! | `sending` | both ways out of a shard: rows and flows |
//! | `wires` | which of the two an address is spoken to in |
//! | `binary` | flows of the binary wire, both directions |
//! | `timer_wheel` | deadlines of both |
//! | `unread` | until when all that came has been read |
//! | `retry` | how long what was not answered waits before it goes again |
//! | `keys` | the engine's own way to seal them, with keys of a file |
//! | `protection` | how datagrams of the binary wire are sealed, if they are |
//! | `plugins` | what users may put in the place of the engine's own |
//! | `congestion` | how much a flow of the binary wire may have in flight, and how fast it leaves |
#![forbid(unsafe_code)]

pub mod ack_tracker;
pub mod binary;
pub mod chunks;
pub mod congestion;
pub mod dedup;
pub mod endpoint;
pub mod holds;
pub mod inbound;
pub mod keys;
pub mod outbound;
pub mod peers;
pub mod plugins;
pub mod protection;
pub mod reassembly;
pub mod retry;
pub mod rtt;
pub mod sending;
pub mod shares;
pub mod small_payloads;
pub mod timer_wheel;
pub mod unread;
pub mod wires;

/// Memory of one operation in flight beside its payload: slot, timer node, free-list entry.
pub const OP_BYTES: u64 = (size_of::<ack_tracker::Op<Box<[u8]>>>() + 24 + 4) as u64;
/// Memory of a copy of its payload, if it is small.
pub const OP_COPY_BYTES: u64 = small_payloads::SMALL_PAYLOAD_BYTES_MAX as u64;
/// Memory of one dedup page with its index.
pub const DEDUP_PAGE_BYTES: u64 = dedup::PAGE_BYTES as u64 + 96;
/// Memory of one partial message at most.
#[must_use]
pub const fn partial_held_max(chunk_count_max: u32, message_bytes_max: u32) -> u64 {
    let bytes_limit = message_bytes_max as usize + inbound::ESTIMATE_SLACK;
    reassembly::Partial::held_bytes_max(chunk_count_max, bytes_limit) as u64
}
/// Memory of one tombstone with its index.
pub const TOMBSTONE_BYTES: u64 = 128;
/// Memory of one flow of the binary wire, awake, beside what is under way on it.
pub const FLOW_BYTES: u64 = binary::flows::FLOW_BYTES;
/// Memory of one operation in flight on a flow beside its payload: rings double.
pub const FLOW_OP_BYTES: u64 =
    (2 * size_of::<binary::op_ring::Entry<[usize; 2]>>() + binary::small_queue::WAITING_BYTES) as u64;
/// Memory of a shard's datagrams in flight on flows.
pub const FLOW_DATAGRAMS_BYTES: u64 = binary::flows::DATAGRAMS_BYTES;
/// Memory of what a shard remembers of addresses on the binary wire.
pub const FLOW_ADDRESSES_BYTES: u64 = binary::flows::REMEMBERED_BYTES;
/// Memory of what a shard's flows remember behind gaps.
pub const FLOW_DEDUP_BYTES: u64 = binary::inflow::DEDUP_BYTES;
/// Memory of one peer with its index.
pub const PEER_BYTES: u64 = (size_of::<peers::Peer>() + 48) as u64;
