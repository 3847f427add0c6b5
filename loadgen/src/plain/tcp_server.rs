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
use crate::stages::Received;
use anyhow::Result;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// A number of messages: shorter than any message.
pub const COUNT_BYTES: usize = 8;
/// A connection with more to write is not read from.
const OUT_BYTES_MAX: usize = 4 << 20;
/// Connections of a thread; one more is closed at once.
const CONNECTIONS_MAX: usize = 16_384;
/// What a thread holds of unfinished messages, in all: the connection that would take more is closed.
const MEMORY_BYTES_MAX: usize = 1 << 30;
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
    inbox: Inbox,
    next_inbox: usize,
    mode: Mode,
    record: ServerRecord,
    received: Option<Arc<Received>>,
    connections: Vec<Option<Connection>>,
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
        let connections = Vec::new();
        Ok(Self { listener, inbox, next_inbox: 0, mode, record, received, connections, waiter, shared })
    }

    /// Until it is told to stop; its books.
    pub fn run(mut self) -> Result<ServerRecord> {
        while !self.shared.is_stopping() {
            self.waiter.wait(None)?;
            let ready = std::mem::take(&mut self.waiter.ready);
            for &Ready { index, .. } in &ready {
                if index == CONNECTIONS_MAX {
                    self.accept();
                } else if self.serve(index).is_err() {
                    self.connections[index] = None;
                }
            }
            self.waiter.ready = ready;
            for connection in self.inbox.take() {
                self.add(connection);
            }
        }
        Ok(self.record)
    }

    /// In turns to all threads.
    fn accept(&mut self) {
        let Some((listener, inboxes)) = &self.listener else { return };
        while let Ok((connection, _)) = listener.accept() {
            inboxes[self.next_inbox % inboxes.len()].add(connection);
            self.next_inbox += 1;
        }
    }

    fn add(&mut self, connection: TcpStream) {
        let free = self.connections.iter().position(Option::is_none).unwrap_or(self.connections.len());
        if free == CONNECTIONS_MAX {
            return;
        }
        // What fails here is closed, which the other end sees.
        let Ok(stream) = Stream::new(connection, free, OUT_BYTES_MAX, &self.waiter) else { return };
        let connection = Some(Connection { stream, taken: 0 });
        if free == self.connections.len() {
            self.connections.push(connection);
        } else {
            self.connections[free] = connection;
        }
    }

    /// A turn of one connection.
    fn serve(&mut self, index: usize) -> Result<(), End> {
        let Some(Some(Connection { stream, taken })) = self.connections.get_mut(index) else { return Ok(()) };
        let memory_before = stream.frames.memory_bytes();
        stream.write(&self.waiter)?;
        for _ in 0..READS_PER_TURN {
            if stream.is_full() {
                // Whoever does not read is not read from: what waits goes out first.
                break;
            }
            let read = stream.read();
            let taken_before = *taken;
            while let Some(message) = stream.frames.next(TCP_BYTES_MAX)? {
                let seen = self.record.audit.enter(message);
                if let (Some(received), Seen::New(stamp)) = (&self.received, seen) {
                    received.note(stamp.slot, clock::now_ns());
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
        if stream.frames.memory_bytes() > memory_before && self.memory_bytes() > MEMORY_BYTES_MAX {
            return Err(End::TooLong);
        }
        Ok(())
    }

    fn memory_bytes(&self) -> usize {
        self.connections.iter().flatten().map(|connection| connection.stream.frames.memory_bytes()).sum()
    }
}
