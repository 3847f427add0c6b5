//! Messages of one lane are handed over in the order they were put, and hold back nobody else.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{LONG_HANG, Setup, binary, each_driver, next, small, until, until_within, wait, wait_within};
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::{
    Actor, Context, DeliveryError, DriverChoice, DropReason, Engine, FailureCause, Level, Message,
    MessageRef, Outcome, Outgoing, Priority, Reached, Refusal, SubmitReason, Verdict, Wire,
};

each_driver! {
    lanes_are_in_order_over_a_bad_network,
    a_lane_is_in_order_though_its_bucket_is_full,
    what_expires_or_is_cancelled_is_stepped_over,
    a_lane_goes_with_all_other_options,
    an_actor_over_shards_keeps_lanes_in_order,
    a_lane_that_cannot_be_kept_is_refused,
}

/// A payload that says which it is.
fn payload(number: u64, bytes: usize) -> Bytes {
    number.to_le_bytes().into_iter().cycle().take(bytes.max(8)).collect()
}

fn number(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

/// Of small and large messages, in five lanes and none, with loss, duplicates and reordering in both directions.
fn lanes_are_in_order_over_a_bad_network(driver: DriverChoice) {
    const MESSAGES: u64 = 3_000;
    let sink = binary(driver).recv_bucket_messages(8_192).start().unwrap();
    let source = binary(driver).ops_in_flight_max(4_096).start().unwrap();
    let bad = RelayOptions {
        seed: 5,
        loss: 0.05,
        duplicate: 0.03,
        reorder: 0.05,
        ..RelayOptions::clean(sink.local_addr())
    };
    let relay = Relay::start(bad).unwrap();
    let (send, bucket) = (source.send_bucket(), sink.recv_bucket());
    let lane = |n: u64| (n % 6 < 5).then_some((n % 6) as u16 * 13_107);
    let mut batch: Vec<Outgoing> = (0..MESSAGES)
        .map(|n| {
            let bytes = [8, 60, 700, 1_430, 9_000][(n / 6 % 5) as usize];
            let outgoing = Outgoing::to(relay.address(), payload(n, bytes)).tag(n);
            match lane(n) {
                Some(lane) => outgoing.lane(lane),
                None => outgoing,
            }
        })
        .collect();
    let (mut came, mut outcomes, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    until_within("all of them", LONG_HANG, || {
        send.put_batch(&mut batch);
        bucket.get_batch(&mut messages);
        came.extend(messages.drain(..).map(|message: Message| {
            let number = number(message.payload());
            assert_eq!(message.lane(), lane(number));
            number
        }));
        send.outcome_batch(&mut outcomes);
        outcomes.len() as u64 == MESSAGES && came.len() as u64 >= MESSAGES
    });
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(came.len() as u64, MESSAGES, "each once");
    for of_lane in 0..5 {
        let of_lane = came.iter().filter(|&&n| n % 6 == of_lane);
        assert!(of_lane.clone().is_sorted() && of_lane.count() as u64 == MESSAGES / 6);
    }
    assert!(!came.is_sorted(), "lanes do not wait for each other");
    let log = relay.stop();
    for counts in [log.to_server, log.to_client] {
        assert!(counts.dropped > 0 && counts.duplicated > 0 && counts.reordered > 0, "{counts:?}");
    }
    assert!(sink.stats().total.lane_messages_held > 0);
}

fn a_lane_is_in_order_though_its_bucket_is_full(driver: DriverChoice) {
    let (a, b) = (binary(driver).start().unwrap(), binary(driver).recv_bucket_messages(1).start().unwrap());
    let (send, bucket) = (a.send_bucket(), b.recv_bucket());
    let mut batch: Vec<Outgoing> = (0..60_u64)
        .map(|n| Outgoing::to(b.local_addr(), payload(n, if n % 7 == 0 { 5_000 } else { 20 })).lane(1).tag(n))
        .collect();
    let (mut came, mut outcomes, mut messages) = (Vec::new(), Vec::new(), Vec::new());
    until("all of them", || {
        send.put_batch(&mut batch);
        let full = b.stats().total.dropped(DropReason::BucketFull);
        if full > 0 || came.len() > 40 {
            bucket.get_batch(&mut messages);
        }
        came.extend(messages.drain(..).map(|message: Message| number(message.payload())));
        send.outcome_batch(&mut outcomes);
        outcomes.len() == 60 && came.len() >= 60
    });
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(came, (0..60).collect::<Vec<_>>());
}

/// Refuses what begins with 'x'; remembers what it accepted.
struct Picky {
    accepted: Arc<Mutex<Vec<u64>>>,
}

impl Actor for Picky {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if message.payload.len() == 9 {
            return Verdict::Refuse;
        }
        let lane = match number(message.payload) {
            100 => Some(5),
            101 | 102 => None,
            _ => Some(4),
        };
        assert_eq!(message.lane(), lane);
        self.accepted.lock().unwrap().push(number(message.payload));
        Verdict::Accept
    }
}

const fn failed(cause: FailureCause) -> Outcome {
    Err(DeliveryError { cause, reached: Reached::Unknown })
}

fn what_expires_or_is_cancelled_is_stepped_over(driver: DriverChoice) {
    for cancels in [false, true] {
        let accepted = Arc::default();
        let a = binary(driver).start().unwrap();
        let actor = Arc::clone(&accepted);
        let b = binary(driver).actor(move |_| Picky { accepted: Arc::clone(&actor) }).start().unwrap();
        let (to, send) = (b.local_addr(), a.send_bucket());
        let put = |outgoing: Outgoing| send.try_put(outgoing).unwrap();
        let first = put(Outgoing::to(to, payload(1, 8)).lane(4));
        // It is refused for as long as it lives: nine bytes. That is longer than any machine takes for the others.
        let lives = Duration::from_secs(if cancels { 60 } else { 5 });
        let second = put(Outgoing::to(to, payload(2, 9)).lane(4).deadline(lives));
        let others: Vec<_> =
            (3..30).map(|n| put(Outgoing::to(to, payload(n, 20 + 100 * n as usize)).lane(4))).collect();
        // Those wait; another lane does not, nor what is in none.
        wait(put(Outgoing::to(to, payload(100, 20)).lane(5))).unwrap();
        wait(put(Outgoing::to(to, payload(101, 20)))).unwrap();
        wait(put(Outgoing::to(to, payload(102, 20_000)))).unwrap();
        wait(first).unwrap();
        until("they wait", || b.stats().total.lane_messages_held >= 27);
        let so_far = accepted.lock().unwrap().clone();
        if cancels {
            assert!(!so_far.contains(&3), "{so_far:?}");
            second.cancel();
        }
        let cause = if cancels { FailureCause::Cancelled } else { FailureCause::Expired };
        assert_eq!(wait(second), failed(cause));
        for other in others {
            wait(other).unwrap();
        }
        let mut accepted = accepted.lock().unwrap().clone();
        accepted.retain(|&n| n < 100);
        assert_eq!(accepted, [1].into_iter().chain(3..30).collect::<Vec<_>>());
        until("it is counted", || b.stats().total.lane_messages_skipped == 1);
    }
}

fn a_lane_goes_with_all_other_options(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        let start = || small(Setup { driver, wire }).start().unwrap();
        let (a, b) = (start(), start());
        let (to, bucket) = (b.local_addr(), b.recv_bucket());
        let priorities = [Priority::Low, Priority::Control, Priority::High, Priority::Normal];
        let deliveries: Vec<_> = (0..40_u32)
            .map(|n| {
                let level = if n % 2 == 0 { Level::Committed } else { Level::Accepted };
                let outgoing = Outgoing::to(to, payload(n.into(), 2_000))
                    .message_tag(n)
                    .correlation(7)
                    .meta("m")
                    .priority(priorities[n as usize % 4])
                    .level(level)
                    .lane(u16::MAX);
                a.send_bucket().try_put(outgoing).unwrap()
            })
            .collect();
        for n in 0..40 {
            let message = next(&bucket);
            assert_eq!((message.tag(), message.correlation()), (Some(n), Some(7)), "{wire:?}");
            assert_eq!(message.meta().unwrap().as_ref(), b"m");
            let answer = b.send_bucket().try_put(message.reply(payload(n.into(), 8)).lane(0)).unwrap();
            message.commit();
            wait(answer).unwrap();
            let answer = next(&a.recv_bucket());
            assert_eq!((number(answer.payload()), answer.correlation()), (n.into(), Some(7)));
        }
        for (n, delivery) in deliveries.into_iter().enumerate() {
            let level = if n % 2 == 0 { Level::Committed } else { Level::Accepted };
            assert_eq!(wait_within(delivery, LONG_HANG).unwrap().level, level);
        }
    }
}

/// Puts the numbers it is to, each in its own shard's lane, as fast as there is room.
struct Source {
    to: std::net::SocketAddr,
    next: u64,
    ended: Arc<Mutex<u64>>,
}

const OF_EACH: u64 = 2_000;

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        outcome.unwrap();
        *self.ended.lock().unwrap() += 1;
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let shard = context.shard() as u64;
        while self.next < OF_EACH {
            let outgoing = Outgoing::to(self.to, payload(shard << 32 | self.next, 30)).lane(shard as u16);
            if context.put(outgoing).is_err() {
                context.wake_at(context.now() + Duration::from_millis(1));
                return;
            }
            self.next += 1;
        }
    }
}

fn an_actor_over_shards_keeps_lanes_in_order(driver: DriverChoice) {
    let sink = binary(driver).shards(2).recv_bucket_messages(8_192).start().unwrap();
    let (to, ended) = (sink.local_addr(), Arc::<Mutex<u64>>::default());
    let of_actor = Arc::clone(&ended);
    let _source = binary(driver)
        .shards(2)
        .actor(move |_| Source { to, next: 0, ended: Arc::clone(&of_actor) })
        .start()
        .unwrap();
    let (mut came, mut messages) = (BTreeMap::<u64, Vec<u64>>::new(), Vec::new());
    until("all of them", || {
        sink.recv_bucket().get_batch(&mut messages);
        for message in messages.drain(..) {
            let number = number(Message::payload(&message));
            came.entry(number >> 32).or_default().push(number & 0xffff_ffff);
        }
        *ended.lock().unwrap() == 2 * OF_EACH
            && came.values().map(Vec::len).sum::<usize>() as u64 == 2 * OF_EACH
    });
    let all: Vec<u64> = (0..OF_EACH).collect();
    assert_eq!(came, BTreeMap::from([(0, all.clone()), (1, all)]));
}

fn a_lane_that_cannot_be_kept_is_refused(driver: DriverChoice) {
    let start = |wire| small(Setup { driver, wire }).start().unwrap();
    let (csv, auto, v2) = (start(Wire::Csv), start(Wire::Auto), start(Wire::Binary));
    let refused = |engine: &Engine, outgoing| engine.send_bucket().try_put(outgoing).unwrap_err().reason;
    let needs_binary = Refusal::LaneNeedsBinary;
    let to_auto = Outgoing::to(auto.local_addr(), "x").lane(0);
    assert_eq!(refused(&csv, to_auto), SubmitReason::Refused(needs_binary));
    for engine in [&auto, &v2] {
        let empty = Outgoing::to(csv.local_addr(), "").lane(0);
        assert_eq!(refused(engine, empty), SubmitReason::Refused(Refusal::EmptyInLane));
    }
    // The peer turns out to speak rows alone.
    let never = Err(DeliveryError { cause: FailureCause::Refused(needs_binary), reached: Reached::Never });
    let first = auto.send_bucket().try_put(Outgoing::to(csv.local_addr(), "in a lane").lane(3)).unwrap();
    wait(auto.send_bucket().try_put(Outgoing::to(csv.local_addr(), "without")).unwrap()).unwrap();
    assert_eq!(wait(first), never);
    assert_eq!(
        wait(auto.send_bucket().try_put(Outgoing::to(csv.local_addr(), "known").lane(3)).unwrap()),
        never
    );
    assert_eq!(next(&csv.recv_bucket()).text(), Some("without"));
    assert!(csv.recv_bucket().is_empty());
    let counted = || auto.stats().total.failed(FailureCause::Refused(needs_binary));
    until("they are counted", || counted() == 2);
}
