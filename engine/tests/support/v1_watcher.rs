//! An original v1 peer at a given address that survives a byte of the binary wire, so that such bytes can be counted.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use udp_plus::sim::v1_peer::{READ_BYTES_MAX, V1Peer};

/// What it saw.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Every datagram, in order.
    pub datagrams: Vec<Vec<u8>>,
    /// Texts handed to its application.
    pub texts: Vec<String>,
}

impl Watched {
    /// Datagrams that would have ended an original.
    pub fn binary(&self) -> usize {
        self.datagrams.iter().filter(|bytes| bytes.first().is_some_and(|&first| first >= 0x80)).count()
    }
}

/// Running; dropping it ends it.
#[derive(Debug)]
pub struct V1Watcher {
    address: SocketAddr,
    watched: Arc<Mutex<Watched>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl V1Watcher {
    /// Receives at `address`.
    pub fn bind(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let address = socket.local_addr().unwrap();
        let (watched, stop) = (Arc::new(Mutex::new(Watched::default())), Arc::new(AtomicBool::new(false)));
        let thread = {
            let (watched, stop) = (Arc::clone(&watched), Arc::clone(&stop));
            std::thread::spawn(move || run(&socket, &watched, &stop))
        };
        Self { address, watched, stop, thread: Some(thread) }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it saw so far.
    pub fn watched(&self) -> Watched {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for V1Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(socket: &UdpSocket, watched: &Mutex<Watched>, stop: &AtomicBool) {
    let mut peer = V1Peer::new();
    let mut buffer = [0; READ_BYTES_MAX];
    while !stop.load(Ordering::Relaxed) {
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
        let bytes = &buffer[..bytes];
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.datagrams.push(bytes.to_vec());
        if bytes.first().is_none_or(|&first| first >= 0x80) {
            continue;
        }
        let event = peer.handle(bytes);
        assert!(event.death.is_none(), "{:?} ended it: {:?}", event.death, String::from_utf8_lossy(bytes));
        if let Some(confirm) = event.confirm {
            let _ = socket.send_to(&confirm, from);
        }
        watched.texts.extend(event.delivered.map(|message| message.text));
    }
}
