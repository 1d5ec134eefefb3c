//! What admissions rest on: tenants with their sums, who holds the names, keys that were used, clusters. Read once for all
//! calls that are answered together, and kept up while they are decided one after another.

use std::collections::{BTreeMap, BTreeSet};

use provisor_core::quota::{Limits, Usage};
use provisor_core::tenant::TenantSpec;
use provisor_core::{Amounts, Kind, RequestId, Spec, TenantId};

use super::Admit;
use crate::op::OpError;
use crate::ops::place::Clusters;
use crate::ops::requests::RequestView;
use crate::ops::save;
use crate::tx::{Query, Stmt, Tx, many};
use crate::value::{Row, Val};

// H18: the lock comes in a statement of its own, before the sums, in the order of ids. On SQLite the writer is alone anyway.
const LOCK: Stmt = many(
    "select id from tenant where name = ?1",
    "select t.id from unnest(?1::text[]) as n (name) join tenant t on t.name = n.name order by t.id for update of t",
);
macro_rules! tenant {
    ($from:literal) => {
        concat!(
            "select t.name, t.id, t.spec, t.used_cpu, t.used_memory, t.used_storage, t.used_vps, t.used_kubernetes_namespace, ",
            "t.used_environment, t.used_managed, t.draining from ",
            $from
        )
    };
}
const TENANT: Stmt =
    many(tenant!("tenant t where t.name = ?1"), tenant!("unnest(?1::text[]) as n (name) join tenant t on t.name = n.name"));
// Why a cross join: SQLite keeps its order.
const HOLDER: Stmt = many(
    "select r.tenant, r.name, r.id from tenant t cross join request r \
     where t.name = ?1 and r.tenant = t.id and r.name = ?2 and r.live = 1",
    "select r.tenant, r.name, r.id from unnest(?1::text[], ?2::text[]) as n (tenant, name) join tenant t on t.name = n.tenant \
     join request r on r.tenant = t.id and r.name = n.name and r.live = 1",
);
// A scope is asked for by the tenant's name, and stands there by its id.
const REMEMBERED: Stmt = many(
    "select ?1, route, key, fingerprint, requests from idempotency \
     where scope = coalesce((select id from tenant where name = ?1), ?1) and route = ?2 and key = ?3",
    "select n.scope, i.route, i.key, i.fingerprint, i.requests from unnest(?1::text[], ?2::text[], ?3::text[]) \
     as n (scope, route, key) join idempotency i on i.route = n.route and i.key = n.key \
     and i.scope = coalesce((select t.id from tenant t where t.name = n.scope), n.scope)",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&LOCK, &TENANT, &HOLDER, &REMEMBERED];

pub(super) struct TenantRow {
    pub(super) id: TenantId,
    pub(super) limits: Limits,
    pub(super) used: Usage,
    pub(super) draining: bool,
}

/// A key with the answer that it had.
#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) fingerprint: String,
    pub(super) views: Vec<RequestView>,
}

/// Scope by name, route, key.
type Key = (String, String, String);

pub(super) struct Facts {
    /// By name.
    pub(super) tenants: BTreeMap<String, TenantRow>,
    pub(super) clusters: Clusters,
    holders: BTreeMap<(TenantId, String), RequestId>,
    keys: BTreeMap<Key, Remembered>,
}

impl Facts {
    /// Locks the tenants and reads all that the calls rest on, in one round trip but for the answers of known keys.
    pub(super) async fn locked(tx: &mut Tx<'_>, all: &[&Admit]) -> Result<Self, OpError> {
        let tenants = tenants(all);
        let keys: BTreeSet<Key> = all.iter().filter_map(|admit| key(admit)).collect();
        let keys = keys.into_iter().map(|(scope, route, key)| vec![scope.into(), route.into(), key.into()]).collect();
        // What is kept for others does not matter here: only what can never fit is refused.
        let queries = vec![
            Query::each(&LOCK, tenants.clone()),
            Query::each(&TENANT, tenants),
            Query::each(&HOLDER, names(all)),
            Query::each(&REMEMBERED, keys),
            Clusters::reading(),
        ];
        let answers = tx.several(queries).await?;
        let [_, tenants, holders, keys, clusters] = answers.as_slice() else {
            return Err(OpError::Corrupt("five answers".to_owned()));
        };
        let mut facts = Self::of(tenants, holders, Clusters::of(clusters)?)?;
        facts.keys = remembered(tx, keys).await?;
        Ok(facts)
    }

    /// The same for a call that stores nothing: no locks, no keys, and with what is kept for others.
    pub(super) async fn seen(tx: &mut Tx<'_>, admit: &Admit) -> Result<Self, OpError> {
        let clusters = Clusters::load(tx, admit.context.planner.as_ref()).await?;
        let all = [admit];
        let answers = tx.several(vec![Query::each(&TENANT, tenants(&all)), Query::each(&HOLDER, names(&all))]).await?;
        let [tenants, holders] = answers.as_slice() else { return Err(OpError::Corrupt("two answers".to_owned())) };
        Self::of(tenants, holders, clusters)
    }

    fn of(tenants: &[Row], holders: &[Row], clusters: Clusters) -> Result<Self, OpError> {
        let tenants = tenants.iter().map(tenant_row).collect::<Result<_, _>>()?;
        let holder = |row: &Row| Ok(((row.id(0)?, row.text(1)?.to_owned()), row.id(2)?));
        let holders = holders.iter().map(holder).collect::<Result<_, OpError>>()?;
        Ok(Self { tenants, clusters, holders, keys: BTreeMap::new() })
    }

    /// Who holds the name of what is asked for.
    pub(super) fn holder(&self, spec: &Spec) -> Option<RequestId> {
        let tenant = self.tenants.get(&spec.tenant)?;
        self.holders.get(&(tenant.id, spec.name.clone())).copied()
    }

    /// The answer that a call's key had, if it had one.
    pub(super) fn remembered(&self, admit: &Admit) -> Result<Option<Vec<RequestView>>, OpError> {
        let (Some(asked), Some(key)) = (&admit.idempotency, key(admit)) else { return Ok(None) };
        let Some(known) = self.keys.get(&key) else { return Ok(None) };
        if known.fingerprint != asked.fingerprint {
            return Err(OpError::IdempotencyMismatch);
        }
        Ok(Some(known.views.clone()))
    }

    /// Notes what was admitted: it holds its name and its share of the quota from now on.
    pub(super) fn note(&mut self, spec: &Spec, id: RequestId) {
        let Some(tenant) = self.tenants.get_mut(&spec.tenant) else { return };
        tenant.used.add(spec.kind, spec.needs(), 1);
        self.holders.insert((tenant.id, spec.name.clone()), id);
    }

    /// Notes the answer of a call with a key.
    pub(super) fn remember(&mut self, admit: &Admit, answer: Remembered) {
        if let Some(key) = key(admit) {
            self.keys.insert(key, answer);
        }
    }
}

fn tenants(all: &[&Admit]) -> Vec<Vec<Val>> {
    let names: BTreeSet<&str> = all.iter().flat_map(|admit| &admit.items).map(|spec| spec.tenant.as_str()).collect();
    names.into_iter().map(|name| vec![name.into()]).collect()
}

fn names(all: &[&Admit]) -> Vec<Vec<Val>> {
    let items = all.iter().flat_map(|admit| &admit.items);
    let names: BTreeSet<(&str, &str)> = items.map(|spec| (spec.tenant.as_str(), spec.name.as_str())).collect();
    names.into_iter().map(|(tenant, name)| vec![tenant.into(), name.into()]).collect()
}

fn key(admit: &Admit) -> Option<Key> {
    admit.idempotency.as_ref().map(|key| (admit.scope().to_owned(), key.route.clone(), key.key.clone()))
}

async fn remembered(tx: &mut Tx<'_>, rows: &[Row]) -> Result<BTreeMap<Key, Remembered>, OpError> {
    let mut known: Vec<(Key, String, Vec<RequestId>)> = Vec::with_capacity(rows.len());
    for row in rows {
        let key = (row.text(0)?.to_owned(), row.text(1)?.to_owned(), row.text(2)?.to_owned());
        known.push((key, row.text(3)?.to_owned(), row.json(4)?));
    }
    let now = tx.now().await?;
    let ids = known.iter().flat_map(|(_, _, ids)| ids).copied().collect();
    let mut views = BTreeMap::new();
    for (id, found) in save::read_all(tx, &ids).await? {
        views.insert(id, RequestView::of(found?, now));
    }
    let gone = |id: &RequestId| OpError::Corrupt(format!("{id} of an idempotency key is gone"));
    let mut keys = BTreeMap::new();
    for (key, fingerprint, ids) in known {
        let of_key: Result<_, OpError> = ids.iter().map(|id| views.get(id).cloned().ok_or_else(|| gone(id))).collect();
        keys.insert(key, Remembered { fingerprint, views: of_key? });
    }
    Ok(keys)
}

fn tenant_row(row: &Row) -> Result<(String, TenantRow), OpError> {
    let spec: TenantSpec = row.json(2)?;
    let amounts = Amounts { cpu: row.int(3)?, memory_gb: row.int(4)?, storage_gb: row.int(5)? };
    let requests = [
        (Kind::Vps, row.int(6)?),
        (Kind::KubernetesNamespace, row.int(7)?),
        (Kind::Environment, row.int(8)?),
        (Kind::Managed, row.int(9)?),
    ];
    let used = Usage { amounts, requests: requests.into_iter().collect() };
    Ok((row.text(0)?.to_owned(), TenantRow { id: row.id(1)?, limits: spec.quota, used, draining: row.int(10)? != 0 }))
}
