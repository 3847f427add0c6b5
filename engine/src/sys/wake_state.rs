//! The state word of a shard's wake-up: a pure Dekker hand-off, apart so that loom can model it.
//!
//! ```text
//!   producer                          shard
//!   push to the inbox                 prepare_park: word = PARKED
//!   ---- SeqCst fence ----            ---- SeqCst fence ----
//!   word == PARKED? write eventfd     inbox empty? sleep on the eventfd : stay awake
//! ```
//!
//! Each side writes, fences, then reads what the other wrote; so at least one sees the other: either the
//! producer sees PARKED and writes the eventfd, or the shard sees the message and does not sleep.
//! Release/Acquire alone would allow both to miss. Of many producers only the one that turns PARKED into
//! NOTIFIED pays for the system call.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const PARKED: u32 = 1;
const NOTIFIED: u32 = 2;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct WakeState(AtomicU32);

impl WakeState {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(AWAKE))
    }

    /// Any thread, after its push: true if the caller has to write the eventfd. Costs a fence and a shared
    /// load while the shard is awake, so producers do not fight for the cache line.
    pub(crate) fn notify(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) == PARKED
            && self.0.compare_exchange(PARKED, NOTIFIED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The shard, before it looks at its inbox for the last time.
    pub(crate) fn prepare_park(&self) {
        self.0.store(PARKED, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard, when it woke up or decided not to sleep. A lost NOTIFIED costs one early return from the
    /// next sleep.
    pub(crate) fn unpark(&self) {
        self.0.store(AWAKE, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[cfg(loom)]
pub(crate) mod wake_model {
    use super::WakeState;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};

    /// The eventfd: a counter that blocks its reader while it is zero.
    #[derive(Default)]
    pub(crate) struct Eventfd {
        written: Mutex<bool>,
        changed: Condvar,
    }

    impl Eventfd {
        pub(crate) fn write(&self) {
            *self.written.lock().unwrap() = true;
            self.changed.notify_one();
        }

        pub(crate) fn read(&self) {
            let mut written = self.written.lock().unwrap();
            while !*written {
                written = self.changed.wait(written).unwrap();
            }
            *written = false;
        }
    }

    /// Every interleaving of `producers` producers and one shard that sleeps whenever its inbox is empty: a
    /// lost wake-up is a deadlock, which loom reports. With two producers the interleavings are bounded to
    /// those with at most `preemptions` involuntary switches, which is where bugs of this kind are.
    fn no_message_waits(producers: usize, preemptions: Option<usize>) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions;
        model.check(move || {
            let state = Arc::new(WakeState::new());
            let eventfd = Arc::new(Eventfd { written: Mutex::new(false), changed: Condvar::new() });
            let inbox = Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..producers)
                .map(|_| {
                    let (state, eventfd, inbox) = (state.clone(), eventfd.clone(), inbox.clone());
                    loom::thread::spawn(move || {
                        inbox.fetch_add(1, Ordering::Release);
                        if state.notify() {
                            eventfd.write();
                        }
                    })
                })
                .collect();
            let mut taken = 0;
            while taken < producers {
                taken += inbox.swap(0, Ordering::Acquire);
                if taken == producers {
                    break;
                }
                state.prepare_park();
                if inbox.load(Ordering::Relaxed) == 0 {
                    eventfd.read();
                }
                state.unpark();
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn wake_one_producer() {
        no_message_waits(1, None);
    }

    #[test]
    fn wake_two_producers() {
        no_message_waits(2, Some(3));
    }
}
