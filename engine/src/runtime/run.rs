//! Messages of one length for one peer, put at once by another thread: one mail, one piece of memory, nothing shared for each
//! of them.
//!
//! ```text
//!   tags      |t0|t1|t2| ...
//!   payloads  |payload 0|payload 1|payload 2| ...      each `bytes` long; the shard copies them into their datagrams
//! ```
//!
//! The shard gives the memory back for the next one.

use super::completion::{Completion, lock};
use super::mailbox::Mail;
use crate::message::Outgoing;
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
    /// So many of them went on.
    pub(crate) done: usize,
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

    /// A single message takes its memory with it; what holds many comes back.
    pub(crate) fn into_mail(self) -> Mail {
        if Self::messages_max(self.bytes) > 1 {
            return Mail::PutEach(self);
        }
        let tag = self.tags.first().copied().unwrap_or_default();
        Mail::Put(Outgoing::to(self.to, self.payloads).tag(tag), Completion::Queue(self.queue))
    }

    /// Messages it began with.
    pub(crate) const fn len(&self) -> usize {
        self.tags.len()
    }

    /// Tags of those that have not gone on.
    pub(crate) fn tags(&self) -> &[u64] {
        &self.tags[self.done..]
    }

    /// Tag and payload of the first one that has not gone on.
    pub(crate) fn first(&self) -> Option<(u64, &[u8])> {
        Some((*self.tags.get(self.done)?, self.payload(self.done)))
    }

    /// All that have not gone on: of each its tag, and what writes its payload.
    pub(crate) fn writers(&self) -> impl Iterator<Item = (u64, impl FnOnce(&mut [u8]))> {
        (self.done..self.len()).map(move |index| {
            let write = move |space: &mut [u8]| space.copy_from_slice(self.payload(index));
            (self.tags[index], write)
        })
    }

    fn payload(&self, index: usize) -> &[u8] {
        &self.payloads[index * self.bytes..][..self.bytes]
    }
}

/// Memory of runs that are over.
#[derive(Debug, Default)]
pub(crate) struct RunsKept(Mutex<Vec<Run>>);

impl RunsKept {
    /// An empty run.
    pub(crate) fn take(&self, to: SocketAddr, bytes: usize, queue: u32) -> Run {
        let kept = if Run::messages_max(bytes) > 1 { lock(&self.0).pop() } else { None };
        let (tags, payloads) = kept.map_or_else(Default::default, |run| (run.tags, run.payloads));
        Run { to, queue, bytes, done: 0, tags, payloads }
    }

    /// Takes the memory of a run back.
    pub(crate) fn give_back(&self, mut run: Run) {
        run.tags.clear();
        run.payloads.clear();
        let mut kept = lock(&self.0);
        if kept.len() < KEPT_MAX {
            kept.push(run);
        }
    }
}
