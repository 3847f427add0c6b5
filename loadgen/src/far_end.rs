//! The receiving end: an engine with either API, or plain sockets. The same in `bench` and `serve`.

use crate::audit::Audit;
use crate::cli::{Api, EngineFlags, Mode, Protocol};
use crate::conduct::Party;
use crate::end_books::EndBooks;
use crate::measured::Machinery;
use crate::plain::{self, Threads};
use crate::record::{Desk, ServerRecord};
use crate::server::{self, ServerActor};
use crate::stages::Received;
use crate::stop::Stop;
use anyhow::{Context, Result, anyhow};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use udp_plus::{Builder, Engine};

/// The receiving end, at work since it was started.
pub struct FarEnd {
    desk: Arc<Desk<ServerRecord>>,
    carrier: Carrier,
}

enum Carrier {
    Engine(Box<Engine>, Option<JoinHandle<()>>),
    Sockets(Threads),
}

impl FarEnd {
    /// Starts to receive; `audit` makes the books of one receiver. When a message is there is noted in `received`. `ended` is
    /// told when the engine stops, by itself too.
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
        Ok(Self { desk, carrier: Carrier::Engine(Box::new(engine), thread) })
    }

    /// The same with plain sockets at `bind`, the first shard on `core` if threads have one each.
    pub fn start_plain(
        (protocol, mode): (Protocol, Mode),
        flags: &EngineFlags,
        (bind, core): (SocketAddr, usize),
        ended: &Stop,
        received: Option<Arc<Received>>,
        audit: impl FnMut() -> Audit,
    ) -> Result<Self> {
        let desk: Arc<Desk<ServerRecord>> = Arc::default();
        let place = plain::Place { bind, core };
        let threads =
            plain::start_far((protocol, mode), flags, place, received.as_ref(), (&desk, ended), audit)?;
        Ok(Self { desk, carrier: Carrier::Sockets(threads) })
    }

    /// Where it receives.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.carrier {
            Carrier::Engine(engine, _) => Ok(engine.local_addr()),
            Carrier::Sockets(threads) => threads.addresses.first().copied().context("no socket"),
        }
    }

    /// The engine, if it is one.
    pub fn engine(&self) -> Option<&Engine> {
        match &self.carrier {
            Carrier::Engine(engine, _) => Some(engine),
            Carrier::Sockets(_) => None,
        }
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

    /// Ends it; returns the receivers' books, and its own.
    pub fn finish(self, drain: Duration) -> Result<(ServerRecord, EndBooks)> {
        let books = match self.carrier {
            Carrier::Sockets(threads) => threads.finish()?,
            Carrier::Engine(engine, thread) => {
                engine.shutdown_blocking(drain);
                if let Some(thread) = thread {
                    thread.join().map_err(|_| anyhow!("the server thread panicked"))?;
                }
                EndBooks::of_engine("far", &engine.stats(), &engine.ledger())
            }
        };
        // The first ones are taken as they are: of a long run a copy is hundreds of megabytes.
        let mut records = self.desk.take().into_iter();
        let mut record = records
            .next()
            .unwrap_or_else(|| ServerRecord { audit: Audit::of_all(), ..ServerRecord::default() });
        records.for_each(|other| record.merge(&other));
        Ok((record, books))
    }
}
