//! The receiving end, made of plain sockets.

use super::set_receive_buffer;
use super::tcp_server::{Inbox, TcpServer};
use super::threads::Threads;
use super::udp_server::UdpServer;
use super::wait::Waiter;
use crate::audit::Audit;
use crate::cli::{EngineFlags, Mode, Protocol};
use crate::record::{Desk, ServerRecord};
use crate::setup;
use crate::stages::Received;
use crate::stop::Stop;
use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// Leaves a thread's books, and tells that it has ended.
fn end(desk: &Desk<ServerRecord>, ended: &Stop, books: Result<ServerRecord>) -> Result<()> {
    ended.request();
    desk.leave(books?);
    Ok(())
}

/// Where it is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// At which address.
    pub bind: SocketAddr,
    /// The first shard's core, if each has one.
    pub core: usize,
}

/// Starts to receive, with a thread for each shard; `audit` makes the books of one, which it leaves at the desk.
pub fn start(
    (protocol, mode): (Protocol, Mode),
    flags: &EngineFlags,
    Place { bind, core }: Place,
    received: Option<&Arc<Received>>,
    (desk, ended): (&Arc<Desk<ServerRecord>>, &Stop),
    mut audit: impl FnMut() -> Audit,
) -> Result<Threads> {
    let shards = usize::from(flags.shards);
    // Every peer over TCP has a connection.
    setup::raise_file_limit(0)?;
    let mut threads = Threads::new(protocol == Protocol::Udp);
    let waiters = (0..shards).map(|_| Waiter::new()).collect::<Result<Vec<_>>>()?;
    if protocol == Protocol::Udp {
        let mut bind = bind;
        for (shard, waiter) in waiters.into_iter().enumerate() {
            let socket = udp_socket(bind, shard == 0)?;
            // With port 0 the first one finds it for all.
            bind = socket.local_addr()?;
            threads.add_socket(bind, set_receive_buffer(&socket, usize::try_from(flags.rcvbuf.0)?)?);
            let (bell, shared) = (waiter.bell(), Arc::clone(&threads.shared));
            let (audit, received) = (audit(), received.cloned());
            let (desk, ended) = (Arc::clone(desk), ended.clone());
            let core = flags.pin.then_some(core + shard);
            threads.spawn("server", bell, core, move || {
                // The headers of its calls do not move from thread to thread.
                let server = UdpServer::new(socket, audit, received, waiter, shared);
                end(&desk, &ended, server.and_then(UdpServer::run))
            })?;
        }
        return Ok(threads);
    }
    let listener = tcp_listener(bind)?;
    threads.addresses.push(listener.local_addr()?);
    let inboxes: Vec<Inbox> = waiters.iter().map(|waiter| Inbox::new(waiter.bell())).collect();
    let mut listener = Some((listener, inboxes.clone()));
    for (shard, (waiter, inbox)) in waiters.into_iter().zip(inboxes).enumerate() {
        let (bell, shared) = (waiter.bell(), Arc::clone(&threads.shared));
        let server =
            TcpServer::new(listener.take(), inbox, mode, audit(), received.cloned(), waiter, shared)?;
        let (desk, ended) = (Arc::clone(desk), ended.clone());
        let core = flags.pin.then_some(core + shard);
        threads.spawn("server", bell, core, move || end(&desk, &ended, server.run()))?;
    }
    Ok(threads)
}

/// Several sockets share an address; the kernel gives each sender to one of them. The first one fails if somebody else is
/// there: only behind it may others join.
fn udp_socket(bind: SocketAddr, is_first: bool) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, None).context("socket")?;
    if !is_first {
        socket.set_reuse_port(true).context("SO_REUSEPORT")?;
    }
    socket.bind(&bind.into()).with_context(|| format!("cannot bind {bind}"))?;
    socket.set_reuse_port(true).context("SO_REUSEPORT")?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn tcp_listener(bind: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, None).context("socket")?;
    // Connections of an earlier run linger at the port.
    socket.set_reuse_address(true).context("SO_REUSEADDR")?;
    socket.bind(&bind.into()).with_context(|| format!("cannot bind {bind}"))?;
    socket.listen(BACKLOG).context("listen")?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
