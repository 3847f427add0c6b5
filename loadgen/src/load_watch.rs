//! Was this machine ours? What other processes and the hypervisor took while we measured, from /proc/stat.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use std::time::{Duration, Instant};

/// Of one core; more makes a measurement invalid.
pub const OTHER_LOAD_MAX: f64 = 0.10;
/// /proc/stat counts in these.
const TICKS_PER_S: f64 = 100.0;
/// Where every interrupt is timed, hard ones take more than this of what softirqs do. Where the tick samples instead, it is one
/// itself: only the few that it interrupts are seen.
const TIMED_SHARE: f64 = 0.005;

/// A point in time, and what had been used until then.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    at: Instant,
    own_s: f64,
    /// user + nice + system, of all processes.
    processes_s: f64,
    /// Hard interrupts.
    irq_s: f64,
    softirq_s: f64,
    steal_s: f64,
}

/// What was used between two samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time of this process.
    pub own_s: f64,
    /// Load of all others, in cores; `None` if the kernel does not tell.
    pub other_cores: Option<f64>,
    /// Time the hypervisor gave to others, in cores.
    pub steal_cores: Option<f64>,
}

impl Sample {
    /// Now.
    pub fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").ok().and_then(|text| parse_stat(&text));
        let [processes_s, irq_s, softirq_s, steal_s] = stat.unwrap_or([f64::NAN; 4]);
        Self { at: crate::clock::now(), own_s: process_cpu_s(), processes_s, irq_s, softirq_s, steal_s }
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Usage {
        let elapsed = self.at.duration_since(earlier.at).max(Duration::from_millis(1)).as_secs_f64();
        let own_s = self.own_s - earlier.own_s;
        let processes = self.processes_s - earlier.processes_s;
        let interrupts = self.irq_s - earlier.irq_s + self.softirq_s - earlier.softirq_s;
        // Kernels differ in whether the softirq work done in our context (all of loopback's receiving) is booked on us, too. Those
        // that time every interrupt (IRQ_TIME_ACCOUNTING) keep it from us; of the others it is known only that it is no more than
        // all softirqs, which shows no less of others than there was.
        let is_booked_on_us = self.irq_s <= TIMED_SHARE * self.softirq_s || own_s > processes;
        let ours = if is_booked_on_us { (own_s - interrupts).max(0.0) } else { own_s };
        // What is unknown stays so.
        let others = (processes - ours).clamp(0.0, f64::INFINITY);
        let known = |value: f64| value.is_finite().then_some(value / elapsed);
        Usage { own_s, other_cores: known(others), steal_cores: known(self.steal_s - earlier.steal_s) }
    }
}

impl Usage {
    /// Why what was measured meanwhile is not to be trusted, if so.
    pub fn invalid_reason(&self) -> Option<String> {
        let too_much = |cores: Option<f64>| cores.is_some_and(|cores| cores > OTHER_LOAD_MAX);
        let percent = |cores: Option<f64>| cores.unwrap_or_default() * 100.0;
        if self.other_cores.is_none() {
            return Some("nobody knows what other processes used: /proc/stat says nothing".to_owned());
        }
        if too_much(self.other_cores) {
            return Some(format!("other processes used {:.0} % of a core", percent(self.other_cores)));
        }
        too_much(self.steal_cores)
            .then(|| format!("the hypervisor took {:.0} % of a core away (steal)", percent(self.steal_cores)))
    }
}

/// CPU seconds this process has used.
pub fn process_cpu_s() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(f64::NAN, |usage| {
        (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6
    })
}

/// Seconds of [processes, hard interrupts, softirqs, steal].
fn parse_stat(text: &str) -> Option<[f64; 4]> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] else { return None };
    Some([user + nice + system, irq, softirq, steal].map(|ticks| ticks / TICKS_PER_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(
        at: Instant,
        seconds: u64,
        [own_s, processes_s]: [f64; 2],
        [irq_s, softirq_s]: [f64; 2],
        steal_s: f64,
    ) -> Sample {
        Sample { at: at + Duration::from_secs(seconds), own_s, processes_s, irq_s, softirq_s, steal_s }
    }

    #[test]
    fn reads_the_kernels_table() {
        let text =
            "cpu  18061 10 10839 589900 2153 4 1814 994 0 0\ncpu0 8362 0 5378 296458 144 0 1296 456 0 0\n";
        assert_eq!(parse_stat(text), Some([289.10, 0.04, 18.14, 9.94]));
        assert_eq!(parse_stat("cpu 1 2 3"), None);
        let now = Sample::now();
        assert!(now.processes_s > 0.0 && now.own_s >= 0.0);
    }

    #[test]
    fn own_load_is_not_other_load_however_the_kernel_books_softirqs() {
        let at = crate::clock::now();
        // Since the start: one of a kernel that samples, and one of a kernel that times.
        let [sampled, timed] = [[0.0, 10.0], [1.0, 9.0]].map(|before| sample(at, 0, [0.0; 2], before, 0.0));
        // 8 of 10 cpu-seconds ours, 2 of them softirq: booked on us (system then lacks them), or not.
        let ours = [
            sample(at, 5, [8.0, 6.0], [0.0, 12.0], 0.0).since(&sampled),
            sample(at, 5, [6.0, 6.0], [1.2, 10.8], 0.0).since(&timed),
        ];
        for usage in ours {
            assert_eq!((usage.other_cores, usage.invalid_reason()), (Some(0.0), None));
        }
        // The same, and 2.4 of others: they do not pass for our softirqs, also where the tick came amid hard interrupts.
        for [hard, soft] in [[0.0, 12.0], [0.03, 12.0]] {
            let usage = sample(at, 5, [8.0, 8.4], [hard, soft], 0.0).since(&sampled);
            let cores = usage.other_cores.expect("known");
            assert!((0.479..0.49).contains(&cores), "{cores}");
            assert!(usage.invalid_reason().is_some_and(|reason| reason.contains("other processes used 4")));
        }
        // What is booked on nobody (an interface's softirqs while idle) is no more of others than there is of processes.
        let usage = sample(at, 5, [1.0, 1.1], [0.0, 13.0], 0.0).since(&sampled);
        assert!(usage.other_cores.is_some_and(|cores| (0.0..0.23).contains(&cores)), "{usage:?}");
        let usage = sample(at, 5, [6.0, f64::NAN], [f64::NAN; 2], f64::NAN).since(&timed);
        assert_eq!((usage.other_cores, usage.steal_cores), (None, None));
        assert!(usage.invalid_reason().is_some_and(|reason| reason.contains("/proc/stat")));
        let usage = sample(at, 5, [6.0, 7.0], [1.2, 10.8], 0.0).since(&timed);
        assert_eq!(usage.other_cores, Some(0.2));
        assert!(usage.invalid_reason().is_some_and(|reason| reason.contains("20 %")));
        let usage = sample(at, 5, [6.0, 6.0], [1.2, 10.8], 1.0).since(&timed);
        assert!(usage.invalid_reason().is_some_and(|reason| reason.contains("steal")));
    }
}
