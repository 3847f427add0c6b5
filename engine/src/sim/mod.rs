//! What the engine is tested against, in virtual time and on real sockets. Feature `sim`; nothing here is part of the
//! engine.
//!
//! The simulator runs the production shard over virtual time and a network that misbehaves, everything from one seed:
//!
//! | module | owns |
//! |---|---|
//! | `network` | datagrams under way, and sockets: a kernel that refuses, stalls and mixes things up |
//! | `links` | the ways between hosts: loss, queues, hosts cut off from others |
//! | `outsider` | somebody who repeats, makes up and forges datagrams |
//! | `driver` | the shard's driver over it |
//! | `faults` | what is done to a world, and how often it happened |
//! | `world` | time: runs a seed |
//! | `world::engines` | the engines of a world, and their actors |
//! | `world::v1` | its model v1 peers |
//! | `world::plan` | its messages |
//! | `world::faults` | what goes wrong in it |
//! | `world::drain` | engines that are shut down, and start again |
//! | `world::keys` | sealed worlds whose keys change |
//! | `world::auto` | worlds in which nobody knows what the others speak |
//! | `world::report` | what a seed did |
//! | `scenes` | what a world went through besides faults |
//! | `tally` | what many seeds did: a kind that never occurred proves nothing |
//! | `trace` | everything that happens: hashed, written down, captured |
//! | `key_files` | keys that change, as operators change them |
//! | `toy_cipher` | a datagram protection for worlds in which everything is sealed |
//! | `v1_watch` | what passed between engines and v1 peers, row by row |
//! | `checkers` | the verdict, from what applications saw, never from the engine's counters |
//! | `lane_order` | the same, of messages in lanes |
//! | `last_sent` | when each message last left its sender |
//! | `kept` | what engines keep, beside its limits |
//! | `exchange` | two shards on a perfect network, for instruction counts |
//!
//! Loss scenarios, as data for virtual time and for real sockets: `scenario`.
//!
//! Peers for real sockets: `v1_peer` is a model of the original toolkit without I/O, `v1_host` runs it on a real socket,
//! `relay` is a bad network between real sockets (`relay_log` is what it remembers), `python` is what the original
//! inherits from Python, `attack` is what hostile peers send. `v1_host` and `relay` live in real time: each has a thread,
//! reads the clock and sleeps.

#[cfg(test)]
mod backlog_tests;
mod checkers;
#[cfg(test)]
mod checkers_tests;
#[cfg(test)]
mod commit_tests;
mod counts;
mod driver;
mod exchange;
mod faults;
pub mod fuzz;
mod kept;
mod key_files;
mod lane_order;
mod last_sent;
mod links;
mod network;
mod outsider;
mod scenes;
#[cfg(test)]
mod start_tests;
mod tally;
mod toy_cipher;
mod trace;
mod v1_watch;
mod world;

pub use checkers::Violation;
pub use exchange::{Exchange, Load};
pub use faults::{FaultCounts, Faults};
pub use lane_order::LaneCounts;
pub use scenes::SceneCounts;
pub use tally::Tally;
pub use trace::Record;
pub use v1_watch::V1Counts;
pub use world::{Report, run, run_recorded, run_with_keys};

use crate::units::Instant;
use std::time::Duration;

pub mod attack;
#[cfg(test)]
pub(crate) mod golden;
pub mod python;
pub mod relay;
pub mod relay_log;
pub mod scenario;
pub mod v1_host;
pub mod v1_peer;

/// The real clock, counted from when it was made.
#[derive(Clone, Copy, Debug)]
struct RealClock {
    started: std::time::Instant,
}

impl RealClock {
    #[expect(clippy::disallowed_methods, reason = "test peers on real sockets live in real time")]
    fn start() -> Self {
        Self { started: std::time::Instant::now() }
    }

    fn now(&self) -> Instant {
        Instant::from_ns(0) + self.started.elapsed()
    }
}

#[expect(clippy::disallowed_methods, reason = "test peers on real sockets live in real time")]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// The wall clock as the original writes it into column 5.
#[expect(clippy::disallowed_methods, reason = "test peers on real sockets live in real time")]
fn python_time() -> String {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:06}", since_1970.as_secs(), since_1970.subsec_micros())
}
