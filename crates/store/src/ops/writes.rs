//! What an operation is about to write, gathered, so that each table gets one statement for all of it.
//!
//! Whatever changes requests notes the rows here; [`Writes::flush`] sends them. An operation over many requests so costs as
//! many statements as one over a single request, and the sums of a tenant or a cluster are written once however many
//! requests moved them. Nobody reads what is noted before it is flushed: whoever needs to see it (the room on a cluster)
//! flushes first. Rejected: writing at once and merging in the driver, which cannot know what may be reordered.

use std::collections::BTreeMap;

use provisor_core::{ClusterId, RequestId, State, TenantId};

use super::log_row;
use crate::op::OpError;
use crate::tx::{Stmt, Tx, both, many};
use crate::value::Val;

const INSERT: Stmt = both(
    "insert into request (id, tenant, name, kind, state, live, region, order_id, run, version, events, published, due_at, \
     cpu, memory, storage, in_work, queue_until, created_at, updated_at) \
     values (?1, ?2, ?3, ?4, ?5, 1, ?6, ?7, ?8, 1, ?9, ?10, ?11, ?12, ?13, ?14, 0, ?15, ?16, ?16)",
);
// A row that is not as it was read changes nothing, and the operation is fenced.
const UPDATE: Stmt = many(
    "update request set state = ?2, live = ?3, run = ?4, version = version + 1, events = ?5, published = ?6, \
     in_work = ?7, updated_at = ?8, no_room_since = ?9, generation = ?10, worker = ?11, due_at = ?12, attention = 0 \
     where id = ?1 and version = ?13",
    "update request r set state = n.state, live = n.live, run = n.run, version = r.version + 1, events = n.events, \
     published = n.published, in_work = n.in_work, updated_at = n.updated_at, no_room_since = n.no_room_since, \
     generation = n.generation, worker = n.worker, due_at = n.due_at, attention = 0 \
     from unnest(?1::text[], ?2::text[], ?3::bigint[], ?4::text[], ?5::bigint[], ?6::bigint[], ?7::bigint[], ?8::bigint[], \
     ?9::bigint[], ?10::bigint[], ?11::text[], ?12::bigint[], ?13::bigint[]) as n (id, state, live, run, events, published, \
     in_work, updated_at, no_room_since, generation, worker, due_at, version) where r.id = n.id and r.version = n.version",
);
const UPDATE_ATTENTION: Stmt = many(
    "update request set state = ?2, live = ?3, run = ?4, version = version + 1, events = ?5, published = ?6, \
     in_work = ?7, updated_at = ?8, no_room_since = ?9, attention = case when worker is null then 0 else 1 end, \
     due_at = case when worker is null then ?10 else due_at end where id = ?1 and version = ?11",
    "update request r set state = n.state, live = n.live, run = n.run, version = r.version + 1, events = n.events, \
     published = n.published, in_work = n.in_work, updated_at = n.updated_at, no_room_since = n.no_room_since, \
     attention = case when r.worker is null then 0 else 1 end, \
     due_at = case when r.worker is null then n.due_at else r.due_at end \
     from unnest(?1::text[], ?2::text[], ?3::bigint[], ?4::text[], ?5::bigint[], ?6::bigint[], ?7::bigint[], ?8::bigint[], \
     ?9::bigint[], ?10::bigint[], ?11::bigint[]) as n (id, state, live, run, events, published, in_work, updated_at, \
     no_room_since, due_at, version) where r.id = n.id and r.version = n.version",
);
const UPSERT_RESOURCE: Stmt = both(
    "insert into resource (id, request, attempt, cluster, kind, name, tag, provider_id, state, in_doubt, open, created_at, released_at) \
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) on conflict (id) do update set \
     provider_id = excluded.provider_id, state = excluded.state, in_doubt = excluded.in_doubt, open = excluded.open, \
     released_at = excluded.released_at",
);
const HOLD_CLUSTER: Stmt = many(
    "update cluster set reserved_cpu = reserved_cpu + ?2, reserved_memory = reserved_memory + ?3, \
     reserved_storage = reserved_storage + ?4, reserved_slots = reserved_slots + ?5, used_cpu = used_cpu + ?6, \
     used_memory = used_memory + ?7, used_storage = used_storage + ?8, used_slots = used_slots + ?9 where id = ?1",
    "update cluster c set reserved_cpu = c.reserved_cpu + n.rc, reserved_memory = c.reserved_memory + n.rm, \
     reserved_storage = c.reserved_storage + n.rs, reserved_slots = c.reserved_slots + n.rn, used_cpu = c.used_cpu + n.uc, \
     used_memory = c.used_memory + n.um, used_storage = c.used_storage + n.us, used_slots = c.used_slots + n.un \
     from unnest(?1::text[], ?2::bigint[], ?3::bigint[], ?4::bigint[], ?5::bigint[], ?6::bigint[], ?7::bigint[], ?8::bigint[], \
     ?9::bigint[]) as n (id, rc, rm, rs, rn, uc, um, us, un) where c.id = n.id",
);
const HOLD_TENANT: Stmt = many(
    "update tenant set used_cpu = used_cpu + ?2, used_memory = used_memory + ?3, used_storage = used_storage + ?4, \
     used_vps = used_vps + ?5, used_kubernetes_namespace = used_kubernetes_namespace + ?6, \
     used_environment = used_environment + ?7, used_managed = used_managed + ?8, in_work = in_work + ?9, \
     last_claimed = coalesce(?10, last_claimed) where id = ?1",
    "update tenant t set used_cpu = t.used_cpu + n.cpu, used_memory = t.used_memory + n.memory, \
     used_storage = t.used_storage + n.storage, used_vps = t.used_vps + n.vps, \
     used_kubernetes_namespace = t.used_kubernetes_namespace + n.namespace, \
     used_environment = t.used_environment + n.environment, used_managed = t.used_managed + n.managed, \
     in_work = t.in_work + n.in_work, last_claimed = coalesce(n.turn, t.last_claimed) \
     from unnest(?1::text[], ?2::bigint[], ?3::bigint[], ?4::bigint[], ?5::bigint[], ?6::bigint[], ?7::bigint[], ?8::bigint[], \
     ?9::bigint[], ?10::bigint[]) as n (id, cpu, memory, storage, vps, namespace, environment, managed, in_work, turn) \
     where t.id = n.id",
);
const DEPEND: Stmt = both("insert into dependency (request, prerequisite) values (?1, ?2)");
const LABEL: Stmt = both("insert into label (request, name, value) values (?1, ?2, ?3)");
const REMEMBER: Stmt =
    both("insert into idempotency (scope, route, key, fingerprint, requests, created_at) values (?1, ?2, ?3, ?4, ?5, ?6)");

pub(crate) const STATEMENTS: &[&Stmt] = &[
    &INSERT,
    &UPDATE,
    &UPDATE_ATTENTION,
    &log_row::INSERT,
    &UPSERT_RESOURCE,
    &HOLD_CLUSTER,
    &HOLD_TENANT,
    &DEPEND,
    &LABEL,
    &REMEMBER,
];

/// Cpu, memory, storage, requests of each kind, in work.
pub(crate) type OfTenant = [i64; 8];
/// Cpu, memory, storage and slots reserved, and the same in use.
pub(crate) type OfCluster = [i64; 8];

/// Rows to be written, by what is done with them.
#[derive(Default)]
pub(crate) struct Writes {
    pub requests: Vec<Vec<Val>>,
    pub updates: Vec<Vec<Val>>,
    pub attentions: Vec<Vec<Val>>,
    pub events: Vec<Vec<Val>>,
    pub dependencies: Vec<Vec<Val>>,
    pub labels: Vec<Vec<Val>>,
    pub resources: Vec<Vec<Val>>,
    pub keys: Vec<Vec<Val>>,
    /// Whose state changed, for those who wait for them.
    pub changed: Vec<(RequestId, State)>,
    tenants: BTreeMap<TenantId, OfTenant>,
    turns: BTreeMap<TenantId, i64>,
    clusters: BTreeMap<ClusterId, OfCluster>,
}

impl Writes {
    /// Moves a tenant's sums.
    pub(crate) fn hold_tenant(&mut self, tenant: TenantId, by: OfTenant) {
        add(self.tenants.entry(tenant).or_default(), by);
    }

    /// Moves a cluster's sums.
    pub(crate) fn hold_cluster(&mut self, cluster: ClusterId, by: OfCluster) {
        add(self.clusters.entry(cluster).or_default(), by);
    }

    /// A tenant had its turn (H19).
    pub(crate) fn had_turn(&mut self, tenant: TenantId, turn: i64) {
        self.tenants.entry(tenant).or_default();
        self.turns.insert(tenant, turn);
    }

    /// Sends it all, in the order in which rows are locked: requests, then tenants, then clusters. Who waits for whom is not
    /// told yet: see `save::finish`.
    pub(crate) async fn flush(&mut self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let take = |rows: &mut Vec<Vec<Val>>| std::mem::take(rows);
        tx.batch(&INSERT, take(&mut self.requests)).await?;
        // Why sorted: two that change the same requests come to them in the same order.
        let (mut updates, mut attentions) = (take(&mut self.updates), take(&mut self.attentions));
        for rows in [&mut updates, &mut attentions] {
            rows.sort_by(|a, b| text(a).cmp(text(b)));
        }
        tx.batch_each_one(&UPDATE, updates).await?;
        tx.batch_each_one(&UPDATE_ATTENTION, attentions).await?;
        tx.batch(&log_row::INSERT, take(&mut self.events)).await?;
        tx.batch(&DEPEND, take(&mut self.dependencies)).await?;
        tx.batch(&LABEL, take(&mut self.labels)).await?;
        tx.batch(&UPSERT_RESOURCE, take(&mut self.resources)).await?;
        tx.batch(&REMEMBER, take(&mut self.keys)).await?;
        let turns = std::mem::take(&mut self.turns);
        let tenants = std::mem::take(&mut self.tenants).into_iter().filter_map(|(id, by)| {
            let turn = turns.get(&id).copied();
            (turn.is_some() || by != [0; 8]).then(|| values(id.into(), by, Some(turn.into())))
        });
        tx.batch(&HOLD_TENANT, tenants.collect()).await?;
        let clusters = std::mem::take(&mut self.clusters).into_iter().filter(|(_, by)| *by != [0; 8]);
        tx.batch(&HOLD_CLUSTER, clusters.map(|(id, by)| values(id.into(), by, None)).collect()).await
    }
}

fn add(sum: &mut [i64; 8], by: [i64; 8]) {
    sum.iter_mut().zip(by).for_each(|(sum, by)| *sum += by);
}

fn text(row: &[Val]) -> &str {
    if let Some(Val::Text(text)) = row.first() { text } else { "" }
}

fn values(id: Val, by: [i64; 8], last: Option<Val>) -> Vec<Val> {
    std::iter::once(id).chain(by.into_iter().map(Val::from)).chain(last).collect()
}
