//! Code of the application inside the shard: [`Actor`], what it may do there ([`Context`]), and the receive bucket,
//! which is an actor too.

use super::arena::PayloadArena;
use super::completion::Completion;
use super::shared::{Phase, Shared};
use crate::commit::{Commit, CommitKey, CommitSource};
use crate::error::{Refusal, SubmitError, SubmitReason};
use crate::message::{Attached, Message, MessageRef, Outcome, Outgoing, Verdict};
use crate::observe::Counters;
use crate::options::Extras;
use crate::proto::binary::source::{Borrowed, Written};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::Submission;
use crate::proto::sending::Sending;
use crate::units::{Instant, UnixMicros};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;

/// An application inside the shard: no hand-over between threads, no allocation, payloads borrowed from the receive
/// path. Its methods run on the shard's thread, so they must not block: while they run, nothing is received, confirmed
/// or sent. One actor is made for each shard ([`Builder::actor`](crate::Builder::actor)); it replaces the receive bucket.
pub trait Actor: Send + 'static {
    /// A message came. `Accept` confirms it to the sender.
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict;

    /// A message this actor put has ended.
    fn on_outcome(&mut self, context: &mut Context<'_>, tag: u64, outcome: Outcome) {
        let _ = (context, tag, outcome);
    }

    /// Once a turn, after everything received and before anything is sent: the place to put in bulk. Turns happen when
    /// something was received, posted or due, after [`Engine::wake`](crate::Engine::wake), and at
    /// [`Context::wake_at`]; at least one happens at start.
    fn on_turn(&mut self, context: &mut Context<'_>) {
        let _ = context;
    }
}

/// The shard's part of what a [`Context`] shows.
pub(crate) struct Local {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shard: u16,
    pub(crate) now: Instant,
    pub(crate) wake_at: Instant,
    pub(crate) arena: PayloadArena,
    /// For payloads that are written and then copied.
    pub(crate) scratch: Vec<u8>,
    pub(crate) clock: fn() -> Instant,
    /// Operations of this shard's actor that other shards carry out.
    pub(crate) remote_due: usize,
    /// Said to be drained.
    pub(crate) drained: bool,
    /// As of this turn.
    pub(crate) phase: Phase,
    /// In the actor's `on_turn`, which puts in bulk. What it puts elsewhere answers something, of which there is no more in
    /// a turn than is received in one.
    pub(crate) in_bulk: bool,
}

impl Local {
    /// The word on a message this shard hands over.
    fn commit(&self, key: CommitKey) -> Commit {
        Commit::new(self.shared.commit_sink(), self.shard, key)
    }
}

/// The shard, as an [`Actor`] sees it.
pub struct Context<'a> {
    pub(crate) local: &'a mut Local,
    pub(crate) outbound: &'a mut Sending<Completion>,
    pub(crate) counters: &'a mut Counters,
}

impl Context<'_> {
    /// Index of this shard.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.local.shard as usize
    }

    /// The time this turn began.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.local.now
    }

    /// The time right now: reads the clock (about 25 ns).
    #[must_use]
    pub fn read_clock(&self) -> Instant {
        (self.local.clock)()
    }

    /// Operations this shard can still take.
    #[must_use]
    pub fn room(&self) -> usize {
        self.outbound.room()
    }

    /// Asks for a turn at `at`, if none comes before.
    pub fn wake_at(&mut self, at: Instant) {
        self.local.wake_at = self.local.wake_at.min(at);
    }

    /// Sends a message; its outcome comes to `on_outcome`.
    ///
    /// # Errors
    /// As [`SendBucket::try_put`](crate::SendBucket::try_put).
    pub fn put(&mut self, outgoing: Outgoing) -> Result<(), SubmitError> {
        let checked = if self.local.phase == Phase::Running {
            self.outbound.check_outgoing(&outgoing)
        } else {
            Err(SubmitReason::Stopped)
        };
        if let Err(reason) = checked {
            return Err(SubmitError { reason, outgoing: Box::new(outgoing) });
        }
        self.put_checked(outgoing)
            .map_err(|outgoing| SubmitError { reason: SubmitReason::Full, outgoing: Box::new(outgoing) })
    }

    /// Sends a copy of `payload`, made in the shard's own memory. In [`Actor::on_turn`], `Full` also says that this turn has as
    /// much to send as a turn should: another one follows at once.
    ///
    /// # Errors
    /// As [`put`](Self::put); there is nothing to give back.
    #[inline]
    pub fn put_copy(&mut self, to: SocketAddr, payload: &[u8], tag: u64) -> Result<(), SubmitReason> {
        if let Some(index) = self.takes_direct(&to, payload.len()) {
            let write = (payload.len(), |space: &mut [u8]| space.copy_from_slice(payload));
            self.put_direct(index, write, tag);
            return Ok(());
        }
        self.put_copy_looking(to, payload, tag)
    }

    fn put_copy_looking(&mut self, to: SocketAddr, payload: &[u8], tag: u64) -> Result<(), SubmitReason> {
        if let Some(index) = self.known_engine(to, payload.len()) {
            let Local { now, arena, .. } = &mut *self.local;
            let source = Borrowed { bytes: payload, own: |bytes: &[u8]| arena.copy(bytes) };
            let what = (Completion::Actor, tag, None);
            let put = self.outbound.flows.put_to(index, *now, source, what, self.counters);
            return put.map_err(|_| SubmitReason::Full);
        }
        self.put_copy_anywhere(to, payload, tag)
    }

    /// Sends a message of `bytes` bytes that `fill` writes: over the binary wire, straight into the datagram it leaves in.
    /// It has to write all of them: what it leaves is of some other message.
    /// As [`put_copy`](Self::put_copy) otherwise. `fill` may have been called although the message is refused.
    ///
    /// # Errors
    /// As [`put`](Self::put); there is nothing to give back.
    #[inline]
    pub fn put_with(
        &mut self,
        to: SocketAddr,
        bytes: usize,
        tag: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), SubmitReason> {
        if let Some(index) = self.takes_direct(&to, bytes) {
            self.put_direct(index, (bytes, fill), tag);
            return Ok(());
        }
        self.put_with_looking(to, bytes, tag, fill)
    }

    /// Sends messages of `bytes` bytes each, one after the other: of each its tag, and what writes it, as
    /// [`put_with`](Self::put_with). Over the binary wire a flood of small messages costs less so: what is true of one of them
    /// is true of those behind it, in its datagram or in the queue.
    ///
    /// Returns how many were put. The next one is taken from `messages` when there is room for it, and nothing against its
    /// length or address; if it is refused nevertheless (not text; another shard has no room), it is the one behind those.
    ///
    /// # Errors
    /// Beside that number, as [`put`](Self::put). `Full` says that there was no room for another one, whether or not there is
    /// another one; as with [`put_copy`](Self::put_copy), it may be that of this turn.
    #[inline]
    pub fn put_each<F: FnOnce(&mut [u8])>(
        &mut self,
        to: SocketAddr,
        bytes: usize,
        messages: impl IntoIterator<Item = (u64, F)>,
    ) -> (usize, Result<(), SubmitReason>) {
        let (mut messages, mut count) = (messages.into_iter(), 0);
        loop {
            if let Some(index) = self.takes_direct(&to, bytes) {
                let Self { local, outbound, counters } = self;
                let books = (|| Completion::Actor, &mut **counters);
                let (put, more) =
                    outbound.flows.put_each_direct(index, local.now, bytes, &mut messages, books);
                count += put;
                if !more {
                    return (count, Ok(()));
                }
            }
            if let Err(reason) = self.has_room(to, bytes) {
                return (count, Err(reason));
            }
            let Some((tag, fill)) = messages.next() else { return (count, Ok(())) };
            if let Err(reason) = self.put_with_looking(to, bytes, tag, fill) {
                return (count, Err(reason));
            }
            count += 1;
        }
    }

    /// Whether another message of that length may be put, as far as that can be said without it.
    fn has_room(&mut self, to: SocketAddr, bytes: usize) -> Result<(), SubmitReason> {
        if bytes > self.outbound.rows.message_bytes_max() {
            return Err(SubmitReason::Refused(Refusal::TooLarge));
        }
        self.check(to, &[])?;
        if self.outbound.room() == 0 {
            return Err(SubmitReason::Full);
        }
        self.check_turn()
    }

    /// In bulk: what is there leaves first, so that the peer has work while more is put; then it is the actor's turn again.
    fn check_turn(&mut self) -> Result<(), SubmitReason> {
        if self.local.in_bulk && self.outbound.has_flows() && self.outbound.flows.has_turn_full() {
            self.local.wake_at = self.local.now;
            return Err(SubmitReason::Full);
        }
        Ok(())
    }

    fn put_with_looking(
        &mut self,
        to: SocketAddr,
        bytes: usize,
        tag: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), SubmitReason> {
        if let Some(index) = self.known_engine(to, bytes) {
            let Local { now, arena, scratch, .. } = &mut *self.local;
            let own = |len: usize, fill| arena.copy(written(scratch, len, fill));
            let source = Written { len: bytes, fill, own };
            let what = (Completion::Actor, tag, None);
            let put = self.outbound.flows.put_to(index, *now, source, what, self.counters);
            return put.map_err(|_| SubmitReason::Full);
        }
        if self.outbound.room() == 0 {
            return Err(SubmitReason::Full);
        }
        let mut scratch = std::mem::take(&mut self.local.scratch);
        let put = self.put_copy_anywhere(to, written(&mut scratch, bytes, fill), tag);
        self.local.scratch = scratch;
        put
    }

    /// See [`Flows::takes_direct`](crate::proto::binary::flows::Flows::takes_direct).
    #[inline(always)]
    fn takes_direct(&self, to: &SocketAddr, bytes: usize) -> Option<u32> {
        let running = self.local.phase == Phase::Running;
        if running { self.outbound.flows.takes_direct(to, bytes) } else { None }
    }

    #[inline(always)]
    fn put_direct(&mut self, index: u32, write: (usize, impl FnOnce(&mut [u8])), tag: u64) {
        let Self { local, outbound, counters } = self;
        outbound.flows.put_direct(index, local.now, write, (Completion::Actor, tag, None), counters);
    }

    /// The flow of most messages: to a peer that is known to be an engine, whose address was looked at before.
    #[inline(always)]
    fn known_engine(&self, to: SocketAddr, bytes: usize) -> Option<u32> {
        let flows = &self.outbound.flows;
        if !self.outbound.has_flows() {
            return None;
        }
        let index = flows.engine_at(self.local.now, to)?;
        let fits = bytes <= flows.message_bytes_max() && !(self.local.in_bulk && flows.has_turn_full());
        (self.local.phase == Phase::Running && fits).then_some(index)
    }

    fn put_copy_anywhere(&mut self, to: SocketAddr, payload: &[u8], tag: u64) -> Result<(), SubmitReason> {
        self.check(to, payload)?;
        if self.outbound.room() == 0 {
            return Err(SubmitReason::Full);
        }
        self.check_turn()?;
        let is_home = self.local.shared.home(to) == self.local.shard;
        if is_home && self.outbound.is_small_row(to, payload.len()) {
            let what = (Completion::Actor, tag);
            let put = self.outbound.rows.put_copy(self.local.now, to, payload, what.1, what.0, self.counters);
            return put.map_err(|_| SubmitReason::Full);
        }
        let payload = self.local.arena.copy(payload);
        self.put_checked(Outgoing::to(to, payload).tag(tag)).map_err(|_| SubmitReason::Full)
    }

    fn check(&self, to: SocketAddr, payload: &[u8]) -> Result<(), SubmitReason> {
        if self.local.phase != Phase::Running {
            return Err(SubmitReason::Stopped);
        }
        self.outbound.check(to, payload)
    }

    fn put_checked(&mut self, outgoing: Outgoing) -> Result<(), Outgoing> {
        let shared = &self.local.shared;
        let home = shared.home(outgoing.to);
        if home != self.local.shard {
            // The peer's window lives in another shard.
            if shared.acquire_ops(home, 1) == 0 {
                return Err(outgoing);
            }
            if !shared.acquire_bytes(home, outgoing.payload.len()) {
                shared.give_back_ops(home, 1);
                return Err(outgoing);
            }
            self.local.remote_due += 1;
            shared.post_put(home, outgoing, Completion::Remote(self.local.shard));
            return Ok(());
        }
        let submission = Submission {
            to: outgoing.to,
            payload: outgoing.payload,
            tag: outgoing.tag,
            deadline: outgoing.deadline,
            options: outgoing.options,
            completion: Completion::Actor,
        };
        match self.outbound.put(self.local.now, submission, self.counters) {
            Ok(_) => Ok(()),
            Err(Submission { to, payload, tag, deadline, options, .. }) => {
                Err(Outgoing { to, payload, tag, deadline, options })
            }
        }
    }
}

/// `bytes` bytes that `fill` wrote.
fn written(scratch: &mut Vec<u8>, bytes: usize, fill: impl FnOnce(&mut [u8])) -> &[u8] {
    scratch.resize(bytes, 0);
    fill(scratch);
    scratch
}

/// What the shard wants of whatever takes its messages.
pub(crate) trait App: Send + 'static {
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        sender: SocketAddr,
        sent_at: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery;
    fn outcome(&mut self, context: &mut Context<'_>, tag: u64, outcome: Outcome);
    fn turn(&mut self, context: &mut Context<'_>);
    /// The last call of a turn; true if there was something to do.
    fn end_turn(&mut self);
}

/// A user's actor.
pub(crate) struct ActorApp<A>(pub(crate) A);

impl<A: Actor> App for ActorApp<A> {
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        sender: SocketAddr,
        sent_at: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery {
        let mut message = MessageRef { sender, payload: payload.bytes(), sent_at, extras, commit: None };
        let Some(key) = extras.and_then(|extras| extras.commit) else {
            return match self.0.on_message(context, message) {
                Verdict::Accept => Delivery::Accepted,
                Verdict::Refuse => Delivery::Refused,
            };
        };
        // Not taken, it is dropped when this returns: the message will never be committed.
        let source = CommitSource::new(context.local.commit(key));
        message.commit = Some(&source);
        match self.0.on_message(context, message) {
            Verdict::Accept => Delivery::Accepted,
            Verdict::Refuse => Delivery::Refused,
        }
    }

    fn outcome(&mut self, context: &mut Context<'_>, tag: u64, outcome: Outcome) {
        self.0.on_outcome(context, tag, outcome);
    }

    fn turn(&mut self, context: &mut Context<'_>) {
        self.0.on_turn(context);
    }

    fn end_turn(&mut self) {}
}

/// The receive bucket: reserves places before it accepts, hands over once a turn.
pub(crate) struct BucketApp {
    shared: Arc<Shared>,
    arrived: Vec<Message>,
    /// Reserved for messages of this turn that have not come yet.
    places: Places,
    /// So much is reserved at a time where there is room: what shards and applications count together costs each of them a
    /// look at the other's memory.
    at_once: Places,
}

/// Places in the receive bucket.
#[derive(Clone, Copy, Default)]
struct Places {
    messages: usize,
    bytes: u64,
}

/// See [`BucketApp::at_once`]; less where that would be more than a quarter of the bucket for all shards together.
const AT_ONCE_MAX: Places = Places { messages: 64, bytes: 64 << 10 };

impl BucketApp {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (messages_max, bytes_max) = shared.recv.limits();
        let shards = shared.links.len();
        let at_once = Places {
            messages: (messages_max / (4 * shards)).clamp(1, AT_ONCE_MAX.messages),
            bytes: (bytes_max / (4 * shards as u64)).min(AT_ONCE_MAX.bytes),
        };
        Self { shared, arrived: Vec::new(), places: Places::default(), at_once }
    }

    fn reserve(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let places = &mut self.places;
        if places.messages == 0 || places.bytes < bytes {
            let recv = &self.shared.recv;
            let none = places.messages == 0;
            let some = Places {
                messages: if none { self.at_once.messages } else { 0 },
                bytes: self.at_once.bytes + bytes,
            };
            if recv.reserve(some.messages, some.bytes) {
                places.messages += some.messages;
                places.bytes += some.bytes;
            } else {
                // What is left may be enough, with what there is already.
                let messages = usize::from(none);
                let missing = bytes.saturating_sub(places.bytes);
                if !recv.reserve(messages, missing) {
                    return false;
                }
                places.messages += messages;
                places.bytes += missing;
            }
        }
        places.messages -= 1;
        places.bytes -= bytes;
        true
    }
}

impl App for BucketApp {
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        sender: SocketAddr,
        sent_at: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery {
        if !self.reserve(payload.bytes().len()) {
            return Delivery::NoRoom;
        }
        let payload = match payload {
            // Beyond the arena's reach the reassembled message goes to the application as it is.
            Payload::Owned(bytes) if bytes.len() > crate::constants::PAYLOAD_ARENA_BYTES / 16 => {
                Bytes::from(std::mem::take(bytes))
            }
            other => context.local.arena.copy(other.bytes()),
        };
        let lane = extras.and_then(|extras| extras.lane);
        let attached = extras.filter(|extras| !extras.are_of_a_lane_alone()).map(|extras| {
            let commit = extras.commit.map(|key| Arc::new(context.local.commit(key)));
            Box::new(Attached { metadata: extras.to_metadata(), commit })
        });
        self.arrived.push(Message::new(sender, payload, sent_at, lane, context.now(), attached));
        Delivery::Accepted
    }

    fn outcome(&mut self, _: &mut Context<'_>, _: u64, _: Outcome) {}

    fn turn(&mut self, _: &mut Context<'_>) {}

    fn end_turn(&mut self) {
        let Places { messages, bytes } = std::mem::take(&mut self.places);
        if messages > 0 || bytes > 0 {
            self.shared.recv.release(messages, bytes);
        }
        if !self.arrived.is_empty() {
            self.shared.recv.append(&mut self.arrived);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};
    use crate::hash::Seed;
    use crate::proto::outbound::Families;
    use crate::sys::wake::Wake;

    /// Shards that reserve places in one bucket.
    fn shards(count: usize, messages: u32, bytes: u64) -> Vec<BucketApp> {
        let mut config = Config::preset(Preset::Small);
        (config.recv_bucket_messages, config.recv_bucket_bytes) = (messages, bytes);
        let wakes = (0..count).map(|_| Arc::new(Wake::new().unwrap())).collect();
        let families = Families { v4: true, v6: true };
        let shared = Shared::new(&config, families, &Seed::from_number(1), wakes);
        (0..count).map(|_| BucketApp::new(Arc::clone(&shared))).collect()
    }

    /// What shards reserve in advance is no more than a quarter of the bucket for all of them, and no less than a message: of
    /// a small bucket, one shard with a message in a turn does not leave the others without places.
    #[test]
    fn places_reserved_in_advance_are_as_many_as_the_bucket_has() {
        for count in [1, 2, 7] {
            for (messages, bytes, each) in [(100, 1 << 20, 10), (1 << 16, 100_000, 500), (8, 1 << 20, 10)] {
                let mut shards = shards(count, messages, bytes);
                let places = u64::from(messages).min(bytes / each);
                let others = (1..count).filter(|&other| shards[other].reserve(each as usize)).count() as u64;
                assert_eq!(others, count as u64 - 1);
                let first =
                    std::iter::repeat(()).take_while(|()| shards[0].reserve(each as usize)).count() as u64;
                assert!(first + others + places / 4 >= places, "{first} of {places}, beside {others} others");
                // Until the end of the turn: then all that was not used is free.
                shards.iter_mut().for_each(App::end_turn);
                let freed =
                    std::iter::repeat(()).take_while(|()| shards[0].reserve(each as usize)).count() as u64;
                assert_eq!(first + others + freed, places, "nothing is lost");
            }
        }
    }
}
