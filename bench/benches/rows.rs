//! The v1 wire: rows to bytes and back, one row per iteration. Inputs are drawn from a small pool, so that neither the
//! memo of the last stamp nor the branch predictor sees only one row.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use udp_plus::internals::csv::{
    ChunkPlace, Confirm, Epoch, Row, Scratch, Stamp, confirm_row_bytes, data_row_bytes, decode,
    encode_confirm, encode_data, payload_bytes_max,
};
use udp_plus::units::UnixMicros;

/// Rows in the pool.
const POOL: usize = 64;
const EPOCH: Epoch = Epoch(0x1234_abcd);
/// 1,020 bytes of payload do not fit a row of the original's 1,024 bytes; this is what a wide row carries.
const PAYLOADS: [usize; 3] = [64, 384, 1_020];
const PLACE: ChunkPlace = ChunkPlace { index: 1_234, count: 2_731 };

fn ids() -> impl Iterator<Item = u64> {
    (0..POOL as u64).map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn stamp() -> Stamp {
    Stamp::new(UnixMicros(1_764_123_456_123_456), EPOCH)
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| b'a' + (at % 26) as u8).collect()
}

fn data_rows(payload_bytes: usize, chunk: Option<ChunkPlace>) -> Vec<Vec<u8>> {
    let (stamp, payload) = (stamp(), payload(payload_bytes));
    ids()
        .map(|id| {
            let mut row = vec![0; data_row_bytes(payload_bytes, chunk)];
            encode_data(&mut row, id, chunk, &payload, &stamp);
            row
        })
        .collect()
}

fn confirm_rows(form: impl Fn(u64) -> Vec<u8>) -> Vec<Vec<u8>> {
    ids().map(form).collect()
}

fn marked_confirm(id: u64, chunk_index: u32) -> Vec<u8> {
    let confirm = Confirm::Marked { id, chunk_index, epoch: EPOCH };
    let mut row = vec![0; confirm_row_bytes(&confirm)];
    encode_confirm(&mut row, &confirm);
    row
}

/// Decodes one row after the other, the payload included.
fn bench_decode(criterion: &mut Criterion, name: &str, parameter: impl std::fmt::Display, rows: &[Vec<u8>]) {
    let mut scratch = Scratch::new();
    let mut out = vec![0; 64 << 10];
    let mut next = rows.iter().cycle();
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new(name, parameter), |bencher| {
        bencher.iter(|| {
            let Some(row) = next.next() else { return 0 };
            match decode(black_box(row), &mut scratch) {
                Ok(Row::Data(row)) => row.payload.decode_into(&mut out).unwrap_or_default(),
                Ok(Row::Confirm(row)) => black_box(row).chunk_index as usize,
                Err(reason) => reason as usize,
            }
        });
    });
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let stamp = stamp();
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1));
    let mut id = 0u64;
    for (name, bytes, chunk) in
        PAYLOADS.map(|bytes| ("single", bytes, None)).into_iter().chain([("chunk", 384, Some(PLACE))])
    {
        let payload = payload(bytes);
        let mut row = vec![0; data_row_bytes(bytes, chunk)];
        group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
            bencher.iter(|| {
                id = id.wrapping_add(0x100_0000_0100);
                encode_data(black_box(&mut row), id, black_box(chunk), black_box(&payload), &stamp);
            });
        });
    }
    let mut row = [0; 64];
    for (name, chunk_index) in [("confirm_ours", 0), ("confirm_ours_chunk", 1_234)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                id = id.wrapping_add(0x100_0000_0100);
                let confirm = black_box(Confirm::Marked { id, chunk_index, epoch: EPOCH });
                encode_confirm(&mut row[..confirm_row_bytes(&confirm)], &confirm);
                black_box(&row);
            });
        });
    }
    group.bench_function("confirm_foreign", |bencher| {
        bencher.iter(|| {
            let confirm = black_box(Confirm::Plain { id: b"3f2a9c1e", chunk_text: b"" });
            encode_confirm(&mut row[..confirm_row_bytes(&confirm)], &confirm);
            black_box(&row);
        });
    });
    group.bench_function("stamp", |bencher| {
        bencher.iter(|| Stamp::new(black_box(UnixMicros(1_764_123_456_123_456)), EPOCH));
    });
    group.finish();
}

fn decode_ours(criterion: &mut Criterion) {
    assert!(payload_bytes_max(1_024, 1) < 1_020);
    for bytes in PAYLOADS {
        bench_decode(criterion, "single", bytes, &data_rows(bytes, None));
    }
    bench_decode(criterion, "chunk", 384, &data_rows(384, Some(PLACE)));
    bench_decode(criterion, "confirm_ours", "single", &confirm_rows(|id| marked_confirm(id, 0)));
    bench_decode(criterion, "confirm_ours", "chunk", &confirm_rows(|id| marked_confirm(id, 1_234)));
    let by_the_original = |id: u64| format!("1,{id:016x},,0,").into_bytes();
    bench_decode(criterion, "confirm_foreign", "16 digits", &confirm_rows(by_the_original));
}

/// What only the general parser understands, and base64 that only the lenient decoder does.
fn decode_others(criterion: &mut Criterion) {
    let text = |bytes: usize| base64_simd::STANDARD.encode_to_string(payload(bytes));
    let rows = |form: &dyn Fn(u32) -> String| -> Vec<Vec<u8>> {
        ids().map(|id| form((id >> 32) as u32).into_bytes()).collect()
    };
    for bytes in [64, 384] {
        let text = text(bytes);
        let single = rows(&|id| format!(",{id:08x},,,{text},1764123456.123456"));
        bench_decode(criterion, "general_single", bytes, &single);
        let chunk = rows(&|id| format!(",{id:08x},7,3,{text},1764123456.123456"));
        bench_decode(criterion, "general_chunk", bytes, &chunk);
        let quoted = rows(&|id| format!("0,\"{id:08x}\"\"\",,,\"{text}\",1764123456.123456"));
        bench_decode(criterion, "general_quoted", bytes, &quoted);
        // A character outside the alphabet, in the middle and legal in a plain field.
        let (front, back) = text.split_at(text.len() / 2);
        let lenient = rows(&|id| format!(",{id:016x},,,{front}-{back},1764123456.123456,u+1234abcd"));
        bench_decode(criterion, "lenient_base64", bytes, &lenient);
    }
    let confirms = rows(&|id| format!("1,{id:08x},,0,"));
    bench_decode(criterion, "general_confirm", "8 digits", &confirms);
    let garbage = rows(&|id| format!("{id:08x} is not a row"));
    bench_decode(criterion, "garbage", 23, &garbage);
}

criterion_group!(benches, encode, decode_ours, decode_others);
criterion_main!(benches);
