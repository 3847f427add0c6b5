//! Whose turn it is within a flow: what is lost before what is new, small messages beside large ones, class by class.

use super::{
    Blocked, COMMIT_PING_EVERY, Flow, LARGE_TURN, LIFETIME_BYTES, Large, Phase, Queued, Served, Shop, UNIT,
    message_in,
};
use crate::observe::Counters;
use crate::options::Options;
use crate::proto::binary::classes::{Classes, Cut, Queues};
use crate::proto::binary::extras::{extension_bytes, wants_commit, with_extensions};
use crate::proto::binary::op_ring::{Entry, Meta, Times};
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{
    CHUNK_FRAME_BYTES, ChunkFrame, Extensions, HEADER_BYTES, Space, Writer, message_frame_bytes,
};
use bytes::Bytes;
use std::time::Duration;

impl<C> Flow<C> {
    pub(super) fn credit_for_message(&self) -> bool {
        self.messages.next() <= self.credit.messages
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

    pub(super) fn fill_new(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
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
    pub(super) fn fill_by_class(
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
    pub(super) fn fill_other(
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

    pub(super) const fn swap_class(&mut self, queues: &mut Queues<C>) {
        std::mem::swap(&mut self.small, &mut queues.small);
        std::mem::swap(&mut self.large, &mut queues.large);
        std::mem::swap(&mut self.cuts, &mut queues.cuts);
        std::mem::swap(&mut self.since_large, &mut queues.since_large);
    }

    /// The messages without options that wait next, as many as the open datagram has room for: how many.
    fn write_run(&mut self, now: Instant, shop: &mut Shop<C>) -> u32 {
        let Some(open) = &mut self.open else { return 0 };
        let credit = (self.credit.messages + 1).saturating_sub(self.messages.next());
        let most = self.messages_max.saturating_sub(open.messages).min(credit.try_into().unwrap_or(u32::MAX));
        let mut space = shop.pool.piece_mut(open.start + open.at, open.limit.saturating_sub(open.at));
        let Self { small, messages, .. } = self;
        // Those accepted in one turn mostly have their times in common.
        let (mut last, mut times) = ((now, now), Times::default());
        let mut number = |meta: Meta<C>, bytes| {
            if (meta.accepted_at, meta.deadline) != last {
                (last, times) = ((meta.accepted_at, meta.deadline), Times::of(now, &meta));
            }
            messages.push_small(meta, times, bytes, open.number)
        };
        let mut written = 0;
        while written < most {
            let (count, bytes) = small.take_frames(space, (most - written) as usize, &mut number);
            written += count as u32;
            space = &mut space[bytes..];
            open.at += bytes;
            if count > 0 {
                continue;
            }
            let fits = |payload: &Bytes, options: Option<&Options>| {
                options.is_none() && message_frame_bytes(payload.len()) <= space.len()
            };
            let Some(Queued { meta, payload, .. }) = small.pop_own(fits) else { break };
            let frame;
            (frame, space) = space.split_at_mut(message_frame_bytes(payload.len()));
            let seq = number(meta, payload.len());
            binary::plain_message_space(frame, seq as u32).copy_from_slice(&payload);
            open.at += frame.len();
            written += 1;
        }
        open.messages += written;
        written
    }

    /// New messages of one class, until nothing is left or it has opened `left` datagrams.
    pub(super) fn fill_class(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        left: &mut u32,
    ) -> Result<Served, Blocked> {
        let mut large_waits = false;
        loop {
            let has_large = !large_waits
                && (self.cuts.front().is_some_and(|cut| cut.not_before <= now)
                    || (self.large.front().is_some() && self.chunked.next() <= self.credit.chunked));
            let has_small = !self.small.is_empty() && self.credit_for_message();
            if has_large && (!has_small || self.since_large >= LARGE_TURN) {
                if *left == 0 {
                    return Ok(Served::Round);
                }
                self.since_large = 0;
                let next_number = self.recovery.next_number();
                match self.write_chunk(now, shop) {
                    // What needs none does not wait behind it.
                    Err(Blocked::Credit) => {
                        large_waits = true;
                        continue;
                    }
                    written => written?,
                }
                let opened = self.recovery.next_number() - next_number;
                *left = left.saturating_sub(opened as u32);
            } else if has_small {
                let Some(bytes) = self.small.next_frame_bytes() else { return Ok(Served::All) };
                if HEADER_BYTES + bytes > self.datagram_bytes {
                    // The path does not carry it in one piece.
                    self.large.extend(self.small.pop());
                    continue;
                }
                let opens = !self.has_room(bytes);
                if opens && *left == 0 {
                    return Ok(Served::Round);
                }
                self.make_room(now, shop, bytes)?;
                if opens {
                    *left -= 1;
                    self.since_large += 1;
                }
                if self.write_run(now, shop) == 0
                    && let Some(message) = self.small.pop()
                {
                    self.write_with_options(now, shop, message);
                }
            } else if self.small.is_empty() && self.large.is_empty() && !large_waits {
                return Ok(Served::All); // The time of cuts that wait will come (`timer_at`).
            } else {
                return Ok(Served::Stuck);
            }
        }
    }

    /// The next piece of a large message, filling a datagram of its own or the rest of the open one (R-LARGE-1).
    pub(super) fn write_chunk(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
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
        // A part that leaves without credit would be a datagram more beside the PING that asks for it (R-CREDIT-4).
        if !self.has_room(least) && self.lacks_credit(now) {
            let cut = self.cuts.front().copied().filter(|_| !begins);
            if rest_bytes > UNIT || cut.is_some_and(|cut| self.is_part(&cut)) {
                return Err(Blocked::Credit);
            }
        }
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

    /// It is not all of its message.
    #[cold]
    fn is_part(&mut self, cut: &Cut) -> bool {
        let bytes = match cut.space {
            Space::Chunked => {
                let large = self.chunked.get_mut(cut.seq).and_then(|entry| entry.completion.as_ref());
                large.map(|large| large.payload.len())
            }
            Space::Message => self.outgrown(cut.seq).map(|frame| frame.payload.len()),
        };
        cut.offset > 0 || bytes.is_some_and(|bytes| cut.end < bytes)
    }

    /// Bytes of what each chunk of a message that is being cut has besides its lifetime.
    pub(super) fn extension_bytes_of(&mut self, cut: &Cut) -> usize {
        match cut.space {
            Space::Chunked => {
                let large = self.chunked.get_mut(cut.seq).and_then(|entry| entry.completion.as_ref());
                extension_bytes(large.and_then(|large| large.options.as_deref()))
            }
            Space::Message => self.outgrown(cut.seq).map_or(0, |frame| frame.extensions.bytes()),
        }
    }
}
