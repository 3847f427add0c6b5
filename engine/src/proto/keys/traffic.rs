//! One direction of a flow: its key, the next one, and the one before (`PROTOCOL.md`, R-PROT-5; RFC 9001 section 6).

use super::cipher::{Cipher, Sealer, Secret};
use crate::proto::protection::{FlowProtection, PacketHead, Unauthentic};

/// When the sealing side goes on to the next key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// After so many datagrams,
    pub(super) datagrams: u64,
    /// or so many bytes.
    pub(super) bytes: u64,
    /// After so many that did not open, in all, the opening side takes nothing more.
    pub(super) forgeries: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Traffic {
    cipher: Cipher,
    limits: Limits,
    /// That of `now`.
    secret: Secret,
    now: Sealer,
    /// The next secret and its key, once somebody asked for it.
    next: Option<(Secret, Sealer)>,
    before: Option<Sealer>,
    pub(super) phase: bool,
    /// Sealed under `now`.
    datagrams: u64,
    bytes: u64,
    /// Lowest and highest number that opened under `now`.
    opened: Option<(u64, u64)>,
    /// Did not open, under any key.
    pub(super) forgeries: u64,
}

impl Traffic {
    /// Begins with its first secret.
    pub(super) fn new(cipher: Cipher, limits: Limits, secret: Secret) -> Self {
        Self {
            cipher,
            limits,
            now: secret.sealer(cipher),
            secret,
            next: None,
            before: None,
            phase: false,
            datagrams: 0,
            bytes: 0,
            opened: None,
            forgeries: 0,
        }
    }

    /// The next key. Whoever turns the bit makes us derive it, but once.
    fn next(&mut self) -> &(Secret, Sealer) {
        let Self { next, secret, cipher, .. } = self;
        next.get_or_insert_with(|| {
            let secret = secret.next();
            let sealer = secret.sealer(*cipher);
            (secret, sealer)
        })
    }

    /// Another datagram is sealed under `now`.
    const fn count(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }

    fn advance(&mut self) {
        self.next();
        let Some((secret, next)) = self.next.take() else { return };
        self.secret = secret;
        self.before = Some(std::mem::replace(&mut self.now, next));
        self.phase = !self.phase;
        (self.datagrams, self.bytes, self.opened) = (0, 0, None);
    }

    /// Opens with the key that a datagram's phase and number point to.
    fn open_with(
        &mut self,
        head: &PacketHead<'_>,
        open: impl FnOnce(&Sealer) -> Result<(), Unauthentic>,
    ) -> Result<(), Unauthentic> {
        if self.forgeries >= self.limits.forgeries {
            return Err(Unauthentic); // R-PROT-12
        }
        let number = head.packet_number;
        let is_now = head.key_phase == self.phase;
        // Numbers go up with the keys.
        let is_before = !is_now && self.opened.is_some_and(|(_, last)| number <= last);
        let opened = match (&self.before, self.opened) {
            _ if is_now => open(&self.now),
            (Some(before), Some((first, _))) if is_before && number < first => open(before),
            _ if is_before => Err(Unauthentic),
            _ => open(&self.next().1),
        };
        if opened.is_err() {
            self.forgeries += 1;
        } else if !is_before {
            if !is_now {
                self.advance();
            }
            let (first, last) = self.opened.unwrap_or((number, number));
            self.opened = Some((first.min(number), last.max(number)));
        }
        opened
    }
}

impl FlowProtection for Traffic {
    fn key_phase(&mut self, _packet_number: u64) -> bool {
        if self.datagrams >= self.limits.datagrams || self.bytes >= self.limits.bytes {
            self.advance();
            self.before = None; // What is sealed is sealed.
        }
        self.phase
    }

    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        self.count(body.len());
        self.now.seal(head.packet_number, head.associated, body);
    }

    fn seal_to(&mut self, head: &PacketHead<'_>, plain: &[u8], sealed: &mut [u8]) {
        self.count(sealed.len());
        self.now.seal_to(head.packet_number, head.associated, plain, sealed);
    }

    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        self.open_with(head, |key| key.open(head.packet_number, head.associated, body))
    }

    fn open_to(&mut self, head: &PacketHead<'_>, sealed: &[u8], plain: &mut [u8]) -> Result<(), Unauthentic> {
        self.open_with(head, |key| key.open_to(head.packet_number, head.associated, sealed, plain))
    }
}
