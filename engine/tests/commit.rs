//! Messages whose sender waits until the receiving application has committed them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use bytes::Bytes;
use futures_lite::future::{block_on, poll_once};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{LONG_HANG, Setup, binary, each_driver, next, small, until, wait, wait_within};
use udp_plus::{
    Actor, Commit, Context, Delivery, DeliveryError, DriverChoice, Engine, FailureCause, Level, Message,
    MessageRef, Outcome, Outgoing, Reached, Refusal, SubmitReason, Verdict, Wire,
};

each_driver! {
    delivered_means_committed_and_silence_means_not,
    many_wait_at_once_and_each_has_its_own_word,
    an_actor_commits_now_later_or_never,
    a_refused_message_comes_again_and_is_committed_then,
    what_ends_while_it_waits_has_a_definite_outcome,
    a_commit_that_cannot_be_waited_for_is_refused,
}

fn committed(engine: &Engine, to: &Engine, payload: impl Into<Bytes>) -> Delivery {
    let outgoing = Outgoing::to(to.local_addr(), payload).level(Level::Committed);
    engine.send_bucket().try_put(outgoing).unwrap()
}

fn plain(engine: &Engine, to: &Engine) {
    wait(engine.send_bucket().try_put(Outgoing::to(to.local_addr(), "plain")).unwrap()).unwrap();
}

/// Whether the outcome is there.
fn is_open(delivery: &mut Delivery) -> bool {
    block_on(poll_once(delivery)).is_none()
}

const fn failed(cause: FailureCause) -> Outcome {
    Err(DeliveryError { cause, reached: Reached::Unknown })
}

const NOT_COMMITTED: Outcome = failed(FailureCause::Refused(Refusal::NotCommitted));

fn delivered_means_committed_and_silence_means_not(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        let start = || small(Setup { driver, wire }).start().unwrap();
        let (a, b) = (start(), start());
        let bucket = b.recv_bucket();
        let take = |bytes: usize| {
            let mut delivery = committed(&a, &b, vec![7; bytes]);
            let message = next(&bucket);
            assert_eq!((message.payload().len(), message.level()), (bytes, Level::Committed));
            // It is in the application's hands, and so is what was sent after it: that says nothing.
            plain(&a, &b);
            assert_eq!(next(&bucket).level(), Level::Accepted);
            assert!(is_open(&mut delivery), "{wire:?}");
            (message, delivery)
        };
        for bytes in [1, 64, 127, 128, 129, 1_400, 20_000, 300_000] {
            let (message, delivery) = take(bytes);
            std::thread::spawn(move || message.commit()).join().unwrap();
            let outcome = wait_within(delivery, LONG_HANG).unwrap();
            assert_eq!((outcome.level, outcome.tries >= 1), (Level::Committed, true));
        }
        let (message, delivery) = take(64);
        drop(message);
        assert_eq!(wait(delivery), NOT_COMMITTED);
        let (message, delivery) = take(64);
        assert_eq!(message.into_payload().len(), 64);
        assert_eq!(wait(delivery), NOT_COMMITTED);
        // Of clones the last one to go is the silent one; and one word is enough.
        let (message, mut delivery) = take(64);
        drop(message.clone());
        plain(&a, &b);
        assert!(is_open(&mut delivery));
        message.clone().commit();
        drop(message);
        assert_eq!(wait(delivery).unwrap().level, Level::Committed);
        let failed = FailureCause::Refused(Refusal::NotCommitted);
        until("they are counted", || a.stats().total.failed(failed) == 2);
    }
}

fn many_wait_at_once_and_each_has_its_own_word(driver: DriverChoice) {
    // More than the window has numbers, and than results fit a datagram, over shards on both sides.
    const MESSAGES: u64 = 3_000;
    let a = binary(driver).shards(2).ops_in_flight_max(8_192).start().unwrap();
    let b = binary(driver).shards(2).recv_bucket_messages(8_192).start().unwrap();
    let (send, bucket) = (a.send_bucket(), b.recv_bucket());
    let mut batch: Vec<Outgoing> = (0..MESSAGES)
        .map(|n| {
            let bytes = if n % 50 == 0 { 3_000 } else { 8 };
            let payload: Vec<u8> = n.to_le_bytes().into_iter().cycle().take(bytes).collect();
            Outgoing::to(b.local_addr(), payload).level(Level::Committed).tag(n)
        })
        .collect();
    let number = |message: &Message| u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
    let mut held: Vec<Message> = Vec::new();
    let (mut ended, mut outcomes, mut most) = (BTreeMap::new(), Vec::new(), 0);
    let mut random = fastrand::Rng::with_seed(7);
    until("an outcome for each", || {
        send.put_batch(&mut batch);
        let came = bucket.get_batch(&mut held);
        most = most.max(held.len());
        if came == 0 && most >= 1_000 {
            // Nothing more comes without a word: all numbers of the window wait. In any order, then, some of them.
            random.shuffle(&mut held);
            let keep = if batch.is_empty() && held.len() < 200 { 0 } else { held.len() / 2 };
            for message in held.drain(keep..) {
                match number(&message) % 3 {
                    0 => drop(message),
                    _ => message.commit(),
                }
            }
        }
        send.outcome_batch(&mut outcomes);
        for (tag, outcome) in outcomes.drain(..) {
            assert!(ended.insert(tag, outcome).is_none(), "two outcomes of {tag}");
        }
        ended.len() as u64 == MESSAGES
    });
    for (tag, outcome) in &ended {
        match outcome {
            Ok(delivered) => assert_eq!((tag % 3 != 0, delivered.level), (true, Level::Committed)),
            failed => assert_eq!((tag % 3, failed), (0, &NOT_COMMITTED)),
        }
    }
    // Whoever waits for a commit holds back nobody.
    let mut waits = committed(&a, &b, "waits");
    let message = next(&bucket);
    for _ in 0..2_000 {
        plain(&a, &b);
        drop(next(&bucket));
    }
    assert!(is_open(&mut waits));
    message.commit();
    wait(waits).unwrap();
}

/// Does what the payload says.
struct Clerk {
    later: Arc<Mutex<Vec<Commit>>>,
}

impl Actor for Clerk {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        let wanted = message.level() == Level::Committed;
        match message.payload {
            b"now" => message.take_commit().unwrap().commit(),
            b"later" => self.later.lock().unwrap().extend(message.take_commit()),
            b"twice" => {
                let commit = message.take_commit().unwrap();
                assert!(message.take_commit().is_none());
                commit.commit();
            }
            b"never" => assert!(wanted),
            _ => assert!(!wanted && message.take_commit().is_none()),
        }
        Verdict::Accept
    }
}

fn an_actor_commits_now_later_or_never(driver: DriverChoice) {
    let later = Arc::new(Mutex::new(Vec::new()));
    let a = binary(driver).start().unwrap();
    let b = binary(driver).shards(2).actor(|_| Clerk { later: Arc::clone(&later) }).start().unwrap();
    for word in ["now", "twice"] {
        assert_eq!(wait(committed(&a, &b, word)).unwrap().level, Level::Committed);
    }
    assert_eq!(wait(committed(&a, &b, "never")), NOT_COMMITTED);
    let mut deliveries = [committed(&a, &b, "later"), committed(&a, &b, "later")];
    until("both came", || later.lock().unwrap().len() == 2);
    plain(&a, &b);
    assert!(deliveries.iter_mut().all(is_open));
    let mut commits = std::mem::take(&mut *later.lock().unwrap());
    commits.pop().unwrap().commit();
    drop(commits);
    let mut levels: Vec<_> =
        deliveries.into_iter().map(|delivery| wait(delivery).map(|outcome| outcome.level)).collect();
    levels.sort_unstable_by_key(Result::is_err);
    assert_eq!(levels, [Ok(Level::Committed), NOT_COMMITTED.map(|outcome| outcome.level)]);
}

/// Takes the commit of what it then refuses; of the next try, gives the word later.
struct Moody {
    seen: u32,
    first: Option<Commit>,
}

impl Actor for Moody {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        self.seen += 1;
        let commit = message.take_commit();
        if self.seen == 1 {
            self.first = commit;
            return Verdict::Refuse;
        }
        // The word on the refused one comes now, and must not count for this one.
        drop(self.first.take());
        commit.unwrap().commit();
        Verdict::Accept
    }
}

fn a_refused_message_comes_again_and_is_committed_then(driver: DriverChoice) {
    let a = binary(driver).start().unwrap();
    let b = binary(driver).actor(|_| Moody { seen: 0, first: None }).start().unwrap();
    assert_eq!(wait(committed(&a, &b, "x")).unwrap().level, Level::Committed);
    until("it was refused once", || b.stats().total.get("dropped_refused") == 1);
}

fn what_ends_while_it_waits_has_a_definite_outcome(driver: DriverChoice) {
    // The deadline, which handshake and delivery keep on any machine, passes; the word that comes too late changes nothing.
    let (a, b) = (binary(driver).start().unwrap(), binary(driver).start().unwrap());
    let outgoing = Outgoing::to(b.local_addr(), "x").level(Level::Committed);
    let delivery = a.send_bucket().try_put(outgoing.deadline(Duration::from_secs(5))).unwrap();
    let late = next(&b.recv_bucket());
    assert_eq!(wait(delivery), failed(FailureCause::Expired));
    late.commit();
    plain(&a, &b);
    assert_eq!(next(&b.recv_bucket()).level(), Level::Accepted);
    // Its owner cancels it.
    let delivery = committed(&a, &b, "x");
    let message = next(&b.recv_bucket());
    delivery.cancel();
    assert_eq!(wait(delivery), failed(FailureCause::Cancelled));
    drop(message);
    // The receiver stops: it says so, and nobody commits any more.
    let delivery = committed(&a, &b, "x");
    let message = next(&b.recv_bucket());
    drop(b);
    assert_eq!(wait(delivery), failed(FailureCause::Refused(Refusal::Closing)));
    message.commit();
    // The sender stops.
    let b = binary(driver).start().unwrap();
    let delivery = committed(&a, &b, "x");
    let message = next(&b.recv_bucket());
    drop(a);
    assert_eq!(wait(delivery), failed(FailureCause::EngineStopped));
    message.commit();
}

fn a_commit_that_cannot_be_waited_for_is_refused(driver: DriverChoice) {
    let start = |wire| small(Setup { driver, wire }).start().unwrap();
    let (csv, auto, v2) = (start(Wire::Csv), start(Wire::Auto), start(Wire::Binary));
    let put = |engine: &Engine, payload: &'static str| {
        let outgoing = Outgoing::to(csv.local_addr(), payload).level(Level::Committed);
        engine.send_bucket().try_put(outgoing).map_err(|error| error.reason)
    };
    assert_eq!(put(&csv, "x").unwrap_err(), SubmitReason::Refused(Refusal::CommitNeedsBinary));
    assert_eq!(put(&v2, "").unwrap_err(), SubmitReason::Refused(Refusal::EmptyCommitted));
    let first = put(&auto, "x").unwrap();
    wait(auto.send_bucket().try_put(Outgoing::to(csv.local_addr(), "a row")).unwrap()).unwrap();
    let never =
        DeliveryError { cause: FailureCause::Refused(Refusal::CommitNeedsBinary), reached: Reached::Never };
    assert_eq!(wait(first), Err(never));
    assert_eq!(next(&csv.recv_bucket()).text(), Some("a row"));
}
