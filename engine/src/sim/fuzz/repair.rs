//! Makes a datagram of the binary wire out of bytes that are nearly one.

use crate::wire::binary::{FLAG_TIMED, FRAME_BYTES, HEADER_BYTES, Kind, MAGIC, TIME_BYTES};

/// Magic, flags and the reserved byte, and room for all of the header.
pub(super) fn header(datagram: &mut Vec<u8>) {
    datagram.resize(datagram.len().max(HEADER_BYTES), 0);
    datagram[0] = MAGIC;
    datagram[1] &= FLAG_TIMED;
    datagram[3] = 0;
    let bytes = frames_at(datagram);
    datagram.resize(datagram.len().max(bytes), 0);
}

/// Where the frames begin.
pub(super) fn frames_at(datagram: &[u8]) -> usize {
    if datagram[1] & FLAG_TIMED == 0 { HEADER_BYTES } else { HEADER_BYTES + TIME_BYTES }
}

/// Every frame of a known type, and as long as its type wants it; the last one gets bytes where some are missing.
pub(super) fn lengths(datagram: &mut Vec<u8>, mut at: usize) {
    while at < datagram.len() {
        if datagram[at] < 0x80 {
            datagram[at] %= Kind::ALL.len() as u8;
        }
        let kind = Kind::from_wire(datagram[at]);
        if kind == Some(Kind::Padding) {
            return;
        }
        let body_at = at + FRAME_BYTES;
        datagram.resize(datagram.len().max(body_at), 0);
        let there = datagram.len() - body_at;
        let wanted = usize::from(u16::from_le_bytes([datagram[at + 1], datagram[at + 2]]));
        let body_bytes = match kind {
            Some(Kind::Padding) => 0,
            Some(Kind::Pong | Kind::Reset) => 8,
            Some(Kind::Ping) => 12,
            Some(Kind::Low) => 16,
            Some(Kind::Close) => 17,
            Some(Kind::Grant) => 28,
            Some(Kind::Result) => wanted.min(there).next_multiple_of(9).max(9),
            Some(Kind::Cancel) => wanted.min(there).next_multiple_of(8).max(8),
            Some(Kind::Skip) => wanted.min(there).next_multiple_of(12).max(12),
            Some(Kind::Ack) => ack_bytes(datagram, body_at),
            Some(Kind::Message) => wanted.min(there).max(5),
            Some(Kind::Chunk) => wanted.min(there).max(13),
            Some(Kind::Hello) | None => wanted.min(there),
        };
        datagram[at + 1..body_at].copy_from_slice(&(body_bytes as u16).to_le_bytes());
        at = body_at + body_bytes;
        datagram.resize(datagram.len().max(at), 0);
    }
}

/// As its flags and its count of ranges say; flags it does not know are taken from it.
fn ack_bytes(datagram: &mut Vec<u8>, body_at: usize) -> usize {
    datagram.resize(datagram.len().max(body_at + 18), 0);
    datagram[body_at + 12] &= 1;
    let [ecn, gaps] = [datagram[body_at + 12], datagram[body_at + 13]];
    18 + usize::from(gaps) * 8 + usize::from(ecn) * 24
}
