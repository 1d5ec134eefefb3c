//! Asking, looking, commanding.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};

use crate::world::{TOKEN, World, vps};

#[tokio::test]
async fn a_request_is_admitted_and_shown() {
    let world = World::new().await;
    let made = world.post("/api/requests", &vps("db")).await;
    assert_eq!(made.status, StatusCode::ACCEPTED);
    let request = made.json();
    let id = request["id"].as_str().unwrap();
    assert_eq!(made.headers["location"].to_str().unwrap(), format!("/api/requests/{id}"));
    assert_eq!(made.headers["etag"].to_str().unwrap(), format!("\"{}\"", request["etag"].as_str().unwrap()));
    let expected = [
        "id",
        "name",
        "tenant",
        "kind",
        "state",
        "outcome",
        "waiting_for",
        "spec",
        "region",
        "order_id",
        "depends_on",
        "strategy",
        "steps",
        "attempts",
        "winner",
        "endpoints",
        "wanted",
        "action",
        "health",
        "created_at",
        "provisioning_started_at",
        "ready_at",
        "termination_started_at",
        "terminated_at",
        "cleanup_owed",
        "retry_of",
        "retried_as",
        "error",
        "etag",
    ];
    for key in expected {
        assert!(request.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(
        (&request["state"], &request["strategy"], &request["tenant"]),
        (&json!("queued"), &json!("failover"), &json!("acme"))
    );
    assert_eq!(request["steps"].as_array().unwrap().len(), 4);
    assert_eq!(world.get(&format!("/api/requests/{id}")).await.json(), request);
    for (path, empty) in [("attempts", true), ("resources", true)] {
        let list = world.get(&format!("/api/requests/{id}/{path}")).await.json();
        assert_eq!(list["items"].as_array().unwrap().is_empty(), empty);
    }
}

#[tokio::test]
async fn a_shown_specification_can_be_sent_again() {
    let world = World::new().await;
    let mut spec = vps("db");
    spec["probes"] = json!({"http": {"port": 8080, "path": "/up", "expect": "200-204"}});
    spec["ports"] = json!([22, 8080]);
    spec["labels"] = json!({"env": "prod"});
    let first = world.post("/api/requests", &spec).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let first = first.json();
    let mut again = first["spec"].clone();
    again["name"] = json!("db2");
    let second = world.post("/api/requests", &again).await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.text);
    assert_eq!(second.json()["spec"], again);
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let world = World::new().await;
    let mut spec = vps("db");
    spec["user_data"] = json!("#cloud-config\npassword: hunter3");
    let made = world.post("/api/requests", &spec).await;
    assert!(!made.text.contains("hunter3"));
    let shown = &made.json()["spec"]["user_data"];
    assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["fingerprint"]);
}

#[tokio::test]
async fn all_faults_come_at_once_with_their_pointers() {
    let world = World::new().await;
    let single =
        world.post("/api/requests", &json!({"name": "X y", "tenant": "acme", "kind": "vps", "sizes": 1, "region": "eu"})).await;
    assert_eq!(single.status, StatusCode::UNPROCESSABLE_ENTITY);
    let faults = single.faults();
    for (pointer, rule) in [("/name", "format"), ("/sizes", "unknown_key"), ("/size", "required"), ("/image", "required")] {
        assert!(faults.contains(&(pointer.into(), rule.into())), "{pointer}: {faults:?}");
    }
    let mut bad = vps("b");
    bad["size"]["cpu"] = json!(0);
    let batch = world.post("/api/requests/batch", &json!({"requests": [vps("a"), bad, 5]})).await;
    assert_eq!(batch.faults(), [("/requests/1/size/cpu".into(), "min".into()), ("/requests/2".into(), "type".into())]);
    assert!(world.get("/api/requests").await.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn bodies_that_are_no_batch_are_refused() {
    let world = World::new().await;
    let cases = [
        (json!({}), "/requests", "required"),
        (json!({"requests": []}), "/requests", "min"),
        (json!({"requests": 5}), "/requests", "type"),
        (json!({"requests": [vps("a")], "more": 1}), "/more", "unknown_key"),
        (json!([]), "", "type"),
    ];
    for (body, pointer, rule) in cases {
        let faults = world.post("/api/requests/batch", &body).await.faults();
        assert_eq!(faults, [(pointer.to_owned(), rule.to_owned())], "{body}");
    }
    let many: Vec<Value> = (0..1001).map(|_| json!({})).collect();
    world.post("/api/requests/batch", &json!({"requests": many})).await.problem("too_large");
}

#[tokio::test]
async fn what_is_no_json_is_refused() {
    let world = World::new().await;
    for text in ["{", "", "name: db", "{} {}", "\u{0}"] {
        let request = Request::post("/api/requests").header("authorization", format!("Bearer {TOKEN}"));
        world.send(request.body(Body::from(text)).unwrap()).await.problem("malformed_body");
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let request = Request::post("/api/requests").header("authorization", format!("Bearer {TOKEN}"));
    world.send(request.body(Body::from(deep)).unwrap()).await.problem("malformed_body");
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let world = World::new().await;
    let request = Request::post("/api/requests").header("authorization", format!("Bearer {TOKEN}"));
    let body = Body::from(vec![b' '; provisor_api::BODY_LIMIT_BYTES + 1]);
    world.send(request.body(body).unwrap()).await.problem("too_large");
}

#[tokio::test]
async fn a_batch_is_all_or_none_in_input_order() {
    let world = World::new().await;
    let mut web = vps("web");
    web["depends_on"] = json!(["db"]);
    let made = world.post("/api/requests/batch", &json!({"requests": [web.clone(), vps("db")]})).await;
    assert_eq!(made.status, StatusCode::ACCEPTED, "{}", made.text);
    let items = made.json()["items"].clone();
    assert_eq!((&items[0]["name"], &items[1]["name"]), (&json!("web"), &json!("db")));
    assert_eq!(items[0]["depends_on"], json!([items[1]["id"]]));
    let taken = world.post("/api/requests/batch", &json!({"requests": [vps("other"), vps("db")]})).await.problem("name_taken");
    assert_eq!((&taken["holder"], &taken["errors"][0]["pointer"]), (&items[1]["id"], &json!("/requests/1/name")));
    let mut bad = vps("a");
    bad["size"]["cpu"] = json!(0);
    let twice = world.post("/api/requests/batch", &json!({"requests": [vps("a"), bad]})).await.faults();
    let both = [("/requests/1/size/cpu".into(), "min".into()), ("/requests/1/name".into(), "unique".into())];
    assert_eq!(twice, both, "all faults at once");
    assert_eq!(world.get("/api/requests?name=other").await.json()["items"], json!([]));
}

#[tokio::test]
async fn refusals_say_why() {
    let world = World::new().await;
    world.admit("db").await;
    let taken = world.post("/api/requests", &vps("db")).await.problem("name_taken");
    assert_eq!(taken["same_specification"], true);
    let mut other = vps("db");
    other["image"] = json!("debian-13");
    assert_eq!(world.post("/api/requests", &other).await.problem("name_taken")["same_specification"], false);
    let mut huge = vps("huge");
    huge["size"]["cpu"] = json!(99);
    let quota = world.post("/api/requests", &huge).await.problem("quota_exceeded");
    assert_eq!(quota["dimensions"], json!([{"name": "cpu", "limit": 100, "used": 2, "requested": 99}]));
    let mut away = vps("away");
    away["region"] = json!("mars");
    let none = world.post("/api/requests", &away).await.problem("no_cluster");
    assert_eq!(none["rejected"][0]["cluster"], "one");
    let mut stranger = vps("s");
    stranger["tenant"] = json!("nobody");
    assert_eq!(world.post("/api/requests", &stranger).await.faults(), [("/tenant".into(), "exists".into())]);
    let mut lost = vps("lost");
    lost["depends_on"] = json!(["nothing"]);
    let unknown = world.post("/api/requests", &lost).await.problem("dependency_unknown");
    assert_eq!(unknown["errors"][0]["pointer"], "/depends_on/0");
    let (mut a, mut b) = (vps("a"), vps("b"));
    (a["depends_on"], b["depends_on"]) = (json!(["b"]), json!(["a"]));
    let cycle = world.post("/api/requests/batch", &json!({"requests": [a, b]})).await.problem("dependency_cycle");
    assert!(cycle["cycle"].as_array().unwrap().len() >= 2);
}

#[tokio::test]
async fn h20_a_key_gets_the_same_answer_once() {
    let world = World::new().await;
    let key = [("idempotency-key", "k-1")];
    let first = world.call("POST", "/api/requests", Some(&vps("db")), &key).await;
    let again = world.call("POST", "/api/requests", Some(&vps("db")), &key).await;
    assert_eq!((again.status, &again.json()["id"]), (StatusCode::ACCEPTED, &first.json()["id"]));
    world.call("POST", "/api/requests", Some(&vps("web")), &key).await.problem("idempotency_mismatch");
    let long = "k".repeat(256);
    let refused = world.call("POST", "/api/requests", Some(&vps("web")), &[("idempotency-key", &long)]).await;
    assert_eq!(refused.faults(), [("Idempotency-Key".into(), "format".into())]);
}

#[tokio::test]
async fn a_dry_run_plans_and_stores_nothing() {
    let world = World::new().await;
    let plan = world.post("/api/requests?dry_run=true", &vps("db")).await;
    assert_eq!(plan.status, StatusCode::OK, "{}", plan.text);
    let plan = plan.json();
    assert_eq!((&plan["valid"], &plan["cluster"], &plan["order"]), (&json!(true), &json!("one"), &json!(["db"])));
    assert_eq!(plan["steps"][0], json!({"name": "allocate", "operations": ["create_server"]}));
    assert_eq!(plan["quota"][0], json!({"name": "cpu", "limit": 100, "used": 0, "requested": 2, "ok": true}));
    let mut bad = vps("db");
    bad["size"]["cpu"] = json!(0);
    let refused = world.post("/api/requests?dry_run=true", &bad).await;
    assert_eq!((refused.status, &refused.json()["valid"]), (StatusCode::OK, &json!(false)));
    assert_eq!(refused.json()["errors"][0]["pointer"], "/size/cpu");
    let batch = world.post("/api/requests/batch?dry_run=true", &json!({"requests": [vps("a"), bad]})).await.json();
    assert_eq!(batch["items"].as_array().unwrap().len(), 2);
    assert_eq!(batch["items"][1]["errors"][0]["pointer"], "/requests/1/size/cpu");
    let mut nowhere = vps("db");
    nowhere["region"] = json!("mars");
    let plan = world.post("/api/requests?dry_run=true", &nowhere).await;
    assert_eq!((plan.status, &plan.json()["valid"], &plan.json()["cluster"]), (StatusCode::OK, &json!(false), &Value::Null));
    assert_eq!(
        (&plan.json()["errors"][0]["pointer"], &plan.json()["rejected"][0]["cluster"]),
        (&json!("/region"), &json!("one"))
    );
    let batch = world.post("/api/requests/batch?dry_run=true", &json!({"requests": [vps("a"), nowhere]})).await.json();
    assert_eq!((&batch["items"][0]["errors"], &batch["items"][0]["rejected"]), (&json!([]), &json!([])));
    assert_eq!(batch["items"][1]["errors"][0]["pointer"], "/requests/1/region");
    assert_eq!(world.get("/api/requests").await.json()["items"], json!([]));
    let wrong = world.post("/api/requests?dry_run=yes", &vps("db")).await;
    assert_eq!(wrong.faults(), [("?dry_run".into(), "enum".into())]);
}

#[tokio::test]
async fn lists_come_in_pages_and_filtered() {
    let world = World::new().await;
    for i in 0..7 {
        world.admit(&format!("r{i}")).await;
    }
    let mut names = Vec::new();
    let mut path = "/api/requests?limit=3".to_owned();
    for _ in 0..10 {
        let page = world.get(&path).await.json();
        names.extend(page["items"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/requests?limit=3&cursor={cursor}"),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]);
    for (query, count) in [
        ("state=queued", 7),
        ("state=failed", 0),
        ("kind=managed", 0),
        ("tenant=acme&name=r1", 1),
        ("tenant=x", 0),
        ("label=a=b", 0),
    ] {
        let found = world.get(&format!("/api/requests?{query}")).await.json();
        assert_eq!(found["items"].as_array().unwrap().len(), count, "{query}");
    }
    let cases = [
        ("limit=0", "?limit", "min"),
        ("limit=501", "?limit", "max"),
        ("limit=x", "?limit", "type"),
        ("state=up", "?state", "enum"),
        ("cursor=abc", "?cursor", "format"),
        ("stat=queued", "?stat", "unknown_key"),
        ("label=x", "?label", "format"),
    ];
    for (query, pointer, rule) in cases {
        let faults = world.get(&format!("/api/requests?{query}")).await.faults();
        assert_eq!(faults, [(pointer.to_owned(), rule.to_owned())], "{query}");
    }
}

#[tokio::test]
async fn an_unknown_request_is_not_found() {
    let world = World::new().await;
    for id in ["req_00000000000000000000000000", "nonsense", "ten_00000000000000000000000000"] {
        for rest in ["", "/timeline", "/attempts", "/resources", "/events"] {
            world.get(&format!("/api/requests/{id}{rest}")).await.problem("not_found");
        }
        for command in ["cancel", "suspend", "reactivate", "deprovision", "retry", "check-status"] {
            world.post(&format!("/api/requests/{id}/{command}"), &json!({})).await.problem("not_found");
        }
    }
}

#[tokio::test]
async fn commands_go_by_state() {
    let world = World::new().await;
    let request = world.admit("db").await;
    let path = format!("/api/requests/{}", request["id"].as_str().unwrap());
    let refused = world.post(&format!("{path}/suspend"), &json!({})).await.problem("state_conflict");
    assert_eq!((&refused["state"], &refused["allowed"]), (&json!("queued"), &json!(["cancel"])));
    world.post(&format!("{path}/check-status"), &json!({})).await.problem("state_conflict");
    world.post(&format!("{path}/retry"), &json!({})).await.problem("state_conflict");
    let faults = world.post(&format!("{path}/cancel"), &json!({"raison": "x"})).await.faults();
    assert_eq!(faults, [("/raison".into(), "unknown_key".into())]);
    // Without a body, too.
    let cancelled = world.call("POST", &format!("{path}/cancel"), None, &[]).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED, "{}", cancelled.text);
    assert_eq!(cancelled.json()["outcome"], "cancelled");
    let again = world.post(&format!("{path}/cancel"), &json!({"reason": "twice"})).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    let retried = world.post(&format!("{path}/retry"), &json!({"order_id": "ord-2"})).await;
    assert_eq!(retried.status, StatusCode::ACCEPTED, "{}", retried.text);
    let retried = retried.json();
    assert_eq!((&retried["retry_of"], &retried["order_id"]), (&request["id"], &json!("ord-2")));
    assert_eq!(world.get(&path).await.json()["retried_as"], retried["id"]);
    let timeline = world.get(&format!("{path}/timeline?detail=operations")).await.json();
    let events: Vec<&str> = timeline["timeline"].as_array().unwrap().iter().map(|e| e["event"].as_str().unwrap()).collect();
    // The wait for its turn ends with it; all of it in one instant here.
    assert_eq!(events, ["created", "cancelled", "termination_started", "terminated", "wait"]);
    assert_eq!(timeline["environment_name"], "db");
    assert_eq!(timeline["summary"]["provisioning_duration_seconds"], Value::Null);
    assert_eq!(world.get(&format!("{path}/timeline?detail=all")).await.faults(), [("?detail".into(), "enum".into())]);
}

#[tokio::test]
async fn inputs_of_commands_are_checked() {
    let world = World::new().await;
    let request = world.admit("db").await;
    let path = format!("/api/requests/{}", request["id"].as_str().unwrap());
    let cases = [
        ("manual-input", json!({}), "/endpoints", "required"),
        ("manual-input", json!({"endpoints": []}), "/endpoints", "min"),
        ("manual-input", json!({"endpoints": [{"name": "a", "url": "no url"}]}), "/endpoints/0/url", "format"),
        ("manual-input", json!({"endpoints": [{"name": "a", "url": "https://x"}], "credentials": "x"}), "/credentials", "type"),
        ("write-off", json!({"resources": ["res_1"], "reason": "gone"}), "/resources/0", "format"),
        ("write-off", json!({"resources": [], "reason": "gone"}), "/resources", "min"),
        ("write-off", json!({"resources": ["res_00000000000000000000000000"]}), "/reason", "required"),
        ("retry", json!({"order_id": 5}), "/order_id", "type"),
        ("deprovision", json!({"force": "yes"}), "/force", "type"),
    ];
    for (command, body, pointer, rule) in cases {
        let faults = world.post(&format!("{path}/{command}"), &body).await.faults();
        assert_eq!(faults, [(pointer.to_owned(), rule.to_owned())], "{command} {body}");
    }
    let input = json!({"endpoints": [{"name": "a", "url": "https://x"}]});
    world.post(&format!("{path}/manual-input"), &input).await.problem("state_conflict");
}

#[tokio::test]
async fn environments_are_requests_of_that_kind() {
    let world = World::new().await;
    let request = world.admit("db").await;
    let id = request["id"].as_str().unwrap();
    assert_eq!(world.get("/api/environments").await.json()["items"], json!([]));
    world.get(&format!("/api/environments/{id}")).await.problem("not_found");
    assert_eq!(world.get(&format!("/api/environments/{id}/timeline")).await.json()["environment_id"], id);
}
