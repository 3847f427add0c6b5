//! Two engines and between them a channel that does what the input says to each datagram. Once the input is used up the
//! channel is a good one: then every message has its outcome, what is put now arrives, and nobody holds anything.

use super::bytes::Bytes;
use super::end::{Book, End, Train};
use crate::config::Wire;
use crate::error::Reached;
use crate::hash::Seed;
use crate::message::Level;
use crate::options::Priority;
use crate::proto::plugins::Plugins;
use crate::runtime::internals::lock;
use crate::sim::key_files::KeyFiles;
use crate::units::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Messages and bytes an input may put, so that a run is short.
const MESSAGES_MAX: usize = 48;
const BYTES_MAX: usize = 400_000;
/// One way, where nothing is done to a datagram.
const DELAY: Duration = Duration::from_micros(50);
/// From here on nobody who failed to answer before counts as a peer of the other wire (R-DISC-6).
const FORGIVEN: Duration = Duration::from_secs(80);
/// Where there are two places for flows, and one to each of a peer's two ports may be in them: they sleep, and make way for
/// another (R-FLOW-15). Where there are two for partial messages: what is left of those that were given up goes
/// (`partial_idle_max`), which rows have no word for, and which takes longer than rows are tried.
const ASLEEP: Duration = Duration::from_secs(12);
/// By then who is not answered has given up (`try_span_max`, twice: a flow may be found out behind another one).
const GIVEN_UP: Duration = Duration::from_secs(20);
/// Otherwise: what was held back has arrived.
const CALM: Duration = Duration::from_secs(2);
/// The longest default deadline of these sizes, and time for what is left to be given back.
const LIMIT: Duration = Duration::from_secs(200);
const SETTLE: Duration = Duration::from_secs(40);
/// Moments at which something happens.
const STEPS_MAX: u32 = 100_000;
/// Of eight choices of wires: both binary, and sealed.
const SEALED: usize = 5;
const ERRNOS: [i32; 5] = [libc::EAGAIN, libc::ENOBUFS, libc::EIO, libc::EMSGSIZE, libc::EPERM];

pub(super) fn run(input: &[u8]) {
    play(input).heal();
}

/// What the input says.
fn play(input: &[u8]) -> Pair {
    let mut script = Bytes::new(input);
    let mut pair = Pair::start(&mut script);
    let (mut messages, mut bytes_left) = (0, BYTES_MAX);
    while !script.is_empty() {
        let what = script.u8();
        let side = usize::from(what >> 7);
        match what % 16 {
            0..6 if messages < MESSAGES_MAX => {
                messages += 1;
                bytes_left -= pair.put(side, bytes_left, &mut script);
            }
            0..13 => {
                let time = Duration::from_nanos(1 << (script.u8() % 36));
                pair.pass(time, &mut script);
            }
            13 => {
                let mut player = lock(&pair.ends[side].player);
                (player.refuses, player.uncommitted) = (script.below(8), script.below(8));
            }
            14 => {
                let errno = ERRNOS[usize::from(script.below(ERRNOS.len() as u8))];
                pair.ends[side].socket.borrow_mut().refusals.push_back(errno);
            }
            _ if pair.keys.is_some() && script.below(2) == 0 => pair.change_keys(),
            _ => pair.rebind(side),
        }
    }
    pair
}

struct Pair {
    now: Instant,
    ends: [End; 2],
    /// Where each is seen to be; the address it is bound to reaches it as well.
    seen_as: [SocketAddr; 2],
    book: Arc<Mutex<Book>>,
    /// By arrival, then by the order they were sent: to which end, and what.
    flying: BTreeMap<(Instant, u64), (usize, Train)>,
    sequence: u64,
    steps: u32,
    may_rebind: bool,
    /// What both seal with, if they do.
    keys: Option<KeyFiles>,
}

impl Pair {
    fn start(script: &mut Bytes<'_>) -> Self {
        const WIRES: [[Wire; 2]; 5] = [
            [Wire::Binary, Wire::Binary],
            [Wire::Csv, Wire::Csv],
            [Wire::Auto, Wire::Auto],
            [Wire::Binary, Wire::Auto],
            [Wire::Csv, Wire::Auto],
        ];
        let choice = usize::from(script.below(8));
        let wires = WIRES[choice % WIRES.len()];
        let mut keys = (choice == SEALED).then(|| KeyFiles::draw(&mut Seed::from_number(1).rng(0)));
        let book = Arc::<Mutex<Book>>::default();
        let seen_as = [1, 2].map(|host| SocketAddr::from(([10, 0, 0, host], 25_252)));
        let ends = [0, 1].map(|side| {
            let plugins =
                keys.as_mut().map(|keys| keys.protect(side, Plugins::default())).unwrap_or_default();
            End::start(script, wires[side], seen_as[side], &book, false, &plugins)
        });
        let now = ends[0].socket.borrow().now;
        // Where an address changes, rows are delivered twice, as those of the original are.
        let may_rebind = wires == [Wire::Binary; 2];
        Self { now, ends, seen_as, book, flying: BTreeMap::new(), sequence: 0, steps: 0, may_rebind, keys }
    }

    /// Puts a message; its bytes.
    fn put(&self, side: usize, bytes_left: usize, script: &mut Bytes<'_>) -> usize {
        let kind = script.u8();
        let bytes = match kind % 4 {
            0 | 1 => usize::from(script.u8()),
            2 => usize::from(script.u16()) % 4_000,
            _ => usize::from(script.u16()) * 2,
        };
        let bytes = bytes.clamp(8, bytes_left.max(8));
        let mut outgoing = lock(&self.book).write(self.ends[1 - side].addr, bytes, false);
        if kind & 4 != 0 {
            outgoing = outgoing.deadline(Duration::from_micros(1 << script.below(26)));
        }
        if kind & 8 != 0 {
            outgoing = outgoing.lane(script.below(3).into());
        }
        if kind & 16 != 0 {
            outgoing = outgoing.level(Level::Committed);
        }
        if kind & 32 != 0 {
            let count = usize::from(script.u8());
            let (correlation, meta) = (script.u64(), script.take(count).to_vec());
            outgoing = outgoing.correlation(correlation).meta(meta.clone());
            if let Some(entry) = lock(&self.book).entries.get_mut(&outgoing.tag) {
                entry.beside = (Some(correlation), Some(meta));
            }
        }
        outgoing = outgoing.priority(
            [Priority::Normal, Priority::High, Priority::Low, Priority::Control][usize::from(kind >> 6)],
        );
        self.ends[side].put(outgoing);
        bytes.min(bytes_left)
    }

    /// The next step to another key.
    fn change_keys(&mut self) {
        if let Some((side, _)) = self.keys.as_mut().and_then(|keys| keys.step(0)) {
            self.ends[side].wake();
        }
    }

    /// A side's datagrams come from another address from now on, or again from its own.
    fn rebind(&mut self, side: usize) {
        if self.may_rebind {
            let own = self.ends[side].addr;
            let port = if self.seen_as[side] == own { own.port() + 1 } else { own.port() };
            self.seen_as[side].set_port(port);
        }
    }

    /// Lets time pass, with everything that happens meanwhile.
    fn pass(&mut self, time: Duration, script: &mut Bytes<'_>) {
        let until = self.now + time;
        loop {
            self.work(script);
            let deadlines = self.ends.iter().filter_map(End::next_deadline);
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = deadlines.chain(arrival).min().unwrap_or(Instant::FAR_FUTURE);
            if next > until {
                self.now = until;
                return;
            }
            self.now = next.max(self.now + Duration::from_micros(1));
            self.arrive();
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "two engines that never rest");
        }
    }

    /// Both ends do what there is to do, and the channel what the script says to what they sent.
    fn work(&mut self, script: &mut Bytes<'_>) {
        for side in 0..2 {
            self.ends[side].work(self.now);
            let sent = std::mem::take(&mut self.ends[side].socket.borrow_mut().sent);
            for train in sent {
                let Some(to) = [0, 1]
                    .into_iter()
                    .find(|&to| to != side && [self.ends[to].addr, self.seen_as[to]].contains(&train.peer))
                else {
                    continue;
                };
                if script.is_empty() {
                    let train = Train { peer: self.seen_as[side], ..train };
                    self.fly(DELAY, to, train);
                    continue;
                }
                for datagram in train.datagrams() {
                    self.suffer(script, side, to, datagram);
                }
            }
        }
    }

    fn suffer(&mut self, script: &mut Bytes<'_>, side: usize, to: usize, datagram: &[u8]) {
        let mut train = Train {
            peer: self.seen_as[side],
            bytes: datagram.to_vec(),
            segment_bytes: datagram.len().max(1),
        };
        let fate = script.u8();
        let late = DELAY + Duration::from_micros(1 << (fate % 20));
        match fate {
            0..128 => self.fly(DELAY, to, train),
            128..160 => {}
            160..192 => {
                self.fly(DELAY, to, train.clone());
                self.fly(late, to, train);
            }
            192..224 => self.fly(late, to, train),
            // A checksum tells, which rows do not have.
            224.. if datagram[0] >= 0x80 => {
                let at = usize::from(script.u16()) % datagram.len();
                train.bytes[at] ^= 1 << (fate % 8);
                self.fly(DELAY, to, train);
            }
            224.. => {}
        }
    }

    fn fly(&mut self, delay: Duration, to: usize, train: Train) {
        self.sequence += 1;
        self.flying.insert((self.now + delay, self.sequence), (to, train));
    }

    fn arrive(&mut self) {
        while let Some(first) = self.flying.first_entry()
            && first.key().0 <= self.now
        {
            let (to, train) = first.remove();
            self.ends[to].socket.borrow_mut().arriving.push_back(train);
        }
    }

    /// The channel is a good one from now on.
    fn heal(mut self) {
        let mut script = Bytes::new(&[]);
        self.seen_as = [0, 1].map(|side| self.ends[side].addr);
        for end in &self.ends {
            end.socket.borrow_mut().refusals.clear();
            let mut player = lock(&end.player);
            (player.refuses, player.uncommitted) = (0, 0);
        }
        let finds_out = self.ends.iter().any(|end| end.config.wire == Wire::Auto);
        let crowded = self.ends.iter().any(|end| end.config.peers_max.min(end.config.partials_max) == 2);
        self.pass(
            if finds_out {
                FORGIVEN
            } else if crowded {
                ASLEEP
            } else {
                CALM
            },
            &mut script,
        );
        if self.keys.is_some() {
            // What one of them has given up the other learns by a message that is lost: sealed, no RESET says it (R-PROT-6).
            for side in [0, 1] {
                let outgoing = lock(&self.book).write(self.ends[1 - side].addr, 8, false);
                self.ends[side].put(outgoing);
            }
            self.pass(GIVEN_UP, &mut script);
        }
        for (side, bytes) in [(0, 8), (1, 8), (0, 700), (1, 5_000)] {
            let outgoing = lock(&self.book).write(self.ends[1 - side].addr, bytes, true);
            self.ends[side].put(outgoing);
        }
        let until = self.now + LIMIT;
        while !lock(&self.book).is_complete() && self.now < until {
            self.pass(Duration::from_millis(100), &mut script);
        }
        for (number, entry) in &lock(&self.book).entries {
            let outcome = entry.outcome.expect("every message has its outcome");
            match outcome {
                Ok(_) => {
                    assert_eq!(entry.received, 1, "message {number} was delivered, it is said: {outcome:?}")
                }
                Err(error) => {
                    assert!(
                        !entry.must_arrive,
                        "message {number} to {} fails over a good channel: {error:?}\n{}\n{}",
                        entry.to, self.ends[0], self.ends[1]
                    );
                    let never = error.reached == Reached::Never;
                    assert!(!never || entry.received == 0, "message {number} arrived: {error:?}");
                }
            }
        }
        self.pass(SETTLE, &mut script);
        for end in &self.ends {
            assert_eq!(end.held(), Vec::<String>::new(), "{} holds something", end.addr);
            let counters = end.counters();
            let ended = counters.messages_delivered + counters.failed_total();
            assert_eq!(counters.messages_accepted, ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::key_files::STEPS;

    /// As chance would hardly have it: messages both ways before, between and after all steps to another key.
    #[test]
    fn a_script_goes_all_the_way_to_another_key() {
        let input = include_bytes!("../../../fuzz/corpus/two_endpoints/keys_change");
        let pair = play(input);
        let keys = pair.keys.as_ref().expect("sealed");
        assert_eq!((keys.left(), keys.next_step()), (0, STEPS));
        let [one, other] = [0, 1].map(|side| pair.ends[side].counters().messages_accepted);
        assert!(one >= 4 && other >= 4, "{one} {other}");
        pair.heal();
    }
}
