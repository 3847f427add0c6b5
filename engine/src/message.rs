//! What applications put and get: [`Outgoing`], [`Message`], [`Outcome`], and the in-shard [`Actor`].

use crate::commit::{Commit, CommitSource};
use crate::error::DeliveryError;
use crate::options::{Extras, Lane, Metadata, Options, Priority};
use crate::units::{Instant, UnixMicros};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(crate) to: SocketAddr,
    pub(crate) payload: Bytes,
    pub(crate) tag: u64,
    pub(crate) deadline: Option<Duration>,
    /// What most messages do without.
    pub(crate) options: Option<Box<Options>>,
}

impl Outgoing {
    /// A message for the engine at `to`.
    #[must_use]
    pub fn to(to: SocketAddr, payload: impl Into<Bytes>) -> Self {
        Self { to, payload: payload.into(), tag: 0, deadline: None, options: None }
    }

    /// A number of the caller's own; it comes back with the outcome and does not leave this host.
    #[must_use]
    pub const fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// How long from now the message is worth delivering. Without it: `deadline_default`, plus one second for every
    /// 256 KiB of payload. There is no way to have none. With no time at all it is not sent, and ends
    /// [`Expired`](crate::FailureCause::Expired), [never reached](crate::Reached::Never).
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// A number the receiver sees ([`Message::tag`]), say for the kind of message.
    ///
    /// As all metadata, it travels on the binary wire alone; where that is not spoken the message is
    /// [refused](crate::Refusal::MetadataNeedsBinary), at once or, with `wire = auto`, by its outcome. All metadata of a
    /// message may take 255 bytes: a tag takes 6, a correlation 10, a trace context and bytes of the application 2 more than
    /// they have.
    #[must_use]
    pub fn message_tag(mut self, tag: u32) -> Self {
        self.metadata().tag = Some(tag);
        self
    }

    /// Which exchange the message belongs to: a number of the sender's choice, which a [reply](Message::reply) repeats.
    /// Metadata, as [`message_tag`](Self::message_tag).
    #[must_use]
    pub fn correlation(mut self, correlation: u64) -> Self {
        self.metadata().correlation = Some(correlation);
        self
    }

    /// The context of a distributed trace (W3C's has 25 bytes in binary); opaque here. Metadata, as
    /// [`message_tag`](Self::message_tag).
    #[must_use]
    pub fn trace_context(mut self, context: impl Into<Bytes>) -> Self {
        self.metadata().trace = Some(context.into());
        self
    }

    /// Bytes of the application beside the payload. Metadata, as [`message_tag`](Self::message_tag).
    #[must_use]
    pub fn meta(mut self, bytes: impl Into<Bytes>) -> Self {
        self.metadata().user = Some(bytes.into());
        self
    }

    /// What to wait for before the message counts as delivered. [`Level::Committed`] needs the binary wire (else the
    /// message is [refused](crate::Refusal::CommitNeedsBinary), as with metadata), a payload, and a deadline that leaves the
    /// peer's application its time. At most 1,024 messages to a peer wait for its commit at a time; others queue.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        if level != Level::Accepted || self.options.is_some() {
            self.options.get_or_insert_default().level = level;
        }
        self
    }

    /// How urgent it is beside others to the same peer.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        if priority != Priority::Normal || self.options.is_some() {
            self.options.get_or_insert_default().priority = priority;
        }
        self
    }

    /// Messages of one lane to one peer are handed to its application in the order they were put (by one thread, or one
    /// actor), each once. Messages of other lanes, and those without a lane, are not held back. One that ends otherwise
    /// (expired, cancelled, refused for good) is stepped over.
    ///
    /// What comes before its turn waits at the receiver, and is delivered when it is handed over. Up to 1,024 messages to a
    /// peer are under way in lanes; others queue. A lane has one priority: that of the first message put into it, until
    /// nothing has been on its way for a while. Where the flow to a peer has to be replaced (the peer was restarted, or was
    /// not heard for long), lanes begin anew with what had not left yet. Where a peer's address changes, what is put to the
    /// old one after that has no order with what is on its way to the new one.
    ///
    /// Needs the binary wire (else the message is [refused](crate::Refusal::LaneNeedsBinary), as with metadata), and a
    /// payload.
    #[must_use]
    pub fn lane(mut self, lane: u16) -> Self {
        self.options.get_or_insert_default().lane = Some(Lane { number: lane, before: 0 });
        self
    }

    fn metadata(&mut self) -> &mut Metadata {
        &mut self.options.get_or_insert_default().metadata
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Every row was confirmed by the receiver. From an UDP-Plus engine this means: in a place of its receive bucket, or
    /// accepted by its actor. From an original v1 peer: seen by its receive loop.
    #[default]
    Accepted,
    /// The peer's application said that it is done with it for good ([`Message::commit`]). Binary wire.
    Committed,
}

/// A message was delivered. 16 bytes, as an [`Outcome`] too: plain numbers, so that telling it is a few stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    rtt_ns: u64,
    queued_us: u32,
    /// The most often any row of it was transmitted (65,535, on the binary wire 255: that often at least); 1 means nothing was
    /// repeated.
    pub tries: u16,
    /// How far it is known to have come.
    pub level: Level,
}

impl Delivered {
    /// For applications that test what they do with outcomes; the engine makes its own.
    #[must_use]
    pub fn new(level: Level, tries: u32, rtt: Duration, queued: Duration) -> Self {
        let ns = |time: Duration| time.as_nanos().try_into().unwrap_or(u64::MAX);
        Self::of_ns(level, tries, ns(rtt), ns(queued))
    }

    #[inline(always)]
    pub(crate) fn of_ns(level: Level, tries: u32, rtt_ns: u64, queued_ns: u64) -> Self {
        let queued_us = (queued_ns / 1_000).min(u32::MAX.into()) as u32;
        Self { rtt_ns, queued_us, tries: tries.min(u16::MAX.into()) as u16, level }
    }

    /// As [`of_ns`](Self::of_ns), of what is counted so.
    #[inline(always)]
    pub(crate) fn of_us(level: Level, tries: u8, rtt_ns: u64, queued_us: u32) -> Self {
        Self { rtt_ns, queued_us, tries: tries.into(), level }
    }

    /// From the first transmission to the last confirm.
    #[must_use]
    pub const fn rtt(&self) -> Duration {
        Duration::from_nanos(self.rtt_ns)
    }

    /// From acceptance to the first transmission, to the microsecond; an hour and more is told as up to 71 minutes.
    #[must_use]
    pub const fn queued(&self) -> Duration {
        Duration::from_micros(self.queued_us as u64)
    }
}

/// Every accepted message ends in exactly one of these.
pub type Outcome = Result<Delivered, DeliveryError>;

/// A received message.
#[derive(Clone, Debug)]
pub struct Message {
    pub(crate) sender: SocketAddr,
    pub(crate) payload: Bytes,
    /// [`NOT_SAID`], or the time.
    sent_at: UnixMicros,
    lane: Option<u16>,
    /// When its shard had it, by the engine's clock: the lowest bits.
    received_us: u32,
    /// Of messages that came with some.
    pub(crate) attached: Option<Box<Attached>>,
}

#[expect(clippy::cast_possible_truncation, reason = "modulo 2^32")]
const fn micros(at: Instant) -> u32 {
    (at.as_ns() / 1_000) as u32
}

/// No time that occurs.
const NOT_SAID: UnixMicros = UnixMicros(u64::MAX);

/// What some messages come with.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) metadata: Metadata,
    /// Shared by clones of the message: the first word counts, and silence is one when the last of them is gone.
    pub(crate) commit: Option<Arc<Commit>>,
}

impl Message {
    pub(crate) fn new(
        sender: SocketAddr,
        payload: Bytes,
        sent_at: Option<UnixMicros>,
        lane: Option<u16>,
        received_at: Instant,
        attached: Option<Box<Attached>>,
    ) -> Self {
        let received_us = micros(received_at);
        Self { sender, payload, sent_at: sent_at.unwrap_or(NOT_SAID), lane, received_us, attached }
    }

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

    /// The bytes, by value. A sender that waits for a [`commit`](Self::commit) is told that there is none.
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
        if self.sent_at.0 == NOT_SAID.0 { None } else { Some(self.sent_at) }
    }

    /// How long it has been in the receive bucket: from the beginning of the turn in which its shard took the last of it from
    /// the socket until `now`, by the engine's clock (CLOCK_MONOTONIC). Whole microseconds, modulo 2^32 of them (71 minutes).
    #[must_use]
    pub fn waited(&self, now: Instant) -> Duration {
        Duration::from_micros(micros(now).wrapping_sub(self.received_us).into())
    }

    /// The lane it was put into ([`Outgoing::lane`]): messages of one lane of one sender come in the order they were put.
    #[must_use]
    pub const fn lane(&self) -> Option<u16> {
        self.lane
    }

    /// The sender's number for the kind of message ([`Outgoing::message_tag`]).
    #[must_use]
    pub fn tag(&self) -> Option<u32> {
        self.attached.as_ref()?.metadata.tag
    }

    /// Which exchange the message belongs to ([`Outgoing::correlation`]).
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.attached.as_ref()?.metadata.correlation
    }

    /// The context of a distributed trace ([`Outgoing::trace_context`]).
    #[must_use]
    pub fn trace_context(&self) -> Option<&Bytes> {
        self.attached.as_ref()?.metadata.trace.as_ref()
    }

    /// The application's bytes beside the payload ([`Outgoing::meta`]).
    #[must_use]
    pub fn meta(&self) -> Option<&Bytes> {
        self.attached.as_ref()?.metadata.user.as_ref()
    }

    /// An answer to the sender, with the correlation of this message if it has one.
    #[must_use]
    pub fn reply(&self, payload: impl Into<Bytes>) -> Outgoing {
        answer(self.sender, self.correlation(), payload)
    }

    /// What the sender waits for: [`Level::Committed`] means that it wants [`commit`](Self::commit).
    #[must_use]
    pub fn level(&self) -> Level {
        let wanted = self.attached.as_ref().is_some_and(|attached| attached.commit.is_some());
        if wanted { Level::Committed } else { Level::Accepted }
    }

    /// The application is done with the message for good (say, it is on disk): a sender that waits for this
    /// ([`Outgoing::level`]) hears of it. To others, all those on the CSV wire among them, nothing is left to tell, and the
    /// message is simply consumed.
    ///
    /// A message that goes without this word, [`into_payload`](Self::into_payload) included, is *not committed*: so its
    /// sender's operation ends. Of clones the last one to go says that.
    pub fn commit(self) {
        if let Some(commit) = self.attached.and_then(|attached| attached.commit) {
            commit.decide(true);
        }
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
    /// Of messages that came with some.
    pub(crate) extras: Option<&'a Extras<'a>>,
    /// Of messages whose sender waits for a commit.
    pub(crate) commit: Option<&'a CommitSource>,
}

impl<'a> MessageRef<'a> {
    /// What the sender waits for: [`Level::Committed`] means that it wants the word of [`take_commit`](Self::take_commit).
    #[must_use]
    pub const fn level(&self) -> Level {
        if self.commit.is_some() { Level::Committed } else { Level::Accepted }
    }

    /// The word a sender that waits for a commit is to be given, now or later; `None` for other messages, and the second
    /// time. An actor that accepts such a message without taking it has not committed it, and never will: so the sender is
    /// told.
    #[must_use]
    pub fn take_commit(&self) -> Option<Commit> {
        self.commit?.take()
    }

    /// As [`Message::lane`].
    #[must_use]
    pub fn lane(&self) -> Option<u16> {
        self.extras?.lane
    }

    /// As [`Message::tag`].
    #[must_use]
    pub fn tag(&self) -> Option<u32> {
        self.extras?.tag
    }

    /// As [`Message::correlation`].
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.extras?.correlation
    }

    /// As [`Message::trace_context`].
    #[must_use]
    pub fn trace_context(&self) -> Option<&'a [u8]> {
        self.extras?.trace
    }

    /// As [`Message::meta`].
    #[must_use]
    pub fn meta(&self) -> Option<&'a [u8]> {
        self.extras?.user
    }

    /// As [`Message::reply`].
    #[must_use]
    pub fn reply(&self, payload: impl Into<Bytes>) -> Outgoing {
        answer(self.sender, self.correlation(), payload)
    }
}

fn answer(to: SocketAddr, correlation: Option<u64>, payload: impl Into<Bytes>) -> Outgoing {
    let answer = Outgoing::to(to, payload);
    match correlation {
        Some(correlation) => answer.correlation(correlation),
        None => answer,
    }
}

/// What an [`Actor`](crate::Actor) says to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the application's now; the sender is told so.
    Accept,
    /// Not now: the sender is not confirmed and tries again until its own deadline.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options are rare: what every message carries through queues and mailboxes stays small.
    #[test]
    fn options_cost_other_messages_a_pointer() {
        assert_eq!(size_of::<Outgoing>(), 88 + size_of::<usize>());
        assert_eq!(size_of::<Message>(), 80 + size_of::<usize>());
        assert_eq!(size_of::<Outcome>(), 16);
    }

    #[test]
    fn a_message_says_when_it_was_sent_if_that_is_known() {
        let sender = SocketAddr::from(([10, 0, 0, 1], 1));
        for (sent_at, lane) in
            [(None, Some(0)), (Some(UnixMicros(0)), None), (Some(UnixMicros(1 << 63)), Some(7))]
        {
            // Also where the microseconds begin anew.
            let received_at = Instant::from_ns((1 << 32) * 1_000 - 3_000 * u64::from(lane.is_some()));
            let message = Message::new(sender, Bytes::new(), sent_at, lane, received_at, None);
            assert_eq!((message.sent_at(), message.lane()), (sent_at, lane));
            assert_eq!(message.waited(received_at), Duration::ZERO);
            assert_eq!(message.waited(received_at + Duration::from_nanos(7_000_999)).as_micros(), 7_000);
        }
    }
}
