//! The classic BPF program that makes the kernel hand a datagram to the shard that owns its route.
//!
//! It computes [`wire::route`](crate::wire::route::route) on the UDP payload (which is what a reuseport
//! program sees at offset 0) and returns `route % shards`. Where the twin says `None` it returns 0xffffffff,
//! an index no group has: the kernel then chooses by its hash of addresses and ports. Every load is guarded
//! by a length check, because a load out of bounds would silently mean socket 0. 52 instructions, no loop, no
//! table. A GRO train goes where its first row goes.

use super::error::OsError;
use libc::sock_filter;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Largest group: routes are bytes and every shard must own at least two of them.
pub(crate) const SHARDS_MAX: usize = 128;
/// "No choice": beyond the group, so that the kernel falls back to its hash.
const NO_CHOICE: u32 = u32::MAX;

// Classic BPF opcodes; `A` is the accumulator, `X` the index register.
const LOAD_LENGTH: u16 = 0x80; // A = payload length
const LOAD_BYTE: u16 = 0x30; // A = payload[k]
const LOAD_BYTE_X: u16 = 0x50; // A = payload[X + k]
const LOAD_MEMORY: u16 = 0x60; // A = M[k]
const STORE_MEMORY: u16 = 0x02; // M[k] = A
const X_CONSTANT: u16 = 0x01; // X = k
const X_FROM_A: u16 = 0x07; // X = A
const A_FROM_X: u16 = 0x87; // A = X
const X_FROM_MEMORY: u16 = 0x61; // X = M[k]
const ADD: u16 = 0x04; // A += k
const SUBTRACT: u16 = 0x14; // A -= k
const SUBTRACT_X: u16 = 0x1c; // A -= X
const OR: u16 = 0x44; // A |= k
const OR_X: u16 = 0x4c; // A |= X
const SHIFT_LEFT: u16 = 0x64; // A <<= k
const MODULO: u16 = 0x94; // A %= k
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const IF_ABOVE: u16 = 0x25;
const RETURN_A: u16 = 0x16;
const RETURN: u16 = 0x06;

/// A place in the program, named before it is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Next,
    NoChoice,
    Binary,
    StartsAt1,
    Text,
    IdEnds,
    Letter(u8),
    Digit(u8),
    Nibble(u8),
    Choose,
}

/// Instructions with their jump targets still as labels.
#[derive(Default)]
struct Assembler {
    code: Vec<(u16, u32, Label, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn op(&mut self, opcode: u16, k: u32) {
        self.code.push((opcode, k, Label::Next, Label::Next));
    }

    fn branch(&mut self, opcode: u16, k: u32, yes: Label, no: Label) {
        self.code.push((opcode, k, yes, no));
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.code.len()));
    }

    fn distance(&self, from: usize, to: Label) -> u8 {
        if to == Label::Next {
            return 0;
        }
        let target = self.labels.iter().find(|(label, _)| *label == to).map(|(_, at)| *at);
        let target = target.expect("every label of the program is placed");
        u8::try_from(target - from - 1).expect("jumps go forward and the program is short")
    }

    fn finish(&self) -> Vec<sock_filter> {
        let instruction = |(at, &(code, k, yes, no)): (usize, &(u16, u32, Label, Label))| {
            let (jt, jf) = (self.distance(at, yes), self.distance(at, no));
            if code == JUMP {
                sock_filter { code, jt: 0, jf: 0, k: jt.into() }
            } else {
                sock_filter { code, jt, jf, k }
            }
        };
        self.code.iter().enumerate().map(instruction).collect()
    }

    /// A = the value of the hexadecimal digit at payload[X + at], or "no choice".
    fn hex_digit(&mut self, at: u32, tag: u8) {
        self.op(LOAD_BYTE_X, at);
        self.branch(IF_ABOVE, u32::from(b'9'), Label::Letter(tag), Label::Next);
        self.branch(IF_AT_LEAST, u32::from(b'0'), Label::Digit(tag), Label::NoChoice);
        self.label(Label::Letter(tag));
        self.op(OR, 0x20); // To lower case; nothing outside A-F lands in a-f by it.
        self.branch(IF_ABOVE, u32::from(b'f'), Label::NoChoice, Label::Next);
        self.branch(IF_AT_LEAST, u32::from(b'a'), Label::Next, Label::NoChoice);
        self.op(SUBTRACT, u32::from(b'a') - 10);
        self.branch(JUMP, 0, Label::Nibble(tag), Label::Next);
        self.label(Label::Digit(tag));
        self.op(SUBTRACT, u32::from(b'0'));
        self.label(Label::Nibble(tag));
    }
}

/// The program for a group of `shards` sockets.
pub(crate) fn program(shards: usize) -> Vec<sock_filter> {
    assert!((2..=SHARDS_MAX).contains(&shards));
    let comma = u32::from(b',');
    let mut p = Assembler::default();
    p.op(LOAD_LENGTH, 0);
    p.branch(IF_AT_LEAST, 3, Label::Next, Label::NoChoice);
    p.op(LOAD_BYTE, 0);
    p.branch(IF_AT_LEAST, 0x80, Label::Binary, Label::Next);
    p.branch(IF_EQUAL, comma, Label::StartsAt1, Label::Next);
    p.op(LOAD_BYTE, 1);
    p.branch(IF_EQUAL, comma, Label::Next, Label::NoChoice);
    p.op(X_CONSTANT, 2);
    p.branch(JUMP, 0, Label::Text, Label::Next);
    p.label(Label::StartsAt1);
    p.op(X_CONSTANT, 1);
    p.label(Label::Text); // X = start of the id. The length is at least 3, so length - X cannot wrap.
    p.op(LOAD_LENGTH, 0);
    p.op(SUBTRACT_X, 0);
    p.branch(IF_AT_LEAST, 9, Label::Next, Label::NoChoice);
    p.op(LOAD_BYTE_X, 8);
    p.branch(IF_EQUAL, comma, Label::IdEnds, Label::Next);
    p.op(LOAD_LENGTH, 0);
    p.op(SUBTRACT_X, 0);
    p.branch(IF_AT_LEAST, 17, Label::Next, Label::NoChoice);
    p.op(LOAD_BYTE_X, 16);
    p.branch(IF_EQUAL, comma, Label::Next, Label::NoChoice);
    p.op(A_FROM_X, 0);
    p.op(ADD, 8);
    p.op(X_FROM_A, 0);
    p.label(Label::IdEnds); // X + 8 is the comma behind the id.
    p.hex_digit(6, 0);
    p.op(SHIFT_LEFT, 4);
    p.op(STORE_MEMORY, 0);
    p.hex_digit(7, 1);
    p.op(STORE_MEMORY, 1);
    p.op(X_FROM_MEMORY, 1);
    p.op(LOAD_MEMORY, 0);
    p.op(OR_X, 0);
    p.branch(JUMP, 0, Label::Choose, Label::Next);
    p.label(Label::Binary);
    p.op(LOAD_BYTE, 2);
    p.label(Label::Choose);
    p.op(MODULO, u32::try_from(shards).expect("at most SHARDS_MAX"));
    p.op(RETURN_A, 0);
    p.label(Label::NoChoice);
    p.op(RETURN, NO_CHOICE);
    p.finish()
}

/// Attaches the program to the reuseport group `socket` belongs to. Exactly once per group, after all have
/// been bound.
pub(super) fn attach(socket: BorrowedFd<'_>, shards: usize) -> Result<(), OsError> {
    let mut program = program(shards);
    let length = u16::try_from(program.len()).expect("the program is short");
    let fprog = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("a small struct");
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // SAFETY: `fprog` and the `program` it points to are live for the call, which copies both; `size` is its
    // size.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const fprog).cast(), size) } < 0;
    if failed {
        Err(OsError::last("setsockopt SO_ATTACH_REUSEPORT_CBPF", "set steering = off"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::sys::socket::{ShardSocket, SocketOptions, bind_group};
    use crate::wire::route::route;
    use std::net::UdpSocket;
    use std::sync::Arc;

    #[test]
    fn the_program_is_short() {
        assert_eq!(program(2).len(), 52);
    }

    fn random_row(random: &mut impl FnMut(usize) -> usize) -> Vec<u8> {
        const CHARACTERS: &[u8] = b"0123456789abcdefABCDEF0123456789abcdefABCDEFgG\":@`/,\x00\xe1";
        let mut row = match random(8) {
            0 => vec![0x80 | random(128) as u8, random(256) as u8],
            1 => vec![],
            2 => vec![b'1', b'2', b','],
            3..=5 => vec![b','],
            _ => vec![b'1', b','],
        };
        let id = [0, 1, 2, 6, 7, 8, 8, 8, 8, 9, 15, 16, 16, 16, 16, 17, 20][random(17)];
        let quoted = random(10) == 0;
        let clean = random(3) > 0;
        for at in 0..id {
            let kind = if clean { random(44) } else { random(CHARACTERS.len()) };
            row.push(if quoted && (at == 0 || at + 1 == id) { b'"' } else { CHARACTERS[kind] });
        }
        if random(8) > 0 {
            row.extend_from_slice(b",4,0,x");
        }
        row.truncate(row.len() - if random(20) == 0 { random(row.len().max(1)) } else { 0 });
        row
    }

    /// Which socket has a datagram.
    fn chosen(sockets: &[Arc<ShardSocket>]) -> usize {
        let mut fds: Vec<_> = sockets
            .iter()
            .map(|socket| libc::pollfd { fd: socket.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        // SAFETY: `fds` is a live array of that many pollfd.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, 10_000) };
        assert_eq!(ready, 1, "one datagram, one socket");
        let index = fds.iter().position(|fd| fd.revents != 0).unwrap();
        let mut byte = [0u8; 64];
        // SAFETY: the buffer is live and as long as said.
        let got = unsafe { libc::recv(fds[index].fd, byte.as_mut_ptr().cast(), 64, libc::MSG_DONTWAIT) };
        assert!(got >= 0);
        index
    }

    /// Trap 8.
    #[test]
    fn the_kernel_chooses_what_the_twin_says() {
        for shards in [2usize, 4] {
            let options = SocketOptions { shards, steering: true, ..SocketOptions::loopback() };
            let group = bind_group(&options).unwrap();
            assert!(group.steered);
            // Rows without a choice go by the hash of addresses and ports: several senders show that it
            // spreads. By chance all 32 go to one of two sockets once in 2^31 times.
            let senders: Vec<_> = (0..32).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            let mut state = 0x9e37_79b9_7f4a_7c15u64 + shards as u64;
            let mut random = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as usize % n
            };
            let (mut steered, mut short) = (vec![0; shards], vec![0; shards]);
            for turn in 0..10_000 {
                let row = random_row(&mut random);
                senders[turn % senders.len()].send_to(&row, group.local_addr).unwrap();
                let socket = chosen(&group.sockets);
                match route(&row) {
                    Some(route) => {
                        let text = String::from_utf8_lossy(&row);
                        assert_eq!(socket, usize::from(route) % shards, "{text:?} route {route}");
                        steered[socket] += 1;
                    }
                    None => short[socket] += usize::from(row.len() < 10),
                }
            }
            assert!(steered.iter().all(|&count| count > 500), "{steered:?}");
            assert!(
                short.iter().filter(|&&count| count > 0).count() > 1,
                "short rows all on one socket: {short:?}"
            );
        }
    }
}
