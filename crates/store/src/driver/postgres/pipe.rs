//! The transaction as operations see it. What nobody waits for is sent along with what comes next, so that an operation
//! costs as many round trips as it asks questions, and one for its end.
//!
//! The order on the wire is the order in which an operation asked, so nothing that it reads misses what it wrote. An
//! error of something that was sent along comes with the next answer; what was not yet sent when an operation is refused
//! is never sent. Rows of one table are inserted by one statement: the driver makes an `unnest` of the statement for one.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures::{FutureExt, TryStreamExt};
use provisor_core::Timestamp;
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement};

use super::faults::Fault;
use super::values;
use crate::clock::Carried;
use crate::op::OpError;
use crate::tx::{Answer, Query, RawTx, Stmt};
use crate::value::{Row, Val};

/// What waits to be sent is sent at this number in any case.
const WAITING_LIMIT: usize = 256;

/// The values of a statement.
enum Values {
    Row(Vec<Val>),
    /// A column for each parameter, for `unnest`.
    Columns(Vec<Vec<Val>>),
}

impl Values {
    /// Rows of values as a column for each parameter.
    fn columns(rows: Vec<Vec<Val>>) -> Self {
        let count = rows.first().map_or(0, Vec::len);
        let mut columns: Vec<Vec<Val>> = (0..count).map(|_| Vec::with_capacity(rows.len())).collect();
        for row in rows {
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
        }
        Self::Columns(columns)
    }
}

/// Something to be sent.
enum Message {
    /// A text without values: a savepoint, an end.
    Control(&'static str),
    /// The same, whose answer holds the server's time.
    Clock(&'static str),
    /// A statement whose answer is at most a number of rows, and how many they must be.
    Change(Statement, Values, Option<u64>),
    /// A query.
    Query(Statement, Values),
}

/// What is sent with the next exchange, and whose it is.
struct Waiting {
    message: Message,
    of: usize,
}

/// An error, and which operation of a group caused it.
pub(super) struct Trouble {
    pub(super) fault: Fault,
    pub(super) of: usize,
}

/// A connection with its prepared statements.
pub(super) struct Pipe {
    pub(super) client: Client,
    clock: Arc<Carried>,
    statements: BTreeMap<&'static str, Statement>,
    many: BTreeMap<&'static str, Statement>,
    waiting: Vec<Waiting>,
    /// The operation of the group that is being run.
    pub(super) current: usize,
    /// Exchanges since the transaction was begun.
    pub(super) exchanges: usize,
}

type Exchange<'a> = Pin<Box<dyn Future<Output = Result<Vec<tokio_postgres::Row>, Fault>> + Send + 'a>>;

impl Pipe {
    pub(super) fn new(client: Client, clock: Arc<Carried>) -> Self {
        let (statements, many) = (BTreeMap::new(), BTreeMap::new());
        Self { client, clock, statements, many, waiting: Vec::new(), current: 0, exchanges: 0 }
    }

    /// Starts anew: nothing waits, and the transaction's beginning goes with the first question.
    pub(super) fn begin(&mut self, text: &'static str) {
        (self.current, self.exchanges) = (0, 0);
        self.waiting.clear();
        self.waiting.push(Waiting { message: Message::Clock(text), of: 0 });
    }

    pub(super) fn control(&mut self, text: &'static str) {
        self.waiting.push(Waiting { message: Message::Control(text), of: self.current });
    }

    /// How much waits to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Forgets what waits beyond so many.
    pub(super) fn forget(&mut self, from: usize) {
        self.waiting.truncate(from);
    }

    /// Whether something that waits may still turn out not to be as it must.
    pub(super) fn is_in_question(&self) -> bool {
        self.waiting.iter().any(|w| matches!(w.message, Message::Change(_, _, Some(_))))
    }

    /// Sends all that waits, and nobody waits for the answers. What never asked anything has not even begun.
    pub(super) fn send_off(&mut self) {
        let sent = std::mem::take(&mut self.waiting);
        if self.exchanges > 0 {
            for waiting in &sent {
                // Polled once it is on its way; dropped, its answer is passed over.
                drop(self.deliver(&waiting.message).now_or_never());
            }
        }
    }

    /// Sends all that waits and waits for its answers.
    pub(super) async fn exchange(&mut self) -> Result<(), Trouble> {
        self.ask(Vec::new()).await.map(drop)
    }

    /// The same, and some questions behind it; their answers.
    async fn ask(&mut self, questions: Vec<(Statement, Values)>) -> Result<Vec<Vec<tokio_postgres::Row>>, Trouble> {
        let before = self.waiting.len();
        let of = self.current;
        let questions = questions.into_iter().map(|(s, values)| Waiting { message: Message::Query(s, values), of });
        self.waiting.extend(questions);
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        self.exchanges += 1;
        let sent = std::mem::take(&mut self.waiting);
        let told = in_order(sent.iter().map(|w| self.deliver(&w.message)).collect()).await;
        let mut answers = Vec::with_capacity(sent.len() - before);
        for (index, (waiting, answer)) in sent.iter().zip(told).enumerate() {
            let rows = answer.map_err(|fault| Trouble { fault, of: waiting.of })?;
            if index >= before {
                answers.push(rows);
            }
        }
        Ok(answers)
    }

    /// Its future sends when it is polled first.
    fn deliver<'a>(&'a self, message: &'a Message) -> Exchange<'a> {
        let client = &self.client;
        let lost = |e: Error| Fault::of(&e);
        match message {
            Message::Control(text) => {
                Box::pin(async move { client.batch_execute(text).await.map(|()| Vec::new()).map_err(lost) })
            }
            Message::Clock(text) => Box::pin(async move { self.look_at_clock(text).await.map(|_| Vec::new()) }),
            Message::Change(statement, values, expected) => Box::pin(async move {
                let changed = match values {
                    Values::Row(values) => client.execute_raw(statement, values.iter()).await,
                    Values::Columns(columns) => client.execute_raw(statement, columns.iter()).await,
                };
                let changed = changed.map_err(lost)?;
                if expected.is_none_or(|expected| expected == changed) { Ok(Vec::new()) } else { Err(Fault::Fenced) }
            }),
            Message::Query(statement, values) => Box::pin(async move {
                let found = match values {
                    Values::Row(values) => client.query_raw(statement, values.iter()).await,
                    Values::Columns(columns) => client.query_raw(statement, columns.iter()).await,
                };
                found.map_err(lost)?.try_collect().await.map_err(lost)
            }),
        }
    }

    pub(super) async fn look_at_clock(&self, text: &str) -> Result<Timestamp, Fault> {
        let sent = self.clock.elapsed();
        let answers = self.client.simple_query(text).await.map_err(|e| Fault::of(&e))?;
        let told =
            answers.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { row.get(0)?.parse().ok() } else { None });
        let told = told.ok_or_else(|| Fault::Lost("the server did not tell its time".to_owned()))?;
        Ok(self.clock.note(Timestamp(told), sent))
    }

    async fn prepared(&mut self, stmt: &'static Stmt) -> Result<Statement, Trouble> {
        let text = stmt.postgres.unwrap_or(stmt.text);
        if let Some(known) = self.statements.get(text) {
            return Ok(known.clone());
        }
        let of = self.current;
        let prepared = self.client.prepare(&values::numbered(text)).await;
        let prepared = prepared.map_err(|e| Trouble { fault: Fault::of(&e), of })?;
        self.statements.insert(text, prepared.clone());
        Ok(prepared)
    }

    /// The statement over arrays, where there is one.
    async fn prepared_for_many(&mut self, stmt: &'static Stmt) -> Result<Option<Statement>, Trouble> {
        if stmt.arrays {
            return self.prepared(stmt).await.map(Some);
        }
        let text = stmt.postgres.unwrap_or(stmt.text);
        if let Some(known) = self.many.get(text) {
            return Ok(Some(known.clone()));
        }
        let one = self.prepared(stmt).await?;
        let Some(unnested) = values::unnested(text, one.params()) else { return Ok(None) };
        let of = self.current;
        let prepared = self.client.prepare(&unnested).await.map_err(|e| Trouble { fault: Fault::of(&e), of })?;
        self.many.insert(text, prepared.clone());
        Ok(Some(prepared))
    }
}

/// Polls all once in order, so that all are sent in order; their answers come in the same order.
async fn in_order<T>(mut all: Vec<Pin<Box<dyn Future<Output = T> + Send + '_>>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    let mut sent = false;
    poll_fn(|context| {
        let mut open = false;
        for (future, slot) in all.iter_mut().zip(&mut done).filter(|(_, slot)| slot.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(value) => *slot = Some(value),
                // Later ones cannot be there before it.
                Poll::Pending if sent => return Poll::Pending,
                Poll::Pending => open = true,
            }
        }
        sent = true;
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// A transaction on a connection. Whoever made it begins and ends it.
pub(super) struct PgTx<'c> {
    pub(super) pipe: &'c mut Pipe,
    pub(super) now: Timestamp,
    /// The first error of the database, after which the transaction only waits for its end.
    pub(super) fault: Option<Fault>,
}

impl PgTx<'_> {
    fn note<T>(&mut self, answer: Result<T, Trouble>) -> Result<T, OpError> {
        answer.map_err(|trouble| {
            // Another operation's error shows only now: one by one each gets its own.
            let other = trouble.of != self.pipe.current;
            let fault = if other { Fault::Again(trouble.fault.text().to_owned()) } else { trouble.fault };
            let error = fault.error();
            self.fault.get_or_insert(fault);
            error
        })
    }

    async fn send_now(&mut self, message: Message) -> Result<(), Trouble> {
        let of = self.pipe.current;
        self.pipe.waiting.push(Waiting { message, of });
        if self.pipe.waiting.len() < WAITING_LIMIT { Ok(()) } else { self.pipe.exchange().await }
    }

    async fn batch_now(&mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>, each_one: bool) -> Result<(), Trouble> {
        let many = if stmt.arrays || rows.len() > 1 { self.pipe.prepared_for_many(stmt).await? } else { None };
        if let Some(statement) = many {
            let expected = each_one.then_some(rows.len() as u64);
            return self.send_now(Message::Change(statement, Values::columns(rows), expected)).await;
        }
        let statement = self.pipe.prepared(stmt).await?;
        for row in rows {
            self.send_now(Message::Change(statement.clone(), Values::Row(row), each_one.then_some(1))).await?;
        }
        Ok(())
    }

    async fn several_now(&mut self, queries: Vec<Query>) -> Result<Vec<Vec<tokio_postgres::Row>>, Trouble> {
        let mut prepared = Vec::with_capacity(queries.len());
        let mut counts = Vec::with_capacity(queries.len());
        for Query { stmt, rows } in queries {
            if rows.is_empty() {
                counts.push(0);
                continue;
            }
            let statement = self.pipe.prepared(stmt).await?;
            counts.push(if stmt.arrays { 1 } else { rows.len() });
            if stmt.arrays {
                prepared.push((statement, Values::columns(rows)));
            } else {
                prepared.extend(rows.into_iter().map(|row| (statement.clone(), Values::Row(row))));
            }
        }
        let mut answers = self.pipe.ask(prepared).await?.into_iter();
        Ok(counts.into_iter().map(|count| answers.by_ref().take(count).flatten().collect()).collect())
    }

    /// Sends what waits, where the operation is alone and its end is near.
    pub(super) async fn finish(&mut self) -> Result<(), OpError> {
        let answer = self.pipe.exchange().await;
        self.note(answer)
    }
}

fn read(rows: &[tokio_postgres::Row]) -> Result<Vec<Row>, OpError> {
    rows.iter().map(values::row).collect()
}

impl RawTx for PgTx<'_> {
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64> {
        Box::pin(async move {
            let answer = async {
                let statement = self.pipe.prepared(stmt).await?;
                self.pipe.exchange().await?;
                self.pipe.exchanges += 1;
                let changed = self.pipe.client.execute_raw(&statement, params.iter()).await;
                changed.map_err(|e| Trouble { fault: Fault::of(&e), of: self.pipe.current })
            };
            let answer = answer.await;
            self.note(answer)
        })
    }

    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>> {
        Box::pin(async move {
            let answer = async {
                let statement = self.pipe.prepared(stmt).await?;
                self.pipe.ask(vec![(statement, Values::Row(params.to_vec()))]).await
            };
            let answer = answer.await;
            read(&self.note(answer)?.concat())
        })
    }

    fn several(&mut self, queries: Vec<Query>) -> Answer<'_, Vec<Vec<Row>>> {
        Box::pin(async move {
            let answer = self.several_now(queries).await;
            self.note(answer)?.iter().map(|rows| read(rows)).collect()
        })
    }

    fn send<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val], expected: Option<u64>) -> Answer<'a, ()> {
        Box::pin(async move {
            let answer = async {
                let statement = self.pipe.prepared(stmt).await?;
                self.send_now(Message::Change(statement, Values::Row(params.to_vec()), expected)).await
            };
            let answer = answer.await;
            self.note(answer)
        })
    }

    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>, each_one: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            let answer = self.batch_now(stmt, rows, each_one).await;
            self.note(answer)
        })
    }

    fn now(&mut self) -> Answer<'_, Timestamp> {
        Box::pin(std::future::ready(Ok(self.now)))
    }
}
