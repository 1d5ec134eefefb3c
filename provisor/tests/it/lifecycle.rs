//! A request's life through the command line.

use crate::house::{Server, vps, world};

#[test]
fn a_request_is_made_shown_stopped_started_and_released() {
    let server = Server::start();
    let text = format!("{}requests:\n{}", world(""), vps("db", ""));
    let lines = server.apply(&text, &["--wait"]).exits(0).out;
    assert!(lines.contains("provisioning.completed"), "{lines}");
    let request = server.run(&["get", "db", "-o", "json"]).exits(0).json();
    assert_eq!(request["state"], "completed");
    let id = request["id"].as_str().unwrap();
    let by_id = server.run(&["get", id]).exits(0).out;
    assert!(by_id.contains("completed") && by_id.contains("ssh://"), "{by_id}");
    assert!(server.run(&["get", "db", "-o", "yaml"]).exits(0).out.contains("state: completed"));
    let timeline = server.run(&["timeline", "db", "--operations"]).exits(0).out;
    assert!(timeline.contains("ready") && timeline.contains("create_server"), "{timeline}");
    let attempts = server.run(&["attempts", "db", "-o", "json"]).exits(0).json();
    assert_eq!(attempts["items"][0]["state"], "won");
    let resources = server.run(&["resources", "db"]).exits(0).out;
    assert!(resources.contains("server") && resources.contains("volume"), "{resources}");
    server.run(&["check-status", "db"]).exits(0);
    server.run(&["metrics", "db"]).exits(0);
    server.run(&["suspend", "db", "--reason", "request", "--wait"]).exits(0);
    assert_eq!(server.run(&["get", "db", "-o", "json"]).json()["state"], "suspended");
    server.run(&["reactivate", "db", "--wait"]).exits(0);
    server.run(&["deprovision", "db", "--wait", "-q"]).exits(0);
    let gone = server.run(&["get", "db", "-o", "json"]).exits(0).json();
    assert_eq!((gone["state"].as_str(), gone["outcome"].as_str()), (Some("rolled_back"), Some("deprovisioned")));
    let refused = server.run(&["suspend", "db"]).exits(3);
    assert!(refused.err.contains("state_conflict"), "{refused:?}");
    let quota = server.run(&["tenant", "quota", "acme", "-o", "json"]).exits(0).json();
    assert!(quota["dimensions"].as_array().unwrap().iter().all(|d| d["used"] == 0), "{quota}");
}

#[test]
fn watching_tells_one_event_a_line_and_how_it_ended() {
    let server = Server::start();
    let bad = ", faults: [{operation: create_server, kind: permanent, request_name: bad}, {operation: create_server, kind: hang, request_name: slow}]";
    let text =
        format!("{}requests:\n{}{}{}", world(bad), vps("good", ""), vps("bad", ", strategy: {type: single}"), vps("slow", ""));
    server.apply(&text, &[]).exits(0);
    let good = server.run(&["watch", "good", "-o", "json"]).exits(0);
    let kinds: Vec<String> = good
        .out
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.first().map(String::as_str), Some("provisioning.started"), "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("provisioning.completed"), "{kinds:?}");
    let failed = server.run(&["watch", "bad"]).exits(1);
    assert!(failed.out.contains("provisioning.failed") && failed.err.contains("bad: failed"), "{failed:?}");
    let late = server.run(&["watch", "slow", "good", "--timeout", "0.5"]).exits(6);
    assert!(late.err.contains("slow (allocating)"), "{late:?}");
    server.run(&["get", "nothing"]).exits(4);
    server.run(&["get", "req_00000000000000000000000000"]).exits(4);
}

#[test]
fn a_name_of_several_tenants_needs_a_tenant() {
    let server = Server::start();
    let text = format!("{}requests:\n{}{}", world(""), vps("db", ""), vps("db", "").replace("acme", "other"));
    let text = text.replace("tenants:\n", "tenants:\n- {name: other}\n");
    server.apply(&text, &["--wait"]).exits(0);
    let done = server.run(&["get", "db"]).exits(2);
    assert!(done.err.contains("acme") && done.err.contains("other"), "{done:?}");
    server.run(&["get", "db", "--tenant", "other"]).exits(0);
}

#[test]
fn clusters_are_shown_tested_switched_and_swept() {
    let server = Server::start();
    server.apply(&format!("{}requests:\n{}", world(""), vps("db", "")), &["--wait"]).exits(0);
    assert!(server.run(&["cluster", "list"]).exits(0).out.contains("sim-1"));
    server.run(&["cluster", "test", "sim-1"]).exits(0);
    let inventory = server.run(&["cluster", "inventory", "sim-1", "-o", "json"]).exits(0).json();
    assert!(!inventory["owned"].as_array().unwrap().is_empty());
    let swept = server.run(&["sweep", "sim-1", "--dry-run", "-o", "json"]).exits(0).json();
    assert_eq!(swept["orphaned"].as_array().map(Vec::len), Some(0));
    let off = server.run(&["cluster", "disable", "sim-1", "-o", "json"]).exits(0).json();
    assert_eq!(off["provisioning_enabled"], false);
    server.run(&["cluster", "enable", "sim-1"]).exits(0);
    server.run(&["cluster", "remove", "sim-1"]).exits(3);
    server.run(&["cluster", "get", "nothing"]).exits(4);
    server.folder.write("one.yaml", "{name: sim-2, provider: simulation, simulates: argocd, region: eu-west-1}");
    server.run(&["cluster", "add", "-f", "one.yaml"]).exits(0);
    server.run(&["cluster", "remove", "sim-2"]).exits(0);
    server.run(&["events", "--type", "provisioning.completed"]).exits(0);
    server.run(&["doctor"]).exits(0);
}

#[test]
fn a_managed_service_whose_details_are_always_the_same_does_not_pause() {
    let server = Server::start();
    let text = "tenants:\n- {name: acme}\nclusters:\n- name: desk\n  provider: manual\n  region: eu\n  settings:\n    \
                inputs: {licence: {endpoints: [{name: web, url: \"https://licence.example\"}]}}\n\
                requests:\n- {name: given, tenant: acme, kind: managed, product: licence}\n\
                - {name: asked, tenant: acme, kind: managed, product: other}\n";
    server.apply(text, &[]).exits(0);
    server.run(&["watch", "given"]).exits(0);
    let given = server.run(&["get", "given", "-o", "json"]).exits(0).json();
    assert_eq!(given["endpoints"][0]["url"], "https://licence.example", "{given}");
    let late = server.run(&["watch", "asked", "--timeout", "1"]).exits(6);
    assert!(late.err.contains("asked (configuring"), "{late:?}");
    let asked = server.run(&["get", "asked", "-o", "json"]).exits(0).json();
    assert_eq!(asked["waiting_for"]["reason"], "manual_input", "{asked}");
    let timeline = server.run(&["timeline", "given", "--operations", "-o", "json"]).exits(0).json();
    let mut names: Vec<&str> =
        timeline["timeline"].as_array().unwrap().iter().filter_map(|e| e["metadata"]["operation"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["await_input", "mark_active", "probe_url", "reserve"], "{timeline}");
    let bad = text.replace("https://licence.example", "licence").replace("name: desk", "name: desk2");
    let refused = server.apply(&bad, &[]).exits(3);
    assert!(refused.err.contains("settings/inputs/licence/endpoints/0/url"), "{refused:?}");
}

#[test]
fn a_queued_request_says_that_its_tenant_has_enough_in_work() {
    let server = Server::start();
    let slow = world(", faults: [{operation: create_server, kind: hang, request_name: slow}]")
        .replace("storage_gb: 400}", "storage_gb: 400}, max_concurrent: 1");
    server.apply(&format!("{slow}requests:\n{}", vps("slow", "")), &[]).exits(0);
    let at_work = || server.run(&["get", "slow", "-o", "json"]).exits(0).json()["state"] == "allocating";
    let begin = std::time::Instant::now();
    while !at_work() {
        assert!(begin.elapsed() < crate::house::LIMIT, "slow does not begin");
    }
    server.apply(&format!("requests:\n{}", vps("next", "")), &[]).exits(0);
    let next = server.run(&["get", "next", "-o", "json"]).exits(0).json();
    assert_eq!(next["waiting_for"]["reason"], "tenant_limit", "{next:#}");
    assert!(next["waiting_for"]["detail"].as_str().unwrap().contains("max_concurrent"));
}
