//! Where the time of messages went, from due to delivered, by the times that were really taken on the way: by the generator
//! (due, put, outcome), by the engine (queued, first transmission to last confirm) and, where both ends are in one process,
//! by the receiving application.
//!
//! ```text
//!   due --- put --- first transmission --- taken from the socket --- with the receiver --- last confirm --- outcome with the
//!      LATE    QUEUED                 THERE                 RECEIVER QUEUE            BACK             RETURN    generator
//!                                     `------------- ROUND TRIP -----------------------'  where the receiver's clock is
//!                                                                                         another one
//! ```

use crate::record::latency_histogram;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};

/// The stages, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Due, and not put: the generator's scheduling error, or the engine took nothing.
    Late,
    /// Accepted, and not transmitted.
    Queued,
    /// From the first transmission (in mode echo: from put) to the turn in which the receiver's shard took the last of it from
    /// the socket: the wire, the socket's queue, and every repetition.
    There,
    /// From there into the receiving application's hands: behind what came with it, and in the receive bucket.
    ReceiverQueue,
    /// From there to the last confirm (in mode echo: to the echo in the client's hands).
    Back,
    /// The two together, where nobody knows when the receiver had it.
    RoundTrip,
    /// From the last confirm to the outcome in the generator's hands.
    Return,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; PARTS] = [
        Self::Late,
        Self::Queued,
        Self::There,
        Self::ReceiverQueue,
        Self::Back,
        Self::RoundTrip,
        Self::Return,
    ];

    /// As the report names it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Queued => "queued",
            Self::There => "there",
            Self::ReceiverQueue => "receiver_queue",
            Self::Back => "back",
            Self::RoundTrip => "round_trip",
            Self::Return => "return",
        }
    }
}

/// How many there are.
pub const PARTS: usize = 7;

/// What is known of a message that was delivered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// When it was due, or put in a closed loop.
    pub due_ns: u64,
    /// When it was put.
    pub put_ns: u64,
    /// When its outcome, or echo, was there.
    pub end_ns: u64,
    /// When the receiver had it, if that is known by the same clock.
    pub received: Option<Had>,
    /// By its outcome; an echo has none.
    pub engine: Option<EngineTimes>,
}

/// When the receiver had a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Had {
    /// Its shard: when the turn began in which it was taken from the socket.
    pub read_ns: u64,
    /// The application.
    pub at_ns: u64,
}

/// What the engine says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTimes {
    /// From acceptance to first transmission.
    pub queued_ns: u64,
    /// From there to the last confirm.
    pub rtt_ns: u64,
    /// Transmissions.
    pub tries: u16,
}

impl Times {
    fn total_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.due_ns)
    }

    /// Nanoseconds of each part. They add up to the whole: clocks that are read at different places, and the engine's whole
    /// microseconds, may take nothing from what comes later.
    fn parts(&self) -> [u64; PARTS] {
        let mut parts = [0; PARTS];
        let mut left = self.total_ns();
        let mut spend = |part: Part, ns: u64| {
            let ns = ns.min(left);
            left -= ns;
            parts[part as usize] = ns;
        };
        spend(Part::Late, self.put_ns.saturating_sub(self.due_ns));
        let received = self.received.filter(|had| (self.put_ns..=self.end_ns).contains(&had.at_ns));
        // Taken from the socket in a turn that had begun before it was sent, it waited since it came, which is not known.
        let waited = |had: Had, there: u64| had.at_ns.saturating_sub(had.read_ns).min(there);
        match (self.engine, received) {
            (Some(engine), Some(had)) => {
                spend(Part::Queued, engine.queued_ns);
                let there = had.at_ns.saturating_sub(self.put_ns + engine.queued_ns).min(engine.rtt_ns);
                let waited = waited(had, there);
                spend(Part::There, there - waited);
                spend(Part::ReceiverQueue, waited);
                spend(Part::Back, engine.rtt_ns - there);
                spend(Part::Return, u64::MAX);
            }
            (Some(engine), None) => {
                spend(Part::Queued, engine.queued_ns);
                spend(Part::RoundTrip, engine.rtt_ns);
                spend(Part::Return, u64::MAX);
            }
            (None, Some(had)) => {
                let there = had.at_ns - self.put_ns;
                let waited = waited(had, there);
                spend(Part::There, there - waited);
                spend(Part::ReceiverQueue, waited);
                spend(Part::Back, u64::MAX);
            }
            (None, None) => spend(Part::RoundTrip, u64::MAX),
        }
        parts
    }
}

/// Histograms of the stages, and the sums of them by latency.
#[derive(Debug)]
pub struct Stages {
    /// Accepted, and not transmitted.
    pub queue_wait: Histogram<u64>,
    /// First transmission to last confirm, of messages that were transmitted once.
    pub round_trip: Histogram<u64>,
    /// The same of messages of which something was sent again, once at most.
    pub sent_again_once: Histogram<u64>,
    /// And more often.
    pub sent_again_more: Histogram<u64>,
    /// First transmission (in mode echo: put) to the receiving application.
    pub to_receiver: Histogram<u64>,
    /// Taken from the socket to the receiving application.
    pub receiver_queue: Histogram<u64>,
    /// By latency, 32 cells for each power of two.
    cells: Box<[Cell]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    count: u64,
    sent_again: u64,
    parts: [u64; PARTS],
}

impl Cell {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.sent_again += other.sent_again;
        for (ours, theirs) in self.parts.iter_mut().zip(other.parts) {
            *ours += theirs;
        }
    }
}

/// Cells for each power of two: a cell is 3 % wide.
const FINE: usize = 32;
const FINE_BITS: u32 = FINE.trailing_zeros();
const CELLS: usize = (64 - FINE_BITS as usize) * FINE + FINE;

const fn cell_of(ns: u64) -> usize {
    if ns < FINE as u64 {
        return ns as usize;
    }
    let shift = ns.ilog2() - FINE_BITS;
    (shift as usize + 1) * FINE + ((ns >> shift) as usize - FINE)
}

const fn least_of(cell: usize) -> u64 {
    if cell < FINE {
        return cell as u64;
    }
    let (row, column) = (cell / FINE - 1, cell % FINE);
    ((FINE + column) as u64) << row
}

impl Default for Stages {
    fn default() -> Self {
        Self {
            queue_wait: latency_histogram(),
            round_trip: latency_histogram(),
            sent_again_once: latency_histogram(),
            sent_again_more: latency_histogram(),
            to_receiver: latency_histogram(),
            receiver_queue: latency_histogram(),
            cells: vec![Cell::default(); CELLS].into_boxed_slice(),
        }
    }
}

/// The slowest messages, and what they spent their time on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slowest {
    /// Messages looked at that were delivered.
    pub delivered: u64,
    /// Of these, messages of which something was sent again.
    pub sent_again: u64,
    /// Messages that belong to the slowest because they were never delivered.
    pub undelivered: u64,
    /// The latency from which on they count, to 3 %.
    pub from_ns: u64,
    /// Mean nanoseconds of each part.
    pub mean_ns: [f64; PARTS],
}

impl Stages {
    /// Enters what the engine said of so many messages.
    #[inline(never)]
    pub fn enter_engine(&mut self, engine: EngineTimes, count: u64) {
        self.queue_wait.saturating_record_n(engine.queued_ns.max(1), count);
        let round_trip = match engine.tries {
            0 | 1 => &mut self.round_trip,
            2 => &mut self.sent_again_once,
            _ => &mut self.sent_again_more,
        };
        round_trip.saturating_record_n(engine.rtt_ns.max(1), count);
    }

    /// Enters a message that has ended.
    pub fn enter(&mut self, times: &Times) {
        let parts = times.parts();
        let waited = parts[Part::ReceiverQueue as usize];
        let there = parts[Part::There as usize] + waited;
        if there > 0 {
            self.to_receiver.saturating_record(there);
            self.receiver_queue.saturating_record(waited.max(1));
        }
        let sent_again = times.engine.is_some_and(|engine| engine.tries > 1).into();
        self.cells[cell_of(times.total_ns())].add(&Cell { count: 1, sent_again, parts });
    }

    /// Takes over another generator's.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in [
            (&mut self.queue_wait, &other.queue_wait),
            (&mut self.round_trip, &other.round_trip),
            (&mut self.sent_again_once, &other.sent_again_once),
            (&mut self.sent_again_more, &other.sent_again_more),
            (&mut self.to_receiver, &other.to_receiver),
            (&mut self.receiver_queue, &other.receiver_queue),
        ] {
            // Same bounds: cannot fail.
            let _ = ours.add(theirs);
        }
        for (ours, theirs) in self.cells.iter_mut().zip(&other.cells) {
            ours.add(theirs);
        }
    }

    /// The slowest `share` of all messages, of which `undelivered` were never delivered and so are the slowest of all.
    pub fn slowest(&self, share: f64, undelivered: u64) -> Slowest {
        let all: u64 = self.cells.iter().map(|cell| cell.count).sum::<u64>() + undelivered;
        let wanted = ((all as f64 * share).ceil() as u64).min(all);
        let undelivered = undelivered.min(wanted);
        let (mut sum, mut from) = (Cell::default(), CELLS);
        for (index, cell) in self.cells.iter().enumerate().rev() {
            if sum.count + undelivered >= wanted {
                break;
            }
            if cell.count > 0 {
                sum.add(cell);
                from = index;
            }
        }
        let mean = |part: u64| part as f64 / sum.count.max(1) as f64;
        Slowest {
            delivered: sum.count,
            sent_again: sum.sent_again,
            undelivered,
            from_ns: if sum.count == 0 { 0 } else { least_of(from) },
            mean_ns: sum.parts.map(mean),
        }
    }
}

/// When the receiver had the message in each slot. Written by the receiver, read by whoever generates; the message that carries
/// the outcome back orders the two.
#[derive(Debug)]
pub struct Received(Box<[[AtomicU64; 2]]>);

impl Received {
    /// For so many slots.
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(|_| Default::default()).collect())
    }

    /// The message in `slot` is there.
    pub fn note(&self, slot: u32, had: Had) {
        if let Some([read, at]) = self.0.get(slot as usize) {
            read.store(had.read_ns, Ordering::Relaxed);
            at.store(had.at_ns, Ordering::Relaxed);
        }
    }

    /// When that was; of the message before, if it has not come yet.
    pub fn get(&self, slot: u32) -> Option<Had> {
        let [read_ns, at_ns] =
            self.0.get(slot as usize)?.each_ref().map(|place| place.load(Ordering::Relaxed));
        (at_ns > 0).then_some(Had { read_ns, at_ns })
    }
}

/// What one generator notes of stages while it runs.
#[derive(Debug)]
pub struct StageBook {
    /// When the message in each of its slots was put.
    put_ns: Box<[u64]>,
    received: Option<std::sync::Arc<Received>>,
    /// What the engine said of the last messages, and of how many it said the same: those of a datagram are booked at once.
    engine: (EngineTimes, u64),
    stages: Stages,
}

impl StageBook {
    /// For a generator with so many slots.
    pub fn new(slots: usize, received: Option<std::sync::Arc<Received>>) -> Self {
        let put_ns = vec![0; slots].into_boxed_slice();
        Self { put_ns, received, engine: (EngineTimes::default(), 0), stages: Stages::default() }
    }

    /// The engine said so of a message.
    #[inline]
    pub fn note_engine(&mut self, engine: EngineTimes) {
        if self.engine.0 != engine {
            self.book_engine();
            self.engine.0 = engine;
        }
        self.engine.1 += 1;
    }

    fn book_engine(&mut self) {
        let (engine, count) = std::mem::take(&mut self.engine);
        if count > 0 {
            self.stages.enter_engine(engine, count);
        }
    }

    /// What it came to.
    pub fn into_stages(mut self) -> Stages {
        self.book_engine();
        self.stages
    }

    /// The message in own slot `index` is put.
    pub fn put(&mut self, index: usize, now_ns: u64) {
        if let Some(place) = self.put_ns.get_mut(index) {
            *place = now_ns;
        }
    }

    /// The message in `slot` (own slot `index`), due at `due_ns`, ended.
    pub fn end(&mut self, slot: u32, index: usize, due_ns: u64, end_ns: u64, engine: Option<EngineTimes>) {
        let put_ns = self.put_ns.get(index).copied().unwrap_or(0).clamp(due_ns, end_ns.max(due_ns));
        let received = self.received.as_ref().and_then(|received| received.get(slot));
        self.stages.enter(&Times { due_ns, put_ns, end_ns, received, engine });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_in_order_and_fine() {
        let mut last = 0;
        for ns in
            (0..2_000_u64).chain((11..64).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1]))
        {
            let cell = cell_of(ns);
            assert!(cell >= last && cell < CELLS, "{ns}");
            last = cell;
            let least = least_of(cell);
            assert!(
                least <= ns && (ns - least) as f64 <= ns as f64 / FINE as f64,
                "{ns} is in the cell of {least}"
            );
        }
        assert!(cell_of(u64::MAX) < CELLS);
    }

    fn part(parts: &[u64; PARTS], part: Part) -> u64 {
        parts[part as usize]
    }

    #[test]
    fn the_parts_are_the_whole_whatever_is_known() {
        let engine = EngineTimes { queued_ns: 20, rtt_ns: 50, tries: 1 };
        let times = Times {
            due_ns: 1_000,
            put_ns: 1_010,
            end_ns: 1_090,
            received: Some(Had { read_ns: 1_034, at_ns: 1_040 }),
            engine: Some(engine),
        };
        let parts = times.parts();
        assert_eq!(parts, [10, 20, 4, 6, 40, 0, 10]);
        // Its shard's turn had begun before it was sent.
        let parts = Times { received: Some(Had { read_ns: 1_012, at_ns: 1_040 }), ..times }.parts();
        assert_eq!(parts, [10, 20, 0, 10, 40, 0, 10]);
        let parts = Times { received: None, ..times }.parts();
        assert_eq!((part(&parts, Part::RoundTrip), part(&parts, Part::Return)), (50, 10));
        let parts = Times { engine: None, ..times }.parts();
        assert_eq!((part(&parts, Part::There), part(&parts, Part::ReceiverQueue)), (24, 6));
        assert_eq!(part(&parts, Part::Back), 50);
        let parts = Times { engine: None, received: None, ..times }.parts();
        assert_eq!(part(&parts, Part::RoundTrip), 80);
        // A stamp of the message that was in the slot before, or after; an engine that counts whole microseconds.
        let at = |at_ns| Some(Had { read_ns: at_ns - 5, at_ns });
        for received in [at(500), at(9_999)] {
            assert_eq!(Times { received, ..times }.parts(), Times { received: None, ..times }.parts());
        }
        let engine = Some(EngineTimes { queued_ns: 70, ..engine });
        for received in [None, at(1_011)] {
            let parts = Times { engine, received, ..times }.parts();
            assert_eq!(parts.iter().sum::<u64>(), 90, "{parts:?}");
        }
    }

    /// The slowest thousandth spent its time where it was made to.
    #[test]
    fn the_slowest_and_what_they_waited_for() {
        let mut book = StageBook::new(1, None);
        let times = |queued_ns, rtt_ns, tries| EngineTimes { queued_ns, rtt_ns, tries };
        for n in 0..10_000_u64 {
            let engine = match n {
                // Ten of ten thousand: half of them waited, half were lost on the way.
                0..5 => times(1_000_000, 50_000, 1),
                5..10 => times(1_000, 1_000_000, 3),
                _ => times(1_000, 50_000, 1),
            };
            book.put(0, 0);
            book.note_engine(engine);
            book.end(0, 0, 0, engine.queued_ns + engine.rtt_ns, Some(engine));
        }
        let stages = book.into_stages();
        let slowest = stages.slowest(0.001, 0);
        assert_eq!((slowest.delivered, slowest.sent_again, slowest.undelivered), (10, 5, 0));
        assert_eq!(slowest.mean_ns[Part::Queued as usize], 500_500.0);
        assert_eq!(slowest.mean_ns[Part::RoundTrip as usize], 525_000.0);
        assert!((950_000..=1_001_000).contains(&slowest.from_ns), "{}", slowest.from_ns);
        assert_eq!((stages.round_trip.len(), stages.sent_again_once.len()), (9_995, 0));
        assert_eq!(stages.sent_again_more.len(), 5);
        // What was never delivered is slower than all of them.
        let slowest = stages.slowest(0.001, 4);
        assert_eq!((slowest.delivered, slowest.undelivered), (10, 4), "a cell is not cut in two");
        let slowest = stages.slowest(0.001, 1_000);
        assert_eq!((slowest.delivered, slowest.undelivered), (0, 11));
        let mut twice = Stages::default();
        twice.merge(&stages);
        twice.merge(&stages);
        assert_eq!(twice.slowest(1.0, 0).delivered, 20_000);
    }
}
