//! The engine beside what the kernel alone allows, and what reliability over the v1 wire costs at least, on this machine
//! and at the same time: workloads take turns, several rounds, and the medians are compared.
//!
//! ```text
//!   cargo bench -p udp-plus-bench --bench ceiling -- [--rounds 5] [--seconds 0.6] [WORDS OF THE NAME]
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `raw` | datagrams and trains without a protocol |
//! | `least` | v1 rows, confirmed, and nothing else: no loss recovery, one peer |
//! | `engine` | the engine: in the shard, through buckets, large messages |
//! | `net` | sockets and batched receives of the first two |
//!
//! Senders run on the first core, receivers on the second. Rates count what the receiver got or confirmed; CPU time is
//! the whole process's. Run by `cargo test` (no `--bench`), every workload runs once, for a moment.

mod engine;
mod least;
mod net;
mod raw;

use nix::sys::resource::{UsageWho, getrusage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a workload and the clock share.
#[derive(Clone, Default)]
struct Meter {
    /// Elements received or confirmed so far.
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Meter {
    fn add(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A workload under way; `finish` is called after [`Meter::stop`] was set.
type Finish = Box<dyn FnOnce()>;
/// Starts a workload's threads, or says why it cannot run here.
type Start = Box<dyn Fn(&Meter) -> Result<Finish, String>>;

struct Workload {
    name: &'static str,
    /// Payload bytes of one element.
    bytes: usize,
    /// Name of the workload that this one's payload rate is compared with.
    beside: &'static str,
    start: Start,
}

fn workload(
    name: &'static str,
    bytes: usize,
    beside: &'static str,
    start: impl Fn(&Meter) -> Result<Finish, String> + 'static,
) -> Workload {
    Workload { name, bytes, beside, start: Box::new(start) }
}

const RAW: &str = "raw datagrams 64 B";
const GSO: &str = "GSO segments 64 B";
const LEAST_64: &str = "v1 least 64 B, 64 segments";
const LEAST_128: &str = "v1 least 64 B, 128 segments";
const LEAST_WIDE: &str = "v1 least 1,020 B";

fn workloads() -> Vec<Workload> {
    const MIB: usize = 1 << 20;
    vec![
        workload(RAW, 64, RAW, |meter| raw::start(meter, 64, 1)),
        workload(GSO, 64, GSO, |meter| raw::start(meter, 64, 64)),
        workload(LEAST_64, 64, LEAST_128, |meter| least::start(meter, 64, 64)),
        workload(LEAST_128, 64, LEAST_128, |meter| least::start(meter, 64, 128)),
        workload(LEAST_WIDE, 1_020, LEAST_WIDE, |meter| least::start(meter, 1_020, 64)),
        workload("engine 64 B, in the shard", 64, LEAST_128, |meter| engine::in_shard(meter, 64, 4_096)),
        workload("engine 64 B, buckets", 64, LEAST_128, |meter| engine::buckets(meter, 64)),
        workload("engine 1 MiB, in the shard", MIB, LEAST_WIDE, |meter| engine::in_shard(meter, MIB, 8)),
    ]
}

struct Options {
    rounds: usize,
    warm_up: Duration,
    measure: Duration,
    words: Vec<String>,
}

impl Options {
    fn from_args() -> Self {
        let mut args = std::env::args().skip(1);
        let (mut bench, mut options) = (
            false,
            Self {
                rounds: 5,
                warm_up: Duration::from_millis(200),
                measure: Duration::from_millis(600),
                words: Vec::new(),
            },
        );
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => bench = true,
                "--test" => bench = false,
                "--rounds" => options.rounds = number(args.next()).max(1.0) as usize,
                "--seconds" => options.measure = Duration::from_secs_f64(number(args.next())),
                "--list" => {
                    println!("ceiling: test");
                    std::process::exit(0);
                }
                flag if flag.starts_with('-') => {}
                word => options.words.push(word.to_owned()),
            }
        }
        if !bench {
            let moment = Duration::from_millis(30);
            options = Self { rounds: 1, warm_up: moment, measure: moment, words: Vec::new() };
        }
        options
    }
}

fn number(arg: Option<String>) -> f64 {
    arg.and_then(|arg| arg.parse().ok()).expect("a number after the option")
}

/// Of one round.
#[derive(Clone, Copy)]
struct Sample {
    per_second: f64,
    cpu_ns_each: f64,
}

fn sample(workload: &Workload, options: &Options) -> Result<Sample, String> {
    let meter = Meter::default();
    let finish = (workload.start)(&meter)?;
    wait(options.warm_up);
    let (done, at, cpu) = (meter.done.load(Ordering::Relaxed), clock(), cpu_time());
    wait(options.measure);
    let count = meter.done.load(Ordering::Relaxed) - done;
    let (elapsed, cpu) = (at.elapsed(), cpu_time().saturating_sub(cpu));
    meter.stop.store(true, Ordering::Relaxed);
    finish();
    Ok(Sample {
        per_second: count as f64 / elapsed.as_secs_f64(),
        cpu_ns_each: cpu.as_nanos() as f64 / count.max(1) as f64,
    })
}

#[expect(clippy::disallowed_methods, reason = "a measurement against the real clock")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "other threads do the work meanwhile")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the process's own usage");
    let micros = |time: nix::sys::time::TimeVal| {
        time.tv_sec().unsigned_abs() * 1_000_000 + time.tv_usec().unsigned_abs()
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    let options = Options::from_args();
    let workloads: Vec<Workload> = workloads()
        .into_iter()
        .filter(|workload| options.words.iter().all(|word| workload.name.contains(word.as_str())))
        .collect();
    let mut samples: Vec<Vec<Sample>> = workloads.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (workload, samples) in workloads.iter().zip(&mut samples) {
            match sample(workload, &options) {
                Ok(sample) => samples.push(sample),
                Err(reason) => eprintln!("{}: {reason}", workload.name),
            }
        }
    }
    print_table(&workloads, &samples);
}

fn print_table(workloads: &[Workload], samples: &[Vec<Sample>]) {
    let payload_rate =
        |name: &str| {
            workloads.iter().zip(samples).find(|(workload, _)| workload.name == name).map(
                |(workload, samples)| median(samples, |sample| sample.per_second) * workload.bytes as f64,
            )
        };
    println!(
        "{:<28} {:>12} {:>9} {:>10} {:>13} {:>6}  beside",
        "workload", "per second", "Gbit/s", "CPU ns", "min .. max", "ratio"
    );
    for (workload, samples) in workloads.iter().zip(samples) {
        let rate = median(samples, |sample| sample.per_second);
        let bytes_rate = rate * workload.bytes as f64;
        let spread = |pick: fn(f64, f64) -> f64| {
            samples.iter().map(|sample| sample.per_second / rate).reduce(pick).unwrap_or(f64::NAN)
        };
        let ratio = payload_rate(workload.beside).map_or(f64::NAN, |beside| bytes_rate / beside);
        println!(
            "{:<28} {rate:>12.0} {:>9.2} {:>10.0} {:>5.2} .. {:>4.2} {ratio:>6.2}  {}",
            workload.name,
            bytes_rate * 8.0 / 1e9,
            median(samples, |sample| sample.cpu_ns_each),
            spread(f64::min),
            spread(f64::max),
            workload.beside,
        );
    }
}
