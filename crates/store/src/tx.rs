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
}

/// A statement that is the same in both databases.
pub const fn both(text: &'static str) -> Stmt {
    Stmt { text, postgres: None }
}

/// A statement with a text for each database.
pub const fn each(text: &'static str, postgres: &'static str) -> Stmt {
    Stmt { text, postgres: Some(postgres) }
}

/// What a driver's transaction can do.
pub trait RawTx: Send {
    /// Runs a statement; answers the number of rows that it changed.
    fn exec<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, u64>;
    /// Runs a query.
    fn rows<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val]) -> Answer<'a, Vec<Row>>;
    /// Runs several queries, in this order.
    fn several<'a>(&'a mut self, queries: &'a [(&'static Stmt, Vec<Val>)]) -> Answer<'a, Vec<Vec<Row>>>;
    /// Runs a statement whose answer nobody waits for; where it changes another number of rows than is expected the
    /// operation is fenced, at its end at the latest.
    fn send<'a>(&'a mut self, stmt: &'static Stmt, params: &'a [Val], expected: Option<u64>) -> Answer<'a, ()>;
    /// The same once for each row of parameters; SQLite in a loop, PostgreSQL in one statement where it inserts.
    fn batch<'a>(&'a mut self, stmt: &'static Stmt, rows: &'a [Vec<Val>]) -> Answer<'a, ()>;
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
    pub async fn several(&mut self, queries: &[(&'static Stmt, Vec<Val>)]) -> Result<Vec<Vec<Row>>, OpError> {
        if queries.is_empty() {
            return Ok(Vec::new());
        }
        self.raw.several(queries).await
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
    pub async fn batch(&mut self, stmt: &'static Stmt, rows: &[Vec<Val>]) -> Result<(), OpError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.raw.batch(stmt, rows).await
    }

    /// The store's clock (H40), the same through one transaction.
    pub async fn now(&mut self) -> Result<Timestamp, OpError> {
        self.raw.now().await
    }
}
