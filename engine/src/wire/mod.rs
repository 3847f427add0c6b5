//! Bytes <-> rows. Pure functions: no state, no clock, no I/O, no allocation.
//!
//! `csv` is the UDP-Plus v1 wire, `binary` the v2 wire; `route` is the user-space twin of the kernel's steering program;
//! `drop_reason` names every way a row can have no effect.

#[cfg_attr(
    not(feature = "internals"),
    allow(
        dead_code,
        unused_imports,
        reason = "the codec knows every frame; flows do not use all of them yet"
    )
)]
pub mod binary;
pub mod csv;
mod drop_reason;
pub mod route;

pub use drop_reason::DropReason;
