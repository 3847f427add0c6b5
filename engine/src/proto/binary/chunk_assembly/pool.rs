//! The memory of a shard's incomplete messages: what is charged, and buffers that are used again.

use super::UNIT_BYTES;

/// Buffers up to this size are kept for other messages.
pub const KEPT_BYTES_MAX: u32 = 64 << 10;
/// Kept buffers are of 1 KiB, 2 KiB and so on.
const CLASS_BYTES_MIN: u32 = 1 << 10;
const CLASSES: usize = (KEPT_BYTES_MAX / CLASS_BYTES_MIN).ilog2() as usize + 1;
/// Buffers kept of a size.
const KEPT_MAX: usize = 64;
/// Larger buffers kept.
const LARGE_KEPT_MAX: usize = 16;
/// One of them is used for messages that are shorter by no more than such a part: what they do not need is given away.
const LARGE_SPARE_PART: usize = 8;
/// What is charged for each message beside its buffers, at most: its place among the partial ones, and its metadata.
pub const BESIDE_BYTES: usize = 512;

/// The memory of one message.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// One bit a unit; as long as the highest unit after a gap needs.
    pub(super) units: Vec<u64>,
}

impl Buffers {
    /// What a kept one counts that is of no class.
    pub(super) const fn capacity_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.units.capacity() * 8) as u64
    }
}

/// The memory of a shard's incomplete messages.
#[derive(Debug)]
pub struct AssemblyPool {
    bytes_max: u64,
    /// Charged to messages.
    bytes_used: u64,
    pub(super) bytes_kept: u64,
    kept: [Vec<Buffers>; CLASSES],
    /// Of messages beyond the classes, in the order they came back; of any size.
    pub(super) large: Vec<Buffers>,
}

impl AssemblyPool {
    /// At most `bytes_max` bytes, allocated as they come into use, kept buffers included.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes_used: 0,
            bytes_kept: 0,
            kept: std::array::from_fn(|_| Vec::new()),
            large: Vec::new(),
        }
    }

    /// Bytes charged to incomplete messages.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn bytes_used(&self) -> u64 {
        self.bytes_used
    }

    /// What a message of `total` bytes is charged: its buffer, its bitmap, and what is beside them.
    #[must_use]
    pub fn charge_bytes(total: u32) -> u64 {
        Self::held_bytes(total) + BESIDE_BYTES as u64
    }

    /// Its buffer and its bitmap.
    pub(super) fn held_bytes(total: u32) -> u64 {
        u64::from(Self::buffer_bytes(total)) + Self::words(total) as u64 * 8
    }

    /// Bytes of its buffer.
    pub(super) fn buffer_bytes(total: u32) -> u32 {
        Self::class(total).map_or(total, |class| CLASS_BYTES_MIN << class)
    }

    /// Words of its bitmap: of as many units as its buffer holds.
    pub(super) fn words(total: u32) -> usize {
        Self::buffer_bytes(total).div_ceil(UNIT_BYTES).div_ceil(64) as usize
    }

    /// What would have to be given back before a message of `total` bytes finds room.
    #[must_use]
    pub fn lacks(&self, total: u32) -> u64 {
        Self::charge_bytes(total).saturating_sub(self.bytes_max - self.bytes_used)
    }

    /// The size class of a kept buffer.
    fn class(total: u32) -> Option<usize> {
        (total <= KEPT_BYTES_MAX).then(|| {
            let bytes = total.max(CLASS_BYTES_MIN).next_power_of_two();
            (bytes / CLASS_BYTES_MIN).ilog2() as usize
        })
    }

    /// The memory of a message of `total` bytes, charged. `None`: the pool is full.
    pub(super) fn acquire(&mut self, total: u32) -> Option<Buffers> {
        let charge = Self::charge_bytes(total);
        if charge > self.bytes_max - self.bytes_used {
            return None;
        }
        let class = Self::class(total);
        let kept = class.and_then(|class| self.kept[class].pop());
        if kept.is_some() {
            self.bytes_kept -= Self::held_bytes(total);
        }
        let large = if class.is_none() { self.take_large(total) } else { None };
        self.bytes_used += charge;
        while self.bytes_used + self.bytes_kept > self.bytes_max {
            self.drop_largest_kept();
        }
        Some(kept.or(large).unwrap_or_else(|| {
            let bytes = Vec::with_capacity(Self::buffer_bytes(total) as usize);
            Buffers { bytes, units: Vec::new() }
        }))
    }

    /// A buffer that fits a message; as long as what is charged.
    fn take_large(&mut self, total: u32) -> Option<Buffers> {
        let bytes = total as usize;
        let fitting = bytes..=bytes + bytes / LARGE_SPARE_PART;
        let fits = |buffers: &Buffers| fitting.contains(&buffers.bytes.capacity());
        let mut buffers = self.large.swap_remove(self.large.iter().position(fits)?);
        self.bytes_kept -= buffers.capacity_bytes();
        buffers.bytes.shrink_to(bytes);
        buffers.units.shrink_to(Self::words(total));
        Some(buffers)
    }

    /// Takes the memory of a whole message back if the application left it: touching fresh pages costs as much as the
    /// message's bytes.
    pub fn give_back(&mut self, mut buffers: Buffers) {
        let capacity = buffers.bytes.capacity();
        buffers.bytes.clear();
        buffers.units.clear();
        if capacity > KEPT_BYTES_MAX as usize {
            let bytes = buffers.capacity_bytes();
            if self.has_room_to_keep(bytes) && self.large.len() < LARGE_KEPT_MAX {
                self.bytes_kept += bytes;
                self.large.push(buffers);
            }
        } else if capacity.is_power_of_two()
            && capacity >= CLASS_BYTES_MIN as usize
            && let Some(class) = Self::class(capacity as u32)
        {
            let bytes = Self::held_bytes(capacity as u32);
            // One whose message was far longer may have the bitmap of that.
            let is_of_class = buffers.capacity_bytes() <= bytes;
            if is_of_class && self.has_room_to_keep(bytes) && self.kept[class].len() < KEPT_MAX {
                self.bytes_kept += bytes;
                self.kept[class].push(buffers);
            }
        }
    }

    const fn has_room_to_keep(&self, bytes: u64) -> bool {
        self.bytes_used + self.bytes_kept + bytes <= self.bytes_max
    }

    pub(super) fn drop_largest_kept(&mut self) {
        if let Some(buffers) = self.large.pop() {
            self.bytes_kept -= buffers.capacity_bytes();
            return;
        }
        for (class, kept) in self.kept.iter_mut().enumerate().rev() {
            if kept.pop().is_some() {
                self.bytes_kept -= Self::held_bytes(CLASS_BYTES_MIN << class);
                return;
            }
        }
    }

    /// A message of `total` bytes has left with its memory.
    pub(super) fn forget(&mut self, total: u32) {
        self.bytes_used -= Self::charge_bytes(total);
    }

    /// A message of `total` bytes is over: its buffer is for another one.
    pub(super) fn release(&mut self, total: u32, mut buffers: Buffers) {
        self.bytes_used -= Self::charge_bytes(total);
        let Some(class) = Self::class(total) else { return self.give_back(buffers) };
        if self.kept[class].len() < KEPT_MAX {
            buffers.bytes.clear();
            buffers.units.clear();
            self.bytes_kept += Self::held_bytes(total);
            self.kept[class].push(buffers);
        }
    }
}
