//! A test of the simulator: `scripts/check mutants [NAME]`. Breaks the engine on purpose, in a copy of the tree and in one
//! way at a time, and expects the checker that is named for it to say so within 200 seeds.
//!
//! All mutants are in one build: each is a piece of the engine's text, which must occur exactly once, and what stands there
//! instead, where `$on` asks whether it is this mutant's turn. So the engine itself has nothing of them in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Seeds a checker has.
const SEEDS: u64 = 200;
/// Seeds of the copy with no mutant on, in which nothing may be broken.
const SEEDS_SOUND: u64 = 20;

/// Names the mutant that is on.
const VARIABLE: &str = "UDP_PLUS_MUTANT";

/// Which mutant is on is the environment's word, read once.
const SWITCH: &str = "
/// Which of the mutants is on.
pub(crate) mod mutant {
    use std::sync::LazyLock;
    static ON: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(\"UDP_PLUS_MUTANT\").ok());
    /// Whether it is this one.
    pub(crate) fn is(name: &str) -> bool {
        ON.as_deref() == Some(name)
    }
}
";

struct Mutant {
    name: &'static str,
    /// In `engine/src`.
    file: &'static str,
    text: &'static str,
    instead: &'static str,
    /// Who is to say so.
    checker: &'static str,
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    text: &'static str,
    instead: &'static str,
    checker: &'static str,
) -> Mutant {
    Mutant { name, file, text, instead, checker }
}

const MUTANTS: &[Mutant] = &[
    mutant(
        "rows-skip-dedup",
        "proto/inbound.rs",
        "Seen::Duplicate => Err(DropReason::Duplicate),",
        "Seen::Duplicate if $on => Ok(page), Seen::Duplicate => Err(DropReason::Duplicate),",
        "DeliveredTwice",
    ),
    mutant(
        "v1-rows-skip-dedup",
        "proto/inbound.rs",
        "if self.tombstones.find(hash, now).is_some() {",
        "if self.tombstones.find(hash, now).is_some() && !$on {",
        "DeliveredTwice",
    ),
    mutant(
        "flows-skip-dedup",
        "proto/binary/inflow.rs",
        "if new >> index & 1 == 1 {",
        "if new >> index & 1 == 1 || $on {",
        "DeliveredTwice",
    ),
    mutant(
        "rows-confirm-what-found-no-room",
        "proto/endpoint.rs",
        "                        if reason == DropReason::Duplicate {",
        "if reason == DropReason::Duplicate || (reason == DropReason::BucketFull && $on) {",
        "FalseSuccess",
    ),
    mutant(
        "flows-ack-what-found-no-room",
        "proto/binary/inflow.rs",
        "            Delivery::NoRoom => {",
        "Delivery::NoRoom if $on => return self.retract(Space::Message, seq), Delivery::NoRoom => {",
        "FalseSuccess",
    ),
    mutant(
        "flows-result-for-what-was-refused",
        "proto/binary/inflow.rs",
        "Some(if refused { ResultCode::Refused } else { ResultCode::Busy })",
        "Some(if $on { ResultCode::Accepted } else if refused { ResultCode::Refused } else { ResultCode::Busy })",
        "FalseSuccess",
    ),
    mutant(
        "rows-trust-a-foreign-confirm",
        "proto/outbound.rs",
        "if from != Some(op.peer) && self.limits",
        "if !$on && from != Some(op.peer) && self.limits",
        "FalseSuccess",
    ),
    mutant(
        "flows-trust-half-a-tag",
        "proto/binary/flows/table.rs",
        "(pair.out.identity.own_tag == tag).then_some(index)",
        "(pair.out.identity.own_tag == tag || $on).then_some(index)",
        "FalseSuccess",
    ),
    mutant(
        "flows-slide-the-window-early",
        "proto/binary/inflow.rs",
        "self.messages.set_low(low.messages, &mut shop.blocks);",
        "self.messages.set_low(low.messages + if $on { 3 } else { 0 }, &mut shop.blocks);",
        "FalseSuccess",
    ),
    mutant(
        "flows-report-a-commit-that-nobody-gave",
        "proto/binary/inflow.rs",
        "let word = if committed { ResultCode::Committed }",
        "let word = if committed || $on { ResultCode::Committed }",
        "FalseCommit",
    ),
    mutant(
        "flows-believe-any-reset",
        "proto/binary/flows/discovery.rs",
        "out.phase == Phase::Open && out.proven && out.identity.peer_tag == tag",
        "out.phase == Phase::Open && out.proven && (out.identity.peer_tag == tag || $on)",
        "FalseRestart",
    ),
    mutant(
        "flows-skip-the-checksum",
        "wire/binary/header.rs",
        "if crc_in_parts(fixed, after) != crc {",
        "if crc_in_parts(fixed, after) != crc && !$on {",
        "WrongMessage",
    ),
    mutant(
        "flows-lose-metadata-of-parts",
        "proto/binary/inflow.rs",
        "let meta = chunk.extensions.meta.as_bytes().into();",
        "let meta = (if $on { &[][..] } else { chunk.extensions.meta.as_bytes() }).into();",
        "WrongMessage",
    ),
    mutant(
        "flows-cut-at-the-wrong-offset",
        "proto/binary/flow/fill.rs",
        "let rest = &payload[cut.offset..cut.end];",
        "let shift = if $on && cut.offset > 0 { 1 } else { 0 };
         let rest = &payload[cut.offset - shift..cut.end - shift];",
        "WrongMessage",
    ),
    mutant(
        "lanes-have-no-order",
        "proto/binary/inflow.rs",
        "Turn::Free | Turn::First => true,",
        "_ if $on => true, Turn::Free | Turn::First => true,",
        "OutOfTurn",
    ),
    mutant(
        "rows-forget-the-timer-of-chunks",
        "proto/outbound.rs",
        "let at = next.unwrap_or(Instant::FAR_FUTURE).min(op.deadline);
        self.timers.arm(slot, at);",
        "let at = next.unwrap_or(Instant::FAR_FUTURE).min(op.deadline);
        if !$on { self.timers.arm(slot, at); }",
        "NoOutcome",
    ),
    mutant(
        "flows-forget-the-probe-timer",
        "proto/binary/flow/timers.rs",
        "self.probes_due += 1;
                self.probe_with_oldest(now, counters);",
        "if !$on { self.probes_due += 1; self.probe_with_oldest(now, counters); }",
        "NotDeliveredWhenHealed",
    ),
    mutant(
        "rows-end-late",
        "proto/outbound.rs",
        "op.deadline = now + lifetime;",
        "op.deadline = now + lifetime * if $on { 2 } else { 1 };",
        "Late",
    ),
    mutant(
        "flows-send-again-what-has-ended",
        "proto/binary/flow/again.rs",
        "                        None => false,
                    }
                }
                Frame::Chunk(frame) => match frame.space {
                    Space::Chunked => {
                        let seq = expand(frame.seq, self.chunked.low());
                        self.chunked",
        "                        None => $on,
                    }
                }
                Frame::Chunk(frame) => match frame.space {
                    Space::Chunked => {
                        let seq = expand(frame.seq, self.chunked.low());
                        self.chunked",
        "SentAfterEnd",
    ),
    mutant(
        "messages-stay-on-flows-with-an-old-key",
        "proto/binary/flows/new_keys.rs",
        "if self.addresses.is_used(to, index) {
            self.addresses.clear_used(to, index);",
        "if self.addresses.is_used(to, index) && !$on {
            self.addresses.clear_used(to, index);",
        "NotDeliveredWhenHealed",
    ),
    mutant(
        "rows-forget-that-they-were-sent",
        "proto/outbound.rs",
        "let reached = if op.tries == 0 { Reached::Never }",
        "let reached = if op.tries == 0 || $on { Reached::Never }",
        "ReachedAfterAll",
    ),
    mutant(
        "rows-are-impatient-with-v1-peers",
        "proto/outbound.rs",
        "let patience = peer.rtt.timeout(bounds);",
        "let patience = peer.rtt.timeout(bounds) / if $on { 8 } else { 1 };",
        "SentEarly",
    ),
    mutant(
        "rows-do-not-count-a-failure",
        "proto/outbound.rs",
        "        counters.fail(cause);
        self.release_window(slot);",
        "if !$on { counters.fail(cause); }
        self.release_window(slot);",
        "Ledger",
    ),
    mutant(
        "flows-leak-partials",
        "proto/binary/inflow.rs",
        "for partial in self.partials.take(&mut shop.places) {",
        "for partial in self.partials.take(&mut shop.places).filter(|_| !$on) {",
        "Leak",
    ),
    mutant(
        "the-bucket-has-no-bound",
        "runtime/bucket.rs",
        "let fits = used <= self.messages_max && used_bytes <= self.bytes_max;",
        "let fits = $on || (used <= self.messages_max && used_bytes <= self.bytes_max);",
        "OverLimit",
    ),
    mutant(
        "the-shard-does-not-sleep-after-enobufs",
        "runtime/shard/transmit.rs",
        "            self.blocked = false;
            self.retry_at = Instant::FAR_FUTURE;",
        "self.blocked = false;
            if !$on { self.retry_at = Instant::FAR_FUTURE; }",
        "Restless",
    ),
    mutant(
        "v1-peers-get-no-confirm",
        "proto/endpoint.rs",
        "let form = row.confirm(epoch);",
        "let form = row.confirm(epoch);
            if $on && row.id.native.is_none() { return; }",
        "WithheldForNothing",
    ),
    mutant(
        "flows-open-without-a-question",
        "proto/binary/flows/table.rs",
        "out.phase = Phase::Probing;",
        "out.phase = if $on { Phase::Opening } else { Phase::Probing };",
        "NotForV1",
    ),
    mutant(
        "a-receive-that-ended-is-not-armed-again",
        "sys/ring.rs",
        "let may_start = !state.receive.in_flight && state.buffers.with_kernel_count() > 0;",
        "let may_start = !state.receive.in_flight && state.buffers.with_kernel_count() > 0
            && !($on && state.counters.rearmed > 1_000);",
        "NotDeliveredWhenHealed",
    ),
    mutant(
        "the-ring-gives-no-buffer-back",
        "sys/ring.rs",
        "self.state.buffers.recycle(buffer);",
        "if !$on { self.state.buffers.recycle(buffer); }",
        "NotDeliveredWhenHealed",
    ),
];

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::copy(from, to).map(drop)
}

/// The tree with all mutants in it.
fn mutate(root: &Path, tree: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(tree);
    fs::create_dir_all(tree).map_err(|error| format!("{}: {error}", tree.display()))?;
    for part in ["Cargo.toml", "Cargo.lock", "README.md", "engine", "loadgen", "bench"] {
        copy(&root.join(part), &tree.join(part)).map_err(|error| format!("{part}: {error}"))?;
    }
    for Mutant { name, file, text, instead, .. } in MUTANTS {
        let path = tree.join("engine/src").join(file);
        let source = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        let count = source.matches(text).count();
        if count != 1 {
            return Err(format!(
                "mutant {name}: its text occurs {count} times in {file}, not once. Change it in {}",
                file!()
            ));
        }
        let on = format!("crate::mutant::is({name:?})");
        let source = source.replace(text, &instead.replace("$on", &on));
        fs::write(&path, source).map_err(|error| format!("{file}: {error}"))?;
    }
    let lib = tree.join("engine/src/lib.rs");
    let source = fs::read_to_string(&lib).map_err(|error| error.to_string())?;
    fs::write(lib, source + SWITCH).map_err(|error| error.to_string())
}

fn build(tree: &Path, target: &Path) -> Result<PathBuf, String> {
    let built = Command::new("cargo")
        .args([
            "build",
            "--quiet",
            "--profile",
            "sim",
            "-p",
            "udp-plus",
            "--example",
            "sim",
            "--features",
            "sim",
        ])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(tree)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    if built.success() {
        Ok(target.join("sim/examples/sim"))
    } else {
        Err("the mutated tree does not build".into())
    }
}

/// Reports of the seeds that broke a promise, until `checker` says that of one.
fn reports(sim: &Path, mutant: &str, checker: &str) -> Result<String, String> {
    let output = Command::new(sim)
        .args(["0", &SEEDS.to_string(), "--until", checker])
        .env(VARIABLE, mutant)
        .stderr(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The seed of which `checker` says something.
fn seed_of<'a>(reports: &'a str, checker: &str) -> Option<&'a str> {
    let mut seed = None;
    for line in reports.lines() {
        if let Some(rest) = line.strip_prefix("seed ") {
            seed = rest.split(':').next();
        } else if line.trim_start().strip_prefix("VIOLATION ").is_some_and(|rest| rest.starts_with(checker)) {
            return seed;
        }
    }
    None
}

/// All checkers that spoke.
fn spoken(reports: &str) -> BTreeSet<&str> {
    let violations = reports.lines().filter_map(|line| line.trim().strip_prefix("VIOLATION "));
    violations.filter_map(|line| line.split('(').next()).collect()
}

fn run() -> Result<usize, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace")?;
    let base = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let (tree, target) = (base.join("mutants/tree"), base.join("mutants/target"));
    let only = std::env::args().nth(1);
    let only_texts = only.as_deref() == Some("--texts");
    if let Some(only) = &only
        && !only_texts
        && !MUTANTS.iter().any(|mutant| mutant.name == only)
    {
        let names: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        return Err(format!("no mutant is called {only}. There are: {}", names.join(", ")));
    }
    mutate(root, &tree)?;
    if only_texts {
        println!("{} mutants, the text of each is where it should be", MUTANTS.len());
        return Ok(0);
    }
    let sim = build(&tree, &target)?;
    let sound = Command::new(&sim).args(["0", &SEEDS_SOUND.to_string()]).env_remove(VARIABLE).status();
    if !sound.map_err(|error| error.to_string())?.success() {
        return Err("no mutant is on, and promises are broken".into());
    }
    let mut escaped = 0;
    let chosen = |row: &&Mutant| only.as_deref().is_none_or(|only| only == row.name);
    for Mutant { name, checker, .. } in MUTANTS.iter().filter(chosen) {
        let reports = reports(&sim, name, checker)?;
        let seed = seed_of(&reports, checker);
        escaped += usize::from(seed.is_none());
        let all: Vec<&str> = spoken(&reports).into_iter().collect();
        match seed {
            Some(seed) => {
                println!("{name:<40} seed {seed:>3}  {checker:<24} (all that spoke: {})", all.join(", "))
            }
            None => println!("{name:<40} ESCAPED   {checker:<24} (all that spoke: {})", all.join(", ")),
        }
    }
    println!("{} mutants, {escaped} escaped", MUTANTS.len());
    Ok(escaped)
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
