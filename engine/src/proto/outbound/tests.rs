use super::*;
use crate::config::Preset;
use crate::wire::csv::{Row, Scratch, decode};

const HERE: Place = Place { shard: 0, shards: 1, families: Families { v4: true, v6: true } };

fn peer(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A row as its receiver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    to: SocketAddr,
    id: u64,
    chunk: u32,
}

/// An outbound side, its clock and what it has to send.
struct Sender {
    outbound: Outbound<()>,
    counters: Counters,
    now: Instant,
    batch: TrainBatch,
}

impl Sender {
    fn new(config: &Config) -> Self {
        let now = Instant::from_ns(1 << 40);
        Self {
            outbound: Outbound::new(config, HERE, &Seed::from_number(5), now),
            counters: Counters::default(),
            now,
            batch: TrainBatch::new(512 << 10, 256, 64),
        }
    }

    fn put(&mut self, to: SocketAddr, tag: u64, bytes: usize) {
        let payload = Bytes::from(vec![b'x'; bytes]);
        let submission = Submission { to, payload, tag, deadline: None, options: None, completion: () };
        assert!(self.outbound.put(self.now, submission, &mut self.counters).is_ok());
    }

    /// One turn: timers, then what may be sent.
    fn turn(&mut self) -> Vec<Sent> {
        self.batch.clear();
        self.outbound.handle_timers(self.now, &mut self.counters);
        self.outbound.poll_trains(self.now, UnixMicros(7), &mut self.batch, &mut self.counters);
        let mut rows = Vec::new();
        for train in self.batch.trains() {
            for raw in self.batch.bytes(train).chunks(train.segment_bytes) {
                let mut scratch = Scratch::new();
                let Ok(Row::Data(row)) = decode(raw, &mut scratch) else { panic!("no data row") };
                rows.push(Sent { to: train.to, id: row.id.native.unwrap(), chunk: row.chunk_index });
            }
        }
        rows
    }

    fn confirm(&mut self, row: Sent, confirmer: Option<Epoch>) -> Result<(), DropReason> {
        let from = self.outbound.peer_at(row.to, None);
        self.outbound.handle_confirm(self.now, from, row.id, row.chunk, confirmer, &mut self.counters)
    }

    fn outcomes(&mut self) -> Vec<(u64, Outcome)> {
        self.outbound.finished().drain(..).map(|finished| (finished.tag, finished.outcome())).collect()
    }
}

fn small() -> Config {
    Config::preset(Preset::Small)
}

const RESTARTED: Outcome =
    Err(DeliveryError { cause: FailureCause::PeerRestarted, reached: Reached::Unknown });

#[test]
fn chunks_confirmed_by_two_starts_of_a_receiver_are_no_delivered_message() {
    let (a, b) = (Some(Epoch(1)), Some(Epoch(2)));
    // Who confirms chunks 0, 1 and 2; an original has no epoch.
    for (confirmers, restarted) in [
        ([a, a, a], false),
        ([None, None, None], false),
        ([a, b, b], true),
        ([a, a, b], true),
        ([a, None, None], true),
        ([None, a, a], true),
    ] {
        let mut sender = Sender::new(&small());
        sender.put(peer(1), 9, 1_000);
        let rows = sender.turn();
        assert_eq!(rows.len(), 3);
        let held = sender.outbound.peers.get(0).window_used;
        for (row, confirmer) in rows.iter().zip(confirmers) {
            let confirmed = sender.confirm(*row, confirmer);
            assert!(matches!(confirmed, Ok(()) | Err(DropReason::UnknownConfirm)), "{confirmed:?}");
            // Again, as a repeated row's would be: whoever says it, it changes nothing.
            assert!(sender.confirm(*row, b).is_err());
        }
        let outcomes = sender.outcomes();
        assert_eq!(outcomes.len(), 1, "{confirmers:?}");
        assert_eq!(outcomes == [(9, RESTARTED)], restarted, "{confirmers:?}: {outcomes:?}");
        assert!(restarted || outcomes[0].1.is_ok());
        assert!(held > 0 && sender.outbound.peers.get(0).window_used == 0);
        assert_eq!(sender.outbound.in_flight(), 0);
    }
}
