//! Payload memory of the sending side, without an allocation per message: small ones are cut from blocks, large ones use
//! the buffers of messages that have ended.

use crate::payload::{self, Stamp};
use crate::plan::Terms;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use udp_plus::Outgoing;

const BLOCK_BYTES: usize = 1 << 20;
/// Up to here messages are cut from blocks.
const SMALL_BYTES_MAX: usize = 64 << 10;
/// Blocks looked at before a new one is taken.
const LOOKS: usize = 2;

/// Makes payloads.
#[derive(Debug)]
pub struct Supply {
    block: BytesMut,
    blocks: VecDeque<BytesMut>,
    /// Of large messages, oldest first; one whose message has ended is ours alone.
    used: VecDeque<Bytes>,
    used_max: usize,
}

impl Supply {
    /// For messages of which up to `in_flight` are under way.
    pub fn new(in_flight: usize) -> Self {
        Self {
            block: BytesMut::new(),
            blocks: VecDeque::new(),
            used: VecDeque::new(),
            used_max: in_flight + in_flight / 4 + 2,
        }
    }

    /// Message `stamp`, so many bytes long, for `to`, with its slot as tag.
    pub fn message(&mut self, stamp: Stamp, bytes: usize, to: SocketAddr, terms: &Terms) -> Outgoing {
        terms.apply(Outgoing::to(to, self.make(stamp, bytes)).tag(stamp.tag()))
    }

    /// The payload of message `stamp`.
    pub fn make(&mut self, stamp: Stamp, size: usize) -> Bytes {
        if size > SMALL_BYTES_MAX {
            return self.make_large(stamp, size);
        }
        if self.block.capacity() < size {
            self.change_block();
        }
        // Within capacity: the bytes were written once, when the block was new, or are written now.
        self.block.resize(size, 0);
        let mut own = self.block.split();
        payload::fill(&mut own, stamp);
        own.freeze()
    }

    #[cold]
    fn change_block(&mut self) {
        let full = std::mem::take(&mut self.block);
        self.blocks.push_back(full);
        for _ in 0..LOOKS.min(self.blocks.len()) {
            let Some(mut oldest) = self.blocks.pop_front() else { break };
            if oldest.try_reclaim(BLOCK_BYTES) {
                self.block = oldest;
                return;
            }
            self.blocks.push_back(oldest);
        }
        self.block = BytesMut::with_capacity(BLOCK_BYTES);
    }

    fn make_large(&mut self, stamp: Stamp, size: usize) -> Bytes {
        let mut own = None;
        for _ in 0..LOOKS.min(self.used.len()) {
            let Some(oldest) = self.used.pop_front() else { break };
            match oldest.try_into_mut() {
                // A shorter one makes room for one that fits.
                Ok(mut unique) if unique.capacity() >= size => {
                    unique.resize(size, 0);
                    own = Some(unique);
                    break;
                }
                Ok(_) => {}
                Err(busy) => self.used.push_back(busy),
            }
        }
        let mut own = own.unwrap_or_else(|| BytesMut::zeroed(size));
        payload::fill(&mut own, stamp);
        let bytes = own.freeze();
        if self.used.len() < self.used_max {
            self.used.push_back(bytes.clone());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn memory_comes_back() {
        for (size, messages, places_max) in
            [(64, 200_000, 1 << 17), (5_000, 2_000, 1_000), (1 << 20, 100, 20)]
        {
            let mut supply = Supply::new(8);
            let mut under_way = VecDeque::new();
            let mut places = BTreeSet::new();
            for number in 0..messages {
                let stamp = Stamp { run: 1, slot: 2, number };
                let message = supply.make(stamp, size);
                assert_eq!((message.len(), payload::check(&message)), (size, Some(stamp)));
                places.insert(message.as_ptr() as usize);
                under_way.push_back((stamp, message));
                if under_way.len() > 8 {
                    let (stamp, message) = under_way.pop_front().expect("some");
                    assert_eq!(payload::check(&message), Some(stamp), "it was overwritten");
                }
            }
            assert!(places.len() <= places_max, "{size}: {} places for {messages}", places.len());
        }
    }
}
