//! One suite over both drivers, on real sockets. Each test is a trap of `IO_URING.md` section 12 and asserts
//! that the trap was sprung, not only that it was survived.

use super::driver::{Driver, Received, SendFailure};
use super::engine::Engine;
use super::internals::{Actor, ActorApp, Context, Setup, Shard, Shared};
use super::mmsg_driver::MmsgDriver;
use super::uring_driver::{DriverOptions, UringDriver};
use crate::config::{Config, Preset};
use crate::hash::Seed;
use crate::message::{MessageRef, Outcome, Verdict};
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::sys::clock::Clock;
use crate::sys::netns::in_private_netns;
use crate::sys::socket::{ShardSocket, SocketOptions, bind_group};
use crate::sys::wake::Wake;
use crate::test_support::{Guard, Watchdog, deny_syscall, run_in_child, skip};
use crate::train::TrainBatch;
use crate::units::Instant;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

// ---- Harness
// ------------------------------------------------------------------------------------------------------

/// A driver under test.
trait TestDriver: Driver + Sized {
    const IS_URING: bool;
    fn build(socket: Arc<ShardSocket>, wake: Arc<Wake>, options: &DriverOptions) -> Self;
}

impl TestDriver for UringDriver {
    const IS_URING: bool = true;
    fn build(socket: Arc<ShardSocket>, wake: Arc<Wake>, options: &DriverOptions) -> Self {
        Self::new(socket, wake, options).unwrap()
    }
}

impl TestDriver for MmsgDriver {
    const IS_URING: bool = false;
    fn build(socket: Arc<ShardSocket>, wake: Arc<Wake>, options: &DriverOptions) -> Self {
        Self::new(socket, wake, options).unwrap()
    }
}

/// A driver with what belongs to it.
struct Bench<D> {
    driver: D,
    wake: Arc<Wake>,
    socket: Arc<ShardSocket>,
    addr: SocketAddr,
}

impl<D: TestDriver> Bench<D> {
    fn with(socket: &SocketOptions, options: &DriverOptions) -> Self {
        let group = bind_group(socket).unwrap();
        let (socket, wake) = (group.sockets[0].clone(), Arc::new(Wake::new().unwrap()));
        let driver = D::build(socket.clone(), wake.clone(), options);
        Self { driver, wake, addr: socket.local_addr(), socket }
    }

    fn new() -> Self {
        Self::with(&SocketOptions::loopback(), &DriverOptions::default())
    }

    /// Everything received until `done` says enough, parking in between.
    fn receive_until(
        &mut self,
        what: &'static str,
        mut done: impl FnMut(&[Arrival]) -> bool,
    ) -> Vec<Arrival> {
        let guard = Guard::new(what);
        let mut got = vec![];
        while !done(&got) {
            guard.check();
            let handed = self.driver.receive(|received| {
                got.push(Arrival::from(received));
                ControlFlow::Continue(())
            });
            if handed == 0 && !done(&got) {
                self.driver.park(Some(soon()));
            }
        }
        got
    }

    fn receive(&mut self, what: &'static str, count: usize) -> Vec<Arrival> {
        self.receive_until(what, |got| got.len() >= count)
    }

    fn transmit(&mut self, batch: &TrainBatch) -> Vec<SendFailure> {
        let mut failures = vec![];
        self.driver.transmit(batch, &mut failures);
        failures
    }

    /// Nothing more comes.
    fn assert_quiet(&mut self) {
        self.driver.park(Some(Clock.now()));
        assert_eq!(self.driver.receive(|_| ControlFlow::Continue(())), 0);
        assert!(!self.driver.may_have_more());
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Arrival {
    from: SocketAddr,
    local: Option<IpAddr>,
    bytes: Vec<u8>,
    segment_bytes: usize,
}

impl From<Received<'_>> for Arrival {
    fn from(received: Received<'_>) -> Self {
        let Received { from, local, bytes, segment_bytes } = received;
        Self { from, local, bytes: bytes.to_vec(), segment_bytes }
    }
}

fn soon() -> Instant {
    Clock.now() + Duration::from_millis(20)
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(crate::test_support::HANG_GUARD)).unwrap();
    peer
}

fn peer_receives(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = peer.recv_from(&mut buffer).expect("hung: peer");
    buffer.truncate(len);
    (buffer, from)
}

/// A batch of rows of the given lengths to one place, each filled with its number.
fn batch(to: SocketAddr, local: Option<IpAddr>, segments_max: usize, rows: &[usize]) -> TrainBatch {
    let mut batch = TrainBatch::new(rows.iter().sum(), rows.len(), segments_max);
    batch.allow_longest_trains();
    batch.begin(to, local);
    for (number, &len) in rows.iter().enumerate() {
        batch.push(0, len).unwrap().fill(number as u8);
    }
    batch
}

/// Turns `fn name<D: TestDriver>()` into one test per driver.
macro_rules! both_drivers {
    ($($name:ident),* $(,)?) => {
        mod uring {
            use super::UringDriver;
            $(#[test] fn $name() {
                match crate::sys::caps::probe_uring() {
                    Ok(()) => super::$name::<UringDriver>(),
                    Err(_) => super::skip("io_uring"),
                }
            })*
        }
        mod mmsg {
            use super::MmsgDriver;
            $(#[test] fn $name() { super::$name::<MmsgDriver>() })*
        }
    };
}

both_drivers!(
    trap_1_zero_length_datagrams,
    trap_2_out_of_buffers,
    trap_3_a_completion_queue_of_8,
    trap_4_trains_arrive_whole,
    trap_5_truncated_datagrams_are_dropped_and_counted,
    trap_6_blocked_neighbour,
    trap_7_refused_trains_are_reported_one_by_one,
    trap_7_small_mtu,
    trap_7_a_socket_that_cannot_do_trains,
    trap_7_a_shard_splits_what_is_refused_and_remembers,
    trap_9_wake_ends_a_park,
    trap_9_wake_no_message_waits,
    trap_11_icmp_errors_do_not_stop_the_receive,
    trap_13_drop_under_load,
    trap_13_drop_after_a_panic_with_datagrams_pending,
    break_leaves_the_rest_for_the_next_call,
    who_stops_at_a_bound_says_that_there_may_be_more,
    many_trains_in_one_batch_keep_their_order,
    wildcard_replies_leave_from_the_asked_address,
    dual_stack_peers_appear_as_ipv4,
    dual_stack_wildcard_replies_leave_from_the_asked_address,
    ipv6_loopback,
    a_deadline_ends_a_park_and_an_idle_receive_returns,
    want_writable_ends_a_park,
);

// ---- Receive
// ------------------------------------------------------------------------------------------------------

fn trap_1_zero_length_datagrams<D: TestDriver>() {
    const COUNT: usize = 10_000;
    const BURST: usize = 100;
    let options = DriverOptions { recv_buffers: 4, ..DriverOptions::default() };
    let mut bench = Bench::<D>::with(&SocketOptions::loopback(), &options);
    let peer = peer();
    for _ in 0..COUNT / BURST {
        (0..BURST).for_each(|_| assert_eq!(peer.send_to(&[], bench.addr).unwrap(), 0));
        let got = bench.receive("zero-length datagrams", BURST);
        assert!(got.iter().all(|arrival| arrival.bytes.is_empty() && arrival.segment_bytes == 1));
    }
    peer.send_to(b"normal", bench.addr).unwrap();
    assert_eq!(bench.receive("the datagram after them", 1)[0].bytes, b"normal");
    let counters = bench.driver.counters();
    assert_eq!(counters.trains_received, COUNT as u64 + 1);
    assert!(
        !D::IS_URING || counters.rearmed >= COUNT as u64,
        "each of them ends the multishot: {counters:?}"
    );
    // No buffer was lost: all four can still be filled at once.
    (0..4).for_each(|number| assert_eq!(peer.send_to(&[number], bench.addr).unwrap(), 1));
    assert_eq!(bench.receive("all buffers", 4).len(), 4);
}

fn trap_2_out_of_buffers<D: TestDriver>() {
    let options = DriverOptions { recv_buffers: 4, ..DriverOptions::default() };
    let mut bench = Bench::<D>::with(&SocketOptions::loopback(), &options);
    let peer = peer();
    for number in 0..8u8 {
        peer.send_to(&[number], bench.addr).unwrap();
    }
    let mut got = vec![];
    let guard = Guard::new("first of eight");
    while got.is_empty() {
        guard.check();
        bench.driver.receive(|received| {
            got.push(received.bytes[0]);
            ControlFlow::Break(())
        });
        if got.is_empty() {
            bench.driver.park(Some(soon()));
        }
    }
    // The buffers are held. Whatever the shard does in the meantime, the receive is not armed in vain: that
    // would fail at once, each time the kernel is entered.
    let (other, parks) = (self::peer(), bench.driver.counters().parks);
    let to_other = batch(other.local_addr().unwrap(), None, 1, &[1]);
    for _ in 0..1000 {
        bench.driver.park(Some(soon()));
        assert_eq!(bench.transmit(&to_other), []);
    }
    let held = bench.driver.counters();
    assert_eq!(held.parks, parks, "datagrams wait: a park must not sleep");
    assert!(held.rearmed <= 2 && held.out_of_buffers <= 2, "{held:?}");
    got.extend(bench.receive("the other seven", 7).iter().map(|arrival| arrival.bytes[0]));
    assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7]);
    let counters = bench.driver.counters();
    assert!(!D::IS_URING || (counters.out_of_buffers >= 1 && counters.rearmed >= 1), "{counters:?}");
    assert_eq!(bench.socket.memory().unwrap().drops, 0);
}

fn trap_3_a_completion_queue_of_8<D: TestDriver>() {
    const COUNT: u32 = 20_000;
    let options = DriverOptions { recv_buffers: 64, cq_entries: 8, ..DriverOptions::default() };
    let mut bench = Bench::<D>::with(&SocketOptions::loopback(), &options);
    let (peer, to) = (peer(), bench.addr);
    let received = Arc::new(AtomicU64::new(0));
    let sender = {
        let received = received.clone();
        std::thread::spawn(move || {
            for number in 0..COUNT {
                // No more in flight than the socket holds.
                while u64::from(number) > received.load(Ordering::Acquire) + 1000 {
                    std::thread::yield_now();
                }
                peer.send_to(&number.to_be_bytes(), to).unwrap();
            }
        })
    };
    let mut expected = 0u32;
    let guard = Guard::new("load on a tiny completion queue");
    let mut own = batch(to, None, 1, &[1; 30]); // Failures that compete for the queue: to port 0.
    own.clear();
    own.begin(SocketAddr::from(([127, 0, 0, 1], 0)), None);
    (0..30).for_each(|_| own.push(0, 1).unwrap().fill(0));
    while expected < COUNT {
        guard.check();
        let handed = bench.driver.receive(|received| {
            assert_eq!(received.bytes, expected.to_be_bytes(), "lost or out of order");
            expected += 1;
            ControlFlow::Continue(())
        });
        received.store(expected.into(), Ordering::Release);
        let failures = bench.transmit(&own);
        assert!(failures.iter().map(|failure| failure.train).eq(0..own.trains().len()), "{failures:?}");
        if handed == 0 {
            bench.driver.park(Some(soon()));
        }
    }
    sender.join().unwrap();
    let counters = bench.driver.counters();
    assert!(!D::IS_URING || counters.rearmed > 0, "the queue never filled: {counters:?}");
    assert_eq!((counters.stale_completions, counters.receive_errors), (0, 0));
}

fn trap_4_trains_arrive_whole<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    let mut sender = Bench::<D>::new();
    // The kernel passes a train on whole only while it is below the device's gso_max_size (64 KiB, headers
    // included); a larger one arrives in pieces, on loopback one by one.
    let whole = 65_535 - 14 - 20 - 8;
    let shapes: [(&str, Vec<usize>, usize); 6] = [
        ("short tail", vec![1000, 1000, 1000, 300], 1),
        ("segments of one byte", vec![1; 64], 1),
        ("128 segments", vec![100; 128], 1),
        ("the largest train in one piece", [vec![1024; 63], vec![whole - 63 * 1024]].concat(), 1),
        ("65,507 bytes", [vec![1024; 63], vec![995]].concat(), 64),
        ("one large datagram", vec![65_507], 1),
    ];
    let (mut trains, mut segments, mut arrivals) = (0, 0, 0);
    for (what, rows, pieces) in shapes {
        let train = batch(bench.addr, None, 128, &rows);
        assert_eq!(train.trains().len(), 1, "{what}");
        if rows.len() > crate::sys::caps::gso_segments_max() {
            skip("trains of 128 segments");
            continue;
        }
        assert_eq!(sender.transmit(&train), [], "{what}");
        let got = bench.receive(what, pieces);
        assert_eq!(got.len(), pieces, "{what}");
        let bytes = got.iter().flat_map(|arrival| &arrival.bytes);
        assert!(bytes.eq(&*train.bytes(&train.trains()[0])), "{what}");
        assert_eq!((got[0].segment_bytes, got[0].from), (rows[0], sender.addr), "{what}");
        trains += 1;
        segments += rows.len() as u64;
        arrivals += pieces as u64;
    }
    let sent = sender.driver.counters();
    assert_eq!((sent.trains_sent, sent.segments_sent), (trains, segments));
    assert_eq!(bench.driver.counters().trains_received, arrivals);
}

fn trap_5_truncated_datagrams_are_dropped_and_counted<D: TestDriver>() {
    let options = DriverOptions { recv_buffers: 4, recv_buffer_bytes: 2048, ..DriverOptions::default() };
    let mut bench = Bench::<D>::with(&SocketOptions::loopback(), &options);
    let mut sender = Bench::<D>::new();
    for round in 1..=20 {
        let train = batch(bench.addr, None, 64, &[1000, 1000, 1000]);
        assert_eq!(sender.transmit(&train), []);
        let big = batch(bench.addr, None, 64, &[2049]);
        assert_eq!(sender.transmit(&big), []);
        let fits = batch(bench.addr, None, 64, &[2048]);
        assert_eq!(sender.transmit(&fits), []);
        let got = bench.receive("what fits", 1);
        assert_eq!((got.len(), got[0].bytes.len()), (1, 2048));
        assert_eq!(bench.driver.counters().truncated, 2 * round);
    }
    assert_eq!(bench.driver.counters().malformed, 0);
}

fn trap_11_icmp_errors_do_not_stop_the_receive<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    // Other tests bind 127.0.0.1: nobody gets the port again.
    let closed = UdpSocket::bind("127.0.0.99:0").unwrap().local_addr().unwrap();
    // The cause: a connected socket hears that nobody is there.
    let witness = UdpSocket::bind("127.0.0.1:0").unwrap();
    witness.connect(closed).unwrap();
    witness.send(b"x").unwrap();
    assert_eq!(witness.recv(&mut [0]).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    let peer = peer();
    for number in 0..100u8 {
        let to_nobody = batch(closed, None, 1, &[1, 1, 1]);
        assert_eq!(bench.transmit(&to_nobody), []);
        peer.send_to(&[number], bench.addr).unwrap();
        assert_eq!(bench.receive("a datagram after ICMP", 1)[0].bytes, [number]);
    }
    assert_eq!(bench.driver.counters().receive_errors, 0);
}

fn who_stops_at_a_bound_says_that_there_may_be_more<D: TestDriver>() {
    const COUNT: usize = 100;
    let options = DriverOptions { recv_buffers: 4, ..Default::default() };
    let mut bench = Bench::<D>::with(&SocketOptions::loopback(), &options);
    let peer = peer();
    (0..COUNT).for_each(|_| assert_eq!(peer.send_to(b"x", bench.addr).unwrap(), 1));
    let guard = Guard::new("all of them");
    let (mut got, mut stopped) = (0, 0);
    while got < COUNT {
        guard.check();
        let handed = bench.driver.receive(|_| ControlFlow::Continue(()));
        got += handed;
        stopped += usize::from(bench.driver.may_have_more());
        if handed == 0 {
            bench.driver.park(Some(soon()));
        }
    }
    assert!(stopped > 0, "four buffers, four rounds");
    bench.assert_quiet();
}

fn break_leaves_the_rest_for_the_next_call<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    let peer = peer();
    for number in 0..100u8 {
        peer.send_to(&[number], bench.addr).unwrap();
    }
    let (mut got, mut calls) = (vec![], 0);
    let guard = Guard::new("one by one");
    while got.len() < 100 {
        guard.check();
        calls += 1;
        let handed = bench.driver.receive(|received| {
            got.push(received.bytes[0]);
            ControlFlow::Break(())
        });
        assert!(handed <= 1);
        bench.driver.park(Some(soon()));
    }
    assert!(calls >= 100);
    assert!(got.into_iter().eq(0..100));
    bench.assert_quiet();
}

// ---- Send
// ---------------------------------------------------------------------------------------------------------

fn many_trains_in_one_batch_keep_their_order<D: TestDriver>() {
    const COUNT: usize = 600; // More than one enter or sendmmsg takes.
    let mut bench = Bench::<D>::with(
        &SocketOptions { gro: false, ..SocketOptions::loopback() },
        &DriverOptions { recv_buffer_bytes: 2048, ..DriverOptions::default() },
    );
    let mut sender = Bench::<D>::new();
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut batch = TrainBatch::new(COUNT * 10, COUNT, 1);
    for number in 0..COUNT {
        // Every seventh goes to port 0, which the kernel refuses: the others are not affected.
        batch.begin(if number % 7 == 3 { nowhere } else { bench.addr }, None);
        batch.push(0, 2 + number % 5).unwrap()[..2].copy_from_slice(&(number as u16).to_be_bytes());
    }
    let failures = sender.transmit(&batch);
    assert!(failures.iter().all(|failure| failure.errno == libc::EINVAL), "{failures:?}");
    assert!(failures.iter().map(|failure| failure.train).eq((0..COUNT).filter(|number| number % 7 == 3)));
    let expected: Vec<_> = (0..COUNT).filter(|number| number % 7 != 3).collect();
    let got = bench.receive("all that left", expected.len());
    let numbers =
        got.iter().map(|arrival| usize::from(u16::from_be_bytes([arrival.bytes[0], arrival.bytes[1]])));
    assert!(numbers.eq(expected.iter().copied()));
    let counters = sender.driver.counters();
    assert_eq!(
        (counters.trains_sent, counters.segments_sent),
        (expected.len() as u64, expected.len() as u64)
    );
    assert_eq!(counters.stale_completions, 0);
}

/// No neighbour ever answers on this link: datagrams wait for its address and fill the send buffer.
fn trap_6_blocked_neighbour<D: TestDriver>() {
    let setup = [
        "link set lo up",
        "link add v0 type veth peer name v1",
        "link set v1 up",
        "addr add 10.9.0.1/24 dev v0",
        "link set v0 up",
    ];
    let ran = in_private_netns(&setup, || {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let options = SocketOptions { bind: any, sndbuf_bytes: 8192, ..SocketOptions::loopback() };
        let mut bench = Bench::<D>::with(&options, &DriverOptions::default());
        let to = SocketAddr::from(([10, 9, 0, 2], 4000));
        let rows = batch(to, None, 1, &[1400; 20]);
        let failures = bench.transmit(&rows);
        assert!(!failures.is_empty() && failures.len() < 20, "the buffer never filled: {failures:?}");
        assert!(failures.iter().all(|failure| failure.errno == libc::EAGAIN), "{failures:?}");
        // A prefix left: nothing overtook, nothing is pending in the kernel.
        let left = 20 - failures.len();
        assert!(failures.iter().map(|failure| failure.train).eq(left..20), "{failures:?}");
        assert_eq!(bench.driver.counters().trains_sent, left as u64);
        // Neither does it help to insist, nor does it cost memory.
        for _ in 0..100 {
            assert_eq!(bench.transmit(&rows).len(), 20);
        }
        // The kernel gives the neighbour up after some seconds and frees the buffer: the park ends, without a
        // deadline.
        bench.driver.want_writable();
        bench.driver.park(Some(Clock.now() + crate::test_support::HANG_GUARD));
        let guard = Guard::new("send buffer free again");
        while !bench.transmit(&batch(to, None, 1, &[1400])).is_empty() {
            guard.check();
            bench.driver.want_writable();
            bench.driver.park(Some(soon()));
        }
        assert_eq!(bench.driver.counters().stale_completions, 0, "a refused send finished later");
    });
    if !ran {
        skip("private network namespaces (root and ip)");
    }
}

fn trap_7_refused_trains_are_reported_one_by_one<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    let mut sender = Bench::<D>::new();
    let mut batch = TrainBatch::new(1 << 20, 8, 200);
    batch.begin(bench.addr, None);
    let rows = [(0, 10, 2), (1, 5, 129), (2, 20, 3), (3, 40_000, 1), (4, 9, 1)];
    for (route, len, count) in rows {
        (0..count).for_each(|_| batch.push(route, len).unwrap().fill(route));
    }
    assert_eq!(batch.trains().len(), 5);
    let failures = sender.transmit(&batch);
    assert_eq!(
        failures,
        [SendFailure { train: 1, errno: libc::EINVAL }],
        "129 segments are too many for any kernel"
    );
    let got = bench.receive("the other four", 4);
    assert_eq!(got.iter().map(|arrival| arrival.bytes[0]).collect::<Vec<_>>(), [0, 2, 3, 4]);
    let counters = sender.driver.counters();
    assert_eq!((counters.trains_sent, counters.segments_sent), (4, 2 + 3 + 1 + 1));
}

/// Segments larger than the link's MTU: the kernel refuses to fragment a train.
fn trap_7_small_mtu<D: TestDriver>() {
    let setup = [
        "link set lo up",
        "link add v0 mtu 1400 type veth peer name v1",
        "link set v1 up",
        "addr add 10.9.0.1/24 dev v0",
        "link set v0 up",
    ];
    let ran = in_private_netns(&setup, || {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut bench = Bench::<D>::with(
            &SocketOptions { bind: any, ..SocketOptions::loopback() },
            &DriverOptions::default(),
        );
        let mut batch = TrainBatch::new(1 << 16, 8, 64);
        batch.begin(SocketAddr::from(([10, 9, 0, 2], 4000)), None);
        for (route, len) in [(0, 1300), (0, 1300), (1, 1390), (1, 1390), (2, 1000), (2, 1000)] {
            batch.push(route, len).unwrap().fill(route);
        }
        let failures = bench.transmit(&batch);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert_eq!(failures[0].train, 1);
        assert!([libc::EMSGSIZE, libc::EINVAL].contains(&failures[0].errno), "{failures:?}");
        // The shard's answer: the same rows one by one, which may be fragmented.
        batch.retain_for_retry(&[1], |_| true);
        assert_eq!(batch.trains().len(), 2);
        assert_eq!(bench.transmit(&batch), []);
    });
    if !ran {
        skip("private network namespaces (root and ip)");
    }
}

/// Every train is refused and reported, lone datagrams between them leave; one by one the rest leaves too.
fn trap_7_a_socket_that_cannot_do_trains<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    let mut sender = Bench::<D>::new();
    sender.socket.send_no_checksums();
    let mut batch = TrainBatch::new(1 << 16, 8, 64);
    batch.begin(bench.addr, None);
    for (route, len) in [(0, 100), (0, 100), (1, 50), (2, 300), (2, 300), (2, 300)] {
        batch.push(route, len).unwrap().fill(route);
    }
    let refused = |train| SendFailure { train, errno: libc::EINVAL };
    assert_eq!(sender.transmit(&batch), [refused(0), refused(2)]);
    assert_eq!(bench.receive("the lone datagram", 1)[0].bytes, [1; 50]);
    batch.retain_for_retry(&[0, 2], |_| true);
    assert_eq!(sender.transmit(&batch), []);
    let got = bench.receive("the others", 5);
    assert!(got.iter().map(|arrival| arrival.bytes[0]).eq([0, 0, 2, 2, 2]));
    let counters = sender.driver.counters();
    assert_eq!((counters.trains_sent, counters.segments_sent), (6, 6));
}

/// Puts one message for each number, all at once.
struct Source {
    to: SocketAddr,
    numbers: std::ops::Range<u64>,
    delivered: Arc<AtomicU64>,
}

impl Source {
    fn text(number: u64) -> Vec<u8> {
        format!("{number:010} ").repeat(1_000).into_bytes()
    }
}

impl Actor for Source {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, number: u64, outcome: Outcome) {
        outcome.unwrap_or_else(|error| panic!("message {number}: {error}"));
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for number in self.numbers.by_ref() {
            context.put_copy(self.to, &Self::text(number), number).unwrap();
        }
    }
}

/// A whole shard over such a socket, against an engine: everything arrives, and once is enough to learn it.
fn trap_7_a_shard_splits_what_is_refused_and_remembers<D: TestDriver>() {
    const MESSAGES: u64 = 40;
    let sink = Engine::builder().bind("127.0.0.1:0").shards(1).start().unwrap();
    let bench = Bench::<D>::new();
    bench.socket.send_no_checksums();
    let config = Config { shards: 1, ..Config::preset(Preset::Small) };
    let (seed, families) = (Seed::from_number(1), Families { v4: true, v6: false });
    let setup = Setup {
        rcvbuf_bytes: 4 << 20,
        config: &config,
        plugins: &Plugins::default(),
        place: Place { shard: 0, shards: 1, families },
        seed: &seed,
        shared: &Shared::new(&config, families, &seed, vec![bench.wake]),
        segments_max: 64,
        clock: || Clock.now(),
    };
    let delivered = Arc::new(AtomicU64::new(0));
    let source = Source { to: sink.local_addr(), numbers: 0..MESSAGES, delivered: Arc::clone(&delivered) };
    let mut shard = Shard::new(&setup, bench.driver, ActorApp(source));
    let guard = Guard::new("messages of a shard without trains");
    let (mut messages, mut split_first) = (vec![], 0);
    while delivered.load(Ordering::Relaxed) < MESSAGES || messages.len() < MESSAGES as usize {
        guard.check();
        shard.turn();
        if split_first == 0 {
            split_first = shard.counters().trains_split;
        }
        sink.recv_bucket().get_batch(&mut messages);
        std::thread::yield_now();
    }
    messages.sort_by(|a, b| a.payload().cmp(b.payload()));
    assert!(messages.iter().map(|message| message.payload().to_vec()).eq((0..MESSAGES).map(Source::text)));
    let counters = shard.counters();
    assert!(split_first >= 1, "the kernel refused no train: {counters:?}");
    assert_eq!(counters.trains_split, split_first, "after the first batch not one train more is tried there");
    assert_eq!((counters.sends_refused, counters.failed_total()), (0, 0));
}

// ---- Wake-up and sleep
// --------------------------------------------------------------------------------------------

fn trap_9_wake_ends_a_park<D: TestDriver>() {
    let _watchdog = Watchdog::new("a wake-up");
    let mut bench = Bench::<D>::new();
    for _ in 0..200 {
        bench.wake.prepare_park();
        let wake = bench.wake.clone();
        let notifier = std::thread::spawn(move || wake.notify());
        bench.driver.park(None); // No deadline: without the wake-up this hangs.
        bench.wake.unpark();
        notifier.join().unwrap();
        bench.driver.receive(|_| ControlFlow::Continue(()));
    }
    let parks = bench.driver.counters().parks;
    assert!(parks > 0);
    // What was consumed does not wake again: this park lasts until its deadline.
    bench.driver.park(Some(soon()));
    bench.driver.receive(|_| ControlFlow::Continue(()));
    let deadline = soon();
    bench.wake.prepare_park();
    bench.driver.park(Some(deadline));
    assert!(Clock.now() >= deadline);
    bench.wake.unpark();
}

fn trap_9_wake_no_message_waits<D: TestDriver>() {
    let _watchdog = Watchdog::new("messages to a sleeping shard");
    const PRODUCERS: u64 = 8;
    const EACH: u64 = 2_000;
    let mut bench = Bench::<D>::new();
    let inbox = Arc::new(AtomicU64::new(0));
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|seed| {
            let (wake, inbox) = (bench.wake.clone(), inbox.clone());
            std::thread::spawn(move || {
                for number in 0..EACH {
                    inbox.fetch_add(1, Ordering::Release);
                    wake.notify();
                    if (number + seed) % 16 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let (mut taken, mut parks) = (0, 0);
    let guard = Guard::new("messages to a parked shard");
    while taken < PRODUCERS * EACH {
        guard.check();
        bench.driver.receive(|_| ControlFlow::Continue(()));
        taken += inbox.swap(0, Ordering::Acquire);
        if taken == PRODUCERS * EACH {
            break;
        }
        bench.wake.prepare_park();
        if inbox.load(Ordering::Relaxed) == 0 {
            parks += 1;
            bench.driver.park(None);
        }
        bench.wake.unpark();
    }
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    assert_eq!(taken, PRODUCERS * EACH);
    assert!(parks > 0, "the shard never parked: nothing was tested");
}

fn a_deadline_ends_a_park_and_an_idle_receive_returns<D: TestDriver>() {
    let _watchdog = Watchdog::new("a park that a datagram ends");
    let mut bench = Bench::<D>::new();
    for _ in 0..3 {
        let deadline = soon();
        bench.driver.park(Some(deadline));
        assert!(bench.driver.now() >= deadline);
        assert_eq!(bench.driver.receive(|_| ControlFlow::Continue(())), 0);
    }
    bench.driver.park(Some(Instant::default())); // Long past.
    assert_eq!(bench.driver.counters().parks, 4);
    // A datagram ends a park that has no deadline.
    let (peer, to) = (peer(), bench.addr);
    let sender = std::thread::spawn(move || peer.send_to(b"x", to).unwrap());
    bench.driver.park(None);
    assert_eq!(bench.receive("the datagram that woke", 1)[0].bytes, b"x");
    sender.join().unwrap();
}

fn want_writable_ends_a_park<D: TestDriver>() {
    let _watchdog = Watchdog::new("a writable socket");
    let mut bench = Bench::<D>::new();
    for _ in 0..3 {
        bench.driver.want_writable(); // It is, already.
        bench.driver.park(None);
    }
    bench.driver.want_writable();
    // Noticed in passing, it still ends the next park.
    bench.driver.receive(|_| ControlFlow::Continue(()));
    bench.driver.receive(|_| ControlFlow::Continue(()));
    bench.driver.park(None);
    let deadline = soon();
    bench.driver.park(Some(deadline));
    assert!(Clock.now() >= deadline, "once told, it is not told again");
}

const CHILD: &str = "UDP_PLUS_TEST_IDLE";

/// Not a test of its own: the child of the one below. Entering the ring is forbidden once it is built.
#[test]
fn idle_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut bench = Bench::<UringDriver>::new();
    deny_syscall(libc::SYS_io_uring_enter, libc::EPERM);
    for _ in 0..1000 {
        assert_eq!(bench.driver.receive(|_| ControlFlow::Continue(())), 0);
    }
    println!("idle without a system call");
    // The prohibition was in force, and ends a shard with its reason.
    let park = std::panic::AssertUnwindSafe(|| bench.driver.park(Some(soon())));
    let panic = std::panic::catch_unwind(park).unwrap_err();
    println!("verdict: {}", panic.downcast_ref::<String>().unwrap());
    drop(bench); // Without the kernel's help the buffers are leaked, and nothing hangs.
    println!("dropped");
}

#[test]
fn an_idle_receive_makes_no_system_call() {
    if crate::sys::caps::probe_uring().is_err() {
        return skip("io_uring");
    }
    let text = run_in_child("runtime::driver_tests::idle_child", CHILD, "1");
    assert!(text.contains("idle without a system call"), "{text}");
    assert!(text.contains("verdict: io_uring_enter -> EPERM") && text.contains("dropped"), "{text}");
}

// ---- Addresses
// ----------------------------------------------------------------------------------------------------

fn wildcard_replies_leave_from_the_asked_address<D: TestDriver>() {
    let bind = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut bench =
        Bench::<D>::with(&SocketOptions { bind, ..SocketOptions::loopback() }, &DriverOptions::default());
    assert!(bench.socket.is_wildcard());
    reply_from_127_0_0_2(&mut bench);
}

fn dual_stack_wildcard_replies_leave_from_the_asked_address<D: TestDriver>() {
    let Some(mut bench) = v6_bench::<D>("[::]:0") else { return };
    reply_from_127_0_0_2(&mut bench);
    // And over IPv6.
    let peer = UdpSocket::bind("[::1]:0").unwrap();
    peer.send_to(b"six", ("::1", bench.addr.port())).unwrap();
    let got = bench.receive("over IPv6", 1).remove(0);
    assert_eq!((got.from, got.local), (peer.local_addr().unwrap(), Some("::1".parse().unwrap())));
    assert_eq!(bench.transmit(&batch(got.from, got.local, 64, &[3, 3, 2])), []);
    assert_eq!(peer_receives(&peer), (vec![0; 3], SocketAddr::from((got.local.unwrap(), bench.addr.port()))));
}

fn reply_from_127_0_0_2<D: TestDriver>(bench: &mut Bench<D>) {
    let peer = peer();
    let asked = SocketAddr::from(([127, 0, 0, 2], bench.addr.port()));
    for _ in 0..2 {
        peer.send_to(b"hello", asked).unwrap();
        let got = bench.receive("a datagram to 127.0.0.2", 1).remove(0);
        assert_eq!((got.from, got.local), (peer.local_addr().unwrap(), Some(asked.ip())));
        assert_eq!(bench.transmit(&batch(got.from, got.local, 64, &[5, 5, 4])), []);
        for (number, len) in [5, 5, 4].into_iter().enumerate() {
            assert_eq!(peer_receives(&peer), (vec![number as u8; len], asked));
        }
        // Without a source the kernel takes its own choice.
        assert_eq!(bench.transmit(&batch(got.from, None, 1, &[1])), []);
        assert_eq!(peer_receives(&peer).1.ip(), IpAddr::from([127, 0, 0, 1]));
    }
}

fn dual_stack_peers_appear_as_ipv4<D: TestDriver>() {
    let Some(mut bench) = v6_bench::<D>("[::]:0") else { return };
    let peer = peer();
    peer.send_to(b"four", ("127.0.0.1", bench.addr.port())).unwrap();
    let got = bench.receive("over IPv4", 1).remove(0);
    assert!(got.from.is_ipv4() && got.local.unwrap().is_ipv4(), "{got:?}");
    assert_eq!(got.from, peer.local_addr().unwrap());
    assert_eq!(bench.transmit(&batch(got.from, None, 64, &[7, 7])), []);
    assert_eq!(peer_receives(&peer).0, [0; 7]);
    assert_eq!(peer_receives(&peer).0, [1; 7]);
    // Unless the user wants IPv6 alone.
    let bind = "[::]:0".parse().unwrap();
    let options = SocketOptions { bind, v6_only: true, ..SocketOptions::loopback() };
    let mut only = Bench::<D>::with(&options, &DriverOptions::default());
    let _ = peer.send_to(b"four", ("127.0.0.1", only.addr.port()));
    only.assert_quiet();
}

fn ipv6_loopback<D: TestDriver>() {
    let Some(mut bench) = v6_bench::<D>("[::1]:0") else { return };
    let mut sender = Bench::<D>::with(
        &SocketOptions { bind: "[::1]:0".parse().unwrap(), ..SocketOptions::loopback() },
        &DriverOptions::default(),
    );
    let largest = 65_535 - 14 - 40 - 8; // In one piece; see trap 4.
    let rows = [vec![1200; largest / 1200], vec![largest % 1200]].concat();
    let train = batch(bench.addr, None, 64, &rows);
    assert_eq!(train.trains().len(), 1);
    assert_eq!(sender.transmit(&train), []);
    let got = bench.receive("the largest IPv6 train", 1).remove(0);
    assert_eq!((got.from, got.local, got.segment_bytes), (sender.addr, None, 1200));
    assert!(got.bytes == *train.bytes(&train.trains()[0]));
    // A larger one arrives all the same.
    let rows = [vec![1200; 54], vec![65_487 - 54 * 1200]].concat();
    let train = batch(bench.addr, None, 64, &rows);
    assert_eq!(sender.transmit(&train), []);
    let got = bench
        .receive_until("the largest train", |got| got.iter().map(|a| a.bytes.len()).sum::<usize>() == 65_487);
    assert!(got.iter().flat_map(|arrival| &arrival.bytes).eq(&*train.bytes(&train.trains()[0])));
    // A socket of one family refuses the other, per train.
    let mut four = Bench::<D>::new();
    let failures = four.transmit(&batch(bench.addr, None, 1, &[1]));
    assert_eq!(failures, [SendFailure { train: 0, errno: libc::EAFNOSUPPORT }]);
}

fn v6_bench<D: TestDriver>(bind: &str) -> Option<Bench<D>> {
    if UdpSocket::bind("[::1]:0").is_err() {
        skip("IPv6");
        return None;
    }
    let options = SocketOptions { bind: bind.parse().unwrap(), ..SocketOptions::loopback() };
    Some(Bench::with(&options, &DriverOptions::default()))
}

// ---- The end
// ------------------------------------------------------------------------------------------------------

/// Calls `test` while datagrams pour into `to`; returns how many were sent.
fn under_fire(to: SocketAddr, test: impl FnOnce()) -> u64 {
    let stop = AtomicBool::new(false);
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !stop.load(Ordering::Relaxed) {
                sent.fetch_add(u64::from(peer.send_to(&[7; 1200], to).is_ok()), Ordering::Relaxed);
            }
        });
        while sent.load(Ordering::Relaxed) < 10 {
            std::thread::yield_now();
        }
        test();
        stop.store(true, Ordering::Relaxed);
    });
    sent.into_inner()
}

fn trap_13_drop_under_load<D: TestDriver>() {
    // Other tests bind 127.0.0.1: nobody else gets the port when it is free.
    let bind = SocketAddr::from(([127, 0, 0, 98], 0));
    let group = bind_group(&SocketOptions { bind, ..SocketOptions::loopback() }).unwrap();
    let socket = &group.sockets[0];
    let mut received = 0;
    let sent = under_fire(group.local_addr, || {
        for turn in 0..100 {
            let wake = Arc::new(Wake::new().unwrap());
            let options = DriverOptions { recv_buffers: 16, ..DriverOptions::default() };
            let mut driver = D::build(socket.clone(), wake.clone(), &options);
            for _ in 0..turn % 4 {
                received += driver.receive(|_| ControlFlow::Continue(()));
                driver.park(Some(soon()));
            }
            drop(driver);
            // Nothing of it keeps the descriptors: neither a registration nor an operation in flight.
            assert_eq!(Arc::strong_count(&wake), 1);
            assert_eq!(Arc::strong_count(socket), 1);
        }
    });
    assert!(received > 0 && sent > 100, "{received} of {sent}");
    // The port is free as soon as the socket is closed: the kernel holds no reference either.
    let addr = group.local_addr;
    drop(group);
    let guard = Guard::new("the port to become free");
    while UdpSocket::bind(addr).is_err() {
        guard.check();
        std::thread::yield_now();
    }
}

fn trap_13_drop_after_a_panic_with_datagrams_pending<D: TestDriver>() {
    let mut bench = Bench::<D>::new();
    let addr = bench.addr;
    under_fire(addr, || {
        let guard = Guard::new("a panic in the sink");
        let mut panicked = false;
        while !panicked {
            guard.check();
            // The driver lives outside of what is caught, as in the shard.
            let driver = &mut bench.driver;
            let turn = std::panic::AssertUnwindSafe(|| {
                driver.receive(|_| -> ControlFlow<()> {
                    std::panic::resume_unwind(Box::new("a bug in the shard"))
                })
            });
            panicked = std::panic::catch_unwind(turn).is_err();
        }
        drop(bench);
    });
}

// ---- Trap 12: what belongs to a shard stays there
// -----------------------------------------------------------------

/// Fails to compile (ambiguous) if the type is `Send`.
macro_rules! assert_not_send {
    ($type:ty) => {
        const _: fn() = || {
            trait AmbiguousIfSend<Marker> {
                fn check() {}
            }
            impl<T: ?Sized> AmbiguousIfSend<()> for T {}
            impl<T: ?Sized + Send> AmbiguousIfSend<u8> for T {}
            let _ = <$type as AmbiguousIfSend<_>>::check;
        };
    };
}

assert_not_send!(UringDriver);
assert_not_send!(MmsgDriver);

const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<Wake>();
    shared::<ShardSocket>();
};
