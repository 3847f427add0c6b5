//! Sizes as people write them: `64`, `64B`, `1KiB`, `1.5MiB`, `100KB`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 7] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1_000),
    ("mb", 1_000_000),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim().to_ascii_lowercase();
        let Some(&(_, scale)) = UNITS.iter().find(|row| row.0 == unit) else {
            return Err(format!("{unit:?} is no unit; use B, KiB, MiB, GiB, KB or MB"));
        };
        let number = number.replace('_', "");
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(scale),
            Err(_) => {
                let parts: f64 = number.parse().map_err(|_| format!("{text:?} is no size"))?;
                let bytes = parts * scale as f64;
                (bytes.fract() == 0.0 && bytes < 9e15).then_some(bytes as u64)
            }
        };
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no whole number of bytes, or too many"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_people_write() {
        for (text, bytes) in [
            ("64", 64),
            ("64B", 64),
            ("1KiB", 1_024),
            ("1 kib", 1_024),
            ("1MiB", 1 << 20),
            ("1.5MiB", 3 << 19),
            ("2GiB", 2 << 30),
            ("100KB", 100_000),
            ("3mb", 3_000_000),
            ("65_536", 65_536),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size() {
        for text in ["", "KiB", "-1", "1K", "1.0001KiB", "1e3", "99999999999GiB", "1..5MiB", "0x10"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_what_parses() {
        for bytes in [0, 1, 64, 1_000, 1_024, 1_500, 3 << 19, 1 << 20, 5 << 30] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(1 << 20).to_string(), "1MiB");
    }
}
