//! The same SQLite on the caller's thread, in memory or in a file: no thread, no hidden clock.
//!
//! For tests and the simulator, where the same seed must give the same run. Each operation is a
//! transaction and a commit of its own.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use provisor_core::Timestamp;
use rusqlite::Connection;

use super::lite::{self, OpenError};
use super::{Driver, Job};
use crate::clock::{Clock, Forwards};
use crate::filesystem;
use crate::op::{Mode, OpError};
use crate::tx::Answer;

/// A SQLite database without a thread.
pub struct Inline {
    connection: Mutex<Connection>,
    clock: Forwards,
}

impl Inline {
    /// A fresh database in memory.
    pub fn in_memory(clock: Clock) -> Result<Self, OpenError> {
        Ok(Self { connection: Mutex::new(lite::open_memory()?), clock: Forwards::new(clock) })
    }

    /// A database in a file.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        filesystem::prepare(path)?;
        Ok(Self { connection: Mutex::new(lite::open_writer(path)?), clock: Forwards::new(clock) })
    }

    fn run_now(&self, job: &dyn Job) -> Result<(), OpError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        match job.mode() {
            Mode::Write => transact(&mut connection, "begin immediate", job, now),
            Mode::Read | Mode::Follow => transact(&mut connection, "begin", job, now),
        }
    }
}

fn transact(connection: &mut Connection, begin: &str, job: &dyn Job, now: Timestamp) -> Result<(), OpError> {
    let changes = connection.total_changes();
    lite::control(connection, begin).map_err(|e| lite::database(&e))?;
    lite::perform_one(connection, job, now).map_err(|e| lite::abandon(connection, e))?;
    // As on the readers of the other driver, an operation that says it reads cannot write. They have `query_only`; to
    // switch that on and off here would make every statement be parsed anew.
    if job.mode() != Mode::Write && connection.total_changes() != changes {
        return Err(lite::abandon(connection, OpError::Database("an operation that reads has written".to_owned())));
    }
    lite::control(connection, "commit").map_err(|e| lite::abandon(connection, lite::commit_error(&e)))
}

impl Driver for Inline {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move { self.run_now(job.as_ref()) })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
