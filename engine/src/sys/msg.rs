//! What goes around a payload that is sent: the peer's address and control messages, in fixed arrays of the exact size needed.
//! No unsafe code, no allocation.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// `sockaddr_in`, `sockaddr_in6`.
pub(super) const NAME_BYTES_V4: usize = size_of::<libc::sockaddr_in>();
pub(super) const NAME_BYTES_MAX: usize = size_of::<libc::sockaddr_in6>();
/// Room for everything sent: UDP_SEGMENT (24) and IP_PKTINFO (32) or IPV6_PKTINFO (40).
pub(super) const SEND_CONTROL_BYTES: usize = 64;
pub(super) const CMSG_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

const _: () = assert!(CMSG_HEADER_BYTES == 16, "written for 64-bit Linux");

/// A socket address as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Name {
    pub(super) bytes: [u8; NAME_BYTES_MAX],
    pub(super) len: u32,
}

impl Name {
    pub(super) const EMPTY: Self = Self { bytes: [0; NAME_BYTES_MAX], len: 0 };

    /// `to` for a socket of the given family: an IPv6 socket reaches IPv4 by its mapped address.
    pub(super) fn encode(to: SocketAddr, v6_socket: bool) -> Self {
        match to {
            SocketAddr::V4(to) if v6_socket => {
                Self::encode_v6(&SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0))
            }
            SocketAddr::V4(to) => {
                let mut bytes = [0; NAME_BYTES_MAX];
                bytes[..2].copy_from_slice(&family(libc::AF_INET));
                bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
                bytes[4..8].copy_from_slice(&to.ip().octets());
                Self { bytes, len: NAME_BYTES_V4 as u32 }
            }
            SocketAddr::V6(to) => Self::encode_v6(&to),
        }
    }

    fn encode_v6(to: &SocketAddrV6) -> Self {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes[..2].copy_from_slice(&family(libc::AF_INET6));
        bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
        bytes[8..24].copy_from_slice(&to.ip().octets());
        bytes[24..28].copy_from_slice(&to.scope_id().to_ne_bytes());
        Self { bytes, len: NAME_BYTES_MAX as u32 }
    }
}

/// Control data to send.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control {
    pub(super) bytes: [u8; SEND_CONTROL_BYTES],
    pub(super) len: usize,
}

impl Control {
    pub(super) const EMPTY: Self = Self { bytes: [0; SEND_CONTROL_BYTES], len: 0 };

    /// Segment size for a train, source address for a reply from a wildcard socket.
    pub(super) fn encode(segment_bytes: Option<u16>, local: Option<IpAddr>) -> Self {
        let mut control = Self::EMPTY;
        if let Some(segment_bytes) = segment_bytes {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
        }
        match local {
            Some(IpAddr::V4(local)) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                info[4..8].copy_from_slice(&local.octets()); // ipi_spec_dst; interface 0: by route.
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(local)) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                info[..16].copy_from_slice(&local.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        control
    }

    pub(super) fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = &mut self.bytes[self.len..];
        at[..8].copy_from_slice(&(CMSG_HEADER_BYTES + data.len()).to_ne_bytes());
        at[8..12].copy_from_slice(&level.to_ne_bytes());
        at[12..16].copy_from_slice(&kind.to_ne_bytes());
        at[16..16 + data.len()].copy_from_slice(data);
        self.len += (CMSG_HEADER_BYTES + data.len()).next_multiple_of(8);
    }
}

/// A family, as a name begins with it.
pub(super) fn family(family: i32) -> [u8; 2] {
    (family as libc::sa_family_t).to_ne_bytes()
}
