//! The counters of a shard. Plain integers that only the shard writes; `Published` copies them to where other threads read.

use crate::error::FailureCause;
use crate::wire::DropReason;

/// Why a message of a binary datagram, or a frame of it, had no effect though the datagram counts.
const PART_REASONS: [DropReason; 9] = [
    DropReason::Duplicate,
    DropReason::Refused,
    DropReason::BucketFull,
    DropReason::DedupFull,
    DropReason::Stale,
    DropReason::PartialsFull,
    DropReason::MessageTooLarge,
    DropReason::LengthChanged,
    DropReason::BinaryMalformed,
];

/// What the kernel refuses a datagram with, by name; whatever else it says is the last one's.
const SEND_ERRNOS: [(i32, &str); 9] = [
    (libc::EPERM, "eperm"),
    (libc::EACCES, "eacces"),
    (libc::ENETUNREACH, "enetunreach"),
    (libc::EHOSTUNREACH, "ehostunreach"),
    (libc::ECONNREFUSED, "econnrefused"),
    (libc::EMSGSIZE, "emsgsize"),
    (libc::EINVAL, "einval"),
    (libc::EADDRNOTAVAIL, "eaddrnotavail"),
    (0, "other"),
];

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Cumulative counts since start. `total` and shard snapshots have the same shape.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
            pub(super) drops: [u64; DropReason::ALL.len()],
            pub(super) failures: [u64; FailureCause::ALL.len()],
            pub(super) parts: [u64; PART_REASONS.len()],
            pub(super) refusals: [u64; SEND_ERRNOS.len()],
        }

        impl Counters {
            const FIELDS: usize = [$(stringify!($name)),+].len();

            fn fields(&self) -> [u64; Self::FIELDS] {
                [$(self.$name),+]
            }

            pub(super) fn from_values(values: &[u64; Self::COUNT]) -> Self {
                let mut values = values.iter().copied();
                let mut next = || values.next().unwrap_or(0);
                Self {
                    $($name: next(),)+
                    drops: std::array::from_fn(|_| next()),
                    failures: std::array::from_fn(|_| next()),
                    parts: std::array::from_fn(|_| next()),
                    refusals: std::array::from_fn(|_| next()),
                }
            }

            /// Every counter's name, in the order of [`Counters::iter`].
            pub fn labels() -> impl Iterator<Item = String> {
                [$(stringify!($name)),+]
                    .into_iter()
                    .map(String::from)
                    .chain(DropReason::ALL.iter().map(|reason| format!("dropped_{}", reason.label())))
                    .chain(FailureCause::ALL.iter().map(|cause| format!("failed_{}", cause.label())))
                    .chain(PART_REASONS.iter().map(|reason| format!("part_dropped_{}", reason.label())))
                    .chain(SEND_ERRNOS.iter().map(|errno| format!("refused_{}", errno.1)))
            }
        }
    };
}

counters! {
    /// Datagrams handled or dropped by cause. Segments of a train count one by one.
    datagrams_received,
    /// Datagrams that came out of the socket: handled here, dropped, or handed to another shard.
    datagrams_taken,
    /// Trains (or lone datagrams) received.
    trains_received,
    /// Data rows that had an effect: delivered, or stored as part of a message. And datagrams of binary flows that count.
    data_rows_handled,
    /// Confirms that ended an operation or a chunk. And handshakes, RESETs and discovery rows of the binary wire.
    confirms_handled,
    /// Rows handed to the shard that owns them because the kernel chose another.
    misrouted,
    /// Rows whose owner the kernel cannot know (foreign ids), handed to the shard the keyed hash names.
    unsteered,
    /// Rows received from another shard.
    forwarded_in,
    /// Flows of the binary wire that were forgotten to make room for another one of their address, or for a newer one
    /// that has not proven its address either.
    flows_evicted,
    /// PINGs to an address from which a datagram of a binary flow came, and which is not the flow's.
    challenges_sent,
    /// Flows of the binary wire of which little is kept since nothing happens on them.
    flows_slept,
    /// Of these, flows on which something happened again.
    flows_woken,
    /// Flows of the binary wire whose peer said that it takes nothing more (CLOSE).
    closes_received,
    /// Flows of the binary wire whose peer was told so, at the end of this engine.
    closes_sent,
    /// Messages handed to the application.
    messages_received,
    /// Payload bytes of messages handed to the application.
    message_bytes_received,
    /// Partial messages that expired: idle, or over the binary wire past their sender's deadline.
    partials_expired,
    /// Partial messages of the binary wire whose sender gave them up (CANCEL).
    partials_cancelled,
    /// Messages in lanes that came before their turn, and waited for it.
    lane_messages_held,
    /// Of these, and of such in parts, those that made way for one whose turn it was; they are sent again.
    lane_messages_displaced,
    /// Messages in lanes that their sender gave up before they were there (SKIP).
    lane_messages_skipped,
    /// Confirm rows put into trains. And datagrams of binary flows that carry nothing but acknowledgements.
    confirms_sent,
    /// Confirm rows not sent because the turn's batch was full, or because they would be longer than the row that asked
    /// for them; the sender tries again.
    confirms_withheld,
    /// Operations accepted.
    messages_accepted,
    /// Operations that ended Delivered.
    messages_delivered,
    /// Payload bytes of operations that ended Delivered.
    message_bytes_delivered,
    /// Data rows put into trains, repeats included. And datagrams of binary flows that are kept until acknowledged.
    rows_sent,
    /// Data rows put into trains again. And datagrams of binary flows whose frames left again in another one.
    rows_retransmitted,
    /// Datagrams of binary flows that were sent for what their fate says about the path's MTU.
    path_probes_sent,
    /// Of these, the ones longer than what was in use that were lost, or that the interface does not take.
    path_probes_lost,
    /// Times the longest datagram to a peer became shorter because the path, or the interface, carries no longer ones any more.
    path_mtu_falls,
    /// Datagrams put into trains, of whatever kind. Each is in one of the next four, or refused, or waits for the socket.
    datagrams_built,
    /// Trains that left.
    trains_sent,
    /// Datagrams in them.
    datagrams_sent,
    /// Datagrams of binary flows that a full socket did not take, or that are too long for the interface: back to their flow,
    /// which builds them anew.
    datagrams_given_back,
    /// Datagrams that waited for the socket when the shard ended.
    datagrams_discarded,
    /// Trains a path refused as a train and that were sent again one by one.
    trains_split,
    /// Trains that waited because the socket was full (EAGAIN).
    sends_blocked,
    /// Trains sent again without a source address, because the one the peer had reached us at is no longer ours.
    sources_changed,
    /// Trains the kernel refused for another reason; their rows are tried again.
    sends_refused,
    /// Datagrams longer than a receive buffer, dropped.
    receive_truncated,
    /// Receives whose control data made no sense, dropped.
    receive_malformed,
    /// Times the receive ran out of buffers.
    receive_out_of_buffers,
    /// Times a multishot receive was armed again.
    receive_rearmed,
    /// Receive errors.
    receive_errors,
    /// Completions nobody waits for.
    stale_completions,
    /// Turns of the loop.
    turns,
    /// Times the shard went to sleep.
    parks,
    /// Turns that lasted longer than `stall_after`: the application's code did not return.
    stalls,
    /// How long those lasted in all, in milliseconds.
    stalled_ms,
}

impl Default for Counters {
    /// All zero.
    fn default() -> Self {
        Self::from_values(&[0; Self::COUNT])
    }
}

impl Counters {
    pub(super) const COUNT: usize = Self::FIELDS
        + DropReason::ALL.len()
        + FailureCause::ALL.len()
        + PART_REASONS.len()
        + SEND_ERRNOS.len();

    pub(crate) fn drop_row(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// As [`drop_row`](Self::drop_row), of a message or a frame of a datagram that counts itself.
    pub(crate) fn drop_part(&mut self, reason: DropReason) {
        self.drop_row(reason);
        let index = PART_REASONS.iter().position(|&other| other == reason);
        debug_assert!(index.is_some(), "{reason:?} is missing in PART_REASONS");
        if let Some(index) = index {
            self.parts[index] += 1;
        }
    }

    /// The kernel refused datagrams for good.
    pub(crate) fn refuse(&mut self, errno: i32, datagrams: usize) {
        let known = SEND_ERRNOS.iter().position(|other| other.0 == errno);
        self.refusals[known.unwrap_or(SEND_ERRNOS.len() - 1)] += datagrams as u64;
    }

    pub(crate) fn fail(&mut self, cause: FailureCause) {
        self.fail_many(cause, 1);
    }

    pub(crate) fn fail_many(&mut self, cause: FailureCause, operations: u64) {
        if let Some(index) = FailureCause::ALL.iter().position(|&other| other == cause) {
            self.failures[index] += operations;
        }
    }

    /// Rows dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Datagrams dropped for `reason`. Of what [`dropped`](Self::dropped) says, without messages and frames of binary datagrams
    /// that count themselves.
    #[must_use]
    pub fn datagrams_dropped(&self, reason: DropReason) -> u64 {
        let parts = PART_REASONS.iter().zip(self.parts).find(|row| *row.0 == reason).map_or(0, |row| row.1);
        self.dropped(reason) - parts
    }

    /// Datagrams the kernel refused to send, by the name of the error number.
    pub fn datagrams_refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SEND_ERRNOS.iter().map(|errno| errno.1).zip(self.refusals)
    }

    /// Rows dropped for any reason.
    #[must_use]
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// Operations that ended with `cause`.
    #[must_use]
    pub fn failed(&self, cause: FailureCause) -> u64 {
        FailureCause::ALL.iter().zip(self.failures).find(|row| *row.0 == cause).map_or(0, |row| row.1)
    }

    /// Operations that ended without being delivered.
    #[must_use]
    pub fn failed_total(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// Every counter by name.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> {
        Self::labels().zip(self.values())
    }

    /// A counter by name; 0 for names that do not exist.
    #[must_use]
    pub fn get(&self, label: &str) -> u64 {
        self.iter().find(|row| row.0 == label).map_or(0, |row| row.1)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        let lists = self.drops.into_iter().chain(self.failures).chain(self.parts).chain(self.refusals);
        self.fields().into_iter().chain(lists)
    }

    /// Adds another shard's counts.
    pub fn add(&mut self, other: &Self) {
        let mut sum = [0; Self::COUNT];
        for (sum, (a, b)) in sum.iter_mut().zip(self.values().zip(other.values())) {
            *sum = a + b;
        }
        *self = Self::from_values(&sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_add_up_and_are_found_by_name() {
        let mut counters = Counters { rows_sent: 3, parks: 1, ..Counters::default() };
        counters.drop_row(DropReason::ForwardFull);
        counters.fail(FailureCause::EngineStopped);
        let mut twice = counters.clone();
        twice.add(&counters);
        assert_eq!(twice.rows_sent, 6);
        assert_eq!(twice.get("dropped_forward_full"), 2);
        assert_eq!(twice.get("failed_engine_stopped"), 2);
        assert_eq!(twice.failed(FailureCause::EngineStopped), 2);
        assert_eq!(twice.iter().count(), Counters::COUNT);
    }

    #[test]
    fn a_message_is_not_its_datagram() {
        let mut counters = Counters::default();
        counters.drop_row(DropReason::Duplicate);
        PART_REASONS.iter().for_each(|&reason| counters.drop_part(reason));
        assert_eq!((counters.dropped(DropReason::Duplicate), counters.dropped_total()), (2, 10));
        assert_eq!(counters.datagrams_dropped(DropReason::Duplicate), 1);
        assert_eq!(counters.datagrams_dropped(DropReason::Stale), 0);
        assert_eq!(counters.get("part_dropped_duplicate"), 1);
    }

    #[test]
    fn refused_datagrams_have_a_name() {
        let mut counters = Counters::default();
        counters.refuse(libc::EPERM, 3);
        counters.refuse(libc::ENETDOWN, 2);
        let refused: Vec<_> = counters.datagrams_refused().filter(|row| row.1 > 0).collect();
        assert_eq!(refused, [("eperm", 3), ("other", 2)]);
        assert_eq!(counters.get("refused_eperm"), 3);
    }
}
