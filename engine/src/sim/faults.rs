//! The faults of a world: how much of each is drawn, and how often each happened.

use super::counts::counts;

/// What is done to a world; rates in parts per thousand. Zero: not in this world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Datagrams lost.
    pub loss: u32,
    /// Datagrams with which a burst of losses begins, to one host.
    pub burst: u32,
    /// Datagrams delivered twice.
    pub duplicate: u32,
    /// Datagrams held back so that later ones overtake them.
    pub reorder: u32,
    /// Trains delivered as single datagrams.
    pub split: u32,
    /// Least delay, microseconds.
    pub delay_us: u32,
    /// Random delay on top, microseconds.
    pub jitter_us: u32,
    /// Delay on top in one direction between two hosts, microseconds.
    pub one_way_delay_us: u32,
    /// Datagrams lost in one direction between two hosts only.
    pub one_way_loss: u32,
    /// Bytes a millisecond on the way to each host; more waits in a queue.
    pub rate: u32,
    /// Bytes that wait there; more is dropped.
    pub queue_bytes: u32,
    /// Times some hosts are cut off from the others.
    pub partitions: u32,
    /// Datagrams with one byte changed. Rows have no checksum: of theirs it is the first byte, so that they are none any more.
    pub corrupt: u32,
    /// Bytes of the longest datagram between two of the hosts, from some moment on and for good; 0: any.
    pub mtu: u32,
    /// The kernel refuses longer ones (EMSGSIZE), else they vanish on the way.
    pub mtu_refused: bool,
    /// Sends refused with EAGAIN, after half of them all others for a while.
    pub blocked: u32,
    /// Sends refused with ENOBUFS.
    pub no_buffers: u32,
    /// Trains of which some datagrams leave, though the kernel says ENOBUFS.
    pub short: u32,
    /// Trains refused with EIO.
    pub gso_refused: u32,
    /// Trains a socket holds; more are dropped.
    pub socket_trains_max: usize,
    /// Receives after which a socket brings nothing for a while.
    pub stalled: u32,
    /// Receives that bring a later train first.
    pub shuffled: u32,
    /// Datagrams that become one train with those before them.
    pub coalesced: u32,
    /// Datagrams and trains that come to another shard's socket.
    pub misdirected: u32,
    /// What rings do: enters refused, enters that take some of the entries only, receives that end with a datagram, completions
    /// that are late, overtake another one, or come twice, and polls that fire though nothing happened.
    pub ring: [u32; 7],
    /// Receives that end with an error.
    pub receive_failed: u32,
    /// Datagrams an outsider sees, and makes something of.
    pub hostile: u32,
    /// Longest pause of a v1 peer, milliseconds.
    pub pause_ms: u32,
    /// Crashes and restarts of engines.
    pub restarts: u32,
    /// Times a sender's address changes.
    pub rebinds: u32,
    /// Times an engine's wall clock jumps.
    pub clock_jumps: u32,
    /// Times an engine stands still.
    pub suspensions: u32,
    /// Times an application does not look at its buckets until the network heals.
    pub stops: u32,
    /// Messages an actor refuses.
    pub refused: u32,
}

counts! {
    /// How often each fault happened.
    FaultCounts {
        /// Datagrams lost.
        lost,
        /// Datagrams lost in bursts.
        lost_in_bursts,
        /// Datagrams delivered twice.
        duplicated,
        /// Datagrams held back.
        reordered,
        /// Datagrams that took another time than the least.
        delayed,
        /// Datagrams with a byte changed.
        corrupted,
        /// Datagrams between hosts that were cut off from each other.
        partitioned,
        /// Datagrams lost in one direction.
        lost_one_way,
        /// Datagrams that took longer in one direction.
        delayed_one_way,
        /// Datagrams that waited in a queue.
        queued,
        /// Datagrams that found the queue full.
        queue_dropped,
        /// Datagrams too long for their path.
        too_long,
        /// Sends refused with EMSGSIZE.
        too_long_refused,
        /// Datagrams dropped at a full socket.
        overflowed,
        /// Datagrams to an address nobody has.
        nowhere,
        /// Sends refused with EAGAIN.
        blocked,
        /// Sends refused with ENOBUFS.
        no_buffers,
        /// Trains of which some datagrams left.
        short,
        /// Trains refused with EIO.
        gso_refused,
        /// Receives that brought nothing though there was something.
        stalled,
        /// Receives that brought a later train first.
        shuffled,
        /// Datagrams that became one train with those before them.
        coalesced,
        /// Datagrams and trains that came to another shard's socket.
        misdirected,
        /// Enters of a ring that were refused.
        enter_refused,
        /// Enters of a ring that took some of the entries only.
        entries_left,
        /// Multishot receives that ended with a datagram.
        receive_ended,
        /// Multishot receives that ended with an error.
        receive_failed,
        /// Multishot receives that ended because no buffer was lent.
        no_receive_buffer,
        /// Completions that were late.
        completion_late,
        /// Completions that overtook another one.
        completion_overtook,
        /// Completions that came twice.
        completion_repeated,
        /// Completions that did not fit into their queue.
        completions_overflowed,
        /// Polls that fired though nothing happened.
        poll_fired,
        /// Datagrams an outsider repeated.
        replayed,
        /// Datagrams an outsider made up.
        forged,
        /// Engines that crashed and came back.
        restarted,
        /// Datagrams whose sender's address had changed.
        rebound,
        /// Wall clocks that jumped.
        clock_jumped,
        /// Engines that stood still.
        suspended,
        /// Applications that were slow to look at their buckets.
        app_slow,
        /// Applications that did not look until the network healed.
        app_stopped,
        /// Messages actors refused.
        app_refused,
        /// Messages that found a receive bucket full.
        bucket_full,
        /// Pauses of v1 peers.
        paused,
    }
}

/// What comes of limits, of addresses where nobody is and of what applications say: in worlds without any fault, too.
const NOT_INJECTED: [&str; 5] =
    ["nowhere", "bucket_full", "app_refused", "no_receive_buffer", "completions_overflowed"];

impl FaultCounts {
    /// Kinds of injected faults that happened.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.iter().filter(|(name, count)| *count > 0 && !NOT_INJECTED.contains(name)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_injected_is_no_kind_of_fault() {
        let names: Vec<&str> = FaultCounts::default().iter().map(|row| row.0).collect();
        assert!(NOT_INJECTED.iter().all(|name| names.contains(name)));
        let counts =
            FaultCounts { nowhere: 1, bucket_full: 2, app_refused: 3, lost: 4, ..Default::default() };
        assert_eq!(counts.kinds(), 1);
    }
}
