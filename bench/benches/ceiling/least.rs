//! The least that reliability over the v1 wire costs: rows as the original sends them, confirmed one by one, a window and
//! a table of what is in flight. No loss recovery, one peer, rows of one size, nothing checked that need not be.

use crate::net::{self, Receiver};
use crate::{Finish, Meter, clock};
use base64_simd::{Out, STANDARD};
use std::net::UdpSocket;
use std::time::Instant;

/// Rows in flight at most.
const WINDOW: usize = 4_096;
/// Largest UDP payload.
const TRAIN_BYTES_MAX: usize = 65_507;
/// `,<id16>,,,`
const PREFIX_BYTES: usize = 20;
/// The time, the same in every row: formatting it once a train costs nothing.
const SUFFIX: &[u8; 18] = b",1764123456.123456";
/// `1,<id16>,,0,`
const CONFIRM_BYTES: usize = 22;

/// Messages of `bytes`, up to `segments_max` rows to a train.
pub fn start(meter: &Meter, bytes: usize, segments_max: usize) -> Result<Finish, String> {
    let (sender, receiver) = net::pair()?;
    let row_bytes = PREFIX_BYTES + bytes.div_ceil(3) * 4 + SUFFIX.len();
    net::cut(&sender, row_bytes)?;
    net::cut(&receiver, CONFIRM_BYTES)?;
    net::uncut(&sender)?;
    net::uncut(&receiver)?;
    let segments = (TRAIN_BYTES_MAX / row_bytes).min(segments_max);
    // A trial: the receiver ignores rows that are not.
    sender
        .send(&vec![b'-'; row_bytes * segments])
        .map_err(|error| format!("{segments} segments: {error}"))?;
    let server = Server { socket: receiver, row_bytes, segments_max, meter: meter.clone() };
    let client = Client {
        socket: sender,
        payload: vec![7; bytes],
        row_bytes,
        segments,
        in_flight: vec![None; 1 << 16],
        in_flight_count: 0,
        next_id: 1,
        meter: meter.clone(),
    };
    let threads = [std::thread::spawn(move || server.run()), std::thread::spawn(move || client.run())];
    Ok(Box::new(move || threads.into_iter().for_each(|thread| thread.join().expect("a workload's thread"))))
}

struct Server {
    socket: UdpSocket,
    row_bytes: usize,
    segments_max: usize,
    meter: Meter,
}

impl Server {
    fn run(self) {
        net::pin(1);
        let mut batch = Receiver::<16>::new(1 << 16);
        let mut confirms = vec![0; CONFIRM_BYTES * self.segments_max];
        let mut message = vec![0; 2_048];
        while !self.meter.stopped() {
            let mut used = 0;
            for row in batch.receive(&self.socket).flat_map(|train| train.chunks(self.row_bytes)) {
                let Some(id) = take(row, &mut message) else { continue };
                let confirm = &mut confirms[used..used + CONFIRM_BYTES];
                confirm[..2].copy_from_slice(b"1,");
                confirm[2..18].copy_from_slice(id);
                confirm[18..].copy_from_slice(b",,0,");
                used += CONFIRM_BYTES;
                if used == confirms.len() {
                    let _ = self.socket.send(&confirms);
                    used = 0;
                }
            }
            if used > 0 {
                let _ = self.socket.send(&confirms[..used]);
            }
        }
    }
}

/// Decodes a row; its id.
fn take<'a>(row: &'a [u8], message: &mut [u8]) -> Option<&'a [u8]> {
    let (prefix, rest) = row.split_at_checked(PREFIX_BYTES)?;
    let text = rest.get(..rest.len().checked_sub(SUFFIX.len())?)?;
    let [b',', id @ .., b',', b',', b','] = prefix else { return None };
    std::hint::black_box(number(id));
    let payload = STANDARD.decode(text, Out::from_slice(message)).ok()?;
    std::hint::black_box(payload);
    Some(id)
}

struct Client {
    socket: UdpSocket,
    payload: Vec<u8>,
    row_bytes: usize,
    segments: usize,
    in_flight: Vec<Option<Instant>>,
    in_flight_count: usize,
    next_id: u64,
    meter: Meter,
}

impl Client {
    fn run(mut self) {
        net::pin(0);
        let mut batch = Receiver::<16>::new(1 << 16);
        let mut train = vec![0; self.row_bytes * self.segments];
        while !self.meter.stopped() {
            while self.in_flight_count + self.segments <= WINDOW {
                self.send(&mut train);
            }
            let confirmed = self.receive(&mut batch);
            if confirmed == 0 {
                // Something was lost. The least there is does not care what.
                self.in_flight.fill(None);
                self.in_flight_count = 0;
            }
            self.meter.add(confirmed);
        }
    }

    fn send(&mut self, train: &mut [u8]) {
        let now = clock();
        for row in train.chunks_exact_mut(self.row_bytes) {
            let (prefix, rest) = row.split_at_mut(PREFIX_BYTES);
            let (text, suffix) = rest.split_at_mut(rest.len() - SUFFIX.len());
            prefix[0] = b',';
            write_number(self.next_id, &mut prefix[1..17]);
            prefix[17..].copy_from_slice(b",,,");
            let _ = STANDARD.encode(&self.payload, Out::from_slice(text));
            suffix.copy_from_slice(SUFFIX);
            self.in_flight[self.next_id as usize % (1 << 16)] = Some(now);
            self.next_id += 1;
        }
        self.in_flight_count += self.segments;
        let _ = self.socket.send(train);
    }

    fn receive(&mut self, batch: &mut Receiver<16>) -> u64 {
        let mut confirmed = 0;
        for row in batch.receive(&self.socket).flat_map(|train| train.chunks(CONFIRM_BYTES)) {
            let Some(id) = row.get(2..18) else { continue };
            let place = &mut self.in_flight[number(id) as usize % (1 << 16)];
            if place.take().is_some() {
                self.in_flight_count -= 1;
                confirmed += 1;
            }
        }
        confirmed
    }
}

fn write_number(number: u64, digits: &mut [u8]) {
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * at)) as usize & 15];
    }
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |number, &digit| number << 4 | u64::from((digit & 15) + 9 * (digit >> 6)))
}
