//! What fuzzers run, and `tests/corpus.rs` with the inputs they found: one function for each target.
//!
//! An input that comes from nowhere fails at the first checksum. So inputs are *repaired* on their way, and their first
//! bytes say how: lengths made to fit, checksums computed, tags and epochs replaced by those in use. What is not repaired
//! reaches the code as well, as far as it gets.
//!
//! | module | target | what must hold |
//! |---|---|---|
//! | `v1_decode` | `v1_decode` | rows are understood or refused, one by one and in runs alike, and come back as written |
//! | `v2_decode` | `v2_decode` | all readers of a datagram agree, and what was read is written again |
//! | `v2_round_trip` | `v2_round_trip` | what is written comes back |
//! | `cmsg` | `cmsg` | what the kernel stores with a datagram is understood or refused |
//! | `endpoint` | `endpoint` | an engine among peers that say anything: bounded, everything counted, every message ends |
//! | `two_endpoints` | `two_endpoints` | over the worst channel one outcome each, none twice; over a good one all arrive |
//! | `key_file` | `key_file` | keys as text are understood or refused without a word of them, and chosen by address |
//! | `bytes`, `repair`, `end`, `seals` | | what they share |
//!
//! The command line has a target of its own, in `loadgen`: `cli_config`.

mod bytes;
mod cmsg;
mod end;
mod endpoint;
mod key_file;
mod repair;
mod seals;
mod two_endpoints;
mod v1_decode;
mod v2_decode;
mod v2_round_trip;

/// The harness of a target: returns, or panics where a promise is broken.
pub type Harness = fn(&[u8]);

/// Every target by its name, which is that of its corpus in `engine/fuzz/corpus`, too.
pub const TARGETS: [(&str, Harness); 7] = [
    ("v1_decode", v1_decode::run),
    ("v2_decode", v2_decode::run),
    ("v2_round_trip", v2_round_trip::run),
    ("cmsg", cmsg::run),
    ("endpoint", endpoint::run),
    ("two_endpoints", two_endpoints::run),
    ("key_file", key_file::run),
];

/// Runs one input of a target.
///
/// # Panics
/// Where a promise is broken, and if there is no such target.
pub fn run(target: &str, input: &[u8]) {
    let harness = TARGETS.iter().find(|(name, _)| *name == target);
    harness.expect("a target of this name").1(input);
}
