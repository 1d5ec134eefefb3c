//! What the engine of a test stands on: SQLite in memory, or a real PostgreSQL. Virtual time passes on both.
//!
//! On PostgreSQL the store takes the test's clock instead of the server's, and virtual time stands still while a
//! transaction is under way: so an hour of waiting costs no more than its polls, and one body of a test says the same on
//! both. What is about the server's own clock is tested in the store. Rejected: real time with settings of fractions of
//! seconds, under which a busy machine decides what a test sees.
//!
//! A database is used again once its store is gone, emptied by statements: making and dropping one costs a second.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use provisor_core::{Span, Timestamp};
use provisor_store::Store;
use provisor_store::clock::{Clock, of_runtime};
use provisor_store::driver::postgres::Lanes;
use provisor_store::driver::{Driver, Inline, Job, Postgres};
use provisor_store::tx::Answer;

use crate::server::{database, sql};

/// Where virtual time begins.
pub const EPOCH: Timestamp = Timestamp(1_795_000_000_000_000);

/// One of the two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Sqlite,
    Postgres,
}

impl Ground {
    /// A fresh store, and the clock that it goes by.
    pub fn store(self) -> (Store, Clock) {
        let (driver, clock) = self.driver();
        (Store::new(driver), clock)
    }

    /// The driver alone, for a test that puts one of its own around it.
    pub fn driver(self) -> (Arc<dyn Driver>, Clock) {
        match self {
            Self::Sqlite => {
                let clock = of_runtime(EPOCH);
                (Arc::new(Inline::in_memory(Arc::clone(&clock)).unwrap()), clock)
            }
            Self::Postgres => {
                let still = Still::open().expect("there was a server a moment ago");
                let clock = still.clock();
                (Arc::new(still), clock)
            }
        }
    }

    /// One database opened by two processes; the clock of the second is behind by so much. The first stays open longer.
    pub fn twice(self, behind: Span) -> Twice {
        match self {
            Self::Sqlite => {
                let folder = std::env::temp_dir().join(format!("provisor-engine-{}", std::process::id()));
                std::fs::create_dir_all(&folder).unwrap();
                let open = |start: i64| {
                    let driver = Inline::open(&folder.join("twice.db"), of_runtime(Timestamp(start))).unwrap();
                    Store::new(Arc::new(driver))
                };
                Twice { first: open(EPOCH.0), second: open(EPOCH.0 - behind.0), folder: Some(folder) }
            }
            Self::Postgres => {
                let first = Still::open().expect("there was a server a moment ago");
                let second = Still::beside(&first, behind);
                Twice { first: Store::new(Arc::new(first)), second: Store::new(Arc::new(second)), folder: None }
            }
        }
    }

    /// Whether this machine has it; where it has not, that was said.
    pub fn is_there(self) -> bool {
        self == Self::Sqlite || crate::server::is_there()
    }
}

/// One database in two processes.
pub struct Twice {
    pub first: Store,
    pub second: Store,
    folder: Option<PathBuf>,
}

impl Drop for Twice {
    fn drop(&mut self) {
        self.folder.take().map(std::fs::remove_dir_all);
    }
}

/// A database, open, for one test after another.
struct Database {
    postgres: Postgres,
    url: String,
    /// Empties it; without that it is not used again.
    reset: Option<String>,
    /// Virtual time, for the thread of its connections.
    now: Arc<AtomicI64>,
    /// What nobody waits for any more and may still run, as after a crash.
    abandoned: Vec<Weak<dyn Job>>,
}

static FREE: Mutex<Vec<Database>> = Mutex::new(Vec::new());

impl Database {
    fn over(url: String, start: Timestamp) -> Self {
        let now = Arc::new(AtomicI64::new(start.0));
        let shown = Arc::clone(&now);
        let clock: Clock = Arc::new(move || Timestamp(shown.load(Ordering::SeqCst)));
        let postgres = Postgres::open_with(&url, Lanes::of(2, 1, 16), Some(clock)).unwrap();
        Self { postgres, url, reset: None, now, abandoned: Vec::new() }
    }

    fn make() -> Option<Self> {
        let made = Self::over(database()?, EPOCH);
        let url = &made.url;
        let tables = "select tablename from pg_tables where schemaname = 'public' and tablename <> 'refinery_schema_history'";
        let tables = sql(url, tables);
        let each = |text: &dyn Fn(&String) -> String| tables.iter().map(text).collect::<Vec<_>>();
        sql(url, &format!("create schema fresh; {}", each(&|t| format!("create table fresh.{t} as table {t}")).join("; ")));
        // In one statement, at whose end the references are looked at.
        let empty = each(&|t| format!("e_{t} as (delete from {t})")).join(", ");
        let fill = each(&|t| format!("insert into {t} overriding system value select * from fresh.{t}")).join("; ");
        let reset = format!("begin; with {empty} select 1; {fill}; commit");
        Some(Self { reset: Some(reset), ..made })
    }

    fn take() -> Option<Self> {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(mut free) = free else { return Self::make() };
        for _ in 0..10_000 {
            free.abandoned.retain(|job| job.strong_count() > 0);
            if free.abandoned.is_empty() {
                sql(&free.url, free.reset.as_ref().expect("only such are kept"));
                return Some(free);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("transactions of a test before this one do not end")
    }
}

/// A database under virtual time, which stands still while something runs there.
struct Still {
    database: Option<Database>,
    clock: Clock,
    abandoned: Mutex<Vec<Weak<dyn Job>>>,
}

impl Still {
    fn open() -> Option<Self> {
        let database = Database::take()?;
        // Why later than the last test: a store's clock never goes back.
        let start = Timestamp(database.now.load(Ordering::SeqCst)).plus(Span::seconds(1));
        Some(Self::over(database, start))
    }

    /// Another process on the same database.
    fn beside(first: &Self, behind: Span) -> Self {
        let start = Timestamp(first.now().0 - behind.0);
        Self::over(Database::over(first.database().url.clone(), start), start)
    }

    fn over(database: Database, start: Timestamp) -> Self {
        let still = Self { database: Some(database), clock: of_runtime(start), abandoned: Mutex::default() };
        still.now();
        still
    }

    fn clock(&self) -> Clock {
        Arc::clone(&self.clock)
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("it goes with this")
    }
}

/// Notes a job whose caller went away before its end.
struct Watch<'a> {
    still: &'a Still,
    job: Option<Weak<dyn Job>>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let job = self.job.take();
        self.still.abandoned.lock().unwrap_or_else(PoisonError::into_inner).extend(job);
    }
}

impl Driver for Still {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move {
            self.now();
            // Time does not pass by itself while a thread of the runtime is at work.
            let (ends, ended) = std::sync::mpsc::channel::<()>();
            drop(tokio::task::spawn_blocking(move || ended.recv()));
            let mut watch = Watch { still: self, job: Some(Arc::downgrade(&job)) };
            let answer = self.database().postgres.run(job).await;
            watch.job = None;
            drop(ends);
            answer
        })
    }

    fn now(&self) -> Timestamp {
        let now = (self.clock)();
        self.database().now.fetch_max(now.0, Ordering::SeqCst);
        self.database().postgres.now()
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if let Some(mut database) = self.database.take().filter(|d| d.reset.is_some()) {
            database.abandoned.append(&mut self.abandoned.lock().unwrap_or_else(PoisonError::into_inner));
            FREE.lock().unwrap_or_else(PoisonError::into_inner).push(database);
        }
    }
}
