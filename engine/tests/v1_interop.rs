//! Both roles against the model of the original on a real socket, over networks good and bad.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Duration;
use support::{
    LONG_HANG, assert_every_shard_received, each_driver, each_driver_and_shards, guarded, mixed_text, next,
    next_within, plain_socket, receive, small, until, wait_within,
};
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::sim::relay_log::{Direction, RelayLog};
use udp_plus::sim::v1_host::{V1Host, V1HostOptions};
use udp_plus::{Builder, DriverChoice, Engine, Outgoing, Preset};

const TEN_MB: usize = 10_000_000;

each_driver_and_shards! {
    ten_megabytes_arrive_whole_at_a_v1_peer,
    ten_megabytes_from_a_v1_peer_arrive_whole,
    duplicated_and_reordered_rows_of_ours_reach_a_v1_peer,
    duplicated_and_reordered_rows_of_a_v1_peer_are_delivered_once,
    the_same_id_a_second_later_is_another_message,
    a_confirm_from_a_third_party_does_not_count,
}

each_driver! {
    single_rows_of_a_v1_peer_under_loss_are_what_its_tries_brought,
}

fn server(driver: DriverChoice, shards: u16) -> Engine {
    server_builder(driver, shards).start().unwrap()
}

fn server_builder(driver: DriverChoice, shards: u16) -> Builder {
    Engine::builder().preset(Preset::Default).shards(shards).bind("127.0.0.1:0").driver(driver)
}

fn send_ten_megabytes(engine: &Engine, to: std::net::SocketAddr, host: V1Host) {
    let text = mixed_text(TEN_MB, 10);
    let outgoing = Outgoing::to(to, text.clone()).deadline(LONG_HANG * 2);
    let delivery = engine.send_bucket().try_put(outgoing).unwrap();
    let delivered = wait_within(delivery, LONG_HANG * 2).unwrap();
    eprintln!("10 MB: {delivered:?}");
    let report = host.stop();
    assert_eq!(report.death, None);
    assert_eq!(report.delivered.len(), 1);
    assert!(report.delivered[0].1.text == text, "another text arrived");
    assert!(report.datagrams_received >= (TEN_MB / 384) as u64);
}

fn ten_megabytes_arrive_whole_at_a_v1_peer(driver: DriverChoice, shards: u16) {
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    let engine = server(driver, shards);
    send_ten_megabytes(&engine, host.address(), host);
}

#[test]
fn ten_megabytes_arrive_whole_at_a_v1_peer_under_loss() {
    guarded("ten_megabytes_arrive_whole_at_a_v1_peer_under_loss", || {
        let host = V1Host::start(V1HostOptions::default()).unwrap();
        let relay =
            Relay::start(RelayOptions { loss: 0.1, seed: 7, ..RelayOptions::clean(host.address()) }).unwrap();
        // Of 26,042 rows one may be lost nine times, and more do not fit into `try_span_max` with the default wait.
        let patient = server_builder(DriverChoice::Auto, 1).rto_max(Duration::from_millis(300)).tries_max(30);
        let engine = patient.start().unwrap();
        send_ten_megabytes(&engine, relay.address(), host);
        let log = relay.stop();
        assert_eq!(log.kernel_drops, 0);
        for counts in [log.to_server, log.to_client] {
            let lost = counts.dropped as f64 / counts.received as f64;
            assert!(counts.dropped > 1_000 && (0.08..0.12).contains(&lost), "{counts:?}");
        }
    });
}

#[test]
fn no_row_is_sent_early_to_a_v1_peer_that_pauses() {
    guarded("no_row_is_sent_early_to_a_v1_peer_that_pauses", || {
        // A thread that a busy machine stops around a pause makes a row go again, and rightly: once in a while, not each time.
        for left in (0..3).rev() {
            let log = rows_to_a_v1_peer_that_pauses(100_000);
            assert!(
                log.early_resends() == 0 || left > 0,
                "{} of {} early",
                log.early_resends(),
                log.resends()
            );
            if log.early_resends() == 0 {
                break;
            }
        }
    });
}

fn rows_to_a_v1_peer_that_pauses(rows: u64) -> RelayLog {
    let host = V1Host::start(V1HostOptions { seed: 3, pause_ms_max: 100, pause_every: 1_000 }).unwrap();
    let relay =
        Relay::start(RelayOptions { loss: 0.01, seed: 8, ..RelayOptions::clean(host.address()) }).unwrap();
    let engine = small(DriverChoice::Auto).ops_in_flight_max(1_000).start().unwrap();
    let bucket = engine.send_bucket();
    let (mut put, mut outcomes) = (0, Vec::new());
    let mut batch = Vec::new();
    while outcomes.len() < rows as usize {
        while batch.len() < 256 && put < rows {
            batch.push(Outgoing::to(relay.address(), format!("row {put}")).tag(put).deadline(LONG_HANG * 2));
            put += 1;
        }
        bucket.put_batch(&mut batch);
        let count = bucket.blocking_outcome_batch(&mut outcomes, support::HANG);
        assert!(count > 0, "no outcome after {}", outcomes.len());
    }
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()));
    let report = host.stop();
    let log = relay.stop();
    assert_eq!((report.death, log.kernel_drops), (None, 0));
    assert!(report.pauses > 10, "{} pauses", report.pauses);
    assert!(log.to_server.dropped > 0 && log.to_client.dropped > 0 && log.resends() > 0);
    assert_eq!(log.rows(Direction::ToServer).count() as u64, rows);
    log
}

fn ten_megabytes_from_a_v1_peer_arrive_whole(driver: DriverChoice, shards: u16) {
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    // It sends all rows at once, and three times at most: a busy machine reads them later than the default buffer holds them.
    let engine = server_builder(driver, shards).rcvbuf_bytes(64 << 20).start().unwrap();
    let text = mixed_text(TEN_MB, 11);
    let sent = host.send(engine.local_addr(), &text).unwrap();
    assert!(sent.finished && sent.chunk_count == (TEN_MB.div_ceil(3) * 4).div_ceil(512));
    let message = next_within(&engine.recv_bucket(), LONG_HANG);
    assert_eq!(message.sender(), host.address());
    assert!(message.text() == Some(text.as_str()), "another text arrived");
    assert!(engine.recv_bucket().try_get().is_none(), "delivered twice");
    eprintln!("{sent:?}, {} rows", host.report().rows_sent);
}

/// All at the same time: the host mostly waits for its next try.
fn single_rows_of_a_v1_peer_under_loss_are_what_its_tries_brought(driver: DriverChoice) {
    std::thread::scope(|scope| {
        for shards in [1, 2, 4] {
            scope.spawn(move || single_rows_under_loss(driver, shards));
        }
    });
}

fn single_rows_under_loss(driver: DriverChoice, shards: u16) {
    let engine = server(driver, shards);
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    let relay = Relay::start(RelayOptions { loss: 0.5, seed: 9, ..RelayOptions::clean(engine.local_addr()) })
        .unwrap();
    let texts: Vec<String> = (0..200).map(|number| format!("{number} {}", mixed_text(50, number))).collect();
    let sent = host.send_all(relay.address(), &texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let log = relay.stop();
    let brought = log.rows(Direction::ToServer).filter(|row| row.seen > row.dropped).count();
    assert!(brought < texts.len() && brought > 100, "{brought} of 200 came through");
    assert!(log.rows(Direction::ToServer).any(|row| row.seen > row.dropped + 1), "no row came twice");
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..brought {
        *count.entry(next(&engine.recv_bucket()).text().unwrap().to_owned()).or_default() += 1;
    }
    assert!(engine.recv_bucket().try_get().is_none(), "more than came through");
    assert!(count.values().all(|count| *count == 1), "delivered twice");
    for (text, sent) in texts.iter().zip(&sent) {
        assert!(sent.confirmed_count == 0 || count.contains_key(text), "confirmed, but not delivered");
    }
    assert_every_shard_received(&engine);
}

#[test]
fn long_messages_of_a_v1_peer_under_loss_are_what_its_tries_brought() {
    guarded("long_messages_of_a_v1_peer_under_loss", || {
        let engines = [1, 2, 4].map(|shards| server(DriverChoice::Auto, shards));
        let threads: Vec<_> = (0..18_u64)
            .map(|seed| {
                let engine = seed as usize % engines.len();
                let to = engines[engine].local_addr();
                std::thread::spawn(move || {
                    let host = V1Host::start(V1HostOptions { seed, ..V1HostOptions::default() }).unwrap();
                    // Of three tries for each row: 96 % of the one half come whole, 7 % of the other.
                    let loss = if seed % 2 == 0 { 0.1 } else { 0.4 };
                    let options = RelayOptions { loss, seed, ..RelayOptions::clean(to) };
                    let relay = Relay::start(options).unwrap();
                    let text = mixed_text(40 * 384, seed);
                    let sent = host.send(relay.address(), &text).unwrap();
                    let log = relay.stop();
                    assert_eq!(log.kernel_drops, 0);
                    let rows: Vec<_> = log.rows(Direction::ToServer).collect();
                    assert_eq!(rows.len(), 40);
                    let whole = rows.iter().all(|row| row.seen > row.dropped);
                    assert!(whole || sent.confirmed_count < sent.chunk_count);
                    (engine, text, whole)
                })
            })
            .collect();
        let mut expected: [Vec<String>; 3] = Default::default();
        for thread in threads {
            let (engine, text, whole) = thread.join().unwrap();
            expected[engine].extend(whole.then_some(text));
        }
        let came_whole: usize = expected.iter().map(Vec::len).sum();
        assert!(came_whole > 0 && came_whole < 18, "{came_whole} of 18 came whole");
        for (engine, mut expected) in engines.iter().zip(expected) {
            let mut got: Vec<_> =
                expected.iter().map(|_| next(&engine.recv_bucket()).text().unwrap().to_owned()).collect();
            assert!(engine.recv_bucket().try_get().is_none());
            got.sort();
            expected.sort();
            assert!(got == expected, "others than came through");
        }
    });
}

fn bad_network(to: std::net::SocketAddr) -> Relay {
    Relay::start(RelayOptions {
        duplicate: 0.3,
        reorder: 0.3,
        seed: 5,
        delay_ms: 0..=2,
        ..RelayOptions::clean(to)
    })
    .unwrap()
}

fn assert_faults(relay: Relay) {
    let log = relay.stop();
    for counts in [log.to_server, log.to_client] {
        assert!(counts.duplicated > 10 && counts.reordered > 10, "{counts:?}");
    }
}

fn texts() -> Vec<String> {
    (0..120_u64)
        .map(|number| {
            let size = if number % 6 == 0 { 5_000 } else { 60 };
            format!("{number} {}", mixed_text(size, number))
        })
        .collect()
}

fn duplicated_and_reordered_rows_of_ours_reach_a_v1_peer(driver: DriverChoice, shards: u16) {
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    let relay = bad_network(host.address());
    let engine = small(driver).shards(shards).start().unwrap();
    let texts = texts();
    let deliveries: Vec<_> = texts
        .iter()
        .map(|text| engine.send_bucket().try_put(Outgoing::to(relay.address(), text.clone())).unwrap())
        .collect();
    for delivery in deliveries {
        wait_within(delivery, LONG_HANG).unwrap();
    }
    assert_faults(relay);
    let report = host.stop();
    assert_eq!(report.death, None);
    assert_eq!(engine.stats().total.misrouted, 0, "confirms come back to the shard that waits");
    // The original delivers duplicates again; nothing else may come, and nothing may be missing.
    let mut arrived: Vec<_> = report.delivered.into_iter().map(|(_, message)| message.text).collect();
    arrived.sort();
    arrived.dedup();
    let mut sent = texts;
    sent.sort();
    assert!(arrived == sent);
}

fn duplicated_and_reordered_rows_of_a_v1_peer_are_delivered_once(driver: DriverChoice, shards: u16) {
    let engine = small(driver).shards(shards).start().unwrap();
    let host = V1Host::start(V1HostOptions::default()).unwrap();
    let relay = bad_network(engine.local_addr());
    let mut texts = texts();
    let borrowed: Vec<_> = texts.iter().map(String::as_str).collect();
    // Few at a time: the host paces nothing.
    for some in borrowed.chunks(30) {
        let sent = host.send_all(relay.address(), some).unwrap();
        assert!(sent.iter().all(|sent| sent.confirmed_count == sent.chunk_count));
    }
    assert_faults(relay);
    let mut got: Vec<_> =
        texts.iter().map(|_| next(&engine.recv_bucket()).text().unwrap().to_owned()).collect();
    got.sort();
    texts.sort();
    assert!(got == texts);
    assert!(engine.recv_bucket().try_get().is_none(), "delivered twice");
    assert_every_shard_received(&engine);
    until("duplicates are counted", || engine.stats().total.get("dropped_duplicate") > 0);
}

fn send_rows(socket: &UdpSocket, engine: &Engine, rows: &[&str]) {
    let mut buffer = [0; 100];
    for row in rows {
        socket.send_to(row.as_bytes(), engine.local_addr()).unwrap();
        let (bytes, _) = receive(socket, &mut buffer);
        assert!(buffer[..bytes].starts_with(b"1,3f2a9c1e,,"), "no confirm");
    }
}

fn the_same_id_a_second_later_is_another_message(driver: DriverChoice, shards: u16) {
    let engine = small(driver).shards(shards).start().unwrap();
    let bucket = engine.recv_bucket();
    let socket = plain_socket();
    let next_text = || next(&bucket).text().unwrap().to_owned();
    // base64: one, two.
    let singles = [",3f2a9c1e,,,b25l,1764123456.25", ",3f2a9c1e,,,dHdv,1764123457.25"];
    send_rows(&socket, &engine, &singles);
    assert_eq!([next_text(), next_text()], ["one", "two"]);
    // The same text with another timestamp is another message too.
    send_rows(&socket, &engine, &[",3f2a9c1e,,,dHdv,1764123458.25"]);
    assert_eq!(next_text(), "two");
    // "he" "llo", then "he" "y": the first row differs in its timestamp alone.
    let first = [",3f2a9c1e,2,0,aGU=,1764123459.25", ",3f2a9c1e,2,1,bGxv,1764123459.25"];
    let second = [",3f2a9c1e,2,0,aGU=,1764123460.25", ",3f2a9c1e,2,1,eQ==,1764123460.25"];
    send_rows(&socket, &engine, &first);
    send_rows(&socket, &engine, &second);
    assert_eq!([next_text(), next_text()], ["hello", "hey"]);
    // All of it once more, newest first: confirmed, and nothing is delivered.
    send_rows(&socket, &engine, &second);
    send_rows(&socket, &engine, &first);
    send_rows(&socket, &engine, &singles);
    send_rows(&socket, &engine, &[",3f2a9c1e,,,ZW5k,1764123461.25"]);
    assert_eq!(next_text(), "end");
    assert!(bucket.is_empty());
}

fn a_confirm_from_a_third_party_does_not_count(driver: DriverChoice, shards: u16) {
    let engine = small(driver).shards(shards).start().unwrap();
    let (peer, third) = (plain_socket(), plain_socket());
    let delivery = engine.send_bucket().try_put(Outgoing::to(peer.local_addr().unwrap(), "for one")).unwrap();
    let mut buffer = [0; 1_024];
    let (bytes, from) = receive(&peer, &mut buffer);
    let id = std::str::from_utf8(&buffer[..bytes]).unwrap().split(',').nth(1).unwrap().to_owned();
    let confirm = format!("1,{id},,0,");
    third.send_to(confirm.as_bytes(), from).unwrap();
    until("counted", || engine.stats().total.get("dropped_foreign_confirm") == 1);
    let mut delivery = delivery;
    let waker = std::task::Waker::noop();
    let poll = std::pin::Pin::new(&mut delivery).poll(&mut std::task::Context::from_waker(waker));
    assert!(poll.is_pending());
    peer.send_to(confirm.as_bytes(), from).unwrap();
    wait_within(delivery, Duration::from_secs(10)).unwrap();
}
