//! What comes around a payload that is received: the sender's address and control messages, for both drivers. The kernel's bytes
//! are treated like a datagram from the network: every length is checked, nonsense is [`Reject::Malformed`]. No unsafe
//! code, no allocation.

use super::msg::{CMSG_HEADER_BYTES, NAME_BYTES_V4, family};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room asked for a sender's address; more than needed so that what follows stays 8-byte aligned.
pub(super) const RECV_NAME_BYTES: usize = 32;
/// Room asked for control data on receive. UDP_GRO (24), SO_RXQ_OVFL (24) and IPV6_PKTINFO (40) are all the engine asks
/// for; the rest is reserve for options others might set.
pub(super) const RECV_CONTROL_BYTES: usize = 192;
/// The header in front of each multishot receive: name, control and payload length, flags.
const MULTISHOT_HEADER_BYTES: usize = 16;
/// What a receive buffer needs beyond the payload.
pub(super) const RECV_HEADROOM_BYTES: usize = MULTISHOT_HEADER_BYTES + RECV_NAME_BYTES + RECV_CONTROL_BYTES;

const _: () = assert!(RECV_HEADROOM_BYTES.is_multiple_of(8));

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
pub(super) fn split_cmsg(control: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(array(control, 0)?);
    let level = i32::from_ne_bytes(array(control, 8)?);
    let kind = i32::from_ne_bytes(array(control, 12)?);
    let data = control.get(CMSG_HEADER_BYTES..len)?;
    let next = control.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    Some((level, kind, data, next))
}

/// A sender's address; IPv4 for a mapped one. `None` for anything that cannot be answered.
pub(super) fn decode_name(name: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(array(name, 2)?);
    if port == 0 {
        return None;
    }
    let of = array::<2>(name, 0)?;
    if of == family(libc::AF_INET) && name.len() >= NAME_BYTES_V4 {
        return Some(SocketAddr::from((Ipv4Addr::from(array::<4>(name, 4)?), port)));
    }
    if of != family(libc::AF_INET6) {
        return None;
    }
    let ip = Ipv6Addr::from(array::<16>(name, 8)?);
    let scope_id = u32::from_ne_bytes(array(name, 24)?);
    match ip.to_ipv4_mapped() {
        Some(ip) => Some(SocketAddr::from((ip, port))),
        None => Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope_id))),
    }
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::super::msg::{Control, Name};
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
