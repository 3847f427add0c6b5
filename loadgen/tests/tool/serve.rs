//! The end of `serve`.

use crate::support::Listener;
use std::net::UdpSocket;
use std::process::Command;

/// Somebody who never answers does not keep a server that is told to go: it drains for 5 s, and says what it left.
#[test]
fn a_server_that_is_told_to_go_does_not_wait_for_who_never_answers() {
    let serve = Listener::start(&["serve", "--wire", "binary", "--mode", "echo", "--ledger"]);
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    silent.connect(&serve.address).expect("loopback");
    silent.send(b",3f2a9c1e,,,aGVsbG8=,1764123456.1").expect("it is sent");
    // The echo goes over a flow, and we never answer its HELLO.
    let mut datagram = [0; 2_048];
    while silent.recv(&mut datagram).is_err() || datagram[0] != 0xd2 {}
    let sent = Command::new("kill").args(["-TERM", &serve.pid().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    let (code, served) = serve.finish();
    let served = String::from_utf8(served).expect("text");
    assert_eq!(code, Some(1), "{served}");
    // Not timed out, which takes longer than the drain.
    assert!(served.contains("FAILED: 1 echoes: engine_stopped"), "{served}");
    let residual = served.lines().find(|line| line.starts_with("residual")).expect("a ledger");
    assert!(residual.ends_with(" 0"), "{served}");
}
