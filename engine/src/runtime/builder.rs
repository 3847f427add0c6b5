//! [`Builder`]: every limit and option by name, checked at start.

use super::actor::{Actor, ActorApp, App, BucketApp};
use super::engine::Engine;
use super::key_file::KeyFile;
use super::shared::Shared;
use crate::config::{Config, ConfirmFrom, DEFAULT_PORT, DriverChoice, Footprint, Preset, Wire};
use crate::error::{ConfigError, StartError};
use crate::peer_match::PeerMatch;
use crate::proto::congestion::{Algorithm, CongestionFactory};
use crate::proto::keys::Cipher;
use crate::proto::plugins::Plugins;
use crate::proto::protection::Protection;
use crate::proto::retry::{Retries, RetryPolicy};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Makes the application side of one shard.
pub(crate) trait MakeApp: Send {
    type App: App;
    fn make(&mut self, shard: usize, shared: &Arc<Shared>) -> Self::App;
}

/// Messages go to the receive bucket.
#[derive(Debug)]
pub struct ToBucket;

impl MakeApp for ToBucket {
    type App = BucketApp;

    fn make(&mut self, _: usize, shared: &Arc<Shared>) -> BucketApp {
        BucketApp::new(Arc::clone(shared))
    }
}

/// Messages go to actors made by `F`.
#[derive(Debug)]
pub struct ToActors<F>(F);

impl<A: Actor, F: FnMut(usize) -> A + Send> MakeApp for ToActors<F> {
    type App = ActorApp<A>;

    fn make(&mut self, shard: usize, _: &Arc<Shared>) -> ActorApp<A> {
        ActorApp((self.0)(shard))
    }
}

/// Options of an engine to be started. Everything has a default; see [`Config`] for what the options mean.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct Builder<M = ToBucket> {
    bind: String,
    config: Config,
    plugins: Plugins,
    make: M,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            bind: format!("0.0.0.0:{DEFAULT_PORT}"),
            config: Config::default(),
            plugins: Plugins::default(),
            make: ToBucket,
        }
    }
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)+) => {
        $($(#[$doc])* pub fn $name(mut self, $name: $type) -> Self {
            self.config.$name = $name;
            self
        })+
    };
}

impl<M> Builder<M> {
    /// Address and port to receive at, and to send from: `"0.0.0.0:25252"` (the default), `"[::]:0"`, `"localhost:9000"`.
    /// Port 0 lets the kernel choose. `[::]` serves IPv4 too, unless `v6_only`.
    pub fn bind(mut self, address: impl Into<String>) -> Self {
        self.bind = address.into();
        self
    }

    /// Sets all limits to those of a preset; call it before setting single ones.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.config = Config::preset(preset);
        self
    }

    /// Sets all limits and options at once.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Another wire for one peer, or for several: by [`SocketAddr`], [`IpAddr`](std::net::IpAddr) or network, in any order.
    /// The most specific rule for an address counts, else `wire` ([`Config::peer_wires`]). An engine can speak rows with
    /// some peers and the binary wire with others on one port.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use udp_plus::{Engine, PeerMatch, Wire};
    ///
    /// let engine = Engine::builder()
    ///     .bind("127.0.0.1:0")
    ///     .wire(Wire::Auto)
    ///     .peer_wire("10.0.0.0/8".parse::<PeerMatch>()?, Wire::Binary) // Engines of ours.
    ///     .peer_wire(std::net::Ipv4Addr::new(10, 0, 0, 7), Wire::Csv) // But for this original.
    ///     .start()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn peer_wire(mut self, peer: impl Into<PeerMatch>, wire: Wire) -> Self {
        self.config.peer_wires.push((peer.into(), wire));
        self
    }

    options! {
        /// See [`Config::shards`].
        shards: u16,
        /// See [`Config::driver`].
        driver: DriverChoice,
        /// See [`Config::pin`].
        pin: bool,
        /// See [`Config::pin_first_core`].
        pin_first_core: u16,
        /// See [`Config::spin`].
        spin: Duration,
        /// See [`Config::stall_after`].
        stall_after: Duration,
        /// See [`Config::rcvbuf_bytes`].
        rcvbuf_bytes: u32,
        /// See [`Config::sndbuf_bytes`].
        sndbuf_bytes: u32,
        /// See [`Config::gso`].
        gso: bool,
        /// See [`Config::gro`].
        gro: bool,
        /// See [`Config::steering`].
        steering: bool,
        /// See [`Config::v6_only`].
        v6_only: bool,
        /// See [`Config::recv_buffers`].
        recv_buffers: u16,
        /// See [`Config::wire`].
        wire: Wire,
        /// See [`Config::datagram_bytes_max`].
        datagram_bytes_max: Option<u16>,
        /// See [`Config::congestion`].
        congestion: Algorithm,
        /// See [`Config::cipher`].
        cipher: Cipher,
        /// See [`Config::v1_row_bytes_max`].
        v1_row_bytes_max: u32,
        /// See [`Config::v1_chunk_bytes_max`].
        v1_chunk_bytes_max: u32,
        /// See [`Config::v1_window_bytes`].
        v1_window_bytes: u32,
        /// See [`Config::confirm_from`].
        confirm_from: ConfirmFrom,
        /// See [`Config::message_bytes_max`].
        message_bytes_max: u32,
        /// See [`Config::chunk_count_max`].
        chunk_count_max: u32,
        /// See [`Config::ops_in_flight_max`].
        ops_in_flight_max: u32,
        /// See [`Config::send_bytes_max`].
        send_bytes_max: u64,
        /// See [`Config::recv_bucket_messages`].
        recv_bucket_messages: u32,
        /// See [`Config::recv_bucket_bytes`].
        recv_bucket_bytes: u64,
        /// See [`Config::peers_max`].
        peers_max: u32,
        /// See [`Config::partials_max`].
        partials_max: u32,
        /// See [`Config::partials_per_peer_max`].
        partials_per_peer_max: u32,
        /// See [`Config::partial_bytes_max`].
        partial_bytes_max: u64,
        /// See [`Config::partial_bytes_per_peer_max`].
        partial_bytes_per_peer_max: u64,
        /// See [`Config::partial_idle_max`].
        partial_idle_max: Duration,
        /// See [`Config::tombstones_max`].
        tombstones_max: u32,
        /// See [`Config::dedup_pages_max`].
        dedup_pages_max: u32,
        /// See [`Config::dedup_horizon`].
        dedup_horizon: Duration,
        /// See [`Config::deadline_default`].
        deadline_default: Duration,
        /// See [`Config::tries_max`].
        tries_max: u32,
        /// See [`Config::try_span_max`].
        try_span_max: Duration,
        /// See [`Config::rto_initial`].
        rto_initial: Duration,
        /// See [`Config::rto_min`].
        rto_min: Duration,
        /// See [`Config::rto_min_v1`].
        rto_min_v1: Duration,
        /// See [`Config::rto_max`].
        rto_max: Duration,
    }

    /// A congestion controller of one's own for every flow of the binary wire, instead of the option `congestion`: see
    /// [`congestion`](crate::congestion).
    pub fn congestion_factory(mut self, factory: impl CongestionFactory + 'static) -> Self {
        self.plugins.congestion = Some(Arc::new(factory));
        self
    }

    /// When what was not answered is sent again, instead of the engine's own rules: see [`retry`](crate::retry).
    pub fn retry_policy(mut self, policy: impl RetryPolicy + 'static) -> Self {
        self.plugins.retries = Retries(Some(Arc::new(policy)));
        self
    }

    /// Seals every datagram with the keys of a file: see [`Config::key_file`].
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.key_file = Some(path.into());
        self
    }

    /// Seals every datagram, and takes none that is not sealed: see [`protection`](crate::protection). Needs
    /// [`Wire::Binary`], for all peers; peers need the same. Not together with `key_file`.
    pub fn protection(mut self, protection: impl Protection + 'static) -> Self {
        self.plugins.protection = Some(Arc::new(protection));
        self
    }

    /// Puts an [`Actor`] into every shard, made by `make(shard)` before the shard starts; it replaces the receive bucket.
    pub fn actor<A: Actor, F: FnMut(usize) -> A + Send>(self, make: F) -> Builder<ToActors<F>> {
        Builder { bind: self.bind, config: self.config, plugins: self.plugins, make: ToActors(make) }
    }

    /// The memory these limits amount to; prints as a table.
    #[must_use]
    pub fn footprint(&self) -> Footprint {
        self.config.footprint()
    }

    /// The options as they stand.
    #[must_use]
    pub const fn options(&self) -> &Config {
        &self.config
    }

    fn resolve(&self) -> Result<SocketAddr, StartError> {
        let fail = |error| StartError::Resolve { address: self.bind.clone(), error };
        let mut addresses = self.bind.to_socket_addrs().map_err(fail)?;
        addresses.next().ok_or_else(|| fail(std::io::Error::other("the name has no address")))
    }
}

#[expect(private_bounds, reason = "the two implementations are `Builder::new` and `Builder::actor`")]
impl<M: MakeApp> Builder<M> {
    /// Checks the options, binds the sockets and starts the shards.
    ///
    /// # Errors
    /// What is wrong with an option, why the address cannot be bound, or why the demanded driver cannot be used.
    pub fn start(mut self) -> Result<Engine, StartError> {
        self.config.validate()?;
        let keys = self
            .config
            .key_file
            .as_deref()
            .map(|path| KeyFile::open(path, self.config.cipher))
            .transpose()?;
        if let Some(keys) = &keys {
            if self.plugins.protection.is_some() {
                let problem = "a protection of one's own is there already: one of the two".to_owned();
                return Err(ConfigError { option: "key_file", problem }.into());
            }
            self.plugins.protection = Some(Arc::new(keys.keys().clone()));
        }
        self.plugins.validate(&self.config)?;
        let bind = self.resolve()?;
        Engine::start(&self.config, &self.plugins, keys, bind, |shard, shared| self.make.make(shard, shared))
    }
}
