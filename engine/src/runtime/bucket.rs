//! The two buckets: [`SendBucket`] for messages to go, [`RecvBucket`] for messages that came. Both are handles: clone
//! them, send them to other threads, use them from any async runtime or none.

use super::completion::{Completion, CompletionQueue, Delivery, DeliveryCell, Promise, deadline_after};
use super::listening::Listening;
use super::mailbox::Mail;
use super::run::Run;
use super::shared::{Phase, Shared};
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, lock};
use crate::error::{Stopped, SubmitError, SubmitReason};
use crate::message::{Message, Outcome, Outgoing};
use event_listener::{Event, EventListener, IntoNotification, Listener, listener};
use futures_core::Stream;
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

/// Messages to go.
#[derive(Clone, Debug)]
pub struct SendBucket {
    shared: Arc<Shared>,
    /// Made with the first `put_batch`: those who use futures alone need none.
    queue: Arc<OnceLock<(u32, Arc<CompletionQueue>)>>,
}

impl SendBucket {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, queue: Arc::default() }
    }

    /// Accepts one message, or gives it back at once.
    ///
    /// # Errors
    /// [`SubmitReason::Full`] when as many operations are under way as `ops_in_flight_max` and `send_bytes_max` allow;
    /// the other reasons are final.
    pub fn try_put(&self, outgoing: Outgoing) -> Result<Delivery, SubmitError> {
        let fail = |reason, outgoing| Err(SubmitError { reason, outgoing: Box::new(outgoing) });
        if let Err(reason) = self.shared.check(&outgoing) {
            return fail(reason, outgoing);
        }
        let shard = self.shared.home(outgoing.to);
        if self.shared.acquire_ops(shard, 1) == 0 {
            return fail(SubmitReason::Full, outgoing);
        }
        if !self.shared.acquire_bytes(shard, outgoing.payload.len()) {
            self.shared.give_back_ops(shard, 1);
            return fail(SubmitReason::Full, outgoing);
        }
        let cell = DeliveryCell::new(shard);
        self.shared.post_put(shard, outgoing, Completion::Future(Promise::new(&cell)));
        Ok(Delivery { cell, shared: Arc::clone(&self.shared) })
    }

    /// Accepts one message, waiting for room if there is none. Dropped while it waits, nothing is sent.
    ///
    /// # Errors
    /// As [`try_put`](Self::try_put), but never [`SubmitReason::Full`].
    pub async fn put(&self, mut outgoing: Outgoing) -> Result<Delivery, SubmitError> {
        let mut waiter = RoomWaiter::new(&self.shared, outgoing.to);
        loop {
            let listener = waiter.listen();
            match self.try_put(outgoing) {
                Err(SubmitError { reason: SubmitReason::Full, outgoing: back }) => outgoing = *back,
                result => {
                    waiter.got();
                    return result;
                }
            }
            waiter.got_none();
            Listening::new(listener).await;
        }
    }

    /// As [`put`](Self::put), blocking the calling thread.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn blocking_put(&self, mut outgoing: Outgoing) -> Result<Delivery, SubmitError> {
        let mut waiter = RoomWaiter::new(&self.shared, outgoing.to);
        loop {
            let listener = waiter.listen();
            match self.try_put(outgoing) {
                Err(SubmitError { reason: SubmitReason::Full, outgoing: back }) => outgoing = *back,
                result => {
                    waiter.got();
                    return result;
                }
            }
            waiter.got_none();
            listener.wait();
        }
    }

    /// Accepts as many messages as there is room for, from the front; the rest stays. Returns how many it took. Their
    /// outcomes come by tag from [`outcome_batch`](Self::outcome_batch), also for messages that can never be sent (not
    /// text, too large, no such address): those end at once, with that cause. 0 means that there is no room, or that the engine
    /// takes no more ([`is_stopped`](Self::is_stopped) tells).
    ///
    /// What stays moves to the front of `batch` with each call: give it a few thousand at a time, not millions.
    pub fn put_batch(&self, batch: &mut Vec<Outgoing>) -> usize {
        if self.is_stopped() {
            return 0;
        }
        let (number, queue) = self.queue();
        let places = queue.acquire(batch.len());
        let (mut taken, mut emptied) = (0, 0);
        while taken < places {
            let shard = self.shared.home(batch[taken].to);
            let run =
                batch[taken..places].iter().take_while(|next| self.shared.home(next.to) == shard).count();
            let permits = self.shared.acquire_ops(shard, run);
            let permitted = &batch[taken..taken + permits];
            let bytes = |next: &Outgoing| self.shared.permit_bytes(next.payload.len());
            let fitting = if self.shared.acquire_bytes(shard, permitted.iter().map(bytes).sum()) {
                permits
            } else {
                permitted.iter().take_while(|next| self.shared.acquire_bytes(shard, bytes(next))).count()
            };
            let mut posting = self.shared.links[shard as usize].mailbox.open();
            let mail = |outgoing| Mail::Put(outgoing, Completion::Queue(*number));
            if run == places {
                batch.drain(..fitting).for_each(|outgoing| posting.push(mail(outgoing)));
            } else {
                // Runs for several shards: those behind stay where they are until all have been looked at.
                for outgoing in &mut batch[taken..taken + fitting] {
                    let empty = Outgoing::to(outgoing.to, bytes::Bytes::new());
                    posting.push(mail(std::mem::replace(outgoing, empty)));
                }
                emptied += fitting;
            }
            drop(posting);
            self.shared.posted(shard);
            taken += fitting;
            self.shared.give_back_ops(shard, permits - fitting);
            if fitting < run {
                break;
            }
        }
        batch.drain(..emptied);
        queue.release_unused(places - taken);
        taken
    }

    /// Puts messages of `bytes` bytes each to one peer: of each its tag, and what writes it. For small ones the cheapest way
    /// through the bucket: a hand-over, and nothing allocated or counted for each of them. Their outcomes come as those of
    /// [`put_batch`](Self::put_batch).
    ///
    /// Returns how many were put. No message is taken from `messages` that is not put. They leave in runs of up to 1,024, or
    /// 64 KiB: so `messages` should have what it gives, and not wait for it, and must not put into this bucket itself.
    ///
    /// # Errors
    /// Beside that number: [`SubmitReason::Full`] if there was no room for another one, whether or not there is another one;
    /// others as [`try_put`](Self::try_put). What is not text, on the CSV wire, ends by its outcome.
    pub fn put_each<F: FnOnce(&mut [u8])>(
        &self,
        to: SocketAddr,
        bytes: usize,
        messages: impl IntoIterator<Item = (u64, F)>,
    ) -> (usize, Result<(), SubmitReason>) {
        let (mut messages, mut count) = (messages.into_iter(), 0);
        let (number, queue) = self.queue();
        let shard = self.shared.home(to);
        loop {
            // Anew each time: there may be no end to `messages`, but one to the engine.
            if let Err(reason) = self.shared.check_lengths(to, bytes) {
                return (count, Err(reason));
            }
            let mut room = Room::take(&self.shared, queue, shard, Run::messages_max(bytes), bytes);
            if room.messages == 0 {
                return (count, Err(SubmitReason::Full));
            }
            let mut run = self.shared.runs.take(to, bytes, *number);
            let wanted = room.messages;
            run.fill(messages.by_ref().take(wanted));
            let put = run.tags().len();
            room.messages -= put;
            if put == 0 {
                self.shared.runs.give_back(run);
                return (count, Ok(()));
            }
            self.shared.post(shard, run.into_mail());
            count += put;
            if put < wanted {
                return (count, Ok(()));
            }
        }
    }

    /// Outcomes that are there, appended to `into` as (tag, outcome). Returns how many.
    pub fn outcome_batch(&self, into: &mut Vec<(u64, Outcome)>) -> usize {
        self.queue().1.take(into)
    }

    /// As [`outcome_batch`](Self::outcome_batch), but waits for at least one, up to `timeout`, unless none is due. Once the engine
    /// has stopped it does not wait: what is there is all there will be.
    pub fn blocking_outcome_batch(&self, into: &mut Vec<(u64, Outcome)>, timeout: Duration) -> usize {
        self.queue().1.take_blocking(into, timeout)
    }

    /// The engine takes no more messages: it shuts down, or has stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.phase() != Phase::Running
    }

    fn queue(&self) -> &(u32, Arc<CompletionQueue>) {
        self.queue.get_or_init(|| {
            let queue = Arc::new(CompletionQueue::new(self.shared.ops_max_total()));
            (self.shared.registry.register(&queue), queue)
        })
    }
}

/// One who waits for room at a shard. Each release wakes as many as operations ended; so whoever was woken wakes the next one in
/// turn, for what is left of it: a smaller message may fit where this one does not, or two where one ended.
struct RoomWaiter<'a> {
    shared: &'a Shared,
    shard: u16,
    woken: bool,
    /// Releases that have been passed on: nobody tries twice for the same one, else two who do not fit would wake each other for
    /// ever.
    passed_on: Option<u64>,
    /// Releases before this try.
    released: u64,
}

impl<'a> RoomWaiter<'a> {
    fn new(shared: &'a Shared, to: SocketAddr) -> Self {
        Self { shared, shard: shared.home(to), woken: false, passed_on: None, released: 0 }
    }

    /// Before a try.
    fn listen(&mut self) -> EventListener {
        let listener = self.shared.listen_room(self.shard);
        self.released = self.shared.released(self.shard);
        listener
    }

    fn got(&self) {
        if self.woken {
            self.shared.pass_room_on(self.shard);
        }
    }

    fn got_none(&mut self) {
        if self.woken && self.passed_on.replace(self.released) != Some(self.released) {
            self.shared.pass_room_on(self.shard);
        }
        self.woken = true;
    }
}

/// Permits and places for messages that are being written. What is not used goes back, also where writing one panics, and who
/// found nothing left meanwhile is woken.
struct Room<'a> {
    shared: &'a Shared,
    queue: &'a CompletionQueue,
    shard: u16,
    /// Not used yet.
    messages: usize,
    /// Of each.
    bytes: usize,
}

impl<'a> Room<'a> {
    fn take(shared: &'a Shared, queue: &'a CompletionQueue, shard: u16, wanted: usize, bytes: usize) -> Self {
        let places = queue.acquire(wanted);
        let permits = shared.acquire_ops(shard, places);
        let mut messages = permits;
        // Near the end of what may be under way: fewer.
        while messages > 0 && !shared.acquire_bytes(shard, messages * bytes) {
            messages /= 2;
        }
        queue.release_unused(places - messages);
        shared.give_back_ops(shard, permits - messages);
        Self { shared, queue, shard, messages, bytes }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.messages > 0 {
            self.queue.release_unused(self.messages);
            self.shared.release(self.shard, self.messages, (self.messages * self.bytes) as u64);
        }
    }
}

/// The receive bucket's shared half.
#[derive(Debug)]
pub(crate) struct RecvQueue {
    messages: Mutex<VecDeque<Message>>,
    used_messages: AtomicUsize,
    used_bytes: AtomicU64,
    messages_max: usize,
    bytes_max: u64,
    arrived: Event,
    /// The same for streams. They keep their listener from poll to poll, whether or not anybody polls again: what woke one of them
    /// alone might have woken nobody.
    streams: Event,
    stopped: AtomicBool,
}

impl RecvQueue {
    pub(crate) fn new(messages_max: usize, bytes_max: u64) -> Self {
        Self {
            messages: Mutex::default(),
            used_messages: AtomicUsize::new(0),
            used_bytes: AtomicU64::new(0),
            messages_max,
            bytes_max,
            arrived: Event::new(),
            streams: Event::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Messages and bytes it holds at most.
    pub(crate) const fn limits(&self) -> (usize, u64) {
        (self.messages_max, self.bytes_max)
    }

    /// Messages and bytes that have places.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn used(&self) -> (usize, u64) {
        (self.used_messages.load(Ordering::Acquire), self.used_bytes.load(Ordering::Acquire))
    }

    /// Places for so many messages of `bytes` in all, reserved before they are accepted. All or none.
    pub(crate) fn reserve(&self, messages: usize, bytes: u64) -> bool {
        let used = self.used_messages.fetch_add(messages, Ordering::AcqRel) + messages;
        let used_bytes = self.used_bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let fits = used <= self.messages_max && used_bytes <= self.bytes_max;
        if !fits {
            self.release(messages, bytes);
        }
        fits
    }

    /// Gives places back.
    pub(crate) fn release(&self, messages: usize, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.used_messages.fetch_sub(messages, Ordering::AcqRel);
    }

    /// Called by shards, once a turn; places were reserved.
    pub(crate) fn append(&self, messages: &mut Vec<Message>) {
        let count = messages.len();
        {
            let mut queue = lock(&self.messages);
            if queue.is_empty() {
                // Nothing is moved, and each side keeps a buffer.
                let empty = std::mem::replace(&mut *queue, VecDeque::from(std::mem::take(messages)));
                *messages = Vec::from(empty);
            } else {
                queue.extend(messages.drain(..));
            }
        }
        // Additional: those notified before and not awake yet have their messages already.
        self.arrived.notify(count.additional());
        self.streams.notify(usize::MAX.relaxed()); // Behind the fence of the other.
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.arrived.notify(usize::MAX);
        self.streams.notify(usize::MAX);
    }

    /// Everything there is.
    pub(crate) fn drain_into(&self, into: &mut Vec<Message>) -> usize {
        let before = into.len();
        {
            let mut queue = lock(&self.messages);
            if before == 0 && !queue.is_empty() {
                // As in `append`.
                let all = std::mem::replace(&mut *queue, VecDeque::from(std::mem::take(into)));
                *into = Vec::from(all);
            } else {
                into.extend(queue.drain(..));
            }
        }
        self.released(&into[before..]);
        into.len() - before
    }

    fn released(&self, messages: &[Message]) {
        let bytes = messages.iter().map(|message| message.payload.len() as u64).sum();
        self.release(messages.len(), bytes);
    }

    fn try_get(&self) -> Option<Message> {
        let message = lock(&self.messages).pop_front()?;
        self.released(std::slice::from_ref(&message));
        Some(message)
    }

    /// `Some(Err)` once the engine has stopped and everything was got.
    fn poll_get(&self) -> Option<Result<Message, Stopped>> {
        // Read before looking: what was appended before the stop is found.
        let stopped = self.stopped.load(Ordering::Acquire);
        match self.try_get() {
            Some(message) => Some(Ok(message)),
            None if stopped => Some(Err(Stopped)),
            None => None,
        }
    }
}

/// Messages that came. Any number of callers may get from it; each message goes to one of them.
#[derive(Debug)]
pub struct RecvBucket {
    queue: Arc<RecvQueue>,
    listener: Option<Listening>,
}

impl Clone for RecvBucket {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.queue))
    }
}

impl RecvBucket {
    pub(crate) const fn new(queue: Arc<RecvQueue>) -> Self {
        Self { queue, listener: None }
    }

    /// The next message.
    ///
    /// # Errors
    /// [`Stopped`] once the engine has stopped and the bucket is empty.
    pub async fn get(&self) -> Result<Message, Stopped> {
        loop {
            let listener = self.queue.arrived.listen();
            if let Some(result) = self.queue.poll_get() {
                return result;
            }
            Listening::new(listener).await;
        }
    }

    /// The next message, if one is there.
    #[must_use]
    pub fn try_get(&self) -> Option<Message> {
        self.queue.try_get()
    }

    /// The next message, blocking the calling thread.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn blocking_get(&self) -> Result<Message, Stopped> {
        loop {
            let listener = self.queue.arrived.listen();
            if let Some(result) = self.queue.poll_get() {
                return result;
            }
            listener.wait();
        }
    }

    /// All messages that are there, appended to `into`. Returns how many.
    pub fn get_batch(&self, into: &mut Vec<Message>) -> usize {
        self.queue.drain_into(into)
    }

    /// As [`get_batch`](Self::get_batch), but waits for at least one message, up to `timeout`. 0 means that the time is
    /// up, or that the engine has stopped and the bucket is empty ([`is_stopped`](Self::is_stopped) tells).
    pub fn blocking_get_batch(&self, into: &mut Vec<Message>, timeout: Duration) -> usize {
        let until = deadline_after(timeout);
        loop {
            listener!(self.queue.arrived => listener);
            let stopped = self.is_stopped();
            let count = self.get_batch(into);
            if count > 0 || stopped {
                return count;
            }
            match until {
                None => listener.wait(),
                Some(until) if listener.wait_deadline(until).is_none() => return self.get_batch(into),
                Some(_) => {}
            }
        }
    }

    /// The engine has stopped: what is in the bucket is all there will be.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.queue.stopped.load(Ordering::Acquire)
    }

    /// Messages in the bucket.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.queue.messages).len()
    }

    /// Nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Ends once the engine has stopped and the bucket is empty.
impl Stream for RecvBucket {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(result) = self.queue.poll_get() {
                self.listener = None;
                return Poll::Ready(result.ok());
            }
            match &mut self.listener {
                None => self.listener = Some(Listening::new(self.queue.streams.listen())),
                Some(listener) => match Pin::new(listener).poll(context) {
                    Poll::Ready(()) => self.listener = None,
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}
