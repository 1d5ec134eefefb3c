//! The transaction port: all that store logic may ask of a database.

use std::future::Future;
use std::pin::Pin;

use provisor_core::Timestamp;

use crate::op::OpError;
use crate::value::{Row, Val};

/// A boxed future of a driver.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, OpError>> + Send + 'a>>;

/// One statement with its name; the texts of the two databases where they must differ. Placeholders are
/// `?1`, `?2` … in both; the PostgreSQL driver turns them into `$1`, `$2` … when it prepares.
#[derive(Debug, Clone, Copy)]
pub struct Stmt {
    /// For SQLite, and for PostgreSQL where `postgres` is `None`.
    pub text: &'static str,
    /// For PostgreSQL.
    pub postgres: Option<&'static str>,
    /// PostgreSQL's takes an array for each parameter and does many rows at once.
    pub arrays: bool,
}

/// A statement that is the same in both databases.
pub const fn both(text: &'static str) -> Stmt {
    Stmt { text, postgres: None, arrays: false }
}

/// A statement with a text for each database.
pub const fn each(text: &'static str, postgres: &'static str) -> Stmt {
    Stmt { text, postgres: Some(postgres), arrays: false }
}

/// A statement for many rows of parameters: SQLite runs its own for each of them, which costs no round trip there;
/// PostgreSQL's takes an array for each parameter, and does all at once.
pub const fn many(text: &'static str, postgres: &'static str) -> Stmt {
    Stmt { text, postgres: Some(postgres), arrays: true }
}

/// A query with its parameters.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its statement.
    pub stmt: &'static Stmt,
    /// One row of parameters, or any number of them for a statement over arrays.
    pub rows: Vec<Vec<Val>>,
}

impl Query {
    /// With one row of parameters.
    pub fn new(stmt: &'static Stmt, params: Vec<Val>) -> Self {
        Self { stmt, rows: vec![params] }
    }

    /// With many.
    pub fn each(stmt: &'static Stmt, rows: Vec<Vec<Val>>) -> Self {
        Self { stmt, rows }
    }
}

/// What a driver's transaction can do.
pub trait RawTx: Send {
    /// Runs a statement; answers the number of rows that it changed.
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64>;
    /// Runs a query.
    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>>;
    /// Runs several queries, in this order.
    fn several(&mut self, queries: Vec<Query>) -> Answer<'_, Vec<Vec<Row>>>;
    /// Runs a statement whose answer nobody waits for; where it changes another number of rows than is expected the
    /// operation is fenced, at its end at the latest.
    fn send<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val], expected: Option<u64>) -> Answer<'a, ()>;
    /// The same once for each row of parameters; SQLite in a loop, PostgreSQL in one statement where it inserts or is one
    /// over arrays. `each_one`: each must change exactly one row.
    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>, each_one: bool) -> Answer<'a, ()>;
    /// The store's clock (H40).
    fn now(&mut self) -> Answer<'_, Timestamp>;
}

/// A transaction as operations see it.
pub struct Tx<'a> {
    raw: &'a mut dyn RawTx,
}

impl<'a> Tx<'a> {
    /// Wraps a driver's transaction.
    pub fn new(raw: &'a mut dyn RawTx) -> Self {
        Self { raw }
    }

    /// Runs a statement; answers the number of rows that it changed.
    pub async fn exec(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<u64, OpError> {
        self.raw.exec(stmt, params).await
    }

    /// Runs a query.
    pub async fn rows(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<Vec<Row>, OpError> {
        self.raw.rows(stmt, params).await
    }

    /// The first row of a query, if any.
    pub async fn row(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<Option<Row>, OpError> {
        Ok(self.raw.rows(stmt, params).await?.into_iter().next())
    }

    /// Runs several queries that do not depend on one another's answers, in this order: on PostgreSQL in one round trip.
    /// One over arrays answers for all of its rows, so what it selects must tell them apart.
    pub async fn several(&mut self, queries: Vec<Query>) -> Result<Vec<Vec<Row>>, OpError> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        self.raw.several(queries).await
    }

    /// Runs a query over many rows of parameters. What it selects tells them apart.
    pub async fn rows_of(&mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>) -> Result<Vec<Row>, OpError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.raw.several(vec![Query::each(stmt, rows)]).await?.into_iter().flatten().collect())
    }

    /// Runs a statement whose answer nobody waits for. Its error comes with a later answer, or ends the operation.
    pub async fn send(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<(), OpError> {
        self.raw.send(stmt, params, None).await
    }

    /// The same for one that must change one row: where it does not, the operation is fenced, at its end at the latest.
    pub async fn send_one(&mut self, stmt: &'static Stmt, params: &[Val]) -> Result<(), OpError> {
        self.raw.send(stmt, params, Some(1)).await
    }

    /// Runs a statement once for each row of parameters, and waits for no answer.
    pub async fn batch(&mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>) -> Result<(), OpError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.raw.batch(stmt, rows, false).await
    }

    /// The same where each must change one row: where one does not, the operation is fenced, at its end at the latest.
    pub async fn batch_each_one(&mut self, stmt: &'static Stmt, rows: Vec<Vec<Val>>) -> Result<(), OpError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.raw.batch(stmt, rows, true).await
    }

    /// The store's clock (H40), the same through one transaction.
    pub async fn now(&mut self) -> Result<Timestamp, OpError> {
        self.raw.now().await
    }
}
