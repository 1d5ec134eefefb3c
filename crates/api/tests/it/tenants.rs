//! Tenants and their quota.

use axum::http::StatusCode;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_tenant_lives() {
    let world = World::empty().await;
    let body = json!({"name": "acme", "quota": {"cpu": 200, "requests": {"vps": 50}}, "subjects": ["group:acme-devs"]});
    let made = world.post("/api/tenants", &body).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let tenant = made.json();
    assert_eq!(made.headers["location"].to_str().unwrap(), format!("/api/tenants/{}", tenant["id"].as_str().unwrap()));
    assert_eq!(
        (&tenant["max_concurrent"], &tenant["quota"]["cpu"], &tenant["quota"]["storage_gb"]),
        (&json!(5), &json!(200), &json!(null))
    );
    for key in ["acme", tenant["id"].as_str().unwrap()] {
        assert_eq!(world.get(&format!("/api/tenants/{key}")).await.json(), tenant);
    }
    world.post("/api/tenants", &body).await.problem("name_taken");
    let deleted = world.call("DELETE", "/api/tenants/acme", None, &[]).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (StatusCode::NO_CONTENT, ""));
    world.get("/api/tenants/acme").await.problem("not_found");
}

#[tokio::test]
async fn a_patch_merges_and_h25_honours_if_match() {
    let world = World::new().await;
    let before = world.get("/api/tenants/acme").await;
    let etag = before.headers["etag"].to_str().unwrap().to_owned();
    let patch = json!({"quota": {"cpu": null, "memory_gb": 8}, "max_concurrent": 2});
    let after = world.call("PATCH", "/api/tenants/acme", Some(&patch), &[("if-match", &etag)]).await;
    assert_eq!(after.status, StatusCode::OK, "{}", after.text);
    let shown = after.json();
    assert_eq!(
        (&shown["quota"]["cpu"], &shown["quota"]["memory_gb"], &shown["quota"]["requests"]["vps"]),
        (&json!(null), &json!(8), &json!(40))
    );
    let stale =
        world.call("PATCH", "/api/tenants/acme", Some(&patch), &[("if-match", &etag)]).await.problem("precondition_failed");
    assert_eq!(stale["etag"], shown["etag"]);
    world.call("PATCH", "/api/tenants/acme", Some(&patch), &[("if-match", "\"abc\"")]).await.problem("precondition_failed");
    for condition in [vec![], vec![("if-match", "*")]] {
        assert_eq!(world.call("PATCH", "/api/tenants/acme", Some(&patch), &condition).await.status, StatusCode::OK);
    }
    let cases = [
        (json!({"quota": {"cpus": 1}}), "/quota/cpus", "unknown_key"),
        (json!({"name": "other"}), "/name", "enum"),
        (json!({"max_concurrent": 0}), "/max_concurrent", "min"),
        (json!([]), "", "type"),
    ];
    for (patch, pointer, rule) in cases {
        let faults = world.call("PATCH", "/api/tenants/acme", Some(&patch), &[]).await.faults();
        assert_eq!(faults, [(pointer.to_owned(), rule.to_owned())], "{patch}");
    }
    world.call("PATCH", "/api/tenants/nobody", Some(&json!({})), &[]).await.problem("not_found");
}

#[tokio::test]
async fn h26_a_tenant_in_use_stays() {
    let world = World::new().await;
    world.admit("db").await;
    let refused = world.call("DELETE", "/api/tenants/acme", None, &[]).await.problem("in_use");
    assert_eq!(refused["counts"], json!({"requests": 1}));
}

#[tokio::test]
async fn a_quota_shows_what_is_used() {
    let world = World::new().await;
    world.admit("db").await;
    let quota = world.get("/api/tenants/acme/quota").await.json();
    let dimensions = quota["dimensions"].as_array().unwrap();
    assert_eq!(dimensions[0], json!({"name": "cpu", "limit": 100, "used": 2}));
    assert!(dimensions.contains(&json!({"name": "requests.vps", "limit": 40, "used": 1})));
    assert!(dimensions.contains(&json!({"name": "storage_gb", "limit": null, "used": 40})));
    world.get("/api/tenants/nobody/quota").await.problem("not_found");
}

#[tokio::test]
async fn tenants_come_in_pages() {
    let world = World::empty().await;
    for name in ["a", "b", "c"] {
        world.post("/api/tenants", &json!({"name": name})).await;
    }
    let first = world.get("/api/tenants?limit=2").await.json();
    assert_eq!((first["items"].as_array().unwrap().len(), &first["next_cursor"]), (2, &json!("b")));
    let last = world.get("/api/tenants?limit=2&cursor=b").await.json();
    assert_eq!((&last["items"][0]["name"], &last["next_cursor"]), (&json!("c"), &json!(null)));
    assert_eq!(world.get("/api/tenants?limit=500").await.json()["next_cursor"], json!(null));
}
