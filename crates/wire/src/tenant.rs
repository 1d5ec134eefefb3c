//! Tenants and their quota.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// `ten_…`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its limits.
    pub quota: Limits,
    /// Requests in work at once.
    pub max_concurrent: u32,
    /// How its requests are tried that do not say so themselves; `null` leaves it to the server.
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// Who is let into its namespaces.
    pub subjects: Vec<String>,
    /// When it was made.
    pub created_at: String,
    /// Its version, for `If-Match`.
    pub etag: String,
}

/// How a request is tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Strategy {
    /// `single`, `failover`, `race` or `hedge`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many attempts there may be in all, at most 3.
    pub max_attempts: Option<u32>,
}

/// Limits of a tenant; `null` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// vCPU.
    pub cpu: Option<i64>,
    /// GiB.
    pub memory_gb: Option<i64>,
    /// GiB.
    pub storage_gb: Option<i64>,
    /// Number of requests by kind.
    pub requests: BTreeMap<String, Option<i64>>,
}

/// A tenant's quota and what is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// `cpu`, `memory_gb`, `storage_gb`, `requests.vps` …
    pub dimensions: Vec<Dimension>,
}

/// One dimension of a quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dimension {
    /// Its name.
    pub name: String,
    /// The limit; `null` is none.
    pub limit: Option<i64>,
    /// In use now.
    pub used: i64,
}

/// The body of a new tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewTenant {
    /// Unique; lower case letters, digits and hyphens.
    pub name: String,
    /// Its limits; none where not given.
    #[serde(default)]
    pub quota: Limits,
    /// Requests in work at once; 5 where not given.
    pub max_concurrent: Option<u32>,
    /// How its requests are tried that do not say so themselves; the server's setting where not given.
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// Who is let into its namespaces.
    #[serde(default)]
    pub subjects: Vec<String>,
}
