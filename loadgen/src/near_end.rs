//! The generating end of a run: an engine with either API, or plain sockets. The same in `bench` and `load`.

use crate::cli::{Api, EngineFlags, Protocol};
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
use anyhow::{Context, Result, anyhow};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use udp_plus::Engine;

/// What a run is about, for the engines.
pub fn traffic(plan: &Plan) -> Traffic {
    Traffic::of(plan.size as u64, plan.in_flight as u64)
}

/// The generating end, at work since it was started.
pub struct NearEnd {
    /// What it does.
    pub run: Arc<Run>,
    desk: Arc<Desk<ClientRecord>>,
    carrier: Carrier,
}

enum Carrier {
    Engine(Box<Engine>, Option<JoinHandle<()>>),
    Sockets(Threads),
}

impl NearEnd {
    /// Starts to put load on `target`, which notes in `received` what it has, if it is in this process.
    pub fn start(
        plan: &Plan,
        flags: &EngineFlags,
        reach: Reach,
        bind: String,
        target: SocketAddr,
        received: Option<Arc<Received>>,
    ) -> Result<Self> {
        let progress = Progress::new(plan.generators);
        let run = Arc::new(Run { plan: plan.clone(), target, progress });
        let desk: Arc<Desk<ClientRecord>> = Arc::default();
        let table = SlotTable::new(plan.generators, plan.slots_each());
        let generator = |index: usize| {
            Generator::new(Arc::clone(&run), index, &table, received.clone(), Arc::clone(&desk))
        };
        let carrier = match (plan.protocol, plan.api) {
            (Protocol::Udp | Protocol::Tcp, _) => {
                Carrier::Sockets(plain::start_near(plan, flags, target, generator)?)
            }
            (Protocol::UdpPlus, Api::Actor) => {
                let builder = setup::builder(flags, bind, reach, traffic(plan))?.pin_first_core(0);
                let engine = builder.actor(|shard| ClientActor::new(generator(shard))).start()?;
                Carrier::Engine(Box::new(engine), None)
            }
            (Protocol::UdpPlus, Api::Buckets) => {
                let engine = setup::builder(flags, bind, reach, traffic(plan))?.pin_first_core(0).start()?;
                let (generator, send, recv) = (generator(0), engine.send_bucket(), engine.recv_bucket());
                let thread = std::thread::Builder::new().name("client".into());
                let thread = thread.spawn(move || client_buckets::run(generator, &send, &recv))?;
                Carrier::Engine(Box::new(engine), Some(thread))
            }
        };
        Ok(Self { run, desk, carrier })
    }

    /// For whoever conducts the run.
    pub fn party(&self) -> &dyn Party {
        match &self.carrier {
            Carrier::Engine(engine, _) => &**engine,
            Carrier::Sockets(threads) => threads,
        }
    }

    /// What it is made of.
    pub fn machinery(&self) -> Machinery {
        match &self.carrier {
            Carrier::Engine(engine, _) => Machinery::of_engine(engine),
            Carrier::Sockets(threads) => threads.machinery(),
        }
    }

    /// Ends it; returns the generators' books, and its own.
    pub fn finish(self) -> Result<(ClientRecord, EndBooks)> {
        let books = match self.carrier {
            Carrier::Sockets(threads) => threads.finish()?,
            Carrier::Engine(engine, thread) => {
                engine.shutdown_blocking(Duration::from_secs(1));
                if let Some(thread) = thread {
                    thread.join().map_err(|_| anyhow!("the client thread panicked"))?;
                }
                EndBooks::of_engine("near", &engine.stats(), &engine.ledger())
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
