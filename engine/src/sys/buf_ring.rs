//! The receive buffers of one ring and the ring through which the kernel borrows them.
//!
//! ```text
//!             lend                 completion (take)              recycle
//!   free here ---> kernel may write -----------------> owned here ------> free here
//! ```
//!
//! The kernel fills buffers in the order they were lent, so lending all of them would make every train land
//! in the memory that was touched longest ago. Therefore only [`LEND_MIN`] are lent at first, twice as many
//! each time the kernel runs out (which loses nothing), half as many again after a while in which it did not
//! come near that, and of the free ones the one used last goes first: a
//! shard that keeps up works in a few hundred KiB of warm cache, and buffers no burst ever needed stay
//! without memory.
//!
//! Every buffer is on exactly one side, tracked per buffer id: an id the kernel does not hold is refused when
//! it comes back, so a buffer can neither be read while the kernel writes it nor be lent twice. Entry 0's
//! spare field is the ring's tail; entries are therefore written field by field, never whole.

use super::error::OsError;
use super::mapping::Mapping;
use io_uring::types::BufRingEntry;
use std::sync::atomic::{AtomicU16, Ordering};

const PAGE_BYTES: usize = 4096;
/// Buffers lent before the kernel ran out of them for the first time.
const LEND_MIN: u16 = 6;
/// Lendings during which the kernel never ran low, after which it may hold half as many again.
const CALM_LENDINGS: u32 = 256;

/// See the module documentation. Not `Send`.
#[derive(Debug)]
pub(super) struct BufRing {
    entries: Mapping,
    buffers: Mapping,
    /// Number of buffers; the ring has room for the next power of two.
    count: u16,
    mask: u16,
    buffer_bytes: usize,
    /// The next entry to write.
    tail: u16,
    /// On our side and not in use; the last one is the warmest.
    free: Vec<u16>,
    with_kernel: Box<[bool]>,
    with_kernel_count: u16,
    /// How many the kernel may hold.
    lend_max: u16,
    /// Lendings since it had used more than half of them.
    calm: u32,
}

impl BufRing {
    /// Buffers of `buffer_bytes` bytes each, the first of them lent.
    pub(super) fn new(count: u16, buffer_bytes: usize) -> Result<Self, OsError> {
        let count = count.clamp(1, 1 << 15);
        let entries = count.next_power_of_two();
        let ring_bytes = (usize::from(entries) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES);
        let mut ring = Self {
            entries: Mapping::new(ring_bytes)?,
            buffers: Mapping::new(usize::from(count) * buffer_bytes)?,
            count,
            mask: entries - 1,
            buffer_bytes,
            tail: 0,
            free: (0..count).rev().collect(),
            with_kernel: vec![false; usize::from(count)].into(),
            with_kernel_count: 0,
            lend_max: count.min(LEND_MIN),
            calm: 0,
        };
        ring.lend();
        Ok(ring)
    }

    /// Address and number of entries, for the registration.
    pub(super) fn registration(&self) -> (u64, u16) {
        (self.entries.as_ptr() as u64, self.mask + 1)
    }

    /// Buffers the kernel can still fill.
    pub(super) fn with_kernel_count(&self) -> u16 {
        self.with_kernel_count
    }

    /// A completion named this buffer: it is ours until recycled. False if the kernel did not hold it.
    pub(super) fn take(&mut self, index: u16) -> bool {
        let Some(with_kernel) = self.with_kernel.get_mut(usize::from(index)) else { return false };
        let held = std::mem::take(with_kernel);
        self.with_kernel_count -= u16::from(held);
        held
    }

    /// The first `len` bytes of a buffer that was [taken](Self::take).
    pub(super) fn bytes(&self, index: u16, len: usize) -> &[u8] {
        assert!(!self.with_kernel[usize::from(index)] && len <= self.buffer_bytes);
        let offset = usize::from(index) * self.buffer_bytes;
        // SAFETY: `index` < count (the line above indexed by it), so the buffer lies in the mapping of count
        // buffers.
        let start = unsafe { self.buffers.as_ptr().add(offset) };
        // SAFETY: `len` bytes from there are in the mapping, zeroed or written by the kernel; the assertion
        // says that the kernel does not hold the buffer, and lending it again needs `&mut self`, which the
        // returned borrow excludes.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// A buffer that was [taken](Self::take) is done with.
    pub(super) fn recycle(&mut self, index: u16) {
        assert!(index < self.count && !self.with_kernel[usize::from(index)]);
        debug_assert!(!self.free.contains(&index));
        self.free.push(index);
    }

    /// The kernel found no buffer: it shall have more of them from now on.
    pub(super) fn lend_more(&mut self) {
        self.lend_max = self.lend_max.saturating_mul(2).min(self.count);
        self.calm = 0;
    }

    /// Lends the kernel free buffers, as many as it may hold. Costs nothing when there is nothing to lend.
    pub(super) fn lend(&mut self) {
        let before = self.tail;
        self.calm = if self.with_kernel_count < self.lend_max / 2 { 0 } else { self.calm + 1 };
        if self.calm >= CALM_LENDINGS && self.lend_max > LEND_MIN {
            // One burst is no reason to work in cold memory for ever.
            self.lend_max = (self.lend_max / 2).max(LEND_MIN);
            self.calm = 0;
        }
        while self.with_kernel_count < self.lend_max {
            let Some(index) = self.free.pop() else { break };
            self.write_entry(index);
        }
        if self.tail == before {
            return;
        }
        // SAFETY: the pointer is to the first entry of the mapped, page-aligned ring, which is zeroed or
        // written.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr().cast()) };
        // SAFETY: the field lives as long as the mapping, is 2-byte aligned, and besides this store only the
        // kernel reads it: `write_entry` writes other fields of the entry.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // The kernel's acquire load orders the entries before the tail.
        tail.store(self.tail, Ordering::Release);
    }

    fn write_entry(&mut self, index: u16) {
        let at = usize::from(self.tail & self.mask);
        let address = self.buffers.as_ptr() as u64 + u64::from(index) * self.buffer_bytes as u64;
        // SAFETY: `at` <= mask, and the mapping has mask + 1 entries.
        let entry = unsafe { self.entries.as_ptr().cast::<BufRingEntry>().add(at) };
        // SAFETY: the entry is ours: at most `count` <= mask + 1 buffers exist, this one is not with the
        // kernel, so the tail is not a full turn ahead of the kernel's head. The memory is zeroed or was
        // written here before.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.buffer_bytes).expect("a buffer is about 64 KiB"));
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel[usize::from(index)] = true;
        self.with_kernel_count += 1;
    }

    /// The kernel may write to the buffers for ever: never unmap them.
    pub(super) fn leak(&mut self) {
        self.entries.leak();
        self.buffers.leak();
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_on_one_side_at_a_time() {
        let mut ring = BufRing::new(3, 512).unwrap();
        assert_eq!((ring.with_kernel_count(), ring.registration().1), (3, 4));
        assert!(!ring.take(3) && !ring.take(u16::MAX));
        assert!(ring.take(1) && !ring.take(1));
        assert_eq!(ring.bytes(1, 512), [0; 512]);
        for _ in 0..100_000 {
            ring.recycle(1);
            ring.lend();
            assert!(ring.take(1));
        }
        assert_eq!(ring.with_kernel_count(), 2);
    }

    #[test]
    fn the_kernel_gets_more_only_when_it_runs_out_and_the_warmest_first() {
        let mut ring = BufRing::new(40, 512).unwrap();
        for lent in [6, 12, 24, 40, 40] {
            ring.lend();
            assert_eq!(ring.with_kernel_count(), lent);
            ring.lend_more();
        }
        for index in [3, 30, 7] {
            assert!(ring.take(index));
            ring.recycle(index);
        }
        ring.lend_max = 38;
        ring.lend();
        assert!(ring.take(7) && !ring.take(3) && !ring.take(30));
        for _ in 0..10 * CALM_LENDINGS {
            ring.lend();
        }
        assert_eq!(ring.lend_max, LEND_MIN);
    }

    #[test]
    fn memory_is_resident_only_where_touched() {
        let ring = BufRing::new(128, 65_792).unwrap();
        let (start, bytes) = (ring.buffers.as_ptr(), ring.buffers.len());
        let resident = || {
            let mut pages = vec![0u8; bytes.div_ceil(PAGE_BYTES)];
            // SAFETY: the range is mapped and `pages` has a byte per page.
            assert_eq!(unsafe { libc::mincore(start.cast(), bytes, pages.as_mut_ptr()) }, 0);
            pages.iter().filter(|&&page| page & 1 != 0).count()
        };
        assert_eq!(resident(), 0);
        // SAFETY: the first byte of the mapping, which no ring was told about.
        unsafe { start.write(1) };
        assert_eq!(resident(), 1);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_buffer_is_not_lent_twice() {
        BufRing::new(3, 512).unwrap().recycle(0);
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_lent_buffer_is_not_read() {
        BufRing::new(3, 512).unwrap().bytes(0, 1);
    }
}
