//! Tenants and their quota.

use axum::Json;
use axum::extract::{Path, State as AppState};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use provisor_core::TenantId;
use provisor_core::tenant::TenantSpec;
use provisor_store::OpError;
use provisor_store::ops::quota::QuotaOf;
use provisor_store::ops::tenants::{CreateTenant, DeleteTenant, ListTenants, TenantView, UpdateTenant};
use provisor_wire::parts::Page;
use provisor_wire::tenant::{NewTenant, Quota, Tenant};
use serde_json::json;

use super::{Answer, at_location, load_tenant, with_etag};
use crate::App;
use crate::auth::Admin;
use crate::chance::System;
use crate::input::{Body, Params, if_match, merge};
use crate::problem::Problem;
use crate::show;

/// How often an edit without `If-Match` is made anew when another comes between.
const TRIES: u32 = 5;

fn answer(status: StatusCode, view: &TenantView) -> axum::response::Response {
    let shown = show::tenant::tenant(view);
    let etag = shown.etag.clone();
    with_etag(status, shown, &etag)
}

/// Tenants in order of their names.
#[utoipa::path(get, path = "/api/tenants", tag = "tenants",
    params(("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."), ("limit" = Option<u32>, Query, description = "Entries of a page: 50, at most 500.")),
    responses((status = 200, body = Page<Tenant>)))]
pub(crate) async fn list(_: Admin, AppState(app): AppState<App>, mut params: Params) -> Answer {
    let after = params.text("cursor");
    let limit = params.limit();
    params.finish()?;
    // One more than asked for, to see whether there is a next page.
    let mut views = app.store().run(ListTenants { after: after.clone(), limit: limit.saturating_add(1), scope: None }).await?;
    let shown = usize::try_from(limit).unwrap_or(1);
    let mut more = views.len() > shown;
    views.truncate(shown);
    if let (false, Some(last), true) = (more, views.last(), limit >= provisor_store::ops::tenants::PAGE_LIMIT) {
        // The store gives at most that many at once.
        let rest = ListTenants { after: Some(last.spec.name.clone()), limit: 1, scope: None };
        more = !app.store().run(rest).await?.is_empty();
    }
    let next_cursor = views.last().filter(|_| more).map(|v| v.spec.name.clone());
    Ok(Json(Page { items: views.iter().map(show::tenant::tenant).collect(), next_cursor }).into_response())
}

/// Makes a tenant.
#[utoipa::path(post, path = "/api/tenants", tag = "tenants", request_body = NewTenant,
    responses((status = 201, body = Tenant, headers(("Location" = String), ("ETag" = String)))))]
pub(crate) async fn create(_: Admin, AppState(app): AppState<App>, Body(body): Body) -> Answer {
    let spec = TenantSpec::check("", &body)?;
    let id = TenantId::new(app.store().now(), &mut System);
    let view = app.store().run(CreateTenant { id, spec }).await?;
    Ok(at_location(answer(StatusCode::CREATED, &view), &format!("/api/tenants/{}", view.id)))
}

/// One tenant by id or name.
#[utoipa::path(get, path = "/api/tenants/{id}", tag = "tenants", params(("id" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Tenant, headers(("ETag" = String)))))]
pub(crate) async fn get(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    Ok(answer(StatusCode::OK, &load_tenant(&app, &id).await?))
}

/// Changes a tenant by a merge patch (RFC 7396). A lowered limit takes nothing away.
#[utoipa::path(patch, path = "/api/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "Id or name."), ("If-Match" = Option<String>, Header, description = "Only if this is still its etag.")),
    request_body(content = Object, content_type = "application/merge-patch+json"), responses((status = 200, body = Tenant, headers(("ETag" = String)))))]
pub(crate) async fn patch(
    _: Admin,
    AppState(app): AppState<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    Body(patch): Body,
) -> Answer {
    let condition = if_match(&headers);
    if !patch.is_object() {
        return Err(Problem::flaw("", "type", serde_json::Value::Null, "must be an object"));
    }
    for _ in 0..TRIES {
        let view = load_tenant(&app, &id).await?;
        let mut wanted = json!(view.spec);
        merge(&mut wanted, &patch);
        let spec = TenantSpec::check("", &wanted)?;
        let update = UpdateTenant { id: view.id, spec, if_match: Some(condition.unwrap_or(view.version)) };
        match app.store().run(update).await {
            // Another edit came between the reading and the writing: what was merged is out of date.
            Err(OpError::PreconditionFailed { .. }) if condition.is_none() => {}
            done => return Ok(answer(StatusCode::OK, &done?)),
        }
    }
    Err(OpError::Fenced.into())
}

/// Removes a tenant that has no live requests.
#[utoipa::path(delete, path = "/api/tenants/{id}", tag = "tenants",
    params(("id" = String, Path, description = "Id or name."), ("If-Match" = Option<String>, Header, description = "Only if this is still its etag.")),
    responses((status = 204)))]
pub(crate) async fn delete(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let view = load_tenant(&app, &id).await?;
    app.store().run(DeleteTenant { id: view.id, if_match: if_match(&headers) }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Its limits and what is in use.
#[utoipa::path(get, path = "/api/tenants/{id}/quota", tag = "tenants", params(("id" = String, Path, description = "Id or name.")),
    responses((status = 200, body = Quota)))]
pub(crate) async fn quota(_: Admin, AppState(app): AppState<App>, Path(id): Path<String>) -> Answer {
    let dimensions = app.store().run(QuotaOf { tenant: id }).await?;
    Ok(Json(show::tenant::quota(dimensions)).into_response())
}
