//! What a [`Relay`](super::relay::Relay) did, datagram by datagram, and what follows for the rows that went through it.
//!
//! A row is known by its bytes: a row sent again is byte-identical. A confirm is matched to the last row with its op id
//! and chunk that went the other way.

use crate::wire::csv::{Row, Scratch, decode};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a client to the address the relay was started for.
    ToServer,
    /// Back.
    ToClient,
}

impl Direction {
    const fn opposite(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// What happened to the datagrams of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounts {
    /// Came in.
    pub received: u64,
    /// Copies that went out. `received + duplicated = forwarded + dropped + send_failures` once nothing is held.
    pub forwarded: u64,
    /// Dropped on purpose.
    pub dropped: u64,
    /// Second copies made.
    pub duplicated: u64,
    /// Copies held back so that later ones overtake them.
    pub reordered: u64,
    /// Copies the kernel did not take; lost, and known to be.
    pub send_failures: u64,
}

/// The life of one data row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowRecord {
    /// Times it came in.
    pub seen: u32,
    /// Times it was dropped.
    pub dropped: u32,
    /// Times a confirm for it came in.
    pub confirms_seen: u32,
    /// Times a confirm for it was dropped.
    pub confirms_dropped: u32,
    /// Times it came in again although neither it nor a confirm for it was dropped since it last came in.
    pub early: u32,
    lost_since_seen: bool,
}

type RowKey = (Direction, usize, u64);
type ConfirmKey = (Direction, usize, Vec<u8>, u32);

/// The log of a relay.
#[derive(Clone, Debug, Default)]
pub struct RelayLog {
    /// From clients.
    pub to_server: DirectionCounts,
    /// To clients.
    pub to_client: DirectionCounts,
    /// Datagrams that found a receive buffer of the relay full; known once it has stopped. Not 0: the other numbers
    /// mean little.
    pub kernel_drops: u64,
    rows: BTreeMap<RowKey, RowRecord>,
    /// Where the row is that a confirm means.
    confirmed_rows: BTreeMap<ConfirmKey, RowKey>,
}

impl RelayLog {
    /// The counts of one direction.
    #[must_use]
    pub const fn counts(&self, direction: Direction) -> &DirectionCounts {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    pub(super) const fn counts_mut(&mut self, direction: Direction) -> &mut DirectionCounts {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }

    /// Every distinct data row that went in this direction.
    pub fn rows(&self, direction: Direction) -> impl Iterator<Item = &RowRecord> {
        self.rows.iter().filter(move |(key, _)| key.0 == direction).map(|(_, record)| record)
    }

    /// Times a row came in again although neither the earlier row nor its confirm was dropped *by the relay*, both
    /// directions. A row that its receiver lost or chose not to confirm counts too.
    #[must_use]
    pub fn early_resends(&self) -> u64 {
        self.rows.values().map(|record| u64::from(record.early)).sum()
    }

    /// Times a row came in again, for whatever reason, both directions.
    #[must_use]
    pub fn resends(&self) -> u64 {
        self.rows.values().map(|record| u64::from(record.seen.saturating_sub(1))).sum()
    }

    /// Notes a datagram that came in, and whether it will be dropped.
    pub(super) fn note(
        &mut self,
        direction: Direction,
        client: usize,
        datagram: &[u8],
        dropped: bool,
        scratch: &mut Scratch,
    ) {
        let counts = self.counts_mut(direction);
        counts.received += 1;
        counts.dropped += u64::from(dropped);
        match decode(datagram, scratch) {
            Ok(Row::Data(data)) => {
                let key = (direction, client, row_hash(datagram));
                self.confirmed_rows.insert((direction, client, data.id.text.to_vec(), data.chunk_index), key);
                let record = self.rows.entry(key).or_default();
                record.early += u32::from(record.seen > 0 && !record.lost_since_seen);
                record.seen += 1;
                record.dropped += u32::from(dropped);
                record.lost_since_seen = dropped;
            }
            Ok(Row::Confirm(confirm)) => {
                let key = (direction.opposite(), client, confirm.id.text.to_vec(), confirm.chunk_index);
                let row = self.confirmed_rows.get(&key).and_then(|key| self.rows.get_mut(key));
                if let Some(record) = row {
                    record.confirms_seen += 1;
                    record.confirms_dropped += u32::from(dropped);
                    record.lost_since_seen |= dropped;
                }
            }
            Err(_) => {} // Not a row: passed on, counted, and that is all.
        }
    }

    /// Notes that the kernel did not take a datagram: lost like a dropped one.
    pub(super) fn note_send_failure(
        &mut self,
        direction: Direction,
        client: usize,
        datagram: &[u8],
        scratch: &mut Scratch,
    ) {
        self.counts_mut(direction).send_failures += 1;
        let key = match decode(datagram, scratch) {
            Ok(Row::Data(_)) => Some((direction, client, row_hash(datagram))),
            Ok(Row::Confirm(confirm)) => {
                let key = (direction.opposite(), client, confirm.id.text.to_vec(), confirm.chunk_index);
                self.confirmed_rows.get(&key).copied()
            }
            Err(_) => None,
        };
        if let Some(record) = key.and_then(|key| self.rows.get_mut(&key)) {
            record.lost_since_seen = true;
        }
    }
}

fn row_hash(row: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(row);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{ToClient, ToServer};

    #[test]
    fn a_resend_is_early_only_if_nothing_was_lost_since() {
        let mut log = RelayLog::default();
        let mut scratch = Scratch::new();
        let row = b",3f2a9c1e,2,1,aGU=,1.5";
        let confirm = b"1,3f2a9c1e,,1,";
        let mut note = |direction, datagram: &[u8], dropped| {
            log.note(direction, 0, datagram, dropped, &mut scratch);
            (log.resends(), log.early_resends())
        };
        assert_eq!(note(ToServer, row, true), (0, 0));
        assert_eq!(note(ToServer, row, false), (1, 0)); // The row was lost.
        assert_eq!(note(ToClient, confirm, true), (1, 0));
        assert_eq!(note(ToServer, row, false), (2, 0)); // The confirm was lost.
        assert_eq!(note(ToClient, confirm, false), (2, 0));
        assert_eq!(note(ToServer, row, false), (3, 1)); // Nothing was lost.
        assert_eq!(note(ToServer, b",3f2a9c1e,2,0,aGU=,1.5", false), (3, 1)); // Another row.
        assert_eq!(note(ToClient, row, false), (3, 1)); // Another direction.
        let records: Vec<_> = log.rows(ToServer).copied().collect();
        assert_eq!(records.len(), 2);
        assert!(
            records.iter().any(|r| (r.seen, r.dropped, r.confirms_seen, r.confirms_dropped) == (4, 1, 2, 1))
        );
        assert_eq!((log.to_server.received, log.to_server.dropped), (5, 1));
    }

    #[test]
    fn a_send_failure_is_a_loss() {
        let mut log = RelayLog::default();
        let mut scratch = Scratch::new();
        let row = b",3f2a9c1e,,,aGU=,1.5";
        log.note(ToServer, 0, row, false, &mut scratch);
        log.note_send_failure(ToServer, 0, row, &mut scratch);
        log.note(ToServer, 0, row, false, &mut scratch);
        log.note(ToClient, 0, b"1,3f2a9c1e,,0,", false, &mut scratch);
        log.note_send_failure(ToClient, 0, b"1,3f2a9c1e,,0,", &mut scratch);
        log.note(ToServer, 0, row, false, &mut scratch);
        log.note(ToServer, 0, b"\xd2binary", false, &mut scratch);
        assert_eq!((log.resends(), log.early_resends()), (2, 0));
        assert_eq!((log.to_server.send_failures, log.to_client.send_failures), (1, 1));
    }
}
