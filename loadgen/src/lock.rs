//! One measurement at a time on a machine: two at once measure each other.

use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};

/// The file whose lock stands for the machine.
pub const PATH: &str = "/tmp/udp-plus-measure.lock";

/// The right to measure, until dropped.
#[derive(Debug)]
pub struct MeasureLock(#[expect(dead_code, reason = "closing the file is what gives the lock back")] File);

impl MeasureLock {
    /// Waits until nobody else measures.
    pub fn acquire() -> Result<Self> {
        // Someone else's file: reading is enough to lock it.
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(PATH);
        let file = open.or_else(|_| File::open(PATH)).with_context(|| format!("cannot open {PATH}"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("waiting for another measurement on this machine to end ({PATH})");
                file.lock().with_context(|| format!("cannot lock {PATH}"))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {PATH}"));
            }
        }
        Ok(Self(file))
    }
}
