//! See `engine/src/sim/fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| udp_plus::sim::fuzz::run("key_file", input));
