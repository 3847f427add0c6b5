//! What facts mean for figures, and what to do about it.

use super::facts::Facts;
use super::route::Route;
use crate::load_watch::OTHER_LOAD_MAX;
use serde::Serialize;

/// A core that is away for longer than that of all time has a p99 of its own.
const LOST_SHARE_MAX: f64 = 0.01;
/// Sooner than that no latency is measured in milliseconds.
const LOST_SHARE_NOTED: f64 = 0.000_1;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing.
    Note,
    /// Figures made like this say less than they seem to.
    Bad,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Of what.
    pub name: &'static str,
    /// What is so.
    pub value: String,
    /// How to take it.
    pub verdict: Verdict,
    /// What it means; empty where that is plain.
    pub means: String,
    /// What changes it.
    pub command: Option<String>,
}

fn good(name: &'static str, value: impl Into<String>) -> Finding {
    Finding { name, value: value.into(), verdict: Verdict::Good, means: String::new(), command: None }
}

impl Finding {
    fn but(self, verdict: Verdict, means: impl Into<String>, command: Option<&str>) -> Self {
        Self { verdict, means: means.into(), command: command.map(str::to_owned), ..self }
    }
}

/// Of the machine.
pub fn of_machine(facts: &Facts) -> Vec<Finding> {
    let environment = &facts.environment;
    let mut all = Vec::new();
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    all.push(good("kernel", text(&environment.kernel)));
    let cores = environment.cores.unwrap_or_default();
    let cpu = good("cpu", format!("{}, {cores} cores", text(&environment.cpu)));
    all.push(if cores < 2 {
        cpu.but(Verdict::Bad, "client and server take turns: latencies are the scheduler's", None)
    } else {
        cpu
    });
    let governor = good("governor", text(&environment.governor));
    all.push(match environment.governor.as_deref() {
        Some("performance") | None => governor,
        Some(_) => governor.but(
            Verdict::Bad,
            "the clock rate follows the load: the same work takes longer at low rates",
            Some("cpupower frequency-set -g performance"),
        ),
    });
    let clock = good("clock source", text(&environment.clock_source));
    all.push(match environment.clock_source.as_deref() {
        Some("tsc" | "kvm-clock" | "arch_sys_counter" | "hyperv_clocksource_tsc_page") | None => clock,
        Some(_) => clock.but(
            Verdict::Bad,
            "every look at the clock is a system call, or slower",
            Some("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ),
    });
    let machine = good(
        "virtualisation",
        if environment.virtual_machine == Some(true) { "a virtual machine" } else { "none seen" },
    );
    all.push(match environment.virtual_machine {
        Some(true) => machine.but(
            Verdict::Note,
            "absolute figures change with the neighbours: compare within one run, or the same minutes",
            None,
        ),
        _ => machine,
    });
    all.push(share("steal", facts.steal_cores, "the hypervisor gave our cores to others"));
    all.push(share(
        "other processes",
        facts.other_cores,
        "they use our cores: stop them, or measure elsewhere",
    ));
    all.extend(hiccups(facts));
    all.push(driver(facts));
    all.push(receive_buffer(facts));
    let backlog = facts.netdev_max_backlog;
    let finding =
        good("netdev_max_backlog", backlog.map_or("unknown".into(), |packets| format!("{packets} packets")));
    all.push(match backlog {
        Some(packets) if packets < 1_000 => finding.but(
            Verdict::Bad,
            "loopback and veth drop what one core has not taken yet",
            Some("sysctl -w net.core.netdev_max_backlog=10000"),
        ),
        _ => finding,
    });
    all.push(send_buffer(facts));
    all.push(udp_memory(facts));
    all.push(ports(facts));
    if facts.no_pmtu_discovery.is_some_and(|value| value != 0) {
        all.push(good("ip_no_pmtu_disc", "on").but(
            Verdict::Bad,
            "the kernel may fragment: a lost fragment is a lost datagram",
            Some("sysctl -w net.ipv4.ip_no_pmtu_disc=0"),
        ));
    }
    let tcp = good("tcp", text(&facts.tcp_congestion));
    all.push(match facts.tcp_congestion.as_deref() {
        Some(names) if !names.split(' ').any(|name| name == "cubic") => tcp.but(
            Verdict::Note,
            "the TCP baseline has no cubic, which is faster on loopback",
            Some("modprobe tcp_cubic"),
        ),
        _ => tcp,
    });
    all
}

fn share(name: &'static str, cores: Option<f64>, means: &str) -> Finding {
    match cores {
        None => good(name, "unknown").but(Verdict::Note, "/proc/stat does not say", None),
        Some(cores) if cores > OTHER_LOAD_MAX => {
            good(name, format!("{:.1} % of a core", cores * 100.0)).but(Verdict::Bad, means, None)
        }
        Some(cores) => good(name, format!("{:.1} % of a core", cores * 100.0)),
    }
}

fn hiccups(facts: &Facts) -> impl Iterator<Item = Finding> {
    facts.hiccups.iter().map(|hiccups| {
        let lost = hiccups.share();
        let value = format!(
            "core {}: {:.3} % of the time away, {} times, up to {:.2} ms",
            hiccups.core,
            lost * 100.0,
            hiccups.gaps,
            hiccups.longest_s * 1e3
        );
        let above =
            format!("percentiles above {:.4} are this machine's, whatever is measured", 100.0 * (1.0 - lost));
        match lost {
            lost if lost > LOST_SHARE_MAX => good("hiccups", value).but(
                Verdict::Bad,
                above,
                Some("isolcpus=, nohz_full= on the kernel's command line; fewer neighbours"),
            ),
            lost if lost > LOST_SHARE_NOTED => good("hiccups", value).but(Verdict::Note, above, None),
            _ => good("hiccups", value),
        }
    })
}

fn driver(facts: &Facts) -> Finding {
    if let Some(error) = &facts.start_error {
        return good("engine", error.clone()).but(Verdict::Bad, "no engine starts here", None);
    }
    let (kind, reason) = facts.driver.clone().unwrap_or_default();
    let finding = good("driver", format!("{kind}: {reason}"));
    match kind.as_str() {
        "uring" => finding,
        _ => finding.but(
            Verdict::Note,
            "io_uring does not work here; mmsg does nearly as well",
            facts
                .io_uring_disabled
                .is_some_and(|value| value != 0)
                .then_some("sysctl -w kernel.io_uring_disabled=0"),
        ),
    }
}

fn receive_buffer(facts: &Facts) -> Finding {
    let Some(bytes) = facts.rcvbuf_bytes else { return good("receive buffer", "unknown") };
    let finding = good("receive buffer", format!("{bytes} bytes granted of {}", facts.rcvbuf_wanted_bytes));
    if bytes >= facts.rcvbuf_wanted_bytes {
        return finding;
    }
    let command = format!("sysctl -w net.core.rmem_max={}", facts.rcvbuf_wanted_bytes / 2);
    finding.but(Verdict::Bad, "bursts overflow it sooner, and credit is smaller", Some(&command))
}

/// What the engine wants of a send buffer; the kernel doubles it.
const SEND_BUFFER_BYTES: u64 = 4 << 20;

fn send_buffer(facts: &Facts) -> Finding {
    let name = "net.core.wmem_max";
    match facts.environment.sysctl(name).first() {
        None => good(name, "unknown"),
        Some(bytes) if *bytes >= SEND_BUFFER_BYTES => good(name, format!("{bytes} bytes")),
        Some(bytes) => good(name, format!("{bytes} bytes")).but(
            Verdict::Note,
            "without CAP_NET_ADMIN the send buffer is as small: fewer trains wait in the kernel",
            Some(&format!("sysctl -w {name}={SEND_BUFFER_BYTES}")),
        ),
    }
}

/// Of x86 and most ARM.
const PAGE_BYTES: u64 = 4_096;

/// All UDP sockets of the machine together: beyond the last of the three numbers datagrams are dropped, whatever a socket was granted.
fn udp_memory(facts: &Facts) -> Finding {
    let name = "net.ipv4.udp_mem";
    let pages = facts.environment.sysctl(name);
    let (Some(most), Some(buffer)) = (pages.get(2), facts.rcvbuf_bytes) else { return good(name, "unknown") };
    let finding = good(name, format!("{} MiB for all UDP sockets", (most * PAGE_BYTES) >> 20));
    if most * PAGE_BYTES >= 2 * buffer {
        return finding;
    }
    let wanted = 8 * buffer / PAGE_BYTES;
    finding.but(
        Verdict::Bad,
        "that is less than two receive buffers: datagrams are dropped before a buffer is full",
        Some(&format!("sysctl -w {name}=\"{wanted} {wanted} {wanted}\"")),
    )
}

/// Sockets at port 0 of one address that there should be room for.
const PORTS_WANTED: u64 = 10_000;

fn ports(facts: &Facts) -> Finding {
    let name = "ip_local_port_range";
    match facts.environment.sysctl("net.ipv4.ip_local_port_range")[..] {
        [from, to] if to.saturating_sub(from) >= PORTS_WANTED => good(name, format!("{from} to {to}")),
        [from, to] => good(name, format!("{from} to {to}")).but(
            Verdict::Note,
            "many engines, or many clients of `impair`, find no port",
            Some("sysctl -w net.ipv4.ip_local_port_range=\"32768 60999\""),
        ),
        _ => good(name, "unknown"),
    }
}

/// Of the way to a target.
pub fn of_route(route: &Route) -> Vec<Finding> {
    let device = route.interface.as_deref().unwrap_or("DEVICE");
    let through = match (&route.interface, &route.interface_driver) {
        (Some(name), Some(driver)) => format!(", through {name} ({driver})"),
        (Some(name), None) => format!(", through {name}"),
        _ => String::new(),
    };
    let mut all = vec![good("route", format!("from {} to {}{through}", route.from, route.to))];
    let mtu = good("route's MTU", route.mtu_bytes.map_or("unknown".into(), |bytes| format!("{bytes} bytes")));
    all.push(match (route.mtu_bytes, &route.full_error) {
        (Some(bytes), _) if bytes < 1_228 => mtu.but(
            Verdict::Bad,
            "the binary wire needs 1,228 bytes of IP (RFC 8899 section 5.1.2): use --row-bytes and the csv wire",
            None,
        ),
        (_, Some(error)) => mtu.but(Verdict::Bad, format!("a datagram as long as that does not leave: {error}"), None),
        (Some(bytes), None) if bytes < 1_500 => {
            mtu.but(Verdict::Note, "below Ethernet's 1,500: a tunnel? datagrams are shorter", None)
        }
        _ => mtu,
    });
    let gso = good(
        "trains (GSO)",
        match route.gso_error {
            None => format!("two datagrams of {} bytes left as one train", route.segment_bytes),
            Some(_) => "refused".to_owned(),
        },
    );
    all.push(match &route.gso_error {
        None => gso,
        Some(error) => gso.but(
            Verdict::Bad,
            format!("{error}: datagrams leave one by one, at a fifth of the rate"),
            Some(&format!("ethtool -K {device} tx-udp-segmentation on")),
        ),
    });
    all.push(if route.refused {
        good("target", "nobody listens there").but(
            Verdict::Bad,
            "its host answered that the port is closed (ICMP)",
            Some("udp-plus serve --bind 0.0.0.0:25252"),
        )
    } else {
        answer(route)
    });
    all
}

/// Whether an engine is there.
fn answer(route: &Route) -> Finding {
    let Some(answer) = &route.answer else { return good("target", "not asked") };
    match (&answer.error, answer.rtt_us) {
        (None, Some(us)) => {
            let path = answer.datagram_bytes.map_or_else(String::new, |bytes| {
                format!(", datagrams of {bytes} bytes get there")
            });
            good("target", format!("answers in {us:.0} us over the {} wire{path}", answer.wire))
        }
        (error, _) => good("target", "no answer").but(
            Verdict::Bad,
            format!(
                "a message was not confirmed ({}): is an engine there, without keys, and does the firewall let UDP through, both ways?",
                error.as_deref().unwrap_or("no outcome")
            ),
            Some("udp-plus serve --wire auto --bind 0.0.0.0:25252"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::answer::Answer;
    use crate::doctor::hiccups::Hiccups;
    use crate::environment::Environment;

    fn well() -> Facts {
        Facts {
            environment: Environment {
                kernel: Some("6.12.1".into()),
                cpu: Some("a CPU".into()),
                cores: Some(2),
                governor: Some("performance".into()),
                clock_source: Some("tsc".into()),
                virtual_machine: Some(false),
                ..Environment::default()
            },
            driver: Some(("uring".into(), "it works".into())),
            rcvbuf_bytes: Some(8 << 20),
            rcvbuf_wanted_bytes: 8 << 20,
            steal_cores: Some(0.0),
            other_cores: Some(0.01),
            hiccups: vec![Hiccups { watched_s: 1.0, ..Hiccups::default() }],
            netdev_max_backlog: Some(1_000),
            tcp_congestion: Some("bbr cubic".into()),
            ..Facts::default()
        }
    }

    fn verdict(facts: &Facts, name: &str) -> (Verdict, Option<String>) {
        let finding = of_machine(facts).into_iter().find(|finding| finding.name == name).expect("a finding");
        assert!(finding.verdict == Verdict::Good || !finding.means.is_empty(), "{finding:?} says why");
        (finding.verdict, finding.command)
    }

    #[test]
    fn a_machine_made_for_measuring_is_good_throughout() {
        assert!(of_machine(&well()).iter().all(|finding| finding.verdict == Verdict::Good));
    }

    #[test]
    fn what_spoils_figures_is_bad_and_comes_with_its_command() {
        let mut facts = well();
        for (name, text) in [("net.core.wmem_max", "212992"), ("net.ipv4.ip_local_port_range", "32768 33000")]
        {
            facts.environment.sysctls.insert(name.into(), Some(text.into()));
        }
        for name in ["net.core.wmem_max", "ip_local_port_range"] {
            let (verdict, command) = verdict(&facts, name);
            assert!(verdict == Verdict::Note && command.is_some(), "{name}");
        }
        facts.environment.sysctls.insert("net.ipv4.udp_mem".into(), Some("1000 2000 4000".into()));
        let enough = "sysctl -w net.ipv4.udp_mem=\"16384 16384 16384\"".to_owned();
        assert_eq!(verdict(&facts, "net.ipv4.udp_mem"), (Verdict::Bad, Some(enough)));
        facts.environment.governor = Some("powersave".into());
        facts.environment.clock_source = Some("hpet".into());
        facts.rcvbuf_bytes = Some(425_984);
        facts.netdev_max_backlog = Some(300);
        facts.no_pmtu_discovery = Some(1);
        facts.hiccups[0].lost_s = 0.05;
        for name in
            ["governor", "clock source", "receive buffer", "netdev_max_backlog", "ip_no_pmtu_disc", "hiccups"]
        {
            let (verdict, command) = verdict(&facts, name);
            assert!(verdict == Verdict::Bad && command.is_some(), "{name}");
        }
        assert_eq!(
            verdict(&facts, "receive buffer").1.unwrap_or_default(),
            "sysctl -w net.core.rmem_max=4194304"
        );
        (facts.steal_cores, facts.other_cores) = (Some(0.2), Some(0.5));
        assert_eq!(verdict(&facts, "steal").0, Verdict::Bad);
        assert_eq!(verdict(&facts, "other processes").0, Verdict::Bad);
        facts.environment.cores = Some(1);
        assert_eq!(verdict(&facts, "cpu").0, Verdict::Bad);
    }

    #[test]
    fn an_engine_without_io_uring_is_a_note_and_without_a_start_is_bad() {
        let mut facts = well();
        facts.driver = Some(("mmsg".into(), "io_uring_setup: EPERM".into()));
        facts.io_uring_disabled = Some(2);
        let io_uring = Some("sysctl -w kernel.io_uring_disabled=0".to_owned());
        assert_eq!(verdict(&facts, "driver"), (Verdict::Note, io_uring));
        facts.start_error = Some("no sockets".into());
        assert_eq!(verdict(&facts, "engine").0, Verdict::Bad);
    }

    #[test]
    fn a_route_says_what_it_carries() {
        let route = Route {
            interface: Some("eth0".into()),
            interface_driver: Some("virtio_net".into()),
            segment_bytes: 1_472,
            answer: Some(Answer {
                wire: "binary",
                rtt_us: Some(80.0),
                datagram_bytes: Some(1_472),
                error: None,
            }),
            from: "10.0.0.1:1".into(),
            to: "10.0.0.2:2".into(),
            mtu_bytes: Some(1_500),
            full_error: None,
            gso_error: None,
            refused: false,
        };
        assert!(of_route(&route).iter().all(|finding| finding.verdict == Verdict::Good));
        let worst =
            |route: &Route| of_route(route).iter().filter(|finding| finding.verdict != Verdict::Good).count();
        assert_eq!(worst(&Route { mtu_bytes: Some(1_400), ..route.clone() }), 1);
        assert_eq!(worst(&Route { gso_error: Some("EIO".into()), refused: true, ..route.clone() }), 2);
        assert_eq!(worst(&Route { full_error: Some("EMSGSIZE".into()), ..route.clone() }), 1);
        let text = format!("{:?}", of_route(&route));
        for words in [
            "through eth0 (virtio_net)",
            "1472 bytes left as one train",
            "answers in 80 us over the binary wire",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let refused = of_route(&Route { gso_error: Some("EIO".into()), ..route.clone() });
        assert!(
            refused
                .iter()
                .any(|found| found.command.as_deref() == Some("ethtool -K eth0 tx-udp-segmentation on"))
        );
        let silent =
            Answer { wire: "binary", rtt_us: None, datagram_bytes: None, error: Some("timed out".into()) };
        assert_eq!(worst(&Route { answer: Some(silent), ..route }), 1);
    }
}
