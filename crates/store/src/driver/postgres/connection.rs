//! A connection with its prepared statements, and a transaction on it as operations see it.
//!
//! READ COMMITTED with row locks in statements of their own for what writes (H18), one snapshot for what
//! only reads. The server's clock comes with the answer to `begin`, in the same round trip (H40).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::try_join_all;
use futures::{FutureExt, TryStreamExt};
use provisor_core::Timestamp;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::faults::Fault;
use super::values;
use crate::clock::Carried;
use crate::driver::Job;
use crate::op::OpError;
use crate::tx::{Answer, RawTx, Stmt, Tx, Write};
use crate::value::{Row, Val};

/// Statements of a batch that are on their way at once.
const PIPELINED: usize = 16;
/// Longest time of one operation. The server's own limits are shorter; this is for a server that is silent.
const OPERATION_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for the answer of a commit.
const COMMIT_LIMIT: Duration = Duration::from_secs(30);

macro_rules! with_clock {
    ($text:literal) => {
        concat!($text, "; select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
    };
}

const BEGIN_WRITING: &str = with_clock!("begin isolation level read committed");
const BEGIN_READING: &str = with_clock!("begin isolation level repeatable read read only");
// Several operations lock in no common order, and a deadlock is noticed only after a second. So a group that
// has to wait for long is taken apart instead.
const BEGIN_SEVERAL: &str = with_clock!("begin isolation level read committed; set local lock_timeout = '50ms'; savepoint op");
const NEXT_SAVEPOINT: &str = with_clock!("release op; savepoint op");
const NEXT_AFTER_REFUSAL: &str = with_clock!("rollback to op; release op; savepoint op");

/// What came of a transaction.
pub(super) enum Outcome {
    /// Each job's answer; all that was done well is committed.
    Done(Vec<Result<(), OpError>>),
    /// Nothing is stored, and the same again may work.
    Again(OpError),
    /// Nothing is stored, and the connection is of no more use.
    Lost(OpError),
    /// The answer of the commit was lost, and the connection with it.
    Unknown(OpError),
}

pub(super) struct Connection {
    pub(super) client: Client,
    statements: BTreeMap<&'static str, Statement>,
}

impl Connection {
    pub(super) fn new(client: Client) -> Self {
        Self { client, statements: BTreeMap::new() }
    }

    /// Runs jobs in one transaction: a single one as it is, several each in a savepoint of its own.
    pub(super) async fn transact(&mut self, jobs: &[&dyn Job], reading: bool, clock: &Carried) -> Outcome {
        let several = jobs.len() > 1;
        let mut results: Vec<Result<(), OpError>> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let opening = match results.last() {
                None if reading => BEGIN_READING,
                None if several => BEGIN_SEVERAL,
                None => BEGIN_WRITING,
                Some(Ok(())) => NEXT_SAVEPOINT,
                Some(Err(_)) => NEXT_AFTER_REFUSAL,
            };
            let now = match self.look_at_clock(opening, clock).await {
                Ok(now) => now,
                Err(fault) => return self.give_up(fault).await,
            };
            let (result, fault) = self.perform(*job, now).await;
            let result = match (result, fault) {
                (_, Some(fault @ (Fault::Again(_) | Fault::Lost(_)))) => return self.give_up(fault).await,
                (_, Some(Fault::Busy(text))) if several => return self.give_up(Fault::Again(text)).await,
                // An operation that goes on after a refusal cannot: the server has ended its part.
                (Ok(()), Some(fault)) => Err(OpError::Database(fault.text().to_owned())),
                (result, _) => result,
            };
            match result {
                Err(error) if !several => return self.refuse(error).await,
                result => results.push(result),
            }
        }
        self.commit(if matches!(results.last(), Some(Err(_))) { "rollback to op; commit" } else { "commit" }, results).await
    }

    async fn commit(&mut self, end: &str, results: Vec<Result<(), OpError>>) -> Outcome {
        let Ok(answer) = tokio::time::timeout(COMMIT_LIMIT, self.client.batch_execute(end)).await else {
            return Outcome::Unknown(OpError::Unknown("the server does not answer".to_owned()));
        };
        match answer.map_err(|e| Fault::of(&e)) {
            Ok(()) => Outcome::Done(results),
            Err(Fault::Lost(text)) => Outcome::Unknown(OpError::Unknown(text)),
            Err(Fault::Again(text)) => Outcome::Again(OpError::Database(text)),
            // The server has said that it rolled back.
            Err(Fault::Refused(text) | Fault::Busy(text)) => {
                Outcome::Done(results.into_iter().map(|_| Err(OpError::Database(text.clone()))).collect())
            }
        }
    }

    async fn refuse(&mut self, error: OpError) -> Outcome {
        match self.client.batch_execute("rollback").await {
            Ok(()) => Outcome::Done(vec![Err(error)]),
            Err(_) => Outcome::Lost(error),
        }
    }

    async fn give_up(&mut self, fault: Fault) -> Outcome {
        let error = OpError::Database(fault.text().to_owned());
        match fault {
            Fault::Again(_) if self.client.batch_execute("rollback").await.is_ok() => Outcome::Again(error),
            Fault::Refused(_) | Fault::Busy(_) if self.client.batch_execute("rollback").await.is_ok() => {
                Outcome::Done(vec![Err(error)])
            }
            _ => Outcome::Lost(error),
        }
    }

    /// Looks at the server's clock outside of a transaction.
    pub(super) async fn look(&mut self, clock: &Carried) -> Result<(), String> {
        self.look_at_clock(with_clock!(""), clock).await.map(drop).map_err(|f| f.text().to_owned())
    }

    async fn look_at_clock(&mut self, text: &str, clock: &Carried) -> Result<Timestamp, Fault> {
        let sent = clock.elapsed();
        let asked = tokio::time::timeout(COMMIT_LIMIT, self.client.simple_query(text)).await;
        let asked = asked.map_err(|_| Fault::Lost("the server does not answer".to_owned()))?;
        let answers = asked.map_err(|e| Fault::of(&e))?;
        let told =
            answers.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0)?.parse().ok() } else { None });
        let told = told.ok_or_else(|| Fault::Lost("the server did not tell its time".to_owned()))?;
        Ok(clock.note(Timestamp(told), sent))
    }

    async fn perform(&mut self, job: &dyn Job, now: Timestamp) -> (Result<(), OpError>, Option<Fault>) {
        let mut raw = PgTx { connection: self, now, fault: None };
        let outcome = {
            let mut tx = Tx::new(&mut raw);
            // Why caught: one operation's fault must not take the connection's task away from all others.
            tokio::time::timeout(OPERATION_LIMIT, AssertUnwindSafe(job.run(&mut tx)).catch_unwind()).await
        };
        match outcome {
            Ok(Ok(result)) => (result, raw.fault),
            Ok(Err(cause)) => {
                let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
                let text = format!("operation {} panicked: {}", job.name(), text.unwrap_or("without a text"));
                (Err(OpError::Corrupt(text)), raw.fault)
            }
            Err(_) => {
                let text = format!("operation {} took longer than {} s", job.name(), OPERATION_LIMIT.as_secs());
                (Err(OpError::Database(text.clone())), Some(Fault::Lost(text)))
            }
        }
    }

    async fn prepared(&mut self, text: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(text) {
            return Ok(known.clone());
        }
        let prepared = self.client.prepare(&values::numbered(text)).await?;
        self.statements.insert(text, prepared.clone());
        Ok(prepared)
    }
}

/// A transaction on a connection. Whoever made it begins and ends it.
struct PgTx<'c> {
    connection: &'c mut Connection,
    now: Timestamp,
    /// The first error of the database, after which the transaction only waits for its end.
    fault: Option<Fault>,
}

impl PgTx<'_> {
    async fn exec_now(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<u64, tokio_postgres::Error> {
        let statement = self.connection.prepared(stmt.postgres.unwrap_or(stmt.text)).await?;
        self.connection.client.execute_raw(&statement, params.iter()).await
    }

    async fn rows_now(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<Vec<tokio_postgres::Row>, tokio_postgres::Error> {
        let statement = self.connection.prepared(stmt.postgres.unwrap_or(stmt.text)).await?;
        self.connection.client.query_raw(&statement, params.iter()).await?.try_collect().await
    }

    async fn batch_now(&mut self, stmt: &'static Stmt, rows: &[Vec<Val>]) -> Result<u64, tokio_postgres::Error> {
        if let Some(text) = stmt.many {
            let statement = self.connection.prepared(text).await?;
            return self.connection.client.execute_raw(&statement, values::columns(rows)).await;
        }
        let statement = self.connection.prepared(stmt.postgres.unwrap_or(stmt.text)).await?;
        let mut changed = 0;
        // Few enough that they are sent in order.
        for some in rows.chunks(PIPELINED) {
            let client = &self.connection.client;
            let sent = some.iter().map(|params| client.execute_raw(&statement, params.iter()));
            changed += try_join_all(sent).await?.into_iter().sum::<u64>();
        }
        Ok(changed)
    }

    /// Few enough that they are sent in order.
    async fn all_now(&mut self, writes: &[Write]) -> Result<Vec<u64>, tokio_postgres::Error> {
        let mut prepared = Vec::with_capacity(writes.len());
        for write in writes {
            let text = if write.rows.len() > 1 { write.stmt.many } else { None };
            let text = text.unwrap_or_else(|| write.stmt.postgres.unwrap_or(write.stmt.text));
            prepared.push(self.connection.prepared(text).await?);
        }
        let client = &self.connection.client;
        let sent = writes.iter().zip(&prepared).map(|(write, statement)| async move {
            if write.stmt.many.is_some() && write.rows.len() > 1 {
                return client.execute_raw(statement, values::columns(&write.rows)).await;
            }
            let each = write.rows.iter().map(|params| client.execute_raw(statement, params.iter()));
            Ok(try_join_all(each).await?.into_iter().sum::<u64>())
        });
        try_join_all(sent).await
    }

    fn note<T>(&mut self, answer: Result<T, tokio_postgres::Error>) -> Result<T, OpError> {
        answer.map_err(|e| {
            let fault = Fault::of(&e);
            let error = OpError::Database(fault.text().to_owned());
            self.fault.get_or_insert(fault);
            error
        })
    }
}

impl RawTx for PgTx<'_> {
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64> {
        Box::pin(async move {
            let answer = self.exec_now(stmt, params).await;
            self.note(answer)
        })
    }

    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>> {
        Box::pin(async move {
            let answer = self.rows_now(stmt, params).await;
            self.note(answer)?.iter().map(values::row).collect()
        })
    }

    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: &'a [Vec<Val>]) -> Answer<'a, u64> {
        Box::pin(async move {
            let answer = self.batch_now(stmt, rows).await;
            self.note(answer)
        })
    }

    fn all<'a>(&'a mut self, writes: &'a [Write]) -> Answer<'a, Vec<u64>> {
        Box::pin(async move {
            let answer = self.all_now(writes).await;
            self.note(answer)
        })
    }

    fn now(&mut self) -> Answer<'_, Timestamp> {
        Box::pin(std::future::ready(Ok(self.now)))
    }
}
