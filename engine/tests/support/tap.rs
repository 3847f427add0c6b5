//! A wire tap: a faultless relay for one client that remembers every datagram, and can send any of them once more.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a thread may take to notice that it is to stop.
const TURN: Duration = Duration::from_millis(5);

/// A datagram that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// From the client to the server, or back.
    pub to_server: bool,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Passed {
    /// Of the binary wire.
    pub fn is_binary(&self) -> bool {
        self.bytes.first().is_some_and(|&first| first >= 0x80)
    }

    /// A row that carries a message, or a part of one.
    pub fn is_data_row(&self) -> bool {
        self.bytes.first() == Some(&b',')
    }

    /// A row that asks for the binary wire.
    pub fn is_probe(&self) -> bool {
        super::is_probe(&self.bytes)
    }
}

/// Whether eight bytes of this in a row are in a datagram. Fewer are there by chance: four of them in one megabyte of ciphertext
/// out of seven hundred.
pub fn shows(datagram: &[u8], secret: &[u8]) -> bool {
    datagram.windows(8).any(|window| secret.windows(8).any(|word| word == window))
}

/// Running; dropping it ends it.
#[derive(Debug)]
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    upstream: UdpSocket,
    server: SocketAddr,
    client: Mutex<Option<SocketAddr>>,
    passed: Mutex<Vec<Passed>>,
    /// Longer datagrams to the server are lost.
    bytes_max: AtomicUsize,
    lost: AtomicUsize,
    /// Nothing more goes to the server.
    cut: AtomicBool,
    stop: AtomicBool,
}

impl Tap {
    /// In front of `server`.
    pub fn start(server: SocketAddr) -> Self {
        let socket = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(TURN)).unwrap();
            socket
        };
        let shared = Arc::new(Shared {
            front: socket(),
            upstream: socket(),
            server,
            client: Mutex::default(),
            passed: Mutex::default(),
            bytes_max: AtomicUsize::new(usize::MAX),
            lost: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let address = shared.front.local_addr().unwrap();
        let threads = [true, false].map(|to_server| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.run(to_server))
        });
        Self { address, shared, threads: threads.into() }
    }

    /// Where the client sends to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What passed so far.
    pub fn passed(&self) -> Vec<Passed> {
        self.shared.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on longer datagrams to the server vanish: the path's MTU has fallen, and nobody says so.
    pub fn narrow(&self, bytes_max: usize) {
        self.shared.bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// How many have vanished.
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// From now on what the client sends is lost, as if it had crashed.
    pub fn cut_client(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
    }

    /// Sends a datagram to the server as if the client had.
    pub fn send_to_server(&self, bytes: &[u8]) {
        self.shared.upstream.send_to(bytes, self.shared.server).unwrap();
    }

    /// Sends a datagram to the client as if the server had.
    pub fn send_to_client(&self, bytes: &[u8]) {
        let client = self.shared.client.lock().unwrap_or_else(PoisonError::into_inner).unwrap();
        self.shared.front.send_to(bytes, client).unwrap();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, to_server: bool) {
        let from = if to_server { &self.front } else { &self.upstream };
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((bytes, sender)) = from.recv_from(&mut buffer) else { continue };
            if to_server && bytes > self.bytes_max.load(Ordering::Relaxed) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if to_server && self.cut.load(Ordering::SeqCst) {
                continue;
            }
            let bytes = buffer[..bytes].to_vec();
            self.passed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Passed { to_server, bytes: bytes.clone() });
            let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            if to_server {
                *client = Some(sender);
            }
            // What the other side does not take is lost, as anywhere.
            let _ = match (to_server, *client) {
                (true, _) => self.upstream.send_to(&bytes, self.server),
                (false, Some(client)) => self.front.send_to(&bytes, client),
                (false, None) => continue,
            };
        }
    }
}
