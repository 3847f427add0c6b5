//! What the integration tests share.
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests; not every test file uses every helper"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use udp_plus::sim::v1_peer::V1Peer;
use udp_plus::{Builder, Counters, DriverChoice, Engine, Message, Outgoing, Preset, RecvBucket, Wire};

pub mod hosts;
pub mod middlebox;
pub mod tap;
pub mod v1_watcher;
pub mod v2_peer;

/// On what a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Which kernel interface.
    pub driver: DriverChoice,
    /// What messages leave in.
    pub wire: Wire,
}

impl From<DriverChoice> for Setup {
    fn from(driver: DriverChoice) -> Self {
        Self { driver, wire: Wire::Csv }
    }
}

impl From<Wire> for Setup {
    fn from(wire: Wire) -> Self {
        Self { driver: DriverChoice::Auto, wire }
    }
}

/// Nothing that works takes this long.
pub const HANG: Duration = Duration::from_secs(10);
/// For tests that move a lot of data on a busy machine.
pub const LONG_HANG: Duration = Duration::from_secs(60);

/// Says why a test cannot run here; in CI that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "SKIP in CI: {why}");
    eprintln!("SKIP: {why}");
}

/// Whether `driver` can be used here; skips if not.
pub fn usable(driver: DriverChoice) -> bool {
    match Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").driver(driver).start() {
        Ok(_) => true,
        Err(error) => {
            skip(&format!("{driver:?}: {error}"));
            false
        }
    }
}

/// `each_driver!(name, function)`: two tests of `fn function(driver: DriverChoice)`.
macro_rules! each_driver {
    ($($name:ident,)+) => {$(
        mod $name {
            #[test]
            fn uring() {
                if crate::support::usable(udp_plus::DriverChoice::Uring) {
                    crate::support::guarded(stringify!($name), || super::$name(udp_plus::DriverChoice::Uring));
                }
            }
            #[test]
            fn mmsg() {
                crate::support::guarded(stringify!($name), || super::$name(udp_plus::DriverChoice::Mmsg));
            }
        }
    )+};
}
pub(crate) use each_driver;

/// `each_driver_and_wire!(name, function)`: six tests of `fn function(setup: Setup)`.
macro_rules! each_driver_and_wire {
    ($($name:ident,)+) => {$(
        mod $name {
            use udp_plus::DriverChoice::{self, Mmsg, Uring};
            use udp_plus::Wire;
            fn run(driver: DriverChoice, wire: Wire) {
                if driver == Mmsg || crate::support::usable(driver) {
                    let setup = crate::support::Setup { driver, wire };
                    crate::support::guarded(stringify!($name), || super::$name(setup));
                }
            }
            #[test]
            fn uring() {
                run(Uring, Wire::Csv);
            }
            #[test]
            fn mmsg() {
                run(Mmsg, Wire::Csv);
            }
            #[test]
            fn binary_uring() {
                run(Uring, Wire::Binary);
            }
            #[test]
            fn binary_mmsg() {
                run(Mmsg, Wire::Binary);
            }
            #[test]
            fn auto_uring() {
                run(Uring, Wire::Auto);
            }
            #[test]
            fn auto_mmsg() {
                run(Mmsg, Wire::Auto);
            }
        }
    )+};
}
pub(crate) use each_driver_and_wire;

/// `each_driver_and_shards!(name, function)`: six tests of `fn function(driver: DriverChoice, shards: u16)`.
macro_rules! each_driver_and_shards {
    ($($name:ident,)+) => {$(
        mod $name {
            use udp_plus::DriverChoice::{Mmsg, Uring};
            fn run(driver: udp_plus::DriverChoice, shards: u16) {
                if driver == Mmsg || crate::support::usable(driver) {
                    crate::support::guarded(stringify!($name), || super::$name(driver, shards));
                }
            }
            #[test]
            fn uring_1_shard() {
                run(Uring, 1);
            }
            #[test]
            fn uring_2_shards() {
                run(Uring, 2);
            }
            #[test]
            fn uring_4_shards() {
                run(Uring, 4);
            }
            #[test]
            fn mmsg_1_shard() {
                run(Mmsg, 1);
            }
            #[test]
            fn mmsg_2_shards() {
                run(Mmsg, 2);
            }
            #[test]
            fn mmsg_4_shards() {
                run(Mmsg, 4);
            }
        }
    )+};
}
pub(crate) use each_driver_and_shards;

/// The cause of a test with several shards: each of them received messages, and the kernel found the right one.
pub fn assert_every_shard_received(engine: &Engine) {
    until("every shard receives", || engine.stats().shards.iter().all(|shard| shard.messages_received > 0));
    assert_eq!(engine.stats().total.misrouted, 0);
}

/// Runs `body`; a hang ends the process with a word on which test it was, instead of hanging.
pub fn guarded<T>(name: &str, body: impl FnOnce() -> T) -> T {
    struct Guard(std::sync::mpsc::Sender<()>);
    let (done, wait) = std::sync::mpsc::channel();
    let name = name.to_owned();
    std::thread::spawn(move || {
        if wait.recv_timeout(Duration::from_secs(150)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("test {name} hangs");
            std::process::abort();
        }
    });
    let _guard = Guard(done);
    body()
}

/// A small engine on a free port of 127.0.0.1.
pub fn small(setup: impl Into<Setup>) -> Builder {
    let Setup { driver, wire } = setup.into();
    Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").driver(driver).wire(wire)
}

/// As [`small`], over the binary wire.
pub fn binary(driver: DriverChoice) -> Builder {
    small(Setup { driver, wire: Wire::Binary })
}

/// Another address of loopback with each call. Who binds there is alone: a port he gives up is free until he takes it again, and
/// what is sent to it comes to nobody. All others bind 127.0.0.1, and other processes hardly have the same ones.
pub fn own_host() -> IpAddr {
    static CALLS: AtomicU8 = AtomicU8::new(0);
    let call = CALLS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |calls| calls.checked_add(1));
    let process = std::process::id();
    let [second, third] = [64 + process % 64, process / 64 % 256].map(|part| part as u8);
    IpAddr::from(Ipv4Addr::new(127, second, third, call.expect("no more than 255 calls")))
}

/// As [`small`], on a [host of its own](own_host).
pub fn alone(setup: impl Into<Setup>) -> Builder {
    small(setup).bind(format!("{}:0", own_host()))
}

/// Where nobody is, nor comes.
pub fn nobody() -> SocketAddr {
    plain_socket_on(own_host()).local_addr().unwrap()
}

/// Starts an engine where another one was, on a [host of its own](own_host): the port is free at its end.
pub fn start_at(address: SocketAddr, builder: impl Fn() -> Builder) -> Engine {
    builder().bind(address.to_string()).start().unwrap()
}

/// A plain socket on a free port of 127.0.0.1.
pub fn plain_socket() -> UdpSocket {
    plain_socket_on(Ipv4Addr::LOCALHOST.into())
}

/// A plain socket on a free port of `host`.
pub fn plain_socket_on(host: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    socket
}

/// Receives one datagram, at most [`HANG`]. Tearing down a ring on this thread interrupts its calls (bug tests1-2).
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result.expect("a datagram"),
        }
    }
}

/// The next message within [`HANG`].
pub fn next(bucket: &RecvBucket) -> Message {
    next_within(bucket, HANG)
}

/// The next message within `time`.
pub fn next_within(bucket: &RecvBucket, time: Duration) -> Message {
    let until = Instant::now() + time;
    loop {
        if let Some(message) = bucket.try_get() {
            return message;
        }
        assert!(Instant::now() < until, "no message within {time:?}");
        assert!(!bucket.is_stopped(), "the engine stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until `condition` holds.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    until_within(what, HANG, condition);
}

/// Waits until `condition` holds, at most `time`.
pub fn until_within(what: &str, time: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while !condition() {
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the shard of an engine (which has one) has read its mail once more, and has published all it counted until
/// then. Outcomes and messages are out before the turn that they come from is: counters are to be read after this.
pub fn turned(engine: &Engine) {
    let expired = || engine.stats().total.get("failed_expired");
    let before = expired();
    // Nothing is sent: what has no time left ends at once.
    let nothing = Outgoing::to(engine.local_addr(), "x").deadline(Duration::ZERO);
    engine.send_bucket().try_put(nothing).unwrap().wait().unwrap_err();
    until("the turn is published", || expired() > before);
}

/// What an engine (of one shard) has counted, once nothing more comes for a while.
pub fn settled(engine: &Engine) -> Counters {
    turned(engine);
    let mut before = engine.stats().total;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        turned(engine);
        let now = engine.stats().total;
        if now.datagrams_received == before.datagrams_received {
            return now;
        }
        before = now;
    }
}

/// Waits for a future, at most [`HANG`].
pub fn wait<F: Future>(future: F) -> F::Output {
    wait_within(future, HANG)
}

/// Waits for a future, at most `time`.
pub fn wait_within<F: Future>(future: F, time: Duration) -> F::Output {
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    let end = Instant::now() + time;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "the future did not end within {time:?}");
        std::thread::park_timeout(left);
    }
}

/// Whether a datagram is a row that asks for the binary wire.
pub fn is_probe(bytes: &[u8]) -> bool {
    use udp_plus::internals::csv::{DiscoveryKind, decode_discovery};
    decode_discovery(bytes).is_some_and(|row| row.kind == DiscoveryKind::Probe)
}

/// Text of exactly `bytes` bytes with characters of 1 to 4 bytes, so that they fall everywhere.
pub fn mixed_text(bytes: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    let alphabet = ['a', 'Z', '"', ',', '\n', '\r', '\0', 'é', 'ß', '€', '漢', '😀', '𝄞'];
    let mut text = String::with_capacity(bytes + 4);
    while text.len() < bytes {
        let character = alphabet[random.usize(..alphabet.len())];
        text.push(if text.len() + character.len_utf8() > bytes { '.' } else { character });
    }
    text
}
