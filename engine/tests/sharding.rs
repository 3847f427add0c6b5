//! Shards: rows of every kind of id reach the shard that owns them, steered by the kernel or forwarded; nothing is lost.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

mod kit;

use bytes::Bytes;
use kit::{Audit, GUARD, Outcomes, engine, long_payload, payload, raw_socket, wait_for};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;
use udp_plus::{Counters, DriverChoice, Engine, Message, Outgoing, Wire};

/// Ids as the row carries them and as the confirm must: 8, 16 (upper and lower case), 7, 17, foreign, quoted.
fn id_of(seq: u64) -> (String, String) {
    let number = kit::payload(seq); // 64 hex digits; from 16 on they are random.
    let digits = std::str::from_utf8(&number[16..]).unwrap();
    let plain = match seq % 8 {
        0 => digits[..8].to_owned(),
        1 => digits[..16].to_owned(),
        2 => digits[..7].to_owned(),
        3 => digits[..17].to_owned(),
        4 => digits[..8].to_uppercase(),
        5 => digits[..16].to_uppercase(),
        6 => format!("job-{}/x", &digits[..12]),
        _ => {
            // A comma inside: the quotes are needed, and come back.
            let quoted = format!("\"{},{}\"", &digits[..5], &digits[5..10]);
            return (quoted.clone(), quoted);
        }
    };
    if seq % 16 == 8 {
        // Quotes nobody needs: the confirm goes without.
        return (format!("\"{plain}\""), plain);
    }
    (plain.clone(), plain)
}

/// A row of an original peer, and the confirm for it.
fn row_of(seq: u64) -> (String, String) {
    let (id, confirmed_id) = id_of(seq);
    let payload = base64_simd::STANDARD.encode_to_string(payload(seq));
    (format!(",{id},,,{payload},1764123456.123456"), format!("1,{confirmed_id},,0,"))
}

/// Sends rows from plain sockets, 48 at a time, and returns what came: each message once, each confirm right.
fn raw_rows(shards: u16, steering: bool, driver: DriverChoice) -> Counters {
    const TOTAL: u64 = 1_920;
    const SOCKETS: u64 = 8;
    let engine = engine(driver).shards(shards).steering(steering).start().unwrap();
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| raw_socket()).collect();
    let audit = Audit::new(TOTAL);
    let mut seqs = 0..TOTAL;
    for socket in sockets.iter().cycle() {
        let (rows, mut expected): (Vec<String>, BTreeSet<String>) =
            seqs.by_ref().take(48).map(row_of).unzip();
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            socket.send_to(row.as_bytes(), engine.local_addr()).unwrap();
        }
        while !expected.is_empty() {
            let confirm = kit::recv_text(socket);
            assert!(expected.remove(&confirm), "unexpected confirm {confirm:?}, still due: {expected:?}");
        }
    }
    drain(&engine, &audit);
    audit.assert_exactly_once();
    assert!(sockets.iter().all(|socket| kit::drain_texts(socket).is_empty()), "a second confirm");
    let stats = engine.stats();
    if shards > 1 {
        let busy = stats.shards.iter().filter(|shard| shard.messages_received > 0).count();
        assert_eq!(busy, shards as usize, "every shard takes part");
        assert!(stats.total.unsteered > 0, "foreign ids are forwarded by hash");
    }
    stats.total
}

/// Stops the engine and notes everything it received.
fn drain(engine: &Engine, audit: &Audit) {
    engine.shutdown_blocking(GUARD);
    assert_eq!(engine.failure(), None);
    let mut messages = Vec::new();
    engine.recv_bucket().get_batch(&mut messages);
    messages.iter().for_each(|message| audit.note(message.payload()));
}

#[test]
fn raw_ids_of_every_kind_steered() {
    for driver in [DriverChoice::Auto, DriverChoice::Mmsg] {
        for shards in [1, 2, 4] {
            let counters = raw_rows(shards, true, driver);
            assert_eq!(counters.misrouted, 0, "{shards} shards, {driver:?}");
        }
    }
}

#[test]
fn raw_ids_of_every_kind_without_steering() {
    for driver in [DriverChoice::Auto, DriverChoice::Mmsg] {
        for shards in [1, 2, 4] {
            let counters = raw_rows(shards, false, driver);
            assert_eq!(counters.misrouted > 0, shards > 1, "{} of {shards} shards", counters.misrouted);
            assert_eq!(counters.forwarded_in, counters.misrouted + counters.unsteered);
        }
    }
}

#[test]
fn a_mixed_train_is_forwarded_and_not_lost() {
    const ROWS: u64 = 48;
    for steering in [true, false] {
        let engine = engine(DriverChoice::Auto).shards(4).steering(steering).start().unwrap();
        let socket = raw_socket();
        let rows: Vec<(String, String)> = (0..ROWS)
            .map(|seq| {
                let id = format!("{:06x}{:02x}", 0x00ab_0000 + seq, seq * 37 % 256);
                let payload = base64_simd::STANDARD.encode_to_string(payload(seq));
                (format!(",{id},,,{payload},1764123456.123456"), format!("1,{id},,0,"))
            })
            .collect();
        let bytes = rows[0].0.len();
        assert!(rows.iter().all(|row| row.0.len() == bytes), "a train has rows of one length");
        let train: String = rows.iter().map(|row| row.0.as_str()).collect();
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::try_from(bytes).unwrap()).unwrap();
        socket.send_to(train.as_bytes(), engine.local_addr()).unwrap();
        let mut expected: BTreeSet<String> = rows.into_iter().map(|row| row.1).collect();
        while !expected.is_empty() {
            let confirm = kit::recv_text(&socket);
            assert!(expected.remove(&confirm), "{confirm}");
        }
        let audit = Audit::new(ROWS);
        drain(&engine, &audit);
        audit.assert_exactly_once();
        let total = engine.stats().total;
        assert_eq!(total.trains_received, 1, "it came as one train");
        assert!(total.misrouted > 0 && total.forwarded_in == total.misrouted, "{total:?}");
    }
}

/// Small and multi-chunk messages between engines of `from` and `to` shards.
fn between(from: u16, to: u16, steering: bool, pin: bool, driver: DriverChoice) -> (Counters, Counters) {
    between_on(Wire::Csv, from, to, steering, pin, driver)
}

fn between_on(
    wire: Wire,
    from: u16,
    to: u16,
    steering: bool,
    pin: bool,
    driver: DriverChoice,
) -> (Counters, Counters) {
    const TOTAL: u64 = 1_200;
    let options = |shards| engine(driver).wire(wire).shards(shards).steering(steering).pin(pin);
    // Several sources: one address is the affair of one shard.
    let sources: Vec<Engine> = (0..3).map(|_| options(from).start().unwrap()).collect();
    let sink = options(to).start().unwrap();
    let (audit, outcomes) = (Audit::new(TOTAL), Outcomes::new(TOTAL));
    for (index, source) in sources.iter().enumerate() {
        let mut batch: Vec<Outgoing> = (index as u64..TOTAL)
            .step_by(sources.len())
            .map(|seq| {
                let bytes = if seq % 10 < 2 { 10_000 + seq as usize } else { 64 };
                Outgoing::to(sink.local_addr(), Bytes::from(long_payload(seq, bytes))).tag(seq)
            })
            .collect();
        let send = source.send_bucket();
        let due = batch.len();
        assert_eq!(send.put_batch(&mut batch), due);
        let mut ended = Vec::new();
        let mut count = 0;
        wait_for("outcomes", GUARD * 3, || {
            count += send.outcome_batch(&mut ended);
            count == due
        });
        ended.iter().for_each(|(tag, outcome)| outcomes.note(*tag, outcome));
    }
    outcomes.assert_all_delivered();
    drain(&sink, &audit);
    audit.assert_exactly_once();
    let mut sent = Counters::default();
    for source in &sources {
        source.shutdown_blocking(GUARD);
        assert_eq!(source.failure(), None);
        sent.add(&source.stats().total);
    }
    match wire {
        Wire::Csv => assert!(sent.rows_sent > TOTAL + 240 * 26, "the large ones are many rows"),
        // 2.5 MB in datagrams of 1,472 bytes.
        _ => assert!(sent.rows_sent > 1_800 && sent.rows_sent < TOTAL + 240 * 26, "{}", sent.rows_sent),
    }
    (sent, sink.stats().total)
}

#[test]
fn one_two_and_four_shards_on_either_side() {
    for (from, to) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4)] {
        let driver = if (from + to) % 2 == 0 { DriverChoice::Auto } else { DriverChoice::Mmsg };
        let (sent, received) = between(from, to, true, false, driver);
        assert_eq!((sent.misrouted, received.misrouted), (0, 0), "{from} to {to} shards");
    }
}

#[test]
fn without_steering_everything_is_forwarded_and_delivered() {
    // Confirms come from one address to one: by chance all of them to the right shard. Rows carry many routes.
    let (_, received) = between(2, 4, false, false, DriverChoice::Auto);
    assert!(received.misrouted > 0);
}

#[test]
fn one_two_and_four_shards_on_either_side_binary() {
    for (from, to) in [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4)] {
        let driver = if (from + to) % 2 == 0 { DriverChoice::Auto } else { DriverChoice::Mmsg };
        for wire in [Wire::Binary, Wire::Auto] {
            let (sent, received) = between_on(wire, from, to, true, false, driver);
            assert_eq!((sent.misrouted, received.misrouted), (0, 0), "{from} to {to} shards, {wire:?}");
        }
    }
}

#[test]
fn without_steering_the_binary_wire_is_forwarded_and_delivered() {
    // A flow has one route and its addresses one hash, so it is forwarded always or never: of some flows, some are.
    let misrouted: u64 =
        (0..8).map(|_| between_on(Wire::Binary, 1, 4, false, false, DriverChoice::Auto).1.misrouted).sum();
    assert!(misrouted > 0);
}

#[test]
fn pinned_shards_deliver() {
    let (sent, received) = between(2, 2, true, true, DriverChoice::Auto);
    assert_eq!((sent.misrouted, received.misrouted), (0, 0));
}

#[test]
fn a_multi_chunk_message_from_a_plain_socket_meets_in_one_shard() {
    for steering in [true, false] {
        let engine = engine(DriverChoice::Auto).shards(4).steering(steering).start().unwrap();
        let audit = Audit::new(32);
        let socket = raw_socket();
        for seq in 0..32 {
            let (id, confirmed_id) = id_of(seq);
            let text = long_payload(seq, 640);
            for (index, part) in text.chunks(64).enumerate().rev() {
                let part = base64_simd::STANDARD.encode_to_string(part);
                let row = format!(",{id},10,{index},{part},1764123456.123456");
                socket.send_to(row.as_bytes(), engine.local_addr()).unwrap();
                assert_eq!(kit::recv_text(&socket), format!("1,{confirmed_id},,{index},"));
            }
        }
        let mut messages: Vec<Message> = Vec::new();
        wait_for("32 messages", GUARD, || {
            engine.recv_bucket().blocking_get_batch(&mut messages, Duration::from_millis(10));
            messages.len() >= 32
        });
        messages.iter().for_each(|message| audit.note(message.payload()));
        audit.assert_exactly_once();
    }
}
