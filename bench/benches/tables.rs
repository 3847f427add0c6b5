//! The protocol's tables: one operation (or chunk, or lookup) per element.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::collections::VecDeque;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;
use udp_plus::internals::Seed;
use udp_plus::internals::ack_tracker::{AckTracker, OpId, State};
use udp_plus::internals::chunk_assembly::{Assembly, AssemblyPool};
use udp_plus::internals::dedup::{Seen, SlotWindows, Tombstone, Tombstones};
use udp_plus::internals::op_window::{BlockPool, OpWindow};
use udp_plus::internals::packet_ranges::PacketRanges;
use udp_plus::internals::reassembly::Partial;
use udp_plus::internals::shares::Host;
use udp_plus::internals::timer_wheel::TimerWheel;
use udp_plus::units::Instant;

const IN_FLIGHT: [usize; 2] = [1_000, 64_000];
const HORIZON: Duration = Duration::from_secs(60);
/// One tick of the timer wheel.
const TICK: Duration = Duration::from_nanos(1 << 17);

/// A tracker with `count` operations in flight, and their ids, oldest first.
fn tracker(count: usize) -> (AckTracker<u64>, VecDeque<OpId>) {
    let mut tracker = AckTracker::new(count + 1, Seed::from_number(1).rng(0));
    let ids = (0..count).filter_map(|_| acquire(&mut tracker)).collect();
    (tracker, ids)
}

fn acquire(tracker: &mut AckTracker<u64>) -> Option<OpId> {
    let (slot, op) = tracker.acquire()?;
    op.state = State::InFlight;
    op.completion = Some(1);
    tracker.set_route(slot, 7);
    Some(tracker.id(slot))
}

fn ack_tracker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ack_tracker");
    group.throughput(Throughput::Elements(1));
    for count in IN_FLIGHT {
        // A put, a confirm of the oldest: the life of one message with `count` in flight.
        group.bench_function(BenchmarkId::new("acquire_find_release", count), |bencher| {
            let (mut tracker, mut ids) = tracker(count);
            bencher.iter(|| {
                ids.extend(acquire(&mut tracker));
                let slot = ids.pop_front().and_then(|id| tracker.find(id));
                slot.map(|slot| tracker.release(slot))
            });
        });
        group.bench_function(BenchmarkId::new("find", count), |bencher| {
            let (tracker, ids) = tracker(count);
            let mut ids = ids.iter().cycle();
            bencher.iter(|| ids.next().map(|&id| tracker.find(black_box(id))));
        });
        group.bench_function(BenchmarkId::new("find_stale", count), |bencher| {
            let (tracker, ids) = tracker(count);
            let mut ids = ids.iter().cycle();
            bencher.iter(|| ids.next().map(|&id| tracker.find(black_box(OpId(id.0 ^ 1 << 40)))));
        });
    }
    group.finish();
}

/// A wheel with timers spread over two seconds.
fn wheel(count: usize) -> TimerWheel {
    let mut wheel = TimerWheel::new(Instant::from_ns(0));
    for index in 0..count {
        wheel.arm(index as u32, due(index, Instant::from_ns(0)));
    }
    wheel
}

fn due(index: usize, now: Instant) -> Instant {
    now + Duration::from_micros(200 + (index as u64).wrapping_mul(7_919) % 2_000_000)
}

fn timer_wheel(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer_wheel");
    for count in IN_FLIGHT {
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("disarm_arm", count), |bencher| {
            let mut wheel = wheel(count);
            let mut index = 0;
            bencher.iter(|| {
                index = (index + 1) % count;
                wheel.disarm(index as u32);
                wheel.arm(index as u32, due(index, Instant::from_ns(0)));
            });
        });
        group.bench_function(BenchmarkId::new("rearm", count), |bencher| {
            let mut wheel = wheel(count);
            let mut index = 0;
            bencher.iter(|| {
                index = (index + 1) % count;
                wheel.arm(index as u32, due(index + 1, Instant::from_ns(0)));
            });
        });
        group.bench_function(BenchmarkId::new("next_deadline", count), |bencher| {
            let wheel = wheel(count);
            bencher.iter(|| black_box(&wheel).next_deadline());
        });
        // Every timer moves down the levels and fires once.
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("advance_until_all_fired", count), |bencher| {
            let run = |mut wheel: TimerWheel| {
                let (mut now, mut fired) = (Instant::from_ns(0), 0);
                while wheel.armed() > 0 {
                    now += TICK;
                    wheel.advance(now);
                    while wheel.pop_due().is_some() {
                        fired += 1;
                    }
                }
                fired
            };
            bencher.iter_batched(|| wheel(count), run, BatchSize::LargeInput);
        });
    }
    // What every turn pays while nothing is due.
    group.throughput(Throughput::Elements(1));
    group.bench_function("advance_one_tick_idle", |bencher| {
        let mut wheel = TimerWheel::new(Instant::from_ns(0));
        wheel.arm(0, Instant::from_ns(u64::MAX / 2));
        let mut now = Instant::from_ns(0);
        bencher.iter(|| {
            now += TICK;
            wheel.advance(now);
            wheel.pop_due()
        });
    });
    group.finish();
}

const CHUNK_BYTES: usize = 384;
const CHUNKS: u32 = (1u32 << 20).div_ceil(CHUNK_BYTES as u32);

/// Stores every chunk in the order given and takes the message out.
fn reassemble(
    partial: &mut Partial,
    gathered: &mut Vec<u8>,
    chunk: &[u8],
    order: impl Iterator<Item = u32>,
) -> usize {
    partial.open(CHUNKS, 16 << 20);
    for index in order {
        let stored = partial.store(index, chunk.len(), None, |space| {
            space.copy_from_slice(chunk);
            Ok(space.len())
        });
        let _ = black_box(stored);
    }
    partial.whole(gathered).len()
}

fn reassembly(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reassembly_1_mib");
    group.throughput(Throughput::Elements(u64::from(CHUNKS)));
    let chunk = vec![b'x'; CHUNK_BYTES];
    let mut gathered = Vec::new();
    group.bench_function("in_order", |bencher| {
        let mut partial = Partial::default();
        bencher.iter(|| reassemble(&mut partial, &mut gathered, &chunk, 0..CHUNKS));
    });
    group.bench_function("reversed", |bencher| {
        let mut partial = Partial::default();
        bencher.iter(|| reassemble(&mut partial, &mut gathered, &chunk, (0..CHUNKS).rev()));
    });
    // As between engines: closed messages give their large buffers back.
    group.bench_function("in_order_after_close", |bencher| {
        let mut partial = Partial::default();
        bencher.iter(|| {
            partial.close(64 << 10);
            reassemble(&mut partial, &mut gathered, &chunk, 0..CHUNKS)
        });
    });
    group.finish();
}

fn dedup_windows(criterion: &mut Criterion) {
    let from = SocketAddr::from(([10, 0, 0, 1], 25_252));
    let now = Instant::from_ns(1);
    let mut group = criterion.benchmark_group("dedup");
    group.throughput(Throughput::Elements(1));
    for slots in IN_FLIGHT {
        let windows = || SlotWindows::new(16, 1 << 10, HORIZON, HORIZON, &Seed::from_number(1).hasher());
        // What one new message costs: looked up, given a place, closed.
        group.bench_function(BenchmarkId::new("window_new", slots), |bencher| {
            let mut windows = windows();
            let mut next = 0u64;
            bencher.iter(|| {
                next += 1;
                let (slot, generation) = ((next % slots as u64) as u32, (next / slots as u64) as u32 + 1);
                let Some(window) = windows.window(from, 7, now) else { return false };
                let seen = windows.seen(window, slot, generation);
                let room = windows.reserve(window, slot, now);
                windows.close(window, slot, generation);
                seen == Seen::New && room
            });
        });
        group.bench_function(BenchmarkId::new("window_duplicate", slots), |bencher| {
            let mut windows = windows();
            for slot in 0..slots as u32 {
                if let Some(window) = windows.window(from, 7, now)
                    && windows.reserve(window, slot, now)
                {
                    windows.close(window, slot, 9);
                }
            }
            let mut slot = 0;
            bencher.iter(|| {
                slot = (slot + 1) % slots as u32;
                windows.window(from, 7, now).map(|window| windows.seen(window, slot, 9))
            });
        });
    }
    // A lookup per train.
    group.bench_function("window_first_of_a_train", |bencher| {
        let mut windows = SlotWindows::new(16, 16, HORIZON, HORIZON, &Seed::from_number(1).hasher());
        bencher.iter(|| {
            windows.end_train();
            windows.window(black_box(from), 7, now)
        });
    });
    group.finish();
}

fn dedup_tombstones(criterion: &mut Criterion) {
    let hasher = Seed::from_number(1).hasher();
    let from = SocketAddr::from(([10, 0, 0, 1], 25_252));
    let row = [b'r'; 140];
    let mut group = criterion.benchmark_group("tombstones");
    group.throughput(Throughput::Elements(1));
    group.bench_function("hash_row_140", |bencher| {
        bencher.iter(|| hasher.hash((from, 1u8, black_box(&row[..]))));
    });
    for count in IN_FLIGHT {
        // Steady state: as many are forgotten as are added.
        group.bench_function(BenchmarkId::new("find_insert_forget", count), |bencher| {
            let step = HORIZON / count as u32;
            let mut tombstones = Tombstones::new(2 * count, HORIZON, &hasher);
            let host = Host::from(from.ip());
            let (mut now, mut key) = (Instant::from_ns(0), 0u64);
            bencher.iter(|| {
                now += step;
                key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let found = tombstones.find(key, now);
                if tombstones.has_room(host, now) {
                    tombstones.insert(key, Tombstone::Row, host, now);
                }
                found
            });
        });
    }
    group.finish();
}

/// Messages of 64 B in a datagram.
const RUN: u32 = 20;

fn op_window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("op_window");
    group.throughput(Throughput::Elements(u64::from(RUN)));
    // What a datagram costs; LOW comes with every 64th. With a gap, the bits are in blocks.
    for gap in [0, 1] {
        let name = if gap == 0 { "run_in_order" } else { "run_beyond_a_gap" };
        group.bench_function(name, |bencher| {
            let (mut pool, mut runs) = (BlockPool::new(16, 16, &Seed::from_number(1).hasher()), 0u32);
            let mut window = OpWindow::new(0, 65_536, Host::from(std::net::IpAddr::from([10, 0, 0, 1])));
            let mut next = gap;
            bencher.iter(|| {
                runs += 1;
                if runs.is_multiple_of(64) {
                    window.set_low(next, &mut pool);
                    next += gap;
                }
                let new = window.test_and_set_run(next, RUN, &mut pool);
                next += u64::from(RUN);
                new
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("one_in_order", |bencher| {
        let mut pool = BlockPool::new(16, 16, &Seed::from_number(1).hasher());
        let mut window = OpWindow::new(0, 65_536, Host::from(std::net::IpAddr::from([10, 0, 0, 1])));
        let mut next = 0u64;
        bencher.iter(|| {
            let seen = window.test_and_set(window.expand(next as u32), &mut pool);
            next += 1;
            if next.is_multiple_of(1_024) {
                window.set_low(next, &mut pool);
            }
            seen
        });
    });
    group.bench_function("packet_in_order", |bencher| {
        let mut ranges = PacketRanges::new(0);
        let mut next = 0;
        bencher.iter(|| {
            next += 1;
            ranges.insert(next - 1)
        });
    });
    // One of 100 packets comes 50 packets late; every 200th, the peer has seen an ACK.
    group.bench_function("packet_late", |bencher| {
        let mut ranges = PacketRanges::new(0);
        let mut next = 0u64;
        bencher.iter(|| {
            next += 1;
            if next.is_multiple_of(200) {
                ranges.forget_below(next - 150);
            }
            match next % 100 {
                0 => ranges.insert(next + 50),
                50 => ranges.insert(next - 50),
                _ => ranges.insert(next),
            }
        });
    });
    group.finish();
}

fn chunk_assembly(criterion: &mut Criterion) {
    // As many units as a datagram on Ethernet has room for.
    let chunk = [7; 11 * 128];
    let mut group = criterion.benchmark_group("chunk_assembly");
    for (name, total) in [("in_order_60_kib", 60u32 << 10), ("in_order_1_mib", 1 << 20)] {
        let chunks = total / chunk.len() as u32;
        group.throughput(Throughput::Elements(u64::from(chunks)));
        for lost in [false, true] {
            let name = if lost { format!("{name}_second_lost") } else { name.to_owned() };
            group.bench_function(name, |bencher| {
                let mut pool = AssemblyPool::new(64 << 20);
                bencher.iter(|| {
                    let Ok(mut assembly) = Assembly::new(total, &mut pool) else { return 0 };
                    for index in (0..chunks).filter(|index| !lost || *index != 1).chain(lost.then_some(1)) {
                        let offset = index * chunk.len() as u32;
                        let _ = black_box(assembly.store(offset, total, black_box(&chunk)));
                    }
                    let received = assembly.received_bytes();
                    assembly.release(&mut pool);
                    received
                });
            });
        }
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("copy_of_a_chunk", |bencher| {
        let mut to = [0u8; 11 * 128];
        bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&chunk)));
    });
    group.finish();
}

criterion_group!(
    benches,
    ack_tracker,
    timer_wheel,
    reassembly,
    dedup_windows,
    dedup_tombstones,
    op_window,
    chunk_assembly
);
criterion_main!(benches);
