//! A datagram protection without cryptography: enough to see that nothing goes plain, and nothing altered is believed.

use crate::proto::protection::{Direction, FlowProtection, HelloHead, PacketHead, Protection, Unauthentic};
use siphasher::sip::SipHasher24;
use std::hash::{Hash, Hasher};

/// No cipher: a keyed hash as the tag, and bytes that are not the plain ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toy(pub(crate) u64);

impl Toy {
    const TAG_BYTES: usize = 8;

    fn tag(self, associated: &[u8], number: u64, sealed: &[u8]) -> [u8; Self::TAG_BYTES] {
        let mut hasher = SipHasher24::new_with_keys(self.0, number);
        (associated, sealed).hash(&mut hasher);
        hasher.finish().to_le_bytes()
    }

    fn seal(self, associated: &[u8], number: u64, body: &mut [u8]) {
        let (plain, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
        plain.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
        tag.copy_from_slice(&self.tag(associated, number, plain));
    }

    fn open(self, associated: &[u8], number: u64, body: &mut [u8]) -> Result<(), Unauthentic> {
        let (sealed, tag) = body.split_at_mut(body.len() - Self::TAG_BYTES);
        if *tag != self.tag(associated, number, sealed) {
            return Err(Unauthentic);
        }
        sealed.iter_mut().for_each(|byte| *byte ^= self.0 as u8 | 1);
        Ok(())
    }
}

impl Protection for Toy {
    fn tag_bytes(&self) -> usize {
        Self::TAG_BYTES
    }
    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        (*self).seal(head.associated, 0, body);
    }
    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        (*self).open(head.associated, 0, body)
    }
    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let mut hasher = SipHasher24::new_with_keys(self.0, 1);
        format!("{:?}", (direction.sender, direction.receiver, direction.route, direction.from_opener))
            .hash(&mut hasher);
        Box::new(Self(hasher.finish()))
    }
}

impl FlowProtection for Toy {
    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        (*self).seal(head.associated, head.packet_number, body);
    }
    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        (*self).open(head.associated, head.packet_number, body)
    }
}
