//! The generating end, made of plain sockets.

use super::client::Client;
use super::set_receive_buffer;
use super::tcp_link::TcpLink;
use super::threads::Threads;
use super::udp_link::UdpLink;
use super::wait::Waiter;
use crate::cli::{EngineFlags, Protocol};
use crate::generator::Generator;
use crate::plan::Plan;
use anyhow::{Context, Result};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

/// Starts a thread for each generator.
pub fn start(
    plan: &Plan,
    flags: &EngineFlags,
    target: SocketAddr,
    generator: impl Fn(usize) -> Generator,
) -> Result<Threads> {
    let mut threads = Threads::new(plan.protocol == Protocol::Udp);
    for index in 0..plan.generators {
        let waiter = Waiter::new()?;
        let (bell, core) = (waiter.bell(), flags.pin.then_some(index));
        let shared = Arc::clone(&threads.shared);
        if plan.protocol == Protocol::Udp {
            let socket = udp_socket(target, usize::try_from(flags.rcvbuf.0)?, &mut threads)?;
            waiter.add(&socket, 0, false)?;
            let (generator, size) = (generator(index), plan.size);
            // The headers of its calls do not move from thread to thread.
            threads.spawn("client", bell, core, move || {
                let link = UdpLink::new(vec![socket], size, Arc::clone(&shared));
                Client::new(generator, link, waiter, shared).run()
            })?;
        } else {
            let link = TcpLink::connect(&[(None, target)], plan.open_loop.is_some(), &waiter)?;
            let client = Client::new(generator(index), link, waiter, shared);
            threads.spawn("client", bell, core, move || client.run())?;
        }
    }
    Ok(threads)
}

fn udp_socket(target: SocketAddr, rcvbuf_bytes: usize, threads: &mut Threads) -> Result<UdpSocket> {
    let any = crate::setup::any_port_toward(target);
    let socket = UdpSocket::bind(&any).with_context(|| format!("cannot send from {any}"))?;
    socket.connect(target).with_context(|| format!("cannot send to {target}"))?;
    socket.set_nonblocking(true)?;
    threads.add_socket(socket.local_addr()?, set_receive_buffer(&socket, rcvbuf_bytes)?);
    Ok(socket)
}
