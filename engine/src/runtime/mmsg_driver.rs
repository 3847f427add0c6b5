//! The [`Driver`] over epoll, recvmmsg and sendmmsg: where io_uring is not to be had, and the control group
//! beside it.
//!
//! Same meaning as the io_uring driver. `receive` makes at least one system call.

use super::driver::{Driver, DriverCounters, Received, SendFailure};
use super::uring_driver::{DriverOptions, count_sent, hand_over};
use crate::sys::clock::Clock;
use crate::sys::error::OsError;
use crate::sys::mmsg::Mmsg;
use crate::sys::socket::ShardSocket;
use crate::sys::wake::Wake;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// recvmmsg calls per `receive`.
const RECEIVE_ROUNDS_MAX: usize = 4;

/// See the module documentation.
pub(crate) struct MmsgDriver {
    mmsg: Mmsg,
    more: bool,
    counters: DriverCounters,
}

impl MmsgDriver {
    /// Call on the shard's own thread.
    pub(crate) fn new(
        socket: Arc<ShardSocket>,
        wake: Arc<Wake>,
        options: &DriverOptions,
    ) -> Result<Self, OsError> {
        let mmsg = Mmsg::new(socket, wake, options.recv_buffers.into(), options.recv_buffer_bytes)?;
        Ok(Self { mmsg, more: false, counters: DriverCounters::default() })
    }
}

impl Driver for MmsgDriver {
    fn now(&mut self) -> Instant {
        Clock.now()
    }

    fn unix_time(&mut self) -> UnixMicros {
        Clock.unix_time()
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let before = self.counters.trains_received;
        let counters = &mut self.counters;
        self.more = true;
        for round in 0..=RECEIVE_ROUNDS_MAX {
            while let Some(flow) = self.mmsg.next_arrived(|raw| hand_over(Ok(raw), counters, &mut sink)) {
                if flow.is_break() {
                    return (counters.trains_received - before) as usize;
                }
            }
            if round == RECEIVE_ROUNDS_MAX || !self.more {
                break;
            }
            self.more = self.mmsg.fetch();
        }
        (counters.trains_received - before) as usize
    }

    fn may_have_more(&self) -> bool {
        self.more
    }

    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>) {
        count_sent(batch, failures, &mut self.counters, |failed| self.mmsg.transmit(batch, failed));
    }

    fn want_writable(&mut self) {
        self.mmsg.want_writable();
    }

    fn wait_writable(&mut self, timeout: Duration) {
        self.mmsg.socket().wait_writable(timeout);
    }

    fn park(&mut self, deadline: Option<Instant>) {
        self.mmsg.park(deadline);
    }

    fn counters(&self) -> DriverCounters {
        let mmsg = self.mmsg.counters();
        DriverCounters { receive_errors: mmsg.receive_errors, parks: mmsg.parks, ..self.counters }
    }
}
