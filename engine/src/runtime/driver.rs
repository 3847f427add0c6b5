//! The seam between the loop and the network: everything the shard wants of a kernel, and nothing else.
//!
//! Three implementations: [`UringDriver`](super::uring_driver), [`MmsgDriver`](super::mmsg_driver) and, for the
//! simulator, `sim::SimDriver`. The driver is a type parameter of the shard: there is no dynamic call on the hot path.

use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::time::Duration;

/// One received datagram, or a GRO train of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    /// The sender; IPv4 peers on a dual-stack socket appear as IPv4.
    pub(crate) from: SocketAddr,
    /// The address it was sent to, on sockets bound to a wildcard; otherwise `None`.
    pub(crate) local: Option<IpAddr>,
    /// The payload. Empty for a zero-length datagram.
    pub(crate) bytes: &'a [u8],
    /// Length of every datagram in `bytes` but the last, which may be shorter. At least 1.
    pub(crate) segment_bytes: usize,
}

/// A train that did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendFailure {
    /// Its place in the batch.
    pub(crate) train: usize,
    /// The kernel's reason.
    pub(crate) errno: i32,
}

/// What the driver counted since it was built. All cumulative.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DriverCounters {
    /// Receives that brought a datagram or train.
    pub(crate) trains_received: u64,
    /// Trains that left.
    pub(crate) trains_sent: u64,
    /// Datagrams in them.
    pub(crate) segments_sent: u64,
    /// Datagrams longer than a receive buffer: dropped whole.
    pub(crate) truncated: u64,
    /// Datagrams whose control data was cut or whose source address made no sense: dropped.
    pub(crate) malformed: u64,
    /// Times the receive ran out of buffers (ENOBUFS); nothing is lost by it.
    pub(crate) out_of_buffers: u64,
    /// Times the multishot receive ended and was armed again.
    pub(crate) rearmed: u64,
    /// Receive errors other than those above.
    pub(crate) receive_errors: u64,
    /// Completions with a token nobody issued.
    pub(crate) stale_completions: u64,
    /// Times the thread slept.
    pub(crate) parks: u64,
    /// Packets the kernel had dropped when it handed over the last one.
    pub(crate) kernel_drops_told: u32,
}

/// The network and the clock, as one shard sees them.
pub(crate) trait Driver {
    /// The monotonic clock. The loop reads it once a turn.
    fn now(&mut self) -> Instant;

    /// The wall clock.
    fn unix_time(&mut self) -> UnixMicros;

    /// Hands over what has arrived, until nothing is left, an internal bound is reached or `sink` breaks; what was not
    /// handed over comes first in the next call. Never blocks. Returns the number of trains handed over.
    fn receive(&mut self, sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize;

    /// Whether the last [`receive`](Self::receive) ended at the driver's own bound: there may be more.
    fn may_have_more(&self) -> bool;

    /// Tries to send every train of the batch, in order, without blocking. Those that did not leave are appended to
    /// `failures`, ascending by train. When this returns the kernel holds no reference to the batch.
    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>);

    /// The socket refused with EAGAIN: the next [`park`](Self::park) also ends when it can take more.
    fn want_writable(&mut self);

    /// Sleeps until the socket can take more, for at most `timeout`, whatever else happens.
    fn wait_writable(&mut self, timeout: Duration);

    /// Sleeps until something arrived, the shard's wake-up eventfd was written, a wanted socket became writable, or
    /// `deadline` passed; `None` has no deadline. May return early for no reason.
    fn park(&mut self, deadline: Option<Instant>);

    /// Cumulative counters.
    fn counters(&self) -> DriverCounters;
}
