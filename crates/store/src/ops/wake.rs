//! What waits on a cluster is brought forward when the cluster is seen to be well again (`provisor_core::recovery`).
//!
//! A list of who waits, and small transactions over a few of them each: a cluster on which thousands wait must not hold
//! up those who have nothing to do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::{Chance as _, SplitMix};
use provisor_core::recovery::spread;
use provisor_core::{ClusterId, RequestId, Timestamp};

use super::save::{self, Context, Lease};
use super::writes::Writes;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, many};

/// Rows owed that are looked at, at most.
const OWED_ROWS: i64 = 10_000;
/// Requests that wait on a cluster that are named, at most: the rest waits out its pauses.
const WAITING: i64 = 10_000;
/// Requests that one [`Wake`] may bring forward.
pub const WAKE_AT_MOST: usize = 64;

// Told apart and put in order here: a database would sort them.
const OWED: Stmt = both("select cluster, request from resource where open = 1 and state = 'owed' limit ?1");
const WAIT: Stmt = both(
    "select r.id from request r where r.state <> 'queued' and r.due_at > ?2 and r.due_at < 9223372036854775807 and exists \
     (select 1 from resource s where s.request = r.id and s.cluster = ?1 and s.open = 1) order by r.due_at limit ?3",
);
const DUE: Stmt = many(
    "select id, due_at from request where id = ?1",
    "select r.id, r.due_at from unnest(?1::text[]) as n (id) join request r on r.id = n.id",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&OWED, &WAIT, &DUE];

/// The requests to which each cluster owes a clean-up.
#[derive(Debug, Clone, Copy)]
pub struct Owing;

impl Op for Owing {
    type Out = BTreeMap<ClusterId, BTreeSet<RequestId>>;
    const NAME: &'static str = "owing";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let mut all: Self::Out = BTreeMap::new();
        for row in tx.rows(&OWED, &[OWED_ROWS.into()]).await? {
            all.entry(row.id(0)?).or_default().insert(row.id(1)?);
        }
        Ok(all)
    }
}

/// The requests that wait for a moment to come and hold something of a cluster, the soonest first.
#[derive(Debug, Clone, Copy)]
pub struct WaitingOn {
    /// Of which.
    pub cluster: ClusterId,
}

impl Op for WaitingOn {
    type Out = Vec<RequestId>;
    const NAME: &'static str = "waiting_on";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let now = tx.now().await?;
        tx.rows(&WAIT, &[self.cluster.into(), now.0.into(), WAITING.into()]).await?.iter().map(|row| row.id(0)).collect()
    }
}

/// Brings what requests wait for because of a failure on a cluster forward.
pub struct Wake {
    /// The cluster.
    pub cluster: ClusterId,
    /// Which requests, at most [`WAKE_AT_MOST`].
    pub requests: Vec<RequestId>,
    /// How many were woken together with them before: they come one after the other.
    pub before: usize,
    /// Surroundings.
    pub context: Arc<Context>,
}

impl Op for Wake {
    /// Those for which that changed something.
    type Out = Vec<RequestId>;
    const NAME: &'static str = "wake";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<RequestId>, OpError> {
        let now = tx.now().await?;
        let ids: BTreeSet<RequestId> = self.requests.iter().copied().take(WAKE_AT_MOST).collect();
        let found = save::load_all(tx, &ids).await?;
        // After they are locked: what they were due at before may have been changed by whoever had them.
        let mut due = BTreeMap::new();
        for row in tx.rows_of(&DUE, ids.iter().map(|id| vec![(*id).into()]).collect()).await? {
            due.insert(row.id(0)?, Timestamp(row.int(1)?));
        }
        let mut chance = SplitMix::new((self.context.seeds)());
        let (mut writes, mut woken) = (Writes::default(), Vec::new());
        for (index, (id, loaded)) in found.into_iter().enumerate() {
            let mut loaded = loaded?;
            let at = now.plus(spread(self.before.saturating_add(index), chance.fraction()));
            if !loaded.run.cluster_is_back(self.cluster, at) {
                continue;
            }
            let lease = Lease::Attention(due.get(&id).copied().unwrap_or(at).min(at));
            save::keep(&mut writes, loaded, Vec::new(), lease, now, &mut chance)?;
            woken.push(id);
        }
        save::finish(tx, &self.context, writes, now).await?;
        Ok(woken)
    }
}
