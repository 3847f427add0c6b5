//! Both ends' ledgers in the report: where every message and datagram went.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use udp_plus::{Ledger, SocketLedger};

/// One end's ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndLedger {
    /// `near` or `far`.
    pub end: String,
    /// What is in no place, or in two; anything but 0 is an error.
    pub residual: u64,
    /// By name.
    pub sums: BTreeMap<String, EndSum>,
    /// Its sockets, in kernel packets and bytes; null if the kernel does not tell.
    pub sockets: Option<BTreeMap<String, u64>>,
    /// `/proc/net/snmp` since its start, in kernel packets, of the whole network namespace; null where there is none.
    pub host: Option<BTreeMap<String, u64>>,
}

/// A sum and its parts, without those that are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSum {
    /// What is counted.
    pub unit: String,
    /// In all.
    pub total: u64,
    /// Where it went.
    pub parts: BTreeMap<String, u64>,
}

impl EndLedger {
    /// Of the near or the far end.
    pub fn new(end: &str, ledger: &Ledger) -> Self {
        let sum = |sum: udp_plus::Sum| {
            let parts = sum.parts.into_iter().filter(|part| part.count > 0);
            let parts = parts.map(|part| (part.name, part.count)).collect();
            (sum.name.to_owned(), EndSum { unit: sum.unit.to_string(), total: sum.total, parts })
        };
        Self {
            end: end.to_owned(),
            residual: ledger.residual(),
            sums: ledger.sums().into_iter().map(sum).collect(),
            sockets: ledger.socket().map(|socket| sockets(&socket)),
            host: ledger.host.map(|host| host.rows().map(|(name, count)| (name.to_owned(), count)).into()),
        }
    }

    /// Adds that of another engine of the same end. What the host counted is the same for both.
    pub fn merge(&mut self, other: &Self) {
        self.residual += other.residual;
        for (name, theirs) in &other.sums {
            let ours = self
                .sums
                .entry(name.clone())
                .or_insert_with(|| EndSum { unit: theirs.unit.clone(), ..EndSum::default() });
            ours.total += theirs.total;
            add(&mut ours.parts, &theirs.parts);
        }
        if let (Some(ours), Some(theirs)) = (&mut self.sockets, &other.sockets) {
            add(ours, theirs);
        }
    }

    /// What is wrong with it, for the verdict.
    pub fn cause(&self) -> Option<String> {
        let Self { end, residual, .. } = self;
        (*residual > 0).then(|| format!("{residual} in no place, or in two, of the {end} end's ledger"))
    }
}

fn add(ours: &mut BTreeMap<String, u64>, theirs: &BTreeMap<String, u64>) {
    for (name, count) in theirs {
        *ours.entry(name.clone()).or_default() += count;
    }
}

fn sockets(socket: &SocketLedger) -> BTreeMap<String, u64> {
    [
        ("packets_sent", socket.packets_sent),
        ("packets_received", socket.packets_received),
        ("packets_unreadable", socket.packets_unreadable),
        ("packets_dropped", socket.packets_dropped),
        ("packets_dropped_told", socket.packets_dropped_told),
        ("receive_queue_bytes", socket.receive_queue_bytes),
        ("receive_buffer_bytes", socket.receive_buffer_bytes),
        ("send_queue_bytes", socket.send_queue_bytes),
    ]
    .map(|(name, count)| (name.to_owned(), count))
    .into()
}

/// For people.
pub fn show(end: &str, ledger: &Ledger) -> String {
    format!("\nledger, {end} end\n{ledger}")
}
