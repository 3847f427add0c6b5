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
use super::extras::{extension_bytes, lane, leaves_in_chunks, options, wants_commit, with_extensions};
use super::frame_copies::FrameCopies;
use super::guard::Guard;
use super::inflow::CHUNKED_WINDOW;
use super::lanes::OutLanes;
use super::op_ring::{Entry, Meta, OpRing};
use super::packet_pool::{PacketPool, Slot};
use super::path_mtu::{Loss, PathMtu, Probe};
use super::recovery::{Fate, Recovery, Sent, Timeout};
use super::source::Source;
use crate::error::{DeliveryError, FailureCause, Reached, Refusal};
use crate::message::{Delivered, Level};
use crate::observe::Counters;
use crate::options::{Options, Priority};
use crate::proto::congestion::pacer::Pacer;
use crate::proto::congestion::{AckSample, CongestionControl, LossSample, WINDOW_BYTES_MAX};
use crate::proto::outbound::Finished;
use crate::proto::retry::Retries;
use crate::units::Instant;
use crate::wire::DropReason;
use crate::wire::binary::{
    self, AckFrame, CHUNK_FRAME_BYTES, CHUNK_UNIT, ChunkFrame, CloseFrame, Extensions, Frame, GrantFrame,
    HEADER_BYTES, Header, Limits, LowFrame, MessageFrame, PingFrame, ResultCode, Space, Writer,
    message_frame_bytes,
};
use crate::wire::csv::DISCOVERY_ROW_BYTES;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub mod asleep;

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
    small: VecDeque<Queued<C>>,
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
            small: VecDeque::new(),
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

    /// Writes a datagram that is not kept: `write` writes the frames, behind the header and as long as `space` has room,
    /// the tag not counted.
    pub fn write_lone(
        &mut self,
        (epoch, packet_number): (u32, u64),
        space: &mut [u8],
        write: impl FnOnce(&mut [u8]),
    ) {
        let Identity { route, peer_tag, .. } = self.identity;
        binary::write(space, &Header { route, epoch, packet_number, tag: peer_tag, sent_at: None });
        let end = space.len() - self.tag_bytes();
        write(&mut space[HEADER_BYTES..end]);
        match &mut self.guard {
            None => binary::seal(space),
            Some(guard) => guard.seal(packet_number, space),
        }
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

    /// Takes a message.
    #[inline(always)]
    pub fn put(&mut self, now: Instant, shop: &mut Shop<C>, payload: impl Source, meta: Meta<C>) {
        self.look_again();
        if self.messages.is_empty() && self.is_idle() {
            // Whatever was not answered before is not needed any more.
            self.asked_at = now;
            self.recovery.forget_probes();
            self.leave_rest(shop);
        }
        shop.ops_in_use += 1;
        self.expires_at = self.expires_at.min(meta.deadline);
        if payload.len() > self.message_bytes_max() {
            // The path may turn out to carry more by the time it leaves.
            let may_fit = HEADER_BYTES + message_frame_bytes(payload.len()) <= self.path_mtu.ceiling();
            let queue = if may_fit { &mut self.small } else { &mut self.large };
            queue.push_back(Queued { meta, payload: payload.own(), options: None });
            return;
        }
        let direct = self.phase == Phase::Open
            && !self.suspended
            && self.small.is_empty()
            && !self.yields
            && self.lost.is_empty()
            && self.credit_for_message()
            && self.make_room(now, shop, message_frame_bytes(payload.len())).is_ok();
        if direct {
            self.write_message(now, shop, (payload.len(), |space| payload.write(space)), meta);
            self.go_direct();
        } else {
            self.small.push_back(Queued { meta, payload: payload.own(), options: None });
        }
    }

    /// What was true of the message just put is true of all that fit behind it, until something else happens to the flow.
    fn go_direct(&mut self) {
        let credit = (self.credit.messages + 1).saturating_sub(self.messages.next());
        if let Some(open) = &mut self.open {
            open.direct_until = open.limit;
            open.direct_messages =
                self.messages_max.saturating_sub(open.messages).min(credit.try_into().unwrap_or(u32::MAX));
        }
    }

    /// Something happened that the next message may have to wait for.
    const fn look_again(&mut self) {
        if let Some(open) = &mut self.open {
            open.direct_until = 0;
        }
    }

    /// Whether [`put_direct`](Self::put_direct) takes a message of that length.
    #[inline(always)]
    #[must_use]
    pub const fn takes_direct(&self, payload_bytes: usize) -> bool {
        match &self.open {
            Some(open) => {
                open.at + message_frame_bytes(payload_bytes) <= open.direct_until && open.direct_messages > 0
            }
            None => false,
        }
    }

    /// Takes a message behind others of this turn into the same datagram: nearly all of a flood go this way, and it costs
    /// what has to be written.
    #[inline(always)]
    pub fn put_direct(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        (bytes, write): (usize, impl FnOnce(&mut [u8])),
        meta: Meta<C>,
    ) {
        let deadline = meta.deadline;
        self.write_message(now, shop, (bytes, write), meta);
        let Some(open) = &mut self.open else { return };
        open.direct_messages -= 1;
        shop.ops_in_use += 1;
        self.expires_at = self.expires_at.min(deadline);
    }

    /// As [`put_direct`](Self::put_direct) for one message of `bytes` bytes after the other, up to `room`, for as long as
    /// [`takes_direct`](Self::takes_direct) is true. Returns how many, and whether there may be more.
    #[inline(always)]
    pub fn put_each_direct<F: FnOnce(&mut [u8])>(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        bytes: usize,
        room: usize,
        messages: &mut impl Iterator<Item = (u64, F)>,
        meta: impl Fn(u64) -> Meta<C>,
    ) -> (usize, bool) {
        let Some(open) = &mut self.open else { return (0, true) };
        let frame_bytes = message_frame_bytes(bytes);
        let space = open.direct_until.saturating_sub(open.at);
        let room = room.min(open.direct_messages as usize);
        let space = shop.pool.piece_mut(open.start + open.at, space);
        let mut put = 0;
        for frame in space.chunks_exact_mut(frame_bytes).take(room) {
            let Some((tag, write)) = messages.next() else { return (put, false) };
            // First what may panic: then the message has not been put.
            write(binary::plain_message_space(frame, self.messages.next() as u32));
            put += 1;
            open.direct_messages -= 1;
            shop.ops_in_use += 1;
            let meta = meta(tag);
            self.expires_at = self.expires_at.min(meta.deadline);
            self.messages.push_small(now, meta, bytes, open.number);
            open.at += frame_bytes;
            open.messages += 1;
        }
        (put, true)
    }

    /// Takes a message with options.
    pub fn put_with_options(&mut self, now: Instant, shop: &mut Shop<C>, mut message: Queued<C>) {
        self.look_again();
        if lane(message.options.as_deref()).is_some() {
            self.join_lane(&mut message);
        }
        if self.is_idle() {
            self.asked_at = now;
            self.recovery.forget_probes();
            self.leave_rest(shop);
        }
        shop.ops_in_use += 1;
        self.expires_at = self.expires_at.min(message.meta.deadline);
        // A commit may take long, and so may a lane: its number is of the space that holds back no small message
        // (R-COMMIT-1, R-LANE-2).
        let bytes = message.frame_bytes();
        // As in `put`: the path may turn out to carry more by the time it leaves.
        let large =
            HEADER_BYTES + bytes > self.path_mtu.ceiling() || leaves_in_chunks(message.options.as_deref());
        let priority = priority(message.options.as_deref());
        // As in `put`; what is strict looks at what is strict alone.
        let first = match priority {
            Priority::Control => self.classes.as_ref().is_none_or(|classes| classes.control.is_empty()),
            Priority::High | Priority::Normal | Priority::Low => !self.has_waiting(),
        };
        let direct = first
            && !large
            && HEADER_BYTES + bytes <= self.datagram_bytes
            && self.phase == Phase::Open
            && !self.suspended
            && self.lost.is_empty()
            && self.credit_for_message()
            && self.make_room(now, shop, bytes).is_ok();
        if direct {
            return self.write_with_options(now, shop, message);
        }
        let [small_queue, large_queue] = self.queues_of(priority);
        if large { large_queue.push_back(message) } else { small_queue.push_back(message) }
    }

    /// Where messages of a class wait, small and large ones, for one that is about to.
    fn queues_of(&mut self, priority: Priority) -> [&mut VecDeque<Queued<C>>; 2] {
        let others = match priority {
            Priority::Normal => None,
            Priority::Control | Priority::High | Priority::Low => {
                self.yields = true;
                self.classes.get_or_insert_default().of(priority)
            }
        };
        match others {
            Some(queues) => [&mut queues.small, &mut queues.large],
            None => [&mut self.small, &mut self.large],
        }
    }

    /// The message waits where others of its lane do, or it would overtake them (R-LANE-1).
    #[cold]
    fn join_lane(&mut self, message: &mut Queued<C>) {
        let Some(options) = message.options.as_deref_mut() else { return };
        let Some(lane) = options.lane else { return };
        let mut lanes = self.lanes.take().unwrap_or_default();
        if lanes.is_large() {
            lanes.prune(&self.lanes_in_use(), self.chunked.next().saturating_sub(CHUNKED_WINDOW.into()));
        }
        options.priority = lanes.join(lane.number, options.priority);
        self.lanes = Some(lanes);
    }

    /// Lanes with messages that wait or are under way.
    fn lanes_in_use(&self) -> BTreeSet<u16> {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        let waiting = self.large.iter().chain(classes.flat_map(|queues| &queues.large));
        let waiting = waiting.map(|message| message.options.as_deref());
        let live = self.chunked.live().filter_map(|(_, entry)| entry.completion.as_ref());
        let live = live.map(|large| large.options.as_deref());
        waiting.chain(live).filter_map(|options| lane(options)).map(|lane| lane.number).collect()
    }

    fn credit_for_message(&self) -> bool {
        self.messages.next() <= self.credit.messages
    }

    /// The open datagram has room for `bytes` more, or a new one is opened.
    #[inline]
    fn make_room(&mut self, now: Instant, shop: &mut Shop<C>, bytes: usize) -> Result<(), Blocked> {
        if let Some(open) = &self.open {
            if open.at + bytes <= open.limit && open.messages < self.messages_max {
                return Ok(());
            }
            self.close(now, shop, true);
        }
        let limit = self.may_send(now)?;
        if HEADER_BYTES + bytes > limit {
            return Err(Blocked::Credit);
        }
        let held = self.recovery.in_flight_packets() as usize + self.lost.len();
        if !shop.pool.is_fair(held, self.datagram_bytes) {
            return Err(Blocked::Pool);
        }
        self.open_packet(now, shop, limit, self.datagram_bytes)
    }

    /// Whether another datagram of new data may leave, and how long it may be (R-LOSS-8).
    fn may_send(&mut self, now: Instant) -> Result<usize, Blocked> {
        let bytes = self.datagram_bytes as u64;
        if self.recovery.in_flight() + bytes > self.window && self.recovery.in_flight_packets() > 0 {
            return Err(Blocked::Window);
        }
        if self.recovery.next_number() > self.credit.packets || now > self.credit.lease_until {
            // Without credit, one small datagram may be under way: it asks for more by arriving (R-CREDIT-4).
            let none = self.recovery.in_flight_packets() == 0;
            let limit = (UNSOLICITED_BYTES - self.tag_bytes()).min(self.datagram_bytes);
            return if none { Ok(limit) } else { Err(Blocked::Credit) };
        }
        if self.pacer.allowance(now) < bytes {
            return Err(Blocked::Until(self.pacer.next_at(bytes)));
        }
        Ok(self.datagram_bytes)
    }

    /// Opens a datagram of up to `limit` bytes in memory for `stride` (>= `limit`): datagrams of one stride are one piece.
    fn open_packet(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        limit: usize,
        stride: usize,
    ) -> Result<(), Blocked> {
        let slot = shop.pool.acquire(stride).ok_or(Blocked::Pool)?;
        let number = self.recovery.take_number(now, Fate::Open);
        self.open = Some(OpenPacket {
            slot,
            number,
            at: HEADER_BYTES,
            limit,
            first_message: self.messages.next(),
            messages: 0,
            results_until: 0,
            sparse: false,
            path_probe: false,
            chunks: 0,
            start: shop.pool.range(slot).start,
            direct_until: 0,
            direct_messages: 0,
        });
        Ok(())
    }

    /// Ends the open datagram: its header, its checksum, and it is in flight. `more` says that another one follows it.
    fn close(&mut self, now: Instant, shop: &mut Shop<C>, more: bool) {
        let Some(open) = self.open.take() else { return };
        if open.at == HEADER_BYTES {
            shop.pool.release(open.slot);
            self.recovery.close_unused(open.number);
            return;
        }
        let bytes = shop.pool.bytes_mut(open.slot);
        let mut len = open.at;
        // What is in use may have changed since it was opened.
        let full = self.datagram_bytes.min(bytes.len());
        if more && len < full && full - len <= full / PADDING_SHARE {
            bytes[len..full].fill(0);
            len = full;
        }
        if len < DATAGRAM_BYTES_MIN {
            bytes[len..DATAGRAM_BYTES_MIN].fill(0);
            len = DATAGRAM_BYTES_MIN;
        }
        let datagram = &mut bytes[..len];
        let Identity { route, peer_tag, .. } = self.identity;
        if self.recovery.in_flight_packets() == 0 && self.heard_at >= self.asked_at {
            self.asked_at = now;
        }
        let header =
            Header { route, epoch: shop.epoch, packet_number: open.number, tag: peer_tag, sent_at: None };
        binary::write(datagram, &header);
        binary::seal(datagram);
        self.recovery.sent(
            open.number,
            Sent {
                sent_at: now,
                rate: Default::default(),
                slot: open.slot,
                bytes: len as u32,
                first_message: open.first_message,
                messages: open.messages,
                results_until: open.results_until,
                fate: Fate::InFlight,
                sparse: open.sparse,
                path_probe: open.path_probe,
                probed: false,
            },
        );
        shop.turn_bytes += len;
        self.congestion.on_sent(now, len as u32, self.recovery.in_flight());
        self.pacer.on_sent(len as u64);
    }

    /// Writes into the open datagram, which has room.
    #[inline(always)]
    fn write_message(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        (bytes, write): (usize, impl FnOnce(&mut [u8])),
        meta: Meta<C>,
    ) {
        let Some(open) = &mut self.open else { return };
        let frame_bytes = message_frame_bytes(bytes);
        let space = shop.pool.piece_mut(open.start + open.at, frame_bytes);
        // First what may panic: then the message has not been put.
        write(binary::plain_message_space(space, self.messages.next() as u32));
        self.messages.push_small(now, meta, bytes, open.number);
        open.at += frame_bytes;
        open.messages += 1;
    }

    /// As [`write_message`](Self::write_message), for a message with options.
    fn write_with_options(&mut self, now: Instant, shop: &mut Shop<C>, message: Queued<C>) {
        let Some(open) = &mut self.open else { return };
        let Queued { meta, payload, options } = message;
        let seq = self.messages.push_small(now, meta, payload.len(), open.number);
        if let Some(entry) = self.messages.get_mut(seq) {
            entry.set_priority(priority(options.as_deref()));
        }
        let mut writer = Writer::new(&mut shop.pool.bytes_mut(open.slot)[open.at..]);
        let written = with_extensions(options.as_deref(), |extensions| {
            writer.message(seq as u32, &payload, extensions)
        });
        debug_assert!(written);
        open.at += writer.at();
        open.messages += 1;
    }

    /// Sends whatever may be sent: first what was lost, then what was refused for now, then small and large messages.
    pub fn fill(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) -> Blocked {
        self.asks = false;
        self.paced_until = Instant::FAR_FUTURE;
        if self.phase != Phase::Open {
            return Blocked::Empty;
        }
        if !self.outgrown.is_empty() {
            let Self { outgrown, messages, .. } = self;
            outgrown.retain(|outgrown| messages.get_mut(outgrown.seq).is_some());
        }
        let filled = self
            .repair(now, shop, counters)
            .and_then(|()| self.put_again(now, shop))
            .and_then(|()| self.fill_new(now, shop));
        match filled {
            Ok(()) => {
                self.recovery.app_limited();
                Blocked::Empty
            }
            Err(blocked) => {
                if let Blocked::Until(at) = blocked {
                    self.paced_until = at.max(now + Duration::from_micros(1));
                }
                blocked
            }
        }
    }

    /// Lost datagrams' frames leave again, each datagram's in a new one.
    fn repair(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) -> Result<(), Blocked> {
        while let Some(&number) = self.lost.front() {
            self.close(now, shop, true);
            if let Some(sent) = self.recovery.get(number)
                && sent.fate == Fate::Lost
                && sent.slot == Slot::NONE
            {
                // Only results were in it, or a PING.
                self.ping_due |= sent.results_until == 0;
                self.results_again |= is_later(sent.results_until, self.results_acked);
                self.recovery.resolved(number);
                self.probes_due = self.probes_due.saturating_sub(1);
                self.lost.pop_front();
                continue;
            }
            let lost = self.recovery.get(number).filter(|sent| sent.fate == Fate::Lost);
            let outgrown = lost.is_some_and(|sent| sent.bytes as usize > self.datagram_bytes);
            let path_probe = lost.is_some_and(|sent| sent.path_probe);
            if path_probe || (outgrown && lost.is_some_and(|sent| sent.messages == 0)) {
                // Nothing leaves for it now: chunks are cut anew when their turn comes.
                let goes_again = self.cut_again(number, now, shop);
                counters.rows_retransmitted += u64::from(goes_again);
                if path_probe && self.probes_due > 0 {
                    self.lost.pop_front();
                    self.probe_with_oldest(now, counters);
                    continue;
                }
                self.probes_due = self.probes_due.saturating_sub(1);
            } else if lost.is_some() {
                // With nothing in flight no acknowledgement would ever bring credit or retransmissions: it is a probe
                // (R-LOSS-4).
                let exempt = self.probes_due > 0 || self.recovery.in_flight_packets() == 0;
                if !exempt {
                    if self.retransmissions == 0 {
                        return Err(Blocked::Window);
                    }
                    if self.may_send(now)? < self.datagram_bytes {
                        return Err(Blocked::Credit);
                    }
                }
                let mut goes_again = true;
                if outgrown {
                    goes_again = self.cut_again(number, now, shop);
                } else if !self.send_again(number, now, shop)? {
                    // All in it has ended.
                    self.lost.pop_front();
                    if self.probes_due > 0 {
                        self.probe_with_oldest(now, counters);
                    }
                    continue;
                }
                counters.rows_retransmitted += u64::from(goes_again);
                if exempt {
                    self.probes_due = self.probes_due.saturating_sub(1);
                } else {
                    self.retransmissions = self.retransmissions.saturating_sub(1);
                }
            }
            self.lost.pop_front();
        }
        Ok(())
    }

    /// A probe is something that leaves (R-LOSS-4): the oldest datagram in flight is the next to go again. Where there is none,
    /// and where what goes again is cut anew when credit allows, a PING leaves.
    fn probe_with_oldest(&mut self, now: Instant, counters: &mut Counters) {
        let Some((number, oldest)) = self.recovery.oldest_to_probe() else {
            (self.probes_due, self.ping_due) = (0, true);
            return;
        };
        self.lost.push_front(number);
        count_loss(self.path_mtu.on_timeout(now, number, oldest.bytes), counters);
        self.ping_due |= !oldest.path_probe && oldest.bytes as usize > self.datagram_bytes;
    }

    /// Copies what still matters of a lost datagram into a new one (R-LOSS-5). False: nothing does.
    fn send_again(&mut self, number: u64, now: Instant, shop: &mut Shop<C>) -> Result<bool, Blocked> {
        let Some(&old) = self.recovery.get(number) else { return Ok(false) };
        if old.slot == Slot::NONE {
            self.recovery.resolved(number);
            return Ok(false);
        }
        let mut kept = None;
        let full = self.datagram_bytes;
        if let Err(blocked) = self.open_packet(now, shop, full, full) {
            if blocked != Blocked::Pool {
                return Err(blocked);
            }
            // All memory is in lost datagrams: this one gives up its own, and has it back.
            let bytes = old.bytes as usize;
            kept = Some(shop.copies.copy(&shop.pool.bytes(old.slot)[..bytes]));
            let slot = self.recovery.resolved(number);
            shop.pool.release(slot);
            self.open_packet(now, shop, bytes, bytes)?;
        }
        let Some(open) = &mut self.open else { return Ok(false) };
        open.first_message = old.first_message;
        open.messages = old.messages;
        open.sparse = old.sparse;
        let (from, to) = match &kept {
            None => shop.pool.copy_pair(old.slot, open.slot),
            Some(kept) => (&kept[..], shop.pool.bytes_mut(open.slot)),
        };
        for (frame, raw) in binary::raw_frames(&from[HEADER_BYTES..old.bytes as usize]) {
            let live = match frame {
                Frame::Message(frame) => {
                    let seq = expand(frame.seq, old.first_message);
                    match self.messages.get_mut(seq) {
                        Some(entry) if entry.counts(number) => {
                            entry.tries = entry.tries.saturating_add(1);
                            true
                        }
                        // It was refused for now, and travels alone.
                        Some(_) => {
                            open.sparse = true;
                            false
                        }
                        None => false,
                    }
                }
                Frame::Chunk(frame) => match frame.space {
                    Space::Chunked => {
                        let seq = expand(frame.seq, self.chunked.low());
                        self.chunked.get_mut(seq).map(|entry| entry.tries = entry.tries.max(2)).is_some()
                    }
                    Space::Message => self.messages.get_mut(expand(frame.seq, self.messages.low())).is_some(),
                },
                Frame::Cancel(_) | Frame::Skip(_) => true, // R-CANCEL-1.
                _ => false,
            };
            if live {
                to[open.at..open.at + raw.len()].copy_from_slice(raw);
                open.at += raw.len();
            }
        }
        let left = open.at > HEADER_BYTES;
        self.results_again |= is_later(old.results_until, self.results_acked);
        match kept {
            None => {
                let slot = self.recovery.resolved(number);
                shop.pool.release(slot);
                shop.released = true;
            }
            Some(kept) => shop.copies.give_back(kept),
        }
        // What follows it decides whether it is padded, so that both stay in one train; nothing more goes into it.
        match &mut self.open {
            Some(open) if left => open.limit = open.at,
            _ => self.close(now, shop, false),
        }
        Ok(left)
    }

    /// A lost datagram that the path does not carry any more, or that was a path probe (R-MTU-7): of its messages as many go
    /// together as fit a datagram; one that fits none, and chunks, are cut anew. False: nothing in it matters any more.
    fn cut_again(&mut self, number: u64, now: Instant, shop: &mut Shop<C>) -> bool {
        let Some(&old) = self.recovery.get(number) else { return false };
        let mut left = false;
        let kept = shop.copies.copy(&shop.pool.bytes(old.slot)[..old.bytes as usize]);
        self.close(now, shop, true);
        let slot = self.recovery.resolved(number);
        shop.pool.release(slot);
        shop.released = true;
        for (frame, raw) in binary::raw_frames(&kept[HEADER_BYTES..]) {
            match frame {
                Frame::Message(frame) => {
                    let seq = expand(frame.seq, old.first_message);
                    let Some(entry) = self.messages.get_mut(seq).filter(|entry| entry.counts(number)) else {
                        continue;
                    };
                    entry.tries = entry.tries.saturating_add(1);
                    left = true;
                    if HEADER_BYTES + raw.len() > self.datagram_bytes {
                        self.outgrow(now, seq, raw.to_vec());
                        continue;
                    }
                    if self.open.is_none_or(|open| open.at + raw.len() > open.limit) {
                        self.close(now, shop, true);
                        if self.open_packet(now, shop, self.datagram_bytes, self.datagram_bytes).is_err() {
                            if let Some(entry) = self.messages.get_mut(seq) {
                                entry.wait();
                            }
                            let frame = shop.copies.copy(raw);
                            self.again.push_front(Again { seq, frame, not_before: now });
                            continue;
                        }
                    }
                    let Some(open) = &mut self.open else { continue };
                    (open.first_message, open.messages, open.sparse) =
                        (old.first_message, old.messages, true);
                    shop.pool.bytes_mut(open.slot)[open.at..open.at + raw.len()].copy_from_slice(raw);
                    open.at += raw.len();
                }
                Frame::Chunk(frame) => {
                    let (seq, live) = match frame.space {
                        Space::Chunked => {
                            let seq = expand(frame.seq, self.chunked.low());
                            (seq, self.chunked.get_mut(seq).is_some())
                        }
                        Space::Message => {
                            let seq = expand(frame.seq, self.messages.low());
                            (seq, self.messages.get_mut(seq).is_some())
                        }
                    };
                    if live {
                        left = true;
                        let offset = frame.offset as usize;
                        self.cut_range(now, frame.space, seq, offset, offset + frame.bytes.len());
                    }
                }
                // R-CANCEL-1.
                Frame::Cancel(frame) => {
                    let chunked = frame.entries().filter(|entry| entry.0 == Space::Chunked);
                    self.cancels.extend(chunked.map(|entry| GivenUp { seq: entry.1, before: None }));
                    left = true;
                }
                Frame::Skip(frame) => {
                    let given_up = |(_, seq, before)| GivenUp { seq, before: Some(before) };
                    self.cancels.extend(frame.entries().map(given_up));
                    left = true;
                }
                _ => {}
            }
        }
        self.results_again |= is_later(old.results_until, self.results_acked);
        self.close(now, shop, false);
        shop.copies.give_back(kept);
        left
    }

    /// A message in flight whose frame does not fit a datagram any more is cut into chunks from here on. What acknowledges
    /// them says nothing about it: a RESULT ends it (R-MTU-8).
    fn outgrow(&mut self, now: Instant, seq: u64, frame: Vec<u8>) {
        let Some(MessageFrame { payload, .. }) = message_in(&frame) else { return };
        let end = payload.len();
        if !self.outgrown.iter().any(|outgrown| outgrown.seq == seq) {
            self.outgrown.push(Outgrown { seq, frame });
        }
        self.cut_range(now, Space::Message, seq, 0, end);
    }

    fn outgrown(&self, seq: u64) -> Option<MessageFrame<'_>> {
        self.outgrown.iter().find(|outgrown| outgrown.seq == seq).and_then(|it| message_in(&it.frame))
    }

    /// The cuts of the message's class.
    fn cuts_of(&mut self, space: Space, seq: u64) -> &mut VecDeque<Cut> {
        let priority = match space {
            Space::Chunked => {
                let large = self.chunked.get_mut(seq).and_then(|entry| entry.completion.as_ref());
                priority(large.and_then(|large| large.options.as_deref()))
            }
            Space::Message => self.messages.get_mut(seq).map_or(Priority::Normal, |entry| entry.priority()),
        };
        let others = match priority {
            Priority::Normal => None,
            // Not there yet, if the message has never waited.
            Priority::Control | Priority::High | Priority::Low => {
                self.yields = true;
                self.classes.get_or_insert_default().of(priority)
            }
        };
        others.map_or(&mut self.cuts, |queues| &mut queues.cuts)
    }

    /// These bytes of a message are to be cut again, before anything new.
    fn cut_range(&mut self, now: Instant, space: Space, seq: u64, offset: usize, end: usize) {
        let cuts = self.cuts_of(space, seq);
        match cuts.front_mut() {
            Some(cut) if (cut.space, cut.seq, cut.end) == (space, seq, offset) && cut.not_before <= now => {
                cut.end = end;
            }
            _ => cuts.push_front(Cut { space, seq, offset, end, not_before: now }),
        }
    }

    /// All of a message is to be cut, and nothing of it has been since that was so.
    fn is_cut_whole(&mut self, space: Space, seq: u64, end: usize) -> bool {
        let whole = (space, seq, 0, end);
        self.cuts_of(space, seq).iter().any(|cut| (cut.space, cut.seq, cut.offset, cut.end) == whole)
    }

    /// All of a message is to be cut again, later.
    fn cut_all(&mut self, space: Space, seq: u64, end: usize, not_before: Instant) {
        let cuts = self.cuts_of(space, seq);
        cuts.retain(|cut| (cut.space, cut.seq) != (space, seq));
        let place = cuts.partition_point(|cut| cut.not_before <= not_before);
        cuts.insert(place, Cut { space, seq, offset: 0, end, not_before });
    }

    /// Messages the receiver refused for now and whose time has come.
    fn put_again(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
        while let Some(again) = self.again.front() {
            if again.not_before > now {
                break;
            }
            let bytes = again.frame.len();
            let seq = again.seq;
            if self.messages.get_mut(seq).is_none() {
                // It has ended.
            } else if HEADER_BYTES + bytes > self.datagram_bytes {
                let frame = again.frame.to_vec();
                self.outgrow(now, seq, frame);
            } else {
                self.close(now, shop, true);
                self.make_room(now, shop, bytes)?;
                if let (Some(open), Some(again)) = (&mut self.open, self.again.front()) {
                    shop.pool.bytes_mut(open.slot)[open.at..open.at + bytes].copy_from_slice(&again.frame);
                    open.at += bytes;
                    open.first_message = seq;
                    open.messages = 1;
                    if let Some(entry) = self.messages.get_mut(seq) {
                        entry.leaves_again(open.number);
                    }
                }
                self.close(now, shop, false);
            }
            if let Some(Again { frame, .. }) = self.again.pop_front() {
                shop.copies.give_back(frame);
            }
        }
        Ok(())
    }

    fn fill_new(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
        let Some(mut classes) = self.classes.take() else {
            let mut unlimited = u32::MAX;
            return match self.fill_class(now, shop, &mut unlimited)? {
                Served::All | Served::Round => Ok(()),
                Served::Stuck => Err(Blocked::Credit),
            };
        };
        let filled = self.fill_by_class(now, shop, &mut classes);
        self.yields = filled.is_err() && classes.queues().any(|queues| !queues.is_empty());
        self.classes = Some(classes);
        filled
    }

    /// New messages of all classes: first the strict one, then rounds of the others (R-PRIORITY-1).
    fn fill_by_class(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        classes: &mut Classes<C>,
    ) -> Result<(), Blocked> {
        let mut unlimited = u32::MAX;
        let control = self.fill_other(now, shop, &mut classes.control, &mut unlimited)?;
        let mut stuck = control == Served::Stuck;
        loop {
            let [high, normal, low] = &mut classes.left;
            let served = [
                self.fill_other(now, shop, &mut classes.high, high)?,
                self.fill_class(now, shop, normal)?,
                self.fill_other(now, shop, &mut classes.low, low)?,
            ];
            stuck |= served.contains(&Served::Stuck);
            if !served.contains(&Served::Round) {
                return if stuck { Err(Blocked::Credit) } else { Ok(()) };
            }
            classes.left = Classes::<C>::ROUND;
        }
    }

    /// As [`fill_class`](Self::fill_class), of another class than the normal one: it takes that one's place meanwhile.
    fn fill_other(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        queues: &mut Queues<C>,
        left: &mut u32,
    ) -> Result<Served, Blocked> {
        if queues.is_empty() {
            return Ok(Served::All);
        }
        self.swap_class(queues);
        let served = self.fill_class(now, shop, left);
        self.swap_class(queues);
        served
    }

    const fn swap_class(&mut self, queues: &mut Queues<C>) {
        std::mem::swap(&mut self.small, &mut queues.small);
        std::mem::swap(&mut self.large, &mut queues.large);
        std::mem::swap(&mut self.cuts, &mut queues.cuts);
        std::mem::swap(&mut self.since_large, &mut queues.since_large);
    }

    /// New messages of one class, until nothing is left or it has opened `left` datagrams.
    fn fill_class(&mut self, now: Instant, shop: &mut Shop<C>, left: &mut u32) -> Result<Served, Blocked> {
        loop {
            let has_large = self.cuts.front().is_some_and(|cut| cut.not_before <= now)
                || (self.large.front().is_some() && self.chunked.next() <= self.credit.chunked);
            let has_small = !self.small.is_empty() && self.credit_for_message();
            if has_large && (!has_small || self.since_large >= LARGE_TURN) {
                if *left == 0 {
                    return Ok(Served::Round);
                }
                self.since_large = 0;
                let next_number = self.recovery.next_number();
                self.write_chunk(now, shop)?;
                let opened = self.recovery.next_number() - next_number;
                *left = left.saturating_sub(opened as u32);
            } else if has_small {
                let Some(next) = self.small.front() else { return Ok(Served::All) };
                let bytes = next.frame_bytes();
                if HEADER_BYTES + bytes > self.datagram_bytes {
                    // The path does not carry it in one piece.
                    self.large.extend(self.small.pop_front());
                    continue;
                }
                if self.open.is_none_or(|open| open.at + bytes > open.limit) {
                    if *left == 0 {
                        return Ok(Served::Round);
                    }
                    *left -= 1;
                    self.since_large += 1;
                }
                self.make_room(now, shop, bytes)?;
                match self.small.pop_front() {
                    Some(Queued { meta, payload, options: None }) => {
                        let write = |space: &mut [u8]| space.copy_from_slice(&payload);
                        self.write_message(now, shop, (payload.len(), write), meta);
                    }
                    Some(message) => self.write_with_options(now, shop, message),
                    None => {}
                }
            } else if self.small.is_empty() && self.large.is_empty() {
                return Ok(Served::All); // The time of cuts that wait will come (`timer_at`).
            } else {
                return Ok(Served::Stuck);
            }
        }
    }

    /// The next piece of a large message, filling a datagram of its own or the rest of the open one (R-LARGE-1).
    fn write_chunk(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
        if self.open.is_some_and(|open| open.chunks >= self.messages_max / 5) {
            self.close(now, shop, true);
        }
        let begins = self.cuts.front().is_none_or(|cut| cut.not_before > now);
        let (rest_bytes, extension_bytes) = match self.cuts.front() {
            Some(&cut) if !begins => (cut.end - cut.offset, self.extension_bytes_of(&cut)),
            _ => {
                let next = self.large.front();
                let options = next.and_then(|next| next.options.as_deref());
                if wants_commit(options) && self.commit_ping_at == Instant::FAR_FUTURE {
                    self.commit_ping_at = now + COMMIT_PING_EVERY;
                }
                (next.map_or(0, |next| next.payload.len()), extension_bytes(options))
            }
        };
        // With what the first one says of the message (R-LARGE-7).
        let least = CHUNK_FRAME_BYTES + LIFETIME_BYTES + extension_bytes + rest_bytes.min(UNIT);
        self.make_room(now, shop, least)?;
        if begins && let Some(Queued { meta, payload, mut options }) = self.large.pop_front() {
            let bytes = payload.len();
            if let Some(Options { lane: Some(lane), priority, .. }) = options.as_deref_mut() {
                let lanes = self.lanes.get_or_insert_default();
                lane.before = lanes.number(lane.number, *priority, self.chunked.next());
            }
            let Meta { completion, tag, accepted_at, deadline } = meta;
            let large = Large { completion, payload, options };
            let meta = Meta { completion: large, tag, accepted_at, deadline };
            let seq = self.chunked.push(Entry::new(now, meta, bytes, 0));
            self.cuts.push_front(Cut { space: Space::Chunked, seq, offset: 0, end: bytes, not_before: now });
        }
        let (Some(cut), Some(open)) = (self.cuts.front_mut(), &mut self.open) else { return Ok(()) };
        // Of one that has outgrown a datagram, what its frame had.
        let whole = match cut.space {
            Space::Chunked => self.chunked.get_mut(cut.seq).and_then(|entry| {
                let Large { payload, options, .. } = entry.completion.as_ref()?;
                Some((&payload[..], options.as_deref(), None, entry.deadline()))
            }),
            Space::Message => self.messages.get_mut(cut.seq).and_then(|entry| {
                let outgrown = self.outgrown.iter().find(|outgrown| outgrown.seq == cut.seq)?;
                let frame = message_in(&outgrown.frame)?;
                Some((frame.payload, None, Some(frame.extensions), entry.deadline()))
            }),
        };
        let Some((payload, options, extensions, deadline)) = whole else {
            self.cuts.pop_front(); // It has ended.
            return Ok(());
        };
        let rest = &payload[cut.offset..cut.end];
        let room = open.limit - open.at - CHUNK_FRAME_BYTES - extension_bytes;
        // Every one that tells it without carrying a unit less for that does (R-LARGE-7).
        let tells = cut.offset == 0 || room % UNIT >= LIFETIME_BYTES;
        let left_ms = || deadline.ns_since(now).div_ceil(1_000_000).min(u32::MAX.into()) as u32;
        let room = if tells { room - LIFETIME_BYTES } else { room };
        let count = if rest.len() <= room { rest.len() } else { room / UNIT * UNIT };
        let mut writer = Writer::new(&mut shop.pool.bytes_mut(open.slot)[open.at..]);
        // Each has the others: whichever comes first counts (R-BIN-11).
        let mut write = |extensions: &Extensions<'_>| {
            writer.chunk(&ChunkFrame {
                space: cut.space,
                seq: cut.seq as u32,
                offset: cut.offset as u32,
                total: payload.len() as u32,
                extensions: Extensions { lifetime_ms: tells.then(left_ms), ..*extensions },
                bytes: &rest[..count],
            })
        };
        let written = match extensions {
            Some(extensions) => write(&extensions),
            None => with_extensions(options, write),
        };
        debug_assert!(written);
        open.at += writer.at();
        open.chunks += 1;
        cut.offset += count;
        if cut.offset == cut.end {
            self.cuts.pop_front();
        }
        Ok(())
    }

    /// Bytes of what each chunk of a message that is being cut has besides its lifetime.
    fn extension_bytes_of(&mut self, cut: &Cut) -> usize {
        match cut.space {
            Space::Chunked => {
                let large = self.chunked.get_mut(cut.seq).and_then(|entry| entry.completion.as_ref());
                extension_bytes(large.and_then(|large| large.options.as_deref()))
            }
            Space::Message => self.outgrown(cut.seq).map_or(0, |frame| frame.extensions.bytes()),
        }
    }

    /// Space at the end of the open datagram for frames that ride along; `None` if none is open. Returns what `write`
    /// wrote, with the ticket of results that were among it.
    pub fn ride_along(
        &mut self,
        shop: &mut Shop<C>,
        write: impl FnOnce(&mut Writer<'_>) -> Option<u32>,
    ) -> bool {
        let Some(open) = &mut self.open else { return false };
        let bytes = &mut shop.pool.bytes_mut(open.slot)[open.at..open.limit];
        let mut writer = Writer::new(bytes);
        match write(&mut writer) {
            Some(results_until) => {
                open.at += writer.at();
                open.results_until = later(open.results_until, results_until);
                self.results_tracked = later(self.results_tracked, results_until);
                true
            }
            None => false,
        }
    }

    /// The last datagram of this turn ends here.
    pub fn finish_turn(&mut self, now: Instant, shop: &mut Shop<C>) {
        self.close(now, shop, false);
    }

    /// Results have to reach the peer, and nothing else is going there: an empty datagram to carry them, whatever credit
    /// there is (R-CREDIT-6).
    pub fn open_for_control(&mut self, now: Instant, shop: &mut Shop<C>) -> bool {
        let full = self.datagram_bytes;
        self.open.is_some() || self.open_packet(now, shop, full, full).is_ok()
    }

    /// Sends what `path_mtu` wants to know the fate of: PING and LOW, and padding (R-MTU-3). Behind everything else of this
    /// turn; whatever credit and window there is (R-CREDIT-6).
    pub fn probe_path(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) {
        if !self.path_mtu.is_due(now) {
            return;
        }
        // Results have to get through as well, and may be long; but for them alone nothing is searched.
        let searches = !self.has_no_operations();
        if !searches && self.recovery.in_flight_packets() == 0 {
            return;
        }
        self.close(now, shop, false);
        while let Some(probe) = self.path_mtu.poll(now) {
            if matches!(probe, Probe::Search(_)) && !searches {
                return;
            }
            let bytes = match probe {
                Probe::Search(bytes) | Probe::Full(bytes) => bytes.into(),
                Probe::Short => DATAGRAM_BYTES_MIN,
            };
            // A search tries many lengths: all of it is in blocks of its own, or data would be scattered.
            let stride = match probe {
                Probe::Search(_) => bytes.next_multiple_of(SEARCH_STRIDE),
                Probe::Full(_) | Probe::Short => self.datagram_bytes,
            };
            if self.open_packet(now, shop, bytes, stride).is_err() {
                // A search waits. But what is lost may be what has all the memory: a PING needs none, and whether it comes
                // through where that does not is what there is to find out (R-LOSS-11).
                self.ping_due |= self.path_mtu.give_up_confirmation();
                return;
            }
            let (low, ping) = (self.low(), PingFrame { data: self.nonce, demand: 0 });
            self.ride_along(shop, |writer| {
                let low = writer.low(&LowFrame { messages: low.0, chunked: low.1 });
                (low && writer.ping(&ping)).then_some(0)
            });
            let Some(open) = &mut self.open else { return };
            shop.pool.bytes_mut(open.slot)[open.at..bytes].fill(0);
            (open.at, open.path_probe) = (bytes, true);
            self.path_mtu.sent(probe, open.number);
            self.close(now, shop, false);
            counters.path_probes_sent += 1;
        }
    }

    /// A PING is due, and there is no memory left to keep it in: its frames, for a datagram of `bytes` bytes whose number is
    /// returned, and which is watched all the same (R-LOSS-11).
    pub fn write_lone_ping(
        &mut self,
        now: Instant,
        bytes: usize,
        waiting: u32,
        writer: &mut Writer<'_>,
    ) -> u64 {
        self.ping_due = false;
        let (messages, chunked) = self.low();
        let written = writer.low(&LowFrame { messages, chunked })
            && writer.ping(&PingFrame { data: self.nonce, demand: waiting });
        debug_assert!(written);
        writer.pad();
        self.track_results(now, bytes, 0)
    }

    /// A PING is due.
    #[must_use]
    pub const fn ping_is_due(&self) -> bool {
        self.ping_due
    }

    /// Writes CANCEL, LOW and PING if they are due.
    pub fn write_control(&mut self, shop: &mut Shop<C>, now: Instant, waiting: u32) {
        let cancelled = !self.cancels.is_empty() && self.write_cancels(shop, now);
        let ping = std::mem::take(&mut self.ping_due);
        // What was cancelled may have been what held LOW back.
        let low_due = cancelled || self.recovery.next_number() >= self.low_told_at + LOW_EVERY;
        if ping && !self.open_for_control(now, shop) {
            self.ping_due = true;
            return;
        }
        if ping || low_due {
            let (low, number) = (self.low(), self.recovery.next_number());
            let nonce = self.nonce;
            let write = |writer: &mut Writer<'_>, ping: bool| {
                let low = writer.low(&LowFrame { messages: low.0, chunked: low.1 });
                (low && (!ping || writer.ping(&PingFrame { data: nonce, demand: waiting }))).then_some(0)
            };
            let mut written = self.ride_along(shop, |writer| write(writer, ping));
            let overdue = low != self.low_told && number >= self.low_told_at + LOW_AT_LEAST_EVERY;
            if !written && (ping || overdue) {
                // Under a flood the last datagram of a turn is full, like all others. LOW alone would not be acknowledged.
                self.close(now, shop, true);
                written =
                    self.open_for_control(now, shop) && self.ride_along(shop, |writer| write(writer, true));
            }
            if written {
                (self.low_told_at, self.low_told) = (number, low);
            }
            self.ping_due |= ping && !written;
        }
    }

    /// Tells the receiver what was given up, as much as one datagram takes beside LOW (R-CANCEL-1). False: no memory for it.
    #[cold]
    fn write_cancels(&mut self, shop: &mut Shop<C>, now: Instant) -> bool {
        let kinds = [(false, binary::CANCEL_ENTRY_BYTES), (true, binary::SKIP_ENTRY_BYTES)];
        let has = |laned: bool| self.cancels.iter().any(|given_up| given_up.before.is_some() == laned);
        let kinds = kinds.map(|(laned, entry_bytes)| (laned, entry_bytes, has(laned)));
        // A frame of each kind there is.
        let least = |(_, entry_bytes, has)| if has { binary::FRAME_BYTES + entry_bytes } else { 0 };
        let mut behind = BESIDE_CANCEL_BYTES + kinds.map(least).iter().sum::<usize>();
        if self.open.is_some_and(|open| open.at + behind > open.limit) {
            self.close(now, shop, true);
        }
        if !self.open_for_control(now, shop) {
            return false;
        }
        for (laned, entry_bytes, _) in kinds.into_iter().filter(|kind| kind.2) {
            let is_it = |given_up: &GivenUp| given_up.before.is_some() == laned;
            let Some(open) = &self.open else { return false };
            behind -= binary::FRAME_BYTES + entry_bytes;
            let fit = (open.limit - open.at - binary::FRAME_BYTES - behind) / entry_bytes;
            let mut told = Vec::new();
            self.cancels.retain(|given_up| {
                let tells = is_it(given_up) && told.len() < fit;
                if tells {
                    told.push(*given_up);
                }
                !tells
            });
            let names = told.iter().map(|given_up| (Space::Chunked, given_up.seq));
            self.ride_along(shop, |writer| {
                let written = if laned {
                    let before = told.iter().map(|given_up| given_up.before.unwrap_or(0));
                    let entries: Vec<_> =
                        names.zip(before).map(|((space, seq), n)| (space, seq, n)).collect();
                    writer.skips(&entries)
                } else {
                    writer.cancels(&names.collect::<Vec<_>>())
                };
                written.then_some(0)
            });
        }
        true
    }

    /// Datagrams' worth of messages that wait: what we ask credit for.
    #[must_use]
    pub fn demand(&self) -> u32 {
        let classes = || self.classes.iter().flat_map(|classes| classes.queues());
        let small = || self.small.iter().chain(classes().flat_map(|queues| &queues.small));
        let large = self.large.iter().chain(classes().flat_map(|queues| &queues.large));
        let small_bytes: usize = small().take(4_096).map(Queued::frame_bytes).sum();
        let large_bytes: usize = large.take(64).map(|next| next.payload.len()).sum();
        let some = usize::from(small().next().is_some());
        ((small_bytes + large_bytes) / self.datagram_bytes.max(1) + some) as u32
    }

    /// Takes an ACK (R-OUTCOME-1).
    ///
    /// # Errors
    /// It acknowledges what was never sent (R-PN-5).
    pub fn handle_ack(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        ack: &AckFrame<'_>,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let mut passed = self.path_mtu.passed();
        let Self { recovery, messages, results_acked, .. } = self;
        let delay = Duration::from_micros(ack.delay_us().into());
        let mut delivered = 0;
        let mut bytes = 0;
        let acked = recovery.handle_ack(now, ack.largest(), delay, ack.ranges(), |number, sent| {
            // Into locals: what the closure borrows would be loaded and stored for each message.
            let (mut ended, mut ended_bytes, now) = (0, 0, now);
            let Shop { finished, pool, .. } = shop;
            finished.reserve(sent.messages as usize);
            let end = |completion, entry: &Entry<C>| {
                ended += 1;
                ended_bytes += u64::from(entry.payload_bytes);
                let payload_bytes = entry.payload_bytes.into();
                finished.push(delivered_op(now, completion, entry, payload_bytes, Level::Accepted));
            };
            if sent.sparse {
                let counts = |seq, entry: &Entry<C>| entry.counts(number) && carries(pool, sent, seq);
                messages.take_run(sent.first_message, sent.messages, counts, end);
            } else {
                messages.take_run(sent.first_message, sent.messages, |_, entry| entry.counts(number), end);
            }
            delivered += ended;
            bytes += ended_bytes;
            passed.add(number, sent.bytes);
            *results_acked = later(*results_acked, sent.results_until);
            if sent.slot != Slot::NONE {
                shop.pool.release(std::mem::replace(&mut sent.slot, Slot::NONE));
                shop.released = true;
            }
        })?;
        self.messages.settle();
        shop.ops_in_use -= delivered;
        counters.messages_delivered += delivered as u64;
        counters.message_bytes_delivered += bytes;
        for _ in 0..acked.spurious {
            self.congestion.on_spurious_loss(now);
        }
        if acked.packets > 0 {
            self.retransmissions = (self.retransmissions + acked.packets).min(RETRANSMISSIONS_MAX);
            let rtt = *self.recovery.rtt();
            self.congestion.on_ack(
                now,
                &AckSample {
                    acked_bytes: acked.bytes,
                    newest_sent_at: acked.newest_sent_at,
                    largest_packet: ack.largest(),
                    next_packet: self.recovery.next_number(),
                    rtt: acked.rtt,
                    min_rtt: rtt.min(),
                    smoothed_rtt: rtt.smoothed(),
                    delivered_bytes: self.recovery.delivered_bytes(),
                    delivery_rate: acked.rate.map(|rate| rate.bytes_per_s),
                    in_flight: self.recovery.in_flight(),
                    app_limited: acked.rate.is_none_or(|rate| rate.app_limited),
                    ecn_ce: 0,
                },
            );
        }
        if self.path_mtu.on_acked(now, passed) {
            self.follow_path();
        }
        self.detect(now, counters);
        self.window = self.congestion.window_bytes().min(WINDOW_BYTES_MAX);
        self.pacer.set_rate(now, self.congestion.pacing_bytes_per_s());
        Ok(())
    }

    fn detect(&mut self, now: Instant, counters: &mut Counters) {
        self.look_again();
        let Self { recovery, lost, congestion, path_mtu, .. } = self;
        let (next_number, falls) = (recovery.next_number(), counters.path_mtu_falls);
        let losses = recovery.detect(now, |packet| {
            lost.push_back(packet.number);
            count_loss(path_mtu.on_lost(now, packet, next_number), counters);
        });
        if losses.packets > 0 {
            congestion.on_loss(
                now,
                &LossSample {
                    lost_bytes: losses.bytes,
                    lost_packets: losses.packets,
                    largest_lost_sent_at: losses.largest_sent_at,
                    largest_lost: losses.largest,
                    next_packet: recovery.next_number(),
                    in_flight: recovery.in_flight(),
                    persistent: losses.persistent,
                },
            );
            self.window = self.congestion.window_bytes().min(WINDOW_BYTES_MAX);
        }
        if counters.path_mtu_falls != falls {
            self.follow_path();
        }
    }

    /// Datagrams of a train did not leave (R-LOSS-7).
    pub fn handle_unsent(&mut self, first: u64, count: usize) {
        self.look_again();
        for number in first..first + count as u64 {
            if self.recovery.unsent(number) {
                self.path_mtu.on_unsent(number);
                self.lost.push_back(number);
                // It was never out there: not to be held against the flow.
                self.retransmissions = (self.retransmissions + 1).min(RETRANSMISSIONS_MAX);
            }
        }
    }

    /// The kernel did not take datagrams of up to `bytes` bytes, because the interface takes no such (R-MTU-5). False if that
    /// cannot be helped: they count as lost when their time comes.
    pub fn handle_too_long(
        &mut self,
        now: Instant,
        first: u64,
        count: usize,
        bytes: usize,
        counters: &mut Counters,
    ) -> bool {
        let before = self.datagram_bytes;
        // Those that confirm what is in use are no longer than that.
        let search =
            self.recovery.get(first).is_some_and(|sent| sent.path_probe && sent.bytes as usize > before);
        if !self.path_mtu.on_too_long(now, first, bytes as u32, self.recovery.next_number()) {
            return false;
        }
        self.follow_path();
        counters.path_probes_lost += u64::from(search);
        counters.path_mtu_falls += u64::from(self.datagram_bytes < before);
        self.handle_unsent(first, count);
        true
    }

    /// Takes a grant that came in datagram `number` of the peer's: the latest counts (R-CREDIT-2).
    pub fn handle_grant(&mut self, now: Instant, number: u64, grant: &GrantFrame) {
        let credit = &mut self.credit;
        if number < credit.told_in {
            return;
        }
        if grant.packets > credit.packets
            || grant.messages > credit.messages
            || grant.chunked > credit.chunked
        {
            self.pings = 0;
            self.ping_at = now;
        }
        credit.told_in = number;
        credit.packets = grant.packets;
        credit.lease_until = now + Duration::from_micros(grant.lease_us.into());
        credit.messages = credit.messages.max(grant.messages);
        credit.chunked = credit.chunked.max(grant.chunked);
    }

    /// Takes one result: it comes before the ACK of the same datagram (R-OUTCOME-2, R-OUTCOME-5).
    pub fn handle_result(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        (space, seq, code): (Space, u64, ResultCode),
        counters: &mut Counters,
    ) {
        match space {
            Space::Message => self.handle_small_result(now, shop, seq, code, counters),
            Space::Chunked => self.handle_large_result(now, shop, seq, code, counters),
        }
    }

    fn handle_small_result(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        seq: u64,
        code: ResultCode,
        counters: &mut Counters,
    ) {
        let Some(entry) = self.messages.get_mut(seq) else { return };
        if !code.is_refusal() {
            // The ACK says so as well (R-OUTCOME-1), unless it came in chunks (R-MTU-8).
            if let Some((completion, entry)) = self.messages.take(seq) {
                let bytes = entry.payload_bytes.into();
                shop.ops_in_use -= 1;
                counters.messages_delivered += 1;
                counters.message_bytes_delivered += u64::from(bytes);
                shop.finished.push(delivered_op(now, completion, entry, bytes, Level::Accepted));
                self.messages.settle();
            }
            return;
        }
        if !code.is_retryable() {
            return self.fail_small(shop, seq, refusal(code), counters);
        }
        let (left, tries) = (entry.deadline().since(now), entry.tries);
        let waited = entry.waits();
        entry.wait();
        if let Some(end) = self.outgrown(seq).map(|frame| frame.payload.len()) {
            if self.is_cut_whole(Space::Message, seq, end) {
                return; // It waits already.
            }
            if let Some(entry) = self.messages.get_mut(seq) {
                entry.tries = tries.saturating_add(1);
            }
            let wait = shop.retries.refused_wait(self.identity.to, tries.into(), left);
            return self.cut_all(Space::Message, seq, end, now + wait);
        }
        if waited {
            return; // It has been refused already.
        }
        let wait = shop.retries.refused_wait(self.identity.to, tries.into(), left);
        // The datagram is still there: what acknowledges it comes after the result.
        match self.frame_of(&shop.pool, seq) {
            Some(frame) => {
                let frame = shop.copies.copy(frame);
                // In the order of their times: who was refused often does not hold up the others.
                let not_before = now + wait;
                let place = self.again.partition_point(|next| next.not_before <= not_before);
                self.again.insert(place, Again { seq, frame, not_before });
            }
            // Its datagram was acknowledged before: the result came too late to matter, and cannot be obeyed.
            None => self.fail_small(shop, seq, refusal(code), counters),
        }
    }

    /// The frame of a message in flight; `None` if the datagrams that carried it are acknowledged.
    fn frame_of<'a>(&self, pool: &'a PacketPool, seq: u64) -> Option<&'a [u8]> {
        self.recovery.carriers(seq).find_map(|sent| {
            let bytes = pool.bytes(sent.slot);
            let mut frames = binary::raw_frames(&bytes[HEADER_BYTES..sent.bytes as usize]);
            let is_it = |frame: &Frame<'_>| matches!(frame, Frame::Message(frame) if frame.seq == seq as u32);
            frames.find(|(frame, _)| is_it(frame)).map(|(_, raw)| raw)
        })
    }

    /// Operations first transmitted at `since` or later are as if they never were: they wait again, in front of the others.
    pub fn take_back(&mut self, now: Instant, shop: &mut Shop<C>, since: Instant) {
        self.close(now, shop, false);
        let young: Vec<u64> =
            self.messages.live().filter(|op| op.1.first_sent_at() >= since).map(|op| op.0).collect();
        for seq in young.into_iter().rev() {
            let waits = self.again.iter().find(|again| again.seq == seq).map(|again| &again.frame[..]);
            let outgrown = self.outgrown.iter().find(|outgrown| outgrown.seq == seq).map(|it| &it.frame[..]);
            let raw = outgrown.or(waits).or_else(|| self.frame_of(&shop.pool, seq));
            let Some(frame) = raw.and_then(message_in) else { continue };
            if let Some((completion, entry)) = self.messages.take(seq) {
                let (meta, priority) = (entry.meta(completion), entry.priority());
                let mut options = options(&frame.extensions);
                if priority != Priority::Normal {
                    options.get_or_insert_default().priority = priority;
                }
                let payload = Bytes::copy_from_slice(frame.payload);
                let [queue, _] = self.queues_of(priority);
                queue.push_front(Queued { meta, payload, options });
            }
        }
        self.messages.settle();
        let young: Vec<u64> =
            self.chunked.live().filter(|op| op.1.first_sent_at() >= since).map(|op| op.0).collect();
        for seq in young.into_iter().rev() {
            if let Some((Large { completion, payload, options }, entry)) = self.chunked.take(seq) {
                let meta = entry.meta(completion);
                let [_, queue] = self.queues_of(priority(options.as_deref()));
                queue.push_front(Queued { meta, payload, options });
            }
        }
        self.chunked.settle();
    }

    fn handle_large_result(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        seq: u64,
        code: ResultCode,
        counters: &mut Counters,
    ) {
        let Some(entry) = self.chunked.get_mut(seq) else { return };
        if code.is_refusal() && code.is_retryable() {
            // Nothing of it is there: from the start again, and later, also if it is just being cut.
            let (left, tries) = (entry.deadline().since(now), entry.tries);
            let end = entry.completion.as_ref().map_or(0, |large| large.payload.len());
            if self.is_cut_whole(Space::Chunked, seq, end) {
                return; // It waits already.
            }
            if let Some(entry) = self.chunked.get_mut(seq) {
                entry.tries = tries.saturating_add(1);
            }
            let wait = shop.retries.refused_wait(self.identity.to, tries.into(), left);
            return self.cut_all(Space::Chunked, seq, end, now + wait);
        }
        if code.is_refusal() {
            return self.fail_large(shop, seq, refusal(code), counters);
        }
        let large = entry.completion.as_ref();
        let waits = large.is_some_and(|large| wants_commit(large.options.as_deref()));
        if waits && code != ResultCode::Committed {
            return; // It is the application's, which has not said its word yet.
        }
        let level = if waits { Level::Committed } else { Level::Accepted };
        // R-OUTCOME-3: nothing else ends it so.
        if let Some((Large { completion, payload, .. }, entry)) = self.chunked.take(seq) {
            let bytes = payload.len() as u32;
            shop.ops_in_use -= 1;
            counters.messages_delivered += 1;
            counters.message_bytes_delivered += u64::from(bytes);
            shop.finished.push(delivered_op(now, completion, entry, bytes, level));
            self.chunked.settle();
        }
    }

    fn fail_small(&mut self, shop: &mut Shop<C>, seq: u64, cause: FailureCause, counters: &mut Counters) {
        if let Some((completion, entry)) = self.messages.take(seq) {
            let (tag, bytes) = (entry.tag, entry.payload_bytes.into());
            finish(shop, completion, tag, bytes, cause, Reached::Unknown, counters);
            self.messages.settle();
        }
    }

    fn fail_large(&mut self, shop: &mut Shop<C>, seq: u64, cause: FailureCause, counters: &mut Counters) {
        if let Some((Large { completion, payload, .. }, entry)) = self.chunked.take(seq) {
            let (tag, bytes) = (entry.tag, payload.len() as u32);
            finish(shop, completion, tag, bytes, cause, Reached::Unknown, counters);
            self.chunked.settle();
            self.retain_cuts(|cut| (cut.space, cut.seq) != (Space::Chunked, seq));
        }
    }

    /// Ends every transmitted operation for which `ends` holds: it sees completion and deadline.
    fn fail_transmitted(
        &mut self,
        shop: &mut Shop<C>,
        cause: FailureCause,
        counters: &mut Counters,
        mut ends: impl FnMut(&C, Instant) -> bool,
    ) {
        let mut numbers: Vec<u64> = Vec::new();
        let due = |(seq, entry): (u64, &Entry<C>), ends: &mut dyn FnMut(&C, Instant) -> bool| {
            entry
                .completion
                .as_ref()
                .is_some_and(|completion| ends(completion, entry.deadline()))
                .then_some(seq)
        };
        numbers.extend(self.messages.live().filter_map(|op| due(op, &mut ends)));
        for &seq in &numbers {
            self.fail_small(shop, seq, cause, counters);
        }
        let given_up = |(seq, entry): (u64, &Entry<Large<C>>)| {
            let large = entry.completion.as_ref()?;
            let before = lane(large.options.as_deref()).map(|lane| lane.before);
            ends(&large.completion, entry.deadline()).then_some(GivenUp { seq, before })
        };
        let mut given_up: Vec<GivenUp> = self.chunked.live().filter_map(given_up).collect();
        for &GivenUp { seq, .. } in &given_up {
            self.fail_large(shop, seq, cause, counters);
        }
        // The receiver may hold a part of them, or have others wait for them. Of a small message there are no parts, and
        // nothing is sent again.
        self.cancels.append(&mut given_up);
    }

    /// Ends every waiting operation for which `ends` holds.
    fn fail_waiting(
        &mut self,
        shop: &mut Shop<C>,
        cause: FailureCause,
        counters: &mut Counters,
        mut ends: impl FnMut(&C, Instant) -> bool,
    ) {
        for queue in waiting_mut(&mut self.small, &mut self.large, &mut self.classes) {
            let mut index = 0;
            while index < queue.len() {
                if !ends(&queue[index].meta.completion, queue[index].meta.deadline) {
                    index += 1;
                } else if let Some(Queued { meta, payload, .. }) = queue.remove(index) {
                    let bytes = payload.len() as u32;
                    finish(shop, meta.completion, meta.tag, bytes, cause, Reached::Never, counters);
                }
            }
        }
    }

    /// Ends operations at their owner's wish.
    pub fn cancel(&mut self, shop: &mut Shop<C>, counters: &mut Counters, is_it: impl Fn(&C) -> bool) {
        self.fail_waiting(shop, FailureCause::Cancelled, counters, |completion, _| is_it(completion));
        self.fail_transmitted(shop, FailureCause::Cancelled, counters, |completion, _| is_it(completion));
    }

    /// Ends everything. What was never transmitted ends with `waiting`, the rest with `transmitted`.
    pub fn end(
        &mut self,
        shop: &mut Shop<C>,
        waiting: FailureCause,
        transmitted: FailureCause,
        counters: &mut Counters,
    ) {
        self.fail_waiting(shop, waiting, counters, |_, _| true);
        self.end_transmitted(shop, transmitted, counters);
    }

    /// Ends everything that was transmitted and gives its memory back. What waits can go over to another flow.
    pub fn end_transmitted(&mut self, shop: &mut Shop<C>, cause: FailureCause, counters: &mut Counters) {
        self.leave_rest(shop);
        self.fail_transmitted(shop, cause, counters, |_, _| true);
        if let Some(open) = self.open.take() {
            shop.pool.release(open.slot);
            self.recovery.close_unused(open.number);
        }
        // Taken out: a flow may be ended twice.
        self.recovery.take_slots(|slot| {
            shop.pool.release(slot);
            shop.released = true;
        });
        self.lost.clear();
        self.forget_refused(shop);
        self.retain_cuts(|_| false);
        self.outgrown.clear();
        self.cancels.clear();
        (self.probes_due, self.ping_due, self.results_again) = (0, false, false);
    }

    /// What was refused for now has ended.
    fn forget_refused(&mut self, shop: &mut Shop<C>) {
        for Again { frame, .. } in self.again.drain(..) {
            shop.copies.give_back(frame);
        }
    }

    /// Ends everything: the peer takes nothing more (R-CLOSE-3). Beyond the numbers it names it has taken nothing.
    pub fn end_closed(&mut self, shop: &mut Shop<C>, last: &CloseFrame, counters: &mut Counters) {
        let cause = FailureCause::Refused(Refusal::Closing);
        let beyond: Vec<u64> =
            self.messages.live().map(|(seq, _)| seq).filter(|&seq| seq > last.messages).collect();
        for seq in beyond {
            if let Some((completion, entry)) = self.messages.take(seq) {
                let (tag, bytes) = (entry.tag, entry.payload_bytes.into());
                finish(shop, completion, tag, bytes, cause, Reached::Never, counters);
            }
        }
        let beyond: Vec<u64> =
            self.chunked.live().map(|(seq, _)| seq).filter(|&seq| seq > last.chunked).collect();
        for seq in beyond {
            if let Some((Large { completion, payload, .. }, entry)) = self.chunked.take(seq) {
                let (tag, bytes) = (entry.tag, payload.len() as u32);
                finish(shop, completion, tag, bytes, cause, Reached::Never, counters);
            }
        }
        self.messages.settle();
        self.chunked.settle();
        self.end(shop, cause, cause, counters);
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

    fn retain_cuts(&mut self, wanted: impl Fn(&Cut) -> bool) {
        self.cuts.retain(&wanted);
        for queues in self.classes.iter_mut().flat_map(|classes| classes.queues_mut()) {
            queues.cuts.retain(&wanted);
        }
    }

    /// Moves what waits to a flow that takes this one's place (R-FLOW-4, R-RESTART-1).
    pub fn hand_over(&mut self, to: &mut Self) {
        to.look_again();
        to.small.append(&mut self.small);
        to.large.append(&mut self.large);
        if let Some(classes) = &mut self.classes
            && classes.queues().any(|queues| !queues.is_empty())
        {
            let heirs = to.classes.get_or_insert_default();
            for (queues, heir) in classes.queues_mut().zip(heirs.queues_mut()) {
                heir.small.append(&mut queues.small);
                heir.large.append(&mut queues.large);
            }
            to.yields = true;
        }
        if let Some(lanes) = self.lanes.take() {
            lanes.hand_over(to.lanes.get_or_insert_default());
        }
        to.expires_at = to.expires_at.min(self.expires_at);
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

    /// Messages that wait, all of them.
    pub fn take_waiting(&mut self, mut take: impl FnMut(Queued<C>), wanted: impl Fn(&Queued<C>) -> bool) {
        for queue in waiting_mut(&mut self.small, &mut self.large, &mut self.classes) {
            for message in std::mem::take(queue) {
                if wanted(&message) {
                    take(message);
                } else {
                    queue.push_back(message);
                }
            }
        }
    }

    /// Deadlines and retransmission timers. Returns true if there is something to send.
    pub fn handle_timers(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) -> bool {
        if now >= self.expires_at {
            self.fail_waiting(shop, FailureCause::Expired, counters, |_, deadline| deadline <= now);
            self.fail_transmitted(shop, FailureCause::Expired, counters, |_, deadline| deadline <= now);
            self.expires_at = self.earliest_deadline().max(now + EXPIRY_GRAIN);
        }
        if now >= self.commit_ping_at {
            self.keep_known(now);
        }
        match self.recovery.handle_timeout(now, shop.heard_until) {
            Timeout::None => {}
            Timeout::Late => self.detect(now, counters),
            Timeout::Probe if self.lapses && now.since(self.vouched_at()) >= self.recovery.silence_max() => {
                self.suspend(now);
            }
            Timeout::Probe if !shop.probes.has(now) => self.recovery.put_off_probe(),
            Timeout::Probe => {
                shop.probes.spend();
                self.look_again();
                self.probes_due += 1;
                self.probe_with_oldest(now, counters);
            }
        }
        !self.lost.is_empty()
            || self.control_is_due()
            || (self.asks && self.ping_at <= now)
            || self.paced_until <= now
            || self.again.front().is_some_and(|next| next.not_before <= now)
            || self.all_cuts().any(|cuts| cuts.front().is_some_and(|cut| cut.not_before <= now))
    }

    /// While a commit is waited for, the peer must not forget the flow, and whether it is still there must come out.
    fn keep_known(&mut self, now: Instant) {
        let waits = self.chunked.live().any(|(_, entry)| {
            entry.completion.as_ref().is_some_and(|large| wants_commit(large.options.as_deref()))
        });
        if !waits {
            self.commit_ping_at = Instant::FAR_FUTURE;
            return;
        }
        self.commit_ping_at = now + COMMIT_PING_EVERY;
        if self.lapses && now.since(self.vouched_at()) >= PROVEN_FOR {
            self.suspend(now);
        } else {
            self.ping_due = true;
        }
    }

    /// Large messages that are being cut, by priority.
    fn all_cuts(&self) -> impl Iterator<Item = &VecDeque<Cut>> {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        std::iter::once(&self.cuts).chain(classes.map(|queues| &queues.cuts))
    }

    fn earliest_deadline(&self) -> Instant {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        let others = classes.flat_map(|queues| queues.small.iter().chain(&queues.large));
        let waiting = self.small.iter().chain(&self.large).chain(others).map(|next| next.meta.deadline);
        let messages = self.messages.live().map(|(_, entry)| entry.deadline());
        let chunked = self.chunked.live().map(|(_, entry)| entry.deadline());
        waiting.chain(messages).chain(chunked).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// When [`handle_timers`](Self::handle_timers) has something to do.
    #[must_use]
    pub fn timer_at(&self, now: Instant) -> Option<Instant> {
        let mut at = self.expires_at.min(self.commit_ping_at);
        if let Some(timeout) = self.recovery.timeout_at() {
            // One that waits for what may have come is looked at again soon.
            at = at.min(if timeout > now { timeout } else { now + self.recovery.backed_off() / 2 });
        }
        // What may leave already is not waited for: an acknowledgement, or credit, is.
        if let Some(again) = self.again.front().filter(|again| again.not_before > now) {
            at = at.min(again.not_before);
        }
        for cuts in self.all_cuts() {
            if let Some(cut) = cuts.get(cuts.partition_point(|cut| cut.not_before <= now)) {
                at = at.min(cut.not_before);
            }
        }
        if self.asks && self.ping_at > now {
            at = at.min(self.ping_at);
        }
        if self.paced_until >= now {
            at = at.min(self.paced_until);
        }
        (at < Instant::FAR_FUTURE).then_some(at)
    }

    /// A PING or a CANCEL is to leave, or found no memory.
    #[must_use]
    pub const fn control_is_due(&self) -> bool {
        self.ping_due || !self.cancels.is_empty()
    }

    /// A datagram with results, or without any with PING, and whose bytes are not kept, leaves: if it is lost, what it
    /// carried goes again.
    pub fn track_results(&mut self, now: Instant, bytes: usize, results_until: u32) -> u64 {
        if self.recovery.in_flight_packets() == 0 && self.heard_at >= self.asked_at {
            self.asked_at = now;
        }
        let number = self.recovery.take_number(now, Fate::Open);
        self.recovery.sent(
            number,
            Sent {
                sent_at: now,
                rate: Default::default(),
                slot: Slot::NONE,
                bytes: bytes as u32,
                first_message: self.messages.next(),
                messages: 0,
                results_until,
                fate: Fate::InFlight,
                sparse: false,
                path_probe: false,
                probed: false,
            },
        );
        self.results_tracked = later(self.results_tracked, results_until);
        number
    }

    /// Asks for credit: at once, and then as probes are sent, backing off (R-CREDIT-5).
    pub fn ask_for_credit(&mut self, now: Instant) {
        self.asks = now < self.ping_at;
        if self.asks {
            return;
        }
        self.ping_due = true;
        let wait = self.recovery.rtt().probe_timeout().saturating_mul(1 << self.pings.min(10));
        self.ping_at = now + wait.min(Duration::from_secs(1));
        self.pings += 1;
    }

    /// Asks for a PING with the next datagrams.
    pub fn want_ping(&mut self) {
        self.ping_due = true;
    }

    /// A datagram that carried results was lost, and they have not been heard of since.
    #[must_use]
    pub const fn take_results_again(&mut self) -> bool {
        std::mem::replace(&mut self.results_again, false)
    }

    /// They did not leave, if they were to be said `again`.
    pub const fn want_results_again(&mut self, again: bool) {
        self.results_again |= again;
    }

    /// Whether a datagram that is watched has carried results up to this ticket.
    #[must_use]
    pub const fn has_tracked(&self, ticket: u32) -> bool {
        self.results_tracked.wrapping_sub(ticket).cast_signed() >= 0
    }

    /// The next datagram to be handed to the kernel: its number, where its bytes begin, how many there are.
    #[must_use]
    pub fn next_unsent(&mut self, pool: &PacketPool) -> Option<(u64, usize, usize)> {
        while self.first_unsent < self.recovery.next_number() {
            match self.recovery.get(self.first_unsent) {
                Some(sent) if sent.fate == Fate::InFlight && sent.slot != Slot::NONE => {
                    return Some((self.first_unsent, pool.range(sent.slot).start, sent.bytes as usize));
                }
                _ => self.first_unsent += 1,
            }
        }
        None
    }

    /// Bytes of the open datagram.
    #[inline]
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open.map_or(0, |open| open.at)
    }

    /// Whether a datagram is being filled.
    #[must_use]
    pub const fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// What is put from now on waits for nothing put before.
    pub fn forget_lanes(&mut self) {
        self.lanes = None;
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
        let waiting = (self.small.capacity() + self.large.capacity()) * size_of::<Queued<C>>();
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

/// Everything that waits and was never transmitted.
fn waiting_mut<'a, C>(
    small: &'a mut VecDeque<Queued<C>>,
    large: &'a mut VecDeque<Queued<C>>,
    classes: &'a mut Option<Box<Classes<C>>>,
) -> impl Iterator<Item = &'a mut VecDeque<Queued<C>>> {
    let others = classes.iter_mut().flat_map(|classes| classes.queues_mut());
    [small, large].into_iter().chain(others.flat_map(|queues| [&mut queues.small, &mut queues.large]))
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
