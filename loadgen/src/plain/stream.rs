//! One connection: what came, what waits to be written, and whether the kernel takes it.

use super::frame::{End, Frames};
use super::wait::Waiter;
use anyhow::Result;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;

/// What was written is cut off where it is that much.
const CUT_BYTES: usize = 1 << 20;

/// A connection that does not block.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    /// As the waiter knows it.
    index: usize,
    /// What came.
    pub frames: Frames,
    /// What is to be written; the first `written` bytes were.
    pub out: Vec<u8>,
    written: usize,
    /// It is not read from while so many bytes wait to be written.
    out_bytes_max: usize,
    /// What the waiter is to tell: that it may be read from, and written to.
    interest: (bool, bool),
}

impl Stream {
    /// `socket`, which becomes number `index` of `waiter`. It is not read from while `out_bytes_max` bytes wait to be written.
    pub fn new(socket: TcpStream, index: usize, out_bytes_max: usize, waiter: &Waiter) -> Result<Self> {
        socket.set_nonblocking(true)?;
        waiter.add(&socket, index, false)?;
        Self::known(socket, index, out_bytes_max, false)
    }

    /// One that a waiter already knows, and tells of when it may be read from, and (if so) written to.
    pub fn known(socket: TcpStream, index: usize, out_bytes_max: usize, writes: bool) -> Result<Self> {
        socket.set_nodelay(true)?;
        let interest = (true, writes);
        let (frames, out) = (Frames::default(), Vec::new());
        Ok(Self { socket, index, frames, out, written: 0, out_bytes_max, interest })
    }

    /// Whether there is so much to write that it is not read from.
    pub const fn is_full(&self) -> bool {
        self.waiting_bytes() >= self.out_bytes_max
    }

    /// Bytes that wait to be written.
    pub const fn waiting_bytes(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what waits, as far as the kernel takes it.
    pub fn write(&mut self, waiter: &Waiter) -> Result<(), End> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Closed),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written >= CUT_BYTES {
            self.out.drain(..self.written);
            self.written = 0;
        }
        let interest = (!self.is_full(), self.waiting_bytes() > 0);
        if interest != self.interest {
            waiter.set(&self.socket, self.index, interest.0, interest.1).map_err(|_| End::Closed)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Memory it takes: for what came, and for what waits to be written.
    pub const fn memory_bytes(&self) -> usize {
        self.frames.memory_bytes() + self.out.capacity()
    }

    /// Takes what is there, once. Returns whether there may be more.
    pub fn read(&mut self) -> Result<bool, End> {
        self.frames.read(&mut self.socket)
    }
}
