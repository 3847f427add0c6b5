//! `run`: a plan as a process, and its steps as processes of it.

use crate::support::{assert_schema, interrupt, run, run_at_rate, sleep, status, tool};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::time::Duration;

/// A file that is gone afterwards.
struct Plan(PathBuf);

impl Plan {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("udp-plus-plan-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).expect("writable");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("ASCII")
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("standard output is not JSON alone: {error}\n{}", status(output).1))
}

/// Load through a bad network, whose loss both ends make good; a step that fails does not keep the next one from running.
#[test]
fn every_step_has_its_report_and_one_that_fails_fails_the_plan() {
    let plan = Plan::new(
        "whole",
        r#"
        question = "does it run?"
        [defaults]
        wire = "binary"
        duration = 0.3
        late-max-us = 1000000
        baseline = 0
        [[step]]
        name = "far end"
        verb = "serve"
        [[step]]
        name = "bad network"
        verb = "impair"
        to = "{far end}"
        loss = 3
        seed = 7
        [[step]]
        name = "through it"
        verb = "load"
        target = "{bad network}"
        rate = 2000
        [[step]]
        name = "too much to ask"
        verb = "bench"
        rate = 1000
        slo = "p50<1ns"
        [[step]]
        name = "knee"
        verb = "search"
        rate = 2000
        trials = 1
        width = 50
        slo = "p50<100s"
        "#,
    );
    let output = run_at_rate(&["run", plan.path(), "--json", "-"]);
    let (code, table) = status(&output);
    let report = report(&output);
    assert_eq!(
        (code, &report["ok"], &report["interrupted"]),
        (Some(1), &false.into(), &false.into()),
        "{table}"
    );
    assert_eq!((&report["schema"], &report["question"]), (&1.into(), &"does it run?".into()));
    let steps = report["steps"].as_array().expect("steps");
    let of = |name: &str| steps.iter().find(|step| step["name"] == name).expect(name);
    assert_eq!(steps.len(), 5);
    for name in ["far end", "bad network", "through it", "knee"] {
        assert_eq!((&of(name)["ok"], &of(name)["status"]), (&true.into(), &0.into()), "{:#}", of(name));
    }
    for name in ["through it", "too much to ask"] {
        assert_schema(&of(name)["report"]);
        assert!(of(name)["report"]["environment"]["command"].is_string());
    }
    let failed = of("too much to ask");
    assert_eq!((&failed["ok"], &failed["status"]), (&false.into(), &1.into()));
    assert!(failed["causes"][0].as_str().is_some_and(|cause| cause.starts_with("SLO: p50 is")), "{failed:#}");
    let relayed = &of("bad network")["report"];
    assert!(
        relayed["sent_up"]["lost"].as_u64().is_some_and(|lost| lost > 0),
        "the load went through it: {relayed:#}"
    );
    assert_eq!(of("knee")["report"]["end"], "at_max");
    assert!(of("far end")["said"].as_str().is_some_and(|said| said.contains("twice           0")));
    for words in ["does it run?", "through it", "FAILED: SLO: p50 is", "1 of 5 steps failed"] {
        assert!(table.contains(words), "{words}: {table}");
    }
}

#[test]
fn a_plan_is_checked_without_a_datagram() {
    let there = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = there.local_addr().expect("bound").to_string();
    let text = format!("[[step]]\nname = \"a\"\nverb = \"load\"\ntarget = \"{target}\"\nrate = 1e3\n");
    let plan = Plan::new("check", &text);
    let output = run(&["run", plan.path(), "--check", "--set", "duration=1"]);
    let (code, stderr) = status(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{said}");
    let line = format!("udp-plus load --duration=1 --rate=1000 --target={target}");
    assert!(said.contains(&line) && said.contains("1 steps, nothing wrong"), "{said}");
    there.set_nonblocking(true).expect("ours");
    assert!(there.recv(&mut [0; 64]).is_err(), "nothing was sent");

    let plan = Plan::new("bad", &(text + "sise = 5\n"));
    for more in [&["--check"][..], &[]] {
        let (code, stderr) = status(&run(&[&["run", plan.path()], more].concat()));
        let names = [plan.path(), "step \"a\"", "\"sise\"", "size"];
        assert!(code == Some(2) && names.iter().all(|name| stderr.contains(name)), "{stderr}");
    }
    let (code, stderr) = status(&run(&["run", "/no/such/plan.toml"]));
    assert!(code == Some(1) && stderr.contains("/no/such/plan.toml"), "{stderr}");
    assert_eq!(run(&["run"]).status.code(), Some(2));
}

#[test]
fn what_cannot_listen_ends_the_plan() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let bind = taken.local_addr().expect("bound");
    let plan = Plan::new(
        "taken",
        &format!(
            "[[step]]\nname = \"s\"\nverb = \"serve\"\nbind = \"{bind}\"\n\
             [[step]]\nname = \"l\"\nverb = \"load\"\ntarget = \"{{s}}\"\n"
        ),
    );
    let output = run(&["run", plan.path(), "--json", "-"]);
    let report = report(&output);
    assert_eq!((output.status.code(), report["steps"].as_array().map(Vec::len)), (Some(1), Some(1)));
    let cause = report["steps"][0]["causes"][0].to_string();
    assert!(cause.contains("status 1") && cause.contains("in use"), "{cause}");
    assert_eq!(report["causes"][0], "1 of 2 steps did not run");
}

/// Starts a plan whose first step is a server. By the time it is back the next step measures; and where the server listens.
fn start(plan: &Plan, more: &[&str]) -> (Child, String) {
    let args = [&["run", plan.path(), "--verbose"], more].concat();
    let mut child = tool(&args).spawn().expect("the tool starts");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (mut address, mut line) = (String::new(), String::new());
    // Its line of every second.
    while !line.contains("messages/s") || line.contains("verdict") {
        line.clear();
        assert!(stderr.read_line(&mut line).expect("readable") > 0, "it ended before it was interrupted");
        if let Some(listening) = line.strip_prefix("listening ") {
            address = listening.trim().to_owned();
        }
    }
    std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
    (child, address)
}

/// A process that was killed is gone soon, not at once.
fn assert_is_free(address: &str) {
    for _ in 0..1_000 {
        if UdpSocket::bind(address).is_ok() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("somebody is left at {address}");
}

/// Ctrl-C: what runs ends in order, what listens too, and the reports are written.
#[test]
fn an_interrupted_plan_leaves_nobody_behind() {
    let plan = Plan::new(
        "interrupted",
        "[[step]]\nname = \"s\"\nverb = \"serve\"\n\
         [[step]]\nname = \"l\"\nverb = \"load\"\ntarget = \"{s}\"\nrate = 500\nduration = 600\n\
         [[step]]\nname = \"never\"\nverb = \"load\"\ntarget = \"{s}\"\n",
    );
    let (child, address) = start(&plan, &["--json", "-"]);
    interrupt(&child);
    let output = child.wait_with_output().expect("it ends");
    let report = report(&output);
    assert_eq!((output.status.code(), &report["interrupted"]), (Some(1), &true.into()));
    let load = &report["steps"][0];
    assert_eq!((&load["name"], &load["valid"]), (&"l".into(), &false.into()), "{load:#}");
    assert_eq!(load["report"]["offered"], load["report"]["delivered"]);
    assert_eq!((&report["steps"][1]["name"], &report["steps"][1]["status"]), (&"s".into(), &0.into()));
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(2));
    assert_is_free(&address);
}

/// Ctrl-C again, while a step waits for a peer that does not answer: the end comes at once, for all of them.
#[test]
fn who_insists_ends_the_steps_as_well() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let target = silent.local_addr().expect("bound");
    let plan = Plan::new(
        "insists",
        &format!(
            "[[step]]\nname = \"s\"\nverb = \"serve\"\n[[step]]\nname = \"l\"\nverb = \"load\"\n\
             target = \"{target}\"\nrate = 500\nduration = 600\n"
        ),
    );
    let (mut child, address) = start(&plan, &[]);
    while child.try_wait().expect("ours").is_none() {
        interrupt(&child);
        sleep(Duration::from_millis(100));
    }
    assert_eq!(child.wait().expect("ended").signal(), Some(2));
    assert_is_free(&address);
}

/// Nobody is left to tell the steps: they see it.
#[test]
fn a_plan_that_is_killed_leaves_nobody_behind() {
    let plan = Plan::new(
        "killed",
        "[[step]]\nname = \"s\"\nverb = \"serve\"\n\
         [[step]]\nname = \"l\"\nverb = \"load\"\ntarget = \"{s}\"\nrate = 500\nduration = 600\n",
    );
    let (mut child, address) = start(&plan, &[]);
    child.kill().expect("ours");
    child.wait().expect("ended");
    assert_is_free(&address);
    // The one that measured had the lock for as long as it lived.
    let lock = std::fs::OpenOptions::new().write(true).open("/tmp/udp-plus-measure.lock").expect("there");
    lock.lock().expect("the lock");
}
