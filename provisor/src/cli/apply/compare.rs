//! What is there against what a manifest says. Pure.
//!
//! Tenants and clusters: what the file mentions is made so, what it does not mention stays; a key of a map
//! that stands there and not in the file's map goes. Requests never change (H21): the same specification is
//! unchanged, another one is refused.

use provisor_core::cluster::ClusterSpec;
use provisor_core::spec::Spec;
use provisor_core::tenant::TenantSpec;
use provisor_wire::{Cluster, Request, Tenant};
use serde_json::{Map, Value, json};

use super::manifest::{Entry, Unsealed};

/// The merge patch (RFC 7396) that makes `present` into `wanted`; `None` when they are the same.
pub(crate) fn merge_patch(present: &Value, wanted: &Value) -> Option<Value> {
    if same(present, wanted) {
        return None;
    }
    let (Some(old), Some(new)) = (present.as_object(), wanted.as_object()) else { return Some(wanted.clone()) };
    let mut patch = Map::new();
    for (key, value) in new {
        let before = old.get(key).unwrap_or(&Value::Null);
        if let Some(change) = merge_patch(before, value) {
            patch.insert(key.clone(), change);
        }
    }
    for key in old.iter().filter(|(k, v)| !new.contains_key(*k) && !v.is_null()).map(|(k, _)| k) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Equal, where `1` and `1.0` are the same and a missing key is a `null` one.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            let covers =
                |x: &Map<String, Value>, y: &Map<String, Value>| x.iter().all(|(k, v)| same(v, y.get(k).unwrap_or(&Value::Null)));
            covers(x, y) && covers(y, x)
        }
        _ => a == b,
    }
}

/// The patch of the mentioned keys.
fn patch_of(raw: &Value, present: &Value, wanted: &Value) -> Option<Value> {
    let mut patch = Map::new();
    for key in raw.as_object()?.keys().filter(|k| *k != "name" && *k != "credentials") {
        let (before, after) = (present.get(key).unwrap_or(&Value::Null), wanted.get(key).unwrap_or(&Value::Null));
        if let Some(change) = merge_patch(before, after) {
            patch.insert(key.clone(), change);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// What must change of a tenant.
pub(crate) fn tenant(present: &Tenant, entry: &Entry<TenantSpec>) -> Option<Value> {
    patch_of(&entry.raw, &json!(present), &json!(entry.spec))
}

/// What must change of a cluster. Credentials cannot be compared, as the server never shows them: where
/// they are given they are sent, and the server says by its version whether anything changed.
pub(crate) fn cluster(present: &Cluster, entry: &Entry<ClusterSpec>) -> Option<Value> {
    let limits = present.capacity;
    let mut before = json!(present);
    let mut after = json!(entry.spec);
    if let (Some(before), Some(after)) = (before.as_object_mut(), after.as_object_mut()) {
        let simulates = match before.get("simulates") {
            Some(Value::String(one)) => json!([one]),
            Some(Value::Array(list)) => json!(list),
            _ => json!([]),
        };
        before.insert("simulates".to_owned(), simulates);
        let shown = json!({"cpu": limits.cpu.limit, "memory_gb": limits.memory_gb.limit,
            "storage_gb": limits.storage_gb.limit, "slots": limits.slots.limit});
        // Why: the server shows what it discovered, not that it was asked to.
        let capacity = if entry.spec.discover { after.get("capacity").cloned().unwrap_or_default() } else { shown };
        before.insert("capacity".to_owned(), capacity);
    }
    let mut patch = patch_of(&entry.raw, &before, &after).unwrap_or_else(|| json!({}));
    let credentials = entry.raw.get("credentials").filter(|c| !c.is_null());
    if let (Some(map), Some(credentials)) = (patch.as_object_mut(), credentials) {
        map.insert("credentials".to_owned(), credentials.clone());
    }
    patch.as_object().is_some_and(|m| !m.is_empty()).then_some(patch)
}

/// The keys in which a live request differs from what the file asks for; empty when it is the same.
/// `id_of` gives the id of a name in the file. A request's user data is encrypted with the server's key, so
/// only whether there is some can be seen here; the server is asked for the rest.
pub(crate) fn request(present: &Request, wanted: &Spec, id_of: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let depends = wanted.depends_on.iter().map(|d| id_of(d).unwrap_or_else(|| d.clone())).collect();
    let after = comparable(json!(wanted), depends);
    let before = comparable(normal(&present.spec), present.depends_on.clone());
    let differs = after.iter().filter(|(k, v)| !same(v, before.get(*k).unwrap_or(&Value::Null)));
    differs.map(|(k, _)| k.clone()).collect()
}

/// What the server shows, in the same form as what the file says.
fn normal(shown: &Value) -> Value {
    let mut bare = shown.clone();
    let secret = bare.as_object_mut().and_then(|m| m.remove("user_data")).filter(|v| !v.is_null());
    let Ok(spec) = Spec::check("", &bare, &Unsealed) else { return shown.clone() };
    let mut value = json!(spec);
    if let (Some(map), Some(secret)) = (value.as_object_mut(), secret) {
        map.insert("user_data".to_owned(), secret);
    }
    value
}

fn comparable(spec: Value, mut depends: Vec<String>) -> Map<String, Value> {
    let Value::Object(mut map) = spec else { return Map::new() };
    let user_data = map.get("user_data").is_some_and(|v| !v.is_null());
    map.insert("user_data".to_owned(), json!(user_data));
    depends.sort();
    depends.dedup();
    map.insert("depends_on".to_owned(), json!(depends));
    // Why: the default of the kind need not be written.
    let none = map.get("ports").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if none && map.get("kind").is_some_and(|k| k == "vps") {
        map.insert("ports".to_owned(), json!([22]));
    }
    map
}
