//! Every shape survives its JSON, and the examples of the contract are read.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::client::problem_of;
use crate::*;

/// Reads the example as `T` and writes it again: nothing may be lost or added.
fn round<T: Serialize + DeserializeOwned>(example: &Value) {
    let read: T = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(&serde_json::to_value(&read).unwrap(), example);
}

fn step(name: &str, status: &str) -> Value {
    json!({"name": name, "status": status, "started_at": null, "finished_at": null, "duration_seconds": null, "retries": 0})
}

fn attempt() -> Value {
    json!({"id": "att_1", "number": 1, "cluster": "sim-eu-1", "role": "first", "state": "running",
        "steps": [step("allocate", "running")], "error": null, "replaced_by": null,
        "started_at": "2026-01-01T00:00:00Z", "finished_at": null, "released_at": null})
}

fn failure() -> Value {
    json!({"code": "operation_timed_out", "class": "transient", "message": "m", "step": "allocate",
        "operation": "create_server", "attempt": "att_1", "at": "2026-01-01T00:00:00Z",
        "diagnosis": ["fault 500"]})
}

#[test]
fn the_request_object_survives() {
    let example = json!({"id": "req_1", "name": "db", "tenant": "acme", "kind": "vps", "state": "verifying", "outcome": null,
        "waiting_for": {"reason": "retry", "since": "2026-01-01T00:00:00Z", "detail": null},
        "spec": {"name": "db"}, "region": "eu-west-1", "order_id": "ord-1001", "depends_on": ["req_0"], "strategy": "failover",
        "steps": [step("allocate", "succeeded"), step("configure", "running")], "attempts": [attempt()], "winner": null,
        "endpoints": [{"name": "ssh", "url": "ssh://127.0.0.1:40122"}], "wanted": "running",
        "action": {"name": "suspend", "status": "failed", "reason": null, "started_at": "2026-01-01T00:00:00Z",
            "finished_at": null, "error": failure()},
        "health": null, "health_detail": null, "created_at": "2026-01-01T00:00:00Z", "provisioning_started_at": null,
        "ready_at": null, "termination_started_at": null, "terminated_at": null,
        "cleanup_owed": [{"resource": "res_1", "kind": "server", "provider_id": null, "cluster": "sim-eu-1",
            "since": "2026-01-01T00:00:00Z", "age_seconds": 9.0, "last_error": failure()}],
        "retry_of": null, "retried_as": null, "error": failure(), "etag": "3"});
    round::<Request>(&example);
}

#[test]
fn other_shapes_survive() {
    round::<Timeline>(&json!({"environment_id": "req_1", "environment_name": "db",
        "timeline": [{"event": "ready", "timestamp": "2026-01-01T00:00:00Z", "metadata": {"provisioning_duration_seconds": 4.2}}],
        "summary": {"provisioning_duration_seconds": 4.2, "wait_seconds": 0.5, "total_lifetime_hours": 0.1}}));
    round::<Items<Attempt>>(&json!({"items": [attempt()]}));
    round::<Quota>(
        &json!({"dimensions": [{"name": "cpu", "limit": 200, "used": 4}, {"name": "requests.vps", "limit": null, "used": 1}]}),
    );
    round::<TestReport>(
        &json!({"ok": true, "latency_ms": 12, "checks": [{"name": "url", "ok": true, "latency_ms": 12, "error": null}]}),
    );
    round::<Inventory>(&json!({"cluster": "c", "at": "2026-01-01T00:00:00Z",
        "owned": [{"resource": "res_1", "provider_id": "x", "kind": "server"}], "missing": [],
        "orphaned": [{"provider_id": "y", "kind": "server", "tag": "pvr-a-b", "age_seconds": null}], "released": ["y"],
        "alarm": null, "balance": {"even": false, "unexplained": 1, "missing": 0,
            "capacity": [{"dimension": "used.cpu", "counted": 3, "held": 2}]}}));
    let plan = json!({"valid": true, "errors": [], "quota": [{"name": "cpu", "limit": 200, "used": 4, "requested": 2, "ok": true}],
        "rule": null, "order": ["db", "web"], "cluster": "sim-eu-1", "rejected": [{"cluster": "b", "reason": "no room"}],
        "steps": [{"name": "allocate", "operations": ["create_volume"]}], "expected_seconds": {"p50": null, "p90": null}});
    round::<Plan>(&plan);
}

#[test]
fn an_event_is_a_cloud_event() {
    let example = json!({"specversion": "1.0", "id": "evt_1", "source": "/provisor", "type": "provisioning.completed",
        "subject": "req_1", "time": "2026-01-01T00:00:00Z", "datacontenttype": "application/json", "tenant": "acme",
        "sequence": "000017", "installation": "k3f9x2m1", "epoch": 1,
        "data": {"request": {"id": "req_1", "name": "db", "kind": "vps", "state": "completed", "order_id": null},
            "from_state": "verifying", "to_state": "completed", "outcome": "completed", "actor": {"kind": "worker", "id": "w"},
            "step": null, "attempt": null, "replaced_by": null, "resource": {"kind": "server", "id": "res_1", "provider_id": null}, "error": null,
            "refund": false, "endpoints": []}});
    round::<CloudEvent>(&example);
}

#[test]
fn a_problem_keeps_what_belongs_to_its_code() {
    let example = json!({"type": "/errors/state_conflict", "title": "t", "status": 409, "detail": "d", "instance": "/api/requests/r/cancel",
        "code": "state_conflict", "retriable": false, "state": "completed", "allowed": ["suspend"]});
    round::<Problem>(&example);
    let error = problem_of(reqwest::StatusCode::CONFLICT, &example.to_string());
    assert_eq!(error.code(), Some("state_conflict"));
    let ClientError::Problem(problem) = error else { unreachable!() };
    assert_eq!(problem.more["allowed"], json!(["suspend"]));
}

#[test]
fn what_is_no_problem_is_another_error() {
    let error = problem_of(reqwest::StatusCode::BAD_GATEWAY, "<html>");
    assert!(matches!(error, ClientError::Other(text) if text.contains("502")));
}

#[test]
fn an_address_needs_a_scheme() {
    assert!(Client::new("127.0.0.1:8620", None).is_err());
    assert_eq!(Client::new("http://127.0.0.1:8620/", None).unwrap().base(), "http://127.0.0.1:8620");
}
