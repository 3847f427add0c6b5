//! Many datagrams a call.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrLike, recvmmsg};
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams a call.
pub const BATCH: usize = 64;

/// What came in one call: how long it is, and from where.
pub type Came<S> = [(usize, Option<S>); BATCH];

/// Takes what has come at `socket` into buffers of so many bytes each, one behind the other in `memory`; how many there are. `None`:
/// nothing more, for now.
///
/// # Errors
/// The socket does not work any more.
pub fn receive<S: SockaddrLike + Copy>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    memory: &mut [u8],
    buffer_bytes: usize,
    came: &mut Came<S>,
) -> Result<Option<usize>> {
    let mut buffers = memory.chunks_exact_mut(buffer_bytes);
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
        std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
    match recvmmsg(socket.as_raw_fd(), headers, &mut slices, MsgFlags::MSG_DONTWAIT, None) {
        Ok(messages) => {
            Ok(Some(messages.zip(came).map(|(one, came)| *came = (one.bytes, one.address)).count()))
        }
        Err(Errno::EAGAIN) => Ok(None),
        // Of a datagram sent before that found nobody: it was reported now, and the next call is another one.
        Err(Errno::ECONNREFUSED | Errno::EINTR) => Ok(Some(0)),
        Err(error) => Err(error).context("receiving datagrams"),
    }
}
