//! Where the bytes of a message come from: written once, straight into the datagram they leave in, or made one's own where
//! the message has to wait.

use bytes::Bytes;

/// A payload on its way in.
pub trait Source {
    /// How long it is.
    fn len(&self) -> usize;
    /// Writes it into a space of that length.
    fn write(self, space: &mut [u8]);
    /// Makes it one's own.
    fn own(self) -> Bytes;
}

/// A payload somebody shares with us.
pub struct Shared(pub Bytes);

impl Source for Shared {
    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn write(self, space: &mut [u8]) {
        space.copy_from_slice(&self.0);
    }

    fn own(self) -> Bytes {
        self.0
    }
}

/// A payload that is copied: into the datagram, or by `own`.
pub struct Borrowed<'a, O> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Copies them.
    pub own: O,
}

impl<O: FnOnce(&[u8]) -> Bytes> Source for Borrowed<'_, O> {
    #[inline]
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn write(self, space: &mut [u8]) {
        space.copy_from_slice(self.bytes);
    }

    fn own(self) -> Bytes {
        (self.own)(self.bytes)
    }
}

/// A payload that is written where it is needed.
pub struct Written<F, O> {
    /// How long it is.
    pub len: usize,
    /// Writes it.
    pub fill: F,
    /// Makes room for it, has it written, and makes it one's own.
    pub own: O,
}

impl<F: FnOnce(&mut [u8]), O: FnOnce(usize, F) -> Bytes> Source for Written<F, O> {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn write(self, space: &mut [u8]) {
        (self.fill)(space);
    }

    fn own(self) -> Bytes {
        (self.own)(self.len, self.fill)
    }
}
