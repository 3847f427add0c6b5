//! Rows that nobody honest sends: refused, counted under their cause, in bounded memory, while honest traffic goes on.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

mod kit;

use bytes::Bytes;
use kit::{GUARD, engine, in_child, is_child, long_payload, raw_socket, recv_text, wait_for};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use udp_plus::{ConfirmFrom, DriverChoice, DropReason, Engine, Outgoing};

const B64: &str = "aGVsbG8=";
const BOTH: [DriverChoice; 2] = [DriverChoice::Auto, DriverChoice::Mmsg];

fn dropped(engine: &Engine, reason: DropReason) -> u64 {
    engine.stats().total.dropped(reason)
}

/// Waits until so many datagrams were dropped for this reason; exactly so many.
fn expect_dropped(engine: &Engine, reason: DropReason, count: u64) {
    wait_for(reason.label(), GUARD, || dropped(engine, reason) >= count);
    assert_eq!(dropped(engine, reason), count, "{}", reason.label());
}

/// Sends a text message through the buckets of another engine: there, once, intact, and the sender knows.
fn honest(from: &Engine, to: &Engine, bytes: usize) {
    let payload = Bytes::from(long_payload(7, bytes));
    let delivery = from.send_bucket().try_put(Outgoing::to(to.local_addr(), payload.clone())).unwrap();
    let outcome = futures_lite::future::block_on(delivery);
    outcome.unwrap_or_else(|error| panic!("honest traffic of {bytes} B: {error}"));
    // Some hostile rows are messages as well.
    let message = loop {
        let message = to.recv_bucket().blocking_get().unwrap();
        if message.sender() == from.local_addr() {
            break message;
        }
    };
    assert!(message.payload() == &payload, "{} bytes came", message.payload().len());
}

/// Sends these rows, each some times, not faster than the engine reads.
fn flood(socket: &UdpSocket, engine: &Engine, rows: impl Iterator<Item = Vec<u8>>) -> u64 {
    let start = engine.stats().total.datagrams_received;
    let mut sent = 0;
    for row in rows {
        socket.send_to(&row, engine.local_addr()).unwrap();
        sent += 1;
        if sent % 200 == 0 {
            wait_for("the flood is read", GUARD, || engine.stats().total.datagrams_received >= start + sent);
        }
    }
    wait_for("the flood is read", GUARD, || engine.stats().total.datagrams_received >= start + sent);
    sent
}

#[test]
fn impossible_lengths_and_chunks_are_refused() {
    for driver in BOTH {
        let (engine, peer) = (engine(driver).start().unwrap(), engine(driver).start().unwrap());
        let socket = raw_socket();
        let send = |row: String| socket.send_to(row.as_bytes(), engine.local_addr()).unwrap();
        let cases = [
            (",{id},1000000000,0,", DropReason::MessageTooLarge),
            (",{id},1000000000,999999999,", DropReason::MessageTooLarge),
            (",{id},99999999999999999999,0,", DropReason::MessageTooLarge),
            (",{id},3,3,", DropReason::ChunkBeyondLength),
            (",{id},3,4294967295,", DropReason::ChunkBeyondLength),
            (",{id},0,0,", DropReason::BadLength),
            (",{id},-1,0,", DropReason::BadLength),
            (",{id},3,-1,", DropReason::BadChunkId),
            (",{id},3,x,", DropReason::BadChunkId),
            ("2,{id},,,", DropReason::UnknownCommand),
            ("x,{id},,,", DropReason::BadCommand),
        ];
        for (case, reason) in cases {
            let before = dropped(&engine, reason);
            for copy in 0..10 {
                send(format!("{}{B64},1764123456.1", case.replace("{id}", &format!("3f2a9c{copy:02x}"))));
            }
            expect_dropped_more(&engine, reason, before, 10, case);
        }
        // The length changes: the first one counts, and the message still completes.
        for row in [",5f2a9c1e,2,0,aGU=,1", ",5f2a9c1e,3,1,bGxv,1", ",5f2a9c1e,70000,9,bGxv,1"] {
            send(row.to_owned());
        }
        expect_dropped(&engine, DropReason::LengthChanged, 2);
        send(",5f2a9c1e,2,1,bGxv,1".to_owned());
        assert_eq!(engine.recv_bucket().blocking_get().unwrap().text(), Some("hello"));
        assert_eq!(recv_text(&socket), "1,5f2a9c1e,,0,");
        assert_eq!(recv_text(&socket), "1,5f2a9c1e,,1,");
        assert!(kit::drain_texts(&socket).is_empty(), "what is refused is not confirmed");
        honest(&peer, &engine, 50_000);
    }
}

fn expect_dropped_more(engine: &Engine, reason: DropReason, before: u64, count: u64, case: &str) {
    wait_for(case, GUARD, || dropped(engine, reason) >= before + count);
    assert_eq!(dropped(engine, reason), before + count, "{case}");
}

#[test]
fn ten_thousand_empty_datagrams() {
    for driver in BOTH {
        let (engine, peer) = (engine(driver).start().unwrap(), engine(driver).start().unwrap());
        let sent = flood(&raw_socket(), &engine, (0..10_000).map(|_| Vec::new()));
        expect_dropped(&engine, DropReason::Empty, sent);
        let total = engine.stats().total;
        assert_eq!((total.receive_errors, total.receive_malformed, total.receive_truncated), (0, 0, 0));
        honest(&peer, &engine, 64);
        honest(&peer, &engine, 100_000);
    }
}

#[test]
fn cut_rows_random_bytes_and_the_binary_wire() {
    for driver in BOTH {
        let (engine, peer) = (engine(driver).start().unwrap(), engine(driver).start().unwrap());
        let socket = raw_socket();
        // Every beginning of a row, each under an id of its own.
        let row = |bytes: usize| {
            format!("0,000000{bytes:02x},3,1,aGVsbG8=,1764123456.123456,u+0123abcd").into_bytes()
        };
        let bytes = row(0).len();
        let mut sent = flood(&socket, &engine, (0..bytes).map(|bytes| row(bytes)[..bytes].to_vec()));
        for reason in [DropReason::Empty, DropReason::TooFewColumns, DropReason::BadBase64] {
            assert!(dropped(&engine, reason) > 0, "{}", reason.label());
        }
        // A binary first byte, at every length up to 64.
        sent += flood(&socket, &engine, (0x80..=0xff).map(|first| vec![first; 1 + usize::from(first) % 64]));
        expect_dropped(&engine, DropReason::BinaryWire, 128);
        honest(&peer, &engine, 1_000);
        let mut random = fastrand_like(1);
        let rows = (0..20_000).map(move |number| {
            let bytes = random() as usize % 200;
            let mut row: Vec<u8> = (0..bytes).map(|_| random() as u8).collect();
            // Every other one made of what rows are made of.
            if number % 2 == 0 {
                row.iter_mut().for_each(|byte| *byte = b",,,\"\r\n01aGVs=u+ "[usize::from(*byte) % 16]);
            }
            row
        });
        sent += flood(&socket, &engine, rows);
        // The honest rows between them are counted as well; what was dropped or handled is everything there was.
        honest(&peer, &engine, 1_000);
        wait_for("rest", GUARD, || {
            let total = engine.stats().total;
            let handled = total.data_rows_handled + total.confirms_handled;
            total.datagrams_received == handled + total.dropped_total()
        });
        let total = engine.stats().total;
        assert!(total.dropped_total() > sent * 8 / 10, "{} of {sent}", total.dropped_total());
        for reason in [DropReason::NotUtf8, DropReason::UnterminatedQuote, DropReason::BadCommand] {
            assert!(dropped(&engine, reason) > 0, "{}", reason.label());
        }
        assert_eq!((engine.failure(), peer.failure()), (None, None));
    }
}

/// splitmix64.
fn fastrand_like(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[test]
fn endless_partials_stay_in_bounded_memory() {
    const LIMIT: u64 = 32 << 20;
    if !is_child() {
        return in_child("endless_partials_stay_in_bounded_memory");
    }
    for driver in BOTH {
        let engine =
            engine(driver).partial_bytes_max(LIMIT).partial_bytes_per_peer_max(LIMIT / 2).start().unwrap();
        let peer = kit::engine(driver).start().unwrap();
        honest(&peer, &engine, 1 << 20);
        let before = kit::resident_bytes();
        let b64 = base64_simd::STANDARD.encode_to_string(long_payload(3, 384));
        // First chunks only, last chunks only, and of as many chunks as are allowed.
        let rows = |source: usize, count: usize| {
            let b64 = b64.clone();
            (0..count).map(move |id| {
                let chunk = [0, 65_535, 65_534, 1][id % 4];
                format!(",{:08x},65536,{chunk},{b64},1", source << 16 | id).into_bytes()
            })
        };
        // Eight sources reach their own limit; others are served all the while.
        for source in 0..8 {
            flood(&raw_socket(), &engine, rows(source, 1_000));
            honest(&peer, &engine, 64);
        }
        let refused = dropped(&engine, DropReason::PartialsFull);
        assert!(refused >= 8 * (1_000 - 256), "{refused} refused");
        // Forty fill what there is for all; whole messages are served all the while.
        for source in 8..40 {
            flood(&raw_socket(), &engine, rows(source, 400));
            honest(&peer, &engine, 64);
        }
        let grown = kit::resident_bytes().saturating_sub(before);
        eprintln!("{driver:?}: grown by {} KiB", grown >> 10);
        assert!(dropped(&engine, DropReason::PartialsFull) > refused);
        assert!(grown < LIMIT + (16 << 20), "grown by {grown} bytes");
        assert!(kit::drain_texts(&raw_socket()).is_empty());
    }
}

/// An engine with one message under way to a plain socket, which has read its row.
fn under_way(confirm_from: ConfirmFrom) -> (Engine, UdpSocket, String, udp_plus::Delivery) {
    let engine = engine(DriverChoice::Auto).confirm_from(confirm_from).start().unwrap();
    let peer = raw_socket();
    let delivery = engine.send_bucket().try_put(Outgoing::to(peer.local_addr().unwrap(), "hello")).unwrap();
    let id = recv_text(&peer)[1..17].to_owned();
    (engine, peer, id, delivery)
}

#[test]
fn a_confirm_from_another_address_counts_only_in_id_mode() {
    let (engine, peer, id, delivery) = under_way(ConfirmFrom::Strict);
    let confirm = format!("1,{id},,0,");
    let stranger = raw_socket();
    for copy in 1..=10 {
        stranger.send_to(confirm.as_bytes(), engine.local_addr()).unwrap();
        expect_dropped(&engine, DropReason::ForeignConfirm, copy);
    }
    assert_eq!(engine.stats().total.messages_delivered, 0, "still under way");
    peer.send_to(confirm.as_bytes(), engine.local_addr()).unwrap();
    futures_lite::future::block_on(delivery).unwrap();

    let (engine, _peer, id, delivery) = under_way(ConfirmFrom::Id);
    stranger.send_to(format!("1,{id},,0,").as_bytes(), engine.local_addr()).unwrap();
    futures_lite::future::block_on(delivery).unwrap();
    assert_eq!(dropped(&engine, DropReason::ForeignConfirm), 0);
}

#[test]
fn confirms_for_unknown_ids_and_stale_generations_count_for_nothing() {
    let (engine, peer, id, delivery) = under_way(ConfirmFrom::Strict);
    let send = |id: &str, chunk: u32| {
        peer.send_to(format!("1,{id},,{chunk},").as_bytes(), engine.local_addr()).unwrap();
    };
    let number = u64::from_str_radix(&id, 16).unwrap();
    // Every other generation in the same slot, other slots, other routes, and no id of ours at all.
    let forged =
        [number ^ (1 << 32), number ^ (1 << 63), number.wrapping_sub(1 << 32), number ^ (1 << 8), number ^ 1];
    for id in forged {
        send(&format!("{id:016x}"), 0);
    }
    send("3f2a9c1e", 0);
    send("FFFFFFFFFFFFFFFF", 0);
    expect_dropped(&engine, DropReason::UnknownConfirm, 7);
    send(&id, 1);
    send(&id, u32::MAX);
    expect_dropped(&engine, DropReason::UnsentConfirm, 2);
    assert_eq!(engine.stats().total.messages_delivered, 0, "still under way");
    send(&id, 0);
    futures_lite::future::block_on(delivery).unwrap();
    // The operation is over: its id is stale, also while a new one sits in the slot.
    send(&id, 0);
    expect_dropped(&engine, DropReason::UnknownConfirm, 8);
    let next = engine.send_bucket().try_put(Outgoing::to(peer.local_addr().unwrap(), "again")).unwrap();
    let next_id = recv_text(&peer)[1..17].to_owned();
    assert_ne!(next_id, id);
    send(&id, 0);
    expect_dropped(&engine, DropReason::UnknownConfirm, 9);
    assert_eq!(engine.stats().total.messages_delivered, 1);
    send(&next_id, 0);
    futures_lite::future::block_on(next).unwrap();
}

#[test]
fn optimistic_confirms_for_chunks_not_sent_yet_win_nothing() {
    const BYTES: usize = 300_000;
    let engine = engine(DriverChoice::Auto).start().unwrap();
    let peer = raw_socket();
    let text = long_payload(9, BYTES);
    let delivery = engine
        .send_bucket()
        .try_put(Outgoing::to(peer.local_addr().unwrap(), Bytes::from(text.clone())))
        .unwrap();
    let mut columns: Vec<String> = recv_text(&peer).split(',').map(str::to_owned).collect();
    let (id, count) = (columns[1].clone(), columns[2].parse::<usize>().unwrap());
    assert!(count > 500, "{count} chunks");
    // The window lets about 80 go: all of the second half is still to come, and is "confirmed" now, twice.
    let optimistic = (count / 2..count).chain(count / 2..count);
    let mut sent = 0;
    for chunk in optimistic {
        peer.send_to(format!("1,{id},,{chunk},").as_bytes(), engine.local_addr()).unwrap();
        sent += 1;
        if sent % 100 == 0 {
            wait_for("read", GUARD, || dropped(&engine, DropReason::UnsentConfirm) >= sent);
        }
    }
    expect_dropped(&engine, DropReason::UnsentConfirm, sent);
    // From here on honest: every chunk is confirmed when it comes, and every chunk does come.
    let mut chunks: Vec<Option<Vec<u8>>> = vec![None; count];
    loop {
        let (chunk, bytes) = (columns[3].parse::<usize>().unwrap(), columns[4].as_bytes());
        chunks[chunk] = Some(base64_simd::STANDARD.decode_to_vec(bytes).unwrap());
        peer.send_to(format!("1,{id},,{chunk},").as_bytes(), engine.local_addr()).unwrap();
        if chunks.iter().all(Option::is_some) {
            break;
        }
        columns = recv_text(&peer).split(',').map(str::to_owned).collect();
    }
    futures_lite::future::block_on(delivery).unwrap();
    assert_eq!(chunks.into_iter().flatten().flatten().collect::<Vec<u8>>(), text);
}

/// The confirms that come back for one row from an unmarked sender.
fn confirm_of(engine: &Engine, row: &str) -> String {
    let socket = raw_socket();
    let to: SocketAddr = engine.local_addr();
    socket.send_to(row.as_bytes(), to).unwrap();
    recv_text(&socket)
}

#[test]
fn a_confirm_is_at_most_two_bytes_longer_than_its_row() {
    let engine = engine(DriverChoice::Auto).start().unwrap();
    let rows = [
        ",a,,,",
        ",,,,",
        "0,a,,,",
        ",a,1,0,",
        ",\"a\",,,",
        ",\"a,b\",,,",
        ",\"a\"\"b\",,,",
        ",a,3,1,",
        ",a,3,,",
        ",a,1,77777,",
        ",3f2a9c1e,,,",
        ",000000003f2a9c1e,,,aGk=",
        ",\"\r\n\",,,",
        ",\u{e9},,,",
        ",a,,\"x,y\",",
    ];
    for row in rows {
        let confirm = confirm_of(&engine, row);
        assert!(confirm.len() <= row.len() + 2, "{row:?} gave {confirm:?}");
    }
    let mut messages = Vec::new();
    engine.recv_bucket().blocking_get_batch(&mut messages, Duration::from_millis(1));
    assert!(!messages.is_empty());
}
