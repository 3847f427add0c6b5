//! Per-chunk state of one outgoing multi-chunk message: where each chunk starts, and how far it has come.

use crate::units::Instant;
use crate::wire::csv::Epoch;

/// Times of chunks are kept in units of 1,024 ns, modulo 2^32 (73 minutes): half the size, and try spans are shorter.
fn coarse(at: Instant) -> u32 {
    (at.as_ns() >> 10) as u32
}

/// The instant nearest to `now` with this coarse time.
fn fine(coarse_at: u32, now: Instant) -> Instant {
    let ahead = coarse_at.wrapping_sub(coarse(now)) as i32;
    Instant::from_ns(((now.as_ns() >> 10) as i64 + i64::from(ahead)).max(0) as u64 * 1_024)
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: u32,
    first_sent: u32,
    last_sent: u32,
    due: u32,
    tries: u8,
    confirmed: bool,
    resend: bool,
}

/// What a confirm meant for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The chunk was outstanding until now: it was last sent then, that many times.
    Now {
        /// Latest transmission.
        last_sent_at: Instant,
        /// Transmissions.
        tries: u32,
    },
    /// Confirmed before.
    Already,
    /// No such chunk, or never sent.
    Unsent,
    /// The chunk was outstanding, but others were confirmed by somebody else: nobody has them all (R-MARK-5).
    Restarted,
}

/// A sent chunk without a confirm, as the retry rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Outstanding {
    /// First transmission.
    pub first_sent_at: Instant,
    /// Latest transmission.
    pub last_sent_at: Instant,
    /// Transmissions.
    pub tries: u32,
}

/// See the module. Tables are reused: `fill` keeps the capacity.
#[derive(Debug, Default)]
pub struct ChunkTable {
    chunks: Vec<Chunk>,
    payload_bytes: u32,
    next_unsent: u32,
    confirmed: u32,
    /// Everything before it is confirmed.
    first_unconfirmed: u32,
    resend_count: u32,
    /// No chunk before it waits to be sent again.
    resend_from: u32,
    /// Who confirmed the first of them.
    confirmer: Option<Epoch>,
}

impl ChunkTable {
    /// Cuts `payload` into chunks of at most `chunk_bytes_max` (>= 4) bytes, on UTF-8 character boundaries: a v1
    /// receiver decodes each chunk's text on its own (R-V1-4).
    pub fn fill(&mut self, payload: &[u8], chunk_bytes_max: usize) {
        self.chunks.clear();
        let mut start = 0;
        while start < payload.len() {
            self.chunks.push(Chunk {
                start: start as u32,
                first_sent: 0,
                last_sent: 0,
                due: 0,
                tries: 0,
                confirmed: false,
                resend: false,
            });
            let mut end = (start + chunk_bytes_max).min(payload.len());
            // A continuation byte (10xxxxxx) belongs to the character before it; characters have at most 4 bytes.
            while end < payload.len() && payload[end] & 0xc0 == 0x80 && end > start + 1 {
                end -= 1;
            }
            start = end;
        }
        self.payload_bytes = payload.len() as u32;
    }

    /// Nothing is in it until the next `fill`. Gives memory of very large messages back.
    pub fn clear(&mut self, chunks_kept_max: usize) {
        self.chunks.clear();
        self.chunks.shrink_to(chunks_kept_max);
        // The next operation may end before it is cut, and has nothing in flight then.
        (self.next_unsent, self.confirmed, self.first_unconfirmed) = (0, 0, 0);
        (self.resend_count, self.resend_from) = (0, 0);
        self.confirmer = None;
    }

    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.chunks.len() as u32
    }

    /// The bytes of a chunk in the payload.
    #[must_use]
    pub fn range(&self, index: u32) -> std::ops::Range<usize> {
        let end = self.chunks.get(index as usize + 1).map_or(self.payload_bytes, |next| next.start);
        self.chunks[index as usize].start as usize..end as usize
    }

    /// The next chunk never sent.
    #[must_use]
    pub fn next_unsent(&self) -> Option<u32> {
        (self.next_unsent < self.count()).then_some(self.next_unsent)
    }

    /// The first chunk that waits to be sent again.
    pub fn next_resend(&mut self) -> Option<u32> {
        if self.resend_count == 0 {
            return None;
        }
        while !self.chunks[self.resend_from as usize].resend {
            self.resend_from += 1;
        }
        Some(self.resend_from)
    }

    /// Records a transmission; the confirm is due at `due`.
    pub fn sent(&mut self, index: u32, now: Instant, due: Instant) {
        if index == self.next_unsent {
            self.next_unsent += 1;
        }
        let chunk = &mut self.chunks[index as usize];
        if chunk.tries == 0 {
            chunk.first_sent = coarse(now);
        }
        chunk.last_sent = coarse(now);
        chunk.due = coarse(due);
        chunk.tries = chunk.tries.saturating_add(1);
        if std::mem::replace(&mut chunk.resend, false) {
            self.resend_count -= 1;
        }
    }

    /// Transmissions of a chunk so far.
    #[must_use]
    pub fn tries(&self, index: u32) -> u32 {
        u32::from(self.chunks[index as usize].tries)
    }

    /// Handles a confirm by `confirmer`: an engine's epoch, or none.
    pub fn confirm(&mut self, index: u32, confirmer: Option<Epoch>, now: Instant) -> Confirmed {
        let Some(chunk) = self.chunks.get_mut(index as usize) else { return Confirmed::Unsent };
        if chunk.tries == 0 {
            return Confirmed::Unsent;
        }
        if self.confirmed == 0 {
            self.confirmer = confirmer;
        } else if self.confirmer != confirmer && !chunk.confirmed {
            return Confirmed::Restarted;
        }
        if std::mem::replace(&mut chunk.confirmed, true) {
            return Confirmed::Already;
        }
        if std::mem::replace(&mut chunk.resend, false) {
            self.resend_count -= 1;
        }
        let confirmed =
            Confirmed::Now { last_sent_at: fine(chunk.last_sent, now), tries: u32::from(chunk.tries) };
        self.confirmed += 1;
        while self.chunks.get(self.first_unconfirmed as usize).is_some_and(|chunk| chunk.confirmed) {
            self.first_unconfirmed += 1;
        }
        confirmed
    }

    /// Every chunk is confirmed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.confirmed == self.count()
    }

    /// Rows sent and neither confirmed nor waiting to be sent again are asked for a verdict when due; returns when the
    /// next of them is due. `None` from the verdict sends the chunk again, `Some(later)` waits until then.
    pub fn scan_due(
        &mut self,
        now: Instant,
        mut verdict: impl FnMut(&Outstanding) -> Option<Instant>,
    ) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for index in self.first_unconfirmed..self.next_unsent {
            let chunk = &mut self.chunks[index as usize];
            if chunk.confirmed || chunk.resend {
                continue;
            }
            let mut due = fine(chunk.due, now);
            if due <= now {
                let outstanding = Outstanding {
                    first_sent_at: fine(chunk.first_sent, now),
                    last_sent_at: fine(chunk.last_sent, now),
                    tries: u32::from(chunk.tries),
                };
                match verdict(&outstanding) {
                    Some(later) => {
                        chunk.due = coarse(later);
                        due = fine(chunk.due, now);
                    }
                    None => {
                        chunk.resend = true;
                        self.resend_count += 1;
                        self.resend_from = self.resend_from.min(index);
                        continue;
                    }
                }
            }
            earliest = Some(earliest.map_or(due, |earliest| earliest.min(due)));
        }
        earliest
    }

    /// Rows in flight: sent and not confirmed; with the bytes of each chunk.
    pub fn unconfirmed(&self) -> impl Iterator<Item = u32> + '_ {
        (self.first_unconfirmed..self.next_unsent).filter(|&index| !self.chunks[index as usize].confirmed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn cuts_on_character_boundaries_and_loses_nothing(text in "\\PC{0,300}", chunk_bytes_max in 4usize..40) {
            let mut table = ChunkTable::default();
            table.fill(text.as_bytes(), chunk_bytes_max);
            let mut joined = String::new();
            for index in 0..table.count() {
                let range = table.range(index);
                prop_assert!(!range.is_empty() && range.len() <= chunk_bytes_max);
                joined.push_str(&text[range]); // Panics off a boundary.
            }
            prop_assert_eq!(joined, text);
        }
    }

    #[test]
    fn a_chunk_counts_once_and_only_when_sent() {
        let mut table = ChunkTable::default();
        table.fill(b"abcdefghij", 4);
        assert_eq!(table.count(), 3);
        let t0 = Instant::from_ns(1 << 50);
        assert_eq!(table.confirm(0, None, t0), Confirmed::Unsent);
        assert_eq!(table.confirm(7, None, t0), Confirmed::Unsent);
        for index in 0..3 {
            assert_eq!(table.next_unsent(), Some(index));
            table.sent(index, t0, t0 + Duration::from_millis(10));
        }
        assert_eq!(table.next_unsent(), None);
        let t1 = t0 + Duration::from_millis(1);
        assert!(
            matches!(table.confirm(1, None, t1), Confirmed::Now { tries: 1, last_sent_at } if last_sent_at == t0)
        );
        assert_eq!(table.confirm(1, None, t1), Confirmed::Already);
        assert_eq!(table.unconfirmed().collect::<Vec<_>>(), [0, 2]);
        let t2 = t0 + Duration::from_millis(11);
        let next = {
            let mut verdicts = [None, Some(t2 + Duration::from_millis(5))].into_iter();
            table.scan_due(t2, |_| verdicts.next().unwrap())
        };
        assert!(next.unwrap() > t2);
        assert_eq!(table.next_resend(), Some(0));
        table.sent(0, t2, t2 + Duration::from_millis(20));
        assert_eq!(table.next_resend(), None);
        assert_eq!(table.tries(0), 2);
        table.confirm(0, None, t2);
        assert!(!table.is_complete());
        table.confirm(2, None, t2);
        assert!(table.is_complete());
    }
}
