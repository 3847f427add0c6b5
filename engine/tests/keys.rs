//! Pre-shared keys from a file, on real sockets: who has them is reached, nobody else is, and they change without loss.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use support::tap::{self, Passed, Tap};
use support::{LONG_HANG, binary, each_driver, settled, start_at, turned, until, until_within};
use udp_plus::protection::{Cipher, PreSharedKeys};
use udp_plus::sim::relay::{Relay, RelayOptions};
use udp_plus::{
    Builder, DriverChoice, DropReason, Engine, FailureCause, Outgoing, Reached, StartError, Wire,
};

each_driver! {
    messages_pass_both_ways_under_either_cipher,
    who_has_no_right_key_ends_in_an_outcome_and_is_not_heard,
    keys_change_and_no_message_is_lost,
    keys_change_under_load_and_no_message_is_lost,
    a_key_that_is_taken_away_ends_its_flows,
    what_waits_for_an_answer_goes_over_to_the_new_key,
    what_was_recorded_is_nothing_to_the_next_start,
    what_is_repeated_is_not_taken_twice,
    a_direction_goes_on_to_its_next_key,
    peers_have_keys_of_their_own,
    a_hub_answers_clients_with_keys_of_their_own,
}

const K1: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0102132435465768798a9bacbdcedfe0f";
const K2: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// A key file, removed when it is dropped.
struct Keys(PathBuf);

impl Keys {
    fn new(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("udp-plus-keys-{}-{number}", std::process::id()));
        let keys = Self(path);
        keys.write(text);
        keys
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
        self.set_mode(0o600);
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).unwrap();
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn with(driver: DriverChoice, keys: &Keys) -> Builder {
    binary(driver).key_file(&keys.0)
}

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

/// Nobody is reached within a short time.
fn is_not_reached(sender: &Engine, to: SocketAddr) {
    let error = sender.send_bucket().blocking_put(Outgoing::to(to, "x")).unwrap().wait().unwrap_err();
    assert_eq!((error.cause, error.reached), (FailureCause::TimedOut, Reached::Never), "{error}");
}

fn key_id(datagram: &[u8]) -> u32 {
    u32::from_le_bytes(datagram[24..28].try_into().unwrap())
}

/// Key ids of the HELLOs to the server; nothing that passed is plain.
fn key_ids(passed: &[Passed]) -> Vec<u32> {
    let mut ids = Vec::new();
    for Passed { bytes, to_server } in passed {
        assert!(bytes[0] == 0xD2 && bytes[1] & 0x02 != 0, "plain: {bytes:02x?}");
        assert!(!tap::shows(bytes, b"SECRETSECRET"), "plain: {bytes:02x?}");
        if *to_server && bytes[16..24] == [0; 8] {
            ids.push(key_id(bytes));
        }
    }
    ids
}

fn messages_pass_both_ways_under_either_cipher(driver: DriverChoice) {
    for cipher in Cipher::ALL {
        let keys = Keys::new(&format!("# two keys\n\n  7 {K1} # the one that seals\n9 {K2}\n"));
        let start = || with(driver, &keys).cipher(cipher).start().unwrap();
        let (a, b) = (start(), start());
        let tap = Tap::start(b.local_addr());
        let sizes: Vec<usize> = (0..100).map(|n| n * 37 % 3_000).chain([200_000, 500_000]).collect();
        deliver(&a, &b, tap.address(), &sizes);
        // The other way, over the flow that is there: to the address the messages came from.
        let delivery = a.send_bucket().try_put(Outgoing::to(tap.address(), payload(0, 10))).unwrap();
        let message = support::next(&b.recv_bucket());
        delivery.wait().unwrap();
        deliver(&b, &a, message.sender(), &sizes);
        let passed = tap.passed();
        let ids = key_ids(&passed);
        assert!(!ids.is_empty() && ids.iter().all(|&id| id == 7), "{ids:?}");
        // An answer says the same, and no other datagram says any.
        let mut others =
            passed.iter().filter(|one| one.bytes[16..24] != [0; 8]).map(|one| key_id(&one.bytes));
        assert_eq!(others.clone().filter(|&id| id != 0).count(), ids.len());
        assert!(others.all(|id| id == 0 || id == 7));
    }
}

fn who_has_no_right_key_ends_in_an_outcome_and_is_not_heard(driver: DriverChoice) {
    let keys = Keys::new(&format!("1 {K1}\n"));
    let sink = with(driver, &keys).start().unwrap();
    let to = sink.local_addr();
    let impatient = |builder: Builder| builder.try_span_max(Duration::from_millis(300)).start().unwrap();
    let another_key = Keys::new(&format!("1 {K2}\n"));
    let another_id = Keys::new(&format!("2 {K1}\n"));
    for (name, keys, cipher) in [
        ("another key", &another_key, Cipher::Aes256Gcm),
        ("another id", &another_id, Cipher::Aes256Gcm),
        ("another cipher", &keys, Cipher::ChaCha20Poly1305),
    ] {
        let before = dropped(&sink, DropReason::BinaryUnauthentic);
        let stranger = impatient(with(driver, keys).cipher(cipher));
        is_not_reached(&stranger, to);
        until(name, || dropped(&sink, DropReason::BinaryUnauthentic) > before);
        // The other way round.
        is_not_reached(
            &impatient(with(driver, &self::Keys::new(&format!("1 {K1}\n")))),
            stranger.local_addr(),
        );
        until(name, || dropped(&stranger, DropReason::BinaryUnauthentic) > 0);
    }
    // No key at all, both ways.
    let bare = impatient(binary(driver));
    is_not_reached(&bare, to);
    until("it was heard and dropped", || dropped(&sink, DropReason::Unprotected) > 0);
    is_not_reached(&impatient(with(driver, &keys)), bare.local_addr());
    until("it says why", || dropped(&bare, DropReason::BinaryProtected) > 0);
    let sent = settled(&sink);
    assert_eq!((sent.messages_received, sent.datagrams_sent), (0, 0));
    // And who has the key is served.
    deliver(&with(driver, &keys).start().unwrap(), &sink, to, &[10, 20_000]);
}

/// From one key to another, step by step: the first side's file, the second one's, and the key that who is new seals with.
fn steps() -> [(String, String, u32); 5] {
    let [one, both, turned, two] =
        [format!("1 {K1}"), format!("1 {K1}\n2 {K2}"), format!("2 {K2}\n1 {K1}"), format!("2 {K2}")];
    [(&both, &one, 1), (&both, &both, 1), (&turned, &both, 2), (&turned, &turned, 2), (&two, &two, 2)]
        .map(|(of_a, of_b, sealed_with)| (of_a.clone(), of_b.clone(), sealed_with))
}

fn keys_change_and_no_message_is_lost(driver: DriverChoice) {
    let one = format!("1 {K1}");
    let (of_a, of_b) = (Keys::new(&one), Keys::new(&one));
    let (a, b) = (with(driver, &of_a).start().unwrap(), with(driver, &of_b).start().unwrap());
    let tap = Tap::start(b.local_addr());
    let sizes: Vec<usize> = (0..50).map(|n| n * 61 % 3_000).chain([100_000]).collect();
    deliver(&a, &b, tap.address(), &sizes);
    // Step by step, first the one and then the other; after each of them messages between the two go on, and so does who is new.
    for (text_of_a, text_of_b, sealed_with) in &steps() {
        for (engine, file, text) in [(&a, &of_a, text_of_a), (&b, &of_b, text_of_b)] {
            file.write(text);
            engine.reload_keys().unwrap();
        }
        deliver(&a, &b, tap.address(), &sizes);
        let tap = Tap::start(b.local_addr());
        let fresh = with(driver, &of_a).start().unwrap();
        deliver(&fresh, &b, tap.address(), &sizes);
        let ids = key_ids(&tap.passed());
        assert!(!ids.is_empty() && ids.iter().all(|id| id == sealed_with), "{ids:?}, {sealed_with}");
    }
    let mut ids = key_ids(&tap.passed());
    ids.dedup();
    assert_eq!(ids, [1, 2], "it went over to another flow once");
    // The old key is worth nothing now.
    let unauthentic = settled(&b).dropped(DropReason::BinaryUnauthentic);
    let late = with(driver, &Keys::new(&one)).try_span_max(Duration::from_millis(300)).start().unwrap();
    is_not_reached(&late, b.local_addr());
    until("it was heard and dropped", || dropped(&b, DropReason::BinaryUnauthentic) > unauthentic);
    // A file that is none changes nothing, whatever is wrong with it.
    for text in ["", "nonsense", "2 abc"] {
        of_b.write(text);
        assert!(b.reload_keys().unwrap_err().to_string().contains(&of_b.0.display().to_string()));
    }
    of_b.write(&one);
    of_b.set_mode(0o644);
    assert!(b.reload_keys().unwrap_err().to_string().contains("chmod 600"));
    deliver(&with(driver, &of_a).start().unwrap(), &b, b.local_addr(), &sizes);
    assert!(binary(driver).start().unwrap().reload_keys().is_err(), "without a file");
}

/// As above, while messages are under way all the time, on a path that loses, doubles and reorders datagrams.
fn keys_change_under_load_and_no_message_is_lost(driver: DriverChoice) {
    let [of_a, of_b] = [(); 2].map(|()| Keys::new(&format!("1 {K1}")));
    let (a, b) = (with(driver, &of_a).start().unwrap(), with(driver, &of_b).start().unwrap());
    let tap = Tap::start(b.local_addr());
    let clean = RelayOptions::clean(tap.address());
    let relay = Relay::start(RelayOptions { loss: 0.05, duplicate: 0.02, reorder: 0.02, ..clean }).unwrap();
    let (ended, stops) = (AtomicU64::new(0), AtomicBool::new(false));
    let load = || {
        let bytes = |tag: u64| if tag % 50 == 49 { 60_000 } else { tag as usize * 61 % 3_000 };
        let (send, received) = (a.send_bucket(), b.recv_bucket());
        let (mut put, mut batch, mut outcomes) = (0, Vec::new(), Vec::new());
        let mut came = BTreeMap::<u64, u32>::new();
        until_within("all messages and their outcomes", LONG_HANG, || {
            while !stops.load(Ordering::Relaxed) && put < outcomes.len() as u64 + 64 {
                batch.push(Outgoing::to(relay.address(), payload(put, bytes(put))).tag(put));
                put += 1;
            }
            send.put_batch(&mut batch);
            send.outcome_batch(&mut outcomes);
            ended.store(outcomes.len() as u64, Ordering::Relaxed);
            while let Some(message) = received.try_get() {
                let tag = u64::from_le_bytes(message.payload()[..8].try_into().unwrap());
                assert_eq!(message.payload()[..], payload(tag, bytes(tag)));
                *came.entry(tag).or_default() += 1;
            }
            let all = (outcomes.len() as u64, came.len() as u64) == (put, put);
            all && stops.load(Ordering::Relaxed)
        });
        outcomes.retain(|(_, outcome)| outcome.is_err());
        assert!(outcomes.is_empty(), "{outcomes:?}");
        assert!(came.values().all(|&times| times == 1));
    };
    std::thread::scope(|scope| {
        let load = scope.spawn(load);
        let goes_on = |count| {
            let before = ended.load(Ordering::Relaxed);
            until_within("messages go on", LONG_HANG, || ended.load(Ordering::Relaxed) >= before + count);
        };
        goes_on(300);
        for (text_of_a, text_of_b, _) in &steps() {
            for (engine, file, text) in [(&a, &of_a, text_of_a), (&b, &of_b, text_of_b)] {
                file.write(text);
                engine.reload_keys().unwrap();
                goes_on(300);
            }
        }
        stops.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    let ids = key_ids(&tap.passed());
    assert_eq!((ids.first(), ids.last()), (Some(&1), Some(&2)), "{ids:?}");
    let log = relay.stop();
    assert!(log.to_server.dropped > 0 && log.to_client.dropped > 0 && log.to_server.duplicated > 0);
}

/// One side takes a key away on which messages are under way: nothing more is taken under it, at once.
fn a_key_that_is_taken_away_ends_its_flows(driver: DriverChoice) {
    let (one, two) = (format!("1 {K1}"), format!("2 {K2}"));
    let (of_a, of_b) = (Keys::new(&one), Keys::new(&one));
    let start = |keys: &Keys| with(driver, keys).try_span_max(Duration::from_secs(2)).start().unwrap();
    let (a, b) = (start(&of_a), start(&of_b));
    let tap = Tap::start(b.local_addr());
    deliver(&a, &b, tap.address(), &[10, 20_000]);
    of_b.write(&two);
    b.reload_keys().unwrap();
    turned(&b);
    let taken = b.stats().total.messages_received;
    let delivery = a.send_bucket().try_put(Outgoing::to(tap.address(), payload(0, 10))).unwrap();
    assert_eq!(delivery.wait().unwrap_err().cause, FailureCause::TimedOut);
    assert_eq!(settled(&b).messages_received, taken);
    of_a.write(&two);
    a.reload_keys().unwrap();
    deliver(&a, &b, tap.address(), &[10, 20_000]);
}

/// Its key is gone from its own file before the other side was there.
fn what_waits_for_an_answer_goes_over_to_the_new_key(driver: DriverChoice) {
    let keys = Keys::new(&format!("1 {K1}"));
    let sender = with(driver, &keys).start().unwrap();
    // Somebody who listens and does not answer.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let place = silent.local_addr().unwrap();
    let delivery = sender.send_bucket().try_put(Outgoing::to(place, payload(0, 5_000))).unwrap();
    let mut first = [0; 2_000];
    silent.recv_from(&mut first).unwrap();
    assert_eq!(key_id(&first), 1);
    keys.write(&format!("2 {K2}"));
    sender.reload_keys().unwrap();
    drop(silent);
    let sink = start_at(place, || with(driver, &keys));
    delivery.wait().unwrap();
    assert_eq!(support::next(&sink.recv_bucket()).payload()[..], payload(0, 5_000));
}

/// Sends what a tap saw from an address of its own, and waits until it was counted.
fn replay(sink: &Engine, datagrams: &[Vec<u8>]) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut before = settled(sink).datagrams_received;
    for some in datagrams.chunks(32) {
        for datagram in some {
            socket.send_to(datagram, sink.local_addr()).unwrap();
        }
        before += some.len() as u64;
        until("the datagrams are counted", || sink.stats().total.datagrams_received >= before);
    }
}

fn to_server(tap: &Tap) -> Vec<Vec<u8>> {
    tap.passed().into_iter().filter(|one| one.to_server).map(|one| one.bytes).collect()
}

fn what_was_recorded_is_nothing_to_the_next_start(driver: DriverChoice) {
    let keys = Keys::new(&format!("1 {K1}"));
    let (sender, sink) = (with(driver, &keys).start().unwrap(), with(driver, &keys).start().unwrap());
    let tap = Tap::start(sink.local_addr());
    deliver(&sender, &sink, tap.address(), &[10, 1_400, 20_000]);
    let (recorded, place) = (to_server(&tap), sink.local_addr());
    until("they are counted", || sink.stats().total.messages_received == 3);
    // What the sender says last would come to the next start.
    tap.cut_client();
    drop((sender, sink));
    let sink = start_at(place, || with(driver, &keys));
    // Two times, in the order they came and backwards; from an address that the new start has not seen, and through the tap.
    replay(&sink, &recorded);
    replay(&sink, &recorded.iter().rev().cloned().collect::<Vec<_>>());
    let before = settled(&sink).datagrams_received;
    for (seen, datagram) in (before + 1..).zip(&recorded) {
        tap.send_to_server(datagram);
        until("it is counted", || sink.stats().total.datagrams_received >= seen);
    }
    let hellos = recorded.iter().filter(|datagram| datagram[16..24] == [0; 8]).count() as u64;
    let total = sink.stats().total;
    assert_eq!(total.messages_received, 0);
    assert_eq!(total.dropped(DropReason::BinaryUnknownTag), 3 * (recorded.len() as u64 - hellos));
    // A HELLO is answered, for it proves the key: with as many bytes as it had, and that is all.
    assert!(total.datagrams_sent <= 3 * hellos, "{} for {hellos} HELLOs", total.datagrams_sent);
    // Under a tag of the new start, too, it does not open.
    let friend = with(driver, &keys).start().unwrap();
    let tap = Tap::start(place);
    deliver(&friend, &sink, tap.address(), &[10]);
    let tag = to_server(&tap).iter().find(|one| one[16..24] != [0; 8]).unwrap()[16..24].to_vec();
    let before = settled(&sink);
    let altered: Vec<Vec<u8>> = recorded
        .iter()
        .filter(|one| one[16..24] != [0; 8])
        .map(|one| [&one[..16], &tag, &one[24..]].concat())
        .collect();
    replay(&sink, &altered);
    let after = sink.stats().total;
    let unauthentic = |counters: &udp_plus::Counters| counters.dropped(DropReason::BinaryUnauthentic);
    assert_eq!(unauthentic(&after) - unauthentic(&before), altered.len() as u64);
    assert_eq!(after.messages_received, 1);
    deliver(&friend, &sink, tap.address(), &[10, 20_000]);
}

fn what_is_repeated_is_not_taken_twice(driver: DriverChoice) {
    let keys = Keys::new(&format!("1 {K1}"));
    let (sender, sink) = (with(driver, &keys).start().unwrap(), with(driver, &keys).start().unwrap());
    let tap = Tap::start(sink.local_addr());
    deliver(&sender, &sink, tap.address(), &[10, 1_400, 20_000]);
    let datagrams: Vec<_> = to_server(&tap).into_iter().filter(|one| one[16..24] != [0; 8]).collect();
    let before = settled(&sink);
    replay(&sink, &datagrams);
    let after = sink.stats().total;
    let duplicates = |counters: &udp_plus::Counters| counters.dropped(DropReason::BinaryDuplicate);
    assert_eq!(duplicates(&after) - duplicates(&before), datagrams.len() as u64);
    assert_eq!(after.messages_received, 3);
    // Whoever says it again from elsewhere does not take the flow with him.
    deliver(&sender, &sink, tap.address(), &[10]);
}

fn a_direction_goes_on_to_its_next_key(driver: DriverChoice) {
    let keys = PreSharedKeys::parse(format!("1 {K1}").as_bytes(), Cipher::Aes256Gcm).unwrap().rekey_after(0);
    let start = || binary(driver).protection(keys.clone()).start().unwrap();
    let (a, b) = (start(), start());
    let tap = Tap::start(b.local_addr());
    for _ in 0..8 {
        deliver(&a, &b, tap.address(), &[500_000; 4]);
    }
    let passed = tap.passed();
    let flags: Vec<u8> = passed.iter().filter(|one| one.to_server).map(|one| one.bytes[1]).collect();
    let turns = flags.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(flags.len() > 2 * 4_096 && turns >= 2, "{turns} in {} datagrams", flags.len());
    turned(&b);
    assert_eq!(dropped(&b, DropReason::BinaryUnauthentic), 0);
    key_ids(&passed);
}

fn peers_have_keys_of_their_own(driver: DriverChoice) {
    // Here a key for this host and one for all others.
    let of_sink = Keys::new(&format!("1 {K1} 127.0.0.0/8 10.0.0.1\n2 {K2}"));
    let sink = with(driver, &of_sink).start().unwrap();
    let to = sink.local_addr();
    let own = Keys::new(&format!("1 {K1} {to}"));
    let sender = with(driver, &own).try_span_max(Duration::from_secs(2)).start().unwrap();
    deliver(&sender, &sink, to, &[10, 20_000]);
    // The sink seals with what the address says, too.
    deliver(&sink, &sender, sender.local_addr(), &[]);
    let of_others = Keys::new(&format!("2 {K2}"));
    let others = with(driver, &of_others).try_span_max(Duration::from_millis(300)).start().unwrap();
    is_not_reached(&others, to);
    until("it was heard and dropped", || dropped(&sink, DropReason::BinaryUnauthentic) > 0);
    // Without any key for an address nothing is sent there, and nothing is taken from there.
    let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    is_not_reached(&sender, elsewhere.local_addr().unwrap());
    assert!(elsewhere.recv_from(&mut [0; 2_000]).is_err(), "nothing was sent");
    is_not_reached(&others, sender.local_addr());
    until("it was heard and dropped", || dropped(&sender, DropReason::BinaryUnauthentic) > 0);
}

/// It could not reach them by itself, for it does not know whose key is whose; over the flow that a client opened it can.
fn a_hub_answers_clients_with_keys_of_their_own(driver: DriverChoice) {
    let lines = format!("9 {}\n1 {K1}\n2 {K2}\n", "5a6b7c8d".repeat(8));
    let of_hub = Keys::new(&lines);
    let hub = with(driver, &of_hub).start().unwrap();
    for (key, reloads) in [(format!("1 {K1}"), false), (format!("2 {K2}"), true)] {
        let of_client = Keys::new(&key);
        let client = with(driver, &of_client).start().unwrap();
        // What it says first waits for an answer that cannot come, until the client opens a flow.
        let early = hub.send_bucket().try_put(Outgoing::to(client.local_addr(), payload(0, 10))).unwrap();
        until("it was heard and dropped", || dropped(&client, DropReason::BinaryUnauthentic) > 0);
        deliver(&client, &hub, hub.local_addr(), &[10, 20_000]);
        early.wait().unwrap();
        assert_eq!(support::next(&client.recv_bucket()).payload()[..], payload(0, 10));
        if reloads {
            of_hub.write(&format!("{lines}3 {}\n", "0a1b2c3d".repeat(8)));
            hub.reload_keys().unwrap();
        }
        deliver(&hub, &client, client.local_addr(), &[10, 20_000]);
    }
}

fn fault(builder: Builder) -> String {
    match builder.start() {
        Err(StartError::Config(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_file_is_its_owners_alone_and_small() {
    let keys = Keys::new(&format!("1 {K1}"));
    let start = || binary(DriverChoice::Mmsg).key_file(&keys.0);
    for mode in [0o400, 0o600, 0o700] {
        keys.set_mode(mode);
        start().start().unwrap();
    }
    for mode in [0o640, 0o604, 0o620, 0o601, 0o666] {
        keys.set_mode(mode);
        let text = fault(start());
        let path = keys.0.display();
        assert!(
            text.contains(&format!("mode 0{mode:o}")) && text.contains(&format!("chmod 600 {path}")),
            "{text}"
        );
    }
    keys.write(&format!("1 {K1}"));
    if std::os::unix::fs::chown(&keys.0, Some(65_534), None).is_ok() {
        let text = fault(start());
        assert!(text.contains("user 65534 owns it") && text.contains("chown"), "{text}");
        std::os::unix::fs::chown(&keys.0, Some(0), None).unwrap();
    } else {
        support::skip("right to give a file away (root)");
    }
    keys.write(&"#\n".repeat(40_000));
    assert!(fault(start()).contains("longer than 65536"));
    for (path, problem) in
        [("/", "no regular file"), ("/dev/zero", "no regular file"), ("/no/such", "cannot read it")]
    {
        let text = fault(binary(DriverChoice::Mmsg).key_file(Path::new(path)));
        assert!(text.starts_with(&format!("key_file: {path}: ")) && text.contains(problem), "{text}");
    }
    keys.write(&format!("1 {K1}"));
    for wire in [Wire::Csv, Wire::Auto] {
        let text = fault(start().wire(wire));
        assert!(text.contains("needs wire = Binary"), "{text}");
    }
    let own = PreSharedKeys::parse(format!("1 {K1}").as_bytes(), Cipher::default()).unwrap();
    assert!(fault(start().protection(own)).contains("one of the two"));
}

/// Whatever prints itself, a key is not in it.
#[test]
fn keys_are_never_printed() {
    let keys = Keys::new(&format!("1 {K1}\n2 {K2}"));
    let builder = || binary(DriverChoice::Mmsg).key_file(&keys.0);
    let own = PreSharedKeys::parse(&fs::read(&keys.0).unwrap(), Cipher::ChaCha20Poly1305).unwrap();
    let (engine, with_own) = (builder().start().unwrap(), binary(DriverChoice::Mmsg).protection(own.clone()));
    let mut shown = vec![
        format!("{own:?} {own:#?}"),
        format!("{:?}", builder()),
        format!("{with_own:?}"),
        format!("{:?}", builder().options()),
        format!("{engine:?}"),
    ];
    assert!(shown[0].contains("ids: [1, 2]"), "{}", shown[0]);
    // A key in the wrong place.
    for text in [
        format!("{K1} 1"),
        format!("1 {K1} {K2}"),
        format!("1 {K1}0"),
        format!("1 {K1}\n1 {K2}"),
        K2.to_owned(),
        format!("1 2 {K2}"),
        format!("1 x{K2}"),
    ] {
        let error = PreSharedKeys::parse(text.as_bytes(), Cipher::default()).unwrap_err();
        shown.push(format!("{error} {error:?}"));
        shown.push(format!("{:?}", own.replace(text.as_bytes())));
        keys.write(&text);
        let error = builder().start().unwrap_err();
        shown.push(format!("{error} {error:?} {:?}", engine.reload_keys()));
    }
    for text in shown {
        for part in [&K1[..12], &K1[40..52], &K2[..8], &K2[20..28], "15, 30, 45", "0x0f", "171, 205, 239"] {
            assert!(!text.to_lowercase().contains(&part.to_lowercase()), "{part} in {text}");
        }
    }
}
