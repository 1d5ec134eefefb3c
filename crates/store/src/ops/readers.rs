//! Followers of the log and how far each has come.

use crate::op::{Mode, Op, OpError};
use crate::ops::log;
use crate::tx::{Stmt, Tx, both};

const GET: Stmt = both("select position from reader where name = ?1");
const OPEN: Stmt = both("insert into reader (name, position) values (?1, ?2) on conflict (name) do nothing");
const ADVANCE: Stmt = both("update reader set position = ?2 where name = ?1 and position < ?2");
const REMOVE: Stmt = both("delete from reader where name = ?1");
const ALL: Stmt = both("select name, position from reader order by name");

pub(crate) const STATEMENTS: &[&Stmt] = &[&GET, &OPEN, &ADVANCE, &REMOVE, &ALL];

/// Where a new follower begins (H38).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event.
    Beginning,
    /// With the next event.
    Head,
}

/// A follower's position; a new follower is set to its start.
#[derive(Debug, Clone)]
pub struct OpenReader {
    /// Its name.
    pub name: String,
    /// Where it begins when it is new.
    pub start: Start,
}

impl Op for OpenReader {
    type Out = i64;
    const NAME: &'static str = "open_reader";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let start = match self.start {
            Start::Beginning => 0,
            Start::Head => {
                log::catch_up(tx).await?;
                log::head(tx).await?
            }
        };
        tx.exec(&OPEN, &[self.name.as_str().into(), start.into()]).await?;
        position(tx, &self.name).await?.ok_or(OpError::NotFound("reader"))
    }
}

/// A follower's position, if there is such a follower.
#[derive(Debug, Clone)]
pub struct ReaderPosition {
    /// Its name.
    pub name: String,
}

impl Op for ReaderPosition {
    type Out = Option<i64>;
    const NAME: &'static str = "reader_position";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        position(tx, &self.name).await
    }
}

/// Moves a follower on, never back; answers where it is.
#[derive(Debug, Clone)]
pub struct AdvanceReader {
    /// Its name.
    pub name: String,
    /// Everything up to here is dealt with.
    pub to: i64,
}

impl Op for AdvanceReader {
    type Out = i64;
    const NAME: &'static str = "advance_reader";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.exec(&ADVANCE, &[self.name.as_str().into(), self.to.into()]).await?;
        position(tx, &self.name).await?.ok_or(OpError::NotFound("reader"))
    }
}

/// Forgets a follower.
#[derive(Debug, Clone)]
pub struct RemoveReader {
    /// Its name.
    pub name: String,
}

impl Op for RemoveReader {
    type Out = ();
    const NAME: &'static str = "remove_reader";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.exec(&REMOVE, &[self.name.as_str().into()]).await.map(drop)
    }
}

/// How far a follower is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub position: i64,
    /// Positions between it and the end of the log.
    pub behind: i64,
}

/// How far every follower is behind.
#[derive(Debug, Clone, Copy)]
pub struct Backlogs;

impl Op for Backlogs {
    type Out = Vec<Backlog>;
    const NAME: &'static str = "backlogs";
    const MODE: Mode = Mode::Follow;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let head = log::head(tx).await?;
        let rows = tx.rows(&ALL, &[]).await?;
        let read = |row: &crate::value::Row| {
            let position = row.int(1)?;
            Ok(Backlog { name: row.text(0)?.to_owned(), position, behind: head.saturating_sub(position).max(0) })
        };
        rows.iter().map(read).collect()
    }
}

async fn position(tx: &mut Tx<'_>, name: &str) -> Result<Option<i64>, OpError> {
    tx.row(&GET, &[name.into()]).await?.map(|row| row.int(0)).transpose()
}
