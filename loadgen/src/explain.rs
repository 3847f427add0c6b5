//! Stages, as the report has them.

use crate::report::Percentiles;
use crate::stages::{PARTS, Part, Stages};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The share of messages that counts as the slowest.
const SLOWEST: f64 = 0.001;

/// One stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Messages it is known of.
    pub messages: u64,
    /// How long it took them.
    #[serde(flatten)]
    pub percentiles: Percentiles,
}

impl From<&Histogram<u64>> for Stage {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self { messages: histogram.len(), percentiles: Percentiles::from(histogram) }
    }
}

/// Percentiles of each stage, of delivered messages put (or due) in the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StagePercentiles {
    /// Accepted by the engine, and not transmitted.
    pub queue_wait: Stage,
    /// First transmission to last confirm, of messages that were transmitted once.
    pub round_trip: Stage,
    /// The same of those of which a part was sent again once.
    pub sent_again_once: Stage,
    /// And more often.
    pub sent_again_more: Stage,
    /// First transmission (in mode echo: put) to the receiving application: the wire, and the receiver's queues. Known where
    /// both ends are in one process.
    pub to_receiver: Stage,
    /// The last part of that: taken from the socket by the receiver's shard to the receiving application.
    #[serde(default)]
    pub receiver_queue: Stage,
}

impl From<&Stages> for StagePercentiles {
    fn from(stages: &Stages) -> Self {
        Self {
            queue_wait: (&stages.queue_wait).into(),
            round_trip: (&stages.round_trip).into(),
            sent_again_once: (&stages.sent_again_once).into(),
            sent_again_more: (&stages.sent_again_more).into(),
            to_receiver: (&stages.to_receiver).into(),
            receiver_queue: (&stages.receiver_queue).into(),
        }
    }
}

/// What the slowest messages spent their time on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlowestReport {
    /// Of all messages, so many are looked at (or a few more: latencies within 3 % count as one).
    pub share: f64,
    /// All messages put (or due) in the window.
    pub messages: u64,
    /// Of the slowest, those that were delivered.
    pub delivered: u64,
    /// And those that never were.
    pub undelivered: u64,
    /// Of those delivered, messages of which a part was sent again; `None`: in mode echo nobody knows, since a message ends with
    /// its echo, and what the engine says of it may come later.
    pub sent_again: Option<u64>,
    /// The latency from which on they count.
    pub from_ns: u64,
    /// Mean nanoseconds by part, of those delivered: `late` (due to put), `queued` (put to first transmission), `there` (to
    /// what takes it from the receiver's socket), `receiver_queue` (to the receiving application), `back` (to the last confirm), `return` (to the outcome in the generator's hands); `round_trip`
    /// is the three of `there` to `back` where the receiver's time is not known.
    pub mean_ns: BTreeMap<String, f64>,
    /// The same of all that were delivered.
    pub mean_of_all_ns: BTreeMap<String, f64>,
}

impl SlowestReport {
    /// Parts that took any time, in the order they come.
    pub fn in_order(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let known = |part: Part| Some((part.label(), *self.mean_ns.get(part.label())?));
        Part::ALL.into_iter().filter_map(known)
    }
}

/// The slowest of `stages`, of messages that come back or not, beside so many that were never delivered.
pub fn slowest(stages: &Stages, is_echo: bool, undelivered: u64) -> SlowestReport {
    let [slowest, all] = [(SLOWEST, undelivered), (1.0, 0)].map(|(share, lost)| stages.slowest(share, lost));
    let by_name = |means: [f64; PARTS]| {
        let mut known = BTreeMap::new();
        for (part, mean) in Part::ALL.into_iter().zip(means) {
            // What no message has anything of is not known, or does not exist.
            if all.mean_ns[part as usize] > 0.0 {
                known.insert(part.label().to_owned(), mean);
            }
        }
        known
    };
    SlowestReport {
        share: SLOWEST,
        messages: all.delivered + undelivered,
        delivered: slowest.delivered,
        undelivered: slowest.undelivered,
        sent_again: (!is_echo).then_some(slowest.sent_again),
        from_ns: slowest.from_ns,
        mean_ns: by_name(slowest.mean_ns),
        mean_of_all_ns: by_name(all.mean_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::{EngineTimes, Times};

    /// Where it is not known whether something was sent again, no number says so.
    #[test]
    fn of_echoes_nobody_knows_what_was_sent_again() {
        let mut stages = Stages::default();
        let engine = Some(EngineTimes { queued_ns: 1, rtt_ns: 5, tries: 2 });
        stages.enter(&Times { due_ns: 0, put_ns: 0, end_ns: 9, received: None, engine });
        assert_eq!([false, true].map(|is_echo| slowest(&stages, is_echo, 0).sent_again), [Some(1), None]);
    }
}
