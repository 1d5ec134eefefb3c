//! When waiting is over, and how a line of progress looks.
#![allow(clippy::unwrap_used)]

use provisor_core::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::output::{Format, Out};

fn request(changes: &Value) -> Request {
    let mut base = json!({
        "id": "req_1", "name": "db", "tenant": "acme", "kind": "vps", "state": "queued", "outcome": null, "waiting_for": null, "spec": {},
        "region": "eu", "order_id": null, "depends_on": [], "strategy": "failover", "steps": [], "attempts": [], "winner": null,
        "endpoints": [], "wanted": "running", "action": null, "health": null, "health_detail": null,
        "created_at": "2026-11-21T10:00:00Z", "provisioning_started_at": null, "ready_at": null, "termination_started_at": null,
        "terminated_at": null, "cleanup_owed": [], "retry_of": null, "retried_as": null, "error": null, "etag": "1"});
    for (key, value) in changes.as_object().unwrap() {
        base.as_object_mut().unwrap().insert(key.clone(), value.clone());
    }
    serde_json::from_value(base).unwrap()
}

fn action(name: &str, status: &str) -> Value {
    json!({"name": name, "status": status, "reason": null, "started_at": "2026-11-21T10:00:00Z", "finished_at": null, "error": null})
}

#[test]
fn it_is_over_when_what_is_wanted_is_reached_or_cannot_be() {
    let cases = [
        (json!({"state": "allocating"}), Goal::Wanted, "going"),
        (json!({"state": "completed"}), Goal::Wanted, "good"),
        (json!({"state": "failed"}), Goal::Wanted, "going"),
        (json!({"state": "rolled_back", "outcome": "failed"}), Goal::Wanted, "bad"),
        (json!({"state": "rolled_back", "outcome": "failed", "wanted": "gone"}), Goal::Wanted, "bad"),
        (json!({"state": "rolled_back", "outcome": "deprovisioned", "wanted": "gone"}), Goal::Wanted, "good"),
        (json!({"state": "completed", "wanted": "gone"}), Goal::Wanted, "going"),
        (json!({"state": "completed", "wanted": "suspended", "action": action("suspend", "running")}), Goal::Wanted, "going"),
        (json!({"state": "completed", "wanted": "suspended", "action": action("suspend", "failed")}), Goal::Suspended, "bad"),
        (json!({"state": "suspended", "wanted": "suspended", "action": action("suspend", "succeeded")}), Goal::Suspended, "good"),
        (json!({"state": "suspended", "action": action("reactivate", "running")}), Goal::Wanted, "going"),
        (json!({"state": "suspended", "action": action("reactivate", "failed")}), Goal::Reactivated, "bad"),
        (json!({"state": "completed", "action": action("reactivate", "succeeded")}), Goal::Reactivated, "good"),
        (json!({"state": "suspended", "action": action("suspend", "succeeded")}), Goal::Reactivated, "going"),
        (
            json!({"state": "suspended", "wanted": "suspended", "action": action("suspend", "succeeded")}),
            Goal::Reactivated,
            "bad",
        ),
        (json!({"state": "completed", "wanted": "suspended"}), Goal::Suspended, "going"),
        (json!({"state": "completed", "wanted": "running"}), Goal::Suspended, "bad"),
        (json!({"state": "suspended", "wanted": "gone"}), Goal::Reactivated, "going"),
        (json!({"state": "rolling_back"}), Goal::Gone, "going"),
        (json!({"state": "rolled_back", "outcome": "cancelled"}), Goal::Gone, "good"),
        (json!({"state": "rolled_back", "outcome": "cancelled"}), Goal::Completed, "bad"),
    ];
    for (changes, goal, expected) in cases {
        let found = match judge(goal, &request(&changes)) {
            Verdict::Going => "going",
            Verdict::Good => "good",
            Verdict::Bad(_) => "bad",
        };
        assert_eq!(found, expected, "{changes} {goal:?}");
    }
}

#[test]
fn a_line_shows_steps_attempt_wait_and_time() {
    let step = |name: &str, status: &str| json!({"name": name, "status": status, "started_at": null, "finished_at": null, "duration_seconds": null, "retries": 0});
    let attempt = json!({"id": "att_2", "number": 2, "cluster": "sim-eu-2", "role": "failover", "state": "running", "steps": [], "error": null,
        "replaced_by": null, "started_at": "2026-11-21T10:00:01Z", "finished_at": null, "released_at": null});
    let r = request(&json!({"state": "configuring", "attempts": [attempt],
        "steps": [step("allocate", "succeeded"), step("configure", "waiting"), step("activate", "pending"), step("verify", "pending")],
        "waiting_for": {"reason": "retry", "since": "2026-11-21T10:00:03Z", "detail": "in 5 s"}}));
    let now = Timestamp::parse("2026-11-21T10:00:12Z").unwrap();
    let text = show::line(Out { format: Format::Table, quiet: false, colour: false }, &r, 4, now);
    assert_eq!(
        text,
        "db    configuring   ✔allocate ⏸configure ·activate ·verify  attempt 2 on sim-eu-2  waiting: retry (in 5 s)  12.0 s"
    );
}
