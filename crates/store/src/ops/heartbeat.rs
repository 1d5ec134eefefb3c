//! Keeping leases, giving them back, and the account of time in which no worker was alive (H12).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use provisor_core::mutant::{self, Mutant};
use provisor_core::{RequestId, Timestamp};

use super::save::Context;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Query, Stmt, Tx, both};
use crate::value::Val;

/// Extends the leases that a worker knows of. One that it does not name runs out, and the request is taken
/// up under a higher generation: so a claim or a settlement whose answer was lost is found again. Rejected:
/// extending all leases of a worker, also those that it has never heard of, which would never run out.
pub struct KeepLeases {
    /// Whose.
    pub worker: String,
    /// Request and generation.
    pub leases: Vec<(RequestId, i64)>,
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

const EXTEND: Stmt = both("update request set due_at = ?4 where id = ?1 and generation = ?2 and worker = ?3 returning attention");
// Only for a broken variant.
const EXTEND_ALL: Stmt =
    both("update request set due_at = ?2 where worker = ?1 and state <> 'queued' and due_at < 9223372036854775807");
const ALIVE: Stmt = both("select name, value from meta where name in ('alive_at', 'downtime')");
const PUT: Stmt = both("insert into meta (name, value) values (?1, ?2) on conflict (name) do update set value = excluded.value");
const HAND_BACK: Stmt = both("update request set worker = null, due_at = ?3 where id = ?1 and generation = ?2 and worker = ?4");
const FREE_ALL: Stmt = both(
    "update request set worker = null, due_at = ?1 where state <> 'queued' and due_at < 9223372036854775807 and worker is not null",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&EXTEND, &EXTEND_ALL, &ALIVE, &PUT, &HAND_BACK, &FREE_ALL];

impl Op for KeepLeases {
    type Out = Vec<Kept>;
    const NAME: &'static str = "keep_leases";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Kept>, OpError> {
        let now = tx.now().await?;
        count_downtime(tx, &self.context, now).await?;
        let until = now.plus(self.context.lease);
        let mut kept = Vec::with_capacity(self.leases.len());
        let extend = |(id, generation): &(RequestId, i64)| {
            let values = vec![(*id).into(), (*generation).into(), self.worker.as_str().into(), until.0.into()];
            Query::new(&EXTEND, values)
        };
        let extended = self.leases.iter().map(extend).collect();
        if mutant::on(Mutant::BlindHeartbeat) {
            tx.exec(&EXTEND_ALL, &[self.worker.as_str().into(), until.0.into()]).await?;
        }
        for ((id, generation), rows) in self.leases.iter().zip(tx.several(extended).await?) {
            if let Some(row) = rows.first() {
                kept.push(Kept { id: *id, generation: *generation, attention: row.int(0)? != 0 });
            }
        }
        Ok(kept)
    }
}

/// A gap of more than two leases since any worker's last heartbeat was downtime of Provisor.
async fn count_downtime(tx: &mut Tx<'_>, context: &Context, now: Timestamp) -> Result<(), OpError> {
    let (mut alive, mut downtime) = (now.0, 0);
    for row in tx.rows(&ALIVE, &[]).await? {
        let value = row.text(1)?.parse::<i64>().map_err(|e| OpError::Corrupt(e.to_string()))?;
        if row.text(0)? == "alive_at" { alive = value } else { downtime = value }
    }
    let gap = now.0.saturating_sub(alive);
    if gap > context.lease.0.saturating_mul(2) {
        downtime += gap;
        tx.send(&PUT, &["downtime".into(), downtime.to_string().into()]).await?;
    }
    tx.send(&PUT, &["alive_at".into(), now.0.to_string().into()]).await?;
    context.downtime.store(downtime, Ordering::Relaxed);
    Ok(())
}

/// Reads the account of downtime into the surroundings of a process that keeps no leases.
pub struct Downtime {
    /// Surroundings; its downtime is refreshed.
    pub context: Arc<Context>,
}

impl Op for Downtime {
    type Out = ();
    const NAME: &'static str = "downtime";
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        for row in tx.rows(&ALIVE, &[]).await?.iter().filter(|row| row.text(0).is_ok_and(|name| name == "downtime")) {
            let value = row.text(1)?.parse::<i64>().map_err(|e| OpError::Corrupt(e.to_string()))?;
            self.context.downtime.fetch_max(value, Ordering::Relaxed);
        }
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
        tx.batch(&HAND_BACK, rows).await
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
