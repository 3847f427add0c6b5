//! How commands fail, as exit statuses: 1 with the causes, 2 for bad usage.

use std::fmt;
use std::process::ExitCode;
use udp_plus::StartError;

/// Something about the command line cannot be meant.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] error.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// The status that `error` ends the process with.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    // An option the engine refuses is one the user gave.
    let refused = matches!(error.downcast_ref::<StartError>(), Some(StartError::Config(_)));
    ExitCode::from(if refused || error.is::<Usage>() { 2 } else { 1 })
}
