//! A request whose first cluster fails goes on by itself on the second, and everything tells it.

use serde_json::{Value, json};

use crate::house::{Server, vps};
use crate::outside::{Cloud, Http, KINDS, assert_balanced, cluster, list, number, tenant, text, time, wait};
use crate::timeline::assert_adds_up;

/// Two clusters, of which the first always fails at `create_server`.
fn manifest(kind: &str) -> String {
    let fault = format!(", time_scale: 0, faults: [{{operation: create_server, kind: {kind}, probability: 1}}]");
    let first = cluster("sim-1", ", default: true", &fault);
    let second = cluster("sim-2", "", ", time_scale: 0");
    format!("{}clusters:\n{first}{second}requests:\n{}", tenant(8, 5), vps("db", ""))
}

fn fails_over(kind: &str, class: &str, tries: usize) {
    let server = Server::start();
    server.apply(&manifest(kind), &["--wait", "--timeout", "50"]).exits(0);
    let http = Http::of(&server);
    let id = text(&http.requests()[0], "/id").to_owned();
    // The first attempt is released beside the second; it may end after it.
    wait("the first attempt is released", || {
        http.request(&id).pointer("/attempts/0")?;
        let attempts = http.get(&format!("/api/requests/{id}/attempts"));
        attempts.pointer("/items/0/released_at")?.as_str().map(|_| ())
    });
    let request = http.request(&id);
    let (first, second) = request_tells(&request, class);
    attempts_tell(&http, &id, &request);
    resources_tell(&http, &id, &first, &second);
    timeline_tells(&http, &id, &first, &second, tries);
    events_tell(&http, &id, &first, &second, class);
    let clouds = [Cloud { http: &http, name: "sim-1" }, Cloud { http: &http, name: "sim-2" }];
    assert!(clouds[0].live().is_empty());
    assert_eq!(clouds[1].live().len(), KINDS.len());
    let calls = clouds[0].inventory()["calls"]["create_server"].clone();
    assert_eq!(calls, json!({ kind: tries }));
    assert_balanced(&http, &clouds);
    assert_adds_up(&http, &id);
}

#[test]
fn a_permanent_fault_is_not_tried_again_there_and_the_next_cluster_takes_over() {
    fails_over("permanent", "permanent", 1);
}

#[test]
fn a_transient_fault_is_retried_there_before_the_next_cluster_takes_over() {
    fails_over("transient", "transient", 3);
}

/// The request object; answers the ids of both attempts.
fn request_tells(request: &Value, class: &str) -> (String, String) {
    assert_eq!(request["state"], "completed", "{request:#}");
    assert_eq!((&request["outcome"], &request["error"]), (&json!("completed"), &Value::Null));
    let attempts = list(request, "/attempts");
    let told = |a: &Value| ["number", "cluster", "state"].map(|k| a[k].clone());
    let told: Vec<[Value; 3]> = attempts.iter().map(told).collect();
    assert_eq!(told, [[json!(1), json!("sim-1"), json!("failed")], [json!(2), json!("sim-2"), json!("won")]]);
    assert_eq!(request["winner"], attempts[1]["id"]);
    assert_eq!(request["steps"], attempts[1]["steps"], "at the end those of the winner");
    assert!(list(request, "/steps").iter().all(|s| s["status"] == "succeeded"));
    let error = &attempts[0]["error"];
    let cause = ["class", "step", "operation", "attempt"].map(|k| error[k].clone());
    assert_eq!(cause, [json!(class), json!("allocate"), json!("create_server"), attempts[0]["id"].clone()], "{error:#}");
    assert_eq!(attempts[1]["error"], Value::Null);
    assert!(text(request, "/endpoints/0/url").starts_with("ssh://127."), "{request:#}");
    (text(&attempts[0], "/id").to_owned(), text(&attempts[1], "/id").to_owned())
}

fn attempts_tell(http: &Http, id: &str, request: &Value) {
    let attempts = http.get(&format!("/api/requests/{id}/attempts"));
    let attempts = list(&attempts, "/items");
    assert_eq!(attempts.len(), 2);
    assert_eq!((&attempts[0]["role"], &attempts[1]["role"]), (&json!("first"), &json!("failover")));
    assert_eq!(attempts[0]["replaced_by"], attempts[1]["id"]);
    assert_eq!((&attempts[1]["replaced_by"], &attempts[1]["released_at"]), (&Value::Null, &Value::Null));
    assert!(time(&attempts[0], "/finished_at") <= time(&attempts[1], "/started_at"));
    assert!(time(&attempts[0], "/released_at") >= time(&attempts[0], "/finished_at"));
    for (shown, whole) in list(request, "/attempts").iter().zip(attempts) {
        for key in ["id", "number", "cluster", "state", "steps", "error"] {
            assert_eq!(shown[key], whole[key], "{key}");
        }
    }
}

fn resources_tell(http: &Http, id: &str, first: &str, second: &str) {
    let rows = http.resources(id);
    let (of_first, of_second): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|r| r["attempt"] == first);
    assert!(of_first.len() >= 3, "{rows:#?}");
    for row in of_first {
        assert_eq!((&row["cluster"], &row["state"]), (&json!("sim-1"), &json!("released")), "{row:#}");
        assert!(row["released_at"].is_string(), "{row:#}");
    }
    let mut kinds: Vec<&str> = of_second.iter().map(|r| text(r, "/kind")).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, KINDS);
    for row in of_second {
        assert_eq!((&row["attempt"], &row["cluster"], &row["state"]), (&json!(second), &json!("sim-2"), &json!("created")));
        assert!(row["provider_id"].is_string() && row["released_at"].is_null(), "{row:#}");
    }
}

fn timeline_tells(http: &Http, id: &str, first: &str, second: &str, tries: usize) {
    let timeline = http.timeline(id);
    let events = list(&timeline, "/timeline");
    let names: Vec<&str> = events.iter().map(|e| text(e, "/event")).collect();
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    assert_eq!(["attempt_started", "attempt_failed", "ready", "failed", "provisioning_started"].map(count), [2, 1, 1, 0, 1]);
    let failed = events.iter().find(|e| e["event"] == "attempt_failed").unwrap();
    let metadata = &failed["metadata"];
    assert_eq!((&metadata["attempt"], &metadata["replaced_by"]), (&json!(first), &json!(second)), "{failed:#}");
    assert_eq!((&metadata["cluster"], &metadata["error"]["operation"]), (&json!("sim-1"), &json!("create_server")));
    let create = |e: &&Value| e["metadata"]["operation"] == "create_server" && e["metadata"]["attempt"] == first;
    let create = events.iter().find(create).unwrap();
    let made = list(create, "/metadata/tries");
    assert_eq!(made.len(), tries, "{create:#}");
    assert!(made.iter().all(|t| t["error"]["class"].is_string()), "{create:#}");
    assert_eq!(create["metadata"]["status"], "failed");
    let ready = events.iter().find(|e| e["event"] == "ready").unwrap();
    assert_eq!(ready["metadata"]["attempt"], second);
}

fn events_tell(http: &Http, id: &str, first: &str, second: &str, class: &str) {
    let events = http.events_of(id);
    let of = |kind: &str| events.iter().filter(|e| e["type"] == kind).collect::<Vec<_>>();
    assert_eq!(of("provisioning.failed").len() + of("provisioning.rollback-started").len(), 0);
    let started: Vec<&Value> = of("attempt.started").iter().map(|e| &e["data"]["attempt"]).collect();
    assert_eq!(started, [first, second]);
    let failed = of("attempt.failed");
    assert_eq!(failed.len(), 1);
    let data = &failed[0]["data"];
    assert_eq!((&data["attempt"], &data["replaced_by"]), (&json!(first), &json!(second)), "{data:#}");
    assert_eq!((&data["error"]["class"], &data["step"]), (&json!(class), &json!("allocate")), "{data:#}");
    assert_eq!(of("provisioning.step-completed").len(), 4, "only of the winner: the first never ended a step");
    // Exactly what the first made is released again, and nothing of the second.
    let ids = |kind: &str, attempt: &str| {
        let of_attempt = |e: &&&Value| e["data"]["attempt"] == attempt;
        let mut ids: Vec<String> =
            of(kind).iter().filter(of_attempt).map(|e| text(e, "/data/resource/provider_id").to_owned()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("resource.allocated", first), ids("resource.released", first));
    assert_eq!(ids("resource.released", second), Vec::<String>::new());
    let sequence: Vec<i64> = events.iter().map(|e| text(e, "/sequence").parse().unwrap()).collect();
    assert_eq!(sequence, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let last: Vec<&str> = events.iter().rev().take(2).map(|e| text(e, "/type")).collect();
    let endless = events.iter().filter(|e| list(e, "/data/endpoints").is_empty()).count();
    assert_eq!(endless, events.len() - 2, "the first events with endpoints are the last two");
    if last[0] != "resource.released" {
        assert_eq!(last, ["provisioning.completed", "service.activated"]);
    }
    assert_eq!(number(&http.get("/api/tenants/acme/quota"), "/dimensions/0/used"), 1);
}
