//! One shard's ring: multishot receive into lent buffers, batches of sends that leave no trace, wake-ups,
//! sleep.
//!
//! Completions are only recorded when they are reaped; what they mean is acted on afterwards. Each operation in
//! flight is identified by kind, generation and index in `user_data`;
//! anything else is counted as stale and changes nothing.
//!
//! - **Receive**: one multishot RECVMSG. It ends for many reasons (a zero-length datagram, no buffer, a full
//!   completion queue, an error) and is armed again whenever a completion lacks F_MORE, provided that the
//!   kernel holds a buffer: armed without one it would end at once, and spin. Errors in a row are answered
//!   with a pause.
//! - **Wake**: one multishot POLL on the shard's eventfd. (And, when asked for, one POLLOUT on the socket.)
//! - **Send**: SENDMSG with MSG_DONTWAIT and CQE_SKIP_SUCCESS executes inside `enter`; only failures
//!   complete, and the payload is free when `enter` has taken the entries.
//!
//! Must be dropped on its thread, and outlive a panic of the shard: it belongs outside of `catch_unwind`.
//! Dropping cancels everything and waits for the final completions before the memory is unmapped; if the
//! kernel does not deliver them in [`DRAIN_TIMEOUT`], the memory is leaked rather than freed under the
//! kernel's hands.

mod kernel;
#[cfg(test)]
#[cfg(not(loom))]
mod model_tests;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated;

pub(crate) use kernel::{Kernel, Uring};

use super::buf_ring::BufRing;
use super::error::{OsError, errno_name};
use super::received::{RECV_HEADROOM_BYTES, RawDatagram, Reject};
use super::send_slots::SendSlots;
use super::socket::ShardSocket;
use super::wake::Wake;
use crate::train::TrainBatch;
use crate::units::Instant;
use io_uring::cqueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Sends per enter.
const SEND_SLOTS: usize = 128;
/// Errors in a row after which the receive is armed again only after a pause.
const RECEIVE_ERRORS_IN_A_ROW_MAX: u32 = 16;
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(1);
/// Times one enter may be refused for want of memory or queue space before the shard gives up.
const ENTER_TRIES_MAX: u32 = 10_000;
/// How long a drop waits for the kernel to let go.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingOptions {
    /// Completion queue.
    pub(crate) cq_entries: u32,
    /// Number of receive buffers.
    pub(crate) recv_buffers: u16,
    /// Longest datagram or train one of them holds.
    pub(crate) recv_buffer_bytes: usize,
}

/// What the ring counted. All cumulative.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingCounters {
    /// The receive found no buffer.
    pub(crate) out_of_buffers: u64,
    /// The receive was armed again.
    pub(crate) rearmed: u64,
    /// The receive failed.
    pub(crate) receive_errors: u64,
    /// Completions nobody waited for.
    pub(crate) stale_completions: u64,
    /// Sleeps.
    pub(crate) parks: u64,
}

/// What an operation is, as carried in `user_data`: kind (8) | generation (32) | index (24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Receive = 1,
    Wake = 2,
    Writable = 3,
    Send = 4,
}

const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 32;

fn token(kind: Kind, generation: u32, index: usize) -> u64 {
    assert!(index < 1 << INDEX_BITS);
    (kind as u64) << (INDEX_BITS + GENERATION_BITS) | u64::from(generation) << INDEX_BITS | index as u64
}

/// Kind, generation, index.
fn decode_token(user_data: u64) -> Option<(Kind, u32, usize)> {
    let kind = match user_data >> (INDEX_BITS + GENERATION_BITS) {
        1 => Kind::Receive,
        2 => Kind::Wake,
        3 => Kind::Writable,
        4 => Kind::Send,
        _ => return None,
    };
    Some((kind, (user_data >> INDEX_BITS) as u32, user_data as usize & ((1 << INDEX_BITS) - 1)))
}

/// An operation of which at most one is in flight.
#[derive(Clone, Copy, Debug, Default)]
struct Single {
    in_flight: bool,
    generation: u32,
}

impl Single {
    /// Starts it; the token's generation.
    fn start(&mut self) -> u32 {
        assert!(!self.in_flight);
        self.in_flight = true;
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Whether a completion is of this operation; the last one ends it.
    fn accept(&mut self, generation: u32, more: bool) -> bool {
        let ours = self.in_flight && generation == self.generation;
        self.in_flight &= !ours || more;
        ours
    }
}

/// Bytes received into a buffer and not yet handed over.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    buffer: u16,
    bytes: usize,
}

/// Everything a completion may change.
struct State {
    buffers: BufRing,
    receive: Single,
    wake: Single,
    writable: Single,
    /// At most one entry per buffer.
    arrived: VecDeque<Arrived>,
    send_generation: u32,
    /// Trains of the current send, with errno; at most one per slot.
    send_failures: Vec<(usize, i32)>,
    receive_errors_in_a_row: u32,
    /// It fails again and again, and is armed no more before a pause.
    receive_tires: bool,
    receive_not_before: Option<Instant>,
    /// The eventfd was written, or a wanted socket became writable, and the shard does not know yet.
    woken: bool,
    became_writable: bool,
    counters: RingCounters,
}

/// See the module documentation. Not `Send`.
pub(crate) struct Ring<K: Kernel> {
    // Dropped first: closes the ring, after `Drop` drained it and before the buffers are unmapped.
    kernel: K,
    state: State,
    slots: SendSlots,
    want_writable: bool,
    /// Sends may be queued whose trains are gone: a panic came in between.
    transmitting: bool,
}

impl Ring<Uring> {
    /// Builds a ring on the calling thread, which is the only one that may use it, and arms the receive and
    /// the wake-up.
    pub(crate) fn new(
        socket: Arc<ShardSocket>,
        wake: Arc<Wake>,
        options: &RingOptions,
    ) -> Result<Self, OsError> {
        Self::over(Uring::new(socket, wake, options)?, options)
    }
}

impl<K: Kernel> Ring<K> {
    /// The same, over any kernel.
    pub(crate) fn over(mut kernel: K, options: &RingOptions) -> Result<Self, OsError> {
        let buffers = BufRing::new(options.recv_buffers, options.recv_buffer_bytes + RECV_HEADROOM_BYTES)?;
        let (address, entries) = buffers.registration();
        // SAFETY: the entries are page-aligned memory of `buffers`, as are the buffers they name; `state` keeps both until
        // `Drop` has unregistered them or leaks them.
        unsafe { kernel.register_buffers(address, entries) }?;
        let slots = SendSlots::new(SEND_SLOTS, kernel.is_v6());
        let state = State::new(buffers, options.recv_buffers);
        let mut ring = Self { kernel, state, slots, want_writable: false, transmitting: false };
        ring.rearm();
        ring.state.counters.rearmed = 0; // That was the first time.
        match ring.kernel.enter(false) {
            Ok(_) => Ok(ring),
            Err(errno) => Err(OsError::new("io_uring_enter", errno, "use driver = mmsg")),
        }
    }

    /// The kernel it stands on.
    pub(crate) fn kernel(&self) -> &K {
        &self.kernel
    }

    /// Something is here that was not handed over.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn has_arrived(&self) -> bool {
        !self.state.arrived.is_empty()
    }

    /// What the ring counted.
    pub(crate) fn counters(&self) -> RingCounters {
        self.state.counters
    }

    /// Hands the oldest arrived datagram to `take`; `None` if none is here. Asks the kernel for nothing.
    pub(crate) fn next_arrived<T>(
        &mut self,
        take: impl FnOnce(Result<RawDatagram<'_>, Reject>) -> T,
    ) -> Option<T> {
        if self.state.arrived.is_empty() {
            self.reap();
        }
        let Arrived { buffer, bytes } = self.state.arrived.pop_front()?;
        let taken = take(RawDatagram::from_multishot(self.state.buffers.bytes(buffer, bytes)));
        self.state.buffers.recycle(buffer);
        Some(taken)
    }

    /// After a run of [`next_arrived`](Self::next_arrived): gives the buffers back to the kernel and, if it
    /// has more, or the receive must be armed again, asks for it. False if there is nothing to ask for, which
    /// costs no system call.
    pub(crate) fn fetch(&mut self) -> bool {
        self.give_back();
        if self.kernel.queued() == 0 && !self.kernel.work_waits() {
            return false;
        }
        self.enter(true);
        true
    }

    /// After a run of [`next_arrived`](Self::next_arrived) that is not followed by [`fetch`](Self::fetch).
    pub(crate) fn give_back(&mut self) {
        self.state.buffers.lend();
        self.rearm();
    }

    /// Sends every train, in order, without blocking; `failed` hears of those that did not leave, ascending.
    /// The kernel holds no reference to the batch afterwards. Once it has panicked, nothing leaves any more.
    pub(crate) fn transmit(&mut self, batch: &TrainBatch, mut failed: impl FnMut(usize, i32)) {
        if self.transmitting {
            // Sends of then may still be queued, and would be submitted with those of now.
            return (0..batch.trains().len()).for_each(|train| failed(train, libc::ECANCELED));
        }
        self.transmitting = true;
        let mut first = 0;
        while first < batch.trains().len() {
            if self.kernel.room() == 0 {
                self.submit_all(); // Only re-arms, in a tiny queue.
            }
            let count = self.kernel.room().min(self.slots.len()).min(batch.trains().len() - first);
            self.state.send_generation = self.state.send_generation.wrapping_add(1);
            for (slot, train) in batch.trains()[first..first + count].iter().enumerate() {
                self.slots.fill(slot, train, batch);
                self.push_send(slot);
            }
            self.submit_all();
            self.reap_everything();
            self.state.order_failures();
            for (slot, errno) in self.state.send_failures.drain(..) {
                if slot < count {
                    failed(first + slot, errno);
                } else {
                    self.state.counters.stale_completions += 1;
                }
            }
            first += count;
        }
        self.transmitting = false;
    }

    /// The next [`park`](Self::park) also ends when the socket can take more.
    pub(crate) fn want_writable(&mut self) {
        self.want_writable = true;
        self.state.became_writable = false;
        self.rearm();
    }

    /// Sleeps until a completion, the wake-up or `deadline`. May return early.
    pub(crate) fn park(&mut self, deadline: Option<Instant>) {
        // The eventfd counts only from here on: what was written before, the shard found in its inbox.
        self.state.woken = false;
        self.reap();
        self.give_back();
        if !self.state.arrived.is_empty()
            || self.state.woken
            || std::mem::take(&mut self.state.became_writable)
        {
            return;
        }
        let pause = self.state.receive_not_before;
        let deadline = [deadline, pause].into_iter().flatten().min();
        self.state.counters.parks += 1;
        match self.kernel.enter_and_wait(deadline) {
            Ok(_) | Err(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
            Err(errno) => fatal(errno),
        }
    }

    /// Queues whatever is due and not in flight.
    fn rearm(&mut self) {
        let Self { state, kernel, .. } = self;
        let may_start = !state.receive.in_flight && state.buffers.with_kernel_count() > 0;
        if may_start && state.receive_may_start(|| kernel.now()) {
            state.counters.rearmed += 1;
            kernel.push_receive(token(Kind::Receive, state.receive.start(), 0));
        }
        if !state.wake.in_flight {
            // Written and unread, the new poll would fire for ever. Whoever wrote it meant this shard.
            state.woken |= kernel.drain_wake();
            kernel.push_wake_poll(token(Kind::Wake, state.wake.start(), 0));
        }
        if self.want_writable && !state.writable.in_flight {
            self.want_writable = false;
            kernel.push_writable_poll(token(Kind::Writable, state.writable.start(), 0));
        }
    }

    fn push_send(&mut self, slot: usize) {
        let token = token(Kind::Send, self.state.send_generation, slot);
        // SAFETY: header, address, control data and iovec are in `slots`, at fixed addresses; the payload is
        // in the batch borrowed by `transmit`, which goes on only when all entries were taken. If it unwinds before,
        // `transmitting` stays: neither another `transmit` nor `drain` submits anything, and a shard that panicked does
        // nothing else with its ring.
        unsafe { self.kernel.push_send(&self.slots, slot, token) };
    }

    /// Enters until the kernel has taken every queued entry.
    fn submit_all(&mut self) {
        for _ in 0..ENTER_TRIES_MAX {
            // Deferred work is run on the way: it saves the next receive its own enter.
            let get_events = self.kernel.work_waits();
            self.enter(get_events);
            if self.kernel.queued() == 0 {
                return;
            }
            self.reap();
        }
        fatal(libc::EAGAIN);
    }

    fn enter(&mut self, get_events: bool) {
        match self.kernel.enter(get_events) {
            Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => {}
            Err(errno) => fatal(errno),
        }
    }

    /// Records what has completed.
    fn reap(&mut self) {
        let Self { kernel, state, .. } = self;
        kernel.reap(|user_data, result, flags| state.record(user_data, result, flags));
    }

    /// The same, including what did not fit into the completion queue.
    fn reap_everything(&mut self) {
        self.reap();
        for _ in 0..ENTER_TRIES_MAX {
            if !self.kernel.overflowed() {
                return;
            }
            self.enter(true);
            self.reap();
        }
        fatal(libc::EBUSY);
    }

    /// Takes everything back from the kernel. False if it did not let go.
    fn drain(&mut self) -> bool {
        let deadline = self.kernel.now() + DRAIN_TIMEOUT;
        // What was armed and not submitted would be waited for in vain.
        for _ in 0..ENTER_TRIES_MAX {
            if self.transmitting || self.kernel.queued() == 0 {
                break;
            }
            let _ = self.kernel.enter(false);
        }
        self.kernel.cancel_all();
        loop {
            self.reap();
            let state = &self.state;
            if !state.receive.in_flight && !state.wake.in_flight && !state.writable.in_flight {
                return true;
            }
            if self.kernel.now() >= deadline {
                return false;
            }
            // Sends that are queued but were never submitted must not be: after a panic they may point anywhere.
            match self.kernel.enter_without_submitting(deadline) {
                Ok(_) | Err(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => {}
                Err(_) => return false,
            }
        }
    }
}

impl State {
    /// Nothing is in flight, and nothing has come.
    fn new(buffers: BufRing, count: u16) -> Self {
        Self {
            arrived: VecDeque::with_capacity(usize::from(count)),
            buffers,
            receive: Single::default(),
            wake: Single::default(),
            writable: Single::default(),
            send_generation: 0,
            send_failures: Vec::with_capacity(SEND_SLOTS),
            receive_errors_in_a_row: 0,
            receive_tires: false,
            receive_not_before: None,
            woken: false,
            became_writable: false,
            counters: RingCounters::default(),
        }
    }

    fn receive_may_start(&mut self, now: impl Fn() -> Instant) -> bool {
        if std::mem::take(&mut self.receive_tires) {
            self.receive_not_before = Some(now() + RECEIVE_ERROR_PAUSE);
        }
        match self.receive_not_before {
            Some(instant) if now() < instant => false,
            _ => {
                self.receive_not_before = None;
                true
            }
        }
    }

    fn record(&mut self, user_data: u64, result: i32, flags: u32) {
        let more = cqueue::more(flags);
        let known = match decode_token(user_data) {
            Some((Kind::Receive, generation, 0)) if self.receive.accept(generation, more) => {
                self.record_receive(result, flags);
                true
            }
            Some((Kind::Wake, generation, 0)) if self.wake.accept(generation, more) => {
                self.woken = true;
                true
            }
            Some((Kind::Writable, generation, 0)) if self.writable.accept(generation, more) => {
                self.became_writable = true;
                true
            }
            Some((Kind::Send, generation, slot)) if generation == self.send_generation && result < 0 => {
                self.send_failures.push((slot, -result));
                true
            }
            _ => false,
        };
        self.counters.stale_completions += u64::from(!known);
    }

    /// They complete in order, and once; nobody promises it.
    fn order_failures(&mut self) {
        let all = self.send_failures.len();
        self.send_failures.sort_unstable();
        self.send_failures.dedup_by_key(|(slot, _)| *slot);
        self.counters.stale_completions += (all - self.send_failures.len()) as u64;
    }

    fn record_receive(&mut self, result: i32, flags: u32) {
        let buffer = cqueue::buffer_select(flags);
        match (usize::try_from(result), buffer) {
            (Ok(bytes), Some(buffer)) if self.buffers.take(buffer) => {
                self.receive_errors_in_a_row = 0;
                self.arrived.push_back(Arrived { buffer, bytes });
            }
            (Err(_), Some(buffer)) if self.buffers.take(buffer) => {
                self.buffers.recycle(buffer);
                self.record_receive_error();
            }
            (_, Some(_)) => self.counters.stale_completions += 1, // A buffer the kernel did not hold.
            (Err(_), None) if result == -libc::ENOBUFS => {
                self.counters.out_of_buffers += 1;
                self.buffers.lend_more();
            }
            (Err(_), None) if result == -libc::ECANCELED => {}
            (_, None) => self.record_receive_error(),
        }
    }

    fn record_receive_error(&mut self) {
        self.counters.receive_errors += 1;
        self.receive_errors_in_a_row += 1;
        if self.receive_errors_in_a_row > RECEIVE_ERRORS_IN_A_ROW_MAX {
            self.receive_tires = true;
        }
    }
}

impl<K: Kernel> Drop for Ring<K> {
    fn drop(&mut self) {
        if !self.drain() {
            tracing::error!(
                "the kernel still holds receive buffers of a stopped shard: their memory is leaked"
            );
            self.state.buffers.leak();
            return;
        }
        self.kernel.unregister();
    }
}

/// The kernel refuses to work with this ring: the shard ends, and the engine reports why.
#[expect(clippy::panic, reason = "the shard catches it; there is no way to go on without a ring")]
fn fatal(errno: i32) -> ! {
    panic!("io_uring_enter -> {}: {}", errno_name(errno), std::io::Error::from_raw_os_error(errno));
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sys::clock::Clock;
    use crate::sys::socket::{SocketOptions, bind_group};
    use crate::test_support::{Guard, Watchdog, skip};

    const SMALL: RingOptions = RingOptions { cq_entries: 8, recv_buffers: 4, recv_buffer_bytes: 2048 };

    fn socket() -> Arc<ShardSocket> {
        bind_group(&SocketOptions::loopback()).unwrap().sockets.remove(0)
    }

    fn ring(socket: Arc<ShardSocket>) -> Option<Ring<Uring>> {
        if crate::sys::caps::probe_uring().is_err() {
            skip("io_uring");
            return None;
        }
        Some(Ring::new(socket, Arc::new(Wake::new().unwrap()), &SMALL).unwrap())
    }

    #[test]
    fn tokens_survive_the_round_trip_and_foreign_ones_are_refused() {
        let kinds = [Kind::Receive, Kind::Wake, Kind::Writable, Kind::Send];
        for (kind, generation, index) in kinds.map(|kind| (kind, u32::MAX - 1, (1 << INDEX_BITS) - 1)) {
            assert_eq!(decode_token(token(kind, generation, index)), Some((kind, generation, index)));
        }
        for foreign in [0, 42, u64::MAX, 5 << 56] {
            assert_eq!(decode_token(foreign), None);
        }
    }

    #[test]
    fn a_send_fails_once() {
        let Some(mut ring) = ring(socket()) else { return };
        let state = &mut ring.state;
        for (slot, errno) in [(7, libc::EAGAIN), (3, libc::EPERM), (7, libc::EAGAIN)] {
            state.record(token(Kind::Send, state.send_generation, slot), -errno, 0);
        }
        state.order_failures();
        assert_eq!(state.send_failures, [(3, libc::EPERM), (7, libc::EAGAIN)]);
        assert_eq!(state.counters.stale_completions, 1);
    }

    #[test]
    fn stale_completions_are_counted_and_change_nothing() {
        let Some(mut ring) = ring(socket()) else { return };
        let stale = [
            token(Kind::Receive, ring.state.receive.generation.wrapping_sub(1), 0),
            token(Kind::Wake, 77, 0),
            token(Kind::Send, ring.state.send_generation.wrapping_add(1), 3),
            0,
            u64::MAX,
        ];
        for user_data in stale {
            let entry = io_uring::opcode::Nop::new().build().user_data(user_data);
            // SAFETY: a no-op points to no memory.
            unsafe { ring.kernel.raw.push(&entry) };
        }
        ring.submit_all();
        ring.reap_everything();
        assert_eq!(ring.counters().stale_completions, 5);
        assert!(ring.state.receive.in_flight && ring.state.wake.in_flight && !ring.state.woken);
        assert_eq!(ring.state.buffers.with_kernel_count(), 4);
    }

    /// A kernel may end the receive whenever it likes, and complete things late, in another order, or twice.
    #[test]
    fn a_receive_ends_and_completions_come_late_out_of_order_and_twice() {
        const OF_BUFFER: u32 = 1; // IORING_CQE_F_BUFFER; the buffer's number stands 16 bits higher.
        const MORE: u32 = 2; // IORING_CQE_F_MORE.
        let Some(mut ring) = ring(socket()) else { return };
        let state = &mut ring.state;
        state.send_generation = 7;
        for slot in [3, 0, 2] {
            state.record(token(Kind::Send, 7, slot), -libc::EAGAIN, 0);
        }
        state.record(token(Kind::Send, 6, 1), -libc::EIO, 0);
        state.send_failures.sort_unstable();
        assert_eq!(state.send_failures, [0, 2, 3].map(|slot| (slot, libc::EAGAIN)));
        assert_eq!(state.counters.stale_completions, 1, "of an enter that is over");

        let receive = token(Kind::Receive, state.receive.generation, 0);
        state.record(receive, 5, OF_BUFFER | 2 << 16 | MORE);
        state.record(receive, 6, OF_BUFFER | 1 << 16 | MORE);
        state.record(receive, 5, OF_BUFFER | 2 << 16 | MORE);
        let arrived: Vec<_> = state.arrived.iter().map(|arrived| (arrived.buffer, arrived.bytes)).collect();
        assert_eq!(arrived, [(2, 5), (1, 6)]);
        assert_eq!(state.counters.stale_completions, 2, "a buffer the kernel had given already");
        assert!(state.receive.in_flight);

        state.record(receive, -libc::ENOBUFS, 0);
        assert!(!state.receive.in_flight && state.counters.out_of_buffers == 1);
        state.record(receive, 7, OF_BUFFER | MORE);
        assert_eq!(state.counters.stale_completions, 3, "of a receive that has ended");
        assert_eq!(state.arrived.len(), 2);
        ring.give_back();
        assert!(ring.state.receive.in_flight && ring.counters().rearmed == 1);
        ring.state.record(receive, -libc::ENOBUFS, 0);
        assert!(ring.state.receive.in_flight, "the end of the one before");
    }

    /// An eventfd cannot be received from: every attempt fails at once.
    #[test]
    fn a_receive_that_always_fails_does_not_spin() {
        let wake = Wake::new().unwrap();
        let broken = ShardSocket::from_fd_for_test(wake.fd().try_clone_to_owned().unwrap());
        let Some(mut ring) = ring(broken) else { return };
        let (guard, _watchdog) = (Guard::new("errors in a row"), Watchdog::new("the end of a pause"));
        while ring.state.receive_not_before.is_none() {
            guard.check();
            ring.fetch();
            assert!(ring.next_arrived(|_| ()).is_none());
        }
        let errors = ring.counters().receive_errors;
        assert_eq!(errors, u64::from(RECEIVE_ERRORS_IN_A_ROW_MAX) + 1);
        let fixed = Clock.now() + Duration::from_secs(3600);
        ring.state.receive_not_before = Some(fixed);
        for _ in 0..1000 {
            ring.fetch();
            ring.next_arrived(|_| ());
            ring.park(Some(Clock.now()));
        }
        assert_eq!(ring.counters().receive_errors, errors, "armed again during the pause");
        ring.state.receive_not_before = Some(Clock.now() + RECEIVE_ERROR_PAUSE);
        while ring.counters().receive_errors == errors {
            guard.check();
            ring.park(None); // No deadline: it is the end of the pause that ends the sleep.
            ring.next_arrived(|_| ());
        }
    }

    #[test]
    fn a_kernel_without_absolute_deadlines_gets_relative_ones() {
        let Some(mut ring) = ring(socket()) else { return };
        ring.kernel.raw.forget_abs_timer_for_test();
        let parks = ring.counters().parks;
        let deadline = Clock.now() + Duration::from_millis(2);
        ring.park(Some(deadline));
        assert!(Clock.now() >= deadline);
        ring.park(Some(Instant::default())); // Long past.
        assert_eq!(ring.counters().parks, parks + 2);
    }

    /// What it points to may be gone.
    #[test]
    fn what_a_panic_left_in_the_queue_is_never_submitted() {
        let Some(mut ring) = ring(socket()) else { return };
        ring.fetch();
        ring.reap_everything();
        ring.transmitting = true;
        let entry = io_uring::opcode::Nop::new().build().user_data(0);
        // SAFETY: a no-op points to no memory.
        unsafe { ring.kernel.raw.push(&entry) };
        let queued = ring.kernel.raw.queued();
        assert!(queued > 0);
        let mut batch = TrainBatch::new(64, 2, 1);
        for _ in 0..2 {
            batch.begin(ring.kernel.socket().local_addr(), None);
            assert!(batch.push(0, 8).is_some());
        }
        let mut failures = Vec::new();
        ring.transmit(&batch, |train, errno| failures.push((train, errno)));
        assert_eq!(failures, [0, 1].map(|train| (train, libc::ECANCELED)));
        assert!(ring.drain());
        assert_eq!((ring.kernel.raw.queued(), ring.counters().stale_completions), (queued, 0));
    }

    #[test]
    fn a_drained_ring_leaves_nothing_in_flight() {
        let Some(mut ring) = ring(socket()) else { return };
        ring.want_writable();
        ring.fetch();
        ring.park(Some(Instant::default()));
        assert!(ring.drain());
        assert_eq!(usize::from(ring.state.buffers.with_kernel_count()) + ring.state.arrived.len(), 4);
    }
}
