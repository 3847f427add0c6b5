//! The sending side of a run, apart from how it reaches its engine: what to put when, and what became of it. The actor
//! ([`crate::client_actor`]) and the bucket thread ([`crate::client_buckets`]) drive it.
//!
//! Calling order, once a turn: `handle_outcome` / `handle_echo` for what came, then [`Generator::offer`], then
//! [`Generator::publish`]. Nothing here locks or allocates while messages are delivered.

mod gaps;
mod outlet;
#[cfg(test)]
mod tests;

use crate::audit::{Audit, Seen};
use crate::cli::{Mode, Protocol};
use crate::clock;
use crate::intervals::Ended;
use crate::payload::{self, Stamp};
use crate::plan::Run;
use crate::progress::Snapshot;
use crate::record::{ClientRecord, Desk, TimeRun};
use crate::schedule::{OpenLoop, Schedule};
use crate::sizes::Lengths;
use crate::slots::{OwnSlots, SlotTable};
use crate::stages::{EngineTimes, Received, StageBook};
use gaps::Gaps;
pub use outlet::{Outlet, Put, put_one_by_one};
use std::ops::Range;
use std::sync::Arc;
use udp_plus::{Delivered, Outcome};

/// Messages per look at the clock, at most, where so many are put, or end, one after another. At 30 to 60 ns a message
/// that hides at most 4 us.
pub const CLOCK_EVERY: u32 = 64;

/// Larger ones have a look at the clock each: they take longer to write.
pub const LARGE_BYTES: usize = 1_024;

/// With a fixed rate: what was due within the window may still be put so long after it. The last turn's worth, not more:
/// who is further behind does not keep the rate.
const LATE_MAX_NS: u64 = 100_000_000;

/// One generator.
#[derive(Debug)]
pub struct Generator {
    run: Arc<Run>,
    index: usize,
    slots: OwnSlots,
    schedule: Option<Schedule>,
    /// Window and end of offering; set at the first turn.
    window_ns: Option<(u64, u64)>,
    /// The next message's number. Generators take turns, so the one behind it is `generators` further.
    next_number: u64,
    clock_every: u32,
    /// With a schedule: when it was last looked whether something is due.
    looked_ns: u64,
    /// And when it was not for too long, as far as what was due then is still to be put.
    gaps: Gaps,
    /// With a schedule: how long before something is due it is polled for.
    early_ns: u64,
    /// If stages are told apart.
    stages: Option<Box<StageBook>>,
    /// Cuts that were answered.
    cuts: u64,
    /// Messages come back.
    echo: bool,
    /// Those that are put at one look share a slot.
    shares_slots: bool,
    /// And may do so elsewhere.
    strays: bool,
    record: ClientRecord,
    /// Where messages have different lengths: the bytes of `delivered`.
    lengths: Option<Lengths>,
    delivered_bytes: u64,
    /// Where slots are shared: deliveries that `delivered` and their slot do not have yet.
    ended: SlotRun,
    /// Delivered messages, and echoes, that are not in the record yet.
    delivered: TimeRun,
    echoed: TimeRun,
    /// Their numbers: outcomes come nearly in the order of their messages.
    delivered_numbers: Range<u64>,
    desk: Arc<Desk<ClientRecord>>,
}

/// Messages of one slot that were delivered at one look at the clock.
#[derive(Clone, Copy, Debug, Default)]
struct SlotRun {
    slot: u32,
    count: u32,
    end_ns: u64,
}

/// A message of a schedule that has its slot.
#[derive(Clone, Copy)]
struct Due {
    slot: u32,
    start_ns: u64,
}

/// What became of messages that were offered to an engine one after another.
struct Written {
    /// Those it wanted to have.
    taken: u32,
    /// Those it has.
    accepted: u32,
    /// What it said to the next one.
    put: Put,
    /// The slot of the last one taken, if it has one to itself.
    last: Option<u32>,
}

impl Written {
    const NOTHING: Self = Self { taken: 0, accepted: 0, put: Put::Full, last: None };
}

impl Generator {
    /// Generator `index` of `run`; leaves its books at `desk` when dropped. `received` is where the other end, if it is in
    /// this process, notes what it has.
    pub fn new(
        run: Arc<Run>,
        index: usize,
        table: &Arc<SlotTable>,
        received: Option<Arc<Received>>,
        desk: Arc<Desk<ClientRecord>>,
    ) -> Self {
        let plan = &run.plan;
        let numbers = plan.numbers_expected();
        let echo_numbers = if plan.mode == Mode::Echo { numbers } else { 0 };
        let record = ClientRecord::new(Audit::of_run(plan.expected(), echo_numbers), numbers);
        Self {
            slots: OwnSlots::new(Arc::clone(table), index),
            schedule: None,
            window_ns: None,
            next_number: index as u64,
            // A large message takes longer to write than the clock to read.
            clock_every: if plan.size > LARGE_BYTES { 1 } else { CLOCK_EVERY },
            echo: plan.mode == Mode::Echo,
            // Plain protocols tell messages apart by slot, and so do stages and echoes. Lengths are added up one by one.
            shares_slots: plan.protocol == Protocol::UdpPlus
                && plan.mode != Mode::Echo
                && !plan.stages
                && plan.lengths.if_fixed().is_some(),
            strays: plan.echoes_stray(),
            stages: plan.stages.then(|| Box::new(StageBook::new(plan.slots_each(), received))),
            cuts: 0,
            looked_ns: 0,
            gaps: Gaps::new(if plan.open_loop.is_some() { clock::ns(plan.late_max) } else { u64::MAX }),
            early_ns: clock::ns(plan.wake_early),
            record,
            lengths: plan.lengths.if_fixed().is_none().then(|| plan.lengths.clone()),
            delivered_bytes: 0,
            ended: SlotRun::default(),
            delivered: TimeRun::default(),
            echoed: TimeRun::default(),
            delivered_numbers: 0..0,
            index,
            run,
            desk,
        }
    }

    /// The run it belongs to.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// How many messages may share a look at the clock.
    pub const fn clock_every(&self) -> u32 {
        self.clock_every
    }

    fn window(&mut self, now_ns: u64) -> (u64, u64) {
        if let Some(window) = self.window_ns {
            return window;
        }
        let plan = &self.run.plan;
        let start = self.run.progress.start_ns(now_ns);
        let begin = start + clock::ns(plan.warm_up);
        let window = (begin, begin + clock::ns(plan.duration));
        let all = (plan.generators, plan.shares.as_deref());
        let schedule = |open: &OpenLoop| open.schedule(start, all, self.index, plan.seed);
        self.schedule = plan.open_loop.as_ref().map(schedule);
        self.window_ns = Some(window);
        window
    }

    /// Puts what may be put now.
    pub fn offer(&mut self, outlet: &mut impl Outlet) {
        if self.window_ns.is_none() && !self.run.progress.is_open() {
            return;
        }
        self.settle();
        let looked = outlet.clock_ns();
        let mut now = looked;
        let (begin, mut end) = self.window(now);
        if now < end && self.run.progress.is_stopping() {
            // What ended before did so in the window as it was.
            self.book_delivered();
            self.book_echoed();
            end = now;
            self.window_ns = Some((begin.min(now), now));
        }
        if self.strays {
            self.slots.handle_returns();
        }
        let close = self.close_ns(end);
        while now < close {
            let count = match self.schedule {
                None => self.put_now(outlet, now),
                Some(_) => self.put_due(outlet, now, end),
            };
            if count < self.clock_every {
                break;
            }
            now = outlet.clock_ns();
        }
        self.note_look(looked, now);
    }

    /// It was looked what is due, first at `first` and then at every few messages up to `now`. What is still due was not taken:
    /// the time it waits is its latency, and the engine's doing. What of it was due for longer than it should before `first` is
    /// the generator's own error, and is booked when the message is put: one error for each message.
    fn note_look(&mut self, first: u64, now: u64) {
        let Some(schedule) = &self.schedule else { return };
        self.gaps.note(self.looked_ns, first, schedule.due_ns());
        self.looked_ns = now;
    }

    /// When nothing is put any more, with a window that ends at `end`.
    fn close_ns(&self, end: u64) -> u64 {
        if self.schedule.is_some() { end.saturating_add(LATE_MAX_NS) } else { end }
    }

    /// Something that was due within the window is still to be put.
    fn is_behind(&self, now: u64, end: u64) -> bool {
        self.schedule.as_ref().is_some_and(|schedule| schedule.due_ns() < end) && now < self.close_ns(end)
    }

    /// Puts what there are slots for, up to the next look at the clock; returns how many.
    #[inline]
    fn put_now(&mut self, outlet: &mut impl Outlet, now: u64) -> u32 {
        let step = self.run.plan.generators as u64;
        let mut count = 0;
        while count < self.clock_every {
            let most = self.clock_every - count;
            let Written { taken, accepted, put, last } = if self.shares_slots {
                self.write_sharing(outlet, now, most)
            } else {
                self.write_each(outlet, now, most)
            };
            count += accepted;
            // Of all of them, before one was written: each counts as its own.
            let of_all = taken == 0 && matches!(put, Put::Refused(_)) && self.slots.room() > 0;
            if let Some(slot) = last.filter(|_| taken > accepted) {
                self.slots.untake(slot);
            }
            let refused = (taken > accepted || of_all) && self.is_refused(put);
            count += u32::from(refused);
            self.next_number += u64::from(accepted + u32::from(refused)) * step;
            if !refused {
                break;
            }
        }
        self.record.offered += u64::from(count);
        if self.window_ns.is_some_and(|window| now >= window.0) {
            self.record.offered_in_window += u64::from(count);
        }
        count
    }

    /// Up to `most` messages, all of them in one slot.
    #[inline]
    fn write_sharing(&mut self, outlet: &mut impl Outlet, now: u64, most: u32) -> Written {
        let most = most.min(u32::try_from(self.slots.room()).unwrap_or(u32::MAX));
        let Some(slot) = (if most == 0 { None } else { self.slots.open(now) }) else {
            return Written::NOTHING;
        };
        let (run, step) = (self.run.plan.run, self.run.plan.generators as u64);
        let (mut number, mut taken) = (self.next_number, 0);
        let (accepted, put) = outlet.put_each((0..most).map(|_| {
            let stamp = Stamp { run, slot, number };
            number += step;
            taken += 1;
            stamp
        }));
        self.slots.close(slot, accepted);
        Written { taken, accepted, put, last: None }
    }

    /// The same, each in a slot of its own.
    #[inline]
    fn write_each(&mut self, outlet: &mut impl Outlet, now: u64, most: u32) -> Written {
        let (run, step) = (self.run.plan.run, self.run.plan.generators as u64);
        let (mut number, mut taken, mut last) = (self.next_number, 0, None);
        let Self { slots, stages, .. } = self;
        let (accepted, put) = outlet.put_each(std::iter::from_fn(|| {
            if taken == most {
                return None;
            }
            let slot = slots.take_next(number, now)?;
            if let Some(stages) = stages {
                stages.put(slots.place(slot), now);
            }
            last = Some(slot);
            let stamp = Stamp { run, slot, number };
            number += step;
            taken += 1;
            Some(stamp)
        }));
        Written { taken, accepted, put, last }
    }

    /// The same for what is due by `now`, with a window that ends at `end`.
    #[inline]
    fn put_due(&mut self, outlet: &mut impl Outlet, now: u64, end: u64) -> u32 {
        let run = self.run.plan.run;
        let mut count = 0;
        while count < self.clock_every {
            let most = self.clock_every - count;
            let (mut taken, mut last) = (0, None);
            let (accepted, put) = outlet.put_each(std::iter::from_fn(|| {
                // Who asks for the next one has accepted this one.
                if let Some(due) = last.take() {
                    self.note_put(due, now);
                }
                if taken == most {
                    return None;
                }
                let due = self.take_due(now, end)?;
                taken += 1;
                last = Some(due);
                Some(Stamp { run, slot: due.slot, number: self.next_number })
            }));
            count += accepted;
            if taken == accepted {
                if let Some(due) = last.take() {
                    self.note_put(due, now);
                }
                // The next one, before it was asked for.
                if matches!(put, Put::Refused(_)) {
                    last = self.take_due(now, end);
                }
            }
            let Some(due) = last else { break };
            self.slots.untake(due.slot);
            if !self.is_refused(put) {
                break;
            }
            self.note_put(due, now);
            count += 1;
        }
        count
    }

    /// The next message, if it is due by `now` in a window that ends at `end`, and there is a slot for it.
    #[inline]
    fn take_due(&mut self, now: u64, end: u64) -> Option<Due> {
        let start_ns = self.schedule.as_ref()?.due_ns();
        if start_ns > now || start_ns >= end {
            return None;
        }
        Some(Due { slot: self.slots.take_next(self.next_number, start_ns)?, start_ns })
    }

    /// The next message was put, or refused for good.
    #[inline]
    fn note_put(&mut self, Due { slot, start_ns }: Due, now: u64) {
        self.next_number += self.run.plan.generators as u64;
        self.record.offered += 1;
        if let Some(schedule) = &mut self.schedule {
            schedule.advance();
        }
        if let Some(stages) = &mut self.stages {
            stages.put(self.slots.place(slot), now);
        }
        if self.window_ns.is_some_and(|window| start_ns >= window.0) {
            self.record.offered_in_window += 1;
            let late = now.saturating_sub(start_ns).max(1);
            self.record.lateness.saturating_record(late);
            let error = if start_ns > self.looked_ns { late } else { self.gaps.error_ns(start_ns).max(1) };
            self.record.schedule_error.saturating_record(error);
        }
    }

    /// Whether a message that was not accepted was refused for good, and so has failed.
    #[cold]
    fn is_refused(&mut self, put: Put) -> bool {
        let Put::Refused(cause) = put else { return false };
        self.count_failure(cause);
        true
    }

    /// The outcome of the message with this tag came.
    #[inline]
    pub fn handle_outcome(&mut self, tag: u64, outcome: &Outcome, now_ns: u64) {
        let (slot, number) = Stamp::of_tag(tag);
        match outcome {
            Ok(delivered) => self.handle_delivery(slot, number, delivered, now_ns),
            Err(error) => self.handle_failure(slot, error.cause.label()),
        }
    }

    /// The message in `slot` has failed, by this cause.
    pub fn handle_failure(&mut self, slot: u32, cause: &'static str) {
        if self.slots.outcome(slot, false).is_some() {
            self.count_failure(cause);
        }
    }

    #[inline]
    fn handle_delivery(&mut self, slot: u32, number: u64, delivered: &Delivered, now_ns: u64) {
        if self.shares_slots {
            if self.ended.slot != slot || self.ended.end_ns != now_ns {
                self.settle();
                self.ended = SlotRun { slot, count: 0, end_ns: now_ns };
            }
            self.ended.count += 1;
        } else {
            let Some(start) = self.slots.outcome(slot, true) else { return };
            if self.stages.is_some() {
                self.book_stages(slot, start, delivered, now_ns);
            }
            self.note_delivered(start, now_ns, 1);
        }
        if number == self.delivered_numbers.end {
            self.delivered_numbers.end += 1;
        } else {
            self.book_numbers();
            self.delivered_numbers = number..number + 1;
        }
        if let Some(lengths) = &self.lengths {
            self.delivered_bytes += lengths.of(number) as u64;
        }
    }

    /// Brings `ended` to its slot, and to `delivered`.
    #[inline]
    fn settle(&mut self) {
        let SlotRun { slot, count, end_ns } = std::mem::take(&mut self.ended);
        if count > 0
            && let Some(start) = self.slots.outcomes(slot, count)
        {
            self.note_delivered(start, end_ns, count.into());
        }
    }

    #[inline]
    fn note_delivered(&mut self, start_ns: u64, end_ns: u64, count: u64) {
        if !self.delivered.extend(start_ns, end_ns, count) {
            self.book_delivered();
            self.delivered = TimeRun { start_ns, end_ns, count };
        }
    }

    /// Enters what the engine knows of a message.
    #[inline(never)]
    fn book_stages(&mut self, slot: u32, start: u64, delivered: &Delivered, now_ns: u64) {
        let Some(book) =
            self.stages.as_mut().filter(|_| self.window_ns.is_some_and(|window| start >= window.0))
        else {
            return;
        };
        let engine = EngineTimes {
            queued_ns: clock::ns(delivered.queued()),
            rtt_ns: clock::ns(delivered.rtt()),
            tries: delivered.tries,
        };
        book.note_engine(engine);
        if !self.echo {
            book.end(slot, self.slots.place(slot), start, now_ns, Some(engine));
        }
    }

    /// Brings `delivered` to the record.
    #[inline(never)]
    fn book_delivered(&mut self) {
        let run = std::mem::take(&mut self.delivered);
        let bytes = match self.run.plan.lengths.if_fixed() {
            Some(bytes) => bytes as u64 * run.count,
            None => std::mem::take(&mut self.delivered_bytes),
        };
        let (begin, end) = self.window_ns.unwrap_or((u64::MAX, u64::MAX));
        self.record.delivered += run.count;
        if run.end_ns >= begin && run.end_ns < end {
            self.record.delivered_in_window += run.count;
            self.record.delivered_bytes_in_window += bytes;
        }
        if !self.echo && run.start_ns >= begin {
            run.record(&mut self.record.latency);
        }
    }

    /// Brings `delivered_numbers` to the record.
    #[inline(never)]
    fn book_numbers(&mut self) {
        let run = std::mem::take(&mut self.delivered_numbers);
        self.record.delivered_numbers.insert_run(run.start, run.end - run.start);
    }

    /// Brings `echoed` to the record.
    #[inline(never)]
    fn book_echoed(&mut self) {
        let run = std::mem::take(&mut self.echoed);
        if self.window_ns.is_some_and(|window| run.start_ns >= window.0) {
            run.record(&mut self.record.latency);
        }
    }

    #[cold]
    fn count_failure(&mut self, cause: &'static str) {
        *self.record.failed.entry(cause).or_default() += 1;
    }

    /// A message came: in echo mode one of ours, come back.
    #[inline]
    pub fn handle_echo(&mut self, payload: &[u8], now_ns: u64) {
        if let Seen::New(stamp) = self.record.echoes.enter(payload) {
            self.end_echo(stamp, now_ns);
        }
    }

    /// An echo came that is the message's outcome, too, if `delivered` knows that it is awaited.
    pub fn handle_answer(
        &mut self,
        payload: &[u8],
        now_ns: u64,
        delivered: impl FnOnce(Stamp) -> Option<Delivered>,
    ) {
        let Seen::New(stamp) = self.record.echoes.enter(payload) else { return };
        match delivered(stamp) {
            Some(delivered) => {
                self.handle_delivery(stamp.slot, stamp.number, &delivered, now_ns);
                self.end_echo(stamp, now_ns);
            }
            None => self.count_late_answer(),
        }
    }

    /// An answer came to a message that had been given up.
    #[cold]
    pub const fn count_late_answer(&mut self) {
        self.record.answered_late += 1;
    }

    #[inline]
    fn end_echo(&mut self, stamp: Stamp, now_ns: u64) {
        let Some((number, start)) = self.slots.table().get(stamp.slot) else { return };
        // The echo of a message that was given up: its slot has no message, or another.
        if number != stamp.number {
            return;
        }
        if !self.echoed.extend(start, now_ns, 1) {
            self.book_echoed();
            self.echoed = TimeRun { start_ns: start, end_ns: now_ns, count: 1 };
        }
        if let Some(book) = &mut self.stages
            && self.slots.owns(stamp.slot)
            && self.window_ns.is_some_and(|window| start >= window.0)
        {
            book.end(stamp.slot, self.slots.place(stamp.slot), start, now_ns, None);
        }
        if self.slots.owns(stamp.slot) {
            self.slots.echo(stamp.slot);
        } else {
            self.slots.table().give_back(stamp.slot, stamp.number);
        }
    }

    /// When [`offer`](Self::offer) is next needed even if nothing comes; `None`: never.
    pub fn next_turn_ns(&self, now_ns: u64) -> Option<u64> {
        let (_, end) = self.window_ns?;
        if self.is_behind(now_ns, end) && now_ns >= end {
            // What is late is put as soon as there is room, which outcomes make; or it is given up.
            return Some(if self.slots.next().is_some() { now_ns } else { self.close_ns(end) });
        }
        if now_ns >= end {
            // Echoes of our messages may come to other generators, which cannot wake us.
            return (self.strays && self.slots.outstanding() > 0).then(|| now_ns + 1_000_000);
        }
        let schedule = self.schedule.as_ref().filter(|_| self.slots.next().is_some());
        // Sleep is not exact: it ends early, and the rest is turns without sleep, in which outcomes are handled as ever.
        let due = schedule.map(|schedule| schedule.due_ns().saturating_sub(self.early_ns).max(now_ns));
        let poll = self.strays.then(|| now_ns + 100_000);
        Some(due.into_iter().chain(poll).fold(end, u64::min))
    }

    /// The first of its slots.
    pub const fn first_slot(&self) -> u32 {
        self.slots.first()
    }

    /// Messages under way.
    pub fn outstanding(&self) -> usize {
        self.slots.outstanding().saturating_sub(self.ended.count as usize)
    }

    /// Takes back messages that were put into a batch, but that no engine ever took.
    pub fn withdraw<'a>(&mut self, payloads: impl Iterator<Item = &'a bytes::Bytes>) {
        for payload in payloads {
            let Some(stamp) = payload::check(payload) else { continue };
            let start = self.slots.outcome(stamp.slot, false);
            self.record.offered -= 1;
            if self.window_ns.zip(start).is_some_and(|(window, start)| start >= window.0) {
                self.record.offered_in_window -= 1;
            }
        }
    }

    /// Hands over the latencies since the last cut.
    #[cold]
    fn answer_cut(&mut self) {
        self.book_delivered();
        self.book_echoed();
        let exchange = &self.run.progress.exchange;
        let cut = exchange.cuts();
        let ended = Ended { delivered: self.record.delivered, failed: self.record.failed_total() };
        if exchange.answer(self.index, cut, ended, &mut self.record.latency) {
            self.cuts = cut;
        }
    }

    /// Tells how it goes; returns whether all is done.
    pub fn publish(&mut self, now_ns: u64) -> bool {
        self.settle();
        if self.run.progress.exchange.cuts() != self.cuts {
            self.answer_cut();
        }
        let record = &self.record;
        let outstanding = self.slots.outstanding() as u64;
        let over = |end| now_ns >= end && !self.is_behind(now_ns, end);
        let done = outstanding == 0 && self.window_ns.is_some_and(|window| over(window.1));
        let failed = if record.failed.is_empty() { 0 } else { record.failed_total() };
        let delivered = record.delivered + self.delivered.count;
        let unended = record.offered.saturating_sub(delivered + failed);
        self.run.progress.publish(self.index, Snapshot { delivered, failed, outstanding, unended, done });
        done
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.settle();
        self.book_delivered();
        self.book_numbers();
        self.book_echoed();
        let mut record = std::mem::take(&mut self.record);
        record.window_ns = self.window_ns.unwrap_or((0, 0));
        record.stages = self.stages.take().map(|book| Box::new(book.into_stages()));
        if let Some(schedule) = &self.schedule {
            let due = schedule.due_before(record.window_ns.1);
            let before = schedule.due_before(record.window_ns.0);
            record.not_offered = due.saturating_sub(record.offered);
            record.not_offered_in_window = due.saturating_sub(record.offered.max(before));
        }
        self.desk.leave(record);
    }
}
