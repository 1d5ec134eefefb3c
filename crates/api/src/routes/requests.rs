//! Asking for things and looking at them.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use provisor_core::check::{Flaw, Flaws, Object};
use provisor_core::event::Actor;
use provisor_core::{Kind, RequestId, Spec, State};
use provisor_store::OpError;
use provisor_store::ops::admit::Idempotency;
use provisor_store::ops::log::{EntriesOf, Entry};
use provisor_store::ops::requests::{GetRequest, ListRequests, RequestPage, RequestView};
use provisor_wire::parts::{Items, Page};
use provisor_wire::plan::{Plan, Rejected};
use provisor_wire::problem::Fault;
use provisor_wire::request::{Attempt, Batch, Metrics, Request, Resource};
use provisor_wire::timeline::Timeline;
use serde_json::Value;

use super::{Answer, OfTenant, accepted, load_request, request_id, with_etag};
use crate::App;
use crate::auth::Admin;
use crate::input::{Body, Params, fingerprint, idempotency_key};
use crate::problem::Problem;
use crate::show;
use crate::sse::{self, Source};

/// Requests of one batch at most.
const BATCH_LIMIT: usize = 1000;
/// Entries of the log that one timeline reads at most.
const TIMELINE_LIMIT: usize = 100_000;

/// Asks for one thing.
///
/// With `dry_run=true` nothing is stored and the answer is a plan. With an `Idempotency-Key` the same call
/// gets the same answer.
#[utoipa::path(post, path = "/api/requests", tag = "requests",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would become of it."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer.")),
    request_body(content = Object, description = "A specification: an entry of the manifest's `requests`."),
    responses((status = 202, body = Request, headers(("Location" = String), ("ETag" = String))), (status = 200, body = Plan, description = "Of a dry run.")))]
pub(crate) async fn create(
    admin: Admin,
    AppState(app): AppState<App>,
    mut params: Params,
    headers: HeaderMap,
    Body(body): Body,
) -> Answer {
    let dry = params.flag("dry_run");
    params.finish()?;
    let key = idempotency(&headers, "POST /api/requests", &body)?;
    let seal = app.backend.seal();
    let spec = Spec::check("", &body, seal.as_ref());
    if dry {
        let plans = dry_run(&app, vec![spec], admin.actor, false).await?;
        return plans.into_iter().next().map(|p| Json(p).into_response()).ok_or_else(|| Problem::internal("no plan"));
    }
    let spec = spec?;
    match app.backend.admit(vec![spec.clone()], admin.actor, key, false).await {
        Ok(views) => views.first().map(|v| accepted(&app, v)).ok_or_else(|| Problem::internal("nothing was admitted")),
        Err(error) => Err(refusal(&app, &spec, error).await),
    }
}

/// Asks for several things, all or none.
#[utoipa::path(post, path = "/api/requests/batch", tag = "requests",
    params(("dry_run" = Option<bool>, Query, description = "Only say what would become of them."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body get the same answer.")),
    request_body = Batch,
    responses((status = 202, body = Items<Request>), (status = 200, body = Items<Plan>, description = "Of a dry run.")))]
pub(crate) async fn create_batch(
    admin: Admin,
    AppState(app): AppState<App>,
    mut params: Params,
    headers: HeaderMap,
    Body(body): Body,
) -> Answer {
    let dry = params.flag("dry_run");
    params.finish()?;
    let key = idempotency(&headers, "POST /api/requests/batch", &body)?;
    let specs = check_batch(&app, &body)?;
    if dry {
        let items = dry_run(&app, specs, admin.actor, true).await?;
        return Ok(Json(Items { items }).into_response());
    }
    let mut good = Vec::with_capacity(specs.len());
    let mut flaws = Vec::new();
    for spec in specs {
        match spec {
            Ok(spec) => good.push(spec),
            Err(found) => flaws.extend(found),
        }
    }
    if !flaws.is_empty() {
        return Err(Problem::invalid(flaws));
    }
    let views = app.backend.admit(good, admin.actor, key, true).await?;
    let now = app.store().now();
    let items: Vec<Request> = views.iter().map(|v| show::request::request(v, now)).collect();
    Ok((StatusCode::ACCEPTED, Json(Items { items })).into_response())
}

type Checked = Result<Spec, Vec<Flaw>>;

/// Every specification of a batch, read with its place.
fn check_batch(app: &App, body: &Value) -> Result<Vec<Checked>, Problem> {
    let mut flaws = Flaws::default();
    let mut object = Object::new("", body, &mut flaws);
    let list = object.required("requests", &mut flaws);
    object.finish(&mut flaws);
    let list = list.and_then(|v| {
        if !v.is_array() {
            flaws.add("/requests", "type", v, "must be a list");
        }
        v.as_array()
    });
    let count = list.map_or(0, Vec::len);
    if count > BATCH_LIMIT {
        return Err(Problem::new("too_large", format!("A batch has at most {BATCH_LIMIT} requests; this one has {count}.")));
    }
    if list.is_some_and(Vec::is_empty) {
        flaws.add("/requests", "min", &Value::Null, "at least one request");
    }
    flaws.finish(()).map_err(Problem::invalid)?;
    let seal = app.backend.seal();
    let mut names = BTreeSet::new();
    let mut all = Vec::with_capacity(count);
    for (index, value) in list.into_iter().flatten().enumerate() {
        let at = format!("/requests/{index}");
        let checked = Spec::check(&at, value, seal.as_ref());
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        // Admission refuses it too, but only what has no other fault comes that far.
        all.push(match (text("tenant"), text("name")) {
            (Some(tenant), Some(name)) if !names.insert((tenant, name)) => Err(twice(&at, name, checked.err())),
            _ => checked,
        });
    }
    Ok(all)
}

fn twice(at: &str, name: &str, flaws: Option<Vec<Flaw>>) -> Vec<Flaw> {
    let mut flaws = Flaws(flaws.unwrap_or_default());
    flaws.add(&format!("{at}/name"), "unique", &Value::from(name), "the name stands twice in the batch");
    flaws.0
}

fn idempotency(headers: &HeaderMap, route: &str, body: &Value) -> Result<Option<Idempotency>, Problem> {
    let key = idempotency_key(headers)?;
    Ok(key.map(|key| Idempotency { route: route.to_owned(), key, fingerprint: fingerprint(body) }))
}

/// Plans. Faults of a specification stand in its plan; so do those that only the store can see, and each
/// cluster's reason where none can ever take it. Any other refusal is answered as the real call would.
async fn dry_run(app: &App, specs: Vec<Checked>, actor: Actor, batch: bool) -> Result<Vec<Plan>, Problem> {
    let count = specs.len();
    let faults: Vec<Vec<Flaw>> = specs.iter().map(|s| s.as_ref().err().cloned().unwrap_or_default()).collect();
    if faults.iter().any(|f| !f.is_empty()) {
        return Ok(faults.into_iter().map(refused).collect());
    }
    let good: Vec<Spec> = specs.into_iter().flatten().collect();
    let first = good.first().cloned();
    match (app.backend.dry_run(good, actor, batch).await, first) {
        (Ok(plans), _) => Ok(plans),
        (Err(OpError::Invalid(flaws)), _) => Ok((0..count).map(|i| refused(of_item(&flaws, i, batch))).collect()),
        (Err(error @ OpError::NoCluster { .. }), _) => Ok(not_placed(error, count, batch)),
        (Err(error), Some(spec)) if !batch => Err(refusal(app, &spec, error).await),
        (Err(error), _) => Err(error.into()),
    }
}

fn of_item(flaws: &[Flaw], index: usize, batch: bool) -> Vec<Flaw> {
    let (exact, below) = (format!("/requests/{index}"), format!("/requests/{index}/"));
    let mine = |f: &&Flaw| !batch || f.pointer == exact || f.pointer.starts_with(&below);
    flaws.iter().filter(mine).cloned().collect()
}

/// Plans of a batch of which one item fits nowhere: its own names every cluster with its reason.
fn not_placed(error: OpError, count: usize, batch: bool) -> Vec<Plan> {
    let clusters = match &error {
        OpError::NoCluster { rejected, .. } => rejected.clone(),
        _ => Vec::new(),
    };
    let problem = Problem::from(error);
    let plan = |index: usize| {
        let flaws = of_item(problem.errors(), index, batch);
        let named = if flaws.is_empty() { Vec::new() } else { clusters.clone() };
        let rejected = named.into_iter().map(|(cluster, reason)| Rejected { cluster, reason });
        Plan { rejected: rejected.collect(), ..refused(flaws) }
    };
    (0..count).map(plan).collect()
}

fn refused(flaws: Vec<Flaw>) -> Plan {
    let shown = flaws.into_iter().map(|f| Fault { pointer: f.pointer, rule: f.rule, value: f.value, message: f.message });
    Plan::refused(shown.collect())
}

/// A refusal. Of a taken name it says whether the holder has the same specification: a caller cannot see
/// that by itself where there are secrets (H21).
async fn refusal(app: &App, spec: &Spec, error: OpError) -> Problem {
    let holder = match &error {
        OpError::NameTaken { holder, .. } => holder.parse::<RequestId>().ok(),
        _ => None,
    };
    let problem = Problem::from(error);
    let Some(id) = holder else { return problem };
    match app.store().run(GetRequest { id, scope: None }).await {
        Ok(Some(view)) => {
            let same = show::request::spec(&view.run.spec) == show::request::spec(spec);
            problem.with("same_specification", same)
        }
        _ => problem,
    }
}

/// Requests, newest first.
#[utoipa::path(get, path = "/api/requests", tag = "requests",
    params(("state" = Option<String>, Query, description = "Only in this state."), ("kind" = Option<String>, Query, description = "Only of this kind."),
        ("tenant" = Option<String>, Query, description = "Only of this tenant, by name or id."), ("label" = Option<String>, Query, description = "Only with this label: `name=value`."),
        ("name" = Option<String>, Query, description = "Only of this name."), ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, description = "Entries of a page: 50, at most 500.")),
    responses((status = 200, body = Page<Request>)))]
pub(crate) async fn list(_: Admin, AppState(app): AppState<App>, mut params: Params) -> Answer {
    let kind = params.word("kind", &Kind::ALL);
    list_of(&app, params, kind).await
}

pub(super) async fn list_of(app: &App, mut params: Params, kind: Option<Kind>) -> Answer {
    let state = params.word("state", &State::ALL);
    let tenant = params.text("tenant");
    let split = |text: &str| {
        let (name, value) = text.split_once('=').or_else(|| text.split_once(':'))?;
        Some((name.to_owned(), value.to_owned()))
    };
    let label = params.parsed("label", "of the form name=value", split);
    let name = params.text("name");
    let cursor = params.parsed("cursor", "a cursor of this list", |t| t.parse::<RequestId>().ok());
    let limit = params.limit();
    params.finish()?;
    let of = OfTenant::find(app, tenant).await?;
    let page = if of == OfTenant::Nobody {
        RequestPage { items: Vec::new(), next: None }
    } else {
        let list = ListRequests { state, kind, tenant: of.id(), label, name, cursor, limit, scope: None };
        app.store().run(list).await?
    };
    let now = app.store().now();
    let items: Vec<Request> = page.items.iter().map(|v| show::request::request(v, now)).collect();
    Ok(Json(Page { items, next_cursor: page.next.map(|c| c.to_string()) }).into_response())
}

/// One request.
#[utoipa::path(get, path = "/api/requests/{id}", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Request, headers(("ETag" = String)))))]
pub(crate) async fn get(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load_request(&app, &id).await?;
    Ok(shown(&app, &view))
}

pub(super) fn shown(app: &App, view: &RequestView) -> Response {
    let shown = show::request::request(view, app.store().now());
    let etag = shown.etag.clone();
    with_etag(StatusCode::OK, shown, &etag)
}

/// What happened to it, oldest first.
#[utoipa::path(get, path = "/api/requests/{id}/timeline", tag = "requests",
    params(("id" = String, Path, description = "`req_…`"), ("detail" = Option<String>, Query, description = "`operations` adds every operation with its tries.")),
    responses((status = 200, body = Timeline)))]
pub(crate) async fn timeline(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>, params: Params) -> Answer {
    timeline_of(&app, &id, params).await
}

pub(super) async fn timeline_of(app: &App, id: &str, mut params: Params) -> Answer {
    let operations = params.word("detail", &[("operations", true)]).unwrap_or(false);
    params.finish()?;
    let view = load_request(app, id).await?;
    let mut log: Vec<Entry> = Vec::new();
    while log.len() < TIMELINE_LIMIT {
        let after = log.last().map_or(0, |e| e.version);
        let more = app.store().run(EntriesOf { subject: view.run.id, after }).await?;
        if more.is_empty() {
            break;
        }
        log.extend(more);
        if log.last().is_some_and(|e| e.version >= view.events) {
            break;
        }
    }
    Ok(Json(show::timeline::timeline(&view.run, &log, operations, app.store().now())).into_response())
}

/// Its attempts.
#[utoipa::path(get, path = "/api/requests/{id}/attempts", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Items<Attempt>)))]
pub(crate) async fn attempts(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load_request(&app, &id).await?;
    let items: Vec<Attempt> = view.run.attempts.iter().map(show::request::attempt).collect();
    Ok(Json(Items { items }).into_response())
}

/// Its rows of the ledger.
#[utoipa::path(get, path = "/api/requests/{id}/resources", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Items<Resource>)))]
pub(crate) async fn resources(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load_request(&app, &id).await?;
    Ok(Json(Items { items: show::request::resources(&view.run) }).into_response())
}

/// What it uses now, as its backend tells it.
#[utoipa::path(get, path = "/api/requests/{id}/metrics", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Metrics)))]
pub(crate) async fn metrics(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    metrics_of(&app, &id).await
}

pub(super) async fn metrics_of(app: &App, id: &str) -> Answer {
    let (metrics, at) = app.backend.metrics(request_id(id)?).await?;
    Ok(Json(show::request::metrics(metrics, at)).into_response())
}

/// Its published events from the first on, live: server-sent events, resumable with `Last-Event-ID`.
#[utoipa::path(get, path = "/api/requests/{id}/events", tag = "requests",
    params(("id" = String, Path, description = "`req_…`"), ("Last-Event-ID" = Option<String>, Header, description = "Go on after this cursor.")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn events(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    events_of(&app, &id, params, &headers).await
}

pub(super) async fn events_of(app: &App, id: &str, params: Params, headers: &HeaderMap) -> Answer {
    params.finish()?;
    let after = sse::last_event_id(headers)?.unwrap_or(0);
    let view = load_request(app, id).await?;
    let stream = sse::open(app, Source::Request { id: view.run.id, version: 0 }, after)?;
    Ok(stream.into_response())
}
