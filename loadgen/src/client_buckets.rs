//! The sending side through the buckets: one thread that puts and takes in batches.

use crate::cli::Mode;
use crate::client_actor::refused;
use crate::clock;
use crate::generator::{self, Generator, LARGE_BYTES, Outlet, Put};
use crate::payload::{self, Stamp};
use crate::plan::Terms;
use crate::sizes::Lengths;
use crate::supply::Supply;
use crate::targets::Targets;
use std::time::Duration;
use udp_plus::{Message, Outcome, Outgoing, RecvBucket, SendBucket};

/// Messages handed over at once, at most.
const BATCH_MAX: usize = 1_024;
/// How long to wait for something to happen before having another look at everything.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// In echo mode outcomes come by one way and echoes by another, and a thread waits for one: not for long.
const WAIT_ECHO_MAX: Duration = Duration::from_millis(1);

struct BatchOutlet<'a> {
    send: &'a SendBucket,
    targets: Targets,
    terms: Terms,
    lengths: Lengths,
    batch: Vec<Outgoing>,
    supply: Supply,
    /// Put since it was looked at.
    taken: usize,
}

impl BatchOutlet<'_> {
    /// What `batch` holds goes into the bucket as far as there is room; true if something went there since the last time.
    fn flush(&mut self) -> bool {
        if !self.batch.is_empty() {
            self.taken += self.send.put_batch(&mut self.batch);
        }
        std::mem::take(&mut self.taken) > 0
    }
}

impl Outlet for BatchOutlet<'_> {
    fn clock_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn put(&mut self, stamp: Stamp) -> Put {
        if self.batch.len() >= BATCH_MAX {
            return Put::Full;
        }
        self.batch.push(self.supply.message(
            stamp,
            self.lengths.of(stamp.number),
            self.targets.of(stamp.number),
            &self.terms,
        ));
        Put::Accepted
    }

    fn put_each(&mut self, stamps: impl Iterator<Item = Stamp>) -> (u32, Put) {
        // Larger ones come one by one (`clock_every`): better handed over in batches.
        let small = |bytes: &usize| self.terms.are_copied(*bytes) && *bytes <= LARGE_BYTES;
        let (Some(bytes), Some(to)) = (self.lengths.if_fixed().filter(small), self.targets.if_one()) else {
            return generator::put_one_by_one(self, stamps);
        };
        let (accepted, result) = self.send.put_each(to, bytes, payload::writers(stamps));
        self.taken += accepted;
        (accepted as u32, result.map_or_else(refused, |()| Put::Accepted))
    }
}

/// Runs `generator` to its end, or until the engine stops.
pub fn run(mut generator: Generator, send: &SendBucket, recv: &RecvBucket) {
    let plan = &generator.run().plan;
    let echo = plan.mode == Mode::Echo;
    let mut outlet = BatchOutlet {
        send,
        lengths: plan.lengths.clone(),
        taken: 0,
        targets: generator.run().targets.clone(),
        terms: plan.terms,
        batch: Vec::with_capacity(BATCH_MAX),
        supply: Supply::new(plan.slots_each()),
    };
    let mut outcomes: Vec<(u64, Outcome)> = Vec::with_capacity(plan.slots_each());
    let mut messages: Vec<Message> = Vec::with_capacity(if echo { plan.slots_each() } else { 0 });
    loop {
        generator.offer(&mut outlet);
        let taken = outlet.flush();
        send.outcome_batch(&mut outcomes);
        if echo {
            recv.get_batch(&mut messages);
        }
        let idle = !taken && outcomes.is_empty() && messages.is_empty();
        let now = clock::now_ns();
        if idle && !generator.publish(now) {
            wait(&generator, now, echo, (send, recv), (&mut outcomes, &mut messages));
        }
        handle(&mut generator, &mut outcomes, &mut messages);
        let done = generator.publish(clock::now_ns());
        if done && outlet.batch.is_empty() || recv.is_stopped() {
            // After a stop, what the engine still owes is here by now.
            send.outcome_batch(&mut outcomes);
            handle(&mut generator, &mut outcomes, &mut messages);
            generator.withdraw(outlet.batch.iter().map(|outgoing| outgoing.payload()));
            generator.publish(clock::now_ns());
            return;
        }
    }
}

fn wait(
    generator: &Generator,
    now: u64,
    echo: bool,
    (send, recv): (&SendBucket, &RecvBucket),
    (outcomes, messages): (&mut Vec<(u64, Outcome)>, &mut Vec<Message>),
) {
    let until_due =
        generator.next_turn_ns(now).map_or(WAIT_MAX, |at| Duration::from_nanos(at.saturating_sub(now)));
    let mut timeout = until_due.min(if echo { WAIT_ECHO_MAX } else { WAIT_MAX });
    if generator.outstanding() == 0 {
        // Nothing is due to come, so the buckets would return at once.
        return clock::sleep(timeout);
    }
    if echo {
        recv.blocking_get_batch(messages, timeout);
        timeout = Duration::ZERO;
    }
    if timeout > Duration::ZERO {
        send.blocking_outcome_batch(outcomes, timeout);
    }
}

fn handle(generator: &mut Generator, outcomes: &mut Vec<(u64, Outcome)>, messages: &mut Vec<Message>) {
    let every = generator.clock_every() as usize;
    for batch in outcomes.chunks(every) {
        let now = clock::now_ns();
        for (tag, outcome) in batch {
            generator.handle_outcome(*tag, outcome, now);
        }
    }
    outcomes.clear();
    for batch in messages.chunks(every) {
        let now = clock::now_ns();
        for message in batch {
            generator.handle_echo(message.payload(), now);
        }
    }
    messages.clear();
}
