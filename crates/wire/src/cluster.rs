//! Clusters, their tests and their inventories.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A registered backend; its credentials are never shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// `clu_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `openstack`, `vmware`, `proxmox`, `kubernetes`, `openshift`, `argocd`, `simulation`, `manual`.
    pub provider: String,
    /// What a simulation plays: one name, or a list; else `null`.
    #[schema(value_type = Object)]
    pub simulates: Value,
    /// Where it is.
    pub region: String,
    /// The first choice in its region.
    pub default: bool,
    /// Whether new attempts are placed on it.
    pub provisioning_enabled: bool,
    /// Limits and what is held.
    pub capacity: Capacity,
    /// What the background probe last saw.
    pub health: Health,
    /// Whether calls to it are let through.
    pub breaker: Breaker,
    /// Why nothing is called on it, while its credentials are refused.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// The provider's own keys.
    #[schema(value_type = Object)]
    pub endpoint: Map<String, Value>,
    /// Common and the provider's own settings.
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
    /// When it was registered.
    pub created_at: String,
    /// Its version, for `If-Match`.
    pub etag: String,
}

/// Capacity of a cluster by dimension.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// vCPU.
    pub cpu: Room,
    /// GiB.
    pub memory_gb: Room,
    /// GiB.
    pub storage_gb: Room,
    /// Attempts.
    pub slots: Room,
}

/// One dimension of a cluster's capacity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Room {
    /// The limit; `null` is none.
    pub limit: Option<i64>,
    /// Held by attempts at work.
    pub reserved: i64,
    /// Held by services.
    pub used: i64,
}

/// A cluster's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `online`, `degraded`, `offline`.
    pub state: String,
    /// When it was last asked.
    pub checked_at: Option<String>,
    /// How long the answer took.
    pub latency_ms: Option<u64>,
    /// What failed.
    pub error: Option<String>,
}

/// A cluster's breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Breaker {
    /// `closed`, `open`, `half_open`.
    pub state: String,
    /// Until when nothing is let through, or the one call of a half-open one has its answer.
    #[serde(default)]
    pub until: Option<String>,
    /// How often it has opened.
    #[serde(default)]
    pub opened: u64,
}

/// Why nothing is called on a cluster: its credentials are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// Since when.
    pub since: String,
    /// The backend's words.
    pub error: String,
}

/// One check of a test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it is good.
    pub ok: bool,
    /// How long it took.
    pub latency_ms: u64,
    /// What exactly failed.
    pub error: Option<String>,
}

/// The answer of a cluster's test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestReport {
    /// Whether all checks are good.
    pub ok: bool,
    /// How long it took in all.
    pub latency_ms: u64,
    /// Each check.
    pub checks: Vec<Check>,
}

/// A cluster's inventory compared with the ledger; also the answer of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Inventory {
    /// The name of the cluster.
    pub cluster: String,
    /// When it was read.
    pub at: String,
    /// Ours, and there.
    pub owned: Vec<Owned>,
    /// In the ledger, but not there.
    pub missing: Vec<Owned>,
    /// There with a tag of ours, but nobody's.
    pub orphaned: Vec<Orphan>,
    /// Backend ids of what this sweep released.
    pub released: Vec<String>,
    /// Why the sweep released nothing, where it stopped itself.
    #[serde(default)]
    pub alarm: Option<String>,
    /// Whether ledger, inventory and capacity agree.
    #[serde(default)]
    pub balance: Balance,
}

/// Whether ledger, inventory and capacity of a cluster agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Balance {
    /// They do.
    pub even: bool,
    /// Objects that no open row of the ledger explains.
    pub unexplained: u64,
    /// Rows whose objects are not there.
    pub missing: u64,
    /// Counters of its capacity that are not what attempts hold.
    pub capacity: Vec<Uneven>,
}

/// A counter that is not what attempts hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Uneven {
    /// `reserved.cpu`, `used.slots` …
    pub dimension: String,
    /// What the counter says.
    pub counted: i64,
    /// What attempts hold.
    pub held: i64,
}

/// An object that the ledger knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Owned {
    /// `res_…`.
    pub resource: String,
    /// The backend's id.
    pub provider_id: Option<String>,
    /// `server`, `volume` …
    pub kind: String,
}

/// An object that nobody owns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Orphan {
    /// The backend's id.
    pub provider_id: String,
    /// `server`, `volume` …
    pub kind: String,
    /// The tag that it carries.
    pub tag: String,
    /// Its age, where the backend tells it.
    pub age_seconds: Option<f64>,
}

/// The body of a new cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NewCluster {
    /// Unique; lower case letters, digits and hyphens.
    pub name: String,
    /// The type of the backend.
    pub provider: String,
    /// What a simulation plays: one name, or a list.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object)]
    pub simulates: Value,
    /// Where it is.
    pub region: String,
    /// The first choice in its region.
    #[serde(default)]
    pub default: bool,
    /// Whether new attempts are placed on it; true where not given.
    pub provisioning_enabled: Option<bool>,
    /// Limits of ours, or `discover`.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    #[schema(value_type = Object)]
    pub capacity: Value,
    /// The provider's own keys.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub endpoint: Map<String, Value>,
    /// Stored encrypted, never shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub credentials: Option<Map<String, Value>>,
    /// Common and the provider's own settings.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub settings: Map<String, Value>,
}
