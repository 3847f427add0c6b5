//! Exactly once: which operations of one op number space of one flow were delivered or refused.
//!
//! ```text
//!   base             front                      next            end = base + size
//!    | all delivered,  | 64 bits in the flow  |   more bits, in   |
//!    | but for the     |                      |   blocks of the   |  beyond: the sender has no
//!    | exceptions      |                      |   shard's pool    |  credit for these
//! ```
//!
//! Only the sender's LOW moves the base ([`set_low`](OpWindow::set_low), R-ONCE-3). Because: a window that slides by
//! itself turns a late retransmission into a false duplicate. The front is ours: all between base and front is known
//! with nothing stored. It moves no further than a new operation needs, so the last 64 operations have their bits in
//! the flow, and one that finds no room in the application is unmarked by clearing its bit.
//!
//! Blocks hold what is more than 64 operations ahead of a gap, 32,768 bits each, in a ring by number. Bits are cleared as
//! the front passes them, and a block without a bit goes back at once: the blocks of the pool are always zero.
//! Refused operations, and unmarked ones behind the front, are exceptions in a map that is empty normally.
//!
//! Of blocks and of refusals no host gets more than three quarters (R-SHARE-1).
//!
//! Costs: a run of up to 64 operations in order is a few instructions; nothing is allocated without a gap. After a gap is
//! closed, the next operation moves the front over all that was waiting, 64 a step.

use crate::hash::Hasher;
use crate::proto::shares::{Host, Shares};
use std::collections::BTreeMap;

/// Operations that have their bit in the window itself.
const INLINE: u32 = u64::BITS;
const BLOCK_WORDS: usize = 512;
const BLOCK_OPS_SHIFT: u32 = 15;
/// Bytes of a block.
#[cfg(any(test, feature = "internals"))]
pub const BLOCK_BYTES: usize = size_of::<Bits>();
/// The largest window: 512 blocks. Low 32 bits of a seq are enough to tell.
pub const WINDOW_OPS_MAX: u32 = 1 << 24;
/// Seqs end here: a RESULT has 63 bits for one.
const SEQ_END: u64 = 1 << 63;

type Bits = [u64; BLOCK_WORDS];

const _: () = assert!(BLOCK_WORDS * 64 == 1 << BLOCK_OPS_SHIFT);

/// What is known of an operation (R-ONCE-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Neither delivered nor refused.
    New,
    /// Delivered (or taken, and not unmarked since).
    Delivered,
    /// Refused for good: the code to say again.
    Refused(u8),
    /// The sender said that it would not send it again: the frame has no meaning.
    Below,
    /// The sender has no credit for it.
    Beyond,
    /// It is new, but there is no block to remember it in: as if the datagram had been lost.
    NoRoom,
}

/// What the windows of a shard share: blocks, and how many refusals may be remembered.
#[derive(Debug)]
pub struct BlockPool {
    /// All zero.
    free: Vec<Box<Bits>>,
    in_use: u32,
    blocks_max: u32,
    exceptions: u32,
    refusals_max: u32,
    block_shares: Shares,
    exception_shares: Shares,
}

impl BlockPool {
    /// At most `blocks_max` blocks of 4 KiB, allocated as they come into use, and `refusals_max` refusals.
    #[must_use]
    pub fn new(blocks_max: u32, refusals_max: u32, hasher: &Hasher) -> Self {
        Self {
            free: Vec::new(),
            in_use: 0,
            blocks_max,
            exceptions: 0,
            refusals_max,
            block_shares: Shares::new(blocks_max.into(), hasher),
            exception_shares: Shares::new(refusals_max.into(), hasher),
        }
    }

    /// Blocks that windows hold.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn blocks_in_use(&self) -> u32 {
        self.in_use
    }

    /// Refused and unmarked operations that windows remember.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub const fn exceptions(&self) -> u32 {
        self.exceptions
    }

    fn acquire(&mut self, host: Host) -> Option<Box<Bits>> {
        if self.in_use == self.blocks_max || !self.block_shares.has_room(host) {
            return None;
        }
        self.in_use += 1;
        self.block_shares.add(host, 1);
        Some(self.free.pop().unwrap_or_else(|| Box::new([0; BLOCK_WORDS])))
    }

    fn release(&mut self, host: Host, block: Box<Bits>) {
        self.in_use -= 1;
        self.block_shares.remove(host, 1);
        self.free.push(block);
    }

    /// Whether the host may have another refusal remembered.
    fn takes_refusal(&self, host: Host) -> bool {
        self.exceptions < self.refusals_max && self.exception_shares.has_room(host)
    }

    fn add_exception(&mut self, host: Host) {
        self.exceptions += 1;
        self.exception_shares.add(host, 1);
    }

    fn remove_exceptions(&mut self, host: Host, count: u32) {
        if count > 0 {
            self.exceptions -= count;
            self.exception_shares.remove(host, count.into());
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exception {
    /// Behind the front and yet not delivered.
    Unmarked,
    Refused(u8),
}

/// One place of the ring of blocks.
#[derive(Debug, Default)]
struct Slot {
    block: Option<Box<Bits>>,
    /// Bits set in it; without any, there is no block.
    population: u32,
}

/// What a window has beside its 64 bits.
#[derive(Debug, Default)]
struct Spill {
    /// A power of two of them, at least the window's size.
    slots: Vec<Slot>,
    exceptions: BTreeMap<u64, Exception>,
}

impl Spill {
    /// Bits are addressed by the word: 64 seqs, the first a multiple of 64.
    fn slot(&self, word: u64) -> (usize, usize) {
        let slot = (word >> (BLOCK_OPS_SHIFT - 6)) as usize & (self.slots.len() - 1);
        (slot, word as usize % BLOCK_WORDS)
    }

    fn word(&self, word: u64) -> u64 {
        if self.slots.is_empty() {
            return 0;
        }
        let (slot, index) = self.slot(word);
        self.slots[slot].block.as_ref().map_or(0, |block| block[index])
    }

    /// Clears the bits of `mask` and returns those that were set.
    fn take(&mut self, word: u64, mask: u64, host: Host, pool: &mut BlockPool) -> u64 {
        if self.slots.is_empty() {
            return 0;
        }
        let (slot, index) = self.slot(word);
        let slot = &mut self.slots[slot];
        let Some(block) = &mut slot.block else { return 0 };
        let taken = block[index] & mask;
        block[index] ^= taken;
        slot.population -= taken.count_ones();
        if slot.population == 0
            && let Some(block) = slot.block.take()
        {
            pool.release(host, block);
        }
        taken
    }

    /// Sets the bits of `mask` and returns those that were not set. Without a block to be had, none.
    fn put(&mut self, word: u64, mask: u64, host: Host, pool: &mut BlockPool) -> u64 {
        let (slot, index) = self.slot(word);
        let slot = &mut self.slots[slot];
        if slot.block.is_none() {
            slot.block = pool.acquire(host);
        }
        let Some(block) = &mut slot.block else { return 0 };
        let put = mask & !block[index];
        block[index] |= put;
        slot.population += put.count_ones();
        put
    }
}

/// A window whose flow is at rest; see [`OpWindow::fold`].
#[derive(Debug)]
pub struct Folded {
    base: u64,
    word: u64,
    spill: Option<Box<Spill>>,
    front_ahead: u32,
    next_ahead: u32,
    spilled: u32,
    size: u32,
}

/// See the module. It must be [closed](Self::close): its blocks belong to the pool.
#[derive(Debug)]
pub struct OpWindow {
    base: u64,
    end: u64,
    front: u64,
    /// One more than the highest seq taken or refused, and never below the base.
    next: u64,
    /// The bits of `front..front + 64`.
    word: u64,
    size: u32,
    /// Bits set in blocks.
    spilled: u32,
    spill: Option<Box<Spill>>,
    host: Host,
}

impl OpWindow {
    /// A window of `size` operations (1 to [`WINDOW_OPS_MAX`]) of a host, the first of which is `base` (HELLO).
    #[must_use]
    pub fn new(base: u64, size: u32, host: Host) -> Self {
        let size = size.clamp(1, WINDOW_OPS_MAX);
        let base = base.min(SEQ_END);
        let end = (base + u64::from(size)).min(SEQ_END);
        Self { base, end, front: base, next: base, word: 0, size, spilled: 0, spill: None, host }
    }

    /// Whose it is.
    #[must_use]
    pub const fn host(&self) -> Host {
        self.host
    }

    /// The seq with these low 32 bits that is nearest to the one expected next.
    #[must_use]
    #[inline]
    pub const fn expand(&self, low: u32) -> u64 {
        let distance = low.wrapping_sub(self.next as u32).cast_signed();
        match self.next.checked_add_signed(distance as i64) {
            Some(seq) => seq,
            None => low as u64,
        }
    }

    /// What is known of the operation.
    #[must_use]
    pub fn check(&self, seq: u64) -> Seen {
        if seq < self.base {
            return Seen::Below;
        }
        if seq >= self.end {
            return Seen::Beyond;
        }
        let exception = self.spill.as_ref().and_then(|spill| spill.exceptions.get(&seq));
        match exception {
            Some(Exception::Refused(code)) => Seen::Refused(*code),
            Some(Exception::Unmarked) => Seen::New,
            None if self.is_marked(seq) => Seen::Delivered,
            None => Seen::New,
        }
    }

    fn is_marked(&self, seq: u64) -> bool {
        if seq < self.front {
            return true;
        }
        if seq - self.front < u64::from(INLINE) {
            return self.word >> (seq - self.front) & 1 != 0;
        }
        self.spill.as_ref().is_some_and(|spill| spill.word(seq / 64) >> (seq % 64) & 1 != 0)
    }

    /// Marks the operation as delivered if it is new.
    #[inline]
    pub fn test_and_set(&mut self, seq: u64, pool: &mut BlockPool) -> Seen {
        if self.test_and_set_run(seq, 1, pool) == 1 {
            return Seen::New;
        }
        match self.check(seq) {
            Seen::New => Seen::NoRoom,
            seen => seen,
        }
    }

    /// Marks `count` (at most 64) operations from `first` on as delivered. Bit i is set if `first + i` was new; why one is
    /// not, [`check`](Self::check) tells (where it says `New`, there was [no room](Seen::NoRoom)).
    #[inline]
    pub fn test_and_set_run(&mut self, first: u64, count: u32, pool: &mut BlockPool) -> u64 {
        let count = count.min(INLINE);
        let end = first.wrapping_add(u64::from(count));
        if count > 0 && first >= self.front && first < self.end && end <= self.end && self.spilled == 0 {
            let ahead = (end - self.front).saturating_sub(u64::from(INLINE));
            if ahead <= u64::from(self.word.trailing_ones()) {
                self.word = self.word.checked_shr(ahead as u32).unwrap_or(0);
                self.front += ahead;
                let shift = first - self.front;
                let new = !(self.word >> shift) & ones(count);
                self.word |= new << shift;
                self.next = self.next.max(end);
                return new;
            }
        }
        self.test_and_set_any(first, count, pool)
    }

    #[cold]
    fn test_and_set_any(&mut self, first: u64, count: u32, pool: &mut BlockPool) -> u64 {
        if first >= self.end {
            return 0;
        }
        let end = (first + u64::from(count)).min(self.end);
        let start = first.max(self.base);
        if start >= end {
            return 0;
        }
        let inline = u64::from(INLINE);
        while end > self.front + inline && self.word & 1 == 1 {
            let step = u64::from(self.word.trailing_ones()).min(end - self.front - inline);
            self.advance(step as u32, pool);
        }
        let mut new = 0;
        if start < self.front
            && let Some(spill) = &mut self.spill
            && !spill.exceptions.is_empty()
        {
            for seq in start..end.min(self.front) {
                if spill.exceptions.get(&seq) == Some(&Exception::Unmarked) {
                    spill.exceptions.remove(&seq);
                    pool.remove_exceptions(self.host, 1);
                    new |= 1 << (seq - first);
                }
            }
        }
        let (from, to) = (start.max(self.front), end.min(self.front + inline));
        if from < to {
            let shift = from - self.front;
            let fresh = !(self.word >> shift) & ones((to - from) as u32);
            self.word |= fresh << shift;
            new |= fresh << (from - first);
        }
        let from = start.max(self.front + inline);
        if from < end {
            new |= self.put(from, (end - from) as u32, pool) << (from - first);
        }
        if new != 0 {
            self.next = self.next.max(first + u64::from(INLINE - new.leading_zeros()));
        }
        new
    }

    /// Moves the front over `step` (1 to 64) operations; bits come from the blocks into the word.
    fn advance(&mut self, step: u32, pool: &mut BlockPool) {
        self.word = self.word.checked_shr(step).unwrap_or(0);
        if self.spilled > 0
            && let Some(spill) = &mut self.spill
        {
            let from = self.front + u64::from(INLINE);
            let (word, shift) = (from / 64, (from % 64) as u32);
            let mut taken = spill.take(word, ones(step) << shift, self.host, pool) >> shift;
            if shift + step > 64 {
                let rest = ones(step) >> (64 - shift);
                taken |= spill.take(word + 1, rest, self.host, pool) << (64 - shift);
            }
            self.spilled -= taken.count_ones();
            self.word |= taken << (INLINE - step);
        }
        self.front += u64::from(step);
    }

    /// Marks `count` (1 to 64) operations from `from` on in blocks; returns which were not marked.
    fn put(&mut self, from: u64, count: u32, pool: &mut BlockPool) -> u64 {
        let slots = (self.size as usize).div_ceil(1 << BLOCK_OPS_SHIFT).next_power_of_two();
        let spill = self.spill.get_or_insert_default();
        if spill.slots.is_empty() {
            spill.slots.resize_with(slots, Slot::default);
        }
        let (word, shift) = (from / 64, (from % 64) as u32);
        let mut put = spill.put(word, ones(count) << shift, self.host, pool) >> shift;
        if shift + count > 64 {
            let rest = ones(count) >> (64 - shift);
            put |= spill.put(word + 1, rest, self.host, pool) << (64 - shift);
        }
        self.spilled += put.count_ones();
        put
    }

    /// Takes the mark away: the operation has not been delivered after all, and is new when it comes again.
    pub fn unmark(&mut self, seq: u64, pool: &mut BlockPool) {
        if seq < self.base || seq >= self.end || !self.is_marked(seq) {
            return;
        }
        if let Some(spill) = &mut self.spill
            && spill.exceptions.remove(&seq).is_some()
        {
            pool.remove_exceptions(self.host, 1);
        }
        if seq < self.front {
            self.spill.get_or_insert_default().exceptions.insert(seq, Exception::Unmarked);
            pool.add_exception(self.host);
        } else if seq - self.front < u64::from(INLINE) {
            self.word &= !(1 << (seq - self.front));
        } else if let Some(spill) = &mut self.spill {
            let bit = 1 << (seq % 64);
            self.spilled -= spill.take(seq / 64, bit, self.host, pool).count_ones();
        }
    }

    /// Remembers that the operation was refused for good, whether it was marked or not. False: there is no room for that
    /// (or the operation is outside the window), and nothing has changed.
    #[must_use]
    pub fn refuse(&mut self, seq: u64, code: u8, pool: &mut BlockPool) -> bool {
        if seq < self.base || seq >= self.end {
            return false;
        }
        let known = self.spill.as_ref().is_some_and(|spill| spill.exceptions.contains_key(&seq));
        if !known && !pool.takes_refusal(self.host) {
            return false;
        }
        if !self.is_marked(seq) && self.test_and_set(seq, pool) != Seen::New {
            return false;
        }
        let exceptions = &mut self.spill.get_or_insert_default().exceptions;
        if exceptions.insert(seq, Exception::Refused(code)).is_none() {
            pool.add_exception(self.host);
        }
        true
    }

    /// The sender will send nothing below `low` again: moves the base, only ever forward.
    ///
    /// Not beyond what it has credit for; but beyond the highest seen, it may: what was lost and then expired at the
    /// sender is never seen, and if it were waited for, a lost window would be the last.
    pub fn set_low(&mut self, low: u64, pool: &mut BlockPool) {
        let low = low.min(self.end);
        if low <= self.base {
            return;
        }
        self.base = low;
        self.end = (low + u64::from(self.size)).min(SEQ_END);
        self.next = self.next.max(low);
        while self.front < low {
            if self.spilled == 0 && low - self.front >= u64::from(INLINE) {
                (self.front, self.word) = (low, 0);
            } else {
                let step = u64::from(INLINE).min(low - self.front);
                self.advance(step as u32, pool);
            }
        }
        if let Some(spill) = &mut self.spill {
            let mut gone = 0;
            while spill.exceptions.first_key_value().is_some_and(|(&seq, _)| seq < low) {
                spill.exceptions.pop_first();
                gone += 1;
            }
            pool.remove_exceptions(self.host, gone);
            if self.is_idle() {
                self.spill = None;
            }
        }
    }

    /// The lowest seq that has a meaning.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The highest seq the sender has credit for.
    #[must_use]
    pub const fn limit(&self) -> u64 {
        self.end.saturating_sub(1)
    }

    /// The highest seq taken or refused, or the one before the base if that is higher. `None`: neither.
    #[must_use]
    pub const fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// Nothing is remembered but the base.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.front == self.base
            && self.word == 0
            && self.spilled == 0
            && self.spill.as_ref().is_none_or(|spill| spill.exceptions.is_empty())
    }

    /// The same in less memory, for a pause (R-FLOW-14). It has to be unfolded to be closed.
    #[must_use]
    pub fn fold(self) -> Folded {
        let Self { base, front, next, word, size, spilled, spill, .. } = self;
        // Neither is further ahead than the window is long.
        let [front_ahead, next_ahead] = [front, next].map(|seq| (seq - base) as u32);
        let spill = spill.filter(|spill| spilled > 0 || !spill.exceptions.is_empty());
        Folded { base, word, spill, front_ahead, next_ahead, spilled, size }
    }

    /// After the pause, of the same host.
    #[must_use]
    pub fn unfold(folded: Folded, host: Host) -> Self {
        let Folded { base, word, spill, front_ahead, next_ahead, spilled, size } = folded;
        let (front, next) = (base + u64::from(front_ahead), base + u64::from(next_ahead));
        Self { front, next, word, spilled, spill, ..Self::new(base, size, host) }
    }

    /// Gives back what the pool lent.
    pub fn close(self, pool: &mut BlockPool) {
        let Some(spill) = self.spill else { return };
        pool.remove_exceptions(self.host, spill.exceptions.len() as u32);
        for mut block in spill.slots.into_iter().filter_map(|slot| slot.block) {
            block.fill(0);
            pool.release(self.host, block);
        }
    }
}

/// `count` (1 to 64) low bits.
const fn ones(count: u32) -> u64 {
    u64::MAX >> (u64::BITS - count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Seed;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    fn host(number: u8) -> Host {
        Host::from(IpAddr::from([10, 0, 0, number]))
    }

    fn pool_of(blocks_max: u32, refusals_max: u32) -> BlockPool {
        BlockPool::new(blocks_max, refusals_max, &Seed::from_number(1).hasher())
    }

    fn pool() -> BlockPool {
        pool_of(1_000, 1_000_000)
    }

    fn opened(base: u64, size: u32) -> OpWindow {
        OpWindow::new(base, size, host(1))
    }

    /// Sets, and nothing else.
    struct Model {
        base: u64,
        size: u64,
        next: u64,
        delivered: BTreeSet<u64>,
        refused: BTreeMap<u64, u8>,
    }

    impl Model {
        fn new(base: u64, size: u32) -> Self {
            let (delivered, refused) = (BTreeSet::new(), BTreeMap::new());
            Self { base, size: u64::from(size), next: base, delivered, refused }
        }

        fn end(&self) -> u64 {
            (self.base + self.size).min(SEQ_END)
        }

        fn check(&self, seq: u64) -> Seen {
            match self.refused.get(&seq) {
                _ if seq < self.base => Seen::Below,
                _ if seq >= self.end() => Seen::Beyond,
                Some(code) => Seen::Refused(*code),
                None if self.delivered.contains(&seq) => Seen::Delivered,
                None => Seen::New,
            }
        }

        fn test_and_set(&mut self, seq: u64) -> Seen {
            let seen = self.check(seq);
            if seen == Seen::New {
                self.delivered.insert(seq);
                self.next = self.next.max(seq + 1);
            }
            seen
        }

        fn refuse(&mut self, seq: u64, code: u8) -> bool {
            let inside = (self.base..self.end()).contains(&seq);
            if inside {
                self.delivered.remove(&seq);
                self.refused.insert(seq, code);
                self.next = self.next.max(seq + 1);
            }
            inside
        }

        fn unmark(&mut self, seq: u64) {
            if seq >= self.base {
                self.delivered.remove(&seq);
                self.refused.remove(&seq);
            }
        }

        fn set_low(&mut self, low: u64) {
            self.base = self.base.max(low.min(self.end()));
            self.next = self.next.max(self.base);
            self.delivered = self.delivered.split_off(&self.base);
            self.refused = self.refused.split_off(&self.base);
        }

        fn is_idle(&self) -> bool {
            self.delivered.is_empty() && self.refused.is_empty()
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        /// Seqs are relative to the one expected next, or (true) to the base.
        Set(bool, i64),
        Run(bool, i64, u32),
        Unmark(bool, i64),
        Refuse(bool, i64, u8),
        Low(bool, i64),
    }

    fn op(span: i64) -> impl Strategy<Value = Op> {
        let at = move || (any::<bool>(), prop_oneof![-70i64..70, -span..span]);
        prop_oneof![
            4 => (1u32..65).prop_map(|count| Op::Run(false, 0, count)),
            3 => (at(), 0u32..70).prop_map(|((base, at), count)| Op::Run(base, at, count)),
            2 => at().prop_map(|(base, at)| Op::Set(base, at)),
            1 => at().prop_map(|(base, at)| Op::Unmark(base, at)),
            1 => (at(), any::<u8>()).prop_map(|((base, at), code)| Op::Refuse(base, at, code)),
            1 => at().prop_map(|(base, at)| Op::Low(base, at)),
        ]
    }

    fn base() -> impl Strategy<Value = u64> {
        prop_oneof![
            Just(0),
            0u64..300,
            (0u64..70_000).prop_map(|n| (1 << 15) - 1_000 + n),
            (0u64..70_000).prop_map(|n| (1 << 32) - n),
            (0u64..70_000).prop_map(|n| (1 << 62) - n),
            (0u64..70_000).prop_map(|n| SEQ_END - n),
            (0u64..70_000).prop_map(|n| u64::MAX - n),
        ]
    }

    fn agree(base: u64, size: u32, ops: Vec<Op>) -> Result<(), TestCaseError> {
        let mut pool = pool();
        let mut window = opened(base, size);
        let mut model = Model::new(base.min(SEQ_END), size);
        for op in ops {
            let (next, low) = (model.next, model.base);
            let seq = |from_base, at| if from_base { low } else { next }.saturating_add_signed(at);
            match op {
                Op::Set(from_base, at) => {
                    let seq = seq(from_base, at);
                    prop_assert_eq!(window.test_and_set(seq, &mut pool), model.test_and_set(seq));
                    prop_assert_eq!(window.check(seq), model.check(seq));
                }
                Op::Run(from_base, at, count) => {
                    let first = seq(from_base, at);
                    let mut expected = 0;
                    for index in 0..u64::from(count.min(64)) {
                        let new = first.checked_add(index).map(|seq| model.test_and_set(seq));
                        expected |= u64::from(new == Some(Seen::New)) << index;
                    }
                    prop_assert_eq!(window.test_and_set_run(first, count, &mut pool), expected);
                }
                Op::Unmark(from_base, at) => {
                    let seq = seq(from_base, at);
                    window.unmark(seq, &mut pool);
                    model.unmark(seq);
                    prop_assert_eq!(window.check(seq), model.check(seq));
                }
                Op::Refuse(from_base, at, code) => {
                    let seq = seq(from_base, at);
                    prop_assert_eq!(window.refuse(seq, code, &mut pool), model.refuse(seq, code));
                    prop_assert_eq!(window.check(seq), model.check(seq));
                }
                Op::Low(from_base, at) => {
                    let seq = seq(from_base, at);
                    window.set_low(seq, &mut pool);
                    model.set_low(seq);
                }
            }
            prop_assert_eq!(window.base(), model.base);
            prop_assert_eq!(window.limit(), model.end().saturating_sub(1));
            prop_assert_eq!(window.highest(), model.next.checked_sub(1));
            let spill = window.spill.as_deref();
            let slots = spill.map_or(&[][..], |spill| &spill.slots);
            let bits: u32 = slots.iter().map(|slot| slot.population).sum();
            let blocks = slots.iter().filter(|slot| slot.block.is_some()).count();
            prop_assert_eq!(window.spilled, bits);
            prop_assert_eq!(pool.blocks_in_use() as usize, blocks);
            prop_assert_eq!(pool.exceptions() as usize, spill.map_or(0, |spill| spill.exceptions.len()));
            prop_assert!(slots.iter().all(|slot| slot.block.is_some() == (slot.population > 0)));
            prop_assert!(pool.free.iter().all(|block| block.iter().all(|&word| word == 0)));
        }
        let edges = [0, 1, 62, 63, 64, 65, 127, 128, u64::from(size) - 1, u64::from(size)];
        for seq in edges.map(|at| model.base.saturating_add(at)) {
            prop_assert_eq!(window.check(seq), model.check(seq));
        }
        for seq in model.delivered.iter().chain(model.refused.keys()) {
            prop_assert_eq!(window.check(*seq), model.check(*seq));
        }
        window.set_low(model.next, &mut pool);
        model.set_low(model.next);
        prop_assert!(window.is_idle() && model.is_idle() && window.spill.is_none());
        prop_assert_eq!((pool.blocks_in_use(), pool.exceptions()), (0, 0));
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]
        #[test]
        fn agrees_with_sets(base in base(), ops in prop::collection::vec(op(70_000), 1..150)) {
            agree(base, 65_536, ops)?;
        }

        #[test]
        fn a_small_window_agrees_with_sets(
            base in base(),
            size in prop_oneof![1u32..70, Just(1_024), 32_700u32..32_800],
            ops in prop::collection::vec(op(300), 1..150),
        ) {
            agree(base, size, ops)?;
        }

        #[test]
        fn expand_finds_the_nearest(next in base(), distance in any::<i32>()) {
            let next = next.min(SEQ_END);
            let window = opened(next, 1);
            // Nothing is below 0; a seq that far back is not one the sender can mean.
            if let Some(seq) = next.checked_add_signed(i64::from(distance)) {
                prop_assert_eq!(window.expand(seq as u32), seq);
            }
        }
    }

    /// All that three runs can do at the edge of a window, of the 64 bits and of a block, in every order.
    #[test]
    fn three_runs_of_any_place_and_length_agree_with_sets() {
        let mut pool = pool();
        // Runs that begin around the 64 bits of the flow; the window ends within the last of them.
        let starts = [0, 1, 31, 63, 64, 65, 100, 128];
        let counts = [1, 2, 33, 63, 64];
        let runs: Vec<(u64, u32)> =
            starts.iter().flat_map(|start| counts.iter().map(|count| (*start, *count))).collect();
        for base in [0, (1 << 15) - 100, (1 << 32) - 70, SEQ_END - 150] {
            for (first, second) in runs.iter().flat_map(|run| runs.iter().map(move |other| (run, other))) {
                for third in &runs {
                    let mut window = opened(base, 160);
                    let mut delivered = [false; 160];
                    let end = window.end - base;
                    for (start, count) in [first, second, third] {
                        let mut expected = 0;
                        for index in 0..u64::from(*count) {
                            let at = start + index;
                            if at < end && !delivered[at as usize] {
                                delivered[at as usize] = true;
                                expected |= 1 << index;
                            }
                        }
                        assert_eq!(window.test_and_set_run(base + start, *count, &mut pool), expected);
                    }
                    window.close(&mut pool);
                }
            }
        }
        assert_eq!(pool.blocks_in_use(), 0);
    }

    /// All that four steps can do at the edges of small windows, and at the end of 32 bits and of all numbers.
    #[test]
    fn every_sequence_of_four_steps_agrees_with_sets() {
        let steps = [
            Op::Run(false, 0, 1),
            Op::Run(false, 1, 2),
            Op::Run(false, -2, 64),
            Op::Set(true, 0),
            Op::Set(true, 1),
            Op::Unmark(false, -1),
            Op::Unmark(true, 0),
            Op::Refuse(false, 0, 7),
            Op::Refuse(true, 1, 8),
            Op::Low(true, 1),
            Op::Low(false, 0),
        ];
        let places =
            [0, (1 << 32) - 2, SEQ_END - 3].into_iter().flat_map(|base| [1, 3, 66].map(|size| (base, size)));
        for (base, size) in places {
            for sequence in 0..steps.len().pow(4) {
                let digit = |place| steps[sequence / steps.len().pow(place) % steps.len()].clone();
                agree(base, size, (0..4).map(digit).collect()).unwrap();
            }
        }
    }

    /// Around both ends of what the low bits can tell: the nearest is found, one further is taken for its twin.
    #[test]
    fn expand_finds_every_number_that_is_near_enough() {
        let (near, circle) = (1_i64 << 31, 1_i64 << 32);
        for next in (0..40).chain(near - 20..near + 20).chain(circle - 20..circle + 20) {
            let window = opened(next as u64, 1);
            for distance in (-near - 3..-near + 3).chain(-40..40).chain(near - 3..near + 3) {
                let Ok(seq) = u64::try_from(next + distance) else { continue };
                let nearest = match distance {
                    _ if distance >= near => next + distance - circle,
                    _ if distance < -near => next + distance + circle,
                    _ => next + distance,
                };
                // Nothing is below 0.
                let expected = u64::try_from(nearest).unwrap_or(u64::from(seq as u32));
                assert_eq!(window.expand(seq as u32), expected, "{next} {distance}");
            }
        }
    }

    #[test]
    fn expand_around_the_wrap_of_the_low_bits() {
        let mut pool = pool();
        for base in [0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62) + 5, SEQ_END - 1] {
            let mut window = opened(base, 1_024);
            assert_eq!(window.expand(base as u32), base);
            assert_eq!(window.expand((base + 1) as u32), base + 1);
            assert_eq!(window.expand((base + (1 << 31) - 1) as u32), base + (1 << 31) - 1);
            if let Some(seq) = base.checked_sub(1 << 31) {
                assert_eq!(window.expand(seq as u32), seq);
            }
            let _ = window.test_and_set_run(base, 3, &mut pool);
            assert_eq!(window.expand(base as u32), base, "it is relative to the next, in both directions");
        }
        assert_eq!(opened(5, 1).expand(u32::MAX), u64::from(u32::MAX), "nothing is below 0");
    }

    #[test]
    fn in_order_nothing_is_on_the_heap_and_only_low_moves_the_base() {
        let mut pool = pool_of(0, 0);
        let mut window = opened(100, 65_536);
        let mut first = 100;
        while first < 60_000 {
            assert_eq!(window.test_and_set_run(first, 20, &mut pool), ones(20));
            first += 20;
        }
        assert!(window.spill.is_none());
        assert_eq!((window.base(), window.limit()), (100, 65_635));
        assert_eq!(window.check(99), Seen::Below);
        assert_eq!(window.check(100), Seen::Delivered);
        assert_eq!(window.test_and_set(65_636, &mut pool), Seen::Beyond);
        assert!(!window.is_idle());
        window.set_low(first, &mut pool);
        assert!(window.is_idle());
        assert_eq!(window.check(100), Seen::Below);
        assert_eq!(window.limit(), first + 65_535);
        window.set_low(5, &mut pool);
        assert_eq!(window.base(), first);
    }

    /// A late retransmission is new as long as the sender may send it, whatever came after it.
    #[test]
    fn a_gap_stays_open_to_the_end_of_the_window() {
        let mut pool = pool();
        let mut window = opened(0, 65_536);
        for first in (1..65_536).step_by(64) {
            let _ = window.test_and_set_run(first, 64, &mut pool);
        }
        assert_eq!(pool.blocks_in_use(), 2);
        assert_eq!(window.test_and_set(65_535, &mut pool), Seen::Delivered);
        assert_eq!(window.test_and_set(65_536, &mut pool), Seen::Beyond);
        assert_eq!(window.test_and_set(0, &mut pool), Seen::New);
        assert_eq!(window.test_and_set(0, &mut pool), Seen::Delivered);
        window.set_low(1, &mut pool);
        assert_eq!(window.test_and_set(65_536, &mut pool), Seen::New);
        assert_eq!(pool.blocks_in_use(), 0, "the front has passed all of them");
    }

    #[test]
    fn without_a_block_nothing_is_marked_and_the_gap_can_still_close() {
        let mut pool = pool_of(1, 0);
        let mut greedy = opened(0, 1_024);
        assert_eq!(greedy.test_and_set(64, &mut pool), Seen::New);
        let mut window = opened(0, 65_536);
        assert_eq!(window.test_and_set(64, &mut pool), Seen::NoRoom);
        assert_eq!(window.highest(), None, "it may not come again");
        assert_eq!(window.test_and_set_run(60, 8, &mut pool), 0b1111);
        assert_eq!(window.highest(), Some(63));
        assert_eq!(window.test_and_set_run(0, 60, &mut pool), ones(60));
        assert_eq!(window.test_and_set(64, &mut pool), Seen::New);
        greedy.close(&mut pool);
        assert_eq!(window.test_and_set(300, &mut pool), Seen::New, "what was given back");
        window.close(&mut pool);
        assert_eq!(pool.blocks_in_use(), 0);
        let mut fresh = opened(0, 1_024);
        assert_eq!(fresh.test_and_set(310, &mut pool), Seen::New);
        assert_eq!(fresh.test_and_set(300, &mut pool), Seen::New, "blocks are zero when they come back");
    }

    /// WIRE_V2 section 6, "whole granted flight lost": the sender's deadline passes, and it goes on.
    #[test]
    fn a_window_that_was_lost_and_expired_is_not_the_last() {
        let mut pool = pool();
        let mut window = opened(0, 1_024);
        window.set_low(1_024, &mut pool);
        assert_eq!((window.base(), window.limit()), (1_024, 2_047));
        assert_eq!(window.test_and_set(1_024, &mut pool), Seen::New);
        window.set_low(u64::MAX, &mut pool);
        assert_eq!(window.base(), 2_048, "not beyond what was granted");
        assert_eq!(window.highest(), Some(2_047));
    }

    #[test]
    fn refusals_are_final_bounded_and_forgotten_below_the_base() {
        let mut pool = pool_of(4, 2);
        let mut window = opened(0, 1_024);
        let _ = window.test_and_set_run(0, 10, &mut pool);
        assert!(window.refuse(3, 0x10, &mut pool));
        assert!(window.refuse(3, 0x11, &mut pool), "the code may change");
        assert!(window.refuse(500, 0x12, &mut pool), "it need not be marked");
        assert!(!window.refuse(4, 0x10, &mut pool), "no room for a third");
        assert!(!window.refuse(501, 0x10, &mut pool));
        assert!(!window.refuse(1_024, 0x10, &mut pool));
        assert_eq!(window.check(4), Seen::Delivered);
        assert_eq!(window.check(501), Seen::New);
        assert_eq!(window.test_and_set(3, &mut pool), Seen::Refused(0x11));
        assert_eq!(window.test_and_set_run(0, 10, &mut pool), 0);
        assert_eq!(window.test_and_set(500, &mut pool), Seen::Refused(0x12));
        window.set_low(4, &mut pool);
        assert_eq!(window.check(3), Seen::Below);
        assert_eq!(pool.exceptions(), 1);
        window.close(&mut pool);
        assert_eq!((pool.exceptions(), pool.blocks_in_use()), (0, 0));
    }

    /// R-SHARE-1: of 65,536 refusals, and of all blocks, by however many of its flows.
    #[test]
    fn one_host_leaves_refusals_and_blocks_to_others() {
        let mut pool = pool_of(8, 65_536);
        let mut greedy: Vec<OpWindow> = (0..8).map(|_| opened(0, 65_536)).collect();
        let remembered = (0..65_536).filter(|&seq| greedy[0].refuse(seq, 0x10, &mut pool)).count();
        assert_eq!(remembered, 49_152);
        assert!(!greedy[1].refuse(0, 0x10, &mut pool), "the same host");
        // A gap each.
        let marked = |window: &mut OpWindow, pool: &mut BlockPool| window.test_and_set(64, pool) == Seen::New;
        let have =
            greedy[1..].iter_mut().filter_map(|window| marked(window, &mut pool).then_some(())).count();
        assert_eq!((have, pool.blocks_in_use()), (6, 6));
        let mut other = OpWindow::new(0, 65_536, host(2));
        assert!(other.refuse(7, 0x10, &mut pool));
        assert_eq!(other.check(7), Seen::Refused(0x10));
        assert!(marked(&mut other, &mut pool));
        // What is given back may be had again, and nothing is left when all have ended.
        greedy[0].set_low(1, &mut pool);
        assert!(greedy[1].refuse(0, 0x10, &mut pool) && !greedy[1].refuse(1, 0x10, &mut pool));
        greedy.push(other);
        greedy.into_iter().for_each(|window| window.close(&mut pool));
        assert_eq!((pool.exceptions(), pool.blocks_in_use()), (0, 0));
        assert_eq!((pool.exception_shares.hosts(), pool.block_shares.hosts()), (0, 0));
    }

    #[test]
    fn all_of_the_last_run_can_be_unmarked_at_no_cost() {
        let mut pool = pool_of(0, 0);
        for count in 1..=64u32 {
            let mut window = opened(0, 65_536);
            for run in 0..100 {
                let first = run * u64::from(count);
                assert_eq!(window.test_and_set_run(first, count, &mut pool), ones(count));
                for seq in first..first + u64::from(count) {
                    window.unmark(seq, &mut pool);
                    assert_eq!(window.check(seq), Seen::New);
                }
                assert_eq!(window.test_and_set_run(first, count, &mut pool), ones(count));
            }
            assert!(window.spill.is_none());
        }
    }
}
