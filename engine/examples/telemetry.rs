//! Many peers report a little, all the time: `telemetry [PEERS [MESSAGES [SECONDS [BYTES [PROCESSES]]]]]`, by default 1,000,000
//! messages of 64 bytes from 10,000 peers within 200 s, in 4 processes. Each peer is an engine with a socket at an address of its own
//! (127.1.0.1 and on), a thread and a schedule; all of them send to one engine. Prints what became of the messages, latencies from
//! when each was due, and memory; exit status 1 if one did not arrive, once and unchanged.
#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

#[path = "peers/books.rs"]
mod books;

use books::{Books, Latencies};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Inbox, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use udp_plus::{Actor, Context, DriverChoice, Engine, MessageRef, Outcome, Preset, Verdict, Wire};

/// The address before that of the first peer.
const ADDRESSES: u32 = 0x7F01_0000;

/// All peers have come after that.
const ARRIVE_S: f64 = 10.0;

/// What everyone has to know.
#[derive(Clone, Copy, Debug)]
struct Task {
    peers: u32,
    each: u32,
    seconds: f64,
    bytes: usize,
}

struct Receiver(Arc<Mutex<Books>>);

impl Actor for Receiver {
    fn on_message(&mut self, _: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).note(message.payload);
        Verdict::Accept
    }
}

/// What the peers of a process have to say.
#[derive(Debug, Default)]
struct Totals {
    delivered: u64,
    failed: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Totals {
    fn ended(&self) -> u64 {
        self.delivered + self.failed.values().sum::<u64>()
    }
}

#[derive(Debug, Default)]
struct Senders {
    is_begun: AtomicBool,
    /// When the first message of all is due: as soon as a peer sees that it has begun.
    begin: OnceLock<udp_plus::units::Instant>,
    totals: Mutex<Totals>,
    all_ended: Condvar,
    messages: u64,
}

struct Sender {
    task: Task,
    peer: u32,
    to: SocketAddr,
    next: u32,
    senders: Arc<Senders>,
}

impl Sender {
    /// Peers come one by one, and do not speak at the same time.
    fn due(&self, begin: udp_plus::units::Instant, number: u32) -> udp_plus::units::Instant {
        let phase = f64::from(self.peer) / f64::from(self.task.peers);
        let seconds = self.task.seconds / f64::from(self.task.each) * f64::from(number);
        begin + Duration::from_secs_f64(ARRIVE_S * phase + seconds)
    }
}

impl Actor for Sender {
    fn on_message(&mut self, _: &mut Context<'_>, _: MessageRef<'_>) -> Verdict {
        Verdict::Accept
    }

    fn on_outcome(&mut self, context: &mut Context<'_>, tag: u64, outcome: Outcome) {
        let due = self.senders.begin.get().map(|&begin| self.due(begin, tag as u32));
        let latency = due.map_or(Duration::ZERO, |due| context.now().since(due));
        let mut totals = self.senders.totals.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(_) => {
                totals.delivered += 1;
                totals.latencies.note(latency.as_micros() as u64);
            }
            Err(error) => *totals.failed.entry(error.to_string()).or_default() += 1,
        }
        if totals.ended() >= self.senders.messages {
            self.senders.all_ended.notify_all();
        }
    }

    fn on_turn(&mut self, context: &mut Context<'_>) {
        if !self.senders.is_begun.load(Ordering::Acquire) {
            return;
        }
        let begin = *self.senders.begin.get_or_init(|| context.now());
        let mut payload = vec![0; self.task.bytes];
        while self.next < self.task.each {
            let due = self.due(begin, self.next);
            if due > context.now() {
                return context.wake_at(due);
            }
            books::write(&mut payload, self.peer, self.next);
            if context.put_copy(self.to, &payload, self.next.into()).is_err() {
                // Another turn follows; the latency counts from when it was due.
                return context.wake_at(context.now() + Duration::from_millis(1));
            }
            self.next += 1;
        }
    }
}

/// Tells when the parent says that it is time. Ctrl-C does not come to a session of its own: where the parent is gone, however that
/// came about, there is an end of what it says, and nobody for whom to go on.
fn hear() -> Inbox<String> {
    let (told, heard) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = told.send(line);
        }
        std::process::exit(1);
    });
    heard
}

/// The process with the peers from `first` on.
fn send(task: Task, first: u32, count: u32, to: SocketAddr) -> Result<(), Box<dyn Error>> {
    let heard = hear();
    let senders =
        Arc::new(Senders { messages: u64::from(count) * u64::from(task.each), ..Senders::default() });
    let mut engines = Vec::new();
    for peer in first..first + count {
        let address = Ipv4Addr::from(ADDRESSES + 1 + peer);
        let builder = Engine::builder().preset(Preset::Small).wire(Wire::Binary);
        // The rings of thousands of io_urings are more memory than a user may lock.
        let builder = builder.driver(DriverChoice::Mmsg).bind(format!("{address}:0"));
        // It would be a second thread for each of them.
        let builder = builder.stall_after(Duration::ZERO);
        let builder = builder.actor(|_| Sender { task, peer, to, next: 0, senders: Arc::clone(&senders) });
        engines.push(builder.start().map_err(|error| format!("peer {peer} of {}: {error}", task.peers))?);
    }
    println!("ready");
    heard.recv()?;
    senders.is_begun.store(true, Ordering::Release);
    engines.iter().for_each(Engine::wake);
    let mut totals = senders.totals.lock().unwrap_or_else(PoisonError::into_inner);
    while totals.ended() < senders.messages {
        totals = senders.all_ended.wait(totals).unwrap_or_else(PoisonError::into_inner);
    }
    let sum = |name: &str| engines.iter().map(|engine| engine.stats().total.get(name)).sum::<u64>();
    println!("resident {:.1}", books::resident_mib());
    println!("delivered {}", totals.delivered);
    println!("datagrams {}", sum("datagrams_sent"));
    println!("again {}", sum("rows_retransmitted"));
    totals.failed.iter().for_each(|(cause, count)| println!("failed {count} {cause}"));
    println!("latencies {}", totals.latencies);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: f64| -> Result<f64, String> {
        let Some(text) = arguments.get(at) else { return Ok(default) };
        text.parse()
            .ok()
            .filter(|number| *number >= 1.0)
            .ok_or_else(|| format!("{text:?} is no number from 1 on"))
    };
    let (peers, messages) = (number(0, 10_000.0)? as u32, number(1, 1e6)?);
    let task = Task {
        peers,
        each: (messages / f64::from(peers)).ceil() as u32,
        seconds: number(2, 200.0)?,
        bytes: (number(3, 64.0)? as usize).max(books::BYTES_MIN),
    };
    let processes = number(4, 4.0)? as u32;
    if let [_, _, _, _, _, first, count, to] = &arguments[..] {
        return send(task, first.parse()?, count.parse()?, to.parse()?);
    }

    let received = Arc::new(Mutex::new(Books::new(peers, task.each, task.bytes)));
    let builder = Engine::builder().wire(Wire::Binary).bind("127.0.0.1:0").shards(1);
    let builder = builder.peers_max(2 * peers.max(1_024));
    let builder = builder.pin(true).pin_first_core(0);
    let receiver = builder.actor(|_| Receiver(Arc::clone(&received))).start()?;
    let to = receiver.local_addr();
    let starting = Instant::now();
    let cores = std::thread::available_parallelism()?.get();
    let mut children = Vec::new();
    for process in 0..processes {
        let share = |process: u32| (u64::from(peers) * u64::from(process) / u64::from(processes)) as u32;
        let (first, end) = (share(process), share(process + 1));
        // In earnest they have machines of their own: thousands of threads must not keep the receiver from its core, the first.
        // And not in its session: the kernel's autogroup would weigh the receiver as one of as many threads.
        let mut command = Command::new("setsid");
        command
            .args(["taskset", "-c", &format!("{}-{}", cores.min(2) - 1, cores - 1)])
            .arg(std::env::current_exe()?);
        let texts = [peers, task.each * peers].map(|number| number.to_string());
        command.args(texts).args([task.seconds.to_string(), task.bytes.to_string(), processes.to_string()]);
        command.args([first.to_string(), (end - first).to_string(), to.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdout = BufReader::new(child.stdout.take().ok_or("piped")?).lines();
        children.push((child, stdout));
    }
    for (_, stdout) in &mut children {
        if stdout.next().transpose()?.as_deref() != Some("ready") {
            return Err("a process of peers did not start".into());
        }
    }
    let began = Instant::now();
    println!("{peers} engines started in {:.1} s", began.duration_since(starting).as_secs_f64());
    for (child, _) in &mut children {
        // It stays open: its end is ours.
        child.stdin.as_mut().ok_or("piped")?.write_all(b"go\n")?;
    }
    let mut totals = Totals::default();
    let (mut resident, mut datagrams, mut again) = (0.0, 0, 0);
    for (child, stdout) in &mut children {
        for line in stdout {
            let line = line?;
            match line.split_once(' ') {
                Some(("resident", mib)) => resident += mib.parse::<f64>()?,
                Some(("delivered", count)) => totals.delivered += count.parse::<u64>()?,
                Some(("datagrams", count)) => datagrams += count.parse::<u64>()?,
                Some(("again", count)) => again += count.parse::<u64>()?,
                Some(("latencies", text)) => totals.latencies.add(text),
                Some(("failed", text)) => {
                    let (count, cause) = text.split_once(' ').ok_or("a cause")?;
                    *totals.failed.entry(cause.to_owned()).or_default() += count.parse::<u64>()?;
                }
                _ => return Err(format!("a process of peers said {line:?}").into()),
            }
        }
        child.wait()?;
    }
    let took = began.elapsed().as_secs_f64();
    let received = received.lock().unwrap_or_else(PoisonError::into_inner);
    let failed: u64 = totals.failed.values().sum();
    let messages = u64::from(peers) * u64::from(task.each);
    println!(
        "{peers} peers, {messages} messages of {} bytes in {took:.1} s: delivered {}, failed {failed}, received {}, twice {}, \
         corrupted {}",
        task.bytes, totals.delivered, received.received, received.twice, received.corrupted
    );
    println!("  from when each was due: {}", totals.latencies.words());
    println!(
        "  datagrams of the peers {datagrams}, again {again}, kernel drops {}; resident: receiver {:.0} MiB, a peer {:.2} MiB",
        receiver.stats().kernel_drops.map_or_else(|| "unknown".to_owned(), |drops| drops.to_string()),
        books::resident_mib(),
        resident / f64::from(peers)
    );
    totals.failed.iter().for_each(|(cause, count)| println!("  {count} {cause}"));
    let residual = receiver.ledger().residual();
    let well = received.are_well() && totals.delivered == messages && residual == 0;
    if well {
        Ok(())
    } else {
        Err(format!("not every message was delivered once (residual {residual})").into())
    }
}
