//! Somebody on the network who sees datagrams and sends some of his own: repeated, from elsewhere or later; made up; forged
//! as far as who cannot name a flow's tag may get. All of it has to come to nothing.

use super::v1_watch::Leg;
use crate::hash::Rng;
use crate::wire::binary::{self, Frame, HEADER_BYTES, Header, Writer};
use crate::wire::csv::{self, Row, Scratch};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Bits of a tag that are chance (R-FLOW-1): who has them wrong names no flow.
const CHANCE: u64 = 1 << 40;
/// Longest wait before something is repeated. Shorter than the dedup horizon of rows.
const REPEAT_MS: u32 = 3_000;

/// What he sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thrown {
    /// Seen before, and not changed.
    pub(crate) replayed: bool,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) after: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Outsider {
    /// By sender and receiver: the tag of the last datagram between them.
    tags: BTreeMap<(SocketAddr, SocketAddr), u64>,
    /// Its receivers take rows for rows: not where nobody speaks them, there messages are counted otherwise.
    pub(crate) rows: bool,
    numbers: u64,
    scratch: Scratch,
}

impl Outsider {
    /// What he makes of a datagram on its way to an engine.
    pub(crate) fn sees(&mut self, leg: Leg<'_>, rng: &mut Rng) -> Option<Thrown> {
        let own = SocketAddr::from(([10, 0, 2, 1 + rng.below(4) as u8], 6_666));
        let is_binary = leg.bytes.first().is_some_and(|&first| first >= 0x80);
        let header = if is_binary { binary::decode(leg.bytes).ok() } else { None };
        if let Some((header, _)) = &header {
            self.tags.insert((leg.from, leg.to), header.tag);
        }
        if rng.below(3) == 0 {
            let after = Duration::from_millis(rng.below(REPEAT_MS).into());
            let replay =
                |from, after| Thrown { replayed: true, from, to: leg.to, bytes: leg.bytes.into(), after };
            // A row from elsewhere is another one's message.
            return match rng.below(2) {
                0 if is_binary => Some(replay(own, after / 100)),
                _ => Some(replay(leg.from, after)),
            };
        }
        let to = leg.to;
        let (from, to, bytes) = match header {
            Some((header, frames)) => match rng.below(8) {
                0 => self.forged_ack(leg, &header)?,
                1 => (leg.from, to, first_flight(&header, |writer| writer.reset(rng.next_u64()))),
                2 => (own, to, changed(leg.bytes, |bytes| bytes[1] |= 0x40)),
                3 => (own, to, changed(leg.bytes, |bytes| bytes[1] |= binary::FLAG_PROTECTED)),
                4 => (own, to, changed(leg.bytes, |bytes| bytes[0] ^= 1)),
                5 => (own, to, leg.bytes[..rng.below(HEADER_BYTES as u32) as usize].to_vec()),
                // Under a tag that he sees, he may spoil a handshake, which nothing protects.
                6 if header.tag != 0 && !says_hello(frames) => {
                    let header = Header { epoch: header.epoch ^ 1 << 20, ..header };
                    (leg.from, to, with_frames(&header, frames))
                }
                _ => (own, to, with_frames(&Header { tag: 0, ..header }, &[0x7f, 1, 2, 3])),
            },
            None if is_binary => (own, to, Vec::new()),
            None => match rng.below(4) {
                0 => self.forged_confirm(leg, own, false)?,
                1 => self.forged_confirm(leg, own, true)?,
                _ if !self.rows => return None,
                _ => (own, to, self.bad_row(rng)),
            },
        };
        let after = Duration::from_micros(rng.below(2_000).into());
        Some(Thrown { replayed: false, from, to, bytes, after })
    }

    /// Says to the sender, in the receiver's name, that the datagram came; under a tag of which he knows the index alone.
    fn forged_ack(&self, leg: Leg<'_>, header: &Header) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let tag = *self.tags.get(&(leg.to, leg.from)).filter(|&&tag| tag != 0)?;
        let forged = Header { tag: tag ^ CHANCE, packet_number: header.packet_number + 7, ..*header };
        let number = header.packet_number;
        let bytes = frames(&forged, |writer| writer.ack(0, [(number, number)], None));
        Some((leg.to, leg.from, bytes))
    }

    /// Confirms a row from elsewhere; or one that was never sent, in the receiver's name.
    fn forged_confirm(
        &mut self,
        leg: Leg<'_>,
        own: SocketAddr,
        unsent: bool,
    ) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let Ok(Row::Data(row)) = csv::decode(leg.bytes, &mut self.scratch) else { return None };
        let (id, epoch) = (row.id.native?, row.epoch?);
        let chunk_index = if unsent { row.chunk_count + 3 } else { row.chunk_index };
        let form = csv::Confirm::Marked { id, chunk_index, epoch };
        let mut bytes = vec![0; csv::confirm_row_bytes(&form)];
        csv::encode_confirm(&mut bytes, &form);
        Some((if unsent { leg.to } else { own }, leg.from, bytes))
    }

    /// One for each way a row can be none, and some that are rows and too much.
    fn bad_row(&mut self, rng: &mut Rng) -> Vec<u8> {
        self.numbers += 1;
        let number = self.numbers;
        let id = format!("{number:08x}");
        match rng.below(14) {
            0 => Vec::new(),
            1 => b",1,2".to_vec(),
            2 => b",\"1,1,0,aGU=,1.5".to_vec(),
            3 => b"x,1,1,0,aGU=,1.5".to_vec(),
            4 => b"7,1,1,0,aGU=,1.5".to_vec(),
            5 => format!(",{id},0,0,aGU=,1.5").into_bytes(),
            6 => format!(",{id},2,x,aGU=,1.5").into_bytes(),
            7 => format!(",{id},2,2,aGU=,1.5").into_bytes(),
            8 => format!(",{id},1,0,aGU,1.5").into_bytes(),
            9 => format!(",{id:0>300},1,0,aGU=,1.5").into_bytes(),
            10 => b",1,1,0,\xff\xfe,1.5".to_vec(),
            11 => format!(",{id},4000000000,0,aGU=,1.5").into_bytes(),
            // The same operation, now of two rows, now of three; never whole.
            12 => format!(",{:08x},2,0,aGU=,1.5", number / 32).into_bytes(),
            _ => format!(",{:08x},3,0,aGU=,1.5", number / 32).into_bytes(),
        }
    }
}

fn says_hello(frames: &[u8]) -> bool {
    binary::frames(frames).any(|frame| matches!(frame, Ok(Frame::Hello(_))))
}

fn changed(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    bytes
}

fn with_frames(header: &Header, frames: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; header.bytes() + frames.len()];
    let at = binary::write(&mut datagram, header);
    datagram[at..].copy_from_slice(frames);
    binary::seal(&mut datagram);
    datagram
}

fn frames(header: &Header, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<u8> {
    let mut area = [0; 64];
    let mut writer = Writer::new(&mut area);
    let written = write(&mut writer);
    debug_assert!(written, "room for a frame");
    let bytes = writer.at();
    with_frames(header, &area[..bytes])
}

fn first_flight(header: &Header, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<u8> {
    // From what claims to be another start: who believed it would say that the peer restarted.
    frames(&Header { tag: 0, epoch: header.epoch ^ 1 << 20, ..*header }, write)
}
