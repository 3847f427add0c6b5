//! What a ring asks of the kernel, and how it asks io_uring.

use super::RingOptions;
use crate::sys::clock::Clock;
use crate::sys::error::OsError;
use crate::sys::received::{RECV_CONTROL_BYTES, RECV_NAME_BYTES};
use crate::sys::ring_raw::{BUFFER_GROUP, RawRing};
use crate::sys::send_slots::{SendSlots, empty_header};
use crate::sys::socket::ShardSocket;
use crate::sys::wake::Wake;
use crate::units::{Instant, UnixMicros};
use io_uring::{opcode, squeue, types};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// Smallest completion queue: the re-arms and a few sends must fit the submission queue of the same size.
const CQ_ENTRIES_MIN: u32 = 8;

/// Registered files.
const SOCKET: types::Fixed = types::Fixed(0);
const EVENTFD: types::Fixed = types::Fixed(1);

/// The kernel, as far as one ring is concerned: its queues, the socket it serves and the eventfd that wakes it. Two
/// implementations: [`Uring`], and for the simulator a kernel that [misbehaves](super::simulated).
///
/// An entry is queued by `push_*`, for which there must be room, and taken by the next enters. What completes comes out of
/// [`reap`](Self::reap) under the entry's token.
///
/// # Safety
/// A ring reads its buffers, and lets go of what it sends, on this word: a lent buffer is not touched once a completion has named
/// it; a header and what it points to are not read once an enter has taken their entry; nor is anything, once a receive's last
/// completion came, of its buffers.
pub(crate) unsafe trait Kernel {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock.
    fn unix_time(&self) -> UnixMicros;

    /// Whether the socket is one of IPv6.
    fn is_v6(&self) -> bool;

    /// Registers a ring of receive buffers: where its entries begin, and how many there are.
    ///
    /// # Safety
    /// The entries, and the buffers they name, must stay mapped until [`unregister`](Self::unregister), or for ever.
    unsafe fn register_buffers(&mut self, address: u64, entries: u16) -> Result<(), OsError>;

    /// Takes all registrations back. Nothing is in flight any more.
    fn unregister(&mut self);

    /// A multishot receive from the socket into the buffers lent.
    fn push_receive(&mut self, token: u64);

    /// A multishot poll of the eventfd.
    fn push_wake_poll(&mut self, token: u64);

    /// A poll for room in the socket.
    fn push_writable_poll(&mut self, token: u64);

    /// A send. It is over when an enter has taken it, and completes only if it fails.
    ///
    /// # Safety
    /// The message in this slot, and the train it was filled with, must stay valid until the entry was taken.
    unsafe fn push_send(&mut self, slots: &SendSlots, slot: usize, token: u64);

    /// Resets the eventfd; true if it had been written since the last time.
    fn drain_wake(&mut self) -> bool;

    /// Free places in the submission queue.
    fn room(&mut self) -> usize;

    /// Entries queued and not yet taken.
    fn queued(&mut self) -> u32;

    /// An enter that gets events will bring some. A plain load.
    fn work_waits(&mut self) -> bool;

    /// Completions are kept that did not fit into the queue.
    fn overflowed(&mut self) -> bool;

    /// Submits what is queued and, with `get_events`, runs deferred completions. Does not wait. Returns how many entries were
    /// taken, or the errno.
    fn enter(&mut self, get_events: bool) -> Result<u32, i32>;

    /// Submits what is queued and sleeps until there is a completion or `deadline` passed.
    fn enter_and_wait(&mut self, deadline: Option<Instant>) -> Result<u32, i32>;

    /// Runs deferred completions without submitting anything, waiting for one at most until `deadline`.
    fn enter_without_submitting(&mut self, deadline: Instant) -> Result<u32, i32>;

    /// Asks for everything in flight to end. The final completions follow.
    fn cancel_all(&mut self);

    /// Hands what has completed to `record`: token, result, flags.
    fn reap(&mut self, record: impl FnMut(u64, i32, u32));

    /// Sleeps until the socket can take more, for at most `timeout`.
    fn wait_writable(&self, timeout: Duration);
}

/// The kernel through io_uring. Not `Send`.
pub(crate) struct Uring {
    pub(super) raw: RawRing,
    /// Sizes of name and control data for the receive.
    receive_header: Box<libc::msghdr>,
    /// Kept open while the ring refers to it.
    socket: Arc<ShardSocket>,
    wake: Arc<Wake>,
}

impl Uring {
    /// Builds one on the calling thread, which is the only one that may use it.
    pub(super) fn new(
        socket: Arc<ShardSocket>,
        wake: Arc<Wake>,
        options: &RingOptions,
    ) -> Result<Self, OsError> {
        let raw = RawRing::new(options.cq_entries.max(CQ_ENTRIES_MIN))?;
        let fds = [socket.fd().as_raw_fd(), wake.fd().as_raw_fd()];
        raw.io().submitter().register_files(&fds).map_err(failed("io_uring_register files"))?;
        let mut receive_header = Box::new(empty_header().msg_hdr);
        receive_header.msg_namelen = RECV_NAME_BYTES as u32;
        receive_header.msg_controllen = RECV_CONTROL_BYTES;
        Ok(Self { raw, receive_header, socket, wake })
    }

    /// The socket it serves.
    #[cfg(test)]
    pub(super) fn socket(&self) -> &ShardSocket {
        &self.socket
    }
}

fn failed(call: &'static str) -> impl Fn(std::io::Error) -> OsError {
    move |error| OsError::from_io(call, &error, "needs Linux 6.1 or newer; use driver = mmsg")
}

// SAFETY: io_uring keeps these promises (io_uring_enter(2), and `IO_URING.md`).
unsafe impl Kernel for Uring {
    fn now(&self) -> Instant {
        Clock.now()
    }

    fn unix_time(&self) -> UnixMicros {
        Clock.unix_time()
    }

    fn is_v6(&self) -> bool {
        self.socket.is_v6()
    }

    unsafe fn register_buffers(&mut self, address: u64, entries: u16) -> Result<(), OsError> {
        let submitter = self.raw.io().submitter();
        // SAFETY: passed on to the caller.
        let done = unsafe { submitter.register_buf_ring_with_flags(address, entries, BUFFER_GROUP, 0) };
        done.map_err(failed("io_uring_register buffer ring"))
    }

    fn unregister(&mut self) {
        let submitter = self.raw.io().submitter();
        // Neither can fail on what was registered; if one did, closing the ring does the same.
        let _ = submitter.unregister_buf_ring(BUFFER_GROUP);
        let _ = submitter.unregister_files();
    }

    fn push_receive(&mut self, token: u64) {
        let header = std::ptr::from_ref(&*self.receive_header);
        let entry =
            opcode::RecvMsgMulti::new(SOCKET, header, BUFFER_GROUP).flags(libc::MSG_TRUNC.cast_unsigned());
        // SAFETY: the header is boxed and lives as long as the ring; it is read when the entry is taken. Where the kernel
        // writes, `register_buffers` was told.
        unsafe { self.raw.push(&entry.build().user_data(token)) };
    }

    fn push_wake_poll(&mut self, token: u64) {
        let entry = opcode::PollAdd::new(EVENTFD, libc::POLLIN.cast_unsigned().into()).multi(true);
        // SAFETY: a poll points to no memory.
        unsafe { self.raw.push(&entry.build().user_data(token)) };
    }

    fn push_writable_poll(&mut self, token: u64) {
        let entry = opcode::PollAdd::new(SOCKET, libc::POLLOUT.cast_unsigned().into());
        // SAFETY: a poll points to no memory.
        unsafe { self.raw.push(&entry.build().user_data(token)) };
    }

    #[inline]
    unsafe fn push_send(&mut self, slots: &SendSlots, slot: usize, token: u64) {
        let entry =
            opcode::SendMsg::new(SOCKET, slots.header(slot)).flags(libc::MSG_DONTWAIT.cast_unsigned());
        let entry = entry.build().flags(squeue::Flags::SKIP_SUCCESS);
        // SAFETY: MSG_DONTWAIT makes the send finish inside the enter that takes the entry; until then the caller vouches.
        unsafe { self.raw.push(&entry.user_data(token)) };
    }

    fn drain_wake(&mut self) -> bool {
        self.wake.drain()
    }

    fn room(&mut self) -> usize {
        self.raw.room()
    }

    fn queued(&mut self) -> u32 {
        self.raw.queued()
    }

    #[inline]
    fn work_waits(&mut self) -> bool {
        self.raw.work_waits()
    }

    fn overflowed(&mut self) -> bool {
        self.raw.overflowed()
    }

    fn enter(&mut self, get_events: bool) -> Result<u32, i32> {
        self.raw.enter(get_events)
    }

    fn enter_and_wait(&mut self, deadline: Option<Instant>) -> Result<u32, i32> {
        self.raw.enter_and_wait(deadline)
    }

    fn enter_without_submitting(&mut self, deadline: Instant) -> Result<u32, i32> {
        self.raw.enter_without_submitting(deadline)
    }

    fn cancel_all(&mut self) {
        self.raw.cancel_all();
    }

    #[inline]
    fn reap(&mut self, mut record: impl FnMut(u64, i32, u32)) {
        for completion in self.raw.completions() {
            record(completion.user_data(), completion.result(), completion.flags());
        }
    }

    fn wait_writable(&self, timeout: Duration) {
        self.socket.wait_writable(timeout);
    }
}
