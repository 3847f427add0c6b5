//! The sending side over TCP. Answers come in the order of the messages, so those under way are a queue for each connection.
//! One that closes takes its messages with it, and is opened again.

use super::TCP_BYTES_MAX;
use super::client::{Answer, Link, Sent};
use super::frame::{self, End};
use super::stream::Stream;
use super::tcp_server::COUNT_BYTES;
use super::wait::{Ready, Waiter};
use crate::cli::Mode;
use crate::clock;
use crate::generator::Put;
use crate::payload::{self, Stamp};
use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection with more to write takes nothing more.
const OUT_BYTES_MAX: usize = 1 << 20;
/// A far end that does not take the connection by then is not there.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long after it closed, or was refused, a connection is opened again.
const RETRY_NS: u64 = 100_000_000;
/// Why a message has failed whose far end echoes and should not, or should and does not.
const WRONG_MODE: &str = "wrong_mode";
/// Reads of one connection before the others get their turn.
const READS_PER_TURN: usize = 8;

#[derive(Debug)]
enum State {
    Open(Stream),
    /// On its way.
    Opening(Socket),
    /// To be opened again then.
    Closed {
        until_ns: u64,
    },
}

/// One connection.
#[derive(Debug)]
struct Connection {
    from: Option<SocketAddr>,
    to: SocketAddr,
    state: State,
    /// Put, and not answered.
    under_way: VecDeque<Sent>,
    /// How many the far end has said that it has.
    taken: u64,
    is_dirty: bool,
}

/// See the module.
pub struct TcpLink {
    connections: Vec<Connection>,
    mode: Mode,
    /// Those with something new to write.
    dirty: Vec<usize>,
    /// What is due is due, connection or not; a closed loop waits.
    is_open_loop: bool,
    /// Those that are not open.
    down: Vec<usize>,
    /// What became of messages outside of [`Link::receive`].
    lost: Vec<(Sent, &'static str)>,
}

fn socket(from: Option<SocketAddr>, to: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).context("socket")?;
    if let Some(from) = from {
        socket.bind(&from.into()).with_context(|| format!("cannot send from {from}"))?;
    }
    Ok(socket)
}

impl TcpLink {
    /// Connections from and to these addresses, to far ends of this mode.
    pub fn connect(
        ways: &[(Option<SocketAddr>, SocketAddr)],
        mode: Mode,
        is_open_loop: bool,
        waiter: &Waiter,
    ) -> Result<Self> {
        let connect = |(index, &(from, to)): (usize, &(Option<SocketAddr>, SocketAddr))| {
            let socket = socket(from, to)?;
            socket.connect_timeout(&to.into(), CONNECT_MAX).with_context(|| {
                format!("cannot connect to {to}; is `udp-plus serve --protocol tcp` running there?")
            })?;
            let state = State::Open(Stream::new(TcpStream::from(socket), index, usize::MAX, waiter)?);
            Ok(Connection { from, to, state, under_way: VecDeque::new(), taken: 0, is_dirty: false })
        };
        let connections: Vec<Connection> = ways.iter().enumerate().map(connect).collect::<Result<_>>()?;
        let (dirty, down, lost) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { connections, mode, dirty, is_open_loop, down, lost })
    }

    /// Its messages end here; those that were still to be written do, too.
    fn close(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.state = State::Closed { until_ns: clock::now_ns() + RETRY_NS };
        connection.taken = 0;
        self.lost.extend(connection.under_way.drain(..).map(|sent| (sent, "connection_closed")));
        self.down.push(index);
    }

    /// Opens what has been closed for long enough.
    fn reopen(&mut self, waiter: &Waiter) {
        let Self { connections, down, .. } = self;
        let now = clock::now_ns();
        for &index in &*down {
            let connection = &mut connections[index];
            if matches!(connection.state, State::Closed { until_ns } if until_ns <= now) {
                connection.state = match open(connection.from, connection.to, index, waiter) {
                    Some(socket) => State::Opening(socket),
                    None => State::Closed { until_ns: now + RETRY_NS },
                };
            }
        }
    }
}

/// Begins to connect; the waiter tells when it is done.
fn open(from: Option<SocketAddr>, to: SocketAddr, index: usize, waiter: &Waiter) -> Option<Socket> {
    let socket = socket(from, to).ok()?;
    socket.set_nonblocking(true).ok()?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(_) => return None,
    }
    waiter.add(&socket, index, true).ok()?;
    Some(socket)
}

impl Connection {
    /// What came, if it is open. A far end of another mode than ours takes messages, but not as they were meant.
    fn receive(&mut self, mode: Mode, take: &mut impl FnMut(Answer<'_>, u64)) -> Result<(), End> {
        let State::Open(stream) = &mut self.state else { return Ok(()) };
        for _ in 0..READS_PER_TURN {
            let more = stream.read()?;
            let now = clock::now_ns();
            while let Some(message) = stream.frames.next(TCP_BYTES_MAX)? {
                if let Ok(count) = <[u8; COUNT_BYTES]>::try_from(message) {
                    // So many in all: what it does not have yet it cannot have taken.
                    let news = u64::from_le_bytes(count).wrapping_sub(self.taken);
                    let news = usize::try_from(news).ok().filter(|&news| news <= self.under_way.len());
                    let Some(news) = news else { return Err(End::TooLong) };
                    self.taken += news as u64;
                    self.under_way.drain(..news).for_each(|sent| match mode {
                        Mode::Sink => take(Answer::Taken(sent), now),
                        Mode::Echo => take(Answer::Lost(sent, WRONG_MODE), now),
                    });
                } else {
                    match (self.under_way.pop_front(), mode) {
                        (Some(sent), Mode::Sink) => take(Answer::Lost(sent, WRONG_MODE), now),
                        _ => take(Answer::Echo(message), now),
                    }
                }
            }
            if !more {
                break;
            }
        }
        Ok(())
    }
}

impl Link for TcpLink {
    fn put(&mut self, way: usize, stamp: Stamp, bytes: usize) -> Put {
        let Some(connection) = self.connections.get_mut(way) else { return Put::Full };
        let State::Open(stream) = &mut connection.state else {
            return if self.is_open_loop { Put::Refused("not_connected") } else { Put::Full };
        };
        if stream.waiting_bytes() >= OUT_BYTES_MAX {
            return Put::Full;
        }
        frame::append(&mut stream.out, bytes, |into| payload::fill(into, stamp));
        connection.under_way.push_back(stamp.into());
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(way);
        }
        Put::Accepted
    }

    fn flush(&mut self, waiter: &Waiter) -> Result<()> {
        while let Some(index) = self.dirty.pop() {
            let connection = &mut self.connections[index];
            connection.is_dirty = false;
            if let State::Open(stream) = &mut connection.state
                && stream.write(waiter).is_err()
            {
                self.close(index);
            }
        }
        self.reopen(waiter);
        Ok(())
    }

    fn receive(&mut self, waiter: &Waiter, take: &mut impl FnMut(Answer<'_>, u64)) -> Result<()> {
        for &Ready { index, writable } in &waiter.ready {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if matches!(connection.state, State::Opening(_)) {
                let closed = State::Closed { until_ns: clock::now_ns() + RETRY_NS };
                if let State::Opening(socket) = std::mem::replace(&mut connection.state, closed)
                    && let Ok(None) = socket.take_error()
                    && let Ok(stream) = Stream::known(socket.into(), index, usize::MAX, true)
                {
                    connection.state = State::Open(stream);
                    self.down.retain(|&other| other != index);
                }
            }
            let received = connection.receive(self.mode, take);
            let wrote = match &mut connection.state {
                State::Open(stream) if writable => stream.write(waiter),
                _ => Ok(()),
            };
            if received.and(wrote).is_err() {
                self.close(index);
            }
        }
        let now = clock::now_ns();
        self.lost.drain(..).for_each(|(sent, cause)| take(Answer::Lost(sent, cause), now));
        Ok(())
    }

    fn next_turn_ns(&self, now_ns: u64) -> Option<u64> {
        if !self.lost.is_empty() {
            return Some(now_ns);
        }
        let down = self.down.iter().filter_map(|&index| self.connections.get(index));
        let closed = down.filter_map(|connection| match connection.state {
            State::Closed { until_ns } => Some(until_ns),
            _ => None,
        });
        closed.min()
    }
}
