//! The sending half of one flow: a conversation with one peer on one route, from HELLO to the last outcome.
//!
//! ```text
//!   put --> [open datagram] --close--> in flight --ACK--> Delivered           straight into the datagram it leaves in
//!    '----> [queue] ---------^            '--lost--> its frames into a new datagram
//!            window, credit, pacing closed            RESULT: refused for now --> waits, goes again; final --> failed
//! ```
//!
//! A small message is copied once, from the caller into the datagram; the datagram's memory is what is sent and what is
//! sent again. Sequence numbers are given at that moment (R-ONCE-1), so what waits in the queue has none.
//!
//! Outcomes are pushed to `Shop::finished` and acted on by the caller later. Calls in one turn: `handle_*` for what came,
//! then `handle_timers`, then `put`s, then `fill` and the datagrams from `first_unsent` on.

use super::budget::Budget;
use super::classes::{Classes, Cut, Queues};
use super::extras::extension_bytes;
use super::frame_copies::FrameCopies;
use super::guard::Guard;
use super::lanes::OutLanes;
use super::op_ring::{Entry, Meta, OpRing};
use super::packet_pool::{PacketPool, Slot};
use super::path_mtu::{Loss, PathMtu};
use super::recovery::{Recovery, Sent};
use super::small_queue::SmallQueue;
use crate::error::{DeliveryError, FailureCause, Reached, Refusal};
use crate::message::{Delivered, Level};
use crate::observe::Counters;
use crate::options::{Options, Priority};
use crate::proto::congestion::pacer::Pacer;
use crate::proto::congestion::{CongestionControl, WINDOW_BYTES_MAX};
use crate::proto::outbound::Finished;
use crate::proto::retry::Retries;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{
    CHUNK_UNIT, Extensions, Frame, HEADER_BYTES, Limits, MessageFrame, ResultCode, message_frame_bytes,
};
use crate::wire::csv::DISCOVERY_ROW_BYTES;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

mod again;
pub mod asleep;
mod control;
mod datagram;
mod ending;
mod fill;
mod heard;
mod incoming;
mod timers;

const UNIT: usize = CHUNK_UNIT as usize;
/// What a CHUNK that tells how long its message lives is longer for that.
const LIFETIME_BYTES: usize = Extensions { lifetime_ms: Some(0), ..Extensions::NONE }.bytes();
/// What a search probe takes of the pool is a multiple of this: one length for all probes of up to 2,048 bytes.
const SEARCH_STRIDE: usize = 2_048;
/// A datagram is padded to the length of its train's segments if that adds at most this share of it: a train costs little
/// more than a datagram, but padding costs bytes (R-LOSS-10).
const PADDING_SHARE: usize = 4;
/// Retransmissions a flow may have in advance of acknowledgements: one token per acknowledged datagram, so that repeats
/// never multiply an overload. Probes are exempt (R-LOSS-7).
const RETRANSMISSIONS_START: u32 = 64;
const RETRANSMISSIONS_MAX: u32 = 1_024;
/// After so many datagrams of small messages, one is for large ones (R-LOSS-10).
const LARGE_TURN: u32 = 4;
/// After so many datagrams the receiver learns the lowest live sequence numbers where there is room for them (R-ONCE-3).
const LOW_EVERY: u64 = 64;
/// After so many, in a datagram of their own if need be: of the smallest messages, these are half a window.
const LOW_AT_LEAST_EVERY: u64 = 256;
/// LOW, and a PING that may be due as well: room for them is left behind a CANCEL (R-CANCEL-1).
const BESIDE_CANCEL_BYTES: usize = (binary::FRAME_BYTES + 16) + (binary::FRAME_BYTES + 12);
/// What may be under way without credit: a datagram that takes the least a socket buffer charges for one (R-CREDIT-4).
const UNSOLICITED_BYTES: usize = 190;
/// Shorter datagrams are padded: whoever does not know the flow any more may answer with a discovery row, which is no longer
/// than what it answers (R-DISC-4).
pub const DATAGRAM_BYTES_MIN: usize = DISCOVERY_ROW_BYTES;
/// What an address proved holds for so long after the last valid datagram from there (R-DISC-5).
pub const PROVEN_FOR: Duration = Duration::from_secs(10);
/// While a commit is waited for, the peer hears of us at least so often: else it would forget the flow (R-COMMIT-4).
const COMMIT_PING_EVERY: Duration = Duration::from_secs(15);
/// What flows of a shard with nothing under way keep of the memory they had, for what comes next; beyond that it is given
/// back at once. The rings of a flow that had 1 MiB of datagrams under way are a tenth of that.
pub const RESTING_BYTES_MAX: usize = 2 << 20;
/// How exactly deadlines of messages that wait or are in flight are kept (R-OUTCOME-7).
const EXPIRY_GRAIN: Duration = Duration::from_millis(2);

/// Probes of all flows of a shard: so many at once, and one every so often (R-LOSS-13).
pub const PROBES_AT_ONCE: u32 = 64;
/// See [`PROBES_AT_ONCE`].
pub const PROBE_EVERY: Duration = Duration::from_micros(50);

/// A message that waits.
#[derive(Debug)]
pub struct Queued<C> {
    /// What comes back with its outcome.
    pub meta: Meta<C>,
    /// What it carries.
    pub payload: Bytes,
    /// What most messages do without.
    pub options: Option<Box<Options>>,
}

impl<C> Queued<C> {
    /// Bytes of its frame, if it is a small one.
    fn frame_bytes(&self) -> usize {
        message_frame_bytes(self.payload.len()) + extension_bytes(self.options.as_deref())
    }
}

/// A large message in flight keeps its payload: the receiver may have no room for it and ask for all of it again
/// (R-LARGE-5).
#[derive(Debug)]
struct Large<C> {
    completion: C,
    payload: Bytes,
    options: Option<Box<Options>>,
}

/// A small message that leaves again in a datagram of its own: the receiver refused it for now, or there was no memory
/// when what it was lost with was sent again.
#[derive(Debug)]
struct Again {
    seq: u64,
    /// Its frame as it left; of [`Shop::copies`].
    frame: Vec<u8>,
    not_before: Instant,
}

/// A small message that does not fit a datagram any more: it leaves again in chunks (R-MTU-8).
#[derive(Debug)]
struct Outgrown {
    seq: u64,
    /// Its frame as it left.
    frame: Vec<u8>,
}

/// A chunked operation that was given up, and of which the receiver has not been told yet.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    seq: u64,
    /// Of one in a lane: how far below it the one before it is.
    before: Option<u32>,
}

/// What the flows of a shard share.
#[derive(Debug)]
pub struct Shop<C> {
    /// Memory of datagrams.
    pub pool: PacketPool,
    /// Memory of what is copied out of them.
    pub copies: FrameCopies,
    /// Outcomes.
    pub finished: Vec<Finished<C>>,
    /// Ours, in every header.
    pub epoch: u32,
    /// Operations accepted and not ended.
    pub ops_in_use: usize,
    /// Bytes of datagrams filled in this turn.
    pub turn_bytes: usize,
    /// A slot came back since somebody went without.
    pub released: bool,
    /// What flows with nothing under way keep; see [`Flow::rest`].
    pub resting_bytes: usize,
    /// All that had come by then has been handled.
    pub heard_until: Instant,
    /// Probes of all flows (R-LOSS-13).
    pub probes: Budget,
    /// When what was refused for now goes again.
    pub(crate) retries: Retries,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whether the peer speaks the binary wire is being asked.
    Probing,
    /// We sent HELLO, or are about to.
    Opening,
    /// The peer's tag is known.
    Open,
}

/// What the receiver allows.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    /// Highest datagram number.
    pub packets: u64,
    /// Highest sequence number of messages.
    pub messages: u64,
    /// Highest sequence number of chunked messages.
    pub chunked: u64,
    /// When an unused grant of datagrams lapses.
    pub lease_until: Instant,
    /// The number of the peer's datagram that said so.
    pub told_in: u64,
}

/// The datagram being filled.
#[derive(Clone, Copy, Debug)]
struct OpenPacket {
    slot: Slot,
    number: u64,
    at: usize,
    /// How long it may become.
    limit: usize,
    first_message: u64,
    messages: u32,
    results_until: u32,
    sparse: bool,
    path_probe: bool,
    chunks: u32,
    /// Where the slot begins in the pool.
    start: usize,
    /// Messages may be put until here with no look at anything else ([`Flow::takes_direct`]); 0: there has to be one.
    direct_until: usize,
    /// So many of them.
    direct_messages: u32,
}

/// Who the peer is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its address.
    pub to: SocketAddr,
    /// Our address it uses, on a wildcard socket.
    pub local: Option<IpAddr>,
    /// What it writes into packets for us.
    pub own_tag: u64,
    /// What we write into packets for it; 0 while unknown.
    pub peer_tag: u64,
    /// Its incarnation; meaningless while the tag is unknown.
    pub peer_epoch: u32,
    /// The flow's route.
    pub route: u8,
}

/// Why a flow sends nothing more for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// It has nothing to send.
    Empty,
    /// Congestion window: an acknowledgement makes room.
    Window,
    /// The receiver allows no more.
    Credit,
    /// Not before this time.
    Until(Instant),
    /// No memory for datagrams.
    Pool,
}

/// What became of a class's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// Nothing is left that may leave now.
    All,
    /// It has had its share of the round.
    Round,
    /// The receiver allows no more operations of the kind that waits.
    Stuck,
}

/// See the module.
#[derive(Debug)]
pub struct Flow<C> {
    /// Who the peer is.
    pub identity: Identity,
    /// See [`Phase`].
    pub phase: Phase,
    /// The peer proved that it receives what we send to its address.
    pub proven: bool,
    /// Our random number of the handshake.
    pub nonce: u64,
    /// The peer's, to be echoed.
    pub peer_nonce: u64,
    /// The number of the datagram that is the immediate answer to our answer, and that of our answer: they measure the first
    /// round trip. One that comes in its place was sent later, and one on its way since may have been repeated. `u64::MAX`: none does.
    pub proof: (u64, u64),
    /// What the peer gave us to prove our address; 0: nothing.
    pub cookie: u64,
    /// What is known of the peer lapses: it is one of `auto`, asked what it is once it has been silent (R-DISC-5).
    pub lapses: bool,
    /// Nothing but probes may go to the address: the peer has been silent, or long unused (R-DISC-5).
    pub suspended: bool,
    /// HELLOs, or probes, sent in a row.
    pub hellos: u32,
    /// When the next one is due; also when a peer that stays silent is given up.
    pub hello_at: Instant,
    /// When the flow was opened, or suspended.
    pub opened_at: Instant,
    /// When the peer was last heard.
    pub heard_at: Instant,
    /// When it last answered a probe: it speaks the binary wire, whether it knows this flow or not.
    pub permitted_at: Instant,
    /// Since when it is asked what it is.
    pub probed_at: Instant,
    /// When something left that asks for an answer, after nothing had been under way.
    pub asked_at: Instant,
    /// Datagrams sent and what became of them.
    pub recovery: Recovery,
    /// What the receiver allows.
    pub credit: Credit,
    /// Numbers from here on have not been handed to the kernel.
    pub first_unsent: u64,
    /// Results up to this ticket are known to have arrived.
    pub results_acked: u32,
    /// In the list of flows with something to send.
    pub ready: bool,
    /// In the list of flows that found no memory.
    pub starved: bool,
    /// What seals its datagrams, where they are sealed.
    pub guard: Option<Box<Guard>>,
    /// Longest datagram: what `path_mtu` says, the tag not counted.
    datagram_bytes: usize,
    path_mtu: PathMtu,
    /// Messages in one at most.
    messages_max: u32,
    messages: OpRing<C>,
    chunked: OpRing<Large<C>>,
    open: Option<OpenPacket>,
    small: SmallQueue<C>,
    large: VecDeque<Queued<C>>,
    cuts: VecDeque<Cut>,
    lost: VecDeque<u64>,
    again: VecDeque<Again>,
    outgrown: Vec<Outgrown>,
    cancels: Vec<GivenUp>,
    /// Made with the first message in one.
    lanes: Option<Box<OutLanes>>,
    congestion: Box<dyn CongestionControl>,
    window: u64,
    pacer: Pacer,
    retransmissions: u32,
    probes_due: u32,
    ping_due: bool,
    /// PINGs for credit in a row that brought none, and when the next may leave.
    pings: u32,
    ping_at: Instant,
    /// One waits for that.
    asks: bool,
    /// A datagram was granted, since it was opened or woke.
    granted: bool,
    results_again: bool,
    /// Results up to this ticket left in a datagram that is watched.
    results_tracked: u32,
    since_large: u32,
    /// Of other priorities than normal: made with the first of them.
    classes: Option<Box<Classes<C>>>,
    /// Something in there may go before whatever comes now.
    yields: bool,
    low_told_at: u64,
    low_told: (u64, u64),
    expires_at: Instant,
    /// When the peer is asked whether it is still there, for the sake of commits.
    commit_ping_at: Instant,
    /// The pacer lets nothing leave until then.
    paced_until: Instant,
    /// Its part of [`Shop::resting_bytes`].
    resting_bytes: u32,
}

/// What a flow is made with.
#[derive(Debug)]
pub struct Opening {
    /// See [`Identity`].
    pub identity: Identity,
    /// First datagram number.
    pub packet_base: u64,
    /// First sequence number of messages.
    pub message_base: u64,
    /// First sequence number of chunked messages.
    pub chunked_base: u64,
    /// Longest datagram that may be sent; whether the path carries it is to be found out. The tag not counted.
    pub datagram_bytes: usize,
    /// Its controller.
    pub congestion: Box<dyn CongestionControl>,
    /// See [`Flow::nonce`].
    pub nonce: u64,
}

impl<C> Flow<C> {
    /// A flow without a peer's tag, and without credit.
    #[must_use]
    pub fn new(now: Instant, opening: Opening) -> Self {
        let Opening { identity, packet_base, message_base, chunked_base, datagram_bytes, congestion, nonce } =
            opening;
        let train_bytes_max = crate::train::TRAIN_BYTES_MAX_V4 as u32;
        let mut pacer = Pacer::new(now, datagram_bytes as u32, train_bytes_max);
        pacer.set_rate(now, congestion.pacing_bytes_per_s());
        let path_mtu = PathMtu::new(datagram_bytes);
        Self {
            identity,
            phase: Phase::Opening,
            proven: false,
            nonce,
            peer_nonce: 0,
            proof: (u64::MAX, 0),
            cookie: 0,
            lapses: false,
            suspended: false,
            hellos: 0,
            hello_at: now,
            opened_at: now,
            heard_at: now,
            permitted_at: Instant::default(),
            probed_at: now,
            asked_at: now,
            recovery: Recovery::new(packet_base),
            credit: Credit { packets: 0, messages: 0, chunked: 0, lease_until: now, told_in: 0 },
            first_unsent: packet_base,
            results_acked: 0,
            ready: false,
            starved: false,
            guard: None,
            datagram_bytes: path_mtu.size(),
            path_mtu,
            messages_max: messages_max(0),
            messages: OpRing::new(message_base),
            chunked: OpRing::new(chunked_base),
            open: None,
            small: SmallQueue::new(),
            large: VecDeque::new(),
            cuts: VecDeque::new(),
            lost: VecDeque::new(),
            again: VecDeque::new(),
            outgrown: Vec::new(),
            cancels: Vec::new(),
            lanes: None,
            window: congestion.window_bytes().min(WINDOW_BYTES_MAX),
            congestion,
            pacer,
            retransmissions: RETRANSMISSIONS_START,
            probes_due: 0,
            ping_due: false,
            pings: 0,
            ping_at: now,
            asks: false,
            granted: false,
            results_again: false,
            results_tracked: 0,
            since_large: 0,
            classes: None,
            yields: false,
            low_told_at: packet_base,
            low_told: (message_base, chunked_base),
            expires_at: Instant::FAR_FUTURE,
            commit_ping_at: Instant::FAR_FUTURE,
            paced_until: Instant::FAR_FUTURE,
            resting_bytes: 0,
        }
    }

    /// First numbers not used yet: datagrams, messages, chunked messages.
    #[must_use]
    pub const fn next_numbers(&self) -> [u64; 3] {
        [self.recovery.next_number(), self.messages.next(), self.chunked.next()]
    }

    /// Lowest live sequence numbers: messages, chunked messages.
    #[must_use]
    pub const fn low(&self) -> (u64, u64) {
        (self.messages.low(), self.chunked.low())
    }

    /// Anything accepted and not ended.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.messages.is_empty()
            && self.chunked.is_empty()
            && self.small.is_empty()
            && self.large.is_empty()
            && !self.has_other_waiting()
            && self.recovery.in_flight_packets() == 0
            && self.open.is_none()
            && self.lost.is_empty()
            && self.cancels.is_empty()
    }

    /// Bytes of a message that still fits into one datagram.
    #[must_use]
    pub const fn message_bytes_max(&self) -> usize {
        self.datagram_bytes - HEADER_BYTES - binary::MESSAGE_FRAME_BYTES
    }

    /// Bytes its datagrams are longer when they leave than here.
    #[must_use]
    pub fn tag_bytes(&self) -> usize {
        self.guard.as_ref().map_or(0, |guard| guard.tag_bytes())
    }

    /// Longest datagram that is sent now, path probes aside, the tag not counted.
    #[must_use]
    pub const fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// The peer's HELLO says how long its datagrams may be.
    pub fn set_peer_limits(&mut self, limits: Option<Limits>) {
        self.messages_max = messages_max(limits.map_or(0, |limits| limits.datagram_bytes_max.into()));
        if let Some(limits) = limits {
            self.path_mtu.limit(limits.datagram_bytes_max.into());
            self.follow_path();
        }
    }

    /// Datagrams go another way from now on (R-MTU-2).
    pub fn path_changed(&mut self) {
        self.path_mtu.restart(self.recovery.next_number());
        self.follow_path();
    }

    /// `path_mtu` has another opinion.
    fn follow_path(&mut self) {
        self.datagram_bytes = self.path_mtu.size();
    }

    /// Nothing of ours waits or is under way but control.
    #[must_use]
    pub fn has_no_operations(&self) -> bool {
        self.messages.is_empty() && self.chunked.is_empty() && !self.has_waiting()
    }

    /// Something waits that was never transmitted.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.small.is_empty() || !self.large.is_empty() || self.has_other_waiting()
    }

    /// As [`has_waiting`](Self::has_waiting), of other priorities than normal.
    fn has_other_waiting(&self) -> bool {
        let mut queues = self.classes.iter().flat_map(|classes| classes.queues());
        queues.any(|queues| !queues.small.is_empty() || !queues.large.is_empty())
    }

    /// The path turned out to carry so much.
    #[cfg(test)]
    pub fn path_carries(&mut self, now: Instant, bytes: usize) {
        let mut passed = self.path_mtu.passed();
        passed.add(self.recovery.next_number(), bytes as u32);
        self.path_mtu.on_acked(now, passed);
        self.follow_path();
    }

    #[cfg(test)]
    pub fn set_pacing(&mut self, now: Instant, bytes_per_s: u64) {
        self.pacer.set_rate(now, Some(bytes_per_s));
    }

    /// Suspends the flow: the peer has to answer a probe before anything else is sent to it.
    pub fn suspend(&mut self, now: Instant) {
        if !self.suspended {
            self.look_again();
            self.suspended = true;
            self.paced_until = Instant::FAR_FUTURE;
            self.probed_at = now;
            self.hellos = 0;
            self.hello_at = now;
        }
    }

    /// When it was last known that the peer speaks the binary wire.
    #[inline]
    #[must_use]
    pub fn vouched_at(&self) -> Instant {
        self.heard_at.max(self.permitted_at)
    }

    /// Nothing is under way now. Whoever sends a message, waits for its outcome and sends the next one comes here after each of
    /// them: the memory stays, as far as the shard has room for that ([`RESTING_BYTES_MAX`]), until the flow sleeps.
    pub fn rest(&mut self, now: Instant, shop: &mut Shop<C>) {
        // What was given up is known to the receiver.
        self.lanes = None;
        self.forget_refused(shop);
        if self.classes.as_ref().is_some_and(|classes| classes.queues().all(Queues::is_empty)) {
            (self.classes, self.yields) = (None, false);
        }
        self.leave_rest(shop);
        if shop.resting_bytes + self.memory_bytes() > RESTING_BYTES_MAX {
            self.shrink(now);
        }
        self.resting_bytes = self.memory_bytes() as u32;
        shop.resting_bytes += self.memory_bytes();
    }

    /// What it keeps is not counted any more: it is in use, or about to be given back.
    pub fn leave_rest(&mut self, shop: &mut Shop<C>) {
        shop.resting_bytes -= std::mem::take(&mut self.resting_bytes) as usize;
    }

    /// Bytes it takes of the heap for what is under way, or was.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let waiting = self.small.memory_bytes() + self.large.capacity() * size_of::<Queued<C>>();
        let lists = self.cuts.capacity() * size_of::<Cut>()
            + self.lost.capacity() * size_of::<u64>()
            + self.again.capacity() * size_of::<Again>();
        self.messages.memory_bytes()
            + self.chunked.memory_bytes()
            + self.recovery.memory_bytes()
            + waiting
            + lists
    }

    /// Its part of [`Shop::resting_bytes`].
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn resting_bytes(&self) -> usize {
        self.resting_bytes as usize
    }

    fn shrink(&mut self, now: Instant) {
        self.messages.shrink();
        self.chunked.shrink();
        self.recovery.shrink(now);
        // Without anything in them.
        self.small.shrink_to_fit();
        self.large.shrink_to_fit();
        self.cuts.shrink_to_fit();
        self.lost.shrink_to_fit();
        self.again.shrink_to_fit();
    }
}

/// Tickets of results go round: whether one, unless it is none (0), is later than another, less than half a round away.
const fn is_later(ticket: u32, than: u32) -> bool {
    ticket != 0 && ticket.wrapping_sub(than).cast_signed() > 0
}

const fn later(a: u32, b: u32) -> u32 {
    if is_later(b, a) { b } else { a }
}

/// The MESSAGE that these bytes are.
fn message_in(frame: &[u8]) -> Option<MessageFrame<'_>> {
    binary::raw_frames(frame).find_map(|(frame, _)| match frame {
        Frame::Message(frame) => Some(frame),
        _ => None,
    })
}

fn count_loss(loss: Loss, counters: &mut Counters) {
    match loss {
        Loss::Nothing => {}
        Loss::Probe => counters.path_probes_lost += 1,
        Loss::Fall => counters.path_mtu_falls += 1,
    }
}

/// Everything that waits and was never transmitted, class by class: small messages and large ones.
fn waiting_mut<'a, C>(
    small: &'a mut SmallQueue<C>,
    large: &'a mut VecDeque<Queued<C>>,
    classes: &'a mut Option<Box<Classes<C>>>,
) -> impl Iterator<Item = (&'a mut SmallQueue<C>, &'a mut VecDeque<Queued<C>>)> {
    let others = classes.iter_mut().flat_map(|classes| classes.queues_mut());
    std::iter::once((small, large)).chain(others.map(|queues| (&mut queues.small, &mut queues.large)))
}

fn priority(options: Option<&Options>) -> Priority {
    options.map_or(Priority::Normal, |options| options.priority)
}

/// Messages in a datagram to a peer whose datagrams have up to `datagram_bytes`: it may have to refuse each of them in one.
/// Chunks may come on top.
const fn messages_max(datagram_bytes: usize) -> u32 {
    super::inflow::results_max(datagram_bytes) as u32 * 5 / 6
}

/// Whether the datagram carries the message. Unknown if its bytes are gone: then a later one does.
fn carries(pool: &PacketPool, sent: &Sent, seq: u64) -> bool {
    sent.slot != Slot::NONE
        && binary::raw_frames(&pool.bytes(sent.slot)[HEADER_BYTES..sent.bytes as usize])
            .any(|(frame, _)| matches!(frame, Frame::Message(frame) if frame.seq == seq as u32))
}

/// The sequence number whose low 32 bits are `low`, at or after `base`.
fn expand(low: u32, base: u64) -> u64 {
    base + u64::from(low.wrapping_sub(base as u32))
}

fn refusal(code: ResultCode) -> FailureCause {
    match code {
        ResultCode::TooLarge => FailureCause::Refused(Refusal::TooLarge),
        ResultCode::Stale => FailureCause::PeerRestarted,
        ResultCode::Expired => FailureCause::Expired,
        ResultCode::Closed => FailureCause::Refused(Refusal::Closing),
        ResultCode::NotCommitted => FailureCause::Refused(Refusal::NotCommitted),
        _ => FailureCause::Refused(Refusal::ByPeer),
    }
}

#[inline(always)]
fn delivered_op<C, E>(
    now: Instant,
    completion: C,
    entry: &Entry<E>,
    payload_bytes: u32,
    level: Level,
) -> Finished<C> {
    let rtt_ns = now.ns_since(entry.accepted_at).saturating_sub(entry.queued_ns());
    let outcome = Ok(Delivered::of_us(level, entry.tries, rtt_ns, entry.queued_us()));
    Finished { completion, tag: entry.tag, outcome, payload_bytes }
}

fn finish<C>(
    shop: &mut Shop<C>,
    completion: C,
    tag: u64,
    payload_bytes: u32,
    cause: FailureCause,
    reached: Reached,
    counters: &mut Counters,
) {
    shop.ops_in_use -= 1;
    counters.fail(cause);
    let outcome = Err(DeliveryError { cause, reached });
    shop.finished.push(Finished { completion, tag, outcome, payload_bytes });
}
