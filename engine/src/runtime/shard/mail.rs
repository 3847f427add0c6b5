//! What comes from other threads and shards, and the messages of it that wait for room.

use super::{Behind, Shard, WAITING_CHECK, submission};
use crate::constants::INBOX_TURN_MAX;
use crate::error::FailureCause;
use crate::message::Outgoing;
use crate::proto::endpoint::Endpoint;
use crate::proto::outbound::Submission;
use crate::runtime::actor::App;
use crate::runtime::completion::{Completion, DeliveryCell};
use crate::runtime::driver::Driver;
use crate::runtime::mailbox::Mail;
use crate::runtime::run::Run;
use crate::units::Instant;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// So many mails a cancellation counts as: its operation is looked for among all.
const CANCEL_WORK: usize = 64;

/// A message without an operation yet; its deadline runs.
pub(super) struct Waiting {
    pub(super) outgoing: Outgoing,
    pub(super) completion: Completion,
    expires_at: Instant,
}

/// Messages for which there is room, but no place for their peer: set aside, so that they hold up nobody else's.
#[derive(Default)]
pub(super) struct Placeless {
    pub(super) messages: VecDeque<Waiting>,
    /// Their peers, or those of a moment ago. What is put to them meanwhile follows: messages of a lane stay in order.
    peers: BTreeSet<SocketAddr>,
}

impl Placeless {
    fn push(&mut self, waiting: Waiting) {
        self.peers.insert(waiting.outgoing.to);
        self.messages.push_back(waiting);
    }
}

/// A message that is being put: what `stop` finds of it should a plug-in panic before it has become an operation. A
/// [`Delivery`](super::completion::Delivery) sees to itself.
pub(super) struct InHand {
    pub(super) completion: Completion,
    pub(super) tag: u64,
    /// With no more of them after it, it has become none.
    pub(super) operations_before: usize,
}

impl<D: Driver, A: App> Shard<D, A> {
    /// Mail from other threads. Messages to send wait here while there is no room for operations; everything else is
    /// handled at once; forwarded rows wait for room for their confirms.
    pub(super) fn read_inbox(&mut self, now: Instant) -> usize {
        if self.inbox.is_empty() {
            self.local.shared.links[self.place.shard as usize].mailbox.take(&mut self.inbox);
        }
        // Only now: what was put after they had changed may be in it.
        self.endpoint.look_at_keys(now);
        let mut handled = 0;
        while handled < INBOX_TURN_MAX
            && (self.has_confirm_room() || !matches!(self.inbox.front(), Some(Mail::Forwarded { .. })))
            && let Some(mail) = self.inbox.pop_front()
        {
            handled += match &mail {
                Mail::PutEach(run) => run.len(),
                Mail::Cancel(_) => CANCEL_WORK,
                _ => 1,
            };
            self.handle_mail(now, mail);
        }
        handled + self.put_waiting(now)
    }

    /// Puts what waits, in order, as far as there is room. Every now and then looks at all that wait: a place may have become
    /// free for a peer that had none, and what has expired has its outcome.
    fn put_waiting(&mut self, now: Instant) -> usize {
        let check_all = now.since(self.waiting_checked_at) >= WAITING_CHECK && self.has_waiting();
        let mut put = 0;
        if check_all {
            self.waiting_checked_at = now;
            put += self.put_placeless(now);
        }
        let mut left = if check_all { self.waiting.len() } else { self.waiting.len().min(INBOX_TURN_MAX) };
        while left > 0
            && (check_all || self.endpoint.outbound.room() > 0)
            && let Some(next) = self.waiting.pop_front()
        {
            left -= 1;
            if self.is_placeless(next.outgoing.to) {
                self.placeless.push(next);
                continue;
            }
            match self.put_one_waiting(now, next) {
                Ok(()) => put += 1,
                Err(back) if self.endpoint.outbound.room() > 0 => self.placeless.push(back),
                Err(back) if check_all => self.waiting.push_back(back),
                Err(back) => {
                    self.waiting.push_front(back);
                    break;
                }
            }
        }
        put
    }

    /// Puts those whose peers have places now. To each of the others one is tried.
    fn put_placeless(&mut self, now: Instant) -> usize {
        let mut put = 0;
        self.placeless.peers.clear();
        for _ in 0..self.placeless.messages.len() {
            let Some(next) = self.placeless.messages.pop_front() else { break };
            if now < next.expires_at && self.placeless.peers.contains(&next.outgoing.to) {
                self.placeless.push(next);
                continue;
            }
            match self.put_one_waiting(now, next) {
                Ok(()) => put += 1,
                Err(back) => self.placeless.push(back),
            }
        }
        put
    }

    /// Gives it back if it has to wait on.
    fn put_one_waiting(&mut self, now: Instant, waiting: Waiting) -> Result<(), Waiting> {
        let Waiting { mut outgoing, completion, expires_at } = waiting;
        if now >= expires_at {
            let Endpoint { outbound, counters, .. } = &mut self.endpoint;
            outbound.finish_unsent(submission(outgoing, completion), FailureCause::Expired, counters);
            return Ok(());
        }
        outgoing.deadline = Some(expires_at.since(now));
        let put = self.put(now, outgoing, completion);
        put.map_err(|(outgoing, completion)| Waiting { outgoing, completion, expires_at })
    }

    /// Whether a message to that address goes behind those whose peers have no place. What is new to the engine does while there
    /// are any: they were first.
    fn is_placeless(&self, to: SocketAddr) -> bool {
        !self.placeless.messages.is_empty()
            && (self.placeless.peers.contains(&to) || !self.endpoint.outbound.has_place(to))
    }

    /// Messages wait that `put_waiting` looks at every now and then.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty() || !self.placeless.messages.is_empty()
    }

    fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Put(mut outgoing, completion) => {
                self.has_others = true;
                let Endpoint { outbound, counters, .. } = &mut self.endpoint;
                // Batches come unchecked; everything else was checked by the thread that put it.
                if matches!(completion, Completion::Queue(_))
                    && let Err(reason) = outbound.check_outgoing(&outgoing)
                {
                    if self.local.shared.permit_bytes(outgoing.payload.len()) == 0 {
                        outgoing.payload = Bytes::new(); // What goes back with the outcome is what was taken.
                    }
                    return outbound.finish_unsent(
                        submission(outgoing, completion),
                        reason.cause(),
                        counters,
                    );
                }
                let (lifetime, has_room) = (outbound.lifetime(&outgoing), outbound.room() > 0);
                let mut waiting = Waiting { outgoing, completion, expires_at: now + lifetime };
                if self.waiting.is_empty() && has_room {
                    if self.is_placeless(waiting.outgoing.to) {
                        return self.placeless.push(waiting);
                    }
                    waiting.outgoing.deadline = Some(lifetime);
                    match self.put(now, waiting.outgoing, waiting.completion) {
                        Ok(()) => return,
                        Err((outgoing, completion)) => {
                            (waiting.outgoing, waiting.completion) = (outgoing, completion)
                        }
                    }
                    return self.placeless.push(waiting);
                }
                self.waiting.push_back(waiting);
            }
            Mail::PutEach(run) => self.put_run(now, run),
            Mail::Cancel(cell) => self.cancel(&cell),
            Mail::Commit(key, committed) => {
                let Endpoint { outbound, inflows, .. } = &mut self.endpoint;
                outbound.flows.handle_commit(now, key, committed, inflows);
            }
            Mail::Forwarded { from, local, datagram } => {
                let Self { app, endpoint, batch, local: shard_local, .. } = self;
                endpoint.counters.forwarded_in += 1;
                let train = endpoint.begin_train(now, from, local, batch);
                endpoint.handle_datagram(&train, &datagram, batch, &mut Behind { app, local: shard_local });
                endpoint.end_train();
                self.local.shared.links[self.place.shard as usize].mailbox.forwarded_done(1);
            }
            Mail::Outcome(tag, outcome) => {
                self.local.remote_due -= 1;
                self.with_context(|app, context| app.outcome(context, tag, outcome))
            }
        }
    }

    /// Takes many messages of one length: those that go behind others into a datagram straight from where they were written.
    fn put_run(&mut self, now: Instant, run: Run) {
        self.has_others = true;
        // Kept where `stop` finds what is left of it, should a plug-in panic in the middle.
        self.run = Some(run);
        while let Some(run) = &mut self.run
            && let Some((tag, payload)) = run.first()
        {
            let Endpoint { outbound, counters, .. } = &mut self.endpoint;
            if self.waiting.is_empty()
                && let Some(index) = outbound.flows.takes_direct(&run.to, run.bytes())
            {
                let books = (|| Completion::Queue(run.queue), counters);
                let (put, _) =
                    outbound.flows.put_each_direct(index, now, run.bytes(), &mut run.writers(), books);
                run.done += put;
                continue;
            }
            let outgoing = Outgoing::to(run.to, self.local.arena.copy(payload)).tag(tag);
            let completion = Completion::Queue(run.queue);
            run.done += 1;
            self.handle_mail(now, Mail::Put(outgoing, completion));
        }
        if let Some(run) = self.run.take() {
            self.local.shared.runs.give_back(run);
        }
    }

    /// Gives the message back if there is no room for it now.
    fn put(
        &mut self,
        now: Instant,
        outgoing: Outgoing,
        completion: Completion,
    ) -> Result<(), (Outgoing, Completion)> {
        let submission = submission(outgoing, completion);
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        let (mut cell, tag, operations_before) = (None, submission.tag, outbound.in_flight());
        let mut in_hand = |completion| self.in_hand = Some(InHand { completion, tag, operations_before });
        match submission.completion {
            Completion::Future(ref promise) => cell = promise.cell().cloned(),
            Completion::Queue(number) => in_hand(Completion::Queue(number)),
            Completion::Remote(shard) => in_hand(Completion::Remote(shard)),
            Completion::Actor => {}
        }
        let put = outbound.put(now, submission, counters);
        self.in_hand = None;
        match put {
            Ok(key) => {
                if let (Some(cell), Some(key)) = (cell, key) {
                    cell.set_key(key);
                }
                Ok(())
            }
            Err(Submission { to, payload, tag, deadline, options, completion }) => {
                Err((Outgoing { to, payload, tag, deadline, options }, completion))
            }
        }
    }

    fn cancel(&mut self, cell: &Arc<DeliveryCell>) {
        if cell.has_ended() {
            return;
        }
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        if let Some(key) = cell.key() {
            return outbound.rows.cancel(key, counters);
        }
        // Not in a slot yet: then it waits for one.
        let is_it = |completion: &Completion| matches!(completion, Completion::Future(promise) if promise.is_of(cell));
        let found = [&mut self.waiting, &mut self.placeless.messages].into_iter().find_map(|waiting| {
            let index = waiting.iter().position(|waiting| is_it(&waiting.completion))?;
            waiting.remove(index)
        });
        if let Some(Waiting { outgoing, completion, .. }) = found {
            outbound.finish_unsent(submission(outgoing, completion), FailureCause::Cancelled, counters);
        } else {
            outbound.cancel_where(counters, is_it);
        }
    }
}
