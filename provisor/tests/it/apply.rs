//! `apply`: created, changed, unchanged, refused; dry runs; faults of the whole file.

use serde_json::json;

use crate::house::{Done, Server, command, vps, world};

fn results(value: &serde_json::Value) -> Vec<(String, String)> {
    let items = value["items"].as_array().unwrap();
    items.iter().map(|i| (i["name"].as_str().unwrap().to_owned(), i["result"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_manifest_is_applied_once_and_then_unchanged() {
    let server = Server::start();
    let text = format!("{}requests:\n{}{}", world(""), vps("db", ""), vps("web", ", depends_on: [db]"));
    let first = server.apply(&text, &["--wait", "-o", "json"]).exits(0).json();
    let pair = |n: &str, r: &str| (n.to_owned(), r.to_owned());
    assert_eq!(
        results(&first),
        [pair("acme", "created"), pair("sim-1", "created"), pair("db", "created"), pair("web", "created")]
    );
    let second = server.apply(&text, &["--wait", "-o", "json"]).exits(0).json();
    assert_eq!(
        results(&second),
        [pair("acme", "unchanged"), pair("sim-1", "unchanged"), pair("db", "unchanged"), pair("web", "unchanged")]
    );
    assert_eq!(first["items"][3]["id"], second["items"][3]["id"]);
    // A tenant changes, a new request joins and stands on one that is there.
    let more = text.replace("cpu: 8,", "cpu: 9,") + &vps("late", ", depends_on: [db]");
    let third = server.apply(&more, &["--wait", "-o", "json"]).exits(0).json();
    assert_eq!(results(&third)[0], pair("acme", "changed"));
    assert_eq!(results(&third)[4], pair("late", "created"));
    let late = server.run(&["get", "late", "-o", "json"]).exits(0).json();
    assert_eq!(late["depends_on"], json!([first["items"][2]["id"]]));
}

#[test]
fn credentials_come_from_outside() {
    let server = Server::start();
    let text = "clusters:\n- name: os-1\n  provider: openstack\n  region: r\n  endpoint: {auth_url: \"http://127.0.0.1:1/v3\"}\n  credentials_env: OS_SECRET\n  settings: {network: n}\n";
    server.folder.write("manifest.yaml", text);
    let apply = |password: &str| -> Done {
        let secret = format!("{{username: u, password: {password}, project_name: p}}");
        let mut apply = command(&server.folder.0);
        apply.args(["--data", "data", "apply", "-f", "manifest.yaml", "-o", "json"]).env("OS_SECRET", secret);
        apply.output().unwrap().into()
    };
    for (password, result) in [("hunter2", "created"), ("hunter2", "unchanged"), ("hunter3", "changed"), ("hunter3", "unchanged")]
    {
        assert_eq!(results(&apply(password).exits(0).json())[0].1, result);
    }
    assert!(!server.log().contains("hunter"));
    let done = server.run(&["apply", "-f", "manifest.yaml"]).exits(3);
    assert!(done.err.contains("/clusters/0/credentials_env"), "{done:?}");
}

#[test]
fn a_thousand_requests_are_one_batch() {
    let server = Server::start();
    let many: Vec<String> = (0..1000).map(|i| format!("- {{name: m-{i}, tenant: acme, kind: managed, product: p}}\n")).collect();
    let done = server.apply(&format!("{}requests:\n{}", world(""), many.concat()), &["-o", "json"]);
    // No registered cluster serves managed requests: all are refused, and none is kept.
    assert!(done.exits(3).err.contains("no_cluster"));
    let many: Vec<String> = (0..1001).map(|i| vps(&format!("m-{i}"), "")).collect();
    let done = server.apply(&format!("requests:\n{}", many.concat()), &[]).exits(3);
    assert!(done.err.contains("at most 1000 entries"), "{done:?}");
    let text = world("").replace("quota: {cpu: 8, memory_gb: 32, storage_gb: 400}", "quota: {}");
    let done = server.apply(&format!("{text}requests:\n{}", many[..1000].concat()), &["-o", "json"]).exits(0).json();
    assert_eq!(done["items"].as_array().map(Vec::len), Some(1002));
    let listed = server.run(&["list", "--limit", "5000", "-o", "json"]).exits(0).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1000));
}

#[test]
fn h21_other_user_data_is_another_specification() {
    let server = Server::start();
    let text = format!("{}requests:\n{}", world(""), vps("db", ", user_data: \"#cloud-config\""));
    server.apply(&text, &[]).exits(0);
    assert_eq!(
        results(&server.apply(&text, &["-o", "json"]).exits(0).json()).last().map(|r| r.1.clone()),
        Some("unchanged".into())
    );
    let done = server.apply(&text.replace("#cloud-config", "#cloud-config v2"), &[]).exits(3);
    assert!(done.err.contains("/requests/0/user_data"), "{done:?}");
}

#[test]
fn a_request_does_not_change() {
    let server = Server::start();
    let text = format!("{}requests:\n{}", world(""), vps("db", ""));
    server.apply(&text, &["--wait"]).exits(0);
    let other = text.replace("storage_gb: 10", "storage_gb: 11");
    let done = server.apply(&other, &[]).exits(3);
    assert!(done.err.contains("/requests/0/size"), "{done:?}");
}

#[test]
fn refusals_name_the_places_of_the_file() {
    let server = Server::start();
    server.apply(&world(""), &[]).exits(0);
    let text = format!("requests:\n{}{}", vps("a", ""), vps("b", "").replace("cpu: 1,", "cpu: 0,").replace("acme", "nobody"));
    let done = server.apply(&text, &["-o", "json"]).exits(3);
    let problem: serde_json::Value = serde_json::from_str(&done.err).unwrap();
    assert_eq!(problem["errors"][0]["pointer"], "/requests/1/size/cpu");
    let much = format!("requests:\n{}", vps("a", "").replace("cpu: 1,", "cpu: 9,"));
    let done = server.apply(&much, &[]).exits(3);
    assert!(done.err.contains("quota_exceeded") && done.err.contains("limit=8"), "{done:?}");
    let unknown = format!("requests:\n{}{}", vps("a", ""), vps("b", "").replace("acme", "nobody"));
    let done = server.apply(&unknown, &[]).exits(3);
    assert!(done.err.contains("/requests/1/tenant"), "{done:?}");
    let cycle = format!("requests:\n{}{}", vps("a", ", depends_on: [b]"), vps("b", ", depends_on: [a]"));
    let done = server.apply(&cycle, &["-o", "json"]).exits(3);
    assert!(done.err.contains("dependency_cycle"), "{done:?}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let server = Server::start();
    let text = format!("{}requests:\n{}", world(""), vps("db", ""));
    let done = server.apply(&text, &["--dry-run", "-o", "json"]).exits(0);
    assert_eq!(results(&done.json())[2].1, "created");
    assert!(done.err.contains("tenant acme"), "{done:?}");
    assert_eq!(server.run(&["tenant", "list", "-o", "json"]).exits(0).json()["items"], json!([]));
    server.apply(&world(""), &[]).exits(0);
    let done = server.apply(&text, &["--dry-run", "-o", "json"]).exits(0).json();
    assert_eq!(done["plans"][0]["plan"]["cluster"], "sim-1");
    assert_eq!(server.run(&["list", "-o", "json"]).exits(0).json()["items"], json!([]));
    server.apply(&text.replace("cpu: 1,", "cpu: 9,"), &["--dry-run"]).exits(3);
}

#[test]
fn files_that_cannot_be_used_end_with_their_codes() {
    let server = Server::start();
    server.run(&["apply", "-f", "missing.yaml"]).exits(2);
    server.apply("tenants: [", &[]).exits(2);
    server.apply("", &[]).exits(2);
    server.apply("rules: []", &[]).exits(3);
    let large = server.apply(&format!("# {}", "x".repeat(1 << 20)), &[]).exits(3);
    assert!(large.err.contains("1 MiB"), "{large:?}");
}
