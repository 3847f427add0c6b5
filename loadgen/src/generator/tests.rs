//! The generator against an engine of which the test says what happens.

use super::*;
use crate::cli::Api;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::schedule::{Arrivals, Rates};
use std::time::Duration;
use udp_plus::{DeliveryError, FailureCause, Reached};

/// An engine of which the test says what happens.
#[derive(Default)]
struct Script {
    now: u64,
    room: usize,
    put: Vec<Stamp>,
}

impl Outlet for Script {
    fn clock_ns(&self) -> u64 {
        self.now
    }

    fn put(&mut self, stamp: Stamp) -> Put {
        if self.room == 0 {
            return Put::Full;
        }
        self.room -= 1;
        self.put.push(stamp);
        Put::Accepted
    }
}

fn generator(mode: Mode, rate: Option<f64>, in_flight: usize) -> (Generator, Arc<Desk<ClientRecord>>) {
    staged(mode, rate, in_flight, true)
}

/// At the highest rate: each message in a slot of its own, and many in one.
fn both(in_flight: usize) -> [(Generator, Arc<Desk<ClientRecord>>); 2] {
    [true, false].map(|stages| staged(Mode::Sink, None, in_flight, stages))
}

fn staged(
    mode: Mode,
    rate: Option<f64>,
    in_flight: usize,
    stages: bool,
) -> (Generator, Arc<Desk<ClientRecord>>) {
    let rates = rate.map_or(Rates::Max, Rates::Constant);
    let [warm_up, duration] = [1_000, 5_000].map(Duration::from_nanos);
    let plan = Plan {
        run: 3,
        protocol: crate::cli::Protocol::UdpPlus,
        mode,
        api: Api::Actor,
        lengths: crate::sizes::Lengths::fixed(64),
        size: 64,
        size_words: String::new(),
        seed: 3,
        open_loop: OpenLoop::new(&rates, Arrivals::Even, warm_up, duration).expect("valid"),
        rate_words: rates.to_string(),
        wake_early: Duration::ZERO,
        stages,
        late_max: Duration::from_millis(1),
        in_flight,
        terms: crate::plan::Terms::DEFAULT,
        peers: crate::targets::Peers { count: 1, skew: 0.0 },
        shares: None,
        generators: 1,
        warm_up,
        duration,
    };
    let run = Run {
        plan,
        targets: crate::targets::Targets::one(([127, 0, 0, 1], 9).into()),
        progress: Progress::new(1),
    };
    let desk = Arc::new(Desk::default());
    (
        Generator::new(
            Arc::new(run),
            0,
            &SlotTable::new(1, in_flight, mode == Mode::Echo),
            None,
            Arc::clone(&desk),
        ),
        desk,
    )
}

fn delivered() -> Outcome {
    Ok(udp_plus::Delivered::new(udp_plus::Level::Accepted, 1, Duration::ZERO, Duration::ZERO))
}

fn books(desk: &Desk<ClientRecord>) -> ClientRecord {
    desk.take().pop().expect("books were left")
}

#[test]
fn closed_loop_keeps_the_bound_and_books_everything() {
    for (mut generator, desk) in both(10) {
        let mut engine = Script { now: 100, room: 7, ..Script::default() };
        generator.offer(&mut engine);
        assert_eq!(engine.put.len(), 7, "the engine was full");
        engine.room = 100;
        generator.offer(&mut engine);
        assert_eq!(engine.put.len(), 10, "the bound");
        assert!(engine.put.iter().map(|stamp| stamp.number).eq(0..10));
        let lost = Err(DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Unknown });
        let fine = delivered();
        // Put in the warm-up, delivered in the window: counts for the rate, not for the latency.
        engine.now = 1_200;
        for stamp in engine.put.drain(..).collect::<Vec<_>>() {
            generator.handle_outcome(stamp.tag(), if stamp.number == 4 { &lost } else { &fine }, engine.now);
        }
        generator.offer(&mut engine);
        engine.now = 6_500;
        for stamp in engine.put.drain(..).collect::<Vec<_>>() {
            generator.handle_outcome(stamp.tag(), &delivered(), engine.now);
        }
        generator.offer(&mut engine);
        assert!(engine.put.is_empty(), "the window is over");
        assert!(generator.publish(engine.now));
        drop(generator);
        let books = books(&desk);
        assert_eq!((books.offered, books.delivered, books.failed_total()), (20, 19, 1));
        assert_eq!(books.failed.get("timed_out"), Some(&1));
        assert_eq!((books.delivered_in_window, books.latency.len(), books.latency.max() / 100), (9, 10, 53));
        assert_eq!(books.delivered_numbers.count(), 19);
    }
}

#[test]
fn open_loop_counts_from_the_intended_time() {
    let (mut generator, desk) = generator(Mode::Sink, Some(1e7), 1_000);
    let mut engine = Script { now: 0, room: 1_000, ..Script::default() };
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 1);
    assert_eq!(generator.next_turn_ns(0), Some(100));
    // A stall of 3 us: 30 messages are put late, and their latency begins when they were due.
    engine.now = 3_000;
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 31);
    for stamp in engine.put.drain(..).collect::<Vec<_>>() {
        generator.handle_outcome(stamp.tag(), &delivered(), 3_000);
    }
    engine.now = 7_000;
    generator.offer(&mut engine);
    drop(generator);
    let books = books(&desk);
    assert_eq!((books.latency.len(), books.latency.max() / 10), (21, 200));
    assert_eq!(books.lateness.max() / 10, 390);
    // The engine took all of it whenever it was asked: the stall is the generator's own.
    assert_eq!(books.schedule_error, books.lateness);
    assert_eq!((books.offered, books.not_offered), (60, 0), "the last turn's worth is put late");
}

/// Refuses every fourth message for good: before it asks for it, as an engine does for its address or length, or after.
struct Refusing {
    now: u64,
    asks_first: bool,
    put: Vec<u64>,
    refused: u64,
}

impl Outlet for Refusing {
    fn clock_ns(&self) -> u64 {
        self.now
    }

    fn put(&mut self, _: Stamp) -> Put {
        unreachable!("many are put at a call")
    }

    fn put_each(&mut self, mut stamps: impl Iterator<Item = Stamp>) -> (u32, Put) {
        let mut accepted = 0;
        loop {
            let refuses = self.put.len() as u64 / 3 > self.refused;
            if refuses && !self.asks_first {
                self.refused += 1;
                return (accepted, Put::Refused("refused"));
            }
            let Some(stamp) = stamps.next() else { return (accepted, Put::Accepted) };
            if refuses {
                self.refused += 1;
                return (accepted, Put::Refused("refused"));
            }
            self.put.push(stamp.number);
            accepted += 1;
        }
    }
}

#[test]
fn what_is_refused_for_good_has_its_number_and_its_time() {
    for asks_first in [true, false] {
        let (mut generator, desk) = generator(Mode::Sink, Some(1e7), 1_000);
        let mut engine = Refusing { now: 0, asks_first, put: Vec::new(), refused: 0 };
        generator.offer(&mut engine);
        engine.now = 3_000;
        generator.offer(&mut engine);
        assert!(engine.put.iter().copied().eq((0..31).filter(|number| number % 4 != 3)), "{:?}", engine.put);
        // Who does not ask first refuses once more, with nothing due: that is no message's end.
        assert_eq!((engine.refused, generator.outstanding()), (if asks_first { 7 } else { 8 }, 24));
        assert_eq!(generator.next_turn_ns(3_000), Some(3_100));
        drop(generator);
        let books = books(&desk);
        assert_eq!((books.offered, books.failed_total()), (31, 7), "asks first: {asks_first}");
        assert_eq!(books.lateness.len(), books.offered_in_window);
    }
}

/// Without this, the messages that would wait longest are in no figure at all.
#[test]
fn what_was_due_and_never_put_is_counted() {
    let (mut generator, desk) = generator(Mode::Sink, Some(1e7), 10);
    let mut engine = Script { now: 0, room: 1_000, ..Script::default() };
    generator.offer(&mut engine);
    engine.now = 5_900;
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 10, "all slots are taken: the rate is not kept");
    engine.now = 7_000;
    for stamp in engine.put.drain(..).collect::<Vec<_>>() {
        generator.handle_outcome(stamp.tag(), &delivered(), 7_000);
    }
    assert!(!generator.publish(7_000), "some of the rest may yet be put");
    assert_eq!(generator.next_turn_ns(7_000), Some(7_000));
    generator.offer(&mut engine);
    assert_eq!(generator.next_turn_ns(7_000), Some(6_000 + LATE_MAX_NS));
    engine.now = 6_000 + LATE_MAX_NS;
    for stamp in engine.put.drain(..).collect::<Vec<_>>() {
        generator.handle_outcome(stamp.tag(), &delivered(), engine.now);
    }
    generator.offer(&mut engine);
    assert!(engine.put.is_empty() && generator.publish(engine.now));
    drop(generator);
    let books = books(&desk);
    assert_eq!((books.offered, books.delivered, books.not_offered), (20, 20, 40));
}

/// Where the engine holds messages back, that is latency, and no fault of the generator that keeps asking.
#[test]
fn a_full_engine_is_no_scheduling_error() {
    let (mut generator, desk) = generator(Mode::Sink, Some(1e7), 1_000);
    let mut engine = Script { now: 0, room: 0, ..Script::default() };
    generator.offer(&mut engine);
    for now in (0..5_000).step_by(50) {
        engine.now = now;
        generator.offer(&mut engine);
    }
    engine.room = 1_000;
    engine.now = 5_000;
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 51);
    for stamp in engine.put.drain(..).collect::<Vec<_>>() {
        generator.handle_outcome(stamp.tag(), &delivered(), 5_000);
    }
    drop(generator);
    let books = books(&desk);
    assert_eq!(books.lateness.max() / 10, 400, "put 4,000 ns after the first one of the window was due");
    assert!(books.schedule_error.max() <= 50, "{}", books.schedule_error.max());
    assert_eq!(books.schedule_error.len(), 41, "one for each message of the window");
}

#[test]
fn sleep_ends_before_a_message_is_due() {
    let (mut generator, _desk) = generator(Mode::Sink, Some(1e7), 1_000);
    generator.early_ns = 30;
    let mut engine = Script { now: 0, room: 1_000, ..Script::default() };
    generator.offer(&mut engine);
    assert_eq!([0, 69, 70, 99].map(|now| generator.next_turn_ns(now)), [70, 70, 70, 99].map(Some));
}

#[test]
fn echo_is_over_when_the_echo_is_here() {
    let (mut generator, desk) = generator(Mode::Echo, None, 1);
    let mut engine = Script { now: 2_000, room: 10, ..Script::default() };
    generator.offer(&mut engine);
    // The first call starts the clock: its window is 3,000 to 8,000.
    engine.now = 3_500;
    generator.handle_outcome(engine.put[0].tag(), &delivered(), 3_400);
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 1, "the echo is missing");
    let mut echo = [0; 64];
    payload::fill(&mut echo, engine.put[0]);
    generator.handle_echo(&echo, 3_500);
    generator.handle_echo(&echo, 3_500);
    generator.offer(&mut engine);
    assert_eq!(engine.put.len(), 2);
    payload::fill(&mut echo, engine.put[1]);
    generator.handle_echo(&echo, 3_900);
    generator.handle_outcome(engine.put[1].tag(), &delivered(), 3_950);
    drop(generator);
    let books = books(&desk);
    assert_eq!((books.latency.len(), books.latency.max() / 10), (1, 40));
    assert_eq!((books.echoes.received, books.echoes.duplicates), (3, 1));
}

/// Whether its slot has been used again or not: a message that failed has failed, and is in no latency.
#[test]
fn a_late_echo_of_a_failed_message_changes_nothing() {
    for is_used_again in [false, true] {
        let (mut generator, desk) = generator(Mode::Echo, None, 1);
        let mut engine = Script { now: 0, room: 1, ..Script::default() };
        generator.offer(&mut engine);
        let warm_up = delivered();
        let mut echo = [0; 64];
        payload::fill(&mut echo, engine.put[0]);
        generator.handle_outcome(engine.put[0].tag(), &warm_up, 900);
        generator.handle_echo(&echo, 900);
        (engine.now, engine.room) = (2_000, 1);
        generator.offer(&mut engine);
        let lost = Err(DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Unknown });
        generator.handle_outcome(engine.put[1].tag(), &lost, 3_000);
        if is_used_again {
            (engine.now, engine.room) = (3_000, 1);
            generator.offer(&mut engine);
        }
        payload::fill(&mut echo, engine.put[1]);
        generator.handle_echo(&echo, 3_500);
        assert_eq!(generator.outstanding(), usize::from(is_used_again));
        drop(generator);
        let books = books(&desk);
        assert_eq!((books.latency.len(), books.failed_total()), (0, 1), "used again: {is_used_again}");
        assert_eq!(books.undelivered(), 1 + u64::from(is_used_again));
    }
}

/// However long the main thread takes to fetch it: the counts of an interval are those of its latencies.
#[test]
fn a_cut_has_counts_and_latencies_of_the_same_messages() {
    for (mut generator, _desk) in both(10) {
        generator.offer(&mut Script { now: 0, ..Script::default() });
        let mut engine = Script { now: 2_000, room: 10, ..Script::default() };
        generator.offer(&mut engine);
        let lost = Err(DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Unknown });
        let fine = delivered();
        let run = Arc::clone(&generator.run);
        run.progress.exchange.cut();
        for stamp in &engine.put[..7] {
            generator.handle_outcome(stamp.tag(), if stamp.number == 3 { &lost } else { &fine }, 2_500);
        }
        generator.publish(2_500);
        for stamp in &engine.put[7..] {
            generator.handle_outcome(stamp.tag(), &delivered(), 2_900);
        }
        generator.publish(2_900);
        let mut latency = crate::record::latency_histogram();
        let ended = run.progress.exchange.collect(&mut latency);
        assert_eq!((ended, latency.len()), (Some(Ended { delivered: 6, failed: 1 }), 6));
        assert_eq!(run.progress.snapshot().delivered, 9);
    }
}

/// What no engine ever took was not offered, in the window either.
#[test]
fn what_is_withdrawn_is_in_no_count() {
    for (mut generator, desk) in both(4) {
        let mut engine = Script { now: 0, room: 1, ..Script::default() };
        generator.offer(&mut engine);
        (engine.now, engine.room) = (2_000, 3);
        generator.offer(&mut engine);
        let payloads: Vec<bytes::Bytes> = [0, 1, 2]
            .map(|at| {
                let mut payload = [0; 64];
                payload::fill(&mut payload, engine.put[at]);
                payload.to_vec().into()
            })
            .into();
        generator.withdraw(payloads.iter());
        generator.handle_outcome(engine.put[3].tag(), &delivered(), 2_500);
        assert_eq!(generator.outstanding(), 0);
        drop(generator);
        let books = books(&desk);
        assert_eq!((books.offered, books.offered_in_window, books.undelivered()), (1, 1, 0));
    }
}

/// Of many engines the first is up long before the last: it waits, so that none begins with a backlog.
#[test]
fn nobody_begins_before_all_are_there() {
    for (mut generator, _desk) in both(10) {
        let run = Arc::get_mut(&mut generator.run).expect("nobody else has it");
        run.progress = Progress::closed(1);
        let mut engine = Script { now: 100, room: 100, ..Script::default() };
        generator.offer(&mut engine);
        assert!(engine.put.is_empty() && !generator.publish(100) && generator.next_turn_ns(100).is_none());
        generator.run.progress.open();
        engine.now = 900;
        generator.offer(&mut engine);
        assert_eq!((engine.put.len(), generator.window_ns), (10, Some((1_900, 6_900))));
    }
}

#[test]
fn stop_ends_the_window_early() {
    for (mut generator, desk) in both(1) {
        let mut engine = Script { now: 0, room: 10, ..Script::default() };
        generator.offer(&mut engine);
        generator.run.progress.stop();
        engine.now = 2_500;
        generator.handle_outcome(engine.put[0].tag(), &delivered(), 2_400);
        generator.offer(&mut engine);
        assert!(generator.publish(2_500));
        drop(generator);
        assert_eq!(books(&desk).window_ns, (1_000, 2_500));
    }
}
