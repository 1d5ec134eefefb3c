//! The same objects under their other name: requests of kind `environment`. The timeline is there for any
//! kind.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use provisor_core::Kind;
use provisor_store::ops::requests::RequestView;
use provisor_wire::parts::{Items, Page};
use provisor_wire::request::{Attempt, CheckStatus, Metrics, Request, Resource};
use provisor_wire::timeline::Timeline;

use super::requests::{events_of, list_of, shown, timeline_of};
use super::{Answer, load_request};
use crate::App;
use crate::auth::Admin;
use crate::input::{OptionalBody, Params};
use crate::problem::Problem;
use crate::show;

async fn load(app: &App, id: &str) -> Result<RequestView, Problem> {
    let found = load_request(app, id).await.ok().filter(|v| v.run.spec.kind == Kind::Environment);
    found.ok_or_else(|| Problem::not_found("environment"))
}

/// Environments, newest first.
#[utoipa::path(get, path = "/api/environments", tag = "environments",
    params(("state" = Option<String>, Query, description = "Only in this state."), ("tenant" = Option<String>, Query, description = "Only of this tenant, by name or id."),
        ("label" = Option<String>, Query, description = "Only with this label: `name=value`."), ("name" = Option<String>, Query, description = "Only of this name."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."), ("limit" = Option<u32>, Query, description = "Entries of a page: 50, at most 500.")),
    responses((status = 200, body = Page<Request>)))]
pub(crate) async fn list(_: Admin, AppState(app): AppState<App>, params: Params) -> Answer {
    list_of(&app, params, Some(Kind::Environment)).await
}

/// One environment.
#[utoipa::path(get, path = "/api/environments/{id}", tag = "environments", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Request)))]
pub(crate) async fn get(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load(&app, &id).await?;
    Ok(shown(&app, &view))
}

/// What happened to it, oldest first; of a request of any kind.
#[utoipa::path(get, path = "/api/environments/{id}/timeline", tag = "environments",
    params(("id" = String, Path, description = "`req_…`"), ("detail" = Option<String>, Query, description = "`operations` adds every operation with its tries.")),
    responses((status = 200, body = Timeline)))]
pub(crate) async fn timeline(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>, params: Params) -> Answer {
    timeline_of(&app, &id, params).await
}

/// Its attempts.
#[utoipa::path(get, path = "/api/environments/{id}/attempts", tag = "environments", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Items<Attempt>)))]
pub(crate) async fn attempts(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load(&app, &id).await?;
    let items: Vec<Attempt> = view.run.attempts.iter().map(show::request::attempt).collect();
    Ok(Json(Items { items }).into_response())
}

/// Its rows of the ledger.
#[utoipa::path(get, path = "/api/environments/{id}/resources", tag = "environments", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Items<Resource>)))]
pub(crate) async fn resources(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let view = load(&app, &id).await?;
    Ok(Json(Items { items: show::request::resources(&view.run) }).into_response())
}

/// What it uses now, as its backend tells it.
#[utoipa::path(get, path = "/api/environments/{id}/metrics", tag = "environments", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = Metrics)))]
pub(crate) async fn metrics(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    load(&app, &id).await?;
    super::requests::metrics_of(&app, &id).await
}

/// Its published events from the first on, live.
#[utoipa::path(get, path = "/api/environments/{id}/events", tag = "environments",
    params(("id" = String, Path, description = "`req_…`"), ("Last-Event-ID" = Option<String>, Header, description = "Go on after this cursor.")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(crate) async fn events(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Answer {
    load(&app, &id).await?;
    events_of(&app, &id, params, &headers).await
}

/// Probes it now.
#[utoipa::path(post, path = "/api/environments/{id}/check-status", tag = "environments", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = CheckStatus)))]
pub(crate) async fn check_status(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(_body): OptionalBody,
) -> Answer {
    load(&app, &id).await?;
    super::commands::check_status_of(&app, &id).await
}
