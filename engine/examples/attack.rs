//! Attacks an engine over loopback, from sources of 127.0.0.0/8, and counts what comes back to each of them:
//!
//! ```text
//! attack kind=first_chunks to=127.0.0.1:25252 rate=100000 seconds=5 sources=1000 core=0
//! attack kind=first_chunks to=dumb dumb_core=1 ...     a socket of its own that only receives: what the same costs there
//! ```
//!
//! Prints `name value` lines. Exit status 1 if more came back to a source than it may get (`DESIGN.md` 6). Kinds of which the
//! sender needs a flow (`flow_...`) open one for each source, at most 16, and have no bound: they have proven themselves.
#![allow(clippy::disallowed_methods, reason = "an application reads the clock")]

use nix::sys::socket::sockopt::{Ipv4PacketInfo, RcvBufForce};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt,
};
use std::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use udp_plus::sim::attack::{Attack, Intruder, Kind};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Datagrams a call: all from one source.
const BATCH: usize = 16;
const FLOWS_MAX: u32 = 16;
const DATAGRAM_BYTES: usize = 2_048;
/// What answers may take, once nothing more is sent.
const SETTLE: Duration = Duration::from_millis(300);
/// Between bursts, where the rate allows it.
const PAUSE: Duration = Duration::from_micros(200);

struct Options {
    kind: Kind,
    to: Option<SocketAddrV4>,
    rate: f64,
    time: Duration,
    sources: u32,
    core: Option<usize>,
    dumb_core: Option<usize>,
    seed: u64,
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            kind: Kind::FirstChunks,
            to: None,
            rate: 100_000.0,
            time: Duration::from_secs(5),
            sources: 1_000,
            core: None,
            dumb_core: None,
            seed: 1,
        };
        let mut target = None;
        for argument in std::env::args().skip(1) {
            let (name, value) = argument.split_once('=').ok_or("arguments are NAME=VALUE")?;
            match name {
                "kind" => options.kind = value.parse()?,
                "to" => target = Some(value.to_owned()),
                "rate" => options.rate = value.parse()?,
                "seconds" => options.time = Duration::try_from_secs_f64(value.parse()?)?,
                "sources" => options.sources = value.parse::<u32>()?.clamp(1, 1 << 20),
                "core" => options.core = Some(value.parse()?),
                "dumb_core" => options.dumb_core = Some(value.parse()?),
                "seed" => options.seed = value.parse()?,
                _ => {
                    let known = "kind, to, rate, seconds, sources, core, dumb_core, seed";
                    return Err(format!("there is no {name:?}; there are {known}").into());
                }
            }
        }
        match target.as_deref() {
            None => return Err("to=ADDRESS:PORT or to=dumb is missing".into()),
            Some("dumb") => {}
            Some(target) => options.to = Some(target.parse()?),
        }
        Ok(options)
    }
}

/// What a source sent and got, in bytes.
#[derive(Clone, Copy, Default)]
struct Account {
    out: u64,
    allowed: u64,
    back: u64,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse()?;
    let stop = AtomicBool::new(false);
    let drained = AtomicU64::new(0);
    let dumb = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    dumb.set_read_timeout(Some(Duration::from_millis(50)))?;
    let _ = setsockopt(&dumb, RcvBufForce, &(4 << 20));
    let to = match (options.to, dumb.local_addr()?) {
        (Some(to), _) | (None, SocketAddr::V4(to)) => to,
        (None, SocketAddr::V6(_)) => return Err("loopback is not IPv4".into()),
    };
    let exit = std::thread::scope(|scope| {
        if options.to.is_none() {
            scope.spawn(|| {
                pin(options.dumb_core);
                while !stop.load(Ordering::Relaxed) {
                    drained.fetch_add(receive(&dumb, |_, _| {}), Ordering::Relaxed);
                }
            });
        }
        pin(options.core);
        let attacked =
            if options.kind.needs_flow() { in_flows(&options, to) } else { of_strangers(&options, to) };
        stop.store(true, Ordering::Relaxed);
        attacked
    })?;
    if options.to.is_none() {
        println!("drained {}", drained.load(Ordering::Relaxed));
    }
    Ok(exit)
}

fn pin(core: Option<usize>) {
    if let Some(core) = core {
        let mut set = nix::sched::CpuSet::new();
        // Where that is not allowed it runs anywhere.
        let _ =
            set.set(core).and_then(|()| nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set));
    }
}

/// Sources are addresses of 127.0.0.0/8, all of them of one socket.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + number)
}

/// Everything that is there, at least one datagram or a timeout: the address it came to, and its bytes.
fn receive(socket: &UdpSocket, mut took: impl FnMut(Option<Ipv4Addr>, usize)) -> u64 {
    thread_local! {
        static MEMORY: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 64 * DATAGRAM_BYTES]);
    }
    MEMORY.with_borrow_mut(|memory| {
        let space = nix::cmsg_space!(nix::libc::in_pktinfo);
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(64, Some(space));
        let mut slices: Vec<_> =
            memory.chunks_exact_mut(DATAGRAM_BYTES).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let flags = MsgFlags::MSG_WAITFORONE;
        let Ok(messages) = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, flags, None) else {
            return 0;
        };
        let mut count = 0;
        for message in messages {
            let to = message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|one| match one {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)))
                    }
                    _ => None,
                })
            });
            took(to, message.bytes);
            count += 1;
        }
        count
    })
}

/// Sends as fast as the rate allows, until the time is over: `send` sends some datagrams and says how many.
fn paced(options: &Options, mut send: impl FnMut() -> Result<u64>) -> Result<(u64, Duration)> {
    let started = Instant::now();
    let mut sent = 0;
    loop {
        let elapsed = started.elapsed();
        if elapsed >= options.time {
            return Ok((sent, elapsed));
        }
        let due = (options.rate * elapsed.as_secs_f64()) as u64;
        // Whoever spins takes the processor from the honest peer beside it.
        if sent + BATCH as u64 > due {
            std::thread::sleep(PAUSE);
            continue;
        }
        // No more at once than a busy millisecond leaves behind: what a stall cost is not made up for in a burst.
        for _ in 0..(due.saturating_sub(sent) / BATCH as u64).min(64) {
            sent += send()?;
        }
    }
}

fn of_strangers(options: &Options, to: SocketAddrV4) -> Result<ExitCode> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    let _ = setsockopt(&socket, RcvBufForce, &(16 << 20));
    let mut accounts = vec![Account::default(); options.sources as usize];
    let mut attack = Attack::new(options.kind, options.seed);
    let mut datagrams = vec![Vec::new(); BATCH];
    let mut headers =
        MultiHeaders::<SockaddrIn>::preallocate(BATCH, Some(nix::cmsg_space!(nix::libc::in_pktinfo)));
    let addresses = [Some(SockaddrIn::from(to)); BATCH];
    let (mut turn, mut refused) = (0_u32, 0_u64);
    socket.set_nonblocking(true)?;
    let first = u32::from(source(0));
    let mut answers = 0;
    let (sent, took) = paced(options, || {
        turn = (turn + 1) % options.sources;
        for datagram in &mut datagrams {
            attack.next(datagram);
        }
        let info = nix::libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: nix::libc::in_addr { s_addr: u32::from(source(turn)).to_be() },
            ipi_addr: nix::libc::in_addr { s_addr: 0 },
        };
        let slices: Vec<_> = datagrams.iter().map(|datagram| [IoSlice::new(datagram)]).collect();
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            addresses,
            [ControlMessage::Ipv4PacketInfo(&info)],
            MsgFlags::empty(),
        );
        // A full buffer shows in the rate.
        let count = sent.map_or(0, Iterator::count);
        refused += (BATCH - count) as u64;
        let account = &mut accounts[turn as usize];
        for datagram in &datagrams[..count] {
            account.out += datagram.len() as u64;
            account.allowed += options.kind.back_max(datagram.len()) as u64;
        }
        answers += collect(&socket, first, &mut accounts);
        Ok(count as u64)
    })?;
    let until = Instant::now() + SETTLE;
    while Instant::now() < until {
        answers += collect(&socket, first, &mut accounts);
        std::thread::sleep(Duration::from_millis(5));
    }
    let sum = |of: fn(&Account) -> u64| accounts.iter().map(of).sum::<u64>();
    let beyond = accounts.iter().filter(|account| account.back > account.allowed).count();
    report(options, sent, took);
    println!("packets_out {sent}");
    println!("not_sent {refused}");
    println!("bytes_out {}", sum(|account| account.out));
    println!("bytes_allowed {}", sum(|account| account.allowed));
    println!("answers {answers}");
    println!("bytes_back {}", sum(|account| account.back));
    println!("sources_answered {}", accounts.iter().filter(|account| account.back > 0).count());
    println!("sources_beyond {beyond}");
    Ok(if beyond == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn collect(socket: &UdpSocket, first: u32, accounts: &mut [Account]) -> u64 {
    let mut answers = 0;
    loop {
        let count = receive(socket, |to, bytes| {
            let number = to.map(|to| u32::from(to).wrapping_sub(first) as usize);
            if let Some(account) = number.and_then(|number| accounts.get_mut(number)) {
                account.back += bytes as u64;
            }
        });
        answers += count;
        if count < 64 {
            return answers;
        }
    }
}

fn in_flows(options: &Options, to: SocketAddrV4) -> Result<ExitCode> {
    let mut flows = Vec::new();
    for number in 0..options.sources.min(FLOWS_MAX) {
        let socket = UdpSocket::bind((source(number), 0))?;
        let seed = options.seed + u64::from(number);
        let intruder = match options.to {
            Some(_) => Intruder::open(&socket, to.into(), seed)?,
            None => Intruder::unanswered(seed),
        };
        socket.set_nonblocking(true)?;
        flows.push((socket, intruder, Attack::new(options.kind, options.seed)));
    }
    let (mut turn, mut datagrams) = (0, vec![Vec::new(); BATCH]);
    let (mut out, mut back) = (0, 0);
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let addresses = [Some(SockaddrIn::from(to)); BATCH];
    let (sent, took) = paced(options, || {
        turn = (turn + 1) % flows.len();
        let (socket, intruder, attack) = &mut flows[turn];
        for datagram in &mut datagrams {
            attack.next_in(intruder, datagram);
        }
        let slices: Vec<_> = datagrams.iter().map(|datagram| [IoSlice::new(datagram)]).collect();
        let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty());
        let count = sent.map_or(0, Iterator::count);
        out += datagrams[..count].iter().map(|datagram| datagram.len() as u64).sum::<u64>();
        receive(socket, |_, bytes| back += bytes as u64);
        Ok(count as u64)
    })?;
    report(options, sent, took);
    println!("packets_out {}", sent + flows.iter().map(|(_, intruder, _)| intruder.asked()).sum::<u64>());
    println!("flows {}", flows.len());
    println!("bytes_out {out}");
    println!("bytes_back {back}");
    Ok(ExitCode::SUCCESS)
}

fn report(options: &Options, sent: u64, took: Duration) {
    println!("kind {}", options.kind);
    println!("sent {sent}");
    println!("rate {:.0}", sent as f64 / took.as_secs_f64());
}
