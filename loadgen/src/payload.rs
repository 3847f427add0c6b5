//! What the load generator sends: printable text, different in every message, checkable by whoever receives it without
//! any state. About 2 ns to write and 5 ns to check a message of 64 bytes.
//!
//! ```text
//!   piece 0 (to byte 1,024)                    piece 1 (1,024 bytes)       ...  the last piece ends where the text ends
//!   | run+slot: 8 | number: 8 | filler ...     | marker: 8 | filler ...
//! ```
//!
//! All numbers are written six bits a character (`'0'..='o'`), the lowest ones first. Filler is a slice of one fixed table of random text; where
//! in the table, and what the marker says, follows from run, slot, number, length and piece. So a text that was cut, spliced
//! from two messages, or damaged in any byte does not check.

/// The shortest payload: run, slot and number.
pub const PAYLOAD_BYTES_MIN: usize = HEADER_BYTES;

const HEADER_BYTES: usize = 16;
/// Messages of this size are to cost the tool least.
const COMMON_BYTES: usize = 64;
const _: () = assert!((COMMON_BYTES - HEADER_BYTES).is_multiple_of(8) && COMMON_BYTES <= PIECE_BYTES);
const MARKER_BYTES: usize = 8;
const PIECE_BYTES: usize = 1_024;
/// Offsets into the filler table. With one more piece behind it the table stays within the L1 cache.
const OFFSETS: usize = 8_192;
const FILLER: [u8; OFFSETS + PIECE_BYTES] = filler();

/// Runs are 24-bit numbers.
pub const RUN_MAX: u32 = (1 << 24) - 1;
/// So are slots.
pub const SLOT_MAX: u32 = (1 << SLOT_BITS) - 1;
const SLOT_BITS: u32 = 24;

/// What a message says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which run it belongs to: random, at most [`RUN_MAX`].
    pub run: u32,
    /// Where the sender keeps it while it is under way: at most [`SLOT_MAX`].
    pub slot: u32,
    /// Its number within the run: below 2^48.
    pub number: u64,
}

impl Stamp {
    /// Slot and number as the engine carries them to the outcome, so that nobody has to look the number up.
    #[inline]
    pub const fn tag(self) -> u64 {
        self.number << SLOT_BITS | self.slot as u64
    }

    /// Slot and number in a tag.
    #[inline]
    pub const fn of_tag(tag: u64) -> (u32, u64) {
        (tag as u32 & SLOT_MAX, tag >> SLOT_BITS)
    }
}

/// Writes the payload of message `stamp`; its size is that of `into`, at least [`PAYLOAD_BYTES_MIN`].
#[inline]
pub fn fill(into: &mut [u8], stamp: Stamp) {
    fill_with(into, stamp, place_text(stamp));
}

/// Message `stamp` as the engine puts one: its tag, and what writes its payload.
#[inline]
pub fn writer(stamp: Stamp) -> (u64, impl FnOnce(&mut [u8])) {
    (stamp.tag(), move |space: &mut [u8]| fill(space, stamp))
}

/// Many messages of a run, as the engine puts them. What those in one slot have in common is made once.
#[inline]
pub fn writers(stamps: impl Iterator<Item = Stamp>) -> impl Iterator<Item = (u64, impl FnOnce(&mut [u8]))> {
    let mut last: Option<(u32, [u8; 8])> = None;
    stamps.map(move |stamp| {
        let text = match last {
            Some((slot, text)) if slot == stamp.slot => text,
            _ => place_text(stamp),
        };
        last = Some((stamp.slot, text));
        (stamp.tag(), move |space: &mut [u8]| fill_with(space, stamp, text))
    })
}

#[inline]
fn fill_with(into: &mut [u8], stamp: Stamp, place: [u8; 8]) {
    match <&mut [u8; COMMON_BYTES]>::try_from(&mut *into) {
        Ok(into) => fill_common(into, stamp, place),
        Err(_) => fill_any(into, stamp, place),
    }
}

#[inline]
fn fill_common(into: &mut [u8; COMMON_BYTES], stamp: Stamp, place: [u8; 8]) {
    // With a length known to the compiler this is three moves.
    let body = slice(seed(stamp, COMMON_BYTES), COMMON_BYTES - HEADER_BYTES);
    into[HEADER_BYTES..].copy_from_slice(body);
    write_header(into, stamp, place);
}

#[inline(never)]
fn fill_any(into: &mut [u8], stamp: Stamp, place: [u8; 8]) {
    let seed = seed(stamp, into.len());
    let (first, rest) = into.split_at_mut(into.len().min(PIECE_BYTES));
    write_header(first, stamp, place);
    let body = &mut first[HEADER_BYTES..];
    body.copy_from_slice(slice(seed, body.len()));
    for (hash, piece) in later_pieces(seed).zip(rest.chunks_mut(PIECE_BYTES)) {
        let (marker, body) = piece.split_at_mut(piece.len().min(MARKER_BYTES));
        marker.copy_from_slice(&encode(hash >> 16)[..marker.len()]);
        body.copy_from_slice(slice(hash, body.len()));
    }
}

#[inline]
fn write_header(into: &mut [u8], stamp: Stamp, place: [u8; 8]) {
    let header = &mut into[..HEADER_BYTES];
    header[..8].copy_from_slice(&place);
    header[8..].copy_from_slice(&encode(stamp.number));
}

/// Run and slot, as a header has them.
#[inline]
const fn place_text(stamp: Stamp) -> [u8; 8] {
    encode((stamp.run as u64) << SLOT_BITS | stamp.slot as u64)
}

/// What a payload says about itself, if every byte of it is as [`fill`] wrote it.
#[inline(always)]
pub fn check(payload: &[u8]) -> Option<Stamp> {
    let stamp = stamp(payload)?;
    let intact = match <&[u8; COMMON_BYTES]>::try_from(payload) {
        Ok(payload) => is_common_intact(payload, stamp),
        Err(_) => is_intact(payload, stamp),
    };
    intact.then_some(stamp)
}

#[inline(always)]
fn is_common_intact(payload: &[u8; COMMON_BYTES], stamp: Stamp) -> bool {
    let expected = slice(seed(stamp, COMMON_BYTES), COMMON_BYTES - HEADER_BYTES);
    // By words: for so few bytes the call of a comparison costs more than the comparing.
    let words = payload[HEADER_BYTES..].as_chunks::<8>().0.iter().zip(expected.as_chunks::<8>().0);
    words.fold(0, |bits, (a, b)| bits | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b))) == 0
}

#[inline(never)]
fn is_intact(payload: &[u8], stamp: Stamp) -> bool {
    let seed = seed(stamp, payload.len());
    let (first, rest) = payload.split_at(payload.len().min(PIECE_BYTES));
    let body = &first[HEADER_BYTES..];
    body == slice(seed, body.len())
        && later_pieces(seed).zip(rest.chunks(PIECE_BYTES)).all(|(hash, piece)| {
            let (marker, body) = piece.split_at(piece.len().min(MARKER_BYTES));
            marker == &encode(hash >> 16)[..marker.len()] && body == slice(hash, body.len())
        })
}

/// What the header alone says, if it is one.
#[inline(always)]
fn stamp(payload: &[u8]) -> Option<Stamp> {
    let header = payload.first_chunk::<HEADER_BYTES>()?;
    let place = decode(*header.first_chunk()?)?;
    let number = decode(*header.last_chunk()?)?;
    Some(Stamp { run: (place >> 24) as u32, slot: place as u32 & SLOT_MAX, number })
}

/// Spreads everything a message is over 64 bits.
#[inline]
fn seed(stamp: Stamp, bytes: usize) -> u64 {
    let place = u64::from(stamp.run) << 24 | u64::from(stamp.slot);
    let mixed = stamp.number.wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ place ^ (bytes as u64) << 32;
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn later_pieces(seed: u64) -> impl Iterator<Item = u64> {
    (1_u64..).map(move |piece| (seed ^ piece).wrapping_mul(0xD6E8_FEB8_6659_FD93))
}

#[inline]
fn slice(hash: u64, bytes: usize) -> &'static [u8] {
    static TABLE: [u8; OFFSETS + PIECE_BYTES] = FILLER;
    // The high bits are the well-mixed ones.
    let offset = (hash >> 51) as usize;
    &TABLE[offset..offset + bytes]
}

const ZEROES: u64 = 0x3030_3030_3030_3030;

/// 48 bits as 8 characters from `'0'` to `'o'`, least significant first: spread to 6 bits a byte, then shifted into text.
#[inline]
const fn encode(bits: u64) -> [u8; 8] {
    let bits = (bits & 0xFF_FFFF) | (bits & 0xFFFF_FF00_0000) << 8;
    let bits = (bits & 0x0000_0FFF_0000_0FFF) | (bits & 0x00FF_F000_00FF_F000) << 4;
    let bits = (bits & 0x003F_003F_003F_003F) | (bits & 0x0FC0_0FC0_0FC0_0FC0) << 2;
    (bits + ZEROES).to_le_bytes()
}

/// The inverse of [`encode`]; `None` for any other character.
#[inline]
const fn decode(text: [u8; 8]) -> Option<u64> {
    // What is 0 to 0x3F in every byte came from 0x30 to 0x6F in every byte: adding takes it back without a carry, so no
    // other text ends up there, whatever it borrows.
    let bits = u64::from_le_bytes(text).wrapping_sub(ZEROES);
    if bits & 0xC0C0_C0C0_C0C0_C0C0 != 0 {
        return None;
    }
    let bits = (bits & 0x003F_003F_003F_003F) | (bits & 0x3F00_3F00_3F00_3F00) >> 2;
    let bits = (bits & 0x0000_0FFF_0000_0FFF) | (bits & 0x0FFF_0000_0FFF_0000) >> 4;
    Some((bits & 0xFF_FFFF) | (bits & 0x00FF_FFFF_0000_0000) >> 8)
}

/// Random printable ASCII, the same in every build.
const fn filler() -> [u8; OFFSETS + PIECE_BYTES] {
    let mut table = [0; OFFSETS + PIECE_BYTES];
    let mut state: u64 = 0x2545_F491_4F6C_DD1D;
    let mut i = 0;
    while i < table.len() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        table[i] = b' ' + ((state >> 33) % 95) as u8;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const STAMP: Stamp = Stamp { run: 0xAB_CDEF, slot: 0x12_3456, number: 0x9876_5432_10FE };

    fn payload(bytes: usize, stamp: Stamp) -> Vec<u8> {
        let mut payload = vec![0; bytes];
        fill(&mut payload, stamp);
        payload
    }

    /// Whatever slots follow each other.
    #[test]
    fn many_are_written_as_each_alone() {
        let stamps =
            || [7, 7, 8, 7, 0, 0].into_iter().zip(5..).map(|(slot, number)| Stamp { run: 3, slot, number });
        for bytes in [16, 64, 3_000] {
            for ((tag, write), stamp) in writers(stamps()).zip(stamps()) {
                let mut written = vec![0; bytes];
                write(&mut written);
                assert_eq!((tag, written), (stamp.tag(), payload(bytes, stamp)));
            }
        }
    }

    #[test]
    fn six_bits_a_character() {
        for bits in [0, 1, 0x3F, 0x40, 0xFF_FFFF, 0x100_0000, 0x1234_5678_9ABC, (1 << 48) - 1] {
            let text = encode(bits);
            assert!(text.iter().all(|c| (b'0'..=b'o').contains(c)));
            assert_eq!(decode(text), Some(bits));
        }
        assert_eq!(&encode(1), b"10000000");
        for position in 0..8 {
            for byte in 0..=255_u8 {
                let mut text = encode(0x1234_5678_9ABC);
                text[position] = byte;
                assert_eq!(decode(text).is_some(), (b'0'..=b'o').contains(&byte));
            }
        }
    }

    #[test]
    fn every_size_checks_and_is_printable() {
        for bytes in
            (16..=80).chain([384, 1_023, 1_024, 1_025, 1_030, 1_032, 2_047, 2_048, 2_049, 5_000, 1 << 20])
        {
            let payload = payload(bytes, STAMP);
            assert!(payload.iter().all(|c| (b' '..=b'~').contains(c)), "{bytes}");
            assert_eq!(check(&payload), Some(STAMP), "{bytes}");
        }
    }

    #[test]
    fn any_changed_byte_is_seen() {
        for bytes in [64, 3_000] {
            let good = payload(bytes, STAMP);
            for position in 0..bytes {
                let mut bad = good.clone();
                bad[position] = if bad[position] == b'0' { b'1' } else { b'0' };
                assert_eq!(check(&bad), None, "byte {position} of {bytes}");
            }
        }
    }

    #[test]
    fn cut_and_spliced_payloads_are_seen() {
        let a = payload(5_000, STAMP);
        let b = payload(5_000, Stamp { number: STAMP.number + 1, ..STAMP });
        assert_eq!(check(&a[..4_999]), None);
        assert_eq!(check(&a[..1_024]), None);
        let mut spliced = a[..2_048].to_vec();
        spliced.extend(&b[2_048..]);
        assert_eq!(check(&spliced), None);
        assert_eq!(check(b""), None);
        assert_eq!(check(&a[..15]), None);
    }

    #[test]
    fn different_in_every_message() {
        let texts: BTreeSet<Vec<u8>> =
            (0..10_000).map(|number| payload(64, Stamp { run: 7, slot: 3, number })).collect();
        assert_eq!(texts.len(), 10_000);
        let fillers: BTreeSet<&[u8]> = texts.iter().map(|text| &text[16..]).collect();
        assert!(fillers.len() > 4_000, "only {} different fillers", fillers.len());
    }
}
