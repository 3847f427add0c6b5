//! [`Bitmap`]: which message numbers were seen. One bit each, in blocks, so that it grows without moving.

const BLOCK_BITS: u64 = 1 << 19;
const BLOCK_WORDS: usize = (BLOCK_BITS / 64) as usize;
/// Numbers beyond this are not ours: they would only serve to make the table of blocks large.
pub const NUMBER_MAX: u64 = (1 << 36) - 1;

type Block = Box<[u64; BLOCK_WORDS]>;

/// A set of message numbers up to [`NUMBER_MAX`]. Inserting is one load and one store, but for a new block of 64 KiB every
/// 524,288 numbers; those come from a stock taken, and touched, in advance as long as it lasts.
#[derive(Debug, Default)]
pub struct Bitmap {
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
        Self { blocks: Vec::with_capacity(1_024), block_count: 0, stock }
    }

    /// Adds `number`; false if it was there, or if it is beyond [`NUMBER_MAX`].
    #[inline]
    pub fn insert(&mut self, number: u64) -> bool {
        match self.insert_within(number) {
            Some(new) => new,
            None => self.insert_beyond(number),
        }
    }

    /// Adds `number` if that takes no memory; `None`: it would. Otherwise as [`insert`](Self::insert).
    #[inline]
    pub fn insert_within(&mut self, number: u64) -> Option<bool> {
        let block = self.blocks.get_mut((number / BLOCK_BITS) as usize)?.as_mut()?;
        Some(set(block, number))
    }

    #[cold]
    fn insert_beyond(&mut self, number: u64) -> bool {
        number <= NUMBER_MAX && set(self.add_block((number / BLOCK_BITS) as usize), number)
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
        for (index, theirs) in other.blocks.iter().enumerate() {
            let Some(theirs) = theirs else { continue };
            let ours = match self.blocks.get_mut(index) {
                Some(Some(block)) => block,
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
        let blocks = self.blocks.iter().enumerate().filter_map(|(index, ours)| Some((index, ours.as_ref()?)));
        blocks
            .map(|(index, ours)| match other.blocks.get(index) {
                Some(Some(theirs)) => ours
                    .iter()
                    .zip(theirs.iter())
                    .map(|(ours, theirs)| u64::from((ours & !theirs).count_ones()))
                    .sum(),
                _ => ours.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(),
            })
            .sum()
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
    fn a_hostile_number_costs_nothing() {
        let mut bitmap = Bitmap::default();
        assert!(!bitmap.insert(NUMBER_MAX + 1));
        assert!(!bitmap.insert(u64::MAX));
        assert_eq!((bitmap.count(), bitmap.blocks.len()), (0, 0));
        assert!(bitmap.insert(0) && !bitmap.insert(0));
    }
}
