//! Plain UDP and TCP under the same load as UDP-Plus: what it is measured against. The generator, its schedule, the books and
//! the report are the same; only what carries the messages is another.
//!
//! ```text
//!   near                                             far
//!   client (a thread a shard)                        udp_server, tcp_server (a thread a shard)
//!     Generator -- Way: udp_link, tcp_link -- kernel -- echo, or (TCP) the number of messages taken so far
//!     Pending: deadlines, which no engine keeps here
//! ```
//!
//! A message is delivered when its answer is here: over UDP its echo, over TCP its echo or (mode sink) a count that includes
//! it. One without an answer by its deadline has failed, and so has one whose connection closes.

mod batch;
mod client;
mod far;
mod frame;
mod near;
mod pending;
mod stream;
mod tcp_link;
mod tcp_server;
mod threads;
mod udp_link;
mod udp_server;
mod wait;

use crate::cli::{Api, EngineFlags, Mode, Protocol};
use crate::error::usage;
use anyhow::Result;
pub use far::{Place, start as start_far};
pub use near::start as start_near;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{getsockopt, setsockopt};
use std::os::fd::AsFd;
use std::time::Duration;
pub use threads::Threads;

/// What a datagram over IPv4 carries.
const UDP_BYTES_MAX: usize = 65_507;
/// The longest message over TCP: a receiver has to hold it.
const TCP_BYTES_MAX: usize = 64 << 20;

/// How long an answer is waited for if the user does not say.
pub fn deadline_default(protocol: Protocol) -> Option<Duration> {
    match protocol {
        Protocol::UdpPlus => None,
        // Nothing is sent again: what is not here by then does not come.
        Protocol::Udp => Some(Duration::from_secs(1)),
        Protocol::Tcp => Some(Duration::from_secs(30)),
    }
}

/// What is wrong with flags for plain sockets, if these are asked for.
pub fn check_flags(protocol: Protocol, mode: Mode, api: Api, flags: &EngineFlags) -> Result<()> {
    if protocol == Protocol::UdpPlus {
        return Ok(());
    }
    if protocol == Protocol::Udp && mode == Mode::Sink {
        return Err(usage(
            "--protocol udp needs --mode echo, at both ends: a sink of plain datagrams tells nobody what arrived",
        ));
    }
    let engine = [
        ("--api", api != Api::Actor),
        ("--wire", flags.wire != crate::cli::Wire::Csv),
        ("--peer-wire", !flags.peer_wire.is_empty()),
        ("--mtu", flags.mtu != crate::cli::Mtu(None)),
        ("--cc", flags.cc != crate::cli::Cc::Model),
        ("--key-file", flags.key_file.is_some()),
        ("--driver", flags.driver != crate::cli::Driver::Auto),
        ("--spin-us", flags.spin_us != 0),
        ("--row-bytes", flags.row_bytes.is_some()),
        ("--window", flags.window.is_some()),
        ("--no-gso", flags.no_gso),
        ("--no-gro", flags.no_gro),
    ];
    let given: Vec<&str> = engine.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    if given.is_empty() {
        return Ok(());
    }
    Err(usage(format!("--protocol {protocol} is plain sockets, which have no {}", given.join(", "))))
}

/// Whether messages of up to so many bytes can be sent at all.
pub fn check_size(protocol: Protocol, bytes: usize) -> Result<()> {
    let most = match protocol {
        Protocol::UdpPlus => return Ok(()),
        Protocol::Udp => UDP_BYTES_MAX,
        Protocol::Tcp => TCP_BYTES_MAX,
    };
    if bytes <= most {
        return Ok(());
    }
    Err(usage(format!("--size: with --protocol {protocol} a message has {most} bytes at most")))
}

/// Asks for a receive buffer. More than the system's limit is granted to the privileged only; others get what there is. Returns
/// what was granted.
fn set_receive_buffer(socket: &impl AsFd, bytes: usize) -> Result<usize> {
    if setsockopt(socket, RcvBufForce, &bytes).is_err() {
        setsockopt(socket, RcvBuf, &bytes)?;
    }
    Ok(getsockopt(socket, RcvBuf)?)
}
