//! A copy of a database while it is in use, and its way back. What the restored store must do then is
//! [`crate::ops::restored`]'s.
//!
//! SQLite copies itself in one read transaction (`vacuum into`); writers go on beside it. Of PostgreSQL its own tools
//! make the copy: nobody knows better how, and a copy that any administrator can read is worth more than one of ours.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::driver::APPLICATION_ID;

/// Why a copy could not be made or taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Nothing is ever written over.
    #[error("{} is there already and is not written over", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It is not there, damaged, or not ours.
    #[error("{} is not a database of Provisor: {reason}", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk, or what is between it and us.
    #[error("{} cannot be written: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
}

/// Copies a SQLite database that may be in use to a new file, whole or not at all. Answers its size in bytes.
pub fn backup_sqlite(database: &Path, to: &Path) -> Result<u64, BackupError> {
    let connection = open(database)?;
    let part = part_of(to);
    refuse_existing(to)?;
    remove(&part)?;
    let name = part.to_str().ok_or_else(|| written(to, "its name is not UTF-8"))?;
    let copied = connection.execute("vacuum into ?1", [name]);
    if let Err(error) = copied {
        let _ = std::fs::remove_file(&part);
        return Err(written(to, error));
    }
    finish(&part, to)
}

/// What is being written for a file: of this process alone, so that two that write the same file never mix.
pub fn part_of(file: &Path) -> PathBuf {
    beside(file, &format!("part-{}", std::process::id()))
}

/// Gives a finished copy its name. One that somebody else has made meanwhile is not written over.
pub fn finish(part: &Path, to: &Path) -> Result<u64, BackupError> {
    let linked = std::fs::hard_link(part, to).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => BackupError::Exists { path: to.to_owned() },
        _ => written(to, e),
    });
    // By now both names are of one file, which a rename leaves alone: the first name goes below.
    let kept = linked.and_then(|()| keep(part, to));
    remove(part)?;
    kept
}

/// Puts a copy where the database was. The caller holds the folder's lock. What was there is moved aside when
/// `replace`, and answered.
pub fn restore_sqlite(copy: &Path, database: &Path, replace: bool, moment: i64) -> Result<Option<PathBuf>, BackupError> {
    check(copy)?;
    let there = database.exists();
    if there && !replace {
        return Err(BackupError::Exists { path: database.to_owned() });
    }
    let part = part_of(database);
    remove(&part)?;
    std::fs::copy(copy, &part).map_err(|e| written(&part, e))?;
    let aside = there.then(|| beside(database, &format!("before-restore-{moment}")));
    if let Some(aside) = &aside {
        std::fs::rename(database, aside).map_err(|e| written(aside, e))?;
    }
    for end in ["-wal", "-shm"] {
        let with = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        let moved =
            aside.as_ref().map_or_else(|| std::fs::remove_file(with(database)), |a| std::fs::rename(with(database), with(a)));
        if let Err(error) = moved.or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) }) {
            return Err(written(&with(database), error));
        }
    }
    keep(&part, database)?;
    Ok(aside)
}

fn open(database: &Path) -> Result<Connection, BackupError> {
    let wrong = |reason: String| BackupError::NotOurs { path: database.to_owned(), reason };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags).map_err(|e| wrong(e.to_string()))?;
    connection.busy_timeout(std::time::Duration::from_secs(30)).map_err(|e| wrong(e.to_string()))?;
    let mark: i64 = connection
        .query_row("select application_id from pragma_application_id", [], |row| row.get(0))
        .map_err(|e| wrong(e.to_string()))?;
    if mark == i64::from(APPLICATION_ID) { Ok(connection) } else { Err(wrong("it is of another program".to_owned())) }
}

fn check(copy: &Path) -> Result<(), BackupError> {
    let connection = open(copy)?;
    let wrong = |reason: String| BackupError::NotOurs { path: copy.to_owned(), reason };
    let told: String = connection.query_row("pragma quick_check(1)", [], |row| row.get(0)).map_err(|e| wrong(e.to_string()))?;
    if told == "ok" { Ok(()) } else { Err(wrong(format!("it is damaged: {told}"))) }
}

/// `provisor.db` with another ending: `provisor.db.part-7`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}.{ending}", path.display()))
}

fn written(path: &Path, reason: impl std::fmt::Display) -> BackupError {
    BackupError::Write { path: path.to_owned(), reason: reason.to_string() }
}

fn refuse_existing(path: &Path) -> Result<(), BackupError> {
    if path.exists() { Err(BackupError::Exists { path: path.to_owned() }) } else { Ok(()) }
}

fn remove(part: &Path) -> Result<(), BackupError> {
    match std::fs::remove_file(part) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(written(part, e)),
        _ => Ok(()),
    }
}

/// Gives a finished file its name, on the disk and for its owner alone.
fn keep(part: &Path, to: &Path) -> Result<u64, BackupError> {
    let kept = || -> std::io::Result<u64> {
        #[cfg(unix)]
        std::fs::set_permissions(part, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let file = File::open(part)?;
        file.sync_all()?;
        let size = file.metadata()?.len();
        std::fs::rename(part, to)?;
        let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
        Ok(size)
    };
    kept().map_err(|e| written(to, e))
}
