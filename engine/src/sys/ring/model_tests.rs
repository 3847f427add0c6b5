//! What a ring records, against a model, whatever a kernel completes: receives that end at any time and for any reason,
//! completions that come late, again, of nobody, or name buffers that the kernel does not hold.

use super::{Arrived, Kind, Single, State, token};
use crate::sys::buf_ring::BufRing;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const BUFFERS: u16 = 8;
const BUFFER_BYTES: usize = 256;
const SLOTS: usize = 6;
/// IORING_CQE_F_BUFFER; the buffer's number stands 16 bits higher.
const OF_BUFFER: u32 = 1;
/// IORING_CQE_F_MORE.
const MORE: u32 = 2;
/// What a receive fails with.
const ERRORS: [i32; 4] = [libc::ENOBUFS, libc::ECANCELED, libc::ECONNREFUSED, libc::ENOMEM];

/// What a kernel, or the shard, does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A completion of the receive: the datagram's bytes, or what went wrong; the buffer it names; whether it goes on.
    Receive {
        result: Result<usize, usize>,
        buffer: Option<u16>,
        more: bool,
    },
    /// The last completion once more.
    Again,
    /// A completion of the receive, the poll of the eventfd, or that of the socket before this one.
    Late(usize),
    /// Of nothing there is.
    Foreign(u64),
    /// A poll fires.
    Wake {
        more: bool,
    },
    Writable,
    /// A send fails, of this enter or of an earlier one.
    SendFails {
        slot: usize,
        errno: usize,
        late: bool,
    },
    /// The shard: handles what arrived, gives buffers back, arms what is not armed, sends anew.
    Take,
    Lend,
    Arm,
    Transmit,
}

fn step() -> impl Strategy<Value = Step> {
    let result = prop_oneof![
        6 => (0..BUFFER_BYTES).prop_map(Ok),
        2 => (0..ERRORS.len()).prop_map(Err),
    ];
    // Mostly a buffer there is.
    let buffer =
        prop_oneof![8 => (0..BUFFERS).prop_map(Some), 1 => (0..=u16::MAX).prop_map(Some), 2 => Just(None)];
    prop_oneof![
        12 => (result, buffer, prop::bool::weighted(0.8))
            .prop_map(|(result, buffer, more)| Step::Receive { result, buffer, more }),
        2 => Just(Step::Again),
        2 => (0..3usize).prop_map(Step::Late),
        1 => any::<u64>().prop_map(Step::Foreign),
        1 => any::<bool>().prop_map(|more| Step::Wake { more }),
        1 => Just(Step::Writable),
        3 => (0..SLOTS, 0..ERRORS.len(), prop::bool::weighted(0.2))
            .prop_map(|(slot, errno, late)| Step::SendFails { slot, errno, late }),
        5 => Just(Step::Take),
        5 => Just(Step::Lend),
        4 => Just(Step::Arm),
        1 => Just(Step::Transmit),
    ]
}

/// What should be.
#[derive(Default)]
struct Model {
    with_kernel: BTreeSet<u16>,
    /// The one lent next is the last.
    free: Vec<u16>,
    arrived: VecDeque<(u16, usize)>,
    failures: BTreeMap<usize, i32>,
    /// Of sends, those that failed twice as well.
    failures_told: u64,
    armed: [bool; 3],
    woken: bool,
    writable: bool,
    out_of_buffers: u64,
    errors: u64,
    stale: u64,
}

impl Model {
    fn receive(&mut self, result: i32, buffer: Option<u16>) {
        let held = buffer.is_some_and(|buffer| self.with_kernel.remove(&buffer));
        match (result, buffer) {
            (_, Some(_)) if !held => self.stale += 1,
            (bytes @ 0.., Some(buffer)) => self.arrived.push_back((buffer, bytes as usize)),
            (_, Some(buffer)) => {
                self.free.push(buffer);
                self.errors += 1;
            }
            (result, None) if result == -libc::ENOBUFS => self.out_of_buffers += 1,
            (result, None) if result == -libc::ECANCELED => {}
            (_, None) => self.errors += 1,
        }
    }
}

/// A state and its model, and what the kernel said last.
struct Run {
    state: State,
    model: Model,
    last: Option<(u64, i32, u32)>,
}

impl Run {
    fn start() -> Self {
        let state = State::new(BufRing::new(BUFFERS, BUFFER_BYTES).unwrap(), BUFFERS);
        let model = Model { free: (0..BUFFERS).rev().collect(), ..Model::default() };
        let mut run = Self { state, model, last: None };
        run.follow_lending(); // It begins with some of them lent.
        run
    }

    /// The kernel holds as many buffers as the state says: those that were free last.
    fn follow_lending(&mut self) {
        let Self { state, model, .. } = self;
        while model.with_kernel.len() < usize::from(state.buffers.with_kernel_count()) {
            let lent = model.free.pop().expect("no buffer is lent that is not free");
            model.with_kernel.insert(lent);
        }
    }

    fn single(&mut self, index: usize) -> &mut Single {
        match index {
            0 => &mut self.state.receive,
            1 => &mut self.state.wake,
            _ => &mut self.state.writable,
        }
    }

    fn generation(&mut self, index: usize) -> u32 {
        self.single(index).generation
    }

    /// The kernel says it; the model knows what it means.
    fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        self.last = Some((user_data, result, flags));
        self.state.record(user_data, result, flags);
        let index =
            [Kind::Receive, Kind::Wake, Kind::Writable].into_iter().enumerate().find(|&(index, kind)| {
                let generation = self.generation(index);
                self.model.armed[index] && user_data == token(kind, generation, 0)
            });
        let Some((index, kind)) = index else {
            let send = (0..SLOTS)
                .find(|&slot| user_data == token(Kind::Send, self.state.send_generation, slot) && result < 0);
            match send {
                Some(slot) => {
                    self.model.failures_told += 1;
                    // Of one that fails twice the lesser number counts: the kernel says the same each time.
                    let errno = self.model.failures.entry(slot).or_insert(-result);
                    *errno = (-result).min(*errno);
                }
                None => self.model.stale += 1,
            }
            return;
        };
        self.model.armed[index] = flags & MORE != 0;
        match kind {
            Kind::Receive => {
                let buffer = (flags & OF_BUFFER != 0).then_some((flags >> 16) as u16);
                self.model.receive(result, buffer);
            }
            Kind::Wake => self.model.woken = true,
            _ => self.model.writable = true,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Receive { result, buffer, more } => {
                let flags = buffer.map_or(0, |buffer| u32::from(buffer) << 16 | OF_BUFFER);
                let result = result.map_or_else(|errno| -ERRORS[errno], |bytes| bytes as i32);
                let user_data = token(Kind::Receive, self.generation(0), 0);
                self.complete(user_data, result, flags | if more { MORE } else { 0 });
            }
            Step::Again => {
                if let Some((user_data, result, flags)) = self.last {
                    self.complete(user_data, result, flags);
                }
            }
            Step::Late(index) => {
                let kind = [Kind::Receive, Kind::Wake, Kind::Writable][index];
                let generation = self.generation(index).wrapping_sub(1);
                self.complete(token(kind, generation, 0), 1, OF_BUFFER | MORE);
            }
            Step::Foreign(user_data) => self.complete(user_data, -libc::EIO, 0),
            Step::Wake { more } => {
                let user_data = token(Kind::Wake, self.generation(1), 0);
                self.complete(user_data, 1, if more { MORE } else { 0 });
            }
            Step::Writable => {
                let user_data = token(Kind::Writable, self.generation(2), 0);
                self.complete(user_data, 4, 0);
            }
            Step::SendFails { slot, errno, late } => {
                let generation = self.state.send_generation.wrapping_sub(u32::from(late));
                self.complete(token(Kind::Send, generation, slot), -ERRORS[errno], 0);
            }
            Step::Take => {
                if let Some(Arrived { buffer, bytes }) = self.state.arrived.pop_front() {
                    assert_eq!(Some((buffer, bytes)), self.model.arrived.pop_front(), "in their order, once");
                    assert_eq!(self.state.buffers.bytes(buffer, bytes).len(), bytes);
                    self.state.buffers.recycle(buffer);
                    self.model.free.push(buffer);
                }
            }
            Step::Lend => {
                self.state.buffers.lend();
                self.follow_lending();
            }
            Step::Arm => {
                for index in 0..3 {
                    let starts = index > 0 || self.state.buffers.with_kernel_count() > 0;
                    if starts && !self.single(index).in_flight {
                        self.single(index).start();
                        self.model.armed[index] = true;
                    }
                }
            }
            Step::Transmit => {
                self.state.order_failures();
                let told: BTreeMap<usize, i32> = self.state.send_failures.drain(..).collect();
                assert_eq!(told, self.model.failures);
                self.model.stale += self.model.failures_told - self.model.failures.len() as u64;
                (self.model.failures, self.model.failures_told) = (BTreeMap::new(), 0);
                self.state.send_generation = self.state.send_generation.wrapping_add(1);
            }
        }
        self.check();
    }

    fn check(&self) {
        let Self { state, model, .. } = self;
        let arrived: VecDeque<_> = state.arrived.iter().map(|one| (one.buffer, one.bytes)).collect();
        assert_eq!(arrived, model.arrived);
        // Each buffer is in one place.
        assert_eq!(usize::from(state.buffers.with_kernel_count()), model.with_kernel.len());
        let places =
            model.with_kernel.iter().chain(&model.free).chain(model.arrived.iter().map(|(buffer, _)| buffer));
        assert_eq!(places.clone().count(), usize::from(BUFFERS));
        assert_eq!(places.collect::<BTreeSet<_>>().len(), usize::from(BUFFERS));
        let in_flight = [state.receive, state.wake, state.writable].map(|single| single.in_flight);
        assert_eq!(in_flight, model.armed);
        assert_eq!((state.woken, state.became_writable), (model.woken, model.writable));
        let counters = &state.counters;
        assert_eq!(
            (counters.out_of_buffers, counters.receive_errors, counters.stale_completions),
            (model.out_of_buffers, model.errors, model.stale)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_kernel_completes_is_recorded_as_the_model_says(steps in prop::collection::vec(step(), 1..200)) {
        let mut run = Run::start();
        steps.into_iter().for_each(|step| run.step(step));
    }
}

/// The steps above reach what they are about.
#[test]
fn the_model_has_seen_every_kind_of_completion() {
    let mut run = Run::start();
    let receive = |result, buffer, more| Step::Receive { result, buffer, more };
    for step in [
        Step::Lend,
        Step::Arm,
        receive(Ok(7), Some(0), true),
        Step::Again,
        receive(Err(2), Some(1), true),
        receive(Err(0), None, false),
        receive(Ok(7), Some(2), true),
        Step::Arm,
        Step::Late(0),
        Step::Foreign(0),
        Step::Wake { more: true },
        Step::Writable,
        Step::SendFails { slot: 3, errno: 0, late: false },
        Step::SendFails { slot: 3, errno: 0, late: false },
        Step::SendFails { slot: 3, errno: 0, late: true },
        Step::Take,
        Step::Transmit,
    ] {
        run.step(step);
    }
    let Model { out_of_buffers, errors, stale, woken, writable, .. } = run.model;
    assert_eq!((out_of_buffers, errors, stale, woken, writable), (1, 1, 6, true, true));
}
