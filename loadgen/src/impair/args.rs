//! The flags of `impair`.

use crate::cli::Seconds;
use crate::size::Size;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// `impair`
#[derive(Clone, Debug, Args)]
pub struct ImpairArgs {
    /// Where clients send to.
    #[arg(long, default_value = "127.0.0.1:25253", value_name = "ADDR:PORT")]
    pub listen: String,
    /// Where it goes.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Lost.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub loss: Share,
    /// Lost in bursts.
    #[arg(long, value_name = "PERCENT:LENGTH")]
    pub burst_loss: Option<Burst>,
    /// Sent twice.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub duplicate: Share,
    /// With a bit turned.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub corrupt: Share,
    /// Held back.
    #[arg(long, default_value = "0", value_name = "PERCENT")]
    pub reorder: Share,
    /// By how much.
    #[arg(long, default_value = "1", value_name = "MILLISECONDS")]
    pub reorder_by_ms: Milliseconds,
    /// All of them later.
    #[arg(long, default_value = "0", value_name = "MILLISECONDS")]
    pub delay_ms: Milliseconds,
    /// And up to this much more.
    #[arg(long, default_value = "0", value_name = "MILLISECONDS")]
    pub jitter_ms: Milliseconds,
    /// The link's rate.
    #[arg(long, value_name = "MBIT/S")]
    pub rate_mbit: Option<Mbit>,
    /// What waits for it.
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    pub queue: Size,
    /// One direction.
    #[arg(long, value_name = "up|down")]
    pub only: Option<Way>,
    /// Of every decision.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How long.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<Seconds>,
    /// Where the report goes.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// What clients send.
    Up,
    /// What comes back.
    Down,
}

fn number(text: &str, what: &str, most: f64) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if (0.0..=most).contains(&number) => Ok(number),
        _ => Err(format!("{text:?} is no number of {what} from 0 to {most}")),
    }
}

/// A share of all datagrams, 0 to 1; typed in per cent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text.trim_end_matches('%'), "per cent", 100.0).map(|percent| Self(percent / 100.0))
    }
}

/// A share of all datagrams that is lost in bursts, and the mean length of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Burst {
    /// 0 to below 1.
    pub share: f64,
    /// Datagrams, from 1.
    pub length: f64,
}

impl FromStr for Burst {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not PERCENT:LENGTH, as 2%:3, below 100 % and with bursts of 1 to 10,000");
        let (share, length) = text.split_once(':').ok_or_else(wrong)?;
        let Share(share) = share.parse().map_err(|_| wrong())?;
        match length.trim().parse::<f64>() {
            Ok(length) if share < 1.0 && (1.0..=10_000.0).contains(&length) => Ok(Self { share, length }),
            _ => Err(wrong()),
        }
    }
}

/// Milliseconds, also fractions of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Milliseconds(pub f64);

impl FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        number(text, "milliseconds", 60_000.0).map(Self)
    }
}

/// Megabits of payload a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mbit(pub f64);

impl FromStr for Mbit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match number(text, "Mbit/s", 1e6)? {
            0.0 => Err("a rate of 0 lets nothing through; --loss 100 does that".into()),
            mbit => Ok(Self(mbit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_type() {
        assert_eq!("1%".parse(), Ok(Share(0.01)));
        assert_eq!("100".parse(), Ok(Share(1.0)));
        assert!(
            "101".parse::<Share>().is_err()
                && "-1".parse::<Share>().is_err()
                && "NaN".parse::<Share>().is_err()
        );
        assert_eq!("2%:3".parse(), Ok(Burst { share: 0.02, length: 3.0 }));
        for wrong in ["2", "2:0.5", "100:3", "x:3", "2:inf"] {
            assert!(wrong.parse::<Burst>().is_err(), "{wrong}");
        }
        assert!("0".parse::<Mbit>().is_err() && "0.5".parse() == Ok(Mbit(0.5)));
        assert!("60001".parse::<Milliseconds>().is_err());
    }
}
