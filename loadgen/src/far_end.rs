//! The receiving end, with either API: the same in `bench` and `serve`.

use crate::audit::Audit;
use crate::cli::{Api, Mode};
use crate::record::{Desk, ServerRecord};
use crate::server::{self, ServerActor};
use crate::stages::Received;
use crate::stop::Stop;
use anyhow::{Result, anyhow};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use udp_plus::{Builder, Engine, Ledger, Stats};

/// The receiving end, at work since it was started.
pub struct FarEnd {
    /// Its engine.
    pub engine: Engine,
    desk: Arc<Desk<ServerRecord>>,
    thread: Option<JoinHandle<()>>,
}

impl FarEnd {
    /// Starts to receive; `audit` makes the books of one receiver. When a message is there is noted in `received`. `ended` is told when the engine stops, by itself too.
    pub fn start(
        builder: Builder,
        mode: Mode,
        api: Api,
        ended: Stop,
        received: Option<Arc<Received>>,
        mut audit: impl FnMut() -> Audit + Send,
    ) -> Result<Self> {
        let desk: Arc<Desk<ServerRecord>> = Arc::default();
        let (engine, thread) = match api {
            Api::Actor => (
                builder
                    .actor(|_| {
                        ServerActor::new(mode, audit(), received.clone(), Arc::clone(&desk), ended.clone())
                    })
                    .start()?,
                None,
            ),
            Api::Buckets => {
                let engine = builder.start()?;
                let (audit, send, recv, desk) =
                    (audit(), engine.send_bucket(), engine.recv_bucket(), Arc::clone(&desk));
                let thread = std::thread::Builder::new().name("server".into());
                let thread = thread.spawn(move || {
                    desk.leave(server::run_buckets(mode, audit, received.as_deref(), &recv, &send));
                    ended.request();
                })?;
                (engine, Some(thread))
            }
        };
        Ok(Self { engine, desk, thread })
    }

    /// Ends it; returns the books, the engine's counters and its ledger.
    pub fn finish(mut self, drain: Duration) -> Result<(ServerRecord, Stats, Ledger)> {
        self.engine.shutdown_blocking(drain);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the server thread panicked"))?;
        }
        let (stats, ledger) = (self.engine.stats(), self.engine.ledger());
        let mut record = ServerRecord { audit: Audit::of_all(), ..ServerRecord::default() };
        self.desk.take().iter().for_each(|other| record.merge(other));
        Ok((record, stats, ledger))
    }
}
