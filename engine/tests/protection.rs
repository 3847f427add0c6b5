//! Sealed datagrams on real sockets: messages pass, and nobody without the key learns, changes or adds anything.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

#[path = "../examples/own_protection.rs"]
#[allow(dead_code, reason = "an example, whose cipher is tested here")]
mod own_protection;
mod support;

use own_protection::PreShared;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::tap::{self, Passed, Tap};
use support::{LONG_HANG, each_driver, settled, small, start_at, turned, until, until_within};
use udp_plus::protection::{
    Direction, FlowProtection, HelloHead, PacketHead, Protection, SALT_BYTES, TAG_BYTES_MAX, Unauthentic,
};
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::{
    Builder, DriverChoice, DropReason, Engine, FailureCause, Outgoing, Reached, StartError, Wire,
};

each_driver! {
    messages_pass_both_ways_and_nothing_leaves_plain,
    whatever_is_altered_is_dropped_and_counted,
    what_is_repeated_is_dropped_and_counted,
    another_key_or_none_ends_in_an_outcome_and_harms_nobody,
    no_number_is_sealed_twice_under_one_key,
    a_peer_that_is_started_anew,
    unsolicited_datagrams_stay_small,
}

const TAG_BYTES: usize = 16;

fn plain(driver: DriverChoice) -> Builder {
    small(support::Setup { driver, wire: Wire::Binary })
}

fn key() -> PreShared {
    PreShared::new(b"the key of these tests")
}

fn sealed(driver: DriverChoice) -> Builder {
    plain(driver).protection(key())
}

/// What its number says, between the words that must not be seen.
fn payload(tag: u64, bytes: usize) -> Vec<u8> {
    let mut payload = tag.to_le_bytes().to_vec();
    while payload.len() < bytes.max(8) {
        payload.extend_from_slice(b"SECRET");
    }
    payload.truncate(bytes.max(8));
    payload
}

/// Sends messages of these sizes all at once; each must be delivered, and come once and whole.
fn deliver(sender: &Engine, sink: &Engine, to: SocketAddr, sizes: &[usize]) {
    let (send, received) = (sender.send_bucket(), sink.recv_bucket());
    let outgoing =
        |(tag, &bytes): (usize, &usize)| Outgoing::to(to, payload(tag as u64, bytes)).tag(tag as u64);
    let mut batch: Vec<Outgoing> = sizes.iter().enumerate().map(outgoing).collect();
    let (mut outcomes, mut came) = (Vec::new(), BTreeMap::<u64, u32>::new());
    until_within("all messages and their outcomes", LONG_HANG, || {
        send.put_batch(&mut batch);
        send.outcome_batch(&mut outcomes);
        while let Some(message) = received.try_get() {
            let tag = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
            assert_eq!(message.payload()[..], payload(tag, sizes[tag as usize]));
            *came.entry(tag).or_default() += 1;
        }
        outcomes.len() == sizes.len() && came.len() == sizes.len()
    });
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
    assert!(came.values().all(|&times| times == 1));
}

fn dropped(engine: &Engine, reason: DropReason) -> u64 {
    engine.stats().total.dropped(reason)
}

fn is_sealed(datagram: &[u8]) -> bool {
    datagram[0] == 0xD2 && datagram[1] & 0x02 != 0 && datagram[24..28] == [0; 4]
}

fn assert_sealed(passed: &[Passed]) {
    for Passed { bytes, .. } in passed {
        assert!(is_sealed(bytes), "plain: {bytes:02x?}");
        assert!(!tap::shows(bytes, b"SECRETSECRET"), "plain: {bytes:02x?}");
        assert!(bytes.len() <= 1_472);
    }
}

fn messages_pass_both_ways_and_nothing_leaves_plain(driver: DriverChoice) {
    // Keys change on the way; not within what credit allows to be under way.
    let rekeyed = || plain(driver).protection(key().rekey_after(600));
    let (a, b) = (rekeyed().start().unwrap(), rekeyed().start().unwrap());
    let tap = Tap::start(b.local_addr());
    let sizes: Vec<usize> = (0..200).map(|n| n * 37 % 3_000).chain([200_000, 1_000_000, 1_000_000]).collect();
    deliver(&a, &b, tap.address(), &sizes);
    // The other way, over the flow that is there: to the address the messages came from.
    let (send, received) = (a.send_bucket(), b.recv_bucket());
    let delivery = send.try_put(Outgoing::to(tap.address(), payload(0, 10))).unwrap();
    let message = support::next(&received);
    delivery.wait().unwrap();
    deliver(&b, &a, message.sender(), &sizes);
    let passed = tap.passed();
    assert_sealed(&passed);
    for to_server in [true, false] {
        let phases: BTreeSet<u8> = passed
            .iter()
            .filter(|passed| passed.to_server == to_server)
            .map(|passed| passed.bytes[1])
            .collect();
        assert_eq!(phases, [0x02, 0x06].into(), "both phases were used");
        assert!(passed.iter().any(|passed| passed.to_server == to_server && passed.bytes.len() == 1_472));
    }
    // A handshake that was answered late is answered twice, and only the first answer opens (R-PROT-4).
    let hellos = passed.iter().filter(|one| one.to_server && one.bytes[16..24] == [0; 8]).count() as u64;
    for engine in [&a, &b] {
        // Looked at once: its parts are of one moment.
        let counters = settled(engine);
        let unauthentic = counters.dropped(DropReason::BinaryUnauthentic);
        assert!(unauthentic < hellos, "{unauthentic} of {hellos} handshakes");
        // And a HELLO that was said twice may come when its flow is there already (R-FLOW-3).
        let unproven = counters.dropped(DropReason::BinaryUnproven);
        assert!(unproven < hellos, "{unproven} of {hellos} handshakes");
        // What is sent again because an acknowledgement was late is no fault.
        let duplicates =
            counters.dropped(DropReason::BinaryDuplicate) + counters.dropped(DropReason::Duplicate);
        assert_eq!(counters.dropped_total(), duplicates + unauthentic + unproven, "{counters:?}");
    }
    drop((a, b));
    assert_sealed(&tap.passed());
}

/// A flow, and the datagrams it was made of.
fn flow(driver: DriverChoice) -> (Engine, Engine, Tap) {
    let (sender, sink) = (sealed(driver).start().unwrap(), sealed(driver).start().unwrap());
    let tap = Tap::start(sink.local_addr());
    deliver(&sender, &sink, tap.address(), &[10, 1_400, 20_000]);
    (sender, sink, tap)
}

/// Sends datagrams, and waits until each was counted.
fn send_all(tap: &Tap, sink: &Engine, datagrams: &[Vec<u8>]) {
    let mut before = settled(sink).datagrams_received;
    for some in datagrams.chunks(64) {
        for datagram in some {
            tap.send_to_server(datagram);
        }
        before += some.len() as u64;
        until("the datagrams are counted", || sink.stats().total.datagrams_received >= before);
    }
}

fn whatever_is_altered_is_dropped_and_counted(driver: DriverChoice) {
    let (sender, sink, tap) = flow(driver);
    let passed = tap.passed();
    let to_server: Vec<&Vec<u8>> = passed.iter().filter(|one| one.to_server).map(|one| &one.bytes).collect();
    assert!(to_server[0][16..24] == [0; 8], "a HELLO");
    let before = settled(&sink);
    let mut expected = BTreeMap::<DropReason, u64>::new();
    let mut altered = Vec::new();
    // A HELLO, the first datagram of the flow, and one with messages.
    for datagram in [to_server[0], to_server[1], to_server.iter().find(|one| one.len() > 1_000).unwrap()] {
        for at in 0..datagram.len() {
            let bit = 1 << (at % 8);
            let mut copy = datagram.clone();
            copy[at] ^= bit;
            let reason = match at {
                0 => DropReason::BinaryVersion,
                // PROTECTED off; `at` 1 flips it.
                1 => DropReason::Unprotected,
                3 => DropReason::BinaryFlags,
                16..24 => DropReason::BinaryUnknownTag,
                _ => DropReason::BinaryUnauthentic,
            };
            *expected.entry(reason).or_default() += 1;
            altered.push(copy);
        }
        // The other flags: unknown ones, the other key, a time that is not there.
        for (flag, reason) in [
            (0x08, DropReason::BinaryFlags),
            (0x04, DropReason::BinaryUnauthentic),
            (0x01, DropReason::BinaryUnauthentic),
        ] {
            let mut copy = datagram.clone();
            copy[1] ^= flag;
            altered.push(copy);
            *expected.entry(reason).or_default() += 1;
        }
        // Cut, and longer.
        for bytes in [0, 27] {
            altered.push(datagram[..bytes].to_vec());
        }
        *expected.entry(DropReason::BinaryTruncated).or_default() += 1;
        *expected.entry(DropReason::Unprotected).or_default() += 1; // Nothing at all is no datagram of v2.
        for bytes in [76, datagram.len() - 1] {
            altered.push(datagram[..bytes].to_vec());
        }
        altered.push([&datagram[..], &[0]].concat());
        *expected.entry(DropReason::BinaryUnauthentic).or_default() += 3;
        // Without a tag.
        altered.push(datagram[..28].to_vec());
        *expected.entry(DropReason::BinaryTruncated).or_default() += 1;
    }
    send_all(&tap, &sink, &altered);
    let after = sink.stats().total;
    for (&reason, &count) in &expected {
        assert_eq!(after.dropped(reason) - before.dropped(reason), count, "{reason:?}");
    }
    assert_eq!(after.messages_received, before.messages_received);
    // All of it went for nothing.
    deliver(&sender, &sink, tap.address(), &[10, 20_000]);
}

fn what_is_repeated_is_dropped_and_counted(driver: DriverChoice) {
    let (sender, sink, tap) = flow(driver);
    let before = settled(&sink);
    let (mut hellos, mut others) = (Vec::new(), Vec::new());
    for Passed { bytes, .. } in tap.passed().into_iter().filter(|one| one.to_server) {
        if bytes[16..24] == [0; 8] { hellos.push(bytes) } else { others.push(bytes) }
    }
    assert!(!hellos.is_empty() && others.len() > 10);
    send_all(&tap, &sink, &others);
    let after = sink.stats().total;
    let duplicates = |counters: &udp_plus::Counters| counters.dropped(DropReason::BinaryDuplicate);
    assert_eq!(duplicates(&after) - duplicates(&before), others.len() as u64);
    // A HELLO again: it is answered, and nothing follows.
    send_all(&tap, &sink, &hellos);
    // Whoever gets its own datagrams back drops them, too: its HELLO would have it talk to itself.
    let unproven = settled(&sender).dropped(DropReason::BinaryUnproven);
    tap.send_to_client(&hellos[0]);
    until("its own HELLO", || dropped(&sender, DropReason::BinaryUnproven) == unproven + 1);
    let unknown = dropped(&sender, DropReason::BinaryUnknownTag);
    tap.send_to_client(&others[0]);
    until("its own datagram", || dropped(&sender, DropReason::BinaryUnknownTag) == unknown + 1);
    // What one start received does not open at the next one.
    let place = sink.local_addr();
    assert_eq!(sink.stats().total.messages_received, 3);
    drop(sink);
    let sink = start_at(place, || sealed(driver));
    send_all(&tap, &sink, &others);
    assert_eq!(dropped(&sink, DropReason::BinaryUnknownTag), others.len() as u64);
    assert_eq!(sink.stats().total.messages_received, 0);
    assert_eq!(sink.stats().total.datagrams_sent, 0, "nobody who may be anybody is answered");
}

fn another_key_or_none_ends_in_an_outcome_and_harms_nobody(driver: DriverChoice) {
    let sink = sealed(driver).start().unwrap();
    let to = sink.local_addr();
    let impatient = |builder: Builder| builder.try_span_max(Duration::from_millis(300)).start().unwrap();
    let mut senders = vec![
        (impatient(plain(driver).protection(PreShared::new(b"another"))), DropReason::BinaryUnauthentic),
        (impatient(plain(driver)), DropReason::Unprotected),
        (impatient(small(driver)), DropReason::Unprotected),
        (impatient(small(support::Setup { driver, wire: Wire::Auto })), DropReason::Unprotected),
    ];
    for (sender, reason) in &senders {
        let before = dropped(&sink, *reason);
        for text in ["short".to_owned(), "long ".repeat(2_000)] {
            let error =
                sender.send_bucket().blocking_put(Outgoing::to(to, text)).unwrap().wait().unwrap_err();
            assert_eq!(error.cause, FailureCause::TimedOut, "{error}");
        }
        until("they were heard and dropped", || dropped(&sink, *reason) > before);
    }
    // The other way: with the key to who has none.
    let bare = plain(driver).start().unwrap();
    let sender = impatient(sealed(driver));
    let error =
        sender.send_bucket().blocking_put(Outgoing::to(bare.local_addr(), "x")).unwrap().wait().unwrap_err();
    assert_eq!((error.cause, error.reached), (FailureCause::TimedOut, Reached::Never));
    until("it says why", || dropped(&bare, DropReason::BinaryProtected) > 0);
    let counters = settled(&sink);
    assert_eq!((counters.messages_received, counters.datagrams_sent), (0, 0));
    // And who has the key is served meanwhile.
    let friend = sealed(driver).start().unwrap();
    let (strangers, _) = senders.split_at_mut(2);
    for (stranger, _) in strangers {
        let _ = stranger.send_bucket().try_put(Outgoing::to(to, "x"));
    }
    deliver(&friend, &sink, to, &[10, 20_000]);
}

/// Seals with another one, and writes down which numbers were sealed with which key.
#[derive(Clone, Debug)]
struct Watched {
    inner: PreShared,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    /// What keys are made of.
    salts: BTreeSet<[u8; SALT_BYTES]>,
    directions: BTreeSet<Vec<u8>>,
    /// (direction, number)
    sealed: BTreeSet<(Vec<u8>, u64)>,
    twice: u64,
}

#[derive(Debug)]
struct WatchedFlow {
    inner: Box<dyn FlowProtection>,
    direction: Vec<u8>,
    book: Arc<Mutex<Book>>,
}

impl Protection for Watched {
    fn tag_bytes(&self) -> usize {
        self.inner.tag_bytes()
    }
    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        let mut book = self.book.lock().unwrap();
        book.twice += u64::from(!book.salts.insert(*head.salt));
        self.inner.seal_hello(head, body);
    }
    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        self.inner.open_hello(head, body)
    }
    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let Direction { sender, receiver, route, from_opener, .. } = direction;
        let name = format!("{:?}", (sender, receiver, route, from_opener)).into_bytes();
        self.book.lock().unwrap().directions.insert(name.clone());
        let inner = self.inner.flow(direction);
        Box::new(WatchedFlow { inner, direction: name, book: Arc::clone(&self.book) })
    }
}

impl FlowProtection for WatchedFlow {
    fn key_phase(&mut self, packet_number: u64) -> bool {
        self.inner.key_phase(packet_number)
    }
    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        let mut book = self.book.lock().unwrap();
        book.twice += u64::from(!book.sealed.insert((self.direction.clone(), head.packet_number)));
        assert_eq!(
            head.associated[8..16],
            head.packet_number.to_le_bytes(),
            "the whole header, as it leaves"
        );
        self.inner.seal(head, body);
    }
    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        self.inner.open(head, body)
    }
}

fn no_number_is_sealed_twice_under_one_key(driver: DriverChoice) {
    // One book for all: both ends of a direction must have the same name for it, and no other one.
    let book = Arc::<Mutex<Book>>::default();
    let watched = || plain(driver).shards(2).protection(Watched { inner: key(), book: Arc::clone(&book) });
    let (a, b, sink) = (watched().start().unwrap(), watched().start().unwrap(), watched().start().unwrap());
    let bad = RelayOptions {
        seed: 5,
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        ..RelayOptions::clean(sink.local_addr())
    };
    let relay = Relay::start(bad).unwrap();
    let sizes: Vec<usize> = (0..300).map(|n| n * 61 % 2_000).chain([100_000; 4]).collect();
    deliver(&a, &sink, relay.address(), &sizes);
    deliver(&b, &sink, sink.local_addr(), &sizes);
    until("what was lost went again", || a.stats().total.rows_retransmitted > 0);
    let book = book.lock().unwrap();
    assert_eq!(book.twice, 0);
    assert!(book.salts.len() >= 4 && book.sealed.len() > 300);
    // Two directions a flow, each named alike by both ends: a name more would be a key that opens nothing.
    let used: BTreeSet<&Vec<u8>> = book.sealed.iter().map(|(direction, _)| direction).collect();
    assert!(used.len() >= 4, "two flows, both directions: {}", used.len());
    drop(book);
    until("the network repeats", || dropped(&sink, DropReason::BinaryDuplicate) > 0);
}

fn a_peer_that_is_started_anew(driver: DriverChoice) {
    let sender = sealed(driver).try_span_max(Duration::from_millis(1_000)).start().unwrap();
    let sink = sealed(driver).start().unwrap();
    let place = sink.local_addr();
    deliver(&sender, &sink, place, &[10, 20_000]);
    drop(sink);
    let sink = start_at(place, || sealed(driver));
    // It knows no flow of the old start, and says so to nobody: what was sent on it ends, and a new one begins.
    let first = sender.send_bucket().blocking_put(Outgoing::to(place, "lost")).unwrap().wait();
    if let Err(error) = first {
        assert!(matches!(error.cause, FailureCause::TimedOut | FailureCause::Refused(_)), "{error}");
    }
    until("a new flow", || {
        let again = sender.send_bucket().blocking_put(Outgoing::to(place, payload(7, 100))).unwrap().wait();
        again.is_ok()
    });
    let message = support::next(&sink.recv_bucket());
    assert!(message.payload()[..] == payload(7, 100) || message.payload()[..] == *b"lost");
    turned(&sink);
    assert_eq!(dropped(&sink, DropReason::BinaryUnauthentic), 0);
}

fn unsolicited_datagrams_stay_small(driver: DriverChoice) {
    let (sender, sink, tap) = flow(driver);
    // The credit lapses, and what is put then may take the least a socket charges for: 190 bytes, tag included (R-CREDIT-4).
    std::thread::sleep(Duration::from_millis(300));
    let before = tap.passed().len();
    deliver(&sender, &sink, tap.address(), &[190 - 28 - 8 - TAG_BYTES]);
    let passed = tap.passed();
    let first = passed[before..].iter().find(|one| one.to_server).unwrap();
    assert_eq!(first.bytes.len(), 190);
}

#[test]
fn it_is_for_the_binary_wire_and_leaves_room() {
    let fault = |builder: Builder| match builder.start() {
        Err(StartError::Config(error)) => Some(error.option),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    let start = |wire: Wire| small(wire).protection(key());
    assert_eq!(fault(start(Wire::Csv)), Some("protection"));
    assert_eq!(fault(start(Wire::Auto)), Some("protection"));
    assert_eq!(fault(start(Wire::Binary)), None);
    let rule = |wire: Wire| start(Wire::Binary).peer_wire(std::net::Ipv4Addr::LOCALHOST, wire);
    assert_eq!(fault(rule(Wire::Binary)), None);
    for wire in [Wire::Csv, Wire::Auto] {
        assert_eq!(fault(rule(wire)), Some("protection"));
        let text = rule(wire).start().unwrap_err().to_string();
        assert!(text.contains(&format!("peer_wires has 127.0.0.1 as {wire:?}")), "{text}");
    }
    assert_eq!(fault(start(Wire::Binary).datagram_bytes_max(Some(527))), Some("protection"));
    assert_eq!(fault(start(Wire::Binary).datagram_bytes_max(Some(528))), None);

    #[derive(Debug)]
    struct Long(usize);
    impl Protection for Long {
        fn tag_bytes(&self) -> usize {
            self.0
        }
        fn seal_hello(&self, _: &HelloHead<'_>, _: &mut [u8]) {}
        fn open_hello(&self, _: &HelloHead<'_>, _: &mut [u8]) -> Result<(), Unauthentic> {
            Err(Unauthentic)
        }
        fn flow(&self, _: &Direction) -> Box<dyn FlowProtection> {
            panic!("no handshake was opened")
        }
    }
    assert_eq!(fault(small(Wire::Binary).protection(Long(TAG_BYTES_MAX))), None);
    assert_eq!(fault(small(Wire::Binary).protection(Long(TAG_BYTES_MAX + 1))), Some("protection"));
}
