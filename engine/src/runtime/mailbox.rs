//! A shard's inbox: how other threads reach it. Bounded by the permits of those who post (see `shared`); an operation is
//! cancelled once.
//!
//! A mutex around a deque, taken once per batch by producers and once per turn by the shard, which swaps the whole deque
//! out. At the batch sizes that matter this costs less per message than a lock-free queue, and nobody has to prove it.

use super::completion::{Completion, DeliveryCell};
use super::run::Run;
use super::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, lock};
use crate::commit::CommitKey;
use crate::message::{Outcome, Outgoing};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Datagrams from other shards waiting at most; beyond, they are dropped and counted.
const FORWARDED_MAX: usize = 4_096;

/// One thing to do for a shard.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Send a message.
    Put(Outgoing, Completion),
    /// Send many of one length.
    PutEach(Run),
    /// End an operation.
    Cancel(Arc<DeliveryCell>),
    /// The application's word on a message that this shard handed over: committed, or not and never.
    Commit(CommitKey, bool),
    /// A datagram that belongs to this shard, received by another.
    Forwarded { from: SocketAddr, local: Option<IpAddr>, datagram: Box<[u8]> },
    /// The outcome of an operation that this shard's actor put and another shard carried out.
    Outcome(u64, Outcome),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mails: Mutex<VecDeque<Mail>>,
    waiting: AtomicBool,
    forwarded: AtomicUsize,
}

impl Mailbox {
    /// For posting several mails under one lock; the poster then wakes the shard.
    pub(crate) fn open(&self) -> Posting<'_> {
        Posting { mails: lock(&self.mails), mailbox: self }
    }

    /// Posts one mail.
    pub(crate) fn post(&self, mail: Mail) {
        self.open().push(mail);
    }

    /// Posts a datagram received by the wrong shard; false if too many wait already.
    pub(crate) fn forward(&self, from: SocketAddr, local: Option<IpAddr>, datagram: &[u8]) -> bool {
        if self.forwarded.load(Ordering::Relaxed) >= FORWARDED_MAX {
            return false;
        }
        self.forwarded.fetch_add(1, Ordering::Relaxed);
        self.post(Mail::Forwarded { from, local, datagram: datagram.into() });
        true
    }

    /// The shard has handled forwarded datagrams.
    pub(crate) fn forwarded_done(&self, count: usize) {
        self.forwarded.fetch_sub(count, Ordering::Relaxed);
    }

    /// Anything there? One load.
    pub(crate) fn has_mail(&self) -> bool {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Swaps everything into `into`, which must be empty.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) {
        debug_assert!(into.is_empty());
        if self.has_mail() {
            let mut mails = lock(&self.mails);
            std::mem::swap(&mut *mails, into);
            self.waiting.store(false, Ordering::SeqCst);
        }
    }
}

/// An open mailbox.
pub(crate) struct Posting<'a> {
    mails: MutexGuard<'a, VecDeque<Mail>>,
    mailbox: &'a Mailbox,
}

impl Posting<'_> {
    pub(crate) fn push(&mut self, mail: Mail) {
        self.mails.push_back(mail);
    }
}

impl Drop for Posting<'_> {
    fn drop(&mut self) {
        if !self.mails.is_empty() {
            // Before the lock is released, and before the poster looks at the wake word.
            self.mailbox.waiting.store(true, Ordering::SeqCst);
        }
    }
}
