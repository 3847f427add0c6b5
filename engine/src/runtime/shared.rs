//! What the threads of an engine share: mailboxes, permits, buckets, published counters, and how they stop.

use super::bucket::RecvQueue;
use super::completion::{Completion, DeliveryCell, Registry, acquire, lock};
use super::mailbox::{Mail, Mailbox};
use super::run::{Run, RunsKept};
use super::sync;
use super::watchdog::{Pulse, Watch};
use crate::commit::{CommitKey, CommitSink};
use crate::config::{Config, Wire};
use crate::error::{DeliveryError, FailureCause, Reached, Refusal, SubmitReason};
use crate::hash::{Hasher, Seed};
use crate::message::Outgoing;
use crate::observe::{Counters, Gauges, Published};
use crate::proto::binary::extras::check_options;
use crate::proto::outbound::{Families, check_message};
use crate::proto::wires::Wires;
use crate::sys::wake::Wake;
use crate::units::Instant;
use event_listener::{Event, IntoNotification, Listener};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Whether the engine still takes messages, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Normal operation.
    Running,
    /// No new messages; shards go when theirs have ended or at this time.
    Draining(Instant),
    /// Shards end everything and go.
    Stopping,
}

/// What every shard does at its end, one after the other, each once all shards are through the one before: only then has all
/// been posted that it is to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// Of its operations (`Shard::stop`).
    Operations,
    /// Of what other shards' actors put here, and threads (`Shard::stop_inbox`). Then it takes the outcomes of what its own
    /// actor put there.
    Inbox,
}

impl Ending {
    pub(crate) const ALL: [Self; 2] = [Self::Operations, Self::Inbox];
}

/// One shard as others see it.
#[derive(Debug)]
pub(crate) struct ShardLink {
    pub(crate) mailbox: Mailbox,
    pub(crate) wake: Arc<Wake>,
    pub(crate) published: Published,
    pub(crate) pulse: Pulse,
    ops_used: sync::AtomicUsize,
    bytes_used: AtomicU64,
    /// Messages that were accepted and that no shard took any more, because the engine stopped.
    stopped_unsent: AtomicU64,
    /// Someone waits for room.
    room: Event,
    /// How often permits came back: who waits tries once for each time.
    released: AtomicU64,
    kick: AtomicBool,
}

impl ShardLink {
    /// What the shard published last, with what was accepted for it and never came there.
    pub(crate) fn read(&self) -> (Counters, Gauges) {
        let (mut counters, gauges) = self.published.read();
        let unsent = self.stopped_unsent.load(Ordering::Relaxed);
        counters.messages_accepted += unsent;
        counters.fail_many(FailureCause::EngineStopped, unsent);
        (counters, gauges)
    }

    /// The actor was asked to take a turn, and has not yet.
    pub(crate) fn is_kicked(&self) -> bool {
        self.kick.load(Ordering::SeqCst)
    }

    /// As `is_kicked`, and the turn is about to come.
    pub(crate) fn take_kick(&self) -> bool {
        self.kick.load(Ordering::Relaxed) && self.kick.swap(false, Ordering::SeqCst)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) links: Vec<ShardLink>,
    pub(crate) registry: Registry,
    pub(crate) recv: Arc<RecvQueue>,
    pub(crate) families: Families,
    wires: Wires,
    hasher: Hasher,
    ops_max: usize,
    send_bytes_max: u64,
    message_bytes_max: usize,
    /// 0 running, 1 stopping, else the drain deadline in ns.
    phase: AtomicU64,
    running: AtomicUsize,
    /// Shards that have nothing left to do, while draining.
    drained: AtomicUsize,
    /// Shards that are through each [`Ending`].
    ended: [AtomicUsize; Ending::ALL.len()],
    all_ended: Event,
    gone: Event,
    failure: Mutex<Option<String>>,
    pub(crate) runs: RunsKept,
    pub(crate) watch: Watch,
    stall_after: Duration,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl CommitSink for Shared {
    fn decide(&self, shard: u16, key: CommitKey, committed: bool) {
        self.post(shard, Mail::Commit(key, committed));
    }
}

impl Shared {
    pub(crate) fn new(config: &Config, families: Families, seed: &Seed, wakes: Vec<Arc<Wake>>) -> Arc<Self> {
        let link = |wake| ShardLink {
            mailbox: Mailbox::default(),
            wake,
            published: Published::new(),
            pulse: Pulse::default(),
            ops_used: sync::AtomicUsize::new(0),
            bytes_used: AtomicU64::new(0),
            stopped_unsent: AtomicU64::new(0),
            room: Event::new(),
            released: AtomicU64::new(0),
            kick: AtomicBool::new(false),
        };
        Arc::new(Self {
            running: AtomicUsize::new(wakes.len()),
            links: wakes.into_iter().map(link).collect(),
            registry: Registry::default(),
            recv: Arc::new(RecvQueue::new(config.recv_bucket_messages as usize, config.recv_bucket_bytes)),
            families,
            wires: Wires::new(config),
            hasher: seed.hasher(),
            ops_max: config.ops_in_flight_max as usize,
            send_bytes_max: config.send_bytes_max,
            message_bytes_max: config.message_bytes_max as usize,
            phase: AtomicU64::new(0),
            drained: AtomicUsize::new(0),
            ended: Default::default(),
            all_ended: Event::new(),
            gone: Event::new(),
            failure: Mutex::default(),
            runs: RunsKept::default(),
            watch: Watch::default(),
            stall_after: config.stall_after,
        })
    }

    /// The shard all v1 traffic to `to` leaves from: one window per peer, whatever the number of shards.
    pub(crate) fn home(&self, to: SocketAddr) -> u16 {
        match self.links.len() {
            1 => 0,
            shards => (self.hasher.hash(to) % shards as u64) as u16,
        }
    }

    /// The shard that handles rows with this foreign id.
    pub(crate) fn owner_of_text(&self, id: &[u8]) -> u16 {
        (self.hasher.hash(id) % self.links.len() as u64) as u16
    }

    /// Operations all send buckets together can have under way.
    pub(crate) fn ops_max_total(&self) -> usize {
        self.ops_max * self.links.len()
    }

    /// As [`check`](Self::check), of messages that are not written yet.
    pub(crate) fn check_lengths(&self, to: SocketAddr, bytes: usize) -> Result<(), SubmitReason> {
        self.check(&Outgoing::to(to, bytes::Bytes::new()))?;
        if bytes > self.message_bytes_max {
            return Err(SubmitReason::Refused(Refusal::TooLarge));
        }
        Ok(())
    }

    pub(crate) fn check(&self, outgoing: &Outgoing) -> Result<(), SubmitReason> {
        if self.phase() != Phase::Running {
            return Err(SubmitReason::Stopped);
        }
        let wire = self.wires.of(outgoing.to);
        check_message(outgoing.to, &outgoing.payload, self.message_bytes_max, self.families, wire)?;
        match &outgoing.options {
            Some(options) => check_options(options, &outgoing.payload, wire != Wire::Csv),
            None => Ok(()),
        }
    }

    /// Takes permits for up to `ops` operations at a shard.
    pub(crate) fn acquire_ops(&self, shard: u16, ops: usize) -> usize {
        acquire(&self.links[shard as usize].ops_used, ops, self.ops_max)
    }

    /// The permit a message of that length needs. One that is too large ends at once, without it: there may be none so large.
    pub(crate) const fn permit_bytes(&self, payload_bytes: usize) -> usize {
        if payload_bytes > self.message_bytes_max { 0 } else { payload_bytes }
    }

    /// Takes the permit for a payload at a shard.
    pub(crate) fn acquire_bytes(&self, shard: u16, bytes: usize) -> bool {
        let bytes = bytes as u64;
        let take = |used: u64| (used + bytes <= self.send_bytes_max).then_some(used + bytes);
        let used = &self.links[shard as usize].bytes_used;
        used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// By shard: bytes for which permits are out.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn bytes_to_send(&self) -> impl Iterator<Item = u64> {
        self.links.iter().map(|link| link.bytes_used.load(Ordering::Acquire))
    }

    /// Gives permits for operations back that were not used after all. Wakes nobody: what they lacked, others lack too,
    /// and a waiter who wakes himself would never sleep.
    pub(crate) fn give_back_ops(&self, shard: u16, ops: usize) {
        self.links[shard as usize].ops_used.fetch_sub(ops, Ordering::AcqRel);
    }

    /// Gives permits back and wakes who waits for room.
    pub(crate) fn release(&self, shard: u16, ops: usize, bytes: u64) {
        let link = &self.links[shard as usize];
        link.bytes_used.fetch_sub(bytes, Ordering::AcqRel);
        link.ops_used.fetch_sub(ops, Ordering::AcqRel);
        if ops > 0 {
            link.released.fetch_add(1, Ordering::AcqRel);
            // Additional: those notified before and not awake yet have their room already.
            link.room.notify(ops.additional());
        }
    }

    pub(crate) fn listen_room(&self, shard: u16) -> event_listener::EventListener {
        self.links[shard as usize].room.listen()
    }

    /// How often room was released at a shard.
    pub(crate) fn released(&self, shard: u16) -> u64 {
        self.links[shard as usize].released.load(Ordering::Acquire)
    }

    /// Wakes another one who waits for room, if there is any: of bytes it may need fewer than who was woken before.
    pub(crate) fn pass_room_on(&self, shard: u16) {
        let link = &self.links[shard as usize];
        if link.ops_used.load(Ordering::Acquire) < self.ops_max
            && link.bytes_used.load(Ordering::Acquire) < self.send_bytes_max
        {
            link.room.notify(1.additional());
        }
    }

    /// Hands an accepted message, whose permits are taken, to its shard.
    pub(crate) fn post_put(&self, shard: u16, outgoing: Outgoing, completion: Completion) {
        self.post(shard, Mail::Put(outgoing, completion));
    }

    pub(crate) fn post_cancel(&self, cell: &Arc<DeliveryCell>) {
        self.post(cell.shard(), Mail::Cancel(Arc::clone(cell)));
    }

    pub(crate) fn post(&self, shard: u16, mail: Mail) {
        self.links[shard as usize].mailbox.post(mail);
        self.posted(shard);
    }

    /// Must follow whatever was put into a mailbox.
    pub(crate) fn posted(&self, shard: u16) {
        self.links[shard as usize].wake.notify();
        if self.shards_running() == 0 {
            self.clear_mailbox(shard);
        }
    }

    /// The application's word on messages of this engine's.
    pub(crate) fn commit_sink(self: &Arc<Self>) -> Weak<dyn CommitSink> {
        Arc::<Self>::downgrade(self)
    }

    pub(crate) fn wake_all(&self) {
        for link in &self.links {
            link.kick.store(true, Ordering::SeqCst);
            link.wake.notify();
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Stopping,
            at => Phase::Draining(Instant::from_ns(at)),
        }
    }

    /// Moves on to `phase`; there is no way back.
    pub(crate) fn advance(&self, phase: Phase) {
        let next = match phase {
            Phase::Running => return,
            Phase::Stopping => 1,
            Phase::Draining(at) => at.as_ns().max(2),
        };
        let moved = self
            .phase
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now != 1).then_some(next))
            .is_ok();
        if moved {
            self.wake_all();
            for link in &self.links {
                link.room.notify(usize::MAX);
            }
        }
    }

    /// A shard failed: everything stops, and the first cause is kept.
    pub(crate) fn fail(&self, cause: String) {
        lock(&self.failure).get_or_insert(cause);
        self.advance(Phase::Stopping);
    }

    pub(crate) fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    pub(crate) fn shards_running(&self) -> usize {
        // With the poster's look at it and the mailbox's flag: one of both sees the other.
        self.running.load(Ordering::SeqCst)
    }

    /// A shard has nothing left to do while draining, and takes nothing more from its actor. It stays until all have come
    /// so far: outcomes of operations one shard carries out for another's actor need both.
    pub(crate) fn drained(&self) {
        if self.drained.fetch_add(1, Ordering::AcqRel) + 1 == self.links.len() {
            self.wake_all();
        }
    }

    pub(crate) fn all_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire) == self.links.len()
    }

    /// A shard is through this: what it had to post to other shards in it is posted.
    pub(crate) fn ended(&self, ending: Ending) {
        self.ended[ending as usize].fetch_add(1, Ordering::AcqRel);
        self.all_ended.notify(usize::MAX);
    }

    /// Waits until every shard is.
    pub(crate) fn wait_all_ended(&self, ending: Ending) {
        loop {
            let listener = self.all_ended.listen();
            if self.ended[ending as usize].load(Ordering::Acquire) == self.links.len() {
                return;
            }
            listener.wait();
        }
    }

    /// For how long a shard's turn has lasted, if that is a stall.
    pub(crate) fn stalled(&self, shard: usize, now: Instant) -> Option<Duration> {
        let lasts = self.links[shard].pulse.lasts(now)?;
        (!self.stall_after.is_zero() && lasts >= self.stall_after).then_some(lasts)
    }

    /// A shard's last act. The last shard out ends what was posted too late.
    pub(crate) fn shard_gone(&self) {
        if self.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            for shard in 0..self.links.len() {
                self.clear_mailbox(shard as u16);
            }
            self.recv.stop();
            self.registry.stop();
            for link in &self.links {
                link.room.notify(usize::MAX);
            }
            self.gone.notify(usize::MAX);
            self.watch.wake_always();
        }
    }

    pub(crate) fn listen_gone(&self) -> event_listener::EventListener {
        self.gone.listen()
    }

    /// Ends everything in a mailbox nobody reads any more.
    fn clear_mailbox(&self, shard: u16) {
        let mut mails = std::collections::VecDeque::new();
        self.links[shard as usize].mailbox.take(&mut mails);
        for mail in mails {
            match mail {
                Mail::PutEach(run) => self.finish_stopped_run(shard, &run),
                // Actors are gone by now.
                Mail::Put(outgoing, completion) if !matches!(completion, Completion::Remote(_)) => {
                    self.release(shard, 1, self.permit_bytes(outgoing.payload.len()) as u64);
                    self.finish_stopped(shard, outgoing.tag, completion);
                }
                Mail::Put(..) => self.count_stopped(shard),
                _ => {}
            }
        }
    }

    /// As [`finish_stopped`](Self::finish_stopped), of a whole run, whose permits go back.
    pub(crate) fn finish_stopped_run(&self, shard: u16, run: &Run) {
        let count = run.tags().len();
        self.release(shard, count, (count * run.bytes()) as u64);
        for &tag in run.tags() {
            self.finish_stopped(shard, tag, Completion::Queue(run.queue));
        }
    }

    fn count_stopped(&self, shard: u16) {
        self.links[shard as usize].stopped_unsent.fetch_add(1, Ordering::Relaxed);
    }

    /// The outcome of a message that never reached a slot because the engine stopped.
    pub(crate) fn finish_stopped(&self, shard: u16, tag: u64, completion: Completion) {
        self.count_stopped(shard);
        let outcome = Err(DeliveryError { cause: FailureCause::EngineStopped, reached: Reached::Never });
        match completion {
            Completion::Future(promise) => promise.finish(outcome),
            Completion::Queue(number) => {
                if let Some(queue) = self.registry.get(number) {
                    queue.append(&mut vec![(tag, outcome)]);
                }
            }
            Completion::Remote(shard) => self.post(shard, Mail::Outcome(tag, outcome)),
            Completion::Actor => {}
        }
    }
}
