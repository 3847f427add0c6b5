//! Everything that happens in a world, in order: hashed, so that two runs of a seed can be compared; on demand written down
//! for people, and what was sent as a capture for Wireshark.

use super::v1_watch::Leg;
use crate::message::Outcome;
use crate::runtime::internals::lock;
use crate::units::Instant;
use crate::wire::binary::{self, Frame};
use etherparse::PacketBuilder;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of a row that are shown.
const SHOWN_BYTES: usize = 100;
/// Frames of a datagram that are shown.
const SHOWN_FRAMES: usize = 8;
/// A capture's times begin here: the simulated wall clock at virtual time zero.
const UNIX_START: Duration = Duration::from_secs(1_764_000_000);
const TTL: u8 = 64;

/// Where a run is written down.
#[derive(Default)]
pub struct Record {
    /// A line for each event.
    pub log: Option<Box<dyn Write + Send>>,
    /// Datagrams as they were sent, with IP and UDP headers: a pcap file with nanoseconds.
    pub capture: Option<Box<dyn Write + Send>>,
}

struct Inner {
    start: Instant,
    now: Instant,
    hasher: ahash::AHasher,
    log: Option<Box<dyn Write + Send>>,
    capture: Option<PcapWriter<Box<dyn Write + Send>>>,
    /// The first one.
    error: Option<io::Error>,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

impl Default for Trace {
    fn default() -> Self {
        let start = Instant::from_ns(0);
        let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4).build_hasher();
        Self(Arc::new(Mutex::new(Inner { start, now: start, hasher, log: None, capture: None, error: None })))
    }
}

impl Trace {
    /// From now on it is written down, too.
    pub(crate) fn record(&self, start: Instant, record: Record) -> io::Result<()> {
        let mut inner = lock(&self.0);
        (inner.start, inner.now) = (start, start);
        inner.log = record.log;
        if let Some(writer) = record.capture {
            let header = PcapHeader {
                datalink: DataLink::RAW,
                ts_resolution: TsResolution::NanoSecond,
                ..PcapHeader::default()
            };
            inner.capture = Some(PcapWriter::with_header(writer, header).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Of all that happened; and whether writing it down failed.
    pub(crate) fn finish(&self) -> (u64, io::Result<()>) {
        let mut inner = lock(&self.0);
        let flushed = inner.log.as_mut().map_or(Ok(()), |log| log.flush());
        inner.capture = None;
        (inner.hasher.finish(), inner.error.take().map_or(flushed, Err))
    }

    /// What follows happens then.
    pub(crate) fn at(&self, now: Instant) {
        lock(&self.0).now = now;
    }

    pub(crate) fn now(&self) -> Instant {
        lock(&self.0).now
    }

    fn datagram(&self, what: &str, leg: Leg<'_>) {
        let mut inner = lock(&self.0);
        let Inner { now, hasher, .. } = &mut *inner;
        (now.as_ns(), what, leg.from, leg.to, leg.bytes).hash(hasher);
        inner.line(format_args!("{} > {} {what}: {}", leg.from, leg.to, Shown(leg)));
    }

    pub(crate) fn sent(&self, leg: Leg<'_>) {
        self.datagram("sent", leg);
        lock(&self.0).capture(leg);
    }

    pub(crate) fn lost(&self, why: &str, leg: Leg<'_>) {
        self.datagram(why, leg);
    }

    pub(crate) fn thrown(&self, replayed: bool, leg: Leg<'_>) {
        self.datagram(if replayed { "replayed by an outsider" } else { "forged by an outsider" }, leg);
        lock(&self.0).capture(leg);
    }

    pub(crate) fn received(&self, shard: usize, leg: Leg<'_>) {
        let mut inner = lock(&self.0);
        let Inner { now, hasher, .. } = &mut *inner;
        (now.as_ns(), shard, leg.from, leg.to, leg.bytes.len()).hash(hasher);
        inner.line(format_args!(
            "{} > {} received by shard {shard}: {} B",
            leg.from,
            leg.to,
            leg.bytes.len()
        ));
    }

    /// An application put it, got it, or was told of it.
    pub(crate) fn message(&self, number: u64, host: usize, what: &str) {
        self.event(format_args!("message {number}: host {host} {what}"));
    }

    pub(crate) fn outcome(&self, number: u64, outcome: &Outcome) {
        match outcome {
            Ok(delivered) => self.event(format_args!("message {number}: delivered, {delivered:?}")),
            Err(error) => self.event(format_args!("message {number}: {error:?}")),
        }
    }

    pub(crate) fn event(&self, what: fmt::Arguments<'_>) {
        let mut inner = lock(&self.0);
        let Inner { now, hasher, .. } = &mut *inner;
        now.as_ns().hash(hasher);
        // Not made into text first.
        let _ = fmt::Write::write_fmt(&mut Hashed(hasher), what);
        inner.line(what);
    }
}

struct Hashed<'a>(&'a mut ahash::AHasher);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Inner {
    fn line(&mut self, what: fmt::Arguments<'_>) {
        if let Some(log) = &mut self.log {
            let at = self.now.since(self.start);
            let written = writeln!(log, "{:4}.{:09} {what}", at.as_secs(), at.subsec_nanos());
            self.error = self.error.take().or(written.err());
        }
    }

    fn capture(&mut self, leg: Leg<'_>) {
        let Some(capture) = &mut self.capture else { return };
        for datagram in leg.bytes.chunks(leg.segment_bytes) {
            let bytes = framed(leg.from, leg.to, datagram);
            let time = UNIX_START + Duration::from_nanos(self.now.as_ns());
            let packet = PcapPacket::new(time, bytes.len() as u32, &bytes);
            let written = capture.write_packet(&packet).map_err(io::Error::other);
            self.error = self.error.take().or(written.err());
        }
    }
}

/// With the headers it would have had.
fn framed(from: SocketAddr, to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
    let builder = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), TTL)
        }
        (from, to) => {
            let v6 = |addr: SocketAddr| match addr.ip() {
                std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                std::net::IpAddr::V6(ip) => ip.octets(),
            };
            PacketBuilder::ipv6(v6(from), v6(to), TTL)
        }
    };
    let builder = builder.udp(from.port(), to.port());
    let mut bytes = Vec::with_capacity(builder.size(datagram.len()));
    // Nothing a datagram can be is too long for it, and a vector takes all.
    let _ = builder.write(&mut bytes, datagram);
    bytes
}

/// A datagram for people.
struct Shown<'a>(Leg<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leg { bytes, segment_bytes, .. } = self.0;
        if bytes.len() > segment_bytes {
            write!(f, "train of {}, first ", bytes.len().div_ceil(segment_bytes))?;
        }
        let first = &bytes[..bytes.len().min(segment_bytes)];
        write!(f, "{} B ", first.len())?;
        if first.first().is_none_or(|&first| first < 0x80) {
            let shown = &first[..first.len().min(SHOWN_BYTES)];
            return write!(f, "{}", String::from_utf8_lossy(shown).escape_debug());
        }
        match binary::decode(first) {
            Err(reason) => write!(f, "{reason:?}"),
            Ok((header, frames)) => {
                write!(f, "#{} tag {:x}", header.packet_number, header.tag)?;
                for frame in binary::frames(frames).take(SHOWN_FRAMES) {
                    match frame {
                        Ok(Frame::Message(message)) => {
                            write!(f, ", message {} of {} B", message.seq, message.payload.len())?;
                        }
                        Ok(Frame::Chunk(chunk)) => {
                            write!(f, ", chunk of {:?} {}", chunk.space, chunk.seq)?;
                        }
                        Ok(Frame::Ack(ack)) => {
                            write!(f, ", ack")?;
                            for (first, last) in ack.ranges().take(SHOWN_FRAMES) {
                                write!(f, " {first}..={last}")?;
                            }
                        }
                        Ok(Frame::Result(results)) => {
                            write!(f, ", results {:?}", results.entries().collect::<Vec<_>>())?;
                        }
                        Ok(frame) => write!(f, ", {frame:?}")?,
                        Err(reason) => write!(f, ", {reason:?}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::PcapReader;

    #[test]
    fn a_capture_has_whole_packets_with_sound_headers() {
        let file = Arc::new(Mutex::new(Vec::new()));
        #[derive(Clone)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                lock(&self.0).write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let trace = Trace::default();
        let capture: Box<dyn Write + Send> = Box::new(Shared(Arc::clone(&file)));
        trace.record(Instant::from_ns(5), Record { log: None, capture: Some(capture) }).unwrap();
        trace.at(Instant::from_ns(1_000_000_007));
        let (from, to) = ("10.0.0.1:25252".parse().unwrap(), "10.0.0.2:25253".parse().unwrap());
        trace.sent(Leg { from, to, bytes: b"abcdefgh-", segment_bytes: 4 });
        trace.finish().1.unwrap();
        let file = lock(&file).clone();
        let mut reader = PcapReader::new(&file[..]).unwrap();
        let mut payloads = Vec::new();
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            assert_eq!(packet.timestamp, UNIX_START + Duration::from_nanos(1_000_000_007));
            let sliced = etherparse::SlicedPacket::from_ip(&packet.data).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else { panic!("no UDP") };
            assert_eq!((udp.source_port(), udp.destination_port()), (25_252, 25_253));
            payloads.push(udp.payload().to_vec());
        }
        assert_eq!(payloads, [&b"abcd"[..], b"efgh", b"-"]);
    }
}
