//! Clusters: registering, testing, looking into them.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use provisor_core::cluster::ClusterSpec;
use provisor_store::OpError;
use provisor_store::ops::clusters::{ClusterView, GetCluster, ListClusters};
use provisor_wire::cluster::{Check, Cluster, Inventory, NewCluster, TestReport};
use provisor_wire::parts::Page;
use serde_json::Value;

use super::commands::check;
use super::{Answer, at_location, with_etag};
use crate::App;
use crate::auth::Admin;
use crate::input::{Body, OptionalBody, Params, if_match, merge};
use crate::problem::Problem;
use crate::show;

/// How often an edit without `If-Match` is made anew when another comes between.
const TRIES: u32 = 5;

fn answer(status: StatusCode, view: &ClusterView) -> Response {
    let shown = show::cluster::cluster(view);
    let etag = shown.etag.clone();
    with_etag(status, shown, &etag)
}

async fn load(app: &App, key: &str) -> Result<ClusterView, Problem> {
    let found = app.store().run(GetCluster { key: key.to_owned() }).await?;
    found.ok_or_else(|| Problem::not_found("cluster"))
}

/// Clusters in order of registration.
#[utoipa::path(get, path = "/api/clusters", tag = "clusters",
    params(("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."), ("limit" = Option<u32>, Query, description = "Entries of a page: 50, at most 500.")),
    responses((status = 200, body = Page<Cluster>)))]
pub(crate) async fn list(_: Admin, AppState(app): AppState<App>, mut params: Params) -> Answer {
    let after = params.parsed("cursor", "a cursor of this list", |t| t.parse::<i64>().ok());
    let limit = usize::try_from(params.limit()).unwrap_or(1);
    params.finish()?;
    let mut views = app.store().run(ListClusters).await?;
    views.retain(|v| after.is_none_or(|after| v.ordinal > after));
    let more = views.len() > limit;
    views.truncate(limit);
    let next_cursor = views.last().filter(|_| more).map(|v| v.ordinal.to_string());
    Ok(Json(Page { items: views.iter().map(show::cluster::cluster).collect(), next_cursor }).into_response())
}

/// Registers a cluster. Its credentials are stored encrypted and never shown again.
#[utoipa::path(post, path = "/api/clusters", tag = "clusters", request_body = NewCluster,
    responses((status = 201, body = Cluster, headers(("Location" = String), ("ETag" = String)))))]
pub(crate) async fn create(_: Admin, AppState(app): AppState<App>, Body(body): Body) -> Answer {
    let (spec, credentials) = ClusterSpec::check("", &body)?;
    let view = app.backend.register_cluster(spec, credentials).await?;
    Ok(at_location(answer(StatusCode::CREATED, &view), &format!("/api/clusters/{}", view.id)))
}

/// One cluster by id or name.
#[utoipa::path(get, path = "/api/clusters/{id}", tag = "clusters", params(("id" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Cluster, headers(("ETag" = String)))))]
pub(crate) async fn get(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    Ok(answer(StatusCode::OK, &load(&app, &id).await?))
}

/// Changes a cluster by a merge patch (RFC 7396). Credentials are replaced as a whole, or left where they
/// are not given.
#[utoipa::path(patch, path = "/api/clusters/{id}", tag = "clusters",
    params(("id" = String, Path, description = "Id or name."), ("If-Match" = Option<String>, Header, description = "Only if this is still its etag.")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses((status = 200, body = Cluster, headers(("ETag" = String)))))]
pub(crate) async fn patch(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(patch): Body,
) -> Answer {
    let condition = if_match(&headers);
    if !patch.is_object() {
        return Err(Problem::flaw("", "type", Value::Null, "must be an object"));
    }
    for _ in 0..TRIES {
        let view = load(&app, &id).await?;
        let mut wanted = show::cluster::manifest(&view.spec);
        merge(&mut wanted, &patch);
        let (spec, given) = ClusterSpec::check("", &wanted)?;
        // A `null` takes the credentials away; where they are not named they stay.
        let credentials = given.or_else(|| patch.get("credentials").cloned());
        let version = Some(condition.unwrap_or(view.version));
        match app.backend.update_cluster(&view.id.to_string(), spec, credentials, version).await {
            Err(OpError::PreconditionFailed { .. }) if condition.is_none() => {}
            done => return Ok(answer(StatusCode::OK, &done?)),
        }
    }
    Err(OpError::Fenced.into())
}

/// Removes a cluster that nothing stands on.
#[utoipa::path(delete, path = "/api/clusters/{id}", tag = "clusters",
    params(("id" = String, Path, description = "Id or name."), ("If-Match" = Option<String>, Header, description = "Only if this is still its etag.")),
    responses((status = 204)))]
pub(crate) async fn delete(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    app.backend.remove_cluster(&id, if_match(&headers)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Tests its connectivity now: success or failure, latency, what exactly failed.
#[utoipa::path(post, path = "/api/clusters/{id}/test", tag = "clusters", params(("id" = String, Path, description = "Id or name.")),
    responses((status = 200, body = TestReport)))]
pub(crate) async fn test(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(_body): OptionalBody,
) -> Answer {
    let report = app.backend.test_cluster(&id).await?;
    let checks: Vec<Check> = report.checks.into_iter().map(check).collect();
    Ok(Json(TestReport { ok: report.ok, latency_ms: report.latency_ms, checks }).into_response())
}

/// Compares its inventory with the ledger.
#[utoipa::path(get, path = "/api/clusters/{id}/inventory", tag = "clusters", params(("id" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Inventory)))]
pub(crate) async fn inventory(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    Ok(Json(app.backend.inventory(&id).await?).into_response())
}

/// Releases what nobody owns, within the rules, and answers the inventory. With `release` one object that is listed as
/// orphaned goes, whatever its age and although no row is known, and nothing else does.
#[utoipa::path(post, path = "/api/clusters/{id}/sweep", tag = "clusters",
    params(("id" = String, Path, description = "Id or name."), ("dry_run" = Option<bool>, Query, description = "Only say what is there."),
        ("release" = Option<String>, Query, description = "The backend's id of an orphaned object.")),
    responses((status = 200, body = Inventory)))]
pub(crate) async fn sweep(
    Admin { actor }: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    mut params: Params,
    OptionalBody(_body): OptionalBody,
) -> Answer {
    let (dry_run, release) = (params.flag("dry_run"), params.filled("release"));
    if let Some(release) = release.as_ref().filter(|_| dry_run) {
        params.flaw("release", "exclusive", release, "release does something, and dry_run asks that nothing is done");
    }
    params.finish()?;
    let swept = match release {
        Some(provider_id) => app.backend.release_orphan(&id, &provider_id, &actor.id).await?,
        None => app.backend.sweep(&id, dry_run).await?,
    };
    Ok(Json(swept).into_response())
}
