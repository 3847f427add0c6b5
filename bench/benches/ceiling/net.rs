//! Sockets and batched receives for workloads without an engine.

use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, setsockopt, sockopt};
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// How long a thread waits for input before it looks whether it is to stop.
const TIMEOUT: Duration = Duration::from_millis(20);

/// Two connected sockets: the sender's and the receiver's.
pub fn pair() -> Result<(UdpSocket, UdpSocket), String> {
    let open = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let options = socket2::SockRef::from(&socket);
        // Beyond the system's limit if we may, else up to it.
        if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            options.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        }
        if setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES).is_err() {
            options.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        }
        Ok(socket)
    };
    let connect = || {
        let (sender, receiver) = (open()?, open()?);
        sender.connect(receiver.local_addr()?)?;
        receiver.connect(sender.local_addr()?)?;
        Ok((sender, receiver))
    };
    connect().map_err(|error: std::io::Error| error.to_string())
}

/// What is sent through `socket` is cut into datagrams of `bytes`.
pub fn cut(socket: &UdpSocket, bytes: usize) -> Result<(), String> {
    let bytes = i32::try_from(bytes).map_err(|error| error.to_string())?;
    setsockopt(socket, sockopt::UdpGsoSegment, &bytes).map_err(|errno| format!("no GSO: {errno}"))
}

/// `socket` receives trains as they were sent.
pub fn uncut(socket: &UdpSocket) -> Result<(), String> {
    setsockopt(socket, sockopt::UdpGroSegment, &true).map_err(|errno| format!("no GRO: {errno}"))
}

/// Puts this thread on one of the process's cores; with fewer cores than asked for, on the last one.
pub fn pin(core: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(id) = cores.get(core).or(cores.last()) {
        core_affinity::set_for_current(*id);
    }
}

/// `N` datagrams or trains with one system call.
pub struct Receiver<const N: usize> {
    headers: MultiHeaders<()>,
    buffers: [Vec<u8>; N],
    lengths: Vec<usize>,
}

impl<const N: usize> Receiver<N> {
    /// Room for `bytes` each.
    pub fn new(bytes: usize) -> Self {
        Self {
            headers: MultiHeaders::preallocate(N, None),
            buffers: std::array::from_fn(|_| vec![0; bytes]),
            lengths: Vec::with_capacity(N),
        }
    }

    /// Waits for one and takes what else is there; none if the time is up.
    pub fn receive(&mut self, socket: &UdpSocket) -> impl Iterator<Item = &[u8]> {
        self.lengths.clear();
        let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let flags = MsgFlags::MSG_WAITFORONE;
        if let Ok(received) = recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None)
        {
            self.lengths.extend(received.map(|message| message.bytes));
        }
        self.buffers.iter().zip(&self.lengths).map(|(buffer, &length)| &buffer[..length])
    }
}
