//! `bench`, `load` and `serve`: what the report says is checked against the definitions.

use crate::support::{
    Listener, assert_rests, assert_schema, due, interrupt, number, report, run, run_at_rate, sleep, status,
    tool, unix_s, wake_ups,
};
use serde_json::Value;
use std::process::Output;
use std::time::Duration;

/// Everything that holds for any run that went well.
fn assert_well(report: &Value) {
    assert_schema(report);
    assert_eq!(report["schema"], 1);
    assert_eq!(
        (&report["wire"], &report["ok"], &report["causes"]),
        (&"csv".into(), &true.into(), &Value::Array(vec![]))
    );
    let failed: f64 = report["failed"].as_object().expect("causes").values().filter_map(Value::as_f64).sum();
    assert_eq!(number(report, "/offered"), number(report, "/delivered") + failed);
    assert_eq!(failed, 0.0);
    assert!(number(report, "/delivered") >= number(report, "/delivered_in_window"));
    let rate = number(report, "/delivered_in_window") / number(report, "/duration_s");
    assert!((number(report, "/msgs_per_s") / rate - 1.0).abs() < 1e-6);
    let goodput = rate * number(report, "/size") * 8.0;
    assert!((number(report, "/goodput_bits_per_s") / goodput - 1.0).abs() < 1e-6);
    let latency = ["p50", "p90", "p99", "p99_9", "p99_99", "max"]
        .map(|name| number(report, &format!("/latency_ns/{name}")));
    assert!(latency.is_sorted() && latency[0] > 100.0, "{latency:?}");
    assert!(number(report, "/cpu_s") > 0.0 && number(report, "/rcvbuf_bytes") > 0.0);
    assert!(number(report, "/retransmitted") >= 0.0 && number(report, "/misrouted") >= 0.0);
    assert_eq!(report["valid"].as_bool(), Some(report["invalid_reason"].is_null()));
    assert_eq!(number(report, "/conservation/residual"), 0.0);
    for engine in report["conservation"]["engines"].as_array().expect("books") {
        assert_eq!(engine["residual"], 0, "{engine:#}");
        assert_eq!(number(engine, "/accepted"), number(engine, "/delivered"));
    }
    assert!(report["not_offered"].as_u64().unwrap_or(0) > 0 || report["censored"].is_null());
    // Over CSV each message is a row at least, and each row has its confirm.
    assert!(number(report, "/datagrams") >= number(report, "/delivered"));
    assert!(number(report, "/acks") >= number(report, "/delivered"));
    for field in ["kernel", "cpu"] {
        assert!(report["environment"][field].is_string(), "{field}");
    }
    assert!(number(report, "/environment/cores") >= 1.0);
}

/// Both ends' ledgers: nothing is in no place, and they say what the books say.
fn assert_ledgers(report: &Value) {
    let ends = report["ledger"].as_array().expect("two ends");
    assert_eq!(
        ends.iter().map(|end| end["end"].as_str().expect("text")).collect::<Vec<_>>(),
        ["near", "far"]
    );
    let sum = |path: &str| -> f64 {
        ends.iter().map(|end| end.pointer(path).map_or(0.0, |_| number(end, path))).sum()
    };
    assert_eq!(sum("/residual"), 0.0, "{report:#}");
    assert_eq!(number(&ends[0], "/sums/messages_put/total"), number(report, "/offered"));
    assert_eq!(number(&ends[0], "/sums/messages_put/parts/delivered"), number(report, "/delivered"));
    assert_eq!(sum("/sockets/packets_dropped"), number(report, "/kernel_drops"));
    assert_eq!(sum("/sockets/packets_sent"), number(report, "/trains"));
    assert!(number(&ends[0], "/host/OutDatagrams") >= number(&ends[0], "/sockets/packets_sent"));
}

/// Runs `bench`; `None` where io_uring is asked for and cannot be had.
fn bench(driver: &str, more: &[&str]) -> Option<Value> {
    let mut args = vec!["bench", "--duration", "1", "--json", "-", "--driver", driver];
    args.extend(more);
    let output = run(&args);
    let (code, stderr) = status(&output);
    if driver == "uring" && code == Some(1) && stderr.contains("driver = uring was demanded") {
        eprintln!("SKIP: {stderr}");
        return None;
    }
    assert_eq!(code, Some(0), "{stderr}");
    let report = report(&output);
    assert_eq!(report["driver"], driver);
    assert!(report["driver_reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert_well(&report);
    for field in ["duplicates", "corrupted", "missing", "misrouted"] {
        assert_eq!(report[field], 0, "{field}");
    }
    assert!(report["kernel_drops"].is_u64() && number(&report, "/trains") > 0.0);
    assert_ledgers(&report);
    assert_eq!((number(&report, "/warm_up_s"), number(&report, "/duration_s")), (1.0, 1.0));
    Some(report)
}

#[test]
fn one_second_on_both_drivers_with_the_baseline() {
    for driver in ["mmsg", "uring"] {
        let Some(report) = bench(driver, &["--baseline", "0.2"]) else { continue };
        assert_eq!(
            (&report["mode"], &report["api"], &report["size"]),
            (&"sink".into(), &"actor".into(), &64.into())
        );
        assert_eq!(
            (&report["rate"], &report["pinned"], &report["shards"]),
            (&Value::Null, &false.into(), &1.into())
        );
        for path in [
            "/datagrams_per_s",
            "/gso_segments_per_s",
            "/gso_bits_per_s",
            "/pingpong_spin_ns/p50",
            "/pingpong_spin_ns/p99",
            "/pingpong_block_ns/p50",
            "/pingpong_block_ns/p99",
            "/tcp/msgs_per_s",
            "/tcp/bits_per_s",
            "/tcp/write_bytes",
        ] {
            assert!(number(&report["baseline"], path) > 0.0, "{path}");
        }
        let ratio = number(&report, "/msgs_per_s") / number(&report, "/baseline/datagrams_per_s");
        assert!((number(&report, "/ratio_to_datagrams") / ratio - 1.0).abs() < 1e-6);
        assert!(matches!(report["baseline"]["tcp"]["congestion"].as_str(), Some("cubic" | "bbr")));
        let ratio = number(&report, "/msgs_per_s") / number(&report, "/baseline/tcp/msgs_per_s");
        assert!((number(&report, "/ratio_to_tcp") / ratio - 1.0).abs() < 1e-6);
        // Trains: far fewer than messages.
        assert!(number(&report, "/trains") * 4.0 < number(&report, "/delivered"), "{report:#}");
    }
}

#[test]
fn echo_through_the_buckets_and_large_messages() {
    for driver in ["mmsg", "uring"] {
        let echo =
            bench(driver, &["--baseline", "0", "--mode", "echo", "--api", "buckets", "--in-flight", "64"]);
        if let Some(report) = echo {
            assert_eq!((&report["echoes_missing"], &report["in_flight"]), (&0.into(), &64.into()));
            assert!(
                report["baseline"]["datagrams_per_s"].is_null() && report["ratio_to_datagrams"].is_null()
            );
        }
        bench(driver, &["--baseline", "0", "--mode", "echo", "--size", "10KiB", "--shards", "2"]);
        if let Some(report) = bench(driver, &["--baseline", "0", "--size", "1MiB", "--window", "2MiB"]) {
            assert_eq!(
                (number(&report, "/size"), number(&report, "/window_bytes")),
                (1_048_576.0, 2_097_152.0)
            );
        }
    }
}

/// The engine without trains: as many as rows, however many rows one call sends.
#[test]
fn without_trains() {
    for driver in ["mmsg", "uring"] {
        let report = bench(driver, &["--baseline", "0", "--no-gso", "--no-gro"]);
        let Some(report) = report else { continue };
        assert_eq!((&report["gso"], &report["gro"]), (&false.into(), &false.into()));
        // A row for each message and a confirm for each row, at least.
        assert!(number(&report, "/trains") >= 2.0 * number(&report, "/delivered"), "{report:#}");
    }
}

#[test]
fn a_fixed_rate_is_kept_and_medians_are_on_top() {
    let args =
        ["bench", "--duration", "0.5", "--baseline", "0", "--json", "-", "--rate", "2000", "--repeat", "3"];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    let report = report(&output);
    assert_schema(&report);
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 3);
    runs.iter().for_each(assert_well);
    assert_eq!(number(&report, "/offered"), number(&report, "/delivered"));
    let mut rates: Vec<f64> = runs.iter().map(|run| number(run, "/msgs_per_s")).collect();
    rates.sort_by(f64::total_cmp);
    assert_eq!(number(&report, "/msgs_per_s"), rates[1]);
    for run in runs {
        assert_eq!(number(run, "/rate"), 2_000.0);
        // 1 s of warm-up and half a second, on an absolute schedule: every message that was due is told of.
        assert_eq!(due(run), 3_000.0, "{run:#}");
        assert!(number(run, "/lateness_ns/max") <= number(run, "/latency_ns/max"));
    }
}

/// Whatever the course and the process: every message that was due is in the books.
#[test]
fn rates_of_every_course() {
    let trace = std::env::temp_dir().join(format!("udp-plus-trace-{}", std::process::id()));
    std::fs::write(&trace, "0\n0.1 1500\n0.1\n0.4\n0.7\n").expect("written");
    let of_file = format!("trace:{}", trace.display());
    // (rate, arrivals, messages of 1 s of warm-up and half a second; none: random)
    for (rate, arrivals, offered) in [
        ("ramp:1000..3000", "even", Some(2_000.0)),
        ("step:1000,3000", "burst:100", Some(2_000.0)),
        ("spike:1000..6000", "even", Some(2_000.0)),
        // The warm-up has its mean rate: 5 in 0.7 s. The last one is beyond the window.
        (&of_file, "even", Some(7.0 + 4.0)),
        ("2000", "poisson", None),
    ] {
        let mut args =
            vec!["bench", "--duration", "0.5", "--baseline", "0", "--json", "-", "--driver", "mmsg"];
        args.extend(["--rate", rate, "--arrivals", arrivals]);
        let output = run_at_rate(&args);
        assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
        let report = report(&output);
        assert_well(&report);
        let count = due(&report);
        match offered {
            Some(offered) => assert_eq!(count, offered, "{rate} {arrivals}"),
            None => assert!((count - 3_000.0).abs() < 6.0 * 3_000_f64.sqrt(), "{count}"),
        }
        assert_eq!((&report["load_model"], &report["arrivals"]), (&"open".into(), &arrivals.into()));
        assert_eq!(report["rate_course"], rate);
        assert!(number(&report, "/schedule_error_ns/max") <= number(&report, "/lateness_ns/max"));
        // Every message of the window has its stages, and they are all of its latency.
        let messages = number(&report, "/stages_ns/queue_wait/messages");
        let sent_again = number(&report, "/stages_ns/sent_again_once/messages")
            + number(&report, "/stages_ns/sent_again_more/messages");
        assert_eq!(number(&report, "/stages_ns/round_trip/messages") + sent_again, messages);
        assert_eq!(number(&report, "/slowest/messages"), messages);
        let there = number(&report, "/stages_ns/to_receiver/messages");
        assert_eq!(number(&report, "/stages_ns/receiver_queue/messages"), there);
        assert!(there > 0.0);
        assert!(
            number(&report, "/stages_ns/receiver_queue/p50") <= number(&report, "/stages_ns/to_receiver/p50")
        );
        let parts = report["slowest"]["mean_ns"].as_object().expect("parts");
        let mean: f64 = parts.values().filter_map(Value::as_f64).sum();
        assert!(mean >= number(&report, "/slowest/from_ns"), "{report:#}");
        assert!(
            parts.contains_key("receiver_queue") && !parts.contains_key("round_trip"),
            "both ends are here"
        );
    }
    let _ = std::fs::remove_file(&trace);
    let output = run(&["bench", "--rate", &of_file]);
    let (code, stderr) = status(&output);
    assert!(code == Some(2) && stderr.contains(&*trace.to_string_lossy()), "{stderr}");
}

#[test]
fn a_rate_that_is_not_kept_makes_the_run_invalid() {
    let args = [
        "bench",
        "--duration",
        "0.5",
        "--baseline",
        "0",
        "--json",
        "-",
        "--rate",
        "1e9",
        "--in-flight",
        "64",
    ];
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    let report = report(&output);
    // 1.5 s of a billion a second; every one of them is in the books.
    assert_eq!(number(&report, "/offered") + number(&report, "/not_offered"), 1.5e9);
    assert_eq!((&report["ok"], &report["valid"]), (&true.into(), &false.into()));
    assert!(report["invalid_reason"].as_str().is_some_and(|reason| reason.contains("rate was not kept")));
}

/// Messages of every length are checked at both ends, and counted in bytes.
#[test]
fn mixes_of_sizes() {
    let trace = std::env::temp_dir().join(format!("udp-plus-sizes-{}", std::process::id()));
    std::fs::write(&trace, "64\n2KiB\n300\n").expect("written");
    let recorded = format!("trace:{}", trace.display());
    for (size, mean, more) in [
        ("uniform:16..1000", 508.0, &["--wire", "binary"][..]),
        ("zipf:16..100000,1.3", 0.0, &["--wire", "binary", "--api", "buckets"]),
        ("zipf:16..20000", 0.0, &["--mode", "echo", "--lane", "3", "--wire", "binary"]),
        (&recorded, 804.0, &["--protocol", "tcp"]),
        (&recorded, 804.0, &["--protocol", "udp", "--mode", "echo"]),
    ] {
        let mut args = vec!["bench", "--size", size, "--seed", "11", "--rate", "3000", "--duration", "0.4"];
        args.extend(["--baseline", "0", "--json", "-"]);
        args.extend(more);
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{size}: {}", status(&output).1);
        let report = report(&output);
        assert_schema(&report);
        assert_eq!((due(&report), number(&report, "/seed")), (4_200.0, 11.0));
        assert_eq!(number(&report, "/delivered"), number(&report, "/offered"));
        assert_eq!(
            (&report["corrupted"], &report["missing"], &report["duplicates"]),
            (&0.into(), &0.into(), &0.into())
        );
        assert!(mean == 0.0 || (number(&report, "/size_mean") - mean).abs() < 1.0, "{report:#}");
        assert_eq!(report["sizes"].as_str().map(|sizes| sizes.starts_with(&size[..8])), Some(true));
        let bytes = number(&report, "/goodput_bits_per_s") / 8.0 / number(&report, "/msgs_per_s");
        let expected = number(&report, "/size_mean");
        assert!(
            (bytes / expected - 1.0).abs() < if mean == 0.0 { 0.5 } else { 0.1 },
            "{bytes} of {expected}"
        );
    }
    let _ = std::fs::remove_file(&trace);
    let output = run(&["bench", "--size", "uniform:8..100"]);
    assert!(output.status.code() == Some(2) && status(&output).1.contains("too small"));
}

#[test]
fn load_against_serve_in_another_process() {
    for (mode, api) in [("sink", "actor"), ("echo", "actor"), ("sink", "buckets"), ("echo", "buckets")] {
        let serve = Listener::start(&["serve", "--mode", mode, "--api", api]);
        let target = format!("localhost:{}", serve.port());
        let output = run(&[
            "load",
            "--target",
            &target,
            "--mode",
            mode,
            "--api",
            api,
            "--duration",
            "0.5",
            "--json",
            "-",
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
        let report = report(&output);
        assert_well(&report);
        assert_eq!(report["duplicates"].is_null(), mode == "sink", "one end does not know");
        assert!(report["kernel_drops"].is_null() && report["baseline"]["datagrams_per_s"].is_null());
        serve.interrupt();
        let (code, stdout) = serve.finish();
        let text = String::from_utf8_lossy(&stdout).replace(',', "");
        assert_eq!(code, Some(0), "{text}");
        let received = text.lines().find_map(|line| line.strip_prefix("received"));
        let received: f64 = received.and_then(|count| count.trim().parse().ok()).expect("a count");
        assert_eq!(received, number(&report, "/delivered"), "{text}");
    }
}

#[test]
fn a_dead_target_fails_every_message_and_says_why() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = silent.local_addr().expect("bound").to_string();
    let output = run(&["load", "--target", &target, "--duration", "0.1", "--in-flight", "10", "--json", "-"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        (&report["offered"], &report["delivered"], &report["failed"]["timed_out"]),
        (&10.into(), &0.into(), &10.into())
    );
    assert_eq!(report["ok"], false);
    assert!(report["causes"].as_array().is_some_and(|causes| causes.len() == 2), "{report:#}");
    assert!(report["latency_ns"]["p50"].is_null());
}

/// Second by second, and not a message lost between the seconds: the log of histograms, read by another reader of the format,
/// has the percentiles of the report, and the table has its counts.
#[test]
fn intervals_add_up_to_the_report() {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    for api in ["actor", "buckets"] {
        let path = |end: &str| {
            let name = format!("udp-plus-{api}-{}.{end}", std::process::id());
            std::env::temp_dir().join(name).to_string_lossy().into_owned()
        };
        let (hdr, csv) = (path("hlog"), path("csv"));
        let mut args = vec!["bench", "--duration", "2.5", "--baseline", "0", "--json", "-", "--rate", "2000"];
        args.extend(["--driver", "mmsg", "--shards", "2", "--api", api, "--hdr", &hdr, "--csv", &csv]);
        let output = run_at_rate(&args);
        assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
        let report = report(&output);
        assert_well(&report);
        let log = std::fs::read(&hdr).expect("written");
        let mut sum = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 200_000_000_000, 3).expect("bounds");
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(interval) = entry.expect("a log") else { continue };
            let encoded = base64_simd::STANDARD.decode_to_vec(interval.encoded_histogram()).expect("base64");
            let mut reader = hdrhistogram::serialization::Deserializer::new();
            let histogram: hdrhistogram::Histogram<u64> =
                reader.deserialize(&mut encoded.as_slice()).expect("V2");
            sum.add(&histogram).expect("same bounds");
            intervals += 1;
        }
        assert!(intervals >= 3, "{intervals}");
        assert_eq!(sum.len() as f64, number(&report, "/slowest/messages"));
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)] {
            let at = sum.value_at_quantile(quantile) as f64;
            assert_eq!(at, number(&report, &format!("/latency_ns/{name}")), "{name}");
        }
        let table = std::fs::read_to_string(&csv).expect("written");
        assert_eq!(table.lines().count(), intervals + 1);
        let delivered: f64 =
            table.lines().skip(1).filter_map(|line| line.split(',').nth(3)?.parse::<f64>().ok()).sum();
        assert_eq!(delivered, number(&report, "/delivered"), "{table}");
        for file in [hdr, csv] {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn an_slo_sets_the_exit_status() {
    let args = ["bench", "--duration", "0.2", "--baseline", "0", "--json", "-", "--rate", "1000", "--slo"];
    for (slo, code) in [("p99<100s,loss<1e-3", 0), ("p50<1ns", 1)] {
        let output = run_at_rate(&[&args[..], &[slo]].concat());
        let report = report(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(code), &(code == 0).into()), "{slo}");
        assert_eq!(report["slo"], slo);
        let causes = report["causes"].to_string();
        assert_eq!(causes.contains("SLO: p50 is"), code == 1, "{causes}");
    }
}

/// A goal that every rate meets, and one that none does: the ends of a search, every trial in the books.
#[test]
fn a_search_lists_its_trials_and_says_how_sure_it_is() {
    let mut args = vec!["search", "--duration", "0.2", "--trials", "1", "--width", "50", "--json", "-"];
    args.extend(["--driver", "mmsg", "--rate", "2000", "--arrivals", "poisson", "--slo"]);
    let output = run_at_rate(&[&args[..], &["p50<100s"]].concat());
    let report = report(&output);
    assert_eq!((output.status.code(), &report["end"]), (Some(0), &"at_max".into()), "{report:#}");
    assert_eq!((number(&report, "/rate"), &report["rate_above"]), (2_000.0, &Value::Null));
    assert!(number(&report, "/confidence") >= 0.75, "one full trial");
    let trials = report["trials"].as_array().expect("trials");
    assert!(
        !trials.is_empty()
            && trials.iter().all(|trial| trial["good"] == true && number(trial, "/p50_ns") > 0.0)
    );
    let output = run_at_rate(&[&args[..], &["p50<1ns,loss<1e-6"]].concat());
    let report = self::report(&output);
    assert_eq!((output.status.code(), &report["end"]), (Some(1), &"below_min".into()), "{report:#}");
    assert_eq!((&report["rate"], number(&report, "/rate_above")), (&Value::Null, 10.0));
    let trials = report["trials"].as_array().expect("trials");
    assert!(trials.iter().all(|trial| trial["broken"][0].as_str().is_some_and(|why| why.contains("p50 is"))));
    assert!(report["notes"].to_string().contains("takes 3,000,000 messages"), "{report:#}");
    let output = run(&["search", "--duration", "1"]);
    assert!(output.status.code() == Some(2) && status(&output).1.contains("needs --slo"));
}

/// Ten times the size is no difference to two pairs, and one to eight; compare reads what was written.
#[test]
fn arms_in_turns_and_reports_side_by_side() {
    let arm = |size| ["bench", "--duration", "0.05", "--baseline", "0", "--in-flight", "4", "--size", size];
    let output =
        run(&[&["ab", "--repeat", "2", "--json", "-", "--"], &arm("64")[..], &["--"], &arm("640")].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    let figures = report["figures"].as_array().expect("figures");
    assert_eq!(figures.len(), 3);
    assert!(
        figures.iter().all(|figure| figure["verdict"] == "no difference shown"),
        "two pairs show nothing"
    );
    assert!(
        report["notes"].to_string().contains("too few")
            && report["notes"].to_string().contains("size differs")
    );
    assert_eq!(report["a"].as_array().map(Vec::len), Some(2));
    // Runs of a machine that is another one each time: slower by half, as written.
    let path = |name: &str| std::env::temp_dir().join(format!("udp-plus-{name}-{}.json", std::process::id()));
    let write = |name: &str, scale: u64| {
        let one = |n: u64| {
            let mut run = report["a"][0].clone();
            run["latency_ns"]["p50"] = ((100_000 + n * 100) * scale).into();
            run
        };
        let mut all = report["a"][0].clone();
        all["runs"] = (0..10).map(one).collect();
        std::fs::write(path(name), all.to_string()).expect("written");
    };
    write("a", 2);
    write("b", 3);
    let [a, b] = ["a", "b"].map(|name| path(name).to_string_lossy().into_owned());
    let output = run(&["compare", &a, &b]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains("worse") && text.contains("FAILED"), "{text}");
    assert_eq!(run(&["compare", &a, &b, "--threshold", "60"]).status.code(), Some(0));
    assert_eq!(run(&["compare", &b, &a]).status.code(), Some(0), "better is no regression");
    for name in ["a", "b"] {
        let _ = std::fs::remove_file(path(name));
    }
    assert_eq!(run(&["compare", &a, &b]).status.code(), Some(1), "no such file");
    assert_eq!(run(&["ab", "--", "bench"]).status.code(), Some(2));
}

/// Nothing arrives: every percentile is a lower bound, and says so.
#[test]
fn loss_is_latency() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = silent.local_addr().expect("bound").to_string();
    let mut args =
        vec!["load", "--target", &target, "--duration", "0.2", "--rate", "500", "--driver", "mmsg"];
    args.extend(["--deadline-ms", "300", "--explain"]);
    let output = run(&[&args[..], &["--json", "-"]].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((due(&report), &report["delivered"]), (600.0, &0.into()));
    assert_schema(&report);
    assert_eq!((number(&report, "/censored/messages"), number(&report, "/latency_ns/p50")), (100.0, 300e6));
    assert_eq!(report["censored"]["percentiles"].as_array().map(Vec::len), Some(6));
    assert_eq!(number(&report, "/delivered_within/p50"), 0.0);
    assert_eq!(
        (number(&report, "/conservation/failed"), number(&report, "/conservation/residual")),
        (number(&report, "/offered"), 0.0)
    );
    let words = status(&output).1;
    assert!(words.contains("p50 >= 300 ms") && words.contains("100.0000 % never arrived"), "{words}");
    assert!(words.contains("the slowest 0.1 %: 1 of 100 messages, 1 never delivered"), "{words}");
}

#[test]
fn a_deadline_ends_what_does_not_arrive() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = silent.local_addr().expect("bound").to_string();
    for api in ["actor", "buckets"] {
        let mut args = vec!["load", "--target", &target, "--duration", "0.1", "--in-flight", "10"];
        args.extend(["--api", api, "--deadline-ms", "2000", "--json", "-"]);
        let output = run(&args);
        let report = report(&output);
        assert_eq!((output.status.code(), &report["deadline_ms"]), (Some(1), &2_000.into()));
        // Before the engine gives up by itself, which takes 8 s.
        assert_eq!(report["failed"], serde_json::json!({"expired": 10}), "{api}");
    }
    let args = ["--baseline", "0", "--deadline-ms", "10000", "--in-flight", "64"];
    for api in ["actor", "buckets"] {
        bench("mmsg", &[&args[..], &["--api", api]].concat());
    }
}

/// Whichever class they wait in, whoever has to commit them, and in a lane, all arrive.
#[test]
fn priorities_commits_and_lanes_over_the_binary_wire() {
    let mut args = vec!["bench", "--duration", "0.5", "--json", "-", "--driver", "mmsg", "--baseline", "0"];
    args.extend(["--wire", "binary", "--in-flight", "64", "--mode", "echo"]);
    for (api, priority, level) in
        [("actor", "control", "accepted"), ("actor", "low", "committed"), ("buckets", "high", "committed")]
    {
        let more = ["--api", api, "--priority", priority, "--level", level];
        let output = run(&[&args[..], &more].concat());
        let report = report(&output);
        assert_eq!((&report["priority"], &report["level"]), (&priority.into(), &level.into()));
        assert!(
            report["delivered"].as_u64().is_some_and(|count| count > 0) && report["ok"] == true,
            "{report:#}"
        );
    }
    for api in ["actor", "buckets"] {
        let output = run(&[&args[..], &["--api", api, "--lane", "7"]].concat());
        let report = report(&output);
        assert_eq!((&report["lane"], &report["ok"]), (&7.into(), &true.into()), "{report:#}");
        assert!(report["delivered"].as_u64().is_some_and(|count| count > 0), "{report:#}");
    }
    // Rows know none of it.
    for flag in [["--priority", "high"], ["--level", "committed"], ["--lane", "7"]] {
        let output = run(&[&["bench", "--wire", "csv"][..], &flag].concat());
        let (code, stderr) = status(&output);
        assert!(code == Some(2) && stderr.contains("options of the binary wire"), "{stderr}");
    }
}

#[test]
fn ctrl_c_drains_and_reports() {
    let path = std::env::temp_dir().join(format!("udp-plus-test-{}.json", std::process::id()));
    let file = path.to_str().expect("text");
    let mut bench = tool(&["bench", "--duration", "600", "--baseline", "0", "--json", file]);
    let mut child = bench.stdout(std::process::Stdio::inherit()).spawn().expect("starts");
    // Other tests may hold the lock: wait until this one measures.
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("measuring") {
        line.clear();
        assert!(
            std::io::BufRead::read_line(&mut stderr, &mut line).expect("readable") > 0,
            "it ended too early"
        );
    }
    sleep(Duration::from_millis(200));
    interrupt(&child);
    std::thread::spawn(move || std::io::Read::read_to_end(&mut stderr, &mut Vec::new()));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let report: Value = serde_json::from_slice(&std::fs::read(&path).expect("written")).expect("JSON");
    let _ = std::fs::remove_file(&path);
    assert_well(&report);
    assert_eq!(report["valid"], false);
    assert!(report["invalid_reason"].as_str().is_some_and(|reason| reason.contains("interrupted")));
    assert!((0.1..300.0).contains(&number(&report, "/duration_s")));
}

/// Starts the tool and reads its standard error until a line has `word`; the rest is read and dropped.
fn start_until(args: &[&str], word: &str) -> std::process::Child {
    let mut child = tool(args).spawn().expect("starts");
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains(word) {
        line.clear();
        let bytes = std::io::BufRead::read_line(&mut stderr, &mut line).expect("readable");
        assert!(bytes > 0, "it ended before it said {word:?}");
    }
    std::thread::spawn(move || std::io::Read::read_to_end(&mut stderr, &mut Vec::new()));
    child
}

/// Seconds from Ctrl-C to the end, and all that was said.
fn end_by_ctrl_c(child: std::process::Child) -> (f64, Output) {
    let begin = unix_s();
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    (unix_s() - begin, output)
}

#[test]
fn echoes_that_never_come_are_given_up() {
    let serve = Listener::start(&["serve", "--mode", "sink"]);
    let args = [
        "load",
        "--target",
        &serve.address,
        "--mode",
        "echo",
        "--duration",
        "0.1",
        "--in-flight",
        "9",
        "--json",
        "-",
    ];
    // By itself after 10 s, not after the two minutes that outcomes may take.
    let given_up = report(&run(&args));
    let took = unix_s() - number(&given_up, "/environment/time");
    assert!(took < 100.0, "{took} s");
    // On Ctrl-C after one more second, not after these 10, with a report.
    let (took, output) = end_by_ctrl_c(start_until(&args, "draining"));
    assert!(took < 9.0, "{took} s");
    for report in [given_up, report(&output)] {
        assert_eq!((&report["delivered"], &report["echoes_missing"]), (&9.into(), &9.into()));
        assert_eq!((&report["ok"], &report["failed"]), (&false.into(), &Value::Object(Default::default())));
    }
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn ctrl_c_while_another_measurement_runs() {
    let path = "/tmp/udp-plus-measure.lock";
    let file =
        std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).expect("opens");
    file.lock().expect("the lock");
    // Without Ctrl-C it would wait for as long as we have the lock.
    let (_, output) = end_by_ctrl_c(start_until(&["bench", "--json", "-"], "waiting for another"));
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "nothing was measured");
}

#[test]
fn an_idle_server_sleeps() {
    for args in [&["serve"][..], &["serve", "--api", "buckets"], &["serve", "--driver", "mmsg"], &["recv"]] {
        let serve = Listener::start(args);
        // Until everything it starts has started.
        let mut before = wake_ups(serve.pid());
        for _ in 0..100 {
            sleep(Duration::from_millis(100));
            let now = wake_ups(serve.pid());
            if now == std::mem::replace(&mut before, now) {
                break;
            }
        }
        assert_rests(serve.pid(), &format!("{args:?}"), 1, 1);
    }
}

#[test]
fn the_ledger_is_printed_where_it_is_asked_for() {
    let serve = Listener::start(&["serve", "--ledger", "--wire", "binary"]);
    let args =
        ["load", "--target", &serve.address, "--wire", "binary", "--duration", "0.2", "--rate", "1000"];
    let output = run(&[&args[..], &["--ledger"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    serve.interrupt();
    let (code, served) = serve.finish();
    let served = String::from_utf8(served).expect("text");
    assert_eq!(code, Some(0), "{served}");
    for (end, text) in [("near", &text), ("far", &served)] {
        let table = text.split(&format!("ledger, {end} end\n")).nth(1).expect(text);
        let row = |name: &str| {
            let row = table.lines().find_map(|line| line.trim_start().strip_prefix(name));
            row.and_then(|row| row.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_else(|| panic!("{name}: {text}"))
        };
        assert_eq!(row("residual"), 0);
        assert!(row("handed to the kernel") > 0 && row("datagrams taken") > 0 && row("OutDatagrams") > 0);
        assert_eq!(row("dropped by the kernel (SO_MEMINFO)"), 0);
    }
}

/// SIGTERM to the server under load: it says what it took and goes, and the other side has a definite outcome for each message.
#[test]
fn a_server_that_is_told_to_go_drains_and_reports() {
    let serve = Listener::start(&["serve", "--wire", "binary", "--ledger"]);
    let args = ["load", "--target", &serve.address, "--wire", "binary", "--rate", "2000", "--duration", "3"];
    // Its second line, in the middle of its run: it may have waited for another test's measurement before it began.
    let load = start_until(&[&args[..], &["--json", "-"]].concat(), "measuring");
    let sent = std::process::Command::new("kill").args(["-TERM", &serve.pid().to_string()]).status();
    assert!(sent.expect("kill runs").success());
    let (code, served) = serve.finish();
    let served = String::from_utf8(served).expect("text");
    assert!(code == Some(0) && served.contains("received"), "{code:?} {served}");
    let residual = served.lines().find(|line| line.starts_with("residual")).expect("a ledger");
    assert!(residual.ends_with(" 0"), "{served}");
    let output = load.wait_with_output().expect("it ends");
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let failed = report["failed"].as_object().expect("causes");
    let failures: f64 = failed.keys().map(|cause| number(&report, &format!("/failed/{cause}"))).sum();
    assert_eq!(number(&report, "/delivered") + failures, number(&report, "/offered"), "{report:#}");
    assert!(failed.contains_key("refused_closing") && number(&report, "/delivered") > 0.0, "{report:#}");
    assert_eq!(number(&report, "/ledger/0/residual"), 0.0);
}
