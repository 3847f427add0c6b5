//! Many peers, heavy and light, and several targets.

use super::support::{Listener, assert_schema, due, number, report, run, status};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sends back what comes until told to stop; how many came from each address.
fn echo(socket: &UdpSocket, stop: &AtomicBool) -> BTreeMap<IpAddr, u64> {
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
    let (mut from, mut buffer) = (BTreeMap::new(), [0; 2_048]);
    while !stop.load(Ordering::Relaxed) {
        if let Ok((bytes, sender)) = socket.recv_from(&mut buffer) {
            *from.entry(sender.ip()).or_default() += 1;
            let _ = socket.send_to(&buffer[..bytes], sender);
        }
    }
    from
}

#[test]
fn peers_have_addresses_of_their_own_and_send_what_their_rank_says() {
    let (socket, stop) = (UdpSocket::bind("127.0.0.1:0").expect("a port"), AtomicBool::new(false));
    // Whatever waits while a busy machine does something else.
    if setsockopt(&socket, RcvBufForce, &(4 << 20)).is_err() {
        setsockopt(&socket, RcvBuf, &(4 << 20)).expect("set");
    }
    let target = socket.local_addr().expect("bound").to_string();
    std::thread::scope(|scope| {
        let far = scope.spawn(|| echo(&socket, &stop));
        let mut args =
            vec!["load", "--target", &target, "--protocol", "udp", "--mode", "echo", "--rate", "1600"];
        args.extend(["--peers", "20", "--peer-skew", "1", "--shards", "2", "--duration", "4", "--json", "-"]);
        let output = run(&args);
        stop.store(true, Ordering::Relaxed);
        let from = far.join().expect("no panic");
        assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
        let report = report(&output);
        assert_schema(&report);
        assert_eq!((number(&report, "/peers"), number(&report, "/peer_skew")), (20.0, 1.0));
        assert_eq!((from.len(), from.values().sum::<u64>() as f64), (20, number(&report, "/offered")));
        assert!(from.keys().all(IpAddr::is_loopback));
        // In the order of their addresses: 8,000 messages by 1, 1/2, 1/3, ..., whose sum is 3.598.
        for (rank, count) in from.values().enumerate() {
            let expected = 8_000.0 / 3.598 / (rank + 1) as f64;
            assert!(
                (*count as f64 - expected).abs() < 6.0 * expected.sqrt(),
                "{rank}: {count}, not {expected}"
            );
        }
    });
}

#[test]
fn every_protocol_has_peers() {
    for (peers, more) in [
        ("9", &["--wire", "binary", "--rate", "3000", "--peer-skew", "0.8"][..]),
        ("5", &["--wire", "binary", "--mode", "echo", "--shards", "2", "--in-flight", "100"]),
        ("4", &["--wire", "csv", "--api", "buckets", "--rate", "3000"]),
        ("300", &["--protocol", "tcp", "--rate", "3000", "--peer-skew", "1"]),
        ("300", &["--protocol", "udp", "--mode", "echo", "--in-flight", "300", "--shards", "2"]),
    ] {
        let mut args = vec!["bench", "--peers", peers, "--duration", "0.4", "--baseline", "0", "--json", "-"];
        args.extend(more);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{more:?}: {}", status(&output).1);
        let report = report(&output);
        assert_schema(&report);
        assert_eq!(report["peers"].to_string(), peers);
        assert_eq!(number(&report, "/offered"), number(&report, "/delivered"));
        assert_eq!(
            (&report["missing"], &report["duplicates"], &report["corrupted"]),
            (&0.into(), &0.into(), &0.into())
        );
        if more.contains(&"3000") {
            // Whoever has which share: together they keep the rate, but for one that is not there yet, or there already.
            let peers: f64 = peers.parse().expect("a number");
            assert!(
                (number(&report, "/offered") + number(&report, "/not_offered") - 4_200.0).abs() <= peers,
                "{report:#}"
            );
        }
    }
}

#[test]
fn targets_get_messages_by_their_weights() {
    for more in [&["--wire", "binary"][..], &["--protocol", "tcp", "--peers", "3"]] {
        let serves = [(), ()].map(|()| Listener::start(&[&["serve"], &more[..2]].concat()));
        let heavy = format!("{}=3", serves[0].address);
        let mut args = vec!["load", "--target", &heavy, "--target", &serves[1].address, "--rate", "4000"];
        args.extend(["--duration", "0.5", "--json", "-"]);
        args.extend(more);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{more:?}: {}", status(&output).1);
        let report = report(&output);
        assert_schema(&report);
        assert_eq!(report["targets"].as_array().map(Vec::len), Some(2));
        let received = serves.map(|serve| {
            serve.interrupt();
            let (code, stdout) = serve.finish();
            let text = String::from_utf8_lossy(&stdout).replace(',', "");
            assert_eq!(code, Some(0), "{text}");
            let count = text.lines().find_map(|line| line.strip_prefix("received"));
            count.and_then(|count| count.trim().parse::<f64>().ok()).expect("a count")
        });
        assert_eq!((received[0] + received[1], due(&report)), (number(&report, "/offered"), 6_000.0));
        assert!((received[0] - 4_500.0).abs() < 200.0, "{received:?}");
    }
}

#[test]
fn too_many_peers_and_shares_of_nothing_are_bad_usage() {
    for (args, word) in [
        (&["--peers", "257"][..], "256"),
        (&["--peers", "3", "--peer-skew", "1"], "--rate"),
        (&["--peers", "60001", "--protocol", "tcp"], "60000"),
    ] {
        let output = run(&[&["bench", "--baseline", "0"], args].concat());
        let (code, words) = status(&output);
        assert_eq!(code, Some(2), "{words}");
        assert!(words.contains(word), "{words}");
    }
    let output = run(&["load", "--target", "127.0.0.1:9=0"]);
    assert_eq!(output.status.code(), Some(2));
}
