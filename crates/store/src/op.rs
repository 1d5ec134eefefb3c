//! What a store operation is.

use std::future::Future;

use provisor_core::quota::Dimension;

use crate::tx::Tx;

/// Whether an operation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads one consistent state; may run beside writers.
    Read,
    /// The same where the log is read in the order of its feed: PostgreSQL first gives a place in it to what
    /// was committed since the last look (see [`crate::ops::log`]).
    Follow,
    /// Reads and writes.
    Write,
}

/// One use case against the store: one transaction, one file. It may be run again from the start (after
/// a spoilt group or a serialization failure), hence `&self`; it must not wait for anything but its
/// transaction.
pub trait Op: Send + Sync + 'static {
    /// What it answers.
    type Out: Send + 'static;
    /// Its name in metrics and errors.
    const NAME: &'static str;
    /// Whether it writes.
    const MODE: Mode;
    /// Does it.
    fn run(&self, tx: &mut Tx<'_>) -> impl Future<Output = Result<Self::Out, OpError>> + Send;

    /// Whether it may be done together with others of its kind that wait at the same time: by [`Op::run_joined`], which
    /// costs a statement for each table and not for each of them.
    fn joins(&self) -> bool {
        false
    }

    /// Does several that join, in this order and with the answers that each would have had alone. One that is refused has
    /// written nothing. An error of the whole stores nothing, and then each is done alone.
    fn run_joined(all: &[&Self], tx: &mut Tx<'_>) -> impl Future<Output = Result<Vec<Result<Self::Out, OpError>>, OpError>> + Send
    where
        Self: Sized,
    {
        let _ = (all, tx);
        std::future::ready(Err(OpError::Corrupt(format!("operation {} does not join", Self::NAME))))
    }
}

/// Why an operation was not done. Nothing of it is stored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum OpError {
    /// There is no such thing, or not for this caller.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The state does not allow it.
    #[error("state {state} does not allow it")]
    StateConflict {
        /// The state.
        state: String,
        /// What it allows.
        allowed: Vec<String>,
        /// A sentence for people.
        detail: String,
    },
    /// The lease is lost: another worker has it (fencing).
    #[error("the lease is lost")]
    Fenced,
    /// A name is taken.
    #[error("the name is taken by {holder}")]
    NameTaken {
        /// The pointer of the name in the input.
        pointer: String,
        /// The name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// A quota would be overrun.
    #[error("quota exceeded")]
    QuotaExceeded(Vec<Dimension>),
    /// No registered cluster can ever fit it; with the reason for each.
    #[error("no cluster can ever fit it")]
    NoCluster {
        /// What of which request stands in the way: `/requests/1/region`.
        pointer: String,
        /// `exists`, `max` …
        rule: &'static str,
        /// What was asked there.
        value: serde_json::Value,
        /// Cluster and reason.
        rejected: Vec<(String, String)>,
    },
    /// Dependencies form a cycle.
    #[error("dependency cycle")]
    DependencyCycle(Vec<String>),
    /// A prerequisite is unknown.
    #[error("unknown dependency")]
    DependencyUnknown {
        /// Where it is named.
        pointer: String,
        /// What is named.
        name: String,
    },
    /// A prerequisite has ended.
    #[error("dependency ended")]
    DependencyEnded {
        /// Where it is named.
        pointer: String,
        /// What is named.
        name: String,
        /// Its state.
        state: String,
    },
    /// Faults that only the store can see, for example an unknown tenant.
    #[error("invalid request")]
    Invalid(Vec<provisor_core::check::Flaw>),
    /// The same idempotency key came with another body.
    #[error("the idempotency key was used with another body")]
    IdempotencyMismatch,
    /// `If-Match` does not match.
    #[error("the version is {current} by now")]
    PreconditionFailed {
        /// The present etag.
        current: String,
    },
    /// Still in use.
    #[error("in use")]
    InUse {
        /// What uses it, with counts.
        counts: Vec<(String, i64)>,
    },
    /// A backend that had to be asked did not answer as it should.
    #[error("backend: {message}")]
    Backend {
        /// Stable code.
        code: String,
        /// What happened.
        message: String,
    },
    /// The database refused or could not be reached; nothing was stored.
    #[error("database: {0}")]
    Database(String),
    /// The answer of the commit was lost: it may be stored or not.
    #[error("the answer of the commit was lost: {0}")]
    Unknown(String),
    /// The stored data cannot be read. A fault of ours or of the disk.
    #[error("stored data is not readable: {0}")]
    Corrupt(String),
}

impl OpError {
    /// Whether it is the database that failed, so that the same may do once it can be used again. The store itself
    /// tells that in the log.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Database(_) | Self::Unknown(_))
    }
}
