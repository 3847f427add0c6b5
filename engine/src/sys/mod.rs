//! The kernel: the only place with `unsafe`. Everything that leaves here is a safe interface.
//!
//! Who uses what: `runtime::engine` probes ([`caps`]), binds the sockets ([`socket`], which attaches
//! [`steering`]), reads what the kernel counts ([`snmp`]) and pins threads ([`affinity`]); producers notify a shard through [`wake`]; the two drivers
//! stand on [`ring`] and [`mmsg`], which share what goes around a payload ([`msg`]: sent, [`received`]) and
//! the table of outgoing messages in [`send_slots`]. What the kernel writes (lengths, buffer ids, `user_data`) is checked like data
//! from the network.
#![allow(unsafe_code, reason = "the one module that talks to the kernel; see STYLE C2")]

pub(crate) mod affinity;
pub(crate) mod buf_ring;
pub(crate) mod caps;
pub(crate) mod clock;
pub(crate) mod error;
pub(crate) mod mapping;
pub(crate) mod mmsg;
pub(crate) mod msg;
#[cfg(test)]
pub(crate) mod netns;
pub(crate) mod received;
pub(crate) mod ring;
pub(crate) mod ring_raw;
pub(crate) mod send_slots;
pub(crate) mod snmp;
pub(crate) mod socket;
pub(crate) mod steering;
pub(crate) mod wake;
pub(crate) mod wake_state;
