//! Where outcomes go: a future, a queue by tag, the shard's own actor, or another shard's.

use super::{listening, sync};
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::message::Outcome;
use crate::proto::ack_tracker::OpKey;
use event_listener::{Event, Listener, listener};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What an operation carries along for its outcome. 16 bytes.
#[derive(Debug)]
pub(crate) enum Completion {
    /// `Actor::on_outcome` of the shard the operation is in.
    Actor,
    /// `Actor::on_outcome` of another shard.
    Remote(u16),
    /// The completion queue with this number in the registry.
    Queue(u32),
    /// A [`Delivery`].
    Future(Promise),
}

/// What owes a [`Delivery`] its outcome. One that is dropped without, where a plug-in panics with the message in hand, says
/// that the engine stops.
#[derive(Debug)]
pub(crate) struct Promise(Option<Arc<DeliveryCell>>);

impl Promise {
    pub(crate) fn new(cell: &Arc<DeliveryCell>) -> Self {
        Self(Some(Arc::clone(cell)))
    }

    pub(crate) fn finish(mut self, outcome: Outcome) {
        if let Some(cell) = self.0.take() {
            cell.finish(outcome);
        }
    }

    pub(crate) const fn cell(&self) -> Option<&Arc<DeliveryCell>> {
        self.0.as_ref()
    }

    pub(crate) fn is_of(&self, cell: &Arc<DeliveryCell>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, cell))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.finish(Err(DeliveryError { cause: FailureCause::EngineStopped, reached: Reached::Unknown }));
        }
    }
}

const _: () = assert!(size_of::<Completion>() == 16);

/// Locks, taking over from a thread that panicked: what these mutexes guard is valid between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared half of a [`Delivery`].
#[derive(Debug)]
pub(crate) struct DeliveryCell {
    shard: u16,
    state: Mutex<CellState>,
    done: Event,
}

#[derive(Debug, Default)]
struct CellState {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
    /// Set by the shard once the operation is in a slot.
    key: Option<OpKey>,
    /// Its shard is told, or has been.
    cancelled: bool,
}

impl DeliveryCell {
    pub(crate) fn new(shard: u16) -> Arc<Self> {
        Arc::new(Self { shard, state: Mutex::default(), done: Event::new() })
    }

    pub(crate) fn set_key(&self, key: OpKey) {
        lock(&self.state).key = Some(key);
    }

    pub(crate) fn key(&self) -> Option<OpKey> {
        lock(&self.state).key
    }

    pub(crate) const fn shard(&self) -> u16 {
        self.shard
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.state).outcome.is_some()
    }

    /// Whether the shard is to be told that it is cancelled: once, unless it has ended. That bounds what waits in a mailbox.
    fn cancels(&self) -> bool {
        let mut state = lock(&self.state);
        state.outcome.is_none() && !std::mem::replace(&mut state.cancelled, true)
    }

    pub(crate) fn finish(&self, outcome: Outcome) {
        let waker = {
            let mut state = lock(&self.state);
            state.outcome = Some(outcome);
            state.waker.take()
        };
        self.done.notify(usize::MAX);
        if let Some(waker) = waker {
            listening::wake(&waker);
        }
    }
}

/// An operation under way: a future of its [`Outcome`]. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "the outcome is the only word on whether the message arrived"]
pub struct Delivery {
    pub(crate) cell: Arc<DeliveryCell>,
    pub(crate) shared: Arc<super::shared::Shared>,
}

impl Delivery {
    /// Ends the operation, unless it has ended: its outcome becomes `Cancelled`. The peer may have the message all the
    /// same; the outcome says whether any of it was sent.
    pub fn cancel(&self) {
        if self.cell.cancels() {
            self.shared.post_cancel(&self.cell);
        }
    }

    /// Blocks the calling thread until the outcome is known.
    pub fn wait(self) -> Outcome {
        loop {
            let listener = self.cell.done.listen();
            if let Some(outcome) = lock(&self.cell.state).outcome {
                return outcome;
            }
            listener.wait();
        }
    }
}

impl Future for Delivery {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = lock(&self.cell.state);
        if let Some(outcome) = state.outcome {
            return Poll::Ready(outcome);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

/// A completion queue: outcomes by tag, no allocation and no waker per message. Its owner can have at most
/// `outstanding_max` outcomes due to it, taken or not: that bounds it.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    outcomes: sync::Mutex<Vec<(u64, Outcome)>>,
    outstanding: sync::AtomicUsize,
    outstanding_max: usize,
    filled: Event,
    stopped: sync::AtomicBool,
}

impl CompletionQueue {
    pub(crate) fn new(outstanding_max: usize) -> Self {
        Self {
            outcomes: sync::Mutex::default(),
            outstanding: sync::AtomicUsize::new(0),
            outstanding_max,
            filled: Event::new(),
            stopped: sync::AtomicBool::new(false),
        }
    }

    /// Takes up to `wanted` places; returns how many were there.
    pub(crate) fn acquire(&self, wanted: usize) -> usize {
        acquire(&self.outstanding, wanted, self.outstanding_max)
    }

    fn release(&self, count: usize) {
        self.outstanding.fetch_sub(count, Ordering::AcqRel);
    }

    /// Gives places back for which nothing was put: who waits for outcomes may wait for none.
    pub(crate) fn release_unused(&self, count: usize) {
        if count > 0 {
            self.release(count);
            self.filled.notify(usize::MAX);
        }
    }

    /// Called by shards, once a turn, with what the turn brought.
    pub(crate) fn append(&self, outcomes: &mut Vec<(u64, Outcome)>) {
        {
            let mut all = sync::lock(&self.outcomes);
            if all.is_empty() {
                std::mem::swap(&mut *all, outcomes); // Nothing is moved, and each side keeps a buffer.
            } else {
                all.append(outcomes);
            }
        }
        self.filled.notify(usize::MAX);
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.filled.notify(usize::MAX);
    }

    /// Moves everything there is to `into`.
    pub(crate) fn take(&self, into: &mut Vec<(u64, Outcome)>) -> usize {
        let mut outcomes = sync::lock(&self.outcomes);
        let count = outcomes.len();
        if into.is_empty() {
            std::mem::swap(&mut *outcomes, into);
        } else {
            into.append(&mut outcomes);
        }
        if count > 0 {
            // Before the lock is: who finds nothing here, where another one took it, must not believe that it is still due.
            self.release(count);
        }
        count
    }

    /// As `take`, but waits for at least one, unless none is due or the time is up.
    pub(crate) fn take_blocking(&self, into: &mut Vec<(u64, Outcome)>, timeout: Duration) -> usize {
        let until = deadline_after(timeout);
        loop {
            listener!(self.filled => listener);
            // Read before looking: what was appended before the stop is found.
            let stopped = self.stopped.load(Ordering::Acquire);
            let count = self.take(into);
            let none_due = self.outstanding.load(Ordering::Acquire) == 0;
            if count > 0 || none_due || stopped {
                return count;
            }
            match until {
                None => listener.wait(),
                Some(until) if listener.wait_deadline(until).is_none() => return self.take(into),
                Some(_) => {}
            }
        }
    }
}

/// When a wait of the application's own thread ends; `None`: never.
#[expect(clippy::disallowed_methods, reason = "no shard's time: what the listener waits by")]
pub(crate) fn deadline_after(timeout: Duration) -> Option<std::time::Instant> {
    std::time::Instant::now().checked_add(timeout)
}

/// Takes up to `wanted` of a counter that may reach `max`; returns how many it got.
pub(crate) fn acquire(used: &sync::AtomicUsize, wanted: usize, max: usize) -> usize {
    let mut now = used.load(Ordering::Acquire);
    loop {
        let granted = wanted.min(max.saturating_sub(now));
        if granted == 0 {
            return 0;
        }
        match used.compare_exchange_weak(now, now + granted, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return granted,
            Err(actual) => now = actual,
        }
    }
}

/// All completion queues of an engine, by number. Numbers of dropped queues are used again once nothing is due to them.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    queues: Mutex<Vec<Option<Arc<CompletionQueue>>>>,
}

impl Registry {
    pub(crate) fn register(&self, queue: &Arc<CompletionQueue>) -> u32 {
        let mut queues = lock(&self.queues);
        let free = queues.iter().position(|place| {
            place.as_ref().is_none_or(|old| {
                // Only the registry knows it, and every outcome due to it has come: its buckets are gone.
                Arc::strong_count(old) == 1
                    && old.outstanding.load(Ordering::Acquire) == sync::lock(&old.outcomes).len()
            })
        });
        let index = free.unwrap_or(queues.len());
        if index == queues.len() {
            queues.push(None);
        }
        queues[index] = Some(Arc::clone(queue));
        index as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<CompletionQueue>> {
        lock(&self.queues).get(number as usize)?.clone()
    }

    pub(crate) fn stop(&self) {
        for queue in lock(&self.queues).iter().flatten() {
            queue.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Preset};
    use crate::hash::Seed;
    use crate::proto::outbound::Families;
    use crate::runtime::bucket::SendBucket;
    use crate::runtime::mailbox::Mail;
    use crate::runtime::shared::Shared;
    use crate::sys::wake::Wake;

    /// Whatever the application does while its shard is busy: an operation is cancelled once, and none that has ended.
    #[test]
    fn cancelling_again_and_again_posts_one_mail() {
        let config = Config::preset(Preset::Small);
        let wakes = vec![Arc::new(Wake::new().unwrap())];
        let shared = Shared::new(&config, Families { v4: true, v6: true }, &Seed::from_number(1), wakes);
        let put = || {
            let to = ([127, 0, 0, 1], 9).into();
            SendBucket::new(Arc::clone(&shared)).try_put(crate::message::Outgoing::to(to, "x")).unwrap()
        };
        let (delivery, ended) = (put(), put());
        ended.cell.finish(Err(DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Unknown }));
        for _ in 0..1_000 {
            delivery.cancel();
            ended.cancel();
        }
        let mut mails = std::collections::VecDeque::new();
        shared.links[0].mailbox.take(&mut mails);
        let cancels: Vec<_> = mails.iter().filter(|mail| matches!(mail, Mail::Cancel(_))).collect();
        assert_eq!((mails.len(), cancels.len()), (3, 1));
        assert!(matches!(cancels[0], Mail::Cancel(cell) if Arc::ptr_eq(cell, &delivery.cell)));
        drop(mails);
        // Nobody sends it any more.
        assert_eq!(delivery.wait().unwrap_err().cause, FailureCause::EngineStopped);
    }
}
