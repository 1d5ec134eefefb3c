//! Clusters.

use axum::http::StatusCode;
use serde_json::json;

use crate::world::World;

#[tokio::test]
async fn a_cluster_is_shown_without_its_credentials() {
    let world = World::new().await;
    let shown = world.get("/api/clusters/one").await;
    assert!(!shown.text.contains("hunter2") && !shown.text.contains("credentials"), "{}", shown.text);
    let cluster = shown.json();
    assert_eq!(
        (&cluster["provider"], &cluster["simulates"], &cluster["provisioning_enabled"]),
        (&json!("openstack"), &json!(null), &json!(true))
    );
    assert_eq!(cluster["capacity"]["cpu"], json!({"limit": null, "reserved": 0, "used": 0}));
    assert_eq!((&cluster["health"]["state"], &cluster["breaker"]["state"]), (&json!("online"), &json!("closed")));
    assert_eq!(world.get("/api/clusters").await.json()["items"], json!([cluster]));
    assert_eq!(world.get("/api/clusters?cursor=99").await.json()["items"], json!([]));
}

#[tokio::test]
async fn core_and_connector_both_check() {
    let world = World::new().await;
    let faults = world
        .post("/api/clusters", &json!({"name": "two", "provider": "openstack", "region": "eu", "endpoint": {"nope": 1}}))
        .await
        .faults();
    assert_eq!(faults, [("/endpoint/nope".into(), "unknown_key".into())]);
    let faults = world.post("/api/clusters", &json!({"name": "two", "provider": "azure", "regions": "eu"})).await.faults();
    for (pointer, rule) in [("/provider", "enum"), ("/region", "required"), ("/regions", "unknown_key")] {
        assert!(faults.contains(&(pointer.into(), rule.into())), "{faults:?}");
    }
    let faults = world.post("/api/clusters", &json!({"name": "two", "provider": "proxmox", "region": "eu"})).await.faults();
    assert_eq!(faults, [("/provider".into(), "enum".into())]);
    world.post("/api/clusters", &json!({"name": "one", "provider": "openstack", "region": "eu"})).await.problem("name_taken");
}

#[tokio::test]
async fn a_patch_keeps_what_it_does_not_name() {
    let world = World::new().await;
    let etag = world.get("/api/clusters/one").await.headers["etag"].to_str().unwrap().to_owned();
    let patch = json!({"capacity": {"cpu": 64}, "default": true, "settings": {"retry": {"initial_seconds": 0.5}}});
    let after = world.call("PATCH", "/api/clusters/one", Some(&patch), &[("if-match", &etag)]).await;
    assert_eq!(after.status, StatusCode::OK, "{}", after.text);
    let shown = after.json();
    assert_eq!((&shown["capacity"]["cpu"]["limit"], &shown["default"]), (&json!(64), &json!(true)));
    assert_eq!(shown["endpoint"]["auth_url"], "http://127.0.0.1:1");
    assert_eq!(shown["settings"]["retry"]["initial_seconds"], 0.5);
    world.call("PATCH", "/api/clusters/one", Some(&patch), &[("if-match", &etag)]).await.problem("precondition_failed");
    let cleared = world
        .call("PATCH", "/api/clusters/one", Some(&json!({"settings": {"retry": null}, "credentials": {"password": "new"}})), &[])
        .await;
    assert_eq!((cleared.status, &cleared.json()["settings"]), (StatusCode::OK, &json!({})));
    let faults =
        world.call("PATCH", "/api/clusters/one", Some(&json!({"settings": {"retry": {"max_retries": 1}}})), &[]).await.faults();
    assert_eq!(faults, [("/settings/retry/max_retries".into(), "min".into())]);
}

#[tokio::test]
async fn tests_and_inventories_answer() {
    let world = World::new().await;
    let report = world.post("/api/clusters/one/test", &json!({})).await.json();
    assert_eq!(report["ok"], false);
    assert_eq!(report["checks"], json!([{"name": "login", "ok": false, "latency_ms": 3, "error": "no"}]));
    let away = world.get("/api/clusters/one/inventory").await.problem("unavailable");
    assert_eq!(away["error"]["code"], "unreachable");
    world.post("/api/clusters/one/sweep?dry_run=true", &json!({})).await.problem("unavailable");
    world.post("/api/clusters/one/sweep?release=srv-1", &json!({})).await.problem("unavailable");
    let both = world.post("/api/clusters/one/sweep?release=srv-1&dry_run=true", &json!({})).await;
    assert_eq!(both.faults(), [("?release".into(), "exclusive".into())]);
    let empty = world.post("/api/clusters/one/sweep?release=", &json!({})).await;
    assert_eq!(empty.faults(), [("?release".into(), "required".into())], "it is no sweep of everything");
    for (method, path) in [("POST", "test"), ("GET", "inventory"), ("POST", "sweep"), ("POST", "sweep?release=x")] {
        world.call(method, &format!("/api/clusters/none/{path}"), None, &[]).await.problem("not_found");
    }
}

#[tokio::test]
async fn a_cluster_is_removed() {
    let world = World::new().await;
    assert_eq!(world.call("DELETE", "/api/clusters/one", None, &[]).await.status, StatusCode::NO_CONTENT);
    world.get("/api/clusters/one").await.problem("not_found");
}
