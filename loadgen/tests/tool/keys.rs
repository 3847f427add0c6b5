//! `--key-file`, between two processes.

use crate::support::{Listener, run, status};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

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
