//! What a run was like second by second: for the live line, the CSV and the log of histograms.
//!
//! Nobody waits: the main thread asks for a cut, each generator swaps its histogram for an empty one at its next turn, and the
//! main thread finds it there later. The histogram of the whole run is the sum of them and of what generators hold at the end.

use crate::record::latency_histogram;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// Between generators and the main thread.
#[derive(Debug)]
pub struct Exchange {
    cuts: AtomicU64,
    places: Box<[Mutex<Place>]>,
}

/// Messages that have ended since the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Those that were delivered.
    pub delivered: u64,
    /// Those that failed.
    pub failed: u64,
}

/// A histogram that is on its way: full ones to the main thread, empty ones back.
#[derive(Debug)]
struct Place {
    histogram: Histogram<u64>,
    is_full: bool,
    /// By that cut, so that counts and latencies are of the same messages.
    ended: Ended,
    /// The last cut that was answered.
    cut: u64,
}

impl Exchange {
    /// For so many generators.
    pub fn new(generators: usize) -> Self {
        let place = |_| {
            Mutex::new(Place {
                histogram: latency_histogram(),
                is_full: false,
                ended: Ended::default(),
                cut: 0,
            })
        };
        Self { cuts: AtomicU64::new(0), places: (0..generators).map(place).collect() }
    }

    /// Asks for a cut.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::Relaxed);
    }

    /// How many cuts were asked for: a generator that has answered fewer is to answer.
    #[inline]
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Generator `index`, of whose messages so many have `ended`, answers cut number `cut`, if the main thread has fetched its last
    /// histogram. Never waits.
    pub fn answer(&self, index: usize, cut: u64, ended: Ended, latency: &mut Histogram<u64>) -> bool {
        let Some(mut place) = self.places[index].try_lock().ok().filter(|place| !place.is_full) else {
            return false;
        };
        std::mem::swap(&mut place.histogram, latency);
        (place.is_full, place.ended, place.cut) = (true, ended, cut);
        true
    }

    /// Fetches what is there; what had ended by the last cut, if every generator has answered it.
    pub fn collect(&self, into: &mut Histogram<u64>) -> Option<Ended> {
        let cut = self.cuts();
        let (mut all, mut sum) = (true, Ended::default());
        for place in &self.places {
            let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
            if place.is_full {
                // Same bounds: cannot fail.
                let _ = into.add(&place.histogram);
                place.histogram.reset();
                place.is_full = false;
            }
            all &= place.cut == cut;
            sum.delivered += place.ended.delivered;
            sum.failed += place.ended.failed;
        }
        all.then_some(sum)
    }
}

/// What happened within an interval beside latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Messages delivered.
    pub delivered: u64,
    /// Messages that failed.
    pub failed: u64,
    /// Messages under way at its end.
    pub in_flight: u64,
    /// Packets that kernels dropped at the sockets of this process; `None`: unknown.
    pub kernel_drops: Option<u64>,
}

/// The intervals of one run, as text. An interval's latencies are those of the messages that *ended* in it.
#[derive(Debug, Default)]
pub struct Intervals {
    /// Lines of a log of histograms (HdrHistogram V2, compressed), without its head.
    pub hdr: Vec<u8>,
    /// Lines of a table: [`CSV_HEAD`] without the run.
    pub csv: Vec<String>,
}

/// The first line of the table.
pub const CSV_HEAD: &str = "run,start_s,seconds,delivered,failed,in_flight,kernel_drops,msgs_per_s,p50_ns,p90_ns,p99_ns,p99_9_ns,max_ns";

impl Intervals {
    /// Adds an interval, by times since the start of the run.
    pub fn add(&mut self, from: Duration, to: Duration, latency: &Histogram<u64>, counts: Counts) {
        let seconds = to.saturating_sub(from).as_secs_f64();
        self.add_hdr(from, to, latency, None);
        let mut line = format!(
            "{:.3},{seconds:.3},{},{},{},",
            from.as_secs_f64(),
            counts.delivered,
            counts.failed,
            counts.in_flight
        );
        // Writing to a string cannot fail.
        let _ = match counts.kernel_drops {
            Some(drops) => write!(line, "{drops},"),
            None => write!(line, ","),
        };
        let _ = write!(line, "{:.1}", counts.delivered as f64 / seconds.max(1e-9));
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let _ = match latency.is_empty() {
                true => write!(line, ","),
                false => write!(line, ",{}", latency.value_at_quantile(quantile)),
            };
        }
        self.csv.push(line);
    }

    /// Adds what never arrived, as if it had at its deadline, under a tag of its own.
    pub fn add_undelivered(&mut self, to: Duration, messages: u64, at_least_ns: u64) {
        if messages > 0 {
            let mut histogram = latency_histogram();
            histogram.saturating_record_n(at_least_ns, messages);
            self.add_hdr(Duration::ZERO, to, &histogram, Tag::new("undelivered"));
        }
    }

    fn add_hdr(&mut self, from: Duration, to: Duration, latency: &Histogram<u64>, tag: Option<Tag<'_>>) {
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        // The format's own tools expect the greatest value in milliseconds here, for nanoseconds in the histogram. The
        // divisor is a line of its own, which is written once, at the head.
        let builder = builder.with_max_value_divisor(1e6);
        let mut line = Vec::new();
        let written = builder
            .begin_log_with(&mut line, &mut serializer)
            .map_err(anyhow::Error::from)
            .and_then(|mut log| {
                log.write_histogram(latency, from, to.saturating_sub(from), tag)
                    .map_err(|error| anyhow::anyhow!("{error}"))
            });
        // Memory is all it is written to, and the bounds are those of the format: it cannot fail.
        debug_assert!(written.is_ok(), "{written:?}");
        let begin = line.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.hdr.extend_from_slice(&line[begin..]);
    }
}

/// The head of a log of histograms for a run that began then, in seconds since the Unix epoch.
pub fn hdr_head(run: u32, began_s: f64) -> Vec<u8> {
    let mut head = Vec::new();
    let mut builder = IntervalLogWriterBuilder::new();
    let began = UNIX_EPOCH + Duration::from_secs_f64(began_s.max(0.0));
    builder
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("udp-plus {}, run {run}, latencies in nanoseconds", env!("CARGO_PKG_VERSION")))
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(1e6);
    let mut serializer = V2DeflateSerializer::new();
    // To memory: cannot fail.
    let _ = builder.begin_log_with(&mut head, &mut serializer);
    head.extend_from_slice(
        b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
    head
}

/// The sum of a log's intervals with this tag: what other tools do with the file.
#[cfg(test)]
pub fn sum_of_log(log: &[u8], tag: Option<&str>) -> Histogram<u64> {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    let mut sum = latency_histogram();
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.expect("a log") else { continue };
        if interval.tag().map(|tag| tag.as_str()) != tag {
            continue;
        }
        let encoded = base64_simd::STANDARD.decode_to_vec(interval.encoded_histogram()).expect("base64");
        let histogram: Histogram<u64> = Deserializer::new().deserialize(&mut encoded.as_slice()).expect("V2");
        sum.add(&histogram).expect("same bounds");
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generators_answer_once_and_lose_nothing() {
        let exchange = Exchange::new(2);
        let (mut a, mut b, mut sum) = (latency_histogram(), latency_histogram(), latency_histogram());
        let ended = |delivered| Ended { delivered, failed: 1 };
        a.saturating_record(10);
        exchange.cut();
        assert!(exchange.answer(0, 1, ended(1), &mut a) && a.is_empty());
        assert!(exchange.collect(&mut sum).is_none(), "the other one has not answered");
        assert_eq!(sum.len(), 1);
        b.saturating_record_n(20, 5);
        assert!(exchange.answer(1, 1, ended(5), &mut b));
        a.saturating_record(30);
        exchange.cut();
        assert!(exchange.answer(0, 2, ended(2), &mut a));
        b.saturating_record(40);
        assert!(!exchange.answer(1, 2, ended(6), &mut b), "its last one is still there");
        assert!(exchange.collect(&mut sum).is_none());
        assert!(exchange.answer(1, 2, ended(7), &mut b));
        assert_eq!(exchange.collect(&mut sum), Some(Ended { delivered: 9, failed: 2 }));
        assert_eq!((sum.len(), sum.max(), a.len() + b.len()), (8, 40, 0));
    }

    #[test]
    fn the_log_reads_back() {
        let mut intervals = Intervals::default();
        let second = Duration::from_secs(1);
        let mut whole = latency_histogram();
        for n in 1..=3_u32 {
            let mut latency = latency_histogram();
            (1..=1_000_u64).for_each(|us| latency.saturating_record(us * 1_000 * u64::from(n)));
            whole.add(&latency).expect("same bounds");
            let counts = Counts { delivered: 1_000, kernel_drops: (n > 1).then_some(7), ..Counts::default() };
            intervals.add(second * (n - 1), second * n, &latency, counts);
        }
        intervals.add(second * 3, second * 4, &latency_histogram(), Counts::default());
        intervals.add_undelivered(second * 4, 12, 2_000_000_000);
        let log = [hdr_head(1, 1.7e9), intervals.hdr].concat();
        assert_eq!(sum_of_log(&log, None), whole);
        assert_eq!(sum_of_log(&log, Some("undelivered")).len(), 12);
        let text = String::from_utf8(log).expect("text");
        assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
        assert_eq!(text.matches("MaxValueDivisor").count(), 1, "{text}");
        assert!(text.contains("\n1.000,1.000,2.0"), "the second interval, 2 ms at most: {text}");
        let columns = CSV_HEAD.split(',').count() - 1;
        assert!(intervals.csv.iter().all(|line| line.split(',').count() == columns), "{:?}", intervals.csv);
        assert!(intervals.csv[1].starts_with("1.000,1.000,1000,0,0,7,1000.0,100"), "{:?}", intervals.csv);
    }
}
