//! What a sweep did not find of what should be there (H15): counted for each row, and told of the service once two
//! sweeps in a row have missed it, and again once it is back. State, quota and ledger stay as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::event::Actor;
use provisor_core::{ClusterId, RequestId, ResourceId};

use super::save::{self, Context, Lease};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};
use crate::value::Val;

const MISSED: Stmt = both("select id, request, missed from resource where cluster = ?1 and missed > 0 order by id limit ?2");
const MISS: Stmt =
    both("update resource set missed = missed + 1 where id = ?1 and open = 1 returning request, missed, kind, provider_id");
const FOUND: Stmt = both("update resource set missed = 0 where id = ?1");
const STILL: Stmt = both("select count(*) from resource where request = ?1 and missed >= ?2");
const DUE: Stmt = both("select due_at from request where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&MISSED, &MISS, &FOUND, &STILL, &DUE];

/// Sweeps in a row that must miss an object.
const TWICE: i64 = 2;
/// Rows looked at in one transaction; what is more is looked at by the next sweep.
const AT_MOST: usize = 1000;

/// Notes which open rows of services that stand one whole sweep of a cluster has missed.
pub struct NoteDrift {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// The rows.
    pub missing: Vec<ResourceId>,
    /// Surroundings.
    pub context: Arc<Context>,
}

impl Op for NoteDrift {
    type Out = Vec<RequestId>;
    const NAME: &'static str = "note_drift";
    const MODE: Mode = Mode::Write;

    /// Answers the requests of which something new was told.
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<RequestId>, OpError> {
        let missing: BTreeSet<ResourceId> = self.missing.iter().copied().take(AT_MOST).collect();
        let mut back: BTreeSet<RequestId> = BTreeSet::new();
        let mut found = Vec::new();
        let limit = i64::try_from(AT_MOST).unwrap_or(i64::MAX);
        for row in tx.rows(&MISSED, &[self.cluster.into(), limit.into()]).await? {
            let id: ResourceId = row.id(0)?;
            if !missing.contains(&id) {
                found.push(vec![Val::from(id)]);
                if row.int(2)? >= TWICE {
                    back.insert(row.id(1)?);
                }
            }
        }
        tx.batch(&FOUND, found).await?;
        let mut gone: BTreeMap<RequestId, Vec<String>> = BTreeMap::new();
        for id in &missing {
            let Some(row) = tx.row(&MISS, &[(*id).into()]).await? else { continue };
            if row.int(1)? >= TWICE {
                let what = format!("{} {}", row.text(2)?, row.opt_text(3)?.unwrap_or("without an id"));
                gone.entry(row.id(0)?).or_default().push(what);
            }
        }
        let mut told = Vec::new();
        for (request, what) in gone {
            if self.tell(tx, request, Some(format!("not there any more: {}", what.join(", ")))).await? {
                told.push(request);
            }
        }
        for request in back {
            let still = tx.row(&STILL, &[request.into(), TWICE.into()]).await?.map_or(Ok(0), |row| row.int(0))?;
            if still == 0 && self.tell(tx, request, None).await? {
                told.push(request);
            }
        }
        Ok(told)
    }
}

impl NoteDrift {
    async fn tell(&self, tx: &mut Tx<'_>, request: RequestId, missing: Option<String>) -> Result<bool, OpError> {
        let now = tx.now().await?;
        let Some(mut loaded) = save::load(tx, request).await? else { return Ok(false) };
        let mut events = Vec::new();
        if !loaded.run.note_drift(missing.is_some(), missing, now, &mut events) {
            return Ok(false);
        }
        for event in &mut events {
            event.actor.get_or_insert_with(|| Actor::system("sweeper"));
        }
        let due = tx.row(&DUE, &[request.into()]).await?.map_or(Ok(i64::MAX), |row| row.int(0))?;
        let mut chance = SplitMix::new((self.context.seeds)());
        let lease = Lease::Attention(provisor_core::Timestamp(due));
        save::save(tx, &self.context, loaded, events, lease, now, &mut chance).await?;
        Ok(true)
    }
}
