//! All routes, once: the router and the OpenAPI document are made from the same list.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use provisor_wire::Problem as WireProblem;
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::input::BODY_LIMIT_BYTES;
use crate::problem::MEDIA_TYPE;
use crate::routes::{clusters, commands, environments, events, open, requests, system, tenants};
use crate::{App, outer};

/// What the document says besides its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Provisor",
        description = "An automated provisioning control plane.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(WireProblem))
)]
struct Document;

fn collected() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(requests::list, requests::create))
        .routes(routes!(requests::create_batch))
        .routes(routes!(requests::get))
        .routes(routes!(requests::timeline))
        .routes(routes!(requests::attempts))
        .routes(routes!(requests::resources))
        .routes(routes!(requests::metrics))
        .routes(routes!(requests::events))
        .routes(routes!(commands::cancel))
        .routes(routes!(commands::suspend))
        .routes(routes!(commands::reactivate))
        .routes(routes!(commands::deprovision))
        .routes(routes!(commands::retry))
        .routes(routes!(commands::manual_input))
        .routes(routes!(commands::write_off))
        .routes(routes!(commands::check_status))
        .routes(routes!(environments::list))
        .routes(routes!(environments::get))
        .routes(routes!(environments::timeline))
        .routes(routes!(environments::attempts))
        .routes(routes!(environments::resources))
        .routes(routes!(environments::metrics))
        .routes(routes!(environments::events))
        .routes(routes!(environments::check_status))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::get, tenants::patch, tenants::delete))
        .routes(routes!(tenants::quota))
        .routes(routes!(clusters::list, clusters::create))
        .routes(routes!(clusters::get, clusters::patch, clusters::delete))
        .routes(routes!(clusters::test))
        .routes(routes!(clusters::inventory))
        .routes(routes!(clusters::sweep))
        .routes(routes!(events::feed))
        .routes(routes!(events::stream))
        .routes(routes!(system::metrics))
        .routes(routes!(system::sim_inventory))
        .routes(routes!(open::live))
        .routes(routes!(open::ready))
        .routes(routes!(open::error_page))
        .routes(routes!(open::openapi_json))
}

/// The service.
pub fn router(app: App) -> Router {
    let (router, _) = collected().split_for_parts();
    router.with_state(app).layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES)).layer(axum::middleware::from_fn(outer::finish))
}

static DOCUMENT: LazyLock<String> = LazyLock::new(document);

/// The OpenAPI 3.1 document of all routes.
pub fn openapi() -> String {
    DOCUMENT.clone()
}

fn document() -> String {
    let (_, mut api) = collected().split_for_parts();
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    if let Some(components) = api.components.as_mut() {
        components.add_security_scheme("token", scheme);
    }
    api.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    for item in api.paths.paths.values_mut() {
        let all = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
        all.into_iter().flatten().for_each(add_problem);
    }
    // Why this fallback: a document without its routes is seen at once by the test that compares it.
    api.to_pretty_json().unwrap_or_default() + "\n"
}

/// Every route may answer a problem document.
fn add_problem(operation: &mut Operation) {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    let problem = ResponseBuilder::new().description("A problem document.").content(MEDIA_TYPE, content).build();
    operation.responses.responses.insert("default".to_owned(), problem.into());
}
