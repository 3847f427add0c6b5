//! The driver over the simulated network. Time stands still during a turn.

use super::network::SharedNetwork;
use crate::runtime::driver::{Driver, DriverCounters, Received, SendFailure};
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::net::SocketAddr;
use std::ops::ControlFlow;

/// Trains handed over per turn at most, as the real drivers bound it.
const TRAINS_PER_TURN: usize = 32;
/// The simulated wall clock at virtual time zero.
const UNIX_START_US: u64 = 1_764_000_000_000_000;

/// See the module.
pub(crate) struct SimDriver {
    pub(crate) network: SharedNetwork,
    pub(crate) addr: SocketAddr,
    pub(crate) shard: usize,
    pub(crate) counters: DriverCounters,
    /// The last receive handed over as much as it may.
    pub(crate) more: bool,
}

impl Driver for SimDriver {
    fn now(&mut self) -> Instant {
        self.network.borrow().now()
    }

    fn unix_time(&mut self) -> UnixMicros {
        let network = self.network.borrow();
        let right = UNIX_START_US + network.now().as_ns() / 1_000;
        UnixMicros(right.saturating_add_signed(network.clock_offset_us(self.addr)))
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let mut count = 0;
        while count < TRAINS_PER_TURN {
            let Some(packet) = self.network.borrow_mut().receive(self.addr, self.shard) else { break };
            count += 1;
            let received = Received {
                from: packet.from,
                local: None,
                bytes: &packet.bytes,
                segment_bytes: packet.segment_bytes,
            };
            if sink(received).is_break() {
                break;
            }
        }
        self.counters.trains_received += count as u64;
        self.more = count == TRAINS_PER_TURN;
        count
    }

    fn may_have_more(&self) -> bool {
        self.more
    }

    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>) {
        for (index, train) in batch.trains().iter().enumerate() {
            match self.network.borrow_mut().send(self.addr, train, batch) {
                Some(errno) => failures.push(SendFailure { train: index, errno }),
                None => {
                    self.counters.trains_sent += 1;
                    self.counters.segments_sent += train.segments as u64;
                }
            }
        }
    }

    fn want_writable(&mut self) {
        self.network.borrow_mut().want_writable(self.addr);
    }

    fn wait_writable(&mut self, _: std::time::Duration) {}

    fn park(&mut self, _: Option<Instant>) {}

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}
