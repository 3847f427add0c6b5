//! Whether messages of a lane were handed over in order: judged by what applications put, got and were told.

use std::collections::BTreeMap;

/// Who promises an order to whom. An era of an engine is one of its own, and so is each of its actors: what they put side
/// by side has no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stream {
    pub(crate) sender: usize,
    /// Which era of it: a start, or the time since it seals with another key.
    pub(crate) era: u32,
    /// The shard whose actor put it; `None`: the application outside.
    pub(crate) actor: Option<usize>,
    pub(crate) receiver: usize,
    pub(crate) lane: u16,
}

/// What happened to messages in lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Handed over.
    pub received: u64,
    /// Handed over behind one that never was.
    pub stepped: u64,
    /// Of those handed over, how many had to come in their turn.
    pub judged: u64,
}

impl LaneCounts {
    /// Adds those of another seed.
    pub fn add(&mut self, other: &Self) {
        let Self { received, stepped, judged } = other;
        self.received += received;
        self.stepped += stepped;
        self.judged += judged;
    }
}

/// Messages by lane, in the order they were put.
#[derive(Debug, Default)]
pub(crate) struct LaneOrder {
    streams: BTreeMap<Stream, Vec<u64>>,
    places: BTreeMap<u64, (Stream, usize)>,
}

/// What is known of another message when one is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was handed over.
    Received,
    /// Its sender was told that it failed, or will be.
    Failed,
    /// Neither.
    Open,
}

impl LaneOrder {
    /// A message was accepted from an application.
    pub(crate) fn put(&mut self, number: u64, stream: Stream) {
        let numbers = self.streams.entry(stream).or_default();
        self.places.insert(number, (stream, numbers.len()));
        numbers.push(number);
    }

    /// A message has no place in its lane any more.
    pub(crate) fn forget(&mut self, number: u64) {
        if let Some((stream, _)) = self.places.remove(&number)
            && let Some(numbers) = self.streams.get_mut(&stream)
        {
            numbers.retain(|&other| other != number);
            for (place, number) in numbers.iter().enumerate() {
                self.places.insert(*number, (stream, place));
            }
        }
    }

    /// Whether a message that is handed over now comes in its turn. `None`: it is in no lane.
    pub(crate) fn is_in_turn(&self, number: u64, known: impl Fn(u64) -> Known) -> Option<bool> {
        let &(stream, place) = self.places.get(&number)?;
        let (before, after) = self.streams.get(&stream)?.split_at(place);
        // An actor is told outcomes at once; others look when they please.
        let told = stream.actor.is_some();
        let ended = |&number: &u64| known(number) != Known::Open || !told;
        let received = |&number: &u64| known(number) == Known::Received;
        Some(before.iter().all(ended) && !after.iter().skip(1).any(received))
    }

    /// The end: what it was worth.
    pub(crate) fn counts(&self, known: impl Fn(u64) -> Known) -> LaneCounts {
        let mut counts = LaneCounts::default();
        for numbers in self.streams.values() {
            let mut failed = false;
            for &number in numbers {
                match known(number) {
                    Known::Received => {
                        counts.received += 1;
                        counts.stepped += u64::from(std::mem::take(&mut failed));
                    }
                    Known::Failed => failed = true,
                    Known::Open => {}
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A checker that never says no proves nothing.
    #[test]
    fn what_is_out_of_turn_is_seen() {
        let stream = |actor, lane| Stream { sender: 0, era: 0, actor, receiver: 1, lane };
        let mut order = LaneOrder::default();
        for number in 0..4 {
            order.put(number, stream(Some(0), 7));
            order.put(10 + number, stream(None, 7));
            order.put(20 + number, stream(Some(0), 8));
        }
        let known = |received: &'static [u64], failed: &'static [u64]| {
            move |number: u64| match number {
                _ if received.contains(&number) => Known::Received,
                _ if failed.contains(&number) => Known::Failed,
                _ => Known::Open,
            }
        };
        assert_eq!(order.is_in_turn(0, known(&[], &[])), Some(true));
        assert_eq!(order.is_in_turn(2, known(&[0, 1], &[])), Some(true));
        assert_eq!(order.is_in_turn(2, known(&[0], &[1])), Some(true));
        assert_eq!(order.is_in_turn(2, known(&[0, 20], &[])), Some(false), "1 has not ended");
        assert_eq!(order.is_in_turn(1, known(&[0, 2], &[])), Some(false), "2 came before it");
        assert_eq!(order.is_in_turn(12, known(&[10], &[])), Some(true), "nobody has been told of 11 yet");
        assert_eq!(order.is_in_turn(11, known(&[10, 12], &[])), Some(false));
        assert_eq!(order.is_in_turn(21, known(&[20, 2], &[])), Some(true), "another lane");
        assert_eq!(order.is_in_turn(99, known(&[], &[])), None);
        let counts = order.counts(known(&[0, 3, 10, 11], &[1, 2, 13]));
        assert_eq!((counts.received, counts.stepped), (4, 1));
    }
}
