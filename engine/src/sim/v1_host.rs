//! A [`V1Peer`] on a real socket: the closest thing to the original that needs no Python.
//!
//! One thread, one socket for both roles, on 127.0.0.1, with the *system's default receive buffer*: whoever sends too
//! much at once loses datagrams, as with the original. It can also pause at random, as a busy event loop does.

use super::python::PythonError;
use super::v1_peer::{READ_BYTES_MAX, V1Message, V1Peer, V1Sent};
use super::{RealClock, python_time, sleep};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Datagrams taken from the socket before commands and timers get their turn.
const RECEIVES_PER_TURN: usize = 64;
/// How long a receive waits; the kernel rounds it up to its tick.
const RECEIVE_WAIT: Duration = Duration::from_millis(1);

/// How the host behaves.
#[derive(Clone, Copy, Debug)]
pub struct V1HostOptions {
    /// Of op ids and pauses.
    pub seed: u64,
    /// Longest pause, in milliseconds; 0 never pauses.
    pub pause_ms_max: u64,
    /// A pause follows one datagram in this many, on average.
    pub pause_every: u32,
}

impl Default for V1HostOptions {
    /// Never pauses.
    fn default() -> Self {
        Self { seed: 1, pause_ms_max: 0, pause_every: 1_000 }
    }
}

/// What the host saw.
#[derive(Clone, Debug, Default)]
pub struct V1HostReport {
    /// Messages in the order they were delivered, with the address of the row that completed each.
    pub delivered: Vec<(SocketAddr, V1Message)>,
    /// What ended the receive loop, with the datagram that did.
    pub death: Option<(PythonError, Vec<u8>)>,
    /// Partial messages that were left.
    pub partial_count: usize,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// The longest of them that the 1,024-byte read could take; equal to 1,024 if one may have been cut.
    pub datagram_bytes_max: usize,
    /// Data rows sent, again included.
    pub rows_sent: u64,
    /// Times it paused.
    pub pauses: u64,
}

struct SendCommand {
    to: SocketAddr,
    text: String,
    reply: Sender<V1Sent>,
}

/// The running host. Dropping it stops the thread.
#[derive(Debug)]
pub struct V1Host {
    address: SocketAddr,
    commands: Option<Sender<SendCommand>>,
    report: Arc<Mutex<V1HostReport>>,
    thread: Option<JoinHandle<()>>,
}

impl V1Host {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(options: V1HostOptions) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(RECEIVE_WAIT))?;
        let address = socket.local_addr()?;
        let (commands, inbox) = mpsc::channel();
        let report = Arc::new(Mutex::new(V1HostReport::default()));
        let worker = Worker {
            socket,
            inbox,
            options,
            report: Arc::clone(&report),
            clock: RealClock::start(),
            random: fastrand::Rng::with_seed(options.seed),
            peer: V1Peer::new(),
            sends: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("v1-host".to_owned()).spawn(move || worker.run())?;
        Ok(Self { address, commands: Some(commands), report, thread: Some(thread) })
    }

    /// Where it listens and what it sends from.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one message the original's way and waits for its end, at most 6 s. The answer tells how many chunks were
    /// really confirmed, and what the original would have [reported](V1Sent::reported).
    pub fn send(&self, to: SocketAddr, text: &str) -> io::Result<V1Sent> {
        let sent = self.send_all(to, &[text])?;
        sent.first().copied().ok_or_else(stopped)
    }

    /// Sends all messages at once, without pacing, and waits for the end of each.
    pub fn send_all(&self, to: SocketAddr, texts: &[&str]) -> io::Result<Vec<V1Sent>> {
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        let mut replies = Vec::new();
        for text in texts {
            let (reply, answer) = mpsc::channel();
            commands.send(SendCommand { to, text: (*text).to_owned(), reply }).map_err(|_| stopped())?;
            replies.push(answer);
        }
        replies.into_iter().map(|answer| answer.recv().map_err(|_| stopped())).collect()
    }

    /// What it saw so far.
    #[must_use]
    pub fn report(&self) -> V1HostReport {
        lock(&self.report).clone()
    }

    /// Stops, and tells what it saw.
    #[must_use]
    pub fn stop(mut self) -> V1HostReport {
        self.join();
        self.report()
    }

    fn join(&mut self) {
        // Without a sender the inbox ends, which ends the thread.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for V1Host {
    fn drop(&mut self) {
        self.join();
    }
}

fn stopped() -> io::Error {
    io::Error::other("the v1 host has stopped")
}

fn lock(report: &Mutex<V1HostReport>) -> MutexGuard<'_, V1HostReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    socket: UdpSocket,
    inbox: Receiver<SendCommand>,
    options: V1HostOptions,
    report: Arc<Mutex<V1HostReport>>,
    clock: RealClock,
    random: fastrand::Rng,
    peer: V1Peer,
    /// Messages under way: op id, destination, who waits.
    sends: Vec<(String, SocketAddr, Sender<V1Sent>)>,
}

impl Worker {
    fn run(mut self) {
        while self.take_commands() {
            self.receive();
            self.send_again();
            self.answer_finished();
        }
    }

    /// False once the host is to stop.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    let now = self.clock.now();
                    let (id, rows) = self.peer.put(&command.text, &python_time(), now, &mut self.random);
                    for row in rows {
                        self.send_row(&row, command.to);
                    }
                    self.sends.push((id, command.to, command.reply));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn send_row(&self, row: &[u8], to: SocketAddr) {
        // A refused datagram is a lost datagram, to the original too.
        let _ = self.socket.send_to(row, to);
        lock(&self.report).rows_sent += 1;
    }

    fn receive(&mut self) {
        let mut datagram = [0; READ_BYTES_MAX];
        for _ in 0..RECEIVES_PER_TURN {
            if self.peer.death().is_some() {
                // The original no longer reads either: its socket fills up and stays full.
                return sleep(RECEIVE_WAIT);
            }
            let Ok((bytes, from)) = self.socket.recv_from(&mut datagram) else { return };
            let datagram = datagram.get(..bytes).unwrap_or_default();
            let event = self.peer.handle(datagram);
            if let Some(confirm) = &event.confirm {
                let _ = self.socket.send_to(confirm, from);
            }
            let mut report = lock(&self.report);
            report.datagrams_received += 1;
            report.datagram_bytes_max = report.datagram_bytes_max.max(bytes);
            report.partial_count = self.peer.partial_count();
            report.delivered.extend(event.delivered.map(|message| (from, message)));
            if let Some(error) = event.death {
                report.death = Some((error, datagram.to_vec()));
            }
            drop(report);
            self.pause();
        }
    }

    fn pause(&mut self) {
        if self.options.pause_ms_max > 0 && self.random.u32(0..self.options.pause_every.max(1)) == 0 {
            sleep(Duration::from_millis(self.random.u64(1..=self.options.pause_ms_max)));
            lock(&self.report).pauses += 1;
        }
    }

    fn send_again(&mut self) {
        for (id, row) in self.peer.poll(self.clock.now()) {
            if let Some((_, to, _)) = self.sends.iter().find(|(sent_id, _, _)| *sent_id == id) {
                self.send_row(&row, *to);
            }
        }
    }

    fn answer_finished(&mut self) {
        let peer = &mut self.peer;
        self.sends.retain(|(id, _, reply)| match peer.sent(id) {
            Some(sent) if sent.finished => {
                let _ = reply.send(sent); // Whoever asked may have gone.
                peer.forget(id);
                false
            }
            sent => sent.is_some(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hosts_talk() {
        let (a, b) = (
            V1Host::start(V1HostOptions::default()).unwrap(),
            V1Host::start(V1HostOptions { pause_ms_max: 2, pause_every: 3, ..V1HostOptions::default() })
                .unwrap(),
        );
        let long = "0123456789".repeat(300);
        let sent = a.send(b.address(), &long).unwrap();
        assert_eq!(sent, V1Sent { chunk_count: 8, confirmed_count: 8, finished: true });
        let sent = a.send_all(b.address(), &["one", "two", "three"]).unwrap();
        assert!(sent.iter().all(V1Sent::reported));
        let report = b.stop();
        let texts: Vec<_> = report.delivered.iter().map(|(_, message)| message.text.as_str()).collect();
        assert_eq!(texts, [&long, "one", "two", "three"]);
        assert!(report.delivered.iter().all(|(from, _)| *from == a.address()));
        assert_eq!((report.death, report.partial_count), (None, 0));
        assert!(report.pauses > 0);
        assert_eq!((a.report().rows_sent, a.report().pauses), (11, 0));
    }

    #[test]
    fn garbage_ends_it_and_is_reported() {
        let host = V1Host::start(V1HostOptions::default()).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.send_to(b"garbage", host.address()).unwrap();
        for _ in 0..1_000 {
            if host.report().death.is_some() {
                break;
            }
            sleep(Duration::from_millis(1));
        }
        assert_eq!(host.stop().death, Some((PythonError::ValueError, b"garbage".to_vec())));
    }
}
