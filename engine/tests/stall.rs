//! An application that does not return: it is reported while that lasts, and counted when it is over.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Setup, each_driver, small, until, wait_within};
use tracing::field::{Field, Visit};
use udp_plus::{Actor, Context, DriverChoice, MessageRef, Outgoing, Verdict, Wire};

each_driver! {
    a_handler_that_does_not_return_is_reported_while_it_does_not,
}

const STALL_AFTER: Duration = Duration::from_millis(50);

/// Does not return from its first message until it may.
struct Slow(Arc<AtomicBool>);

impl Actor for Slow {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        while !self.0.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Verdict::Accept
    }
}

/// Keeps warnings, of every thread of this process.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Visit for Warnings {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0.lock().unwrap().last_mut().unwrap(), "{}={value:?} ", field.name()).unwrap();
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().unwrap().push(String::new());
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

static WARNINGS: std::sync::LazyLock<Warnings> = std::sync::LazyLock::new(|| {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(warnings.clone()).unwrap();
    warnings
});

/// Reports of stalls so far.
fn reports() -> usize {
    WARNINGS.0.lock().unwrap().iter().filter(|text| text.contains("stalled")).count()
}

/// Both drivers, one after the other: reports are of the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn a_handler_that_does_not_return_is_reported_while_it_does_not(driver: DriverChoice) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = reports();
    let setup = || Setup { driver, wire: Wire::Binary };
    let go_on = Arc::new(AtomicBool::new(false));
    let slow = small(setup()).stall_after(STALL_AFTER).actor({
        let go_on = Arc::clone(&go_on);
        move |_| Slow(Arc::clone(&go_on))
    });
    let (source, slow) = (small(setup()).start().unwrap(), slow.start().unwrap());
    // An idle one is not stalled, however long it sleeps.
    std::thread::sleep(3 * STALL_AFTER);
    until("it sleeps", || slow.ledger().shards[0].stalled.is_none());
    let before = reports();
    let delivery = source.send_bucket().try_put(Outgoing::to(slow.local_addr(), "x")).unwrap();
    until("the stall is seen", || {
        slow.ledger().shards[0].stalled.is_some_and(|stalled| stalled >= STALL_AFTER)
    });
    until("the stall is told", || reports() > before);
    assert!(slow.ledger().to_string().contains("shard 0 is STALLED"), "{}", slow.ledger());
    // It is told once.
    let told = reports();
    std::thread::sleep(3 * STALL_AFTER);
    assert_eq!(reports(), told);
    go_on.store(true, Ordering::SeqCst);
    wait_within(delivery, support::HANG).unwrap();
    until("it is over, and counted", || {
        let stalls = slow.stats().total;
        slow.ledger().shards[0].stalled.is_none() && stalls.stalls >= 1 && stalls.stalled_ms >= 50
    });
}
