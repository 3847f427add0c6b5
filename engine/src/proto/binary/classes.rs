//! Messages of a flow that wait, by priority: one strict class, and three that share datagrams by weight (R-PRIORITY-1).
//!
//! Weighted round robin, counted in datagrams: a class may open as many as its weight in a round, and what it leaves of the
//! last one is the next class's. A class without anything to send does not hold up the round, and saves nothing for later.
//!
//! A flow keeps what waits with normal priority itself, and this only once a message of another class has come: the
//! others cost a flow without them nothing.

use super::flow::Queued;
use super::small_queue::SmallQueue;
use crate::options::Priority;
use crate::units::Instant;
use crate::wire::binary::Space;
use std::collections::VecDeque;

/// Datagrams a class may open in a round.
const WEIGHT_HIGH: u32 = 8;
const WEIGHT_NORMAL: u32 = 4;
const WEIGHT_LOW: u32 = 1;

/// Where a message is cut next, and where that ends: at its end, or where what was lost does.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Whose numbers it has.
    pub space: Space,
    /// Its number.
    pub seq: u64,
    /// The next piece begins here.
    pub offset: usize,
    /// The last one ends here.
    pub end: usize,
    /// It may have been refused for now.
    pub not_before: Instant,
}

/// What waits in one class.
#[derive(Debug)]
pub struct Queues<C> {
    /// Messages that fit a datagram.
    pub small: SmallQueue<C>,
    /// Others, of which nothing has left.
    pub large: VecDeque<Queued<C>>,
    /// Others, of which something has: those whose time has come, then the rest in the order of their times.
    pub cuts: VecDeque<Cut>,
    /// Datagrams of small messages since one was for large ones.
    pub since_large: u32,
}

impl<C> Default for Queues<C> {
    fn default() -> Self {
        Self { small: SmallQueue::new(), large: VecDeque::new(), cuts: VecDeque::new(), since_large: 0 }
    }
}

impl<C> Queues<C> {
    /// Nothing was put into it that has not left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.cuts.is_empty()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Classes<C> {
    /// Before all others.
    pub control: Queues<C>,
    /// Above normal.
    pub high: Queues<C>,
    /// Below normal.
    pub low: Queues<C>,
    /// What is left of the round: of [`Priority::High`], [`Priority::Normal`], [`Priority::Low`].
    pub left: [u32; 3],
}

impl<C> Default for Classes<C> {
    fn default() -> Self {
        let (control, high, low) = (Queues::default(), Queues::default(), Queues::default());
        Self { control, high, low, left: Self::ROUND }
    }
}

impl<C> Classes<C> {
    /// What a round gives.
    pub const ROUND: [u32; 3] = [WEIGHT_HIGH, WEIGHT_NORMAL, WEIGHT_LOW];

    /// All of them.
    pub fn queues(&self) -> impl Iterator<Item = &Queues<C>> {
        [&self.control, &self.high, &self.low].into_iter()
    }

    /// All of them.
    pub fn queues_mut(&mut self) -> impl Iterator<Item = &mut Queues<C>> {
        [&mut self.control, &mut self.high, &mut self.low].into_iter()
    }

    /// The queues of a class; `None` for normal messages, which are not kept here.
    pub const fn of(&mut self, priority: Priority) -> Option<&mut Queues<C>> {
        match priority {
            Priority::Control => Some(&mut self.control),
            Priority::High => Some(&mut self.high),
            Priority::Normal => None,
            Priority::Low => Some(&mut self.low),
        }
    }
}
