//! Our own rows, recognised by their fixed positions. `None` means "not one of those", not "wrong".
//!
//! Every byte of an accepted row is validated here, so the row is ASCII and no field of it contains a comma, a quote or
//! a line break: the general parser would split it the same way.

use super::text::{parse_hex8, parse_hex16, parse_timestamp17};
use super::{Base64, ConfirmRow, DataRow, Epoch, OpId, Row, STAMP_BYTES};
use crate::units::UnixMicros;

/// Decodes a marked data row, or a confirm of a 16-digit id.
#[inline(always)]
pub(super) fn decode<'a>(row: &'a [u8], memo: &mut StampMemo) -> Option<Row<'a>> {
    match row.first()? {
        b',' => decode_data(row, memo).map(Row::Data),
        b'1' => decode_confirm(row).map(Row::Confirm),
        _ => None,
    }
}

/// A confirm of a 16-digit id.
#[inline(always)]
pub(super) fn decode_any_confirm(row: &[u8]) -> Option<Row<'_>> {
    decode_confirm(row).map(Row::Confirm)
}

#[inline(always)]
fn decode_data<'a>(row: &'a [u8], memo: &mut StampMemo) -> Option<DataRow<'a>> {
    let (row, stamp) = row.split_last_chunk::<STAMP_BYTES>()?;
    let (prefix, rest) = row.split_first_chunk::<18>()?;
    let [b',', id_text @ .., b','] = prefix else { return None };
    let id = parse_hex16(id_text)?;

    if *stamp != memo.text {
        *memo = read_stamp(stamp)?;
    }

    let (chunk_count, chunk_index, chunk_text, payload) = match rest {
        [b',', b',', payload @ ..] => (1, 0, &[] as &[u8], payload),
        _ => decode_place(rest)?,
    };
    is_plain(payload).then_some(DataRow {
        id: OpId { text: id_text, native: Some(id) },
        chunk_count,
        chunk_index,
        chunk_text,
        payload: Base64::new(payload),
        sent_at: Some(memo.sent_at),
        epoch: Some(memo.epoch),
    })
}

/// The last stamp that was read: the rows of a train all carry the same one.
#[derive(Debug)]
pub(super) struct StampMemo {
    text: [u8; STAMP_BYTES],
    sent_at: UnixMicros,
    epoch: Epoch,
}

impl StampMemo {
    /// What the all-zero stamp means.
    pub(super) const fn new() -> Self {
        Self { text: *b",0000000000.000000,u+00000000", sent_at: UnixMicros(0), epoch: Epoch(0) }
    }

    /// The stamp.
    pub(super) const fn text(&self) -> &[u8; STAMP_BYTES] {
        &self.text
    }

    /// What it means.
    pub(super) const fn meaning(&self) -> (UnixMicros, Epoch) {
        (self.sent_at, self.epoch)
    }
}

#[inline(never)]
fn read_stamp(text: &[u8; STAMP_BYTES]) -> Option<StampMemo> {
    let (comma, stamp) = text.split_first_chunk::<1>()?;
    let (time, stamp) = stamp.split_first_chunk::<17>()?;
    let (mark, epoch) = stamp.split_first_chunk::<3>()?;
    if comma != b"," || mark != b",u+" {
        return None;
    }
    let epoch = Epoch(parse_hex8(epoch.try_into().ok()?)?);
    Some(StampMemo { text: *text, sent_at: parse_timestamp17(time)?, epoch })
}

/// `<count>,<index>,` and what follows it. A count of 1 is nothing we send.
fn decode_place(rest: &[u8]) -> Option<(u32, u32, &[u8], &[u8])> {
    let (count, _, rest) = split_decimal(rest)?;
    let (b',', rest) = rest.split_first()? else { return None };
    let (index, index_text, rest) = split_decimal(rest)?;
    let (b',', payload) = rest.split_first()? else { return None };
    (count > 1 && index < count).then_some((count, index, index_text, payload))
}

#[inline(always)]
fn decode_confirm(row: &[u8]) -> Option<ConfirmRow<'_>> {
    let (prefix, rest) = row.split_first_chunk::<20>()?;
    let [b'1', b',', id_text @ .., b',', b','] = prefix else { return None };
    let id = parse_hex16(id_text)?;
    let (chunk_index, _, rest) = split_decimal(rest)?;
    let epoch = match rest {
        [b','] => None,
        [b',', b',', b',', b'u', b'+', epoch @ ..] => Some(Epoch(parse_hex8(epoch.try_into().ok()?)?)),
        _ => return None,
    };
    Some(ConfirmRow { id: OpId { text: id_text, native: Some(id) }, chunk_index, epoch })
}

/// A number without leading zeros at the start of `text`: its value, its digits, and what follows.
#[inline(always)]
fn split_decimal(text: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    if let [digit @ b'0'..=b'9', b',', ..] = text {
        let (digits, rest) = text.split_at_checked(1)?;
        return Some((u32::from(digit - b'0'), digits, rest));
    }
    let mut value = 0u32;
    let mut digit_count = 0;
    for character in text.iter().take(11) {
        let digit = character.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(digit))?;
        digit_count += 1;
    }
    let (digits, rest) = text.split_at_checked(digit_count)?;
    // A lone 0 was handled above unless something odd follows it.
    (!matches!(digits, [] | [b'0', ..])).then_some((value, digits, rest))
}

/// Only ASCII from `+` (the least of base64) on, and no comma: nothing that means something in CSV. Whether it is base64
/// is for the base64 decoder to say.
#[inline(always)]
fn is_plain(text: &[u8]) -> bool {
    // Blocks of a fixed size become a few vector instructions. The last block may look at characters twice.
    if let Some(last) = text.last_chunk::<32>() {
        return text.as_chunks::<32>().0.iter().all(is_plain_block) && is_plain_block(last);
    }
    match (text.first_chunk::<16>(), text.last_chunk::<16>()) {
        (Some(first), Some(last)) => is_plain_block(first) && is_plain_block(last),
        _ => text.iter().all(|&character| odd(character) == 0),
    }
}

#[inline(always)]
fn is_plain_block<const N: usize>(block: &[u8; N]) -> bool {
    block.iter().fold(0, |flags, &character| flags | odd(character)) == 0
}

/// 0 for a character that may stand in a plain field.
#[inline(always)]
const fn odd(character: u8) -> u8 {
    (character.wrapping_sub(b'+') > 0x7f - b'+') as u8 | (character == b',') as u8
}
