#![doc = include_str!("../../README.md")]
mod commit;
mod config;
mod constants;
mod error;
mod hash;
#[doc(hidden)]
#[cfg(feature = "internals")]
pub mod internals;
mod message;
mod observe;
mod options;
mod peer_match;
mod peer_rules;
mod proto;
mod runtime;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sys;
#[cfg(test)]
mod test_support;
mod train;
pub mod units;
mod wire;

pub use commit::Commit;
pub use config::{
    Config, ConfirmFrom, DEFAULT_PORT, DEFAULT_SOCKET_BUFFER_BYTES, DriverChoice, Footprint, Preset,
    V1_CHUNK_BYTES_MAX, V1_ROW_BYTES_MAX, Wire, truesize_bytes,
};
pub use error::{
    ConfigError, DeliveryError, FailureCause, PutError, Reached, Refusal, StartError, Stopped, SubmitError,
    SubmitReason,
};
pub use message::{Delivered, Level, Message, MessageRef, Outcome, Outgoing, Verdict};
pub use observe::{Counters, HostUdp, Ledger, Part, ShardLedger, SocketLedger, Sum, Unit};
pub use options::Priority;
pub use peer_match::{ParsePeerMatchError, PeerMatch};
pub use proto::congestion;
pub use proto::protection;
pub use proto::retry;
pub use runtime::{
    Actor, Builder, Context, Delivery, DriverKind, DriverReport, Engine, RecvBucket, SendBucket, Stats,
    ToActors, ToBucket,
};
pub use wire::DropReason;
