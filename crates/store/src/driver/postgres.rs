//! PostgreSQL 15 or later: several lanes, each a connection that takes jobs from a queue.
//!
//! What writes runs in READ COMMITTED transactions with row locks in statements of their own (H18), several
//! at a time; what only reads has connections of its own and one snapshot each. A lane folds operations that
//! wait into one commit, each in a savepoint. One lane that folds is better than several: nearly all that is
//! written touches the rows of the same few clusters, so several wait for one another's commits. (Whole
//! requests a second of 32 callers, debug build, busy machine: one lane that folds 32, four that do not 18, two
//! that fold 14.) A further lane stands by and takes over what waits while the first is held up, by another
//! process's lock perhaps. An operation locks in order, several do not, so a group that waits for a lock is
//! taken apart. A deadlock, a serialization failure and two that make the same thing at once are run again, a
//! group then one by one. A connection that is lost before the commit is `Database`, one that is lost with
//! the answer of the commit is `Unknown` (H20).
//!
//! The connections live on a thread of their own, so that a statement and its answer cost no hop between
//! threads. Rejected: a pool that operations borrow from, which would run on the callers' threads and could
//! not fold; one lane alone, which waits for the locks of other processes with everything behind it.

use std::sync::{Arc, PoisonError, mpsc as std_mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use provisor_core::Timestamp;
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::{Driver, Job, OpenError, Results};
use crate::clock::{Carried, Clock};
use crate::op::{Mode, OpError};
use crate::ops::log;
use crate::tx::{Answer, Tx};

mod connection;
mod faults;
mod open;
mod pipe;
mod tls;
mod tools;
mod values;

use connection::{Connection, Outcome};
use open::Address;
pub use open::{PLANNING, PostgresError, check_url};
pub use tools::tool_environment;
pub use values::numbered;

/// Operations that may wait; more callers wait for room.
const QUEUE_LIMIT: usize = 4096;
const READ_QUEUE_LIMIT: usize = 1024;
/// More than 64 savepoints in a transaction slow the whole server down.
const SAVEPOINTS_AT_MOST: usize = 32;
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// How often a transaction that others were in the way of is run again.
const AGAIN_LIMIT: u32 = 8;
/// The first pause before that; it doubles.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// The lane that stands by takes over when the first has been at one transaction for so long.
const HELD_UP_AFTER: Duration = Duration::from_secs(1);
/// A lane that has had nothing to do for so long looks at the server's clock.
const IDLE: Duration = Duration::from_secs(20);

/// How many connections, and how much in one commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes {
    /// Connections that write.
    pub writers: usize,
    /// Connections that read.
    pub readers: usize,
    /// Operations in one commit at most; 1 folds nothing. Those that join count as one for the server.
    pub group: usize,
    /// Whether a further connection takes over what waits while the first that writes is held up.
    pub standby: bool,
    /// Longest time of one statement; the server ends it then.
    pub statement_limit: Duration,
}

impl Lanes {
    /// So many connections that write and that read, and operations in one commit; nobody stands by.
    pub const fn of(writers: usize, readers: usize, group: usize) -> Self {
        Self { writers, readers, group, standby: false, statement_limit: STATEMENT_LIMIT }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self { standby: true, ..Self::of(1, 4, 256) }
    }
}

struct Queued {
    job: Arc<dyn Job>,
    answer: oneshot::Sender<Result<(), OpError>>,
}

type Queue = Arc<Mutex<mpsc::Receiver<Queued>>>;

/// A PostgreSQL database.
pub struct Postgres {
    // `None` only while it is being dropped: the lanes end when their queue is closed and empty.
    writes: Option<mpsc::Sender<Queued>>,
    reads: Option<mpsc::Sender<Queued>>,
    thread: Option<JoinHandle<()>>,
    clock: Arc<Carried>,
    place: String,
}

impl Postgres {
    /// Opens a database by its URL and brings its schema up to date.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        Self::open_with(url, Lanes::default(), None)
    }

    /// The same with other numbers, and with the caller's clock for tests that compare drivers.
    pub fn open_with(url: &str, lanes: Lanes, clock: Option<Clock>) -> Result<Self, OpenError> {
        let address = Address::parse(url, lanes.statement_limit)?;
        let place = address.place().to_owned();
        let clock = Arc::new(Carried::new(clock));
        let (writes, write_queue) = mpsc::channel(QUEUE_LIMIT);
        let (reads, read_queue) = mpsc::channel(READ_QUEUE_LIMIT);
        let (opened, told) = std_mpsc::sync_channel(1);
        let lane_clock = Arc::clone(&clock);
        let started = std::thread::Builder::new().name("store-postgres".to_owned()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(opened.send(Err(PostgresError::Url { reason: error.to_string() }))),
            };
            runtime.block_on(async move {
                let first = first_look(&address, &lane_clock).await;
                let failed = first.is_err();
                drop(opened.send(first));
                if !failed {
                    run_lanes(address, lanes, lane_clock, write_queue, read_queue).await;
                }
            });
        });
        let thread = started.map_err(|e| PostgresError::Url { reason: e.to_string() })?;
        let told = told.recv().unwrap_or_else(|_| Err(PostgresError::Url { reason: "its thread ended".to_owned() }));
        told?;
        Ok(Self { writes: Some(writes), reads: Some(reads), thread: Some(thread), clock, place })
    }

    /// Host, port and database.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl Drop for Postgres {
    /// Does what is queued, then closes the connections.
    fn drop(&mut self) {
        self.writes = None;
        self.reads = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the store panicked");
        }
    }
}

impl Driver for Postgres {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move {
            let closed = || OpError::Database("the store is closed".to_owned());
            let queue = if job.mode() == Mode::Write { self.writes.as_ref() } else { self.reads.as_ref() };
            let (answer, done) = oneshot::channel();
            queue.ok_or_else(closed)?.send(Queued { job, answer }).await.map_err(|_| closed())?;
            done.await.unwrap_or_else(|_| Err(OpError::Unknown("the store's thread ended".to_owned())))
        })
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Opens the database and looks at its clock, so that [`Postgres::now`] has something to carry on.
async fn first_look(address: &Address, clock: &Arc<Carried>) -> Result<(), PostgresError> {
    address.open().await?;
    let mut connection = Connection::new(address.connect().await?, Arc::clone(clock));
    connection.look().await.map_err(|reason| address.database(reason))
}

async fn run_lanes(
    address: Address,
    lanes: Lanes,
    clock: Arc<Carried>,
    writes: mpsc::Receiver<Queued>,
    reads: mpsc::Receiver<Queued>,
) {
    let (writes, reads) = (Arc::new(Mutex::new(writes)), Arc::new(Mutex::new(reads)));
    let mut running = tokio::task::JoinSet::new();
    let (busy, seen) = watch::channel(None);
    let mut busy = Some(busy);
    if lanes.standby {
        let lane =
            Lane { address: address.clone(), clock: Arc::clone(&clock), group: 1, reading: false, busy: None, connection: None };
        running.spawn(lane.stand_by(Arc::clone(&writes), seen));
    }
    let kinds = [(lanes.writers, lanes.group, false, writes), (lanes.readers, 1, true, reads)];
    for (count, group, reading, queue) in kinds {
        for _ in 0..count.max(1) {
            let lane = Lane {
                address: address.clone(),
                clock: Arc::clone(&clock),
                group: group.max(1),
                reading,
                busy: busy.take(),
                connection: None,
            };
            running.spawn(lane.work(Arc::clone(&queue)));
        }
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a lane of the store ended");
        }
    }
}

/// A connection and what runs on it.
struct Lane {
    address: Address,
    clock: Arc<Carried>,
    group: usize,
    reading: bool,
    /// The number of the transaction that it is at, while it is, for the lane that stands by.
    busy: Option<watch::Sender<Option<u64>>>,
    connection: Option<Connection>,
}

impl Lane {
    async fn work(mut self, queue: Queue) {
        let mut group: Vec<Queued> = Vec::with_capacity(self.group);
        for number in 0.. {
            // Why the lock is held while it waits: the lanes take turns at the one queue.
            let taken = {
                let mut queue = queue.lock().await;
                tokio::time::timeout(IDLE, queue.recv_many(&mut group, self.group)).await
            };
            match taken {
                Ok(0) => return,
                Ok(_) => {}
                Err(_) => {
                    self.look().await;
                    continue;
                }
            }
            self.tell(Some(number));
            self.answer_group(&mut group).await;
            self.tell(None);
        }
    }

    /// Takes over what waits while the first lane stays at one and the same transaction; ends with it.
    async fn stand_by(mut self, queue: Queue, mut first: watch::Receiver<Option<u64>>) {
        let mut one = Vec::with_capacity(1);
        loop {
            let Ok(number) = first.wait_for(Option::is_some).await.map(|number| *number) else { return };
            tokio::time::sleep(HELD_UP_AFTER).await;
            while *first.borrow() == number {
                let mut queue = queue.lock().await;
                tokio::select! {
                    biased;
                    moved = first.changed() => match moved {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    queued = queue.recv() => match queued {
                        Some(queued) => one.push(queued),
                        None => return,
                    },
                }
                drop(queue);
                self.answer_group(&mut one).await;
            }
        }
    }

    fn tell(&self, number: Option<u64>) {
        if let Some(busy) = &self.busy {
            busy.send_replace(number);
        }
    }

    async fn answer_group(&mut self, group: &mut Vec<Queued>) {
        let answers = self.run_group(group).await;
        for (queued, answer) in group.drain(..).zip(answers) {
            // Nobody may wait for it any more; it is done all the same.
            drop(queued.answer.send(answer));
        }
    }

    async fn look(&mut self) {
        let Ok(connection) = self.connected().await else { return };
        if connection.look().await.is_err() {
            self.connection = None;
        }
    }

    /// The open connection, or a new one.
    async fn connected(&mut self) -> Result<&mut Connection, OpError> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            let client = self.address.connect().await.map_err(|e| OpError::Database(e.to_string()))?;
            self.connection = Some(Connection::new(client, Arc::clone(&self.clock)));
        }
        self.connection.as_mut().ok_or_else(|| OpError::Database("there is no connection".to_owned()))
    }

    async fn run_group(&mut self, group: &[Queued]) -> Results {
        let jobs: Vec<&dyn Job> = group.iter().map(|q| q.job.as_ref()).collect();
        let mut results: Results = jobs.iter().map(|_| Err(OpError::Unknown("no answer".to_owned()))).collect();
        for units in super::units(&jobs).chunks(SAVEPOINTS_AT_MOST) {
            let places: Vec<usize> = units.iter().flatten().copied().collect();
            let part: Vec<&dyn Job> = places.iter().filter_map(|place| jobs.get(*place).copied()).collect();
            for (place, result) in places.into_iter().zip(self.run_part(&part).await) {
                if let Some(slot) = results.get_mut(place) {
                    *slot = result;
                }
            }
        }
        results
    }

    async fn run_part(&mut self, jobs: &[&dyn Job]) -> Results {
        if jobs.len() > 1 {
            match self.attempt(jobs).await {
                Outcome::Done(results) => return results,
                Outcome::Unknown(error) => return jobs.iter().map(|_| Err(error.clone())).collect(),
                // One by one, so that whatever was in one's way is in no other's.
                Outcome::Again(_) | Outcome::Lost(_) => {}
            }
        }
        let mut results = Vec::with_capacity(jobs.len());
        for job in jobs {
            results.push(self.run_one(*job).await);
        }
        results
    }

    async fn run_one(&mut self, job: &dyn Job) -> Result<(), OpError> {
        if job.mode() == Mode::Follow {
            let following = Following { job, behind: std::sync::Mutex::new(false) };
            self.run_until_done(&following, true).await?;
            if !following.behind.into_inner().unwrap_or_else(PoisonError::into_inner) {
                return Ok(());
            }
            self.run_until_done(&CatchUp, false).await?;
        }
        self.run_until_done(job, self.reading).await
    }

    async fn run_until_done(&mut self, job: &dyn Job, reading: bool) -> Result<(), OpError> {
        let mut pause = AGAIN_AFTER;
        // Why once: the server may have been restarted since the connection was last used.
        let mut may_reconnect = self.connection.is_some();
        for _ in 0..AGAIN_LIMIT {
            match self.attempt_as(&[job], reading).await {
                Outcome::Done(results) => {
                    return results.into_iter().next().unwrap_or_else(|| Err(OpError::Unknown("no answer".to_owned())));
                }
                Outcome::Lost(_) if may_reconnect => may_reconnect = false,
                Outcome::Lost(error) | Outcome::Unknown(error) => return Err(error),
                Outcome::Again(error) => {
                    tracing::debug!(operation = job.name(), %error, "run again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
        Err(OpError::Database(format!("operation {} was in the way of others {AGAIN_LIMIT} times", job.name())))
    }

    async fn attempt(&mut self, jobs: &[&dyn Job]) -> Outcome {
        self.attempt_as(jobs, self.reading).await
    }

    async fn attempt_as(&mut self, jobs: &[&dyn Job], reading: bool) -> Outcome {
        let connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) => return Outcome::Done(jobs.iter().map(|_| Err(error.clone())).collect()),
        };
        let outcome = connection.transact(jobs, reading).await;
        if matches!(outcome, Outcome::Lost(_) | Outcome::Unknown(_)) {
            self.connection = None;
        }
        outcome
    }
}

/// Looks at the log, unless something was committed that has no place in the feed yet.
struct Following<'j> {
    job: &'j dyn Job,
    behind: std::sync::Mutex<bool>,
}

impl Job for Following<'_> {
    fn name(&self) -> &'static str {
        self.job.name()
    }

    fn mode(&self) -> Mode {
        Mode::Read
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> Answer<'a, ()> {
        Box::pin(async move {
            let behind = log::is_behind(tx).await?;
            *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = behind;
            if behind { Ok(()) } else { self.job.run(tx).await }
        })
    }
}

/// Gives it its place.
struct CatchUp;

impl Job for CatchUp {
    fn name(&self) -> &'static str {
        "catch_up"
    }

    fn mode(&self) -> Mode {
        Mode::Write
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> Answer<'a, ()> {
        Box::pin(log::catch_up(tx))
    }
}
