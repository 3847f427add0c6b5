//! Bytes to rows.

use super::columns::{Columns, Scratch};
use super::text::{parse_canonical, parse_hex8, parse_hex16, parse_int, parse_time};
use super::{Base64, ConfirmRow, DataRow, Epoch, OP_ID_BYTES_MAX, OpId, Row, fast};
use crate::wire::DropReason;

/// Understands one datagram. What it returns borrows from both arguments; a row of ours borrows nothing from `scratch`.
#[inline(always)]
pub fn decode<'a>(row: &'a [u8], scratch: &'a mut Scratch) -> Result<Row<'a>, DropReason> {
    match fast::decode(row, &mut scratch.memo) {
        Some(row) => Ok(row),
        None => decode_general(row, scratch),
    }
}

/// Any row, ours included.
#[cold]
pub(super) fn decode_general<'a>(row: &'a [u8], scratch: &'a mut Scratch) -> Result<Row<'a>, DropReason> {
    match row.first() {
        None => return Err(DropReason::Empty),
        Some(0x80..) => return Err(DropReason::BinaryWire),
        Some(_) => {}
    }
    if simdutf8::basic::from_utf8(row).is_err() {
        return Err(DropReason::NotUtf8);
    }
    let columns = Columns::split(row, &mut scratch.bytes).ok_or(DropReason::MessageTooLarge)?;
    let command = match column(&columns, 0)? {
        [] => 0,
        text => parse_int(text).ok_or(DropReason::BadCommand)?,
    };
    match command {
        0 => data_row(&columns).map(Row::Data),
        1 => confirm_row(&columns).map(Row::Confirm),
        _ => Err(DropReason::UnknownCommand),
    }
}

fn data_row<'a>(columns: &Columns<'a>) -> Result<DataRow<'a>, DropReason> {
    let payload = Base64::new(column(columns, 4)?);
    let id_text = op_id_text(columns)?;
    let chunk_text = column(columns, 3)?;
    let chunk_count = chunk_count(column(columns, 2)?)?;
    let chunk_index = chunk_index(chunk_text, chunk_count)?;
    let epoch = mark(columns);
    let native = epoch.and_then(|_| native_id(id_text));
    Ok(DataRow {
        id: OpId { text: id_text, native },
        chunk_count,
        chunk_index,
        chunk_text,
        payload,
        sent_at: columns.get(5).and_then(parse_time),
        epoch,
    })
}

fn confirm_row<'a>(columns: &Columns<'a>) -> Result<ConfirmRow<'a>, DropReason> {
    let id_text = op_id_text(columns)?;
    let chunk_index = match column(columns, 3)? {
        [] => 0,
        text => parse_canonical(text).ok_or(DropReason::BadChunkId)?,
    };
    let id = OpId { text: id_text, native: native_id(id_text) };
    Ok(ConfirmRow { id, chunk_index, epoch: mark(columns) })
}

fn column<'a>(columns: &Columns<'a>, index: usize) -> Result<&'a [u8], DropReason> {
    let missing =
        if columns.unterminated { DropReason::UnterminatedQuote } else { DropReason::TooFewColumns };
    columns.get(index).ok_or(missing)
}

fn op_id_text<'a>(columns: &Columns<'a>) -> Result<&'a [u8], DropReason> {
    let text = column(columns, 1)?;
    if text.len() > OP_ID_BYTES_MAX { Err(DropReason::OpIdTooLong) } else { Ok(text) }
}

fn native_id(text: &[u8]) -> Option<u64> {
    parse_hex16(text.try_into().ok()?)
}

fn chunk_count(text: &[u8]) -> Result<u32, DropReason> {
    if text.is_empty() {
        return Ok(1);
    }
    match parse_int(text) {
        None | Some(..1) => Err(DropReason::BadLength),
        Some(count) => u32::try_from(count).map_err(|_| DropReason::MessageTooLarge),
    }
}

/// The original looks at the chunk id of a single-chunk row only to echo it, so there it may be any text.
fn chunk_index(text: &[u8], chunk_count: u32) -> Result<u32, DropReason> {
    if chunk_count == 1 {
        return if text.len() > OP_ID_BYTES_MAX { Err(DropReason::BadChunkId) } else { Ok(0) };
    }
    let index = if text.is_empty() { Some(0) } else { parse_canonical(text) };
    match index {
        None => Err(DropReason::BadChunkId),
        Some(index) if index >= chunk_count => Err(DropReason::ChunkBeyondLength),
        Some(index) => Ok(index),
    }
}

fn mark(columns: &Columns<'_>) -> Option<Epoch> {
    let digits = columns.get(6)?.strip_prefix(b"u+")?;
    parse_hex8(digits.try_into().ok()?).map(Epoch)
}
