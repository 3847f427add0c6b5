//! Pinning a shard's thread to a core.

use super::error::OsError;
use core_affinity::CoreId;

/// The cores this process may run on, ascending. Empty if the kernel does not say.
pub(crate) fn cores() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread to `core`.
pub(crate) fn pin(core: usize) -> Result<(), OsError> {
    // The library indexes a bit set with the number: only those it named itself are safe to give back.
    if cores().contains(&core) && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    let hint = format!(
        "core {core} is not one this process may use ({:?}); see taskset -p or the cgroup's cpuset",
        cores()
    );
    Err(OsError::new("sched_setaffinity", libc::EINVAL, hint))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn pins_to_an_allowed_core_and_refuses_others() {
        std::thread::spawn(|| {
            let allowed = cores();
            let first = *allowed.first().expect("a thread runs on some core");
            pin(first).unwrap();
            assert_eq!(cores(), [first]);
            assert_eq!(pin(usize::MAX).unwrap_err().errno, libc::EINVAL);
        })
        .join()
        .unwrap();
    }
}
