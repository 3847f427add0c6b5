//! Many messages put at once from inside a shard.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use support::{LONG_HANG, Setup, each_driver_and_wire, next_within, small};
use udp_plus::{Actor, Context, MessageRef, Outcome, SubmitReason, Verdict};

each_driver_and_wire! {
    all_arrive_and_none_is_lost_on_the_way_in,
}

const MESSAGES: u64 = 20_000;
const OPS_MAX: u32 = 300;
/// Some go behind others into a datagram, some need one of their own, some are cut.
const SIZES: [usize; 4] = [16, 64, 1_000, 5_000];

fn text(tag: u64, space: &mut [u8]) {
    space.fill(b'.');
    space[..16].copy_from_slice(format!("{tag:016}").as_bytes());
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
    let mut came = vec![0; MESSAGES as usize];
    for _ in 0..MESSAGES {
        let message = next_within(&sink.recv_bucket(), LONG_HANG);
        let tag: u64 = message.text().unwrap()[..16].parse().unwrap();
        let mut expected = vec![0; SIZES[tag as usize / 100 % SIZES.len()]];
        text(tag, &mut expected);
        assert!(*message.payload() == expected, "message {tag}");
        came[tag as usize] += 1;
    }
    assert!(came.iter().all(|&count| count == 1));
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
