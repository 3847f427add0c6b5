//! What the engine's black-box tests share: payloads that can be checked, the application's own audit, hang guards,
//! skips, raw sockets, child processes.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "every test file uses its own part of it")]
#![allow(clippy::disallowed_methods, reason = "tests on real sockets live in real time")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use udp_plus::{Actor, Builder, Context, DriverChoice, Engine, MessageRef, Outcome, SubmitReason, Verdict};

/// Nothing takes so long unless it hangs.
pub const GUARD: Duration = Duration::from_secs(10);
/// The same for a million messages on a busy machine.
pub const LONG_GUARD: Duration = Duration::from_secs(80);

/// The length of a test payload.
pub const PAYLOAD_BYTES: usize = 64;

/// The only way to skip: names what is missing, and is a failure where CI promises that nothing is.
pub fn skip(missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI lacks {missing}");
    eprintln!("SKIPPED: no {missing} here");
}

/// Waits for `done`, looking again every millisecond; panics with `what` if it never comes.
pub fn wait_for(what: &str, guard: Duration, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < guard, "hang: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The drivers this machine has; a machine without io_uring is a skip of that half.
pub fn driver_works(driver: DriverChoice) -> bool {
    match engine(driver).start() {
        Ok(_) => true,
        Err(error) if driver == DriverChoice::Uring => {
            skip(&format!("io_uring ({error})"));
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// One shard on a free loopback port.
pub fn engine(driver: DriverChoice) -> Builder {
    Engine::builder().bind("127.0.0.1:0").shards(1).driver(driver)
}

/// A plain socket on loopback that never waits longer than the guard.
pub fn raw_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(GUARD)).unwrap();
    socket
}

/// The next datagram as text.
pub fn recv_text(socket: &UdpSocket) -> String {
    let mut buffer = vec![0; 65_536];
    let bytes = loop {
        match socket.recv(&mut buffer) {
            // Starting an engine probes a ring on this thread; the end of that ring interrupts a later call once.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.expect("hang: no datagram came"),
        }
    };
    String::from_utf8(buffer[..bytes].to_vec()).unwrap()
}

/// Everything that is there now.
pub fn drain_texts(socket: &UdpSocket) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65_536];
    let mut texts = Vec::new();
    while let Ok(bytes) = socket.recv(&mut buffer) {
        texts.push(String::from_utf8_lossy(&buffer[..bytes]).into_owned());
    }
    socket.set_nonblocking(false).unwrap();
    texts
}

/// Text of 64 bytes that only this sequence number has.
pub fn payload(seq: u64) -> [u8; PAYLOAD_BYTES] {
    let mut text = [0; PAYLOAD_BYTES];
    let mut state = seq;
    for part in text.chunks_mut(16) {
        hex16(part, state);
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    text
}

fn hex16(into: &mut [u8], number: u64) {
    for (index, digit) in into.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * index)) as usize & 15];
    }
}

/// Text of any length that starts with the 64 bytes of its number and repeats them.
pub fn long_payload(seq: u64, bytes: usize) -> Vec<u8> {
    assert!(bytes >= PAYLOAD_BYTES);
    payload(seq).iter().copied().cycle().take(bytes).collect()
}

/// The application's own book: which messages came, and what was wrong with them.
#[derive(Debug)]
pub struct Audit {
    came: Vec<AtomicU64>,
    total: u64,
    distinct: AtomicU64,
    duplicates: AtomicU64,
    corrupted: AtomicU64,
}

impl Audit {
    pub fn new(total: u64) -> Arc<Self> {
        let words = (0..total.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU64::new(0);
        Arc::new(Self { came: words, total, distinct: zero(), duplicates: zero(), corrupted: zero() })
    }

    /// Notes a message; its whole content is checked.
    pub fn note(&self, bytes: &[u8]) {
        let seq = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.get(..16))
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .filter(|&seq| seq < self.total);
        let intact = seq.filter(|&seq| {
            let pattern = payload(seq);
            bytes.chunks(PAYLOAD_BYTES).all(|part| part == &pattern[..part.len()])
        });
        let Some(seq) = intact else {
            self.corrupted.fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.mark(seq);
    }

    /// Notes a number.
    pub fn mark(&self, seq: u64) {
        let bit = 1 << (seq % 64);
        let first = self.came[(seq / 64) as usize].fetch_or(bit, Ordering::AcqRel) & bit == 0;
        let count = if first { &self.distinct } else { &self.duplicates };
        count.fetch_add(1, Ordering::AcqRel);
    }

    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Acquire)
    }

    /// Everything came, once, as it was sent.
    pub fn assert_exactly_once(&self) {
        let bits: u64 =
            self.came.iter().map(|word| u64::from(word.load(Ordering::Acquire).count_ones())).sum();
        let [duplicates, corrupted] =
            [&self.duplicates, &self.corrupted].map(|count| count.load(Ordering::Acquire));
        assert_eq!((bits, duplicates, corrupted), (self.total, 0, 0), "(came, duplicates, corrupted)");
    }
}

/// Outcomes by number: each message has exactly one. `wait` returns when all have come.
#[derive(Debug)]
pub struct Outcomes {
    audit: Arc<Audit>,
    failed: Mutex<Vec<String>>,
    all: Condvar,
}

impl Outcomes {
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { audit: Audit::new(total), failed: Mutex::default(), all: Condvar::new() })
    }

    pub fn note(&self, tag: u64, outcome: &Outcome) {
        self.audit.mark(tag);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = outcome {
            failed.push(format!("{tag}: {error}"));
        }
        if self.audit.distinct() == self.audit.total {
            self.all.notify_all();
        }
    }

    pub fn count(&self) -> u64 {
        self.audit.distinct()
    }

    pub fn wait(&self, guard: Duration) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.all.wait_timeout_while(failed, guard, |_| self.audit.distinct() < self.audit.total);
        let (failed, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
        assert!(
            !timeout.timed_out(),
            "hang: {} of {} outcomes, failed: {:?}",
            self.count(),
            self.audit.total,
            failed.first()
        );
    }

    /// Every message has one outcome, and it is success.
    pub fn assert_all_delivered(&self) {
        self.audit.assert_exactly_once();
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(failed.is_empty(), "{} failed, first: {:?}", failed.len(), failed.first());
    }
}

/// Puts messages `next`, `next + step`, ... in the shard.
#[derive(Debug)]
pub struct SourceActor {
    pub to: SocketAddr,
    pub next: u64,
    pub step: u64,
    pub total: u64,
    pub outcomes: Arc<Outcomes>,
}

impl Actor for SourceActor {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        panic!("nobody sends to the source");
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, tag: u64, outcome: Outcome) {
        self.outcomes.note(tag, &outcome);
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        while self.next < self.total {
            match context.put_copy(self.to, &payload(self.next), self.next) {
                Ok(()) => self.next += self.step,
                Err(SubmitReason::Full) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Notes what comes in the shard.
#[derive(Debug)]
pub struct SinkActor(pub Arc<Audit>);

impl Actor for SinkActor {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        self.0.note(message.payload);
        Verdict::Accept
    }
}

/// Runs test `name` of this binary in a process of its own with `KIT_CHILD=1`; panics with its output if it fails.
pub fn in_child(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("KIT_CHILD", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "child {name}:\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // What the child measured is worth seeing with --nocapture; its skips are ours.
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
}

/// This process was started by [`in_child`].
pub fn is_child() -> bool {
    std::env::var_os("KIT_CHILD").is_some()
}

/// Resident memory of this process.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}
