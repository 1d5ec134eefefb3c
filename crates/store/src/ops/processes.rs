//! The workers that are alive, in an order: what is divided among them (H28) is divided by it.
//!
//! A new one takes its place at once, but uses it only after a whole lease: by then every other has looked again and
//! made room, or is known to be dead.

use provisor_core::Span;

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};

const BEAT: Stmt = both(
    "insert into process (name, since, until) values (?1, ?2, ?3) on conflict (name) do update set until = excluded.until, \
     since = case when process.until <= excluded.since then excluded.since else process.since end",
);
const FORGET: Stmt = both("delete from process where until <= ?1");
const ALIVE: Stmt = both("select name, since from process where until > ?1 order by name");

pub(crate) const STATEMENTS: &[&Stmt] = &[&BEAT, &FORGET, &ALIVE];

/// The place of a worker among those that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From 0.
    pub rank: u32,
    /// How many there are; 0 when this one has no part yet.
    pub count: u32,
}

impl Place {
    /// Of the only one.
    pub fn alone() -> Self {
        Self { rank: 0, count: 1 }
    }

    /// Of one that has no part.
    pub fn none() -> Self {
        Self { rank: 0, count: 0 }
    }
}

/// A worker says that it is alive, and asks for its place.
#[derive(Debug, Clone)]
pub struct Beat {
    /// Its name.
    pub name: String,
    /// For how long.
    pub lease: Span,
}

impl Op for Beat {
    type Out = Place;
    const NAME: &'static str = "beat";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Place, OpError> {
        let now = tx.now().await?;
        tx.exec(&FORGET, &[now.0.into()]).await?;
        tx.exec(&BEAT, &[self.name.as_str().into(), now.0.into(), now.plus(self.lease).0.into()]).await?;
        let alive = tx.rows(&ALIVE, &[now.0.into()]).await?;
        let mut place = Place::none();
        for (rank, row) in alive.iter().enumerate() {
            let settled = now.0.saturating_sub(row.int(1)?) >= self.lease.0;
            if row.text(0)? == self.name && settled {
                let count = u32::try_from(alive.len()).unwrap_or(u32::MAX);
                place = Place { rank: u32::try_from(rank).unwrap_or(u32::MAX), count };
            }
        }
        Ok(place)
    }
}
