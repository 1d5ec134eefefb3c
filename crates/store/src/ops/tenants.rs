//! Tenants: who asks and pays.
//!
//! A tenant's name never changes: it stands in every specification and every event of it. A deleted
//! tenant's row goes, its requests and its log stay (H26).

use std::collections::BTreeMap;

use provisor_core::check::Flaw;
use provisor_core::quota::{Amounts, Usage};
use provisor_core::tenant::TenantSpec;
use provisor_core::{Kind, TenantId, Timestamp};

use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};
use crate::value::{Row, to_json};

/// Tenants on one page at most.
pub const PAGE_LIMIT: i64 = 500;

macro_rules! view {
    ($tail:literal) => {
        concat!(
            "select id, spec, version, created_at, draining, in_work, used_cpu, used_memory, used_storage, used_vps,",
            " used_kubernetes_namespace, used_environment, used_managed from tenant where ",
            $tail
        )
    };
}

const BY_ID: Stmt = both(view!("id = ?1"));
const BY_NAME: Stmt = both(view!("name = ?1"));
const LIST: Stmt = both(view!("name > ?1 and (?2 is null or id = ?2) order by name limit ?3"));
const INSERT: Stmt = both(
    "insert into tenant (id, name, spec, max_concurrent, version, created_at) values (?1, ?2, ?3, ?4, 1, ?5)
     on conflict (name) do nothing",
);
const UPDATE: Stmt = both("update tenant set spec = ?2, max_concurrent = ?3, version = version + 1 where id = ?1");
const LIVE: Stmt = both("select count(*) from request where tenant = ?1 and live = 1");
const REVOKE: Stmt = both("update token set revoked_at = ?2 where tenant = ?1 and revoked_at is null");
// H18: before the version is compared or the requests are counted.
const LOCK: Stmt = each("select id from tenant where id = ?1", "select id from tenant where id = ?1 for update");
const DELETE: Stmt = both("delete from tenant where id = ?1");

pub(crate) const STATEMENTS: &[&Stmt] = &[&BY_ID, &BY_NAME, &LIST, &INSERT, &UPDATE, &LIVE, &REVOKE, &LOCK, &DELETE];

/// A tenant as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantView {
    /// Its id.
    pub id: TenantId,
    /// As it was described.
    pub spec: TenantSpec,
    /// Rises with every edit.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Admits nothing more and goes when it is empty.
    pub draining: bool,
    /// What its live requests hold.
    pub usage: Usage,
    /// How many of its requests are in work (H19).
    pub in_work: i64,
}

impl TenantView {
    fn read(row: &Row) -> Result<Self, OpError> {
        let counts = [(Kind::Vps, 9), (Kind::KubernetesNamespace, 10), (Kind::Environment, 11), (Kind::Managed, 12)];
        let requests: BTreeMap<Kind, i64> =
            counts.into_iter().map(|(kind, column)| Ok((kind, row.int(column)?))).collect::<Result<_, OpError>>()?;
        Ok(Self {
            id: row.id(0)?,
            spec: row.json(1)?,
            version: row.int(2)?,
            created_at: Timestamp(row.int(3)?),
            draining: row.int(4)? != 0,
            in_work: row.int(5)?,
            usage: Usage { amounts: Amounts { cpu: row.int(6)?, memory_gb: row.int(7)?, storage_gb: row.int(8)? }, requests },
        })
    }
}

/// Makes a tenant.
#[derive(Debug, Clone)]
pub struct CreateTenant {
    /// Its id.
    pub id: TenantId,
    /// As it is described.
    pub spec: TenantSpec,
}

impl Op for CreateTenant {
    type Out = TenantView;
    const NAME: &'static str = "create_tenant";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let now = tx.now().await?;
        let name = self.spec.name.as_str();
        let max = i64::from(self.spec.max_concurrent);
        let values = [self.id.into(), name.into(), to_json(&self.spec)?.into(), max.into(), now.0.into()];
        if tx.exec(&INSERT, &values).await? == 0 {
            let holder = by_key(tx, name).await?.map_or_else(String::new, |t| t.id.to_string());
            return Err(OpError::NameTaken { pointer: "/name".to_owned(), name: name.to_owned(), holder });
        }
        get(tx, self.id).await
    }
}

/// A tenant by its id or its name.
#[derive(Debug, Clone)]
pub struct GetTenant {
    /// Id or name; no name looks like an id.
    pub key: String,
}

impl Op for GetTenant {
    type Out = Option<TenantView>;
    const NAME: &'static str = "get_tenant";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        by_key(tx, &self.key).await
    }
}

/// A page of tenants in order of their names.
#[derive(Debug, Clone, Default)]
pub struct ListTenants {
    /// After this name.
    pub after: Option<String>,
    /// How many at most, 1 to [`PAGE_LIMIT`].
    pub limit: i64,
    /// What the caller may see: only this tenant, or all.
    pub scope: Option<TenantId>,
}

impl Op for ListTenants {
    type Out = Vec<TenantView>;
    const NAME: &'static str = "list_tenants";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let after = self.after.as_deref().unwrap_or_default();
        let rows = tx.rows(&LIST, &[after.into(), self.scope.into(), self.limit.clamp(1, PAGE_LIMIT).into()]).await?;
        rows.iter().map(TenantView::read).collect()
    }
}

/// Changes a tenant. A lowered limit takes nothing away (H18).
#[derive(Debug, Clone)]
pub struct UpdateTenant {
    /// Which.
    pub id: TenantId,
    /// As it is described from now on.
    pub spec: TenantSpec,
    /// The version that the caller has seen.
    pub if_match: Option<i64>,
}

impl Op for UpdateTenant {
    type Out = TenantView;
    const NAME: &'static str = "update_tenant";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LOCK, &[self.id.into()]).await?;
        let old = get(tx, self.id).await?;
        check_version(self.if_match, old.version)?;
        if old.spec.name != self.spec.name {
            return Err(OpError::Invalid(vec![Flaw {
                pointer: "/name".to_owned(),
                rule: "enum".to_owned(),
                value: self.spec.name.as_str().into(),
                message: format!("a tenant's name cannot be changed; it is {}", old.spec.name),
            }]));
        }
        if old.spec != self.spec {
            let max = i64::from(self.spec.max_concurrent);
            tx.exec(&UPDATE, &[self.id.into(), to_json(&self.spec)?.into(), max.into()]).await?;
        }
        get(tx, self.id).await
    }
}

/// Deletes a tenant that has no requests but rolled-back ones; its tokens end at once.
#[derive(Debug, Clone)]
pub struct DeleteTenant {
    /// Which.
    pub id: TenantId,
    /// The version that the caller has seen.
    pub if_match: Option<i64>,
}

impl Op for DeleteTenant {
    type Out = ();
    const NAME: &'static str = "delete_tenant";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LOCK, &[self.id.into()]).await?;
        check_version(self.if_match, get(tx, self.id).await?.version)?;
        let live = tx.row(&LIVE, &[self.id.into()]).await?.map_or(Ok(0), |r| r.int(0))?;
        if live > 0 {
            return Err(OpError::InUse { counts: vec![("requests".to_owned(), live)] });
        }
        let now = tx.now().await?;
        tx.exec(&REVOKE, &[self.id.into(), now.0.into()]).await?;
        tx.exec(&DELETE, &[self.id.into()]).await.map(drop)
    }
}

/// Refuses a change by somebody who has not seen the present version (H25).
pub(crate) fn check_version(if_match: Option<i64>, current: i64) -> Result<(), OpError> {
    match if_match {
        Some(seen) if seen != current => Err(OpError::PreconditionFailed { current: current.to_string() }),
        _ => Ok(()),
    }
}

async fn get(tx: &mut Tx<'_>, id: TenantId) -> Result<TenantView, OpError> {
    let row = tx.row(&BY_ID, &[id.into()]).await?.ok_or(OpError::NotFound("tenant"))?;
    TenantView::read(&row)
}

async fn by_key(tx: &mut Tx<'_>, key: &str) -> Result<Option<TenantView>, OpError> {
    let stmt: &'static Stmt = if key.parse::<TenantId>().is_ok() { &BY_ID } else { &BY_NAME };
    tx.row(stmt, &[key.into()]).await?.as_ref().map(TenantView::read).transpose()
}
