//! Numbers from an input.

/// What is left of an input. Once it is used up everything is 0, so that every input means something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(super) const fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// So many bytes, or as many as there are.
    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(super) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One in two.
    pub(super) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// 0 to `count - 1`, from one byte.
    pub(super) fn below(&mut self, count: u8) -> u8 {
        self.u8() % count
    }

    /// A value or nothing.
    pub(super) fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| value(self))
    }

    /// Where numbers are odd: around 0, around a power of two, around the end; or any, from eight bytes.
    pub(super) fn number(&mut self) -> u64 {
        let kind = self.u8();
        let near = i64::from(self.u8().cast_signed());
        match kind % 4 {
            0 => near.unsigned_abs(),
            1 => 1_u64.rotate_left(u32::from(kind / 4)).wrapping_add_signed(near),
            2 => u64::MAX - near.unsigned_abs(),
            _ => self.u64(),
        }
    }
}
