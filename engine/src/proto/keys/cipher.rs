//! The ciphers, and what keys are made of: HKDF (RFC 5869) with SHA-256, AEADs (RFC 5116) with tags of 16 bytes. All of it is
//! aws-lc's; it compares tags in constant time, and clears its own contexts when they are dropped.
//!
//! ```text
//!   key of the file, 32 bytes
//!     '- root  = Extract(salt "udp-plus/2", key), Expand "udp-plus/2 root"
//!          |- HELLO:   Expand "udp-plus/2 hello", cipher, key id, salt of this HELLO
//!          '- traffic: Expand "udp-plus/2 traffic", cipher, key id, sender, receiver, route, opener: a direction's first secret
//!               |- key:  Expand "udp-plus/2 key", 32 bytes
//!               |- iv:   Expand "udp-plus/2 iv", 12 bytes
//!               '- next: Expand "udp-plus/2 next": the next secret (RFC 9001 section 6.1)
//! ```
//! Nonces are the iv, its last 8 bytes XORed with the packet number (RFC 9001 section 5.3).

use crate::proto::protection::{Direction, End, SALT_BYTES, Unauthentic};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Bytes of a key, whichever the cipher is.
pub(super) const KEY_BYTES: usize = 32;
/// Bytes of a tag, whichever the cipher is.
pub(super) const TAG_BYTES: usize = 16;

/// What datagrams are sealed with. Both sides of a flow must have the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D): the faster one where the processor has instructions for it.
    #[default]
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439): for processors without.
    ChaCha20Poly1305,
}

impl Cipher {
    /// Every cipher.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name, as it parses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// So many datagrams that do not open may be tried under the keys of one direction (RFC 9001 section 6.6).
    pub(super) const fn forgeries_max(self) -> u64 {
        match self {
            Self::Aes256Gcm => 1 << 52,
            Self::ChaCha20Poly1305 => 1 << 36,
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    /// In what keys are made of: a key is of one cipher.
    const fn code(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A text that is no [`Cipher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ciphers are aes-256-gcm and chacha20-poly1305")]
pub struct ParseCipherError;

impl FromStr for Cipher {
    type Err = ParseCipherError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|cipher| cipher.label() == text).ok_or(ParseCipherError)
    }
}

/// 32 secret bytes that others are made of. It is not printed, and cleared when it is dropped.
#[derive(Clone)]
pub(super) struct Secret(hkdf::Prk);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A length, as the library wants it.
struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(from: &hkdf::Prk, label: &[u8], rest: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    // The 0 ends the label: none is the beginning of another one with what follows it.
    let made =
        from.expand(&[b"udp-plus/2 ", label, &[0], rest], Bytes(N)).and_then(|okm| okm.fill(&mut *out));
    assert!(made.is_ok(), "HKDF refuses nothing but outputs of more than 255 hashes");
    out
}

impl Secret {
    /// The root of a key of the file.
    pub(super) fn root(key: &[u8; KEY_BYTES]) -> Self {
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"udp-plus/2").extract(key);
        Self::of(&expand(&extracted, b"root", &[]))
    }

    /// One that nobody has.
    pub(super) fn of_nobody() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *bytes).ok()?;
        Some(Self::of(&bytes))
    }

    pub(super) fn of(bytes: &[u8; KEY_BYTES]) -> Self {
        Self(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes))
    }

    /// What seals the one HELLO with this salt.
    pub(super) fn hello(&self, cipher: Cipher, key_id: u32, salt: &[u8; SALT_BYTES]) -> Sealer {
        self.hello_secret(cipher, key_id, salt).sealer(cipher)
    }

    fn hello_secret(&self, cipher: Cipher, key_id: u32, salt: &[u8; SALT_BYTES]) -> Self {
        let mut info = Vec::with_capacity(5 + SALT_BYTES);
        info.push(cipher.code());
        info.extend_from_slice(&key_id.to_le_bytes());
        info.extend_from_slice(salt);
        Self::of(&expand(&self.0, b"hello", &info))
    }

    /// The first secret of one direction of a flow.
    pub(super) fn traffic(&self, cipher: Cipher, direction: &Direction) -> Self {
        let mut info = Vec::with_capacity(80);
        info.push(cipher.code());
        info.extend_from_slice(&direction.key_id.to_le_bytes());
        for End { tag, nonce, random, epoch } in [&direction.sender, &direction.receiver] {
            info.extend_from_slice(&tag.to_le_bytes());
            info.extend_from_slice(&nonce.to_le_bytes());
            info.extend_from_slice(random);
            info.extend_from_slice(&epoch.to_le_bytes());
        }
        info.extend_from_slice(&[direction.route, u8::from(direction.from_opener)]);
        Self::of(&expand(&self.0, b"traffic", &info))
    }

    /// The secret after this one, of which this one cannot be made.
    pub(super) fn next(&self) -> Self {
        Self::of(&expand(&self.0, b"next", &[]))
    }

    /// The key of a HELLO.
    #[cfg(test)]
    pub(super) fn hello_key(&self, cipher: Cipher, key_id: u32, salt: &[u8; SALT_BYTES]) -> [u8; KEY_BYTES] {
        self.hello_secret(cipher, key_id, salt).key()
    }

    /// The key under this secret.
    #[cfg(test)]
    pub(super) fn key(&self) -> [u8; KEY_BYTES] {
        *expand(&self.0, b"key", &[])
    }

    /// What seals and opens under this secret.
    pub(super) fn sealer(&self, cipher: Cipher) -> Sealer {
        let key = expand::<KEY_BYTES>(&self.0, b"key", &[]);
        let made = UnboundKey::new(cipher.algorithm(), &*key);
        let Ok(key) = made else { unreachable!("32 bytes are a key of either cipher") };
        Sealer { key: LessSafeKey::new(key), iv: expand(&self.0, b"iv", &[]) }
    }
}

/// A key as it is used.
pub(super) struct Sealer {
    key: LessSafeKey,
    iv: Zeroizing<[u8; NONCE_LEN]>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    #[inline]
    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, of_number) in nonce.iter_mut().skip(NONCE_LEN - 8).zip(number.to_be_bytes()) {
            *byte ^= of_number;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals in place: the last [`TAG_BYTES`] bytes of `body` are free. A number is sealed once.
    pub(super) fn seal(&self, number: u64, associated: &[u8], body: &mut [u8]) {
        let (plain, tag) = body.split_at_mut(body.len() - TAG_BYTES);
        match self.key.seal_in_place_separate_tag(self.nonce(number), Aad::from(associated), plain) {
            Ok(made) => tag.copy_from_slice(made.as_ref()),
            Err(_) => unreachable!("a datagram is no longer than an AEAD takes"),
        }
    }

    /// As [`seal`](Self::seal), from `plain` into `sealed`, which is [`TAG_BYTES`] longer.
    pub(super) fn seal_to(&self, number: u64, associated: &[u8], plain: &[u8], sealed: &mut [u8]) {
        let (text, tag) = sealed.split_at_mut(plain.len());
        let nonce = self.nonce(number);
        let made = self.key.seal_out_of_place_scatter(nonce, Aad::from(associated), plain, text, &[], tag);
        assert!(made.is_ok(), "a datagram is no longer than an AEAD takes");
    }

    /// As [`open`](Self::open), from `sealed` into the front of `plain`.
    pub(super) fn open_to(
        &self,
        number: u64,
        associated: &[u8],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let (text, tag) = sealed.split_at_checked(sealed.len().wrapping_sub(TAG_BYTES)).ok_or(Unauthentic)?;
        let plain = plain.get_mut(..text.len()).ok_or(Unauthentic)?;
        let opened =
            self.key.open_separate_gather(self.nonce(number), Aad::from(associated), text, tag, plain);
        opened.map_err(|_| Unauthentic)
    }

    /// Opens in place, what [`seal`](Self::seal) made.
    pub(super) fn open(&self, number: u64, associated: &[u8], body: &mut [u8]) -> Result<(), Unauthentic> {
        match self.key.open_in_place(self.nonce(number), Aad::from(associated), body) {
            Ok(_) => Ok(()),
            Err(_) => Err(Unauthentic),
        }
    }
}
