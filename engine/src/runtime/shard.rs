//! The loop: one thread, one socket, one driver, one endpoint.
//!
//! ```text
//!   receive -> inbox -> timers -> actor -> trains -> send -> outcomes -> publish -> spin or park
//! ```
//!
//! Acknowledgements are handled before timers; one clock read a turn; nothing waits for company: what is ready when the
//! trains are built leaves in this turn.

use super::actor::{App, Context, Local};
use super::completion::{Completion, DeliveryCell};
use super::driver::{Driver, DriverCounters, Received, SendFailure};
use super::mailbox::Mail;
use super::run::Run;
use super::shared::{Phase, Shared};
use crate::config::Config;
use crate::constants::{INBOX_TURN_MAX, TRAIN_BATCH_BYTES, TRAIN_BATCH_TRAINS};
use crate::error::FailureCause;
use crate::hash::Seed;
use crate::message::{Outcome, Outgoing};
use crate::observe::{Counters, Gauges};
use crate::options::Extras;
use crate::proto::endpoint::{Application, Endpoint};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::{Finished, Place, Submission};
use crate::proto::plugins::Plugins;
use crate::proto::sending::Sending;
use crate::train::{Origin, TRAIN_BYTES_MAX_V4, Train, TrainBatch};
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::route::{self, Steer};
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Counters are published at least every so many turns, and before the shard sleeps.
const PUBLISH_TURNS: u64 = 32;
/// Room in the batch for the confirms of one more received train: a confirm is at most two bytes longer than its row
/// (11 to rows with a mark, which are longer still), and at worst each is a train of its own.
const CONFIRM_BYTES_MAX: usize = TRAIN_BYTES_MAX_V4 + 2 * CONFIRM_TRAINS_MAX;
const CONFIRM_TRAINS_MAX: usize = 128;
const _: () =
    assert!(CONFIRM_BYTES_MAX * 2 <= TRAIN_BATCH_BYTES && CONFIRM_TRAINS_MAX * 2 <= TRAIN_BATCH_TRAINS);

/// Trains received in one turn: their confirms then leave while the peer is still sending, instead of both sides waiting
/// for each other by turns. That takes at least twice as many under way.
const RECEIVE_TRAINS_MAX: usize = 8;
/// So many datagrams that came alone are as much work as a train: peers that send little, or a path without trains. Else each
/// turn would acknowledge eight of them. Where some are missing that is right: acknowledgements get lost, too, and are few enough.
const RECEIVE_SINGLES_PER_TRAIN: usize = 4;
/// Bytes received in one turn, a train more or less: trains of the binary wire are full and carry many messages.
const RECEIVE_BYTES_MAX: usize = 128 << 10;

/// So many trains of data leave before the turn's confirms: each send costs its successors some microseconds.
const ANSWER_TRAINS_MAX: usize = 2;

/// How often messages that wait for room are looked through: for room that no outcome makes (an idle peer's place in
/// the table of peers), and for those whose deadline has passed.
const WAITING_CHECK: Duration = Duration::from_millis(100);
/// Longest sleep while the socket takes nothing and there is no room for the confirms of anything received.
const DEAF_WAIT: Duration = Duration::from_millis(5);
/// Pause after ENOBUFS, which nothing announces the end of.
const NO_BUFFERS_WAIT: Duration = Duration::from_millis(1);
/// So many mails a cancellation counts as: its operation is looked for among all.
const CANCEL_WORK: usize = 64;
/// Completion queues a shard keeps a list for from turn to turn.
const QUEUES_KEPT_MAX: usize = 16;

/// What became of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done; the next turn is due at once.
    Busy,
    /// Nothing to do until input or the next deadline.
    Idle,
    /// The shard is done for good.
    Finished,
}

/// One shard; `D` is its network, `A` takes its messages.
pub(crate) struct Shard<D, A> {
    pub(crate) driver: D,
    app: A,
    endpoint: Endpoint<Completion>,
    batch: TrainBatch,
    failures: Vec<SendFailure>,
    /// Without any in it: memory for the places of trains that go again.
    retry: Vec<usize>,
    /// Trains of the batch are left over because the socket was full.
    blocked: bool,
    /// When they are tried again if nothing happens before.
    retry_at: Instant,
    inbox: VecDeque<Mail>,
    /// Messages accepted from other threads that wait for room.
    waiting: VecDeque<Waiting>,
    placeless: Placeless,
    waiting_checked_at: Instant,
    /// Messages once came from other threads, or shards: their outcomes have permits to give back.
    has_others: bool,
    /// Messages put at once that are being taken.
    run: Option<Run>,
    in_hand: Option<InHand>,
    queues: Vec<LocalQueue>,
    /// Where the list of each queue is, by the queue's number: those are small, as one that is free is taken again.
    queue_places: Vec<usize>,
    /// Outcomes being acted on, and how many of them have been.
    finishing: Vec<Finished<Completion>>,
    finishing_done: usize,
    local: Local,
    place: Place,
    spin: Duration,
    last_work_at: Instant,
    /// None while it sleeps.
    turn_began_at: Option<Instant>,
    /// So long a turn may last.
    stall_after: Duration,
}

/// What a shard is made with, beside its network and its application.
pub(crate) struct Setup<'a> {
    pub(crate) config: &'a Config,
    pub(crate) plugins: &'a Plugins,
    pub(crate) place: Place,
    pub(crate) seed: &'a Seed,
    pub(crate) shared: &'a Arc<Shared>,
    /// Datagrams in a train at most; 1 without GSO.
    pub(crate) segments_max: usize,
    /// The socket's receive buffer, as read back.
    pub(crate) rcvbuf_bytes: u64,
    /// For [`Context::read_clock`].
    pub(crate) clock: fn() -> Instant,
}

/// Outcomes of this turn for one completion queue.
struct LocalQueue {
    number: u32,
    outcomes: Vec<(u64, Outcome)>,
}

/// A message without an operation yet; its deadline runs.
struct Waiting {
    outgoing: Outgoing,
    completion: Completion,
    expires_at: Instant,
}

/// Messages for which there is room, but no place for their peer: set aside, so that they hold up nobody else's.
#[derive(Default)]
struct Placeless {
    messages: VecDeque<Waiting>,
    /// Their peers, or those of a moment ago. What is put to them meanwhile follows: messages of a lane stay in order.
    peers: BTreeSet<SocketAddr>,
}

impl Placeless {
    fn push(&mut self, waiting: Waiting) {
        self.peers.insert(waiting.outgoing.to);
        self.messages.push_back(waiting);
    }
}

/// A message that is being put: what `stop` finds of it should a plug-in panic before it has become an operation. A
/// [`Delivery`](super::completion::Delivery) sees to itself.
struct InHand {
    completion: Completion,
    tag: u64,
    /// With no more of them after it, it has become none.
    operations_before: usize,
}

/// The application behind the endpoint, with its context put together.
struct Behind<'a, A> {
    app: &'a mut A,
    local: &'a mut Local,
}

impl<A: App> Application<Completion> for Behind<'_, A> {
    fn deliver(
        &mut self,
        outbound: &mut Sending<Completion>,
        counters: &mut Counters,
        sender: SocketAddr,
        sent_at: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery {
        let mut context = Context { local: self.local, outbound, counters };
        self.app.deliver(&mut context, sender, sent_at, payload, extras)
    }
}

impl<D: Driver, A: App> Shard<D, A> {
    pub(crate) fn new(setup: &Setup<'_>, mut driver: D, app: A) -> Self {
        let now = driver.now();
        Self {
            driver,
            app,
            endpoint: Endpoint::new(
                setup.config,
                setup.plugins,
                setup.place,
                setup.seed,
                now,
                setup.rcvbuf_bytes,
            ),
            batch: TrainBatch::new(TRAIN_BATCH_BYTES, TRAIN_BATCH_TRAINS, setup.segments_max),
            failures: Vec::new(),
            retry: Vec::new(),
            blocked: false,
            retry_at: Instant::FAR_FUTURE,
            inbox: VecDeque::new(),
            waiting: VecDeque::new(),
            placeless: Placeless::default(),
            waiting_checked_at: now,
            has_others: false,
            run: None,
            in_hand: None,
            queues: Vec::new(),
            queue_places: Vec::new(),
            finishing: Vec::new(),
            finishing_done: 0,
            local: Local {
                shared: Arc::clone(setup.shared),
                shard: setup.place.shard,
                now,
                // The first turn is the actor's.
                wake_at: now,
                arena: super::arena::PayloadArena::new(setup.config.recv_bucket_bytes),
                scratch: Vec::new(),
                remote_due: 0,
                drained: false,
                phase: Phase::Running,
                in_bulk: false,
                clock: setup.clock,
            },
            place: setup.place,
            spin: setup.config.spin,
            last_work_at: now,
            turn_began_at: None,
            // Zero: nobody watches.
            stall_after: match setup.config.stall_after {
                Duration::ZERO => Duration::MAX,
                stall_after => stall_after,
            },
        }
    }

    /// Runs until the engine stops.
    pub(crate) fn run(&mut self) {
        loop {
            match self.turn() {
                Turn::Busy => {}
                Turn::Finished => return,
                Turn::Idle if self.local.now.since(self.last_work_at) < self.spin => std::hint::spin_loop(),
                Turn::Idle => self.park(),
            }
        }
    }

    /// Says that a turn begins, and looks how long the one before lasted.
    #[inline]
    fn begin_turn(&mut self, now: Instant) {
        let link = &self.local.shared.links[self.place.shard as usize];
        link.pulse.beat(now);
        match self.turn_began_at.replace(now) {
            None => self.local.shared.watch.wake(),
            Some(began) => self.end_turn(began, now),
        }
    }

    /// A turn that lasted too long is counted. The watchdog has reported it while it lasted.
    #[inline]
    fn end_turn(&mut self, began: Instant, now: Instant) {
        let lasted = now.since(began);
        if lasted >= self.stall_after {
            self.endpoint.counters.stalls += 1;
            self.endpoint.counters.stalled_ms += lasted.as_millis() as u64;
            self.publish();
        }
    }

    /// One turn of the loop. Never blocks.
    pub(crate) fn turn(&mut self) -> Turn {
        let now = self.driver.now();
        self.local.now = now;
        self.begin_turn(now);
        self.endpoint.counters.turns += 1;
        let mut work = self.receive(now);
        work += self.read_inbox(now);
        self.endpoint.handle_timers(now);
        let kicked = self.local.shared.links[self.place.shard as usize].take_kick();
        let ended = !self.endpoint.outbound.finished().is_empty();
        if kicked || work > 0 || ended || self.local.wake_at <= now {
            self.local.wake_at = Instant::FAR_FUTURE;
            work += self.finish_operations();
            self.local.in_bulk = true;
            self.with_context(|app, context| app.turn(context));
            self.local.in_bulk = false;
        }
        work += self.send(now);
        work += self.finish_operations();
        self.app.end_turn();
        if work > 0 {
            self.last_work_at = now;
        }
        if self.endpoint.counters.turns.is_multiple_of(PUBLISH_TURNS) {
            self.publish();
        }
        let phase = self.local.shared.phase();
        self.local.phase = phase;
        match phase {
            Phase::Running if work > 0 => Turn::Busy,
            Phase::Running => Turn::Idle,
            Phase::Stopping => Turn::Finished,
            Phase::Draining(deadline) if now >= deadline || self.is_drained() => Turn::Finished,
            Phase::Draining(_) if work > 0 => Turn::Busy,
            Phase::Draining(_) => Turn::Idle,
        }
    }

    /// Nothing is left to do here, and no shard has anything left that concerns this one.
    fn is_drained(&mut self) -> bool {
        let own = self.endpoint.outbound.in_flight() == 0
            && self.local.remote_due == 0
            && self.inbox.is_empty()
            && !self.has_waiting()
            && !self.local.shared.links[self.place.shard as usize].mailbox.has_mail();
        if own && !std::mem::replace(&mut self.local.drained, true) {
            self.local.shared.drained();
        }
        own && self.local.shared.all_drained()
    }

    /// Room in the batch for the confirms of one more received train. There always is unless the socket is full.
    fn has_confirm_room(&self) -> bool {
        self.batch.room_bytes() >= CONFIRM_BYTES_MAX && self.batch.room_trains() >= CONFIRM_TRAINS_MAX
    }

    /// Everything received, confirms into the batch; foreign rows to their shard.
    fn receive(&mut self, now: Instant) -> usize {
        if !self.has_confirm_room() {
            self.endpoint.outbound.flows.set_unread(true);
            return 0;
        }
        let Self { driver, app, endpoint, batch, local, place, .. } = self;
        let (mut left, mut bytes_left) = (RECEIVE_TRAINS_MAX * RECEIVE_SINGLES_PER_TRAIN, RECEIVE_BYTES_MAX);
        let (mut unread, mut gap) = (false, false);
        let received = driver.receive(|received: Received<'_>| {
            endpoint.counters.trains_received += 1;
            endpoint.counters.datagrams_taken += if received.bytes.len() <= received.segment_bytes {
                1
            } else {
                received.bytes.len().div_ceil(received.segment_bytes) as u64
            };
            let train = endpoint.begin_train(now, received.from, received.local, batch);
            let mut behind = Behind { app, local };
            if received.bytes.is_empty() {
                endpoint.handle_datagram(&train, received.bytes, batch, &mut behind);
            }
            let mut rest = received.bytes;
            while !rest.is_empty() {
                let (own, other) = own_rows(rest, received.segment_bytes, *place, behind.local, endpoint);
                endpoint.handle_rows(&train, &rest[..own], received.segment_bytes, batch, &mut behind);
                rest = &rest[own..];
                if let Some(owner) = other {
                    let (datagram, behind_it) = rest.split_at(received.segment_bytes.min(rest.len()));
                    forward(datagram, &received, owner, &behind.local.shared, endpoint);
                    rest = behind_it;
                }
            }
            endpoint.end_train();
            // Leave what follows for the next turn when its confirms might find no room.
            let full = batch.room_bytes() < CONFIRM_BYTES_MAX || batch.room_trains() < CONFIRM_TRAINS_MAX;
            gap |= endpoint.inflows.take_gap();
            let alone = !gap && received.bytes.len() <= received.segment_bytes;
            left = left.saturating_sub(if alone { 1 } else { RECEIVE_SINGLES_PER_TRAIN });
            bytes_left = bytes_left.saturating_sub(received.bytes.len());
            unread = full || left == 0 || bytes_left == 0;
            if unread { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        endpoint.outbound.flows.set_unread(unread || driver.may_have_more());
        received
    }

    /// Mail from other threads. Messages to send wait here while there is no room for operations; everything else is
    /// handled at once; forwarded rows wait for room for their confirms.
    fn read_inbox(&mut self, now: Instant) -> usize {
        if self.inbox.is_empty() {
            self.local.shared.links[self.place.shard as usize].mailbox.take(&mut self.inbox);
        }
        let mut handled = 0;
        while handled < INBOX_TURN_MAX
            && (self.has_confirm_room() || !matches!(self.inbox.front(), Some(Mail::Forwarded { .. })))
            && let Some(mail) = self.inbox.pop_front()
        {
            handled += match &mail {
                Mail::PutEach(run) => run.len(),
                Mail::Cancel(_) => CANCEL_WORK,
                _ => 1,
            };
            self.handle_mail(now, mail);
        }
        handled + self.put_waiting(now)
    }

    /// Puts what waits, in order, as far as there is room. Every now and then looks at all that wait: a place may have become
    /// free for a peer that had none, and what has expired has its outcome.
    fn put_waiting(&mut self, now: Instant) -> usize {
        let check_all = now.since(self.waiting_checked_at) >= WAITING_CHECK && self.has_waiting();
        let mut put = 0;
        if check_all {
            self.waiting_checked_at = now;
            put += self.put_placeless(now);
        }
        let mut left = if check_all { self.waiting.len() } else { self.waiting.len().min(INBOX_TURN_MAX) };
        while left > 0
            && (check_all || self.endpoint.outbound.room() > 0)
            && let Some(next) = self.waiting.pop_front()
        {
            left -= 1;
            if self.is_placeless(next.outgoing.to) {
                self.placeless.push(next);
                continue;
            }
            match self.put_one_waiting(now, next) {
                Ok(()) => put += 1,
                Err(back) if self.endpoint.outbound.room() > 0 => self.placeless.push(back),
                Err(back) if check_all => self.waiting.push_back(back),
                Err(back) => {
                    self.waiting.push_front(back);
                    break;
                }
            }
        }
        put
    }

    /// Puts those whose peers have places now. To each of the others one is tried.
    fn put_placeless(&mut self, now: Instant) -> usize {
        let mut put = 0;
        self.placeless.peers.clear();
        for _ in 0..self.placeless.messages.len() {
            let Some(next) = self.placeless.messages.pop_front() else { break };
            if now < next.expires_at && self.placeless.peers.contains(&next.outgoing.to) {
                self.placeless.push(next);
                continue;
            }
            match self.put_one_waiting(now, next) {
                Ok(()) => put += 1,
                Err(back) => self.placeless.push(back),
            }
        }
        put
    }

    /// Gives it back if it has to wait on.
    fn put_one_waiting(&mut self, now: Instant, waiting: Waiting) -> Result<(), Waiting> {
        let Waiting { mut outgoing, completion, expires_at } = waiting;
        if now >= expires_at {
            let Endpoint { outbound, counters, .. } = &mut self.endpoint;
            outbound.finish_unsent(submission(outgoing, completion), FailureCause::Expired, counters);
            return Ok(());
        }
        outgoing.deadline = Some(expires_at.since(now));
        let put = self.put(now, outgoing, completion);
        put.map_err(|(outgoing, completion)| Waiting { outgoing, completion, expires_at })
    }

    /// Whether a message to that address goes behind those whose peers have no place. What is new to the engine does while there
    /// are any: they were first.
    fn is_placeless(&self, to: SocketAddr) -> bool {
        !self.placeless.messages.is_empty()
            && (self.placeless.peers.contains(&to) || !self.endpoint.outbound.has_place(to))
    }

    /// Messages wait that `put_waiting` looks at every now and then.
    fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.placeless.messages.is_empty()
    }

    fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Put(mut outgoing, completion) => {
                self.has_others = true;
                let Endpoint { outbound, counters, .. } = &mut self.endpoint;
                // Batches come unchecked; everything else was checked by the thread that put it.
                if matches!(completion, Completion::Queue(_))
                    && let Err(reason) = outbound.check_outgoing(&outgoing)
                {
                    if self.local.shared.permit_bytes(outgoing.payload.len()) == 0 {
                        outgoing.payload = Bytes::new(); // What goes back with the outcome is what was taken.
                    }
                    return outbound.finish_unsent(
                        submission(outgoing, completion),
                        reason.cause(),
                        counters,
                    );
                }
                let (lifetime, has_room) = (outbound.lifetime(&outgoing), outbound.room() > 0);
                let mut waiting = Waiting { outgoing, completion, expires_at: now + lifetime };
                if self.waiting.is_empty() && has_room {
                    if self.is_placeless(waiting.outgoing.to) {
                        return self.placeless.push(waiting);
                    }
                    waiting.outgoing.deadline = Some(lifetime);
                    match self.put(now, waiting.outgoing, waiting.completion) {
                        Ok(()) => return,
                        Err((outgoing, completion)) => {
                            (waiting.outgoing, waiting.completion) = (outgoing, completion)
                        }
                    }
                    return self.placeless.push(waiting);
                }
                self.waiting.push_back(waiting);
            }
            Mail::PutEach(run) => self.put_run(now, run),
            Mail::Cancel(cell) => self.cancel(&cell),
            Mail::Commit(key, committed) => {
                let Endpoint { outbound, inflows, .. } = &mut self.endpoint;
                outbound.flows.handle_commit(now, key, committed, inflows);
            }
            Mail::Forwarded { from, local, datagram } => {
                let Self { app, endpoint, batch, local: shard_local, .. } = self;
                endpoint.counters.forwarded_in += 1;
                let train = endpoint.begin_train(now, from, local, batch);
                endpoint.handle_datagram(&train, &datagram, batch, &mut Behind { app, local: shard_local });
                endpoint.end_train();
                self.local.shared.links[self.place.shard as usize].mailbox.forwarded_done(1);
            }
            Mail::Outcome(tag, outcome) => {
                self.local.remote_due -= 1;
                self.with_context(|app, context| app.outcome(context, tag, outcome))
            }
        }
    }

    /// Takes many messages of one length: those that go behind others into a datagram straight from where they were written.
    fn put_run(&mut self, now: Instant, run: Run) {
        self.has_others = true;
        // Kept where `stop` finds what is left of it, should a plug-in panic in the middle.
        self.run = Some(run);
        while let Some(run) = &mut self.run
            && let Some((tag, payload)) = run.first()
        {
            let Endpoint { outbound, counters, .. } = &mut self.endpoint;
            if self.waiting.is_empty()
                && let Some(index) = outbound.flows.takes_direct(&run.to, run.bytes())
            {
                let books = (|| Completion::Queue(run.queue), counters);
                let (put, _) =
                    outbound.flows.put_each_direct(index, now, run.bytes(), &mut run.writers(), books);
                run.done += put;
                continue;
            }
            let outgoing = Outgoing::to(run.to, self.local.arena.copy(payload)).tag(tag);
            let completion = Completion::Queue(run.queue);
            run.done += 1;
            self.handle_mail(now, Mail::Put(outgoing, completion));
        }
        if let Some(run) = self.run.take() {
            self.local.shared.runs.give_back(run);
        }
    }

    /// Gives the message back if there is no room for it now.
    fn put(
        &mut self,
        now: Instant,
        outgoing: Outgoing,
        completion: Completion,
    ) -> Result<(), (Outgoing, Completion)> {
        let submission = submission(outgoing, completion);
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        let (mut cell, tag, operations_before) = (None, submission.tag, outbound.in_flight());
        let mut in_hand = |completion| self.in_hand = Some(InHand { completion, tag, operations_before });
        match submission.completion {
            Completion::Future(ref promise) => cell = promise.cell().cloned(),
            Completion::Queue(number) => in_hand(Completion::Queue(number)),
            Completion::Remote(shard) => in_hand(Completion::Remote(shard)),
            Completion::Actor => {}
        }
        let put = outbound.put(now, submission, counters);
        self.in_hand = None;
        match put {
            Ok(key) => {
                if let (Some(cell), Some(key)) = (cell, key) {
                    cell.set_key(key);
                }
                Ok(())
            }
            Err(Submission { to, payload, tag, deadline, options, completion }) => {
                Err((Outgoing { to, payload, tag, deadline, options }, completion))
            }
        }
    }

    fn cancel(&mut self, cell: &Arc<DeliveryCell>) {
        if cell.has_ended() {
            return;
        }
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        if let Some(key) = cell.key() {
            return outbound.rows.cancel(key, counters);
        }
        // Not in a slot yet: then it waits for one.
        let is_it = |completion: &Completion| matches!(completion, Completion::Future(promise) if promise.is_of(cell));
        let found = [&mut self.waiting, &mut self.placeless.messages].into_iter().find_map(|waiting| {
            let index = waiting.iter().position(|waiting| is_it(&waiting.completion))?;
            waiting.remove(index)
        });
        if let Some(Waiting { outgoing, completion, .. }) = found {
            outbound.finish_unsent(submission(outgoing, completion), FailureCause::Cancelled, counters);
        } else {
            outbound.cancel_where(counters, is_it);
        }
    }

    /// Builds trains behind the confirms and sends everything. Returns the number of trains that left.
    fn send(&mut self, now: Instant) -> usize {
        if self.batch.trains().is_empty() && (now >= self.retry_at || self.retry_at == Instant::FAR_FUTURE) {
            // What was left over of kept datagrams is sent anew; if nothing of it may leave yet, no sooner than that.
            self.blocked = false;
            self.retry_at = Instant::FAR_FUTURE;
            self.endpoint.outbound.rows.handle_unblocked(now);
        }
        if !self.blocked && self.endpoint.outbound.has_ready() {
            let confirms = self.batch.trains().len();
            let wall = self.driver.unix_time();
            self.endpoint.poll_trains(now, wall, &mut self.batch);
            // An answer does not wait behind the confirm of its question; bulk data lets confirms go first.
            if self.batch.trains().len() - confirms <= ANSWER_TRAINS_MAX {
                self.batch.send_first(confirms);
            }
        }
        let trains = self.batch.trains().len();
        if trains == 0 {
            return 0;
        }
        std::mem::swap(self.batch.lent(), self.endpoint.outbound.flows.lend());
        let unsent = self.transmit();
        std::mem::swap(self.batch.lent(), self.endpoint.outbound.flows.lend());
        if !self.blocked {
            self.endpoint.outbound.rows.handle_unblocked(now);
        }
        // What a full socket leaves over is no work done: the shard sleeps until it takes more.
        trains.saturating_sub(self.batch.trains().len() + unsent)
    }

    /// Hands the batch to the kernel; what a path refuses as a train goes again datagram by datagram, what finds the
    /// socket full stays for the next turn, except for datagrams their sender keeps: he sends them again. Returns the number
    /// of those trains.
    fn transmit(&mut self) -> usize {
        self.failures.clear();
        self.driver.transmit(&self.batch, &mut self.failures);
        self.blocked = false;
        self.retry_at = Instant::FAR_FUTURE;
        if self.failures.is_empty() {
            self.batch.clear();
            return 0;
        }
        let mut unsent = 0;
        let mut retry = std::mem::take(&mut self.retry);
        let (mut split, mut moved) = (Vec::new(), Vec::new());
        let mut full = false;
        for index in 0..self.failures.len() {
            let failure = self.failures[index];
            let Some(train) = self.batch.trains().get(failure.train).copied() else { continue };
            if failure.errno == libc::EMSGSIZE && self.handle_too_long(&train) {
                self.endpoint.counters.datagrams_given_back += train.segments as u64;
                continue;
            }
            match failure.errno {
                errno @ (libc::EAGAIN | libc::ENOBUFS) => {
                    self.endpoint.counters.sends_blocked += 1;
                    self.blocked = true;
                    full |= errno == libc::EAGAIN;
                    match train.origin {
                        None => retry.push(failure.train),
                        // Until the socket takes more, the sender may change or release them.
                        Some(origin) => {
                            unsent += 1;
                            self.give_back(origin, train.segments);
                        }
                    }
                }
                libc::EIO | libc::EINVAL | libc::EMSGSIZE if train.segments > 1 => {
                    self.endpoint.counters.trains_split += 1;
                    retry.push(failure.train);
                    split.push(train.to);
                }
                // The source address is not ours any more: the route chooses another, and GSO was not to blame.
                libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL if train.local.is_some() => {
                    self.endpoint.counters.sources_changed += 1;
                    self.endpoint.outbound.rows.forget_local(train.to);
                    self.endpoint.outbound.flows.forget_local(train.to);
                    self.batch.allow_gso(train.to);
                    retry.push(failure.train);
                    moved.push(train.to);
                }
                errno => {
                    // Its rows time out and are tried again, or their operations end at the deadline.
                    self.endpoint.counters.sends_refused += 1;
                    self.endpoint.counters.refuse(errno, train.segments);
                    tracing::debug!(errno, to = %train.to, "the kernel refused a datagram");
                }
            }
        }
        for &to in &split {
            if self.batch.refuse_gso(to) {
                tracing::info!(%to, "the path refuses UDP GSO; sending datagram by datagram");
            }
        }
        if self.blocked {
            // Kept datagrams do not stay in the batch from turn to turn: their sender may change or release them.
            retry.retain(|&index| {
                let Some(&Train { origin, segments, .. }) = self.batch.trains().get(index) else {
                    return false;
                };
                let Some(origin) = origin else { return true };
                unsent += 1;
                self.give_back(origin, segments);
                false
            });
        }
        self.batch.retain_for_retry(&retry, |train| {
            if moved.contains(&train.to) {
                train.local = None;
            }
            split.contains(&train.to)
        });
        retry.clear();
        self.retry = retry;
        if self.blocked {
            self.endpoint.outbound.rows.handle_blocked(self.local.now);
            if full {
                self.driver.want_writable();
            }
            // A queue below the socket may be full while the socket says it is writable.
            self.retry_at = if full { Instant::FAR_FUTURE } else { self.local.now + NO_BUFFERS_WAIT };
        } else if !self.batch.trains().is_empty() {
            unsent += self.transmit();
        }
        unsent
    }

    /// Kept datagrams did not leave.
    fn give_back(&mut self, origin: Origin, segments: usize) {
        self.endpoint.counters.datagrams_given_back += segments as u64;
        self.endpoint.outbound.flows.handle_unsent(origin, segments);
    }

    /// EMSGSIZE: the interface's MTU is smaller than the train's datagrams. Their sender keeps them, and sends them again in
    /// shorter ones: another turn, not another try. False for rows, which nobody cuts: they go one by one, and are
    /// fragmented where the socket allows it.
    fn handle_too_long(&mut self, train: &Train) -> bool {
        let Some(origin) = train.origin.or(train.sealed) else { return false };
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        let size = (train.segments, train.segment_bytes);
        if !outbound.flows.handle_too_long(self.local.now, origin, size, counters) {
            return false;
        }
        // Kernels before 6.14 say EINVAL of such a train, as where GSO is refused: that was not the reason.
        self.batch.allow_gso(train.to);
        true
    }

    /// Acts on the outcomes recorded so far. Permits go back first: who hears of an outcome finds its place free.
    fn finish_operations(&mut self) -> usize {
        let count = self.endpoint.outbound.finished().len();
        if count == 0 {
            return 0;
        }
        // Both buffers keep their capacity.
        std::mem::swap(&mut self.finishing, self.endpoint.outbound.finished());
        if self.has_others {
            self.release_permits();
        }
        while let Some((completion, tag, outcome)) = self.next_finishing() {
            match completion {
                Completion::Actor => self.with_context(|app, context| app.outcome(context, tag, outcome)),
                Completion::Remote(shard) => self.local.shared.post(shard, Mail::Outcome(tag, outcome)),
                Completion::Queue(number) => self.queue_outcome(number, tag, outcome),
                Completion::Future(promise) => promise.finish(outcome),
            }
        }
        self.finishing.clear();
        self.finishing_done = 0;
        self.hand_over_outcomes();
        count
    }

    fn release_permits(&self) {
        let (mut ops, mut bytes) = (0, 0);
        for operation in self.finishing.iter().filter(|op| !matches!(op.completion, Completion::Actor)) {
            ops += 1;
            bytes += u64::from(operation.payload_bytes);
        }
        if ops > 0 {
            self.local.shared.release(self.place.shard, ops, bytes);
        }
    }

    /// The next outcome to act on. Counted at once: an actor that panics takes nobody else's outcome with it.
    #[inline(always)]
    fn next_finishing(&mut self) -> Option<(Completion, u64, Outcome)> {
        let operation = self.finishing.get_mut(self.finishing_done)?;
        self.finishing_done += 1;
        let completion = std::mem::replace(&mut operation.completion, Completion::Actor);
        Some((completion, operation.tag, operation.outcome))
    }

    /// What this turn brought for completion queues. Lists of queues without news are kept for their memory, a few.
    fn hand_over_outcomes(&mut self) {
        for local in self.queues.iter_mut().filter(|local| !local.outcomes.is_empty()) {
            match self.local.shared.registry.get(local.number) {
                Some(queue) => queue.append(&mut local.outcomes),
                None => local.outcomes.clear(),
            }
        }
        self.queues.truncate(QUEUES_KEPT_MAX);
    }

    fn queue_outcome(&mut self, number: u32, tag: u64, outcome: Outcome) {
        if self.queue_places.len() <= number as usize {
            self.queue_places.resize(number as usize + 1, 0);
        }
        let place = &mut self.queue_places[number as usize];
        // It may be that of a list that was given up since.
        if self.queues.get(*place).is_none_or(|local| local.number != number) {
            *place = self.queues.len();
            self.queues.push(LocalQueue { number, outcomes: Vec::new() });
        }
        self.queues[*place].outcomes.push((tag, outcome));
    }

    fn with_context(&mut self, call: impl FnOnce(&mut A, &mut Context<'_>)) {
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        call(&mut self.app, &mut Context { local: &mut self.local, outbound, counters });
    }

    /// Sleeps until something happens: announces it, looks once more, and only then waits (`IO_URING.md` 4.3).
    fn park(&mut self) {
        if let Some(began) = self.turn_began_at.take() {
            let now = self.driver.now();
            self.end_turn(began, now);
        }
        self.local.shared.links[self.place.shard as usize].pulse.rest();
        self.publish();
        let deadline = self.next_deadline();
        let link = &self.local.shared.links[self.place.shard as usize];
        link.wake.prepare_park();
        if !self.has_confirm_room() {
            // Input would end the sleep at once, and nothing can be done about it: only a writable socket helps.
            if self.retry_at < Instant::FAR_FUTURE {
                std::thread::park_timeout(NO_BUFFERS_WAIT); // It is writable all the time.
            } else {
                self.driver.wait_writable(DEAF_WAIT);
            }
        } else if !self.has_mail() && !link.is_kicked() && self.local.shared.phase() == self.local.phase {
            self.driver.park(deadline);
        }
        self.local.shared.links[self.place.shard as usize].wake.unpark();
    }

    /// Mail that the next turn would take.
    pub(crate) fn has_mail(&self) -> bool {
        self.has_confirm_room() && self.local.shared.links[self.place.shard as usize].mailbox.has_mail()
    }

    /// When the next turn is due without input.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let own = self.local.wake_at.min(self.retry_at);
        let own = (own < Instant::FAR_FUTURE).then_some(own);
        let drained = match self.local.phase {
            Phase::Draining(at) => Some(at),
            Phase::Running | Phase::Stopping => None,
        };
        let waiting = self.has_waiting().then_some(self.waiting_checked_at + WAITING_CHECK);
        self.endpoint.next_deadline().into_iter().chain(own).chain(drained).chain(waiting).min()
    }

    fn publish(&mut self) {
        let gauges = self.gauges();
        count_outside(&self.driver.counters(), &self.batch, &mut self.endpoint.counters);
        let link = &self.local.shared.links[self.place.shard as usize];
        link.published.publish(&self.endpoint.counters, &gauges);
    }

    /// What is in use now.
    fn gauges(&self) -> Gauges {
        Gauges {
            datagram_bytes: self.endpoint.outbound.flows.datagram_bytes() as u64,
            operations_open: self.endpoint.outbound.in_flight() as u64,
            datagrams_waiting: self.batch.datagrams() as u64,
            kernel_drops_told: self.driver.counters().kernel_drops_told.into(),
        }
    }

    /// The shard's sums, as of now.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sums(&self) -> Vec<crate::observe::Sum> {
        let mut counters = self.endpoint.counters.clone();
        count_outside(&self.driver.counters(), &self.batch, &mut counters);
        crate::observe::sums(&counters, &self.gauges())
    }

    /// The last words: every operation that is left ends `EngineStopped`. `failed` says that the loop panicked; the actor
    /// is not called again then.
    ///
    /// May be called again after it panicked, with `failed` set.
    pub(crate) fn stop(&mut self, failed: bool) {
        self.local.phase = Phase::Stopping;
        self.local.shared.links[self.place.shard as usize].pulse.rest();
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        if let Some(InHand { completion, tag, operations_before }) = self.in_hand.take()
            && outbound.in_flight() <= operations_before
        {
            self.local.shared.finish_stopped(self.place.shard, tag, completion);
        }
        outbound.stop(counters);
        if let Some(run) = self.run.take() {
            self.local.shared.finish_stopped_run(self.place.shard, &run);
        }
        // Left over where an actor panicked in the middle of them; their permits went back already.
        while let Some((completion, tag, outcome)) = self.next_finishing() {
            match completion {
                Completion::Future(promise) => promise.finish(outcome),
                Completion::Queue(number) => self.queue_outcome(number, tag, outcome),
                Completion::Remote(shard) => self.local.shared.post(shard, Mail::Outcome(tag, outcome)),
                Completion::Actor => {}
            }
        }
        self.finishing.clear();
        self.finishing_done = 0;
        if failed {
            self.endpoint.outbound.finished().retain(|op| !matches!(op.completion, Completion::Actor));
        }
        self.finish_operations();
        self.hand_over_outcomes();
        self.app.end_turn();
        while let Some(Waiting { outgoing, completion, .. }) =
            self.placeless.messages.pop_front().or_else(|| self.waiting.pop_front())
        {
            self.finish_stopped(outgoing, completion);
        }
        self.send_closes(failed);
        self.publish();
    }

    /// Tells the peers of the binary wire (R-CLOSE-1). What the socket does not take now is not tried again. What came last
    /// is acknowledged with it, unless the shard `failed`: then nobody knows whether it was taken.
    fn send_closes(&mut self, failed: bool) {
        if failed {
            self.discard();
        }
        let now = self.driver.now();
        loop {
            let Self { endpoint: Endpoint { outbound, inflows, counters, .. }, batch, .. } = self;
            let more = outbound.flows.poll_closes(now, !failed, inflows, batch, counters);
            if !self.batch.trains().is_empty() {
                self.transmit();
                self.discard();
            }
            if !more {
                return;
            }
        }
    }

    /// What is left in the batch does not leave any more.
    fn discard(&mut self) {
        self.endpoint.counters.datagrams_discarded += self.batch.datagrams() as u64;
        self.batch.clear();
    }

    /// After every shard's [`stop`](Self::stop): what was posted here meanwhile. And once more after every shard's first one: the
    /// outcomes of what this shard's actor had put in its last turn. May be called again after it panicked, with `failed` set.
    pub(crate) fn stop_inbox(&mut self, failed: bool) {
        loop {
            if self.inbox.is_empty() {
                self.local.shared.links[self.place.shard as usize].mailbox.take(&mut self.inbox);
            }
            match self.inbox.pop_front() {
                None => return,
                Some(Mail::Put(outgoing, completion)) => self.finish_stopped(outgoing, completion),
                Some(Mail::PutEach(run)) => self.local.shared.finish_stopped_run(self.place.shard, &run),
                Some(Mail::Outcome(tag, outcome)) if !failed => {
                    self.with_context(|app, context| app.outcome(context, tag, outcome));
                }
                Some(Mail::Cancel(_) | Mail::Commit(..) | Mail::Forwarded { .. } | Mail::Outcome(..)) => {}
            }
        }
    }

    fn finish_stopped(&self, outgoing: Outgoing, completion: Completion) {
        let bytes = self.local.shared.permit_bytes(outgoing.payload.len());
        self.local.shared.release(self.place.shard, 1, bytes as u64);
        self.local.shared.finish_stopped(self.place.shard, outgoing.tag, completion);
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn counters(&self) -> &Counters {
        &self.endpoint.counters
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn endpoint(&self) -> &Endpoint<Completion> {
        &self.endpoint
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn endpoint_mut(&mut self) -> &mut Endpoint<Completion> {
        &mut self.endpoint
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn inbound(&self) -> &crate::proto::inbound::Inbound {
        &self.endpoint.inbound
    }
}

/// What driver and batch count.
fn count_outside(driver: &DriverCounters, batch: &TrainBatch, counters: &mut Counters) {
    counters.datagrams_built = batch.datagrams_total();
    counters.trains_sent = driver.trains_sent;
    counters.datagrams_sent = driver.segments_sent;
    counters.receive_truncated = driver.truncated;
    counters.receive_malformed = driver.malformed;
    counters.receive_out_of_buffers = driver.out_of_buffers;
    counters.receive_rearmed = driver.rearmed;
    counters.receive_errors = driver.receive_errors;
    counters.stale_completions = driver.stale_completions;
    counters.parks = driver.parks;
}

fn submission(outgoing: Outgoing, completion: Completion) -> Submission<Completion> {
    let Outgoing { to, payload, tag, deadline, options } = outgoing;
    Submission { to, payload, tag, deadline, options, completion }
}

/// How many bytes of `rows` this shard's rows take, and whose the next row is, if there is one.
fn own_rows(
    rows: &[u8],
    row_bytes: usize,
    place: Place,
    local: &Local,
    endpoint: &mut Endpoint<Completion>,
) -> (usize, Option<u16>) {
    if place.shards == 1 {
        return (rows.len(), None);
    }
    let mut own = 0;
    for datagram in rows.chunks(row_bytes) {
        let owner = owner(datagram, place, local, endpoint);
        if owner != place.shard {
            return (own, Some(owner));
        }
        own += datagram.len();
    }
    (own, None)
}

/// The shard a datagram belongs to. The kernel's program says the same unless it is off, or the datagram came in a train
/// that was steered by another one.
#[inline]
fn owner(datagram: &[u8], place: Place, local: &Local, endpoint: &mut Endpoint<Completion>) -> u16 {
    match route::steer(datagram) {
        Steer::Route(route) => u16::from(route) % place.shards,
        Steer::Text(id) => {
            let owner = local.shared.owner_of_text(id);
            endpoint.counters.unsteered += u64::from(owner != place.shard);
            owner
        }
        // Whatever it is, it is dropped and counted where it came.
        Steer::Nothing => place.shard,
    }
}

fn forward(
    datagram: &[u8],
    received: &Received<'_>,
    owner: u16,
    shared: &Shared,
    endpoint: &mut Endpoint<Completion>,
) {
    if matches!(route::steer(datagram), Steer::Route(_)) {
        endpoint.counters.misrouted += 1;
    }
    let link = &shared.links[owner as usize];
    if link.mailbox.forward(received.from, received.local, datagram) {
        link.wake.notify();
    } else {
        endpoint.counters.datagrams_received += 1;
        endpoint.counters.drop_row(DropReason::ForwardFull);
    }
}
