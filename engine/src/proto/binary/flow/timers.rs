//! What time brings: expiry, probe timeouts, silence, and when to look again.

use super::{COMMIT_PING_EVERY, EXPIRY_GRAIN, Flow, PROVEN_FOR, Shop};
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::extras::wants_commit;
use crate::proto::binary::recovery::Timeout;
use crate::units::Instant;

impl<C> Flow<C> {
    /// Deadlines and retransmission timers. Returns true if there is something to send.
    pub fn handle_timers(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) -> bool {
        if now >= self.expires_at {
            self.fail_waiting(shop, FailureCause::Expired, counters, |_, deadline| deadline <= now);
            // What was acknowledged in time may not be read yet.
            let heard_until = shop.heard_until;
            self.fail_transmitted(shop, FailureCause::Expired, counters, |_, deadline| {
                deadline <= now && deadline <= heard_until
            });
            self.expires_at = self.earliest_deadline().max(now + EXPIRY_GRAIN);
        }
        if now >= self.commit_ping_at {
            self.keep_known(now);
        }
        match self.recovery.handle_timeout(now, shop.heard_until) {
            Timeout::None => {}
            Timeout::Late => self.detect(now, counters),
            Timeout::Probe
                if self.lapses
                    && shop.heard_until.since(self.vouched_at()) >= self.recovery.silence_max() =>
            {
                self.suspend(now);
            }
            Timeout::Probe if !shop.probes.has(now) => self.recovery.put_off_probe(),
            Timeout::Probe => {
                shop.probes.spend();
                self.recovery.compact();
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
    pub(super) fn keep_known(&mut self, now: Instant) {
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

    pub(super) fn earliest_deadline(&self) -> Instant {
        let classes = self.classes.iter().flat_map(|classes| classes.queues());
        let others = classes.map(|queues| (&queues.small, &queues.large));
        let waiting = std::iter::once((&self.small, &self.large)).chain(others);
        let waiting = waiting
            .flat_map(|(small, large)| small.deadlines().chain(large.iter().map(|next| next.meta.deadline)));
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
}
