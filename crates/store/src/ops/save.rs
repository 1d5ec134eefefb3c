//! Loading and keeping a run: the one place where a request's row, its ledger, its events, its holdings
//! and those who wait for it change together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use provisor_core::chance::SplitMix;
use provisor_core::event::{Actor, Event, EventKind};
use provisor_core::id::EventId;
use provisor_core::mutant::{self, Mutant};
use provisor_core::quota::Amounts;
use provisor_core::run::{AttemptState, Command, Moment, RUN_VERSION, Row as LedgerRow};
use provisor_core::workflow::plan::Planner;
use provisor_core::{ClusterId, RequestId, Run, Span, State, TenantId, Timestamp};
use serde_json::json;

use super::log_row::{self, Told};
use crate::op::OpError;
use crate::tx::{Stmt, Tx, both, each};
use crate::value::{Row, Val, to_json};

/// What every pipeline operation needs of its surroundings; shared by all of them.
pub struct Context {
    /// The installation, for tags and events.
    pub installation: String,
    /// Plans attempts and actions. Pure.
    pub planner: Arc<dyn Planner>,
    /// Length of a lease.
    pub lease: Span,
    /// Stuck limit (SPEC 3.7).
    pub stuck_after: Span,
    /// How long no worker was alive, in all, in microseconds; kept fresh by the heartbeat (H12).
    pub downtime: AtomicI64,
    /// Where seeds for jitter and ids come from.
    pub seeds: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Context {
    /// A moment for core under a lease.
    pub(crate) fn moment<'a>(
        &'a self,
        now: Timestamp,
        generation: i64,
        chance: &'a mut SplitMix,
        events: &'a mut Vec<Event>,
        actor: Option<Actor>,
    ) -> Moment<'a> {
        Moment {
            now,
            generation,
            installation: &self.installation,
            // Why half: what is sent later might arrive after another worker has begun to look (H5).
            send_within: Span(self.lease.0 / 2),
            downtime: Span(self.downtime.load(Ordering::Relaxed)),
            stuck_after: self.stuck_after,
            planner: self.planner.as_ref(),
            chance,
            actor,
            events,
        }
    }
}

/// A run as it was loaded, to see what changed.
pub(crate) struct Loaded {
    pub run: Run,
    pub tenant_name: String,
    pub version: i64,
    pub events: i64,
    pub published: i64,
    pub generation: i64,
    pub worker: Option<String>,
    updated_at: Timestamp,
    state: State,
    in_work: bool,
    ledger: Vec<LedgerRow>,
    holdings: BTreeMap<ClusterId, Holding>,
}

/// What a request holds of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Holding {
    reserved: Amounts,
    reserved_slots: i64,
    used: Amounts,
    used_slots: i64,
}

/// Who keeps the lease after a save.
pub(crate) enum Lease<'a> {
    /// A worker holds it until then.
    Held(&'a str, Timestamp),
    /// Nobody; somebody should look at it then.
    Free(Timestamp),
    /// As it was, with a note to the holder that something came (commands).
    Attention(Timestamp),
}

macro_rules! load {
    ($tail:literal) => {
        concat!(
            "select r.run, coalesce(t.name, ''), r.version, r.events, r.published, r.generation, r.worker, r.updated_at",
            " from request r left join tenant t on t.id = r.tenant where r.id = ?1",
            $tail
        )
    };
}

// Rows are locked in this order on PostgreSQL: requests, then tenants, then clusters, each kind by its id.
// Who must do otherwise skips what is locked, or is run again after a deadlock.
const LOAD: Stmt = each(load!(""), load!(" for update of r"));
const READ: Stmt = both(load!(""));
const LOCK: Stmt = each("select id from request where id = ?1", "select id from request where id = ?1 for update");
const LOCK_TENANT: Stmt = each("select id from tenant where id = ?1", "select id from tenant where id = ?1 for update");
const UPDATE: Stmt = both(
    "update request set state = ?2, live = ?3, run = ?4, version = version + 1, events = ?5, published = ?6, \
     in_work = ?7, updated_at = ?8, no_room_since = ?9, generation = ?10, worker = ?11, due_at = ?12, attention = 0 \
     where id = ?1 and version = ?13",
);
const UPDATE_ATTENTION: Stmt = both(
    "update request set state = ?2, live = ?3, run = ?4, version = version + 1, events = ?5, published = ?6, \
     in_work = ?7, updated_at = ?8, no_room_since = ?9, attention = case when worker is null then 0 else 1 end, \
     due_at = case when worker is null then ?10 else due_at end where id = ?1 and version = ?11",
);
const INSERT: Stmt = both(
    "insert into request (id, tenant, name, kind, state, live, region, order_id, run, version, events, published, due_at, \
     cpu, memory, storage, in_work, queue_until, created_at, updated_at) \
     values (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, 1, ?9, ?10, ?11, ?12, ?13, ?14, 0, ?15, ?16, ?16)",
);
const UPSERT_RESOURCE: Stmt = both(
    "insert into resource (id, request, attempt, cluster, kind, name, tag, provider_id, state, in_doubt, open, created_at, released_at) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) on conflict (id) do update set \
     provider_id = excluded.provider_id, state = excluded.state, in_doubt = excluded.in_doubt, open = excluded.open, \
     released_at = excluded.released_at",
);
const HOLD_CLUSTER: Stmt = both(
    "update cluster set reserved_cpu = reserved_cpu + ?2, reserved_memory = reserved_memory + ?3, \
     reserved_storage = reserved_storage + ?4, reserved_slots = reserved_slots + ?5, used_cpu = used_cpu + ?6, \
     used_memory = used_memory + ?7, used_storage = used_storage + ?8, used_slots = used_slots + ?9 where id = ?1",
);
const HOLD_TENANT: Stmt = both(
    "update tenant set used_cpu = used_cpu + ?2, used_memory = used_memory + ?3, used_storage = used_storage + ?4, \
     used_vps = used_vps + ?5, used_kubernetes_namespace = used_kubernetes_namespace + ?6, \
     used_environment = used_environment + ?7, used_managed = used_managed + ?8, in_work = in_work + ?9 where id = ?1",
);
const DEPENDENTS: Stmt = each(
    // Why a cross join: SQLite keeps its order, so the few dependents are asked, not the whole queue.
    "select d.request from dependency d cross join request r where r.id = d.request and d.prerequisite = ?1 and r.state = 'queued'",
    "select d.request from dependency d join request r on r.id = d.request where d.prerequisite = ?1 and r.state = 'queued' \
     order by d.request",
);
const WAKE: Stmt = both("update request set due_at = ?2 where id = ?1 and state = 'queued' and due_at > ?2");

pub(crate) const STATEMENTS: &[&Stmt] = &[
    &LOAD,
    &READ,
    &LOCK,
    &LOCK_TENANT,
    &UPDATE,
    &UPDATE_ATTENTION,
    &INSERT,
    &log_row::INSERT,
    &UPSERT_RESOURCE,
    &HOLD_CLUSTER,
    &HOLD_TENANT,
    &DEPENDENTS,
    &WAKE,
];

/// Loads a run with what is needed to keep it, and locks it.
pub(crate) async fn load(tx: &mut Tx<'_>, id: RequestId) -> Result<Option<Loaded>, OpError> {
    let Some(row) = tx.row(&LOAD, &[id.into()]).await? else { return Ok(None) };
    Ok(Some(loaded(&row)?))
}

/// The same for several at once. Each has an answer of its own, as what cannot be read concerns itself alone.
pub(crate) async fn load_all(tx: &mut Tx<'_>, ids: &[RequestId]) -> Result<Vec<Result<Option<Loaded>, OpError>>, OpError> {
    let queries: Vec<(&'static Stmt, Vec<Val>)> = ids.iter().map(|id| loading(*id)).collect();
    Ok(tx.several(&queries).await?.iter().map(|rows| loaded_from(rows)).collect())
}

/// The question of [`load`], to be asked together with others.
pub(crate) fn loading(id: RequestId) -> (&'static Stmt, Vec<Val>) {
    (&LOAD, vec![id.into()])
}

/// Its answer.
pub(crate) fn loaded_from(rows: &[Row]) -> Result<Option<Loaded>, OpError> {
    rows.first().map(loaded).transpose()
}

/// Loads a run that is only to be shown.
pub(crate) async fn read(tx: &mut Tx<'_>, id: RequestId) -> Result<Option<Loaded>, OpError> {
    let Some(row) = tx.row(&READ, &[id.into()]).await? else { return Ok(None) };
    Ok(Some(loaded(&row)?))
}

/// Locks a request before the tenants and clusters that are locked with it.
pub(crate) async fn lock(tx: &mut Tx<'_>, id: RequestId) -> Result<(), OpError> {
    tx.rows(&LOCK, &[id.into()]).await.map(drop)
}

/// Locks a tenant before the clusters that are locked with it.
pub(crate) async fn lock_tenant(tx: &mut Tx<'_>, id: TenantId) -> Result<(), OpError> {
    tx.rows(&LOCK_TENANT, &[id.into()]).await.map(drop)
}

fn loaded(row: &Row) -> Result<Loaded, OpError> {
    let run: Run = row.json(0)?;
    Ok(Loaded {
        tenant_name: row.text(1)?.to_owned(),
        version: row.int(2)?,
        events: row.int(3)?,
        published: row.int(4)?,
        generation: row.int(5)?,
        worker: row.opt_text(6)?.map(str::to_owned),
        updated_at: Timestamp(row.int(7)?),
        state: run.state,
        in_work: run.is_in_work(),
        ledger: run.ledger.clone(),
        holdings: holdings(&run),
        run,
    })
}

fn holdings(run: &Run) -> BTreeMap<ClusterId, Holding> {
    let mut all: BTreeMap<ClusterId, Holding> = BTreeMap::new();
    for attempt in run.holding() {
        let held = all.entry(attempt.cluster).or_default();
        if attempt.state == AttemptState::Won {
            held.used = held.used.plus(run.spec.needs());
            held.used_slots += 1;
        } else {
            held.reserved = held.reserved.plus(run.spec.needs());
            held.reserved_slots += 1;
        }
    }
    all
}

/// Keeps a run that was loaded in this transaction, with its events, and tells those who wait for it.
pub(crate) async fn save(
    tx: &mut Tx<'_>,
    context: &Context,
    loaded: Loaded,
    events: Vec<Event>,
    lease: Lease<'_>,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<Loaded, OpError> {
    let before = loaded.state;
    let kept = keep(tx, loaded, events, lease, now, chance).await?;
    if before != kept.state {
        tell_dependents(tx, context, &kept.run, now, chance).await?;
    }
    Ok(kept)
}

/// The same for the run alone.
async fn keep(
    tx: &mut Tx<'_>,
    mut loaded: Loaded,
    events: Vec<Event>,
    lease: Lease<'_>,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<Loaded, OpError> {
    // Of two transactions the one that began first may come to the row last; its events are not dated back (H40).
    let at = now.max(loaded.updated_at);
    append(tx, &mut loaded, events, at, chance).await?;
    write_row(tx, &loaded, lease, at).await?;
    loaded.updated_at = at;
    loaded.version += 1;
    project(tx, &mut loaded).await?;
    loaded.state = loaded.run.state;
    Ok(loaded)
}

async fn write_row(tx: &mut Tx<'_>, loaded: &Loaded, lease: Lease<'_>, now: Timestamp) -> Result<(), OpError> {
    let run = &loaded.run;
    let no_room = run.waiting.as_ref().filter(|w| run.state == State::Queued && w.reason == "capacity");
    let mut values = vec![
        run.id.into(),
        run.state.name().into(),
        run.holds_quota().into(),
        to_json(run)?.into(),
        loaded.events.into(),
        loaded.published.into(),
        run.is_in_work().into(),
        now.0.into(),
        no_room.map(|w| w.since.0).into(),
    ];
    // What is over is never due again, whoever saw to its end.
    let due = |at: Timestamp| Val::from(if run.state.is_terminal() { Timestamp::NEVER.0 } else { at.0 });
    let (stmt, rest): (&'static Stmt, Vec<Val>) = match lease {
        Lease::Held(worker, until) => (&UPDATE, vec![loaded.generation.into(), worker.into(), until.0.into()]),
        Lease::Free(at) => (&UPDATE, vec![loaded.generation.into(), Val::Null, due(at)]),
        Lease::Attention(at) => (&UPDATE_ATTENTION, vec![due(at)]),
    };
    values.extend(rest);
    values.push(loaded.version.into());
    tx.send_one(stmt, &values).await
}

/// Ledger rows, holdings of clusters and of the tenant, as far as they changed.
async fn project(tx: &mut Tx<'_>, loaded: &mut Loaded) -> Result<(), OpError> {
    let run = &loaded.run;
    let changed = run.ledger.iter().filter(|r| !loaded.ledger.iter().any(|o| o.id == r.id && same_projection(o, r)));
    let rows: Vec<Vec<Val>> = changed.map(|r| resource_values(run.id, r)).collect();
    tx.batch(&UPSERT_RESOURCE, &rows).await?;
    let count = i64::from(run.holds_quota()) - i64::from(!loaded.state.is_terminal());
    let work = i64::from(run.is_in_work()) - i64::from(loaded.in_work);
    let count = if mutant::on(Mutant::QuotaKept) { count.max(0) } else { count };
    if count != 0 || work != 0 {
        hold_tenant(tx, run, count, work).await?;
    }
    let after = holdings(run);
    for cluster in loaded.holdings.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>() {
        let old = loaded.holdings.get(cluster).copied().unwrap_or_default();
        let new = after.get(cluster).copied().unwrap_or_default();
        if old != new && !(mutant::on(Mutant::CapacityKept) && new == Holding::default()) {
            let (reserved, used) = (new.reserved.plus(old.reserved.negated()), new.used.plus(old.used.negated()));
            let values = [
                Val::from(*cluster),
                reserved.cpu.into(),
                reserved.memory_gb.into(),
                reserved.storage_gb.into(),
                (new.reserved_slots - old.reserved_slots).into(),
                used.cpu.into(),
                used.memory_gb.into(),
                used.storage_gb.into(),
                (new.used_slots - old.used_slots).into(),
            ];
            tx.send(&HOLD_CLUSTER, &values).await?;
        }
    }
    loaded.ledger.clone_from(&run.ledger);
    loaded.holdings = after;
    loaded.in_work = run.is_in_work();
    Ok(())
}

fn same_projection(a: &LedgerRow, b: &LedgerRow) -> bool {
    a.state == b.state && a.provider_id == b.provider_id && a.in_doubt == b.in_doubt && a.released_at == b.released_at
}

fn resource_values(request: RequestId, row: &LedgerRow) -> Vec<Val> {
    vec![
        row.id.into(),
        request.into(),
        row.attempt.into(),
        row.cluster.into(),
        row.kind.clone().into(),
        row.name.clone().into(),
        row.tag.as_str().into(),
        row.provider_id.clone().into(),
        row.state.name().into(),
        row.in_doubt.into(),
        (!row.is_closed()).into(),
        row.created_at.0.into(),
        row.released_at.map(|t| t.0).into(),
    ]
}

/// Adds a request's holding to its tenant's sum, or takes it away.
async fn hold_tenant(tx: &mut Tx<'_>, run: &Run, count: i64, work: i64) -> Result<(), OpError> {
    let needs = run.spec.needs();
    let of = |kind| if run.spec.kind == kind { count } else { 0 };
    let values = [
        Val::from(run.tenant),
        (needs.cpu * count).into(),
        (needs.memory_gb * count).into(),
        (needs.storage_gb * count).into(),
        of(provisor_core::Kind::Vps).into(),
        of(provisor_core::Kind::KubernetesNamespace).into(),
        of(provisor_core::Kind::Environment).into(),
        of(provisor_core::Kind::Managed).into(),
        work.into(),
    ];
    tx.send(&HOLD_TENANT, &values).await
}

/// Appends events to the log, in one row: every one counts in the request's version, published ones in its sequence.
async fn append(
    tx: &mut Tx<'_>,
    loaded: &mut Loaded,
    events: Vec<Event>,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<(), OpError> {
    if events.is_empty() {
        return Ok(());
    }
    let told = Told {
        run: &loaded.run,
        tenant: &loaded.tenant_name,
        before: loaded.state,
        version: loaded.events,
        published: loaded.published,
        at: now,
        events,
    };
    let (row, version, published) = log_row::values(told, EventId::new(now, chance))?;
    (loaded.events, loaded.published) = (version, published);
    tx.send(&log_row::INSERT, &row).await
}

/// Stores a request that was just admitted.
pub(crate) async fn insert(
    tx: &mut Tx<'_>,
    run: Run,
    tenant_name: &str,
    events: Vec<Event>,
    due: Timestamp,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<Loaded, OpError> {
    let needs = run.spec.needs();
    let published = events.iter().filter(|e| e.kind.is_published()).count();
    let counted = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let values = [
        run.id.into(),
        run.tenant.into(),
        run.spec.name.as_str().into(),
        run.spec.kind.name().into(),
        run.state.name().into(),
        run.spec.region.clone().into(),
        run.spec.order_id.clone().into(),
        to_json(&run)?.into(),
        counted(events.len()).into(),
        counted(published).into(),
        due.0.into(),
        needs.cpu.into(),
        needs.memory_gb.into(),
        needs.storage_gb.into(),
        run.spec.queue_timeout_seconds.map(|_| run.queue_deadline().0).into(),
        now.0.into(),
    ];
    tx.send(&INSERT, &values).await?;
    hold_tenant(tx, &run, 1, 0).await?;
    let mut loaded = Loaded {
        tenant_name: tenant_name.to_owned(),
        version: 1,
        events: 0,
        published: 0,
        generation: 0,
        worker: None,
        updated_at: now,
        state: run.state,
        in_work: false,
        ledger: Vec::new(),
        holdings: BTreeMap::new(),
        run,
    };
    append(tx, &mut loaded, events, now, chance).await?;
    Ok(loaded)
}

/// A prerequisite that completed wakes its dependents; one that ended otherwise fails them, and they
/// theirs (H24). A list and no recursion: a batch may be one long chain, and a stack has an end.
async fn tell_dependents(
    tx: &mut Tx<'_>,
    context: &Context,
    run: &Run,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<(), OpError> {
    let mut changed = VecDeque::from([(run.id, run.state)]);
    while let Some((prerequisite, state)) = changed.pop_front() {
        let ended = matches!(state, State::Failed | State::RollingBack | State::RolledBack);
        if !ended && state != State::Completed {
            continue;
        }
        for row in tx.rows(&DEPENDENTS, &[prerequisite.into()]).await? {
            let id: RequestId = row.id(0)?;
            if !ended {
                tx.send(&WAKE, &[id.into(), now.0.into()]).await?;
                continue;
            }
            let mut dependent = match load(tx, id).await {
                Ok(Some(dependent)) if dependent.run.version <= RUN_VERSION => dependent,
                Ok(None) => continue,
                // What this release cannot read stops nobody: the claim puts it off, and finds what has ended.
                Ok(Some(_)) | Err(OpError::Corrupt(_)) => {
                    tx.send(&WAKE, &[id.into(), now.0.into()]).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let mut events = Vec::new();
            let mut its_chance = SplitMix::new((context.seeds)());
            let actor = Some(Actor::system("dependencies"));
            let mut moment = context.moment(now, dependent.generation, &mut its_chance, &mut events, actor);
            if dependent.run.command(Command::DependencyEnded { prerequisite }, &mut moment).is_ok() {
                let kept = keep(tx, dependent, events, Lease::Free(now), now, chance).await?;
                changed.push_back((id, kept.state));
            }
        }
    }
    Ok(())
}

/// Notes on the old request of a retry that a new one follows it.
pub(crate) async fn note_retried(
    tx: &mut Tx<'_>,
    context: &Context,
    mut old: Loaded,
    new: RequestId,
    now: Timestamp,
    actor: Actor,
) -> Result<(), OpError> {
    old.run.retried_as = Some(new);
    let event = Event { actor: Some(actor), detail: json!({"retried_as": new}), ..Event::new(EventKind::RetriedAs) };
    let mut chance = SplitMix::new((context.seeds)());
    save(tx, context, old, vec![event], Lease::Attention(Timestamp::NEVER), now, &mut chance).await.map(|_| ())
}

impl super::requests::RequestView {
    /// A run as it was just loaded or kept.
    pub(crate) fn of(loaded: Loaded, now: Timestamp) -> Self {
        Self {
            run: loaded.run,
            tenant_name: loaded.tenant_name,
            version: loaded.version,
            events: loaded.events,
            published: loaded.published,
            updated_at: now,
            tenant_is_full: false,
        }
    }
}
