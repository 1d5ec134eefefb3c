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

pub use driver::OpenError;
pub use op::{Mode, Op, OpError};
pub use tx::Tx;

/// The store: whatever driver is behind it.
#[derive(Clone)]
pub struct Store {
    driver: Arc<dyn driver::Driver>,
}

impl Store {
    /// A store over a driver.
    pub fn new(driver: Arc<dyn driver::Driver>) -> Self {
        Self { driver }
    }

    /// Opens or makes a SQLite database in a file and brings its schema up to date. The caller holds the
    /// folder's [`lock::DataLock`].
    pub fn open_sqlite(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(driver::Sqlite::open(path)?)))
    }

    /// Opens a PostgreSQL database (15 or later) by its URL and brings its schema up to date.
    pub fn open_postgres(url: &str) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(driver::Postgres::open(url)?)))
    }

    /// A fresh database in memory on the caller's thread, with the caller's clock.
    pub fn in_memory(clock: clock::Clock) -> Result<Self, OpenError> {
        Ok(Self::new(Arc::new(driver::Inline::in_memory(clock)?)))
    }

    /// The store's clock (H40).
    pub fn now(&self) -> Timestamp {
        self.driver.now()
    }

    /// Runs an operation in a transaction of its own and answers after the commit. An error leaves
    /// nothing behind; `OpError::Unknown` means that the answer of the commit was lost.
    pub async fn run<O: Op>(&self, op: O) -> Result<O::Out, OpError> {
        driver::run(self.driver.as_ref(), op).await
    }
}
