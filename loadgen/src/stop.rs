//! Ctrl-C. The first one (or a SIGTERM) asks for an orderly end, the second one ends the process.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whether the user has asked to stop. Cheap to clone; any thread may wait.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Listens to the signals from now on.
    pub fn on_signals() -> Result<Self> {
        Self::on_signals_with(|| {})
    }

    /// The same; who asks twice ends the process, after `at_once` has done what cannot be left.
    pub fn on_signals_with(at_once: impl Fn() + Send + 'static) -> Result<Self> {
        let stop = Self::default();
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen to Ctrl-C")?;
        let told = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if told.is_requested() {
                    at_once();
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                told.request();
            }
        })?;
        Ok(stop)
    }

    /// Asks to stop.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Whether someone asked.
    pub fn is_requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until someone asks.
    pub fn wait(&self) {
        let mut requested = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*requested {
            requested = self.0.1.wait(requested).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks for `timeout`, or until someone asks; returns whether someone did.
    pub fn wait_for(&self, timeout: Duration) -> bool {
        let requested = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(requested, timeout, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
