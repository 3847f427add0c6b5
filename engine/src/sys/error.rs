//! One error type for what the kernel refused: what was tried, what it answered, what to do about it.

use std::borrow::Cow;
use std::io;

/// A system call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call} -> {} ({}): {hint}", errno_name(*errno), io::Error::from_raw_os_error(*errno))]
pub struct OsError {
    /// What was tried.
    pub call: &'static str,
    /// The kernel's answer.
    pub errno: i32,
    /// The likely cause and what to do.
    pub hint: Cow<'static, str>,
}

impl OsError {
    /// An error of `call` with a hint.
    pub(crate) fn new(call: &'static str, errno: i32, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { call, errno, hint: hint.into() }
    }

    /// The same from an [`io::Error`]; one without an errno counts as EIO.
    pub(crate) fn from_io(call: &'static str, error: &io::Error, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::new(call, error.raw_os_error().unwrap_or(libc::EIO), hint)
    }

    /// The calling thread's `errno`.
    pub(crate) fn last(call: &'static str, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::from_io(call, &io::Error::last_os_error(), hint)
    }
}

/// The calling thread's `errno` alone.
pub(crate) fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The symbol of an errno this engine is likely to meet.
pub(crate) fn errno_name(errno: i32) -> &'static str {
    match errno {
        libc::EPERM => "EPERM",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOSYS => "ENOSYS",
        libc::ENOTSOCK => "ENOTSOCK",
        libc::EMSGSIZE => "EMSGSIZE",
        libc::ENOPROTOOPT => "ENOPROTOOPT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETDOWN => "ENETDOWN",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ENOBUFS => "ENOBUFS",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ECANCELED => "ECANCELED",
        _ => "errno",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_tried_the_errno_and_what_to_do() {
        let text = OsError::new("bind", libc::EADDRINUSE, "stop the other process").to_string();
        assert_eq!(text, "bind -> EADDRINUSE (Address already in use (os error 98)): stop the other process");
    }
}
