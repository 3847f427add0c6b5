//! When each message last left its sender's socket: what has ended is not sent again. Told by the bytes that left, so not in
//! worlds in which they are sealed.

use crate::units::Instant;
use crate::wire::binary::{self, Frame};
use crate::wire::csv::{Row, Scratch, decode};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Digits with which every payload begins: the message's number.
pub(crate) const NUMBER_DIGITS: usize = 16;

/// The number of the message that begins with these bytes.
pub(crate) fn number_of(payload: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(payload.get(..NUMBER_DIGITS)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LastSent {
    /// By sender and message.
    at: BTreeMap<(SocketAddr, u64), Instant>,
    scratch: Scratch,
    payload: Vec<u8>,
}

impl LastSent {
    /// A datagram left this socket. Of a message in parts the first one counts.
    pub(crate) fn sent(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if datagram.first().is_none_or(|&first| first < 0x80) {
            let Ok(Row::Data(row)) = decode(datagram, &mut self.scratch) else { return };
            self.payload.resize(row.payload.decoded_bytes_max(), 0);
            let Ok(bytes) = row.payload.decode_into(&mut self.payload) else { return };
            let number = number_of(&self.payload[..bytes]).filter(|_| row.chunk_index == 0);
            self.at.extend(number.map(|number| ((from, number), now)));
            return;
        }
        let Ok((_, frames)) = binary::decode(datagram) else { return };
        for frame in binary::frames(frames) {
            let payload = match frame {
                Ok(Frame::Message(message)) => message.payload,
                Ok(Frame::Chunk(chunk)) if chunk.offset == 0 => chunk.bytes,
                _ => continue,
            };
            self.at.extend(number_of(payload).map(|number| ((from, number), now)));
        }
    }

    /// When this message last left that socket.
    pub(crate) fn at(&self, from: SocketAddr, number: u64) -> Option<Instant> {
        self.at.get(&(from, number)).copied()
    }
}
