//! Datagrams, alone or in trains, as fast as the kernel takes them.

use super::sides::{self, LOOK_UP, Received, Tally};
use anyhow::{Context, Result};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce, UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
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

impl Flood {
    /// Floods for `time`, the sender on `cores.0`, the receiver on `cores.1`.
    pub fn run(&self, cores: (usize, usize), time: Duration) -> Result<Received> {
        let (sender, receiver) = self.sockets()?;
        sides::run(
            cores,
            WARM_UP,
            time,
            |tally| self.send(&sender, tally),
            |tally| self.receive(&receiver, tally),
        )
    }

    /// Whether the kernel sends such a train.
    pub fn is_taken(&self) -> Result<bool> {
        let (sender, _receiver) = self.sockets()?;
        match sender.send(&vec![1; self.segment_bytes * self.segments]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) => Err(error).context("a train"),
        }
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
        receiver.set_read_timeout(Some(LOOK_UP))?;
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
        while !tally.is_over() {
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
        while !tally.is_over() {
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
            tally.publish(datagrams, bytes);
        }
        Ok(())
    }
}
