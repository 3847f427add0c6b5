//! The generating end of a run: an engine with either API, or plain sockets. The same in `bench` and `load`.

use crate::cli::{Api, EngineFlags, Mode, Protocol};
use crate::client_actor::ClientActor;
use crate::client_buckets;
use crate::conduct::Party;
use crate::end_books::EndBooks;
use crate::generator::Generator;
use crate::measured::Machinery;
use crate::plain::{self, Threads};
use crate::plan::{Plan, Run};
use crate::progress::Progress;
use crate::record::{ClientRecord, Desk};
use crate::setup::{self, Reach, Traffic};
use crate::slots::SlotTable;
use crate::stages::Received;
use crate::targets::{Targets, from_address};
use anyhow::{Context, Result, anyhow};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use udp_plus::Engine;

/// What a run is about, for the engine that receives all of it. An echo is under way until its acknowledgement is read, and
/// the messages that take its place at the other end may be there before.
pub fn traffic(plan: &Plan) -> Traffic {
    let times = if plan.mode == Mode::Echo { 2 } else { 1 };
    Traffic::of(plan.size as u64, times * plan.in_flight as u64)
}

/// The same for one of the engines that send.
pub fn traffic_each(plan: &Plan) -> Traffic {
    Traffic::of(plan.size as u64, plan.in_flight.div_ceil(plan.engines().max(1)) as u64)
}

/// Files of an engine's shard: socket, rings, and what wakes it.
const FILES_OF_SHARD: usize = 6;

/// The generating end, at work since it was started.
pub struct NearEnd {
    /// What it does.
    pub run: Arc<Run>,
    desk: Arc<Desk<ClientRecord>>,
    carrier: Carrier,
}

enum Carrier {
    /// One for each peer, and the threads of their buckets.
    Engines(Vec<Engine>, Vec<JoinHandle<()>>),
    Sockets(Threads),
}

impl NearEnd {
    /// Starts to put load on `targets`, which note in `received` what they have, if they are in this process. The first peer
    /// sends from `bind`.
    pub fn start(
        plan: &Plan,
        flags: &EngineFlags,
        reach: Reach,
        bind: &str,
        targets: &Targets,
        received: Option<Arc<Received>>,
    ) -> Result<Self> {
        let (targets, progress) = (targets.with_seed(plan.seed), Progress::closed(plan.generators));
        let run = Arc::new(Run { plan: plan.clone(), targets: targets.clone(), progress });
        let desk: Arc<Desk<ClientRecord>> = Arc::default();
        let table = SlotTable::new(plan.generators, plan.slots_each(), plan.mode == Mode::Echo);
        let generator = |index: usize| {
            Generator::new(Arc::clone(&run), index, &table, received.clone(), Arc::clone(&desk))
        };
        let carrier = if plan.protocol == Protocol::UdpPlus {
            engines(plan, flags, reach, bind, &targets, generator)?
        } else {
            Carrier::Sockets(plain::start_near(plan, flags, &targets, generator)?)
        };
        run.progress.open();
        let near = Self { run, desk, carrier };
        near.parties().iter().for_each(|party| party.wake());
        Ok(near)
    }

    /// For whoever conducts the run.
    pub fn parties(&self) -> Vec<&dyn Party> {
        match &self.carrier {
            Carrier::Engines(engines, _) => engines.iter().map(|engine| engine as &dyn Party).collect(),
            Carrier::Sockets(threads) => vec![threads],
        }
    }

    /// What it is made of.
    pub fn machinery(&self) -> Result<Machinery> {
        match &self.carrier {
            Carrier::Engines(engines, _) => {
                let mut all = engines.iter().map(Machinery::of_engine);
                let first = all.next().context("no engine")?;
                Ok(Machinery {
                    rcvbuf_bytes: all.fold(first.rcvbuf_bytes, |least, other| least.min(other.rcvbuf_bytes)),
                    ..first
                })
            }
            Carrier::Sockets(threads) => Ok(threads.machinery()),
        }
    }

    /// Ends it; returns the generators' books, and its own.
    pub fn finish(self) -> Result<(ClientRecord, EndBooks)> {
        let books = match self.carrier {
            Carrier::Sockets(threads) => threads.finish()?,
            Carrier::Engines(mut engines, threads) => {
                for engine in &mut engines {
                    engine.shutdown_blocking(Duration::from_secs(1));
                }
                for thread in threads {
                    thread.join().map_err(|_| anyhow!("a client thread panicked"))?;
                }
                let of_engine =
                    |engine: &Engine| EndBooks::of_engine("near", &engine.stats(), &engine.ledger());
                let mut all = engines.iter().map(of_engine);
                let mut books = all.next().context("no engine")?;
                all.for_each(|other| books.merge(other));
                books
            }
        };
        let mut records = self.desk.take().into_iter();
        let mut record = records.next().context("the generators left no books")?;
        records.for_each(|other| record.merge(&other));
        // What was on its way to whoever conducts the run.
        self.run.progress.exchange.collect(&mut record.latency);
        Ok((record, books))
    }
}

/// An engine for each peer.
fn engines(
    plan: &Plan,
    flags: &EngineFlags,
    reach: Reach,
    bind: &str,
    targets: &Targets,
    generator: impl Fn(usize) -> Generator + Sync,
) -> Result<Carrier> {
    let toward = targets.of(0);
    let (mut engines, mut threads) = (Vec::new(), Vec::new());
    let each = plan.generators / plan.engines();
    setup::raise_file_limit(plan.engines() * usize::from(flags.shards) * FILES_OF_SHARD)?;
    for peer in 0..plan.engines() {
        let bind = if peer == 0 { bind.to_owned() } else { from_address(peer, toward).to_string() };
        let core = u16::try_from(peer)?.wrapping_mul(flags.shards);
        let builder = setup::builder(flags, bind, reach, traffic_each(plan))?.pin_first_core(core);
        if plan.api == Api::Actor {
            let actor = |shard: usize| ClientActor::new(generator(peer * each + shard));
            engines.push(builder.actor(actor).start()?);
            continue;
        }
        let engine = builder.start()?;
        let (generator, send, recv) = (generator(peer), engine.send_bucket(), engine.recv_bucket());
        let thread = std::thread::Builder::new().name("client".into());
        threads.push(thread.spawn(move || client_buckets::run(generator, &send, &recv))?);
        engines.push(engine);
    }
    Ok(Carrier::Engines(engines, threads))
}
