//! One thread sends as fast as the kernel lets it, another receives; what counts is what was received.

use super::pin;
use crate::clock;
use anyhow::{Context, Result, anyhow};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce, UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt};
use std::io::{IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::ops::AddAssign;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const RECEIVE_BATCH: usize = 64;
/// Until buffers are full and clocks are up.
const WARM_UP: Duration = Duration::from_millis(150);

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Payload of a datagram.
    pub segment_bytes: usize,
    /// Datagrams a train; 1: no trains, and a receiver without GRO.
    pub segments: usize,
    /// Trains, or datagrams, per sendmmsg.
    pub batch: usize,
}

/// What came.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    datagrams: u64,
    bytes: u64,
    seconds: f64,
}

impl Received {
    /// Datagrams a second.
    pub fn per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.datagrams as f64 / self.seconds)
    }

    /// Payload bits a second.
    pub fn bits_per_s(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.bytes as f64 * 8.0 / self.seconds)
    }
}

impl AddAssign for Received {
    fn add_assign(&mut self, other: Self) {
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

/// Written by the receiver, read by the main thread.
#[derive(Debug, Default)]
struct Tally {
    datagrams: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
}

impl Flood {
    /// Floods for `time`, the sender on `cores.0`, the receiver on `cores.1`.
    pub fn run(&self, cores: (usize, usize), time: Duration) -> Result<Received> {
        let (sender, receiver) = self.sockets()?;
        let tally = Tally::default();
        std::thread::scope(|scope| {
            let tally = &tally;
            let receiving = scope.spawn(move || {
                pin(cores.1);
                self.receive(&receiver, tally)
            });
            let sending = scope.spawn(move || {
                pin(cores.0);
                self.send(&sender, tally)
            });
            clock::sleep(WARM_UP);
            let read = || (tally.datagrams.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
            let (before, start) = (read(), clock::now());
            clock::sleep(time);
            let (after, seconds) = (read(), start.elapsed().as_secs_f64());
            tally.stop.store(true, Ordering::Relaxed);
            for thread in [receiving, sending] {
                thread.join().map_err(|_| anyhow!("a baseline thread panicked"))??;
            }
            Ok(Received { datagrams: after.0 - before.0, bytes: after.1 - before.1, seconds })
        })
    }

    fn sockets(&self) -> Result<(UdpSocket, UdpSocket)> {
        let socket = || -> Result<UdpSocket> {
            let socket = UdpSocket::bind("127.0.0.1:0").context("bind")?;
            // More than the system's limit is granted to the privileged only; others get what there is.
            if setsockopt(&socket, RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
                setsockopt(&socket, RcvBuf, &SOCKET_BUFFER_BYTES).context("SO_RCVBUF")?;
            }
            if setsockopt(&socket, SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
                setsockopt(&socket, SndBuf, &SOCKET_BUFFER_BYTES).context("SO_SNDBUF")?;
            }
            Ok(socket)
        };
        let (sender, receiver) = (socket()?, socket()?);
        sender.connect(receiver.local_addr()?).context("connect")?;
        // The receiver looks up now and then whether to stop.
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        if self.segments > 1 {
            setsockopt(&receiver, UdpGroSegment, &true).context("UDP_GRO")?;
            setsockopt(&sender, UdpGsoSegment, &i32::try_from(self.segment_bytes)?).context("UDP_SEGMENT")?;
        }
        Ok((sender, receiver))
    }

    fn send(&self, socket: &UdpSocket, tally: &Tally) -> Result<()> {
        let train = vec![1_u8; self.segment_bytes * self.segments];
        let slices = vec![[IoSlice::new(&train)]; self.batch];
        let nowhere = vec![None::<()>; self.batch];
        let mut headers = MultiHeaders::preallocate(self.batch, None);
        while !tally.stop.load(Ordering::Relaxed) {
            // Errors (a full buffer) show in what is received.
            let _ = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &nowhere, [], MsgFlags::empty());
        }
        Ok(())
    }

    fn receive(&self, socket: &UdpSocket, tally: &Tally) -> Result<()> {
        let buffer_bytes = if self.segments > 1 { 64 << 10 } else { self.segment_bytes };
        let mut memory = vec![0_u8; buffer_bytes * RECEIVE_BATCH];
        let mut headers = MultiHeaders::<()>::preallocate(RECEIVE_BATCH, None);
        let (mut datagrams, mut bytes) = (0, 0);
        while !tally.stop.load(Ordering::Relaxed) {
            let mut buffers = memory.chunks_exact_mut(buffer_bytes);
            let mut slices: [[IoSliceMut<'_>; 1]; RECEIVE_BATCH] =
                std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
            let flags = MsgFlags::MSG_WAITFORONE;
            let Ok(messages) = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) else {
                continue;
            };
            for message in messages {
                datagrams += message.bytes.div_ceil(self.segment_bytes) as u64;
                bytes += message.bytes as u64;
            }
            tally.datagrams.store(datagrams, Ordering::Relaxed);
            tally.bytes.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}
