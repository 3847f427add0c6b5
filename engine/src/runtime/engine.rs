//! [`Engine`]: starts the shards, hands out the buckets, stops everything.

use super::actor::App;
use super::bucket::{RecvBucket, SendBucket};
use super::builder::Builder;
use super::completion::lock;
use super::driver::Driver;
use super::kernel_side::{self, KernelSide};
use super::key_file::KeyFile;
use super::listening::Listening;
use super::mmsg_driver::MmsgDriver;
use super::shard::{Setup, Shard};
use super::shared::{Ending, Phase, ShardLink, Shared};
use super::uring_driver::{DriverOptions, UringDriver};
use super::watchdog;
use crate::config::{Config, DriverChoice};
use crate::error::{ConfigError, PutError, StartError, Stopped};
use crate::hash::Seed;
use crate::message::{Delivered, Message, Outgoing};
use crate::observe::{self, Counters, Ledger, ShardLedger};
use crate::proto::outbound::{Families, Place};
use crate::proto::plugins::Plugins;
use crate::proto::wires::Wires;
use crate::sys;
use crate::sys::clock::Clock;
use crate::sys::error::OsError;
use crate::sys::socket::{ShardSocket, SocketOptions};
use crate::sys::wake::Wake;
use bytes::Bytes;
use event_listener::Listener;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

/// How long a drop waits for the shards' threads. They end within their turn, unless an actor does not return.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// The kernel interface in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll, recvmmsg and sendmmsg.
    Mmsg,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Mmsg => "mmsg",
        })
    }
}

/// Which driver runs, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverReport {
    /// The driver.
    pub kind: DriverKind,
    /// Why this one.
    pub reason: String,
}

/// A snapshot of the counters.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// All shards together.
    pub total: Counters,
    /// Shard by shard.
    pub shards: Vec<Counters>,
    /// Packets the kernel dropped at our sockets because their buffers were full (SO_MEMINFO), a GRO train counting as
    /// one; `None` if the kernel does not tell.
    pub kernel_drops: Option<u64>,
    /// Payload bytes of the longest datagram of the binary wire in use: to the peer for which that was found out, or
    /// changed, last; the largest of all shards. `None`: no flow has opened yet.
    pub datagram_bytes: Option<u16>,
}

/// A running engine. Dropping it ends every pending operation at once; to let them end in peace, use
/// [`shutdown`](Self::shutdown).
///
/// Either way peers of the binary wire are told (CLOSE), and the sockets are closed when the call returns: the port is free.
/// For that, dropping waits for the shards' threads, which end within their turn; for 2 s at most, should an actor not
/// return from its callback (or wait there for a lock that whoever drops the engine holds). On a shard's own thread (an
/// actor that owns the engine, a waker the shard runs) nobody waits for himself: the call returns at once, and the port is
/// free a moment after the callback has returned.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    kernel: KernelSide,
    rcvbuf_bytes: u32,
    local_addr: SocketAddr,
    driver: DriverReport,
    keys: Option<KeyFile>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    watchdog: Mutex<Option<JoinHandle<()>>>,
    thread_ids: Vec<ThreadId>,
    recv: RecvBucket,
    send: SendBucket,
}

impl Engine {
    /// Options with their defaults.
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn start<A: App>(
        config: &Config,
        plugins: &Plugins,
        keys: Option<KeyFile>,
        bind: SocketAddr,
        mut make_app: impl FnMut(usize, &Arc<Shared>) -> A,
    ) -> Result<Self, StartError> {
        let driver = choose_driver(config.driver)?;
        let kernel = KernelSide::open();
        let group = sys::socket::bind_group(&SocketOptions {
            bind,
            shards: config.shards as usize,
            rcvbuf_bytes: config.rcvbuf_bytes as usize,
            sndbuf_bytes: config.sndbuf_bytes as usize,
            gro: config.gro,
            steering: config.steering,
            v6_only: config.v6_only,
            whole_datagrams: Wires::new(config).has_flows(),
        })?;
        warn_of_small_buffers(config, &group.sockets);
        if config.steering && config.shards > 1 && !group.steered {
            tracing::warn!(
                "the kernel does not steer datagrams to their shards; they are forwarded in user space"
            );
        }
        let seed = Seed::random().map_err(|error| StartError::Os {
            message: format!("the kernel gives no randomness: {error}"),
            errno: error.raw_os_error().unwrap_or_default(),
        })?;
        let wakes = (0..config.shards).map(|_| Wake::new().map(Arc::new)).collect::<Result<Vec<_>, _>>()?;
        let families = Families {
            v4: bind.is_ipv4() || (bind.ip().is_unspecified() && !config.v6_only),
            v6: bind.is_ipv6(),
        };
        let shared = Shared::new(config, families, &seed, wakes);
        let segments_max = if config.gso { sys::caps::gso_segments_max() } else { 1 };
        let (started, starts) = mpsc::channel();
        let mut threads = Vec::new();
        // All of them before the first thread: they are the user's code, and may panic.
        let apps: Vec<A> = (0..config.shards).map(|shard| make_app(shard as usize, &shared)).collect();
        for ((shard, socket), app) in (0..config.shards).zip(&group.sockets).zip(apps) {
            let place = Place { shard, shards: config.shards, families };
            let thread = ShardThread {
                config: config.clone(),
                plugins: plugins.clone(),
                place,
                seed: seed.clone(),
                shared: Arc::clone(&shared),
                socket: Arc::clone(socket),
                driver: driver.kind,
                segments_max,
                started: started.clone(),
            };
            let spawned =
                std::thread::Builder::new().name(format!("udp-plus-{shard}")).spawn(move || thread.main(app));
            let spawned = match spawned {
                Ok(spawned) => spawned,
                Err(error) => {
                    for _ in shard..config.shards {
                        Ending::ALL.into_iter().for_each(|ending| shared.ended(ending));
                        shared.shard_gone();
                    }
                    stop_started(&shared, threads);
                    return Err(StartError::Os {
                        message: format!("cannot start the thread of shard {shard}: {error}"),
                        errno: error.raw_os_error().unwrap_or_default(),
                    });
                }
            };
            threads.push(spawned);
        }
        drop(started);
        // Every shard builds its driver on its own thread; all of them, or none.
        for _ in 0..threads.len() {
            let died = || OsError::new("starting a shard", libc::ECHILD, "its thread panicked; see the log");
            if let Err(error) = starts.recv().unwrap_or_else(|_| Err(died())) {
                stop_started(&shared, threads);
                return Err(error.into());
            }
        }
        let watchdog = if config.stall_after.is_zero() {
            None
        } else {
            // Without it a stall is still counted, once it is over.
            let started = watchdog::start(&shared, config.stall_after);
            started.inspect_err(|error| tracing::warn!(%error, "nobody watches for stalled shards")).ok()
        };
        tracing::info!(addr = %group.local_addr, shards = config.shards, driver = %driver.kind, reason = driver.reason, "engine started");
        Ok(Self {
            recv: RecvBucket::new(Arc::clone(&shared.recv)),
            send: SendBucket::new(Arc::clone(&shared)),
            shared,
            rcvbuf_bytes: group.sockets.iter().map(|socket| socket.rcvbuf_bytes() as u32).min().unwrap_or(0),
            kernel: kernel.with(group.sockets),
            local_addr: group.local_addr,
            driver,
            keys,
            thread_ids: threads.iter().map(|thread| thread.thread().id()).collect(),
            threads: Mutex::new(threads),
            watchdog: Mutex::new(watchdog),
        })
    }

    /// Sends `message` to `host`:`port` and waits for its outcome. `host` is an address or a name; names are resolved on
    /// a helper thread. Waits for room when the send bucket is full.
    ///
    /// Dropped before the message is accepted (while the name is resolved, or there is no room), nothing is sent. Dropped after
    /// that, the message goes on, and nobody is told its outcome.
    ///
    /// # Errors
    /// The name has no address, the message cannot be sent at all, or it was not delivered.
    pub async fn put_message(
        &self,
        host: &str,
        port: u16,
        message: impl Into<Bytes>,
    ) -> Result<Delivered, PutError> {
        let to = self.resolve(host, port).await?;
        let delivery = self.send.put(Outgoing::to(to, message)).await?;
        Ok(delivery.await?)
    }

    /// The next received message. Any number of callers may wait; each message goes to one.
    ///
    /// # Errors
    /// [`Stopped`] once the engine has stopped and the receive bucket is empty.
    pub async fn get_message(&self) -> Result<Message, Stopped> {
        self.recv.get().await
    }

    /// A send bucket with a completion queue of its own (shared by its clones).
    #[must_use]
    pub fn send_bucket(&self) -> SendBucket {
        SendBucket::new(Arc::clone(&self.shared))
    }

    /// The receive bucket.
    #[must_use]
    pub fn recv_bucket(&self) -> RecvBucket {
        self.recv.clone()
    }

    /// The address and port the engine is bound to.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Which driver runs, and why.
    #[must_use]
    pub const fn driver(&self) -> &DriverReport {
        &self.driver
    }

    /// The socket receive buffer the kernel granted, in bytes as it counts them (twice what was asked for; 212,992 is the
    /// default of Linux); the smallest of all shards.
    #[must_use]
    pub const fn rcvbuf_bytes(&self) -> u32 {
        self.rcvbuf_bytes
    }

    /// The counters. A busy shard publishes its own every 32 turns, an idle one before it sleeps.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut total = Counters::default();
        let (mut shards, mut datagram_bytes) = (Vec::new(), 0);
        for link in &self.shared.links {
            let (counters, gauges) = link.read();
            total.add(&counters);
            datagram_bytes = datagram_bytes.max(gauges.datagram_bytes);
            shards.push(counters);
        }
        let datagram_bytes = u16::try_from(datagram_bytes).ok().filter(|&bytes| bytes > 0);
        Stats { total, shards, kernel_drops: self.kernel.drops(), datagram_bytes }
    }

    /// Where every message and every datagram went. Its sums hold at any time, those of a busy shard as of its latest
    /// publication (see [`stats`](Self::stats)); beside them stands what the kernel says of the sockets, and of the whole
    /// network namespace. Reads `/proc/net/snmp`: for reports and monitoring, not for every message.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let (sockets, now) = (self.kernel.memory(), Clock.now());
        let of_shard = |(shard, link): (usize, &ShardLink)| {
            let (counters, gauges) = link.read();
            let memory = sockets.get(shard).copied().flatten();
            let socket = memory.map(|memory| kernel_side::socket_ledger(&memory, &counters, &gauges));
            let stalled = self.shared.stalled(shard, now);
            ShardLedger { sums: observe::sums(&counters, &gauges), socket, stalled }
        };
        Ledger::new(self.shared.links.iter().enumerate().map(of_shard).collect(), self.kernel.host())
    }

    /// Reads the `key_file` again. Flows whose key is gone end; how to go over to another key without losing a message says
    /// [`PreSharedKeys`](crate::protection::PreSharedKeys).
    ///
    /// # Errors
    /// There is no `key_file`, it cannot be read, or what is in it are no keys; the keys are then those from before.
    pub fn reload_keys(&self) -> Result<(), ConfigError> {
        match &self.keys {
            Some(keys) => {
                keys.reload()?;
                self.shared.wake_all();
                Ok(())
            }
            None => {
                Err(ConfigError { option: "key_file", problem: "the engine was started without one".into() })
            }
        }
    }

    /// Gives every shard's actor a turn ([`Actor::on_turn`](crate::Actor::on_turn)).
    pub fn wake(&self) {
        self.shared.wake_all();
    }

    /// Why the engine stopped by itself, if it did: what a shard's thread, or an actor in it, panicked with.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Takes no more messages, lets pending operations end, for at most `deadline`, and stops; what is left then ends
    /// `EngineStopped`. Received messages stay in the receive bucket. When it returns the sockets are closed.
    ///
    /// It takes longer than `deadline` where an actor does not return from its callback: shards end within their turn. On a
    /// shard's own thread (an actor that blocks on it) it never returns: what it waits for is itself.
    pub async fn shutdown(&self, deadline: Duration) {
        self.shared.advance(Phase::Draining(Clock.now() + deadline));
        loop {
            let listener = self.shared.listen_gone();
            if self.shared.shards_running() == 0 {
                break;
            }
            Listening::new(listener).await;
        }
        self.join();
    }

    /// As [`shutdown`](Self::shutdown), blocking the calling thread. On a shard's own thread it returns at once: what it
    /// would wait for is itself.
    pub fn shutdown_blocking(&self, deadline: Duration) {
        self.shared.advance(Phase::Draining(Clock.now() + deadline));
        if self.is_on_shard() {
            return;
        }
        loop {
            let listener = self.shared.listen_gone();
            if self.shared.shards_running() == 0 {
                break;
            }
            listener.wait();
        }
        self.join();
    }

    /// The shards are past their last word: waits for threads that are returning, and lets go of the sockets. Where several
    /// threads shut down, each waits. Not a shard's own, in a waker that it calls last of all.
    fn join(&self) {
        if !self.is_on_shard() {
            let mut threads = lock(&self.threads);
            for thread in threads.drain(..) {
                let _ = thread.join();
            }
            drop(threads);
            let mut watchdog = lock(&self.watchdog);
            if let Some(watchdog) = watchdog.take() {
                let _ = watchdog.join();
            }
        }
        self.kernel.close();
        #[cfg(any(test, feature = "sim"))]
        self.assert_balanced();
    }

    /// Every test's last check, of every engine it had: nothing got lost inside.
    #[cfg(any(test, feature = "sim"))]
    fn assert_balanced(&self) {
        // A shard that panicked may have done so between a thing and its count.
        if std::thread::panicking() || self.failure().is_some() {
            return;
        }
        let ledger = self.ledger();
        assert_eq!(ledger.residual(), 0, "{ledger}\n{:?}", ledger.shards);
        for shard in &ledger.shards {
            let Some(socket) = shard.socket else { continue };
            assert!(socket.packets_dropped_told <= socket.packets_dropped, "{ledger}");
            // A packet has one datagram at least, so where one side has nothing the other one has nothing either.
            let of = |name| shard.sums.iter().find(|sum| sum.name == name);
            let handed = of("datagrams_built").map_or(0, |sum| sum.part("handed_to_the_kernel"));
            assert!(socket.packets_sent <= handed && (socket.packets_sent > 0) == (handed > 0), "{ledger}");
            let taken = of("datagrams_taken").map_or(0, |sum| sum.total);
            assert!(socket.packets_received - socket.packets_unreadable <= taken, "{ledger}");
        }
    }

    /// The calling thread is one of the shards'.
    fn is_on_shard(&self) -> bool {
        self.thread_ids.contains(&std::thread::current().id())
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, PutError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        let families = self.shared.families;
        let name = host.to_owned();
        let resolved = blocking::unblock(move || {
            let addresses = (name.as_str(), port).to_socket_addrs()?;
            let mut usable = addresses.filter(|addr| if addr.is_ipv4() { families.v4 } else { families.v6 });
            usable
                .next()
                .ok_or_else(|| std::io::Error::other("no address of a family this engine is bound to"))
        });
        resolved.await.map_err(|error| PutError::Resolve { host: host.to_owned(), error })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.advance(Phase::Stopping);
        if self.is_on_shard() {
            return;
        }
        let until = Clock.now() + DROP_WAIT;
        loop {
            let listener = self.shared.listen_gone();
            if self.shared.shards_running() == 0 {
                return self.join();
            }
            let left = until.since(Clock.now());
            if left.is_zero() || listener.wait_timeout(left).is_none() {
                tracing::warn!("an actor does not return: the port is not free yet");
                return;
            }
        }
    }
}

/// A start that failed leaves nothing behind: the port is free when it returns.
fn stop_started(shared: &Shared, threads: Vec<JoinHandle<()>>) {
    shared.advance(Phase::Stopping);
    for thread in threads {
        let _ = thread.join();
    }
}

/// What a shard's thread is started with.
struct ShardThread {
    config: Config,
    plugins: Plugins,
    place: Place,
    seed: Seed,
    shared: Arc<Shared>,
    socket: Arc<ShardSocket>,
    driver: DriverKind,
    segments_max: usize,
    started: Sender<Result<(), OsError>>,
}

impl ShardThread {
    fn main<A: App>(self, app: A) {
        // Its last word comes whatever happens before.
        let gone = Gone { shared: Arc::clone(&self.shared), ended: None };
        if self.config.pin {
            let cores = sys::affinity::cores();
            let core = usize::from(self.config.pin_first_core) + usize::from(self.place.shard);
            if let Some(&core) = cores.get(core % cores.len().max(1))
                && let Err(error) = sys::affinity::pin(core)
            {
                tracing::warn!(%error, core, "cannot pin the shard");
            }
        }
        let wake = Arc::clone(&self.shared.links[self.place.shard as usize].wake);
        let options = DriverOptions { recv_buffers: self.config.recv_buffers, ..DriverOptions::default() };
        match self.driver {
            DriverKind::Uring => {
                let driver = UringDriver::new(Arc::clone(&self.socket), wake, &options);
                self.with(driver, app, gone);
            }
            DriverKind::Mmsg => {
                let driver = MmsgDriver::new(Arc::clone(&self.socket), wake, &options);
                self.with(driver, app, gone);
            }
        }
    }

    fn with<D: Driver, A: App>(self, driver: Result<D, OsError>, app: A, mut gone: Gone) {
        let shared = Arc::clone(&self.shared);
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => {
                let _ = self.started.send(Err(error));
                return;
            }
        };
        let setup = Setup {
            rcvbuf_bytes: self.socket.rcvbuf_bytes() as u64,
            config: &self.config,
            plugins: &self.plugins,
            place: self.place,
            seed: &self.seed,
            shared: &self.shared,
            segments_max: self.segments_max,
            clock: || Clock.now(),
        };
        let mut shard = Shard::new(&setup, driver, app);
        let _ = self.started.send(Ok(()));
        drop(self.started);
        // The shard, and with it the ring and every buffer the kernel may write to, lives outside the catch.
        let mut failed = false;
        let mut guard = |shard: &mut Shard<D, A>, act: &mut dyn FnMut(&mut Shard<D, A>, bool)| {
            // Its second call, if the first one panicked, does without the actor.
            for _ in 0..2 {
                let Err(panic) = catch_unwind(AssertUnwindSafe(|| act(shard, failed))) else { return };
                let cause = cause_of(panic.as_ref());
                tracing::error!(shard = self.place.shard, cause, "a shard panicked; the engine stops");
                shared.fail(format!("shard {} panicked: {cause}", self.place.shard));
                if std::mem::replace(&mut failed, true) {
                    return;
                }
            }
        };
        guard(&mut shard, &mut |shard, failed| {
            if !failed {
                shard.run()
            }
        });
        guard(&mut shard, &mut Shard::stop);
        for ending in Ending::ALL {
            gone.ended(ending);
            shared.wait_all_ended(ending);
            guard(&mut shard, &mut Shard::stop_inbox);
        }
        // Destructors of the application may panic as well; the engine's own last word must come all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(shard)));
        drop(gone);
    }
}

/// Says that a shard has ended and is gone, at the latest when it is dropped.
struct Gone {
    shared: Arc<Shared>,
    /// What it has said already.
    ended: Option<Ending>,
}

impl Gone {
    fn ended(&mut self, ending: Ending) {
        self.ended = Some(ending);
        self.shared.ended(ending);
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        for ending in Ending::ALL.into_iter().filter(|&ending| self.ended < Some(ending)) {
            self.shared.ended(ending);
        }
        self.shared.shard_gone();
    }
}

/// What a panic said.
fn cause_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn choose_driver(choice: DriverChoice) -> Result<DriverReport, StartError> {
    let report = |kind, reason: &str| Ok(DriverReport { kind, reason: reason.to_owned() });
    // On a thread of its own: taking a ring down can interrupt the next blocking call of the thread that built it.
    let probe_uring = || std::thread::scope(|scope| scope.spawn(sys::caps::probe_uring).join());
    let probe_uring = || probe_uring().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    match choice {
        DriverChoice::Mmsg => report(DriverKind::Mmsg, "driver = mmsg was asked for"),
        DriverChoice::Uring => match probe_uring() {
            Ok(()) => report(DriverKind::Uring, "driver = uring was asked for"),
            Err(reason) => Err(StartError::UringUnavailable { reason: reason.to_string() }),
        },
        DriverChoice::Auto => match probe_uring() {
            Ok(()) => {
                report(DriverKind::Uring, "io_uring works here: a ring was built and received a datagram")
            }
            Err(reason) => {
                tracing::warn!(%reason, "io_uring cannot be used");
                report(DriverKind::Mmsg, &reason.to_string())
            }
        },
    }
}

fn warn_of_small_buffers(config: &Config, sockets: &[Arc<ShardSocket>]) {
    let Some(got) = sockets.iter().map(|socket| socket.rcvbuf_bytes()).min() else { return };
    if let Some(advice) = sys::socket::rcvbuf_advice(config.rcvbuf_bytes as usize, got) {
        tracing::warn!(advice, "the socket receive buffer is smaller than asked for");
    }
}

impl From<OsError> for StartError {
    fn from(error: OsError) -> Self {
        Self::Os { message: error.to_string(), errno: error.errno }
    }
}
