//! [`PreSharedKeys`]: the engine's own protection, by keys that all peers of a group, or two peers, have.
//!
//! | module | owns |
//! |---|---|
//! | `text` | keys as text |
//! | `cipher` | the AEADs, and what keys are made of |
//! | `traffic` | the keys of one direction of a flow |
//!
//! Without a system: who reads the file is `runtime/key_file.rs`.

mod cipher;
mod text;
mod traffic;

pub use self::cipher::{Cipher, ParseCipherError};
pub(crate) use self::text::TEXT_BYTES_MAX;

use self::cipher::{Secret, TAG_BYTES};
use self::traffic::{Limits, Traffic};
use super::protection::{Direction, FlowProtection, HelloHead, Protection, Unauthentic};
use crate::error::ConfigError;
use crate::peer_match::PeerMatch;
use crate::peer_rules::PeerRules;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Datagrams sealed under one key, at most.
const REKEY_AFTER: u64 = 1 << 26;
/// And at least: more than can be under way, or one bit does not tell a key from the one after the next.
const REKEY_AFTER_MIN: u64 = 1 << 12;
/// Bytes sealed under one key: those of [`REKEY_AFTER`] datagrams of 2 KiB. AES-GCM takes four times as many, in datagrams of
/// any length (RFC 9001 section 6.6 and appendix B.1: 2^28 of 2 KiB, 2^23 of 64 KiB).
const REKEY_AFTER_BYTES: u64 = REKEY_AFTER << 11;

/// Keys that were agreed on beforehand: a [`Protection`] that needs no code. With the option `key_file` the engine makes one
/// itself; keys that come from elsewhere are put into the builder's `protection`.
///
/// ```text
/// # id  key: 32 random bytes, base64 or hex           whom it is for: all, or ADDRESS[:PORT], NETWORK/PREFIX ..
/// 2     q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=
/// 1     0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0   old
/// 7     3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8=  10.0.0.7 192.0.2.0/24
/// ```
/// A peer's keys are those of the most specific rule that it falls under, in the order of the lines: the first one seals, all
/// of them open. Of a peer without keys nothing is taken, and what is put to it ends `TimedOut`. Which key a flow has is
/// said in the first datagrams, by its id. A key that is `old` opens what peers send; what is put to them takes no flow with it.
///
/// # New keys
/// [`replace`](Self::replace) changes the keys of a running engine, for all of its clones. To go over to another key without
/// losing a message: (1) add it to every peer's file, behind the old one; (2) when all have it, put it first, and the word
/// `old` behind the other one: what is put from then on takes a new flow with the new key, what is under way ends on the old
/// one. (A running engine knows without the word; one that is started meanwhile does not.) (3) When that has ended, at the latest
/// after the longest deadline, take the old one away. Flows whose key is taken away, out of the file or from their peer
/// (whose line is gone, or names him no more), end at once: what was transmitted on them ends `TimedOut`, reached Unknown.
/// Another key gets another id: a flow whose key has changed under its id is not noticed.
#[derive(Clone)]
pub struct PreSharedKeys {
    ring: Arc<RwLock<Ring>>,
    /// How often the ring was replaced.
    generation: Arc<AtomicU64>,
    cipher: Cipher,
    limits: Limits,
    /// In the place of one that is gone.
    nobody: Secret,
}

/// The keys at one time.
struct Ring {
    keys: Vec<(u32, Secret)>,
    of_peers: PeerRules<Rule>,
    of_others: Rule,
}

/// The keys of some peers.
#[derive(Clone, Default)]
struct Rule {
    /// There is a line for them; else they fall under another one's, but had more before.
    named: bool,
    /// Their indices, the one that seals first.
    keys: Vec<usize>,
    /// Ids of those that are old, or sealed before, and are there yet.
    retired: Vec<u32>,
    /// Ids of those that were theirs, and are there yet, for others.
    revoked: Vec<u32>,
}

impl Rule {
    /// Takes the place of what these peers had; `keys` are those it is about.
    fn succeed(&mut self, keys: &[(u32, Secret)], old: &Ring, peers: Option<&PeerMatch>) {
        let before = peers.and_then(|peers| old.of_peers.look_up_all(peers)).unwrap_or(&old.of_others);
        // Of somebody who is named for the first time nothing is revoked by it: he had what all others have.
        let own = peers.map_or(Some(&old.of_others), |peers| old.of_peers.get(peers));
        let own = own.filter(|own| own.named || !self.named);
        let ids = |rule: &Self| rule.keys.iter().map(|&index| old.keys[index].0).collect::<Vec<_>>();
        let is_there = |id: u32| keys.iter().any(|key| key.0 == id);
        let position = |id: u32| self.keys.iter().position(|&index| keys[index].0 == id);
        let mut retired = std::mem::take(&mut self.retired);
        retired.extend(&before.retired);
        retired.extend(ids(before).first());
        retired.retain(|&id| is_there(id) && position(id) != Some(0));
        let mut revoked = before.revoked.clone();
        revoked.extend(own.map(ids).into_iter().flatten());
        revoked.retain(|&id| is_there(id) && position(id).is_none());
        for list in [&mut retired, &mut revoked] {
            list.sort_unstable();
            list.dedup();
        }
        (self.retired, self.revoked) = (retired, revoked);
    }
}

impl Ring {
    fn new(text: &[u8]) -> Result<Self, ConfigError> {
        let (mut keys, mut rules) = (Vec::new(), BTreeMap::<_, Rule>::new());
        let mut of_others = Rule { named: true, ..Rule::default() };
        for line in text::parse(text)? {
            let index = keys.len();
            let add = |rule: &mut Rule| {
                if line.old && rule.keys.is_empty() {
                    return Err(text::refused(
                        line.number,
                        "no other key of the same peers stands before it: the first one seals, and cannot be old",
                    ));
                }
                rule.keys.push(index);
                rule.retired.extend(line.old.then_some(line.id));
                Ok(())
            };
            if line.peers.is_empty() {
                add(&mut of_others)?;
            }
            for peer in line.peers {
                let rule = rules.entry(peer).or_default();
                rule.named = true;
                add(rule)?;
            }
            keys.push((line.id, line.root));
        }
        Ok(Self { keys, of_peers: PeerRules::new(rules.into_iter().collect()), of_others })
    }

    /// This one takes the place of `old`: what sealed there for some peers, and does no longer, is retired for them; what is
    /// no longer for those who were named, is revoked.
    fn succeed(&mut self, old: &Self) {
        let named = std::mem::replace(&mut self.of_peers, PeerRules::new(Vec::new()));
        // Those of a rule that is gone fall under another one now; but what they had is not what all others there had.
        let gone: Vec<_> =
            old.of_peers.matches().filter(|peers| named.get(peers).is_none()).copied().collect();
        let now_under = |peers: &PeerMatch| Rule {
            named: false,
            ..named.look_up_all(peers).unwrap_or(&self.of_others).clone()
        };
        let mut gone: Vec<_> = gone.into_iter().map(|peers| (peers, now_under(&peers))).collect();
        for (peers, rule) in &mut gone {
            rule.succeed(&self.keys, old, Some(peers));
        }
        gone.retain(|(_, rule)| !rule.retired.is_empty() || !rule.revoked.is_empty());
        let mut rules = named.into_rules();
        for (peers, rule) in &mut rules {
            rule.succeed(&self.keys, old, Some(peers));
        }
        self.of_others.succeed(&self.keys, old, None);
        rules.extend(gone);
        self.of_peers = PeerRules::new(rules);
    }

    fn rule(&self, peer: SocketAddr) -> &Rule {
        let own = if self.of_peers.is_empty() { None } else { self.of_peers.look_up(peer) };
        own.unwrap_or(&self.of_others)
    }

    /// The keys of a peer, the one that seals first.
    fn of(&self, peer: SocketAddr) -> impl Iterator<Item = &(u32, Secret)> {
        self.rule(peer).keys.iter().filter_map(|&index| self.keys.get(index))
    }
}

/// Ids, no keys.
impl fmt::Debug for PreSharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreSharedKeys")
            .field("cipher", &self.cipher)
            .field("ids", &self.ids())
            .finish_non_exhaustive()
    }
}

impl PreSharedKeys {
    /// Reads keys, in the format above. The caller's `text` is not cleared.
    ///
    /// # Errors
    /// The first line that is none, by its number: nothing of the text is in the error.
    pub fn parse(text: &[u8], cipher: Cipher) -> Result<Self, ConfigError> {
        let Some(nobody) = Secret::of_nobody() else {
            return Err(ConfigError { option: "key_file", problem: "the kernel gives no randomness".into() });
        };
        let limits =
            Limits { datagrams: REKEY_AFTER, bytes: REKEY_AFTER_BYTES, forgeries: cipher.forgeries_max() };
        let ring = Arc::new(RwLock::new(Ring::new(text)?));
        Ok(Self { ring, generation: Arc::default(), cipher, limits, nobody })
    }

    /// Other keys in the place of all that are there: for this one and its clones, those of running engines too.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse); the keys are then those from before.
    pub fn replace(&self, text: &[u8]) -> Result<(), ConfigError> {
        let mut ring = Ring::new(text)?;
        let mut old = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        ring.succeed(&old);
        *old = ring;
        drop(old);
        // Behind the ring: who sees the number finds the keys.
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// Another number of datagrams for one key of a flow's direction: 4,096 to 2^26, which is the default, and has no reason to
    /// be changed but tests.
    #[must_use]
    pub fn rekey_after(mut self, datagrams: u64) -> Self {
        self.limits.datagrams = datagrams.clamp(REKEY_AFTER_MIN, REKEY_AFTER);
        self
    }

    /// With any number of datagrams for one key, and no chance about it.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub(crate) fn of_simulator(mut self, rekey_after: u64, nobody: &[u8; cipher::KEY_BYTES]) -> Self {
        self.limits.datagrams = rekey_after;
        self.nobody = Secret::of(nobody);
        self
    }

    /// The ids of the keys, in the order they were given.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        self.read(|ring| ring.keys.iter().map(|key| key.0).collect())
    }

    fn read<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The key of a peer with this id.
    fn find(&self, peer: SocketAddr, id: u32) -> Option<Secret> {
        self.read(|ring| ring.of(peer).find(|key| key.0 == id).map(|key| key.1.clone()))
    }
}

impl Protection for PreSharedKeys {
    fn tag_bytes(&self) -> usize {
        TAG_BYTES
    }

    fn key_id(&self, peer: SocketAddr, present: Option<u32>) -> Option<u32> {
        self.read(|ring| {
            let kept = ring.of(peer).find(|key| Some(key.0) == present);
            kept.or_else(|| ring.of(peer).next()).map(|key| key.0)
        })
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn is_retired(&self, peer: SocketAddr, key_id: u32) -> bool {
        self.read(|ring| ring.rule(peer).retired.contains(&key_id))
    }

    fn has_key(&self, peer: SocketAddr, key_id: u32) -> bool {
        self.read(|ring| {
            ring.keys.iter().any(|key| key.0 == key_id) && !ring.rule(peer).revoked.contains(&key_id)
        })
    }

    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        // Gone since the id was asked for: what nobody opens is said again, under another one.
        let root = self.find(head.peer, head.key_id).unwrap_or_else(|| self.nobody.clone());
        root.hello(self.cipher, head.key_id, head.salt).seal(0, head.associated, body);
    }

    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        let root = self.find(head.peer, head.key_id).ok_or(Unauthentic)?;
        root.hello(self.cipher, head.key_id, head.salt).open(0, head.associated, body)
    }

    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let root = self.find(direction.peer, direction.key_id).unwrap_or_else(|| self.nobody.clone());
        Box::new(Traffic::new(self.cipher, self.limits, root.traffic(self.cipher, direction)))
    }
}

// Miri runs no foreign code.
#[cfg(test)]
#[cfg(not(miri))]
mod engines_tests;
#[cfg(test)]
#[cfg(not(miri))]
mod key_id_tests;
#[cfg(test)]
#[cfg(not(miri))]
mod tests;
