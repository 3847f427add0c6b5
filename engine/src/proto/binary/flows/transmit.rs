//! Whose turn it is to send, what leaves in it, and what the kernel did not take.

use super::{Challenge, FEEDBACK_BYTES_MAX, Flows, Pair, STOPPED, takes_feedback};
use crate::config::Wire;
use crate::observe::Counters;
use crate::proto::binary::flow::{Blocked, DATAGRAM_BYTES_MIN, Identity, PROVEN_FOR, Phase};
use crate::proto::binary::inflow::Inflows;
use crate::proto::binary::recovery::Fate;
use crate::train::{Origin, TrainBatch};
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{HEADER_BYTES, Writer};

impl<C> Flows<C> {
    /// The engine stops: tells the peers of open, proven flows, with what is to be said about their messages if `feedback`
    /// (R-CLOSE-1), as many as the batch takes. False: all have been told.
    pub fn poll_closes(
        &mut self,
        now: Instant,
        feedback: bool,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> bool {
        let tag_bytes = self.limits.tag_bytes;
        while self.closed < self.slots.len() {
            if !takes_feedback(batch, 2, tag_bytes) {
                return true;
            }
            let index = self.closed as u32;
            self.closed += 1;
            let slept = self.sleeper(index).map(|asleep| (asleep.identity.to, asleep.vouched_at()));
            if slept.is_some_and(|(to, vouched_at)| {
                self.wires.of(to) != Wire::Auto || now.since(vouched_at) < PROVEN_FOR
            }) {
                self.wake(now, index);
            }
            let Self { slots, shop, .. } = self;
            let Some(out) = slots[index as usize].as_deref_mut().map(|pair| &mut pair.out) else { continue };
            // As for any other datagram of v2 (R-DISC-3, R-DISC-5).
            let permitted = !out.lapses || (!out.suspended && now.since(out.vouched_at()) < PROVEN_FOR);
            let Some((inflow, in_shop)) = inflows.get(index) else { continue };
            if out.phase != Phase::Open || !out.proven || !permitted {
                continue;
            }
            let bytes_max = FEEDBACK_BYTES_MAX.min(out.datagram_bytes() - HEADER_BYTES);
            let close = inflow.close_frame(STOPPED);
            let Identity { to, local, route, .. } = out.identity;
            batch.begin(to, local);
            let mut told = !feedback || slept.is_some();
            loop {
                let mut scratch = [0; FEEDBACK_BYTES_MAX];
                let mut writer = Writer::new(&mut scratch[..bytes_max]);
                let written = writer.close(&close);
                debug_assert!(written);
                let closes = told || inflow.write_feedback(now, &mut writer, in_shop, bytes_max).is_some();
                if !closes {
                    // No room beside it: it leaves before, as far as it fits a datagram.
                    writer = Writer::new(&mut scratch[..bytes_max]);
                    told = inflow.write_feedback(now, &mut writer, in_shop, bytes_max).is_some();
                    debug_assert!(told);
                }
                let bytes = writer.at();
                let frames = &scratch[..bytes];
                let packet_number = out.recovery.take_number(now, Fate::Done);
                let bytes = HEADER_BYTES + bytes + out.tag_bytes();
                let Some(space) = batch.push(route, bytes) else { return true };
                out.write_lone((shop.epoch, packet_number), space, |area| area.copy_from_slice(frames));
                if closes {
                    break;
                }
                counters.confirms_sent += 1;
            }
            counters.closes_sent += 1;
            if slept.is_some() {
                // There may be many: they are not all awake at once.
                self.sleep(now, index, inflows, counters);
            }
        }
        false
    }

    /// Datagrams of a train did not leave: the socket was full.
    pub fn handle_unsent(&mut self, origin: Origin, segments: usize) {
        if let Some(pair) = self.pair(origin.flow) {
            pair.out.handle_unsent(origin.number, segments);
        }
        self.make_ready(origin.flow);
    }

    /// Datagrams of a train did not leave: they are longer than the interface takes (R-MTU-5). False if that cannot be helped.
    /// Sealed ones may have waited for the socket until nobody waited for them any more.
    pub fn handle_too_long(
        &mut self,
        now: Instant,
        origin: Origin,
        (segments, bytes): (usize, usize),
        counters: &mut Counters,
    ) -> bool {
        let Some(pair) = self.pair(origin.flow) else { return true };
        // Numbers never come again in this place (R-ONCE-6).
        if pair.out.recovery.get(origin.number).is_none() {
            return true;
        }
        let bytes = bytes - pair.out.tag_bytes();
        if !pair.out.handle_too_long(now, origin.number, segments, bytes, counters) {
            return false;
        }
        self.datagram_bytes = pair.out.datagram_bytes();
        self.make_ready(origin.flow);
        true
    }

    /// Some flow has something to send now.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Hands over what may be sent now, each flow in turn, until nothing is left or the batch is full.
    pub fn poll(
        &mut self,
        now: Instant,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) {
        self.shop.turn_bytes = 0;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { return };
            if let Some(pair) = self.pair(index) {
                pair.out.ready = false;
                // What is put from now on brings it here again: its deadline may be the first.
                pair.out.look_again();
                if !self.visit(now, index, inflows, batch, counters) {
                    self.make_ready(index);
                    return;
                }
            }
        }
    }

    /// One flow's datagrams of this turn. False if the batch is full: what did not leave is as due as before.
    pub(super) fn visit(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> bool {
        let Self { slots, shop, timers, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return true };
        if pair.challenge.as_deref().is_some_and(|challenge| challenge.due)
            && !send_challenge(now, pair, shop.epoch, batch, counters)
        {
            return false;
        }
        if pair.out.phase != Phase::Open || pair.out.suspended {
            let left = match pair.out.phase {
                _ if pair.out.hello_at > now => true,
                Phase::Opening => self.send_first_hello(now, index, batch),
                Phase::Probing | Phase::Open => self.send_probe(now, index, batch),
            };
            if !left {
                return false;
            }
            // Deadlines of what waits.
            if let Some(at) = self.slots[index as usize].as_deref().and_then(|pair| pair.out.timer_at(now)) {
                self.timers.arm_earlier(index, at);
            }
            return true;
        }
        let out = &mut pair.out;
        let blocked = if out.proven { out.fill(now, shop, counters) } else { Blocked::Empty };
        let waiting = if matches!(blocked, Blocked::Credit) { out.demand().max(1) } else { 0 };
        let lone = out.has_unsolicited() || (out.recovery.in_flight_packets() == 0 && !out.has_open());
        if matches!(blocked, Blocked::Credit) && lone {
            // Nobody will tell us of more credit unless we ask (R-CREDIT-5).
            out.ask_for_credit(now);
        }
        out.write_control(shop, now, waiting);
        let mut lone = None;
        let mut watched = None;
        let whole = out.datagram_bytes() - HEADER_BYTES;
        if let Some((inflow, in_shop)) = inflows.get(index)
            && let again = out.take_results_again()
            && (inflow.has_feedback(in_shop) || again)
        {
            // As many as fit are under way, and the rest waits for them to be heard of (R-MTU-9): said once more at every
            // turn, they would put off the timeout that ends it if nobody hears.
            let waits =
                !again && inflow.cut_results(in_shop, whole).is_some_and(|ticket| out.has_tracked(ticket));
            // One datagram that is watched will do; the results ride with all others, too (R-OUTCOME-4).
            if again && !out.recovery.may_watch() {
                out.forget_tracked();
            }
            let must_track = !waits
                && out.recovery.may_watch()
                && inflow.last_result(in_shop).is_some_and(|ticket| again || !out.has_tracked(ticket));
            let mut rides = waits
                || (out.has_open() || (must_track && out.open_for_control(now, shop)))
                    && out.ride_along(shop, |writer| inflow.write_feedback(now, writer, in_shop, whole));
            if !rides && must_track && out.has_open() {
                // No room in that one.
                out.finish_turn(now, shop);
                rides = out.open_for_control(now, shop)
                    && out.ride_along(shop, |writer| inflow.write_feedback(now, writer, in_shop, whole));
            }
            if rides {
                watched = inflow.timer_at(in_shop);
            } else {
                lone = Some((inflow, in_shop, must_track, again));
            }
        }
        out.finish_turn(now, shop);
        if let Some(at) = watched {
            timers.arm_earlier(index, at);
        }
        if out.proven {
            out.probe_path(now, shop, counters);
        }
        let Identity { to, local, route, .. } = out.identity;
        batch.begin(to, local);
        while let Some((number, start, bytes)) = out.next_unsent(&shop.pool) {
            let origin = Origin { flow: index, number };
            if bytes <= DATAGRAM_BYTES_MIN {
                // It may be there to get through where longer ones do not (R-MTU-6), and a router drops a train as a whole.
                batch.cut_longer(DATAGRAM_BYTES_MIN + out.tag_bytes());
            }
            let pushed = match &mut out.guard {
                None => batch.push_kept(origin, start, bytes),
                // What is kept stays plain; a copy is sealed. What a full socket does not take of those stays in the batch.
                Some(guard) => match batch.push_sealed(origin, route, bytes + guard.tag_bytes()) {
                    Some(space) => {
                        guard.seal_copy(number, shop.pool.piece(start, bytes), space);
                        true
                    }
                    None => false,
                },
            };
            if !pushed {
                if let Some((inflow, _, _, again)) = lone {
                    inflow.ack_due = true;
                    out.want_results_again(again);
                }
                return false;
            }
            counters.rows_sent += 1;
            out.first_unsent = number + 1;
        }
        if let Some((_, _, false, again)) = lone
            && !out.recovery.has_room()
        {
            // It leaves when the oldest number is heard of, or given up.
            out.want_results_again(again);
            lone = None;
        }
        if let Some((inflow, in_shop, must_track, again)) = lone {
            // Looked at first: what is written counts as said.
            if !takes_feedback(batch, 1, out.tag_bytes()) {
                inflow.ack_due = true;
                out.want_results_again(again);
                return false;
            }
            let mut scratch = [0; FEEDBACK_BYTES_MAX];
            let bytes_max = FEEDBACK_BYTES_MAX.min(whole);
            let mut writer = Writer::new(&mut scratch[..bytes_max]);
            if let Some(results_until) = inflow.write_feedback(now, &mut writer, in_shop, bytes_max) {
                let bytes = writer.at();
                let Some(space) = batch.push(route, HEADER_BYTES + bytes + out.tag_bytes()) else {
                    return false;
                };
                // No memory to keep it: what has to arrive in it can be written again.
                let packet_number = if must_track {
                    out.track_results(now, HEADER_BYTES + bytes, results_until)
                } else {
                    out.recovery.take_number(now, Fate::Done)
                };
                let frames = &scratch[..bytes];
                out.write_lone((shop.epoch, packet_number), space, |area| area.copy_from_slice(frames));
                counters.confirms_sent += 1;
            }
            if let Some(at) = inflow.timer_at(in_shop) {
                timers.arm_earlier(index, at);
            }
        }
        if out.ping_is_due() {
            batch.begin(to, local);
            let Some(space) = batch.push(route, DATAGRAM_BYTES_MIN + out.tag_bytes()) else { return false };
            let mut writer = Writer::new(&mut space[HEADER_BYTES..DATAGRAM_BYTES_MIN]);
            let packet_number = out.write_lone_ping(now, DATAGRAM_BYTES_MIN, waiting, &mut writer);
            out.write_lone((shop.epoch, packet_number), space, |_| {}); // Its frames are written.
            counters.rows_sent += 1;
        }
        let mut starves = out.control_is_due();
        starves |= matches!(blocked, Blocked::Pool);
        if starves && !std::mem::replace(&mut out.starved, true) {
            self.starved.push(index);
        }
        if let Some(at) = self.slots[index as usize].as_deref().and_then(|pair| pair.out.timer_at(now)) {
            self.timers.arm_earlier(index, at);
        }
        true
    }
}

/// Asks another address whether the peer is there now (R-MOVE-1). False if the batch is full. What goes there does not wait for
/// the address before it to answer: the peer may have left it.
fn send_challenge<C>(
    now: Instant,
    pair: &mut Pair<C>,
    epoch: u32,
    batch: &mut TrainBatch,
    counters: &mut Counters,
) -> bool {
    let Pair { out, challenge } = pair;
    let Some(challenge) = challenge.as_deref_mut() else { return true };
    let Challenge { to, data, pong, .. } = *challenge;
    let Identity { local, route, .. } = out.identity;
    let pong_bytes = pong.map_or(0, |_| binary::FRAME_BYTES + 8);
    let bytes = HEADER_BYTES + binary::FRAME_BYTES + 12 + pong_bytes + out.tag_bytes();
    batch.begin(to, local);
    let Some(space) = batch.push(route, bytes) else { return false };
    (challenge.due, challenge.pong) = (false, None);
    let number = out.recovery.take_number(now, Fate::Done);
    out.write_lone((epoch, number), space, |area| {
        let mut writer = Writer::new(area);
        let _ =
            writer.ping(&binary::PingFrame { data, demand: 0 }) && pong.is_none_or(|data| writer.pong(data));
    });
    counters.challenges_sent += 1;
    true
}
