//! No protocol: one side sends as fast as it can, the other counts what arrives.

use crate::net::{self, Receiver};
use crate::{Finish, Meter};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use std::io::IoSlice;
use std::os::fd::AsRawFd;

/// Trains given to the kernel with one call.
const BATCH: usize = 64;

/// Datagrams of `bytes`, `segments` to a train.
pub fn start(meter: &Meter, bytes: usize, segments: usize) -> Result<Finish, String> {
    let (sender, receiver) = net::pair()?;
    if segments > 1 {
        net::cut(&sender, bytes)?;
        net::uncut(&receiver)?;
    }
    let receive = {
        let meter = meter.clone();
        move || {
            net::pin(1);
            let mut batch = Receiver::<BATCH>::new(bytes * segments);
            while !meter.stopped() {
                let count: usize = batch.receive(&receiver).map(|train| train.len().div_ceil(bytes)).sum();
                meter.add(count as u64);
            }
        }
    };
    let send = {
        let meter = meter.clone();
        let train = vec![b'x'; bytes * segments];
        move || {
            net::pin(0);
            let slices = [[IoSlice::new(&train)]; BATCH];
            let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
            while !meter.stopped() {
                let to = [None::<()>; BATCH];
                // What does not fit is lost, as ever.
                let _ = sendmmsg(sender.as_raw_fd(), &mut headers, &slices, to, [], MsgFlags::empty());
            }
        }
    };
    let threads = [std::thread::spawn(receive), std::thread::spawn(send)];
    Ok(Box::new(move || threads.into_iter().for_each(|thread| thread.join().expect("a workload's thread"))))
}
