//! What the kernel knows of an engine: its sockets, and the counters of their network namespace.

use super::completion::lock;
use crate::observe::{Counters, Gauges, HostUdp, SocketLedger};
use crate::sys::snmp::UdpSnmp;
use crate::sys::socket::{ShardSocket, SocketMemory};
use std::sync::{Arc, Mutex};

/// The engine's hold on its shards' sockets, and what the kernel counts.
#[derive(Debug)]
pub(crate) struct KernelSide {
    sockets: Mutex<Sockets>,
    snmp: UdpSnmp,
    snmp_at_start: Option<[u64; HostUdp::FIELDS.len()]>,
}

#[derive(Debug, Default)]
struct Sockets {
    /// None once the engine has stopped.
    open: Vec<Arc<ShardSocket>>,
    /// What the kernel said of each by then.
    at_end: Vec<Option<SocketMemory>>,
}

impl KernelSide {
    /// Before the engine has sent anything, on the thread that binds its sockets.
    pub(crate) fn open() -> Self {
        let snmp = UdpSnmp::open();
        let snmp_at_start = snmp.read(&HostUdp::FIELDS);
        Self { sockets: Mutex::default(), snmp, snmp_at_start }
    }

    /// Takes the sockets over.
    pub(crate) fn with(self, open: Vec<Arc<ShardSocket>>) -> Self {
        lock(&self.sockets).open = open;
        self
    }

    /// Of each socket, by shard.
    pub(crate) fn memory(&self) -> Vec<Option<SocketMemory>> {
        let sockets = lock(&self.sockets);
        if sockets.open.is_empty() {
            return sockets.at_end.clone();
        }
        sockets.open.iter().map(|socket| socket.memory().ok()).collect()
    }

    /// Packets dropped at all sockets.
    pub(crate) fn drops(&self) -> Option<u64> {
        self.memory().iter().map(|memory| memory.map(|memory| u64::from(memory.drops))).sum()
    }

    /// What happened in the sockets' namespace since the start.
    pub(crate) fn host(&self) -> Option<HostUdp> {
        let (now, start) = self.snmp.read(&HostUdp::FIELDS).zip(self.snmp_at_start)?;
        Some(HostUdp::from_values(std::array::from_fn(|field| now[field].wrapping_sub(start[field]))))
    }

    /// Lets go of the sockets, and keeps what is known of them.
    pub(crate) fn close(&self) {
        let at_end = self.memory();
        *lock(&self.sockets) = Sockets { open: Vec::new(), at_end };
    }
}

pub(crate) fn socket_ledger(memory: &SocketMemory, counters: &Counters, gauges: &Gauges) -> SocketLedger {
    let unreadable = counters.receive_truncated + counters.receive_malformed;
    SocketLedger {
        packets_sent: counters.trains_sent,
        packets_received: counters.trains_received + unreadable,
        packets_unreadable: unreadable,
        packets_dropped: memory.drops.into(),
        packets_dropped_told: gauges.kernel_drops_told,
        receive_queue_bytes: memory.receive_queue_bytes.into(),
        receive_buffer_bytes: memory.receive_buffer_bytes.into(),
        send_queue_bytes: memory.send_queue_bytes.into(),
    }
}
