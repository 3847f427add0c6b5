//! The binary wire (v2): its state machines and tables. No I/O, no clock, no threads.
//!
//! | module | owns |
//! |---|---|
//! | `packet_ranges` | packet numbers received, and when to acknowledge them |
//! | `op_window` | which operations were delivered or refused: exactly once |
//! | `chunk_assembly` | messages that come in chunks |

pub mod chunk_assembly;
pub mod op_window;
pub mod packet_ranges;

#[cfg(test)]
mod tests {
    use super::{op_window::OpWindow, packet_ranges::PacketRanges};

    /// What a flow costs that lost nothing: no heap behind any of these (see the tests of each).
    #[test]
    fn the_receive_tables_of_an_idle_flow_fit_256_bytes() {
        assert_eq!(size_of::<PacketRanges>(), 56);
        assert_eq!(size_of::<OpWindow>(), 56);
        assert!(size_of::<PacketRanges>() + 2 * size_of::<OpWindow>() <= 256);
    }
}
