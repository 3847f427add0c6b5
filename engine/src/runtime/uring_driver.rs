//! The [`Driver`] over io_uring: what `sys::ring` does, in the words of the loop.
//!
//! Built on the shard's own thread and never leaves it. Costs per train received: a few loads, the parse of
//! its header and a buffer id written back; per train sent: one comparison and one queue entry. An idle call
//! to `receive` makes no system call. The traps are told in `sys::ring`.

use super::driver::{Driver, DriverCounters, Received, SendFailure};
use crate::sys::error::OsError;
use crate::sys::received::{RawDatagram, Reject};
use crate::sys::ring::{Kernel, Ring, RingOptions, Uring};
use crate::sys::socket::ShardSocket;
use crate::sys::wake::Wake;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Enters per `receive`: each brings at most 33 trains of one socket, so four of them empty the default
/// buffers.
const RECEIVE_ROUNDS_MAX: usize = 4;

/// Sizes of a driver. The defaults fit a shard with GRO.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriverOptions {
    /// Receive buffers. More than 32 are of no use to the mmsg driver.
    pub(crate) recv_buffers: u16,
    /// Completion queue; not used by the mmsg driver.
    pub(crate) cq_entries: u32,
    /// Payload one buffer holds. Below 64 KiB only without GRO: a train that does not fit is dropped.
    pub(crate) recv_buffer_bytes: usize,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self { recv_buffers: 128, cq_entries: 4096, recv_buffer_bytes: 64 << 10 }
    }
}

/// See the module documentation.
pub(crate) struct UringDriver<K: Kernel = Uring> {
    ring: Ring<K>,
    more: bool,
    counters: DriverCounters,
}

impl UringDriver<Uring> {
    /// Call on the shard's own thread: only the thread that built a ring may use it.
    pub(crate) fn new(
        socket: Arc<ShardSocket>,
        wake: Arc<Wake>,
        options: &DriverOptions,
    ) -> Result<Self, OsError> {
        let DriverOptions { recv_buffers, cq_entries, recv_buffer_bytes } = *options;
        let ring = Ring::new(socket, wake, &RingOptions { cq_entries, recv_buffers, recv_buffer_bytes })?;
        Ok(Self::over(ring))
    }
}

impl<K: Kernel> UringDriver<K> {
    /// Over a ring.
    pub(crate) fn over(ring: Ring<K>) -> Self {
        Self { ring, more: false, counters: DriverCounters::default() }
    }

    /// What it stands on.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn ring(&self) -> &Ring<K> {
        &self.ring
    }
}

impl<K: Kernel> Driver for UringDriver<K> {
    fn now(&mut self) -> Instant {
        self.ring.kernel().now()
    }

    fn unix_time(&mut self) -> UnixMicros {
        self.ring.kernel().unix_time()
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let before = self.counters.trains_received;
        let counters = &mut self.counters;
        let handed = |counters: &DriverCounters| (counters.trains_received - before) as usize;
        self.more = true;
        for round in 0..=RECEIVE_ROUNDS_MAX {
            while let Some(flow) = self.ring.next_arrived(|raw| hand_over(raw, counters, &mut sink)) {
                if flow.is_break() {
                    self.ring.give_back();
                    return handed(counters);
                }
            }
            if round == RECEIVE_ROUNDS_MAX {
                break;
            }
            self.more = self.ring.fetch();
            if !self.more {
                break;
            }
        }
        self.ring.give_back();
        handed(counters)
    }

    fn may_have_more(&self) -> bool {
        self.more
    }

    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>) {
        count_sent(batch, failures, &mut self.counters, |failed| self.ring.transmit(batch, failed));
    }

    fn want_writable(&mut self) {
        self.ring.want_writable();
    }

    fn wait_writable(&mut self, timeout: Duration) {
        self.ring.kernel().wait_writable(timeout);
    }

    fn park(&mut self, deadline: Option<Instant>) {
        self.ring.park(deadline);
    }

    fn counters(&self) -> DriverCounters {
        let ring = self.ring.counters();
        DriverCounters {
            out_of_buffers: ring.out_of_buffers,
            rearmed: ring.rearmed,
            receive_errors: ring.receive_errors,
            stale_completions: ring.stale_completions,
            parks: ring.parks,
            ..self.counters
        }
    }
}

/// Checks what arrived, counts it, and hands it to the loop. Shared with the mmsg driver.
pub(super) fn hand_over(
    raw: Result<RawDatagram<'_>, Reject>,
    counters: &mut DriverCounters,
    sink: &mut impl FnMut(Received<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match raw.and_then(RawDatagram::decode) {
        Ok(datagram) => {
            counters.trains_received += 1;
            counters.kernel_drops_told = datagram.kernel_drops;
            sink(Received {
                from: datagram.from,
                local: datagram.local,
                bytes: datagram.bytes,
                segment_bytes: datagram.segment_bytes,
            })
        }
        Err(Reject::Truncated) => {
            counters.truncated += 1;
            ControlFlow::Continue(())
        }
        Err(Reject::Malformed) => {
            counters.malformed += 1;
            ControlFlow::Continue(())
        }
    }
}

/// Runs a send and books what left and what did not. Shared with the mmsg driver.
pub(super) fn count_sent(
    batch: &TrainBatch,
    failures: &mut Vec<SendFailure>,
    counters: &mut DriverCounters,
    send: impl FnOnce(&mut dyn FnMut(usize, i32)),
) {
    let trains = batch.trains();
    let (mut unsent, mut unsent_segments) = (0, 0);
    send(&mut |train, errno| {
        failures.push(SendFailure { train, errno });
        unsent += 1;
        unsent_segments += trains[train].segments;
    });
    let segments: usize = trains.iter().map(|train| train.segments).sum();
    counters.trains_sent += (trains.len() - unsent) as u64;
    counters.segments_sent += (segments - unsent_segments) as u64;
}
