//! Base64 as it arrives: strict and fast if it is well-formed, otherwise with CPython's leniency.
//!
//! `binascii.a2b_base64` skips every character outside the alphabet (line breaks, NUL, anything), stops at the padding
//! that completes a group of four, and fails only if the text ends inside a group.

use crate::wire::DropReason;
use base64_simd::{Out, STANDARD};

/// Column 4 of a data row: base64 text that is not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base64<'a> {
    text: &'a [u8],
}

impl<'a> Base64<'a> {
    /// Whatever the column holds.
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text }
    }

    /// What the text decodes to is never longer than this, and exactly this long if the text is well-formed.
    #[must_use]
    #[inline]
    pub const fn decoded_bytes_max(&self) -> usize {
        let padding = match self.text {
            [.., b'=', b'='] => 2,
            [.., b'='] => 1,
            _ => 0,
        };
        let characters = self.text.len() - padding;
        characters / 4 * 3 + characters % 4 * 3 / 4
    }

    /// Decodes into the start of `out`, which has at least [`decoded_bytes_max`](Self::decoded_bytes_max) bytes, and
    /// returns the number of bytes. Bytes of `out` beyond that number are unspecified.
    #[inline]
    pub fn decode_into(&self, out: &mut [u8]) -> Result<usize, DropReason> {
        assert!(out.len() >= self.decoded_bytes_max(), "room for the decoded chunk");
        match STANDARD.decode(self.text, Out::from_slice(out)) {
            Ok(decoded) => Ok(decoded.len()),
            Err(_) => decode_lenient(self.text, out).ok_or(DropReason::BadBase64),
        }
    }
}

/// `binascii.a2b_base64(text, strict_mode=False)`; `None` where that raises.
#[cold]
pub(super) fn decode_lenient(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut out_bytes = 0;
    let mut group = 0u32;
    let mut group_characters = 0u32;
    let mut padding = 0u32;
    for &character in text {
        if character == b'=' {
            if group_characters >= 2 {
                padding += 1;
                if group_characters + padding >= 4 {
                    return Some(out_bytes);
                }
            }
            continue;
        }
        let Some(value) = alphabet_value(character) else { continue };
        padding = 0;
        group = (group << 6 | u32::from(value)) & 0xffff;
        group_characters = (group_characters + 1) % 4;
        if group_characters != 1 {
            // After 2, 3 and 4 characters, 4, 2 and 0 bits are left over for the next byte.
            let spare_bits = (4 - group_characters) % 4 * 2;
            *out.get_mut(out_bytes)? = (group >> spare_bits & 0xff) as u8;
            out_bytes += 1;
        }
    }
    (group_characters == 0).then_some(out_bytes)
}

const fn alphabet_value(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}
