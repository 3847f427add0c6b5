//! What is due when.

use super::{Flows, IDLE, KEPT_FOR_MIN, LOOKS_EVERY, PROBES_MAX, UNPROVEN_FOR};
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::Phase;
use crate::proto::binary::inflow::Inflows;
use crate::units::Instant;
use std::net::SocketAddr;

impl<C> Flows<C> {
    /// Before a turn's timers, of rows as of flows: all that had come by the returned instant has been read.
    pub fn look_unread(&mut self, now: Instant) -> Instant {
        self.shop.heard_until = self.unread.turn(now);
        self.shop.heard_until
    }

    /// Retransmissions, deadlines, handshakes, flows nobody uses. [`look_unread`](Self::look_unread) goes before.
    pub fn handle_timers(
        &mut self,
        now: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) {
        counters.flows_woken += std::mem::take(&mut self.woken);
        self.timers.advance(now);
        while let Some(index) = self.timers.pop_due() {
            self.handle_timer(now, index, inflows, counters, has_confirmed);
        }
        if self.makes_room_at.is_some_and(|at| at <= now) {
            self.make_room(now, inflows, counters);
        }
        while !self.probing.is_empty() && self.shop.probes.has(now) {
            let Some(index) = self.probing.pop_front() else { break };
            if let Some(pair) = self.pair(index) {
                pair.out.recovery.resume_probe();
                self.handle_timer(now, index, inflows, counters, has_confirmed);
            }
        }
        if std::mem::take(&mut self.shop.released) {
            let mut starved = std::mem::take(&mut self.starved);
            for index in starved.drain(..) {
                if let Some(pair) = self.pair(index) {
                    pair.out.starved = false;
                }
                self.make_ready(index);
            }
            self.starved = starved; // Its memory.
        }
        inflows.begin_turn(now);
        while let Some(index) = inflows.next_granted() {
            self.make_ready(index);
        }
    }

    pub(super) fn handle_timer(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) {
        if let Some(pair) = self.pair(index)
            && (pair.out.phase == Phase::Probing || pair.out.suspended)
            && pair.out.hellos > 0
            && pair.out.hello_at <= now
            && !self.handle_silence(now, index, inflows, counters, has_confirmed)
        {
            return;
        }
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_deref_mut) else {
            return self.handle_timer_asleep(now, index, inflows);
        };
        let out = &mut pair.out;
        let datagram_bytes = out.datagram_bytes();
        let waited = out.recovery.probe_waits();
        let probed = out.recovery.probes() > 0;
        let mut ready = out.handle_timers(now, shop, counters);
        if !probed && out.recovery.probes() > 0 && now.since(out.heard_at) >= self.limits.give_up_after {
            // The process slept for as long: it is asked only now.
            out.asked_at = now;
        }
        if out.recovery.probe_waits() && !waited {
            self.probing.push_back(index);
        }
        if out.datagram_bytes() != datagram_bytes {
            self.datagram_bytes = out.datagram_bytes();
        }
        let mut watched = None;
        if let Some((inflow, in_shop)) = inflows.get(index) {
            counters.partials_expired += inflow.handle_timer(now, in_shop);
            ready |= inflow.ack_due;
            watched = inflow.timer_at(in_shop);
        }
        if out.phase == Phase::Probing {
            if out.is_idle() && out.hellos >= PROBES_MAX {
                return self.remove(index, inflows);
            }
            ready |= out.hello_at <= now;
        } else if out.suspended {
            ready |= out.hello_at <= now;
        } else if out.phase == Phase::Opening {
            if now.since(out.opened_at) >= self.limits.give_up_after {
                out.end(shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
                return self.remove(index, inflows);
            }
            // Nothing waits for it any more; but what was asked may be answered yet.
            if out.is_idle() && out.hellos > 0 && out.hello_at <= now {
                return self.remove(index, inflows);
            }
            ready |= out.hello_at <= now;
        } else if !out.proven && now.since(out.opened_at) >= UNPROVEN_FOR {
            out.end(shop, FailureCause::TimedOut, FailureCause::TimedOut, counters);
            return self.remove(index, inflows);
        } else if out.recovery.probes() > 0
            && shop.heard_until.since(out.heard_at.max(out.asked_at)) >= self.limits.give_up_after
            // What comes from another address says nothing of this one; but it came on this flow (R-RESTART-5).
            && now.since(inflows.heard_at(index)) >= KEPT_FOR_MIN
        {
            // Nothing of ours was ever acknowledged on a flow that we opened: its peer has not seen us proven, and forgets it.
            let is_known =
                out.recovery.delivered_bytes() > 0 || self.addresses.is_beside(out.identity.to, index);
            if out.has_no_operations() && is_known {
                // Only results of ours were not heard of. The peer may be there all the same, and take it for a restart if
                // we forgot what came from it.
                out.end_transmitted(shop, FailureCause::TimedOut, counters);
                // What was given up may be unknown to the receiver: nothing comes behind it in a lane (R-LANE-3).
                out.forget_lanes();
                out.recovery.forget_probes();
                if let Some((inflow, _)) = inflows.get(index) {
                    inflow.ack_due = false; // Whoever asks again is answered.
                }
                return self.arm(now, index, watched);
            }
            // Nobody there any more. What was never sent may find somebody through another handshake (R-LOSS-9).
            return self.replace(now, index, FailureCause::TimedOut, inflows, counters);
        } else if out.is_idle() && now.since(out.heard_at.max(inflows.heard_at(index))) >= IDLE {
            return self.remove(index, inflows);
        } else if out.is_idle() {
            out.rest(now, shop);
            if now.since(out.heard_at) >= IDLE / 2 && self.addresses.is_used(out.identity.to, index) {
                // Nothing more is sent on it: the peer may forget it before we do.
                self.addresses.clear_used(out.identity.to, index);
                self.last = None;
            }
            let quiet = self.limits.sleeps_after;
            if !ready
                && now.since(out.heard_at) >= quiet
                && inflows.may_sleep(index, now, quiet)
                && self.sleep(now, index, inflows, counters)
            {
                return self.handle_timer_asleep(now, index, inflows);
            }
        }
        if ready {
            self.make_ready(index);
        }
        self.arm(now, index, watched);
    }

    /// Forgets a flow that has slept for long enough (R-FLOW-10).
    pub(super) fn handle_timer_asleep(&mut self, now: Instant, index: u32, inflows: &mut Inflows) {
        let Some(asleep) = self.sleeper(index) else { return };
        let (to, heard_at) = (asleep.identity.to, asleep.heard_at);
        let quiet = now.since(heard_at);
        if quiet >= IDLE {
            return self.remove(index, inflows);
        }
        if quiet >= IDLE / 2 {
            // As for one that is awake.
            self.addresses.clear_used(to, index);
        }
        self.timers.arm(index, self.forgets_at(now, index, to, heard_at));
    }

    /// When a flow without anything under way is to be looked at: it is not used, or not known, any more.
    pub(super) fn forgets_at(&self, now: Instant, index: u32, to: SocketAddr, heard_at: Instant) -> Instant {
        let idle = if self.addresses.is_used(to, index) { IDLE / 2 } else { IDLE };
        (heard_at + idle).max(now + LOOKS_EVERY)
    }

    /// Sets the timer of a flow to whatever is due first.
    pub(super) fn arm(&mut self, now: Instant, index: u32, watched: Option<Instant>) {
        let Some(pair) = self.slots[index as usize].as_deref() else { return };
        let out = &pair.out;
        let mut at = if out.phase != Phase::Open || out.suspended {
            out.hello_at
        } else if !out.proven {
            out.opened_at + UNPROVEN_FOR
        } else {
            // If something keeps it awake then, it is not looked at for that: nobody is woken for nothing.
            let sleeps_at = Some(out.heard_at + self.limits.sleeps_after).filter(|&at| at > now);
            let forgets_at = self.forgets_at(now, index, out.identity.to, out.heard_at);
            sleeps_at.map_or(forgets_at, |at| at.min(forgets_at))
        };
        if let Some(due) = out.timer_at(now) {
            at = at.min(due);
        }
        if let Some(due) = watched {
            at = at.min(due);
        }
        self.timers.arm(index, at);
    }

    /// When [`handle_timers`](Self::handle_timers) has something to do without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let probes = (!self.probing.is_empty()).then(|| self.shop.probes.next_at());
        self.timers.next_deadline().into_iter().chain(probes).min()
    }
}
