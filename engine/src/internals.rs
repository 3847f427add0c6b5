//! What the micro-benchmarks in `bench/` measure. Feature `internals`; not a public interface.

pub use crate::hash::{Hasher, Rng, Seed};
pub use crate::proto::binary::{chunk_assembly, op_window, packet_ranges};
pub use crate::proto::{ack_tracker, dedup, reassembly, shares, timer_wheel};
pub use crate::train::{Train, TrainBatch};
pub use crate::wire::{binary, csv};
