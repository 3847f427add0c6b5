//! The ways between hosts: losses by chance and in bursts, hosts cut off from others, and queues in front of slow links.

use super::faults::{FaultCounts, Faults};
use crate::hash::Rng;
use crate::units::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest burst of losses.
const BURST_MAX: u32 = 60;

/// A datagram about to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Going {
    pub(crate) now: Instant,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// By receiver: datagrams still to be lost.
    bursts: BTreeMap<SocketAddr, u32>,
    /// By receiver: when its queue is empty.
    busy_until: BTreeMap<SocketAddr, Instant>,
    /// Hosts that are cut off from all others, and until when.
    island: Option<(BTreeSet<IpAddr>, Instant)>,
    /// The direction that loses more, and takes longer.
    one_way: Option<(SocketAddr, SocketAddr)>,
}

/// Chance of `per_mille` in a thousand.
pub(crate) fn chance(rng: &mut Rng, per_mille: u32) -> bool {
    per_mille > 0 && rng.below(1_000) < per_mille
}

impl Links {
    /// From now on datagrams from `from` to `to` suffer from `one_way_loss` and `one_way_delay_us`.
    pub(crate) fn set_one_way(&mut self, from: SocketAddr, to: SocketAddr) {
        self.one_way = Some((from, to));
    }

    /// Nothing passes between these and all others.
    pub(crate) fn cut_off(&mut self, hosts: BTreeSet<IpAddr>, until: Instant) {
        self.island = Some((hosts, until));
    }

    pub(crate) fn heal(&mut self) {
        *self = Self::default();
    }

    /// How much longer a datagram takes; `None`: it is lost.
    pub(crate) fn pass(
        &mut self,
        going: &Going,
        faults: &Faults,
        rng: &mut Rng,
        counts: &mut FaultCounts,
    ) -> Option<Duration> {
        let &Going { now, from, to, bytes } = going;
        if let Some((hosts, until)) = &self.island
            && now < *until
            && hosts.contains(&from.ip()) != hosts.contains(&to.ip())
        {
            counts.partitioned += 1;
            return None;
        }
        if chance(rng, faults.loss) {
            counts.lost += 1;
            return None;
        }
        if faults.burst > 0 {
            let left = self.bursts.entry(to).or_default();
            if *left == 0 && chance(rng, faults.burst) {
                *left = 2 + rng.below(BURST_MAX - 1);
            }
            if *left > 0 {
                *left -= 1;
                counts.lost_in_bursts += 1;
                return None;
            }
        }
        let mut more = Duration::ZERO;
        if self.one_way == Some((from, to)) {
            if chance(rng, faults.one_way_loss) {
                counts.lost_one_way += 1;
                return None;
            }
            if faults.one_way_delay_us > 0 {
                counts.delayed_one_way += 1;
                more += Duration::from_micros(faults.one_way_delay_us.into());
            }
        }
        if faults.rate > 0 {
            let busy_until = self.busy_until.entry(to).or_insert(now);
            let wait = busy_until.since(now);
            if wait.as_micros() as u64 * u64::from(faults.rate) / 1_000 > faults.queue_bytes.into() {
                counts.queue_dropped += 1;
                return None;
            }
            counts.queued += u64::from(wait > Duration::ZERO);
            let takes = Duration::from_nanos(bytes as u64 * 1_000_000 / u64::from(faults.rate));
            *busy_until = now + wait + takes;
            more += wait + takes;
        }
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;

    fn host(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 1))
    }

    #[test]
    fn a_slow_link_queues_and_then_drops() {
        let (mut links, mut counts) = (Links::default(), FaultCounts::default());
        let mut rng = Seed::from_number(1).rng(1);
        let faults = Faults { rate: 1_000, queue_bytes: 2_500, ..Faults::default() };
        let now = Instant::from_ns(1_000_000_000);
        let going = Going { now, from: host(1), to: host(2), bytes: 1_000 };
        let waits = [1, 2, 3].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!([(); 3].map(|()| links.pass(&going, &faults, &mut rng, &mut counts)), waits);
        assert_eq!(links.pass(&going, &faults, &mut rng, &mut counts), None);
        let later = Going { now: now + Duration::from_millis(2), ..going };
        assert_eq!(links.pass(&later, &faults, &mut rng, &mut counts), Some(Duration::from_millis(2)));
        assert_eq!((counts.queued, counts.queue_dropped), (3, 1));
    }

    #[test]
    fn an_island_hears_itself_alone_and_not_for_ever() {
        let (mut links, mut counts) = (Links::default(), FaultCounts::default());
        let mut rng = Seed::from_number(1).rng(1);
        let now = Instant::from_ns(1_000_000_000);
        let until = now + Duration::from_secs(1);
        links.cut_off([host(1).ip(), host(2).ip()].into(), until);
        let mut passes = |now, from, to| {
            let going = Going { now, from: host(from), to: host(to), bytes: 1 };
            links.pass(&going, &Faults::default(), &mut rng, &mut counts).is_some()
        };
        assert!(passes(now, 1, 2) && passes(now, 3, 4));
        assert!(!passes(now, 1, 3) && !passes(now, 3, 2));
        assert!(passes(until, 1, 3));
        assert_eq!(counts.partitioned, 2);
    }
}
