//! What is so on this machine.

use super::hiccups::{Hiccups, watch};
use crate::environment::Environment;
use crate::load_watch::Sample;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Serialize;
use std::time::Duration;
use udp_plus::{Config, Engine};

/// What the engine asks for unless it is told otherwise, as the kernel counts it.
const RCVBUF_WANTED: u64 = 8 << 20;

/// See the module. `None`: this kernel does not say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Facts {
    /// As in every report.
    #[serde(skip)]
    pub environment: Environment,
    /// The driver that an engine has here, and why.
    pub driver: Option<(String, String)>,
    /// Why an engine does not start here.
    pub start_error: Option<String>,
    /// The receive buffer it was granted, as the kernel counts it.
    pub rcvbuf_bytes: Option<u64>,
    /// What it wants.
    pub rcvbuf_wanted_bytes: u64,
    /// What the hypervisor took meanwhile, in cores.
    pub steal_cores: Option<f64>,
    /// What other processes used meanwhile, in cores.
    pub other_cores: Option<f64>,
    /// By core.
    pub hiccups: Vec<Hiccups>,
    /// kernel.io_uring_disabled.
    pub io_uring_disabled: Option<u64>,
    /// net.ipv4.ip_no_pmtu_disc.
    pub no_pmtu_discovery: Option<u64>,
    /// net.core.netdev_max_backlog, in packets.
    pub netdev_max_backlog: Option<u64>,
    /// net.ipv4.tcp_available_congestion_control.
    pub tcp_congestion: Option<String>,
}

impl Facts {
    /// Looks; takes `watch_s` and a little more.
    pub fn gather(watch_s: f64) -> Self {
        let before = Sample::now();
        let cores = cores();
        let hiccups = watch(&cores, Duration::from_secs_f64(watch_s));
        let usage = Sample::now().since(&before);
        let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let environment = Environment::capture();
        let number = |name: &str| environment.sysctl(name).first().copied();
        let mut facts = Self {
            rcvbuf_wanted_bytes: RCVBUF_WANTED,
            steal_cores: usage.steal_cores,
            other_cores: usage.other_cores,
            hiccups,
            io_uring_disabled: number("kernel.io_uring_disabled"),
            no_pmtu_discovery: number("net.ipv4.ip_no_pmtu_disc"),
            netdev_max_backlog: number("net.core.netdev_max_backlog"),
            tcp_congestion: read("/proc/sys/net/ipv4/tcp_available_congestion_control"),
            environment,
            ..Self::default()
        };
        let mut config = Config::default();
        (config.shards, config.rcvbuf_bytes) = (1, (RCVBUF_WANTED / 2) as u32);
        match Engine::builder().config(config).bind("127.0.0.1:0").start() {
            Ok(engine) => {
                facts.driver = Some((engine.driver().kind.to_string(), engine.driver().reason.clone()));
                facts.rcvbuf_bytes = Some(engine.rcvbuf_bytes().into());
            }
            Err(error) => facts.start_error = Some(error.to_string()),
        }
        facts
    }
}

/// Those we may use.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false)).collect()
}
