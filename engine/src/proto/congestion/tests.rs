//! Controllers over a simulated bottleneck, and under random input. Virtual time: the numbers are exact for a seed.

use super::*;
use proptest::prelude::*;
use sim::{Path, World};

mod sim;

const MTU: u32 = 1_200;
const MBIT: u64 = 125_000;

fn config(datagram_bytes: u32) -> CcConfig {
    let datagram = u64::from(datagram_bytes);
    CcConfig {
        initial_window_bytes: 10 * datagram,
        min_window_bytes: 2 * datagram,
        max_window_bytes: 64 << 20,
        datagram_bytes,
        fixed_window_bytes: 100 * datagram,
    }
}

fn at_once(_: &mut fastrand::Rng) -> Duration {
    Duration::ZERO
}

/// A path with a queue of `queue` bandwidth-delay products.
fn path(mbit: u64, round_trip_ms: u64, queue: f64, loss: f64) -> Path {
    let round_trip = Duration::from_millis(round_trip_ms);
    let mut path = Path { bytes_per_s: mbit * MBIT, round_trip, queue_bytes: 0, loss, wake_up: at_once };
    path.queue_bytes = (queue * path.product() as f64) as u64;
    path
}

fn world(algorithm: Algorithm, path: Path, seed: u64) -> World {
    let mut world = World::new(path, seed);
    world.add_flow(build(algorithm, &config(MTU)), MTU, Duration::ZERO);
    world
}

/// Mbit/s and round trip in ms: products of 10 to 208 datagrams.
const PATHS: [(u64, u64); 4] = [(10, 100), (100, 20), (50, 5), (200, 2)];
const SEEDS: std::ops::Range<u64> = 1..4;

/// Share of the link, queue in bandwidth-delay products and share that was lost, over 200 round trips after the start.
fn steady(algorithm: Algorithm, path: Path, seed: u64) -> (f64, f64, f64) {
    let mut world = world(algorithm, path, seed);
    world.run(path.round_trip * 30);
    let (rates, queued) = world.run(path.round_trip * 200);
    let flow = &world.flows[0];
    let lost = flow.lost_total as f64 / (flow.lost_total + flow.delivered) as f64;
    (rates[0] / path.bytes_per_s as f64, queued / path.product() as f64, lost)
}

#[test]
fn the_model_fills_the_link_whatever_the_random_loss() {
    for (mbit, rtt_ms) in PATHS {
        for queue in [0.5, 1.0, 8.0] {
            for (loss, least) in [(0.0, 0.95), (0.01, 0.93), (0.05, 0.88), (0.15, 0.7)] {
                for seed in SEEDS {
                    let (share, ..) = steady(Algorithm::Model, path(mbit, rtt_ms, queue, loss), seed);
                    assert!(
                        share >= least,
                        "{mbit} Mbit/s, {rtt_ms} ms, queue {queue}, {loss}, {seed}: {share}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_model_leaves_a_deep_buffer_empty() {
    for (mbit, rtt_ms) in PATHS {
        for loss in [0.0, 0.01] {
            for seed in SEEDS {
                let (_, queue, lost) = steady(Algorithm::Model, path(mbit, rtt_ms, 20.0, loss), seed);
                assert!(queue < 0.5, "{mbit} Mbit/s, {rtt_ms} ms, {seed}: {queue} products");
                assert!(lost <= 1.3 * loss, "{mbit} Mbit/s, {rtt_ms} ms, {seed}: lost {lost}");
            }
        }
    }
}

/// One flow in a queue it can overflow: what it loses is its own doing.
#[test]
fn the_model_takes_overflow_for_what_it_is() {
    for (mbit, rtt_ms) in PATHS {
        for (queue, most) in [(0.3, 0.06), (0.5, 0.05), (1.0, 0.02)] {
            for seed in SEEDS {
                let (.., lost) = steady(Algorithm::Model, path(mbit, rtt_ms, queue, 0.0), seed);
                assert!(lost < most, "{mbit} Mbit/s, {rtt_ms} ms, queue {queue}, {seed}: lost {lost}");
            }
        }
    }
}

#[test]
fn cubic_fills_the_link_and_reduces_once_per_round_trip() {
    for (mbit, rtt_ms) in PATHS {
        for queue in [0.5, 1.0, 4.0] {
            let path = path(mbit, rtt_ms, queue, 0.0);
            let mut world = world(Algorithm::Cubic, path, 1);
            world.run(path.round_trip * 50);
            let (rates, _) = world.run(path.round_trip * 600);
            let share = rates[0] / path.bytes_per_s as f64;
            assert!(share >= 0.9, "{mbit} Mbit/s, {rtt_ms} ms, queue {queue}: {share}");
            let mut reduced_at = None;
            for &(at, before, after) in &world.flows[0].loss_events {
                if after == before {
                    continue;
                }
                let ratio = after as f64 / before as f64;
                assert!((0.699..0.701).contains(&ratio), "{before} to {after}");
                let pause = reduced_at.map_or(path.round_trip, |reduced_at| at.since(reduced_at));
                assert!(pause >= path.round_trip, "twice within {pause:?}");
                reduced_at = Some(at);
            }
            assert!(reduced_at.is_some() || queue > 1.0);
        }
    }
}

/// What each of two flows gets; the second starts after 50 round trips, both are measured after 500.
fn shares(algorithm: Algorithm, path: Path, seed: u64) -> (f64, f64) {
    let mut world = world(algorithm, path, seed);
    let after = path.round_trip * (50 + 7 * seed as u32);
    world.add_flow(build(algorithm, &config(MTU)), MTU, after);
    world.run(path.round_trip * 500);
    let (rates, _) = world.run(path.round_trip * 500);
    let rate = path.bytes_per_s as f64;
    (rates[0] / rate, rates[1] / rate)
}

#[test]
fn two_flows_share() {
    for (algorithm, most) in [(Algorithm::Model, 2.5), (Algorithm::Cubic, 3.0)] {
        for ((mbit, rtt_ms), queue) in [((10, 100), 1.0), ((50, 5), 1.0), ((50, 5), 4.0), ((200, 2), 1.0)] {
            for seed in SEEDS {
                let (first, second) = shares(algorithm, path(mbit, rtt_ms, queue, 0.0), seed);
                let what = format!("{algorithm}, {mbit} Mbit/s, {rtt_ms} ms, queue {queue}, {seed}");
                assert!(first.max(second) <= most * first.min(second), "{what}: {first} and {second}");
                assert!(first + second >= 0.9, "{what}: {first} and {second}");
            }
        }
    }
}

#[test]
fn the_model_adapts_to_a_quarter_and_to_four_times_the_rate() {
    for (mbit, rtt_ms) in PATHS {
        for (queue, loss) in [(1.0, 0.0), (1.0, 0.01), (4.0, 0.0)] {
            for seed in SEEDS {
                let path = path(mbit, rtt_ms, queue, loss);
                let what = format!("{mbit} Mbit/s, {rtt_ms} ms, queue {queue}, {loss}, {seed}");
                let mut world = world(Algorithm::Model, path, seed);
                world.run(path.round_trip * 100);
                world.path.bytes_per_s /= 4;
                let (rates, _) = world.run(path.round_trip * 20);
                let slow = world.path.bytes_per_s as f64;
                assert!(rates[0] >= 0.9 * slow, "{what}: {} on the way down", rates[0] / slow);
                let pace = world.flows[0].control.pacing_bytes_per_s().unwrap() as f64;
                assert!(pace <= 1.35 * slow, "{what}: paces at {} after 20 round trips", pace / slow);
                world.run(path.round_trip * 20);
                let (rates, queued) = world.run(path.round_trip * 40);
                assert!(rates[0] >= 0.85 * slow, "{what}: {} then", rates[0] / slow);
                let products = queued / world.path.product() as f64;
                assert!(products < 1.0, "{what}: {products} products in the queue");

                world.path.bytes_per_s *= 4;
                world.run(path.round_trip * 20);
                let (rates, _) = world.run(path.round_trip * 20);
                let share = rates[0] / path.bytes_per_s as f64;
                assert!(share >= 0.75, "{what}: {share} on the way up");
            }
        }
    }
}

#[test]
fn cubic_adapts_to_a_quarter_of_the_rate() {
    for (mbit, rtt_ms) in PATHS {
        let path = path(mbit, rtt_ms, 1.0, 0.0);
        let mut world = world(Algorithm::Cubic, path, 2);
        world.run(path.round_trip * 100);
        world.path.bytes_per_s /= 4;
        world.run(path.round_trip * 20);
        let (rates, _) = world.run(path.round_trip * 40);
        assert!(rates[0] >= 0.9 * world.path.bytes_per_s as f64);
        // What fits is the product and the queue, now four products of the slower link.
        let fits = world.path.product() + path.queue_bytes;
        assert!(world.flows[0].control.window_bytes() <= fits + fits / 5);
    }
}

/// Round trips of 20 to 200 us, every fiftieth wake-up 50 us to 5 ms late.
fn jittery(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_micros(if rng.f64() < 0.02 { rng.u64(50..5_000) } else { rng.u64(0..180) })
}

/// Every wake-up is late: the machine has fewer cores than busy threads.
fn overloaded(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_micros(rng.u64(50..3_000))
}

#[test]
fn a_jittery_loopback_does_not_starve_the_model() {
    for (wake_up, least) in [(jittery as fn(&mut fastrand::Rng) -> Duration, 0.8), (overloaded, 0.6)] {
        for seed in SEEDS {
            // A flow in whole trains, into a receive buffer of 16 MiB.
            let round_trip = Duration::from_micros(20);
            let path =
                Path { bytes_per_s: 2_000_000_000, round_trip, queue_bytes: 16 << 20, loss: 0.0, wake_up };
            let config = CcConfig { min_window_bytes: 60_000, ..config(60_000) };
            let mut world = World::new(path, seed);
            world.add_flow(build(Algorithm::Model, &config), 60_000, Duration::ZERO);
            for second in 0..2 {
                let (rates, _) = world.run(Duration::from_secs(1));
                let share = rates[0] / path.bytes_per_s as f64;
                assert!(share >= least, "{seed}: {share} in second {second}");
            }
            let flow = &world.flows[0];
            assert_eq!(flow.lost_total, 0);
            assert!(flow.window_least >= 600_000, "{seed}: {}", flow.window_least);
            assert_eq!(flow.control.pacing_bytes_per_s(), None);
        }
    }
}

/// A receiver that slept for 6 ms.
fn asleep(_: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(6)
}

/// Some trains of loopback are lost, while the receiver sleeps or not, or all is taken for persistent congestion: whatever that
/// does to the model is over 20 ms later.
#[test]
fn a_moment_of_loss_on_loopback_costs_no_more_than_a_moment() {
    for (lossy_us, wake_up) in
        [(40, at_once as fn(&mut fastrand::Rng) -> Duration), (40, asleep), (1_000, at_once)]
    {
        for persistent in [false, true] {
            let round_trip = Duration::from_micros(40);
            let path = Path {
                bytes_per_s: 1_000_000_000,
                round_trip,
                queue_bytes: 8 << 20,
                loss: 0.0,
                wake_up: at_once,
            };
            let mut world = World::new(path, 1);
            world.add_flow(build(Algorithm::Model, &config(4_416)), 4_416, Duration::ZERO);
            world.run(Duration::from_millis(200));
            let lost = world.flows[0].lost_total;
            (world.path.loss, world.path.wake_up) = (1.0, wake_up);
            world.run(Duration::from_micros(lossy_us));
            (world.path.loss, world.path.wake_up) = (0.0, at_once);
            if persistent {
                let now = world.now;
                let losses = LossSample { persistent, ..loss(27, 0, 0) };
                world.flows[0].control.on_loss(now, &losses);
            }
            world.run(Duration::from_millis(20));
            assert!(world.flows[0].lost_total - lost >= 8 * 4_416, "some were lost");
            for ms in 0..20 {
                let (rates, _) = world.run(Duration::from_millis(10));
                assert!(rates[0] >= 0.95e9, "{lossy_us} us, {persistent}: {} after {ms}0 ms", rates[0]);
            }
        }
    }
}

#[test]
fn a_lossy_loopback_does_not_starve_the_model() {
    for seed in SEEDS {
        let round_trip = Duration::from_micros(20);
        let path = Path {
            bytes_per_s: 1_000_000_000,
            round_trip,
            queue_bytes: 8 << 20,
            loss: 0.05,
            wake_up: jittery,
        };
        let mut world = World::new(path, seed);
        world.add_flow(build(Algorithm::Model, &config(9_000)), 9_000, Duration::ZERO);
        let (rates, _) = world.run(Duration::from_secs(1));
        assert!(rates[0] >= 0.7e9, "{seed}: {}", rates[0]);
    }
}

#[test]
fn a_slow_application_does_not_spoil_the_model() {
    for (mbit, rtt_ms) in PATHS {
        let path = path(mbit, rtt_ms, 1.0, 0.0);
        let rate = path.bytes_per_s as f64;
        let mut world = world(Algorithm::Model, path, 1);
        world.run(path.round_trip * 50);
        // A tenth for a long time; the rate measured before stays, and nothing is held back.
        world.flows[0].app_bytes_per_s = Some(path.bytes_per_s / 10);
        world.flows[0].restart_app(world.now);
        let (rates, _) = world.run(path.round_trip * 200);
        assert!(rates[0] >= 0.09 * rate, "{} of a tenth", rates[0] / rate);
        world.flows[0].app_bytes_per_s = None;
        world.run(path.round_trip * 3);
        let (rates, _) = world.run(path.round_trip * 10);
        assert!(rates[0] >= 0.8 * rate, "{mbit} Mbit/s, {rtt_ms} ms: {} afterwards", rates[0] / rate);
    }
}

#[test]
fn the_model_measures_a_longer_path_anew() {
    let path = path(50, 20, 4.0, 0.0);
    let mut world = world(Algorithm::Model, path, 1);
    world.run(Duration::from_secs(5));
    world.path.round_trip = Duration::from_millis(60);
    world.run(Duration::from_secs(15)); // The old round trip is forgotten after ten seconds.
    let (rates, queued) = world.run(Duration::from_secs(10));
    assert!(rates[0] >= 0.9 * path.bytes_per_s as f64, "{}", rates[0] / path.bytes_per_s as f64);
    assert!(queued < 0.5 * world.path.product() as f64);
}

#[test]
fn the_fixed_window_is_fixed() {
    let path = path(50, 20, 4.0, 0.05);
    let mut world = world(Algorithm::Fixed, path, 1);
    let (rates, _) = world.run(Duration::from_secs(2));
    let due = 120_000.0 / path.round_trip.as_secs_f64();
    assert!(rates[0] > 0.85 * due && rates[0] <= due);
    assert_eq!(world.flows[0].window_least, 120_000);
}

fn ack(acked_bytes: u64, largest_packet: u64, next_packet: u64, in_flight: u64) -> AckSample {
    AckSample {
        acked_bytes,
        newest_sent_at: Instant::from_ns(0),
        largest_packet,
        next_packet,
        rtt: Some(Duration::from_millis(50)),
        min_rtt: Duration::from_millis(50),
        smoothed_rtt: Duration::from_millis(50),
        delivered_bytes: 0,
        delivery_rate: Some(1_000_000),
        in_flight,
        app_limited: false,
        ecn_ce: 0,
    }
}

fn loss(lost_packets: u32, largest_lost: u64, next_packet: u64) -> LossSample {
    LossSample {
        lost_bytes: u64::from(lost_packets) * u64::from(MTU),
        lost_packets,
        largest_lost_sent_at: Instant::from_ns(0),
        largest_lost,
        next_packet,
        in_flight: 0,
        persistent: false,
    }
}

/// A model that knows a path of 1 MB/s and 50 ms, cruising.
fn settled_model() -> (Box<dyn CongestionControl>, Instant, u64) {
    let mut model = build(Algorithm::Model, &config(MTU));
    let (mut now, mut packet) = (Instant::from_ns(1_000_000_000), 0);
    let cruises = |pacing: Option<u64>| pacing.is_some_and(|rate| (980_000..=990_000).contains(&rate));
    while packet < 20 * 42 || !cruises(model.pacing_bytes_per_s()) {
        now += Duration::from_millis(50);
        packet += 42;
        model.on_sent(now, MTU, 50_400);
        model.on_ack(now, &ack(50_400, packet - 1, packet, 40_000));
    }
    (model, now, packet)
}

#[test]
fn the_model_bounds_itself_by_a_mark_or_a_fifth_lost_and_not_by_less() {
    let round = |lost: u32, marks: u64| {
        let (mut model, now, packet) = settled_model();
        model.on_sent(now, MTU, 60_000);
        model.on_loss(now, &loss(lost, packet - 1, packet));
        let marked = AckSample { ecn_ce: marks, ..ack(50_400, packet, packet + 42, 40_000) };
        model.on_ack(now + Duration::from_millis(50), &marked);
        model.window_bytes() as f64 / 50_000.0
    };
    assert!(round(0, 0) >= 2.0);
    assert!(round(6, 0) >= 2.0); // 12 %, no delay.
    assert!(round(40, 0) < 0.9); // Half.
    assert!(round(0, 1) < 0.9);
}

#[test]
fn spurious_losses_are_undone() {
    let (mut model, mut now, packet) = settled_model();
    let before = model.window_bytes();
    model.on_loss(now, &loss(40, packet - 1, packet));
    now += Duration::from_millis(50);
    model.on_ack(now, &ack(50_400, packet, packet + 42, 40_000));
    assert!(model.window_bytes() < before);
    for _ in 0..40 {
        model.on_spurious_loss(now);
    }
    assert!(model.window_bytes() >= before);

    let mut cubic = build(Algorithm::Cubic, &config(MTU));
    cubic.on_loss(now, &loss(2, 10, 20));
    cubic.on_loss(now, &loss(1, 15, 20)); // The same event.
    assert_eq!(cubic.window_bytes(), 8_400);
    cubic.on_spurious_loss(now);
    cubic.on_spurious_loss(now);
    assert_eq!(cubic.window_bytes(), 8_400);
    cubic.on_spurious_loss(now);
    assert_eq!(cubic.window_bytes(), 12_000);
}

#[test]
fn persistent_congestion_starts_over_from_the_smallest_window() {
    for algorithm in [Algorithm::Model, Algorithm::Cubic] {
        let mut control = build(algorithm, &config(MTU));
        let now = Instant::from_ns(1_000_000_000);
        control.on_ack(now, &ack(12_000, 9, 20, 12_000));
        control.on_loss(now, &LossSample { persistent: true, ..loss(10, 19, 20) });
        assert_eq!(control.window_bytes(), 2_400, "{algorithm}");
        control.on_ack(now, &ack(2_400, 21, 22, 1_200));
        assert_eq!(control.window_bytes(), 4_800);
    }
}

#[test]
fn algorithms_have_names() {
    for algorithm in [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed] {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert_eq!("Cubic".parse::<Algorithm>(), Err(UnknownAlgorithm));
    assert_eq!(Algorithm::default(), Algorithm::Model);
}

/// One call with numbers as a peer, a bug or a clock might make them.
#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    Sent(u32, u64),
    Ack {
        acked: u64,
        packets: [u64; 2],
        rtt_ns: Option<u64>,
        min_ns: u64,
        rate: Option<u64>,
        in_flight: u64,
        flags: u8,
    },
    Loss {
        bytes: u64,
        packets: u32,
        largest: u64,
        next: u64,
        persistent: bool,
    },
    Spurious,
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..200_u64, 1_000..2_000_000_u64, any::<u64>(), Just(0), Just(u64::MAX)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        number().prop_map(Op::Wait),
        (any::<u32>(), number()).prop_map(|(bytes, in_flight)| Op::Sent(bytes, in_flight)),
        (
            number(),
            [number(), number()],
            proptest::option::of(number()),
            number(),
            proptest::option::of(number()),
            number(),
            any::<u8>()
        )
            .prop_map(|(acked, packets, rtt_ns, min_ns, rate, in_flight, flags)| Op::Ack {
                acked,
                packets,
                rtt_ns,
                min_ns,
                rate,
                in_flight,
                flags
            }),
        (number(), any::<u32>(), number(), number(), any::<bool>()).prop_map(
            |(bytes, packets, largest, next, persistent)| Op::Loss {
                bytes,
                packets,
                largest,
                next,
                persistent
            }
        ),
        Just(Op::Spurious),
    ]
}

fn apply(control: &mut dyn CongestionControl, now: &mut Instant, op: &Op) {
    match *op {
        Op::Wait(ns) => *now += Duration::from_nanos(ns),
        Op::Sent(bytes, in_flight) => control.on_sent(*now, bytes, in_flight),
        Op::Ack { acked, packets: [largest, next], rtt_ns, min_ns, rate, in_flight, flags } => control
            .on_ack(
                *now,
                &AckSample {
                    acked_bytes: acked,
                    largest_packet: largest,
                    next_packet: next,
                    rtt: if flags & 4 > 0 { Some(Duration::MAX) } else { rtt_ns.map(Duration::from_nanos) },
                    min_rtt: Duration::from_nanos(min_ns),
                    smoothed_rtt: rtt_ns.map_or(Duration::MAX, Duration::from_nanos),
                    delivered_bytes: acked,
                    delivery_rate: rate,
                    app_limited: flags & 1 > 0,
                    ecn_ce: u64::from(flags >> 6),
                    ..ack(acked, largest, next, in_flight)
                },
            ),
        Op::Loss { bytes, packets, largest, next, persistent } => control
            .on_loss(*now, &LossSample { lost_bytes: bytes, persistent, ..loss(packets, largest, next) }),
        Op::Spurious => control.on_spurious_loss(*now),
    }
}

proptest! {
    #[test]
    fn whatever_is_reported_the_window_keeps_its_limits(
        ops in proptest::collection::vec(op(), 1..200),
        limits in [number(), number(), number(), number()],
        datagram_bytes in any::<u32>(),
    ) {
        let [initial_window_bytes, min_window_bytes, max_window_bytes, fixed_window_bytes] = limits;
        let config = CcConfig {
            initial_window_bytes,
            min_window_bytes,
            max_window_bytes,
            datagram_bytes,
            fixed_window_bytes,
        };
        let limits = config.consistent();
        for algorithm in [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed] {
            let mut control = algorithm.build(&config);
            let mut now = Instant::from_ns(1);
            for op in &ops {
                apply(&mut *control, &mut now, op);
                let window = control.window_bytes();
                let least = if algorithm == Algorithm::Fixed { limits.datagram_bytes.into() } else { limits.min_window_bytes };
                prop_assert!(window > 0 && window >= least && window <= limits.max_window_bytes, "{window}");
                prop_assert_ne!(control.pacing_bytes_per_s(), Some(0));
            }
        }
    }
}
