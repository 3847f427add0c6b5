//! What leaves: trains behind the confirms, and what becomes of those that the kernel does not take.

use super::{NO_BUFFERS_WAIT, Shard};
use crate::proto::endpoint::Endpoint;
use crate::runtime::actor::App;
use crate::runtime::driver::Driver;
use crate::train::{Origin, Train};
use crate::units::Instant;

/// So many trains of data leave before the turn's confirms: each send costs its successors some microseconds.
const ANSWER_TRAINS_MAX: usize = 2;

impl<D: Driver, A: App> Shard<D, A> {
    /// Builds trains behind the confirms and sends everything. Returns the number of trains that left.
    pub(super) fn send(&mut self, now: Instant) -> usize {
        if self.batch.trains().is_empty() && (now >= self.retry_at || self.retry_at == Instant::FAR_FUTURE) {
            // What was left over of kept datagrams is sent anew; if nothing of it may leave yet, no sooner than that.
            self.blocked = false;
            self.retry_at = Instant::FAR_FUTURE;
            self.endpoint.outbound.rows.handle_unblocked(now);
        }
        if !self.blocked && self.endpoint.outbound.has_ready() {
            let confirms = self.batch.trains().len();
            let wall = self.driver.unix_time();
            self.endpoint.poll_trains(now, wall, &mut self.batch);
            // An answer does not wait behind the confirm of its question; bulk data lets confirms go first.
            if self.batch.trains().len() - confirms <= ANSWER_TRAINS_MAX {
                self.batch.send_first(confirms);
            }
        }
        let trains = self.batch.trains().len();
        if trains == 0 {
            return 0;
        }
        std::mem::swap(self.batch.lent(), self.endpoint.outbound.flows.lend());
        let unsent = self.transmit();
        std::mem::swap(self.batch.lent(), self.endpoint.outbound.flows.lend());
        if !self.blocked {
            self.endpoint.outbound.rows.handle_unblocked(now);
        }
        // What a full socket leaves over is no work done: the shard sleeps until it takes more.
        trains.saturating_sub(self.batch.trains().len() + unsent)
    }

    /// Hands the batch to the kernel; what a path refuses as a train goes again datagram by datagram, what finds the
    /// socket full stays for the next turn, except for datagrams their sender keeps: he sends them again. Returns the number
    /// of those trains.
    pub(super) fn transmit(&mut self) -> usize {
        self.failures.clear();
        self.driver.transmit(&self.batch, &mut self.failures);
        self.blocked = false;
        self.retry_at = Instant::FAR_FUTURE;
        if self.failures.is_empty() {
            self.batch.clear();
            return 0;
        }
        let mut unsent = 0;
        let mut retry = std::mem::take(&mut self.retry);
        let (mut split, mut moved) = (Vec::new(), Vec::new());
        let mut full = false;
        for index in 0..self.failures.len() {
            let failure = self.failures[index];
            let Some(train) = self.batch.trains().get(failure.train).copied() else { continue };
            if failure.errno == libc::EMSGSIZE && self.handle_too_long(&train) {
                self.endpoint.counters.datagrams_given_back += train.segments as u64;
                continue;
            }
            match failure.errno {
                errno @ (libc::EAGAIN | libc::ENOBUFS) => {
                    self.endpoint.counters.sends_blocked += 1;
                    self.blocked = true;
                    full |= errno == libc::EAGAIN;
                    match train.origin {
                        None => retry.push(failure.train),
                        // Until the socket takes more, the sender may change or release them.
                        Some(origin) => {
                            unsent += 1;
                            self.give_back(origin, train.segments);
                        }
                    }
                }
                libc::EIO | libc::EINVAL | libc::EMSGSIZE if train.segments > 1 => {
                    self.endpoint.counters.trains_split += 1;
                    retry.push(failure.train);
                    split.push(train.to);
                }
                // The source address is not ours any more: the route chooses another, and GSO was not to blame.
                libc::EINVAL | libc::ENETUNREACH | libc::EADDRNOTAVAIL if train.local.is_some() => {
                    self.endpoint.counters.sources_changed += 1;
                    self.endpoint.outbound.rows.forget_local(train.to);
                    self.endpoint.outbound.flows.forget_local(train.to);
                    self.batch.allow_gso(train.to);
                    retry.push(failure.train);
                    moved.push(train.to);
                }
                errno => {
                    // Its rows time out and are tried again, or their operations end at the deadline.
                    self.endpoint.counters.sends_refused += 1;
                    self.endpoint.counters.refuse(errno, train.segments);
                    tracing::debug!(errno, to = %train.to, "the kernel refused a datagram");
                }
            }
        }
        for &to in &split {
            if self.batch.refuse_gso(to) {
                tracing::info!(%to, "the path refuses UDP GSO; sending datagram by datagram");
            }
        }
        if self.blocked {
            // Kept datagrams do not stay in the batch from turn to turn: their sender may change or release them.
            retry.retain(|&index| {
                let Some(&Train { origin, segments, .. }) = self.batch.trains().get(index) else {
                    return false;
                };
                let Some(origin) = origin else { return true };
                unsent += 1;
                self.give_back(origin, segments);
                false
            });
        }
        self.batch.retain_for_retry(&retry, |train| {
            if moved.contains(&train.to) {
                train.local = None;
            }
            split.contains(&train.to)
        });
        retry.clear();
        self.retry = retry;
        if self.blocked {
            self.endpoint.outbound.rows.handle_blocked(self.local.now);
            if full {
                self.driver.want_writable();
            }
            // A queue below the socket may be full while the socket says it is writable.
            self.retry_at = if full { Instant::FAR_FUTURE } else { self.local.now + NO_BUFFERS_WAIT };
        } else if !self.batch.trains().is_empty() {
            unsent += self.transmit();
        }
        unsent
    }

    /// Kept datagrams did not leave.
    fn give_back(&mut self, origin: Origin, segments: usize) {
        self.endpoint.counters.datagrams_given_back += segments as u64;
        self.endpoint.outbound.flows.handle_unsent(origin, segments);
    }

    /// EMSGSIZE: the interface's MTU is smaller than the train's datagrams. Their sender keeps them, and sends them again in
    /// shorter ones: another turn, not another try. False for rows, which nobody cuts: they go one by one, and are
    /// fragmented where the socket allows it.
    fn handle_too_long(&mut self, train: &Train) -> bool {
        let Some(origin) = train.origin.or(train.sealed) else { return false };
        let Endpoint { outbound, counters, .. } = &mut self.endpoint;
        let size = (train.segments, train.segment_bytes);
        if !outbound.flows.handle_too_long(self.local.now, origin, size, counters) {
            return false;
        }
        // Kernels before 6.14 say EINVAL of such a train, as where GSO is refused: that was not the reason.
        self.batch.allow_gso(train.to);
        true
    }
}
