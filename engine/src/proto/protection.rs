//! Datagrams of the binary wire, sealed with keys of one's own: who has no key reads nothing, changes nothing, and adds nothing.
//!
//! The engine says *what* is sealed, *when* keys begin, and which number is never used twice; a [`Protection`] (builder
//! option `protection`) says *how*: an AEAD, RFC 5116, and where its keys come from. There is one that needs no code,
//! [`PreSharedKeys`], with keys from a file (option `key_file`). With either, it is required of every peer: no row, no probe
//! and nothing unsealed leaves the engine or has an effect (R-PROT-1). It needs `wire = binary`.
//!
//! # What is sealed
//! ```text
//!   |header, 28 bytes      | sealed frames                | tag |     any datagram of a flow
//!   |header, 28 bytes| salt, 32 bytes | sealed HELLO     | tag |     handshake
//!   '--- associated data, in the clear ---'               '-- `tag_bytes`, out of the datagram's size
//! ```
//! The body is changed in place. Sealing: it comes as the plain bytes and `tag_bytes` bytes of room behind them; all of it is
//! written. Opening: it comes as it was sealed, and the plain bytes are left in front of the tag's place; if the answer is
//! [`Unauthentic`], the datagram is dropped as `binary_unauthentic` and the body is not looked at.
//!
//! # Keys
//! - *Key ids.* A HELLO says in the clear, and authenticated, which of several keys it is sealed with
//!   ([`key_id`](Protection::key_id)); its answer has the same, and so has the flow. Who has one key only need not care.
//! - *Handshake.* Each HELLO has a fresh random salt in the clear. [`seal_hello`](Protection::seal_hello) derives a key from a
//!   long-lived secret and the salt, and uses it for this one datagram. A HELLO proves that its sender has the secret, not
//!   that it is new: nothing but an answer follows from it.
//! - *Traffic.* Each side puts 16 fresh random bytes into its HELLO, under that seal. When both sides know both,
//!   [`flow`](Protection::flow) is called once for each direction with what names the flow ([`Direction`]): both sides get
//!   equal values, so a hash of the secret and of all of it is a key for the direction. What opens under it is new: it
//!   contains our random bytes of this handshake.
//! - *Nonces.* `packet_number` never repeats in one direction of a flow, which makes it a nonce under that direction's key. It
//!   does repeat in other flows of the same engines: tags and random bytes must go into the key.
//! - *New keys.* [`key_phase`](FlowProtection::key_phase) is asked before each datagram is sealed, and its answer is a bit of
//!   the header: a context that has sealed 2^26 datagrams goes on to a next key by turning it. Datagrams come in any order, so
//!   the opening side keeps the key before for a while. One key must last for more than can be under way (credit: some ten
//!   thousand datagrams): one bit does not tell a key from the one after the next.
//!
//! The cost: the cipher, and a copy of each datagram at either end, unless it brings [`seal_to`](FlowProtection::seal_to) and
//! [`open_to`](FlowProtection::open_to). Without a protection nothing of this costs anything.
//! A protection must not block; what panics stops the engine, as an actor does. `Debug` must not print keys.
//!
//! `examples/own_protection.rs` seals with ChaCha20-Poly1305 and a pre-shared key through HKDF.

pub use super::keys::{Cipher, ParseCipherError, PreSharedKeys};

use std::fmt;
use std::net::SocketAddr;

/// Bytes of salt in a HELLO.
pub const SALT_BYTES: usize = 32;
/// Bytes of randomness each side adds to the keys of a flow.
pub const RANDOM_BYTES: usize = 16;
/// Longest tag.
pub const TAG_BYTES_MAX: usize = 64;

/// The body was not sealed with this key over these bytes: altered, forged, or of somebody with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the datagram does not open under this key")]
pub struct Unauthentic;

/// A HELLO as it is sealed or opened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HelloHead<'a> {
    /// The other side's address. It is not proven.
    pub peer: SocketAddr,
    /// What is authenticated beside the body: header and salt.
    pub associated: &'a [u8],
    /// Random, of this HELLO alone.
    pub salt: &'a [u8; SALT_BYTES],
    /// Which key it is sealed with: see [`Protection::key_id`].
    pub key_id: u32,
}

/// A datagram of a flow as it is sealed or opened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PacketHead<'a> {
    /// What is authenticated beside the body: the header.
    pub associated: &'a [u8],
    /// The nonce: it is sealed once in this direction of the flow.
    pub packet_number: u64,
    /// Which of two keys: see [`FlowProtection::key_phase`].
    pub key_phase: bool,
}

/// One end of a flow, by what its HELLO said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct End {
    /// What it receives under: 40 random bits, and an index.
    pub tag: u64,
    /// Its number of the handshake.
    pub nonce: u64,
    /// What it adds to the keys.
    pub random: [u8; RANDOM_BYTES],
    /// Its start (R-FLOW-8).
    pub epoch: u32,
}

/// One direction of one flow: the same values at both ends of it, but for `peer`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Direction {
    /// Who seals.
    pub sender: End,
    /// Who opens.
    pub receiver: End,
    /// In every header of the flow.
    pub route: u8,
    /// The sender opened the flow.
    pub from_opener: bool,
    /// That of both HELLOs: see [`Protection::key_id`].
    pub key_id: u32,
    /// The address of the other side, which may change later (R-MOVE-1).
    pub peer: SocketAddr,
}

/// How datagrams are protected. Shared by all shards of an engine. See the [module](self).
pub trait Protection: fmt::Debug + Send + Sync {
    /// Bytes a sealed body is longer than a plain one: at most [`TAG_BYTES_MAX`], always the same.
    fn tag_bytes(&self) -> usize;

    /// Which key the first HELLO of a flow to this address is sealed with; `present` is the one that an earlier HELLO of the
    /// flow had, and should be kept as long as there is that key. The answer to it and the flow have the same. `None`: there
    /// is no key for this address; nothing is sent, and what is put to it ends `TimedOut`. Always the same answer until the
    /// [`generation`](Self::generation) is another one. Standard: always 0.
    fn key_id(&self, peer: SocketAddr, present: Option<u32>) -> Option<u32> {
        let _ = (peer, present);
        Some(0)
    }

    /// Another number each time that [`key_id`](Self::key_id), [`has_key`](Self::has_key) or [`is_retired`](Self::is_retired) begin
    /// to answer otherwise. Asked in every turn: flows whose key is gone end then, and flows with a retired one take no new
    /// messages (R-PROT-14). Standard: always 0.
    fn generation(&self) -> u64 {
        0
    }

    /// Whether another key has taken the place of this one, with which first HELLOs to this address were sealed before: messages
    /// take no flow with it, whoever opened it, for it is about to go (R-PROT-14). Standard: no.
    fn is_retired(&self, peer: SocketAddr, key_id: u32) -> bool {
        let _ = (peer, key_id);
        false
    }

    /// Whether flows to this address may go on with a key: it is there, whoever it is for (a flow keeps its key where it moves:
    /// R-PROT-13), and has not been taken away from this peer. Standard: yes.
    fn has_key(&self, peer: SocketAddr, key_id: u32) -> bool {
        let _ = (peer, key_id);
        true
    }

    /// Seals a HELLO of ours in place.
    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]);

    /// Opens a HELLO in place. Anyone can have it called, as often as datagrams come.
    ///
    /// # Errors
    /// It was not sealed with this secret, or not like this.
    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic>;

    /// What protects one direction of a flow whose handshake is done.
    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection>;
}

/// What protects one direction of one flow. The sender's only seals, the receiver's only opens; each is owned by the thread
/// of its shard.
pub trait FlowProtection: fmt::Debug + Send {
    /// The phase of the key that datagram `packet_number`, about to be sealed, gets: a bit of its header. Standard: always
    /// the first one.
    fn key_phase(&mut self, packet_number: u64) -> bool {
        let _ = packet_number;
        false
    }

    /// Seals a datagram in place.
    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]);

    /// Seals `plain` into `sealed`, which is longer by the tag. Standard: a copy, sealed in place. A cipher that reads in one place
    /// and writes in another saves the copy of every datagram.
    fn seal_to(&mut self, head: &PacketHead<'_>, plain: &[u8], sealed: &mut [u8]) {
        sealed[..plain.len()].copy_from_slice(plain);
        self.seal(head, sealed);
    }

    /// Opens a datagram in place. Numbers come in any order, some more than once: the engine drops those itself.
    ///
    /// # Errors
    /// It was not sealed with this key, or not like this. What opens, and what does not, may not change by that.
    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic>;

    /// Opens `sealed` into `plain`, which is as long, and at whose end so many bytes as the tag has are left over. Standard: a
    /// copy, opened in place.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_to(&mut self, head: &PacketHead<'_>, sealed: &[u8], plain: &mut [u8]) -> Result<(), Unauthentic> {
        plain.copy_from_slice(sealed);
        self.open(head, plain)
    }
}
