//! [`Bitmap`]: which message numbers were seen. One bit each, in blocks, so that it grows without moving.

const BLOCK_BITS: u64 = 1 << 19;
const BLOCK_WORDS: usize = (BLOCK_BITS / 64) as usize;
/// Numbers beyond this are not ours: they would only serve to make the table of blocks large.
pub const NUMBER_MAX: u64 = (1 << 36) - 1;

type Block = Box<[u64; BLOCK_WORDS]>;

/// A set of message numbers up to [`NUMBER_MAX`]. Inserting is one load and one store, but for a new block of 64 KiB every
/// 524,288 numbers; those come from a stock taken, and touched, in advance as long as it lasts. The block of the last
/// number is at hand: numbers come nearly in order.
#[derive(Debug, Default)]
pub struct Bitmap {
    /// The block at hand, and its index; its place in `blocks` is empty meanwhile.
    hand: Option<(u64, Block)>,
    blocks: Vec<Option<Block>>,
    block_count: usize,
    stock: Vec<Block>,
}

impl Bitmap {
    /// An empty set with blocks in stock for `numbers` numbers.
    pub fn with_stock(numbers: u64) -> Self {
        let stock = (0..numbers.div_ceil(BLOCK_BITS))
            .map(|_| {
                // Writing makes the pages real now instead of during the measurement.
                let mut block = new_block(1);
                std::hint::black_box(&mut block).fill(0);
                block
            })
            .collect();
        Self { blocks: Vec::with_capacity(1_024), stock, ..Self::default() }
    }

    /// Adds `number`; false if it was there, or if it is beyond [`NUMBER_MAX`].
    #[inline]
    pub fn insert(&mut self, number: u64) -> bool {
        match self.insert_at_hand(number) {
            Some(new) => new,
            None => self.insert_anywhere(number),
        }
    }

    /// Adds `count` numbers from `first` on.
    pub fn insert_run(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count).min(NUMBER_MAX + 1);
        let mut number = first;
        while number < end {
            // One by one there is nothing to gain: this brings the block to hand.
            self.insert(number);
            let in_word = (64 - number % 64).min(end - number);
            if let Some((index, block)) = &mut self.hand
                && *index == number / BLOCK_BITS
            {
                block[(number % BLOCK_BITS / 64) as usize] |= u64::MAX >> (64 - in_word) << (number % 64);
            } else {
                (number + 1..number + in_word).for_each(|number| _ = self.insert(number));
            }
            number += in_word;
        }
    }

    /// Adds `number` if its block is at hand, as it nearly always is; `None`: it is not. Otherwise as
    /// [`insert`](Self::insert).
    #[inline]
    pub fn insert_at_hand(&mut self, number: u64) -> Option<bool> {
        match &mut self.hand {
            Some((index, block)) if *index == number / BLOCK_BITS => Some(set(block, number)),
            _ => None,
        }
    }

    /// Adds `number` if that takes no memory; `None`: it would. Otherwise as [`insert`](Self::insert).
    #[cold]
    pub fn insert_within(&mut self, number: u64) -> Option<bool> {
        self.take_in_hand(number / BLOCK_BITS);
        self.insert_at_hand(number)
    }

    #[cold]
    fn insert_anywhere(&mut self, number: u64) -> bool {
        if number > NUMBER_MAX {
            return false;
        }
        self.insert_within(number)
            .unwrap_or_else(|| set(self.add_block((number / BLOCK_BITS) as usize), number))
    }

    /// Takes block `index` in hand, if there is one.
    fn take_in_hand(&mut self, index: u64) {
        let place = usize::try_from(index).ok().and_then(|index| self.blocks.get_mut(index));
        let Some(block) = place.and_then(Option::take) else { return };
        if let Some((index, block)) = self.hand.replace((index, block)) {
            self.blocks[index as usize] = Some(block);
        }
    }

    fn block(&self, index: usize) -> Option<&Block> {
        match &self.hand {
            Some((at_hand, block)) if *at_hand == index as u64 => Some(block),
            _ => self.blocks.get(index)?.as_ref(),
        }
    }

    /// Blocks taken, of 64 KiB each.
    pub const fn block_count(&self) -> usize {
        self.block_count
    }

    #[cold]
    fn add_block(&mut self, index: usize) -> &mut Block {
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        let block = self.stock.pop().unwrap_or_else(|| new_block(0));
        self.block_count += 1;
        self.blocks[index].insert(block)
    }

    /// How many numbers it holds.
    #[cfg(test)]
    pub fn count(&self) -> u64 {
        self.missing_in(&Self::default())
    }

    /// Adds all numbers of `other`; returns how many were there already.
    pub fn merge(&mut self, other: &Self) -> u64 {
        let mut twice = 0;
        for (index, theirs) in other.all_blocks() {
            self.take_in_hand(index as u64);
            let ours = match &mut self.hand {
                Some((at_hand, block)) if *at_hand == index as u64 => block,
                _ => self.add_block(index),
            };
            for (ours, theirs) in ours.iter_mut().zip(theirs.iter()) {
                twice += u64::from((*ours & theirs).count_ones());
                *ours |= theirs;
            }
        }
        twice
    }

    /// How many numbers of it are not in `other`.
    pub fn missing_in(&self, other: &Self) -> u64 {
        self.all_blocks()
            .map(|(index, ours)| match other.block(index) {
                Some(theirs) => ours
                    .iter()
                    .zip(theirs.iter())
                    .map(|(ours, theirs)| u64::from((ours & !theirs).count_ones()))
                    .sum(),
                None => ours.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(),
            })
            .sum()
    }

    fn all_blocks(&self) -> impl Iterator<Item = (usize, &Block)> {
        (0..self.blocks.len()).filter_map(|index| Some((index, self.block(index)?)))
    }
}

/// Sets the bit of `number`; whether it was not set.
#[inline]
fn set(block: &mut Block, number: u64) -> bool {
    let word = &mut block[(number % BLOCK_BITS / 64) as usize];
    let bit = 1 << (number % 64);
    let new = *word & bit == 0;
    *word |= bit;
    new
}

fn new_block(word: u64) -> Block {
    #[expect(clippy::expect_used, reason = "the vector has just this length")]
    vec![word; BLOCK_WORDS].into_boxed_slice().try_into().expect("a block's length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Numbers that fall on block borders, close together and far apart.
    fn numbers(seed: u64) -> impl Iterator<Item = u64> {
        let mut state = seed;
        (0..20_000).map(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match state >> 62 {
                0 => (state >> 33) % 5_000,
                1 => BLOCK_BITS * ((state >> 33) % 4) + (state >> 40) % 3,
                2 => BLOCK_BITS - 1 + (state >> 33) % 100,
                _ => (state >> 33) % (BLOCK_BITS * 40),
            }
        })
    }

    #[test]
    fn as_a_set() {
        let (mut a, mut b) = (Bitmap::with_stock(1_000_000), Bitmap::default());
        let (mut model_a, mut model_b) = (BTreeSet::new(), BTreeSet::new());
        for number in numbers(1) {
            assert_eq!(a.insert(number), model_a.insert(number), "{number}");
        }
        for number in numbers(2) {
            assert_eq!(b.insert(number), model_b.insert(number), "{number}");
        }
        assert_eq!(a.count(), model_a.len() as u64);
        assert_eq!(a.missing_in(&b), model_a.difference(&model_b).count() as u64);
        assert_eq!(b.missing_in(&a), model_b.difference(&model_a).count() as u64);
        assert_eq!(a.missing_in(&a), 0);
        assert_eq!(a.missing_in(&Bitmap::default()), a.count());
        assert_eq!(a.merge(&b), model_a.intersection(&model_b).count() as u64);
        assert_eq!(a.count(), model_a.union(&model_b).count() as u64);
        assert_eq!(b.missing_in(&a), 0);
    }

    #[test]
    fn a_run_is_its_numbers_one_by_one() {
        for first in [0, 1, 63, 64, BLOCK_BITS - 70, BLOCK_BITS - 1, 3 * BLOCK_BITS + 5, NUMBER_MAX - 3] {
            for count in [0, 1, 2, 63, 64, 65, 200] {
                let (mut run, mut singly) = (Bitmap::default(), Bitmap::default());
                run.insert_run(first, count);
                (first..first + count).for_each(|number| _ = singly.insert(number));
                assert_eq!(run.count(), singly.count(), "{first} {count}");
                assert_eq!((run.missing_in(&singly), singly.missing_in(&run)), (0, 0), "{first} {count}");
            }
        }
    }

    #[test]
    fn a_hostile_number_costs_nothing() {
        let mut bitmap = Bitmap::default();
        assert!(!bitmap.insert(NUMBER_MAX + 1));
        assert!(!bitmap.insert(u64::MAX));
        assert_eq!((bitmap.count(), bitmap.blocks.len()), (0, 0));
        assert!(bitmap.insert(0) && !bitmap.insert(0));
    }
}
