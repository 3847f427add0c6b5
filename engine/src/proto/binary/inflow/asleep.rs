//! The receiving half of a flow on which nothing has happened for a while: which datagrams and operations came
//! (R-FLOW-14).

use super::{Inflow, Inflows, Origin};
use crate::proto::binary::op_window::{self, OpWindow};
use crate::proto::binary::packet_ranges::{Arrival, PacketRanges};
use crate::proto::shares::Host;
use crate::units::Instant;
use crate::wire::binary::Bases;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(super) struct Asleep {
    packets: (u64, u64),
    messages: op_window::Folded,
    chunked: op_window::Folded,
    host: Host,
}

impl Inflows {
    /// Wakes a flow that sleeps. `None`: it does not.
    #[cold]
    #[inline(never)]
    pub(super) fn wake(&mut self, index: u32) -> Option<()> {
        let Asleep { packets, messages, chunked, host } = *self.asleep.get_mut(index as usize)?.take()?;
        // No word is awaited of an earlier one.
        self.incarnations = self.incarnations.wrapping_add(1);
        let origin = Origin { flow: index, incarnation: self.incarnations };
        // Long ago: nothing is acknowledged, nor granted, before something comes.
        let mut inflow = Inflow::new(Instant::default(), &Bases::default(), host, origin);
        inflow.packets = PacketRanges::unfold(packets);
        inflow.messages = OpWindow::unfold(messages, host);
        inflow.chunked = OpWindow::unfold(chunked, host);
        self.slots[index as usize] = Some(Box::new(inflow));
        Some(())
    }

    /// Whether a datagram of a flow that sleeps came before, or is too old to know.
    #[must_use]
    pub fn came_before(&self, index: u32, packet_number: u64) -> bool {
        let asleep = self.asleep.get(index as usize).and_then(Option::as_deref);
        asleep.is_some_and(|asleep| PacketRanges::unfold(asleep.packets).check(packet_number) != Arrival::New)
    }

    /// Nothing is half there or owed, no credit is held, and nothing came for `quiet`: all there is outlives
    /// [`sleep`](Self::sleep).
    #[must_use]
    pub fn may_sleep(&self, index: u32, now: Instant, quiet: Duration) -> bool {
        self.slots.get(index as usize).and_then(Option::as_deref).is_none_or(|inflow| {
            inflow.partials.is_empty()
                && inflow.undecided.is_empty()
                && inflow.lanes.as_ref().is_none_or(|lanes| lanes.is_empty())
                && inflow.results.is_empty()
                && !inflow.grant.is_held()
                && !inflow.grant.waits()
                && !inflow.ack_due
                && inflow.pong_due.is_none()
                && now.since(inflow.heard_at) >= quiet
        })
    }

    /// Keeps of a flow what has to outlive a pause, if it [may](Self::may_sleep). It wakes when it is looked at.
    pub fn sleep(&mut self, index: u32) {
        let Some(mut inflow) = self.slots.get_mut(index as usize).and_then(Option::take) else { return };
        let _ = inflow.partials.take(&mut self.shop.places); // There are none, but places.
        let Inflow { packets, messages, chunked, .. } = *inflow;
        if self.asleep.len() <= index as usize {
            self.asleep.resize_with(index as usize + 1, || None);
        }
        let host = chunked.host();
        let (messages, chunked) = (messages.fold(), chunked.fold());
        let asleep = Asleep { packets: packets.fold(), messages, chunked, host };
        self.asleep[index as usize] = Some(Box::new(asleep));
    }

    /// Flows of which that is kept.
    #[cfg(test)]
    #[must_use]
    pub fn asleep(&self) -> usize {
        self.asleep.iter().flatten().count()
    }
}
