//! What tenants and clusters hold, and the proof that the counters say the same as the requests.
//!
//! Admission and placement add and take away in counters, because a sum over all requests at each
//! admission would be slow (docs/decisions/0004). The proof reads every live request in one consistent
//! state and reports each counter that is not the sum.

use std::collections::BTreeMap;

use provisor_core::quota::{Amounts, Dimension, Usage, dimensions};
use provisor_core::run::AttemptState;
use provisor_core::spec::Size;
use provisor_core::tenant::TenantSpec;
use provisor_core::{ClusterId, Kind, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use super::clusters::ListClusters;
use super::tenants::{GetTenant, ListTenants, PAGE_LIMIT};
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both};

/// Requests read at a time.
const PAGE: i64 = 500;

const LIVE: Stmt = both(
    "select id, tenant, kind, cpu, memory, storage, in_work, run from request where live = 1 and id > ?1 order by id limit ?2",
);

pub(crate) const STATEMENTS: &[&Stmt] = &[&LIVE];

/// A tenant's limits and what it uses of them.
#[derive(Debug, Clone)]
pub struct QuotaOf {
    /// Id or name.
    pub tenant: String,
}

impl Op for QuotaOf {
    type Out = Vec<Dimension>;
    const NAME: &'static str = "quota_of";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let view = GetTenant { key: self.tenant.clone() }.run(tx).await?.ok_or(OpError::NotFound("tenant"))?;
        let TenantSpec { quota, .. } = &view.spec;
        Ok(dimensions(quota, &view.usage, &Usage::default()))
    }
}

/// A counter that is not the sum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// Id of the tenant or cluster.
    pub subject: String,
    /// `cpu`, `requests.vps`, `in_work`, `reserved.cpu`, `used.slots` …
    pub dimension: String,
    /// What the counter says.
    pub counted: i64,
    /// What the requests hold.
    pub held: i64,
}

/// Compares every counter with its sum; empty when all agree.
#[derive(Debug, Clone, Copy)]
pub struct QuotaProof;

impl Op for QuotaProof {
    type Out = Vec<Difference>;
    const NAME: &'static str = "quota_proof";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let held = sum(tx).await?;
        let mut counted = Sums::new();
        let mut after = None;
        loop {
            let page = ListTenants { after, limit: PAGE_LIMIT, scope: None }.run(tx).await?;
            for view in &page {
                note_tenant(&mut counted, &view.id, &view.usage, view.in_work);
            }
            let Some(last) = page.last() else { break };
            after = Some(last.spec.name.clone());
        }
        for view in ListClusters.run(tx).await? {
            note_cluster(&mut counted, &view.id, "reserved", view.reserved, view.reserved_slots);
            note_cluster(&mut counted, &view.id, "used", view.used, view.used_slots);
        }
        Ok(compare(&counted, &held))
    }
}

/// Amount by subject and dimension; only what is not zero.
type Sums = BTreeMap<(String, String), i64>;

fn note(sums: &mut Sums, subject: &str, dimension: &str, amount: i64) {
    if amount != 0 {
        *sums.entry((subject.to_owned(), dimension.to_owned())).or_insert(0) += amount;
    }
}

fn note_tenant(sums: &mut Sums, tenant: &TenantId, usage: &Usage, in_work: i64) {
    let subject = tenant.to_string();
    for dimension in dimensions(&provisor_core::quota::Limits::default(), usage, &Usage::default()) {
        note(sums, &subject, &dimension.name, dimension.used);
    }
    note(sums, &subject, "in_work", in_work);
}

fn note_cluster(sums: &mut Sums, cluster: &ClusterId, how: &str, amounts: Amounts, slots: i64) {
    let subject = cluster.to_string();
    let all = [("cpu", amounts.cpu), ("memory_gb", amounts.memory_gb), ("storage_gb", amounts.storage_gb), ("slots", slots)];
    for (name, amount) in all {
        note(sums, &subject, &format!("{how}.{name}"), amount);
    }
}

fn compare(counted: &Sums, held: &Sums) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<_> = counted.keys().chain(held.keys()).collect();
    let of = |sums: &Sums, key| sums.get(key).copied().unwrap_or(0);
    let all = keys.into_iter().map(|key| (key, of(counted, key), of(held, key)));
    let differing = all.filter(|(_, counted, held)| counted != held);
    let named = differing.map(|((subject, dimension), counted, held)| Difference {
        subject: subject.clone(),
        dimension: dimension.clone(),
        counted,
        held,
    });
    named.collect()
}

/// The part of a run that the proof needs.
#[derive(Deserialize)]
struct Slim {
    spec: SlimSpec,
    #[serde(default)]
    attempts: Vec<SlimAttempt>,
}

#[derive(Deserialize)]
struct SlimSpec {
    size: Option<Size>,
}

#[derive(Deserialize)]
struct SlimAttempt {
    cluster: ClusterId,
    state: AttemptState,
    released_at: Option<Timestamp>,
}

/// What the live requests hold of their tenants, and their attempts of clusters.
async fn sum(tx: &mut Tx<'_>) -> Result<Sums, OpError> {
    let mut sums = Sums::new();
    let mut after = String::new();
    loop {
        let rows = tx.rows(&LIVE, &[after.as_str().into(), PAGE.into()]).await?;
        for row in &rows {
            let kind = row.text(2)?;
            let kind = Kind::parse(kind).ok_or_else(|| OpError::Corrupt(format!("kind {kind}")))?;
            let mut usage = Usage::default();
            usage.add(kind, Amounts { cpu: row.int(3)?, memory_gb: row.int(4)?, storage_gb: row.int(5)? }, 1);
            note_tenant(&mut sums, &row.id(1)?, &usage, row.int(6)?);
            let run: Slim = row.json(7)?;
            let size = run.spec.size.unwrap_or_default();
            let needs = Amounts { cpu: size.cpu.into(), memory_gb: size.memory_gb.into(), storage_gb: size.storage_gb.into() };
            for attempt in run.attempts.iter().filter(|a| a.released_at.is_none()) {
                let how = if attempt.state == AttemptState::Won { "used" } else { "reserved" };
                note_cluster(&mut sums, &attempt.cluster, how, needs, 1);
            }
        }
        match rows.last() {
            Some(last) if i64::try_from(rows.len()) == Ok(PAGE) => last.text(0)?.clone_into(&mut after),
            _ => return Ok(sums),
        }
    }
}
