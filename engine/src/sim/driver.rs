//! The drivers over the simulated network: one that takes datagrams from its sockets, and the one of production over a
//! simulated kernel. Time stands still during a turn.

use super::network::{Packet, SharedNetwork};
use super::v1_watch::Leg;
use crate::runtime::driver::{Driver, DriverCounters, Received, SendFailure};
use crate::runtime::uring_driver::UringDriver;
use crate::sys::ring::simulated::{Mishap, Net, Simulated};
use crate::sys::ring::{Ring, RingOptions};
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

/// Trains handed over per turn at most, as the real drivers bound it.
const TRAINS_PER_TURN: usize = 32;
/// The simulated wall clock at virtual time zero.
const UNIX_START_US: u64 = 1_764_000_000_000_000;

/// A shard's socket.
#[derive(Clone, Debug)]
struct Port {
    network: SharedNetwork,
    addr: SocketAddr,
    shard: usize,
}

impl Net for Port {
    fn now(&self) -> Instant {
        self.network.borrow().now()
    }

    fn unix_time(&self) -> UnixMicros {
        let network = self.network.borrow();
        let right = UNIX_START_US + network.now().as_ns() / 1_000;
        UnixMicros(right.saturating_add_signed(network.clock_offset_us(self.addr)))
    }

    fn has_packets(&self) -> bool {
        self.network.borrow().brings(self.addr, self.shard)
    }

    fn writable_at(&self) -> Instant {
        self.network.borrow().writable_at(self.addr)
    }

    fn take(&mut self) -> Option<(SocketAddr, Vec<u8>, usize)> {
        let Packet { from, bytes, segment_bytes } = self.network.borrow_mut().take(self.addr, self.shard)?;
        Some((from, bytes, segment_bytes))
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8], segment_bytes: usize) -> Option<i32> {
        self.network.borrow_mut().send(Leg { from: self.addr, to, bytes, segment_bytes })
    }

    fn happens(&mut self, mishap: Mishap) -> bool {
        self.network.borrow_mut().mishap(mishap)
    }

    fn below(&mut self, end: u32) -> u32 {
        self.network.borrow_mut().below(end)
    }
}

/// How a shard comes to its socket.
enum Way {
    /// `more`: the last receive handed over as much as it may.
    Direct {
        counters: DriverCounters,
        more: bool,
    },
    Ring(Box<UringDriver<Simulated<Port>>>),
}

/// See the module.
pub(crate) struct SimDriver {
    port: Port,
    way: Way,
}

impl SimDriver {
    /// One that takes datagrams from its socket.
    pub(crate) fn new(network: &SharedNetwork, addr: SocketAddr, shard: usize) -> Self {
        let port = Port { network: Rc::clone(network), addr, shard };
        Self { port, way: Way::Direct { counters: DriverCounters::default(), more: false } }
    }

    /// The driver of production, whose kernel is simulated.
    pub(crate) fn over_ring(
        network: &SharedNetwork,
        addr: SocketAddr,
        shard: usize,
        options: &RingOptions,
    ) -> Self {
        let port = Port { network: Rc::clone(network), addr, shard };
        let kernel = Simulated::new(port.clone(), options.cq_entries as usize);
        let ring = Ring::over(kernel, options).expect("a simulated ring");
        Self { port, way: Way::Ring(Box::new(UringDriver::over(ring))) }
    }

    /// Says when the kernel would wake the shard.
    fn note_next_event(&self) {
        let Way::Ring(driver) = &self.way else { return };
        let ring = driver.ring();
        let next = ring.kernel().next_event(ring.has_arrived());
        self.port.network.borrow_mut().set_ring_event((self.port.addr, self.port.shard), next);
    }
}

impl Driver for SimDriver {
    fn now(&mut self) -> Instant {
        self.port.now()
    }

    fn unix_time(&mut self) -> UnixMicros {
        self.port.unix_time()
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let Self { port, way } = self;
        let port = &*port;
        let mut hand_over = |received: Received<'_>| {
            let Received { from, bytes, segment_bytes, .. } = received;
            let leg = Leg { from, to: port.addr, bytes, segment_bytes };
            port.network.borrow_mut().handed_over(port.shard, leg);
            sink(received)
        };
        let (counters, more) = match way {
            Way::Direct { counters, more } => (counters, more),
            Way::Ring(driver) => {
                let count = driver.receive(hand_over);
                if count == 0 {
                    // Worlds never let a shard sleep; it looks around as if it went to.
                    driver.park(None);
                }
                self.note_next_event();
                return count;
            }
        };
        let mut count = 0;
        while count < TRAINS_PER_TURN {
            let Some(packet) = port.network.borrow_mut().take(port.addr, port.shard) else { break };
            count += 1;
            let Packet { from, bytes, segment_bytes } = &packet;
            let received = Received { from: *from, local: None, bytes, segment_bytes: *segment_bytes };
            if hand_over(received).is_break() {
                break;
            }
        }
        counters.trains_received += count as u64;
        *more = count == TRAINS_PER_TURN;
        count
    }

    fn may_have_more(&self) -> bool {
        match &self.way {
            Way::Direct { more, .. } => *more,
            Way::Ring(driver) => driver.may_have_more(),
        }
    }

    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>) {
        match &mut self.way {
            Way::Direct { counters, .. } => {
                for (index, train) in batch.trains().iter().enumerate() {
                    match self.port.send(train.to, &batch.bytes(train), train.segment_bytes) {
                        Some(errno) => failures.push(SendFailure { train: index, errno }),
                        None => {
                            counters.trains_sent += 1;
                            counters.segments_sent += train.segments as u64;
                        }
                    }
                }
            }
            Way::Ring(driver) => driver.transmit(batch, failures),
        }
        self.note_next_event();
    }

    fn want_writable(&mut self) {
        match &mut self.way {
            Way::Direct { .. } => self.port.network.borrow_mut().want_writable(self.port.addr),
            Way::Ring(driver) => driver.want_writable(),
        }
        self.note_next_event();
    }

    fn wait_writable(&mut self, _: Duration) {}

    fn park(&mut self, _: Option<Instant>) {}

    fn counters(&self) -> DriverCounters {
        match &self.way {
            Way::Direct { counters, .. } => *counters,
            Way::Ring(driver) => driver.counters(),
        }
    }
}
