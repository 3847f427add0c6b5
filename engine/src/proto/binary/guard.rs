//! Sealing and opening: which bytes of a datagram, with which context, and what its header says (R-PROT-2 to 4).
//!
//! The engine works on plain datagrams up to the moment they are handed to the batch, and from the moment they were opened:
//! what is kept to be sent again is plain, and is sealed anew under a new number.

use super::flow::Identity;
use crate::proto::protection::{
    Direction, End, FlowProtection, HelloHead, PacketHead, Protection, RANDOM_BYTES, SALT_BYTES,
};
use crate::wire::DropReason;
use crate::wire::binary::{self, HEADER_BYTES, Header, SealedHeader};
use std::net::SocketAddr;

/// Where the sealed part of a HELLO begins.
const HELLO_BODY_AT: usize = HEADER_BYTES + SALT_BYTES;

/// The protection of one flow.
#[derive(Debug)]
pub struct Guard {
    random: [u8; RANDOM_BYTES],
    tag_bytes: usize,
    /// Of its HELLOs; `None`: there is no key for its peer (R-PROT-10).
    key_id: Option<u32>,
    outgoing: Option<Box<dyn FlowProtection>>,
    incoming: Option<Box<dyn FlowProtection>>,
}

impl Guard {
    /// Of a flow whose handshake has not been answered.
    #[must_use]
    pub const fn new(random: [u8; RANDOM_BYTES], tag_bytes: usize) -> Self {
        Self { random, tag_bytes, key_id: None, outgoing: None, incoming: None }
    }

    /// Which key its HELLOs have.
    #[must_use]
    pub const fn key_id(&self) -> Option<u32> {
        self.key_id
    }

    /// A first HELLO of ours is about to leave: chooses its key, which stays as long as it is there.
    pub fn choose_key(&mut self, protection: &dyn Protection, to: SocketAddr) {
        self.key_id = protection.key_id(to, self.key_id);
    }

    /// The peer's HELLO has chosen.
    pub const fn set_key_id(&mut self, key_id: u32) {
        self.key_id = Some(key_id);
    }

    /// What this side adds to the keys.
    #[must_use]
    pub const fn random(&self) -> [u8; RANDOM_BYTES] {
        self.random
    }

    /// Bytes a sealed datagram is longer than a plain one.
    #[must_use]
    pub const fn tag_bytes(&self) -> usize {
        self.tag_bytes
    }

    /// The handshake is done: both sides' words are known. `opener` says that this side began it.
    pub fn establish(
        &mut self,
        protection: &dyn Protection,
        identity: &Identity,
        own: (u64, u32),
        peer: (u64, [u8; RANDOM_BYTES]),
        opener: bool,
    ) {
        let Some(key_id) = self.key_id else { return };
        let (nonce, epoch) = own;
        let own = End { tag: identity.own_tag, nonce, random: self.random, epoch };
        let (nonce, random) = peer;
        let peer = End { tag: identity.peer_tag, nonce, random, epoch: identity.peer_epoch };
        let direction = |sender, receiver, from_opener| Direction {
            sender,
            receiver,
            route: identity.route,
            from_opener,
            key_id,
            peer: identity.to,
        };
        self.outgoing = Some(protection.flow(&direction(own, peer, opener)));
        self.incoming = Some(protection.flow(&direction(peer, own, !opener)));
    }

    /// Seals a datagram whose header and frames are written; its last `tag_bytes` bytes are free.
    ///
    /// # Panics
    /// If the handshake is not done: our bug, nothing may leave plain.
    pub fn seal(&mut self, packet_number: u64, datagram: &mut [u8]) {
        let Some(context) = &mut self.outgoing else { unreachable!("a flow without keys sends nothing") };
        let key_phase = context.key_phase(packet_number);
        binary::mark_sealed(datagram, key_phase, 0);
        let (associated, body) = datagram.split_at_mut(HEADER_BYTES);
        context.seal(&PacketHead { associated, packet_number, key_phase }, body);
    }

    /// Seals a copy of a datagram that is kept plain; `space` is `tag_bytes` longer.
    ///
    /// # Panics
    /// As [`seal`](Self::seal).
    pub fn seal_copy(&mut self, packet_number: u64, datagram: &[u8], space: &mut [u8]) {
        let Some(context) = &mut self.outgoing else { unreachable!("a flow without keys sends nothing") };
        let key_phase = context.key_phase(packet_number);
        let (header, plain) = datagram.split_at(HEADER_BYTES);
        space[..HEADER_BYTES].copy_from_slice(header);
        binary::mark_sealed(space, key_phase, 0);
        let (associated, sealed) = space.split_at_mut(HEADER_BYTES);
        context.seal_to(&PacketHead { associated, packet_number, key_phase }, plain, sealed);
    }

    /// Opens a datagram of the flow into `opened`; what is left there are its frames.
    pub fn open<'a>(
        &mut self,
        sealed: &SealedHeader,
        datagram: &[u8],
        opened: &'a mut Vec<u8>,
    ) -> Result<(Header, &'a [u8]), DropReason> {
        let (associated, body) =
            datagram.split_at_checked(HEADER_BYTES).ok_or(DropReason::BinaryTruncated)?;
        let Some(plain_bytes) = body.len().checked_sub(self.tag_bytes) else {
            return Err(DropReason::BinaryTruncated);
        };
        let Some(context) = &mut self.incoming else { return Err(DropReason::BinaryUnauthentic) };
        let packet_number = sealed.header.packet_number;
        if opened.len() < body.len() {
            opened.resize(body.len(), 0);
        }
        let plain = &mut opened[..body.len()];
        context
            .open_to(&PacketHead { associated, packet_number, key_phase: sealed.key_phase }, body, plain)
            .map_err(|_| DropReason::BinaryUnauthentic)?;
        sealed.opened(&plain[..plain_bytes])
    }
}

/// Bytes a HELLO is longer with this protection.
#[must_use]
pub fn hello_bytes(protection: Option<&dyn Protection>) -> usize {
    protection.map_or(0, |protection| SALT_BYTES + protection.tag_bytes())
}

/// Seals a HELLO whose header is written: `write` writes its frames.
pub fn seal_hello(
    protection: &dyn Protection,
    peer: SocketAddr,
    (key_id, salt): (u32, &[u8; SALT_BYTES]),
    datagram: &mut [u8],
    write: impl FnOnce(&mut [u8]),
) {
    binary::mark_sealed(datagram, false, key_id);
    let (associated, body) = datagram.split_at_mut(HELLO_BODY_AT);
    associated[HEADER_BYTES..].copy_from_slice(salt);
    let plain_bytes = body.len() - protection.tag_bytes();
    write(&mut body[..plain_bytes]);
    protection.seal_hello(&HelloHead { peer, associated, salt, key_id }, body);
}

/// Opens a HELLO in `opened`; what is left there are its frames.
pub fn open_hello<'a>(
    protection: &dyn Protection,
    peer: SocketAddr,
    sealed: &SealedHeader,
    datagram: &[u8],
    opened: &'a mut Vec<u8>,
) -> Result<(Header, &'a [u8]), DropReason> {
    opened.clear();
    opened.extend_from_slice(datagram);
    let (associated, body) = opened.split_at_mut_checked(HELLO_BODY_AT).ok_or(DropReason::BinaryTruncated)?;
    let plain_bytes = body.len().checked_sub(protection.tag_bytes()).ok_or(DropReason::BinaryTruncated)?;
    let salt = associated.last_chunk::<SALT_BYTES>().ok_or(DropReason::BinaryTruncated)?;
    protection
        .open_hello(&HelloHead { peer, associated, salt, key_id: sealed.key_id }, body)
        .map_err(|_| DropReason::BinaryUnauthentic)?;
    sealed.opened(body.get(..plain_bytes).unwrap_or_default())
}
