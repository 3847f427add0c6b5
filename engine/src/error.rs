//! Typed errors, one kind per culprit: the caller ([`SubmitError`], [`ConfigError`]), the operation's fate
//! ([`DeliveryError`]), the operating system ([`StartError`]). Bad bytes from peers are no errors but
//! [`DropReason`](crate::DropReason)s, each with a counter.

use crate::message::Outgoing;
use std::fmt;

/// How an operation that was accepted, but not delivered, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{cause}; the peer {reached}")]
pub struct DeliveryError {
    /// What ended it.
    pub cause: FailureCause,
    /// Whether the peer's application may have the message all the same.
    pub reached: Reached,
}

/// What ended an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum FailureCause {
    /// A row was tried `tries_max` times, or for `try_span_max`, without a confirm. Over the binary wire: nothing was heard
    /// of the peer for `try_span_max`, or it never said that it speaks that wire.
    #[error("timed out")]
    TimedOut,
    /// The operation's deadline passed.
    #[error("expired at its deadline")]
    Expired,
    /// It was refused: before anything was sent, or by the peer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The peer lost its state while the operation was under way: it confirmed some chunks before and some after. Over the
    /// binary wire: its flow is not known there any more, or a new start of it took its place.
    #[error("peer restarted")]
    PeerRestarted,
    /// The payload is not UTF-8 text, which is all the CSV wire can carry.
    #[error("payload is not UTF-8 text")]
    NotText,
    /// The caller cancelled it.
    #[error("cancelled")]
    Cancelled,
    /// The engine was stopped or dropped, or the shard failed.
    #[error("engine stopped")]
    EngineStopped,
}

impl FailureCause {
    /// Every cause, in the order of the counters.
    pub const ALL: &[Self] = &[
        Self::TimedOut,
        Self::Expired,
        Self::Refused(Refusal::TooLarge),
        Self::Refused(Refusal::BadAddress),
        Self::Refused(Refusal::ByPeer),
        Self::Refused(Refusal::Closing),
        Self::Refused(Refusal::MetadataTooLong),
        Self::Refused(Refusal::MetadataNeedsBinary),
        Self::Refused(Refusal::CommitNeedsBinary),
        Self::Refused(Refusal::EmptyCommitted),
        Self::Refused(Refusal::NotCommitted),
        Self::Refused(Refusal::LaneNeedsBinary),
        Self::Refused(Refusal::EmptyInLane),
        Self::PeerRestarted,
        Self::NotText,
        Self::Cancelled,
        Self::EngineStopped,
    ];

    /// A short name, `snake_case`, as used by counters and reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Refused(Refusal::TooLarge) => "refused_too_large",
            Self::Refused(Refusal::BadAddress) => "refused_bad_address",
            Self::Refused(Refusal::ByPeer) => "refused_by_peer",
            Self::Refused(Refusal::Closing) => "refused_closing",
            Self::Refused(Refusal::MetadataTooLong) => "refused_metadata_too_long",
            Self::Refused(Refusal::MetadataNeedsBinary) => "refused_metadata_needs_binary",
            Self::Refused(Refusal::CommitNeedsBinary) => "refused_commit_needs_binary",
            Self::Refused(Refusal::EmptyCommitted) => "refused_empty_committed",
            Self::Refused(Refusal::NotCommitted) => "refused_not_committed",
            Self::Refused(Refusal::LaneNeedsBinary) => "refused_lane_needs_binary",
            Self::Refused(Refusal::EmptyInLane) => "refused_empty_in_lane",
            Self::PeerRestarted => "peer_restarted",
            Self::NotText => "not_text",
            Self::Cancelled => "cancelled",
            Self::EngineStopped => "engine_stopped",
        }
    }
}

/// Why an operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than `message_bytes_max`.
    #[error("message longer than message_bytes_max")]
    TooLarge,
    /// Port 0, an unspecified or multicast address, or a family the socket does not have.
    #[error("not an address this engine can send to")]
    BadAddress,
    /// The peer will not take this message, however often it is sent (binary wire).
    #[error("refused by the peer")]
    ByPeer,
    /// The peer is closing, and takes nothing more (binary wire).
    #[error("the peer is closing")]
    Closing,
    /// Its metadata takes more than 255 bytes on the wire.
    #[error("more than 255 bytes of metadata")]
    MetadataTooLong,
    /// It has metadata, and the CSV wire carries none: the engine speaks nothing else, or the peer does not.
    #[error("metadata travels on the binary wire alone")]
    MetadataNeedsBinary,
    /// It is to wait for a commit, and nobody says one on the CSV wire: the engine speaks nothing else, or the peer does not.
    #[error("a commit can be waited for on the binary wire alone")]
    CommitNeedsBinary,
    /// It has no payload, and is to wait for a commit: on the wire there is nothing that could be committed.
    #[error("an empty message cannot wait for a commit")]
    EmptyCommitted,
    /// The peer's application dropped it without a commit.
    #[error("not committed by the peer")]
    NotCommitted,
    /// It is in a lane, and rows have no order: the engine speaks nothing but the CSV wire, or the peer does not.
    #[error("lanes are kept on the binary wire alone")]
    LaneNeedsBinary,
    /// It has no payload, and is in a lane: on the wire there is nothing that could wait for its turn.
    #[error("an empty message cannot be in a lane")]
    EmptyInLane,
}

/// What is known about whether a failed message reached the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reached {
    /// Certainly not: nothing of it was ever transmitted, or the peer said that it took nothing of it.
    Never,
    /// Unknown: at least one row of it left this host.
    Unknown,
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "was never reached",
            Self::Unknown => "may or may not have it",
        })
    }
}

/// A message was not accepted. It gives the message back.
#[derive(Debug, thiserror::Error)]
#[error("message not accepted: {reason}")]
pub struct SubmitError {
    /// Why not.
    pub reason: SubmitReason,
    /// The message, untouched. Boxed to keep the common `Ok` small.
    pub outgoing: Box<Outgoing>,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitReason {
    /// The send bucket is full: wait for outcomes, or use `put`, which waits.
    #[error("the send bucket is full")]
    Full,
    /// See [`Refusal`].
    #[error("{0}")]
    Refused(Refusal),
    /// The payload is not UTF-8 text, which is all the CSV wire can carry.
    #[error("payload is not UTF-8 text")]
    NotText,
    /// The engine is shutting down or gone.
    #[error("the engine has stopped")]
    Stopped,
}

impl SubmitReason {
    /// What an operation ends with where there is nobody to give it back to (`put_batch`).
    #[must_use]
    pub(crate) const fn cause(self) -> FailureCause {
        match self {
            Self::Refused(refusal) => FailureCause::Refused(refusal),
            Self::NotText => FailureCause::NotText,
            Self::Full | Self::Stopped => FailureCause::EngineStopped,
        }
    }
}

/// `put_message` failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The host name has no address: the resolver's error.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The name as given.
        host: String,
        /// The resolver's reason.
        error: std::io::Error,
    },
    /// The message was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The message was accepted, but not delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

/// The engine has stopped; there will be no further messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

/// A limit or option makes no sense. Says which and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {problem}")]
pub struct ConfigError {
    /// The option's name, as on the builder.
    pub option: &'static str,
    /// What is wrong and what to do.
    pub problem: String,
}

/// The engine could not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// See [`ConfigError`].
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address to bind cannot be resolved.
    #[error("cannot resolve bind address {address:?}: {error}")]
    Resolve {
        /// The address as given.
        address: String,
        /// The resolver's reason.
        error: std::io::Error,
    },
    /// io_uring was demanded (`driver = uring`) but cannot be used here.
    #[error("driver = uring was demanded, but {reason}")]
    UringUnavailable {
        /// What was tried, what failed and what to do.
        reason: String,
    },
    /// A system call failed. The text says which, why, and what to do.
    #[error("{message}")]
    Os {
        /// The whole story.
        message: String,
        /// The error number.
        errno: i32,
    },
}
