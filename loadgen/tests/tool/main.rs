//! The tool from outside, as a process.
#![expect(clippy::panic, reason = "helpers of tests fail tests")]

mod ab;
mod bench;
mod doctor;
mod impair;
mod keys;
mod peers;
mod plain;
mod send_recv;
mod serve;
mod suite;
mod support;
