//! What came under a tag: checked, then frame by frame to both halves of its flow; and peers that moved.

use super::{
    Arrived, Arriving, CHALLENGE_BYTES_MAX, CLOSING_FOR, Challenge, FEEDBACK, FLOWS_OF_ADDRESS_MAX, Flows,
    REMEMBERED_MAX, is_eliciting, is_other_start,
};
use crate::config::Wire;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::flow::{Flow, Identity, Phase};
use crate::proto::binary::guard;
use crate::proto::binary::inflow::Inflows;
use crate::train::TrainBatch;
use crate::units::Instant;
use crate::wire::binary::{CloseFrame, Frame, HEADER_BYTES, Header, Kind, SealedHeader};
use crate::wire::{DropReason, binary};
use std::net::SocketAddr;

impl<C> Flows<C> {
    /// Takes one datagram of the binary wire: whose it is, and whether it counts. What it brings then goes to
    /// [`Inflows::take`] and [`handle_feedback`](Self::handle_feedback), in this order; `None` if it brings nothing more.
    ///
    /// # Errors
    /// Why it had no effect.
    pub fn handle_datagram<'a>(
        &mut self,
        arriving: &Arriving<'a>,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let (header, frames) = binary::decode(arriving.datagram)?;
        self.handle_frames(arriving, &header, frames, inflows, batch, counters)
    }

    /// As [`handle_datagram`](Self::handle_datagram), where every datagram has to be sealed: it is opened in `opened`.
    ///
    /// # Errors
    /// Why it had no effect.
    pub fn handle_sealed<'a>(
        &mut self,
        arriving: &Arriving<'_>,
        opened: &'a mut Vec<u8>,
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let sealed = binary::decode_sealed(arriving.datagram)?;
        let (tag, datagram) = (sealed.header.tag, arriving.datagram);
        let (header, frames) = match self.find_tag(tag) {
            None if tag != 0 => self.open_asleep(&sealed, datagram, opened, inflows)?,
            index => self.open_awake(index, arriving.from, &sealed, datagram, opened)?,
        };
        let arriving = Arriving { key_id: sealed.key_id, ..*arriving };
        self.handle_frames(&arriving, &header, frames, inflows, batch, counters)
    }

    /// Opens a HELLO, or a datagram of a flow that is awake.
    fn open_awake<'a>(
        &mut self,
        index: Option<u32>,
        from: SocketAddr,
        sealed: &SealedHeader,
        datagram: &[u8],
        opened: &'a mut Vec<u8>,
    ) -> Result<(Header, &'a [u8]), DropReason> {
        let Self { slots, protection, .. } = self;
        let out = index.and_then(|index| Some(&mut slots.get_mut(index as usize)?.as_deref_mut()?.out));
        match (out, protection) {
            // Under its keys nothing is old but what came in this flow before (R-PROT-4).
            (Some(Flow { phase: Phase::Open, guard: Some(guard), .. }), _) => {
                guard.open(sealed, datagram, opened)
            }
            // An answer has the key of what it answers (R-PROT-10).
            (Some(Flow { guard: Some(guard), .. }), _) if guard.key_id() != Some(sealed.key_id) => {
                Err(DropReason::BinaryUnauthentic)
            }
            (_, Some(protection)) => guard::open_hello(&**protection, from, sealed, datagram, opened),
            (_, None) => Err(DropReason::BinaryUnauthentic),
        }
    }

    /// Opens a datagram of a flow that sleeps. What somebody made up, or says again, does not wake it: it would not make way for
    /// others any more (R-FLOW-15).
    #[cold]
    fn open_asleep<'a>(
        &mut self,
        sealed: &SealedHeader,
        datagram: &[u8],
        opened: &'a mut Vec<u8>,
        inflows: &Inflows,
    ) -> Result<(Header, &'a [u8]), DropReason> {
        let (index, asleep) = self.find_asleep(sealed.header.tag).ok_or(DropReason::BinaryUnknownTag)?;
        let guard = asleep.guard().ok_or(DropReason::BinaryUnauthentic)?;
        let (header, frames) = guard.open(sealed, datagram, opened)?;
        if inflows.came_before(index, header.packet_number) {
            return Err(DropReason::BinaryDuplicate);
        }
        Ok((header, frames))
    }

    /// Takes the frames of a datagram whose header is known.
    #[inline]
    pub(super) fn handle_frames<'a>(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        frames: &'a [u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) -> Result<Option<Arrived<'a>>, DropReason> {
        let summary = binary::check(frames)?;
        if header.tag == 0 {
            self.handle_first_flight(arriving, header, frames, inflows, batch, counters)?;
            return Ok(None);
        }
        let Ok(index) = self.find_or_wake(arriving.now, header.tag) else {
            self.answer_unknown(arriving, header, &summary, batch);
            return Err(DropReason::BinaryUnknownTag);
        };
        let now = arriving.now;
        let Some(pair) = self.pair(index) else { return Err(DropReason::BinaryUnknownTag) };
        if pair.out.phase != Phase::Open {
            self.handle_answer(index, arriving, header, frames, inflows)?;
            return Ok(None);
        }
        let Identity { to, peer_epoch, peer_tag, .. } = pair.out.identity;
        if header.epoch != peer_epoch {
            return Err(DropReason::LateEpoch);
        }
        if summary.has(Kind::Hello)
            && !binary::frames(frames)
                .any(|frame| matches!(frame, Ok(Frame::Hello(hello)) if hello.tag == peer_tag))
        {
            // Our HELLO came twice, late, and was taken for another flow's: the number is of that one (R-FLOW-3).
            return Err(DropReason::BinaryUnproven);
        }
        let eliciting = is_eliciting(&summary);
        let Some((inflow, in_shop)) = inflows.get(index) else { return Err(DropReason::BinaryUnknownTag) };
        let arrived = inflow.arrive(now, header.packet_number, &summary, eliciting, in_shop);
        let proven = pair.out.proven;
        if arrived.is_ok() && arriving.from == to {
            pair.out.heard_at = now;
            pair.out.suspended = false;
        }
        if eliciting {
            self.make_ready(index);
        }
        arrived?;
        if arriving.from != to {
            self.handle_moved(index, arriving, frames, inflows, batch, counters);
        } else if !proven {
            if let Some((proof, hello)) = self.pair(index).map(|pair| pair.out.proof)
                && proof == header.packet_number
            {
                self.pair(index).into_iter().for_each(|pair| pair.out.recovery.answered(now, hello));
            }
            self.prove(now, index, inflows, counters);
        }
        Ok(Some(Arrived { index, number: header.packet_number, from: to, frames, summary }))
    }

    /// A tag from another address: a peer behind a NAT that was given another port, or somebody who repeats what he saw.
    /// The flow moves when what we ask there comes back from there (R-MOVE-1).
    pub(super) fn handle_moved(
        &mut self,
        index: u32,
        arriving: &Arriving<'_>,
        frames: &[u8],
        inflows: &mut Inflows,
        batch: &mut TrainBatch,
        counters: &mut Counters,
    ) {
        let &Arriving { now, from, local, datagram, .. } = arriving;
        if self.is_stranger(now, from) {
            // Whoever holds back a datagram of the peer's can send it on from the address of an original v1 peer.
            return self.probe_stranger(now, from, local, datagram.len(), batch);
        }
        if self.addresses.beside(from).count() >= FLOWS_OF_ADDRESS_MAX {
            return; // As many as somebody there may open (R-FLOW-13).
        }
        let fresh = self.rng.next_u64();
        let lapses = self.wires.of(from) == Wire::Auto;
        let Some(pair) = self.pair(index) else { return };
        let before = pair.challenge.as_deref().filter(|challenge| challenge.to == from).copied();
        let asked = before.map(|challenge| challenge.data);
        let answered = binary::frames(frames)
            .any(|frame| matches!(frame, Ok(Frame::Pong { data }) if asked == Some(data)));
        if answered {
            let old = pair.out.identity.to;
            pair.out.identity.to = from;
            pair.out.identity.local = local;
            let asked_at = pair.challenge.take().map_or(now, |challenge| challenge.since);
            pair.out.lapses = lapses;
            // The peer is there, and with `auto` somebody there has answered a row.
            pair.out.heard_at = now;
            pair.out.suspended = false;
            if old.ip() != from.ip() {
                pair.out.path_changed();
            }
            if self.addresses.remove_beside(old, index) {
                self.addresses.add_beside(from, index);
            }
            if self.addresses.is_used(old, index) {
                self.addresses.clear_used(old, index);
                self.use_at_new_address(now, index, asked_at, inflows, counters);
            }
            self.last = None;
        } else if datagram.len() >= CHALLENGE_BYTES_MAX + pair.out.tag_bytes() {
            let pong = binary::frames(frames).flatten().find_map(|frame| match frame {
                Frame::Ping(ping) => Some(ping.data),
                _ => None,
            });
            let (data, since) = before.map_or((fresh, now), |challenge| (challenge.data, challenge.since));
            let challenge = Challenge { to: from, data, since, pong, due: true };
            pair.challenge = Some(Box::new(challenge));
            self.make_ready(index);
        }
    }

    /// A flow that messages took has moved: those to its new address take it, unless there is one that they take already. What
    /// is under way on that would be overtaken (R-MOVE-1). Who answered was `asked_at`.
    pub(super) fn use_at_new_address(
        &mut self,
        now: Instant,
        index: u32,
        asked_at: Instant,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(pair) = self.pair(index) else { return };
        let to = pair.out.identity.to;
        if let Some(other) = self.addresses.used(to) {
            match self.pair(other).map(|pair| (pair.out.phase, pair.out.heard_at)) {
                // What waits there for an answer would be found by no row any more (R-FLOW-12).
                Some((Phase::Probing | Phase::Opening, _)) => self.merge(other, index, inflows),
                // Which of the two starts is the later one an answer tells that was not held back until that was heard.
                Some((Phase::Open, heard_at)) if heard_at < asked_at => {
                    self.end_if_restarted(now, other, index, inflows, counters);
                }
                Some((Phase::Open, _)) => {}
                // It sleeps: nothing is under way.
                None => {
                    self.addresses.set_used(to, index);
                    self.keep_beside(to, other);
                }
            }
        }
        match self.addresses.used(to) {
            Some(_) => self.keep_beside(to, index),
            None => self.addresses.set_used(to, index),
        }
        self.end_restarted_beside(now, index, asked_at, inflows, counters);
    }

    /// If a flow is to another start of its peer than `index` is, which has just shown that it is there, it ends
    /// (R-RESTART-1). What waits goes over to the one that messages take, or to `index`, unless its key is about to go (R-PROT-14).
    pub(super) fn end_if_restarted(
        &mut self,
        now: Instant,
        old: u32,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Some(peer_epoch) = self.pair(index).map(|pair| pair.out.identity.peer_epoch) else { return };
        let Self { slots, shop, .. } = self;
        if let Some(pair) = slots[old as usize].as_deref_mut()
            && pair.out.phase == Phase::Open
            && is_other_start(pair.out.identity.peer_epoch, peer_epoch)
        {
            let to = pair.out.identity.to;
            pair.out.end_transmitted(shop, FailureCause::PeerRestarted, counters);
            match self.used_beside(to, old).or_else(|| self.takes_messages(index).then_some(index)) {
                Some(heir) => self.merge(old, heir, inflows),
                None => self.replace(now, old, FailureCause::PeerRestarted, inflows, counters),
            }
        }
    }

    /// What a datagram says about ours: `frames` are those that [`Inflows::take`] left.
    pub fn handle_feedback(
        &mut self,
        now: Instant,
        arrived: &Arrived<'_>,
        frames: &[u8],
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let &Arrived { index, number, ref summary, .. } = arrived;
        if !FEEDBACK.iter().any(|&kind| summary.has(kind)) {
            return;
        }
        let Self { slots, shop, timers, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return };
        let Some((inflow, in_shop)) = inflows.get(index) else { return };
        let out = &mut pair.out;
        let (mut closed, datagram_bytes) = (None, out.datagram_bytes());
        // R-OUTCOME-2: results before the acknowledgements of the same datagram.
        let results = summary.has(Kind::Result).then(|| binary::frames(frames)).into_iter().flatten();
        for frame in results.flatten() {
            if let Frame::Result(results) = frame {
                for entry in results.entries() {
                    out.handle_result(now, shop, entry, counters);
                }
            }
        }
        for frame in binary::frames(frames).flatten() {
            match frame {
                Frame::Ack(ack) => match out.handle_ack(now, shop, &ack, counters) {
                    Ok(()) => {
                        if inflow.results_heard(out.results_acked, in_shop)
                            && let Some(at) = inflow.timer_at(in_shop)
                        {
                            timers.arm_earlier(index, at);
                        }
                        // Said while others were watched, and perhaps not heard.
                        if out.recovery.may_watch() {
                            let whole = out.datagram_bytes() - HEADER_BYTES;
                            let last = inflow.cut_results(in_shop, whole).or(inflow.last_result(in_shop));
                            out.want_results_again(last.is_some_and(|ticket| !out.has_tracked(ticket)));
                        }
                    }
                    Err(reason) => counters.drop_part(reason),
                },
                Frame::Grant(grant) => out.handle_grant(now, number, &grant),
                Frame::Low(low) => inflow.set_low(&low, in_shop),
                Frame::Cancel(cancel) => inflow.cancel(&cancel, in_shop, counters),
                Frame::Skip(skip) => inflow.skip(&skip, in_shop, counters),
                Frame::Ping(ping) => inflow.handle_ping(&ping),
                Frame::Close(close) => closed = Some(close),
                _ => {}
            }
        }
        if out.datagram_bytes() != datagram_bytes {
            self.datagram_bytes = out.datagram_bytes();
        }
        self.make_ready(index);
        if let Some(close) = closed {
            self.handle_close(now, index, &close, inflows, counters);
        }
    }

    /// The peer takes nothing more on this flow. What it acknowledged and refused in the same datagram has ended before
    /// (R-CLOSE-3). It is not answered.
    pub(super) fn handle_close(
        &mut self,
        now: Instant,
        index: u32,
        close: &CloseFrame,
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) {
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots[index as usize].as_deref_mut() else { return };
        pair.out.end_closed(shop, close, counters);
        let (to, proven) = (pair.out.identity.to, pair.out.proven);
        counters.closes_received += 1;
        self.remove(index, inflows);
        // Another flow may go there, of this start or already of the next one: it is told by itself.
        if proven && self.addresses.used(to).is_none() {
            // R-CLOSE-4, and with `auto` what the address proved is over (R-DISC-3).
            self.answered.remove(&to);
            if self.closing.len() >= REMEMBERED_MAX {
                self.closing.clear();
            }
            self.closing.insert(to, now + CLOSING_FOR);
        }
    }
}
