//! Datagrams sealed with ChaCha20-Poly1305 (RFC 8439) under keys that HKDF (RFC 5869) makes of a pre-shared key. Sends a message
//! through a wire tap, and shows that the tap learns nothing, and that an engine with another key is not heard.
//!
//! What to know before writing one: the documentation of `udp_plus::protection`.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use std::error::Error;
use std::fmt;
use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;
use udp_plus::protection::{Direction, End, FlowProtection, HelloHead, PacketHead, Protection, Unauthentic};
use udp_plus::{Builder, Engine, Outgoing, Preset, Wire};

const TAG_BYTES: usize = 16;

/// A key that all engines of a group have.
#[derive(Clone)]
pub struct PreShared {
    key: [u8; 32],
    /// Datagrams sealed with one key, in one direction of a flow.
    rekey_after: u64,
}

impl PreShared {
    /// Made of anything with 32 random bytes in it.
    pub fn new(secret: &[u8]) -> Self {
        Self { key: derive(None, secret, &[b"udp-plus psk"]), rekey_after: 1 << 26 }
    }

    /// Another number of datagrams for one key.
    pub fn rekey_after(mut self, datagrams: u64) -> Self {
        self.rekey_after = datagrams;
        self
    }
}

/// The key itself is not printed.
impl fmt::Debug for PreShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreShared(..)")
    }
}

impl Protection for PreShared {
    fn tag_bytes(&self) -> usize {
        TAG_BYTES
    }

    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        // One key for one datagram: any nonce will do.
        let key = derive(Some(head.salt), &self.key, &[b"hello"]);
        seal(&cipher(&key), 0, head.associated, body);
    }

    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        let key = derive(Some(head.salt), &self.key, &[b"hello"]);
        open(&cipher(&key), 0, head.associated, body)
    }

    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let end = |end: &End| {
            let mut bytes = [0; 28];
            bytes[..8].copy_from_slice(&end.tag.to_le_bytes());
            bytes[8..24].copy_from_slice(&end.random);
            bytes[24..].copy_from_slice(&end.epoch.to_le_bytes());
            bytes
        };
        let rest = [direction.route, u8::from(direction.from_opener)];
        let info: [&[u8]; 4] = [b"traffic", &end(&direction.sender), &end(&direction.receiver), &rest];
        let key = derive(None, &self.key, &info);
        let next_key = derive(None, &key, &[b"next"]);
        Box::new(Keys {
            before: None,
            now: cipher(&key),
            next: cipher(&next_key),
            next_key,
            phase: false,
            began_at: None,
            rekey_after: self.rekey_after,
        })
    }
}

/// The keys of one direction of a flow: each is made of the one before, which cannot be made of it.
struct Keys {
    before: Option<ChaCha20Poly1305>,
    now: ChaCha20Poly1305,
    next: ChaCha20Poly1305,
    next_key: [u8; 32],
    phase: bool,
    /// The first number known to have the key `now`.
    began_at: Option<u64>,
    rekey_after: u64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    fn advance(&mut self, packet_number: u64) {
        self.next_key = derive(None, &self.next_key, &[b"next"]);
        let next = std::mem::replace(&mut self.next, cipher(&self.next_key));
        self.before = Some(std::mem::replace(&mut self.now, next));
        self.phase = !self.phase;
        self.began_at = Some(packet_number);
    }
}

impl FlowProtection for Keys {
    fn key_phase(&mut self, packet_number: u64) -> bool {
        let began_at = *self.began_at.get_or_insert(packet_number);
        if packet_number.saturating_sub(began_at) >= self.rekey_after {
            self.advance(packet_number);
        }
        self.phase
    }

    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        seal(&self.now, head.packet_number, head.associated, body);
    }

    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        let open_with = |cipher, body| open(cipher, head.packet_number, head.associated, body);
        if head.key_phase == self.phase {
            return open_with(&self.now, body);
        }
        // Numbers go up with the keys.
        if self.began_at.is_some_and(|began_at| head.packet_number < began_at) {
            return open_with(self.before.as_ref().ok_or(Unauthentic)?, body);
        }
        open_with(&self.next, body)?;
        self.advance(head.packet_number);
        Ok(())
    }
}

fn derive(salt: Option<&[u8]>, secret: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut key = [0; 32];
    // HKDF refuses nothing but outputs of more than 255 hashes.
    let made = Hkdf::<Sha256>::new(salt, secret).expand_multi_info(info, &mut key);
    debug_assert!(made.is_ok());
    key
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(key.into())
}

fn nonce(number: u64) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    nonce
}

fn seal(cipher: &ChaCha20Poly1305, number: u64, associated: &[u8], body: &mut [u8]) {
    let plain_bytes = body.len() - TAG_BYTES;
    let (plain, tag) = body.split_at_mut(plain_bytes);
    match cipher.encrypt_in_place_detached(&nonce(number), associated, plain) {
        Ok(made) => tag.copy_from_slice(&made),
        Err(_) => body.fill(0), // Longer than 256 GiB: nothing plain leaves.
    }
}

fn open(
    cipher: &ChaCha20Poly1305,
    number: u64,
    associated: &[u8],
    body: &mut [u8],
) -> Result<(), Unauthentic> {
    let sealed_bytes = body.len().checked_sub(TAG_BYTES).ok_or(Unauthentic)?;
    let (sealed, tag) = body.split_at_mut(sealed_bytes);
    let tag = Tag::from_slice(tag);
    cipher.decrypt_in_place_detached(&nonce(number), associated, sealed, tag).map_err(|_| Unauthentic)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = || Engine::builder().preset(Preset::Small).bind("127.0.0.1:0").wire(Wire::Binary);
    let key = PreShared::new(b"32 bytes that nobody else knows.");
    let receiver = options().protection(key.clone()).start()?;

    let sender = options().protection(key).start()?;
    let (tap, datagrams) = (UdpSocket::bind("127.0.0.1:0")?, mpsc::channel());
    let (tap_addr, to) = (tap.local_addr()?, receiver.local_addr());
    std::thread::spawn(move || watch(&tap, to, &datagrams.0));
    sender.send_bucket().blocking_put(Outgoing::to(tap_addr, SECRET))?.wait()?;
    let message = receiver.recv_bucket().blocking_get()?;
    println!("received: {:?}", message.text());
    let seen: Vec<Vec<u8>> = datagrams.1.try_iter().collect();
    let learned =
        seen.iter().any(|datagram| datagram.windows(6).any(|bytes| SECRET.as_bytes().starts_with(bytes)));
    println!("the tap saw {} datagrams, and the message: {learned}", seen.len());

    let other = options().protection(PreShared::new(b"another key")).try_span_max(Duration::from_secs(2));
    println!("with another key: {}", outcome(other, to)?);
    println!("without a key:    {}", outcome(options().try_span_max(Duration::from_secs(2)), to)?);
    let counters = receiver.stats().total;
    for (name, dropped) in
        counters.iter().filter(|(name, dropped)| name.starts_with("dropped") && *dropped > 0)
    {
        println!("{name} {dropped}");
    }
    Ok(())
}

const SECRET: &str = "attack at dawn";

/// Sends everything on, and says what it was.
fn watch(tap: &UdpSocket, server: std::net::SocketAddr, seen: &mpsc::Sender<Vec<u8>>) {
    let (mut buffer, mut client) = ([0; 2_048], None);
    while let Ok((bytes, from)) = tap.recv_from(&mut buffer) {
        let to = if from == server { client } else { Some(server) };
        client = if from == server { client } else { Some(from) };
        let sent = to.map(|to| tap.send_to(&buffer[..bytes], to));
        if seen.send(buffer[..bytes].to_vec()).is_err() || sent.is_some_and(|sent| sent.is_err()) {
            return;
        }
    }
}

fn outcome(sender: Builder, to: std::net::SocketAddr) -> Result<String, Box<dyn Error>> {
    let outcome = sender.start()?.send_bucket().blocking_put(Outgoing::to(to, SECRET))?.wait();
    Ok(outcome.map_or_else(|error| error.to_string(), |_| "delivered".to_owned()))
}
