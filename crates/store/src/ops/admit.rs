//! Admission: one transaction that checks everything and stores all of a batch or nothing (SPEC 4).
//!
//! Calls that wait at the same time are answered together: what they rest on is read once, in one statement for each table,
//! each is decided in turn on what the ones before it have left, and what is admitted is written in one statement for each
//! table. A call that is refused has written nothing, so it takes nobody with it. Calls that rest on other requests
//! (prerequisites outside of the batch, retries) stay alone: they lock these first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::SplitMix;
use provisor_core::check::Flaws;
use provisor_core::event::Actor;
use provisor_core::mutant::{self, Mutant};
use provisor_core::placement::Choice;
use provisor_core::quota::{self, Dimension, Usage};
use provisor_core::run::Admission;
use provisor_core::workflow::Plan;
use provisor_core::{Class, RequestId, Run, Spec, State, TenantId, Timestamp};
use serde_json::Value;

use super::place::Clusters;
use super::requests::RequestView;
use super::save::{self, Context};
use super::writes::Writes;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};
use crate::value::to_json;

mod facts;

pub(crate) use facts::STATEMENTS as FACTS;
use facts::{Facts, Remembered, TenantRow};

/// Requests of one call that is answered together with others, at most.
const JOINED_AT_MOST: usize = 8;

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

// A prerequisite must not end between the look at it and our commit: its end would not find who waits for it.
const LOCK_NAMED: Stmt = each(
    "select r.id from tenant t join request r on r.tenant = t.id where t.name = ?1 and r.name = ?2 and r.live = 1",
    "select r.id from tenant t join request r on r.tenant = t.id where t.name = ?1 and r.name = ?2 and r.live = 1 for share of r",
);
const PREREQUISITE: Stmt =
    each("select state, tenant from request where id = ?1", "select state, tenant from request where id = ?1 for share");
const BY_NAME: Stmt = each(
    "select id, state from request where tenant = ?1 and name = ?2 and live = 1",
    "select id, state from request where tenant = ?1 and name = ?2 and live = 1 for share",
);
const LOOK: Stmt = both("select state, tenant from request where id = ?1");
const LOOK_BY_NAME: Stmt = both("select id, state from request where tenant = ?1 and name = ?2 and live = 1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&LOCK_NAMED, &LOOK, &LOOK_BY_NAME, &PREREQUISITE, &BY_NAME];

/// A prerequisite: another item of the batch, or a stored request with its state.
enum Prerequisite {
    Item(usize),
    Stored(RequestId, State),
}

/// What the checks found, ready to be stored.
struct Prepared {
    prerequisites: Vec<Vec<Prerequisite>>,
    order: Vec<usize>,
    quota: BTreeMap<String, Vec<Dimension>>,
    choices: Vec<Choice>,
    regions: Vec<Vec<String>>,
}

impl Op for Admit {
    type Out = Vec<RequestView>;
    const NAME: &'static str = "admit";
    const MODE: Mode = Mode::Write;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<RequestView>, OpError> {
        let now = tx.now().await?;
        self.lock_requests(tx).await?;
        let mut facts = Facts::locked(tx, &[self]).await?;
        if let Some(former) = facts.remembered(self)? {
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
        self.check(&facts)?;
        let prerequisites = self.resolve_prerequisites(tx, &facts, true).await?;
        let prepared = self.prepare(&facts, prerequisites, true)?;
        let mut writes = Writes::default();
        let views = self.store(&mut facts, prepared, &mut writes, now)?;
        writes.flush(tx).await?;
        if let (Some(old), Some(new)) = (former, views.first()) {
            save::note_retried(tx, &self.context, old, new.run.id, now, self.actor.clone()).await?;
        }
        Ok(views)
    }

    /// What rests on other requests locks them first, and what is large is alone anyway.
    fn joins(&self) -> bool {
        self.retry_of.is_none() && self.items.len() <= JOINED_AT_MOST && self.items_named().is_some()
    }

    async fn run_joined(all: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Result<Vec<RequestView>, OpError>>, OpError> {
        let now = tx.now().await?;
        let mut facts = Facts::locked(tx, all).await?;
        let mut writes = Writes::default();
        let answers = all.iter().map(|one| one.decide(&mut facts, &mut writes, now)).collect();
        writes.flush(tx).await?;
        Ok(answers)
    }
}

impl Op for DryRun {
    type Out = Dry;
    const NAME: &'static str = "dry_run";
    const MODE: Mode = Mode::Read;

    async fn run(&self, tx: &mut Tx<'_>) -> Result<Dry, OpError> {
        let facts = Facts::seen(tx, &self.0).await?;
        self.0.check(&facts)?;
        let prerequisites = self.0.resolve_prerequisites(tx, &facts, false).await?;
        let prepared = self.0.prepare(&facts, prerequisites, false)?;
        let mut items = Vec::with_capacity(self.0.items.len());
        for (spec, choice) in self.0.items.iter().zip(prepared.choices) {
            let chosen = facts.clusters.candidates.iter().find(|c| Some(c.id) == choice.cluster);
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

    /// Whose an idempotency key is: the only tenant's, or the platform's for a batch over several (H20).
    fn scope(&self) -> &str {
        let mut names = self.items.iter().map(|s| s.tenant.as_str());
        let first = names.next().unwrap_or("*");
        if names.all(|name| name == first) { first } else { "*" }
    }

    /// Decides on one of several calls and notes what is to be written. A refusal notes nothing.
    fn decide(&self, facts: &mut Facts, writes: &mut Writes, now: Timestamp) -> Result<Vec<RequestView>, OpError> {
        if let Some(former) = facts.remembered(self)? {
            return Ok(former);
        }
        self.check(facts)?;
        let items = self.items_named().ok_or_else(|| OpError::Corrupt("a call that must be alone".to_owned()))?;
        let prepared = self.prepare(facts, items, true)?;
        self.store(facts, prepared, writes, now)
    }

    /// The item of the batch that a prerequisite names.
    fn item(&self, tenant: &str, name: &str) -> Option<usize> {
        self.items.iter().position(|o| o.tenant == tenant && o.name == name)
    }

    /// The prerequisites, where all are items of the batch.
    fn items_named(&self) -> Option<Vec<Vec<Prerequisite>>> {
        let of = |spec: &Spec| {
            let named = spec.depends_on.iter().map(|name| self.item(&spec.tenant, name).map(Prerequisite::Item));
            named.collect::<Option<Vec<_>>>()
        };
        self.items.iter().map(of).collect()
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

    /// What is refused before anything else: tenants that are not there, names that are taken.
    fn check(&self, facts: &Facts) -> Result<(), OpError> {
        self.check_tenants(facts)?;
        self.check_names(facts)
    }

    /// `strict`: what is over a quota is refused.
    fn prepare(&self, facts: &Facts, prerequisites: Vec<Vec<Prerequisite>>, strict: bool) -> Result<Prepared, OpError> {
        let order = self.order(&prerequisites)?;
        let quota = self.quota(&facts.tenants);
        // A refusal for quota comes before one for want of a cluster; a dry run shows both.
        let short: Vec<Dimension> = quota.values().flatten().filter(|d| !d.fits()).cloned().collect();
        if strict && !short.is_empty() {
            return Err(OpError::QuotaExceeded(short));
        }
        let (choices, regions) = self.place(&facts.clusters)?;
        Ok(Prepared { prerequisites, order, quota, choices, regions })
    }

    fn check_tenants(&self, facts: &Facts) -> Result<(), OpError> {
        let mut seen = BTreeSet::new();
        let mut flaws = Flaws::default();
        for (index, spec) in self.items.iter().enumerate() {
            let message = match facts.tenants.get(&spec.tenant) {
                None => format!("there is no tenant {}", spec.tenant),
                Some(tenant) if tenant.draining && seen.insert(&spec.tenant) => {
                    format!("tenant {} is draining and admits nothing more", spec.tenant)
                }
                Some(_) => continue,
            };
            flaws.add(&format!("{}/tenant", self.pointer(index)), "exists", &Value::from(spec.tenant.clone()), message);
        }
        flaws.finish(()).map_err(OpError::Invalid)
    }

    /// Names are unique among a tenant's requests that are not rolled back (H21).
    fn check_names(&self, facts: &Facts) -> Result<(), OpError> {
        let mut seen = BTreeSet::new();
        let mut flaws = Flaws::default();
        for (index, spec) in self.items.iter().enumerate() {
            if !seen.insert((&spec.tenant, &spec.name)) {
                let at = format!("{}/name", self.pointer(index));
                flaws.add(&at, "unique", &Value::from(spec.name.clone()), "the name stands twice in the batch");
            }
        }
        flaws.finish(()).map_err(OpError::Invalid)?;
        for (index, spec) in self.items.iter().enumerate() {
            if let Some(holder) = facts.holder(spec) {
                let pointer = format!("{}/name", self.pointer(index));
                return Err(OpError::NameTaken { pointer, name: spec.name.clone(), holder: holder.to_string() });
            }
        }
        Ok(())
    }

    async fn resolve_prerequisites(
        &self,
        tx: &mut Tx<'_>,
        facts: &Facts,
        locking: bool,
    ) -> Result<Vec<Vec<Prerequisite>>, OpError> {
        let mut all = Vec::with_capacity(self.items.len());
        for (index, spec) in self.items.iter().enumerate() {
            let mut found = Vec::new();
            for (place, name) in spec.depends_on.iter().enumerate() {
                let pointer = format!("{}/depends_on/{place}", self.pointer(index));
                let Some(tenant) = facts.tenants.get(&spec.tenant) else { continue };
                let one = match self.item(&spec.tenant, name) {
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

    /// Notes what is admitted, for the database and for the calls that are decided after this one.
    fn store(
        &self,
        facts: &mut Facts,
        prepared: Prepared,
        writes: &mut Writes,
        now: Timestamp,
    ) -> Result<Vec<RequestView>, OpError> {
        let mut chance = SplitMix::new((self.context.seeds)());
        let mut ids: Vec<RequestId> = self.items.iter().map(|_| RequestId::new(now, &mut chance)).collect();
        // Why sorted: of one moment, the order of ids is the order of the input.
        ids.sort_unstable();
        let mut views: Vec<Option<RequestView>> = self.items.iter().map(|_| None).collect();
        for index in prepared.order {
            let (Some(spec), Some(id)) = (self.items.get(index), ids.get(index).copied()) else { continue };
            let Some(tenant) = facts.tenants.get(&spec.tenant).map(|t| t.id) else { continue };
            let prerequisites = prepared.prerequisites.get(index).map(Vec::as_slice).unwrap_or_default();
            let on = |p: &Prerequisite| match p {
                Prerequisite::Item(i) => ids.get(*i).copied(),
                Prerequisite::Stored(id, _) => Some(*id),
            };
            let depends_on: Vec<RequestId> = prerequisites.iter().filter_map(on).collect::<BTreeSet<_>>().into_iter().collect();
            let done = |p: &Prerequisite| matches!(p, Prerequisite::Stored(_, State::Completed));
            let must_wait = !prerequisites.iter().all(done);
            writes.dependencies.extend(depends_on.iter().map(|p| vec![id.into(), (*p).into()]));
            let label = |(name, value): (&String, &String)| vec![id.into(), name.as_str().into(), value.as_str().into()];
            writes.labels.extend(spec.labels.iter().map(label));
            let admission = Admission {
                id,
                tenant,
                spec: spec.clone(),
                regions: prepared.regions.get(index).cloned().unwrap_or_default(),
                policy: Some(facts.tenants.get(&spec.tenant).and_then(|t| t.strategy).unwrap_or(self.context.strategy)),
                depends_on,
                must_wait,
                retry_of: self.retry_of,
                actor: self.actor.clone(),
            };
            let (run, events) = Run::admit(admission, now);
            let due = if must_wait { Timestamp::NEVER } else { now };
            let loaded = save::insert(writes, run, &spec.tenant, events, due, now, &mut chance)?;
            facts.note(spec, id);
            if let Some(view) = views.get_mut(index) {
                *view = Some(RequestView::of(loaded, now));
            }
        }
        let views: Vec<RequestView> = views.into_iter().flatten().collect();
        self.remember(facts, &views, writes, now)?;
        Ok(views)
    }

    fn remember(&self, facts: &mut Facts, views: &[RequestView], writes: &mut Writes, now: Timestamp) -> Result<(), OpError> {
        let Some(key) = self.idempotency.as_ref().filter(|_| !mutant::on(Mutant::NoIdempotency)) else { return Ok(()) };
        let ids: Vec<RequestId> = views.iter().map(|v| v.run.id).collect();
        // The tenant's id and not its name, which another tenant may have one day (H26).
        let scope = facts.tenants.get(self.scope()).map_or_else(|| self.scope().to_owned(), |t| t.id.to_string());
        writes.keys.push(vec![
            scope.into(),
            key.route.as_str().into(),
            key.key.as_str().into(),
            key.fingerprint.as_str().into(),
            to_json(&ids)?.into(),
            now.0.into(),
        ]);
        facts.remember(self, Remembered { fingerprint: key.fingerprint.clone(), views: views.to_vec() });
        Ok(())
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
