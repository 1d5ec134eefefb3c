//! The request object and what hangs below it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::cluster::Check;
use crate::parts::{Endpoint, Failure};

/// A request: one thing asked for, and the running service that it becomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Request {
    /// `req_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of its tenant.
    pub tenant: String,
    /// `vps`, `kubernetes_namespace`, `environment`, `managed`.
    pub kind: String,
    /// One of the 11 states.
    pub state: String,
    /// Why it left, once it did.
    pub outcome: Option<String>,
    /// What it waits for now.
    pub waiting_for: Option<WaitingFor>,
    /// What was asked for, with defaults filled in; secrets as a fingerprint only.
    #[schema(value_type = Object)]
    pub spec: Value,
    /// The region asked for.
    pub region: Option<String>,
    /// The order that it belongs to.
    pub order_id: Option<String>,
    /// Ids of its prerequisites.
    pub depends_on: Vec<String>,
    /// `single`, `failover`.
    pub strategy: String,
    /// The four steps of the leading attempt, at the end of the winner.
    pub steps: Vec<Step>,
    /// Its attempts in order of their numbers.
    pub attempts: Vec<Attempt>,
    /// The attempt that won.
    pub winner: Option<String>,
    /// Where the service answers; empty until there is a winner.
    pub endpoints: Vec<Endpoint>,
    /// `running`, `suspended`, `gone`.
    pub wanted: String,
    /// The last suspend, reactivate or deprovision.
    pub action: Option<Action>,
    /// `ok`, `degraded`, `missing` of a service that stands.
    pub health: Option<String>,
    /// More about `health`.
    pub health_detail: Option<HealthDetail>,
    /// When it was admitted.
    pub created_at: String,
    /// When its first attempt began.
    pub provisioning_started_at: Option<String>,
    /// When it first completed.
    pub ready_at: Option<String>,
    /// When its release began.
    pub termination_started_at: Option<String>,
    /// When everything was confirmed gone.
    pub terminated_at: Option<String>,
    /// What could not be released yet.
    pub cleanup_owed: Vec<CleanupOwed>,
    /// The request that this one retries.
    pub retry_of: Option<String>,
    /// The request that retries this one.
    pub retried_as: Option<String>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Its version, for `If-Match`.
    pub etag: String,
}

/// What a request waits for, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WaitingFor {
    /// `approval`, `prerequisites`, `tenant_limit`, `capacity`, `cluster_health`, `manual_input`, `retry`, `queue`.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// More, for people.
    pub detail: Option<String>,
}

/// One of the four steps of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Step {
    /// `allocate`, `configure`, `activate`, `verify`.
    pub name: String,
    /// `pending`, `running`, `waiting`, `succeeded`, `failed`, `cancelled`.
    pub status: String,
    /// When it began.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// From its beginning to its end.
    pub duration_seconds: Option<f64>,
    /// Retries of its operations, summed up.
    pub retries: u32,
}

/// One try at a request on one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// `att_…`.
    pub id: String,
    /// From 1.
    pub number: u32,
    /// The name of the cluster.
    pub cluster: String,
    /// `first`, `failover`, `race`, `hedge`.
    pub role: String,
    /// `running`, `won`, `failed`, `lost`, `cancelled`.
    pub state: String,
    /// Its four steps.
    pub steps: Vec<Step>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// The attempt that took over.
    pub replaced_by: Option<String>,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// When all that it made was confirmed gone.
    pub released_at: Option<String>,
}

/// A suspend, reactivate or deprovision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Action {
    /// `suspend`, `reactivate`, `deprovision`.
    pub name: String,
    /// `running`, `succeeded`, `failed`.
    pub status: String,
    /// Why, by who asked.
    pub reason: Option<String>,
    /// When it began.
    pub started_at: String,
    /// When it ended.
    pub finished_at: Option<String>,
    /// Why it failed.
    pub error: Option<Failure>,
}

/// What the sweeper or a failed action saw of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthDetail {
    /// What was seen.
    pub detail: Option<String>,
    /// When.
    pub at: String,
}

/// A resource that could not be released yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CleanupOwed {
    /// `res_…`.
    pub resource: String,
    /// `server`, `volume` …
    pub kind: String,
    /// The backend's id, where it is known.
    pub provider_id: Option<String>,
    /// The name of the cluster.
    pub cluster: String,
    /// Since when.
    pub since: String,
    /// How long already.
    pub age_seconds: f64,
    /// Why it could not be released.
    pub last_error: Option<Failure>,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resource {
    /// `res_…`.
    pub id: String,
    /// The attempt that made it.
    pub attempt: String,
    /// The name of the cluster.
    pub cluster: String,
    /// `server`, `volume` …
    pub kind: String,
    /// Its name at the backend.
    pub name: String,
    /// Its ownership tag.
    pub tag: String,
    /// The backend's id, once known.
    pub provider_id: Option<String>,
    /// `intended`, `created`, `releasing`, `owed`, `released`.
    pub state: String,
    /// Closed by an administrator without proof.
    pub written_off: bool,
    /// When the intent was written.
    pub created_at: String,
    /// When its absence was confirmed.
    pub released_at: Option<String>,
}

/// The answer of `check-status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckStatus {
    /// Whether all checks are good.
    pub ok: bool,
    /// Each check.
    pub checks: Vec<Check>,
}

/// What a running service uses now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Metrics {
    /// When it was asked.
    pub at: String,
    /// Share of the processors, in percent.
    pub cpu_percent: Option<f64>,
    /// GiB in use.
    pub memory_used_gb: Option<f64>,
    /// GiB in use.
    pub disk_used_gb: Option<f64>,
    /// Bytes received since it was started.
    pub network_rx_bytes: Option<u64>,
    /// Bytes sent since it was started.
    pub network_tx_bytes: Option<u64>,
    /// Of each figure that is `null`: why.
    pub unavailable: BTreeMap<String, String>,
}

/// The body of cancel, suspend, reactivate, deprovision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Why; kept in the log.
    pub reason: Option<String>,
    /// Of deprovision: although others depend on it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The body of retry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetryOrder {
    /// The order that the new request belongs to; none if not given.
    pub order_id: Option<String>,
    /// Why; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of manual-input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ManualInput {
    /// Where the service answers; none are needed to confirm what the vendor was asked to do.
    pub endpoints: Vec<Endpoint>,
    /// The access details; stored encrypted.
    #[schema(value_type = Option<Object>)]
    pub credentials: Option<Value>,
}

/// The body of write-off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WriteOff {
    /// Ids of resources.
    pub resources: Vec<String>,
    /// Why; kept in the log.
    pub reason: String,
}

/// The body of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    /// The specifications, at most 1,000.
    #[schema(value_type = Vec<Object>)]
    pub requests: Vec<Value>,
}
