//! The report, schema 1, as JSON. What is unknown is null. Fields may be added, never changed.

use crate::baseline::Baseline;
use crate::conserve::Conservation;
use crate::distribution::{Censored, Fractions};
use crate::environment::Environment;
use crate::explain::{SlowestReport, StagePercentiles};
use crate::ledger::EndLedger;
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Percentiles of a latency, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half are no slower.
    pub p50: Option<u64>,
    /// 90 % are no slower.
    pub p90: Option<u64>,
    /// 99 % are no slower.
    pub p99: Option<u64>,
    /// 99.9 % are no slower.
    pub p99_9: Option<u64>,
    /// 99.99 % are no slower.
    pub p99_99: Option<u64>,
    /// The slowest.
    pub max: Option<u64>,
}

impl From<&Histogram<u64>> for Percentiles {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self::of([0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(|quantile| {
            (!histogram.is_empty()).then(|| match quantile {
                1.0 => histogram.max(),
                quantile => histogram.value_at_quantile(quantile),
            })
        }))
    }
}

impl Percentiles {
    /// From the lowest to the highest.
    pub const fn of([p50, p90, p99, p99_9, p99_99, max]: [Option<u64>; 6]) -> Self {
        Self { p50, p90, p99, p99_9, p99_99, max }
    }
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// 1.
    pub schema: u64,
    /// What carried the messages: `udp-plus`, `udp` or `tcp`.
    #[serde(default)]
    pub protocol: String,
    /// Wire format; `none`: plain sockets.
    pub wire: String,
    /// Wire format of single peers, as given; left out where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peer_wire: Vec<String>,
    /// Payload bytes of the longest datagram of the binary wire in use at the end, as the path was found to carry it; null
    /// where no flow of it was opened.
    pub mtu: Option<u64>,
    /// Congestion control of the binary wire; null over CSV.
    pub cc: Option<String>,
    /// `sink` or `echo`.
    pub mode: String,
    /// `actor` or `buckets`; `sockets`: there is no engine.
    pub api: String,
    /// `uring` or `mmsg`; `sockets`: there is no engine.
    pub driver: String,
    /// Why this one.
    pub driver_reason: String,
    /// Per side; with several peers, per engine of the near side.
    pub shards: u64,
    /// Those who sent.
    #[serde(default)]
    pub peers: u64,
    /// The n-th of them sent n^skew times less than the first.
    #[serde(default)]
    pub peer_skew: f64,
    /// Where to, as given, with weights; left out where both ends are here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Payload bytes of a message, the longest.
    pub size: u64,
    /// `--size` as given, if it is a mix.
    #[serde(default)]
    pub sizes: Option<String>,
    /// Payload bytes of a message, the mean.
    #[serde(default)]
    pub size_mean: Option<f64>,
    /// What was drawn at random was drawn from this.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Longest row.
    pub row_bytes: u64,
    /// Rows in flight to one peer, in memory there.
    pub window_bytes: u64,
    /// Most messages under way.
    pub in_flight: u64,
    /// `open`: messages are due by a schedule, whatever became of those before. `closed`: the next one is put when one ends,
    /// so that a stall holds back what would have shown it. Latencies of the two are not to be compared.
    #[serde(default)]
    pub load_model: String,
    /// Messages a second asked for, the mean of the window; null: no limit.
    pub rate: Option<f64>,
    /// `--rate` as given.
    #[serde(default)]
    pub rate_course: Option<String>,
    /// `even`, `poisson` or `burst:COUNT`.
    #[serde(default)]
    pub arrivals: Option<String>,
    /// How long a message is worth delivering, if not as the engine has it.
    pub deadline_ms: Option<u64>,
    /// `low`, `normal`, `high` or `control`; null: rows have none.
    pub priority: Option<String>,
    /// `accepted` or `committed`: what counts as delivered; null: rows know one.
    pub level: Option<String>,
    /// The lane all messages are in; null: none.
    pub lane: Option<u16>,
    /// Polling before sleep.
    pub spin_us: u64,
    /// One core per shard.
    pub pinned: bool,
    /// Trains out.
    pub gso: bool,
    /// Trains in.
    pub gro: bool,
    /// Before the window.
    pub warm_up_s: f64,
    /// The window, as it was.
    pub duration_s: f64,
    /// Messages accepted by the engine, or refused for good: from warm-up to the end of the drain.
    pub offered: u64,
    /// With a rate: messages that were due and never put.
    pub not_offered: Option<u64>,
    /// Of those offered, ended Delivered.
    pub delivered: u64,
    /// Of those, ended otherwise, by cause.
    pub failed: BTreeMap<String, u64>,
    /// Plain sockets: answers to messages that had been given up, which stay failed; null: an engine would not say.
    #[serde(default)]
    pub answered_late: Option<u64>,
    /// Messages handed to a receiving application again.
    pub duplicates: Option<u64>,
    /// Messages whose content was not what was sent.
    pub corrupted: Option<u64>,
    /// Messages reported delivered that the receiving application never saw.
    pub missing: Option<u64>,
    /// Delivered messages whose echo never came.
    pub echoes_missing: Option<u64>,
    /// Outcomes that became Delivered inside the window.
    pub delivered_in_window: u64,
    /// The same, by the window's length.
    pub msgs_per_s: Option<f64>,
    /// Delivered payload, one direction.
    pub goodput_bits_per_s: Option<f64>,
    /// Sink: put to outcome. Echo: put to the echo in the client's hands. With a rate: from when the put was due. Of all
    /// messages put (or due) in the window, those that never arrived included: see `censored`.
    pub latency_ns: Percentiles,
    /// What never arrived, and which percentiles are lower bounds because of it; null: everything arrived.
    #[serde(default)]
    pub censored: Option<Censored>,
    /// The share of all messages that was delivered within each of these latencies.
    #[serde(default)]
    pub delivered_within: Option<Fractions>,
    /// Parts of the latency; null: not told apart.
    #[serde(default)]
    pub stages_ns: Option<StagePercentiles>,
    /// The slowest 0.1 %, and what they spent their time on; null: not told apart.
    #[serde(default)]
    pub slowest: Option<SlowestReport>,
    /// With a rate: how late puts were.
    pub lateness_ns: Option<Percentiles>,
    /// With a rate: how late the generator looked whether something is due. The rest of the lateness is the engine's.
    #[serde(default)]
    pub schedule_error_ns: Option<Percentiles>,
    /// CPU time of this process within the window.
    pub cpu_s: Option<f64>,
    /// Rows sent again.
    pub retransmitted: Option<u64>,
    /// Rows the kernel gave to the wrong shard.
    pub misrouted: Option<u64>,
    /// Trains sent, data and confirms.
    pub trains: Option<u64>,
    /// Datagrams the generating end sent, from start to stop: rows, over CSV.
    pub datagrams: Option<u64>,
    /// Datagrams it received: confirms, in mode `sink`.
    pub acks: Option<u64>,
    /// Packets dropped at full socket buffers; a train counts once.
    pub kernel_drops: Option<u64>,
    /// Where every message and datagram went, by end; null if unknown.
    pub ledger: Option<Vec<EndLedger>>,
    /// Granted socket receive buffer, the smallest.
    pub rcvbuf_bytes: Option<u64>,
    /// Where every message is, by the books of both ends; a residual is an error.
    #[serde(default)]
    pub conservation: Option<Conservation>,
    /// Raw sockets.
    pub baseline: Baseline,
    /// `msgs_per_s` by `baseline.datagrams_per_s`.
    pub ratio_to_datagrams: Option<f64>,
    /// `msgs_per_s` by `baseline.gso_segments_per_s`.
    pub ratio_to_segments: Option<f64>,
    /// `msgs_per_s` by `baseline.tcp.msgs_per_s`; that of the goodputs is the same.
    pub ratio_to_tcp: Option<f64>,
    /// The machine.
    pub environment: Environment,
    /// Load of other processes within the window, in cores.
    pub other_load_cores: Option<f64>,
    /// Time taken by the hypervisor within the window, in cores.
    pub steal_cores: Option<f64>,
    /// Whether the figures mean anything.
    pub valid: bool,
    /// Why not.
    pub invalid_reason: Option<String>,
    /// What the run was held to; null: nothing more than every message delivered, uncorrupted, once.
    #[serde(default)]
    pub slo: Option<String>,
    /// Every message was delivered, uncorrupted, once, and the SLO was kept.
    pub ok: bool,
    /// Why not.
    pub causes: Vec<String>,
}

/// The report as JSON: that of the only run, or (if `repeated`, however few runs it came to) medians with all `runs`, but
/// of losses the worst.
/// `failure`: why another run came to nothing.
pub fn to_json(runs: &[Report], repeated: bool, failure: Option<&str>) -> Result<Value> {
    let values = runs.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    if let ([only], false) = (&values[..], repeated) {
        return Ok(only.clone());
    }
    let mut top = median(&values.iter().collect::<Vec<_>>());
    let Some(fields) = top.as_object_mut() else { return Ok(top) };
    // A loss in a few of the runs would not be in the median: the worst of them is what is said. Medians of parts need not add up
    // to the median of the whole; the equation holds all the same.
    let mut failed: BTreeMap<&String, u64> = BTreeMap::new();
    for (cause, &count) in runs.iter().flat_map(|run| &run.failed) {
        let most = failed.entry(cause).or_default();
        *most = count.max(*most);
    }
    let delivered = fields.get("delivered").and_then(Value::as_u64).unwrap_or_default();
    let offered = delivered + failed.values().sum::<u64>();
    fields.insert("failed".into(), serde_json::to_value(failed)?);
    fields.insert("offered".into(), offered.into());
    let not_offered = runs.iter().filter_map(|run| run.not_offered).max();
    fields.insert("not_offered".into(), not_offered.into());
    fields.insert("valid".into(), runs.iter().all(|run| run.valid).into());
    fields.insert("ok".into(), (failure.is_none() && runs.iter().all(|run| run.ok)).into());
    let reasons = numbered(runs, |run| run.invalid_reason.iter());
    let reason = if reasons.is_empty() { Value::Null } else { reasons.join("; ").into() };
    fields.insert("invalid_reason".into(), reason);
    let mut causes = numbered(runs, |run| run.causes.iter());
    causes.extend(failure.map(str::to_owned));
    fields.insert("causes".into(), causes.into());
    let censored = || runs.iter().filter_map(|run| run.censored.as_ref());
    if let Some(worst) = censored().max_by_key(|censored| censored.messages) {
        // A lower bound in one run is one in the median.
        let all: BTreeSet<&String> = censored().flat_map(|of| &of.percentiles).collect();
        let percentiles = all.into_iter().cloned().collect();
        fields.insert("censored".into(), serde_json::to_value(Censored { percentiles, ..worst.clone() })?);
    }
    fields.insert("runs".into(), Value::Array(values));
    Ok(top)
}

/// What several runs have to say, each with its number.
fn numbered<'a, I: Iterator<Item = &'a String>>(
    runs: &'a [Report],
    texts: impl Fn(&'a Report) -> I,
) -> Vec<String> {
    let runs = (1..).zip(runs);
    runs.flat_map(|(n, run)| texts(run).map(move |text| format!("run {n}: {text}")).collect::<Vec<_>>())
        .collect()
}

/// Number by number; of everything else the first. A cause missing in a run is 0 there. What half of the runs do not know
/// is unknown: runs in which nothing was delivered have no latency, and the others do not speak for them.
fn median(values: &[&Value]) -> Value {
    let known: Vec<&Value> = values.iter().copied().filter(|value| !value.is_null()).collect();
    let Some(first) = known.first().filter(|_| known.len() * 2 > values.len()) else { return Value::Null };
    match first {
        Value::Number(_) => median_number(&known),
        Value::Object(_) => {
            let mut result = Map::new();
            for key in known.iter().filter_map(|value| value.as_object()).flat_map(Map::keys) {
                if !result.contains_key(key) {
                    let absent = Value::from(0);
                    let field: Vec<&Value> =
                        known.iter().map(|value| value.get(key).unwrap_or(&absent)).collect();
                    result.insert(key.clone(), median(&field));
                }
            }
            Value::Object(result)
        }
        _ => (*first).clone(),
    }
}

fn median_number(values: &[&Value]) -> Value {
    let middle = |count: usize| ((count - 1) / 2, count / 2);
    let mut whole: Vec<u64> = values.iter().filter_map(|value| value.as_u64()).collect();
    if whole.len() == values.len() {
        whole.sort_unstable();
        let (low, high) = middle(whole.len());
        return whole[low].midpoint(whole[high]).into();
    }
    let mut real: Vec<f64> = values.iter().filter_map(|value| value.as_f64()).collect();
    if real.is_empty() {
        return Value::Null;
    }
    real.sort_unstable_by(f64::total_cmp);
    let (low, high) = middle(real.len());
    real[low].midpoint(real[high]).into()
}

/// Where the JSON goes: opened before anything is measured, so that a bad path costs no time.
#[derive(Debug)]
pub enum JsonTarget {
    /// No JSON.
    None,
    /// Alone on standard output.
    Stdout,
    /// A file.
    File(File, PathBuf),
}

impl JsonTarget {
    /// As `--json` says.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        Ok(match path {
            None => Self::None,
            Some(path) if path.as_os_str() == "-" => Self::Stdout,
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Self::File(file, path.to_owned())
            }
        })
    }

    /// Whether the words for people go to standard error.
    pub const fn takes_stdout(&self) -> bool {
        matches!(self, Self::Stdout)
    }

    /// Writes the report.
    pub fn write(self, value: &Value) -> Result<()> {
        let text = serde_json::to_string_pretty(value)? + "\n";
        match self {
            Self::None => Ok(()),
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes())
                    .and_then(|()| out.flush())
                    .context("cannot write to standard output")
            }
            Self::File(mut file, path) => {
                file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Schema 1 as the issue lists it.
    const SCHEMA_1: &str = "schema wire mode api driver driver_reason shards size row_bytes in_flight rate spin_us \
        pinned warm_up_s duration_s offered delivered failed duplicates corrupted msgs_per_s goodput_bits_per_s \
        latency_ns cpu_s retransmitted misrouted trains kernel_drops rcvbuf_bytes baseline environment valid \
        invalid_reason datagrams acks mtu cc ledger";

    #[test]
    fn every_field_is_there_and_unknown_is_null() {
        let value = to_json(&[Report { schema: 1, ..Report::default() }], false, None).expect("serializes");
        for field in SCHEMA_1.split_whitespace() {
            assert!(value.get(field).is_some(), "{field}");
        }
        for field in ["p50", "p90", "p99", "p99_9", "p99_99", "max"] {
            assert_eq!(value["latency_ns"].get(field), Some(&Value::Null));
        }
        let baseline = &value["baseline"];
        assert_eq!(baseline["pingpong_spin_ns"], json!({"p50": null, "p99": null}));
        assert_eq!(baseline["pingpong_block_ns"], json!({"p50": null, "p99": null}));
        for field in ["datagrams_per_s", "gso_segments_per_s", "gso_bits_per_s"] {
            assert_eq!(baseline.get(field), Some(&Value::Null));
        }
        assert_eq!(
            (baseline.get("tcp"), value.get("ratio_to_tcp")),
            (Some(&Value::Null), Some(&Value::Null))
        );
        assert!(value.get("runs").is_none());
        let back: Report = serde_json::from_value(value).expect("reads back");
        assert_eq!(back.schema, 1);
    }

    /// Every key of `value` that the schema does not describe, as a path.
    fn undescribed(schema: &Value, at: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
        let mut at = at;
        while let Some(name) =
            at["$ref"].as_str().or(at["anyOf"][0]["$ref"].as_str()).or(at["allOf"][0]["$ref"].as_str())
        {
            at = schema.pointer(name.trim_start_matches('#')).expect("a definition");
        }
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = format!("{path}/{key}");
                    match at["properties"].get(key) {
                        Some(at) => undescribed(schema, at, value, &path, found),
                        None if at["additionalProperties"].is_object() => {}
                        None => found.push(path),
                    }
                }
            }
            Value::Array(items) => {
                items.iter().for_each(|item| undescribed(schema, &at["items"], item, path, found));
            }
            _ => {}
        }
    }

    /// `docs/report-schema.json` is what reports are: it takes them, describes every field, and refuses what is none.
    #[test]
    fn the_published_schema() {
        let text = include_str!("../../docs/report-schema.json");
        let schema: Value = serde_json::from_str(text).expect("JSON");
        jsonschema::meta::validate(&schema).expect("a schema");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let mut latency = crate::record::latency_histogram();
        latency.saturating_record(5_000);
        let lossy = crate::distribution::Distribution::new(&latency, 3, 1_000_000);
        let stages = crate::stages::Stages::default();
        let client = crate::record::ClientRecord::default();
        let full = Report {
            schema: 1,
            protocol: "udp-plus".into(),
            wire: "csv".into(),
            mode: "sink".into(),
            api: "actor".into(),
            driver: "mmsg".into(),
            load_model: "open".into(),
            latency_ns: lossy.percentiles(),
            censored: lossy.censored(),
            delivered_within: lossy.delivered_within(),
            stages_ns: Some((&stages).into()),
            slowest: Some(crate::explain::slowest(&stages, false, 3)),
            conservation: Some(crate::conserve::Conservation::new(&client, &[])),
            failed: BTreeMap::from([("expired".into(), 3)]),
            ..Report::default()
        };
        for repeated in [false, true] {
            let value = to_json(&vec![full.clone(); 3][..if repeated { 3 } else { 1 }], repeated, None)
                .expect("serializes");
            let errors: Vec<String> = validator
                .iter_errors(&value)
                .map(|error| format!("{error} at {}", error.instance_path))
                .collect();
            assert!(errors.is_empty(), "{errors:?}");
            let mut found = Vec::new();
            undescribed(&schema, &schema["$defs"]["run"], &value, "", &mut found);
            found.retain(|path| !path.starts_with("/runs"));
            assert!(found.is_empty(), "not in docs/report-schema.json: {found:?}");
        }
        let good = serde_json::to_value(&full).expect("serializes");
        let breaks: [fn(&mut Value); 4] = [
            |report| report["schema"] = 2.into(),
            |report| report["latency_ns"]["p99"] = "slow".into(),
            |report| report["censored"]["percentiles"] = json!(["p98"]),
            |report| _ = report.as_object_mut().map(|fields| fields.remove("offered")),
        ];
        for (n, spoil) in breaks.iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(!validator.is_valid(&bad), "{n}");
        }
    }

    #[test]
    fn medians_on_top_and_the_books_still_balance() {
        let run = |delivered: u64, lost: u64, rate: f64, p50: u64| Report {
            schema: 1,
            delivered,
            offered: delivered + lost,
            failed: if lost > 0 { BTreeMap::from([("timed_out".into(), lost)]) } else { BTreeMap::new() },
            msgs_per_s: Some(rate),
            latency_ns: Percentiles { p50: Some(p50), ..Percentiles::default() },
            valid: lost == 0,
            invalid_reason: (lost > 0).then(|| "busy".into()),
            ok: lost == 0,
            causes: if lost > 0 { vec!["lost".into()] } else { vec![] },
            ..Report::default()
        };
        let runs = [run(100, 0, 10.0, 7), run(90, 9, 30.0, 5), run(80, 5, 20.0, 6)];
        let value = to_json(&runs, true, None).expect("serializes");
        assert_eq!((&value["msgs_per_s"], &value["latency_ns"]["p50"]), (&json!(20.0), &json!(6)));
        assert_eq!((&value["delivered"], &value["failed"]["timed_out"]), (&json!(90), &json!(9)));
        assert_eq!(value["offered"], json!(99));
        assert_eq!((&value["valid"], &value["ok"]), (&json!(false), &json!(false)));
        assert_eq!(value["invalid_reason"], json!("run 2: busy; run 3: busy"));
        assert_eq!(value["causes"], json!(["run 2: lost", "run 3: lost"]));
        assert_eq!(value["runs"].as_array().map(Vec::len), Some(3));
        assert_eq!(value["cpu_s"], Value::Null);
        // A run that came to nothing is one that failed.
        let value = to_json(&runs[..1], true, Some("run 2: nobody there")).expect("serializes");
        assert_eq!((&value["ok"], &value["causes"]), (&json!(false), &json!(["run 2: nobody there"])));
        // Repeating that was cut short is still repeating.
        let value = to_json(&runs[..1], true, None).expect("serializes");
        assert_eq!((&value["delivered"], value["runs"].as_array().map(Vec::len)), (&json!(100), Some(1)));
    }

    /// One of five runs lost messages: so it says on top.
    #[test]
    fn a_loss_in_few_runs_shows() {
        let mut latency = crate::record::latency_histogram();
        latency.saturating_record_n(5_000, 1_000);
        let run = |lost: u64| {
            let distribution = crate::distribution::Distribution::new(&latency, lost, 1_000_000_000);
            Report {
                schema: 1,
                delivered: 1_000,
                offered: 1_000 + lost,
                failed: if lost > 0 { BTreeMap::from([("timed_out".into(), lost)]) } else { BTreeMap::new() },
                not_offered: Some(lost / 2),
                latency_ns: distribution.percentiles(),
                censored: distribution.censored(),
                ..Report::default()
            }
        };
        let value = to_json(&[0, 0, 2, 30, 0].map(run), true, None).expect("serializes");
        assert_eq!(
            (&value["failed"], &value["offered"], &value["not_offered"]),
            (&json!({"timed_out": 30}), &json!(1_030), &json!(15))
        );
        assert_eq!(
            value["censored"],
            json!({
                "messages": 30,
                "at_least_ns": 1_000_000_000,
                "percentiles": ["max", "p99", "p99_9", "p99_99"],
            })
        );
        assert_eq!(to_json(&[0, 0, 0].map(run), true, None).expect("serializes")["censored"], Value::Null);
    }

    #[test]
    fn median_of_an_even_number() {
        assert_eq!(median(&[&json!(1), &json!(4)]), json!(2));
        assert_eq!(median(&[&json!(1.0), &json!(4.0), &Value::Null]), json!(2.5));
        assert_eq!(median(&[&json!(1), &Value::Null, &Value::Null, &json!(4), &Value::Null]), Value::Null);
    }
}
