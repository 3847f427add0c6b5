//! What the simulator found in `flow`, one flow at a time.

use super::budget::Budget;
use super::flow::{
    Flow, Identity, Opening, PROBE_EVERY, PROBES_AT_ONCE, Phase, Queued, RESTING_BYTES_MAX, Shop,
};
use super::flows::Arrived;
use super::inflow::Inflows;
use super::op_ring::Meta;
use super::packet_pool::PacketPool;
use super::recovery::Fate;
use super::source::Shared;
use crate::config::{Config, Preset};
use crate::error::{DeliveryError, FailureCause, Reached, Refusal};
use crate::hash::Seed;
use crate::message::{Level, Outcome};
use crate::observe::Counters;
use crate::options::{Lane, Metadata, Options, Priority};
use crate::proto::congestion::{Algorithm, CcConfig, build};
use crate::proto::inbound::{Delivery, Payload};
use crate::units::Instant;
use crate::wire::binary::{
    self, AckFrame, Bases, ChunkFrame, CloseFrame, Extensions, Frame, GrantFrame, ResultCode, Space, Writer,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

const BYTES: usize = 1_472;
const FIRST: u64 = 100;

struct One {
    flow: Flow<u32>,
    shop: Shop<u32>,
    now: Instant,
    counters: Counters,
}

impl One {
    /// An open flow with credit, and memory for `blocks` blocks.
    fn new(blocks: usize) -> Self {
        let mut one = Self::on_an_unknown_path(blocks);
        one.flow.path_carries(one.now, BYTES);
        one
    }

    /// The same, and how long datagrams may be is not known yet.
    fn on_an_unknown_path(blocks: usize) -> Self {
        let now = Instant::from_ns(1_000_000_000);
        let to = SocketAddr::from(([10, 0, 0, 1], 1));
        let identity = Identity { to, local: None, own_tag: 1, peer_tag: 2, peer_epoch: 3, route: 0 };
        let bytes = BYTES as u64;
        let congestion = build(
            Algorithm::Fixed,
            &CcConfig {
                initial_window_bytes: 32 * bytes,
                min_window_bytes: 4 * bytes,
                max_window_bytes: 1 << 26,
                datagram_bytes: BYTES as u32,
                fixed_window_bytes: 1_024 * bytes,
            },
        );
        let opening = Opening {
            identity,
            packet_base: FIRST,
            message_base: FIRST,
            chunked_base: FIRST,
            datagram_bytes: BYTES,
            congestion,
            nonce: 4,
        };
        let mut flow = Flow::new(now, opening);
        flow.phase = Phase::Open;
        flow.proven = true;
        let shop = Shop {
            pool: PacketPool::new(blocks),
            copies: Default::default(),
            finished: Vec::new(),
            epoch: 5,
            ops_in_use: 0,
            turn_bytes: 0,
            released: false,
            resting_bytes: 0,
            heard_until: Instant::FAR_FUTURE,
            probes: Budget::new(now, PROBES_AT_ONCE, PROBE_EVERY),
            retries: Default::default(),
        };
        let mut one = Self { flow, shop, now, counters: Counters::default() };
        one.grant();
        one
    }

    fn grant(&mut self) {
        let grant = GrantFrame {
            packets: FIRST + 10_000,
            messages: FIRST + 10_000,
            chunked: FIRST + 100,
            lease_us: 10_000_000,
        };
        self.flow.handle_grant(self.now, 1, &grant);
    }

    fn put(&mut self, op: u32, payload: &[u8]) {
        let (accepted_at, deadline) = (self.now, self.now + Duration::from_secs(30));
        let meta = Meta { completion: op, tag: op.into(), accepted_at, deadline };
        self.flow.put(self.now, &mut self.shop, Shared(Bytes::copy_from_slice(payload)), meta);
    }

    fn put_with(&mut self, op: u32, payload: &[u8], options: Options) {
        let (accepted_at, deadline) = (self.now, self.now + Duration::from_secs(30));
        let meta = Meta { completion: op, tag: op.into(), accepted_at, deadline };
        let payload = Bytes::copy_from_slice(payload);
        let message = Queued { meta, payload, options: Some(Box::new(options)) };
        self.flow.put_with_options(self.now, &mut self.shop, message);
    }

    /// The datagram with this number.
    fn datagram(&self, number: u64) -> &[u8] {
        let sent = self.flow.recovery.get(number).unwrap();
        &self.shop.pool.bytes(sent.slot)[..sent.bytes as usize]
    }

    /// A turn: the numbers of the datagrams that leave.
    fn turn(&mut self) -> Vec<u64> {
        self.flow.fill(self.now, &mut self.shop, &mut self.counters);
        self.flow.finish_turn(self.now, &mut self.shop);
        let mut numbers = Vec::new();
        while let Some((number, _, _)) = self.flow.next_unsent(&self.shop.pool) {
            numbers.push(number);
            self.flow.first_unsent = number + 1;
        }
        numbers
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.flow.handle_timers(self.now, &mut self.shop, &mut self.counters);
    }

    fn ack(&mut self, numbers: &[u64]) {
        for &number in numbers {
            let mut bytes = [0; 64];
            let mut writer = Writer::new(&mut bytes);
            assert!(writer.ack(0, [(number, number)].into_iter(), None));
            let written = writer.at();
            let frame = binary::frames(&bytes[..written]).next();
            let Some(Ok(Frame::Ack(ack))) = frame else { panic!("{frame:?}") };
            let ack: AckFrame<'_> = ack;
            self.flow.handle_ack(self.now, &mut self.shop, &ack, &mut self.counters).unwrap();
        }
    }

    fn refuse_for_now(&mut self, seq: u64) {
        let entry = (Space::Message, seq, ResultCode::Busy);
        self.flow.handle_result(self.now, &mut self.shop, entry, &mut self.counters);
    }

    fn ended(&mut self) -> Vec<(u32, Outcome)> {
        self.shop.finished.drain(..).map(|op| (op.completion, op.outcome)).collect()
    }
}

/// Two messages in one datagram. The first is refused for now and leaves again alone; then the datagram is sent again
/// without it, and only this one arrives.
#[test]
fn the_ack_of_a_copy_says_nothing_of_a_message_that_was_left_out() {
    let mut one = One::new(4);
    one.put(1, b"refused");
    one.put(2, b"taken");
    let [first] = one.turn()[..] else { panic!() };
    one.refuse_for_now(FIRST);
    one.wait(5);
    let [alone] = one.turn()[..] else { panic!() };
    one.flow.handle_unsent(first, 1);
    let [copy] = one.turn()[..] else { panic!() };
    assert!(copy > alone);
    one.ack(&[copy]);
    let ended = one.ended();
    assert_eq!(ended.len(), 1);
    assert!(ended[0].0 == 2 && ended[0].1.is_ok(), "{ended:?}");
    one.ack(&[alone]);
    assert_eq!(one.ended().len(), 1);
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
}

#[test]
fn everything_lost_and_no_memory_left_is_sent_again_all_the_same() {
    let mut one = One::new(1);
    let payload = [7; 1_400];
    let slots = 65_536 / BYTES as u32;
    for op in 0..slots + 5 {
        one.put(op, &payload);
    }
    let sent = one.turn();
    assert_eq!(sent.len(), slots as usize);
    one.flow.handle_unsent(sent[0], sent.len());
    // One leaves at once, as a probe and in its own memory; what is acknowledged makes room for others.
    for _ in 0..1_000 {
        let sent = one.turn();
        one.ack(&sent);
        one.wait(1);
        one.grant();
    }
    assert_eq!(one.ended().len(), slots as usize + 5);
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
}

#[test]
fn retransmissions_used_up_with_nothing_in_flight_are_no_dead_end() {
    let mut one = One::new(16);
    for op in 0..200 {
        one.put(op, &[7; 1_400]);
    }
    let mut left = 0;
    for _ in 0..2_000 {
        let sent = one.turn();
        // All are lost, time and again, and at last all arrive.
        left += sent.len();
        if left < 1_500 {
            for number in sent {
                assert!(one.flow.recovery.get(number).is_some_and(|sent| sent.fate == Fate::InFlight));
            }
            one.wait(1_000);
        } else {
            one.ack(&sent);
            one.wait(1);
        }
        one.grant();
        let now = one.now;
        assert!(one.flow.is_idle() || one.flow.timer_at(now).is_some(), "nothing would wake it");
    }
}

#[test]
fn a_flow_may_end_twice() {
    let mut one = One::new(4);
    one.put(1, b"x");
    one.turn();
    let cause = FailureCause::EngineStopped;
    one.flow.end(&mut one.shop, cause, cause, &mut one.counters);
    one.flow.end(&mut one.shop, cause, cause, &mut one.counters);
    assert_eq!((one.ended().len(), one.shop.ops_in_use, one.shop.pool.taken()), (1, 0, 0));
}

/// Whoever waits for each answer has nothing under way time and again.
#[test]
fn what_is_at_rest_keeps_its_memory_as_far_as_the_shard_has_room() {
    let mut one = One::new(16);
    let load = |one: &mut One| {
        (0..500).for_each(|op| one.put(op, &[7; 1_000]));
        one.put(500, &[7; 10_000]);
        while !one.flow.is_idle() {
            let sent = one.turn();
            one.ack(&sent);
            let entry = (Space::Chunked, one.flow.low().1, ResultCode::Accepted);
            one.flow.handle_result(one.now, &mut one.shop, entry, &mut one.counters);
            one.wait(1);
        }
        assert_eq!(one.ended().len(), 501);
    };
    load(&mut one);
    let memory = one.flow.memory_bytes();
    assert!((10_000..RESTING_BYTES_MAX).contains(&memory), "{memory}");
    for _ in 0..2 {
        one.flow.rest(one.now, &mut one.shop);
        assert_eq!((one.flow.memory_bytes(), one.shop.resting_bytes), (memory, memory));
    }
    load(&mut one);
    assert_eq!(
        (one.flow.memory_bytes(), one.shop.resting_bytes),
        (memory, 0),
        "the same, and it does not rest"
    );
    // Others have nearly all of the room.
    one.shop.resting_bytes += RESTING_BYTES_MAX + 1 - memory;
    let others = one.shop.resting_bytes;
    one.flow.rest(one.now, &mut one.shop);
    assert_eq!(one.shop.resting_bytes, others + one.flow.memory_bytes());
    assert!(one.flow.memory_bytes() == 0, "{}", one.flow.memory_bytes());
    load(&mut one);
    one.shop.resting_bytes = 0;
    one.flow.rest(one.now, &mut one.shop);
    assert!(one.shop.resting_bytes > 0);
    one.flow.end_transmitted(&mut one.shop, FailureCause::EngineStopped, &mut one.counters);
    assert_eq!(one.shop.resting_bytes, 0, "it is about to be dropped");
}

/// A large message that is refused while it is cut begins again at its start.
#[test]
fn a_refused_cut_begins_again() {
    let mut one = One::new(16);
    one.put(1, &vec![7; 3_000_000]);
    let count = one.turn().len();
    assert!(count > 10);
    let entry = (Space::Chunked, FIRST, ResultCode::Busy);
    one.flow.handle_result(one.now, &mut one.shop, entry, &mut one.counters);
    one.ack(&(FIRST..FIRST + count as u64).collect::<Vec<_>>());
    assert_eq!(one.turn(), []);
    one.wait(10);
    one.grant();
    let [again, ..] = one.turn()[..] else { panic!("it does not begin again") };
    let slot = one.flow.recovery.get(again).unwrap();
    let frames = &one.shop.pool.bytes(slot.slot)[binary::HEADER_BYTES..slot.bytes as usize];
    let first = binary::frames(frames).next();
    assert!(matches!(first, Some(Ok(Frame::Chunk(chunk))) if chunk.offset == 0), "{first:?}");
}

/// What waits for credit asks with back-off, and a timer is armed until then; no timer is in the past.
#[test]
fn who_waits_for_credit_does_not_spin() {
    let mut one = One::new(4);
    one.flow.credit.messages = FIRST - 1;
    one.put(1, b"x");
    let mut asked = 0;
    for _ in 0..2_000 {
        one.turn();
        one.flow.ask_for_credit(one.now);
        asked += u32::from(one.flow.control_is_due());
        one.flow.write_control(&mut one.shop, one.now, 1);
        one.flow.finish_turn(one.now, &mut one.shop);
        let sent = one.turn();
        one.ack(&sent);
        assert!(one.flow.timer_at(one.now).is_some_and(|at| at > one.now));
        one.wait(1);
    }
    assert!((2..20).contains(&asked), "{asked}");
}

/// A question that was not answered, and need not be any more, does not count against the next message.
#[test]
fn a_message_on_an_idle_flow_has_all_its_time() {
    let mut one = One::new(4);
    one.flow.want_ping();
    one.flow.write_control(&mut one.shop, one.now, 0);
    one.flow.finish_turn(one.now, &mut one.shop);
    assert_eq!(one.turn().len(), 1);
    one.wait(1_000);
    assert_eq!(one.turn(), []);
    assert!(one.flow.recovery.probes() > 0 && one.flow.is_idle());
    one.wait(20_000);
    one.put(1, b"x");
    assert_eq!((one.flow.recovery.probes(), one.flow.asked_at), (0, one.now));
}

#[test]
fn results_fit_beside_an_acknowledgement() {
    for bytes in [512, 1_452, 1_472, 9_000] {
        let count = super::inflow::results_max(bytes);
        let entries = vec![(Space::Message, 1, ResultCode::Busy); count];
        let mut datagram = vec![0; bytes - binary::HEADER_BYTES];
        let mut writer = Writer::new(&mut datagram);
        let grant = GrantFrame { packets: 1, messages: 1, chunked: 1, lease_us: 1 };
        assert!(writer.results(&entries) && writer.grant(&grant) && writer.pong(1), "{bytes}");
        assert!(writer.ack(0, [(7, 7)].into_iter(), None), "{bytes}");
        assert!(count >= 40);
    }
}

/// Whatever the metadata takes, a message is one frame as long as it fits a datagram, and else chunks that fit theirs.
#[test]
fn messages_with_metadata_are_cut_to_fit() {
    let mut one = One::new(64);
    one.flow.credit.chunked = FIRST + 1_000;
    let mut frames_of_each = std::collections::BTreeSet::new();
    for (meta, bytes) in (0..=253).step_by(11).zip((1_170..1_440).step_by(7).cycle()).cycle().take(400) {
        let user = Some(Bytes::from(vec![1; meta]));
        let options = Options { metadata: Metadata { user, ..Metadata::default() }, ..Options::default() };
        one.put_with(1, &vec![2; bytes], options);
        let numbers = one.turn();
        let fits = binary::HEADER_BYTES + 8 + (1 + 2 + meta) + bytes <= BYTES;
        let mut left = bytes;
        for &number in &numbers {
            let datagram = one.datagram(number);
            assert!(datagram.len() <= BYTES);
            for frame in binary::frames(&datagram[binary::HEADER_BYTES..]) {
                let (extensions, part) = match frame.unwrap() {
                    Frame::Message(message) if fits => (message.extensions, message.payload),
                    Frame::Chunk(chunk) if !fits => (chunk.extensions, chunk.bytes),
                    Frame::Padding { .. } => continue,
                    other => panic!("{meta} {bytes}: {other:?}"),
                };
                assert_eq!(extensions.meta.user().map(<[u8]>::len), Some(meta));
                left -= part.len();
            }
        }
        assert_eq!(left, 0);
        frames_of_each.insert((fits, numbers.len()));
        one.ack(&numbers);
        let entry = (Space::Chunked, one.flow.low().1, ResultCode::Accepted);
        one.flow.handle_result(one.now, &mut one.shop, entry, &mut one.counters);
        assert_eq!(one.ended().len(), 1);
    }
    assert_eq!(
        frames_of_each.into_iter().collect::<Vec<_>>(),
        [(false, 2), (true, 1)],
        "both kinds were seen"
    );
}

/// The peer forgot the flow before it could take the youngest: they wait again, in their order, and in front of what waited.
#[test]
fn what_left_a_moment_ago_can_be_taken_back() {
    let mut one = One::new(8);
    one.put(1, b"long ago");
    one.turn();
    one.wait(1_500);
    let since = one.now;
    let tagged =
        || Options { metadata: Metadata { tag: Some(9), ..Metadata::default() }, ..Options::default() };
    one.put_with(2, b"small", tagged());
    one.put_with(3, b"refused", tagged());
    one.put_with(4, &[7; 5_000], tagged());
    one.turn();
    one.refuse_for_now(FIRST + 2);
    one.put(5, b"not sent yet");
    one.flow.take_back(one.now, &mut one.shop, since);
    one.flow.end_transmitted(&mut one.shop, FailureCause::TimedOut, &mut one.counters);
    let ended = one.ended();
    assert!(ended.len() == 1 && ended[0].0 == 1, "{ended:?}");
    let mut waiting = Vec::new();
    one.flow.take_waiting(|message| waiting.push(message), |_| true);
    let tag = |options: &Option<Box<Options>>| options.as_ref().and_then(|options| options.metadata.tag);
    let waiting: Vec<(u32, &[u8], Option<u32>)> =
        waiting.iter().map(|next| (next.meta.completion, &next.payload[..], tag(&next.options))).collect();
    let expected: [(u32, &[u8], Option<u32>); 4] = [
        (2, b"small", Some(9)),
        (3, b"refused", Some(9)),
        (5, b"not sent yet", None),
        (4, &[7; 5_000], Some(9)),
    ];
    assert_eq!(waiting, expected);
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (4, 0));
}

/// A frame does not say what its priority was: what is taken back waits in its class all the same (R-PRIORITY-3), whether its
/// datagram is in flight, or it was refused for now.
#[test]
fn what_is_taken_back_keeps_its_priority() {
    let mut one = One::new(8);
    let classes = [Priority::Low, Priority::Normal, Priority::High, Priority::Control];
    for (op, priority) in (0..).zip(classes.repeat(2)) {
        one.put_with(op, &[b"lnhc"[op as usize % 4]; 700], prior(priority));
    }
    one.put(8, &[b'n'; 700]);
    let sent = one.turn();
    assert_eq!(sent.iter().flat_map(|&number| one.marks(number)).collect::<Vec<_>>(), b"lnhclnhcn");
    for seq in 4..8 {
        one.refuse_for_now(FIRST + seq);
    }
    one.flow.take_back(one.now, &mut one.shop, Instant::default());
    let mut heir = One::new(8);
    one.flow.hand_over(&mut heir.flow);
    one.flow.end_transmitted(&mut one.shop, FailureCause::TimedOut, &mut one.counters);
    assert_eq!(one.ended(), []);
    heir.shop.ops_in_use = std::mem::take(&mut one.shop.ops_in_use);
    // Whatever comes now is behind those of its class.
    heir.put_with(9, &[b'H'; 700], prior(Priority::High));
    let again = heir.turn();
    let marks: Vec<u8> = again.iter().flat_map(|&number| heir.marks(number)).collect();
    assert_eq!(marks, b"cchhHnnnll");
    heir.ack(&again);
    assert_eq!((heir.ended().len(), heir.shop.ops_in_use), (10, 0));
}

/// Nothing is in flight whose acknowledgement would wake it: the pacer's time does.
#[test]
fn who_waits_for_the_pacer_is_woken_by_its_timer() {
    let mut one = One::new(8);
    one.flow.set_pacing(one.now, 1_000);
    let mut sent = 0;
    for op in 0..100 {
        one.put(op, &[1; 1_000]);
        sent += one.turn().len();
    }
    assert!((1..100).contains(&sent), "{sent} left at once");
    one.ack(&(FIRST..FIRST + sent as u64).collect::<Vec<_>>());
    one.flow.set_pacing(one.now, 1_000);
    assert_eq!(one.turn().len(), 0);
    let at = one.flow.timer_at(one.now).expect("a timer");
    assert!(at < one.now + Duration::from_secs(10), "not only the deadline");
    one.now = at;
    assert!(one.flow.handle_timers(at, &mut one.shop, &mut one.counters), "it is ready then");
    assert_eq!(one.turn().len(), 1);
}

/// Whoever waits for a commit stays known to the peer, and nothing but the word ends it.
#[test]
fn a_commit_is_waited_for_with_pings() {
    let mut one = One::new(4);
    let options = || Options { level: Level::Committed, ..Options::default() };
    for op in [1, 2] {
        one.put_with(op, b"small", options());
    }
    let [number] = one.turn()[..] else { panic!("one datagram") };
    let frames = binary::frames(&one.datagram(number)[binary::HEADER_BYTES..]).flatten();
    let chunks = frames.filter(|frame| matches!(frame, Frame::Chunk(chunk) if chunk.extensions.committed));
    assert_eq!(chunks.count(), 2, "their numbers are of the space that holds back no small message");
    one.ack(&[number]);
    let result = |one: &mut One, seq, code| {
        one.flow.handle_result(one.now, &mut one.shop, (Space::Chunked, seq, code), &mut one.counters);
    };
    result(&mut one, FIRST, ResultCode::Accepted);
    assert_eq!(one.ended(), []);
    let mut pings = 0;
    for second in 1..=29 {
        one.wait(1_000);
        let due = one.flow.control_is_due();
        assert_eq!(due, second % 15 == 0, "{second}");
        one.flow.write_control(&mut one.shop, one.now, 0);
        one.flow.finish_turn(one.now, &mut one.shop);
        let sent = one.turn();
        pings += sent.len();
        one.ack(&sent);
    }
    assert_eq!(pings, 1);
    result(&mut one, FIRST, ResultCode::Committed);
    result(&mut one, FIRST + 1, ResultCode::NotCommitted);
    let ended = one.ended();
    assert!(matches!(ended[0], (1, Ok(delivered)) if delivered.level == Level::Committed), "{ended:?}");
    let not_committed = FailureCause::Refused(Refusal::NotCommitted);
    assert!(matches!(ended[1], (2, Err(error)) if error.cause == not_committed), "{ended:?}");
    one.wait(1_000);
    assert!(!one.flow.control_is_due(), "nobody waits any more");
    assert_eq!(one.flow.timer_at(one.now), None);
}

/// However many fit, a datagram has no more chunks than its receiver can refuse beside messages.
#[test]
fn small_chunks_in_a_datagram_are_limited() {
    let mut one = One::new(4);
    for op in 0..60 {
        one.put_with(op, b"x", Options { level: Level::Committed, ..Options::default() });
    }
    let numbers = one.turn();
    for number in &numbers {
        let frames = binary::frames(&one.datagram(*number)[binary::HEADER_BYTES..]).flatten();
        let chunks = frames.filter(|frame| matches!(frame, Frame::Chunk(_))).count();
        // The peer has not said how long its datagrams are: the shortest leave so much room.
        assert!(chunks <= super::inflow::results_max(0) / 6, "{chunks}");
    }
    assert!(numbers.len() >= 8);
}

fn prior(priority: Priority) -> Options {
    Options { priority, ..Options::default() }
}

impl One {
    /// Datagrams up to the `count`-th from the next one on may leave.
    fn allow(&mut self, count: u64) {
        self.flow.credit.packets = self.flow.next_numbers()[0] + count - 1;
    }

    /// First bytes of the payloads in a datagram.
    fn marks(&self, number: u64) -> Vec<u8> {
        binary::frames(&self.datagram(number)[binary::HEADER_BYTES..])
            .filter_map(|frame| match frame.unwrap() {
                Frame::Message(message) => Some(message.payload[0]),
                Frame::Chunk(chunk) => Some(chunk.bytes[0]),
                _ => None,
            })
            .collect()
    }

    /// Lets `count` datagrams leave and arrive; what each begins with.
    fn send_and_ack(&mut self, count: u64) -> Vec<u8> {
        self.allow(count);
        let numbers = self.turn();
        let firsts = numbers.iter().map(|&number| self.marks(number)[0]).collect();
        self.ack(&numbers);
        self.ended();
        firsts
    }
}

/// However much waits, small and large: what is strict leaves in the very next datagram.
#[test]
fn control_waits_for_nothing_but_what_has_left() {
    let mut one = One::new(64);
    one.allow(3);
    for op in 0..2_000 {
        one.put(op, &[b'n'; 300]);
        one.put_with(op, &[b'l'; 300], prior(Priority::Low));
        one.put_with(op, &[b'h'; 300], prior(Priority::High));
    }
    one.put(3_000, &vec![b'N'; 1_000_000]);
    one.put_with(3_001, &vec![b'L'; 1_000_000], prior(Priority::Low));
    let before = one.turn();
    assert_eq!(before.len(), 3);
    one.ack(&before);
    for (op, payload) in [(4_000, vec![b'c'; 64]), (4_001, vec![b'c'; 3_000])] {
        one.put_with(op, &payload, prior(Priority::Control));
        // An acknowledgement made room, and an application is faster than the turn's end: it does not go first.
        one.allow(3);
        one.put(5_000, b"n");
        let sent = one.turn();
        assert_eq!(one.marks(sent[0])[0], b'c');
        let marks: Vec<u8> = sent.iter().flat_map(|&number| one.marks(number)).collect();
        let count = marks.iter().take_while(|&&mark| mark == b'c').count();
        assert_eq!(count, marks.iter().filter(|&&mark| mark == b'c').count(), "one after the other");
        assert_eq!(count, payload.len().div_ceil(1_436), "all of it");
        one.ack(&sent);
        one.ended();
    }
    // Nothing waits for it: straight into the datagram that is being filled.
    one.allow(1);
    one.put_with(4_002, b"c", prior(Priority::Control));
    let [sent] = one.turn()[..] else { panic!("one datagram") };
    assert_eq!(one.marks(sent)[..2], [b'c', b'h']);
}

/// Of the datagrams for what waits, the classes get their shares, whatever the window, and none gets nothing.
#[test]
fn classes_share_by_weight() {
    // Of tiny ones a datagram is full long before all its bytes are.
    let tiny = [1, 13, 130].map(|window| (window, 1, 8_000, 230));
    for (window, bytes, each, enough) in
        [1, 2, 7, 130].map(|window| (window, 700, 4_000, 1_300)).into_iter().chain(tiny)
    {
        let mut one = One::new(64);
        one.allow(1);
        for op in 0..each {
            one.put_with(op, &vec![b'l'; bytes], prior(Priority::Low));
            one.put_with(op, &vec![b'h'; bytes], prior(Priority::High));
            one.put_with(op, &vec![b'n'; bytes], prior(Priority::Normal));
        }
        let first = one.turn();
        one.ack(&first);
        let mut counts = std::collections::BTreeMap::new();
        let mut sent = 0;
        while sent < enough {
            let firsts = one.send_and_ack(window);
            assert_eq!(firsts.len() as u64, window);
            sent += firsts.len();
            for mark in firsts {
                *counts.entry(mark).or_insert(0_usize) += 1;
            }
        }
        let share = |mark| counts[&mark] * 13 * 100 / sent;
        for (mark, weight) in [(b'h', 8), (b'n', 4), (b'l', 1)] {
            assert!((weight * 85..=weight * 115).contains(&share(mark)), "{window}, {bytes}: {counts:?}");
        }
    }
}

/// A large message of low priority takes its turn beside small ones, and one that is refused keeps its class.
#[test]
fn a_large_message_stays_in_its_class() {
    for (bytes, ops) in [(700, 3_000), (1, 12_000)] {
        let mut one = One::new(64);
        one.allow(1);
        for op in 0..ops {
            one.put(op, &vec![b'n'; bytes]);
        }
        one.put_with(90_000, &vec![b'L'; 500_000], prior(Priority::Low));
        let first = one.turn();
        one.ack(&first);
        let share = |one: &mut One| one.send_and_ack(100).iter().filter(|&&mark| mark == b'L').count();
        assert_eq!(share(&mut one), 20, "one datagram in five, beside {bytes} B");
        let entry = (Space::Chunked, FIRST, ResultCode::Busy);
        one.flow.handle_result(one.now, &mut one.shop, entry, &mut one.counters);
        assert_eq!(share(&mut one), 0, "it was refused for now");
        one.wait(10);
        one.grant();
        assert_eq!(share(&mut one), 20);
        let cause = FailureCause::EngineStopped;
        one.flow.end(&mut one.shop, cause, cause, &mut one.counters);
        assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
    }
}

/// A peer grants all numbers there are, and never acknowledges one message: what is kept of those behind it is bounded.
#[test]
fn a_grant_of_everything_is_one_of_a_window() {
    let mut one = One::new(64);
    let everything =
        GrantFrame { packets: u64::MAX, messages: u64::MAX, chunked: u64::MAX, lease_us: 10_000_000 };
    one.flow.handle_grant(one.now, 2, &everything);
    (0..100_000).for_each(|op| one.put(op, b"?"));
    let has_first = |one: &One, number| {
        binary::frames(&one.datagram(number)[binary::HEADER_BYTES..])
            .any(|frame| matches!(frame, Ok(Frame::Message(frame)) if u64::from(frame.seq) == FIRST))
    };
    loop {
        let (acked, kept): (Vec<_>, Vec<_>) =
            one.turn().into_iter().partition(|&number| !has_first(&one, number));
        if acked.is_empty() && kept.is_empty() {
            break;
        }
        one.ack(&acked);
    }
    let [_, next, _] = one.flow.next_numbers();
    assert_eq!((one.flow.low().0, next - FIRST), (FIRST, 65_536));
    assert!(one.flow.has_waiting());
}

/// What was ended may have been a search probe: the search goes on with the next message.
#[test]
fn the_search_goes_on_after_all_was_given_up() {
    let mut one = One::on_an_unknown_path(4);
    for sent in 1..3 {
        one.put(1, b"x");
        one.turn();
        one.flow.probe_path(one.now, &mut one.shop, &mut one.counters);
        assert_eq!(one.counters.path_probes_sent, sent);
        one.turn();
        one.flow.end_transmitted(&mut one.shop, FailureCause::TimedOut, &mut one.counters);
    }
}

/// Deadlines and owners end what waits in any class, and a flow that takes another's place takes over all of it.
#[test]
fn what_waits_in_any_class_ends_and_moves() {
    let mut one = One::new(8);
    let mut heir = One::new(8);
    one.allow(1);
    one.put(0, &[0; 1_400]);
    one.turn();
    for (op, priority) in
        (1..).zip([Priority::Control, Priority::High, Priority::Normal, Priority::Low].repeat(2))
    {
        one.put_with(op, &vec![1; if op > 4 { 2_000 } else { 700 }], prior(priority));
    }
    one.flow.cancel(&mut one.shop, &mut one.counters, |&op| op == 1 || op == 8);
    assert_eq!(one.ended().iter().map(|ended| ended.0).collect::<Vec<_>>(), [1, 8]);
    assert!(one.flow.has_waiting() && one.flow.demand() > 0);
    one.flow.hand_over(&mut heir.flow);
    heir.shop.ops_in_use = 6;
    assert!(!one.flow.has_waiting());
    heir.wait(29_000);
    assert_eq!(heir.ended(), []);
    heir.wait(1_100);
    let mut ended: Vec<u32> = heir.ended().iter().map(|ended| ended.0).collect();
    ended.sort_unstable();
    assert_eq!(ended, [2, 3, 4, 5, 6, 7]);
    assert!(!heir.flow.has_waiting());
}

/// Or what is put into the lane from then on would overtake it (R-LANE-6).
#[test]
fn what_goes_over_waits_where_others_of_its_lane_do() {
    let lane = |priority| Options { lane: Some(Lane { number: 7, before: 0 }), ..prior(priority) };
    let classes = [Priority::Control, Priority::High, Priority::Normal, Priority::Low];
    for (there, comes) in classes.into_iter().flat_map(|there| classes.map(|comes| (there, comes))) {
        let (mut old, mut heir) = (One::new(8), One::new(8));
        for one in [&mut old, &mut heir] {
            one.allow(1);
            one.put(0, &[0; 1_400]);
            one.turn();
        }
        heir.put_with(1, &[b'1'; 700], lane(there));
        old.put_with(2, &[b'2'; 700], lane(comes));
        old.put_with(3, &[b'h'; 700], prior(comes));
        old.flow.hand_over(&mut heir.flow);
        heir.put_with(4, &[b'3'; 700], lane(comes));
        heir.allow(10);
        let left: Vec<u8> = heir.turn().into_iter().flat_map(|number| heir.marks(number)).collect();
        let mut of_lane: Vec<u8> = left.iter().copied().filter(u8::is_ascii_digit).collect();
        of_lane.dedup(); // One may be cut in two.
        assert_eq!(of_lane, b"123", "{comes:?} to {there:?}: {left:?}");
        assert!(left.contains(&b'h'));
    }
}

/// What the peer's last words say: taken up to a number, nothing beyond it.
#[test]
fn a_close_tells_what_was_never_taken() {
    let mut one = One::new(16);
    for op in 1..=4 {
        one.put(op, b"small");
    }
    one.put(5, &[7; 5_000]);
    one.put(6, &[7; 5_000]);
    assert!(one.turn().len() > 4);
    one.flow.credit.messages = FIRST;
    one.put(7, b"waits");
    assert_eq!((one.flow.has_waiting(), one.shop.ops_in_use), (true, 7));
    let last = CloseFrame { reason: 0, messages: FIRST + 1, chunked: FIRST };
    one.flow.end_closed(&mut one.shop, &last, &mut one.counters);
    let mut ended: Vec<_> = one.ended().into_iter().map(|(op, outcome)| (op, outcome.unwrap_err())).collect();
    ended.sort_by_key(|(op, _)| *op);
    let closing =
        |op, reached| (op, DeliveryError { cause: FailureCause::Refused(Refusal::Closing), reached });
    let (unknown, never) = (Reached::Unknown, Reached::Never);
    let expected = [(1, unknown), (2, unknown), (3, never), (4, never), (5, unknown), (6, never), (7, never)];
    assert_eq!(ended, expected.map(|(op, reached)| closing(op, reached)));
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken(), one.flow.is_idle()), (0, 0, true));
}

// ---- The path's MTU falls (R-MTU-6 to 8)

/// The frames of a datagram that leaves.
fn frames(one: &One, number: u64) -> Vec<(Option<binary::Kind>, Space, u32, u32, usize)> {
    let sent = one.flow.recovery.get(number).unwrap();
    let bytes = &one.shop.pool.bytes(sent.slot)[binary::HEADER_BYTES..sent.bytes as usize];
    let is_padding = |frame: &Frame<'_>| matches!(frame, Frame::Padding { .. });
    let seen = binary::frames(bytes).flatten().filter(|frame| !is_padding(frame)).map(|frame| match frame {
        Frame::Chunk(chunk) => {
            (Some(binary::Kind::Chunk), chunk.space, chunk.seq, chunk.offset, chunk.bytes.len())
        }
        Frame::Message(message) => {
            (Some(binary::Kind::Message), Space::Message, message.seq, 0, message.payload.len())
        }
        other => (other.kind(), Space::Message, 0, 0, 0),
    });
    seen.collect()
}

impl One {
    /// The interface takes 1,250 bytes from now on: these datagrams, unless they are shorter, do not leave.
    fn too_long(&mut self, numbers: &[u64]) {
        for &number in numbers {
            let bytes = self.flow.recovery.get(number).unwrap().bytes as usize;
            assert!(
                bytes <= 1_250 || self.flow.handle_too_long(self.now, number, 1, bytes, &mut self.counters)
            );
        }
    }

    fn accept(&mut self, space: Space, seq: u64) {
        let entry = (space, seq, ResultCode::Accepted);
        self.flow.handle_result(self.now, &mut self.shop, entry, &mut self.counters);
    }

    /// All that leaves until nothing more does; nothing of it is longer than `bytes`.
    fn turns(&mut self, bytes: u32) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let turn = self.turn();
            if turn.is_empty() {
                return numbers;
            }
            assert!(turn.iter().all(|&number| self.flow.recovery.get(number).unwrap().bytes <= bytes));
            numbers.extend(turn);
        }
    }
}

#[test]
fn a_large_message_is_cut_again_where_the_path_has_become_narrow() {
    let mut one = One::new(64);
    one.put(1, &vec![7; 1 << 20]);
    let sent = one.turn();
    assert!(sent.len() > 20);
    one.too_long(&sent);
    assert_eq!((one.flow.datagram_bytes(), one.counters.path_mtu_falls), (1_200, 1));
    let mut covered = vec![0_u8; (1 << 20) / 128];
    let short = sent.iter().copied().filter(|&number| one.flow.recovery.get(number).unwrap().bytes <= 1_250);
    let short: Vec<u64> = short.collect();
    let mut kept = 0;
    for number in short {
        kept += frames(&one, number).iter().map(|it| it.4).sum::<usize>() / 128;
        one.ack(&[number]);
    }
    for _ in 0..1_000 {
        let again = one.turns(1_200);
        for &number in &again {
            for (kind, space, seq, offset, bytes) in frames(&one, number) {
                if kind == Some(binary::Kind::Chunk) {
                    assert_eq!((space, u64::from(seq)), (Space::Chunked, FIRST));
                    covered[offset as usize / 128..(offset as usize + bytes) / 128]
                        .iter_mut()
                        .for_each(|n| *n += 1);
                }
            }
        }
        one.ack(&again);
        one.grant();
        one.wait(1);
    }
    // What was not lost did not go again.
    let (end, rest) = covered.split_at(covered.len() - kept);
    assert!(end.iter().all(|&times| times == 1) && rest.iter().all(|&times| times == 0), "{kept}");
    one.accept(Space::Chunked, FIRST);
    assert_eq!(one.ended().len(), 1);
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
}

#[test]
fn small_messages_of_an_outgrown_datagram_go_together_as_far_as_they_fit() {
    for blocks in [1, 8] {
        let mut one = One::new(blocks);
        for op in 0..40 {
            one.put(op, &[op as u8; 64]);
        }
        let sent = one.turn();
        assert_eq!(sent.len(), 2);
        one.too_long(&sent[..1]);
        let again = one.turns(1_200);
        let seqs: Vec<u32> = again.iter().flat_map(|&number| frames(&one, number)).map(|it| it.2).collect();
        assert_eq!(again.len(), 2, "{seqs:?}");
        assert_eq!(seqs, (FIRST as u32..FIRST as u32 + seqs.len() as u32).collect::<Vec<_>>());
        // Each ACK ends what was in its datagram, and nothing else.
        let first = frames(&one, again[0]).len();
        one.ack(&again[..1]);
        assert_eq!(
            one.ended().iter().map(|it| it.0).collect::<Vec<_>>(),
            (0..first as u32).collect::<Vec<_>>()
        );
        one.ack(&[again[1], sent[1]]);
        assert_eq!(one.ended().len(), 40 - first);
        assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
    }
}

/// Datagrams that are lost because they are too long have all the memory. What tells that shorter ones get through needs
/// none, so the size falls, and they are cut.
#[test]
fn a_fall_is_found_without_memory_for_a_probe() {
    let mut one = One::new(1);
    for op in 0..80 {
        one.put(op, &[op as u8; 1_400]);
    }
    one.turn();
    assert!(one.shop.pool.acquire(66).is_none(), "all memory is taken");
    let mut pings = 0;
    for _ in 0..1_000 {
        one.wait(10);
        let mut numbers = one.turn();
        one.flow.probe_path(one.now, &mut one.shop, &mut one.counters);
        numbers.extend(one.turn());
        if one.flow.ping_is_due() {
            let mut bytes = [0; 66];
            let mut writer = Writer::new(&mut bytes);
            numbers.push(one.flow.write_lone_ping(one.now, 66, 0, &mut writer));
            pings += 1;
        }
        // The path carries 1,250 bytes.
        numbers.retain(|&number| one.flow.recovery.get(number).is_some_and(|sent| sent.bytes <= 1_250));
        one.ack(&numbers);
        one.grant();
        if one.counters.path_mtu_falls > 0 {
            break;
        }
    }
    assert_eq!((one.counters.path_mtu_falls, one.flow.datagram_bytes()), (1, 1_200));
    assert!(pings > 0, "nothing had to leave without memory");
    let cause = FailureCause::EngineStopped;
    one.flow.end(&mut one.shop, cause, cause, &mut one.counters);
    assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
}

/// A MESSAGE that fits no datagram any more goes in chunks of the same number; only a RESULT ends it then, or the ACK of
/// the datagram that had it whole.
#[test]
fn a_message_that_does_not_fit_any_more_goes_in_chunks_of_its_own_number() {
    for late in [false, true] {
        let mut one = One::new(8);
        one.put(1, &[1; 1_430]);
        one.put(2, b"behind it");
        let sent = one.turn();
        let whole = sent[0];
        assert_eq!(
            frames(&one, whole),
            [(Some(binary::Kind::Message), Space::Message, FIRST as u32, 0, 1_430)]
        );
        one.too_long(&[whole]);
        let again = one.turns(1_200);
        let mut pieces: Vec<_> = again.iter().flat_map(|&number| frames(&one, number)).collect();
        pieces.retain(|it| it.0 == Some(binary::Kind::Chunk));
        let ends: Vec<_> = pieces.iter().map(|it| (it.1, it.2, it.3, it.4)).collect();
        let seq = FIRST as u32;
        assert_eq!(ends, [(Space::Message, seq, 0, 1_152), (Space::Message, seq, 1_152, 278)]);
        // Lost once more, they go again as they are.
        one.flow.handle_unsent(again[0], 1);
        let third = one.turns(1_200);
        assert_eq!(frames(&one, third[0])[0].3, 0);
        one.ack(&sent[1..]);
        one.ack(&again[1..]);
        one.ack(&third);
        assert_eq!(
            one.ended().iter().map(|it| it.0).collect::<Vec<_>>(),
            [2],
            "not by the ACK of its chunks"
        );
        if late {
            one.ack(&[whole]);
        } else {
            // The receiver has no room: all of it again, later.
            one.refuse_for_now(FIRST);
            assert_eq!(one.turn(), []);
            one.wait(50);
            let fourth = one.turns(1_200);
            assert_eq!(frames(&one, fourth[0])[0].1, Space::Message);
            one.ack(&fourth);
            assert_eq!(one.ended().len(), 0);
            one.accept(Space::Message, FIRST);
        }
        let ended = one.ended();
        assert!(ended.len() == 1 && ended[0].0 == 1 && ended[0].1.is_ok(), "{ended:?}");
        one.turn();
        assert_eq!((one.shop.ops_in_use, one.shop.pool.taken()), (0, 0));
    }
}

/// What its frame had goes with each of its chunks, and is still there when it is taken back.
#[test]
fn a_message_that_does_not_fit_any_more_keeps_its_metadata() {
    let mut one = One::new(8);
    let metadata = Metadata { tag: Some(9), user: Some(Bytes::from_static(b"mine")), ..Metadata::default() };
    one.put_with(1, &[1; 1_400], Options { metadata: metadata.clone(), ..Options::default() });
    let sent = one.turn();
    assert_eq!(frames(&one, sent[0])[0].0, Some(binary::Kind::Message));
    one.too_long(&sent);
    let again = one.turns(1_200);
    let mut chunks = 0;
    for &number in &again {
        for frame in binary::frames(&one.datagram(number)[binary::HEADER_BYTES..]).flatten() {
            let Frame::Chunk(chunk) = frame else { continue };
            let meta = chunk.extensions.meta;
            assert_eq!((chunk.space, meta.tag(), meta.user()), (Space::Message, Some(9), Some(&b"mine"[..])));
            assert!(chunk.offset > 0 || chunk.extensions.lifetime_ms.is_some());
            chunks += 1;
        }
    }
    assert_eq!(chunks, 2);
    one.flow.take_back(one.now, &mut one.shop, Instant::default());
    let mut back = Vec::new();
    one.flow.take_waiting(|message| back.push(message), |_| true);
    assert_eq!((back.len(), &back[0].payload[..]), (1, &[1; 1_400][..]));
    assert_eq!(back[0].options.as_ref().map(|options| &options.metadata), Some(&metadata));
}

/// Chunks that are cut anew come before others of their class, and before no other class.
#[test]
fn what_is_cut_again_stays_in_its_class() {
    let mut one = One::new(64);
    one.allow(1);
    for op in 0..3_000 {
        one.put(op, &[b'n'; 280]); // No chunk fits behind as many as fit, before and after.
    }
    one.put_with(9_000, &vec![b'L'; 500_000], prior(Priority::Low));
    let first = one.turn();
    one.ack(&first);
    one.allow(100);
    let sent = one.turn();
    let (large, small): (Vec<u64>, Vec<u64>) =
        sent.into_iter().partition(|&number| one.marks(number)[0] == b'L');
    assert_eq!((large.len(), small.len()), (20, 80));
    one.ack(&small);
    one.too_long(&large);
    assert_eq!(one.flow.datagram_bytes(), 1_200);
    let before = one.ended().len();
    one.allow(100);
    let again = one.turn();
    let large: Vec<u64> = again.iter().copied().filter(|&number| one.marks(number)[0] == b'L').collect();
    assert_eq!((before, large.len()), (first.len() * 5 + 400, 20), "one datagram in five");
    assert!(frames(&one, large[0]).iter().any(|it| it.3 == 0), "from where it was lost");
}

/// So does what goes again in chunks because it fits no datagram any more, although nothing of its class has ever waited.
#[test]
fn what_has_outgrown_a_datagram_stays_in_its_class() {
    // In the normal class it would be one in five.
    for (priority, mark, share) in [(Priority::Control, b'c', 12), (Priority::High, b'h', 8)] {
        let mut one = One::new(64);
        one.allow(20);
        for op in 0..10 {
            one.put_with(op, &[mark; 1_400], prior(priority));
        }
        let sent = one.turn();
        assert_eq!(sent.len(), 10);
        one.allow(0);
        for op in 10..2_000 {
            one.put(op, &[b'n'; 700]);
        }
        one.too_long(&sent);
        one.allow(13);
        let again = one.turn();
        assert_eq!(again.len(), 13);
        let large = again.iter().filter(|&&number| one.marks(number)[0] == mark).count();
        assert!((share..=share + 1).contains(&large), "{priority:?}: {large}");
    }
}

/// A path probe is neither sent again nor held against the path's capacity.
#[test]
fn a_lost_path_probe_is_nothing_but_that() {
    let mut one = One::new(8);
    one.flow.path_changed();
    one.put(1, b"x");
    let mut numbers = one.turn();
    one.flow.probe_path(one.now, &mut one.shop, &mut one.counters);
    let probe = one.turn();
    assert_eq!(probe.len(), 1);
    assert_eq!(one.flow.recovery.get(probe[0]).unwrap().bytes, BYTES as u32);
    for op in 2..7 {
        one.put(op, b"x");
        numbers.extend(one.turn());
    }
    one.ack(&numbers);
    assert_eq!((one.counters.path_probes_lost, one.counters.rows_retransmitted), (1, 0));
    assert_eq!(one.turn(), []);
    assert_eq!((one.ended().len(), one.shop.pool.taken(), one.flow.recovery.in_flight()), (6, 0, 0));
}

/// Where the oldest datagram in flight is a PING, and the next one a path probe, it is the one behind them that goes again: a
/// probe timeout after which nothing leaves doubles the wait for nothing. And the path is searched on.
#[test]
fn a_probe_is_something_that_leaves() {
    let mut one = One::new(8);
    one.flow.path_changed();
    one.flow.credit.messages = FIRST - 1;
    one.put(1, b"x");
    one.flow.want_ping();
    one.flow.write_control(&mut one.shop, one.now, 0);
    one.flow.finish_turn(one.now, &mut one.shop);
    one.flow.probe_path(one.now, &mut one.shop, &mut one.counters);
    let [ping, probe] = one.turn()[..] else { panic!() };
    one.grant();
    let [message] = one.turn()[..] else { panic!() };
    assert!(!one.flow.recovery.get(ping).unwrap().path_probe && frames(&one, ping).len() == 2);
    assert!(one.flow.recovery.get(probe).unwrap().path_probe);
    let carried = frames(&one, message);
    one.wait(300);
    assert_eq!(one.flow.recovery.probes(), 1, "time was up");
    let [again] = one.turn()[..] else { panic!("nothing leaves") };
    assert_eq!((frames(&one, again), one.counters.path_probes_lost), (carried, 1));
}

/// A train is of datagrams of one length: what goes again is as long as what follows it, whether that is new or goes again, too.
#[test]
fn what_goes_again_is_in_one_train_with_what_follows() {
    let mut one = One::new(8);
    (0..4).for_each(|op| one.put(op, &[7; 1_400]));
    let bytes = |one: &One, numbers: &[u64]| -> Vec<u32> {
        numbers.iter().map(|&number| one.flow.recovery.get(number).unwrap().bytes).collect()
    };
    let sent = one.turn();
    assert_eq!(bytes(&one, &sent), [1_472, 1_472, 1_472, 1_436]);
    one.flow.handle_unsent(sent[1], 2);
    one.put(4, &[7; 1_400]);
    let again = one.turn();
    assert_eq!(bytes(&one, &again), [1_472, 1_472, 1_436]);
    let ranges = again.iter().map(|&number| one.shop.pool.range(one.flow.recovery.get(number).unwrap().slot));
    assert!(ranges.collect::<Vec<_>>().windows(2).all(|pair| pair[0].end == pair[1].start));
    one.ack(&[sent[0], sent[3]]);
    one.ack(&again);
    assert_eq!((one.ended().len(), one.shop.pool.taken()), (5, 0));
}

/// What is probed for confirmation is as long as what is in use: the interface refuses it, and no search probe was lost.
#[test]
fn a_refused_confirmation_is_no_lost_search_probe() {
    let mut one = One::new(8);
    for run in 0..3 {
        one.put(10 * run, &[1; 1_430]);
        one.turn();
        // Nothing but short ones gets through.
        for op in 1..=3 {
            one.put(10 * run + op, b"short");
            let mut left = one.turn();
            left.retain(|&number| one.flow.recovery.get(number).unwrap().bytes < 1_200);
            one.ack(&left);
        }
    }
    one.flow.probe_path(one.now, &mut one.shop, &mut one.counters);
    let sent = |one: &One, number| *one.flow.recovery.get(number).unwrap();
    let left = one.turn();
    let full = left.iter().copied().find(|&number| sent(&one, number).path_probe).unwrap();
    assert_eq!((sent(&one, full).bytes, one.counters.path_probes_sent), (BYTES as u32, 4));
    assert!(one.flow.handle_too_long(one.now, full, 1, BYTES, &mut one.counters));
    assert_eq!((one.counters.path_mtu_falls, one.counters.path_probes_lost), (1, 0));
}

/// Of large messages that were refused for now, the one whose time comes first leaves first, and the timer is its.
#[test]
fn refused_cuts_leave_in_the_order_of_their_times() {
    let mut one = One::new(64);
    one.put(1, &[1; 5_000]);
    one.put(2, &[2; 5_000]);
    let busy = |one: &mut One, seq| {
        let entry = (Space::Chunked, seq, ResultCode::Busy);
        one.flow.handle_result(one.now, &mut one.shop, entry, &mut one.counters);
    };
    let whose = |one: &One, numbers: &[u64]| -> Vec<u32> {
        let mut seqs: Vec<_> =
            numbers.iter().flat_map(|&number| frames(one, number)).map(|it| it.2).collect();
        seqs.dedup();
        seqs
    };
    let (first, second) = (FIRST as u32, FIRST as u32 + 1);
    let sent = one.turn();
    assert_eq!(whose(&one, &sent), [first, second]);
    one.ack(&sent);
    // Refused three times, it waits longer than one that is refused once, later.
    for _ in 0..3 {
        busy(&mut one, FIRST);
        let at = one.flow.timer_at(one.now).unwrap();
        one.wait(at.since(one.now).as_millis() as u64 + 1);
        let again = one.turn();
        assert_eq!(whose(&one, &again), [first]);
        one.ack(&again);
    }
    busy(&mut one, FIRST);
    let late = one.flow.timer_at(one.now).unwrap();
    busy(&mut one, FIRST + 1);
    let soon = one.flow.timer_at(one.now).unwrap();
    assert!(soon < late, "the one that was refused later is the first");
    assert_eq!(one.turn(), []);
    one.wait(soon.since(one.now).as_millis() as u64 + 1);
    let again = one.turn();
    assert_eq!(whose(&one, &again), [second]);
    one.ack(&again);
    assert_eq!(one.flow.timer_at(one.now), Some(late));
}

/// What was due on a flow whose operations have been ended is due no more: it may live on.
#[test]
fn nothing_is_due_on_a_flow_that_was_ended() {
    let mut one = One::new(8);
    one.put(1, b"nobody answers");
    one.turn();
    one.wait(1_000); // A probe is due.
    one.flow.want_ping();
    one.flow.want_results_again(true);
    one.flow.end_transmitted(&mut one.shop, FailureCause::TimedOut, &mut one.counters);
    assert!(!one.flow.ping_is_due() && !one.flow.control_is_due() && !one.flow.take_results_again());
    // A datagram lost later is no probe, and waits for credit.
    one.put(2, &[1; 1_400]);
    one.put(3, &[1; 1_400]);
    let sent = one.turn();
    assert_eq!(sent.len(), 2);
    one.now += Duration::from_secs(11);
    one.flow.handle_unsent(sent[0], 1);
    assert_eq!(one.turn(), []);
    one.grant();
    assert_eq!(one.turn().len(), 1);
}

/// Its datagrams are cut again only if there is something to cut: a message that has ended is not sent again.
#[test]
fn what_has_ended_is_not_counted_as_sent_again() {
    for ends in [false, true] {
        let mut one = One::new(64);
        one.put(1, &vec![7; 20_000]);
        let sent = one.turn();
        if ends {
            one.flow.cancel(&mut one.shop, &mut one.counters, |&op| op == 1);
        }
        one.too_long(&sent);
        assert_eq!(one.flow.datagram_bytes(), 1_200);
        one.turns(1_200);
        let long = sent.len() as u64 - 1; // The last one fits.
        assert_eq!(one.counters.rows_retransmitted, if ends { 0 } else { long });
    }
}

/// The receiver of a message that comes in chunks, of the number of a MESSAGE (R-MTU-8).
struct Receiver {
    inflows: Inflows,
    counters: Counters,
    delivered: Vec<Vec<u8>>,
    now: Instant,
    number: u64,
}

impl Receiver {
    fn new() -> Self {
        let config = Config::preset(Preset::Small);
        let mut inflows = Inflows::new(&config, &Seed::from_number(1), 8 << 20, BYTES);
        let now = Instant::from_ns(1_000_000_000);
        let bases = Bases { packet_number: FIRST, messages: FIRST, chunked: FIRST };
        inflows.open(0, now, ([10, 0, 0, 1], 1).into(), &bases);
        Self { inflows, counters: Counters::default(), delivered: Vec::new(), now, number: FIRST }
    }

    /// A datagram comes; what is said of the message space.
    fn take(&mut self, write: impl FnOnce(&mut Writer<'_>) -> bool) -> Vec<(u64, ResultCode)> {
        let mut bytes = [0; BYTES];
        let mut writer = Writer::new(&mut bytes);
        assert!(write(&mut writer));
        let written = writer.at();
        let frames = &bytes[..written];
        let summary = binary::check(frames).unwrap();
        let (now, from) = (self.now, SocketAddr::from(([10, 0, 0, 1], 1)));
        let (inflow, shop) = self.inflows.get(0).unwrap();
        inflow.arrive(now, self.number, &summary, true, shop).unwrap();
        self.number += 1;
        let arrived = Arrived { index: 0, number: self.number, from, frames, summary };
        let delivered = &mut self.delivered;
        self.inflows.take(now, &arrived, &mut self.counters, |payload, _, _| {
            delivered.push(match payload {
                Payload::Borrowed(bytes) => bytes.to_vec(),
                Payload::Owned(bytes) => bytes.clone(),
            });
            Delivery::Accepted
        });
        let mut said = [0; BYTES];
        let mut writer = Writer::new(&mut said);
        let (inflow, shop) = self.inflows.get(0).unwrap();
        inflow.write_feedback(now, &mut writer, shop, BYTES).unwrap();
        let written = writer.at();
        let mut entries = Vec::new();
        for frame in binary::frames(&said[..written]).flatten() {
            if let Frame::Result(results) = frame {
                entries.extend(results.entries().map(|(space, seq, code)| {
                    assert_eq!(space, Space::Message);
                    (seq, code)
                }));
            }
        }
        entries
    }

    fn piece(&mut self, seq: u64, message: &[u8], range: std::ops::Range<usize>) -> Vec<(u64, ResultCode)> {
        let (offset, total) = (range.start as u32, message.len() as u32);
        let (space, extensions) = (Space::Message, Extensions::NONE);
        let bytes = &message[range];
        self.take(|to| to.chunk(&ChunkFrame { space, seq: seq as u32, offset, total, extensions, bytes }))
    }
}

#[test]
fn a_message_in_chunks_is_delivered_once_however_it_comes() {
    let message: Vec<u8> = (0..1_400).map(|at| at as u8).collect();
    let accepted = [(FIRST, ResultCode::Accepted)];
    let (head, tail) = (0..1_152, 1_152..1_400);
    // In chunks; and then whole, and in chunks once more.
    let mut receiver = Receiver::new();
    assert_eq!(receiver.piece(FIRST, &message, tail.clone()), []);
    assert_eq!(receiver.piece(FIRST, &message, head.clone()), accepted);
    receiver.take(|to| to.plain_message(FIRST as u32, &message));
    assert_eq!(receiver.piece(FIRST, &message, head.clone()), accepted);
    assert_eq!(receiver.delivered, [&message[..]]);
    assert_eq!(receiver.counters.dropped(crate::DropReason::Duplicate), 2);
    // Whole between its chunks, as what was taken for lost comes late.
    let mut receiver = Receiver::new();
    assert_eq!(receiver.piece(FIRST, &message, head), []);
    assert_eq!(receiver.take(|to| to.plain_message(FIRST as u32, &message)), []);
    assert_eq!(receiver.piece(FIRST, &message, tail), accepted, "its sender waits for that");
    assert_eq!(receiver.delivered, [&message[..]]);
    // What is left of it is forgotten, and not refused.
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    assert_eq!(inflow.partials(), 1);
    assert_eq!(inflow.handle_timer(receiver.now + Duration::from_secs(11), shop), 0);
    assert_eq!(inflow.partials(), 0);
}

/// Many messages in parts whose time is over at once: their results leave room for others, and the rest follows when these
/// were heard of.
#[test]
fn partial_messages_that_expire_together_leave_room_for_other_results() {
    let mut receiver = Receiver::new();
    let message = [7; 1_400];
    for seq in 0..200 {
        assert_eq!(receiver.piece(FIRST + seq, &message, 0..128), []);
    }
    receiver.now += Duration::from_secs(11);
    let (now, mut left) = (receiver.now, 200);
    for round in 0..4 {
        let (inflow, shop) = receiver.inflows.get(0).unwrap();
        let expired = inflow.handle_timer(now, shop);
        assert_eq!(expired, left.min(60), "half of 120 places");
        left -= expired;
        assert_eq!((inflow.handle_timer(now, shop), inflow.partials() as u64), (0, left));
        let waits = inflow.timer_at(shop).is_none_or(|at| at > now);
        assert!(waits, "it does not spin until they are heard of");
        // A datagram with as many messages as a sender may put into one is not dropped meanwhile.
        let mut bytes = [0; BYTES];
        let mut writer = Writer::new(&mut bytes);
        assert!((0..60).all(|seq| writer.plain_message(seq, b"x")));
        let written = writer.at();
        let summary = binary::check(&bytes[..written]).unwrap();
        inflow.arrive(now, FIRST + 1_000 + round, &summary, true, shop).unwrap();
        let heard = inflow.last_result(shop).unwrap();
        assert_eq!(inflow.results_heard(heard, shop), expired == 60, "whether anything waited for it");
        assert!(left == 0 || inflow.timer_at(shop).is_some_and(|at| at <= now));
    }
    assert_eq!((left, receiver.inflows.partials()), (0, 0));
}

/// In the message space nothing is longer than a datagram: more is never begun.
#[test]
fn a_message_of_one_frame_is_no_longer_than_a_datagram() {
    let longest = 65_507 - binary::HEADER_BYTES - binary::MESSAGE_FRAME_BYTES;
    for (bytes, said) in [(longest, &[][..]), (longest + 1, &[(FIRST, ResultCode::TooLarge)])] {
        let mut receiver = Receiver::new();
        assert_eq!(receiver.piece(FIRST, &vec![7; bytes], 0..128), said);
        let refused = receiver.counters.dropped(crate::DropReason::MessageTooLarge);
        assert_eq!((receiver.inflows.partials(), refused as usize), (1 - said.len(), said.len()));
    }
}

/// A path too narrow for all results beside an acknowledgement: they go first, and nothing is acknowledged before.
#[test]
fn results_that_fit_no_datagram_go_in_several() {
    let mut receiver = Receiver::new();
    let (inflow, shop) = receiver.inflows.get(0).unwrap();
    let summary = binary::Summary::default();
    inflow.arrive(receiver.now, FIRST, &summary, true, shop).unwrap();
    for seq in 0..100 {
        inflow.say_for_test(Space::Message, FIRST + seq, ResultCode::Busy);
    }
    let (whole, mut seen, mut datagrams) = (512 - binary::HEADER_BYTES, Vec::new(), 0);
    loop {
        datagrams += 1;
        let mut bytes = [0; 512];
        let mut cramped = Writer::new(&mut bytes[..whole - 1]);
        if inflow.write_feedback(receiver.now, &mut cramped, shop, whole).is_none() {
            assert_eq!(cramped.at(), 0, "an empty datagram or none");
        }
        let mut writer = Writer::new(&mut bytes[..whole]);
        let until = inflow.write_feedback(receiver.now, &mut writer, shop, whole).unwrap();
        let written = writer.at();
        let (mut results, mut acks) = (0, 0);
        for frame in binary::frames(&bytes[..written]).flatten() {
            match frame {
                Frame::Result(frame) => frame.entries().for_each(|(_, seq, _)| {
                    seen.push(seq);
                    results += 1;
                }),
                Frame::Ack(_) => acks += 1,
                _ => {}
            }
        }
        inflow.results_heard(until, shop);
        if acks > 0 {
            break;
        }
        assert!(results > 0 && datagrams < 10 && inflow.ack_due);
    }
    assert!(datagrams > 1);
    assert_eq!(seen, (FIRST..FIRST + 100).collect::<Vec<_>>());
}

impl One {
    /// As a shard puts it: without a look at anything where that will do. Whether it did.
    fn put_quick(&mut self, op: u32, payload: &[u8]) -> bool {
        let direct = self.flow.takes_direct(payload.len());
        if direct {
            let (accepted_at, deadline) = (self.now, self.now + Duration::from_secs(30));
            let meta = Meta { completion: op, tag: op.into(), accepted_at, deadline };
            let write = (payload.len(), |space: &mut [u8]| space.copy_from_slice(payload));
            self.flow.put_direct(self.now, &mut self.shop, write, meta);
        } else {
            self.put(op, payload);
        }
        direct
    }
}

#[test]
fn what_goes_direct_is_what_would_have_gone_there_anyhow() {
    let (mut quick, mut slow) = (One::new(4), One::new(4));
    let mut directly = 0;
    for op in 0..500u32 {
        let payload = vec![op as u8; op as usize * 7 % 300];
        directly += u32::from(quick.put_quick(op, &payload));
        slow.put(op, &payload);
        if op % 97 == 0 {
            assert_eq!(quick.turn(), slow.turn());
        }
    }
    let sent = quick.turn();
    assert_eq!(sent, slow.turn());
    assert!(directly > 300, "{directly}");
    for number in FIRST..quick.flow.recovery.next_number() {
        assert_eq!(quick.datagram(number), slow.datagram(number));
    }
    for one in [&mut quick, &mut slow] {
        one.ack(&(FIRST..one.flow.recovery.next_number()).collect::<Vec<_>>());
        assert_eq!(one.ended().len(), 500);
    }
}

#[test]
fn many_put_at_once_are_what_each_would_have_been() {
    let (mut many, mut each) = (One::new(4), One::new(4));
    let mut at_once = 0;
    for run in 0..60u32 {
        let (bytes, ops) = (run as usize * 11 % 90, run * 10..run * 10 + 10);
        let mut messages =
            ops.clone().map(|op| (u64::from(op), move |space: &mut [u8]| space.fill(op as u8)));
        // As `Context::put_each`: one that looks, and those that may go behind it.
        loop {
            if many.flow.takes_direct(bytes) {
                let (now, room) = (many.now, 7);
                let meta = |tag| Meta {
                    completion: tag as u32,
                    tag,
                    accepted_at: now,
                    deadline: now + Duration::from_secs(30),
                };
                let before = messages.len();
                let (put, more) =
                    many.flow.put_each_direct(now, &mut many.shop, bytes, room, &mut messages, meta);
                assert_eq!(before - messages.len(), put, "none is taken that is not put");
                assert!(put <= room && (more || messages.len() == 0));
                at_once += put;
            }
            let Some((op, fill)) = messages.next() else { break };
            let mut payload = vec![0; bytes];
            fill(&mut payload);
            many.put(op as u32, &payload);
        }
        ops.for_each(|op| each.put(op, &vec![op as u8; bytes]));
        if run % 13 == 12 {
            assert_eq!(many.turn(), each.turn());
        }
    }
    assert_eq!(many.turn(), each.turn());
    assert!(at_once > 300, "{at_once}");
    for number in FIRST..many.flow.recovery.next_number() {
        assert_eq!(many.datagram(number), each.datagram(number));
    }
    for one in [&mut many, &mut each] {
        assert_eq!(one.shop.ops_in_use, 600);
        one.ack(&(FIRST..one.flow.recovery.next_number()).collect::<Vec<_>>());
        assert_eq!((one.ended().len(), one.shop.ops_in_use), (600, 0));
    }
    // No further than credit reaches.
    let mut one = One::new(4);
    one.flow.credit.messages = FIRST + 9;
    one.put(0, b"");
    let (now, mut messages) = (one.now, (1..20u32).map(|tag| (tag.into(), |_: &mut [u8]| {})));
    let meta = |tag| Meta { completion: 0, tag, accepted_at: now, deadline: now };
    let went = one.flow.put_each_direct(now, &mut one.shop, 0, 100, &mut messages, meta);
    assert_eq!((went, messages.len(), one.flow.next_numbers()[1]), ((9, true), 10, FIRST + 10));
}

/// Those accepted together have their times in common; each of the others has its own.
#[test]
fn what_leaves_in_one_datagram_has_waited_and_lives_as_long_as_it_was_put_for() {
    let put = [(0, 50), (0, 50), (3, 50), (0, 80), (4, 76), (0, 76), (2, 12)];
    for arrives in [true, false] {
        let mut one = One::new(4);
        one.flow.credit.messages = FIRST - 1;
        let mut deadlines = Vec::new();
        for (op, (wait_ms, lifetime_ms)) in (0u32..).zip(put) {
            one.wait(wait_ms);
            let (accepted_at, deadline) = (one.now, one.now + Duration::from_millis(lifetime_ms));
            let meta = Meta { completion: op, tag: op.into(), accepted_at, deadline };
            one.flow.put(one.now, &mut one.shop, Shared(Bytes::from_static(b"waits")), meta);
            deadlines.push(deadline);
        }
        assert_eq!(one.turn(), []);
        one.wait(1);
        one.grant();
        assert_eq!(one.turn(), [FIRST]);
        if arrives {
            one.ack(&[FIRST]);
            let waited = |(_, outcome): (u32, Outcome)| outcome.unwrap().queued().as_millis();
            assert_eq!(one.ended().into_iter().map(waited).collect::<Vec<_>>(), [10, 10, 7, 7, 3, 3, 1]);
            continue;
        }
        let mut expired = 0;
        for _ in 0..100 {
            one.wait(1);
            for (op, outcome) in one.ended() {
                let late = one.now.since(deadlines[op as usize]);
                assert_eq!(outcome.unwrap_err().cause, FailureCause::Expired);
                assert!(
                    one.now >= deadlines[op as usize] && late <= Duration::from_millis(3),
                    "{op}: {late:?}"
                );
                expired += 1;
            }
        }
        assert_eq!(expired, put.len());
    }
}

#[test]
fn what_goes_direct_overtakes_nothing_and_nobody() {
    type Event = fn(&mut One);
    let events: [(&str, Event, bool); 7] = [
        ("nothing", |_| {}, true),
        ("a suspended peer", |one| one.flow.suspend(one.now), false),
        ("a loss", |one| one.flow.handle_unsent(FIRST, 1), false),
        ("one that waits", |one| one.put(90, &[0; 1_450]), false),
        ("one of another class", |one| one.put_with(90, b"high", prior(Priority::High)), false),
        ("the end of the turn", |one| drop(one.turn()), false),
        ("an acknowledgement", |one| one.ack(&[FIRST]), false),
    ];
    for (what, event, direct) in events {
        let mut one = One::new(4);
        one.put(1, b"before");
        assert_eq!(one.turn(), [FIRST]);
        one.put(2, b"first of its datagram");
        event(&mut one);
        assert_eq!(one.put_quick(3, b"next"), direct, "{what}");
    }
    // No further than credit reaches, nor than the peer can refuse in one datagram. Behind what waits others wait, as quickly.
    let mut one = One::new(4);
    one.flow.credit.messages = FIRST + 9;
    let slow: Vec<u32> = (0..20).filter(|&op| !one.put_quick(op, b"")).collect();
    assert_eq!((slow, one.flow.next_numbers()[1]), (vec![0, 10], FIRST + 10));
    let mut one = One::new(4);
    let went = (0..1_000).take_while(|&op| one.put_quick(op, b"") || op == 0).count();
    one.put(1_000, b"");
    assert_eq!(one.turn().len(), 2);
    assert!(went < 1_400 / 8, "{went}");
}

/// Of a flood every datagram is full, the last one of a turn as well: LOW has to leave all the same, or the window ends.
#[test]
fn low_leaves_although_every_datagram_is_full() {
    let mut one = One::new(64);
    let payload = [7; BYTES - 28 - 8];
    let (mut told, mut pings, mut sent) = (Vec::new(), Vec::new(), 0);
    for turn in 0..100u32 {
        for op in 0..10 {
            one.put(turn * 10 + op, &payload);
        }
        one.flow.fill(one.now, &mut one.shop, &mut one.counters);
        one.flow.write_control(&mut one.shop, one.now, 0);
        let numbers = one.turn();
        for &number in &numbers {
            let frames = binary::frames(&one.datagram(number)[28..]).flatten();
            if frames.clone().any(|frame| matches!(frame, Frame::Low(_))) {
                pings.push(frames.clone().any(|frame| matches!(frame, Frame::Ping(_))));
            }
            told.extend(frames.filter_map(|frame| match frame {
                Frame::Low(low) => Some((number - FIRST, low.messages - FIRST)),
                _ => None,
            }));
        }
        sent += numbers.len();
        one.ack(&numbers);
        one.grant();
    }
    assert_eq!(one.ended().len(), 1_000);
    assert_eq!(sent, 1_000 + told.len(), "each in a datagram of its own: there was no room");
    let gaps: Vec<u64> = told.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(told.len() >= 3 && gaps.iter().all(|gap| (256..=270).contains(gap)), "{told:?}");
    assert!(told.iter().all(|&(number, low)| low + 20 >= number), "{told:?}");
    assert!(pings.iter().all(|&ping| ping) && pings.len() == told.len(), "or nobody acknowledges it");
}

/// A flow lives on beyond 2^32 results: their tickets go round, and what was heard of does not stand still.
#[test]
fn tickets_of_results_go_round() {
    let mut one = One::new(4);
    let mut ticket = u32::MAX - 3;
    one.flow.results_acked = ticket;
    for _ in 0..8 {
        ticket = ticket.wrapping_add(1).max(1);
        let number = one.flow.track_results(one.now, 200, ticket);
        assert!(one.flow.has_tracked(ticket));
        one.ack(&[number]);
        assert_eq!(one.flow.results_acked, ticket);
    }
    assert_eq!(ticket, 5);
    // A datagram without results says nothing of them.
    one.put(1, b"message");
    let sent = one.turn();
    one.ack(&sent);
    assert_eq!(one.flow.results_acked, ticket);
}

/// What was given up may have been what held LOW back: its CANCEL or SKIP leaves with LOW, however little room the open
/// datagram has, and however much was given up at once (R-CANCEL-1).
#[test]
fn low_leaves_with_every_cancel() {
    let lane = |op: u32| (op > 100).then_some(Lane { number: 1, before: 0 });
    let level = Level::Committed; // In chunks, however small.
    for (given_up, skipped) in [(1, 0), (0, 1), (1, 1), (500, 0), (0, 500)] {
        for room in 0..80 {
            let mut one = One::new(64);
            let ops: Vec<u32> = (1..=given_up).chain(101..101 + skipped).collect();
            one.flow.credit.chunked = FIRST + 1_000;
            for &op in &ops {
                one.put_with(op, b"x", Options { level, lane: lane(op), ..Options::default() });
            }
            let sent = one.turn();
            one.ack(&sent);
            // So much is left of a datagram.
            one.put(1_000, &vec![7; BYTES - 28 - 8 - room]);
            one.flow.cancel(&mut one.shop, &mut one.counters, |op| *op < 1_000);
            assert_eq!(one.ended().len(), ops.len());
            let mut told = 0;
            for _ in 0..20 {
                one.flow.write_control(&mut one.shop, one.now, 0);
                for number in one.turn() {
                    let frames: Vec<_> = binary::frames(&one.datagram(number)[28..]).flatten().collect();
                    let entries = |frame: &Frame<'_>| match frame {
                        Frame::Cancel(cancel) => cancel.entries().count(),
                        Frame::Skip(skip) => skip.entries().count(),
                        _ => 0,
                    };
                    let cancels: usize = frames.iter().map(entries).sum();
                    let low =
                        frames.iter().any(|frame| matches!(frame, Frame::Low(low) if low.chunked > FIRST));
                    assert!(low || cancels == 0, "{given_up} {skipped} {room}");
                    told += cancels;
                }
            }
            assert_eq!(told, ops.len());
        }
    }
}

/// It allows nothing from the moment it came: one small datagram asks for more (R-CREDIT-4).
#[test]
fn credit_that_is_lent_for_no_time_is_none() {
    let mut one = One::new(4);
    let grant =
        GrantFrame { packets: FIRST + 10_000, messages: FIRST + 10_000, chunked: FIRST + 100, lease_us: 0 };
    one.flow.handle_grant(one.now, 2, &grant);
    (0..50).for_each(|op| one.put(op, &[7; 100]));
    let [asks] = one.turn()[..] else { panic!() };
    assert!(one.datagram(asks).len() <= 190, "{}", one.datagram(asks).len());
    assert_eq!(one.turn(), []);
}

#[test]
fn what_ends_among_others_that_wait_leaves_them_in_their_order() {
    let mut one = One::new(4);
    let grant = GrantFrame { packets: FIRST, messages: FIRST + 10_000, chunked: FIRST + 100, lease_us: 0 };
    one.flow.handle_grant(one.now, 2, &grant);
    (0..20).for_each(|op| one.put(op, &[7; 1_000]));
    assert_eq!(one.turn(), []);
    let One { flow, shop, counters, .. } = &mut one;
    flow.cancel(shop, counters, |op| op % 3 == 0 || *op == 1);
    let never = Err(DeliveryError { cause: FailureCause::Cancelled, reached: Reached::Never });
    assert_eq!(one.ended(), [0, 1, 3, 6, 9, 12, 15, 18].map(|op| (op, never)));
    let grant = GrantFrame { packets: FIRST + 10_000, lease_us: 10_000_000, ..grant };
    one.flow.handle_grant(one.now, 3, &grant);
    let mut delivered = Vec::new();
    loop {
        let numbers = one.turn();
        if numbers.is_empty() {
            break;
        }
        one.ack(&numbers);
        delivered.extend(one.ended().into_iter().map(|(op, outcome)| (op, outcome.is_ok())));
    }
    let rest = (0..20).filter(|op| op % 3 != 0 && *op != 1);
    assert_eq!(delivered, rest.map(|op| (op, true)).collect::<Vec<_>>());
}
