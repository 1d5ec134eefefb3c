//! The figures, and a look into the simulated cloud.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::header;
use axum::response::IntoResponse;
use provisor_store::ops::stats::Stats;

use super::Answer;
use crate::auth::Admin;
use crate::input::Params;
use crate::metrics;
use crate::problem::Problem;
use crate::{App, STREAM_LIMIT};

/// The figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, content_type = "text/plain", body = String)))]
pub(crate) async fn metrics(_: Admin, AppState(app): AppState<App>) -> Answer {
    let numbers = app.store().run(Stats).await?;
    let page = metrics::page(&numbers, STREAM_LIMIT.saturating_sub(app.streams.available_permits()));
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response())
}

/// What a simulated cluster inside this process really holds.
#[utoipa::path(get, path = "/sim/{cluster}/inventory", tag = "simulation",
    params(("cluster" = String, Path, description = "Its name."), ("live" = Option<bool>, Query, description = "Leave out what is gone.")),
    responses((status = 200, body = Object)))]
pub(crate) async fn sim_inventory(
    _: Admin,
    AppState(app): AppState<App>,
    Path(cluster): Path<String>,
    mut params: Params,
) -> Answer {
    let live = params.flag("live");
    params.finish()?;
    let found = app.backend.sim_inventory(&cluster, live).await;
    found.map(|v| Json(v).into_response()).ok_or_else(|| Problem::not_found("simulated cluster"))
}
