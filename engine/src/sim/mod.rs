//! The simulator: the production shard over virtual time and a network that misbehaves, everything from one seed.
//!
//! | module | owns |
//! |---|---|
//! | `network` | datagrams under way, and the faults done to them |
//! | `driver` | [`Driver`](crate::runtime::driver::Driver) over it, with a kernel that refuses |
//! | `world` | engines, time, the plan of messages; runs a seed |
//! | `exchange` | two shards on a perfect network, for instruction counts |
//! | `checkers` | the verdict, from what applications saw, never from the engine's counters |

mod checkers;
mod driver;
mod exchange;
mod network;
mod world;

pub use checkers::Violation;
pub use exchange::Exchange;
pub use network::Faults;
pub use world::{Report, run};
