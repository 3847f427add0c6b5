//! The UDP sockets of an engine: one per shard, all on one port, nobody else's.
//!
//! A second process of the same user could silently join a reuseport group and steal its traffic, so the
//! first socket is bound *without* SO_REUSEPORT (that fails while anyone holds the port), joins the option
//! afterwards, and the others follow; then the steering program is attached, once (`IO_URING.md` 6.1). A
//! group is torn down as a whole: closing one member would renumber the others.

use super::error::OsError;
use super::steering;
use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// The array SO_MEMINFO fills (`SK_MEMINFO_RMEM_ALLOC` and so on): the places of what is read of it, and its length.
const MEMINFO_RMEM_ALLOC: usize = 0;
const MEMINFO_RCVBUF: usize = 1;
const MEMINFO_WMEM_ALLOC: usize = 2;
const MEMINFO_DROPS: usize = 8;
const MEMINFO_VARS: usize = 9;

/// A socket's memory, in bytes as the kernel counts them, and its drops.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SocketMemory {
    /// In the receive queue.
    pub(crate) receive_queue_bytes: u32,
    /// What that may be.
    pub(crate) receive_buffer_bytes: u32,
    /// In the send queue.
    pub(crate) send_queue_bytes: u32,
    /// Packets dropped since the socket was opened, a train counting as one (wraps at 2^32).
    pub(crate) drops: u32,
}

/// What to bind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// The address; port 0 lets the kernel choose.
    pub(crate) bind: SocketAddr,
    /// Number of sockets, 1 to [`steering::SHARDS_MAX`].
    pub(crate) shards: usize,
    /// Receive buffer per socket in the kernel; 0 leaves the system's default.
    pub(crate) rcvbuf_bytes: usize,
    /// Send buffer per socket in the kernel; 0 leaves the system's default.
    pub(crate) sndbuf_bytes: usize,
    /// Receive trains whole (UDP GRO).
    pub(crate) gro: bool,
    /// Let the kernel choose the shard by route.
    pub(crate) steering: bool,
    /// On an IPv6 address, do not accept IPv4.
    pub(crate) v6_only: bool,
    /// Datagrams leave whole or not at all: EMSGSIZE beyond the interface's MTU, no fragments on the way, and what ICMP says
    /// about the path, which anybody can, is not looked at. For senders that find out by probing (RFC 8899).
    pub(crate) whole_datagrams: bool,
}

/// The bound sockets, in shard order.
#[derive(Debug)]
pub(crate) struct SocketGroup {
    /// One per shard.
    pub(crate) sockets: Vec<Arc<ShardSocket>>,
    /// What they are bound to, with the real port.
    pub(crate) local_addr: SocketAddr,
    /// The kernel steers by route. False for one shard, which needs no steering.
    pub(crate) steered: bool,
}

/// One shard's socket. Blocking: io_uring needs it so; the other driver asks for MSG_DONTWAIT each time.
#[derive(Debug)]
pub(crate) struct ShardSocket {
    socket: Socket,
    local_addr: SocketAddr,
    rcvbuf_bytes: usize,
}

impl ShardSocket {
    /// The kernel's receive buffer as read back: twice what was asked, if it was granted; 212,992 by default.
    pub(crate) fn rcvbuf_bytes(&self) -> usize {
        self.rcvbuf_bytes
    }

    /// Bound to every address: received datagrams carry the one they were sent to.
    #[cfg(test)]
    pub(crate) fn is_wildcard(&self) -> bool {
        self.local_addr.ip().is_unspecified()
    }

    /// An IPv6 socket, possibly dual-stack.
    pub(crate) fn is_v6(&self) -> bool {
        self.local_addr.is_ipv6()
    }

    /// The bound address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the kernel says of it now.
    pub(crate) fn memory(&self) -> io::Result<SocketMemory> {
        let mut info = [0u32; MEMINFO_VARS];
        let mut size = libc::socklen_t::try_from(size_of_val(&info)).expect("36 bytes");
        let (level, option) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
        let (fd, into) = (self.socket.as_raw_fd(), info.as_mut_ptr().cast());
        // SAFETY: `info` is live and `size` is its size; the kernel writes at most that much.
        let failed = unsafe { libc::getsockopt(fd, level, option, into, &raw mut size) } < 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(SocketMemory {
            receive_queue_bytes: info[MEMINFO_RMEM_ALLOC],
            receive_buffer_bytes: info[MEMINFO_RCVBUF],
            send_queue_bytes: info[MEMINFO_WMEM_ALLOC],
            drops: info[MEMINFO_DROPS],
        })
    }

    /// Sleeps until the socket can take more, or `timeout` is over. May return early.
    pub(crate) fn wait_writable(&self, timeout: Duration) {
        let mut entry = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one live entry. A failure is an early return.
        unsafe { libc::poll(&raw mut entry, 1, milliseconds) };
    }

    /// The descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds the sockets of one engine.
pub(crate) fn bind_group(options: &SocketOptions) -> Result<SocketGroup, OsError> {
    assert!((1..=steering::SHARDS_MAX).contains(&options.shards));
    let first = open(options)?;
    bind(&first, options.bind)?;
    let local_addr = address_of(&first)?;
    let mut sockets = vec![first];
    for _ in 1..options.shards {
        sockets[0].set_reuse_port(true).map_err(|error| plain("setsockopt SO_REUSEPORT", &error))?;
        let next = open(options)?;
        next.set_reuse_port(true).map_err(|error| plain("setsockopt SO_REUSEPORT", &error))?;
        bind(&next, local_addr)?;
        sockets.push(next);
    }
    let mut steered = options.steering && options.shards > 1;
    if steered && let Err(error) = steering::attach(sockets[0].as_fd(), options.shards) {
        // The program is an optimisation: misdirected rows are forwarded.
        tracing::warn!(%error, "the kernel does not steer by route");
        steered = false;
    }
    let finish = |socket: Socket| {
        let rcvbuf_bytes =
            socket.recv_buffer_size().map_err(|error| plain("getsockopt SO_RCVBUF", &error))?;
        Ok(Arc::new(ShardSocket { socket, local_addr, rcvbuf_bytes }))
    };
    let sockets = sockets.into_iter().map(finish).collect::<Result<Vec<_>, OsError>>()?;
    Ok(SocketGroup { sockets, local_addr, steered })
}

/// What to tell the user when the kernel gave less receive buffer than asked; `None` if it gave enough. `read_back_bytes`
/// is the kernel's double counting.
pub(crate) fn rcvbuf_advice(asked_bytes: usize, read_back_bytes: usize) -> Option<String> {
    let got_bytes = read_back_bytes / 2;
    (got_bytes < asked_bytes).then(|| {
        format!(
            "the kernel gave a receive buffer of {got_bytes} bytes per socket instead of {asked_bytes}: bursts may be \
             dropped. Run: sysctl -w net.core.rmem_max={asked_bytes} (or give the process CAP_NET_ADMIN)"
        )
    })
}

fn plain(call: &'static str, error: &io::Error) -> OsError {
    OsError::from_io(call, error, "unexpected on Linux 6.1 or newer")
}

fn address_of(socket: &Socket) -> Result<SocketAddr, OsError> {
    let address = socket.local_addr().map_err(|error| plain("getsockname", &error))?;
    address
        .as_socket()
        .ok_or_else(|| OsError::new("getsockname", libc::EAFNOSUPPORT, "neither IPv4 nor IPv6"))
}

/// A socket with every option set that must be set before it is bound.
fn open(options: &SocketOptions) -> Result<Socket, OsError> {
    let domain = Domain::for_address(options.bind);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(|error| {
        OsError::from_io(
            "socket",
            &error,
            "EAFNOSUPPORT: no IPv6 here; EMFILE: raise the limit of open files (ulimit -n)",
        )
    })?;
    if options.bind.is_ipv6() {
        socket.set_only_v6(options.v6_only).map_err(|error| plain("setsockopt IPV6_V6ONLY", &error))?;
    }
    set_buffers(&socket, options)?;
    // Each packet then says how many were dropped before it: nothing, until something was.
    set_option(&socket, "setsockopt SO_RXQ_OVFL", libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
    if options.gro {
        set_option(&socket, "setsockopt UDP_GRO", libc::SOL_UDP, libc::UDP_GRO, 1)?;
    }
    if options.whole_datagrams {
        // A dual-stack socket sends both.
        if options.bind.is_ipv6() {
            let probe = libc::IPV6_PMTUDISC_PROBE;
            let (call, option) = ("setsockopt IPV6_MTU_DISCOVER", libc::IPV6_MTU_DISCOVER);
            set_option(&socket, call, libc::IPPROTO_IPV6, option, probe)?;
        }
        if options.bind.is_ipv4() || !options.v6_only {
            let probe = libc::IP_PMTUDISC_PROBE;
            set_option(
                &socket,
                "setsockopt IP_MTU_DISCOVER",
                libc::IPPROTO_IP,
                libc::IP_MTU_DISCOVER,
                probe,
            )?;
        }
    }
    if options.bind.ip().is_unspecified() {
        // On a dual-stack socket the IPv6 option also reports IPv4 destinations, as mapped addresses.
        if options.bind.is_ipv6() {
            set_option(
                &socket,
                "setsockopt IPV6_RECVPKTINFO",
                libc::IPPROTO_IPV6,
                libc::IPV6_RECVPKTINFO,
                1,
            )?;
        } else {
            set_option(&socket, "setsockopt IP_PKTINFO", libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
    }
    Ok(socket)
}

/// Asks for the buffers, beyond the system's limit if the process may; what came of it is read back later.
fn set_buffers(socket: &Socket, options: &SocketOptions) -> Result<(), OsError> {
    let int = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX / 2);
    let wanted = [
        ("setsockopt SO_RCVBUF", options.rcvbuf_bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
        ("setsockopt SO_SNDBUF", options.sndbuf_bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
    ];
    for (call, bytes, force, polite) in wanted {
        if bytes > 0 && set_option(socket, call, libc::SOL_SOCKET, force, int(bytes)).is_err() {
            set_option(socket, call, libc::SOL_SOCKET, polite, int(bytes))?;
        }
    }
    Ok(())
}

fn bind(socket: &Socket, address: SocketAddr) -> Result<(), OsError> {
    socket.bind(&SockAddr::from(address)).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                format!("{address} is taken: another instance? See ss -ulpn 'sport = :{}'", address.port())
            }
            Some(libc::EADDRNOTAVAIL) => format!("{address} is not an address of this machine; see ip addr"),
            Some(libc::EACCES) => {
                format!("port {} needs CAP_NET_BIND_SERVICE; take one above 1023", address.port())
            }
            _ => format!("cannot bind {address}"),
        };
        OsError::from_io("bind", &error, hint)
    })
}

fn set_option(
    socket: &Socket,
    call: &'static str,
    level: c_int,
    option: c_int,
    value: c_int,
) -> Result<(), OsError> {
    let size = libc::socklen_t::try_from(size_of::<c_int>()).expect("4 bytes");
    // SAFETY: `value` is a live int and `size` its size; the kernel copies it.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) } < 0;
    if failed { Err(OsError::last(call, "unexpected on Linux 6.1 or newer")) } else { Ok(()) }
}

#[cfg(test)]
impl SocketOptions {
    /// One plain socket on a free loopback port.
    pub(crate) fn loopback() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            shards: 1,
            rcvbuf_bytes: 4 << 20,
            sndbuf_bytes: 0,
            gro: true,
            steering: false,
            v6_only: false,
            whole_datagrams: false,
        }
    }
}

#[cfg(test)]
impl ShardSocket {
    /// From here on datagrams leave without a checksum. The kernel has no trains of such (EINVAL).
    pub(crate) fn send_no_checksums(&self) {
        set_option(&self.socket, "setsockopt SO_NO_CHECK", libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    }

    /// Something that is not a UDP socket, to see a driver fail.
    pub(crate) fn from_fd_for_test(fd: std::os::fd::OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            socket: Socket::from(fd),
            local_addr: SocketAddr::from(([127, 0, 0, 1], 1)),
            rcvbuf_bytes: 0,
        })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_second_engine_on_the_port_is_refused_with_a_hint() {
        for shards in [1, 3] {
            let options = SocketOptions { shards, ..SocketOptions::loopback() };
            let group = bind_group(&options).unwrap();
            assert_eq!(group.sockets.len(), shards);
            assert!(group.sockets.iter().all(|socket| socket.local_addr() == group.local_addr));
            let error = bind_group(&SocketOptions { bind: group.local_addr, ..options }).unwrap_err();
            assert_eq!((error.call, error.errno), ("bind", libc::EADDRINUSE));
            assert!(error.hint.contains("another instance?"), "{error}");
        }
    }

    #[test]
    fn a_foreign_reuseport_socket_is_not_joined() {
        let foreign = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        foreign.set_reuse_port(true).unwrap();
        foreign.bind(&SockAddr::from(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let bind = address_of(&foreign).unwrap();
        let error = bind_group(&SocketOptions { bind, shards: 2, ..SocketOptions::loopback() }).unwrap_err();
        assert_eq!(error.errno, libc::EADDRINUSE);
    }

    #[test]
    fn one_shard_does_without_reuseport_and_steering() {
        let group = bind_group(&SocketOptions { steering: true, ..SocketOptions::loopback() }).unwrap();
        assert!(!group.steered);
        assert!(!group.sockets[0].socket.reuse_port().unwrap());
        let two =
            bind_group(&SocketOptions { steering: true, shards: 2, ..SocketOptions::loopback() }).unwrap();
        assert!(two.steered && two.sockets.iter().all(|socket| socket.socket.reuse_port().unwrap()));
    }

    #[test]
    fn an_address_of_another_machine_is_refused_with_a_hint() {
        let bind = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind_group(&SocketOptions { bind, ..SocketOptions::loopback() }).unwrap_err();
        assert_eq!(error.errno, libc::EADDRNOTAVAIL);
        assert!(error.hint.contains("ip addr"), "{error}");
    }

    #[test]
    fn the_receive_buffer_is_read_back_and_advised_on() {
        let group =
            bind_group(&SocketOptions { rcvbuf_bytes: 100_000, ..SocketOptions::loopback() }).unwrap();
        assert_eq!(group.sockets[0].rcvbuf_bytes(), 200_000);
        assert_eq!(rcvbuf_advice(100_000, 200_000), None);
        let advice = rcvbuf_advice(4_194_304, 425_984).unwrap();
        assert!(advice.contains("sysctl -w net.core.rmem_max=4194304"), "{advice}");
    }

    #[test]
    fn the_kernels_drops_are_counted() {
        let options = SocketOptions { rcvbuf_bytes: 2_048, ..SocketOptions::loopback() };
        let group = bind_group(&options).unwrap();
        assert_eq!(group.sockets[0].memory().unwrap().drops, 0);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], group.local_addr).unwrap();
        }
        assert!(group.sockets[0].memory().unwrap().drops > 0);
    }
}
