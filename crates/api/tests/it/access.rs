//! Who gets in where, and what the router itself refuses.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::world::{READER, TOKEN, World};

const GOLDEN: &str = include_str!("../golden/routes.txt");
const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

/// Every route of the document with the role that it needs: `GET /api/requests platform_admin`.
fn routes() -> Vec<(String, String, bool)> {
    let document: Value = serde_json::from_str(&provisor_api::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let Some(operation) = item.get(method) else { continue };
            let open = operation.get("security").is_some_and(|s| s.as_array().unwrap().iter().all(|r| r == &json!({})));
            all.push((method.to_uppercase(), path.clone(), open));
        }
    }
    all.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    all
}

fn role(open: bool) -> &'static str {
    if open { "open" } else { "platform_admin" }
}

#[test]
fn the_list_of_routes_and_roles_is_as_agreed() {
    let lines: Vec<String> = routes().iter().map(|(m, p, open)| format!("{m} {p} {}", role(*open))).collect();
    let lines = lines.join("\n") + "\n";
    assert_eq!(lines, GOLDEN, "put this into tests/golden/routes.txt if it is meant:\n{lines}");
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let world = World::new().await;
    for (method, path, open) in routes() {
        let path = path.replace("{code}", "not_found").replace("{id}", "x").replace("{cluster}", "x");
        let with = |token: Option<&str>| {
            let request = Request::builder().method(method.as_str()).uri(&path);
            let request = if let Some(t) = token { request.header("authorization", format!("Bearer {t}")) } else { request };
            request.body(Body::from("{}")).unwrap()
        };
        if open {
            assert_eq!(world.send(with(None)).await.status, StatusCode::OK, "{method} {path}");
            continue;
        }
        let refused = world.send(with(None)).await;
        refused.problem("unauthenticated");
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        world.send(with(Some("pvr_wrong"))).await.problem("unauthenticated");
        world.send(with(Some(READER))).await.problem("forbidden");
        if !path.ends_with("/stream") {
            let status = world.send(with(Some(TOKEN))).await.status;
            assert!(status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn other_schemes_are_refused() {
    let world = World::empty().await;
    for value in ["Basic abc", "Bearer", "Bearer  ", "pvr_test_administrator"] {
        let request = Request::get("/api/requests").header("authorization", value).body(Body::empty()).unwrap();
        world.send(request).await.problem("unauthenticated");
    }
    let lower = Request::get("/api/requests").header("authorization", format!("bearer {TOKEN}")).body(Body::empty()).unwrap();
    assert_eq!(world.send(lower).await.status, StatusCode::OK);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::empty().await;
    let missing = world.get("/api/rules").await;
    assert_eq!(missing.problem("not_found")["instance"], "/api/rules");
    let wrong = world.call("PUT", "/api/requests", None, &[]).await;
    wrong.problem("method_not_allowed");
    assert!(wrong.headers["allow"].to_str().unwrap().contains("POST"));
    world.get("/api/requests/%ff").await.problem("malformed_body");
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let world = World::empty().await;
    let given = world.call("GET", "/nowhere", None, &[("x-request-id", "abc-1")]).await;
    assert_eq!(given.headers["x-request-id"], "abc-1");
    assert_eq!(given.json()["request_id"], "abc-1");
    let made = world.call("GET", "/health/live", None, &[("x-request-id", "with space")]).await;
    assert_eq!(made.headers["x-request-id"].len(), 16);
}

#[tokio::test]
async fn every_code_has_its_page() {
    let world = World::empty().await;
    for code in provisor_core::error_code::all() {
        let page = world.get(&format!("/errors/{}", code.code)).await;
        assert_eq!(page.status, StatusCode::OK, "{}", code.code);
        assert!(page.text.contains(code.code) && page.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    }
    world.get("/errors/no_such_code").await.problem("not_found");
}

#[tokio::test]
async fn health_and_figures_answer() {
    let world = World::new().await;
    world.admit("a").await;
    assert_eq!(world.get("/health/live").await.json()["status"], "ok");
    assert_eq!(world.get("/health/ready").await.json()["status"], "ok");
    let page = world.get("/metrics").await;
    assert!(page.text.contains("provisor_requests{state=\"queued\",kind=\"vps\"} 1"), "{}", page.text);
    assert!(page.text.contains("provisor_cluster_health{cluster=\"one\",state=\"online\"} 1"), "{}", page.text);
    world.close.send(true).unwrap();
    world.get("/health/ready").await.problem("unavailable");
}

#[tokio::test]
async fn the_document_names_its_schemas() {
    let world = World::empty().await;
    let document = world.get("/api/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is named but not there");
    }
}

#[tokio::test]
async fn the_simulated_cloud_is_shown() {
    let world = World::empty().await;
    assert_eq!(world.get("/sim/sim/inventory?live=true").await.json(), json!({"cluster": "sim", "live": true}));
    world.get("/sim/other/inventory").await.problem("not_found");
}
