//! Keeping leases, giving them back, and the account of time in which no worker was alive (H12).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use provisor_core::{RequestId, Timestamp};

use super::save::Context;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::Val;

/// Extends all leases of a worker.
pub struct Heartbeat {
    /// Whose.
    pub worker: String,
    /// Surroundings; its downtime is refreshed.
    pub context: Arc<Context>,
}

/// A lease that the worker still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Of which request.
    pub id: RequestId,
    /// Its generation.
    pub generation: i64,
    /// A command came: look at once.
    pub attention: bool,
}

const EXTEND: Stmt = both("update request set due_at = ?2 where worker = ?1 returning id, generation, attention");
const ALIVE: Stmt = both("select name, value from meta where name in ('alive_at', 'downtime')");
const PUT: Stmt = both("insert into meta (name, value) values (?1, ?2) on conflict (name) do update set value = excluded.value");
const HAND_BACK: Stmt = both("update request set worker = null, due_at = ?3 where id = ?1 and generation = ?2 and worker = ?4");
const FREE_ALL: Stmt = both("update request set worker = null, due_at = ?1 where worker is not null");

pub(crate) const STATEMENTS: &[&Stmt] = &[&EXTEND, &ALIVE, &PUT, &HAND_BACK, &FREE_ALL];

impl Op for Heartbeat {
    type Out = Vec<Kept>;
    const NAME: &'static str = "heartbeat";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Kept>, OpError> {
        let now = tx.now().await?;
        self.count_downtime(tx, now).await?;
        let until = now.plus(self.context.lease);
        let rows = tx.rows(&EXTEND, &[self.worker.as_str().into(), until.0.into()]).await?;
        rows.iter().map(|r| Ok(Kept { id: r.id(0)?, generation: r.int(1)?, attention: r.int(2)? != 0 })).collect()
    }
}

impl Heartbeat {
    /// A gap of more than two leases since any worker's last heartbeat was downtime of Provisor.
    async fn count_downtime(&self, tx: &mut Tx<'_>, now: Timestamp) -> Result<(), OpError> {
        let (mut alive, mut downtime) = (now.0, 0);
        for row in tx.rows(&ALIVE, &[]).await? {
            let value = row.text(1)?.parse::<i64>().map_err(|e| OpError::Corrupt(e.to_string()))?;
            if row.text(0)? == "alive_at" { alive = value } else { downtime = value }
        }
        let gap = now.0.saturating_sub(alive);
        if gap > self.context.lease.0.saturating_mul(2) {
            downtime += gap;
            tx.exec(&PUT, &["downtime".into(), downtime.to_string().into()]).await?;
        }
        tx.exec(&PUT, &["alive_at".into(), now.0.to_string().into()]).await?;
        self.context.downtime.store(downtime, Ordering::Relaxed);
        Ok(())
    }
}

/// Gives leases back at shutdown; those with a create in flight run out instead (H5).
pub struct HandBack {
    /// Whose.
    pub worker: String,
    /// Request and generation.
    pub leases: Vec<(RequestId, i64)>,
}

impl Op for HandBack {
    type Out = ();
    const NAME: &'static str = "hand_back";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let now = tx.now().await?;
        let rows: Vec<Vec<Val>> = self
            .leases
            .iter()
            .map(|(id, generation)| vec![(*id).into(), (*generation).into(), now.0.into(), self.worker.as_str().into()])
            .collect();
        tx.batch(&HAND_BACK, &rows).await.map(|_| ())
    }
}

/// Frees every lease: at the start of the one process that holds the folder nobody else can be alive.
/// What a dead process may still have on the wire is covered by `send_by` (H5).
pub struct FreeAll;

impl Op for FreeAll {
    type Out = u64;
    const NAME: &'static str = "free_all";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<u64, OpError> {
        let now = tx.now().await?;
        tx.exec(&FREE_ALL, &[now.0.into()]).await
    }
}
