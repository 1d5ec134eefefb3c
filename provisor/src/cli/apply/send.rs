//! Applying a manifest: tenants, clusters, then all new requests as one batch.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use futures::StreamExt as _;
use provisor_core::cluster::ClusterSpec;
use provisor_core::spec::Spec;
use provisor_core::tenant::TenantSpec;
use provisor_wire::client::RequestFilter;
use provisor_wire::{ClientError, Plan, Problem, Request};
use serde::Serialize;
use serde_json::{Value, json};

use super::compare;
use super::manifest::{Entry, Manifest};
use crate::fail::Fail;
use crate::session::{Session, is_missing};

/// Calls under way at once.
const CALLS: usize = 8;

/// What became of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// `tenant`, `cluster`, `request`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// Its id; `null` in a dry run of something new.
    pub(crate) id: Option<String>,
    /// `created`, `changed`, `unchanged`.
    pub(crate) result: &'static str,
}

/// What became of a manifest.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Each entry in the order of the file.
    pub(crate) items: Vec<Item>,
    /// The requests as they are now.
    pub(crate) requests: Vec<Request>,
    /// Plans of a dry run with their names.
    pub(crate) plans: Vec<(String, Plan)>,
    /// Why requests could not be tried out.
    pub(crate) remark: Option<String>,
}

fn item(kind: &'static str, name: &str, id: Option<String>, result: &'static str) -> Item {
    Item { kind, name: name.to_owned(), id, result }
}

/// What is not there is no error.
fn optional<T>(found: Result<T, ClientError>) -> Result<Option<T>, Fail> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Faults of one entry get the pointers of the file.
fn placed(error: ClientError, pointer: &str) -> Fail {
    match error {
        ClientError::Problem(mut problem) => {
            for fault in &mut problem.errors {
                fault.pointer = format!("{pointer}{}", fault.pointer);
            }
            Fail::Problem(problem)
        }
        other => other.into(),
    }
}

/// Applies it, or says what would be done.
pub(crate) async fn apply(session: &Session, manifest: &Manifest, dry_run: bool) -> Result<Applied, Fail> {
    let mut applied = Applied::default();
    let standing = standing(session, &manifest.requests).await?;
    let places = refuse_changed(manifest, &standing)?;
    refuse_other_user_data(session, manifest, &standing).await?;
    for (index, entry) in manifest.tenants.iter().enumerate() {
        let done = tenant(session, entry, dry_run).await.map_err(|e| placed(e, &format!("/tenants/{index}")))?;
        applied.items.push(done);
    }
    for (index, entry) in manifest.clusters.iter().enumerate() {
        let done = cluster(session, entry, dry_run).await.map_err(|e| placed(e, &format!("/clusters/{index}")))?;
        applied.items.push(done);
    }
    let fresh: Vec<usize> = (0..manifest.requests.len()).filter(|i| !standing.contains_key(i)).collect();
    let specs: Vec<Value> = fresh.iter().filter_map(|i| manifest.requests.get(*i)).map(|e| linked(e, &places)).collect();
    let mut made: BTreeMap<usize, Request> = BTreeMap::new();
    if dry_run {
        plan(session, manifest, &fresh, &specs, &mut applied).await?;
    } else if !specs.is_empty() {
        let key = idempotency_key();
        let answer = session.client.create_batch(&specs, Some(&key)).await.map_err(|e| in_file(e, &fresh))?;
        made = fresh.iter().copied().zip(answer).collect();
    }
    for (index, entry) in manifest.requests.iter().enumerate() {
        let old = standing.get(&index);
        let new = made.get(&index);
        let result = if old.is_some() { "unchanged" } else { "created" };
        applied.items.push(item("request", &entry.spec.name, old.or(new).map(|r| r.id.clone()), result));
        applied.requests.extend(old.or(new).cloned());
    }
    Ok(applied)
}

async fn tenant(session: &Session, entry: &Entry<TenantSpec>, dry_run: bool) -> Result<Item, ClientError> {
    let name = &entry.spec.name;
    let present = match session.client.tenant(name).await {
        Err(error) if is_missing(&error) => None,
        other => Some(other?),
    };
    let Some(present) = present else {
        let id = if dry_run { None } else { Some(session.client.create_tenant(&entry.raw).await?.id) };
        return Ok(item("tenant", name, id, "created"));
    };
    let Some(patch) = compare::tenant(&present, entry) else { return Ok(item("tenant", name, Some(present.id), "unchanged")) };
    if !dry_run {
        session.client.patch_tenant(&present.id, &patch, Some(&present.etag)).await?;
    }
    Ok(item("tenant", name, Some(present.id), "changed"))
}

async fn cluster(session: &Session, entry: &Entry<ClusterSpec>, dry_run: bool) -> Result<Item, ClientError> {
    let name = &entry.spec.name;
    let present = match session.client.cluster(name).await {
        Err(error) if is_missing(&error) => None,
        other => Some(other?),
    };
    let Some(present) = present else {
        let id = if dry_run { None } else { Some(session.client.create_cluster(&entry.raw).await?.id) };
        return Ok(item("cluster", name, id, "created"));
    };
    let Some(patch) = compare::cluster(&present, entry) else { return Ok(item("cluster", name, Some(present.id), "unchanged")) };
    if dry_run {
        return Ok(item("cluster", name, Some(present.id), "changed"));
    }
    let after = session.client.patch_cluster(&present.id, &patch, Some(&present.etag)).await?;
    // Why: credentials are sent to be compared there; the version tells whether they were others.
    let result = if after.etag == present.etag { "unchanged" } else { "changed" };
    Ok(item("cluster", name, Some(present.id), result))
}

/// Requests of the file that are there already, by their place in the file.
async fn standing(session: &Session, entries: &[Entry<Spec>]) -> Result<BTreeMap<usize, Request>, Fail> {
    let look = |(index, entry): (usize, &Entry<Spec>)| {
        let filter = RequestFilter {
            tenant: Some(entry.spec.tenant.clone()),
            name: Some(entry.spec.name.clone()),
            limit: Some(500),
            ..RequestFilter::default()
        };
        let client = session.client.clone();
        async move { (index, client.requests(&filter).await) }
    };
    let lookups: Vec<_> = entries.iter().enumerate().map(look).collect();
    let answers: Vec<_> = futures::stream::iter(lookups).buffered(CALLS).collect().await;
    let mut found = BTreeMap::new();
    for (index, answer) in answers {
        let page = optional(answer)?;
        let name = entries.get(index).map(|e| e.spec.name.as_str());
        let live = page.into_iter().flat_map(|p| p.items).find(|r| r.state != "rolled_back" && Some(r.name.as_str()) == name);
        found.extend(live.map(|r| (index, r)));
    }
    Ok(found)
}

/// Where each name of the file stands: tenant and name, and the id of what is there already.
type Places = BTreeMap<(String, String), Option<String>>;

/// Requests never change: one that is there with another specification is refused, all of them at once.
fn refuse_changed(manifest: &Manifest, standing: &BTreeMap<usize, Request>) -> Result<Places, Fail> {
    let mut places = Places::new();
    for (index, entry) in manifest.requests.iter().enumerate() {
        let id = standing.get(&index).map(|r| r.id.clone());
        places.insert((entry.spec.tenant.clone(), entry.spec.name.clone()), id);
    }
    let mut flaws = provisor_core::check::Flaws::default();
    for (index, present) in standing {
        let Some(entry) = manifest.requests.get(*index) else { continue };
        let id_of = |name: &str| places.get(&(entry.spec.tenant.clone(), name.to_owned())).cloned().flatten();
        for key in compare::request(present, &entry.spec, id_of) {
            let message = format!("{} ({}) is there with another {key}; requests do not change", entry.spec.name, present.id);
            let value = entry.raw.get(&key).filter(|_| key != "user_data").cloned().unwrap_or_default();
            flaws.add(&format!("/requests/{index}/{key}"), "unique", &value, message);
        }
    }
    flaws.finish(places).map_err(|all| {
        let text = "some requests are there with another specification; nothing was changed".to_owned();
        Fail::Flawed(text, all)
    })
}

/// User data is kept encrypted, so only the server can tell whether it is the same: a dry run of what stands
/// there, with the file's user data in its place, says so when it refuses the taken name.
async fn refuse_other_user_data(session: &Session, manifest: &Manifest, standing: &BTreeMap<usize, Request>) -> Result<(), Fail> {
    let mut flaws = provisor_core::check::Flaws::default();
    for (index, present) in standing {
        let given = manifest.requests.get(*index).and_then(|e| e.raw.get("user_data")).filter(|v| !v.is_null());
        let Some(given) = given else { continue };
        let mut spec = present.spec.clone();
        if let Some(map) = spec.as_object_mut() {
            map.insert("user_data".to_owned(), given.clone());
        }
        let Err(ClientError::Problem(problem)) = session.client.dry_run(&spec).await else { continue };
        if problem.more.get("same_specification") == Some(&json!(false)) {
            let message = format!("{} ({}) is there with another user_data; requests do not change", present.name, present.id);
            flaws.add(&format!("/requests/{index}/user_data"), "unique", &Value::Null, message);
        }
    }
    flaws.finish(()).map_err(|all| {
        let text = "some requests are there with another specification; nothing was changed".to_owned();
        Fail::Flawed(text, all)
    })
}

/// The specification as it is sent: prerequisites that are there already are named by id, because names
/// only reach within a batch.
fn linked(entry: &Entry<Spec>, places: &Places) -> Value {
    let mut raw = entry.raw.clone();
    if let Some(depends) = raw.get_mut("depends_on").and_then(Value::as_array_mut) {
        for name in depends {
            let known = name.as_str().and_then(|n| places.get(&(entry.spec.tenant.clone(), n.to_owned())));
            if let Some(Some(id)) = known {
                *name = json!(id);
            }
        }
    }
    raw
}

/// Pointers of a batch become those of the file.
fn in_file(error: ClientError, fresh: &[usize]) -> Fail {
    let ClientError::Problem(mut problem) = error else { return error.into() };
    let place = |pointer: &str| {
        let rest = pointer.strip_prefix("/requests/")?;
        let (index, below) = rest.split_once('/').map_or((rest, String::new()), |(i, b)| (i, format!("/{b}")));
        let place = fresh.get(index.parse::<usize>().ok()?)?;
        Some(format!("/requests/{place}{below}"))
    };
    for fault in &mut problem.errors {
        fault.pointer = place(&fault.pointer).unwrap_or_else(|| fault.pointer.clone());
    }
    if let Some(Value::String(pointer)) = problem.more.get_mut("pointer") {
        *pointer = place(pointer).unwrap_or_else(|| pointer.clone());
    }
    Fail::Problem(problem)
}

/// Lets the server try out the new requests, where it can: they need their tenants and clusters.
async fn plan(
    session: &Session,
    manifest: &Manifest,
    fresh: &[usize],
    specs: &[Value],
    applied: &mut Applied,
) -> Result<(), Fail> {
    if specs.is_empty() {
        return Ok(());
    }
    let mut missing: Vec<String> = Vec::new();
    for made in applied.items.iter().filter(|i| i.result == "created") {
        missing.push(format!("{} {}", made.kind, made.name));
    }
    if !missing.is_empty() {
        let text = format!("The requests were checked by the rules only: a full dry run needs {} to exist.", missing.join(", "));
        applied.remark = Some(text);
        return Ok(());
    }
    let plans = session.client.dry_run_batch(specs).await.map_err(|e| in_file(e, fresh))?;
    for (index, mut plan) in fresh.iter().zip(plans) {
        for fault in &mut plan.errors {
            let place =
                fault.pointer.strip_prefix("/requests/").and_then(|r| r.split_once('/')).map(|(_, below)| below.to_owned());
            fault.pointer = place.map_or_else(|| fault.pointer.clone(), |below| format!("/requests/{index}/{below}"));
        }
        let name = manifest.requests.get(*index).map_or_else(String::new, |e| e.spec.name.clone());
        applied.plans.push((name, plan));
    }
    Ok(())
}

/// A random key: the standard library seeds its hasher from the system's randomness.
fn idempotency_key() -> String {
    let part = |salt: u64| RandomState::new().hash_one((salt, std::process::id()));
    format!("apply-{:016x}{:016x}", part(1), part(2))
}

/// A refusal of a dry run, as the real call would give it.
pub(crate) fn refused(plans: &[(String, Plan)]) -> Option<Fail> {
    let errors: Vec<_> = plans.iter().flat_map(|(_, p)| p.errors.clone()).collect();
    let bad = plans.iter().any(|(_, p)| !p.valid || p.quota.iter().any(|q| !q.ok));
    bad.then(|| {
        Fail::Problem(Box::new(Problem {
            kind: "/errors/invalid_request".to_owned(),
            title: "The dry run would be refused".to_owned(),
            status: 422,
            detail: "nothing was changed".to_owned(),
            instance: None,
            code: "invalid_request".to_owned(),
            retriable: false,
            errors,
            more: serde_json::Map::new(),
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_of_a_batch_become_those_of_the_file() {
        let problem = json!({"type": "x", "title": "t", "status": 422, "detail": "d", "instance": null, "code": "invalid_request",
            "retriable": false, "errors": [{"pointer": "/requests/1/size/cpu", "rule": "max", "value": 1, "message": "m"}]});
        let problem: Result<Problem, _> = serde_json::from_value(problem);
        let fail = problem.map(|p| in_file(ClientError::Problem(Box::new(p)), &[0, 4]));
        assert!(matches!(fail, Ok(Fail::Problem(p)) if p.errors.iter().all(|e| e.pointer == "/requests/4/size/cpu")));
    }

    #[test]
    fn keys_are_random() {
        assert_ne!(idempotency_key(), idempotency_key());
    }
}
