//! When messages are due. An open loop has absolute times, fixed in advance: a stall delays messages, and each of them
//! counts its delay; the schedule never slides.

/// The times at which one of several generators is to offer its messages.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    interval_ns: f64,
    offered: u64,
}

impl Schedule {
    /// Generator `index` of `generators` that together offer `rate` messages a second, taking turns.
    pub fn new(start_ns: u64, rate: f64, generators: usize, index: usize) -> Self {
        let interval_ns = 1e9 / rate;
        let phase_ns = (interval_ns * index as f64) as u64;
        Self { start_ns: start_ns + phase_ns, interval_ns: interval_ns * generators as f64, offered: 0 }
    }

    /// When the next message is due. An `f64` holds the product to the nanosecond for 100 days.
    pub fn due_ns(&self) -> u64 {
        self.start_ns + (self.offered as f64 * self.interval_ns) as u64
    }

    /// How many messages are due before `end_ns`.
    pub fn due_before(&self, end_ns: u64) -> u64 {
        let due = |offered| Self { offered, ..*self }.due_ns();
        // Close, but rounded; the schedule itself decides.
        let mut count = (end_ns.saturating_sub(self.start_ns) as f64 / self.interval_ns) as u64;
        while count > 0 && due(count - 1) >= end_ns {
            count -= 1;
        }
        while due(count) < end_ns {
            count += 1;
        }
        count
    }

    /// The next message was offered.
    pub const fn advance(&mut self) {
        self.offered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_and_interleaved() {
        let mut due = Vec::new();
        for index in 0..3 {
            let mut schedule = Schedule::new(1_000, 300e6, 3, index);
            for _ in 0..1_000 {
                due.push(schedule.due_ns());
                schedule.advance();
            }
        }
        due.sort_unstable();
        for (n, &due) in due.iter().enumerate() {
            let exact = 1_000.0 + n as f64 / 0.3;
            assert!((due as f64 - exact).abs() <= 2.0, "message {n} is due at {due}, not {exact}");
        }
    }

    #[test]
    fn counts_what_is_due() {
        for rate in [0.3, 3.0, 1e6, 7e8] {
            for (generators, index) in [(1, 0), (3, 2)] {
                let mut schedule = Schedule::new(1_000, rate, generators, index);
                for n in 0..1_000 {
                    let due = schedule.due_ns();
                    schedule.advance();
                    assert_eq!(schedule.due_before(due + 1), n + 1, "rate {rate}");
                    assert!(schedule.due_before(due) <= n, "rate {rate}");
                }
                assert_eq!(schedule.due_before(0), 0);
            }
        }
    }

    #[test]
    fn no_drift() {
        let mut schedule = Schedule::new(0, 3.0, 1, 0);
        (0..3_000_000).for_each(|_| schedule.advance());
        assert_eq!(schedule.due_ns(), 1_000_000 * 1_000_000_000);
    }
}
