//! The ledger: where every message and every datagram went.
//!
//! ```text
//!   messages put             = delivered + failed, by cause + open
//!   datagrams built          = handed to the kernel + refused, by errno + given back + discarded + waiting for the socket
//!   datagrams out of the socket (and from other shards)
//!                            = data + confirms + dropped, by cause + handed to other shards
//! ```
//!
//! Each side of a sum is counted at another place, so a residual is a message or a datagram that got lost inside the engine,
//! or was counted twice. The sums hold for each shard at any time, since a shard's counters are read as of one moment of it.
//! What the kernel counts stands beside them, in its own unit: *packets*, of which a train (GSO out, GRO in) is one.

use super::counters::Counters;
use super::published::Gauges;
use crate::error::FailureCause;
use crate::wire::DropReason;
use std::fmt;
use std::time::Duration;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Messages of the application.
    Messages,
    /// Datagrams as on the wire: those of a train count one by one.
    Datagrams,
    /// Packets as the kernel counts them: a train is one.
    Packets,
    /// Bytes.
    Bytes,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Messages => "messages",
            Self::Datagrams => "datagrams",
            Self::Packets => "kernel packets",
            Self::Bytes => "bytes",
        })
    }
}

/// One place where some of a sum went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where: `snake_case`, the counter's name if it is one.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// What there was in all, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sum {
    /// What it is of, `snake_case`.
    pub name: &'static str,
    /// In what it is counted.
    pub unit: Unit,
    /// In all.
    pub total: u64,
    /// Where it went. Every place is listed, also those where nothing went.
    pub parts: Vec<Part>,
}

impl Sum {
    fn new(name: &'static str, unit: Unit, total: u64, parts: &[(&str, u64)]) -> Self {
        let parts = parts.iter().map(|&(name, count)| Part { name: name.to_owned(), count }).collect();
        Self { name, unit, total, parts }
    }

    fn extend(&mut self, parts: impl Iterator<Item = (String, u64)>) {
        self.parts.extend(parts.map(|(name, count)| Part { name, count }));
    }

    /// In all, less its parts: 0, or something is in no place (above 0), or in two (below 0).
    #[must_use]
    pub fn residual(&self) -> i64 {
        self.parts.iter().fold(self.total.cast_signed(), |left, part| left.wrapping_sub_unsigned(part.count))
    }

    /// What went to the place of that name; 0 if there is none.
    #[must_use]
    pub fn part(&self, name: &str) -> u64 {
        self.parts.iter().find(|part| part.name == name).map_or(0, |part| part.count)
    }
}

/// The sums over one shard's counters.
pub(crate) fn sums(counters: &Counters, gauges: &Gauges) -> Vec<Sum> {
    let c = counters;
    let mut put = Sum::new(
        "messages_put",
        Unit::Messages,
        c.messages_accepted,
        &[("delivered", c.messages_delivered), ("open", gauges.operations_open)],
    );
    put.extend(FailureCause::ALL.iter().map(|&cause| (format!("failed_{}", cause.label()), c.failed(cause))));
    let mut built = Sum::new(
        "datagrams_built",
        Unit::Datagrams,
        c.datagrams_built,
        &[
            ("handed_to_the_kernel", c.datagrams_sent),
            ("given_back_to_their_flow", c.datagrams_given_back),
            ("discarded_at_the_end", c.datagrams_discarded),
            ("waiting_for_the_socket", gauges.datagrams_waiting),
        ],
    );
    built.extend(c.datagrams_refused().map(|(errno, count)| (format!("refused_{errno}"), count)));
    let mut taken = Sum::new(
        "datagrams_taken",
        Unit::Datagrams,
        c.datagrams_taken + c.forwarded_in,
        &[
            ("data", c.data_rows_handled),
            ("confirms", c.confirms_handled),
            (
                "handed_to_other_shards",
                // What another shard has no room for is dropped here, and counted as that.
                (c.misrouted + c.unsteered).wrapping_sub(c.dropped(DropReason::ForwardFull)),
            ),
        ],
    );
    let reasons = DropReason::ALL.iter();
    taken.extend(reasons.map(|&reason| (format!("dropped_{}", reason.label()), c.datagrams_dropped(reason))));
    vec![put, built, taken]
}

/// One shard's socket, in kernel packets: a train counts once, and so does a dropped one, whatever is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketLedger {
    /// Sent, of the ledger's datagrams `handed_to_the_kernel`.
    pub packets_sent: u64,
    /// Received. Those too long for a receive buffer or without sense, which the engine drops unseen, are among them.
    pub packets_received: u64,
    /// Of these, dropped unseen.
    pub packets_unreadable: u64,
    /// Dropped by the kernel at this socket, as it says now (SO_MEMINFO): its receive buffer was full, or the checksum wrong.
    pub packets_dropped: u64,
    /// The same number as told with the last packet that came (SO_RXQ_OVFL): what of it happened before that one.
    pub packets_dropped_told: u64,
    /// Kernel memory in the receive queue, now; 0: nothing waits to be read.
    pub receive_queue_bytes: u64,
    /// What it may be.
    pub receive_buffer_bytes: u64,
    /// Kernel memory in the send queue, now; 0: everything has left the host's stack.
    pub send_queue_bytes: u64,
}

/// One shard's part.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardLedger {
    /// Its sums.
    pub sums: Vec<Sum>,
    /// Its socket; `None` if the kernel does not tell.
    pub socket: Option<SocketLedger>,
    /// The application's code in this shard has not returned for so long, which is longer than `stall_after`.
    pub stalled: Option<Duration>,
}

/// `/proc/net/snmp` and `snmp6`, UDP: what happened since the engine started in its whole network namespace, to all sockets
/// and by whomever. In kernel packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostUdp {
    /// Packets handed to applications.
    pub in_datagrams: u64,
    /// Packets to ports that nobody has.
    pub no_ports: u64,
    /// Packets dropped on the way in, for whatever reason; the three below are among them.
    pub in_errors: u64,
    /// Packets dropped because a receive buffer was full.
    pub rcvbuf_errors: u64,
    /// Packets dropped because their checksum was wrong.
    pub in_csum_errors: u64,
    /// Packets dropped for want of kernel memory.
    pub mem_errors: u64,
    /// Packets sent.
    pub out_datagrams: u64,
    /// Packets refused because a send buffer was full.
    pub sndbuf_errors: u64,
}

impl HostUdp {
    /// The fields as the kernel names them, in the order of this struct.
    pub(crate) const FIELDS: [&str; 8] = [
        "InDatagrams",
        "NoPorts",
        "InErrors",
        "RcvbufErrors",
        "InCsumErrors",
        "MemErrors",
        "OutDatagrams",
        "SndbufErrors",
    ];

    pub(crate) const fn from_values(values: [u64; Self::FIELDS.len()]) -> Self {
        let [
            in_datagrams,
            no_ports,
            in_errors,
            rcvbuf_errors,
            in_csum_errors,
            mem_errors,
            out_datagrams,
            sndbuf_errors,
        ] = values;
        Self {
            in_datagrams,
            no_ports,
            in_errors,
            rcvbuf_errors,
            in_csum_errors,
            mem_errors,
            out_datagrams,
            sndbuf_errors,
        }
    }

    /// The kernel's names and the counts.
    #[must_use]
    pub const fn rows(&self) -> [(&'static str, u64); Self::FIELDS.len()] {
        let f = Self::FIELDS;
        [
            (f[0], self.in_datagrams),
            (f[1], self.no_ports),
            (f[2], self.in_errors),
            (f[3], self.rcvbuf_errors),
            (f[4], self.in_csum_errors),
            (f[5], self.mem_errors),
            (f[6], self.out_datagrams),
            (f[7], self.sndbuf_errors),
        ]
    }
}

/// Where every message and every datagram of an engine went: [`Engine::ledger`](crate::Engine::ledger). Printed, it is a table.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ledger {
    /// Shard by shard.
    pub shards: Vec<ShardLedger>,
    /// The whole network namespace; `None` where `/proc` is not to be read.
    pub host: Option<HostUdp>,
}

impl Ledger {
    pub(crate) const fn new(shards: Vec<ShardLedger>, host: Option<HostUdp>) -> Self {
        Self { shards, host }
    }

    /// The sums over all shards.
    #[must_use]
    pub fn sums(&self) -> Vec<Sum> {
        let mut shards = self.shards.iter().map(|shard| &shard.sums);
        let mut total = shards.next().cloned().unwrap_or_default();
        for sums in shards {
            for (into, other) in total.iter_mut().zip(sums) {
                into.total += other.total;
                for (part, more) in into.parts.iter_mut().zip(&other.parts) {
                    part.count += more.count;
                }
            }
        }
        total
    }

    /// All sockets together; `None` if the kernel did not tell of one.
    #[must_use]
    pub fn socket(&self) -> Option<SocketLedger> {
        let mut total = SocketLedger::default();
        for shard in &self.shards {
            let socket = shard.socket?;
            total.packets_sent += socket.packets_sent;
            total.packets_received += socket.packets_received;
            total.packets_unreadable += socket.packets_unreadable;
            total.packets_dropped += socket.packets_dropped;
            total.packets_dropped_told += socket.packets_dropped_told;
            total.receive_queue_bytes += socket.receive_queue_bytes;
            total.receive_buffer_bytes += socket.receive_buffer_bytes;
            total.send_queue_bytes += socket.send_queue_bytes;
        }
        Some(total)
    }

    /// How much is in no place, or in two: over every sum of every shard, so that what one has too much does not hide what
    /// another one lacks. Anything but 0 is a bug of the engine's; please report the ledger.
    #[must_use]
    pub fn residual(&self) -> u64 {
        self.shards.iter().flat_map(|shard| &shard.sums).map(|sum| sum.residual().unsigned_abs()).sum()
    }

    /// A row of the sums by name: `row("messages_put", "delivered")`.
    #[must_use]
    pub fn row(&self, sum: &str, part: &str) -> u64 {
        self.sums().iter().find(|other| other.name == sum).map_or(0, |sum| sum.part(part))
    }
}

const NAME_WIDTH: usize = 38;

fn line(f: &mut fmt::Formatter<'_>, name: &str, count: impl fmt::Display, unit: &str) -> fmt::Result {
    let width = NAME_WIDTH;
    let count = count.to_string();
    if unit.is_empty() {
        writeln!(f, "{name:<width$} {count:>16}")
    } else {
        writeln!(f, "{name:<width$} {count:>16} {unit}")
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sum in self.sums() {
            line(f, &sum.name.replace('_', " "), sum.total, &sum.unit.to_string())?;
            for part in sum.parts.iter().filter(|part| part.count > 0) {
                line(f, &format!("  {}", part.name.replace('_', " ")), part.count, "")?;
            }
        }
        if let Some(socket) = self.socket() {
            let packets = Unit::Packets.to_string();
            writeln!(f, "sockets, a train counting once")?;
            line(f, "  sent", socket.packets_sent, &packets)?;
            line(f, "  received", socket.packets_received, &packets)?;
            line(f, "    of these unreadable", socket.packets_unreadable, &packets)?;
            line(f, "  dropped by the kernel (SO_MEMINFO)", socket.packets_dropped, &packets)?;
            line(f, "    of these told since (SO_RXQ_OVFL)", socket.packets_dropped_told, &packets)?;
            line(f, "  in the receive queue", socket.receive_queue_bytes, "bytes")?;
            line(f, "    of at most", socket.receive_buffer_bytes, "bytes")?;
            line(f, "  in the send queue", socket.send_queue_bytes, "bytes")?;
        }
        if let Some(host) = self.host {
            writeln!(f, "whole network namespace since start, whoever it was (/proc/net/snmp)")?;
            for (name, count) in host.rows() {
                line(f, &format!("  {name}"), count, &Unit::Packets.to_string())?;
            }
        }
        for (shard, stalled) in self.shards.iter().enumerate().filter_map(|(n, s)| Some((n, s.stalled?))) {
            writeln!(f, "shard {shard} is STALLED: the application has not returned for {stalled:?}")?;
        }
        line(f, "residual", self.residual(), "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(counters: &Counters, gauges: &Gauges) -> ShardLedger {
        ShardLedger { sums: sums(counters, gauges), socket: Some(SocketLedger::default()), stalled: None }
    }

    fn balanced() -> (Counters, Gauges) {
        let mut counters = Counters {
            messages_accepted: 10,
            messages_delivered: 7,
            datagrams_built: 20,
            datagrams_sent: 12,
            datagrams_given_back: 4,
            datagrams_discarded: 1,
            datagrams_taken: 30,
            forwarded_in: 2,
            data_rows_handled: 15,
            confirms_handled: 11,
            misrouted: 3,
            unsteered: 2,
            ..Counters::default()
        };
        counters.fail(FailureCause::TimedOut);
        counters.drop_row(DropReason::ForwardFull);
        counters.drop_row(DropReason::Stale);
        // Of a datagram that is in `data_rows_handled`.
        counters.drop_part(DropReason::Duplicate);
        counters.refuse(libc::EPERM, 2);
        (counters, Gauges { operations_open: 2, datagrams_waiting: 1, ..Gauges::default() })
    }

    #[test]
    fn every_place_counts_once() {
        let (counters, gauges) = balanced();
        for sum in sums(&counters, &gauges) {
            assert_eq!(sum.residual(), 0, "{sum:?}");
        }
        let ledger = Ledger::new(vec![shard(&counters, &gauges), shard(&counters, &gauges)], None);
        assert_eq!(ledger.residual(), 0);
        assert_eq!(ledger.row("messages_put", "failed_timed_out"), 2);
        assert_eq!(ledger.row("datagrams_taken", "handed_to_other_shards"), 8);
        assert_eq!(ledger.row("datagrams_taken", "dropped_duplicate"), 0);
        let text = ledger.to_string();
        assert!(text.contains("messages put") && text.contains("refused eperm"), "{text}");
        assert!(text.trim_end().ends_with(" 0"), "{text}");
    }

    #[test]
    fn what_one_shard_lacks_another_one_does_not_make_up_for() {
        let (mut counters, gauges) = balanced();
        counters.messages_delivered += 1;
        let mut other = counters.clone();
        other.messages_delivered -= 2;
        let ledger = Ledger::new(vec![shard(&counters, &gauges), shard(&other, &gauges)], None);
        assert_eq!(ledger.sums().iter().map(Sum::residual).collect::<Vec<_>>(), [0, 0, 0]);
        assert_eq!(ledger.residual(), 2);
        assert_eq!(ledger.shards[0].sums[0].residual(), -1);
    }
}
