//! What passed between the engines and the model v1 peers of a world, row by row, and what follows from it. The network
//! tells it what was sent, what was lost and what reached a socket's owner; a confirm belongs to the row it names.

use super::checkers::Violation;
use super::scenes::SceneCounts;
use crate::units::Instant;
use crate::wire::csv::{DiscoveryKind, Row, Scratch, decode, decode_discovery};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// Least time between two transmissions of a row to a v1 peer when nothing was lost: `rto_min_v1`, less what is lost in
/// the units in which times of chunks are kept.
const PATIENCE: Duration = Duration::from_nanos(200_000_000 - 2 * 1_024);

/// How long a batch may wait for a socket that says EAGAIN or ENOBUFS, again and again.
const BATCH_WAIT: Duration = Duration::from_millis(100);

/// What happened to rows and messages from and to v1 peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct V1Counts {
    /// V1 peers that stood still until the network healed.
    pub stopped: u64,
    /// Rows to v1 peers sent again after the row or its confirm was lost.
    pub again_lost: u64,
    /// Rows to v1 peers sent again although nothing was lost: the confirm was merely slow.
    pub again_slow: u64,
    /// Messages to v1 peers that were delivered.
    pub to_delivered: u64,
    /// Messages to v1 peers that ended in a failure.
    pub to_failed: u64,
    /// Messages of v1 peers that their tries brought whole.
    pub from_delivered: u64,
    /// Messages of v1 peers of which some rows were never brought.
    pub from_incomplete: u64,
    /// Messages of v1 peers of which an engine left a row unconfirmed, each time it came.
    pub from_withheld: u64,
}

impl V1Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.stopped += other.stopped;
        self.again_lost += other.again_lost;
        self.again_slow += other.again_slow;
        self.to_delivered += other.to_delivered;
        self.to_failed += other.to_failed;
        self.from_delivered += other.from_delivered;
        self.from_incomplete += other.from_incomplete;
        self.from_withheld += other.from_withheld;
    }
}

/// Of a row: its sender, its receiver, its op id and chunk.
type RowKey = (SocketAddr, SocketAddr, Vec<u8>, u32);

#[derive(Debug, Default)]
struct RowRecord {
    /// The last time.
    sent_at: Option<Instant>,
    /// The row or a confirm for it was lost since then.
    lost: bool,
    /// Its receiver got it.
    received: bool,
    /// Its receiver sent a confirm.
    confirmed: bool,
    /// Its sender got a confirm, for the first time.
    settled_at: Option<Instant>,
}

/// What became of a message, by its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Brought {
    /// Every row was confirmed.
    Whole,
    /// Some row never came.
    InPart,
    /// Every row came, but some were never confirmed.
    Withheld,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct V1Watch {
    peers: BTreeSet<SocketAddr>,
    rows: BTreeMap<RowKey, RowRecord>,
    pub(crate) counts: V1Counts,
    pub(crate) scenes: SceneCounts,
    pub(crate) violations: Vec<Violation>,
    scratch: Scratch,
}

/// A datagram on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leg<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    /// A datagram, or a train of them.
    pub(crate) bytes: &'a [u8],
    pub(crate) segment_bytes: usize,
}

impl V1Watch {
    pub(crate) fn add_peer(&mut self, addr: SocketAddr) {
        self.peers.insert(addr);
    }

    pub(crate) fn is_peer(&self, addr: SocketAddr) -> bool {
        self.peers.contains(&addr)
    }

    /// Calls `note` for each row of the leg: is it a confirm, the row it is or confirms, and its receiver.
    fn each(&mut self, leg: Leg<'_>, mut note: impl FnMut(&mut Self, bool, RowKey)) {
        if !self.is_peer(leg.from) && !self.is_peer(leg.to) {
            return;
        }
        for datagram in leg.bytes.chunks(leg.segment_bytes) {
            let (is_confirm, key) = match decode(datagram, &mut self.scratch) {
                Ok(Row::Data(row)) => (false, (leg.from, leg.to, row.id.text.to_vec(), row.chunk_index)),
                Ok(Row::Confirm(row)) => (true, (leg.to, leg.from, row.id.text.to_vec(), row.chunk_index)),
                Err(_) => continue,
            };
            note(self, is_confirm, key);
        }
    }

    /// Nothing but rows ever goes to a v1 peer (R-V1-3), and of discovery rows only questions: it asks nobody.
    fn check_form(&mut self, leg: Leg<'_>) {
        if self.peers.is_empty() || self.is_peer(leg.from) {
            return;
        }
        let to_v1 = self.is_peer(leg.to);
        for datagram in leg.bytes.chunks(leg.segment_bytes) {
            let scenes = &mut self.scenes;
            let counted = match decode_discovery(datagram).map(|row| row.kind) {
                Some(DiscoveryKind::Probe) if to_v1 => &mut scenes.probes_to_v1,
                Some(DiscoveryKind::Probe) => &mut scenes.probes_to_engines,
                Some(DiscoveryKind::Answer { .. }) if !to_v1 => &mut scenes.answers,
                None if !to_v1 && datagram.first().is_none_or(|&first| first >= 0x80) => continue,
                None => match decode(datagram, &mut self.scratch) {
                    Ok(Row::Data(_)) if !to_v1 => &mut scenes.rows_to_engines,
                    Ok(_) => continue,
                    Err(_) if !to_v1 => continue,
                    Err(_) => {
                        let text = format!("{} to {}: {datagram:02x?}", leg.from, leg.to);
                        self.violations.push(Violation::NotForV1(text));
                        continue;
                    }
                },
                Some(DiscoveryKind::Answer { .. }) => {
                    let text = format!("{} to {}: an answer", leg.from, leg.to);
                    self.violations.push(Violation::NotForV1(text));
                    continue;
                }
            };
            *counted += 1;
        }
    }

    /// A socket's owner sent it.
    pub(crate) fn sent(&mut self, now: Instant, leg: Leg<'_>) {
        self.check_form(leg);
        self.each(leg, |watch, is_confirm, key| {
            if is_confirm {
                watch.rows.entry(key).or_default().confirmed = true;
            } else {
                watch.row_sent(now, key);
            }
        });
    }

    fn row_sent(&mut self, now: Instant, key: RowKey) {
        let to_v1 = self.is_peer(key.1);
        let row = self.rows.entry(key.clone()).or_default();
        let earlier = row.sent_at.replace(now);
        let lost = std::mem::take(&mut row.lost);
        let Some(earlier) = earlier.filter(|_| to_v1) else { return };
        let waited = now.since(earlier);
        if lost {
            self.counts.again_lost += 1;
        } else if row.settled_at.is_some_and(|at| at + BATCH_WAIT < now) || waited < PATIENCE {
            // A confirm of this very moment may have come to another shard; one of just before to a batch that the socket did
            // not take.
            let (settled_at, (_, to, id, chunk)) = (row.settled_at, key);
            let id = String::from_utf8_lossy(&id).into_owned();
            let text = format!("{id} chunk {chunk} to {to} after {waited:?}, confirmed: {settled_at:?}");
            self.violations.push(Violation::SentEarly(text));
        } else {
            self.counts.again_slow += 1;
        }
    }

    /// The network lost it.
    pub(crate) fn lost(&mut self, leg: Leg<'_>) {
        self.each(leg, |watch, _, key| watch.rows.entry(key).or_default().lost = true);
    }

    /// Its receiver took it from its socket.
    pub(crate) fn received(&mut self, now: Instant, leg: Leg<'_>) {
        self.each(leg, |watch, is_confirm, key| {
            let row = watch.rows.entry(key).or_default();
            if is_confirm {
                row.settled_at.get_or_insert(now);
            } else {
                row.received = true;
            }
        });
    }

    /// What the tries of a v1 peer's message brought.
    pub(crate) fn brought(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        op_id: &str,
        chunk_count: usize,
    ) -> Brought {
        let row = |chunk: usize| self.rows.get(&(from, to, op_id.as_bytes().to_vec(), chunk as u32));
        let all = |test: fn(&RowRecord) -> bool| (0..chunk_count).all(|chunk| row(chunk).is_some_and(test));
        if all(|row| row.confirmed) {
            Brought::Whole
        } else if all(|row| row.received) {
            Brought::Withheld
        } else {
            Brought::InPart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::csv::{DISCOVERY_ROW_BYTES, Discovery, encode_discovery};

    fn addr(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 25_252))
    }

    fn leg(from: u8, to: u8, bytes: &[u8]) -> Leg<'_> {
        Leg { from: addr(from), to: addr(to), bytes, segment_bytes: bytes.len() }
    }

    const ROW: &[u8] = b",3f2a9c1e,2,1,aGU=,1.5";
    const CONFIRM: &[u8] = b"1,3f2a9c1e,,1,";

    /// A watch over peer 2 that has seen the row go there at time zero.
    fn watch() -> V1Watch {
        let mut watch = V1Watch::default();
        watch.add_peer(addr(2));
        watch.sent(Instant::from_ns(0), leg(1, 2, ROW));
        watch
    }

    fn again(mut watch: V1Watch, ms: u64) -> (u64, u64, usize) {
        watch.sent(Instant::from_ns(ms * 1_000_000), leg(1, 2, ROW));
        (watch.counts.again_lost, watch.counts.again_slow, watch.violations.len())
    }

    #[test]
    fn a_row_is_early_if_nothing_was_lost() {
        assert_eq!(again(watch(), 199), (0, 0, 1));
        assert_eq!(again(watch(), 200), (0, 1, 0));
        let mut lost = watch();
        lost.lost(leg(1, 2, ROW));
        assert_eq!(again(lost, 1), (1, 0, 0));
        let mut confirm_lost = watch();
        confirm_lost.sent(Instant::from_ns(0), leg(2, 1, CONFIRM));
        confirm_lost.lost(leg(2, 1, CONFIRM));
        assert_eq!(again(confirm_lost, 1), (1, 0, 0));
        let mut confirmed = watch();
        confirmed.received(Instant::from_ns(1), leg(2, 1, CONFIRM));
        assert_eq!(again(confirmed, 1_000), (0, 0, 1));
        let mut at_once = watch();
        at_once.received(Instant::from_ns(300_000_000), leg(2, 1, CONFIRM));
        assert_eq!(again(at_once, 300), (0, 1, 0));
        // Between engines it is none of its business.
        let mut others = watch();
        others.sent(Instant::from_ns(0), leg(1, 3, ROW));
        others.sent(Instant::from_ns(0), leg(1, 3, ROW));
        assert!(others.violations.is_empty());
    }

    #[test]
    fn v1_peers_get_rows_and_questions_and_nothing_else() {
        let discovery = |kind| {
            let mut row = vec![0; DISCOVERY_ROW_BYTES];
            encode_discovery(&mut row, &Discovery { id: 1, nonce: 2, kind });
            row
        };
        let said = |from, to, bytes: &[u8]| {
            let mut watch = watch();
            watch.sent(Instant::from_ns(300_000_000), leg(from, to, bytes));
            watch.violations.iter().filter(|one| matches!(one, Violation::NotForV1(_))).count()
        };
        let [question, answer] = [DiscoveryKind::Probe, DiscoveryKind::Answer { cookie: 3 }].map(discovery);
        for sound in [ROW, CONFIRM, &question] {
            assert_eq!(said(1, 2, sound), 0);
        }
        for other in [&answer[..], b"\xa5 a datagram", b"no row"] {
            assert_eq!(said(1, 2, other), 1);
            // It may say what it wants, and so may engines among themselves.
            assert_eq!(said(2, 1, other) + said(1, 3, other), 0);
        }
    }

    #[test]
    fn what_was_brought_is_told_by_rows_and_confirms() {
        let mut watch = watch();
        let mut brought = |change: &dyn Fn(&mut V1Watch)| {
            change(&mut watch);
            watch.brought(addr(2), addr(1), "3f2a9c1e", 2)
        };
        let [first, second] = [b",3f2a9c1e,2,0,aGU=,1.5", b",3f2a9c1e,2,1,aGU=,1.5"];
        assert_eq!(brought(&|watch| watch.received(Instant::from_ns(0), leg(2, 1, first))), Brought::InPart);
        assert_eq!(
            brought(&|watch| watch.received(Instant::from_ns(0), leg(2, 1, second))),
            Brought::Withheld
        );
        let train = b"1,3f2a9c1e,,0,1,3f2a9c1e,,1,";
        let confirms = Leg { segment_bytes: 14, ..leg(1, 2, train) };
        assert_eq!(brought(&|watch| watch.sent(Instant::from_ns(0), confirms)), Brought::Whole);
    }
}
