//! The receiving application's word on a message whose sender waits for it: [`Commit`].

use std::fmt;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which message, of those one shard handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitKey {
    /// Index of the flow it came on.
    pub(crate) flow: u32,
    /// Which of the flows that had this index.
    pub(crate) incarnation: u32,
    /// Its number.
    pub(crate) seq: u64,
    /// Which of its deliveries: one that was refused may come again under the same number.
    pub(crate) attempt: u32,
}

/// Where the word goes.
pub(crate) trait CommitSink: Send + Sync {
    /// The message was committed, or never will be.
    fn decide(&self, shard: u16, key: CommitKey, committed: bool);
}

/// The word that a message's sender waits for ([`Level::Committed`](crate::Level::Committed)). To be given on any thread, at
/// any time; dropped without it, the sender's operation ends [`Refused`](crate::Refusal::NotCommitted).
#[must_use = "dropping it tells the sender that the message is not committed"]
pub struct Commit {
    /// Weak: messages wait in a bucket that the sink owns.
    sink: Weak<dyn CommitSink>,
    shard: u16,
    key: CommitKey,
    decided: AtomicBool,
}

impl Commit {
    pub(crate) const fn new(sink: Weak<dyn CommitSink>, shard: u16, key: CommitKey) -> Self {
        Self { sink, shard, key, decided: AtomicBool::new(false) }
    }

    /// The application is done with the message for good (say, it is on disk): the sender's operation ends `Delivered`.
    /// After the engine has stopped, or the sender has given up, this changes nothing.
    pub fn commit(self) {
        self.decide(true);
    }

    /// The first word counts.
    pub(crate) fn decide(&self, committed: bool) {
        if !self.decided.swap(true, Ordering::AcqRel)
            && let Some(sink) = self.sink.upgrade()
        {
            sink.decide(self.shard, self.key, committed);
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.decide(false);
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit")
            .field("key", &self.key)
            .field("decided", &self.decided)
            .finish_non_exhaustive()
    }
}

/// A [`Commit`] that an actor may take while it looks at the message.
#[derive(Debug)]
pub(crate) struct CommitSource {
    commit: std::sync::Mutex<Option<Commit>>,
}

impl CommitSource {
    pub(crate) const fn new(commit: Commit) -> Self {
        Self { commit: std::sync::Mutex::new(Some(commit)) }
    }

    pub(crate) fn take(&self) -> Option<Commit> {
        self.commit.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Book(Mutex<Vec<(u16, CommitKey, bool)>>);

    impl CommitSink for Book {
        fn decide(&self, shard: u16, key: CommitKey, committed: bool) {
            self.0.lock().unwrap().push((shard, key, committed));
        }
    }

    #[test]
    fn the_first_word_counts_and_silence_is_one() {
        let book = Arc::new(Book::default());
        let sink: Weak<dyn CommitSink> = Arc::<Book>::downgrade(&book);
        let key = |seq| CommitKey { flow: 1, incarnation: 2, seq, attempt: 3 };
        let commit = |seq| Commit::new(Weak::clone(&sink), 7, key(seq));
        commit(1).commit();
        drop(commit(2));
        let third = commit(3);
        third.decide(true);
        third.decide(false);
        drop(third);
        assert_eq!(*book.0.lock().unwrap(), [(7, key(1), true), (7, key(2), false), (7, key(3), true)]);
        let late = commit(4);
        drop(book);
        late.commit();
    }
}
