//! Rows to bytes. Each row is written into a slice of exactly the size asked for beforehand.

use super::text::{format_timestamp, hex8, hex16};
use super::{ChunkPlace, Epoch, STAMP_BYTES};
use crate::units::UnixMicros;
use base64_simd::{Out, STANDARD};

/// `,<id16>,,,`, the start of a single-chunk row.
pub(super) const SINGLE_PREFIX_BYTES: usize = 1 + 16 + 3;
/// `1,<id16>,,`, the start of a marked confirm, and `,,,u+<epoch8>`, its end.
const CONFIRM_PREFIX_BYTES: usize = 2 + 16 + 2;
const CONFIRM_SUFFIX_BYTES: usize = 3 + 2 + 8;
/// A marked confirm of a single-chunk message: its chunk is 0.
pub(super) const CONFIRM_SINGLE_BYTES: usize = CONFIRM_PREFIX_BYTES + 1 + CONFIRM_SUFFIX_BYTES;
/// Digits of a `u32`.
const DECIMAL_BYTES_MAX: usize = 10;

/// The end of a data row, `,<ts17>,u+<epoch8>`: formatted once, copied into every row of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp([u8; STAMP_BYTES]);

impl Stamp {
    /// The stamp of rows sent at `time` by the engine of `epoch`.
    #[must_use]
    pub fn new(time: UnixMicros, epoch: Epoch) -> Self {
        let mut bytes = *b",1764123456.123456,u+00000000";
        let mut at = Cursor { rest: &mut bytes };
        at.put(b",");
        at.put(&format_timestamp(time));
        at.put(b",u+");
        at.put(&hex8(epoch.0));
        Self(bytes)
    }

    /// The text.
    #[must_use]
    pub(super) const fn as_array(&self) -> &[u8; STAMP_BYTES] {
        &self.0
    }
}

/// Size of the data row of a payload of `payload_bytes`.
#[must_use]
#[inline]
pub const fn data_row_bytes(payload_bytes: usize, chunk: Option<ChunkPlace>) -> usize {
    let place_bytes = match chunk {
        None => 0,
        Some(place) => decimal_bytes(place.count) + decimal_bytes(place.index),
    };
    SINGLE_PREFIX_BYTES + place_bytes + payload_bytes.div_ceil(3) * 4 + STAMP_BYTES
}

/// The largest payload of which *every* chunk of a message of `chunk_count` chunks has a row of at most `row_bytes_max`.
#[must_use]
pub const fn payload_bytes_max(row_bytes_max: usize, chunk_count: u32) -> usize {
    let place =
        if chunk_count > 1 { Some(ChunkPlace { index: chunk_count - 1, count: chunk_count }) } else { None };
    row_bytes_max.saturating_sub(data_row_bytes(0, place)) / 4 * 3
}

/// Writes a data row. `out` has exactly [`data_row_bytes`] bytes; `chunk` is `None` for a single-chunk message.
#[inline]
pub fn encode_data(out: &mut [u8], id: u64, chunk: Option<ChunkPlace>, payload: &[u8], stamp: &Stamp) {
    assert!(out.len() == data_row_bytes(payload.len(), chunk), "a row of the size asked for");
    let mut at = Cursor { rest: out };
    at.put(b",");
    at.put(&hex16(id));
    match chunk {
        None => at.put(b",,,"),
        Some(place) => {
            at.put(b",");
            at.put_decimal(place.count);
            at.put(b",");
            at.put_decimal(place.index);
            at.put(b",");
        }
    }
    let text = at.take(payload.len().div_ceil(3) * 4);
    let _ = STANDARD.encode(payload, Out::from_slice(text));
    at.put(&stamp.0);
}

/// A confirm, in one of its two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm<'a> {
    /// To a row of ours: `1,<id16>,,<index>,,,u+<epoch8>`.
    Marked {
        /// The operation.
        id: u64,
        /// The chunk; 0 for a single-chunk message.
        chunk_index: u32,
        /// The *confirming* engine's epoch.
        epoch: Epoch,
    },
    /// To any other row, as the original does it: `1,<id>,,<chunk text or 0>,`.
    Plain {
        /// Column 1 of the data row, unescaped.
        id: &'a [u8],
        /// Column 3 of the data row, unescaped.
        chunk_text: &'a [u8],
    },
}

/// Size of a confirm.
///
/// A plain confirm can be longer than its data row plus 2 bytes, if the id is full of quotes that were not escaped.
#[must_use]
#[inline]
pub fn confirm_row_bytes(confirm: &Confirm<'_>) -> usize {
    match confirm {
        Confirm::Marked { chunk_index, .. } => {
            CONFIRM_PREFIX_BYTES + decimal_bytes(*chunk_index) + CONFIRM_SUFFIX_BYTES
        }
        Confirm::Plain { id, chunk_text } => 2 + field_bytes(id) + 2 + field_bytes(or_zero(chunk_text)) + 1,
    }
}

/// Writes a confirm. `out` has exactly [`confirm_row_bytes`] bytes.
#[inline]
pub fn encode_confirm(out: &mut [u8], confirm: &Confirm<'_>) {
    let mut at = Cursor { rest: out };
    at.put(b"1,");
    match *confirm {
        Confirm::Marked { id, chunk_index, epoch } => {
            at.put(&hex16(id));
            at.put(b",,");
            at.put_decimal(chunk_index);
            at.put(b",,,u+");
            at.put(&hex8(epoch.0));
        }
        Confirm::Plain { id, chunk_text } => {
            at.put_field(id);
            at.put(b",,");
            at.put_field(or_zero(chunk_text));
            at.put(b",");
        }
    }
    assert!(at.rest.is_empty(), "a row of the size asked for");
}

const fn or_zero(chunk_text: &[u8]) -> &[u8] {
    if chunk_text.is_empty() { b"0" } else { chunk_text }
}

/// Digits of `value`.
const fn decimal_bytes(value: u32) -> usize {
    match value.checked_ilog10() {
        None => 1,
        Some(log) => log as usize + 1,
    }
}

/// Python's `csv.writer` quotes a field only if it contains a character with a meaning.
fn needs_quotes(field: &[u8]) -> bool {
    field.iter().any(|c| matches!(c, b',' | b'"' | b'\r' | b'\n'))
}

fn field_bytes(field: &[u8]) -> usize {
    if needs_quotes(field) {
        field.len() + 2 + field.iter().filter(|&&c| c == b'"').count()
    } else {
        field.len()
    }
}

/// Writes from the front; running out of room is our bug, because the size was computed.
struct Cursor<'a> {
    rest: &'a mut [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, bytes: usize) -> &'a mut [u8] {
        let (taken, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes);
        self.rest = rest;
        taken
    }

    #[inline]
    fn put(&mut self, text: &[u8]) {
        self.take(text.len()).copy_from_slice(text);
    }

    #[inline]
    fn put_decimal(&mut self, value: u32) {
        if value < 10 {
            return self.put(&[b'0' + value as u8]);
        }
        let mut rest = value;
        let bytes = decimal_bytes(value);
        debug_assert!(bytes <= DECIMAL_BYTES_MAX);
        for digit in self.take(bytes).iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    fn put_field(&mut self, field: &[u8]) {
        if !needs_quotes(field) {
            return self.put(field);
        }
        self.put(b"\"");
        for &character in field {
            self.put(if character == b'"' { b"\"\"" } else { std::slice::from_ref(&character) });
        }
        self.put(b"\"");
    }
}
