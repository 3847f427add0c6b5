//! A middlebox on a host between two others: it passes datagrams on as a [`Path`] decides, and is the sender's NAT, whose port
//! and address change when the path says so.
//!
//! ```text
//!   sender --> [front] --> [upstream, another one after each change] --> receiver
//! ```

use super::hosts::Host;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use udp_plus::sim::scenario::{Counts, Event, Pass, Path};

/// How long a thread may take to notice that it is to stop.
const TURN: Duration = Duration::from_millis(1);

/// Running; dropping it ends it.
#[derive(Debug)]
pub struct Middlebox {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    front: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    front: UdpSocket,
    receiver: SocketAddr,
    path: Mutex<Path>,
    upstream: Mutex<Arc<UdpSocket>>,
    /// Where the NAT goes next.
    addresses: Mutex<Vec<IpAddr>>,
    sender: Mutex<Option<SocketAddr>>,
    stop: AtomicBool,
    began: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bind(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(TURN)).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
    socket
}

impl Middlebox {
    /// On `host`: senders reach it at `front`; it speaks to `receiver` from the first of `addresses`, and moves on to the next
    /// one at each [`Event::NewAddress`].
    pub fn start(host: &Host, front: IpAddr, addresses: &[IpAddr], receiver: SocketAddr, path: Path) -> Self {
        let mut addresses = addresses.to_vec();
        host.run(move || {
            let upstream = bind(addresses[0]);
            addresses.remove(0);
            let front = bind(front);
            let shared = Arc::new(Shared {
                receiver,
                path: Mutex::new(path),
                upstream: Mutex::new(Arc::new(upstream)),
                addresses: Mutex::new(addresses),
                sender: Mutex::default(),
                stop: AtomicBool::new(false),
                began: Instant::now(),
                front,
            });
            let front = shared.front.local_addr().unwrap();
            let threads = [true, false].map(|to_receiver| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.run(to_receiver))
            });
            Self { shared, threads: threads.into(), front }
        })
    }

    /// Where the sender sends to.
    pub fn address(&self) -> SocketAddr {
        self.front
    }

    /// What the path did.
    pub fn counts(&self) -> Counts {
        lock(&self.shared.path).counts()
    }
}

impl Drop for Middlebox {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, to_receiver: bool) {
        let mut buffer = vec![0; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let upstream = Arc::clone(&lock(&self.upstream));
            let from = if to_receiver { &self.front } else { &*upstream };
            let Ok((bytes, sender)) = from.recv_from(&mut buffer) else { continue };
            if to_receiver {
                *lock(&self.sender) = Some(sender);
            }
            let datagram = &mut buffer[..bytes];
            let (passed, event) = {
                let mut path = lock(&self.path);
                (path.pass(self.began.elapsed(), to_receiver, datagram), path.take_rebinding())
            };
            if let Some(event) = event {
                self.rebind(event);
            }
            if passed == Pass::Lost {
                continue;
            }
            // What the other side does not take is lost, as anywhere.
            let _ = match (to_receiver, *lock(&self.sender)) {
                (true, _) => lock(&self.upstream).send_to(datagram, self.receiver),
                (false, Some(sender)) => self.front.send_to(datagram, sender),
                (false, None) => continue,
            };
        }
    }

    /// The old socket is closed when the other thread lets go of it: what comes there reaches nobody.
    fn rebind(&self, event: Event) {
        let mut upstream = lock(&self.upstream);
        let ip = match event {
            Event::NewAddress => lock(&self.addresses).remove(0),
            _ => upstream.local_addr().unwrap().ip(),
        };
        *upstream = Arc::new(bind(ip));
    }
}
