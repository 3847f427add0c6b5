//! Floods of what `sim::attack` knows, from many sources: all of it is in a counter, memory stays within what the limits amount
//! to, nobody unproven gets back more than he may, and who is honest is served all the while. `scripts/check hostile` is the
//! same at 100,000 datagrams a second.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "tests on real sockets live in real time")]

mod kit;

use kit::{Audit, GUARD, in_child, is_child, long_payload, wait_for};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use udp_plus::protection::{Cipher, PreSharedKeys};
use udp_plus::sim::attack::{ASKS, Attack, Intruder, Kind, SEALED_KEY_ID, fillable_bytes};
use udp_plus::{
    Actor, Builder, Context, DriverChoice, DropReason, Engine, MessageRef, Outcome, Outgoing, Preset,
    Verdict, Wire,
};

/// Takes everything, and keeps the book of what is honest.
struct Victim {
    honest: SocketAddr,
    audit: Arc<Audit>,
}

impl Actor for Victim {
    fn on_message(&mut self, context: &mut Context<'_>, message: MessageRef<'_>) -> Verdict {
        if message.sender == self.honest {
            self.audit.note(message.payload);
        }
        if message.payload.starts_with(ASKS) {
            // What finds no room is not answered.
            let _ = context.put(Outgoing::to(message.sender, message.payload.to_vec()));
        }
        Verdict::Accept
    }

    fn on_outcome(&mut self, _: &mut Context<'_>, _: u64, _: Outcome) {}
}

/// A victim of small limits, and somebody honest who talks to it.
struct Scene {
    victim: Engine,
    honest: Engine,
    audit: Arc<Audit>,
    said: u64,
    total: u64,
    /// What of the victim's limits others can fill.
    bound_bytes: u64,
}

/// Limits that are reached soon.
fn tight(builder: Builder) -> Builder {
    builder
        .message_bytes_max(256 << 10)
        .partial_bytes_max(1 << 20)
        .partial_bytes_per_peer_max(512 << 10)
        .tombstones_max(4_096)
        .dedup_pages_max(256)
        .recv_buffers(16)
        .peers_max(256)
}

impl Scene {
    fn new(driver: DriverChoice, wire: Wire, total: u64, limits: fn(Builder) -> Builder) -> Self {
        let small = || Engine::builder().preset(Preset::Small).driver(driver).wire(wire).bind("127.0.0.1:0");
        Self::of(small, total, limits)
    }

    /// Both have a key that nobody else has.
    fn sealed(driver: DriverChoice, total: u64) -> Self {
        let line = format!("{SEALED_KEY_ID} {}", "5a6b7c8d".repeat(8));
        let keys = PreSharedKeys::parse(line.as_bytes(), Cipher::default()).unwrap();
        let small = || {
            let small = Engine::builder().preset(Preset::Small).driver(driver).wire(Wire::Binary);
            small.bind("127.0.0.1:0").protection(keys.clone())
        };
        Self::of(small, total, |builder| builder)
    }

    fn of(small: impl Fn() -> Builder, total: u64, limits: fn(Builder) -> Builder) -> Self {
        let honest = small().start().unwrap();
        let (audit, from) = (Audit::new(total), honest.local_addr());
        let book = Arc::clone(&audit);
        let actor = move |_| Victim { honest: from, audit: Arc::clone(&book) };
        let victim = limits(small()).actor(actor);
        let bound_bytes = fillable_bytes(&victim.options().footprint());
        let victim = victim.start().unwrap();
        Self { victim, honest, audit, said: 0, total, bound_bytes }
    }

    /// Messages of these many bytes go and are delivered.
    fn say(&mut self, bytes: usize) {
        let payload = long_payload(self.said, bytes);
        self.said += 1;
        let outgoing = Outgoing::to(self.victim.local_addr(), payload);
        let delivery = self.honest.send_bucket().try_put(outgoing).unwrap();
        let outcome = futures_lite::future::block_on(delivery);
        outcome.unwrap_or_else(|error| panic!("honest traffic of {bytes} B: {error}"));
    }

    fn taken(&self) -> u64 {
        self.victim.stats().total.datagrams_taken
    }

    /// Everything honest came, once, and every datagram is in one counter.
    fn check(mut self) {
        while self.said < self.total {
            self.say(64);
        }
        self.audit.assert_exactly_once();
        for engine in [&self.victim, &self.honest] {
            let ledger = engine.ledger();
            assert_eq!(ledger.residual(), 0, "{ledger}");
            assert_eq!(engine.failure(), None);
        }
    }
}

/// A socket per source, each of a host of its own.
fn hosts(count: u8) -> Vec<UdpSocket> {
    (1..=count).map(|number| UdpSocket::bind(SocketAddr::from(([127, 65, 0, number], 0))).unwrap()).collect()
}

/// As many sockets of one host.
fn ports(count: u8) -> Vec<UdpSocket> {
    (0..count).map(|_| UdpSocket::bind(SocketAddr::from(([127, 66, 0, 1], 0))).unwrap()).collect()
}

/// Bytes that came back, all there is.
fn back(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    let (mut buffer, mut sum) = ([0; 2_048], 0);
    loop {
        match socket.recv(&mut buffer) {
            Ok(bytes) => sum += bytes,
            // The end of a ring on this thread interrupts a call.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return sum,
        }
    }
}

/// Datagrams a source sends before the next one has its turn: not faster than they are read.
const TURN: usize = 50;

/// Sends `count` datagrams in turns; `between` is called after each. Bytes that came back.
fn flood(
    scene: &mut Scene,
    kind: Kind,
    sources: &[UdpSocket],
    count: usize,
    mut between: impl FnMut(&mut Scene),
) -> usize {
    let to = scene.victim.local_addr();
    let mut attack = Attack::new(kind, 7);
    let mut intruders: Vec<_> = if kind.needs_flow() {
        sources.iter().map(|socket| Intruder::open(socket, to, 5).unwrap()).collect()
    } else {
        Vec::new()
    };
    let mut datagram = Vec::new();
    let mut accounts = vec![(0, 0); sources.len()];
    for turn in 0..count / TURN {
        let index = turn % sources.len();
        let before = scene.taken();
        for _ in 0..TURN {
            match intruders.get_mut(index) {
                Some(intruder) => attack.next_in(intruder, &mut datagram),
                None => attack.next(&mut datagram),
            }
            sources[index].send_to(&datagram, to).unwrap();
            accounts[index].0 += kind.back_max(datagram.len());
        }
        wait_for("the flood is read", GUARD, || scene.taken() >= before + TURN as u64);
        between(scene);
        accounts[index].1 += back(&sources[index]);
    }
    // What is still to come back: nothing is sent of itself, so a silence is the end.
    let mut quiet = 0;
    wait_for("the end of the answers", GUARD, || {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let came: usize = sources
            .iter()
            .zip(&mut accounts)
            .map(|(socket, account)| {
                let bytes = back(socket);
                account.1 += bytes;
                bytes
            })
            .sum();
        quiet = if came == 0 { quiet + 1 } else { 0 };
        quiet > 20
    });
    if !kind.needs_flow() {
        for &(allowed, back) in &accounts {
            assert!(back <= allowed, "{kind}: {back} bytes came back, {allowed} may");
        }
    }
    accounts.iter().map(|account| account.1).sum()
}

/// Where the datagrams of a kind end, on this wire: each of these counters goes up.
fn causes(kind: Kind, wire: Wire) -> &'static [DropReason] {
    use DropReason as D;
    match kind {
        Kind::Empty => &[D::Empty],
        Kind::OneByte if wire == Wire::Csv => &[D::TooFewColumns, D::BinaryWire],
        Kind::OneByte => &[D::TooFewColumns, D::BinaryTruncated],
        Kind::Garbage => &[D::TooFewColumns, D::NotUtf8],
        Kind::FirstChunks => &[D::PartialsFull],
        Kind::HugeLengths => &[D::MessageTooLarge, D::ChunkBeyondLength],
        Kind::ForgedConfirms => &[D::UnknownConfirm],
        Kind::Epochs => &[D::DedupFull],
        Kind::Repeats => &[D::Duplicate],
        Kind::Hellos | Kind::SealedHellos | Kind::UnknownTags | Kind::ForgedAcks | Kind::BinaryGarbage
            if wire == Wire::Csv =>
        {
            &[D::BinaryWire]
        }
        Kind::SealedHellos => &[D::BinaryProtected],
        Kind::Hellos => &[D::BinaryUnproven],
        Kind::UnknownTags | Kind::ForgedAcks => &[D::BinaryUnknownTag],
        Kind::BinaryGarbage => &[D::BinaryChecksum, D::BinaryVersion, D::BinaryTruncated],
        Kind::FlowRepeats => &[D::BinaryDuplicate],
        Kind::FlowHugeLengths => &[D::MessageTooLarge],
        Kind::FlowFirstChunks | Kind::FlowGaps | Kind::Gaps | Kind::SlowLoris => &[D::PartialsFull],
        // Of what was never sent (R-PN-5).
        Kind::FlowAcks => &[D::BinaryMalformed],
        Kind::Probes if wire == Wire::Csv => &[D::UnknownConfirm],
        // Of what was not sent yet, as well.
        Kind::FlowOptimistic => &[D::BinaryMalformed],
        Kind::Probes | Kind::Collisions => &[],
    }
}

/// Of one host, which leaves a quarter of every table to others (R-SHARE-1): who is known, who is new, and who sends in parts
/// are served.
fn each_kind(driver: DriverChoice, wire: Wire) {
    const COUNT: usize = 3_000;
    for &kind in Kind::ALL.iter().filter(|kind| wire != Wire::Csv || !kind.needs_flow()) {
        let turns = (COUNT / TURN) as u64;
        let mut scene = Scene::new(driver, wire, 2 + 2 * turns, |builder| builder);
        scene.say(64);
        scene.say(20_000);
        flood(&mut scene, kind, &ports(8), COUNT, |scene| {
            scene.say(64);
            scene.say(5_000);
        });
        let newcomer =
            Engine::builder().preset(Preset::Small).wire(wire).bind("127.0.0.1:0").start().unwrap();
        for bytes in [64, 5_000] {
            let outgoing = Outgoing::to(scene.victim.local_addr(), long_payload(1, bytes));
            let put = newcomer.send_bucket().try_put(outgoing).unwrap();
            futures_lite::future::block_on(put).unwrap_or_else(|error| panic!("{kind}, a newcomer: {error}"));
        }
        let total = scene.victim.stats().total;
        match kind {
            // What is not keyed would take one for another.
            Kind::Collisions => assert!(total.messages_received >= COUNT as u64, "{wire:?}: {total:?}"),
            // Answered, each by itself.
            Kind::Probes if wire != Wire::Csv => {
                assert!(total.confirms_handled >= COUNT as u64, "{wire:?}: {total:?}");
            }
            // Nobody read them.
            Kind::FlowOptimistic => assert!(total.messages_delivered > 100, "{wire:?}: {total:?}"),
            _ => assert!(!causes(kind, wire).is_empty(), "{kind} ends somewhere"),
        }
        for &cause in causes(kind, wire) {
            assert!(total.dropped(cause) > 0, "{kind}, {wire:?}: none is {}", cause.label());
        }
        scene.check();
    }
}

#[test]
fn rows_are_answered_for_and_honest_rows_come_through() {
    each_kind(DriverChoice::Auto, Wire::Csv);
}

#[test]
fn with_the_binary_wire_as_well() {
    each_kind(DriverChoice::Auto, Wire::Binary);
}

#[test]
fn with_both_wires_as_well() {
    each_kind(DriverChoice::Mmsg, Wire::Auto);
}

/// Whatever is said without the key, no byte comes back, and who has it is served.
#[test]
fn strangers_to_a_key_are_told_nothing() {
    const COUNT: usize = 3_000;
    let turns = (COUNT / TURN) as u64;
    for &kind in Kind::ALL.iter().filter(|kind| !kind.needs_flow()) {
        let mut scene = Scene::sealed(DriverChoice::Auto, 1 + 2 * turns);
        scene.say(64);
        let back = flood(&mut scene, kind, &ports(8), COUNT, |scene| {
            scene.say(64);
            scene.say(5_000);
        });
        assert_eq!(back, 0, "{kind}");
        let total = scene.victim.stats().total;
        assert!(total.dropped_total() >= COUNT as u64, "{kind}: {total:?}");
        let unauthentic = total.dropped(DropReason::BinaryUnauthentic);
        assert!(unauthentic >= COUNT as u64 || kind != Kind::SealedHellos, "{total:?}");
        scene.check();
    }
}

/// All kinds, one after the other, from more sources than any table has places for.
fn memory(name: &str, wire: Wire) {
    if !is_child() {
        return in_child(name);
    }
    let kinds: Vec<_> = Kind::ALL.iter().filter(|kind| wire != Wire::Csv || !kind.needs_flow()).collect();
    const COUNT: usize = 8_000;
    let mut scene = Scene::new(DriverChoice::Auto, wire, 1_000, tight);
    scene.say(64);
    scene.say(200 << 10);
    let (bound, before) = (scene.bound_bytes, kit::resident_bytes());
    for &&kind in &kinds {
        flood(&mut scene, kind, &hosts(if kind.needs_flow() { 8 } else { 200 }), COUNT, |_| {});
        scene.say(64);
        let grown = kit::resident_bytes().saturating_sub(before);
        eprintln!("{wire:?}, {kind}: grown by {} KiB of {} KiB", grown >> 10, bound >> 10);
        assert!(grown <= bound / 100 * 105, "{kind}: grown by {grown} bytes, the limits amount to {bound}");
    }
    let total = scene.victim.stats().total;
    for full in [DropReason::PartialsFull, DropReason::DedupFull] {
        assert!(total.dropped(full) > 0, "{wire:?}: no limit was reached: {}", full.label());
    }
    scene.check();
}

#[test]
fn rows_of_every_kind_stay_in_bounded_memory() {
    memory("rows_of_every_kind_stay_in_bounded_memory", Wire::Csv);
}

#[test]
fn datagrams_of_every_kind_stay_in_bounded_memory() {
    memory("datagrams_of_every_kind_stay_in_bounded_memory", Wire::Binary);
}
