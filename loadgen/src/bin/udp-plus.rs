//! `udp-plus`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    udp_plus_loadgen::main()
}
