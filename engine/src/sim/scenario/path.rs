//! What a path does to datagrams, one by one. Pure: all chance is its seed's, events come by the number of datagrams, and the time
//! is told.

use super::{Event, Scenario};
use std::time::Duration;

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It goes on, as it is now.
    On,
    /// It is gone.
    Lost,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams to the receiver, and back, whatever became of them.
    pub to_receiver: u64,
    /// See there.
    pub to_sender: u64,
    /// Lost by chance.
    pub lost: u64,
    /// The longest run of those, one way.
    pub lost_in_a_row_max: u32,
    /// Had a bit changed.
    pub corrupted: u64,
    /// Vanished in a black hole.
    pub swallowed: u64,
    /// Vanished in an outage.
    pub cut_off: u64,
    /// Outages that were over when a datagram came.
    pub outages_over: u64,
    /// Vanished because they were too long.
    pub too_long: u64,
    /// Events of the scenario that came.
    pub events: u64,
    /// Times the sender's address or port changed.
    pub rebinds: u64,
}

/// One way.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    lost_in_a_row: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Path {
    scenario: Scenario,
    random: fastrand::Rng,
    ways: [Way; 2],
    black_hole_left: u32,
    outage_until: Option<Duration>,
    bytes_max: usize,
    counts: Counts,
    rebinding: Option<Event>,
}

impl Path {
    /// A path on which nothing has happened yet.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        Self {
            scenario: *scenario,
            random: fastrand::Rng::with_seed(seed),
            ways: [Way::default(); 2],
            black_hole_left: 0,
            outage_until: None,
            bytes_max: usize::MAX,
            counts: Counts::default(),
            rebinding: None,
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// The sender's NAT has changed its mind: whoever runs the path gives it another port, or address, before the next
    /// datagram. `None`: not since the last question.
    pub const fn take_rebinding(&mut self) -> Option<Event> {
        self.rebinding.take()
    }

    /// A datagram comes by, at a time since whenever; it may be changed.
    pub fn pass(&mut self, now: Duration, to_receiver: bool, datagram: &mut [u8]) -> Pass {
        if to_receiver {
            self.counts.to_receiver += 1;
            self.happen(now);
        } else {
            self.counts.to_sender += 1;
        }
        if to_receiver && datagram.len() > self.bytes_max {
            self.counts.too_long += 1;
            return Pass::Lost;
        }
        if let Some(until) = self.outage_until {
            if now < until {
                self.counts.cut_off += 1;
                return Pass::Lost;
            }
            self.outage_until = None;
            self.counts.outages_over += 1;
        }
        if self.black_hole_left > 0 {
            self.black_hole_left -= 1;
            self.counts.swallowed += 1;
            return Pass::Lost;
        }
        let Scenario { loss, loss_in_a_row_max, corrupt, .. } = self.scenario;
        let unlucky =
            |random: &mut fastrand::Rng, per_mille: u32| per_mille > 0 && random.u32(..1_000) < per_mille;
        let way = &mut self.ways[usize::from(to_receiver)];
        if unlucky(&mut self.random, loss) && way.lost_in_a_row < loss_in_a_row_max {
            way.lost_in_a_row += 1;
            self.counts.lost += 1;
            self.counts.lost_in_a_row_max = self.counts.lost_in_a_row_max.max(way.lost_in_a_row);
            return Pass::Lost;
        }
        way.lost_in_a_row = 0;
        if !datagram.is_empty() && unlucky(&mut self.random, corrupt) {
            self.counts.corrupted += 1;
            let at = self.random.usize(..datagram.len());
            // The first bit says which wire it is: what has lost it is no datagram of that wire any more, and counts as lost.
            if datagram[0] < 0x80 || at == 0 {
                return Pass::Lost;
            }
            datagram[at] ^= 1 << self.random.u32(..8);
        }
        Pass::On
    }

    fn happen(&mut self, now: Duration) {
        while let Some(&(after, event)) = self.scenario.events.get(self.counts.events as usize)
            && self.counts.to_receiver > after
        {
            self.counts.events += 1;
            match event {
                Event::BlackHole(datagrams) => self.black_hole_left = datagrams,
                Event::Outage(time) => self.outage_until = Some(now + time),
                Event::Narrow(bytes) => self.bytes_max = bytes,
                Event::NewPort | Event::NewAddress => {
                    self.counts.rebinds += 1;
                    self.rebinding = Some(event);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SCENARIOS;
    use super::*;

    const NOW: Duration = Duration::from_secs(7);

    fn of(events: &'static [(u64, Event)], loss: u32) -> Path {
        Path::new(&Scenario { loss, loss_in_a_row_max: 3, corrupt: 0, events, ..SCENARIOS[0] }, 7)
    }

    #[test]
    fn no_more_are_lost_in_a_row_than_may_be() {
        let mut path = of(&[], 900);
        let passed = (0..10_000).filter(|_| path.pass(NOW, true, &mut [0; 8]) == Pass::On).count() as u64;
        let counts = path.counts();
        assert_eq!((passed, counts.lost_in_a_row_max), (10_000 - counts.lost, 3));
        assert!(passed > 2_500);
    }

    #[test]
    fn a_black_hole_swallows_both_ways_and_ends() {
        let mut path = of(&[(1, Event::BlackHole(3))], 0);
        let fates: Vec<Pass> =
            [true, true, false, true, true].map(|way| path.pass(NOW, way, &mut [0; 8])).into();
        assert_eq!(fates, [Pass::On, Pass::Lost, Pass::Lost, Pass::Lost, Pass::On]);
        assert_eq!(path.counts().swallowed, 3);
    }

    #[test]
    fn an_outage_cuts_off_both_ways_until_its_time_is_over() {
        let mut path = of(const { &[(1, Event::Outage(Duration::from_secs(2)))] }, 0);
        let passes = [(0, true), (0, true), (1, false), (1, true), (2, false), (2, true)];
        let fates = passes.map(|(later, way)| path.pass(NOW + Duration::from_secs(later), way, &mut [0; 8]));
        assert_eq!(fates, [Pass::On, Pass::Lost, Pass::Lost, Pass::Lost, Pass::On, Pass::On]);
        assert_eq!((path.counts().cut_off, path.counts().outages_over), (3, 1));
    }

    #[test]
    fn a_narrow_path_is_narrow_one_way_and_a_rebinding_is_told_once() {
        let mut path = of(&[(0, Event::Narrow(10)), (1, Event::NewPort)], 0);
        assert_eq!(path.pass(NOW, true, &mut [0; 11]), Pass::Lost);
        assert_eq!(path.pass(NOW, false, &mut [0; 11]), Pass::On);
        assert_eq!(
            (path.pass(NOW, true, &mut [0; 10]), path.take_rebinding()),
            (Pass::On, Some(Event::NewPort))
        );
        assert_eq!((path.take_rebinding(), path.counts().too_long), (None, 1));
    }
}
