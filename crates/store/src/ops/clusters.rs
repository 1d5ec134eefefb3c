//! Clusters: registered backends with their credentials, health and what is held of them.

use provisor_core::breaker::Gate;
use provisor_core::cluster::{ClusterSpec, Health, ProviderType};
use provisor_core::quota::Amounts;
use provisor_core::{ClusterId, Timestamp};

use super::balance::Balance;
use super::gate;
use super::tenants::check_version;
use crate::op::{Mode, Op, OpError};
use crate::tx::{Stmt, Tx, both, each};
use crate::value::{Row, to_json};

macro_rules! view {
    ($tail:literal) => {
        concat!(
            "select id, ordinal, spec, credentials, version, created_at, health, identity, draining, reserved_cpu, reserved_memory,",
            " reserved_storage, reserved_slots, used_cpu, used_memory, used_storage, used_slots, breaker, paused, balance from cluster ",
            $tail
        )
    };
}

const BY_ID: Stmt = both(view!("where id = ?1"));
const BY_NAME: Stmt = both(view!("where name = ?1"));
const LIST: Stmt = both(view!("order by ordinal"));
const INSERT: Stmt = both(
    "insert into cluster (id, ordinal, name, spec, credentials, version, created_at, health)
     values (?1, (select coalesce(max(ordinal), 0) + 1 from cluster), ?2, ?3, ?4, 1, ?5, ?6) on conflict (name) do nothing",
);
const UPDATE: Stmt = both("update cluster set name = ?2, spec = ?3, credentials = ?4, version = version + 1 where id = ?1");
// H18: before the version is compared or what stands on it is counted.
const LOCK: Stmt = each("select id from cluster where id = ?1", "select id from cluster where id = ?1 for update");
const DELETE: Stmt = both("delete from cluster where id = ?1");
const SET_HEALTH: Stmt = both("update cluster set health = ?2 where id = ?1");
const SET_IDENTITY: Stmt = both("update cluster set identity = ?2 where id = ?1");
const OPEN_ROWS: Stmt = both("select count(*) from resource where cluster = ?1 and open = 1");

const STAMP: Stmt = both("select count(*), cast(coalesce(sum(version), 0) as bigint), coalesce(max(created_at), 0) from cluster");

pub(crate) const STATEMENTS: &[&Stmt] =
    &[&BY_ID, &BY_NAME, &LIST, &INSERT, &UPDATE, &LOCK, &DELETE, &SET_HEALTH, &SET_IDENTITY, &OPEN_ROWS, &STAMP];

/// A cluster as it is shown, and its credentials, which never are.
#[derive(Clone, PartialEq)]
pub struct ClusterView {
    /// Its id.
    pub id: ClusterId,
    /// Its place in the order of registration.
    pub ordinal: i64,
    /// As it was described.
    pub spec: ClusterSpec,
    /// Encrypted, as the text of a sealed document.
    pub credentials: Option<String>,
    /// Rises with every edit.
    pub version: i64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// What the background probe last saw.
    pub health: Health,
    /// The backend's identity, once asked (H4).
    pub identity: Option<String>,
    /// Takes nothing new and goes when it is empty.
    pub draining: bool,
    /// Held by attempts at work.
    pub reserved: Amounts,
    /// How many attempts that are.
    pub reserved_slots: i64,
    /// Held by services that stand.
    pub used: Amounts,
    /// How many services that are.
    pub used_slots: i64,
    /// Its breaker, and whether it is paused (H27, H29).
    pub gate: Gate,
    /// Whether all agrees, as the last sweep has found.
    pub balance: Option<Balance>,
}

impl std::fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterView").field("id", &self.id).field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl ClusterView {
    fn read(row: &Row) -> Result<Self, OpError> {
        let amounts = |first: usize| {
            Ok::<_, OpError>(Amounts { cpu: row.int(first)?, memory_gb: row.int(first + 1)?, storage_gb: row.int(first + 2)? })
        };
        Ok(Self {
            id: row.id(0)?,
            ordinal: row.int(1)?,
            spec: row.json(2)?,
            credentials: row.opt_text(3)?.map(str::to_owned),
            version: row.int(4)?,
            created_at: Timestamp(row.int(5)?),
            health: row.json(6)?,
            identity: row.opt_text(7)?.map(str::to_owned),
            draining: row.int(8)? != 0,
            reserved: amounts(9)?,
            reserved_slots: row.int(12)?,
            used: amounts(13)?,
            used_slots: row.int(16)?,
            gate: gate::read(row, 17)?,
            balance: row.opt_text(19)?.map(|_| row.json(19)).transpose()?,
        })
    }
}

/// Registers a cluster.
#[derive(Clone)]
pub struct CreateCluster {
    /// Its id.
    pub id: ClusterId,
    /// As it is described.
    pub spec: ClusterSpec,
    /// Encrypted credentials.
    pub credentials: Option<String>,
}

impl Op for CreateCluster {
    type Out = ClusterView;
    const NAME: &'static str = "create_cluster";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let now = tx.now().await?;
        let values = [
            self.id.into(),
            self.spec.name.as_str().into(),
            to_json(&self.spec)?.into(),
            self.credentials.clone().into(),
            now.0.into(),
            to_json(&Health::default())?.into(),
        ];
        if tx.exec(&INSERT, &values).await? == 0 {
            return Err(taken(tx, &self.spec.name).await?);
        }
        get(tx, self.id).await
    }
}

/// A cluster by its id or its name.
#[derive(Debug, Clone)]
pub struct GetCluster {
    /// Id or name; no name looks like an id.
    pub key: String,
}

impl Op for GetCluster {
    type Out = Option<ClusterView>;
    const NAME: &'static str = "get_cluster";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        by_key(tx, &self.key).await
    }
}

/// All clusters in order of registration; there are tens or hundreds.
#[derive(Debug, Clone, Copy)]
pub struct ListClusters;

impl Op for ListClusters {
    type Out = Vec<ClusterView>;
    const NAME: &'static str = "list_clusters";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LIST, &[]).await?.iter().map(ClusterView::read).collect()
    }
}

/// Another value whenever a cluster was registered, changed or removed, by whichever process.
#[derive(Debug, Clone, Copy)]
pub struct ClustersStamp;

impl Op for ClustersStamp {
    type Out = (i64, i64, i64);
    const NAME: &'static str = "clusters_stamp";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let row = tx.row(&STAMP, &[]).await?.ok_or(OpError::NotFound("cluster"))?;
        Ok((row.int(0)?, row.int(1)?, row.int(2)?))
    }
}

/// What an edit does to the credentials.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Leaves them.
    Keep,
    /// Puts others in their place, or none.
    Replace(Option<String>),
}

/// Changes a cluster. What would make it another backend is refused while rows of its ledger are open (H4).
#[derive(Clone)]
pub struct UpdateCluster {
    /// Which.
    pub id: ClusterId,
    /// As it is described from now on.
    pub spec: ClusterSpec,
    /// Encrypted credentials.
    pub credentials: Credentials,
    /// The version that the caller has seen.
    pub if_match: Option<i64>,
    /// Who the backend says that it is when it is asked in the new way (H29); `None` where it was not asked.
    pub identity: Option<String>,
}

impl Op for UpdateCluster {
    type Out = ClusterView;
    const NAME: &'static str = "update_cluster";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LOCK, &[self.id.into()]).await?;
        let old = get(tx, self.id).await?;
        check_version(self.if_match, old.version)?;
        if is_another_backend(&old.spec, &self.spec) {
            refuse_while_open(tx, self.id).await?;
            tx.exec(&SET_IDENTITY, &[self.id.into(), self.identity.clone().into()]).await?;
        } else if let Some(identity) = self.identity.as_ref().filter(|new| old.identity.as_ref() != Some(new)) {
            note_identity(tx, self.id, old.identity.is_some(), identity).await?;
        }
        let name = self.spec.name.as_str();
        if name != old.spec.name && by_key(tx, name).await?.is_some() {
            return Err(taken(tx, name).await?);
        }
        let credentials = match &self.credentials {
            Credentials::Keep => old.credentials.clone(),
            Credentials::Replace(other) => other.clone(),
        };
        if old.spec != self.spec || old.credentials != credentials {
            tx.exec(&UPDATE, &[self.id.into(), name.into(), to_json(&self.spec)?.into(), credentials.into()]).await?;
        }
        get(tx, self.id).await
    }
}

/// Keys of an endpoint that say how it is reached and trusted, not which one it is.
const SAME_BACKEND_KEYS: [&str; 3] = ["ca_file", "fingerprint", "interface"];

fn is_another_backend(old: &ClusterSpec, new: &ClusterSpec) -> bool {
    let named = |spec: &ClusterSpec| {
        let keys = spec.endpoint.iter().filter(|(key, _)| !SAME_BACKEND_KEYS.contains(&key.as_str()));
        keys.map(|(key, value)| (key.clone(), value.clone())).collect::<std::collections::BTreeMap<_, _>>()
    };
    // The simulated cloud knows its clusters by their names.
    let renamed = new.provider == ProviderType::Simulation && old.name != new.name;
    old.provider != new.provider || named(old) != named(new) || renamed
}

/// Forgets a cluster that nothing stands on.
#[derive(Debug, Clone)]
pub struct DeleteCluster {
    /// Which.
    pub id: ClusterId,
    /// The version that the caller has seen.
    pub if_match: Option<i64>,
}

impl Op for DeleteCluster {
    type Out = ();
    const NAME: &'static str = "delete_cluster";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LOCK, &[self.id.into()]).await?;
        let view = get(tx, self.id).await?;
        check_version(self.if_match, view.version)?;
        let counts = [("attempts", view.reserved_slots + view.used_slots), ("resources", open_rows(tx, self.id).await?)];
        if counts.iter().any(|(_, count)| *count > 0) {
            let counts = counts.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect();
            return Err(OpError::InUse { counts });
        }
        tx.exec(&DELETE, &[self.id.into()]).await.map(drop)
    }
}

/// Notes what the background probe saw.
#[derive(Debug, Clone)]
pub struct SetHealth {
    /// Of which cluster.
    pub id: ClusterId,
    /// What it saw.
    pub health: Health,
}

impl Op for SetHealth {
    type Out = ();
    const NAME: &'static str = "set_health";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        let changed = tx.exec(&SET_HEALTH, &[self.id.into(), to_json(&self.health)?.into()]).await?;
        if changed == 0 { Err(OpError::NotFound("cluster")) } else { Ok(()) }
    }
}

/// Notes the backend's identity. Another one than before is refused while rows of its ledger are open (H4).
#[derive(Debug, Clone)]
pub struct SetIdentity {
    /// Of which cluster.
    pub id: ClusterId,
    /// The identity.
    pub identity: String,
}

impl Op for SetIdentity {
    type Out = ();
    const NAME: &'static str = "set_identity";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Self::Out, OpError> {
        tx.rows(&LOCK, &[self.id.into()]).await?;
        let known = get(tx, self.id).await?.identity;
        if known.as_deref() == Some(self.identity.as_str()) {
            return Ok(());
        }
        note_identity(tx, self.id, known.is_some(), &self.identity).await
    }
}

/// Another identity than the known one is another backend.
async fn note_identity(tx: &mut Tx<'_>, id: ClusterId, known: bool, identity: &str) -> Result<(), OpError> {
    if known {
        refuse_while_open(tx, id).await?;
    }
    tx.exec(&SET_IDENTITY, &[id.into(), identity.into()]).await.map(drop)
}

async fn open_rows(tx: &mut Tx<'_>, id: ClusterId) -> Result<i64, OpError> {
    tx.row(&OPEN_ROWS, &[id.into()]).await?.map_or(Ok(0), |row| row.int(0))
}

async fn refuse_while_open(tx: &mut Tx<'_>, id: ClusterId) -> Result<(), OpError> {
    match open_rows(tx, id).await? {
        0 => Ok(()),
        open => Err(OpError::InUse { counts: vec![("resources".to_owned(), open)] }),
    }
}

async fn taken(tx: &mut Tx<'_>, name: &str) -> Result<OpError, OpError> {
    let holder = by_key(tx, name).await?.map_or_else(String::new, |c| c.id.to_string());
    Ok(OpError::NameTaken { pointer: "/name".to_owned(), name: name.to_owned(), holder })
}

async fn get(tx: &mut Tx<'_>, id: ClusterId) -> Result<ClusterView, OpError> {
    let row = tx.row(&BY_ID, &[id.into()]).await?.ok_or(OpError::NotFound("cluster"))?;
    ClusterView::read(&row)
}

async fn by_key(tx: &mut Tx<'_>, key: &str) -> Result<Option<ClusterView>, OpError> {
    let stmt: &'static Stmt = if key.parse::<ClusterId>().is_ok() { &BY_ID } else { &BY_NAME };
    tx.row(stmt, &[key.into()]).await?.as_ref().map(ClusterView::read).transpose()
}
