//! Sizes that are not options, and how they relate.

/// Bytes of rows a shard sends in one turn. Bounds the time between two looks at the receive side (`IO_URING.md` 3.2):
/// on loopback the receiver's softirq runs inside our send.
pub const TRAIN_BATCH_BYTES: usize = 512 << 10;
/// Trains a shard sends in one turn.
pub const TRAIN_BATCH_TRAINS: usize = 256;
/// Messages a shard takes from its inbox in one turn.
pub const INBOX_TURN_MAX: usize = 1_024;
/// Bytes of the arena small received payloads and copied outgoing payloads are cut from.
pub const PAYLOAD_ARENA_BYTES: usize = 1 << 20;
