//! What is asked of a request that is there.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::response::{IntoResponse, Response};
use provisor_core::ResourceId;
use provisor_core::check::{Flaws, Object, text_of};
use provisor_core::event::Endpoint;
use provisor_core::run::{Command, ManualInput};
use provisor_core::spec::Seal;
use provisor_wire::cluster::Check;
use provisor_wire::request::{self, CheckStatus, Reason, Request, RetryOrder, WriteOff};
use serde_json::Value;

use super::{Answer, accepted, load_request, request_id};
use crate::App;
use crate::auth::Admin;
use crate::input::{Body, OptionalBody};
use crate::problem::Problem;

/// Longest reason.
const REASON_LIMIT: usize = 1000;
/// Entries of a list in a body at most.
const LIST_LIMIT: usize = 1000;

/// The reason of a command, and whether it is to be forced where that means something.
fn reason(body: &Value, may_force: bool) -> Result<(Option<String>, bool), Problem> {
    let mut flaws = Flaws::default();
    let mut o = Object::new("", body, &mut flaws);
    let reason = o.text("reason", REASON_LIMIT, &mut flaws);
    let force = may_force && o.boolean("force", &mut flaws).unwrap_or(false);
    o.finish(&mut flaws);
    flaws.finish((reason, force)).map_err(Problem::invalid)
}

async fn ask(app: &App, admin: Admin, id: &str, command: Command) -> Answer {
    let view = app.backend.command(request_id(id)?, command, admin.actor).await?;
    Ok(accepted(app, &view))
}

/// Takes it back before it is completed.
#[utoipa::path(post, path = "/api/requests/{id}/cancel", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = Reason, responses((status = 202, body = Request)))]
pub(crate) async fn cancel(
    admin: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let (reason, _) = reason(&body, false)?;
    ask(&app, admin, &id, Command::Cancel { reason }).await
}

/// Stops the service and keeps everything.
#[utoipa::path(post, path = "/api/requests/{id}/suspend", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = Reason, responses((status = 202, body = Request)))]
pub(crate) async fn suspend(
    admin: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let (reason, _) = reason(&body, false)?;
    ask(&app, admin, &id, Command::Suspend { reason }).await
}

/// Starts the service again.
#[utoipa::path(post, path = "/api/requests/{id}/reactivate", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = Reason, responses((status = 202, body = Request)))]
pub(crate) async fn reactivate(
    admin: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let (reason, _) = reason(&body, false)?;
    ask(&app, admin, &id, Command::Reactivate { reason }).await
}

/// Releases the service. What others wait for needs `force`.
#[utoipa::path(post, path = "/api/requests/{id}/deprovision", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = Reason, responses((status = 202, body = Request)))]
pub(crate) async fn deprovision(
    admin: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let (reason, force) = reason(&body, true)?;
    ask(&app, admin, &id, Command::Deprovision { reason, force }).await
}

/// Asks for the same again, after it was rolled back: 202 and the new request.
#[utoipa::path(post, path = "/api/requests/{id}/retry", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = RetryOrder, responses((status = 202, body = Request, headers(("Location" = String)))))]
pub(crate) async fn retry(
    admin: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(body): OptionalBody,
) -> Answer {
    let mut flaws = Flaws::default();
    let mut o = Object::new("", &body, &mut flaws);
    let order_id = o.text("order_id", 255, &mut flaws);
    o.text("reason", REASON_LIMIT, &mut flaws);
    o.finish(&mut flaws);
    let order_id = flaws.finish(order_id)?;
    let view = app.backend.retry(request_id(&id)?, order_id, admin.actor).await?;
    Ok(accepted(&app, &view))
}

/// Gives the access details of a managed service, or confirms that the vendor has suspended, restarted or ended it.
#[utoipa::path(post, path = "/api/requests/{id}/manual-input", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = request::ManualInput, responses((status = 202, body = Request)))]
pub(crate) async fn manual_input(admin: Admin, AppState(app): AppState<App>, Path(id): Path<String>, Body(body): Body) -> Answer {
    let seal = app.backend.seal();
    // H17: a confirmation needs no details; access details need some.
    let is_asked = load_request(&app, &id).await?.run.confirmation.is_some();
    let input = check_input(&body, is_asked, seal.as_ref())?;
    ask(&app, admin, &id, Command::ManualInput(input)).await
}

fn check_input(body: &Value, confirms: bool, seal: &dyn Seal) -> Result<ManualInput, Problem> {
    let mut flaws = Flaws::default();
    let f = &mut flaws;
    let mut o = Object::new("", body, f);
    if !confirms {
        o.required("endpoints", f);
    }
    let endpoints = o.list("endpoints", 50, f, Endpoint::check);
    let credentials = o.raw("credentials");
    if credentials.is_some_and(|c| !c.is_object()) {
        // Why no value: it may be a secret in the wrong place.
        f.add("/credentials", "type", &Value::Null, "must be an object");
    }
    if !confirms && endpoints.is_empty() && credentials.is_none() && body.get("endpoints").is_some_and(Value::is_array) {
        f.add("/endpoints", "min", &Value::Null, "at least one endpoint, or credentials");
    }
    o.finish(f);
    let credentials = credentials.map(|c| seal.seal(&c.to_string()));
    flaws.finish(ManualInput { endpoints, credentials }).map_err(Problem::invalid)
}

/// Closes clean-up that is owed without proof (H8).
#[utoipa::path(post, path = "/api/requests/{id}/write-off", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    request_body = WriteOff, responses((status = 202, body = Request)))]
pub(crate) async fn write_off(admin: Admin, AppState(app): AppState<App>, Path(id): Path<String>, Body(body): Body) -> Answer {
    let mut flaws = Flaws::default();
    let f = &mut flaws;
    let mut o = Object::new("", &body, f);
    o.required("resources", f);
    let resources = o.list("resources", LIST_LIMIT, f, resource);
    if resources.is_empty() && body.get("resources").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        f.add("/resources", "min", &Value::Null, "at least one");
    }
    let reason = o.required_text("reason", REASON_LIMIT, f).unwrap_or_default();
    o.finish(f);
    let command = flaws.finish(Command::WriteOff { resources, reason })?;
    ask(&app, admin, &id, command).await
}

fn resource(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<ResourceId> {
    let text = text_of(pointer, value, 63, flaws)?;
    let id = text.parse().ok();
    if id.is_none() {
        flaws.add(pointer, "format", value, "must be the id of a resource: res_…");
    }
    id
}

/// Probes the service now.
#[utoipa::path(post, path = "/api/requests/{id}/check-status", tag = "requests", params(("id" = String, Path, description = "`req_…`")),
    responses((status = 200, body = CheckStatus)))]
pub(crate) async fn check_status(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    OptionalBody(_body): OptionalBody,
) -> Answer {
    check_status_of(&app, &id).await
}

pub(super) async fn check_status_of(app: &App, id: &str) -> Answer {
    let checks = app.backend.check_status(request_id(id)?).await?;
    Ok(shown_checks(checks))
}

fn shown_checks(checks: Vec<provisor_provider::Check>) -> Response {
    let checks: Vec<Check> = checks.into_iter().map(check).collect();
    Json(CheckStatus { ok: checks.iter().all(|c| c.ok), checks }).into_response()
}

pub(super) fn check(check: provisor_provider::Check) -> Check {
    Check { name: check.name, ok: check.ok, latency_ms: check.latency_ms, error: check.error }
}
