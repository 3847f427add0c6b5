//! How messages come in: straight into the open datagram where nothing stands in their way, else into a queue.

use super::{Flow, Phase, Queued, Shop, priority};
use crate::options::Priority;
use crate::proto::binary::extras::{lane, leaves_in_chunks, with_extensions};
use crate::proto::binary::inflow::CHUNKED_WINDOW;
use crate::proto::binary::op_ring::{Meta, Times};
use crate::proto::binary::small_queue::SmallQueue;
use crate::proto::binary::source::Source;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{HEADER_BYTES, Writer, message_frame_bytes};
use std::collections::{BTreeSet, VecDeque};

impl<C> Flow<C> {
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
        let deadline = meta.deadline;
        self.put_somewhere(now, shop, payload, meta);
        // Behind what may panic: then the message has not been put.
        shop.ops_in_use += 1;
        self.expires_at = self.expires_at.min(deadline);
    }

    /// Into the open datagram, or a queue.
    fn put_somewhere(&mut self, now: Instant, shop: &mut Shop<C>, payload: impl Source, meta: Meta<C>) {
        if payload.len() > self.message_bytes_max() {
            // The path may turn out to carry more by the time it leaves.
            let may_fit = HEADER_BYTES + message_frame_bytes(payload.len()) <= self.path_mtu.ceiling();
            let message = Queued { meta, payload: payload.own(), options: None };
            return if may_fit { self.small.push_own(message) } else { self.large.push_back(message) };
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
            self.small.push(meta, payload);
            self.small.go_direct();
        }
    }

    /// What was true of the message just put is true of all that fit behind it, until something else happens to the flow.
    pub(super) fn go_direct(&mut self) {
        let credit = (self.credit.messages + 1).saturating_sub(self.messages.next());
        if let Some(open) = &mut self.open {
            open.direct_until = open.limit;
            open.direct_messages =
                self.messages_max.saturating_sub(open.messages).min(credit.try_into().unwrap_or(u32::MAX));
        }
    }

    /// Something happened that the next message may have to wait for.
    pub const fn look_again(&mut self) {
        if let Some(open) = &mut self.open {
            open.direct_until = 0;
        }
        self.small.look_again();
    }

    /// Whether [`put_direct`](Self::put_direct) takes a message of that length.
    #[inline(always)]
    #[must_use]
    pub const fn takes_direct(&self, payload_bytes: usize) -> bool {
        let frame_bytes = message_frame_bytes(payload_bytes);
        match &self.open {
            Some(open) if open.at + frame_bytes <= open.direct_until => open.direct_messages > 0,
            _ => self.small.takes_direct(frame_bytes),
        }
    }

    /// Takes a message behind others of this turn into the same datagram, or behind others that wait: nearly all of a flood go
    /// this way, and it costs what has to be written.
    #[inline(always)]
    pub fn put_direct(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        (bytes, write): (usize, impl FnOnce(&mut [u8])),
        meta: Meta<C>,
    ) {
        let deadline = meta.deadline;
        if self.small.is_direct() {
            self.small.push_frame(meta, (bytes, write));
        } else {
            self.write_message(now, shop, (bytes, write), meta);
            let Some(open) = &mut self.open else { return };
            open.direct_messages -= 1;
        }
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
        if self.small.is_direct() {
            let Self { small, expires_at, .. } = self;
            return small.push_each(bytes, room, messages, |tag| {
                shop.ops_in_use += 1;
                let meta = meta(tag);
                *expires_at = (*expires_at).min(meta.deadline);
                meta
            });
        }
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
            let times = Times::of(now, &meta);
            self.messages.push_small(meta, times, bytes, open.number);
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
        let (small_queue, large_queue) = self.queues_of(priority);
        if large { large_queue.push_back(message) } else { small_queue.push_own(message) }
    }

    /// Where messages of a class wait, small and large ones, for one that is about to.
    pub(super) fn queues_of(&mut self, priority: Priority) -> (&mut SmallQueue<C>, &mut VecDeque<Queued<C>>) {
        let others = match priority {
            Priority::Normal => None,
            Priority::Control | Priority::High | Priority::Low => {
                self.yields = true;
                self.classes.get_or_insert_default().of(priority)
            }
        };
        match others {
            Some(queues) => (&mut queues.small, &mut queues.large),
            None => (&mut self.small, &mut self.large),
        }
    }

    /// The message waits where others of its lane do, or it would overtake them (R-LANE-1).
    #[cold]
    pub(super) fn join_lane(&mut self, message: &mut Queued<C>) {
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
    pub(super) fn lanes_in_use(&self) -> BTreeSet<u16> {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        let waiting = self.large.iter().chain(classes.flat_map(|queues| &queues.large));
        let waiting = waiting.map(|message| message.options.as_deref());
        let live = self.chunked.live().filter_map(|(_, entry)| entry.completion.as_ref());
        let live = live.map(|large| large.options.as_deref());
        waiting.chain(live).filter_map(|options| lane(options)).map(|lane| lane.number).collect()
    }

    /// Writes into the open datagram, which has room.
    #[inline(always)]
    pub(super) fn write_message(
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
        let times = Times::of(now, &meta);
        self.messages.push_small(meta, times, bytes, open.number);
        open.at += frame_bytes;
        open.messages += 1;
    }

    /// As [`write_message`](Self::write_message), for a message with options.
    pub(super) fn write_with_options(&mut self, now: Instant, shop: &mut Shop<C>, message: Queued<C>) {
        let Some(open) = &mut self.open else { return };
        let Queued { meta, payload, options } = message;
        let times = Times::of(now, &meta);
        let seq = self.messages.push_small(meta, times, payload.len(), open.number);
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
}
