//! How operations end that are not delivered: refused, expired, cancelled, closed, or handed to another flow.

use super::{Again, Flow, GivenUp, Large, Queued, Shop, finish, priority, waiting_mut};
use crate::error::{FailureCause, Reached, Refusal};
use crate::observe::Counters;
use crate::options::Priority;
use crate::proto::binary::extras::lane;
use crate::proto::binary::op_ring::Entry;
use crate::units::Instant;
use crate::wire::binary::{CloseFrame, Space};
use std::collections::VecDeque;

impl<C> Flow<C> {
    pub(super) fn fail_small(
        &mut self,
        shop: &mut Shop<C>,
        seq: u64,
        cause: FailureCause,
        counters: &mut Counters,
    ) {
        if let Some((completion, entry)) = self.messages.take(seq) {
            let (tag, bytes) = (entry.tag, entry.payload_bytes.into());
            finish(shop, completion, tag, bytes, cause, Reached::Unknown, counters);
            self.messages.settle();
        }
    }

    pub(super) fn fail_large(
        &mut self,
        shop: &mut Shop<C>,
        seq: u64,
        cause: FailureCause,
        counters: &mut Counters,
    ) {
        if let Some((Large { completion, payload, .. }, entry)) = self.chunked.take(seq) {
            let (tag, bytes) = (entry.tag, payload.len() as u32);
            finish(shop, completion, tag, bytes, cause, Reached::Unknown, counters);
            self.chunked.settle();
            self.retain_cuts(|cut| (cut.space, cut.seq) != (Space::Chunked, seq));
        }
    }

    /// Ends every transmitted operation for which `ends` holds: it sees completion and deadline.
    pub(super) fn fail_transmitted(
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
    pub(super) fn fail_waiting(
        &mut self,
        shop: &mut Shop<C>,
        cause: FailureCause,
        counters: &mut Counters,
        mut ends: impl FnMut(&C, Instant) -> bool,
    ) {
        for (small, queue) in waiting_mut(&mut self.small, &mut self.large, &mut self.classes) {
            small.remove(
                |meta| ends(&meta.completion, meta.deadline),
                |meta, bytes| {
                    finish(shop, meta.completion, meta.tag, bytes as u32, cause, Reached::Never, counters);
                },
            );
            if !queue.iter().any(|next| ends(&next.meta.completion, next.meta.deadline)) {
                continue;
            }
            // Once around, however many of them end.
            for _ in 0..queue.len() {
                let Some(next) = queue.pop_front() else { break };
                if ends(&next.meta.completion, next.meta.deadline) {
                    let Queued { meta, payload, .. } = next;
                    let bytes = payload.len() as u32;
                    finish(shop, meta.completion, meta.tag, bytes, cause, Reached::Never, counters);
                } else {
                    queue.push_back(next);
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
        self.path_mtu.forget_sent();
        self.lost.clear();
        self.forget_refused(shop);
        self.retain_cuts(|_| false);
        self.outgrown.clear();
        self.cancels.clear();
        (self.probes_due, self.ping_due, self.results_again) = (0, false, false);
    }

    /// What was refused for now has ended.
    pub(super) fn forget_refused(&mut self, shop: &mut Shop<C>) {
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

    /// Moves what waits to a flow that takes this one's place (R-FLOW-4, R-RESTART-1).
    pub fn hand_over(&mut self, to: &mut Self) {
        to.look_again();
        to.small.append(&mut self.small);
        to.take_over(&mut self.large);
        for priority in [Priority::Control, Priority::High, Priority::Low] {
            let waiting = self.classes.as_mut().and_then(|classes| classes.of(priority));
            let Some(queues) = waiting.filter(|queues| !queues.is_empty()) else { continue };
            to.queues_of(priority).0.append(&mut queues.small);
            to.take_over(&mut queues.large);
        }
        self.lanes = None;
        to.expires_at = to.expires_at.min(self.expires_at);
    }

    /// Large messages that waited on another flow, in their order: those of a lane wait where others of it do here (R-LANE-6).
    fn take_over(&mut self, waiting: &mut VecDeque<Queued<C>>) {
        for mut message in waiting.drain(..) {
            if lane(message.options.as_deref()).is_some() {
                self.join_lane(&mut message);
            }
            self.queues_of(priority(message.options.as_deref())).1.push_back(message);
        }
    }

    /// Messages that wait, all of them.
    pub fn take_waiting(&mut self, mut take: impl FnMut(Queued<C>), wanted: impl Fn(&Queued<C>) -> bool) {
        for (small, large) in waiting_mut(&mut self.small, &mut self.large, &mut self.classes) {
            for message in small.drain() {
                if wanted(&message) { take(message) } else { small.push_own(message) }
            }
            for message in std::mem::take(large) {
                if wanted(&message) { take(message) } else { large.push_back(message) }
            }
        }
    }

    /// What is put from now on waits for nothing put before.
    pub fn forget_lanes(&mut self) {
        self.lanes = None;
    }
}
