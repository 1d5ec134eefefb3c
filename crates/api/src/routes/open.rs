//! What is open to everybody: health, the pages of the error codes, the OpenAPI document.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::header;
use axum::response::{Html, IntoResponse};
use provisor_core::error_code;
use provisor_store::ops::log::Head;
use provisor_wire::ServiceStatus;

use super::Answer;
use crate::App;
use crate::problem::Problem;

fn fine() -> ServiceStatus {
    ServiceStatus { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// The process answers.
#[utoipa::path(get, path = "/health/live", tag = "system", security(()), responses((status = 200, body = ServiceStatus)))]
pub(crate) async fn live() -> Answer {
    Ok(Json(fine()).into_response())
}

/// It can serve: the store answers. Otherwise 503.
#[utoipa::path(get, path = "/health/ready", tag = "system", security(()), responses((status = 200, body = ServiceStatus)))]
pub(crate) async fn ready(AppState(app): AppState<App>) -> Answer {
    if *app.closing.borrow() {
        return Err(Problem::new("unavailable", "It is shutting down."));
    }
    app.store().run(Head).await?;
    Ok(Json(fine()).into_response())
}

/// The page of an error code, which every problem document's `type` names.
#[utoipa::path(get, path = "/errors/{code}", tag = "system", security(()), params(("code" = String, Path, description = "A code.")),
    responses((status = 200, content_type = "text/html", body = String)))]
pub(crate) async fn error_page(Path(code): Path<String>) -> Answer {
    let code = error_code::find(&code).ok_or_else(|| Problem::not_found("error code"))?;
    let status =
        code.status.map_or_else(|| "It stands in a request's <code>error</code>.".to_owned(), |s| format!("HTTP status {s}."));
    let again = if code.retriable { "The same may succeed later." } else { "The same will not succeed without a change." };
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title} – Provisor</title></head>\n<body>\n\
         <h1>{title}</h1>\n<p><code>{code}</code> · {status} {again}</p>\n<h2>What happened</h2>\n<p>{happened}</p>\n\
         <h2>What to do</h2>\n<p>{remedy}</p>\n</body>\n</html>\n",
        title = escape(code.title),
        code = code.code,
        happened = escape(code.happened),
        remedy = escape(code.remedy),
    );
    Ok(Html(page).into_response())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// This document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "system", security(()), responses((status = 200, content_type = "application/json", body = Object)))]
pub(crate) async fn openapi_json() -> Answer {
    Ok(([(header::CONTENT_TYPE, "application/json")], crate::router::openapi()).into_response())
}
