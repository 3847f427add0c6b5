//! Keys as text, and others in their place: what cannot be understood is refused without a word of it, and changes nothing;
//! which key a peer has is as its lines say; and what sealed before is retired.

use super::bytes::Bytes;
use crate::proto::protection::{Cipher, HelloHead, PreSharedKeys, Protection, SALT_BYTES};
use base64_simd::STANDARD;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const LINES_MAX: u8 = 6;
/// No word that an error has of its own is so long.
const SECRET_BYTES: usize = 32;
/// Whom lines may be for, the most specific first.
const PEERS: [&str; 5] = ["10.0.0.1:5", "10.0.0.1", "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/32"];
/// Addresses, and which of those they fall under.
const ADDRS: [(&str, &[usize]); 6] = [
    ("10.0.0.1:5", &[0, 1, 2, 3]),
    ("[::ffff:10.0.0.1]:6", &[1, 2, 3]),
    ("10.0.0.9:5", &[2, 3]),
    ("10.9.0.1:5", &[3]),
    ("[2001:db8::1]:5", &[4]),
    ("192.0.2.1:5", &[]),
];

pub(super) fn run(input: &[u8]) {
    let mut script = Bytes::new(input);
    let [first, second] = [0; 2].map(|_: u8| File::read(&mut script));
    let keys = first.parse();
    let second_alone = second.parse();
    let Some(keys) = keys else { return };
    first.check(&keys);
    let (ids, generation, sealed) =
        (keys.ids(), keys.generation(), ADDRS.map(|(addr, _)| key_of(&keys, addr)));
    if keys.replace(&second.text).is_err() {
        assert!(second_alone.is_none());
        assert_eq!((keys.ids(), keys.generation()), (ids, generation), "as before");
        return first.check(&keys);
    }
    assert!(second_alone.is_some() && keys.generation() != generation);
    second.check(&keys);
    let [Some(old), Some(new)] = [&first.lines, &second.lines] else { return };
    for ((addr, under), before) in ADDRS.into_iter().zip(sealed) {
        let [old_rule, new_rule] = [old, new].map(|lines| rule(lines, under));
        let peer: SocketAddr = addr.parse().expect("an address");
        let is_there = |id: u32| new.iter().any(|line| line.id == id);
        if let Some(before) = before {
            let expected = is_there(before) && key_of(&keys, addr) != Some(before);
            assert_eq!(keys.is_retired(peer, before), expected, "{addr}: {before}");
        }
        for line in old.iter().filter(|line| line.is_for(old_rule)) {
            let is_his = new.iter().any(|other| other.id == line.id && other.is_for(new_rule));
            // Somebody with a line of his own for the first time goes over to its key.
            let expected = is_there(line.id) && (is_his || new_rule < old_rule);
            assert_eq!(keys.has_key(peer, line.id), expected, "{addr}: {}", line.id);
        }
    }
}

fn key_of(keys: &PreSharedKeys, addr: &str) -> Option<u32> {
    keys.key_id(addr.parse().expect("an address"), None)
}

/// The most specific of [`PEERS`] that an address falls under and a line is for; beyond them: for all.
fn rule(lines: &[Line], under: &[usize]) -> usize {
    let named = |peer: &&usize| lines.iter().any(|line| line.peers.contains(peer));
    under.iter().find(named).copied().unwrap_or(PEERS.len())
}

/// A line that is sound in itself.
struct Line {
    id: u32,
    old: bool,
    peers: Vec<usize>,
}

impl Line {
    /// Whether it is one of a rule, as [`rule`] numbers them.
    fn is_for(&self, rule: usize) -> bool {
        self.peers.contains(&rule) || (rule == PEERS.len() && self.peers.is_empty())
    }

    /// Whether it may stand behind these: an old key seals for nobody.
    fn may_follow(&self, lines: &[Self]) -> bool {
        let is_behind = |rule: usize| lines.iter().any(|line| line.is_for(rule));
        !self.old || (0..=PEERS.len()).filter(|&rule| self.is_for(rule)).all(is_behind)
    }
}

struct File {
    text: Vec<u8>,
    /// What it says, if everything in it is sound.
    lines: Option<Vec<Line>>,
}

impl File {
    fn read(script: &mut Bytes<'_>) -> Self {
        let (mut text, mut lines) = (Vec::new(), Some(Vec::new()));
        for _ in 0..script.below(LINES_MAX) {
            let kind = script.u8();
            if kind.is_multiple_of(8) {
                let count = usize::from(script.u8());
                text.extend_from_slice(script.take(count));
                lines = None;
            } else {
                let line = Self::line(script, kind, &mut text);
                lines = lines.zip(line).map(|(mut lines, line)| {
                    lines.push(line);
                    lines
                });
            }
            text.push(b'\n');
        }
        let sound = |lines: &Vec<Line>| {
            let ids: BTreeSet<u32> = lines.iter().map(|line| line.id).collect();
            let in_order = (0..lines.len()).all(|at| lines[at].may_follow(&lines[..at]));
            !lines.is_empty() && ids.len() == lines.len() && !ids.contains(&0) && in_order
        };
        Self { text, lines: lines.filter(sound) }
    }

    /// A line as it should be, with spaces and words behind it; `None`: its key is none.
    fn line(script: &mut Bytes<'_>, kind: u8, text: &mut Vec<u8>) -> Option<Line> {
        let id = u32::from(script.below(6));
        let key: [u8; 32] = script.array();
        let key_text = match kind & 0x10 {
            0 => key.iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => STANDARD.encode_to_string(key),
        };
        let space = if kind & 0x20 == 0 { " " } else { " \t " };
        text.extend_from_slice(format!("{space}{id}{space}{key_text}").as_bytes());
        let old = kind & 0x80 != 0;
        if old {
            text.extend_from_slice(format!("{space}old").as_bytes());
        }
        let peers: Vec<usize> =
            (0..script.below(3)).map(|_| script.below(PEERS.len() as u8).into()).collect();
        peers.iter().for_each(|&peer| text.extend_from_slice(format!("{space}{}", PEERS[peer]).as_bytes()));
        if kind & 0x40 != 0 {
            text.extend_from_slice(b" # words");
        }
        key.iter().any(|&byte| byte != key[0]).then_some(Line { id, old, peers })
    }

    /// # Panics
    /// It is refused though it is sound, or the error tells of it.
    fn parse(&self) -> Option<PreSharedKeys> {
        let keys = PreSharedKeys::parse(&self.text, Cipher::default());
        if let Err(error) = &keys {
            assert!(self.lines.is_none(), "{error}");
            let said = format!("{error} {error:?}");
            let mut words =
                self.text.split(u8::is_ascii_whitespace).filter(|word| word.len() >= SECRET_BYTES);
            assert!(!words.any(|word| said.contains(&*String::from_utf8_lossy(word))), "{said}");
        }
        keys.ok()
    }

    /// The keys are those of the text.
    fn check(&self, keys: &PreSharedKeys) {
        assert!(!keys.ids().is_empty());
        for (addr, under) in ADDRS {
            let peer: SocketAddr = addr.parse().expect("an address");
            let key_id = keys.key_id(peer, None);
            if let Some(lines) = &self.lines {
                let rule = rule(lines, under);
                let first = lines.iter().find(|line| line.is_for(rule));
                assert_eq!(key_id, first.map(|line| line.id), "{addr}");
                for line in lines.iter().filter(|line| line.old && line.is_for(rule)) {
                    assert!(keys.is_retired(peer, line.id), "{addr}: {}", line.id);
                }
            }
            let Some(key_id) = key_id else { continue };
            assert!(keys.has_key(peer, key_id) && !keys.is_retired(peer, key_id));
            assert_eq!(keys.key_id(peer, Some(key_id)), Some(key_id));
            let head = HelloHead { peer, associated: b"head", salt: &[7; SALT_BYTES], key_id };
            let mut body = [5; 24];
            keys.seal_hello(&head, &mut body);
            assert!(keys.open_hello(&head, &mut body).is_ok() && body[..8] == [5; 8]);
            // Nobody else's.
            keys.seal_hello(&head, &mut body);
            assert!(keys.open_hello(&HelloHead { key_id: key_id ^ 0x80, ..head }, &mut body).is_err());
        }
    }
}
