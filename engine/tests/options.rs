//! What messages say besides their bytes: metadata, and answers that find their question.
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
use std::time::Duration;
use support::v2_peer::V2Peer;
use support::{LONG_HANG, Setup, binary, each_driver, next, small, until, wait, wait_within};
use udp_plus::internals::binary::{ChunkFrame, Extensions, MetaBuffer, Space};
use udp_plus::{
    Actor, Context, DeliveryError, DriverChoice, Engine, FailureCause, Message, MessageRef, Outcome,
    Outgoing, Priority, Reached, Refusal, SubmitReason, Verdict, Wire,
};

each_driver! {
    metadata_arrives_with_messages_of_every_size,
    metadata_survives_a_receiver_without_room,
    every_reply_finds_its_request,
    an_actor_sees_metadata_and_replies,
    metadata_that_cannot_travel_is_refused,
    of_all_chunks_the_first_that_comes_counts,
    messages_of_every_priority_arrive,
    what_has_no_time_left_is_not_sent,
}

fn put(engine: &Engine, outgoing: Outgoing) -> Outcome {
    wait_within(engine.send_bucket().try_put(outgoing).unwrap(), LONG_HANG)
}

/// All there is to see of a message besides payload and sender.
type Seen = (Option<u32>, Option<u64>, Option<Bytes>, Option<Bytes>);

fn seen(message: &Message) -> Seen {
    (message.tag(), message.correlation(), message.trace_context().cloned(), message.meta().cloned())
}

fn metadata_arrives_with_messages_of_every_size(driver: DriverChoice) {
    let (a, b) = (binary(driver).start().unwrap(), binary(driver).start().unwrap());
    let to = b.local_addr();
    let bucket = b.recv_bucket();
    // Around what one datagram takes without metadata (1,436) and with it, too.
    for bytes in [0, 1, 64, 150, 1_160, 1_175, 1_180, 1_181, 1_182, 1_436, 1_437, 20_000, 300_000] {
        let payload = Bytes::from(vec![bytes as u8; bytes]);
        let (trace, user) = (Bytes::from(vec![1; 25]), Bytes::from(vec![2; 210]));
        let full = Outgoing::to(to, payload.clone())
            .message_tag(7)
            .correlation(u64::MAX)
            .trace_context(trace.clone())
            .meta(user.clone());
        put(&a, full).unwrap();
        let message = next(&bucket);
        assert_eq!(message.payload(), &payload);
        assert_eq!(seen(&message), (Some(7), Some(u64::MAX), Some(trace), Some(user)), "{bytes}");
        // Each part alone, an empty one, and none at all.
        put(&a, Outgoing::to(to, payload.clone()).message_tag(0)).unwrap();
        assert_eq!(seen(&next(&bucket)), (Some(0), None, None, None));
        put(&a, Outgoing::to(to, payload.clone()).meta(Bytes::new())).unwrap();
        assert_eq!(seen(&next(&bucket)), (None, None, None, Some(Bytes::new())));
        put(&a, Outgoing::to(to, payload)).unwrap();
        assert_eq!(seen(&next(&bucket)), (None, None, None, None));
    }
    // A part that is given twice is the later one.
    put(&a, Outgoing::to(to, "x").meta("first").meta("second")).unwrap();
    assert_eq!(next(&bucket).meta().unwrap().as_ref(), b"second");
}

/// Puts a message with no time left to whoever sends it one.
struct Late;

impl Actor for Late {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        context.put(message.reply("late").deadline(Duration::ZERO)).unwrap();
        Verdict::Accept
    }
}

/// It ends Expired, certainly not reached, however it is put and on whichever wire.
fn what_has_no_time_left_is_not_sent(driver: DriverChoice) {
    let expired = Err(DeliveryError { cause: FailureCause::Expired, reached: Reached::Never });
    for wire in [Wire::Csv, Wire::Binary, Wire::Auto] {
        let start = || small(Setup { driver, wire });
        let (a, b) = (start().start().unwrap(), start().actor(|_| Late).start().unwrap());
        let to = b.local_addr();
        put(&a, Outgoing::to(to, "in time")).unwrap();
        let late = || Outgoing::to(to, "late").deadline(Duration::ZERO);
        assert_eq!(put(&a, late()), expired);
        assert_eq!(put(&a, late().priority(Priority::Control)), expired);
        let send = a.send_bucket();
        let (mut batch, mut outcomes) = (vec![late().tag(1), late().tag(2)], Vec::new());
        send.put_batch(&mut batch);
        until("outcomes", || send.outcome_batch(&mut outcomes) > 0 && outcomes.len() == 2);
        assert!(outcomes.iter().all(|(_, outcome)| *outcome == expired));
        until("the answer's outcome", || b.stats().total.get("failed_expired") == 1);
        // What is put behind them comes alone.
        put(&a, Outgoing::to(to, "in time")).unwrap();
        until("the second answer's outcome", || b.stats().total.get("failed_expired") == 2);
        until("its own outcomes are counted", || a.stats().total.get("failed_expired") == 4);
        assert_eq!(
            (b.stats().total.messages_received, a.stats().total.messages_received),
            (2, 0),
            "{wire:?}"
        );
    }
}

/// A message that is refused for now leaves again as it was.
fn metadata_survives_a_receiver_without_room(driver: DriverChoice) {
    let a = binary(driver).start().unwrap();
    let b = binary(driver).recv_bucket_messages(1).start().unwrap();
    let (send, bucket) = (a.send_bucket(), b.recv_bucket());
    let mut batch: Vec<Outgoing> = (0..40_u32)
        .map(|n| {
            let bytes = if n % 4 == 0 { 5_000 } else { 20 };
            Outgoing::to(b.local_addr(), vec![n as u8; bytes]).message_tag(n).tag(n.into())
        })
        .collect();
    assert_eq!(send.put_batch(&mut batch), 40);
    until("the bucket is full", || b.stats().total.get("dropped_bucket_full") > 0);
    let mut came = BTreeMap::new();
    let mut outcomes = Vec::new();
    until("all of them", || {
        if let Some(message) = bucket.try_get() {
            let tag = message.tag().unwrap();
            assert_eq!(message.payload()[0], tag as u8);
            assert_eq!(came.insert(tag, message.payload().len()), None);
        }
        send.outcome_batch(&mut outcomes);
        outcomes.len() == 40 && came.len() == 40
    });
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
    assert!(came.iter().all(|(n, bytes)| *bytes == if n % 4 == 0 { 5_000 } else { 20 }));
}

/// Many questions are on their way at once, and the answers come in another order.
fn every_reply_finds_its_request(driver: DriverChoice) {
    const REQUESTS: u64 = 2_000;
    let (client, server) = (binary(driver).start().unwrap(), binary(driver).start().unwrap());
    let to = server.local_addr();
    let mut batch: Vec<Outgoing> = (0..REQUESTS)
        .map(|n| Outgoing::to(to, format!("what is {n}?")).correlation(n << 32 | 1).tag(n))
        .collect();
    let (ask, answer) = (client.send_bucket(), server.send_bucket());
    let mut questions = Vec::new();
    let mut answers: Vec<Outgoing> = Vec::new();
    let mut got = Vec::new();
    let mut open: BTreeMap<u64, u64> = (0..REQUESTS).map(|n| (n << 32 | 1, n)).collect();
    let (mut turned, mut outcomes) = (0, Vec::new());
    until("all answers", || {
        ask.put_batch(&mut batch);
        server.recv_bucket().get_batch(&mut questions);
        if questions.len() >= 200 || batch.is_empty() {
            turned += usize::from(questions.len() > 1);
            answers.extend(questions.drain(..).rev().map(|question| {
                question.reply(question.text().unwrap().replace("what is", "it is").replace('?', ""))
            }));
        }
        answer.put_batch(&mut answers);
        client.recv_bucket().get_batch(&mut got);
        for message in got.drain(..) {
            let n = open.remove(&message.correlation().unwrap()).expect("asked, and answered once");
            assert_eq!(message.text(), Some(format!("it is {n}").as_str()));
        }
        ask.outcome_batch(&mut outcomes);
        answer.outcome_batch(&mut outcomes);
        open.is_empty() && outcomes.len() as u64 == 2 * REQUESTS
    });
    assert!(turned > 0, "they came in another order");
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    // A question without a correlation gets an answer without one.
    put(&client, Outgoing::to(to, "?")).unwrap();
    put(&server, next(&server.recv_bucket()).reply("!")).unwrap();
    assert_eq!(seen(&next(&client.recv_bucket())), (None, None, None, None));
}

/// Answers everything with what it saw.
struct Mirror;

impl Actor for Mirror {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        let all = (message.tag(), message.trace_context(), message.meta());
        context.put(message.reply(format!("{all:?}"))).unwrap();
        Verdict::Accept
    }
}

fn an_actor_sees_metadata_and_replies(driver: DriverChoice) {
    let client = binary(driver).start().unwrap();
    // Over shards: an answer may leave from another shard than the one the question came to.
    let server = binary(driver).shards(2).actor(|_| Mirror).start().unwrap();
    for (correlation, bytes) in (0..50).zip([1, 3_000].into_iter().cycle()) {
        let question = Outgoing::to(server.local_addr(), vec![b'x'; bytes]);
        put(&client, question.message_tag(5).trace_context("t").meta("m").correlation(correlation)).unwrap();
        let answer = next(&client.recv_bucket());
        assert_eq!(answer.correlation(), Some(correlation));
        assert_eq!(answer.text(), Some(format!("{:?}", (Some(5), Some(b"t"), Some(b"m"))).as_str()));
    }
}

fn metadata_that_cannot_travel_is_refused(driver: DriverChoice) {
    let too_long = SubmitReason::Refused(Refusal::MetadataTooLong);
    let needs_binary = SubmitReason::Refused(Refusal::MetadataNeedsBinary);
    let start = |wire| small(Setup { driver, wire }).start().unwrap();
    let (csv, auto, v2) = (start(Wire::Csv), start(Wire::Auto), start(Wire::Binary));
    let to = csv.local_addr();
    for engine in [&auto, &v2] {
        let error = engine.send_bucket().try_put(Outgoing::to(to, "x").meta(vec![0; 254])).unwrap_err();
        assert_eq!((error.reason, error.outgoing.payload().as_ref()), (too_long, b"x".as_ref()));
    }
    let error = csv.send_bucket().try_put(Outgoing::to(auto.local_addr(), "x").message_tag(1)).unwrap_err();
    assert_eq!(error.reason, needs_binary);
    // A batch has nobody to give it back to.
    let send = csv.send_bucket();
    let mut outcomes = Vec::new();
    assert_eq!(send.put_batch(&mut vec![Outgoing::to(auto.local_addr(), "x").correlation(1).tag(9)]), 1);
    send.blocking_outcome_batch(&mut outcomes, LONG_HANG);
    let never =
        |refusal| Err(DeliveryError { cause: FailureCause::Refused(refusal), reached: Reached::Never });
    assert_eq!(outcomes, [(9, never(Refusal::MetadataNeedsBinary))]);
    let counted = || csv.stats().total.failed(FailureCause::Refused(Refusal::MetadataNeedsBinary));
    until("it is counted", || counted() == 1);
    // Nobody knows yet that the peer speaks rows alone: the outcome tells. A row meanwhile is what it confirms.
    let first = auto.send_bucket().try_put(Outgoing::to(to, "with a tag").message_tag(1)).unwrap();
    put(&auto, Outgoing::to(to, "without")).unwrap();
    assert_eq!(wait(first), never(Refusal::MetadataNeedsBinary));
    assert_eq!(put(&auto, Outgoing::to(to, "now known").message_tag(1)), never(Refusal::MetadataNeedsBinary));
    assert_eq!(next(&csv.recv_bucket()).text(), Some("without"));
    assert!(csv.recv_bucket().is_empty(), "nothing came without its metadata");
    // And between engines of the same kind it travels.
    let other = start(Wire::Auto);
    put(&auto, Outgoing::to(other.local_addr(), "text that fits a row").message_tag(3)).unwrap();
    assert_eq!(next(&other.recv_bucket()).tag(), Some(3));
}

fn of_all_chunks_the_first_that_comes_counts(driver: DriverChoice) {
    let engine = binary(driver).start().unwrap();
    let mut peer = V2Peer::connect(engine.local_addr());
    let payload = [9; 1_024];
    for (number, order) in [[0, 512], [512, 0]].into_iter().enumerate() {
        for (tag, offset) in (1..).zip(order) {
            let mut meta = MetaBuffer::new();
            assert!(meta.tag(tag));
            peer.send(|writer| {
                writer.chunk(&ChunkFrame {
                    space: Space::Chunked,
                    seq: 7 + number as u32,
                    offset,
                    total: 1_024,
                    extensions: Extensions { meta: meta.meta(), ..Extensions::NONE },
                    bytes: &payload[offset as usize..][..512],
                })
            });
        }
        let message = next(&engine.recv_bucket());
        assert_eq!((message.tag(), message.payload().len()), (Some(1), 1_024));
    }
}

/// In any order, of any size, over either wire: priority is no more than an order among what waits.
fn messages_of_every_priority_arrive(driver: DriverChoice) {
    const PRIORITIES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Control];
    for wire in [Wire::Binary, Wire::Auto, Wire::Csv] {
        let start = || small(Setup { driver, wire }).recv_bucket_messages(2_048).start().unwrap();
        let (a, b) = (start(), start());
        let (send, bucket) = (a.send_bucket(), b.recv_bucket());
        let mut batch: Vec<Outgoing> = (0..1_000_u64)
            .map(|n| {
                let bytes = if n % 40 == 0 { 20_000 } else { 200 };
                let text = format!("{n:>bytes$}");
                Outgoing::to(b.local_addr(), text).priority(PRIORITIES[n as usize % 4]).tag(n)
            })
            .collect();
        let (mut came, mut outcomes, mut messages) = (BTreeMap::new(), Vec::new(), Vec::new());
        until("all of them", || {
            send.put_batch(&mut batch);
            bucket.get_batch(&mut messages);
            for message in messages.drain(..) {
                *came.entry(message.text().unwrap().trim().parse::<u64>().unwrap()).or_insert(0) += 1;
            }
            send.outcome_batch(&mut outcomes);
            outcomes.len() == 1_000 && came.len() >= 1_000
        });
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{wire:?}");
        assert!(came.len() == 1_000 && came.values().all(|&count| count == 1), "{wire:?}");
    }
}
