//! What the two SQLite drivers share: how a connection is opened and migrated, and how one job runs on it.
//!
//! Futures of an operation over SQLite are always ready, so that one poll drives them. An operation that
//! waits for anything but its transaction is a fault of ours and is refused, which keeps all waiting out of
//! transactions.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use provisor_core::Timestamp;
use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};

use super::{Job, Results};
use crate::op::OpError;
use crate::tx::{Answer, Query, RawTx, Stmt, Tx};
use crate::value::{Row, Val};

/// In the header of our files, so that somebody else's database is not taken for ours: "Pvsr".
pub(crate) const APPLICATION_ID: i32 = 0x5076_7372;
/// Statements that each connection keeps prepared; more than there are.
const CACHED_STATEMENTS: usize = 512;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The migrations, in order; forwards only. `migrations_are_all_listed` compares with the folder.
const MIGRATIONS: &[(&str, &str)] = &[
    ("V1__first", include_str!("../../migrations/sqlite/V1__first.sql")),
    ("V2__roles", include_str!("../../migrations/sqlite/V2__roles.sql")),
    ("V3__drift", include_str!("../../migrations/sqlite/V3__drift.sql")),
    ("V4__extra_launches", include_str!("../../migrations/sqlite/V4__extra_launches.sql")),
    ("V5__learned", include_str!("../../migrations/sqlite/V5__learned.sql")),
    ("V6__gate", include_str!("../../migrations/sqlite/V6__gate.sql")),
    ("V7__balance", include_str!("../../migrations/sqlite/V7__balance.sql")),
];

/// Why a store could not be opened: what and where, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The folder is missing, not a folder or cannot be written.
    #[error("the database folder {} cannot be used: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The folder is on a network file system, where locks and commits cannot be trusted (H42).
    #[error("the database folder {} is on a network file system ({kind}); use a local disk", path.display())]
    NetworkFileSystem {
        /// The folder.
        path: PathBuf,
        /// Its type of file system.
        kind: String,
    },
    /// The disk is full.
    #[error("the disk of {} is full: {reason}", path.display())]
    Full {
        /// The file or folder.
        path: PathBuf,
        /// What could not be done.
        reason: String,
    },
    /// The file is no database.
    #[error("{} is not a database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is a database of another program.
    #[error("{} is a database of another program", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// A later version of Provisor has migrated it.
    #[error("{} has schema version {found}, but this version of Provisor knows only {known}; use the newer version", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The latest version that we know.
        known: i64,
    },
    /// The write-ahead log cannot be used there, so that commits would not be durable (H42).
    #[error("{} cannot be opened with a write-ahead log (its journal mode is {found})", path.display())]
    NotDurable {
        /// The file.
        path: PathBuf,
        /// The journal mode that the database chose.
        found: String,
    },
    /// A migration failed.
    #[error("{} could not be migrated: {reason}", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
    /// A PostgreSQL database could not be opened.
    #[error(transparent)]
    Postgres(#[from] super::postgres::PostgresError),
    /// Anything else that the database says.
    #[error("{} could not be opened: {reason}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The database's words.
        reason: String,
    },
}

/// A connection for the writer: migrated, durable.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(|e| open_error(path, &e))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|e| open_error(path, &e))?;
    check_owner(&connection, path)?;
    let found: String =
        connection.query_row("pragma journal_mode = wal", [], |row| row.get(0)).map_err(|e| open_error(path, &e))?;
    if found != "wal" {
        return Err(OpenError::NotDurable { path: path.to_owned(), found });
    }
    set_up(&connection).map_err(|e| open_error(path, &e))?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|e| open_error(path, &e))?;
    set_up(&connection).map_err(|e| open_error(path, &e))?;
    connection.execute_batch("pragma query_only = on").map_err(|e| open_error(path, &e))?;
    Ok(connection)
}

/// A database in memory, migrated.
pub(super) fn open_memory() -> Result<Connection, OpenError> {
    let path = Path::new(":memory:");
    let mut connection = Connection::open_in_memory().map_err(|e| open_error(path, &e))?;
    set_up(&connection).map_err(|e| open_error(path, &e))?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

/// The time of the last event: the store's clock never begins before it (H40).
pub(super) fn last_time(connection: &Connection) -> Timestamp {
    let last = connection.query_row("select at from event order by position desc limit 1", [], |row| row.get(0));
    Timestamp(last.unwrap_or(0))
}

fn set_up(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Why: else a bound value that may matter to the plan makes SQLite prepare the statement anew for each value.
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // Why 4,000 pages: fewer checkpoints under load, 16 MB of log at most between them.
    connection.execute_batch(
        "pragma synchronous = full; pragma fullfsync = on; pragma checkpoint_fullfsync = on; pragma foreign_keys = on;
         pragma trusted_schema = off; pragma temp_store = memory; pragma cache_size = -32768;
         pragma wal_autocheckpoint = 4000; pragma journal_size_limit = 67108864;",
    )
}

/// Refuses a database that has tables but not our mark.
fn check_owner(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|e| open_error(path, &e));
    let mark = ask("select application_id from pragma_application_id")?;
    let tables = ask("select count(*) from sqlite_schema")?;
    if mark == i64::from(APPLICATION_ID) {
        return Ok(());
    }
    if mark != 0 || tables > 0 {
        return Err(OpenError::NotOurs { path: path.to_owned() });
    }
    connection.execute_batch(&format!("pragma application_id = {APPLICATION_ID}")).map_err(|e| open_error(path, &e))
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |e: refinery::Error| {
        let (path, reason) = (path.to_owned(), one_line(&e.to_string()));
        let full = match e.kind() {
            refinery::error::Kind::Connection(_, cause) => cause.downcast_ref().is_some_and(is_full),
            _ => false,
        };
        if full {
            OpenError::Full { path, reason: "its schema could not be made".to_owned() }
        } else {
            OpenError::Migration { path, reason }
        }
    };
    let listed: Result<Vec<_>, _> = MIGRATIONS.iter().map(|(name, sql)| refinery::Migration::unapplied(name, sql)).collect();
    let listed = listed.map_err(failed)?;
    let known = listed.iter().map(|m| i64::from(m.version())).max().unwrap_or(0);
    let has_history = "select count(*) from sqlite_schema where name = 'refinery_schema_history'";
    let history: i64 = connection.query_row(has_history, [], |row| row.get(0)).map_err(|e| open_error(path, &e))?;
    if history > 0 {
        let last = "select coalesce(max(version), 0) from refinery_schema_history";
        let found: i64 = connection.query_row(last, [], |row| row.get(0)).map_err(|e| open_error(path, &e))?;
        if found > known {
            return Err(OpenError::Newer { path: path.to_owned(), found, known });
        }
    }
    refinery::Runner::new(&listed).set_abort_divergent(true).run(connection).map_err(failed)?;
    Ok(())
}

/// Also where it is the index of the log that finds no room.
fn is_full(error: &rusqlite::Error) -> bool {
    let no_index = |e: &rusqlite::ffi::Error| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || error.sqlite_error().is_some_and(no_index)
}

pub(super) fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    if is_full(error) {
        return OpenError::Full { path, reason: "it could not be opened".to_owned() };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::NotADatabase { path },
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            OpenError::Folder { path, reason: one_line(&error.to_string()) }
        }
        _ => OpenError::Database { path, reason: one_line(&error.to_string()) },
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A transaction on a connection. The caller begins and ends it.
struct LiteTx<'c> {
    connection: &'c mut Connection,
    now: Timestamp,
}

/// Runs one job, or several that join, within the transaction that is open on `connection`.
pub(super) fn perform(connection: &mut Connection, jobs: &[&dyn Job], now: Timestamp) -> Result<Results, OpError> {
    let mut raw = LiteTx { connection, now };
    let name = jobs.first().map_or("", |job| job.name());
    // Why caught: one operation's fault must not take the writer away from all others.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut tx = Tx::new(&mut raw);
        let mut future = std::pin::pin!(super::run_unit(jobs, &mut tx));
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => Err(OpError::Corrupt(format!("operation {name} waits for more than its transaction"))),
        }
    }));
    outcome.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
        Err(OpError::Corrupt(format!("operation {name} panicked: {}", text.unwrap_or("without a text"))))
    })
}

/// The same for one job.
pub(super) fn perform_one(connection: &mut Connection, job: &dyn Job, now: Timestamp) -> Result<(), OpError> {
    perform(connection, &[job], now).map(drop)
}

/// Runs a fixed statement of ours, such as `begin immediate`.
pub(super) fn control(connection: &Connection, text: &str) -> Result<(), rusqlite::Error> {
    connection.prepare_cached(text)?.execute([]).map(drop)
}

pub(super) fn database(error: &rusqlite::Error) -> OpError {
    OpError::Database(one_line(&error.to_string()))
}

/// What a failed commit means. A refusal (a broken constraint, a lock) stores nothing, nor does a full disk: what
/// makes a commit of the pages is written last. After another I/O error the commit may be in the log and come back
/// with a recovery.
pub(super) fn commit_error(error: &rusqlite::Error) -> OpError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::ConstraintViolation
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ReadOnly
            | ErrorCode::DiskFull,
        ) => database(error),
        _ => OpError::Unknown(one_line(&error.to_string())),
    }
}

/// Takes back whatever is left of a transaction that failed with `error`.
pub(super) fn abandon(connection: &Connection, error: OpError) -> OpError {
    if connection.is_autocommit() {
        return error;
    }
    control(connection, "rollback").map_or_else(|e| OpError::Unknown(one_line(&e.to_string())), |()| error)
}

fn bind(statement: &mut CachedStatement<'_>, params: &[Val]) -> Result<(), rusqlite::Error> {
    for (index, value) in params.iter().enumerate() {
        match value {
            Val::Null => statement.raw_bind_parameter(index + 1, rusqlite::types::Null)?,
            Val::Int(number) => statement.raw_bind_parameter(index + 1, number)?,
            Val::Text(text) => statement.raw_bind_parameter(index + 1, text.as_str())?,
        }
    }
    Ok(())
}

fn value(found: ValueRef<'_>) -> Result<Val, OpError> {
    match found {
        ValueRef::Null => Ok(Val::Null),
        ValueRef::Integer(number) => Ok(Val::Int(number)),
        ValueRef::Text(bytes) => {
            std::str::from_utf8(bytes).map(|text| Val::Text(text.to_owned())).map_err(|e| OpError::Corrupt(e.to_string()))
        }
        other => Err(OpError::Corrupt(format!("a column holds {}", other.data_type()))),
    }
}

impl LiteTx<'_> {
    fn exec_now(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<u64, rusqlite::Error> {
        let mut statement = self.connection.prepare_cached(stmt.text)?;
        bind(&mut statement, params)?;
        statement.raw_execute().map(|changed| changed as u64)
    }

    fn rows_now(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<Vec<Row>, OpError> {
        let mut statement = self.connection.prepare_cached(stmt.text).map_err(|e| database(&e))?;
        bind(&mut statement, params).map_err(|e| database(&e))?;
        let columns = statement.column_count();
        let mut found = statement.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(|e| database(&e))? {
            let values = (0..columns).map(|c| row.get_ref(c).map_err(|e| database(&e)).and_then(value));
            rows.push(Row(values.collect::<Result<_, _>>()?));
        }
        Ok(rows)
    }

    /// Answers whether each has changed exactly one row.
    fn batch_now(&mut self, stmt: &'static Stmt, rows: &[Vec<Val>]) -> Result<bool, rusqlite::Error> {
        let mut statement = self.connection.prepare_cached(stmt.text)?;
        let mut each_one = true;
        for params in rows {
            bind(&mut statement, params)?;
            each_one &= statement.raw_execute()? == 1;
        }
        Ok(each_one)
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T, OpError>) -> Answer<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl RawTx for LiteTx<'_> {
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64> {
        ready(self.exec_now(stmt, params).map_err(|e| database(&e)))
    }

    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>> {
        ready(self.rows_now(stmt, params))
    }

    fn several(&mut self, queries: Vec<Query>) -> Answer<'_, Vec<Vec<Row>>> {
        let one = |query: &Query| {
            let mut found = Vec::new();
            for params in &query.rows {
                found.extend(self.rows_now(query.stmt, params)?);
            }
            Ok(found)
        };
        ready(queries.iter().map(one).collect())
    }

    fn send<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val], expected: Option<u64>) -> Answer<'a, ()> {
        let changed = self.exec_now(stmt, params).map_err(|e| database(&e));
        let fits = |changed: u64| expected.is_none_or(|expected| expected == changed);
        ready(changed.and_then(|changed| if fits(changed) { Ok(()) } else { Err(OpError::Fenced) }))
    }

    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>, each_one: bool) -> Answer<'a, ()> {
        let changed = self.batch_now(stmt, &rows).map_err(|e| database(&e));
        ready(changed.and_then(|one| if one || !each_one { Ok(()) } else { Err(OpError::Fenced) }))
    }

    fn now(&mut self) -> Answer<'_, Timestamp> {
        ready(Ok(self.now))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn migrations_are_all_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        let listed: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        assert_eq!(found, listed);
    }
}
