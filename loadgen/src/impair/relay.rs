//! The sockets of [`impair`](super), and the datagrams that wait for their time. One thread.

use super::link::{Counts, Impairments, Link};
use crate::clock;
use crate::stop::Stop;
use crate::udp_drops;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Asked for; without the right to exceed `rmem_max` the kernel gives that much.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// Datagrams taken from one socket before the others get their turn.
const RECEIVES_PER_TURN: usize = 64;
/// How long it may take to notice Ctrl-C.
const TURN_MAX: Duration = Duration::from_millis(20);
/// What is due sooner is waited for without sleeping: `poll` counts milliseconds.
const SPIN: Duration = Duration::from_millis(1);
/// Clients at a time. Each has a socket.
const CLIENTS_MAX: usize = 512;
/// Bytes that wait, in all.
const WAITING_BYTES_MAX: usize = 512 << 20;

const UP: usize = 0;
const DOWN: usize = 1;

struct Client {
    address: SocketAddr,
    upstream: UdpSocket,
}

/// Ordered by time, then by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    at: Duration,
    number: u64,
    way: usize,
    client: usize,
    bytes: Vec<u8>,
}

/// See the module.
pub struct Relay {
    front: UdpSocket,
    to: SocketAddr,
    clients: Vec<Client>,
    client_of: BTreeMap<SocketAddr, usize>,
    links: [Link; 2],
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    number: u64,
    began: Instant,
    ended: Option<Duration>,
}

impl Relay {
    /// Opens the socket of the near side.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub fn open(listen: SocketAddr, to: SocketAddr, ways: [&Impairments; 2], seed: u64) -> Result<Self> {
        let front = socket(listen)?;
        Ok(Self {
            front,
            to,
            clients: Vec::new(),
            client_of: BTreeMap::new(),
            links: [Link::new(*ways[UP], seed), Link::new(*ways[DOWN], seed.wrapping_add(1))],
            waiting: BinaryHeap::new(),
            waiting_bytes: 0,
            number: 0,
            began: clock::now(),
            ended: None,
        })
    }

    /// Where clients send to.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.front.local_addr()?)
    }

    /// What became of what clients sent, and of what came back.
    pub const fn counts(&self) -> (Counts, Counts) {
        (self.links[UP].counts, self.links[DOWN].counts)
    }

    /// How many clients there were.
    pub const fn clients(&self) -> u64 {
        self.clients.len() as u64
    }

    /// How long it ran.
    pub fn seconds(&self) -> f64 {
        self.ended.unwrap_or_default().as_secs_f64()
    }

    /// Relays until someone asks to stop, or for so long. What waits then never leaves.
    ///
    /// # Errors
    /// A socket that fails for other reasons than its datagrams.
    pub fn run(&mut self, stop: &Stop, duration: Option<Duration>) -> Result<()> {
        self.began = clock::now();
        let mut buffer = vec![0; 1 << 16];
        while !stop.is_requested() && duration.is_none_or(|duration| self.began.elapsed() < duration) {
            self.wait()?;
            for client in 0..=self.clients.len() {
                // The last one is the near side: a client that comes now has its turn next time.
                let (way, client) =
                    if client < self.clients.len() { (DOWN, Some(client)) } else { (UP, None) };
                for _ in 0..RECEIVES_PER_TURN {
                    if !self.receive(way, client, &mut buffer)? {
                        break;
                    }
                }
            }
            self.send_due();
        }
        self.ended = Some(self.began.elapsed());
        Ok(())
    }

    /// Until something has come, or is due.
    fn wait(&self) -> Result<()> {
        let now = self.began.elapsed();
        let due = self.waiting.peek().map_or(TURN_MAX, |waiting| waiting.0.at.saturating_sub(now));
        let timeout =
            if due <= SPIN { PollTimeout::ZERO } else { PollTimeout::try_from(due.min(TURN_MAX) - SPIN)? };
        let sockets = self.clients.iter().map(|client| &client.upstream).chain([&self.front]);
        let mut fds: Vec<PollFd<'_>> =
            sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("poll"),
        }
    }

    /// Takes one datagram; false: there is none.
    fn receive(&mut self, way: usize, client: Option<usize>, buffer: &mut [u8]) -> Result<bool> {
        let socket = client.map_or(&self.front, |client| &self.clients[client].upstream);
        let (bytes, from) = match socket.recv_from(buffer) {
            Ok(came) => came,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            // What was sent before found nobody.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {
                return Ok(true);
            }
            Err(error) => return Err(error).context("receiving"),
        };
        if way == DOWN && from != self.to {
            self.links[DOWN].counts.received += 1;
            self.links[DOWN].counts.dropped_foreign += 1;
            return Ok(true);
        }
        let now = self.began.elapsed();
        let client = match client {
            Some(client) => Some(client),
            None => self.client(from)?,
        };
        let link = &mut self.links[way];
        let Some(client) = client else {
            link.counts.received += 1;
            link.counts.dropped_by_relay += 1;
            return Ok(true);
        };
        for copy in link.take(now, bytes) {
            if self.waiting_bytes + bytes > WAITING_BYTES_MAX {
                link.counts.waiting -= 1;
                link.counts.dropped_by_relay += 1;
                continue;
            }
            let mut bytes = buffer[..bytes].to_vec();
            if let Some(bit) = copy.turned_bit {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            self.number += 1;
            self.waiting_bytes += bytes.len();
            self.waiting.push(Reverse(Waiting { at: copy.at, number: self.number, way, client, bytes }));
        }
        Ok(true)
    }

    /// The client of an address; `None`: there are too many.
    fn client(&mut self, address: SocketAddr) -> Result<Option<usize>> {
        if let Some(&client) = self.client_of.get(&address) {
            return Ok(Some(client));
        }
        if self.clients.len() >= CLIENTS_MAX {
            return Ok(None);
        }
        let any: IpAddr = match self.to {
            SocketAddr::V4(to) if to.ip().is_loopback() => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(to) if to.ip().is_loopback() => Ipv6Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let upstream = socket(SocketAddr::new(any, 0))?;
        self.clients.push(Client { address, upstream });
        self.client_of.insert(address, self.clients.len() - 1);
        Ok(Some(self.clients.len() - 1))
    }

    fn send_due(&mut self) {
        let now = self.began.elapsed();
        while self.waiting.peek().is_some_and(|waiting| waiting.0.at <= now) {
            let Some(Reverse(Waiting { way, client, bytes, .. })) = self.waiting.pop() else { break };
            self.waiting_bytes -= bytes.len();
            let Client { address, upstream } = &self.clients[client];
            let sent = if way == UP {
                upstream.send_to(&bytes, self.to)
            } else {
                self.front.send_to(&bytes, *address)
            };
            let counts = &mut self.links[way].counts;
            counts.waiting -= 1;
            match sent {
                Ok(_) => counts.sent += 1,
                Err(_) => counts.refused += 1,
            }
        }
    }

    /// Packets that came while a receive buffer was full; `None`: the kernel does not say.
    pub fn kernel_drops(&self) -> Option<u64> {
        let sockets = self.clients.iter().map(|client| &client.upstream).chain([&self.front]);
        let addresses: Vec<SocketAddr> = sockets.map(UdpSocket::local_addr).collect::<Result<_, _>>().ok()?;
        udp_drops::at(&addresses)
    }
}

fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES)?;
    }
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES)?;
    Ok(socket)
}
