//! The loop: one thread, one socket, one driver, one endpoint.
//!
//! ```text
//!   receive -> inbox -> timers -> actor -> trains -> send -> outcomes -> publish -> spin or park
//! ```
//!
//! Acknowledgements are handled before timers; one clock read a turn; nothing waits for company: what is ready when the
//! trains are built leaves in this turn.

mod ending;
mod mail;
mod transmit;

use self::mail::{InHand, Placeless, Waiting};
use super::actor::{App, Context, Local};
use super::completion::Completion;
use super::driver::{Driver, DriverCounters, Received, SendFailure};
use super::mailbox::Mail;
use super::run::Run;
use super::shared::{Phase, Shared};
use crate::config::Config;
use crate::constants::{TRAIN_BATCH_BYTES, TRAIN_BATCH_TRAINS};
use crate::hash::Seed;
use crate::message::{Outcome, Outgoing};
use crate::observe::{Counters, Gauges};
use crate::options::Extras;
use crate::proto::endpoint::{Application, Endpoint};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::{Finished, Place, Submission};
use crate::proto::plugins::Plugins;
use crate::proto::sending::Sending;
use crate::train::{TRAIN_BYTES_MAX_V4, TrainBatch};
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::route::{self, Steer};
use std::collections::VecDeque;
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

/// How often messages that wait for room are looked through: for room that no outcome makes (an idle peer's place in
/// the table of peers), and for those whose deadline has passed.
const WAITING_CHECK: Duration = Duration::from_millis(100);
/// Longest sleep while the socket takes nothing and there is no room for the confirms of anything received.
const DEAF_WAIT: Duration = Duration::from_millis(5);
/// Pause after ENOBUFS, which nothing announces the end of.
const NO_BUFFERS_WAIT: Duration = Duration::from_millis(1);
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
        // What was known of a peer may be old, where nothing has left since.
        self.endpoint.outbound.flows.look_again();
        self.endpoint.look_at_keys(now);
        let mut work = self.receive(now);
        work += self.read_inbox(now);
        self.endpoint.handle_timers(now);
        let kicked = self.local.shared.links[self.place.shard as usize].take_kick();
        let ended = !self.endpoint.outbound.finished().is_empty();
        if kicked || work > 0 || ended || self.local.wake_at <= now {
            self.local.wake_at = Instant::FAR_FUTURE;
            work += self.finish_operations();
            // This turn may be full by now.
            self.endpoint.outbound.flows.look_again();
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
