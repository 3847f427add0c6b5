//! The generating end, made of plain sockets: of each peer one to each target.

use super::client::Client;
use super::set_receive_buffer;
use super::tcp_link::TcpLink;
use super::threads::Threads;
use super::udp_link::UdpLink;
use super::wait::Waiter;
use crate::cli::{EngineFlags, Protocol};
use crate::error::usage;
use crate::generator::Generator;
use crate::plan::Plan;
use crate::setup;
use crate::targets::{PeerDraw, Targets, from_address};
use anyhow::{Context, Result};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// So many have memory, and ports.
const SOCKETS_MAX: usize = 60_000;

/// From where, if that matters, to where.
pub type Way = (Option<SocketAddr>, SocketAddr);

/// Starts a thread for each generator. Peers are dealt out to them in turns.
pub fn start(
    plan: &Plan,
    flags: &EngineFlags,
    targets: &Targets,
    generator: impl Fn(usize) -> Generator,
) -> Result<Threads> {
    let peers = plan.peers.count;
    let sockets = peers * targets.addresses().len();
    if sockets > SOCKETS_MAX {
        return Err(usage(format!(
            "--peers: a peer has a socket to each target; that makes {sockets}, at most {SOCKETS_MAX} are possible"
        )));
    }
    setup::raise_file_limit(sockets)?;
    let mut threads = Threads::new(plan.protocol == Protocol::Udp);
    for index in 0..plan.generators {
        let own = (index..peers).step_by(plan.generators);
        let ways: Vec<Way> = own
            .clone()
            .flat_map(|peer| {
                let from = move |to| (peer > 0).then(|| from_address(peer, to));
                targets.addresses().iter().map(move |&to| (from(to), to))
            })
            .collect();
        let draw = PeerDraw::new(&plan.peers, own, plan.seed);
        let waiter = Waiter::new()?;
        let (bell, core) = (waiter.bell(), flags.pin.then_some(index));
        let shared = Arc::clone(&threads.shared);
        if plan.protocol == Protocol::Udp {
            let mut sockets = Vec::with_capacity(ways.len());
            for (index, way) in ways.iter().enumerate() {
                let socket = udp_socket(way, usize::try_from(flags.rcvbuf.0)?, &mut threads)?;
                waiter.add(&socket, index, false)?;
                sockets.push(socket);
            }
            let (generator, size) = (generator(index), plan.size);
            // The headers of its calls do not move from thread to thread.
            threads.spawn("client", bell, core, move || {
                let link = UdpLink::new(sockets, size, Arc::clone(&shared));
                Client::new(generator, draw, link, waiter, shared).run()
            })?;
        } else {
            let link = TcpLink::connect(&ways, plan.mode, plan.open_loop.is_some(), &waiter)?;
            let client = Client::new(generator(index), draw, link, waiter, shared);
            threads.spawn("client", bell, core, move || client.run())?;
        }
    }
    Ok(threads)
}

fn udp_socket(&(from, to): &Way, rcvbuf_bytes: usize, threads: &mut Threads) -> Result<UdpSocket> {
    let from = from.map_or_else(|| setup::any_port_toward(to), |from| from.to_string());
    let socket = UdpSocket::bind(&from).with_context(|| format!("cannot send from {from}"))?;
    socket.connect(to).with_context(|| format!("cannot send to {to}"))?;
    socket.set_nonblocking(true)?;
    threads.add_socket(socket.local_addr()?, set_receive_buffer(&socket, rcvbuf_bytes)?);
    Ok(socket)
}
