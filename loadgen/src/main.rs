//! `udp-plus`: the tool people run.
fn main() {}
