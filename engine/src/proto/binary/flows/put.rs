//! Messages on their way in: which flow they go to, and whether they may go straight into its open datagram.

use super::{Flows, is_same};
use crate::observe::Counters;
use crate::options::Priority;
use crate::proto::binary::flow::{PROVEN_FOR, Phase, Queued, Shop};
use crate::proto::binary::op_ring::Meta;
use crate::proto::binary::source::Source;
use crate::proto::outbound::Submission;
use crate::units::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Counts what has been put as accepted, also where writing the next one panics.
struct Counted<'a, C> {
    before: usize,
    shop: &'a mut Shop<C>,
    counters: &'a mut Counters,
}

impl<C> Drop for Counted<'_, C> {
    fn drop(&mut self) {
        self.counters.messages_accepted += (self.shop.ops_in_use - self.before) as u64;
    }
}

impl<C> Flows<C> {
    /// Takes a message.
    ///
    /// # Errors
    /// Completion and payload back: no room for another operation, or for another flow.
    pub fn put<S: Source>(
        &mut self,
        now: Instant,
        to: SocketAddr,
        payload: S,
        (completion, tag, lifetime): (C, u64, Duration),
        counters: &mut Counters,
    ) -> Result<(), (C, S)> {
        if let Some(index) = self.takes_direct(&to, payload.len()) {
            let write = (payload.len(), |space: &mut [u8]| payload.write(space));
            self.put_direct(index, now, write, (completion, tag, Some(lifetime)), counters);
            return Ok(());
        }
        let index = match self.last {
            Some((last, index)) if last == to => index,
            _ => match self.find_or_open(now, to) {
                Some(index) => index,
                None => return Err((completion, payload)),
            },
        };
        self.put_to(index, now, payload, (completion, tag, Some(lifetime)), counters)
    }

    /// Whether messages to the address have a flow.
    #[must_use]
    pub fn has_place(&self, to: SocketAddr) -> bool {
        self.addresses.used(to).is_some()
    }

    /// The flow of the address put to last, if it is that one and speaks the binary wire.
    #[inline]
    #[must_use]
    pub fn engine_at(&self, now: Instant, to: SocketAddr) -> Option<u32> {
        let (last, index) = self.last?;
        let out = &self.slots.get(index as usize)?.as_ref()?.out;
        let proven = !out.lapses
            || (out.phase == Phase::Open && !out.suspended && now.since(out.vouched_at()) < PROVEN_FOR);
        (last == to && proven).then_some(index)
    }

    /// A message of that length to that address goes where the one before it went, into the same datagram or behind it in a
    /// queue: [`put_direct`](Self::put_direct) takes it.
    #[inline(always)]
    #[must_use]
    pub fn takes_direct(&self, to: &SocketAddr, payload_bytes: usize) -> Option<u32> {
        let (last, index) = self.last.as_ref()?;
        if !is_same(last, to)
            || payload_bytes > self.message_bytes_max()
            || self.shop.ops_in_use >= self.limits.ops_max
        {
            return None;
        }
        let out = &self.slots.get(*index as usize)?.as_ref()?.out;
        out.takes_direct(payload_bytes).then_some(*index)
    }

    /// Takes a message where [`takes_direct`](Self::takes_direct) said so. Without a lifetime: the default one.
    #[inline(always)]
    pub fn put_direct(
        &mut self,
        index: u32,
        now: Instant,
        (bytes, write): (usize, impl FnOnce(&mut [u8])),
        (completion, tag, lifetime): (C, u64, Option<Duration>),
        counters: &mut Counters,
    ) {
        let deadline = self.deadline(now, lifetime, bytes);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else { return };
        let meta = Meta { completion, tag, accepted_at: now, deadline };
        pair.out.put_direct(now, shop, (bytes, write), meta);
        counters.messages_accepted += 1;
    }

    /// As [`put_direct`](Self::put_direct), of messages of one length, with the default lifetime, for as long as the same is
    /// true of them. Returns how many, and whether there may be more.
    #[inline(always)]
    pub fn put_each_direct<F: FnOnce(&mut [u8])>(
        &mut self,
        index: u32,
        now: Instant,
        bytes: usize,
        messages: &mut impl Iterator<Item = (u64, F)>,
        (completion, counters): (impl Fn() -> C, &mut Counters),
    ) -> (usize, bool) {
        let deadline = self.deadline(now, None, bytes);
        let room = self.limits.ops_max.saturating_sub(self.shop.ops_in_use);
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else { return (0, true) };
        let meta = |tag| Meta { completion: completion(), tag, accepted_at: now, deadline };
        let counted = Counted { before: shop.ops_in_use, shop, counters };
        pair.out.put_each_direct(now, counted.shop, bytes, room, messages, meta)
    }

    #[inline(always)]
    pub(super) fn deadline(&self, now: Instant, lifetime: Option<Duration>, bytes: usize) -> Instant {
        match lifetime {
            Some(lifetime) => now + lifetime,
            None => Instant::from_ns(now.as_ns() + self.limits.lifetime_ns(bytes)),
        }
    }

    /// As [`put`](Self::put), on a flow that is known. Without a lifetime: the default one.
    ///
    /// # Errors
    /// Completion and payload back: no room for another operation.
    #[inline(always)]
    pub fn put_to<S: Source>(
        &mut self,
        index: u32,
        now: Instant,
        payload: S,
        (completion, tag, lifetime): (C, u64, Option<Duration>),
        counters: &mut Counters,
    ) -> Result<(), (C, S)> {
        if self.shop.ops_in_use >= self.limits.ops_max {
            return Err((completion, payload));
        }
        let deadline = self.deadline(now, lifetime, payload.len());
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Err((completion, payload));
        };
        let meta = Meta { completion, tag, accepted_at: now, deadline };
        pair.out.put(now, shop, payload, meta);
        counters.messages_accepted += 1;
        if !pair.out.ready {
            pair.out.ready = true;
            self.ready.push_back(index);
        }
        Ok(())
    }

    /// As [`put`](Self::put), for a message with options.
    ///
    /// # Errors
    /// The submission back, as `put`.
    pub fn put_with_options(
        &mut self,
        now: Instant,
        submission: Submission<C>,
        lifetime: Duration,
        counters: &mut Counters,
    ) -> Result<(), Submission<C>> {
        if self.room() == 0 {
            return Err(submission);
        }
        let Some(index) = self.find_or_open(now, submission.to) else { return Err(submission) };
        let Self { slots, shop, .. } = self;
        let Some(pair) = slots.get_mut(index as usize).and_then(Option::as_mut) else {
            return Err(submission);
        };
        let Submission { payload, tag, options, completion, .. } = submission;
        let meta = Meta { completion, tag, accepted_at: now, deadline: now + lifetime };
        let is_control = options.as_ref().is_some_and(|options| options.priority == Priority::Control);
        pair.out.put_with_options(now, shop, Queued { meta, payload, options });
        counters.messages_accepted += 1;
        if is_control && !pair.out.ready {
            // Its flow does not wait for others' turns (R-PRIORITY-2).
            pair.out.ready = true;
            self.ready.push_front(index);
        }
        self.make_ready(index);
        Ok(())
    }
}
