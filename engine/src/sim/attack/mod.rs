//! What hostile peers send: one datagram after the other of a kind, for tests and `examples/attack`. Bytes only; who sends
//! them, from where and how fast is the caller's affair.
//!
//! ```text
//!   Attack::new(kind, seed).next(&mut datagram)                       of strangers: any number of sources
//!   Intruder::open(socket, engine) -> attack.next_in(&mut intruder)   under a valid tag: who went through the handshake
//! ```

mod intruder;

pub use intruder::Intruder;

use crate::config::Footprint;
use crate::wire::binary::{self, Bases, HEADER_BYTES, Header, Hello, Writer};
use crate::wire::csv::{DISCOVERY_ROW_BYTES, Discovery, DiscoveryKind, encode_discovery};
use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

/// A first HELLO is that long, or it gets no answer (R-FLOW-3).
const HELLO_BYTES: usize = 148;
/// One that is sealed: with a salt of 32 bytes and a tag of 16.
const SEALED_HELLO_BYTES: usize = HELLO_BYTES + 48;
/// The key it names.
pub const SEALED_KEY_ID: u32 = 1;
/// Payload of a first chunk.
const CHUNK_BYTES: usize = 384;
/// Longer than any limit.
const CHUNKS: u32 = 4_096;
/// What a message begins with that wants the same back: from a victim that does as it is told.
pub const ASKS: &[u8] = b"\xffanswer";
/// Messages that one source keeps alive.
const KEPT: u64 = 64;

/// Of what an engine's limits amount to, what others can fill. What it sends itself, and what its application has not taken, is
/// its own affair; kernel memory is not resident.
#[must_use]
pub fn fillable_bytes(all: &Footprint) -> u64 {
    let sent = all.operations_bytes + all.send_payload_bytes + all.flow_datagrams_bytes;
    let own = sent + all.recv_bucket_bytes;
    all.total_bytes() - own - all.socket_buffers_bytes
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// What is sent.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $doc])+ $name,)+ }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name, `snake_case`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

kinds! {
    /// Datagrams of zero bytes.
    Empty = "empty",
    /// Datagrams of one byte, any.
    OneByte = "one_byte",
    /// Random bytes, half of them those that rows are made of.
    Garbage = "garbage",
    /// Rows that open a message, each another one, and nothing after that.
    FirstChunks = "first_chunks",
    /// Rows of messages of 2^32 chunks and more, and of chunks beyond any.
    HugeLengths = "huge_lengths",
    /// Rows of every other chunk of messages that never get the others.
    Gaps = "gaps",
    /// Now and then a row for each of some messages, so that none is ever idle or complete.
    SlowLoris = "slow_loris",
    /// Confirms of ids that were never given out.
    ForgedConfirms = "forged_confirms",
    /// Whole messages under one op id: what is not keyed collides.
    Collisions = "collisions",
    /// Whole messages, each of another start of an engine.
    Epochs = "epochs",
    /// One row, over and over: a capture that is replayed.
    Repeats = "repeats",
    /// Rows that ask for the binary wire.
    Probes = "probes",
    /// First HELLOs without a cookie.
    Hellos = "hellos",
    /// First HELLOs sealed with a key that nobody has, under the id of one that somebody may have.
    SealedHellos = "sealed_hellos",
    /// Messages under tags that nobody gave out.
    UnknownTags = "unknown_tags",
    /// Acknowledgements under tags that nobody gave out.
    ForgedAcks = "forged_acks",
    /// The first byte of the binary wire, and then anything.
    BinaryGarbage = "binary_garbage",
    /// In a flow: chunks of messages of nearly 2^32 bytes.
    FlowHugeLengths = "flow_huge_lengths",
    /// In a flow: first chunks, each of another message.
    FlowFirstChunks = "flow_first_chunks",
    /// In a flow: every other packet number, and units of messages ever farther apart.
    FlowGaps = "flow_gaps",
    /// In a flow: acknowledgements and credit for what was never sent.
    FlowAcks = "flow_acks",
    /// In a flow: one datagram, over and over.
    FlowRepeats = "flow_repeats",
    /// In a flow: messages that ask for an [answer](ASKS), and acknowledgements of what was sent but not read.
    FlowOptimistic = "flow_optimistic",
}

impl Kind {
    /// Sent by who went through a handshake, under its tag.
    #[must_use]
    pub const fn needs_flow(self) -> bool {
        use Kind::{FlowAcks, FlowFirstChunks, FlowGaps, FlowHugeLengths, FlowOptimistic, FlowRepeats};
        matches!(self, FlowHugeLengths | FlowFirstChunks | FlowGaps | FlowAcks | FlowRepeats | FlowOptimistic)
    }

    /// The most that may come back to a source that has proven nothing, for one datagram of so many bytes (R-CONFIRM-6,
    /// R-FLOW-3, R-DISC-4).
    #[must_use]
    pub const fn back_max(self, bytes: usize) -> usize {
        use Kind::{Collisions, Epochs, FirstChunks, Gaps, Garbage, HugeLengths, Repeats, SlowLoris};
        match self {
            // Rows may be confirmed; garbage may be a row.
            Collisions | Epochs | FirstChunks | Gaps | Garbage | HugeLengths | Repeats | SlowLoris => {
                bytes + 2
            }
            _ => bytes,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().copied().find(|kind| kind.label() == text);
        found.ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|kind| kind.label()).collect();
            format!("{text:?} is no attack; there are {}", all.join(", "))
        })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Attack {
    kind: Kind,
    random: fastrand::Rng,
    sent: u64,
    /// Base64 of a chunk.
    text: String,
}

impl Attack {
    /// The same datagrams for the same seed.
    #[must_use]
    pub fn new(kind: Kind, seed: u64) -> Self {
        let text = base64_simd::STANDARD.encode_to_string([b'x'; CHUNK_BYTES]);
        Self { kind, random: fastrand::Rng::with_seed(seed), sent: 0, text }
    }

    /// The next datagram, from whichever source. Nothing for kinds that need a flow.
    pub fn next(&mut self, datagram: &mut Vec<u8>) {
        let number = self.sent;
        self.sent += 1;
        datagram.clear();
        let Self { random, text, .. } = self;
        // A vector takes everything that is written to it.
        let _ = match self.kind {
            Kind::Empty => Ok(()),
            Kind::OneByte => datagram.write_all(&[random.u8(..)]),
            Kind::Garbage => {
                garbage(random, datagram);
                Ok(())
            }
            Kind::FirstChunks => write!(datagram, ",{number:08x},{CHUNKS},0,{text},1764123456.1"),
            Kind::HugeLengths => {
                let (count, index) = [
                    (1_u128 << 32, 0),
                    ((1 << 32) - 1, (1_u128 << 32) - 2),
                    (1 << 64, 0),
                    (u128::MAX, 7),
                    (3, (1 << 32) - 1),
                ][number as usize % 5];
                write!(datagram, ",{number:08x},{count},{index},{text},1764123456.1")
            }
            Kind::Gaps => {
                let (id, index) = (number / KEPT, 2 * (number % KEPT));
                write!(datagram, ",{id:08x},{CHUNKS},{index},{text},1764123456.1")
            }
            Kind::SlowLoris => {
                let (id, index) = (number % KEPT, random.u32(..CHUNKS));
                write!(datagram, ",{id:08x},{CHUNKS},{index},aGVsbG8=,1764123456.1")
            }
            Kind::ForgedConfirms => write!(datagram, "1,{:016x},,0,", random.u64(..)),
            Kind::Collisions => write!(datagram, ",3f2a9c1e,,,aGVsbG8=,1764123456.{number:06}"),
            Kind::Epochs => {
                write!(datagram, ",0000000100000500,,,aGVsbG8=,1764123456.000001,u+{:08x}", random.u32(..))
            }
            Kind::Repeats => write!(datagram, ",3f2a9c1e,,,aGVsbG8=,1764123456.1"),
            Kind::Probes => {
                let nonce = random.u64(..);
                let probe = Discovery { id: random.u64(..), nonce, kind: DiscoveryKind::Probe };
                datagram.resize(DISCOVERY_ROW_BYTES, 0);
                encode_discovery(datagram, &probe);
                Ok(())
            }
            Kind::Hellos => {
                hello(random, datagram);
                Ok(())
            }
            Kind::SealedHellos => {
                let header = Header { tag: 0, ..stranger(random, 1_000) };
                datagram.resize(SEALED_HELLO_BYTES, 0);
                let body_at = binary::write(datagram, &header);
                datagram[body_at..].fill_with(|| random.u8(..));
                binary::mark_sealed(datagram, false, SEALED_KEY_ID);
                Ok(())
            }
            Kind::UnknownTags => {
                let header = stranger(random, number);
                crafted(datagram, &header, |writer| writer.plain_message(number as u32, &[b'x'; 64]));
                Ok(())
            }
            Kind::ForgedAcks => {
                let header = stranger(random, number);
                let largest = random.u64(1 << 20..1 << 32);
                let ranges = (0..32).map(|range| (largest - 3 * range - 1, largest - 3 * range));
                crafted(datagram, &header, |writer| writer.ack(0, ranges, None));
                Ok(())
            }
            Kind::BinaryGarbage => {
                let bytes = random.usize(1..200);
                datagram.extend((0..bytes).map(|_| random.u8(..)));
                datagram[0] = [binary::MAGIC, 0x80, 0xff][number as usize % 3];
                if number.is_multiple_of(3) && bytes > HEADER_BYTES {
                    // Flags and the reserved byte as they have to be.
                    (datagram[1], datagram[3]) = (0, 0);
                }
                if number.is_multiple_of(2) && bytes > HEADER_BYTES {
                    binary::seal(datagram);
                }
                Ok(())
            }
            Kind::FlowHugeLengths
            | Kind::FlowFirstChunks
            | Kind::FlowGaps
            | Kind::FlowAcks
            | Kind::FlowRepeats
            | Kind::FlowOptimistic => Ok(()),
        };
    }

    /// The next datagram of a kind that needs a flow, in this one.
    pub fn next_in(&mut self, intruder: &mut Intruder, datagram: &mut Vec<u8>) {
        self.sent += 1;
        datagram.clear();
        intruder.write(self.kind, datagram);
    }
}

fn garbage(random: &mut fastrand::Rng, datagram: &mut Vec<u8>) {
    let bytes = random.usize(..200);
    let of_rows = random.bool();
    datagram.extend((0..bytes).map(|_| {
        let byte = random.u8(..);
        if of_rows { b",,,\"\r\n01aGVs=u+ "[usize::from(byte) % 16] } else { byte }
    }));
}

fn hello(random: &mut fastrand::Rng, datagram: &mut Vec<u8>) {
    let hello = Hello {
        versions: &[2],
        tag: random.u64(1..),
        nonce: random.u64(..),
        bases: Bases { packet_number: 1_000, messages: 1, chunked: 1 },
        ..Hello::default()
    };
    let header = Header { tag: 0, ..stranger(random, 1_000) };
    crafted(datagram, &header, |writer| writer.hello(&hello));
    datagram.resize(HELLO_BYTES, 0);
    binary::seal(datagram);
}

fn stranger(random: &mut fastrand::Rng, packet_number: u64) -> Header {
    Header { route: 0, epoch: random.u32(..), packet_number, tag: random.u64(1..), sent_at: None }
}

/// A sound datagram that says what `write` writes, as far as there is room.
fn crafted(datagram: &mut Vec<u8>, header: &Header, write: impl FnOnce(&mut Writer<'_>) -> bool) {
    datagram.resize(1_472, 0);
    binary::write(datagram, header);
    let mut writer = Writer::new(&mut datagram[HEADER_BYTES..]);
    write(&mut writer);
    let bytes = HEADER_BYTES + writer.at();
    datagram.truncate(bytes);
    binary::seal(datagram);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_by_its_name_and_has_datagrams() {
        for &kind in Kind::ALL {
            assert_eq!(kind.label().parse(), Ok(kind));
            let (mut a, mut b) = (Attack::new(kind, 3), Attack::new(kind, 3));
            let (mut first, mut second) = (Vec::new(), Vec::new());
            let mut bytes = 0;
            for _ in 0..100 {
                a.next(&mut first);
                b.next(&mut second);
                assert_eq!(first, second, "{kind}: the same seed");
                bytes += first.len();
            }
            assert_eq!(bytes == 0, kind == Kind::Empty || kind.needs_flow(), "{kind}");
        }
        assert!("nothing".parse::<Kind>().is_err_and(|error| error.contains("slow_loris")));
    }
}
