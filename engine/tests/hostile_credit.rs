//! Somebody who was alone with an engine holds all credit of its socket (R-CREDIT-3), and does what he can to keep it: those who
//! come after him have theirs all the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests on real sockets live in real time")]

mod kit;

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use udp_plus::sim::attack::{Attack, Intruder, Kind};
use udp_plus::{DriverChoice, Engine, Outgoing, Wire};

/// Well within a lease and its grace.
const APART: Duration = Duration::from_millis(20);
/// More than may leave without credit (R-CREDIT-4).
const BYTES: usize = 1 << 20;

fn hoarded(kind: Kind) {
    let engine = || {
        Engine::builder().driver(DriverChoice::Auto).wire(Wire::Binary).bind("127.0.0.1:0").start().unwrap()
    };
    let (victim, honest) = (engine(), engine());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut intruder = Intruder::open(&socket, victim.local_addr(), 3).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut attack, mut datagram) = (Attack::new(kind, 3), Vec::new());
            while !done.load(Ordering::Relaxed) {
                attack.next_in(&mut intruder, &mut datagram);
                socket.send_to(&datagram, victim.local_addr()).unwrap();
                std::thread::sleep(APART);
            }
        });
        let seen = || victim.stats().total.datagrams_taken;
        kit::wait_for("the intruder is at it", kit::GUARD, || seen() > 10);
        let payload = kit::long_payload(1, BYTES);
        let put = Outgoing::to(victim.local_addr(), payload).deadline(Duration::from_secs(5));
        let delivery = honest.send_bucket().try_put(put).unwrap();
        let outcome = futures_lite::future::block_on(delivery);
        let before = seen();
        kit::wait_for("the intruder is still at it", kit::GUARD, || seen() > before);
        done.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|error| panic!("{kind}: {error}"));
    });
}

#[test]
fn by_one_datagram_over_and_over() {
    hoarded(Kind::FlowRepeats);
}

#[test]
fn by_a_new_datagram_now_and_then() {
    hoarded(Kind::FlowFirstChunks);
}
