//! Plain UDP and TCP under the same load.

use super::support::{Listener, assert_rests, assert_schema, due, number, report, run, status};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

const EVERY: [(&str, &str); 3] = [("udp", "echo"), ("tcp", "echo"), ("tcp", "sink")];

/// Everything that holds for any run, whatever became of the messages.
fn assert_adds_up(report: &Value) {
    assert_schema(report);
    let failed: f64 = report["failed"].as_object().expect("causes").values().filter_map(Value::as_f64).sum();
    assert_eq!(number(report, "/offered"), number(report, "/delivered") + failed, "{report:#}");
    assert_eq!(number(report, "/conservation/residual"), 0.0);
    // The content is looked at where messages end: at a far end in another process only by its echoes.
    let is_seen = report["mode"] == "echo" || report["targets"].as_array().is_none_or(Vec::is_empty);
    let corrupted = if is_seen { 0.into() } else { Value::Null };
    assert_eq!((&report["corrupted"], &report["driver"]), (&corrupted, &"sockets".into()));
}

fn assert_well(report: &Value) {
    assert_adds_up(report);
    assert_eq!(
        (&report["ok"], &report["failed"], &report["answered_late"]),
        (&true.into(), &json!({}), &0.into())
    );
    assert!(number(report, "/delivered") > 0.0);
    let latency =
        ["p50", "p90", "p99", "p99_9", "max"].map(|name| number(report, &format!("/latency_ns/{name}")));
    assert!(latency.is_sorted() && latency[0] > 100.0, "{latency:?}");
}

#[test]
fn both_ends_here_in_either_loop() {
    for (protocol, mode) in EVERY {
        for rate in ["max", "3000"] {
            let mut args =
                vec!["bench", "--protocol", protocol, "--mode", mode, "--rate", rate, "--duration", "0.3"];
            // What the receive buffer holds for sure: a closed loop over UDP loses what is more.
            args.extend([
                "--baseline",
                "0",
                "--in-flight",
                "200",
                "--explain",
                "--json",
                "-",
                "--shards",
                "2",
            ]);
            let output = run(&args);
            let (code, words) = status(&output);
            assert_eq!(code, Some(0), "{protocol} {mode}: {words}");
            let report = report(&output);
            assert_well(&report);
            assert_eq!((&report["protocol"], &report["wire"]), (&protocol.into(), &"none".into()));
            assert_eq!((&report["missing"], &report["duplicates"]), (&0.into(), &0.into()));
            if rate != "max" {
                assert_eq!(due(&report), 3_900.0);
            }
            if protocol == "udp" {
                // There and back, at both ends.
                let datagrams = 4.0 * number(&report, "/delivered");
                let [sent, received] = ["sent", "received"]
                    .map(|way| number(&report, &format!("/conservation/datagrams/{way}")));
                assert_eq!(sent + received, datagrams, "{report:#}");
                assert_eq!(report["kernel_drops"], 0);
            }
        }
    }
}

#[test]
fn sizes_from_the_least_to_the_greatest() {
    for (protocol, mode, size) in
        [("udp", "echo", "16"), ("udp", "echo", "65507"), ("tcp", "echo", "1MiB"), ("tcp", "sink", "17")]
    {
        let mut args =
            vec!["bench", "--protocol", protocol, "--mode", mode, "--size", size, "--in-flight", "4"];
        args.extend(["--duration", "0.2", "--baseline", "0", "--json", "-"]);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{protocol} {size}: {}", status(&output).1);
        let report = report(&output);
        assert_well(&report);
        let goodput = number(&report, "/msgs_per_s") * number(&report, "/size") * 8.0;
        assert!((number(&report, "/goodput_bits_per_s") / goodput - 1.0).abs() < 1e-6);
    }
}

#[test]
fn load_against_serve_in_another_process() {
    for (protocol, mode) in EVERY {
        let serve = Listener::start(&["serve", "--protocol", protocol, "--mode", mode]);
        if protocol == "tcp" {
            // A stranger with a length of 4 GiB is shown out, and nothing else happens.
            let mut stranger = TcpStream::connect(&serve.address).expect("it listens");
            stranger.write_all(&[0xFF; 64]).expect("sent");
            assert!(matches!(stranger.read(&mut [0; 1]), Ok(0) | Err(_)), "closed");
        }
        let target = format!("localhost:{}", serve.port());
        let mut args =
            vec!["load", "--target", &target, "--protocol", protocol, "--mode", mode, "--rate", "2000"];
        args.extend(["--duration", "0.3", "--json", "-"]);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
        let report = report(&output);
        assert_well(&report);
        assert_eq!((due(&report), &report["missing"]), (2_600.0, &Value::Null));
        serve.interrupt();
        let (code, stdout) = serve.finish();
        let text = String::from_utf8_lossy(&stdout).replace(',', "");
        assert_eq!(code, Some(0), "{text}");
        let received = text.lines().find_map(|line| line.strip_prefix("received")).map(str::trim);
        assert_eq!(received, Some(&*report["delivered"].to_string()), "{text}");
    }
}

/// What gets no answer has failed at its deadline, and stands behind everything that got one.
#[test]
fn datagrams_that_are_lost_have_failed() {
    let serve = Listener::start(&["serve", "--protocol", "udp", "--mode", "echo"]);
    let impair = ["impair", "--to", &serve.address, "--loss", "10%", "--seed", "3", "--json", "-"];
    let relay = Listener::start_at("--listen", &impair);
    let mut args =
        vec!["load", "--target", &relay.address, "--protocol", "udp", "--mode", "echo", "--rate", "2000"];
    args.extend(["--duration", "1", "--deadline-ms", "1000", "--json", "-"]);
    let output = run(&args);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_adds_up(&report);
    relay.interrupt();
    let relayed: Value = serde_json::from_slice(&relay.finish().1).expect("JSON");
    let lost = number(&relayed, "/sent_up/lost") + number(&relayed, "/sent_down/lost");
    assert!(lost > 100.0, "{relayed}");
    // An answer that a busy machine brings too late is one as well.
    let late = number(&report, "/answered_late");
    assert_eq!(number(&report, "/failed/no_answer"), lost + late, "{relayed}");
    assert!(number(&report, "/censored/at_least_ns") >= 1e9);
    // 19 % of the messages: the 90th percentile falls on them, the median does not.
    let censored = report["censored"]["percentiles"].as_array().expect("some");
    assert!(censored.contains(&"p90".into()) && !censored.contains(&"p50".into()), "{censored:?}");
    assert!(number(&report, "/delivered_within/max") > 0.7);
}

/// Answers behind the deadline change nothing: the message has failed. But they are told of.
#[test]
fn an_answer_that_is_late_is_no_delivery() {
    let serve = Listener::start(&["serve", "--protocol", "udp", "--mode", "echo"]);
    let relay = Listener::start_at(
        "--listen",
        &["impair", "--to", &serve.address, "--delay-ms", "150", "--json", "-"],
    );
    let mut args =
        vec!["load", "--target", &relay.address, "--protocol", "udp", "--mode", "echo", "--rate", "500"];
    args.extend(["--duration", "0.5", "--deadline-ms", "100", "--json", "-"]);
    let output = run(&args);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_adds_up(&report);
    assert_eq!(due(&report), 750.0);
    assert_eq!(
        (&report["failed"], &report["delivered"]),
        (&json!({"no_answer": report["offered"]}), &0.into())
    );
    assert!(number(&report, "/answered_late") > 100.0, "{report:#}");
}

#[test]
fn a_dead_target_is_said_to_be_one() {
    // Not of 127.0.0.1: who connects from there to a port that is free may get it for his own, and so himself.
    let silent = UdpSocket::bind("127.0.0.77:0").expect("a port");
    let target = silent.local_addr().expect("bound").to_string();
    let load = ["load", "--target", &target, "--mode", "echo", "--duration", "0.2", "--json", "-"];
    let output = run(&[&load[..], &["--protocol", "udp", "--rate", "500", "--deadline-ms", "200"]].concat());
    let silence = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_adds_up(&silence);
    assert_eq!((due(&silence), &silence["failed"]), (600.0, &json!({"no_answer": silence["offered"]})));
    // Nobody is at the port any more, and the kernel says so with every datagram.
    drop(silent);
    let output =
        run(&[&load[..], &["--protocol", "udp", "--in-flight", "10", "--deadline-ms", "1500"]].concat());
    let nobody = report(&output);
    assert_adds_up(&nobody);
    assert_eq!(nobody["failed"], json!({"no_answer": 10}));
    let output = run(&[&load[..], &["--protocol", "tcp"]].concat());
    let (code, words) = status(&output);
    assert_eq!(code, Some(1));
    assert!(words.contains("cannot connect to") && words.contains("serve --protocol tcp"), "{words}");
}

/// Sends back what comes, and closes after so many bytes.
fn echo(listener: &TcpListener, bytes_max: usize) {
    let (mut connection, _) = listener.accept().expect("somebody comes");
    let (mut buffer, mut echoed) = ([0; 4_096], 0);
    while echoed < bytes_max {
        let Ok(count) = connection.read(&mut buffer) else { return };
        if count == 0 || connection.write_all(&buffer[..count]).is_err() {
            return;
        }
        echoed += count;
    }
}

/// A far end that closes amid the run: what was under way has failed, and what comes later goes by a new connection.
#[test]
fn a_connection_that_closes_takes_its_messages_with_it() {
    for rate in ["4000", "max"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("bound").to_string();
        // A second and a half of 68 B messages; then the port is closed for good, or answers again.
        let far = std::thread::spawn(move || {
            echo(&listener, 4_000 * 68);
            echo(&listener, usize::MAX);
        });
        let mut args =
            vec!["load", "--target", &target, "--protocol", "tcp", "--mode", "echo", "--rate", rate];
        args.extend(["--duration", "0.5", "--in-flight", "100", "--json", "-"]);
        let output = run(&args);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(1), "{}", status(&output).1);
        assert_adds_up(&report);
        let causes: Vec<&String> = report["failed"].as_object().expect("causes").keys().collect();
        assert!(
            causes.iter().all(|cause| ["connection_closed", "not_connected"].contains(&cause.as_str())),
            "{causes:?}"
        );
        // A closed loop has messages under way at any time; whether an open one has is chance.
        assert!(rate != "max" || number(&report, "/failed/connection_closed") > 0.0, "{report:#}");
        assert!(rate == "max" || number(&report, "/failed/not_connected") > 0.0, "{report:#}");
        assert!(number(&report, "/delivered") > 4_200.0, "it went on: {report:#}");
        far.join().expect("no panic");
    }
}

/// Neither end does what the other one waits for: that is no delivery.
#[test]
fn far_ends_of_the_other_mode_are_told_apart() {
    for (of_serve, of_load) in [("echo", "sink"), ("sink", "echo")] {
        let serve = Listener::start(&["serve", "--protocol", "tcp", "--mode", of_serve]);
        let mut args = vec!["load", "--target", &serve.address, "--protocol", "tcp", "--mode", of_load];
        args.extend(["--rate", "500", "--duration", "0.2", "--json", "-"]);
        let output = run(&args);
        let report = report(&output);
        assert_eq!(output.status.code(), Some(1), "{report:#}");
        assert_adds_up(&report);
        assert_eq!(report["failed"], json!({"wrong_mode": report["offered"]}), "{report:#}");
        assert_eq!(report["delivered"], 0);
    }
}

/// More connections than the process may have files: those who wait cost nothing, and get in when others have left.
#[test]
fn connections_that_cannot_be_let_in_wait() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_udp-plus")]);
    command.args(["serve", "--protocol", "tcp", "--bind", "127.0.0.1:0"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let serve = Listener::of(command);
    let strangers: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(&serve.address).expect("the backlog has room")).collect();
    // It asks ten times a second.
    assert_rests(serve.pid(), "a server that is full", 20, 2);
    drop(strangers);
    let load =
        ["load", "--target", &serve.address, "--protocol", "tcp", "--rate", "1000", "--duration", "0.2"];
    let output = run(&[&load[..], &["--json", "-"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    assert_well(&report(&output));
}

#[test]
fn what_plain_sockets_do_not_have_is_bad_usage() {
    let load = |more: &[&str]| {
        let output = run(&[&["load", "--target", "127.0.0.1:9"], more].concat());
        let (code, words) = status(&output);
        assert_eq!(code, Some(2), "{more:?}: {words}");
        words
    };
    assert!(load(&["--protocol", "udp"]).contains("--mode echo"));
    let words = load(&["--protocol", "tcp", "--wire", "binary", "--no-gso"]);
    assert!(words.contains("--wire, --no-gso"), "{words}");
    assert!(load(&["--protocol", "udp", "--mode", "echo", "--size", "65508"]).contains("65507"));
    assert!(load(&["--protocol", "tcp", "--priority", "high"]).contains("--protocol is tcp"));
    let output = run(&["serve", "--protocol", "udp"]);
    assert_eq!(output.status.code(), Some(2));
    // Two servers at one port would share the senders without knowing.
    let serve = Listener::start(&["serve", "--protocol", "udp", "--mode", "echo"]);
    let output = run(&["serve", "--protocol", "udp", "--mode", "echo", "--bind", &serve.address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(status(&output).1.contains("cannot bind"));
}
