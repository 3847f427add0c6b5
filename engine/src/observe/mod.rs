//! What watches the engine: counters, local to a shard and published by it; the ledger, which adds them up.

mod counters;
mod ledger;
mod published;

pub use counters::Counters;
pub(crate) use ledger::sums;
pub use ledger::{HostUdp, Ledger, Part, ShardLedger, SocketLedger, Sum, Unit};
pub(crate) use published::{Gauges, Published};
