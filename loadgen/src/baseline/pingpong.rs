//! One 64-byte datagram there and back, again and again, with plain send and recv on connected sockets.

use super::{SMALL_BYTES, pin};
use crate::clock;
use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A datagram that does not come back within this is lost, and the figure with it.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// Round trips before those that count.
const WARM_UP_ROUNDS: u32 = 200;

/// Plays for `time`, we on `cores.0`, the other side on `cores.1`, and records every round trip in nanoseconds.
pub fn run(cores: (usize, usize), time: Duration, spin: bool, into: &mut Histogram<u64>) -> Result<()> {
    let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    near.connect(far.local_addr()?)?;
    far.connect(near.local_addr()?)?;
    for socket in [&near, &far] {
        socket.set_nonblocking(spin)?;
        socket.set_read_timeout(Some(LOST_AFTER))?;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            pin(cores.1);
            answer(&far, &stop);
        });
        let asking = scope.spawn(|| {
            pin(cores.0);
            let result = ask(&near, time, into);
            stop.store(true, Ordering::Relaxed);
            // Ends a wait of the other side.
            let _ = near.send(&[]);
            result
        });
        let result = asking.join().map_err(|_| anyhow!("a baseline thread panicked"))?;
        answering.join().map_err(|_| anyhow!("a baseline thread panicked"))?;
        result
    })
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; SMALL_BYTES];
    while !stop.load(Ordering::Relaxed) {
        if socket.recv(&mut buffer).is_ok() {
            let _ = socket.send(&buffer);
        }
    }
}

fn ask(socket: &UdpSocket, time: Duration, into: &mut Histogram<u64>) -> Result<()> {
    let mut buffer = [1; SMALL_BYTES];
    let begin = clock::now();
    let mut round = 0_u32;
    loop {
        let start = clock::now();
        if round > WARM_UP_ROUNDS && start.duration_since(begin) >= time {
            return Ok(());
        }
        socket.send(&buffer).context("send")?;
        while socket.recv(&mut buffer).is_err() {
            anyhow::ensure!(start.elapsed() < LOST_AFTER * 2, "a datagram was lost on loopback");
        }
        if round >= WARM_UP_ROUNDS {
            into.saturating_record(clock::ns(start.elapsed()));
        }
        round += 1;
    }
}
