//! From books and counters to a report.

use crate::baseline::Baseline;
use crate::cli::{EngineFlags, Mode, Protocol};
use crate::clock;
use crate::conduct::Conducted;
use crate::conserve::Conservation;
use crate::distribution::Distribution;
use crate::end_books::EndBooks;
use crate::environment::Environment;
use crate::explain::{self, StagePercentiles};
use crate::judge::Verdict;
use crate::ledger::EndLedger;
use crate::plan::Plan;
use crate::record::ClientRecord;
use crate::report::{Percentiles, Report};
use crate::setup::Reach;
use crate::words::Words;
use udp_plus::Engine;

/// What an end is made of.
#[derive(Clone, Debug)]
pub struct Machinery {
    /// How it reaches the kernel.
    pub driver: String,
    /// Why so.
    pub reason: String,
    /// The receive buffer its sockets were granted, the least; `None`: the kernel sizes it by itself.
    pub rcvbuf_bytes: Option<u64>,
}

impl Machinery {
    /// An engine.
    pub fn of_engine(engine: &Engine) -> Self {
        let driver = engine.driver();
        Self {
            driver: driver.kind.to_string(),
            reason: driver.reason.clone(),
            rcvbuf_bytes: Some(engine.rcvbuf_bytes().into()),
        }
    }
}

/// The fields that are known before the start.
pub fn settings(
    plan: &Plan,
    flags: &EngineFlags,
    reach: Reach,
    machinery: &Machinery,
    environment: &Environment,
) -> Report {
    let is_plain = plan.protocol != Protocol::UdpPlus;
    Report {
        schema: 1,
        protocol: plan.protocol.to_string(),
        wire: if is_plain { "none".to_owned() } else { flags.wire.to_string() },
        peer_wire: flags.peer_wire.iter().map(ToString::to_string).collect(),
        cc: flags.has_binary().then(|| flags.cc.to_string()),
        mode: plan.mode.to_string(),
        api: if is_plain { "sockets".to_owned() } else { plan.api.to_string() },
        driver: machinery.driver.clone(),
        driver_reason: machinery.reason.clone(),
        shards: flags.shards.into(),
        peers: plan.peers.count as u64,
        peer_skew: plan.peers.skew,
        size: plan.size as u64,
        sizes: plan.lengths.if_fixed().is_none().then(|| plan.size_words.clone()),
        size_mean: Some(plan.lengths.mean()),
        seed: Some(plan.seed),
        row_bytes: if is_plain { 0 } else { reach.row_bytes.into() },
        window_bytes: if is_plain { 0 } else { reach.window_bytes.into() },
        in_flight: plan.in_flight as u64,
        load_model: if plan.open_loop.is_some() { "open" } else { "closed" }.to_owned(),
        rate: plan.open_loop.as_ref().map(|open_loop| open_loop.mean_rate),
        rate_course: plan.open_loop.as_ref().map(|_| plan.rate_words.clone()),
        arrivals: plan.open_loop.as_ref().map(|open_loop| open_loop.arrivals().to_string()),
        deadline_ms: plan.terms.deadline.map(|deadline| deadline.as_millis() as u64),
        priority: flags.has_binary().then(|| plan.terms.priority.to_string()),
        level: flags.has_binary().then(|| plan.terms.level.to_string()),
        lane: plan.terms.lane,
        spin_us: flags.spin_us.into(),
        pinned: flags.pin,
        gso: !is_plain && !flags.no_gso,
        gro: !is_plain && !flags.no_gro,
        warm_up_s: plan.warm_up.as_secs_f64(),
        rcvbuf_bytes: machinery.rcvbuf_bytes,
        environment: environment.clone(),
        ..Report::default()
    }
}

/// Adds what was measured. `ends` are those in this process, the generating one first: two are all there are.
pub fn add(
    report: &mut Report,
    plan: &Plan,
    client: &ClientRecord,
    ends: &[&EndBooks],
    conducted: &Conducted,
    verdict: Verdict,
) {
    let (begin, end) = client.window_ns;
    let seconds = end.saturating_sub(begin) as f64 / 1e9;
    let per_s = (seconds > 0.0).then(|| client.delivered_in_window as f64 / seconds);
    let sum = |count: fn(&EndBooks) -> Option<u64>| ends.iter().map(|end| count(end)).sum::<Option<u64>>();
    report.duration_s = seconds;
    report.offered = client.offered;
    let is_open = plan.open_loop.is_some();
    report.not_offered = is_open.then_some(client.not_offered);
    report.delivered = client.delivered;
    report.failed = client.failed.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect();
    report.answered_late = (plan.protocol != Protocol::UdpPlus).then_some(client.answered_late);
    report.delivered_in_window = client.delivered_in_window;
    report.msgs_per_s = per_s;
    report.goodput_bits_per_s =
        (seconds > 0.0).then(|| client.delivered_bytes_in_window as f64 * 8.0 / seconds);
    let distribution = Distribution::new(&client.latency, client.undelivered(), clock::ns(plan.deadline()));
    report.latency_ns = distribution.percentiles();
    report.delivered_within = distribution.delivered_within();
    report.censored = distribution.censored();
    report.stages_ns = client.stages.as_ref().map(|stages| StagePercentiles::from(&**stages));
    let is_echo = plan.mode == Mode::Echo;
    report.slowest =
        client.stages.as_ref().map(|stages| explain::slowest(stages, is_echo, client.undelivered()));
    report.lateness_ns = is_open.then(|| Percentiles::from(&client.lateness));
    report.schedule_error_ns = is_open.then(|| Percentiles::from(&client.schedule_error));
    report.cpu_s = Some(conducted.usage.own_s);
    report.retransmitted = sum(|end| end.retransmitted);
    report.misrouted = sum(|end| end.misrouted);
    report.trains = sum(|end| end.trains);
    let near = ends.first();
    report.datagrams = near.and_then(|near| near.datagrams_sent);
    report.acks = near.and_then(|near| near.datagrams_received);
    report.mtu = near.and_then(|near| near.mtu);
    let both_ends = ends.len() == 2;
    report.kernel_drops = sum(|end| end.kernel_drops).filter(|_| both_ends);
    report.other_load_cores = conducted.usage.other_cores;
    report.steal_cores = conducted.usage.steal_cores;
    report.duplicates = verdict.duplicates;
    report.corrupted = verdict.corrupted;
    report.missing = verdict.missing;
    report.echoes_missing = verdict.echoes_missing;
    let conservation = Conservation::new(client, ends);
    report.causes = verdict.causes;
    report.causes.extend(conservation.causes());
    report.conservation = Some(conservation);
    report.ok = report.causes.is_empty();
    report.invalid_reason = if conducted.interrupted {
        Some(format!("interrupted after {seconds:.1} of {:.1} s", plan.duration.as_secs_f64()))
    } else if client.not_offered > 0 {
        // Their waiting is in no figure: the slowest messages of all are missing.
        Some(format!("the rate was not kept: {} messages were due and never put", client.not_offered))
    } else {
        schedule_reason(plan, client).or_else(|| conducted.usage.invalid_reason())
    };
    report.valid = report.invalid_reason.is_none();
}

/// Why the generator's own lateness spoils the run, if it does: then what was sent is not what was planned, and a burst that
/// the generator made out of its backlog is no burst that was asked for.
fn schedule_reason(plan: &Plan, client: &ClientRecord) -> Option<String> {
    let p99 = client.schedule_error.value_at_quantile(0.99);
    let most = clock::ns(plan.late_max);
    (plan.open_loop.is_some() && p99 > most).then(|| {
        format!(
            "the generator fell behind its schedule: by {} or more in 1 of 100 messages, {} is allowed (--late-max-us)",
            crate::show::time(p99 as f64),
            crate::show::time(most as f64)
        )
    })
}

/// Adds the ledgers, what is wrong with them, and their words if they are asked for.
pub fn add_ledgers(report: &mut Report, ends: &[&EndBooks], words: Option<Words>) {
    report.ledger = ends.iter().map(|end| end.ledger.clone()).collect();
    report.causes.extend(report.ledger.iter().flatten().filter_map(EndLedger::cause));
    report.ok = report.causes.is_empty();
    if let Some(words) = words {
        words.say(&ends.iter().map(|end| end.ledger_words.as_str()).collect::<String>());
    }
}

/// Adds the baseline, and why it is not to be trusted, if so.
pub fn add_baseline(report: &mut Report, baseline: Baseline, invalid_reason: Option<String>) {
    report.ratio_to_datagrams =
        report.msgs_per_s.zip(baseline.datagrams_per_s).map(|(rate, datagrams)| rate / datagrams);
    report.ratio_to_segments =
        report.msgs_per_s.zip(baseline.gso_segments_per_s).map(|(rate, segments)| rate / segments);
    let tcp = baseline.tcp.as_ref().and_then(|tcp| tcp.msgs_per_s);
    report.ratio_to_tcp = report.msgs_per_s.zip(tcp).map(|(rate, tcp)| rate / tcp);
    report.baseline = baseline;
    if report.invalid_reason.is_none()
        && let Some(reason) = invalid_reason
    {
        report.invalid_reason = Some(format!("during the baseline {reason}"));
        report.valid = false;
    }
}
