//! The model v1 peers of a world: naive, single-threaded, with a socket buffer of the default size, and sometimes busy
//! with something else.

use crate::message::{Level, Outgoing};
use crate::sim::checkers::{Log, Violation};
use crate::sim::network::Network;
use crate::sim::v1_peer::V1Peer;
use crate::sim::v1_watch::Brought;
use crate::units::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// A pause follows one datagram in this many.
const PAUSE_EVERY: u32 = 50;

/// A message of a v1 peer.
#[derive(Debug)]
struct Sent {
    number: u64,
    to: SocketAddr,
    op_id: String,
    chunk_count: usize,
    ended: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SimV1 {
    pub(crate) addr: SocketAddr,
    /// Its place among the world's receivers.
    index: usize,
    peer: V1Peer,
    ids: fastrand::Rng,
    paused_until: Instant,
    /// It stands still from the first to the second.
    stop: Option<(Instant, Instant)>,
    /// Messages to send when it next gets to it.
    due: VecDeque<Outgoing>,
    sent: Vec<Sent>,
}

impl SimV1 {
    pub(crate) fn new(addr: SocketAddr, index: usize, seed: u64, network: &mut Network) -> Self {
        network.add_v1_peer(addr);
        let ids = fastrand::Rng::with_seed(seed);
        let paused_until = network.now();
        Self {
            addr,
            index,
            peer: V1Peer::new(),
            ids,
            paused_until,
            stop: None,
            due: VecDeque::new(),
            sent: Vec::new(),
        }
    }

    /// From `at` on it stands still, until `until`. It gives up what it is sending: tries that far apart would be beyond
    /// the horizon of dedup.
    pub(crate) const fn stop(&mut self, at: Instant, until: Instant) {
        self.stop = Some((at, until));
    }

    pub(crate) fn put(&mut self, outgoing: Outgoing) {
        self.due.push_back(outgoing);
    }

    /// Sends a message the original's way: every row at once.
    fn send(&mut self, outgoing: &Outgoing, network: &mut Network) {
        let text = String::from_utf8_lossy(&outgoing.payload);
        let now = network.now();
        let timestamp = format!("1764000000.{:06}", now.as_ns() / 1_000 % 1_000_000);
        let (op_id, rows) = self.peer.put(&text, &timestamp, now, &mut self.ids);
        for row in &rows {
            network.fly(self.addr, outgoing.to, row, row.len());
        }
        let (number, to) = (outgoing.tag, outgoing.to);
        self.sent.push(Sent { number, to, op_id, chunk_count: rows.len(), ended: false });
    }

    /// Everything it does at this instant.
    pub(crate) fn turn(&mut self, network: &mut Network, log: &mut Log) {
        if let Some((_, until)) = self.stop.take_if(|(at, _)| *at <= network.now()) {
            self.paused_until = until;
            network.v1.counts.stopped += 1;
            self.give_up(log);
        }
        if network.now() < self.paused_until {
            return;
        }
        while let Some(outgoing) = self.due.pop_front() {
            self.send(&outgoing, network);
        }
        while let Some(packet) = network.receive(self.addr) {
            let event = self.peer.handle(&packet.bytes);
            if let Some(confirm) = &event.confirm {
                network.fly(self.addr, packet.from, confirm, confirm.len());
            }
            if let Some(message) = &event.delivered {
                log.received(self.index, message.text.as_bytes(), (None, Level::Accepted), None);
            }
            if let Some(error) = event.death {
                let row = String::from_utf8_lossy(&packet.bytes);
                log.violations.push(Violation::PeerDied(format!("{error:?} by {row}")));
            }
            if let Some(pause) = network.pause(PAUSE_EVERY) {
                self.paused_until = network.now() + pause;
                return;
            }
        }
        for (op_id, row) in self.peer.poll(network.now()) {
            if let Some(sent) = self.sent.iter().find(|sent| sent.op_id == op_id) {
                network.fly(self.addr, sent.to, &row, row.len());
            }
        }
        for sent in self.sent.iter_mut().filter(|sent| !sent.ended) {
            if let Some(end) = self.peer.sent(&sent.op_id).filter(|end| end.finished) {
                self.peer.forget(&sent.op_id);
                sent.ended = true;
                log.v1_ended(sent.number, end);
            }
        }
    }

    fn give_up(&mut self, log: &mut Log) {
        for sent in self.sent.iter_mut().filter(|sent| !sent.ended) {
            let end = self.peer.sent(&sent.op_id);
            self.peer.forget(&sent.op_id);
            sent.ended = true;
            end.into_iter().for_each(|end| log.v1_ended(sent.number, end));
        }
    }

    /// When it has something to do next, but for datagrams that come.
    pub(crate) fn next_event(&self, now: Instant) -> Option<Instant> {
        let paused = (self.paused_until > now).then_some(self.paused_until);
        let stop = self.stop.map(|(at, _)| at);
        paused.or(self.peer.next_poll()).into_iter().chain(stop).min()
    }

    /// At the end: what the tries of each message brought, and the engine it was for.
    pub(crate) fn judge(&self, network: &Network) -> impl Iterator<Item = (u64, SocketAddr, Brought)> {
        self.sent.iter().map(|sent| {
            let brought = network.v1.brought(self.addr, sent.to, &sent.op_id, sent.chunk_count);
            (sent.number, sent.to, brought)
        })
    }
}
