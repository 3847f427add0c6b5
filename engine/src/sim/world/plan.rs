//! The messages of a world: who sends what to whom, when, and with which options.

use super::auto::{FORGIVEN, is_binary_only};
use super::{World, keys};
use crate::config::Wire;
use crate::hash::{Rng, Seed};
use crate::message::{Level, Outgoing};
use crate::options::Priority;
use crate::runtime::internals::lock;
use crate::sim::checkers::{Fate, Kind};
use crate::sim::last_sent::NUMBER_DIGITS;
use crate::units::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Messages put while the network misbehaves.
const MESSAGES_FAULTY: u64 = 1_900;
/// The same, where they come in bursts.
const MESSAGES_IN_BURSTS: u64 = 4_000;
/// How long after healing the last messages are put, where they come late.
const LATE: Duration = Duration::from_secs(80);
/// When a handshake that began before the network healed is over, or given up (`try_span_max`).
const GIVEN_UP: Duration = Duration::from_secs(9);
/// From one burst to the next.
const BURST_EVERY_NS: u64 = 500_000_000;
/// Messages put after it healed.
pub(super) const MESSAGES_HEALED: u64 = 120;
/// A v1 peer sends all rows of a message at once, whatever the receiver's socket holds.
const V1_PAYLOAD_MAX: u32 = 15_000;
/// What a v1 peer sends in one row.
const V1_ROW_PAYLOAD_MAX: usize = 384;

/// The default deadline grows by a second for every so many bytes.
const DEADLINE_BYTES_PER_SECOND: usize = 256 << 10;

/// A message that no good application puts, or changes its mind about.
#[derive(Clone, Copy, Debug)]
enum Odd {
    NoPort,
    LongMeta,
    /// With something that only goes with bytes: a level, or a lane.
    Empty(bool),
    Cancelled,
}

impl Odd {
    fn draw(rng: &mut Rng) -> Self {
        let committed = rng.below(2) == 0;
        [
            Self::NoPort,
            Self::LongMeta,
            Self::Empty(committed),
            Self::Cancelled,
            Self::Cancelled,
            Self::Cancelled,
        ][rng.below(6) as usize]
    }

    /// Whatever else happens.
    const fn is_refused(self) -> bool {
        !matches!(self, Self::Cancelled)
    }

    fn make(
        self,
        outgoing: Outgoing,
        options: Options,
        lane: Option<u16>,
    ) -> (Outgoing, Options, Option<u16>) {
        match self {
            Self::NoPort | Self::Cancelled => (outgoing, options, lane),
            Self::LongMeta => (outgoing.meta(vec![0; 300]), options, lane),
            Self::Empty(true) => (outgoing.level(Level::Committed), (options.0, Level::Committed), lane),
            Self::Empty(false) => (outgoing.lane(1), options, Some(1)),
        }
    }
}

/// What a receiver is to see of a message: a correlation, and a level.
type Options = (Option<u64>, Level);

impl World {
    pub(super) fn plan_messages(&mut self, start: Instant) {
        let spread_us =
            |rng: &mut Rng, span: Duration| Duration::from_micros(rng.below(span.as_micros() as u32).into());
        let mut schedule = Vec::new();
        // Of their own, so that seeds stay what they were but for options.
        let mut options_rng = self.root.rng(13);
        let mut lanes_rng = self.root.rng(14);
        let mut odd_rng = self.root.rng(15);
        // Many small messages at a time fill datagrams; few, over all the time, do not.
        let bursts = self.wire == Wire::Binary && self.rng.below(4) == 0;
        let faulty = if bursts { MESSAGES_IN_BURSTS } else { MESSAGES_FAULTY };
        // And some after long pauses: flows are forgotten then.
        let late =
            if self.wire == Wire::Binary && self.rng.below(8) == 0 { LATE } else { Duration::from_secs(1) };
        let late = if self.keys.is_some() { keys::LATE } else { late };
        for number in 0..faulty + MESSAGES_HEALED {
            let healed = number >= faulty;
            let at = if healed {
                match self.wire {
                    Wire::Auto => self.draw_healed_at(),
                    Wire::Csv | Wire::Binary => self.heal_at + spread_us(&mut self.rng, late),
                }
            } else {
                start + spread_us(&mut self.rng, self.heal_at.since(start))
            };
            let at = if bursts && !healed { burst(at) } else { at };
            let engines = self.engines.len();
            let hosts = (engines + self.v1_peers.len()) as u32;
            let sender = self.rng.below(hosts) as usize;
            let from_v1 = sender >= engines;
            // One in fifty to an address where nobody is; now and then to oneself. A v1 peer sends to engines.
            let nobody = !healed && !from_v1 && self.rng.below(50) == 0;
            let receiver = self.rng.below(if from_v1 { engines as u32 } else { hosts }) as usize;
            // Nobody talks to himself under a shared key (R-PROT-7).
            let to_oneself = receiver == sender && self.plugins.protection.is_some();
            let receiver = if to_oneself { (receiver + 1) % engines } else { receiver };
            let to = if nobody { SocketAddr::from(([10, 0, 9, 9], 9)) } else { self.addr(receiver) };
            let odd = (!healed && !from_v1 && odd_rng.below(50) == 0).then(|| Odd::draw(&mut odd_rng));
            let (nobody, to) = match odd {
                Some(Odd::NoPort) => (true, SocketAddr::new(to.ip(), 0)),
                _ => (nobody, to),
            };
            let payload = match self.wire {
                Wire::Auto if !from_v1 && self.rng.below(2) == 0 => payload_of_bytes(&mut self.rng, number),
                Wire::Csv | Wire::Auto => {
                    payload(&mut self.rng, number, if from_v1 { V1_PAYLOAD_MAX } else { u32::MAX })
                }
                Wire::Binary if bursts && self.rng.below(50) > 0 => {
                    format!("{number:0NUMBER_DIGITS$x}").into_bytes()
                }
                Wire::Binary => payload_of_bytes(&mut self.rng, number),
            };
            let payload = if matches!(odd, Some(Odd::Empty(_))) { Vec::new() } else { payload };
            // Larger than either side takes: it ends refused.
            let refuses = |host: usize| {
                let limit = self.engines.get(host).map(|engine| engine.config.message_bytes_max);
                limit.is_some_and(|limit| payload.len() > limit as usize)
            };
            let too_large = self.wire != Wire::Csv && (refuses(sender) || refuses(receiver));
            let kind = match () {
                () if from_v1 => Kind::FromV1,
                () if receiver >= engines && !nobody => Kind::ToV1,
                () => Kind::BetweenEngines,
            };
            let outgoing = Outgoing::to(to, payload.clone()).tag(number);
            let (outgoing, options, lane) = if from_v1 {
                (outgoing, (None, Level::Accepted), None)
            } else {
                let (outgoing, options) = self.draw_options(&mut options_rng, outgoing);
                let (outgoing, lane) = self.draw_lane(&mut lanes_rng, outgoing);
                (outgoing, options, lane)
            };
            let (mut outgoing, options, lane) = match odd {
                Some(odd) => odd.make(outgoing, options, lane),
                None => (outgoing, options, lane),
            };
            let wire = self.wire_between(sender, to);
            let by_rows = match wire {
                Wire::Csv => true,
                Wire::Binary => false,
                Wire::Auto => !is_binary_only(&outgoing),
            };
            // To who did not answer while the network misbehaved, some things do not go for a while.
            let fits = match kind {
                Kind::FromV1 => payload.len() <= V1_ROW_PAYLOAD_MAX,
                Kind::ToV1 => !is_binary_only(&outgoing),
                // One of `auto` asks a row first, and answers the next HELLO; the sender gives up 8 s after its first.
                Kind::BetweenEngines if wire != Wire::Auto && self.takes_to_ask(receiver) => {
                    at >= self.heal_at + GIVEN_UP
                }
                Kind::BetweenEngines => wire != Wire::Auto || by_rows || at >= self.heal_at + FORGIVEN,
            };
            let mut fate = Fate {
                wire,
                by_rows,
                options,
                meta: outgoing
                    .options
                    .as_ref()
                    .and_then(|put| put.metadata.user.as_deref().map(<[u8]>::to_vec)),
                lane,
                too_large: too_large || odd.is_some_and(Odd::is_refused),
                // Three tries are few when an engine has no room for another message in parts.
                must_arrive: healed && !too_large && fits,
                in_parts: self.wire != Wire::Binary && payload.len() > V1_ROW_PAYLOAD_MAX,
                commits: healed || options_rng.below(16) > 0,
                cancel_after: match odd {
                    Some(Odd::Cancelled) => Some(Duration::from_millis(odd_rng.below(200).into())),
                    _ => None,
                },
                ..Fate::new(kind, sender, if nobody { usize::MAX } else { receiver }, payload.clone())
            };
            if self.wire != Wire::Csv && !healed && self.rng.below(16) == 0 {
                // Some end before they arrive, large ones half way.
                outgoing.deadline = Some(Duration::from_millis(u64::from(1 + self.rng.below(300))));
            }
            if let Some(engine) = self.engines.get(sender) {
                let default = engine.config.deadline_default
                    + Duration::from_secs((payload.len() / DEADLINE_BYTES_PER_SECOND) as u64);
                fate.lifetime = outgoing.deadline.unwrap_or(default);
            }
            lock(&self.log).fates.insert(number, fate);
            schedule.push((at, sender, outgoing));
        }
        schedule.sort_by_key(|(at, _, outgoing)| (*at, outgoing.tag));
        self.schedule = schedule.into();
    }

    /// Whether it answers a stranger with a question.
    fn takes_to_ask(&self, receiver: usize) -> bool {
        self.engines.get(receiver).is_some_and(|engine| engine.config.wire == Wire::Auto)
    }

    /// Options for a message of the binary wire, sometimes; and what the receiver is to see of them.
    pub(super) fn draw_options(
        &self,
        rng: &mut Rng,
        mut outgoing: Outgoing,
    ) -> (Outgoing, (Option<u64>, Level)) {
        let (mut correlation, mut level) = (None, Level::Accepted);
        if self.wire == Wire::Csv {
            return (outgoing, (correlation, level));
        }
        if rng.below(4) == 0 {
            correlation = Some(rng.next_u64());
            outgoing = outgoing.correlation(correlation.unwrap_or_default());
            let meta = meta(outgoing.tag, rng.below(240));
            outgoing = outgoing.meta(meta);
        }
        if rng.below(8) == 0 {
            level = Level::Committed;
        }
        let priorities = [Priority::Control, Priority::High, Priority::Low, Priority::Normal];
        let priority = priorities[rng.below(12).min(3) as usize];
        (outgoing.level(level).priority(priority), (correlation, level))
    }

    /// One message in four is in one of three lanes. Not where what was refused is never sent again: each would hold up its
    /// lane until its deadline, and all would take hours.
    pub(super) fn draw_lane(&self, rng: &mut Rng, outgoing: Outgoing) -> (Outgoing, Option<u16>) {
        let life = Duration::from_secs(30);
        let tries_again = self.plugins.retries.refused_wait(outgoing.to, (1, 0), life) < life;
        match rng.below(12) as u16 {
            lane @ 0..3 if self.wire != Wire::Csv && tries_again => (outgoing.lane(lane), Some(lane)),
            _ => (outgoing, None),
        }
    }
}

/// Mostly small.
fn length(rng: &mut Rng) -> u32 {
    match rng.below(60) {
        0..=46 => rng.below(200),
        47..=56 => rng.below(2_000),
        57..=58 => rng.below(20_000),
        _ => rng.below(200_000),
    }
}

/// Text that begins with its number; mostly one row, sometimes many, with characters of every length.
fn payload(rng: &mut Rng, number: u64, bytes_max: u32) -> Vec<u8> {
    let bytes = length(rng);
    let mut text = format!("{number:0NUMBER_DIGITS$x}");
    while text.len() < bytes.min(bytes_max) as usize {
        text.push(['a', 'Z', '"', ',', 'é', '漢', '🦀', '\n'][rng.below(8) as usize]);
    }
    text.into_bytes()
}

/// The start of the burst `at` is in.
const fn burst(at: Instant) -> Instant {
    Instant::from_ns(at.as_ns() - at.as_ns() % BURST_EVERY_NS + 1)
}

/// Other bytes for each message. Drawn of their own, so that seeds stay what they were.
fn meta(number: u64, bytes: u32) -> Vec<u8> {
    let mut rng = Seed::from_number(number).rng(0);
    (0..bytes).map(|_| rng.next_u8()).collect()
}

/// Any bytes behind the number; mostly small.
fn payload_of_bytes(rng: &mut Rng, number: u64) -> Vec<u8> {
    let bytes = length(rng);
    let mut payload = format!("{number:0NUMBER_DIGITS$x}").into_bytes();
    payload.extend((NUMBER_DIGITS as u32..bytes).map(|_| rng.next_u8()));
    payload
}
