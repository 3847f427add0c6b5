//! The engine at run time: threads, drivers, buckets. Names `proto` and `sys`; nothing names it.
//!
//! | module | owns |
//! |---|---|
//! | `engine`, `builder` | start and stop; the public handle |
//! | `shard` | the loop, one per thread |
//! | `driver`, `uring_driver`, `mmsg_driver` | the network, as the loop sees it |
//! | `actor` | the application inside the shard |
//! | `bucket`, `completion` | the application outside: messages and outcomes in bulk |
//! | `mailbox`, `shared` | how threads reach a shard; what all of them share |
//! | `arena` | payload memory |

mod actor;
mod arena;
mod bucket;
mod builder;
mod completion;
pub(crate) mod driver;
#[cfg(all(test, not(loom)))]
mod driver_tests;
pub(crate) mod mmsg_driver;
pub(crate) mod uring_driver;
