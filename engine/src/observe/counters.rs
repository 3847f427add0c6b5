//! The counters of a shard. Plain integers that only the shard writes; [`Counters::publish`] copies them to where other
//! threads read.

use crate::error::FailureCause;
use crate::wire::DropReason;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Cumulative counts since start. `total` and shard snapshots have the same shape.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
            drops: [u64; DropReason::ALL.len()],
            failures: [u64; FailureCause::ALL.len()],
        }

        impl Counters {
            const FIELDS: usize = [$(stringify!($name)),+].len();

            fn fields(&self) -> [u64; Self::FIELDS] {
                [$(self.$name),+]
            }

            fn from_values(values: &[u64; Self::COUNT]) -> Self {
                let mut values = values.iter().copied();
                let mut next = || values.next().unwrap_or(0);
                Self {
                    $($name: next(),)+
                    drops: std::array::from_fn(|_| next()),
                    failures: std::array::from_fn(|_| next()),
                }
            }

            /// Every counter's name, in the order of [`Counters::iter`].
            pub fn labels() -> impl Iterator<Item = String> {
                [$(stringify!($name)),+]
                    .into_iter()
                    .map(String::from)
                    .chain(DropReason::ALL.iter().map(|reason| format!("dropped_{}", reason.label())))
                    .chain(FailureCause::ALL.iter().map(|cause| format!("failed_{}", cause.label())))
            }
        }
    };
}

counters! {
    /// Datagrams handled or dropped by cause. Segments of a train count one by one.
    datagrams_received,
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
    /// Trains that left.
    trains_sent,
    /// Datagrams in them.
    datagrams_sent,
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
}

impl Default for Counters {
    /// All zero.
    fn default() -> Self {
        Self::from_values(&[0; Self::COUNT])
    }
}

impl Counters {
    const COUNT: usize = Self::FIELDS + DropReason::ALL.len() + FailureCause::ALL.len();

    pub(crate) fn drop_row(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    pub(crate) fn fail(&mut self, cause: FailureCause) {
        if let Some(index) = FailureCause::ALL.iter().position(|&other| other == cause) {
            self.failures[index] += 1;
        }
    }

    /// Rows dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
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

    fn values(&self) -> impl Iterator<Item = u64> {
        self.fields().into_iter().chain(self.drops).chain(self.failures)
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

/// Where a shard publishes its counters.
#[derive(Debug)]
pub(crate) struct Published {
    values: [AtomicU64; Counters::COUNT],
    /// What is in use now, no count.
    datagram_bytes: AtomicU16,
}

impl Published {
    pub(crate) fn new() -> Self {
        let values = std::array::from_fn(|_| AtomicU64::new(0));
        Self { values, datagram_bytes: AtomicU16::new(0) }
    }

    /// Called by the shard alone.
    pub(crate) fn publish(&self, counters: &Counters, datagram_bytes: usize) {
        for (place, value) in self.values.iter().zip(counters.values()) {
            place.store(value, Ordering::Relaxed);
        }
        let datagram_bytes = u16::try_from(datagram_bytes).unwrap_or(u16::MAX);
        self.datagram_bytes.store(datagram_bytes, Ordering::Relaxed);
    }

    /// The longest datagram of the binary wire in use; 0: none yet.
    pub(crate) fn datagram_bytes(&self) -> u16 {
        self.datagram_bytes.load(Ordering::Relaxed)
    }

    /// Each value is one the shard had at some time of its latest publications.
    pub(crate) fn read(&self) -> Counters {
        let mut values = [0; Counters::COUNT];
        for (value, place) in values.iter_mut().zip(&self.values) {
            *value = place.load(Ordering::Relaxed);
        }
        Counters::from_values(&values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_counters_read_back_and_add_up() {
        let mut counters = Counters { rows_sent: 3, parks: 1, ..Counters::default() };
        counters.drop_row(DropReason::ForwardFull);
        counters.fail(FailureCause::EngineStopped);
        let published = Published::new();
        published.publish(&counters, 1_472);
        assert_eq!(published.datagram_bytes(), 1_472);
        let mut read = published.read();
        assert_eq!(read, counters);
        read.add(&counters);
        assert_eq!(read.rows_sent, 6);
        assert_eq!(read.get("dropped_forward_full"), 2);
        assert_eq!(read.get("failed_engine_stopped"), 2);
        assert_eq!(read.failed(FailureCause::EngineStopped), 2);
        assert_eq!(read.iter().count(), Counters::COUNT);
    }
}
