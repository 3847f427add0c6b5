//! After a pause of the process what was answered in time lies in the socket, and timers are due before it is read.

use super::flows_tests::{Datagram, Net};
use crate::config::{Config, Preset, Wire};
use crate::error::{DeliveryError, FailureCause, Reached};
use crate::wire::binary::Kind;
use std::time::Duration;

/// Node 0 does not do anything for so long.
const PAUSE: Duration = Duration::from_secs(9);

/// A flow from 0 to 1 on which something was delivered.
fn open(wire: Wire) -> Net {
    let mut net = Net::with(2, &Config { wire, ..Config::preset(Preset::Small) });
    net.put(0, 1, 1, b"first", None);
    net.run(10, |_| true);
    assert!(matches!(net.outcomes(0)[..], [(1, Ok(_))]));
    net
}

impl Net {
    /// What 0 sends reaches 1; its answers are returned.
    fn answers(&mut self) -> Vec<Datagram> {
        for datagram in self.leave(0) {
            self.bring(&datagram);
        }
        self.leave(1)
    }

    fn set_unread(&mut self, unread: bool) {
        self.nodes[0].endpoint.outbound.flows.set_unread(unread);
    }
}

#[test]
fn a_deadline_does_not_pass_while_its_acknowledgement_lies_in_the_socket() {
    for is_there in [true, false] {
        let mut net = open(Wire::Binary);
        net.put(0, 1, 2, b"second", Some(Duration::from_millis(100)));
        let answers = net.answers();
        net.now += PAUSE;
        net.put(0, 1, 3, b"third", None);
        for _ in 0..10 {
            net.set_unread(true);
            net.leave(0);
            net.now += Duration::from_millis(3);
        }
        assert!(net.outcomes(0).is_empty(), "nothing has been read yet");
        if is_there {
            answers.iter().for_each(|answer| net.bring(answer));
        }
        net.set_unread(false);
        net.leave(0);
        let expired = Err(DeliveryError { cause: FailureCause::Expired, reached: Reached::Unknown });
        match net.outcomes(0)[..] {
            [(2, Ok(_))] if is_there => {}
            [(2, outcome)] if !is_there => assert_eq!(outcome, expired),
            ref other => panic!("{is_there}: {other:?}"),
        }
    }
}

/// What has not left needs no answer.
#[test]
fn what_waits_expires_whatever_lies_in_the_socket() {
    let mut net = Net::new(2);
    net.put(0, 1, 1, b"first", Some(Duration::from_millis(100)));
    net.leave(0);
    net.now += Duration::from_millis(200);
    net.set_unread(true);
    net.leave(0);
    assert!(matches!(
        net.outcomes(0)[..],
        [(1, Err(error))] if error.reached == Reached::Never && error.cause == FailureCause::Expired
    ));
}

/// Its first probe leaves after the pause, and is answered.
#[test]
fn a_peer_that_was_never_probed_is_not_given_up() {
    let mut net = open(Wire::Binary);
    net.put(0, 1, 2, b"second", None);
    net.leave(0);
    net.now += PAUSE;
    net.run(100, |datagram| {
        assert!(!datagram.has(Kind::Hello), "the flow is the same");
        true
    });
    assert!(matches!(net.outcomes(0)[..], [(2, Ok(_))]));
}

/// Nor is it for ever where nobody answers.
#[test]
fn a_peer_that_does_not_answer_after_a_pause_is_given_up() {
    let mut net = open(Wire::Binary);
    net.put(0, 1, 2, b"second", None);
    net.leave(0);
    net.now += PAUSE;
    net.run(7_900, |_| false);
    assert!(net.outcomes(0).is_empty());
    net.run(1_200, |_| false);
    assert!(matches!(net.outcomes(0)[..], [(2, Err(error))] if error.cause == FailureCause::TimedOut));
}

#[test]
fn a_peer_whose_answer_to_a_probe_lies_in_the_socket_is_not_given_up() {
    for wire in [Wire::Binary, Wire::Auto] {
        let mut net = open(wire);
        net.put(0, 1, 2, b"second", None);
        net.leave(0);
        net.now += Duration::from_millis(20);
        let answers = net.answers();
        assert!(!answers.is_empty(), "it was probed");
        net.now += PAUSE;
        for _ in 0..10 {
            net.set_unread(true);
            let left = net.leave(0);
            assert!(left.iter().all(|datagram| datagram.frames().count() > 0), "nor asked what it is");
            net.now += Duration::from_millis(3);
        }
        answers.iter().for_each(|answer| net.bring(answer));
        net.set_unread(false);
        net.leave(0);
        assert!(matches!(net.outcomes(0)[..], [(2, Ok(_))]), "{wire:?}");
    }
}
