//! Taking due work under a lease: first what is already begun, then the queue, fairly (SPEC 6).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::event::{Actor, Event};
use provisor_core::mutant::{self, Mutant};
use provisor_core::placement::Choice;
use provisor_core::run::{Command, Moment, RUN_VERSION, Role};
use provisor_core::workflow::Call;
use provisor_core::{RequestId, Run, Span, TenantId, Timestamp};
use tracing::error;

use super::place::{Clusters, Placed};
use super::save::{self, Context, Lease, Loaded, columns};
use super::settle;
use super::writes::Writes;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Query, Stmt, Tx, both, each, many};
use crate::value::Row;

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
            "select ",
            columns!(" from request r left join tenant t on t.id = r.tenant"),
            " where r.state <> 'queued' and r.due_at <= ?1 and r.due_at < 9223372036854775807 order by r.due_at",
            $tail
        )
    };
}
const DUE: Stmt = each(due!(" limit ?2"), due!(", r.id limit ?2 for update of r skip locked"));
const NEXT_DUE: Stmt = both("select min(due_at) from request where state <> 'queued' and due_at < 9223372036854775807");
// A request whose time in the queue is over is looked at even where its tenant has no slot left (H16).
macro_rules! expired {
    ($tail:literal) => {
        concat!(
            "select ",
            columns!(" from request r left join tenant t on t.id = r.tenant"),
            " where r.state = 'queued' and r.queue_until <= ?1 order by r.queue_until limit ?2",
            $tail
        )
    };
}
const EXPIRED: Stmt = each(expired!(""), expired!(" for update of r skip locked"));
const NEXT_EXPIRED: Stmt = both("select min(queue_until) from request where state = 'queued' and queue_until > 0");
// A tenant may have up to its limit in work; whose turn was longest ago comes first.
macro_rules! tenants {
    ($tail:literal) => {
        concat!(
            "select t.id, t.max_concurrent - t.in_work, (select max(last_claimed) from tenant) from tenant t \
     where t.in_work < t.max_concurrent and exists \
     (select 1 from request r where r.tenant = t.id and r.state = 'queued' and r.due_at <= ?1) order by t.last_claimed",
            $tail
        )
    };
}
const TENANTS: Stmt = each(tenants!(" limit ?2"), tenants!(", t.id limit ?2 for update of t skip locked"));
// The first of a tenant's queue, and how many of their prerequisites are open. ?1 tenant, ?2 how many, ?3 now.
macro_rules! heads {
    ($tenant:literal, $now:literal, $most:literal, $tail:literal) => {
        concat!(
            "select ",
            columns!(
                ", r.tenant, (select count(*) from dependency d join request p on p.id = d.prerequisite \
                 where d.request = r.id and p.state <> 'completed')"
            ),
            " from request r left join tenant t on t.id = r.tenant where r.tenant = ",
            $tenant,
            " and r.state = 'queued' and r.due_at <= ",
            $now,
            " order by r.due_at, r.id limit ",
            $most,
            $tail
        )
    };
}
const HEADS: Stmt = many(
    heads!("?1", "?3", "?2", ""),
    concat!(
        "select h.* from unnest(?1::text[], ?2::bigint[], ?3::bigint[]) as n (tenant, most, now) cross join lateral (",
        heads!("n.tenant", "n.now", "n.most", " for update of r skip locked"),
        ") as h"
    ),
);
const POSTPONE: Stmt =
    both("update request set due_at = ?2, queue_until = case when queue_until < ?2 then ?2 else queue_until end where id = ?1");
// One that has ended without completing.
const ENDED: Stmt = both(
    "select min(case when p.state in ('failed', 'rolling_back', 'rolled_back') then p.id end) \
     from dependency d join request p on p.id = d.prerequisite where d.request = ?1 and p.state <> 'completed'",
);
const NEXT_QUEUED: Stmt = both(
    "select min((select min(r.due_at) from request r where r.tenant = t.id and r.state = 'queued')) from tenant t \
     where t.in_work < t.max_concurrent",
);

pub(crate) const STATEMENTS: &[&Stmt] =
    &[&DUE, &NEXT_DUE, &EXPIRED, &NEXT_EXPIRED, &TENANTS, &HEADS, &POSTPONE, &ENDED, &NEXT_QUEUED];

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
        let batch = Batch { claimed: Vec::new(), taken: 0, busy: false, next_due: Timestamp::NEVER };
        let mut taking = Taking { claim: self, tx, now, writes: Writes::default(), clusters: None, batch };
        // Boxed, as it holds several documents.
        Box::pin(taking.take()).await?;
        Ok(taking.batch)
    }
}

/// A claim at work: what it has decided is written together at its end.
struct Taking<'t, 'a> {
    claim: &'t Claim,
    tx: &'t mut Tx<'a>,
    now: Timestamp,
    writes: Writes,
    /// Locked and read once there is something to place; they count what was placed since.
    clusters: Option<Clusters>,
    batch: Batch,
}

/// A tenant whose turn it is, or will be.
struct Queue {
    tenant: TenantId,
    room: i64,
    heads: VecDeque<Row>,
    /// There may be more than were read.
    more: bool,
}

/// What became of a turn.
enum Turn {
    /// It goes on behind the others.
    Over,
    /// It has nothing more.
    Empty,
}

impl Taking<'_, '_> {
    async fn take(&mut self) -> Result<(), OpError> {
        let limit = count(self.claim.limit);
        let begun = self.tx.several(vec![
            Query::new(&DUE, vec![self.now.0.into(), limit.into()]),
            Query::new(&EXPIRED, vec![self.now.0.into(), EXPIRED_AT_MOST.into()]),
            self.tenants(limit),
        ]);
        let begun = begun.await?;
        let [due, expired, tenants] = begun.as_slice() else { return Err(OpError::Corrupt("three answers".to_owned())) };
        for row in due {
            let Some(loaded) = self.readable(row).await? else { continue };
            // Boxed, as it holds a document, and everything around it would be as large.
            Box::pin(self.lead(loaded, Vec::new())).await?;
        }
        for row in expired {
            let Some(loaded) = self.readable(row).await? else { continue };
            self.end_expired(loaded)?;
        }
        // Whatever was done until now may have taken or freed slots: then they are asked for again.
        let tenants = if self.batch.busy { None } else { Some(tenants.clone()) };
        self.take_queued(tenants).await?;
        let context = &self.claim.context;
        save::finish(self.tx, context, std::mem::take(&mut self.writes), self.now).await?;
        let next = [&NEXT_DUE, &NEXT_EXPIRED, &NEXT_QUEUED].map(|stmt| Query::new(stmt, vec![]));
        for rows in self.tx.several(next.into()).await? {
            let due = rows.first().map_or(Ok(None), |r| r.opt_int(0))?;
            self.batch.next_due = self.batch.next_due.min(due.map_or(Timestamp::NEVER, Timestamp));
        }
        Ok(())
    }

    fn tenants(&self, wanted: i64) -> Query {
        Query::new(&TENANTS, vec![self.now.0.into(), wanted.into()])
    }

    /// What this release can work on. A document of a newer release (H43) or a damaged one is put off
    /// instead of failing the claim, which would stop all others, too.
    async fn readable(&mut self, row: &Row) -> Result<Option<Loaded>, OpError> {
        let reason = match save::loaded(row) {
            Ok(loaded) if loaded.run.version > RUN_VERSION => format!("it is of version {}", loaded.run.version),
            Err(OpError::Corrupt(reason)) => reason,
            other => return other.map(Some),
        };
        let id: RequestId = row.id(8)?;
        error!(request = %id, reason, "the request cannot be worked on by this release; it is looked at again later");
        self.tx.send(&POSTPONE, &[id.into(), self.now.plus(UNREADABLE_AGAIN).0.into()]).await?;
        Ok(None)
    }

    /// Decides what is next for a request under a new generation; keeps the lease only where there is
    /// something to do. Answers whether it is in work then.
    async fn lead(&mut self, mut loaded: Loaded, mut events: Vec<Event>) -> Result<bool, OpError> {
        loaded.generation += 1;
        let (claim, generation) = (self.claim, loaded.generation);
        let mut chance = SplitMix::new((claim.context.seeds)());
        let mut moment = claim.context.moment(self.now, generation, &mut chance, &mut events, None);
        let attempts = loaded.run.attempts.len();
        let directive = settle::advance(self.tx, &mut self.writes, &mut loaded.run, &mut moment).await?;
        if loaded.run.attempts.len() != attempts {
            // It was given room that ours do not know of.
            self.clusters = None;
        }
        let idle = directive.calls.is_empty();
        let until = self.now.plus(claim.context.lease);
        let lease = if idle { Lease::Free(directive.wake_at) } else { Lease::Held(&claim.worker, until) };
        for event in &mut events {
            event.actor.get_or_insert_with(|| Actor::worker(&claim.worker));
        }
        let kept = save::keep(&mut self.writes, loaded, events, lease, self.now, &mut chance)?;
        self.batch.busy = true;
        self.batch.taken += 1;
        let in_work = kept.run.is_in_work();
        if !idle {
            self.batch.claimed.push(Claimed { run: kept.run, generation, calls: directive.calls, wake_at: directive.wake_at });
        }
        Ok(in_work)
    }

    fn end_expired(&mut self, mut loaded: Loaded) -> Result<(), OpError> {
        let mut events = Vec::new();
        let mut chance = SplitMix::new((self.claim.context.seeds)());
        let actor = Some(Actor::system("queue"));
        let mut moment = self.claim.context.moment(self.now, loaded.generation, &mut chance, &mut events, actor);
        // The state was read in this transaction, so it cannot refuse.
        let _ = loaded.run.command(Command::QueueTimeout, &mut moment);
        save::keep(&mut self.writes, loaded, events, Lease::Free(self.now), self.now, &mut chance)?;
        self.batch.busy = true;
        Ok(())
    }

    /// Takes from the queues, tenant after tenant (H19).
    async fn take_queued(&mut self, mut known: Option<Vec<Row>>) -> Result<(), OpError> {
        let mut passed_by = 0;
        while self.batch.taken < self.claim.limit && passed_by < PASSED_BY_AT_MOST {
            self.writes.flush(self.tx).await?;
            let wanted = count(self.claim.limit - self.batch.taken);
            let tenants = match known.take() {
                Some(known) => known,
                None => self.tx.several(vec![self.tenants(wanted)]).await?.into_iter().flatten().collect(),
            };
            // Beyond those that were read others may be next.
            let all_of_them = count(tenants.len()) < wanted;
            let mut last_turn = tenants.first().map_or(Ok(0), |row| row.int(2))?;
            let mut queues = self.queues(&tenants, wanted).await?;
            let before = (self.batch.taken, passed_by);
            while let Some(mut queue) = queues.pop_front() {
                if self.batch.taken >= self.claim.limit || passed_by >= PASSED_BY_AT_MOST {
                    break;
                }
                match self.take_turn(&mut queue, &mut passed_by).await? {
                    Turn::Over => {
                        last_turn += 1;
                        self.writes.had_turn(queue.tenant, last_turn);
                        if all_of_them {
                            queues.push_back(queue);
                        }
                    }
                    Turn::Empty => {}
                }
            }
            // Others have all that is due: they hold it locked.
            if before == (self.batch.taken, passed_by) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The heads of the tenants' queues, so many that enough can be taken where all have some.
    async fn queues(&mut self, tenants: &[Row], wanted: i64) -> Result<VecDeque<Queue>, OpError> {
        if tenants.is_empty() {
            return Ok(VecDeque::new());
        }
        let most = count(usize::try_from(wanted).unwrap_or(usize::MAX).div_ceil(tenants.len()));
        let (mut queues, mut rows) = (VecDeque::with_capacity(tenants.len()), Vec::with_capacity(tenants.len()));
        for row in tenants {
            let (tenant, room) = (row.id(0)?, row.int(1)?);
            queues.push_back(Queue { tenant, room, heads: VecDeque::new(), more: false });
            rows.push(vec![tenant.into(), most.into(), self.now.0.into()]);
        }
        let mut queries = vec![Query::each(&HEADS, rows)];
        if self.clusters.is_none() {
            queries.extend(Clusters::locking(self.now));
        }
        let mut answers = self.tx.several(queries).await?.into_iter();
        let mut heads: BTreeMap<TenantId, VecDeque<Row>> = BTreeMap::new();
        for row in answers.next().unwrap_or_default() {
            heads.entry(row.id(9)?).or_default().push_back(row);
        }
        let rest: Vec<Vec<Row>> = answers.collect();
        if !rest.is_empty() {
            self.clusters = Some(Clusters::answered(&rest, self.claim.context.planner.as_ref())?);
        }
        for queue in &mut queues {
            queue.heads = heads.remove(&queue.tenant).unwrap_or_default();
            queue.more = count(queue.heads.len()) >= most;
        }
        Ok(queues)
    }

    /// What was read of a queue is used up: what was decided on it is written, then it is read again.
    async fn read_on(&mut self, queue: &mut Queue) -> Result<(), OpError> {
        self.writes.flush(self.tx).await?;
        let most = count(PASSED_BY_IN_A_TURN);
        let rows = self.tx.rows_of(&HEADS, vec![vec![queue.tenant.into(), most.into(), self.now.0.into()]]).await?;
        queue.more = rows.len() >= PASSED_BY_IN_A_TURN;
        queue.heads = rows.into();
        Ok(())
    }

    /// One turn of a tenant: its next request that can start.
    async fn take_turn(&mut self, queue: &mut Queue, passed_by: &mut usize) -> Result<Turn, OpError> {
        if queue.room <= 0 {
            return Ok(Turn::Empty);
        }
        for _ in 0..PASSED_BY_IN_A_TURN {
            if queue.heads.is_empty() && queue.more {
                self.read_on(queue).await?;
            }
            let Some(head) = queue.heads.pop_front() else { return Ok(Turn::Empty) };
            // Boxed for the same reason.
            if let Some(in_work) = Box::pin(self.start(&head)).await? {
                queue.room -= i64::from(in_work);
                return Ok(Turn::Over);
            }
            *passed_by += 1;
        }
        Ok(Turn::Over)
    }

    /// Starts the first attempt of a queued request and answers whether it is in work then; or notes what it waits for.
    async fn start(&mut self, row: &Row) -> Result<Option<bool>, OpError> {
        let Some(mut loaded) = self.readable(row).await? else { return Ok(None) };
        let open = if mutant::on(Mutant::NoPrerequisites) { 0 } else { row.int(10)? };
        let ended = if open > 0 { self.tx.row(&ENDED, &[loaded.run.id.into()]).await? } else { None };
        let ended: Option<RequestId> = match ended.map(|r| r.opt_text(0).map(|id| id.map(str::parse))).transpose()?.flatten() {
            Some(Ok(id)) => Some(id),
            _ => None,
        };
        if self.clusters.is_none() {
            self.writes.flush(self.tx).await?;
            self.clusters = Some(Clusters::locked(self.tx, self.claim.context.planner.as_ref()).await?);
        }
        let Some(clusters) = &mut self.clusters else { return Ok(None) };
        let (now, context) = (self.now, &self.claim.context);
        let mut events = Vec::new();
        let mut chance = SplitMix::new((context.seeds)());
        let actor = Some(Actor::system("queue"));
        let mut moment = context.moment(now, loaded.generation + 1, &mut chance, &mut events, actor);
        let due = if let Some(prerequisite) = ended {
            // It is told when a prerequisite ends, unless it could not be read then (H24). Queued, it cannot refuse.
            let _ = loaded.run.command(Command::DependencyEnded { prerequisite }, &mut moment);
            now
        } else if open > 0 {
            loaded.run.await_turn("prerequisites", Some(format!("{open} not completed yet")), &mut moment);
            Timestamp::NEVER
        } else {
            match clusters.place(&mut loaded.run, Role::First, &mut moment) {
                Placed::Launched => {
                    moment.actor = None;
                    return Box::pin(self.lead(loaded, events)).await.map(Some);
                }
                Placed::Refused(failure) => {
                    loaded.run.give_up(failure, &mut moment);
                    now
                }
                Placed::Not(choice) => now.plus(await_place(&mut loaded.run, choice, &mut moment)),
            }
        };
        save::keep(&mut self.writes, loaded, events, Lease::Free(due), now, &mut chance)?;
        self.batch.busy = true;
        Ok(None)
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
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
