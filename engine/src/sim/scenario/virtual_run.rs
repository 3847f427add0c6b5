//! The scenarios in virtual time: two production shards, and the path between them.

use super::{Book, Event, Pass, Path, SCENARIOS, Scenario};
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Outgoing, Verdict};
use crate::observe::Counters;
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::runtime::driver::{Driver, DriverCounters, Received, SendFailure};
use crate::runtime::internals::{Actor, ActorApp, Context, Setup, Shard, Shared, Turn};
use crate::sys::wake::Wake;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One way.
const DELAY: Duration = Duration::from_millis(5);
/// In virtual time; no scenario comes near it.
const LIMIT: Duration = Duration::from_secs(60);
const SEEDS: u64 = 20;

/// What flies: when it is there, from whom, to whom.
type Flying = VecDeque<(Instant, SocketAddr, usize, Vec<u8>)>;

struct Net {
    now: Instant,
    path: Path,
    /// By arrival: the delay is the same for all.
    flying: Flying,
    arrived: [VecDeque<(SocketAddr, Vec<u8>)>; 2],
    /// As the receiver sees the sender.
    seen_as: SocketAddr,
    rebinds: u16,
}

const RECEIVER: usize = 0;
const SENDER: usize = 1;

fn addr(host: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host as u8 + 1], 25_252))
}

impl Net {
    fn send(&mut self, from: usize, to: SocketAddr, mut datagram: Vec<u8>) {
        let now = Duration::from_nanos(self.now.as_ns());
        let passed = self.path.pass(now, from == SENDER, &mut datagram);
        if let Some(event) = self.path.take_rebinding() {
            self.rebinds += 1;
            let host = if event == Event::NewAddress { 200 } else { 1 };
            self.seen_as = SocketAddr::from(([10, 0, 1, host], 40_000 + self.rebinds));
        }
        let (seen_as, to) = match from {
            SENDER => (self.seen_as, (to == addr(RECEIVER)).then_some(RECEIVER)),
            // What goes to where the sender was reaches nobody.
            _ => (addr(RECEIVER), (to == self.seen_as).then_some(SENDER)),
        };
        if let (Pass::On, Some(to)) = (passed, to) {
            self.flying.push_back((self.now + DELAY, seen_as, to, datagram));
        }
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.flying.front().is_some_and(|flying| flying.0 <= self.now) {
            let Some((_, from, to, datagram)) = self.flying.pop_front() else { return };
            self.arrived[to].push_back((from, datagram));
        }
    }
}

struct PathDriver {
    net: Rc<RefCell<Net>>,
    host: usize,
    counters: DriverCounters,
}

impl Driver for PathDriver {
    fn now(&mut self) -> Instant {
        self.net.borrow().now
    }

    fn unix_time(&mut self) -> UnixMicros {
        UnixMicros(1_764_000_000_000_000 + self.net.borrow().now.as_ns() / 1_000)
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let mut count = 0;
        loop {
            let Some((from, bytes)) = self.net.borrow_mut().arrived[self.host].pop_front() else { break };
            count += 1;
            let received = Received { from, local: None, bytes: &bytes, segment_bytes: bytes.len().max(1) };
            if sink(received).is_break() {
                break;
            }
        }
        self.counters.trains_received += count as u64;
        count
    }

    fn may_have_more(&self) -> bool {
        false
    }

    fn transmit(&mut self, batch: &TrainBatch, _: &mut Vec<SendFailure>) {
        for train in batch.trains() {
            let bytes = batch.bytes(train);
            for datagram in bytes.chunks(train.segment_bytes) {
                self.net.borrow_mut().send(self.host, train.to, datagram.to_vec());
            }
            self.counters.trains_sent += 1;
            self.counters.segments_sent += train.segments as u64;
        }
    }

    fn want_writable(&mut self) {}

    fn wait_writable(&mut self, _: Duration) {}

    fn park(&mut self, _: Option<Instant>) {}

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

/// Puts everything at once, and notes how it ended.
struct Sender {
    payloads: Vec<Vec<u8>>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

impl Actor for Sender {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        self.outcomes.lock().unwrap().push(outcome);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for payload in self.payloads.drain(..) {
            context.put(Outgoing::to(addr(RECEIVER), payload)).unwrap();
        }
    }
}

struct Receiver(Arc<Mutex<Book>>);

impl Actor for Receiver {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        self.0.lock().unwrap().note(message.payload);
        Verdict::Accept
    }
}

fn shard<A: Actor>(
    wire: Wire,
    net: &Rc<RefCell<Net>>,
    host: usize,
    actor: A,
) -> Shard<PathDriver, ActorApp<A>> {
    // At 30 % loss twelve transmissions of a row can all be lost: another draw of the chances must not fail.
    let (rto_max, tries_max) = (Duration::from_millis(200), 60);
    let config = Config { shards: 1, wire, rto_max, tries_max, ..Config::preset(Preset::Small) };
    let families = Families { v4: true, v6: false };
    let seed = Seed::from_number(host as u64);
    let shared = Shared::new(&config, families, &seed, vec![Arc::new(Wake::new().unwrap())]);
    let setup = Setup {
        rcvbuf_bytes: 8 << 20,
        config: &config,
        plugins: &Plugins::default(),
        place: Place { shard: 0, shards: 1, families },
        seed: &seed,
        shared: &shared,
        segments_max: 64,
        clock: || Instant::from_ns(0),
    };
    let driver = PathDriver { net: Rc::clone(net), host, counters: DriverCounters::default() };
    Shard::new(&setup, driver, ActorApp(actor))
}

/// Runs one; the sender's and the receiver's counters.
fn run(scenario: &Scenario, wire: Wire, seed: u64) -> [Counters; 2] {
    let what = || format!("{}, {wire:?}, seed {seed}", scenario.name);
    let net = Rc::new(RefCell::new(Net {
        now: Instant::from_ns(1_000_000_000_000),
        path: Path::new(scenario, seed),
        flying: Flying::new(),
        arrived: Default::default(),
        seen_as: addr(SENDER),
        rebinds: 0,
    }));
    let book = Arc::new(Mutex::new(Book::new(scenario)));
    let outcomes = Arc::default();
    let sender = Sender { payloads: scenario.payloads().collect(), outcomes: Arc::clone(&outcomes) };
    let mut sender = shard(wire, &net, SENDER, sender);
    let mut receiver = shard(wire, &net, RECEIVER, Receiver(Arc::clone(&book)));
    let began = net.borrow().now;
    while (outcomes.lock().unwrap().len() as u64) < scenario.count() {
        for _ in 0..10_000 {
            let busy = receiver.turn() == Turn::Busy;
            if sender.turn() != Turn::Busy && !busy {
                break;
            }
        }
        let now = net.borrow().now;
        assert!(now.since(began) < LIMIT, "{}: {:?}", what(), net.borrow().path.counts());
        let arrival = net.borrow().flying.front().map(|flying| flying.0);
        let due = [sender.next_deadline(), receiver.next_deadline(), arrival];
        // Nothing is due once everything has ended.
        let Some(next) = due.into_iter().flatten().min() else { break };
        net.borrow_mut().advance(next.max(now + Duration::from_micros(1)));
    }
    assert_eq!(outcomes.lock().unwrap().len() as u64, scenario.count(), "{}", what());
    let failed: Vec<Outcome> = outcomes.lock().unwrap().iter().copied().filter(Result::is_err).collect();
    assert!(failed.is_empty(), "{}: {failed:?}", what());
    let book = book.lock().unwrap();
    assert_eq!((book.distinct(), book.wrong()), (scenario.count(), 0), "{}", what());
    assert!(book.repeated() == 0 || scenario.may_repeat(wire), "{}: {} came twice", what(), book.repeated());
    scenario.check(wire, &net.borrow().path.counts()).unwrap();
    for sum in sender.sums().into_iter().chain(receiver.sums()) {
        assert_eq!(sum.residual(), 0, "{}: {sum:?}", what());
    }
    [sender.counters().clone(), receiver.counters().clone()]
}

#[test]
fn every_scenario_keeps_its_promise_in_virtual_time() {
    for scenario in SCENARIOS {
        for &wire in scenario.wires {
            for seed in 0..SEEDS {
                let [sender, receiver] = run(scenario, wire, seed);
                let corrupted = receiver.dropped(crate::wire::DropReason::BinaryChecksum);
                assert!(
                    wire == Wire::Csv || scenario.corrupt == 0 || corrupted > 0,
                    "nobody noticed: {receiver:?}"
                );
                assert!(sender.rows_retransmitted > 0 || scenario.may_repeat(Wire::Csv), "{}", scenario.name);
            }
        }
    }
}
