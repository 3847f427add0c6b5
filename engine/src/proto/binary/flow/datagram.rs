//! The open datagram, from the slot it takes to the number it leaves under; and those that stand alone: probes of the
//! path, and PINGs.

use super::{
    Blocked, DATAGRAM_BYTES_MIN, Flow, Identity, OpenPacket, PADDING_SHARE, SEARCH_STRIDE, Shop,
    UNSOLICITED_BYTES,
};
use crate::observe::Counters;
use crate::proto::binary::packet_pool::{PacketPool, Slot};
use crate::proto::binary::path_mtu::Probe;
use crate::proto::binary::recovery::{Fate, Sent};
use crate::units::Instant;
use crate::wire::binary;
use crate::wire::binary::{HEADER_BYTES, Header, LowFrame, PingFrame, Writer};

impl<C> Flow<C> {
    /// Writes a datagram that is not kept: `write` writes the frames, behind the header and as long as `space` has room,
    /// the tag not counted.
    pub fn write_lone(
        &mut self,
        (epoch, packet_number): (u32, u64),
        space: &mut [u8],
        write: impl FnOnce(&mut [u8]),
    ) {
        let Identity { route, peer_tag, .. } = self.identity;
        binary::write(space, &Header { route, epoch, packet_number, tag: peer_tag, sent_at: None });
        let end = space.len() - self.tag_bytes();
        write(&mut space[HEADER_BYTES..end]);
        match &mut self.guard {
            None => binary::seal(space),
            Some(guard) => guard.seal(packet_number, space),
        }
    }

    /// The open datagram has room for `bytes` more, or a new one is opened.
    #[inline]
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        bytes: usize,
    ) -> Result<(), Blocked> {
        if let Some(open) = &self.open {
            if open.at + bytes <= open.limit && open.messages < self.messages_max {
                return Ok(());
            }
            self.close(now, shop, true);
        }
        let limit = self.may_send(now)?;
        if HEADER_BYTES + bytes > limit {
            return Err(Blocked::Credit);
        }
        let held = self.recovery.in_flight_packets() as usize + self.lost.len();
        if !shop.pool.is_fair(held, self.datagram_bytes) {
            return Err(Blocked::Pool);
        }
        self.open_packet(now, shop, limit, self.datagram_bytes)
    }

    /// It was not told that it may send another datagram, or that was too long ago.
    pub(super) fn lacks_credit(&self, now: Instant) -> bool {
        self.recovery.next_number() > self.credit.packets || now >= self.credit.lease_until
    }

    /// Whether another datagram of new data may leave, and how long it may be (R-LOSS-8).
    pub(super) fn may_send(&mut self, now: Instant) -> Result<usize, Blocked> {
        let bytes = self.datagram_bytes as u64;
        if self.recovery.in_flight() + bytes > self.window && self.recovery.in_flight_packets() > 0 {
            return Err(Blocked::Window);
        }
        if self.lacks_credit(now) {
            // Without credit, one small datagram may be under way: it asks for more by arriving (R-CREDIT-4).
            let none = self.recovery.in_flight_packets() == 0;
            let limit = (UNSOLICITED_BYTES - self.tag_bytes()).min(self.datagram_bytes);
            return if none { Ok(limit) } else { Err(Blocked::Credit) };
        }
        if self.pacer.allowance(now) < bytes {
            return Err(Blocked::Until(self.pacer.next_at(bytes)));
        }
        Ok(self.datagram_bytes)
    }

    /// Opens a datagram of up to `limit` bytes in memory for `stride` (>= `limit`): datagrams of one stride are one piece.
    pub(super) fn open_packet(
        &mut self,
        now: Instant,
        shop: &mut Shop<C>,
        limit: usize,
        stride: usize,
    ) -> Result<(), Blocked> {
        let slot = shop.pool.acquire(stride).ok_or(Blocked::Pool)?;
        let number = self.recovery.take_number(now, Fate::Open);
        self.open = Some(OpenPacket {
            slot,
            number,
            at: HEADER_BYTES,
            limit,
            first_message: self.messages.next(),
            messages: 0,
            results_until: 0,
            sparse: false,
            path_probe: false,
            chunks: 0,
            start: shop.pool.range(slot).start,
            direct_until: 0,
            direct_messages: 0,
        });
        Ok(())
    }

    /// Ends the open datagram: its header, its checksum, and it is in flight. `more` says that another one follows it.
    pub(super) fn close(&mut self, now: Instant, shop: &mut Shop<C>, more: bool) {
        let Some(open) = self.open.take() else { return };
        if open.at == HEADER_BYTES {
            shop.pool.release(open.slot);
            self.recovery.close_unused(open.number);
            return;
        }
        let bytes = shop.pool.bytes_mut(open.slot);
        let mut len = open.at;
        // What is in use may have changed since it was opened.
        let full = self.datagram_bytes.min(bytes.len());
        if more && len < full && full - len <= full / PADDING_SHARE {
            bytes[len..full].fill(0);
            len = full;
        }
        if len < DATAGRAM_BYTES_MIN {
            bytes[len..DATAGRAM_BYTES_MIN].fill(0);
            len = DATAGRAM_BYTES_MIN;
        }
        let datagram = &mut bytes[..len];
        let Identity { route, peer_tag, .. } = self.identity;
        if self.recovery.in_flight_packets() == 0 && self.heard_at >= self.asked_at {
            self.asked_at = now;
        }
        let header =
            Header { route, epoch: shop.epoch, packet_number: open.number, tag: peer_tag, sent_at: None };
        binary::write(datagram, &header);
        if self.guard.is_none() {
            binary::seal(datagram); // Else a copy of it is, as it leaves (R-PROT-2).
        }
        self.recovery.sent(
            open.number,
            Sent {
                sent_at: now,
                rate: Default::default(),
                slot: open.slot,
                bytes: len as u32,
                first_message: open.first_message,
                messages: open.messages,
                results_until: open.results_until,
                fate: Fate::InFlight,
                sparse: open.sparse,
                path_probe: open.path_probe,
                probed: false,
            },
        );
        shop.turn_bytes += len;
        self.congestion.on_sent(now, len as u32, self.recovery.in_flight());
        self.pacer.on_sent(len as u64);
    }

    /// Sends what `path_mtu` wants to know the fate of: PING and LOW, and padding (R-MTU-3). Behind everything else of this
    /// turn; whatever credit and window there is (R-CREDIT-6).
    pub fn probe_path(&mut self, now: Instant, shop: &mut Shop<C>, counters: &mut Counters) {
        if !self.path_mtu.is_due(now) {
            return;
        }
        // Results have to get through as well, and may be long; but for them alone nothing is searched. Nor before a first grant:
        // the long probes of many who open at once would fill the receiver's buffer.
        let searches = self.granted && !self.has_no_operations();
        if !searches && self.recovery.in_flight_packets() == 0 {
            return;
        }
        self.close(now, shop, false);
        while let Some(probe) = self.path_mtu.poll(now) {
            if matches!(probe, Probe::Search(_)) && !searches {
                return;
            }
            let bytes = match probe {
                Probe::Search(bytes) | Probe::Full(bytes) => bytes.into(),
                Probe::Short => DATAGRAM_BYTES_MIN,
            };
            // A search tries many lengths: all of it is in blocks of its own, or data would be scattered.
            let stride = match probe {
                Probe::Search(_) => bytes.next_multiple_of(SEARCH_STRIDE),
                Probe::Full(_) | Probe::Short => self.datagram_bytes,
            };
            if self.open_packet(now, shop, bytes, stride).is_err() {
                // A search waits. But what is lost may be what has all the memory: a PING needs none, and whether it comes
                // through where that does not is what there is to find out (R-LOSS-11).
                self.ping_due |= self.path_mtu.give_up_confirmation();
                return;
            }
            let (low, ping) = (self.low(), PingFrame { data: self.nonce, demand: 0 });
            self.ride_along(shop, |writer| {
                let low = writer.low(&LowFrame { messages: low.0, chunked: low.1 });
                (low && writer.ping(&ping)).then_some(0)
            });
            let Some(open) = &mut self.open else { return };
            shop.pool.bytes_mut(open.slot)[open.at..bytes].fill(0);
            (open.at, open.path_probe) = (bytes, true);
            self.path_mtu.sent(probe, open.number);
            self.close(now, shop, false);
            counters.path_probes_sent += 1;
        }
    }

    /// A PING is due, and there is no memory left to keep it in: its frames, for a datagram of `bytes` bytes whose number is
    /// returned, and which is watched all the same (R-LOSS-11).
    pub fn write_lone_ping(
        &mut self,
        now: Instant,
        bytes: usize,
        waiting: u32,
        writer: &mut Writer<'_>,
    ) -> u64 {
        self.ping_due = false;
        let (messages, chunked) = self.low();
        let written = writer.low(&LowFrame { messages, chunked })
            && writer.ping(&PingFrame { data: self.nonce, demand: waiting });
        debug_assert!(written);
        writer.pad();
        self.track_results(now, bytes, 0)
    }

    /// The next datagram to be handed to the kernel: its number, where its bytes begin, how many there are.
    #[must_use]
    pub fn next_unsent(&mut self, pool: &PacketPool) -> Option<(u64, usize, usize)> {
        while self.first_unsent < self.recovery.next_number() {
            match self.recovery.get(self.first_unsent) {
                Some(sent) if sent.fate == Fate::InFlight && sent.slot != Slot::NONE => {
                    return Some((self.first_unsent, pool.range(sent.slot).start, sent.bytes as usize));
                }
                _ => self.first_unsent += 1,
            }
        }
        None
    }

    /// Bytes of the open datagram.
    #[inline]
    #[must_use]
    pub fn open_bytes(&self) -> usize {
        self.open.map_or(0, |open| open.at)
    }

    /// Whether a datagram is being filled.
    #[must_use]
    pub const fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// There is room in that one.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.open.is_some_and(|open| open.at + bytes <= open.limit && open.messages < self.messages_max)
    }

    /// That one leaves without credit (R-CREDIT-4).
    #[must_use]
    pub fn has_unsolicited(&self) -> bool {
        self.open.is_some_and(|open| open.limit <= UNSOLICITED_BYTES)
    }
}
