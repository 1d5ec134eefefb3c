//! The routes, by what they are about. A handler's attribute is its line of the OpenAPI document.

pub(crate) mod clusters;
pub(crate) mod commands;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod open;
pub(crate) mod requests;
pub(crate) mod system;
pub(crate) mod tenants;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use provisor_core::{RequestId, TenantId};
use provisor_store::ops::requests::{GetRequest, RequestView};
use provisor_store::ops::tenants::{GetTenant, TenantView};
use serde::Serialize;

use crate::App;
use crate::problem::Problem;
use crate::show;

/// What a handler answers.
pub(crate) type Answer = Result<Response, Problem>;

/// A JSON answer with its version.
fn with_etag<T: Serialize>(status: StatusCode, body: T, etag: &str) -> Response {
    let mut response = (status, Json(body)).into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// The same, with the place of what was made.
fn at_location(mut response: Response, location: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// 202 and the request.
fn accepted(app: &App, view: &RequestView) -> Response {
    let shown = show::request::request(view, app.store().now());
    let (etag, location) = (shown.etag.clone(), format!("/api/requests/{}", shown.id));
    at_location(with_etag(StatusCode::ACCEPTED, shown, &etag), &location)
}

/// The id in a path; what is no id names nothing.
fn request_id(text: &str) -> Result<RequestId, Problem> {
    text.parse().map_err(|_| Problem::not_found("request"))
}

async fn load_request(app: &App, text: &str) -> Result<RequestView, Problem> {
    let id = request_id(text)?;
    let found = app.store().run(GetRequest { id, scope: None }).await?;
    found.ok_or_else(|| Problem::not_found("request"))
}

async fn load_tenant(app: &App, key: &str) -> Result<TenantView, Problem> {
    let found = app.store().run(GetTenant { key: key.to_owned() }).await?;
    found.ok_or_else(|| Problem::not_found("tenant"))
}

/// Whose things a filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OfTenant {
    /// Everybody's.
    All,
    /// One tenant's.
    One(TenantId),
    /// Of a tenant that is not there: nothing.
    Nobody,
}

impl OfTenant {
    async fn find(app: &App, key: Option<String>) -> Result<Self, Problem> {
        let Some(key) = key else { return Ok(Self::All) };
        let found = app.store().run(GetTenant { key }).await?;
        Ok(found.map_or(Self::Nobody, |t| Self::One(t.id)))
    }

    fn id(self) -> Option<TenantId> {
        if let Self::One(id) = self { Some(id) } else { None }
    }
}
