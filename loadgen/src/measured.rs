//! From books and counters to a report.

use crate::baseline::Baseline;
use crate::cli::EngineFlags;
use crate::clock;
use crate::conduct::Conducted;
use crate::conserve::Conservation;
use crate::distribution::Distribution;
use crate::environment::Environment;
use crate::explain::{self, StagePercentiles};
use crate::judge::Verdict;
use crate::ledger::{self, EndLedger};
use crate::plan::Plan;
use crate::record::ClientRecord;
use crate::report::{Percentiles, Report};
use crate::setup::Reach;
use crate::words::Words;
use udp_plus::{Engine, Ledger, Stats};

/// The fields that are known before the start.
pub fn settings(
    plan: &Plan,
    flags: &EngineFlags,
    reach: Reach,
    engine: &Engine,
    environment: &Environment,
) -> Report {
    Report {
        schema: 1,
        wire: flags.wire.to_string(),
        peer_wire: flags.peer_wire.iter().map(ToString::to_string).collect(),
        cc: flags.has_binary().then(|| flags.cc.to_string()),
        mode: plan.mode.to_string(),
        api: plan.api.to_string(),
        driver: engine.driver().kind.to_string(),
        driver_reason: engine.driver().reason.clone(),
        shards: flags.shards.into(),
        size: plan.size as u64,
        row_bytes: reach.row_bytes.into(),
        window_bytes: reach.window_bytes.into(),
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
        gso: !flags.no_gso,
        gro: !flags.no_gro,
        warm_up_s: plan.warm_up.as_secs_f64(),
        rcvbuf_bytes: Some(engine.rcvbuf_bytes().into()),
        environment: environment.clone(),
        ..Report::default()
    }
}

/// Adds what was measured. `stats` are those of all engines at work in this process, the generating end's first;
/// `both_ends` says whether that is all there are.
pub fn add(
    report: &mut Report,
    plan: &Plan,
    client: &ClientRecord,
    stats: &[Stats],
    both_ends: bool,
    conducted: &Conducted,
    verdict: Verdict,
) {
    let (begin, end) = client.window_ns;
    let seconds = end.saturating_sub(begin) as f64 / 1e9;
    let per_s = (seconds > 0.0).then(|| client.delivered_in_window as f64 / seconds);
    let sum = |label: &str| Some(stats.iter().map(|stats| stats.total.get(label)).sum());
    report.duration_s = seconds;
    report.offered = client.offered;
    let is_open = plan.open_loop.is_some();
    report.not_offered = is_open.then_some(client.not_offered);
    report.delivered = client.delivered;
    report.failed = client.failed.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect();
    report.delivered_in_window = client.delivered_in_window;
    report.msgs_per_s = per_s;
    report.goodput_bits_per_s = per_s.map(|rate| rate * plan.size as f64 * 8.0);
    let distribution = Distribution::new(&client.latency, client.undelivered(), clock::ns(plan.deadline()));
    report.latency_ns = distribution.percentiles();
    report.delivered_within = distribution.delivered_within();
    report.censored = distribution.censored();
    report.stages_ns = client.stages.as_ref().map(|stages| StagePercentiles::from(&**stages));
    report.slowest = client.stages.as_ref().map(|stages| explain::slowest(stages, client.undelivered()));
    report.lateness_ns = is_open.then(|| Percentiles::from(&client.lateness));
    report.schedule_error_ns = is_open.then(|| Percentiles::from(&client.schedule_error));
    report.cpu_s = Some(conducted.usage.own_s);
    report.retransmitted = sum("rows_retransmitted");
    report.misrouted = sum("misrouted");
    report.trains = sum("trains_sent");
    let near = |label: &str| stats.first().map(|stats| stats.total.get(label));
    report.datagrams = near("datagrams_sent");
    report.acks = near("datagrams_received");
    report.mtu = stats.first().and_then(|stats| stats.datagram_bytes).map(u64::from);
    let drops: Option<u64> = stats.iter().map(|stats| stats.kernel_drops).sum();
    report.kernel_drops = drops.filter(|_| both_ends);
    report.other_load_cores = conducted.usage.other_cores;
    report.steal_cores = conducted.usage.steal_cores;
    report.duplicates = verdict.duplicates;
    report.corrupted = verdict.corrupted;
    report.missing = verdict.missing;
    report.echoes_missing = verdict.echoes_missing;
    let conservation = Conservation::new(client, stats, both_ends);
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
pub fn add_ledgers(report: &mut Report, ledgers: &[(&str, &Ledger)], words: Option<Words>) {
    report.ledger = Some(ledgers.iter().map(|(end, ledger)| EndLedger::new(end, ledger)).collect());
    report.causes.extend(report.ledger.iter().flatten().filter_map(EndLedger::cause));
    report.ok = report.causes.is_empty();
    if let Some(words) = words {
        words.say(&ledger::show(ledgers));
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
