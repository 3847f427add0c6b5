//! Two or more endpoints of the binary wire and a network in which a test decides on each datagram.

use super::flows::Standing;
use crate::commit::CommitKey;
use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::hash::Seed;
use crate::message::Level;
use crate::message::Outcome;
use crate::observe::Counters;
use crate::options::{Extras, Options, Priority};
use crate::proto::congestion::Algorithm;
use crate::proto::endpoint::{Application, Endpoint};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::{Families, Place, Submission};
use crate::proto::plugins::Plugins;
use crate::proto::sending::Sending;
use crate::train::{Origin, TrainBatch};
use crate::units::{Instant, UnixMicros};
use crate::wire::binary::{
    self, Bases, ChunkFrame, Extensions, Frame, HEADER_BYTES, Header, Hello, Kind, PingFrame, ResultCode,
    Space, Writer,
};
use crate::wire::csv::{self, DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) struct App {
    pub(super) got: Vec<Vec<u8>>,
    /// Of those whose sender waits for a commit.
    pub(super) commits: Vec<CommitKey>,
    pub(super) refuses: bool,
}

impl Application<u32> for App {
    fn deliver(
        &mut self,
        _: &mut Sending<u32>,
        _: &mut Counters,
        _: SocketAddr,
        _: Option<UnixMicros>,
        payload: Payload<'_>,
        extras: Option<&Extras<'_>>,
    ) -> Delivery {
        if self.refuses {
            return Delivery::Refused;
        }
        self.got.push(payload.bytes().to_vec());
        self.commits.extend(extras.and_then(|extras| extras.commit));
        Delivery::Accepted
    }
}

pub(super) struct Node {
    addr: SocketAddr,
    pub(super) endpoint: Endpoint<u32>,
    batch: TrainBatch,
    pub(super) app: App,
}

impl Node {
    pub(super) const fn endpoint_addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn counter(&self, label: &str) -> u64 {
        self.endpoint.counters.get(label)
    }

    pub(super) fn partials(&self) -> usize {
        self.endpoint.inflows.partials()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

impl Datagram {
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.frames().any(|frame| frame.kind() == Some(kind))
    }

    pub(super) fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let frames = binary::decode(&self.bytes).map_or(&[][..], |(_, frames)| frames);
        binary::frames(frames).flatten()
    }
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    /// Of the socket of a node that is added.
    buffer_bytes: u64,
}

impl Net {
    pub(super) fn new(nodes: u8) -> Self {
        Self::with(nodes, &Config { wire: Wire::Binary, ..Config::preset(Preset::Small) })
    }

    pub(super) fn with(nodes: u8, config: &Config) -> Self {
        let now = Instant::from_ns(1_000_000_000);
        let mut net = Self { now, nodes: Vec::new(), buffer_bytes: 8 << 20 };
        (1..=nodes).for_each(|host| net.add(SocketAddr::from(([10, 0, 0, host], 1)), config));
        net
    }

    fn over_v6() -> Self {
        let mut net = Self::new(0);
        let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
        (1..=2).for_each(|host| net.add(SocketAddr::from(([0xfd, 0, 0, 0, 0, 0, 0, host], 1)), &config));
        net
    }

    pub(super) fn add(&mut self, addr: SocketAddr, config: &Config) {
        let node = self.node(addr, self.nodes.len() as u64, config);
        self.nodes.push(node);
    }

    pub(super) fn node(&self, addr: SocketAddr, seed: u64, config: &Config) -> Node {
        self.node_with(addr, seed, config, &Plugins::default())
    }

    pub(super) fn node_with(&self, addr: SocketAddr, seed: u64, config: &Config, plugins: &Plugins) -> Node {
        let place = Place { shard: 0, shards: 1, families: Families { v4: true, v6: true } };
        let seed = Seed::from_number(seed);
        Node {
            addr,
            endpoint: Endpoint::new(config, plugins, place, &seed, self.now, self.buffer_bytes),
            batch: TrainBatch::new(512 << 10, 256, 64),
            app: App { got: Vec::new(), commits: Vec::new(), refuses: false },
        }
    }

    pub(super) fn put(
        &mut self,
        from: usize,
        to: usize,
        op: u32,
        payload: &[u8],
        deadline: Option<Duration>,
    ) {
        self.put_with(from, to, op, payload, (deadline, None));
    }

    pub(super) fn put_with(
        &mut self,
        from: usize,
        to: usize,
        op: u32,
        payload: &[u8],
        (deadline, options): (Option<Duration>, Option<Box<Options>>),
    ) {
        let to = self.nodes[to].addr;
        let payload = Bytes::copy_from_slice(payload);
        let submission = Submission { to, payload, tag: op.into(), deadline, options, completion: op };
        let Endpoint { outbound, counters, .. } = &mut self.nodes[from].endpoint;
        assert!(outbound.put(self.now, submission, counters).is_ok());
    }

    /// To an address where there need not be a node.
    pub(super) fn put_at(&mut self, from: usize, to: SocketAddr, op: u32, payload: &[u8]) {
        self.put_at_with(from, to, op, payload, None);
    }

    pub(super) fn put_at_with(
        &mut self,
        from: usize,
        to: SocketAddr,
        op: u32,
        payload: &[u8],
        options: Option<Box<Options>>,
    ) {
        let payload = Bytes::copy_from_slice(payload);
        let submission = Submission { to, payload, tag: 0, deadline: None, options, completion: op };
        let Endpoint { outbound, counters, .. } = &mut self.nodes[from].endpoint;
        assert!(outbound.put(self.now, submission, counters).is_ok());
    }

    pub(super) fn cancel(&mut self, node: usize, op: u32) {
        let Endpoint { outbound, counters, .. } = &mut self.nodes[node].endpoint;
        outbound.cancel_where(counters, |completion| *completion == op);
    }

    /// What a node sends in a turn.
    pub(super) fn leave(&mut self, node: usize) -> Vec<Datagram> {
        let Node { endpoint, batch, .. } = &mut self.nodes[node];
        endpoint.handle_timers(self.now);
        endpoint.poll_trains(self.now, UnixMicros(0), batch);
        self.leave_batch(node)
    }

    /// A node's last words.
    pub(super) fn close(&mut self, node: usize) -> Vec<Datagram> {
        let Node { endpoint: Endpoint { outbound, inflows, counters, .. }, batch, .. } =
            &mut self.nodes[node];
        assert!(!outbound.flows.poll_closes(self.now, true, inflows, batch, counters));
        self.leave_batch(node)
    }

    fn leave_batch(&mut self, node: usize) -> Vec<Datagram> {
        let Node { addr, endpoint, batch, .. } = &mut self.nodes[node];
        std::mem::swap(batch.lent(), endpoint.outbound.flows.lend());
        let mut datagrams = Vec::new();
        for train in batch.trains() {
            for bytes in batch.bytes(train).chunks(train.segment_bytes) {
                datagrams.push(Datagram { from: *addr, to: train.to, bytes: bytes.to_vec() });
            }
        }
        std::mem::swap(batch.lent(), endpoint.outbound.flows.lend());
        batch.clear();
        datagrams
    }

    /// A turn of a node whose batch others have filled but for `room` datagrams. Whether something wanted to leave.
    fn find_batch_full(&mut self, node: usize, room: usize) -> bool {
        let mut batch = TrainBatch::new(1 + 1_472 * room, 1 + room, 1);
        batch.begin(SocketAddr::from(([10, 0, 0, 99], 1)), None);
        assert!(batch.push(0, 1).is_some());
        let endpoint = &mut self.nodes[node].endpoint;
        endpoint.handle_timers(self.now);
        let wants = endpoint.outbound.flows.has_ready();
        endpoint.poll_trains(self.now, UnixMicros(0), &mut batch);
        assert_eq!(batch.trains().len(), 1 + room);
        wants
    }

    pub(super) fn bring(&mut self, datagram: &Datagram) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.addr == datagram.to) else { return };
        let Node { endpoint, batch, app, .. } = node;
        let train = endpoint.begin_train(self.now, datagram.from, None, batch);
        endpoint.handle_datagram(&train, &datagram.bytes, batch, app);
        endpoint.end_train();
    }

    /// Turns until nobody has anything to say; `pass` decides which datagrams arrive.
    pub(super) fn settle(&mut self, mut pass: impl FnMut(&Datagram) -> bool) {
        for _ in 0..1_000 {
            let left: Vec<Datagram> = (0..self.nodes.len()).flat_map(|node| self.leave(node)).collect();
            if left.is_empty() {
                return;
            }
            self.now += Duration::from_micros(50);
            left.iter().filter(|datagram| pass(datagram)).for_each(|datagram| self.bring(datagram));
        }
        panic!("they never stop talking");
    }

    /// Time passes.
    pub(super) fn run(&mut self, ms: u64, mut pass: impl FnMut(&Datagram) -> bool) {
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.settle(&mut pass);
        }
    }

    /// Time passes, and a node is seen under another address than its own, and reached there alone.
    pub(super) fn run_seen_as(
        &mut self,
        ms: u64,
        (node, seen_as): (usize, SocketAddr),
        mut pass: impl FnMut(&Datagram) -> bool,
    ) {
        let own = self.nodes[node].addr;
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            for mut datagram in (0..self.nodes.len()).flat_map(|node| self.leave(node)).collect::<Vec<_>>() {
                if datagram.from == own {
                    datagram.from = seen_as;
                } else if datagram.to == seen_as {
                    datagram.to = own;
                } else {
                    continue;
                }
                if pass(&datagram) {
                    self.bring(&datagram);
                }
            }
        }
    }

    pub(super) fn outcomes(&mut self, node: usize) -> Vec<(u32, Outcome)> {
        let finished = self.nodes[node].endpoint.outbound.finished();
        finished.drain(..).map(|op| (op.completion, op.outcome)).collect()
    }

    /// A flow from 0 to 1 with a round trip behind it, and a large message that never ends, so that LOW stays.
    pub(super) fn with_an_endless_message(&mut self) {
        self.put(0, 1, 1, b"first", None);
        self.settle(|_| true);
        assert!(matches!(self.outcomes(0)[..], [(1, Ok(_))]));
        self.put(0, 1, 100, &[9; 1_500], Some(Duration::from_secs(1_000)));
        self.settle(|datagram| !datagram.has(Kind::Chunk));
        assert_eq!(self.nodes[1].partials(), 0);
    }
}

fn ended(cause: FailureCause) -> Outcome {
    Err(DeliveryError { cause, reached: Reached::Unknown })
}

/// Chunks of one message pass, but for its last 3,000 bytes.
fn is_not_the_end(datagram: &Datagram) -> bool {
    datagram.frames().all(|frame| match frame {
        Frame::Chunk(chunk) => chunk.total > 1_500 && chunk.offset + 3_000 < chunk.total,
        _ => true,
    })
}

#[test]
fn a_cancelled_message_gives_the_receiver_its_memory_back() {
    for lost in [0, 1, 2] {
        let mut net = Net::new(2);
        net.with_an_endless_message();
        net.put(0, 1, 2, &vec![7; 60_000], None);
        net.settle(is_not_the_end);
        assert_eq!(net.nodes[1].partials(), 1);
        net.cancel(0, 2);
        assert_eq!(net.outcomes(0), [(2, ended(FailureCause::Cancelled))]);
        // CANCEL is lost so often, and comes all the same.
        let mut left = lost;
        net.run(6_000, |datagram| {
            let loses = datagram.has(Kind::Cancel) && left > 0;
            left -= u32::from(loses);
            !loses && is_not_the_end(datagram)
        });
        assert_eq!((left, net.nodes[1].partials(), net.nodes[1].counter("partials_cancelled")), (0, 0, 1));
        let held = net.nodes[1].endpoint.inflows.held();
        assert!(!held.iter().any(|held| held.contains("partials")), "{held:?}");
        assert_eq!(net.outcomes(0), []);
        assert!(net.nodes[1].app.got == [b"first"]);
    }
}

/// Nobody is there to hear it: it is given up like everything else.
#[test]
fn a_cancel_that_nobody_hears_is_given_up() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    net.settle(|_| true);
    net.put(0, 1, 2, &vec![7; 60_000], None);
    net.settle(is_not_the_end);
    net.cancel(0, 2);
    let mut told = 0;
    net.run(10_000, |datagram| {
        told += u32::from(datagram.has(Kind::Cancel));
        false
    });
    assert!(told > 3, "{told}");
    assert_eq!(net.nodes[0].endpoint.outbound.flows.held(), Vec::<String>::new());
}

/// The chunks come after their CANCEL: nothing of them is kept, and they are refused for good.
#[test]
fn what_comes_behind_its_cancel_is_refused() {
    let mut net = Net::new(2);
    net.with_an_endless_message();
    net.put(0, 1, 2, &[7; 5_000], None);
    let mut late = Vec::new();
    net.settle(|datagram| {
        late.extend(datagram.has(Kind::Chunk).then(|| datagram.clone()));
        !datagram.has(Kind::Chunk)
    });
    assert!(late.len() >= 4);
    net.cancel(0, 2);
    let mut told = 0;
    net.settle(|datagram| {
        told += u32::from(datagram.has(Kind::Cancel));
        true
    });
    assert!(told > 0);
    let duplicates = net.nodes[1].counter("dropped_duplicate");
    late.iter().for_each(|datagram| net.bring(datagram));
    assert!(net.nodes[1].counter("dropped_duplicate") > duplicates, "refused");
    assert_eq!(net.nodes[1].partials(), 0);
    net.settle(|_| true);
    let outcomes: Vec<_> = net.outcomes(0).into_iter().filter(|(op, _)| *op == 2).collect();
    assert_eq!(outcomes, [(2, ended(FailureCause::Cancelled))]);
    assert!(net.nodes[1].app.got.iter().all(|payload| payload.len() != 5_000));
}

/// It has been delivered, and the word of that crosses the CANCEL: one outcome, and the message stays delivered once.
#[test]
fn a_cancel_that_crosses_the_result_changes_nothing() {
    let mut net = Net::new(2);
    net.with_an_endless_message();
    net.put(0, 1, 2, &[7; 5_000], None);
    let endless = |datagram: &Datagram| {
        datagram.frames().all(|frame| !matches!(frame, Frame::Chunk(chunk) if chunk.total == 1_500))
    };
    let mut late = Vec::new();
    net.settle(|datagram| {
        late.extend(datagram.has(Kind::Result).then(|| datagram.clone()));
        !datagram.has(Kind::Result) && endless(datagram)
    });
    assert!(!late.is_empty() && net.nodes[1].app.got.len() == 2);
    net.cancel(0, 2);
    assert_eq!(net.outcomes(0), [(2, ended(FailureCause::Cancelled))]);
    late.iter().for_each(|datagram| net.bring(datagram));
    net.run(1_000, endless);
    assert_eq!((net.outcomes(0).len(), net.nodes[1].app.got.len()), (0, 2));
    assert_eq!((net.nodes[1].partials(), net.nodes[1].counter("partials_cancelled")), (0, 0));
}

/// Over IPv6 only the first chunk tells how long the message lives, and that one is lost.
#[test]
fn a_message_that_expires_at_its_sender_is_cancelled_at_its_receiver() {
    let mut net = Net::over_v6();
    net.with_an_endless_message();
    net.put(0, 1, 2, &vec![7; 60_000], Some(Duration::from_millis(300)));
    let has_begin = |datagram: &Datagram| {
        datagram
            .frames()
            .any(|f| matches!(f, Frame::Chunk(chunk) if chunk.offset == 0 || chunk.total == 1_500))
    };
    net.settle(|datagram| !has_begin(datagram));
    assert_eq!(net.nodes[1].partials(), 1);
    net.run(310, |datagram| !has_begin(datagram));
    let outcomes: Vec<_> = net.outcomes(0).into_iter().filter(|(op, _)| *op == 2).collect();
    assert_eq!(outcomes, [(2, ended(FailureCause::Expired))]);
    assert_eq!(
        (net.nodes[1].counter("partials_cancelled"), net.nodes[1].counter("partials_expired")),
        (1, 0)
    );
}

/// What an engine does not have in parts it cannot forget: a CANCEL of a message of one frame, or of one that is nowhere.
#[test]
fn a_cancel_of_what_has_no_parts_has_no_effect() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    net.settle(|_| true);
    net.cancel(0, 1);
    net.put(0, 1, 2, b"second", None);
    let mut cancels = Vec::new();
    net.settle(|datagram| {
        for frame in datagram.frames() {
            if let Frame::Cancel(cancel) = frame {
                cancels.extend(cancel.entries().filter(|entry| entry.0 == Space::Message));
            }
        }
        true
    });
    assert_eq!(cancels, []);
    assert_eq!(net.outcomes(0).len(), 2);
    assert!(net.nodes[1].app.got == [&b"first"[..], b"second"]);
}

/// The sender is gone, and cannot say that it gave up: its deadline has come with the chunks.
#[test]
fn a_partial_message_goes_with_its_senders_deadline() {
    let mut net = Net::new(2);
    net.with_an_endless_message();
    net.put(0, 1, 2, &vec![7; 60_000], Some(Duration::from_millis(700)));
    net.settle(is_not_the_end);
    assert_eq!(net.nodes[1].partials(), 1);
    let gone = net.nodes[0].addr;
    net.run(699, |datagram| datagram.from != gone);
    assert_eq!((net.nodes[1].partials(), net.nodes[1].counter("partials_expired")), (1, 0));
    net.run(3, |datagram| datagram.from != gone);
    assert_eq!((net.nodes[1].partials(), net.nodes[1].counter("partials_expired")), (0, 1));
    // What comes later of it is refused.
    net.run(500, |_| true);
    assert_eq!(net.nodes[1].partials(), 0);
    assert!(net.nodes[1].app.got.iter().all(|payload| payload.len() != 60_000));
}

/// The deadline travels where there is room for it: no datagram more. Small messages do not carry it.
#[test]
fn a_lifetime_costs_no_datagram() {
    for (v6, all) in [(false, true), (true, false)] {
        let mut net = if v6 { Net::over_v6() } else { Net::new(2) };
        for (op, payload) in [(1, b"first"), (3, b"MTU's")] {
            net.put(0, 1, op, payload, None);
            net.settle(|_| true);
        }
        net.put(0, 1, 2, &vec![7; 60_000], Some(Duration::from_millis(700)));
        let (mut chunks, mut told) = (0, Vec::new());
        net.settle(|datagram| {
            for frame in datagram.frames() {
                if let Frame::Chunk(chunk) = frame {
                    chunks += 1;
                    told.extend(chunk.extensions.lifetime_ms.map(|left_ms| (chunk.offset, left_ms)));
                }
                assert!(!matches!(frame, Frame::Message(message) if !message.extensions.is_none()));
            }
            true
        });
        assert!(net.outcomes(0).iter().all(|(_, outcome)| outcome.is_ok()), "{v6}");
        // Each takes 11 units of 128 bytes.
        assert_eq!(chunks, 60_000_usize.div_ceil(11 * 128), "{v6}");
        assert_eq!(told.len(), if all { chunks } else { 1 });
        assert!(
            told[0].0 == 0 && told.iter().all(|&(_, left_ms)| (600..=700).contains(&left_ms)),
            "{told:?}"
        );
    }
}

/// The long datagrams of many who open at once would fill a receiver's buffer.
#[test]
fn nothing_is_searched_before_something_is_granted() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, &vec![7; 60_000], None);
    let own = net.nodes[0].addr;
    let (mut granted, mut longest) = (false, [0, 0]);
    net.settle(|datagram| {
        if datagram.from == own {
            let longest = &mut longest[usize::from(granted)];
            *longest = datagram.bytes.len().max(*longest);
            assert!(granted || !datagram.has(Kind::Chunk), "a datagram more, for 128 bytes (R-CREDIT-4)");
        } else {
            granted |= datagram.has(Kind::Grant);
        }
        true
    });
    assert_eq!(net.outcomes(0).len(), 1);
    assert!(longest[0] > 0 && longest[0] <= 190, "{longest:?}");
    assert_eq!(longest[1], 1_472);
}

/// Each has its turn, and is told more than nothing then, though no message of his has begun to come (R-CREDIT-3). It took a
/// second, and the next one two.
#[test]
fn who_asked_before_he_sent_anything_is_told_when_his_turn_comes() {
    let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let mut net = Net::with(0, &config);
    net.buffer_bytes = 16_384; // The least grant: one sender at a time.
    const SENDERS: usize = 12;
    (0..=SENDERS as u8).for_each(|host| net.add(SocketAddr::from(([10, 0, 1, host], 1)), &config));
    (1..=SENDERS).for_each(|node| net.put(node, 0, 1, &vec![7; 30_000], None));
    let to = net.nodes[0].addr;
    let mut unused = 0;
    net.run(100, |datagram| {
        let grants = |frame: Frame<'_>| matches!(frame, Frame::Grant(grant) if grant.packets == 0);
        unused += usize::from(datagram.from == to && datagram.frames().any(grants));
        true
    });
    assert!(unused >= SENDERS - 1, "most of them were told to wait at first: {unused}");
    assert_eq!(net.nodes[0].app.got.len(), SENDERS);
}

/// What needs no credit does not wait behind what does.
#[test]
fn a_small_message_leaves_beside_a_large_one_that_lacks_credit() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    net.settle(|_| true);
    net.run(100, |_| true); // Its lease is over.
    let high = Options { priority: Priority::High, ..Options::default() };
    net.put_with(0, 1, 2, &vec![7; 30_000], (None, Some(Box::new(high))));
    net.put(0, 1, 3, b"small", None);
    let left = net.leave(0);
    assert!(left.iter().any(|datagram| datagram.has(Kind::Message)), "{left:?}");
    assert!(left.iter().all(|datagram| !datagram.has(Kind::Chunk)), "{left:?}");
    left.iter().for_each(|datagram| net.bring(datagram));
    net.settle(|_| true);
    assert_eq!(net.outcomes(0).len(), 3);
}

/// A message that is all there and waits for its turn in a lane is no reason to tell its sender nothing.
#[test]
fn who_asked_is_told_although_nothing_is_missing_of_what_has_begun_to_come() {
    let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let mut net = Net::with(0, &config);
    net.buffer_bytes = 16_384;
    const SENDERS: usize = 8;
    (0..=SENDERS as u8).for_each(|host| net.add(SocketAddr::from(([10, 0, 1, host], 1)), &config));
    let in_lane = || {
        let lane = crate::options::Lane { number: 1, before: 0 };
        Some(Box::new(Options { lane: Some(lane), ..Options::default() }))
    };
    for node in 1..=SENDERS {
        net.put_with(node, 0, 1, &[1; 2_816], (None, in_lane()));
        net.put_with(node, 0, 2, &[2; 100], (None, in_lane()));
    }
    let of_first = |frame: Frame<'_>| matches!(frame, Frame::Chunk(chunk) if chunk.total == 2_816);
    // What each sends first of its first message is lost.
    let mut lost = std::collections::BTreeMap::<SocketAddr, u32>::new();
    net.run(1_000, |datagram| {
        let passes = !datagram.frames().any(of_first);
        let lost = lost.entry(datagram.from).or_default();
        *lost += u32::from(!passes);
        passes || *lost > 2
    });
    let held = net.nodes[0].counter("lane_messages_held");
    assert_eq!((held, net.nodes[0].app.got.len()), (SENDERS as u64, 2 * SENDERS));
}

/// What waits behind others for a peer that is not there is put in no time, and ends in time.
#[test]
fn what_waits_behind_others_has_its_own_deadline() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"long", Some(Duration::from_secs(7)));
    net.run(300, |_| false);
    net.put(0, 1, 2, b"short", Some(Duration::from_millis(100)));
    net.put(0, 1, 3, b"shorter", Some(Duration::from_millis(50)));
    for op in [3, 2] {
        net.run(if op == 3 { 55 } else { 50 }, |_| false);
        let outcomes = net.outcomes(0);
        assert!(matches!(outcomes[..], [(ended, Err(_))] if ended == op), "{outcomes:?}");
    }
}

/// Somebody who says HELLO from an address of his choice.
struct Stranger {
    addr: SocketAddr,
    tag: u64,
    cookie: u64,
}

impl Stranger {
    fn new(number: u64) -> Self {
        let [.., a, b, c] = number.to_be_bytes();
        Self { addr: SocketAddr::from(([11, a, b, c], 7)), tag: number + 1, cookie: 0 }
    }

    fn says(&self, to: SocketAddr, number: u64, tag: u64, write: impl FnOnce(&mut Writer<'_>)) -> Datagram {
        let mut bytes = vec![0; 148];
        let header = Header { route: 0, epoch: 1 << 20, packet_number: number, tag, sent_at: None };
        binary::write(&mut bytes, &header);
        let mut writer = Writer::new(&mut bytes[HEADER_BYTES..]);
        write(&mut writer);
        writer.pad();
        binary::seal(&mut bytes);
        Datagram { from: self.addr, to, bytes }
    }

    fn hello(&self, to: SocketAddr) -> Datagram {
        let hello = Hello {
            versions: &[2],
            tag: self.tag,
            nonce: self.tag.rotate_left(20),
            bases: Bases { packet_number: 10, messages: 10, chunked: 10 },
            cookie: Some(self.cookie),
            ..Hello::default()
        };
        self.says(to, 10, 0, |writer| assert!(writer.hello(&hello)))
    }
}

impl Net {
    /// What node 1 answers.
    fn ask(&mut self, datagram: &Datagram) -> Vec<Datagram> {
        self.bring(datagram);
        self.leave(1).into_iter().filter(|answer| answer.to == datagram.from).collect()
    }

    fn learn_cookie(&mut self, stranger: &mut Stranger) {
        let mut bytes = vec![0; DISCOVERY_ROW_BYTES];
        csv::encode_discovery(&mut bytes, &Discovery { id: 0, nonce: 3, kind: DiscoveryKind::Probe });
        let to = self.nodes[1].addr;
        let answers = self.ask(&Datagram { from: stranger.addr, to, bytes });
        let answer = answers.iter().find_map(|answer| csv::decode_discovery(&answer.bytes)).unwrap();
        let DiscoveryKind::Answer { cookie } = answer.kind else { panic!("{answer:?}") };
        stranger.cookie = cookie;
    }

    /// What a node's first flow is called by its peer.
    fn tag_given_by(&self, node: usize) -> u64 {
        self.nodes[node].endpoint.outbound.flows.first_tag().unwrap()
    }

    /// The tag node 1 gives in its HELLO.
    fn tag_of(answers: &[Datagram]) -> Option<u64> {
        answers.iter().flat_map(Datagram::frames).find_map(|frame| match frame {
            Frame::Hello(hello) => Some(hello.tag),
            _ => None,
        })
    }

    fn flows(&self) -> usize {
        self.nodes[1].endpoint.outbound.flows.count()
    }
}

/// Without a round trip the first timeout of a flow is 250 ms, which is long where packets are lost. An answer says which HELLO
/// it answers, so that one which was said again measures, too.
#[test]
fn a_handshake_measures_the_first_round_trip() {
    let trip = Duration::from_micros(700);
    for lost in [0, 1] {
        let mut net = Net::new(2);
        net.put(0, 1, 1, b"first", None);
        let mut hellos = net.leave(0);
        assert_eq!(hellos.len(), 1);
        if lost > 0 {
            net.now += Duration::from_millis(110);
            hellos = net.leave(0);
            assert_eq!(hellos.len(), 2, "the next wait is twice as long");
        }
        net.bring(&hellos[0]);
        let answers = net.leave(1);
        net.now += trip;
        net.bring(&answers[0]);
        let left = net.leave(0);
        net.now += trip;
        left.iter().for_each(|datagram| net.bring(datagram));
        let now = net.now;
        let mut rtt = |node: usize, of: usize| {
            let to = net.nodes[of].addr;
            *net.nodes[node].endpoint.outbound.flows.flow_to(now, to).unwrap().recovery.rtt()
        };
        assert_eq!([rtt(0, 1).smoothed(), rtt(0, 1).min()], [trip; 2]);
        // The one HELLO it said was answered, by the datagram behind the one that it answered.
        let measured = if lost == 0 { 2 * trip } else { Duration::from_millis(125) };
        assert_eq!([rtt(1, 0).smoothed(), rtt(1, 0).min()], [measured; 2]);
        assert!(net.nodes[1].app.got == [b"first"]);
    }
}

/// Of two HELLOs one finds the batch full: the other counts.
#[test]
fn half_a_pair_of_hellos_counts() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    assert_eq!(net.leave(0).len(), 1);
    net.now += Duration::from_millis(110);
    assert!(net.find_batch_full(0, 1));
    let (now, to) = (net.now, net.nodes[1].addr);
    assert_eq!(net.nodes[0].endpoint.outbound.flows.flow_to(now, to).unwrap().hellos, 2);
}

/// What proves the opener is a repeat, or was held back: that is no round trip.
#[test]
fn what_proves_late_measures_nothing() {
    for is_lost in [true, false] {
        let mut net = Net::new(2);
        net.put(0, 1, 1, b"first", None);
        for node in [0, 1] {
            let hello = net.leave(node);
            assert_eq!(hello.len(), 1);
            net.bring(&hello[0]);
        }
        let first = net.leave(0);
        assert!(!first.is_empty());
        net.now += Duration::from_millis(if is_lost { 600 } else { 1_100 });
        let proof = if is_lost { net.leave(0) } else { first };
        assert!(!proof.is_empty());
        proof.iter().for_each(|datagram| net.bring(datagram));
        let (now, to) = (net.now, net.nodes[0].addr);
        let flow = net.nodes[1].endpoint.outbound.flows.flow_to(now, to).unwrap();
        assert!(flow.proven);
        assert_eq!(flow.recovery.rtt().smoothed(), Duration::from_millis(125), "the guess");
    }
}

/// Karn's algorithm: which of two it was that proved the opener nobody knows.
#[test]
fn who_answered_twice_measures_nothing() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    let hellos = net.leave(0);
    net.bring(&hellos[0]);
    let lost = net.leave(1);
    assert_eq!(lost.len(), 1);
    net.now += Duration::from_millis(110);
    net.settle(|_| true);
    assert!(net.nodes[1].app.got == [b"first"]);
    let (now, to) = (net.now, net.nodes[0].addr);
    let flow = net.nodes[1].endpoint.outbound.flows.flow_to(now, to).unwrap();
    assert_eq!(flow.recovery.rtt().smoothed(), Duration::from_millis(125), "the guess");
}

/// In a first HELLO that is not sealed it means nothing; an answer with it is not the right one (R-BIN-14).
#[test]
fn random_in_a_hello_that_is_not_sealed() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    let with_random = |net: &Net, datagram: &Datagram| {
        let Some(Frame::Hello(hello)) = datagram.frames().next() else { panic!("{datagram:?}") };
        assert_eq!(hello.random, None);
        let hello = Hello { random: Some([7; 16]), ..hello };
        net.forge(datagram, 0, |writer| assert!(writer.hello(&hello)))
    };
    let hellos = net.leave(0);
    let hello = with_random(&net, &hellos[0]);
    let answers = net.ask(&hello);
    assert_eq!(answers.len(), 1);
    assert_eq!(net.nodes[1].counter("dropped_binary_unproven"), 0);

    let wrong = with_random(&net, &answers[0]);
    net.bring(&wrong);
    assert_eq!(net.nodes[0].counter("dropped_binary_unproven"), 1);
    assert!(net.leave(0).is_empty(), "it still waits");
    net.bring(&answers[0]);
    net.settle(|_| true);
    assert_eq!(net.nodes[0].counter("dropped_binary_unproven"), 1);
    assert_eq!(net.nodes[1].app.got, [b"first"]);
}

/// Flows whose peers fall silent at once probe as fast as they may together, in turn; none is forgotten.
#[test]
fn probes_of_all_flows_share_one_budget() {
    let mut net = Net::new(200);
    for op in 1..3 {
        (1..200).for_each(|peer| net.put(0, peer, op, b"finds out all about the path", None));
        net.settle(|_| true);
    }
    assert_eq!(net.outcomes(0).len(), 2 * 199);
    (1..200).for_each(|peer| net.put(0, peer, 3, b"not heard of", None));
    let mut left = 0;
    while left < 199 {
        left += net.leave(0).len();
    }
    let mut probed = std::collections::BTreeSet::new();
    for ms in 1..=20 {
        net.now += Duration::from_millis(1);
        let probes = net.leave(0);
        assert!(probes.len() <= 64 + 20, "{} at {ms} ms", probes.len());
        probed.extend(probes.iter().map(|probe| probe.to));
    }
    assert_eq!(probed.len(), 199);
}

fn auto() -> Config {
    Config { wire: Wire::Auto, ..Config::preset(Preset::Small) }
}

/// Nobody answers from where these HELLOs seem to come from. A handshake costs a round trip more meanwhile, and no other
/// flow is taken up for them.
#[test]
fn a_flood_of_hellos_keeps_nobody_out() {
    for flooded in [false, true] {
        for simultaneous in [false, true] {
            let mut net = Net::new(2);
            if flooded {
                for (number, node) in (0..2_000).flat_map(|number| [(number, 0), (number, 1)]) {
                    let to = net.nodes[node].addr;
                    let answers = {
                        net.bring(&Stranger::new(number).hello(to));
                        net.leave(node)
                    };
                    assert_eq!(answers.len(), 1);
                    assert!(answers[0].bytes.len() <= 148);
                }
                assert_eq!(net.flows(), 256);
            }
            net.put(0, 1, 1, b"there", None);
            if simultaneous {
                net.put(1, 0, 2, b"back", None);
            }
            let mut hellos = 0;
            let own = net.nodes[0].addr;
            net.settle(|datagram| {
                let opens = binary::decode(&datagram.bytes).is_ok_and(|(header, _)| header.tag == 0);
                hellos += u32::from(datagram.from == own && opens);
                true
            });
            assert_eq!(hellos, 1 + u32::from(flooded), "round trips");
            assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
            assert_eq!(net.nodes[1].app.got, [b"there"]);
            assert_eq!(net.outcomes(1).len(), usize::from(simultaneous));
        }
    }
}

#[test]
fn of_those_who_showed_a_cookie_the_oldest_makes_way() {
    let many = Config { wire: Wire::Binary, peers_max: 4_096, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &many);
    let to = net.nodes[1].addr;
    let mut tags = Vec::new();
    for number in 0..1_030 {
        let mut stranger = Stranger::new(number);
        net.learn_cookie(&mut stranger);
        let answers = net.ask(&stranger.hello(to));
        tags.push(Net::tag_of(&answers).expect("HELLO"));
    }
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (1_024, 6));
    for (number, alive) in [(0, false), (5, false), (6, true), (1_029, true)] {
        let stranger = Stranger::new(number);
        let tag = tags[number as usize];
        let said = stranger.says(to, 11, tag, |writer| {
            assert!(writer.ping(&PingFrame { data: 5, demand: 0 }));
        });
        let answers = net.ask(&said);
        let pong = answers.iter().any(|answer| answer.has(Kind::Pong));
        assert_eq!(pong, alive, "{number}");
    }
}

/// One address that opens flow after flow: eight live, and the one that rested longest makes way.
#[test]
fn an_address_has_eight_flows_at_most() {
    let mut net = Net::new(2);
    let to = net.nodes[1].addr;
    let mut tags = Vec::new();
    for number in 0..20 {
        let mut stranger = Stranger { tag: 1_000 + number, ..Stranger::new(1) };
        net.learn_cookie(&mut stranger);
        let answers = net.ask(&stranger.hello(to));
        let tag = Net::tag_of(&answers).expect("HELLO");
        tags.push(tag);
        let ping = |data| {
            stranger.says(to, 11 + data, tag, |writer| assert!(writer.ping(&PingFrame { data, demand: 0 })))
        };
        assert!(net.ask(&ping(1)).iter().any(|answer| answer.has(Kind::Pong)));
        net.now += Duration::from_millis(1_001);
    }
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (8, 12));
    // Nobody makes way who was heard a moment ago.
    let ping = |tag: u64| {
        let stranger = Stranger::new(1);
        stranger.says(to, 50, tag, |writer| assert!(writer.ping(&PingFrame { data: 1, demand: 0 })))
    };
    tags.iter().for_each(|&tag| net.bring(&ping(tag)));
    net.leave(1);
    let mut late = Stranger { tag: 2_000, ..Stranger::new(1) };
    net.learn_cookie(&mut late);
    assert_eq!(net.ask(&late.hello(to)).len(), 0);
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (8, 12));
    // Another address is none of its business.
    let other = Stranger::new(2);
    assert!(Net::tag_of(&net.ask(&other.hello(to))).is_some());
}

/// Where the table is full, who has slept for long makes way for others, on either side, and loses nothing by it (R-FLOW-15).
#[test]
fn sleepers_make_way_where_there_is_no_room() {
    let small = Config { wire: Wire::Binary, peers_max: 4, ..Config::preset(Preset::Small) };
    let mut net = Net::with(8, &small);
    let delivered = |net: &mut Net, node| matches!(net.outcomes(node)[..], [(_, Ok(_))]);
    for (node, text) in [(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")] {
        net.put(node, 0, 1, text, None);
        net.run(10, |_| true);
        assert!(delivered(&mut net, node));
    }
    // All of them were heard a moment ago: nobody makes way.
    net.put(5, 0, 1, b"5", Some(Duration::from_secs(5)));
    net.run(6_000, |_| true);
    assert!(matches!(net.outcomes(5)[..], [(1, Err(_))]));
    assert_eq!((net.nodes[0].endpoint.outbound.flows.count(), net.nodes[0].counter("flows_evicted")), (4, 0));
    // They sleep.
    net.run(6_000, |_| true);
    assert_eq!(net.nodes[0].counter("flows_evicted"), 1);
    for (node, text) in [(6, b"6"), (7, b"7")] {
        net.put(node, 0, 1, text, None);
        net.run(100, |_| true);
        assert!(delivered(&mut net, node), "{node}");
    }
    assert_eq!(net.nodes[0].counter("flows_evicted"), 3);
    // Who was forgotten, and does not know, has one round trip more.
    for (node, text) in [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"d")] {
        net.put(node, 0, 2, text, None);
        net.run(12_000, |_| true);
        assert!(delivered(&mut net, node), "{node}");
    }
    assert_eq!(net.nodes[0].app.got, [b"1", b"2", b"3", b"4", b"6", b"7", b"a", b"b", b"c", b"d"]);
    // And where we open: there is room for a fifth and a sixth.
    for (op, node) in (3..).zip([1, 2, 3, 4, 5, 6]) {
        net.put(0, node, op, b"back", None);
        net.run(12_000, |_| true);
        assert!(delivered(&mut net, 0), "{node}");
        assert_eq!(net.nodes[node].app.got, [b"back"]);
    }
}

/// Who fell asleep just after somebody was looked for makes way for the next HELLO, and not only for the one after it.
#[test]
fn a_sleeper_makes_way_for_the_hello_that_finds_no_room() {
    let one = Config { wire: Wire::Binary, peers_max: 1, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &one);
    net.put(0, 1, 1, b"first", None);
    net.run(9_000, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
    let mut stranger = Stranger::new(1);
    net.learn_cookie(&mut stranger);
    for _ in 0..10_000 {
        if net.nodes[1].counter("flows_slept") > 0 {
            break;
        }
        net.now += Duration::from_millis(1);
        net.leave(1);
    }
    assert_eq!((net.nodes[1].counter("flows_slept"), net.nodes[1].counter("flows_evicted")), (1, 0));
    net.now += Duration::from_millis(100);
    let hello = stranger.hello(net.nodes[1].addr);
    assert!(Net::tag_of(&net.ask(&hello)).is_some());
    assert_eq!(net.nodes[1].counter("flows_evicted"), 1);
}

/// A peer that forgot its flows, and has all the places there are: it gives up one of its own (R-FLOW-13). It has to show that it is
/// there, as ever.
#[test]
fn where_the_table_is_full_an_address_gives_up_a_flow_of_its_own() {
    let two = Config { wire: Wire::Binary, peers_max: 2, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &two);
    let to = net.nodes[1].addr;
    let open = |net: &mut Net, tag, shows: bool| {
        let mut stranger = Stranger { tag, ..Stranger::new(1) };
        if shows {
            net.learn_cookie(&mut stranger);
        }
        let tag = Net::tag_of(&net.ask(&stranger.hello(to)));
        let proof =
            |tag| stranger.says(to, 11, tag, |it| assert!(it.ping(&PingFrame { data: 1, demand: 0 })));
        tag.is_some_and(|tag| net.ask(&proof(tag)).iter().any(|answer| answer.has(Kind::Pong)))
    };
    assert!(open(&mut net, 1_001, true) && open(&mut net, 1_002, true));
    assert!(!open(&mut net, 1_003, true), "both were heard a moment ago");
    net.now += Duration::from_millis(1_001);
    assert!(!open(&mut net, 1_004, false), "anybody can say so");
    assert!(open(&mut net, 1_005, true));
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (2, 1));
}

/// Ports cost nothing: a host with as many as it likes leaves a quarter of all places to others (R-FLOW-13).
#[test]
fn a_host_has_three_quarters_of_the_flows_at_most() {
    let eight = Config { wire: Wire::Binary, peers_max: 8, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &eight);
    let to = net.nodes[1].addr;
    let at = |host: u8, port: u16| Stranger {
        addr: SocketAddr::from(([11, 0, 0, host], port)),
        ..Stranger::new(port.into())
    };
    let hello = |net: &mut Net, mut stranger: Stranger, shows: bool| {
        if shows {
            net.learn_cookie(&mut stranger);
        }
        let tag = Net::tag_of(&net.ask(&stranger.hello(to)));
        (stranger, tag)
    };
    let open = |net: &mut Net, stranger| {
        let (stranger, tag) = hello(net, stranger, true);
        let ping = |tag| stranger.says(to, 11, tag, |it| assert!(it.ping(&PingFrame { data: 1, demand: 0 })));
        tag.is_some_and(|tag| net.ask(&ping(tag)).iter().any(|answer| answer.has(Kind::Pong)))
    };
    let opened: Vec<_> = (1..=10).filter(|&port| open(&mut net, at(1, port))).collect();
    assert_eq!(opened, [1, 2, 3, 4, 5, 6]);
    assert!(open(&mut net, at(2, 1)), "there is room for others");
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (7, 0));
    // Of its own those make way that sleep.
    net.run(12_000, |_| true);
    let slept = net.nodes[1].counter("flows_slept");
    assert!(slept >= 6 && open(&mut net, at(1, 11)), "{slept}");
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (7, 1));

    // What somebody opens in its name makes way for what it opens itself.
    let mut net = Net::with(2, &eight);
    let taken: Vec<_> = (1..=8).filter(|&port| hello(&mut net, at(1, port), false).1.is_some()).collect();
    assert_eq!(taken, [1, 2, 3, 4, 5, 6], "the others are asked for a cookie");
    assert!(open(&mut net, at(1, 9)) && open(&mut net, at(2, 1)));
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (7, 1));
}

/// At its share a host that opens another flow from a port gives up the one of that port that rests.
#[test]
fn a_host_with_three_quarters_gives_up_a_flow_of_the_same_port() {
    let eight = Config { wire: Wire::Binary, peers_max: 8, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &eight);
    let to = net.nodes[1].addr;
    let open = |net: &mut Net, port: u16, tag| {
        let addr = SocketAddr::from(([11, 0, 0, 1], port));
        let mut stranger = Stranger { addr, tag, cookie: 0 };
        net.learn_cookie(&mut stranger);
        let tag = Net::tag_of(&net.ask(&stranger.hello(to)));
        let ping = |tag| stranger.says(to, 11, tag, |it| assert!(it.ping(&PingFrame { data: 1, demand: 0 })));
        tag.is_some_and(|tag| net.ask(&ping(tag)).iter().any(|answer| answer.has(Kind::Pong)))
    };
    // Port 1 has two flows, the others one.
    let opened =
        [(1, 11), (1, 12), (2, 21), (3, 31), (4, 41), (5, 51)].map(|(port, tag)| open(&mut net, port, tag));
    assert_eq!(opened, [true; 6]);
    assert!(!open(&mut net, 1, 13), "all were heard a moment ago");
    net.now += Duration::from_millis(1_001);
    assert!(!open(&mut net, 2, 22), "its only one is taken by messages");
    assert!(open(&mut net, 1, 14));
    assert_eq!(
        (net.flows(), net.nodes[1].counter("flows_evicted"), net.nodes[1].counter("flows_slept")),
        (6, 1, 0)
    );
}

/// What came from another address came on the flow all the same: it does not make way within a second (R-RESTART-5), or what is
/// sent again would be taken for new.
#[test]
fn a_flow_that_was_heard_from_elsewhere_does_not_make_way() {
    let two = Config { wire: Wire::Binary, peers_max: 2, ..Config::preset(Preset::Small) };
    let mut net = Net::with(3, &two);
    for node in [0, 2] {
        net.put(node, 1, 1, b"known", None);
        net.settle(|_| true);
    }
    net.now += Duration::from_millis(2_001);
    net.put(2, 1, 2, b"known", None);
    net.settle(|_| true);
    net.put(0, 1, 2, b"moved", None);
    for datagram in net.leave(0) {
        net.bring(&Datagram { from: SocketAddr::from(([10, 0, 0, 1], 9)), ..datagram });
    }
    assert_eq!(net.nodes[1].app.got.last().unwrap(), b"moved");
    net.leave(1);
    let to = net.nodes[1].addr;
    let mut stranger = Stranger { addr: net.nodes[0].addr, ..Stranger::new(1) };
    net.learn_cookie(&mut stranger);
    assert_eq!(Net::tag_of(&net.ask(&stranger.hello(to))), None);
    assert_eq!(net.nodes[1].counter("flows_evicted"), 0);
    net.now += Duration::from_millis(1_001);
    net.learn_cookie(&mut stranger);
    assert!(Net::tag_of(&net.ask(&stranger.hello(to))).is_some());
    assert_eq!(net.nodes[1].counter("flows_evicted"), 1);
}

/// A peer that repeats what was taken, again and again, and acknowledges nothing: the results that it is told take no memory
/// that others need, and each number of ours no more than a bounded one.
#[test]
fn who_repeats_and_acknowledges_nothing_holds_little() {
    for every in [Duration::from_micros(1), Duration::from_millis(1)] {
        let mut net = Net::new(2);
        let (to, stranger) = (net.nodes[1].addr, Stranger::new(1));
        let tag = Net::tag_of(&net.ask(&stranger.hello(to))).unwrap();
        let chunk = ChunkFrame {
            space: Space::Chunked,
            seq: 10,
            offset: 0,
            total: 1,
            extensions: Extensions::NONE,
            bytes: b"x",
        };
        let mut said = 0;
        for number in 11..20_011 {
            net.now += every;
            let answers = net.ask(&stranger.says(to, number, tag, |it| assert!(it.chunk(&chunk))));
            said += answers.iter().filter(|answer| answer.has(Kind::Result)).count();
        }
        assert_eq!(net.nodes[1].app.got.len(), 1);
        assert!(said >= 16_384, "{said}");
        let now = net.now;
        let flow = net.nodes[1].endpoint.outbound.flows.flow_to(now, stranger.addr).unwrap();
        let (in_flight, memory_bytes) = (flow.recovery.in_flight_packets(), flow.recovery.memory_bytes());
        assert!((1..=4).contains(&in_flight) && memory_bytes <= 2 << 20, "{in_flight} {memory_bytes}");
        net.put(1, 0, 1, b"others go on", None);
        net.settle(|datagram| datagram.to != stranger.addr);
        assert!(matches!(net.outcomes(1)[..], [(1, Ok(_))]));

        // Once it acknowledges, everything is as before.
        let largest = net.nodes[1].endpoint.outbound.flows.flow_to(now, stranger.addr).unwrap();
        let largest = largest.recovery.next_number() - 1;
        let ack = |it: &mut Writer<'_>| assert!(it.ack(0, [(largest - 20_000, largest)], None));
        net.ask(&stranger.says(to, 30_000, tag, ack));
        // Then it sends what is acknowledged alone, more often than there are places for numbers.
        for number in 30_001..50_001 {
            net.now += every;
            let seq = (number - 30_000 + 10) as u32;
            let said = stranger.says(to, number, tag, |it| assert!(it.message(seq, b"y", &Extensions::NONE)));
            let answers = net.ask(&said);
            assert!(answers.iter().any(|answer| answer.has(Kind::Ack)), "{number}");
        }
        assert_eq!(net.nodes[1].app.got.len(), 20_001);
    }
}

/// Messages wait on a flow of ours for an answer, and its peer says HELLO itself: where there is no room for both, ours stays.
#[test]
fn a_hello_that_finds_no_room_ends_nothing_that_waits() {
    let two = Config { wire: Wire::Binary, peers_max: 2, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &two);
    let to = net.nodes[1].addr;
    let mut stranger = Stranger::new(1);
    net.put(1, 0, 1, b"known", None);
    net.settle(|_| true);
    net.put_at(1, stranger.addr, 2, b"waits");
    assert_eq!(net.leave(1).len(), 1, "a HELLO");
    assert_eq!(net.flows(), 2);
    net.now += Duration::from_millis(1_001);
    net.learn_cookie(&mut stranger);
    assert_eq!(Net::tag_of(&net.ask(&stranger.hello(to))), None);
    assert!(matches!(net.outcomes(1)[..], [(1, Ok(_))]), "and of the other one nothing is known yet");
    assert_eq!((net.flows(), net.nodes[1].counter("flows_evicted")), (2, 0));
}

/// Flows that we opened are none of a host's, and do not make way for it.
#[test]
fn what_we_opened_does_not_make_way_for_a_host_with_three_quarters() {
    let eight = Config { wire: Wire::Binary, peers_max: 8, ..Config::preset(Preset::Small) };
    let mut net = Net::with(1, &eight);
    (1..=8).for_each(|port| net.add(SocketAddr::from(([10, 0, 0, 9], port)), &eight));
    net.put(0, 8, 1, b"ours", None);
    net.run(12_000, |_| true);
    assert_eq!(net.nodes[0].counter("flows_slept"), 1);
    for node in 1..=7 {
        net.put(node, 0, 1, b"theirs", None);
        net.run(10, |_| true);
    }
    assert_eq!((net.nodes[0].app.got.len(), net.nodes[0].counter("flows_evicted")), (6, 0));
    assert!(net.nodes[0].endpoint.outbound.flows.asleep() == 1, "ours");
}

/// A flow that ends gives its place to its heir, where there is no other one (R-RESTART-1).
#[test]
fn what_waits_finds_a_flow_where_the_table_is_full() {
    let one = Config { wire: Wire::Binary, peers_max: 1, ..Config::preset(Preset::Small) };
    let mut net = Net::with(2, &one);
    net.put(0, 1, 0, b"before", None);
    net.run(10, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(0, Ok(_))]));
    net.nodes[1] = net.node(net.nodes[1].addr, 99, &one);
    (1..=200).for_each(|op| net.put(0, 1, op, &[7; 1_000], None));
    net.run(1_000, |_| true);
    let outcomes = net.outcomes(0);
    let restarted = |error: &DeliveryError| error.cause == FailureCause::PeerRestarted;
    let lost = outcomes.iter().filter(|(_, outcome)| outcome.as_ref().is_err_and(restarted)).count();
    let arrived = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert!(lost > 0 && arrived > 0 && lost + arrived == 200, "{lost} {arrived}");
    assert_eq!(net.nodes[1].app.got.len(), arrived);
}

/// A HELLO with its cookie is repeated when the flow it opened is gone: not one binary byte leaves for it (R-DISC-2).
#[test]
fn a_cookie_proves_an_address_once() {
    let mut net = Net::with(2, &auto());
    let to = net.nodes[1].addr;
    let mut stranger = Stranger::new(1);
    net.learn_cookie(&mut stranger);
    let hello = stranger.hello(to);
    assert!(Net::tag_of(&net.ask(&hello)).is_some());
    // While the flow is there it is answered again: the answer may have been lost.
    assert!(Net::tag_of(&net.ask(&hello)).is_some());
    net.now += Duration::from_millis(10_100);
    net.leave(1);
    assert_eq!(net.flows(), 0);
    let answers = net.ask(&hello);
    assert!(answers.iter().all(|answer| answer.bytes[0] < 0x80) && answers.len() == 1, "{answers:?}");
    // The cookie is as good as it was, for a HELLO that has not been said before.
    stranger.tag += 1;
    assert!(Net::tag_of(&net.ask(&stranger.hello(to))).is_some());
}

/// What nodes say to each other, by the wire of the first byte.
fn in_binary(datagram: &Datagram) -> bool {
    datagram.bytes[0] >= 0x80
}

/// Whatever the engine's own wire is, each peer is spoken to in the one of its rule (R-WIRE-1).
#[test]
fn each_peer_is_spoken_to_as_its_rule_says() {
    let wires = [Wire::Csv, Wire::Binary, Wire::Auto];
    let addr = |number: usize| SocketAddr::from(([10, 0, 0, number as u8 + 1], 1));
    for default in wires {
        let peer_wires = (1..).zip(wires).filter(|rule| rule.1 != default);
        let peer_wires = peer_wires.map(|(number, wire)| (addr(number).into(), wire)).collect();
        let mut net = Net::new(0);
        net.add(addr(0), &Config { wire: default, peer_wires, ..Config::preset(Preset::Small) });
        for (number, wire) in (1..).zip(wires) {
            net.add(addr(number), &Config { wire, ..Config::preset(Preset::Small) });
        }
        let sending = &net.nodes[0].endpoint.outbound;
        let refused = [1, 2, 3].map(|number| sending.check(addr(number), b"\xff").is_err());
        assert_eq!(refused, [true, false, false], "only text goes to the first");
        let mut left: [Vec<Datagram>; 4] = [(); 4].map(|()| Vec::new());
        for round in 0..3 {
            for number in 1..=3 {
                net.put(0, number, (round * 10 + number) as u32, b"text", None);
                net.put(number, 0, round as u32, b"back", None);
            }
            net.run(10, |datagram| {
                let to = net_number(datagram.to);
                let between = if to == 0 { net_number(datagram.from) } else { to };
                left[between].push(datagram.clone());
                true
            });
        }
        for (number, left) in (1..=3).zip(&left[1..]) {
            assert_eq!(net.nodes[number].app.got, [b"text"; 3], "{default:?} {number}");
            assert!(net.outcomes(number).iter().all(|(_, outcome)| outcome.is_ok()));
            let is_probe = |datagram: &&Datagram| csv::decode_discovery(&datagram.bytes).is_some();
            let binary = left.iter().filter(|datagram| in_binary(datagram)).count();
            let asked = left.iter().filter(is_probe).count();
            match wires[number - 1] {
                Wire::Csv => assert_eq!((binary, asked), (0, 0), "{default:?}"),
                Wire::Binary => assert_eq!((binary, asked), (left.len(), 0), "{default:?}"),
                Wire::Auto => assert!(binary > 0 && asked >= 2, "{default:?} {left:?}"),
            }
        }
        let outcomes = net.outcomes(0);
        assert!(outcomes.len() == 9 && outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
        assert_eq!(net.nodes[0].app.got.len(), 9);
    }
}

/// A message that waited in vain for a peer to speak the binary wire, and finds no place among rows, ends by its deadline.
#[test]
fn what_finds_no_room_among_rows_expires() {
    let addr = |number: usize| SocketAddr::from(([10, 0, 0, number as u8 + 1], 1));
    let mut net = Net::new(0);
    let peer_wires = vec![(addr(1).into(), Wire::Csv)];
    net.add(addr(0), &Config { wire: Wire::Auto, peer_wires, peers_max: 1, ..Config::preset(Preset::Small) });
    for number in 1..3 {
        net.add(addr(number), &Config::preset(Preset::Small));
    }
    net.put(0, 1, 1, b"has the place of rows", None);
    let began = net.now;
    net.put(0, 2, 2, &[b'a'; 5_000], Some(Duration::from_millis(700)));
    net.run(690, |_| false);
    let endpoint = &net.nodes[0].endpoint;
    assert!(endpoint.outbound.flows.has_spilled() && net.outcomes(0).is_empty());
    let due = net.nodes[0].endpoint.next_deadline();
    assert!(due <= Some(began + Duration::from_millis(700)), "{due:?}");
    net.run(20, |_| false);
    assert!(matches!(
        net.outcomes(0)[..],
        [(2, Err(error))] if error.cause == FailureCause::Expired && error.reached == Reached::Never
    ));
}

/// The last byte of a node's address, from 0 on.
fn net_number(addr: SocketAddr) -> usize {
    match addr {
        SocketAddr::V4(v4) => usize::from(v4.ip().octets()[3]) - 1,
        SocketAddr::V6(v6) => usize::from(v6.ip().octets()[15]) - 1,
    }
}

/// To an address of `csv` not a byte of v2 leaves, and what comes from there in v2 counts for nothing (R-WIRE-2).
#[test]
fn nothing_from_an_address_of_csv_counts_in_binary() {
    for default in [Wire::Binary, Wire::Auto] {
        let mut stranger = Stranger::new(1);
        let config = Config { wire: default, ..Config::preset(Preset::Small) };
        let mut net = Net::with(2, &config);
        let to = net.nodes[1].addr;
        // While there is no rule he gets a cookie, and a flow.
        net.learn_cookie(&mut stranger);
        assert!(Net::tag_of(&net.ask(&stranger.hello(to))).is_some());
        let peer_wires = vec![(stranger.addr.ip().into(), Wire::Csv)];
        net.nodes[1] = net.node(to, 1, &Config { peer_wires, ..config });
        net.put(0, 1, 1, b"a flow of somebody else's", None);
        net.settle(|_| true);
        let (tag, flows) = (net.tag_given_by(1), net.flows());
        let ping = |writer: &mut Writer<'_>| assert!(writer.ping(&PingFrame { data: 1, demand: 0 }));
        let attacks = [
            stranger.hello(to),
            stranger.says(to, 11, 77, ping),
            stranger.says(to, 1 << 40, tag, ping),
            stranger.says(to, 0, 0, |writer| assert!(writer.reset(tag))),
            Datagram { bytes: vec![0x80; 200], ..stranger.hello(to) },
        ];
        for (number, attack) in (1..).zip(&attacks) {
            assert_eq!(net.ask(attack).len(), 0, "{default:?} {attack:?}");
            assert_eq!(net.nodes[1].counter("dropped_binary_wire"), number);
        }
        for kind in [DiscoveryKind::Probe, DiscoveryKind::Answer { cookie: 1 }] {
            let mut bytes = vec![0; DISCOVERY_ROW_BYTES];
            csv::encode_discovery(&mut bytes, &Discovery { id: 0, nonce: 3, kind });
            assert_eq!(net.ask(&Datagram { from: stranger.addr, to, bytes }).len(), 0);
        }
        assert_eq!(net.nodes[1].counter("dropped_unknown_confirm"), 2);
        assert_eq!(net.flows(), flows);
        net.put(0, 1, 2, b"is as it was", None);
        net.put(1, 0, 3, b"both ways", None);
        net.settle(|datagram| datagram.to != stranger.addr);
        assert!(net.outcomes(0).iter().chain(&net.outcomes(1)).all(|(_, outcome)| outcome.is_ok()));
        assert_eq!(net.flows(), flows);
        // A row it is, for him.
        net.put_at(1, stranger.addr, 4, b"row");
        let left = net.leave(1);
        assert!(left.len() == 1 && left[0].bytes[0] == b',', "{left:?}");
    }
}

/// A flow is its address's: where that changes, the rule of the new one counts (R-WIRE-3). Node 0 goes by `binary` at its
/// own address, by `auto` at the one behind a NAT, by `csv` at a third.
#[test]
fn a_flow_that_moves_goes_by_the_rule_of_its_new_address() {
    let [own, nat, third] = [[10, 0, 0, 1], [10, 0, 9, 9], [10, 0, 8, 8]].map(|ip| SocketAddr::from((ip, 1)));
    let mut net = Net::new(1);
    let peer_wires = vec![(own.into(), Wire::Binary), ("10.0.8.0/24".parse().unwrap(), Wire::Csv)];
    net.add(SocketAddr::from(([10, 0, 0, 2], 1)), &Config { peer_wires, ..auto() });
    // Node 0 is seen as `seen_as`, and is reached there alone; what node 1 sent there first.
    let exchange = |net: &mut Net, seen_as: SocketAddr| {
        let mut first = None;
        for _ in 0..100 {
            net.now += Duration::from_millis(1);
            for mut datagram in (0..2).flat_map(|node| net.leave(node)).collect::<Vec<_>>() {
                if datagram.from == own {
                    datagram.from = seen_as;
                } else if datagram.to == seen_as {
                    first.get_or_insert(in_binary(&datagram));
                    datagram.to = own;
                } else {
                    continue;
                }
                net.bring(&datagram);
            }
        }
        first
    };
    // More than 10 s without a word, then a message of node 1's.
    let after_a_rest = |net: &mut Net, op: u32, seen_as: SocketAddr| {
        net.now += Duration::from_secs(12);
        assert!(net.leave(1).is_empty() && net.nodes[1].endpoint.outbound.flows.asleep() == 1);
        net.put_at(1, seen_as, op, b"\xff");
        let first = exchange(net, seen_as);
        assert_eq!(net.outcomes(1).iter().map(|it| (it.0, it.1.is_ok())).collect::<Vec<_>>(), [(op, true)]);
        first
    };
    // A message of node 1's that nobody answers for a while: whether that is asked with rows.
    let in_silence = |net: &mut Net, op: u32, to: SocketAddr| {
        net.put_at(1, to, op, b"\xff");
        let mut asked = false;
        for _ in 0..1_500 {
            net.now += Duration::from_millis(1);
            asked |= net.leave(1).iter().any(|datagram| !in_binary(datagram));
            net.leave(0);
        }
        // Now it is.
        (0..20).for_each(|_| _ = exchange(net, to));
        assert_eq!(net.outcomes(1).iter().map(|it| (it.0, it.1.is_ok())).collect::<Vec<_>>(), [(op, true)]);
        asked
    };
    net.put(0, 1, 1, b"\xff", None);
    exchange(&mut net, own);
    assert_eq!(after_a_rest(&mut net, 2, own), Some(true), "with `binary` nobody is asked");
    assert!(!in_silence(&mut net, 3, own));
    net.put(0, 1, 4, b"\xff", None);
    exchange(&mut net, nat);
    assert_eq!(after_a_rest(&mut net, 5, nat), Some(false), "with `auto` he is asked first");
    assert!(in_silence(&mut net, 6, nat));
    net.put(0, 1, 7, b"\xff", None);
    assert_eq!(exchange(&mut net, third), None, "with `csv` nothing is said to him");
    assert!(net.nodes[1].counter("dropped_binary_wire") > 0);
    exchange(&mut net, own);
    assert_eq!(after_a_rest(&mut net, 8, own), Some(true), "and back");
    assert!(!in_silence(&mut net, 9, own));
    assert_eq!(net.nodes[1].app.got.len(), 3);
    assert_eq!(net.flows(), 1);
}

/// A peer that went silent with as much under way as the pool holds. Node 0 has `blocks` blocks for that.
fn beside_a_dead_peer(blocks: usize) -> Net {
    let congestion = Algorithm::Fixed;
    let mut net = Net::with(3, &Config { wire: Wire::Binary, congestion, ..Config::preset(Preset::Small) });
    net.nodes[0].endpoint.outbound.flows.set_pool_blocks(blocks);
    net.put(0, 2, 1, b"first", None);
    net.settle(|_| true);
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
    for op in 0..500 {
        net.put(0, 2, 1_000 + op, &[7; 1_400], None);
    }
    let dead = net.nodes[2].addr;
    net.settle(|datagram| datagram.to != dead);
    net
}

/// What nobody answers takes its share of the memory of datagrams, and no more: others go on.
#[test]
fn a_dead_peer_does_not_hold_all_memory() {
    let mut net = beside_a_dead_peer(4);
    let (dead, start) = (net.nodes[2].addr, net.now);
    net.put(0, 1, 2, b"alive", None);
    for op in 0..200 {
        net.put(0, 1, 2_000 + op, &[8; 1_400], None);
    }
    net.run(50, |datagram| datagram.to != dead);
    let outcomes = net.outcomes(0);
    assert_eq!(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 201);
    assert!(
        net.now.since(start) < Duration::from_secs(1) && outcomes.len() == 201,
        "nobody was given up yet"
    );
}

/// Not a slot is left: PING leaves all the same, so the peer does not forget the flow before there is room for more
/// (`try_span_max` is 8 s, an unproven flow lives 10 s).
#[test]
fn a_ping_needs_no_memory_that_is_kept() {
    let mut net = beside_a_dead_peer(1);
    let (dead, peer) = (net.nodes[2].addr, net.nodes[1].addr);
    net.put(0, 1, 2, b"alive", None);
    let mut pings = 0;
    net.run(100, |datagram| {
        let ping = datagram.to == peer && datagram.has(Kind::Ping);
        pings += u32::from(ping);
        // The first is lost, and goes again.
        datagram.to != dead && (!ping || pings > 1)
    });
    assert!(pings > 0 && net.outcomes(0).is_empty());
    net.run(9_000, |datagram| {
        pings += u32::from(datagram.to == peer && datagram.has(Kind::Ping));
        datagram.to != dead
    });
    assert!(pings > 1);
    let outcomes = net.outcomes(0);
    assert!(outcomes.iter().any(|(op, outcome)| *op == 2 && outcome.is_ok()));
    assert_eq!(net.nodes[1].app.got, [b"alive"]);
    assert!(outcomes.iter().any(|(_, outcome)| outcome.is_err()), "the dead one was given up");
}

/// A peer is seen under another address for a while, in which a message to his own one opens a flow of its own. When he is
/// back, the flow that was moved there and back takes it over, whatever becomes of its HELLO.
#[test]
fn a_flow_that_moves_takes_over_what_waits_for_its_new_address() {
    let mut net = Net::new(2);
    let (own, nat) = (net.nodes[1].addr, SocketAddr::from(([10, 0, 9, 9], 7)));
    // All but HELLOs arrive; 1 is seen as `seen_as`, and is reached there alone.
    let exchange = |net: &mut Net, seen_as: SocketAddr| {
        for _ in 0..100 {
            net.now += Duration::from_millis(1);
            for mut datagram in (0..2).flat_map(|node| net.leave(node)).collect::<Vec<_>>() {
                if datagram.from == own {
                    datagram.from = seen_as;
                } else if datagram.to == seen_as {
                    datagram.to = own;
                } else {
                    continue;
                }
                if !datagram.has(Kind::Hello) {
                    net.bring(&datagram);
                }
            }
        }
    };
    net.put(1, 0, 1, b"opens a flow", None);
    net.settle(|_| true);
    net.put(1, 0, 2, b"from another address", None);
    exchange(&mut net, nat);
    net.put(0, 1, 3, b"to his own", None);
    exchange(&mut net, nat);
    assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), 2, "another flow was opened");
    assert_eq!(net.outcomes(0), []);
    net.put(1, 0, 4, b"from his own again", None);
    exchange(&mut net, own);
    assert_eq!(net.outcomes(0).iter().map(|it| (it.0, it.1.is_ok())).collect::<Vec<_>>(), [(3, true)]);
    assert_eq!(net.nodes[1].app.got, [b"to his own"]);
    assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), 1);
}

/// A flow moves to an address that another engine had until then: what is under way to that one ends, and messages go over the
/// flow that has moved (R-MOVE-1, R-RESTART-1).
#[test]
fn a_flow_that_moves_ends_one_to_another_start_at_its_new_address() {
    let nat = SocketAddr::from(([10, 0, 9, 9], 7));
    let mut net = Net::new(2);
    net.add(nat, &Config { wire: Wire::Binary, ..Config::preset(Preset::Small) });
    net.put(0, 1, 1, b"to the one", None);
    net.put(0, 2, 2, b"to the other", None);
    net.settle(|_| true);
    assert_eq!(net.outcomes(0).len(), 2);
    net.nodes.truncate(2);
    net.put_at(0, nat, 3, b"to nobody");
    net.run_seen_as(5, (1, nat), |datagram| datagram.from != nat && datagram.to.ip() != nat.ip());
    net.put(1, 0, 4, b"from there", None);
    net.run_seen_as(20, (1, nat), |datagram| datagram.from == nat || !datagram.has(Kind::Message));
    assert_eq!(net.outcomes(0), [(3, ended(FailureCause::PeerRestarted))]);
    net.put_at(0, nat, 5, b"to the one, there");
    net.run_seen_as(20, (1, nat), |_| true);
    assert!(matches!(net.outcomes(0)[..], [(5, Ok(_))]));
    assert_eq!(net.nodes[1].app.got, [&b"to the one"[..], b"to the one, there"]);
    assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), 1);
}

/// Whether it is of the first flow of either side.
fn is_of_first(datagram: &Datagram) -> bool {
    binary::decode(&datagram.bytes).is_ok_and(|(header, _)| header.tag != 0 && header.tag & 0xff_ffff == 0)
}

/// Node 1 is at `own` and at `nat`, and node 0 has a flow to each. The first one, with messages under way (3) and waiting (4 to
/// 99), moves to where the second one is. Node 1's tag for the first.
fn moved_beside(net: &mut Net) -> (SocketAddr, u64) {
    let nat = SocketAddr::from(([10, 0, 9, 9], 7));
    let minutes = Some(Duration::from_secs(120));
    net.put(0, 1, 1, &[0xff; 9], None);
    net.run(300, |_| true);
    net.put_at(0, nat, 2, &[0xff; 9]);
    net.run_seen_as(300, (1, nat), |_| true);
    assert_eq!(net.outcomes(0).iter().filter(|(_, outcome)| outcome.is_ok()).count(), 2);
    let flows = &net.nodes[0].endpoint.outbound.flows;
    assert_eq!((flows.count(), net.flows()), (2, 2));
    (3..100).for_each(|op| net.put(0, 1, op, &[0xff; 1_100], minutes));
    let mut moved = false;
    for op in 0..100 {
        // With `auto` the first ones are answered by a row.
        net.put(1, 0, op, &[0xff; 99], None);
        net.run_seen_as(1, (1, nat), |datagram| {
            moved |= is_of_first(datagram) && datagram.from != nat && datagram.has(Kind::Message);
            !datagram.has(Kind::Message) || datagram.from == nat
        });
    }
    assert!(moved, "what is under way went to the new address");
    assert_eq!(net.outcomes(0), []);
    (nat, net.nodes[1].endpoint.outbound.flows.first_tag().unwrap())
}

/// The peer is silent on a flow that is beside the one that messages take: what waits goes over to that, and no other is opened
/// (R-MOVE-1, R-LOSS-9).
#[test]
fn what_waits_on_a_flow_that_moved_goes_over_to_the_one_that_is_used() {
    let mut net = Net::new(2);
    let (nat, _) = moved_beside(&mut net);
    let mut hellos = 0;
    for op in 100..300 {
        net.put_at(0, nat, op, b"on the other");
        net.run_seen_as(100, (1, nat), |datagram| {
            hellos += u32::from(datagram.has(Kind::Hello));
            !is_of_first(datagram)
        });
    }
    let outcomes = net.outcomes(0);
    let lost = outcomes.iter().filter(|(_, outcome)| *outcome == ended(FailureCause::TimedOut)).count();
    let arrived = outcomes.iter().filter(|(op, outcome)| *op < 100 && outcome.is_ok()).count();
    assert!(lost > 0 && arrived > 0 && lost + arrived == 97, "{lost} {arrived}");
    assert_eq!(outcomes.iter().filter(|(op, outcome)| *op >= 100 && outcome.is_ok()).count(), 200);
    assert_eq!((hellos, net.nodes[0].endpoint.outbound.flows.count()), (0, 1));
}

/// A RESET finds the flow that it names, whichever messages to its address take (R-RESTART-3).
#[test]
fn a_reset_of_a_flow_that_moved_is_believed() {
    let mut net = Net::new(2);
    let (nat, tag) = moved_beside(&mut net);
    let stranger = Stranger { addr: nat, tag: 0, cookie: 0 };
    for (tag, flows) in [(tag ^ 1 << 40, 2), (tag, 1)] {
        let reset = stranger.says(net.nodes[0].addr, 0, 0, |writer| assert!(writer.reset(tag)));
        net.bring(&reset);
        assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), flows);
    }
    let lost = net.outcomes(0);
    assert!(!lost.is_empty() && lost.iter().all(|(_, it)| *it == ended(FailureCause::PeerRestarted)));
    net.run_seen_as(1_000, (1, nat), |_| true);
    let arrived = net.outcomes(0);
    assert!(arrived.iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(lost.len() + arrived.len(), 97);
}

/// A new start of the peer ends all that is under way to the one before, on whichever flow (R-RESTART-1).
#[test]
fn a_restart_ends_what_is_under_way_on_a_flow_that_moved() {
    let mut net = Net::new(2);
    let (nat, _) = moved_beside(&mut net);
    let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let addr = net.nodes.remove(1).addr;
    let again = net.node(addr, 99, &config);
    net.nodes.insert(1, again);
    net.put(1, 0, 2, b"anew", None);
    net.run_seen_as(100, (1, nat), |datagram| !datagram.has(Kind::Reset));
    let outcomes = net.outcomes(0);
    let lost = outcomes.iter().filter(|(_, it)| *it == ended(FailureCause::PeerRestarted)).count();
    let arrived = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    assert!(lost > 0 && arrived > 0 && lost + arrived == 97, "{lost} {arrived}");
    assert_eq!((net.nodes[1].app.got.len(), net.nodes[0].endpoint.outbound.flows.count()), (arrived, 1));
}

/// With `auto`: each flow to an address that rests is woken by the answer to its own row (R-DISC-5).
#[test]
fn a_flow_that_moved_and_rests_is_woken_by_its_row() {
    let mut net = Net::with(2, &auto());
    let (nat, _) = moved_beside(&mut net);
    let mut asked = 0;
    net.run_seen_as(1_500, (1, nat), |datagram| {
        asked += u32::from(!in_binary(datagram));
        false
    });
    assert!(asked > 0);
    net.run_seen_as(12_000, (1, nat), |_| true);
    let outcomes = net.outcomes(0);
    assert_eq!(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 97, "{outcomes:?}");
    assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), 2);
}

/// With `auto`: what nobody answers on a flow that moved says nothing of an address where another one is answered (R-DISC-6).
#[test]
fn the_silence_of_a_flow_that_moved_says_nothing_of_its_address() {
    let mut net = Net::with(2, &auto());
    let (nat, _) = moved_beside(&mut net);
    let mut asked = 0;
    for op in 100..400 {
        net.put_at(0, nat, op, &[0xff; 9]);
        net.run_seen_as(100, (1, nat), |datagram| {
            asked += u32::from(!in_binary(datagram));
            in_binary(datagram) && !is_of_first(datagram)
        });
    }
    assert!(asked >= 3, "{asked}");
    let outcomes = net.outcomes(0);
    let lost = outcomes.iter().filter(|(_, outcome)| *outcome == ended(FailureCause::TimedOut)).count();
    let arrived = outcomes.iter().filter(|(op, outcome)| *op < 100 && outcome.is_ok()).count();
    assert!(lost > 0 && arrived > 0 && lost + arrived == 97, "{lost} {arrived}");
    // Until the other one is not used any more.
    net.run_seen_as(40_000, (1, nat), |_| true);
    let flows = &mut net.nodes[0].endpoint.outbound.flows;
    assert_eq!(flows.standing(net.now, nat), Standing::Unknown);
}

/// With `auto`: what nobody answers on the flow that messages take says nothing of an address where another one is heard
/// (R-DISC-6).
#[test]
fn the_silence_of_the_used_flow_says_nothing_where_another_one_is_heard() {
    let mut net = Net::with(2, &auto());
    let (nat, _) = moved_beside(&mut net);
    let (mut asked, mut rows) = (0, 0);
    for op in 100..400 {
        net.put(1, 0, op, &[0xff; 9], None);
        net.put_at(0, nat, op, b"text");
        net.run_seen_as(100, (1, nat), |datagram| {
            let (plain, is_probe) = (!in_binary(datagram), csv::decode_discovery(&datagram.bytes).is_some());
            asked += u32::from(plain && is_probe);
            rows += u32::from(plain && !is_probe);
            !plain && is_of_first(datagram)
        });
    }
    assert!(asked >= 4, "{asked}");
    assert_eq!(rows, 0);
    net.run_seen_as(2_000, (1, nat), |_| true);
    let outcomes = net.outcomes(0);
    let lost = outcomes.iter().filter(|(_, outcome)| *outcome == ended(FailureCause::TimedOut)).count();
    let arrived = outcomes.iter().filter(|(op, outcome)| *op >= 100 && outcome.is_ok()).count();
    assert!(lost > 0 && arrived > 250 && lost + arrived == 300, "{lost} {arrived}");
    let flows = &mut net.nodes[0].endpoint.outbound.flows;
    assert_eq!((flows.count(), flows.standing(net.now, nat)), (1, Standing::Engine));
}

/// As many flows gather at an address as somebody there may open (R-FLOW-13): what comes there under other tags counts, and they
/// stay where they are.
#[test]
fn no_more_flows_move_to_an_address_than_may_be_opened_there() {
    let mut net = Net::new(2);
    let to = net.nodes[1].addr;
    let nat = SocketAddr::from(([12, 0, 0, 1], 7));
    let mut moved = 0;
    for host in 1..=12 {
        let mut stranger = Stranger::new(host);
        let tag = Net::tag_of(&net.ask(&stranger.hello(to))).expect("HELLO");
        let ping = |stranger: &Stranger, number, data| {
            stranger.says(to, number, tag, |writer| assert!(writer.ping(&PingFrame { data, demand: 0 })))
        };
        net.bring(&ping(&stranger, 11, 5));
        net.leave(1);
        stranger.addr = nat;
        net.bring(&ping(&stranger, 12, 6));
        let left = net.leave(1);
        let asked = left.iter().filter(|datagram| datagram.to == nat).flat_map(Datagram::frames);
        let data = asked.filter_map(|frame| match frame {
            Frame::Ping(ping) => Some(ping.data),
            _ => None,
        });
        for data in data.collect::<Vec<_>>() {
            net.bring(&stranger.says(to, 13, tag, |writer| assert!(writer.pong(data))));
            net.leave(1);
            moved += 1;
        }
    }
    assert_eq!((moved, net.nodes[1].endpoint.outbound.flows.count()), (8, 12));
    assert_eq!(net.nodes[1].counter("challenges_sent"), 8);
}

/// A PONG that was held back until another start of the peer was heard at the same address says nothing about that one
/// (R-MOVE-1).
#[test]
fn a_late_pong_does_not_end_a_later_flow() {
    let nat = SocketAddr::from(([10, 0, 9, 9], 7));
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"to the one", None);
    net.settle(|_| true);
    net.put(1, 0, 2, b"from there", None);
    let mut held = Vec::new();
    net.run_seen_as(20, (1, nat), |datagram| {
        let holds =
            datagram.from == nat && datagram.frames().any(|frame| matches!(frame, Frame::Pong { .. }));
        held.extend(holds.then(|| datagram.clone()));
        !holds
    });
    assert!(!held.is_empty());
    net.nodes.truncate(1);
    net.add(nat, &Config { wire: Wire::Binary, ..Config::preset(Preset::Small) });
    net.put_at(0, nat, 3, b"to the other");
    net.run(20, |_| true);
    assert_eq!(net.outcomes(0).iter().filter(|(_, outcome)| outcome.is_ok()).count(), 2);
    net.put_at(0, nat, 4, b"under way");
    net.settle(|datagram| datagram.from == nat);
    held.iter().for_each(|datagram| net.bring(datagram));
    assert_eq!(net.outcomes(0), []);
    net.run(1_000, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(4, Ok(_))]));
    assert_eq!(net.nodes[1].app.got, [&b"to the other"[..], b"under way"]);
}

/// More results than fit a datagram of 512 bytes, for somebody who hears nothing any more: they leave as seldom as fewer would.
#[test]
fn results_in_parts_that_nobody_hears_of_are_given_up() {
    let mut net = Net::new(0);
    for (host, bytes) in [(1, 512), (2, 1_472)] {
        let preset = Config::preset(Preset::Small);
        let config = Config { wire: Wire::Binary, datagram_bytes_max: Some(bytes), ..preset };
        net.add(SocketAddr::from(([10, 0, 0, host], 1)), &config);
    }
    net.put(0, 1, 1, b"a round trip", None);
    net.settle(|_| true);
    net.nodes[1].app.refuses = true;
    for op in 0..100 {
        net.put(0, 1, 100 + op, b"refused", Some(Duration::from_secs(1)));
    }
    let (here, mut full, mut others) = (net.nodes[1].addr, 0, 0);
    net.run(60_000, |datagram| {
        if datagram.from == here && datagram.has(Kind::Result) {
            full += u32::from(datagram.bytes.len() > 450 && !datagram.has(Kind::Ack));
            others += u32::from(datagram.has(Kind::Ack));
        }
        datagram.from != here
    });
    assert!(full > 2, "they never were more than fit: {full} and {others}");
    assert!(full < 40, "{full} datagrams");
    net.nodes.iter().for_each(|node| assert_eq!(node.endpoint.outbound.flows.held(), Vec::<String>::new()));
}

/// The receiver of a message that waits for its commit is gone without a word, and another start is at its address: the PING
/// for the commit's sake finds out.
#[test]
fn a_restart_ends_what_waits_for_a_commit() {
    let mut net = Net::new(2);
    let options = Options { level: Level::Committed, ..Options::default() };
    let deadline = Some(Duration::from_secs(200));
    net.put_with(0, 1, 7, b"to be committed", (deadline, Some(Box::new(options))));
    net.run(1_000, |_| true);
    assert_eq!(net.nodes[1].app.got, [b"to be committed"]);
    assert_eq!(net.outcomes(0), []);
    let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let addr = net.nodes.remove(1).addr;
    let again = net.node(addr, 99, &config);
    net.nodes.insert(1, again);
    net.run(13_000, |_| true);
    assert_eq!(net.outcomes(0), [], "nobody asked yet");
    net.run(3_000, |_| true);
    assert_eq!(net.outcomes(0), [(7, ended(FailureCause::PeerRestarted))]);
    assert!(net.nodes[1].app.got.is_empty(), "it is not sent to the new start");
}

/// The batch is full when a PONG, a challenge with a PONG, or a probe is to leave: they leave in the next turn.
#[test]
fn what_finds_the_batch_full_leaves_in_the_next_turn() {
    let mut net = Net::new(2);
    let to = net.nodes[1].addr;
    let mut stranger = Stranger::new(1);
    let tag = Net::tag_of(&net.ask(&stranger.hello(to))).expect("HELLO");
    let asks = |stranger: &Stranger, number, data| {
        stranger.says(to, number, tag, |writer| assert!(writer.ping(&PingFrame { data, demand: 0 })))
    };
    let answers_to = |left: &[Datagram], to: SocketAddr, data| {
        left.iter()
            .filter(|datagram| datagram.to == to)
            .flat_map(Datagram::frames)
            .any(|frame| matches!(frame, Frame::Pong { data: said } if said == data))
    };
    net.bring(&asks(&stranger, 11, 5));
    assert!(net.find_batch_full(1, 0));
    let left = net.leave(1);
    assert!(answers_to(&left, stranger.addr, 5), "{left:?}");
    // From another address: that is asked, and the old one is told that it came.
    let old = std::mem::replace(&mut stranger.addr, SocketAddr::from(([12, 0, 0, 1], 7)));
    net.bring(&asks(&stranger, 12, 6));
    assert!(net.find_batch_full(1, 0));
    let left = net.leave(1);
    assert!(answers_to(&left, stranger.addr, 6), "{left:?}");
    assert!(left.len() == 2 && left[0].has(Kind::Ping) && left[1].to == old, "{left:?}");
    // Each once.
    assert_eq!((net.leave(1).len(), net.nodes[1].counter("challenges_sent")), (0, 1));

    let mut net = Net::with(2, &auto());
    net.put(0, 1, 1, &[0xff; 4], None);
    assert!(net.find_batch_full(0, 0));
    let left = net.leave(0);
    assert!(left.len() == 1 && csv::decode_discovery(&left[0].bytes).is_some(), "{left:?}");
}

/// No memory to keep a RESULT in: it is watched all the same, also when it goes again and finds the batch full. Its sender
/// asks for none, and says nothing for 15 s.
#[test]
fn a_result_that_finds_the_batch_full_is_watched_when_it_leaves() {
    let mut net = beside_a_dead_peer(1);
    let (dead, receiver) = (net.nodes[2].addr, net.nodes[0].addr);
    let options = Options { level: Level::Committed, ..Options::default() };
    net.put_with(1, 0, 7, b"to be committed", (None, Some(Box::new(options))));
    net.run(10, |datagram| datagram.to != dead);
    let [key] = net.nodes[0].app.commits[..] else { panic!("it came once") };
    let Endpoint { outbound, inflows, .. } = &mut net.nodes[0].endpoint;
    outbound.flows.handle_commit(net.now, key, true, inflows);
    let mut lost = 0;
    for _ in 0..10_000 {
        net.now += Duration::from_micros(200);
        net.find_batch_full(0, 0); // Before each turn in which it is not.
        for datagram in (0..3).flat_map(|node| net.leave(node)).collect::<Vec<_>>() {
            let loses = datagram.from == receiver && datagram.has(Kind::Result) && lost < 2;
            lost += u32::from(loses);
            if datagram.to != dead && !loses {
                net.bring(&datagram);
            }
        }
    }
    assert_eq!(lost, 2);
    assert!(matches!(net.outcomes(1)[..], [(7, Ok(_))]));
    let held = net.nodes[0].endpoint.outbound.flows.held();
    assert!(held.iter().any(|held| held.contains("pool")), "the dead one still has it all: {held:?}");
}

/// On a narrow path CLOSE and what was to be said before fit one datagram, or two; where they do not fit two either, nothing
/// is acknowledged without its results.
#[test]
fn a_close_on_a_narrow_path_leaves_behind_its_acknowledgement() {
    // 46 results fit beside an acknowledgement into 512 bytes, 44 if CLOSE is there, too.
    for (wide, results, datagrams, acked) in
        [(512, 44, 1, true), (512, 45, 2, true), (512, 46, 2, true), (1_200, 47, 2, false)]
    {
        let config =
            Config { wire: Wire::Binary, datagram_bytes_max: Some(wide), ..Config::preset(Preset::Small) };
        let mut net = Net::with(2, &config);
        net.put(0, 1, 1, b"first", None);
        net.settle(|_| true);
        assert_eq!(net.outcomes(0).len(), 1);
        if wide > 512 {
            // The interface of node 1 takes no such any more.
            net.put(1, 0, 3, &[3; 1_100], None);
            let left = net.leave(1);
            let number = binary::decode(&left[0].bytes).unwrap().0.packet_number;
            let Endpoint { outbound, counters, .. } = &mut net.nodes[1].endpoint;
            let origin = Origin { flow: 0, number };
            assert!(outbound.flows.handle_too_long(net.now, origin, (1, 1_200), counters));
            assert_eq!(outbound.flows.datagram_bytes(), 512);
        }
        net.put(0, 1, 2, b"second", None);
        net.leave(0).iter().for_each(|datagram| net.bring(datagram));
        assert_eq!(net.nodes[1].app.got.len(), 2);
        let (inflow, _) = net.nodes[1].endpoint.inflows.get(0).unwrap();
        (1..=results).for_each(|seq| inflow.say_for_test(Space::Chunked, seq, ResultCode::Busy));
        let left = net.close(1);
        assert_eq!(left.len(), datagrams, "{results}");
        assert!(left.iter().all(|datagram| datagram.bytes.len() <= 512));
        assert!(left[0].has(Kind::Result) && left.last().unwrap().has(Kind::Close));
        assert_eq!(left.iter().any(|datagram| datagram.has(Kind::Ack)), acked, "{results}");
        let count = |frame: Frame<'_>| match frame {
            Frame::Result(results) => results.entries().count(),
            _ => 0,
        };
        let said: usize = left.iter().flat_map(Datagram::frames).map(count).sum();
        assert!(said as u64 == results || !acked, "{said} of {results}");
        left.iter().for_each(|datagram| net.bring(datagram));
        let outcomes = net.outcomes(0);
        assert_eq!((outcomes.len(), outcomes[0].0, outcomes[0].1.is_ok()), (1, 2, acked), "{outcomes:?}");
        let counters = (net.nodes[1].counter("closes_sent"), net.nodes[0].counter("closes_received"));
        assert_eq!(counters, (1, 1));
    }
}

/// Flows between 0 and 1, with a round trip, a path MTU and a window behind them, and datagrams that came.
fn talked(net: &mut Net) -> Vec<Datagram> {
    let mut old = Vec::new();
    net.put(0, 1, 1, b"first", None);
    net.settle(|_| true);
    net.put(1, 0, 1, b"answer", None);
    net.put(0, 1, 40, b"searches the path (R-MTU-4)", None);
    net.settle(|_| true);
    // One that never arrives, and is given up: a gap that nobody closes.
    net.put(0, 1, 2, b"never", Some(Duration::from_millis(2)));
    let own = net.nodes[0].addr;
    net.settle(|datagram| datagram.from != own);
    net.run(10, |datagram| datagram.from != own);
    for op in 3..40 {
        net.put(0, 1, op, &[op as u8; 1_400], None);
    }
    net.settle(|datagram| {
        old.push(datagram.clone());
        true
    });
    let outcomes = net.outcomes(0);
    assert_eq!(outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count(), 39);
    assert!(outcomes.contains(&(2, ended(FailureCause::Expired))));
    assert_eq!(net.outcomes(1).len(), 1);
    old
}

impl Net {
    fn asleep(&self, node: usize) -> (usize, usize) {
        let Endpoint { outbound, inflows, .. } = &self.nodes[node].endpoint;
        (outbound.flows.asleep(), inflows.asleep())
    }

    /// Nothing happens for so long.
    fn rest(&mut self, seconds: u64) {
        for _ in 0..seconds * 4 {
            self.now += Duration::from_millis(250);
            self.settle(|_| true);
        }
    }

    /// A datagram of a node's with other contents and the number `ahead` of its next one.
    fn forge(&self, like: &Datagram, ahead: u64, write: impl FnOnce(&mut Writer<'_>)) -> Datagram {
        let (header, _) = binary::decode(&like.bytes).unwrap();
        let header = Header { packet_number: header.packet_number + ahead, ..header };
        let mut bytes = vec![0; 148];
        binary::write(&mut bytes, &header);
        let mut writer = Writer::new(&mut bytes[HEADER_BYTES..]);
        write(&mut writer);
        writer.pad();
        binary::seal(&mut bytes);
        Datagram { bytes, ..like.clone() }
    }
}

/// What came before the pause is refused after it, and what never came is still awaited.
#[test]
fn a_flow_that_slept_takes_nothing_twice() {
    let mut net = Net::new(2);
    let old = talked(&mut net);
    let (own, got) = (net.nodes[0].addr, net.nodes[1].app.got.len());
    net.rest(11);
    assert_eq!((net.asleep(0), net.asleep(1)), ((1, 1), (1, 1)));
    // The very datagrams.
    let (refused, woken) =
        (net.nodes[1].counter("dropped_binary_duplicate"), net.nodes[1].counter("flows_woken"));
    let copies: Vec<_> = old.iter().filter(|datagram| datagram.from == own).collect();
    assert!(copies.len() > 10);
    copies.iter().for_each(|datagram| net.bring(datagram));
    net.settle(|_| true);
    assert_eq!(net.nodes[1].counter("dropped_binary_duplicate"), refused + copies.len() as u64);
    assert_eq!(net.nodes[1].counter("flows_woken"), woken + 1);
    assert_eq!(net.asleep(1), (0, 0));
    net.rest(11);
    assert_eq!(net.asleep(1), (1, 1));
    // Their messages in new datagrams, one of which is the one that never came.
    let last = copies.iter().rev().find(|datagram| datagram.has(Kind::Message)).unwrap();
    let seqs = |datagram: &Datagram| -> Vec<u32> {
        datagram
            .frames()
            .filter_map(|frame| if let Frame::Message(frame) = frame { Some(frame.seq) } else { None })
            .collect()
    };
    let (first, end) = (seqs(copies[0])[0] - 2, *seqs(last).last().unwrap());
    let gap = first + 1;
    let duplicates = net.nodes[1].counter("dropped_duplicate");
    for (ahead, seq) in (1_000..).zip(first..=end) {
        let forged = net.forge(last, ahead, |writer| {
            assert!(writer.plain_message(seq, b"again"));
        });
        net.bring(&forged);
        net.bring(&net.forge(last, ahead + 1_000, |writer| {
            assert!(writer.plain_message(seq, b"twice"));
        }));
    }
    assert_eq!(net.nodes[1].app.got[got..], [b"again"], "the one in the gap, {gap}");
    assert_eq!(net.nodes[1].counter("dropped_duplicate"), duplicates + 2 * u64::from(end - first) + 1);
}

/// The first message after the pause leaves at once, on a path that is known.
#[test]
fn a_flow_that_slept_goes_on_where_it_was() {
    let mut net = Net::new(2);
    talked(&mut net);
    let to = net.nodes[1].addr;
    let look = |net: &mut Net| {
        let out = net.nodes[0].endpoint.outbound.flows.flow_to(net.now, to).unwrap();
        let rtt =
            (out.recovery.rtt().smoothed(), out.recovery.rtt().min(), out.recovery.rtt().probe_timeout());
        let credit = (out.credit.messages, out.credit.chunked);
        (rtt, credit, out.datagram_bytes(), out.low(), out.next_numbers(), out.recovery.delivered_bytes())
    };
    let before = look(&mut net);
    assert_eq!(before.2, 1_472, "more than what every path carries");
    net.rest(11);
    assert_eq!((net.asleep(0), net.nodes[0].counter("flows_slept")), ((1, 1), 1));
    assert_eq!(look(&mut net), before);
    net.leave(0);
    assert_eq!(net.nodes[0].counter("flows_woken"), 1);
    net.rest(12);
    assert_eq!(net.asleep(0), (1, 1), "it sleeps again");
    let probes = net.nodes[0].counter("path_probes_sent");
    net.put(0, 1, 50, b"at once", None);
    let left = net.leave(0);
    assert!(left.len() == 1 && left[0].has(Kind::Message));
    net.bring(&left[0]);
    for op in 51..60 {
        net.put(0, 1, op, &[7; 1_400], None);
    }
    let mut longest = 0;
    net.settle(|datagram| {
        longest = longest.max(datagram.bytes.len());
        true
    });
    assert_eq!((longest, net.nodes[0].counter("path_probes_sent")), (1_472, probes));
    assert_eq!(net.outcomes(0).iter().filter(|(_, outcome)| outcome.is_ok()).count(), 10);
    assert!(net.nodes[1].app.got.iter().any(|got| got == b"at once"));
}

/// What a flow had under way takes memory until it sleeps: what comes next finds it there.
#[test]
fn a_flow_keeps_its_memory_until_it_sleeps() {
    let mut net = Net::new(2);
    talked(&mut net);
    let to = net.nodes[1].addr;
    net.run(1_000, |_| true);
    let flows = &mut net.nodes[0].endpoint.outbound.flows;
    let memory = flows.flow_to(net.now, to).unwrap().memory_bytes();
    assert!(memory > 4_096 && flows.resting_bytes() == memory, "{memory}");
    net.rest(11);
    assert_eq!((net.asleep(0), net.nodes[0].endpoint.outbound.flows.resting_bytes()), ((1, 1), 0));
}

/// Whoever is used every nine seconds does not sleep; what has slept for a minute is forgotten.
#[test]
fn flows_sleep_when_nothing_happens_and_are_forgotten() {
    let mut net = Net::new(2);
    for op in 0..4 {
        net.put(0, 1, op, b"there", None);
        net.settle(|_| true);
        net.rest(9);
    }
    assert_eq!((net.asleep(0), net.nodes[0].counter("flows_slept")), ((0, 0), 0));
    net.rest(3);
    assert_eq!((net.asleep(0), net.asleep(1)), ((1, 1), (1, 1)));
    net.rest(20);
    // Not used any more, but known.
    net.put(0, 1, 10, b"anew", None);
    net.settle(|_| true);
    assert_eq!((net.flows(), net.asleep(1)), (2, (1, 1)));
    assert_eq!(net.outcomes(0).len(), 5);
    net.rest(31);
    assert_eq!(net.flows(), 1);
    net.rest(61);
    assert_eq!((net.flows(), net.asleep(1), net.asleep(0)), (0, (0, 0), (0, 0)));
    assert_eq!(net.nodes[1].endpoint.inflows.held(), Vec::<String>::new());
}

/// The peer starts anew while its flow sleeps: what it opens takes that one's place, and a RESET is believed as ever.
#[test]
fn a_restart_is_noticed_by_a_flow_that_sleeps() {
    for resets in [false, true] {
        let mut net = Net::new(2);
        net.put(0, 1, 1, b"first", None);
        let mut peer_tag = 0;
        net.settle(|datagram| {
            let (header, _) = binary::decode(&datagram.bytes).unwrap();
            peer_tag = if datagram.from.ip().to_string() == "10.0.0.1" { header.tag } else { peer_tag };
            true
        });
        net.rest(11);
        assert_eq!(net.asleep(0), (1, 1));
        let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
        let addr = net.nodes.remove(1).addr;
        let again = net.node(addr, 99, &config);
        net.nodes.insert(1, again);
        if resets {
            let stranger = Stranger { addr, tag: 0, cookie: 0 };
            for (tag, flows) in [(peer_tag ^ 1, 1), (peer_tag, 0)] {
                let reset = stranger.says(net.nodes[0].addr, 0, 0, |writer| assert!(writer.reset(tag)));
                net.bring(&reset);
                assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), flows);
            }
            assert_eq!(net.nodes[0].endpoint.outbound.flows.held(), Vec::<String>::new());
            continue;
        }
        net.put(1, 0, 2, b"anew", None);
        net.settle(|_| true);
        net.put(0, 1, 3, b"to the new one", None);
        net.settle(|_| true);
        assert_eq!(net.nodes[1].app.got, [b"to the new one"]);
        assert!(net.outcomes(0).iter().all(|(_, outcome)| outcome.is_ok()));
    }
}

/// With `auto` the address has to say once more who is there, before a byte of the binary wire goes to it.
#[test]
fn a_flow_that_slept_asks_who_is_there() {
    let mut net = Net::with(2, &auto());
    let binary = |writer: u32| vec![0xff; 100 + writer as usize];
    net.put(0, 1, 1, &binary(1), None);
    net.run(300, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
    net.rest(12);
    assert_eq!((net.asleep(0), net.asleep(1)), ((1, 1), (1, 1)));
    net.put(0, 1, 2, &binary(2), None);
    let left = net.leave(0);
    assert!(left.iter().all(|datagram| datagram.bytes[0] < 0x80) && left.len() == 1, "{left:?}");
    net.bring(&left[0]);
    net.settle(|_| true);
    assert!(matches!(net.outcomes(0)[..], [(2, Ok(_))]));
    assert_eq!(net.nodes[1].app.got, [binary(1), binary(2)]);
    assert_eq!(net.flows(), 1);
}

/// There may be several flows to an address: whoever talks to himself has two. An answer is for the one that asked (R-DISC-5).
#[test]
fn an_answer_ends_the_rest_of_the_flow_that_asked() {
    let mut net = Net::with(1, &auto());
    let options = Options { level: Level::Committed, ..Options::default() };
    net.put_with(0, 0, 1, &[0xff; 9], (Some(Duration::from_secs(100)), Some(Box::new(options))));
    net.run(100, |_| true);
    let [key] = net.nodes[0].app.commits[..] else { panic!("it came once") };
    assert_eq!(net.nodes[0].endpoint.outbound.flows.count(), 2);
    net.run(12_000, |_| true);
    assert_eq!(net.outcomes(0), []);
    // So long after the last datagram, the flow it came by asks who is there.
    let Endpoint { outbound, inflows, .. } = &mut net.nodes[0].endpoint;
    outbound.flows.handle_commit(net.now, key, true, inflows);
    let mut asked = 0;
    net.settle(|datagram| {
        asked += u32::from(csv::decode_discovery(&datagram.bytes).is_some());
        true
    });
    assert_eq!(asked, 2, "a probe and its answer");
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
}

/// Our flow to an engine rests, and a new start there says HELLO: it is answered once it has answered a probe, not when it is
/// the resting flow's turn to ask again.
#[test]
fn a_new_start_does_not_wait_for_a_flow_that_rests() {
    let binary = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let mut net = Net::with(1, &auto());
    let addr = SocketAddr::from(([10, 0, 0, 2], 1));
    net.add(addr, &binary);
    net.put(0, 1, 1, &[0xff; 9], None);
    net.run(300, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
    net.put(0, 1, 2, &[0xff; 9], Some(Duration::from_secs(100)));
    // It asked a moment ago, and will not again for six seconds.
    net.run(6_900, |_| false);
    net.nodes[1] = net.node(addr, 99, &binary);
    net.put(1, 0, 3, b"anew", None);
    net.run(1_000, |_| true);
    assert_eq!(net.nodes[0].app.got, [b"anew"]);
    assert!(matches!(net.outcomes(1)[..], [(3, Ok(_))]));
}

/// The engine stops: flows that sleep are told as well, and go on sleeping.
#[test]
fn a_flow_that_sleeps_is_told_of_the_end() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", None);
    net.settle(|_| true);
    net.rest(11);
    let Node { endpoint: Endpoint { outbound, inflows, counters, .. }, batch, .. } = &mut net.nodes[0];
    assert!(!outbound.flows.poll_closes(net.now, true, inflows, batch, counters));
    assert_eq!((counters.closes_sent, net.asleep(0)), (1, (1, 1)));
    let closes: Vec<_> = net.leave(0);
    assert!(closes.len() == 1 && closes[0].has(Kind::Close));
    net.bring(&closes[0]);
    assert_eq!((net.flows(), net.asleep(1), net.nodes[1].counter("closes_received")), (0, (0, 0), 1));
}
