//! The engine at run time: threads, drivers, buckets. Names `proto` and `sys`; nothing names it.
//!
//! | module | owns |
//! |---|---|
//! | `engine`, `builder` | start and stop; the public handle |
//! | `kernel_side` | the sockets of a running engine, and what the kernel counts |
//! | `shard` | the loop, one per thread |
//! | `driver`, `uring_driver`, `mmsg_driver` | the network, as the loop sees it |
//! | `actor` | the application inside the shard |
//! | `bucket`, `completion` | the application outside: messages and outcomes in bulk |
//! | `mailbox`, `shared` | how threads reach a shard; what all of them share |
//! | `listening` | how tasks of the application wait |
//! | `sync` | the locks and atomics of these |
//! | `watchdog` | who notices that an application does not return |
//! | `arena` | payload memory |
//! | `key_file` | keys from a file |

mod actor;
mod arena;
mod bucket;
mod builder;
mod completion;
pub(crate) mod driver;
#[cfg(test)]
#[cfg(not(loom))]
mod driver_tests;
mod engine;
mod kernel_side;
mod key_file;
mod listening;
mod mailbox;
mod mmsg_driver;
#[cfg(test)]
#[cfg(loom)]
mod queue_models;
mod run;
mod shard;
mod shared;
mod sync;
pub(crate) mod uring_driver;
mod watchdog;

pub use actor::{Actor, Context};
pub use bucket::{RecvBucket, SendBucket};
pub use builder::{Builder, ToActors, ToBucket};
pub use completion::Delivery;
pub use engine::{DriverKind, DriverReport, Engine, Stats};
pub(crate) use run::KEPT_BYTES as RUNS_KEPT_BYTES;

/// What the simulator runs: the production shard and its application side.
#[cfg(any(test, feature = "sim"))]
pub(crate) mod internals {
    pub(crate) use super::actor::{Actor, ActorApp, BucketApp, Context};
    pub(crate) use super::bucket::SendBucket;
    pub(crate) use super::completion::{Delivery, lock};
    pub(crate) use super::shard::{Setup, Shard, Turn};
    pub(crate) use super::shared::{Phase, Shared};
}
