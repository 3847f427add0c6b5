//! Rows that ask whether a peer speaks the binary wire, and the answer: confirms, to an original v1 peer, of an operation
//! it never sent, which it ignores (R-DISC-1).
//!
//! ```text
//!   probe    1,<id16>,,0,,,udp+,p,2,<nonce16>,0000000000000000      as long as the answer: nobody is made to send more
//!   answer   1,<id16>,,0,,,udp+,a,2,<nonce16>,<cookie16>            than he got
//! ```
//!
//! The id is the asker's; its last two digits are the route the answer comes back by. Who answers, and what the cookie
//! is: R-DISC-2.

use super::text::{hex16, parse_hex16};

const START: &[u8; 2] = b"1,";
const MIDDLE: &[u8; 11] = b",,0,,,udp+,";
const VERSION: &[u8; 3] = b",2,";
const NUMBER: usize = 16;

/// Bytes of either row.
pub const DISCOVERY_ROW_BYTES: usize =
    START.len() + NUMBER + MIDDLE.len() + 1 + VERSION.len() + NUMBER + 1 + NUMBER;

/// What a discovery row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryKind {
    /// Do you speak the binary wire?
    Probe,
    /// Yes.
    Answer {
        /// Proves, in a first datagram of the binary wire, that its sender receives at its address.
        cookie: u64,
    },
}

/// A discovery row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Chosen by the asker.
    pub id: u64,
    /// Chosen by the asker, and not to be guessed.
    pub nonce: u64,
    /// See [`DiscoveryKind`].
    pub kind: DiscoveryKind,
}

/// The row, if it is one of these.
#[must_use]
#[inline]
pub fn decode_discovery(row: &[u8]) -> Option<Discovery> {
    if row.len() != DISCOVERY_ROW_BYTES {
        return None;
    }
    let row = row.strip_prefix(START)?;
    let (id, row) = row.split_first_chunk::<NUMBER>()?;
    let (kind, row) = row.strip_prefix(MIDDLE)?.split_first()?;
    let (nonce, row) = row.strip_prefix(VERSION)?.split_first_chunk::<NUMBER>()?;
    let cookie = row.strip_prefix(b",")?.first_chunk::<NUMBER>()?;
    let kind = match kind {
        b'p' => DiscoveryKind::Probe,
        b'a' => DiscoveryKind::Answer { cookie: parse_hex16(cookie)? },
        _ => return None,
    };
    Some(Discovery { id: parse_hex16(id)?, nonce: parse_hex16(nonce)?, kind })
}

/// Writes a row of exactly [`DISCOVERY_ROW_BYTES`] bytes.
pub fn encode_discovery(out: &mut [u8], row: &Discovery) {
    let (kind, cookie) = match row.kind {
        DiscoveryKind::Probe => (b"p", 0),
        DiscoveryKind::Answer { cookie } => (b"a", cookie),
    };
    let (id, nonce, cookie) = (hex16(row.id), hex16(row.nonce), hex16(cookie));
    let parts: [&[u8]; 8] = [START, &id, MIDDLE, kind, VERSION, &nonce, b",", &cookie];
    let mut rest = out;
    for part in parts {
        let (place, after) = std::mem::take(&mut rest).split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    assert!(rest.is_empty(), "a row of the size asked for");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::csv::{Row, Scratch, decode};
    use crate::wire::route;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_back_as_written(id: u64, nonce: u64, cookie: u64, answer: bool) {
            let kind = if answer { DiscoveryKind::Answer { cookie } } else { DiscoveryKind::Probe };
            let row = Discovery { id, nonce, kind };
            let mut bytes = [0; DISCOVERY_ROW_BYTES];
            encode_discovery(&mut bytes, &row);
            prop_assert_eq!(decode_discovery(&bytes), Some(row));
            // To a reader of v1 it is the confirm of an operation; its route leads back to the asker.
            let mut scratch = Scratch::new();
            match decode(&bytes, &mut scratch) {
                Ok(Row::Confirm(confirm)) => prop_assert_eq!(confirm.id.native, Some(id)),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(route::route(&bytes), Some(id as u8));
        }

        #[test]
        fn nothing_else_is_taken_for_one(mut bytes: [u8; DISCOVERY_ROW_BYTES], flip in 0..DISCOVERY_ROW_BYTES) {
            prop_assert_eq!(decode_discovery(&bytes), None);
            let row = Discovery { id: 1, nonce: 2, kind: DiscoveryKind::Answer { cookie: 3 } };
            encode_discovery(&mut bytes, &row);
            bytes[flip] ^= 0x40;
            prop_assert_ne!(decode_discovery(&bytes), Some(row));
            prop_assert_eq!(decode_discovery(&bytes[..flip]), None);
        }
    }
}
