//! What a kernel stores in a buffer of a multishot receive: header, address, control data, payload.

use super::bytes::Bytes;
use crate::sys::received::RawDatagram;

/// Header, room for the address, and for control data; a test in `sys::received` knows these places, too.
const NAME_AT: usize = 16;
const CONTROL_AT: usize = NAME_AT + 32;
const PAYLOAD_AT: usize = CONTROL_AT + 192;

/// The first byte says what is repaired: 1 the lengths in the header, 2 the address's family and port, 4 the lengths of
/// control messages, 8 their level and type.
pub(super) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let repairs = bytes.u8();
    let mut stored = bytes.rest().to_vec();
    if repairs & 1 != 0 {
        stored.resize(stored.len().max(PAYLOAD_AT), 0);
        let name_bytes = if stored[0] & 1 == 0 { 16 } else { 28 };
        let control_bytes = u32::from(stored[4] % 193);
        let payload_bytes = (stored.len() - PAYLOAD_AT) as u32;
        for (at, value) in [name_bytes, control_bytes, payload_bytes, 0].into_iter().enumerate() {
            stored[4 * at..4 * at + 4].copy_from_slice(&value.to_ne_bytes());
        }
    }
    if repairs & 2 != 0 && stored.len() >= CONTROL_AT {
        let family = if stored[NAME_AT] & 1 == 0 { libc::AF_INET } else { libc::AF_INET6 };
        stored[NAME_AT..NAME_AT + 2].copy_from_slice(&(family as u16).to_ne_bytes());
        stored[NAME_AT + 2] |= 1;
    }
    if stored.len() >= PAYLOAD_AT {
        control(repairs, &mut stored[CONTROL_AT..PAYLOAD_AT]);
    }
    let Ok(raw) = RawDatagram::from_multishot(&stored) else { return };
    let Ok(datagram) = raw.decode() else { return };
    assert_ne!(datagram.from.port(), 0, "somebody who can be answered");
    assert!(datagram.segment_bytes > 0 && datagram.segment_bytes <= datagram.bytes.len().max(1));
    assert_eq!(datagram.bytes, &stored[PAYLOAD_AT..]);
    assert!(datagram.local.is_none_or(|ip| ip == ip.to_canonical() && !(ip.is_ipv6() && ip.is_multicast())));
}

/// Repairs control messages one after the other.
fn control(repairs: u8, control: &mut [u8]) {
    const KINDS: [(i32, i32, usize); 4] = [
        (libc::SOL_UDP, libc::UDP_GRO, 4),
        (libc::IPPROTO_IP, libc::IP_PKTINFO, 12),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 4),
    ];
    let mut at = 0;
    while at + 16 <= control.len() {
        let (level, kind, bytes) = KINDS[usize::from(control[at + 8]) % KINDS.len()];
        if repairs & 8 != 0 {
            control[at + 8..at + 12].copy_from_slice(&level.to_ne_bytes());
            control[at + 12..at + 16].copy_from_slice(&kind.to_ne_bytes());
        }
        let len = if repairs & 4 != 0 { 16 + bytes } else { usize::from(control[at]) };
        control[at..at + 8].copy_from_slice(&len.to_ne_bytes());
        at += len.next_multiple_of(8).max(16);
    }
}
