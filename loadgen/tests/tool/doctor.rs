//! `doctor`: what it says of a target.

use crate::support::{Listener, run, status};
use serde_json::Value;
use std::net::UdpSocket;

fn look(target: &str) -> Value {
    let output = run(&["doctor", "--watch", "0.1", "--target", target, "--json", "-"]);
    assert_eq!(output.status.code(), Some(0), "{}", status(&output).1);
    serde_json::from_slice(&output.stdout).expect("JSON alone")
}

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut findings = report["findings"].as_array().expect("findings").iter();
    findings.find(|finding| finding["name"] == name).expect(name)
}

#[test]
fn a_target_answers_or_not_and_every_sysctl_is_there() {
    let serve = Listener::start(&["serve", "--wire", "binary"]);
    let report = look(&serve.address);
    assert_eq!((&report["route"]["interface"], &report["route"]["refused"]), (&"lo".into(), &false.into()));
    assert_eq!(report["route"]["answer"]["wire"], "binary");
    assert_eq!(finding(&report, "target")["verdict"], "good", "{report:#}");
    assert!(
        finding(&report, "trains (GSO)")["value"].as_str().is_some_and(|value| value.contains("left as one"))
    );
    assert!(report["environment"]["sysctls"]["net.core.rmem_max"].is_string(), "{report:#}");
    serve.interrupt();
    let (code, said) = serve.finish();
    let said = String::from_utf8_lossy(&said);
    assert!(code == Some(0) && said.contains("not from load   1"), "{said}");

    let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let report = look(&silent.local_addr().expect("bound").to_string());
    let found = finding(&report, "target");
    assert!(found["verdict"] == "bad" && found["command"].is_string(), "{found:#}");
}
