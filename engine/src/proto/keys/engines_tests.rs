//! That no (key, nonce) comes twice, however alike engines are: 100,000 of them, all with one epoch, one address, one key, and
//! the same numbers.

use super::cipher::{Cipher, KEY_BYTES};
use super::*;
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::observe::Counters;
use crate::proto::binary::flows::{Arriving, Flows};
use crate::proto::binary::inflow::Inflows;
use crate::proto::binary::packet_pool::PacketPool;
use crate::proto::binary::source::Shared;
use crate::proto::inbound::Delivery;
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::proto::protection::PacketHead;
use crate::proto::wires::Wires;
use crate::train::TrainBatch;
use crate::units::Instant;
use crate::wire::DropReason;
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

/// Key and nonce of a seal.
type Used = ([u8; KEY_BYTES], u64);

/// Notes what is sealed with which key and nonce. (With one key all nonces have one iv.)
#[derive(Clone, Debug)]
struct Watched {
    keys: PreSharedKeys,
    used: Arc<Mutex<Vec<Used>>>,
}

#[derive(Debug)]
struct WatchedFlow {
    flow: Box<dyn FlowProtection>,
    key: [u8; KEY_BYTES],
    used: Arc<Mutex<Vec<Used>>>,
}

impl Watched {
    fn root(&self, peer: SocketAddr, id: u32) -> Secret {
        self.keys.find(peer, id).unwrap()
    }
}

impl Protection for Watched {
    fn tag_bytes(&self) -> usize {
        self.keys.tag_bytes()
    }
    fn key_id(&self, peer: SocketAddr, present: Option<u32>) -> Option<u32> {
        self.keys.key_id(peer, present)
    }
    fn generation(&self) -> u64 {
        self.keys.generation()
    }
    fn is_retired(&self, peer: SocketAddr, key_id: u32) -> bool {
        self.keys.is_retired(peer, key_id)
    }
    fn has_key(&self, peer: SocketAddr, key_id: u32) -> bool {
        self.keys.has_key(peer, key_id)
    }
    fn seal_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) {
        let key = self.root(head.peer, head.key_id).hello_key(self.keys.cipher, head.key_id, head.salt);
        self.used.lock().unwrap().push((key, 0));
        self.keys.seal_hello(head, body);
    }
    fn open_hello(&self, head: &HelloHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        self.keys.open_hello(head, body)
    }
    fn flow(&self, direction: &Direction) -> Box<dyn FlowProtection> {
        let root = self.root(direction.peer, direction.key_id);
        let key = root.traffic(self.keys.cipher, direction).key();
        Box::new(WatchedFlow { flow: self.keys.flow(direction), key, used: Arc::clone(&self.used) })
    }
}

impl FlowProtection for WatchedFlow {
    fn key_phase(&mut self, packet_number: u64) -> bool {
        self.flow.key_phase(packet_number)
    }
    fn seal(&mut self, head: &PacketHead<'_>, body: &mut [u8]) {
        assert!(!head.key_phase, "one key a direction");
        self.used.lock().unwrap().push((self.key, head.packet_number));
        self.flow.seal(head, body);
    }
    fn open(&mut self, head: &PacketHead<'_>, body: &mut [u8]) -> Result<(), Unauthentic> {
        self.flow.open(head, body)
    }
}

/// What of an engine speaks the binary wire.
pub(super) struct Engine {
    pub(super) flows: Flows<()>,
    inflows: Inflows,
    counters: Counters,
    opened: Vec<u8>,
    pub(super) messages: u32,
}

impl Engine {
    pub(super) fn handle(
        &mut self,
        arriving: &Arriving<'_>,
        batch: &mut TrainBatch,
    ) -> Result<(), DropReason> {
        let Self { flows, inflows, counters, opened, messages } = self;
        let Some(arrived) = flows.handle_sealed(arriving, opened, inflows, batch, counters)? else {
            return Ok(());
        };
        let rest = inflows.take(arriving.now, &arrived, counters, |_, _, _| {
            *messages += 1;
            Delivery::Accepted
        });
        flows.handle_feedback(arriving.now, &arrived, rest, inflows, counters);
        Ok(())
    }

    pub(super) fn put(&mut self, now: Instant, to: SocketAddr) {
        let message = Shared(bytes::Bytes::from_static(b"x"));
        let put = self.flows.put(now, to, message, ((), 0, Duration::from_secs(9)), &mut self.counters);
        assert!(put.is_ok());
    }

    pub(super) fn look_at_keys(&mut self, now: Instant) {
        self.flows.look_at_keys(now, &mut self.inflows, &mut self.counters);
    }

    /// What it says now, with what `batch` holds already.
    pub(super) fn poll(&mut self, now: Instant, batch: &mut TrainBatch) -> Vec<Vec<u8>> {
        self.flows.poll(now, &mut self.inflows, batch, &mut self.counters);
        let mut left: Vec<Vec<u8>> = Vec::new();
        for train in batch.trains() {
            left.extend(batch.bytes(train).chunks(train.segment_bytes).map(<[u8]>::to_vec));
        }
        batch.clear();
        left
    }
}

const NUMBERS: [u64; 3] = [1_000, 2_000, 3_000];
const EPOCH: u32 = 0xcafe_0000;

pub(super) struct Engines {
    config: Config,
    plugins: Plugins,
    watched: Watched,
    pub(super) now: Instant,
    pub(super) batch: TrainBatch,
}

impl Engines {
    pub(super) fn new(keys: PreSharedKeys) -> Self {
        let watched = Watched { keys, used: Arc::default() };
        let config = Config { wire: Wire::Binary, ..Config::preset(Preset::Small) };
        Self {
            config,
            plugins: Plugins { protection: Some(Arc::new(watched.clone())), ..Plugins::default() },
            watched,
            now: Instant::from_ns(1_000_000_000),
            batch: TrainBatch::new(64 << 10, 256, 64),
        }
    }

    pub(super) fn start(&self, seed: &Seed) -> Engine {
        let Self { config, plugins, now, .. } = self;
        let place = Place { shard: 0, shards: 1, families: Families { v4: true, v6: true } };
        let pool = PacketPool::new(1);
        let mut flows = Flows::with_pool(pool, config, plugins, Wires::new(config), place, (seed, *now));
        flows.start_at(NUMBERS);
        flows.set_epoch(EPOCH);
        let inflows = Inflows::new(config, seed, 8 << 20, 1_456);
        Engine { flows, inflows, counters: Counters::default(), opened: Vec::new(), messages: 0 }
    }

    /// A message from one new engine to another; what both sealed.
    fn meet(&mut self, seeds: [&Seed; 2]) -> Vec<Used> {
        let places: [SocketAddr; 2] = [([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 5).into()];
        let mut engines = seeds.map(|seed| self.start(seed));
        let Self { batch, now, .. } = self;
        engines[0].put(*now, places[1]);
        let mut outcomes = Vec::new();
        for _ in 0..10 {
            for from in [0, 1] {
                *now += Duration::from_micros(50);
                let left = engines[from].poll(*now, batch);
                // What the other one says at once leaves in its turn, with the rest.
                for datagram in &left {
                    let arriving =
                        Arriving { now: *now, from: places[from], local: None, datagram, key_id: 0 };
                    let _ = engines[1 - from].handle(&arriving, batch);
                }
            }
            outcomes.append(engines[0].flows.finished());
            if !outcomes.is_empty() {
                break;
            }
        }
        assert!(
            engines[1].messages == 1 && outcomes.len() == 1 && outcomes[0].outcome.is_ok(),
            "{outcomes:?}"
        );
        std::mem::take(&mut *self.watched.used.lock().unwrap())
    }
}

#[test]
fn no_key_and_nonce_come_twice_in_a_hundred_thousand_engines() {
    let line = format!("1 {}", "5a6b7c8d".repeat(8));
    let mut engines = Engines::new(PreSharedKeys::parse(line.as_bytes(), Cipher::default()).unwrap());
    let mut used = BTreeSet::new();
    let mut count = 0;
    for _ in 0..50_000 {
        let seeds = [0; 2].map(|_: u8| Seed::random().unwrap());
        for one in engines.meet([&seeds[0], &seeds[1]]) {
            count += 1;
            assert!(used.insert(one), "twice");
        }
    }
    // Two HELLOs and a datagram each way at least; numbers do come again, for they begin alike.
    assert!(count >= 4 * 50_000, "{count}");
    let numbers: BTreeSet<u64> = used.iter().map(|one| one.1).filter(|&number| number > 0).collect();
    assert!(numbers.len() < 50 && numbers.contains(&(NUMBERS[0] + 1)), "{numbers:?}");
    // What would come of engines whose randomness is the same: the test does find it.
    let seeds = [1, 2].map(Seed::from_number);
    let [first, second] = [(); 2].map(|()| engines.meet([&seeds[0], &seeds[1]]));
    assert_eq!(first, second);
}
