//! What a peer of `endpoint` seals and opens with, where everything is sealed: it says anything, but with the right keys.

use crate::proto::binary::flow::Identity;
use crate::proto::binary::guard::{self, Guard, hello_bytes};
use crate::proto::protection::{PreSharedKeys, Protection, RANDOM_BYTES, SALT_BYTES};
use crate::wire::binary::{HEADER_BYTES, Header, decode_sealed};
use std::net::SocketAddr;

/// See the module.
#[derive(Debug)]
pub(super) struct Seals {
    keys: PreSharedKeys,
    /// The engine.
    to: SocketAddr,
    key_id: u32,
    guard: Guard,
    /// It knows both HELLOs of its last flow.
    is_open: bool,
    opened: Vec<u8>,
    salts: u8,
}

/// A side's own words in a handshake, and its incarnation.
pub(super) type Words = (u64, u32);

impl Seals {
    pub(super) fn new(keys: PreSharedKeys, to: SocketAddr) -> Self {
        let guard = Guard::new([0x33; RANDOM_BYTES], keys.tag_bytes());
        Self { keys, to, key_id: 1, guard, is_open: false, opened: Vec::new(), salts: 0 }
    }

    pub(super) const fn random(&self) -> [u8; RANDOM_BYTES] {
        self.guard.random()
    }

    #[cfg(test)]
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Its next HELLOs have this key.
    pub(super) const fn set_key_id(&mut self, key_id: u32) {
        self.key_id = key_id;
    }

    /// Both HELLOs are known: `random` is the engine's.
    pub(super) fn establish(
        &mut self,
        identity: &Identity,
        own: Words,
        (nonce, random): (u64, [u8; RANDOM_BYTES]),
        opener: bool,
    ) {
        self.guard.set_key_id(self.key_id);
        self.guard.establish(&self.keys, identity, own, (nonce, random), opener);
        self.is_open = true;
    }

    /// A plain datagram as it leaves: as one of its flow, or as a HELLO.
    pub(super) fn seal(&mut self, plain: &[u8], packet_number: u64, is_hello: bool) -> Vec<u8> {
        if self.is_open && !is_hello {
            let mut sealed = vec![0; plain.len() + self.guard.tag_bytes()];
            self.guard.seal_copy(packet_number, plain, &mut sealed);
            return sealed;
        }
        self.salts = self.salts.wrapping_add(1);
        let mut sealed = vec![0; plain.len() + hello_bytes(Some(&self.keys))];
        let (header, frames) = plain.split_at(HEADER_BYTES);
        sealed[..HEADER_BYTES].copy_from_slice(header);
        let key = (self.key_id, &[self.salts; SALT_BYTES]);
        guard::seal_hello(&self.keys, self.to, key, &mut sealed, |area| area.copy_from_slice(frames));
        sealed
    }

    /// The engine's header and frames, if they can be opened: the flow may be one that this side has forgotten.
    ///
    /// # Panics
    /// The engine says something that is not sealed.
    pub(super) fn open(&mut self, datagram: &[u8]) -> Option<(Header, &[u8])> {
        let sealed = decode_sealed(datagram).expect("everything is sealed");
        let Self { keys, to, guard, is_open, opened, .. } = self;
        if sealed.key_id == 0 {
            return if *is_open { guard.open(&sealed, datagram, opened).ok() } else { None };
        }
        guard::open_hello(keys, *to, &sealed, datagram, opened).ok()
    }

    /// The key of a HELLO of the engine's that is answered.
    pub(super) fn answer_with(&mut self, datagram: &[u8]) {
        self.key_id = decode_sealed(datagram).map_or(self.key_id, |sealed| sealed.key_id);
    }
}
