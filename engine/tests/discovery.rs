//! Who speaks what: engines find each other and move to the binary wire; to an original v1 peer not one byte of it is sent.
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
use std::net::SocketAddr;
use std::time::Duration;
use support::tap::{Passed, Tap};
use support::v1_watcher::V1Watcher;
use support::v2_peer::V2Peer;
use support::{
    LONG_HANG, Setup, each_driver, guarded, is_probe, mixed_text, next, nobody, own_host, plain_socket,
    small, turned, until, wait, wait_within,
};
use udp_plus::sim::v1_host::{V1Host, V1HostOptions};
use udp_plus::{
    DeliveryError, DriverChoice, Engine, FailureCause, Message, Outcome, Outgoing, Reached, Wire,
};

/// What no text is.
const NOT_TEXT: &[u8] = b"\xff\xfe\x00\xd2";

each_driver! {
    two_auto_engines_move_to_the_binary_wire,
    an_auto_engine_stays_on_rows_with_a_csv_engine,
    an_auto_engine_stays_on_rows_with_a_v1_peer,
    an_auto_engine_and_a_binary_engine_find_each_other,
    a_v1_peer_in_the_place_of_an_engine_is_not_sent_binary_bytes_for_long,
}

fn start(driver: DriverChoice, wire: Wire) -> Engine {
    small(Setup { driver, wire }).start().unwrap()
}

/// As [`start`] with [`Wire::Auto`]. What goes twice because a confirm was late is two messages to an original.
fn start_patient(driver: DriverChoice) -> Engine {
    small(Setup { driver, wire: Wire::Auto }).rto_min_v1(Duration::from_secs(1)).start().unwrap()
}

fn put(engine: &Engine, to: SocketAddr, payload: impl Into<Bytes>) -> Outcome {
    wait_within(engine.send_bucket().try_put(Outgoing::to(to, payload)).unwrap(), LONG_HANG)
}

/// Everything in the bucket so far, each payload with how often it came.
fn all_received(engine: &Engine, count: usize) -> BTreeMap<Vec<u8>, u32> {
    let bucket = engine.recv_bucket();
    let mut came: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut messages: Vec<Message> = (0..count).map(|_| next(&bucket)).collect();
    bucket.get_batch(&mut messages);
    for message in messages {
        *came.entry(message.payload().to_vec()).or_default() += 1;
    }
    came
}

fn assert_each_once(came: &BTreeMap<Vec<u8>, u32>, sent: &[Vec<u8>]) {
    let mut sent = sent.to_vec();
    sent.sort();
    let came: Vec<(&Vec<u8>, u32)> = came.iter().map(|(payload, count)| (payload, *count)).collect();
    assert!(came.iter().all(|row| row.1 == 1), "some came twice");
    assert!(came.iter().map(|row| row.0).eq(sent.iter()), "others came than were sent");
}

fn data_rows(passed: &[Passed]) -> usize {
    passed.iter().filter(|datagram| datagram.is_data_row()).count()
}

fn binary(passed: &[Passed]) -> usize {
    passed.iter().filter(|datagram| datagram.is_binary()).count()
}

fn two_auto_engines_move_to_the_binary_wire(driver: DriverChoice) {
    let (a, b) = (start(driver, Wire::Auto), start(driver, Wire::Auto));
    let tap = Tap::start(b.local_addr());
    let mut sent: Vec<Vec<u8>> = vec![b"the first one".to_vec()];
    // Before the answer, text that fits one is a row, and does not wait.
    put(&a, tap.address(), sent[0].clone()).unwrap();
    let passed = tap.passed();
    let first = passed.iter().position(Passed::is_data_row).expect("it left as a row");
    assert_eq!(passed.iter().position(Passed::is_binary).unwrap_or(usize::MAX).min(first), first);
    // What no row can carry, and what takes several of them, waits for the answer.
    for payload in [NOT_TEXT.to_vec(), mixed_text(20_000, 1).into_bytes(), Vec::new()] {
        put(&a, tap.address(), payload.clone()).unwrap();
        sent.push(payload);
    }
    let (rows, before) = (data_rows(&tap.passed()), binary(&tap.passed()));
    assert!(before > 0, "not on the binary wire");
    for number in 0..200 {
        let payload = format!("{number} {}", mixed_text(number * 10, number as u64)).into_bytes();
        put(&a, tap.address(), payload.clone()).unwrap();
        sent.push(payload);
    }
    assert_eq!(data_rows(&tap.passed()), rows, "still rows");
    assert!(binary(&tap.passed()) >= before + 200, "each message was waited for");
    assert_each_once(&all_received(&b, sent.len()), &sent);
    // What is sent again because an acknowledgement was late is no fault.
    turned(&b);
    let stats = b.stats().total;
    let drops: Vec<_> = stats
        .iter()
        .filter(|row| row.0.starts_with("dropped") && !row.0.ends_with("duplicate") && row.1 > 0)
        .collect();
    assert_eq!(drops, []);
}

fn an_auto_engine_stays_on_rows_with_a_csv_engine(driver: DriverChoice) {
    let (a, b) = (start(driver, Wire::Auto), start(driver, Wire::Csv));
    let tap = Tap::start(b.local_addr());
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let mut pending = Vec::new();
    for number in 0..60 {
        let text = format!("{number} {}", mixed_text(number % 7 * 300, number as u64));
        sent.push(text.clone().into_bytes());
        pending.push(a.send_bucket().try_put(Outgoing::to(tap.address(), text)).unwrap());
    }
    let not_text = a.send_bucket().try_put(Outgoing::to(tap.address(), NOT_TEXT)).unwrap();
    for delivery in pending {
        wait_within(delivery, LONG_HANG).unwrap();
    }
    let never = DeliveryError { cause: FailureCause::NotText, reached: Reached::Never };
    assert_eq!(wait(not_text), Err(never));
    // It is known now, and there is nothing to wait for.
    assert_eq!(put(&a, tap.address(), NOT_TEXT), Err(never));
    assert_each_once(&all_received(&b, sent.len()), &sent);
    let passed = tap.passed();
    assert!(passed.iter().any(Passed::is_probe), "it was asked");
    assert_eq!((binary(&passed), data_rows(&passed) >= sent.len()), (0, true));
    // The other way round there is nothing to find out.
    put(&b, a.local_addr(), "from a csv engine").unwrap();
    assert_eq!(next(&a.recv_bucket()).text(), Some("from a csv engine"));
    turned(&b);
    assert_eq!(b.stats().total.get("dropped_binary_wire"), 0);
}

fn an_auto_engine_stays_on_rows_with_a_v1_peer(driver: DriverChoice) {
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    let engine = start_patient(driver);
    let tap = Tap::start(host.address());
    let texts: Vec<String> =
        (0..60).map(|number| format!("{number} {}", mixed_text(number % 7 * 300, number as u64))).collect();
    let pending: Vec<_> = texts
        .iter()
        .map(|text| engine.send_bucket().try_put(Outgoing::to(tap.address(), text.clone())).unwrap())
        .collect();
    let not_text = engine.send_bucket().try_put(Outgoing::to(tap.address(), NOT_TEXT)).unwrap();
    for delivery in pending {
        wait_within(delivery, LONG_HANG).unwrap();
    }
    let never = DeliveryError { cause: FailureCause::NotText, reached: Reached::Never };
    assert_eq!(wait(not_text), Err(never));
    put(&engine, tap.address(), "and on").unwrap();
    // It sends as well, and is answered in rows.
    let sent = host.send_all(engine.local_addr(), &["one", &mixed_text(2_000, 9)]).unwrap();
    assert!(sent.iter().all(|sent| sent.confirmed_count == sent.chunk_count));
    assert_eq!(all_received(&engine, 2).values().copied().collect::<Vec<_>>(), [1, 1]);
    put(&engine, host.address(), "an answer").unwrap();
    let passed = tap.passed();
    assert!(passed.iter().filter(|datagram| datagram.is_probe()).count() >= 3, "it was asked");
    assert_eq!(binary(&passed), 0);
    let report = host.stop();
    assert_eq!((report.death, report.partial_count), (None, 0));
    let mut came: Vec<_> = report.delivered.into_iter().map(|(_, message)| message.text).collect();
    came.sort();
    // An original knows no duplicates, but on this network there is no reason for any.
    came.dedup();
    let mut sent = texts;
    sent.extend(["and on".to_owned(), "an answer".to_owned()]);
    sent.sort();
    assert!(came == sent, "others came than were sent");
}

fn an_auto_engine_and_a_binary_engine_find_each_other(driver: DriverChoice) {
    for [first, second] in [[Wire::Auto, Wire::Binary], [Wire::Binary, Wire::Auto]] {
        let (a, b) = (start(driver, first), start(driver, second));
        let tap = Tap::start(b.local_addr());
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for payload in [b"small".to_vec(), NOT_TEXT.to_vec(), mixed_text(30_000, 2).into_bytes()] {
            put(&a, tap.address(), payload.clone()).unwrap_or_else(|error| panic!("{first:?}: {error}"));
            sent.push(payload);
        }
        let before = data_rows(&tap.passed());
        put(&a, tap.address(), "later").unwrap();
        sent.push(b"later".to_vec());
        assert_eq!(data_rows(&tap.passed()), before);
        assert!(binary(&tap.passed()) > 0 && before <= 1);
        assert_each_once(&all_received(&b, sent.len()), &sent);
        // And back, without the tap.
        put(&b, a.local_addr(), NOT_TEXT).unwrap_or_else(|error| panic!("{second:?}: {error}"));
        assert_eq!(next(&a.recv_bucket()).payload(), NOT_TEXT);
    }
}

#[test]
fn an_address_where_nobody_is() {
    guarded("an_address_where_nobody_is", || {
        let engine = small(Wire::Auto).tries_max(2).rto_initial(Duration::from_millis(20)).start().unwrap();
        let nobody = nobody();
        let silent = plain_socket();
        let cases = [nobody, silent.local_addr().unwrap()].into_iter().flat_map(|to| {
            [
                (to, Bytes::from_static(b"text"), Reached::Unknown),
                (to, Bytes::from(mixed_text(3_000, 1)), Reached::Unknown),
                (to, Bytes::from_static(NOT_TEXT), Reached::Never),
            ]
        });
        let pending: Vec<_> = cases
            .map(|(to, payload, reached)| {
                (engine.send_bucket().try_put(Outgoing::to(to, payload)).unwrap(), reached)
            })
            .collect();
        for (delivery, reached) in pending {
            assert_eq!(wait(delivery), Err(DeliveryError { cause: FailureCause::TimedOut, reached }));
        }
        let patient = small(Wire::Auto).start().unwrap();
        for (payload, reached) in [(&b"text"[..], Reached::Unknown), (NOT_TEXT, Reached::Never)] {
            let outgoing = Outgoing::to(nobody, payload).deadline(Duration::from_millis(50));
            let expired = DeliveryError { cause: FailureCause::Expired, reached };
            assert_eq!(wait(patient.send_bucket().try_put(outgoing).unwrap()), Err(expired));
        }
        // To the silent one, nothing but rows was said.
        silent.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2_048];
        let mut rows = 0;
        while let Ok(bytes) = silent.recv(&mut buffer) {
            assert!(buffer[0] < 0x80, "{:?}", &buffer[..bytes]);
            rows += 1;
        }
        assert!(rows > 3);
    });
}

/// A v1 peer that was sent nothing but probes has confirmed nothing: whether it is there at all is not known.
#[test]
fn what_is_no_text_to_a_v1_peer_that_confirmed_nothing_times_out() {
    guarded("what_is_no_text_to_a_v1_peer_that_confirmed_nothing_times_out", || {
        let peer = V1Watcher::bind("127.0.0.1:0".parse().unwrap());
        let engine = start(DriverChoice::Auto, Wire::Auto);
        let never = DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Never };
        assert_eq!(put(&engine, peer.address(), NOT_TEXT), Err(never));
        let watched = peer.watched();
        assert!(watched.datagrams.iter().all(|row| is_probe(row)) && watched.datagrams.len() >= 3);
    });
}

/// An engine crashes, and an original v1 peer takes its port: what is on its way then is lost, and soon not one binary byte
/// is sent any more (R-DISC-5). The order of datagrams is what is judged: behind the first row no binary byte comes.
fn a_v1_peer_in_the_place_of_an_engine_is_not_sent_binary_bytes_for_long(driver: DriverChoice) {
    let a = start_patient(driver);
    let mut b = V2Peer::on(own_host(), a.local_addr());
    let place = b.address();
    let delivery = a.send_bucket().try_put(Outgoing::to(place, NOT_TEXT)).unwrap();
    b.accept();
    b.wait_for("the message", |packet| {
        packet.messages().iter().any(|(_, payload)| payload == NOT_TEXT).then_some(())
    });
    b.acknowledge();
    wait(delivery).unwrap();
    drop(b);
    let peer = V1Watcher::bind(place);
    // On their way, to somebody who cannot read them.
    let lost: Vec<_> = (0..20).map(|number| Outgoing::to(place, format!("lost {number}"))).collect();
    let lost: Vec<_> = lost.into_iter().map(|one| a.send_bucket().try_put(one).unwrap()).collect();
    until("binary bytes reach the wrong one", || peer.watched().binary() > 0);
    until("it is asked anew", || peer.watched().datagrams.iter().any(|row| is_probe(row)));
    let later: Vec<String> =
        (0..20).map(|number| format!("later {number} {}", mixed_text(number % 3 * 500, 1))).collect();
    let pending: Vec<_> = later
        .iter()
        .map(|text| a.send_bucket().try_put(Outgoing::to(place, text.clone())).unwrap())
        .collect();
    for delivery in pending {
        wait_within(delivery, LONG_HANG).unwrap();
    }
    let mut restarted = 0;
    for delivery in lost {
        match wait_within(delivery, LONG_HANG) {
            // What never left while the engine was thought to be there goes as a row.
            Ok(_) => {}
            Err(DeliveryError { cause: FailureCause::PeerRestarted, reached: Reached::Unknown }) => {
                restarted += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(restarted > 0, "nothing was on its way");
    let watched = peer.watched();
    let first_row = watched.datagrams.iter().position(|bytes| bytes[0] < 0x80).unwrap();
    let behind = watched.datagrams[first_row..].iter().filter(|bytes| bytes[0] >= 0x80).count();
    assert_eq!(behind, 0, "binary bytes behind the first row, of {}", watched.binary());
    for text in &later {
        assert_eq!(watched.texts.iter().filter(|came| *came == text).count(), 1, "{text}");
    }
    // Nobody is told that something arrived that did not.
    assert_eq!(put(&a, place, NOT_TEXT).unwrap_err().cause, FailureCause::NotText);
    assert_eq!(peer.watched().binary(), watched.binary());
}

/// Who repeats what an engine said once does not make a peer of it that is there (R-DISC-5).
#[test]
fn a_replayed_datagram_does_not_bring_the_binary_wire_back() {
    guarded("a_replayed_datagram_does_not_bring_the_binary_wire_back", || {
        let impatient = small(Wire::Auto).tries_max(3).rto_initial(Duration::from_millis(20));
        let a = impatient.try_span_max(Duration::from_secs(2)).start().unwrap();
        let b = start(DriverChoice::Auto, Wire::Auto);
        let place = b.local_addr();
        // What `b` sends is heard on its way to `a`.
        let tap = Tap::start(a.local_addr());
        put(&b, tap.address(), NOT_TEXT).unwrap();
        let to_a: Vec<Vec<u8>> = tap
            .passed()
            .into_iter()
            .filter(|datagram| datagram.to_server && datagram.is_binary())
            .map(|datagram| datagram.bytes)
            .collect();
        assert!(!to_a.is_empty());
        // The address `a` knows this flow by.
        let known = next(&a.recv_bucket()).sender();
        put(&a, known, NOT_TEXT).unwrap();
        assert_ne!(known, place);
        // It crashes: nobody hears it say so.
        tap.cut_client();
        drop(b);
        let delivery = a.send_bucket().try_put(Outgoing::to(known, NOT_TEXT)).unwrap();
        let at = tap.passed().len();
        let asked = |passed: &[Passed]| {
            passed[at..].iter().filter(|datagram| !datagram.to_server && datagram.is_probe()).count()
        };
        until("it is asked anew", || asked(&tap.passed()) > 0);
        let suspended = tap.passed().len();
        let stranger = plain_socket();
        for _ in 0..5 {
            for datagram in &to_a {
                tap.send_to_server(datagram);
                stranger.send_to(datagram, a.local_addr()).unwrap();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let text = wait(a.send_bucket().try_put(Outgoing::to(known, "text")).unwrap());
        assert!(text.is_err());
        assert!(wait_within(delivery, LONG_HANG).is_err());
        // Those of `b`'s first start that `a` has under the numbers they carry.
        assert!(a.stats().total.get("dropped_binary_duplicate") > 0, "they were looked at");
        let passed = tap.passed();
        let behind = passed[suspended..].iter().filter(|one| !one.to_server && one.is_binary()).count();
        assert_eq!(behind, 0, "binary datagrams after it was asked anew");
    });
}
