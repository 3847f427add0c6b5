//! Loss scenarios as data: what is sent, and what the path between two hosts does to it. Written once, run in virtual time
//! (`virtual_run`, the production shard) and on real sockets in network namespaces (`engine/tests/interop.rs`), after the
//! scenarios of the QUIC interop runner. Both use the same [`Path`], which decides, and the same [`Book`], which judges.

mod path;
#[cfg(test)]
mod virtual_run;

pub use path::{Counts, Pass, Path};

use crate::config::Wire;
use std::time::Duration;

/// What happens to the path, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many datagrams vanish, whichever way; then it heals.
    BlackHole(u32),
    /// For so long everything vanishes, whichever way; then it heals.
    Outage(Duration),
    /// The NAT in front of the sender gives it another port; what comes to the old one reaches nobody.
    NewPort,
    /// The same, and another address.
    NewAddress,
    /// Longer datagrams to the receiver vanish from now on: the path's MTU has fallen. UDP payload.
    Narrow(usize),
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// The wires it is about.
    pub wires: &'static [Wire],
    /// How many messages, of how many bytes.
    pub messages: &'static [(u32, usize)],
    /// Of 1,000 datagrams, each way.
    pub loss: u32,
    /// At most so many in a row, each way.
    pub loss_in_a_row_max: u32,
    /// Of 1,000 datagrams, each way, arrive with a bit changed. Rows of v1 have no checksum but UDP's: they are lost.
    pub corrupt: u32,
    /// After so many datagrams to the receiver.
    pub events: &'static [(u64, Event)],
}

const QUIET: Scenario = Scenario {
    name: "",
    wires: &[Wire::Csv, Wire::Binary],
    messages: &[],
    loss: 0,
    loss_in_a_row_max: u32::MAX,
    corrupt: 0,
    events: &[],
};

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "50 x 1 KB at 30 % loss, up to 3 in a row",
        messages: &[(50, 1_000)],
        loss: 300,
        loss_in_a_row_max: 3,
        ..QUIET
    },
    Scenario {
        name: "2 MB at 2 % loss and 2 % corruption",
        messages: &[(1, 2 << 20)],
        loss: 20,
        corrupt: 20,
        ..QUIET
    },
    Scenario {
        name: "black hole and heal",
        messages: &[(20, 1_000), (1, 200_000)],
        events: &[(40, Event::BlackHole(25))],
        ..QUIET
    },
    Scenario {
        name: "an outage of two seconds",
        messages: &[(40, 300), (1, 200_000), (40, 300)],
        events: &[(40, Event::Outage(Duration::from_secs(2)))],
        ..QUIET
    },
    Scenario {
        name: "the sender's port and address change",
        messages: &[(20, 1_000), (1, 1 << 20), (20, 64)],
        events: &[(60, Event::NewPort), (200, Event::NewAddress)],
        ..QUIET
    },
    Scenario {
        name: "the path's MTU falls amid a message",
        // Rows are shorter than what every path carries.
        wires: &[Wire::Binary],
        messages: &[(20, 1_400), (1, 1 << 20), (20, 1_400)],
        events: &[(200, Event::Narrow(1_250))],
        ..QUIET
    },
];

impl Scenario {
    /// The messages, in the order they are put.
    pub fn payloads(&self) -> impl Iterator<Item = Vec<u8>> {
        let sizes =
            self.messages.iter().flat_map(|&(count, bytes)| std::iter::repeat_n(bytes, count as usize));
        sizes.enumerate().map(|(number, bytes)| payload(number as u64, bytes))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.messages.iter().map(|&(count, _)| u64::from(count)).sum()
    }

    /// A message in rows may come twice, once from each address: its receiver cannot know that they are one sender's
    /// (R-DEDUP-1). On the binary wire a flow is known by its tag.
    #[must_use]
    pub fn may_repeat(&self, wire: Wire) -> bool {
        wire == Wire::Csv
            && self.events.iter().any(|(_, event)| matches!(event, Event::NewPort | Event::NewAddress))
    }

    /// Whether everything in it happened, by the path's own counts.
    ///
    /// # Errors
    /// What did not: then nothing was proved.
    pub fn check(&self, wire: Wire, counts: &Counts) -> Result<(), String> {
        let expect = |happened: bool, what: &str| {
            if happened { Ok(()) } else { Err(format!("{}: {what} never happened: {counts:?}", self.name)) }
        };
        expect(counts.to_receiver > 0 && counts.to_sender > 0, "an exchange")?;
        expect(self.loss == 0 || counts.lost > 0, "loss")?;
        expect(counts.lost_in_a_row_max <= self.loss_in_a_row_max, "the limit of losses in a row")?;
        expect(self.corrupt == 0 || counts.corrupted > 0, "corruption")?;
        expect(counts.events == self.events.len() as u64, "an event")?;
        for (_, event) in self.events {
            match event {
                Event::BlackHole(datagrams) => {
                    expect(counts.swallowed == u64::from(*datagrams), "the end of the black hole")?
                }
                Event::Outage(_) => {
                    expect(counts.cut_off > 0, "an outage")?;
                    expect(counts.outages_over > 0, "the end of the outage")?;
                }
                Event::NewPort | Event::NewAddress => {}
                Event::Narrow(_) => {
                    expect(counts.too_long > 0 && wire == Wire::Binary, "a datagram too long")?
                }
            }
        }
        Ok(())
    }
}

/// Text that only this number has: 16 hexadecimal digits, and a pattern made of them.
#[must_use]
pub fn payload(number: u64, bytes: usize) -> Vec<u8> {
    let mut text = format!("{number:016x}").into_bytes();
    let mut state = number;
    while text.len() < bytes {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        text.extend(format!("{:016x}", mixed ^ (mixed >> 27)).bytes());
    }
    text.truncate(bytes);
    text
}

/// The receiving application's own book.
#[derive(Clone, Debug)]
pub struct Book {
    came: Vec<u32>,
    wrong: u32,
    payloads: Vec<Vec<u8>>,
}

impl Book {
    /// Nothing has come.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let payloads: Vec<_> = scenario.payloads().collect();
        Self { came: vec![0; payloads.len()], wrong: 0, payloads }
    }

    /// A message came.
    pub fn note(&mut self, bytes: &[u8]) {
        let digits = bytes.get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
        match number.filter(|&number| self.payloads.get(number).is_some_and(|payload| payload == bytes)) {
            Some(number) => self.came[number] += 1,
            None => self.wrong += 1,
        }
    }

    /// How many of the messages have come.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.came.iter().filter(|&&count| count > 0).count() as u64
    }

    /// How many came once more.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.came.iter().map(|&count| u64::from(count.saturating_sub(1))).sum()
    }

    /// Messages nobody put, or not as they came.
    #[must_use]
    pub const fn wrong(&self) -> u32 {
        self.wrong
    }
}
