//! The report for people: a table and the latency histogram.

use crate::baseline::Tcp;
use crate::distribution::Censored;
use crate::explain::SlowestReport;
use crate::report::{Percentiles, Report};
use crate::size::Size;
use hdrhistogram::Histogram;
use serde_json::Value;
use std::fmt::Write;

const BAR: usize = 40;

/// One run in full.
pub fn run(report: &Report, latency: &Histogram<u64>) -> String {
    let mut text = String::new();
    row(&mut text, "delivered", &delivered(report));
    if let Some(rate) = report.msgs_per_s {
        let ratio = report.ratio_to_datagrams.zip(report.baseline.datagrams_per_s);
        let mut against = ratio.map_or_else(String::new, |(ratio, datagrams)| {
            format!(", {ratio:.1} x the {} datagrams/s of raw sockets", count(datagrams))
        });
        // Like for like: the engine sends trains, too.
        if let Some(segments) = report.baseline.gso_segments_per_s {
            let _ = write!(
                against,
                ", {:.2} of the {} segments/s of raw trains",
                rate / segments,
                count(segments)
            );
        }
        row(&mut text, "messages/s", &format!("{}{against}", count(rate)));
    }
    if let Some(bits) = report.goodput_bits_per_s {
        let raw = report.baseline.gso_bits_per_s.map_or_else(String::new, |raw| {
            format!(", {:.2} of the {:.1} Gbit/s of raw trains", bits / raw, raw / 1e9)
        });
        row(&mut text, "goodput", &format!("{:.3} Gbit/s{raw}", bits / 1e9));
    }
    if let Some(tcp) = report.baseline.tcp.as_ref().and_then(|tcp| tcp_line(tcp, report.ratio_to_tcp)) {
        row(&mut text, "one TCP stream", &tcp);
    }
    row(&mut text, "latency", &percentiles(&report.latency_ns, report.censored.as_ref()));
    stages(&mut text, report);
    if let Some(lateness) = &report.lateness_ns {
        row(&mut text, "put late by", &percentiles(lateness, None));
    }
    if let Some(error) = &report.schedule_error_ns {
        row(&mut text, "looked late by", &percentiles(error, None));
    }
    for (name, spin) in [("raw, polling", true), ("raw, blocking", false)] {
        let trip = if spin { report.baseline.pingpong_spin_ns } else { report.baseline.pingpong_block_ns };
        if let (Some(p50), Some(p99)) = (trip.p50, trip.p99) {
            row(&mut text, name, &format!("p50 {}, p99 {} (64 B there and back)", time(p50), time(p99)));
        }
    }
    let mut counts = Vec::new();
    for (name, value) in [
        ("rows sent again", report.retransmitted),
        ("misrouted", report.misrouted),
        ("trains", report.trains),
        ("datagrams out", report.datagrams),
        ("datagrams in", report.acks),
        ("kernel drops", report.kernel_drops),
    ] {
        counts.extend(value.map(|value| format!("{name} {}", count(value as f64))));
    }
    row(&mut text, "counts", &counts.join(", "));
    if let Some(cpu) = report.cpu_s {
        let cores = cpu / report.duration_s.max(1e-9);
        row(&mut text, "cpu", &format!("{cpu:.2} s in {:.2} s, {cores:.2} cores", report.duration_s));
    }
    if let Some(books) = &report.conservation {
        let engines: u64 = books.engines.iter().map(|engine| engine.residual.unsigned_abs()).sum();
        let mut line = format!(
            "{} offered = {} delivered + {} failed; without outcome {}, in the engines' books {engines}",
            count(books.offered as f64),
            count(books.delivered as f64),
            count(books.failed as f64),
            books.residual
        );
        if let Some(datagrams) = &books.datagrams {
            let _ = write!(line, "; datagrams missing {}", datagrams.missing);
        }
        row(&mut text, "conservation", &line);
    }
    text.push_str(&histogram(latency, report.censored.as_ref()));
    text.push_str(&verdict(report));
    text
}

/// What TCP made of the same messages, and what the run comes to beside it.
fn tcp_line(tcp: &Tcp, ratio: Option<f64>) -> Option<String> {
    let (rate, bits) = tcp.msgs_per_s.zip(tcp.bits_per_s)?;
    let ratio = ratio.map_or_else(String::new, |ratio| format!("; the run is {ratio:.2} of it"));
    let (congestion, write) = (&tcp.congestion, count(tcp.write_bytes as f64));
    Some(format!(
        "{} messages/s, {:.3} Gbit/s ({congestion}, {write} B a write){ratio}",
        count(rate),
        bits / 1e9
    ))
}

/// What is used, before it starts.
pub fn settings(report: &Report) -> String {
    let loop_words = match (report.rate, &report.rate_course, &report.arrivals) {
        (Some(mean), Some(course), Some(arrivals)) => {
            let course = if course.parse::<f64>().is_ok() { String::new() } else { format!(" ({course})") };
            format!("open loop, {}/s{course}, {arrivals}", count(mean))
        }
        _ => "closed loop".to_owned(),
    };
    let deadline = report.deadline_ms.map_or_else(String::new, |ms| format!(", deadline {ms} ms"));
    let unusual = |name: &str, value: &Option<String>, usual: &str| {
        let value = value.as_deref().filter(|&value| value != usual);
        value.map_or_else(String::new, |value| format!(", {name} {value}"))
    };
    let priority = unusual("priority", &report.priority, "normal");
    let level = unusual("level", &report.level, "accepted");
    let lane = report.lane.map_or_else(String::new, |lane| format!(", lane {lane}"));
    let buffer = report.rcvbuf_bytes.map_or_else(|| "unknown".to_owned(), |bytes| Size(bytes).to_string());
    let shards = format!(
        "{} shard{} a side{}",
        report.shards,
        if report.shards == 1 { "" } else { "s" },
        if report.pinned { ", pinned" } else { "" }
    );
    let peers = match (report.peers, report.peer_skew) {
        (0 | 1, _) => String::new(),
        (count, 0.0) => format!(", {count} peers"),
        (count, skew) => format!(", {count} peers of skew {skew}"),
    };
    let messages = match (&report.sizes, report.size_mean) {
        (Some(sizes), Some(mean)) => {
            format!(
                "{} messages of {sizes} B (mean {}), seed {}",
                report.mode,
                count(mean),
                report.seed.unwrap_or(0)
            )
        }
        _ => format!("{} {} B messages", report.mode, report.size),
    };
    if report.driver == "sockets" {
        let buffer =
            report.rcvbuf_bytes.map_or_else(String::new, |_| format!(", socket receive buffer {buffer}"));
        return format!(
            "{messages}, {loop_words}, up to {} in flight{deadline}\n{shards}{peers}, {}{buffer}",
            report.in_flight, report.driver_reason
        );
    }
    format!(
        "{messages}, wire {}, api {}, {loop_words}, up to {} in flight{deadline}{priority}{level}{lane}\n\
         {shards}{peers}, driver {} ({})\n\
         rows up to {} bytes{}, window {}, socket receive buffer {buffer}",
        report.wire,
        report.api,
        report.in_flight,
        report.driver,
        report.driver_reason,
        report.row_bytes,
        match (report.gso, report.gro) {
            (true, true) => "",
            (true, false) => ", no trains in",
            (false, true) => ", no trains out",
            (false, false) => ", no trains",
        },
        Size(report.window_bytes),
    )
}

/// How a figure is printed.
type Format = fn(f64) -> String;

/// Several runs in short: the medians on top of the JSON report, and how far the runs lie apart.
pub fn medians(value: &Value) -> String {
    let runs = value["runs"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = format!("medians of {} runs (least to most)\n", runs.len());
    let rows: [(&str, &str, Format); 11] = [
        ("messages/s", "/msgs_per_s", count),
        ("goodput", "/goodput_bits_per_s", |bits| format!("{:.3} Gbit/s", bits / 1e9)),
        ("latency p50", "/latency_ns/p50", time),
        ("latency p99", "/latency_ns/p99", time),
        ("latency p99.9", "/latency_ns/p99_9", time),
        ("raw datagrams/s", "/baseline/datagrams_per_s", count),
        ("ratio to them", "/ratio_to_datagrams", |ratio| format!("{ratio:.2} x")),
        ("raw segments/s", "/baseline/gso_segments_per_s", count),
        ("ratio to them", "/ratio_to_segments", |ratio| format!("{ratio:.2} x")),
        ("TCP messages/s", "/baseline/tcp/msgs_per_s", count),
        ("ratio to them", "/ratio_to_tcp", |ratio| format!("{ratio:.2} x")),
    ];
    for (name, path, format) in rows {
        let Some(median) = value.pointer(path).and_then(Value::as_f64) else { continue };
        let of_runs = runs.iter().filter_map(|run| run.pointer(path)?.as_f64());
        let (least, most) =
            of_runs.fold((f64::MAX, f64::MIN), |(least, most), x| (least.min(x), most.max(x)));
        let _ = writeln!(text, "  {name:<16} {:<14} ({} to {})", format(median), format(least), format(most));
    }
    if let Some(reason) = value["invalid_reason"].as_str() {
        let _ = writeln!(text, "  not valid: {reason}");
    }
    for cause in value["causes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let _ = writeln!(text, "  FAILED: {cause}");
    }
    text
}

fn row(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<14} {value}");
}

fn delivered(report: &Report) -> String {
    let share = report.delivered as f64 / report.offered.max(1) as f64 * 100.0;
    let mut text =
        format!("{} of {} ({share:.4} %)", count(report.delivered as f64), count(report.offered as f64));
    for (cause, lost) in &report.failed {
        let _ = write!(text, ", {cause} {lost}");
    }
    if let Some(late) = report.answered_late.filter(|&late| late > 0) {
        let _ = write!(text, ", answered too late {late}");
    }
    for (name, value) in
        [("twice", report.duplicates), ("corrupted", report.corrupted), ("missing", report.missing)]
    {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {value}");
        }
    }
    text
}

/// The histograms of single stages, in short.
fn stages(text: &mut String, report: &Report) {
    let Some(stages) = &report.stages_ns else { return };
    for (name, stage) in [
        ("  queued", &stages.queue_wait),
        ("  round trip", &stages.round_trip),
        ("  lost once", &stages.sent_again_once),
        ("  lost more", &stages.sent_again_more),
        ("  to receiver", &stages.to_receiver),
        ("  queued there", &stages.receiver_queue),
    ] {
        if stage.messages > 0 {
            let messages = count(stage.messages as f64);
            row(text, name, &format!("{} ({messages} messages)", percentiles(&stage.percentiles, None)));
        }
    }
}

/// Where the slowest messages spent their time.
pub fn slowest(slowest: &SlowestReport) -> String {
    let mut text = format!(
        "the slowest {} %: {} of {} messages",
        slowest.share * 100.0,
        count((slowest.delivered + slowest.undelivered) as f64),
        count(slowest.messages as f64)
    );
    if slowest.undelivered > 0 {
        let _ = write!(text, ", {} never delivered", count(slowest.undelivered as f64));
    }
    if slowest.delivered == 0 {
        return text + "\n";
    }
    let _ = write!(text, ", the others {} or more", time(slowest.from_ns as f64));
    if let Some(sent_again) = slowest.sent_again {
        let _ = write!(text, "; {} sent again in part", count(sent_again as f64));
    }
    text.push('\n');
    let whole: f64 = slowest.mean_ns.values().sum();
    let of_all: f64 = slowest.mean_of_all_ns.values().sum();
    let _ = writeln!(text, "  {:<14} {:>12} {:>7}   {:>12} {:>7}", "mean", "slowest", "", "all", "");
    for (part, ns) in slowest.in_order() {
        let all = slowest.mean_of_all_ns.get(part).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "  {part:<14} {:>12} {:>5.1} %   {:>12} {:>5.1} %",
            time(ns),
            ns / whole.max(1.0) * 100.0,
            time(all),
            all / of_all.max(1.0) * 100.0
        );
    }
    text
}

fn percentiles(latency: &Percentiles, censored: Option<&Censored>) -> String {
    let cells = [
        ("p50", latency.p50),
        ("p90", latency.p90),
        ("p99", latency.p99),
        ("p99.9", latency.p99_9),
        ("p99.99", latency.p99_99),
        ("max", latency.max),
    ];
    let is_bound = |name: &str| {
        let field = name.replace('.', "_");
        censored.is_some_and(|censored| censored.percentiles.contains(&field))
    };
    let known: Vec<String> = cells
        .iter()
        .filter_map(|(name, value)| {
            let sign = if is_bound(name) { ">= " } else { "" };
            Some(format!("{name} {sign}{}", time((*value)? as f64)))
        })
        .collect();
    if known.is_empty() { "nothing measured".to_owned() } else { known.join(", ") }
}

fn verdict(report: &Report) -> String {
    let mut text = String::new();
    if let Some(reason) = &report.invalid_reason {
        let _ = writeln!(text, "  not valid: {reason}");
    }
    for cause in &report.causes {
        let _ = writeln!(text, "  FAILED: {cause}");
    }
    text
}

/// Bars between 1-2-5 steps, and a line for what never arrived.
pub fn histogram(latency: &Histogram<u64>, censored: Option<&Censored>) -> String {
    let all = latency.len() + censored.map_or(0, |censored| censored.messages);
    let share = |count: u64| count as f64 / all as f64 * 100.0;
    let mut text = String::new();
    let bins = bins(latency);
    let most = bins.iter().map(|bin| bin.1).max().unwrap_or(1).max(1);
    for &(edge, hits) in &bins {
        let bar = "#".repeat((hits as f64 / most as f64 * BAR as f64).ceil() as usize);
        let below = format!("< {}", time(edge as f64));
        let _ = writeln!(text, "  {below:>14} {:>8.4} % |{bar}", share(hits));
    }
    if let Some(censored) = censored {
        let _ = writeln!(text, "  {:>14} {:>8.4} % never arrived", "", share(censored.messages));
    }
    text
}

/// (upper edge, count) of the steps from the least latency to the greatest.
fn bins(latency: &Histogram<u64>) -> Vec<(u64, u64)> {
    if latency.is_empty() {
        return Vec::new();
    }
    let mut edges = Vec::new();
    let mut decade: u64 = 1;
    while decade <= latency.max() {
        edges.extend([1, 2, 5].map(|step| decade * step));
        decade *= 10;
    }
    edges.push(decade);
    let bins: Vec<(u64, u64)> =
        edges.windows(2).map(|edge| (edge[1], latency.count_between(edge[0], edge[1] - 1))).collect();
    let first = bins.iter().position(|bin| bin.1 > 0).unwrap_or(0);
    let last = bins.iter().rposition(|bin| bin.1 > 0).unwrap_or(0);
    bins[first..=last].to_vec()
}

/// 1,234,567.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Nanoseconds in the unit that reads best.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => return format!("{ns:.0} ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let text = if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"].map(String::from),
            [0.0, 999.0, 1e3, 1_234_567.0].map(count)
        );
        assert_eq!(time(950.0), "950 ns");
        assert_eq!(time(1_500.0), "1.5 us");
        assert_eq!(time(250_000.0), "250 us");
        assert_eq!(time(2e9), "2 s");
    }

    /// The engine sends trains, so trains are what it is to be held against.
    #[test]
    fn every_baseline_is_shown() {
        let mut report = Report { msgs_per_s: Some(2e6), ratio_to_datagrams: Some(8.0), ..Report::default() };
        report.baseline.datagrams_per_s = Some(250e3);
        report.baseline.gso_segments_per_s = Some(8e6);
        report.ratio_to_tcp = Some(0.125);
        report.baseline.tcp = Some(Tcp {
            msgs_per_s: Some(16e6),
            bits_per_s: Some(8.192e9),
            congestion: "cubic".into(),
            write_bytes: 65_484,
        });
        let text = run(&report, &crate::record::latency_histogram());
        assert!(text.contains("8.0 x the 250,000 datagrams/s of raw sockets"), "{text}");
        assert!(text.contains("0.25 of the 8,000,000 segments/s of raw trains"), "{text}");
        let tcp = "16,000,000 messages/s, 8.192 Gbit/s (cubic, 65,484 B a write); the run is 0.12 of it";
        assert!(text.contains(tcp), "{text}");
    }

    #[test]
    fn the_bars_hold_every_value() {
        let mut latency = crate::record::latency_histogram();
        for ns in [1, 900, 1_000, 1_500, 40_000, 60_000_000] {
            latency.record(ns).expect("in range");
        }
        let text = histogram(&latency, None);
        assert_eq!(text.lines().next().map(|line| line.contains("< 2 ns")), Some(true), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.contains("< 100 ms")), "{text}");
        let sum: f64 = text
            .lines()
            .filter_map(|line| line.split_once('%')?.0.split_whitespace().last()?.parse::<f64>().ok())
            .sum();
        assert!((sum - 100.0).abs() < 0.01, "{text}");
    }
}
