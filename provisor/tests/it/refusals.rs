//! What is refused, is refused with everything that a client needs to know, and leaves nothing behind.

use serde_json::{Value, json};

use crate::house::{Done, Folder, Server, command, vps, world};
use crate::outside::{Http, list, text};

/// A specification that would be accepted, with a change.
fn spec(change: &Value) -> Value {
    let mut spec = json!({"name": "new", "tenant": "acme", "kind": "vps", "region": "eu-west-1", "image": "debian-12",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// Everything that a refusal must not change.
fn stored(http: &Http) -> Value {
    let mut clusters = http.all("/api/clusters", "cursor");
    clusters.iter_mut().filter_map(Value::as_object_mut).for_each(|c| drop(c.remove("health")));
    let head = http.get("/api/events?limit=500")["next_cursor"].clone();
    let quota = http.get("/api/tenants/acme/quota");
    json!({"requests": http.requests(), "tenants": http.all("/api/tenants", "cursor"), "clusters": clusters, "head": head, "quota": quota})
}

/// A server with the tenant acme, a cluster, and nothing else.
fn empty() -> (Server, Http) {
    let server = Server::start();
    server.apply(&world(""), &[]).exits(0);
    let http = Http::of(&server);
    assert_eq!(http.requests(), Vec::<Value>::new());
    (server, http)
}

/// A problem document in full, and its page for people, which needs no token.
#[track_caller]
fn is_problem(problem: &Value, code: &str, status: u16, http: &Http) {
    assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{problem:#}");
    assert_eq!(problem["type"], format!("/errors/{code}"));
    assert!(!text(problem, "/title").is_empty() && !text(problem, "/detail").is_empty());
    assert!(problem["retriable"].is_boolean(), "{problem:#}");
    let page = http.send("GET", &format!("/errors/{code}"), &[("authorization", "")], None);
    assert_eq!(page.status, 200, "{page:#?}");
    assert!(page.header("content-type").starts_with("text/html") && page.body.contains(code), "{page:#?}");
}

/// A call that is refused; its problem document.
#[track_caller]
fn refused(http: &Http, method: &str, path: &str, body: Option<String>, code: &str, status: u16) -> Value {
    let answer = http.send(method, path, &[], body);
    let problem = answer.is(status);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    is_problem(&problem, code, status, http);
    assert_eq!(problem["instance"], path.split('?').next().unwrap(), "{problem:#}");
    problem
}

/// One fault: where, which rule, which value.
#[track_caller]
fn names(problem: &Value, pointer: &str, rule: &str, value: &Value) {
    let faults = list(problem, "/errors");
    let fault = faults.iter().find(|e| e["pointer"] == pointer).unwrap_or_else(|| panic!("nothing at {pointer}: {problem:#}"));
    assert_eq!((&fault["rule"], &fault["value"]), (&json!(rule), value), "{problem:#}");
    assert!(!text(fault, "/message").is_empty());
}

/// What is wrong with a request by itself: the change, where, which rule, which value.
fn flaws() -> Vec<(Value, &'static str, &'static str, Value)> {
    vec![
        (json!({"colour": "red"}), "/colour", "unknown_key", json!("red")),
        (json!({"size": {"cpu": "two", "memory_gb": 1, "storage_gb": 10}}), "/size/cpu", "type", json!("two")),
        (json!({"size": {"cpu": 0, "memory_gb": 1, "storage_gb": 10}}), "/size/cpu", "min", json!(0)),
        (json!({"size": {"cpu": 1, "memory_gb": 1, "storage_gb": -5}}), "/size/storage_gb", "min", json!(-5)),
        (json!({"size": {"memory_gb": 1, "storage_gb": 10}}), "/size/cpu", "required", Value::Null),
        (json!({"kind": "mainframe"}), "/kind", "enum", json!("mainframe")),
        (json!({"strategy": {"type": "lottery"}}), "/strategy/type", "enum", json!("lottery")),
        (json!({"name": "Not A Name"}), "/name", "format", json!("Not A Name")),
        (json!({"ports": [22, 70000]}), "/ports/1", "max", json!(70000)),
        (json!({"provider": "vmwarre"}), "/provider", "enum", json!("vmwarre")),
        (json!({"tenant": "nobody"}), "/tenant", "exists", json!("nobody")),
    ]
}

#[test]
fn a_wrong_request_is_refused_with_every_fault_and_stores_nothing() {
    let (_server, http) = empty();
    let before = stored(&http);
    for (change, pointer, rule, value) in flaws() {
        let body = spec(&change);
        let problem = refused(&http, "POST", "/api/requests", Some(body.to_string()), "invalid_request", 422);
        names(&problem, pointer, rule, &value);
        // In a batch it takes the good one along, and the pointer says which it is.
        let batch = json!({"requests": [spec(&json!({"name": "good"})), body]}).to_string();
        let problem = refused(&http, "POST", "/api/requests/batch", Some(batch), "invalid_request", 422);
        names(&problem, &format!("/requests/1{pointer}"), rule, &value);
        assert_eq!(problem["retriable"], false);
    }
    let many = spec(&json!({"colour": 1, "image": 7, "size": {"cpu": 0, "memory_gb": "x", "storage_gb": 10}}));
    let problem = refused(&http, "POST", "/api/requests", Some(many.to_string()), "invalid_request", 422);
    let mut found: Vec<&str> = list(&problem, "/errors").iter().map(|e| text(e, "/pointer")).collect();
    found.sort_unstable();
    assert_eq!(found, ["/colour", "/image", "/size/cpu", "/size/memory_gb"], "all at once");
    assert_eq!(stored(&http), before);
}

#[test]
fn a_wrong_manifest_is_refused_by_apply_and_stores_nothing() {
    let (server, http) = empty();
    let before = stored(&http);
    let apply = |requests: &Value| -> Done { server.apply(&json!({"requests": requests}).to_string(), &["-o", "json"]) };
    for (change, pointer, rule, value) in flaws() {
        let done = apply(&json!([spec(&json!({"name": "good"})), spec(&change)])).exits(3);
        let problem: Value = serde_json::from_str(&done.err).unwrap_or_else(|e| panic!("{e}: {done:?}"));
        assert_eq!(problem["code"], "invalid_request", "{problem:#}");
        names(&problem, &format!("/requests/1{pointer}"), rule, &value);
    }
    let nowhere = apply(&json!([spec(&json!({"region": "mars"}))])).exits(3);
    let problem: Value = serde_json::from_str(&nowhere.err).unwrap();
    assert_eq!(problem["code"], "no_cluster");
    names(&problem, "/requests/0/region", "exists", &json!("mars"));
    let cycle = json!([spec(&json!({"name": "a", "depends_on": ["b"]})), spec(&json!({"name": "b", "depends_on": ["a"]}))]);
    let problem: Value = serde_json::from_str(&apply(&cycle).exits(3).err).unwrap();
    assert_eq!((&problem["code"], list(&problem, "/cycle").len()), (&json!("dependency_cycle"), 3));
    let not_yet = [
        ("rules: [{name: big, when: {min_cpu: 16}}]", "/rules"),
        ("webhooks: [{tenant: acme, url: 'https://x.example'}]", "/webhooks"),
        ("clusters: [{name: c, provider: vmware, region: eu-west-1}]", "/clusters/0/provider"),
        ("clusters: [{name: c, provider: proxmox, region: eu-west-1}]", "/clusters/0/provider"),
        ("colours: []", "/colours"),
    ];
    for (manifest, pointer) in not_yet {
        let done = server.apply(manifest, &["-o", "json"]).exits(3);
        assert!(done.err.contains(pointer), "{manifest}: {done:?}");
    }
    server.apply("requests: [{name: 'x", &[]).exits(2);
    server.apply("- just\n- a list\n", &[]).exits(3);
    server.apply(&format!("# {}\n", "x".repeat(2 << 20)), &[]).exits(3);
    assert_eq!(stored(&http), before);
}

#[test]
fn bodies_that_cannot_be_read_are_refused() {
    let (_server, http) = empty();
    let before = stored(&http);
    for path in ["/api/requests", "/api/requests/batch", "/api/tenants", "/api/clusters"] {
        let problem = refused(&http, "POST", path, Some("{\"name\": ".to_owned()), "malformed_body", 400);
        assert_eq!(problem["retriable"], false);
        refused(&http, "POST", path, Some(String::new()), "malformed_body", 400);
        let large = json!({"name": "x".repeat(2 << 20)}).to_string();
        refused(&http, "POST", path, Some(large), "too_large", 413);
        for body in ["[]", "7", "null", "\"text\""] {
            let problem = refused(&http, "POST", path, Some(body.to_owned()), "invalid_request", 422);
            assert_eq!(list(&problem, "/errors")[0]["rule"], "type", "{problem:#}");
        }
    }
    let many: Vec<Value> = (0..1001).map(|n| spec(&json!({"name": format!("n-{n}")}))).collect();
    refused(&http, "POST", "/api/requests/batch", Some(json!({"requests": many}).to_string()), "too_large", 413);
    refused(&http, "POST", "/api/requests/batch", Some(json!({"requests": []}).to_string()), "invalid_request", 422);
    assert_eq!(stored(&http), before);
}

#[test]
fn strangers_and_unknown_ids_get_nothing() {
    let (server, http) = empty();
    let before = stored(&http);
    let address = std::fs::read_to_string(server.folder.0.join("data/listen")).unwrap();
    let url = format!("http://{address}");
    let nobody = Http::open(&url);
    let wrong = Http::open(&url).with_token("pvr_wrong");
    for stranger in [&nobody, &wrong] {
        for path in ["/api/requests", "/api/tenants", "/api/clusters", "/api/events", "/metrics", "/sim/sim-1/inventory"] {
            refused(stranger, "GET", path, None, "unauthenticated", 401);
        }
        refused(stranger, "POST", "/api/requests", Some(spec(&json!({})).to_string()), "unauthenticated", 401);
        refused(stranger, "DELETE", "/api/tenants/acme", None, "unauthenticated", 401);
    }
    let none = "req_00000000000000000000000000";
    for part in ["", "/timeline", "/attempts", "/resources", "/events"] {
        refused(&http, "GET", &format!("/api/requests/{none}{part}"), None, "not_found", 404);
    }
    for action in ["cancel", "suspend", "reactivate", "deprovision", "retry", "check-status", "manual-input"] {
        let body = if action == "manual-input" {
            json!({"endpoints": [{"name": "url", "url": "https://x.example"}]})
        } else {
            json!({})
        };
        refused(&http, "POST", &format!("/api/requests/{none}/{action}"), Some(body.to_string()), "not_found", 404);
    }
    for path in ["/api/requests/not-an-id", "/api/tenants/nobody", "/api/clusters/nobody", "/sim/nobody/inventory", "/nowhere"] {
        refused(&http, "GET", path, None, "not_found", 404);
    }
    refused(&http, "POST", "/api/rules", Some("{}".to_owned()), "not_found", 404);
    refused(&http, "POST", "/api/webhooks", Some("{}".to_owned()), "not_found", 404);
    server.run(&["get", none]).exits(4);
    server.run(&["cancel", none]).exits(4);
    server.run(&["tenant", "get", "nobody"]).exits(4);
    server.run(&["--token", "pvr_wrong", "list"]).exits(3);
    let elsewhere = Folder::new();
    let stranger: Done = command(&elsewhere.0).args(["--server", &url, "list"]).output().unwrap().into();
    stranger.exits(3);
    server.run(&["--server", "http://127.0.0.1:1", "list"]).exits(5);
    assert_eq!(stored(&http), before);
}

#[test]
fn what_cannot_be_is_refused_at_admission() {
    let (_server, http) = empty();
    let before = stored(&http);
    let batch = |items: &[Value]| Some(json!({"requests": items}).to_string());
    let problem = refused(&http, "POST", "/api/requests", Some(spec(&json!({"region": "mars"})).to_string()), "no_cluster", 422);
    names(&problem, "/region", "exists", &json!("mars"));
    assert_eq!(problem["rejected"][0]["cluster"], "sim-1");
    let pinned = spec(&json!({"cluster": "sim-9"})).to_string();
    refused(&http, "POST", "/api/requests", Some(pinned), "no_cluster", 422);
    let much = spec(&json!({"size": {"cpu": 9, "memory_gb": 40, "storage_gb": 10}}));
    let problem = refused(&http, "POST", "/api/requests", Some(much.to_string()), "quota_exceeded", 422);
    let cpu = json!({"name": "cpu", "limit": 8, "used": 0, "requested": 9});
    let memory = json!({"name": "memory_gb", "limit": 32, "used": 0, "requested": 40});
    assert_eq!(problem["dimensions"], json!([cpu, memory]));
    let named = |name: &str, on: &str| spec(&json!({"name": name, "depends_on": [on]}));
    let circle = batch(&[named("a", "c"), named("b", "a"), named("c", "b")]);
    let problem = refused(&http, "POST", "/api/requests/batch", circle, "dependency_cycle", 422);
    let cycle = list(&problem, "/cycle");
    assert_eq!((cycle.len(), cycle.first()), (4, cycle.last()), "{problem:#}");
    let alone = batch(&[named("a", "a")]);
    refused(&http, "POST", "/api/requests/batch", alone, "dependency_cycle", 422);
    let problem = refused(&http, "POST", "/api/requests/batch", batch(&[named("a", "b")]), "dependency_unknown", 422);
    names(&problem, "/requests/0/depends_on/0", "exists", &json!("b"));
    let twice = batch(&[spec(&json!({})), spec(&json!({}))]);
    let problem = refused(&http, "POST", "/api/requests/batch", twice, "invalid_request", 422);
    names(&problem, "/requests/1/name", "unique", &json!("new"));
    let cluster = |change: &Value| {
        let mut cluster = json!({"name": "c", "provider": "simulation", "simulates": "openstack", "region": "eu-west-1"});
        change.as_object().unwrap().iter().for_each(|(k, v)| cluster[k] = v.clone());
        Some(cluster.to_string())
    };
    for provider in ["vmware", "proxmox", "kubernetes", "openshift", "argocd"] {
        let body = json!({"name": "c", "provider": provider, "region": "eu-west-1"}).to_string();
        let problem = refused(&http, "POST", "/api/clusters", Some(body), "invalid_request", 422);
        names(&problem, "/provider", "enum", &json!(provider));
    }
    let settings = cluster(&json!({"settings": {"breaker": {"failures": 0}, "max_in_flight": 1, "retry": {"max_retries": 1}}}));
    let problem = refused(&http, "POST", "/api/clusters", settings, "invalid_request", 422);
    names(&problem, "/settings/breaker/failures", "min", &json!(0));
    names(&problem, "/settings/max_in_flight", "min", &json!(1));
    names(&problem, "/settings/retry/max_retries", "min", &json!(1));
    let settings = cluster(&json!({"settings": {"sede": 1, "faults": [{"operation": "*", "kind": "explode"}]}}));
    let problem = refused(&http, "POST", "/api/clusters", settings, "invalid_request", 422);
    names(&problem, "/settings/sede", "unknown_key", &json!(1));
    names(&problem, "/settings/faults/0/kind", "enum", &json!("explode"));
    refused(&http, "POST", "/api/clusters", cluster(&json!({"name": "sim-1"})), "name_taken", 409);
    refused(&http, "POST", "/api/tenants", Some(json!({"name": "acme"}).to_string()), "name_taken", 409);
    assert_eq!(stored(&http), before);
}

#[test]
fn a_state_that_does_not_allow_it_says_what_it_allows() {
    let server = Server::start();
    server.apply(&format!("{}requests:\n{}", world(""), vps("db", "")), &["--wait"]).exits(0);
    let http = Http::of(&server);
    let db = text(&http.requests()[0], "/id").to_owned();
    let before = stored(&http);
    let act = |id: &str, action: &str| format!("/api/requests/{id}/{action}");
    for action in ["cancel", "retry"] {
        let problem = refused(&http, "POST", &act(&db, action), Some("{}".to_owned()), "state_conflict", 409);
        assert_eq!(problem["state"], "completed", "{problem:#}");
        assert!(list(&problem, "/allowed").contains(&json!("deprovision")), "{problem:#}");
        let done = server.run(&[action, "db"]).exits(3);
        assert!(done.err.contains("state_conflict") && done.err.contains("deprovision"), "{done:?}");
    }
    let body = json!({"endpoints": [{"name": "url", "url": "https://x.example"}]}).to_string();
    refused(&http, "POST", &act(&db, "manual-input"), Some(body), "state_conflict", 409);
    let unknown = json!({"reason": "x", "colour": 1}).to_string();
    let problem = refused(&http, "POST", &act(&db, "suspend"), Some(unknown), "invalid_request", 422);
    names(&problem, "/colour", "unknown_key", &json!(1));
    let taken = refused(&http, "POST", "/api/requests", Some(spec(&json!({"name": "db"})).to_string()), "name_taken", 409);
    assert_eq!((&taken["holder"], &taken["name"]), (&json!(db), &json!("db")));
    names(&taken, "/name", "unique", &json!("db"));
    refused(&http, "DELETE", "/api/tenants/acme", None, "in_use", 409);
    refused(&http, "DELETE", "/api/clusters/sim-1", None, "in_use", 409);
    let stale =
        http.send("PATCH", "/api/tenants/acme", &[("if-match", "\"999\"")], Some(json!({"max_concurrent": 6}).to_string()));
    is_problem(&stale.is(412), "precondition_failed", 412, &http);
    assert_eq!(stored(&http), before);
    http.act(&db, "deprovision");
    http.reaches(&db, "rolled_back");
    let before = stored(&http);
    for action in ["cancel", "suspend", "reactivate"] {
        let problem = refused(&http, "POST", &act(&db, action), Some("{}".to_owned()), "state_conflict", 409);
        assert_eq!((&problem["state"], &problem["allowed"]), (&json!("rolled_back"), &json!(["retry"])), "{problem:#}");
    }
    let ended = spec(&json!({"depends_on": [db]})).to_string();
    refused(&http, "POST", "/api/requests", Some(ended), "dependency_ended", 422);
    assert_eq!(stored(&http), before);
}
