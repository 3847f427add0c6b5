//! One production shard, its socket in the hands of a harness.
//!
//! A harness puts datagrams into the [`Socket`], sets its time, lets the shard work with [`End::work`], and takes what it
//! sent. The application, [`Player`], puts what it is given and writes everything into the [`Book`].

use super::bytes::Bytes;
use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, Reached, SubmitReason};
use crate::hash::Seed;
use crate::message::{Level, MessageRef, Outcome, Outgoing, Verdict};
use crate::observe::Counters;
use crate::proto::congestion::Algorithm;
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::runtime::driver::{Driver, DriverCounters, Received, SendFailure};
use crate::runtime::internals::{Actor, ActorApp, Context, Setup, Shard, Shared, Turn, lock};
use crate::sim::kept;
use crate::sys::wake::Wake;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Not zero: time differences reach back.
const START: Instant = Instant::from_ns(1_000_000_000_000);
const UNIX_START_US: u64 = 1_764_000_000_000_000;
/// Turns at one instant; more means that the shard spins.
const TURNS_MAX: usize = 5_000;
/// Datagrams of one length, the last of which may be shorter.
#[derive(Clone, Debug)]
pub(super) struct Train {
    /// Whom it is from, in a socket; whom it is for, once sent.
    pub(super) peer: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) segment_bytes: usize,
}

impl Train {
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        // An empty datagram is one, too.
        let empty = self.bytes.is_empty().then_some(&[][..]);
        empty.into_iter().chain(self.bytes.chunks(self.segment_bytes.max(1)))
    }
}

/// The kernel's side of a shard.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) now: Instant,
    pub(super) arriving: VecDeque<Train>,
    pub(super) sent: Vec<Train>,
    /// What the next trains are refused with.
    pub(super) refusals: VecDeque<i32>,
}

/// See [`Socket`].
pub(super) struct SocketDriver {
    socket: Rc<RefCell<Socket>>,
    counters: DriverCounters,
}

impl Driver for SocketDriver {
    fn now(&mut self) -> Instant {
        self.socket.borrow().now
    }

    fn unix_time(&mut self) -> UnixMicros {
        UnixMicros(UNIX_START_US + self.socket.borrow().now.as_ns() / 1_000)
    }

    fn receive(&mut self, mut sink: impl FnMut(Received<'_>) -> ControlFlow<()>) -> usize {
        let mut count = 0;
        loop {
            let Some(train) = self.socket.borrow_mut().arriving.pop_front() else { return count };
            count += 1;
            self.counters.trains_received += 1;
            let Train { peer: from, bytes, segment_bytes } = &train;
            let received = Received { from: *from, local: None, bytes, segment_bytes: *segment_bytes };
            if sink(received).is_break() {
                return count;
            }
        }
    }

    fn may_have_more(&self) -> bool {
        false
    }

    fn transmit(&mut self, batch: &TrainBatch, failures: &mut Vec<SendFailure>) {
        let mut socket = self.socket.borrow_mut();
        for (index, train) in batch.trains().iter().enumerate() {
            if let Some(errno) = socket.refusals.pop_front() {
                failures.push(SendFailure { train: index, errno });
                continue;
            }
            self.counters.trains_sent += 1;
            self.counters.segments_sent += train.segments as u64;
            let (bytes, segment_bytes) = (batch.bytes(train).to_vec(), train.segment_bytes);
            socket.sent.push(Train { peer: train.to, bytes, segment_bytes });
        }
    }

    fn want_writable(&mut self) {}

    fn wait_writable(&mut self, _: Duration) {}

    fn park(&mut self, _: Option<Instant>) {}

    fn counters(&self) -> DriverCounters {
        self.counters
    }
}

/// One message and what became of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
    /// Correlation and bytes of metadata.
    pub(super) beside: (Option<u64>, Option<Vec<u8>>),
    pub(super) outcome: Option<Outcome>,
    /// How often the other application got it.
    pub(super) received: u32,
    /// That application has committed it.
    committed: bool,
    /// Put when nothing went wrong any more.
    pub(super) must_arrive: bool,
}

/// What applications put, got and were told. Payloads that are to be found again begin with their number.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) entries: BTreeMap<u64, Entry>,
}

impl Book {
    /// A message of so many bytes, at least 8.
    pub(super) fn write(&mut self, to: SocketAddr, bytes: usize, must_arrive: bool) -> Outgoing {
        let number = self.entries.len() as u64;
        let mut payload = format!("{number:08x}").into_bytes();
        payload.resize(bytes.max(8), b'a' + (number % 26) as u8);
        let outgoing = Outgoing::to(to, payload.clone()).tag(number);
        let (outcome, beside) = (None, (None, None));
        let entry = Entry { to, payload, beside, outcome, received: 0, committed: false, must_arrive };
        self.entries.insert(number, entry);
        outgoing
    }

    /// `commits`: the application commits it, before anything else happens.
    fn received(&mut self, at: SocketAddr, message: &MessageRef<'_>, commits: bool) {
        let payload = message.payload;
        let number = payload.get(..8).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(u64::MAX);
        let entry = self.entries.get_mut(&number).expect("a message somebody put");
        assert_eq!((entry.to, &entry.payload[..]), (at, payload), "message {number} as it was put");
        let beside = (message.correlation(), message.meta().map(<[u8]>::to_vec));
        assert_eq!(entry.beside, beside, "what is beside message {number}");
        entry.received += 1;
        assert_eq!(entry.received, 1, "message {number} arrives once");
        entry.committed = commits;
    }

    /// `is_known`: whatever comes to the other application is in the book.
    fn ended(&mut self, number: u64, outcome: Outcome, is_known: bool) {
        let entry = self.entries.get_mut(&number).expect("the outcome of a message that was put");
        if let (Ok(delivered), true) = (outcome, is_known) {
            assert_eq!(entry.received, 1, "message {number} has arrived when it is said: {outcome:?}");
            let committed = delivered.level == Level::Committed;
            assert!(!committed || entry.committed, "message {number} was committed when it is said");
        }
        let before = entry.outcome.replace(outcome);
        assert!(before.is_none(), "message {number} ends twice: {before:?}, {outcome:?}");
    }

    pub(super) fn is_complete(&self) -> bool {
        self.entries.values().all(|entry| entry.outcome.is_some())
    }
}

/// The application.
pub(super) struct Player {
    addr: SocketAddr,
    /// Others than those of the book send, too: nothing is known of what arrives.
    among_strangers: bool,
    pub(super) shared: Arc<Mutex<PlayerState>>,
    pub(super) book: Arc<Mutex<Book>>,
}

/// What a harness tells the application.
#[derive(Debug, Default)]
pub(super) struct PlayerState {
    pub(super) plan: VecDeque<Outgoing>,
    /// So many messages are refused.
    pub(super) refuses: u8,
    /// So many are not committed.
    pub(super) uncommitted: u8,
}

impl Actor for Player {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        let mut state = lock(&self.shared);
        if let Some(left) = state.refuses.checked_sub(1) {
            state.refuses = left;
            return Verdict::Refuse;
        }
        let commit = message.take_commit().filter(|_| {
            let left = state.uncommitted.checked_sub(1);
            state.uncommitted = left.unwrap_or(0);
            left.is_none()
        });
        if !self.among_strangers {
            lock(&self.book).received(self.addr, &message, commit.is_some());
        }
        if let Some(commit) = commit {
            commit.commit();
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        lock(&self.book).ended(tag, outcome, !self.among_strangers);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        let mut state = lock(&self.shared);
        while let Some(outgoing) = state.plan.pop_front() {
            let Err(back) = context.put(outgoing) else { continue };
            if !matches!(back.reason, SubmitReason::Full) {
                let error = DeliveryError { cause: back.reason.cause(), reached: Reached::Never };
                lock(&self.book).ended(back.outgoing.tag, Err(error), !self.among_strangers);
                continue;
            }
            state.plan.push_front(*back.outgoing);
            context.wake_at(context.now() + Duration::from_millis(5));
            break;
        }
    }
}

/// See the module.
pub(super) struct End {
    pub(super) addr: SocketAddr,
    pub(super) config: Config,
    pub(super) socket: Rc<RefCell<Socket>>,
    pub(super) player: Arc<Mutex<PlayerState>>,
    shared: Arc<Shared>,
    shard: Shard<SocketDriver, ActorApp<Player>>,
}

impl End {
    /// Limits are small, so that they are met; which ones, and what else differs, is drawn from the input.
    pub(super) fn start(
        script: &mut Bytes<'_>,
        wire: Wire,
        addr: SocketAddr,
        book: &Arc<Mutex<Book>>,
        among_strangers: bool,
        plugins: &Plugins,
    ) -> Self {
        let mut config = config(script, wire);
        if plugins.protection.is_some() {
            config.peers_max = config.peers_max.max(8); // While keys change, two have up to four flows.
        }
        // Of the tag nothing is taken off.
        config.datagram_bytes_max = config.datagram_bytes_max.map(|bytes| bytes + plugins.tag_bytes() as u16);
        config.validate().expect("limits that go together");
        plugins.validate(&config).expect("limits that leave room for the tag");
        let socket = Rc::new(RefCell::new(Socket {
            now: START,
            arriving: VecDeque::new(),
            sent: Vec::new(),
            refusals: VecDeque::new(),
        }));
        let families = Families { v4: true, v6: false };
        // Two of the same randomness may meet; but under a shared key each would take the other for itself (R-PROT-7).
        let host = match addr.ip() {
            IpAddr::V4(ip) if plugins.protection.is_some() => ip.octets()[3],
            _ => 1,
        };
        let seed = Seed::from_number(u64::from(u32::from_be_bytes([0, 0, host, script.below(4)])));
        let wake = Arc::new(Wake::new().expect("an eventfd"));
        let shared = Shared::new(&config, families, &seed, vec![wake]);
        let rcvbuf_bytes = [50_000, 200_000, 2 << 20][usize::from(script.below(3))];
        let setup = Setup {
            rcvbuf_bytes,
            config: &config,
            plugins,
            place: Place { shard: 0, shards: 1, families },
            seed: &seed,
            shared: &shared,
            segments_max: 64,
            clock: || START,
        };
        let player = Arc::<Mutex<PlayerState>>::default();
        let actor = Player { addr, among_strangers, shared: Arc::clone(&player), book: Arc::clone(book) };
        let driver = SocketDriver { socket: Rc::clone(&socket), counters: DriverCounters::default() };
        let mut shard = Shard::new(&setup, driver, ActorApp(actor));
        let flows = &mut shard.endpoint_mut().outbound.flows;
        if let Some(quiet_ms) = [None, Some(5), Some(200)][usize::from(script.below(3))] {
            flows.set_sleeps_after(Duration::from_millis(quiet_ms));
        }
        if let Some(before) = script.option(Bytes::u8) {
            // Numbers on the wire are cut to 32 bits.
            flows.start_at([(1 << 32) - 1 - u64::from(before % 60); 3]);
        }
        if let Some(blocks) = script.option(|script| script.below(3)) {
            flows.set_pool_blocks(1 + usize::from(blocks));
        }
        Self { addr, config, socket, player, shared, shard }
    }

    /// The application puts a message in the next turn.
    pub(super) fn put(&self, outgoing: Outgoing) {
        lock(&self.player).plan.push_back(outgoing);
        self.shared.wake_all();
    }

    /// Its keys have changed.
    pub(super) fn wake(&self) {
        self.shared.wake_all();
    }

    /// Turns until there is nothing more to do now.
    pub(super) fn work(&mut self, now: Instant) {
        self.socket.borrow_mut().now = now;
        for _ in 0..TURNS_MAX {
            if self.shard.turn() == Turn::Idle && !self.shard.has_mail() {
                return self.check();
            }
        }
        unreachable!("a shard that is never idle");
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.shard.next_deadline()
    }

    pub(super) fn counters(&self) -> &Counters {
        self.shard.counters()
    }

    /// What holds at any time: memory within its limits, and counters that add up.
    fn check(&self) {
        let of_shard = kept::by_shard(self.shard.endpoint(), &self.config);
        for (what, kept, limit) in of_shard.into_iter().chain(kept::by_all(&self.shared, &self.config)) {
            assert!(kept <= limit, "{what}: {kept} of {limit}");
        }
        for sum in self.shard.sums() {
            assert_eq!(sum.residual(), 0, "{sum:?}");
        }
    }

    /// What must have been given back once nothing is under way.
    pub(super) fn held(&self) -> Vec<String> {
        let endpoint = self.shard.endpoint();
        let mut held = endpoint.outbound.flows.held();
        held.extend(endpoint.inflows.held());
        let inbound = self.shard.inbound();
        if inbound.partials() > 0 || inbound.partial_bytes() > 0 {
            held.push(format!("{} partials, {} bytes", inbound.partials(), inbound.partial_bytes()));
        }
        held
    }
}

/// What it is and what it counted, for who looks for a cause.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.addr, self.config)?;
        self.counters()
            .iter()
            .filter(|row| row.1 > 0)
            .try_for_each(|(label, count)| write!(f, "\n  {label} {count}"))
    }
}

fn config(script: &mut Bytes<'_>, wire: Wire) -> Config {
    let mut pick = |count: u8| usize::from(script.below(count));
    let mut config = Config { wire, ..Config::preset(Preset::Small) };
    config.ops_in_flight_max = [8, 64, 512][pick(3)];
    config.peers_max = [2, 8, 32][pick(3)];
    config.partials_max = [2, 8, 64][pick(3)];
    config.partials_per_peer_max = config.partials_max;
    (config.message_bytes_max, config.partial_bytes_max) =
        [(100_000, 200_000), (30_000, 34_000), (9_000, 64_000)][pick(3)];
    config.partial_bytes_per_peer_max = config.partial_bytes_max;
    config.send_bytes_max = 1 << 20;
    config.recv_bucket_bytes = 1 << 20;
    config.recv_bucket_messages = 64;
    config.tombstones_max = [64, 1_024][pick(2)];
    config.dedup_pages_max = [4, 32][pick(2)];
    config.congestion = [Algorithm::Model, Algorithm::Cubic, Algorithm::Fixed][pick(3)];
    config.datagram_bytes_max = [None, Some(512), Some(9_000)][pick(3)];
    config
}
