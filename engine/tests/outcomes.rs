//! Every message that was accepted ends in one outcome, and whoever waits is woken: where limits, panics and the end of the
//! engine come in between.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "tests")]

mod support;

use support::{HANG, Setup, each_driver_and_wire, next, small};
use udp_plus::{FailureCause, Outgoing, Refusal};

each_driver_and_wire! {
    what_is_larger_than_the_bucket_ends_at_once,
}

/// One that is too large has no place among the bytes of the send bucket; it does not wait for one, nor does what is behind it.
fn what_is_larger_than_the_bucket_ends_at_once(setup: Setup) {
    let sink = small(setup).start().unwrap();
    let source = small(setup).message_bytes_max(1_000).send_bytes_max(1_000).start().unwrap();
    let (send, to) = (source.send_bucket(), sink.local_addr());
    let mut batch = vec![Outgoing::to(to, vec![b'x'; 1_001]).tag(1), Outgoing::to(to, "x").tag(2)];
    assert_eq!((send.put_batch(&mut batch), batch.len()), (2, 0));
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        assert!(send.blocking_outcome_batch(&mut outcomes, HANG) > 0, "no outcome");
    }
    outcomes.sort_unstable_by_key(|outcome| outcome.0);
    assert_eq!(outcomes[0].1.unwrap_err().cause, FailureCause::Refused(Refusal::TooLarge));
    assert!(outcomes[1].0 == 2 && outcomes[1].1.is_ok());
    assert_eq!(next(&sink.recv_bucket()).text(), Some("x"));
    // All of the room is there again, and no more.
    let whole = send.try_put(Outgoing::to(to, vec![b'y'; 1_000])).unwrap();
    assert!(whole.wait().is_ok());
}
