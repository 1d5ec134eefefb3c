//! The exclusive lock of the data folder (H42): one server process holds it, a second one is told who.
//!
//! The operating system's file lock, so that it is gone with its process however that ends. The text in
//! the file is only for the message. Rejected: a file with a process id alone, which outlives its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use provisor_core::Timestamp;

/// The name of the file in the data folder.
const FILE: &str = "lock";
/// Longest text of a holder that is shown.
const TEXT_LIMIT: u64 = 200;

/// Why the folder could not be locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("the data folder {} is held by {holder}", path.display())]
    Held {
        /// The folder.
        path: PathBuf,
        /// Process id and start, as the holder wrote them.
        holder: String,
    },
    /// There is no room for the lock file.
    #[error("the data folder {} cannot be locked: {reason}", path.display())]
    Full {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The lock file cannot be used.
    #[error("the data folder {} cannot be locked: {reason}", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// The lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

impl DataLock {
    /// Locks a folder, which is made where it is missing.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let unusable = |e: std::io::Error| match (folder.to_owned(), e.to_string(), e.kind()) {
            (path, reason, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => LockError::Full { path, reason },
            (path, reason, _) => LockError::Unusable { path, reason },
        };
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let path = folder.join(FILE);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { path: folder.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        write_holder(&mut file).map_err(unusable)?;
        Ok(Self { _file: file })
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    // The holder may be just about to write its name.
    let read = file.take(TEXT_LIMIT).read_to_string(&mut text);
    let text = text.trim();
    if read.is_err() || text.is_empty() { "another process".to_owned() } else { text.to_owned() }
}

#[allow(clippy::disallowed_methods)] // Before there is a store, and only for people to read.
fn write_holder(file: &mut File) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(0));
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "process {} since {}", std::process::id(), Timestamp(now / 1_000_000 * 1_000_000).to_rfc3339())?;
    file.sync_all()
}
