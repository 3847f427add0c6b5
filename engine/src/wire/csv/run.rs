//! Runs: rows of one length, written or read together. What is the same in all of them is done once.
//!
//! The gain is mostly base64. A row's text is too short for the vector kernel, which leaves its last bytes to a scalar
//! loop; the texts of a run, gathered into one, are not:
//!
//! ```text
//!   payloads   |64 B|64 B|64 B|        each padded with zeros to whole groups of three bytes
//!   gathered   |64 00|64 00|64 00|     one call of the kernel
//!   texts      |86 AA|86 AA|86 AA|     what stands for the zeros is overwritten with `=`
//! ```
//!
//! Reading goes the other way: `=` becomes `A`, one call, and the padded bytes must come out as zeros. Only rows that a
//! single row's reader takes, too, with the same answer, are a run; a test compares them.

use super::encode::{CONFIRM_SINGLE_BYTES, SINGLE_PREFIX_BYTES};
use super::text::{hex8, parse_hex16};
use super::{Epoch, Row, STAMP_BYTES, Scratch, Stamp, data_row_bytes, fast};
use crate::units::UnixMicros;
use base64_simd::{Out, STANDARD};

/// Rows in a run at most: what is gathered stays in the L1 cache.
pub const RUN_ROWS_MAX: usize = 32;
/// Longest payload of which runs are made. With longer ones the extra copy costs more than the scalar loop.
pub const RUN_PAYLOAD_BYTES_MAX: usize = 256;

const GATHERED_BYTES: usize = RUN_ROWS_MAX * RUN_PAYLOAD_BYTES_MAX.next_multiple_of(3);
const TEXT_BYTES_MAX: usize = RUN_PAYLOAD_BYTES_MAX.div_ceil(3) * 4;

/// Room for the payloads of a run, padded, and for their texts.
#[derive(Debug)]
pub(super) struct Gathered {
    plain: Box<[u8]>,
    text: Box<[u8]>,
    ids: [u64; RUN_ROWS_MAX],
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self {
            plain: vec![0; GATHERED_BYTES].into_boxed_slice(),
            text: vec![0; RUN_ROWS_MAX * TEXT_BYTES_MAX].into_boxed_slice(),
            ids: [0; RUN_ROWS_MAX],
        }
    }
}

/// Writes runs of single-chunk rows: `begin`, `push` for each payload, then `encode`.
#[derive(Debug)]
pub struct RunWriter {
    gathered: Gathered,
    payload_bytes: usize,
    rows: usize,
}

impl Default for RunWriter {
    fn default() -> Self {
        Self { gathered: Gathered::new(), payload_bytes: 0, rows: 0 }
    }
}

impl RunWriter {
    /// Starts a run of rows with `payload_bytes` each, at most [`RUN_PAYLOAD_BYTES_MAX`].
    pub fn begin(&mut self, payload_bytes: usize) {
        assert!(payload_bytes <= RUN_PAYLOAD_BYTES_MAX, "a payload of which runs are made");
        if self.payload_bytes != payload_bytes {
            // The padding, which nothing writes to.
            self.gathered.plain.fill(0);
            self.payload_bytes = payload_bytes;
        }
        self.rows = 0;
    }

    /// Adds a row, at most [`RUN_ROWS_MAX`] of them.
    #[inline]
    pub fn push(&mut self, payload: &[u8]) {
        assert!(payload.len() == self.payload_bytes && self.rows < RUN_ROWS_MAX, "a row of this run");
        let start = self.rows * self.payload_bytes.next_multiple_of(3);
        let (_, place) = self.gathered.plain.split_at_mut(start);
        let (place, _) = place.split_at_mut(payload.len());
        place.copy_from_slice(payload);
        self.rows += 1;
    }

    /// The texts of all rows; what `write` copies from.
    pub fn encode(&mut self) {
        let (plain, _) = self.gathered.plain.split_at(self.rows * self.payload_bytes.next_multiple_of(3));
        let _ = STANDARD.encode(plain, Out::from_slice(&mut self.gathered.text));
    }

    /// Writes the rows from `first` on, one for each id text, into `out`, which has exactly their size.
    pub fn write(&self, out: &mut [u8], first: usize, ids: &[[u8; 16]], stamp: &Stamp) {
        let row_bytes = data_row_bytes(self.payload_bytes, None);
        assert!(out.len() == ids.len() * row_bytes && first + ids.len() <= self.rows, "rows of this run");
        let text_bytes = self.payload_bytes.div_ceil(3) * 4;
        let padding = self.payload_bytes.next_multiple_of(3) - self.payload_bytes;
        let (_, texts) = self.gathered.text.split_at(first * text_bytes);
        let mut rest = texts;
        for (row, id) in out.chunks_exact_mut(row_bytes).zip(ids) {
            let text;
            (text, rest) = rest.split_at(text_bytes);
            let Some((prefix, row)) = row.split_first_chunk_mut::<SINGLE_PREFIX_BYTES>() else { return };
            let Some((place, end)) = row.split_last_chunk_mut::<STAMP_BYTES>() else { return };
            let [comma, id_text @ .., comma1, comma2, comma3] = prefix;
            (*comma, *comma1, *comma2, *comma3) = (b',', b',', b',', b',');
            *id_text = *id;
            place.copy_from_slice(text);
            match (padding, place) {
                (1, [.., last]) => *last = b'=',
                (2, [.., before, last]) => (*before, *last) = (b'=', b'='),
                _ => {}
            }
            *end = *stamp.as_array();
        }
    }
}

/// Single-chunk rows of ours that carry one stamp.
#[derive(Debug)]
pub struct DataRun<'a> {
    rows: &'a [u8],
    row_bytes: usize,
    ids: &'a [u64],
    plain: &'a [u8],
    /// Of every row.
    pub payload_bytes: usize,
    /// Of every row.
    pub sent_at: UnixMicros,
    /// Of every row.
    pub epoch: Epoch,
}

/// One of them.
#[derive(Debug)]
pub struct DataRunRow<'a> {
    /// The operation.
    pub id: u64,
    /// The same as it stands in the row.
    pub id_text: &'a [u8; 16],
    /// Decoded.
    pub payload: &'a [u8],
}

impl<'a> DataRun<'a> {
    /// How many rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.ids.len()
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = DataRunRow<'a>> {
        let (payload_bytes, ids) = (self.payload_bytes, self.ids);
        let payloads = self.plain.chunks_exact(payload_bytes.next_multiple_of(3));
        self.rows.chunks_exact(self.row_bytes).zip(ids).zip(payloads).filter_map(
            move |((row, &id), payload)| {
                let (payload, _) = payload.split_at(payload_bytes);
                Some(DataRunRow { id, id_text: row.get(1..)?.first_chunk()?, payload })
            },
        )
    }
}

/// Reads the rows at the start of `rows`, each `row_bytes` long, that are a run.
///
/// # Errors
/// So many of them, at least one, must be read one by one.
pub fn decode_data_run<'a>(
    rows: &'a [u8],
    row_bytes: usize,
    scratch: &'a mut Scratch,
) -> Result<DataRun<'a>, usize> {
    let Scratch { memo, gathered: Gathered { plain, text: texts, ids }, .. } = scratch;
    let first = rows.get(..row_bytes).ok_or(1_usize)?;
    let Some(Row::Data(head)) = fast::decode(first, memo) else { return Err(1) };
    let text_bytes = row_bytes - SINGLE_PREFIX_BYTES - STAMP_BYTES;
    if head.chunk_count != 1
        || text_bytes == 0
        || !text_bytes.is_multiple_of(4)
        || text_bytes > TEXT_BYTES_MAX
    {
        return Err(1);
    }
    let padding = match first.get(row_bytes - STAMP_BYTES - 2..row_bytes - STAMP_BYTES) {
        Some([b'=', b'=']) => 2,
        Some([_, b'=']) => 1,
        _ => 0,
    };
    let mut count = 0;
    for ((row, place), id) in
        rows.chunks_exact(row_bytes).zip(texts.chunks_exact_mut(text_bytes)).zip(ids.iter_mut())
    {
        let Some((found, text)) = split_single(row, memo.text()) else { break };
        *id = found;
        place.copy_from_slice(text);
        let [.., before, last] = place else { break };
        match (padding, *before == b'=', *last == b'=') {
            (0, _, false) => {}
            (1, false, true) => *last = b'A',
            (2, true, true) => (*before, *last) = (b'A', b'A'),
            _ => break,
        }
        count += 1;
    }
    let (texts, _) = texts.split_at(count * text_bytes);
    let Ok(plain) = STANDARD.decode(texts, Out::from_slice(plain)) else { return Err(count.max(1)) };
    let padded_bytes = text_bytes / 4 * 3;
    let payload_bytes = padded_bytes - padding;
    // Strict base64 has no bits in the padding.
    let odd = plain.chunks_exact(padded_bytes).fold(0, |odd, row| match (padding, row) {
        (1, [.., last]) => odd | last,
        (2, [.., before, last]) => odd | before | last,
        _ => odd,
    });
    let (ids, _) = ids.split_at(count);
    if odd != 0 || count == 0 {
        return Err(count.max(1));
    }
    let (sent_at, epoch) = memo.meaning();
    Ok(DataRun { rows, row_bytes, ids, plain, payload_bytes, sent_at, epoch })
}

/// Id and text of a single-chunk row with this stamp; whether the text is base64 is for the decoder to say.
#[inline(always)]
fn split_single<'a>(row: &'a [u8], stamp: &[u8; STAMP_BYTES]) -> Option<(u64, &'a [u8])> {
    let (row, end) = row.split_last_chunk::<STAMP_BYTES>()?;
    let (prefix, text) = row.split_first_chunk::<SINGLE_PREFIX_BYTES>()?;
    let [b',', id_text @ .., b',', b',', b','] = prefix else { return None };
    if end != stamp {
        return None;
    }
    Some((parse_hex16(id_text)?, text))
}

/// Marked confirms of single-chunk messages from one engine.
#[derive(Clone, Copy, Debug)]
pub struct ConfirmRun<'a> {
    rows: &'a [[u8; CONFIRM_SINGLE_BYTES]],
    end: [u8; CONFIRM_SINGLE_BYTES - 18],
}

impl<'a> ConfirmRun<'a> {
    /// The ids as they stand in the rows, in order; what they are is not looked at. Ends where the run does.
    pub fn id_texts(&self) -> impl Iterator<Item = &'a [u8; 16]> {
        let end = self.end;
        self.rows.iter().map_while(move |row| match row.split_first_chunk::<18>()? {
            ([b'1', b',', id_text @ ..], row_end) if row_end == end => Some(id_text),
            _ => None,
        })
    }
}

/// Reads the confirms at the start of `rows`, each `row_bytes` long, that are a run. `None`: the first of them is none.
#[inline]
pub fn decode_confirm_run(rows: &[u8], row_bytes: usize) -> Option<ConfirmRun<'_>> {
    if row_bytes != CONFIRM_SINGLE_BYTES {
        return None;
    }
    let rows = rows.as_chunks::<CONFIRM_SINGLE_BYTES>().0;
    let first = rows.first()?;
    let Row::Confirm(head) = fast::decode_any_confirm(first)? else { return None };
    // The end of the rows says chunk and epoch: it is the same in all of them.
    head.epoch.filter(|_| head.chunk_index == 0)?;
    Some(ConfirmRun { rows, end: *first.last_chunk()? })
}

/// Size of each row that [`encode_confirm_run`] writes.
pub const CONFIRM_RUN_ROW_BYTES: usize = CONFIRM_SINGLE_BYTES;

/// Writes marked confirms of single-chunk messages, one for each id text, into `out`, which has exactly their size.
pub fn encode_confirm_run(out: &mut [u8], ids: &[[u8; 16]], epoch: Epoch) {
    assert!(out.len() == ids.len() * CONFIRM_SINGLE_BYTES, "room for exactly these");
    let mut row = *b"1,................,,0,,,u+........";
    if let Some(place) = row.last_chunk_mut::<8>() {
        *place = hex8(epoch.0);
    }
    for (out, id) in out.as_chunks_mut::<CONFIRM_SINGLE_BYTES>().0.iter_mut().zip(ids) {
        *out = row;
        if let Some([_, _, place @ ..]) = out.first_chunk_mut::<18>() {
            *place = *id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::hex16;
    use super::super::{Confirm, ConfirmRow, decode, encode_confirm, encode_data};
    use super::*;
    use proptest::prelude::*;

    const STAMP: (UnixMicros, Epoch) = (UnixMicros(1_764_123_456_123_456), Epoch(0xc0ffee));

    fn one_by_one(ids: &[u64], payloads: &[Vec<u8>]) -> Vec<u8> {
        let stamp = Stamp::new(STAMP.0, STAMP.1);
        let mut rows = Vec::new();
        for (&id, payload) in ids.iter().zip(payloads) {
            let mut row = vec![0; data_row_bytes(payload.len(), None)];
            encode_data(&mut row, id, None, payload, &stamp);
            rows.extend(row);
        }
        rows
    }

    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        (1..=RUN_ROWS_MAX, 0..=RUN_PAYLOAD_BYTES_MAX).prop_flat_map(|(count, bytes)| {
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), bytes), count)
        })
    }

    fn ids(count: usize) -> Vec<u64> {
        (1..=count as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
    }

    proptest! {
        #[test]
        fn a_run_is_written_as_its_rows_are(
            before in payloads(),
            payloads in payloads(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut writer = RunWriter::default();
            for payloads in [before, payloads] {
                let ids = ids(payloads.len());
                writer.begin(payloads[0].len());
                payloads.iter().for_each(|payload| writer.push(payload));
                writer.encode();
                let stamp = Stamp::new(STAMP.0, STAMP.1);
                let cut = cut.index(ids.len());
                let row_bytes = data_row_bytes(payloads[0].len(), None);
                let mut rows = vec![0; row_bytes * ids.len()];
                let (first, second) = rows.split_at_mut(row_bytes * cut);
                let texts: Vec<[u8; 16]> = ids.iter().map(|&id| hex16(id)).collect();
                writer.write(first, 0, &texts[..cut], &stamp);
                writer.write(second, cut, &texts[cut..], &stamp);
                prop_assert_eq!(rows, one_by_one(&ids, &payloads));
            }
        }

        /// Whatever is wrong with a row, the run ends before it or is none; what it does hold is right.
        #[test]
        fn a_run_is_read_as_its_rows_are(
            payloads in payloads(),
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        ) {
            let mut rows = one_by_one(&ids(payloads.len()), &payloads);
            let row_bytes = data_row_bytes(payloads[0].len(), None);
            if let Some((at, byte)) = damage {
                let at = at.index(rows.len());
                rows[at] = if byte < 64 { b'=' } else { byte };
            }
            let (mut scratch, mut single) = (Scratch::new(), Scratch::new());
            let mut at = 0;
            while at < rows.len() {
                let run = decode_data_run(&rows[at..], row_bytes, &mut scratch);
                let count = match &run {
                    Ok(run) => run.rows(),
                    Err(count) => *count,
                };
                prop_assert!(count > 0);
                prop_assert!(damage.is_some() || payloads[0].is_empty() || count == payloads.len());
                for row in run.iter().flat_map(DataRun::iter) {
                    let raw = &rows[at..at + row_bytes];
                    let Ok(Row::Data(data)) = decode(raw, &mut single) else { panic!("a row of a run is a row") };
                    let mut payload = vec![0; data.payload.decoded_bytes_max()];
                    prop_assert_eq!(data.payload.decode_into(&mut payload), Ok(row.payload.len()));
                    prop_assert_eq!(row.payload, &payload);
                    prop_assert_eq!((data.id.native, data.id.text), (Some(row.id), row.id_text.as_slice()));
                    let stamp = (data.sent_at.unwrap(), data.epoch.unwrap());
                    // Damage may make it another time, or the row of another engine.
                    let said = run.as_ref().ok().map(|run| (run.sent_at, run.epoch));
                    prop_assert_eq!((data.chunk_count, Some(stamp)), (1, said));
                    prop_assert!(damage.is_some() || stamp == STAMP);
                    at += row_bytes;
                }
                if run.is_err() {
                    at += count * row_bytes;
                }
            }
            prop_assert_eq!(at, rows.len());
        }

        #[test]
        fn confirms_of_a_run_are_those_of_its_rows(
            count in 1..=RUN_ROWS_MAX,
            epoch: u32,
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        ) {
            let ids = ids(count);
            let texts: Vec<[u8; 16]> = ids.iter().map(|&id| hex16(id)).collect();
            let mut rows = vec![0; count * CONFIRM_RUN_ROW_BYTES];
            encode_confirm_run(&mut rows, &texts, Epoch(epoch));
            for (row, &id) in rows.chunks(CONFIRM_RUN_ROW_BYTES).zip(&ids) {
                let mut single = vec![0; CONFIRM_RUN_ROW_BYTES];
                encode_confirm(&mut single, &Confirm::Marked { id, chunk_index: 0, epoch: Epoch(epoch) });
                prop_assert_eq!(row, single);
            }
            if let Some((at, byte)) = damage {
                rows[at.index(count * CONFIRM_RUN_ROW_BYTES)] = byte;
            }
            let mut scratch = Scratch::new();
            let run = decode_confirm_run(&rows, CONFIRM_RUN_ROW_BYTES);
            prop_assert!(damage.is_some() || run.is_some_and(|run| run.id_texts().count() == count));
            let read = run.iter().flat_map(ConfirmRun::id_texts);
            for (row, id_text) in rows.chunks(CONFIRM_RUN_ROW_BYTES).zip(read) {
                if parse_hex16(id_text).is_none() {
                    continue; // Whoever looks for it finds nothing.
                }
                let Ok(Row::Confirm(ConfirmRow { id, chunk_index, epoch })) = decode(row, &mut scratch) else {
                    panic!("a row of a run is a row")
                };
                prop_assert_eq!((id.text, chunk_index, epoch.is_some()), (id_text.as_slice(), 0, true));
            }
        }
    }
}
