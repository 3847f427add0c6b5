//! What the kernel or a path refuses is done another way: io_uring denied, trains refused.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_stack_arrays,
    clippy::disallowed_methods,
    reason = "a test"
)]

mod kit;
#[path = "../examples/own_protection.rs"]
#[allow(dead_code, reason = "an example, of which its cipher is used here")]
mod own_protection;

use bytes::Bytes;
use kit::{Audit, GUARD, Outcomes, engine, in_child, is_child, long_payload, skip, wait_for};
use nix::sched::{CloneFlags, unshare};
use own_protection::PreShared;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::process::Command;
use std::time::Duration;
use udp_plus::protection::Protection;
use udp_plus::{Builder, Counters, DriverChoice, DriverKind, Engine, Outgoing, StartError, Wire};

/// Sends messages of these sizes through the buckets, all of them delivered once and intact; the source's counters.
fn traffic(source: &Engine, sink: &Engine, sizes: &[usize]) -> Counters {
    let total = sizes.len() as u64;
    let (audit, outcomes) = (Audit::new(total), Outcomes::new(total));
    let mut batch: Vec<Outgoing> = (0..total)
        .zip(sizes)
        .map(|(seq, &bytes)| Outgoing::to(sink.local_addr(), Bytes::from(long_payload(seq, bytes))).tag(seq))
        .collect();
    let send = source.send_bucket();
    let delivered = || source.stats().total.messages_delivered;
    let before = delivered();
    assert_eq!(send.put_batch(&mut batch), sizes.len());
    let (mut ended, mut messages) = (Vec::new(), Vec::new());
    wait_for("traffic", GUARD * 3, || {
        send.outcome_batch(&mut ended);
        sink.recv_bucket().get_batch(&mut messages);
        ended.drain(..).for_each(|(tag, outcome)| outcomes.note(tag, &outcome));
        messages.drain(..).for_each(|message| audit.note(message.payload()));
        outcomes.count() == total && audit.distinct() == total
    });
    outcomes.assert_all_delivered();
    audit.assert_exactly_once();
    // What is counted is published after the outcomes.
    wait_for("the counters", GUARD, || delivered() == before + total);
    source.stats().total
}

/// From here on this process cannot make rings.
fn deny_io_uring() {
    let rules = [(nix::libc::SYS_io_uring_setup, Vec::new())].into();
    let denied = SeccompAction::Errno(nix::libc::EPERM as u32);
    let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

#[test]
fn io_uring_denied_by_seccomp_runs_on_mmsg_and_says_why() {
    if !is_child() {
        return in_child("io_uring_denied_by_seccomp_runs_on_mmsg_and_says_why");
    }
    deny_io_uring();
    let [source, sink] = [(); 2].map(|()| engine(DriverChoice::Auto).start().unwrap());
    assert_eq!(source.driver().kind, DriverKind::Mmsg);
    let reason = &source.driver().reason;
    eprintln!("{reason}");
    for part in ["io_uring_setup", "EPERM", "mmsg"] {
        assert!(reason.contains(part), "{part} is not in {reason:?}");
    }
    traffic(&source, &sink, &[64, 100, 1_000, 100_000]);
    match engine(DriverChoice::Uring).start() {
        Err(error @ StartError::UringUnavailable { .. }) => {
            let text = error.to_string();
            assert!(text.contains("io_uring_setup") && text.contains("EPERM"), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// Runs `test` on a thread in a fresh network namespace after these `ip` commands; the threads it starts are there too.
fn in_namespace(ip_commands: &'static [&str], test: impl FnOnce() + Send + 'static) {
    let run = move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            return skip(&format!("right to make a network namespace ({error})"));
        }
        for command in ip_commands {
            match Command::new("ip").args(command.split(' ')).output() {
                Ok(output) if output.status.success() => {}
                Ok(output) => panic!("ip {command}: {}", String::from_utf8_lossy(&output.stderr)),
                Err(error) => return skip(&format!("ip command ({error})")),
            }
        }
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

fn trains_refused(driver: DriverChoice, wire: Wire) {
    let [source, sink] = [(); 2].map(|()| engine(driver).wire(wire).start().unwrap());
    let counters = traffic(&source, &sink, &[100_000; 8]);
    assert!(counters.trains_split >= 1, "the path refused no train: {counters:?}");
    assert_eq!(counters.failed_total(), 0);
    // The engine goes on, and remembers: not one train more is tried there.
    let later = traffic(&source, &sink, &[20_000; 8]);
    assert_eq!(later.trains_split, counters.trains_split);
    assert_eq!(later.sends_refused, 0);
}

/// Rows of 570 bytes over an MTU of 500: the kernel fragments a lone datagram but refuses the train (EMSGSIZE; EINVAL
/// before 6.14), because its segments do not fit.
#[test]
fn a_path_that_refuses_trains_gets_datagrams_mmsg() {
    in_namespace(&["link set lo mtu 500", "link set lo up"], || {
        trains_refused(DriverChoice::Mmsg, Wire::Csv)
    });
}

/// Sets the MTU of the loopback device of this thread's namespace.
fn set_mtu(bytes: u32) {
    let set = Command::new("ip").args(["link", "set", "lo", "mtu", &bytes.to_string()]).status().unwrap();
    assert!(set.success());
}

/// An engine of the binary wire, and how much longer its datagrams leave than `Stats::datagram_bytes` says.
fn binary(driver: DriverChoice, sealed: bool) -> (Builder, u32) {
    let key = PreShared::new(b"the key of these tests");
    let tag_bytes = if sealed { key.tag_bytes() as u32 } else { 0 };
    let plain = engine(driver).wire(Wire::Binary);
    (if sealed { plain.protection(key) } else { plain }, tag_bytes)
}

/// The search for the longest datagram goes on as long as there is something to send: until it is one of these.
fn assert_found(source: &Engine, sink: &Engine, fitting: &std::ops::RangeInclusive<u32>) {
    let found = || u32::from(source.stats().datagram_bytes.unwrap());
    for _ in 0..100 {
        if fitting.contains(&found()) {
            return;
        }
        traffic(source, sink, &[1_400; 10]);
    }
    panic!("{} found, not {fitting:?}", found());
}

/// The longest datagram the binary wire uses, without IP and UDP headers, is just below the interface's MTU; and it is found
/// without a loss.
fn interface_is_kept(driver: DriverChoice, sealed: bool, mtu: u32) {
    let longest = mtu - 28 - binary(driver, sealed).1;
    // On a busy machine an acknowledgement may come so late that a message is sent again: once in a while, not each time.
    for left in (0..20).rev() {
        let [source, sink] = [(); 2].map(|()| binary(driver, sealed).0.start().unwrap());
        let counters = traffic(&source, &sink, &[100, 1_400, 100_000, 100, 1_400, 100_000]);
        assert!(counters.path_probes_lost >= 1, "the interface refused no probe: {counters:?}");
        assert_eq!((counters.sends_refused, counters.trains_split), (0, 0));
        assert!(counters.rows_retransmitted == 0 || left > 0, "{counters:?}");
        assert_found(&source, &sink, &(longest - 16..=longest));
        if counters.rows_retransmitted == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn datagrams_of_the_binary_wire_fit_the_interface() {
    in_namespace(&["link set lo mtu 1300", "link set lo up"], || {
        for sealed in [false, true] {
            interface_is_kept(DriverChoice::Mmsg, sealed, 1_300);
            interface_is_kept(DriverChoice::Auto, sealed, 1_300);
        }
    });
}

/// The interface's MTU falls on an open flow, at last below what every path should carry. All messages arrive, once; it is
/// learned at once, and the path goes on in trains.
fn interface_falls(driver: DriverChoice, sealed: bool) {
    set_mtu(1_500);
    let [source, sink] = [(); 2].map(|()| binary(driver, sealed).0.start().unwrap());
    let tag_bytes = binary(driver, sealed).1;
    let sizes: Vec<usize> =
        (0..300).map(|n| [64, 1_400, 700, 200_000, 64, 1_300][n % 6]).chain([1 << 20; 4]).collect();
    assert_eq!(traffic(&source, &sink, &sizes).path_mtu_falls, 0);
    assert_found(&source, &sink, &(1_472 - tag_bytes..=1_472 - tag_bytes));
    for (falls, mtu) in [(1, 1_300), (2, 600)] {
        set_mtu(mtu);
        let counters = traffic(&source, &sink, &sizes);
        assert!(counters.path_mtu_falls >= falls, "nothing fell: {counters:?}");
        assert!(counters.rows_retransmitted > 0, "nothing was cut again: {counters:?}");
        assert_eq!((counters.sends_refused, counters.failed_total()), (0, 0));
        assert_found(&source, &sink, &(mtu - 28 - 16 - tag_bytes..=mtu - 28 - tag_bytes));
        let trains = source.stats().total;
        assert!(trains.datagrams_sent > 2 * trains.trains_sent, "no trains any more: {trains:?}");
    }
}

#[test]
fn an_interface_mtu_that_falls_costs_no_message() {
    in_namespace(&["link set lo up"], || {
        for sealed in [false, true] {
            interface_falls(DriverChoice::Mmsg, sealed);
            interface_falls(DriverChoice::Auto, sealed);
        }
    });
}

#[test]
fn a_path_that_refuses_trains_gets_datagrams_uring() {
    if kit::driver_works(DriverChoice::Uring) {
        in_namespace(&["link set lo mtu 500", "link set lo up"], || {
            trains_refused(DriverChoice::Uring, Wire::Csv)
        });
    }
}
