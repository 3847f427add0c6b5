//! `send` and `recv`, through pipes.

use crate::support::{Listener, run, run_with_input, status, tool};

const TEXT: &str = "naïve Grüße — 漢字 🦀\nsecond line\ttab, \"quotes\"";

#[test]
fn text_standard_input_and_a_file_arrive_byte_for_byte() {
    // A large text with characters of every length, so that chunks end within them.
    let large: String = (0..40_000).map(|n| ["a", "é", "漢", "🦀"][n % 4]).collect();
    let path = std::env::temp_dir().join(format!("udp-plus-test-{}.txt", std::process::id()));
    std::fs::write(&path, &large).expect("writable");
    let file = format!("@{}", path.display());

    let recv = Listener::start(&["recv", "--count", "6"]);
    let port = recv.port().to_owned();
    let well =
        |output: std::process::Output| assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    well(run(&["send", "127.0.0.1", &port, TEXT]));
    well(run_with_input(&["send", "127.0.0.1", &port, "-"], b"no line break at the end"));
    well(run_with_input(&["send", "127.0.0.1", &port], "einer am Ende: ü\n".as_bytes()));
    well(run(&["send", "localhost", &port, "--timeout", "5", &file]));
    well(run(&["send", "127.0.0.1", &port, ""]));
    well(run(&["send", "127.0.0.1", &port, "--timeout", "60", "patient"]));
    let _ = std::fs::remove_file(&path);
    let (code, stdout) = recv.finish();
    let expected = format!("{TEXT}\nno line break at the end\neiner am Ende: ü\n\n{large}\n\npatient\n");
    assert_eq!(code, Some(0));
    assert!(stdout == expected.as_bytes(), "{} bytes instead of {}", stdout.len(), expected.len());
}

#[test]
fn json_lines_name_sender_text_and_time() {
    let recv = Listener::start(&["recv", "--json", "--count", "2"]);
    for text in [TEXT, "two"] {
        assert_eq!(status(&run(&["send", "127.0.0.1", recv.port(), text])).0, Some(0));
    }
    let (code, stdout) = recv.finish();
    assert_eq!(code, Some(0));
    let lines: Vec<serde_json::Value> = stdout
        .split(|&c| c == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["payload"], TEXT);
    assert_eq!(lines[1]["payload"], "two");
    for line in &lines {
        let sender: std::net::SocketAddr = line["sender"].as_str().expect("text").parse().expect("ip:port");
        assert!(sender.ip().is_loopback() && sender.port() > 0);
        let age = lines[1]["sent_at"].as_f64().expect("seconds") - line["sent_at"].as_f64().expect("seconds");
        assert!((0.0..60.0).contains(&age));
        assert!(line["sent_at"].as_f64().is_some_and(|at| at > 1.7e9));
    }
}

#[test]
fn a_message_says_in_which_lane_it_came() {
    let recv = Listener::start(&["recv", "--json", "--count", "2", "--wire", "binary"]);
    for more in [&["--lane", "9"][..], &[]] {
        let args = ["send", "127.0.0.1", recv.port(), "x", "--wire", "binary"];
        assert_eq!(status(&run(&[&args[..], more].concat())).0, Some(0));
    }
    let (code, stdout) = recv.finish();
    assert_eq!(code, Some(0));
    let lines = String::from_utf8(stdout).expect("text");
    let lanes: Vec<Option<u64>> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["lane"].as_u64())
        .collect();
    assert_eq!(lanes, [Some(9), None]);
    let (code, stderr) = status(&run(&["send", "127.0.0.1", "9", "x", "--lane", "9"]));
    assert!(code == Some(2) && stderr.contains("an option of the binary wire"), "{stderr}");
}

#[test]
fn no_more_than_count_is_accepted() {
    let recv = Listener::start(&["recv", "--count", "1"]);
    let port = recv.port().to_owned();
    let mut first = tool(&["send", "127.0.0.1", &port, "x", "--timeout", "3"]);
    let mut second = tool(&["send", "127.0.0.1", &port, "x", "--timeout", "3"]);
    let (first, second) = (first.spawn().expect("starts"), second.spawn().expect("starts"));
    let codes = [first, second].map(|child| child.wait_with_output().expect("ends").status.code());
    // Whoever is told "delivered" was printed, and nobody else was.
    assert!(codes == [Some(0), Some(1)] || codes == [Some(1), Some(0)], "{codes:?}");
    assert_eq!(recv.finish(), (Some(0), b"x\n".to_vec()));
}

#[test]
fn a_dead_target_is_status_1_with_the_cause() {
    // Bound, so that nobody else gets the port, but nobody reads.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port().to_string();
    let (code, stderr) = status(&run(&["send", "127.0.0.1", &port, "hello", "--timeout", "0.3"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expired at its deadline") && stderr.contains("may or may not"), "{stderr}");
}

#[test]
fn other_failures_name_their_cause() {
    let (code, stderr) = status(&run_with_input(&["send", "127.0.0.1", "9", "-"], &[0xFF, 0xFE]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("not UTF-8"), "{stderr}");
    let (code, stderr) = status(&run(&["send", "no-such-host.invalid", "9", "x"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no-such-host.invalid"), "{stderr}");
    let (code, stderr) = status(&run(&["send", "127.0.0.1", "9", "@/no/such/file"]));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/no/such/file"), "{stderr}");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, stderr) = status(&run(&["recv", "--bind", &address]));
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("udp-plus: "), "{stderr}");
}

#[test]
fn bad_usage_is_status_2() {
    for args in [
        &["send"][..],
        &["send", "127.0.0.1", "notaport", "x"],
        &["recv", "--count", "none"],
        &["bench", "--size", "1"],
        &["bench", "--driver", "carrier-pigeon"],
        &["bench", "--row-bytes", "10"],
        &["--json"],
        &["load", "--target", "no-port-given"],
    ] {
        let (code, stderr) = status(&run(args));
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn ctrl_c_ends_recv_in_peace() {
    let recv = Listener::start(&["recv"]);
    assert_eq!(status(&run(&["send", "127.0.0.1", recv.port(), "last"])).0, Some(0));
    recv.interrupt();
    assert_eq!(recv.finish(), (Some(0), b"last\n".to_vec()));
}
