//! Admission: one transaction that checks everything and stores all of a batch or nothing (SPEC 4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::check::Flaws;
use provisor_core::event::Actor;
use provisor_core::mutant::{self, Mutant};
use provisor_core::placement::Choice;
use provisor_core::quota::{self, Dimension, Limits, Usage};
use provisor_core::run::Admission;
use provisor_core::tenant::TenantSpec;
use provisor_core::workflow::Plan;
use provisor_core::{Amounts, Class, Kind, RequestId, Run, Spec, State, TenantId, Timestamp};
use serde_json::Value;

use super::place::Clusters;
use super::requests::RequestView;
use super::save::{self, Context};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};
use crate::value::{Row, Val, to_json};

/// Admits requests, all or none.
pub struct Admit {
    /// What is asked for, in input order.
    pub items: Vec<Spec>,
    /// Where each stands in the input: `/requests/1`, or the empty text for a single one.
    pub pointers: Vec<String>,
    /// Who asks.
    pub actor: Actor,
    /// The key under which the same call gets the same answer (H20).
    pub idempotency: Option<Idempotency>,
    /// The request that the only item retries.
    pub retry_of: Option<RequestId>,
    /// Surroundings.
    pub context: Arc<Context>,
}

/// An idempotency key with what it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// `POST /api/requests` …
    pub route: String,
    /// The caller's key.
    pub key: String,
    /// A digest of the parsed body.
    pub fingerprint: String,
}

/// What admission would do with one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospect {
    /// Its name.
    pub name: String,
    /// Every dimension of its tenant's quota against the whole batch.
    pub quota: Vec<Dimension>,
    /// Where it would be placed now.
    pub choice: Choice,
    /// The name of that cluster.
    pub cluster: Option<String>,
    /// What would be done there.
    pub plan: Option<Plan>,
}

/// A dry run: the real admission and placement, nothing stored (SPEC 4.6).
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// One for each item, in input order.
    pub items: Vec<Prospect>,
    /// Names of the batch in the order of their dependencies.
    pub order: Vec<String>,
}

/// The same admission without storing anything.
pub struct DryRun(pub Admit);

const TENANT: Stmt = both(
    "select id, spec, used_cpu, used_memory, used_storage, used_vps, used_kubernetes_namespace, used_environment, used_managed, \
     draining from tenant where name = ?1",
);
// H18: the lock comes in a statement of its own, before the sums. On SQLite the writer is alone anyway.
const LOCK: Stmt = each("select id from tenant where name = ?1", "select id from tenant where name = ?1 for update");
// A prerequisite must not end between the look at it and our commit: its end would not find who waits for it.
const LOCK_NAMED: Stmt = each(
    "select r.id from tenant t join request r on r.tenant = t.id where t.name = ?1 and r.name = ?2 and r.live = 1",
    "select r.id from tenant t join request r on r.tenant = t.id where t.name = ?1 and r.name = ?2 and r.live = 1 for share of r",
);
const HOLDER: Stmt = both("select id from request where tenant = ?1 and name = ?2 and live = 1");
const PREREQUISITE: Stmt =
    each("select state, tenant from request where id = ?1", "select state, tenant from request where id = ?1 for share");
const BY_NAME: Stmt = each(
    "select id, state from request where tenant = ?1 and name = ?2 and live = 1",
    "select id, state from request where tenant = ?1 and name = ?2 and live = 1 for share",
);
const LOOK: Stmt = both("select state, tenant from request where id = ?1");
const LOOK_BY_NAME: Stmt = both("select id, state from request where tenant = ?1 and name = ?2 and live = 1");
const REMEMBERED: Stmt = both("select fingerprint, requests from idempotency where scope = ?1 and route = ?2 and key = ?3");
const REMEMBER: Stmt =
    both("insert into idempotency (scope, route, key, fingerprint, requests, created_at) values (?1, ?2, ?3, ?4, ?5, ?6)");
const DEPEND: Stmt = both("insert into dependency (request, prerequisite) values (?1, ?2)");
const LABEL: Stmt = both("insert into label (request, name, value) values (?1, ?2, ?3)");

pub(crate) const STATEMENTS: &[&Stmt] = &[
    &TENANT,
    &LOCK,
    &LOCK_NAMED,
    &LOOK,
    &LOOK_BY_NAME,
    &HOLDER,
    &PREREQUISITE,
    &BY_NAME,
    &REMEMBERED,
    &REMEMBER,
    &DEPEND,
    &LABEL,
];

struct TenantRow {
    id: TenantId,
    limits: Limits,
    used: Usage,
}

/// A prerequisite: another item of the batch, or a stored request with its state.
enum Prerequisite {
    Item(usize),
    Stored(RequestId, State),
}

/// What the checks found, ready to be stored.
struct Prepared {
    tenants: BTreeMap<String, TenantRow>,
    prerequisites: Vec<Vec<Prerequisite>>,
    order: Vec<usize>,
    quota: BTreeMap<String, Vec<Dimension>>,
    choices: Vec<Choice>,
    regions: Vec<Vec<String>>,
    clusters: Clusters,
}

impl Op for Admit {
    type Out = Vec<RequestView>;
    const NAME: &'static str = "admit";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<RequestView>, OpError> {
        let now = tx.now().await?;
        self.lock_requests(tx).await?;
        let scope = self.lock_tenants(tx).await?;
        if let Some(former) = self.remembered(tx, &scope, now).await? {
            return Ok(former);
        }
        let former = match self.retry_of {
            Some(id) => Some(save::load(tx, id).await?.ok_or(OpError::NotFound("request"))?),
            None => None,
        };
        if let Some(retried) = former.as_ref().and_then(|f| f.run.retried_as) {
            // `retry` of a request that has a retry answers that one (H20).
            let again = save::read(tx, retried).await?.ok_or(OpError::NotFound("request"))?;
            return Ok(vec![RequestView::of(again, now)]);
        }
        // What is kept for others does not matter here: only what can never fit is refused.
        let clusters = Clusters::read(tx).await?;
        let prepared = self.prepare(tx, clusters, true).await?;
        let views = self.store(tx, prepared, now).await?;
        self.remember(tx, &scope, &views, now).await?;
        if let (Some(old), Some(new)) = (former, views.first()) {
            save::note_retried(tx, &self.context, old, new.run.id, now, self.actor.clone()).await?;
        }
        Ok(views)
    }
}

impl Op for DryRun {
    type Out = Dry;
    const NAME: &'static str = "dry_run";
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Dry, OpError> {
        let clusters = Clusters::load(tx, self.0.context.planner.as_ref()).await?;
        let prepared = self.0.prepare(tx, clusters, false).await?;
        let mut items = Vec::with_capacity(self.0.items.len());
        for (spec, choice) in self.0.items.iter().zip(prepared.choices) {
            let chosen = prepared.clusters.candidates.iter().find(|c| Some(c.id) == choice.cluster);
            let plan = chosen.and_then(|c| self.0.context.planner.plan(c.id, spec).ok());
            items.push(Prospect {
                name: spec.name.clone(),
                quota: prepared.quota.get(&spec.tenant).cloned().unwrap_or_default(),
                cluster: chosen.map(|c| c.spec.name.clone()),
                choice,
                plan,
            });
        }
        let order = prepared.order.iter().filter_map(|i| self.0.items.get(*i)).map(|s| s.name.clone()).collect();
        Ok(Dry { items, order })
    }
}

impl Admit {
    fn pointer(&self, index: usize) -> &str {
        self.pointers.get(index).map_or("", String::as_str)
    }

    /// Locks the tenants. Answers the scope of an idempotency key: the tenant, or the platform for a batch
    /// over several (H20). The id and not the name, which another tenant may have one day (H26).
    async fn lock_tenants(&self, tx: &mut Tx<'_>) -> Result<String, OpError> {
        let names: BTreeSet<&str> = self.items.iter().map(|s| s.tenant.as_str()).collect();
        let mut ids = Vec::with_capacity(names.len());
        let locks: Vec<(&'static Stmt, Vec<Val>)> = names.iter().map(|name| (&LOCK, vec![(*name).into()])).collect();
        for (name, rows) in names.into_iter().zip(tx.several(&locks).await?) {
            let id = rows.first().map(|r| r.text(0).map(str::to_owned)).transpose()?;
            ids.push(id.unwrap_or_else(|| name.to_owned()));
        }
        Ok(if ids.len() == 1 { ids.concat() } else { "*".to_owned() })
    }

    async fn remembered(&self, tx: &mut Tx<'_>, scope: &str, now: Timestamp) -> Result<Option<Vec<RequestView>>, OpError> {
        let Some(key) = &self.idempotency else { return Ok(None) };
        let values = [scope.into(), key.route.as_str().into(), key.key.as_str().into()];
        let Some(row) = tx.row(&REMEMBERED, &values).await? else { return Ok(None) };
        if row.text(0)? != key.fingerprint {
            return Err(OpError::IdempotencyMismatch);
        }
        let mut views = Vec::new();
        for id in row.json::<Vec<RequestId>>(1)? {
            let found =
                save::read(tx, id).await?.ok_or_else(|| OpError::Corrupt(format!("{id} of an idempotency key is gone")))?;
            views.push(RequestView::of(found, now));
        }
        Ok(Some(views))
    }

    async fn remember(&self, tx: &mut Tx<'_>, scope: &str, views: &[RequestView], now: Timestamp) -> Result<(), OpError> {
        let Some(key) = self.idempotency.as_ref().filter(|_| !mutant::on(Mutant::NoIdempotency)) else { return Ok(()) };
        let ids: Vec<RequestId> = views.iter().map(|v| v.run.id).collect();
        let values = [
            scope.into(),
            key.route.as_str().into(),
            key.key.as_str().into(),
            key.fingerprint.as_str().into(),
            to_json(&ids)?.into(),
            now.0.into(),
        ];
        tx.send(&REMEMBER, &values).await
    }

    /// Locks what is retried and what is waited for, before the tenants (see `save`).
    async fn lock_requests(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        if let Some(former) = self.retry_of {
            save::lock(tx, former).await?;
        }
        let named: BTreeSet<(&str, &str)> =
            self.items.iter().flat_map(|s| s.depends_on.iter().map(|name| (s.tenant.as_str(), name.as_str()))).collect();
        for (tenant, name) in named {
            if let Ok(id) = name.parse::<RequestId>() {
                tx.rows(&PREREQUISITE, &[id.into()]).await?;
            } else {
                tx.rows(&LOCK_NAMED, &[tenant.into(), name.into()]).await?;
            }
        }
        Ok(())
    }

    /// `strict`: what is over a quota is refused, and prerequisites are locked.
    async fn prepare(&self, tx: &mut Tx<'_>, clusters: Clusters, strict: bool) -> Result<Prepared, OpError> {
        let tenants = self.load_tenants(tx).await?;
        self.check_names(tx, &tenants).await?;
        let prerequisites = self.resolve_prerequisites(tx, &tenants, strict).await?;
        let order = self.order(&prerequisites)?;
        let quota = self.quota(&tenants);
        // A refusal for quota comes before one for want of a cluster; a dry run shows both.
        let short: Vec<Dimension> = quota.values().flatten().filter(|d| !d.fits()).cloned().collect();
        if strict && !short.is_empty() {
            return Err(OpError::QuotaExceeded(short));
        }
        let (choices, regions) = self.place(&clusters)?;
        Ok(Prepared { tenants, prerequisites, order, quota, choices, regions, clusters })
    }

    async fn load_tenants(&self, tx: &mut Tx<'_>) -> Result<BTreeMap<String, TenantRow>, OpError> {
        let mut tenants = BTreeMap::new();
        let mut flaws = Flaws::default();
        for (index, spec) in self.items.iter().enumerate() {
            if tenants.contains_key(&spec.tenant) {
                continue;
            }
            let at = format!("{}/tenant", self.pointer(index));
            let Some(row) = tx.row(&TENANT, &[spec.tenant.as_str().into()]).await? else {
                flaws.add(&at, "exists", &Value::from(spec.tenant.clone()), format!("there is no tenant {}", spec.tenant));
                continue;
            };
            if row.int(9)? != 0 {
                let message = format!("tenant {} is draining and admits nothing more", spec.tenant);
                flaws.add(&at, "exists", &Value::from(spec.tenant.clone()), message);
            }
            tenants.insert(spec.tenant.clone(), tenant_row(&row)?);
        }
        flaws.finish(tenants).map_err(OpError::Invalid)
    }

    /// Names are unique among a tenant's requests that are not rolled back (H21).
    async fn check_names(&self, tx: &mut Tx<'_>, tenants: &BTreeMap<String, TenantRow>) -> Result<(), OpError> {
        let mut seen = BTreeSet::new();
        let mut flaws = Flaws::default();
        for (index, spec) in self.items.iter().enumerate() {
            if !seen.insert((&spec.tenant, &spec.name)) {
                let at = format!("{}/name", self.pointer(index));
                flaws.add(&at, "unique", &Value::from(spec.name.clone()), "the name stands twice in the batch");
            }
        }
        flaws.finish(()).map_err(OpError::Invalid)?;
        let items: Vec<_> = self.items.iter().enumerate().filter_map(|(i, s)| Some((i, s, tenants.get(&s.tenant)?))).collect();
        let holder = |(_, spec, tenant): &(usize, &Spec, &TenantRow)| {
            let values = vec![tenant.id.into(), spec.name.as_str().into()];
            (&HOLDER, values)
        };
        let holders: Vec<(&'static Stmt, Vec<Val>)> = items.iter().map(holder).collect();
        for ((index, spec, _), rows) in items.into_iter().zip(tx.several(&holders).await?) {
            if let Some(row) = rows.first() {
                let pointer = format!("{}/name", self.pointer(index));
                return Err(OpError::NameTaken { pointer, name: spec.name.clone(), holder: row.text(0)?.to_owned() });
            }
        }
        Ok(())
    }

    async fn resolve_prerequisites(
        &self,
        tx: &mut Tx<'_>,
        tenants: &BTreeMap<String, TenantRow>,
        locking: bool,
    ) -> Result<Vec<Vec<Prerequisite>>, OpError> {
        let mut all = Vec::with_capacity(self.items.len());
        for (index, spec) in self.items.iter().enumerate() {
            let mut found = Vec::new();
            for (place, name) in spec.depends_on.iter().enumerate() {
                let pointer = format!("{}/depends_on/{place}", self.pointer(index));
                let Some(tenant) = tenants.get(&spec.tenant) else { continue };
                let item = self.items.iter().position(|o| o.tenant == spec.tenant && o.name == *name);
                let one = match item {
                    Some(item) => Prerequisite::Item(item),
                    None => stored(tx, tenant.id, name, pointer, locking).await?,
                };
                found.push(one);
            }
            all.push(found);
        }
        Ok(all)
    }

    /// Kahn's order; a cycle is named by its path (SPEC 4.5).
    fn order(&self, prerequisites: &[Vec<Prerequisite>]) -> Result<Vec<usize>, OpError> {
        let item = |p: &Prerequisite| if let Prerequisite::Item(i) = p { Some(*i) } else { None };
        let edges: Vec<Vec<usize>> = prerequisites
            .iter()
            .map(|list| list.iter().filter_map(item).collect::<BTreeSet<_>>().into_iter().collect())
            .collect();
        provisor_core::order::sort(&edges).map_err(|cycle| {
            let name = |i: &usize| self.items.get(*i).map(|s| s.name.clone());
            OpError::DependencyCycle(cycle.path.iter().filter_map(name).collect())
        })
    }

    /// Refuses what no registered cluster can ever fit (SPEC 2), and fixes the regions (H22).
    fn place(&self, clusters: &Clusters) -> Result<(Vec<Choice>, Vec<Vec<String>>), OpError> {
        let mut choices = Vec::new();
        let mut all_regions = Vec::new();
        for (index, spec) in self.items.iter().enumerate() {
            let regions = regions(spec, clusters);
            let mut choice = clusters.choose(None, spec, &regions, &[]);
            if choice.cluster.is_none() && !choice.may_wait {
                return Err(no_cluster(self.pointer(index), spec, choice.rejected));
            }
            // Why: a cluster that already knows that it can never do it is a refusal, too.
            let (mut avoid, mut passes) = (Vec::new(), false);
            while let Some(id) = choice.cluster {
                let Err(failure) = self.context.planner.plan(id, spec) else { break };
                passes |= failure.class != Class::Permanent;
                avoid.push((id, failure.message));
                let ids: Vec<_> = avoid.iter().map(|(id, _)| *id).collect();
                choice = clusters.choose(None, spec, &regions, &ids);
                choice.may_wait |= passes;
                if choice.cluster.is_none() && !choice.may_wait {
                    let named = |(id, why): &(_, String)| {
                        let found = clusters.candidates.iter().find(|c| c.id == *id);
                        found.map(|c| (c.spec.name.clone(), why.clone()))
                    };
                    let mut rejected: Vec<_> = avoid.iter().filter_map(named).collect();
                    let known: BTreeSet<String> = rejected.iter().map(|(n, _)| n.clone()).collect();
                    rejected.extend(choice.rejected.into_iter().filter(|(n, _)| !known.contains(n)));
                    return Err(no_cluster(self.pointer(index), spec, rejected));
                }
            }
            choices.push(choice);
            all_regions.push(regions);
        }
        Ok((choices, all_regions))
    }

    fn quota(&self, tenants: &BTreeMap<String, TenantRow>) -> BTreeMap<String, Vec<Dimension>> {
        let mut asked: BTreeMap<&str, Usage> = BTreeMap::new();
        for spec in &self.items {
            asked.entry(&spec.tenant).or_default().add(spec.kind, spec.needs(), 1);
        }
        let dimensions = |name: &str, asked: &Usage| {
            let tenant = tenants.get(name)?;
            Some((name.to_owned(), quota::dimensions(&tenant.limits, &tenant.used, asked)))
        };
        asked.iter().filter_map(|(name, asked)| dimensions(name, asked)).collect()
    }

    async fn store(&self, tx: &mut Tx<'_>, prepared: Prepared, now: Timestamp) -> Result<Vec<RequestView>, OpError> {
        let mut chance = SplitMix::new((self.context.seeds)());
        let mut ids: Vec<RequestId> = self.items.iter().map(|_| RequestId::new(now, &mut chance)).collect();
        // Why sorted: of one moment, the order of ids is the order of the input.
        ids.sort_unstable();
        let mut views: Vec<Option<RequestView>> = self.items.iter().map(|_| None).collect();
        for index in prepared.order {
            let (Some(spec), Some(id)) = (self.items.get(index), ids.get(index).copied()) else { continue };
            let Some(tenant) = prepared.tenants.get(&spec.tenant) else { continue };
            let prerequisites = prepared.prerequisites.get(index).map(Vec::as_slice).unwrap_or_default();
            let on = |p: &Prerequisite| match p {
                Prerequisite::Item(i) => ids.get(*i).copied(),
                Prerequisite::Stored(id, _) => Some(*id),
            };
            let depends_on: Vec<RequestId> = prerequisites.iter().filter_map(on).collect::<BTreeSet<_>>().into_iter().collect();
            let done = |p: &Prerequisite| matches!(p, Prerequisite::Stored(_, State::Completed));
            let must_wait = !prerequisites.iter().all(done);
            let admission = Admission {
                id,
                tenant: tenant.id,
                spec: spec.clone(),
                regions: prepared.regions.get(index).cloned().unwrap_or_default(),
                depends_on: depends_on.clone(),
                must_wait,
                retry_of: self.retry_of,
                actor: self.actor.clone(),
            };
            let (run, events) = Run::admit(admission, now);
            let due = if must_wait { Timestamp::NEVER } else { now };
            let loaded = save::insert(tx, run, &spec.tenant, events, due, now, &mut chance).await?;
            let depends: Vec<_> = depends_on.iter().map(|p| vec![id.into(), (*p).into()]).collect();
            tx.batch(&DEPEND, &depends).await?;
            let labels: Vec<_> = spec.labels.iter().map(|(k, v)| vec![id.into(), k.as_str().into(), v.as_str().into()]).collect();
            tx.batch(&LABEL, &labels).await?;
            if let Some(view) = views.get_mut(index) {
                *view = Some(RequestView::of(loaded, now));
            }
        }
        Ok(views.into_iter().flatten().collect())
    }
}

/// Names the field that stands in the way: the one that the clusters which came furthest failed at.
fn no_cluster(pointer: &str, spec: &Spec, rejected: Vec<(String, String)>) -> OpError {
    let any = |word: &str| rejected.iter().any(|(_, reason)| reason.starts_with(word));
    let (key, rule, value) = if any("too small") {
        ("size", "max", serde_json::to_value(spec.size).unwrap_or_default())
    } else if any("is in region") {
        ("region", "exists", Value::from(spec.region.clone()))
    } else if any("is ") && spec.provider.is_some() {
        ("provider", "exists", Value::from(spec.provider.clone()))
    } else if any("the request is pinned") {
        ("cluster", "exists", Value::from(spec.cluster.clone()))
    } else if any("serves no") || rejected.is_empty() {
        ("kind", "exists", Value::from(spec.kind.name()))
    } else {
        ("image", "exists", Value::from(spec.image.clone()))
    };
    OpError::NoCluster { pointer: format!("{pointer}/{key}"), rule, value, rejected }
}

/// The asked region; with fallback the others after it in order of registration.
fn regions(spec: &Spec, clusters: &Clusters) -> Vec<String> {
    let mut regions: Vec<String> = spec.region.iter().cloned().collect();
    if spec.region_fallback {
        for candidate in &clusters.candidates {
            if !regions.contains(&candidate.spec.region) {
                regions.push(candidate.spec.region.clone());
            }
        }
    }
    regions
}

fn tenant_row(row: &Row) -> Result<TenantRow, OpError> {
    let spec: TenantSpec = row.json(1)?;
    let amounts = Amounts { cpu: row.int(2)?, memory_gb: row.int(3)?, storage_gb: row.int(4)? };
    let requests = [
        (Kind::Vps, row.int(5)?),
        (Kind::KubernetesNamespace, row.int(6)?),
        (Kind::Environment, row.int(7)?),
        (Kind::Managed, row.int(8)?),
    ];
    let used = Usage { amounts, requests: requests.into_iter().collect() };
    Ok(TenantRow { id: row.id(0)?, limits: spec.quota, used })
}

/// A prerequisite outside the batch: a live request of the tenant, by id or by name (H24).
async fn stored(tx: &mut Tx<'_>, tenant: TenantId, name: &str, pointer: String, locking: bool) -> Result<Prerequisite, OpError> {
    let (by_id, by_name): (&'static Stmt, &'static Stmt) =
        if locking { (&PREREQUISITE, &BY_NAME) } else { (&LOOK, &LOOK_BY_NAME) };
    let unknown = |pointer: String| OpError::DependencyUnknown { pointer, name: name.to_owned() };
    let (id, state) = if let Ok(id) = name.parse::<RequestId>() {
        let row = tx.row(by_id, &[id.into()]).await?.ok_or_else(|| unknown(pointer.clone()))?;
        if row.text(1)? != tenant.to_string() {
            return Err(unknown(pointer));
        }
        (id, row.text(0)?.to_owned())
    } else {
        let row = tx.row(by_name, &[tenant.into(), name.into()]).await?.ok_or_else(|| unknown(pointer.clone()))?;
        (row.id(0)?, row.text(1)?.to_owned())
    };
    let state = State::parse(&state).ok_or_else(|| OpError::Corrupt(format!("state {state}")))?;
    if matches!(state, State::Failed | State::RollingBack | State::RolledBack) {
        return Err(OpError::DependencyEnded { pointer, name: name.to_owned(), state: state.name().to_owned() });
    }
    Ok(Prerequisite::Stored(id, state))
}
