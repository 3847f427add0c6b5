//! The verdict on a run, from what the applications put, got and were told. The engine's counters are checked against
//! this, never the other way round.

use super::lane_order::{Known, LaneCounts, LaneOrder, Stream};
use super::last_sent::number_of;
use super::scenes::SceneCounts;
use super::trace::Trace;
use super::v1_peer::V1Sent;
use super::v1_watch::Brought;
use crate::config::Wire;
use crate::error::{DeliveryError, FailureCause, Reached, Refusal};
use crate::message::{Level, Outcome};
use crate::observe::Sum;
use crate::units::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long after its deadline a message may end: the turns of timer wheels, and how often what waits is looked through.
const LATE_MAX: Duration = Duration::from_millis(250);
/// How long after its end a message may leave that was in a batch by then: each of some hundred trains may find its socket full,
/// for up to 2 ms.
const LEAVES_LATE_MAX: Duration = Duration::from_millis(100);

/// How long a flow's peer is silent before it is given up (`try_span_max`), and a message that waited for it.
const SILENT_MAX: Duration = Duration::from_secs(9);
/// Shards of an engine, at most.
const SHARDS_MAX: u32 = 3;
/// How long after an engine ended a message to it may fail because it closes: half a second nothing is sent to it (R-RESTART-3),
/// and what says so may be on its way for as long.
const CLOSING_MAX: Duration = Duration::from_secs(1);

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An operation without an outcome at the end.
    NoOutcome(u64),
    /// An operation with more than one.
    TwoOutcomes(u64),
    /// Delivered says the sender, but the receiver never got it, or, where it gets messages at once, not yet.
    FalseSuccess(u64),
    /// Committed says the sender, but the receiver's application has not said so by then.
    FalseCommit(u64),
    /// The receiver got it more than once.
    DeliveredTwice(u64),
    /// The receiver got other bytes or metadata than were put, or nobody put it, or it was meant for another.
    WrongMessage(u64),
    /// The receiver got it before another of its lane that was put before it and had not ended, or after one put later.
    OutOfTurn(u64),
    /// Delivered says the sender, at another level than it was put with.
    WrongLevel(u64),
    /// It ended so long after its deadline.
    Late(u64, Duration),
    /// It left its sender's socket so long after it had ended.
    SentAfterEnd(u64, Duration),
    /// Put after the network healed, and not delivered.
    NotDeliveredWhenHealed(u64),
    /// A row went to a v1 peer again although neither it nor its confirm was lost.
    SentEarly(String),
    /// A datagram to a v1 peer that is no row, or none that is for it: whose, to whom, what.
    NotForV1(String),
    /// A v1 peer's receive loop ended: why, and by what datagram.
    PeerDied(String),
    /// A v1 peer's message was delivered though its rows were not all confirmed, or the other way round.
    NotAsBrought(u64),
    /// A row of a v1 peer was never confirmed, and no limit was reached that would explain it.
    WithheldForNothing(u64),
    /// Counters that do not add up: what, and by how much.
    Ledger(String),
    /// The sender was told that the receiver was never reached, but it was.
    ReachedAfterAll(u64),
    /// The sender was told that a peer had restarted, or was closing, that never did.
    FalseRestart(u64),
    /// The sender was told that its engine stopped, which it never did.
    FalseStop(u64),
    /// A shard does not sleep though nothing is under way.
    Restless(String),
    /// Memory that should be free again is not.
    Leak(String),
    /// More is kept than a limit allows.
    OverLimit(String),
    /// The world was too tame to prove anything.
    TooLittle(String),
    /// Virtual time ran out.
    NeverFinished,
}

/// Which wire a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    BetweenEngines,
    ToV1,
    FromV1,
}

/// One planned message and its fate.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    pub(crate) kind: Kind,
    pub(crate) sender: usize,
    /// Its sender's application has put it.
    pub(crate) sent: bool,
    /// Its sender crashed: nobody is there to be told.
    pub(crate) abandoned: bool,
    pub(crate) receiver: usize,
    pub(crate) payload: Vec<u8>,
    /// What its sender takes its receiver for.
    pub(crate) wire: Wire,
    /// It may have gone in rows: a receiver that starts again knows nothing of those it confirmed (R-DEDUP-6).
    pub(crate) by_rows: bool,
    /// What was put with it: a correlation, if any, and the level its sender waits for.
    pub(crate) options: (Option<u64>, Level),
    /// And the application's own bytes.
    pub(crate) meta: Option<Vec<u8>>,
    /// The lane it was put into.
    pub(crate) lane: Option<u16>,
    /// Larger than its receiver takes, or its sender: where it is refused for good, others of its lane go on before its sender
    /// is told (R-LANE-3).
    pub(crate) too_large: bool,
    /// Put after the network healed, to a live engine.
    pub(crate) must_arrive: bool,
    /// In rows that need a place among the receiver's partial messages.
    pub(crate) in_parts: bool,
    /// The shard whose actor put it.
    pub(crate) actor: Option<usize>,
    /// That shard had been told by then that something came to the start of the receiver that is there.
    pub(crate) knew_start: bool,
    /// The engine accepted it then; it has to end so long after.
    pub(crate) put_at: Option<Instant>,
    pub(crate) lifetime: Duration,
    /// Its receiver's application keeps it, where its sender waits for that.
    pub(crate) commits: bool,
    /// And has said so.
    pub(crate) committed: bool,
    /// Its sender changes its mind so long after it put it.
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) outcomes: Vec<Outcome>,
    /// When its application was told the first one.
    pub(crate) ended_at: Option<Instant>,
    /// What a v1 sender knows at its end.
    pub(crate) v1_sent: Option<V1Sent>,
    /// What the tries of a v1 sender brought; told last.
    pub(crate) brought: Option<Brought>,
    pub(crate) received: u32,
    /// By which start of its receiver, last.
    pub(crate) received_by: u32,
    /// It was in its receiver's bucket when that crashed: it arrived, and no application got it.
    pub(crate) lost: bool,
}

impl Fate {
    /// Of a message with nothing beside its bytes, over flows, of which nothing has happened yet.
    pub(crate) const fn new(kind: Kind, sender: usize, receiver: usize, payload: Vec<u8>) -> Self {
        Self {
            kind,
            sender,
            sent: false,
            abandoned: false,
            receiver,
            payload,
            wire: Wire::Binary,
            by_rows: false,
            options: (None, Level::Accepted),
            meta: None,
            lane: None,
            too_large: false,
            must_arrive: false,
            in_parts: false,
            actor: None,
            knew_start: false,
            put_at: None,
            lifetime: Duration::ZERO,
            commits: true,
            committed: false,
            cancel_after: None,
            outcomes: Vec::new(),
            ended_at: None,
            v1_sent: None,
            brought: None,
            received: 0,
            received_by: 0,
            lost: false,
        }
    }

    const fn has_ended(&self) -> bool {
        !self.outcomes.is_empty() || self.v1_sent.is_some() || self.abandoned
    }

    /// Its receiver's application got it, or would have, had it lived.
    const fn arrived(&self) -> bool {
        self.received > 0 || self.lost
    }

    /// An engine, or a v1 peer, had it: it accepted it, or said at once why not.
    pub(crate) const fn is_put(&self) -> bool {
        self.put_at.is_some() || !self.outcomes.is_empty() || self.v1_sent.is_some()
    }

    /// The sender was told that it arrived.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.outcomes.first().is_some_and(Result::is_ok)
            || self.v1_sent.is_some_and(|sent| sent.confirmed_count == sent.chunk_count)
    }
}

/// Everything the applications saw.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) fates: BTreeMap<u64, Fate>,
    pub(crate) violations: Vec<Violation>,
    /// Engines that crashed, or were shut down, and came back.
    pub(crate) restarted: BTreeSet<usize>,
    /// How often each did.
    starts: BTreeMap<usize, u32>,
    /// How often what an engine sends to others began to take other flows: it started again, or seals with another key. Lanes
    /// begin anew then.
    eras: BTreeMap<usize, u32>,
    /// When each crashed or stopped, last.
    ended_last: BTreeMap<usize, Instant>,
    /// By an actor's engine, era and shard, and receiver: when it was told, last, that a message came to the start of the receiver
    /// that is there now.
    heard: BTreeMap<(usize, u32, usize, usize), Instant>,
    /// Engines whose address has changed: others may send to where they were and to where they are, over two flows, and a
    /// lane is in order on one (R-LANE-1).
    pub(crate) moved: BTreeSet<usize>,
    lanes: LaneOrder,
    /// Messages of lanes that were looked at.
    lanes_judged: u64,
    /// Engines that refused rows after the network healed because their table of partial messages was full.
    pub(crate) had_no_place: BTreeSet<usize>,
    /// The same, because everything in their memory of what was delivered was young.
    pub(crate) had_full_dedup: BTreeSet<usize>,
    /// Engines that are being shut down, and those that were.
    draining: BTreeSet<usize>,
    drained: BTreeSet<usize>,
    pub(crate) scenes: SceneCounts,
    pub(crate) trace: Trace,
    /// Messages that actors refused.
    pub(crate) refused: u64,
    /// Hosts that are handed a message before it is confirmed: actors, and v1 peers. Others find it in a bucket, later.
    pub(crate) get_at_once: BTreeSet<usize>,
    /// By engine: when it, or its application, stood still; and when it did itself.
    still: BTreeMap<usize, Vec<(Instant, Instant)>>,
    suspended: BTreeMap<usize, Vec<(Instant, Instant)>>,
    /// All fates before that have ended.
    ended_below: u64,
    /// When the network healed.
    pub(crate) healed_at: Option<Instant>,
    /// No engine says that it does not know a flow (R-PROT-6).
    pub(crate) sealed: bool,
}

impl Log {
    /// Nothing seen yet.
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, ..Self::default() }
    }

    /// An engine, or its application, does nothing meanwhile.
    pub(crate) fn stands_still(&mut self, engine: usize, from: Instant, until: Instant) {
        self.still.entry(engine).or_default().push((from, until));
    }

    /// An engine does nothing meanwhile.
    pub(crate) fn suspended(&mut self, engine: usize, from: Instant, until: Instant) {
        self.stands_still(engine, from, until);
        self.suspended.entry(engine).or_default().push((from, until));
    }

    /// How long it stood still since then.
    fn stood_still(&self, engine: usize, since: Instant) -> Duration {
        let times = self.still.get(&engine).into_iter().flatten();
        times.map(|&(from, until)| until.since(from.max(since))).sum()
    }

    /// An engine is gone, and all it had under way: all its applications had put but what is `left`.
    pub(crate) fn crashed(&mut self, engine: usize, left: &BTreeSet<u64>) {
        self.ended(engine);
        for (number, fate) in self.fates.iter_mut().filter(|(_, fate)| fate.sender == engine && fate.sent) {
            fate.abandoned |= !fate.has_ended() && !left.contains(number);
        }
    }

    fn ended(&mut self, engine: usize) {
        self.restarted.insert(engine);
        *self.starts.entry(engine).or_default() += 1;
        self.ended_last.insert(engine, self.trace.now());
        self.heard.retain(|&(.., receiver), _| receiver != engine);
        *self.eras.entry(engine).or_default() += 1;
    }

    /// From now on an engine seals with another key. What it has accepted by then is on the old flow or takes the new one, and may
    /// be overtaken (R-PROT-14).
    pub(crate) fn seals_anew(&mut self, engine: usize) {
        *self.eras.entry(engine).or_default() += 1;
        let open = self.fates.iter().filter(|(_, fate)| fate.sender == engine && !fate.has_ended());
        open.for_each(|(number, _)| self.lanes.forget(*number));
    }

    /// An engine is asked to shut down: from now on it may say that it is closing.
    pub(crate) fn draining(&mut self, engine: usize) {
        self.restarted.insert(engine);
        self.draining.insert(engine);
    }

    /// It has stopped. Of what its applications had put, it had accepted all but what is `left`.
    pub(crate) fn drained(&mut self, engine: usize, left: &BTreeSet<u64>) {
        self.ended(engine);
        self.draining.remove(&engine);
        self.drained.insert(engine);
        let accepted = self.fates.iter().filter(|(number, fate)| {
            fate.sender == engine && fate.sent && !fate.abandoned && !left.contains(number)
        });
        let missing = accepted.filter(|(_, fate)| fate.outcomes.is_empty());
        self.violations.extend(missing.map(|(number, _)| Violation::NoOutcome(*number)));
    }

    /// An engine accepted a message from an actor, or from the application outside.
    pub(crate) fn accepted(&mut self, number: u64, actor: Option<usize>) {
        let now = self.trace.now();
        let Some(fate) = self.fates.get_mut(&number) else { return };
        self.trace.message(number, fate.sender, "put it");
        fate.put_at.get_or_insert(now);
        fate.actor = actor;
        let era = self.eras.get(&fate.sender).copied().unwrap_or(0);
        fate.knew_start =
            actor.is_some_and(|shard| self.heard.contains_key(&(fate.sender, era, shard, fate.receiver)));
        let &mut Fate { lane: Some(lane), sender, receiver, .. } = fate else { return };
        self.lanes.put(number, Stream { sender, era, actor, receiver, lane });
    }

    /// Of a message in a lane.
    fn known(&self, number: u64) -> Known {
        match self.fates.get(&number) {
            Some(fate) if fate.arrived() => Known::Received,
            Some(fate) if fate.too_large || fate.outcomes.iter().any(Result::is_err) => Known::Failed,
            _ => Known::Open,
        }
    }

    /// What happened in lanes.
    pub(crate) fn lane_counts(&self) -> LaneCounts {
        LaneCounts { judged: self.lanes_judged, ..self.lanes.counts(|number| self.known(number)) }
    }

    /// An application got a message. Payloads begin with their number in 16 hex digits. Whether it commits it, as it must do
    /// before anything else happens.
    pub(crate) fn received(
        &mut self,
        receiver: usize,
        payload: &[u8],
        options: (Option<u64>, Level),
        meta: Option<&[u8]>,
    ) -> bool {
        let number = number_of(payload).unwrap_or(u64::MAX);
        self.trace.message(number, receiver, "got it");
        if !self.moved.contains(&receiver)
            && let Some(in_turn) = self.lanes.is_in_turn(number, |other| self.known(other))
        {
            self.lanes_judged += 1;
            if !in_turn {
                self.violations.push(Violation::OutOfTurn(number));
            }
        }
        let as_put = |fate: &Fate| {
            (fate.receiver, &fate.payload[..], fate.options, fate.meta.as_deref())
                == (receiver, payload, options, meta)
        };
        match self.fates.get_mut(&number) {
            Some(fate) if as_put(fate) => {
                fate.received += 1;
                fate.committed |= fate.commits;
                let start = self.starts.get(&receiver).copied().unwrap_or(0);
                let earlier = std::mem::replace(&mut fate.received_by, start);
                self.scenes.received_in_drain += u64::from(self.draining.contains(&receiver));
                self.scenes.received_after_drain += u64::from(self.drained.contains(&receiver));
                // The original delivers a row again that comes again.
                if fate.received > 1 && fate.kind != Kind::ToV1 {
                    if fate.by_rows && earlier < start {
                        self.scenes.again_after_restart += 1;
                    } else {
                        self.violations.push(Violation::DeliveredTwice(number));
                    }
                }
            }
            _ => self.violations.push(Violation::WrongMessage(number)),
        }
        self.fates.get(&number).is_none_or(|fate| fate.commits)
    }

    /// An engine crashed with a message that it had received, and its application had not looked for.
    pub(crate) fn lost_in_memory(&mut self, receiver: usize, payload: &[u8]) {
        let number = number_of(payload).unwrap_or(u64::MAX);
        self.trace.message(number, receiver, "lost it");
        self.scenes.lost_in_memory += 1;
        match self.fates.get_mut(&number) {
            Some(fate) if (fate.receiver, &fate.payload[..]) == (receiver, payload) => fate.lost = true,
            _ => self.violations.push(Violation::WrongMessage(number)),
        }
    }

    /// An application was told an outcome.
    pub(crate) fn outcome(&mut self, number: u64, outcome: Outcome) {
        self.trace.outcome(number, &outcome);
        if let Some(&Fate { put_at: Some(put_at), lifetime, sender, .. }) = self.fates.get(&number) {
            let over = self.trace.now().since(put_at + lifetime + self.stood_still(sender, put_at));
            if over > LATE_MAX {
                self.violations.push(Violation::Late(number, over));
            }
        }
        let Some(fate) = self.fates.get_mut(&number) else {
            return self.violations.push(Violation::WrongMessage(number));
        };
        fate.outcomes.push(outcome);
        fate.ended_at.get_or_insert(self.trace.now());
        if fate.outcomes.len() > 1 {
            self.violations.push(Violation::TwoOutcomes(number));
        }
        let era = self.eras.get(&fate.sender).copied().unwrap_or(0);
        let pair = fate.actor.map(|shard| (fate.sender, era, shard, fate.receiver));
        let (draining, drained) = (self.draining.contains(&fate.sender), self.drained.contains(&fate.sender));
        let cause = match outcome {
            Err(DeliveryError { cause, .. }) => cause,
            Ok(delivered) => {
                if delivered.level != fate.options.1 {
                    self.violations.push(Violation::WrongLevel(number));
                }
                // Nobody commits what is still in a bucket: so this is known at once, whoever receives.
                if delivered.level == Level::Committed && !fate.committed {
                    self.violations.push(Violation::FalseCommit(number));
                }
                if fate.received == 0 && self.get_at_once.contains(&fate.receiver) {
                    self.violations.push(Violation::FalseSuccess(number));
                }
                self.scenes.delivered_in_drain += u64::from(draining);
                self.scenes.sent_after_drain += u64::from(drained);
                let start = self.starts.get(&fate.receiver).copied().unwrap_or(0);
                let now = self.trace.now();
                let by_this_start = fate.received > 0 && fate.received_by == start && !fate.by_rows;
                self.heard.extend(pair.filter(|_| by_this_start).map(|pair| (pair, now)));
                return;
            }
        };
        self.scenes.stopped_by_drain += u64::from(draining && cause == FailureCause::EngineStopped);
        let by_drain = self.draining.contains(&fate.receiver) || self.drained.contains(&fate.receiver);
        let closing = cause == FailureCause::Refused(Refusal::Closing);
        self.scenes.closed_by_drain += u64::from(by_drain && closing);
        let restarted = self.restarted.contains(&fate.receiver);
        // Who answers with nothing but confirms of rows is taken for another one (R-DISC-5).
        let restart = cause == FailureCause::PeerRestarted && fate.wire != Wire::Auto;
        let claimed = restart || closing;
        let moved = self.moved.contains(&fate.receiver); // Over two flows.
        // A shard that has heard from the start that is there now knows of the one before it.
        let knows = || pair.and_then(|pair| self.heard.get(&pair)).is_some_and(|at| fate.put_at > Some(*at));
        if claimed && fate.kind == Kind::BetweenEngines && (!restarted || restart && !moved && knows()) {
            self.violations.push(Violation::FalseRestart(number));
        }
    }

    /// Messages that were sent to an earlier start of their receiver, where everything is sealed and nobody says that it is gone: a
    /// sender's shard finds out, once, by what it sends within `SILENT_MAX`. Not one that had heard from this start.
    fn sent_to_the_dead(&self) -> BTreeSet<u64> {
        let mut excused = BTreeSet::new();
        // By sender, shard and receiver: how often, and until when.
        let mut windows: BTreeMap<(usize, Option<usize>, usize), (u32, Instant)> = BTreeMap::new();
        let lost = [Err(DeliveryError { cause: FailureCause::TimedOut, reached: Reached::Unknown })];
        let mut fates: Vec<_> = self.fates.iter().filter(|(_, fate)| fate.outcomes == lost).collect();
        fates.sort_by_key(|(number, fate)| (fate.put_at, **number));
        for (&number, fate) in fates.into_iter().filter(|_| self.sealed) {
            let ended = self.ended_last.get(&fate.receiver);
            let Some(put) = fate.put_at.filter(|put| ended.is_some_and(|ended| put >= ended)) else {
                continue;
            };
            // Which shard of an engine with a bucket sent it nobody knows.
            let often = if fate.actor.is_some() { 1 } else { SHARDS_MAX };
            let window = windows.entry((fate.sender, fate.actor, fate.receiver)).or_insert((0, put));
            if put >= window.1 {
                *window = (window.0 + 1, put + SILENT_MAX);
            }
            if window.0 <= often && (!fate.knew_start || self.moved.contains(&fate.receiver)) {
                excused.insert(number);
            }
        }
        excused
    }

    /// With `auto`: what waits for the answer to a HELLO ends with that, also what was put later; and another one that waited
    /// was put before the network healed.
    fn asked_before_it_healed(&self, fate: &Fate, error: DeliveryError) -> bool {
        let waited = |other: &Fate| {
            (other.sender, other.receiver, other.ended_at) == (fate.sender, fate.receiver, fate.ended_at)
                && other.outcomes == fate.outcomes
                && other.put_at.zip(self.healed_at).is_some_and(|(put, healed)| put < healed)
        };
        fate.wire == Wire::Auto
            && fate.kind == Kind::BetweenEngines
            && error.reached == Reached::Never
            && self.fates.values().any(waited)
    }

    /// Whether a message that had to arrive may have failed for this.
    fn is_excused(&self, fate: &Fate, error: DeliveryError) -> bool {
        match error.cause {
            // What was sent to the earlier incarnation is never sent to the new one.
            FailureCause::PeerRestarted => self.restarted.contains(&fate.receiver),
            // For half a second nothing is sent to where an engine stopped.
            FailureCause::Refused(Refusal::Closing) => {
                let ended = self.ended_last.get(&fate.receiver);
                // Where it ended later, it was closing when the message was put, or the message was under way.
                ended.zip(fate.put_at).is_some_and(|(&ended, put)| {
                    put.since(ended) <= CLOSING_MAX + self.stood_still(fate.sender, ended)
                })
            }
            // What senders left behind half way keeps its place for `partial_idle_max`, which is longer than a row is tried.
            FailureCause::TimedOut => {
                fate.in_parts && self.had_no_place.contains(&fate.receiver)
                    || self.had_full_dedup.contains(&fate.receiver)
                    || self.asked_before_it_healed(fate, error)
            }
            _ => false,
        }
    }

    /// Nothing of a message leaves after its application was told how it ended, but what waited for its socket by then.
    /// `last_sent` knows when a message last left an engine.
    pub(crate) fn judge_last_sent(&mut self, last_sent: impl Fn(usize, u64) -> Option<Instant>) {
        for (&number, fate) in &self.fates {
            let Some(ended_at) = fate.ended_at else { continue };
            let Some(sent_at) = last_sent(fate.sender, number) else { continue };
            self.scenes.ended_after_sent += 1;
            let times = self.suspended.get(&fate.sender).into_iter().flatten();
            let still: Duration =
                times.map(|&(from, until)| until.min(sent_at).since(from.max(ended_at))).sum();
            let after = sent_at.since(ended_at + still);
            if after > LEAVES_LATE_MAX {
                self.violations.push(Violation::SentAfterEnd(number, after));
            }
        }
    }

    /// A v1 peer confirmed or gave up every row of a message.
    pub(crate) fn v1_ended(&mut self, number: u64, sent: V1Sent) {
        if let Some(fate) = self.fates.get_mut(&number) {
            fate.v1_sent = Some(sent);
        }
    }

    /// What one shard's counters add up to, at its end.
    pub(crate) fn sums(&mut self, engine: usize, sums: &[Sum]) {
        let wrong = sums.iter().filter(|sum| sum.residual() != 0);
        self.violations.extend(wrong.map(|sum| Violation::Ledger(format!("engine {engine}: {sum:?}"))));
    }

    /// Nothing is pending any more.
    pub(crate) fn is_complete(&mut self) -> bool {
        let open = self.fates.range(self.ended_below..).find(|(_, fate)| !fate.has_ended());
        self.ended_below = open.map_or(u64::MAX, |(number, _)| *number);
        self.ended_below == u64::MAX
    }

    /// The end: what is missing now is missing for good.
    pub(crate) fn finish(&mut self) {
        let sent_to_the_dead = self.sent_to_the_dead();
        for (number, fate) in &self.fates {
            if !fate.has_ended() {
                self.violations.push(Violation::NoOutcome(*number));
            }
            let failures = || fate.outcomes.iter().flat_map(|outcome| outcome.err());
            let excused = |error| sent_to_the_dead.contains(number) || self.is_excused(fate, error);
            if fate.must_arrive && failures().any(|error| !excused(error)) {
                self.violations.push(Violation::NotDeliveredWhenHealed(*number));
            }
            let stopped = failures().any(|error| error.cause == FailureCause::EngineStopped);
            if stopped && !self.restarted.contains(&fate.sender) {
                self.violations.push(Violation::FalseStop(*number));
            }
            // One start may confirm some rows of a v1 peer's message, and the next one the others.
            let is_cut = fate.kind == Kind::FromV1 && self.restarted.contains(&fate.receiver);
            // Only now, of engines with a bucket: a message may wait there for a slow application.
            if !fate.arrived() && fate.is_confirmed() && !(is_cut && fate.in_parts) {
                self.violations.push(Violation::FalseSuccess(*number));
            }
            let never = failures().any(|error| error.reached == Reached::Never);
            if fate.arrived() && never && fate.kind == Kind::BetweenEngines {
                self.violations.push(Violation::ReachedAfterAll(*number));
            }
            if let Some(brought) = fate.brought {
                let (whole, received) = (brought == Brought::Whole, fate.arrived());
                // A start may end before it has confirmed what it delivered.
                if whole != received && !(is_cut && (received || fate.in_parts)) {
                    self.violations.push(Violation::NotAsBrought(*number));
                }
                let had_room = !self.had_full_dedup.contains(&fate.receiver);
                if fate.must_arrive && fate.received == 0 && had_room {
                    self.violations.push(Violation::NotDeliveredWhenHealed(*number));
                }
            }
        }
    }
}
