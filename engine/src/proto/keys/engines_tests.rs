//! That no (key, nonce) comes twice, however alike engines are: 100,000 of them, all with one epoch, one address, one key, and
//! the same numbers.

use super::cipher::{Cipher, KEY_BYTES};
use super::*;
use crate::config::{Config, Preset, Wire};
use crate::hash::Seed;
use crate::message::Outcome;
use crate::observe::Counters;
use crate::options::Extras;
use crate::proto::endpoint::{Application, Endpoint};
use crate::proto::inbound::{Delivery, Payload};
use crate::proto::outbound::{Families, Place, Submission};
use crate::proto::plugins::Plugins;
use crate::proto::protection::PacketHead;
use crate::proto::sending::Sending;
use crate::train::TrainBatch;
use crate::units::{Instant, UnixMicros};
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

struct App(u32);

impl Application<u32> for App {
    fn deliver(
        &mut self,
        _: &mut Sending<u32>,
        _: &mut Counters,
        _: SocketAddr,
        _: Option<UnixMicros>,
        _: Payload<'_>,
        _: Option<&Extras<'_>>,
    ) -> Delivery {
        self.0 += 1;
        Delivery::Accepted
    }
}

const NUMBERS: [u64; 3] = [1_000, 2_000, 3_000];
const EPOCH: u32 = 0xcafe_0000;

struct Engines {
    config: Config,
    plugins: Plugins,
    watched: Watched,
    now: Instant,
    batch: TrainBatch,
}

impl Engines {
    fn new() -> Self {
        let line = format!("1 {}", "5a6b7c8d".repeat(8));
        let keys = PreSharedKeys::parse(line.as_bytes(), Cipher::default()).unwrap();
        let watched = Watched { keys, used: Arc::default() };
        // As little memory as an engine can have: there are many.
        let config = Config {
            wire: Wire::Binary,
            ops_in_flight_max: 16,
            tombstones_max: 64,
            dedup_pages_max: 1,
            peers_max: 16,
            ..Config::preset(Preset::Small)
        };
        Self {
            config,
            plugins: Plugins { protection: Some(Arc::new(watched.clone())), ..Plugins::default() },
            watched,
            now: Instant::from_ns(1_000_000_000),
            batch: TrainBatch::new(64 << 10, 256, 64),
        }
    }

    fn start(&self, seed: &Seed) -> Endpoint<u32> {
        let place = Place { shard: 0, shards: 1, families: Families { v4: true, v6: true } };
        let mut endpoint = Endpoint::new(&self.config, &self.plugins, place, seed, self.now, 8 << 20);
        endpoint.outbound.flows.start_at(NUMBERS);
        endpoint.outbound.flows.set_epoch(EPOCH);
        endpoint.outbound.flows.set_pool_blocks(1);
        endpoint
    }

    /// A message from one new engine to another; what both sealed.
    fn meet(&mut self, seeds: [&Seed; 2]) -> Vec<Used> {
        let places: [SocketAddr; 2] = [([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 5).into()];
        let mut engines = seeds.map(|seed| self.start(seed));
        let mut app = App(0);
        let submission = Submission {
            to: places[1],
            payload: bytes::Bytes::from_static(b"x"),
            tag: 0,
            deadline: None,
            options: None,
            completion: 0,
        };
        let Endpoint { outbound, counters, .. } = &mut engines[0];
        assert!(outbound.put(self.now, submission, counters).is_ok());
        let mut outcomes: Vec<Outcome> = Vec::new();
        for _ in 0..10 {
            for from in [0, 1] {
                let to = 1 - from;
                let Self { batch, now, .. } = self;
                *now += Duration::from_micros(50);
                engines[from].handle_timers(*now);
                engines[from].poll_trains(*now, UnixMicros(0), batch);
                let left: Vec<Vec<u8>> = batch
                    .trains()
                    .iter()
                    .flat_map(|train| {
                        batch.bytes(train).chunks(train.segment_bytes).map(<[u8]>::to_vec).collect::<Vec<_>>()
                    })
                    .collect();
                batch.clear();
                // What the other one says at once leaves in its turn, with the rest.
                let train = engines[to].begin_train(*now, places[from], None, batch);
                for datagram in left {
                    engines[to].handle_datagram(&train, &datagram, batch, &mut app);
                }
                engines[to].end_train();
            }
            outcomes.extend(engines[0].outbound.finished().drain(..).map(|op| op.outcome));
            if !outcomes.is_empty() {
                break;
            }
        }
        assert!(app.0 == 1 && matches!(outcomes[..], [Ok(_)]), "{outcomes:?}");
        std::mem::take(&mut *self.watched.used.lock().unwrap())
    }
}

#[test]
fn no_key_and_nonce_come_twice_in_a_hundred_thousand_engines() {
    let mut engines = Engines::new();
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
