//! Commits that take their time: two production shards in virtual time.

use super::driver::SimDriver;
use super::exchange::shard;
use super::faults::Faults;
use super::network::{Network, SharedNetwork};
use crate::commit::Commit;
use crate::config::{Config, Preset, Wire};
use crate::error::FailureCause;
use crate::hash::Seed;
use crate::message::{Level, MessageRef, Outcome, Outgoing, Verdict};
use crate::runtime::internals::{Actor, ActorApp, Context, Shard, Turn, lock};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Client {
    to_put: Vec<Outgoing>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

impl Actor for Client {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Refuse
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, outcome: Outcome) {
        lock(&self.outcomes).push(outcome);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        for outgoing in self.to_put.drain(..) {
            context.put(outgoing).unwrap();
        }
    }
}

struct Server(Arc<Mutex<Vec<Commit>>>);

impl Actor for Server {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        lock(&self.0).extend(message.take_commit());
        Verdict::Accept
    }
}

struct Pair {
    network: SharedNetwork,
    client: Shard<SimDriver, ActorApp<Client>>,
    server: Shard<SimDriver, ActorApp<Server>>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    commits: Arc<Mutex<Vec<Commit>>>,
}

impl Pair {
    /// A client that waits for the server's commit of one message, for 300 s.
    fn new(wire: Wire) -> Self {
        let config = Config { shards: 1, wire, ..Config::preset(Preset::Small) };
        let faults = Faults { delay_us: 50, socket_trains_max: usize::MAX, ..Faults::default() };
        let network = Rc::new(RefCell::new(Network::new(Seed::from_number(1).rng(10), faults)));
        let addr = |host| SocketAddr::from(([10, 0, 0, host], 25_252));
        let outgoing = Outgoing::to(addr(1), "x").level(Level::Committed).deadline(Duration::from_secs(300));
        let (outcomes, commits) = (Arc::default(), Arc::default());
        let client = Client { to_put: vec![outgoing], outcomes: Arc::clone(&outcomes) };
        let (client, _) = shard(&config, &network, addr(2), client);
        let (server, _) = shard(&config, &network, addr(1), Server(Arc::clone(&commits)));
        Self { network, client, server, outcomes, commits }
    }

    /// So much time passes, or the client has its outcome.
    fn run(&mut self, time: Duration, server_lives: bool) {
        let end = self.network.borrow().now() + time;
        while self.network.borrow().now() < end && lock(&self.outcomes).is_empty() {
            for _ in 0..1_000 {
                let server = server_lives && self.server.turn() == Turn::Busy;
                if self.client.turn() != Turn::Busy && !server {
                    break;
                }
            }
            let now = self.network.borrow().now();
            let server = self.server.next_deadline().filter(|_| server_lives);
            let network = self.network.borrow().next_event();
            let next = self.client.next_deadline().into_iter().chain(server).chain(network).min();
            let next = next.unwrap_or(end).clamp(now + Duration::from_micros(1), end);
            self.network.borrow_mut().advance(next);
        }
    }

    fn outcome(&self) -> Outcome {
        let outcomes = lock(&self.outcomes);
        assert_eq!(outcomes.len(), 1);
        outcomes[0]
    }
}

/// Longer than an idle flow is remembered (60 s), and than a permission holds (10 s).
#[test]
fn a_commit_may_take_minutes() {
    for wire in [Wire::Binary, Wire::Auto] {
        let mut pair = Pair::new(wire);
        pair.run(Duration::from_secs(200), true);
        assert!(lock(&pair.outcomes).is_empty(), "{wire:?}: {:?}", lock(&pair.outcomes));
        let commit = lock(&pair.commits).pop().unwrap();
        commit.commit();
        pair.run(Duration::from_secs(5), true);
        assert_eq!(pair.outcome().unwrap().level, Level::Committed, "{wire:?}");
        assert_eq!(pair.server.counters().messages_received, 1);
    }
}

/// Nobody is there any more who could commit: that comes out long before the deadline.
#[test]
fn a_peer_that_is_gone_commits_nothing() {
    for wire in [Wire::Binary, Wire::Auto] {
        let mut pair = Pair::new(wire);
        pair.run(Duration::from_secs(20), true);
        assert_eq!(lock(&pair.commits).len(), 1, "it came");
        pair.run(Duration::from_secs(60), false);
        assert_eq!(pair.outcome().unwrap_err().cause, FailureCause::TimedOut, "{wire:?}");
    }
}
