//! The port of a database driver, and how a typed operation goes through it.
//!
//! [`Op`] has an answer type of its own, a driver must be an object. So an operation becomes a [`Job`]: it
//! keeps its typed answer in a slot and tells the driver only whether it worked. A job may be run again
//! from the start, hence `&self`. Rejected: `Any` and a downcast for each answer; a channel for each
//! answer, which would answer before the commit.

use std::sync::{Arc, Mutex, PoisonError};

use provisor_core::Timestamp;

use crate::op::{Mode, Op, OpError};
use crate::tx::{Answer, Tx};

pub mod faulty;
pub mod inline;
mod lite;
pub mod postgres;
pub mod sqlite;

pub use faulty::{Fault, Faulty};
pub use inline::Inline;
pub(crate) use lite::APPLICATION_ID;
pub use lite::OpenError;
pub use postgres::Postgres;
pub use sqlite::Sqlite;

/// An operation without its type.
pub trait Job: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Whether it writes.
    fn mode(&self) -> Mode;
    /// Does it; the answer stays in the job.
    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> Answer<'a, ()>;
}

/// A database behind the store.
pub trait Driver: Send + Sync + 'static {
    /// Runs a job in a transaction of its own and answers after the commit. Once it is queued it is done
    /// even if nobody waits for the answer any more.
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()>;

    /// The store's clock outside of a transaction (H40).
    fn now(&self) -> Timestamp;
}

struct Typed<O: Op> {
    op: O,
    out: Mutex<Option<O::Out>>,
}

impl<O: Op> Job for Typed<O> {
    fn name(&self) -> &'static str {
        O::NAME
    }

    fn mode(&self) -> Mode {
        O::MODE
    }

    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> Answer<'a, ()> {
        Box::pin(async move {
            let out = self.op.run(tx).await?;
            *self.out.lock().unwrap_or_else(PoisonError::into_inner) = Some(out);
            Ok(())
        })
    }
}

/// Runs a typed operation.
pub async fn run<O: Op>(driver: &dyn Driver, op: O) -> Result<O::Out, OpError> {
    let job = Arc::new(Typed { op, out: Mutex::new(None) });
    driver.run(Arc::<Typed<O>>::clone(&job)).await?;
    let out = job.out.lock().unwrap_or_else(PoisonError::into_inner).take();
    out.ok_or_else(|| OpError::Corrupt(format!("operation {} was not run by its driver", O::NAME)))
}
