//! The other side of a flow is started anew while messages are on their way: every message has an outcome that is true, no
//! start of the engine gets a message twice, and none is sent to both.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod kit;
mod support;

use bytes::Bytes;
use kit::payload;
use std::collections::BTreeMap;
use support::{Setup, each_driver, own_host, small, start_at, until};
use udp_plus::{
    DriverChoice, Engine, FailureCause, Outcome, Outgoing, Reached, RecvBucket, Refusal, SendBucket, Wire,
};

each_driver! {
    a_peer_that_is_started_anew_under_load,
}

/// How often each message came.
type Book = BTreeMap<u64, u32>;

fn drain(bucket: &RecvBucket, book: &mut Book) {
    let mut messages = Vec::new();
    bucket.get_batch(&mut messages);
    for message in messages {
        let seq = u64::from_str_radix(&message.text().unwrap()[..16], 16).unwrap();
        assert_eq!(message.payload().as_ref(), &payload(seq)[..]);
        *book.entry(seq).or_default() += 1;
    }
}

struct Sender {
    _engine: Engine,
    send: SendBucket,
    next: u64,
    outcomes: BTreeMap<u64, Outcome>,
    ended: Vec<(u64, Outcome)>,
}

impl Sender {
    /// Keeps the send bucket full.
    fn work(&mut self, to: std::net::SocketAddr, total: u64) {
        let send = &self.send;
        let mut batch = Vec::new();
        while self.next < total && batch.len() < 256 {
            batch.push(Outgoing::to(to, Bytes::copy_from_slice(&payload(self.next))).tag(self.next));
            self.next += 1;
        }
        send.put_batch(&mut batch);
        self.next -= batch.len() as u64;
        send.outcome_batch(&mut self.ended);
        for (tag, outcome) in self.ended.drain(..) {
            assert!(self.outcomes.insert(tag, outcome).is_none(), "two outcomes for {tag}");
        }
    }
}

fn a_peer_that_is_started_anew_under_load(driver: DriverChoice) {
    for wire in [Wire::Binary, Wire::Auto] {
        let setup = Setup { driver, wire };
        let start = || small(setup).ops_in_flight_max(1_024);
        let engine = start().start().unwrap();
        let (send, outcomes) = (engine.send_bucket(), BTreeMap::new());
        let mut sender = Sender { _engine: engine, send, next: 0, outcomes, ended: Vec::new() };
        let mut sink = start().bind(format!("{}:0", own_host())).start().unwrap();
        let place = sink.local_addr();
        let mut books: Vec<Book> = Vec::new();
        for start_number in 1..=4_u64 {
            let bucket = sink.recv_bucket();
            let mut book = Book::new();
            // What is put until then is refused: the peer was closing a moment ago.
            until("the new start takes messages", || {
                let one = sender.next + 1;
                sender.work(place, one);
                drain(&bucket, &mut book);
                !book.is_empty()
            });
            // The last one lives to the end.
            let (enough, total) =
                if start_number < 4 { (3_000, u64::MAX) } else { (1_000, sender.next + 3_000) };
            until("messages", || {
                sender.work(place, total);
                drain(&bucket, &mut book);
                book.len() >= enough && (total == u64::MAX || sender.outcomes.len() as u64 == total)
            });
            if start_number < 4 {
                drop(sink);
                sink = start_at(place, start);
            }
            drain(&bucket, &mut book);
            books.push(book);
        }
        assert_eq!(sender.outcomes.len() as u64, sender.next, "every message has an outcome");
        let mut failed = 0;
        for (seq, outcome) in &sender.outcomes {
            let came: Vec<u32> = books.iter().filter_map(|book| book.get(seq)).copied().collect();
            assert!(came.iter().all(|&count| count == 1), "{seq} came twice to one start");
            assert!(came.len() <= 1, "{seq} was sent to two starts");
            match outcome {
                Ok(_) => assert_eq!(came.len(), 1, "{seq} is said to be delivered"),
                Err(error) => {
                    failed += 1;
                    let known = [
                        FailureCause::PeerRestarted,
                        FailureCause::TimedOut,
                        FailureCause::Refused(Refusal::Closing),
                    ];
                    assert!(known.contains(&error.cause), "{seq}: {error}");
                    assert!(
                        error.reached == Reached::Unknown || came.is_empty(),
                        "{seq}: {error}, and it came"
                    );
                }
            }
        }
        assert!(failed > 0, "{wire:?}: nothing was on its way");
        assert!(books.iter().all(|book| book.len() >= 1_000));
    }
}
