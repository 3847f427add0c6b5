//! When what was not answered is sent again.
//!
//! Three things wait for an answer and are repeated by a clock of the engine's: rows of the CSV wire (R-RETRY-1 to 3), HELLOs
//! of the binary wire (R-FLOW-9), and messages a peer refused for now (R-OUTCOME-6). How long each waits is asked of a
//! [`RetryPolicy`]; without one of the user's (builder option `retry_policy`) it is [`StandardRetry`]. What it is *not* asked:
//! when a lost datagram of the binary wire goes again, which its acknowledgements tell (R-LOSS-2 to 4); how often an address is
//! probed (R-DISC-6); and anything about first transmissions.
//!
//! # Units, and when each call comes
//! Waits are [`Duration`]s, counted from the transmission or the refusal they follow. `tries` counts transmissions, the one
//! just made included. [`row_wait`](RetryPolicy::row_wait) is called once for each repeat of a row, and once for each visit of
//! a peer that may send rows for the first time, which then share the answer; the others once for each HELLO and each
//! refusal. Nothing is called for a message that is confirmed at its first try.
//!
//! # What the engine guarantees, whatever the answers are
//! - A deadline ends a message wherever it stands (R-RETRY-4). No row goes out more than `tries_max` times, or later than
//!   `try_span_max` after its first transmission: receivers forget after that. So no row waits longer than that, either.
//! - Toward an original, or a peer not known to be an engine, no wait is shorter than the timeout of R-RETRY-2; toward an
//!   engine, than `rto_min`. When a wait is over, R-RETRY-3 holds all the same: while confirms keep coming, a row that was not
//!   passed by waits on.
//! - HELLO waits 10 ms to 10 s, a refused message at least 1 ms: no policy makes the loop spin.
//!
//! All shards share one policy: it has no state of a peer's, or guards it itself. It must not block. If it panics, the
//! engine stops, as with an actor.
//!
//! # One of your own
//! ```
//! use std::net::SocketAddr;
//! use std::time::Duration;
//! use udp_plus::retry::{RetryPolicy, RowTry, StandardRetry};
//!
//! /// Patient with one machine, standard with all others.
//! #[derive(Debug)]
//! struct Patient(SocketAddr);
//!
//! impl RetryPolicy for Patient {
//!     fn row_wait(&self, row: &RowTry, random: u32) -> Duration {
//!         let standard = StandardRetry.row_wait(row, random);
//!         if row.to == self.0 { standard * 2 } else { standard }
//!     }
//! }
//!
//! # fn main() -> Result<(), udp_plus::StartError> {
//! let policy = Patient("10.0.0.7:25252".parse().unwrap());
//! let engine = udp_plus::Engine::builder().bind("127.0.0.1:0").shards(1).retry_policy(policy).start()?;
//! # drop(engine); Ok(()) }
//! ```
//! `examples/own_retry.rs` has another one.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// First wait for the answer to a HELLO; doubled each time (R-FLOW-9).
const HELLO_WAIT: Duration = Duration::from_millis(100);
const HELLO_WAIT_MAX: Duration = Duration::from_secs(1);
/// What a policy may ask for.
const HELLO_WAIT_LEAST: Duration = Duration::from_millis(10);
const HELLO_WAIT_MOST: Duration = Duration::from_secs(10);
/// Half of the first wait before a message refused for now goes again; doubled each time it leaves (R-OUTCOME-6).
const REFUSED_WAIT: Duration = Duration::from_millis(2);
const REFUSED_WAIT_MAX: Duration = Duration::from_millis(200);
/// What a policy may ask for; at most, what is left of the message's life.
const REFUSED_WAIT_LEAST: Duration = Duration::from_millis(1);

/// A row of the CSV wire that has been sent, or is about to be.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RowTry {
    /// Its destination.
    pub to: SocketAddr,
    /// The peer is an engine: it marks its confirms (R-MARK-3). Else it may be an original.
    pub is_engine: bool,
    /// Transmissions, this one included.
    pub tries: u32,
    /// The smoothed round trip to the peer (RFC 6298), once it was measured.
    pub smoothed_rtt: Option<Duration>,
    /// The timeout of R-RETRY-2 for a first transmission to this peer.
    pub first_wait: Duration,
    /// The option `rto_max`.
    pub wait_max: Duration,
}

/// How long to wait before trying again. See the [module](self). Every method has the standard answer as its default.
///
/// `random` is for jitter, and uniform over its range: senders who failed together should not come back together.
pub trait RetryPolicy: fmt::Debug + Send + Sync {
    /// How long the confirm of a row may take. `random` is 0 for a first transmission, whose wait is that of all in its visit.
    ///
    /// Standard: `first_wait`, doubled for each repeat, at most `wait_max`; of repeats, up to a quarter more.
    fn row_wait(&self, row: &RowTry, random: u32) -> Duration {
        let doubled = row.first_wait.saturating_mul(1 << row.tries.saturating_sub(1).min(16));
        let wait = doubled.min(row.wait_max);
        if row.tries <= 1 { wait } else { up_to_a_quarter_more(wait, random) }
    }

    /// Whether a row whose wait is over, `since_first` after its first transmission, is given up before `tries_max` and
    /// `try_span_max` end it: its message then ends `TimedOut`. Standard: never.
    fn gives_up(&self, row: &RowTry, since_first: Duration) -> bool {
        let _ = (row, since_first);
        false
    }

    /// How long a HELLO to `to` waits for its answer, the `tries`-th in a row; from the second one on it leaves twice. Standard:
    /// 100 ms, doubled each time, at most 1 s; up to a quarter more.
    fn hello_wait(&self, to: SocketAddr, tries: u32, random: u32) -> Duration {
        let _ = to;
        let wait = HELLO_WAIT.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(HELLO_WAIT_MAX);
        up_to_a_quarter_more(wait, random)
    }

    /// How long a message that `to` refused for now (Busy, or its application said so) waits, after it left `tries` times.
    /// Standard: 2 ms x 2^tries, at most 200 ms; up to a quarter more.
    fn refused_wait(&self, to: SocketAddr, tries: u32, random: u32) -> Duration {
        let _ = to;
        up_to_a_quarter_more(REFUSED_WAIT.saturating_mul(1 << tries.min(10)).min(REFUSED_WAIT_MAX), random)
    }
}

fn up_to_a_quarter_more(wait: Duration, random: u32) -> Duration {
    wait + wait / 1_024 * (random >> 24)
}

/// What an engine does without a policy of the user's: the defaults of [`RetryPolicy`].
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardRetry;

impl RetryPolicy for StandardRetry {}

/// The policy in use, kept within the engine's bounds. The standard one costs no call.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retries(pub(crate) Option<Arc<dyn RetryPolicy>>);

impl Retries {
    /// See [`RetryPolicy::row_wait`]; the bounds are of R-RETRY-6.
    pub(crate) fn row_wait(
        &self,
        row: &RowTry,
        random: u32,
        (least, most): (Duration, Duration),
    ) -> Duration {
        match &self.0 {
            None => StandardRetry.row_wait(row, random),
            Some(policy) => policy.row_wait(row, random).min(most).max(least),
        }
    }

    /// The user's policy is asked about first waits, too.
    #[inline]
    pub(crate) const fn is_standard(&self) -> bool {
        self.0.is_none()
    }

    /// See [`RetryPolicy::gives_up`].
    pub(crate) fn gives_up(&self, row: impl FnOnce() -> RowTry, since_first: Duration) -> bool {
        self.0.as_ref().is_some_and(|policy| policy.gives_up(&row(), since_first))
    }

    /// See [`RetryPolicy::hello_wait`].
    pub(crate) fn hello_wait(&self, to: SocketAddr, tries: u32, random: u32) -> Duration {
        match &self.0 {
            None => StandardRetry.hello_wait(to, tries, random),
            Some(policy) => policy.hello_wait(to, tries, random).clamp(HELLO_WAIT_LEAST, HELLO_WAIT_MOST),
        }
    }

    /// See [`RetryPolicy::refused_wait`]; `left` is what is left of the message's life.
    pub(crate) fn refused_wait(
        &self,
        to: SocketAddr,
        (tries, random): (u32, u32),
        left: Duration,
    ) -> Duration {
        let wait = match &self.0 {
            None => StandardRetry.refused_wait(to, tries, random),
            Some(policy) => policy.refused_wait(to, tries, random),
        };
        // Whoever waited longer would keep a copy of a message that has ended.
        wait.min(left).max(REFUSED_WAIT_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(tries: u32) -> RowTry {
        RowTry {
            to: SocketAddr::from(([127, 0, 0, 1], 1)),
            is_engine: true,
            tries,
            smoothed_rtt: None,
            first_wait: Duration::from_millis(100),
            wait_max: Duration::from_secs(1),
        }
    }

    /// Asks for what nobody should.
    #[derive(Debug)]
    struct Extreme(Duration);

    impl RetryPolicy for Extreme {
        fn row_wait(&self, _: &RowTry, _: u32) -> Duration {
            self.0
        }
        fn hello_wait(&self, _: SocketAddr, _: u32, _: u32) -> Duration {
            self.0
        }
        fn refused_wait(&self, _: SocketAddr, _: u32, _: u32) -> Duration {
            self.0
        }
    }

    #[test]
    fn the_standard_policy_doubles_up_to_its_maximum_with_jitter_on_repeats() {
        let wait = |tries, random| StandardRetry.row_wait(&row(tries), random).as_micros();
        assert_eq!(wait(1, u32::MAX), 100_000);
        assert_eq!(wait(2, 0), 200_000);
        assert_eq!(wait(4, 0), 800_000);
        assert_eq!(wait(5, 0), 1_000_000);
        assert_eq!(wait(200, 0), 1_000_000);
        assert_eq!(wait(2, u32::MAX), 200_000 + 200_000 * 255 / 1_024);
        let hello = |tries| StandardRetry.hello_wait(row(1).to, tries, 0).as_millis();
        assert_eq!([1, 2, 4, 5, 99].map(hello), [100, 200, 800, 1_000, 1_000]);
        let refused = |tries| StandardRetry.refused_wait(row(1).to, tries, 0).as_millis();
        assert_eq!([1, 2, 6, 7, 255].map(refused), [4, 8, 128, 200, 200]);
        let latest = [
            StandardRetry.hello_wait(row(1).to, 1, u32::MAX),
            StandardRetry.refused_wait(row(1).to, 7, u32::MAX),
        ];
        assert_eq!(latest.map(|wait| wait.as_millis()), [124, 249]);
    }

    #[test]
    fn a_policy_of_the_standard_answers_what_none_answers() {
        let (none, same) = (Retries(None), Retries(Some(Arc::new(StandardRetry))));
        let bounds = (row(1).first_wait, Duration::from_secs(8));
        for tries in 1..=300_u32 {
            let left = Duration::from_millis(if tries < 200 { 1_000 } else { u64::from(tries) - 200 });
            let random = tries.wrapping_mul(0x9e37_79b9);
            let of = |retries: &Retries| {
                let to = row(1).to;
                [
                    retries.row_wait(&row(tries), random, bounds),
                    retries.hello_wait(to, tries, random),
                    retries.refused_wait(to, (tries, random), left),
                ]
            };
            assert_eq!(of(&none), of(&same), "{tries}");
        }
    }

    #[test]
    fn extremes_are_bounded() {
        let (bounds, left) = ((Duration::from_millis(200), Duration::from_secs(8)), Duration::from_secs(3));
        let to = row(1).to;
        let retries = Retries(Some(Arc::new(Extreme(Duration::ZERO))));
        assert_eq!(retries.row_wait(&row(2), 0, bounds), bounds.0);
        assert_eq!(retries.hello_wait(to, 1, 0).as_millis(), 10);
        assert_eq!(retries.refused_wait(to, (1, 0), left).as_millis(), 1);
        let retries = Retries(Some(Arc::new(Extreme(Duration::MAX))));
        assert_eq!(retries.row_wait(&row(2), 0, bounds), bounds.1);
        assert_eq!(retries.hello_wait(to, 1, 0).as_millis(), 10_000);
        assert_eq!(retries.refused_wait(to, (1, 0), left), left);
        assert_eq!(
            retries.refused_wait(to, (1, 0), Duration::ZERO).as_millis(),
            1,
            "its life is over, the loop goes on"
        );
    }
}
