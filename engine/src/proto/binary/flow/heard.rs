//! What the peer, and the kernel, say: ACK, GRANT, RESULT, and datagrams that did not leave.

use super::{
    Again, Flow, Large, RETRANSMISSIONS_MAX, Shop, carries, count_loss, delivered_op, later, refusal,
};
use crate::message::Level;
use crate::observe::Counters;
use crate::proto::binary::extras::wants_commit;
use crate::proto::binary::inflow::{CHUNKED_WINDOW, MESSAGE_WINDOW};
use crate::proto::binary::op_ring::Entry;
use crate::proto::binary::packet_pool::Slot;
use crate::proto::congestion::{AckSample, LossSample, WINDOW_BYTES_MAX};
use crate::units::Instant;
use crate::wire::DropReason;
use crate::wire::binary::{AckFrame, GrantFrame, ResultCode, Space};
use std::time::Duration;

impl<C> Flow<C> {
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

    pub(super) fn detect(&mut self, now: Instant, counters: &mut Counters) {
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

    /// Takes a grant that came in datagram `number` of the peer's: the latest counts (R-CREDIT-2). No more numbers than a
    /// window has are in use at a time, whatever it says: what is kept of them is one run from the oldest on.
    pub fn handle_grant(&mut self, now: Instant, number: u64, grant: &GrantFrame) {
        let credit = &mut self.credit;
        if number < credit.told_in {
            return;
        }
        let within =
            |low: u64, window: u32, highest: u64| highest.min(low.saturating_add(u64::from(window) - 1));
        let messages = within(self.messages.low(), MESSAGE_WINDOW, grant.messages);
        let chunked = within(self.chunked.low(), CHUNKED_WINDOW, grant.chunked);
        let grants = grant.packets >= self.recovery.next_number();
        self.granted |= grants;
        if grants || messages > credit.messages || chunked > credit.chunked {
            self.pings = 0;
            self.ping_at = now;
        }
        credit.told_in = number;
        credit.packets = grant.packets;
        credit.lease_until = now + Duration::from_micros(grant.lease_us.into());
        credit.messages = credit.messages.max(messages);
        credit.chunked = credit.chunked.max(chunked);
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

    pub(super) fn handle_small_result(
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
        let (waited, left_in) = (entry.waits(), entry.left_in());
        entry.wait();
        if let Some(end) = self.outgrown(seq).map(|frame| frame.payload.len()) {
            if self.is_cut_whole(Space::Message, seq, end) {
                return; // It waits already.
            }
            if let Some(entry) = self.messages.get_mut(seq) {
                entry.tries = tries.saturating_add(1);
            }
            let wait = shop.retries.refused_wait(self.identity.to, (tries.into(), self.jitter(seq)), left);
            return self.cut_all(Space::Message, seq, end, now + wait);
        }
        if waited {
            return; // It has been refused already.
        }
        let wait = shop.retries.refused_wait(self.identity.to, (tries.into(), self.jitter(seq)), left);
        // The datagram is still there: what acknowledges it comes after the result.
        match self.frame_of(&shop.pool, seq, left_in) {
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

    /// Another one for each message and flow: who was refused together does not come back together.
    const fn jitter(&self, seq: u64) -> u32 {
        // Fibonacci hashing (Knuth, TAOCP 6.4); the nonce is random.
        ((self.nonce ^ seq).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    pub(super) fn handle_large_result(
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
            let wait = shop.retries.refused_wait(self.identity.to, (tries.into(), self.jitter(seq)), left);
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
}
