//! Every message that was accepted ends in one outcome, and whoever waits is woken: where limits, panics and the end of the
//! engine come in between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use futures_lite::future::poll_once;
use futures_lite::{Stream, StreamExt};
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context as TaskContext, Wake, Waker};
use std::time::Duration;
use support::{
    HANG, LONG_HANG, Setup, alone, each_driver_and_wire, guarded, next, nobody, plain_socket, small, until,
    wait,
};
use udp_plus::congestion::{CcConfig, CongestionControl, CongestionFactory};
use udp_plus::{
    Actor, Context, Delivery, FailureCause, MessageRef, Outcome, Outgoing, Reached, Refusal, Verdict, Wire,
};

/// A thread that is about to wait does by then, as a rule.
const SLEEPS_BY_THEN: Duration = Duration::from_millis(100);

each_driver_and_wire! {
    what_is_larger_than_the_bucket_ends_at_once,
}

/// One that is too large has no place among the bytes of the send bucket; it does not wait for one, nor does what is behind it.
fn what_is_larger_than_the_bucket_ends_at_once(setup: Setup) {
    let sink = small(setup).start().unwrap();
    let source = small(setup).message_bytes_max(1_000).send_bytes_max(1_000).start().unwrap();
    let (send, to) = (source.send_bucket(), sink.local_addr());
    let mut batch = vec![Outgoing::to(to, vec![b'x'; 1_001]).tag(1), Outgoing::to(to, "x").tag(2)];
    assert_eq!((send.put_batch(&mut batch), batch.len()), (2, 0));
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        assert!(send.blocking_outcome_batch(&mut outcomes, HANG) > 0, "no outcome");
    }
    outcomes.sort_unstable_by_key(|outcome| outcome.0);
    assert_eq!(outcomes[0].1.unwrap_err().cause, FailureCause::Refused(Refusal::TooLarge));
    assert!(outcomes[1].0 == 2 && outcomes[1].1.is_ok());
    assert_eq!(next(&sink.recv_bucket()).text(), Some("x"));
    // All of the room is there again, and no more.
    let whole = send.try_put(Outgoing::to(to, vec![b'y'; 1_000])).unwrap();
    assert!(whole.wait().is_ok());
}

/// Panics with the message in hand for which the flow opens.
#[derive(Debug)]
struct BuildsNothing;

impl CongestionFactory for BuildsNothing {
    fn build(&self, _: &CcConfig) -> Box<dyn CongestionControl> {
        panic!("a factory that builds nothing")
    }
}

#[test]
fn a_message_in_hand_where_a_plug_in_panics_has_its_outcome() {
    let to = nobody();
    let fails = || small(Wire::Binary).congestion_factory(BuildsNothing).start().unwrap();
    // A future.
    let engine = fails();
    let delivery = engine.send_bucket().try_put(Outgoing::to(to, "x")).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(delivery.wait()));
    let outcome = told.recv_timeout(HANG).expect("the delivery ends");
    assert_eq!(outcome.unwrap_err().cause, FailureCause::EngineStopped);
    // By tag, with others behind it: one outcome each.
    let each = |put: &dyn Fn(&udp_plus::SendBucket)| {
        let engine = fails();
        let (send, mut outcomes) = (engine.send_bucket(), Vec::new());
        put(&send);
        while outcomes.len() < 3 {
            assert!(send.blocking_outcome_batch(&mut outcomes, HANG) > 0, "{outcomes:?}");
        }
        engine.shutdown_blocking(HANG);
        send.outcome_batch(&mut outcomes);
        outcomes.sort_unstable_by_key(|outcome| outcome.0);
        assert!(outcomes.iter().map(|outcome| outcome.0).eq(0..3), "{outcomes:?}");
        for (_, outcome) in outcomes {
            let error = outcome.unwrap_err();
            assert_eq!((error.cause, error.reached), (FailureCause::EngineStopped, Reached::Never));
        }
    };
    each(&|send| {
        let mut batch = (0..3).map(|tag| Outgoing::to(to, "x").tag(tag)).collect();
        assert_eq!(send.put_batch(&mut batch), 3);
    });
    each(&|send| {
        let messages = (0..3).map(|tag| (tag, |space: &mut [u8]| space.fill(b'x')));
        assert_eq!(send.put_each(to, 8, messages), (3, Ok(())));
    });
}

/// Puts in every turn, to peers of all shards; says at its end how many messages were taken, and of how many it heard.
struct Puts {
    peers: Vec<SocketAddr>,
    taken: usize,
    heard: usize,
    end: Sender<(usize, usize)>,
}

impl Actor for Puts {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, _: Outcome) {
        self.heard += 1;
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for &peer in &self.peers {
            self.taken += usize::from(context.put(Outgoing::to(peer, "x")).is_ok());
        }
        context.wake_at(context.now());
    }
}

impl Drop for Puts {
    fn drop(&mut self) {
        let _ = self.end.send((self.taken, self.heard));
    }
}

/// What an actor puts in its last turn may be another shard's to end, which finds it when this one has nothing more to do.
#[test]
fn an_actor_hears_of_all_it_put_also_in_its_last_turn() {
    let silent: Vec<_> = (0..8).map(|_| plain_socket()).collect();
    let peers: Vec<_> = silent.iter().map(|socket| socket.local_addr().unwrap()).collect();
    for round in 0..60 {
        let (end, ends) = channel();
        let peers = peers.clone();
        let actor = move |_| Puts { peers: peers.clone(), taken: 0, heard: 0, end: end.clone() };
        let engine = small(Wire::Csv).shards(2).ops_in_flight_max(1 << 16).actor(actor).start().unwrap();
        std::thread::sleep(Duration::from_millis(round % 7));
        drop(engine);
        for _ in 0..2 {
            let (taken, heard) = ends.recv_timeout(LONG_HANG).unwrap();
            assert!(taken > 0);
            assert_eq!(taken, heard, "in round {round}");
        }
    }
}

/// A stream that was polled and then left alone, as `timeout(stream.next())` leaves it, keeps no message from who waits.
#[test]
fn a_stream_that_nobody_polls_any_more_takes_no_wake_up() {
    let sink = small(Wire::Csv).start().unwrap();
    let mut stream = sink.recv_bucket();
    assert!(wait(poll_once(stream.next())).is_none());
    let bucket = sink.recv_bucket();
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(bucket.blocking_get()));
    // It sleeps by then, as a rule; whoever comes later finds the message.
    std::thread::sleep(SLEEPS_BY_THEN);
    let source = small(Wire::Csv).start().unwrap();
    assert!(source.send_bucket().try_put(Outgoing::to(sink.local_addr(), "x")).unwrap().wait().is_ok());
    assert_eq!(told.recv_timeout(HANG).expect("it woke up").unwrap().text(), Some("x"));
    // The stream is told all the same.
    let next = std::thread::spawn(move || wait(stream.next()).map(|message| message.text() == Some("y")));
    assert!(source.send_bucket().try_put(Outgoing::to(sink.local_addr(), "y")).unwrap().wait().is_ok());
    assert_eq!(next.join().unwrap(), Some(true));
}

/// The application's waker, which is called by whoever brings the news.
struct PanickingWaker(AtomicUsize);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("a waker that panics");
    }
}

/// Panics of wakers are nobody else's: all others have their outcomes, and messages, and the end is heard of.
#[test]
fn wakers_that_panic_harm_nobody() {
    let called = Arc::new(PanickingWaker(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&called));
    let mut context = TaskContext::from_waker(&waker);
    let (sink, source) = (Arc::new(small(Wire::Csv).start().unwrap()), small(Wire::Csv).start().unwrap());
    let (send, to) = (source.send_bucket(), sink.local_addr());
    // Two futures of deliveries, to somebody who does not answer; and others' behind them.
    let silent = plain_socket();
    let put = || send.try_put(Outgoing::to(silent.local_addr().unwrap(), "x")).unwrap();
    let mut deliveries: Vec<_> = (0..4).map(|_| put()).collect();
    for delivery in &mut deliveries[..2] {
        assert!(pin!(delivery).poll(&mut context).is_pending());
    }
    deliveries.iter().for_each(Delivery::cancel);
    let calls = || called.0.load(Ordering::SeqCst);
    until("the wakers of both", || calls() == 2);
    for delivery in deliveries {
        assert_eq!(wait(delivery).unwrap_err().cause, FailureCause::Cancelled);
    }
    // One that waits for a message, and another one behind it.
    let mut first = Box::pin(sink.get_message());
    assert!(first.as_mut().poll(&mut context).is_pending());
    for number in 0..2 {
        assert!(wait(send.try_put(Outgoing::to(to, number.to_string())).unwrap()).is_ok());
    }
    assert_eq!(next(&sink.recv_bucket()).text(), Some("0"));
    assert_eq!(next(&sink.recv_bucket()).text(), Some("1"));
    until("the third", || calls() == 3);
    drop(first);
    // And where the engine ends, who waits for that as well.
    let (bucket, mut ends) = (sink.recv_bucket(), Box::pin(sink.shutdown(Duration::ZERO)));
    let mut second = Box::pin(bucket.get());
    assert!(second.as_mut().poll(&mut context).is_pending());
    let mut stream = sink.recv_bucket();
    assert!(Pin::new(&mut stream).poll_next(&mut context).is_pending());
    let _ = ends.as_mut().poll(&mut context);
    let (tell, told) = channel();
    let shut = Arc::clone(&sink);
    std::thread::spawn(move || {
        shut.shutdown_blocking(Duration::ZERO);
        tell.send(shut.failure())
    });
    assert_eq!(told.recv_timeout(HANG).expect("it returns"), None);
    assert!(calls() >= 5);
    assert_eq!(source.failure(), None);
}

/// Room for a message that waits behind one for which it is too little; and for two where one ended.
#[test]
fn what_fits_does_not_wait_behind_what_does_not() {
    let silent = plain_socket();
    let source = small(Wire::Csv).message_bytes_max(1_000).send_bytes_max(1_000).start().unwrap();
    let put = |bytes: usize| Outgoing::to(silent.local_addr().unwrap(), vec![b'x'; bytes]);
    let waits = |bytes: usize| {
        let (send, outgoing, (tell, told)) = (source.send_bucket(), put(bytes), channel());
        std::thread::spawn(move || tell.send(send.blocking_put(outgoing).unwrap()));
        std::thread::sleep(SLEEPS_BY_THEN);
        told
    };
    let send = source.send_bucket();
    let still_waits = |delivery: &mut Delivery| wait(poll_once(delivery)).is_none();
    let (mut long, short) = (send.try_put(put(600)).unwrap(), send.try_put(put(300)).unwrap());
    let (does_not_fit, fits) = (waits(700), waits(300));
    short.cancel();
    let fits = fits.recv_timeout(HANG).expect("it fits");
    assert!(still_waits(&mut long), "nothing else made room");
    assert!(does_not_fit.try_recv().is_err(), "there is no room for it yet");
    fits.cancel();
    long.cancel();
    let whole = does_not_fit.recv_timeout(HANG).expect("it fits now");
    // Two in the place of one.
    let two = [waits(500), waits(500)];
    whole.cancel();
    let mut two = two.map(|one| one.recv_timeout(HANG).expect("both fit"));
    assert!(two.iter_mut().all(still_waits), "neither made room for the other");
}

/// A message to a peer for which the full tables have no place waits for one, and holds up no others.
#[test]
fn who_has_no_place_holds_up_nobody() {
    for wire in [Wire::Csv, Wire::Binary] {
        let (silent, nobody) = (plain_socket(), plain_socket());
        let sink = small(wire).start().unwrap();
        let source = small(wire).peers_max(2).start().unwrap();
        let (send, recv) = (source.send_bucket(), sink.recv_bucket());
        let to = |socket: &UdpSocket| Outgoing::to(socket.local_addr().unwrap(), "x");
        let put = |outgoing| send.try_put(outgoing).unwrap();
        // Both places are taken: for 10 s at least.
        let _held = put(to(&silent));
        assert!(wait(put(Outgoing::to(sink.local_addr(), "first"))).is_ok());
        let mut placeless = [put(to(&nobody).deadline(2 * HANG)), put(to(&nobody).deadline(2 * HANG))];
        // As many as would wait longer than those live if each waited for the next look at them.
        for number in 0..300 {
            let outcome = wait(put(Outgoing::to(sink.local_addr(), number.to_string())));
            assert!(outcome.is_ok(), "{outcome:?}");
        }
        for delivery in &mut placeless {
            assert!(wait(poll_once(delivery)).is_none(), "they still wait");
        }
        let mut came = Vec::new();
        until("all of them", || {
            recv.get_batch(&mut came);
            came.len() == 301
        });
        // They can be cancelled, and the engine's end is theirs.
        let [first, second] = placeless;
        first.cancel();
        let error = wait(first).unwrap_err();
        assert_eq!((error.cause, error.reached), (FailureCause::Cancelled, Reached::Never));
        drop(source);
        let error = wait(second).unwrap_err();
        assert_eq!((error.cause, error.reached), (FailureCause::EngineStopped, Reached::Never));
    }
}

/// The first core may be any number, whatever the shard adds to it: a thread that panicked there had no last word, and the start
/// waited for it.
#[test]
fn the_last_of_all_cores_is_no_reason_to_hang() {
    guarded("pinning", || {
        let engine = small(Wire::Csv).shards(2).pin(true).pin_first_core(u16::MAX).start().unwrap();
        assert_eq!(engine.stats().shards.len(), 2);
    });
}

/// Whoever shuts down finds the port free, also where another thread does the same.
#[test]
fn the_port_is_free_for_each_of_those_who_shut_down() {
    for _ in 0..20 {
        let engine = alone(Wire::Csv).shards(2).start().unwrap();
        let (both, one) = (Barrier::new(2), Mutex::new(()));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    both.wait();
                    engine.shutdown_blocking(Duration::ZERO);
                    let _one = one.lock();
                    UdpSocket::bind(engine.local_addr()).expect("the port is free");
                });
            }
        });
    }
}

/// Who puts until all is taken learns of the end.
#[test]
fn a_batch_that_is_not_taken_says_why() {
    let nobody = nobody();
    let engine = small(Wire::Csv).ops_in_flight_max(1).start().unwrap();
    let send = engine.send_bucket();
    let mut batch = vec![Outgoing::to(nobody, "x"), Outgoing::to(nobody, "y")];
    assert_eq!((send.put_batch(&mut batch), send.put_batch(&mut batch)), (1, 0));
    assert!(!send.is_stopped(), "it is full");
    drop(engine);
    assert_eq!((send.put_batch(&mut batch), batch.len()), (0, 1));
    assert!(send.is_stopped());
    let mut outcomes = Vec::new();
    assert_eq!(send.blocking_outcome_batch(&mut outcomes, Duration::MAX), 1);
    assert_eq!(send.blocking_outcome_batch(&mut outcomes, Duration::MAX), 0);
}

/// More buckets than a shard keeps lists for, and each of them hears of its own messages, turn after turn.
#[test]
fn each_of_many_buckets_hears_of_its_own() {
    const BUCKETS: u64 = 50;
    let sink = small(Wire::Binary).start().unwrap();
    let source = small(Wire::Binary).start().unwrap();
    let buckets: Vec<_> = (0..BUCKETS).map(|_| source.send_bucket()).collect();
    for round in 0..4 {
        for (number, bucket) in (0..).zip(&buckets) {
            let tags = (0..=number).map(|tag| (round << 32) + (number << 16) + tag);
            let put = |tag| Outgoing::to(sink.local_addr(), "x").tag(tag);
            let mut batch: Vec<_> = tags.map(put).collect();
            assert_eq!(bucket.put_batch(&mut batch) as u64, number + 1);
        }
        for (number, bucket) in (0..).zip(&buckets) {
            let mut outcomes = Vec::new();
            while outcomes.len() as u64 <= number {
                assert!(bucket.blocking_outcome_batch(&mut outcomes, HANG) > 0, "no outcome");
            }
            let mut tags: Vec<u64> = outcomes.iter().map(|outcome| outcome.0).collect();
            tags.sort_unstable();
            assert!(tags.into_iter().eq((0..=number).map(|tag| (round << 32) + (number << 16) + tag)));
            assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
        }
        sink.recv_bucket().get_batch(&mut Vec::new());
    }
}
