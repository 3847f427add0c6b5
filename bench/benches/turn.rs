//! The whole engine without a kernel: two shards that exchange messages over a perfect simulated network. Reported per
//! message, sender and receiver together, set-up excluded.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;
use udp_plus::Wire;
use udp_plus::sim::{Exchange, Load};

/// Payload, messages in one run, and the messages in flight, which the window follows from.
const SHAPES: [(usize, u64, u32); 3] = [(64, 20_000, 4_096), (1_024, 5_000, 1_024), (1 << 20, 4, 4_096)];

fn exchange(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    for (name, wire) in [("csv", Wire::Csv), ("binary", Wire::Binary)] {
        for (bytes, messages, in_flight) in SHAPES {
            group.throughput(Throughput::Elements(messages));
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter_batched_ref(
                    || Exchange::new(Load::new(wire, messages, bytes, in_flight)),
                    Exchange::run,
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, exchange);
criterion_main!(benches);
