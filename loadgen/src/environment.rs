//! The machine, as far as it matters to the figures.

use serde::{Deserialize, Serialize};

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
        assert!(environment.kernel.is_some_and(|kernel| kernel.contains('.')));
        assert!(environment.cores.is_some_and(|cores| cores > 0));
        assert!(environment.memory_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }
}
