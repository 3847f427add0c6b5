//! What goes around a payload: socket addresses and control messages, both ways, for both drivers.
//!
//! Encoding writes into fixed arrays of the exact size needed; decoding treats the kernel's bytes like a
//! datagram from the network: every length is checked, nonsense is [`Reject::Malformed`]. No unsafe code, no
//! allocation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `sockaddr_in`, `sockaddr_in6`.
const NAME_BYTES_V4: usize = size_of::<libc::sockaddr_in>();
pub(super) const NAME_BYTES_MAX: usize = size_of::<libc::sockaddr_in6>();
/// Room asked for a sender's address; more than needed so that what follows stays 8-byte aligned.
pub(super) const RECV_NAME_BYTES: usize = 32;
/// Room asked for control data on receive. UDP_GRO (24), SO_RXQ_OVFL (24) and IPV6_PKTINFO (40) are all the engine asks
/// for; the rest is reserve for options others might set.
pub(super) const RECV_CONTROL_BYTES: usize = 192;
/// The header in front of each multishot receive: name, control and payload length, flags.
const MULTISHOT_HEADER_BYTES: usize = 16;
/// What a receive buffer needs beyond the payload.
pub(super) const RECV_HEADROOM_BYTES: usize = MULTISHOT_HEADER_BYTES + RECV_NAME_BYTES + RECV_CONTROL_BYTES;
/// Room for everything sent: UDP_SEGMENT (24) and IP_PKTINFO (32) or IPV6_PKTINFO (40).
pub(super) const SEND_CONTROL_BYTES: usize = 64;
const CMSG_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

const _: () = assert!(CMSG_HEADER_BYTES == 16, "written for 64-bit Linux");
const _: () = assert!(RECV_HEADROOM_BYTES.is_multiple_of(8));

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

/// A sender's address; IPv4 for a mapped one. `None` for anything that cannot be answered.
fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(array(name, 2)?);
    if port == 0 {
        return None;
    }
    let family = array::<2>(name, 0)?;
    if family == self::family(libc::AF_INET) && name.len() >= NAME_BYTES_V4 {
        return Some(SocketAddr::from((Ipv4Addr::from(array::<4>(name, 4)?), port)));
    }
    if family != self::family(libc::AF_INET6) {
        return None;
    }
    let ip = Ipv6Addr::from(array::<16>(name, 8)?);
    let scope_id = u32::from_ne_bytes(array(name, 24)?);
    match ip.to_ipv4_mapped() {
        Some(ip) => Some(SocketAddr::from((ip, port))),
        None => Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope_id))),
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

    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let at = &mut self.bytes[self.len..];
        at[..8].copy_from_slice(&(CMSG_HEADER_BYTES + data.len()).to_ne_bytes());
        at[8..12].copy_from_slice(&level.to_ne_bytes());
        at[12..16].copy_from_slice(&kind.to_ne_bytes());
        at[16..16 + data.len()].copy_from_slice(data);
        self.len += (CMSG_HEADER_BYTES + data.len()).next_multiple_of(8);
    }
}

/// What arrived, cut into its parts but not yet believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawDatagram<'a> {
    pub(super) name: &'a [u8],
    pub(super) control: &'a [u8],
    pub(super) payload: &'a [u8],
    /// `msg_flags`.
    pub(super) flags: i32,
}

/// A datagram or train, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) local: Option<IpAddr>,
    pub(crate) bytes: &'a [u8],
    pub(crate) segment_bytes: usize,
    /// Packets the kernel had dropped at the socket when this one came (SO_RXQ_OVFL); 0: none yet, or it does not tell.
    pub(crate) kernel_drops: u32,
}

/// Why a datagram is dropped here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// Longer than the receive buffer.
    Truncated,
    /// Control data cut or contradictory, or a source address that cannot be answered.
    Malformed,
}

impl<'a> RawDatagram<'a> {
    /// The parts of what a multishot receive stored: header, room for the name, room for control data,
    /// payload.
    pub(crate) fn from_multishot(stored: &'a [u8]) -> Result<Self, Reject> {
        let field = |at| array(stored, at).map(u32::from_ne_bytes).ok_or(Reject::Malformed);
        let part = |from: usize, len: u32, room: usize| {
            let len = (len as usize).min(room); // The kernel reports the true length of a part that was cut.
            stored.get(from..from + len).ok_or(Reject::Malformed)
        };
        let name = part(MULTISHOT_HEADER_BYTES, field(0)?, RECV_NAME_BYTES)?;
        let control = part(MULTISHOT_HEADER_BYTES + RECV_NAME_BYTES, field(4)?, RECV_CONTROL_BYTES)?;
        let payload = stored.get(RECV_HEADROOM_BYTES..).ok_or(Reject::Malformed)?;
        let mut flags = field(12)?.cast_signed();
        if field(8)? as usize != payload.len() {
            flags |= libc::MSG_TRUNC;
        }
        Ok(Self { name, control, payload, flags })
    }

    /// Checks and interprets.
    pub(crate) fn decode(self) -> Result<Datagram<'a>, Reject> {
        if self.flags & libc::MSG_TRUNC != 0 {
            return Err(Reject::Truncated);
        }
        if self.flags & libc::MSG_CTRUNC != 0 {
            return Err(Reject::Malformed);
        }
        let from = decode_name(self.name).ok_or(Reject::Malformed)?;
        let (mut segment_bytes, mut local, mut kernel_drops) = (self.payload.len().max(1), None, 0);
        let mut rest = self.control;
        while !rest.is_empty() {
            let (level, kind, data, next) = split_cmsg(rest).ok_or(Reject::Malformed)?;
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size =
                        array(data, 0).map(i32::from_ne_bytes).and_then(|size| usize::try_from(size).ok());
                    let size = size.filter(|&size| size > 0).ok_or(Reject::Malformed)?;
                    segment_bytes = segment_bytes.min(size);
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    local = Some(IpAddr::from(array::<4>(data, 4).ok_or(Reject::Malformed)?)); // ipi_spec_dst
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let ip = IpAddr::from(array::<16>(data, 0).ok_or(Reject::Malformed)?).to_canonical();
                    local = Some(ip).filter(|ip| !ip.is_multicast()); // Nothing can be sent from a group.
                }
                // Only once something was dropped.
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    kernel_drops = array(data, 0).map(u32::from_ne_bytes).ok_or(Reject::Malformed)?;
                }
                _ => {}
            }
            rest = next;
        }
        Ok(Datagram { from, local, bytes: self.payload, segment_bytes, kernel_drops })
    }
}

/// The first control message: level, type, data, and what follows it.
fn split_cmsg(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(array(control, 0)?);
    let level = i32::from_ne_bytes(array(control, 8)?);
    let kind = i32::from_ne_bytes(array(control, 12)?);
    let data = control.get(CMSG_HEADER_BYTES..len)?;
    let next = control.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    Some((level, kind, data, next))
}

fn family(family: i32) -> [u8; 2] {
    (family as libc::sa_family_t).to_ne_bytes()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn name_of(to: &str, v6_socket: bool) -> Vec<u8> {
        let name = Name::encode(address(to), v6_socket);
        name.bytes[..name.len as usize].to_vec()
    }

    #[test]
    fn addresses_survive_the_round_trip_and_mapped_ones_become_ipv4() {
        for text in ["10.1.2.3:4", "[2001:db8::1]:65535", "[fe80::1%7]:9"] {
            assert_eq!(decode_name(&name_of(text, true)), Some(address(text)), "{text}");
        }
        assert_eq!(name_of("10.1.2.3:4", false).len(), 16);
        assert_eq!(name_of("10.1.2.3:4", true).len(), 28);
    }

    #[test]
    fn addresses_that_cannot_be_answered_are_refused() {
        assert_eq!(decode_name(&name_of("10.1.2.3:0", false)), None);
        let good = name_of("[::1]:5", true);
        for len in 0..good.len() {
            assert_eq!(decode_name(&good[..len]), None);
        }
        assert_eq!(decode_name(&name_of("1.2.3.4:5", false)[..15]), None);
        assert_eq!(decode_name(&[1; 28]), None);
    }

    /// Segment size and local address.
    fn decode(control: &Control, payload: &[u8], flags: i32) -> Result<(usize, Option<IpAddr>), Reject> {
        let name = name_of("1.2.3.4:5", false);
        let raw = RawDatagram { name: &name, control: &control.bytes[..control.len], payload, flags };
        raw.decode().map(|datagram| (datagram.segment_bytes, datagram.local))
    }

    fn gro(size: i32) -> Control {
        let mut control = Control::EMPTY;
        control.push(libc::SOL_UDP, libc::UDP_GRO, &size.to_ne_bytes());
        control
    }

    #[test]
    fn control_messages_are_read() {
        let mut control = gro(10);
        let mut info = [0; 12];
        info[4..8].copy_from_slice(&[127, 0, 0, 2]);
        control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        let got = decode(&control, &[0; 25], 0).unwrap();
        assert_eq!(got, (10, Some(IpAddr::from([127, 0, 0, 2]))));
        let sent = Control::encode(None, Some("::ffff:127.0.0.3".parse().unwrap()));
        assert_eq!(decode(&sent, &[0; 25], 0).unwrap().1, Some(IpAddr::from([127, 0, 0, 3])));
        let group = Control::encode(None, Some("ff02::1".parse().unwrap()));
        assert_eq!(decode(&group, &[0; 25], 0).unwrap().1, None);
    }

    #[test]
    fn the_kernels_drops_come_with_what_follows_them() {
        let name = name_of("1.2.3.4:5", false);
        let drops = |control: &Control| {
            let control = &control.bytes[..control.len];
            RawDatagram { name: &name, control, payload: &[0; 25], flags: 0 }
                .decode()
                .map(|got| got.kernel_drops)
        };
        let mut control = gro(10);
        assert_eq!(drops(&control), Ok(0));
        control.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7_u32.to_ne_bytes());
        assert_eq!(drops(&control), Ok(7));
        let mut short = Control::EMPTY;
        short.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &[1, 2]);
        assert_eq!(drops(&short), Err(Reject::Malformed));
    }

    #[test]
    fn segments_are_never_zero_nor_longer_than_the_payload() {
        assert_eq!(decode(&Control::EMPTY, &[], 0).unwrap().0, 1);
        assert_eq!(decode(&gro(10), &[], 0).unwrap().0, 1);
        assert_eq!(decode(&gro(1000), &[0; 7], 0).unwrap().0, 7);
        assert_eq!(decode(&gro(0), &[0; 7], 0), Err(Reject::Malformed));
        assert_eq!(decode(&gro(-1), &[0; 7], 0), Err(Reject::Malformed));
    }

    #[test]
    fn cut_and_contradictory_data_is_refused() {
        assert_eq!(decode(&gro(10), &[0; 7], libc::MSG_TRUNC), Err(Reject::Truncated));
        assert_eq!(decode(&gro(10), &[0; 7], libc::MSG_CTRUNC), Err(Reject::Malformed));
        for len in [0usize, 15, 25, 1000, usize::MAX, usize::MAX - 3] {
            let mut control = gro(10);
            control.bytes[..8].copy_from_slice(&len.to_ne_bytes());
            control.len = 24;
            assert_eq!(decode(&control, &[0; 7], 0), Err(Reject::Malformed), "cmsg_len {len}");
        }
        for cut in 1..20 {
            let control = Control { len: cut, ..gro(10) };
            assert_eq!(decode(&control, &[0; 7], 0), Err(Reject::Malformed), "cut at {cut}");
        }
    }

    #[test]
    fn a_multishot_buffer_of_any_length_and_header_is_survived() {
        let mut stored = vec![0u8; RECV_HEADROOM_BYTES + 5];
        let header = |stored: &mut Vec<u8>, values: [u32; 4]| {
            for (at, value) in values.into_iter().enumerate() {
                stored[at * 4..at * 4 + 4].copy_from_slice(&value.to_ne_bytes());
            }
        };
        header(&mut stored, [16, 24, 5, 0]);
        stored[16..32].copy_from_slice(&name_of("1.2.3.4:5", false));
        stored[48..72].copy_from_slice(&gro(2).bytes[..24]);
        let got = RawDatagram::from_multishot(&stored).unwrap().decode().unwrap();
        assert_eq!((got.bytes.len(), got.segment_bytes), (5, 2));
        for len in 0..RECV_HEADROOM_BYTES {
            assert!(RawDatagram::from_multishot(&stored[..len]).is_err());
        }
        header(&mut stored, [u32::MAX, u32::MAX, u32::MAX, 0]);
        assert_eq!(RawDatagram::from_multishot(&stored).unwrap().decode(), Err(Reject::Truncated));
        header(&mut stored, [u32::MAX, u32::MAX, 5, 0]);
        assert_eq!(RawDatagram::from_multishot(&stored).unwrap().decode().unwrap_err(), Reject::Malformed);
    }
}
