//! See `loadgen/src/cli_fuzz.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| udp_plus_loadgen::cli_fuzz::run(input));
