//! Runs simulator seeds: `scripts/check sim SEED [COUNT] [--keys] [--until CHECKER] [--pcap FILE] [--log FILE]`. Prints every broken promise, and what
//! occurred how often; of a single seed its report, and on demand all that happened.

use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use udp_plus::sim::{Record, Report, Tally, run, run_recorded, run_with_keys};

const USAGE: &str = "usage: sim SEED [COUNT] [--keys] [--until CHECKER] [--pcap FILE] [--log FILE]
  --keys   in every binary world all is sealed, with keys that change
  --until  stop at a seed of which this checker says that a promise was broken
  --pcap   all datagrams as they were sent, of a single seed; for Wireshark
  --log    all that happened, of a single seed";

/// In so many seeds everything occurs that can.
const SEEDS_FOR_ALL: u64 = 2_000;

struct Args {
    first: u64,
    count: u64,
    pcap: Option<String>,
    log: Option<String>,
    /// All binary worlds have keys.
    keyed: bool,
    /// Stop when this checker speaks.
    until: Option<String>,
}

fn args() -> Result<Args, String> {
    let mut args = Args { first: 0, count: 1, pcap: None, log: None, keyed: false, until: None };
    let mut numbers = Vec::new();
    let mut rest = std::env::args().skip(1);
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--pcap" => args.pcap = Some(rest.next().ok_or("--pcap wants a file")?),
            "--keys" => args.keyed = true,
            "--until" => args.until = Some(rest.next().ok_or("--until wants a checker")?),
            "--log" => args.log = Some(rest.next().ok_or("--log wants a file")?),
            text => {
                numbers.push(
                    text.parse::<u64>().map_err(|_| format!("{text:?} is neither a number nor an option"))?,
                );
            }
        }
    }
    match numbers[..] {
        [first] => args.first = first,
        [first, count] => (args.first, args.count) = (first, count),
        _ => return Err("a seed is wanted, and perhaps how many from there on".into()),
    }
    if args.count != 1 && (args.pcap.is_some() || args.log.is_some()) {
        return Err("what happens is written down of one seed at a time".into());
    }
    Ok(args)
}

fn record(args: &Args) -> Result<Record, String> {
    let open = |path: &Option<String>| -> Result<Option<Box<dyn std::io::Write + Send>>, String> {
        let Some(path) = path else { return Ok(None) };
        let file = File::create(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Some(Box::new(BufWriter::new(file))))
    };
    Ok(Record { log: open(&args.log)?, capture: open(&args.pcap)? })
}

/// The report, or `None` for a panic, which has been printed.
fn run_one(args: &Args, seed: u64) -> Result<Option<Report>, String> {
    if args.pcap.is_none() && args.log.is_none() {
        let run = if args.keyed { run_with_keys } else { run };
        return Ok(std::panic::catch_unwind(|| run(seed)).ok());
    }
    run_recorded(seed, args.keyed, record(args)?).map(Some).map_err(|error| error.to_string())
}

/// All seeds, on all cores.
fn run_all(args: &Args) -> Result<Tally, String> {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Tally::default());
    let worker = || {
        let mut tally = Tally::default();
        let mut result = Ok(());
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && index < args.count
        {
            let seed = args.first + index;
            match run_one(args, seed) {
                Ok(Some(report)) => {
                    tally.add(&report);
                    let speaks = |name: &str| {
                        report.violations.iter().any(|violation| format!("{violation:?}").starts_with(name))
                    };
                    if args.until.as_deref().is_some_and(speaks) {
                        next.store(args.count, Ordering::Relaxed);
                    }
                    if args.count == 1 || !report.violations.is_empty() {
                        println!("{report}");
                    }
                }
                Ok(None) => {
                    tally.add_panicked();
                    let keys = if args.keyed { " --keys" } else { "" };
                    println!("seed {seed}: panicked\n  replay: scripts/check sim {seed}{keys}");
                }
                Err(error) => result = Err(error),
            }
        }
        if let Ok(mut total) = total.lock() {
            total.merge(&tally);
        }
        result
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(args.count as usize);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| "a thread of the simulator panicked".to_string())?
        })
    })?;
    total.into_inner().map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let tally = match args().map_err(|error| format!("{error}\n{USAGE}")).and_then(|args| run_all(&args)) {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if tally.seeds > 1 {
        print!("{tally}");
    }
    println!("{} of {} seeds broke a promise", tally.broken, tally.seeds);
    let missing = tally.missing();
    if tally.seeds >= SEEDS_FOR_ALL && !missing.is_empty() {
        println!("no seed had: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if tally.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
