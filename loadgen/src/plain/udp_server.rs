//! The receiving side over UDP: every datagram goes into the books, and back to where it came from.

use super::batch::{self, BATCH};
use super::threads::Shared;
use super::wait::Waiter;
use crate::audit::{Audit, Seen};
use crate::clock;
use crate::record::ServerRecord;
use crate::stages::{Had, Received};
use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Room for every datagram there is.
const BUFFER_BYTES: usize = 64 << 10;
/// How often the kernel is asked to take an echo that it had no room for.
const SEND_TRIES: usize = 1_000;

/// A thread of the receiving side.
pub struct UdpServer {
    /// Not blocking.
    socket: UdpSocket,
    record: ServerRecord,
    received: Option<Arc<Received>>,
    waiter: Waiter,
    shared: Arc<Shared>,
    /// Not those of sending: a call leaves its addresses in its headers, where the next one would write to.
    receive_headers: MultiHeaders<SockaddrStorage>,
    send_headers: MultiHeaders<SockaddrStorage>,
    memory: Vec<u8>,
}

impl UdpServer {
    /// A thread with books of its own.
    pub fn new(
        socket: UdpSocket,
        audit: Audit,
        received: Option<Arc<Received>>,
        waiter: Waiter,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        waiter.add(&socket, 0, false)?;
        let record = ServerRecord { audit, ..ServerRecord::default() };
        let [receive_headers, send_headers] = [(), ()].map(|()| MultiHeaders::preallocate(BATCH, None));
        let memory = vec![0; BATCH * BUFFER_BYTES];
        Ok(Self { socket, record, received, waiter, shared, receive_headers, send_headers, memory })
    }

    /// Until it is told to stop; its books.
    pub fn run(mut self) -> Result<ServerRecord> {
        while !self.shared.is_stopping() {
            self.waiter.wait(None)?;
            while self.serve()? == BATCH && !self.shared.is_stopping() {}
        }
        Ok(self.record)
    }

    /// One batch; how many came.
    fn serve(&mut self) -> Result<usize> {
        let mut from = [(0, None); BATCH];
        let Self { socket, receive_headers, memory, .. } = self;
        let count = batch::receive(socket, receive_headers, memory, BUFFER_BYTES, &mut from)?.unwrap_or(0);
        self.shared.count_received(count);
        let read_ns = clock::now_ns();
        let datagrams = || self.memory.chunks_exact(BUFFER_BYTES).zip(&from[..count]);
        for (buffer, (length, _)) in datagrams() {
            let seen = self.record.audit.enter(&buffer[..*length]);
            if let (Some(received), Seen::New(stamp)) = (&self.received, seen) {
                received.note(stamp.slot, Had { read_ns, at_ns: clock::now_ns() });
            }
        }
        let mut echoes = datagrams().map(|(buffer, (length, _))| [IoSlice::new(&buffer[..*length])]);
        let slices: [[IoSlice<'_>; 1]; BATCH] =
            std::array::from_fn(|_| echoes.next().unwrap_or([IoSlice::new(&[])]));
        let to = from.map(|(_, address)| address);
        let (mut sent, mut tries) = (0, 0);
        while sent < count {
            let flags = MsgFlags::empty();
            let fd = self.socket.as_raw_fd();
            match sendmmsg(fd, &mut self.send_headers, &slices[sent..count], &to[sent..count], [], flags) {
                Ok(taken) => {
                    let taken = taken.count();
                    self.shared.count_sent(taken);
                    (sent, tries) = (sent + taken, 0);
                }
                Err(Errno::EINTR | Errno::ECONNREFUSED) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS) if tries < SEND_TRIES => {
                    tries += 1;
                    std::thread::yield_now();
                }
                Err(_) => {
                    *self.record.echo_failed.entry("not_sent").or_default() += 1;
                    sent += 1;
                }
            }
        }
        Ok(count)
    }
}
