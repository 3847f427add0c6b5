//! How many datagrams the peers of one socket may have under way: granted traffic never overflows its buffer.
//!
//! ```text
//!   socket buffer, as read back  |<------- 60 % ------->|<-- 40 %: first datagrams, acknowledgements, strays -->|
//!                                |reserved: granted and not received yet|  free  |
//! ```
//!
//! A grant (R-CREDIT-2) is the highest packet number a flow may use. What it allows beyond what has arrived is *reserved*,
//! until it arrives or its lease is over. Of those who send, each gets a share of the buffer: half of it is divided equally, half by
//! what each has sent of late, or many that send little would leave next to nothing to the one that sends much. With many of
//! them a share is a few datagrams, and each has its turn. Nothing is taken back before its lease is over: a grant is only not
//! renewed.
//!
//! Where one peer has just come, others may be on their way, each with a datagram that needs no credit: of a small buffer less is
//! promised for a while.
//!
//! Whoever was alone holds all of it, and may be slow to use it, or not mean to. So a flow that holds more than its share is
//! told its share alone; the rest is free when nobody can use what it was told before. Whoever asks and gets nearly nothing
//! waits in a queue, counts among those who share, and is told when its turn has come.

use crate::units::Instant;
use crate::wire::binary::{CHUNK_FRAME_BYTES, CHUNK_UNIT, HEADER_BYTES};
use std::collections::VecDeque;
use std::time::Duration;

/// How long the sender may use a grant it does not renew by sending (R-CREDIT-2).
pub const LEASE: Duration = Duration::from_millis(20);
/// How much longer it stays reserved here: what was sent at the lease's last moment is still under way then.
pub const LEASE_GRACE: Duration = Duration::from_millis(100);
/// Kernel memory of a full datagram in a socket buffer, at least (`LIMITS.md`): the skb is charged, not its payload.
const DATAGRAM_TRUESIZE: u64 = 2_304;
/// Of the buffer, for grants (R-CREDIT-1).
const GRANTED_SHARE: (u64, u64) = (6, 10);
/// While peers come, so many of them have room for a datagram each, of so many bytes in a socket buffer (`LIMITS.md`); but this share
/// is for grants. They meet near the default buffer, of 212,992 bytes (R-CREDIT-1).
const PEERS_COMING: u64 = 200;
const LEAST_TRUESIZE: u64 = 832;
const GRANTED_SHARE_COMING: (u64, u64) = (2, 10);
/// How long they are waited for: as long as a HELLO goes unanswered before it is repeated (R-FLOW-9).
const COMING_FOR: Duration = Duration::from_millis(100);
/// Of those that have not proven their address, one counts so often.
const UNPROVEN_EVERY: Duration = Duration::from_secs(1);
/// Least grant: an acknowledgement clock needs two datagrams to tick, and probes that count.
const GRANT_MIN: u64 = 4;
const UNIT: u64 = CHUNK_UNIT as u64;
/// Places of the queue that are kept when nobody waits.
const WAITING_KEPT: usize = 256;
/// How long what was told is reserved.
pub const KEPT: Duration = LEASE.saturating_add(LEASE_GRACE);

/// The account of one socket.
#[derive(Debug)]
pub struct Credit {
    /// What the longest one carries of a message in parts.
    chunk_bytes: u64,
    /// Datagrams that can be granted at once: now, while peers come, and else.
    budget: u64,
    budget_coming: u64,
    budget_full: u64,
    /// The latest one has come for as long by then.
    coming_until: Instant,
    /// The next one that has not proven its address counts from then on.
    unproven_from: Instant,
    reserved: u64,
    /// Flows with something reserved.
    holders: u64,
    /// Flows that wait for their turn, in order.
    waiting: VecDeque<u32>,
    /// Datagrams that came of late, over all flows.
    used: Use,
    /// So many of them have their turn, and were not told yet. Of this turn of the loop alone: whoever cannot be told keeps nothing
    /// from others.
    promised: u64,
}

/// What one flow holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant {
    /// Highest packet number granted, as the next GRANT says.
    pub highest: u64,
    /// Granted and not received, by that GRANT or one that may still be used.
    reserved: u64,
    /// Highest packet number that is reserved, and when it was told last; the highest below it that was told since.
    most: u64,
    most_at: Instant,
    since: u64,
    queue: Queue,
    used: Use,
}

/// Datagrams that came, in the current span of a [`LEASE`] and in the one before it.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    span: u32,
    now: u32,
    before: u32,
}

impl Use {
    fn add(&mut self, span: u32, count: u32) {
        *self =
            Self { span, now: self.of(span).saturating_add(count), before: self.of(span.wrapping_sub(1)) };
    }

    /// In a span, if it is one of the two that are known.
    const fn of(&self, span: u32) -> u32 {
        match self.span.wrapping_sub(span) {
            0 => self.now,
            1 => self.before,
            _ => 0,
        }
    }

    fn of_late(&self, span: u32) -> u64 {
        u64::from(self.of(span)) + u64::from(self.of(span.wrapping_sub(1)))
    }
}

/// What is known of what a flow wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Which one it is.
    pub flow: u32,
    /// It has a use for no more datagrams.
    pub most: u64,
    /// It has a use for some.
    pub asks: bool,
    /// Datagrams of it that came since its last grant.
    pub came: u32,
}

/// Where a flow is that wants credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Queue {
    /// It has what it may have.
    #[default]
    None,
    /// Among those that wait.
    Waits,
    /// It was the first of those, and is about to be told.
    First,
}

impl Credit {
    /// For a socket buffer of `buffer_bytes`, as read back, and datagrams of up to `datagram_bytes`.
    #[must_use]
    pub fn new(buffer_bytes: u64, datagram_bytes: usize) -> Self {
        let truesize = DATAGRAM_TRUESIZE.max(crate::config::truesize_bytes(datagram_bytes).into());
        let chunk_room = datagram_bytes.saturating_sub(HEADER_BYTES + CHUNK_FRAME_BYTES) as u64;
        let share = |share: (u64, u64)| buffer_bytes * share.0 / share.1;
        let full = share(GRANTED_SHARE);
        let coming = buffer_bytes.saturating_sub(PEERS_COMING * LEAST_TRUESIZE);
        let coming = coming.max(share(GRANTED_SHARE_COMING)).min(full);
        let [budget_full, budget_coming] = [full, coming].map(|bytes| (bytes / truesize).max(GRANT_MIN));
        Self {
            chunk_bytes: (chunk_room / UNIT * UNIT).max(UNIT),
            budget: budget_full,
            budget_coming,
            budget_full,
            coming_until: Instant::default(),
            unproven_from: Instant::default(),
            reserved: 0,
            holders: 0,
            waiting: VecDeque::new(),
            used: Use::default(),
            promised: 0,
        }
    }

    /// Datagrams granted and not received, over all flows.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub const fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Datagrams that can be granted at once.
    #[cfg(test)]
    #[must_use]
    pub const fn budget(&self) -> u64 {
        self.budget
    }

    fn set(&mut self, grant: &mut Grant, reserved: u64) {
        self.holders += u64::from(reserved > 0);
        self.holders -= u64::from(grant.reserved > 0);
        self.reserved = self.reserved + reserved - grant.reserved;
        grant.reserved = reserved;
    }

    /// The flow's datagrams up to `largest` have arrived, or will not.
    #[inline]
    pub fn arrived(&mut self, grant: &mut Grant, largest: u64) {
        let left = grant.most.saturating_sub(largest).min(grant.reserved);
        if left != grant.reserved {
            self.set(grant, left);
        }
    }

    /// Datagrams that so many bytes of a message in parts take at least (R-LARGE-1).
    #[must_use]
    pub const fn datagrams(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.chunk_bytes)
    }

    /// Somebody waits for what others do not use.
    #[inline]
    #[must_use]
    pub fn is_short(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Another turn of the loop.
    pub fn begin_turn(&mut self, now: Instant) {
        self.promised = 0;
        if now >= self.coming_until {
            self.budget = self.budget_full;
        }
    }

    /// A peer has come. One that has not proven its address counts now and then: anybody can say to be thousands.
    pub fn come(&mut self, now: Instant, proven: bool) {
        if proven || now >= self.unproven_from {
            (self.budget, self.coming_until) = (self.budget_coming, now + COMING_FOR);
        }
        if !proven && now >= self.unproven_from {
            self.unproven_from = now + UNPROVEN_EVERY;
        }
    }

    /// When more can be granted, if somebody waits for that.
    #[must_use]
    pub fn rises_at(&self) -> Option<Instant> {
        (self.budget < self.budget_full && self.is_short()).then_some(self.coming_until)
    }

    /// The flow whose turn it is, if there is credit for it beside what those before it were promised.
    pub fn next_waiting(&mut self) -> Option<u32> {
        if self.waiting.is_empty() || self.free() < GRANT_MIN {
            return None;
        }
        let next = self.waiting.pop_front();
        self.promised += 1;
        if self.waiting.is_empty() {
            self.waiting.shrink_to(WAITING_KEPT);
        }
        next
    }

    fn free(&self) -> u64 {
        self.budget.saturating_sub(self.reserved + self.promised * GRANT_MIN)
    }

    /// Renews a flow's grant after datagrams up to `largest` have arrived: its share, as far as it is free (R-CREDIT-3). What is
    /// free is for those who wait, in turn; whoever asks and gets less than the least grant waits as well.
    pub fn renew(&mut self, now: Instant, grant: &mut Grant, largest: u64, wish: Wish) {
        self.arrived(grant, largest);
        if grant.is_first() {
            self.promised = self.promised.saturating_sub(1);
        }
        let others = self.promised + self.waiting.len() as u64;
        let sharers = self.holders + u64::from(grant.reserved == 0) + others;
        let share = self.share(now, grant, sharers, wish.came).max(GRANT_MIN).min(wish.most);
        let is_first = match grant.queue {
            Queue::First => true,
            Queue::None => self.waiting.is_empty(),
            Queue::Waits => false,
        };
        let free = if is_first { self.free() } else { 0 };
        let reserved = share.min(grant.reserved + free);
        if reserved >= share.min(GRANT_MIN) || !wish.asks {
            if grant.queue == Queue::First {
                grant.queue = Queue::None;
            }
        } else if grant.queue != Queue::Waits {
            grant.queue = Queue::Waits;
            self.waiting.push_back(wish.flow);
        }
        let allowed = largest.saturating_add(reserved);
        if reserved > grant.reserved {
            grant.most = grant.most.max(allowed);
            self.set(grant, reserved);
        } else if reserved < grant.reserved && now.since(grant.most_at) >= KEPT {
            (grant.most, grant.since, grant.most_at) = (grant.since.max(allowed), 0, now);
            self.arrived(grant, largest);
        }
        grant.highest = grant.most.min(allowed);
        if grant.highest == grant.most {
            (grant.since, grant.most_at) = (0, now);
        } else {
            grant.since = grant.since.max(grant.highest);
        }
    }

    /// What one of so many has of the budget: half of it alike, half by what each has sent of late.
    fn share(&mut self, now: Instant, grant: &mut Grant, sharers: u64, came: u32) -> u64 {
        let span = (now.as_ns() / LEASE.as_nanos() as u64) as u32;
        for used in [&mut self.used, &mut grant.used] {
            used.add(span, came);
        }
        let equal = self.budget / sharers.max(1);
        match (grant.used.of_late(span), self.used.of_late(span)) {
            (_, 0) => equal,
            (own, all) if sharers > 1 => equal / 2 + self.budget * own / (2 * all),
            _ => equal,
        }
    }

    /// The flow is no more.
    pub fn close(&mut self, grant: &mut Grant, index: u32) {
        self.lapse(grant);
        if grant.waits() {
            self.waiting.retain(|&waiting| waiting != index);
        }
    }

    /// The lease is over, or the flow: what it did not use is free again, and not granted any more. Else the next grant
    /// would bring it back without a place for it.
    pub fn lapse(&mut self, grant: &mut Grant) {
        self.set(grant, 0);
        (grant.highest, grant.most, grant.since) = (0, 0, 0);
    }
}

impl Grant {
    /// Among those that wait.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.queue == Queue::Waits
    }

    /// It was the first of them, and was not told yet.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.queue == Queue::First
    }

    /// It was the first of them.
    pub fn come_first(&mut self) {
        self.queue = Queue::First;
    }

    /// Whether anything is reserved.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.reserved > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(flow: u32) -> Wish {
        Wish { flow, most: u64::MAX, asks: true, came: 0 }
    }

    fn at_ms(ms: u64) -> Instant {
        Instant::default() + Duration::from_secs(1) + Duration::from_millis(ms)
    }

    #[test]
    fn one_flow_gets_all_and_many_share() {
        let (mut credit, now) = (Credit::new(212_992, 1_472), at_ms(0));
        assert_eq!(credit.budget(), 55);
        let mut first = Grant::default();
        credit.renew(now, &mut first, 10, all(1));
        assert_eq!(first.highest, 65);
        let mut second = Grant::default();
        credit.renew(now, &mut second, 0, all(2));
        assert!(!second.is_held() && second.waits() && credit.next_waiting().is_none(), "nothing is free");
        // The first one's datagrams arrive: all of it is free, for the other one first.
        credit.renew(now, &mut first, 65, all(1));
        assert!(first.waits());
        assert_eq!(
            (credit.next_waiting(), credit.next_waiting(), credit.next_waiting()),
            (Some(2), Some(1), None)
        );
        second.come_first();
        credit.renew(now, &mut second, 0, all(2));
        assert_eq!(second.highest, 27, "the other one has its turn, too");
        first.come_first();
        credit.renew(now, &mut first, 65, all(1));
        assert_eq!(first.highest, 65 + 27);
        assert!(!first.waits() && !second.waits() && !credit.is_short());
        credit.lapse(&mut first);
        credit.lapse(&mut second);
        assert_eq!(credit.reserved(), 0);
    }

    /// Sixteen that send sixteen datagrams now and then, and one that always has more: with equal shares it would have 128.
    #[test]
    fn who_sends_much_has_more_than_who_sends_little() {
        let mut credit = Credit::new(8 << 20, 1_472);
        const MUCH: usize = 16;
        let (mut flows, mut largest) = ([Grant::default(); MUCH + 1], [0; MUCH + 1]);
        let equal = credit.budget() / flows.len() as u64;
        let mut most = 0;
        for tick in 0..4_000 {
            let now = at_ms(0) + Duration::from_micros(100 * tick);
            credit.begin_turn(now);
            for flow in 0..flows.len() {
                let came = match flow {
                    MUCH => flows[flow].highest.saturating_sub(largest[flow]).max(1),
                    _ if tick % 24 == 0 => 16,
                    _ => continue,
                };
                largest[flow] += came;
                credit.renew(
                    now,
                    &mut flows[flow],
                    largest[flow],
                    Wish { came: came as u32, ..all(flow as u32) },
                );
                let told = flows[flow].highest.saturating_sub(largest[flow]);
                // At first one of them is alone, and keeps what it was told for 120 ms.
                if tick < 2_000 {
                } else if flow == MUCH {
                    most = most.max(told);
                } else {
                    assert!(told >= equal / 2, "{told}");
                }
            }
            while let Some(next) = credit.next_waiting() {
                let next = next as usize;
                flows[next].come_first();
                credit.renew(now, &mut flows[next], largest[next], all(next as u32));
            }
        }
        assert!(most > 6 * equal && credit.reserved() <= credit.budget(), "{most}");
        // Nobody sends: what was is forgotten, and whoever comes next has as much as any.
        flows.iter_mut().for_each(|grant| credit.lapse(grant));
        credit.renew(at_ms(500), &mut flows[0], largest[0], all(0));
        assert_eq!(flows[0].highest, largest[0] + credit.budget());
    }

    /// Spans that are over count no more, nor does a number of datagrams without end.
    #[test]
    fn use_is_of_late() {
        let mut used = Use::default();
        used.add(7, 5);
        assert_eq!((used.of_late(7), used.of_late(8), used.of_late(9)), (5, 5, 0));
        used.add(8, 2);
        assert_eq!((used.of_late(8), used.of_late(9), used.of_late(10)), (7, 2, 0));
        used.add(10, u32::MAX);
        used.add(10, 1);
        assert_eq!((used.of_late(10), used.of_late(12)), (u32::MAX.into(), 0));
        used.add(u32::MAX, 3);
        used.add(0, 4);
        assert_eq!(used.of_late(0), 7, "it wraps around");
    }

    /// The default buffer takes what was granted at any time, and a first datagram of each of 200, whenever they come.
    #[test]
    fn while_peers_come_their_first_datagrams_have_room() {
        const BUFFER: u64 = 212_992;
        let mut credit = Credit::new(BUFFER, 1_472);
        let (mut one, mut other) = (Grant::default(), Grant::default());
        credit.come(at_ms(0), false);
        credit.begin_turn(at_ms(99));
        credit.renew(at_ms(99), &mut one, 0, all(1));
        assert_eq!(one.highest, 20);
        assert!(one.highest * DATAGRAM_TRUESIZE + PEERS_COMING * LEAST_TRUESIZE <= BUFFER);
        // Nobody else came, or nobody who is known to be there.
        credit.come(at_ms(99), false);
        credit.begin_turn(at_ms(100));
        credit.renew(at_ms(100), &mut other, 0, all(2));
        assert_eq!(other.highest, 55 / 2);
        // A large buffer has room for them anyway; of a small one something is for grants.
        for (buffer, full, coming) in [(8 << 20, 2_184, 2_184), (1 << 20, 273, 273), (32_768, 8, GRANT_MIN)] {
            let mut credit = Credit::new(buffer, 1_472);
            assert_eq!(credit.budget(), full);
            credit.come(at_ms(0), true);
            assert_eq!(credit.budget(), coming, "{buffer}");
        }
    }

    /// A hundred who all want more than there is.
    #[test]
    fn each_has_its_turn() {
        let (mut credit, now) = (Credit::new(212_992, 1_472), at_ms(0));
        let (mut flows, mut largest) = ([Grant::default(); 100], [0; 100]);
        for (index, flow) in flows.iter_mut().enumerate() {
            credit.renew(now, flow, 0, all(index as u32));
        }
        let mut told = [0; 100];
        for _ in 0..100 {
            // One that has something uses all of it.
            let user = (0..100).find(|&flow| flows[flow].is_held()).expect("somebody has credit");
            largest[user] = flows[user].highest;
            credit.renew(now, &mut flows[user], largest[user], all(user as u32));
            while let Some(next) = credit.next_waiting() {
                let flow = &mut flows[next as usize];
                flow.come_first();
                credit.renew(now, flow, largest[next as usize], all(next));
                assert!(flow.is_held());
                told[next as usize] += 1;
            }
        }
        let (least, most) = (told.iter().min(), told.iter().max());
        assert!(least >= Some(&1), "{least:?} {most:?}");
        assert!(most <= Some(&3), "{least:?} {most:?}");
    }

    #[test]
    fn who_has_sent_all_leaves_the_rest_to_others() {
        let (mut credit, now) = (Credit::new(212_992, 1_472), at_ms(0));
        let mut flow = Grant::default();
        credit.renew(now, &mut flow, 10, Wish { most: 2, ..all(1) });
        assert_eq!(flow.highest, 12);
        credit.renew(now, &mut flow, 12, Wish { most: 0, ..all(1) });
        assert!(!flow.is_held() && !flow.waits());
    }

    /// Every 50 ms a datagram: it has what it was told last as long as it goes on.
    #[test]
    fn who_is_slow_to_use_it_keeps_no_more_than_his_share() {
        let mut credit = Credit::new(1 << 20, 1_472);
        let (mut slow, mut other) = (Grant::default(), Grant::default());
        credit.renew(at_ms(0), &mut slow, 10, all(1));
        assert_eq!(slow.highest, 10 + credit.budget());
        credit.renew(at_ms(1), &mut other, 0, all(2));
        let served = (1..10).find(|&turn| {
            credit.renew(at_ms(50 * turn), &mut slow, 10 + turn, all(1));
            if credit.next_waiting() == Some(2) {
                other.come_first();
            }
            credit.renew(at_ms(50 * turn), &mut other, 0, all(2));
            other.highest >= credit.budget() / 3
        });
        assert_eq!(served, Some(3), "what was told at 0 ms is free after 120 ms");
    }

    #[test]
    fn a_lapsed_grant_does_not_come_back_beyond_what_is_reserved() {
        let (mut credit, now) = (Credit::new(212_992, 1_472), at_ms(0));
        let mut flows = [Grant::default(); 20];
        for flow in &mut flows {
            credit.renew(now, flow, 10, all(0)); // Alone: all of the budget.
            assert_eq!(flow.highest, 65);
            credit.lapse(flow);
        }
        for flow in &mut flows {
            credit.renew(now, flow, 10, all(0));
        }
        let granted: u64 = flows.iter().map(|flow| flow.highest.saturating_sub(10)).sum();
        assert_eq!(granted, credit.reserved());
        assert!(granted <= credit.budget());
        // Whatever number a peer has come to.
        credit.lapse(&mut flows[0]);
        credit.renew(now, &mut flows[0], u64::MAX, all(0));
    }

    proptest! {
        #[test]
        fn what_may_be_used_is_reserved_and_within_the_budget(
            ops in prop::collection::vec((0usize..8, 0u8..5, 0u64..200, 0u64..40), 1..300)
        ) {
            let mut credit = Credit::new(212_992, 1_472);
            let mut flows = [Grant::default(); 8];
            let mut largest = [0u64; 8];
            let mut told: [Vec<(Instant, u64)>; 8] = Default::default();
            let mut now = at_ms(0);
            for (flow, op, step, ms) in ops {
                now += Duration::from_millis(ms);
                let before = credit.reserved();
                let may_use = |told: &[(Instant, u64)], largest: u64| {
                    let kept = told.iter().filter(|one| now.since(one.0) < KEPT);
                    kept.map(|one| one.1).max().unwrap_or(0).saturating_sub(largest)
                };
                match op {
                    0 => {
                        largest[flow] += step.min(may_use(&told[flow], largest[flow]));
                        let most = if step % 2 == 0 { u64::MAX } else { step / 20 };
                        let wish = Wish { most, came: step as u32, ..all(flow as u32) };
                        credit.renew(now, &mut flows[flow], largest[flow], wish);
                        told[flow].push((now, flows[flow].highest));
                    }
                    1 => {
                        largest[flow] += step.min(may_use(&told[flow], largest[flow]));
                        credit.arrived(&mut flows[flow], largest[flow]);
                    }
                    // As a turn does.
                    2 => {
                        let mut first = Vec::new();
                        credit.begin_turn(now);
                        while let Some(next) = credit.next_waiting() {
                            prop_assert!(flows[next as usize].waits());
                            flows[next as usize].come_first();
                            first.push(next as usize);
                        }
                        for next in first {
                            credit.renew(now, &mut flows[next], largest[next], all(next as u32));
                            prop_assert!(flows[next].is_held(), "its turn brought nothing");
                            told[next].push((now, flows[next].highest));
                        }
                    }
                    3 => credit.come(now, step % 2 == 0),
                    // As the timer does: a grant that was not renewed.
                    _ => if may_use(&told[flow], largest[flow]) == 0 {
                        credit.lapse(&mut flows[flow]);
                    }
                }
                for flow in 0..8 {
                    prop_assert!(may_use(&told[flow], largest[flow]) <= flows[flow].reserved);
                }
                let sum: u64 = flows.iter().map(|grant| grant.reserved).sum();
                prop_assert_eq!(credit.reserved(), sum);
                // What was promised before others came stays so.
                prop_assert!(sum <= credit.budget().max(before), "{sum}");
                prop_assert!(sum <= credit.budget_full);
                let waiting: Vec<u32> = (0..8).filter(|&flow| flows[flow as usize].waits()).collect();
                let mut queue = Vec::from(credit.waiting.clone());
                queue.sort_unstable();
                prop_assert_eq!(queue, waiting);
                prop_assert_eq!(credit.holders, flows.iter().filter(|grant| grant.is_held()).count() as u64);
            }
        }
    }
}
