//! Rows of the v1 wire, from anybody.

use super::bytes::Bytes;
use crate::units::UnixMicros;
use crate::wire::DropReason;
use crate::wire::csv::{
    CONFIRM_RUN_ROW_BYTES, ChunkPlace, Confirm, DataRow, Epoch, OP_ID_BYTES_MAX, RUN_PAYLOAD_BYTES_MAX,
    RUN_ROWS_MAX, Row, RunWriter, Scratch, Stamp, confirm_row_bytes, data_row_bytes, decode,
    decode_confirm_run, decode_data_run, decode_discovery, encode_confirm, encode_confirm_run, encode_data,
    encode_discovery, hex16,
};

/// The first byte says what the rest is.
pub(super) fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    match bytes.below(5) {
        0 => row(bytes.rest()),
        1 => row_of_ours(&mut bytes),
        2 => round_trip(&mut bytes),
        3 => data_run(&mut bytes),
        _ => confirm_run(&mut bytes),
    }
}

/// Any bytes: understood or refused, whatever was read before.
fn row(row: &[u8]) {
    let (mut fresh, mut used) = (Scratch::new(), Scratch::new());
    let _ = decode(b",0123456789abcdef,,,aGk=,1764123456.123456,u+00c0ffee", &mut used);
    let _ = decode(b"\"\"\"0\"\",\"a\"\"b\",\"1\",,aGk=,", &mut used);
    let read = decode(row, &mut fresh);
    assert_eq!(read, decode(row, &mut used), "no answer depends on what was read before");
    if let Some(found) = decode_discovery(row) {
        let mut again = vec![0; row.len()];
        encode_discovery(&mut again, &found);
        assert_eq!(decode_discovery(&again), Some(found));
        // In a probe of others anything may stand where the cookie does.
        let is_ours = again == row;
        assert!(!is_ours || matches!(read, Ok(Row::Confirm(_))), "to who knows only rows it is a confirm");
    }
    match read {
        Ok(Row::Data(data)) => data_row(&data),
        Ok(Row::Confirm(confirm)) => {
            assert!(confirm.id.text.len() <= OP_ID_BYTES_MAX);
        }
        Err(DropReason::BinaryWire) => assert!(row[0] >= 0x80),
        Err(DropReason::Empty) => assert!(row.is_empty()),
        Err(_) => {}
    }
}

fn data_row(data: &DataRow<'_>) {
    assert!(data.chunk_index < data.chunk_count);
    assert!(data.id.text.len() <= OP_ID_BYTES_MAX && data.chunk_text.len() <= OP_ID_BYTES_MAX);
    assert!(data.id.native.is_none() || data.epoch.is_some());
    let mut payload = vec![0; data.payload.decoded_bytes_max()];
    if let Ok(payload_bytes) = data.payload.decode_into(&mut payload) {
        assert!(payload_bytes <= payload.len());
    }
    // Its sender understands the confirm.
    let form = data.confirm(Epoch(7));
    let mut confirm = vec![0; confirm_row_bytes(&form)];
    encode_confirm(&mut confirm, &form);
    let mut scratch = Scratch::new();
    match (decode(&confirm, &mut scratch), form) {
        (Ok(Row::Confirm(read)), Confirm::Marked { id, chunk_index, epoch }) => {
            assert_eq!((read.id.native, read.chunk_index, read.epoch), (Some(id), chunk_index, Some(epoch)));
        }
        (Ok(Row::Confirm(read)), Confirm::Plain { id, .. }) => assert_eq!(read.id.text, id),
        // The chunk id of a single-chunk row may be any text; only its sender knows what it meant.
        (Err(DropReason::BadChunkId), Confirm::Plain { .. }) => assert_eq!(data.chunk_count, 1),
        (read, form) => unreachable!("{form:?} became {read:?}"),
    }
}

/// Id, mark and time of ours around the input, which is what stands between.
fn row_of_ours(bytes: &mut Bytes<'_>) {
    let id = hex16(bytes.u64());
    let (epoch, time) = (bytes.u32(), bytes.number() % 10_000_000_000_000_000);
    let time = format!("{:010}.{:06}", time / 1_000_000, time % 1_000_000);
    let end = format!(",{time},u+{epoch:08x}");
    row(&[b",", &id[..], b",", bytes.rest(), end.as_bytes()].concat());
    row(&[b"1,", &id[..], b",,", bytes.rest(), b",,,u+", format!("{epoch:08x}").as_bytes()].concat());
}

/// A row of ours says what was written into it.
fn round_trip(bytes: &mut Bytes<'_>) {
    let (id, epoch) = (bytes.u64(), Epoch(bytes.u32()));
    let time = UnixMicros(bytes.number() % 10_000_000_000_000_000);
    let chunk = bytes.option(|bytes| {
        let count = (bytes.number() as u32).max(2);
        ChunkPlace { index: bytes.number() as u32 % count, count }
    });
    let payload = bytes.rest();
    let mut row = vec![0; data_row_bytes(payload.len(), chunk)];
    encode_data(&mut row, id, chunk, payload, &Stamp::new(time, epoch));
    let mut scratch = Scratch::new();
    let Ok(Row::Data(data)) = decode(&row, &mut scratch) else { unreachable!("{row:?} is a row") };
    let place = chunk.map_or((0, 1), |chunk| (chunk.index, chunk.count));
    assert_eq!((data.id.native, (data.chunk_index, data.chunk_count)), (Some(id), place));
    assert_eq!((data.sent_at, data.epoch), (Some(time), Some(epoch)));
    let mut read = vec![0; data.payload.decoded_bytes_max()];
    let read_bytes = data.payload.decode_into(&mut read).expect("base64 of ours");
    assert_eq!(&read[..read_bytes], payload);
}

/// Rows of one length are written alike and say the same, together and one by one.
fn data_run(bytes: &mut Bytes<'_>) {
    let (seed, count, stamp) =
        (bytes.u64(), bytes.below(40), Stamp::new(UnixMicros(bytes.u64() >> 14), Epoch(bytes.u32())));
    let payload_bytes = usize::from(bytes.u16() % 300);
    let damage = bytes.option(|bytes| (bytes.u16(), bytes.u8()));
    let row_bytes = data_row_bytes(payload_bytes, None);
    let (mut rows, mut payloads, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let mut payload = bytes.take(payload_bytes).to_vec();
        payload.resize(payload_bytes, number);
        let id = seed.wrapping_add(number.into());
        let mut row = vec![0; row_bytes];
        encode_data(&mut row, id, None, &payload, &stamp);
        rows.extend(row);
        payloads.push(payload);
        ids.push(hex16(id));
    }
    if payload_bytes <= RUN_PAYLOAD_BYTES_MAX && payloads.len() <= RUN_ROWS_MAX {
        let mut writer = RunWriter::default();
        writer.begin(payload_bytes);
        payloads.iter().for_each(|payload| writer.push(payload));
        writer.encode();
        // In two parts, as they find room.
        let first = ids.len() / 2;
        let mut together = vec![0; rows.len()];
        let (one, other) = together.split_at_mut(first * row_bytes);
        writer.write(one, 0, &ids[..first], &stamp);
        writer.write(other, first, &ids[first..], &stamp);
        assert_eq!(together, rows);
    }
    if let Some((at, byte)) = damage
        && !rows.is_empty()
    {
        let at = usize::from(at) % rows.len();
        rows[at] = byte;
    }
    let (mut together, mut single) = (Scratch::new(), Scratch::new());
    let mut rest = &rows[..];
    while !rest.is_empty() {
        let run = decode_data_run(rest, row_bytes, &mut together);
        let taken = run.as_ref().map_or_else(|count| *count, |run| run.rows());
        assert!(taken > 0 && taken * row_bytes <= rest.len());
        for (row, raw) in run.iter().flat_map(|run| run.iter()).zip(rest.chunks(row_bytes)) {
            let Ok(Row::Data(data)) = decode(raw, &mut single) else { unreachable!("{raw:?} is a row") };
            let mut payload = vec![0; data.payload.decoded_bytes_max()];
            assert_eq!(data.payload.decode_into(&mut payload), Ok(row.payload.len()));
            assert!(payload.starts_with(row.payload));
            assert_eq!((data.id.native, data.id.text), (Some(row.id), row.id_text.as_slice()));
        }
        rest = &rest[taken * row_bytes..];
    }
}

/// The same of confirms; the input itself, cut into rows.
fn confirm_run(bytes: &mut Bytes<'_>) {
    let damage = bytes.option(|bytes| (bytes.u16(), bytes.u8()));
    let (count, epoch) = (usize::from(bytes.below(40)), Epoch(bytes.u32()));
    let mut rows = vec![0; count * CONFIRM_RUN_ROW_BYTES];
    let mut ids = Vec::new();
    for row in rows.chunks_mut(CONFIRM_RUN_ROW_BYTES) {
        let id = bytes.u64();
        encode_confirm(row, &Confirm::Marked { id, chunk_index: 0, epoch });
        ids.push(hex16(id));
    }
    let mut together = vec![0; rows.len()];
    encode_confirm_run(&mut together, &ids, epoch);
    assert_eq!(together, rows);
    if let Some((at, byte)) = damage
        && !rows.is_empty()
    {
        let at = usize::from(at) % rows.len();
        rows[at] = byte;
    }
    let mut scratch = Scratch::new();
    let Some(run) = decode_confirm_run(&rows, CONFIRM_RUN_ROW_BYTES) else { return };
    for (id_text, raw) in run.id_texts().zip(rows.chunks(CONFIRM_RUN_ROW_BYTES)) {
        if !id_text.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            continue; // Whoever looks for it finds nothing.
        }
        let Ok(Row::Confirm(confirm)) = decode(raw, &mut scratch) else { unreachable!("{raw:?} is a row") };
        assert_eq!((confirm.id.text, confirm.chunk_index), (id_text.as_slice(), 0));
        assert!(confirm.epoch.is_some());
    }
}
