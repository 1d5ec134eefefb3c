//! What is asked for in a run: clusters, tenants and requests, all of them following from the seed.

use provisor_core::Chance as _;
use provisor_core::chance::SplitMix;
use serde_json::{Value, json};

/// Everything happens in one region, so that each cluster of a kind can take over from another.
const REGION: &str = "eu-west-1";
/// Tenants of a run.
pub(crate) const TENANTS: u64 = 5;
/// Requests that one tenant may have in work: with five tenants enough for twenty at any time.
const IN_WORK: u64 = 10;
/// Seconds until an operation of the simulated clouds counts as timed out. Late successes come a tenth later.
const DEADLINE: f64 = 3.0;

/// The clusters, each with what it plays: of every type two, so that there is always one to take over.
pub(crate) const CLUSTERS: [(&str, &str); 10] = [
    ("os-1", "openstack"),
    ("os-2", "openstack"),
    ("vm-1", "vmware"),
    ("vm-2", "vmware"),
    ("px-1", "proxmox"),
    ("px-2", "proxmox"),
    ("k8s-1", "kubernetes"),
    ("ocp-1", "openshift"),
    ("argo-1", "argocd"),
    ("argo-2", "argocd"),
];

/// How often a call of a simulated cloud goes wrong, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mix {
    pub(crate) transient: f64,
    pub(crate) permanent: f64,
    pub(crate) lost_reply: f64,
    pub(crate) late_success: f64,
}

/// The usual weather of a run, for every operation of every cloud.
pub(crate) const MIX: Mix = Mix { transient: 0.20, permanent: 0.05, lost_reply: 0.02, late_success: 0.01 };

/// What becomes of a request beside its own course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is asked of it.
    Left,
    /// It is cancelled while it is worked on.
    Cancelled,
    /// It is released once it has completed.
    Deprovisioned,
    /// It is suspended once it has completed, and reactivated.
    Suspended,
}

/// One call of the load: a request alone, or a batch.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) path: &'static str,
    pub(crate) body: Value,
    /// The names in it, with what becomes of each.
    pub(crate) names: Vec<(String, Fate)>,
}

/// A cluster as it is registered, in the simulated cloud at `url`.
pub(crate) fn cluster(name: &str, plays: &str, url: &str, seed: u64, requests: usize, mix: Mix) -> Value {
    let fault = |kind: &str, probability: f64| json!({"operation": "*", "kind": kind, "probability": probability});
    // Half of what is late comes when it is not waited for any more, so that the sweeper has something to find (H6).
    let late = mix.late_success / 2.0;
    let very_late = json!({"operation": "*", "kind": "late_success", "probability": late, "after_seconds": DEADLINE * 4.0});
    // Room for all: what is queued for ever says nothing. The clusters of a type together hold the load more than once.
    let room = (requests as u64) * 2;
    json!({
        "name": name, "provider": "simulation", "simulates": plays, "region": REGION, "endpoint": {"url": url},
        "capacity": {"cpu": room, "memory_gb": room * 4, "storage_gb": room * 20, "slots": requests},
        "settings": {
            "seed": seed, "time_scale": 3,
            "latency": {"default": {"uniform_ms": [2, 30]}, "wait_server": {"lognormal_ms": {"p50": 200, "p99": 900}},
                "wait_*": {"lognormal_ms": {"p50": 150, "p99": 700}}, "create_server": {"lognormal_ms": {"p50": 150, "p99": 700}},
                "clone_vm": {"lognormal_ms": {"p50": 200, "p99": 900}}, "delete_*": {"uniform_ms": [5, 120]}},
            "deadlines": {"*": DEADLINE}, "retry": {"initial_seconds": 0.05, "cap_seconds": 0.4, "max_retries": 3},
            "probe": {"every_seconds": 0.1}, "list_lag_seconds": 0.2, "late_create_seconds": DEADLINE * 1.5,
            "orphan_grace_seconds": 2, "sweep_every_seconds": 2,
            "faults": [fault("transient", mix.transient), fault("permanent", mix.permanent),
                fault("lost_reply", mix.lost_reply), fault("late_success", late), very_late],
        },
    })
}

/// A tenant with room for its share of the load.
pub(crate) fn tenant(number: u64, requests: usize) -> Value {
    let share = (requests as u64).div_ceil(TENANTS) * 2;
    json!({"name": format!("tenant-{number}"), "max_concurrent": IN_WORK,
        "quota": {"cpu": share * 4, "memory_gb": share * 8, "storage_gb": share * 40}})
}

/// A part of the load, in order: the requests from number `from` up to but without `to`.
pub(crate) fn posts(seed: u64, from: usize, to: usize) -> Vec<Post> {
    let mut chance = SplitMix::new(seed.wrapping_add((from as u64) << 32));
    let mut posts = Vec::new();
    let mut number = from;
    while number < to {
        let size = if chance.fraction() < 0.3 { 2 + chance.below(7) } else { 1 };
        let size = usize::try_from(size).unwrap_or(1).min(to - number);
        let tenant = chance.next_u64() % TENANTS;
        let mut all: Vec<(Value, Fate)> = (0..size).map(|i| request(number + i, tenant, &mut chance)).collect();
        number += size;
        if size == 1 {
            let Some((body, fate)) = all.pop() else { continue };
            posts.push(Post { path: "/api/requests", names: vec![(name_of(&body), fate)], body });
            continue;
        }
        // The last one of a batch waits for its first.
        let first = all.first().map(|(body, _)| name_of(body)).unwrap_or_default();
        if let Some((body, _)) = all.last_mut() {
            set(body, "depends_on", json!([first]));
        }
        let names = all.iter().map(|(body, fate)| (name_of(body), *fate)).collect();
        let bodies: Vec<Value> = all.into_iter().map(|(body, _)| body).collect();
        posts.push(Post { path: "/api/requests/batch", body: json!({"requests": bodies}), names });
    }
    posts
}

fn name_of(body: &Value) -> String {
    body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn set(body: &mut Value, key: &str, value: Value) {
    if let Some(map) = body.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

fn pick<'a>(chance: &mut SplitMix, of: &[&'a str]) -> &'a str {
    let at = usize::try_from(chance.next_u64() % (of.len().max(1) as u64)).unwrap_or(0);
    of.get(at).copied().unwrap_or_default()
}

fn request(number: usize, tenant: u64, chance: &mut SplitMix) -> (Value, Fate) {
    let fate = match chance.next_u64() % 100 {
        0..6 => Fate::Cancelled,
        6..14 => Fate::Deprovisioned,
        14..18 => Fate::Suspended,
        _ => Fate::Left,
    };
    let kind = pick(chance, &["vps", "vps", "vps", "kubernetes_namespace", "environment"]);
    let mut body = json!({"name": format!("r-{number:04}"), "tenant": format!("tenant-{tenant}"), "kind": kind, "region": REGION,
        "order_id": format!("order-{number:04}")});
    let size = json!({"cpu": 1 + chance.next_u64() % 4, "memory_gb": 1 + chance.next_u64() % 8,
        "storage_gb": 1 + chance.next_u64() % 40});
    match kind {
        "vps" => {
            set(&mut body, "size", size);
            set(&mut body, "image", json!("debian-12"));
            match chance.below(10) {
                0..3 => set(&mut body, "ports", json!([22, 80])),
                3 => set(&mut body, "ports", json!([22, 443, 5432])),
                _ => {}
            }
            if chance.fraction() < 0.75 {
                set(&mut body, "provider", json!(pick(chance, &["openstack", "vmware", "proxmox"])));
            }
        }
        "kubernetes_namespace" => set(&mut body, "size", size),
        _ => {
            let commit = format!("{:08x}", chance.next_u64() >> 32);
            let source =
                json!({"repository": "https://git.example/shop.git", "branch": "main", "commit_sha": commit, "path": "deploy"});
            set(&mut body, "source", source);
        }
    }
    set(&mut body, "strategy", json!({"type": pick(chance, &["failover", "failover", "single"])}));
    (body, fate)
}

/// One request for each provider type, with every port, so that their plans name every operation.
pub(crate) fn samples() -> Vec<Value> {
    let size = json!({"cpu": 1, "memory_gb": 1, "storage_gb": 1});
    let sample = |kind: &str| json!({"name": "sample", "tenant": "tenant-0", "kind": kind, "region": REGION, "size": size});
    let mut all: Vec<Value> = ["openstack", "vmware", "proxmox"]
        .map(|provider| {
            let mut body = sample("vps");
            set(&mut body, "provider", json!(provider));
            set(&mut body, "image", json!("debian-12"));
            set(&mut body, "ports", json!([22, 80, 443, 5432]));
            body
        })
        .into();
    all.push(sample("kubernetes_namespace"));
    let mut environment = sample("environment");
    let source =
        json!({"repository": "https://git.example/shop.git", "branch": "main", "commit_sha": "0a1b2c3d", "path": "deploy"});
    set(&mut environment, "source", source);
    if let Some(map) = environment.as_object_mut() {
        map.remove("size");
    }
    all.push(environment);
    all
}

/// The kinds of things that a service consists of, where the cluster plays `plays`.
pub(crate) fn roles(plays: &str) -> &'static [&'static str] {
    match plays {
        "openstack" => &["floating_ip", "port", "security_group", "server", "volume"],
        "vmware" | "proxmox" => &["vm"],
        "kubernetes" | "openshift" => &["limit_range", "namespace", "network_policy", "resource_quota", "role_binding"],
        "argocd" => &["application"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_for_the_same() {
        let text = |seed| posts(seed, 0, 60).iter().map(|p| p.body.to_string()).collect::<Vec<_>>();
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
        assert_eq!(posts(7, 0, 60).iter().map(|p| p.names.len()).sum::<usize>(), 60);
        let kinds = text(7).join(" ");
        assert!(["vps", "kubernetes_namespace", "environment"].iter().all(|k| kinds.contains(k)));
    }
}
