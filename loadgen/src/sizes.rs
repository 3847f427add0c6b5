//! How long messages are: all the same, at random, or as recorded. The length of a message follows from its number, so both
//! ends know it, and a run with the same `--seed` has the same messages.

use crate::size::Size;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, Zipf};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Of random lengths so many are drawn, and then taken in random order.
const DRAWS: usize = 1 << 16;
/// A file with more is no trace that fits into memory.
const LINES_MAX: usize = 100_000_000;
/// The longest message there is.
const BYTES_MAX: u64 = 1 << 30;
const EXPONENT_MAX: f64 = 20.0;

/// `--size`, as typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// All the same.
    Fixed(Size),
    /// Each from the one to the other as often as the others.
    Uniform(Size, Size),
    /// The n-th shortest n^exponent times more rarely than the shortest.
    Zipf {
        /// The shortest, and the most frequent.
        min: Size,
        /// The longest.
        max: Size,
        /// The greater, the fewer long ones.
        exponent: f64,
    },
    /// One after the other as a file has them, and then from the begin.
    Trace(PathBuf),
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else { return text.parse().map(Self::Fixed) };
        match kind {
            "uniform" => range(rest).map(|(min, max)| Self::Uniform(min, max)),
            "zipf" => {
                let (bounds, exponent) = rest.split_once(',').unwrap_or((rest, "1"));
                let (min, max) = range(bounds)?;
                match exponent.trim().parse() {
                    Ok(exponent) if (0.0..=EXPONENT_MAX).contains(&exponent) => {
                        Ok(Self::Zipf { min, max, exponent })
                    }
                    _ => Err(format!("{exponent:?} is no exponent from 0 to {EXPONENT_MAX}")),
                }
            }
            "trace" if !rest.is_empty() => Ok(Self::Trace(rest.into())),
            _ => Err(format!(
                "{text:?} is none of SIZE, uniform:MIN..MAX, zipf:MIN..MAX[,EXPONENT] and trace:FILE"
            )),
        }
    }
}

fn range(text: &str) -> Result<(Size, Size), String> {
    let (min, max) = text.split_once("..").ok_or_else(|| format!("{text:?} is not MIN..MAX"))?;
    let (min, max): (Size, Size) = (min.parse()?, max.parse()?);
    if min <= max && max.0 <= BYTES_MAX {
        Ok((min, max))
    } else {
        Err(format!("{text:?} does not go up, or beyond 1GiB"))
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{}", size.0),
            Self::Uniform(min, max) => write!(f, "uniform:{min}..{max}"),
            Self::Zipf { min, max, exponent } => write!(f, "zipf:{min}..{max},{exponent}"),
            Self::Trace(path) => write!(f, "trace:{}", path.display()),
        }
    }
}

/// The length of every message of a run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lengths(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Fixed(usize),
    /// Taken in random order.
    Drawn {
        lengths: Arc<[u32]>,
        seed: u64,
    },
    /// Taken in turns.
    Recorded(Arc<[u32]>),
}

/// 64 bits that look like chance, and follow from a seed and a number (Steele, Lea, Flood: *Fast splittable pseudorandom number
/// generators*, 2014, the finalizer of SplitMix64).
pub fn scatter(seed: u64, number: u64) -> u64 {
    let mut bits = seed.wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

impl Lengths {
    /// All the same.
    pub const fn fixed(bytes: usize) -> Self {
        Self(Kind::Fixed(bytes))
    }

    /// As `sizes` says; `seed` is that of the run.
    pub fn new(sizes: &Sizes, seed: u64) -> Result<Self, String> {
        let mut random = SmallRng::seed_from_u64(seed);
        let lengths: Arc<[u32]> = match sizes {
            Sizes::Fixed(size) => return bytes(*size).map(|bytes| Self::fixed(bytes as usize)),
            Sizes::Trace(path) => return read(path).map(|lengths| Self(Kind::Recorded(lengths.into()))),
            Sizes::Uniform(min, max) => {
                // Every part of the range has its share, however few draws there are.
                let (min, span) = (bytes(*min)?, u64::from(bytes(*max)? - bytes(*min)? + 1));
                (0..DRAWS as u64).map(|n| min + (span * n / DRAWS as u64) as u32).collect()
            }
            Sizes::Zipf { min, max, exponent } => {
                let (min, max) = (bytes(*min)?, bytes(*max)?);
                let ranks =
                    Zipf::new(f64::from(max - min + 1), *exponent).map_err(|error| error.to_string())?;
                (0..DRAWS)
                    .map(|_| (min + (ranks.sample(&mut random) as u32).saturating_sub(1)).min(max))
                    .collect()
            }
        };
        Ok(Self(Kind::Drawn { lengths, seed }))
    }

    /// Of message `number`.
    #[inline]
    pub fn of(&self, number: u64) -> usize {
        match &self.0 {
            Kind::Fixed(bytes) => *bytes,
            Kind::Drawn { lengths, seed } => lengths[scatter(*seed, number) as usize % DRAWS] as usize,
            Kind::Recorded(lengths) => lengths[(number % lengths.len() as u64) as usize] as usize,
        }
    }

    /// If all messages have the same.
    #[inline]
    pub const fn if_fixed(&self) -> Option<usize> {
        match self.0 {
            Kind::Fixed(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The least.
    pub fn min(&self) -> usize {
        self.all().map_or_else(|bytes| bytes, |all| all.iter().copied().min().unwrap_or(0) as usize)
    }

    /// The greatest.
    pub fn max(&self) -> usize {
        self.all().map_or_else(|bytes| bytes, |all| all.iter().copied().max().unwrap_or(0) as usize)
    }

    /// What it comes to on average.
    pub fn mean(&self) -> f64 {
        let mean = |all: &[u32]| all.iter().map(|&bytes| f64::from(bytes)).sum::<f64>() / all.len() as f64;
        self.all().map_or_else(|bytes| bytes as f64, mean)
    }

    fn all(&self) -> Result<&[u32], usize> {
        match &self.0 {
            Kind::Fixed(bytes) => Err(*bytes),
            Kind::Drawn { lengths, .. } | Kind::Recorded(lengths) => Ok(lengths),
        }
    }
}

fn bytes(size: Size) -> Result<u32, String> {
    if size.0 <= BYTES_MAX { Ok(size.0 as u32) } else { Err("messages are at most 1GiB".to_owned()) }
}

fn read(path: &Path) -> Result<Vec<u32>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the sizes {}: {error}", path.display()))?;
    parse(&text).map_err(|error| format!("the sizes {}: {error}", path.display()))
}

/// A line is a size; what follows behind a comma or blank is left to others. Empty lines and such with a `#` first are skipped.
fn parse(text: &str) -> Result<Vec<u32>, String> {
    let mut lengths = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let field = line.trim().split([',', ' ', '\t', ';']).next().unwrap_or_default();
        if field.is_empty() || field.starts_with('#') {
            continue;
        }
        let size =
            field.parse::<Size>().and_then(bytes).map_err(|error| format!("line {number}: {error}"))?;
        lengths.push(size);
        if lengths.len() > LINES_MAX {
            return Err(format!("more than {LINES_MAX} messages"));
        }
    }
    if lengths.is_empty() { Err("no size in it".to_owned()) } else { Ok(lengths) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(text: &str) -> Lengths {
        Lengths::new(&text.parse().expect("valid"), 7).expect("valid")
    }

    fn share(lengths: &Lengths, within: impl Fn(usize) -> bool) -> f64 {
        (0..200_000).filter(|&number| within(lengths.of(number))).count() as f64 / 200_000.0
    }

    #[test]
    fn sizes_people_write() {
        for text in ["64", "uniform:64..1KiB", "zipf:16..1MiB,1", "zipf:16..16,0.5", "trace:sizes.csv"] {
            assert_eq!(text.parse::<Sizes>().expect(text).to_string(), text);
        }
        assert_eq!("zipf:1KiB..2KiB".parse(), "zipf:1024..2048,1".parse::<Sizes>());
        for text in [
            "",
            "uniform:",
            "uniform:64",
            "uniform:2..1",
            "zipf:1..2,-1",
            "zipf:1..2,x",
            "zipf:1..2GiB",
            "trace:",
            "pareto:1..2",
        ] {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_length_as_often_as_it_should_come() {
        let fixed = lengths("100");
        assert_eq!(
            (fixed.of(5), fixed.if_fixed(), fixed.min(), fixed.max(), fixed.mean()),
            (100, Some(100), 100, 100, 100.0)
        );
        let uniform = lengths("uniform:1000..1999");
        assert_eq!((uniform.min(), uniform.max(), uniform.if_fixed()), (1_000, 1_999, None));
        assert!((uniform.mean() - 1_499.5).abs() < 1.0, "{}", uniform.mean());
        for tenth in 0..10 {
            let share = share(&uniform, |bytes| (bytes - 1_000) / 100 == tenth);
            assert!((share - 0.1).abs() < 0.005, "{share}");
        }
        // 1/k over the sum of 1/1 to 1/1,000, which is 7.485.
        let zipf = lengths("zipf:101..1100,1");
        for (rank, expected) in [(1, 0.1336), (2, 0.0668), (10, 0.0134)] {
            let share = share(&zipf, |bytes| bytes == 100 + rank);
            assert!((share - expected).abs() < 0.004, "{rank}: {share}");
        }
        assert!((share(&zipf, |bytes| bytes > 1_000) - 0.0141).abs() < 0.003);
        assert!(zipf.min() == 101 && (1_000..=1_100).contains(&zipf.max()));
    }

    #[test]
    fn the_same_seed_has_the_same_lengths() {
        let of = |seed| {
            let lengths = Lengths::new(&"zipf:16..100000".parse().expect("valid"), seed).expect("valid");
            (0..1_000).map(|number| lengths.of(number)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_recorded_mix_goes_round() {
        assert_eq!(parse("# bytes\n64\n1KiB, POST\n\n100 x\n"), Ok(vec![64, 1_024, 100]));
        assert!(parse("64\nmany\n").expect_err("no size").contains("line 2"));
        assert!(parse("# nothing\n").is_err() && parse("2GiB").is_err());
        let recorded = Lengths(Kind::Recorded(Arc::from([64, 1_024, 100])));
        assert_eq!([0, 1, 2, 3, 4].map(|number| recorded.of(number)), [64, 1_024, 100, 64, 1_024]);
        assert_eq!((recorded.min(), recorded.max(), recorded.mean()), (64, 1_024, 396.0));
    }
}
