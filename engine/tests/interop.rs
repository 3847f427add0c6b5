//! The scenarios of `sim::scenario` on real sockets: sender, middlebox and receiver are hosts of their own (network namespaces
//! joined by veth pairs). And those that only a kernel can play: a NAT in its packet filter, a router whose link's MTU falls.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests on real sockets live in real time"
)]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::hosts::Host;
use support::middlebox::Middlebox;
use support::{Setup, each_driver, small, until, wait_within};
use udp_plus::sim::scenario::{Book, Event, Path, SCENARIOS, Scenario};
use udp_plus::{Builder, Delivery, DriverChoice, DropReason, Engine, Outgoing, Wire};

each_driver! {
    loss_in_bursts,
    loss_and_corruption,
    a_black_hole_that_heals,
    an_outage_that_ends,
    a_router_that_passes_nothing_for_a_while,
    a_sender_behind_a_nat_that_rebinds,
    a_path_that_becomes_narrow,
    a_nat_of_the_kernel_that_rebinds,
    a_router_whose_link_shrinks,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Three hosts in a row: 10.79.1.1 - 10.79.1.2, 10.79.2.2 to .4 - 10.79.2.1. The middle one routes.
fn row_of_hosts() -> Option<[Host; 3]> {
    let [sender, middle, receiver] = [Host::new()?, Host::new()?, Host::new()?];
    sender.join(&middle, ("veth0", "left"), ("10.79.1.1/24", "10.79.1.2/24"));
    middle.join(&receiver, ("right", "veth0"), ("10.79.2.2/24", "10.79.2.1/24"));
    for address in ["10.79.2.3/24", "10.79.2.4/24"] {
        middle.ip(&format!("address add {address} dev right"));
    }
    sender.ip("route add default via 10.79.1.2");
    receiver.ip("route add default via 10.79.2.2");
    middle.command("tee /proc/sys/net/ipv4/ip_forward", "1");
    Some([sender, middle, receiver])
}

/// At 30 % loss each way all twelve transmissions of a row are lost too often: so three times as many fit into `try_span_max`.
/// The binary wire uses neither option.
fn start(host: &Host, setup: Setup, address: &'static str) -> Engine {
    start_as(host, small(setup).rto_max(Duration::from_millis(200)).tries_max(60), address)
}

fn start_as(host: &Host, builder: Builder, address: &'static str) -> Engine {
    host.run(move || builder.bind(format!("{address}:0")).start().unwrap())
}

/// Puts all messages at once; all must be delivered, by the sender's word and by the receiver's book.
fn deliver(scenario: &Scenario, wire: Wire, [sender, receiver]: [&Engine; 2], to: SocketAddr) -> Book {
    let put = |text| sender.send_bucket().try_put(Outgoing::to(to, text)).unwrap();
    let deliveries: Vec<Delivery> = scenario.payloads().map(put).collect();
    let mut book = Book::new(scenario);
    let end = Instant::now() + support::LONG_HANG;
    while book.distinct() < scenario.count() {
        assert!(Instant::now() < end, "{}, {wire:?}: {} came", scenario.name, book.distinct());
        match receiver.recv_bucket().try_get() {
            Some(message) => book.note(message.payload()),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    for delivery in deliveries {
        wait_within(delivery, support::LONG_HANG).unwrap();
    }
    while let Some(message) = receiver.recv_bucket().try_get() {
        book.note(message.payload());
    }
    assert_eq!(book.wrong(), 0, "{}, {wire:?}", scenario.name);
    assert!(book.repeated() == 0 || scenario.may_repeat(wire), "{}, {wire:?}", scenario.name);
    for engine in [sender, receiver] {
        let ledger = engine.ledger();
        assert_eq!(ledger.residual(), 0, "{ledger}");
    }
    book
}

fn named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name.contains(name)).unwrap()
}

/// Runs a scenario over each of its wires.
fn play(name: &str, driver: DriverChoice) {
    let scenario = named(name);
    let Some([left, middle, right]) = row_of_hosts() else { return };
    for &wire in scenario.wires {
        let receiver = start(&right, Setup { driver, wire }, "10.79.2.1");
        let sender = start(&left, Setup { driver, wire }, "10.79.1.1");
        let addresses = ["10.79.2.2", "10.79.2.3", "10.79.2.4"].map(ip);
        let path = Path::new(scenario, 1);
        let middlebox = Middlebox::start(&middle, ip("10.79.1.2"), &addresses, receiver.local_addr(), path);
        let began = Instant::now();
        let book = deliver(scenario, wire, [&sender, &receiver], middlebox.address());
        let counts = middlebox.counts();
        eprintln!("{name}, {wire:?}: {:?}, {} repeated, {counts:?}", began.elapsed(), book.repeated());
        scenario.check(wire, &counts).unwrap();
        let total = receiver.stats().total;
        assert!(
            scenario.corrupt == 0 || wire == Wire::Csv || total.dropped(DropReason::BinaryChecksum) > 0,
            "nobody noticed: {total:?}"
        );
    }
}

fn loss_in_bursts(driver: DriverChoice) {
    play("30 % loss", driver);
}

fn loss_and_corruption(driver: DriverChoice) {
    play("2 % corruption", driver);
}

fn a_black_hole_that_heals(driver: DriverChoice) {
    play("black hole", driver);
}

fn an_outage_that_ends(driver: DriverChoice) {
    play("outage", driver);
}

fn a_sender_behind_a_nat_that_rebinds(driver: DriverChoice) {
    play("port and address", driver);
}

fn a_path_that_becomes_narrow(driver: DriverChoice) {
    play("MTU falls", driver);
}

/// Rewrites what passes, both ways, without state: the sender is seen as `seen_as`.
fn nat(middle: &Host, seen_as: SocketAddr, sender: SocketAddr) {
    let (ip, port, own_ip, own_port) = (seen_as.ip(), seen_as.port(), sender.ip(), sender.port());
    middle.nft(&format!(
        "table inet test\ndelete table inet test\ntable inet test {{
           counter seen {{ }}
           chain out {{
             type filter hook postrouting priority 0; policy accept;
             ip saddr {own_ip} udp sport {own_port} counter name seen ip saddr set {ip} udp sport set {port}
           }}
           chain in {{
             type filter hook prerouting priority 0; policy accept;
             ip daddr {ip} udp dport {port} ip daddr set {own_ip} udp dport set {own_port}
           }}
         }}"
    ));
}

/// Messages for tests in which what happens is in the kernel's hands.
const LONG: Scenario =
    Scenario { name: "steady load", messages: &[(20, 300), (1, 1 << 20), (20, 64)], ..SCENARIOS[0] };
/// As seen from another address after a while.
const MOVING: Scenario = Scenario { events: &[(0, Event::NewAddress)], ..LONG };

/// Delivers messages, again and again, while `change` goes on.
fn deliver_during(scenario: &Scenario, wire: Wire, engines: [&Engine; 2], change: impl FnOnce() + Send) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let _done = SetAtEnd(&done);
            change();
        });
        while !done.load(Ordering::SeqCst) {
            deliver(scenario, wire, engines, engines[1].local_addr());
        }
        changing.join().unwrap();
    });
    // And once more, over what the path is now.
    deliver(scenario, wire, engines, engines[1].local_addr());
}

struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn a_nat_of_the_kernel_that_rebinds(driver: DriverChoice) {
    let Some([left, middle, right]) = row_of_hosts() else { return };
    for wire in [Wire::Csv, Wire::Binary] {
        let receiver = start(&right, Setup { driver, wire }, "10.79.2.1");
        let sender = start(&left, Setup { driver, wire }, "10.79.1.1");
        let own = sender.local_addr();
        let places = ["10.79.2.2:4001", "10.79.2.2:4002", "10.79.2.3:4003", "10.79.2.4:4003"];
        let mut places = places.map(|place| place.parse().unwrap()).into_iter();
        nat(&middle, places.next().unwrap(), own);
        deliver_during(&MOVING, wire, [&sender, &receiver], || {
            for place in places {
                until("datagrams pass", || middle.nft_counter("seen") > 20);
                nat(&middle, place, own);
            }
            until("datagrams pass at last", || middle.nft_counter("seen") > 20);
        });
        if wire == Wire::Binary {
            // The flow went on under all of its addresses.
            let total = sender.stats().total;
            assert_eq!(total.failed_total(), 0, "{total:?}");
            assert!(receiver.stats().total.challenges_sent >= 3, "{:?}", receiver.stats().total);
        }
    }
}

/// Packets the router could not pass on because they were too long.
fn frag_fails(host: &Host) -> u64 {
    let text = host.command("cat /proc/thread-self/net/snmp", "");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, counts) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split(' ').position(|name| name == "FragFails").unwrap();
    counts.split(' ').nth(column).unwrap().parse().unwrap()
}

/// The router on the way drops what is too long, and says so to the sender's host: who sends rows lets the kernel learn from that,
/// and cut them; the binary wire finds out by itself.
fn a_router_whose_link_shrinks(driver: DriverChoice) {
    let Some([left, middle, right]) = row_of_hosts() else { return };
    for (wire, mtu) in [(Wire::Csv, 500), (Wire::Binary, 1_300)] {
        middle.ip("link set right mtu 1500");
        let receiver = start(&right, Setup { driver, wire }, "10.79.2.1");
        let sender = start(&left, Setup { driver, wire }, "10.79.1.1");
        let before = frag_fails(&middle);
        deliver_during(&LONG, wire, [&sender, &receiver], || {
            until("messages are under way", || sender.stats().total.rows_sent > 100);
            middle.ip(&format!("link set right mtu {mtu}"));
            until("the router drops", || frag_fails(&middle) > before);
        });
        let total = sender.stats().total;
        assert!(wire == Wire::Csv || total.path_mtu_falls > 0, "{total:?}");
        assert_eq!(total.failed_total(), 0, "{total:?}");
    }
}

/// Whoever waits as long as it takes: so an outage that this machine makes longer than it should be ends nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const OUTAGE: Duration = Duration::from_secs(2);

/// Under steady load the router drops whatever comes, from either side, until it passes everything again.
fn a_router_that_passes_nothing_for_a_while(driver: DriverChoice) {
    let Some([left, middle, right]) = row_of_hosts() else { return };
    for wire in [Wire::Csv, Wire::Binary] {
        let patient = || {
            let patient = small(Setup { driver, wire }).rto_max(Duration::from_millis(200)).tries_max(255);
            patient.try_span_max(PATIENCE).partial_idle_max(2 * PATIENCE).dedup_horizon(PATIENCE)
        };
        let receiver = start_as(&right, patient(), "10.79.2.1");
        let sender = start_as(&left, patient(), "10.79.1.1");
        let mut lost = [0; 2];
        deliver_during(&LONG, wire, [&sender, &receiver], || {
            until("messages are under way", || sender.stats().total.rows_sent > 100);
            middle.nft(
                "table inet test {
                   counter there { }
                   counter back { }
                   chain on {
                     type filter hook forward priority 0; policy drop;
                     ip saddr 10.79.1.1 counter name there
                     ip saddr 10.79.2.1 counter name back
                   }
                 }",
            );
            // Nothing is between the two chains by now.
            middle.nft(
                "table inet test {
                   counter passed { }
                   chain out {
                     type filter hook postrouting priority 0; policy accept;
                     ip saddr { 10.79.1.1, 10.79.2.1 } counter name passed
                   }
                 }",
            );
            std::thread::sleep(OUTAGE);
            until("something is lost", || middle.nft_counter("there") > 0);
            lost = ["there", "back"].map(|name| middle.nft_counter(name));
            assert_eq!(middle.nft_counter("passed"), 0);
            middle.nft("delete table inet test");
        });
        eprintln!("{driver:?}, {wire:?}: {lost:?} packets lost there and back");
        let total = sender.stats().total;
        assert_eq!(total.failed_total(), 0, "{total:?}");
    }
}
