//! Memory for copies of frames: of messages the receiver refused for now, and of lost datagrams whose own memory is needed so
//! that what is in them can leave again.
//!
//! It is used again, last in, first out: a receiver without room refuses thousands of messages a second.

/// Bytes kept for other copies.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct FrameCopies {
    kept: Vec<Vec<u8>>,
    kept_bytes: usize,
}

impl FrameCopies {
    /// A copy, to be [given back](Self::give_back).
    pub fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut copy = self.kept.pop().unwrap_or_default();
        self.kept_bytes -= charge(&copy);
        copy.reserve_exact(bytes.len());
        copy.extend_from_slice(bytes);
        copy
    }

    /// Takes a copy's memory back.
    pub fn give_back(&mut self, mut copy: Vec<u8>) {
        if self.kept_bytes + charge(&copy) <= KEPT_BYTES_MAX {
            copy.clear();
            self.kept_bytes += charge(&copy);
            self.kept.push(copy);
        }
    }
}

/// What keeping it takes; nothing if it has no memory.
const fn charge(copy: &Vec<u8>) -> usize {
    if copy.capacity() == 0 { 0 } else { copy.capacity() + size_of::<Vec<u8>>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_up_to_the_bound() {
        let mut copies = FrameCopies::default();
        let frame = [7; 1_400];
        let held: Vec<_> = (0..1_000).map(|_| copies.copy(&frame)).collect();
        assert!(held.iter().all(|copy| copy == &frame));
        held.into_iter().for_each(|copy| copies.give_back(copy));
        assert_eq!(
            (copies.kept.len(), copies.kept_bytes),
            (KEPT_BYTES_MAX / 1_424, KEPT_BYTES_MAX / 1_424 * 1_424)
        );
        let place = copies.kept.last().map(|copy| copy.as_ptr());
        let short = copies.copy(&frame[..80]);
        assert_eq!((Some(short.as_ptr()), short.len()), (place, 80));
        copies.give_back(short);
        let held: Vec<_> = (0..1_000).map(|_| copies.copy(&frame)).collect();
        assert_eq!((copies.kept.len(), copies.kept_bytes), (0, 0));
        drop(held);
    }
}
