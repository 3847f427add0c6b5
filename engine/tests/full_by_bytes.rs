//! A receive bucket that is full by bytes, with many places left: confirms are withheld, nothing is lost, and what did not
//! fit arrives once there is room.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::large_stack_arrays, reason = "a test")]

mod kit;

use bytes::Bytes;
use kit::{Audit, LONG_GUARD, Outcomes, driver_works, engine, long_payload, raw_socket, recv_text, wait_for};
use std::net::UdpSocket;
use udp_plus::{DriverChoice, Engine, Outgoing, Wire};

/// A row of an original peer: `bytes` characters of chunk `index` of `length`.
fn row(id: u32, length: &str, index: &str, bytes: usize) -> String {
    let chunk = base64_simd::STANDARD.encode_to_string("x".repeat(bytes));
    format!(",{id:08x},{length},{index},{chunk},1764123456.25")
}

/// A peer that sends rows one by one and knows which confirm comes next.
struct Peer<'a> {
    socket: UdpSocket,
    engine: &'a Engine,
}

impl Peer<'_> {
    fn send(&self, row: &str) {
        self.socket.send_to(row.as_bytes(), self.engine.local_addr()).unwrap();
    }

    /// The next confirm is for this row: none came for those before it that still wait for theirs.
    fn confirmed(&self, id: u32, index: u32) {
        assert_eq!(recv_text(&self.socket), format!("1,{id:08x},,{index},"));
    }

    fn sizes_taken(&self, count: usize) -> Vec<usize> {
        let bucket = self.engine.recv_bucket();
        wait_for("messages", kit::GUARD, || bucket.len() >= count);
        (0..count).map(|_| bucket.try_get().unwrap().payload().len()).collect()
    }
}

fn each_row_is_confirmed_once_it_fits(driver: DriverChoice) {
    let engine = engine(driver).message_bytes_max(1_000).recv_bucket_bytes(1_000).start().unwrap();
    let peer = Peer { socket: raw_socket(), engine: &engine };
    for id in 1..=3 {
        peer.send(&row(id, "", "", 300));
        peer.confirmed(id, 0);
    }
    // 900 of 1,000 bytes are taken. One too many is passed over; what still fits is not held up by it.
    peer.send(&row(4, "", "", 101));
    peer.send(&row(5, "", "", 100));
    peer.confirmed(5, 0);
    // Full to the byte. Of a message in two chunks the first is confirmed; the last would make it whole.
    peer.send(&row(6, "2", "1", 250));
    peer.send(&row(6, "2", "0", 250));
    peer.confirmed(6, 1);
    peer.send(&row(7, "", "", 1));
    wait_for("refusals", kit::GUARD, || engine.stats().total.get("dropped_bucket_full") == 3);
    assert_eq!(peer.sizes_taken(4), [300, 300, 300, 100]);
    // The peer tries again, as it does for every row without a confirm.
    peer.send(&row(4, "", "", 101));
    peer.confirmed(4, 0);
    peer.send(&row(6, "2", "0", 250));
    peer.confirmed(6, 0);
    peer.send(&row(7, "", "", 1));
    peer.confirmed(7, 0);
    assert_eq!(peer.sizes_taken(3), [101, 500, 1]);
    assert_eq!(engine.stats().total.get("dropped_bucket_full"), 3);
    assert!(engine.recv_bucket().is_empty());
}

fn a_sender_waits_and_loses_nothing(driver: DriverChoice, wire: Wire) {
    const TOTAL: u64 = 40;
    const BYTES: usize = 10_000;
    const FITTING: usize = 6;
    let sink =
        engine(driver).wire(wire).message_bytes_max(1 << 16).recv_bucket_bytes(1 << 16).start().unwrap();
    let source = engine(driver).wire(wire).start().unwrap();
    let (audit, outcomes) = (Audit::new(TOTAL), Outcomes::new(TOTAL));
    let (send, recv) = (source.send_bucket(), sink.recv_bucket());
    let mut batch: Vec<Outgoing> = (0..TOTAL)
        .map(|seq| Outgoing::to(sink.local_addr(), Bytes::from(long_payload(seq, BYTES))).tag(seq))
        .collect();
    assert_eq!(send.put_batch(&mut batch) as u64, TOTAL);
    wait_for("a full bucket", kit::GUARD, || {
        recv.len() == FITTING && sink.stats().total.get("dropped_bucket_full") > 0
    });
    let mut ended = Vec::new();
    let mut note = || {
        send.outcome_batch(&mut ended);
        ended.drain(..).for_each(|(tag, outcome)| outcomes.note(tag, &outcome));
        outcomes.count()
    };
    wait_for("the outcomes of those that fitted", kit::GUARD, || note() == FITTING as u64);
    assert_eq!(recv.len(), FITTING);
    let mut messages = Vec::new();
    wait_for("everything", LONG_GUARD, || {
        let taken = recv.get_batch(&mut messages);
        assert!(taken <= FITTING, "{taken} messages of {BYTES} bytes at once");
        messages.drain(..).for_each(|message| audit.note(message.payload()));
        note() == TOTAL && audit.distinct() == TOTAL
    });
    outcomes.assert_all_delivered();
    audit.assert_exactly_once();
    assert!(recv.is_empty());
}

#[test]
fn each_row_is_confirmed_once_it_fits_uring() {
    if driver_works(DriverChoice::Uring) {
        each_row_is_confirmed_once_it_fits(DriverChoice::Uring);
    }
}

#[test]
fn each_row_is_confirmed_once_it_fits_mmsg() {
    each_row_is_confirmed_once_it_fits(DriverChoice::Mmsg);
}

#[test]
fn a_sender_waits_and_loses_nothing_uring() {
    if driver_works(DriverChoice::Uring) {
        a_sender_waits_and_loses_nothing(DriverChoice::Uring, Wire::Csv);
    }
}

#[test]
fn a_sender_waits_and_loses_nothing_mmsg() {
    a_sender_waits_and_loses_nothing(DriverChoice::Mmsg, Wire::Csv);
}

#[test]
fn a_sender_waits_and_loses_nothing_binary_uring() {
    if driver_works(DriverChoice::Uring) {
        a_sender_waits_and_loses_nothing(DriverChoice::Uring, Wire::Binary);
    }
}

#[test]
fn a_sender_waits_and_loses_nothing_binary_mmsg() {
    a_sender_waits_and_loses_nothing(DriverChoice::Mmsg, Wire::Binary);
}

/// Messages of one datagram, very many of them and small, into a bucket of few places.
#[test]
fn a_bucket_of_few_places_refuses_and_loses_nothing_binary() {
    const TOTAL: u64 = 20_000;
    for driver in [DriverChoice::Auto, DriverChoice::Mmsg] {
        let sink = engine(driver).wire(Wire::Binary).recv_bucket_messages(100).start().unwrap();
        let source = engine(driver).wire(Wire::Binary).start().unwrap();
        let (audit, outcomes) = (Audit::new(TOTAL), Outcomes::new(TOTAL));
        let (send, recv) = (source.send_bucket(), sink.recv_bucket());
        let mut batch: Vec<Outgoing> = (0..TOTAL)
            .map(|seq| Outgoing::to(sink.local_addr(), Bytes::from(long_payload(seq, 64))).tag(seq))
            .collect();
        assert_eq!(send.put_batch(&mut batch) as u64, TOTAL);
        wait_for("a full bucket", kit::GUARD, || {
            recv.len() == 100 && sink.stats().total.get("dropped_bucket_full") > 0
        });
        let (mut messages, mut ended) = (Vec::new(), Vec::new());
        wait_for("everything", LONG_GUARD, || {
            let taken = recv.get_batch(&mut messages);
            assert!(taken <= 100, "{taken} messages at once");
            messages.drain(..).for_each(|message| audit.note(message.payload()));
            send.outcome_batch(&mut ended);
            ended.drain(..).for_each(|(tag, outcome)| outcomes.note(tag, &outcome));
            outcomes.count() == TOTAL && audit.distinct() == TOTAL
        });
        outcomes.assert_all_delivered();
        audit.assert_exactly_once();
    }
}
