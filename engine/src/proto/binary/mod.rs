//! The binary wire's state machines: flows between engines. No I/O, no clock.
//!
//! | module | owns |
//! |---|---|
//! | `flows` | all flows of a shard: handshake, whose turn it is, timers |
//! | `addresses` | which of them belong to which address |
//! | `budget` | how often what anybody could cause may be done |
//! | `flow` | the sending half of one flow: messages into datagrams, outcomes |
//! | `flow::asleep`, `inflow::asleep` | what is left of a flow on which nothing happens |
//! | `op_ring`, `recovery`, `packet_pool` | what `flow` works on: operations by number, datagrams by number, their memory |
//! | `frame_copies` | memory for frames that are copied out of their datagram |
//! | `guard` | sealing and opening of datagrams, where they are sealed |
//! | `path_mtu` | how long a datagram the path carries |
//! | `source` | where the bytes of a message come from |
//! | `classes` | what waits in a flow beside messages of normal priority, and whose turn it is |
//! | `extras` | options of a message as extensions of its frames, and back |
//! | `lanes` | which message of a lane comes before which |
//! | `inflow` | the receiving half of one flow: windows, partial messages, what the peer must be told |
//! | `partials`, `packet_ranges`, `op_window`, `chunk_assembly`, `credit` | what `inflow` works on |

pub mod addresses;
pub mod budget;
pub mod chunk_assembly;
pub mod classes;
pub mod credit;
pub mod extras;
pub mod flow;
pub mod flows;
pub mod frame_copies;
pub mod guard;
pub mod inflow;
pub mod lanes;
pub mod op_ring;
pub mod op_window;
pub mod packet_pool;
pub mod packet_ranges;
pub mod partials;
pub mod path_mtu;
pub mod recovery;
pub mod small_queue;
pub mod source;

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod flows_tests;
#[cfg(test)]
mod lanes_tests;
// Miri runs no foreign code.
#[cfg(test)]
#[cfg(not(miri))]
mod new_keys_tests;
#[cfg(test)]
mod unread_tests;

#[cfg(test)]
mod tests {
    use super::{op_window::OpWindow, packet_ranges::PacketRanges};

    /// What a flow costs that lost nothing: no heap behind any of these (see the tests of each).
    #[test]
    fn the_receive_tables_of_an_idle_flow_fit_256_bytes() {
        assert_eq!(size_of::<PacketRanges>(), 56);
        assert_eq!(size_of::<OpWindow>(), 64);
        assert!(size_of::<PacketRanges>() + 2 * size_of::<OpWindow>() <= 256);
    }
}
