//! Which wire an address speaks, and what is said to strangers (`PROTOCOL.md`, R-DISC, R-RESTART).

use super::{
    Arriving, COOKIE_BUCKET_SHIFT, Flows, KEPT_FOR_MIN, PLAIN_FOR, PROBE_WAIT, PROBES_MAX, Pair,
    REMEMBERED_MAX, Spilled, Standing, is_eliciting, is_other_start,
};
use crate::config::Wire;
use crate::error::FailureCause;
use crate::observe::Counters;
use crate::proto::binary::extras::needs_binary;
use crate::proto::binary::flow::{Identity, PROVEN_FOR, Phase, Queued};
use crate::proto::binary::inflow::Inflows;
use crate::train::TrainBatch;
use crate::units::Instant;
use crate::wire::binary::{HEADER_BYTES, Header, Kind, Writer};
use crate::wire::csv::{DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind};
use crate::wire::{DropReason, binary, csv};
use std::net::{IpAddr, SocketAddr};

impl<C> Flows<C> {
    /// A peer says that it does not know our flow any more. Believed only with the tag that nobody else can know
    /// (R-RESTART-3).
    pub(super) fn handle_reset(
        &mut self,
        now: Instant,
        from: SocketAddr,
        (tag, epoch): (u64, u32),
        inflows: &mut Inflows,
        counters: &mut Counters,
    ) -> Result<(), DropReason> {
        let named = self.flows_to(from).find(|&index| match self.slots[index as usize].as_deref() {
            Some(Pair { out, .. }) => out.phase == Phase::Open && out.proven && out.identity.peer_tag == tag,
            None => self.sleeper(index).is_some_and(|asleep| asleep.identity.peer_tag == tag),
        });
        let Some(index) = named else { return Err(DropReason::BinaryUnknownTag) };
        let Some(pair) = self.awake(now, index) else { return Err(DropReason::BinaryUnknownTag) };
        let restarted = is_other_start(pair.out.identity.peer_epoch, epoch);
        let cause = if restarted { FailureCause::PeerRestarted } else { FailureCause::TimedOut };
        if !restarted {
            // It heard nothing on this flow for longer than that before it forgot it.
            let since = Instant::from_ns(now.as_ns().saturating_sub(KEPT_FOR_MIN.as_nanos() as u64));
            let Self { slots, shop, .. } = self;
            if let Some(pair) = slots[index as usize].as_deref_mut() {
                pair.out.take_back(now, shop, since);
            }
        }
        self.replace(now, index, cause, inflows, counters);
        Ok(())
    }

    /// A tag nobody knows: the sender may talk to an earlier start of ours. He is told, if it costs no more than he sent
    /// (R-RESTART-2).
    pub(super) fn answer_unknown(
        &mut self,
        arriving: &Arriving<'_>,
        header: &Header,
        summary: &binary::Summary,
        batch: &mut TrainBatch,
    ) {
        const BYTES: usize = HEADER_BYTES + binary::FRAME_BYTES + 8;
        if summary.has(Kind::Close) {
            return; // It knows that the flow is over (R-CLOSE-2).
        }
        if self.is_stranger(arriving.now, arriving.from) {
            // Not a byte of the binary wire to a stranger; he may be asked with a row.
            let Arriving { now, from, local, datagram, .. } = *arriving;
            if is_eliciting(summary) {
                self.probe_stranger(now, from, local, datagram.len(), batch);
            }
            return;
        }
        // A RESULT, too, is the answer to something.
        let asks = is_eliciting(summary) && !summary.has(Kind::Result);
        if arriving.datagram.len() <= BYTES || !asks || !self.resets.has(arriving.now) {
            return;
        }
        batch.begin(arriving.from, arriving.local);
        let Some(space) = batch.push(header.route, BYTES) else { return };
        self.resets.spend();
        let own =
            Header { route: header.route, epoch: self.shop.epoch, packet_number: 0, tag: 0, sent_at: None };
        binary::write(space, &own);
        Writer::new(&mut space[HEADER_BYTES..]).reset(header.tag);
        binary::seal(space);
    }

    /// Whether an address without a flow must not be sent a byte of the binary wire: it may be an original v1 peer's.
    pub(super) fn is_stranger(&self, now: Instant, addr: SocketAddr) -> bool {
        let answered = self.answered.get(&addr).is_some_and(|&until| until > now);
        self.wires.of(addr) == Wire::Auto && (!answered || self.is_suspended(addr))
    }

    /// Whether the flow to an address rests until somebody there answers a row.
    pub(super) fn is_suspended(&self, addr: SocketAddr) -> bool {
        let index = self.addresses.used(addr);
        let pair = index.and_then(|index| self.slots.get(index as usize)?.as_deref());
        pair.is_some_and(|pair| pair.out.suspended)
    }

    /// What is known of an address of `auto`, without asking.
    pub fn standing(&mut self, now: Instant, to: SocketAddr) -> Standing {
        let index = match self.last {
            Some((last, index)) if last == to => Some(index),
            _ => self.addresses.used(to),
        };
        let Some(pair) = index.and_then(|index| self.awake(now, index)) else {
            let plain = self.plain.get(&to).is_some_and(|&until| until > now);
            return match self.is_closing(now, to) {
                true => Standing::Closing,
                false if plain => Standing::Plain,
                false => Standing::Unknown,
            };
        };
        let out = &mut pair.out;
        if out.phase == Phase::Open && now.since(out.vouched_at()) >= PROVEN_FOR {
            out.suspend(now);
        }
        let asks = out.suspended || out.phase == Phase::Probing;
        match index {
            Some(index) if asks && self.heard_beside(now, to, index).is_none() => Standing::Unknown,
            _ => Standing::Engine,
        }
    }

    /// Whether an address without a flow said a moment ago that it takes nothing more (R-CLOSE-4).
    #[must_use]
    pub fn is_closing(&self, now: Instant, to: SocketAddr) -> bool {
        !self.closing.is_empty() && self.closing.get(&to).is_some_and(|&until| until > now)
    }

    /// Asks an address what it is, unless that is under way.
    pub fn ask(&mut self, now: Instant, to: SocketAddr) {
        if let Some(index) = self.find_or_open(now, to) {
            self.make_ready(index);
        }
    }

    /// Takes a discovery row (R-DISC-2).
    pub fn handle_discovery(
        &mut self,
        now: Instant,
        (from, local): (SocketAddr, Option<IpAddr>),
        row: &Discovery,
        batch: &mut TrainBatch,
    ) {
        let DiscoveryKind::Answer { cookie } = row.kind else {
            batch.begin(from, local);
            let kind = DiscoveryKind::Answer { cookie: self.cookie(now, from) };
            if let Some(space) = batch.push(row.id as u8, DISCOVERY_ROW_BYTES) {
                csv::encode_discovery(space, &Discovery { kind, ..*row });
            }
            return;
        };
        let bucket = now.as_ns() >> COOKIE_BUCKET_SHIFT;
        if row.nonce == self.keyed(1, from, bucket)
            || row.nonce == self.keyed(1, from, bucket.wrapping_sub(1))
        {
            if self.answered.len() >= REMEMBERED_MAX {
                self.answered.clear();
            }
            self.answered.insert(from, now + PROVEN_FOR);
            // A flow that rests there asks at once: as long as it does not know, HELLOs from there are not answered.
            if let Some(index) = self.addresses.used(from)
                && let Some(pair) = self.pair(index)
                && pair.out.suspended
            {
                pair.out.hello_at = now;
                self.make_ready(index);
            }
            return;
        }
        let asked = |&index: &u32| {
            self.slots[index as usize].as_deref().is_some_and(|pair| pair.out.nonce == row.nonce)
        };
        let Some(index) = self.flows_to(from).find(asked) else { return };
        let Some(pair) = self.pair(index) else { return };
        let out = &mut pair.out;
        if out.phase == Phase::Opening && out.cookie != cookie {
            // Our HELLO is to be said again, with that (R-FLOW-12).
            out.cookie = cookie;
            out.hellos = 0;
            out.hello_at = now;
            return self.make_ready(index);
        }
        if !(out.phase == Phase::Probing || out.suspended) {
            return;
        }
        out.cookie = cookie;
        out.permitted_at = now;
        out.hellos = 0;
        out.hello_at = now;
        if out.phase == Phase::Probing {
            out.phase = Phase::Opening;
            out.opened_at = now;
        } else {
            // It speaks the binary wire; whether it still knows this flow, its answer under the tag will tell.
            out.want_ping();
        }
        out.suspended = false;
        self.make_ready(index);
    }

    /// A row that answers a HELLO with nothing but the cookie for its address.
    pub(super) fn answer_discovery(
        &mut self,
        now: Instant,
        (from, local): (SocketAddr, Option<IpAddr>),
        (route, nonce): (u8, u64),
        batch: &mut TrainBatch,
    ) {
        let id = (self.rng.next_u64() & !0xff) | u64::from(route);
        let asked = Discovery { id, nonce, kind: DiscoveryKind::Probe };
        self.handle_discovery(now, (from, local), &asked, batch);
    }

    /// Asks a stranger who sent a datagram of the binary wire: with a row, no longer than what he sent, and not often
    /// (R-DISC-4).
    pub(super) fn probe_stranger(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: Option<IpAddr>,
        bytes_max: usize,
        batch: &mut TrainBatch,
    ) {
        if bytes_max < DISCOVERY_ROW_BYTES || !self.resets.has(now) {
            return;
        }
        batch.begin(from, local);
        let nonce = self.keyed(1, from, now.as_ns() >> COOKIE_BUCKET_SHIFT);
        let route = self.draw_route();
        let id = (self.rng.next_u64() & !0xff) | u64::from(route);
        if let Some(space) = batch.push(route, DISCOVERY_ROW_BYTES) {
            self.resets.spend();
            csv::encode_discovery(space, &Discovery { id, nonce, kind: DiscoveryKind::Probe });
        }
    }

    /// Whether there are messages that are not to wait for a flow any longer.
    #[must_use]
    pub const fn has_spilled(&self) -> bool {
        !self.spilled.is_empty()
    }

    /// When the first of them expires.
    #[must_use]
    pub fn spilled_until(&self) -> Option<Instant> {
        self.spilled.iter().map(|message| message.meta.deadline).min()
    }

    /// These, for good.
    pub fn take_spilled(&mut self) -> Vec<Spilled<C>> {
        let spilled = std::mem::take(&mut self.spilled);
        self.shop.ops_in_use -= spilled.len();
        spilled
    }

    /// One of them found no room elsewhere: it has its place here again.
    pub fn keep_spilled(&mut self, message: Spilled<C>) {
        self.shop.ops_in_use += 1;
        self.spilled.push(message);
    }

    /// Writes a probe of a flow's peer. False if the batch is full.
    pub(super) fn send_probe(&mut self, now: Instant, index: u32, batch: &mut TrainBatch) -> bool {
        let Some(pair) = self.pair(index) else { return true };
        let out = &mut pair.out;
        let Identity { to, local, route, .. } = out.identity;
        let id = (out.nonce.rotate_left(29) & !0xff) | u64::from(route);
        batch.begin(to, local);
        let Some(space) = batch.push(route, DISCOVERY_ROW_BYTES) else { return false };
        csv::encode_discovery(space, &Discovery { id, nonce: out.nonce, kind: DiscoveryKind::Probe });
        out.hellos += 1;
        out.hello_at = now + PROBE_WAIT.saturating_mul(1 << (out.hellos - 1).min(8));
        let at = out.hello_at;
        self.timers.arm_earlier(index, at);
        true
    }

    /// A probe has not been answered in time: text goes as rows, and after the last one everything is decided (R-DISC-6).
    /// False if the flow is gone.
    pub(super) fn handle_silence(
        &mut self,
        now: Instant,
        index: u32,
        inflows: &mut Inflows,
        counters: &mut Counters,
        has_confirmed: &dyn Fn(SocketAddr, Instant) -> bool,
    ) -> bool {
        let Some(pair) = self.pair(index) else { return false };
        let to = pair.out.identity.to;
        if let Some(heir) = self.used_beside(to, index).or_else(|| self.heard_beside(now, to, index)) {
            return self.handle_silence_beside(now, index, heir, inflows, counters);
        }
        let Self { slots, shop, spilled, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_deref_mut) else { return false };
        let out = &mut pair.out;
        let last = out.hellos >= PROBES_MAX;
        let since = out.opened_at;
        out.take_waiting(
            |Queued { meta, payload, options }| {
                spilled.push(Spilled { to, payload, options, meta, since });
            },
            |Queued { payload, options, .. }| {
                let binary_only = options.as_deref().is_some_and(|options| needs_binary(options).is_some());
                last || (!binary_only && simdutf8::basic::from_utf8(payload).is_ok())
            },
        );
        if !last {
            return true;
        }
        let plain = has_confirmed(to, out.probed_at);
        if out.phase == Phase::Open
            && !plain
            && shop.heard_until.since(out.heard_at) < self.limits.give_up_after
        {
            return true; // Silent, but nobody else has answered in its place: it is asked on.
        }
        let cause = if plain { FailureCause::PeerRestarted } else { FailureCause::TimedOut };
        out.end_transmitted(shop, cause, counters);
        if self.plain.len() >= REMEMBERED_MAX {
            self.plain.clear();
        }
        self.plain.insert(to, now + PLAIN_FOR);
        self.remove(index, inflows);
        false
    }
}
