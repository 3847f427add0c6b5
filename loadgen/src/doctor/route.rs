//! The way to a target: how long datagrams may be, and whether trains of such datagrams leave. Four datagrams of zeros go there: a
//! peer of ours, of either wire, takes them for nothing, and counts them as dropped.

use super::answer::{self, Answer};
use crate::clock;
use crate::setup::resolve;
use anyhow::{Context, Result};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use serde::Serialize;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Of each datagram of the train, where longer ones would not fit into one.
const SEGMENT_BYTES_MAX: u16 = 65_507 / 2;
/// How long a closed port, or a router, may take to say so.
const ANSWERS_WITHIN: Duration = Duration::from_millis(200);

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// The address here that goes there.
    pub from: String,
    /// There.
    pub to: String,
    /// The interface that has that address.
    pub interface: Option<String>,
    /// The driver of its device, if it has one.
    pub interface_driver: Option<String>,
    /// Bytes of an IP packet, of this host's interface, or less where a router has said so.
    pub mtu_bytes: Option<u64>,
    /// Why a datagram of that length did not leave.
    pub full_error: Option<String>,
    /// Payload of each datagram of the train.
    pub segment_bytes: u16,
    /// Why a train of two did not leave.
    pub gso_error: Option<String>,
    /// Its host says that nobody listens.
    pub refused: bool,
    /// What it says to a message; null: it was not asked, since nobody listens.
    pub answer: Option<Answer>,
}

/// Looks; takes a fraction of a second.
///
/// # Errors
/// The target does not resolve, or there is no way to it.
pub fn look(target: &str) -> Result<Route> {
    // As `load` does: it is its way that is asked for.
    let to = resolve(target).context("--target")?;
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).context("no UDP socket")?;
    socket.connect(to).with_context(|| format!("there is no way to {to}"))?;
    let from = socket.local_addr()?;
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
    let segment_bytes = u16::try_from(full).unwrap_or(u16::MAX).min(SEGMENT_BYTES_MAX);
    let gso_error = train(&socket, segment_bytes).err().map(|error| error.to_string());
    let mtu_bytes = mtu(&socket, to);
    let interface = interface(from.ip());
    let interface_driver = interface.as_deref().and_then(device_driver);
    drop(socket);
    let answer = (!refused).then(|| answer::ask(to));
    let (from, to) = (from.to_string(), to.to_string());
    Ok(Route {
        from,
        to,
        interface,
        interface_driver,
        mtu_bytes,
        full_error,
        segment_bytes,
        gso_error,
        refused,
        answer,
    })
}

/// What the kernel knows of the way there. Of IPv6 it tells nothing through this library: then what the interface has.
fn mtu(socket: &UdpSocket, to: SocketAddr) -> Option<u64> {
    if to.is_ipv4() {
        return u64::try_from(getsockopt(socket, sockopt::IpMtu).ok()?).ok();
    }
    let name = interface(socket.local_addr().ok()?.ip())?;
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}

/// The name of the interface that has this address. All of 127.0.0.0/8 is loopback's.
fn interface(own: IpAddr) -> Option<String> {
    let own = if own.is_loopback() && own.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { own };
    let mut interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let found = interfaces.find(|interface| {
        let Some(address) = interface.address else { return false };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))) == Some(own)
    });
    found.map(|interface| interface.interface_name)
}

/// As the kernel calls it: `virtio_net`, `ixgbe`. Loopback and veth have none.
fn device_driver(interface: &str) -> Option<String> {
    let link = std::fs::read_link(format!("/sys/class/net/{interface}/device/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Two datagrams in one call (UDP_SEGMENT).
fn train(socket: &UdpSocket, segment_bytes: u16) -> Result<(), nix::errno::Errno> {
    setsockopt(socket, sockopt::UdpGsoSegment, &segment_bytes.into())?;
    let train = vec![0; 2 * usize::from(segment_bytes)];
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
            let segment = usize::from(route.segment_bytes);
            assert_eq!(
                (lengths[0], &lengths[2..]),
                (1, &[segment; 2][..]),
                "a train is cut into its datagrams"
            );
            assert!(segment >= 1_200 && route.interface.as_deref() == Some("lo"), "{route:?}");
            let answer = route.answer.as_ref().expect("somebody listens");
            assert!(answer.rtt_us.is_none() && answer.error.is_some(), "but it is no engine: {answer:?}");
            drop(there);
            assert!(look(&to).expect("a way").refused);
        }
    }

    #[test]
    fn a_target_that_is_none_says_so() {
        assert!(look("nonsense").is_err_and(|error| format!("{error:#}").contains("is not HOST:PORT")));
    }
}
