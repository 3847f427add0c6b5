//! What leaves again: frames of lost datagrams, what was refused for now, and what the path has become too short for.

use super::{
    Again, Blocked, Flow, GivenUp, Large, Outgrown, Queued, Shop, count_loss, expand, is_later, message_in,
    priority,
};
use crate::observe::Counters;
use crate::options::Priority;
use crate::proto::binary::classes::Cut;
use crate::proto::binary::extras::options;
use crate::proto::binary::packet_pool::{PacketPool, Slot};
use crate::proto::binary::recovery::Fate;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{Frame, HEADER_BYTES, MessageFrame, Space};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

impl<C> Flow<C> {
    /// Lost datagrams' frames leave again, each datagram's in a new one.
    pub(super) fn repair(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        counters: &mut Counters,
    ) -> Result<(), Blocked> {
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
    pub(super) fn probe_with_oldest(&mut self, now: Instant, counters: &mut Counters) {
        let Some((number, oldest)) = self.recovery.oldest_to_probe() else {
            (self.probes_due, self.ping_due) = (0, true);
            return;
        };
        self.lost.push_front(number);
        count_loss(self.path_mtu.on_timeout(now, number, oldest.bytes), counters);
        self.ping_due |= !oldest.path_probe && oldest.bytes as usize > self.datagram_bytes;
    }

    /// Copies what still matters of a lost datagram into a new one (R-LOSS-5). False: nothing does.
    pub(super) fn send_again(
        &mut self,
        number: u64,
        now: Instant,
        shop: &mut Shop<C>,
    ) -> Result<bool, Blocked> {
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
    pub(super) fn cut_again(&mut self, number: u64, now: Instant, shop: &mut Shop<C>) -> bool {
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
    pub(super) fn outgrow(&mut self, now: Instant, seq: u64, frame: Vec<u8>) {
        let Some(MessageFrame { payload, .. }) = message_in(&frame) else { return };
        let end = payload.len();
        if !self.outgrown.iter().any(|outgrown| outgrown.seq == seq) {
            self.outgrown.push(Outgrown { seq, frame });
        }
        self.cut_range(now, Space::Message, seq, 0, end);
    }

    pub(super) fn outgrown(&self, seq: u64) -> Option<MessageFrame<'_>> {
        self.outgrown.iter().find(|outgrown| outgrown.seq == seq).and_then(|it| message_in(&it.frame))
    }

    /// The cuts of the message's class.
    pub(super) fn cuts_of(&mut self, space: Space, seq: u64) -> &mut VecDeque<Cut> {
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
    pub(super) fn cut_range(&mut self, now: Instant, space: Space, seq: u64, offset: usize, end: usize) {
        let cuts = self.cuts_of(space, seq);
        match cuts.front_mut() {
            Some(cut) if (cut.space, cut.seq, cut.end) == (space, seq, offset) && cut.not_before <= now => {
                cut.end = end;
            }
            _ => cuts.push_front(Cut { space, seq, offset, end, not_before: now }),
        }
    }

    /// All of a message is to be cut, and nothing of it has been since that was so.
    pub(super) fn is_cut_whole(&mut self, space: Space, seq: u64, end: usize) -> bool {
        let whole = (space, seq, 0, end);
        self.cuts_of(space, seq).iter().any(|cut| (cut.space, cut.seq, cut.offset, cut.end) == whole)
    }

    /// All of a message is to be cut again, later.
    pub(super) fn cut_all(&mut self, space: Space, seq: u64, end: usize, not_before: Instant) {
        let cuts = self.cuts_of(space, seq);
        cuts.retain(|cut| (cut.space, cut.seq) != (space, seq));
        let place = cuts.partition_point(|cut| cut.not_before <= not_before);
        cuts.insert(place, Cut { space, seq, offset: 0, end, not_before });
    }

    /// Messages the receiver refused for now and whose time has come.
    pub(super) fn put_again(&mut self, now: Instant, shop: &mut Shop<C>) -> Result<(), Blocked> {
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

    /// The frame of a message in flight; `None` if the datagrams that carried it are acknowledged.
    pub(super) fn frame_of<'a>(&self, pool: &'a PacketPool, seq: u64, left_in: u32) -> Option<&'a [u8]> {
        // Nearly always it is there; a receiver that refuses everything does not have all of them looked at.
        let first = self.recovery.carrier(left_in, seq);
        first.into_iter().chain(self.recovery.carriers(seq)).find_map(|sent| {
            let bytes = pool.bytes(sent.slot);
            let mut frames = binary::raw_frames(&bytes[HEADER_BYTES..sent.bytes as usize]);
            let is_it = |frame: &Frame<'_>| matches!(frame, Frame::Message(frame) if frame.seq == seq as u32);
            frames.find(|(frame, _)| is_it(frame)).map(|(_, raw)| raw)
        })
    }

    /// Operations first transmitted at `since` or later are as if they never were: they wait again, in front of the others.
    pub fn take_back(&mut self, now: Instant, shop: &mut Shop<C>, since: Instant) {
        self.close(now, shop, false);
        let young = self.messages.live().filter(|op| op.1.first_sent_at() >= since);
        let young: Vec<(u64, u32)> = young.map(|(seq, entry)| (seq, entry.left_in())).collect();
        // Both may be as long as there are messages, all of them young: a peer that refuses them says RESET as well.
        let waiting: BTreeMap<u64, usize> = self.again.iter().map(|it| it.seq).zip(0..).collect();
        let outgrown: BTreeMap<u64, usize> = self.outgrown.iter().map(|it| it.seq).zip(0..).collect();
        for (seq, left_in) in young.into_iter().rev() {
            let waits = waiting.get(&seq).and_then(|&at| self.again.get(at)).map(|it| &it.frame[..]);
            let outgrown = outgrown.get(&seq).and_then(|&at| self.outgrown.get(at)).map(|it| &it.frame[..]);
            let raw = outgrown.or(waits).or_else(|| self.frame_of(&shop.pool, seq, left_in));
            let Some(frame) = raw.and_then(message_in) else { continue };
            if let Some((completion, entry)) = self.messages.take(seq) {
                let (meta, priority) = (entry.meta(completion), entry.priority());
                let mut options = options(&frame.extensions);
                if priority != Priority::Normal {
                    options.get_or_insert_default().priority = priority;
                }
                let payload = Bytes::copy_from_slice(frame.payload);
                let (queue, _) = self.queues_of(priority);
                queue.push_front(Queued { meta, payload, options });
            }
        }
        self.messages.settle();
        let young: Vec<u64> =
            self.chunked.live().filter(|op| op.1.first_sent_at() >= since).map(|op| op.0).collect();
        for seq in young.into_iter().rev() {
            if let Some((Large { completion, payload, options }, entry)) = self.chunked.take(seq) {
                let meta = entry.meta(completion);
                let (_, queue) = self.queues_of(priority(options.as_deref()));
                queue.push_front(Queued { meta, payload, options });
            }
        }
        self.chunked.settle();
    }

    pub(super) fn retain_cuts(&mut self, wanted: impl Fn(&Cut) -> bool) {
        self.cuts.retain(&wanted);
        for queues in self.classes.iter_mut().flat_map(|classes| classes.queues_mut()) {
            queues.cuts.retain(&wanted);
        }
    }

    /// Large messages that are being cut, by priority.
    pub(super) fn all_cuts(&self) -> impl Iterator<Item = &VecDeque<Cut>> {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        std::iter::once(&self.cuts).chain(classes.map(|queues| &queues.cuts))
    }
}
