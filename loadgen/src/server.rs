//! The receiving side of `bench` and `serve`: takes messages, or sends them back, and keeps its own books.

use crate::audit::{Audit, Seen};
use crate::cli::Mode;
use crate::clock;
use crate::record::{Desk, ServerRecord};
use crate::stages::{Had, Received};
use crate::stop::Stop;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::units::Instant;
use udp_plus::{
    Actor, Context, Message, MessageRef, Outcome, Outgoing, RecvBucket, SendBucket, SubmitReason, Verdict,
};

/// The receiver inside a shard.
pub struct ServerActor {
    mode: Mode,
    record: ServerRecord,
    received: Option<Arc<Received>>,
    desk: Arc<Desk<ServerRecord>>,
    ended: Stop,
}

impl ServerActor {
    /// A receiver with `audit` as its books. When it is dropped, be it in a panic, it leaves them at `desk` and tells
    /// `ended`.
    pub fn new(
        mode: Mode,
        audit: Audit,
        received: Option<Arc<Received>>,
        desk: Arc<Desk<ServerRecord>>,
        ended: Stop,
    ) -> Self {
        Self { mode, record: ServerRecord { audit, ..ServerRecord::default() }, received, desk, ended }
    }
}

impl Actor for ServerActor {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if self.mode == Mode::Echo {
            match context.put_copy(message.sender, message.payload, 0) {
                Ok(()) => {}
                // Not confirmed, so it comes again when there is room.
                Err(SubmitReason::Full | SubmitReason::Stopped) => return Verdict::Refuse,
                Err(_) => *self.record.echo_failed.entry("refused").or_default() += 1,
            }
        }
        let seen = self.record.audit.enter(message.payload);
        if let (Some(received), Seen::New(stamp)) = (&self.received, seen) {
            let (read_ns, at_ns) = (context.now().as_ns(), context.read_clock().as_ns());
            received.note(stamp.slot, Had { read_ns, at_ns });
        }
        if let Some(commit) = message.take_commit() {
            commit.commit();
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        if let Err(error) = outcome {
            *self.record.echo_failed.entry(error.cause.label()).or_default() += 1;
        }
    }
}

impl Drop for ServerActor {
    fn drop(&mut self) {
        self.desk.leave(std::mem::take(&mut self.record));
        self.ended.request();
    }
}

/// The end of the engine wakes the bucket thread, so an idle one need not look up.
const WAIT_MAX: Duration = Duration::from_secs(3_600);
/// With echoes under way it also has outcomes to collect.
const WAIT_ECHO_MAX: Duration = Duration::from_millis(2);

/// The receiver behind the buckets: runs until the engine has stopped and the bucket is empty.
pub fn run_buckets(
    mode: Mode,
    audit: Audit,
    received: Option<&Received>,
    recv: &RecvBucket,
    send: &SendBucket,
) -> ServerRecord {
    let mut record = ServerRecord { audit, ..ServerRecord::default() };
    let mut messages: Vec<Message> = Vec::with_capacity(4_096);
    let mut echoes: Vec<Outgoing> = Vec::new();
    let mut outcomes: Vec<(u64, Outcome)> = Vec::new();
    let mut under_way = 0;
    loop {
        let wait = if under_way > 0 || !echoes.is_empty() { WAIT_ECHO_MAX } else { WAIT_MAX };
        // With echoes left over the send bucket is full: what else came may wait in the receive bucket, which holds the
        // senders back.
        let stopped = recv.is_stopped();
        let count = if echoes.is_empty() { recv.blocking_get_batch(&mut messages, wait) } else { 0 };
        for message in messages.drain(..) {
            let seen = record.audit.enter(message.payload());
            if let (Some(received), Seen::New(stamp)) = (received, seen) {
                let at_ns = clock::now_ns();
                let read_ns = at_ns.saturating_sub(clock::ns(message.waited(Instant::from_ns(at_ns))));
                received.note(stamp.slot, Had { read_ns, at_ns });
            }
            if mode == Mode::Echo {
                echoes.push(Outgoing::to(message.sender(), message.payload().clone()));
            }
            // It is in the books, which is all there is to do with it.
            message.commit();
        }
        if mode == Mode::Echo {
            let taken = if echoes.is_empty() { 0 } else { send.put_batch(&mut echoes) };
            under_way += taken;
            under_way -= if taken == 0 && !echoes.is_empty() {
                send.blocking_outcome_batch(&mut outcomes, wait)
            } else {
                send.outcome_batch(&mut outcomes)
            };
            for (_, outcome) in outcomes.drain(..) {
                if let Err(error) = outcome {
                    *record.echo_failed.entry(error.cause.label()).or_default() += 1;
                }
            }
        }
        if stopped && count == 0 {
            if !echoes.is_empty() {
                *record.echo_failed.entry("engine_stopped").or_default() += echoes.len() as u64;
            }
            return record;
        }
    }
}
