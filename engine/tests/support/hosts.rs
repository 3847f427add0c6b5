//! Hosts of a test's own: threads in network namespaces, joined by veth pairs. Nothing is named, so nothing is left behind:
//! a namespace ends with its thread and its sockets.

use nix::sched::{CloneFlags, unshare};
use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

type Task = Box<dyn FnOnce() + Send>;

/// A network namespace, and a thread in it.
#[derive(Debug)]
pub struct Host {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
    /// By which `ip` finds the namespace.
    tid: i32,
}

impl Host {
    /// A host with nothing but loopback; `None`, after a skip, if this process may not make one.
    pub fn new() -> Option<Self> {
        let (tasks, queue) = channel::<Task>();
        let (ready, started) = channel();
        let thread = std::thread::spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid().as_raw());
            let failed = unshared.is_err();
            ready.send(unshared).unwrap();
            if !failed {
                queue.iter().for_each(|task| task());
            }
        });
        match started.recv().unwrap() {
            Ok(tid) => {
                let host = Self { tasks: Some(tasks), thread: Some(thread), tid };
                host.ip("link set lo up");
                Some(host)
            }
            Err(error) => {
                super::skip(&format!("no network namespaces: {error} (needs root)"));
                None
            }
        }
    }

    /// Runs `task` in the namespace: sockets it makes, and threads it starts, stay there.
    pub fn run<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let task = Box::new(move || {
            done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(task))).unwrap()
        });
        self.tasks.as_ref().unwrap().send(task).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command there, `input` on its standard input; its output.
    pub fn command(&self, command: &str, input: &str) -> String {
        let (command, input) = (command.to_owned(), input.to_owned());
        self.run(move || {
            let mut words = command.split_whitespace();
            let mut child = Command::new(words.next().unwrap())
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("{command}: {error}"));
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{command}: {errors}\n{input}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// `ip ARGUMENTS`.
    pub fn ip(&self, arguments: &str) {
        self.command(&format!("ip {arguments}"), "");
    }

    /// Loads rules of nftables.
    pub fn nft(&self, rules: &str) {
        self.command("nft -f -", rules);
    }

    /// Packets a named counter of table `inet test` has seen.
    pub fn nft_counter(&self, name: &str) -> u64 {
        let text = self.command(&format!("nft list counter inet test {name}"), "");
        let packets = text.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
        packets.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {text}"))
    }

    /// Joins two hosts: `device` at both ends, with these addresses (`10.0.0.1/24`). When it returns packets pass: before, the
    /// devices lose what they are given.
    pub fn join(&self, other: &Self, device: (&str, &str), addresses: (&str, &str)) {
        self.ip(&format!("link add {} type veth peer name {} netns {}", device.0, device.1, other.tid));
        for (host, device, address) in [(self, device.0, addresses.0), (other, device.1, addresses.1)] {
            host.ip(&format!("address add {address} dev {device}"));
            host.ip(&format!("link set {device} up"));
        }
        let ip = |address: &str| address.split('/').next().unwrap().to_owned();
        let bind = |host: &Self, address: &str| {
            let ip = ip(address);
            host.run(move || {
                let socket = UdpSocket::bind((ip, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                socket
            })
        };
        let sockets = [bind(self, addresses.0), bind(other, addresses.1)];
        for (from, to) in [(0, 1), (1, 0)] {
            super::until("packets pass", || {
                // Refused while there is no carrier.
                let _ = sockets[from].send_to(b"up?", sockets[to].local_addr().unwrap());
                sockets[to].recv(&mut [0; 8]).is_ok()
            });
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
