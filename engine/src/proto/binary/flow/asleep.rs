//! The sending half of a flow on which nothing has happened for a while, in a tenth of its memory (R-FLOW-14).
//!
//! What has to outlive a pause: who the peer is, which numbers come next, which are granted, what is known of the path.
//! What waits or is under way is none of it, since there is nothing; what the controller knew is out of date.

use super::{Flow, Guard, Identity, Opening, Phase, RETRANSMISSIONS_MAX};
use crate::proto::binary::{path_mtu, recovery};
use crate::proto::congestion::CongestionControl;
use crate::units::Instant;

/// See the module.
#[derive(Debug)]
pub struct Asleep {
    /// See [`Flow::identity`].
    pub identity: Identity,
    /// See [`Flow::nonce`].
    pub nonce: u64,
    /// See [`Flow::heard_at`].
    pub heard_at: Instant,
    permitted_at: Instant,
    opened_at: Instant,
    recovery: recovery::Folded,
    path_mtu: path_mtu::Folded,
    messages_next: u64,
    chunked_next: u64,
    /// Numbers granted and not used: messages, chunked messages.
    granted: [u32; 2],
    window: u32,
    guard: Option<Box<Guard>>,
    retransmissions: u16,
    messages_max: u8,
    /// Datagrams since the peer was told the lowest live numbers.
    since_low: u8,
}

impl Asleep {
    /// The key its datagrams are sealed with, where they are sealed.
    #[must_use]
    pub fn key_id(&self) -> Option<u32> {
        self.guard.as_ref()?.key_id()
    }

    /// What opens its datagrams, where they are sealed: it sleeps on, for somebody may have made them up.
    pub fn guard(&mut self) -> Option<&mut Guard> {
        self.guard.as_deref_mut()
    }

    /// First numbers not used yet: datagrams, messages, chunked messages.
    #[must_use]
    pub const fn next_numbers(&self) -> [u64; 3] {
        [self.recovery.next_number(), self.messages_next, self.chunked_next]
    }

    /// When it was last known that the peer speaks the binary wire.
    #[must_use]
    pub fn vouched_at(&self) -> Instant {
        self.heard_at.max(self.permitted_at)
    }

    /// The congestion window it had, bytes.
    #[must_use]
    pub const fn window_bytes(&self) -> u64 {
        self.window as u64
    }

    /// The flow, with another controller. `datagram_bytes`: see [`Opening`].
    #[must_use]
    pub fn wake<C>(
        self,
        now: Instant,
        datagram_bytes: usize,
        congestion: Box<dyn CongestionControl>,
    ) -> Flow<C> {
        let [packet_base, message_base, chunked_base] = self.next_numbers();
        let Self { identity, nonce, heard_at, .. } = self;
        let opening =
            Opening { identity, packet_base, message_base, chunked_base, datagram_bytes, congestion, nonce };
        let mut flow = Flow::new(now, opening);
        (flow.phase, flow.proven) = (Phase::Open, true);
        (flow.heard_at, flow.asked_at) = (heard_at, heard_at);
        (flow.permitted_at, flow.opened_at) = (self.permitted_at, self.opened_at);
        flow.recovery = recovery::Recovery::unfold(&self.recovery);
        flow.path_mtu = path_mtu::PathMtu::unfold(&self.path_mtu);
        flow.follow_path();
        let [messages, chunked] = self.granted.map(u64::from);
        flow.credit.messages = (message_base + messages).saturating_sub(1);
        flow.credit.chunked = (chunked_base + chunked).saturating_sub(1);
        flow.guard = self.guard;
        flow.retransmissions = self.retransmissions.into();
        flow.messages_max = self.messages_max.into();
        (flow.low_told_at, flow.low_told) = (packet_base.saturating_sub(self.since_low.into()), (0, 0));
        flow
    }
}

impl<C> Flow<C> {
    /// Nothing waits, is under way or is owed: all there is outlives [`sleep`](Self::sleep).
    pub fn may_sleep(&mut self, now: Instant) -> bool {
        self.phase == Phase::Open
            && self.proven
            && !self.suspended
            && !self.ready
            && !self.starved
            && self.is_idle()
            && !self.control_is_due()
            && !self.results_again
            && self.recovery.may_fold(now)
    }

    /// What is left of it, if it [may](Self::may_sleep). Credit for datagrams lapses, whatever its lease.
    #[must_use]
    pub fn sleep(self) -> Asleep {
        let granted = |highest: u64, next: u64| {
            u32::try_from(highest.saturating_add(1).saturating_sub(next)).unwrap_or(u32::MAX)
        };
        let [packet_next, messages_next, chunked_next] = self.next_numbers();
        Asleep {
            identity: self.identity,
            nonce: self.nonce,
            heard_at: self.heard_at,
            permitted_at: self.permitted_at,
            opened_at: self.opened_at,
            recovery: self.recovery.fold(),
            path_mtu: self.path_mtu.fold(),
            messages_next,
            chunked_next,
            granted: [
                granted(self.credit.messages, messages_next),
                granted(self.credit.chunked, chunked_next),
            ],
            window: self.window.min(u32::MAX.into()) as u32,
            guard: self.guard,
            retransmissions: self.retransmissions.min(RETRANSMISSIONS_MAX) as u16,
            messages_max: self.messages_max.min(u8::MAX.into()) as u8,
            since_low: packet_next.saturating_sub(self.low_told_at).min(u8::MAX.into()) as u8,
        }
    }
}
