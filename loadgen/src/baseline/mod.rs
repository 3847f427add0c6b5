//! What raw sockets do on this machine at this moment: the measure of every figure. No engine is alive meanwhile; one
//! thread and one core a side; the same cores as the engines get with `--pin`.
//!
//! | name | what |
//! |---|---|
//! | `datagrams_per_s` | 64 B datagrams received, sendmmsg to recvmmsg, the best of a few batch sizes |
//! | `gso_segments_per_s` | 64 B segments received, trains of 128 (UDP GSO; 64 where the kernel takes no more), GRO receive |
//! | `gso_bits_per_s` | payload bits received, 1,472 B segments, trains of 44, GRO receive |
//! | `pingpong_spin_ns` | 64 B there and back, both sides polling |
//! | `pingpong_block_ns` | the same, both sides blocking |
//! | `tcp` | messages of the run's size over one TCP stream, the best of a few write sizes, the better congestion control |

mod flood;
mod pingpong;
mod sides;
mod tcp;

use crate::record::latency_histogram;
use anyhow::{Context, Result};
use flood::Flood;
use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use sides::Received;
use std::time::Duration;
use tcp::Stream;
pub use tcp::{Place, Tcp};

/// Datagrams of floods of single ones, and of ping-pongs.
const SMALL_BYTES: usize = 64;
const SMALL: Flood = Flood { segment_bytes: SMALL_BYTES, segments: 1, batch: 64 };
/// As long as the engine's.
const SMALL_TRAINS: Flood = Flood { segment_bytes: SMALL_BYTES, segments: 128, batch: 64 };
/// The most of kernels before Linux 6.9.
const OLD_SEGMENTS: usize = 64;
/// 44 x 1,472 is the most that fits a datagram over IPv4.
const FULL_TRAINS: Flood = Flood { segment_bytes: 1_472, segments: 44, batch: 64 };
const BATCHES: [usize; 3] = [16, 64, 256];

/// Median and tail of a ping-pong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundTrip {
    /// Median.
    pub p50: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

/// The figures; see the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Single datagrams received.
    pub datagrams_per_s: Option<f64>,
    /// Small segments received.
    pub gso_segments_per_s: Option<f64>,
    /// Payload bits of full segments received.
    pub gso_bits_per_s: Option<f64>,
    /// There and back, polling.
    pub pingpong_spin_ns: RoundTrip,
    /// There and back, blocking.
    pub pingpong_block_ns: RoundTrip,
    /// One TCP stream; null: not measured.
    pub tcp: Option<Tcp>,
}

/// A baseline under way: some of it measured before, the rest after.
#[derive(Debug)]
pub struct Measure {
    cores: (usize, usize),
    size: usize,
    best_batch: Option<usize>,
    single: Received,
    segments: Received,
    bits: Received,
    spin: Histogram<u64>,
    block: Histogram<u64>,
    best_stream: Option<Stream>,
    tcp: Received,
}

impl Measure {
    /// Nothing measured yet; `size` is that of the run's messages.
    pub fn new(size: usize) -> Self {
        Self {
            cores: two_cores(),
            size,
            best_batch: None,
            single: Received::default(),
            segments: Received::default(),
            bits: Received::default(),
            spin: latency_histogram(),
            block: latency_histogram(),
            best_stream: None,
            tcp: Received::default(),
        }
    }

    /// Adds `seconds` of each figure.
    pub fn add(&mut self, seconds: f64) -> Result<()> {
        if seconds <= 0.0 {
            return Ok(());
        }
        let time = Duration::from_secs_f64(seconds);
        let best = match self.best_batch {
            Some(best) => best,
            None => self.find_best_batch(time.min(Duration::from_millis(200)))?,
        };
        let single = Flood { batch: best, ..SMALL };
        self.single += single.run(self.cores, time).context("flood of datagrams")?;
        let segments = small_trains().and_then(|trains| trains.run(self.cores, time));
        self.segments += known(segments).context("flood of small trains")?;
        self.bits += known(FULL_TRAINS.run(self.cores, time)).context("flood of full trains")?;
        pingpong::run(self.cores, time, true, &mut self.spin).context("ping-pong, polling")?;
        pingpong::run(self.cores, time, false, &mut self.block).context("ping-pong, blocking")?;
        self.add_tcp(time).context("TCP")
    }

    /// The first half tries out write sizes and congestion controls for half of its time.
    fn add_tcp(&mut self, time: Duration) -> Result<()> {
        let (stream, time) = match &self.best_stream {
            Some(best) => (best.clone(), time),
            None => (Stream::find_best(self.size, self.cores, time / 2)?, time / 2),
        };
        self.tcp += stream.run(self.cores, tcp::WARM_UP, time)?;
        self.best_stream = Some(stream);
        Ok(())
    }

    /// A short try of each; the figure itself is measured afresh with the best, so that it is not the best of noise.
    fn find_best_batch(&mut self, time: Duration) -> Result<usize> {
        let mut best = (0.0, SMALL.batch);
        for batch in BATCHES {
            let rate = Flood { batch, ..SMALL }.run(self.cores, time).context("flood of datagrams")?.per_s();
            if rate.is_some_and(|rate| rate > best.0) {
                best = (rate.unwrap_or_default(), batch);
            }
        }
        self.best_batch = Some(best.1);
        Ok(best.1)
    }

    /// What was measured.
    pub fn figures(&self) -> Baseline {
        Baseline {
            datagrams_per_s: self.single.per_s(),
            gso_segments_per_s: self.segments.per_s(),
            gso_bits_per_s: self.bits.bits_per_s(),
            pingpong_spin_ns: round_trip(&self.spin),
            pingpong_block_ns: round_trip(&self.block),
            tcp: self.best_stream.as_ref().map(|stream| stream.figures(&self.tcp)),
        }
    }
}

/// TCP alone, to `place`, with one congestion control after the other: `seconds` each, after a second of warm-up in which
/// lossy paths settle too.
pub fn tcp_to(place: &Place, size: usize, seconds: f64) -> Result<Vec<Tcp>> {
    let (cores, time) = (two_cores(), Duration::from_secs_f64(seconds));
    let streams = Stream::of_each_congestion(place, size, cores, time)?;
    streams
        .into_iter()
        .map(|stream| Ok(stream.figures(&stream.run(cores, Duration::from_secs(1), time)?)))
        .collect()
}

/// The longest that the kernel takes.
fn small_trains() -> Result<Flood> {
    let old = Flood { segments: OLD_SEGMENTS, ..SMALL_TRAINS };
    Ok(if SMALL_TRAINS.is_taken()? { SMALL_TRAINS } else { old })
}

/// A kernel without trains leaves a figure unknown; it is no reason to measure nothing.
fn known(flood: Result<Received>) -> Result<Received> {
    match flood {
        Err(error) if error.downcast_ref() == Some(&Errno::ENOPROTOOPT) => Ok(Received::default()),
        result => result,
    }
}

fn round_trip(histogram: &Histogram<u64>) -> RoundTrip {
    let at = |quantile| (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64);
    RoundTrip { p50: at(0.50), p99: at(0.99) }
}

/// The first two cores we may use; the same one twice if there is but one.
fn two_cores() -> (usize, usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false));
    let first = cores.next().unwrap_or(0);
    (first, cores.next().unwrap_or(first))
}

/// Pins the calling thread. Where that is not allowed the figure is still one.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_trains_leaves_the_figure_unknown() {
        let refused = |errno: Errno| Err(errno).context("UDP_GRO");
        let received = known(refused(Errno::ENOPROTOOPT)).expect("nothing to stop for");
        assert_eq!((received.per_s(), received.bits_per_s()), (None, None));
        assert!(known(refused(Errno::EPERM)).is_err());
    }

    /// What the kernel does not take is never sent, and would be measured as nothing.
    #[test]
    fn trains_are_as_long_as_the_kernel_takes() {
        let is_taken = |segments| Flood { segments, ..SMALL_TRAINS }.is_taken().expect("trains");
        let longest = if is_taken(128) { 128 } else { OLD_SEGMENTS };
        assert_eq!(small_trains().expect("trains").segments, longest);
        assert_eq!([64, 1_000].map(is_taken), [true, false]);
    }

    #[test]
    fn every_figure_is_measured() {
        let _lock = crate::lock::MeasureLock::acquire(&crate::stop::Stop::default()).expect("lock");
        let mut measure = Measure::new(64);
        measure.add(0.1).expect("loopback works");
        let figures = measure.figures();
        // How fast it is, is the machine's affair, and that of what else runs.
        let known = |value: Option<f64>| assert!(value.is_some_and(|v| v > 0.0), "{figures:?}");
        known(figures.datagrams_per_s);
        known(figures.gso_segments_per_s);
        known(figures.gso_bits_per_s);
        known(figures.pingpong_spin_ns.p50);
        known(figures.pingpong_block_ns.p50);
        let tcp = figures.tcp.as_ref().expect("measured");
        known(tcp.msgs_per_s);
        known(tcp.bits_per_s);
        assert!(!tcp.congestion.is_empty() && tcp.write_bytes > 64, "{tcp:?}");
    }
}
