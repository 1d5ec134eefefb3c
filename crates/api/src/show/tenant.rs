//! Tenants and their quota.

use provisor_core::Kind;
use provisor_core::quota::{self, Limits as CoreLimits};
use provisor_store::ops::tenants::TenantView;
use provisor_wire::tenant::{Dimension, Limits, Quota, Strategy, Tenant};

use super::time;

/// The tenant object.
pub fn tenant(view: &TenantView) -> Tenant {
    Tenant {
        id: view.id.to_string(),
        name: view.spec.name.clone(),
        quota: limits(&view.spec.quota),
        max_concurrent: view.spec.max_concurrent,
        strategy: view.spec.strategy.map(|s| Strategy { kind: s.kind.name().to_owned(), max_attempts: Some(s.max_attempts) }),
        subjects: view.spec.subjects.clone(),
        created_at: time(view.created_at),
        etag: view.version.to_string(),
    }
}

fn limits(limits: &CoreLimits) -> Limits {
    let of = |(name, kind): (&str, Kind)| (name.to_owned(), limits.requests.get(&kind).copied());
    Limits {
        cpu: limits.cpu,
        memory_gb: limits.memory_gb,
        storage_gb: limits.storage_gb,
        requests: Kind::ALL.into_iter().map(of).collect(),
    }
}

/// A quota with what is in use.
pub fn quota(dimensions: Vec<quota::Dimension>) -> Quota {
    let shown = |d: quota::Dimension| Dimension { name: d.name, limit: d.limit, used: d.used };
    Quota { dimensions: dimensions.into_iter().map(shown).collect() }
}
