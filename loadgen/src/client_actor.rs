//! The sending side inside a shard.

use crate::cli::Mode;
use crate::generator::{self, Generator, Outlet, Put};
use crate::payload::{self, Stamp};
use crate::plan::Terms;
use crate::sizes::Lengths;
use crate::supply::Supply;
use crate::targets::Targets;
use udp_plus::units::Instant;
use udp_plus::{Actor, Context, MessageRef, Outcome, Refusal, SubmitReason, Verdict};

/// One shard's generator.
pub struct ClientActor {
    generator: Generator,
    clock: TurnClock,
    /// Bytes of every payload, if all are written where the engine wants them.
    copied_bytes: Option<usize>,
    lengths: Lengths,
    targets: Targets,
    supply: Supply,
}

/// The clock, read once for every so many events and at least once a turn.
#[derive(Default)]
struct TurnClock {
    /// The turn it was read in.
    turn: Option<Instant>,
    now_ns: u64,
    uses_left: u32,
}

impl TurnClock {
    fn read(&mut self, context: &Context<'_>, every: u32) -> u64 {
        self.within(context.now(), every, || context.read_clock().as_ns())
    }

    /// Outcomes come before `on_turn` and behind it, so a turn's beginning is all that tells turns apart.
    #[inline]
    fn within(&mut self, turn: Instant, every: u32, read: impl FnOnce() -> u64) -> u64 {
        if self.uses_left == 0 || self.turn != Some(turn) {
            *self = Self { turn: Some(turn), now_ns: read(), uses_left: every };
        }
        self.uses_left -= 1;
        self.now_ns
    }
}

impl ClientActor {
    /// An actor around `generator`.
    pub fn new(generator: Generator) -> Self {
        let plan = &generator.run().plan;
        let copied_bytes = plan.lengths.if_fixed().filter(|&bytes| plan.terms.are_copied(bytes));
        let (lengths, supply) = (plan.lengths.clone(), Supply::new(plan.slots_each()));
        let targets = generator.run().targets.clone();
        Self { generator, clock: TurnClock::default(), copied_bytes, lengths, targets, supply }
    }
}

/// The engine, as the generator sees it from inside the shard.
struct ShardOutlet<'a, 'b> {
    context: &'a mut Context<'b>,
    targets: &'a Targets,
    terms: Terms,
    copied_bytes: Option<usize>,
    lengths: &'a Lengths,
    supply: &'a mut Supply,
}

impl Outlet for ShardOutlet<'_, '_> {
    fn clock_ns(&self) -> u64 {
        self.context.read_clock().as_ns()
    }

    #[inline]
    fn put(&mut self, stamp: Stamp) -> Put {
        let (bytes, to) = (self.lengths.of(stamp.number), self.targets.of(stamp.number));
        let result = if self.copied_bytes.is_some() || self.terms.are_copied(bytes) {
            let (tag, write) = payload::writer(stamp);
            self.context.put_with(to, bytes, tag, write)
        } else if self.context.room() == 0 {
            return Put::Full;
        } else {
            let outgoing = self.supply.message(stamp, bytes, to, &self.terms);
            self.context.put(outgoing).map_err(|error| error.reason)
        };
        result.map_or_else(refused, |()| Put::Accepted)
    }

    #[inline]
    fn put_each(&mut self, stamps: impl Iterator<Item = Stamp>) -> (u32, Put) {
        let (Some(bytes), Some(to)) = (self.copied_bytes, self.targets.if_one()) else {
            return generator::put_one_by_one(self, stamps);
        };
        let (accepted, result) = self.context.put_each(to, bytes, payload::writers(stamps));
        (accepted as u32, result.map_or_else(refused, |()| Put::Accepted))
    }
}

/// What a refusal means to a generator.
pub fn refused(reason: SubmitReason) -> Put {
    match reason {
        SubmitReason::Full | SubmitReason::Stopped => Put::Full,
        SubmitReason::Refused(Refusal::TooLarge) => Put::Refused("refused_too_large"),
        SubmitReason::Refused(Refusal::BadAddress) => Put::Refused("refused_bad_address"),
        SubmitReason::NotText => Put::Refused("not_text"),
        _ => Put::Refused("refused"),
    }
}

impl Actor for ClientActor {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        let now = self.clock.read(context, self.generator.clock_every());
        if self.generator.run().plan.mode == Mode::Echo {
            self.generator.handle_echo(message.payload, now);
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, context: &mut Context<'_>, tag: u64, outcome: Outcome) {
        let now = self.clock.read(context, self.generator.clock_every());
        self.generator.handle_outcome(tag, &outcome, now);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let terms = self.generator.run().plan.terms;
        let Self { copied_bytes, lengths, targets, supply, .. } = self;
        let mut outlet =
            ShardOutlet { context, targets, terms, copied_bytes: *copied_bytes, lengths, supply };
        self.generator.offer(&mut outlet);
        // Until the next outcome comes, time passes.
        self.clock.uses_left = 0;
        let now = context.now().as_ns();
        self.generator.publish(now);
        if let Some(at) = self.generator.next_turn_ns(now) {
            context.wake_at(Instant::from_ns(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_kept_over_a_sleep() {
        let (mut clock, mut reads) = (TurnClock::default(), 0);
        let (first, second) = (Instant::from_ns(1_000), Instant::from_ns(9_000));
        for (turn, now, expected) in
            [(first, 1_001, 1_001), (first, 1_002, 1_001), (second, 9_001, 9_001), (second, 9_002, 9_001)]
        {
            let read = || {
                reads += 1;
                now
            };
            assert_eq!(clock.within(turn, 32, read), expected);
        }
        assert_eq!(reads, 2);
        // Not for too many events either.
        (0..31).for_each(|_| _ = clock.within(second, 32, || 9_003));
        assert_eq!(clock.now_ns, 9_003);
    }
}
