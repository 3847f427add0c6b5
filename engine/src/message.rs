//! What applications put and get: [`Outgoing`], [`Message`], [`Outcome`], and the in-shard [`Actor`].

use crate::error::DeliveryError;
use crate::units::UnixMicros;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(crate) to: SocketAddr,
    pub(crate) payload: Bytes,
    pub(crate) tag: u64,
    pub(crate) deadline: Option<Duration>,
}

impl Outgoing {
    /// A message for the engine at `to`.
    #[must_use]
    pub fn to(to: SocketAddr, payload: impl Into<Bytes>) -> Self {
        Self { to, payload: payload.into(), tag: 0, deadline: None }
    }

    /// A number of the caller's own; it comes back with the outcome.
    #[must_use]
    pub const fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// How long from now the message is worth delivering. Without it: `deadline_default`, plus one second for every
    /// 256 KiB of payload. There is no way to have none.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Where it goes.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.to
    }

    /// What it carries.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// How far a delivered message is known to have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Every row was confirmed by the receiver. From an UDP-Plus engine this means: in a place of its receive bucket, or
    /// accepted by its actor. From an original v1 peer: seen by its receive loop.
    Accepted,
}

/// A message was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// How far it is known to have come.
    pub level: Level,
    /// The most often any row of it was transmitted; 1 means nothing was repeated.
    pub tries: u32,
    /// From the first transmission to the last confirm.
    pub rtt: Duration,
    /// From acceptance to the first transmission.
    pub queued: Duration,
}

/// Every accepted message ends in exactly one of these.
pub type Outcome = Result<Delivered, DeliveryError>;

/// A received message.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) sender: SocketAddr,
    pub(crate) payload: Bytes,
    pub(crate) sent_at: Option<UnixMicros>,
}

impl Message {
    /// Address and port it came from; an answer put there reaches the sender.
    #[must_use]
    pub const fn sender(&self) -> SocketAddr {
        self.sender
    }

    /// The bytes.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The bytes, by value.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The payload as text, if it is UTF-8. Over the CSV wire, between engines, it always is.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        simdutf8::basic::from_utf8(&self.payload).ok()
    }

    /// When the sender says it sent it, by the sender's wall clock; `None` if it does not say.
    #[must_use]
    pub const fn sent_at(&self) -> Option<UnixMicros> {
        self.sent_at
    }

    /// The application is done with the message for good (say, it is on disk).
    ///
    /// A sender can wait for this only over the binary wire (level *committed*). A CSV sender is confirmed at
    /// acceptance, so here nothing is left to tell it, and the message is simply consumed.
    pub fn commit(self) {
        drop(self);
    }
}

/// A received message inside the shard: the payload is borrowed from the receive path.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    /// Address and port it came from.
    pub sender: SocketAddr,
    /// The bytes.
    pub payload: &'a [u8],
    /// When the sender says it sent it.
    pub sent_at: Option<UnixMicros>,
}

/// What an [`Actor`](crate::Actor) says to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the application's now; the sender is told so.
    Accept,
    /// Not now: the sender is not confirmed and tries again until its own deadline.
    Refuse,
}
