//! What users may replace, replaced: by implementations of these tests and of the examples.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

#[path = "../examples/own_congestion.rs"]
#[allow(dead_code, reason = "an example, whose controller is tested here")]
mod own_congestion;
#[path = "../examples/own_retry.rs"]
#[allow(dead_code, reason = "an example, whose policy is tested here")]
mod own_retry;
mod support;

use own_congestion::{RenoFactory, Report};
use own_retry::Constant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{LONG_HANG, binary, each_driver, small, until, until_within};
use udp_plus::congestion::{AckSample, CcConfig, CongestionControl, CongestionFactory, LossSample};
use udp_plus::retry::{RetryPolicy, RowTry};
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::units::Instant;
use udp_plus::{DriverChoice, Engine, Outgoing, Wire};

each_driver! {
    a_controller_of_ones_own_is_called_bounds_the_flow_and_delivers,
    a_controller_without_sense_harms_nobody,
    a_retry_policy_of_ones_own_is_asked_on_retries_and_delivers,
}

const DATAGRAM_BYTES: u64 = 1_472;

/// Sends `count` messages of `bytes` bytes, all at once; each must be delivered, and come once and whole.
fn deliver_all(sender: &Engine, sink: &Engine, to: SocketAddr, count: u64, bytes: usize) {
    let (send, received) = (sender.send_bucket(), sink.recv_bucket());
    let payload = |tag: u64| {
        let mut payload = vec![tag as u8; bytes];
        payload[..8].copy_from_slice(&tag.to_le_bytes());
        payload
    };
    let mut batch: Vec<Outgoing> = (0..count).map(|tag| Outgoing::to(to, payload(tag)).tag(tag)).collect();
    let (mut outcomes, mut came) = (Vec::new(), BTreeMap::<u64, u32>::new());
    until_within("all messages and their outcomes", LONG_HANG, || {
        send.put_batch(&mut batch);
        send.outcome_batch(&mut outcomes);
        while let Some(message) = received.try_get() {
            let tag = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
            assert_eq!(message.payload()[..], payload(tag));
            *came.entry(tag).or_default() += 1;
        }
        outcomes.len() as u64 == count && came.len() as u64 == count
    });
    for (tag, outcome) in &outcomes {
        assert!(outcome.is_ok(), "{tag}: {outcome:?}");
    }
    assert!(came.values().all(|&times| times == 1));
}

fn a_controller_of_ones_own_is_called_bounds_the_flow_and_delivers(driver: DriverChoice) {
    let window_bytes_max = 8 * DATAGRAM_BYTES;
    let factory = RenoFactory { window_bytes_max: Some(window_bytes_max), ..RenoFactory::default() };
    let report: Arc<Report> = Arc::clone(&factory.report);
    let sink = binary(driver).start().unwrap();
    let sender = binary(driver).congestion_factory(factory).start().unwrap();
    let lossy = RelayOptions { seed: 3, loss: 0.05, ..RelayOptions::clean(sink.local_addr()) };
    let relay = Relay::start(lossy).unwrap();
    deliver_all(&sender, &sink, relay.address(), 200, 20_000);
    let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
    assert!(read(&report.sent) >= 200 * 20_000 / DATAGRAM_BYTES);
    assert!(read(&report.acks) > 0);
    assert!(read(&report.losses) > 0, "the network loses, and nobody told the controller");
    let most = read(&report.in_flight_max);
    // A probe and a control datagram ask for no room (R-CREDIT-6).
    assert!(most <= window_bytes_max + 2 * DATAGRAM_BYTES, "{most} bytes in flight");
    assert!(most > 4 * DATAGRAM_BYTES, "the window was used: {most} bytes");
}

/// Answers that no controller should give.
#[derive(Debug)]
struct Senseless {
    window: u64,
    rate: Option<u64>,
}

impl CongestionControl for Senseless {
    fn on_ack(&mut self, _: Instant, _: &AckSample) {}
    fn on_loss(&mut self, _: Instant, _: &LossSample) {}
    fn on_spurious_loss(&mut self, _: Instant) {}
    fn window_bytes(&self) -> u64 {
        self.window
    }
    fn pacing_bytes_per_s(&self) -> Option<u64> {
        self.rate
    }
}

#[derive(Debug)]
struct SenselessFactory {
    window: u64,
    rate: Option<u64>,
    built: Arc<AtomicU64>,
}

impl CongestionFactory for SenselessFactory {
    fn build(&self, _: &CcConfig) -> Box<dyn CongestionControl> {
        self.built.fetch_add(1, Ordering::Relaxed);
        Box::new(Senseless { window: self.window, rate: self.rate })
    }
}

fn a_controller_without_sense_harms_nobody(driver: DriverChoice) {
    for (window, rate) in [(0, None), (0, Some(u64::MAX)), (u64::MAX, None), (u64::MAX, Some(u64::MAX))] {
        let built = Arc::<AtomicU64>::default();
        let factory = SenselessFactory { window, rate, built: Arc::clone(&built) };
        let sink = binary(driver).start().unwrap();
        let sender = binary(driver).congestion_factory(factory).start().unwrap();
        deliver_all(&sender, &sink, sink.local_addr(), 40, 20_000);
        assert!(built.load(Ordering::Relaxed) > 0);
        assert_eq!(sink.stats().kernel_drops, Some(0), "credit holds whatever the window is");
    }
    // A rate of nothing is one of a byte a second: what does not leave in time expires.
    let factory = SenselessFactory { window: u64::MAX, rate: Some(0), built: Arc::default() };
    let sink = binary(driver).start().unwrap();
    let sender = binary(driver).congestion_factory(factory).start().unwrap();
    let payload = vec![0; 1 << 20];
    let outgoing = Outgoing::to(sink.local_addr(), payload).deadline(Duration::from_millis(300));
    let error = sender.send_bucket().blocking_put(outgoing).unwrap().wait().unwrap_err();
    assert_eq!(error.cause, udp_plus::FailureCause::Expired);
}

/// Asks another one, and counts.
#[derive(Debug)]
struct Counting {
    inner: Constant,
    /// Rows at their first try, rows at a later one, HELLOs, refused messages.
    asked: Arc<[AtomicU64; 4]>,
}

impl RetryPolicy for Counting {
    fn row_wait(&self, row: &RowTry, random: u32) -> Duration {
        self.asked[usize::from(row.tries > 1)].fetch_add(1, Ordering::Relaxed);
        self.inner.row_wait(row, random)
    }
    fn gives_up(&self, row: &RowTry, since_first: Duration) -> bool {
        self.inner.gives_up(row, since_first)
    }
    fn hello_wait(&self, to: SocketAddr, tries: u32, random: u32) -> Duration {
        self.asked[2].fetch_add(1, Ordering::Relaxed);
        self.inner.hello_wait(to, tries, random)
    }
    fn refused_wait(&self, to: SocketAddr, tries: u32, random: u32) -> Duration {
        self.asked[3].fetch_add(1, Ordering::Relaxed);
        self.inner.refused_wait(to, tries, random)
    }
}

fn a_retry_policy_of_ones_own_is_asked_on_retries_and_delivers(driver: DriverChoice) {
    for wire in [Wire::Csv, Wire::Binary] {
        let asked = Arc::<[AtomicU64; 4]>::default();
        let inner = Constant { wait: Duration::from_millis(20), tries_max: 255 };
        let policy = Counting { inner, asked: Arc::clone(&asked) };
        let options = || small(support::Setup { driver, wire }).rto_initial(Duration::from_millis(20));
        // Its bucket holds four messages: the others are refused for now, until the test has taken some.
        let sink = options().recv_bucket_messages(4).start().unwrap();
        let sender = options()
            .tries_max(255)
            .rto_min_v1(Duration::from_millis(20))
            .retry_policy(policy)
            .start()
            .unwrap();
        deliver_text(&sender, &sink, 100);
        let [first, again, hellos, refused] = [0, 1, 2, 3].map(|n| asked[n].load(Ordering::Relaxed));
        match wire {
            Wire::Csv => {
                assert!(first > 0 && again > 0, "{first} {again}");
                assert_eq!((hellos, refused), (0, 0));
                // Once a visit, and once a repeat.
                until("counters", || sender.stats().total.rows_retransmitted == again);
            }
            _ => {
                assert!(hellos > 0 && refused > 0, "{hellos} {refused}");
                assert_eq!((first, again), (0, 0));
            }
        }
    }
}

/// As [`deliver_all`], of small texts, over whichever wire.
fn deliver_text(sender: &Engine, sink: &Engine, count: u64) {
    let (send, received) = (sender.send_bucket(), sink.recv_bucket());
    let outgoing = |tag: u64| Outgoing::to(sink.local_addr(), format!("{tag}")).tag(tag);
    let mut batch: Vec<Outgoing> = (0..count).map(outgoing).collect();
    let (mut outcomes, mut came) = (Vec::new(), BTreeMap::<u64, u32>::new());
    until_within("all texts and their outcomes", LONG_HANG, || {
        send.put_batch(&mut batch);
        send.outcome_batch(&mut outcomes);
        while let Some(message) = received.try_get() {
            *came.entry(message.text().unwrap().parse().unwrap()).or_default() += 1;
        }
        outcomes.len() as u64 == count && came.len() as u64 == count
    });
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
    assert!(came.values().all(|&times| times == 1));
}
