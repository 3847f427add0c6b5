//! [`KeyFile`]: keys from a file that nobody but its owner may have permissions for.

use crate::error::ConfigError;
use crate::proto::keys::{Cipher, PreSharedKeys, TEXT_BYTES_MAX};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Permissions of others than the owner.
const MODE_OF_OTHERS: u32 = 0o077;

/// A file, and the keys that were in it last.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    keys: PreSharedKeys,
}

impl KeyFile {
    /// Reads it.
    pub(crate) fn open(path: &Path, cipher: Cipher) -> Result<Self, ConfigError> {
        let keys = PreSharedKeys::parse(&read(path)?, cipher).map_err(|error| of(path, &error.problem))?;
        Ok(Self { path: path.to_owned(), keys })
    }

    /// What was in it.
    pub(crate) const fn keys(&self) -> &PreSharedKeys {
        &self.keys
    }

    /// Reads it again; after an error the keys are those from before.
    pub(crate) fn reload(&self) -> Result<(), ConfigError> {
        self.keys.replace(&read(&self.path)?).map_err(|error| of(&self.path, &error.problem))
    }
}

fn of(path: &Path, problem: &str) -> ConfigError {
    ConfigError { option: "key_file", problem: format!("{}: {problem}", path.display()) }
}

/// What is in the file; cleared when it is dropped.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let cannot = |error: io::Error| of(path, &format!("cannot read it: {error}"));
    // Whoever opens a pipe would wait for its other end.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(cannot)?;
    // Asked of what was opened: the name may mean another file meanwhile.
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        return Err(of(path, "is no regular file"));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & MODE_OF_OTHERS != 0 {
        let shown = path.display();
        return Err(of(
            path,
            &format!("group or others have permissions for it (mode {mode:04o}): chmod 600 {shown}"),
        ));
    }
    let text = read_all(file).map_err(cannot)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(of(path, &format!("is longer than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// At most one byte more than there may be, into memory that does not move: what it left behind would not be cleared.
fn read_all(mut file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(vec![0; TEXT_BYTES_MAX + 1]);
    let mut bytes = 0;
    while bytes < text.len() {
        match file.read(&mut text[bytes..]) {
            Ok(0) => break,
            Ok(some) => bytes += some,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(bytes);
    Ok(text)
}
