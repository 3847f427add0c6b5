//! What the tool itself costs per message of 64 bytes, both sides, without any engine. Wall time informs and is no gate:
//!
//! ```text
//! cargo test --release -p udp-plus-loadgen -- --nocapture cost
//! ```

use crate::audit::{Audit, Seen};
use crate::cli::{Api, Mode};
use crate::clock;
use crate::generator::{Generator, Outlet, Put};
use crate::payload::{self, Stamp};
use crate::plan::{Plan, Run};
use crate::progress::Progress;
use crate::record::Desk;
use crate::slots::SlotTable;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use udp_plus::Outcome;

const SIZE: usize = 64;
const IN_FLIGHT: usize = 4_096;
/// Outcomes of a turn.
const TURN: usize = 256;
const TURNS: usize = 200;
const REPEATS: usize = 10;

/// An engine that takes everything and does nothing.
struct Nothing {
    scratch: [u8; SIZE],
    tags: Vec<u64>,
}

impl Outlet for Nothing {
    fn clock_ns(&self) -> u64 {
        clock::now_ns()
    }

    #[inline]
    fn put(&mut self, stamp: Stamp) -> Put {
        payload::fill(&mut self.scratch, stamp);
        black_box(&mut self.scratch);
        self.tags.push(stamp.tag());
        Put::Accepted
    }
}

fn plan() -> Plan {
    Plan {
        run: 0xAB_CDEF,
        protocol: crate::cli::Protocol::UdpPlus,
        mode: Mode::Sink,
        api: Api::Actor,
        lengths: crate::sizes::Lengths::fixed(SIZE),
        size: SIZE,
        size_words: String::new(),
        seed: 3,
        stages: false,
        open_loop: None,
        rate_words: String::new(),
        wake_early: Duration::ZERO,
        late_max: Duration::ZERO,
        in_flight: IN_FLIGHT,
        terms: crate::plan::Terms::DEFAULT,
        peers: crate::targets::Peers { count: 1, skew: 0.0 },
        shares: None,
        generators: 1,
        warm_up: Duration::ZERO,
        duration: Duration::from_secs(60),
    }
}

fn delivered() -> Outcome {
    let level = udp_plus::Level::Accepted;
    Ok(udp_plus::Delivered::new(level, 1, Duration::ZERO, Duration::ZERO))
}

/// (least, median) of all repeats.
fn least_and_median(mut all: Vec<f64>) -> String {
    all.sort_by(f64::total_cmp);
    format!("{:5.1} ns, median {:5.1} ns", all[0], all[all.len() / 2])
}

/// Nanoseconds of putting and of ending a message, as the actor does it.
fn client() -> (Vec<f64>, Vec<f64>) {
    let run = Run {
        plan: plan(),
        targets: crate::targets::Targets::one(([127, 0, 0, 1], 9).into()),
        progress: Progress::new(1),
    };
    let desk = Arc::new(Desk::default());
    let mut generator = Generator::new(Arc::new(run), 0, &SlotTable::new(1, IN_FLIGHT, false), None, desk);
    let mut nothing = Nothing { scratch: [0; SIZE], tags: Vec::with_capacity(2 * IN_FLIGHT) };
    generator.offer(&mut nothing);
    let (mut put, mut end, outcome) = (Vec::new(), Vec::new(), delivered());
    for _ in 0..REPEATS {
        let (mut put_ns, mut end_ns) = (0, 0);
        for _ in 0..TURNS {
            let start = clock::now_ns();
            let every = generator.clock_every() as usize;
            for tags in nothing.tags[..TURN].chunks(every) {
                let now = clock::now_ns();
                for &tag in tags {
                    generator.handle_outcome(tag, black_box(&outcome), now);
                }
            }
            let ended = clock::now_ns();
            nothing.tags.copy_within(TURN.., 0);
            nothing.tags.truncate(IN_FLIGHT - TURN);
            let before = clock::now_ns();
            generator.offer(&mut nothing);
            generator.publish(before);
            end_ns += ended - start;
            put_ns += clock::now_ns() - before;
        }
        let messages = (TURNS * TURN) as f64;
        put.push(put_ns as f64 / messages);
        end.push(end_ns as f64 / messages);
    }
    (put, end)
}

/// Nanoseconds of making a payload and of entering it into the books.
fn server() -> (Vec<f64>, Vec<f64>) {
    let plan = plan();
    let mut audit = Audit::of_run(plan.expected(), 10_000_000);
    let mut payloads = vec![[0; SIZE]; TURN];
    let (mut make, mut enter) = (Vec::new(), Vec::new());
    let mut number = 0;
    for _ in 0..REPEATS {
        let (mut make_ns, mut enter_ns) = (0, 0);
        for _ in 0..TURNS {
            let start = clock::now_ns();
            for payload in &mut payloads {
                payload::fill(payload, Stamp { run: plan.run, slot: (number % 4_096) as u32, number });
                number += 1;
            }
            let made = clock::now_ns();
            for payload in black_box(&payloads) {
                assert!(matches!(audit.enter(payload), Seen::New(_)));
            }
            make_ns += made - start;
            enter_ns += clock::now_ns() - made;
        }
        let messages = (TURNS * TURN) as f64;
        make.push(make_ns as f64 / messages);
        enter.push(enter_ns as f64 / messages);
    }
    (make, enter)
}

/// Nanoseconds of what is not the tool's: what the test itself does beside each message.
fn test_itself() -> Vec<f64> {
    let mut nothing = Nothing { scratch: [0; SIZE], tags: Vec::with_capacity(2 * IN_FLIGHT) };
    let outcome = delivered();
    let turn = |_| {
        let before = clock::now_ns();
        for _ in 0..TURNS {
            nothing.tags.clear();
            for tag in 0..TURN as u64 {
                black_box(&mut nothing.scratch);
                nothing.tags.push(tag);
            }
            for tag in &nothing.tags {
                black_box((tag, black_box(&outcome)));
            }
        }
        (clock::now_ns() - before) as f64 / (TURNS * TURN) as f64
    };
    (0..REPEATS).map(turn).collect()
}

#[test]
fn cost() {
    let (put, end) = client();
    let both = put.iter().zip(&end).map(|(put, end)| put + end).collect();
    let (make, enter) = server();
    println!("client: payload made        {}", least_and_median(make));
    println!("client: put, payload incl.  {}", least_and_median(put));
    println!("client: outcome             {}", least_and_median(end));
    println!("client: put and outcome     {}", least_and_median(both));
    println!("of that, the test itself    {}", least_and_median(test_itself()));
    println!("server: checked and booked  {}", least_and_median(enter));
}
