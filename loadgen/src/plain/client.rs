//! A thread of the sending side: the generator's turns, and what the kernel has for it in between.

use super::pending::Pending;
use super::threads::Shared;
use super::wait::Waiter;
use crate::clock;
use crate::generator::{Generator, Outlet, Put};
use crate::payload::Stamp;
use crate::sizes::Lengths;
use crate::targets::{PeerDraw, Targets};
use anyhow::Result;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::{Delivered, Level};

/// Why a message has failed whose answer did not come in time.
const NO_ANSWER: &str = "no_answer";

/// What happened to messages.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// One came back.
    Echo(&'a [u8]),
    /// The far end says that it has this one.
    Taken(Sent),
    /// Nobody will ever say what became of this one, or it was not sent at all.
    Lost(Sent, &'static str),
}

/// A message that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where the generator keeps it.
    pub slot: u32,
    /// Its number.
    pub number: u64,
}

impl Sent {
    /// As the generator wants it back.
    const fn tag(self) -> u64 {
        Stamp { run: 0, slot: self.slot, number: self.number }.tag()
    }
}

impl From<Stamp> for Sent {
    fn from(stamp: Stamp) -> Self {
        Self { slot: stamp.slot, number: stamp.number }
    }
}

/// What UDP and TCP do differently. Ways are sockets, counted from 0.
pub trait Link {
    /// Takes message `stamp` of so many bytes.
    fn put(&mut self, way: usize, stamp: Stamp, bytes: usize) -> Put;
    /// Hands what was put to the kernel, as far as it takes it.
    fn flush(&mut self, waiter: &Waiter) -> Result<()>;
    /// Takes what came, by what `waiter` says: each answer, and when it was there.
    fn receive(&mut self, waiter: &Waiter, take: &mut impl FnMut(Answer<'_>, u64)) -> Result<()>;
    /// When it wants a turn even if nothing comes.
    fn next_turn_ns(&self, now_ns: u64) -> Option<u64>;
}

/// The way from the generator to the sockets.
struct LinkOutlet<L> {
    link: L,
    pending: Pending,
    lengths: Lengths,
    peers: PeerDraw,
    targets: Targets,
    /// When the clock was last read.
    now_ns: Cell<u64>,
    slots_each: usize,
}

impl<L> LinkOutlet<L> {
    const fn place(&self, slot: u32) -> usize {
        slot as usize % self.slots_each
    }
}

impl<L: Link> Outlet for LinkOutlet<L> {
    fn clock_ns(&self) -> u64 {
        self.now_ns.set(clock::now_ns());
        self.now_ns.get()
    }

    fn put(&mut self, stamp: Stamp) -> Put {
        let way = self.peers.of(stamp.number) * self.targets.addresses().len();
        let way = way + self.targets.index_of(stamp.number);
        let put = self.link.put(way, stamp, self.lengths.of(stamp.number));
        if put == Put::Accepted {
            self.pending.enter(self.place(stamp.slot), stamp.number, self.now_ns.get());
        }
        put
    }
}

/// The thread's work.
pub struct Client<L> {
    generator: Generator,
    outlet: LinkOutlet<L>,
    waiter: Waiter,
    shared: Arc<Shared>,
}

impl<L: Link> Client<L> {
    /// `generator` for `peers` over `link`, which has a way from each of them to each target, and whose sockets `waiter` looks
    /// at.
    pub fn new(generator: Generator, peers: PeerDraw, link: L, waiter: Waiter, shared: Arc<Shared>) -> Self {
        let plan = &generator.run().plan;
        let outlet = LinkOutlet {
            link,
            pending: Pending::new(plan.slots_each(), clock::ns(plan.deadline())),
            lengths: plan.lengths.clone(),
            peers,
            targets: generator.run().targets.clone(),
            now_ns: Cell::new(0),
            slots_each: plan.slots_each(),
        };
        Self { generator, outlet, waiter, shared }
    }

    /// Until it is told to stop. What has no outcome by then gets one.
    pub fn run(mut self) -> Result<()> {
        while !self.shared.is_stopping() {
            self.generator.offer(&mut self.outlet);
            self.outlet.link.flush(&self.waiter)?;
            let now = clock::now_ns();
            self.expire(now);
            self.generator.publish(now);
            let time = self.next_turn_ns(now).map(|at| Duration::from_nanos(at.saturating_sub(now)));
            self.waiter.wait(time)?;
            self.handle_answers()?;
        }
        while let Some(slot) = self.take_first() {
            self.generator.handle_failure(slot, "stopped");
        }
        self.generator.publish(clock::now_ns());
        Ok(())
    }

    fn next_turn_ns(&self, now: u64) -> Option<u64> {
        let own = self.generator.next_turn_ns(now);
        let deadline = self.outlet.pending.next_deadline_ns();
        own.into_iter().chain(deadline).chain(self.outlet.link.next_turn_ns(now)).min()
    }

    fn take_first(&mut self) -> Option<u32> {
        let first = self.generator.first_slot();
        self.outlet.pending.take_first().map(|place| first + place as u32)
    }

    /// Gives up what has waited for too long.
    fn expire(&mut self, now: u64) {
        while self.outlet.pending.next_deadline_ns().is_some_and(|deadline| deadline <= now)
            && let Some(slot) = self.take_first()
        {
            self.generator.handle_failure(slot, NO_ANSWER);
        }
    }

    fn handle_answers(&mut self) -> Result<()> {
        let Self { generator, outlet, waiter, .. } = self;
        let (slots_each, deadline_ns) = (outlet.slots_each, outlet.pending.deadline_ns());
        let LinkOutlet { link, pending, .. } = outlet;
        // Of a large one the time is looked at when its turn comes: those before it take a while to check.
        let alone = generator.clock_every() == 1;
        let delivered = |put_ns: u64, now: u64| {
            Delivered::new(
                Level::Accepted,
                1,
                Duration::ZERO,
                Duration::from_nanos(now.saturating_sub(put_ns)),
            )
        };
        link.receive(waiter, &mut |answer, came_ns| {
            let now = if alone { clock::now_ns() } else { came_ns };
            let mut take = |sent: Sent| pending.take(sent.slot as usize % slots_each, sent.number);
            // An answer behind the deadline is none, also where this thread had no time to say so before it came.
            let is_over = |put_ns: u64| put_ns.saturating_add(deadline_ns) <= now;
            match answer {
                Answer::Echo(payload) => {
                    let mut given_up = None;
                    generator.handle_answer(payload, now, |stamp| {
                        let put_ns = take(stamp.into())?;
                        if is_over(put_ns) {
                            given_up = Some(stamp.slot);
                            return None;
                        }
                        Some(delivered(put_ns, now))
                    });
                    if let Some(slot) = given_up {
                        generator.handle_failure(slot, NO_ANSWER);
                    }
                }
                Answer::Taken(sent) => match take(sent) {
                    Some(put_ns) if is_over(put_ns) => {
                        generator.handle_failure(sent.slot, NO_ANSWER);
                        generator.count_late_answer();
                    }
                    Some(put_ns) => generator.handle_outcome(sent.tag(), &Ok(delivered(put_ns, now)), now),
                    None => generator.count_late_answer(),
                },
                Answer::Lost(sent, cause) => {
                    if take(sent).is_some() {
                        generator.handle_failure(sent.slot, cause);
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Audit;
    use crate::cli::Cli;
    use crate::payload;
    use crate::plan::{Plan, Run};
    use crate::progress::Progress;
    use crate::record::Desk;
    use crate::slots::SlotTable;
    use clap::Parser;

    /// Takes everything, and answers when the test says.
    #[derive(Default)]
    struct Script {
        put: Option<Stamp>,
        answers_ns: Option<u64>,
        echoes: bool,
    }

    impl Link for Script {
        fn put(&mut self, _way: usize, stamp: Stamp, _bytes: usize) -> Put {
            self.put = Some(stamp);
            Put::Accepted
        }

        fn flush(&mut self, _waiter: &Waiter) -> Result<()> {
            Ok(())
        }

        fn receive(&mut self, _waiter: &Waiter, take: &mut impl FnMut(Answer<'_>, u64)) -> Result<()> {
            let (Some(stamp), Some(at)) = (self.put.take(), self.answers_ns) else { return Ok(()) };
            let mut payload = [0; 64];
            payload::fill(&mut payload, stamp);
            take(if self.echoes { Answer::Echo(&payload) } else { Answer::Taken(stamp.into()) }, at);
            Ok(())
        }

        fn next_turn_ns(&self, _now_ns: u64) -> Option<u64> {
            None
        }
    }

    /// However long this thread had no processor between an answer's deadline and the answer.
    #[test]
    fn an_answer_behind_its_deadline_is_none_also_if_nobody_gave_the_message_up_before() {
        const DEADLINE_NS: u64 = 100_000_000;
        for echoes in [true, false] {
            let mode = if echoes { "echo" } else { "sink" };
            let line =
                ["udp-plus", "--protocol", "tcp", "--mode", mode, "--in-flight", "1", "--deadline-ms", "100"];
            let args = Cli::try_parse_from(line).expect("valid").bench;
            let plan = Plan::new(&args.engine, &args.load).expect("valid");
            let targets = Targets::one(([127, 0, 0, 1], 9).into());
            let peers = PeerDraw::new(&plan.peers, 0..1, 0);
            let table = SlotTable::new(1, plan.in_flight, echoes);
            let run = Arc::new(Run { plan, targets, progress: Progress::new(1) });
            let desk = Arc::new(Desk::default());
            let generator = Generator::new(run, 0, &table, None, Arc::clone(&desk));
            let link = Script { echoes, ..Script::default() };
            let waiter = Waiter::new().expect("epoll");
            let mut client = Client::new(generator, peers, link, waiter, Arc::default());
            for after_ns in [DEADLINE_NS - 1, DEADLINE_NS, DEADLINE_NS + 1] {
                client.generator.offer(&mut client.outlet);
                client.outlet.link.answers_ns = Some(client.outlet.now_ns.get() + after_ns);
                client.handle_answers().expect("no error");
                assert_eq!(client.generator.outstanding(), 0);
            }
            drop(client);
            let books = desk.take().pop().expect("books");
            assert_eq!((books.delivered, books.answered_late), (1, 2), "{mode}");
            assert_eq!(books.failed, [(NO_ANSWER, 2)].into());
            let Audit { received, duplicates, .. } = books.echoes;
            assert_eq!((received, duplicates), (if echoes { 3 } else { 0 }, 0));
        }
    }
}
