//! The receiving half of one flow: which datagrams and operations have come, what is half there, what the peer has to be
//! told.
//!
//! A datagram is taken whole or not at all (R-PN-2). What it brings is handed over at once; what has to be said about it
//! waits in `results` and in the ranges until [`write_feedback`](Inflow::write_feedback), once a turn.
//!
//! ```text
//!   datagram --> known number? --> room for what may have to be said? --> MESSAGE: window -> application
//!                                                                     '-> CHUNK: window -> assembly -> application
//!   turn's end --> RESULT*, ACK, GRANT                                    (results before the ACK that covers them)
//! ```

use super::chunk_assembly::{Assembly, AssemblyError, AssemblyPool, Stored};
use super::credit::{Credit, Grant, LEASE, Wish};
use super::extras::extras;
use super::flows::Arrived;
use super::lanes::{InLanes, Turn};
use super::op_window::{BlockPool, OpWindow, Seen};
use super::packet_ranges::{Arrival, PacketRanges};
use super::partials::{PARTIALS_MAX, Partial, Partials, Places};
use crate::commit::CommitKey;
use crate::config::Config;
use crate::hash::Seed;
use crate::observe::Counters;
use crate::options::Extras;
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::shares::{Host, Shares};
use crate::units::Instant;
use crate::wire::DropReason;
use crate::wire::binary::{
    self, Bases, CancelFrame, ChunkFrame, CloseFrame, Frame, GrantFrame, HEADER_BYTES, LowFrame, Meta,
    PingFrame, ResultCode, SkipFrame, Space, Summary, Writer, messages,
};
use std::net::SocketAddr;
use std::time::Duration;

mod asleep;

/// Bytes of a receiving half that sleeps.
#[cfg(test)]
pub const ASLEEP_BYTES: usize = size_of::<asleep::Asleep>();

/// Results that wait to be heard of, at most. They all ride with every ACK, so they have to fit beside one (R-OUTCOME-4).
const RESULTS_MAX: usize = 120;
/// Shortest limit of a datagram that can be configured.
const DATAGRAM_BYTES_MIN: usize = 512;

/// Results that fit beside an ACK into a datagram of `datagram_bytes`.
#[must_use]
pub const fn results_max(datagram_bytes: usize) -> usize {
    let bytes = if datagram_bytes < DATAGRAM_BYTES_MIN { DATAGRAM_BYTES_MIN } else { datagram_bytes };
    let fit = (bytes - HEADER_BYTES - FEEDBACK_BYTES_MIN) / binary::RESULT_ENTRY_BYTES;
    if fit < RESULTS_MAX { fit } else { RESULTS_MAX }
}
/// Bytes of the longest message that fits a MESSAGE; its CHUNKs were one once (R-MTU-8).
const ONE_FRAME_MAX: u32 = (binary::DATAGRAM_BYTES_MAX - HEADER_BYTES - binary::MESSAGE_FRAME_BYTES) as u32;
/// Operations of the message space a peer may have in flight (R-ONCE-2).
pub const MESSAGE_WINDOW: u32 = 65_536;
/// Chunked operations a peer may have in flight.
pub const CHUNKED_WINDOW: u32 = 1_024;
/// What a peer may use before it was told its windows (R-ONCE-2): the first grant comes with the first acknowledgement.
pub const FIRST_MESSAGES: u64 = 64;
/// As `FIRST_MESSAGES`, for chunked operations.
pub const FIRST_CHUNKED: u64 = 4;
/// Blocks of dedup bits a shard may use: 4 KiB each (R-ONCE-5).
const BLOCKS_MAX: u32 = 4_096;
/// Refusals a shard may remember.
const REFUSALS_MAX: u32 = 65_536;
/// Both of these: a refusal is at least five to a node of a tree, which has 128 bytes.
pub const DEDUP_BYTES: u64 = BLOCKS_MAX as u64 * 4_096 + REFUSALS_MAX as u64 * 26;

/// Of more messages in parts it is not added up what is missing.
const WANTED_LOOKS: usize = 16;

/// What the receiving halves of a shard share.
#[derive(Debug)]
pub struct InShop {
    blocks: BlockPool,
    assemblies: AssemblyPool,
    /// What peers may have under way to this socket.
    pub credit: Credit,
    message_bytes_max: u32,
    results_max: usize,
    partial_idle_max: Duration,
    /// See [`Inflows::take_gap`].
    gap: bool,
    /// Of [`Partials`].
    places: Places,
    /// Bytes of partial messages that each host has.
    shares: Shares,
}

impl InShop {
    /// Nothing received.
    #[must_use]
    pub fn new(config: &Config, seed: &Seed, buffer_bytes: u64, datagram_bytes: usize) -> Self {
        Self {
            blocks: BlockPool::new(BLOCKS_MAX, REFUSALS_MAX, &seed.hasher()),
            // There is always room for one: its bitmap and its place come on top of its bytes.
            assemblies: AssemblyPool::new(
                config.partial_bytes_max.max(AssemblyPool::charge_bytes(config.message_bytes_max)),
            ),
            credit: Credit::new(buffer_bytes, datagram_bytes),
            message_bytes_max: config.message_bytes_max,
            results_max: results_max(datagram_bytes),
            partial_idle_max: config.partial_idle_max,
            gap: false,
            places: Places::default(),
            shares: Shares::new(config.partial_bytes_max, &seed.hasher()),
        }
    }

    /// What has to be given back before a message of `total` bytes finds room: of all, and of what its sender's host has
    /// (R-SHARE-1).
    fn lacks(&self, host: Host, total: u32) -> u64 {
        self.assemblies.lacks(total).max(self.shares.lacks(host, AssemblyPool::charge_bytes(total)))
    }
}

/// The receiving halves of a shard, by the index of their flow.
#[derive(Debug)]
pub struct Inflows {
    slots: Vec<Option<Box<Inflow>>>,
    asleep: Vec<Option<Box<asleep::Asleep>>>,
    incarnations: u32,
    shop: InShop,
}

impl Inflows {
    /// No flows; see [`InShop::new`].
    #[must_use]
    pub fn new(config: &Config, seed: &Seed, buffer_bytes: u64, datagram_bytes: usize) -> Self {
        let shop = InShop::new(config, seed, buffer_bytes, datagram_bytes);
        Self { slots: Vec::new(), asleep: Vec::new(), incarnations: 0, shop }
    }

    /// Begins to receive on a flow, of a peer at `from`: what the flow takes is its host's (R-SHARE-1).
    pub fn open(&mut self, index: u32, now: Instant, from: SocketAddr, bases: &Bases) {
        self.close(index);
        self.incarnations = self.incarnations.wrapping_add(1);
        let origin = Origin { flow: index, incarnation: self.incarnations };
        let index = index as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(Inflow::new(now, bases, Host::from(from.ip()), origin)));
    }

    /// A flow's receiving half, and what all share.
    #[inline(always)]
    pub fn get(&mut self, index: u32) -> Option<(&mut Inflow, &mut InShop)> {
        if self.slots.get(index as usize)?.is_none() {
            self.wake(index)?;
        }
        let inflow = self.slots.get_mut(index as usize)?.as_deref_mut()?;
        Some((inflow, &mut self.shop))
    }

    /// When something came last on a flow that is awake, from whatever address.
    #[must_use]
    pub fn heard_at(&self, index: u32) -> Instant {
        let inflow = self.slots.get(index as usize).and_then(Option::as_deref);
        inflow.map_or(Instant::default(), |inflow| inflow.heard_at)
    }

    /// Whether a datagram came since the last call that did not follow the one before it, on a flow that has not said so yet.
    #[must_use]
    pub const fn take_gap(&mut self) -> bool {
        std::mem::replace(&mut self.shop.gap, false)
    }

    /// Another turn of the loop: who waits for credit may have his.
    pub fn begin_turn(&mut self, now: Instant) {
        self.shop.credit.begin_turn(now);
    }

    /// A peer says HELLO, or has `proven` its address: others may be on their way.
    pub fn come(&mut self, now: Instant, proven: bool) {
        self.shop.credit.come(now, proven);
    }

    /// When there is more credit without anything that comes.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.shop.credit.rises_at()
    }

    /// A flow that waited for credit and has its turn: its acknowledgement is due, with a GRANT.
    pub fn next_granted(&mut self) -> Option<u32> {
        let index = self.shop.credit.next_waiting()?;
        if let Some(inflow) = self.slots.get_mut(index as usize).and_then(Option::as_deref_mut)
            && inflow.grant.waits()
        {
            inflow.grant.come_first();
            (inflow.ack_due, inflow.is_fresh) = (true, true);
        }
        Some(index)
    }

    /// Forgets a flow.
    pub fn close(&mut self, index: u32) {
        let _ = self.wake(index);
        if let Some(inflow) = self.slots.get_mut(index as usize).and_then(Option::take) {
            inflow.close(&mut self.shop);
        }
    }

    /// The application's word on a message that was handed over. False if nobody waits for it any more.
    pub fn decide(&mut self, key: CommitKey, committed: bool) -> bool {
        // Who sleeps owes no word.
        let Some(Some(inflow)) = self.slots.get_mut(key.flow as usize) else { return false };
        inflow.origin.incarnation == key.incarnation && inflow.decide(key, committed, &self.shop)
    }

    /// Hands over the messages of a datagram that counts; returns the frames behind the messages it begins with.
    #[inline]
    pub fn take<'a>(
        &mut self,
        now: Instant,
        arrived: &Arrived<'a>,
        counters: &mut Counters,
        mut deliver: impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) -> &'a [u8] {
        let &Arrived { index, frames, ref summary, .. } = arrived;
        counters.data_rows_handled += 1;
        if summary.messages + summary.chunks == 0 {
            return frames;
        }
        // Awake, since the datagram counts.
        let Some(inflow) = self.slots.get_mut(index as usize).and_then(Option::as_deref_mut) else {
            return frames;
        };
        let shop = &mut self.shop;
        let mut taken = Taken::default();
        let rest = inflow.take_messages(frames, shop, counters, &mut taken, &mut deliver);
        if !rest.is_empty() && (summary.chunks > 0 || summary.messages > taken.frames) {
            for frame in binary::frames(rest).flatten() {
                match frame {
                    Frame::Message(message) => {
                        let seq = inflow.messages.expand(message.seq);
                        let extras = extras(message.extensions.meta);
                        let message = (seq, message.payload, extras.as_ref());
                        inflow.take_message(message, shop, counters, &mut taken, &mut deliver);
                    }
                    Frame::Chunk(chunk) => {
                        inflow.take_chunk(now, &chunk, shop, counters, &mut taken, &mut deliver);
                    }
                    _ => {}
                }
            }
            if inflow.lanes_due {
                inflow.hand_over_due(shop, counters, &mut taken, &mut deliver);
            }
        }
        counters.messages_received += taken.messages;
        counters.message_bytes_received += taken.bytes;
        rest
    }

    /// Whether something that others of its lane wait for has ended, or something was displaced.
    #[inline]
    #[must_use]
    pub fn lanes_are_due(&mut self, index: u32) -> bool {
        self.get(index).is_some_and(|(inflow, _)| inflow.lanes_due)
    }

    /// Hands over what waited in a lane for something that has ended without being handed over: its sender has given it up
    /// (LOW, SKIP, CANCEL), or it expired here.
    #[cold]
    pub fn hand_over_due(
        &mut self,
        index: u32,
        counters: &mut Counters,
        mut deliver: impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) {
        let Some((inflow, shop)) = self.get(index) else { return };
        if inflow.lanes_due {
            let mut taken = Taken::default();
            inflow.hand_over_due(shop, counters, &mut taken, &mut deliver);
            counters.messages_received += taken.messages;
            counters.message_bytes_received += taken.bytes;
        }
    }

    /// What should have been given back when nothing is under way.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let mut held = Vec::new();
        let mut note = |what: &str, count: u64| {
            if count > 0 {
                held.push(format!("{what} {count}"));
            }
        };
        note("partials", self.partials() as u64);
        note("bytes of partials", self.partial_bytes());
        note("credit reserved", self.shop.credit.reserved());
        held
    }

    /// Bytes of partial messages of all flows.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn partial_bytes(&self) -> u64 {
        self.shop.assemblies.bytes_used()
    }

    /// Partial messages of all flows.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn partials(&self) -> usize {
        self.slots.iter().flatten().map(|inflow| inflow.partials()).sum()
    }
}

/// A message of one frame: its number, its bytes, what came with it.
type Whole<'a> = (u64, &'a [u8], Option<&'a Extras<'a>>);

/// Which of the shard's flows: an index, and which of those that had it.
#[derive(Clone, Copy, Debug)]
struct Origin {
    flow: u32,
    incarnation: u32,
}

/// A message that is the application's, and whose sender waits for its commit. At most as many as the window has numbers.
#[derive(Clone, Copy, Debug)]
struct Undecided {
    seq: u64,
    attempt: u32,
    /// Not told yet.
    word: Option<ResultCode>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    ticket: u32,
    entry: (Space, u64, ResultCode),
}

/// See the module.
#[derive(Debug)]
pub struct Inflow {
    packets: PacketRanges,
    messages: OpWindow,
    chunked: OpWindow,
    partials: Partials,
    undecided: Vec<Undecided>,
    /// Words about these that were given and not told yet.
    untold: u32,
    origin: Origin,
    attempts: u32,
    lanes: Option<Box<InLanes>>,
    results: Vec<Pending>,
    tickets: u32,
    grant: Grant,
    /// An acknowledgement is to leave this turn.
    pub ack_due: bool,
    /// Something that others wait for in a lane may be over.
    lanes_due: bool,
    /// A PING to answer.
    pub pong_due: Option<u64>,
    /// When the latest datagram came.
    pub heard_at: Instant,
    /// When the latest grant was renewed: its lease runs from then on.
    granted_at: Instant,
    /// Something new has come since then, or there is credit for it.
    is_fresh: bool,
    /// New datagrams since it was told last.
    came: u32,
    /// A PING for credit came since then.
    asks: bool,
    /// Nothing but CHUNKs came since then.
    only_chunks: bool,
}

/// What a datagram brought to the application.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    messages: u64,
    bytes: u64,
    /// MESSAGE frames looked at, in the run the datagram begins with.
    frames: u32,
}

impl Inflow {
    /// A flow whose sender starts at `bases`.
    #[must_use]
    fn new(now: Instant, bases: &Bases, host: Host, origin: Origin) -> Self {
        Self {
            packets: PacketRanges::new(bases.packet_number),
            messages: OpWindow::new(bases.messages, MESSAGE_WINDOW, host),
            chunked: OpWindow::new(bases.chunked, CHUNKED_WINDOW, host),
            partials: Partials::default(),
            undecided: Vec::new(),
            untold: 0,
            origin,
            attempts: 0,
            lanes: None,
            results: Vec::new(),
            tickets: 0,
            grant: Grant::default(),
            ack_due: false,
            lanes_due: false,
            pong_due: None,
            heard_at: now,
            granted_at: now,
            is_fresh: false,
            came: 0,
            asks: false,
            only_chunks: true,
        }
    }

    /// Gives everything back.
    pub fn close(mut self, shop: &mut InShop) {
        shop.credit.close(&mut self.grant, self.origin.flow);
        let host = self.chunked.host();
        self.messages.close(&mut shop.blocks);
        self.chunked.close(&mut shop.blocks);
        for partial in self.partials.take(&mut shop.places) {
            shop.shares.remove(host, AssemblyPool::charge_bytes(partial.assembly.total()));
            partial.assembly.release(&mut shop.assemblies);
        }
    }

    /// Notes a datagram that is about to be handled.
    ///
    /// # Errors
    /// It came before (and is to be acknowledged again), is too old to tell, or what it brings could not be answered.
    pub fn arrive(
        &mut self,
        now: Instant,
        number: u64,
        summary: &Summary,
        eliciting: bool,
        shop: &mut InShop,
    ) -> Result<(), DropReason> {
        // Every operation in it may have to be refused (R-OUTCOME-4).
        if self.results.len() + (summary.messages + summary.chunks) as usize > shop.results_max {
            return Err(DropReason::BinaryBeyondCredit);
        }
        match self.packets.insert(number) {
            Arrival::New => {}
            Arrival::Duplicate => {
                self.ack_due |= eliciting;
                return Err(DropReason::BinaryDuplicate);
            }
            Arrival::TooOld => return Err(DropReason::BinaryDuplicate),
        }
        self.heard_at = now;
        self.is_fresh = true;
        self.came = self.came.saturating_add(1);
        shop.gap |= self.packets.is_out_of_order();
        shop.credit.arrived(&mut self.grant, number);
        if eliciting {
            self.ack_due = true;
            self.only_chunks &= summary.chunks > 0 && summary.messages == 0;
        }
        Ok(())
    }

    /// It is answered, and may ask for credit (R-CREDIT-5).
    pub const fn handle_ping(&mut self, ping: &PingFrame) {
        self.pong_due = Some(ping.data);
        self.asks |= ping.demand > 0;
    }

    /// Hands over the MESSAGEs a datagram begins with, those without extensions.
    #[inline]
    fn take_messages<'a>(
        &mut self,
        frames: &'a [u8],
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) -> &'a [u8] {
        let mut run = messages(frames);
        let Some((first, _)) = run.clone().next() else { return frames };
        // Numbers in a datagram mostly follow each other: one look at the window for all of them.
        let follows = |&(n, (seq, _)): &(u32, (u32, &[u8]))| seq == first.wrapping_add(n);
        let count = (0..64).zip(run).take_while(follows).count() as u32;
        let first = self.messages.expand(first);
        let new = self.messages.test_and_set_run(first, count, &mut shop.blocks);
        for index in 0..count {
            let Some((_, payload)) = run.next() else { break };
            let seq = first + u64::from(index);
            if new >> index & 1 == 1 {
                self.hand_over((seq, payload, None), shop, counters, taken, deliver);
            } else {
                self.say_again(seq, counters);
            }
        }
        taken.frames = count;
        for (seq, payload) in run.by_ref() {
            let seq = self.messages.expand(seq);
            self.take_message((seq, payload, None), shop, counters, taken, deliver);
            taken.frames += 1;
        }
        run.rest()
    }

    /// Hands one message over.
    fn take_message(
        &mut self,
        message: Whole<'_>,
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) {
        match self.messages.test_and_set(message.0, &mut shop.blocks) {
            Seen::New => self.hand_over(message, shop, counters, taken, deliver),
            _ => self.say_again(message.0, counters),
        }
    }

    #[inline]
    fn hand_over(
        &mut self,
        (seq, payload, extras): Whole<'_>,
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) {
        let verdict = if payload.len() > shop.message_bytes_max as usize {
            counters.drop_part(DropReason::MessageTooLarge);
            if self.messages.refuse(seq, ResultCode::TooLarge as u8, &mut shop.blocks) {
                return self.say(Space::Message, seq, ResultCode::TooLarge);
            }
            self.messages.unmark(seq, &mut shop.blocks);
            return self.say(Space::Message, seq, ResultCode::Busy);
        } else {
            deliver(Payload::Borrowed(payload), extras, counters)
        };
        let code = match verdict {
            Delivery::Accepted => {
                taken.messages += 1;
                taken.bytes += payload.len() as u64;
                return self.retract(Space::Message, seq);
            }
            Delivery::Refused => {
                counters.drop_part(DropReason::Refused);
                ResultCode::Refused
            }
            Delivery::NoRoom => {
                counters.drop_part(DropReason::BucketFull);
                ResultCode::Busy
            }
        };
        self.messages.unmark(seq, &mut shop.blocks);
        self.say(Space::Message, seq, code);
    }

    /// A message that is not new: it was delivered, and its datagram's ACK says so; or whatever it was is said again.
    #[cold]
    fn say_again(&mut self, seq: u64, counters: &mut Counters) {
        match self.messages.check(seq) {
            Seen::Delivered => counters.drop_part(DropReason::Duplicate),
            Seen::Refused(code) => {
                counters.drop_part(DropReason::Duplicate);
                self.say(Space::Message, seq, ResultCode::from_wire(code).unwrap_or(ResultCode::Malformed));
            }
            // The sender has given it up (R-ONCE-3).
            Seen::Below => counters.drop_part(DropReason::Stale),
            // Beyond its window, or no memory to remember it: it must not count as delivered (R-ONCE-5).
            Seen::Beyond | Seen::NoRoom | Seen::New => {
                counters.drop_part(DropReason::DedupFull);
                self.say(Space::Message, seq, ResultCode::Busy);
            }
        }
    }

    /// What was said of an operation before is not true any more.
    fn retract(&mut self, space: Space, seq: u64) {
        if !self.results.is_empty() {
            self.results.retain(|pending| (pending.entry.0, pending.entry.1) != (space, seq));
        }
    }

    fn say(&mut self, space: Space, seq: u64, code: ResultCode) {
        let entry = (space, seq, code);
        // What was said of it before is superseded, and what is said again needs no second place (R-OUTCOME-4).
        self.retract(space, seq);
        self.tickets = self.tickets.wrapping_add(1).max(1); // 0 is none.
        self.results.push(Pending { ticket: self.tickets, entry });
    }

    #[cfg(test)]
    pub fn say_for_test(&mut self, space: Space, seq: u64, code: ResultCode) {
        self.say(space, seq, code);
    }

    /// Takes one chunk (R-LARGE-2, R-LARGE-3).
    fn take_chunk(
        &mut self,
        now: Instant,
        chunk: &ChunkFrame<'_>,
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) {
        let space = chunk.space;
        let window = self.window(space);
        let seq = window.expand(chunk.seq);
        match window.check(seq) {
            Seen::New => {}
            Seen::Delivered => {
                counters.drop_part(DropReason::Duplicate);
                if space == Space::Chunked && self.undecided.iter().any(|message| message.seq == seq) {
                    return; // Its result will come.
                }
                let waiting = self.results.iter().map(|pending| pending.entry);
                let said = waiting.into_iter().find(|entry| (entry.0, entry.1) == (space, seq));
                return self.say(space, seq, said.map_or(ResultCode::Accepted, |entry| entry.2));
            }
            Seen::Refused(code) => {
                counters.drop_part(DropReason::Duplicate);
                let code = ResultCode::from_wire(code).unwrap_or(ResultCode::Malformed);
                return self.say(space, seq, code);
            }
            Seen::Below => return counters.drop_part(DropReason::Stale),
            Seen::Beyond | Seen::NoRoom => {
                counters.drop_part(DropReason::DedupFull);
                return self.say(space, seq, ResultCode::Busy);
            }
        }
        let place = match self.partials.find(space, seq) {
            Some(place) => place,
            None => {
                let turn = Turn::of(space, seq, chunk.extensions.lane);
                if space == Space::Chunked
                    && self.lanes.as_ref().is_some_and(|lanes| lanes.is_to_be_refused(seq))
                {
                    return counters.drop_part(DropReason::PartialsFull);
                }
                let space_max = match space {
                    Space::Message => ONE_FRAME_MAX,
                    Space::Chunked => u32::MAX,
                };
                if chunk.total > shop.message_bytes_max.min(space_max) {
                    let reason = DropReason::MessageTooLarge;
                    return self.refuse_large(
                        (space, seq, turn),
                        ResultCode::TooLarge,
                        reason,
                        shop,
                        counters,
                    );
                }
                let waits = !self.is_turn(turn);
                let host = self.chunked.host();
                let has_place = self.partials.len() < PARTIALS_MAX && shop.lacks(host, chunk.total) == 0;
                if !has_place && !waits {
                    // It takes the place of those that wait for their turn (R-LANE-4).
                    self.displace(chunk.total, shop, counters);
                }
                if self.partials.len() >= PARTIALS_MAX || shop.lacks(host, chunk.total) > 0 {
                    counters.drop_part(DropReason::PartialsFull);
                    return self.say(space, seq, ResultCode::Busy);
                }
                let assembly = match Assembly::new(chunk.total, &mut shop.assemblies) {
                    Ok(assembly) => assembly,
                    Err(AssemblyError::NoRoom) => {
                        counters.drop_part(DropReason::PartialsFull);
                        return self.say(space, seq, ResultCode::Busy);
                    }
                    Err(AssemblyError::TooLarge | AssemblyError::Malformed) => {
                        let reason = DropReason::MessageTooLarge;
                        let what = (space, seq, turn);
                        return self.refuse_large(what, ResultCode::TooLarge, reason, shop, counters);
                    }
                };
                // If it was refused before, that is said on: what came of it until then is gone, and its sender alone knows
                // what that was (R-LARGE-5).
                let meta = chunk.extensions.meta.as_bytes().into();
                // What fits a datagram waits for no commit (R-COMMIT-1).
                let committed = chunk.extensions.committed && space == Space::Chunked;
                if waits && let Turn::After(before) = turn {
                    let charge_bytes = AssemblyPool::charge_bytes(chunk.total);
                    self.lanes.get_or_insert_default().wait(seq, before, charge_bytes);
                }
                let lane = chunk.extensions.lane.filter(|_| turn != Turn::Free).map(|lane| lane.0);
                let (added_at, expires_at) = (now, Instant::FAR_FUTURE);
                shop.shares.add(host, AssemblyPool::charge_bytes(chunk.total));
                let partial = Partial {
                    space,
                    seq,
                    assembly,
                    meta,
                    committed,
                    waits,
                    lane,
                    turn,
                    added_at,
                    expires_at,
                };
                self.partials.add(partial, shop.partial_idle_max, &mut shop.places)
            }
        };
        if let Some(left_ms) = chunk.extensions.lifetime_ms {
            // One that was sent again tells what was left before.
            self.partials.limit(place, now + Duration::from_millis(left_ms.into()));
        }
        let Some(partial) = self.partials.at_mut(place) else { return };
        match partial.assembly.store(chunk.offset, chunk.total, chunk.bytes) {
            Ok(Stored::Progress) => partial.added_at = now,
            Ok(Stored::Duplicate) => counters.drop_part(DropReason::Duplicate),
            Ok(Stored::Complete) => {
                partial.added_at = now;
                let turn = partial.turn;
                if !self.is_turn(turn) {
                    counters.lane_messages_held += 1;
                } else if let Some(code) = self.complete(place, shop, counters, taken, deliver) {
                    self.say(space, seq, code);
                }
            }
            Err(_) => counters.drop_part(DropReason::LengthChanged),
        }
    }

    /// Takes a partial message out.
    fn remove(&mut self, place: usize, shop: &mut InShop) -> Option<Partial> {
        let partial = self.partials.remove(place, &mut shop.places)?;
        shop.shares.remove(self.chunked.host(), AssemblyPool::charge_bytes(partial.assembly.total()));
        if partial.waits
            && let Some(lanes) = &mut self.lanes
        {
            partial.wait_no_more(lanes);
        }
        Some(partial)
    }

    const fn window(&mut self, space: Space) -> &mut OpWindow {
        match space {
            Space::Message => &mut self.messages,
            Space::Chunked => &mut self.chunked,
        }
    }

    fn refuse_large(
        &mut self,
        (space, seq, turn): (Space, u64, Turn),
        code: ResultCode,
        reason: DropReason,
        shop: &mut InShop,
        counters: &mut Counters,
    ) {
        counters.drop_part(reason);
        let remembered = self.window(space).refuse(seq, code as u8, &mut shop.blocks);
        if remembered {
            self.step_over(seq, turn);
        }
        self.say(space, seq, if remembered { code } else { ResultCode::Busy });
    }

    /// All of a message is there, and it is its turn (R-LARGE-4): what its sender is to be told now.
    fn complete(
        &mut self,
        place: usize,
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) -> Option<ResultCode> {
        let Partial { space, seq, assembly, meta, committed, turn, lane, .. } = self.remove(place, shop)?;
        match self.window(space).test_and_set(seq, &mut shop.blocks) {
            Seen::New => {
                let bytes = u64::from(assembly.total());
                let mut buffers = assembly.into_buffers(&mut shop.assemblies).unwrap_or_default();
                let mut extras = extras(Meta::read(&meta).unwrap_or(Meta::NONE));
                let key = committed.then(|| self.commit_key(seq));
                if key.is_some() || lane.is_some() {
                    let extras = extras.get_or_insert_default();
                    (extras.commit, extras.lane) = (key, lane);
                }
                let verdict = deliver(Payload::Owned(&mut buffers.bytes), extras.as_ref(), counters);
                shop.assemblies.give_back(buffers);
                match verdict {
                    Delivery::Accepted => {
                        taken.messages += 1;
                        taken.bytes += bytes;
                        self.retract(space, seq);
                        if turn != Turn::Free {
                            self.end_in_lane(seq);
                        }
                        if let Some(CommitKey { seq, attempt, .. }) = key {
                            // The application's word is the result (R-COMMIT-2).
                            self.undecided.push(Undecided { seq, attempt, word: None });
                            return None;
                        }
                        Some(ResultCode::Accepted)
                    }
                    Delivery::Refused | Delivery::NoRoom => {
                        self.window(space).unmark(seq, &mut shop.blocks);
                        let refused = verdict == Delivery::Refused;
                        counters.drop_part(if refused {
                            DropReason::Refused
                        } else {
                            DropReason::BucketFull
                        });
                        Some(if refused { ResultCode::Refused } else { ResultCode::Busy })
                    }
                }
            }
            _ => {
                assembly.release(&mut shop.assemblies);
                counters.drop_part(DropReason::DedupFull);
                Some(ResultCode::Busy)
            }
        }
    }

    /// Whether a message may be handed over, as far as its lane goes.
    fn is_turn(&self, turn: Turn) -> bool {
        match turn {
            Turn::Free | Turn::First => true,
            Turn::After(before) => InLanes::is_over(self.lanes.as_deref(), &self.chunked, before),
        }
    }

    /// The operation was refused for good: who waits for it waits for the one before it now (R-LANE-3).
    fn step_over(&mut self, seq: u64, turn: Turn) {
        if let Turn::After(before) = turn
            && !self.is_turn(turn)
        {
            self.lanes.get_or_insert_default().step(seq, before);
        } else {
            self.end_in_lane(seq);
        }
    }

    /// The operation is over, and all that was before it.
    fn end_in_lane(&mut self, seq: u64) {
        if let Some(lanes) = &mut self.lanes {
            lanes.end(seq);
            self.lanes_due |= lanes.next_due().is_some();
        }
    }

    /// Hands over messages that are complete and whose turn has come, in the order of their numbers: none waits for a higher
    /// one. Costs a look at these alone: a sender may end something with every frame.
    #[cold]
    fn hand_over_due(
        &mut self,
        shop: &mut InShop,
        counters: &mut Counters,
        taken: &mut Taken,
        deliver: &mut impl FnMut(Payload<'_>, Option<&Extras<'_>>, &mut Counters) -> Delivery,
    ) {
        while let Some(seq) = self.lanes.as_ref().and_then(|lanes| lanes.next_due()) {
            // Who is due is here: what is taken out waits no more.
            let Some(place) = self.partials.find(Space::Chunked, seq) else { break };
            if self.starts_its_turn(place)
                && let Some(code) = self.complete(place, shop, counters, taken, deliver)
            {
                self.lanes.get_or_insert_default().say_later(seq, code);
            }
        }
        self.lanes_due = false;
        self.tell_lanes(shop);
    }

    /// A message does not wait for its turn any more. True: it is complete.
    fn starts_its_turn(&mut self, place: usize) -> bool {
        let Some(partial) = self.partials.at_mut(place) else { return false };
        partial.waits = false;
        if let Some(lanes) = &mut self.lanes {
            partial.wait_no_more(lanes);
        }
        partial.assembly.is_complete()
    }

    /// Frees places for a message of `total` bytes whose turn it is: those of messages in lanes whose turn it is not, which
    /// have to be sent again, the latest first. None, if all of them would not do (R-LANE-4). Costs nothing but what makes way:
    /// a sender may ask for it with every frame.
    #[cold]
    fn displace(&mut self, total: u32, shop: &mut InShop, counters: &mut Counters) {
        let Some(lanes) = &mut self.lanes else { return };
        let host = self.chunked.host();
        if lanes.waiting_bytes() < shop.lacks(host, total) {
            return;
        }
        while self.partials.len() >= PARTIALS_MAX || shop.lacks(host, total) > 0 {
            let Some(seq) = self.lanes.as_ref().and_then(|lanes| lanes.last_waiting()) else { break };
            let Some(place) = self.partials.find(Space::Chunked, seq) else { break };
            let Some(partial) = self.remove(place, shop) else { break };
            partial.assembly.release(&mut shop.assemblies);
            counters.lane_messages_displaced += 1;
            self.lanes.get_or_insert_default().say_later(seq, ResultCode::Busy);
        }
        // Said behind this datagram, whose own messages may all have to be refused yet (R-OUTCOME-4).
        self.lanes_due = true;
    }

    /// As [`tell_decided`](Self::tell_decided), of messages in lanes.
    fn tell_lanes(&mut self, shop: &InShop) {
        while self.results.len() < shop.results_max / 2
            && let Some((seq, code)) = self.lanes.as_mut().and_then(|lanes| lanes.next_word())
        {
            self.say(Space::Chunked, seq, code);
            self.ack_due = true;
        }
    }

    /// What waits for a place among the results takes one. Not while a datagram is handled: all in it may have to be refused.
    fn tell_waiting(&mut self, shop: &InShop) {
        self.tell_decided(shop);
        if self.lanes.is_some() {
            self.tell_lanes(shop);
        }
    }

    fn commit_key(&mut self, seq: u64) -> CommitKey {
        self.attempts = self.attempts.wrapping_add(1);
        let Origin { flow, incarnation } = self.origin;
        CommitKey { flow, incarnation, seq, attempt: self.attempts }
    }

    /// The application's word on a message. False if nobody waits for it any more.
    fn decide(&mut self, key: CommitKey, committed: bool, shop: &InShop) -> bool {
        let waits = |message: &&mut Undecided| (message.seq, message.attempt) == (key.seq, key.attempt);
        let Some(message) = self.undecided.iter_mut().find(waits) else { return false };
        let word = if committed { ResultCode::Committed } else { ResultCode::NotCommitted };
        self.untold += u32::from(message.word.replace(word).is_none());
        self.tell_decided(shop);
        true
    }

    /// Words that were given become results, as far as these leave half of their places to others (R-OUTCOME-4).
    fn tell_decided(&mut self, shop: &InShop) {
        let mut index = 0;
        while self.untold > 0 && self.results.len() < shop.results_max / 2 && index < self.undecided.len() {
            match self.undecided[index].word {
                Some(code) => {
                    self.untold -= 1;
                    let seq = self.undecided.remove(index).seq;
                    self.say(Space::Chunked, seq, code);
                    self.ack_due = true;
                }
                None => index += 1,
            }
        }
    }

    /// The last words about a flow (R-CLOSE-1): nothing beyond these numbers was taken.
    #[must_use]
    pub fn close_frame(&self, reason: u8) -> CloseFrame {
        // Seen, not only taken: a little too high costs its sender certainty, too low would be a lie.
        let last = |window: &OpWindow| window.highest().unwrap_or(0);
        CloseFrame { reason, messages: last(&self.messages), chunked: last(&self.chunked) }
    }

    /// The sender will send nothing below these numbers again (R-ONCE-3).
    pub fn set_low(&mut self, low: &LowFrame, shop: &mut InShop) {
        let before = (self.messages.base(), self.chunked.base());
        self.messages.set_low(low.messages, &mut shop.blocks);
        self.chunked.set_low(low.chunked, &mut shop.blocks);
        let (messages, chunked) = (self.messages.base(), self.chunked.base());
        if (messages, chunked) == before {
            return;
        }
        if chunked > before.1 && !self.undecided.is_empty() {
            // It has given them up: whatever the application says, nobody waits for it.
            self.undecided.retain(|message| message.seq >= chunked);
            self.untold = self.undecided.iter().filter(|message| message.word.is_some()).count() as u32;
        }
        for (space, base) in [(Space::Message, messages), (Space::Chunked, chunked)] {
            while let Some(place) = self.partials.lowest_below(space, base)
                && let Some(partial) = self.remove(place, shop)
            {
                partial.assembly.release(&mut shop.assemblies);
            }
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.set_low(chunked);
            self.lanes_due |= lanes.next_due().is_some();
        }
    }

    /// The sender has given operations up (R-CANCEL-2): what came of one is forgotten, and nothing more of it is taken.
    /// Messages of one frame have no parts that could be forgotten.
    pub fn cancel(&mut self, cancel: &CancelFrame<'_>, shop: &mut InShop, counters: &mut Counters) {
        for (space, seq) in cancel.entries() {
            if space == Space::Chunked {
                self.give_up(seq, Turn::Free, shop, counters);
            }
        }
    }

    /// As [`cancel`](Self::cancel), of operations in lanes: what waits for one is told what to wait for instead (R-LANE-3).
    pub fn skip(&mut self, skip: &SkipFrame<'_>, shop: &mut InShop, counters: &mut Counters) {
        for (space, seq, before) in skip.entries() {
            if space == Space::Chunked && self.give_up(seq, Turn::behind(seq, before), shop, counters) {
                counters.lane_messages_skipped += 1;
            }
        }
    }

    /// False: it had ended before.
    fn give_up(&mut self, seq: u64, mut turn: Turn, shop: &mut InShop, counters: &mut Counters) -> bool {
        if self.chunked.check(seq) != Seen::New {
            return false;
        }
        if let Some(place) = self.partials.find(Space::Chunked, seq)
            && let Some(partial) = self.remove(place, shop)
        {
            if turn == Turn::Free {
                turn = partial.turn;
            }
            partial.assembly.release(&mut shop.assemblies);
            counters.partials_cancelled += 1;
        }
        self.retract(Space::Chunked, seq);
        if let Some(lanes) = &mut self.lanes {
            lanes.forget(seq);
        }
        // Without memory to remember it, LOW will say the same.
        if self.chunked.refuse(seq, ResultCode::Expired as u8, &mut shop.blocks) {
            self.step_over(seq, turn);
        }
        true
    }

    /// The peer has an ACK that carried results up to this ticket. True if [`handle_timer`](Self::handle_timer) waited for
    /// that.
    pub fn results_heard(&mut self, until: u32, shop: &InShop) -> bool {
        let waited = self.results.len() >= shop.results_max / 2;
        self.results.retain(|pending| pending.ticket.wrapping_sub(until) as i32 > 0);
        self.tell_waiting(shop);
        waited && self.results.len() < shop.results_max / 2
    }

    /// Whether the peer has to be told something. What waits for a place among the results is among it: places came free
    /// without being heard of, too, when what was refused was taken after all.
    pub fn has_feedback(&mut self, shop: &InShop) -> bool {
        self.tell_waiting(shop);
        self.ack_due || self.pong_due.is_some()
    }

    /// The ticket of the latest result that waits for being heard of.
    #[must_use]
    pub fn last_result(&self, shop: &InShop) -> Option<u32> {
        self.results.iter().take(shop.results_max).next_back().map(|pending| pending.ticket)
    }

    /// What waits does not fit a datagram with room for `whole` bytes: the ticket of the last result that does (R-MTU-9).
    #[must_use]
    pub fn cut_results(&self, shop: &InShop, whole: usize) -> Option<u32> {
        let count = self.results.len().min(shop.results_max);
        if count * binary::RESULT_ENTRY_BYTES + FEEDBACK_BYTES_MIN <= whole {
            return None;
        }
        let fit = (whole - binary::FRAME_BYTES) / binary::RESULT_ENTRY_BYTES;
        self.results[..fit.min(count)].last().map(|pending| pending.ticket)
    }

    /// Writes what the peer has to know (R-PN-4): results, which datagrams arrived, how much it may send. `None`: no room,
    /// nothing written. Else the ticket of the last result (0: none).
    ///
    /// `whole` is the room of an empty datagram. Results that do not fit one, because the path has become that narrow, leave
    /// as many as fit at a time, and nothing is acknowledged before the others can go with it (R-MTU-9).
    pub fn write_feedback(
        &mut self,
        now: Instant,
        writer: &mut Writer<'_>,
        shop: &mut InShop,
        whole: usize,
    ) -> Option<u32> {
        let mut entries = [(Space::Message, 0, ResultCode::Accepted); RESULTS_MAX];
        for (place, pending) in entries.iter_mut().zip(&self.results) {
            *place = pending.entry;
        }
        let entries = &entries[..self.results.len().min(shop.results_max)];
        let needed = entries.len() * crate::wire::binary::RESULT_ENTRY_BYTES + FEEDBACK_BYTES_MIN;
        if writer.room() < needed {
            if needed <= whole || writer.room() < whole {
                return None;
            }
            let fit = (writer.room() - binary::FRAME_BYTES) / binary::RESULT_ENTRY_BYTES;
            let count = fit.min(entries.len());
            writer.results(&entries[..count]);
            return Some(self.results[count - 1].ticket);
        }
        if let Some(largest) = self.packets.largest() {
            // What comes again uses no credit: who repeats one datagram would keep all there is.
            if self.is_fresh {
                let wish = self.wish(shop);
                shop.credit.renew(now, &mut self.grant, largest, wish);
                (self.granted_at, self.came) = (now, 0);
            }
        }
        (self.is_fresh, self.only_chunks) = (false, true);
        // Who asked and waits has not been answered yet.
        self.asks &= self.grant.waits();
        let grant = GrantFrame {
            packets: self.grant.highest,
            messages: self.messages.limit(),
            chunked: self.chunked.limit(),
            lease_us: LEASE.saturating_sub(now.since(self.granted_at)).as_micros() as u32,
        };
        let _ = writer.results(entries) && writer.grant(&grant);
        if let Some(data) = self.pong_due.take() {
            writer.pong(data);
        }
        if !self.packets.is_empty() {
            let delay = now.since(self.heard_at);
            writer.ack(delay.as_micros() as u32, self.packets.ranges(), None);
        }
        self.packets.handle_ack_sent();
        self.ack_due = false;
        Some(self.last_result(shop).unwrap_or(0))
    }

    /// What the peer has a use for: what is left of its messages in parts, if it sent nothing else since it was told last. One
    /// that has sent the last of a message would keep its share from others, for nothing, until the lease is over; if more
    /// follows, it asks (R-CREDIT-5).
    fn wish(&self, shop: &InShop) -> Wish {
        let bytes_left = if shop.credit.is_short() && self.only_chunks && !self.asks {
            self.partials.bytes_left(WANTED_LOOKS)
        } else {
            None
        };
        Wish {
            flow: self.origin.flow,
            most: bytes_left.map_or(u64::MAX, |bytes| shop.credit.datagrams(bytes)),
            asks: self.asks || !self.partials.is_empty() || self.grant.is_first(),
            came: self.came,
        }
    }

    /// Partial messages to which nothing was added for long, or that their sender has given up by now, are given up; unused
    /// credit is taken back. Of partial messages as many as leave half of the places of results to others (R-OUTCOME-4): the
    /// rest when those were heard of.
    pub fn handle_timer(&mut self, now: Instant, shop: &mut InShop) -> u64 {
        let expired = if now >= self.first_over_at(shop) { self.forget_over(now, shop) } else { 0 };
        if now.since(self.granted_at) >= LEASE + super::credit::LEASE_GRACE {
            shop.credit.lapse(&mut self.grant);
        }
        expired
    }

    /// When [`handle_timer`](Self::handle_timer) has something to do, if nothing comes before.
    #[must_use]
    pub fn timer_at(&self, shop: &InShop) -> Option<Instant> {
        let lapse = self.grant.is_held().then_some(self.granted_at + LEASE + super::credit::LEASE_GRACE);
        let over = Some(self.first_over_at(shop)).filter(|&at| at < Instant::FAR_FUTURE);
        lapse.into_iter().chain(over).min()
    }

    /// In the chunked space the word can wait: a sender that is gone hears none (R-LARGE-6).
    const fn can_tell(&self, space: Space, shop: &InShop) -> bool {
        matches!(space, Space::Chunked) || self.results.len() < shop.results_max / 2
    }

    /// When the first partial message is to be given up, or earlier, of those whose sender can be told.
    fn first_over_at(&self, shop: &InShop) -> Instant {
        let spaces = [Space::Message, Space::Chunked].into_iter();
        let due =
            spaces.filter(|&space| self.can_tell(space, shop)).map(|space| self.partials.over_at(space));
        due.min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Gives up what is over; how many.
    #[cold]
    fn forget_over(&mut self, now: Instant, shop: &mut InShop) -> u64 {
        let mut expired = 0;
        let mut next = [(Space::Message, Instant::FAR_FUTURE), (Space::Chunked, Instant::FAR_FUTURE)];
        let mut place = 0;
        while let Some(partial) = self.partials.at(place) {
            let over_at = partial.over_at(shop.partial_idle_max);
            if now < over_at || !self.can_tell(partial.space, shop) {
                let next = next.iter_mut().filter(|next| next.0 == partial.space);
                next.for_each(|(_, at)| *at = (*at).min(over_at));
                place += 1;
                continue;
            }
            let Some(partial) = self.remove(place, shop) else { break };
            let Partial { space, seq, assembly, turn, expires_at, .. } = partial;
            assembly.release(&mut shop.assemblies);
            if self.window(space).check(seq) == Seen::Delivered {
                continue; // It came whole meanwhile (R-MTU-8).
            }
            expired += 1;
            // Past its deadline it is refused for good (R-LARGE-7). Else the sender may still send: it has to send all of it
            // then (R-LARGE-6).
            let code = ResultCode::Expired;
            let ends = now >= expires_at && self.window(space).refuse(seq, code as u8, &mut shop.blocks);
            if ends {
                self.step_over(seq, turn);
            }
            let code = if ends { code } else { ResultCode::Busy };
            if space == Space::Message {
                self.say(space, seq, code);
                self.ack_due = true;
            } else {
                self.lanes.get_or_insert_default().say_later(seq, code);
                self.tell_lanes(shop);
            }
        }
        for (space, at) in next {
            self.partials.set_over_at(space, at, now);
        }
        expired
    }

    /// Partial messages.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn partials(&self) -> usize {
        self.partials.len()
    }

    /// How many partial messages were looked at so far.
    #[cfg(test)]
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.partials.looks()
    }
}

/// GRANT, PONG, an ACK of one range, and the head of a RESULT.
const FEEDBACK_BYTES_MIN: usize = (3 + 28) + (3 + 8) + (3 + 18) + 3;
