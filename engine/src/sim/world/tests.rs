use super::auto::wire_of;
use super::{run, run_with};
use crate::config::Wire;
use crate::proto::plugins::Plugins;
use crate::proto::protection::{Direction, FlowProtection, HelloHead, PacketHead, Protection, Unauthentic};
use crate::proto::retry::{Retries, RetryPolicy, RowTry, StandardRetry};
use crate::sim::checkers::Violation;
use crate::sim::lane_order::LaneCounts;
use crate::sim::network::FaultCounts;
use crate::sim::v1_watch::V1Counts;
use crate::wire::DropReason;
use siphasher::sip::SipHasher24;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn seeds_keep_every_promise() {
    let (mut sum, mut v1) = (FaultCounts::default(), V1Counts::default());
    let (mut binary, mut closes, mut given_up, mut falls, mut woken) = (0, 0, 0, 0, 0);
    let (mut lanes, mut held, mut displaced, mut skipped) = (LaneCounts::default(), 0, 0, 0);
    for seed in 0..64 {
        let report = run(seed);
        assert!(report.violations.is_empty(), "{report}");
        // A few of the healed ones are larger than their receiver takes.
        assert!(report.delivered >= super::plan::MESSAGES_HEALED as usize / 2, "{report}");
        binary += u32::from(report.wire == Wire::Binary);
        closes += report.counters.closes_received;
        if report.wire == Wire::Binary {
            given_up += report.counters.partials_cancelled + report.counters.partials_expired;
        }
        sum.add(&report.counts);
        falls += report.counters.path_mtu_falls;
        woken += report.counters.flows_woken;
        lanes.add(&report.lanes);
        held += report.counters.lane_messages_held;
        displaced += report.counters.lane_messages_displaced;
        skipped += report.counters.lane_messages_skipped;
        v1.add(&report.v1);
    }
    assert!((16..48).contains(&binary), "{binary} of 64 seeds on the binary wire");
    assert!(closes > 0, "no engine was told that another one stops");
    assert!(woken > 1_000, "flows slept and woke {woken} times");
    assert!(given_up > 0, "no message was given up half way");
    assert!(lanes.judged > 1_000 && lanes.stepped > 0, "{lanes:?}");
    assert!(
        held > 0 && displaced > 0 && skipped > 0,
        "{held} waited, {displaced} made way, {skipped} skipped"
    );
    assert!(
        [sum.lost, sum.duplicated, sum.reordered, sum.blocked, sum.gso_refused, sum.nowhere, sum.paused]
            .iter()
            .chain(&[sum.overflowed, sum.lost_one_way, sum.corrupted, sum.restarted, sum.rebound])
            .chain(&[sum.too_long, sum.too_long_refused, falls])
            .all(|&n| n > 0),
        "a fault that never happened proves nothing: {sum:?}"
    );
    assert!(
        [v1.stopped, v1.again_lost, v1.again_slow, v1.to_delivered, v1.to_failed].iter().all(|&n| n > 0)
            && [v1.from_delivered, v1.from_incomplete, v1.from_withheld].iter().all(|&n| n > 0),
        "{v1:?}"
    );
}

/// The same answer, whatever is asked.
#[derive(Debug)]
struct Constant(Duration);

impl RetryPolicy for Constant {
    fn row_wait(&self, _: &RowTry, _: u32) -> Duration {
        self.0
    }
    fn hello_wait(&self, _: SocketAddr, _: u32) -> Duration {
        self.0
    }
    fn refused_wait(&self, _: SocketAddr, _: u32) -> Duration {
        self.0
    }
}

fn retried(policy: impl RetryPolicy + 'static) -> Plugins {
    Plugins { retries: Retries(Some(Arc::new(policy))), ..Plugins::default() }
}

#[test]
fn no_retry_policy_breaks_a_promise() {
    let (mut again, mut early) = (0, 0);
    for seed in 0..16 {
        for wait in [Duration::ZERO, Duration::from_millis(300), Duration::MAX] {
            let mut report = run_with(seed, retried(Constant(wait)));
            // Who does not try again does not deliver; all else holds.
            let late = |violation: &Violation| matches!(violation, Violation::NotDeliveredWhenHealed(_));
            report.violations.retain(|violation| wait < Duration::MAX || !late(violation));
            assert!(report.violations.is_empty(), "waits of {wait:?}: {report}");
            again += report.counters.rows_retransmitted;
            early += u64::from(wait == Duration::ZERO) * report.v1.again_slow;
        }
    }
    assert!(again > 0 && early > 0, "sent again {again}, to v1 peers that were slow {early}");
}

#[test]
fn the_standard_retry_policy_is_what_engines_do_without_one() {
    for seed in 0..6 {
        assert_eq!(format!("{}", run(seed)), format!("{}", run_with(seed, retried(StandardRetry))), "{seed}");
    }
}

/// No cipher: a keyed hash as the tag, and bytes that are not the plain ones.
#[derive(Clone, Copy, Debug)]
struct Toy(u64);

impl Toy {
    const TAG_BYTES: usize = 8;

    fn tag(self, associated: &[u8], number: u64, sealed: &[u8]) -> [u8; Self::TAG_BYTES] {
        let mut hasher = SipHasher24::new_with_keys(self.0, number);
        (associated, sealed).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    }

    fn seal(self, associated: &[u8], number: u64, body: &mut [u8]) {
        let (plain, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
        plain.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
        tag.copy_from_slice(&self.tag(associated, number, plain));
    }

    fn open(self, associated: &[u8], number: u64, body: &mut [u8]) -> Result<(), Unauthentic> {
        let (sealed, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
        if *tag != self.tag(associated, number, sealed) {
            return Err(Unauthentic);
        }
        sealed.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
        Ok(())
    }
}

impl Protection for Toy {
    fn tag_bytes(&self) -> usize {
        Self::TAG_BYTES
    }
    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        (*self).seal(head.associated, 0, body);
    }
    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        (*self).open(head.associated, 0, body)
    }
    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let mut hasher = SipHasher24::new_with_keys(self.0, 1);
        format!("{:?}", (direction.sender, direction.receiver, direction.route, direction.from_opener))
            .hash(&mut hasher);
        Box::new(Self(hasher.finish()))
    }
}

impl FlowProtection for Toy {
    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        (*self).seal(head.associated, head.packet_number, body);
    }
    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        (*self).open(head.associated, head.packet_number, body)
    }
}

#[test]
fn sealed_flows_keep_every_promise() {
    let (mut sum, mut delivered, mut unauthentic) = (FaultCounts::default(), 0, 0);
    for seed in (0..40).filter(|&seed| wire_of(seed) == Wire::Binary) {
        let plugins = Plugins { protection: Some(Arc::new(Toy(77))), ..Plugins::default() };
        let report = run_with(seed, plugins);
        assert!(report.violations.is_empty(), "{report}");
        delivered += report.delivered;
        unauthentic += report.counters.dropped(DropReason::BinaryUnauthentic);
        assert_eq!(report.counters.dropped(DropReason::BinaryChecksum), 0);
        sum.add(&report.counts);
    }
    assert!(delivered > 1_000 && unauthentic > 0, "{delivered} {unauthentic}");
    assert!([sum.lost, sum.corrupted, sum.restarted, sum.rebound].iter().all(|&n| n > 0), "{sum:?}");
}

#[test]
fn a_seed_is_repeated_exactly() {
    let kinds =
        [(11, Wire::Csv, false), (6, Wire::Csv, true), (7, Wire::Binary, false), (8, Wire::Auto, true)];
    for (seed, wire, v1_peers) in kinds {
        let (a, b) = (run(seed), run(seed));
        assert_eq!((a.wire, a.v1_peers > 0), (wire, v1_peers));
        assert_eq!(format!("{a}"), format!("{b}"));
    }
}
