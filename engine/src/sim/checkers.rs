//! The verdict on a run, from what the applications put, got and were told. The engine's counters are checked against
//! this, never the other way round.

use crate::message::Outcome;
use std::collections::BTreeMap;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An operation without an outcome at the end.
    NoOutcome(u64),
    /// An operation with more than one.
    TwoOutcomes(u64),
    /// Delivered says the sender, but the receiver never got it.
    FalseSuccess(u64),
    /// The receiver got it more than once.
    DeliveredTwice(u64),
    /// The receiver got other bytes than were put, or nobody put it, or it was meant for another.
    WrongMessage(u64),
    /// Put after the network healed, and not delivered.
    NotDeliveredWhenHealed(u64),
    /// Counters that do not add up: what, and by how much.
    Ledger(String),
    /// Memory that should be free again is not.
    Leak(String),
    /// Virtual time ran out.
    NeverFinished,
}

/// One planned message and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) receiver: usize,
    pub(crate) payload: Vec<u8>,
    /// Put after the network healed, to a live engine.
    pub(crate) must_arrive: bool,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) received: u32,
}

/// Everything the applications saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) fates: BTreeMap<u64, Fate>,
    pub(crate) violations: Vec<Violation>,
}

impl Log {
    /// An application got a message. Payloads begin with their number in 16 hex digits.
    pub(crate) fn received(&mut self, receiver: usize, payload: &[u8]) {
        let number = payload
            .get(..16)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .unwrap_or(u64::MAX);
        match self.fates.get_mut(&number) {
            Some(fate) if fate.receiver == receiver && fate.payload == payload => {
                fate.received += 1;
                if fate.received > 1 {
                    self.violations.push(Violation::DeliveredTwice(number));
                }
            }
            _ => self.violations.push(Violation::WrongMessage(number)),
        }
    }

    /// An application was told an outcome.
    pub(crate) fn outcome(&mut self, number: u64, outcome: Outcome) {
        let Some(fate) = self.fates.get_mut(&number) else {
            return self.violations.push(Violation::WrongMessage(number));
        };
        fate.outcomes.push(outcome);
        if fate.outcomes.len() > 1 {
            self.violations.push(Violation::TwoOutcomes(number));
        }
        if outcome.is_err() && fate.must_arrive {
            self.violations.push(Violation::NotDeliveredWhenHealed(number));
        }
    }

    /// Nothing is pending any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.fates.values().all(|fate| !fate.outcomes.is_empty())
    }

    /// The end: what is missing now is missing for good.
    pub(crate) fn finish(&mut self) {
        for (number, fate) in &self.fates {
            if fate.outcomes.is_empty() {
                self.violations.push(Violation::NoOutcome(*number));
            }
            // Only now: a message may wait in its receive bucket for a slow application.
            if fate.received == 0 && fate.outcomes.iter().any(Result::is_ok) {
                self.violations.push(Violation::FalseSuccess(*number));
            }
        }
    }
}
