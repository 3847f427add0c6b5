//! One direction of a bad network: what becomes of each datagram, from a seed.
//!
//! ```text
//!   loss, burst loss --> rate and queue --> duplicate --> corrupt, delay + jitter, reorder: each copy by itself
//! ```
//! Burst loss is Gilbert's model (Bell System Technical Journal 39, 1960): a chain of two states, of which the bad one loses
//! everything; bursts have geometrically distributed lengths.

use super::args::ImpairArgs;
use anyhow::{Result, ensure};
use serde::Serialize;
use std::time::Duration;

/// What is done to datagrams, in shares from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Impairments {
    /// Lost, each by itself.
    pub loss: f64,
    /// Lost in bursts: how many of all.
    pub burst_loss: f64,
    /// How long a burst is on average, in datagrams; at least 1.
    pub burst_length: f64,
    /// Sent twice.
    pub duplicate: f64,
    /// One bit of the payload is turned; checksums of IP and UDP are right again.
    pub corrupt: f64,
    /// Held back by `reorder_by_s` more than others.
    pub reorder: f64,
    /// By how much.
    pub reorder_by_s: f64,
    /// All of them: this late.
    pub delay_s: f64,
    /// And by up to this much more, uniformly: they may overtake each other.
    pub jitter_s: f64,
    /// Payload bits a second; 0: any number.
    pub rate_bits_per_s: f64,
    /// Payload bytes that wait for their turn at that rate; what comes on top is dropped.
    pub queue_bytes: u64,
}

impl Impairments {
    /// As typed.
    ///
    /// # Errors
    /// A burst that is none.
    pub fn from_args(args: &ImpairArgs) -> Result<Self> {
        let seconds = |ms: f64| ms / 1_000.0;
        let (burst_loss, burst_length) =
            args.burst_loss.map_or((0.0, 1.0), |burst| (burst.share, burst.length));
        ensure!(
            burst_loss / burst_length <= 1.0 - burst_loss,
            "--burst-loss {burst_loss}:{burst_length}: so much in bursts so short leaves no time between them; use longer ones"
        );
        Ok(Self {
            loss: args.loss.0,
            burst_loss,
            burst_length,
            duplicate: args.duplicate.0,
            corrupt: args.corrupt.0,
            reorder: args.reorder.0,
            reorder_by_s: seconds(args.reorder_by_ms.0),
            delay_s: seconds(args.delay_ms.0),
            jitter_s: seconds(args.jitter_ms.0),
            rate_bits_per_s: args.rate_mbit.map_or(0.0, |mbit| mbit.0 * 1e6),
            queue_bytes: args.queue.0,
        })
    }
}

/// What became of the datagrams of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Came.
    pub received: u64,
    /// Lost by `loss`.
    pub lost: u64,
    /// Lost by `burst_loss`.
    pub lost_in_bursts: u64,
    /// Dropped at a full queue.
    pub dropped_at_queue: u64,
    /// Dropped because the relay's own memory, or its sockets, were all in use.
    pub dropped_by_relay: u64,
    /// Not from the address that `--to` is: nobody's answer.
    pub dropped_foreign: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Copies with a bit turned.
    pub corrupted: u64,
    /// Copies held back.
    pub reordered: u64,
    /// Copies that waited for rate, delay or jitter.
    pub delayed: u64,
    /// Copies handed to the kernel.
    pub sent: u64,
    /// Copies that the kernel did not take.
    pub refused: u64,
    /// Copies that have not left: at the end they are given up.
    pub waiting: u64,
}

impl Counts {
    /// What came and was made, less where it went.
    #[must_use]
    pub const fn residual(&self) -> i64 {
        let made = self.received + self.duplicated;
        let gone = self.lost
            + self.lost_in_bursts
            + self.dropped_at_queue
            + self.dropped_by_relay
            + self.dropped_foreign
            + self.sent
            + self.refused
            + self.waiting;
        made.cast_signed() - gone.cast_signed()
    }

    /// With names.
    pub const fn rows(&self) -> [(&'static str, u64); 13] {
        [
            ("received", self.received),
            ("lost", self.lost),
            ("lost in bursts", self.lost_in_bursts),
            ("dropped at the queue", self.dropped_at_queue),
            ("dropped by the relay", self.dropped_by_relay),
            ("from somebody else", self.dropped_foreign),
            ("duplicated", self.duplicated),
            ("corrupted", self.corrupted),
            ("reordered", self.reordered),
            ("delayed", self.delayed),
            ("sent", self.sent),
            ("refused by the kernel", self.refused),
            ("never left", self.waiting),
        ]
    }
}

/// One copy of a datagram that is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// When, on the clock of the caller.
    pub at: Duration,
    /// The bit of the payload that is turned.
    pub turned_bit: Option<usize>,
}

/// One direction.
#[derive(Debug)]
pub struct Link {
    what: Impairments,
    random: fastrand::Rng,
    in_burst: bool,
    /// When what is queued at the rate has left.
    free_at: Duration,
    /// What was done.
    pub counts: Counts,
}

impl Link {
    /// Nothing was sent on it.
    #[must_use]
    pub fn new(what: Impairments, seed: u64) -> Self {
        Self {
            what,
            random: fastrand::Rng::with_seed(seed),
            in_burst: false,
            free_at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// A datagram of so many bytes came: its copies, none to two. All draws happen whatever becomes of it, so that one seed means
    /// the same fates, in order, at other settings of other impairments.
    pub fn take(&mut self, now: Duration, bytes: usize) -> impl Iterator<Item = Copy> + use<> {
        self.counts.received += 1;
        let Impairments { loss, burst_loss, burst_length, duplicate, .. } = self.what;
        let draws: [f64; 3] = std::array::from_fn(|_| self.random.f64());
        let copies = [self.copy(bytes), self.copy(bytes)];
        let leaves_state =
            if self.in_burst { 1.0 / burst_length } else { burst_loss / (burst_length * (1.0 - burst_loss)) };
        self.in_burst ^= burst_loss > 0.0 && draws[0] < leaves_state;
        if self.in_burst {
            self.counts.lost_in_bursts += 1;
            return made(None, None);
        }
        if draws[1] < loss {
            self.counts.lost += 1;
            return made(None, None);
        }
        let Some(at) = self.queue(now, bytes) else {
            self.counts.dropped_at_queue += 1;
            return made(None, None);
        };
        let twice = draws[2] < duplicate;
        self.counts.duplicated += u64::from(twice);
        let first = self.count(copies[0], now, at);
        let second = twice.then(|| self.count(copies[1], now, at));
        made(Some(first), second)
    }

    /// What happens to a copy by itself: how late beyond the queue, reordered or not, and which bit.
    fn copy(&mut self, bytes: usize) -> (Duration, bool, Option<usize>) {
        let Impairments { corrupt, reorder, reorder_by_s, delay_s, jitter_s, .. } = self.what;
        let draws: [f64; 4] = std::array::from_fn(|_| self.random.f64());
        let reordered = draws[0] < reorder;
        let late = delay_s + draws[1] * jitter_s + if reordered { reorder_by_s } else { 0.0 };
        let bit = (draws[2] < corrupt && bytes > 0).then(|| (draws[3] * (8 * bytes) as f64) as usize);
        (Duration::from_secs_f64(late), reordered, bit)
    }

    fn count(&mut self, copy: (Duration, bool, Option<usize>), now: Duration, at: Duration) -> Copy {
        let (late, reordered, turned_bit) = copy;
        let at = at + late;
        self.counts.reordered += u64::from(reordered);
        self.counts.corrupted += u64::from(turned_bit.is_some());
        self.counts.delayed += u64::from(at > now);
        self.counts.waiting += 1;
        Copy { at, turned_bit }
    }

    /// When it has left a queue that is served at the rate; `None`: the queue is full.
    fn queue(&mut self, now: Duration, bytes: usize) -> Option<Duration> {
        let rate = self.what.rate_bits_per_s;
        if rate <= 0.0 {
            return Some(now);
        }
        let begins = self.free_at.max(now);
        let queued = (begins - now).as_secs_f64() * rate / 8.0;
        if queued + bytes as f64 > self.what.queue_bytes as f64 {
            return None;
        }
        self.free_at = begins + Duration::from_secs_f64(bytes as f64 * 8.0 / rate);
        Some(self.free_at)
    }
}

fn made(
    first: Option<Copy>,
    second: Option<Copy>,
) -> std::iter::Chain<std::option::IntoIter<Copy>, std::option::IntoIter<Copy>> {
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Impairments = Impairments {
        loss: 0.0,
        burst_loss: 0.0,
        burst_length: 1.0,
        duplicate: 0.0,
        corrupt: 0.0,
        reorder: 0.0,
        reorder_by_s: 0.001,
        delay_s: 0.0,
        jitter_s: 0.0,
        rate_bits_per_s: 0.0,
        queue_bytes: 0,
    };
    const COUNT: u64 = 200_000;

    /// Feeds a link `COUNT` datagrams of 100 bytes, `gap` apart; the copies, by number.
    fn feed(what: Impairments, seed: u64, gap: Duration) -> (Link, Vec<Vec<Copy>>) {
        let mut link = Link::new(what, seed);
        let copies = (0..COUNT as u32).map(|number| link.take(gap * number, 100).collect()).collect();
        assert_eq!(link.counts.residual(), 0);
        assert_eq!(link.counts.received, COUNT);
        (link, copies)
    }

    /// Five standard deviations of a share.
    fn is_share(count: u64, share: f64) -> bool {
        let (expected, n) = (share * COUNT as f64, COUNT as f64);
        (count as f64 - expected).abs() <= 5.0 * (n * share * (1.0 - share)).sqrt()
    }

    #[test]
    fn a_clean_link_does_nothing() {
        let (link, copies) = feed(CLEAN, 1, Duration::from_micros(1));
        for (number, copies) in copies.iter().enumerate() {
            assert_eq!(copies[..], [Copy { at: Duration::from_micros(number as u64), turned_bit: None }]);
        }
        assert_eq!(link.counts, Counts { received: COUNT, waiting: COUNT, ..Counts::default() });
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let what = Impairments { loss: 0.02, duplicate: 0.03, corrupt: 0.01, reorder: 0.05, ..CLEAN };
        let (link, copies) = feed(what, 2, Duration::ZERO);
        let counts = link.counts;
        assert!(is_share(counts.lost, 0.02), "{counts:?}");
        assert!(is_share(counts.duplicated, 0.98 * 0.03), "{counts:?}");
        let left = (COUNT - counts.lost + counts.duplicated) as f64 / COUNT as f64;
        assert!(
            is_share(counts.corrupted, left * 0.01) && is_share(counts.reordered, left * 0.05),
            "{counts:?}"
        );
        assert!(copies.iter().flatten().filter_map(|copy| copy.turned_bit).all(|bit| bit < 800));
        assert_eq!(copies.iter().flatten().count() as u64, counts.waiting);
    }

    #[test]
    fn bursts_have_their_share_and_length() {
        let (link, copies) =
            feed(Impairments { burst_loss: 0.1, burst_length: 5.0, ..CLEAN }, 3, Duration::ZERO);
        let lost: Vec<bool> = copies.iter().map(Vec::is_empty).collect();
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        let share = link.counts.lost_in_bursts as f64 / COUNT as f64;
        assert!((0.09..0.11).contains(&share), "{share}");
        let length = link.counts.lost_in_bursts as f64 / bursts;
        assert!((4.7..5.3).contains(&length), "{length}");
        assert_eq!(link.counts.lost, 0);
    }

    #[test]
    fn delay_and_jitter_stay_within_their_bounds() {
        let what = Impairments { delay_s: 0.010, jitter_s: 0.005, ..CLEAN };
        let (link, copies) = feed(what, 4, Duration::ZERO);
        let late: Vec<Duration> = copies.iter().flatten().map(|copy| copy.at).collect();
        assert!(late.iter().all(|at| (10_000..=15_000).contains(&at.as_micros())));
        let mean = late.iter().sum::<Duration>() / late.len() as u32;
        assert!((12_400..12_600).contains(&mean.as_micros()), "{mean:?}");
        assert_eq!(link.counts.delayed, COUNT);
    }

    /// 100 bytes every 100 us are 8 Mbit/s; the link has half of it, and room for ten.
    #[test]
    fn a_rate_is_kept_and_its_queue_is_bounded() {
        let what = Impairments { rate_bits_per_s: 4e6, queue_bytes: 1_000, ..CLEAN };
        let gap = Duration::from_micros(100);
        let (link, copies) = feed(what, 5, gap);
        assert!(is_share(link.counts.dropped_at_queue, 0.5), "{:?}", link.counts);
        let mut last = Duration::ZERO;
        for (number, copy) in
            copies.iter().enumerate().filter_map(|(number, copies)| Some((number, copies.first()?)))
        {
            assert!(copy.at >= last + Duration::from_micros(200), "200 us are 100 bytes");
            assert!(copy.at - gap * number as u32 <= Duration::from_micros(2_001), "ten of them");
            last = copy.at;
        }
    }

    #[test]
    fn a_seed_says_everything() {
        let what = Impairments {
            loss: 0.1,
            burst_loss: 0.1,
            burst_length: 3.0,
            duplicate: 0.1,
            jitter_s: 0.01,
            ..CLEAN
        };
        let once = feed(what, 6, Duration::ZERO).1;
        assert_eq!(feed(what, 6, Duration::ZERO).1, once);
        assert_ne!(feed(what, 7, Duration::ZERO).1, once);
    }

    /// The fates by loss are the same whatever else is asked for.
    #[test]
    fn one_impairment_does_not_change_the_draws_of_another() {
        let lost = |what| feed(what, 8, Duration::ZERO).1.iter().map(Vec::is_empty).collect::<Vec<_>>();
        let once = lost(Impairments { loss: 0.1, ..CLEAN });
        assert_eq!(
            lost(Impairments { loss: 0.1, duplicate: 0.5, corrupt: 0.5, jitter_s: 0.1, ..CLEAN }),
            once
        );
    }
}
