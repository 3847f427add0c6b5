//! A bad network between real sockets: a seeded UDP relay on loopback that drops, duplicates, reorders and delays, and
//! remembers what it did to each row.
//!
//! ```text
//!   client A --> [front socket] --> upstream socket A --> server        one upstream socket per client address, so the
//!   client B -->                --> upstream socket B -->               server sees each client as a peer of its own
//! ```
//!
//! One thread; decisions are drawn from the seed in the order datagrams come in. Its receive buffers are as big as the
//! system allows; what overflows them all the same is reported as [`RelayLog::kernel_drops`].

use super::RealClock;
use super::relay_log::{Direction, RelayLog};
use crate::units::Instant;
use crate::wire::csv::Scratch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Asked for; without the right to exceed `rmem_max` the kernel gives that much.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// Datagrams taken from one socket before the others get their turn.
const RECEIVES_PER_TURN: usize = 64;
/// How long the thread may take to notice that it is to stop.
const TURN_MAX: Duration = Duration::from_millis(10);
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// How bad the network is. Both directions are treated alike.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Where clients' datagrams go. IPv4.
    pub to: SocketAddr,
    /// Of every decision.
    pub seed: u64,
    /// Probability that a datagram is dropped.
    pub loss: f64,
    /// Probability that a datagram that is not dropped goes out twice.
    pub duplicate: f64,
    /// Probability that a copy is held back.
    pub reorder: f64,
    /// A copy held back goes out after this many further datagrams of its direction...
    pub hold_datagrams: u32,
    /// ...or after this many milliseconds, whichever comes first.
    pub hold_ms: u64,
    /// Every other copy is delayed by a time drawn from this range, in milliseconds.
    pub delay_ms: RangeInclusive<u64>,
}

impl RelayOptions {
    /// A network without faults.
    #[must_use]
    pub const fn clean(to: SocketAddr) -> Self {
        Self {
            to,
            seed: 1,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            hold_datagrams: 8,
            hold_ms: 20,
            delay_ms: 0..=0,
        }
    }
}

/// A running relay. Dropping it stops the thread; what it still holds is lost.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    healed: Arc<AtomicBool>,
    log: Arc<Mutex<RelayLog>>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(options: RelayOptions) -> io::Result<Self> {
        let front = open_socket()?;
        let address = front.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let healed = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(RelayLog::default()));
        let worker = Worker {
            front,
            clients: Vec::new(),
            client_of: BTreeMap::new(),
            random: fastrand::Rng::with_seed(options.seed),
            options,
            clock: RealClock::start(),
            delayed: BinaryHeap::new(),
            delayed_total: 0,
            held: Vec::new(),
            scratch: Scratch::new(),
            stop: Arc::clone(&stop),
            healed: Arc::clone(&healed),
            log: Arc::clone(&log),
        };
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || worker.run())?;
        Ok(Self { address, stop, healed, log, thread: Some(thread) })
    }

    /// Where clients send to.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing is dropped, duplicated or held back. Delays stay.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::Relaxed);
    }

    /// What it did so far.
    #[must_use]
    pub fn log(&self) -> RelayLog {
        lock(&self.log).clone()
    }

    /// Stops, and tells what it did.
    #[must_use]
    pub fn stop(mut self) -> RelayLog {
        self.join();
        self.log()
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.join();
    }
}

fn lock(log: &Mutex<RelayLog>) -> MutexGuard<'_, RelayLog> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    Ok(socket)
}

struct Client {
    address: SocketAddr,
    upstream: UdpSocket,
}

/// One copy of a datagram on its way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Copy {
    direction: Direction,
    client: usize,
    bytes: Vec<u8>,
}

struct HeldCopy {
    copy: Copy,
    datagrams_left: u32,
    release_at: Instant,
}

struct Worker {
    front: UdpSocket,
    clients: Vec<Client>,
    client_of: BTreeMap<SocketAddr, usize>,
    options: RelayOptions,
    random: fastrand::Rng,
    clock: RealClock,
    /// By time, then in the order they came in.
    delayed: BinaryHeap<Reverse<(Instant, u64, Copy)>>,
    delayed_total: u64,
    held: Vec<HeldCopy>,
    scratch: Scratch,
    stop: Arc<AtomicBool>,
    healed: Arc<AtomicBool>,
    log: Arc<Mutex<RelayLog>>,
}

impl Worker {
    fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !self.stop.load(Ordering::Relaxed) {
            self.wait();
            self.receive_front(&mut buffer);
            for client in 0..self.clients.len() {
                self.receive_upstream(client, &mut buffer);
            }
            self.release_due();
        }
        let drops = self.kernel_drops();
        lock(&self.log).kernel_drops = drops;
    }

    /// Until a datagram is there, a copy is due, or it is time to look whether to stop.
    fn wait(&self) {
        let now = self.clock.now();
        let held = self.held.iter().map(|held| held.release_at);
        let next = self.delayed.peek().map(|Reverse((due, _, _))| *due).into_iter().chain(held).min();
        let wait = next.map_or(TURN_MAX, |due| due.since(now).min(TURN_MAX));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let upstreams = self.clients.iter().map(|client| &client.upstream);
        let mut sockets: Vec<PollFd<'_>> =
            std::iter::once(&self.front).chain(upstreams).map(|s| PollFd::new(s, PollFlags::IN)).collect();
        let _ = poll(&mut sockets, Some(&timeout)); // An interrupted wait is a short wait.
    }

    fn receive_front(&mut self, buffer: &mut [u8]) {
        for _ in 0..RECEIVES_PER_TURN {
            match self.front.recv_from(buffer) {
                Ok((bytes, from)) => {
                    let Ok(client) = self.client(from) else { continue };
                    self.take(Direction::ToServer, client, buffer.get(..bytes).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {} // A report about an earlier send: the peer is not there. Nothing of it is for us.
            }
        }
    }

    fn receive_upstream(&mut self, client: usize, buffer: &mut [u8]) {
        for _ in 0..RECEIVES_PER_TURN {
            let Some(socket) = self.clients.get(client).map(|client| &client.upstream) else { return };
            match socket.recv(buffer) {
                Ok(bytes) => self.take(Direction::ToClient, client, buffer.get(..bytes).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }

    fn client(&mut self, address: SocketAddr) -> io::Result<usize> {
        if let Some(&client) = self.client_of.get(&address) {
            return Ok(client);
        }
        let upstream = open_socket()?;
        upstream.connect(self.options.to)?;
        self.clients.push(Client { address, upstream });
        self.client_of.insert(address, self.clients.len() - 1);
        Ok(self.clients.len() - 1)
    }

    /// Decides what happens to a datagram.
    fn take(&mut self, direction: Direction, client: usize, datagram: &[u8]) {
        let faults = !self.healed.load(Ordering::Relaxed);
        let dropped = faults && self.random.f64() < self.options.loss;
        lock(&self.log).note(direction, client, datagram, dropped, &mut self.scratch);
        let overtaken = self.held.len();
        if !dropped {
            let duplicated = faults && self.random.f64() < self.options.duplicate;
            lock(&self.log).counts_mut(direction).duplicated += u64::from(duplicated);
            for _ in 0..1 + u32::from(duplicated) {
                self.route(Copy { direction, client, bytes: datagram.to_vec() }, faults);
            }
        }
        // What was held back before this datagram has now been overtaken by one more.
        for held in self.held.iter_mut().take(overtaken).filter(|held| held.copy.direction == direction) {
            held.datagrams_left = held.datagrams_left.saturating_sub(1);
        }
    }

    fn route(&mut self, copy: Copy, faults: bool) {
        let now = self.clock.now();
        if faults && self.random.f64() < self.options.reorder {
            lock(&self.log).counts_mut(copy.direction).reordered += 1;
            let release_at = now + Duration::from_millis(self.options.hold_ms);
            self.held.push(HeldCopy { copy, datagrams_left: self.options.hold_datagrams, release_at });
            return;
        }
        let delay_ms = self.random.u64(self.options.delay_ms.clone());
        if delay_ms == 0 && self.delayed.is_empty() {
            return self.forward(&copy);
        }
        self.delayed_total += 1;
        let due = now + Duration::from_millis(delay_ms);
        self.delayed.push(Reverse((due, self.delayed_total, copy)));
    }

    fn release_due(&mut self) {
        let now = self.clock.now();
        while let Some(Reverse((due, _, _))) = self.delayed.peek()
            && *due <= now
        {
            if let Some(Reverse((_, _, copy))) = self.delayed.pop() {
                self.forward(&copy);
            }
        }
        let released = self.held.extract_if(.., |held| held.datagrams_left == 0 || held.release_at <= now);
        for held in released.collect::<Vec<_>>() {
            self.forward(&held.copy);
        }
    }

    fn forward(&mut self, copy: &Copy) {
        let Some(client) = self.clients.get(copy.client) else { return };
        let send = || match copy.direction {
            Direction::ToServer => client.upstream.send(&copy.bytes),
            Direction::ToClient => self.front.send_to(&copy.bytes, client.address),
        };
        // The first error may be the report about an earlier datagram; the second one is about this one.
        let sent = send().or_else(|_| send());
        let mut log = lock(&self.log);
        match sent {
            Ok(_) => log.counts_mut(copy.direction).forwarded += 1,
            Err(_) => {
                log.note_send_failure(copy.direction, copy.client, &copy.bytes, &mut self.scratch);
            }
        }
    }

    /// What the kernel counted as dropped at our sockets: the last column of `/proc/net/udp`.
    fn kernel_drops(&self) -> u64 {
        let upstreams = self.clients.iter().map(|client| &client.upstream);
        let ports: Vec<String> = std::iter::once(&self.front)
            .chain(upstreams)
            .filter_map(|socket| socket.local_addr().ok())
            .map(|address| format!(":{:04X}", address.port()))
            .collect();
        let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
        let drops = |line: &str| {
            let local = line.split_whitespace().nth(1)?;
            let ours = ports.iter().any(|port| local.ends_with(port.as_str()));
            if ours { line.split_whitespace().last()?.parse::<u64>().ok() } else { None }
        };
        table.lines().skip(1).filter_map(drops).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::relay_log::DirectionCounts;
    use crate::sim::v1_host::{V1Host, V1HostOptions};

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }

    fn receive_all(socket: &UdpSocket) -> Vec<u32> {
        let mut buffer = [0; 64];
        std::iter::from_fn(|| {
            socket.recv(&mut buffer).ok().map(|_| u32::from_le_bytes(buffer[..4].try_into().unwrap()))
        })
        .collect()
    }

    /// Sends 0..count through a relay and returns what arrived, and the log.
    fn run(change: impl FnOnce(&mut RelayOptions), count: u32) -> (Vec<u32>, RelayLog) {
        let (server, client) = (socket(), socket());
        let mut options = RelayOptions::clean(server.local_addr().unwrap());
        change(&mut options);
        let relay = Relay::start(options).unwrap();
        for number in 0..count {
            client.send_to(&number.to_le_bytes(), relay.address()).unwrap();
        }
        let is_through = |counts: &DirectionCounts| {
            let ended = counts.forwarded + counts.dropped + counts.send_failures;
            counts.received == u64::from(count) && counts.received + counts.duplicated == ended
        };
        // Silence alone may be a relay that a busy machine keeps waiting.
        for _ in 0..1_000 {
            if is_through(&relay.log().to_server) {
                break;
            }
            crate::sim::sleep(Duration::from_millis(10));
        }
        let arrived = receive_all(&server);
        (arrived, relay.stop())
    }

    #[test]
    fn a_clean_relay_passes_everything_in_order_both_ways() {
        let server = socket();
        let relay = Relay::start(RelayOptions::clean(server.local_addr().unwrap())).unwrap();
        let clients = [socket(), socket()];
        let mut buffer = [0; 2_000];
        for (number, client) in clients.iter().enumerate() {
            client.send_to(&[number as u8; 1_500], relay.address()).unwrap();
            let (bytes, from) = server.recv_from(&mut buffer).unwrap();
            assert_eq!(buffer[..bytes], [number as u8; 1_500]);
            server.send_to(&buffer[..7], from).unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (7, relay.address()));
        }
        let log = relay.stop();
        assert_eq!((log.to_server.forwarded, log.to_client.forwarded, log.kernel_drops), (2, 2, 0));
        let (arrived, _) = run(|_| {}, 100);
        assert!(arrived.into_iter().eq(0..100));
    }

    #[test]
    fn faults_happen_and_are_counted() {
        let (arrived, log) = run(
            |options| {
                options.loss = 0.2;
                options.duplicate = 0.1;
                options.reorder = 0.1;
            },
            200,
        );
        let counts = log.to_server;
        assert_eq!(counts.received, 200);
        assert_eq!(
            counts.received + counts.duplicated,
            counts.forwarded + counts.dropped + counts.send_failures
        );
        assert_eq!(arrived.len() as u64, counts.forwarded);
        assert!((10..80).contains(&counts.dropped) && (3..50).contains(&counts.duplicated), "{counts:?}");
        assert!(counts.reordered > 3 && !arrived.is_sorted());
        let mut distinct = arrived;
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len() as u64, counts.received - counts.dropped);
    }

    #[test]
    fn the_seed_decides() {
        let lossy = |seed: u64| run(|options| (options.seed, options.loss) = (seed, 0.5), 64).0;
        assert_eq!(lossy(7), lossy(7));
        assert_ne!(lossy(7), lossy(8));
    }

    #[test]
    fn a_constant_delay_delays_and_keeps_order() {
        let clock = RealClock::start();
        let (arrived, _) = run(|options| options.delay_ms = 30..=30, 50);
        assert!(arrived.into_iter().eq(0..50));
        assert!(clock.now().since(Instant::from_ns(0)) >= Duration::from_millis(30));
    }

    #[test]
    fn v1_hosts_through_a_relay_and_a_healed_one() {
        let server = V1Host::start(V1HostOptions::default()).unwrap();
        let client = V1Host::start(V1HostOptions { seed: 2, ..V1HostOptions::default() }).unwrap();
        let mut options = RelayOptions::clean(server.address());
        options.loss = 1.0;
        let relay = Relay::start(options).unwrap();
        let healing = std::thread::scope(|scope| {
            let sending = scope.spawn(|| client.send(relay.address(), &"x".repeat(1_000)).unwrap());
            crate::sim::sleep(Duration::from_millis(500));
            relay.heal();
            sending.join().unwrap()
        });
        assert_eq!((healing.confirmed_count, healing.chunk_count), (3, 3));
        let log = relay.stop();
        assert_eq!((log.resends(), log.early_resends()), (3, 0));
        assert_eq!(log.rows(Direction::ToServer).count(), 3);
        assert_eq!(server.stop().delivered.len(), 1);
    }
}
