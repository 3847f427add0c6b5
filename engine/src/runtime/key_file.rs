//! [`KeyFile`]: keys from a file that belongs to who runs the engine, or to root, and that nobody else may have permissions
//! for.

use crate::error::ConfigError;
use crate::proto::keys::{Cipher, PreSharedKeys, TEXT_BYTES_MAX};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// Permissions of others than the owner.
const MODE_OF_OTHERS: u32 = 0o077;

/// A file, and the keys that were in it last.
#[derive(Debug)]
pub(crate) struct KeyFile {
    path: PathBuf,
    keys: PreSharedKeys,
    /// Held from reading to replacing: of two who do so at once, none puts back what the other one found gone.
    reload: Mutex<()>,
}

impl KeyFile {
    /// Reads it.
    pub(crate) fn open(path: &Path, cipher: Cipher) -> Result<Self, ConfigError> {
        let keys = PreSharedKeys::parse(&read(path)?, cipher).map_err(|error| of(path, &error.problem))?;
        Ok(Self { path: path.to_owned(), keys, reload: Mutex::default() })
    }

    /// What was in it.
    pub(crate) const fn keys(&self) -> &PreSharedKeys {
        &self.keys
    }

    /// Reads it again; after an error the keys are those from before.
    pub(crate) fn reload(&self) -> Result<(), ConfigError> {
        let _alone = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.replace(&read(&self.path)?).map_err(|error| of(&self.path, &error.problem))
    }
}

fn of(path: &Path, problem: &str) -> ConfigError {
    ConfigError { option: "key_file", problem: format!("{}: {problem}", path.display()) }
}

/// What is in the file; cleared when it is dropped.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let cannot = |error: io::Error| of(path, &format!("cannot read it: {error}"));
    // Whoever opens a pipe would wait for its other end; a terminal would become the process's own.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
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
    // Who owns it may give himself, and others, any permission.
    let (owner, own) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != own && owner != 0 {
        let shown = path.display();
        return Err(of(
            path,
            &format!("user {owner} owns it, and this process runs as user {own}: chown {own} {shown}"),
        ));
    }
    let text = read_all(&file).map_err(cannot)?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(of(path, &format!("is longer than {TEXT_BYTES_MAX} bytes")));
    }
    if !is_whole(&metadata, &file.metadata().map_err(cannot)?, text.len()) {
        return Err(of(
            path,
            "was written while it was read: replace it by another file (mv), and try again",
        ));
    }
    Ok(text)
}

/// Nobody wrote the file meanwhile: a line that is cut off may be a valid one, for more peers than were meant.
fn is_whole(before: &Metadata, after: &Metadata, bytes_read: usize) -> bool {
    let times = |of: &Metadata| (of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
    before.len() == bytes_read as u64 && after.len() == before.len() && times(before) == times(after)
}

/// At most one byte more than there may be, into memory that does not move: what it left behind would not be cleared.
fn read_all(mut file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_that_is_written_meanwhile_is_not_whole() {
        let path = std::env::temp_dir().join(format!("udp-plus-key-file-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(b"1 KEY 10.0.0.0/24\n").unwrap();
        let before = file.metadata().unwrap();
        assert!(is_whole(&before, &file.metadata().unwrap(), 18));
        assert!(!is_whole(&before, &before, 6), "cut off");
        // Another time, even if a clock that is read once a tick does not show it.
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert!(!is_whole(&before, &file.metadata().unwrap(), 18));
        file.write_all(b"2 KEY\n").unwrap();
        assert!(!is_whole(&before, &file.metadata().unwrap(), 18));
        std::fs::remove_file(path).unwrap();
    }
}
