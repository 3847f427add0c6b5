//! A model of the original Python toolkit, in both roles, without I/O: feed it datagrams and time.
//!
//! Written from the facts in `UDP_PLUS_V1.md`, and it reproduces `v1_golden.csv` exactly: what is delivered, which
//! confirms go back, what kills it, what it leaks. It is meant to be as naive as the original, defects included: no
//! dedup, partial messages kept for ever, confirms matched by id and chunk alone, success reported for a message of
//! several chunks whatever happened to them.
//!
//! ```text
//!   datagram --> handle() --> confirm to send back, message delivered, or death of the receive loop
//!   message  --> put()    --> every row at once;  poll(now) --> rows again after 2 s, at most 3 times in all
//! ```

use super::python::{self, PythonError};
use crate::units::Instant;
use std::collections::{BTreeMap, btree_map};
use std::time::Duration;

/// A receive takes this much of a datagram; the rest is lost.
pub const READ_BYTES_MAX: usize = 1_024;
/// Characters of base64 text in one chunk.
const CHUNK_CHARACTERS: usize = 512;
/// Times a row is sent, in all.
const TRIES_MAX: u32 = 3;
/// Wait for a confirm before the row is sent again, or given up.
const CONFIRM_WAIT: Duration = Duration::from_secs(2);

/// A message as the original hands it to its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Message {
    /// The text.
    pub text: String,
    /// Column 5 of the row that completed it, as text; empty if there was none.
    pub timestamp: String,
}

/// What one datagram did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct V1Event {
    /// To be sent to the address the datagram came from. Sent even if the peer then dies.
    pub confirm: Option<Vec<u8>>,
    /// Handed to the application.
    pub delivered: Option<V1Message>,
    /// The receive loop ended: nothing is ever received again.
    pub death: Option<PythonError>,
}

/// How an operation of ours stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V1Sent {
    /// Rows it was cut into.
    pub chunk_count: usize,
    /// Rows that were confirmed.
    pub confirmed_count: usize,
    /// Every row is confirmed or given up.
    pub finished: bool,
}

impl V1Sent {
    /// What the original's `put_message` returns once finished: for several chunks always success.
    #[must_use]
    pub const fn reported(&self) -> bool {
        self.chunk_count > 1 || self.confirmed_count == 1
    }
}

/// One endpoint of the original.
#[derive(Debug, Default)]
pub struct V1Peer {
    /// Messages of which some chunks are there, by op id. Never freed unless completed.
    partials: BTreeMap<String, Partial>,
    outbound: BTreeMap<String, Vec<OutboundRow>>,
    death: Option<PythonError>,
}

#[derive(Debug)]
struct Partial {
    length: i128,
    /// Decoded chunks by chunk id as text.
    chunks: BTreeMap<String, String>,
}

#[derive(Debug)]
struct OutboundRow {
    chunk_id: String,
    row: Vec<u8>,
    tries: u32,
    resend_at: Instant,
    state: RowState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowState {
    Waiting,
    Confirmed,
    GivenUp,
}

/// A row the way the original takes it apart, before it looks at what the row is for.
struct ParsedRow {
    command: i128,
    op_id: String,
    length: i128,
    chunk_id: String,
    chunk: String,
    timestamp: String,
}

impl V1Peer {
    /// A peer that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Why the receive loop ended, if it did.
    #[must_use]
    pub const fn death(&self) -> Option<PythonError> {
        self.death
    }

    /// Messages that were begun and not completed.
    #[must_use]
    pub fn partial_count(&self) -> usize {
        self.partials.len()
    }

    /// Takes one datagram. A dead peer ignores it.
    pub fn handle(&mut self, datagram: &[u8]) -> V1Event {
        let mut event = V1Event::default();
        if self.death.is_some() {
            return event;
        }
        let read = &datagram[..datagram.len().min(READ_BYTES_MAX)];
        let handled = parse(read).and_then(|row| self.handle_row(row, &mut event));
        if let Err(error) = handled {
            self.death = Some(error);
            event.death = self.death;
        }
        event
    }

    fn handle_row(&mut self, row: ParsedRow, event: &mut V1Event) -> Result<(), PythonError> {
        match row.command {
            0 => {
                let confirm = python::csv_write_row(&["1", &row.op_id, "", &row.chunk_id, ""]);
                event.confirm = Some(confirm.into_bytes());
                event.delivered = self.handle_data(row)?;
            }
            1 => {
                for outbound in self.outbound.get_mut(&row.op_id).into_iter().flatten() {
                    if outbound.chunk_id == row.chunk_id && outbound.state == RowState::Waiting {
                        outbound.state = RowState::Confirmed;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_data(&mut self, row: ParsedRow) -> Result<Option<V1Message>, PythonError> {
        if row.length == 1 {
            return Ok(Some(V1Message { text: row.chunk, timestamp: row.timestamp }));
        }
        let mut entry = match self.partials.entry(row.op_id) {
            btree_map::Entry::Occupied(entry) => entry,
            btree_map::Entry::Vacant(entry) => {
                entry.insert_entry(Partial { length: row.length, chunks: BTreeMap::new() })
            }
        };
        let partial = entry.get_mut();
        partial.chunks.entry(row.chunk_id).or_insert(row.chunk);
        if partial.chunks.len() as i128 != partial.length {
            return Ok(None);
        }
        // Puts the chunks in order by looking up "0", "1", ...: an id spelled otherwise is not found.
        let mut text = String::new();
        for index in 0..partial.chunks.len() {
            text.push_str(partial.chunks.get(&index.to_string()).ok_or(PythonError::ValueError)?);
        }
        entry.remove();
        Ok(Some(V1Message { text, timestamp: row.timestamp }))
    }

    /// Sends `message` under a fresh random op id, which is returned with the rows to send now, in order.
    /// `timestamp` is the text of column 5.
    pub fn put(
        &mut self,
        message: &str,
        timestamp: &str,
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> (String, Vec<Vec<u8>>) {
        let op_id = format!("{:08x}", random.u32(..));
        let text = python::b64encode(message.as_bytes());
        // ASCII, so a chunk of bytes is a chunk of characters. The empty message is one empty chunk.
        let chunks: Vec<&str> = match text.len() {
            0..=CHUNK_CHARACTERS => vec![&text],
            _ => (0..text.len())
                .step_by(CHUNK_CHARACTERS)
                .map(|at| &text[at..text.len().min(at + CHUNK_CHARACTERS)])
                .collect(),
        };
        let length = if chunks.len() == 1 { String::new() } else { chunks.len().to_string() };
        let rows: Vec<OutboundRow> = chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| {
                let index = index.to_string();
                let column = if chunks.len() == 1 { "" } else { &index };
                let row = python::csv_write_row(&["", &op_id, &length, column, chunk, timestamp]);
                OutboundRow {
                    row: row.into_bytes(),
                    chunk_id: index,
                    tries: 1,
                    resend_at: now + CONFIRM_WAIT,
                    state: RowState::Waiting,
                }
            })
            .collect();
        let sent = rows.iter().map(|row| row.row.clone()).collect();
        self.outbound.insert(op_id.clone(), rows);
        (op_id, sent)
    }

    /// The rows to send again at `now`, with the operation each belongs to. Gives up those that had their tries.
    pub fn poll(&mut self, now: Instant) -> Vec<(String, Vec<u8>)> {
        let mut again = Vec::new();
        for (op_id, rows) in &mut self.outbound {
            for row in rows.iter_mut().filter(|row| row.state == RowState::Waiting && row.resend_at <= now) {
                if row.tries == TRIES_MAX {
                    row.state = RowState::GivenUp;
                } else {
                    row.tries += 1;
                    row.resend_at = now + CONFIRM_WAIT;
                    again.push((op_id.clone(), row.row.clone()));
                }
            }
        }
        again
    }

    /// When [`poll`](Self::poll) has something to do next.
    #[must_use]
    pub fn next_poll(&self) -> Option<Instant> {
        let rows = self.outbound.values().flatten();
        rows.filter(|row| row.state == RowState::Waiting).map(|row| row.resend_at).min()
    }

    /// How the operation stands; `None` for an unknown id.
    #[must_use]
    pub fn sent(&self, op_id: &str) -> Option<V1Sent> {
        self.outbound.get(op_id).map(|rows| V1Sent {
            chunk_count: rows.len(),
            confirmed_count: rows.iter().filter(|row| row.state == RowState::Confirmed).count(),
            finished: rows.iter().all(|row| row.state != RowState::Waiting),
        })
    }

    /// Forgets an operation, which the original does when `put_message` returns.
    pub fn forget(&mut self, op_id: &str) {
        self.outbound.remove(op_id);
    }
}

/// Every column is converted before the command is looked at, so any of them can kill, in a confirm too.
fn parse(read: &[u8]) -> Result<ParsedRow, PythonError> {
    let text = std::str::from_utf8(read).map_err(|_| PythonError::UnicodeDecodeError)?;
    let row = python::csv_first_row(text).ok_or(PythonError::RuntimeError)??;
    let column = |index: usize| row.get(index).map(String::as_str).ok_or(PythonError::IndexError);
    let int_or = |text: &str, default| if text.is_empty() { Ok(default) } else { python::int(text) };
    let command = int_or(column(0)?, 0)?;
    let (op_id, length, chunk_id, chunk) = (column(1)?, column(2)?, column(3)?, column(4)?);
    Ok(ParsedRow {
        command,
        op_id: op_id.to_owned(),
        length: int_or(length, 1)?,
        chunk_id: if chunk_id.is_empty() { "0".to_owned() } else { chunk_id.to_owned() },
        chunk: String::from_utf8(python::b64decode(chunk)?).map_err(|_| PythonError::UnicodeDecodeError)?,
        timestamp: row.get(5).cloned().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::golden::{self, Survival};

    #[test]
    fn reproduces_the_golden_file() {
        let cases = golden::cases();
        assert_eq!(cases.len(), 68);
        for case in cases {
            let mut peer = V1Peer::new();
            let events: Vec<V1Event> = case.datagrams.iter().map(|datagram| peer.handle(datagram)).collect();
            let delivered: Vec<_> = events.iter().filter_map(|event| event.delivered.clone()).collect();
            let confirms: Vec<_> = events.iter().filter_map(|event| event.confirm.clone()).collect();
            let texts: Vec<_> = delivered.iter().map(|message| golden::shorthand(&message.text)).collect();
            let timestamps: Vec<_> = delivered.iter().map(|message| message.timestamp.clone()).collect();
            assert_eq!(delivered.len(), case.delivered_count, "{}", case.name);
            assert_eq!(texts.join(" | "), case.delivered, "{}", case.name);
            assert_eq!(timestamps.join(" | "), case.timestamps, "{}", case.name);
            assert_eq!(confirms, case.confirms, "{}", case.name);
            let survival =
                peer.death().map_or(Survival::Lives, |error| Survival::Dies(error.name().to_owned()));
            assert_eq!(survival, case.survival, "{}", case.name);
            assert_eq!(peer.partial_count(), case.partial_count, "{}", case.name);
        }
    }

    #[test]
    fn a_dead_peer_stays_dead() {
        let mut peer = V1Peer::new();
        assert_eq!(peer.handle(b"garbage").death, Some(PythonError::ValueError));
        assert_eq!(peer.handle(b",3f2a9c1e,,,aGVsbG8=,1.5"), V1Event::default());
    }

    fn at(secs: u64) -> Instant {
        Instant::from_ns(secs * 1_000_000_000)
    }

    #[test]
    fn rows_look_as_specified() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut sender = V1Peer::new();
        let (id, rows) = sender.put("Hello, World!", "1764123456.123456", at(0), &mut random);
        assert_eq!(id.len(), 8);
        assert_eq!(rows, [format!(",{id},,,SGVsbG8sIFdvcmxkIQ==,1764123456.123456").into_bytes()]);
        // 384 bytes are 512 characters: the last size that needs one row.
        assert_eq!(sender.put(&"x".repeat(384), "1.5", at(0), &mut random).1.len(), 1);
        let (id, rows) = sender.put(&"x".repeat(385), "1.5", at(0), &mut random);
        assert_eq!(rows[1], format!(",{id},2,1,eA==,1.5").into_bytes());
    }

    #[test]
    fn two_peers_talk_and_a_silent_one_is_given_up() {
        let mut random = fastrand::Rng::with_seed(2);
        let (mut sender, mut receiver) = (V1Peer::new(), V1Peer::new());
        let text = "message ".repeat(500);
        let (id, rows) = sender.put(&text, "1.5", at(0), &mut random);
        let mut delivered = Vec::new();
        for row in rows.iter().rev() {
            let event = receiver.handle(row);
            delivered.extend(event.delivered);
            assert_eq!(sender.handle(&event.confirm.unwrap()), V1Event::default());
        }
        assert_eq!(delivered, [V1Message { text, timestamp: "1.5".to_owned() }]);
        let sent = sender.sent(&id).unwrap();
        assert!(sent.finished && sent.confirmed_count == rows.len() && sender.next_poll().is_none());

        let (id, first) = sender.put("anyone?", "1.5", at(10), &mut random);
        assert!(sender.poll(at(11)).is_empty());
        assert_eq!(sender.next_poll(), Some(at(12)));
        assert_eq!(sender.poll(at(12)), [(id.clone(), first[0].clone())]);
        assert_eq!(sender.poll(at(14)).len(), 1);
        assert!(!sender.sent(&id).unwrap().finished);
        assert!(sender.poll(at(16)).is_empty());
        let sent = sender.sent(&id).unwrap();
        assert!(sent.finished && !sent.reported());
        // The defect: the same with two chunks counts as success.
        let (id, _) = sender.put(&"x".repeat(400), "1.5", at(20), &mut random);
        for secs in [22, 24, 26] {
            sender.poll(at(secs));
        }
        let sent = sender.sent(&id).unwrap();
        assert!(sent.finished && sent.confirmed_count == 0 && sent.reported());
    }
}
