//! The binary wire: datagrams to frames and back, one datagram per iteration, drawn from a small pool.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use udp_plus::internals::binary::{
    DATAGRAM_BYTES_MAX, Extensions, Frame, HEADER_BYTES, Header, Writer, check, decode, frames,
    message_frame_bytes, messages, seal, write,
};

/// Datagrams in the pool.
const POOL: usize = 64;
const PAYLOAD_BYTES: usize = 64;
/// What a path with an MTU of 1,500 carries, over IPv4.
const MTU_DATAGRAM_BYTES: usize = 1_472;
const MESSAGES: usize = (MTU_DATAGRAM_BYTES - HEADER_BYTES) / message_frame_bytes(PAYLOAD_BYTES);
const DATAGRAM_BYTES: usize = HEADER_BYTES + MESSAGES * message_frame_bytes(PAYLOAD_BYTES);

fn header(packet_number: u64) -> Header {
    Header { route: 7, epoch: 0x1234_abcd, packet_number, tag: 0x0102_0304_0506_0708, sent_at: None }
}

fn fill(datagram: &mut [u8], packet_number: u64, extensions: &Extensions<'_>) {
    let payload = [b'x'; PAYLOAD_BYTES];
    let at = write(datagram, &header(packet_number));
    let mut writer = Writer::new(&mut datagram[at..]);
    let mut seq = packet_number as u32;
    while writer.message(seq, black_box(&payload), extensions) {
        seq = seq.wrapping_add(1);
    }
    writer.pad();
}

fn datagrams(extensions: &Extensions<'_>) -> Vec<Vec<u8>> {
    (0..POOL as u64)
        .map(|number| {
            let mut datagram = vec![0; DATAGRAM_BYTES];
            fill(&mut datagram, number, extensions);
            seal(&mut datagram);
            datagram
        })
        .collect()
}

/// Each datagram's frames, already verified.
fn bench_frames(criterion: &mut Criterion, name: &str, pool: &[Vec<u8>], read: impl Fn(&[u8]) -> usize) {
    let mut next = pool.iter().cycle();
    let mut group = criterion.benchmark_group("frames");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function(BenchmarkId::new(name, MESSAGES), |bencher| {
        bencher.iter(|| next.next().map_or(0, |datagram| read(black_box(&datagram[HEADER_BYTES..]))));
    });
    group.finish();
}

/// What a receiver does with each frame: little, and not nothing.
fn sum_plain(bytes: &[u8]) -> usize {
    messages(bytes).fold(0, |sum, (seq, payload)| sum ^ (seq as usize + payload.len()))
}

fn sum_all(bytes: &[u8]) -> usize {
    frames(bytes).fold(0, |sum, frame| match frame {
        Ok(Frame::Message(message)) => sum ^ (message.seq as usize + message.payload.len()),
        _ => sum,
    })
}

fn read(criterion: &mut Criterion) {
    let pool = datagrams(&Extensions::NONE);
    bench_frames(criterion, "check", &pool, |bytes| check(bytes).map_or(0, |seen| seen.messages as usize));
    bench_frames(criterion, "messages", &pool, sum_plain);
    bench_frames(criterion, "check_and_messages", &pool, |bytes| match check(bytes) {
        Ok(summary) if summary.is_plain_messages() => sum_plain(bytes),
        _ => 0,
    });
    bench_frames(criterion, "check_and_frames", &pool, |bytes| check(bytes).map_or(0, |_| sum_all(bytes)));
    let extended = datagrams(&Extensions { lane: Some((1, 2)), lifetime_ms: Some(3), ..Extensions::NONE });
    bench_frames(criterion, "check_and_frames_extended", &extended, |bytes| {
        check(bytes).map_or(0, |_| sum_all(bytes))
    });
}

fn crc(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc");
    for bytes in [36, 100, 512, MTU_DATAGRAM_BYTES, 8_972, DATAGRAM_BYTES_MAX] {
        let mut datagram = vec![b'x'; bytes];
        write(&mut datagram, &header(1));
        seal(&mut datagram);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("decode", bytes), |bencher| {
            bencher.iter(|| decode(black_box(&datagram)).map_or(0, |(header, _)| header.packet_number));
        });
        group.bench_function(BenchmarkId::new("seal", bytes), |bencher| {
            bencher.iter(|| seal(black_box(&mut datagram)));
        });
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    let mut datagram = vec![0; DATAGRAM_BYTES];
    let mut number = 0;
    for (name, sealed) in [("messages", false), ("messages_and_seal", true)] {
        group.bench_function(BenchmarkId::new(name, MESSAGES), |bencher| {
            bencher.iter(|| {
                number += 1;
                fill(black_box(&mut datagram), number, &Extensions::NONE);
                if sealed {
                    seal(&mut datagram);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read, crc, encode);
criterion_main!(benches);
