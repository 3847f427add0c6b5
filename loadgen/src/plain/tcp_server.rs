//! The receiving side over TCP: one thread accepts, all serve. Mode echo sends back what came; mode sink sends the number of
//! messages of the connection that are in the books, once for all that came together.

use super::TCP_BYTES_MAX;
use super::frame::{self, End};
use super::stream::Stream;
use super::threads::Shared;
use super::wait::{Bell, Ready, Waiter};
use crate::audit::{Audit, Seen};
use crate::cli::Mode;
use crate::clock;
use crate::record::ServerRecord;
use crate::stages::{Had, Received};
use anyhow::Result;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A number of messages: shorter than any message.
pub const COUNT_BYTES: usize = 8;
/// A connection with more to write is not read from.
const OUT_BYTES_MAX: usize = 4 << 20;
/// Connections of a thread; one more is closed at once.
const CONNECTIONS_MAX: usize = 16_384;
/// What a thread holds of unfinished messages and of unwritten answers, in all: the connection that would take more is closed.
const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Where the system lets nobody else in (too many open files), it is asked again after this long: a connection that waits for
/// `accept` is one more thing to do at every look.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Reads of one connection before the others get their turn.
const READS_PER_TURN: usize = 8;

/// Connections on their way to a thread.
#[derive(Clone, Debug)]
pub struct Inbox {
    connections: Arc<Mutex<Vec<TcpStream>>>,
    bell: Bell,
}

impl Inbox {
    /// Of the thread that `bell` wakes.
    pub fn new(bell: Bell) -> Self {
        Self { connections: Arc::default(), bell }
    }

    fn add(&self, connection: TcpStream) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        self.bell.ring();
    }

    fn take(&self) -> Vec<TcpStream> {
        std::mem::take(&mut self.connections.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One connection.
struct Connection {
    stream: Stream,
    taken: u64,
}

/// A thread of the receiving side.
pub struct TcpServer {
    /// The thread that accepts has it, not blocking, and everybody's inbox.
    listener: Option<(TcpListener, Vec<Inbox>)>,
    /// Nobody could be let in: the waiter does not look at the listener.
    is_deaf: bool,
    inbox: Inbox,
    next_inbox: usize,
    mode: Mode,
    record: ServerRecord,
    received: Option<Arc<Received>>,
    connections: Vec<Option<Connection>>,
    /// Memory of all connections.
    memory_bytes: usize,
    memory_bytes_max: usize,
    waiter: Waiter,
    shared: Arc<Shared>,
}

impl TcpServer {
    /// A thread with books of its own. `listener` for one of them.
    pub fn new(
        listener: Option<(TcpListener, Vec<Inbox>)>,
        inbox: Inbox,
        mode: Mode,
        audit: Audit,
        received: Option<Arc<Received>>,
        waiter: Waiter,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        if let Some((listener, _)) = &listener {
            waiter.add(listener, CONNECTIONS_MAX, false)?;
        }
        let record = ServerRecord { audit, ..ServerRecord::default() };
        Ok(Self {
            listener,
            is_deaf: false,
            inbox,
            next_inbox: 0,
            mode,
            record,
            received,
            connections: Vec::new(),
            memory_bytes: 0,
            memory_bytes_max: MEMORY_BYTES_MAX,
            waiter,
            shared,
        })
    }

    /// Until it is told to stop; its books.
    pub fn run(mut self) -> Result<ServerRecord> {
        while !self.shared.is_stopping() {
            self.turn()?;
        }
        Ok(self.record)
    }

    fn turn(&mut self) -> Result<()> {
        self.waiter.wait(self.is_deaf.then_some(ACCEPT_AGAIN))?;
        if self.is_deaf {
            self.accept()?;
        }
        let ready = std::mem::take(&mut self.waiter.ready);
        for &Ready { index, .. } in &ready {
            if index == CONNECTIONS_MAX {
                self.accept()?;
            } else if self.serve(index).is_err() {
                self.remove(index);
            }
        }
        self.waiter.ready = ready;
        for connection in self.inbox.take() {
            self.add(connection);
        }
        Ok(())
    }

    /// In turns to all threads.
    fn accept(&mut self) -> Result<()> {
        let Some((listener, inboxes)) = &self.listener else { return Ok(()) };
        let is_deaf = loop {
            match listener.accept() {
                Ok((connection, _)) => {
                    inboxes[self.next_inbox % inboxes.len()].add(connection);
                    self.next_inbox += 1;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break false,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => break true,
                },
            }
        };
        if is_deaf != self.is_deaf {
            self.waiter.set(listener, CONNECTIONS_MAX, !is_deaf, false)?;
            self.is_deaf = is_deaf;
        }
        Ok(())
    }

    fn add(&mut self, connection: TcpStream) {
        let free = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        if free == CONNECTIONS_MAX {
            return;
        }
        // What fails here is closed, which the other end sees.
        let Ok(stream) = Stream::new(connection, free, OUT_BYTES_MAX, &self.waiter) else { return };
        self.memory_bytes += stream.memory_bytes();
        let connection = Some(Connection { stream, taken: 0 });
        if free == self.connections.len() {
            self.connections.push(connection);
        } else {
            self.connections[free] = connection;
        }
    }

    fn remove(&mut self, index: usize) {
        if let Some(closed) = self.connections[index].take() {
            self.memory_bytes -= closed.stream.memory_bytes();
        }
    }

    /// A turn of one connection.
    fn serve(&mut self, index: usize) -> Result<(), End> {
        let memory = |connections: &[Option<Connection>]| match connections.get(index) {
            Some(Some(connection)) => connection.stream.memory_bytes(),
            _ => 0,
        };
        let before = memory(&self.connections);
        let served = self.read_and_answer(index);
        let after = memory(&self.connections);
        self.memory_bytes = self.memory_bytes - before + after;
        served?;
        if after > before && self.memory_bytes > self.memory_bytes_max {
            return Err(End::TooLong);
        }
        Ok(())
    }

    fn read_and_answer(&mut self, index: usize) -> Result<(), End> {
        let Some(Some(Connection { stream, taken })) = self.connections.get_mut(index) else { return Ok(()) };
        stream.write(&self.waiter)?;
        for _ in 0..READS_PER_TURN {
            if stream.is_full() {
                // Whoever does not read is not read from: what waits goes out first.
                break;
            }
            let read = stream.read();
            let read_ns = clock::now_ns();
            let taken_before = *taken;
            while let Some(message) = stream.frames.next(TCP_BYTES_MAX)? {
                let seen = self.record.audit.enter(message);
                if let (Some(received), Seen::New(stamp)) = (&self.received, seen) {
                    received.note(stamp.slot, Had { read_ns, at_ns: clock::now_ns() });
                }
                *taken += 1;
                if self.mode == Mode::Echo {
                    frame::append(&mut stream.out, message.len(), |into| into.copy_from_slice(message));
                }
            }
            if self.mode == Mode::Sink && *taken > taken_before {
                frame::append(&mut stream.out, COUNT_BYTES, |into| {
                    into.copy_from_slice(&taken.to_le_bytes())
                });
            }
            stream.write(&self.waiter)?;
            if !read? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Somebody who sends and does not read: the answers that wait count, and the connection ends.
    #[test]
    fn answers_that_nobody_reads_are_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("set");
        let waiter = Waiter::new().expect("the kernel has it");
        let bell = waiter.bell();
        let (inbox, shared) = (Inbox::new(bell.clone()), Arc::<Shared>::default());
        let listener = Some((listener, vec![inbox.clone()]));
        let audit = Audit::of_all();
        let server = TcpServer::new(listener, inbox, Mode::Echo, audit, None, waiter, shared);
        let mut server = server.expect("made");
        server.memory_bytes_max = 1 << 20;
        let mut client = TcpStream::connect(address).expect("it listens");
        client.set_nonblocking(true).expect("set");
        let mut message = Vec::new();
        frame::append(&mut message, 60_000, |into| into.fill(7));
        let (mut at, mut refused) = (0, 0);
        loop {
            // It looks, and does not wait.
            bell.ring();
            server.turn().expect("it goes on");
            match client.write(&message[at..]) {
                Ok(count) => (at, refused) = ((at + count) % message.len(), 0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    refused += 1;
                    assert!(refused < 1_000_000, "it reads no more, and keeps what it has");
                    let held = server.connections.iter().flatten().map(|one| one.stream.memory_bytes());
                    assert_eq!(server.memory_bytes, held.sum::<usize>());
                    assert!(server.memory_bytes <= server.memory_bytes_max, "{}", server.memory_bytes);
                }
                Err(_) => break,
            }
        }
        assert_eq!(server.memory_bytes, 0);
    }
}
