//! Messages of many peers, and who has which of them: for the examples `telemetry` and `fan_out`.

use std::collections::BTreeMap;
use std::fmt;

/// Bytes a payload needs for its peer and number.
pub const BYTES_MIN: usize = 8;

/// Fills a payload so that every byte of it can be told.
pub fn write(payload: &mut [u8], peer: u32, number: u32) {
    payload.fill((peer ^ number) as u8);
    payload[..4].copy_from_slice(&peer.to_le_bytes());
    payload[4..BYTES_MIN].copy_from_slice(&number.to_le_bytes());
}

/// What arrived of so many messages of each of so many peers.
#[derive(Debug)]
pub struct Books {
    peers: u32,
    each: u32,
    bytes: usize,
    seen: Vec<u64>,
    pub received: u64,
    pub twice: u64,
    pub corrupted: u64,
}

impl Books {
    pub fn new(peers: u32, each: u32, bytes: usize) -> Self {
        let words = (peers as usize * each as usize).div_ceil(64);
        Self { peers, each, bytes, seen: vec![0; words], received: 0, twice: 0, corrupted: 0 }
    }

    /// Notes a payload; the peer in it, if it is as it should be.
    pub fn note(&mut self, payload: &[u8]) -> Option<u32> {
        let word = |at: usize| {
            payload.get(at..at + 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
        };
        let (peer, number) = (word(0).unwrap_or(u32::MAX), word(4).unwrap_or(u32::MAX));
        let mut right = vec![0; self.bytes];
        write(&mut right, peer, number);
        if payload != right || peer >= self.peers || number >= self.each {
            self.corrupted += 1;
            return None;
        }
        let place = peer as usize * self.each as usize + number as usize;
        let (word, bit) = (&mut self.seen[place / 64], 1 << (place % 64));
        self.twice += u64::from(*word & bit != 0);
        self.received += u64::from(*word & bit == 0);
        *word |= bit;
        Some(peer)
    }

    /// Whether everything that was sent is there, once and unchanged.
    pub fn are_well(&self) -> bool {
        self.received == u64::from(self.peers) * u64::from(self.each) && self.twice + self.corrupted == 0
    }
}

/// Latencies in microseconds, to a sixteenth.
#[derive(Debug, Default)]
pub struct Latencies(BTreeMap<u64, u64>);

impl Latencies {
    pub fn note(&mut self, us: u64) {
        let shift = u64::BITS.saturating_sub(us.leading_zeros() + 5);
        *self.0.entry(us >> shift << shift).or_default() += 1;
    }

    /// The same from another process: what [`Display`](fmt::Display) wrote.
    #[allow(dead_code, reason = "only one of both examples has several processes")]
    pub fn add(&mut self, text: &str) {
        for pair in text.split_whitespace() {
            if let Some((us, count)) = pair.split_once(':')
                && let (Ok(us), Ok(count)) = (us.parse(), count.parse::<u64>())
            {
                *self.0.entry(us).or_default() += count;
            }
        }
    }

    /// The latency that this share of all does not exceed, in milliseconds.
    pub fn at_ms(&self, share: f64) -> f64 {
        let wanted = (self.0.values().sum::<u64>() as f64 * share).ceil() as u64;
        let mut so_far = 0;
        let place = self.0.iter().find(|(_, count)| {
            so_far += **count;
            so_far >= wanted
        });
        place.map_or(0.0, |(us, _)| *us as f64 / 1e3)
    }

    pub fn words(&self) -> String {
        let [p50, p99, p99_9, max] = [0.5, 0.99, 0.999, 1.0].map(|share| self.at_ms(share));
        format!("p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p99_9:.2} ms, max {max:.2} ms")
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(us, count)| write!(f, "{us}:{count} "))
    }
}

/// Resident memory of this process.
pub fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
