//! `--key-file`, between two processes.

use crate::support::{Listener, run, sleep, status, tool};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

const K1: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0102132435465768798a9bacbdcedfe0f";
const K2: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

struct Keys(PathBuf);

impl Keys {
    fn new(name: &str, text: &str) -> Self {
        let keys = Self(std::env::temp_dir().join(format!("udp-plus-tool-{name}-{}", std::process::id())));
        keys.write(text, 0o600);
        keys
    }

    fn write(&self, text: &str, mode: u32) {
        fs::write(&self.0, text).expect("writable");
        fs::set_permissions(&self.0, fs::Permissions::from_mode(mode)).expect("ours");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("ASCII")
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn who_has_a_key_is_served_and_serve_reads_keys_again_at_sighup() {
    let (of_server, of_client) =
        (Keys::new("server", &format!("1 {K1}")), Keys::new("client", &format!("1 {K1}")));
    let serve = Listener::start(&["serve", "--wire", "binary", "--key-file", of_server.path()]);
    let send = |more: &[&str]| {
        let mut args = vec!["send", "127.0.0.1", serve.port(), "--timeout", "1"];
        args.extend(more);
        run(&args)
    };
    let sealed = || send(&["--wire", "binary", "--key-file", of_client.path(), "text"]);
    let output = sealed();
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    of_client.write(&format!("2 {K2}"), 0o600);
    for other in [
        &["--wire", "binary", "--key-file", of_client.path(), "text"][..],
        &["--wire", "binary", "--key-file", of_server.path(), "--cipher", "chacha20-poly1305", "text"],
        &["--wire", "binary", "text"],
        &["text"],
    ] {
        assert_eq!(send(other).status.code(), Some(1), "{other:?}");
    }
    of_server.write(&format!("1 {K1}\n2 {K2}"), 0o600);
    let hup = Command::new("kill").args(["-HUP", &serve.pid().to_string()]).status();
    assert!(hup.expect("kill runs").success());
    // It comes when it comes.
    assert!((0..10).any(|_| sealed().status.code() == Some(0)), "the new key was read");

    let (code, text) = status(&send(&["--key-file", of_client.path(), "text"]));
    assert!(code == Some(2) && text.contains("--key-file needs --wire binary"), "{code:?} {text}");
    of_client.write(&format!("2 {K2}"), 0o644);
    let (code, text) = status(&sealed());
    assert!(code == Some(2) && text.contains("chmod 600") && !text.contains(&K2[..8]), "{code:?} {text}");
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever knows where it listens may send one at once: it is taken before anybody can know.
#[test]
fn a_sighup_sent_at_once_ends_no_server() {
    let keys = Keys::new("at-once", &format!("1 {K1}"));
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    // Nobody reads: it does not come beyond its first word.
    theirs.set_nonblocking(true).expect("ours");
    while theirs.write(&[b'\n'; 1_024]).is_ok() {}
    theirs.set_nonblocking(false).expect("ours");
    let serve = ["serve", "--bind", "127.0.0.1:0", "--wire", "binary", "--key-file", keys.path()];
    let serve = Killed(tool(&serve).stderr(OwnedFd::from(theirs)).spawn().expect("the tool starts"));
    let pid = serve.0.id().to_string();
    let is_taken = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
        let signals = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("signals");
        u64::from_str_radix(signals.trim(), 16).expect("a mask") & 1 == 1
    };
    for _ in 0..1_000 {
        if is_taken() {
            break;
        }
        sleep(Duration::from_millis(10));
    }
    assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill runs").success());
    ours.set_read_timeout(Some(Duration::from_secs(60))).expect("ours");
    let mut lines = BufReader::new(ours).lines().map_while(Result::ok);
    let mut says = |start: &str| lines.any(|line| line.starts_with(start));
    assert!(says("listening ") && says("keys read again"));
}
