//! Outgoing operations: from acceptance through rows, confirms and retries to exactly one outcome each.
//!
//! ```text
//!   put -> pending (per peer) -> rows in a train -> InFlight -> confirm -> Delivered
//!                   ^  window, pacing   |  timer: resend ------'  |
//!                   '-------------------'  tries, span, deadline -+-> TimedOut | Expired | Cancelled | EngineStopped
//! ```
//!
//! Outcomes are recorded in `finished` and acted on by the caller in one later pass: nothing calls back from here.
//! Calls in one turn, in this order: `handle_confirm`*, `handle_timers`, `put`*, `poll_trains`. `next_deadline` says
//! when the next turn is due without input.

use super::ack_tracker::{AckTracker, ListKind, NONE, OpId, OpKey, State};
use super::chunks::{ChunkTable, Confirmed, Outstanding};
use super::holds::Holds;
use super::peers::{Pacer, Peer, PeerNews, Peers};
use super::retry::{Retries, RowTry};
use super::rtt::RtoBounds;
use super::small_payloads::SMALL_PAYLOAD_BYTES_MAX;
use super::timer_wheel::TimerWheel;
use super::unread::{LAG_MAX, LOOKS_AGAIN};
use crate::config::{Config, ConfirmFrom, Wire, truesize_bytes};
use crate::error::{DeliveryError, FailureCause, Reached, Refusal, SubmitReason};
use crate::hash::{Rng, Seed};
use crate::message::{Delivered, Level, Outcome, Outgoing};
use crate::observe::Counters;
use crate::options::Options;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use crate::wire::DropReason;
use crate::wire::csv::{self, ChunkPlace, ConfirmRun, Epoch, RUN_ROWS_MAX, RunWriter, Stamp};
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Rows one peer may send before the next peer has its turn: one train of a kernel with the 128-segment limit.
const QUANTUM_ROWS: usize = 128;
/// Bytes one peer may send before the next peer has its turn.
const QUANTUM_BYTES: usize = 60_000;
/// Chunk tables keep room for messages of 64 KiB (at 384 B a chunk) between uses; larger ones give it back.
const CHUNKS_KEPT_MAX: usize = 192;
/// The default deadline grows by a second for every so many bytes.
pub const DEADLINE_BYTES_PER_SECOND: u32 = 256 << 10;

/// What the runtime hands in.
#[derive(Debug)]
pub struct Submission<C> {
    /// Destination.
    pub to: SocketAddr,
    /// The bytes.
    pub payload: Bytes,
    /// The caller's number.
    pub tag: u64,
    /// Lifetime, if the caller named one.
    pub deadline: Option<Duration>,
    /// What most messages do without; rows carry none of it.
    pub options: Option<Box<Options>>,
    /// What comes back with the outcome.
    pub completion: C,
}

/// An operation that ended.
#[derive(Debug)]
pub struct Finished<C> {
    /// As submitted.
    pub completion: C,
    /// As submitted.
    pub tag: u64,
    /// What the application is told.
    pub outcome: Outcome,
    /// Size of the payload.
    pub payload_bytes: u32,
}

/// What a shard's outbound side needs to know of its place in the engine.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Index of the shard.
    pub shard: u16,
    /// Shards of the engine.
    pub shards: u16,
    /// Whether the socket can send to IPv4 and to IPv6.
    pub families: Families,
}

/// Address families a socket can reach.
#[derive(Clone, Copy, Debug)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

#[derive(Clone, Debug)]
struct Limits {
    chunk_bytes_max: usize,
    single_bytes_max: usize,
    window_bytes: u32,
    confirm_from: ConfirmFrom,
    message_bytes_max: usize,
    deadline_default: Duration,
    tries_max: u32,
    try_span_max: Duration,
    rto_ours: RtoBounds,
    rto_v1: RtoBounds,
}

impl Limits {
    /// Unless the caller says otherwise.
    fn lifetime(&self, bytes: usize) -> Duration {
        self.deadline_default + Duration::from_secs((bytes as u32 / DEADLINE_BYTES_PER_SECOND).into())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Outbound<C> {
    ops: AckTracker<C>,
    peers: Peers,
    /// One timer a slot, due at the operation's next retry or deadline *or earlier*: ending an operation leaves its timer
    /// behind, and the next operation in the slot moves it only if it is too late. A timer that fires early is set anew.
    /// At 10^7 operations a second through a few thousand slots, nearly all of the wheel's work is saved so.
    timers: TimerWheel,
    pace_timers: TimerWheel,
    ready: VecDeque<u32>,
    tables: Vec<ChunkTable>,
    tables_free: Vec<u32>,
    finished: Vec<Finished<C>>,
    run: RunWriter,
    holds: Holds,
    epoch: Epoch,
    place: Place,
    limits: Limits,
    retries: Retries,
    rng: Rng,
}

/// Why a peer's visit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// Nothing left to send, or the window is full: a confirm or a put makes it ready again.
    Idle,
    /// More to send after the others had their turn.
    More,
    /// The pacer says later: a timer makes it ready again.
    Paced,
    /// No room in the batch.
    BatchFull,
}

impl<C> Outbound<C> {
    /// An empty outbound side.
    #[must_use]
    pub fn new(config: &Config, retries: Retries, place: Place, seed: &Seed, now: Instant) -> Self {
        let mut epochs = seed.rng(1);
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bounds = |min: Duration, patient| RtoBounds {
            initial_ns: ns(config.rto_initial),
            min_ns: ns(min),
            max_ns: ns(config.rto_max),
            patient,
        };
        let row_bytes_max = config.v1_row_bytes_max as usize;
        Self {
            ops: AckTracker::new(config.ops_in_flight_max as usize, seed.rng(0x100 + u64::from(place.shard))),
            peers: Peers::new(config.peers_max as usize, &seed.hasher()),
            timers: TimerWheel::new(now),
            pace_timers: TimerWheel::new(now),
            ready: VecDeque::new(),
            tables: Vec::new(),
            tables_free: Vec::new(),
            finished: Vec::new(),
            run: RunWriter::default(),
            holds: Holds::default(),
            // One epoch per shard: a receiver keeps one window per (address, epoch), and slots are the shard's own.
            epoch: Epoch(epochs.next_u32().wrapping_add(u32::from(place.shard))),
            place,
            limits: Limits {
                chunk_bytes_max: config.chunk_bytes_max() as usize,
                single_bytes_max: csv::payload_bytes_max(row_bytes_max, 1)
                    .min(config.v1_chunk_bytes_max as usize),
                window_bytes: config.v1_window_bytes,
                confirm_from: config.confirm_from,
                message_bytes_max: config.message_bytes_max as usize,
                deadline_default: config.deadline_default,
                tries_max: config.tries_max,
                try_span_max: config.try_span_max,
                rto_ours: bounds(config.rto_min, false),
                rto_v1: bounds(config.rto_min_v1, true),
            },
            retries,
            rng: seed.rng(0x10_000 + u64::from(place.shard)),
        }
    }

    /// This shard's epoch, carried in every row.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Operations that can still be accepted.
    #[must_use]
    pub fn room(&self) -> usize {
        self.ops.room()
    }

    /// Bytes of the largest message.
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        self.limits.message_bytes_max
    }

    /// Peers there are.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.count()
    }

    /// Operations accepted and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ops.in_use()
    }

    /// Whether a message could be accepted at all, room aside.
    ///
    /// # Errors
    /// Why not: too large, not text, or not an address to send to.
    pub fn check(&self, to: SocketAddr, payload: &[u8], wire: Wire) -> Result<(), SubmitReason> {
        check_message(to, payload, self.limits.message_bytes_max, self.place.families, wire)
    }

    /// Whether the payload is text that one row carries.
    #[must_use]
    pub fn is_single_row(&self, payload: &[u8]) -> bool {
        payload.len() <= self.limits.single_bytes_max && simdutf8::basic::from_utf8(payload).is_ok()
    }

    /// Whether the address has a place in the table of peers.
    #[must_use]
    pub fn has_place(&self, to: SocketAddr) -> bool {
        self.peers.peek(to).is_some()
    }

    /// Whether a peer confirmed a row since `since`.
    #[must_use]
    pub fn has_confirmed(&self, to: SocketAddr, since: Instant) -> bool {
        self.peers.peek(to).is_some_and(|peer| peer.progress_at >= since)
    }

    /// How long a message of `bytes` lives unless the caller says otherwise.
    #[must_use]
    pub fn default_lifetime(&self, bytes: usize) -> Duration {
        self.limits.lifetime(bytes)
    }

    /// How long a message lives from the moment it is accepted.
    #[must_use]
    pub fn lifetime(&self, outgoing: &Outgoing) -> Duration {
        outgoing.deadline.unwrap_or_else(|| self.limits.lifetime(outgoing.payload.len()))
    }

    /// Accepts a message that passed [`check`](Self::check).
    ///
    /// # Errors
    /// [`SubmitReason::Full`], with the submission: no slot, or no room for another peer.
    pub fn put(
        &mut self,
        now: Instant,
        submission: Submission<C>,
        counters: &mut Counters,
    ) -> Result<OpKey, Submission<C>> {
        if self.ops.room() == 0 {
            return Err(submission);
        }
        let Some(peer_index) = self.peers.find_or_insert(submission.to, now) else { return Err(submission) };
        let Some((slot, op)) = self.ops.acquire() else { return Err(submission) };
        let bytes = submission.payload.len();
        let lifetime = submission.deadline.unwrap_or_else(|| self.limits.lifetime(bytes));
        op.peer = peer_index;
        op.accepted_at = now;
        op.deadline = now + lifetime;
        op.tag = submission.tag;
        op.payload_bytes = bytes as u32;
        op.payload = submission.payload;
        op.completion = Some(submission.completion);
        let large = bytes > self.limits.single_bytes_max;
        if large {
            let table = self.acquire_table();
            self.ops.get_mut(slot).chunks = table;
        }
        self.enqueue(peer_index, slot, large, counters);
        Ok(self.ops.key(slot))
    }

    /// Accepts a copy of a message that passed [`check`](Self::check) and [`is_small`](Self::is_small).
    ///
    /// # Errors
    /// Full, as [`put`](Self::put): the completion back.
    #[inline]
    pub fn put_copy(
        &mut self,
        now: Instant,
        to: SocketAddr,
        payload: &[u8],
        tag: u64,
        completion: C,
        counters: &mut Counters,
    ) -> Result<(), C> {
        if self.ops.room() == 0 {
            return Err(completion);
        }
        let Some(peer_index) = self.peers.find_or_insert(to, now) else { return Err(completion) };
        let Some((slot, op)) = self.ops.acquire() else { return Err(completion) };
        op.peer = peer_index;
        op.accepted_at = now;
        op.deadline = now + self.limits.lifetime(payload.len());
        op.tag = tag;
        op.completion = Some(completion);
        self.ops.copy_payload(slot, payload);
        self.enqueue(peer_index, slot, false, counters);
        Ok(())
    }

    /// Whether a payload of this size is one row and kept as a copy.
    #[must_use]
    pub fn is_small(&self, payload_bytes: usize) -> bool {
        payload_bytes <= SMALL_PAYLOAD_BYTES_MAX.min(self.limits.single_bytes_max)
    }

    #[inline]
    fn enqueue(&mut self, peer_index: u32, slot: u32, large: bool, counters: &mut Counters) {
        let peer = self.peers.get_mut(peer_index);
        peer.ops += 1;
        let list = if large { &mut peer.pending_large } else { &mut peer.pending_small };
        // Most rows leave within this turn, with a timer for their confirm; `arm_waiting` sees to the others.
        self.ops.push_back(list, ListKind::Pending, slot);
        self.make_ready(peer_index);
        counters.messages_accepted += 1;
    }

    /// Records an outcome for a message that never became an operation.
    pub fn finish_unsent(&mut self, submission: Submission<C>, cause: FailureCause, counters: &mut Counters) {
        let error = DeliveryError { cause, reached: Reached::Never };
        counters.messages_accepted += 1;
        counters.fail(error.cause);
        let Submission { completion, tag, payload, .. } = submission;
        let payload_bytes = payload.len() as u32;
        self.finished.push(Finished { completion, tag, outcome: Err(error), payload_bytes });
    }

    /// Ends an operation at its owner's wish. Nothing happens if it has ended already.
    pub fn cancel(&mut self, key: OpKey, counters: &mut Counters) {
        if let Some(slot) = self.ops.find_key(key) {
            self.fail(slot, FailureCause::Cancelled, counters);
        }
    }

    /// Ends the operations whose completion `is_it` says.
    pub fn cancel_where(&mut self, counters: &mut Counters, is_it: impl Fn(&C) -> bool) {
        let slots: Vec<u32> = self.ops.used_slots().collect();
        for slot in slots {
            if self.ops.get(slot).completion.as_ref().is_some_and(&is_it) {
                self.fail(slot, FailureCause::Cancelled, counters);
            }
        }
    }

    /// Ends every operation: the engine stops.
    pub fn stop(&mut self, counters: &mut Counters) {
        let slots: Vec<u32> = self.ops.used_slots().collect();
        for slot in slots {
            self.fail(slot, FailureCause::EngineStopped, counters);
        }
    }

    /// Outcomes recorded so far; the caller drains them.
    pub fn finished(&mut self) -> &mut Vec<Finished<C>> {
        &mut self.finished
    }

    /// The index of the peer datagrams come from, if anything was ever sent there; remembers where it reached us.
    pub fn peer_at(&mut self, from: SocketAddr, local: Option<IpAddr>) -> Option<u32> {
        let index = self.peers.find(from)?;
        self.peers.get_mut(index).local = local;
        Some(index)
    }

    /// The kernel refuses to send to this peer from where it reached us: that address is no longer ours.
    pub fn forget_local(&mut self, to: SocketAddr) {
        if let Some(index) = self.peers.find(to) {
            self.peers.get_mut(index).local = None;
        }
    }

    /// Handles one confirm row (R-CONFIRM-1 to 4). `from` is the index of the peer it came from, `confirmer` the epoch in
    /// its mark.
    ///
    /// # Errors
    /// Why it counts for nothing.
    pub fn handle_confirm(
        &mut self,
        now: Instant,
        from: Option<u32>,
        id: u64,
        chunk: u32,
        confirmer: Option<Epoch>,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let slot = self.ops.find(OpId(id)).ok_or(DropReason::UnknownConfirm)?;
        let op = self.ops.get(slot);
        if from != Some(op.peer) && self.limits.confirm_from == ConfirmFrom::Strict {
            return Err(DropReason::ForeignConfirm);
        }
        let (row_bytes, last_sent_at, tries) = if op.chunks == NONE {
            if chunk != 0 {
                return Err(DropReason::UnsentConfirm);
            }
            (op.single_row_bytes(), op.last_sent_at, op.tries)
        } else {
            let table = &mut self.tables[op.chunks as usize];
            match table.confirm(chunk, confirmer, now) {
                Confirmed::Unsent => return Err(DropReason::UnsentConfirm),
                Confirmed::Already => return Err(DropReason::DuplicateConfirm),
                Confirmed::Restarted => {
                    counters.confirms_handled += 1;
                    self.fail(slot, FailureCause::PeerRestarted, counters);
                    return Ok(());
                }
                Confirmed::Now { last_sent_at, tries } => {
                    let place = ChunkPlace { index: chunk, count: table.count() };
                    (csv::data_row_bytes(table.range(chunk).len(), Some(place)), last_sent_at, tries)
                }
            }
        };
        let complete = op.chunks == NONE || self.tables[op.chunks as usize].is_complete();
        let peer_index = op.peer;
        let peer = self.peers.get_mut(peer_index);
        peer.ours |= confirmer.is_some();
        let sent_once = (tries == 1).then_some(last_sent_at);
        peer.hear(
            now,
            &PeerNews {
                confirms: 1,
                window_bytes: truesize_bytes(row_bytes),
                passed_at: sent_once.unwrap_or_default(),
                sample_from: sent_once,
            },
        );
        if peer.has_pending() {
            self.make_ready(peer_index);
        }
        counters.confirms_handled += 1;
        if complete {
            self.deliver(slot, now, counters);
        }
        Ok(())
    }

    /// Handles the confirms of single-chunk messages at the start of `run` that came from the peer `from`: as
    /// [`handle_confirm`](Self::handle_confirm) for each, but what concerns the peer is done once. Stops at the first that
    /// is more than the end of a message in flight to that peer; returns how many it handled.
    pub fn handle_confirm_run(
        &mut self,
        now: Instant,
        from: u32,
        run: &ConfirmRun<'_>,
        counters: &mut Counters,
    ) -> usize {
        let mut news = PeerNews::default();
        let mut message_bytes = 0;
        for id_text in run.id_texts() {
            let Some(slot) = self.ops.find_text(id_text) else { break };
            let op = self.ops.get(slot);
            if op.peer != from || op.chunks != NONE || op.is_listed() {
                break;
            }
            news.confirms += 1;
            news.window_bytes += truesize_bytes(op.single_row_bytes());
            if op.tries == 1 {
                news.passed_at = news.passed_at.max(op.last_sent_at);
                news.sample_from = news.sample_from.or(Some(op.last_sent_at));
            }
            let (payload_bytes, tag, tries) = (op.payload_bytes, op.tag, op.tries);
            let (rtt_ns, queued_ns) = op.times_ns(now);
            message_bytes += u64::from(payload_bytes);
            if let Some(completion) = self.ops.release(slot) {
                let outcome = Ok(Delivered::of_ns(Level::Accepted, tries, rtt_ns, queued_ns));
                self.finished.push(Finished { completion, tag, outcome, payload_bytes });
            }
        }
        if news.confirms > 0 {
            let peer = self.peers.get_mut(from);
            peer.ours = true;
            peer.ops -= news.confirms;
            peer.hear(now, &news);
            if peer.has_pending() {
                self.make_ready(from);
            }
            counters.confirms_handled += u64::from(news.confirms);
            counters.messages_delivered += u64::from(news.confirms);
            counters.message_bytes_delivered += message_bytes;
        }
        news.confirms as usize
    }

    /// Retries, expiries and paced peers that are due. What had come by `heard_until` has been handled: nothing is given up
    /// whose confirm may have come in time.
    pub fn handle_timers(&mut self, now: Instant, heard_until: Instant, counters: &mut Counters) {
        self.timers.advance(now);
        while let Some(slot) = self.timers.pop_due() {
            self.handle_timer(slot, (now, heard_until), counters);
        }
        self.pace_timers.advance(now);
        while let Some(peer_index) = self.pace_timers.pop_due() {
            self.make_ready(peer_index);
        }
    }

    /// When [`handle_timers`](Self::handle_timers) has something to do without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        // Timers left behind by operations that ended are no reason to wake an idle engine.
        let retries = if self.ops.in_use() > 0 { self.timers.next_deadline() } else { None };
        retries.into_iter().chain(self.pace_timers.next_deadline()).min()
    }

    /// Some peer has something to send now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Encodes what may be sent now into trains, each peer in turn, until nothing is left or the batch is full.
    pub fn poll_trains(
        &mut self,
        now: Instant,
        wall: UnixMicros,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) {
        while let Some(peer_index) = self.ready.pop_front() {
            match self.visit(peer_index, now, wall, batch, counters) {
                Visit::Idle => {
                    self.peers.get_mut(peer_index).ready = false;
                    self.arm_waiting(peer_index);
                }
                Visit::More => self.ready.push_back(peer_index),
                Visit::Paced => {
                    let peer = self.peers.get_mut(peer_index);
                    peer.ready = false;
                    self.pace_timers.arm(peer_index, now + Pacer::pause(peer.rtt.smoothed()));
                    self.arm_waiting(peer_index);
                }
                Visit::BatchFull => {
                    self.ready.push_front(peer_index);
                    return;
                }
            }
        }
    }

    /// The socket takes nothing more for now: rows written at `now` have not left, and what waits to be sent gets its
    /// deadline timers.
    pub fn handle_blocked(&mut self, now: Instant) {
        self.holds.begin(now);
        for index in 0..self.ready.len() {
            self.arm_waiting(self.ready[index]);
        }
    }

    /// The socket has taken everything.
    pub fn handle_unblocked(&mut self, now: Instant) {
        self.holds.end(now, Duration::from_nanos(self.limits.rto_v1.max_ns));
    }

    /// Operations that stay behind in a peer's queues get their deadline timers. Those put since the last visit are at
    /// the end, so the walk from there stops at the first that has one.
    fn arm_waiting(&mut self, peer_index: u32) {
        let peer = self.peers.get(peer_index);
        for list in [peer.pending_small, peer.pending_large] {
            let mut waiting = list.back();
            while let Some(slot) = waiting {
                let op = self.ops.get_mut(slot);
                if std::mem::replace(&mut op.deadline_armed, true) {
                    break;
                }
                self.timers.arm_earlier(slot, op.deadline);
                waiting = self.ops.before(ListKind::Pending, slot);
            }
        }
    }

    fn visit(
        &mut self,
        peer_index: u32,
        now: Instant,
        wall: UnixMicros,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Visit {
        let peer = self.peers.get_mut(peer_index);
        batch.begin(peer.addr, peer.local);
        let rto = if peer.ours { self.limits.rto_ours } else { self.limits.rto_v1 };
        peer.pacer.refill(now, self.limits.window_bytes, peer.rtt.smoothed());
        // One route per visit: its rows can share a train, and visits spread over the peer's shards (R-ROUTE-2).
        let shards = u32::from(self.place.shards);
        let routes = 256 / shards + u32::from(256 % shards > u32::from(self.place.shard));
        let route = (self.rng.below(routes) * shards + u32::from(self.place.shard)) as u8;
        let first_wait = if self.retries.is_standard() {
            peer.rtt.timeout(&rto)
        } else {
            let bounds = wait_bounds(peer, &rto, self.limits.try_span_max);
            self.retries.row_wait(&row_try(peer, &rto, 1), 0, bounds)
        };
        let mut turn = Turn {
            now,
            wall,
            stamp: (wall, Stamp::new(wall, self.epoch)),
            due_first: now + first_wait,
            rto,
            route,
            rows_left: QUANTUM_ROWS,
            bytes_left: QUANTUM_BYTES,
        };
        if !self.send_again(peer_index, &mut turn, batch, counters) {
            return Visit::BatchFull;
        }
        self.send_new(peer_index, &mut turn, batch, counters)
    }

    /// Rows that are due again; they are in the window already. False if the batch is full.
    fn send_again(
        &mut self,
        peer_index: u32,
        turn: &mut Turn,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> bool {
        while let Some(slot) = self.peers.get(peer_index).resend.front() {
            let op = self.ops.get(slot);
            if op.stamp != turn.stamp.0 {
                turn.stamp = (op.stamp, Stamp::new(op.stamp, self.epoch));
            }
            let chunk = match op.chunks {
                NONE => None,
                table => match self.tables[table as usize].next_resend() {
                    Some(index) => Some(index),
                    None => {
                        self.ops.unlink(&mut self.peers.get_mut(peer_index).resend, ListKind::Resend, slot);
                        self.arm_chunks(slot, turn.now);
                        continue;
                    }
                },
            };
            if self.send_row(slot, chunk, turn, batch).is_none() {
                return false;
            }
            counters.rows_sent += 1;
            counters.rows_retransmitted += 1;
            if chunk.is_none() {
                self.ops.unlink(&mut self.peers.get_mut(peer_index).resend, ListKind::Resend, slot);
            }
        }
        true
    }

    /// Rows never sent, as window, pacing and quantum allow.
    fn send_new(
        &mut self,
        peer_index: u32,
        turn: &mut Turn,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Visit {
        let window = self.limits.window_bytes;
        loop {
            let peer = self.peers.get(peer_index);
            let (small, large) = (peer.pending_small.front(), peer.pending_large.front());
            let is_large = if peer.large_first { large.is_some() } else { small.is_none() };
            let Some(slot) = (if is_large { large } else { small }) else {
                return Visit::Idle;
            };
            if turn.rows_left == 0 || turn.bytes_left == 0 {
                self.peers.get_mut(peer_index).large_first = !is_large;
                return Visit::More;
            }
            if !is_large && self.send_run(peer_index, slot, turn, batch, counters) > 0 {
                continue;
            }
            let (chunk, row_bytes) = self.next_new_row(slot);
            let truesize = truesize_bytes(row_bytes);
            if self.has_rested(slot, turn.now) {
                self.fail(slot, FailureCause::TimedOut, counters);
                continue;
            }
            let peer = self.peers.get_mut(peer_index);
            if peer.window_used > 0 && peer.window_used + truesize > window {
                // The window opens row by row: without this, a stream of small messages would keep a large one waiting.
                peer.large_first = !is_large;
                return Visit::Idle;
            }
            if batch.room_bytes() < row_bytes {
                return Visit::BatchFull;
            }
            if !peer.pacer.take(truesize, window) {
                return Visit::Paced;
            }
            let op = self.ops.get_mut(slot);
            if op.state == State::Queued {
                op.state = State::InFlight;
                op.stamp = turn.wall;
                op.first_sent_at = turn.now;
                self.ops.set_route(slot, turn.route);
            }
            let stamp = self.ops.get(slot).stamp;
            if stamp != turn.stamp.0 {
                turn.stamp = (stamp, Stamp::new(stamp, self.epoch));
            }
            if self.send_row(slot, chunk, turn, batch).is_none() {
                self.unsend(slot);
                return Visit::BatchFull;
            }
            counters.rows_sent += 1;
            let peer = self.peers.get_mut(peer_index);
            peer.window_used += truesize;
            turn.rows_left -= 1;
            turn.bytes_left = turn.bytes_left.saturating_sub(row_bytes);
            if chunk.is_none() {
                self.ops.unlink(&mut peer.pending_small, ListKind::Pending, slot);
            } else if self.tables[self.ops.get(slot).chunks as usize].next_unsent().is_none() {
                self.ops.unlink(&mut peer.pending_large, ListKind::Pending, slot);
                self.arm_chunks(slot, turn.now);
            }
        }
    }

    /// Sends single rows of one length, from `first` at the front of the peer's queue on, as many as every limit allows;
    /// returns how many. What a row alone is subject to, `send_new` decides when it is none.
    fn send_run(
        &mut self,
        peer_index: u32,
        first: u32,
        turn: &mut Turn,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> usize {
        let payload_bytes = self.ops.get(first).payload_bytes;
        if payload_bytes as usize > csv::RUN_PAYLOAD_BYTES_MAX {
            return 0;
        }
        let row_bytes = csv::data_row_bytes(payload_bytes as usize, None);
        let truesize = truesize_bytes(row_bytes);
        let peer = self.peers.get(peer_index);
        let window_left = self.limits.window_bytes.saturating_sub(peer.window_used) / truesize;
        let rows_max = RUN_ROWS_MAX
            .min(turn.rows_left)
            .min(turn.bytes_left.div_ceil(row_bytes))
            .min(window_left as usize)
            .min(peer.pacer.rows(truesize, self.limits.window_bytes));
        let mut slots = [0; RUN_ROWS_MAX];
        let mut ids = [[0; 16]; RUN_ROWS_MAX];
        let mut rows = 0;
        let mut next = Some(first);
        self.run.begin(payload_bytes as usize);
        while rows < rows_max
            && let Some(slot) = next
            && self.ops.get(slot).payload_bytes == payload_bytes
        {
            (slots[rows], ids[rows]) = (slot, self.ops.set_route(slot, turn.route));
            self.run.push(self.ops.payload(slot));
            rows += 1;
            next = self.ops.behind(ListKind::Pending, slot);
        }
        self.run.encode();
        if turn.stamp.0 != turn.wall {
            turn.stamp = (turn.wall, Stamp::new(turn.wall, self.epoch));
        }
        let mut sent = 0;
        while sent < rows
            && let Some(space) = batch.push_run(turn.route, row_bytes, rows - sent)
        {
            let placed = space.len() / row_bytes;
            self.run.write(space, sent, &ids[sent..sent + placed], &turn.stamp.1);
            sent += placed;
        }
        for &slot in &slots[..sent] {
            self.sent_first(peer_index, slot, turn);
        }
        let peer = self.peers.get_mut(peer_index);
        peer.window_used += truesize * sent as u32;
        peer.pacer.pay(truesize * sent as u32, self.limits.window_bytes);
        turn.rows_left -= sent;
        turn.bytes_left = turn.bytes_left.saturating_sub(row_bytes * sent);
        counters.rows_sent += sent as u64;
        sent
    }

    /// A single row, the first of its peer's queue, was put into the batch for the first time.
    fn sent_first(&mut self, peer_index: u32, slot: u32, turn: &Turn) {
        self.ops.unlink(&mut self.peers.get_mut(peer_index).pending_small, ListKind::Pending, slot);
        let op = self.ops.get_mut(slot);
        op.state = State::InFlight;
        op.stamp = turn.wall;
        op.first_sent_at = turn.now;
        op.last_sent_at = turn.now;
        op.tries = 1;
        op.due_at = turn.due_first.min(op.deadline);
        self.timers.arm_earlier(slot, op.due_at);
    }

    /// A multi-chunk operation that was begun and then sent nothing for longer than a row is tried: the receiver may have
    /// expired it, and must not be led to confirm the rest (R-PARTIAL-1).
    fn has_rested(&self, slot: u32, now: Instant) -> bool {
        let op = self.ops.get(slot);
        op.chunks != NONE && op.tries > 0 && now.since(op.last_sent_at) > self.limits.try_span_max
    }

    /// The next row of a pending operation: its chunk, if it has chunks, and its size. Cuts the message at first.
    fn next_new_row(&mut self, slot: u32) -> (Option<u32>, usize) {
        let op = self.ops.get(slot);
        if op.chunks == NONE {
            return (None, op.single_row_bytes());
        }
        let table = &mut self.tables[op.chunks as usize];
        if table.count() == 0 {
            table.fill(&op.payload, self.limits.chunk_bytes_max);
        }
        let index = table.next_unsent().unwrap_or_default();
        let place = ChunkPlace { index, count: table.count() };
        (Some(index), csv::data_row_bytes(table.range(index).len(), Some(place)))
    }

    /// Encodes one row into the batch and records the transmission; `None` if the batch has no room.
    fn send_row(&mut self, slot: u32, chunk: Option<u32>, turn: &Turn, batch: &mut TrainBatch) -> Option<()> {
        let id = self.ops.id(slot);
        let Some(index) = chunk else {
            let op = self.ops.get(slot);
            let row = batch.push(op.route(), op.single_row_bytes())?;
            csv::encode_data(row, id.0, None, self.ops.payload(slot), &turn.stamp.1);
            let op = self.ops.get_mut(slot);
            op.tries += 1;
            op.last_sent_at = turn.now;
            let (tries, deadline, peer) = (op.tries, op.deadline, op.peer);
            let due = self.due(peer, tries, turn).min(deadline);
            self.ops.get_mut(slot).due_at = due;
            self.timers.arm_earlier(slot, due);
            return Some(());
        };
        let op = self.ops.get_mut(slot);
        let table = &mut self.tables[op.chunks as usize];
        let place = ChunkPlace { index, count: table.count() };
        let bytes = &op.payload[table.range(index)];
        let row = batch.push(op.route(), csv::data_row_bytes(bytes.len(), Some(place)))?;
        csv::encode_data(row, id.0, Some(place), bytes, &turn.stamp.1);
        let tries = table.tries(index) + 1;
        op.tries = op.tries.max(tries);
        op.last_sent_at = turn.now;
        let (table, deadline, peer) = (op.chunks as usize, op.deadline, op.peer);
        let due = self.due(peer, tries, turn);
        self.tables[table].sent(index, turn.now, due);
        self.timers.arm_earlier(slot, due.min(deadline));
        Some(())
    }

    /// When the confirm of a row sent the `tries`-th time is due. All that leave for the first time in a visit share theirs.
    fn due(&mut self, peer: u32, tries: u32, turn: &Turn) -> Instant {
        if tries <= 1 {
            return turn.due_first;
        }
        let peer = self.peers.get(peer);
        let random = self.rng.next_u32();
        let bounds = wait_bounds(peer, &turn.rto, self.limits.try_span_max);
        turn.now + self.retries.row_wait(&row_try(peer, &turn.rto, tries), random, bounds)
    }

    /// The first row of an operation did not fit: it was not sent after all.
    fn unsend(&mut self, slot: u32) {
        let op = self.ops.get_mut(slot);
        if op.tries == 0 {
            op.state = State::Queued;
        }
    }

    fn handle_timer(&mut self, slot: u32, (now, heard_until): (Instant, Instant), counters: &mut Counters) {
        let op = self.ops.get(slot);
        if op.state == State::Free {
            return;
        }
        if now >= op.deadline {
            if op.tries > 0 && heard_until < op.deadline {
                return self.timers.arm(slot, now + LOOKS_AGAIN);
            }
            return self.fail(slot, FailureCause::Expired, counters);
        }
        if op.state == State::Queued {
            let deadline = op.deadline;
            return self.timers.arm(slot, deadline);
        }
        if op.chunks != NONE {
            return self.handle_chunk_timer(slot, (now, heard_until), counters);
        }
        if now < op.due_at {
            let due = op.due_at;
            return self.timers.arm(slot, due);
        }
        let row =
            Outstanding { first_sent_at: op.first_sent_at, last_sent_at: op.last_sent_at, tries: op.tries };
        match self.verdict(op.peer, &row, (now, heard_until)) {
            RetryVerdict::Wait(until) => {
                let at = until.min(op.deadline);
                self.ops.get_mut(slot).due_at = at;
                self.timers.arm(slot, at);
            }
            RetryVerdict::GiveUp => self.fail(slot, FailureCause::TimedOut, counters),
            RetryVerdict::Again => self.resend(slot),
        }
    }

    fn handle_chunk_timer(
        &mut self,
        slot: u32,
        (now, heard_until): (Instant, Instant),
        counters: &mut Counters,
    ) {
        let op = self.ops.get(slot);
        let (peer, table_index) = (op.peer, op.chunks as usize);
        let mut table = std::mem::take(&mut self.tables[table_index]);
        let mut gave_up = false;
        let next = table.scan_due(now, |chunk| match self.verdict(peer, chunk, (now, heard_until)) {
            RetryVerdict::Wait(until) => Some(until),
            RetryVerdict::GiveUp => {
                gave_up = true;
                Some(Instant::FAR_FUTURE)
            }
            RetryVerdict::Again => None,
        });
        let resend = table.next_resend().is_some();
        self.tables[table_index] = table;
        if gave_up {
            return self.fail(slot, FailureCause::TimedOut, counters);
        }
        if resend {
            self.resend(slot);
        }
        self.arm_chunks_at(slot, next);
    }

    /// R-RETRY-1 to 3: whether an unconfirmed row whose time has come is sent again.
    fn verdict(
        &self,
        peer_index: u32,
        row: &Outstanding,
        (now, heard_until): (Instant, Instant),
    ) -> RetryVerdict {
        let peer = self.peers.get(peer_index);
        let bounds = if peer.ours { &self.limits.rto_ours } else { &self.limits.rto_v1 };
        let patience = peer.rtt.timeout(bounds);
        let since_first = now.since(row.first_sent_at);
        if row.tries >= self.limits.tries_max
            || since_first >= self.limits.try_span_max
            || self.retries.gives_up(|| row_try(peer, bounds, row.tries), since_first)
        {
            // A confirm that came in time may not be read yet.
            let heard = heard_until >= now
                || (heard_until >= row.last_sent_at + patience && now.since(heard_until) <= LAG_MAX);
            return if heard { RetryVerdict::GiveUp } else { RetryVerdict::Wait(now + LOOKS_AGAIN) };
        }
        let left_at = self.holds.left_at(row.last_sent_at, now);
        if left_at > row.last_sent_at && left_at + patience > now {
            return RetryVerdict::Wait(left_at + patience);
        }
        // R-RETRY-3: while confirms of earlier rows keep coming, this one may simply not have had its turn.
        let passed = row.last_sent_at < peer.passed_at;
        let quiet_at = peer.progress_at + patience;
        if !passed && quiet_at > now {
            return RetryVerdict::Wait(quiet_at);
        }
        RetryVerdict::Again
    }

    fn resend(&mut self, slot: u32) {
        let peer_index = self.ops.get(slot).peer;
        let op = self.ops.get_mut(slot);
        op.due_at = op.deadline;
        self.timers.arm(slot, op.deadline);
        self.ops.push_back(&mut self.peers.get_mut(peer_index).resend, ListKind::Resend, slot);
        self.make_ready(peer_index);
    }

    /// Sets the timer of a multi-chunk operation to its next due chunk.
    fn arm_chunks(&mut self, slot: u32, now: Instant) {
        let op = self.ops.get(slot);
        // A chunk that is due right now is looked at in the next tick, with everything that came in since.
        let next = self.tables[op.chunks as usize].scan_due(now, |_| Some(now));
        self.arm_chunks_at(slot, next);
    }

    fn arm_chunks_at(&mut self, slot: u32, next: Option<Instant>) {
        let op = self.ops.get(slot);
        let at = next.unwrap_or(Instant::FAR_FUTURE).min(op.deadline);
        self.timers.arm(slot, at);
    }

    fn make_ready(&mut self, peer_index: u32) {
        let peer = self.peers.get_mut(peer_index);
        if !peer.ready {
            peer.ready = true;
            self.ready.push_back(peer_index);
        }
    }

    fn deliver(&mut self, slot: u32, now: Instant, counters: &mut Counters) {
        let op = self.ops.get(slot);
        counters.messages_delivered += 1;
        counters.message_bytes_delivered += u64::from(op.payload_bytes);
        self.end(slot, now, None);
    }

    fn fail(&mut self, slot: u32, cause: FailureCause, counters: &mut Counters) {
        let op = self.ops.get(slot);
        let reached = if op.tries == 0 { Reached::Never } else { Reached::Unknown };
        counters.fail(cause);
        self.release_window(slot);
        self.end(slot, Instant::default(), Some(DeliveryError { cause, reached }));
    }

    /// Gives back the window of the rows of a failed operation.
    fn release_window(&mut self, slot: u32) {
        let op = self.ops.get(slot);
        let peer_index = op.peer;
        let held: u32 = if op.chunks == NONE {
            if op.tries == 0 { 0 } else { truesize_bytes(op.single_row_bytes()) }
        } else {
            let table = &self.tables[op.chunks as usize];
            let count = table.count();
            table
                .unconfirmed()
                .map(|index| {
                    let place = ChunkPlace { index, count };
                    truesize_bytes(csv::data_row_bytes(table.range(index).len(), Some(place)))
                })
                .sum()
        };
        let peer = self.peers.get_mut(peer_index);
        peer.window_used -= held.min(peer.window_used);
        if peer.has_pending() {
            self.make_ready(peer_index);
        }
    }

    /// Ends an operation: delivered at `now`, or failed.
    fn end(&mut self, slot: u32, now: Instant, failure: Option<DeliveryError>) {
        let op = self.ops.get(slot);
        let (peer_index, table, tag, payload_bytes) = (op.peer, op.chunks, op.tag, op.payload_bytes);
        let (tries, (rtt_ns, queued_ns)) = (op.tries, op.times_ns(now));
        let is_listed = op.is_listed();
        let peer = self.peers.get_mut(peer_index);
        peer.ops -= 1;
        if is_listed {
            let pending = if table == NONE { &mut peer.pending_small } else { &mut peer.pending_large };
            self.ops.unlink(pending, ListKind::Pending, slot);
            self.ops.unlink(&mut peer.resend, ListKind::Resend, slot);
        }
        if table != NONE {
            self.tables[table as usize].clear(CHUNKS_KEPT_MAX);
            self.tables_free.push(table);
        }
        if let Some(completion) = self.ops.release(slot) {
            let outcome = match failure {
                Some(failure) => Err(failure),
                None => Ok(Delivered::of_ns(Level::Accepted, tries, rtt_ns, queued_ns)),
            };
            self.finished.push(Finished { completion, tag, outcome, payload_bytes });
        }
    }

    fn acquire_table(&mut self) -> u32 {
        self.tables_free.pop().unwrap_or_else(|| {
            self.tables.push(ChunkTable::default());
            (self.tables.len() - 1) as u32
        })
    }
}

/// What a retry policy is told of a row to `peer`.
fn row_try(peer: &Peer, bounds: &RtoBounds, tries: u32) -> RowTry {
    RowTry {
        to: peer.addr,
        is_engine: peer.ours,
        tries,
        smoothed_rtt: peer.rtt.smoothed(),
        first_wait: peer.rtt.timeout(bounds),
        wait_max: Duration::from_nanos(bounds.max_ns),
    }
}

/// The least and the most that a retry policy has a row to `peer` wait (R-RETRY-6).
fn wait_bounds(peer: &Peer, bounds: &RtoBounds, span_max: Duration) -> (Duration, Duration) {
    let least = if peer.ours { Duration::from_nanos(bounds.min_ns) } else { peer.rtt.timeout(bounds) };
    (least, span_max)
}

/// What is fixed during one visit of a peer.
struct Turn {
    now: Instant,
    wall: UnixMicros,
    /// The stamp formatted last: rows of one operation, and of one turn, share theirs.
    stamp: (UnixMicros, Stamp),
    /// When the confirm of a row sent for the first time in this visit is due.
    due_first: Instant,
    rto: RtoBounds,
    route: u8,
    rows_left: usize,
    bytes_left: usize,
}

enum RetryVerdict {
    Wait(Instant),
    Again,
    GiveUp,
}

/// Whether a message could be accepted at all, room aside.
///
/// # Errors
/// Why not: too large, not text, or not an address to send to.
pub fn check_message(
    to: SocketAddr,
    payload: &[u8],
    message_bytes_max: usize,
    families: Families,
    wire: Wire,
) -> Result<(), SubmitReason> {
    let family = if to.is_ipv4() { families.v4 } else { families.v6 };
    if !family || to.port() == 0 || to.ip().is_unspecified() || to.ip().is_multicast() {
        return Err(SubmitReason::Refused(Refusal::BadAddress));
    }
    if payload.len() > message_bytes_max {
        return Err(SubmitReason::Refused(Refusal::TooLarge));
    }
    if wire != Wire::Csv {
        return Ok(());
    }
    // For short payloads the first test costs less than a call of the vector kernel.
    let is_ascii = payload.len() <= SMALL_PAYLOAD_BYTES_MAX && payload.is_ascii();
    if !is_ascii && simdutf8::basic::from_utf8(payload).is_err() {
        return Err(SubmitReason::NotText);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
