//! The generating end of a run, with either API: the same in `bench` and `load`.

use crate::cli::{Api, EngineFlags};
use crate::client_actor::ClientActor;
use crate::client_buckets;
use crate::generator::Generator;
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
use udp_plus::{Engine, Ledger, Stats};

/// What a run is about, for the engines.
pub fn traffic(plan: &Plan) -> Traffic {
    Traffic::of(plan.size as u64, plan.in_flight as u64)
}

/// The generating end, at work since it was started.
pub struct NearEnd {
    /// Its engine.
    pub engine: Engine,
    /// What it does.
    pub run: Arc<Run>,
    desk: Arc<Desk<ClientRecord>>,
    thread: Option<JoinHandle<()>>,
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
        let builder = setup::builder(flags, bind, reach, traffic(plan))?.pin_first_core(0);
        let generator = |index: usize| {
            Generator::new(Arc::clone(&run), index, &table, received.clone(), Arc::clone(&desk))
        };
        let (engine, thread) = match plan.api {
            Api::Actor => (builder.actor(|shard| ClientActor::new(generator(shard))).start()?, None),
            Api::Buckets => {
                let engine = builder.start()?;
                let (generator, send, recv) = (generator(0), engine.send_bucket(), engine.recv_bucket());
                let thread = std::thread::Builder::new().name("client".into());
                let thread = thread.spawn(move || client_buckets::run(generator, &send, &recv))?;
                (engine, Some(thread))
            }
        };
        Ok(Self { engine, run, desk, thread })
    }

    /// Ends it; returns the books, the engine's counters and its ledger.
    pub fn finish(mut self) -> Result<(ClientRecord, Stats, Ledger)> {
        self.engine.shutdown_blocking(Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the client thread panicked"))?;
        }
        let (stats, ledger) = (self.engine.stats(), self.engine.ledger());
        let mut records = self.desk.take().into_iter();
        let mut record = records.next().context("the generators left no books")?;
        records.for_each(|other| record.merge(&other));
        // What was on its way to whoever conducts the run.
        self.run.progress.exchange.collect(&mut record.latency);
        Ok((record, stats, ledger))
    }
}
