//! Conservation: whatever was offered is somewhere. Three sets of books that are kept apart (the generators', each engine's,
//! the receiver's) are laid side by side, and a message that is in one and not in the others is an error, whatever the
//! percentiles say.

use crate::end_books::EndBooks;
use crate::record::ClientRecord;
use serde::{Deserialize, Serialize};
use udp_plus::Stats;

/// The books of a run. Messages count from start to stop, warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conservation {
    /// Put by the generators.
    pub offered: u64,
    /// With an outcome: delivered.
    pub delivered: u64,
    /// With an outcome: failed.
    pub failed: u64,
    /// `offered` less the two: without an outcome. Anything but 0 is an error.
    pub residual: i64,
    /// The engines' own counters, the generating end's first.
    pub engines: Vec<EngineBooks>,
    /// Datagrams of both ends together; null: one end is elsewhere.
    pub datagrams: Option<DatagramBooks>,
}

/// One engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineBooks {
    /// Messages it took.
    pub accepted: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Of these, failed.
    pub failed: u64,
    /// `accepted` less the two. Anything but 0 is an error.
    pub residual: i64,
    /// Messages it handed to its application.
    pub handed_over: u64,
}

/// Datagrams, segments of a train one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DatagramBooks {
    /// By both ends.
    pub sent: u64,
    /// By both ends.
    pub received: u64,
    /// Kernel packets dropped at full socket buffers: a train counts once, so this is the least that is missing.
    pub kernel_drops: Option<u64>,
    /// `sent` less `received`: dropped, lost on the way, or still in a socket when it was closed.
    pub missing: i64,
}

impl EngineBooks {
    /// By the engine's counters.
    pub fn of(stats: &Stats) -> Self {
        let total = &stats.total;
        let (accepted, delivered, failed) =
            (total.messages_accepted, total.messages_delivered, total.failed_total());
        let residual = less(accepted, delivered + failed);
        Self { accepted, delivered, failed, residual, handed_over: total.messages_received }
    }

    /// Adds another engine of the same end.
    pub const fn merge(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.residual += other.residual;
        self.handed_over += other.handed_over;
    }
}

impl DatagramBooks {
    /// Of both ends; `None`: what carries messages there does not count datagrams.
    fn of(ends: &[&EndBooks]) -> Option<Self> {
        let sent = ends.iter().map(|end| end.datagrams_sent).sum::<Option<u64>>()?;
        let received = ends.iter().map(|end| end.datagrams_received).sum::<Option<u64>>()?;
        let kernel_drops = ends.iter().map(|end| end.kernel_drops).sum();
        Some(Self { sent, received, kernel_drops, missing: less(sent, received) })
    }
}

fn less(whole: u64, parts: u64) -> i64 {
    whole.cast_signed().wrapping_sub(parts.cast_signed())
}

impl Conservation {
    /// From the generators' books and those of the ends, the generating one first; of plain sockets there are no engines'.
    pub fn new(client: &ClientRecord, ends: &[&EndBooks]) -> Self {
        let unknown = client.failed.get(NO_OUTCOME).copied().unwrap_or(0);
        let failed = client.failed_total() - unknown;
        Self {
            offered: client.offered,
            delivered: client.delivered,
            failed,
            residual: less(client.offered, client.delivered + failed),
            engines: ends.iter().filter_map(|end| end.engine.clone()).collect(),
            datagrams: if let [_, _] = ends { DatagramBooks::of(ends) } else { None },
        }
    }

    /// What does not add up.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut check = |who: &str, residual: i64| {
            if residual != 0 {
                causes.push(format!("conservation: {residual} messages of {who} have no outcome"));
            }
        };
        check("the generator", self.residual);
        for (who, engine) in ["the generating engine", "the receiving engine"].iter().zip(&self.engines) {
            check(who, engine.residual);
        }
        if let Some(near) = self.engines.first()
            && near.delivered < self.delivered
        {
            let more = self.delivered - near.delivered;
            causes.push(format!("conservation: {more} messages were reported delivered and not counted so"));
        }
        if let [near, far] = &self.engines[..]
            && far.handed_over < near.delivered
        {
            let lost = near.delivered - far.handed_over;
            causes.push(format!("conservation: {lost} messages were delivered and never handed over"));
        }
        causes
    }
}

/// The cause of messages that have none.
pub const NO_OUTCOME: &str = "no_outcome";

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> Conservation {
        let near = EngineBooks { accepted: 10, delivered: 8, failed: 2, residual: 0, handed_over: 0 };
        let far = EngineBooks { handed_over: 9, ..EngineBooks::default() };
        Conservation {
            offered: 10,
            delivered: 8,
            failed: 2,
            engines: vec![near, far],
            ..Conservation::default()
        }
    }

    #[test]
    fn what_adds_up() {
        assert_eq!(books().causes(), Vec::<String>::new(), "a failed message may have arrived all the same");
        let client = ClientRecord { offered: 5, delivered: 3, ..ClientRecord::default() };
        assert_eq!(Conservation::new(&client, &[]).residual, 2);
    }

    #[test]
    fn a_residual_anywhere_is_named() {
        let mut client = ClientRecord { offered: 5, delivered: 3, ..ClientRecord::default() };
        client.failed.insert("timed_out", 1);
        // The judge gives those without outcome a cause of their own; it is none.
        client.failed.insert(NO_OUTCOME, 1);
        let found = Conservation::new(&client, &[]);
        assert_eq!((found.residual, found.causes().len()), (1, 1));
        let mut lost = books();
        lost.engines[0].residual = -1;
        assert!(lost.causes()[0].contains("the generating engine"));
        let mut lost = books();
        lost.engines[1].handed_over = 7;
        assert!(lost.causes()[0].contains("1 messages were delivered and never handed over"));
        let mut lost = books();
        lost.engines[0].delivered = 7;
        assert!(lost.causes()[0].contains("reported delivered"));
    }
}
