//! Many messages put at once, from inside a shard and through the bucket.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use support::{LONG_HANG, Setup, each_driver_and_wire, next_within, small};
use udp_plus::{
    Actor, Context, Engine, FailureCause, MessageRef, Outcome, Reached, Refusal, SubmitReason, Verdict, Wire,
};

each_driver_and_wire! {
    all_arrive_and_none_is_lost_on_the_way_in,
    threads_share_the_bucket_and_each_message_has_its_outcome,
    a_stop_leaves_none_without_its_outcome,
}

const MESSAGES: u64 = 20_000;
const OPS_MAX: u32 = 300;
/// Some go behind others into a datagram, some need one of their own, some are cut.
const SIZES: [usize; 4] = [16, 64, 1_000, 5_000];

fn text(tag: u64, space: &mut [u8]) {
    space.fill(b'.');
    space[..16].copy_from_slice(format!("{tag:016}").as_bytes());
}

fn sized(tag: u64) -> usize {
    SIZES[tag as usize / 100 % SIZES.len()]
}

fn messages(tags: std::ops::Range<u64>) -> impl Iterator<Item = (u64, impl FnOnce(&mut [u8]))> {
    tags.map(|tag| (tag, move |space: &mut [u8]| text(tag, space)))
}

/// All of them came, once each and as they were written.
fn receive_all(sink: &Engine) {
    let mut came = vec![0; MESSAGES as usize];
    for _ in 0..MESSAGES {
        let message = next_within(&sink.recv_bucket(), LONG_HANG);
        let tag: u64 = message.text().unwrap()[..16].parse().unwrap();
        let mut expected = vec![0; sized(tag)];
        text(tag, &mut expected);
        assert!(*message.payload() == expected, "message {tag}");
        came[tag as usize] += 1;
    }
    assert!(came.iter().all(|&count| count == 1));
}

/// Puts more at a time than there is room for, by runs of one size.
struct Source {
    to: SocketAddr,
    next: u64,
    /// How often it ended with a refusal, and how often that was of a message taken already.
    full: [u64; 2],
    outcomes: Sender<(u64, Outcome)>,
    done: Sender<[u64; 2]>,
}

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        self.outcomes.send((tag, outcome)).unwrap();
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        while self.next < MESSAGES {
            let run = self.next / 100;
            let (bytes, end) = (SIZES[run as usize % SIZES.len()], (run + 1) * 100);
            let mut taken = 0;
            let messages = (self.next..end).map(|tag| {
                taken += 1;
                (tag, move |space: &mut [u8]| text(tag, space))
            });
            let (put, ended) = context.put_each(self.to, bytes, messages);
            assert!(put <= OPS_MAX as usize);
            self.next += put as u64;
            match ended {
                Ok(()) => assert_eq!((put as u64, self.next), (taken, end)),
                Err(reason) => {
                    assert_eq!(reason, SubmitReason::Full);
                    assert!(taken - put as u64 <= 1, "{taken} taken, {put} put");
                    self.full[(taken - put as u64) as usize] += 1;
                    return;
                }
            }
        }
        let _ = self.done.send(self.full);
    }
}

fn all_arrive_and_none_is_lost_on_the_way_in(setup: Setup) {
    let sink = small(setup).start().unwrap();
    let (to, (outcomes, ended), (done, full)) = (sink.local_addr(), channel(), channel());
    let source =
        move |_| Source { to, next: 0, full: [0; 2], outcomes: outcomes.clone(), done: done.clone() };
    let _engine = small(setup).ops_in_flight_max(OPS_MAX).actor(source).start().unwrap();
    receive_all(&sink);
    let mut told = vec![0; MESSAGES as usize];
    for _ in 0..MESSAGES {
        let (tag, outcome) = ended.recv_timeout(LONG_HANG).unwrap();
        outcome.unwrap();
        told[tag as usize] += 1;
    }
    assert!(told.iter().all(|&count| count == 1));
    let full = full.recv_timeout(LONG_HANG).unwrap();
    assert!(full[0] > 0, "there was never too much: {full:?}");
}

fn threads_share_the_bucket_and_each_message_has_its_outcome(setup: Setup) {
    const THREADS: u64 = 4;
    let sink = small(setup).start().unwrap();
    let source = small(setup).ops_in_flight_max(OPS_MAX).start().unwrap();
    let (send, to) = (source.send_bucket(), sink.local_addr());
    let refused = std::thread::scope(|scope| {
        let put_all = |thread: u64| {
            let (send, mut refused) = (send.clone(), 0);
            let (mut next, end) = (thread * MESSAGES / THREADS, (thread + 1) * MESSAGES / THREADS);
            while next < end {
                let run = next..(next / 100 + 1) * 100;
                let (mut taken, bytes) = (0, sized(next));
                let (put, ended) = send.put_each(to, bytes, messages(run.clone()).inspect(|_| taken += 1));
                assert_eq!(put as u64, taken, "none is taken that is not put");
                next += taken;
                match ended {
                    Ok(()) => assert_eq!(next, run.end),
                    Err(reason) => {
                        assert_eq!(reason, SubmitReason::Full);
                        refused += 1;
                        std::thread::yield_now();
                    }
                }
            }
            refused
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || put_all(thread))).collect();
        scope.spawn(|| receive_all(&sink));
        // Outcomes that nobody takes have their places.
        let (mut told, mut outcomes) = (vec![0; MESSAGES as usize], Vec::new());
        while told.iter().sum::<u64>() < MESSAGES {
            send.blocking_outcome_batch(&mut outcomes, Duration::from_millis(10));
            for (tag, outcome) in outcomes.drain(..) {
                outcome.unwrap();
                told[tag as usize] += 1;
            }
        }
        assert!(told.iter().all(|&count| count == 1));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    assert!(refused > 0, "there was never too much");
}

fn a_stop_leaves_none_without_its_outcome(setup: Setup) {
    // Nobody is there: what is put stays under way.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let source = small(setup).start().unwrap();
    let send = source.send_bucket();
    let (put, ended) = send.put_each(nobody.local_addr().unwrap(), 64, messages(0..1_500));
    assert_eq!((put, ended), (1_500, Ok(())));
    source.shutdown_blocking(Duration::ZERO);
    let (mut told, mut outcomes) = (vec![0; 1_500], Vec::new());
    while send.outcome_batch(&mut outcomes) > 0 {
        for (tag, outcome) in outcomes.drain(..) {
            assert_eq!(outcome.unwrap_err().cause, FailureCause::EngineStopped);
            told[tag as usize] += 1;
        }
    }
    assert!(told.iter().all(|&count| count == 1), "{:?}", told.iter().filter(|&&count| count != 1).count());
    assert_eq!(
        send.put_each(nobody.local_addr().unwrap(), 64, messages(0..1)),
        (0, Err(SubmitReason::Stopped))
    );
}

#[test]
fn what_can_not_be_sent_is_said_at_once_or_by_its_outcome() {
    let sink = small(Wire::Csv).start().unwrap();
    let source = small(Wire::Csv).message_bytes_max(1_000).ops_in_flight_max(64).start().unwrap();
    let (send, to) = (source.send_bucket(), sink.local_addr());
    let too_large = SubmitReason::Refused(Refusal::TooLarge);
    assert_eq!(send.put_each(to, 1_001, messages(0..1)), (0, Err(too_large)));
    let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    assert_eq!(
        send.put_each(nowhere, 64, messages(0..1)),
        (0, Err(SubmitReason::Refused(Refusal::BadAddress)))
    );
    assert_eq!(send.put_each(to, 64, messages(0..0)), (0, Ok(())));
    // No text.
    let put = send.put_each(to, 2, [(7, |space: &mut [u8]| space.fill(0xff))]);
    assert_eq!(put, (1, Ok(())));
    let mut outcomes = Vec::new();
    send.blocking_outcome_batch(&mut outcomes, LONG_HANG);
    let (tag, error) = (outcomes[0].0, outcomes[0].1.unwrap_err());
    assert_eq!((tag, error.cause, error.reached), (7, FailureCause::NotText, Reached::Never));
    // Writing one panics: its room is there again, for as many as ever.
    for _ in 0..200 {
        let panicking = [(0, |_: &mut [u8]| panic!("not written"))];
        let put = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| send.put_each(to, 64, panicking)));
        assert!(put.is_err());
    }
    assert_eq!(send.put_each(to, 64, messages(0..64)), (64, Err(SubmitReason::Full)));
}

/// Room that was taken for messages that did not come is room for those who wait.
#[test]
fn who_waits_is_woken_where_none_was_put_after_all() {
    let sink = small(Wire::Binary).start().unwrap();
    let source = small(Wire::Binary).ops_in_flight_max(8).start().unwrap();
    let (send, to) = (source.send_bucket(), sink.local_addr());
    let ((taken, all_taken), (go, may_end)) = (channel(), channel());
    std::thread::scope(|scope| {
        let empty = std::iter::from_fn(move || {
            // Asked for a message: all room is taken by now. Later there is none.
            taken.send(()).unwrap();
            may_end.recv_timeout(LONG_HANG).unwrap();
            None::<(u64, fn(&mut [u8]))>
        });
        let bucket = send.clone();
        scope.spawn(move || assert_eq!(bucket.put_each(to, 64, empty), (0, Ok(()))));
        all_taken.recv_timeout(LONG_HANG).unwrap();
        let waiting = udp_plus::Outgoing::to(to, "waits");
        assert!(send.try_put(waiting.clone()).is_err(), "there is no room");
        let outcomes = || send.blocking_outcome_batch(&mut Vec::new(), Duration::MAX);
        scope.spawn(move || assert_eq!(outcomes(), 0));
        let waiter = send.clone();
        scope.spawn(move || waiter.blocking_put(waiting).unwrap().wait().unwrap());
        // Let them wait by then, as a rule; whoever comes later finds room.
        std::thread::sleep(Duration::from_millis(200));
        go.send(()).unwrap();
    });
    assert_eq!(next_within(&sink.recv_bucket(), LONG_HANG).text(), Some("waits"));
}

/// An end to the engine is one to what is put, also where there is always another message.
#[test]
fn what_has_no_end_ends_with_the_engine() {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let source = small(Wire::Binary).start().unwrap();
    let (send, to) = (source.send_bucket(), nobody.local_addr().unwrap());
    let mut asked = 0;
    let endless = messages(0..u64::MAX).inspect(|_| {
        asked += 1;
        if asked == 10 {
            source.shutdown_blocking(Duration::ZERO);
        }
    });
    let (put, ended) = send.put_each(to, 64, endless);
    assert_eq!(ended, Err(SubmitReason::Stopped));
    let (mut told, mut outcomes) = (0, Vec::new());
    while send.outcome_batch(&mut outcomes) > 0 {
        told += outcomes.drain(..).filter(|(_, outcome)| outcome.is_err()).count();
    }
    assert_eq!(told, put);
}

/// Its writer panics, and the actor goes on: the message was not put, those beside it were.
struct Careless {
    to: SocketAddr,
    outcomes: Sender<(u64, Outcome)>,
    /// A message put, and waited for, first: then the flow is open, and others go straight into their datagram.
    opens_with: Option<u64>,
    asked: bool,
    done: bool,
}

impl Actor for Careless {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        self.opens_with = self.opens_with.filter(|&first| first != tag);
        self.outcomes.send((tag, outcome)).unwrap();
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        if let Some(first) = self.opens_with {
            if !std::mem::replace(&mut self.asked, true) {
                assert_eq!(context.put_each(self.to, 64, messages(first..first + 1)), (1, Ok(())));
            }
            return;
        }
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        let careless = (0..6).map(|tag| {
            (tag, move |space: &mut [u8]| {
                assert!(tag != 3, "not written");
                text(tag, space);
            })
        });
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            context.put_each(self.to, 64, careless)
        }));
        assert!(caught.is_err());
        assert_eq!(context.put_each(self.to, 64, messages(4..6)), (2, Ok(())));
    }
}

#[test]
fn a_message_whose_writer_panics_was_not_put() {
    for opens_with in [None, Some(6)] {
        let sink = small(Wire::Binary).start().unwrap();
        let (to, (outcomes, ended)) = (sink.local_addr(), channel());
        let actor =
            move |_| Careless { to, outcomes: outcomes.clone(), opens_with, asked: false, done: false };
        let engine = small(Wire::Binary).actor(actor).start().unwrap();
        let put: Vec<u64> = [0, 1, 2, 4, 5].into_iter().chain(opens_with).collect();
        let mut told: Vec<u64> = put.iter().map(|_| ended.recv_timeout(LONG_HANG).unwrap().0).collect();
        told.sort_unstable();
        assert_eq!(told, put);
        let mut came: Vec<_> = put.iter().map(|_| next_within(&sink.recv_bucket(), LONG_HANG)).collect();
        came.sort_by(|a, b| a.payload().cmp(b.payload()));
        let tags = came.iter().map(|message| message.text().unwrap()[..16].parse::<u64>().unwrap());
        assert!(tags.eq(put));
        assert!(ended.try_recv().is_err() && sink.recv_bucket().try_get().is_none());
        // Each of them is in the books.
        engine.shutdown_blocking(LONG_HANG);
        assert_eq!(engine.ledger().residual(), 0, "{}", engine.ledger());
    }
}
