//! What the engine is tested against. Feature `sim`; nothing here is part of the engine.
//!
//! `v1_peer` is a model of the original toolkit without I/O, `v1_host` runs it on a real socket, `relay` is a bad network
//! between real sockets, `python` is what the original inherits from Python.

#[cfg(test)]
pub(crate) mod golden;
pub mod python;
pub mod v1_peer;
