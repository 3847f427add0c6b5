//! Tests only: a private network namespace, gone when its thread ends.

use std::process::Command;

/// Runs `test` on a thread of its own in a fresh network namespace after the given `ip` commands. False if
/// this process may not do that.
pub(crate) fn in_private_netns(ip_commands: &[&str], test: impl FnOnce() + Send) -> bool {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes no pointers; it changes this thread only.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return false;
            }
            for command in ip_commands {
                match Command::new("ip").args(command.split_whitespace()).output() {
                    Ok(output) if output.status.success() => {}
                    Ok(output) => panic!("ip {command}: {}", String::from_utf8_lossy(&output.stderr)),
                    Err(_) => return false,
                }
            }
            test();
            true
        });
        match thread.join() {
            Ok(ran) => ran,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
