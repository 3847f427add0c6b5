//! `impair`: a bad network that tells what it did.

use super::support::{Listener, run, status};
use serde_json::Value;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

fn report(stdout: &[u8]) -> Value {
    serde_json::from_slice(stdout).expect("JSON")
}

fn count(report: &Value, way: &str, what: &str) -> u64 {
    report[way][what].as_u64().expect("a count")
}

/// Ends it, and takes its report.
fn finish(relay: Listener) -> Value {
    relay.interrupt();
    let (code, stdout) = relay.finish();
    assert_eq!(code, Some(0));
    let report = report(&stdout);
    assert_eq!(report["residual"], 0, "{report}");
    report
}

/// Bursts count datagrams, not time. Of three on average, one in 200 swallows fifteen in a row, and who hears nothing sends one a
/// second in the end: that is as long as a message is tried. Bursts as short as these never are.
#[test]
fn every_impairment_happens_and_every_message_arrives_all_the_same() {
    let serve = Listener::start(&["serve", "--wire", "binary"]);
    let relay = Listener::start_at(
        "--listen",
        &[
            "impair",
            "--to",
            &serve.address,
            "--loss",
            "5%",
            "--burst-loss",
            "5%:1.5",
            "--duplicate",
            "10%",
            "--corrupt",
            "5%",
            "--reorder",
            "10%",
            "--jitter-ms",
            "0.5",
            "--seed",
            "7",
            "--json",
            "-",
        ],
    );
    let output = run(&[
        "load",
        "--target",
        &relay.address,
        "--wire",
        "binary",
        "--rate",
        "2000",
        "--duration",
        "1",
        "--late-max-us",
        "1000000",
        "--json",
        "-",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    let loaded = report(&output.stdout);
    assert_eq!(loaded["offered"], loaded["delivered"], "{loaded}");
    let report = finish(relay);
    for what in ["lost", "lost_in_bursts", "duplicated", "corrupted", "reordered", "delayed"] {
        assert!(
            count(&report, "sent_up", what) > 0 && count(&report, "sent_down", what) > 0,
            "{what}: {report}"
        );
    }
    assert_eq!((count(&report, "sent_up", "refused"), &report["clients"]), (0, &Value::from(1)));
}

#[test]
fn without_impairments_everything_passes_unchanged_and_each_client_has_its_own_port() {
    let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
    far.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let to = far.local_addr().expect("bound").to_string();
    let relay = Listener::start_at("--listen", &["impair", "--to", &to, "--json", "-"]);
    let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a port")).collect();
    let mut ports = Vec::new();
    let mut buffer = [0; 2_000];
    for round in 0..50u16 {
        for (number, client) in (0u16..).zip(&clients) {
            let sent = [number.to_le_bytes(), round.to_le_bytes()].concat().repeat(1 + usize::from(round));
            client.send_to(&sent, &relay.address).expect("sent");
            let (bytes, from) = far.recv_from(&mut buffer).expect("it comes");
            assert_eq!(buffer[..bytes], sent);
            ports.push(from.port());
            far.send_to(&sent[1..], from).expect("sent");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let (bytes, from) = client.recv_from(&mut buffer).expect("it comes back");
            assert_eq!((&buffer[..bytes], from.to_string()), (&sent[1..], relay.address.clone()));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    let report = finish(relay);
    for way in ["sent_up", "sent_down"] {
        assert_eq!((count(&report, way, "received"), count(&report, way, "sent")), (150, 150));
    }
}

/// Somebody who is not the far end sends to where its answers come: nobody gets that, and it is said.
#[test]
fn what_is_nobodys_answer_is_in_a_count() {
    let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
    far.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let to = far.local_addr().expect("bound").to_string();
    let relay = Listener::start_at("--listen", &["impair", "--to", &to, "--json", "-"]);
    let [client, stranger] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a port"));
    client.send_to(b"up", &relay.address).expect("sent");
    let mut buffer = [0; 100];
    let (_, upstream) = far.recv_from(&mut buffer).expect("it comes");
    stranger.send_to(b"mine", upstream).expect("sent");
    far.send_to(b"answer", upstream).expect("sent");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (bytes, _) = client.recv_from(&mut buffer).expect("it comes back");
    assert_eq!(&buffer[..bytes], b"answer");
    let report = finish(relay);
    let down = ["received", "dropped_foreign", "sent"].map(|what| count(&report, "sent_down", what));
    assert_eq!((down, count(&report, "sent_up", "dropped_foreign")), ([2, 1, 1], 0));
}

/// A relay that does not come to read loses what its socket cannot hold, and says that nobody asked for that.
#[test]
fn what_the_relay_lost_by_itself_makes_it_not_valid() {
    let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = far.local_addr().expect("bound").to_string();
    for overflows in [false, true] {
        let relay = Listener::start_at("--listen", &["impair", "--to", &to, "--json", "-"]);
        let signal = |name: &str| {
            let sent = Command::new("kill").args([name, &relay.pid().to_string()]).status();
            assert!(sent.expect("kill runs").success());
        };
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        signal("-STOP");
        for _ in 0..if overflows { 50_000 } else { 10 } {
            client.send_to(&[0; 1_400], &relay.address).expect("sent");
        }
        signal("-CONT");
        let report = finish(relay);
        let drops = report["kernel_drops"].as_u64().expect("it is known");
        assert_eq!((drops > 0, &report["valid"]), (overflows, &Value::from(!overflows)), "{report}");
        assert_eq!(report["invalid_reason"].is_string(), overflows, "{report}");
    }
}

#[test]
fn one_direction_alone() {
    let far = UdpSocket::bind("127.0.0.1:0").expect("a port");
    far.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let to = far.local_addr().expect("bound").to_string();
    let args = ["impair", "--to", &to, "--only", "down", "--loss", "100", "--json", "-"];
    let relay = Listener::start_at("--listen", &args);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let mut buffer = [0; 100];
    for _ in 0..20 {
        client.send_to(b"up", &relay.address).expect("sent");
        let (bytes, from) = far.recv_from(&mut buffer).expect("it comes");
        far.send_to(&buffer[..bytes], from).expect("sent");
    }
    // The last answer is on its way yet.
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    assert!(client.recv_from(&mut buffer).is_err(), "all answers are lost");
    let report = finish(relay);
    assert_eq!((count(&report, "sent_up", "sent"), count(&report, "sent_up", "lost")), (20, 0));
    assert_eq!((count(&report, "sent_down", "lost"), count(&report, "sent_down", "sent")), (20, 0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (args, says) in [
        (&["impair", "--to", "127.0.0.1:9", "--loss", "200"][..], "per cent"),
        (&["impair", "--to", "127.0.0.1:9", "--burst-loss", "90%:2"], "leaves no time between them"),
        (&["impair", "--to", "[::1]:9"], "both IPv4 or both IPv6"),
        (&["impair", "--to", "127.0.0.1:9", "--listen", "192.0.2.1:1"], "is the address free, and ours?"),
        (&["impair", "--to", "nonsense"], "is not HOST:PORT"),
    ] {
        let (code, stderr) = status(&run(args));
        assert!(code.is_some_and(|code| code != 0) && stderr.contains(says), "{args:?}: {code:?} {stderr}");
    }
}
