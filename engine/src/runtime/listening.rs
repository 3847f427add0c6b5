//! How tasks of the application wait for what shards bring.

use event_listener::EventListener;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

/// Waits for an event. The waker of its task is the application's, and may panic: it is called by whoever brings the news, a
/// shard as a rule, amid the list of all who wait. So what the list is given is [`Guarded`].
#[derive(Debug)]
pub(crate) struct Listening {
    listener: EventListener,
    /// The task's, and what stands for it.
    waker: Option<(Waker, Waker)>,
}

impl Listening {
    pub(crate) const fn new(listener: EventListener) -> Self {
        Self { listener, waker: None }
    }
}

impl Future for Listening {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { listener, waker } = &mut *self;
        let own = context.waker();
        let (_, guarded) = match waker.take() {
            Some(known) if known.0.will_wake(own) => waker.insert(known),
            _ => waker.insert((own.clone(), Waker::from(Arc::new(Guarded(own.clone()))))),
        };
        Pin::new(listener).poll(&mut Context::from_waker(guarded))
    }
}

/// A waker whose panic is nobody else's.
struct Guarded(Waker);

impl Wake for Guarded {
    fn wake(self: Arc<Self>) {
        wake(&self.0);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        wake(&self.0);
    }
}

/// Wakes; a waker that panics does not harm who calls it. The panic hook has said so.
pub(crate) fn wake(waker: &Waker) {
    let _ = catch_unwind(AssertUnwindSafe(|| waker.wake_by_ref()));
}
