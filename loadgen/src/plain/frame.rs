//! Messages in a stream: each with its length before it, four bytes, the lowest one first.

use std::io::{ErrorKind, Read};
use std::ops::Range;

/// Before each message.
pub const LENGTH_BYTES: usize = 4;
/// Room for one read, at least.
const READ_BYTES: usize = 64 << 10;

/// Writes message `bytes` long by `fill` to the end of `out`.
pub fn append(out: &mut Vec<u8>, bytes: usize, fill: impl FnOnce(&mut [u8])) {
    let begin = out.len() + LENGTH_BYTES;
    out.extend_from_slice(&(bytes as u32).to_le_bytes());
    out.resize(begin + bytes, 0);
    fill(&mut out[begin..]);
}

/// What came of a stream and was not looked at yet.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Of the buffer, this holds something.
    held: Range<usize>,
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side closed it, or the connection broke.
    Closed,
    /// A message is longer than any of ours.
    TooLong,
}

impl Frames {
    /// Takes what is there, once. Returns whether there may be more.
    pub fn read(&mut self, from: &mut impl Read) -> Result<bool, End> {
        if self.held.is_empty() {
            self.held = 0..0;
        } else if self.buffer.len() - self.held.end < READ_BYTES && self.held.start > 0 {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        if self.buffer.len() - self.held.end < READ_BYTES {
            // As much again as there is: memory follows what came, not what was announced.
            self.buffer.resize((self.buffer.len() * 2).max(self.held.end + READ_BYTES), 0);
        }
        match from.read(&mut self.buffer[self.held.end..]) {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.held.end += count;
                Ok(self.held.end == self.buffer.len())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(End::Closed),
        }
    }

    /// Takes the next message that is there in full, up to so many bytes long.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<&[u8]>, End> {
        let held = &self.buffer[self.held.clone()];
        let Some(length) = held.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > bytes_max {
            return Err(End::TooLong);
        }
        let begin = self.held.start + LENGTH_BYTES;
        if held.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        self.held.start = begin + length;
        Ok(Some(&self.buffer[begin..begin + length]))
    }

    /// Memory it takes.
    pub const fn memory_bytes(&self) -> usize {
        self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out a stream in pieces of so many bytes, then has nothing for now.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = self.1.min(into.len()).min(self.0.len());
            let (piece, rest) = self.0.split_at(count);
            into[..count].copy_from_slice(piece);
            self.0 = rest;
            Ok(count)
        }
    }

    #[test]
    fn however_it_is_cut() {
        let lengths = [0, 1, 3, 64, 70_000, 5, 200_000, 16];
        let mut stream = Vec::new();
        for (n, &length) in lengths.iter().enumerate() {
            append(&mut stream, length, |into| into.fill(n as u8));
        }
        for piece in [1, 3, 64, 4_096, 1 << 20] {
            let (mut frames, mut pieces, mut seen) = (Frames::default(), Pieces(&stream, piece), 0);
            loop {
                let before = pieces.0.len();
                frames.read(&mut pieces).expect("open");
                while let Some(message) = frames.next(200_000).expect("short enough") {
                    assert_eq!(message.len(), lengths[seen]);
                    assert!(message.iter().all(|&byte| byte == seen as u8));
                    seen += 1;
                }
                if before == 0 {
                    break;
                }
            }
            assert_eq!(seen, lengths.len(), "pieces of {piece}");
            assert!(frames.memory_bytes() <= 1 << 20, "{}", frames.memory_bytes());
        }
    }

    #[test]
    fn what_is_announced_takes_no_memory() {
        let mut frames = Frames::default();
        let mut claim = Pieces(&[0xFF, 0xFF, 0xFF, 0x03], 4);
        frames.read(&mut claim).expect("open");
        assert_eq!(frames.next(64 << 20), Ok(None));
        assert!(frames.memory_bytes() <= READ_BYTES);
        assert_eq!(frames.next(1 << 20), Err(End::TooLong));
        assert_eq!(Frames::default().read(&mut Pieces(&[], 1)), Ok(false));
        assert_eq!(Frames::default().read(&mut &b""[..]), Err(End::Closed));
    }
}
