use super::*;
use crate::config::Preset;
use crate::proto::retry::RetryPolicy;
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
    /// All that had come by then has been read; none: by now.
    heard_until: Option<Instant>,
    batch: TrainBatch,
}

impl Sender {
    fn new(config: &Config) -> Self {
        Self::with(config, Retries::default())
    }

    fn with(config: &Config, retries: Retries) -> Self {
        let now = Instant::from_ns(1 << 40);
        Self {
            outbound: Outbound::new(config, retries, HERE, &Seed::from_number(5), now),
            counters: Counters::default(),
            now,
            heard_until: None,
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
        self.outbound.handle_timers(self.now, self.heard_until.unwrap_or(self.now), &mut self.counters);
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
        self.outbound.finished().drain(..).map(|finished| (finished.tag, finished.outcome)).collect()
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

/// The same wait before every repeat, and only so many tries.
#[derive(Debug)]
struct Constant {
    wait: Duration,
    tries: u32,
}

impl RetryPolicy for Constant {
    fn row_wait(&self, row: &RowTry, _: u32) -> Duration {
        assert!(row.to == peer(1) && !row.is_engine && row.smoothed_rtt.is_none());
        self.wait
    }

    fn gives_up(&self, row: &RowTry, since_first: Duration) -> bool {
        // At least so many waits, each shorter by the units in which the times of chunks are kept.
        assert!(since_first >= row.first_wait.min(self.wait) * row.tries - Duration::from_millis(1));
        row.tries >= self.tries
    }
}

/// When a message that nobody confirms leaves, in milliseconds, and when it ends.
fn tries_ms(config: &Config, policy: Constant, bytes: usize) -> (Vec<u64>, u64) {
    let mut sender = Sender::with(config, Retries(Some(std::sync::Arc::new(policy))));
    let start = sender.now;
    sender.put(peer(1), 9, bytes);
    let mut sent = Vec::new();
    loop {
        sent.extend(sender.turn().iter().map(|_| sender.now.since(start).as_millis() as u64));
        if let Some((9, Err(error))) = sender.outcomes().pop() {
            assert_eq!(error.cause, FailureCause::TimedOut);
            assert_eq!(sender.outbound.peers.get(0).window_used, 0);
            return (sent, sender.now.since(start).as_millis() as u64);
        }
        sender.now += Duration::from_millis(1);
    }
}

#[test]
fn a_retry_policy_decides_within_the_bounds() {
    let millis = Duration::from_millis;
    let config = Config { rto_initial: millis(100), ..small() };
    // Timers tick at 131 us: what is due within a millisecond leaves in the next.
    let near = |sent: &[u64], due: &[u64]| {
        assert_eq!(sent.len(), due.len(), "{sent:?}");
        assert!(
            sent.iter().zip(due).all(|(&sent, &due)| sent >= due && sent <= due + due / 100 + 3),
            "{sent:?}"
        );
    };
    for bytes in [10, 300] {
        let (sent, ended) = tries_ms(&config, Constant { wait: millis(700), tries: 4 }, bytes);
        near(&sent, &[0, 700, 1_400, 2_100]);
        near(&[ended], &[2_800]);
    }
    // Each chunk for itself.
    let (sent, _) = tries_ms(&config, Constant { wait: millis(700), tries: 2 }, 1_000);
    near(&sent, &[0, 0, 0, 700, 700, 700]);
    // Never earlier than R-RETRY-2 toward who may be an original, nor more often than `tries_max`.
    let (sent, ended) = tries_ms(&config, Constant { wait: millis(1), tries: 99 }, 10);
    near(&sent, &(0..12).map(|n| n * 100).collect::<Vec<_>>());
    near(&[ended], &[1_200]);
    // Nor later than `try_span_max`.
    let (sent, ended) = tries_ms(&config, Constant { wait: Duration::from_secs(5), tries: 99 }, 10);
    near(&sent, &[0, 5_000]);
    near(&[ended], &[10_000]);
}

#[test]
fn a_message_may_end_before_it_was_cut() {
    let mut sender = Sender::new(&small());
    // It fails with rows in flight; the next one gets its table of chunks.
    sender.put(peer(1), 1, 10_000);
    assert!(sender.turn().len() > 1);
    sender.outbound.stop(&mut sender.counters);
    sender.put(peer(1), 2, 10_000);
    sender.outbound.stop(&mut sender.counters);
    let ended: Vec<u64> = sender.outcomes().into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(ended, [1, 2]);
}

/// What was confirmed in time is in the socket, and timers are due before it is read.
#[test]
fn rows_are_not_given_up_before_what_came_in_time_was_read() {
    let ms = Duration::from_millis;
    for (deadline, bytes) in [(Some(ms(100)), 10), (Some(ms(100)), 1_000), (None, 10), (None, 1_000)] {
        for confirmed in [true, false] {
            let mut sender = Sender::new(&small());
            let payload = Bytes::from(vec![b'x'; bytes]);
            let submission =
                Submission { to: peer(1), payload, tag: 9, deadline, options: None, completion: () };
            assert!(sender.outbound.put(sender.now, submission, &mut sender.counters).is_ok());
            let rows = sender.turn();
            sender.heard_until = Some(sender.now + ms(1));
            sender.now += Duration::from_secs(9);
            for _ in 0..10 {
                sender.turn();
                sender.now += ms(3);
            }
            assert_eq!(sender.outcomes(), []);
            if confirmed {
                rows.iter().for_each(|row| sender.confirm(*row, None).unwrap());
            }
            sender.heard_until = None;
            sender.turn();
            let [(9, outcome)] = sender.outcomes()[..] else { panic!("{deadline:?} {bytes} {confirmed}") };
            let cause = if deadline.is_some() { FailureCause::Expired } else { FailureCause::TimedOut };
            match outcome {
                Ok(_) => assert!(confirmed),
                Err(error) => assert!(!confirmed && error.cause == cause),
            }
        }
    }
}
