//! What rides along: acknowledgements of the other direction, LOW, CANCEL, SKIP, PING, and the asking for credit.

use super::{BESIDE_CANCEL_BYTES, Flow, GivenUp, LOW_AT_LEAST_EVERY, LOW_EVERY, Shop, later};
use crate::proto::binary::credit::KEPT;
use crate::proto::binary::packet_pool::Slot;
use crate::proto::binary::recovery::{Fate, Sent};
use crate::proto::binary::small_queue::SmallQueue;
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{LowFrame, PingFrame, Space, Writer};
use std::time::Duration;

impl<C> Flow<C> {
    /// Space at the end of the open datagram for frames that ride along; `None` if none is open. Returns what `write`
    /// wrote, with the ticket of results that were among it.
    pub fn ride_along(
        &mut self,
        shop: &mut Shop<C>,
        write: impl FnOnce(&mut Writer<'_>) -> Option<u32>,
    ) -> bool {
        let Some(open) = &mut self.open else { return false };
        let bytes = &mut shop.pool.bytes_mut(open.slot)[open.at..open.limit];
        let mut writer = Writer::new(bytes);
        match write(&mut writer) {
            Some(results_until) => {
                open.at += writer.at();
                open.results_until = later(open.results_until, results_until);
                self.results_tracked = later(self.results_tracked, results_until);
                true
            }
            None => false,
        }
    }

    /// The last datagram of this turn ends here.
    pub fn finish_turn(&mut self, now: Instant, shop: &mut Shop<C>) {
        self.close(now, shop, false);
    }

    /// Results have to reach the peer, and nothing else is going there: an empty datagram to carry them, whatever credit
    /// there is (R-CREDIT-6).
    pub fn open_for_control(&mut self, now: Instant, shop: &mut Shop<C>) -> bool {
        let full = self.datagram_bytes;
        self.open.is_some() || self.open_packet(now, shop, full, full).is_ok()
    }

    /// A PING is due.
    #[must_use]
    pub const fn ping_is_due(&self) -> bool {
        self.ping_due
    }

    /// Writes CANCEL, LOW and PING if they are due.
    pub fn write_control(&mut self, shop: &mut Shop<C>, now: Instant, waiting: u32) {
        let cancelled = !self.cancels.is_empty() && self.write_cancels(shop, now);
        let ping = std::mem::take(&mut self.ping_due);
        // What was cancelled may have been what held LOW back.
        let low_due = cancelled || self.recovery.next_number() >= self.low_told_at + LOW_EVERY;
        if ping && !self.open_for_control(now, shop) {
            self.ping_due = true;
            return;
        }
        if ping || low_due {
            let (low, number) = (self.low(), self.recovery.next_number());
            let nonce = self.nonce;
            let write = |writer: &mut Writer<'_>, ping: bool| {
                let low = writer.low(&LowFrame { messages: low.0, chunked: low.1 });
                (low && (!ping || writer.ping(&PingFrame { data: nonce, demand: waiting }))).then_some(0)
            };
            let mut written = self.ride_along(shop, |writer| write(writer, ping));
            let overdue = low != self.low_told && number >= self.low_told_at + LOW_AT_LEAST_EVERY;
            if !written && (ping || overdue) {
                // Under a flood the last datagram of a turn is full, like all others. LOW alone would not be acknowledged.
                self.close(now, shop, true);
                written =
                    self.open_for_control(now, shop) && self.ride_along(shop, |writer| write(writer, true));
            }
            if written {
                (self.low_told_at, self.low_told) = (number, low);
            }
            self.ping_due |= ping && !written;
        }
    }

    /// Tells the receiver what was given up, as much as one datagram takes beside LOW (R-CANCEL-1). False: no memory for it.
    #[cold]
    pub(super) fn write_cancels(&mut self, shop: &mut Shop<C>, now: Instant) -> bool {
        let kinds = [(false, binary::CANCEL_ENTRY_BYTES), (true, binary::SKIP_ENTRY_BYTES)];
        let has = |laned: bool| self.cancels.iter().any(|given_up| given_up.before.is_some() == laned);
        let kinds = kinds.map(|(laned, entry_bytes)| (laned, entry_bytes, has(laned)));
        // A frame of each kind there is.
        let least = |(_, entry_bytes, has)| if has { binary::FRAME_BYTES + entry_bytes } else { 0 };
        let mut behind = BESIDE_CANCEL_BYTES + kinds.map(least).iter().sum::<usize>();
        if self.open.is_some_and(|open| open.at + behind > open.limit) {
            self.close(now, shop, true);
        }
        if !self.open_for_control(now, shop) {
            return false;
        }
        for (laned, entry_bytes, _) in kinds.into_iter().filter(|kind| kind.2) {
            let is_it = |given_up: &GivenUp| given_up.before.is_some() == laned;
            let Some(open) = &self.open else { return false };
            behind -= binary::FRAME_BYTES + entry_bytes;
            let fit = (open.limit - open.at - binary::FRAME_BYTES - behind) / entry_bytes;
            let mut told = Vec::new();
            self.cancels.retain(|given_up| {
                let tells = is_it(given_up) && told.len() < fit;
                if tells {
                    told.push(*given_up);
                }
                !tells
            });
            let names = told.iter().map(|given_up| (Space::Chunked, given_up.seq));
            self.ride_along(shop, |writer| {
                let written = if laned {
                    let before = told.iter().map(|given_up| given_up.before.unwrap_or(0));
                    let entries: Vec<_> =
                        names.zip(before).map(|((space, seq), n)| (space, seq, n)).collect();
                    writer.skips(&entries)
                } else {
                    writer.cancels(&names.collect::<Vec<_>>())
                };
                written.then_some(0)
            });
        }
        true
    }

    /// Datagrams' worth of messages that wait: what we ask credit for.
    #[must_use]
    pub fn demand(&self) -> u32 {
        let classes = || self.classes.iter().flat_map(|classes| classes.queues());
        let small = || std::iter::once(&self.small).chain(classes().map(|queues| &queues.small));
        let large = self.large.iter().chain(classes().flat_map(|queues| &queues.large));
        let small_bytes: usize = small().map(SmallQueue::frames_bytes).sum();
        let large_bytes: usize = large.take(64).map(|next| next.payload.len()).sum();
        let some = usize::from(small().any(|queue| !queue.is_empty()));
        ((small_bytes + large_bytes) / self.datagram_bytes.max(1) + some) as u32
    }

    /// A PING or a CANCEL is to leave, or found no memory.
    #[must_use]
    pub const fn control_is_due(&self) -> bool {
        self.ping_due || !self.cancels.is_empty()
    }

    /// A datagram with results, or without any with PING, and whose bytes are not kept, leaves: if it is lost, what it
    /// carried goes again.
    pub fn track_results(&mut self, now: Instant, bytes: usize, results_until: u32) -> u64 {
        if self.recovery.in_flight_packets() == 0 && self.heard_at >= self.asked_at {
            self.asked_at = now;
        }
        let number = self.recovery.take_number(now, Fate::Open);
        self.recovery.sent(
            number,
            Sent {
                sent_at: now,
                rate: Default::default(),
                slot: Slot::NONE,
                bytes: bytes as u32,
                first_message: self.messages.next(),
                messages: 0,
                results_until,
                fate: Fate::InFlight,
                sparse: false,
                path_probe: false,
                probed: false,
            },
        );
        self.results_tracked = later(self.results_tracked, results_until);
        number
    }

    /// Asks for credit: at once, and then as probes are sent, backing off (R-CREDIT-5).
    pub fn ask_for_credit(&mut self, now: Instant) {
        self.asks = now < self.ping_at;
        if self.asks {
            return;
        }
        self.ping_due = true;
        // Whoever is told that there is none has his turn (R-CREDIT-3), and asks again only in case he did not hear of it.
        let least = if self.lacks_credit(now) { KEPT } else { Duration::ZERO };
        let wait = self.recovery.rtt().probe_timeout().max(least).saturating_mul(1 << self.pings.min(10));
        self.ping_at = now + wait.min(Duration::from_secs(1));
        self.pings += 1;
    }

    /// Asks for a PING with the next datagrams.
    pub fn want_ping(&mut self) {
        self.ping_due = true;
    }

    /// A datagram that carried results was lost, and they have not been heard of since.
    #[must_use]
    pub const fn take_results_again(&mut self) -> bool {
        std::mem::replace(&mut self.results_again, false)
    }

    /// What is said again leaves unwatched: once one may be watched, it is said in that.
    pub const fn forget_tracked(&mut self) {
        self.results_tracked = self.results_acked;
    }

    /// They did not leave, if they were to be said `again`.
    pub const fn want_results_again(&mut self, again: bool) {
        self.results_again |= again;
    }

    /// Whether a datagram that is watched has carried results up to this ticket.
    #[must_use]
    pub const fn has_tracked(&self, ticket: u32) -> bool {
        self.results_tracked.wrapping_sub(ticket).cast_signed() >= 0
    }
}
