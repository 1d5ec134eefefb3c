//! The port of a database driver, and how a typed operation goes through it.
//!
//! [`Op`] has an answer type of its own, a driver must be an object. So an operation becomes a [`Job`]: it
//! keeps its typed answer in a slot and tells the driver only whether it worked. A job may be run again
//! from the start, hence `&self`. Rejected: `Any` and a downcast for each answer; a channel for each
//! answer, which would answer before the commit.
//!
//! Jobs that wait at the same time and are of one kind that joins (see [`Op::joins`]) are done as one, so a driver that
//! folds its queue into one commit costs a statement for each table and not for each caller. While one group is in the
//! database the next gathers by itself. Rejected: a desk before the store that gathers, which costs each caller two hops
//! between tasks more, and cannot fold a claim into the same commit.

use std::any::Any;
use std::collections::BTreeMap;
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

/// What each of several jobs was told.
pub type Results = Vec<Result<(), OpError>>;

/// An operation without its type.
pub trait Job: Send + Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Whether it writes.
    fn mode(&self) -> Mode;
    /// Does it; the answer stays in the job.
    fn run<'a>(&'a self, tx: &'a mut Tx<'_>) -> Answer<'a, ()>;

    /// Whether it may be done together with others of its name.
    fn joins(&self) -> bool {
        false
    }

    /// Itself with its type, for one of its kind that joins.
    fn typed(&self) -> Option<&dyn Any> {
        None
    }

    /// Does several of its kind together; the answers stay in the jobs. An error stores nothing of any.
    fn run_joined<'a>(&'a self, all: &'a [&'a dyn Job], tx: &'a mut Tx<'_>) -> Answer<'a, Results> {
        let _ = (all, tx);
        Box::pin(std::future::ready(Err(OpError::Corrupt(format!("operation {} does not join", self.name())))))
    }
}

/// Which jobs of a group are done together, by their places: those of one kind that join, and each other alone. What
/// joins comes first, so that a claim finds what was admitted beside it.
fn units(jobs: &[&dyn Job]) -> Vec<Vec<usize>> {
    let mut joined: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
    let mut alone = Vec::new();
    for (place, job) in jobs.iter().enumerate() {
        if job.joins() {
            joined.entry(job.name()).or_default().push(place);
        } else {
            alone.push(vec![place]);
        }
    }
    joined.into_values().chain(alone).collect()
}

/// Does the jobs of one unit.
async fn run_unit(jobs: &[&dyn Job], tx: &mut Tx<'_>) -> Result<Results, OpError> {
    match jobs {
        [] => Ok(Vec::new()),
        [job] => job.run(tx).await.map(|()| vec![Ok(())]),
        [first, ..] => first.run_joined(jobs, tx).await,
    }
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
            self.keep(out);
            Ok(())
        })
    }

    fn joins(&self) -> bool {
        self.op.joins()
    }

    fn typed(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn run_joined<'a>(&'a self, all: &'a [&'a dyn Job], tx: &'a mut Tx<'_>) -> Answer<'a, Results> {
        Box::pin(async move {
            let strange = || OpError::Corrupt(format!("another operation is called {}", O::NAME));
            let typed = |job: &&'a dyn Job| job.typed().and_then(|job| job.downcast_ref::<Self>()).ok_or_else(strange);
            let all: Vec<&Self> = all.iter().map(typed).collect::<Result<_, _>>()?;
            let ops: Vec<&O> = all.iter().map(|job| &job.op).collect();
            let answers = O::run_joined(&ops, tx).await?;
            if answers.len() != all.len() {
                return Err(OpError::Corrupt(format!("{} answers for {} operations {}", answers.len(), all.len(), O::NAME)));
            }
            Ok(all.iter().zip(answers).map(|(job, answer)| answer.map(|out| job.keep(out))).collect())
        })
    }
}

impl<O: Op> Typed<O> {
    fn keep(&self, out: O::Out) {
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = Some(out);
    }
}

/// Runs a typed operation.
pub async fn run<O: Op>(driver: &dyn Driver, op: O) -> Result<O::Out, OpError> {
    let job = Arc::new(Typed { op, out: Mutex::new(None) });
    driver.run(Arc::<Typed<O>>::clone(&job)).await?;
    let out = job.out.lock().unwrap_or_else(PoisonError::into_inner).take();
    out.ok_or_else(|| OpError::Corrupt(format!("operation {} was not run by its driver", O::NAME)))
}
