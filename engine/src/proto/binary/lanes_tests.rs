//! Messages of a lane in order: at a receiver to which they come as they like, and between two engines.

use super::flows::Arrived;
use super::flows_tests::{Datagram, Net};
use super::inflow::Inflows;
use super::lanes::OutLanes;
use crate::config::{Config, Preset, Wire};
use crate::error::FailureCause;
use crate::hash::Seed;
use crate::message::Level;
use crate::observe::Counters;
use crate::options::{Extras, Lane, Options, Priority};
use crate::proto::inbound::{Delivery, Payload};
use crate::units::Instant;
use crate::wire::DropReason;
use crate::wire::binary::{
    self, Bases, ChunkFrame, Extensions, Frame, Kind, LowFrame, ResultCode, Space, Writer,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const BYTES: usize = 1_472;
const FIRST: u64 = 1_000;

/// One that takes messages off the wire.
struct Receiver {
    inflows: Inflows,
    counters: Counters,
    now: Instant,
    /// The flow on which what follows comes, and the number of its next datagram, of each.
    flow: u32,
    numbers: [u64; 2],
    /// Their first bytes, in the order they were handed over.
    got: Vec<u8>,
    /// What the application says to the next ones; then it accepts.
    verdicts: Vec<Delivery>,
    /// What has been said of each, the latest.
    said: BTreeMap<u64, ResultCode>,
}

/// A limit of which the only sender gets so many bytes (R-SHARE-1).
const fn of_one_host(bytes: u64) -> u64 {
    bytes.div_ceil(3) * 4
}

/// Who sends on a flow.
fn host(flow: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + flow as u8], 1))
}

impl Receiver {
    fn new() -> Self {
        Self::with(&Config::preset(Preset::Small))
    }

    fn with(config: &Config) -> Self {
        let mut inflows = Inflows::new(config, &Seed::from_number(1), 8 << 20, BYTES);
        let now = Instant::from_ns(1_000_000_000);
        let bases = Bases { packet_number: FIRST, messages: FIRST, chunked: FIRST };
        inflows.open(0, now, host(0), &bases);
        let (flow, numbers, counters) = (0, [FIRST; 2], Counters::default());
        let (got, verdicts, said) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { inflows, counters, now, flow, numbers, got, verdicts, said }
    }

    /// A datagram comes, and all that is said of it is heard of.
    fn take(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) {
        self.come(write);
        self.say();
    }

    /// A datagram comes.
    fn come(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) {
        let flow = self.flow;
        let mut bytes = [0; BYTES];
        let mut writer = Writer::new(&mut bytes);
        assert!(write(&mut writer));
        let written = writer.at();
        let frames = &bytes[..written];
        let summary = binary::check(frames).unwrap();
        let (inflow, shop) = self.inflows.get(flow).unwrap();
        let number = &mut self.numbers[flow as usize];
        inflow.arrive(self.now, *number, &summary, true, shop).unwrap();
        *number += 1;
        let arrived = Arrived { index: flow, number: *number, from: host(flow), frames, summary };
        let Self { inflows, got, verdicts, counters, .. } = self;
        let mut deliver = |payload: Payload<'_>, _: Option<&Extras<'_>>, _: &mut Counters| {
            let verdict = if verdicts.is_empty() { Delivery::Accepted } else { verdicts.remove(0) };
            got.extend((verdict == Delivery::Accepted).then(|| payload.bytes()[0]));
            verdict
        };
        inflows.take(self.now, &arrived, counters, &mut deliver);
        let (inflow, shop) = inflows.get(flow).unwrap();
        for frame in binary::frames(frames).flatten() {
            match frame {
                Frame::Low(low) => inflow.set_low(&low, shop),
                Frame::Skip(skip) => inflow.skip(&skip, shop, counters),
                Frame::Cancel(cancel) => inflow.cancel(&cancel, shop, counters),
                _ => {}
            }
        }
        if inflows.lanes_are_due(flow) {
            inflows.hand_over_due(flow, counters, deliver);
        }
    }

    /// Everything that has to be said is, and is heard of.
    fn say(&mut self) {
        let flow = self.flow;
        loop {
            let (inflow, shop) = self.inflows.get(flow).unwrap();
            inflow.has_feedback(shop);
            let mut said = [0; BYTES];
            let mut writer = Writer::new(&mut said);
            let until = inflow.write_feedback(self.now, &mut writer, shop, BYTES).unwrap();
            let written = writer.at();
            let mut results = 0;
            for frame in binary::frames(&said[..written]).flatten() {
                if let Frame::Result(frame) = frame {
                    for (space, seq, code) in frame.entries() {
                        assert_eq!(space, Space::Chunked);
                        assert_ne!(self.said.insert(seq, code), Some(ResultCode::Accepted), "said twice");
                        results += 1;
                    }
                }
            }
            assert!(results <= 120);
            if results == 0 {
                return;
            }
            inflow.results_heard(until, shop);
        }
    }

    /// A message in one chunk, whose first byte is `name`, and which is `before` above the one before it in lane 7.
    fn chunk(&mut self, seq: u64, name: u8, before: u32, bytes: usize) {
        let lane = Some((7, before));
        self.chunk_with(seq, name, bytes, Extensions { lane, ..Extensions::NONE });
    }

    fn chunk_with(&mut self, seq: u64, name: u8, bytes: usize, extensions: Extensions<'_>) {
        let message = vec![name; bytes];
        let frame = |bytes| ChunkFrame {
            space: Space::Chunked,
            seq: seq as u32,
            offset: 0,
            total: message.len() as u32,
            extensions,
            bytes,
        };
        let all = &message[..message.len().min(1_280)];
        self.take(|writer| writer.chunk(&frame(all)));
        for offset in (1_280..message.len()).step_by(1_280) {
            let bytes = &message[offset..message.len().min(offset + 1_280)];
            self.take(|writer| writer.chunk(&ChunkFrame { offset: offset as u32, ..frame(bytes) }));
        }
    }

    fn skip(&mut self, seq: u64, before: u32) {
        self.take(|writer| writer.skips(&[(Space::Chunked, seq, before)]));
    }

    /// Nothing is left of anything.
    fn is_clean(&mut self) -> bool {
        self.inflows.close(0);
        self.inflows.held().is_empty()
    }
}

/// What is displaced has to be told as well; but every message of the datagram that displaces may have to be refused, and
/// with its acknowledgement: one that is not named there counts as delivered (R-OUTCOME-4).
#[test]
fn what_is_displaced_leaves_room_to_refuse_the_rest_of_the_datagram() {
    const MESSAGES: usize = 100;
    let mut config = Config::preset(Preset::Small);
    (config.message_bytes_max, config.partial_bytes_max) = (90_000, of_one_host(140_000));
    let mut receiver = Receiver::with(&config);
    for waiting in 1..=90 {
        receiver.chunk(FIRST + waiting, 1, 1, 1_000);
    }
    assert_eq!(receiver.counters.get("lane_messages_held"), 90);
    receiver.verdicts = vec![Delivery::NoRoom; MESSAGES];
    // The last piece of a large one, and small ones behind it.
    receiver.come(|writer| {
        let chunk = ChunkFrame {
            space: Space::Chunked,
            seq: FIRST as u32 + 200,
            offset: 89_600,
            total: 90_000,
            extensions: Extensions::NONE,
            bytes: &[2; 90_000 - 89_600],
        };
        writer.chunk(&chunk) && (0..MESSAGES).all(|n| writer.plain_message((FIRST + n as u64) as u32, b""))
    });
    assert!(receiver.counters.get("lane_messages_displaced") > 50);
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    let mut said = [0; BYTES];
    let mut writer = Writer::new(&mut said);
    inflow.write_feedback(receiver.now, &mut writer, shop, BYTES).unwrap();
    let written = writer.at();
    let mut refused = BTreeSet::new();
    for frame in binary::frames(&said[..written]).flatten() {
        if let Frame::Result(results) = frame {
            let busy =
                results.entries().filter(|entry| (entry.0, entry.2) == (Space::Message, ResultCode::Busy));
            refused.extend(busy.map(|entry| entry.1));
        }
    }
    assert_eq!(refused.len(), MESSAGES, "each of them, beside the first ACK");
}

/// What is said with the next acknowledgement, if that is the first of a turn in which several datagrams came.
fn said(receiver: &mut Receiver) -> BTreeMap<(bool, u64), ResultCode> {
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    assert!(inflow.has_feedback(shop));
    let mut bytes = [0; BYTES];
    let mut writer = Writer::new(&mut bytes);
    inflow.write_feedback(receiver.now, &mut writer, shop, BYTES).unwrap();
    let written = writer.at();
    let mut said = BTreeMap::new();
    for frame in binary::frames(&bytes[..written]).flatten() {
        if let Frame::Result(results) = frame {
            said.extend(results.entries().map(|(space, seq, code)| ((space == Space::Chunked, seq), code)));
        }
    }
    said
}

/// A message that begins anew before its sender has heard that it was refused: what came of it until then was acknowledged,
/// and is gone. The refusal is said on, or nothing would ever bring that again (R-LARGE-5).
#[test]
fn what_begins_anew_does_not_unsay_that_it_was_refused() {
    let mut config = Config::preset(Preset::Small);
    (config.message_bytes_max, config.partial_bytes_max) = (64_000, of_one_host(140_000)); // Of two such.
    let laned = Extensions { lane: Some((7, 1)), ..Extensions::NONE };
    let piece = |seq: u64, offset: usize, extensions| ChunkFrame {
        space: Space::Chunked,
        seq: seq as u32,
        offset: offset as u32,
        total: 40_000,
        extensions,
        bytes: &[1; 1_024],
    };
    // Displaced: half of it was there.
    let mut receiver = Receiver::with(&config);
    let waits = FIRST + 1;
    receiver.take(|writer| writer.chunk(&piece(waits, 0, laned)));
    receiver.come(|writer| writer.chunk(&piece(FIRST + 5, 0, Extensions::NONE)));
    receiver.come(|writer| writer.chunk(&piece(FIRST + 6, 0, Extensions::NONE)));
    assert_eq!(receiver.counters.get("lane_messages_displaced"), 1);
    receiver.come(|writer| writer.cancels(&[(Space::Chunked, FIRST + 5)]));
    receiver.come(|writer| writer.chunk(&piece(waits, 1_024, laned)));
    assert_eq!(receiver.inflows.partials(), 2, "it has begun anew");
    assert_eq!(said(&mut receiver).get(&(true, waits)), Some(&ResultCode::Busy));
    // No room, and then there is some.
    let mut receiver = Receiver::with(&config);
    receiver.come(|writer| writer.chunk(&piece(FIRST + 5, 0, Extensions::NONE)));
    receiver.come(|writer| writer.chunk(&piece(FIRST + 6, 0, Extensions::NONE)));
    receiver.come(|writer| writer.chunk(&piece(FIRST, 0, Extensions::NONE)));
    assert_eq!(receiver.counters.dropped(DropReason::PartialsFull), 1);
    receiver.come(|writer| writer.cancels(&[(Space::Chunked, FIRST + 5)]));
    receiver.come(|writer| writer.chunk(&piece(FIRST, 1_024, Extensions::NONE)));
    assert_eq!(said(&mut receiver).get(&(true, FIRST)), Some(&ResultCode::Busy));
    // Refused whole, and then it comes in parts: the acknowledgement of the whole one must not pass for its delivery.
    let mut receiver = Receiver::with(&config);
    receiver.verdicts = vec![Delivery::NoRoom];
    receiver.come(|writer| writer.plain_message(FIRST as u32, &[7; 1_100]));
    let (space, bytes) = (Space::Message, &[7; 128][..]);
    let part = ChunkFrame { space, total: 1_100, bytes, ..piece(FIRST, 0, Extensions::NONE) };
    receiver.come(|writer| writer.chunk(&part));
    assert_eq!(receiver.inflows.partials(), 1);
    assert_eq!(said(&mut receiver).get(&(false, FIRST)), Some(&ResultCode::Busy));
}

/// It is taken after all: the refusal is not said any more, also where nothing else takes its place.
#[test]
fn what_is_taken_after_all_is_not_said_to_be_refused() {
    for committed in [false, true] {
        let mut receiver = Receiver::new();
        receiver.verdicts = vec![Delivery::NoRoom];
        let chunk = ChunkFrame {
            space: Space::Chunked,
            seq: FIRST as u32,
            offset: 0,
            total: 20,
            extensions: Extensions { committed, ..Extensions::NONE },
            bytes: &[1; 20],
        };
        receiver.come(|writer| writer.chunk(&chunk));
        assert_eq!(said(&mut receiver).get(&(true, FIRST)), Some(&ResultCode::Busy));
        receiver.come(|writer| writer.chunk(&chunk));
        assert_eq!(receiver.got, [1]);
        let word = (!committed).then_some(&ResultCode::Accepted);
        assert_eq!(said(&mut receiver).get(&(true, FIRST)), word);
    }
}

/// Results of lanes wait for places, which come free because what was refused comes again and is taken: nobody has heard of
/// anything, and nothing else would bring it up (R-LANE-5).
#[test]
fn what_waits_for_places_among_the_results_is_said_when_there_are_some() {
    let mut receiver = Receiver::new();
    let whole = |writer: &mut Writer<'_>| (0..60).all(|n| writer.plain_message(FIRST as u32 + n, b"x"));
    receiver.chunk(FIRST + 1, 1, 1, 20);
    receiver.verdicts = vec![Delivery::NoRoom; 60];
    receiver.come(whole);
    receiver.now += Duration::from_secs(11);
    let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
    assert_eq!((inflow.handle_timer(now, shop), inflow.partials()), (1, 0));
    assert_eq!(said(&mut receiver).len(), 60, "half of the places, for messages alone");
    receiver.come(whole);
    assert_eq!(receiver.got.len(), 60);
    assert_eq!(said(&mut receiver), BTreeMap::from([((true, FIRST + 1), ResultCode::Busy)]));
}

/// All orders of `0..count`.
fn permutations(count: usize, visit: &mut impl FnMut(&[usize])) {
    fn go(order: &mut Vec<usize>, count: usize, visit: &mut impl FnMut(&[usize])) {
        if order.len() == count {
            return visit(order);
        }
        for next in 0..count {
            if !order.contains(&next) {
                order.push(next);
                go(order, count, visit);
                order.pop();
            }
        }
    }
    go(&mut Vec::new(), count, visit);
}

/// Numbers of two lanes, and of no lane: lane, how far above the one before.
const MIXED: [Option<(u16, u32)>; 6] =
    [Some((7, 0)), Some((9, 0)), Some((7, 2)), None, Some((9, 3)), Some((7, 3))];

/// However they come: each is handed over at the very moment when all before it in its lane are, and no other is held back.
#[test]
fn in_every_order_of_arrival_lanes_are_in_order_and_nobody_else_waits() {
    let before = |n: usize| MIXED[n].filter(|lane| lane.1 > 0).map(|lane| n - lane.1 as usize);
    let mut held = 0;
    permutations(MIXED.len(), &mut |order| {
        let mut receiver = Receiver::new();
        let mut came = BTreeSet::new();
        for &next in order {
            came.insert(next);
            let extensions = Extensions { lane: MIXED[next], ..Extensions::NONE };
            receiver.chunk_with(FIRST + next as u64, next as u8, 20, extensions);
            let is_due = |mut n: usize| {
                while came.contains(&n) {
                    match before(n) {
                        Some(other) => n = other,
                        None => return true,
                    }
                }
                false
            };
            let due: BTreeSet<u8> = (0..MIXED.len()).filter(|&n| is_due(n)).map(|n| n as u8).collect();
            assert_eq!(receiver.got.iter().copied().collect::<BTreeSet<_>>(), due, "{order:?}");
            assert_eq!(receiver.got.len(), due.len(), "each once");
            let said: BTreeSet<u8> = receiver.said.keys().map(|seq| (seq - FIRST) as u8).collect();
            assert_eq!(said, due, "Accepted is said of what was handed over, and of nothing else");
        }
        for lane in [7, 9] {
            let of_lane = |name: &&u8| MIXED[usize::from(**name)].is_some_and(|it| it.0 == lane);
            assert!(receiver.got.iter().filter(of_lane).is_sorted(), "{order:?} {:?}", receiver.got);
        }
        assert!(receiver.said.values().all(|&code| code == ResultCode::Accepted));
        held += receiver.counters.get("lane_messages_held");
        assert!(receiver.is_clean());
    });
    assert!(held > 1_000, "{held}");
}

/// Any of five are given up by their sender, and everything comes in any order, chunks behind their own SKIP, too: what is
/// left is in order, and is handed over at the very moment when all before it came or were given up.
#[test]
fn what_is_given_up_is_stepped_over_in_every_order() {
    const COUNT: usize = 5;
    for gone in 0..1_u32 << COUNT {
        permutations(COUNT, &mut |order| {
            let mut receiver = Receiver::new();
            let mut ended = 0;
            for &next in order {
                let (seq, before) = (FIRST + 2 * next as u64, if next == 0 { 0 } else { 2 });
                if gone >> next & 1 == 1 {
                    receiver.skip(seq, before);
                    receiver.chunk(seq, next as u8, before, 20);
                    assert_eq!(receiver.said.remove(&seq), Some(ResultCode::Expired));
                } else {
                    receiver.chunk(seq, next as u8, before, 20);
                }
                ended |= 1 << next;
                let due: Vec<u8> =
                    (0..u32::trailing_ones(ended) as u8).filter(|n| gone >> n & 1 == 0).collect();
                assert_eq!(receiver.got, due, "{order:?}, given up {gone:b}");
            }
            assert!(receiver.is_clean());
        });
    }
}

/// One that is too large for the receiver, that waits there when its time is over, or that LOW has passed, ends as well.
#[test]
fn what_ends_at_the_receiver_is_stepped_over_in_its_turn() {
    let mut receiver = Receiver::new();
    let huge = Config::preset(Preset::Small).message_bytes_max + 1;
    let lane = |before| Extensions { lane: Some((7, before)), ..Extensions::NONE };
    let chunk = |seq: u64, before| ChunkFrame {
        space: Space::Chunked,
        seq: seq as u32,
        offset: 0,
        total: huge,
        extensions: lane(before),
        bytes: &[0; 128],
    };
    // 1 is too large, and comes before 0: 2 waits for 0 all the same.
    receiver.take(|writer| writer.chunk(&chunk(FIRST + 1, 1)));
    receiver.chunk(FIRST + 2, 2, 1, 20);
    assert_eq!((&receiver.got[..], receiver.said[&(FIRST + 1)]), (&[][..], ResultCode::TooLarge));
    receiver.chunk(FIRST, 0, 0, 20);
    assert_eq!(receiver.got, [0, 2]);
    // 4 has come, and expires before 3 does; 5 waits for 3.
    let short = Extensions { lifetime_ms: Some(5), ..lane(1) };
    receiver.chunk_with(FIRST + 4, 4, 20, short);
    receiver.chunk(FIRST + 5, 5, 1, 20);
    receiver.now += Duration::from_millis(6);
    let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
    assert_eq!(inflow.handle_timer(now, shop), 1);
    receiver.say();
    assert_eq!(receiver.said[&(FIRST + 4)], ResultCode::Expired);
    receiver.skip(FIRST + 4, 1);
    assert_eq!(receiver.got, [0, 2]);
    receiver.skip(FIRST + 3, 1);
    assert_eq!(receiver.got, [0, 2, 5]);
    // Nothing below 7 comes any more: 6 never did.
    receiver.chunk(FIRST + 7, 7, 1, 20);
    assert_eq!(receiver.got, [0, 2, 5]);
    receiver.take(|writer| writer.low(&LowFrame { messages: FIRST, chunked: FIRST + 7 }));
    assert_eq!(receiver.got, [0, 2, 5, 7]);
    // Farther below than the window reaches, or than numbers do.
    receiver.chunk(FIRST + 8, 8, 5_000, 20);
    receiver.chunk(FIRST + 9, 9, u32::MAX, 20);
    assert_eq!(receiver.got, [0, 2, 5, 7, 8, 9]);
    assert!(receiver.is_clean());
}

/// An application that has no room amid a run of messages that waited gets the rest in order, too.
#[test]
fn a_refusal_amid_a_run_keeps_the_order() {
    for verdict in [Delivery::NoRoom, Delivery::Refused] {
        let mut receiver = Receiver::new();
        for n in 1..6 {
            receiver.chunk(FIRST + u64::from(n), n, 1, 20);
        }
        receiver.verdicts = vec![Delivery::Accepted, Delivery::Accepted, verdict];
        receiver.chunk(FIRST, 0, 0, 20);
        assert_eq!(receiver.got, [0, 1]);
        assert!(receiver.said[&(FIRST + 2)].is_retryable());
        // It is sent again; what is behind it has waited on.
        receiver.chunk(FIRST + 2, 2, 1, 20);
        assert_eq!(receiver.got, [0, 1, 2, 3, 4, 5]);
        assert!((FIRST..FIRST + 6).all(|seq| receiver.said[&seq] == ResultCode::Accepted));
        assert!(receiver.is_clean());
    }
}

/// Messages 2 to N hold all places: number 1 takes some of theirs, and in the end all are there, in order. Of small and of
/// large ones; and where the places are numbers, not bytes.
#[test]
fn later_messages_that_hold_all_places_make_way_for_the_first() {
    let small = Config::preset(Preset::Small);
    let mut config = small.clone();
    config.message_bytes_max = 40_000;
    config.partial_bytes_max = of_one_host(200_000);
    for (config, first_bytes, bytes, count) in [
        (&config, 20, 1_000, 250),
        (&config, 40_000, 1_000, 250),
        (&config, 40_000, 40_000, 8),
        (&small, 20, 20, 200),
    ] {
        let mut receiver = Receiver::with(config);
        let name = |seq: u64| (seq - FIRST) as u8;
        let mut missing: BTreeSet<u64> = (FIRST..FIRST + count).collect();
        let mut rounds = 0;
        while !missing.is_empty() {
            rounds += 1;
            assert!(rounds < 2_000, "{missing:?}");
            // Those that were refused come again, the latest first, and the one whose turn it is last of all.
            for seq in missing.clone().into_iter().rev() {
                let bytes = if seq == FIRST { first_bytes } else { bytes };
                receiver.chunk(seq, name(seq), u32::from(seq > FIRST), bytes);
            }
            missing.retain(|seq| receiver.said.get(seq) != Some(&ResultCode::Accepted));
            receiver.said.retain(|_, code| *code == ResultCode::Accepted);
        }
        let all: Vec<u8> = (FIRST..FIRST + count).map(name).collect();
        assert_eq!(receiver.got, all, "{first_bytes} {bytes} {count}");
        let displaced = receiver.counters.get("lane_messages_displaced");
        assert_eq!(displaced > 0, bytes > 20, "{displaced}");
        assert!(receiver.is_clean());
    }
}

/// What waits for its turn is charged like any message in parts, and what finds no room is Busy. A message in no lane takes
/// its place, too: who waits holds back nobody.
#[test]
fn what_waits_for_its_turn_is_bounded() {
    let mut config = Config::preset(Preset::Small);
    (config.message_bytes_max, config.partial_bytes_max) = (40_000, of_one_host(150_000));
    let mut receiver = Receiver::with(&config);
    for n in 1..400_u64 {
        receiver.chunk(FIRST + n, n as u8, 1, 500);
    }
    let held = receiver.inflows.partials();
    assert!((80..100).contains(&held), "1.5 KiB each, and a little: {held}");
    assert_eq!(receiver.said.values().filter(|&&code| code == ResultCode::Busy).count(), 399 - held);
    assert_eq!(receiver.counters.get("lane_messages_displaced"), 0, "it was nobody's turn");
    receiver.chunk_with(FIRST + 500, 200, 30_000, Extensions::NONE);
    assert_eq!(receiver.got, [200]);
    assert!(receiver.counters.get("lane_messages_displaced") > 20);
    // Number 0 comes at last, and with it all that are still there.
    let left = receiver.inflows.partials();
    receiver.chunk(FIRST, 0, 0, 500);
    assert_eq!(receiver.got.len(), 2 + left);
    assert!(receiver.got[1..].is_sorted());
    assert!(receiver.is_clean());
}

/// The messages of a sender fill all places, waiting for a turn that never comes, and each frame of its datagrams asks for
/// more: that costs a look at what makes way, not at all that wait. Nor does it cost one to know when the first is over.
#[test]
fn nothing_a_sender_asks_for_costs_a_look_at_all_that_wait() {
    const WAITING: u64 = 900;
    const FRAMES: u64 = 40;
    let mut config = Config::preset(Preset::Small);
    (config.message_bytes_max, config.partial_bytes_max) = (4 << 20, of_one_host(WAITING * (1_032 + 512)));
    let mut receiver = Receiver::with(&config);
    for n in 1..=WAITING {
        receiver.chunk(FIRST + n, 1, 1, 20);
    }
    assert_eq!(receiver.counters.get("lane_messages_held"), WAITING);
    let looks = |receiver: &mut Receiver| receiver.inflows.get(0).unwrap().0.looks();
    // The ends of messages in no lane, of so many units and a byte.
    let ask = |receiver: &mut Receiver, units: u32| {
        let before = (looks(receiver), receiver.counters.get("lane_messages_displaced"));
        receiver.take(|writer| {
            (0..FRAMES).all(|n| {
                let seq = (FIRST + WAITING + 1 + n) as u32;
                let (space, extensions, total) = (Space::Chunked, Extensions::NONE, 128 * units + 1);
                writer.chunk(&ChunkFrame { space, seq, offset: total - 1, total, extensions, bytes: &[2] })
            })
        });
        (looks(receiver) - before.0, receiver.counters.get("lane_messages_displaced") - before.1)
    };
    // All of them would not do.
    let (looked, displaced) = ask(&mut receiver, 12_000);
    assert_eq!((receiver.counters.dropped(DropReason::PartialsFull), displaced), (FRAMES, 0));
    assert!(looked <= 4 * FRAMES, "{looked}");
    // Some do; behind the datagram, whose turn it is is looked at once.
    let (looked, displaced) = ask(&mut receiver, 30);
    assert_eq!(displaced, FRAMES * 3);
    assert!(looked <= 4 * (FRAMES + displaced), "{looked}");
    // Whatever ends, of either space, handed over or given up, is not what they wait for.
    let before = looks(&mut receiver);
    for n in 0..60_u32 {
        let number = FIRST + WAITING + 1 + FRAMES + u64::from(n);
        receiver.take(|writer| writer.low(&LowFrame { messages: FIRST + 1 + u64::from(n), chunked: FIRST }));
        if n < 30 {
            receiver.skip(number, [0, 1, 950][n as usize % 3]);
        } else {
            receiver.chunk(number, 3, 0, 20);
        }
    }
    assert!((receiver.counters.get("lane_messages_skipped"), receiver.got.len()) == (30, 30));
    assert!(looks(&mut receiver) - before <= 6 * 60, "{}", looks(&mut receiver) - before);
    // Nothing is due yet, and what is when is known.
    let before = looks(&mut receiver);
    for _ in 0..100 {
        let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
        assert!(inflow.timer_at(shop).is_some_and(|at| at > now));
        assert_eq!(inflow.handle_timer(now, shop), 0);
    }
    assert_eq!(looks(&mut receiver), before);
}

/// When the first of many partial messages is over is known as a bound: nothing is given up late, and none of the looks at
/// them that this costs comes without one that is over, or has gone on.
#[test]
fn partial_messages_are_over_when_they_are() {
    let mut receiver = Receiver::new();
    let mut random = fastrand::Rng::with_seed(1);
    let idle = Config::preset(Preset::Small).partial_idle_max;
    let mut over_at = BTreeMap::new();
    let begin = |receiver: &mut Receiver, seq: u64, offset: u32, lifetime_ms| {
        let extensions = Extensions { lifetime_ms, ..Extensions::NONE };
        let (space, total, bytes) = (Space::Chunked, 10_000, &[1; 128][..]);
        receiver.take(|writer| {
            writer.chunk(&ChunkFrame { space, seq: seq as u32, offset, total, extensions, bytes })
        });
    };
    for seq in FIRST..FIRST + 200 {
        receiver.now += Duration::from_millis(random.u64(0..20));
        let lives = [None, Some(random.u32(1..30_000))][random.usize(0..2)];
        begin(&mut receiver, seq, 0, lives);
        let now = receiver.now;
        let ends = lives.map_or(Instant::FAR_FUTURE, |ms| now + Duration::from_millis(ms.into()));
        over_at.insert(seq, (now + idle, ends));
    }
    // Half of them go on for a while.
    for seq in (FIRST..FIRST + 200).step_by(2) {
        begin(&mut receiver, seq, 128, None);
        let now = receiver.now;
        over_at.entry(seq).and_modify(|at| at.0 = now + idle);
    }
    let (mut looks, mut expired) = (0, 0);
    while receiver.inflows.partials() > 0 {
        let (inflow, shop) = receiver.inflows.get(0).unwrap();
        let now = receiver.now.max(inflow.timer_at(shop).unwrap());
        let given_up = inflow.handle_timer(now, shop);
        let due = over_at.values().filter(|at| at.0.min(at.1) <= now).count() as u64;
        (receiver.now, looks, expired) = (now, looks + 1, expired + given_up);
        assert_eq!(expired, due, "not one of them late, nor early");
    }
    assert_eq!(expired, 200);
    assert!(looks <= 200 + 100, "{looks}");
}

/// A host keeps its partial messages alive for a minute with a chunk of each every few seconds. It holds its share that long and no
/// more, others are served beside it, and once it stops all of it ends.
#[test]
fn a_slow_loris_holds_its_share_and_others_are_served() {
    const EVERY: Duration = Duration::from_secs(3);
    const STEPS: u32 = 20;
    const BYTES: usize = 100_000;
    let mut config = Config::preset(Preset::Small);
    (config.message_bytes_max, config.partial_bytes_max) = (BYTES as u32, of_one_host(1_050_000));
    let idle = config.partial_idle_max;
    assert!(EVERY * STEPS > 5 * idle);
    let mut receiver = Receiver::with(&config);
    let bases = Bases { packet_number: FIRST, messages: FIRST, chunked: FIRST };
    receiver.inflows.open(1, receiver.now, host(1), &bases);
    let adds = |receiver: &mut Receiver, seq: u64, step: u32| {
        let (space, seq, extensions) = (Space::Chunked, seq as u32, Extensions::NONE);
        let (offset, total, bytes) = (step * 1_024, BYTES as u32, &[1; 1_024][..]);
        receiver.take(|writer| writer.chunk(&ChunkFrame { space, seq, offset, total, extensions, bytes }));
    };
    (0..20).for_each(|number| adds(&mut receiver, FIRST + number, 0));
    let held = receiver.inflows.partials() as u64;
    assert_eq!(held, 10, "three quarters of the bytes (R-SHARE-1)");
    for step in 1..=STEPS {
        receiver.now += EVERY;
        let (inflow, shop) = receiver.inflows.get(0).unwrap();
        assert_eq!(inflow.handle_timer(receiver.now, shop), 0, "step {step}");
        (0..held).for_each(|number| adds(&mut receiver, FIRST + number, step));
        adds(&mut receiver, FIRST + held, step);
        assert_eq!(receiver.said[&(FIRST + held)], ResultCode::Busy);
        assert_eq!(receiver.inflows.partials() as u64, held);
        receiver.flow = 1;
        receiver.chunk_with(FIRST + 500 + u64::from(step), 2, BYTES, Extensions::NONE);
        assert_eq!(receiver.got, vec![2; step as usize], "all of it");
        receiver.flow = 0;
    }
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    assert_eq!(inflow.handle_timer(receiver.now + idle, shop), held);
    assert_eq!(receiver.inflows.partials(), 0);
    receiver.inflows.close(1);
    assert!(receiver.is_clean());
}

/// What is charged beside its bytes keeps no message out that may come.
#[test]
fn a_message_as_long_as_all_may_be_finds_room() {
    const TOTAL: u32 = 100_000;
    let (message_bytes_max, partial_bytes_max) = (TOTAL, TOTAL.into());
    let mut receiver =
        Receiver::with(&Config { message_bytes_max, partial_bytes_max, ..Config::preset(Preset::Small) });
    for (seq, taken) in [(FIRST, 1), (FIRST + 1, 1)] {
        let (space, seq, extensions) = (Space::Chunked, seq as u32, Extensions::NONE);
        let (offset, total, bytes) = (0, TOTAL, &[1; 128][..]);
        receiver.take(|writer| writer.chunk(&ChunkFrame { space, seq, offset, total, extensions, bytes }));
        assert_eq!(receiver.inflows.partials(), taken);
    }
    assert_eq!(receiver.said[&(FIRST + 1)], ResultCode::Busy);
}

/// Deadlines make nobody look at all partial messages for each that is over, in whatever order they come to be over.
#[test]
fn deadlines_cost_few_looks_at_all_partial_messages() {
    const COUNT: u64 = 1_000;
    let mut receiver =
        Receiver::with(&Config { partial_bytes_max: 16 << 20, ..Config::preset(Preset::Small) });
    let chunk = |receiver: &mut Receiver, seq: u64, offset: u32, lifetime_ms: u64| {
        let extensions = Extensions { lifetime_ms: Some(lifetime_ms as u32), ..Extensions::NONE };
        let (space, total, bytes) = (Space::Chunked, 1_000, &[1; 128][..]);
        receiver.take(|writer| {
            writer.chunk(&ChunkFrame { space, seq: seq as u32, offset, total, extensions, bytes })
        });
    };
    for n in 0..COUNT {
        chunk(&mut receiver, FIRST + n, 0, 1_000 + n);
    }
    let looks = |receiver: &mut Receiver| receiver.inflows.get(0).unwrap().0.looks();
    let (begun, mut expired) = (receiver.now + Duration::from_millis(1_000), 0);
    let (before, mut lates) = (looks(&mut receiver), 0);
    for ms in 0..COUNT {
        receiver.now = begun + Duration::from_millis(ms);
        // One is over as it was told; one that had longer is told to be.
        if ms < COUNT / 2 {
            chunk(&mut receiver, FIRST + COUNT - 1 - ms, 128, 0);
        }
        let now = receiver.now;
        let (inflow, shop) = receiver.inflows.get(0).unwrap();
        if inflow.timer_at(shop).is_some_and(|at| at <= now) {
            expired += inflow.handle_timer(now, shop);
        }
        let late = (2 * (ms + 1)).min(COUNT) - expired;
        lates += late;
        assert!(late <= 2 * 50, "{late} are late at {ms} ms");
    }
    assert_eq!((expired, receiver.inflows.partials()), (COUNT, 0));
    assert!(lates > 0, "they were all looked at each time");
    let looks = looks(&mut receiver) - before;
    assert!(looks <= 20 * 1_024, "{looks}");
}

/// As many as a window has numbers wait; all are handed over at once, in order, and said in portions, each once.
#[test]
fn a_whole_window_that_waited_is_handed_over_and_said() {
    let mut receiver =
        Receiver::with(&Config { partial_bytes_max: 16 << 20, ..Config::preset(Preset::Small) });
    for n in (1..1_024_u64).rev() {
        receiver.chunk(FIRST + n, (n / 8) as u8, 1, 20);
    }
    assert!(receiver.got.is_empty() && receiver.said.is_empty());
    receiver.chunk(FIRST, 0, 0, 20);
    assert!(receiver.got.len() == 1_024 && receiver.got.is_sorted());
    assert!(receiver.said.len() == 1_024 && receiver.said.values().all(|&code| code == ResultCode::Accepted));
    // What is repeated now is nothing new.
    receiver.said.clear();
    receiver.chunk(FIRST + 5, 0, 1, 20);
    assert_eq!((receiver.got.len(), receiver.said[&(FIRST + 5)]), (1_024, ResultCode::Accepted));
    assert!(receiver.is_clean());
}

/// Of frames of the message space LANE says nothing: nothing of it waits.
#[test]
fn a_lane_of_the_message_space_says_nothing() {
    let mut receiver = Receiver::new();
    let extensions = Extensions { lane: Some((7, 1)), ..Extensions::NONE };
    receiver.take(|writer| writer.message(FIRST as u32 + 1, &[1], &extensions));
    assert_eq!(receiver.got, [1]);
    receiver.take(|writer| writer.skips(&[(Space::Message, FIRST + 2, 1)]));
    receiver.take(|writer| writer.message(FIRST as u32 + 2, &[2], &extensions));
    assert_eq!(receiver.got, [1, 2]);
}

/// A MESSAGE is handed over when it comes, whatever is left of its sender's deadline; nothing of it could be given up.
#[test]
fn a_lifetime_of_a_message_says_nothing() {
    let mut receiver = Receiver::new();
    let extensions = Extensions { lifetime_ms: Some(0), ..Extensions::NONE };
    receiver.take(|writer| writer.message(FIRST as u32, &[1], &extensions));
    assert_eq!(receiver.got, [1]);
    let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
    assert_eq!((inflow.handle_timer(now, shop), inflow.partials()), (0, 0));
    // The rule that it is measured against: of a CHUNK it counts at once.
    receiver.take(|writer| {
        let (space, offset, total, bytes) = (Space::Chunked, 0, 200, &[2; 128][..]);
        writer.chunk(&ChunkFrame { space, seq: FIRST as u32, offset, total, extensions, bytes })
    });
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    assert_eq!((inflow.handle_timer(now, shop), inflow.partials()), (1, 0));
}

/// Whatever distances a sender claims, and whatever it skips: nothing panics, nothing loops, and it harms itself alone.
#[test]
fn whatever_a_sender_claims_is_bounded() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..40 {
        let mut receiver = Receiver::new();
        for _ in 0..400 {
            let seq = FIRST + random.u64(0..40);
            let before = [0, 1, 2, random.u32(0..50), random.u32(..)][random.usize(0..5)];
            match random.u32(0..8) {
                0..=4 => receiver.chunk(seq, 1, before, 20),
                5 => receiver.skip(seq, before),
                6 => receiver.take(|writer| writer.cancels(&[(Space::Chunked, seq)])),
                _ => receiver.verdicts.push(Delivery::NoRoom),
            }
            receiver.said.clear();
        }
        receiver.take(|writer| writer.low(&LowFrame { messages: FIRST, chunked: FIRST + 100 }));
        assert_eq!(receiver.inflows.partials(), 0);
        assert!(receiver.is_clean());
    }
}

/// A flow does not sleep while it has to remember what was stepped over: number 2 would forget that it waits for number 0.
#[test]
fn what_was_stepped_over_is_not_slept_over() {
    let mut receiver = Receiver::new();
    receiver.chunk(FIRST + 10, 9, 0, 20);
    let quiet = Duration::from_secs(10);
    receiver.skip(FIRST + 1, 1);
    for (number, may_sleep) in [(0, false), (1, true)] {
        if number == 1 {
            receiver.chunk(FIRST, 0, 0, 20);
        }
        receiver.now += 2 * quiet;
        let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
        inflow.handle_timer(now, shop);
        assert_eq!(receiver.inflows.may_sleep(0, now, quiet), may_sleep, "{number}");
    }
    receiver.chunk(FIRST + 2, 2, 1, 20);
    assert_eq!(receiver.got, [9, 0, 2]);
}

/// Their sender is gone, and hears nothing: what waited for its turn is forgotten all the same, all of it.
#[test]
fn what_waits_for_a_sender_that_is_gone_is_forgotten() {
    let mut receiver = Receiver::new();
    for n in 1..300_u64 {
        receiver.chunk(FIRST + n, n as u8, 1, 20);
    }
    assert_eq!(receiver.inflows.partials(), 299);
    receiver.now += Duration::from_secs(11);
    let (now, (inflow, shop)) = (receiver.now, receiver.inflows.get(0).unwrap());
    assert_eq!((inflow.handle_timer(now, shop), inflow.partials()), (299, 0));
    assert!(inflow.timer_at(shop).is_none_or(|at| at > now), "it does not spin");
    // Who hears of it after all is told of each.
    receiver.say();
    assert!(receiver.said.len() == 299 && receiver.said.values().all(|&code| code == ResultCode::Busy));
    assert!(receiver.is_clean());
}

fn laned(lane: u16, priority: Priority, level: Level) -> Box<Options> {
    let lane = Some(Lane { number: lane, before: 0 });
    Box::new(Options { lane, priority, level, ..Options::default() })
}

fn put(net: &mut Net, op: u32, lane: u16, bytes: usize, deadline_ms: Option<u64>) {
    let mut payload = vec![0; bytes.max(5)];
    payload[0] = lane as u8;
    payload[1..5].copy_from_slice(&op.to_le_bytes());
    let options = laned(lane, Priority::Normal, Level::Accepted);
    net.put_with(0, 1, op, &payload, (deadline_ms.map(Duration::from_millis), Some(options)));
}

/// What node 1 got of a lane.
fn got(net: &Net, lane: u8) -> Vec<u32> {
    let of_lane = net.nodes[1].app.got.iter().filter(|payload| payload[0] == lane);
    of_lane.map(|payload| u32::from_le_bytes(payload[1..5].try_into().unwrap())).collect()
}

/// Datagrams are lost at random, in both directions: all arrive, in order, each once, of sizes from five bytes to dozens of
/// datagrams, in five lanes.
#[test]
fn lanes_are_in_order_whatever_is_lost() {
    let (mut held, mut most) = (0, 0);
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut net = Net::new(2);
        for op in 0..300 {
            put(&mut net, op, (op % 5) as u16, [5, 40, 200, 3_000, 20_000][random.usize(0..5)], None);
        }
        let mut outcomes = BTreeMap::new();
        for _ in 0..4_000 {
            net.run(1, |_| random.u32(0..10) > 2);
            outcomes.extend(net.outcomes(0));
            most = most.max(net.nodes[1].partials());
            if outcomes.len() == 300 {
                break;
            }
        }
        assert!(outcomes.len() == 300 && outcomes.values().all(Result::is_ok), "{outcomes:?}");
        for lane in 0..5 {
            assert_eq!(got(&net, lane as u8), (0..300).filter(|op| op % 5 == lane).collect::<Vec<_>>());
        }
        held += net.nodes[1].counter("lane_messages_held");
    }
    assert!(held > 100 && most > 10, "{held} {most}");
}

fn is_chunk_of(datagram: &Datagram, first: u32) -> bool {
    datagram.frames().any(|frame| {
        matches!(frame, Frame::Chunk(chunk) if chunk.offset == 0 && chunk.bytes[1..5] == first.to_le_bytes())
    })
}

/// One of a lane never gets through, and expires or is cancelled: the others go on, though SKIP is lost at first, and not
/// before their sender has ended it.
#[test]
fn a_gap_is_stepped_over_when_its_sender_has_ended_it() {
    for (lost, cancels) in [(0, false), (2, false), (0, true), (3, true)] {
        let mut net = Net::new(2);
        // So LOW says nothing.
        net.with_an_endless_message();
        let endless = |datagram: &Datagram| {
            datagram.frames().any(|frame| matches!(frame, Frame::Chunk(chunk) if chunk.total == 1_500))
        };
        let passes = |datagram: &Datagram| !endless(datagram) && !is_chunk_of(datagram, 2);
        // Datagrams of their own: the gap is one message.
        for op in 0..8 {
            put(&mut net, op, 1, 1_300, (op == 2 && !cancels).then_some(300));
            net.settle(passes);
        }
        net.run(50, passes);
        assert_eq!((got(&net, 1), net.nodes[1].partials()), (vec![0, 1], 5));
        put(&mut net, 20, 2, 5, None);
        net.settle(passes);
        assert_eq!(got(&net, 2), [20], "another lane");
        if cancels {
            net.cancel(0, 2);
        }
        let (mut left, mut told) = (lost, 0);
        net.run(3_000, |datagram| {
            let loses = datagram.has(Kind::Skip) && left > 0;
            left -= u32::from(loses);
            told += u32::from(datagram.has(Kind::Skip));
            !loses && passes(datagram)
        });
        assert_eq!((left, told > lost), (0, true));
        assert_eq!(got(&net, 1), [0, 1, 3, 4, 5, 6, 7]);
        let outcomes = BTreeMap::from_iter(net.outcomes(0));
        let cause = if cancels { FailureCause::Cancelled } else { FailureCause::Expired };
        assert_eq!(outcomes[&2].unwrap_err().cause, cause);
        assert!(outcomes.iter().all(|(op, outcome)| *op == 2 || outcome.is_ok()), "{outcomes:?}");
        assert_eq!(net.nodes[1].counter("lane_messages_skipped"), 1);
    }
}

/// One of a lane expires at the receiver, in parts, and its sender cannot tell it anything of that: the next one goes with
/// whatever comes then.
#[test]
fn what_expires_at_the_receiver_lets_the_next_one_go() {
    let mut net = Net::new(2);
    net.with_an_endless_message(); // So LOW says nothing.
    let is_told = |datagram: &Datagram| datagram.has(Kind::Skip) || datagram.has(Kind::Low);
    let passes = |datagram: &Datagram| {
        !datagram.frames().any(|frame| match frame {
            Frame::Chunk(chunk) => chunk.total == 1_500 || (chunk.total == 3_000 && chunk.offset > 0),
            _ => false,
        })
    };
    // In datagrams of their own.
    put(&mut net, 0, 1, 3_000, Some(300));
    net.settle(passes);
    put(&mut net, 1, 1, 5, None);
    net.run(200, passes);
    assert_eq!((net.nodes[1].partials(), net.nodes[1].counter("lane_messages_held")), (2, 1));
    let mut told = 0;
    net.run(400, |datagram| {
        told += u32::from(is_told(datagram));
        !is_told(datagram) && passes(datagram)
    });
    assert!(told > 0 && net.nodes[1].counter("lane_messages_skipped") == 0, "its sender tried");
    assert_eq!(net.nodes[1].counter("partials_expired"), 1);
    assert_eq!((got(&net, 1), net.nodes[1].partials()), (vec![1], 0));
}

/// A peer that hears nothing is not told what was given up, and in the end nobody tries any more: what is put into the lane
/// from then on does not wait for that.
#[test]
fn a_lane_goes_on_when_its_sender_has_stopped_telling_what_it_gave_up() {
    let mut net = Net::new(2);
    put(&mut net, 0, 1, 5, None);
    net.settle(|_| true);
    assert_eq!(got(&net, 1), [0]);
    put(&mut net, 1, 1, 5, Some(100));
    let (to, mut told, mut waited_ms) = (net.nodes[1].endpoint_addr(), 0, 0);
    net.settle(|_| false);
    loop {
        net.run(1, |datagram| {
            told += u32::from(datagram.has(Kind::Skip));
            false
        });
        waited_ms += 1;
        assert!(waited_ms < 60_000, "it never gives up");
        let now = net.now;
        let flow = net.nodes[0].endpoint.outbound.flows.flow_to(now, to).unwrap();
        if told > 0 && flow.recovery.in_flight_packets() == 0 && !flow.control_is_due() {
            break;
        }
    }
    assert!(told > 3);
    // LOW would say it as well.
    put(&mut net, 2, 1, 5, None);
    net.settle(|datagram| !datagram.has(Kind::Low));
    assert_eq!((got(&net, 1), net.nodes[1].partials()), (vec![0, 2], 0));
}

/// Until its turn a message is not `Delivered`, however long it has been there; and each acknowledgement of it is none.
#[test]
fn what_waits_at_the_receiver_is_not_delivered() {
    let mut net = Net::new(2);
    put(&mut net, 0, 1, 5, None);
    net.settle(|_| true);
    put(&mut net, 1, 1, 5, None);
    net.settle(|datagram| !datagram.has(Kind::Chunk));
    put(&mut net, 2, 1, 1_300, None);
    let is_first = |datagram: &Datagram| is_chunk_of(datagram, 1);
    net.run(200, |datagram| !is_first(datagram));
    assert!(matches!(net.outcomes(0)[..], [(0, Ok(_))]));
    assert_eq!((net.nodes[1].partials(), net.nodes[1].counter("lane_messages_held")), (1, 1));
    net.run(2_000, |_| true);
    let ended: Vec<_> = net.outcomes(0).into_iter().map(|(op, outcome)| (op, outcome.is_ok())).collect();
    assert_eq!((ended, got(&net, 1)), (vec![(1, true), (2, true)], vec![0, 1, 2]));
}

/// A lane waits in one class: the one of its first message. And a level goes with it.
#[test]
fn priorities_and_levels_keep_a_lane_in_order() {
    let mut net = Net::new(2);
    let priorities = [Priority::Low, Priority::Control, Priority::High, Priority::Normal];
    for op in 0..80_u32 {
        let mut payload = vec![1; 3_000];
        payload[1..5].copy_from_slice(&op.to_le_bytes());
        let level = if op % 3 == 0 { Level::Committed } else { Level::Accepted };
        let options = laned(1, priorities[op as usize % 4], level);
        net.put_with(0, 1, op, &payload, (None, Some(options)));
    }
    net.run(2_000, |_| true);
    assert_eq!(got(&net, 1), (0..80).collect::<Vec<_>>());
    // Of one class, and nothing was lost: none came before its turn.
    assert_eq!(net.nodes[1].counter("lane_messages_held"), 0);
    let accepted = net.outcomes(0);
    assert_eq!(accepted.len(), 80 - 27, "the others wait for a commit, and hold back nobody");
    let commits = std::mem::take(&mut net.nodes[1].app.commits);
    for key in commits {
        let now = net.now;
        let endpoint = &mut net.nodes[1].endpoint;
        endpoint.outbound.flows.handle_commit(now, key, true, &mut endpoint.inflows);
    }
    net.run(100, |_| true);
    let committed = net.outcomes(0);
    assert!(
        committed.len() == 27 && committed.iter().all(|op| op.1.is_ok_and(|it| it.level == Level::Committed))
    );
}

/// The receiver is another start of itself, or has forgotten the flow: what had not left goes on, in order, and lanes begin
/// anew. What the earlier one held is not there.
#[test]
fn a_new_flow_begins_its_lanes_anew() {
    let mut net = Net::new(2);
    put(&mut net, 3_000, 2, 5, None);
    net.settle(|_| true);
    for op in 0..1_100 {
        put(&mut net, op, 1, 5, None);
    }
    // The first is missing, many wait at the receiver, and the rest has no numbers.
    net.run(20, |datagram| !is_chunk_of(datagram, 0));
    assert!(got(&net, 1).is_empty() && net.nodes[1].partials() > 0);
    let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
    let addr = net.nodes[1].endpoint_addr();
    net.nodes[1] = net.node(addr, 77, &config);
    net.run(3_000, |_| true);
    let came = got(&net, 1);
    let outcomes = BTreeMap::from_iter(net.outcomes(0));
    assert!(came.is_sorted() && !came.is_empty(), "{came:?}");
    for op in 0..1_100 {
        match outcomes[&op] {
            Ok(_) => assert!(came.contains(&op)),
            Err(error) => assert!(error.cause == FailureCause::PeerRestarted && !came.contains(&op)),
        }
    }
    put(&mut net, 2_000, 1, 5, None);
    net.run(10, |_| true);
    assert_eq!(got(&net, 1).last(), Some(&2_000));
}

/// Where node `of` knows node `peer` to be.
fn address_at(net: &mut Net, of: usize, peer: SocketAddr) -> Option<SocketAddr> {
    let now = net.now;
    let flow = net.nodes[of].endpoint.outbound.flows.flow_to(now, peer)?;
    (flow.identity.peer_tag != 0).then_some(flow.identity.to)
}

/// The sender's address changes, or the receiver's, while a lane is half there and much is lost: the flow goes on where it
/// was, and so does the order, of what was put before and of what is put to the new address.
#[test]
fn lanes_are_in_order_across_a_change_of_address() {
    let nat = SocketAddr::from(([10, 0, 9, 9], 7));
    for moves in [0, 1] {
        let (mut held, mut moved) = (0, 0);
        for seed in 0..6 {
            let mut net = Net::new(2);
            let mut random = fastrand::Rng::with_seed(seed);
            let own = net.nodes[moves].endpoint_addr();
            let put = |net: &mut Net, op: u32, to: SocketAddr| {
                let mut payload = vec![0; [5, 900, 5_000][op as usize % 3]];
                payload[1..5].copy_from_slice(&op.to_le_bytes());
                net.put_at_with(0, to, op, &payload, Some(laned(0, Priority::Normal, Level::Accepted)));
            };
            net.put(1, 0, 1_000, b"opens", None);
            net.settle(|_| true);
            let to = net.nodes[1].endpoint_addr();
            (0..100).for_each(|op| put(&mut net, op, to));
            net.run_seen_as(3, (moves, own), |_| random.u32(0..10) > 2);
            held += net.nodes[1].partials();
            // Who moved says something from there.
            net.put(moves, 1 - moves, 1_001, b"from elsewhere", None);
            net.run_seen_as(2_000, (moves, nat), |_| random.u32(0..10) > 2);
            let to = if moves == 1 { nat } else { to };
            assert_eq!(address_at(&mut net, 0, to), Some(to));
            moved += u32::from(address_at(&mut net, 1 - moves, nat) == Some(nat));
            (100..200).for_each(|op| put(&mut net, op, to));
            net.run_seen_as(8_000, (moves, nat), |_| random.u32(0..10) > 2);
            let laned: Vec<u32> = got(&net, 0).into_iter().filter(|&op| op < 1_000).collect();
            assert_eq!(laned, (0..200).collect::<Vec<_>>(), "{moves} {seed}");
            let outcomes = net.outcomes(0);
            assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
        }
        assert!(held > 6 && moved == 6, "{held} {moved}");
    }
}

/// A message put to the new address of a peer opened a flow there, before the one to the old address moved to it, too: what is
/// put there goes on over that one, or it would overtake.
#[test]
fn a_flow_that_moves_overtakes_nothing_at_its_new_address() {
    let nat = SocketAddr::from(([10, 0, 9, 9], 7));
    let mut net = Net::new(2);
    let put = |net: &mut Net, op: u32| {
        let mut payload = vec![1; 5];
        payload[1..5].copy_from_slice(&op.to_le_bytes());
        net.put_at_with(0, nat, op, &payload, Some(laned(1, Priority::Normal, Level::Accepted)));
    };
    net.put(0, 1, 100, b"opens", None);
    net.settle(|_| true);
    // The first of the lane does not get through for a while.
    put(&mut net, 0);
    net.run_seen_as(20, (1, nat), |datagram| !is_chunk_of(datagram, 0));
    let flows = net.nodes[0].endpoint.outbound.flows.count();
    assert_eq!((flows, got(&net, 1).len()), (2, 0), "another flow was opened");
    net.put(1, 0, 101, b"from there", None);
    net.run_seen_as(20, (1, nat), |datagram| !is_chunk_of(datagram, 0));
    assert_eq!(net.nodes[0].counter("challenges_sent"), 1, "the first flow moves");
    put(&mut net, 1);
    net.run_seen_as(20, (1, nat), |datagram| !is_chunk_of(datagram, 0));
    assert_eq!(got(&net, 1), [], "not before the one put before it");
    net.run_seen_as(3_000, (1, nat), |_| true);
    assert_eq!(got(&net, 1), [0, 1]);
    assert!(net.outcomes(0).iter().all(|(_, outcome)| outcome.is_ok()));
}

/// Lanes that nobody uses are forgotten, at rest and when they are many; those whose last message may not be known to the
/// receiver are not.
#[test]
fn a_sender_does_not_remember_lanes_for_ever() {
    let mut lanes = OutLanes::default();
    for lane in 0..2_048_u16 {
        assert!(!lanes.is_large(), "{lane}");
        assert_eq!(lanes.join(lane, Priority::High), Priority::High);
        assert_eq!(lanes.number(lane, Priority::High, 5_000 + u64::from(lane)), 0);
    }
    assert!(lanes.is_large());
    lanes.prune(&BTreeSet::from([3]), 5_000 + 2_000);
    assert_eq!(lanes.count(), 1 + 48);
    assert_eq!(lanes.join(3, Priority::Low), Priority::High);
    assert_eq!(lanes.number(2_047, Priority::Low, 8_000), 8_000 - 7_047);
    assert_eq!(lanes.join(4, Priority::Low), Priority::Low);
}
