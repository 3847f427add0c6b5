use super::auto::wire_of;
use super::v1::SimV1;
use super::{World, run, run_with, run_with_keys};
use crate::config::Wire;
use crate::hash::Seed;
use crate::proto::plugins::Plugins;
use crate::proto::retry::{Retries, RetryPolicy, RowTry, StandardRetry};
use crate::sim::checkers::{Log, Violation};
use crate::sim::faults::{FaultCounts, Faults};
use crate::sim::network::Network;
use crate::sim::scenes::SceneCounts;
use crate::sim::tally::Tally;
use crate::sim::toy_cipher::Toy;
use crate::wire::DropReason;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A few: CI runs 2,000, and judges that nothing is missing in them.
#[test]
fn seeds_keep_every_promise() {
    let mut tally = Tally::default();
    for seed in 0..24 {
        let report = run(seed);
        assert!(report.violations.is_empty(), "{report}");
        assert!(
            report.messages >= 2_000 && report.engines.len() >= 2 && report.counts.kinds() >= 3,
            "{report}"
        );
        tally.add(&report);
    }
    assert!(tally.delivered > tally.messages / 2, "{tally}");
    assert!(tally.counters.flows_woken > 1_000 && tally.lanes.judged > 1_000, "{tally}");
    let missing = tally.missing();
    assert!(missing.len() < 12, "{missing:?}");
}

/// A world without messages, and one that a v1 peer does not survive.
#[test]
fn what_proves_nothing_and_what_kills_a_v1_peer() {
    let mut world = World::new(0, Plugins::default(), None);
    let start = world.network.borrow().now();
    world.run(start);
    let report = world.report(0, Faults::default());
    assert!(matches!(report.violations[..], [Violation::TooLittle(_)]), "{:?}", report.violations);

    let [peer, engine] = [1, 2].map(|host| SocketAddr::from(([10, 0, 1, host], 25_252)));
    let mut network = Network::new(Seed::from_number(1).rng(0), Faults::default());
    let mut log = Log::new(network.trace.clone());
    let mut v1 = SimV1::new(peer, 0, 1, &mut network);
    network.fly(engine, peer, b"1,2,,x,y", 8);
    let arrives = network.next_event().unwrap();
    network.advance(arrives);
    v1.turn(&mut network, &mut log);
    assert!(matches!(log.violations[..], [Violation::PeerDied(_)]), "{:?}", log.violations);
}

/// The same answer, whatever is asked.
#[derive(Debug)]
struct Constant(Duration);

impl RetryPolicy for Constant {
    fn row_wait(&self, _: &RowTry, _: u32) -> Duration {
        self.0
    }
    fn hello_wait(&self, _: SocketAddr, _: u32, _: u32) -> Duration {
        self.0
    }
    fn refused_wait(&self, _: SocketAddr, _: u32, _: u32) -> Duration {
        self.0
    }
}

fn retried(policy: impl RetryPolicy + 'static) -> Plugins {
    Plugins { retries: Retries(Some(Arc::new(policy))), ..Plugins::default() }
}

#[test]
fn no_retry_policy_breaks_a_promise() {
    let (mut again, mut early) = (0, 0);
    for seed in 0..6 {
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
        let [without, with] =
            [Plugins::default(), retried(StandardRetry)].map(|plugins| run_with(seed, plugins));
        assert_eq!(format!("{without}"), format!("{with}"), "{seed}");
    }
}

#[test]
fn sealed_flows_keep_every_promise() {
    let (mut sum, mut delivered, mut unauthentic) = (FaultCounts::default(), 0, 0);
    for seed in (0..20).filter(|&seed| wire_of(seed) == Wire::Binary) {
        let plugins = Plugins { protection: Some(Arc::new(Toy(77))), ..Plugins::default() };
        let report = run_with(seed, plugins);
        assert!(report.violations.is_empty(), "{report}");
        delivered += report.delivered;
        unauthentic += report.counters.dropped(DropReason::BinaryUnauthentic);
        assert_eq!(report.counters.dropped(DropReason::BinaryChecksum), 0);
        sum.add(&report.counts);
    }
    assert!(delivered > 5_000 && unauthentic > 0, "{delivered} {unauthentic}");
    assert!([sum.lost, sum.corrupted, sum.restarted, sum.rebound].iter().all(|&n| n > 0), "{sum:?}");
}

#[test]
fn sealed_flows_keep_every_promise_while_their_keys_change() {
    let mut sum = SceneCounts::default();
    let mut delivered = 0;
    let binary = |seed: &u64| wire_of(*seed) == Wire::Binary;
    for seed in (0..30).filter(binary) {
        let report = run_with_keys(seed);
        assert!(report.violations.is_empty(), "{report}");
        if delivered == 0 {
            assert_eq!(report.hash, run_with_keys(seed).hash, "nothing in it is random");
        }
        delivered += report.delivered;
        sum.add(&report.scenes);
    }
    let SceneCounts { keys_added, keys_turned, keys_taken_away, second_phase, .. } = sum;
    let steps = [keys_added, keys_turned, keys_taken_away];
    assert!(
        delivered > 5_000 && second_phase > 0 && steps.iter().all(|&count| count > 3),
        "{delivered} {sum:?}"
    );
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
