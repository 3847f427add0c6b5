//! The fallback: epoll, recvmmsg and sendmmsg on the same socket, with the same encoding of messages as the
//! ring.
//!
//! Differs from the ring in cost (a system call to learn that nothing has arrived, the wake-up counter is
//! read) and in one point of meaning: once the socket refuses a train with EAGAIN, the rest of the batch is
//! reported as refused without asking again, because it is the socket's buffer that is full.

use super::clock::Clock;
use super::error::{OsError, last_errno};
use super::received::{RECV_CONTROL_BYTES, RECV_NAME_BYTES, RawDatagram};
use super::send_slots::{SendSlots, empty_header};
use super::socket::ShardSocket;
use super::wake::Wake;
use crate::train::TrainBatch;
use crate::units::Instant;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Messages per recvmmsg.
pub(crate) const RECV_SLOTS_MAX: usize = 32;
/// Messages per sendmmsg.
const SEND_SLOTS: usize = 128;
/// Errors in a row after which the socket is left alone for a while.
const RECEIVE_ERRORS_IN_A_ROW_MAX: u32 = 16;
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(1);

const TOKEN_SOCKET: u64 = 0;
const TOKEN_WAKE: u64 = 1;

/// What was counted. All cumulative.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MmsgCounters {
    /// recvmmsg failed.
    pub(crate) receive_errors: u64,
    /// Sleeps.
    pub(crate) parks: u64,
}

/// Where one received message goes beside its payload.
#[repr(C, align(8))]
struct RecvSlot {
    control: [u8; RECV_CONTROL_BYTES],
    name: [u8; RECV_NAME_BYTES],
    payload: libc::iovec,
}

/// The receive side: headers, slots they point into, payload buffers.
struct Recv {
    headers: Box<[libc::mmsghdr]>,
    slots: Box<[RecvSlot]>,
    /// Zeroed memory from the system, resident where touched. Written by the kernel inside recvmmsg only.
    buffers: Vec<u8>,
    buffer_bytes: usize,
    /// Received and not yet handed over.
    next: usize,
    filled: usize,
}

/// See the module documentation. Not `Send`.
pub(crate) struct Mmsg {
    socket: Arc<ShardSocket>,
    wake: Arc<Wake>,
    epoll: OwnedFd,
    recv: Recv,
    send: SendSlots,
    /// What epoll watches the socket for; `None` while it is left alone.
    interest: Option<u32>,
    want_writable: bool,
    receive_errors_in_a_row: u32,
    receive_not_before: Option<Instant>,
    /// Older kernels, and sandboxes, lack epoll_pwait2.
    nanosecond_timeouts: bool,
    counters: MmsgCounters,
}

impl Mmsg {
    /// `recv_slots` buffers of `buffer_bytes`.
    pub(crate) fn new(
        socket: Arc<ShardSocket>,
        wake: Arc<Wake>,
        recv_slots: usize,
        buffer_bytes: usize,
    ) -> Result<Self, OsError> {
        // SAFETY: epoll_create1 takes no pointers.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(OsError::last("epoll_create1", "raise the limit of open files (ulimit -n)"));
        }
        // SAFETY: `epoll` was just returned by the kernel, nobody else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let events = libc::EPOLLIN.cast_unsigned();
        watch(&epoll, libc::EPOLL_CTL_ADD, wake.fd().as_raw_fd(), events, TOKEN_WAKE)?;
        watch(&epoll, libc::EPOLL_CTL_ADD, socket.fd().as_raw_fd(), events, TOKEN_SOCKET)?;
        Ok(Self {
            recv: Recv::new(recv_slots.clamp(1, RECV_SLOTS_MAX), buffer_bytes),
            send: SendSlots::new(SEND_SLOTS, socket.is_v6()),
            socket,
            wake,
            epoll,
            interest: Some(events),
            want_writable: false,
            receive_errors_in_a_row: 0,
            receive_not_before: None,
            nanosecond_timeouts: true,
            counters: MmsgCounters::default(),
        })
    }

    /// The socket it serves.
    pub(crate) fn socket(&self) -> &ShardSocket {
        &self.socket
    }

    /// What was counted.
    pub(crate) fn counters(&self) -> MmsgCounters {
        self.counters
    }

    /// Hands the oldest received datagram to `take`; `None` if none is here. No system call.
    pub(crate) fn next_arrived<T>(&mut self, take: impl FnOnce(RawDatagram<'_>) -> T) -> Option<T> {
        if self.recv.next == self.recv.filled {
            return None;
        }
        let index = self.recv.next;
        self.recv.next += 1;
        Some(take(self.recv.datagram(index)))
    }

    /// Receives more, when everything has been handed over. False if the socket had no more than it gave now.
    pub(crate) fn fetch(&mut self) -> bool {
        assert!(self.recv.next == self.recv.filled, "datagrams are still waiting");
        if self.receive_not_before.is_some_and(|instant| Clock.now() < instant) {
            return false;
        }
        self.receive_not_before = None;
        match self.recv.fill(self.socket.fd().as_raw_fd()) {
            Ok(all) => {
                self.receive_errors_in_a_row = 0;
                all
            }
            Err(libc::EAGAIN | libc::EINTR) => false,
            Err(_) => {
                self.counters.receive_errors += 1;
                self.receive_errors_in_a_row += 1;
                if self.receive_errors_in_a_row > RECEIVE_ERRORS_IN_A_ROW_MAX {
                    self.receive_not_before = Some(Clock.now() + RECEIVE_ERROR_PAUSE);
                }
                false
            }
        }
    }

    /// Sends every train, in order, without blocking; `failed` hears of those that did not leave, ascending.
    pub(crate) fn transmit(&mut self, batch: &TrainBatch, mut failed: impl FnMut(usize, i32)) {
        let trains = batch.trains();
        let mut first = 0;
        while first < trains.len() {
            let count = self.send.len().min(trains.len() - first);
            for (slot, train) in trains[first..first + count].iter().enumerate() {
                self.send.fill(slot, train, batch);
            }
            let mut sent = 0;
            while sent < count {
                match self.send_from(sent, count) {
                    Ok(more) => sent += more,
                    Err(libc::EINTR) => {}
                    Err(libc::EAGAIN) => {
                        (first + sent..trains.len()).for_each(|train| failed(train, libc::EAGAIN));
                        return;
                    }
                    Err(errno) => {
                        failed(first + sent, errno);
                        sent += 1;
                    }
                }
            }
            first += count;
        }
    }

    /// One sendmmsg over the filled slots `from..to`: how many left, at least one, or why the first did not.
    fn send_from(&mut self, from: usize, to: usize) -> Result<usize, i32> {
        let headers = self.send.headers_mut(from, to);
        let count = u32::try_from(headers.len()).expect("at most SEND_SLOTS");
        let fd = self.socket.fd().as_raw_fd();
        // SAFETY: the headers and what they point to live in `send` at fixed addresses; the payloads are in
        // the batch borrowed by `transmit`, which just filled these slots. The kernel keeps nothing after the
        // call.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| last_errno())
    }

    /// The next [`park`](Self::park) also ends when the socket can take more.
    pub(crate) fn want_writable(&mut self) {
        self.want_writable = true;
    }

    /// Sleeps until the socket is ready, the wake-up or `deadline`. May return early.
    pub(crate) fn park(&mut self, deadline: Option<Instant>) {
        if self.recv.next < self.recv.filled {
            return;
        }
        let now = Clock.now();
        let pause = self.receive_not_before.filter(|&instant| now < instant);
        let input = if pause.is_none() { libc::EPOLLIN } else { 0 };
        let output = if self.want_writable { libc::EPOLLOUT } else { 0 };
        self.set_interest((input | output).cast_unsigned());
        let deadline = [deadline, pause].into_iter().flatten().min();
        let timeout =
            deadline.filter(|&deadline| deadline < Instant::FAR_FUTURE).map(|deadline| deadline.since(now));
        self.counters.parks += 1;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let ready = self.wait(&mut events, timeout);
        for event in &events[..ready.min(events.len())] {
            if event.u64 == TOKEN_WAKE {
                self.wake.drain();
            } else if event.events & libc::EPOLLOUT.cast_unsigned() != 0 {
                self.want_writable = false;
            }
        }
    }

    /// A socket watched for nothing would still report its errors, so it is then not watched at all.
    fn set_interest(&mut self, events: u32) {
        let wanted = (events != 0).then_some(events);
        if self.interest == wanted {
            return;
        }
        let operation = match (self.interest, wanted) {
            (None, _) => libc::EPOLL_CTL_ADD,
            (_, None) => libc::EPOLL_CTL_DEL,
            _ => libc::EPOLL_CTL_MOD,
        };
        if watch(&self.epoll, operation, self.socket.fd().as_raw_fd(), events, TOKEN_SOCKET).is_ok() {
            self.interest = wanted;
        }
    }

    /// Number of events; 0 on timeout, signal or failure.
    fn wait(&mut self, events: &mut [libc::epoll_event; 2], timeout: Option<Duration>) -> usize {
        let fd = self.epoll.as_raw_fd();
        if self.nanosecond_timeouts {
            let timespec = timeout.map(|timeout| libc::timespec {
                tv_sec: timeout.as_secs().cast_signed(),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            let timespec = timespec.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            let (call, into, mask) =
                (libc::SYS_epoll_pwait2, events.as_mut_ptr(), std::ptr::null::<libc::sigset_t>());
            // SAFETY: `into` has room for two events, `timespec` is null or live, there is no signal mask.
            let ready = unsafe { libc::syscall(call, fd, into, 2, timespec, mask, 0) };
            if ready >= 0 || !matches!(last_errno(), libc::ENOSYS | libc::EPERM) {
                return usize::try_from(ready).unwrap_or(0);
            }
            self.nanosecond_timeouts = false;
        }
        // Rounded up: waking too early would only turn into a spin.
        let milliseconds = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: `events` has room for two events.
        let ready = unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), 2, milliseconds) };
        usize::try_from(ready).unwrap_or(0)
    }
}

impl Recv {
    fn new(count: usize, buffer_bytes: usize) -> Self {
        let mut buffers = vec![0; count * buffer_bytes];
        let payload =
            |start: &mut [u8]| libc::iovec { iov_base: start.as_mut_ptr().cast(), iov_len: start.len() };
        let slot = |start: &mut [u8]| RecvSlot {
            control: [0; RECV_CONTROL_BYTES],
            name: [0; RECV_NAME_BYTES],
            payload: payload(start),
        };
        let mut slots: Box<[RecvSlot]> = buffers.chunks_exact_mut(buffer_bytes).map(slot).collect();
        // Boxed and never moved again, so the headers can point there for good. Only the kernel follows these
        // pointers.
        let headers = slots.iter_mut().map(|slot| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_iov = &raw mut slot.payload;
            header.msg_hdr.msg_iovlen = 1;
            header
        });
        Self { headers: headers.collect(), slots, buffers, buffer_bytes, next: 0, filled: 0 }
    }

    /// One recvmmsg. True if it filled every slot, so that there may be more.
    fn fill(&mut self, fd: RawFd) -> Result<bool, i32> {
        for header in &mut self.headers {
            header.msg_hdr.msg_namelen = RECV_NAME_BYTES as u32;
            header.msg_hdr.msg_controllen = RECV_CONTROL_BYTES;
        }
        (self.next, self.filled) = (0, 0);
        let count = u32::try_from(self.headers.len()).expect("at most RECV_SLOTS_MAX");
        let (headers, flags) = (self.headers.as_mut_ptr(), libc::MSG_DONTWAIT | libc::MSG_TRUNC);
        // SAFETY: the headers point into `slots` and `buffers`, which are as long as the lengths set above
        // and at construction say, live as long as `self` and are borrowed exclusively here.
        let filled = unsafe { libc::recvmmsg(fd, headers, count, flags, std::ptr::null_mut()) };
        self.filled = usize::try_from(filled).map_err(|_| last_errno())?.min(self.headers.len());
        Ok(self.filled == self.headers.len())
    }

    fn datagram(&self, index: usize) -> RawDatagram<'_> {
        let (header, slot) = (&self.headers[index], &self.slots[index]);
        let start = index * self.buffer_bytes;
        // The kernel reports true lengths, also of what it cut; the flags tell.
        let cut = if header.msg_len as usize > self.buffer_bytes { libc::MSG_TRUNC } else { 0 };
        RawDatagram {
            name: &slot.name[..(header.msg_hdr.msg_namelen as usize).min(RECV_NAME_BYTES)],
            control: &slot.control[..header.msg_hdr.msg_controllen.min(RECV_CONTROL_BYTES)],
            payload: &self.buffers[start..start + (header.msg_len as usize).min(self.buffer_bytes)],
            flags: header.msg_hdr.msg_flags | cut,
        }
    }
}

fn watch(epoll: &OwnedFd, operation: i32, fd: RawFd, events: u32, token: u64) -> Result<(), OsError> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: `event` is one live epoll_event, which the kernel copies.
    let failed = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd, &raw mut event) } < 0;
    if failed { Err(OsError::last("epoll_ctl", "unexpected on any Linux")) } else { Ok(()) }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sys::socket::{SocketOptions, bind_group};
    use crate::test_support::{Guard, Watchdog};

    fn mmsg() -> Mmsg {
        let socket = bind_group(&SocketOptions::loopback()).unwrap().sockets.remove(0);
        Mmsg::new(socket, Arc::new(Wake::new().unwrap()), 4, 2048).unwrap()
    }

    #[test]
    fn a_kernel_without_epoll_pwait2_gets_milliseconds() {
        let mut mmsg = mmsg();
        mmsg.nanosecond_timeouts = false;
        let deadline = Clock.now() + Duration::from_micros(1500);
        mmsg.park(Some(deadline));
        assert!(Clock.now() >= deadline);
        mmsg.park(Some(Instant::default())); // Long past.
        assert_eq!(mmsg.counters().parks, 2);
    }

    #[test]
    fn a_receive_that_always_fails_does_not_spin() {
        let mut mmsg = mmsg();
        let wake = Wake::new().unwrap();
        wake.prepare_park();
        wake.notify(); // For epoll it is readable, for ever.
        mmsg.socket = ShardSocket::from_fd_for_test(wake.fd().try_clone_to_owned().unwrap());
        mmsg.interest = None; // The broken socket is not the one epoll watches.
        for _ in 0..=RECEIVE_ERRORS_IN_A_ROW_MAX {
            mmsg.fetch();
        }
        let errors = mmsg.counters().receive_errors;
        assert_eq!(errors, u64::from(RECEIVE_ERRORS_IN_A_ROW_MAX) + 1);
        mmsg.receive_not_before = Some(Clock.now() + Duration::from_secs(3600));
        for _ in 0..1000 {
            mmsg.fetch();
            mmsg.park(Some(Clock.now()));
        }
        assert_eq!(mmsg.counters().receive_errors, errors);
        mmsg.receive_not_before = Some(Clock.now() + RECEIVE_ERROR_PAUSE);
        let (guard, _watchdog) = (Guard::new("pause after errors"), Watchdog::new("the end of a pause"));
        while mmsg.counters().receive_errors == errors {
            guard.check();
            mmsg.park(None); // No deadline: it is the end of the pause that ends the sleep.
            mmsg.fetch();
        }
        assert!(mmsg.receive_not_before.is_some(), "and the next pause begins");
    }
}
