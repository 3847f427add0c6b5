//! Anonymous memory the kernel may write on its own: page-aligned, zeroed, resident only where touched.

use super::error::OsError;
use std::ptr::{self, NonNull};

/// A private anonymous mapping, unmapped on drop unless [leaked](Self::leak).
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
    leaked: bool,
}

impl Mapping {
    pub(super) fn new(bytes: usize) -> Result<Self, OsError> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping at an address the kernel chooses touches no existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        let failed = start == libc::MAP_FAILED;
        let Some(start) = NonNull::new(start.cast::<u8>()).filter(|_| !failed) else {
            return Err(OsError::last("mmap", format!("{bytes} bytes of receive buffers; configure fewer")));
        };
        // A huge page would make one small datagram cost 2 MiB of resident memory. Advice only: its failure
        // is harmless.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_NOHUGEPAGE) };
        Ok(Self { start, bytes, leaked: false })
    }

    /// First byte.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Never unmaps: the last resort when the kernel may still write here.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if !self.leaked {
            // SAFETY: the range is this mapping, owned by `self`; whoever let the kernel write to it has
            // taken that back (`Ring::drop` drains before it drops its buffers, or leaks).
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}
