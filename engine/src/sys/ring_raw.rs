//! An io_uring instance and how it is entered: set-up flags, registration, one `enter` with the arguments the
//! crate's own interface lacks (absolute deadline, no iowait, registered ring descriptor).
//!
//! Belongs to the thread that built it (SINGLE_ISSUER). Knows nothing of sockets; [`ring`](super::ring) does.

use super::clock::Clock;
use super::error::{OsError, last_errno};
use crate::units::Instant;
use io_uring::types::CancelBuilder;
use io_uring::{CompletionQueue, IoUring, squeue};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, RawFd};

/// Submission queue: a batch of sends and the few re-arms.
pub(super) const SQ_ENTRIES: u32 = 256;
/// The group the receive buffers are registered as.
pub(super) const BUFFER_GROUP: u16 = 0;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_ABS_TIMER: u32 = 1 << 5;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_getevents_arg`.
#[repr(C)]
#[derive(Default)]
struct GetEventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// See the module documentation.
pub(super) struct RawRing {
    io: IoUring,
    /// What `enter` names the ring by: a registered index, or the descriptor.
    enter_fd: RawFd,
    enter_flags: u32,
    abs_timer: bool,
    /// A ring may be used by its own thread only.
    _not_send: PhantomData<*const ()>,
}

impl RawRing {
    /// Builds a ring with the flags of `IO_URING.md` D1, without NO_SQARRAY on kernels before 6.6.
    pub(super) fn new(cq_entries: u32) -> Result<Self, OsError> {
        let io = match Self::build(cq_entries, true) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Self::build(cq_entries, false),
            built => built,
        };
        let io = io.map_err(|error| OsError::from_io("io_uring_setup", &error, setup_hint(&error)))?;
        let params = io.params();
        if !params.is_feature_ext_arg() || !params.is_feature_skip_cqe_on_success() {
            return Err(OsError::new("io_uring_setup", libc::EINVAL, "needs Linux 6.1 or newer"));
        }
        let mut ring = Self {
            enter_fd: io.as_raw_fd(),
            enter_flags: if params.is_feature_no_iowait() { ENTER_NO_IOWAIT } else { 0 },
            abs_timer: params.is_feature_min_timeout(), // Came in the same release, 6.12.
            io,
            _not_send: PhantomData,
        };
        ring.register_ring_fd();
        Ok(ring)
    }

    fn build(cq_entries: u32, no_sqarray: bool) -> std::io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_coop_taskrun();
        builder.setup_submit_all().setup_clamp().setup_cqsize(cq_entries).dontfork();
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(SQ_ENTRIES.min(cq_entries))
    }

    /// Saves the kernel looking up the descriptor on every enter. Done by hand because the crate keeps the
    /// index in a `Submitter` that borrows the ring. Not being able to is no error.
    fn register_ring_fd(&mut self) {
        let mut update = RsrcUpdate { offset: u32::MAX, reserved: 0, data: self.io.as_raw_fd() as u64 };
        let (call, fd) = (libc::SYS_io_uring_register, self.io.as_raw_fd());
        // SAFETY: `update` is one live io_uring_rsrc_update; the kernel writes the index back into it.
        let done = unsafe { libc::syscall(call, fd, REGISTER_RING_FDS, &raw mut update, 1) };
        if done == 1 {
            self.enter_fd = update.offset.cast_signed();
            self.enter_flags |= ENTER_REGISTERED_RING;
        }
    }

    /// The crate's ring, for registrations.
    pub(super) fn io(&self) -> &IoUring {
        &self.io
    }

    /// Queues an entry. There must be room: the caller submits a batch before it starts the next.
    ///
    /// # Safety
    /// Everything `entry` points to must stay valid until the operation is over.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        let pushed = unsafe { self.io.submission().push(entry) };
        assert!(pushed.is_ok(), "the submission queue is larger than a batch");
    }

    /// Entries queued and not yet taken by the kernel.
    pub(super) fn queued(&mut self) -> u32 {
        u32::try_from(self.io.submission().len()).expect("a queue of SQ_ENTRIES")
    }

    /// Free places in the submission queue.
    pub(super) fn room(&mut self) -> usize {
        let queue = self.io.submission();
        queue.capacity() - queue.len()
    }

    /// The kernel has completions to hand over or keeps some that did not fit: an enter will bring them. A
    /// plain load.
    pub(super) fn work_waits(&mut self) -> bool {
        let queue = self.io.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// The kernel keeps completions that did not fit into the queue.
    pub(super) fn overflowed(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// What has completed.
    pub(super) fn completions(&mut self) -> CompletionQueue<'_> {
        self.io.completion()
    }

    /// Submits what is queued and, with `get_events`, runs deferred completions. Does not wait. Returns how
    /// many entries the kernel took, or the errno.
    pub(super) fn enter(&mut self, get_events: bool) -> Result<u32, i32> {
        let queued = self.queued();
        self.syscall(queued, 0, if get_events { ENTER_GETEVENTS } else { 0 }, None)
    }

    /// Runs deferred completions without submitting anything, waiting for one at most until `deadline`.
    pub(super) fn enter_without_submitting(&mut self, deadline: Instant) -> Result<u32, i32> {
        self.wait(0, Some(deadline))
    }

    /// Submits what is queued and sleeps until there is a completion or `deadline` passed.
    pub(super) fn enter_and_wait(&mut self, deadline: Option<Instant>) -> Result<u32, i32> {
        let queued = self.queued();
        self.wait(queued, deadline)
    }

    fn wait(&mut self, to_submit: u32, deadline: Option<Instant>) -> Result<u32, i32> {
        let Some(deadline) = deadline.filter(|&deadline| deadline < Instant::FAR_FUTURE) else {
            return self.syscall(to_submit, 1, ENTER_GETEVENTS, None);
        };
        if self.abs_timer {
            match self.syscall(to_submit, 1, ENTER_GETEVENTS | ENTER_ABS_TIMER, Some(deadline.as_ns())) {
                Err(libc::EINVAL) => self.abs_timer = false,
                done => return done,
            }
        }
        let relative = deadline.since(Clock.now()).as_nanos();
        self.syscall(to_submit, 1, ENTER_GETEVENTS, Some(u64::try_from(relative).unwrap_or(u64::MAX)))
    }

    fn syscall(
        &self,
        to_submit: u32,
        min_complete: u32,
        flags: u32,
        timeout_ns: Option<u64>,
    ) -> Result<u32, i32> {
        let timespec = timeout_ns.map(|ns| KernelTimespec {
            seconds: (ns / 1_000_000_000).cast_signed(),
            nanoseconds: (ns % 1_000_000_000).cast_signed(),
        });
        let argument = timespec.as_ref().map(|timespec| GetEventsArg {
            timespec: std::ptr::from_ref(timespec) as u64,
            ..GetEventsArg::default()
        });
        let (pointer, bytes, extended) = match &argument {
            Some(argument) => (std::ptr::from_ref(argument), size_of::<GetEventsArg>(), ENTER_EXT_ARG),
            None => (std::ptr::null(), 0, 0),
        };
        let waits = if min_complete > 0 { u32::MAX } else { !ENTER_NO_IOWAIT };
        let flags = flags | extended | self.enter_flags & waits;
        let call = libc::SYS_io_uring_enter;
        // SAFETY: `pointer` is null or a live io_uring_getevents_arg whose timespec lives as long; what the
        // queued entries point to is vouched for by whoever pushed them.
        let taken =
            unsafe { libc::syscall(call, self.enter_fd, to_submit, min_complete, flags, pointer, bytes) };
        u32::try_from(taken).map_err(|_| last_errno())
    }

    /// Asks the kernel to give up everything in flight. The final completions follow.
    pub(super) fn cancel_all(&mut self) {
        // ENOENT: nothing was in flight.
        let _ = self.io.submitter().register_sync_cancel(None, CancelBuilder::any().all());
    }
}

impl Drop for RawRing {
    fn drop(&mut self) {
        if self.enter_flags & ENTER_REGISTERED_RING != 0 {
            // Otherwise the registration keeps the ring alive until the thread ends.
            let mut update = RsrcUpdate { offset: self.enter_fd.cast_unsigned(), reserved: 0, data: 0 };
            let (call, fd) = (libc::SYS_io_uring_register, self.io.as_raw_fd());
            // SAFETY: `update` is one live io_uring_rsrc_update.
            unsafe { libc::syscall(call, fd, UNREGISTER_RING_FDS, &raw mut update, 1) };
        }
    }
}

fn setup_hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel or sandbox has no io_uring; use driver = mmsg",
        Some(libc::EPERM) => {
            "forbidden by sysctl kernel.io_uring_disabled or a seccomp profile; use driver = mmsg"
        }
        Some(libc::EINVAL) => "needs Linux 6.1 or newer; use driver = mmsg",
        Some(libc::ENOMEM) => {
            "memory limit of the cgroup or RLIMIT_MEMLOCK reached; configure smaller queues"
        }
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        _ => "use driver = mmsg",
    }
}

#[cfg(test)]
impl RawRing {
    /// As on Linux before 6.12.
    pub(super) fn forget_abs_timer_for_test(&mut self) {
        self.abs_timer = false;
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// What a kernel before 6.6 is offered.
    #[test]
    fn the_lower_rung_of_the_ladder_works() {
        let Ok(mut io) = RawRing::build(8, false) else { return crate::test_support::skip("io_uring") };
        let entry = io_uring::opcode::Nop::new().build().user_data(7);
        // SAFETY: a no-op points to no memory.
        unsafe { io.submission().push(&entry) }.unwrap();
        assert_eq!(io.submit_and_wait(1).unwrap(), 1);
        assert_eq!(io.completion().next().unwrap().user_data(), 7);
    }
}
