//! Messages of ours on their way out, over whichever wire: rows to peers that speak CSV, flows between engines.

use super::binary::extras::{check_options, needs_binary};
use super::binary::flows::{Flows, Spilled, Standing};
use super::binary::inflow::Inflows;
use super::binary::op_ring::Meta;
use super::binary::source::Shared;
use super::outbound::{Finished, Outbound, Submission};
use super::wires::Wires;
use crate::config::Wire;
use crate::error::{FailureCause, Refusal, SubmitReason};
use crate::message::Outgoing;
use crate::observe::Counters;
use crate::units::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// What ends a message to a peer that takes nothing more.
const CLOSING: FailureCause = FailureCause::Refused(Refusal::Closing);

/// How one message leaves.
enum Way {
    Row,
    Flow,
    NotText,
    Closing,
}

/// Both ways out of one shard. Which one it is, is the address's: [`Wires`].
#[derive(Debug)]
pub struct Sending<C> {
    /// The CSV wire.
    pub rows: Outbound<C>,
    /// The binary wire.
    pub flows: Flows<C>,
    wires: Wires,
}

impl<C> Sending<C> {
    /// Nothing on its way.
    #[must_use]
    pub const fn new(rows: Outbound<C>, flows: Flows<C>, wires: Wires) -> Self {
        Self { rows, flows, wires }
    }

    /// The wire messages to that address leave on.
    #[inline]
    #[must_use]
    pub fn wire_of(&self, to: SocketAddr) -> Wire {
        self.wires.of(to)
    }

    /// Whether messages may leave over flows, to whichever address.
    #[inline]
    #[must_use]
    pub const fn has_flows(&self) -> bool {
        self.wires.has_flows()
    }

    /// Operations that can still be accepted, whatever their address.
    #[must_use]
    pub fn room(&self) -> usize {
        match (self.wires.has_rows(), self.wires.has_flows()) {
            (true, false) => self.rows.room(),
            (false, _) => self.flows.room(),
            (true, true) => self.rows.room().min(self.flows.room()),
        }
    }

    /// Whether the address has a place in the tables, however its messages leave.
    #[must_use]
    pub fn has_place(&self, to: SocketAddr) -> bool {
        self.flows.has_place(to) || self.rows.has_place(to)
    }

    /// Operations accepted and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.rows.in_flight() + self.flows.in_flight()
    }

    /// Whether a message could be accepted at all, room aside.
    ///
    /// # Errors
    /// Why not: too large, not text (CSV wire), or not an address to send to.
    pub fn check(&self, to: SocketAddr, payload: &[u8]) -> Result<(), SubmitReason> {
        self.rows.check(to, payload, self.wires.of(to))
    }

    /// As [`check`](Self::check), for a message and its options.
    ///
    /// # Errors
    /// Why not.
    pub fn check_outgoing(&self, outgoing: &Outgoing) -> Result<(), SubmitReason> {
        let wire = self.wires.of(outgoing.to);
        self.rows.check(outgoing.to, &outgoing.payload, wire)?;
        match &outgoing.options {
            Some(options) => check_options(options, &outgoing.payload, wire != Wire::Csv),
            None => Ok(()),
        }
    }

    /// How long a message lives from the moment it is accepted.
    #[must_use]
    pub fn lifetime(&self, outgoing: &Outgoing) -> Duration {
        self.rows.lifetime(outgoing)
    }

    /// Accepts a message that passed [`check`](Self::check). One that has no time left ends at once.
    ///
    /// # Errors
    /// The submission: no slot, or no room for another peer.
    pub fn put(
        &mut self,
        now: Instant,
        submission: Submission<C>,
        counters: &mut Counters,
    ) -> Result<Option<super::ack_tracker::OpKey>, Submission<C>> {
        if submission.deadline.is_some_and(|left| left.is_zero()) {
            self.finish_unsent(submission, FailureCause::Expired, counters);
            return Ok(None);
        }
        let by_rows = match self.way(now, &submission) {
            Way::Row => true,
            Way::NotText => {
                let lost = submission.options.as_deref().and_then(needs_binary);
                let cause = lost.map_or(FailureCause::NotText, FailureCause::Refused);
                self.finish_unsent(submission, cause, counters);
                return Ok(None);
            }
            Way::Closing => {
                self.finish_unsent(submission, CLOSING, counters);
                return Ok(None);
            }
            Way::Flow => false,
        };
        match by_rows {
            true => self.rows.put(now, submission, counters).map(Some),
            false => {
                if submission.options.is_some() {
                    return self.put_with_options(now, submission, counters);
                }
                let Submission { to, payload, tag, deadline, options, completion } = submission;
                let lifetime = deadline.unwrap_or_else(|| self.rows.default_lifetime(payload.len()));
                let put = self.flows.put(now, to, Shared(payload), (completion, tag, lifetime), counters);
                match put {
                    Ok(()) => Ok(None),
                    Err((completion, Shared(payload))) => {
                        let submission = Submission { to, payload, tag, deadline, options, completion };
                        if self.flows.room() == 0 || !self.flows.is_closing(now, to) {
                            return Err(submission);
                        }
                        self.finish_unsent(submission, CLOSING, counters);
                        Ok(None)
                    }
                }
            }
        }
    }

    #[cold]
    fn put_with_options(
        &mut self,
        now: Instant,
        submission: Submission<C>,
        counters: &mut Counters,
    ) -> Result<Option<super::ack_tracker::OpKey>, Submission<C>> {
        let lifetime =
            submission.deadline.unwrap_or_else(|| self.rows.default_lifetime(submission.payload.len()));
        let to = submission.to;
        let put = self.flows.put_with_options(now, submission, lifetime, counters);
        put.or_else(|submission| {
            if self.flows.room() == 0 || !self.flows.is_closing(now, to) {
                return Err(submission);
            }
            self.finish_unsent(submission, CLOSING, counters);
            Ok(())
        })
        .map(|()| None)
    }

    /// How a message to this peer leaves (R-WIRE-1, R-DISC-6).
    fn way(&mut self, now: Instant, submission: &Submission<C>) -> Way {
        match self.wires.of(submission.to) {
            Wire::Csv => return Way::Row,
            Wire::Binary => return Way::Flow,
            Wire::Auto => {}
        }
        let Submission { to, payload, options, .. } = submission;
        let binary_only = options.as_deref().is_some_and(|options| needs_binary(options).is_some());
        match self.flows.standing(now, *to) {
            Standing::Engine => Way::Flow,
            Standing::Closing => Way::Closing,
            Standing::Plain if !binary_only && simdutf8::basic::from_utf8(payload).is_ok() => Way::Row,
            Standing::Plain => Way::NotText,
            // Text that fits a row does not wait for the answer: no first contact costs a round trip more than with v1.
            Standing::Unknown if !binary_only && self.rows.is_single_row(payload) => {
                self.flows.ask(now, *to);
                Way::Row
            }
            Standing::Unknown => Way::Flow,
        }
    }

    /// Retries, expiries, and messages that waited in vain for a peer to say that it speaks the binary wire.
    pub fn handle_timers(&mut self, now: Instant, inflows: &mut Inflows, counters: &mut Counters) {
        let Self { rows, flows, .. } = self;
        let heard_until = flows.look_unread(now);
        rows.handle_timers(now, heard_until, counters);
        flows.handle_timers(now, inflows, counters, &|to, since| rows.has_confirmed(to, since));
        if !flows.has_spilled() {
            return;
        }
        for Spilled { to, payload, options, meta, since } in flows.take_spilled() {
            let Meta { completion, tag, accepted_at, deadline } = meta;
            let text = simdutf8::basic::from_utf8(&payload).is_ok();
            let lost = match options.as_deref().and_then(needs_binary) {
                Some(refusal) => Some(FailureCause::Refused(refusal)),
                None => (!text).then_some(FailureCause::NotText),
            };
            let deadline_left = Some(deadline.since(now));
            let submission = Submission { to, payload, tag, deadline: deadline_left, options, completion };
            counters.messages_accepted -= 1; // It is accepted once more.
            if deadline <= now {
                // It had found no room among rows.
                rows.finish_unsent(submission, FailureCause::Expired, counters);
            } else if let Some(cause) = lost {
                let plain = rows.has_confirmed(to, since);
                let cause = if plain { cause } else { FailureCause::TimedOut };
                rows.finish_unsent(submission, cause, counters);
            } else if let Err(back) = rows.put(now, submission, counters) {
                counters.messages_accepted += 1;
                let Submission { payload, options, completion, .. } = back;
                let meta = Meta { completion, tag, accepted_at, deadline };
                flows.keep_spilled(Spilled { to, payload, options, meta, since });
            }
        }
    }

    /// Whether a payload of this size leaves as one row, and its copy is kept with the operation.
    #[must_use]
    pub fn is_small_row(&self, to: SocketAddr, payload_bytes: usize) -> bool {
        self.rows.is_small(payload_bytes) && self.wires.of(to) == Wire::Csv
    }

    /// Records an outcome for a message that never became an operation.
    pub fn finish_unsent(&mut self, submission: Submission<C>, cause: FailureCause, counters: &mut Counters) {
        self.rows.finish_unsent(submission, cause, counters);
    }

    /// Ends operations at their owner's wish, wherever they are.
    pub fn cancel_where(&mut self, counters: &mut Counters, is_it: impl Fn(&C) -> bool) {
        self.flows.cancel(counters, &is_it);
        if self.wires.has_auto() {
            // It may have gone over to rows, or be about to.
            self.rows.cancel_where(counters, &is_it);
            for message in self.flows.take_spilled() {
                if is_it(&message.meta.completion) {
                    self.end_spilled(message, FailureCause::Cancelled, counters);
                } else {
                    self.flows.keep_spilled(message);
                }
            }
        }
    }

    /// A message on its way from a flow to rows ends.
    fn end_spilled(&mut self, message: Spilled<C>, cause: FailureCause, counters: &mut Counters) {
        let Spilled { to, payload, meta, .. } = message;
        let Meta { completion, tag, .. } = meta;
        counters.messages_accepted -= 1; // It is counted once more.
        let submission = Submission { to, payload, tag, deadline: None, options: None, completion };
        self.rows.finish_unsent(submission, cause, counters);
    }

    /// Ends every operation: the engine stops.
    pub fn stop(&mut self, counters: &mut Counters) {
        self.rows.stop(counters);
        self.flows.stop(counters);
        for message in self.flows.take_spilled() {
            self.end_spilled(message, FailureCause::EngineStopped, counters);
        }
    }

    /// Outcomes recorded so far; the caller drains them.
    pub fn finished(&mut self) -> &mut Vec<Finished<C>> {
        // One list for the caller: nearly always only one of the two has any.
        if self.rows.finished().is_empty() {
            std::mem::swap(self.rows.finished(), self.flows.finished());
        } else if !self.flows.finished().is_empty() {
            let mut more = std::mem::take(self.flows.finished());
            self.rows.finished().append(&mut more);
            *self.flows.finished() = more;
        }
        self.rows.finished()
    }

    /// Something can be sent now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.rows.has_ready() || self.flows.has_ready()
    }

    /// When something is due without input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let rows = self.rows.next_deadline().into_iter();
        rows.chain(self.flows.next_deadline()).chain(self.flows.spilled_until()).min()
    }
}
