//! Taking due work under a lease: first what is already begun, then the queue, fairly (SPEC 6).

use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::event::{Actor, Event};
use provisor_core::mutant::{self, Mutant};
use provisor_core::placement::Choice;
use provisor_core::run::{Command, Moment, RUN_VERSION};
use provisor_core::workflow::Call;
use provisor_core::{RequestId, Run, Span, Timestamp};
use tracing::error;

use super::place::{Clusters, Placed};
use super::save::{self, Context, Lease, Loaded};
use super::settle;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};

/// Takes a batch of due work.
pub struct Claim {
    /// Who takes it.
    pub worker: String,
    /// How many at most.
    pub limit: usize,
    /// Surroundings.
    pub context: Arc<Context>,
}

/// One claimed request.
pub struct Claimed {
    /// The run as it is now.
    pub run: Run,
    /// The lease's fencing token.
    pub generation: i64,
    /// Calls to make.
    pub calls: Vec<Call>,
    /// When to look again.
    pub wake_at: Timestamp,
}

/// What a claim brought.
pub struct Batch {
    /// Requests that have something to do.
    pub claimed: Vec<Claimed>,
    /// How many were taken, with those that were over at once.
    pub taken: usize,
    /// Something was taken or changed: ask again at once.
    pub busy: bool,
    /// When the next work is due, as far as is known.
    pub next_due: Timestamp,
}

// On PostgreSQL a claim takes what nobody else is at: it waits for no lock.
macro_rules! due {
    ($tail:literal) => {
        concat!(
            "select id from request where state <> 'queued' and due_at <= ?1 and due_at < 9223372036854775807 order by due_at",
            $tail
        )
    };
}
const DUE: Stmt = each(due!(" limit ?2"), due!(", id limit ?2 for update skip locked"));
const NEXT_DUE: Stmt = both("select min(due_at) from request where state <> 'queued' and due_at < 9223372036854775807");
// A request whose time in the queue is over is looked at even where its tenant has no slot left (H16).
macro_rules! expired {
    ($tail:literal) => {
        concat!("select id from request where state = 'queued' and queue_until <= ?1 order by queue_until limit ?2", $tail)
    };
}
const EXPIRED: Stmt = each(expired!(""), expired!(" for update skip locked"));
const NEXT_EXPIRED: Stmt = both("select min(queue_until) from request where state = 'queued' and queue_until > 0");
// A tenant may have up to its limit in work; whose turn was longest ago comes first.
macro_rules! tenants {
    ($tail:literal) => {
        concat!(
            "select t.id from tenant t where t.in_work < t.max_concurrent and exists \
     (select 1 from request r where r.tenant = t.id and r.state = 'queued' and r.due_at <= ?1) order by t.last_claimed",
            $tail
        )
    };
}
const TENANTS: Stmt = each(tenants!(" limit ?2"), tenants!(", t.id limit ?2 for update of t skip locked"));
macro_rules! head {
    ($tail:literal) => {
        concat!(
            "select id from request where tenant = ?1 and state = 'queued' and due_at <= ?2 order by due_at, id limit 1",
            $tail
        )
    };
}
const HEAD: Stmt = each(head!(""), head!(" for update skip locked"));
const TURN: Stmt = both("update tenant set last_claimed = (select max(last_claimed) + 1 from tenant) where id = ?1");
const ROOM: Stmt = both("select max_concurrent - in_work from tenant where id = ?1");
const POSTPONE: Stmt =
    both("update request set due_at = ?2, queue_until = case when queue_until < ?2 then ?2 else queue_until end where id = ?1");
const PREREQUISITES: Stmt = both(
    "select count(*), min(case when p.state in ('failed', 'rolling_back', 'rolled_back') then p.id end) \
     from dependency d join request p on p.id = d.prerequisite where d.request = ?1 and p.state <> 'completed'",
);
const NEXT_QUEUED: Stmt = both(
    "select min((select min(r.due_at) from request r where r.tenant = t.id and r.state = 'queued')) from tenant t \
     where t.in_work < t.max_concurrent",
);

pub(crate) const STATEMENTS: &[&Stmt] =
    &[&DUE, &NEXT_DUE, &EXPIRED, &NEXT_EXPIRED, &TENANTS, &HEAD, &TURN, &ROOM, &POSTPONE, &PREREQUISITES, &NEXT_QUEUED];

/// What cannot be placed is looked at again after this, longer the longer it has waited.
const LOOK_AGAIN: Span = Span::seconds(1);
const LOOK_AGAIN_AT_MOST: Span = Span::seconds(30);
/// "Can never fit" after a change of clusters fails a request only after this (H16).
const NEVER_FITS_AFTER: Span = Span::seconds(3600);
/// Requests without a place that one claim passes by, over all tenants.
const PASSED_BY_AT_MOST: usize = 64;
/// The same in one turn of a tenant: then it is the next one's turn, so that a long queue without a place
/// delays nobody.
const PASSED_BY_IN_A_TURN: usize = 8;
/// Requests whose time in the queue is over that one claim ends.
const EXPIRED_AT_MOST: i64 = 64;
/// What this release cannot read is looked at again after this, perhaps by a newer one.
const UNREADABLE_AGAIN: Span = Span::seconds(60);

impl Op for Claim {
    type Out = Batch;
    const NAME: &'static str = "claim";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Batch, OpError> {
        let now = tx.now().await?;
        let mut batch = Batch { claimed: Vec::new(), taken: 0, busy: false, next_due: Timestamp::NEVER };
        // Boxed, as it holds several documents.
        Box::pin(self.take_due(tx, now, &mut batch)).await?;
        self.end_expired(tx, now, &mut batch).await?;
        self.take_queued(tx, now, &mut batch).await?;
        for rows in tx.several(&[(&NEXT_DUE, vec![]), (&NEXT_EXPIRED, vec![]), (&NEXT_QUEUED, vec![])]).await? {
            let due = rows.first().map_or(Ok(None), |r| r.opt_int(0))?;
            batch.next_due = batch.next_due.min(due.map_or(Timestamp::NEVER, Timestamp));
        }
        Ok(batch)
    }
}

/// Loads what this release can work on. A document of a newer release (H43) or a damaged one is put off
/// instead of failing the claim, which would stop all others, too.
async fn load(tx: &mut Tx<'_>, id: RequestId, now: Timestamp) -> Result<Option<Loaded>, OpError> {
    let found = save::load(tx, id).await;
    readable(tx, id, found, now).await
}

async fn readable(
    tx: &mut Tx<'_>,
    id: RequestId,
    found: Result<Option<Loaded>, OpError>,
    now: Timestamp,
) -> Result<Option<Loaded>, OpError> {
    let reason = match found {
        Ok(Some(loaded)) if loaded.run.version > RUN_VERSION => format!("it is of version {}", loaded.run.version),
        Err(OpError::Corrupt(reason)) => reason,
        other => return other,
    };
    error!(request = %id, reason, "the request cannot be worked on by this release; it is looked at again later");
    tx.send(&POSTPONE, &[id.into(), now.plus(UNREADABLE_AGAIN).0.into()]).await?;
    Ok(None)
}

impl Claim {
    async fn take_due(&self, tx: &mut Tx<'_>, now: Timestamp, batch: &mut Batch) -> Result<(), OpError> {
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let due = tx.rows(&DUE, &[now.0.into(), limit.into()]).await?;
        let ids = due.iter().map(|row| row.id(0)).collect::<Result<Vec<RequestId>, _>>()?;
        // All at once: what is due is not queued, so none of them is changed by what becomes of another.
        for (id, found) in ids.iter().zip(save::load_all(tx, &ids).await?) {
            let Some(loaded) = readable(tx, *id, found, now).await? else { continue };
            // Boxed, as it holds several documents, and everything around it would be as large.
            Box::pin(self.lead(tx, loaded, now, Vec::new(), batch)).await?;
        }
        Ok(())
    }

    /// Decides what is next for a request under a new generation; keeps the lease only where there is
    /// something to do.
    async fn lead(
        &self,
        tx: &mut Tx<'_>,
        mut loaded: Loaded,
        now: Timestamp,
        mut events: Vec<Event>,
        batch: &mut Batch,
    ) -> Result<(), OpError> {
        loaded.generation += 1;
        let generation = loaded.generation;
        let mut chance = SplitMix::new((self.context.seeds)());
        let mut moment = self.context.moment(now, generation, &mut chance, &mut events, None);
        let directive = settle::advance(tx, &mut loaded.run, &mut moment).await?;
        let idle = directive.calls.is_empty();
        let lease = if idle { Lease::Free(directive.wake_at) } else { Lease::Held(&self.worker, now.plus(self.context.lease)) };
        for event in &mut events {
            event.actor.get_or_insert_with(|| Actor::worker(&self.worker));
        }
        let kept = save::save(tx, &self.context, loaded, events, lease, now, &mut chance).await?;
        batch.busy = true;
        batch.taken += 1;
        if !idle {
            batch.claimed.push(Claimed { run: kept.run, generation, calls: directive.calls, wake_at: directive.wake_at });
        }
        Ok(())
    }

    async fn end_expired(&self, tx: &mut Tx<'_>, now: Timestamp, batch: &mut Batch) -> Result<(), OpError> {
        for row in tx.rows(&EXPIRED, &[now.0.into(), EXPIRED_AT_MOST.into()]).await? {
            let Some(mut loaded) = load(tx, row.id(0)?, now).await? else { continue };
            let mut events = Vec::new();
            let mut chance = SplitMix::new((self.context.seeds)());
            let actor = Some(Actor::system("queue"));
            let mut moment = self.context.moment(now, loaded.generation, &mut chance, &mut events, actor);
            // The state was read in this transaction, so it cannot refuse.
            let _ = loaded.run.command(Command::QueueTimeout, &mut moment);
            save::save(tx, &self.context, loaded, events, Lease::Free(now), now, &mut chance).await?;
            batch.busy = true;
        }
        Ok(())
    }

    async fn take_queued(&self, tx: &mut Tx<'_>, now: Timestamp, batch: &mut Batch) -> Result<(), OpError> {
        let mut clusters: Option<Clusters> = None;
        let mut passed_by = 0;
        while batch.taken < self.limit && passed_by < PASSED_BY_AT_MOST {
            let wanted = i64::try_from(self.limit - batch.taken).unwrap_or(i64::MAX);
            let tenants = tx.rows(&TENANTS, &[now.0.into(), wanted.into()]).await?;
            if tenants.is_empty() {
                return Ok(());
            }
            let before = (batch.taken, passed_by);
            for tenant in tenants {
                if batch.taken >= self.limit {
                    break;
                }
                let clusters = match &mut clusters {
                    Some(clusters) => clusters,
                    none => none.insert(Clusters::locked(tx, self.context.planner.as_ref()).await?),
                };
                passed_by += self.take_turn(tx, tenant.text(0)?, clusters, now, batch).await?;
            }
            // Others have all that is due: they hold it locked.
            if before == (batch.taken, passed_by) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One turn of a tenant: its next request that can start. Answers how many it passed by.
    async fn take_turn(
        &self,
        tx: &mut Tx<'_>,
        tenant: &str,
        clusters: &mut Clusters,
        now: Timestamp,
        batch: &mut Batch,
    ) -> Result<usize, OpError> {
        let first = tx.several(&[(&ROOM, vec![tenant.into()]), (&HEAD, vec![tenant.into(), now.0.into()])]).await?;
        let [room, first] = first.as_slice() else { return Ok(0) };
        if room.first().map_or(Ok(0), |r| r.int(0))? <= 0 {
            return Ok(0);
        }
        for passed_by in 0..PASSED_BY_IN_A_TURN {
            let head = match passed_by {
                0 => first.first().cloned(),
                _ => tx.row(&HEAD, &[tenant.into(), now.0.into()]).await?,
            };
            let Some(head) = head else { return Ok(passed_by) };
            // Boxed for the same reason.
            if Box::pin(self.start(tx, head.id(0)?, clusters, now, batch)).await? {
                tx.send(&TURN, &[tenant.into()]).await?;
                return Ok(passed_by);
            }
        }
        tx.send(&TURN, &[tenant.into()]).await?;
        Ok(PASSED_BY_IN_A_TURN)
    }

    /// Starts the first attempt of a queued request, or notes what it waits for.
    async fn start(
        &self,
        tx: &mut Tx<'_>,
        id: RequestId,
        clusters: &mut Clusters,
        now: Timestamp,
        batch: &mut Batch,
    ) -> Result<bool, OpError> {
        let answers = tx.several(&[save::loading(id), (&PREREQUISITES, vec![id.into()])]).await?;
        let [row, prerequisites] = answers.as_slice() else { return Ok(false) };
        let Some(mut loaded) = readable(tx, id, save::loaded_from(row), now).await? else { return Ok(false) };
        let mut events = Vec::new();
        let mut chance = SplitMix::new((self.context.seeds)());
        let prerequisites = prerequisites.first();
        let open = prerequisites.map_or(Ok(0), |r| r.int(0))?;
        let ended = prerequisites.map_or(Ok(None), |r| r.opt_text(1))?.map(str::parse::<RequestId>);
        let actor = Some(Actor::system("queue"));
        let mut moment = self.context.moment(now, loaded.generation + 1, &mut chance, &mut events, actor);
        let open = if mutant::on(Mutant::NoPrerequisites) { 0 } else { open };
        let due = if let Some(Ok(prerequisite)) = ended {
            // It is told when a prerequisite ends, unless it could not be read then (H24). Queued, it cannot refuse.
            let _ = loaded.run.command(Command::DependencyEnded { prerequisite }, &mut moment);
            now
        } else if open > 0 {
            loaded.run.await_turn("prerequisites", Some(format!("{open} not completed yet")), &mut moment);
            Timestamp::NEVER
        } else {
            match clusters.place(&mut loaded.run, &mut moment) {
                Placed::Launched => {
                    moment.actor = None;
                    self.lead(tx, loaded, now, events, batch).await?;
                    return Ok(true);
                }
                Placed::Refused(failure) => {
                    loaded.run.give_up(failure, &mut moment);
                    now
                }
                Placed::Not(choice) => now.plus(await_place(&mut loaded.run, choice, &mut moment)),
            }
        };
        save::save(tx, &self.context, loaded, events, Lease::Free(due), now, &mut chance).await?;
        batch.busy = true;
        Ok(false)
    }
}

/// Notes why no cluster takes it, and answers after how long to look again. What nothing can ever take any
/// more fails in the end (H16).
fn await_place(run: &mut Run, choice: Choice, moment: &mut Moment<'_>) -> Span {
    let busy = choice.rejected.iter().any(|(_, r)| r.starts_with("no room") || r.starts_with("too small"));
    let reason = if busy || !choice.may_wait { "capacity" } else { "cluster_health" };
    let detail = choice.rejected.iter().map(|(c, r)| format!("{c}: {r}")).collect::<Vec<_>>().join("; ");
    let waited = run.await_turn(reason, Some(detail), moment);
    if !choice.may_wait && waited >= NEVER_FITS_AFTER {
        // It is queued, so it cannot refuse.
        let _ = run.command(Command::Unplaceable { rejected: choice.rejected }, moment);
    }
    Span(waited.0 / 4).max(LOOK_AGAIN).min(LOOK_AGAIN_AT_MOST)
}
