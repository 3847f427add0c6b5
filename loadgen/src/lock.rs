//! One measurement at a time on a machine: two at once measure each other.

use crate::stop::Stop;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

/// The file whose lock stands for the machine.
pub const PATH: &str = "/tmp/udp-plus-measure.lock";

/// How often it looks while it waits.
const TICK: Duration = Duration::from_millis(20);

/// The right to measure, until dropped.
#[derive(Debug)]
pub struct MeasureLock(#[expect(dead_code, reason = "closing the file is what gives the lock back")] File);

impl MeasureLock {
    /// Waits until nobody else measures; `None`: someone asked to stop before.
    pub fn acquire(stop: &Stop) -> Result<Option<Self>> {
        // Someone else's file: reading is enough to lock it.
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(PATH);
        let file = open.or_else(|_| File::open(PATH)).with_context(|| format!("cannot open {PATH}"))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self(file))),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {PATH}"));
                }
            }
            if !told {
                eprintln!("waiting for another measurement on this machine to end ({PATH})");
                told = true;
            }
            if stop.wait_for(TICK) {
                return Ok(None);
            }
        }
    }
}
