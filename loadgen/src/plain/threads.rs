//! The threads of an end that is made of plain sockets, from start to stop, and what they counted.

use super::wait::Bell;
use crate::conduct::Party;
use crate::end_books::EndBooks;
use crate::measured::Machinery;
use crate::udp_drops;
use anyhow::{Result, anyhow};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What the threads of an end share.
#[derive(Debug, Default)]
pub struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Shared {
    /// Whether it is over.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// So many datagrams were sent.
    pub fn count_sent(&self, datagrams: usize) {
        self.sent.fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// So many came.
    pub fn count_received(&self, datagrams: usize) {
        self.received.fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    fn fail(&self, error: &anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// The threads.
#[derive(Debug)]
pub struct Threads {
    /// What they share.
    pub shared: Arc<Shared>,
    /// Where they receive, or send from.
    pub addresses: Vec<SocketAddr>,
    /// The least receive buffer granted.
    pub rcvbuf_bytes: Option<usize>,
    bells: Vec<Bell>,
    threads: Vec<JoinHandle<()>>,
    /// The addresses are those of UDP sockets.
    is_udp: bool,
}

impl Threads {
    /// None yet.
    pub fn new(is_udp: bool) -> Self {
        let shared = Arc::default();
        Self {
            shared,
            addresses: Vec::new(),
            rcvbuf_bytes: None,
            bells: Vec::new(),
            threads: Vec::new(),
            is_udp,
        }
    }

    /// A socket of theirs.
    pub fn add_socket(&mut self, address: SocketAddr, rcvbuf_bytes: usize) {
        self.addresses.push(address);
        self.rcvbuf_bytes = Some(self.rcvbuf_bytes.map_or(rcvbuf_bytes, |least| least.min(rcvbuf_bytes)));
    }

    /// Starts one more, which `bell` wakes; on a core of its own if `core` says so.
    pub fn spawn(
        &mut self,
        name: &str,
        bell: Bell,
        core: Option<usize>,
        work: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Some(core) = core {
                crate::baseline::pin(core);
            }
            if let Err(error) = work() {
                shared.fail(&error);
            }
        })?;
        self.threads.push(thread);
        self.bells.push(bell);
        Ok(())
    }

    /// What they are.
    pub fn machinery(&self) -> Machinery {
        let reason = if self.is_udp { "plain UDP, sendmmsg and recvmmsg" } else { "plain TCP, nodelay" };
        let rcvbuf_bytes = self.rcvbuf_bytes.map(|bytes| bytes as u64);
        Machinery { driver: "sockets".to_owned(), reason: reason.to_owned(), rcvbuf_bytes }
    }

    /// Ends them. Returns what they counted.
    pub fn finish(mut self) -> Result<EndBooks> {
        // While the sockets are open.
        let kernel_drops = self.kernel_drops();
        self.end()?;
        let count = |count: &AtomicU64| self.is_udp.then(|| count.load(Ordering::Relaxed));
        Ok(EndBooks {
            datagrams_sent: count(&self.shared.sent),
            datagrams_received: count(&self.shared.received),
            kernel_drops,
            ..EndBooks::default()
        })
    }

    /// Tells all to end, and waits until they have.
    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wake();
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if ended.iter().any(Result::is_err) {
            Err(anyhow!("a thread of plain sockets panicked"))
        } else {
            Ok(())
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Party for Threads {
    fn failure(&self) -> Option<String> {
        if let Some(failure) = &*self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(failure.clone());
        }
        let died = !self.shared.is_stopping() && self.threads.iter().any(JoinHandle::is_finished);
        died.then(|| "a thread of plain sockets ended".to_owned())
    }

    fn kernel_drops(&self) -> Option<u64> {
        if self.is_udp { udp_drops::at(&self.addresses) } else { None }
    }

    fn wake(&self) {
        self.bells.iter().for_each(Bell::ring);
    }
}
