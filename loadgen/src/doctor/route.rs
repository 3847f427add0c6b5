//! The way to a target: how long datagrams may be, and whether trains leave. Four datagrams of zeros go there: a peer of ours, of
//! either wire, takes them for nothing, and counts them as dropped.

use crate::clock;
use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde::Serialize;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Of each datagram of the train.
const SEGMENT_BYTES: i32 = 66;
/// How long a closed port, or a router, may take to say so.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The address here that goes there.
    pub from: String,
    /// There.
    pub to: String,
    /// Bytes of an IP packet, of this host's interface, or less where a router has said so.
    pub mtu_bytes: Option<u64>,
    /// Why a datagram of that length did not leave.
    pub full_error: Option<String>,
    /// Why a train of two did not leave.
    pub gso_error: Option<String>,
    /// Its host says that nobody listens.
    pub refused: bool,
}

/// Looks; takes a fraction of a second.
///
/// # Errors
/// The target does not resolve, or there is no way to it.
pub fn look(target: &str) -> Result<Route> {
    let addresses: Vec<SocketAddr> = target
        .to_socket_addrs()
        .with_context(|| format!("--target {target:?} is no address with a port"))?
        .collect();
    let to = *addresses.first().with_context(|| format!("--target {target:?} resolves to no address"))?;
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("no UDP socket")?;
    socket.connect(to).with_context(|| format!("there is no way to {to}"))?;
    let from = socket.local_addr()?.to_string();
    let before = mtu(&socket, to);
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let full = before.map_or(1_472, |bytes| bytes.saturating_sub(headers)).min(65_507) as usize;
    let sent = socket.send(&[0]);
    clock::sleep(ANSWERS_WITHIN);
    let error = sent.err().or(socket.take_error()?);
    let refused = error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let full_error = socket.send(&vec![0; full]).err().map(|error| error.to_string());
    // A router may say that it is less; and what a closed port says of that datagram would be taken for the train's.
    clock::sleep(ANSWERS_WITHIN);
    let _ = socket.take_error()?;
    let gso_error = train(&socket).err().map(|error| error.to_string());
    Ok(Route { from, to: to.to_string(), mtu_bytes: mtu(&socket, to), full_error, gso_error, refused })
}

/// What the kernel knows of the way there. Of IPv6 it tells nothing through this library but where the interface is loopback.
fn mtu(socket: &UdpSocket, to: SocketAddr) -> Option<u64> {
    let bytes =
        if to.is_ipv4() { getsockopt(socket, sockopt::IpMtu).ok()? } else { return interface_mtu(socket) };
    u64::try_from(bytes).ok()
}

/// The MTU of the interface that has the socket's own address.
fn interface_mtu(socket: &UdpSocket) -> Option<u64> {
    let own = socket.local_addr().ok()?.ip();
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let is_own = |interface: &nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v6 = address.as_sockaddr_in6().map(|address| std::net::IpAddr::V6(address.ip()))?;
        (v6 == own).then(|| interface.interface_name.clone())
    };
    let name = interfaces.filter_map(|interface| is_own(&interface)).next()?;
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// Two datagrams in one call (UDP_SEGMENT).
fn train(socket: &UdpSocket) -> Result<(), nix::errno::Errno> {
    setsockopt(socket, sockopt::UdpGsoSegment, &SEGMENT_BYTES)?;
    let train = [0; 2 * SEGMENT_BYTES as usize];
    nix::sys::socket::send(socket.as_raw_fd(), &train, nix::sys::socket::MsgFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_carries_trains_and_says_who_listens() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(there) = UdpSocket::bind(any) else { continue };
            there.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let to = there.local_addr().expect("bound").to_string();
            let route = look(&to).expect("a way");
            assert_eq!((route.refused, route.to.as_str()), (false, to.as_str()));
            assert!(route.mtu_bytes.is_some_and(|bytes| bytes >= 1_280), "{route:?}");
            let mut buffer = vec![0; 1 << 16];
            let lengths: Vec<usize> = (0..4).map(|_| there.recv(&mut buffer).expect("it comes")).collect();
            assert_eq!((lengths[0], &lengths[2..]), (1, &[66, 66][..]), "a train is cut into its datagrams");
            drop(there);
            assert!(look(&to).expect("a way").refused);
        }
    }

    #[test]
    fn a_target_that_is_none_says_so() {
        assert!(look("nonsense").is_err_and(|error| error.to_string().contains("no address with a port")));
    }
}
