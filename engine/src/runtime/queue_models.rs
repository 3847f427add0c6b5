//! Loom's models of the queues between threads: every interleaving of a few threads, up to so many involuntary switches. A
//! wake-up that is lost is a deadlock, which loom reports. `scripts/check loom`.
//!
//! Loom knows sequential consistency of fences alone, not of single accesses; so what a shard that goes does with mail that
//! comes too late (`Shared::posted`, two such accesses on each side) has no model here.

use super::bucket::{RecvBucket, RecvQueue};
use super::completion::{CompletionQueue, acquire};
use super::mailbox::{Mail, Mailbox};
use super::sync::AtomicUsize;
use crate::commit::CommitKey;
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::message::{Message, Outcome};
use crate::sys::wake_state::WakeState;
use crate::sys::wake_state::wake_model::Eventfd;
use loom::thread;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const FOREVER: Duration = Duration::MAX;

fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(run);
}

fn mail(number: u64) -> Mail {
    Mail::Commit(CommitKey { flow: 0, incarnation: 0, seq: number, attempt: 0 }, true)
}

const OUTCOME: Outcome = Err(DeliveryError { cause: FailureCause::Cancelled, reached: Reached::Never });

/// Two threads post, one of them two mails; the shard sleeps whenever its mailbox is empty.
#[test]
fn queue_model_no_mail_waits_and_none_is_lost() {
    model(3, || {
        let mailbox = Arc::new(Mailbox::default());
        let (state, eventfd) = (Arc::new(WakeState::new()), Arc::new(Eventfd::default()));
        let threads: Vec<_> = [&[1, 2][..], &[10]]
            .into_iter()
            .map(|numbers| {
                let (mailbox, state, eventfd) = (mailbox.clone(), state.clone(), eventfd.clone());
                thread::spawn(move || {
                    for &number in numbers {
                        mailbox.post(mail(number));
                        if state.notify() {
                            eventfd.write();
                        }
                    }
                })
            })
            .collect();
        let mut taken = Vec::new();
        let mut inbox = VecDeque::new();
        loop {
            mailbox.take(&mut inbox);
            for mail in inbox.drain(..) {
                let Mail::Commit(key, _) = mail else { unreachable!("nothing else was posted") };
                taken.push(key.seq);
            }
            if taken.len() == 3 {
                break;
            }
            state.prepare_park();
            if !mailbox.has_mail() {
                eventfd.read();
            }
            state.unpark();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!mailbox.has_mail());
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 2, 10]);
        assert!(taken.iter().position(|&number| number == 1) < taken.iter().position(|&number| number == 2));
    });
}

/// Permits are never more than there are, and none is left over that was asked for.
#[test]
fn queue_model_permits_are_given_once() {
    model(4, || {
        let used = Arc::new(AtomicUsize::new(0));
        let other = {
            let used = used.clone();
            thread::spawn(move || acquire(&used, 2, 3))
        };
        let got = acquire(&used, 2, 3);
        assert_eq!(got + other.join().unwrap(), 3);
    });
}

/// A thread waits for the outcomes of two shards; once all have come it does not wait.
#[test]
fn queue_model_no_outcome_waits_and_none_is_lost() {
    model(2, || {
        let queue = Arc::new(CompletionQueue::new(2));
        assert_eq!(queue.acquire(3), 2);
        let shards: Vec<_> = [1, 2]
            .into_iter()
            .map(|tag| {
                let queue = queue.clone();
                thread::spawn(move || queue.append(&mut vec![(tag, OUTCOME)]))
            })
            .collect();
        let mut outcomes = Vec::new();
        while outcomes.len() < 2 {
            assert!(queue.take_blocking(&mut outcomes, FOREVER) > 0, "two are due");
        }
        assert_eq!(queue.take_blocking(&mut outcomes, FOREVER), 0, "none is due");
        outcomes.sort_unstable_by_key(|outcome| outcome.0);
        assert!(outcomes.iter().map(|outcome| outcome.0).eq([1, 2]));
        assert_eq!(queue.acquire(3), 2, "all places are there again");
        shards.into_iter().for_each(|shard| shard.join().unwrap());
    });
}

/// Two threads wait for the outcomes of one queue: who gets none, because the other one took all, does not wait for more.
#[test]
fn queue_model_nobody_waits_for_outcomes_that_another_one_took() {
    model(3, || {
        let queue = Arc::new(CompletionQueue::new(1));
        assert_eq!(queue.acquire(1), 1);
        let take = |queue: Arc<CompletionQueue>| queue.take_blocking(&mut Vec::new(), FOREVER);
        let other = {
            let queue = queue.clone();
            thread::spawn(move || take(queue))
        };
        let shard = {
            let queue = queue.clone();
            thread::spawn(move || queue.append(&mut vec![(1, OUTCOME)]))
        };
        assert_eq!(take(queue) + other.join().unwrap(), 1);
        shard.join().unwrap();
    });
}

/// A thread waits while another one gives back the places for which it had nothing to put after all.
#[test]
fn queue_model_nobody_waits_for_what_was_not_put() {
    model(3, || {
        let queue = Arc::new(CompletionQueue::new(1));
        assert_eq!(queue.acquire(1), 1);
        let putter = {
            let queue = queue.clone();
            thread::spawn(move || queue.release_unused(1))
        };
        assert_eq!(queue.take_blocking(&mut Vec::new(), FOREVER), 0);
        putter.join().unwrap();
    });
}

/// The engine stops while a thread waits for an outcome that never comes, or for one that comes at last.
#[test]
fn queue_model_who_waits_for_outcomes_is_told_of_the_end() {
    for comes in [false, true] {
        model(3, move || {
            let queue = Arc::new(CompletionQueue::new(1));
            assert_eq!(queue.acquire(1), 1);
            let shard = {
                let queue = queue.clone();
                thread::spawn(move || {
                    if comes {
                        queue.append(&mut vec![(1, OUTCOME)]);
                    }
                    queue.stop();
                })
            };
            let count = queue.take_blocking(&mut Vec::new(), FOREVER);
            assert_eq!(count, usize::from(comes), "what came before the end is found");
            shard.join().unwrap();
        });
    }
}

fn message(number: u8) -> Message {
    let sender = SocketAddr::from(([127, 0, 0, 1], 1));
    Message::new(sender, vec![number].into(), None, None, Default::default(), None)
}

/// Two callers wait, two messages come in one turn: each gets one.
#[test]
fn queue_model_each_waiting_caller_gets_a_message() {
    model(2, || {
        let queue = Arc::new(RecvQueue::new(2, 2));
        assert!(queue.reserve(2, 2) && !queue.reserve(1, 0));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let bucket = RecvBucket::new(queue.clone());
                thread::spawn(move || bucket.blocking_get().unwrap().payload()[0])
            })
            .collect();
        queue.append(&mut vec![message(1), message(2)]);
        let got: u32 = callers.into_iter().map(|caller| u32::from(caller.join().unwrap())).sum();
        assert_eq!(got, 3);
        assert!(queue.reserve(2, 2), "their places are free again");
    });
}

/// A caller waits while a message comes and the engine stops: first the one, then the other.
#[test]
fn queue_model_the_last_message_comes_before_the_end() {
    model(3, || {
        let queue = Arc::new(RecvQueue::new(1, 1));
        assert!(queue.reserve(1, 1));
        let bucket = RecvBucket::new(queue.clone());
        let caller = thread::spawn(move || {
            let first = bucket.blocking_get().map(|message| message.payload()[0]);
            (first.ok(), bucket.blocking_get().is_err())
        });
        queue.append(&mut vec![message(7)]);
        queue.stop();
        assert_eq!(caller.join().unwrap(), (Some(7), true));
    });
}
