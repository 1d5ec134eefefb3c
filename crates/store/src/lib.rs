//! The log, the state and the due work.
//!
//! A store operation is a value ([`Op`]): one file in [`ops`], its SQL, its test. Its logic is written once
//! over the transaction port [`Tx`]; the drivers differ. SQLite folds many queued operations into one
//! commit ([`driver::sqlite`]), PostgreSQL runs several transactions at a time ([`driver::postgres`]); the inline driver runs the same on the caller's thread, for tests and the
//! simulator.

use std::path::Path;
use std::sync::Arc;

use provisor_core::Timestamp;

pub mod backup;
pub mod clock;
pub mod driver;
mod filesystem;
pub mod lock;
pub mod op;
pub mod ops;
pub mod tx;
pub mod value;
pub mod vault;
mod watch;

pub use driver::OpenError;
pub use op::{Mode, Op, OpError};
pub use tx::Tx;

/// The store: whatever driver is behind it.
#[derive(Clone)]
pub struct Store {
    driver: Arc<dyn driver::Driver>,
    watch: Arc<watch::Watch>,
}

impl Store {
    /// A store over a driver.
    pub fn new(driver: Arc<dyn driver::Driver>) -> Self {
        Self::at("the store".to_owned(), driver)
    }

    /// The same with words for where the data are.
    fn at(place: String, driver: Arc<dyn driver::Driver>) -> Self {
        Self { driver, watch: Arc::new(watch::Watch::of(place)) }
    }

    /// Opens or makes a SQLite database in a file and brings its schema up to date. The caller holds the
    /// folder's [`lock::DataLock`].
    pub fn open_sqlite(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::at(path.display().to_string(), Arc::new(driver::Sqlite::open(path)?)))
    }

    /// Opens a PostgreSQL database (15 or later) by its URL and brings its schema up to date.
    pub fn open_postgres(url: &str) -> Result<Self, OpenError> {
        let driver = driver::Postgres::open(url)?;
        Ok(Self::at(driver.place().to_owned(), Arc::new(driver)))
    }

    /// A fresh database in memory on the caller's thread, with the caller's clock.
    pub fn in_memory(clock: clock::Clock) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(driver::Inline::in_memory(clock)?)))
    }

    /// From now on the log tells when the database cannot be used, and when it can again.
    pub fn tell_outages(&self) {
        self.watch.tell();
    }

    /// The store's clock (H40).
    pub fn now(&self) -> Timestamp {
        self.driver.now()
    }

    /// Runs an operation in a transaction of its own and answers after the commit. An error leaves
    /// nothing behind; `OpError::Unknown` means that the answer of the commit was lost.
    pub async fn run<O: Op>(&self, op: O) -> Result<O::Out, OpError> {
        let answer = driver::run(self.driver.as_ref(), op).await;
        self.watch.note(O::MODE, &answer, self.driver.now());
        answer
    }
}
