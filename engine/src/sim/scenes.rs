//! What a world went through besides the faults of its network. A scene that no seed had proves nothing.

use super::counts::counts;

counts! {
    /// How often each scene occurred.
    SceneCounts {
        /// Worlds in which engines of `auto` and of `binary` and v1 peers share a network.
        mixed_worlds,
        /// Engines that crashed in such a world, or said CLOSE, and came back.
        mixed_restarts,
        /// Discovery rows that asked a v1 peer.
        probes_to_v1,
        /// Discovery rows that asked an engine.
        probes_to_engines,
        /// Answers to these.
        answers,
        /// Data rows from engine to engine, where the sender did not know the receiver, or no longer.
        rows_to_engines,
        /// Delivered from `auto` to `auto`.
        auto_to_auto,
        /// Of these, those no row can carry.
        auto_to_auto_in_flows,
        /// Delivered from `auto` to `binary`.
        auto_to_binary,
        /// Delivered from `binary` to `auto`.
        binary_to_auto,
        /// Delivered from `auto` to a v1 peer.
        auto_to_v1,
        /// Ended because the v1 peer speaks rows alone.
        not_for_v1,
        /// Messages of v1 peers that an engine of `auto` or `binary` received.
        v1_to_mixed,
        /// Rows that were received once more, by another start of their receiver.
        again_after_restart,
        /// Messages in the bucket of an engine that crashed.
        lost_in_memory,
        /// Messages of which it is known when they last left a socket, and when their application was told the outcome.
        ended_after_sent,
        /// Engines that got a second key.
        keys_added,
        /// Engines that began to seal with it.
        keys_turned,
        /// Engines that lost the first one.
        keys_taken_away,
        /// Datagrams sealed under every second key of a flow's direction.
        second_phase,
        /// Engines that were shut down while messages came and went.
        drains,
        /// Of these, those whose operations all ended before the deadline.
        drained_in_time,
        /// Of these, those in mixed worlds.
        mixed_drains,
        /// Messages that an engine received while it was draining.
        received_in_drain,
        /// Messages accepted before an engine was shut down that were delivered while it was draining.
        delivered_in_drain,
        /// Messages that ended because the deadline came.
        stopped_by_drain,
        /// Messages that ended because their receiver had been shut down, or was about to be.
        closed_by_drain,
        /// Messages that the next start at the same address sent, and that were delivered.
        sent_after_drain,
        /// Messages that the next start at the same address received.
        received_after_drain,
    }
}
