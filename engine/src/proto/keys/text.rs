//! Keys as text. No error repeats a word of it: it might be a key.

use super::cipher::{KEY_BYTES, Secret};
use crate::error::ConfigError;
use crate::peer_match::PeerMatch;
use base64_simd::{Out, STANDARD};
use zeroize::Zeroizing;

/// Bytes of text, at most.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;

/// Behind a key that is about to go.
const OLD: &[u8] = b"old";

/// One line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) id: u32,
    pub(super) root: Secret,
    /// Another key has taken its place: it opens, and no message of ours takes a flow with it.
    pub(super) old: bool,
    /// Whom it is for; nobody: for all.
    pub(super) peers: Vec<PeerMatch>,
    /// From 1.
    pub(super) number: usize,
}

/// What is wrong with a line.
pub(super) fn refused(line: usize, problem: &str) -> ConfigError {
    ConfigError { option: "key_file", problem: format!("line {line}: {problem}") }
}

/// Reads `ID KEY [old] [PEER]..` line by line.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Line>, ConfigError> {
    let fail = |line: usize, problem: &str| Err(refused(line + 1, problem));
    if text.len() > TEXT_BYTES_MAX {
        let problem = format!("more than {TEXT_BYTES_MAX} bytes");
        return Err(ConfigError { option: "key_file", problem });
    }
    let mut lines: Vec<Line> = Vec::new();
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(id) = words.next() else { continue };
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse::<u32>().ok()).filter(|&id| id > 0);
        let Some(id) = id else {
            return fail(at, "the first word is no key id, 1 to 4294967295; a line is ID KEY [PEER]..");
        };
        if lines.iter().any(|line| line.id == id) {
            return fail(at, "its key id stands in an earlier line; name all peers of a key in one line");
        }
        let Some(key) = words.next().and_then(key) else {
            return fail(
                at,
                "the second word is no key: 32 random bytes in base64 (44 characters) or hex (64)",
            );
        };
        if key.iter().all(|&byte| byte == key[0]) {
            return fail(
                at,
                "the key is one byte 32 times; 32 random bytes: head -c 32 /dev/urandom | base64",
            );
        }
        let mut words = words.peekable();
        let old = words.next_if_eq(&OLD).is_some();
        let mut peers = Vec::new();
        for word in words {
            match std::str::from_utf8(word).ok().and_then(|word| word.parse::<PeerMatch>().ok()) {
                Some(peer) if !peer.is_of_nobody() => peers.push(peer),
                _ => {
                    return fail(
                        at,
                        "a word behind the key is neither ADDRESS:PORT nor an address nor NETWORK/PREFIX, nor, as the \
                         first one, old",
                    );
                }
            }
        }
        lines.push(Line { id, root: Secret::root(&key), old, peers, number: at + 1 });
    }
    if lines.is_empty() {
        return Err(ConfigError {
            option: "key_file",
            problem: "no key in it; a line is ID KEY [PEER]..".into(),
        });
    }
    Ok(lines)
}

/// 32 bytes from padded base64, or hex.
fn key(word: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if word.len() == 2 * KEY_BYTES {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        for (byte, digits) in bytes.iter_mut().zip(word.as_chunks::<2>().0) {
            *byte = digit(digits[0])? << 4 | digit(digits[1])?;
        }
        return Some(bytes);
    }
    if word.len() != 44 {
        return None;
    }
    // Without padding 44 characters are a byte more.
    let mut room = Zeroizing::new([0; KEY_BYTES + 1]);
    let decoded = STANDARD.decode(word, Out::from_slice(&mut *room)).ok()?.len();
    bytes.copy_from_slice(room.first_chunk::<KEY_BYTES>()?);
    (decoded == KEY_BYTES).then_some(bytes)
}
