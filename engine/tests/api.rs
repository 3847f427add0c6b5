//! The public interface, form by form, over real sockets and on both drivers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use bytes::Bytes;
use futures_lite::StreamExt;
use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{
    HANG, LONG_HANG, Setup, alone, each_driver_and_wire, guarded, mixed_text, next, next_within, nobody,
    plain_socket, receive, skip, small, until, wait, wait_within,
};
use udp_plus::{
    Actor, Config, Context, Delivery, DeliveryError, DriverChoice, DriverKind, Engine, FailureCause, Level,
    Message, MessageRef, Outgoing, PutError, Reached, Refusal, StartError, Stopped, SubmitReason, Verdict,
    Wire,
};

each_driver_and_wire! {
    put_message_by_address_and_by_name,
    get_message_with_several_callers,
    a_full_send_bucket_gives_the_message_back,
    room_is_there_once_the_outcome_is,
    put_waits_for_room,
    put_batch_brings_every_outcome_by_tag,
    what_cannot_be_sent_is_refused_and_given_back,
    cancel_before_and_after_transmission,
    every_way_to_get,
    a_full_receive_bucket_pushes_back_and_loses_nothing,
    sending_to_oneself,
    peers_that_do_not_answer,
    ipv6_and_dual_stack,
    a_wildcard_bind_answers_from_the_address_it_was_asked_on,
    a_second_instance_gets_a_clear_error,
    shutdown_drains_and_messages_stay,
    shutdown_ends_what_is_left_at_its_deadline,
    drop_ends_everything_at_once,
    an_actor_that_panics_under_load,
    an_actor_that_answers_refuses_nothing,
    every_size_arrives,
    every_size_arrives_through_two_shards,
}

fn pair(setup: Setup) -> (Engine, Engine) {
    (small(setup).start().unwrap(), small(setup).start().unwrap())
}

fn put(engine: &Engine, to: SocketAddr, payload: impl Into<Bytes>) {
    wait(engine.put_message(&to.ip().to_string(), to.port(), payload)).unwrap();
}

fn put_message_by_address_and_by_name(setup: Setup) {
    let (a, b) = pair(setup);
    let port = b.local_addr().port();
    for host in ["127.0.0.1", "localhost"] {
        let delivered = wait(a.put_message(host, port, format!("to {host}"))).unwrap();
        assert_eq!(delivered.level, Level::Accepted);
        let message = wait(b.get_message()).unwrap();
        assert_eq!(message.text(), Some(format!("to {host}").as_str()));
        assert_eq!(message.sender(), a.local_addr());
        assert!(setup.wire != Wire::Csv || message.sent_at().is_some());
        // An answer put to the sender reaches it.
        put(&b, message.sender(), "an answer");
        assert_eq!(next(&a.recv_bucket()).text(), Some("an answer"));
    }
    let error = wait(a.put_message("no\0name", port, "x")).unwrap_err();
    assert!(matches!(error, PutError::Resolve { .. }), "{error}");
    let error = wait(a.put_message("127.0.0.1", 0, "x")).unwrap_err();
    assert!(matches!(error, PutError::Submit(_)), "{error}");
}

fn get_message_with_several_callers(setup: Setup) {
    let (a, b) = pair(setup);
    let b = Arc::new(b);
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let b = Arc::clone(&b);
            std::thread::spawn(move || {
                let mut got = Vec::new();
                while let Ok(message) = futures_lite::future::block_on(b.get_message()) {
                    got.push(message.text().unwrap().parse::<u32>().unwrap());
                }
                got
            })
        })
        .collect();
    let deliveries: Vec<_> = (0..400)
        .map(|number| a.send_bucket().blocking_put(Outgoing::to(b.local_addr(), number.to_string())).unwrap())
        .collect();
    for delivery in deliveries {
        wait(delivery).unwrap();
    }
    b.shutdown_blocking(HANG);
    let mut got: Vec<u32> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(0..400));
    assert_eq!(wait(b.get_message()).unwrap_err(), Stopped);
}

fn a_full_send_bucket_gives_the_message_back(setup: Setup) {
    let silent = plain_socket();
    let to = silent.local_addr().unwrap();
    let engine =
        small(setup).ops_in_flight_max(2).message_bytes_max(1_000).send_bytes_max(1_000).start().unwrap();
    let bucket = engine.send_bucket();
    let kept =
        [bucket.try_put(Outgoing::to(to, "1")).unwrap(), bucket.try_put(Outgoing::to(to, "2")).unwrap()];
    let error = bucket.try_put(Outgoing::to(to, "3").tag(3)).unwrap_err();
    assert_eq!(error.reason, SubmitReason::Full);
    assert_eq!((error.outgoing.payload().as_ref(), error.outgoing.destination()), (b"3".as_ref(), to));
    let mut batch = vec![Outgoing::to(to, "4")];
    assert_eq!((bucket.put_batch(&mut batch), batch.len()), (0, 1));
    for delivery in kept {
        delivery.cancel();
        assert_eq!(wait(delivery).unwrap_err().cause, FailureCause::Cancelled);
    }
    // By bytes as well.
    let delivery = bucket.try_put(Outgoing::to(to, vec![b'x'; 600])).unwrap();
    let error = bucket.try_put(Outgoing::to(to, vec![b'y'; 401])).unwrap_err();
    assert_eq!((error.reason, error.outgoing.payload().len()), (SubmitReason::Full, 401));
    delivery.cancel();
    wait(delivery).unwrap_err();
    let delivery = wait(bucket.put(Outgoing::to(to, vec![b'y'; 401]))).unwrap();
    delivery.cancel();
}

/// Bug tests1-1: the outcome is told before the operation's place is free.
fn room_is_there_once_the_outcome_is(setup: Setup) {
    let receiver = small(setup).start().unwrap();
    let engine = small(setup).ops_in_flight_max(1).start().unwrap();
    for number in 0..200 {
        let outgoing = Outgoing::to(receiver.local_addr(), number.to_string());
        let delivery = engine.send_bucket().try_put(outgoing);
        wait(delivery.unwrap_or_else(|error| panic!("message {number}: {error}"))).unwrap();
    }
}

/// Bug tests1-2: the ring that probes io_uring is torn down on the caller's thread.
#[test]
fn starting_an_engine_interrupts_no_call_of_its_caller() {
    let socket = plain_socket();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut interrupted = 0;
    for _ in 0..50 {
        let engine = small(DriverChoice::Auto).start().unwrap();
        let error = socket.recv_from(&mut [0; 1]).unwrap_err();
        interrupted += u32::from(error.kind() == std::io::ErrorKind::Interrupted);
        drop(engine);
    }
    assert_eq!(interrupted, 0, "of 50 calls");
}

fn put_waits_for_room(setup: Setup) {
    let silent = plain_socket();
    let to = silent.local_addr().unwrap();
    let engine = small(setup).ops_in_flight_max(1).start().unwrap();
    let bucket = engine.send_bucket();
    for blocking in [false, true] {
        let first = wait(bucket.put(Outgoing::to(to, "first"))).unwrap();
        let waiter = {
            let bucket = bucket.clone();
            std::thread::spawn(move || match blocking {
                true => bucket.blocking_put(Outgoing::to(to, "second")),
                false => wait(bucket.put(Outgoing::to(to, "second"))),
            })
        };
        // It waits: the only place is taken, and nothing of the second message is seen.
        let mut buffer = [0; 1_024];
        receive(&silent, &mut buffer);
        std::thread::sleep(Duration::from_millis(30));
        assert!(!waiter.is_finished());
        first.cancel();
        assert_eq!(wait(first).unwrap_err().cause, FailureCause::Cancelled);
        let second = waiter.join().unwrap().unwrap();
        second.cancel();
        assert_eq!(wait(second).unwrap_err().cause, FailureCause::Cancelled);
    }
}

fn put_batch_brings_every_outcome_by_tag(setup: Setup) {
    let receiver = small(setup).start().unwrap();
    let sender = small(setup).ops_in_flight_max(64).start().unwrap();
    let bucket = sender.send_bucket();
    let to = receiver.local_addr();
    let mut batch: Vec<_> = (0..1_000_u64).map(|tag| Outgoing::to(to, tag.to_string()).tag(tag)).collect();
    batch.push(Outgoing::to(to, &b"\xff"[..]).tag(5_000));
    batch.push(Outgoing::to(to, vec![b'x'; (4 << 20) + 1]).tag(5_001));
    batch.push(Outgoing::to("127.0.0.1:0".parse().unwrap(), "x").tag(5_002));
    let (mut outcomes, mut full) = (Vec::new(), false);
    assert_eq!(bucket.outcome_batch(&mut outcomes), 0);
    // Nothing is due: it does not wait.
    assert_eq!(bucket.blocking_outcome_batch(&mut outcomes, HANG), 0);
    while outcomes.len() < 1_003 {
        let before = batch.len();
        let taken = bucket.put_batch(&mut batch);
        assert_eq!(before - taken, batch.len());
        full |= !batch.is_empty();
        assert!(bucket.blocking_outcome_batch(&mut outcomes, HANG) > 0, "no outcome");
    }
    assert!(full, "the bucket was never full");
    let tags: BTreeSet<u64> = outcomes.iter().map(|(tag, _)| *tag).collect();
    assert!(tags.into_iter().eq((0..1_000).chain(5_000..5_003)));
    for (tag, outcome) in outcomes {
        let refused = |cause| Err(DeliveryError { cause, reached: Reached::Never });
        match tag {
            5_000 if setup.wire == Wire::Csv => assert_eq!(outcome, refused(FailureCause::NotText)),
            5_001 => assert_eq!(outcome, refused(FailureCause::Refused(Refusal::TooLarge))),
            5_002 => assert_eq!(outcome, refused(FailureCause::Refused(Refusal::BadAddress))),
            _ => assert!(outcome.is_ok(), "{tag}: {outcome:?}"),
        }
    }
    // The other wires carry what is no text.
    let total = if setup.wire == Wire::Csv { 1_000 } else { 1_001 };
    let mut got: Vec<u64> = (0..total)
        .map(|_| next(&receiver.recv_bucket()).text().map_or(1_000, |text| text.parse().unwrap()))
        .collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(0..total));
}

fn what_cannot_be_sent_is_refused_and_given_back(setup: Setup) {
    let engine = small(setup).message_bytes_max(1_000).start().unwrap();
    let to = plain_socket().local_addr().unwrap();
    let bucket = engine.send_bucket();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let bad_address = SubmitReason::Refused(Refusal::BadAddress);
    let table: [(SocketAddr, &[u8], SubmitReason); 8] = [
        (to, b"\xff\xfe", SubmitReason::NotText),
        (to, "é".as_bytes().split_at(1).0, SubmitReason::NotText),
        (to, &[b'x'; 1_001], SubmitReason::Refused(Refusal::TooLarge)),
        (at("127.0.0.1:0"), b"x", bad_address),
        (at("0.0.0.0:9"), b"x", bad_address),
        (at("224.0.0.1:9"), b"x", bad_address),
        (at("[::1]:9"), b"x", bad_address),
        (at("[ff02::1]:9"), b"x", bad_address),
    ];
    for (to, payload, reason) in table {
        if setup.wire != Wire::Csv && reason == SubmitReason::NotText {
            continue; // It can be carried, or may turn out to.
        }
        let outgoing = Outgoing::to(to, Bytes::copy_from_slice(payload));
        let errors = [
            bucket.try_put(outgoing.clone()).unwrap_err(),
            wait(bucket.put(outgoing.clone())).unwrap_err(),
            bucket.blocking_put(outgoing).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.reason, reason, "{to}");
            assert_eq!(error.outgoing.payload(), payload);
        }
    }
    assert_eq!(engine.stats().total.datagrams_sent, 0);
}

fn cancel_before_and_after_transmission(setup: Setup) {
    let silent = plain_socket();
    let to = silent.local_addr().unwrap();
    // A window that one row of the first message fills: the second message waits behind it.
    let engine = small(setup).v1_window_bytes(2_304).v1_chunk_bytes_max(700).start().unwrap();
    let bucket = engine.send_bucket();
    let first = bucket.try_put(Outgoing::to(to, mixed_text(50_000, 1))).unwrap();
    receive(&silent, &mut [0; 2_048]);
    let second = bucket.try_put(Outgoing::to(to, "never sent")).unwrap();
    second.cancel();
    let cancelled = |delivery, reached| {
        let error: DeliveryError = wait::<Delivery>(delivery).unwrap_err();
        assert_eq!(error.cause, FailureCause::Cancelled);
        // While the other side may turn out to be of either kind, what leaves first depends on when it is asked.
        assert!(error.reached == reached || setup.wire == Wire::Auto, "{error}");
    };
    cancelled(second, Reached::Never);
    first.cancel();
    first.cancel();
    // Over the binary wire nothing but HELLO leaves before the other side has answered.
    cancelled(first, reached_the_silent(setup));
    // After the end it changes nothing.
    let receiver = small(setup).start().unwrap();
    let third = bucket.try_put(Outgoing::to(receiver.local_addr(), "third")).unwrap();
    next(&receiver.recv_bucket());
    until("delivered", || engine.stats().total.get("messages_delivered") == 1);
    third.cancel();
    wait(third).unwrap();
}

/// How far a message to a peer that does not answer has come.
fn reached_the_silent(setup: Setup) -> Reached {
    if setup.wire == Wire::Binary { Reached::Never } else { Reached::Unknown }
}

fn every_way_to_get(setup: Setup) {
    let (a, b) = pair(setup);
    let mut bucket = b.recv_bucket();
    let send = |text: &str| {
        let delivery = a.send_bucket().try_put(Outgoing::to(b.local_addr(), text.to_owned())).unwrap();
        // The blocking way to wait, for once; the guard of the test bounds it.
        delivery.wait().unwrap();
    };
    let text = |message: Message| message.text().unwrap().to_owned();
    assert!(bucket.try_get().is_none() && bucket.is_empty() && !bucket.is_stopped());
    let mut batch = Vec::new();
    assert_eq!(bucket.get_batch(&mut batch), 0);
    assert_eq!(bucket.blocking_get_batch(&mut batch, Duration::from_millis(1)), 0);
    send("get");
    assert_eq!(text(wait(bucket.get()).unwrap()), "get");
    send("blocking_get");
    assert_eq!(text(bucket.blocking_get().unwrap()), "blocking_get");
    send("stream");
    assert_eq!(text(wait(bucket.next()).unwrap()), "stream");
    for text in ["1", "2", "3"] {
        send(text);
    }
    until("three", || bucket.len() == 3);
    assert_eq!(bucket.get_batch(&mut batch), 3);
    let waiting = {
        let bucket = bucket.clone();
        std::thread::spawn(move || {
            let mut batch = Vec::new();
            (bucket.blocking_get_batch(&mut batch, HANG), batch)
        })
    };
    send("4");
    let (count, more) = waiting.join().unwrap();
    assert_eq!(count, 1);
    batch.extend(more);
    assert_eq!(batch.drain(..).map(text).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    send("commit");
    next(&bucket).commit();
    // A stream that waits ends with the engine.
    let mut stream = b.recv_bucket();
    let ended = std::thread::spawn(move || wait(stream.next()).is_none());
    drop(b);
    assert!(ended.join().unwrap());
    assert!(bucket.blocking_get().is_err() && bucket.is_stopped());
    assert!(wait(bucket.next()).is_none());
    assert_eq!(bucket.blocking_get_batch(&mut batch, HANG), 0);
}

fn a_full_receive_bucket_pushes_back_and_loses_nothing(setup: Setup) {
    let sender = small(setup).start().unwrap();
    let receiver = small(setup).recv_bucket_messages(8).start().unwrap();
    let bucket = receiver.recv_bucket();
    let deliveries: Vec<_> = (0..100)
        .map(|number| {
            sender.send_bucket().try_put(Outgoing::to(receiver.local_addr(), number.to_string())).unwrap()
        })
        .collect();
    until("refused", || receiver.stats().total.get("dropped_bucket_full") > 0);
    assert!(bucket.len() <= 8);
    let mut got: Vec<u32> =
        (0..100).map(|_| next_within(&bucket, LONG_HANG).text().unwrap().parse().unwrap()).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(0..100));
    for delivery in deliveries {
        wait(delivery).unwrap();
    }
    assert!(bucket.is_empty());
}

fn sending_to_oneself(setup: Setup) {
    let engine = small(setup).start().unwrap();
    for size in [5, 100_000] {
        let text = mixed_text(size, 1);
        put(&engine, engine.local_addr(), text.clone());
        let message = next(&engine.recv_bucket());
        assert_eq!(message.sender(), engine.local_addr());
        assert!(message.text() == Some(&text));
    }
    assert!(engine.recv_bucket().is_empty());
}

fn peers_that_do_not_answer(setup: Setup) {
    let silent = plain_socket();
    let nobody = nobody();
    let mut options = small(setup).tries_max(6).rto_initial(Duration::from_millis(20));
    if setup.wire == Wire::Binary {
        options = options.try_span_max(Duration::from_secs(1));
    }
    let engine = options.start().unwrap();
    let bucket = engine.send_bucket();
    let reached = reached_the_silent(setup);
    let deliveries: Vec<_> = [silent.local_addr().unwrap(), nobody]
        .into_iter()
        .flat_map(|to| [3, 5_000].map(|size| Outgoing::to(to, mixed_text(size, 2))))
        .map(|outgoing| bucket.try_put(outgoing).unwrap())
        .collect();
    for delivery in deliveries {
        assert_eq!(wait(delivery), Err(DeliveryError { cause: FailureCause::TimedOut, reached }));
    }
    let patient = small(setup).start().unwrap();
    for to in [silent.local_addr().unwrap(), nobody] {
        let outgoing = Outgoing::to(to, "x").deadline(Duration::from_millis(100));
        let expired = DeliveryError { cause: FailureCause::Expired, reached };
        assert_eq!(wait(patient.send_bucket().try_put(outgoing).unwrap()), Err(expired), "{to}");
    }
    let mut buffer = [0; 2_048];
    assert!(receive(&silent, &mut buffer).0 > 0, "nothing was sent");
    // One that answers still gets its messages.
    let receiver = small(setup).start().unwrap();
    put(&engine, receiver.local_addr(), "hello");
    assert_eq!(next(&receiver.recv_bucket()).text(), Some("hello"));
}

fn ipv6_and_dual_stack(setup: Setup) {
    if UdpSocket::bind("[::1]:0").is_err() {
        return skip("no IPv6 here");
    }
    let v6 = small(setup).bind("[::1]:0").start().unwrap();
    let v4 = small(setup).start().unwrap();
    let dual = small(setup).bind("[::]:0").start().unwrap();
    let port = dual.local_addr().port();
    for (engine, to) in [(&v6, format!("[::1]:{port}")), (&v4, format!("127.0.0.1:{port}"))] {
        for size in [5, 50_000] {
            let text = mixed_text(size, 3);
            put(engine, to.parse().unwrap(), text.clone());
            let message = next(&dual.recv_bucket());
            assert!(message.text() == Some(&text));
            assert_eq!(message.sender(), engine.local_addr());
            put(&dual, message.sender(), "back");
            let back = next(&engine.recv_bucket());
            assert_eq!((back.text(), back.sender()), (Some("back"), to.parse().unwrap()));
        }
    }
    let only_v6 = small(setup).bind("[::]:0").v6_only(true).start().unwrap();
    let error = only_v6.send_bucket().try_put(Outgoing::to(v4.local_addr(), "x")).unwrap_err();
    assert_eq!(error.reason, SubmitReason::Refused(Refusal::BadAddress));
    put(&only_v6, v6.local_addr(), "six");
    assert_eq!(next(&v6.recv_bucket()).text(), Some("six"));
}

fn a_wildcard_bind_answers_from_the_address_it_was_asked_on(setup: Setup) {
    let mut binds = vec!["0.0.0.0:0"];
    if UdpSocket::bind("[::]:0").is_ok() {
        binds.push("[::]:0");
    }
    for bind in binds {
        let engine = small(setup).bind(bind).start().unwrap();
        let asked = SocketAddr::new("127.0.0.2".parse().unwrap(), engine.local_addr().port());
        let socket = plain_socket();
        socket.send_to(b",3f2a9c1e,,,aGVsbG8=,1764123456.5", asked).unwrap();
        let mut buffer = [0; 100];
        let (bytes, from) = receive(&socket, &mut buffer);
        assert_eq!((&buffer[..bytes], from), (b"1,3f2a9c1e,,0,".as_ref(), asked), "{bind}");
        // An engine that counts strictly takes the confirm for what it is.
        let strict = small(setup).start().unwrap();
        put(&strict, asked, mixed_text(5_000, 4));
    }
}

fn a_second_instance_gets_a_clear_error(setup: Setup) {
    for shards in [1, 2] {
        let first = alone(setup).shards(shards).start().unwrap();
        for again in [1, 2] {
            let bind = first.local_addr().to_string();
            let error = small(setup).shards(again).bind(&bind).start().unwrap_err();
            let text = error.to_string();
            assert!(text.contains("in use") && text.contains(&bind), "{text}");
        }
        // The first one is unharmed, and the port is free after it.
        put(&first, first.local_addr(), "alive");
        let bind = first.local_addr().to_string();
        first.shutdown_blocking(HANG);
        drop(first);
        small(setup).bind(bind).start().unwrap();
    }
}

#[test]
fn the_driver_is_reported() {
    let kind = |choice| small(choice).start().map(|engine| engine.driver().clone());
    let mmsg = kind(DriverChoice::Mmsg).unwrap();
    assert_eq!((mmsg.kind, mmsg.reason.is_empty()), (DriverKind::Mmsg, false));
    let auto = kind(DriverChoice::Auto).unwrap();
    assert!(!auto.reason.is_empty());
    match kind(DriverChoice::Uring) {
        Ok(uring) => assert_eq!((uring.kind, auto.kind), (DriverKind::Uring, DriverKind::Uring)),
        Err(error) => {
            assert!(matches!(error, StartError::UringUnavailable { .. }), "{error}");
            assert_eq!(auto.kind, DriverKind::Mmsg);
            skip(&error.to_string());
        }
    }
}

fn shutdown_drains_and_messages_stay(setup: Setup) {
    let (a, b) = pair(setup);
    let bucket = a.send_bucket();
    let deliveries: Vec<_> = (0..200)
        .map(|number| bucket.try_put(Outgoing::to(b.local_addr(), number.to_string())).unwrap())
        .collect();
    wait(a.shutdown(HANG));
    for delivery in deliveries {
        wait(delivery).unwrap();
    }
    let error = bucket.try_put(Outgoing::to(b.local_addr(), "late")).unwrap_err();
    assert_eq!(error.reason, SubmitReason::Stopped);
    assert_eq!(
        wait(bucket.put(Outgoing::to(b.local_addr(), "late"))).unwrap_err().reason,
        SubmitReason::Stopped
    );
    let mut batch = vec![Outgoing::to(b.local_addr(), "late")];
    assert_eq!(bucket.put_batch(&mut batch), 0);
    assert!(matches!(wait(a.get_message()), Err(Stopped)));
    b.shutdown_blocking(HANG);
    assert_eq!(b.recv_bucket().len(), 200);
    let mut got: Vec<u32> =
        (0..200).map(|_| wait(b.get_message()).unwrap().text().unwrap().parse().unwrap()).collect();
    got.sort_unstable();
    assert!(got.into_iter().eq(0..200));
    assert!(matches!(wait(b.get_message()), Err(Stopped)));
    assert_eq!((a.failure(), b.failure()), (None, None));
}

fn shutdown_ends_what_is_left_at_its_deadline(setup: Setup) {
    let silent = plain_socket();
    let engine = small(setup).start().unwrap();
    let delivery = engine.send_bucket().try_put(Outgoing::to(silent.local_addr().unwrap(), "x")).unwrap();
    receive(&silent, &mut [0; 100]);
    engine.shutdown_blocking(Duration::from_millis(50));
    let reached = reached_the_silent(setup);
    let stopped = DeliveryError { cause: FailureCause::EngineStopped, reached };
    assert_eq!(wait(delivery), Err(stopped));
    // Again, and by the other way: nothing happens.
    wait(engine.shutdown(HANG));
}

fn drop_ends_everything_at_once(setup: Setup) {
    let silent = plain_socket();
    let to = silent.local_addr().unwrap();
    let engine = small(setup).ops_in_flight_max(10).start().unwrap();
    let (bucket, recv) = (engine.send_bucket(), engine.recv_bucket());
    let deliveries: Vec<_> =
        (0..5).map(|_| bucket.try_put(Outgoing::to(to, mixed_text(3_000, 5))).unwrap()).collect();
    let mut batch: Vec<_> = (0..5).map(|tag| Outgoing::to(to, "x").tag(tag)).collect();
    assert_eq!(bucket.put_batch(&mut batch), 5);
    let getter = std::thread::spawn(move || wait(recv.get()).is_err());
    let putter = {
        let bucket = bucket.clone();
        std::thread::spawn(move || bucket.blocking_put(Outgoing::to(to, "waits")))
    };
    receive(&silent, &mut [0; 2_048]);
    drop(engine);
    for delivery in deliveries {
        assert_eq!(wait(delivery).unwrap_err().cause, FailureCause::EngineStopped);
    }
    let mut outcomes = Vec::new();
    while outcomes.len() < 5 {
        assert!(bucket.blocking_outcome_batch(&mut outcomes, HANG) > 0, "outcomes are missing: {outcomes:?}");
    }
    for (_, outcome) in outcomes {
        assert_eq!(outcome.unwrap_err().cause, FailureCause::EngineStopped);
    }
    assert!(getter.join().unwrap());
    match putter.join().unwrap() {
        Err(error) => assert_eq!(error.reason, SubmitReason::Stopped),
        Ok(delivery) => assert_eq!(wait(delivery).unwrap_err().cause, FailureCause::EngineStopped),
    }
    // The port is free again.
    assert!(bucket.try_put(Outgoing::to(to, "late")).is_err());
}

#[test]
fn a_wrong_option_is_named() {
    type Change = fn(&mut Config);
    let table: [(&str, Change); 14] = [
        ("shards", |c| c.shards = 0),
        ("shards", |c| c.shards = 129),
        ("v1_row_bytes_max", |c| c.v1_row_bytes_max = 100),
        ("v1_chunk_bytes_max", |c| c.v1_chunk_bytes_max = 3),
        ("v1_window_bytes", |c| c.v1_window_bytes = 100),
        ("message_bytes_max", |c| c.message_bytes_max = (1 << 30) + 1),
        ("chunk_count_max", |c| c.chunk_count_max = 100),
        ("ops_in_flight_max", |c| c.ops_in_flight_max = 0),
        ("send_bytes_max", |c| c.send_bytes_max = 1),
        ("recv_bucket_bytes", |c| c.recv_bucket_bytes = 1),
        ("partials_per_peer_max", |c| c.partials_per_peer_max = c.partials_max + 1),
        ("recv_buffers", |c| c.recv_buffers = 100),
        ("tries_max", |c| c.tries_max = 0),
        ("rto_max", |c| c.rto_max = Duration::from_millis(1)),
    ];
    for (option, change) in table {
        let mut config = Config::default();
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().option, option);
        let error = Engine::builder().bind("127.0.0.1:0").config(config).start().unwrap_err();
        assert!(matches!(&error, StartError::Config(_)) && error.to_string().starts_with(option), "{error}");
    }
    let error = Engine::builder().bind("nonsense").start().unwrap_err();
    assert!(matches!(error, StartError::Resolve { .. }) && error.to_string().contains("nonsense"));
}

#[test]
fn a_gibibyte_can_be_configured_and_the_footprint_prints() {
    let mut config = Config::default();
    config.message_bytes_max = 1 << 30;
    config.chunk_count_max = 1 << 22;
    config.send_bytes_max = 2 << 30;
    config.recv_bucket_bytes = 2 << 30;
    config.partial_bytes_max = 2 << 30;
    config.partial_bytes_per_peer_max = 2 << 30;
    config.validate().unwrap();
    let builder = Engine::builder().config(config.clone());
    let footprint = builder.footprint();
    assert_eq!((builder.options(), footprint), (&config, config.footprint()));
    let text = footprint.to_string();
    for (holder, _) in footprint.rows() {
        assert!(text.contains(holder), "{text}");
    }
    assert!(text.contains("at most") && footprint.total_bytes() > 4 << 30);
}

/// Panics with its 100th message.
struct Fragile(Arc<AtomicU64>);

impl Actor for Fragile {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) < 99, "the actor broke");
        Verdict::Accept
    }
}

/// Sends every message back, or refuses it.
struct Answers;

impl Actor for Answers {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        match context.put_copy(message.sender, message.payload, 0) {
            Ok(()) => Verdict::Accept,
            Err(_) => Verdict::Refuse,
        }
    }
}

/// What comes in one turn can be answered in one turn, however much that is.
fn an_actor_that_answers_refuses_nothing(setup: Setup) {
    const MESSAGES: usize = 2_000;
    let far = small(setup).ops_in_flight_max(4 * MESSAGES as u32).actor(|_| Answers).start().unwrap();
    let near = small(setup).ops_in_flight_max(MESSAGES as u32).recv_bucket_messages(65_536).start().unwrap();
    let (send, recv) = (near.send_bucket(), near.recv_bucket());
    let (mut outcomes, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let outgoing = |n: usize| Outgoing::to(far.local_addr(), format!("{n:064}"));
        let mut batch: Vec<_> = (0..MESSAGES).map(outgoing).collect();
        outcomes.clear();
        answers.clear();
        until("answers", || {
            send.put_batch(&mut batch);
            send.outcome_batch(&mut outcomes);
            recv.get_batch(&mut answers);
            (outcomes.len(), answers.len()) == (MESSAGES, MESSAGES)
        });
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    }
    until("it is counted", || far.stats().total.messages_received == 10 * MESSAGES as u64);
    assert_eq!(far.stats().total.get("dropped_refused"), 0);
}

fn an_actor_that_panics_under_load(setup: Setup) {
    let count = Arc::new(AtomicU64::new(0));
    let fragile = {
        let count = Arc::clone(&count);
        small(setup).shards(2).actor(move |_| Fragile(Arc::clone(&count))).start().unwrap()
    };
    let sender = small(setup).start().unwrap();
    let silent = plain_socket();
    let bucket = fragile.send_bucket();
    let pending: Vec<_> = (0..50)
        .map(|_| bucket.try_put(Outgoing::to(silent.local_addr().unwrap(), mixed_text(1_000, 6))).unwrap())
        .collect();
    let load: Vec<_> = (0..300)
        .map(|number| {
            let outgoing = Outgoing::to(fragile.local_addr(), number.to_string());
            sender.send_bucket().try_put(outgoing.deadline(Duration::from_secs(5))).unwrap()
        })
        .collect();
    for delivery in pending {
        assert_eq!(wait(delivery).unwrap_err().cause, FailureCause::EngineStopped);
    }
    let failure = fragile.failure().unwrap();
    assert!(failure.contains("the actor broke") && failure.contains("shard"), "{failure}");
    let late = bucket.try_put(Outgoing::to(silent.local_addr().unwrap(), "late")).unwrap_err();
    assert_eq!(late.reason, SubmitReason::Stopped);
    assert!(matches!(wait(fragile.get_message()), Err(Stopped)));
    let delivered = load.into_iter().map(wait).filter(Result::is_ok).count() as u64;
    assert!(count.load(Ordering::Relaxed) >= 100 && delivered < 300, "{delivered} delivered");
    wait(fragile.shutdown(HANG));
    assert_eq!(sender.failure(), None);
}

fn sizes(setup: Setup, shards: u16) {
    let Setup { driver, wire } = setup;
    let builder = || Engine::builder().shards(shards).bind("127.0.0.1:0").driver(driver).wire(wire);
    let start = || builder().start().unwrap();
    let (a, b) = (start(), start());
    // Around what fits one row and one datagram (1,472 - 28 - 8), around a unit of chunks, and large ones.
    for size in [0, 1, 383, 384, 385, 768, 769, 1_408, 1_435, 1_436, 1_437, 64 << 10, 1 << 20, 16 << 20] {
        let payload: Vec<u8> = match wire {
            Wire::Csv => mixed_text(size, size as u64).into(),
            _ => {
                let mut random = fastrand::Rng::with_seed(size as u64);
                std::iter::repeat_with(|| random.u8(..)).take(size).collect()
            }
        };
        let delivery = a.send_bucket().try_put(Outgoing::to(b.local_addr(), payload.clone())).unwrap();
        wait_within(delivery, LONG_HANG).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        let message = next(&b.recv_bucket());
        assert!(message.payload() == &payload, "{size} bytes: other bytes arrived");
    }
    assert!(b.recv_bucket().is_empty());
    let error =
        a.send_bucket().try_put(Outgoing::to(b.local_addr(), vec![b'x'; (16 << 20) + 1])).unwrap_err();
    assert_eq!(error.reason, SubmitReason::Refused(Refusal::TooLarge));
}

fn every_size_arrives(setup: Setup) {
    sizes(setup, 1);
}

fn every_size_arrives_through_two_shards(setup: Setup) {
    sizes(setup, 2);
}

/// The helper itself: a hang is found, a skip is not silent in CI.
#[test]
fn guards_pass_results_on() {
    assert_eq!(guarded("guards", || wait_within(std::future::ready(7), HANG)), 7);
}
