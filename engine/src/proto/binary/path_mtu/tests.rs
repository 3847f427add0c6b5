//! `PathMtu` over a real `Recovery` and a seeded path: datagrams are lost at random, and beyond some length always.

use super::*;
use crate::hash::{Rng, Seed};
use crate::proto::binary::packet_pool::Slot;
use crate::proto::binary::recovery::{Fate, Recovery, Sent, Timeout};
use std::collections::BTreeSet;

const MAX: usize = 1_472;
const RTT: Duration = Duration::from_millis(10);
/// Data of one flight, a millisecond apart.
const STEP_TIME: Duration = Duration::from_millis(1);

/// Datagrams in flight.
const WINDOW: u32 = 40;

/// One flow's sender, and what is between it and a receiver that acknowledges at once.
struct Path {
    mtu: PathMtu,
    recovery: Recovery,
    rng: Rng,
    now: Instant,
    loss_per_mille: u32,
    limit: usize,
    /// Of a hundred datagrams of data, so many are as long as may be.
    full_percent: u32,
    /// And so many below the floor of a size above BASE.
    middle_percent: u32,
    /// (when its ACK arrives, number): of those that got through.
    arrived: Vec<(Instant, u64)>,
    seen: BTreeSet<u64>,
    datagrams: u64,
    probes: u64,
    confirmations: u64,
    probes_lost: u64,
    falls: u64,
    timeouts: u64,
}

impl Path {
    fn new(seed: u64, max: usize, loss_per_mille: u32, full_percent: u32) -> Self {
        let mtu = PathMtu::new(max);
        Self {
            mtu,
            recovery: Recovery::new(1_000),
            rng: Seed::from_number(seed).rng(1),
            now: Instant::from_ns(1_000_000_000),
            loss_per_mille,
            limit: usize::MAX,
            full_percent,
            middle_percent: 0,
            arrived: Vec::new(),
            seen: BTreeSet::new(),
            datagrams: 0,
            probes: 0,
            confirmations: 0,
            probes_lost: 0,
            falls: 0,
            timeouts: 0,
        }
    }

    fn send(&mut self, bytes: usize, path_probe: bool) -> u64 {
        let number = self.recovery.take_number(self.now, Fate::Open);
        let sent = Sent {
            sent_at: self.now,
            rate: Default::default(),
            slot: Slot::NONE,
            bytes: bytes as u32,
            first_message: 0,
            messages: 0,
            results_until: 0,
            fate: Fate::InFlight,
            sparse: false,
            path_probe,
            probed: false,
        };
        self.recovery.sent(number, sent);
        self.datagrams += 1;
        if bytes <= self.limit && self.rng.below(1_000) >= self.loss_per_mille {
            self.arrived.push((self.now + RTT, number));
        }
        number
    }

    fn probe(&mut self) {
        while self.mtu.is_due(self.now)
            && let Some(probe) = self.mtu.poll(self.now)
        {
            let bytes = match probe {
                Probe::Search(bytes) | Probe::Full(bytes) => bytes.into(),
                Probe::Short => 66,
            };
            let number = self.send(bytes, true);
            self.mtu.sent(probe, number);
            self.probes += 1;
            self.confirmations += u64::from(matches!(probe, Probe::Full(_)));
        }
    }

    fn detect(&mut self) {
        let Self { mtu, recovery, .. } = self;
        let (next, mut lost, mut losses) = (recovery.next_number(), Vec::new(), Vec::new());
        recovery.detect(self.now, |packet| {
            lost.push(packet.number);
            losses.push(mtu.on_lost(self.now, packet, next));
        });
        // What was lost goes again under another number; here it is forgotten.
        for number in lost {
            recovery.resolved(number);
        }
        for loss in losses {
            match loss {
                Loss::Nothing => {}
                Loss::Probe => self.probes_lost += 1,
                Loss::Fall => self.falls += 1,
            }
        }
    }

    /// A millisecond: what came, timers, a datagram of data if there is any, probes.
    fn step(&mut self, data: bool) {
        self.now += STEP_TIME;
        let now = self.now;
        let came: Vec<u64> = self.arrived.iter().filter(|it| it.0 <= now).map(|it| it.1).collect();
        self.arrived.retain(|it| it.0 > now);
        self.seen.extend(&came);
        if let Some(&largest) = self.seen.last().filter(|_| !came.is_empty()) {
            let ranges: Vec<(u64, u64)> = self.seen.iter().rev().take(400).map(|&it| (it, it)).collect();
            let mut passed = self.mtu.passed();
            self.recovery
                .handle_ack(now, largest, Duration::ZERO, ranges.into_iter(), |number, sent| {
                    passed.add(number, sent.bytes);
                })
                .unwrap();
            self.mtu.on_acked(now, passed);
            self.detect();
        }
        match self.recovery.handle_timeout(now, now) {
            Timeout::None => {}
            Timeout::Late => self.detect(),
            Timeout::Probe => {
                self.timeouts += 1;
                if let Some((number, sent)) = self.recovery.oldest_to_probe() {
                    if self.mtu.on_timeout(now, number, sent.bytes) == Loss::Probe {
                        self.probes_lost += 1;
                    }
                    self.recovery.resolved(number);
                    let again = (sent.bytes as usize).min(self.mtu.size());
                    self.send(again, false);
                }
            }
        }
        if data && self.recovery.in_flight_packets() < WINDOW {
            let (size, drawn) = (self.mtu.size(), self.rng.below(100));
            let bytes = match () {
                () if drawn < self.full_percent => size,
                () if drawn < self.full_percent + self.middle_percent => size.min(1_000),
                () => 100,
            };
            self.send(bytes, false);
        }
        self.probe();
    }

    /// Until the search has ended; milliseconds.
    fn search(&mut self) -> u32 {
        let mut steps = 0;
        while self.mtu.phase() != Phase::Complete && steps < 20_000 {
            self.step(true);
            steps += 1;
        }
        steps
    }
}

#[test]
fn the_longest_is_probed_first_and_one_round_trip_finds_it() {
    let mut path = Path::new(1, MAX, 0, 50);
    assert_eq!((path.mtu.phase(), path.mtu.size(), path.mtu.ceiling()), (Phase::Base, 1_200, MAX));
    let steps = path.search();
    assert!(steps <= 12, "{steps} ms");
    assert_eq!((path.mtu.size(), path.probes, path.probes_lost), (MAX, 1, 0));
    // Nothing more is ever sent for it.
    for _ in 0..10_000 {
        path.step(true);
    }
    assert_eq!((path.probes, path.falls), (1, 0));
}

#[test]
fn a_path_between_base_and_the_longest_is_found_to_sixteen_bytes() {
    for (max, limit) in [
        (MAX, 1_464),
        (MAX, 1_412),
        (MAX, 1_250),
        (MAX, 1_201),
        (9_000, 8_972),
        (9_000, 1_472),
        (65_472, 1_452),
    ] {
        let mut path = Path::new(1, max, 0, 50);
        path.limit = limit;
        path.search();
        let found = path.mtu.size();
        assert!(found <= limit && limit - found < usize::from(STEP), "{found} of {limit}, at most {max}");
        assert!(path.probes <= 50 && path.falls == 0, "{} probes", path.probes);
        assert!(limit != 1_472 || found == 1_472, "an Ethernet is found exactly");
        // Later it is looked at once more: the path may have grown.
        path.limit = max;
        path.now += RAISE_AFTER;
        path.step(true);
        assert_eq!(path.mtu.phase(), Phase::Searching);
        path.search();
        assert_eq!(path.mtu.size(), max);
    }
}

/// 200 flows of 1,000 datagrams each, with few, some and only full ones among them.
#[test]
fn random_loss_alone_makes_nothing_fall() {
    for loss_per_mille in [150, 300] {
        let (mut datagrams, mut lost_searches, mut confirmations) = (0, 0, 0);
        for seed in 0..200 {
            let mut path = Path::new(seed, MAX, loss_per_mille, [5, 30, 70, 100][seed as usize % 4]);
            for _ in 0..1_000 {
                path.step(true);
            }
            assert_eq!(path.falls, 0, "seed {seed} at {loss_per_mille}");
            datagrams += path.datagrams;
            lost_searches += path.probes_lost;
            confirmations += path.confirmations;
            assert!(path.mtu.size() >= 1_400, "seed {seed}: {}", path.mtu.size());
        }
        assert!(datagrams >= 100_000 && lost_searches > 0, "{datagrams}");
        // It was suspicious now and then, and asked.
        assert!(confirmations > 100, "{confirmations}");
    }
}

#[test]
fn a_fall_is_found_within_a_few_timeouts() {
    for full_percent in [10, 50, 100] {
        for loss_per_mille in [0, 150] {
            for seed in 0..20 {
                let mut path = Path::new(seed, MAX, loss_per_mille, full_percent);
                for _ in 0..500 {
                    path.step(true);
                }
                assert!(path.mtu.size() > 1_250 && path.falls == 0);
                let (begin, timeouts) = (path.now, path.timeouts);
                path.limit = 1_250;
                while path.falls == 0 {
                    path.step(true);
                    assert!(
                        path.now.since(begin) < Duration::from_secs(5),
                        "not found: {seed} {full_percent}"
                    );
                }
                let (took, timeouts) = (path.now.since(begin), path.timeouts - timeouts);
                let round_trips = took.as_millis() / RTT.as_millis();
                // Of 3,000 seeds with loss the slowest took 62.
                let bound = if loss_per_mille == 0 { 16 } else { 64 };
                assert!(
                    round_trips <= bound,
                    "{round_trips} round trips, {timeouts} timeouts; {full_percent} %"
                );
                assert_eq!(path.mtu.size(), usize::from(BASE));
                path.search();
                assert!(
                    (1_235..=1_250).contains(&path.mtu.size()) || loss_per_mille > 0,
                    "{}",
                    path.mtu.size()
                );
                assert!(path.mtu.size() <= 1_250);
            }
        }
    }
}

#[test]
fn below_base_is_an_error_and_still_a_path() {
    let mut path = Path::new(3, MAX, 0, 50);
    path.limit = 700;
    for _ in 0..5_000 {
        path.step(true);
    }
    assert_eq!((path.mtu.phase(), path.falls), (Phase::Error, 1));
    assert!((685..=700).contains(&path.mtu.size()), "{}", path.mtu.size());
    assert_eq!(path.mtu.floor(), MIN.into());
    path.limit = MAX;
    path.now += RAISE_AFTER;
    path.search();
    assert_eq!((path.mtu.phase(), path.mtu.size()), (Phase::Complete, MAX));
}

/// The path falls from far above BASE to below it, and nothing longer than BASE is sent.
#[test]
fn a_fall_below_base_is_found_though_nothing_is_as_long_as_the_size() {
    for middle_percent in [10, 50, 100] {
        for loss_per_mille in [0, 150] {
            for seed in 0..20 {
                let mut path = Path::new(seed, MAX, loss_per_mille, 0);
                path.middle_percent = middle_percent;
                for _ in 0..500 {
                    path.step(true);
                }
                assert!(path.mtu.size() > 1_250 && path.falls == 0);
                path.limit = 700;
                for _ in 0..5_000 {
                    path.step(true);
                }
                assert!(path.falls >= 2, "{seed} {middle_percent} {loss_per_mille}: {} falls", path.falls);
                assert!((600..=700).contains(&path.mtu.size()), "{seed}: {}", path.mtu.size());
            }
        }
    }
}

/// What is lost by chance and not as long as the size has a full datagram sent now and then, and nothing more.
#[test]
fn random_loss_of_what_is_shorter_makes_nothing_fall() {
    let (mut datagrams, mut confirmations) = (0, 0);
    for seed in 0..100 {
        let mut path = Path::new(seed, MAX, [10, 300][seed as usize % 2], 0);
        path.middle_percent = 80;
        for _ in 0..1_000 {
            path.step(true);
        }
        assert_eq!(path.falls, 0, "seed {seed}");
        if seed % 2 == 0 {
            datagrams += path.datagrams;
            confirmations += path.confirmations;
        }
    }
    assert!(confirmations > 0 && confirmations * 50 < datagrams, "{confirmations} of {datagrams}");
}

/// Everything is lost for a while, short and long alike, and then it goes on.
#[test]
fn an_outage_is_no_fall() {
    for full_percent in [10, 50, 100] {
        let mut path = Path::new(5, MAX, 0, full_percent);
        for outage in 0..100 {
            path.loss_per_mille = 0;
            for _ in 0..40 {
                path.step(true);
            }
            path.loss_per_mille = 1_000;
            for _ in 0..(5 + outage) {
                path.step(true);
            }
        }
        assert!(path.timeouts > 50, "{}", path.timeouts);
        assert_eq!((path.falls, path.mtu.size()), (0, MAX));
    }
}

/// One ACK of these datagrams: numbers and bytes.
fn acked(path: &PathMtu, datagrams: &[(u64, u32)]) -> Passed {
    let mut passed = path.passed();
    datagrams.iter().for_each(|&(number, bytes)| passed.add(number, bytes));
    passed
}

/// One ACK covers a long datagram of before and a shorter one of now.
#[test]
fn what_left_before_a_change_says_nothing_about_the_length() {
    let now = Instant::from_ns(1);
    let probed = |path: &mut PathMtu, number| match path.poll(now) {
        Some(probe @ Probe::Search(bytes)) => {
            path.sent(probe, number);
            u32::from(bytes)
        }
        other => panic!("{other:?}"),
    };
    let grown = || {
        let mut path = PathMtu::new(MAX);
        let bytes = probed(&mut path, 10);
        assert!(path.on_acked(now, acked(&path, &[(10, bytes)])));
        assert_eq!(path.size(), MAX);
        path
    };
    // Another path.
    let mut path = grown();
    path.restart(20);
    assert!(!path.on_acked(now, acked(&path, &[(19, 1_472), (20, 1_200)])));
    assert_eq!((path.size(), path.phase()), (1_200, Phase::Base));
    // A fall: what left before may have been lost at first, and found late.
    let mut path = grown();
    assert!(path.on_too_long(now, 19, 1_472, 20));
    assert!(!path.on_acked(now, acked(&path, &[(18, 1_472), (21, 1_200)])));
    assert_eq!(path.size(), 1_200);
    // Nor does it hide a shorter one that counts.
    let bytes = probed(&mut path, 22);
    assert!((1_201..1_472).contains(&bytes), "{bytes}");
    assert!(path.on_acked(now, acked(&path, &[(17, 1_472), (22, bytes)])));
    assert_eq!(path.size(), bytes as usize);
}

#[test]
fn what_the_interface_says_is_obeyed_at_once() {
    let now = Instant::from_ns(1);
    let mut path = PathMtu::new(MAX);
    for limit in [1_300_u32, 600] {
        // Probes and data longer than that are refused one after the other.
        let mut number = 10;
        for _ in 0..50 {
            number += 1;
            let size = path.size() as u32;
            if size > limit {
                assert!(path.on_too_long(now, number, size, number + 1));
            } else if let Some(Probe::Search(bytes)) = path.poll(now) {
                path.sent(Probe::Search(bytes), number);
                if u32::from(bytes) > limit {
                    assert!(path.on_too_long(now, number, bytes.into(), number + 1));
                } else {
                    assert!(path.on_acked(now, acked(&path, &[(number, bytes.into())])));
                }
            }
        }
        assert!((limit - u32::from(STEP)..=limit).contains(&(path.size() as u32)), "{} {limit}", path.size());
    }
    // Shorter than the least: nothing we could do about it.
    let mut path = PathMtu::new(MIN.into());
    assert!(!path.on_too_long(now, 1, MIN.into(), 2));
}

#[test]
fn the_peers_limit_is_kept_and_not_believed_beyond_reason() {
    for (limit, size, ceiling) in
        [(0, 512, 512), (600, 600, 600), (1_300, 1_200, 1_300), (65_535, 1_200, MAX)]
    {
        let mut path = PathMtu::new(MAX);
        path.limit(limit);
        assert_eq!((path.size(), path.ceiling()), (size, ceiling), "{limit}");
    }
}
