//! HELLO: what a side of a flow tells the other before anything else.

use super::encode::Cursor;
use super::read::{Reader, once};
use crate::wire::DropReason;

const VERSIONS: u8 = 1;
const TAG: u8 = 2;
const NONCE: u8 = 3;
const ECHO: u8 = 4;
const BASES: u8 = 5;
const LIMITS: u8 = 6;
const DEDUP: u8 = 7;
const SHARDS: u8 = 8;
const COOKIE: u8 = 9;

const TLV_BYTES: usize = 2;
const BASES_BYTES: usize = 3 * 8;
const LIMITS_BYTES: usize = 4 + 2;

/// No number begins above this: what follows then never comes near the end of its type.
pub const BASE_MAX: u64 = 1 << 62;

/// The first numbers a side uses in a flow, each up to [`BASE_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bases {
    /// Of its datagrams.
    pub packet_number: u64,
    /// Of its operations in the message space.
    pub messages: u64,
    /// Of its operations in the chunked space.
    pub chunked: u64,
}

/// What a side can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message.
    pub message_bytes_max: u32,
    /// Bytes of a datagram, header included.
    pub datagram_bytes_max: u16,
}

/// The first words of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Versions the side speaks, at most 255; empty: it does not say.
    pub versions: &'a [u8],
    /// What the other side puts into its headers. Never 0.
    pub tag: u64,
    /// To be echoed by the answer.
    pub nonce: u64,
    /// The other side's nonce; in answers only.
    pub echo: Option<u64>,
    /// The first numbers used.
    pub bases: Bases,
    /// What the side can take.
    pub limits: Option<Limits>,
    /// How long the side remembers operations, in milliseconds.
    pub dedup_ms: Option<u32>,
    /// How many shards the side has.
    pub shards: Option<u8>,
    /// What the other side gave out to prove an address.
    pub cookie: Option<u64>,
}

impl<'a> Hello<'a> {
    /// R-BIN-14: a known TLV of wrong length or twice, or a mandatory one missing, is malformed, as are bases beyond
    /// [`BASE_MAX`] (R-BIN-16); unknown TLVs are skipped.
    pub(super) fn read(mut body: Reader<'a>) -> Result<Self, DropReason> {
        let mut versions: &[u8] = &[];
        let (mut tag, mut nonce, mut echo, mut cookie) = (None, None, None, None);
        let (mut bases, mut limits, mut dedup, mut shards) = (None, None, None, None);
        while let Some((kind, value)) = body.tlv()? {
            match kind {
                // An empty list is no list, so an empty place is one that was not filled.
                VERSIONS if versions.is_empty() && !value.is_empty() => versions = value,
                VERSIONS => return Err(DropReason::BinaryMalformed),
                TAG => once::<8>(&mut tag, value)?,
                NONCE => once::<8>(&mut nonce, value)?,
                ECHO => once::<8>(&mut echo, value)?,
                BASES => once::<BASES_BYTES>(&mut bases, value)?,
                LIMITS => once::<LIMITS_BYTES>(&mut limits, value)?,
                DEDUP => once::<4>(&mut dedup, value)?,
                SHARDS => once::<1>(&mut shards, value)?,
                COOKIE => once::<8>(&mut cookie, value)?,
                _ => {}
            }
        }
        let (Some(tag), Some(nonce), Some(bases)) = (tag.map(u64::from_le_bytes), nonce, bases) else {
            return Err(DropReason::BinaryMalformed);
        };
        if tag == 0 {
            return Err(DropReason::BinaryMalformed); // 0 says that there is no tag.
        }
        let mut numbers = Reader::new(&bases);
        let limits = limits.map(|value| {
            let [m0, m1, m2, m3, d0, d1] = value;
            Limits {
                message_bytes_max: u32::from_le_bytes([m0, m1, m2, m3]),
                datagram_bytes_max: u16::from_le_bytes([d0, d1]),
            }
        });
        let bases =
            Bases { packet_number: numbers.u64()?, messages: numbers.u64()?, chunked: numbers.u64()? };
        if bases.packet_number.max(bases.messages).max(bases.chunked) > BASE_MAX {
            return Err(DropReason::BinaryMalformed);
        }
        Ok(Self {
            versions,
            tag,
            nonce: u64::from_le_bytes(nonce),
            echo: echo.map(u64::from_le_bytes),
            bases,
            limits,
            dedup_ms: dedup.map(u32::from_le_bytes),
            shards: shards.map(u8::from_le_bytes),
            cookie: cookie.map(u64::from_le_bytes),
        })
    }

    /// Bytes of the TLVs.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        const fn tlv(there: bool, bytes: usize) -> usize {
            if there { TLV_BYTES + bytes } else { 0 }
        }
        tlv(!self.versions.is_empty(), self.versions.len())
            + tlv(true, 8)
            + tlv(true, 8)
            + tlv(self.echo.is_some(), 8)
            + tlv(true, BASES_BYTES)
            + tlv(self.limits.is_some(), LIMITS_BYTES)
            + tlv(self.dedup_ms.is_some(), 4)
            + tlv(self.shards.is_some(), 1)
            + tlv(self.cookie.is_some(), 8)
    }

    pub(super) fn write(&self, to: &mut Cursor<'_>) {
        assert!(self.tag != 0 && self.versions.len() <= 255, "a HELLO that its receiver will take");
        if !self.versions.is_empty() {
            to.bytes(&[VERSIONS, self.versions.len() as u8]);
            to.bytes(self.versions);
        }
        let mut number = |kind: u8, value: Option<u64>| {
            if let Some(value) = value {
                to.bytes(&[kind, 8]);
                to.u64(value);
            }
        };
        number(TAG, Some(self.tag));
        number(NONCE, Some(self.nonce));
        number(ECHO, self.echo);
        to.bytes(&[BASES, BASES_BYTES as u8]);
        to.u64(self.bases.packet_number);
        to.u64(self.bases.messages);
        to.u64(self.bases.chunked);
        if let Some(limits) = self.limits {
            to.bytes(&[LIMITS, LIMITS_BYTES as u8]);
            to.u32(limits.message_bytes_max);
            to.u16(limits.datagram_bytes_max);
        }
        if let Some(dedup_ms) = self.dedup_ms {
            to.bytes(&[DEDUP, 4]);
            to.u32(dedup_ms);
        }
        if let Some(shards) = self.shards {
            to.bytes(&[SHARDS, 1, shards]);
        }
        if let Some(cookie) = self.cookie {
            to.bytes(&[COOKIE, 8]);
            to.u64(cookie);
        }
    }
}
