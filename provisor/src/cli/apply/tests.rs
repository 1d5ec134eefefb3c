//! Manifests: faults with their pointers, bounds, and what counts as the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;

use provisor_wire::{Cluster, Tenant};

use super::*;
use crate::fail::Exit;

fn faults(text: &str) -> Vec<(String, String, String)> {
    match Manifest::read("m.yaml", text, Path::new("")) {
        Err(Fail::Flawed(_, flaws)) => flaws.into_iter().map(|f| (f.pointer, f.rule, f.message)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_is_valid() {
    let manifest = Manifest::read("x", crate::quickstart::EXAMPLE, Path::new("")).unwrap();
    assert_eq!((manifest.tenants.len(), manifest.clusters.len(), manifest.requests.len()), (1, 3, 4));
    assert!(manifest.clusters.iter().all(|c| c.spec.settings.contains_key("latency")));
}

#[test]
fn all_faults_of_a_file_come_at_once_with_its_pointers() {
    let found = faults(
        "tenants:\n- {name: acme, qouta: {}}\nrequests:\n- {name: a, tenant: acme, kind: managed, product: p}\n- {name: b, tenant: acme, kind: vps, region: r, image: i, size: {cpu: 0, memory_gb: 1, storage_gb: 1}}\n",
    );
    let places: Vec<_> = found.iter().map(|(p, r, _)| (p.as_str(), r.as_str())).collect();
    assert_eq!(places, [("/tenants/0/qouta", "unknown_key"), ("/requests/1/size/cpu", "min")]);
    assert!(found[0].2.contains("did you mean `quota`"));
}

#[test]
fn what_is_not_offered_or_not_known_is_refused() {
    let found = faults("rules: []\nwebhooks: []\nrequest: []\n");
    let text: Vec<_> = found.iter().map(|(p, _, m)| format!("{p} {m}")).collect();
    assert!(text.contains(&"/rules rules are not offered by this version".to_owned()), "{text:?}");
    assert!(text.contains(&"/webhooks webhooks are not offered by this version".to_owned()), "{text:?}");
    assert!(text.iter().any(|t| t.contains("did you mean `requests`")), "{text:?}");
}

#[test]
fn a_name_may_stand_once_in_a_tenant() {
    let one = |tenant: &str| format!("- {{name: a, tenant: {tenant}, kind: managed, product: p}}\n");
    let found = faults(&format!("requests:\n{}{}{}", one("x"), one("y"), one("x")));
    assert_eq!(found.iter().map(|(p, r, _)| (p.as_str(), r.as_str())).collect::<Vec<_>>(), [("/requests/2/name", "unique")]);
}

#[test]
fn broken_yaml_names_line_and_column() {
    for text in ["tenants:\n  - name: [a\n", "{\"tenants\": [}", "a: 1\na: 2\n", "--- {}\n--- {}\n"] {
        let fail = Manifest::read("m.yaml", text, Path::new("")).unwrap_err();
        assert_eq!(fail.exit(), Exit::Usage, "{fail:?}");
        assert!(fail.text().contains("m.yaml"), "{}", fail.text());
    }
    let fail = Manifest::read("m.yaml", "tenants:\n  - name: [a\n", Path::new("")).unwrap_err();
    assert!(fail.text().starts_with("m.yaml:"), "{}", fail.text());
}

#[test]
fn words_that_yaml_once_took_for_truth_stay_words() {
    let value = manifest::parse("x", "region: no\nbranch: on\nmode: yes\n50: 1\n").unwrap();
    assert_eq!(value, json!({"region": "no", "branch": "on", "mode": "yes", "50": 1}));
}

#[test]
fn a_small_file_does_not_become_a_large_value() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let before = format!("*a{}", level - 1);
        writeln!(text, "a{level}: &a{level} [{}]", vec![before; 10].join(", ")).unwrap();
    }
    assert_eq!(manifest::parse("bomb", &text).unwrap_err().exit(), Exit::Usage);
}

#[test]
fn a_large_file_is_refused_and_the_limit_named() {
    let path = std::env::temp_dir().join(format!("provisor-large-{}.yaml", std::process::id()));
    std::fs::write(&path, vec![b'#'; manifest::MAX_BYTES + 1]).unwrap();
    let fail = manifest::read_text(&path).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fail.exit(), Exit::Refused);
    assert!(fail.text().contains("1 MiB"), "{}", fail.text());
}

#[test]
fn credentials_come_from_a_file_beside_the_manifest_and_faults_show_no_secret() {
    let folder = std::env::temp_dir().join(format!("provisor-credentials-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("good.yaml"), "username: u\npassword: hunter2\n").unwrap();
    std::fs::write(folder.join("bad.yaml"), "password: [hunter2\n").unwrap();
    let cluster = |file: &str| format!("clusters:\n- {{name: c, provider: openstack, region: r, credentials_file: {file}}}\n");
    let manifest = Manifest::read("m", &cluster("good.yaml"), &folder).unwrap();
    assert_eq!(manifest.clusters[0].raw["credentials"]["password"], "hunter2");
    assert!(manifest.clusters[0].raw.get("credentials_file").is_none());
    for file in ["bad.yaml", "missing.yaml"] {
        let fail = Manifest::read("m", &cluster(file), &folder).unwrap_err();
        assert_eq!(fail.exit(), Exit::Refused);
        assert!(fail.text().contains("/clusters/0/credentials_file") && !fail.text().contains("hunter2"), "{}", fail.text());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_merge_patch_names_only_what_changes() {
    let cases = [
        (json!({"a": 1}), json!({"a": 1.0}), None),
        (json!({"a": 1, "b": {"c": 1, "d": 2}}), json!({"a": 1, "b": {"c": 1, "d": 3}}), Some(json!({"b": {"d": 3}}))),
        (json!({"b": {"c": 1, "d": 2}}), json!({"b": {"c": 1}}), Some(json!({"b": {"d": null}}))),
        (json!({"a": [1]}), json!({"a": [1, 2]}), Some(json!({"a": [1, 2]}))),
        (json!({"a": null}), json!({}), None),
    ];
    for (present, wanted, patch) in cases {
        assert_eq!(compare::merge_patch(&present, &wanted), patch, "{present} {wanted}");
    }
}

#[test]
fn what_the_file_does_not_mention_stays() {
    let manifest = Manifest::read("m", "tenants:\n- {name: acme, quota: {cpu: 4}}\n", Path::new("")).unwrap();
    let mut tenant: Tenant = serde_json::from_value(json!({"id": "ten_1", "name": "acme", "quota": {"cpu": 4, "memory_gb": null,
        "storage_gb": null, "requests": {}}, "max_concurrent": 9, "subjects": ["x"], "created_at": "", "etag": "1"}))
    .unwrap();
    assert_eq!(compare::tenant(&tenant, &manifest.tenants[0]), None);
    tenant.quota.memory_gb = Some(8);
    assert_eq!(compare::tenant(&tenant, &manifest.tenants[0]), Some(json!({"quota": {"memory_gb": null}})));
}

fn sim(capacity: &Value, simulates: &Value) -> Cluster {
    serde_json::from_value(json!({"id": "clu_1", "name": "c", "provider": "simulation", "simulates": simulates, "region": "r", "default": false,
        "provisioning_enabled": false, "capacity": capacity, "health": {"state": "online", "checked_at": null, "latency_ms": null, "error": null},
        "breaker": {"state": "closed"}, "endpoint": {}, "settings": {"seed": 1}, "created_at": "", "etag": "1"}))
    .unwrap()
}

#[test]
fn a_cluster_is_compared_in_its_normal_form() {
    let room = |n: Value| json!({"limit": n, "reserved": 1, "used": 2});
    let capacity = json!({"cpu": room(json!(4)), "memory_gb": room(Value::Null), "storage_gb": room(Value::Null), "slots": room(Value::Null)});
    let text = "clusters:\n- {name: c, provider: simulation, simulates: openstack, region: r, capacity: {cpu: 4}, settings: {seed: 1}}\n";
    let manifest = Manifest::read("m", text, Path::new("")).unwrap();
    for simulates in [json!("openstack"), json!(["openstack"])] {
        assert_eq!(compare::cluster(&sim(&capacity, &simulates), &manifest.clusters[0]), None);
    }
    let text = text.replace("cpu: 4", "cpu: 8").replace("seed: 1", "seed: 2");
    let manifest = Manifest::read("m", &text, Path::new("")).unwrap();
    let patch = compare::cluster(&sim(&capacity, &json!("openstack")), &manifest.clusters[0]);
    assert_eq!(patch, Some(json!({"capacity": {"cpu": 8}, "settings": {"seed": 2}})));
}
