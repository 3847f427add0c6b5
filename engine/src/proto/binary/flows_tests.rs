//! Two or more endpoints of the binary wire and a network in which a test decides on each datagram.

use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::hash::Seed;
use crate::message::Level;
use crate::message::Outcome;
use crate::observe::Counters;
use crate::options::{Extras, Options};
use crate::proto::endpoint::{Application, Endpoint};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::{Families, Place, Submission};
use crate::proto::sending::Sending;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use crate::wire::binary::{self, Frame, Kind, Space};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

struct App {
    got: Vec<Vec<u8>>,
}

impl Application<u32> for App {
    fn deliver(
        &mut self,
        _: &mut Sending<u32>,
        _: &mut Counters,
        _: SocketAddr,
        _: Option<UnixMicros>,
        payload: Payload<'_>,
        _: Option<&Extras<'_>>,
    ) -> Delivery {
        self.got.push(payload.bytes().to_vec());
        Delivery::Accepted
    }
}

struct Node {
    addr: SocketAddr,
    endpoint: Endpoint<u32>,
    batch: TrainBatch,
    app: App,
}

impl Node {
    fn counter(&self, label: &str) -> u64 {
        self.endpoint.counters.get(label)
    }

    fn partials(&self) -> usize {
        self.endpoint.inflows.partials()
    }
}

#[derive(Clone, Debug)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl Datagram {
    fn has(&self, kind: Kind) -> bool {
        self.frames().any(|frame| frame.kind() == Some(kind))
    }

    fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let frames = binary::decode(&self.bytes).map_or(&[][..], |(_, frames)| frames);
        binary::frames(frames).flatten()
    }
}

struct Net {
    now: Instant,
    nodes: Vec<Node>,
}

impl Net {
    fn new(nodes: u8) -> Self {
        Self::with(nodes, &Config { wire: Wire::Binary, ..Config::preset(Preset::Small) })
    }

    fn with(nodes: u8, config: &Config) -> Self {
        let now = Instant::from_ns(1_000_000_000);
        let mut net = Self { now, nodes: Vec::new() };
        (1..=nodes).for_each(|host| net.add(SocketAddr::from(([10, 0, 0, host], 1)), config));
        net
    }

    fn over_v6() -> Self {
        let mut net = Self::new(0);
        let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
        (1..=2).for_each(|host| net.add(SocketAddr::from(([0xfd, 0, 0, 0, 0, 0, 0, host], 1)), &config));
        net
    }

    fn add(&mut self, addr: SocketAddr, config: &Config) {
        let node = self.node(addr, self.nodes.len() as u64, config);
        self.nodes.push(node);
    }

    fn node(&self, addr: SocketAddr, seed: u64, config: &Config) -> Node {
        let place = Place { shard: 0, shards: 1, families: Families { v4: true, v6: true } };
        let seed = Seed::from_number(seed);
        Node {
            addr,
            endpoint: Endpoint::new(
                config,
                &crate::proto::plugins::Plugins::default(),
                place,
                &seed,
                self.now,
                8 << 20,
            ),
            batch: TrainBatch::new(512 << 10, 256, 64),
            app: App { got: Vec::new() },
        }
    }

    fn put(&mut self, from: usize, to: usize, op: u32, payload: &[u8], deadline: Option<Duration>) {
        self.put_with(from, to, op, payload, (deadline, None));
    }

    fn put_with(
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

    fn cancel(&mut self, node: usize, op: u32) {
        let Endpoint { outbound, counters, .. } = &mut self.nodes[node].endpoint;
        outbound.cancel_where(counters, |completion| *completion == op);
    }

    /// What a node sends in a turn.
    fn leave(&mut self, node: usize) -> Vec<Datagram> {
        let Node { addr, endpoint, batch, .. } = &mut self.nodes[node];
        endpoint.handle_timers(self.now);
        endpoint.poll_trains(self.now, UnixMicros(0), batch);
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

    fn bring(&mut self, datagram: &Datagram) {
        let Some(node) = self.nodes.iter_mut().find(|node| node.addr == datagram.to) else { return };
        let Node { endpoint, batch, app, .. } = node;
        let train = endpoint.begin_train(self.now, datagram.from, None, batch);
        endpoint.handle_datagram(&train, &datagram.bytes, batch, app);
        endpoint.end_train();
    }

    /// Turns until nobody has anything to say; `pass` decides which datagrams arrive.
    fn settle(&mut self, mut pass: impl FnMut(&Datagram) -> bool) {
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
    fn run(&mut self, ms: u64, mut pass: impl FnMut(&Datagram) -> bool) {
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.settle(&mut pass);
        }
    }

    fn outcomes(&mut self, node: usize) -> Vec<(u32, Outcome)> {
        let finished = self.nodes[node].endpoint.outbound.finished();
        finished.drain(..).map(|op| (op.completion, op.outcome())).collect()
    }

    /// A flow from 0 to 1 with a round trip behind it, and a large message that never ends, so that LOW stays.
    fn with_an_endless_message(&mut self) {
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
        net.put(0, 1, 1, b"first", None);
        net.settle(|_| true);
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
