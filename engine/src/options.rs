//! What a message can say about itself besides its bytes: [`Metadata`], and how its sender wants it treated.
//!
//! Rare: an [`Outgoing`](crate::Outgoing) keeps all of it in one box, a message without any has none.

use crate::commit::CommitKey;
use crate::message::Level;
use bytes::Bytes;

/// How urgent a message is beside others to the same peer, where messages wait: for the window, for credit, for the pace.
/// What has left is not overtaken, nor is what was lost and leaves again. Binary wire; rows leave in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// Of the datagrams for what waits, one for eight of [`High`](Self::High) and four of [`Normal`](Self::Normal).
    Low,
    /// The default.
    #[default]
    Normal,
    /// Twice as much as [`Normal`](Self::Normal), where both wait.
    High,
    /// Before everything else, as long as there is any: for the few messages that keep others going.
    Control,
}

/// What travels with a message for the application at the other end. At most 255 bytes, each part counted with two more
/// than it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The application's number for the kind of message.
    pub(crate) tag: Option<u32>,
    /// Which exchange it belongs to.
    pub(crate) correlation: Option<u64>,
    /// A trace context, opaque.
    pub(crate) trace: Option<Bytes>,
    /// The application's bytes.
    pub(crate) user: Option<Bytes>,
}

impl Metadata {
    /// Nothing to carry.
    pub(crate) const fn is_empty(&self) -> bool {
        self.tag.is_none() && self.correlation.is_none() && self.trace.is_none() && self.user.is_none()
    }

    /// The same, borrowed.
    pub(crate) fn as_extras(&self) -> Extras<'_> {
        let Self { tag, correlation, trace, user } = self;
        Extras {
            tag: *tag,
            correlation: *correlation,
            trace: trace.as_deref(),
            user: user.as_deref(),
            ..Extras::default()
        }
    }
}

/// Everything about an outgoing message that most messages do without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// What travels with it.
    pub(crate) metadata: Metadata,
    /// What its sender waits for.
    pub(crate) level: Level,
    /// Beside others to the same peer.
    pub(crate) priority: Priority,
    /// In order with others.
    pub(crate) lane: Option<Lane>,
}

/// A message's place among those that are handed over in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// The application's name for it.
    pub(crate) number: u16,
    /// How far below the message's number that of the one before it is; 0: there is none. Known from its first transmission
    /// on.
    pub(crate) before: u32,
}

/// What came with a message, borrowed from the receive path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras<'a> {
    /// See [`Metadata`].
    pub(crate) tag: Option<u32>,
    /// See [`Metadata`].
    pub(crate) correlation: Option<u64>,
    /// See [`Metadata`].
    pub(crate) trace: Option<&'a [u8]>,
    /// See [`Metadata`].
    pub(crate) user: Option<&'a [u8]>,
    /// The sender waits for a commit.
    pub(crate) commit: Option<CommitKey>,
    /// The lane it is in.
    pub(crate) lane: Option<u16>,
}

impl Extras<'_> {
    /// Nothing but a lane, if that.
    pub(crate) fn are_of_a_lane_alone(&self) -> bool {
        *self == Extras { lane: self.lane, ..Extras::default() }
    }

    /// For a message that is kept.
    pub(crate) fn to_metadata(self) -> Metadata {
        let Self { tag, correlation, trace, user, commit: _, lane: _ } = self;
        let own = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        Metadata { tag, correlation, trace: own(trace), user: own(user) }
    }
}
