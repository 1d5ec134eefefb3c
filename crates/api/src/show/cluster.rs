//! Clusters: everything of them but their credentials.

use provisor_core::breaker::State;
use provisor_core::cluster::{ClusterSpec, ProviderType};
use provisor_store::ops::clusters::ClusterView;
use provisor_wire::cluster::{Breaker, Capacity, Cluster, Health, Paused, Room};
use serde_json::{Value, json};

use super::{time, time_of, word};

/// The cluster object.
pub fn cluster(view: &ClusterView) -> Cluster {
    let (spec, limit) = (&view.spec, &view.spec.capacity);
    let room = |limit, reserved, used| Room { limit, reserved, used };
    Cluster {
        id: view.id.to_string(),
        name: spec.name.clone(),
        provider: spec.provider.name().to_owned(),
        simulates: simulates(spec),
        region: spec.region.clone(),
        default: spec.default,
        provisioning_enabled: spec.provisioning_enabled,
        capacity: Capacity {
            cpu: room(limit.cpu, view.reserved.cpu, view.used.cpu),
            memory_gb: room(limit.memory_gb, view.reserved.memory_gb, view.used.memory_gb),
            storage_gb: room(limit.storage_gb, view.reserved.storage_gb, view.used.storage_gb),
            slots: room(limit.slots, view.reserved_slots, view.used_slots),
        },
        health: Health {
            state: word(&view.health.state),
            checked_at: time_of(view.health.checked_at),
            latency_ms: view.health.latency_ms,
            error: view.health.error.clone(),
        },
        breaker: Breaker {
            state: view.gate.breaker.state.name().to_owned(),
            until: match view.gate.breaker.state {
                State::Closed => None,
                State::Open { until } | State::HalfOpen { until } => Some(time(until)),
            },
            opened: view.gate.breaker.opened,
        },
        paused: view.gate.paused.as_ref().map(|p| Paused { since: time(p.since), error: p.error.clone() }),
        endpoint: spec.endpoint.clone(),
        settings: spec.settings.clone(),
        created_at: time(view.created_at),
        etag: view.version.to_string(),
    }
}

fn simulates(spec: &ClusterSpec) -> Value {
    let names: Vec<&str> = spec.simulates.iter().map(|p: &ProviderType| p.name()).collect();
    match names.as_slice() {
        [] => Value::Null,
        [one] => Value::from(*one),
        many => json!(many),
    }
}

/// A cluster in the manifest's form, without credentials: what a patch is merged into.
pub(crate) fn manifest(spec: &ClusterSpec) -> Value {
    let capacity = if spec.discover { json!("discover") } else { json!(spec.capacity) };
    json!({
        "name": spec.name, "provider": spec.provider, "simulates": simulates(spec), "region": spec.region,
        "default": spec.default, "provisioning_enabled": spec.provisioning_enabled, "capacity": capacity,
        "endpoint": spec.endpoint, "settings": spec.settings,
    })
}
