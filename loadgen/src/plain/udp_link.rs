//! The sending side over UDP: a message is a datagram, many of them a call.

use super::batch::{self, BATCH};
use super::client::{Answer, Link};
use super::threads::Shared;
use super::wait::Waiter;
use crate::clock;
use crate::generator::Put;
use crate::payload::{self, Stamp};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use std::io::IoSlice;
use std::net::UdpSocket;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Calls for one socket before the others get their turn.
const CALLS_PER_TURN: usize = 8;
/// Where less came there would be nothing to cut off.
const BUFFER_BYTES_MIN: usize = 2_048;
/// When to try again after the kernel took no more.
const RETRY_NS: u64 = 50_000;

/// A datagram that waits to be sent.
struct Waiting {
    way: usize,
    bytes: Range<usize>,
}

/// See the module.
pub struct UdpLink {
    /// Connected, not blocking.
    sockets: Vec<UdpSocket>,
    waiting: Vec<Waiting>,
    bytes: Vec<u8>,
    send_headers: MultiHeaders<()>,
    receive_headers: MultiHeaders<()>,
    memory: Vec<u8>,
    buffer_bytes: usize,
    shared: Arc<Shared>,
}

impl UdpLink {
    /// Over these connected sockets, for messages of up to so many bytes.
    pub fn new(sockets: Vec<UdpSocket>, bytes_max: usize, shared: Arc<Shared>) -> Self {
        // One byte more: a longer datagram is not mistaken for its begin.
        let buffer_bytes = (bytes_max + 1).max(BUFFER_BYTES_MIN);
        Self {
            sockets,
            waiting: Vec::with_capacity(BATCH),
            bytes: Vec::with_capacity(BATCH * bytes_max),
            send_headers: MultiHeaders::preallocate(BATCH, None),
            receive_headers: MultiHeaders::preallocate(BATCH, None),
            memory: vec![0; BATCH * buffer_bytes],
            buffer_bytes,
            shared,
        }
    }

    /// Sends what waits, socket by socket.
    fn send(&mut self) -> Result<()> {
        let Self { sockets, waiting, bytes, send_headers, shared, .. } = self;
        if sockets.len() > 1 {
            // Stable: the datagrams of a socket stay in order.
            waiting.sort_by_key(|datagram| datagram.way);
        }
        let (mut from, mut kept): (usize, Vec<usize>) = (0, Vec::new());
        while let Some(first) = waiting.get(from) {
            let way = first.way;
            let group = waiting[from..].iter().take_while(|datagram| datagram.way == way).count();
            let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|index| {
                let datagram = waiting[from..from + group].get(index);
                [IoSlice::new(datagram.map_or(&[][..], |datagram| &bytes[datagram.bytes.clone()]))]
            });
            let nowhere = [None::<()>; BATCH];
            let fd = sockets[way].as_raw_fd();
            match sendmmsg(fd, send_headers, &slices[..group], nowhere, [], MsgFlags::empty()) {
                Ok(sent) => {
                    let sent = sent.count();
                    shared.count_sent(sent);
                    from += sent;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                    kept.extend(from..from + group);
                    from += group;
                }
                // Of an earlier one that found nobody. It was reported now, and the next call is another one.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(error) => return Err(error).context("sending a datagram"),
            }
        }
        // What the kernel did not take moves to the front.
        let (all, memory) = (std::mem::take(waiting), std::mem::take(bytes));
        for datagram in kept.into_iter().filter_map(|index| all.get(index)) {
            let from = bytes.len();
            bytes.extend_from_slice(&memory[datagram.bytes.clone()]);
            waiting.push(Waiting { way: datagram.way, bytes: from..bytes.len() });
        }
        if waiting.is_empty() {
            (*waiting, *bytes) = (all, memory);
            waiting.clear();
            bytes.clear();
        }
        Ok(())
    }
}

impl Link for UdpLink {
    fn put(&mut self, way: usize, stamp: Stamp, bytes: usize) -> Put {
        if self.waiting.len() == BATCH && (self.send().is_err() || self.waiting.len() == BATCH) {
            return Put::Full;
        }
        let from = self.bytes.len();
        self.bytes.resize(from + bytes, 0);
        payload::fill(&mut self.bytes[from..], stamp);
        self.waiting.push(Waiting { way, bytes: from..from + bytes });
        Put::Accepted
    }

    fn flush(&mut self, _: &Waiter) -> Result<()> {
        if self.waiting.is_empty() { Ok(()) } else { self.send() }
    }

    fn receive(&mut self, waiter: &Waiter, take: &mut impl FnMut(Answer<'_>, u64)) -> Result<()> {
        let Self { sockets, receive_headers, memory, buffer_bytes, shared, .. } = self;
        for ready in &waiter.ready {
            let Some(socket) = sockets.get(ready.index) else { continue };
            for _ in 0..CALLS_PER_TURN {
                let mut came = [(0, None); BATCH];
                let Some(count) = batch::receive(socket, receive_headers, memory, *buffer_bytes, &mut came)?
                else {
                    break;
                };
                if count == 0 {
                    continue;
                }
                let now = clock::now_ns();
                shared.count_received(count);
                for (buffer, (length, _)) in memory.chunks_exact(*buffer_bytes).zip(&came[..count]) {
                    take(Answer::Echo(&buffer[..*length]), now);
                }
                if count < BATCH {
                    break;
                }
            }
        }
        Ok(())
    }

    fn next_turn_ns(&self, now_ns: u64) -> Option<u64> {
        (!self.waiting.is_empty()).then_some(now_ns + RETRY_NS)
    }
}
