//! A checker that never says no proves nothing: each promise the [`Log`] looks after is broken, and it has to say so.

use super::checkers::{Fate, Kind, Log, Violation};
use super::trace::Trace;
use super::v1_peer::V1Sent;
use super::v1_watch::Brought;
use crate::config::Wire;
use crate::error::{DeliveryError, FailureCause, Reached, Refusal};
use crate::message::{Delivered, Level, Outcome};
use crate::units::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

const NUMBER: u64 = 7;
const SENDER: usize = 0;
/// It has a bucket.
const RECEIVER: usize = 1;
/// It is an actor's.
const ACTOR: usize = 2;
const LIFETIME: Duration = Duration::from_secs(10);

fn payload(number: u64) -> Vec<u8> {
    format!("{number:016x} and more").into_bytes()
}

/// A message, not put yet.
fn fate(number: u64, receiver: usize) -> Fate {
    let fate = Fate::new(Kind::BetweenEngines, SENDER, receiver, payload(number));
    Fate { sent: true, must_arrive: true, lifetime: LIFETIME, ..fate }
}

/// A log with this message, which is put now.
fn with(fate: Fate) -> Log {
    let mut log = Log::new(Trace::default());
    log.get_at_once.insert(ACTOR);
    add(&mut log, NUMBER, fate);
    log
}

fn add(log: &mut Log, number: u64, fate: Fate) {
    log.fates.insert(number, fate);
    log.accepted(number, Some(0));
}

fn comes(log: &mut Log, number: u64, receiver: usize) {
    log.received(receiver, &payload(number), (None, Level::Accepted), None);
}

fn delivered(level: Level) -> Outcome {
    Ok(Delivered::new(level, 1, Duration::ZERO, Duration::ZERO))
}

fn failed(cause: FailureCause, reached: Reached) -> Outcome {
    Err(DeliveryError { cause, reached })
}

fn passes(log: &mut Log, time: Duration) {
    log.trace.at(log.trace.now() + time);
}

/// What it says in the end.
fn verdict(mut log: Log) -> Vec<Violation> {
    log.finish();
    log.violations
}

#[test]
fn what_goes_well_is_no_violation() {
    let mut log = with(fate(NUMBER, ACTOR));
    comes(&mut log, NUMBER, ACTOR);
    log.outcome(NUMBER, delivered(Level::Accepted));
    assert!(log.is_complete());
    assert_eq!(verdict(log), []);
}

#[test]
fn outcomes_that_are_missing_too_many_or_late() {
    assert!(verdict(with(fate(NUMBER, RECEIVER))).contains(&Violation::NoOutcome(NUMBER)));

    let mut log = with(fate(NUMBER, RECEIVER));
    comes(&mut log, NUMBER, RECEIVER);
    (0..2).for_each(|_| log.outcome(NUMBER, delivered(Level::Accepted)));
    assert_eq!(verdict(log), [Violation::TwoOutcomes(NUMBER)]);

    let mut log = with(Fate { must_arrive: false, ..fate(NUMBER, RECEIVER) });
    passes(&mut log, LIFETIME + Duration::from_millis(251));
    log.outcome(NUMBER, failed(FailureCause::TimedOut, Reached::Unknown));
    assert_eq!(verdict(log), [Violation::Late(NUMBER, Duration::from_millis(251))]);

    // An engine that was shut down had accepted it.
    let mut log = with(fate(NUMBER, RECEIVER));
    log.draining(SENDER);
    log.drained(SENDER, &BTreeSet::new());
    assert_eq!(log.violations, [Violation::NoOutcome(NUMBER)]);
}

#[test]
fn success_that_is_none() {
    // In a bucket it may come later, but it has to come.
    let mut log = with(fate(NUMBER, RECEIVER));
    log.outcome(NUMBER, delivered(Level::Accepted));
    assert_eq!(log.violations, []);
    assert_eq!(verdict(log), [Violation::FalseSuccess(NUMBER)]);

    // Nor does a crash excuse it, but of what was in that bucket.
    let crashes = |was_there: bool| {
        let mut log = with(fate(NUMBER, RECEIVER));
        if was_there {
            log.lost_in_memory(RECEIVER, &payload(NUMBER));
        }
        log.crashed(RECEIVER, &BTreeSet::new());
        log.outcome(NUMBER, delivered(Level::Accepted));
        verdict(log)
    };
    assert_eq!((crashes(true), crashes(false)), (Vec::new(), vec![Violation::FalseSuccess(NUMBER)]));
    let mut log = with(fate(NUMBER, RECEIVER));
    log.lost_in_memory(RECEIVER, &payload(NUMBER));
    log.outcome(NUMBER, failed(FailureCause::PeerRestarted, Reached::Never));
    assert!(verdict(log).contains(&Violation::ReachedAfterAll(NUMBER)));
    let mut log = with(fate(NUMBER, RECEIVER));
    log.lost_in_memory(ACTOR, &payload(NUMBER));
    assert_eq!(log.violations, [Violation::WrongMessage(NUMBER)]);

    let mut log = with(fate(NUMBER, ACTOR));
    log.outcome(NUMBER, delivered(Level::Accepted));
    comes(&mut log, NUMBER, ACTOR);
    assert_eq!(verdict(log), [Violation::FalseSuccess(NUMBER)]);

    let committed = Fate { options: (None, Level::Committed), commits: false, ..fate(NUMBER, RECEIVER) };
    let mut log = with(committed);
    log.received(RECEIVER, &payload(NUMBER), (None, Level::Committed), None);
    log.outcome(NUMBER, delivered(Level::Committed));
    assert_eq!(verdict(log), [Violation::FalseCommit(NUMBER)]);

    let mut log = with(fate(NUMBER, RECEIVER));
    comes(&mut log, NUMBER, RECEIVER);
    log.fates.get_mut(&NUMBER).unwrap().committed = true;
    log.outcome(NUMBER, delivered(Level::Committed));
    assert_eq!(verdict(log), [Violation::WrongLevel(NUMBER)]);
}

#[test]
fn messages_that_come_twice_changed_or_to_another() {
    let twice = |restarts: bool, by_rows: bool| {
        let mut log = with(Fate { by_rows, ..fate(NUMBER, RECEIVER) });
        comes(&mut log, NUMBER, RECEIVER);
        if restarts {
            log.crashed(RECEIVER, &BTreeSet::new());
        }
        comes(&mut log, NUMBER, RECEIVER);
        log.outcome(NUMBER, delivered(Level::Accepted));
        verdict(log)
    };
    for verdict in [twice(false, false), twice(false, true), twice(true, false)] {
        assert_eq!(verdict, [Violation::DeliveredTwice(NUMBER)]);
    }
    assert_eq!(twice(true, true), [], "R-DEDUP-6");

    let wrong = |receive: fn(&mut Log)| {
        let mut log = with(fate(NUMBER, RECEIVER));
        receive(&mut log);
        log.violations
    };
    let violation = [Violation::WrongMessage(NUMBER)];
    assert_eq!(wrong(|log| comes(log, NUMBER, ACTOR)), violation);
    assert_eq!(
        wrong(|log| _ = log.received(RECEIVER, b"0000000000000007 or less", (None, Level::Accepted), None)),
        violation
    );
    assert_eq!(
        wrong(|log| _ = log.received(RECEIVER, &payload(NUMBER), (Some(1), Level::Accepted), None)),
        violation
    );
    assert_eq!(
        wrong(|log| _ = log.received(RECEIVER, &payload(NUMBER), (None, Level::Accepted), Some(b"x"))),
        violation
    );
    assert_eq!(wrong(|log| comes(log, 8, RECEIVER)), [Violation::WrongMessage(8)], "nobody put it");
    assert_eq!(wrong(|log| log.outcome(8, delivered(Level::Accepted))), [Violation::WrongMessage(8)]);
}

#[test]
fn a_lane_out_of_order() {
    let mut log = with(Fate { lane: Some(3), ..fate(NUMBER, RECEIVER) });
    add(&mut log, 8, Fate { lane: Some(3), ..fate(8, RECEIVER) });
    comes(&mut log, 8, RECEIVER);
    assert_eq!(log.violations, [Violation::OutOfTurn(8)]);
}

#[test]
fn failures_that_say_what_is_not_so() {
    let failing = |cause, reached| {
        let mut log = with(Fate { must_arrive: false, ..fate(NUMBER, RECEIVER) });
        comes(&mut log, NUMBER, RECEIVER);
        log.outcome(NUMBER, failed(cause, reached));
        verdict(log)
    };
    let closing = FailureCause::Refused(Refusal::Closing);
    assert_eq!(failing(FailureCause::PeerRestarted, Reached::Unknown), [Violation::FalseRestart(NUMBER)]);
    assert_eq!(failing(closing, Reached::Unknown), [Violation::FalseRestart(NUMBER)]);
    assert_eq!(failing(FailureCause::EngineStopped, Reached::Unknown), [Violation::FalseStop(NUMBER)]);
    assert_eq!(failing(FailureCause::TimedOut, Reached::Never), [Violation::ReachedAfterAll(NUMBER)]);
    assert_eq!(failing(FailureCause::TimedOut, Reached::Unknown), []);
}

/// A peer that did start anew: those who do not know it yet may be told.
#[test]
fn a_start_that_was_known() {
    let told = |hears_before: bool| {
        let mut log = with(fate(NUMBER, RECEIVER));
        log.crashed(RECEIVER, &BTreeSet::new());
        comes(&mut log, NUMBER, RECEIVER);
        if hears_before {
            log.outcome(NUMBER, delivered(Level::Accepted));
        }
        passes(&mut log, Duration::from_millis(1));
        add(&mut log, 8, fate(8, RECEIVER));
        log.outcome(8, failed(FailureCause::PeerRestarted, Reached::Unknown));
        log.violations
    };
    assert_eq!(told(false), []);
    assert_eq!(told(true), [Violation::FalseRestart(8)]);
}

#[test]
fn what_has_to_arrive_and_does_not() {
    let fails = |cause, prepare: fn(&mut Log), after: Duration| {
        let mut log = Log::new(Trace::default());
        prepare(&mut log);
        passes(&mut log, after);
        add(&mut log, NUMBER, Fate { in_parts: true, ..fate(NUMBER, RECEIVER) });
        log.outcome(NUMBER, failed(cause, Reached::Unknown));
        verdict(log)
    };
    let missing = [Violation::NotDeliveredWhenHealed(NUMBER)];
    let closing = FailureCause::Refused(Refusal::Closing);
    let crashes = |log: &mut Log| log.crashed(RECEIVER, &BTreeSet::new());
    let (soon, late) = (Duration::from_millis(400), Duration::from_secs(2));
    assert_eq!(fails(FailureCause::TimedOut, |_| {}, soon), missing);
    assert_eq!(fails(FailureCause::TimedOut, crashes, soon), missing);
    assert_eq!(fails(FailureCause::Expired, crashes, soon), missing);
    // Excused.
    assert_eq!(fails(closing, crashes, soon), []);
    assert_eq!(fails(closing, crashes, late), missing);
    assert_eq!(fails(FailureCause::PeerRestarted, crashes, late), []);
    assert_eq!(fails(FailureCause::TimedOut, |log| _ = log.had_no_place.insert(RECEIVER), soon), []);
    assert_eq!(fails(FailureCause::TimedOut, |log| _ = log.had_full_dedup.insert(RECEIVER), soon), []);
}

/// Sealed, nobody says that an earlier start is gone: what is sent to it is lost, once, and not for long.
#[test]
fn what_is_sent_to_an_earlier_start() {
    let lost = |sealed, receiver, actor, reached, puts: &[u64]| {
        let mut log = Log::new(Trace::default());
        log.sealed = sealed;
        log.crashed(RECEIVER, &BTreeSet::new());
        for (number, &seconds) in puts.iter().enumerate() {
            let number = number as u64;
            log.trace.at(Instant::from_ns(0) + Duration::from_secs(seconds));
            log.fates.insert(number, fate(number, receiver));
            log.accepted(number, actor);
            log.outcome(number, failed(FailureCause::TimedOut, reached));
        }
        let missing = verdict(log).into_iter().map(|violation| match violation {
            Violation::NotDeliveredWhenHealed(number) => number,
            other => panic!("{other:?}"),
        });
        missing.collect::<Vec<_>>()
    };
    let shard = Some(0);
    assert_eq!(lost(true, RECEIVER, shard, Reached::Unknown, &[1, 2, 9]), []);
    assert_eq!(lost(true, RECEIVER, shard, Reached::Unknown, &[1, 2, 11, 12]), [2, 3]);
    // From a bucket it may have been another shard each time.
    assert_eq!(lost(true, RECEIVER, None, Reached::Unknown, &[1, 11, 21, 31]), [3]);
    assert_eq!(lost(true, RECEIVER, shard, Reached::Never, &[1]), [0]);
    // Who has heard from the start that is there has no excuse.
    let mut log = Log::new(Trace::default());
    log.sealed = true;
    log.crashed(ACTOR, &BTreeSet::new());
    add(&mut log, 0, fate(0, ACTOR));
    comes(&mut log, 0, ACTOR);
    log.outcome(0, delivered(Level::Accepted));
    add(&mut log, NUMBER, fate(NUMBER, ACTOR));
    log.outcome(NUMBER, failed(FailureCause::TimedOut, Reached::Unknown));
    assert_eq!(verdict(log), [Violation::NotDeliveredWhenHealed(NUMBER)]);
    assert_eq!(lost(false, RECEIVER, shard, Reached::Unknown, &[1]), [0]);
    assert_eq!(lost(true, ACTOR, shard, Reached::Unknown, &[1]), [0]);
}

/// With `auto`, what waits for the answer to a HELLO of before the network healed.
#[test]
fn what_ends_with_a_handshake_that_began_before() {
    let fails = |wire, reached, put_before, ends_together| {
        let mut log = Log::new(Trace::default());
        let healed_at = log.trace.now() + Duration::from_secs(1);
        log.healed_at = Some(healed_at);
        passes(&mut log, Duration::from_secs(if put_before { 0 } else { 1 }));
        add(&mut log, 1, Fate { wire, must_arrive: false, ..fate(1, RECEIVER) });
        log.trace.at(healed_at + Duration::from_secs(1));
        add(&mut log, NUMBER, Fate { wire, ..fate(NUMBER, RECEIVER) });
        log.outcome(1, failed(FailureCause::TimedOut, reached));
        passes(&mut log, Duration::from_millis(if ends_together { 0 } else { 1 }));
        log.outcome(NUMBER, failed(FailureCause::TimedOut, reached));
        verdict(log)
    };
    let missing = [Violation::NotDeliveredWhenHealed(NUMBER)];
    assert_eq!(fails(Wire::Auto, Reached::Never, true, true), []);
    assert_eq!(fails(Wire::Auto, Reached::Never, false, true), missing);
    assert_eq!(fails(Wire::Auto, Reached::Never, true, false), missing);
    assert_eq!(fails(Wire::Auto, Reached::Unknown, true, true), missing);
    assert_eq!(fails(Wire::Binary, Reached::Never, true, true), missing);
}

#[test]
fn what_leaves_after_it_has_ended() {
    let mut log = with(fate(NUMBER, RECEIVER));
    comes(&mut log, NUMBER, RECEIVER);
    log.outcome(NUMBER, delivered(Level::Accepted));
    let at = |ms| Some(Instant::from_ns(0) + Duration::from_millis(ms));
    log.judge_last_sent(|_, _| at(100));
    assert_eq!(log.violations, []);
    log.judge_last_sent(|_, _| at(101));
    assert_eq!(log.violations, [Violation::SentAfterEnd(NUMBER, Duration::from_millis(101))]);
}

#[test]
fn messages_of_v1_peers() {
    let judged = |brought, comes_in, confirmed_count| {
        let mut log =
            with(Fate { kind: Kind::FromV1, by_rows: true, must_arrive: false, ..fate(NUMBER, RECEIVER) });
        if comes_in {
            comes(&mut log, NUMBER, RECEIVER);
        }
        log.v1_ended(NUMBER, V1Sent { chunk_count: 2, confirmed_count, finished: true });
        log.fates.get_mut(&NUMBER).unwrap().brought = Some(brought);
        verdict(log)
    };
    assert_eq!(judged(Brought::Whole, true, 2), []);
    assert_eq!(judged(Brought::InPart, false, 1), []);
    assert_eq!(judged(Brought::InPart, true, 1), [Violation::NotAsBrought(NUMBER)]);
    assert_eq!(judged(Brought::Whole, false, 1), [Violation::NotAsBrought(NUMBER)]);
    let both = [Violation::FalseSuccess(NUMBER), Violation::NotAsBrought(NUMBER)];
    assert_eq!(judged(Brought::Whole, false, 2), both);
}
