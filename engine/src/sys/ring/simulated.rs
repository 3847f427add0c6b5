//! A kernel for the simulator: the other side of a ring, over a simulated network. It reads the ring of lent buffers as the
//! kernel does, keeps io_uring's promises, and misbehaves wherever none was made: it refuses to be entered, takes some of the entries only, ends a multishot receive whenever it likes, lets a completion wait, others
//! overtake it, or says it twice, and keeps what does not fit into the completion queue.
//!
//! What it promises: sends execute in order, inside the enter that takes them; a receive's last completion is its last; a
//! buffer is in one completion, or in two that are read at once.

use super::kernel::Kernel;
use crate::sys::error::OsError;
use crate::sys::msg::{Control, Name};
use crate::sys::received::{
    RECV_CONTROL_BYTES, RECV_HEADROOM_BYTES, RECV_NAME_BYTES, array, decode_name, split_cmsg,
};
use crate::sys::send_slots::SendSlots;
use crate::units::{Instant, UnixMicros};
use io_uring::types::BufRingEntry;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// IORING_CQE_F_BUFFER; the buffer's number stands 16 bits higher.
const OF_BUFFER: u32 = 1;
/// IORING_CQE_F_MORE.
const MORE: u32 = 2;
/// Trains one enter brings at most, as a kernel does.
const TRAINS_PER_ENTER: usize = 32;
/// How long a completion waits, at most.
const LATE_US_MAX: u32 = 5_000;
/// The kernel never waits: what there is to do is due after so long.
const SOON: Duration = Duration::from_micros(20);

/// What this kernel may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// An enter is refused.
    EnterRefused,
    /// An enter takes some of the entries only.
    TakenInPart,
    /// A receive ends with a datagram.
    ReceiveEnds,
    /// A receive ends with an error.
    ReceiveFails,
    /// A completion comes later.
    Late,
    /// A completion overtakes the one before it.
    Overtakes,
    /// A completion comes twice.
    Repeated,
    /// The eventfd's poll fires, though nobody wrote it.
    Fires,
    /// No buffer is lent: it comes by itself.
    NoBuffer,
    /// The completion queue is full: it comes by itself.
    Overflows,
}

/// The network behind it.
pub(crate) trait Net {
    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock.
    fn unix_time(&self) -> UnixMicros;

    /// Whether something waits in the socket.
    fn has_packets(&self) -> bool;

    /// When the socket takes something again; now, if it is not full.
    fn writable_at(&self) -> Instant;

    /// Takes it: sender, bytes, and the length of each datagram in them but the last.
    fn take(&mut self) -> Option<(SocketAddr, Vec<u8>, usize)>;

    /// Sends a datagram, or a train of them: the errno, if that fails.
    fn send(&mut self, to: SocketAddr, bytes: &[u8], segment_bytes: usize) -> Option<i32>;

    /// Whether this goes wrong now. What comes by itself is told by it.
    fn happens(&mut self, mishap: Mishap) -> bool;

    /// A random number below `end`.
    fn below(&mut self, end: u32) -> u32;
}

/// Taken by an enter.
#[derive(Clone, Debug)]
enum Entry {
    Receive(u64),
    Wake(u64),
    Writable(u64),
    /// To whom, the payload, the length of its datagrams.
    Send(u64, SocketAddr, Vec<u8>, usize),
}

#[derive(Clone, Copy, Debug)]
struct Completion {
    token: u64,
    result: i32,
    flags: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Simulated<N: Net> {
    net: N,
    /// The ring of buffers: its entries, how many, and the next one to use.
    entries: *const BufRingEntry,
    mask: u16,
    head: u16,
    queue: VecDeque<Entry>,
    completed: VecDeque<Completion>,
    /// Places in the completion queue, and in the submission queue.
    places: usize,
    overflow: VecDeque<Completion>,
    late: Vec<(Instant, Completion)>,
    receive: Option<u64>,
    wake: Option<u64>,
    writable: Option<u64>,
    /// Entered before: the first time all goes well.
    entered: bool,
    sleeps_until: Option<Instant>,
    /// The last enter was refused: whoever wanted to sleep goes round.
    refused: bool,
}

impl<N: Net> Simulated<N> {
    /// One whose queues have so many places.
    pub(crate) fn new(net: N, places: usize) -> Self {
        Self {
            net,
            entries: std::ptr::null(),
            mask: 0,
            head: 0,
            queue: VecDeque::new(),
            completed: VecDeque::new(),
            places,
            overflow: VecDeque::new(),
            late: Vec::new(),
            receive: None,
            wake: None,
            writable: None,
            entered: false,
            sleeps_until: None,
            refused: false,
        }
    }

    /// When it would end a sleep that begins now, but for what the network brings. `arrived`: the shard has not handled all
    /// it was brought.
    pub(crate) fn next_event(&self, arrived: bool) -> Option<Instant> {
        let soon = arrived
            || !self.queue.is_empty()
            || !self.completed.is_empty()
            || !self.overflow.is_empty()
            || self.refused;
        let at = self.net.now() + SOON;
        let late = self.late.iter().map(|(at, _)| *at);
        let writable = self.writable.map(|_| self.net.writable_at().max(at));
        late.chain(self.sleeps_until).chain(writable).chain(soon.then_some(at)).min()
    }

    fn execute(&mut self, entry: Entry) {
        match entry {
            Entry::Receive(token) => self.receive = Some(token),
            Entry::Wake(token) => self.wake = Some(token),
            Entry::Writable(token) => self.writable = Some(token),
            Entry::Send(token, to, bytes, segment_bytes) => {
                if let Some(errno) = self.net.send(to, &bytes, segment_bytes) {
                    self.post(Completion { token, result: -errno, flags: 0 });
                }
            }
        }
    }

    /// What has waited until the shard asked for it.
    fn run_deferred(&mut self) {
        self.flush_overflow();
        let now = self.net.now();
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= now);
        self.late = late;
        due.into_iter().for_each(|(_, completion)| self.place(completion));
        if let Some(token) = self.wake
            && self.net.happens(Mishap::Fires)
        {
            if self.net.below(2) == 0 {
                self.post(Completion { token, result: libc::POLLIN.into(), flags: MORE });
            } else {
                self.wake = None;
                self.end(token, libc::POLLIN.into(), 0);
            }
        }
        if let Some(token) = self.writable.take_if(|_| self.net.writable_at() <= now) {
            self.post(Completion { token, result: libc::POLLOUT.into(), flags: 0 });
        }
        if !self.net.has_packets() {
            return; // Nothing wakes the receive.
        }
        for _ in 0..TRAINS_PER_ENTER {
            if !self.receive_one() {
                break;
            }
        }
    }

    /// One datagram or train, or the end of the receive. False if there is nothing more to do. As the kernel does it: first a buffer
    /// is taken, and only then it shows whether there is something for it.
    fn receive_one(&mut self) -> bool {
        let Some(token) = self.receive else { return false };
        if self.net.happens(Mishap::ReceiveFails) {
            let error = [libc::ECONNREFUSED, libc::ENOMEM, libc::ENOBUFS][self.net.below(3) as usize];
            self.end_receive(token, -error, 0);
            return false;
        }
        let Some((address, len, number)) = self.lent() else {
            self.net.happens(Mishap::NoBuffer);
            self.end_receive(token, -libc::ENOBUFS, 0);
            return false;
        };
        let Some((from, bytes, segment_bytes)) = self.net.take() else { return false };
        self.head = self.head.wrapping_add(1);
        // SAFETY: the buffer was lent, so it is mapped, of this length, and nobody else touches it until a completion names it.
        let buffer = unsafe { std::slice::from_raw_parts_mut(address, len) };
        let stored = store(buffer, from, &bytes, segment_bytes) as i32;
        let flags = OF_BUFFER | u32::from(number) << 16;
        let is_full = !self.has_place();
        if bytes.is_empty() || is_full || self.net.happens(Mishap::ReceiveEnds) {
            self.end_receive(token, stored, flags);
            return false;
        }
        self.post(Completion { token, result: stored, flags: flags | MORE });
        true
    }

    fn end_receive(&mut self, token: u64, result: i32, flags: u32) {
        self.receive = None;
        self.end(token, result, flags);
    }

    /// The last completion of a multishot operation comes after all others of it.
    fn end(&mut self, token: u64, result: i32, flags: u32) {
        let (before, late) = std::mem::take(&mut self.late).into_iter().partition(|row| row.1.token == token);
        self.late = late;
        before.into_iter().for_each(|(_, completion)| self.place(completion));
        self.place(Completion { token, result, flags });
    }

    /// The first of the buffers lent: where it is, how long, and its number.
    fn lent(&self) -> Option<(*mut u8, usize, u16)> {
        assert!(!self.entries.is_null(), "no buffers are registered");
        // SAFETY: `entries` is a registered ring: who registered it vouches for it until `unregister`.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the field is 2-byte aligned, lives as long as the registration, and is written by atomic stores alone.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.load(Ordering::Acquire);
        if tail == self.head {
            return None;
        }
        // SAFETY: the ring has `mask` + 1 entries.
        let entry = unsafe { self.entries.add(usize::from(self.head & self.mask)) };
        // SAFETY: it stands before the tail, so it was written, and is not written again before this buffer came back.
        let entry = unsafe { &*entry };
        Some((entry.addr() as *mut u8, entry.len() as usize, entry.bid()))
    }

    fn has_place(&self) -> bool {
        self.overflow.is_empty() && self.completed.len() < self.places
    }

    /// A completion, which may be late, overtake another one, or come twice.
    fn post(&mut self, completion: Completion) {
        let goes_on = completion.flags & MORE != 0;
        if goes_on && self.net.happens(Mishap::Late) {
            let after = Duration::from_micros((1 + self.net.below(LATE_US_MAX)).into());
            return self.late.push((self.net.now() + after, completion));
        }
        // Nothing overtakes the end of its own receive, nor does that overtake anything.
        let may_overtake = self.has_place()
            && self.completed.back().is_some_and(|last| last.token != completion.token || goes_on);
        if may_overtake && self.net.happens(Mishap::Overtakes) {
            self.completed.insert(self.completed.len() - 1, completion);
        } else {
            self.place(completion);
        }
        if goes_on && self.has_place() && self.net.happens(Mishap::Repeated) {
            self.place(completion);
        }
    }

    fn place(&mut self, completion: Completion) {
        if self.has_place() {
            self.completed.push_back(completion);
        } else {
            self.net.happens(Mishap::Overflows);
            self.overflow.push_back(completion);
        }
    }

    fn flush_overflow(&mut self) {
        while self.completed.len() < self.places {
            let Some(completion) = self.overflow.pop_front() else { break };
            self.completed.push_back(completion);
        }
    }

    fn push(&mut self, entry: Entry) {
        assert!(self.queue.len() < self.places, "the submission queue is larger than a batch");
        self.queue.push_back(entry);
    }
}

// SAFETY: a buffer is written by `receive_one` alone, between its lending and its completion; a completion that is said twice is read
// at once, before its buffer can be lent again. What is sent is copied when it is pushed. What is late of a receive comes before its
// last completion.
unsafe impl<N: Net> Kernel for Simulated<N> {
    fn now(&self) -> Instant {
        self.net.now()
    }

    fn unix_time(&self) -> UnixMicros {
        self.net.unix_time()
    }

    fn is_v6(&self) -> bool {
        false
    }

    unsafe fn register_buffers(&mut self, address: u64, entries: u16) -> Result<(), OsError> {
        (self.entries, self.mask) = (address as *const BufRingEntry, entries - 1);
        Ok(())
    }

    fn unregister(&mut self) {
        assert!(self.receive.is_none() && self.late.is_empty(), "something is in flight");
        self.entries = std::ptr::null();
    }

    fn push_receive(&mut self, token: u64) {
        self.push(Entry::Receive(token));
    }

    fn push_wake_poll(&mut self, token: u64) {
        self.push(Entry::Wake(token));
    }

    fn push_writable_poll(&mut self, token: u64) {
        self.push(Entry::Writable(token));
    }

    unsafe fn push_send(&mut self, slots: &SendSlots, slot: usize, token: u64) {
        // SAFETY: the caller vouches for what the slot was filled with.
        let (name, control, pieces) = unsafe { slots.message(slot) };
        let bytes: Vec<u8> = pieces.flatten().copied().collect();
        let to = decode_name(name).expect("an address that can be sent to");
        let segment_bytes = segment_bytes(control).unwrap_or_else(|| bytes.len().max(1));
        self.push(Entry::Send(token, to, bytes, segment_bytes));
    }

    fn drain_wake(&mut self) -> bool {
        false
    }

    fn room(&mut self) -> usize {
        self.places - self.queue.len()
    }

    fn queued(&mut self) -> u32 {
        self.queue.len() as u32
    }

    fn work_waits(&mut self) -> bool {
        let now = self.net.now();
        self.overflowed()
            || self.writable.is_some() && self.net.writable_at() <= now
            || self.late.iter().any(|(at, _)| *at <= now)
            || self.receive.is_some() && self.net.has_packets()
    }

    fn overflowed(&mut self) -> bool {
        !self.overflow.is_empty()
    }

    fn enter(&mut self, get_events: bool) -> Result<u32, i32> {
        if self.entered && self.net.happens(Mishap::EnterRefused) {
            self.refused = true;
            return Err([libc::EINTR, libc::EAGAIN, libc::EBUSY][self.net.below(3) as usize]);
        }
        (self.entered, self.refused) = (true, false);
        let mut taken = self.queue.len();
        if taken > 1 && self.net.happens(Mishap::TakenInPart) {
            taken = 1 + self.net.below(taken as u32 - 1) as usize;
        }
        for _ in 0..taken {
            let Some(entry) = self.queue.pop_front() else { break };
            self.execute(entry);
        }
        // Who left some does not come to the events.
        if get_events && self.queue.is_empty() {
            self.run_deferred();
        }
        Ok(taken as u32)
    }

    fn enter_and_wait(&mut self, deadline: Option<Instant>) -> Result<u32, i32> {
        self.sleeps_until = deadline;
        self.enter(true)
    }

    fn enter_without_submitting(&mut self, _: Instant) -> Result<u32, i32> {
        self.flush_overflow();
        // Time stands still: who waits for what never comes would wait for ever.
        if self.completed.is_empty() { Err(libc::EDEADLK) } else { Ok(0) }
    }

    fn cancel_all(&mut self) {
        if let Some(token) = self.receive {
            self.end_receive(token, -libc::ECANCELED, 0);
        }
        for token in [self.wake.take(), self.writable.take()].into_iter().flatten() {
            self.end(token, -libc::ECANCELED, 0);
        }
    }

    fn reap(&mut self, mut record: impl FnMut(u64, i32, u32)) {
        for Completion { token, result, flags } in self.completed.drain(..) {
            record(token, result, flags);
        }
    }

    fn wait_writable(&self, _: Duration) {}
}

/// As a multishot receive stores it: header, name, control data, payload. How many bytes that are.
fn store(buffer: &mut [u8], from: SocketAddr, bytes: &[u8], segment_bytes: usize) -> usize {
    let name = Name::encode(from, false);
    let mut control = Control::EMPTY;
    if bytes.len() > segment_bytes {
        control.push(libc::SOL_UDP, libc::UDP_GRO, &(segment_bytes as i32).to_ne_bytes());
    }
    let fits = bytes.len().min(buffer.len() - RECV_HEADROOM_BYTES);
    let flags = if fits < bytes.len() { libc::MSG_TRUNC.cast_unsigned() } else { 0 };
    let header = [name.len, control.len as u32, bytes.len() as u32, flags];
    for (place, field) in buffer.chunks_exact_mut(4).zip(header) {
        place.copy_from_slice(&field.to_ne_bytes());
    }
    let (around, payload) = buffer.split_at_mut(RECV_HEADROOM_BYTES);
    let at = RECV_HEADROOM_BYTES - RECV_CONTROL_BYTES;
    let name = &name.bytes[..name.len as usize];
    around[at - RECV_NAME_BYTES..][..name.len()].copy_from_slice(name);
    around[at..][..control.len].copy_from_slice(&control.bytes[..control.len]);
    payload[..fits].copy_from_slice(&bytes[..fits]);
    RECV_HEADROOM_BYTES + fits
}

/// The length of a train's datagrams, if it is one.
fn segment_bytes(control: &[u8]) -> Option<usize> {
    let (level, kind, data, next) = split_cmsg(control)?;
    if (level, kind) == (libc::SOL_UDP, libc::UDP_SEGMENT) {
        return array(data, 0).map(|bytes| u16::from_ne_bytes(bytes).into());
    }
    segment_bytes(next)
}
