//! Keys that change while flows are there (R-PROT-14), between nodes that have a file each.

use super::flows_tests::{Datagram, Net, Node};
use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::message::Outcome;
use crate::proto::plugins::Plugins;
use crate::proto::protection::{Cipher, PreSharedKeys};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// More than leave at once: some are transmitted, the others wait.
const MANY: u32 = 300;

fn text(ids: &[u32]) -> Vec<u8> {
    let line = |id: &u32| format!("{id} {}\n", format!("{:08x}", 0x5a6b_7c8d + id).repeat(8));
    ids.iter().map(line).collect::<String>().into_bytes()
}

impl Datagram {
    /// What its receiver called the flow; 0: a first HELLO.
    fn tag(&self) -> u64 {
        u64::from_le_bytes(self.bytes[16..24].try_into().unwrap())
    }

    /// Of a HELLO: the id of its key.
    fn key_id(&self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes[24..28].try_into().unwrap())).filter(|&id| id > 0)
    }
}

struct Keyed {
    net: Net,
    keys: Vec<PreSharedKeys>,
    peers_max: u32,
}

impl Keyed {
    /// Two nodes, with keys of these ids.
    fn new(files: [&[u32]; 2]) -> Self {
        Self::with(&files, Config::preset(Preset::Small).peers_max)
    }

    fn with(files: &[&[u32]], peers_max: u32) -> Self {
        let mut keyed = Self { net: Net::new(0), keys: Vec::new(), peers_max };
        for (host, file) in (1..).zip(files) {
            let keys = PreSharedKeys::parse(&text(file), Cipher::default()).unwrap();
            keyed.keys.push(keys);
            let node =
                keyed.start(usize::from(host) - 1, SocketAddr::from(([10, 0, 0, host], 1)), host.into());
            keyed.net.nodes.push(node);
        }
        keyed
    }

    fn start(&self, node: usize, addr: SocketAddr, seed: u64) -> Node {
        let plugins = Plugins { protection: Some(Arc::new(self.keys[node].clone())), ..Plugins::default() };
        let peers_max = self.peers_max;
        let config = Config { wire: Wire::Binary, peers_max, ..Config::preset(Preset::Small) };
        self.net.node_with(addr, seed, &config, &plugins)
    }

    /// A node is killed and started again with this file.
    fn restart(&mut self, node: usize, file: &[u32]) {
        self.keys[node] = PreSharedKeys::parse(&text(file), Cipher::default()).unwrap();
        self.net.nodes[node] = self.start(node, self.net.nodes[node].endpoint_addr(), 99);
    }

    /// A node's file changes, and it looks.
    fn change(&mut self, node: usize, file: &[u32]) {
        self.keys[node].replace(&text(file)).unwrap();
        self.net.nodes[node].endpoint.look_at_keys(self.net.now);
    }

    /// A message passes, in the flow that is there or a new one.
    fn pass(&mut self, from: usize, to: usize) {
        self.net.put(from, to, 0, b"passes", None);
        self.net.settle(|_| true);
        assert!(matches!(self.net.outcomes(from)[..], [(0, Ok(_))]));
    }

    /// Node 0 puts messages of which some are transmitted, and lost; the tag of their flow.
    fn put_many(&mut self) -> u64 {
        (1..=MANY).for_each(|op| self.net.put(0, 1, op, &[7; 1_000], None));
        let lost = self.net.leave(0);
        assert!(lost.len() > 1);
        lost[0].tag()
    }

    /// Outcomes of those: what was transmitted failed, with this cause; how many failed and arrived.
    fn ends_of_many(&mut self, cause: FailureCause) -> [usize; 2] {
        let outcomes: Vec<Outcome> = self.net.outcomes(0).into_iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(outcomes.len(), MANY as usize);
        let lost = Err(DeliveryError { cause, reached: Reached::Unknown });
        let failed = outcomes.iter().filter(|&&outcome| outcome == lost).count();
        let arrived = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(failed + arrived, outcomes.len(), "{outcomes:?}");
        [failed, arrived]
    }
}

/// What waits on a flow whose key is gone does not go over to one whose key is the next to go.
#[test]
fn two_steps_seen_at_once() {
    let mut pair = Keyed::new([&[1], &[1, 2, 3]]);
    pair.pass(0, 1);
    let first = pair.put_many();
    pair.change(0, &[2, 1, 3]);
    let to = pair.net.nodes[1].endpoint_addr();
    let mut tags = BTreeSet::new();
    pair.net.put(0, 1, 0, b"passes", None);
    pair.net.run(20, |datagram| {
        tags.extend((datagram.to == to).then(|| datagram.tag()));
        datagram.tag() != first
    });
    assert!(matches!(pair.net.outcomes(0)[..], [(0, Ok(_))]));
    assert!(tags.remove(&0) && tags.remove(&first) && tags.len() == 1, "{tags:x?}");
    let second = tags.pop_first().unwrap();

    pair.change(0, &[3, 2]);
    let mut ids = BTreeSet::new();
    pair.net.run(300, |datagram| {
        ids.extend(datagram.key_id());
        ![first, second].contains(&datagram.tag())
    });
    assert_eq!(ids, BTreeSet::from([3]));
    let [failed, arrived] = pair.ends_of_many(FailureCause::TimedOut);
    assert!(failed > 0 && arrived > 0, "{failed} {arrived}");
    assert_eq!(pair.net.nodes[1].app.got.len(), 2 + arrived);
}

/// A peer says that it closes, and comes again with a key that is retired here: it is spoken to at once, on a flow of ours.
#[test]
fn who_closed_is_there_again_with_the_old_key() {
    let mut pair = Keyed::new([&[1, 2], &[1, 2]]);
    pair.pass(0, 1);
    pair.change(0, &[2, 1]);
    for datagram in pair.net.close(1) {
        pair.net.bring(&datagram);
    }
    assert_eq!(pair.net.nodes[0].counter("closes_received"), 1);
    pair.restart(1, &[1, 2]);
    pair.pass(1, 0);
    let mut ids = BTreeSet::new();
    pair.net.put(0, 1, 7, b"back", None);
    pair.net.settle(|datagram| {
        ids.extend(datagram.key_id());
        true
    });
    assert!(matches!(pair.net.outcomes(0)[..], [(7, Ok(_))]));
    assert_eq!(ids, BTreeSet::from([2]));
}

/// What waited for a peer that has started anew does not take the flow it opened, whose key is retired.
#[test]
fn a_new_start_with_the_old_key_gets_a_flow_of_ours() {
    let mut pair = Keyed::new([&[1, 2], &[2, 1]]);
    pair.change(0, &[2, 1]);
    pair.pass(0, 1);
    pair.put_many();
    pair.restart(1, &[1, 2]);
    pair.net.put(1, 0, 1, b"a new start", None);
    let to = pair.net.nodes[1].endpoint_addr();
    let (mut ids, mut opened, mut heavy) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    pair.net.run(300, |datagram| {
        ids.extend(datagram.key_id());
        if datagram.to == to {
            opened.extend((datagram.key_id() == Some(1)).then(|| datagram.tag()));
            heavy.extend((datagram.bytes.len() > 600).then(|| datagram.tag()));
        }
        true
    });
    assert_eq!((ids, opened.len()), (BTreeSet::from([1, 2]), 1));
    assert!(!heavy.is_empty() && heavy.iter().all(|tag| !opened.contains(tag)));
    let [failed, arrived] = pair.ends_of_many(FailureCause::PeerRestarted);
    assert!(failed > 0 && arrived > 0, "{failed} {arrived}");
    assert_eq!(pair.net.nodes[1].app.got.len(), arrived);
}

/// A peer goes back to the key it had: messages take its new flow, or they would be lost with the key it gives up.
#[test]
fn a_peer_goes_back_to_the_first_key() {
    let mut pair = Keyed::new([&[1, 2], &[1, 2]]);
    pair.change(1, &[2, 1]);
    pair.pass(1, 0);
    pair.net.put(0, 1, 1, b"takes that flow", None);
    let left = pair.net.leave(0);
    assert!(left.len() == 1 && left[0].key_id().is_none());
    pair.net.bring(&left[0]);
    pair.net.settle(|_| true);
    assert!(matches!(pair.net.outcomes(0)[..], [(1, Ok(_))]));
    let first = left[0].tag();

    pair.change(1, &[1, 2]);
    pair.pass(1, 0);
    pair.net.put(0, 1, 2, b"takes the new one", None);
    pair.net.settle(|datagram| datagram.tag() != first && datagram.key_id().is_none());
    assert!(matches!(pair.net.outcomes(0)[..], [(2, Ok(_))]));
    pair.change(1, &[1]);
    pair.pass(0, 1);
}

/// Both open at once, each with a key of its own choice: whoever gives way, what waits arrives, and all that follows.
#[test]
fn both_open_at_once_with_other_keys() {
    for turns in [true, false] {
        let mut pair = Keyed::new([if turns { &[1, 2] } else { &[2, 1] }, &[1, 2]]);
        if turns {
            pair.change(0, &[2, 1]);
        }
        let mut ids = BTreeSet::new();
        for op in 0..40 {
            pair.net.put(0, 1, op, b"there", None);
            pair.net.put(1, 0, op, b"back", None);
            pair.net.settle(|datagram| {
                ids.extend(datagram.key_id().filter(|_| datagram.tag() == 0));
                true
            });
            pair.net.now += Duration::from_millis(3);
        }
        assert_eq!(ids, BTreeSet::from([1, 2]), "both said HELLO");
        for node in [0, 1] {
            let outcomes = pair.net.outcomes(node);
            assert!(
                outcomes.len() == 40 && outcomes.iter().all(|(_, outcome)| outcome.is_ok()),
                "{outcomes:?}"
            );
            assert_eq!(pair.net.nodes[node].app.got.len(), 40);
        }
    }
}

/// A recorded HELLO proves a key, and nothing else: said again from many addresses, it takes no place from who is proven, and
/// keeps nobody out.
#[test]
fn recorded_hellos_displace_nobody() {
    let mut group = Keyed::with(&[&[1][..]; 4], 16);
    let mut hellos = Vec::new();
    let mut pass = |group: &mut Keyed, node, op| {
        group.net.put(node, 0, op, b"passes", None);
        group.net.run(10, |datagram| {
            hellos.extend((datagram.tag() == 0).then(|| datagram.clone()));
            true
        });
        assert!(matches!(group.net.outcomes(node)[..], [(_, Ok(_))]), "{node}");
    };
    pass(&mut group, 1, 1);
    group.net.run(12_000, |_| true);
    assert_eq!(group.net.nodes[0].counter("flows_slept"), 1);
    pass(&mut group, 2, 1);
    group.net.now += Duration::from_millis(1_001);
    let [first, second] = hellos.clone().try_into().unwrap();
    let flood = |group: &mut Keyed| {
        for port in 1..=20 {
            for host in 1..=3 {
                let from = SocketAddr::from(([11, 0, 0, host], port));
                group.net.bring(&Datagram { from, ..first.clone() });
            }
            // In the name of one that is known.
            group.net.bring(&Datagram { from: second.from, ..first.clone() });
            group.net.leave(0);
        }
    };
    flood(&mut group);
    assert!(group.net.nodes[0].counter("flows_evicted") > 30, "of those that say HELLO");
    assert!(group.net.nodes[0].endpoint.outbound.flows.count() >= 15);
    group.net.put(3, 0, 1, b"is new", None);
    group.net.settle(|_| true);
    assert!(matches!(group.net.outcomes(3)[..], [(1, Ok(_))]));
    flood(&mut group);
    for node in [1, 2, 3] {
        group.net.put(node, 0, 2, b"is known", None);
        group.net.settle(|datagram| datagram.tag() != 0);
        assert!(matches!(group.net.outcomes(node)[..], [(2, Ok(_))]), "{node}, without another HELLO");
    }
}

/// The same from one host that has its share of the places: a few of its flows that sleep make way, and then only what was not proven.
#[test]
fn recorded_hellos_of_a_host_displace_few_of_its_flows() {
    const SENDERS: u16 = 6;
    let mut group = Keyed::with(&[&[1]], 8);
    let mut hello = None;
    for sender in 1..=SENDERS {
        group.keys.push(PreSharedKeys::parse(&text(&[1]), Cipher::default()).unwrap());
        let addr = SocketAddr::from(([10, 0, 0, 9], sender));
        let node = group.start(usize::from(sender), addr, 100 + u64::from(sender));
        group.net.nodes.push(node);
        group.net.put(sender.into(), 0, 1, b"passes", None);
        group.net.settle(|datagram| {
            let _ = hello.get_or_insert_with(|| datagram.clone());
            true
        });
        assert!(matches!(group.net.outcomes(sender.into())[..], [(_, Ok(_))]));
    }
    let hello = hello.unwrap();
    assert_eq!(hello.tag(), 0);
    group.net.run(12_000, |_| true);
    assert_eq!(group.net.nodes[0].counter("flows_slept"), 6);
    for port in 101..=150 {
        group.net.bring(&Datagram { from: SocketAddr::from(([10, 0, 0, 9], port)), ..hello.clone() });
        group.net.leave(0);
    }
    assert_eq!(group.net.nodes[0].counter("flows_evicted"), 50, "each takes somebody's place");
    let mut known = 0;
    for sender in 1..=usize::from(SENDERS) {
        group.net.put(sender, 0, 2, b"is known", None);
        group.net.run(20, |datagram| datagram.tag() != 0);
        known += group.net.outcomes(sender).len();
    }
    assert_eq!(known, 4, "without another HELLO");
}

/// What somebody made up under a tag that he saw, or says again, wakes no flow: it would not make way for others any more.
#[test]
fn what_is_not_authentic_or_old_wakes_nobody() {
    let mut pair = Keyed::new([&[1], &[1]]);
    let (mut seen, to) = (Vec::new(), pair.net.nodes[1].endpoint_addr());
    pair.net.put(0, 1, 0, b"passes", None);
    pair.net.settle(|datagram| {
        seen.extend((datagram.to == to && datagram.tag() != 0).then(|| datagram.clone()));
        true
    });
    assert!(matches!(pair.net.outcomes(0)[..], [(0, Ok(_))]));
    pair.net.run(12_000, |_| true);
    let asleep = |pair: &Keyed| pair.net.nodes[1].endpoint.outbound.flows.asleep();
    assert_eq!(asleep(&pair), 1);
    for old in &seen {
        let mut forged = old.clone();
        *forged.bytes.last_mut().unwrap() ^= 1;
        pair.net.bring(&forged);
        pair.net.bring(old);
        assert!(pair.net.leave(1).is_empty());
    }
    assert!(!seen.is_empty());
    let dropped = ["unauthentic", "duplicate"]
        .map(|cause| pair.net.nodes[1].counter(&format!("dropped_binary_{cause}")) as usize);
    assert_eq!((dropped, asleep(&pair)), ([seen.len(); 2], 1));
    pair.pass(0, 1);
    assert_eq!(asleep(&pair), 0);
}

/// A key that is taken away from a peer, and is there for others, ends its flows.
#[test]
fn a_key_that_is_for_others_now_ends_a_flow() {
    let mut pair = Keyed::new([&[1], &[1]]);
    let flows = |pair: &Keyed| pair.net.nodes[0].endpoint.outbound.flows.count();
    let name = |pair: &mut Keyed, peers: &str| {
        let line = String::from_utf8(text(&[1])).unwrap();
        pair.keys[0].replace(format!("{} {peers}", line.trim()).as_bytes()).unwrap();
        pair.net.nodes[0].endpoint.look_at_keys(pair.net.now);
    };
    name(&mut pair, "10.0.0.2 10.0.0.9");
    pair.pass(0, 1);
    pair.pass(1, 0);
    name(&mut pair, "10.0.0.9 10.0.0.2");
    assert_eq!(flows(&pair), 1);
    name(&mut pair, "10.0.0.9");
    assert_eq!(flows(&pair), 0);
    let got = pair.net.nodes[0].app.got.len();
    pair.net.put(1, 0, 1, b"is refused", None);
    pair.net.settle(|_| true);
    assert_eq!(pair.net.nodes[0].app.got.len(), got);
    // And again theirs.
    name(&mut pair, "10.0.0.2");
    pair.pass(0, 1);
}

/// A client gives a flow up while its server has nothing to say: sealed, no RESET tells the server. Its answers take the flow that
/// the client opens then.
#[test]
fn an_answer_takes_the_flow_of_who_gave_up_the_one_before() {
    let mut pair = Keyed::new([&[1], &[1]]);
    pair.pass(0, 1);
    pair.pass(1, 0);
    pair.net.put(0, 1, 1, b"lost", None);
    pair.net.run(10_000, |_| false);
    assert!(matches!(pair.net.outcomes(0)[..], [(1, Err(error))] if error.cause == FailureCause::TimedOut));
    pair.pass(0, 1);
    pair.pass(1, 0);
}

/// A HELLO is answered, and then nothing arrives any more: the peer forgets the flow before anything proves it, and so do we.
#[test]
fn a_flow_that_never_was_proven_is_not_used_again() {
    let mut pair = Keyed::new([&[1], &[1]]);
    pair.net.put(0, 1, 1, b"expires", Some(Duration::from_millis(100)));
    let hello = pair.net.leave(0);
    pair.net.bring(&hello[0]);
    let answer = pair.net.leave(1);
    pair.net.bring(&answer[0]);
    assert!(pair.net.leave(0).iter().all(|datagram| datagram.key_id().is_none()), "it is open");
    pair.net.run(12_000, |_| false);
    assert!(matches!(pair.net.outcomes(0)[..], [(1, Err(_))]));
    pair.pass(0, 1);
}
