//! The generator against servers that are known: what it says of them is what they did. Time is a number here.

use crate::cli::{Api, Mode};
use crate::distribution::{Distribution, Value};
use crate::generator::{Generator, Outlet, Put};
use crate::payload::Stamp;
use crate::plan::{Plan, Run, Terms};
use crate::progress::Progress;
use crate::record::{ClientRecord, Desk};
use crate::schedule::{Arrivals, OpenLoop, Rates};
use crate::slots::SlotTable;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::{Delivered, DeliveryError, FailureCause, Level, Outcome, Reached};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Of the histograms.
const PRECISION: f64 = 1e-3;
/// When lost messages end.
const DEADLINE: u64 = SECOND / 2;

/// A server that answers message n after `delay(n)`, or never.
struct Server<D> {
    now: u64,
    delay: D,
    /// Nothing is answered meanwhile, or
    stall: Range<u64>,
    /// nothing taken.
    refuses: bool,
    /// The generator itself has no processor meanwhile.
    preempted: Range<u64>,
    /// (end, tag, delivered)
    under_way: BinaryHeap<Reverse<(u64, u64, bool)>>,
}

impl<D: FnMut(u64) -> Option<u64>> Server<D> {
    fn new(delay: D) -> Self {
        Self { now: 0, delay, stall: 0..0, refuses: false, preempted: 0..0, under_way: BinaryHeap::new() }
    }
}

impl<D: FnMut(u64) -> Option<u64>> Outlet for Server<D> {
    fn clock_ns(&self) -> u64 {
        self.now
    }

    fn put(&mut self, stamp: Stamp) -> Put {
        if self.refuses && self.stall.contains(&self.now) {
            return Put::Full;
        }
        let end = match (self.delay)(stamp.number) {
            Some(delay) if self.stall.contains(&(self.now + delay)) => (self.stall.end, true),
            Some(delay) => (self.now + delay, true),
            None => (self.now + DEADLINE, false),
        };
        self.under_way.push(Reverse((end.0, stamp.tag(), end.1)));
        Put::Accepted
    }
}

fn plan(rates: &Rates, arrivals: Arrivals, in_flight: usize) -> Plan {
    let [warm_up, duration] = [100, 1_000].map(Duration::from_millis);
    Plan {
        run: 3,
        protocol: crate::cli::Protocol::UdpPlus,
        mode: Mode::Sink,
        api: Api::Actor,
        lengths: crate::sizes::Lengths::fixed(64),
        size: 64,
        size_words: String::new(),
        seed: 3,
        open_loop: OpenLoop::new(rates, arrivals, warm_up, duration).expect("valid"),
        rate_words: rates.to_string(),
        wake_early: Duration::ZERO,
        late_max: Duration::from_millis(1),
        stages: true,
        in_flight,
        terms: Terms { deadline: Some(Duration::from_nanos(DEADLINE)), ..Terms::DEFAULT },
        peers: crate::targets::Peers { count: 1, skew: 0.0 },
        shares: None,
        generators: 1,
        warm_up,
        duration,
    }
}

/// A whole run; the books.
fn drive(plan: &Plan, server: &mut Server<impl FnMut(u64) -> Option<u64>>) -> ClientRecord {
    let run = Run {
        plan: plan.clone(),
        targets: crate::targets::Targets::one(([127, 0, 0, 1], 9).into()),
        progress: Progress::new(1),
    };
    let desk = Arc::new(Desk::default());
    let table = SlotTable::new(1, plan.in_flight, plan.mode == Mode::Echo);
    let mut generator = Generator::new(Arc::new(run), 0, &table, None, Arc::clone(&desk));
    let fine: Outcome = Ok(Delivered::new(Level::Accepted, 1, Duration::ZERO, Duration::ZERO));
    let lost: Outcome = Err(DeliveryError { cause: FailureCause::Expired, reached: Reached::Unknown });
    loop {
        while let Some(&Reverse((end, tag, delivered))) = server.under_way.peek()
            && end <= server.now
        {
            server.under_way.pop();
            generator.handle_outcome(tag, if delivered { &fine } else { &lost }, server.now);
        }
        generator.offer(server);
        if generator.publish(server.now) {
            break;
        }
        let outcome = server.under_way.peek().map(|next| next.0.0);
        let turn = generator
            .next_turn_ns(server.now)
            .map(|at| if at > server.now { at } else { server.now + 1_000 });
        server.now = outcome.into_iter().chain(turn).min().expect("something happens next").max(server.now);
        if server.preempted.contains(&server.now) {
            server.now = server.preempted.end;
        }
    }
    drop(generator);
    desk.take().pop().expect("books were left")
}

#[track_caller]
fn assert_close(value: Option<Value>, expected: u64) {
    let Some(Value::Exact(ns)) = value else { panic!("{value:?} is not about {expected}") };
    assert!(ns.abs_diff(expected) as f64 <= expected as f64 * PRECISION, "{ns} is not {expected}");
}

/// Delays of 1 to 10,000 us, each as often as the others, in no order: every percentile is known.
#[test]
fn percentiles_are_those_of_the_server() {
    for (rates, arrivals) in [
        (Rates::Constant(1e5), Arrivals::Even),
        (Rates::Constant(1e5), Arrivals::Burst(100)),
        (Rates::Constant(1e5), Arrivals::Poisson),
        (Rates::Ramp(1e4, 1.9e5), Arrivals::Even),
    ] {
        let mut server = Server::new(|number| Some((number * 7_919 % 10_000 + 1) * 1_000));
        let books = drive(&plan(&rates, arrivals, 60_000), &mut server);
        assert_eq!((books.offered, books.failed_total(), books.not_offered), (books.delivered, 0, 0));
        assert_eq!((books.offered_in_window, books.undelivered()), (books.latency.len(), 0));
        let distribution = Distribution::new(&books.latency, books.undelivered(), DEADLINE);
        // A Poisson run does not have whole rounds of 10,000; what is missing in one is a hundredth of a quantile.
        let slack = if arrivals == Arrivals::Poisson { 0.05 } else { PRECISION };
        for (quantile, expected) in
            [(0.5, 5_000_000), (0.9, 9_000_000), (0.99, 9_900_000), (0.999, 9_990_000)]
        {
            let Some(Value::Exact(ns)) = distribution.at(quantile) else { panic!("{quantile}") };
            let off = ns.abs_diff(expected) as f64 / expected as f64;
            assert!(off <= slack, "{rates} {arrivals}: p{quantile} is {ns}, not {expected}");
        }
        assert_close(distribution.at(1.0), 10_000_000);
        // It was always there when something was due.
        assert!(books.schedule_error.max() <= 1, "{}", books.schedule_error.max());
    }
}

/// A server that stalls for 0.2 s of 1 s, 100 us otherwise. Of an open loop a fifth of the messages see it; of a closed one,
/// which waits, one does.
#[test]
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let stalling = |refuses| {
        let mut server = Server::new(|_| Some(100_000));
        server.stall = 600 * MS..800 * MS;
        server.refuses = refuses;
        server
    };
    // Whether it takes what it does not answer, or takes nothing: who waits does not care.
    for refuses in [false, true] {
        let mut server = stalling(refuses);
        let books = drive(&plan(&Rates::Constant(10_000.0), Arrivals::Even, 60_000), &mut server);
        assert_eq!((books.delivered, books.not_offered), (11_000, 0));
        // 2,000 of 10,000 were due in the stall, and waited for what was left of it: the p-th percentile from 0.8 on is
        // (p - 0.8) s.
        let distribution = Distribution::new(&books.latency, books.undelivered(), DEADLINE);
        for (quantile, expected) in [(0.9, 100 * MS), (0.95, 150 * MS), (0.99, 190 * MS)] {
            let Some(Value::Exact(ns)) = distribution.at(quantile) else { panic!("{quantile}") };
            assert!(ns.abs_diff(expected) <= 400_000, "refuses {refuses}: p{quantile} is {ns}");
        }
        assert_close(distribution.at(0.5), 100_000);
        assert!(books.schedule_error.max() <= 1_001, "the server's stall is not the generator's");
        let slowest = books.stages.as_ref().expect("told apart").slowest(0.1, 0);
        let late = slowest.mean_ns[crate::stages::Part::Late as usize];
        assert_eq!(late > 1e6, refuses, "what is not taken is late, what is taken is under way: {slowest:?}");
    }
    let mut server = stalling(false);
    let books = drive(&plan(&Rates::Max, Arrivals::Even, 1), &mut server);
    let distribution = Distribution::new(&books.latency, books.undelivered(), DEADLINE);
    assert_close(distribution.at(0.999), 100_000);
    let slow = books.latency.count_between(10 * MS, SECOND);
    assert_eq!(slow, 1, "all that a closed loop sees of 0.2 s");
}

/// The generator has no processor for 0.2 s of 1 s, and then few places to make up for it: a fifth of the messages were looked
/// at late, however they were put in the end, and the server is not to blame.
#[test]
fn a_stall_of_the_generator_is_its_own_error() {
    for in_flight in [10, 60_000] {
        let mut server = Server::new(|_| Some(100_000));
        server.preempted = 600 * MS..800 * MS;
        let books = drive(&plan(&Rates::Constant(10_000.0), Arrivals::Even, in_flight), &mut server);
        assert_eq!((books.delivered, books.not_offered), (11_000, 0));
        assert_eq!(books.schedule_error.len(), 10_000, "one for each message of the window");
        for (quantile, expected) in [(0.9, 100 * MS), (0.99, 190 * MS)] {
            let ns = books.schedule_error.value_at_quantile(quantile);
            assert!(ns.abs_diff(expected) <= 400_000, "{in_flight} in flight: p{quantile} is {ns}");
        }
        assert_eq!(books.schedule_error.value_at_quantile(0.79), 1);
    }
}

/// 2 % are lost: the 99th percentile is no latency of anything that arrived.
#[test]
fn loss_shows_as_latency() {
    for rates in [Rates::Constant(20_000.0), Rates::Max] {
        let mut server = Server::new(|number| (number % 50 != 7).then_some(100_000));
        let books = drive(&plan(&rates, Arrivals::Even, 30_000), &mut server);
        let lost = books.failed_total();
        assert_eq!(books.failed.get("expired"), Some(&lost));
        assert_eq!((books.offered, books.not_offered), (books.delivered + lost, 0));
        let undelivered = books.undelivered();
        assert_eq!(books.offered_in_window, books.latency.len() + undelivered);
        let distribution = Distribution::new(&books.latency, undelivered, DEADLINE);
        assert_close(distribution.at(0.5), 100_000);
        assert_close(distribution.at(0.979), 100_000);
        assert_eq!(distribution.at(0.99), Some(Value::AtLeast(DEADLINE)));
        let within = distribution.delivered_within().expect("some");
        assert!((within.p99 - 0.98).abs() < 1e-3 && (within.p50 - 0.98).abs() < 1e-3, "{within:?}");
        let slowest = books.stages.as_ref().expect("told apart").slowest(0.001, undelivered);
        assert_eq!(slowest.delivered, 0, "the slowest thousandth never arrived");
    }
}

/// A server slower than the rate: what was never put is slower than everything that was.
#[test]
fn what_was_never_put_shows_as_latency() {
    // 10 places of 1 ms each: 10,000 a second, of 20,000.
    let mut server = Server::new(|_| Some(MS));
    let books = drive(&plan(&Rates::Constant(20_000.0), Arrivals::Even, 10), &mut server);
    assert!(books.not_offered_in_window > 8_000, "{}", books.not_offered_in_window);
    assert_eq!(books.offered_in_window + books.not_offered_in_window, 20_000);
    let distribution = Distribution::new(&books.latency, books.undelivered(), DEADLINE);
    assert!(matches!(distribution.at(0.9), Some(Value::AtLeast(ns)) if ns >= DEADLINE));
    assert!(matches!(distribution.at(0.3), Some(Value::Exact(ns)) if ns > 100 * MS), "the backlog");
}
