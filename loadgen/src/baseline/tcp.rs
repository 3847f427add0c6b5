//! What TCP makes of the same work: messages of the run's size, each with its length before it, over one stream.
//!
//! The sender copies every message into its write buffer, as an application's writer does (and as the generator makes its
//! payloads), and writes the buffer when it is full. The receiver reads up to 1 MiB at a time and goes from length to
//! length; it looks at no payload. Nothing is acknowledged to the application: this is the most TCP can do, not the same.

use super::sides::{self, LOOK_UP, Received, Tally};
use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::TcpCongestion;
use nix::sys::socket::{getsockopt, setsockopt};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// Until the kernel has found its buffer sizes.
pub const WARM_UP: Duration = Duration::from_millis(150);
const TRY_WARM_UP: Duration = Duration::from_millis(60);
/// A try is no shorter, whatever the time given: less tells nothing.
const TRY_MIN: Duration = Duration::from_millis(20);

/// Of every message.
const LENGTH_BYTES: usize = 4;
/// Beside one message a write.
const WRITES_BYTES: [usize; 4] = [16 << 10, 64 << 10, 256 << 10, 1 << 20];
const READ_BYTES: usize = 1 << 20;
/// What messages are copied from: small enough to stay in the cache, as the generator's table does.
const SOURCE_BYTES_MAX: usize = 64 << 10;
/// The first one is the one the write sizes are tried with.
const CONGESTIONS: [&str; 2] = ["cubic", "bbr"];

/// The figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tcp {
    /// Messages received.
    pub msgs_per_s: Option<f64>,
    /// Their payload bits.
    pub bits_per_s: Option<f64>,
    /// The congestion control that was better.
    pub congestion: String,
    /// The write size that was best.
    pub write_bytes: u64,
}

/// Where the receiver listens.
#[derive(Clone, Debug)]
pub struct Place {
    /// At which address.
    pub address: IpAddr,
    /// In which network namespace (a file such as `/run/netns/NAME`); `None`: in this one.
    pub netns: Option<PathBuf>,
}

impl Place {
    /// On this machine, over loopback.
    pub const LOOPBACK: Self = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), netns: None };

    /// A socket is of the namespace its thread was in when it was made: a thread of its own goes there, and ends.
    fn listen(&self) -> Result<TcpListener> {
        let listen = || -> Result<TcpListener> {
            if let Some(path) = &self.netns {
                let netns = File::open(path).with_context(|| path.display().to_string())?;
                setns(netns, CloneFlags::CLONE_NEWNET).context("setns")?;
            }
            TcpListener::bind((self.address, 0)).context("bind")
        };
        std::thread::scope(|scope| scope.spawn(listen).join())
            .map_err(|_| anyhow!("the thread that listens panicked"))?
    }
}

/// One stream.
#[derive(Clone, Debug)]
pub struct Stream {
    place: Place,
    /// Payload bytes of a message.
    size: usize,
    /// Bytes per write: whole messages, or a part of one.
    write_bytes: usize,
    /// `None`: the system's default.
    congestion: Option<&'static str>,
}

impl Stream {
    /// The write size and then the congestion control that carry most messages of `size`, by short tries that take about
    /// `time` together, warming up aside.
    pub fn find_best(size: usize, cores: (usize, usize), time: Duration) -> Result<Self> {
        let congestions: Vec<&str> = available_congestions().collect();
        let congestion = congestions.first().copied();
        let tries = write_sizes(size).count() + congestions.len().saturating_sub(1);
        let time = (time / u32::try_from(tries)?).max(TRY_MIN);
        let first = Self { place: Place::LOOPBACK, size, write_bytes: 0, congestion };
        let best = first.best_of_write_sizes(cores, time)?;
        let others =
            congestions.iter().skip(1).map(|&other| Self { congestion: Some(other), ..best.clone() });
        Self::best_of(std::iter::once(best.clone()).chain(others), cores, time)
    }

    /// One for each congestion control, with the write size that carries most messages of `size` to `place`, by short tries
    /// that take about `time` together.
    pub fn of_each_congestion(
        place: &Place,
        size: usize,
        cores: (usize, usize),
        time: Duration,
    ) -> Result<Vec<Self>> {
        let congestions: Vec<&str> = available_congestions().collect();
        let tries = write_sizes(size).count() * congestions.len().max(1);
        let time = (time / u32::try_from(tries)?).max(TRY_MIN);
        let of =
            |congestion| Self { place: place.clone(), size, write_bytes: 0, congestion: Some(congestion) };
        congestions.into_iter().map(|congestion| of(congestion).best_of_write_sizes(cores, time)).collect()
    }

    fn best_of_write_sizes(&self, cores: (usize, usize), time: Duration) -> Result<Self> {
        let streams = write_sizes(self.size).map(|write_bytes| Self { write_bytes, ..self.clone() });
        Self::best_of(streams, cores, time)
    }

    fn best_of(streams: impl Iterator<Item = Self>, cores: (usize, usize), time: Duration) -> Result<Self> {
        let mut best: Option<(f64, Self)> = None;
        for stream in streams {
            let rate = stream.run(cores, TRY_WARM_UP, time)?.bits_per_s().unwrap_or_default();
            if best.as_ref().is_none_or(|best| rate > best.0) {
                best = Some((rate, stream));
            }
        }
        best.map(|best| best.1).context("nothing was tried")
    }

    /// Sends for `time`, the sender on `cores.0`, the receiver on `cores.1`.
    pub fn run(&self, cores: (usize, usize), warm_up: Duration, time: Duration) -> Result<Received> {
        let (sender, receiver) = self.sockets()?;
        // The threads own their ends: one that fails lets the other know.
        sides::run(
            cores,
            warm_up,
            time,
            |tally| self.send(sender, tally),
            |tally| self.receive(receiver, tally),
        )
    }

    /// What `received` comes to.
    pub fn figures(&self, received: &Received) -> Tcp {
        let congestion = self.congestion.map(str::to_owned).or_else(default_congestion);
        let bits_per_s = received.bits_per_s();
        Tcp {
            // By bytes: of very large messages there are but a few in a window, and most of one.
            msgs_per_s: bits_per_s.map(|bits| bits / 8.0 / self.size as f64),
            bits_per_s,
            congestion: congestion.unwrap_or_else(|| "unknown".to_owned()),
            write_bytes: self.write_bytes as u64,
        }
    }

    fn sockets(&self) -> Result<(TcpStream, TcpStream)> {
        let listener = self.place.listen()?;
        let sender = TcpStream::connect(listener.local_addr()?).context("connect")?;
        let (receiver, _) = listener.accept().context("accept")?;
        for socket in [&sender, &receiver] {
            socket.set_nodelay(true).context("TCP_NODELAY")?;
            if let Some(name) = self.congestion {
                setsockopt(socket, TcpCongestion, &OsString::from(name)).context("TCP_CONGESTION")?;
            }
            socket.set_read_timeout(Some(LOOK_UP))?;
            socket.set_write_timeout(Some(LOOK_UP))?;
        }
        Ok((sender, receiver))
    }

    fn send(&self, mut socket: TcpStream, tally: &Tally) -> Result<()> {
        let length = u32::try_from(self.size)?.to_le_bytes();
        let source = vec![1; self.size.clamp(1, SOURCE_BYTES_MAX)];
        let frame_bytes = LENGTH_BYTES + self.size;
        let mut buffer = vec![0; self.write_bytes];
        if frame_bytes <= self.write_bytes {
            while !tally.is_over() {
                for frame in buffer.chunks_exact_mut(frame_bytes) {
                    frame[..LENGTH_BYTES].copy_from_slice(&length);
                    copy(&mut frame[LENGTH_BYTES..], &source);
                }
                write_all(&mut socket, &buffer, tally)?;
            }
            return Ok(());
        }
        while !tally.is_over() {
            let mut written = 0;
            while written < frame_bytes && !tally.is_over() {
                let piece = &mut buffer[..self.write_bytes.min(frame_bytes - written)];
                let length_bytes = if written == 0 { LENGTH_BYTES } else { 0 };
                piece[..length_bytes].copy_from_slice(&length[..length_bytes]);
                copy(&mut piece[length_bytes..], &source);
                write_all(&mut socket, piece, tally)?;
                written += piece.len();
            }
        }
        Ok(())
    }

    fn receive(&self, mut socket: TcpStream, tally: &Tally) -> Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let mut parser = Parser { size: self.size, ..Parser::default() };
        // Read, but not parsed: a part of a length.
        let mut left = 0;
        while !tally.is_over() {
            let count = match socket.read(&mut buffer[left..]) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if is_no_end(error.kind()) => continue,
                Err(error) => return Err(error).context("read"),
            };
            let filled = left + count;
            left = parser.parse(&buffer[..filled])?;
            buffer.copy_within(filled - left..filled, 0);
            tally.publish(parser.messages, parser.payload_bytes);
        }
        Ok(())
    }
}

/// From length to length.
#[derive(Debug, Default)]
struct Parser {
    /// What every length must be.
    size: usize,
    messages: u64,
    payload_bytes: u64,
    /// Payload of the message under way that has not come yet.
    missing: usize,
}

impl Parser {
    /// Takes what was read; returns how many bytes at its end are to be shown again, with more behind them.
    fn parse(&mut self, mut bytes: &[u8]) -> Result<usize> {
        loop {
            if self.missing > 0 {
                let part = self.missing.min(bytes.len());
                self.missing -= part;
                self.payload_bytes += part as u64;
                bytes = &bytes[part..];
                if self.missing > 0 {
                    return Ok(0);
                }
                self.messages += 1;
            }
            let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
                return Ok(bytes.len());
            };
            self.missing = u32::from_le_bytes(*length) as usize;
            ensure!(self.missing == self.size, "the stream is out of step");
            bytes = rest;
        }
    }
}

/// One message a write, and sizes that are whole messages where a message fits.
fn write_sizes(size: usize) -> impl Iterator<Item = usize> {
    let frame_bytes = LENGTH_BYTES + size;
    let batches = WRITES_BYTES.into_iter().map(move |bytes| match bytes / frame_bytes {
        0 => bytes,
        messages => messages * frame_bytes,
    });
    // A message of many MiB at once fits no cache, and its pieces are tried anyway.
    let one = Some(frame_bytes).filter(|&bytes| bytes <= 2 * READ_BYTES);
    one.into_iter().chain(batches.filter(move |&bytes| Some(bytes) != one))
}

#[inline]
fn copy(into: &mut [u8], source: &[u8]) {
    for part in into.chunks_mut(source.len()) {
        part.copy_from_slice(&source[..part.len()]);
    }
}

/// Writes all of `bytes`, or what goes until it is over.
fn write_all(socket: &mut TcpStream, mut bytes: &[u8], tally: &Tally) -> Result<()> {
    while !bytes.is_empty() && !tally.is_over() {
        match socket.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_no_end(error.kind()) => {}
            // The receiver has gone, as it should.
            Err(_) if tally.is_over() => {}
            Err(error) => return Err(error).context("write"),
        }
    }
    Ok(())
}

fn is_no_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn available_congestions() -> impl Iterator<Item = &'static str> {
    CONGESTIONS.into_iter().filter(|name| is_available(name))
}

fn is_available(congestion: &str) -> bool {
    // A listener that is never bound to anything anyone knows: any TCP socket tells.
    TcpListener::bind("127.0.0.1:0")
        .is_ok_and(|socket| setsockopt(&socket, TcpCongestion, &OsString::from(congestion)).is_ok())
}

fn default_congestion() -> Option<String> {
    let socket = TcpListener::bind("127.0.0.1:0").ok()?;
    getsockopt(&socket, TcpCongestion).ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_messages_arrive() {
        let _lock = crate::lock::MeasureLock::acquire(&crate::stop::Stop::default()).expect("lock");
        for size in [64, 1 << 20] {
            let time = Duration::from_millis(60);
            let best = Stream::find_best(size, (0, 0), time).expect("loopback works");
            let mut tcp = best.run((0, 0), TRY_WARM_UP, time).expect("loopback works");
            tcp += best.run((0, 0), TRY_WARM_UP, time).expect("loopback works");
            assert!(tcp.per_s().is_some_and(|rate| rate > 0.0), "{size}: {tcp:?}");
            let figures = best.figures(&tcp);
            assert!(figures.msgs_per_s.is_some_and(|rate| rate > 0.0), "{size}: {figures:?}");
            let json = serde_json::to_value(&figures).expect("serializes");
            for field in ["msgs_per_s", "bits_per_s", "congestion", "write_bytes"] {
                assert!(!json[field].is_null(), "{size}: {field}");
            }
        }
    }

    #[test]
    fn every_congestion_control_is_measured_at_any_address() {
        let _lock = crate::lock::MeasureLock::acquire(&crate::stop::Stop::default()).expect("lock");
        let place = Place { address: "127.0.0.9".parse().expect("an address"), netns: None };
        let streams = Stream::of_each_congestion(&place, 64, (0, 0), TRY_WARM_UP).expect("loopback works");
        assert_eq!(streams.len(), available_congestions().count());
        for stream in streams {
            let received = stream.run((0, 0), TRY_WARM_UP, TRY_WARM_UP).expect("loopback works");
            assert!(received.per_s().is_some_and(|rate| rate > 0.0), "{stream:?}");
        }
        let nowhere = Place { netns: Some("/nonexistent".into()), ..place };
        assert!(nowhere.listen().is_err(), "not silently in this one");
    }

    #[test]
    fn writes_are_whole_messages_or_pieces_of_one() {
        let sizes = |size| write_sizes(size).collect::<Vec<_>>();
        assert_eq!(sizes(64), [68, 240 * 68, 963 * 68, 3_855 * 68, 15_420 * 68]);
        assert_eq!(sizes(1 << 20), [(1 << 20) + 4, 16 << 10, 64 << 10, 256 << 10, 1 << 20]);
        assert_eq!(sizes(1 << 30), [16 << 10, 64 << 10, 256 << 10, 1 << 20]);
        assert_eq!(sizes((64 << 10) - 4).len(), 4, "one message a write is one of the others");
    }

    /// However the stream was cut, lengths included.
    #[test]
    fn the_parser_finds_every_message() {
        let mut stream = Vec::new();
        for _ in 0..100 {
            stream.extend(7_u32.to_le_bytes());
            stream.extend(b"payload");
        }
        for read in 1..40 {
            let mut parser = Parser { size: 7, ..Parser::default() };
            let (mut pending, mut shown) = (Vec::new(), 0);
            for part in stream.chunks(read) {
                pending.extend(part);
                let left = parser.parse(&pending).expect("in step");
                assert!(left < LENGTH_BYTES);
                shown += pending.len() - left;
                pending.drain(..pending.len() - left);
            }
            assert_eq!((parser.messages, parser.payload_bytes, shown), (100, 700, stream.len()), "{read}");
        }
        let mut parser = Parser { size: 8, ..Parser::default() };
        assert!(parser.parse(&stream).is_err());
    }
}
