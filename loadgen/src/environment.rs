//! The machine, as far as it matters to the figures.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Those that sockets, loopback and the drivers depend on.
const SYSCTLS: [&str; 15] = [
    "kernel.io_uring_disabled",
    "kernel.sched_autogroup_enabled",
    "net.core.netdev_budget",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_no_pmtu_disc",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.udp_mem",
    "net.ipv4.udp_rmem_min",
    "net.ipv4.udp_wmem_min",
];

/// What a report says about where it was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Environment {
    /// Kernel release.
    pub kernel: Option<String>,
    /// CPU model.
    pub cpu: Option<String>,
    /// Cores this process may use.
    pub cores: Option<u64>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Frequency governor of the first core.
    #[serde(default)]
    pub governor: Option<String>,
    /// Where the kernel's time comes from.
    #[serde(default)]
    pub clock_source: Option<String>,
    /// Hypervisor flag of the CPU.
    pub virtual_machine: Option<bool>,
    /// net.core.rmem_max.
    pub rmem_max_bytes: Option<u64>,
    /// net.core.wmem_max.
    pub wmem_max_bytes: Option<u64>,
    /// Sysctls that matter, as `sysctl -n` prints them; null: this kernel has none of that name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, Option<String>>,
    /// Load average over a minute, before the measurement.
    pub load_average: Option<f64>,
    /// Version of this tool.
    pub udp_plus: String,
    /// The command line.
    pub command: String,
    /// Seconds since the Unix epoch.
    pub time: f64,
}

impl Environment {
    /// Of this machine, now.
    pub fn capture() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let cpu_field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu_field("model name").or_else(|| cpu_field("CPU part")),
            cores: std::thread::available_parallelism().ok().map(|cores| cores.get() as u64),
            memory_bytes: read("/proc/meminfo").as_deref().and_then(memory_bytes),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            virtual_machine: cpu_field("flags")
                .map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            rmem_max_bytes: read("/proc/sys/net/core/rmem_max").and_then(|text| text.parse().ok()),
            wmem_max_bytes: read("/proc/sys/net/core/wmem_max").and_then(|text| text.parse().ok()),
            sysctls: SYSCTLS
                .iter()
                .map(|name| {
                    let text = read(&format!("/proc/sys/{}", name.replace('.', "/")));
                    let words = text.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
                    ((*name).to_owned(), words)
                })
                .collect(),
            load_average: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            udp_plus: env!("CARGO_PKG_VERSION").to_owned(),
            command: std::env::args_os()
                .map(|arg| arg.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            time: crate::clock::unix_s(),
        }
    }
}

impl Environment {
    /// The numbers of a sysctl; none where it is not there, or is a text.
    pub fn sysctl(&self, name: &str) -> Vec<u64> {
        let text = self.sysctls.get(name).and_then(Option::as_deref).unwrap_or_default();
        text.split(' ').map_while(|word| word.parse().ok()).collect()
    }
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_machine() {
        let environment = Environment::capture();
        for name in ["net.core.rmem_max", "net.core.wmem_default", "net.ipv4.udp_rmem_min"] {
            assert_eq!(environment.sysctl(name).len(), 1, "{name}");
        }
        let bytes = environment.rmem_max_bytes;
        assert_eq!(environment.sysctl("net.core.rmem_max").first().copied(), bytes);
        assert_eq!(environment.sysctl("net.ipv4.udp_mem").len(), 3);
        assert_eq!(environment.sysctl("net.ipv4.tcp_congestion_control").len(), 0, "a text");
        assert_eq!(environment.sysctls.len(), SYSCTLS.len());
        assert!(environment.kernel.is_some_and(|kernel| kernel.contains('.')));
        assert!(environment.cores.is_some_and(|cores| cores > 0));
        assert!(environment.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }
}
