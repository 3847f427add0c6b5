//! What this machine can do, found out by doing it: versions lie (vendors backport, sandboxes forbid).

use super::error::errno_name;
use super::mmsg::Mmsg;
use super::ring::{Ring, RingOptions};
use super::socket::{ShardSocket, SocketOptions, bind_group};
use super::wake::Wake;
use crate::sys::clock::Clock;
use crate::sys::error::OsError;
use crate::train::{TRAIN_SEGMENTS_SAFE, TrainBatch};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Segments per train newer kernels take.
const SEGMENTS_MAX: usize = 128;
/// How long a datagram to oneself may take.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why io_uring cannot be used here.
#[derive(Clone, Debug)]
pub struct UringUnavailable {
    /// The step that failed.
    pub error: OsError,
    /// The likely cause, with the evidence for it.
    pub cause: String,
}

impl fmt::Display for UringUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, errno) = (self.error.call, errno_name(self.error.errno));
        write!(
            f,
            "io_uring unavailable: {call} -> {errno} ({}). Using driver mmsg: same protocol and features, more system \
             calls. Allow io_uring_setup, io_uring_enter and io_uring_register, or silence this with driver = mmsg; \
             driver = uring makes it a hard error.",
            self.cause
        )
    }
}

impl std::error::Error for UringUnavailable {}

/// Builds a ring, lends it a buffer, and receives a datagram from itself. Takes about a millisecond; leaves
/// nothing.
pub(crate) fn probe_uring() -> Result<(), UringUnavailable> {
    receive_from_myself().map_err(|error| UringUnavailable { cause: likely_cause(&error), error })
}

fn receive_from_myself() -> Result<(), OsError> {
    let socket = loopback_socket()?;
    let to = socket.local_addr();
    let options = RingOptions { cq_entries: 8, recv_buffers: 1, recv_buffer_bytes: 2048 };
    let mut ring = Ring::new(socket, Arc::new(Wake::new()?), &options)?;
    let mut failure = None;
    ring.transmit(&one_train(to, 1), |_, errno| failure = Some(errno));
    if let Some(errno) = failure {
        return Err(OsError::new("io_uring sendmsg", errno, "use driver = mmsg"));
    }
    let deadline = Clock.now() + LOOPBACK_TIMEOUT;
    while Clock.now() < deadline {
        ring.fetch();
        if ring.next_arrived(|datagram| datagram.is_ok_and(|datagram| datagram.decode().is_ok()))
            == Some(true)
        {
            return Ok(());
        }
        ring.park(Some(deadline));
    }
    Err(OsError::new("io_uring multishot recvmsg", libc::ETIMEDOUT, "use driver = mmsg"))
}

fn loopback_socket() -> Result<Arc<ShardSocket>, OsError> {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = SocketOptions {
        bind,
        shards: 1,
        rcvbuf_bytes: 0,
        sndbuf_bytes: 0,
        gro: false,
        steering: false,
        v6_only: false,
        whole_datagrams: false,
    };
    Ok(bind_group(&options)?.sockets.remove(0))
}

/// A train of one-byte segments to `to`.
fn one_train(to: SocketAddr, segments: usize) -> TrainBatch {
    let mut batch = TrainBatch::new(segments, 1, segments);
    batch.begin(to, None);
    for _ in 0..segments {
        let row = batch.push(0, 1);
        row.expect("the batch was made for them").fill(b'.');
    }
    batch
}

fn likely_cause(error: &OsError) -> String {
    let release = read_line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of unknown version".into());
    match error.errno {
        libc::ENOSYS => format!("Linux {release} is built without io_uring, or a sandbox hides it"),
        libc::EPERM => match read_line("/proc/sys/kernel/io_uring_disabled").as_deref() {
            None => {
                "there is no sysctl kernel.io_uring_disabled, so most likely a container's seccomp profile"
                    .into()
            }
            Some("0") => "kernel.io_uring_disabled=0, so most likely a container's seccomp profile".into(),
            Some(level) => format!(
                "kernel.io_uring_disabled={level}; allow it with sysctl -w kernel.io_uring_disabled=0"
            ),
        },
        libc::EINVAL => format!("needs Linux 6.1 or newer, this is {release}"),
        libc::EADDRNOTAVAIL => "loopback is down here: ip link set lo up".into(),
        libc::ENOMEM => "the memory limit of the cgroup or RLIMIT_MEMLOCK (ulimit -l) is reached".into(),
        _ => error.hint.to_string(),
    }
}

fn read_line(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Segments a train may have here: 128, or 64 before about Linux 6.9. Probed once, on loopback, without
/// io_uring.
pub(crate) fn gso_segments_max() -> usize {
    static PROBED: OnceLock<usize> = OnceLock::new();
    *PROBED.get_or_init(|| if sends_trains_of(SEGMENTS_MAX) { SEGMENTS_MAX } else { TRAIN_SEGMENTS_SAFE })
}

fn sends_trains_of(segments: usize) -> bool {
    let attempt = || -> Result<bool, OsError> {
        let socket = loopback_socket()?;
        let batch = one_train(socket.local_addr(), segments);
        let mut left = true;
        let mut sender = Mmsg::new(socket, Arc::new(Wake::new()?), 1, 1)?;
        sender.transmit(&batch, |_, _| left = false);
        Ok(left)
    };
    attempt().unwrap_or(false)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::test_support::{deny_syscall, run_in_child};

    const CHILD: &str = "UDP_PLUS_TEST_SECCOMP";

    #[test]
    fn this_machine_is_probed_by_doing() {
        match probe_uring() {
            Ok(()) => {}
            Err(error) => {
                println!("{error}");
                crate::test_support::skip("io_uring");
            }
        }
        assert!([64, 128].contains(&gso_segments_max()));
        assert!(sends_trains_of(gso_segments_max()));
        assert!(!sends_trains_of(gso_segments_max() + 1));
    }

    /// Not a test of its own: the child of the one below, when the variable names an errno.
    #[test]
    fn seccomp_child() {
        let Ok(errno) = std::env::var(CHILD) else { return };
        deny_syscall(libc::SYS_io_uring_setup, errno.parse().unwrap());
        println!("verdict: {}", probe_uring().unwrap_err());
        // The other driver does not need what was taken away.
        assert!(sends_trains_of(2));
        println!("fallback works");
    }

    fn verdict_under(errno: i32) -> String {
        let text = run_in_child("sys::caps::tests::seccomp_child", CHILD, &errno.to_string());
        assert!(text.contains("fallback works"), "{text}");
        text.lines().find_map(|line| line.split_once("verdict: ")).unwrap().1.to_owned()
    }

    #[test]
    fn a_seccomp_profile_is_recognised_and_explained() {
        let eperm = verdict_under(libc::EPERM);
        assert!(eperm.starts_with("io_uring unavailable: io_uring_setup -> EPERM ("), "{eperm}");
        let enabled = read_line("/proc/sys/kernel/io_uring_disabled").is_none_or(|level| level == "0");
        assert_eq!(eperm.contains("seccomp profile"), enabled, "{eperm}");
        assert!(eperm.contains("Using driver mmsg") && eperm.contains("driver = uring"), "{eperm}");
        let enosys = verdict_under(libc::ENOSYS);
        assert!(enosys.starts_with("io_uring unavailable: io_uring_setup -> ENOSYS ("), "{enosys}");
        assert!(enosys.contains("without io_uring"), "{enosys}");
    }

    #[test]
    fn each_refusal_has_its_cause() {
        let cause = |errno| likely_cause(&OsError::new("io_uring_setup", errno, "hint"));
        assert!(cause(libc::EINVAL).contains("needs Linux 6.1"));
        assert!(cause(libc::ENOMEM).contains("ulimit -l"));
        assert!(cause(libc::EADDRNOTAVAIL).contains("lo up"));
        assert_eq!(cause(libc::EMFILE), "hint");
    }
}
