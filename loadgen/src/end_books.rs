//! What an end counted beside messages, whatever carries them: engines, or plain sockets. An end of several engines has the
//! sums.

use crate::conserve::EngineBooks;
use crate::ledger::{self, EndLedger};
use udp_plus::{Ledger, Stats};

/// The counters of one end. `None`: there is nothing that counts it.
#[derive(Clone, Debug, Default)]
pub struct EndBooks {
    /// Messages, by the engines' own counters.
    pub engine: Option<EngineBooks>,
    /// Datagrams sent.
    pub datagrams_sent: Option<u64>,
    /// Datagrams received.
    pub datagrams_received: Option<u64>,
    /// Rows sent again.
    pub retransmitted: Option<u64>,
    /// Rows the kernel gave to the wrong shard.
    pub misrouted: Option<u64>,
    /// Trains sent.
    pub trains: Option<u64>,
    /// Trains received.
    pub trains_received: Option<u64>,
    /// Packets dropped at full socket buffers.
    pub kernel_drops: Option<u64>,
    /// The longest datagram in use.
    pub mtu: Option<u64>,
    /// Where everything went.
    pub ledger: Option<EndLedger>,
    /// The same for people.
    pub ledger_words: String,
}

impl EndBooks {
    /// Of the `near` or `far` end, an engine.
    pub fn of_engine(end: &str, stats: &Stats, ledger: &Ledger) -> Self {
        let total = |label: &str| Some(stats.total.get(label));
        Self {
            engine: Some(EngineBooks::of(stats)),
            datagrams_sent: total("datagrams_sent"),
            datagrams_received: total("datagrams_received"),
            retransmitted: total("rows_retransmitted"),
            misrouted: total("misrouted"),
            trains: total("trains_sent"),
            trains_received: total("trains_received"),
            kernel_drops: stats.kernel_drops,
            mtu: stats.datagram_bytes.map(u64::from),
            ledger: Some(EndLedger::new(end, ledger)),
            ledger_words: ledger::show(end, ledger),
        }
    }

    /// Adds another machine of the same end.
    pub fn merge(&mut self, other: Self) {
        let sum = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
        if let (Some(ours), Some(theirs)) = (&mut self.engine, &other.engine) {
            ours.merge(theirs);
        }
        self.datagrams_sent = sum(self.datagrams_sent, other.datagrams_sent);
        self.datagrams_received = sum(self.datagrams_received, other.datagrams_received);
        self.retransmitted = sum(self.retransmitted, other.retransmitted);
        self.misrouted = sum(self.misrouted, other.misrouted);
        self.trains = sum(self.trains, other.trains);
        self.trains_received = sum(self.trains_received, other.trains_received);
        self.kernel_drops = sum(self.kernel_drops, other.kernel_drops);
        self.mtu = self.mtu.max(other.mtu);
        if let (Some(ours), Some(theirs)) = (&mut self.ledger, &other.ledger) {
            ours.merge(theirs);
        }
        self.ledger_words.push_str(&other.ledger_words);
    }
}
