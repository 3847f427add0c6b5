//! The one table of flags: `--help` prints it, `docs/` contains it (`udp-plus flags` writes it), and tests hold both
//! against the parser.

use crate::cli::WIRE_DEFAULT;
use std::fmt::Write;

/// A flag and what there is to know about it.
#[derive(Debug)]
pub struct Flag {
    /// As typed.
    pub name: &'static str,
    /// What to write behind it.
    pub kind: &'static str,
    /// In what.
    pub unit: &'static str,
    /// Without it.
    pub default: &'static str,
    /// Who takes it.
    pub commands: &'static [&'static str],
    /// What it does.
    pub about: &'static str,
}

const ENGINE: &[&str] = &["bench", "serve", "load", "search", "send", "recv"];
const LOAD: &[&str] = &["bench", "load", "search"];
const PUTS: &[&str] = &["bench", "load", "search", "send"];
const ENDS: &[&str] = &["bench", "serve", "load", "search"];
const BINDS: &[&str] = &["serve", "recv"];

macro_rules! flags {
    ($($name:literal $kind:literal $unit:literal $default:tt $commands:ident $about:literal)+) => {
        /// Every flag, in the order of the table.
        pub const FLAGS: &[Flag] = &[$(Flag {
            name: $name,
            kind: $kind,
            unit: $unit,
            default: $default,
            commands: $commands,
            about: $about,
        }),+];
    };
}

const TARGET: &[&str] = &["load", "search"];
const SEARCH: &[&str] = &["search"];
const AB: &[&str] = &["ab"];
const COMPARES: &[&str] = &["compare", "ab"];
const BENCH: &[&str] = &["bench"];
const SEND: &[&str] = &["send"];
const RECV: &[&str] = &["recv"];
const BASELINE: &[&str] = &["baseline"];
const RUN: &[&str] = &["run"];
const DOCTOR: &[&str] = &["doctor"];
const IMPAIR: &[&str] = &["impair"];

flags! {
    "--target" "HOST:PORT[=WEIGHT]" "" "" TARGET "where `serve` listens; names resolve. Several: each gets messages by its weight (1). search without it: both ends are here"
    "--bind" "ADDR:PORT" "" "0.0.0.0:25252" BINDS "where to receive; port 0: any free one"
    "--mode" "sink|echo" "" "sink" ENDS "what the far end does: take messages, or send them back"
    "--protocol" "udp-plus|udp|tcp" "" "udp-plus" ENDS "what carries the messages, at both ends: UDP-Plus, or plain sockets to hold it against: a datagram each (mode echo alone), or a TCP connection a shard"
    "--wire" "auto|csv|binary" "" WIRE_DEFAULT ENGINE "wire format: UDP-Plus v1 (csv), v2 (binary), or v2 with peers that answer that they speak it (auto)"
    "--peer-wire" "PEER=WIRE" "" "" ENGINE "another wire for some peers, by address, address and port, or network: 10.0.0.0/8=csv; as often as needed, the most specific one counts"
    "--mtu" "BYTES|auto" "bytes" "auto" ENGINE "binary wire: largest datagram tried, UDP payload, 1,200 to 65,472; auto: 1,472, over IPv6 1,452. What the path carries of it is found out"
    "--cc" "model|cubic|fixed" "" "model" ENGINE "binary wire: congestion control"
    "--key-file" "FILE" "" "" ENGINE "binary wire: seal everything with the keys in this file (chmod 600), a line each: ID KEY [old] [PEER]..; `serve` reads it again at SIGHUP"
    "--cipher" "aes-256-gcm|chacha20-poly1305" "" "aes-256-gcm" ENGINE "with --key-file: what to seal with, at both ends"
    "--api" "actor|buckets" "" "actor" ENDS "the application: inside the shard, or a thread with batches"
    "--size" "SIZE|MIX" "bytes" "64" LOAD "payload of every message, at least 16: 64, 1KiB, 1MiB; or a mix: uniform:MIN..MAX, zipf:MIN..MAX[,EXPONENT] (many short, few long; exponent 1), trace:FILE (a size a line, over and over)"
    "--seed" "NUMBER" "" "" LOAD "of everything that is drawn: sizes of a mix, poisson arrivals; default: another one for every run"
    "--rate" "RATE|max" "messages/s" "max" LOAD "open loop by an absolute schedule: NUMBER, ramp:FROM..TO, step:A,B,..., spike:BASE..PEAK (the middle fifth), trace:FILE (a time in seconds a line); max: closed loop, as --in-flight allows. search: the highest rate tried; max: twice what a closed loop reaches"
    "--arrivals" "even|poisson|burst:COUNT" "" "even" LOAD "with --rate: at equal distances, at random, or so many at once"
    "--wake-early-us" "MICROSECONDS" "us" "100" LOAD "with --rate: poll for so long before a message is due, instead of sleeping over it"
    "--late-max-us" "MICROSECONDS" "us" "1000" LOAD "with --rate: a run in which 1 % of the messages were looked at later than this is not valid"
    "--in-flight" "COUNT" "messages" "2048, 4MiB" LOAD "under way at once, all shards; binary wire to 256 B 4096, buckets 8192; with --rate 65536, 128MiB"
    "--peers" "COUNT" "peers" "1" LOAD "so many senders, each with a port of its own and, toward loopback, an address of its own; udp-plus: an engine each, 256 at most; udp, tcp: a socket each for every target"
    "--peer-skew" "EXPONENT" "" "0" LOAD "with --peers and --rate: the n-th sends n^EXPONENT times less than the first; 0: all the same"
    "--deadline-ms" "MILLISECONDS" "ms" "" LOAD "fail what takes longer, as expired; default: 30 s, and 1 s per 256 KiB"
    "--priority" "low|normal|high|control" "" "normal" LOAD "binary wire: how urgent messages are beside others to the same peer"
    "--level" "accepted|committed" "" "accepted" LOAD "binary wire: delivered is what the far end has, or what its application has committed"
    "--lane" "NUMBER" "" "" PUTS "binary wire: all messages in this lane, 0 to 65535: they arrive in the order they were put"
    "--explain" "" "" "off" LOAD "print where the slowest 0.1 % of the messages spent their time; times of each message are taken anyway with --rate, and cost some ns a message without"
    "--duration" "SECONDS" "s" "5" LOAD "measured time, after 1 s of warm-up; search: of a full trial, after 0.3 s"
    "--shards" "COUNT" "shards" "1" ENGINE "threads, sockets and rings per side"
    "--driver" "auto|uring|mmsg" "" "auto" ENGINE "kernel interface; auto: io_uring where it works"
    "--spin-us" "MICROSECONDS" "us" "0" ENGINE "how long an idle shard polls before it sleeps"
    "--row-bytes" "SIZE" "bytes" "1024" ENGINE "longest row sent; bench: 1400, and chunks as long as fit"
    "--window" "SIZE" "bytes" "104KiB" ENGINE "rows in flight to a peer, in kernel memory there; bench: 4MiB"
    "--rcvbuf" "SIZE" "bytes" "4MiB" ENGINE "receive buffer to ask for, doubled by the kernel; 104KiB: what a socket has by default"
    "--pin" "" "" "off" ENGINE "one core per shard: client from core 0 on, server behind it; serve: the last"
    "--no-gso" "" "" "off" ENGINE "send row by row, not in trains (UDP_SEGMENT)"
    "--no-gro" "" "" "off" ENGINE "receive row by row, not in trains (UDP_GRO)"
    "--slo" "TERM,..." "" "" LOAD "what to hold the run to, else exit status 1: p99.9<1ms, max<20ms, loss<1e-6; search: what to look for"
    "--exceed" "PERCENT" "%" "50" SEARCH "of the trials at a rate, so many may fail the SLO"
    "--width" "PERCENT" "%" "5" SEARCH "how close a rate that keeps the SLO and one that does not are to be"
    "--trials" "COUNT" "trials" "7" SEARCH "full trials at a rate that decide, if the first ones do not agree"
    "--repeat" "COUNT" "pairs" "15" AB "runs of each arm, in turns"
    "--threshold" "PERCENT" "%" "0" COMPARES "b may be worse by so much before the exit status is 1"
    "--repeat" "COUNT" "runs" "1" LOAD "measure so often; medians on top, every run in the report"
    "--baseline" "SECONDS" "s" "1" BENCH "for each baseline (raw sockets, TCP), half before, half after; 0: none"
    "--seconds" "SECONDS" "s" "1" BASELINE "for each baseline"
    "--size" "SIZE" "bytes" "64" BASELINE "messages over TCP"
    "--tcp-to" "ADDR" "" "" BASELINE "TCP alone, to a listener of its own at this address: each congestion control"
    "--netns" "FILE" "" "" BASELINE "the network namespace of that listener: /run/netns/NAME"
    "--ledger" "" "" "off" ENDS "at the end, print where every message and datagram went; the JSON report has it anyway"
    "--hdr" "FILE" "" "" LOAD "latencies second by second, as a log of histograms (HdrHistogram V2, compressed)"
    "--csv" "FILE" "" "" LOAD "counts and percentiles second by second, as a table"
    "--json" "FILE|-" "" "" LOAD "report as JSON; -: alone on standard output"
    "--target" "HOST:PORT" "" "" DOCTOR "look at the way there, too: interface, MTU, whether trains leave, whether an engine answers; four datagrams of zeros and a message go there"
    "--watch" "SECONDS" "s" "1" DOCTOR "how long every core is watched for times at which it is taken away"
    "--json" "FILE|-" "" "" DOCTOR "facts and findings as JSON; -: alone on standard output"
    "--listen" "ADDR:PORT" "" "127.0.0.1:25253" IMPAIR "where clients send to"
    "--to" "HOST:PORT" "" "" IMPAIR "where it goes; each client has a port of its own there"
    "--loss" "PERCENT" "%" "0" IMPAIR "datagrams lost, each by itself"
    "--burst-loss" "PERCENT:LENGTH" "" "" IMPAIR "datagrams lost in bursts (Gilbert's model): share of all, mean length; 2%:3"
    "--duplicate" "PERCENT" "%" "0" IMPAIR "datagrams sent twice"
    "--corrupt" "PERCENT" "%" "0" IMPAIR "datagrams with one bit of the payload turned, UDP's checksum right again"
    "--reorder" "PERCENT" "%" "0" IMPAIR "datagrams held back, so that others overtake them"
    "--reorder-by-ms" "MILLISECONDS" "ms" "1" IMPAIR "for how long"
    "--delay-ms" "MILLISECONDS" "ms" "0" IMPAIR "every datagram leaves this late, each way"
    "--jitter-ms" "MILLISECONDS" "ms" "0" IMPAIR "and by up to this much more, uniformly: they overtake each other"
    "--rate-mbit" "MBIT/S" "Mbit/s" "" IMPAIR "payload bits a second, each way; what comes faster waits"
    "--queue" "SIZE" "bytes" "256KiB" IMPAIR "payload that waits for that rate; what comes on top is dropped"
    "--only" "up|down" "" "" IMPAIR "impair what clients send (up), or what comes back (down), alone"
    "--seed" "NUMBER" "" "" IMPAIR "of every decision; default: drawn, and printed"
    "--duration" "SECONDS" "s" "" IMPAIR "how long; default: until Ctrl-C"
    "--json" "FILE|-" "" "" IMPAIR "what was done to how many datagrams, as JSON; -: alone on standard output"
    "--check" "" "" "off" RUN "only say whether the plan can be meant, and what would be run; nothing is sent"
    "--set" "KEY=VALUE" "" "" RUN "over what the plan says, in every step that has this key: duration=1; as often as needed"
    "--verbose" "" "" "off" RUN "show what the steps say, as they say it"
    "--json" "FILE|-" "" "" RUN "every step's report, as JSON; -: alone on standard output"
    "--json" "FILE|-" "" "" COMPARES "the comparison as JSON; ab: with every run"
    "--json" "" "" "off" RECV "one JSON object a line: sender, payload or payload_base64, sent_at, lane"
    "--count" "COUNT" "messages" "" RECV "stop after so many; no more are accepted"
    "--timeout" "SECONDS" "s" "" SEND "give up after, 1,800 at most; default: 12 tries within 8 s per row, 30 s in all"
}

/// Those of one command.
pub fn of(command: &str) -> impl Iterator<Item = &'static Flag> {
    FLAGS.iter().filter(move |flag| flag.commands.contains(&command))
}

/// The table for `--help` of `command`.
pub fn help(command: &str) -> String {
    let mut text = String::new();
    let rows: Vec<[&str; 5]> = std::iter::once(["flag", "type", "unit", "default", "what"])
        .chain(of(command).map(|flag| [flag.name, flag.kind, flag.unit, flag.default, flag.about]))
        .collect();
    if rows.len() == 1 {
        return text;
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    for row in &rows {
        text.push_str("  ");
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.push_str(row[4]);
        text.push('\n');
    }
    text
}

/// The table for the documentation.
pub fn markdown() -> String {
    let mut text =
        String::from("| flag | type | unit | default | commands | what |\n|---|---|---|---|---|---|\n");
    for flag in FLAGS.iter().filter(|flag| flag.commands != BASELINE) {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {} | {} |",
            flag.name,
            flag.kind.replace('|', "\\|"),
            flag.unit,
            flag.default,
            flag.commands.join(", "),
            flag.about.replace('|', "\\|"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    /// Defaults that depend on something: the parser has none.
    const CONTEXTUAL: [&str; 3] = ["--in-flight", "--row-bytes", "--window"];

    #[test]
    fn the_table_is_what_the_parser_takes() {
        for command in cli::command().get_subcommands() {
            let mut known = Vec::new();
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "help"))
            {
                let name = format!("--{}", arg.get_long().unwrap_or_default());
                let flag = of(command.get_name())
                    .find(|flag| flag.name == name)
                    .unwrap_or_else(|| panic!("{name} of {} is not in the table", command.get_name()));
                known.push(name);
                let takes_value = arg.get_action().takes_values();
                let kind =
                    arg.get_value_names().filter(|_| takes_value).map_or("", |names| names[0].as_str());
                assert_eq!(flag.kind, kind, "{}", flag.name);
                if !CONTEXTUAL.contains(&flag.name) {
                    let default = arg.get_default_values().first().and_then(|value| value.to_str());
                    let default = if takes_value { default.unwrap_or("") } else { "off" };
                    assert_eq!(flag.default, default, "{}", flag.name);
                }
            }
            let listed: Vec<_> = of(command.get_name()).map(|flag| flag.name).collect();
            assert_eq!(listed.len(), known.len(), "{}: {listed:?} against {known:?}", command.get_name());
        }
    }

    #[test]
    fn help_shows_every_row() {
        for name in ["bench", "serve", "load", "search", "run", "compare", "ab", "send", "recv"] {
            let mut command = cli::command();
            let command = command.find_subcommand_mut(name).expect("a command");
            let help = command.render_help().to_string();
            for flag in of(name) {
                assert!(help.contains(flag.name) && help.contains(flag.about), "{name} {}", flag.name);
            }
        }
        let help = cli::command().render_help().to_string();
        assert!(of("bench").all(|flag| help.contains(flag.about)) && help.contains("serve"));
    }

    /// Once a document shows the table, it shows this one.
    #[test]
    fn the_docs_show_this_table() {
        for name in ["OPERATING.md", "FLAGS.md"] {
            let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
            let Ok(text) = std::fs::read_to_string(path) else { continue };
            let header = markdown().lines().next().map(str::to_owned).unwrap_or_default();
            assert!(
                !text.contains(&header) || text.contains(&markdown()),
                "docs/{name} shows an old table of flags; `udp-plus flags` prints the new one"
            );
        }
    }
}
