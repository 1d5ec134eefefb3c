//! SQLite with one writer thread that folds the operations waiting for it into one commit.
//!
//! A durable commit costs one flush of the disk whatever is in it, so under load many operations share
//! one. One that is refused takes nothing of its neighbours with it: where it had already written, all are run
//! again, each in a savepoint of its own. Answers go out only after the commit (H42). Reads run beside it on connections of their own, each
//! in a transaction. Rejected: a pool of writing connections, as SQLite has one writer at a time anyway;
//! a timer that collects a group, as the commit under way already does that.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use provisor_core::Timestamp;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::lite::{self, OpenError};
use super::{Driver, Job, Results};
use crate::clock::{self, Clock, Forwards};
use crate::filesystem;
use crate::op::{Mode, OpError};
use crate::tx::Answer;

/// Operations in one commit at most.
const GROUP_LIMIT: usize = 256;
/// Operations that may wait for the writer; more callers wait for room.
const QUEUE_LIMIT: usize = 4096;
/// Reads that may wait.
const READ_QUEUE_LIMIT: usize = 1024;
/// Connections for reading, at least and at most.
const READERS: (usize, usize) = (2, 8);

struct Queued {
    job: Arc<dyn Job>,
    answer: oneshot::Sender<Result<(), OpError>>,
}

/// A SQLite database in a file.
pub struct Sqlite {
    // `None` only while it is being dropped: the threads end when their queue is closed and empty.
    writes: Option<mpsc::Sender<Queued>>,
    reads: Option<mpsc::Sender<Queued>>,
    threads: Vec<JoinHandle<()>>,
    clock: Arc<Forwards>,
}

impl Sqlite {
    /// Opens or makes the database in a file of a local disk, and brings its schema up to date.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        filesystem::prepare(path)?;
        let connection = lite::open_writer(path)?;
        let clock = clock::wall(lite::last_time(&connection));
        Self::start(path, connection, clock)
    }

    /// The same with the caller's clock, for tests that compare it with another driver.
    pub fn open_with_clock(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        filesystem::prepare(path)?;
        Self::start(path, lite::open_writer(path)?, clock)
    }

    fn start(path: &Path, connection: Connection, clock: Clock) -> Result<Self, OpenError> {
        let clock = Arc::new(Forwards::new(clock));
        let spawn_error = |e: std::io::Error| OpenError::Database { path: path.to_owned(), reason: e.to_string() };
        let (reads, read_queue) = mpsc::channel(READ_QUEUE_LIMIT);
        let read_queue = Arc::new(Mutex::new(read_queue));
        let mut threads = Vec::new();
        let count = std::thread::available_parallelism().map_or(READERS.0, usize::from).clamp(READERS.0, READERS.1);
        for _ in 0..count {
            let (connection, queue, clock) = (lite::open_reader(path)?, Arc::clone(&read_queue), Arc::clone(&clock));
            let thread = std::thread::Builder::new().name("store-reader".to_owned());
            threads.push(thread.spawn(move || read_all(connection, &queue, &clock)).map_err(spawn_error)?);
        }
        let (writes, write_queue) = mpsc::channel(QUEUE_LIMIT);
        let (thread, time) = (std::thread::Builder::new().name("store-writer".to_owned()), Arc::clone(&clock));
        threads.push(thread.spawn(move || write_all(connection, write_queue, &time)).map_err(spawn_error)?);
        Ok(Self { writes: Some(writes), reads: Some(reads), threads, clock })
    }
}

impl Drop for Sqlite {
    /// Does what is queued, then closes the file, so that whoever opens it next finds it at rest.
    fn drop(&mut self) {
        self.writes = None;
        self.reads = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Driver for Sqlite {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move {
            let closed = || OpError::Database("the store is closed".to_owned());
            let queue = match job.mode() {
                Mode::Read | Mode::Follow => self.reads.as_ref(),
                Mode::Write => self.writes.as_ref(),
            };
            let (answer, done) = oneshot::channel();
            queue.ok_or_else(closed)?.send(Queued { job, answer }).await.map_err(|_| closed())?;
            done.await.unwrap_or_else(|_| Err(OpError::Unknown("the store's thread ended".to_owned())))
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Queued>, clock: &Forwards) {
    let mut group = Vec::with_capacity(GROUP_LIMIT);
    while queue.blocking_recv_many(&mut group, GROUP_LIMIT) > 0 {
        let results = write_group(&mut connection, &group, clock);
        let outage = |result: &Result<(), OpError>| result.as_ref().is_err_and(OpError::is_outage);
        let is_full = match &results {
            Ok(each) => each.iter().any(outage),
            Err(_) => true,
        };
        if is_full {
            make_room(&connection);
        }
        for (index, queued) in group.drain(..).enumerate() {
            let result = match &results {
                Ok(each) => each.get(index).cloned().unwrap_or_else(|| Err(OpError::Unknown("no answer".to_owned()))),
                Err(all) => Err(all.clone()),
            };
            // Nobody may wait for it any more; it is done all the same.
            drop(queued.answer.send(result));
        }
    }
    if let Err(error) = connection.execute_batch("pragma wal_checkpoint(truncate)") {
        tracing::debug!(%error, "the log of the database was not folded in at the end; the next start does it");
    }
}

/// On a full disk the log cannot grow, but what it holds may find its place in the database, and its own room is then
/// used again. Where that does not do either, the next group finds out.
fn make_room(connection: &Connection) {
    if let Err(error) = connection.execute_batch("pragma wal_checkpoint(passive)") {
        tracing::debug!(%error, "the log of the database could not be folded in");
    }
}

/// Runs a group in one commit. `Err` is the fate of all: what one of them answered may rest on what another
/// of them wrote.
fn write_group(connection: &mut Connection, group: &[Queued], clock: &Forwards) -> Result<Results, OpError> {
    let jobs: Vec<&dyn Job> = group.iter().map(|queued| queued.job.as_ref()).collect();
    if let Some(results) = write_together(connection, &jobs, clock)? {
        return Ok(results);
    }
    lite::control(connection, "begin immediate").map_err(|e| lite::database(&e))?;
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        match in_savepoint(connection, job, clock.now()) {
            Ok(result) => results.push(result),
            Err(spoilt) => return Err(lite::abandon(connection, OpError::Database(format!("rolled back: {spoilt}")))),
        }
    }
    commit(connection)?;
    Ok(results)
}

fn commit(connection: &Connection) -> Result<(), OpError> {
    lite::control(connection, "commit").map_err(|e| lite::abandon(connection, lite::commit_error(&e)))
}

/// The usual case: what joins is done as one, and without savepoints, which copy every page that is written in them: nobody
/// is refused, or only before having written. `None`: one was refused in the middle, or several that joined have failed;
/// nothing is stored, and all are to be run again, each in a savepoint.
fn write_together(connection: &mut Connection, jobs: &[&dyn Job], clock: &Forwards) -> Result<Option<Results>, OpError> {
    lite::control(connection, "begin immediate").map_err(|e| lite::database(&e))?;
    let mut results: Results = jobs.iter().map(|_| Err(OpError::Unknown("no answer".to_owned()))).collect();
    for unit in super::units(jobs) {
        let before = connection.total_changes();
        let of_unit: Vec<&dyn Job> = unit.iter().filter_map(|place| jobs.get(*place).copied()).collect();
        let told = match lite::perform(connection, &of_unit, clock.now()) {
            Ok(told) => told,
            Err(error) if connection.is_autocommit() => return Err(OpError::Database(format!("rolled back: {error}"))),
            Err(error) if of_unit.len() == 1 && connection.total_changes() == before => vec![Err(error)],
            Err(_) => {
                lite::control(connection, "rollback").map_err(|e| OpError::Unknown(e.to_string()))?;
                return Ok(None);
            }
        };
        for (place, result) in unit.into_iter().zip(told) {
            if let Some(slot) = results.get_mut(place) {
                *slot = result;
            }
        }
    }
    commit(connection)?;
    Ok(Some(results))
}

/// `Err` when the transaction cannot go on: the database has rolled it back itself (disk full, I/O error),
/// or the operation's part could not be taken out again.
fn in_savepoint(connection: &mut Connection, job: &dyn Job, now: Timestamp) -> Result<Result<(), OpError>, OpError> {
    lite::control(connection, "savepoint op").map_err(|e| lite::database(&e))?;
    let result = lite::perform_one(connection, job, now);
    if connection.is_autocommit() {
        return Err(result.err().unwrap_or_else(|| OpError::Database("no transaction any more".to_owned())));
    }
    if result.is_err() {
        lite::control(connection, "rollback to op").map_err(|e| lite::database(&e))?;
    }
    lite::control(connection, "release op").map_err(|e| lite::database(&e))?;
    Ok(result)
}

fn read_all(mut connection: Connection, queue: &Mutex<mpsc::Receiver<Queued>>, clock: &Forwards) {
    loop {
        // Why the lock is held while it waits: the readers take turns at the one queue.
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some(queued) = next else { return };
        let result = read_one(&mut connection, queued.job.as_ref(), clock.now());
        drop(queued.answer.send(result));
    }
}

fn read_one(connection: &mut Connection, job: &dyn Job, now: Timestamp) -> Result<(), OpError> {
    lite::control(connection, "begin").map_err(|e| lite::database(&e))?;
    let result = lite::perform_one(connection, job, now);
    if !connection.is_autocommit() {
        lite::control(connection, "rollback").map_err(|e| lite::database(&e))?;
    }
    result
}
