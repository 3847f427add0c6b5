//! A path that stops carrying full datagrams while messages are under way, on real sockets: nobody says so, they vanish.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::collections::BTreeMap;
use support::tap::Tap;
use support::{each_driver, small, until, wait_within};
use udp_plus::{Delivery, DriverChoice, Engine, Outgoing, Wire};

each_driver!(a_fall_amid_messages_costs_none_of_them,);

/// Puts a message of so many bytes that begins with `number`.
fn put(engine: &Engine, to: std::net::SocketAddr, number: u32, bytes: usize) -> Delivery {
    let mut payload = number.to_le_bytes().to_vec();
    payload.extend((4..bytes).map(|at| (at as u32).wrapping_mul(number + 7) as u8));
    engine.send_bucket().try_put(Outgoing::to(to, payload)).unwrap()
}

fn a_fall_amid_messages_costs_none_of_them(driver: DriverChoice) {
    let setup = || support::Setup { driver, wire: Wire::Binary };
    let (source, sink) = (small(setup()).start().unwrap(), small(setup()).start().unwrap());
    let tap = Tap::start(sink.local_addr());
    // Small ones, some that fill a datagram, and one of a mebibyte among them.
    let sizes: Vec<usize> = (0..200).map(|n| [64, 1_436, 500, 1_300][n % 4]).collect();
    let mut deliveries: Vec<Delivery> = Vec::new();
    let mut number = 0;
    let mut put_all = |deliveries: &mut Vec<Delivery>, sizes: &[usize]| {
        for &bytes in sizes {
            deliveries.push(put(&source, tap.address(), number, bytes));
            number += 1;
        }
    };
    put_all(&mut deliveries, &sizes);
    until("the path is found", || source.stats().datagram_bytes == Some(1_472));
    put_all(&mut deliveries, &[1 << 20]);
    put_all(&mut deliveries, &sizes);
    until("the large one is under way", || tap.passed().len() > 300);
    tap.narrow(1_250);
    put_all(&mut deliveries, &sizes);
    let mut received = BTreeMap::new();
    let total = deliveries.len();
    until("all arrive", || {
        while let Some(message) = sink.recv_bucket().try_get() {
            let payload = message.payload();
            let number = u32::from_le_bytes(payload[..4].try_into().unwrap());
            let sound =
                (4..payload.len()).all(|at| payload[at] == (at as u32).wrapping_mul(number + 7) as u8);
            assert!(sound, "message {number}");
            assert!(received.insert(number, payload.len()).is_none(), "message {number} came twice");
        }
        received.len() == total
    });
    for delivery in deliveries {
        wait_within(delivery, support::HANG).unwrap();
    }
    let large = received.values().filter(|&&bytes| bytes == 1 << 20).count();
    assert_eq!(large, 1);
    assert!(tap.lost() > 0, "nothing was too long");
    until("the fall is counted", || source.stats().total.path_mtu_falls >= 1);
    // And what the path still carries is found.
    let mut more = Vec::new();
    until("the search ends", || {
        // As many as there is room for.
        if more.len() < 10_000
            && let Ok(delivery) = source.send_bucket().try_put(Outgoing::to(tap.address(), vec![7; 64]))
        {
            more.push(delivery);
        }
        (1_235..=1_250).contains(&source.stats().datagram_bytes.unwrap())
    });
}
