//! The last words: an outcome for everything that is left.

use super::Shard;
use super::mail::{InHand, Waiting};
use crate::message::Outgoing;
use crate::proto::endpoint::Endpoint;
use crate::runtime::actor::App;
use crate::runtime::completion::Completion;
use crate::runtime::driver::Driver;
use crate::runtime::mailbox::Mail;
use crate::runtime::shared::Phase;

impl<D: Driver, A: App> Shard<D, A> {
    /// The last words: every operation that is left ends `EngineStopped`. `failed` says that the loop panicked; the actor
    /// is not called again then.
    ///
    /// May be called again after it panicked, with `failed` set.
    pub(crate) fn stop(&mut self, failed: bool) {
        self.local.phase = Phase::Stopping;
        self.local.shared.links[self.place.shard as usize].pulse.rest();
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        if let Some(InHand { completion, tag, operations_before }) = self.in_hand.take()
            && outbound.in_flight() <= operations_before
        {
            self.local.shared.finish_stopped(self.place.shard, tag, completion);
        }
        outbound.stop(counters);
        if let Some(run) = self.run.take() {
            self.local.shared.finish_stopped_run(self.place.shard, &run);
        }
        // Left over where an actor panicked in the middle of them; their permits went back already.
        while let Some((completion, tag, outcome)) = self.next_finishing() {
            match completion {
                Completion::Future(promise) => promise.finish(outcome),
                Completion::Queue(number) => self.queue_outcome(number, tag, outcome),
                Completion::Remote(shard) => self.local.shared.post(shard, Mail::Outcome(tag, outcome)),
                Completion::Actor => {}
            }
        }
        self.finishing.clear();
        self.finishing_done = 0;
        if failed {
            self.endpoint.outbound.finished().retain(|op| !matches!(op.completion, Completion::Actor));
        }
        self.finish_operations();
        self.hand_over_outcomes();
        self.app.end_turn();
        while let Some(Waiting { outgoing, completion, .. }) =
            self.placeless.messages.pop_front().or_else(|| self.waiting.pop_front())
        {
            self.finish_stopped(outgoing, completion);
        }
        self.send_closes(failed);
        self.publish();
    }

    /// Tells the peers of the binary wire (R-CLOSE-1). What the socket does not take now is not tried again. What came last
    /// is acknowledged with it, unless the shard `failed`: then nobody knows whether it was taken.
    fn send_closes(&mut self, failed: bool) {
        if failed {
            self.discard();
        }
        let now = self.driver.now();
        loop {
            let Self { endpoint: Endpoint { outbound, inflows, counters, .. }, batch, .. } = self;
            let more = outbound.flows.poll_closes(now, !failed, inflows, batch, counters);
            if !self.batch.trains().is_empty() {
                self.transmit();
                self.discard();
            }
            if !more {
                return;
            }
        }
    }

    /// What is left in the batch does not leave any more.
    fn discard(&mut self) {
        self.endpoint.counters.datagrams_discarded += self.batch.datagrams() as u64;
        self.batch.clear();
    }

    /// After every shard's [`stop`](Self::stop): what was posted here meanwhile. And once more after every shard's first one: the
    /// outcomes of what this shard's actor had put in its last turn. May be called again after it panicked, with `failed` set.
    pub(crate) fn stop_inbox(&mut self, failed: bool) {
        loop {
            if self.inbox.is_empty() {
                self.local.shared.links[self.place.shard as usize].mailbox.take(&mut self.inbox);
            }
            match self.inbox.pop_front() {
                None => return,
                Some(Mail::Put(outgoing, completion)) => self.finish_stopped(outgoing, completion),
                Some(Mail::PutEach(run)) => self.local.shared.finish_stopped_run(self.place.shard, &run),
                Some(Mail::Outcome(tag, outcome)) if !failed => {
                    self.with_context(|app, context| app.outcome(context, tag, outcome));
                }
                Some(Mail::Cancel(_) | Mail::Commit(..) | Mail::Forwarded { .. } | Mail::Outcome(..)) => {}
            }
        }
    }

    fn finish_stopped(&self, outgoing: Outgoing, completion: Completion) {
        let bytes = self.local.shared.permit_bytes(outgoing.payload.len());
        self.local.shared.release(self.place.shard, 1, bytes as u64);
        self.local.shared.finish_stopped(self.place.shard, outgoing.tag, completion);
    }
}
