//! Loading and keeping a run: the one place where a request's row, its ledger, its events, its holdings
//! and those who wait for it change together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use provisor_core::budget;
use provisor_core::chance::SplitMix;
use provisor_core::event::{Actor, Event, EventKind};
use provisor_core::id::EventId;
use provisor_core::known::Known;
use provisor_core::mutant::{self, Mutant};
use provisor_core::quota::Amounts;
use provisor_core::run::{AttemptState, Command, Moment, RUN_VERSION, Row as LedgerRow};
use provisor_core::spec::Strategy;
use provisor_core::workflow::plan::Planner;
use provisor_core::{ClusterId, Kind, RequestId, Run, Span, State, TenantId, Timestamp};
use serde_json::json;

use super::log_row::{self, Told};
use super::writes::Writes;
use crate::op::OpError;
use crate::tx::{Stmt, Tx, each, many};
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
    /// How requests are tried that do not say so themselves, of tenants that do not either (SPEC 3.4).
    pub strategy: Strategy,
    /// How long no worker was alive, in all, in microseconds; kept fresh by the heartbeat (H12).
    pub downtime: AtomicI64,
    /// What is known of clusters; kept fresh beside the work.
    pub known: RwLock<Arc<Known>>,
    /// Where seeds for jitter and ids come from.
    pub seeds: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Context {
    /// What is known of clusters by now.
    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known.
    pub fn learn(&self, change: impl FnOnce(&mut Known)) {
        change(Arc::make_mut(&mut self.known.write().unwrap_or_else(PoisonError::into_inner)));
    }

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
            known: self.known(),
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
    /// What its attempts have brought to the budget of extra launches, or taken from it (H31).
    launches: i64,
}

/// Who keeps the lease after a save.
#[derive(Clone, Copy)]
pub(crate) enum Lease<'a> {
    /// A worker holds it until then.
    Held(&'a str, Timestamp),
    /// Nobody; somebody should look at it then.
    Free(Timestamp),
    /// As it was, with a note to the holder that something came (commands).
    Attention(Timestamp),
}

macro_rules! columns {
    ($tail:literal) => {
        concat!(
            "r.run, coalesce(t.name, ''), r.version, r.events, r.published, r.generation, r.worker, r.updated_at, r.id",
            $tail
        )
    };
}
/// The columns of a [`Loaded`], of request `r` and its tenant `t`; others may come behind them.
pub(crate) use columns;

macro_rules! load {
    () => {
        concat!("select ", columns!(" from request r left join tenant t on t.id = r.tenant where r.id = ?1"))
    };
}
macro_rules! load_many {
    ($tail:literal) => {
        concat!(
            "select ",
            columns!(" from unnest(?1::text[]) as n (id) join request r on r.id = n.id left join tenant t on t.id = r.tenant"),
            $tail
        )
    };
}

// Rows are locked in this order on PostgreSQL: requests, then tenants, then clusters, each kind by its id.
// Who must do otherwise skips what is locked, or is run again after a deadlock.
const LOAD: Stmt = many(load!(), load_many!(" order by r.id for update of r"));
const READ: Stmt = many(load!(), load_many!(""));
const LOCK: Stmt = each("select id from request where id = ?1", "select id from request where id = ?1 for update");
const LOCK_TENANT: Stmt = each("select id from tenant where id = ?1", "select id from tenant where id = ?1 for update");
const DEPENDENTS: Stmt = many(
    // Why a cross join: SQLite keeps its order, so the few dependents are asked, not the whole queue.
    "select d.request, d.prerequisite from dependency d cross join request r \
     where r.id = d.request and d.prerequisite = ?1 and r.state = 'queued'",
    "select d.request, d.prerequisite from unnest(?1::text[]) as n (id) join dependency d on d.prerequisite = n.id \
     join request r on r.id = d.request where r.state = 'queued' order by d.request, d.prerequisite",
);
const WAKE: Stmt = many(
    "update request set due_at = ?2 where id = ?1 and state = 'queued' and due_at > ?2",
    "update request r set due_at = n.due_at from unnest(?1::text[], ?2::bigint[]) as n (id, due_at) \
     where r.id = n.id and r.state = 'queued' and r.due_at > n.due_at",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&LOAD, &READ, &LOCK, &LOCK_TENANT, &DEPENDENTS, &WAKE];

/// What was found of several requests. Each has an answer of its own, as what cannot be read concerns itself alone.
pub(crate) type Found = BTreeMap<RequestId, Result<Loaded, OpError>>;

/// Loads a run with what is needed to keep it, and locks it.
pub(crate) async fn load(tx: &mut Tx<'_>, id: RequestId) -> Result<Option<Loaded>, OpError> {
    load_all(tx, &BTreeSet::from([id])).await?.remove(&id).transpose()
}

/// The same for several at once; what is not there is left out.
pub(crate) async fn load_all(tx: &mut Tx<'_>, ids: &BTreeSet<RequestId>) -> Result<Found, OpError> {
    found(tx.rows_of(&LOAD, ids.iter().map(|id| vec![(*id).into()]).collect()).await?.iter())
}

/// Loads a run that is only to be shown.
pub(crate) async fn read(tx: &mut Tx<'_>, id: RequestId) -> Result<Option<Loaded>, OpError> {
    read_all(tx, &BTreeSet::from([id])).await?.remove(&id).transpose()
}

/// The same for several at once.
pub(crate) async fn read_all(tx: &mut Tx<'_>, ids: &BTreeSet<RequestId>) -> Result<Found, OpError> {
    found(tx.rows_of(&READ, ids.iter().map(|id| vec![(*id).into()]).collect()).await?.iter())
}

fn found<'r>(rows: impl Iterator<Item = &'r Row>) -> Result<Found, OpError> {
    rows.map(|row| Ok((row.id(8)?, loaded(row)))).collect()
}

/// Locks a request before the tenants and clusters that are locked with it.
pub(crate) async fn lock(tx: &mut Tx<'_>, id: RequestId) -> Result<(), OpError> {
    tx.rows(&LOCK, &[id.into()]).await.map(drop)
}

/// Locks a tenant before the clusters that are locked with it.
pub(crate) async fn lock_tenant(tx: &mut Tx<'_>, id: TenantId) -> Result<(), OpError> {
    tx.rows(&LOCK_TENANT, &[id.into()]).await.map(drop)
}

/// Reads the columns of [`columns`].
pub(crate) fn loaded(row: &Row) -> Result<Loaded, OpError> {
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
    for attempt in &run.attempts {
        all.entry(attempt.cluster).or_default().launches += budget::change(run, attempt);
    }
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
    let mut writes = Writes::default();
    let kept = keep(&mut writes, loaded, events, lease, now, chance)?;
    finish(tx, context, writes, now).await?;
    Ok(kept)
}

/// Writes what was gathered, and tells those who wait for whose state has changed.
pub(crate) async fn finish(tx: &mut Tx<'_>, context: &Context, mut writes: Writes, now: Timestamp) -> Result<(), OpError> {
    writes.flush(tx).await?;
    tell_dependents(tx, context, writes, now).await
}

/// Notes what is to be written of a run that was loaded in this transaction, with its events. Until it is flushed the run
/// must not be loaded again.
pub(crate) fn keep(
    writes: &mut Writes,
    mut loaded: Loaded,
    events: Vec<Event>,
    lease: Lease<'_>,
    now: Timestamp,
    chance: &mut SplitMix,
) -> Result<Loaded, OpError> {
    // Of two transactions the one that began first may come to the row last; its events are not dated back (H40).
    let at = now.max(loaded.updated_at);
    append(writes, &mut loaded, events, at, chance)?;
    write_row(writes, &loaded, &lease, at)?;
    loaded.updated_at = at;
    loaded.version += 1;
    project(writes, &mut loaded);
    if loaded.state != loaded.run.state {
        writes.changed.push((loaded.run.id, loaded.run.state));
        loaded.state = loaded.run.state;
    }
    Ok(loaded)
}

fn write_row(writes: &mut Writes, loaded: &Loaded, lease: &Lease<'_>, now: Timestamp) -> Result<(), OpError> {
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
    let (rows, rest) = match lease {
        Lease::Held(worker, until) => (&mut writes.updates, vec![loaded.generation.into(), (*worker).into(), until.0.into()]),
        Lease::Free(at) => (&mut writes.updates, vec![loaded.generation.into(), Val::Null, due(*at)]),
        Lease::Attention(at) => (&mut writes.attentions, vec![due(*at)]),
    };
    values.extend(rest);
    values.push(loaded.version.into());
    rows.push(values);
    Ok(())
}

/// Ledger rows, holdings of clusters and of the tenant, as far as they changed.
fn project(writes: &mut Writes, loaded: &mut Loaded) {
    let run = &loaded.run;
    let changed = run.ledger.iter().filter(|r| !loaded.ledger.iter().any(|o| o.id == r.id && same_projection(o, r)));
    writes.resources.extend(changed.map(|r| resource_values(run.id, r)));
    let count = i64::from(run.holds_quota()) - i64::from(!loaded.state.is_terminal());
    let work = i64::from(run.is_in_work()) - i64::from(loaded.in_work);
    let count = if mutant::on(Mutant::QuotaKept) { count.max(0) } else { count };
    if count != 0 || work != 0 {
        hold_tenant(writes, run, count, work);
    }
    let after = holdings(run);
    for cluster in loaded.holdings.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let old = loaded.holdings.get(cluster).copied().unwrap_or_default();
        let new = after.get(cluster).copied().unwrap_or_default();
        if old != new && !(mutant::on(Mutant::CapacityKept) && new == Holding::default()) {
            let (reserved, used) = (new.reserved.plus(old.reserved.negated()), new.used.plus(old.used.negated()));
            let slots = (new.reserved_slots - old.reserved_slots, new.used_slots - old.used_slots);
            let (r, u, launches) = (reserved, used, new.launches - old.launches);
            let by = [r.cpu, r.memory_gb, r.storage_gb, slots.0, u.cpu, u.memory_gb, u.storage_gb, slots.1, launches];
            writes.hold_cluster(*cluster, by);
        }
    }
    loaded.ledger.clone_from(&run.ledger);
    loaded.holdings = after;
    loaded.in_work = run.is_in_work();
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
fn hold_tenant(writes: &mut Writes, run: &Run, count: i64, work: i64) {
    let needs = run.spec.needs();
    let of = |kind| if run.spec.kind == kind { count } else { 0 };
    let by = [
        needs.cpu * count,
        needs.memory_gb * count,
        needs.storage_gb * count,
        of(Kind::Vps),
        of(Kind::KubernetesNamespace),
        of(Kind::Environment),
        of(Kind::Managed),
        work,
    ];
    writes.hold_tenant(run.tenant, by);
}

/// Appends events to the log, in one row: every one counts in the request's version, published ones in its sequence.
fn append(
    writes: &mut Writes,
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
    writes.events.push(row);
    Ok(())
}

/// Notes a request that was just admitted, to be stored.
pub(crate) fn insert(
    writes: &mut Writes,
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
    let values = vec![
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
    writes.requests.push(values);
    hold_tenant(writes, &run, 1, 0);
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
    append(writes, &mut loaded, events, now, chance)?;
    Ok(loaded)
}

/// A prerequisite that completed wakes its dependents; one that ended otherwise fails them, and they
/// theirs (H24). Generation after generation and no recursion: a batch may be one long chain, and a stack has an end.
async fn tell_dependents(tx: &mut Tx<'_>, context: &Context, mut writes: Writes, now: Timestamp) -> Result<(), OpError> {
    while !writes.changed.is_empty() {
        let is_ended = |state: &State| matches!(state, State::Failed | State::RollingBack | State::RolledBack);
        let changed: BTreeMap<RequestId, State> = std::mem::take(&mut writes.changed).into_iter().collect();
        let told = changed.iter().filter(|(_, state)| is_ended(state) || **state == State::Completed);
        let (mut wake, mut fail) = (BTreeSet::new(), BTreeMap::new());
        for row in tx.rows_of(&DEPENDENTS, told.map(|(id, _)| vec![(*id).into()]).collect()).await? {
            let (dependent, prerequisite): (RequestId, RequestId) = (row.id(0)?, row.id(1)?);
            if changed.get(&prerequisite).is_some_and(is_ended) {
                fail.entry(dependent).or_insert(prerequisite);
            } else {
                wake.insert(dependent);
            }
        }
        let mut loaded = load_all(tx, &fail.keys().copied().collect()).await?;
        for (id, prerequisite) in fail {
            let mut dependent = match loaded.remove(&id) {
                Some(Ok(dependent)) if dependent.run.version <= RUN_VERSION => dependent,
                None => continue,
                // What this release cannot read stops nobody: the claim puts it off, and finds what has ended.
                Some(_) => {
                    wake.insert(id);
                    continue;
                }
            };
            let mut events = Vec::new();
            let mut chance = SplitMix::new((context.seeds)());
            let actor = Some(Actor::system("dependencies"));
            let mut moment = context.moment(now, dependent.generation, &mut chance, &mut events, actor);
            if dependent.run.command(Command::DependencyEnded { prerequisite }, &mut moment).is_ok() {
                keep(&mut writes, dependent, events, Lease::Free(now), now, &mut chance)?;
            }
        }
        writes.flush(tx).await?;
        tx.batch(&WAKE, wake.into_iter().map(|id| vec![id.into(), now.0.into()]).collect()).await?;
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
