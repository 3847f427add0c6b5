//! Keyed hashing and randomness: what outsiders can name must not let them choose our buckets or guess our ids.
//!
//! Both come from one seed per engine, drawn from the kernel at start, or given by the simulator, which makes a run
//! repeatable.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::hash::Hash;

/// A hash map keyed by outside data.
#[allow(clippy::disallowed_types, reason = "this is the keyed map the lint asks for")]
pub type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;
/// A hash set keyed by outside data.
pub type Set<K> = std::collections::HashSet<K, ahash::RandomState>;

/// The root of an engine's secrets: hash keys, epoch, op ids, jitter.
#[derive(Clone)]
pub struct Seed([u8; 32]);

impl Seed {
    /// From the kernel's generator.
    ///
    /// # Errors
    /// The kernel's, if it has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(seed))
    }

    /// For simulations: the same number gives the same engine.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        let mut seed = [0; 32];
        ChaCha8Rng::seed_from_u64(number).fill_bytes(&mut seed);
        Self(seed)
    }

    /// The generator of one purpose (`lane` tells purposes apart).
    #[must_use]
    pub fn rng(&self, lane: u64) -> Rng {
        let mut inner = ChaCha8Rng::from_seed(self.0);
        inner.set_stream(lane);
        Rng { inner, bytes: 0, bytes_left: 0 }
    }

    /// The hasher all shards of an engine share: they must agree on a peer's home.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        let mut rng = self.rng(u64::MAX);
        let keys = [0; 4].map(|_: u64| rng.next_u64());
        Hasher(ahash::RandomState::with_seeds(keys[0], keys[1], keys[2], keys[3]))
    }
}

/// A keyed 64-bit hash.
#[derive(Clone)]
pub struct Hasher(ahash::RandomState);

impl Hasher {
    /// The hash of `value` under this key.
    pub fn hash(&self, value: impl Hash) -> u64 {
        self.0.hash_one(value)
    }

    /// An empty map under this key.
    pub fn map<K, V>(&self) -> Map<K, V> {
        Map::with_hasher(self.0.clone())
    }

    /// An empty map under this key that does not grow below `capacity` entries.
    pub fn map_with_capacity<K, V>(&self, capacity: usize) -> Map<K, V> {
        Map::with_capacity_and_hasher(capacity, self.0.clone())
    }
}

/// A cryptographic generator (ChaCha8): observed ids do not tell the next.
pub struct Rng {
    inner: ChaCha8Rng,
    bytes: u64,
    bytes_left: u32,
}

impl Rng {
    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// Any number.
    pub fn next_u32(&mut self) -> u32 {
        self.inner.next_u32()
    }

    /// Any byte; eight of them cost one draw.
    pub fn next_u8(&mut self) -> u8 {
        if self.bytes_left == 0 {
            self.bytes = self.inner.next_u64();
            self.bytes_left = 8;
        }
        self.bytes_left -= 1;
        let byte = self.bytes as u8;
        self.bytes >>= 8;
        byte
    }

    /// A number below `bound` (> 0), by multiply and shift; the bias is below 2^-32.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    const BUCKETS: u64 = 64;

    /// Of `values`, those that one engine puts into one bucket: another engine scatters them.
    fn check<T: Hash>(values: impl Iterator<Item = T>) {
        let [one, other] = [1, 2].map(|number| Seed::from_number(number).hasher());
        let together: Vec<T> =
            values.filter(|value| one.hash(value).is_multiple_of(BUCKETS)).take(256).collect();
        assert_eq!(together.len(), 256, "enough of them");
        let mut buckets = BTreeMap::<u64, u32>::new();
        for value in &together {
            *buckets.entry(other.hash(value) % BUCKETS).or_default() += 1;
            let map: Map<T, ()> = other.map();
            assert_eq!(map.hasher().hash_one(value), other.hash(value), "maps have the key, too");
        }
        // Four in each, on average.
        let most = buckets.values().max();
        assert!(buckets.len() > 48 && most < Some(&20), "{} buckets, up to {most:?}", buckets.len());
    }

    /// Who has found out what collides in one engine, say in his own, knows nothing of another one.
    #[test]
    fn what_collides_under_one_seed_does_not_under_another() {
        let addr = |number: u32| SocketAddr::from((number.to_be_bytes(), 25_252));
        check((0..1 << 16).map(|number: u64| number << 32));
        check((0..1 << 16).map(addr));
        check((0..1 << 16).map(|number: u64| (addr(7), number)));
    }
}
