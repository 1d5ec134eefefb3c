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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stmt {
    /// For SQLite, and for PostgreSQL where `postgres` is `None`.
    pub text: &'static str,
    /// For PostgreSQL.
    pub postgres: Option<&'static str>,
    /// For many rows at once on PostgreSQL: each placeholder is an array with one value of each row. Without it
    /// a batch sends the statement once for each row.
    pub many: Option<&'static str>,
}

impl Stmt {
    /// With a text for many rows at once.
    #[must_use]
    pub const fn many(self, text: &'static str) -> Self {
        Self { many: Some(text), ..self }
    }
}

/// A statement that is the same in both databases.
pub const fn both(text: &'static str) -> Stmt {
    Stmt { text, postgres: None, many: None }
}

/// A statement with a text for each database.
pub const fn each(text: &'static str, postgres: &'static str) -> Stmt {
    Stmt { text, postgres: Some(postgres), many: None }
}

/// A statement with its rows of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// The statement.
    pub stmt: &'static Stmt,
    /// It is run once for each.
    pub rows: Vec<Vec<Val>>,
}

impl Write {
    /// A statement that is run once.
    pub fn once(stmt: &'static Stmt, row: Vec<Val>) -> Self {
        Self { stmt, rows: vec![row] }
    }
}

/// What a driver's transaction can do.
pub trait RawTx: Send {
    /// Runs a statement; answers the number of rows that it changed.
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64>;
    /// Runs a query.
    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>>;
    /// Runs a statement once for each row of parameters; SQLite in a loop, PostgreSQL at once where
    /// the statement has a text for that, else pipelined.
    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: &'a [Vec<Val>]) -> Answer<'a, u64>;
    /// Runs several writes in their order; answers what each changed. SQLite one after the other, PostgreSQL
    /// without waiting for one before the next is sent.
    fn all<'a>(&'a mut self, writes: &'a [Write]) -> Answer<'a, Vec<u64>>;
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

    /// Runs a statement once for each row of parameters.
    pub async fn batch(&mut self, stmt: &'static Stmt, rows: &[Vec<Val>]) -> Result<u64, OpError> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.raw.batch(stmt, rows).await
    }

    /// Runs several writes, none of which needs another's answer; answers what each changed.
    pub async fn all(&mut self, writes: &[Write]) -> Result<Vec<u64>, OpError> {
        self.raw.all(writes).await
    }

    /// The store's clock (H40), the same through one transaction.
    pub async fn now(&mut self) -> Result<Timestamp, OpError> {
        self.raw.now().await
    }
}
