//! How a thread with many sockets waits: for any of them, for a time to the nanosecond, or for another thread to ring.
//! `epoll` alone counts milliseconds, so a timer is one of the things it looks at.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

const TIMER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;
/// Sockets that are told of at once; the others are next time.
const EVENTS_MAX: usize = 256;

/// Wakes a thread that waits.
#[derive(Clone, Debug)]
pub struct Bell(Arc<EventFd>);

impl Bell {
    /// Rings it.
    pub fn ring(&self) {
        // It fails when nobody has listened to 2^64 rings.
        let _ = self.0.write(1);
    }
}

/// A socket with something to do.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Which one.
    pub index: usize,
    /// It may take more.
    pub writable: bool,
}

/// What one thread waits for.
#[derive(Debug)]
pub struct Waiter {
    epoll: Epoll,
    timer: TimerFd,
    bell: Bell,
    events: Vec<EpollEvent>,
    /// The sockets with something to do since the last look.
    pub ready: Vec<Ready>,
}

fn events(index: usize, reads: bool, writes: bool) -> EpollEvent {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, reads);
    flags.set(EpollFlags::EPOLLOUT, writes);
    EpollEvent::new(flags, index as u64)
}

impl Waiter {
    /// With no socket yet.
    pub fn new() -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .context("timerfd")?;
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).context("eventfd")?;
        // Told of once each time: nobody has to read them.
        let once = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&timer, EpollEvent::new(once, TIMER)).context("epoll_ctl")?;
        epoll.add(&bell, EpollEvent::new(once, BELL)).context("epoll_ctl")?;
        let none = vec![EpollEvent::empty(); EVENTS_MAX];
        Ok(Self {
            epoll,
            timer,
            bell: Bell(Arc::new(bell)),
            events: none,
            ready: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// What other threads wake this one with.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Looks at socket `index` from now on.
    pub fn add(&self, socket: impl AsFd, index: usize, writes: bool) -> Result<()> {
        self.epoll.add(socket, events(index, true, writes)).context("epoll_ctl")
    }

    /// Whether it is of interest that socket `index` may be read from, or written to.
    pub fn set(&self, socket: impl AsFd, index: usize, reads: bool, writes: bool) -> Result<()> {
        self.epoll.modify(socket, &mut events(index, reads, writes)).context("epoll_ctl")
    }

    /// Until something has come, or `time` is over (`None`: however long it takes). Fills `ready`.
    pub fn wait(&mut self, time: Option<Duration>) -> Result<()> {
        let timeout = match time {
            Some(Duration::ZERO) => EpollTimeout::ZERO,
            Some(time) => {
                let expiration = Expiration::OneShot(TimeSpec::from_duration(time));
                self.timer.set(expiration, TimerSetTimeFlags::empty()).context("timerfd_settime")?;
                EpollTimeout::NONE
            }
            None => EpollTimeout::NONE,
        };
        self.ready.clear();
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error).context("epoll_wait"),
        };
        for event in &self.events[..count] {
            if event.data() < BELL {
                let writable = event.events().contains(EpollFlags::EPOLLOUT);
                self.ready.push(Ready { index: event.data() as usize, writable });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_socket_a_time_and_a_bell_wake() {
        let mut waiter = Waiter::new().expect("the kernel has it");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        waiter.add(&socket, 7, false).expect("added");
        waiter.wait(Some(Duration::from_micros(300))).expect("waits");
        assert!(waiter.ready.is_empty(), "the time was over");
        let bell = waiter.bell();
        std::thread::scope(|scope| {
            scope.spawn(move || bell.ring());
            waiter.wait(None).expect("waits");
        });
        assert!(waiter.ready.is_empty());
        socket.send_to(b"x", socket.local_addr().expect("bound")).expect("sent");
        waiter.wait(None).expect("waits");
        assert_eq!(
            waiter.ready.iter().map(|ready| (ready.index, ready.writable)).collect::<Vec<_>>(),
            [(7, false)]
        );
        waiter.set(&socket, 7, true, true).expect("changed");
        waiter.wait(Some(Duration::ZERO)).expect("looks");
        assert!(waiter.ready[0].writable);
        waiter.set(&socket, 7, false, false).expect("changed");
        waiter.wait(Some(Duration::ZERO)).expect("looks");
        assert!(waiter.ready.is_empty(), "nobody is interested");
    }
}
