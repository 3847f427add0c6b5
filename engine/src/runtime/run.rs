//! Messages of one length for one peer, put at once by another thread: one mail, one piece of memory, nothing shared for each
//! of them.
//!
//! ```text
//!   tags      |t0|t1|t2| ...
//!   payloads  |payload 0|payload 1|payload 2| ...      each `bytes` long; the shard copies them into their datagrams
//! ```
//!
//! The shard gives the memory back for the next one.

use super::completion::lock;
use std::net::SocketAddr;
use std::sync::Mutex;

/// Messages of a run at most.
const MESSAGES_MAX: usize = 1_024;
/// Bytes of a run at most, single messages aside: about a train.
const BYTES_MAX: usize = 64 << 10;
/// Runs whose memory is kept: what a few threads have under way.
const KEPT_MAX: usize = 16;
/// What they take at most.
pub(crate) const KEPT_BYTES: u64 = (KEPT_MAX * 2 * (BYTES_MAX + MESSAGES_MAX * size_of::<u64>())) as u64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) to: SocketAddr,
    /// The completion queue their outcomes go to.
    pub(crate) queue: u32,
    bytes: usize,
    tags: Vec<u64>,
    payloads: Vec<u8>,
}

impl Run {
    /// How many messages of `bytes` bytes one run takes.
    pub(crate) fn messages_max(bytes: usize) -> usize {
        (BYTES_MAX / bytes.max(1)).clamp(1, MESSAGES_MAX)
    }

    /// Adds `messages`, as they are written.
    pub(crate) fn fill<F: FnOnce(&mut [u8])>(&mut self, messages: impl Iterator<Item = (u64, F)>) {
        for (tag, write) in messages {
            let start = self.payloads.len();
            self.payloads.resize(start + self.bytes, 0);
            write(&mut self.payloads[start..]);
            self.tags.push(tag);
        }
    }

    /// Bytes of each payload.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// All tags.
    pub(crate) fn tags(&self) -> &[u64] {
        &self.tags
    }

    /// Payload `index`.
    pub(crate) fn payload(&self, index: usize) -> &[u8] {
        &self.payloads[index * self.bytes..][..self.bytes]
    }

    /// The messages from `first` on.
    pub(crate) fn messages_from(&self, first: usize) -> impl Iterator<Item = (u64, &[u8])> {
        let rest = &self.payloads[first * self.bytes..];
        let payload = move |index: usize| &rest[index * self.bytes..][..self.bytes];
        self.tags[first..].iter().enumerate().map(move |(index, &tag)| (tag, payload(index)))
    }
}

/// Memory of runs that are over.
#[derive(Debug, Default)]
pub(crate) struct RunsKept(Mutex<Vec<Run>>);

impl RunsKept {
    /// An empty run.
    pub(crate) fn take(&self, to: SocketAddr, bytes: usize, queue: u32) -> Run {
        match lock(&self.0).pop() {
            Some(run) => Run { to, queue, bytes, ..run },
            None => Run { to, queue, bytes, tags: Vec::new(), payloads: Vec::new() },
        }
    }

    /// Takes the memory of a run back. A message larger than what a run usually holds does not stay.
    pub(crate) fn give_back(&self, mut run: Run) {
        run.tags.clear();
        run.payloads.clear();
        let mut kept = lock(&self.0);
        if kept.len() < KEPT_MAX && run.payloads.capacity() <= 2 * BYTES_MAX {
            kept.push(run);
        }
    }
}
