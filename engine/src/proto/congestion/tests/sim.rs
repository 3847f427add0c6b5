//! A bottleneck in virtual time: senders with a controller, a pacer and a rate sampler each, one queue, one link, random
//! loss behind it, receivers that acknowledge what is there when they wake up. Timers tick at 131 us, as the engine's.

use super::*;
use crate::proto::congestion::delivery_rate::{DeliveryRate, PacketRate};
use crate::proto::congestion::pacer::Pacer;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

const TICK_NS: u64 = 131_072;
const TRAIN_BYTES_MAX: u32 = 60_000;

/// The path.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) bytes_per_s: u64,
    pub(super) round_trip: Duration,
    pub(super) queue_bytes: u64,
    pub(super) loss: f64,
    /// How long a receiver sleeps after a packet came: from one random draw.
    pub(super) wake_up: fn(&mut fastrand::Rng) -> Duration,
}

impl Path {
    pub(super) fn product(&self) -> u64 {
        (self.bytes_per_s as f64 * self.round_trip.as_secs_f64()) as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The link has sent the packet at the head of its queue.
    LinkDone,
    Arrival {
        flow: usize,
        packet: u64,
    },
    /// The receiver wakes up and acknowledges what it has.
    ReceiverWakes {
        flow: usize,
    },
    /// The acknowledgement that left first arrives.
    Ack {
        flow: usize,
    },
    /// Pacing timer or start.
    Send {
        flow: usize,
    },
    ProbeTimeout {
        flow: usize,
    },
}

struct Sent {
    rate: PacketRate,
    at: Instant,
}

pub(super) struct Flow {
    pub(super) control: Box<dyn CongestionControl>,
    rate: DeliveryRate,
    pacer: Pacer,
    datagram: u32,
    next_packet: u64,
    sent: BTreeMap<u64, Sent>,
    lost: BTreeSet<u64>,
    in_flight: u64,
    largest_acked: u64,
    min_rtt: Duration,
    smoothed_rtt: Duration,
    rtt_variation: Duration,
    progress_at: Instant,
    probes: u32,
    send_timer: Option<Instant>,
    /// The application writes so many bytes per second; `None`: as much as it can.
    pub(super) app_bytes_per_s: Option<u64>,
    app_sent: u64,
    started_at: Instant,
    received: Vec<u64>,
    wake_pending: bool,
    acks: VecDeque<Vec<u64>>,
    pub(super) delivered: u64,
    pub(super) lost_total: u64,
    pub(super) window_least: u64,
    pub(super) loss_events: Vec<(Instant, u64, u64)>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) path: Path,
    pub(super) flows: Vec<Flow>,
    rng: fastrand::Rng,
    events: BinaryHeap<std::cmp::Reverse<(Instant, u64, Event)>>,
    event_count: u64,
    queue: VecDeque<(usize, u64, u32)>,
    pub(super) queued: u64,
    queue_integral: f64,
    queue_changed_at: Instant,
}

impl World {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        Self {
            now: Instant::from_ns(1_000_000_000),
            path,
            flows: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            events: BinaryHeap::new(),
            event_count: 0,
            queue: VecDeque::new(),
            queued: 0,
            queue_integral: 0.0,
            queue_changed_at: Instant::from_ns(1_000_000_000),
        }
    }

    pub(super) fn add_flow(&mut self, control: Box<dyn CongestionControl>, datagram: u32, after: Duration) {
        let at = self.now + after;
        let flow = self.flows.len();
        self.flows.push(Flow {
            control,
            rate: DeliveryRate::default(),
            pacer: Pacer::new(at, datagram, TRAIN_BYTES_MAX.max(datagram)),
            datagram,
            next_packet: 0,
            sent: BTreeMap::new(),
            lost: BTreeSet::new(),
            in_flight: 0,
            largest_acked: 0,
            min_rtt: Duration::ZERO,
            smoothed_rtt: Duration::ZERO,
            rtt_variation: Duration::ZERO,
            progress_at: at,
            probes: 0,
            send_timer: Some(at),
            app_bytes_per_s: None,
            app_sent: 0,
            started_at: at,
            received: Vec::new(),
            wake_pending: false,
            acks: VecDeque::new(),
            delivered: 0,
            lost_total: 0,
            window_least: u64::MAX,
            loss_events: Vec::new(),
        });
        self.push(at, Event::Send { flow });
        self.push(at + Duration::from_secs(1), Event::ProbeTimeout { flow });
    }

    /// Runs for `time`; returns what each flow delivered in it, in bytes per second, and the mean queue in bytes.
    pub(super) fn run(&mut self, time: Duration) -> (Vec<f64>, f64) {
        let (from, until) = (self.now, self.now + time);
        let before: Vec<u64> = self.flows.iter().map(|flow| flow.delivered).collect();
        self.note_queue(0);
        self.queue_integral = 0.0;
        while let Some(&std::cmp::Reverse((at, _, event))) = self.events.peek() {
            if at > until {
                break;
            }
            self.events.pop();
            self.now = at;
            self.handle(event);
        }
        self.now = until;
        self.note_queue(0);
        let seconds = until.since(from).as_secs_f64();
        let rates = self.flows.iter().zip(before).map(|(flow, old)| (flow.delivered - old) as f64 / seconds);
        (rates.collect(), self.queue_integral / seconds)
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.event_count += 1;
        self.events.push(std::cmp::Reverse((at, self.event_count, event)));
    }

    fn note_queue(&mut self, change: i64) {
        self.queue_integral += self.queued as f64 * self.now.since(self.queue_changed_at).as_secs_f64();
        self.queue_changed_at = self.now;
        self.queued = self.queued.checked_add_signed(change).unwrap();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::LinkDone => {
                let (flow, packet, bytes) = self.queue.pop_front().unwrap();
                self.note_queue(-i64::from(bytes));
                if let Some(&(_, _, bytes)) = self.queue.front() {
                    self.push(self.now + self.link_time(bytes), Event::LinkDone);
                }
                if self.rng.f64() >= self.path.loss {
                    self.push(self.now + self.path.round_trip / 2, Event::Arrival { flow, packet });
                }
            }
            Event::Arrival { flow, packet } => {
                let delay = (self.path.wake_up)(&mut self.rng);
                let receiver = &mut self.flows[flow];
                receiver.received.push(packet);
                if !receiver.wake_pending {
                    receiver.wake_pending = true;
                    self.push(self.now + delay, Event::ReceiverWakes { flow });
                }
            }
            Event::ReceiverWakes { flow } => {
                let receiver = &mut self.flows[flow];
                receiver.wake_pending = false;
                let packets = std::mem::take(&mut receiver.received);
                receiver.acks.push_back(packets);
                self.push(self.now + self.path.round_trip / 2, Event::Ack { flow });
            }
            Event::Ack { flow } => {
                let now = self.now;
                self.flows[flow].handle_ack(now);
                self.send(flow);
            }
            Event::Send { flow } => {
                if self.flows[flow].send_timer.is_some_and(|at| at <= self.now) {
                    self.flows[flow].send_timer = None;
                    self.send(flow);
                }
            }
            Event::ProbeTimeout { flow } => {
                let sender = &mut self.flows[flow];
                let timeout = (sender.smoothed_rtt + 4 * sender.rtt_variation).max(Duration::from_millis(2));
                let due = sender.progress_at + timeout * (1 << sender.probes.min(6));
                if self.now < due {
                    self.push(due, Event::ProbeTimeout { flow });
                    return;
                }
                sender.progress_at = self.now;
                if sender.in_flight > 0 {
                    sender.probes += 1;
                    self.transmit(flow);
                }
                self.push(self.now + timeout, Event::ProbeTimeout { flow });
            }
        }
    }

    fn link_time(&self, bytes: u32) -> Duration {
        Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(self.path.bytes_per_s)) as u64)
    }

    fn send(&mut self, flow: usize) {
        let now = self.now;
        loop {
            let sender = &mut self.flows[flow];
            if now < sender.started_at {
                return;
            }
            let datagram = u64::from(sender.datagram);
            sender.pacer.set_rate(now, sender.control.pacing_bytes_per_s());
            if sender.in_flight + datagram > sender.control.window_bytes() {
                return;
            }
            if let Some(app) = sender.app_bytes_per_s {
                let written = (app as f64 * now.since(sender.started_at).as_secs_f64()) as u64;
                if sender.app_sent + datagram > written {
                    sender.rate.on_app_limited(sender.in_flight);
                    self.arm_send(flow, now + Duration::from_nanos(datagram * 1_000_000_000 / app));
                    return;
                }
            }
            if sender.pacer.allowance(now) < datagram {
                let at = sender.pacer.next_at(u64::from(sender.pacer.train_bytes()));
                self.arm_send(flow, Instant::from_ns(at.as_ns().div_ceil(TICK_NS) * TICK_NS));
                return;
            }
            self.transmit(flow);
        }
    }

    fn arm_send(&mut self, flow: usize, at: Instant) {
        if self.flows[flow].send_timer.is_none_or(|old| at < old) {
            self.flows[flow].send_timer = Some(at);
            self.push(at, Event::Send { flow });
        }
    }

    fn transmit(&mut self, flow: usize) {
        let now = self.now;
        let sender = &mut self.flows[flow];
        let (packet, bytes) = (sender.next_packet, sender.datagram);
        sender.next_packet += 1;
        sender.app_sent += u64::from(bytes);
        let rate = sender.rate.on_sent(now, sender.in_flight);
        sender.in_flight += u64::from(bytes);
        sender.control.on_sent(now, bytes, sender.in_flight);
        sender.pacer.on_sent(u64::from(bytes));
        sender.sent.insert(packet, Sent { rate, at: now });
        if self.queued + u64::from(bytes) > self.path.queue_bytes + u64::from(bytes) {
            return; // The queue is full. What the link is sending does not count.
        }
        self.queue.push_back((flow, packet, bytes));
        self.note_queue(i64::from(bytes));
        if self.queue.len() == 1 {
            self.push(now + self.link_time(bytes), Event::LinkDone);
        }
    }
}

impl Flow {
    /// What the application may write counts from `now` on.
    pub(super) fn restart_app(&mut self, now: Instant) {
        self.started_at = now;
        self.app_sent = 0;
    }

    fn handle_ack(&mut self, now: Instant) {
        let packets = self.acks.pop_front().unwrap();
        let (mut acked_bytes, mut newest, mut spurious) = (0, None, 0);
        for packet in packets {
            let Some(sent) = self.sent.remove(&packet) else {
                spurious += u32::from(self.lost.remove(&packet));
                continue;
            };
            acked_bytes += u64::from(self.datagram);
            self.in_flight -= u64::from(self.datagram);
            self.rate.on_acked(&sent.rate, sent.at, self.datagram, now);
            newest = newest.max(Some((packet, sent.at)));
        }
        for _ in 0..spurious {
            self.control.on_spurious_loss(now);
        }
        let Some((largest_packet, newest_sent_at)) = newest else { return };
        self.delivered += acked_bytes;
        self.progress_at = now;
        self.probes = 0;
        let rtt = (largest_packet >= self.largest_acked).then(|| now.since(newest_sent_at));
        self.largest_acked = self.largest_acked.max(largest_packet);
        if let Some(rtt) = rtt {
            self.sample_rtt(rtt);
        }
        let sample = self.rate.sample(now, self.min_rtt);
        self.control.on_ack(
            now,
            &AckSample {
                acked_bytes,
                newest_sent_at,
                largest_packet,
                next_packet: self.next_packet,
                rtt,
                min_rtt: self.min_rtt,
                smoothed_rtt: self.smoothed_rtt,
                delivered_bytes: self.delivered,
                delivery_rate: sample.map(|sample| sample.bytes_per_s),
                in_flight: self.in_flight,
                app_limited: sample.is_some_and(|sample| sample.app_limited),
                ecn_ce: 0,
            },
        );
        self.window_least = self.window_least.min(self.control.window_bytes());
        self.detect_losses(now);
    }

    fn sample_rtt(&mut self, rtt: Duration) {
        if self.min_rtt.is_zero() {
            (self.min_rtt, self.smoothed_rtt, self.rtt_variation) = (rtt, rtt, rtt / 2);
        }
        self.min_rtt = self.min_rtt.min(rtt);
        self.rtt_variation = (3 * self.rtt_variation + self.smoothed_rtt.abs_diff(rtt)) / 4;
        self.smoothed_rtt = (7 * self.smoothed_rtt + rtt) / 8;
    }

    /// RFC 9002 section 6.1: three packets, or nine eighths of a round trip.
    fn detect_losses(&mut self, now: Instant) {
        let late = self.smoothed_rtt * 9 / 8;
        let lost: Vec<(u64, Instant)> = self
            .sent
            .range(..self.largest_acked)
            .filter(|(packet, sent)| **packet + 3 <= self.largest_acked || now.since(sent.at) > late)
            .map(|(packet, sent)| (*packet, sent.at))
            .collect();
        let Some(&(largest_lost, largest_lost_sent_at)) = lost.last() else { return };
        for (packet, _) in &lost {
            self.sent.remove(packet);
            self.lost.insert(*packet);
        }
        let lost_bytes = u64::from(self.datagram) * lost.len() as u64;
        self.in_flight -= lost_bytes;
        self.lost_total += lost_bytes;
        let before = self.control.window_bytes();
        self.control.on_loss(
            now,
            &LossSample {
                lost_bytes,
                lost_packets: lost.len() as u32,
                largest_lost_sent_at,
                largest_lost,
                next_packet: self.next_packet,
                in_flight: self.in_flight,
                persistent: false,
            },
        );
        self.loss_events.push((now, before, self.control.window_bytes()));
        while self.lost.len() > 10_000 {
            self.lost.pop_first();
        }
    }
}
